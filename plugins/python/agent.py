"""A sample agent as a plugin. Each call loads the latest checkpoint of a session,
does one step and saves it. `plugins/README.md` describes the agent."""

import json
from datetime import UTC, datetime, timedelta
from itertools import count

# These modules are generated from the interface. README.md describes how an editor
# finds them.
import wit_world
from componentize_py_types import Err
from wit_world.imports import types
from wit_world.imports.checkpointer import Checkpointer
from wit_world.imports.types import Checkpoint, Effect, HistoryQuery, Layout, Metadata, Options, Run

LANGUAGE = "python"
USAGE = "say: SESSION | step SESSION [RUN] | history SESSION"


class WitWorld(wit_world.WitWorld):
    def run(self, input: str) -> str:
        # The host receives the value of an `Err` as the error of `run`, and it must
        # be a string. Errors of the checkpointer are converted to a message.
        try:
            match input.split():
                case ["history", session]:
                    run = None
                case ["step", session, run]:
                    pass
                case ["step", session] | [session]:
                    run = session
                case _:
                    raise Err(USAGE)
            # `with` closes the checkpointer, also after an error.
            with open_checkpointer() as checkpointer:
                return step(checkpointer, session, run) if run else history(checkpointer, session)
        except Err as error:
            raise Err(describe(error.value)) from None


def open_checkpointer() -> Checkpointer:
    return Checkpointer.open(
        Options(
            bucket="default",
            prefix=None,
            layout=Layout.LLMFY,
            ttl=None,
            max_state_bytes=None,
            compress=False,
            max_checkpoints=None,
            extra=[],
        )
    )


def step(checkpointer: Checkpointer, session: str, run: str) -> str:
    """Saves the step that follows the latest checkpoint."""
    for attempt in count(1):
        latest = checkpointer.latest(session)
        try:
            checkpointer.save_after(
                next_checkpoint(latest, session, run, attempt), latest and latest.metadata.checkpoint_id
            )
            break
        except Err as error:
            match error.value:
                # Another save was first, so this step is computed again. The loop
                # ends, because one of the concurrent saves succeeds each time.
                case types.Error_Conflict(types.Conflict_NotLatest()):
                    continue
            raise
    try:
        return history(checkpointer, session)
    except Err as error:
        raise Err(f"the step is saved, but the history can't be read: {describe(error.value)}") from None


def next_checkpoint(latest: Checkpoint | None, session: str, run: str, attempt: int) -> Checkpoint:
    """Returns the checkpoint that follows `latest`. It contains no time and no random
    value, so that a repeated step saves the same checkpoint."""
    state = {"count": 0, "trail": []}
    number, prev_node = 1, "__start__"
    if latest:
        state = read(latest)
        prev_node = latest.metadata.node
        # Steps are counted within a run.
        if latest.metadata.run and latest.metadata.run.run_id == run:
            number = latest.metadata.step + 1
    state["count"] += 1
    state["trail"].append(LANGUAGE)
    time = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=state["count"])
    return Checkpoint(
        Metadata(
            session_id=session,
            checkpoint_id=f"{run}-{state['count']}-{LANGUAGE}",
            timestamp=time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            node=LANGUAGE,
            step=number,
            run=Run(
                run_id=run,
                prev_node=prev_node,
                updated_fields=["count", "trail"],
                attempt=attempt,
                dispatch_id=None,
            ),
            extra=[],
        ),
        # Without blanks, like the other languages.
        json.dumps(state, separators=(",", ":"), ensure_ascii=False),
    )


def read(checkpoint: Checkpoint) -> dict:
    """Parses the state of a checkpoint that this agent saved."""
    try:
        state = json.loads(checkpoint.state)
    except (ValueError, RecursionError):
        state = None
    match state:
        case {"count": int(), "trail": [*nodes], **others} if not others and state["count"] >= 0:
            if all(isinstance(node, str) for node in nodes):
                return state
    raise Err(f"the state of checkpoint {checkpoint.metadata.checkpoint_id} is not this agent's")


def history(checkpointer: Checkpointer, session: str) -> str:
    """Lists the newest checkpoints of the session, one per line."""
    found = checkpointer.list(HistoryQuery(session_id=session, run_id=None, limit=None, extra=[]))
    all_metadata = (checkpoint.metadata for checkpoint in found.checkpoints)
    lines = [f"{metadata.step} {metadata.node} {metadata.checkpoint_id}" for metadata in all_metadata]
    return "\n".join(lines + [describe(types.Error_Corrupt(item)) for item in found.unreadable])


def describe(error: types.Error | str) -> str:
    match error:
        case types.Error_InvalidArgument(reason):
            return f"invalid argument: {reason}"
        case types.Error_Conflict(types.Conflict_IdInUse(conflict)):
            return f"checkpoint {conflict.checkpoint_id} can't be saved: {conflict.reason}"
        case types.Error_Conflict(types.Conflict_NotLatest()):
            return "the session has a newer checkpoint"
        case types.Error_Corrupt(unreadable):
            return f"checkpoint {unreadable.checkpoint_id} can't be read: {unreadable.reason}"
        case types.Error_TooLarge(excess):
            return f"the state has {excess.size} bytes, and the limit is {excess.limit}"
        case types.Error_Storage(failure) if failure.effect == Effect.UNKNOWN:
            return f"the store failed, and the step may or may not be saved: {failure.message}"
        case types.Error_Storage(failure):
            return f"the store failed: {failure.message}"
        case text:
            return text
