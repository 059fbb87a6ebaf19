//! The document: the stored text of a checkpoint, one flat JSON object as llmfy
//! writes it.
//!
//! Format A (llmfy 0.4.11 to 0.10.1) has no run, and contains the state as a JSON
//! string of JSON text. Format B (from 0.11.0) has a run, and contains the state
//! as it is. llmfy reads only the format that it writes; this reads both. The
//! order of members, white space and escapes are free. Members that the formats do
//! not define are kept as `extra`.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use crate::id::Id;
use crate::json::{self, Scanner, SyntaxError};

use crate::{Checkpoint, Metadata, NamedValue, Run, Timestamp};

/// The members that the formats define. No extra member may have one of these
/// names: `run_id`, for example, would turn a document of format A into format B.
pub const MEMBERS: [&str; 13] = [
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

/// How many of them, at the beginning, are ids.
const IDS: usize = 3;

/// Returns the document of a checkpoint: format B if it has a run, format A
/// otherwise. The bytes are those of `json.dumps` in llmfy, with the extra members
/// in front of the state.
pub fn write(metadata: &Metadata, state: &str) -> String {
    let mut text = String::with_capacity(state.len() + 512);
    text.push_str(&owner_header(metadata));
    match &metadata.run {
        Some(run) => {
            string_member("created_at", &metadata.timestamp, &mut text);
            string_member("node", &metadata.node, &mut text);
            string_member("prev_node", &run.prev_node, &mut text);
            member("step", &metadata.step.to_string(), &mut text);
            text.push_str("\"updated_fields\": [");
            for (index, field) in run.updated_fields.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                json::write_string(field, &mut text);
            }
            text.push_str("], ");
            let attempt = run.attempt.map(|attempt| attempt.to_string());
            member("attempt", attempt.as_deref().unwrap_or("null"), &mut text);
            match &run.dispatch_id {
                Some(dispatch_id) => string_member("dispatch_id", dispatch_id, &mut text),
                None => member("dispatch_id", "null", &mut text),
            }
        }
        None => {
            json::write_string(&metadata.timestamp, &mut text);
            text.push_str(", ");
            string_member("node_name", &metadata.node, &mut text);
            member("step", &metadata.step.to_string(), &mut text);
        }
    }
    for NamedValue { name, value } in &metadata.extra {
        json::write_string(name, &mut text);
        text.push_str(": ");
        text.push_str(value);
        text.push_str(", ");
    }
    text.push_str("\"state\": ");
    match &metadata.run {
        Some(_) => text.push_str(state),
        None => json::write_string(state, &mut text),
    }
    text.push('}');
    text
}

/// Returns the start of the document that [`write()`] returns for any checkpoint with
/// these ids.
pub fn id_header(checkpoint: &str, session: &str) -> String {
    let mut text = String::from("{");
    string_member("checkpoint_id", checkpoint, &mut text);
    string_member("session_id", session, &mut text);
    text
}

/// Returns the start of the document that [`write()`] returns for any checkpoint with
/// these ids and this run, and for no other. A value that starts with it may be
/// replaced or deleted without reading the rest.
pub fn owner_header(metadata: &Metadata) -> String {
    let mut text = id_header(&metadata.checkpoint_id, &metadata.session_id);
    match &metadata.run {
        Some(run) => string_member("run_id", &run.run_id, &mut text),
        None => text.push_str("\"timestamp\": "),
    }
    text
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

/// Checks that extra members have unique names, and none that the formats define.
///
/// # Errors
/// The reason.
pub fn check_extra_names(extra: &[NamedValue]) -> Result<(), String> {
    let names: Vec<&str> = extra.iter().map(|extra| extra.name.as_str()).collect();
    if let Some(name) = names.iter().find(|name| MEMBERS.contains(name)) {
        return Err(format!("extra contains {name:?}, which the format of documents defines"));
    }
    match last_of_duplicates(&names).iter().position(|is_last| !is_last) {
        Some(index) => Err(format!("extra contains {:?} twice", names[index])),
        None => Ok(()),
    }
}

/// Returns for each name whether no equal name follows.
fn last_of_duplicates(names: &[&str]) -> Vec<bool> {
    let mut seen = BTreeSet::new();
    let mut is_last: Vec<bool> = names.iter().rev().map(|name| seen.insert(*name)).collect();
    is_last.reverse();
    is_last
}

/// The session, checkpoint and run that a document belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The id of the checkpoint.
    pub checkpoint_id: String,
    /// The id of the session.
    pub session_id: String,
    /// The id of the run; none in format A.
    pub run_id: Option<String>,
    /// The number of bytes of the document that determine the owner.
    pub header_len: usize,
}

impl Owner {
    /// Whether the document is this checkpoint of this session. Its key does not
    /// prove that.
    pub fn matches(&self, session: &Id, checkpoint: &str) -> bool {
        self.session_id == session.as_str() && self.checkpoint_id == checkpoint
    }
}

/// Returns the owner of a document, of which `head` is all or the beginning.
///
/// # Errors
/// The document is invalid. The error `is_incomplete` if more of the document may
/// determine the owner.
pub fn read_owner(head: &str) -> Result<Owner, SyntaxError> {
    let mut scanner = Scanner::new(head);
    let (mut checkpoint_id, mut session_id, mut run_id) = (None, None, None);
    let mut members = Members::new(&mut scanner)?;
    let mut count = 0;
    while let Some(key) = members.next_key(&mut scanner)? {
        count += 1;
        // The order that format A is always written in: no run follows.
        let is_format_a = count == 3 && key.as_deref() == Some("timestamp");
        match key.as_deref() {
            Some("checkpoint_id") => checkpoint_id = Some(read_string(&mut scanner, head)?),
            Some("session_id") => session_id = Some(read_string(&mut scanner, head)?),
            Some("run_id") => run_id = Some(read_string(&mut scanner, head)?),
            _ if is_format_a => {}
            _ => {
                scanner.value()?;
                continue;
            }
        }
        if (run_id.is_some() || is_format_a) && checkpoint_id.is_some() && session_id.is_some() {
            break;
        }
        if is_format_a {
            scanner.value()?;
        }
    }
    match (checkpoint_id, session_id) {
        (Some(checkpoint_id), Some(session_id)) => {
            Ok(Owner { checkpoint_id, session_id, run_id, header_len: scanner.position() })
        }
        _ => {
            let error = scanner.error("a document with a checkpoint id and a session id");
            Err(SyntaxError { is_incomplete: false, ..error })
        }
    }
}

fn read_string(scanner: &mut Scanner<'_>, text: &str) -> Result<String, SyntaxError> {
    let literal = scanner.string()?;
    let error = scanner.error("text without a lone surrogate");
    let text = json::unescape(&text[literal], None).map(Cow::into_owned);
    text.ok_or(SyntaxError { is_incomplete: false, ..error })
}

/// The members of the object at the position of a scanner.
struct Members {
    is_first: bool,
}

impl Members {
    fn new(scanner: &mut Scanner<'_>) -> Result<Self, SyntaxError> {
        scanner.expect(b'{', "an object")?;
        Ok(Self { is_first: true })
    }

    /// Returns the key of the next member, after which the scanner is at its value;
    /// none at the end of the object. A key with a lone surrogate is `Some(None)`,
    /// because no `String` can hold it.
    fn next_key<'a>(
        &mut self,
        scanner: &mut Scanner<'a>,
    ) -> Result<Option<Option<Cow<'a, str>>>, SyntaxError> {
        if scanner.consume(b'}') {
            return Ok(None);
        }
        if !self.is_first {
            scanner.expect(b',', "a comma or the closing bracket")?;
        }
        self.is_first = false;
        let key = scanner.key()?;
        Ok(Some(json::unescape(scanner.slice(key), None)))
    }
}

/// Parses a document of either format. The state is returned byte for byte as it was
/// saved.
///
/// # Errors
/// The reason why it can't be read.
pub fn read(mut text: String) -> Result<Checkpoint, String> {
    let fields = FieldReader::new(&text).map_err(|error| error.to_string())?;
    let (timestamp, node, run) = if fields.span("created_at").or(fields.span("run_id")).is_some() {
        let run = Run {
            run_id: fields.string("run_id")?,
            prev_node: fields.string("prev_node")?,
            updated_fields: fields.strings("updated_fields")?,
            attempt: fields.optional("attempt", FieldReader::integer)?,
            dispatch_id: fields.optional("dispatch_id", FieldReader::string)?,
        };
        (fields.timestamp("created_at")?, fields.string("node")?, Some(run))
    } else {
        (fields.timestamp("timestamp")?, fields.string("node_name")?, None)
    };
    let metadata = Metadata {
        session_id: fields.string("session_id")?,
        checkpoint_id: fields.string("checkpoint_id")?,
        timestamp,
        node,
        step: fields.integer("step")?,
        run,
        extra: fields.extra(),
    };
    let span = fields.span("state").ok_or("the member \"state\" is missing")?;
    let state = if metadata.run.is_some() {
        text.truncate(span.end);
        text.drain(..span.start);
        text
    } else {
        let literal = text[span].trim_ascii();
        let state = literal
            .starts_with('"')
            .then(|| json::unescape(literal, Some(write_lone_surrogate)))
            .flatten()
            .ok_or("the member \"state\" is not a string")?;
        json::check(&state).map_err(|error| format!("the state is not JSON: {error}"))?;
        state.into_owned()
    };
    Ok(Checkpoint { metadata, state })
}

/// Writes a lone surrogate of the string that contains a state of format A. It is
/// within a string of the state, where its escape has the same meaning. After a
/// backslash the escape would be plain text, so a character is written that no
/// backslash may escape: the state is then invalid.
fn write_lone_surrogate(unit: u16, state: &mut String) {
    let backslashes = state.bytes().rev().take_while(|byte| *byte == b'\\').count();
    if backslashes % 2 == 0 {
        json::write_utf16_escape(unit, state);
    } else {
        state.push(char::REPLACEMENT_CHARACTER);
    }
}

/// Parses the values of a document. Of duplicate keys the last one counts, as in
/// Python. The ids must be unique, because [`read_owner`] does not read to the end.
struct FieldReader<'a> {
    text: &'a str,
    /// The spans of the values of [`MEMBERS`].
    spans: [Option<Range<usize>>; MEMBERS.len()],
    extra: Vec<(String, Range<usize>)>,
}

impl<'a> FieldReader<'a> {
    fn new(text: &'a str) -> Result<Self, SyntaxError> {
        let mut fields = Self { text, spans: Default::default(), extra: Vec::new() };
        let mut scanner = Scanner::new(text);
        let mut members = Members::new(&mut scanner)?;
        while let Some(key) = members.next_key(&mut scanner)? {
            let after_colon = scanner.position();
            let span = scanner.value()?;
            // White space around a value, without the space that `write` puts after
            // the colon: states and extra members are returned as they were saved.
            scanner.peek();
            let space = usize::from(text[after_colon..].starts_with(' '));
            let verbatim = after_colon + space..scanner.position();
            let Some(key) = key else { continue };
            let Some(index) = MEMBERS.iter().position(|member| *member == key) else {
                fields.extra.push((key.into_owned(), verbatim));
                continue;
            };
            let span = if key == "state" { verbatim } else { span };
            if fields.spans[index].replace(span).is_some() && index < IDS {
                return Err(scanner.error("each id only once"));
            }
        }
        scanner.expect_end()?;
        Ok(fields)
    }

    fn span(&self, key: &str) -> Option<Range<usize>> {
        self.spans[MEMBERS.iter().position(|member| *member == key)?].clone()
    }

    fn raw(&self, key: &str) -> Result<&'a str, String> {
        self.span(key).map(|span| &self.text[span]).ok_or_else(|| format!("the member {key:?} is missing"))
    }

    fn string(&self, key: &str) -> Result<String, String> {
        parse_string(self.raw(key)?).ok_or_else(|| format!("the member {key:?} is not a string"))
    }

    fn integer(&self, key: &str) -> Result<i64, String> {
        self.raw(key)?.parse().map_err(|_| format!("the member {key:?} is not an integer of 64 bits"))
    }

    fn timestamp(&self, key: &str) -> Result<String, String> {
        let text = self.string(key)?;
        match Timestamp::parse(&text) {
            Some(_) => Ok(text),
            None => Err(format!("the member {key:?} is {text:?}, which is not a timestamp")),
        }
    }

    fn optional<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Self, &str) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        if self.raw(key)? == "null" { Ok(None) } else { read(self, key).map(Some) }
    }

    fn strings(&self, key: &str) -> Result<Vec<String>, String> {
        let error = || format!("the member {key:?} is not a list of strings");
        let mut scanner = Scanner::new(self.raw(key)?);
        let mut strings = Vec::new();
        scanner.expect(b'[', "a list").map_err(|_| error())?;
        while !scanner.consume(b']') {
            if !strings.is_empty() {
                scanner.consume(b',');
            }
            let literal = scanner.string().map_err(|_| error())?;
            strings.push(parse_string(scanner.slice(literal)).ok_or_else(error)?);
        }
        Ok(strings)
    }

    fn extra(&self) -> Vec<NamedValue> {
        let names: Vec<&str> = self.extra.iter().map(|(name, _)| name.as_str()).collect();
        let members = self.extra.iter().zip(last_of_duplicates(&names)).filter(|(_, is_last)| *is_last);
        let value = |span: &Range<usize>| self.text[span.clone()].to_owned();
        members.map(|((name, span), _)| NamedValue { name: name.clone(), value: value(span) }).collect()
    }
}

fn parse_string(literal: &str) -> Option<String> {
    literal.starts_with('"').then(|| json::unescape(literal, None)).flatten().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_run() -> Metadata {
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
    fn a_checkpoint_with_a_run_has_format_b() {
        let text = write(&with_run(), "{\"x\":  [NaN]} ");
        assert_eq!(
            text,
            r#"{"checkpoint_id": "c1", "session_id": "s\"1", "run_id": "r1", "created_at": "2026-01-02T03:04:05+07:00", "node": "n\u00e4me", "prev_node": "__start__", "step": -3, "updated_fields": ["a", "b"], "attempt": null, "dispatch_id": "d", "state": {"x":  [NaN]} }"#
        );
        assert_eq!(read(text), Ok(Checkpoint { metadata: with_run(), state: "{\"x\":  [NaN]} ".into() }));
    }

    #[test]
    fn a_checkpoint_without_a_run_has_format_a() {
        let metadata = Metadata { run: None, ..with_run() };
        let text = write(&metadata, r#" {"k": "é \u00e9\n"}"#);
        assert_eq!(
            text,
            r#"{"checkpoint_id": "c1", "session_id": "s\"1", "timestamp": "2026-01-02T03:04:05+07:00", "node_name": "n\u00e4me", "step": -3, "state": " {\"k\": \"\u00e9 \\u00e9\\n\"}"}"#
        );
        assert_eq!(read(text), Ok(Checkpoint { metadata, state: r#" {"k": "é \u00e9\n"}"#.into() }));
    }

    #[test]
    fn order_white_space_and_escapes_are_free() {
        let text = "\n{ \"state\":{}, \"st\\u0065p\" : 1 ,\"node_name\":\"\\u006e\",\"extra\":[{\"session_id\":\"x\"}],\n\
                    \"timestamp\":\"lost\",\"timestamp\":\"2026-01-02T03:04:05\",\"session_id\":\"s\",\"checkpoint_id\":\"c\",\"\\ud800\":0}\n"
            .replace("{}", "\"{}\"");
        let read = read(text).expect("a document");
        assert_eq!(
            (read.metadata.session_id.as_str(), read.metadata.node.as_str(), read.state.as_str()),
            ("s", "n", "{}")
        );
        let extra = NamedValue { name: "extra".into(), value: "[{\"session_id\":\"x\"}]".into() };
        assert_eq!(read.metadata.extra, [extra]);
    }

    #[test]
    fn errors_name_the_invalid_member() {
        let whole = write(&with_run(), "{}");
        let error = |from: &str, to: &str| read(whole.replace(from, to)).expect_err("invalid");
        assert_eq!(error("\"node\": ", "\"nodes\": "), "the member \"node\" is missing");
        assert_eq!(error("-3", "1.5"), "the member \"step\" is not an integer of 64 bits");
        assert_eq!(
            error("[\"a\", \"b\"]", "[\"a\", 1]"),
            "the member \"updated_fields\" is not a list of strings"
        );
        assert_eq!(
            error("2026", "soon"),
            "the member \"created_at\" is \"soon-01-02T03:04:05+07:00\", which is not a timestamp"
        );
        assert_eq!(error("{}}", "{}"), "expected a comma or the closing bracket at byte 242");
        assert_eq!(read("[]".into()), Err("expected an object at byte 0".into()));
        let old = write(&Metadata { run: None, ..with_run() }, "{}").replace("\"{}\"", "\"{\"");
        assert_eq!(read(old), Err("the state is not JSON: expected a string at byte 1".into()));
    }

    #[test]
    fn an_escaped_lone_surrogate_makes_a_state_of_format_a_invalid() {
        let read_state = |state: &str| {
            // The string contains a lone surrogate instead of the `?` of the state.
            let text = write(&Metadata { run: None, ..with_run() }, state).replace('?', r"\ud800");
            read(text).map(|read| read.state)
        };
        assert_eq!(read_state(r#""\\?""#).as_deref(), Ok(r#""\\\ud800""#));
        let error = "the state is not JSON: expected an escape of JSON at byte 2";
        assert_eq!(read_state(r#""\?""#), Err(error.into()));
        assert_eq!(read_state(r#""\\\?""#), Err(error.replace('2', "4")));
    }

    #[test]
    fn the_head_of_a_document_determines_its_owner() {
        for metadata in [with_run(), Metadata { run: None, ..with_run() }] {
            let text = write(&metadata, "{}");
            let found = read_owner(&text).expect("an owner");
            assert!(text.starts_with(&owner_header(&metadata)));
            assert_eq!(
                found.header_len,
                owner_header(&metadata).len() - if metadata.run.is_some() { 2 } else { 1 }
            );
            assert_eq!(found.session_id, metadata.session_id);
            assert_eq!(found.run_id, metadata.run.map(|run| run.run_id));
            for cut in 0..found.header_len {
                assert!(read_owner(&text[..cut]).expect_err("too short").is_incomplete, "{cut}");
            }
        }
        assert!(!read_owner("{\"a\": 1}").expect_err("no owner").is_incomplete);
    }
    #[test]
    fn extra_members_are_kept_in_both_formats() {
        let named = |name: &str, value: &str| NamedValue { name: name.into(), value: value.into() };
        let extra = vec![named("z\"", " [1.0, NaN]\n"), named("", "{}")];
        for metadata in [with_run(), Metadata { run: None, ..with_run() }] {
            let metadata = Metadata { extra: extra.clone(), ..metadata };
            let text = write(&metadata, "{}");
            assert!(text.contains("\"z\\\"\":  [1.0, NaN]\n, \"\": {}, \"state\": "), "{text}");
            assert_eq!(read(text).map(|read| read.metadata), Ok(metadata.clone()));
            // Of duplicate names the last one counts.
            let twice = write(&metadata, "{}").replace("\"state\": ", "\"z\\\"\": 2, \"state\": ");
            assert_eq!(
                read(twice).map(|read| read.metadata.extra),
                Ok(vec![named("", "{}"), named("z\"", "2")])
            );
        }
        assert_eq!(check_extra_names(&extra), Ok(()));
        assert_eq!(
            check_extra_names(&[named("a", "1"), named("b", "1"), named("a", "1")]),
            Err("extra contains \"a\" twice".into())
        );
        assert!(check_extra_names(&[named("run_id", "\"r\"")]).is_err());
    }
}
