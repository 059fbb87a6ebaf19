//! What a WebAssembly host sees: the exported interface, over the imported
//! bucket.

use crate::bindings::exports::flow::checkpoint::checkpointer::{
    Checkpoint, Checkpointer as Resource, RawHistory, Error, Guest, GuestCheckpointer, History, ScanPage,
    Metadata, Options, SaveOutcome,
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

    fn scan(&self, prefix: &str, after: Option<&str>) -> Result<KeyPage, StorageError> {
        Bucket::scan(self, prefix, after)
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        Bucket::is_colocated(self, prefix)
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

    fn restore(&self, document: String, milliseconds: Option<u64>) -> Result<(Metadata, SaveOutcome), Error> {
        Checkpointer::restore(self, document, milliseconds)
    }

    fn load(&self, session: String, checkpoint: Option<String>) -> Result<Option<Checkpoint>, Error> {
        Checkpointer::load(self, &session, checkpoint.as_deref())
    }

    fn load_document(&self, session: String, checkpoint: Option<String>) -> Result<Option<String>, Error> {
        Checkpointer::load_document(self, &session, checkpoint.as_deref())
    }

    fn list(&self, session: String, limit: Option<u32>) -> Result<History, Error> {
        Checkpointer::list(self, &session, limit)
    }

    fn list_by_run(&self, session: String, run: String, limit: Option<u32>) -> Result<History, Error> {
        Checkpointer::list_by_run(self, &session, &run, limit)
    }

    fn list_documents(
        &self,
        session: String,
        run: Option<String>,
        limit: Option<u32>,
    ) -> Result<RawHistory, Error> {
        Checkpointer::list_documents(self, &session, run.as_deref(), limit)
    }

    fn scan(&self, after: Option<String>) -> Result<ScanPage, Error> {
        Checkpointer::scan(self, after.as_deref())
    }

    fn pin(&self, session: String, checkpoint: Option<String>) -> Result<u64, Error> {
        Checkpointer::pin(self, &session, checkpoint.as_deref())
    }

    fn unpin(&self, session: String, checkpoint: Option<String>) -> Result<u64, Error> {
        Checkpointer::unpin(self, &session, checkpoint.as_deref())
    }

    fn delete(&self, session: String, checkpoint: Option<String>) -> Result<u64, Error> {
        Checkpointer::delete(self, &session, checkpoint.as_deref())
    }

    fn clear_all(&self) -> Result<u64, Error> {
        Checkpointer::clear_all(self)
    }
}
