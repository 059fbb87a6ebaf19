//! A host that runs the component itself: it adds the import `keyvalue` to a linker of
//! its own, and calls the exports.

#![allow(clippy::print_stdout)]

use checkpointer::COMPONENT;
use checkpointer::keyvalue::{self, KeyvalueCtx, KeyvalueCtxView, KeyvalueView};
use checkpointer::store::StoreUrl;
use checkpointer::wasmtime::component::{Component, Linker, ResourceTable};
use checkpointer::wasmtime::error::Context;
use checkpointer::wasmtime::{Engine, Result, Store};

use self::bindings::flow::checkpoint::types::{Checkpoint, Layout, Metadata, Options, SaveOutcome};

mod bindings {
    checkpointer::wasmtime::component::bindgen!({
        path: "../wit",
        world: "flow:checkpoint/component",
        exports: { default: async },
        additional_derives: [PartialEq],
        wasmtime_crate: checkpointer::wasmtime,
    });
}

struct Ctx {
    keyvalue: KeyvalueCtx,
    table: ResourceTable,
}

impl KeyvalueView for Ctx {
    fn keyvalue(&mut self) -> KeyvalueCtxView<'_> {
        KeyvalueCtxView { ctx: &mut self.keyvalue, table: &mut self.table }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let engine = Engine::default();
    let component = Component::new(&engine, COMPONENT)?;
    let mut linker = Linker::<Ctx>::new(&engine);
    keyvalue::add_to_linker(&mut linker)?;

    let store = "memory:".parse::<StoreUrl>()?.open().await?;
    let keyvalue = KeyvalueCtx::builder().bucket("default", store, "tenant-1/").build();
    let mut store = Store::new(&engine, Ctx { keyvalue, table: ResourceTable::new() });
    let instance = bindings::Component::instantiate_async(&mut store, &component, &linker).await?;
    let exports = instance.flow_checkpoint_checkpointer().checkpointer();

    let options = Options {
        bucket: "default".to_owned(),
        prefix: None,
        layout: Layout::Llmfy,
        ttl: None,
        max_state_bytes: None,
        compress: false,
        max_checkpoints: None,
        extra: Vec::new(),
    };
    let checkpointer = exports.call_open(&mut store, &options).await??;
    let checkpoint = Checkpoint {
        metadata: Metadata {
            session_id: "session-1".to_owned(),
            checkpoint_id: "checkpoint-1".to_owned(),
            timestamp: "2026-01-02T03:04:05+00:00".to_owned(),
            node: "plan".to_owned(),
            step: 1,
            run: None,
            extra: Vec::new(),
        },
        state: r#"{"turn": 1}"#.to_owned(),
    };
    let outcome = exports.call_save(&mut store, checkpointer, &checkpoint).await??;
    assert_eq!(outcome, SaveOutcome::Latest);
    let latest = exports.call_latest(&mut store, checkpointer, "session-1").await??;
    let latest = latest.context("the session has no checkpoint")?;
    assert_eq!(latest, checkpoint);
    println!("{} {}", latest.metadata.checkpoint_id, latest.state);
    Ok(())
}
