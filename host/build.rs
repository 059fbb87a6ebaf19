//! Builds the guest, makes it a component and compiles that for the target, so
//! that the library carries both and compiles nothing when it runs.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

#[path = "src/component/configuration.rs"]
mod configuration;

use configuration::Caller;

const WASM: &str = "wasm32-unknown-unknown";

fn main() -> Result<(), Box<dyn Error>> {
    let host = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = host.parent().ok_or("the host has no parent folder")?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for source in ["guest/src", "guest/Cargo.toml", "wit", "Cargo.lock", "Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    println!("cargo:rerun-if-changed=src/component/configuration.rs");

    let module = fs::read(build_guest(root, &out)?)?;
    let component = wit_component::ComponentEncoder::default().validate(true).module(&module)?.encode()?;
    fs::write(out.join("checkpointer.wasm"), &component)?;

    compile(&component, Caller::Application, &out.join("checkpointer.cwasm"))?;
    #[cfg(feature = "plugins")]
    compile(&component, Caller::Plugin, &out.join("checkpointer-of-plugins.cwasm"))?;
    Ok(())
}

fn compile(component: &[u8], caller: Caller, file: &Path) -> Result<(), Box<dyn Error>> {
    let mut configuration = configuration::configuration(caller);
    // Without this, the code would need the processor that it was built on.
    configuration.target(&env::var("TARGET")?)?;
    fs::write(file, wasmtime::Engine::new(&configuration)?.precompile_component(component)?)?;
    Ok(())
}

fn build_guest(root: &Path, out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    // OUT_DIR is target/PROFILE/build/PACKAGE/out: one build of the guest
    // serves every profile.
    let target = out.ancestors().nth(4).unwrap_or(out).join("guest");
    let mut cargo = Command::new(env::var("CARGO")?);
    // What was set for this build (flags, wrappers, the place of its output) is
    // not meant for that one.
    for (name, _) in env::vars().filter(|(name, _)| {
        name.starts_with("CARGO_") && !name.starts_with("CARGO_HOME") && !name.starts_with("CARGO_NET")
            || name.starts_with("RUSTC_")
            || name == "RUSTFLAGS"
    }) {
        cargo.env_remove(name);
    }
    let status = cargo
        .current_dir(root)
        // Every host that there is has it, and `json/block.rs` is written for it.
        .env("RUSTFLAGS", "-C target-feature=+simd128")
        .args(["build", "--package", "checkpointer-guest", "--profile", "guest", "--target", WASM])
        .arg("--target-dir")
        .arg(&target)
        .status()?;
    if !status.success() {
        return Err(format!(
            "the guest could not be built; if its target is missing: rustup target add {WASM}"
        )
        .into());
    }
    Ok(target.join(WASM).join("guest").join("checkpointer_guest.wasm"))
}
