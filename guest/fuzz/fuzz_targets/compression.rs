#![no_main]

#[path = "../properties.rs"]
#[expect(dead_code, reason = "the others are of other targets")]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::compression(input));
