//! A component of somebody else that imports the checkpointer, in a host of its
//! own kind: `benches/plugin`, which makes its calls within one run.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use checkpointer::plugin::{Grant, Grants, PluginCtx, PluginCtxView, PluginView, add_to_linker};
use checkpointer::store::Address;
use tokio::runtime::Runtime;
use wasmtime::component::{Component, Linker, ResourceTable, TypedFunc};
use wasmtime::{Engine, Store};

use crate::bench::{cargo, target};

type Run = TypedFunc<(String,), (Result<String, String>,)>;

/// An instance of the plugin.
pub struct Plugin<'a> {
    runtime: &'a Runtime,
    store: Store<Ctx>,
    run: Run,
}

impl<'a> Plugin<'a> {
    /// Builds the plugin and makes an instance of it, which is granted all of the
    /// store at `address`.
    ///
    /// # Errors
    /// It can't be built, or does not fit.
    pub fn new(runtime: &'a Runtime, address: &str) -> Result<Self> {
        let engine = Engine::default();
        let component = Component::new(&engine, build()?).map_err(refused)?;
        let mut linker = Linker::new(&engine);
        add_to_linker(&mut linker).map_err(refused)?;
        let (store, run) = runtime.block_on(async {
            let address: Address = address.parse()?;
            let kept = address.open().await.map_err(|error| anyhow!("{error:?}"))?;
            let grants = Grants::new().bucket("default", Grant::new(kept, ""));
            let ctx = Ctx { plugin: PluginCtx::new(grants), table: ResourceTable::new() };
            let mut store = Store::new(&engine, ctx);
            let instance = linker.instantiate_async(&mut store, &component).await.map_err(refused)?;
            let run: Run = instance.get_typed_func(&mut store, "run").map_err(refused)?;
            anyhow::Ok((store, run))
        })?;
        Ok(Self { runtime, store, run })
    }

    /// The time of one call that the plugin makes, on average over `count` of
    /// them, in nanoseconds: that of a run with them, without that of a run with
    /// none.
    ///
    /// # Errors
    /// The plugin says that a call failed.
    pub fn time_of_a_call(&mut self, work: &str, count: usize, state: &str) -> Result<f64> {
        let none = self.time_of_a_run(format!("{work} 0\n{state}"))?;
        let all = self.time_of_a_run(format!("{work} {count}\n{state}"))?;
        Ok((all - none) / count as f64)
    }

    fn time_of_a_run(&mut self, input: String) -> Result<f64> {
        let start = Instant::now();
        let answered = self.runtime.block_on(self.run.call_async(&mut self.store, (input,)));
        let time = start.elapsed();
        let (answer,) = answered.map_err(refused)?;
        answer.map_err(|error| anyhow!("the plugin says: {error}"))?;
        Ok(time.as_nanos() as f64)
    }
}

struct Ctx {
    plugin: PluginCtx,
    table: ResourceTable,
}

impl PluginView for Ctx {
    fn plugin(&mut self) -> PluginCtxView<'_> {
        PluginCtxView { ctx: &mut self.plugin, table: &mut self.table }
    }
}

fn refused(error: wasmtime::Error) -> anyhow::Error {
    anyhow!("{error:#}")
}

fn build() -> Result<Vec<u8>> {
    let target = target().join("plugin");
    let status = cargo()
        .args(["build", "--quiet", "--locked", "--release", "--target", "wasm32-unknown-unknown"])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("plugin"))
        .status()
        .context("cargo does not run")?;
    ensure!(status.success(), "the measuring plugin could not be built");
    let module = fs::read(target.join("wasm32-unknown-unknown/release/plugin.wasm"))?;
    wit_component::ComponentEncoder::default().validate(true).module(&module)?.encode()
}
