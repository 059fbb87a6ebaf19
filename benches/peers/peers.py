"""Measures savers for Python: llmfy 0.11.0 and LangGraph's.

    python peers.py redis://127.0.0.1:6379 FOLDER

A line on standard input is a request in JSON: the saver, the operation and its arguments, and the number of calls.
The response is a line with the nanoseconds of each call, or with an error. The arguments of a call are prepared
outside of the measured time.
"""

import asyncio
import json
import sys
import traceback
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter_ns

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph_checkpoint_aws.checkpoint.valkey import AsyncValkeySaver
from llmfy.flow_engine.checkpointer.base_checkpointer import Checkpoint, CheckpointMetadata
from llmfy.flow_engine.checkpointer.redis_checkpointer import RedisCheckpointer


class Llmfy:
    """llmfy's RedisCheckpointer, with a TTL."""

    def __init__(self, url):
        self.checkpointer = RedisCheckpointer(redis_url=url, ttl=3600)

    def saves(self, session, count, state):
        for number in range(count):
            metadata = CheckpointMetadata(
                checkpoint_id=f"7b1e42c0-5d8f-4a36-{session:04x}-{number:012x}",
                session_id=f"user-{session}",
                run_id=f"4d2bb5cf-25f7-409b-a218-{session:012x}",
                created_at=datetime(2026, 1, 1, microsecond=123456, tzinfo=UTC) + timedelta(seconds=number),
                node="execute_tool",
                prev_node="main",
                step=number,
                updated_fields=["messages"],
                attempt=1,
                dispatch_id=None,
            )
            yield lambda checkpoint=Checkpoint(metadata=metadata, state=state): self.checkpointer.save(checkpoint)

    def lists(self, session, count, limit):
        async def call():
            assert len(await self.checkpointer.list(f"user-{session}", limit)) == limit

        return [call] * count


class LangGraph:
    """A saver of LangGraph, called as LangGraph's loop calls it."""

    def __init__(self, saver):
        self.saver = saver

    def saves(self, session, count, state):
        parent = None
        for number in range(count):
            checkpoint = empty_checkpoint()
            checkpoint["id"] = f"1f0b6a2e-5d8f-6a36-{session:04x}-{number:012x}"
            checkpoint["channel_values"] = state
            checkpoint["channel_versions"] = {name: f"{number:032}.0" for name in state}
            config = {"configurable": {"thread_id": f"user-{session}", "checkpoint_ns": ""}}
            if parent:
                config["configurable"]["checkpoint_id"] = parent
            parent = checkpoint["id"]
            metadata = {"source": "loop", "step": number, "parents": {}}
            yield lambda arguments=(config, checkpoint, metadata, {}): self.saver.aput(*arguments)

    def loads(self, session, count):
        config = {"configurable": {"thread_id": f"user-{session}", "checkpoint_ns": ""}}

        async def call():
            assert await self.saver.aget_tuple(config)

        return [call] * count


async def main(url, folder):
    async with AsyncExitStack() as stack:
        savers = {
            "llmfy": Llmfy(url),
            "valkey": LangGraph(await stack.enter_async_context(AsyncValkeySaver.from_conn_string(url))),
            "sqlite": LangGraph(
                await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(Path(folder) / "langgraph.db")))
            ),
        }
        for line in sys.stdin:
            request = json.loads(line)
            try:
                response = {"nanoseconds": await measure(savers[request["saver"]], request)}
            except Exception:
                response = {"error": traceback.format_exc()}
            print(json.dumps(response), flush=True)
        await savers["llmfy"].checkpointer.close()


async def measure(saver, request):
    match request["operation"]:
        case "save":
            calls = saver.saves(request["session"], request["count"], json.loads(request["state"]))
        case "latest":
            calls = saver.loads(request["session"], request["count"])
        case "list":
            calls = saver.lists(request["session"], request["count"], request["limit"])
    nanoseconds = []
    for call in list(calls):
        start = perf_counter_ns()
        await call()
        nanoseconds.append(perf_counter_ns() - start)
    return nanoseconds


asyncio.run(main(*sys.argv[1:]))
