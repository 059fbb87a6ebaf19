// An agent as a plugin: each call loads the latest checkpoint of a session,
// does one step and saves it. `plugins/README.md` says what all languages do.

import { Checkpointer } from "flow:checkpoint/checkpointer@0.1.0";

const LANGUAGE = "javascript-quickjs";
const USAGE = "say: SESSION | step SESSION [RUN] | history SESSION";

// What is thrown from here is the error that the host gets, so it has to be a
// string; one of the checkpointer's is put into words on the way.
export function run(input) {
  const words = input.split(/\s+/).filter((word) => word);
  if (words.length === 1) words.unshift("step");
  const [word, session, run = session] = words;
  const known = word === "history" ? words.length === 2 : word === "step" && words.length <= 3;
  if (!known) throw USAGE;
  try {
    const checkpointer = open();
    try {
      return word === "step" ? step(checkpointer, session, run) : history(checkpointer, session);
    } finally {
      checkpointer[Symbol.dispose]();
    }
  } catch (error) {
    throw inWords(error);
  }
}

function open() {
  return Checkpointer.open({
    bucket: "default",
    prefix: "llmfy_checkpoint:",
    layout: "llmfy",
    ttl: null,
    maxStateBytes: null,
    compress: false,
    maxCheckpoints: null,
  });
}

// Goes one step on from the latest checkpoint, whatever others do meanwhile.
function step(checkpointer, session, run) {
  for (let attempt = 1; ; attempt++) {
    const latest = checkpointer.load(session, null);
    const next = after(latest, session, run, attempt);
    try {
      checkpointer.saveAfter(next, latest?.metadata.checkpointId ?? null);
      break;
    } catch (error) {
      // Another got ahead, and what was computed here is out of date. One gets
      // ahead each time, so this ends.
      if (error.payload?.tag === "conflict" && error.payload.val.tag === "latest") continue;
      throw error;
    }
  }
  try {
    return history(checkpointer, session);
  } catch (error) {
    throw `the step is saved, but not shown: ${inWords(error)}`;
  }
}

// The checkpoint that follows; nothing in it comes from a clock or from chance,
// so a step that is repeated gives the same.
function after(latest, session, run, attempt) {
  const { count, trail } = latest ? read(latest) : { count: 0, trail: [] };
  const before = latest?.metadata;
  const state = { count: count + 1, trail: [...trail, LANGUAGE] };
  const time = new Date(Date.UTC(2026, 0, 1) + state.count * 1000);
  return {
    metadata: {
      sessionId: session,
      checkpointId: `${run}-${state.count}-${LANGUAGE}`,
      timestamp: time.toISOString().replace(".000", ""),
      node: LANGUAGE,
      // Steps are counted within a run.
      step: before?.run?.runId === run ? before.step + 1 : 1,
      run: {
        runId: run,
        prevNode: before?.node ?? "__start__",
        updatedFields: ["count", "trail"],
        attempt,
        dispatchId: null,
      },
    },
    state: JSON.stringify(state),
  };
}

// What the agent knows, if this agent saved it.
function read({ metadata, state }) {
  try {
    const { count, trail, ...others } = JSON.parse(state);
    const isCount = Number.isSafeInteger(count) && count >= 0;
    const isTrail = Array.isArray(trail) && trail.every((node) => typeof node === "string");
    if (isCount && isTrail && Object.keys(others).length === 0) return { count, trail };
  } catch {
    // Not even JSON as JavaScript reads it, or no object.
  }
  throw `the state of checkpoint ${metadata.checkpointId} is not this agent's`;
}

// The newest checkpoints of the session, a line each.
function history(checkpointer, session) {
  const { checkpoints, unreadable } = checkpointer.list(session, null);
  const lines = checkpoints.map(({ metadata: of }) => `${of.step} ${of.node} ${of.checkpointId}`);
  return [...lines, ...unreadable.map(cannotBeRead)].join("\n");
}

function inWords(error) {
  const { tag, val } = error.payload ?? {};
  switch (tag) {
    case "invalid-argument":
      return `invalid argument: ${val}`;
    case "conflict":
      if (val.tag === "latest") return "the session has gone on meanwhile";
      return `checkpoint ${val.val.checkpointId} can't be saved: ${val.val.reason}`;
    case "corrupt":
      return cannotBeRead(val);
    case "too-large":
      return `the state has ${val.size} bytes, and ${val.limit} are allowed`;
    case "storage":
      if (val.effect === "none") return `the store failed: ${val.message}`;
      return `the store failed, and the step may be saved or not: ${val.message}`;
    default:
      return String(error);
  }
}

function cannotBeRead({ checkpointId, reason }) {
  return `checkpoint ${checkpointId} can't be read: ${reason}`;
}
