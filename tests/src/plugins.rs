//! Plugins to run. Those in Rust are built when they are first asked for.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// The sample plugin in Rust.
pub fn rust() -> &'static [u8] {
    static PLUGIN: OnceLock<Vec<u8>> = OnceLock::new();
    PLUGIN.get_or_init(|| build("plugins/rust", "plugin", PLAIN))
}

/// A plugin that does every harm it is asked for.
pub fn hostile() -> &'static [u8] {
    static PLUGIN: OnceLock<Vec<u8>> = OnceLock::new();
    PLUGIN.get_or_init(|| build("tests/plugins/hostile", "hostile", PLAIN))
}

/// A plugin that imports the raw store as well.
pub fn thief() -> &'static [u8] {
    static PLUGIN: OnceLock<Vec<u8>> = OnceLock::new();
    PLUGIN.get_or_init(|| build("tests/plugins/thief", "thief", PLAIN))
}

/// A plugin that looks for what WASI gives it.
pub fn curious() -> &'static [u8] {
    static PLUGIN: OnceLock<Vec<u8>> = OnceLock::new();
    PLUGIN.get_or_init(|| build("tests/plugins/curious", "curious", WASI))
}

/// A plugin that never ends; its text is beside it.
pub const ENDLESS: &[u8] = include_bytes!("../data/plugins/endless.wasm");

/// The target without WASI, whose modules are yet to be made components.
const PLAIN: &str = "wasm32-unknown-unknown";

/// The target with WASI, which gives components.
const WASI: &str = "wasm32-wasip2";

/// Builds the crate in a folder of the project as a component.
fn build(folder: &str, name: &str, kind: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // One for all, since they are made of the same crates.
    let target = root.join("target/plugins/rust");
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--locked", "--release", "--target", kind])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(root.join(folder))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "{folder} could not be built");
    let module = target.join(kind).join("release").join(name).with_extension("wasm");
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
