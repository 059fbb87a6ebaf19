//! Properties that hold for every input: one function per fuzz target, which panics
//! if its property does not hold. The fuzz targets call them with the inputs of
//! libFuzzer, `guest/tests/fuzz.rs` with the corpus and changes of it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use checkpointer_guest::Timestamp;
use checkpointer_guest::document::{self, Owner};
use checkpointer_guest::id::{Id, MAX_BYTES};
use checkpointer_guest::json::{self, Scanner};
use checkpointer_guest::keys::{KeyKind, Keys, ParsedKey};
use checkpointer_guest::{Checkpoint, Layout, Metadata, NamedValue, Run, compression};
use serde::de::{DeserializeOwned, IgnoredAny};
use std::borrow::Cow;

/// A document is read as a second reader reads it. Any head that is long enough
/// determines its owner, for any rest. A document that was read and written again
/// is read as the same checkpoint.
pub fn document(text: &str) {
    let read = document::read(text.to_owned());
    let expected = expected_checkpoint(text);
    assert_eq!(read.as_ref().ok(), expected.as_ref(), "unlike the reference: {read:?}");

    let owner = document::read_owner(text);
    for head in heads(text) {
        match document::read_owner(head) {
            Err(error) if error.is_incomplete => {}
            of_head => assert_eq!(of_head, owner, "the rest of the document changes the owner"),
        }
    }
    if owner.as_ref().is_err_and(|error| error.is_incomplete) {
        assert!(json::check(text).is_err(), "a valid document is not incomplete");
    }
    if let Ok(owner) = &owner {
        let guard = &text[..owner.header_len];
        for rest in ["", "\0", "\"", "}"] {
            assert_eq!(document::read_owner(&format!("{guard}{rest}")).as_ref(), Ok(owner));
        }
        let shorter = guard.char_indices().next_back().map_or(guard, |(last, _)| &guard[..last]);
        assert!(
            document::read_owner(shorter).is_err_and(|error| error.is_incomplete),
            "header_len is too high"
        );
    }

    let Ok(checkpoint) = read else {
        return;
    };
    let metadata = &checkpoint.metadata;
    let owner = owner.expect("the owner of a valid document");
    assert_is_owner(&owner, metadata, looks_like_format_a(text));

    let written = document::write(metadata, &checkpoint.state);
    let guard = document::owner_header(metadata);
    assert!(written.starts_with(&guard), "{written:?} does not start with {guard:?}");
    let owner = document::read_owner(&guard).expect("the written owner");
    assert_is_owner(&owner, metadata, false);
    assert_eq!(document::read_owner(&written), Ok(owner));
    assert_eq!(document::read(written), Ok(checkpoint));
}

fn assert_is_owner(owner: &Owner, metadata: &Metadata, without_run: bool) {
    let run_id = metadata.run.as_ref().map(|run| &run.run_id).filter(|_| !without_run);
    assert_eq!(owner.checkpoint_id, metadata.checkpoint_id);
    assert_eq!(owner.session_id, metadata.session_id);
    assert_eq!(owner.run_id.as_ref(), run_id);
}

/// Whether the first three keys of a document are those of format A. Its owner then
/// has no run, although it is read as format B if a run follows.
fn looks_like_format_a(text: &str) -> bool {
    let members = members(text).unwrap_or_default();
    let keys: Vec<&str> = members.iter().take(3).map(|(key, _)| key.as_deref().unwrap_or_default()).collect();
    matches!(
        keys[..],
        ["checkpoint_id", "session_id", "timestamp"] | ["session_id", "checkpoint_id", "timestamp"]
    )
}

/// Returns the members of a document in order, each value with the white space
/// around it; none if the text is not an object.
fn members(text: &str) -> Option<Vec<(Option<String>, &str)>> {
    json::check(text).ok()?;
    let mut scanner = Scanner::new(text);
    let mut members = Vec::new();
    if !scanner.consume(b'{') || scanner.consume(b'}') {
        return Some(members);
    }
    loop {
        let key = scanner.key().ok()?;
        let start = scanner.position();
        scanner.value().ok()?;
        scanner.peek();
        members.push((value_of(scanner.slice(key)), &text[start..scanner.position()]));
        if !scanner.consume(b',') {
            return Some(members);
        }
    }
}

/// Returns the checkpoint of a document, read with `serde_json`; none if the document
/// is invalid.
fn expected_checkpoint(text: &str) -> Option<Checkpoint> {
    let members = members(text)?;
    let all = |wanted: &'static str| members.iter().filter(move |(key, _)| key.as_deref() == Some(wanted));
    let last = |key| all(key).next_back().map(|(_, value)| *value);
    let text = |key| value_of::<String>(last(key)?);
    let moment = |key| text(key).filter(|text| Timestamp::parse(text).is_some());
    if ["checkpoint_id", "session_id", "run_id"].into_iter().any(|key| all(key).count() > 1) {
        return None;
    }
    let (timestamp, node, run) = if last("run_id").or(last("created_at")).is_some() {
        let run = Run {
            run_id: text("run_id")?,
            prev_node: text("prev_node")?,
            updated_fields: value_of(last("updated_fields")?)?,
            attempt: match last("attempt")? {
                value if is_null(value) => None,
                value => Some(integer(value)?),
            },
            dispatch_id: value_of(last("dispatch_id")?)?,
        };
        (moment("created_at")?, text("node")?, Some(run))
    } else {
        (moment("timestamp")?, text("node_name")?, None)
    };
    let state = last("state")?;
    let verbatim = |value: &str| value.strip_prefix(' ').unwrap_or(value).to_owned();
    let state = match run {
        Some(_) => verbatim(state),
        None => state_in_string(state.trim_ascii())?,
    };
    let (session_id, checkpoint_id) = (text("session_id")?, text("checkpoint_id")?);
    let step = integer(last("step")?)?;
    let mut extra: Vec<NamedValue> = Vec::new();
    for (name, value) in &members {
        let Some(name) = name.as_ref().filter(|name| !document::MEMBERS.contains(&name.as_str())) else {
            continue;
        };
        extra.retain(|earlier| earlier.name != *name);
        extra.push(NamedValue { name: name.clone(), value: verbatim(value) });
    }
    let metadata = Metadata { session_id, checkpoint_id, timestamp, node, step, run, extra };
    Some(Checkpoint { metadata, state })
}

/// Returns the state in a string of format A. To Python a lone surrogate is a
/// character like any other, so the string must be JSON with another character in its
/// place.
fn state_in_string(literal: &str) -> Option<String> {
    let other = json::unescape(literal, Some(|_, text| text.push('\u{fffd}')));
    let is_string = literal.starts_with('"');
    other.filter(|state| is_string && json::check(state).is_ok())?;
    json::unescape(literal, Some(json::write_utf16_escape)).map(Cow::into_owned)
}

fn is_null(value: &str) -> bool {
    value_of::<()>(value).is_some()
}

/// Parses an integer of 64 bits; `serde_json` parses `-0` as a fraction.
fn integer(value: &str) -> Option<i64> {
    if value.trim_ascii() == "-0" { Some(0) } else { value_of(value) }
}

fn value_of<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

/// Returns heads of a text: all of a short text, some of a long one.
fn heads(text: &str) -> impl Iterator<Item = &str> {
    (0..=text.len()).step_by(1 + text.len() / 64).filter_map(|end| text.get(..end))
}

/// JSON is the syntax of `serde_json` and Python's three words. An error has an offset,
/// and tells whether more text could complete the value. Strings have the value that
/// `serde_json` reads. Any text can be written as a string.
pub fn json(text: &str) {
    let outcome = json::check(text);
    let reference = serde_json::from_str::<IgnoredAny>(&without_python_words(text));
    assert_eq!(outcome.is_ok(), reference.is_ok(), "{outcome:?}, and the reference: {reference:?}");
    match &outcome {
        Ok(()) => {
            let mut scanner = Scanner::new(text);
            let span = scanner.value().expect("a value");
            let value = scanner.slice(span.clone());
            assert_eq!((value, scanner.position()), (text.trim_ascii(), span.end));
        }
        Err(error) => {
            assert!(text.is_char_boundary(error.offset), "{error:?}");
            assert_eq!(error.is_incomplete, error.offset == text.len(), "{error:?}");
            if error.is_incomplete {
                assert!(text.len() > 40 || can_be_completed(text), "{error:?}");
            }
            for more in ["\"", "}", "0", "\0"].into_iter().filter(|_| !error.is_incomplete) {
                assert_eq!(json::check(&format!("{text}{more}")).as_ref(), Err(error));
            }
        }
    }
    for head in heads(text) {
        match (json::check(head), &outcome) {
            (Err(error), _) if error.is_incomplete => {}
            (Err(error), outcome) => assert_eq!(outcome, &Err(error), "the rest completes {head:?}"),
            (Ok(()), Err(error)) => assert!(error.offset >= head.len(), "{error:?}, but {head:?} is JSON"),
            (Ok(()), Ok(())) => {}
        }
    }
    for (start, _) in text.match_indices('"').take(32) {
        string(&text[start..]);
    }
    let mut literal = String::new();
    json::write_string(text, &mut literal);
    assert!(literal.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{literal:?}");
    assert_eq!(string(&literal), literal.len());
    assert_eq!(json::unescape(&literal, None).as_deref(), Some(text));
}

/// Checks the string at the start of a text. Returns its length; 0 if there is none.
fn string(text: &str) -> usize {
    let Ok(span) = Scanner::new(text).string() else {
        return 0;
    };
    let literal = &text[span.clone()];
    assert_eq!(span.start, 0);
    assert_eq!(json::unescape(literal, None), value_of(literal), "{literal:?}");
    assert!(json::unescape(literal, Some(json::write_utf16_escape)).is_some(), "{literal:?}");
    span.end
}

/// Replaces the words that only Python has by `null`.
fn without_python_words(text: &str) -> String {
    let mut standard = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| rest.starts_with(word));
        let length = match (word, first) {
            (Some(word), _) => word.len(),
            // Strings have no words, and after an invalid string nothing is replaced.
            (None, '"') => Scanner::new(rest).string().map_or(rest.len(), |span| span.end),
            (None, other) => other.len_utf8(),
        };
        standard.push_str(if word.is_some() { "null" } else { &rest[..length] });
        rest = &rest[length..];
    }
    standard
}

/// Whether characters can be appended to a text so that it becomes JSON. Those that
/// end a value come first, so that the loop ends.
fn can_be_completed(text: &str) -> bool {
    let mut text = text.to_owned();
    while json::check(&text).is_err() {
        let next = "\"]}:0nulltruefalseNaNInfinity".chars().find(|next| {
            let more = json::check(&format!("{text}{next}"));
            more.map_or_else(|error| error.is_incomplete, |()| true)
        });
        match next {
            Some(next) => text.push(next),
            None => return false,
        }
    }
    true
}

/// Each line that is a timestamp is written and parsed as the same timestamp, is of the
/// years 1 to 9999, and has the score of its instant. The scores of two timestamps have
/// the order of their instants.
pub fn timestamp(text: &str) {
    let mut before = None;
    for line in text.split('\n') {
        let Some(timestamp) = Timestamp::parse(line) else {
            continue;
        };
        let canonical = timestamp.to_string();
        assert_eq!(Timestamp::parse(&canonical), Some(timestamp), "{line:?} became {canonical:?}");
        assert_eq!(Timestamp::parse(&line.replace('T', " ")), Some(timestamp), "{line:?}");
        assert_eq!((&canonical[..10], &canonical[11..19]), (&line[..10], &line[11..19]));

        let (score, exact) = (timestamp.score(), microseconds_since_1970(line));
        assert_eq!(microseconds_since_1970(&canonical), exact, "{line:?} became {canonical:?}");
        let nearest = exact as f64 / 1e6;
        // The dividend is exact, and the quotient is rounded only once.
        let is_exact = exact.unsigned_abs() < 1 << f64::MANTISSA_DIGITS;
        let near = if is_exact { nearest..=nearest } else { nearest.next_down()..=nearest.next_up() };
        assert!(near.contains(&score) && score.is_finite(), "{line:?} has the score {score}");
        if let Some((exact_before, score_before)) = before.replace((exact, score)) {
            // Two instants may have the same score, but never in reverse order.
            let in_order = match exact.cmp(&exact_before) {
                std::cmp::Ordering::Less => score <= score_before,
                std::cmp::Ordering::Equal => score == score_before,
                std::cmp::Ordering::Greater => score >= score_before,
            };
            assert!(in_order, "{score} of {exact}, and {score_before} of {exact_before}");
        }
    }
}

/// Returns the instant of a valid timestamp.
fn microseconds_since_1970(timestamp: &str) -> i64 {
    let number = |text: &str| text.parse::<i64>().expect("digits");
    let at = |start: usize| number(&timestamp[start..start + 2]);
    let (year, month, day) = (number(&timestamp[..4]), at(5), at(8));
    assert!((1..=9999).contains(&year) && (1..=12).contains(&month), "{timestamp}");
    assert!(at(11) < 24 && at(14) < 60 && at(17) < 60, "{timestamp}");
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let months = [31, 28 + i64::from(is_leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let (passed, rest) = months.split_at(month as usize - 1);
    assert!((1..=rest[0]).contains(&day), "{timestamp}");
    let years = year - 1;
    // Of the years 1 to 1969 there are 719,162 days.
    let days =
        years * 365 + years / 4 - years / 100 + years / 400 + passed.iter().sum::<i64>() + day - 1 - 719_162;
    // Hours, minutes and seconds of two digits each, if they are there, and a
    // fraction, of which six digits count.
    let microseconds = |time: &str| {
        let (time, fraction) = time.split_once(['.', ',']).unwrap_or((time, ""));
        let digits = time.replace(':', "");
        let part = |start: usize| digits.get(start..start + 2).map_or(0, number);
        let seconds = part(0) * 3600 + part(2) * 60 + part(4);
        seconds * 1_000_000 + number(&format!("{fraction:0<6}")[..6])
    };
    let time = &timestamp[11..];
    let (time, offset) = time.split_at(time.find(['+', '-', 'Z', 'z']).unwrap_or(time.len()));
    let east = match offset.as_bytes() {
        [b'+', ..] => microseconds(&offset[1..]),
        [b'-', ..] => -microseconds(&offset[1..]),
        _ => 0,
    };
    assert!(east.abs() < 86_400 * 1_000_000, "{timestamp}");
    days * 86_400 * 1_000_000 + microseconds(time) - east
}

/// The input is a prefix, a session, a run, a checkpoint and the rest of a longer
/// prefix, one per line. In the layout of llmfy every index has the candidate documents
/// of all prefixes that it may belong to, and is ambiguous if there are several. Every
/// partitioned key is parsed correctly, and under no other prefix.
pub fn keys(text: &str) {
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (prefix, session, run, checkpoint, longer) = (next(), next(), next(), next(), next());
    let ids = (id(prefix), id(session), id(run), id(checkpoint));
    let (Some(prefix), Some(session), Some(run), Some(checkpoint)) = ids else {
        return;
    };
    partition(&prefix, &session, &run, &checkpoint, longer);
    let keys = Keys::new(prefix.clone(), Layout::Llmfy);
    let document = keys.document(&session, &checkpoint);
    assert_eq!(document.strip_prefix(&keys.documents(&session)), Some(checkpoint.as_str()));
    let index = keys.session(&session);
    assert_eq!(index.strip_prefix(&keys.scan_prefix(KeyKind::Index)), Some(session.as_str()));
    // The index of a run may also be the index of a session.
    let index_of_run = keys.run(&session, &run);
    let name = Id::unchecked(index_of_run.strip_prefix(&keys.scan_prefix(KeyKind::Index)).expect("an index"));
    assert_eq!(keys.session(&name), index_of_run);
    assert!(Keys::may_be_run_index(&name));
    if Keys::may_be_run_index(&session) {
        let halves = session.as_str().split_once(":run:").expect("a session and a run");
        assert_eq!(keys.run(&Id::unchecked(halves.0), &Id::unchecked(halves.1)), index);
    }
    check_candidates(&index, &keys, &session, &checkpoint);
    check_candidates(&index_of_run, &keys, &session, &checkpoint);

    let Some(longer) = id(&format!("{prefix}{longer}")).filter(|longer| *longer != prefix) else {
        return;
    };
    let others = Keys::new(longer, Layout::Llmfy);
    for key in [
        others.document(&session, &checkpoint),
        others.session(&session),
        others.run(&session, &run),
        others.pin(&session),
    ] {
        if let Some(end) = key.strip_prefix(&keys.documents(&session)) {
            assert!(keys.is_ambiguous(end), "{key:?} looks like a document");
        }
    }
    for index in [others.session(&session), others.run(&session, &run)] {
        check_candidates(&index, &others, &session, &checkpoint);
        if index.starts_with(&keys.scan_prefix(KeyKind::Index)) {
            check_candidates(&index, &keys, &session, &checkpoint);
            assert!(keys.is_ambiguous_index(&index), "{index:?}");
        }
    }
}

/// In the partitioned layout each key is parsed correctly under its own prefix and
/// layout only, and all keys of a session have one hash tag.
fn partition(prefix: &Id, session: &Id, run: &Id, checkpoint: &Id, longer: &str) {
    let keys = Keys::new(prefix.clone(), Layout::Partitioned);
    let parsed =
        |checkpoint: &str| ParsedKey { partition: Some(session.clone()), checkpoint: checkpoint.to_owned() };
    let all = [
        (KeyKind::Document, keys.document(session, checkpoint), parsed(checkpoint.as_str())),
        (KeyKind::Index, keys.session(session), parsed("")),
        (KeyKind::Index, keys.run(session, run), parsed("")),
        (KeyKind::Pin, keys.pin(session), parsed("")),
    ];
    let others: Vec<Keys> = (1..prefix.as_str().len())
        .filter_map(|end| prefix.as_str().get(..end).map(Id::unchecked))
        .chain(id(&format!("{prefix}{longer}")).filter(|longer| longer != prefix))
        .flat_map(|other| [Layout::Llmfy, Layout::Partitioned].map(|layout| Keys::new(other.clone(), layout)))
        .chain([Keys::new(prefix.clone(), Layout::Llmfy)])
        .collect();
    let tag = hash_tag(&all[0].1);
    for (kind, key, expected) in &all {
        assert_eq!(hash_tag(key), tag, "{key:?}");
        for other in [KeyKind::Document, KeyKind::Index, KeyKind::Pin] {
            assert_eq!(keys.parse(other, key).as_ref(), Some(expected).filter(|_| other == *kind), "{key:?}");
            for others in &others {
                // In the layout of llmfy it may look like a document, which is ambiguous.
                let parsed = others.parse(other, key);
                let is_safe = parsed.as_ref().is_none_or(|parsed| others.is_ambiguous(&parsed.checkpoint));
                assert!(is_safe, "{key:?} is parsed as {parsed:?} of {others:?}");
            }
        }
        if *kind == KeyKind::Index {
            let candidates = keys.candidate_documents(key, checkpoint.as_str());
            assert_eq!(candidates, [keys.document(session, checkpoint)]);
        }
    }
}

/// Returns the hash tag of a key as Redis Cluster determines it.
fn hash_tag(key: &str) -> Option<&str> {
    let (tag, _) = key.split_once('{')?.1.split_once('}')?;
    Some(tag).filter(|tag| !tag.is_empty())
}

/// Returns an id if the text is valid.
fn id(text: &str) -> Option<Id> {
    let id = Id::new("id", text).ok();
    assert_eq!(id.is_some(), (1..=MAX_BYTES).contains(&text.len()) && !text.contains('\0'), "{text:?}");
    assert!(id.as_ref().is_none_or(|id| id.as_str() == text && id.to_string() == text));
    id
}

/// Checks that an index has the candidate documents of all prefixes that it may belong
/// to.
fn check_candidates(index: &str, keys: &Keys, session: &Id, checkpoint: &Id) {
    let candidates = keys.candidate_documents(index, checkpoint.as_str());
    assert!(candidates.contains(&keys.document(session, checkpoint)), "{index:?} has only {candidates:?}");
    let prefixes = (1..index.len()).filter_map(|end| {
        let session = index.get(end..)?.strip_prefix("session:")?;
        Some((Id::unchecked(&index[..end]), Id::unchecked(session)))
    });
    let expected: Vec<String> = prefixes
        .map(|(prefix, session)| {
            let keys = Keys::new(prefix, Layout::Llmfy);
            assert_eq!(keys.session(&session), index);
            keys.document(&session, checkpoint)
        })
        .collect();
    assert_eq!(candidates, expected, "{index:?}");
    assert_eq!(keys.is_ambiguous_index(index), candidates.len() > 1, "{index:?}");
}

/// A compressed text decompresses to itself if it is JSON. Any other text or bytes are
/// returned unchanged, refused, or decompressed to JSON.
pub fn compression(input: &[u8]) {
    check_decompression(&format!("\"{}\"", STANDARD.encode(input)));
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    check_decompression(text);
    let stored = compression::compress(text);
    assert_eq!(json::check(&stored), Ok(()));
    // Other escapes of the string make no difference.
    let escaped = stored.replace('/', "\\/").replace('+', "\\u002b");
    for stored in [&stored, &escaped, &format!(" {stored}\n")] {
        let state = compression::decompress(stored.clone()).ok();
        assert_eq!(state.as_deref(), Some(text).filter(|text| json::check(text).is_ok()), "{stored:?}");
    }
}

fn check_decompression(stored: &str) {
    match compression::decompress(stored.to_owned()) {
        Ok(state) if state == stored => {}
        Ok(state) => {
            assert_eq!(json::check(&state), Ok(()), "{stored:?} decompresses to {state:?}");
            assert!(stored.trim_ascii().starts_with('"'), "{stored:?} is not a string");
            // The maximum ratio of deflate.
            assert!(state.len() <= 1032 * stored.len(), "{stored:?} has {} bytes", state.len());
        }
        Err(reason) => assert!(reason.starts_with("the compressed state "), "{reason}"),
    }
}
