//! JSON as Python's `json` reads and writes it: beyond the standard it contains
//! `NaN`, `Infinity`, `-Infinity` and lone surrogates (`"\ud800"`). The scanner
//! builds no tree, so a state of any depth is kept as its text.

mod fast_path;
mod simd;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use self::simd::SpecialByteScanner;

/// Why a text is not JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// The position of the error in bytes.
    pub offset: usize,
    /// The expected syntax.
    pub expected: &'static str,
    /// Whether more text could complete it.
    pub is_incomplete: bool,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "expected {} at byte {}", self.expected, self.offset)
    }
}

/// Checks that `text` is one JSON value, with or without white space around it.
///
/// # Errors
/// The first [`SyntaxError`].
pub fn check(text: &str) -> Result<(), SyntaxError> {
    let mut scanner = Scanner::new(text);
    scanner.value()?;
    scanner.expect_end()
}

/// Reads JSON from left to right.
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// Starts at the beginning of `text`.
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Returns the position of the next byte.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Returns the text of a span.
    pub fn slice(&self, span: Range<usize>) -> &'a str {
        &self.text[span]
    }

    /// Skips white space. Returns the next byte.
    pub fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.byte() {
            self.at += 1;
        }
        self.byte()
    }

    /// Skips white space, and `byte` if it is next. Returns whether it was.
    pub fn consume(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Skips white space and `byte`.
    ///
    /// # Errors
    /// Another byte is next. `expected` is the text of the error.
    pub fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), SyntaxError> {
        if self.consume(byte) { Ok(()) } else { Err(self.error(expected)) }
    }

    /// Skips white space up to the end of the text.
    ///
    /// # Errors
    /// Another byte is next.
    pub fn expect_end(&mut self) -> Result<(), SyntaxError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error("the end")),
        }
    }

    /// Skips a string. Returns its span with the quotes.
    ///
    /// # Errors
    /// Another value is next.
    pub fn string(&mut self) -> Result<Range<usize>, SyntaxError> {
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
                Some(_) => return Err(self.error("an escape instead of a control character")),
                None => return Err(self.error("the end of a string")),
            }
        }
        self.at += 1;
        Ok(start..self.at)
    }

    /// Skips the key of a member and its colon. Returns the span of the key.
    ///
    /// # Errors
    /// There is no key or no colon.
    pub fn key(&mut self) -> Result<Range<usize>, SyntaxError> {
        let key = self.string()?;
        self.expect(b':', "a colon")?;
        Ok(key)
    }

    /// Skips one value of any depth. Returns its span.
    ///
    /// # Errors
    /// The value is invalid.
    pub fn value(&mut self) -> Result<Range<usize>, SyntaxError> {
        self.peek();
        let start = self.at;
        // Nearly every value is valid. The rest of this function reads an invalid
        // one again to find the error.
        if let Some(end) = fast_path::skip_valid_value(self.text.as_bytes(), start) {
            self.at = end;
            return Ok(start..end);
        }
        // The closing brackets that are missing: one byte per level, no recursion.
        let mut open = Vec::new();
        loop {
            match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    if !self.consume(b'}') {
                        self.key()?;
                        open.push(b'}');
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    if !self.consume(b']') {
                        open.push(b']');
                        continue;
                    }
                }
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                _ => self.literal()?,
            }
            // A value has ended, and the objects and lists around it may end.
            loop {
                let Some(&closing) = open.last() else {
                    return Ok(start..self.at);
                };
                if self.consume(closing) {
                    open.pop();
                } else if self.consume(b',') {
                    if closing == b'}' {
                        self.key()?;
                    }
                    break;
                } else {
                    return Err(self.error("a comma or the closing bracket"));
                }
            }
        }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Returns the error that something else was expected at the position.
    pub fn error(&self, expected: &'static str) -> SyntaxError {
        SyntaxError { offset: self.at, expected, is_incomplete: self.at >= self.text.len() }
    }

    fn escape(&mut self) -> Result<(), SyntaxError> {
        match self.byte() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.byte().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.error("four hexadecimal digits"));
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.error("an escape of JSON")),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), SyntaxError> {
        let negative = self.byte() == Some(b'-');
        self.at += usize::from(negative);
        match self.byte() {
            Some(b'0') => self.at += 1,
            Some(b'I') if negative => return self.expect_literal("Infinity"),
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

    fn digits(&mut self) -> Result<(), SyntaxError> {
        let start = self.at;
        while self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.error("a digit")) } else { Ok(()) }
    }

    fn literal(&mut self) -> Result<(), SyntaxError> {
        self.expect_literal(match self.byte() {
            Some(b't') => "true",
            Some(b'f') => "false",
            Some(b'n') => "null",
            Some(b'N') => "NaN",
            Some(b'I') => "Infinity",
            _ => return Err(self.error("a value")),
        })
    }

    fn expect_literal(&mut self, literal: &'static str) -> Result<(), SyntaxError> {
        for byte in literal.bytes() {
            if self.byte() != Some(byte) {
                return Err(self.error(literal));
            }
            self.at += 1;
        }
        Ok(())
    }
}

/// Returns the text of a string literal that [`Scanner::string`] accepts, quotes
/// included. For another literal the result is undefined.
///
/// A lone surrogate is written by `on_lone_surrogate`, because no `String` can hold
/// it; without that function the result is none.
pub fn unescape(literal: &str, on_lone_surrogate: Option<fn(u16, &mut String)>) -> Option<Cow<'_, str>> {
    let inner = literal.get(1..literal.len().checked_sub(1)?)?;
    let mut special = SpecialByteScanner::<{ u8::MAX }>::new(inner.as_bytes());
    let mut text = String::new();
    // `inner` was copied up to `plain` and read up to `at`.
    let (mut plain, mut at) = (0, 0);
    loop {
        at = special.next(at);
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
            // The character itself: copy it with the text after it.
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
                    _ => on_lone_surrogate?(unit, &mut text),
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

/// Parses four hexadecimal digits. Returns the UTF-16 unit and the rest.
fn code_unit(text: &str) -> Option<(u16, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    Some((u16::from_str_radix(digits, 16).ok()?, rest))
}

/// Writes `text` as a string literal as Python's `json.dumps` does: printable ASCII
/// as it is, other characters as `\uxxxx` or as a short escape.
pub fn write_string(text: &str, out: &mut String) {
    out.push('"');
    let mut special = SpecialByteScanner::<b'~'>::new(text.as_bytes());
    // `text` was written up to `plain` and read up to `at`.
    let (mut plain, mut at) = (0, 0);
    loop {
        at = special.next(at);
        let Some(character) = text.get(at..).and_then(|rest| rest.chars().next()) else {
            break;
        };
        out.push_str(&text[plain..at]);
        plain = at + character.len_utf8();
        match character {
            // After a backslash the character itself: copy it with the text after it.
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
                    write_utf16_escape(*unit, out);
                }
            }
        }
        at += character.len_utf8();
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

/// Writes the escape of a UTF-16 unit.
pub fn write_utf16_escape(unit: u16, out: &mut String) {
    out.push_str("\\u");
    for shift in [12, 8, 4, 0] {
        out.push(char::from(b"0123456789abcdef"[usize::from(unit >> shift & 0xf)]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(text: &str) -> Option<usize> {
        fast_path::skip_valid_value(text.as_bytes(), 0)
    }

    #[test]
    fn accepts_the_json_of_python() {
        let words = "null true false NaN Infinity -Infinity 0 -0 120 0.5e-10 -0.5e-10 1E+9 [] {} \"\"";
        let texts = [
            "[ ]",
            "{ }",
            "[1, [], {\"a\": {\"b\" :[null ,true]}, \"\": \"\"}\n]",
            r#"{"a": [1, {"b": []}, "\ud800\"\\\/\b\f\n\r\t"], "a": {}, "\u00e9": "\uD800"}"#,
            "\"\u{e9}\u{7f}\u{2028}\"",
            &format!("\"{}\\n{}\"", "a".repeat(60), "é".repeat(200)),
            &"9".repeat(4000),
            &format!("{}{}", "[".repeat(63), "]".repeat(63)),
        ];
        for text in words.split(' ').chain(texts) {
            assert_eq!(check(&format!("\t{text}\r\n")), Ok(()), "{text:.40}");
            for suffix in ["", " ", "x"] {
                assert_eq!(skip(&format!("\t{text}{suffix}")), Some(1 + text.len()), "{text:.40}");
            }
        }
        // Too deep for the fast path.
        for depth in [65, 100_000] {
            let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!((check(&deep), skip(&deep)), (Ok(()), None));
        }
    }

    #[test]
    fn errors_have_an_offset() {
        for (text, offset, expected) in [
            ("", 0, "a value"),
            (" ", 1, "a value"),
            ("{", 1, "a string"),
            ("[", 1, "a value"),
            ("[1", 2, "a comma or the closing bracket"),
            ("[1,", 3, "a value"),
            ("[1,]", 3, "a value"),
            ("{]", 1, "a string"),
            ("{\"a\" 1}", 5, "a colon"),
            ("{\"a\"}", 4, "a colon"),
            ("{\"a\":}", 5, "a value"),
            ("{1:1}", 1, "a string"),
            ("[1 2]", 3, "a comma or the closing bracket"),
            ("[1}", 2, "a comma or the closing bracket"),
            ("]", 0, "a value"),
            (",", 0, "a value"),
            ("-", 1, "a digit"),
            ("1.", 2, "a digit"),
            ("1e", 2, "a digit"),
            ("1e+", 3, "a digit"),
            (".5", 0, "a value"),
            ("+1", 0, "a value"),
            ("nul", 3, "null"),
            ("-NaN", 1, "a digit"),
            ("\"", 1, "the end of a string"),
            ("\"\\", 2, "an escape of JSON"),
            ("\"a\nb\"", 2, "an escape instead of a control character"),
            ("\"\u{1f}\"", 1, "an escape instead of a control character"),
            ("\"\\x\"", 2, "an escape of JSON"),
            ("\"\\u12\"", 5, "four hexadecimal digits"),
            ("\"\\u12g4\"", 5, "four hexadecimal digits"),
            ("\"a", 2, "the end of a string"),
            (&format!("\"{}", "a".repeat(63)), 64, "the end of a string"),
            ("'a'", 0, "a value"),
            ("\u{feff}{}", 0, "a value"),
            ("{\"a\": 1,}", 8, "a string"),
        ] {
            let error = check(text).expect_err(text);
            assert_eq!((error.offset, error.expected), (offset, expected), "{text}");
            assert_eq!(error.is_incomplete, offset == text.len(), "{text}");
            assert_eq!(skip(text), None, "{text}");
        }
        for (text, offset) in [("01", 1), ("{} {}", 3)] {
            assert_eq!(check(text), Err(SyntaxError { offset, expected: "the end", is_incomplete: false }));
        }
    }

    #[test]
    fn strings_are_written_as_python_does_and_read_back() {
        let text = "\"\\/ \u{0}\u{8}\t\n\u{c}\r\u{1f}~\u{7f}\u{80}é☀️\u{1f30d}";
        let literal = r#""\"\\/ \u0000\b\t\n\f\r\u001f~\u007f\u0080\u00e9\u2600\ufe0f\ud83c\udf0d""#;
        let mut out = String::new();
        write_string(text, &mut out);
        assert_eq!(out, literal);
        assert_eq!(unescape(literal, None).as_deref(), Some(text));
    }

    #[test]
    fn unescape_returns_none_for_an_invalid_literal() {
        for literal in ["", "\"", "é", "\"\\\"", "\"\\é\"", "\"\\u12\"", "\"\\u12é4\""] {
            assert_eq!(unescape(literal, Some(write_utf16_escape)), None, "{literal}");
        }
    }

    #[test]
    fn unescape_returns_none_for_a_lone_surrogate() {
        for literal in [r#""\ud800""#, r#""\ud800\ud800\udc00x""#, r#""\udc00\ud800""#, r#""\ud800A""#] {
            assert_eq!(unescape(literal, None), None, "{literal}");
        }
        assert_eq!(
            unescape(r#""a\ud800\ud83c\udf0d""#, Some(write_utf16_escape)).as_deref(),
            Some("a\\ud800\u{1f30d}")
        );
    }
}
