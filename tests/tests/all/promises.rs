//! RELIABILITY.md and SECURITY.md name the tests of each promise, and these
//! exist.

use std::fs;
use std::path::Path;

#[test]
fn every_promise_names_existing_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let promises = ["RELIABILITY.md", "SECURITY.md"]
        .map(|file| fs::read_to_string(root.join(file)).expect(file))
        .join("\n");
    let rows = promises.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let mut count = 0;
    for row in rows.filter(|row| *row != "promise | test") {
        let (promise, tests) = row.rsplit_once(" | ").expect("a promise and its tests");
        let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test of: {promise}");
        for test in tests {
            let (file, name) = test.split_once("::").unwrap_or((test, ""));
            let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(text.contains(&format!("fn {name}")), "{file} has no test {name}");
            count += 1;
        }
    }
    assert!(count > 60, "{count}");
}
