//! A plugin and the checkpointer in one component, for people who ship one file.

use thiserror::Error;
use wac_graph::types::Package;
use wac_graph::{CompositionGraph, EncodeOptions};

use super::inspection::is_given;
use crate::COMPONENT;

/// The interface between the two.
const CHECKPOINTER: &str = "flow:checkpoint/checkpointer@0.1.0";

/// Why a plugin can't be composed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CompositionError {
    /// It is no component.
    #[error("not a component: {0}")]
    NotAComponent(String),
    /// It imports what a plugin is not given. Composition joins equal imports, so
    /// one that imports `keyvalue` would reach the store past the checkpointer.
    #[error("the plugin imports what it is not given: {}", .0.join(", "))]
    Imports(Vec<String>),
    /// It does not import the checkpointer: there is nothing to compose.
    #[error("the plugin does not import the checkpointer")]
    NoCheckpointer,
    /// The two do not fit together.
    #[error("the plugin does not fit the checkpointer: {0}")]
    Unfit(String),
}

/// Joins a plugin and the checkpointer: what comes of it imports `keyvalue`, and
/// WASI if the plugin does, and exports what the plugin exports.
///
/// # Errors
/// See [`CompositionError`].
pub fn compose(plugin: &[u8]) -> Result<Vec<u8>, CompositionError> {
    let unfit = |error: &dyn std::fmt::Display| CompositionError::Unfit(error.to_string());
    let mut graph = CompositionGraph::new();
    let plugin = Package::from_bytes("flow:plugin", None, plugin.to_vec(), graph.types_mut())
        .map_err(|error| CompositionError::NotAComponent(format!("{error:#}")))?;
    let world = &graph.types()[plugin.ty()];
    let foreign: Vec<String> = world.imports.keys().filter(|name| !is_given(name)).cloned().collect();
    if !foreign.is_empty() {
        return Err(CompositionError::Imports(foreign));
    }
    if !world.imports.contains_key(CHECKPOINTER) {
        return Err(CompositionError::NoCheckpointer);
    }
    let exports: Vec<String> = world.exports.keys().cloned().collect();
    let checkpointer = Package::from_bytes("flow:checkpointer", None, COMPONENT.to_vec(), graph.types_mut())
        .map_err(|error| unfit(&error))?;

    let checkpointer = graph.register_package(checkpointer).map_err(|error| unfit(&error))?;
    let plugin = graph.register_package(plugin).map_err(|error| unfit(&error))?;
    let checkpointer = graph.instantiate(checkpointer);
    let plugin = graph.instantiate(plugin);
    let given = graph.alias_instance_export(checkpointer, CHECKPOINTER).map_err(|error| unfit(&error))?;
    graph.set_instantiation_argument(plugin, CHECKPOINTER, given).map_err(|error| unfit(&error))?;
    for name in exports {
        let export = graph.alias_instance_export(plugin, &name).map_err(|error| unfit(&error))?;
        graph.export(export, &name).map_err(|error| unfit(&error))?;
    }
    graph.encode(EncodeOptions::default()).map_err(|error| unfit(&error))
}
