//! A plugin that means harm. `run` takes the name of an attack and its arguments
//! as words, and does it. How each has to end is in `tests/tests/hostile.rs`.

wit_bindgen::generate!({ path: "../../../wit", world: "plugin" });

mod answers;
mod handles;
mod names;
mod resources;
mod strings;
mod texts;

use std::sync::atomic::{AtomicU32, Ordering};

use flow::checkpoint::checkpointer::{Checkpoint, Checkpointer, Error, Layout, Metadata, Options, Run};

struct Hostile;
export!(Hostile);

/// What an attack gives back, if it gets that far.
type Ending = Result<String, String>;

/// How often this instance was run.
static RUNS: AtomicU32 = AtomicU32::new(0);

impl Guest for Hostile {
    fn run(input: String) -> Ending {
        let runs = RUNS.fetch_add(1, Ordering::Relaxed);
        let words: Vec<&str> = input.split_whitespace().collect();
        match words[..] {
            ["nothing"] => nothing(runs),
            ["restore"] => restore_all(),

            ["loop"] => resources::run_for_ever(),
            ["calls"] => resources::call_for_ever(),
            ["refusals"] => resources::be_refused_for_ever(),
            ["opens"] => resources::open_and_close_for_ever(),
            ["saves"] => resources::save_for_ever(),
            ["recursion"] => resources::recur(),
            ["memory"] => resources::grow_until_refused(),
            ["allocations"] => resources::allocate_until_refused(),
            ["checkpointers"] => resources::open_until_refused(),
            ["checkpointers", "loop"] => {
                resources::open_until_refused()?;
                resources::run_for_ever()
            }
            ["lists"] => resources::list_without_limit(),
            ["lists", count, bytes] => resources::list_more_than_fits(number(count), number(bytes)),
            ["compression", bytes] => resources::compress(number(bytes)),

            ["claim", bytes] => strings::claim_beyond_memory(number(bytes)),
            ["string", bytes] => strings::pass_one_of(number(bytes)),
            ["strings", count, bytes] => strings::pass_the_same_many_times(number(count), number(bytes)),
            ["no-utf-8"] => strings::pass_what_is_no_text(),
            ["no-case"] => strings::pass_what_is_no_case(),
            ["bucket-of", bytes] => strings::open_a_bucket_with_a_name_of(number(bytes)),
            ["answer-of", bytes] => strings::give_back(number(bytes)),

            ["drop-twice"] => handles::drop_twice(),
            ["use-after-drop"] => handles::use_after_drop(),
            ["leak", count] => handles::leak(number(count)),
            ["guess", handle] => handles::use_number(number(handle)),
            ["guess-drop", handle] => handles::drop_number(number(handle)),

            ["answer", harm] => answers::take_the_answer_of_a_save(harm),
            ["trap-after-save"] => answers::trap_after_a_save(),

            ["buckets", ref others @ ..] => names::open_buckets_of(others),
            ["prefixes", ref others @ ..] => names::reach_out_of_the_prefix_to(others),
            ["ids", ref others @ ..] => names::reach_with_ids_to(others),

            ["texts"] => texts::all_that_errors_say(),
            _ => Err(format!("no such attack: {input}")),
        }
    }
}

/// What an honest plugin does, to see that an attack before it left nothing.
fn nothing(runs: u32) -> Ending {
    let checkpointer = open("nothing:")?;
    let saved = checkpoint("session", "checkpoint", "run", r#"{"harm": "none"}"#);
    checkpointer.save(&saved).map_err(in_words)?;
    let loaded = checkpointer.load("session", None).map_err(in_words)?;
    let state = loaded.map(|loaded| loaded.state);
    Ok(format!("after {runs} other runs, loaded {}", state.unwrap_or_default()))
}

/// Finds what there is, and saves it again to live for a minute.
fn restore_all() -> Ending {
    let checkpointer = open("llmfy_checkpoint:")?;
    let found = checkpointer.scan(None).map_err(in_words)?;
    let mut words: Vec<String> = Vec::new();
    for listed in found.checkpoints {
        let (session, id) = (&listed.session_id, &listed.checkpoint_id);
        let document = checkpointer.load_document(session, Some(id)).map_err(in_words)?.unwrap_or_default();
        let (metadata, _) = checkpointer.restore(&document, Some(60_000)).map_err(in_words)?;
        words.push(format!("{}/{} {:?}", metadata.session_id, metadata.checkpoint_id, listed.milliseconds));
    }
    words.sort();
    words.extend(found.pinned);
    words.extend(found.next);
    Ok(words.join(", "))
}

fn number<N: std::str::FromStr>(word: &str) -> N {
    word.parse().unwrap_or_else(|_| panic!("{word} is no number"))
}

fn options(prefix: &str) -> Options {
    Options {
        bucket: "default".into(),
        prefix: prefix.into(),
        layout: Layout::Llmfy,
        ttl: None,
        max_state_bytes: None,
        compress: false,
        max_checkpoints: None,
    }
}

fn open(prefix: &str) -> Result<Checkpointer, String> {
    Checkpointer::open(&options(prefix)).map_err(in_words)
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
        },
        state: state.into(),
    }
}

/// All that there is to know of an error.
fn in_words(error: Error) -> String {
    match error {
        Error::Storage(error) => format!("{:?}, {:?}: {}", error.reason, error.effect, error.message),
        Error::InvalidArgument(reason) => format!("invalid argument: {reason}"),
        other => format!("{other:?}"),
    }
}
