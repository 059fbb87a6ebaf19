//! The checkpoints that are saved. Their states resemble the chat of an agent as
//! llmfy stores it, and are the same in every run.

use std::ops::Range;
use std::time::{Duration, UNIX_EPOCH};

use checkpointer::{Checkpoint, Metadata, Run};
use serde_json::{Value, json};

/// The size of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// The size in bytes.
    pub bytes: usize,
    /// The name in the report.
    pub name: &'static str,
}

/// A short chat.
pub const SMALL: Size = Size { bytes: 2 * 1024, name: "2 KB" };
/// A long chat.
pub const MEDIUM: Size = Size { bytes: 50 * 1024, name: "50 KB" };
/// A very long chat.
pub const LARGE: Size = Size { bytes: 1024 * 1024, name: "1 MB" };

/// A state of exactly this size, as JSON text.
pub fn state(size: Size) -> String {
    let mut random = Random(1);
    let mut messages = Vec::new();
    let mut length = text(&messages, "").len();
    let mut number = 0;
    loop {
        let message = message(number, &mut random);
        number += 1;
        // One byte more for the comma.
        let added = message.to_string().len() + 1;
        if length + added > size.bytes {
            break;
        }
        length += added;
        messages.push(message);
    }
    // The summary fills the remaining bytes.
    let remaining = size.bytes - text(&messages, "").len();
    let mut summary = String::new();
    while summary.len() < remaining {
        summary.push_str(random.pick(&WORDS));
        summary.push(' ');
    }
    summary.truncate(remaining);
    text(&messages, &summary)
}

/// The checkpoint of a session with this number.
pub fn checkpoint(session: u32, number: u32, state: &str) -> Checkpoint {
    let mut run = Run::new(format!("4d2bb5cf-25f7-409b-a218-{session:012x}"));
    run.prev_node = "main".to_owned();
    run.updated_fields = vec!["messages".to_owned()];
    run.attempt = Some(1);
    let id = format!("7b1e42c0-5d8f-4a36-{session:04x}-{number:012x}");
    let metadata = Metadata::new(session_id(session), id)
        .timestamp(UNIX_EPOCH + Duration::from_micros(timestamp_micros(number)))
        .node("execute_tool")
        .step(i64::from(number))
        .run(run);
    Checkpoint::new(metadata, state)
}

/// The timestamp of the checkpoint with this number, in microseconds since 1970: so
/// many seconds after the beginning of 2026.
pub fn timestamp_micros(number: u32) -> u64 {
    1_767_225_600_123_456 + u64::from(number) * 1_000_000
}

/// The checkpoints of a session with these numbers.
pub fn checkpoints(session: u32, numbers: Range<u32>, state: &str) -> Vec<Checkpoint> {
    numbers.map(|number| checkpoint(session, number, state)).collect()
}

/// The id of a session.
pub fn session_id(session: u32) -> String {
    format!("user-{session}")
}

fn text(messages: &[Value], summary: &str) -> String {
    json!({ "messages": messages, "summary": summary, "turn": 7 }).to_string()
}

/// A message. User, tool call, tool result and answer alternate.
fn message(number: usize, random: &mut Random) -> Value {
    let call = format!("call_{}", number / 4);
    let (role, content, name, calls, results) = match number % 4 {
        0 => ("user", json!(random.words(14)), Value::Null, Value::Null, Value::Null),
        1 => {
            // Models return the arguments of a call as JSON in a string.
            let arguments = json!({ "query": random.words(4), "path": "C:\\data\\report.csv", "limit": 10 });
            let calls = json!([{
                "tool_call_id": call,
                "request_call_id": "req",
                "name": "search",
                "arguments": { "location": "Zürich", "unit": "celsius", "raw": arguments.to_string() },
            }]);
            ("assistant", Value::Null, Value::Null, calls, Value::Null)
        }
        2 => {
            let table = format!("name\tvalue\n{}\t{}\r\n\u{1b}[1m東京\u{1b}[0m", random.words(3), number);
            ("tool", Value::Null, json!("search"), Value::Null, json!([table, "22.5 °C"]))
        }
        _ => {
            let answer =
                format!("**{}**\n\n- \"{}\"\n- {} ✓", random.words(3), random.words(8), random.words(16));
            ("assistant", json!(answer), Value::Null, Value::Null, Value::Null)
        }
    };
    let is_tool = role == "tool";
    json!({
        "__type__": "llmfy.llmfy_core.messages.message.Message",
        "data": {
            "id": format!("fe315581-017d-4a50-bea7-{number:012x}"),
            "role": role,
            "content": content,
            "name": name,
            "tool_calls": calls,
            "tool_call_id": if is_tool { json!(call) } else { Value::Null },
            "tool_results": results,
            "request_call_id": if is_tool { json!("req") } else { Value::Null },
            "timestamp": format!("2026-11-22T17:24:47.{:06}+00:00", number % 1_000_000),
        },
    })
}

const WORDS: [&str; 24] = [
    "the",
    "weather",
    "report",
    "of",
    "this",
    "week",
    "says",
    "that",
    "rain",
    "comes",
    "from",
    "west",
    "and",
    "stays",
    "until",
    "Friday",
    "while",
    "mountains",
    "remain",
    "dry",
    "with",
    "light",
    "wind",
    "tomorrow",
];

/// A pseudorandom sequence that is the same in every run.
struct Random(u64);

impl Random {
    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        // Knuth's MMIX generator. Only its high bits are random enough.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        words[(self.0 >> 33) as usize % words.len()]
    }

    fn words(&mut self, count: usize) -> String {
        let words: Vec<&str> = (0..count).map(|_| self.pick(&WORDS)).collect();
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_json_of_the_requested_size_and_reproducible() {
        for size in [SMALL, MEDIUM, LARGE] {
            let text = state(size);
            assert_eq!(text.len(), size.bytes);
            assert_eq!(text, state(size));
            let tree: Value = serde_json::from_str(&text).unwrap();
            assert!(tree["messages"].as_array().unwrap().len() >= 4);
        }
    }
}
