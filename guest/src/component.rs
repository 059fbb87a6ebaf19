//! The exports of the component: the interface `checkpointer` over an imported
//! bucket.

use crate::bindings::exports::flow::checkpoint::checkpointer::{
    Checkpoint, Checkpointer as Resource, DocumentDump, Error, Guest, GuestCheckpointer, History,
    HistoryQuery, Metadata, Options, RawHistory, SaveOutcome, ScanPage,
};
use crate::bindings::flow::checkpoint::keyvalue::{self, Bucket};
use crate::keyvalue::{Batch, Expiry, IndexPage, KeyPage, Keyvalue, Query, StorageError, Value};
use crate::operations::Checkpointer;

struct Component;

crate::bindings::export!(Component with_types_in crate::bindings);

impl Guest for Component {
    type Checkpointer = Checkpointer<Bucket>;
}

/// Implements methods by the ones of the same name of a type.
macro_rules! forward {
    ($type:ty: $(fn $name:ident($($argument:ident: $from:ty),*) -> $result:ty = ($($value:expr),*);)*) => {
        $(fn $name(&self $(, $argument: $from)*) -> $result {
            <$type>::$name(self $(, $value)*)
        })*
    };
}

impl Keyvalue for Bucket {
    forward! { Bucket:
        fn get(keys: &[String], max: Option<u32>) -> Result<Vec<Value>, StorageError> = (keys, max);
        fn ttl(keys: &[String]) -> Result<Vec<Option<Expiry>>, StorageError> = (keys);
        fn range(query: &Query) -> Result<IndexPage, StorageError> = (query);
        fn commit(batches: &[Batch]) -> Result<Vec<bool>, StorageError> = (batches);
        fn scan(prefix: &str, cursor: Option<&str>) -> Result<KeyPage, StorageError> = (prefix, cursor);
        fn is_colocated(prefix: &str) -> bool = (prefix);
        fn supports(capability: &str) -> bool = (capability);
    }
}

impl GuestCheckpointer for Checkpointer<Bucket> {
    fn open(options: Options) -> Result<Resource, Error> {
        let bucket = keyvalue::open(&options.bucket)?;
        Ok(Resource::new(Checkpointer::open(bucket, &options)?))
    }

    forward! { Self:
        fn save(new: Checkpoint) -> Result<SaveOutcome, Error> = (new);
        fn save_after(new: Checkpoint, latest: Option<String>) -> Result<SaveOutcome, Error> = (new, latest.as_deref());
        fn save_document(document: String) -> Result<(Metadata, SaveOutcome), Error> = (document);
        fn restore(document: String, ttl_ms: Option<u64>) -> Result<(Metadata, SaveOutcome), Error> = (document, ttl_ms);
        fn latest(session: String) -> Result<Option<Checkpoint>, Error> = (&session);
        fn load(session: String, id: String) -> Result<Option<Checkpoint>, Error> = (&session, &id);
        fn latest_document(session: String) -> Result<Option<String>, Error> = (&session);
        fn load_document(session: String, id: String) -> Result<Option<String>, Error> = (&session, &id);
        fn dump(session: String, id: String) -> Result<Option<DocumentDump>, Error> = (&session, &id);
        fn list(query: HistoryQuery) -> Result<History, Error> = (&query);
        fn list_documents(query: HistoryQuery) -> Result<RawHistory, Error> = (&query);
        fn scan(cursor: Option<String>) -> Result<ScanPage, Error> = (cursor.as_deref());
        fn pin_checkpoint(session: String, id: String) -> Result<bool, Error> = (&session, &id);
        fn pin_session(session: String) -> Result<u64, Error> = (&session);
        fn unpin_checkpoint(session: String, id: String) -> Result<bool, Error> = (&session, &id);
        fn unpin_session(session: String) -> Result<u64, Error> = (&session);
        fn delete_checkpoint(session: String, id: String) -> Result<bool, Error> = (&session, &id);
        fn delete_session(session: String) -> Result<u64, Error> = (&session);
        fn clear_all() -> Result<u64, Error> = ();
    }
}
