"""The real RedisCheckpointer of whichever llmfy is installed, at the other end of a pipe.

    python peer.py '{"redis_url": "redis://127.0.0.1:6379", "ttl": 60}'

The argument holds what RedisCheckpointer takes. Each line of standard input is a call, for instance
{"call": "load", "arguments": ["session-1", null]}, and each line of standard output what came of it:
{"answer": ...} or {"error": ...}.

A checkpoint is an object with the keys that this llmfy stores, and its state is JSON as text. So a state goes
through the pipe as Python wrote it, also where the other end has no such numbers or strings.
"""

import asyncio
import json
import sys
from datetime import datetime

from llmfy.flow_engine.checkpointer.base_checkpointer import Checkpoint, CheckpointMetadata
from llmfy.flow_engine.checkpointer.redis_checkpointer import RedisCheckpointer


def checkpoint_of(document):
    state = json.loads(document.pop("state"))
    # 0.11.0 has the first of the two, 0.10.1 the second.
    for key in ("created_at", "timestamp"):
        if key in document:
            document[key] = datetime.fromisoformat(document[key])
    return Checkpoint(metadata=CheckpointMetadata(**document), state=state)


def document_of(checkpoint):
    return {**checkpoint.to_dict(), "state": json.dumps(checkpoint.state)}


async def answer(checkpointer, call, arguments):
    match call:
        case "save":
            await checkpointer.save(checkpoint_of(*arguments))
        case "load":
            checkpoint = await checkpointer.load(*arguments)
            return checkpoint and document_of(checkpoint)
        case "list" | "list_by_run":
            return [document_of(checkpoint) for checkpoint in await getattr(checkpointer, call)(*arguments)]
        case "delete" | "clear_all":
            await getattr(checkpointer, call)(*arguments)


async def main():
    checkpointer = RedisCheckpointer(**json.loads(sys.argv[1]))
    for line in sys.stdin:
        try:
            reply = {"answer": await answer(checkpointer, **json.loads(line))}
        except Exception as error:
            reply = {"error": repr(error)}
        print(json.dumps(reply), flush=True)


asyncio.run(main())
