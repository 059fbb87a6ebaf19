//! The fast path: skips one valid JSON value. For an invalid or very deep value it
//! returns none, and the [`Scanner`](super::Scanner) reads the value again.

use super::simd::SpecialByteScanner;

/// Returns the end of the value at `at` or after white space there. Returns none if
/// it is invalid or has more than 63 levels.
///
/// As a function that is not inlined it returns none by one jump to its end, which
/// makes the component a quarter faster here.
#[inline(never)]
pub fn skip_valid_value(text: &[u8], mut at: usize) -> Option<usize> {
    let mut strings = Strings::new(text);
    // A bit for each open bracket, the lowest for the innermost: 1 for a brace. The
    // highest 1 is no bracket and marks the end of the bits.
    let mut open = 1_u64;
    loop {
        match next(text, &mut at)? {
            b'"' => at = strings.end(at + 1)?,
            bracket @ (b'{' | b'[') => {
                at += 1;
                // In ASCII the closing bracket is two characters after the opening one.
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
            b'n' => at = end_of_literal(text, at, b"null")?,
            b't' => at = end_of_literal(text, at, b"true")?,
            b'f' => at = end_of_literal(text, at, b"false")?,
            b'N' => at = end_of_literal(text, at, b"NaN")?,
            b'I' => at = end_of_literal(text, at, b"Infinity")?,
            _ => return None,
        }
        // A value has ended, and the objects and lists around it may end.
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

/// Skips white space. Returns the next byte.
#[inline(always)]
fn next(text: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let byte = *text.get(*at)?;
        // Usually there is no white space, which one comparison finds out.
        if byte > b' ' || !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return Some(byte);
        }
        *at += 1;
    }
}

#[inline(always)]
fn end_of_literal<const N: usize>(text: &[u8], at: usize, literal: &[u8; N]) -> Option<usize> {
    (text.get(at..)?.first_chunk() == Some(literal)).then_some(at + N)
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
            return end_of_literal(text, at, b"Infinity");
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

/// Finds the ends of the strings of a text.
struct Strings<'a> {
    text: &'a [u8],
    special: SpecialByteScanner<'a, { u8::MAX }>,
}

impl<'a> Strings<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { text, special: SpecialByteScanner::new(text) }
    }

    /// Returns the end of a string after its closing quote. `at` is within it.
    #[inline(always)]
    fn end(&mut self, mut at: usize) -> Option<usize> {
        loop {
            at = self.special.next(at);
            match self.text.get(at)? {
                b'"' => return Some(at + 1),
                b'\\' => at = end_of_escape(self.text, at + 1)?,
                _ => return None,
            }
        }
    }

    /// Returns the end of the key of a member after its colon.
    #[inline(always)]
    fn end_of_key(&mut self, mut at: usize) -> Option<usize> {
        if next(self.text, &mut at)? != b'"' {
            return None;
        }
        at = self.end(at + 1)?;
        (next(self.text, &mut at)? == b':').then_some(at + 1)
    }
}

/// Returns the end of an escape. `at` is after its backslash.
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

/// Whether a byte after a backslash is a whole escape.
const IS_SHORT_ESCAPE: [bool; 256] = {
    let (mut is, known, mut count) = ([false; 256], b"\"\\/bfnrt", 0);
    while count < known.len() {
        is[known[count] as usize] = true;
        count += 1;
    }
    is
};
