//! The stored text of a checkpoint: one flat JSON object, as llmfy writes it.
//!
//! There are two generations, and neither of them reads the other; this reads
//! both. Generation A (llmfy 0.4.11 to 0.10.1) has no run and holds the state
//! as a JSON string that holds JSON; generation B (from 0.11.0) has a run and
//! holds the state as it is. Keys that neither knows are passed over, and the
//! order of keys, spacing and escaping are free.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use crate::id::Id;
use crate::json::{self, Fault, Scanner};
use crate::timestamp::Timestamp;
use crate::{Checkpoint, Metadata, NamedValue, Run};

/// The text of a checkpoint, byte for byte what llmfy's `json.dumps` writes
/// around the state: generation B if there is a run, A if there is none.
pub fn write(metadata: &Metadata, state: &str) -> String {
    let mut text = String::with_capacity(state.len() + 512);
    text.push_str(&owner(metadata));
    match &metadata.run {
        Some(run) => {
            string_member("created_at", &metadata.timestamp, &mut text);
            string_member("node", &metadata.node, &mut text);
            string_member("prev_node", &run.prev_node, &mut text);
            member("step", &metadata.step.to_string(), &mut text);
            text.push_str("\"updated_fields\": [");
            for (count, field) in run.updated_fields.iter().enumerate() {
                text.push_str(if count == 0 { "" } else { ", " });
                json::write_string(field, &mut text);
            }
            text.push_str("], ");
            let attempt = run.attempt.map(|attempt| attempt.to_string());
            member("attempt", attempt.as_deref().unwrap_or("null"), &mut text);
            match &run.dispatch_id {
                Some(dispatch_id) => string_member("dispatch_id", dispatch_id, &mut text),
                None => member("dispatch_id", "null", &mut text),
            }
            extra_members(&metadata.extra, &mut text);
            text.push_str("\"state\": ");
            text.push_str(state);
        }
        None => {
            json::write_string(&metadata.timestamp, &mut text);
            text.push_str(", ");
            string_member("node_name", &metadata.node, &mut text);
            member("step", &metadata.step.to_string(), &mut text);
            extra_members(&metadata.extra, &mut text);
            text.push_str("\"state\": ");
            json::write_string(state, &mut text);
        }
    }
    text.push('}');
    text
}

/// What [`write()`] begins with for every checkpoint of this id and session.
pub fn beginning(checkpoint: &str, session: &str) -> String {
    let mut text = String::from("{");
    string_member("checkpoint_id", checkpoint, &mut text);
    string_member("session_id", session, &mut text);
    text
}

/// What [`write()`] begins with for every checkpoint of this id, session and run,
/// and for no other: a value that begins with it may be replaced or removed
/// without reading the rest.
pub fn owner(metadata: &Metadata) -> String {
    let mut text = beginning(&metadata.checkpoint_id, &metadata.session_id);
    match &metadata.run {
        Some(run) => string_member("run_id", &run.run_id, &mut text),
        None => text.push_str("\"timestamp\": "),
    }
    text
}

fn extra_members(extra: &[NamedValue], text: &mut String) {
    for NamedValue { name, value } in extra {
        json::write_string(name, text);
        text.push_str(": ");
        text.push_str(value);
        text.push_str(", ");
    }
}

/// The members that the two formats define. No other member may have one of
/// these names: `run_id` for instance would make a document of format A one of
/// format B.
const MEMBERS: [&str; 13] = [
    "checkpoint_id",
    "session_id",
    "run_id",
    "created_at",
    "timestamp",
    "node",
    "node_name",
    "prev_node",
    "step",
    "updated_fields",
    "attempt",
    "dispatch_id",
    "state",
];

/// Checks the names of members that the formats do not define.
///
/// # Errors
/// Returns why a name can't be used.
pub fn check_extra_names(extra: &[NamedValue]) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for NamedValue { name, .. } in extra {
        if MEMBERS.contains(&name.as_str()) {
            return Err(format!("extra can't contain {name:?}, which the document format defines"));
        }
        if !names.insert(name) {
            return Err(format!("extra contains {name:?} twice"));
        }
    }
    Ok(())
}

fn string_member(key: &str, value: &str, text: &mut String) {
    text.push('"');
    text.push_str(key);
    text.push_str("\": ");
    json::write_string(value, text);
    text.push_str(", ");
}

fn member(key: &str, value: &str, text: &mut String) {
    text.push('"');
    text.push_str(key);
    text.push_str("\": ");
    text.push_str(value);
    text.push_str(", ");
}

/// Whose a stored document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The checkpoint's id.
    pub checkpoint_id: String,
    /// The session's id.
    pub session_id: String,
    /// The run's id; none in generation A.
    pub run_id: Option<String>,
    /// How many bytes of the text it takes to know this.
    pub known_from: usize,
}

impl Owner {
    /// Whether the document is this checkpoint of this session: its key alone
    /// does not say so.
    pub fn is_of(&self, session: &Id, checkpoint: &str) -> bool {
        self.session_id == session.as_str() && self.checkpoint_id == checkpoint
    }
}

/// Whose a document is, as far as its `head` tells.
///
/// # Errors
/// What keeps it from being read; a [`Fault`] that is `at_end` where the rest
/// of the document might tell.
pub fn read_owner(head: &str) -> Result<Owner, Fault> {
    let mut scanner = Scanner::new(head);
    let (mut checkpoint_id, mut session_id, mut run_id) = (None, None, None);
    let mut members = Members::of(&mut scanner)?;
    let mut count = 0;
    while let Some(key) = members.next_key(&mut scanner)? {
        count += 1;
        let key = key.as_deref().unwrap_or_default();
        match key {
            "checkpoint_id" => checkpoint_id = Some(text_value(&mut scanner, head)?),
            "session_id" => session_id = Some(text_value(&mut scanner, head)?),
            "run_id" => run_id = Some(text_value(&mut scanner, head)?),
            // Generation A as it is always written: what comes is no run.
            "timestamp" if count == 3 => {}
            _ => {
                scanner.value()?;
                continue;
            }
        }
        if run_id.is_some() || key == "timestamp" {
            if let (Some(checkpoint_id), Some(session_id)) = (&checkpoint_id, &session_id) {
                let (checkpoint_id, session_id) = (checkpoint_id.clone(), session_id.clone());
                return Ok(Owner { checkpoint_id, session_id, run_id, known_from: scanner.at() });
            }
            if key == "timestamp" {
                scanner.value()?;
            }
        }
    }
    match (checkpoint_id, session_id) {
        (Some(checkpoint_id), Some(session_id)) => {
            Ok(Owner { checkpoint_id, session_id, run_id, known_from: scanner.at() })
        }
        _ => Err(Fault { at_end: false, ..scanner.fault("a document that says whose it is") }),
    }
}

fn text_value(scanner: &mut Scanner<'_>, text: &str) -> Result<String, Fault> {
    let literal = scanner.string()?;
    let fault = scanner.fault("text without a lone surrogate");
    json::unescape(&text[literal], None).map(Cow::into_owned).ok_or(Fault { at_end: false, ..fault })
}

/// The members of the object that a scanner stands before.
struct Members {
    first: bool,
}

impl Members {
    fn of(scanner: &mut Scanner<'_>) -> Result<Self, Fault> {
        scanner.expect(b'{', "an object")?;
        Ok(Self { first: true })
    }

    /// The key of the next member, with the scanner before its value; none at
    /// the end of the object.
    fn next_key<'a>(&mut self, scanner: &mut Scanner<'a>) -> Result<Option<Option<Cow<'a, str>>>, Fault> {
        if scanner.eat(b'}') {
            return Ok(None);
        }
        if !self.first {
            scanner.expect(b',', "a comma or the closing bracket")?;
        }
        self.first = false;
        let key = scanner.key()?;
        // None for a key with a lone surrogate, which no `String` can hold.
        Ok(Some(json::unescape(scanner.slice(key), None)))
    }
}

/// The members of a document that mean something, each as the place of its
/// value. Of a key that stands twice the last counts, as it does in Python; but
/// whose a document is it may say only once, since [`read_owner`] does not read
/// to the end.
#[derive(Default)]
struct Places {
    checkpoint_id: Option<Range<usize>>,
    session_id: Option<Range<usize>>,
    run_id: Option<Range<usize>>,
    created_at: Option<Range<usize>>,
    timestamp: Option<Range<usize>>,
    node: Option<Range<usize>>,
    node_name: Option<Range<usize>>,
    prev_node: Option<Range<usize>>,
    step: Option<Range<usize>>,
    updated_fields: Option<Range<usize>>,
    attempt: Option<Range<usize>>,
    dispatch_id: Option<Range<usize>>,
    state: Option<Range<usize>>,
    /// The members that the formats do not define.
    extra: Vec<(String, Range<usize>)>,
}

impl Places {
    fn of(text: &str) -> Result<Self, Fault> {
        let mut places = Self::default();
        let mut scanner = Scanner::new(text);
        let mut members = Members::of(&mut scanner)?;
        while let Some(key) = members.next_key(&mut scanner)? {
            let after_colon = scanner.at();
            let place = scanner.value()?;
            let Some(key) = key else { continue };
            match &*key {
                "checkpoint_id" => once(&mut places.checkpoint_id, place, &scanner)?,
                "session_id" => once(&mut places.session_id, place, &scanner)?,
                "run_id" => once(&mut places.run_id, place, &scanner)?,
                "created_at" => places.created_at = Some(place),
                "timestamp" => places.timestamp = Some(place),
                "node" => places.node = Some(place),
                "node_name" => places.node_name = Some(place),
                "prev_node" => places.prev_node = Some(place),
                "step" => places.step = Some(place),
                "updated_fields" => places.updated_fields = Some(place),
                "attempt" => places.attempt = Some(place),
                "dispatch_id" => places.dispatch_id = Some(place),
                "state" => places.state = Some(with_space(&mut scanner, text, after_colon)),
                _ => {
                    let place = with_space(&mut scanner, text, after_colon);
                    places.extra.push((key.into_owned(), place));
                }
            }
        }
        scanner.end()?;
        Ok(places)
    }
}

/// Returns the span of the value that was just read, with the white space
/// around it except for the space that [`write()`] puts behind the colon.
fn with_space(scanner: &mut Scanner<'_>, text: &str, after_colon: usize) -> Range<usize> {
    let space = usize::from(text[after_colon..].starts_with(' '));
    scanner.peek();
    after_colon + space..scanner.at()
}

fn once(known: &mut Option<Range<usize>>, place: Range<usize>, scanner: &Scanner<'_>) -> Result<(), Fault> {
    match known.replace(place) {
        None => Ok(()),
        Some(_) => Err(scanner.fault("no second member that says whose this is")),
    }
}

/// Reads a document of either generation; the state is the very text that it
/// was saved with.
///
/// # Errors
/// What keeps it from being read, in words.
pub fn read(mut text: String) -> Result<Checkpoint, String> {
    let places = Places::of(&text).map_err(|fault| fault.to_string())?;
    let reader = Reader { text: &text };
    let (timestamp, node, run) = if places.created_at.is_some() || places.run_id.is_some() {
        let run = Run {
            run_id: reader.text("run_id", places.run_id)?,
            prev_node: reader.text("prev_node", places.prev_node)?,
            updated_fields: reader.texts("updated_fields", places.updated_fields)?,
            attempt: reader.optional("attempt", places.attempt, Reader::integer)?,
            dispatch_id: reader.optional("dispatch_id", places.dispatch_id, Reader::text)?,
        };
        let timestamp = reader.timestamp("created_at", places.created_at)?;
        (timestamp, reader.text("node", places.node)?, Some(run))
    } else {
        let timestamp = reader.timestamp("timestamp", places.timestamp)?;
        (timestamp, reader.text("node_name", places.node_name)?, None)
    };
    let metadata = Metadata {
        session_id: reader.text("session_id", places.session_id)?,
        checkpoint_id: reader.text("checkpoint_id", places.checkpoint_id)?,
        timestamp,
        node,
        step: reader.integer("step", places.step)?,
        run,
        extra: reader.extra(places.extra),
    };
    let place = places.state.ok_or("the key \"state\" is missing")?;
    let state = if metadata.run.is_some() {
        text.truncate(place.end);
        text.drain(..place.start);
        text
    } else {
        let literal = text[place].trim_ascii();
        let state = literal
            .starts_with('"')
            .then(|| json::unescape(literal, Some(write_lone_surrogate)))
            .flatten()
            .ok_or("the key \"state\" does not hold text")?;
        json::check(&state).map_err(|fault| format!("the state is not JSON: {fault}"))?;
        state.into_owned()
    };
    Ok(Checkpoint { metadata, state })
}

/// Writes a lone surrogate of the string that holds a state of generation A. It
/// stands within a string of the state, where its escape means the same; but
/// behind a backslash that escape would be read as plain text, so there goes
/// another character that no backslash escapes.
fn write_lone_surrogate(unit: u16, state: &mut String) {
    let backslashes = state.bytes().rev().take_while(|byte| *byte == b'\\').count();
    if backslashes % 2 == 0 {
        json::write_unit(unit, state);
    } else {
        state.push(char::REPLACEMENT_CHARACTER);
    }
}

/// Turns places of a document into what stands there.
struct Reader<'a> {
    text: &'a str,
}

type Place = Option<Range<usize>>;

impl Reader<'_> {
    fn raw(&self, key: &str, place: Place) -> Result<&str, String> {
        place.map(|place| &self.text[place]).ok_or_else(|| format!("the key {key:?} is missing"))
    }

    fn text(&self, key: &str, place: Place) -> Result<String, String> {
        let raw = self.raw(key, place)?;
        string(raw).ok_or_else(|| format!("the key {key:?} does not hold text"))
    }

    fn integer(&self, key: &str, place: Place) -> Result<i64, String> {
        let raw = self.raw(key, place)?;
        raw.parse().map_err(|_| format!("the key {key:?} does not hold an integer of 64 bits"))
    }

    fn timestamp(&self, key: &str, place: Place) -> Result<String, String> {
        let text = self.text(key, place)?;
        match Timestamp::parse(&text) {
            Some(_) => Ok(text),
            None => Err(format!("the key {key:?} holds {text:?}, which is no timestamp")),
        }
    }

    /// Returns the members that the formats do not define. Of equal names the
    /// last one counts, as in Python.
    fn extra(&self, places: Vec<(String, Range<usize>)>) -> Vec<NamedValue> {
        let mut names = BTreeSet::new();
        let mut extra: Vec<_> = places
            .into_iter()
            .rev()
            .filter(|(name, _)| names.insert(name.clone()))
            .map(|(name, place)| NamedValue { name, value: self.text[place].to_owned() })
            .collect();
        extra.reverse();
        extra
    }

    fn optional<T>(
        &self,
        key: &str,
        place: Place,
        read: impl FnOnce(&Self, &str, Place) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        match self.raw(key, place.clone())? {
            "null" => Ok(None),
            _ => read(self, key, place).map(Some),
        }
    }

    fn texts(&self, key: &str, place: Place) -> Result<Vec<String>, String> {
        let fault = || format!("the key {key:?} does not hold a list of texts");
        let mut scanner = Scanner::new(self.raw(key, place)?);
        let mut texts = Vec::new();
        scanner.expect(b'[', "a list").map_err(|_| fault())?;
        while !scanner.eat(b']') {
            if !texts.is_empty() {
                scanner.eat(b',');
            }
            let literal = scanner.string().map_err(|_| fault())?;
            texts.push(string(scanner.slice(literal)).ok_or_else(fault)?);
        }
        Ok(texts)
    }
}

fn string(literal: &str) -> Option<String> {
    literal.starts_with('"').then(|| json::unescape(literal, None)).flatten().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_run() -> Metadata {
        Metadata {
            session_id: "s\"1".into(),
            checkpoint_id: "c1".into(),
            timestamp: "2026-01-02T03:04:05+07:00".into(),
            node: "näme".into(),
            step: -3,
            extra: Vec::new(),
            run: Some(Run {
                run_id: "r1".into(),
                prev_node: "__start__".into(),
                updated_fields: vec!["a".into(), "b".into()],
                attempt: None,
                dispatch_id: Some("d".into()),
            }),
        }
    }

    #[test]
    fn a_checkpoint_with_a_run_is_generation_b() {
        let text = write(&of_run(), "{\"x\":  [NaN]} ");
        assert_eq!(
            text,
            r#"{"checkpoint_id": "c1", "session_id": "s\"1", "run_id": "r1", "created_at": "2026-01-02T03:04:05+07:00", "node": "n\u00e4me", "prev_node": "__start__", "step": -3, "updated_fields": ["a", "b"], "attempt": null, "dispatch_id": "d", "state": {"x":  [NaN]} }"#
        );
        assert_eq!(read(text), Ok(Checkpoint { metadata: of_run(), state: "{\"x\":  [NaN]} ".into() }));
    }

    #[test]
    fn a_checkpoint_without_a_run_is_generation_a() {
        let metadata = Metadata { run: None, ..of_run() };
        let text = write(&metadata, r#" {"k": "é \u00e9\n"}"#);
        assert_eq!(
            text,
            r#"{"checkpoint_id": "c1", "session_id": "s\"1", "timestamp": "2026-01-02T03:04:05+07:00", "node_name": "n\u00e4me", "step": -3, "state": " {\"k\": \"\u00e9 \\u00e9\\n\"}"}"#
        );
        assert_eq!(read(text), Ok(Checkpoint { metadata, state: r#" {"k": "é \u00e9\n"}"#.into() }));
    }

    #[test]
    fn order_spacing_escaping_and_unknown_keys_are_free() {
        let text = "\n{ \"state\":{}, \"st\\u0065p\" : 1 ,\"node_name\":\"\\u006e\",\"extra\":[{\"session_id\":\"x\"}],\n\
                    \"timestamp\":\"lost\",\"timestamp\":\"2026-01-02T03:04:05\",\"session_id\":\"s\",\"checkpoint_id\":\"c\",\"\\ud800\":0}\n"
            .replace("{}", "\"{}\"");
        let read = read(text).expect("a document");
        assert_eq!(
            (read.metadata.session_id.as_str(), read.metadata.node.as_str(), read.state.as_str()),
            ("s", "n", "{}")
        );
    }

    #[test]
    fn says_what_keeps_a_document_from_being_read() {
        let whole = write(&of_run(), "{}");
        let without = |from: &str, to: &str| read(whole.replace(from, to)).expect_err("unreadable");
        assert_eq!(without("\"node\": ", "\"nodes\": "), "the key \"node\" is missing");
        assert_eq!(without("-3", "1.5"), "the key \"step\" does not hold an integer of 64 bits");
        assert_eq!(
            without("[\"a\", \"b\"]", "[\"a\", 1]"),
            "the key \"updated_fields\" does not hold a list of texts"
        );
        assert_eq!(
            without("2026", "soon"),
            "the key \"created_at\" holds \"soon-01-02T03:04:05+07:00\", which is no timestamp"
        );
        assert_eq!(without("{}}", "{}"), "expected a comma or the closing bracket at byte 242");
        assert_eq!(read("[]".into()), Err("expected an object at byte 0".into()));
        let old = write(&Metadata { run: None, ..of_run() }, "{}").replace("\"{}\"", "\"{\"");
        assert_eq!(read(old), Err("the state is not JSON: expected a string at byte 1".into()));
    }

    #[test]
    fn a_backslash_escapes_no_lone_surrogate_of_a_state_in_a_string() {
        let of = |state: &str| {
            // The `?` of the state stands in the string as a lone surrogate.
            let text = write(&Metadata { run: None, ..of_run() }, state).replace('?', r"\ud800");
            read(text).map(|read| read.state)
        };
        assert_eq!(of(r#""\\?""#).as_deref(), Ok(r#""\\\ud800""#));
        let fault = "the state is not JSON: expected an escape that JSON knows at byte 2";
        assert_eq!(of(r#""\?""#), Err(fault.into()));
        assert_eq!(of(r#""\\\?""#), Err(fault.replace('2', "4")));
    }

    #[test]
    fn the_head_of_a_document_says_whose_it_is() {
        for metadata in [of_run(), Metadata { run: None, ..of_run() }] {
            let text = write(&metadata, "{}");
            let found = read_owner(&text).expect("an owner");
            assert!(text.starts_with(&owner(&metadata)));
            assert_eq!(found.known_from, owner(&metadata).len() - if metadata.run.is_some() { 2 } else { 1 });
            assert_eq!(found.session_id, metadata.session_id);
            assert_eq!(found.run_id, metadata.run.map(|run| run.run_id));
            for cut in 0..found.known_from {
                assert!(read_owner(&text[..cut]).expect_err("too short").at_end, "{cut}");
            }
        }
        assert!(!read_owner("{\"a\": 1}").expect_err("nobody's").at_end);
    }
}
