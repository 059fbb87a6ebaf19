//! An untrusted component that imports the checkpointer, run by a host with its
//! own linker: `benches/plugin`, which makes its calls within one run.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use checkpointer::plugin::{Grant, Grants, PluginCtx, PluginCtxView, PluginView, add_to_linker};
use checkpointer::store::StoreUrl;
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
    /// Builds the plugin and instantiates it with a grant for the whole store at
    /// `url`.
    ///
    /// # Errors
    /// The plugin can't be built or instantiated, or the store can't be opened.
    pub fn new(runtime: &'a Runtime, url: &str) -> Result<Self> {
        let engine = Engine::default();
        let component = Component::new(&engine, build()?).map_err(wasmtime_error)?;
        let mut linker = Linker::new(&engine);
        add_to_linker(&mut linker).map_err(wasmtime_error)?;
        let (store, run) = runtime.block_on(async {
            let url: StoreUrl = url.parse()?;
            let grants = Grants::new().bucket("default", Grant::new(url.open().await?, ""));
            let ctx = Ctx { plugin: PluginCtx::new(grants), table: ResourceTable::new() };
            let mut store = Store::new(&engine, ctx);
            let instance = linker.instantiate_async(&mut store, &component).await.map_err(wasmtime_error)?;
            let run: Run = instance.get_typed_func(&mut store, "run").map_err(wasmtime_error)?;
            anyhow::Ok((store, run))
        })?;
        Ok(Self { runtime, store, run })
    }

    /// The mean time in nanoseconds of one of `count` calls that the plugin makes:
    /// the time of a run with these calls minus the time of a run without calls.
    ///
    /// # Errors
    /// A call of the plugin failed.
    pub fn call_time(&mut self, operation: &str, count: usize, state: &str) -> Result<f64> {
        let without_calls = self.run_time(format!("{operation} 0\n{state}"))?;
        let with_calls = self.run_time(format!("{operation} {count}\n{state}"))?;
        Ok((with_calls - without_calls) / count as f64)
    }

    fn run_time(&mut self, input: String) -> Result<f64> {
        let start = Instant::now();
        let result = self.runtime.block_on(self.run.call_async(&mut self.store, (input,)));
        let time = start.elapsed();
        let (output,) = result.map_err(wasmtime_error)?;
        output.map_err(|error| anyhow!("the plugin failed: {error}"))?;
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

fn wasmtime_error(error: wasmtime::Error) -> anyhow::Error {
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
        .context("cargo can't be started")?;
    ensure!(status.success(), "the plugin could not be built");
    let module = fs::read(target.join("wasm32-unknown-unknown/release/plugin.wasm"))?;
    wit_component::ComponentEncoder::default().validate(true).module(&module)?.encode()
}
