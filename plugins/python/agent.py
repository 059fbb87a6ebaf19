"""An agent as a plugin: each call loads the latest checkpoint of a session,
does one step and saves it. `plugins/README.md` says what all languages do."""

import json
from datetime import UTC, datetime, timedelta
from itertools import count

# These modules are made from the interface: see README.md for how to have them
# in an editor.
import wit_world
from componentize_py_types import Err
from wit_world.imports import checkpointer as api
from wit_world.imports.checkpointer import Checkpoint, Checkpointer, Layout, Metadata, Options, Run
from wit_world.imports.types import Effect

LANGUAGE = "python"
USAGE = "say: SESSION | step SESSION [RUN] | history SESSION"


class WitWorld(wit_world.WitWorld):
    def run(self, input: str) -> str:
        # An `Err` that is raised here is the error that the host gets; one of
        # the checkpointer's is put into words on the way.
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
            # Closes it at the end, errors or not.
            with opened() as checkpointer:
                return step(checkpointer, session, run) if run else history(checkpointer, session)
        except Err as error:
            raise Err(in_words(error.value)) from None


def opened() -> Checkpointer:
    return Checkpointer.open(
        Options(
            bucket="default",
            prefix="llmfy_checkpoint:",
            layout=Layout.LLMFY,
            ttl=None,
            max_state_bytes=None,
            compress=False,
            max_checkpoints=None,
        )
    )


def step(checkpointer: Checkpointer, session: str, run: str) -> str:
    """Goes one step on from the latest checkpoint, whatever others do meanwhile."""
    for attempt in count(1):
        latest = checkpointer.load(session, None)
        try:
            checkpointer.save_after(
                after(latest, session, run, attempt), latest and latest.metadata.checkpoint_id
            )
            break
        except Err as error:
            match error.value:
                # Another got ahead, and what was computed here is out of date.
                # One gets ahead each time, so this ends.
                case api.Error_Conflict(api.Conflict_Latest()):
                    continue
            raise
    try:
        return history(checkpointer, session)
    except Err as error:
        raise Err(f"the step is saved, but not shown: {in_words(error.value)}") from None


def after(latest: Checkpoint | None, session: str, run: str, attempt: int) -> Checkpoint:
    """The checkpoint that follows; nothing in it comes from a clock or from
    chance, so a step that is repeated gives the same."""
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
        ),
        # Without the blanks, as the other languages write it.
        json.dumps(state, separators=(",", ":"), ensure_ascii=False),
    )


def read(checkpoint: Checkpoint) -> dict:
    """What the agent knows, if this agent saved it."""
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
    """The newest checkpoints of the session, a line each."""
    found = checkpointer.list(session, None)
    lines = [f"{of.step} {of.node} {of.checkpoint_id}" for of in (item.metadata for item in found.checkpoints)]
    return "\n".join(lines + [in_words(api.Error_Corrupt(item)) for item in found.unreadable])


def in_words(error: api.Error | str) -> str:
    match error:
        case api.Error_InvalidArgument(reason):
            return f"invalid argument: {reason}"
        case api.Error_Conflict(api.Conflict_Taken(taken)):
            return f"checkpoint {taken.checkpoint_id} can't be saved: {taken.reason}"
        case api.Error_Conflict(api.Conflict_Latest()):
            return "the session has gone on meanwhile"
        case api.Error_Corrupt(unreadable):
            return f"checkpoint {unreadable.checkpoint_id} can't be read: {unreadable.reason}"
        case api.Error_TooLarge(excess):
            return f"the state has {excess.size} bytes, and {excess.limit} are allowed"
        case api.Error_Storage(failure) if failure.effect == Effect.UNKNOWN:
            return f"the store failed, and the step may be saved or not: {failure.message}"
        case api.Error_Storage(failure):
            return f"the store failed: {failure.message}"
        case text:
            return text
