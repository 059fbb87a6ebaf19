//! Plugins to run.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// The sample plugin in Rust, built when it is first asked for.
pub fn rust() -> &'static [u8] {
    static PLUGIN: OnceLock<Vec<u8>> = OnceLock::new();
    PLUGIN.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let target = root.join("target/plugins/rust");
        let status = Command::new("cargo")
            .args(["build", "--quiet", "--locked", "--release", "--target", "wasm32-unknown-unknown"])
            .arg("--target-dir")
            .arg(&target)
            .current_dir(root.join("plugins/rust"))
            .status()
            .expect("cargo runs");
        assert!(status.success(), "the plugin could not be built");
        let module = fs::read(target.join("wasm32-unknown-unknown/release/plugin.wasm")).expect("a module");
        let encoded = wit_component::ComponentEncoder::default()
            .validate(true)
            .module(&module)
            .and_then(|encoder| encoder.encode());
        encoded.expect("a component")
    })
}

/// A plugin that never ends; its text is beside it.
pub const ENDLESS: &[u8] = include_bytes!("../data/plugins/endless.wasm");
