#![no_main]

#[path = "../properties.rs"]
#[expect(dead_code, reason = "other targets use the others")]
mod properties;

libfuzzer_sys::fuzz_target!(|text: &str| properties::json(text));
