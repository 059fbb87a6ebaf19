//! Plugins to run. Those in Rust are built when they are first asked for.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// The sample plugin in Rust.
pub fn rust() -> &'static [u8] {
    static PLUGIN: OnceLock<Vec<u8>> = OnceLock::new();
    PLUGIN.get_or_init(|| build("plugins/rust", "plugin"))
}

/// A plugin that does every harm it is asked for.
pub fn hostile() -> &'static [u8] {
    static PLUGIN: OnceLock<Vec<u8>> = OnceLock::new();
    PLUGIN.get_or_init(|| build("tests/plugins/hostile", "hostile"))
}

/// A plugin that imports the raw store as well.
pub fn thief() -> &'static [u8] {
    static PLUGIN: OnceLock<Vec<u8>> = OnceLock::new();
    PLUGIN.get_or_init(|| build("tests/plugins/thief", "thief"))
}

/// A plugin that never ends; its text is beside it.
pub const ENDLESS: &[u8] = include_bytes!("../data/plugins/endless.wasm");

/// Builds the crate in a folder of the project, and makes it a component.
fn build(folder: &str, name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // One for all, since they are made of the same crates.
    let target = root.join("target/plugins/rust");
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--locked", "--release", "--target", "wasm32-unknown-unknown"])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(root.join(folder))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "{folder} could not be built");
    let module = target.join("wasm32-unknown-unknown/release").join(name).with_extension("wasm");
    let module = fs::read(module).expect("a module");
    let encoded = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|encoder| encoder.encode());
    encoded.expect("a component")
}
