#![no_main]

#[path = "../properties.rs"]
#[expect(dead_code, reason = "the others are of other targets")]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &str| properties::timestamp(text));
