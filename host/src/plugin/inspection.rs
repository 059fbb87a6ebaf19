//! The imports and exports of a plugin, checked before it runs.

use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

/// The prefixes of the interfaces that a plugin may import. The runtimes of many
/// languages import these parts of WASI. They give a plugin no files, arguments,
/// variables or addresses; only clocks and random numbers work.
const ALLOWED_IMPORTS: [&str; 8] = [
    "flow:checkpoint/checkpointer@",
    "flow:checkpoint/types@",
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:random/",
    "wasi:sockets/",
];

/// The imports and exports of a component, and whether it is a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// The names of all imports.
    pub imports: Vec<String>,
    /// The names of all exports.
    pub exports: Vec<String>,
    /// The imports that a plugin may not have.
    pub disallowed_imports: Vec<String>,
    /// Why the component does not fit the world `plugin`. Always `None` if there are
    /// disallowed imports.
    pub incompatibility: Option<String>,
}

impl Inspection {
    pub(super) fn new(component: &Component, engine: &Engine) -> Self {
        let component = component.component_type();
        // An imported type only names a type of an imported interface.
        let imports: Vec<String> = component
            .imports(engine)
            .filter(|(_, import)| !matches!(import.ty, ComponentItem::Type(_)))
            .map(|(name, _)| name.to_owned())
            .collect();
        let exports = component.exports(engine).map(|(name, _)| name.to_owned()).collect();
        let disallowed_imports = imports.iter().filter(|name| !is_allowed_import(name)).cloned().collect();
        Self { imports, exports, disallowed_imports, incompatibility: None }
    }

    /// Whether the component can run as a plugin.
    pub fn is_compatible(&self) -> bool {
        self.disallowed_imports.is_empty() && self.incompatibility.is_none()
    }
}

/// Whether a plugin may import the interface of this name.
pub(super) fn is_allowed_import(name: &str) -> bool {
    ALLOWED_IMPORTS.iter().any(|prefix| name.starts_with(prefix))
}

/// Refuses bytes that are not a component, with a remedy.
pub(super) fn check_is_component(bytes: &[u8]) -> Result<(), String> {
    // A header is the magic number, a version and a layer: 0 module, 1 component.
    match bytes {
        [b'\0', b'a', b's', b'm', _, _, 0, 0, ..] => {
            Err("it is a core module; make a component of it with `wasm-tools component new`, \
                 or build it for the target wasm32-wasip2"
                .to_owned())
        }
        [b'\0', b'a', b's', b'm', ..] => Ok(()),
        _ => Err("it is not WebAssembly".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_module_is_rejected_with_a_remedy() {
        let error = check_is_component(b"\0asm\x01\0\0\0").expect_err("an error");
        assert!(error.contains("core module") && error.contains("wasm32-wasip2"), "{error}");
        assert_eq!(check_is_component(b"(module)"), Err("it is not WebAssembly".to_owned()));
        assert_eq!(check_is_component(b"\0asm\x0d\0\x01\0"), Ok(()));
    }
}
