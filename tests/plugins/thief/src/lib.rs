//! A plugin that looks for the raw store beside the checkpointer, to read all
//! that is in the bucket which its input names.

wit_bindgen::generate!({ path: ["../../../wit", "wit"], world: "test:thief/thief", generate_all });

use flow::checkpoint::checkpointer::{Checkpointer, Layout, Options};
use flow::checkpoint::keyvalue;

struct Thief;
export!(Thief);

impl Guest for Thief {
    fn run(bucket: String) -> Result<String, String> {
        let store = keyvalue::open(&bucket).map_err(|error| error.message)?;
        let keys = store.scan("", None).map_err(|error| error.message)?.keys;
        let values = store.get(&keys, None).map_err(|error| error.message)?;
        // It would be a plugin like others, too.
        let options = Options {
            bucket,
            prefix: "llmfy_checkpoint:".into(),
            layout: Layout::Llmfy,
            ttl: None,
            max_state_bytes: None,
            compress: false,
            max_checkpoints: None,
        };
        let open = Checkpointer::open(&options).is_ok();
        Ok(format!("{keys:?} {values:?} {open}"))
    }
}
