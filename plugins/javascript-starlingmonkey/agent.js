// A sample agent as a plugin. Each call loads the latest checkpoint of a session,
// does one step and saves it. `plugins/README.md` describes the agent.

import { Checkpointer } from "flow:checkpoint/checkpointer@0.1.0";

const LANGUAGE = "javascript-starlingmonkey";
const USAGE = "say: SESSION | step SESSION [RUN] | history SESSION";

// The host receives the thrown string as the error of `run`. Errors of the
// checkpointer are objects and are converted to a message.
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
    throw describe(error);
  }
}

function open() {
  return Checkpointer.open({
    bucket: "default",
    prefix: null,
    layout: "llmfy",
    ttl: null,
    maxStateBytes: null,
    compress: false,
    maxCheckpoints: null,
    extra: [],
  });
}

// Saves the step that follows the latest checkpoint.
function step(checkpointer, session, run) {
  for (let attempt = 1n; ; attempt++) {
    const latest = checkpointer.latest(session);
    const next = nextCheckpoint(latest, session, run, attempt);
    try {
      checkpointer.saveAfter(next, latest?.metadata.checkpointId ?? null);
      break;
    } catch (error) {
      // Another save was first, so this step is computed again. The loop ends,
      // because one of the concurrent saves succeeds each time.
      if (error.payload?.tag === "conflict" && error.payload.val.tag === "not-latest") continue;
      throw error;
    }
  }
  try {
    return history(checkpointer, session);
  } catch (error) {
    throw `the step is saved, but the history can't be read: ${describe(error)}`;
  }
}

// Returns the checkpoint that follows `latest`. It contains no time and no random
// value, so that a repeated step saves the same checkpoint.
function nextCheckpoint(latest, session, run, attempt) {
  const { count, trail } = latest ? read(latest) : { count: 0, trail: [] };
  const previous = latest?.metadata;
  const state = { count: count + 1, trail: [...trail, LANGUAGE] };
  const time = new Date(Date.UTC(2026, 0, 1) + state.count * 1000);
  return {
    metadata: {
      sessionId: session,
      checkpointId: `${run}-${state.count}-${LANGUAGE}`,
      timestamp: time.toISOString().replace(".000", ""),
      node: LANGUAGE,
      // Steps are counted within a run. An s64 is a BigInt here.
      step: previous?.run?.runId === run ? previous.step + 1n : 1n,
      run: {
        runId: run,
        prevNode: previous?.node ?? "__start__",
        updatedFields: ["count", "trail"],
        attempt,
        dispatchId: null,
      },
      extra: [],
    },
    state: JSON.stringify(state),
  };
}

// Parses the state of a checkpoint that this agent saved.
function read({ metadata, state }) {
  try {
    const { count, trail, ...others } = JSON.parse(state);
    const isCount = Number.isSafeInteger(count) && count >= 0;
    const isTrail = Array.isArray(trail) && trail.every((node) => typeof node === "string");
    if (isCount && isTrail && Object.keys(others).length === 0) return { count, trail };
  } catch {
    // Not JSON as JavaScript reads it, or not an object.
  }
  throw `the state of checkpoint ${metadata.checkpointId} is not this agent's`;
}

// Lists the newest checkpoints of the session, one per line.
function history(checkpointer, session) {
  const query = { sessionId: session, runId: null, limit: null, extra: [] };
  const { checkpoints, unreadable } = checkpointer.list(query);
  const lines = checkpoints.map(({ metadata }) => describeCheckpoint(metadata));
  return [...lines, ...unreadable.map(describeUnreadable)].join("\n");
}

function describe(error) {
  const { tag, val } = error.payload ?? {};
  switch (tag) {
    case "invalid-argument":
      return `invalid argument: ${val}`;
    case "conflict":
      if (val.tag === "not-latest") return "the session has a newer checkpoint";
      return `checkpoint ${val.val.checkpointId} can't be saved: ${val.val.reason}`;
    case "corrupt":
      return describeUnreadable(val);
    case "too-large":
      return `the state has ${val.size} bytes, and the limit is ${val.limit}`;
    case "storage":
      if (val.effect === "none") return `the store failed: ${val.message}`;
      return `the store failed, and the step may or may not be saved: ${val.message}`;
    default:
      return String(error);
  }
}

function describeCheckpoint({ step, node, checkpointId }) {
  return `${step} ${node} ${checkpointId}`;
}

function describeUnreadable({ checkpointId, reason }) {
  return `checkpoint ${checkpointId} can't be read: ${reason}`;
}
