//! Finds what ends a run of plain bytes in a string, a block at a time. What it
//! says is the same for every target; only the instructions differ.

/// How many bytes a block has.
const BYTES: usize = 64;

/// The blocks of a text in which a byte is special if a string does not simply
/// go on over it: a quote, a backslash, a control character, or what is greater
/// than `MOST`.
pub struct Blocks<'a, const MOST: u8> {
    text: &'a [u8],
    /// Where the block begins that `special` is about.
    start: usize,
    /// A bit for each byte, the first the lowest.
    special: u64,
}

impl<'a, const MOST: u8> Blocks<'a, MOST> {
    /// Those of `text`.
    pub fn of(text: &'a [u8]) -> Self {
        Self { text, start: usize::MAX, special: 0 }
    }

    /// Where the first special byte is from `at` on; behind the end of the text
    /// there are no others.
    #[inline(always)]
    pub fn special(&mut self, mut at: usize) -> usize {
        loop {
            let start = at - at % BYTES;
            if start != self.start {
                self.start = start;
                self.special = special_from::<MOST>(self.text, start);
            }
            let ahead = self.special >> (at % BYTES);
            if ahead != 0 {
                return at + ahead.trailing_zeros() as usize;
            }
            at = start + BYTES;
        }
    }
}

/// The special bytes of a block, and what lies behind the end of the text. It is
/// called, not made a part of a loop: what it works with would be in the way
/// there.
#[inline(never)]
fn special_from<const MOST: u8>(text: &[u8], start: usize) -> u64 {
    let rest = text.get(start..).unwrap_or_default();
    match rest.first_chunk() {
        Some(block) => special_of_block::<MOST>(block),
        None => {
            let mut block = [0; BYTES];
            block[..rest.len()].copy_from_slice(rest);
            special_of_block::<MOST>(&block)
        }
    }
}

fn special_of_block<const MOST: u8>(block: &[u8; BYTES]) -> u64 {
    let (parts, _) = block.as_chunks::<16>();
    parts.iter().rev().fold(0, |bits, part| bits << 16 | u64::from(special_of_part::<MOST>(part)))
}

#[cfg(all(target_family = "wasm", target_feature = "simd128"))]
fn special_of_part<const MOST: u8>(part: &[u8; 16]) -> u16 {
    use std::arch::wasm32::{u8x16_bitmask, u8x16_eq, u8x16_gt, u8x16_lt, u8x16_splat, u64x2, v128_or};

    let number = u128::from_le_bytes(*part);
    let bytes = u64x2(number as u64, (number >> 64) as u64);
    let quotes = u8x16_eq(bytes, u8x16_splat(b'"'));
    let backslashes = u8x16_eq(bytes, u8x16_splat(b'\\'));
    let controls = u8x16_lt(bytes, u8x16_splat(b' '));
    let greater = u8x16_gt(bytes, u8x16_splat(MOST));
    u8x16_bitmask(v128_or(v128_or(quotes, backslashes), v128_or(controls, greater)))
}

#[cfg(target_arch = "x86_64")]
fn special_of_part<const MOST: u8>(part: &[u8; 16]) -> u16 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_max_epu8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x,
        _mm_set1_epi8,
    };

    #[target_feature(enable = "sse2")]
    fn with_sse2<const MOST: u8>(part: &[u8; 16]) -> u16 {
        let number = u128::from_le_bytes(*part);
        let bytes = _mm_set_epi64x((number >> 64) as i64, number as i64);
        let quotes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"' as i8));
        let backslashes = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\' as i8));
        let last = _mm_set1_epi8(0x1f);
        let controls = _mm_cmpeq_epi8(_mm_max_epu8(bytes, last), last);
        let mut special = _mm_or_si128(_mm_or_si128(quotes, backslashes), controls);
        if MOST < u8::MAX {
            let first = _mm_set1_epi8((MOST + 1) as i8);
            special = _mm_or_si128(special, _mm_cmpeq_epi8(_mm_min_epu8(bytes, first), first));
        }
        _mm_movemask_epi8(special) as u16
    }

    // SAFETY: there is no processor of this kind without SSE2.
    unsafe { with_sse2::<MOST>(part) }
}

#[cfg(not(any(all(target_family = "wasm", target_feature = "simd128"), target_arch = "x86_64")))]
fn special_of_part<const MOST: u8>(part: &[u8; 16]) -> u16 {
    let bit = |byte: &u8| u16::from(matches!(byte, b'"' | b'\\' | 0..b' ') || *byte > MOST);
    part.iter().rev().fold(0, |bits, byte| bits << 1 | bit(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tells_every_byte_at_every_place_apart<const MOST: u8>() {
        for place in 0..2 * BYTES {
            for byte in 0..=u8::MAX {
                let mut text = [b'a'; 2 * BYTES];
                text[place] = byte;
                let special = matches!(byte, b'"' | b'\\' | 0..b' ') || byte > MOST;
                for length in [place + 1, text.len()] {
                    let found = Blocks::<MOST>::of(&text[..length]).special(0);
                    assert_eq!(found, if special { place } else { length }, "{byte} at {place}");
                }
            }
        }
    }

    #[test]
    fn finds_what_a_string_does_not_simply_go_on_over() {
        tells_every_byte_at_every_place_apart::<{ u8::MAX }>();
        tells_every_byte_at_every_place_apart::<b'~'>();
    }

    #[test]
    fn goes_on_from_anywhere() {
        let text = format!("\"{}\"\"{}", "a".repeat(100), "b".repeat(100));
        let mut blocks = Blocks::<{ u8::MAX }>::of(text.as_bytes());
        for (from, found) in [(0, 0), (1, 101), (63, 101), (102, 102), (103, 203), (0, 0), (203, 203)] {
            assert_eq!(blocks.special(from), found, "{from}");
        }
    }
}
