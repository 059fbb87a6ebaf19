//! Compressed states, as llmfy's `compress=True` stores them: a JSON string of
//! base64 of zlib of the JSON. Nothing in the value says that it is compressed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use miniz_oxide::deflate::compress_to_vec_zlib;
use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_zlib_with_limit};

use crate::json;

/// What Python's `zlib.compress` uses unless told otherwise.
const LEVEL: u8 = 6;

/// A small value can unfold to a thousand times its size; this is as far as it
/// may.
const MAX_STATE_BYTES: usize = 512 * 1024 * 1024;

/// The JSON string to store for a state.
pub fn compress(state: &str) -> String {
    let mut text = String::from("\"");
    STANDARD.encode_string(compress_to_vec_zlib(state.as_bytes(), LEVEL), &mut text);
    text.push('"');
    text
}

/// The state that was compressed to `stored`, which is JSON; or `stored` itself
/// if that is not what it is.
///
/// # Errors
/// It unfolds to something that is no state; the text says to what.
pub fn expand(stored: String) -> Result<String, String> {
    let literal = stored.trim_ascii();
    let base64 = literal.starts_with('"').then(|| json::unescape(literal, None)).flatten();
    let Some(Ok(compressed)) = base64.map(|base64| STANDARD.decode(&*base64)) else {
        return Ok(stored);
    };
    match decompress_to_vec_zlib_with_limit(&compressed, MAX_STATE_BYTES) {
        Ok(state) => {
            let state =
                String::from_utf8(state).map_err(|_| "the compressed state is not UTF-8".to_owned())?;
            json::check(&state).map_err(|fault| format!("the compressed state is not JSON: {fault}"))?;
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
    fn what_is_compressed_unfolds_to_the_same() {
        for state in ["{}", "{\"a\": \"é\\ud800 NaN\"}", &format!("[{}1]", "1, ".repeat(100_000))] {
            let stored = compress(state);
            assert_eq!(json::check(&stored), Ok(()));
            assert_eq!(expand(format!(" {stored}\n")).as_deref(), Ok(state));
            assert_eq!(expand(stored).as_deref(), Ok(state));
        }
    }

    /// `base64.b64encode(zlib.compress(b'{"x": 1}'))` in Python 3.11.
    #[test]
    fn what_python_compressed_is_read() {
        assert_eq!(expand("\"eJyrVqpQslIwrAUACm8CQA==\"".into()).as_deref(), Ok("{\"x\": 1}"));
    }

    /// The same as PHP writes it, and others who escape a slash.
    #[test]
    fn how_the_string_is_escaped_does_not_matter() {
        let stored = "\"eJyrVspTslIwNDAwMKkFABO/Avo=\"";
        for escaped in [stored, &stored.replace('/', "\\/"), &stored.replace('=', "\\u003d")] {
            assert_eq!(expand(escaped.into()).as_deref(), Ok("{\"n\": 10004}"));
        }
    }

    #[test]
    fn what_is_not_compressed_stays_as_it_is() {
        for state in ["{}", "\"\"", "\"abcd\"", "\"hello\"", "1", "\"eJyr\""] {
            assert_eq!(expand(state.into()).as_deref(), Ok(state));
        }
    }

    #[test]
    fn what_unfolds_to_no_state_is_said_to() {
        let stored = compress("{");
        assert_eq!(
            expand(stored),
            Err("the compressed state is not JSON: expected a string at byte 1".into())
        );
    }
}
