//! Opens a checkpointer: validates its options, and refuses a store that lacks a
//! capability.

use super::call::storage_error;
use crate::id::Id;
use crate::keys::Keys;
use crate::keyvalue::{Effect, Expiry, Keyvalue, StorageReason};
use crate::{Error, Layout, NamedValue, Options, Ttl};

/// The prefix that llmfy uses.
const DEFAULT_PREFIX: &str = "llmfy_checkpoint:";

/// The default of llmfy.
const DEFAULT_MAX_STATE_BYTES: u64 = 25 * 1024 * 1024;

/// Redis stores an expiry as signed milliseconds since 1970. This is the range of
/// that minus the present time.
const MAX_TTL_MS: u64 = 9_000_000_000_000_000_000;

/// The checkpoints under one prefix of one bucket.
///
/// Every operation fails with [`Error::InvalidArgument`] for an invalid id or query,
/// and with [`Error::Storage`] if the store fails. Operations on many checkpoints work
/// in pages: pages before the failure are done.
#[derive(Debug)]
pub struct Checkpointer<K> {
    pub(super) bucket: K,
    pub(super) keys: Keys,
    pub(super) settings: Settings,
}

/// The options that operations need.
#[derive(Debug)]
pub(super) struct Settings {
    pub ttl: Option<Ttl>,
    pub max_state_bytes: u64,
    pub compress: bool,
    pub max_checkpoints: Option<u64>,
}

impl<K: Keyvalue> Checkpointer<K> {
    /// Opens the checkpointer that `options` describe. `bucket` is the bucket with
    /// the name `options.bucket`. Nothing is read or written.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an invalid option, [`Error::Storage`] with the
    /// reason `unsupported` if the store lacks a capability.
    pub fn open(bucket: K, options: &Options) -> Result<Self, Error> {
        refuse_extra("options", &options.extra)?;
        if let Some(ttl) = options.ttl {
            expiry_after("TTL", ttl.milliseconds)?;
        }
        if options.max_checkpoints == Some(0) {
            return Err(Error::InvalidArgument("max-checkpoints is 0; it must be at least 1".into()));
        }
        let prefix = Id::new("prefix", options.prefix.as_deref().unwrap_or(DEFAULT_PREFIX))?;
        check_colocation(&bucket, prefix.as_str(), options.layout)?;
        check_capabilities(&bucket, options.ttl.is_some())?;
        Ok(Self {
            bucket,
            keys: Keys::new(prefix, options.layout),
            settings: Settings {
                ttl: options.ttl,
                max_state_bytes: options.max_state_bytes.unwrap_or(DEFAULT_MAX_STATE_BYTES),
                compress: options.compress,
                max_checkpoints: options.max_checkpoints.map(u64::from),
            },
        })
    }
}

/// Returns the expiry after a number of milliseconds. Errors call it `name`.
pub(super) fn expiry_after(name: &str, milliseconds: u64) -> Result<Expiry, Error> {
    match milliseconds {
        1..=MAX_TTL_MS => Ok(Expiry::AfterMs(milliseconds)),
        _ => Err(Error::InvalidArgument(format!(
            "the {name} is {milliseconds} ms; it must be 1 to {MAX_TTL_MS} ms"
        ))),
    }
}

/// Refuses named values: this version defines none.
pub(super) fn refuse_extra(name: &str, extra: &[NamedValue]) -> Result<(), Error> {
    extra.first().map_or(Ok(()), |unknown| {
        Err(Error::InvalidArgument(format!(
            "unknown name {:?} in the extra of the {name}; this version defines none",
            unknown.name
        )))
    })
}

/// Validates the id of a session and of a checkpoint.
pub(super) fn ids(session: &str, checkpoint: &str) -> Result<(Id, Id), Error> {
    Ok((Id::new("session id", session)?, Id::new("checkpoint id", checkpoint)?))
}

fn check_capabilities(bucket: &impl Keyvalue, has_ttl: bool) -> Result<(), Error> {
    for (capability, remedy) in [
        ("conditions", "use a store with compare-and-swap"),
        ("atomic-commit", "use a store with transactions over several keys"),
        ("expiry", "use a store with keys that can expire, or open without a TTL"),
    ] {
        if capability == "expiry" && !has_ttl {
            continue;
        }
        if !bucket.supports(capability) {
            let message = format!("the store lacks the capability {capability:?}; {remedy}");
            return Err(storage_error(StorageReason::Unsupported, Effect::None, message));
        }
    }
    Ok(())
}

/// Checks that all keys of one operation are colocated.
fn check_colocation(bucket: &impl Keyvalue, prefix: &str, layout: Layout) -> Result<(), Error> {
    let message = match layout {
        Layout::Llmfy if !bucket.is_colocated(prefix) => {
            let tagged = format!("{{{}}}:", prefix.trim_end_matches(':'));
            let remedy = if bucket.is_colocated(&tagged) {
                format!("use a prefix with a hash tag, for example {tagged:?}, or the layout `partitioned`")
            } else {
                "use the layout `partitioned`".to_owned()
            };
            format!(
                "the store is a cluster, and the keys under the prefix {prefix:?} are in many slots; {remedy}"
            )
        }
        Layout::Partitioned if !bucket.is_colocated(&format!("{prefix}{{session}}")) => format!(
            "the store is a cluster, and \"{{}}\" before the session prevents the hash tag of the session; use a \
             prefix without \"{{}}\" instead of {prefix:?}"
        ),
        Layout::Llmfy | Layout::Partitioned => return Ok(()),
    };
    Err(Error::InvalidArgument(message))
}
