//! What a plugin imports and exports, before it is run.

use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use super::sandbox::GIVEN;

/// What a component wants and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The names of all that it imports.
    pub imports: Vec<String>,
    /// The names of all that it exports.
    pub exports: Vec<String>,
    /// The imports that a plugin is not given.
    pub refused: Vec<String>,
    /// Why it does not fit the world `plugin`, if it does not though nothing was
    /// refused.
    pub unfit: Option<String>,
}

impl Inspection {
    pub(super) fn of(component: &Component, engine: &Engine) -> Self {
        let kind = component.component_type();
        // A type is only the name of what an interface has.
        let imports: Vec<String> = kind
            .imports(engine)
            .filter(|(_, import)| !matches!(import.ty, ComponentItem::Type(_)))
            .map(|(name, _)| name.to_owned())
            .collect();
        let exports = kind.exports(engine).map(|(name, _)| name.to_owned()).collect();
        let refused = imports.iter().filter(|name| !is_given(name)).cloned().collect();
        Self { imports, exports, refused, unfit: None }
    }

    /// Whether it can be run.
    pub fn fits(&self) -> bool {
        self.refused.is_empty() && self.unfit.is_none()
    }
}

/// Whether a plugin may import what has this name.
pub fn is_given(import: &str) -> bool {
    GIVEN.iter().any(|given| import.starts_with(given))
}
