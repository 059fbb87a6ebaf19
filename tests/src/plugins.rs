//! Plugins for the tests. Those in Rust are built on first use.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use checkpointer::plugin::{Grant, Grants};
use checkpointer::store::Store;

/// The sample plugin in Rust.
pub fn rust() -> &'static [u8] {
    static PLUGIN: OnceLock<Vec<u8>> = OnceLock::new();
    PLUGIN.get_or_init(|| build("plugins/rust", "plugin", PLAIN))
}

/// A plugin that performs the attack that its input names.
pub fn hostile() -> &'static [u8] {
    static PLUGIN: OnceLock<Vec<u8>> = OnceLock::new();
    PLUGIN.get_or_init(|| build("tests/plugins/hostile", "hostile", PLAIN))
}

/// A plugin that also imports `keyvalue`.
pub fn raw_store_import() -> &'static [u8] {
    static PLUGIN: OnceLock<Vec<u8>> = OnceLock::new();
    PLUGIN.get_or_init(|| build("tests/plugins/raw-store-import", "raw-store-import", PLAIN))
}

/// A plugin that reports what WASI provides.
pub fn probe() -> &'static [u8] {
    static PLUGIN: OnceLock<Vec<u8>> = OnceLock::new();
    PLUGIN.get_or_init(|| build("tests/plugins/probe", "probe", WASI))
}

/// A grant of the bucket `default`: the keys of `store` with this prefix.
pub fn granted(store: &Arc<dyn Store>, prefix: &str) -> Grants {
    Grants::new().bucket("default", Grant::new(Arc::clone(store), prefix))
}

/// A plugin that never ends; its source is beside it.
pub const ENDLESS: &[u8] = include_bytes!("../data/plugins/endless.wasm");

/// The target without WASI. Its modules must be encoded as components.
const PLAIN: &str = "wasm32-unknown-unknown";

/// The target with WASI. It produces components.
const WASI: &str = "wasm32-wasip2";

/// Builds the crate in a folder of the project as a component.
fn build(folder: &str, name: &str, kind: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // Shared, since the crates have the same dependencies.
    let target = root.join("target/plugins/rust");
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--locked", "--release", "--target", kind])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(root.join(folder))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "{folder} could not be built");
    let module = target.join(kind).join("release").join(name.replace('-', "_")).with_extension("wasm");
    let module = fs::read(module).expect("a module");
    if kind == WASI {
        return module;
    }
    let encoded = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|encoder| encoder.encode());
    encoded.expect("a component")
}
