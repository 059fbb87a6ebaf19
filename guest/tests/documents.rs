//! Property tests of documents and timestamps: every text that Python reads as JSON,
//! every name, every timestamp.

#![expect(clippy::expect_used, reason = "a test that can't run fails")]

use checkpointer_guest::Timestamp;
use checkpointer_guest::{Checkpoint, Metadata, NamedValue, Run, document, json};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// White space of JSON.
fn space() -> impl Strategy<Value = String> {
    prop_oneof![4 => Just(String::new()), 1 => Just(" ".to_owned()), 1 => "[ \t\r\n]{1,3}"]
}

/// A string literal: characters as they are, every escape, and surrogates, paired or
/// lone.
fn string() -> impl Strategy<Value = String> {
    let plain = any::<char>().prop_filter_map("needs an escape", |character| {
        (character >= ' ' && !matches!(character, '"' | '\\')).then(|| character.to_string())
    });
    let short = select(&["\\\"", "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t"][..]);
    let surrogate = (0xd800..=0xdfff_u16).prop_map(|unit| format!("\\u{unit:04x}"));
    let piece = prop_oneof![
        plain,
        short.prop_map(str::to_owned),
        any::<u16>().prop_map(|unit| format!("\\u{unit:04x}")),
        any::<u16>().prop_map(|unit| format!("\\u{unit:04X}")),
        surrogate,
    ];
    vec(piece, 0..8).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

/// A number of any length, or a word that Python writes instead of a number.
fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?",
        4 => select(&["NaN", "Infinity", "-Infinity", "-0", "-0.0", "1e400"][..]).prop_map(str::to_owned),
        1 => (1..=4000_usize).prop_map(|length| "7".repeat(length)),
    ]
}

/// A JSON text with white space anywhere and with duplicate keys.
fn state() -> impl Strategy<Value = String> {
    let word = select(&["null", "true", "false"][..]).prop_map(str::to_owned);
    let value = prop_oneof![word, number(), string()].prop_recursive(5, 24, 4, |value| {
        let spaced = (space(), value, space());
        let spaced = spaced.prop_map(|(before, value, after)| before + &value + &after).boxed();
        let key = prop_oneof![Just("\"state\"".to_owned()), Just("\"session_id\"".to_owned()), string()];
        let member = (space(), key, space(), spaced.clone())
            .prop_map(|(before, key, after, value)| format!("{before}{key}{after}:{value}"));
        prop_oneof![
            vec(spaced, 1..4).prop_map(|values| format!("[{}]", values.join(","))),
            vec(member, 1..4).prop_map(|members| format!("{{{}}}", members.join(","))),
            space().prop_map(|space| format!("[{space}]")),
            space().prop_map(|space| format!("{{{space}}}")),
        ]
    });
    let depth = prop_oneof![8 => Just(0), 1 => 1..2000_usize];
    (space(), depth, any::<bool>(), value, space()).prop_map(|(before, depth, object, value, after)| {
        let (open, close) = if object { ("{\"a\": ", "}") } else { ("[", "]") };
        before + &open.repeat(depth) + &value + &close.repeat(depth) + &after
    })
}

/// Any text of a document outside its state.
fn text() -> impl Strategy<Value = String> {
    let escaped =
        select(&['"', '\\', '/', '\u{8}', '\t', '\n', '\u{c}', '\r', '\0', '\u{7f}', '\u{1f30d}'][..]);
    vec(prop_oneof![any::<char>(), escaped], 0..12).prop_map(String::from_iter)
}

fn run() -> impl Strategy<Value = Run> {
    (text(), text(), vec(text(), 0..4), option::of(any::<i64>()), option::of(text())).prop_map(
        |(run_id, prev_node, updated_fields, attempt, dispatch_id)| Run {
            run_id,
            prev_node,
            updated_fields,
            attempt,
            dispatch_id,
        },
    )
}

/// Metadata of format A or B, with extra members.
fn metadata() -> impl Strategy<Value = Metadata> {
    let timestamp = moment().prop_map(|moment| moment.canonical());
    let value = (space(), prop_oneof![number(), string()]).prop_map(|(space, value)| space + &value);
    let extra = vec((text(), value), 0..3).prop_map(|extra| {
        let mut extra: Vec<_> =
            extra.into_iter().map(|(name, value)| NamedValue { name: format!("x{name}"), value }).collect();
        extra.sort_by(|a, b| a.name.cmp(&b.name));
        extra.dedup_by(|a, b| a.name == b.name);
        extra
    });
    (text(), text(), timestamp, text(), any::<i64>(), option::of(run()), extra).prop_map(
        |(session_id, checkpoint_id, timestamp, node, step, run, extra)| Metadata {
            session_id,
            checkpoint_id,
            timestamp,
            node,
            step,
            run,
            extra,
        },
    )
}

/// A checkpoint and its document.
fn saved() -> impl Strategy<Value = (Checkpoint, String)> {
    (metadata(), state()).prop_map(|(metadata, state)| {
        let text = document::write(&metadata, &state);
        (Checkpoint { metadata, state }, text)
    })
}

/// The beginning of a text up to a position.
fn head<'a>(text: &'a str, cut: &Index) -> &'a str {
    &text[..text.floor_char_boundary(cut.index(text.len()))]
}

/// A checkpoint and a document of another program: its members in any order, with
/// other escapes, white space between them and a key that no `String` can hold.
fn foreign() -> impl Strategy<Value = (Checkpoint, String)> {
    (metadata(), state(), state(), vec(space(), 14), any::<bool>())
        .prop_flat_map(|(metadata, state, unknown, spaces, escape)| {
            let members = members(&metadata, &state, &unknown, escape);
            (Just(Checkpoint { metadata, state }), Just(members).prop_shuffle(), Just(spaces))
        })
        .prop_map(|(checkpoint, mut members, spaces)| {
            // Format B does not use this member.
            if checkpoint.metadata.run.is_some() {
                members.insert(members.len() - 1, "\"timestamp\": null".to_owned());
            }
            let spaced = members.iter().zip(&spaces).map(|(member, space)| format!("{space}{member}"));
            let text = format!("{{{}}}{}", spaced.collect::<Vec<_>>().join(","), spaces[13]);
            (checkpoint, text)
        })
}

/// A string literal with as many or as few escapes as possible.
fn literal(text: &str, escape: bool) -> String {
    let mut literal = String::from("\"");
    for character in text.chars() {
        if escape || character < ' ' || matches!(character, '"' | '\\') {
            character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| literal += &format!("\\u{unit:04X}"));
        } else {
            literal.push(character);
        }
    }
    literal + "\""
}

fn members(metadata: &Metadata, state: &str, unknown: &str, escape: bool) -> Vec<String> {
    let quoted = |text: &str| literal(text, escape);
    let mut members = vec![
        format!("\"checkpoint_id\": {}", quoted(&metadata.checkpoint_id)),
        format!("\"session_id\":{}", quoted(&metadata.session_id)),
        format!("\"step\": {}", metadata.step),
        format!("\"\\ud800\": {unknown}"),
    ];
    if let Some(run) = &metadata.run {
        let fields: Vec<String> = run.updated_fields.iter().map(|field| quoted(field)).collect();
        let dispatch = run.dispatch_id.as_ref().map_or_else(|| "null".to_owned(), |id| quoted(id));
        members.extend([
            format!("\"run_id\": {}", quoted(&run.run_id)),
            format!("\"created_at\": {}", quoted(&metadata.timestamp)),
            format!("\"node\": {}", quoted(&metadata.node)),
            format!("\"prev_node\": {}", quoted(&run.prev_node)),
            format!("\"updated_fields\": [ {} ]", fields.join(" ,")),
            format!("\"attempt\": {}", run.attempt.map_or_else(|| "null".to_owned(), |it| it.to_string())),
            format!("\"dispatch_id\": {dispatch}"),
            format!("\"state\": {state}"),
        ]);
    } else {
        members.extend([
            format!("\"timestamp\": {}", quoted(&metadata.timestamp)),
            format!("\"node_name\": {}", quoted(&metadata.node)),
            format!("\"state\": {}", quoted(state)),
        ]);
    }
    let extra = metadata.extra.iter().map(|extra| format!("{}: {}", quoted(&extra.name), extra.value));
    // As one, because the members are shuffled and the order of these counts.
    members.extend(Some(extra.collect::<Vec<_>>().join(",")).filter(|extra| !extra.is_empty()));
    members
}

/// A timestamp in parts.
#[derive(Clone, Debug)]
struct Moment {
    date: (i32, usize, i32),
    time: (i32, i32, i32),
    separator: &'static str,
    /// With its separator; empty if it is absent.
    fraction: String,
    /// The given text, the text of `isoformat()`, and microseconds.
    offset: (String, String, i128),
}

const MONTHS: [i32; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

fn is_leap(year: i32) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i32, month: usize) -> i32 {
    MONTHS[month - 1] + i32::from(month == 2 && is_leap(year))
}

/// The microseconds of a fraction; further digits are cut.
fn microseconds(fraction: &str) -> i128 {
    let digits: String =
        fraction.trim_start_matches(['.', ',']).chars().chain("000000".chars()).take(6).collect();
    digits.parse().expect("digits")
}

/// The fraction of `isoformat()`.
fn canonical_fraction(microseconds: i128) -> String {
    if microseconds == 0 { String::new() } else { format!(".{microseconds:06}") }
}

impl Moment {
    fn given(&self) -> String {
        let ((year, month, day), (hour, minute, second)) = (self.date, self.time);
        let (separator, fraction, offset) = (self.separator, &self.fraction, &self.offset.0);
        format!("{year:04}-{month:02}-{day:02}{separator}{hour:02}:{minute:02}:{second:02}{fraction}{offset}")
    }

    fn canonical(&self) -> String {
        let fraction = canonical_fraction(microseconds(&self.fraction));
        let offset = (self.offset.1.clone(), String::new(), 0);
        Self { separator: "T", fraction, offset, ..self.clone() }.given()
    }

    /// The double nearest to the seconds since 1970: a quotient of 53 bits, rounded half
    /// to even.
    fn score(&self) -> f64 {
        let exact = self.microseconds_since_1970();
        let size = exact.unsigned_abs();
        if size == 0 {
            return 0.0;
        }
        let mut shift = 0;
        while (size << shift) / 1_000_000 < 1 << 52 {
            shift += 1;
        }
        let (quotient, rest) = ((size << shift) / 1_000_000, (size << shift) % 1_000_000);
        let up = rest > 500_000 || (rest == 500_000 && quotient % 2 == 1);
        let nearest = (quotient + u128::from(up)) as f64 / 2_f64.powi(shift);
        if exact < 0 { -nearest } else { nearest }
    }

    fn microseconds_since_1970(&self) -> i128 {
        let ((year, month, day), (hour, minute, second)) = (self.date, self.time);
        let years = year - 1;
        let in_months: i32 = (1..month).map(|month| days_in(year, month)).sum();
        // The years 1 to 1969 have 719,162 days.
        let days = years * 365 + years / 4 - years / 100 + years / 400 + in_months + day - 1 - 719_162;
        let seconds = i128::from(days) * 86_400 + i128::from(hour * 3600 + minute * 60 + second);
        seconds * 1_000_000 + microseconds(&self.fraction) - self.offset.2
    }
}

fn fraction() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[.,][0-9]{1,9}", "[.]0{1,9}"]
}

/// An offset in each form, or none.
fn offset() -> impl Strategy<Value = (String, String, i128)> {
    let sign = any::<bool>().prop_map(|west| if west { -1 } else { 1 });
    let sixty = || prop_oneof![Just(0), 0..60_i128];
    let parts = (0..8, sign, prop_oneof![Just(0), 0..24_i128], sixty(), sixty(), fraction());
    parts.prop_map(|(form, sign, hours, minutes, seconds, fraction)| {
        let (minutes, seconds, fraction) = match form {
            0 => return (String::new(), String::new(), 0),
            1 => return ("Z".to_owned(), "+00:00".to_owned(), 0),
            2 => (0, 0, String::new()),
            3 | 4 => (minutes, 0, String::new()),
            5 | 6 => (minutes, seconds, String::new()),
            _ => (minutes, seconds, fraction),
        };
        let size = (hours * 3600 + minutes * 60 + seconds) * 1_000_000 + microseconds(&fraction);
        let given = if sign < 0 { '-' } else { '+' };
        // Zero is always positive.
        let canonical = if sign < 0 && size > 0 { '-' } else { '+' };
        let tail = canonical_fraction(microseconds(&fraction));
        let full = format!("{hours:02}:{minutes:02}:{seconds:02}");
        let short = &full[..5];
        (
            match form {
                2 => format!("{given}{hours:02}"),
                3 => format!("{given}{hours:02}{minutes:02}"),
                4 => format!("{given}{short}"),
                _ => format!("{given}{full}{fraction}"),
            },
            if seconds == 0 && tail.is_empty() {
                format!("{canonical}{short}")
            } else {
                format!("{canonical}{full}{tail}")
            },
            sign * size,
        )
    })
}

/// A timestamp of the years 1 to 9999, often of the first and the last year.
fn moment() -> impl Strategy<Value = Moment> {
    let date = (prop_oneof![6 => 1..=9999, 2 => 1950..=2100, 1 => Just(1), 1 => Just(9999)], 1..=12_usize)
        .prop_flat_map(|(year, month)| (Just(year), Just(month), 1..=days_in(year, month)));
    let parts = (date, (0..24, 0..60, 0..60), select(&["T", " "][..]), fraction(), offset());
    parts.prop_map(|(date, time, separator, fraction, offset)| Moment {
        date,
        time,
        separator,
        fraction,
        offset,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn a_written_document_is_read_as_the_same_checkpoint((checkpoint, text) in saved()) {
        prop_assert_eq!(json::check(&checkpoint.state), Ok(()));
        prop_assert_eq!(json::check(&text), Ok(()));
        prop_assert!(text.starts_with(&document::owner_header(&checkpoint.metadata)));
        prop_assert_eq!(document::read(text), Ok(checkpoint));
    }

    #[test]
    fn order_and_white_space_of_members_make_no_difference((checkpoint, text) in foreign()) {
        prop_assert_eq!(document::read(text), Ok(checkpoint));
    }

    #[test]
    fn any_head_of_a_document_determines_its_owner_or_is_incomplete(
        (checkpoint, text) in prop_oneof![saved(), foreign()],
        cuts in vec(any::<Index>(), 8),
    ) {
        let metadata = checkpoint.metadata;
        let run_id = metadata.run.map(|run| run.run_id);
        for head in cuts.iter().map(|cut| head(&text, cut)).chain([text.as_str()]) {
            match document::read_owner(head) {
                Ok(owner) => {
                    prop_assert_eq!(&owner.checkpoint_id, &metadata.checkpoint_id);
                    prop_assert_eq!(&owner.session_id, &metadata.session_id);
                    prop_assert_eq!(&owner.run_id, &run_id);
                    prop_assert!(owner.header_len <= head.len());
                }
                Err(error) => prop_assert!(error.is_incomplete && head.len() < text.len(), "{}", error),
            }
        }
    }

    #[test]
    fn a_truncated_document_is_invalid((_, text) in saved(), cuts in vec(any::<Index>(), 4)) {
        for cut in &cuts {
            let head = head(&text, cut);
            prop_assert!(document::read(head.to_owned()).is_err(), "{}", head);
            prop_assert!(json::check(head).is_err_and(|error| error.is_incomplete), "{}", head);
        }
    }

    #[test]
    fn a_damaged_document_is_invalid_or_read_consistently(
        (_, text) in prop_oneof![saved(), foreign()],
        damages in vec((any::<Index>(), 0..4_usize, "[\\[\\]{}:,\"\\\\ud80\n \u{0}a-e1é-]{0,3}"), 1..4),
    ) {
        let mut damaged = text;
        for (place, length, instead) in &damages {
            let start = head(&damaged, place).len();
            let end = damaged.floor_char_boundary((start + length).min(damaged.len()));
            damaged.replace_range(start..end.max(start), instead);
        }
        let owner = document::read_owner(&damaged);
        if let Ok(read) = document::read(damaged.clone()) {
            prop_assert_eq!(json::check(&damaged), Ok(()));
            prop_assert_eq!(json::check(&read.state), Ok(()));
            let owner = owner.expect("the owner of a valid document");
            prop_assert_eq!(&owner.checkpoint_id, &read.metadata.checkpoint_id);
            prop_assert_eq!(&owner.session_id, &read.metadata.session_id);
            let written = document::write(&read.metadata, &read.state);
            prop_assert_eq!(document::read(written), Ok(read));
        }
    }

    #[test]
    fn text_that_is_not_a_document_is_invalid(text in "[\\[\\]{}:,\"\\\\uNIn1e.+-]{0,12}|\\PC{0,12}") {
        prop_assert!(document::read(text.clone()).is_err());
        prop_assert!(document::read_owner(&text).is_err());
        let nested = json::check(&format!("[{text}]"));
        prop_assert!(json::check(&text).is_err() || nested.is_ok());
        prop_assert_eq!(Timestamp::parse(&text), None);
    }

    #[test]
    fn timestamps_and_scores_are_those_of_python_to_the_bit(moment in moment()) {
        let given = moment.given();
        let timestamp = Timestamp::parse(&given).expect(&given);
        prop_assert_eq!(timestamp.to_string(), moment.canonical());
        prop_assert_eq!(Timestamp::parse(&timestamp.to_string()), Some(timestamp));
        prop_assert_eq!(timestamp.score().to_bits(), moment.score().to_bits(), "{}", given);
    }

    #[test]
    fn a_damaged_timestamp_is_invalid_or_read_consistently(
        moment in moment(),
        place in any::<Index>(),
        instead in "[0-9:+.TZé-]{0,2}",
    ) {
        let mut damaged = moment.given();
        let start = place.index(damaged.len());
        damaged.replace_range(start..=start, &instead);
        if let Some(timestamp) = Timestamp::parse(&damaged) {
            prop_assert_eq!(Timestamp::parse(&timestamp.to_string()), Some(timestamp));
            prop_assert!(timestamp.score().is_finite());
        }
    }
}

/// Metadata in format B and in format A.
fn both(timestamp: &str) -> [Metadata; 2] {
    let plain = Metadata {
        session_id: "s".into(),
        checkpoint_id: "c".into(),
        timestamp: timestamp.into(),
        node: "n".into(),
        step: 1,
        run: None,
        extra: Vec::new(),
    };
    let run = Run {
        run_id: "r".into(),
        prev_node: "p".into(),
        updated_fields: Vec::new(),
        attempt: None,
        dispatch_id: None,
    };
    [Metadata { run: Some(run), ..plain.clone() }, plain]
}

#[test]
fn states_beyond_the_json_standard_are_kept_as_text() {
    for state in [
        "NaN",
        "[Infinity,-Infinity , NaN]",
        &"9".repeat(4000),
        &format!("-{}", "1234567890".repeat(400)),
        r#""\ud800""#,
        r#"{"\udfff": "\ud83c", "x": "\udf0d\ud83c"}"#,
        &format!("{}{}", "[".repeat(2000), "]".repeat(2000)),
        &format!("{}1{}", "{\"a\":[".repeat(1000), "]}".repeat(1000)),
        r#"{"a": 1, "a": 2, "\u0061": 3}"#,
        r#""\"\\\/\b\f\n\r\t\u0000\uFFFF""#,
    ] {
        for metadata in both("2026-01-02T03:04:05+00:00") {
            let text = document::write(&metadata, state);
            assert_eq!(document::read(text), Ok(Checkpoint { metadata, state: state.to_owned() }));
        }
    }
}

/// A program that writes the state of format A without escaping its backslashes
/// writes a lone surrogate into the string.
#[test]
fn a_lone_surrogate_in_the_string_of_format_a_is_an_escape_in_the_state() {
    let metadata = both("2026-01-02T03:04:05+00:00")[1].clone();
    let text = document::write(&metadata, r#"["\ud800", "\ud83c\udf0d"]"#).replace(r"\\u", r"\u");
    let state = "[\"\\ud800\", \"\u{1f30d}\"]".to_owned();
    assert_eq!(document::read(text), Ok(Checkpoint { metadata, state }));
}

/// The scores are those of Python's `timestamp()`; without an offset in UTC.
#[test]
fn first_and_last_years_and_unusual_offsets_are_valid() {
    for (timestamp, score) in [
        ("0001-01-01T00:00:00+23:59:59.999999", -62_135_683_200.0),
        ("0001-01-01T00:00:00", -62_135_596_800.0),
        ("1970-01-01T00:00:00", 0.0),
        ("2026-01-02T03:04:05-03:30:15", 1_767_335_660.0),
        ("9999-12-31T23:59:59.999999-23:59:59.999999", 253_402_387_200.0),
    ] {
        let moment = Timestamp::parse(timestamp).expect(timestamp);
        assert_eq!((moment.to_string(), moment.score()), (timestamp.to_owned(), score));
        for metadata in both(timestamp) {
            let text = document::write(&metadata, "{}");
            assert_eq!(document::read(text), Ok(Checkpoint { metadata, state: "{}".to_owned() }));
        }
    }
}
