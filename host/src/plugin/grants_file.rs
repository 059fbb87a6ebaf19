//! Grants in a TOML file, validated as a whole when it is read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use super::limits::positive;
use super::{Grant, Grants, Limits};
use crate::store::{StorageError, Store, StoreUrl};

/// An error in a file of grants, with its position.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}, column {column}: {message}")]
#[non_exhaustive]
pub struct GrantsError {
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// A description for people, without passwords.
    pub message: String,
}

/// The store of a bucket can't be opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("bucket {bucket:?}: can't open {store_url}")]
#[non_exhaustive]
pub struct OpenError {
    /// The name of the bucket.
    pub bucket: String,
    /// The URL of the store, without credentials.
    pub store_url: String,
    /// The failure of the store.
    pub source: StorageError,
}

/// The grants and limits of a plugin, parsed from TOML with [`str::parse`]. No store
/// is opened until [`GrantsFile::open`].
///
/// ```
/// # use checkpointer::plugin::GrantsFile;
/// let file: GrantsFile = r#"
///     [bucket.default]
///     store = "redis://localhost"
///     prefix = "tenant-1/"
///     max-total-checkpoints = 10_000
///
///     [limits]
///     run-timeout-seconds = 5
/// "#.parse()?;
/// # Ok::<(), checkpointer::plugin::GrantsError>(())
/// ```
///
/// Keys of `[bucket.NAME]`, one table for each bucket:
///
/// | key | unit | default | meaning |
/// |---|---|---|---|
/// | `store` | URL | the host's default store | see [`StoreUrl`] |
/// | `prefix` | text | required | the prefix of all keys; end it with a separator, see [`Grant::new`] |
/// | `read-only` | boolean | `false` | refuse writes |
/// | `max-checkpoint-bytes` | bytes | no limit | the size of one checkpoint |
/// | `max-total-checkpoints` | checkpoints | no limit | the checkpoints in the bucket |
/// | `max-total-bytes` | bytes | no limit | the bytes in the bucket |
/// | `max-operations-per-second` | operations per second, for this process | no limit | the rate of store operations; further ones wait |
/// | `max-results-per-call` | checkpoints | 1,000 | the checkpoints that one call returns |
///
/// Keys of `[limits]`, see [`Limits`]:
///
/// | key | unit | default | limit for |
/// |---|---|---|---|
/// | `run-timeout-seconds` | seconds, also fractions | 30 | the time of a run |
/// | `call-timeout-seconds` | seconds, also fractions | 10 | the time of a call of the checkpointer |
/// | `max-memory-bytes` | bytes | 268,435,456 | all memories and tables together |
/// | `max-bytes-per-call` | bytes | 33,554,432 | the data that one call passes |
/// | `max-handles` | handles | 1,000 | open handles |
/// | `max-checkpointers` | checkpointers | 16 | open checkpointers |
/// | `max-instances` | instances | 100 | core module instances |
/// | `max-tables` | tables | 100 | tables |
/// | `max-memories` | memories | 10 | memories |
/// | `max-log-bytes` | bytes | 65,536 | standard output and standard error together |
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct GrantsFile {
    /// The buckets by name.
    #[serde(rename = "bucket")]
    pub buckets: BTreeMap<String, BucketGrant>,
    /// The limits of a run.
    pub limits: Limits,
}

/// One bucket of a [`GrantsFile`]. A limit of `None` is the default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table such as [bucket.default]")]
#[non_exhaustive]
pub struct BucketGrant {
    /// The URL of the store; `None` is the host's default store.
    #[serde(default, deserialize_with = "store_url")]
    pub store: Option<StoreUrl>,
    /// The prefix of all keys.
    #[serde(deserialize_with = "prefix")]
    pub prefix: String,
    /// See [`Grant::read_only`].
    #[serde(default)]
    pub read_only: bool,
    /// See [`Grant::max_checkpoint_bytes`].
    #[serde(default, deserialize_with = "limit")]
    pub max_checkpoint_bytes: Option<u64>,
    /// See [`Grant::max_total_checkpoints`].
    #[serde(default, deserialize_with = "limit")]
    pub max_total_checkpoints: Option<u64>,
    /// See [`Grant::max_total_bytes`].
    #[serde(default, deserialize_with = "limit")]
    pub max_total_bytes: Option<u64>,
    /// See [`Grant::max_operations_per_second`].
    #[serde(default, deserialize_with = "limit")]
    pub max_operations_per_second: Option<u32>,
    /// See [`Grant::max_results_per_call`].
    #[serde(default, deserialize_with = "limit")]
    pub max_results_per_call: Option<u32>,
}

impl FromStr for GrantsFile {
    type Err = GrantsError;

    fn from_str(text: &str) -> Result<Self, GrantsError> {
        toml::from_str(text)
            .map_err(|error| error_at(text, error.span().unwrap_or_default(), error.message()))
    }
}

impl GrantsFile {
    /// Opens each store once and returns the grants. Buckets without a store use
    /// `default_store`.
    ///
    /// # Errors
    /// A store can't be opened. Redis is only connected to when it is first used.
    pub async fn open(&self, default_store: &StoreUrl) -> Result<Grants, OpenError> {
        let mut opened: Vec<(&StoreUrl, Arc<dyn Store>)> = Vec::new();
        let mut grants = Grants::new();
        for (name, bucket) in &self.buckets {
            let url = bucket.store.as_ref().unwrap_or(default_store);
            let store = match opened.iter().find(|(other, _)| *other == url) {
                Some((_, store)) => Arc::clone(store),
                None => {
                    let store = url.open().await.map_err(|source| OpenError {
                        bucket: name.clone(),
                        store_url: url.to_string(),
                        source,
                    })?;
                    opened.push((url, Arc::clone(&store)));
                    store
                }
            };
            grants = grants.bucket(name, bucket.grant(store));
        }
        Ok(grants)
    }
}

impl BucketGrant {
    /// Read and write access to the keys that begin with `prefix` in the host's
    /// default store, with the default limits.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            store: None,
            prefix: prefix.into(),
            read_only: false,
            max_checkpoint_bytes: None,
            max_total_checkpoints: None,
            max_total_bytes: None,
            max_operations_per_second: None,
            max_results_per_call: None,
        }
    }

    /// The grant over an open store. Its rate limit is shared by its clones only.
    pub fn grant(&self, store: Arc<dyn Store>) -> Grant {
        Grant::with_settings(store, self.clone())
    }
}

fn store_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<StoreUrl>, D::Error> {
    String::deserialize(deserializer)?.parse().map(Some).map_err(D::Error::custom)
}

fn prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let prefix = String::deserialize(deserializer)?;
    if prefix.contains('\0') { Err(D::Error::custom("a prefix can't contain NUL")) } else { Ok(prefix) }
}

fn limit<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default + PartialEq,
{
    positive(deserializer).map(Some)
}

/// An error at a position. It does not quote the line, which may contain a password.
fn error_at(text: &str, span: Range<usize>, message: &str) -> GrantsError {
    let before = text.get(..span.start).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    GrantsError {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parse(text: &str) -> Result<GrantsFile, String> {
        text.parse().map_err(|error: GrantsError| error.to_string())
    }

    #[test]
    fn file_sets_grants_and_limits_and_keeps_other_defaults() {
        let file = parse(
            r#"
            [bucket.default]
            store = "redis://:secret@localhost/1"
            prefix = "tenant-1/"
            max-total-checkpoints = 10_000

            [bucket.shared]
            prefix = "shared/"
            read-only = true

            [limits]
            run-timeout-seconds = 1.5
            call-timeout-seconds = 2
            max-memory-bytes = 1_048_576
            max-log-bytes = 0
            "#,
        )
        .expect("grants");
        let bucket = &file.buckets["default"];
        assert_eq!(
            bucket.store.as_ref().map(ToString::to_string).as_deref(),
            Some("redis://localhost:6379/1")
        );
        assert_eq!(bucket.prefix, "tenant-1/");
        assert_eq!((bucket.max_total_checkpoints, bucket.max_total_bytes), (Some(10_000), None));
        assert!(file.buckets["shared"].read_only && file.buckets["shared"].store.is_none());
        let limits = Limits::default()
            .run_timeout(Duration::from_millis(1500))
            .call_timeout(Duration::from_secs(2))
            .max_memory_bytes(1 << 20)
            .max_log_bytes(0);
        assert_eq!(file.limits, limits);
        let empty = parse("").expect("no grants");
        assert_eq!((empty.buckets.len(), empty.limits), (0, Limits::default()));
    }

    #[test]
    fn errors_name_line_and_column_and_no_password() {
        for (text, expected) in [
            ("[bucket.a]\nprefix = 5", "line 2, column 10: invalid type: integer `5`, expected a string"),
            ("[bucket.a]\n\n[bucket.b]\nprefix = ''", "line 1, column 1: missing field `prefix`"),
            ("[bucket.a]\nprefix = ''\nmax-total-bytes = 0", "line 3, column 19: must be greater than 0"),
            ("[limits]\nmax-handles = 0", "line 2, column 15: must be greater than 0"),
            ("[limits]\nmax-handles = -1", "line 2, column 15: invalid value: integer `-1`, expected usize"),
            (
                "[limits]\nrun-timeout-seconds = -1.0",
                "line 2, column 23: must be a number of seconds greater than 0",
            ),
            (
                "[bucket]\na = ''",
                "line 2, column 5: invalid type: string \"\", expected a table such as [bucket.default]",
            ),
            ("limits = 1", "line 1, column 10: invalid type: integer `1`, expected the table [limits]"),
            ("[bucket.a]\nprefix = \"\\u0000\"", "line 2, column 10: a prefix can't contain NUL"),
        ] {
            assert_eq!(parse(text).err().as_deref(), Some(expected), "{text}");
        }
        for (text, start) in [
            ("[bucket.a]\nprefix = ''\nttl = 1", "line 3, column 1: unknown field `ttl`, expected one of"),
            ("[limits]\nrun = 1", "line 2, column 1: unknown field `run`, expected one of"),
            (
                "[bucket.a]\nprefix = 'é'\nstore = 'redis://u:secret@h:x'",
                "line 3, column 9: redis://***@h:x: ",
            ),
            ("[bucket.a]\nprefix = ''\n[bucket.a]\nprefix = ''", "line 3, column 9: duplicate key"),
        ] {
            let error = parse(text).expect_err("an error");
            assert!(error.starts_with(start), "{error}");
        }
    }
}
