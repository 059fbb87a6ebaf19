//! Ids and prefixes that callers choose.

use std::fmt;

use crate::Error;

/// The maximum number of bytes of an id or a prefix. llmfy accepts session ids of
/// up to 255 characters, and has no limit for the others.
pub const MAX_BYTES: usize = 512;

/// A session, checkpoint or run id, or a key prefix: 1 to [`MAX_BYTES`] bytes of
/// text without NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(String);

impl Id {
    /// Validates `text`. Errors call it `name`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it is empty, too long or contains NUL.
    pub fn new(name: &str, text: &str) -> Result<Self, Error> {
        let reason = if text.is_empty() {
            "is empty".to_owned()
        } else if text.len() > MAX_BYTES {
            format!("has {} bytes; the maximum is {MAX_BYTES}", text.len())
        } else if text.contains('\0') {
            format!("{text:?} contains NUL")
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(Error::InvalidArgument(format!("the {name} {reason}")))
    }

    /// An id of a stored document, without validation: checkpoints that could not be
    /// saved today must still be found and deleted.
    pub fn unchecked(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_1_to_512_bytes_without_nul() {
        for text in ["a", "*?[]{}:\\%", "sé ssion", &"x".repeat(512)] {
            assert_eq!(Id::new("session id", text).map(|id| id.0), Ok(text.to_owned()));
        }
    }

    #[test]
    fn errors_name_the_reason() {
        let message = |text: &str| match Id::new("session id", text) {
            Err(Error::InvalidArgument(message)) => message,
            other => format!("{other:?}"),
        };
        assert_eq!(message(""), "the session id is empty");
        assert_eq!(message(&"x".repeat(513)), "the session id has 513 bytes; the maximum is 512");
        assert_eq!(message("a\0b"), "the session id \"a\\0b\" contains NUL");
    }
}
