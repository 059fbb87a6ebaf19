//! Builds the guest module, encodes it as a component, and compiles the component
//! for the target. The library contains both, and compiles nothing at run time.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

#[path = "src/component/engine_config.rs"]
mod engine_config;

use engine_config::Trust;

const WASM: &str = "wasm32-unknown-unknown";

fn main() -> Result<(), Box<dyn Error>> {
    let host = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = host.parent().ok_or("the host has no parent folder")?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for source in ["guest/src", "guest/Cargo.toml", "timestamp/src", "wit", "Cargo.lock", "Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    println!("cargo:rerun-if-changed=src/component/engine_config.rs");

    let module = fs::read(build_guest(root, &out)?)?;
    let component = wit_component::ComponentEncoder::default().validate(true).module(&module)?.encode()?;
    fs::write(out.join("checkpointer.wasm"), &component)?;

    compile(&component, Trust::Trusted, &out.join("checkpointer.cwasm"))?;
    #[cfg(feature = "plugins")]
    compile(&component, Trust::Untrusted, &out.join("checkpointer-interruptible.cwasm"))?;
    Ok(())
}

fn compile(component: &[u8], trust: Trust, file: &Path) -> Result<(), Box<dyn Error>> {
    let mut config = engine_config::engine_config(trust);
    // An explicit target has baseline features only. Without it, the code would use
    // all features of the build machine's processor.
    config.target(&env::var("TARGET")?)?;
    fs::write(file, wasmtime::Engine::new(&config)?.precompile_component(component)?)?;
    Ok(())
}

fn build_guest(root: &Path, out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    // OUT_DIR is target/PROFILE/build/PACKAGE/out. All profiles share one build of
    // the guest.
    let target = out.ancestors().nth(4).unwrap_or(out).join("guest");
    let mut cargo = Command::new(env::var("CARGO")?);
    // The flags, wrappers and folders of this build do not apply to the guest.
    for (name, _) in env::vars().filter(|(name, _)| {
        name.starts_with("CARGO_") && !name.starts_with("CARGO_HOME") && !name.starts_with("CARGO_NET")
            || name.starts_with("RUSTC_")
            || name == "RUSTFLAGS"
    }) {
        cargo.env_remove(name);
    }
    let status = cargo
        .current_dir(root)
        // All hosts support SIMD, and `json/simd.rs` uses it.
        .env("RUSTFLAGS", "-C target-feature=+simd128")
        .args(["build", "--package", "checkpointer-guest", "--profile", "guest", "--target", WASM])
        .arg("--target-dir")
        .arg(&target)
        .status()?;
    if !status.success() {
        return Err(format!(
            "the guest can't be built; if its target is missing, run: rustup target add {WASM}"
        )
        .into());
    }
    Ok(target.join(WASM).join("guest").join("checkpointer_guest.wasm"))
}
