//! A host that runs a plugin. The plugin accesses one part of a store, within limits.
//!
//! `cargo run --example plugin_host [PLUGIN.wasm]`, by default with the sample agent
//! that `plugins/build rust` builds.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::Arc;

use checkpointer::Checkpointer;
use checkpointer::plugin::{Grant, Grants, Plugins};
use checkpointer::store::StoreUrl;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/plugins/rust.wasm");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).unwrap_or_else(|| SAMPLE.to_owned());
    let wasm = std::fs::read(&file)
        .map_err(|error| format!("{file}: {error}; build the sample with `plugins/build rust`"))?;
    let plugin = Plugins::new()?.load(&wasm)?;

    let store = "memory:".parse::<StoreUrl>()?.open().await?;
    let tenant =
        Grant::new(Arc::clone(&store), "tenant-1/").max_total_checkpoints(100).max_total_bytes(1_000_000);
    let grants = Grants::new().bucket("default", tenant);
    for _ in 0..3 {
        println!("{}", plugin.run(&grants, "session-1").await??);
    }

    // The prefix of the grant precedes the prefix of the plugin.
    let checkpointer = Checkpointer::builder().prefix("tenant-1/llmfy_checkpoint:").open_store(store).await?;
    let latest = checkpointer.latest("session-1").await?.ok_or("the plugin saved nothing")?;
    assert_eq!(latest.metadata.step, 3);
    Ok(())
}
