//! A plugin that imports the raw store besides the checkpointer, and reads all keys
//! of the bucket that its input names. A host must refuse it.

wit_bindgen::generate!({
    path: ["../../../wit", "wit"],
    world: "test:raw-store-import/raw-store-import",
    generate_all,
});

use flow::checkpoint::checkpointer::Checkpointer;
use flow::checkpoint::keyvalue;
use flow::checkpoint::types::{Layout, Options};

struct RawStoreImport;
export!(RawStoreImport);

impl Guest for RawStoreImport {
    fn run(bucket: String) -> Result<String, String> {
        let store = keyvalue::open(&bucket).map_err(|error| error.message)?;
        let keys = store.scan("", None).map_err(|error| error.message)?.keys;
        let values = store.get(&keys, None).map_err(|error| error.message)?;
        // Also uses the import that a plugin is allowed to have.
        let options = Options {
            bucket,
            prefix: None,
            layout: Layout::Llmfy,
            ttl: None,
            max_state_bytes: None,
            compress: false,
            max_checkpoints: None,
            extra: Vec::new(),
        };
        let is_open = Checkpointer::open(&options).is_ok();
        Ok(format!("{keys:?} {values:?} {is_open}"))
    }
}
