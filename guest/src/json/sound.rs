//! Passes over values that are JSON beyond doubt, as fast as it goes. It knows
//! no faults: of everything else it says nothing, and leaves it to the
//! [`Scanner`](super::Scanner) to read the same again, a byte at a time.

use super::block::Blocks;

/// Where the value ends that begins at `at`, or behind white space there. None
/// if that is no JSON, or if something stands in more than 63 brackets.
///
/// It stays a function of its own, so that giving up is one jump to its end: in
/// the component that makes it a quarter faster.
#[inline(never)]
pub fn end_of_value(text: &[u8], mut at: usize) -> Option<usize> {
    let mut strings = Strings::of(text);
    // The brackets that are open, the innermost the lowest bit: 1 is a brace.
    // Before them stands one more 1.
    let mut open = 1_u64;
    loop {
        match next(text, &mut at)? {
            b'"' => at = strings.end(at + 1)?,
            bracket @ (b'{' | b'[') => {
                at += 1;
                // Their ends are two characters further in ASCII.
                if next(text, &mut at)? == bracket + 2 {
                    at += 1;
                } else {
                    if open.leading_zeros() == 0 {
                        return None;
                    }
                    open = open << 1 | u64::from(bracket == b'{');
                    if bracket == b'{' {
                        at = strings.end_of_key(at)?;
                    }
                    continue;
                }
            }
            b'-' | b'0'..=b'9' => at = end_of_number(text, at)?,
            b'n' => at = end_of_word(text, at, b"null")?,
            b't' => at = end_of_word(text, at, b"true")?,
            b'f' => at = end_of_word(text, at, b"false")?,
            b'N' => at = end_of_word(text, at, b"NaN")?,
            b'I' => at = end_of_word(text, at, b"Infinity")?,
            _ => return None,
        }
        // A value has ended, and with it perhaps those around it.
        loop {
            if open == 1 {
                return Some(at);
            }
            let in_braces = open & 1 == 1;
            let byte = next(text, &mut at)?;
            at += 1;
            if byte == b',' {
                if in_braces {
                    at = strings.end_of_key(at)?;
                }
                break;
            }
            if byte != if in_braces { b'}' } else { b']' } {
                return None;
            }
            open >>= 1;
        }
    }
}

/// Passes over white space, and says which byte comes next.
#[inline(always)]
fn next(text: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let byte = *text.get(*at)?;
        // Nearly always there is none, and one comparison tells.
        if byte > b' ' || !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return Some(byte);
        }
        *at += 1;
    }
}

#[inline(always)]
fn end_of_word<const N: usize>(text: &[u8], at: usize, word: &[u8; N]) -> Option<usize> {
    (text.get(at..)?.first_chunk() == Some(word)).then_some(at + N)
}

#[inline(always)]
fn end_of_number(text: &[u8], mut at: usize) -> Option<usize> {
    let is = |at: usize, bytes: &[u8]| text.get(at).is_some_and(|byte| bytes.contains(byte));
    let end_of_digits = |start: usize| {
        let digits = text[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        (digits > 0).then_some(start + digits)
    };
    if is(at, b"-") {
        at += 1;
        if is(at, b"I") {
            return end_of_word(text, at, b"Infinity");
        }
    }
    at = if is(at, b"0") { at + 1 } else { end_of_digits(at)? };
    if is(at, b".") {
        at = end_of_digits(at + 1)?;
    }
    if is(at, b"eE") {
        at = end_of_digits(at + 1 + usize::from(is(at + 1, b"+-")))?;
    }
    Some(at)
}

/// The strings of a text, in their order.
struct Strings<'a> {
    text: &'a [u8],
    blocks: Blocks<'a, { u8::MAX }>,
}

impl<'a> Strings<'a> {
    fn of(text: &'a [u8]) -> Self {
        Self { text, blocks: Blocks::of(text) }
    }

    /// Where a string ends, with its quote, of which the rest begins at `at`.
    #[inline(always)]
    fn end(&mut self, mut at: usize) -> Option<usize> {
        loop {
            at = self.blocks.special(at);
            match self.text.get(at)? {
                b'"' => return Some(at + 1),
                b'\\' => at = end_of_escape(self.text, at + 1)?,
                _ => return None,
            }
        }
    }

    /// Where the key of a member ends, with its colon.
    #[inline(always)]
    fn end_of_key(&mut self, mut at: usize) -> Option<usize> {
        if next(self.text, &mut at)? != b'"' {
            return None;
        }
        at = self.end(at + 1)?;
        (next(self.text, &mut at)? == b':').then_some(at + 1)
    }
}

/// Where an escape ends that goes on at `at`, behind its backslash.
#[inline(always)]
fn end_of_escape(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at)? {
        byte if IS_SHORT_ESCAPE[usize::from(*byte)] => Some(at + 1),
        b'u' => {
            let digits: &[u8; 4] = text[at + 1..].first_chunk()?;
            digits.iter().all(u8::is_ascii_hexdigit).then_some(at + 5)
        }
        _ => None,
    }
}

/// Which bytes are an escape, behind a backslash and with nothing more.
const IS_SHORT_ESCAPE: [bool; 256] = {
    let (mut is, known, mut count) = ([false; 256], b"\"\\/bfnrt", 0);
    while count < known.len() {
        is[known[count] as usize] = true;
        count += 1;
    }
    is
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_sure_of_what_is_json() {
        let long = format!("\"{}\\n{}\"", "a".repeat(60), "é".repeat(200));
        let deep = format!("{}{}", "[".repeat(64), "]".repeat(64));
        for text in [
            "null",
            "true",
            "false",
            "NaN",
            "Infinity",
            "-Infinity",
            "0",
            "-0.5e-10",
            "1E+9",
            "120",
            "[ ]",
            "{}",
            "\"\"",
            "[1, [], {\"a\": {\"b\" :[null ,true]}, \"\": \"\"}\n]",
            r#"{"\u00e9": "\"\\\/\b\f\n\r\t\uD800"}"#,
            &long,
            &deep,
        ] {
            for behind in ["", " ", "x"] {
                let whole = format!("\t{text}{behind}");
                assert_eq!(end_of_value(whole.as_bytes(), 0), Some(1 + text.len()), "{whole}");
            }
        }
    }

    #[test]
    fn says_nothing_of_the_rest() {
        let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
        let cut = format!("\"{}", "a".repeat(63));
        for text in [
            "",
            " ",
            "{",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "[1}",
            "{]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{1:1}",
            "]",
            ",",
            "nul",
            "-",
            "-NaN",
            "1.",
            "1e",
            "1e+",
            ".5",
            "+1",
            "'a'",
            "\"",
            "\"\\",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\n\"",
            "\"\u{1f}\"",
            "\u{feff}1",
            &deep,
            &cut,
        ] {
            assert_eq!(end_of_value(text.as_bytes(), 0), None, "{text}");
        }
    }
}
