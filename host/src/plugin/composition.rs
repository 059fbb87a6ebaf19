//! Composition of a plugin and the checkpointer into one component.

use std::fmt;

use thiserror::Error;
use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions};

use super::inspection::{check_is_component, is_allowed_import};
use crate::COMPONENT;

/// The interface between the two components.
const CHECKPOINTER: &str = "flow:checkpoint/checkpointer@0.1.0";

/// Why a plugin can't be composed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CompositionError {
    /// The bytes are not a component.
    #[error("not a component: {0}")]
    NotAComponent(String),
    /// The plugin has imports that plugins may not have. Composition joins equal
    /// imports, so a plugin that imports `keyvalue` would reach the store without
    /// the checkpointer.
    #[error("the plugin imports {}, which plugins may not import", .0.join(", "))]
    DisallowedImports(Vec<String>),
    /// The plugin does not import the checkpointer, so composition has no effect.
    #[error("the plugin does not import {}", CHECKPOINTER)]
    NoCheckpointer,
    /// The plugin and the checkpointer do not fit together.
    #[error("the plugin does not fit the checkpointer: {0}")]
    Incompatible(String),
}

/// Composes a plugin and the checkpointer. The result imports `keyvalue` and the
/// WASI imports of the plugin, and has the exports of the plugin.
///
/// # Errors
/// See [`CompositionError`].
pub fn compose(plugin: &[u8]) -> Result<Vec<u8>, CompositionError> {
    check_is_component(plugin).map_err(CompositionError::NotAComponent)?;
    let mut graph = CompositionGraph::new();
    let plugin = Package::from_bytes("flow:plugin", None, plugin.to_vec(), graph.types_mut())
        .map_err(|error| CompositionError::NotAComponent(format!("{error:#}")))?;
    let world = &graph.types()[plugin.ty()];
    let disallowed: Vec<_> = world.imports.keys().filter(|name| !is_allowed_import(name)).cloned().collect();
    if !disallowed.is_empty() {
        return Err(CompositionError::DisallowedImports(disallowed));
    }
    if !world.imports.contains_key(CHECKPOINTER) {
        return Err(CompositionError::NoCheckpointer);
    }
    let exports: Vec<_> = world.exports.keys().cloned().collect();
    let checkpointer = Package::from_bytes("flow:checkpointer", None, COMPONENT.to_vec(), graph.types_mut())
        .map_err(incompatible)?;

    let checkpointer = graph.register_package(checkpointer).map_err(incompatible)?;
    let plugin = graph.register_package(plugin).map_err(incompatible)?;
    let checkpointer = graph.instantiate(checkpointer);
    let plugin = graph.instantiate(plugin);
    let interface = graph.alias_instance_export(checkpointer, CHECKPOINTER).map_err(incompatible)?;
    graph.set_instantiation_argument(plugin, CHECKPOINTER, interface).map_err(incompatible)?;
    for name in exports {
        let export = graph.alias_instance_export(plugin, &name).map_err(incompatible)?;
        graph.export(export, &name).map_err(incompatible)?;
    }
    graph.encode(EncodeOptions::default()).map_err(incompatible)
}

fn incompatible(error: impl fmt::Display) -> CompositionError {
    CompositionError::Incompatible(error.to_string())
}
