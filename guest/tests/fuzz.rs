//! The fuzz targets without a fuzzer: checks every seed of the corpus, and seeds with
//! small random changes, the same ones each time. `FUZZ_ROUNDS` is the number of
//! changed inputs per target.

#![expect(clippy::expect_used, reason = "a test that can't run fails")]
#![expect(clippy::panic, reason = "reports the input that fails")]
#![expect(clippy::print_stdout, reason = "reports the number of inputs")]

use std::panic::{RefUnwindSafe, catch_unwind};
use std::path::Path;
use std::{env, fs, str};

#[path = "../fuzz/properties.rs"]
mod properties;

/// The default number of changed inputs per target: a few seconds in a debug build.
const ROUNDS: usize = 10_000;

/// Tokens of the targets that random changes rarely produce.
const TOKENS: [&str; 63] = [
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    " ",
    "\n",
    "\0",
    "\t",
    "/",
    "-",
    "+",
    ".",
    "T",
    "Z",
    "0",
    "9",
    "null",
    "true",
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-0",
    "9223372036854775808",
    "\\u0000",
    "\\ud800",
    "\\udc00",
    "\\ud83c\\udf0d",
    "\\\\",
    "\\\"",
    "\\/",
    "é",
    "\u{1f30d}",
    "\u{feff}",
    "session:",
    "checkpoint:",
    ":run:",
    "%7B",
    "%25",
    "{}",
    "}{",
    "run:",
    "session",
    "pinned",
    "\"run_id\": \"r\", ",
    "\"timestamp\": ",
    "\"created_at\": ",
    "\"session_id\": ",
    "\"checkpoint_id\": ",
    "\"state\": ",
    "\"step\": ",
    "2026-01-02T03:04:05",
    "0000",
    "0001",
    "9999",
    "02-29",
    "+23:59:59.999999",
    "-00:00",
    "eJyrVqpQslIwrAUACm8CQA==",
];

#[test]
fn documents_are_read_consistently_or_invalid() {
    fuzz("document", as_text(properties::document));
}

#[test]
fn texts_are_json_or_have_an_error_offset() {
    fuzz("json", as_text(properties::json));
}

#[test]
fn timestamps_keep_their_instant_and_order() {
    fuzz("timestamp", as_text(properties::timestamp));
}

#[test]
fn keys_are_parsed_safely() {
    fuzz("keys", as_text(properties::keys));
}

#[test]
fn compressed_states_decompress_to_json_or_stay_unchanged() {
    fuzz("compression", properties::compression);
}

/// Converts a property of texts to one of bytes. Invalid UTF-8 is replaced.
fn as_text(property: fn(&str)) -> impl Fn(&[u8]) + Copy + RefUnwindSafe {
    move |input| property(&String::from_utf8_lossy(input))
}

/// Checks a property with all seeds of a target and with changed seeds.
fn fuzz(target: &str, property: impl Fn(&[u8]) + Copy + RefUnwindSafe) {
    let seeds = seeds(target);
    for (name, seed) in &seeds {
        check(&format!("the seed {name}"), seed, property);
    }
    let rounds = env::var("FUZZ_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"));
    let mut changes = Changes { random: Random(0), seeds: &seeds };
    for round in 0..rounds {
        let (name, seed) = &seeds[round % seeds.len()];
        let mut input = seed.clone();
        for _ in 0..=changes.random.below(4) {
            changes.change(&mut input);
        }
        check(&format!("{name}, changed in round {round}"), &input, property);
    }
    println!("{target}: checked {} seeds and {rounds} changed inputs", seeds.len());
}

fn check(name: &str, input: &[u8], property: impl Fn(&[u8]) + RefUnwindSafe) {
    if catch_unwind(|| property(input)).is_err() {
        panic!("{name} fails; to keep it as a seed: \"{}\"", input.escape_ascii());
    }
}

/// Returns the seeds of a target, by name, without those that libFuzzer has added.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut seeds: Vec<_> = fs::read_dir(&folder)
        .expect("the corpus")
        .map(|entry| entry.expect("an entry of the corpus").path())
        .filter_map(|path| Some((path.file_name()?.to_str()?.strip_suffix(".txt")?.to_owned(), path.clone())))
        .map(|(name, path)| (name, fs::read(path).expect("a seed")))
        .collect();
    assert!(!seeds.is_empty(), "no seeds in {}", folder.display());
    seeds.sort();
    seeds
}

/// Small random changes.
struct Changes<'a> {
    random: Random,
    seeds: &'a [(String, Vec<u8>)],
}

impl Changes<'_> {
    fn change(&mut self, input: &mut Vec<u8>) {
        let start = self.random.below(input.len() + 1);
        let end = (start + self.random.below(8)).min(input.len());
        match self.random.below(7) {
            0 => input.truncate(start),
            1 => drop(input.drain(start..end)),
            2 => {
                if let Some(byte) = input.get_mut(start) {
                    *byte ^= 1 << self.random.below(8);
                }
            }
            3 => {
                if let Some(byte) = input.get_mut(start) {
                    *byte = self.random.below(256) as u8;
                }
            }
            4 => {
                let again = input[start..end].repeat(1 + self.random.below(4));
                input.splice(start..start, again);
            }
            5 => {
                let token = TOKENS[self.random.below(TOKENS.len())];
                let end = if self.random.below(2) == 0 { start } else { end };
                input.splice(start..end, token.bytes());
            }
            _ => {
                let (_, other) = &self.seeds[self.random.below(self.seeds.len())];
                let from = self.random.below(other.len() + 1);
                input.splice(start.., other[from..].iter().copied());
            }
        }
    }
}

/// The random number generator SplitMix64, the same on every machine.
struct Random(u64);

impl Random {
    /// Returns a number below `limit`, which must not be 0.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}
