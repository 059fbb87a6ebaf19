//! JSON as Python's `json` reads and writes it, scanned and never built into a
//! tree: a state passes through as the text it is, whatever its depth.
//!
//! Beyond the standard, Python reads `NaN`, `Infinity`, `-Infinity` and lone
//! surrogates (`"\ud800"`), and so does this.

mod block;
mod sound;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use self::block::Blocks;

/// Where and why a text is not JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The byte at which reading stopped.
    pub at: usize,
    /// What was expected there.
    pub expected: &'static str,
    /// Whether the text ended where it might have gone on.
    pub at_end: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "expected {} at byte {}", self.expected, self.at)
    }
}

/// Checks that `text` is one JSON value, with or without white space around it.
///
/// # Errors
/// The first [`Fault`].
pub fn check(text: &str) -> Result<(), Fault> {
    let mut scanner = Scanner::new(text);
    scanner.value()?;
    scanner.end()
}

/// Reads JSON from left to right.
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// Begins at the beginning of `text`.
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The byte that is read next.
    pub fn at(&self) -> usize {
        self.at
    }

    /// What stands at a place that was passed over.
    pub fn slice(&self, place: Range<usize>) -> &'a str {
        &self.text[place]
    }

    /// Passes over white space, and says which byte comes next.
    pub fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.byte() {
            self.at += 1;
        }
        self.byte()
    }

    /// Passes over `byte` and white space before it, if that is what comes.
    pub fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Passes over `byte` and white space before it.
    ///
    /// # Errors
    /// Something else comes; `expected` names the byte.
    pub fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), Fault> {
        if self.eat(byte) { Ok(()) } else { Err(self.fault(expected)) }
    }

    /// Passes over white space up to the end of the text.
    ///
    /// # Errors
    /// Something else comes.
    pub fn end(&mut self) -> Result<(), Fault> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.fault("the end")),
        }
    }

    /// Passes over a string, and says where it stands, quotes included.
    ///
    /// # Errors
    /// What comes is not a string.
    pub fn string(&mut self) -> Result<Range<usize>, Fault> {
        self.expect(b'"', "a string")?;
        let start = self.at - 1;
        loop {
            match self.byte() {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                Some(0x20..) => self.at += 1,
                Some(_) => return Err(self.fault("an escape instead of a control character")),
                None => return Err(self.fault("the end of a string")),
            }
        }
        self.at += 1;
        Ok(start..self.at)
    }

    /// Passes over the key of an object's member and its colon, and says where
    /// the key stands.
    ///
    /// # Errors
    /// What comes is not a key.
    pub fn key(&mut self) -> Result<Range<usize>, Fault> {
        let key = self.string()?;
        self.expect(b':', "a colon")?;
        Ok(key)
    }

    /// Passes over one value of any depth, and says where it stands.
    ///
    /// # Errors
    /// What comes is not a value.
    pub fn value(&mut self) -> Result<Range<usize>, Fault> {
        self.peek();
        let start = self.at;
        // Nearly every value is as it should be. Where this one is not, what
        // follows reads it again and says why.
        if let Some(end) = sound::end_of_value(self.text.as_bytes(), start) {
            self.at = end;
            return Ok(start..end);
        }
        // The brackets that are open: depth costs a byte each, and no stack.
        let mut open = Vec::new();
        loop {
            match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    if !self.eat(b'}') {
                        self.key()?;
                        open.push(b'}');
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    if !self.eat(b']') {
                        open.push(b']');
                        continue;
                    }
                }
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                _ => self.word()?,
            }
            // A value has ended, and with it perhaps those around it.
            loop {
                let Some(&closing) = open.last() else {
                    return Ok(start..self.at);
                };
                if self.eat(closing) {
                    open.pop();
                } else if self.eat(b',') {
                    if closing == b'}' {
                        self.key()?;
                    }
                    break;
                } else {
                    return Err(self.fault("a comma or the closing bracket"));
                }
            }
        }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// What a fault is, at the byte that comes next.
    pub fn fault(&self, expected: &'static str) -> Fault {
        Fault { at: self.at, expected, at_end: self.at >= self.text.len() }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        match self.byte() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.byte().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.fault("four hexadecimal digits"));
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.fault("an escape that JSON knows")),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Fault> {
        let negative = self.byte() == Some(b'-');
        self.at += usize::from(negative);
        match self.byte() {
            Some(b'0') => self.at += 1,
            Some(b'I') if negative => return self.exactly("Infinity"),
            _ => self.digits()?,
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.fault("a digit")) } else { Ok(()) }
    }

    fn word(&mut self) -> Result<(), Fault> {
        self.exactly(match self.byte() {
            Some(b't') => "true",
            Some(b'f') => "false",
            Some(b'n') => "null",
            Some(b'N') => "NaN",
            Some(b'I') => "Infinity",
            _ => return Err(self.fault("a value")),
        })
    }

    fn exactly(&mut self, word: &'static str) -> Result<(), Fault> {
        for byte in word.bytes() {
            if self.byte() != Some(byte) {
                return Err(self.fault(word));
            }
            self.at += 1;
        }
        Ok(())
    }
}

/// The text of a string literal that [`Scanner::string`] has passed over,
/// quotes included. Of anything else the outcome means nothing.
///
/// None if it has a lone surrogate, which no Rust text can hold; then `lone`,
/// if given, may write something in its place.
pub fn unescape(literal: &str, lone: Option<fn(u16, &mut String)>) -> Option<Cow<'_, str>> {
    let inner = literal.get(1..literal.len().checked_sub(1)?)?;
    let mut blocks = Blocks::<{ u8::MAX }>::of(inner.as_bytes());
    let mut text = String::new();
    // Up to where `text` has it, and up to where it was looked at.
    let (mut plain, mut at) = (0, 0);
    loop {
        at = blocks.special(at);
        match inner.as_bytes().get(at) {
            None => break,
            Some(b'\\') => {}
            Some(_) => {
                at += 1;
                continue;
            }
        }
        if plain == 0 {
            text.reserve(inner.len());
        }
        text.push_str(&inner[plain..at]);
        let escape = *inner.as_bytes().get(at + 1)?;
        let mut rest = inner.get(at + 2..)?;
        if let b'"' | b'\\' | b'/' = escape {
            // It stands for itself, and is copied with what follows.
            plain = at + 1;
            at += 2;
            continue;
        }
        match escape {
            b'u' => {
                let (unit, after) = code_unit(rest)?;
                rest = after;
                let low = rest.strip_prefix("\\u").and_then(code_unit);
                let pair = low.map(|(low, after)| (char::decode_utf16([unit, low]).next(), after));
                match (char::from_u32(u32::from(unit)), pair) {
                    (Some(character), _) => text.push(character),
                    (None, Some((Some(Ok(character)), after))) => {
                        text.push(character);
                        rest = after;
                    }
                    _ => lone?(unit, &mut text),
                }
            }
            b'b' => text.push('\u{8}'),
            b'f' => text.push('\u{c}'),
            b'n' => text.push('\n'),
            b'r' => text.push('\r'),
            b't' => text.push('\t'),
            other => text.push(char::from(other)),
        }
        plain = inner.len() - rest.len();
        at = plain;
    }
    if plain == 0 {
        return Some(Cow::Borrowed(inner));
    }
    text.push_str(&inner[plain..]);
    Some(Cow::Owned(text))
}

/// The UTF-16 unit that four hexadecimal digits name, and the text behind them.
fn code_unit(text: &str) -> Option<(u16, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    Some((u16::from_str_radix(digits, 16).ok()?, rest))
}

/// Writes `text` as a string literal the way Python's `json.dumps` does: all
/// but printable ASCII becomes `\uXXXX` in lower case, or one of the short
/// escapes.
pub fn write_string(text: &str, out: &mut String) {
    out.push('"');
    let mut blocks = Blocks::<b'~'>::of(text.as_bytes());
    // Up to where it is written, and up to where it was looked at.
    let (mut plain, mut at) = (0, 0);
    loop {
        at = blocks.special(at);
        let Some(character) = text.get(at..).and_then(|rest| rest.chars().next()) else {
            break;
        };
        out.push_str(&text[plain..at]);
        plain = at + character.len_utf8();
        match character {
            // With a backslash they stand for themselves, and are copied with
            // what follows.
            '"' | '\\' => {
                out.push('\\');
                plain = at;
            }
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write_unit(*unit, out);
                }
            }
        }
        at += character.len_utf8();
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

/// Writes the escape of one UTF-16 unit.
pub fn write_unit(unit: u16, out: &mut String) {
    out.push_str("\\u");
    for shift in [12, 8, 4, 0] {
        out.push(char::from(b"0123456789abcdef"[usize::from(unit >> shift & 0xf)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_python_reads() {
        for text in [
            "null",
            " true\r\n",
            "-0",
            "0.5e-10",
            "1E+9",
            "NaN",
            "Infinity",
            "-Infinity",
            "[]",
            "{ }",
            "\"\"",
            r#"{"a": [1, {"b": []}, "\ud800\"\\\/\b\f\n\r\t"], "a": {}}"#,
            "\"\u{e9}\u{7f}\u{2028}\"",
            &"9".repeat(4000),
            &format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
        ] {
            assert_eq!(check(text), Ok(()), "{text:.40}");
        }
    }

    #[test]
    fn says_where_a_text_stops_being_json() {
        for (text, at, expected) in [
            ("", 0, "a value"),
            ("{", 1, "a string"),
            ("[1,]", 3, "a value"),
            ("{\"a\" 1}", 5, "a colon"),
            ("[1 2]", 3, "a comma or the closing bracket"),
            ("[1}", 2, "a comma or the closing bracket"),
            ("01", 1, "the end"),
            ("-", 1, "a digit"),
            ("1.", 2, "a digit"),
            ("1e", 2, "a digit"),
            ("nul", 3, "null"),
            ("-NaN", 1, "a digit"),
            ("\"a\nb\"", 2, "an escape instead of a control character"),
            ("\"\\x\"", 2, "an escape that JSON knows"),
            ("\"\\u12g4\"", 5, "four hexadecimal digits"),
            ("\"a", 2, "the end of a string"),
            ("{} {}", 3, "the end"),
            ("'a'", 0, "a value"),
            ("\u{feff}{}", 0, "a value"),
            ("{\"a\": 1,}", 8, "a string"),
        ] {
            let fault = check(text).expect_err(text);
            assert_eq!((fault.at, fault.expected), (at, expected), "{text}");
            assert_eq!(fault.at_end, at == text.len(), "{text}");
        }
    }

    #[test]
    fn writes_strings_as_python_does_and_reads_them_back() {
        let text = "\"\\/ \u{0}\u{8}\t\n\u{c}\r\u{1f}~\u{7f}\u{80}é☀️\u{1f30d}";
        let literal = r#""\"\\/ \u0000\b\t\n\f\r\u001f~\u007f\u0080\u00e9\u2600\ufe0f\ud83c\udf0d""#;
        let mut out = String::new();
        write_string(text, &mut out);
        assert_eq!(out, literal);
        assert_eq!(unescape(literal, None).as_deref(), Some(text));
    }

    #[test]
    fn is_not_thrown_by_what_is_no_string() {
        for literal in ["", "\"", "é", "\"\\\"", "\"\\é\"", "\"\\u12\"", "\"\\u12é4\""] {
            assert_eq!(unescape(literal, Some(write_unit)), None, "{literal}");
        }
    }

    #[test]
    fn does_not_invent_text_for_a_lone_surrogate() {
        for literal in [r#""\ud800""#, r#""\ud800\ud800\udc00x""#, r#""\udc00\ud800""#, r#""\ud800A""#] {
            assert_eq!(unescape(literal, None), None, "{literal}");
        }
        assert_eq!(
            unescape(r#""a\ud800\ud83c\udf0d""#, Some(write_unit)).as_deref(),
            Some("a\\ud800\u{1f30d}")
        );
    }
}
