//! A hostile plugin. The input of `run` is the name of an attack and its arguments,
//! separated by blanks. `tests/tests/hostile.rs` checks how each attack ends.

wit_bindgen::generate!({ path: "../../../wit", world: "plugin", generate_all });

mod answers;
mod handles;
mod names;
mod resources;
mod strings;
mod texts;

use std::sync::atomic::{AtomicU32, Ordering};

use flow::checkpoint::checkpointer::Checkpointer;
use flow::checkpoint::types::{Checkpoint, Error, HistoryQuery, Layout, Metadata, Options, Run};

struct Hostile;
export!(Hostile);

/// The answer of an attack that returns.
type Answer = Result<String, String>;

/// The number of times this instance was run.
static RUNS: AtomicU32 = AtomicU32::new(0);

impl Guest for Hostile {
    fn run(input: String) -> Answer {
        let runs = RUNS.fetch_add(1, Ordering::Relaxed);
        let words: Vec<&str> = input.split_whitespace().collect();
        match words[..] {
            ["nothing"] => nothing(runs),
            ["restore"] => restore_all(),

            ["loop"] => resources::loop_forever(),
            ["calls"] => resources::load_forever(),
            ["refusals"] => resources::open_unknown_bucket_forever(),
            ["opens"] => resources::open_and_close_forever(),
            ["saves"] => resources::save_forever(),
            ["recursion"] => resources::recurse(),
            ["memory"] => resources::grow_until_refused(),
            ["allocations"] => resources::allocate_until_refused(),
            ["checkpointers"] => resources::open_until_refused(),
            ["checkpointers", "loop"] => {
                resources::open_until_refused()?;
                resources::loop_forever()
            }
            ["lists"] => resources::list_above_the_limit(),
            ["lists", count, bytes] => resources::save_and_list(number(count), number(bytes)),
            ["compression", bytes] => resources::compress(number(bytes)),

            ["claim", bytes] => strings::pass_beyond_memory(number(bytes)),
            ["string", bytes] => strings::pass_nuls(number(bytes)),
            ["strings", count, bytes] => strings::pass_copies(number(count), number(bytes)),
            ["no-utf-8"] => strings::pass_invalid_utf8(),
            ["no-case"] => strings::pass_invalid_discriminant(),
            ["bucket-of", bytes] => strings::open_bucket_with_long_name(number(bytes)),
            ["answer-of", bytes] => strings::return_string(number(bytes)),

            ["drop-twice"] => handles::drop_twice(),
            ["use-after-drop"] => handles::use_after_drop(),
            ["leak", count] => handles::leak(number(count)),
            ["guess", handle] => handles::use_number(number(handle)),
            ["guess-drop", handle] => handles::drop_number(number(handle)),

            ["answer", harm] => answers::save_with(harm),
            ["trap-after-save"] => answers::trap_after_save(),

            ["buckets", ref others @ ..] => names::open_buckets(others),
            ["prefixes", ref others @ ..] => names::use_prefixes(others),
            ["ids", ref others @ ..] => names::use_ids(others),

            ["texts"] => texts::all_error_texts(),
            _ => Err(format!("no such attack: {input}")),
        }
    }
}

/// Behaves like an honest plugin. Shows whether an earlier attack had an effect on
/// this run.
fn nothing(runs: u32) -> Answer {
    let checkpointer = open("nothing:")?;
    let saved = checkpoint("session", "checkpoint", "run", r#"{"harm": "none"}"#);
    checkpointer.save(&saved).map_err(describe)?;
    let loaded = checkpointer.latest("session").map_err(describe)?;
    let state = loaded.map(|loaded| loaded.state);
    Ok(format!("after {runs} other runs, loaded {}", state.unwrap_or_default()))
}

/// Restores all checkpoints of a scan with a TTL of one minute.
fn restore_all() -> Answer {
    let checkpointer = open("llmfy_checkpoint:")?;
    let found = checkpointer.scan(None).map_err(describe)?;
    let mut words: Vec<String> = Vec::new();
    for entry in found.checkpoints {
        let (session, id) = (&entry.session_id, &entry.checkpoint_id);
        let document = checkpointer.load_document(session, id).map_err(describe)?.unwrap_or_default();
        let (metadata, _) = checkpointer.restore(&document, Some(60_000)).map_err(describe)?;
        words.push(format!("{}/{} {:?}", metadata.session_id, metadata.checkpoint_id, entry.expires_in_ms));
    }
    words.sort();
    words.extend(found.pinned_sessions);
    words.extend(found.next_cursor);
    Ok(words.join(", "))
}

fn number<N: std::str::FromStr>(word: &str) -> N {
    word.parse().unwrap_or_else(|_| panic!("not a number: {word}"))
}

fn options(prefix: &str) -> Options {
    Options {
        bucket: "default".into(),
        prefix: Some(prefix.into()),
        layout: Layout::Llmfy,
        ttl: None,
        max_state_bytes: None,
        compress: false,
        max_checkpoints: None,
        extra: Vec::new(),
    }
}

fn open(prefix: &str) -> Result<Checkpointer, String> {
    Checkpointer::open(&options(prefix)).map_err(describe)
}

fn checkpoint(session: &str, id: &str, run: &str, state: &str) -> Checkpoint {
    Checkpoint {
        metadata: Metadata {
            session_id: session.into(),
            checkpoint_id: id.into(),
            timestamp: "2026-01-01T00:00:00Z".into(),
            node: "node".into(),
            step: 1,
            run: Some(Run {
                run_id: run.into(),
                prev_node: "__start__".into(),
                updated_fields: Vec::new(),
                attempt: Some(1),
                dispatch_id: None,
            }),
            extra: Vec::new(),
        },
        state: state.into(),
    }
}

/// A query for the newest checkpoints of a session.
fn query(session: &str, run: Option<&str>, limit: Option<u32>) -> HistoryQuery {
    HistoryQuery { session_id: session.into(), run_id: run.map(Into::into), limit, extra: Vec::new() }
}

/// Every field of an error.
fn describe(error: Error) -> String {
    match error {
        Error::Storage(error) => format!("{:?}, {:?}: {}", error.reason, error.effect, error.message),
        Error::InvalidArgument(reason) => format!("invalid argument: {reason}"),
        other => format!("{other:?}"),
    }
}
