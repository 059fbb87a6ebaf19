//! Grants as people write them down: a TOML file, checked as a whole when it is
//! read.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;

use super::{Grant, Grants, Limits};
use crate::store::{StoreUrl, StorageError, Store};

/// What is wrong with a file of grants, and where.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("line {line}, column {column}: {message}")]
pub struct GrantsError {
    /// Counted from 1.
    pub line: usize,
    /// Counted in characters from 1.
    pub column: usize,
    /// What is wrong, in words. It has no password of an address.
    pub message: String,
}

/// A store that is granted and can't be opened.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("bucket {bucket:?}: {address}: {message}")]
pub struct OpenError {
    /// The bucket that needs it.
    pub bucket: String,
    /// Where the store is, without a password.
    pub address: String,
    /// What is wrong, in words.
    pub message: String,
}

/// The grants of a plugin, read from TOML; nothing is opened yet. What is left out has
/// no limit, or the usual one; a prefix there has to be.
///
/// ```toml
/// [bucket.default]
/// store = "redis://localhost"     # if there is none, the one that the host opens it with
/// prefix = "tenant-1/"            # what every key begins with; "tenant-1" would reach "tenant-10" too
/// read-only = false
/// value-bytes = 1_000_000         # of one checkpoint
/// checkpoints = 10_000            # in all
/// bytes = 100_000_000             # in all
/// operations-per-second = 100
/// results-per-call = 100
///
/// [limits]                        # of a run; see `Limits`
/// run-seconds = 30
/// call-seconds = 10
/// memory-bytes = 268_435_456
/// bytes-a-call = 33_554_432
/// handles = 1000
/// checkpointers = 16
/// instances = 100
/// tables = 100
/// memories = 10
/// log-bytes = 65_536
/// ```
#[derive(Clone, Debug)]
pub struct GrantsFile {
    /// The buckets, by name.
    pub buckets: BTreeMap<String, BucketGrant>,
    /// The limits of a run: the usual ones, but for those that were given.
    pub limits: Limits,
}

/// One bucket of a [`GrantsFile`]. What is none has no limit.
#[derive(Clone, Debug)]
pub struct BucketGrant {
    /// Where it is; the host's own store, if none.
    pub store: Option<StoreUrl>,
    /// What every key begins with.
    pub prefix: String,
    /// Whether it takes no writes.
    pub read_only: bool,
    /// See [`Grant::value_bytes`].
    pub value_bytes: Option<u64>,
    /// See [`Grant::checkpoints`].
    pub checkpoints: Option<u64>,
    /// See [`Grant::bytes`].
    pub bytes: Option<u64>,
    /// See [`Grant::operations_per_second`].
    pub operations_per_second: Option<u32>,
    /// See [`Grant::results_per_call`].
    pub results_per_call: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    bucket: BTreeMap<String, Bucket>,
    #[serde(default)]
    limits: FileLimits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table such as [bucket.default]")]
struct Bucket {
    store: Option<Spanned<String>>,
    prefix: Spanned<String>,
    #[serde(default)]
    read_only: bool,
    value_bytes: Option<NonZeroU64>,
    checkpoints: Option<NonZeroU64>,
    bytes: Option<NonZeroU64>,
    operations_per_second: Option<NonZeroU32>,
    results_per_call: Option<NonZeroU32>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "the table [limits]")]
struct FileLimits {
    run_seconds: Option<Spanned<f64>>,
    call_seconds: Option<Spanned<f64>>,
    memory_bytes: Option<NonZeroUsize>,
    max_bytes_per_call: Option<NonZeroUsize>,
    handles: Option<NonZeroUsize>,
    checkpointers: Option<NonZeroUsize>,
    instances: Option<NonZeroUsize>,
    tables: Option<NonZeroUsize>,
    memories: Option<NonZeroUsize>,
    log_bytes: Option<usize>,
}

impl FromStr for GrantsFile {
    type Err = GrantsError;

    fn from_str(text: &str) -> Result<Self, GrantsError> {
        let file: File = toml::from_str(text)
            .map_err(|error| at(text, error.span().unwrap_or_default(), error.message()))?;
        let buckets = file.bucket.into_iter().map(|(name, bucket)| Ok((name, bucket.check(text)?)));
        Ok(Self { buckets: buckets.collect::<Result<_, _>>()?, limits: file.limits.check(text)? })
    }
}

impl GrantsFile {
    /// Opens the stores, each once, and gives the grants; `own` is the store of
    /// buckets that name none.
    ///
    /// # Errors
    /// A store can't be opened; Redis is only connected to when it is first used.
    pub async fn open(&self, own: &StoreUrl) -> Result<Grants, OpenError> {
        let mut opened: Vec<(&StoreUrl, Arc<dyn Store>)> = Vec::new();
        let mut grants = Grants::new();
        for (name, bucket) in &self.buckets {
            let address = bucket.store.as_ref().unwrap_or(own);
            let store = match opened.iter().find(|(other, _)| *other == address) {
                Some((_, store)) => Arc::clone(store),
                None => {
                    let failed = |error: StorageError| OpenError {
                        bucket: name.clone(),
                        address: address.to_string(),
                        message: error.message,
                    };
                    let store = address.open().await.map_err(failed)?;
                    opened.push((address, Arc::clone(&store)));
                    store
                }
            };
            grants = grants.bucket(name, bucket.grant(store));
        }
        Ok(grants)
    }
}

impl BucketGrant {
    /// All that begins with `prefix` in the host's own store, without a limit.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            store: None,
            prefix: prefix.into(),
            read_only: false,
            value_bytes: None,
            checkpoints: None,
            bytes: None,
            operations_per_second: None,
            results_per_call: None,
        }
    }

    /// The same over a store that is open.
    pub fn grant(&self, store: Arc<dyn Store>) -> Grant {
        let mut grant = Grant::new(store, self.prefix.as_str());
        if self.read_only {
            grant = grant.read_only();
        }
        if let Some(bytes) = self.value_bytes {
            grant = grant.value_bytes(bytes);
        }
        if let Some(count) = self.checkpoints {
            grant = grant.checkpoints(count);
        }
        if let Some(bytes) = self.bytes {
            grant = grant.bytes(bytes);
        }
        if let Some(count) = self.operations_per_second {
            grant = grant.operations_per_second(count);
        }
        if let Some(count) = self.results_per_call {
            grant = grant.results_per_call(count);
        }
        grant
    }
}

impl Bucket {
    fn check(self, text: &str) -> Result<BucketGrant, GrantsError> {
        let store = self.store.map(|store| {
            let address = store.get_ref().parse::<StoreUrl>();
            address.map_err(|error| at(text, store.span(), &error.to_string()))
        });
        if self.prefix.get_ref().contains('\0') {
            return Err(at(text, self.prefix.span(), "a prefix has no NUL"));
        }
        Ok(BucketGrant {
            store: store.transpose()?,
            prefix: self.prefix.into_inner(),
            read_only: self.read_only,
            value_bytes: self.value_bytes.map(NonZeroU64::get),
            checkpoints: self.checkpoints.map(NonZeroU64::get),
            bytes: self.bytes.map(NonZeroU64::get),
            operations_per_second: self.operations_per_second.map(NonZeroU32::get),
            results_per_call: self.results_per_call.map(NonZeroU32::get),
        })
    }
}

impl FileLimits {
    fn check(self, text: &str) -> Result<Limits, GrantsError> {
        let usual = Limits::default();
        let count = |given: Option<NonZeroUsize>, usual| given.map_or(usual, NonZeroUsize::get);
        let time = |given: Option<Spanned<f64>>, usual| match given {
            None => Ok(usual),
            Some(seconds) => Duration::try_from_secs_f64(*seconds.get_ref())
                .ok()
                .filter(|time| !time.is_zero())
                .ok_or_else(|| at(text, seconds.span(), "must be a number of seconds greater than 0")),
        };
        Ok(Limits {
            run_time: time(self.run_seconds, usual.run_time)?,
            call_time: time(self.call_seconds, usual.call_time)?,
            memory: count(self.memory_bytes, usual.memory),
            max_bytes_per_call: count(self.max_bytes_per_call, usual.max_bytes_per_call),
            handles: count(self.handles, usual.handles),
            checkpointers: count(self.checkpointers, usual.checkpointers),
            instances: count(self.instances, usual.instances),
            tables: count(self.tables, usual.tables),
            memories: count(self.memories, usual.memories),
            log_bytes: self.log_bytes.unwrap_or(usual.log_bytes),
        })
    }
}

/// An error at a place in the text. Its line is named, not shown: it may have a
/// password in it.
fn at(text: &str, place: Range<usize>, message: &str) -> GrantsError {
    let before = text.get(..place.start).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    GrantsError {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<GrantsFile, String> {
        text.parse().map_err(|error: GrantsError| error.to_string())
    }

    #[test]
    fn a_file_says_what_is_granted() {
        let file = read(
            r#"
            [bucket.default]
            store = "redis://:secret@localhost/1"
            prefix = "tenant-1/"
            checkpoints = 10_000

            [bucket.shared]
            prefix = "shared/"
            read-only = true

            [limits]
            run-seconds = 1.5
            memory-bytes = 1_048_576
            "#,
        )
        .expect("grants");
        let own = &file.buckets["default"];
        assert_eq!(own.store.as_ref().map(ToString::to_string).as_deref(), Some("redis://localhost:6379/1"));
        assert_eq!((own.prefix.as_str(), own.checkpoints, own.bytes), ("tenant-1/", Some(10_000), None));
        assert!(file.buckets["shared"].read_only && file.buckets["shared"].store.is_none());
        assert_eq!(file.limits.run_time, Duration::from_millis(1500));
        assert_eq!(file.limits.memory, 1 << 20);
        assert_eq!(file.limits.handles, Limits::default().handles);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_without_passwords() {
        for (text, expected) in [
            ("[bucket.a]\nprefix = 5", "line 2, column 10: invalid type: integer `5`, expected a string"),
            ("[bucket.a]\n\n[bucket.b]\nprefix = ''", "line 1, column 1: missing field `prefix`"),
            (
                "[bucket.a]\nprefix = ''\nbytes = 0",
                "line 3, column 9: invalid value: integer `0`, expected a nonzero u64",
            ),
            ("[limits]\nrun-seconds = -1.0", "line 2, column 15: must be a number of seconds greater than 0"),
            (
                "[bucket]\na = ''",
                "line 2, column 5: invalid type: string \"\", expected a table such as [bucket.default]",
            ),
            ("[bucket.a]\nprefix = \"\\u0000\"", "line 2, column 10: a prefix has no NUL"),
        ] {
            assert_eq!(read(text).err().as_deref(), Some(expected), "{text}");
        }
        let unknown = read("[bucket.a]\nprefix = ''\nttl = 1").expect_err("an error");
        assert!(unknown.starts_with("line 3, column 1: unknown field `ttl`, expected one of"), "{unknown}");
        let address = read("[bucket.a]\nprefix = 'é'\nstore = 'redis://u:secret@h:x'").expect_err("an error");
        assert!(address.starts_with("line 3, column 9: redis://***@h:x: "), "{address}");
        let twice = read("[bucket.a]\nprefix = ''\n[bucket.a]\nprefix = ''").expect_err("an error");
        assert!(twice.starts_with("line 3, column 9: duplicate key"), "{twice}");
    }
}
