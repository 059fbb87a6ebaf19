//! The fuzz targets without a fuzzer: what they check, for every seed of the
//! corpus and for what a few thousand small changes make of the seeds, the same
//! ones each time. `FUZZ_ROUNDS` says how many for each target.

#![expect(clippy::expect_used, reason = "a test that can't run fails")]
#![expect(clippy::panic, reason = "that is how a test says which input fails")]
#![expect(clippy::print_stdout, reason = "how much was tried is for people to see")]

use std::panic::{RefUnwindSafe, catch_unwind};
use std::path::Path;
use std::{env, fs, str};

#[path = "../fuzz/properties.rs"]
mod properties;

/// How many changed inputs there are for each target, unless `FUZZ_ROUNDS` says
/// otherwise: a few seconds in a debug build.
const ROUNDS: usize = 10_000;

/// What means something to one of the targets, and chance does not find.
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
fn every_document_is_read_for_what_it_says_or_refused() {
    fuzz("document", as_text(properties::document));
}

#[test]
fn every_text_is_json_or_says_where_it_stops_being() {
    fuzz("json", as_text(properties::json));
}

#[test]
fn every_timestamp_keeps_its_meaning_and_its_place_in_the_order() {
    fuzz("timestamp", as_text(properties::timestamp));
}

#[test]
fn every_key_says_all_that_it_could_mean() {
    fuzz("keys", as_text(properties::keys));
}

#[test]
fn every_compressed_state_unfolds_to_json_or_is_left_alone() {
    fuzz("compression", properties::compression);
}

/// A property of texts for bytes: what is no UTF-8 is replaced.
fn as_text(property: fn(&str)) -> impl Fn(&[u8]) + Copy + RefUnwindSafe {
    move |input| property(&String::from_utf8_lossy(input))
}

/// Tries a property with all seeds of a target and with what becomes of them.
fn fuzz(target: &str, property: impl Fn(&[u8]) + Copy + RefUnwindSafe) {
    let seeds = seeds(target);
    for (name, seed) in &seeds {
        attempt(&format!("the seed {name}"), seed, property);
    }
    let rounds = env::var("FUZZ_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"));
    let mut changes = Changes { random: Random(0), seeds: &seeds };
    for round in 0..rounds {
        let (name, seed) = &seeds[round % seeds.len()];
        let mut input = seed.clone();
        for _ in 0..=changes.random.below(4) {
            changes.change(&mut input);
        }
        attempt(&format!("{name}, changed in round {round}"), &input, property);
    }
    println!("{target}: tried {} seeds and {rounds} inputs made of them", seeds.len());
}

fn attempt(name: &str, input: &[u8], property: impl Fn(&[u8]) + RefUnwindSafe) {
    if catch_unwind(|| property(input)).is_err() {
        panic!("{name} fails; to keep it as a seed: \"{}\"", input.escape_ascii());
    }
}

/// The seeds of a target, by name. What a fuzzer has added is not among them.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut seeds: Vec<_> = fs::read_dir(&folder)
        .expect("the corpus")
        .map(|entry| entry.expect("an entry of the corpus").path())
        .filter_map(|path| Some((path.file_name()?.to_str()?.strip_suffix(".txt")?.to_owned(), path.clone())))
        .map(|(name, path)| (name, fs::read(path).expect("a seed")))
        .collect();
    assert!(!seeds.is_empty(), "there are no seeds in {}", folder.display());
    seeds.sort();
    seeds
}

/// Small changes, of the kinds that fuzzers make.
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

/// The generator SplitMix64: small, and the same on every machine.
struct Random(u64);

impl Random {
    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}
