//! The command line, run as a person or a program would run it.

#![expect(clippy::expect_used, reason = "a test that can't run fails")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use checkpointer_tests::plugins;
use checkpointer_tests::redis_server::{RedisServer, free_port};
use checkpointer_tests::samples::data;
use tempfile::TempDir;

/// The program.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_checkpointer"))
}

fn command(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.current_dir(folder.path()).args(arguments).env_remove("CHECKPOINTER_STORE");
    command
}

fn run(folder: &TempDir, arguments: &[&str]) -> Output {
    command(folder, arguments).stdin(Stdio::null()).output().expect("the program runs")
}

fn run_with_input(folder: &TempDir, arguments: &[&str], input: &str) -> Output {
    let mut child = command(folder, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut stdin = child.stdin.take().expect("an input");
    // Who fails early does not read it all.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("the program ends")
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn status(output: &Output) -> i32 {
    output.status.code().expect("an exit status")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[test]
fn the_agent_chat_goes_in_and_comes_out_to_the_byte() {
    let folder = TempDir::new().expect("a folder");
    let files = data("agent-chat");
    let mut arguments = vec!["save"];
    arguments.extend(files.iter().map(|(file, _)| file.to_str().expect("a path")));
    let saved = out(&run(&folder, &arguments));
    assert_eq!(saved.lines().count(), 12);
    assert!(
        saved.starts_with("saved user-123  904f6af0-46f1-4837-9a70-c9adea65a605  step 1  main\n"),
        "{saved}"
    );

    let latest = out(&run(&folder, &["load", "user-123", "--json"]));
    assert_eq!(latest.trim_end(), files[11].1);
    let first = out(&run(&folder, &["load", "user-123", "904f6af0-46f1-4837-9a70-c9adea65a605", "--json"]));
    assert_eq!(first.trim_end(), files[0].1);
    let listed = out(&run(&folder, &["list", "user-123", "--json", "--limit", "100"]));
    let newest_first: Vec<_> = files.iter().rev().map(|(_, document)| document.as_str()).collect();
    assert_eq!(listed.lines().collect::<Vec<_>>(), newest_first);

    // What was listed can be saved elsewhere.
    let again = run_with_input(&folder, &["--store", "sqlite:copy.db", "--json", "save", "-"], &listed);
    assert_eq!(out(&again).lines().count(), 12);
    assert_eq!(
        out(&run(&folder, &["--store", "sqlite:copy.db", "list", "user-123", "--json", "--limit", "100"])),
        listed
    );

    let timeline = out(&run(&folder, &["list", "user-123", "--run", "2ec8fe86-7a8e-42ff-83f3-f2bbe2b4c3f7"]));
    assert_eq!(timeline.lines().count(), 7);
    assert!(timeline.starts_with("TIME  "), "{timeline}");
    assert!(out(&run(&folder, &["load", "user-123"])).contains("node        main\n"));

    assert_eq!(
        out(&run(&folder, &["delete", "user-123", "904f6af0-46f1-4837-9a70-c9adea65a605"])),
        "removed 1 checkpoint\n"
    );
    assert_eq!(out(&run(&folder, &["--json", "delete", "user-123"])), "{\"removed\": 11}\n");
    assert_eq!(
        out(&run(&folder, &["--store", "sqlite:copy.db", "clear-all", "--yes"])),
        "removed 12 checkpoints\n"
    );
}

#[test]
fn the_exit_status_says_how_it_went() {
    let folder = TempDir::new().expect("a folder");
    for (arguments, expected) in [
        (&["list", "s"][..], 0),
        (&["load", "s"], 3),
        (&["load", "s", "c"], 3),
        (&["delete", "s"], 3),
        (&["frobnicate"], 2),
        (&["load"], 2),
        (&["load", ""], 2),
        (&["--prefix", "", "list", "s"], 2),
        (&["--ttl", "0", "list", "s"], 2),
        (&["--ttl", "-1", "list", "s"], 2),
        (&["--ttl", "1.5", "list", "s"], 2),
        (&["--session-ttl", "0", "list", "s"], 2),
        (&["--session-ttl", "5", "--ttl", "5", "list", "s"], 2),
        (&["pin", "s", "c"], 3),
        (&["unpin", "s", "c"], 3),
        (&["--ttl", "9223372036854775807", "list", "s"], 2),
        (&["--store", "postgres://localhost", "list", "s"], 2),
        (&["clear-all"], 2),
        (&["--store", "sqlite:/nowhere/x.db", "list", "s"], 1),
        (&["save", "nowhere.json"], 1),
        (&["--help"], 0),
        (&["--version"], 0),
    ] {
        let output = run(&folder, arguments);
        assert_eq!(status(&output), expected, "{arguments:?}: {output:?}");
        if expected != 0 {
            assert_eq!(output.stdout, b"", "{arguments:?}");
            assert!(!output.stderr.is_empty(), "{arguments:?}");
        }
    }
}

#[test]
fn a_document_that_cannot_be_saved_is_named_by_file_and_line() {
    let folder = TempDir::new().expect("a folder");
    let good = &data("golden")[0].1;
    fs::write(folder.path().join("two.jsonl"), format!("{good}\n{}\n", good.replace("2026", "soon")))
        .expect("written");
    let output = run(&folder, &["save", "two.jsonl"]);
    assert_eq!(status(&output), 2);
    assert_eq!(
        err(&output),
        "checkpointer: two.jsonl, line 2: not a checkpoint: the key \"created_at\" holds \
         \"soon-01-02T03:04:05.123456+00:00\", which is no timestamp\n"
    );
    assert!(out(&run(&folder, &["load", "fx-01"])).contains("fx-01-empty-state"));
    assert_eq!(status(&run_with_input(&folder, &["save"], "")), 2);
    assert_eq!(status(&run_with_input(&folder, &["save"], "{\"a\":\n")), 2);
}

#[test]
fn the_store_comes_from_the_option_then_the_environment_then_a_file() {
    let folder = TempDir::new().expect("a folder");
    let save = |arguments: &[&str]| {
        let mut command = command(&folder, arguments);
        command.arg("save").arg(&data("golden")[0].0).env("CHECKPOINTER_STORE", "sqlite:environment.db");
        assert!(command.output().expect("the program runs").status.success());
    };
    save(&[]);
    assert!(folder.path().join("environment.db").exists());
    save(&["--store", "sqlite:option.db"]);
    assert!(folder.path().join("option.db").exists());
    out(&run(&folder, &["list", "s"]));
    assert!(folder.path().join("checkpoints.db").exists());
}

#[test]
fn a_password_appears_nowhere() {
    let folder = TempDir::new().expect("a folder");
    let at = |place: &str| format!("redis://ann:hunter2@127.0.0.1:{place}");
    for store in
        [at(&free_port().to_string()), at("x"), at("1/x"), "redis+unix:///no?password=hunter2".into()]
    {
        for arguments in [&["list", "s"][..], &["clear-all"], &["--help"], &["save", "--help"]] {
            let output = command(&folder, arguments)
                .env("CHECKPOINTER_STORE", &store)
                .env("CHECKPOINTER_LOG", "trace")
                .stdin(Stdio::null())
                .output()
                .expect("the program runs");
            let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), err(&output));
            assert!(!said.contains("hunter2"), "{arguments:?}: {said}");
        }
    }
}

#[test]
fn a_read_only_file_can_be_read_and_refuses_to_be_written() {
    let folder = TempDir::new().expect("a folder");
    let golden = &data("golden")[0].0;
    let save = |program: &mut Command| program.args(["save"]).arg(golden).output().expect("the program runs");
    assert!(save(&mut command(&folder, &[])).status.success());
    // Also for root, who may write to any file: one that is mounted read-only.
    let file = folder.path().join("checkpoints.db");
    let script = format!(
        "mount --bind {file} {file} && mount -o remount,bind,ro {file} && cd {there} && \
         {program} load fx-01 --json && {program} save {golden}",
        file = file.display(),
        there = folder.path().display(),
        program = program().display(),
        golden = golden.display()
    );
    let output = in_own_mounts(&script);
    assert_eq!(status(&output), 1, "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), data("golden")[0].1);
    let fault = ": sqlite:checkpoints.db: the store's file can't be written to
";
    assert!(err(&output).ends_with(fault), "{output:?}");
}

#[test]
fn a_full_disk_loses_nothing_that_was_saved() {
    let folder = TempDir::new().expect("a folder");
    let document = &data("golden")[0].1;
    let large = |number: u32| {
        let state = format!("\"state\": \"{}\"", "x".repeat(20_000));
        document.replace("fx-01-empty-state", &format!("c{number}")).replace("\"state\": {}", &state)
    };
    let lines: String = (0..100).map(|number| large(number) + "\n").collect();
    fs::write(folder.path().join("large.jsonl"), lines).expect("written");
    let script = format!(
        "cp {there}/large.jsonl /tmp/large.$$ && mount -t tmpfs -o size=1m tmpfs {there} && cd {there} && \
         {program} save /tmp/large.$$ > /dev/shm/saved.$$; echo $?; wc -l < /dev/shm/saved.$$; \
         {program} list fx-01 --json --limit 1000 | wc -l; rm /tmp/large.$$ /dev/shm/saved.$$",
        there = folder.path().display(),
        program = program().display()
    );
    let output = in_own_mounts(&script);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let [failed, saved, listed]: [&str; 3] =
        said.split_whitespace().collect::<Vec<_>>().try_into().expect("three lines");
    assert_eq!(failed, "1", "{output:?}");
    assert_eq!(saved, listed, "{output:?}");
    assert!(saved.parse::<u32>().is_ok_and(|saved| saved > 3 && saved < 100), "{output:?}");
    assert!(err(&output).ends_with(": the disk of the store is full\n"), "{output:?}");
}

/// Runs a script that may mount what it likes, and nobody else sees it.
fn in_own_mounts(script: &str) -> Output {
    let output =
        Command::new("unshare").args(["-rm", "sh", "-c", script]).output().expect("unshare is installed");
    assert!(!err(&output).contains("unshare"), "this test needs user namespaces: {output:?}");
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_is_killed_half_way_and_goes_on_over_every_store() {
    let server = RedisServer::start().await;
    let (cluster, _guard) = RedisCluster::shared().await;
    for (store, layout) in [
        ("sqlite:demo.db".to_owned(), "llmfy"),
        (server.url(), "llmfy"),
        (server.url(), "partitioned"),
        (cluster.url(), "partitioned"),
    ] {
        let folder = TempDir::new().expect("a folder");
        let options = ["--store", &store, "--layout", layout];
        for _ in 0..2 {
            let story = out(&run(&folder, &[&options[..], &["demo"]].concat()));
            for part in [
                "✓ step 3: book_train",
                "✗ killed (SIGKILL)",
                "What is left of it: step 3, book_train.",
                "✓ step 4: search_hotels",
                "✓ step 6: write_itinerary",
            ] {
                assert_eq!(story.matches(part).count(), 1, "{part}: {story}");
            }
        }
        let listed = out(&run(&folder, &[&options[..], &["list", "demo-trip-to-lisbon"]].concat()));
        assert_eq!(listed.lines().count(), 7, "{listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_used_if_the_certificate_can_be_trusted() {
    let folder = TempDir::new().expect("a folder");
    let request = [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost",
        "-addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:localhost",
        "-keyout key.pem -out cert.pem",
    ];
    let words = request.iter().flat_map(|line| line.split(' '));
    let made = Command::new("openssl")
        .args(words)
        .current_dir(folder.path())
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
    let port = free_port();
    let [certificate, key] =
        ["cert.pem", "key.pem"].map(|name| folder.path().join(name).display().to_string());
    let _server = RedisServer::start_with_words(&[&format!(
        "--tls-port {port} --tls-cert-file {certificate} --tls-key-file {key} --tls-auth-clients no"
    )])
    .await;
    let golden = data("golden").remove(0).0;
    let save = |host: &str, trusted: &str| {
        let mut save = command(&folder, &["--store", &format!("rediss://{host}:{port}"), "save"]);
        save.arg(&golden).env("SSL_CERT_FILE", trusted).output().expect("the program runs")
    };
    assert!(out(&save("localhost", &certificate)).starts_with("saved fx-01"));
    for (host, trusted) in [("127.0.0.1", certificate.as_str()), ("localhost", "/dev/null")] {
        let refused = save(host, trusted);
        assert_eq!(status(&refused), 1, "{refused:?}");
        assert!(err(&refused).ends_with("the store's certificate can't be trusted\n"), "{refused:?}");
    }
}

#[test]
fn a_session_keeps_no_more_than_max_checkpoints_and_states_are_compressed_if_asked() {
    let folder = TempDir::new().expect("a folder");
    let files = data("agent-chat");
    let mut arguments = vec!["--max-checkpoints", "3", "--compress", "save"];
    // Newest first, so that all after the third are too old to be kept.
    arguments.extend(files.iter().rev().map(|(file, _)| file.to_str().expect("a path")));
    let saved = out(&run(&folder, &arguments));
    assert_eq!(saved.lines().filter(|line| line.starts_with("saved user-123")).count(), 3, "{saved}");
    assert_eq!(saved.lines().filter(|line| line.starts_with("not kept")).count(), 9, "{saved}");
    assert_eq!(out(&run(&folder, &["list", "user-123"])).lines().count(), 4);
    assert!(out(&run(&folder, &["load", "user-123", "--json"])).contains("\"state\": \"eJ"));
    assert!(out(&run(&folder, &["--compress", "load", "user-123"])).contains("\"messages\": ["));
    assert_eq!(status(&run(&folder, &["--max-checkpoints", "0", "list", "s"])), 2);
}

#[test]
fn layouts_are_said_by_name_and_keep_apart() {
    let folder = TempDir::new().expect("a folder");
    let golden = data("golden").remove(0).0;
    let golden = golden.to_str().expect("a path");
    out(&run(&folder, &["--layout", "partitioned", "save", golden]));
    assert_eq!(status(&run(&folder, &["load", "fx-01"])), 3);
    assert_eq!(status(&run(&folder, &["--layout", "llmfy", "load", "fx-01"])), 3);
    assert_eq!(out(&run(&folder, &["clear-all", "--yes"])), "removed 0 checkpoints\n");
    let loaded = out(&run(&folder, &["--layout", "partitioned", "--json", "load", "fx-01"]));
    assert_eq!(loaded.trim_end(), fs::read_to_string(golden).expect("a document").trim_end());
    let cleared = out(&run(&folder, &["--layout", "partitioned", "clear-all", "--yes"]));
    assert_eq!(cleared, "removed 1 checkpoint\n");
    assert_eq!(status(&run(&folder, &["--layout", "other", "load", "fx-01"])), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_in_seconds_is_kept_by_redis() {
    let server = RedisServer::start().await;
    let folder = TempDir::new().expect("a folder");
    let golden = data("golden").remove(0).0;
    let golden = golden.to_str().expect("a path");
    out(&run(&folder, &["--store", &server.url(), "--ttl", "3600", "--prefix", "p:", "save", golden]));
    for key in ["p:checkpoint:fx-01-empty-state", "p:session:fx-01", "p:session:fx-01:run:fx-run-01"] {
        let ttl: i64 = server.command(&["TTL", key]).await;
        assert!((3590..=3600).contains(&ttl), "{key}: {ttl}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_has_no_ttl_until_that_is_ended() {
    let server = RedisServer::start().await;
    let folder = TempDir::new().expect("a folder");
    let golden = data("golden").remove(0).0;
    let golden = golden.to_str().expect("a path");
    let url = server.url();
    let with = |rest: &[&str]| {
        let options = ["--store", &url, "--prefix", "p:", "--session-ttl", "3600", "--refresh-on-read"];
        out(&run(&folder, &[&options[..], rest].concat()))
    };
    with(&["save", golden]);
    let document = "p:checkpoint:fx-01-empty-state";
    assert_eq!(with(&["pin", "fx-01"]), "pinned 1 checkpoint\n");
    with(&["save", golden]);
    assert_eq!(server.command::<i64>(&["TTL", document]).await, -1);
    assert_eq!(with(&["--json", "unpin", "fx-01"]), "{\"unpinned\": 1}\n");
    assert!(server.command::<i64>(&["TTL", document]).await > 3500);
    assert_eq!(with(&["pin", "fx-01", "fx-01-empty-state"]), "pinned 1 checkpoint\n");
    assert_eq!(server.command::<i64>(&["TTL", document]).await, -1);
    assert_eq!(with(&["unpin", "fx-01", "fx-01-empty-state"]), "unpinned 1 checkpoint\n");
    server.command::<i64>(&["EXPIRE", document, "100"]).await;
    with(&["load", "fx-01"]);
    assert!(server.command::<i64>(&["TTL", document]).await > 3500);
}

/// A folder with the sample plugin in it, and a place for what is compiled.
fn with_plugin(plugin: &[u8]) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("agent.wasm"), plugin).expect("a plugin");
    folder
}

fn run_plugin(folder: &TempDir, arguments: &[&str]) -> Output {
    let mut command = command(folder, arguments);
    command.env("CHECKPOINTER_CACHE", folder.path().join("cache")).stdin(Stdio::null());
    command.output().expect("the program runs")
}

#[test]
fn a_plugin_is_run_on_what_is_granted_and_the_command_line_sees_what_it_saved() {
    let folder = with_plugin(plugins::rust());
    assert_eq!(out(&run_plugin(&folder, &["run", "agent.wasm", "--session", "s"])), "1 rust s-1-rust\n");
    // The second time it is not compiled.
    assert_eq!(fs::read_dir(folder.path().join("cache")).expect("a cache").count(), 1);
    let told = out(&run_plugin(&folder, &["run", "agent.wasm", "--input", "step", "--session", "s"]));
    assert_eq!(told, "2 rust s-2-rust\n1 rust s-1-rust\n");
    assert_eq!(fs::read_dir(folder.path().join("cache")).expect("a cache").count(), 1);
    let told = out(&run_plugin(&folder, &["--json", "run", "agent.wasm", "--input", "history s"]));
    assert_eq!(told, "{\"answer\":\"2 rust s-2-rust\\n1 rust s-1-rust\"}\n");
    let latest = out(&run(&folder, &["--json", "load", "s"]));
    assert!(latest.contains("\"state\": {\"count\":2,\"trail\":[\"rust\",\"rust\"]}"), "{latest}");
    // What a plugin gives back as an error is said, and is a failure.
    let failed = run_plugin(&folder, &["run", "agent.wasm"]);
    assert_eq!(status(&failed), 1);
    let usage = "say: SESSION | step SESSION [RUN] | history SESSION";
    assert_eq!(err(&failed), format!("checkpointer: the plugin says: {usage}\n"));
    let failed = run_plugin(&folder, &["--json", "run", "agent.wasm"]);
    assert_eq!(String::from_utf8_lossy(&failed.stdout), format!("{{\"error\":\"{usage}\"}}\n"));
}

#[test]
fn a_file_of_grants_says_what_a_plugin_may_do_and_is_checked() {
    let folder = with_plugin(plugins::rust());
    let grants = "[bucket.default]\nstore = \"sqlite:agents.db\"\nprefix = \"tenant-1/\"\ncheckpoints = 2\n";
    fs::write(folder.path().join("grants.toml"), grants).expect("a file");
    let step = ["run", "agent.wasm", "--grants", "grants.toml", "--input", "step s"];
    out(&run_plugin(&folder, &step));
    assert_eq!(out(&run_plugin(&folder, &step)), "2 rust s-2-rust\n1 rust s-1-rust\n");
    let full = run_plugin(&folder, &step);
    assert_eq!(status(&full), 1);
    let said =
        "checkpointer: the plugin says: the store failed: the bucket is full: it may have 2 checkpoints\n";
    assert_eq!(err(&full), said);
    let prefix = "tenant-1/llmfy_checkpoint:";
    let seen = out(&run(&folder, &["--store", "sqlite:agents.db", "--prefix", prefix, "list", "s"]));
    assert_eq!(seen.lines().count(), 3, "{seen}");

    fs::write(folder.path().join("grants.toml"), "[bucket.default]\nprefix = \"\"\nttl = 1\n")
        .expect("a file");
    let wrong = run_plugin(&folder, &step);
    assert_eq!(status(&wrong), 2);
    assert!(
        err(&wrong).starts_with("checkpointer: grants.toml: line 3, column 1: unknown field `ttl`"),
        "{wrong:?}"
    );
}

#[test]
fn a_check_says_what_a_plugin_wants_and_what_it_would_have() {
    let folder = with_plugin(plugins::rust());
    let grants = "[bucket.default]\nprefix = \"tenant-1/\"\nread-only = true\nresults-per-call = 5\n";
    fs::write(folder.path().join("grants.toml"), grants).expect("a file");
    let told = out(&run_plugin(&folder, &["check", "agent.wasm", "--grants", "grants.toml"]));
    let expected = [
        "imports  flow:checkpoint/types@0.1.0",
        "imports  flow:checkpoint/checkpointer@0.1.0",
        "exports  run",
        "granted  bucket \"default\": sqlite:checkpoints.db, keys that begin with \"tenant-1/\", to read, 5 results a call",
        "fits     the world plugin",
    ];
    assert_eq!(told.lines().skip(1).collect::<Vec<_>>(), expected);

    fs::write(folder.path().join("agent.wasm"), checkpointer::COMPONENT).expect("a plugin");
    let refused = run_plugin(&folder, &["--json", "check", "agent.wasm"]);
    assert_eq!(status(&refused), 1);
    let told: serde_json::Value = serde_json::from_slice(&refused.stdout).expect("JSON");
    assert_eq!(told["fits"], false);
    assert_eq!(told["refused"], serde_json::json!(["flow:checkpoint/keyvalue@0.1.0"]));
    let refused = run_plugin(&folder, &["run", "agent.wasm"]);
    assert_eq!(status(&refused), 1);
    let said =
        "checkpointer: agent.wasm: the plugin imports what it is not given: flow:checkpoint/keyvalue@0.1.0\n";
    assert_eq!(err(&refused), said);
}

#[test]
fn a_plugin_and_the_checkpointer_become_one_file() {
    let folder = with_plugin(plugins::rust());
    let told = out(&run_plugin(&folder, &["--json", "compose", "agent.wasm", "-o", "one.wasm"]));
    let size = fs::metadata(folder.path().join("one.wasm")).expect("a file").len();
    assert_eq!(told, format!("{{\"bytes\":{size},\"output\":\"one.wasm\"}}\n"));
    // It wants the raw store now, which no plugin is given.
    assert_eq!(status(&run_plugin(&folder, &["check", "one.wasm"])), 1);
    let refused = run_plugin(&folder, &["compose", "one.wasm", "-o", "two.wasm"]);
    assert_eq!(status(&refused), 1);
    assert!(!folder.path().join("two.wasm").exists());
}

#[test]
fn what_is_typed_wrong_for_a_plugin_is_told_and_nothing_is_run() {
    let folder = with_plugin(plugins::rust());
    for action in
        [&["run", "agent.wasm"][..], &["check", "agent.wasm"], &["compose", "agent.wasm", "-o", "x"]]
    {
        let refused = run_plugin(&folder, &[&["--prefix", "tenant:"], action].concat());
        assert_eq!(status(&refused), 2);
        let said = "checkpointer: --prefix is not for plugins, which say how they store themselves; \
                    what they reach is said by --grants\n";
        assert_eq!(err(&refused), said);
    }
    fs::write(folder.path().join("text.wasm"), "a text").expect("a file");
    let refused = run_plugin(&folder, &["run", "text.wasm"]);
    assert_eq!(err(&refused), "checkpointer: text.wasm: not a plugin: it is no WebAssembly\n");
    let grants = "[bucket.a]\nstore = \"sqlite:none/a.db\"\nprefix = \"\"\n";
    fs::write(folder.path().join("grants.toml"), grants).expect("a file");
    let refused = run_plugin(&folder, &["run", "agent.wasm", "--grants", "grants.toml"]);
    assert_eq!(status(&refused), 1);
    let said = "checkpointer: bucket \"a\": sqlite:none/a.db: ";
    assert!(err(&refused).starts_with(said), "{refused:?}");
}
