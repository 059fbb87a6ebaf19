//! What holds for every input, whatever it is: a function for each fuzz target,
//! which panics where it does not. The fuzz targets call them with what
//! libFuzzer thinks of, `guest/tests/fuzz.rs` with the corpus and what it makes
//! of that.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use checkpointer_guest::document::{self, Owner};
use checkpointer_guest::id::{Id, MAX_BYTES};
use checkpointer_guest::json::{self, Scanner};
use checkpointer_guest::keys::{Keys, Kind, Name};
use checkpointer_guest::timestamp::Timestamp;
use checkpointer_guest::{Checkpoint, Layout, Metadata, NamedValue, Run, compression};
use serde::de::{DeserializeOwned, IgnoredAny};
use std::borrow::Cow;

/// A document is read for exactly what it says, by a second reader too; its
/// owner is known from any head that is long enough, and is the same for
/// whatever begins with that; and what was read is written so that it is read
/// again.
pub fn document(text: &str) {
    let read = document::read(text.to_owned());
    let expected = expected_checkpoint(text);
    assert_eq!(read.as_ref().ok(), expected.as_ref(), "not what the document says: {read:?}");

    let owner = document::read_owner(text);
    for head in heads(text) {
        match document::read_owner(head) {
            Err(fault) if fault.at_end => {}
            told => assert_eq!(told, owner, "the rest of the document changes whose it is"),
        }
    }
    if owner.as_ref().is_err_and(|fault| fault.at_end) {
        assert!(json::check(text).is_err(), "a whole document is not too short");
    }
    if let Ok(owner) = &owner {
        let guard = &text[..owner.known_from];
        for rest in ["", "\0", "\"", "}"] {
            assert_eq!(document::read_owner(&format!("{guard}{rest}")).as_ref(), Ok(owner));
        }
        let shorter = guard.char_indices().next_back().map_or(guard, |(last, _)| &guard[..last]);
        assert!(document::read_owner(shorter).is_err_and(|fault| fault.at_end), "known from less");
    }

    let Ok(checkpoint) = read else {
        return;
    };
    let metadata = &checkpoint.metadata;
    let owner = owner.expect("who can read the whole can read whose it is");
    assert_is_owner(&owner, metadata, passes_for_generation_a(text));

    let written = document::write(metadata, &checkpoint.state);
    let guard = document::owner(metadata);
    assert!(written.starts_with(&guard), "{written:?} does not begin with {guard:?}");
    let owner = document::read_owner(&guard).expect("the owner that was written");
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

/// Whether a document begins as one of generation A does, to the third key. It
/// is owned as one, and is still read as one of generation B if a run follows.
fn passes_for_generation_a(text: &str) -> bool {
    let members = members(text).unwrap_or_default();
    let keys: Vec<&str> = members.iter().take(3).map(|(key, _)| key.as_deref().unwrap_or_default()).collect();
    matches!(
        keys[..],
        ["checkpoint_id", "session_id", "timestamp"] | ["session_id", "checkpoint_id", "timestamp"]
    )
}

/// The members of a document in order, each value with all that stands between
/// its colon and the next comma or bracket; none if it is no object.
fn members(text: &str) -> Option<Vec<(Option<String>, &str)>> {
    json::check(text).ok()?;
    let mut scanner = Scanner::new(text);
    let mut members = Vec::new();
    if !scanner.eat(b'{') || scanner.eat(b'}') {
        return Some(members);
    }
    loop {
        let key = scanner.key().ok()?;
        let start = scanner.at();
        scanner.value().ok()?;
        scanner.peek();
        members.push((value_of(scanner.slice(key)), &text[start..scanner.at()]));
        if !scanner.eat(b',') {
            return Some(members);
        }
    }
}

/// What a document says, read member by member with `serde_json`; none if it is
/// to be refused.
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
        let Some(name) = name.as_ref().filter(|name| !MEMBERS.contains(&name.as_str())) else { continue };
        extra.retain(|earlier| earlier.name != *name);
        extra.push(NamedValue { name: name.clone(), value: verbatim(value) });
    }
    let metadata = Metadata { session_id, checkpoint_id, timestamp, node, step, run, extra };
    Some(Checkpoint { metadata, state })
}

/// The members that the formats define.
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

/// The state that a string of generation A holds. Python takes a lone surrogate
/// for a character like any other, so the string has to hold JSON with another
/// character in its place.
fn state_in_string(literal: &str) -> Option<String> {
    let other = json::unescape(literal, Some(|_, text| text.push('\u{fffd}')));
    let is_string = literal.starts_with('"');
    other.filter(|state| is_string && json::check(state).is_ok())?;
    json::unescape(literal, Some(json::write_unit)).map(Cow::into_owned)
}

fn is_null(value: &str) -> bool {
    value_of::<()>(value).is_some()
}

/// An integer of 64 bits; `serde_json` takes `-0` for a fraction.
fn integer(value: &str) -> Option<i64> {
    if value.trim_ascii() == "-0" { Some(0) } else { value_of(value) }
}

fn value_of<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

/// Beginnings of a text; if it is a long one, not all of them.
fn heads(text: &str) -> impl Iterator<Item = &str> {
    (0..=text.len()).step_by(1 + text.len() / 64).filter_map(|end| text.get(..end))
}

/// What is JSON is what `serde_json` takes and Python's three words; a fault
/// says where, and whether more text could mend it; strings mean what
/// `serde_json` reads in them; and any text can be written as one.
pub fn json(text: &str) {
    let outcome = json::check(text);
    let reference = serde_json::from_str::<IgnoredAny>(&without_python_words(text));
    assert_eq!(outcome.is_ok(), reference.is_ok(), "{outcome:?}, and the reference: {reference:?}");
    match &outcome {
        Ok(()) => {
            let mut scanner = Scanner::new(text);
            let place = scanner.value().expect("a value");
            let value = scanner.slice(place.clone());
            assert_eq!((value, scanner.at()), (text.trim_ascii(), place.end));
        }
        Err(fault) => {
            assert!(text.is_char_boundary(fault.at), "{fault:?}");
            assert_eq!(fault.at_end, fault.at == text.len(), "{fault:?}");
            if fault.at_end {
                assert!(text.len() > 40 || can_be_completed(text), "{fault:?}");
            }
            for more in ["\"", "}", "0", "\0"].into_iter().filter(|_| !fault.at_end) {
                assert_eq!(json::check(&format!("{text}{more}")).as_ref(), Err(fault));
            }
        }
    }
    for head in heads(text) {
        match (json::check(head), &outcome) {
            (Err(fault), _) if fault.at_end => {}
            (Err(fault), outcome) => assert_eq!(outcome, &Err(fault), "the rest mends {head:?}"),
            (Ok(()), Err(fault)) => assert!(fault.at >= head.len(), "{fault:?}, but {head:?} is JSON"),
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

/// Checks the string that a text may begin with, and says how long it is.
fn string(text: &str) -> usize {
    let Ok(place) = Scanner::new(text).string() else {
        return 0;
    };
    let literal = &text[place.clone()];
    assert_eq!(place.start, 0);
    assert_eq!(json::unescape(literal, None), value_of(literal), "{literal:?}");
    assert!(json::unescape(literal, Some(json::write_unit)).is_some(), "{literal:?}");
    place.end
}

/// The same text with `null` for each word that only Python has.
fn without_python_words(text: &str) -> String {
    let mut standard = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| rest.starts_with(word));
        let length = match (word, first) {
            (Some(word), _) => word.len(),
            // What stands in a string is no word, nor behind one that is broken.
            (None, '"') => Scanner::new(rest).string().map_or(rest.len(), |place| place.end),
            (None, other) => other.len_utf8(),
        };
        standard.push_str(if word.is_some() { "null" } else { &rest[..length] });
        rest = &rest[length..];
    }
    standard
}

/// Whether a text becomes JSON by what is put behind it. The characters are in
/// the order in which each ends what is open, and none goes on for ever.
fn can_be_completed(text: &str) -> bool {
    let mut text = text.to_owned();
    while json::check(&text).is_err() {
        let next = "\"]}:0nulltruefalseNaNInfinity".chars().find(|next| {
            let more = json::check(&format!("{text}{next}"));
            more.map_or_else(|fault| fault.at_end, |()| true)
        });
        match next {
            Some(next) => text.push(next),
            None => return false,
        }
    }
    true
}

/// Each line that is a timestamp is written so that it is read again as the
/// same, lies in the years 1 to 9999, and has the score of its instant, in whose
/// order the scores of any two are.
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
        // So far the dividend is exact, and the quotient is rounded only once.
        let is_exact = exact.unsigned_abs() < 1 << f64::MANTISSA_DIGITS;
        let near = if is_exact { nearest..=nearest } else { nearest.next_down()..=nearest.next_up() };
        assert!(near.contains(&score) && score.is_finite(), "{line:?} has the score {score}");
        if let Some((exact_before, score_before)) = before.replace((exact, score)) {
            // Two instants may have one score, but never the other way round.
            let in_order = match exact.cmp(&exact_before) {
                std::cmp::Ordering::Less => score <= score_before,
                std::cmp::Ordering::Equal => score == score_before,
                std::cmp::Ordering::Greater => score >= score_before,
            };
            assert!(in_order, "{score} of {exact}, and {score_before} of {exact_before}");
        }
    }
}

/// The instant that a timestamp names which was taken for one.
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

/// For a prefix, a session, a run, a checkpoint and what makes the prefix a
/// longer one, a line each: every index of llmfy's layout names the documents
/// of all prefixes that could have made it, and says so if those are several;
/// and every key of a partition is read as what it is, and as nothing else.
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
    assert_eq!(index.strip_prefix(&keys.all(Kind::Index)), Some(session.as_str()));
    // The name of a run's index is one of a session, too, which admits it.
    let index_of_run = keys.run(&session, &run);
    let name = Id::stored(index_of_run.strip_prefix(&keys.all(Kind::Index)).expect("an index"));
    assert_eq!(keys.session(&name), index_of_run);
    assert!(Keys::may_name_a_run(&name));
    if Keys::may_name_a_run(&session) {
        let halves = session.as_str().split_once(":run:").expect("a session and a run");
        assert_eq!(keys.run(&Id::stored(halves.0), &Id::stored(halves.1)), index);
    }
    names_documents(&index, &keys, &session, &checkpoint);
    names_documents(&index_of_run, &keys, &session, &checkpoint);

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
            assert!(keys.may_be_of_longer_prefix(end), "{key:?} passes for a document");
        }
    }
    for index in [others.session(&session), others.run(&session, &run)] {
        names_documents(&index, &others, &session, &checkpoint);
        if index.starts_with(&keys.all(Kind::Index)) {
            names_documents(&index, &keys, &session, &checkpoint);
            assert!(keys.may_be_shared(&index), "{index:?}");
        }
    }
}

/// The same in the partitioned layout: each key is read as what it was made of,
/// by its own prefix and layout alone; and all of them have one hash tag.
fn partition(prefix: &Id, session: &Id, run: &Id, checkpoint: &Id, longer: &str) {
    let keys = Keys::new(prefix.clone(), Layout::Partitioned);
    let name =
        |checkpoint: &str| Name { partition: Some(session.clone()), checkpoint: checkpoint.to_owned() };
    let all = [
        (Kind::Document, keys.document(session, checkpoint), name(checkpoint.as_str())),
        (Kind::Index, keys.session(session), name("")),
        (Kind::Index, keys.run(session, run), name("")),
        (Kind::Pin, keys.pin(session), name("")),
    ];
    let others: Vec<Keys> = (1..prefix.as_str().len())
        .filter_map(|end| prefix.as_str().get(..end).map(Id::stored))
        .chain(id(&format!("{prefix}{longer}")).filter(|longer| longer != prefix))
        .flat_map(|other| [Layout::Llmfy, Layout::Partitioned].map(|layout| Keys::new(other.clone(), layout)))
        .chain([Keys::new(prefix.clone(), Layout::Llmfy)])
        .collect();
    let tag = hash_tag(&all[0].1);
    for (kind, key, name) in &all {
        assert_eq!(hash_tag(key), tag, "{key:?}");
        for other in [Kind::Document, Kind::Index, Kind::Pin] {
            assert_eq!(keys.read(other, key).as_ref(), Some(name).filter(|_| other == *kind), "{key:?}");
            for others in &others {
                // In llmfy's layout it looks like a document, of which that is
                // known.
                let read = others.read(other, key);
                let is_known =
                    read.as_ref().is_none_or(|read| others.may_be_of_longer_prefix(&read.checkpoint));
                assert!(is_known, "{key:?} passes for {read:?} of {others:?}");
            }
        }
        if *kind == Kind::Index {
            let named = keys.documents_named_by(key, checkpoint.as_str());
            assert_eq!(named, [keys.document(session, checkpoint)]);
        }
    }
}

/// What Redis takes for the hash tag of a key.
fn hash_tag(key: &str) -> Option<&str> {
    let (tag, _) = key.split_once('{')?.1.split_once('}')?;
    Some(tag).filter(|tag| !tag.is_empty())
}

/// An id of what is one.
fn id(text: &str) -> Option<Id> {
    let id = Id::new("id", text).ok();
    assert_eq!(id.is_some(), (1..=MAX_BYTES).contains(&text.len()) && !text.contains('\0'), "{text:?}");
    assert!(id.as_ref().is_none_or(|id| id.as_str() == text && id.to_string() == text));
    id
}

/// Checks that an index names the document under `keys`, and one under every
/// other prefix that could have made it.
fn names_documents(index: &str, keys: &Keys, session: &Id, checkpoint: &Id) {
    let named = keys.documents_named_by(index, checkpoint.as_str());
    assert!(named.contains(&keys.document(session, checkpoint)), "{index:?} names only {named:?}");
    let prefixes = (1..index.len()).filter_map(|end| {
        let session = index.get(end..)?.strip_prefix("session:")?;
        Some((Id::stored(&index[..end]), Id::stored(session)))
    });
    let expected: Vec<String> = prefixes
        .map(|(prefix, session)| {
            let keys = Keys::new(prefix, Layout::Llmfy);
            assert_eq!(keys.session(&session), index);
            keys.document(&session, checkpoint)
        })
        .collect();
    assert_eq!(named, expected, "named by {index:?}");
    assert_eq!(keys.may_be_shared(index), named.len() > 1, "{index:?}");
}

/// A text that was compressed unfolds to itself if it is JSON; and any text or
/// bytes in the place of a compressed state are left alone, refused, or unfold
/// to JSON.
pub fn compression(input: &[u8]) {
    expanding(&format!("\"{}\"", STANDARD.encode(input)));
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    expanding(text);
    let stored = compression::compress(text);
    assert_eq!(json::check(&stored), Ok(()));
    // Of a string that is escaped in another way, the meaning is the same.
    let escaped = stored.replace('/', "\\/").replace('+', "\\u002b");
    for stored in [&stored, &escaped, &format!(" {stored}\n")] {
        let state = compression::expand(stored.clone()).ok();
        assert_eq!(state.as_deref(), Some(text).filter(|text| json::check(text).is_ok()), "{stored:?}");
    }
}

fn expanding(stored: &str) {
    match compression::expand(stored.to_owned()) {
        Ok(state) if state == stored => {}
        Ok(state) => {
            assert_eq!(json::check(&state), Ok(()), "{stored:?} unfolds to {state:?}");
            assert!(stored.trim_ascii().starts_with('"'), "{stored:?} is no string");
            // No deflated byte can stand for more.
            assert!(state.len() <= 1032 * stored.len(), "{stored:?} has {} bytes", state.len());
        }
        Err(reason) => assert!(reason.starts_with("the compressed state "), "{reason}"),
    }
}
