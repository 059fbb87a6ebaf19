//! The commands `plugin run`, `plugin inspect` and `plugin compose`.

use std::fs;
use std::path::Path;

use checkpointer_tests::plugins;
use tempfile::TempDir;

use crate::program::{Ended, run};

/// A folder with a plugin.
fn with_plugin(plugin: &[u8]) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("agent.wasm"), plugin).expect("a plugin");
    folder
}

fn write_grants(folder: &TempDir, grants: &str) {
    fs::write(folder.path().join("grants.toml"), grants).expect("a file");
}

fn run_plugin(folder: &Path, arguments: &[&str]) -> Ended {
    run(folder, &[&["plugin", "run", "agent.wasm"], arguments].concat())
}

#[test]
fn plugin_run_saves_checkpoints_that_the_command_line_reads() {
    let folder = with_plugin(plugins::rust());
    let folder = folder.path();
    let cached = || fs::read_dir(folder.join("cache")).expect("a cache").count();
    assert_eq!(run_plugin(folder, &["--session", "s"]).success(), "1 rust s-1-rust\n");
    assert_eq!(cached(), 1);
    let history = run_plugin(folder, &["--input", "step", "--session", "s"]).success();
    assert_eq!(history, "2 rust s-2-rust\n1 rust s-1-rust\n");
    // The second run uses the compiled plugin of the first.
    assert_eq!(cached(), 1);
    let history = run_plugin(folder, &["--json", "--input", "history s"]).success();
    assert_eq!(history, "{\"result\":\"2 rust s-2-rust\\n1 rust s-1-rust\"}\n");
    let latest = run(folder, &["--json", "latest", "s"]).success();
    assert!(latest.contains("\"state\": {\"count\":2,\"trail\":[\"rust\",\"rust\"]}"), "{latest}");
}

#[test]
fn error_of_a_plugin_is_printed_and_is_a_failure() {
    let folder = with_plugin(plugins::rust());
    let usage = "say: SESSION | step SESSION [RUN] | history SESSION";
    let failed = run_plugin(folder.path(), &[]);
    assert_eq!(failed.status, Some(1));
    assert_eq!(failed.err, format!("checkpointer: the plugin returned an error: {usage}\n"));
    let failed = run_plugin(folder.path(), &["--json"]);
    assert_eq!((failed.status, failed.out), (Some(1), format!("{{\"error\":\"{usage}\"}}\n")));
}

#[test]
fn grants_file_sets_store_prefix_and_quota_and_is_validated() {
    let folder = with_plugin(plugins::rust());
    write_grants(
        &folder,
        "[bucket.default]\nstore = \"sqlite:agents.db\"\nprefix = \"tenant-1/\"\nmax-total-checkpoints = 2\n",
    );
    let step = || run_plugin(folder.path(), &["--grants", "grants.toml", "--input", "step s"]);
    step().success();
    assert_eq!(step().success(), "2 rust s-2-rust\n1 rust s-1-rust\n");
    let full = step();
    assert_eq!(full.status, Some(1));
    assert!(full.err.starts_with("checkpointer: the plugin returned an error: "), "{full:?}");
    assert!(full.err.contains("2 checkpoints"), "{full:?}");
    let prefix = "tenant-1/llmfy_checkpoint:";
    let list = ["--store", "sqlite:agents.db", "--prefix", prefix, "list", "s"];
    assert_eq!(run(folder.path(), &list).success().lines().count(), 3);

    write_grants(&folder, "[bucket.default]\nprefix = \"\"\nttl = 1\n");
    let invalid = step();
    assert_eq!(invalid.status, Some(2));
    let message = "checkpointer: grants.toml: line 3, column 1: unknown field `ttl`";
    assert!(invalid.err.starts_with(message), "{invalid:?}");
}

#[test]
fn plugin_inspect_prints_imports_exports_grants_and_compatibility() {
    let folder = with_plugin(plugins::rust());
    write_grants(
        &folder,
        "[bucket.default]\nprefix = \"tenant-1/\"\nread-only = true\nmax-results-per-call = 5\n",
    );
    let folder = folder.path();
    let inspection = run(folder, &["plugin", "inspect", "agent.wasm", "--grants", "grants.toml"]).success();
    let expected = [
        "agent.wasm",
        "imports     flow:checkpoint/types@0.1.0",
        "imports     flow:checkpoint/checkpointer@0.1.0",
        "exports     run",
        "granted     bucket \"default\": sqlite:checkpoints.db, keys with the prefix \"tenant-1/\", read-only, at most 5 results per call",
        "compatible  yes",
    ];
    assert_eq!(inspection.lines().collect::<Vec<_>>(), expected);

    fs::write(folder.join("agent.wasm"), checkpointer::COMPONENT).expect("a plugin");
    let inspection = run(folder, &["--json", "plugin", "inspect", "agent.wasm"]);
    assert_eq!(inspection.status, Some(1));
    let json: serde_json::Value = serde_json::from_str(&inspection.out).expect("JSON");
    assert_eq!(json["is_compatible"], false);
    assert_eq!(json["disallowed_imports"], serde_json::json!(["flow:checkpoint/keyvalue@0.1.0"]));
    assert_eq!(json["buckets"]["default"]["prefix"], "");
    let refused = run_plugin(folder, &[]);
    assert_eq!(refused.status, Some(1));
    assert!(refused.err.starts_with("checkpointer: agent.wasm: "), "{refused:?}");
    assert!(refused.err.contains(" flow:checkpoint/keyvalue@0.1.0"), "{refused:?}");
}

#[test]
fn plugin_compose_writes_one_component_that_imports_keyvalue() {
    let folder = with_plugin(plugins::rust());
    let folder = folder.path();
    let compose = ["--json", "plugin", "compose", "agent.wasm", "-o", "one.wasm"];
    let composed = run(folder, &compose).success();
    let size = fs::metadata(folder.join("one.wasm")).expect("a file").len();
    assert_eq!(composed, format!("{{\"bytes\":{size},\"output\":\"one.wasm\"}}\n"));
    // No plugin may import `keyvalue`.
    assert_eq!(run(folder, &["plugin", "inspect", "one.wasm"]).status, Some(1));
    let refused = run(folder, &["plugin", "compose", "one.wasm", "-o", "two.wasm"]);
    assert_eq!(refused.status, Some(1));
    assert!(!folder.join("two.wasm").exists());
}

#[test]
fn options_that_do_not_apply_to_plugins_are_refused_and_not_in_their_help() {
    let folder = with_plugin(plugins::rust());
    let folder = folder.path();
    let unused = [
        "--prefix",
        "--layout",
        "--ttl",
        "--session-ttl",
        "--refresh-on-read",
        "--max-checkpoints",
        "--compress",
    ];
    for (command, used) in [
        (&["run", "agent.wasm"][..], &["--grants", "--input", "--session", "--store", "--json"][..]),
        (&["inspect", "agent.wasm"], &["--grants", "--store", "--json"]),
        (&["compose", "agent.wasm", "-o", "x"], &["--output", "--json"]),
    ] {
        let help = run(folder, &["plugin", command[0], "--help"]).success();
        let options: Vec<&str> = help.split_whitespace().filter(|word| word.starts_with("--")).collect();
        assert!(used.iter().all(|option| options.contains(option)), "{help}");
        assert!(!unused.iter().any(|option| options.contains(option)), "{help}");
        assert_eq!(options.contains(&"--store"), command[0] != "compose", "{help}");
        for option in [&["--prefix", "tenant:"][..], &["--compress"]] {
            let refused = run(folder, &[option, &["plugin"], command].concat());
            let message = format!(
                "checkpointer: {} does not apply to `checkpointer plugin`; see `checkpointer plugin --help`\n",
                option[0]
            );
            assert_eq!((refused.status, refused.err), (Some(2), message));
        }
    }
    assert!(!folder.join("x").exists() && !folder.join("checkpoints.db").exists());
    let refused = run(folder, &["plugin", "compose", "agent.wasm", "-o", "x", "--store", "memory:"]);
    assert_eq!(refused.status, Some(2));
    assert!(refused.err.starts_with("checkpointer: --store does not apply to `checkpointer plugin compose`"));
}

#[test]
fn invalid_plugins_and_stores_are_named_in_the_error() {
    let folder = with_plugin(b"text");
    let refused = run_plugin(folder.path(), &[]);
    assert_eq!(refused.status, Some(1));
    assert!(refused.err.starts_with("checkpointer: agent.wasm: not a plugin: "), "{refused:?}");
    fs::write(folder.path().join("agent.wasm"), plugins::rust()).expect("a plugin");
    write_grants(&folder, "[bucket.a]\nstore = \"sqlite:none/a.db\"\nprefix = \"\"\n");
    let refused = run_plugin(folder.path(), &["--grants", "grants.toml"]);
    assert_eq!(refused.status, Some(1));
    assert!(refused.err.starts_with("checkpointer: bucket \"a\": "), "{refused:?}");
    assert!(refused.err.contains("sqlite:none/a.db: "), "{refused:?}");
}
