//! Compressed states, as llmfy stores them with `compress=True`: a JSON string of
//! base64 of zlib of JSON. Nothing in the value marks it as compressed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use miniz_oxide::deflate::compress_to_vec_zlib;
use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_zlib_with_limit};

use crate::json;

/// The default of Python's `zlib.compress`.
const LEVEL: u8 = 6;

/// The maximum size of a decompressed state. A value can decompress to 1,032 times
/// its size.
const MAX_STATE_BYTES: usize = 512 * 1024 * 1024;

/// Returns the JSON string to store for a state.
pub fn compress(state: &str) -> String {
    let mut text = String::from("\"");
    STANDARD.encode_string(compress_to_vec_zlib(state.as_bytes(), LEVEL), &mut text);
    text.push('"');
    text
}

/// Returns the state of which [`compress`] returns `stored`, or `stored` itself if it
/// is JSON that is not compressed.
///
/// # Errors
/// It decompresses to something that is not a state. The text is the reason.
pub fn decompress(stored: String) -> Result<String, String> {
    let literal = stored.trim_ascii();
    let base64 = literal.starts_with('"').then(|| json::unescape(literal, None)).flatten();
    let Some(Ok(compressed)) = base64.map(|base64| STANDARD.decode(&*base64)) else {
        return Ok(stored);
    };
    match decompress_to_vec_zlib_with_limit(&compressed, MAX_STATE_BYTES) {
        Ok(state) => {
            let state =
                String::from_utf8(state).map_err(|_| "the compressed state is not UTF-8".to_owned())?;
            json::check(&state).map_err(|error| format!("the compressed state is not JSON: {error}"))?;
            Ok(state)
        }
        Err(error) if error.status == TINFLStatus::HasMoreOutput => {
            Err(format!("the compressed state has more than {MAX_STATE_BYTES} bytes"))
        }
        Err(_) => Ok(stored),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_state_decompresses_to_the_same() {
        for state in ["{}", "{\"a\": \"é\\ud800 NaN\"}", &format!("[{}1]", "1, ".repeat(100_000))] {
            let stored = compress(state);
            assert_eq!(json::check(&stored), Ok(()));
            assert_eq!(decompress(format!(" {stored}\n")).as_deref(), Ok(state));
            assert_eq!(decompress(stored).as_deref(), Ok(state));
        }
    }

    /// `base64.b64encode(zlib.compress(b'{"x": 1}'))` in Python 3.11.
    #[test]
    fn a_state_compressed_by_python_is_decompressed() {
        assert_eq!(decompress("\"eJyrVqpQslIwrAUACm8CQA==\"".into()).as_deref(), Ok("{\"x\": 1}"));
    }

    /// PHP, for example, escapes slashes.
    #[test]
    fn escapes_in_a_compressed_state_are_accepted() {
        let stored = "\"eJyrVspTslIwNDAwMKkFABO/Avo=\"";
        for escaped in [stored, &stored.replace('/', "\\/"), &stored.replace('=', "\\u003d")] {
            assert_eq!(decompress(escaped.into()).as_deref(), Ok("{\"n\": 10004}"));
        }
    }

    #[test]
    fn an_uncompressed_state_is_returned_unchanged() {
        for state in ["{}", "\"\"", "\"abcd\"", "\"hello\"", "1", "\"eJyr\""] {
            assert_eq!(decompress(state.into()).as_deref(), Ok(state));
        }
    }

    #[test]
    fn a_compressed_text_that_is_not_json_is_an_error() {
        let stored = compress("{");
        assert_eq!(
            decompress(stored),
            Err("the compressed state is not JSON: expected a string at byte 1".into())
        );
    }
}
