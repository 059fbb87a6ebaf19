//! Finds the special bytes of strings, 64 bytes at a time. The result is the same on
//! every target; only the instructions differ.

/// The number of bytes of a block.
const BYTES: usize = 64;

/// Finds quotes, backslashes, control characters and bytes greater than
/// `MAX_PLAIN`.
pub struct SpecialByteScanner<'a, const MAX_PLAIN: u8> {
    text: &'a [u8],
    /// The start of the block that was read last.
    start: usize,
    /// Its special bytes: a bit for each byte, the lowest for the first.
    special: u64,
}

impl<'a, const MAX_PLAIN: u8> SpecialByteScanner<'a, MAX_PLAIN> {
    /// Scans `text`.
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, start: usize::MAX, special: 0 }
    }

    /// Returns the position of the first special byte from `at` on; the end of the
    /// text counts as special.
    #[inline(always)]
    pub fn next(&mut self, mut at: usize) -> usize {
        loop {
            let start = at - at % BYTES;
            if start != self.start {
                self.start = start;
                self.special = special_from::<MAX_PLAIN>(self.text, start);
            }
            let ahead = self.special >> (at % BYTES);
            if ahead != 0 {
                return at + ahead.trailing_zeros() as usize;
            }
            at = start + BYTES;
        }
    }
}

/// Returns the special bytes of a block. Bytes after the end of the text are
/// special. Inlining it would increase the register pressure in the loops of its
/// callers.
#[inline(never)]
fn special_from<const MAX_PLAIN: u8>(text: &[u8], start: usize) -> u64 {
    let rest = text.get(start..).unwrap_or_default();
    match rest.first_chunk() {
        Some(block) => special_of_block::<MAX_PLAIN>(block),
        None => {
            let mut block = [0; BYTES];
            block[..rest.len()].copy_from_slice(rest);
            special_of_block::<MAX_PLAIN>(&block)
        }
    }
}

fn special_of_block<const MAX_PLAIN: u8>(block: &[u8; BYTES]) -> u64 {
    let (parts, _) = block.as_chunks::<16>();
    parts.iter().rev().fold(0, |bits, part| bits << 16 | u64::from(special_of_part::<MAX_PLAIN>(part)))
}

#[cfg(all(target_family = "wasm", target_feature = "simd128"))]
fn special_of_part<const MAX_PLAIN: u8>(part: &[u8; 16]) -> u16 {
    use std::arch::wasm32::{u8x16_bitmask, u8x16_eq, u8x16_gt, u8x16_lt, u8x16_splat, u64x2, v128_or};

    let number = u128::from_le_bytes(*part);
    let bytes = u64x2(number as u64, (number >> 64) as u64);
    let quotes = u8x16_eq(bytes, u8x16_splat(b'"'));
    let backslashes = u8x16_eq(bytes, u8x16_splat(b'\\'));
    let controls = u8x16_lt(bytes, u8x16_splat(b' '));
    let greater = u8x16_gt(bytes, u8x16_splat(MAX_PLAIN));
    u8x16_bitmask(v128_or(v128_or(quotes, backslashes), v128_or(controls, greater)))
}

#[cfg(target_arch = "x86_64")]
fn special_of_part<const MAX_PLAIN: u8>(part: &[u8; 16]) -> u16 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_max_epu8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x,
        _mm_set1_epi8,
    };

    #[target_feature(enable = "sse2")]
    fn with_sse2<const MAX_PLAIN: u8>(part: &[u8; 16]) -> u16 {
        let number = u128::from_le_bytes(*part);
        let bytes = _mm_set_epi64x((number >> 64) as i64, number as i64);
        let quotes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8));
        let backslashes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8));
        let last = _mm_set1_epi8(0x1f);
        let controls = _mm_cmpeq_epi8(_mm_max_epu8(bytes, last), last);
        let mut special = _mm_or_si128(_mm_or_si128(quotes, backslashes), controls);
        if MAX_PLAIN < u8::MAX {
            let first = _mm_set1_epi8((MAX_PLAIN + 1) as i8);
            special = _mm_or_si128(special, _mm_cmpeq_epi8(_mm_min_epu8(bytes, first), first));
        }
        _mm_movemask_epi8(special) as u16
    }

    // SAFETY: every x86-64 processor has SSE2.
    unsafe { with_sse2::<MAX_PLAIN>(part) }
}

#[cfg(not(any(all(target_family = "wasm", target_feature = "simd128"), target_arch = "x86_64")))]
fn special_of_part<const MAX_PLAIN: u8>(part: &[u8; 16]) -> u16 {
    let bit = |byte: &u8| u16::from(matches!(byte, b'"' | b'\\' | 0..b' ') || *byte > MAX_PLAIN);
    part.iter().rev().fold(0, |bits, byte| bits << 1 | bit(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_every_byte_at_every_position<const MAX_PLAIN: u8>() {
        for position in 0..2 * BYTES {
            for byte in 0..=u8::MAX {
                let mut text = [b'a'; 2 * BYTES];
                text[position] = byte;
                let special = matches!(byte, b'"' | b'\\' | 0..b' ') || byte > MAX_PLAIN;
                for length in [position + 1, text.len()] {
                    let found = SpecialByteScanner::<MAX_PLAIN>::new(&text[..length]).next(0);
                    assert_eq!(found, if special { position } else { length }, "{byte} at {position}");
                }
            }
        }
    }

    #[test]
    fn finds_special_bytes() {
        check_every_byte_at_every_position::<{ u8::MAX }>();
        check_every_byte_at_every_position::<b'~'>();
    }

    #[test]
    fn starts_at_any_position() {
        let text = format!("\"{}\"\"{}", "a".repeat(100), "b".repeat(100));
        let mut special = SpecialByteScanner::<{ u8::MAX }>::new(text.as_bytes());
        for (from, found) in [(0, 0), (1, 101), (63, 101), (102, 102), (103, 203), (0, 0), (203, 203)] {
            assert_eq!(special.next(from), found, "{from}");
        }
    }
}
