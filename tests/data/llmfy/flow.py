"""One turn of a small agent on the real FlowEngine of llmfy 0.11.0, without a model.

    python flow.py redis://127.0.0.1:6379 SESSION TEXT

It goes on from the latest checkpoint of the session, and prints the state that it ends with.
"""

import asyncio
import json
import sys
from operator import add
from typing import Annotated, TypedDict

from llmfy import END, START, FlowEngine, Message, Role
from llmfy.flow_engine.checkpointer.redis_checkpointer import RedisCheckpointer


class State(TypedDict):
    messages: Annotated[list[Message], add]
    turn: int


async def listen(state):
    return {"turn": state.get("turn", 0) + 1}


async def reply(state):
    heard = state["messages"][-1].content
    return {"messages": [Message(role=Role.ASSISTANT, content=f"{heard}, in turn {state['turn']}")]}


async def main(url, session, text):
    checkpointer = RedisCheckpointer(redis_url=url)
    engine = FlowEngine(State, checkpointer=checkpointer, types=[Message])
    engine.add_node("listen", listen)
    engine.add_node("reply", reply)
    engine.add_edge(START, "listen")
    engine.add_edge("listen", "reply")
    engine.add_edge("reply", END)
    engine.build()
    state = await engine.invoke({"messages": [Message(role=Role.USER, content=text)]}, session_id=session)
    await checkpointer.close()
    print(json.dumps({"turn": state["turn"], "messages": [message.content for message in state["messages"]]}))


asyncio.run(main(*sys.argv[1:]))
