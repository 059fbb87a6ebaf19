//! What is saved: states that look like the chat of an agent as llmfy keeps it,
//! always the same for the same size.

use std::ops::Range;

use checkpointer::{Checkpoint, Metadata, Run};
use serde_json::{Value, json};

/// A size of a state, in bytes, as the report calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// How many bytes the state has.
    pub bytes: usize,
    /// The same in words.
    pub name: &'static str,
}

/// A short chat.
pub const SMALL: Size = Size { bytes: 2 * 1024, name: "2 KB" };
/// A long one.
pub const MEDIUM: Size = Size { bytes: 50 * 1024, name: "50 KB" };
/// A very long one.
pub const LARGE: Size = Size { bytes: 1024 * 1024, name: "1 MB" };

/// A state of exactly this size.
pub fn state(size: Size) -> String {
    let mut chance = Chance(1);
    let mut messages = Vec::new();
    let mut length = text(&messages, "").len();
    let mut number = 0;
    loop {
        let message = message(number, &mut chance);
        number += 1;
        // And a comma.
        let added = message.to_string().len() + 1;
        if length + added > size.bytes {
            break;
        }
        length += added;
        messages.push(message);
    }
    // What is missing becomes words of a summary.
    let missing = size.bytes - text(&messages, "").len();
    let mut summary = String::new();
    while summary.len() < missing {
        summary.push_str(chance.pick(&WORDS));
        summary.push(' ');
    }
    summary.truncate(missing);
    text(&messages, &summary)
}

/// A checkpoint of a session, so many seconds into 2026, as long as it is January.
pub fn checkpoint(session: u32, number: u32, state: &str) -> Checkpoint {
    let (day, second) = (1 + number / 86_400, number % 86_400);
    Checkpoint {
        metadata: Metadata {
            session_id: session_id(session),
            checkpoint_id: format!("7b1e42c0-5d8f-4a36-{session:04x}-{number:012x}"),
            timestamp: format!(
                "2026-01-{day:02}T{:02}:{:02}:{:02}.123456+00:00",
                second / 3600,
                second / 60 % 60,
                second % 60
            ),
            node: "execute_tool".to_owned(),
            step: i64::from(number),
            run: Some(Run {
                run_id: format!("4d2bb5cf-25f7-409b-a218-{session:012x}"),
                prev_node: "main".to_owned(),
                updated_fields: vec!["messages".to_owned()],
                attempt: Some(1),
                dispatch_id: None,
            }),
        },
        state: state.to_owned(),
    }
}

/// Checkpoints of a session, by their numbers.
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

/// One message: what the user says, a call of a tool, its result, an answer.
fn message(number: usize, chance: &mut Chance) -> Value {
    let call = format!("call_{}", number / 4);
    let (role, content, name, calls, results) = match number % 4 {
        0 => ("user", json!(chance.words(14)), Value::Null, Value::Null, Value::Null),
        1 => {
            // Models give the arguments of a call as JSON within a string.
            let arguments = json!({ "query": chance.words(4), "path": "C:\\data\\report.csv", "limit": 10 });
            let calls = json!([{
                "tool_call_id": call,
                "request_call_id": "req",
                "name": "search",
                "arguments": { "location": "Zürich", "unit": "celsius", "raw": arguments.to_string() },
            }]);
            ("assistant", Value::Null, Value::Null, calls, Value::Null)
        }
        2 => {
            let table = format!("name\tvalue\n{}\t{}\r\n\u{1b}[1m東京\u{1b}[0m", chance.words(3), number);
            ("tool", Value::Null, json!("search"), Value::Null, json!([table, "22.5 °C"]))
        }
        _ => {
            let answer =
                format!("**{}**\n\n- \"{}\"\n- {} ✓", chance.words(3), chance.words(8), chance.words(16));
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

/// Numbers that are always the same.
struct Chance(u64);

impl Chance {
    fn pick<'a>(&mut self, these: &[&'a str]) -> &'a str {
        // Knuth's generator; its high bits are good enough for words.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        these[(self.0 >> 33) as usize % these.len()]
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
    fn a_state_is_json_of_its_size_and_always_the_same() {
        for size in [SMALL, MEDIUM, LARGE] {
            let made = state(size);
            assert_eq!(made.len(), size.bytes);
            assert_eq!(made, state(size));
            let tree: Value = serde_json::from_str(&made).unwrap();
            assert!(tree["messages"].as_array().unwrap().len() >= 4);
        }
    }
}
