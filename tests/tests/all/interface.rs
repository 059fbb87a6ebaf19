//! Golden files of the WIT, so that every change of the interface is a visible
//! difference: a renamed parameter, another type, another doc comment.
//!
//! To accept a change: `UPDATE_WIT=1 cargo test --workspace --test all interface`.

use std::path::Path;
use std::{env, fs};

use checkpointer::COMPONENT;
use wit_component::WitPrinter;
use wit_parser::{PackageId, Resolve};

/// Prints a package, and every other package in full behind it.
fn print(resolve: &Resolve, package: PackageId) -> String {
    let others: Vec<PackageId> =
        resolve.packages.iter().map(|(id, _)| id).filter(|id| *id != package).collect();
    let mut printer = WitPrinter::default();
    printer.print(resolve, package, &others).expect("printable WIT");
    printer.output.to_string() + "\n"
}

/// Compares `printed` with a file of `tests/data`.
fn assert_golden(printed: &str, file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(file);
    if env::var_os("UPDATE_WIT").is_some() {
        fs::write(&path, printed).expect("written");
    }
    let golden = fs::read_to_string(&path).expect(file);
    let differing = printed.lines().zip(golden.lines()).position(|(printed, golden)| printed != golden);
    let line = differing.unwrap_or_else(|| printed.lines().count().min(golden.lines().count()));
    let at = |text: &str| text.lines().nth(line).unwrap_or("the end").to_owned();
    assert!(
        printed == golden,
        "the interface differs from tests/data/{file} in line {}: {:?} instead of {:?}",
        line + 1,
        at(printed),
        at(&golden)
    );
}

/// The interfaces that the component embeds. A component embeds no doc comments.
#[test]
fn the_wit_of_the_component_matches_the_golden_file() {
    let component = wit_component::decode(COMPONENT).expect("a component");
    assert_golden(&print(component.resolve(), component.package()), "component.wit");
}

/// The packages of the folder `wit`, with their doc comments.
#[test]
fn the_wit_folder_matches_the_golden_file() {
    let mut resolve = Resolve::default();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let (plugin, _) = resolve.push_dir(folder).expect("valid WIT");
    assert_golden(&print(&resolve, plugin), "wit.wit");
}
