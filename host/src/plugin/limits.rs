//! The limits of a run.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

#[cfg(doc)]
use super::PluginError;

/// The limits of a run of a plugin. The error that ends a run at a limit is named
/// with each.
///
/// ```
/// use std::time::Duration;
/// use checkpointer::plugin::Limits;
///
/// let limits = Limits::default().run_timeout(Duration::from_secs(5)).max_memory_bytes(64 << 20);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "the table [limits]")]
#[non_exhaustive]
pub struct Limits {
    /// The wall-clock time of a run, including waits for the store; 30 seconds by
    /// default. Errors: [`PluginError::Timeout`], [`PluginError::RateLimitTimeout`].
    #[serde(rename = "run-timeout-seconds", deserialize_with = "seconds")]
    pub run_timeout: Duration,
    /// The time of each call of the checkpointer; 10 seconds by default. A call that
    /// takes longer fails with the reason `timeout`, and the run continues.
    #[serde(rename = "call-timeout-seconds", deserialize_with = "seconds")]
    pub call_timeout: Duration,
    /// The bytes of all memories and tables of the plugin together; 256 MiB by
    /// default. Each of its checkpointers may use as much. A request for more is
    /// refused. Error if the plugin traps after that: [`PluginError::MemoryLimit`].
    #[serde(deserialize_with = "positive")]
    pub max_memory_bytes: usize,
    /// The bytes that the plugin passes to the host in one call, and that the store
    /// returns for one; 32 MiB by default. Error: [`PluginError::CallSizeLimit`]. A
    /// larger answer of the store is `too-large`.
    #[serde(deserialize_with = "positive")]
    pub max_bytes_per_call: usize,
    /// The open handles, including those of WASI; 1,000 by default. Error:
    /// [`PluginError::HandleLimit`].
    #[serde(deserialize_with = "positive")]
    pub max_handles: usize,
    /// The open checkpointers; 16 by default. Opening more fails with the reason
    /// `unsupported`, and the run continues.
    #[serde(deserialize_with = "positive")]
    pub max_checkpointers: usize,
    /// The core module instances of the plugin; 100 by default. Error:
    /// [`PluginError::TooManyInstances`].
    #[serde(deserialize_with = "positive")]
    pub max_instances: usize,
    /// The tables of the plugin; 100 by default. Error:
    /// [`PluginError::TooManyTables`].
    #[serde(deserialize_with = "positive")]
    pub max_tables: usize,
    /// The memories of the plugin; 10 by default. Error:
    /// [`PluginError::TooManyMemories`].
    #[serde(deserialize_with = "positive")]
    pub max_memories: usize,
    /// The bytes that the plugin writes to its standard output and standard error
    /// together; 64 KiB by default. Error: [`PluginError::LogLimit`].
    pub max_log_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            run_timeout: Duration::from_secs(30),
            call_timeout: Duration::from_secs(10),
            max_memory_bytes: 256 << 20,
            max_bytes_per_call: 32 << 20,
            max_handles: 1000,
            max_checkpointers: 16,
            max_instances: 100,
            max_tables: 100,
            max_memories: 10,
            max_log_bytes: 64 << 10,
        }
    }
}

macro_rules! setters {
    ($($field:ident: $type:ty),*) => {
        impl Limits {$(
            #[doc = concat!("Sets `", stringify!($field), "`.")]
            #[must_use]
            pub fn $field(mut self, $field: $type) -> Self {
                self.$field = $field;
                self
            }
        )*}
    };
}

setters! {
    run_timeout: Duration, call_timeout: Duration, max_memory_bytes: usize, max_bytes_per_call: usize,
    max_handles: usize, max_checkpointers: usize, max_instances: usize, max_tables: usize,
    max_memories: usize, max_log_bytes: usize
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    Duration::try_from_secs_f64(f64::deserialize(deserializer)?)
        .ok()
        .filter(|time| !time.is_zero())
        .ok_or_else(|| D::Error::custom("must be a number of seconds greater than 0"))
}

/// Reads a number and refuses 0.
pub(super) fn positive<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default + PartialEq,
{
    let number = T::deserialize(deserializer)?;
    if number == T::default() { Err(D::Error::custom("must be greater than 0")) } else { Ok(number) }
}
