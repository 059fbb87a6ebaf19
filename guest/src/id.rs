//! Ids and prefixes: what callers name things by.

use std::fmt;

use crate::Error;

/// The most bytes that an id or a prefix may have. llmfy takes session ids of
/// up to 255 characters and names no limit for the others.
pub const MAX_BYTES: usize = 512;

/// A session, checkpoint or run id, or a key prefix: 1 to [`MAX_BYTES`] bytes
/// of text without NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(String);

impl Id {
    /// Checks `text`, which the error calls `name`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it is empty, too long or has a NUL.
    pub fn new(name: &str, text: &str) -> Result<Self, Error> {
        let fault = if text.is_empty() {
            "is empty".to_owned()
        } else if text.len() > MAX_BYTES {
            format!("has {} bytes, more than {MAX_BYTES}", text.len())
        } else if text.contains('\0') {
            format!("{text:?} contains NUL")
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(Error::InvalidArgument(format!("the {name} {fault}")))
    }

    /// An id as a stored document has it, whatever it is: what is there has to
    /// be found and removed even if it could not be saved.
    pub fn stored(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text.
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
    fn takes_any_text_of_one_to_512_bytes_without_nul() {
        for text in ["a", "*?[]{}:\\%", "sé ssion", &"x".repeat(512)] {
            assert_eq!(Id::new("session id", text).map(|id| id.0), Ok(text.to_owned()));
        }
    }

    #[test]
    fn says_what_is_wrong_with_the_rest() {
        let message = |text: &str| match Id::new("session id", text) {
            Err(Error::InvalidArgument(message)) => message,
            other => format!("{other:?}"),
        };
        assert_eq!(message(""), "the session id is empty");
        assert_eq!(message(&"x".repeat(513)), "the session id has 513 bytes, more than 512");
        assert_eq!(message("a\0b"), "the session id \"a\\0b\" contains NUL");
    }
}
