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

impl Keyvalue for Bucket {
    fn get(&self, keys: &[String], max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        Bucket::get(self, keys, max_value_bytes)
    }

    fn ttl(&self, keys: &[String]) -> Result<Vec<Option<Expiry>>, StorageError> {
        Bucket::ttl(self, keys)
    }

    fn range(&self, query: &Query) -> Result<IndexPage, StorageError> {
        Bucket::range(self, query)
    }

    fn commit(&self, batches: &[Batch]) -> Result<Vec<bool>, StorageError> {
        Bucket::commit(self, batches)
    }

    fn scan(&self, prefix: &str, cursor: Option<&str>) -> Result<KeyPage, StorageError> {
        Bucket::scan(self, prefix, cursor)
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        Bucket::is_colocated(self, prefix)
    }

    fn supports(&self, capability: &str) -> bool {
        Bucket::supports(self, capability)
    }
}

impl GuestCheckpointer for Checkpointer<Bucket> {
    fn open(options: Options) -> Result<Resource, Error> {
        let bucket = keyvalue::open(&options.bucket)?;
        Ok(Resource::new(Checkpointer::open(bucket, &options)?))
    }

    fn save(&self, checkpoint: Checkpoint) -> Result<SaveOutcome, Error> {
        Checkpointer::save(self, checkpoint)
    }

    fn save_after(&self, checkpoint: Checkpoint, latest: Option<String>) -> Result<SaveOutcome, Error> {
        Checkpointer::save_after(self, checkpoint, latest.as_deref())
    }

    fn save_document(&self, document: String) -> Result<(Metadata, SaveOutcome), Error> {
        Checkpointer::save_document(self, document)
    }

    fn restore(&self, document: String, ttl_ms: Option<u64>) -> Result<(Metadata, SaveOutcome), Error> {
        Checkpointer::restore(self, document, ttl_ms)
    }

    fn latest(&self, session: String) -> Result<Option<Checkpoint>, Error> {
        Checkpointer::latest(self, &session)
    }

    fn load(&self, session: String, checkpoint: String) -> Result<Option<Checkpoint>, Error> {
        Checkpointer::load(self, &session, &checkpoint)
    }

    fn latest_document(&self, session: String) -> Result<Option<String>, Error> {
        Checkpointer::latest_document(self, &session)
    }

    fn load_document(&self, session: String, checkpoint: String) -> Result<Option<String>, Error> {
        Checkpointer::load_document(self, &session, &checkpoint)
    }

    fn dump(&self, session: String, checkpoint: String) -> Result<Option<DocumentDump>, Error> {
        Checkpointer::dump(self, &session, &checkpoint)
    }

    fn list(&self, query: HistoryQuery) -> Result<History, Error> {
        Checkpointer::list(self, &query)
    }

    fn list_documents(&self, query: HistoryQuery) -> Result<RawHistory, Error> {
        Checkpointer::list_documents(self, &query)
    }

    fn scan(&self, cursor: Option<String>) -> Result<ScanPage, Error> {
        Checkpointer::scan(self, cursor.as_deref())
    }

    fn pin_checkpoint(&self, session: String, checkpoint: String) -> Result<bool, Error> {
        Checkpointer::pin_checkpoint(self, &session, &checkpoint)
    }

    fn pin_session(&self, session: String) -> Result<u64, Error> {
        Checkpointer::pin_session(self, &session)
    }

    fn unpin_checkpoint(&self, session: String, checkpoint: String) -> Result<bool, Error> {
        Checkpointer::unpin_checkpoint(self, &session, &checkpoint)
    }

    fn unpin_session(&self, session: String) -> Result<u64, Error> {
        Checkpointer::unpin_session(self, &session)
    }

    fn delete_checkpoint(&self, session: String, checkpoint: String) -> Result<bool, Error> {
        Checkpointer::delete_checkpoint(self, &session, &checkpoint)
    }

    fn delete_session(&self, session: String) -> Result<u64, Error> {
        Checkpointer::delete_session(self, &session)
    }

    fn clear_all(&self) -> Result<u64, Error> {
        Checkpointer::clear_all(self)
    }
}
