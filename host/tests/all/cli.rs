//! The commands for checkpoints, the options, the stores and the exit status.

use std::fs;
use std::process::Command;

use checkpointer_tests::redis_cluster::RedisCluster;
use checkpointer_tests::redis_server::{RedisServer, free_port};
use checkpointer_tests::samples::data;
use tempfile::TempDir;

use crate::program::{self, Ended, command, run, run_command, run_with_input};

fn folder() -> TempDir {
    TempDir::new().expect("a folder")
}

/// The path of the first golden document, of session fx-01.
fn golden() -> String {
    data("golden").remove(0).0.to_str().expect("UTF-8").to_owned()
}

const FIRST_OF_CHAT: &str = "904f6af0-46f1-4837-9a70-c9adea65a605";

#[test]
fn saved_documents_are_loaded_and_listed_unchanged() {
    let folder = folder();
    let folder = folder.path();
    let files = data("agent-chat");
    let mut arguments = vec!["save"];
    arguments.extend(files.iter().map(|(file, _)| file.to_str().expect("UTF-8")));
    let saved = run(folder, &arguments).success();
    assert_eq!(saved.lines().count(), 12);
    assert!(saved.starts_with(&format!("saved user-123  {FIRST_OF_CHAT}  step 1  main\n")), "{saved}");

    let latest = run(folder, &["latest", "user-123", "--json"]).success();
    assert_eq!(latest.trim_end(), files[11].1);
    let first = run(folder, &["load", "user-123", FIRST_OF_CHAT, "--json"]).success();
    assert_eq!(first.trim_end(), files[0].1);
    let listed = run(folder, &["list", "user-123", "--json", "--limit", "100"]).success();
    let newest_first: Vec<_> = files.iter().rev().map(|(_, document)| document.as_str()).collect();
    assert_eq!(listed.lines().collect::<Vec<_>>(), newest_first);
    assert_eq!(run(folder, &["list", "user-123"]).success().lines().count(), 11);

    // The output of `list` is an input of `save`.
    let copy = ["--store", "sqlite:copy.db"];
    let again = run_with_input(folder, &[&copy[..], &["--json", "save", "-"]].concat(), &listed);
    assert_eq!(again.success().lines().count(), 12);
    let list = ["list", "user-123", "--json", "--limit", "100"];
    assert_eq!(run(folder, &[&copy[..], &list].concat()).success(), listed);

    let run_id = "2ec8fe86-7a8e-42ff-83f3-f2bbe2b4c3f7";
    let of_run = run(folder, &["list", "user-123", "--run", run_id]).success();
    assert_eq!(of_run.lines().count(), 7);
    assert!(of_run.starts_with("TIME  "), "{of_run}");
    for command in [&["latest", "user-123"][..], &["load", "user-123", FIRST_OF_CHAT]] {
        assert!(run(folder, command).success().contains("node        main\n"));
    }
}

#[test]
fn deletions_of_a_checkpoint_a_session_and_a_prefix_are_different_commands() {
    let folder = folder();
    let folder = folder.path();
    let files = data("agent-chat");
    let mut arguments = vec!["save"];
    arguments.extend(files.iter().map(|(file, _)| file.to_str().expect("UTF-8")));
    run(folder, &arguments).success();
    // No missing or additional argument makes one deletion another one.
    for mistake in [
        &["delete-checkpoint", "user-123"][..],
        &["delete-session", "user-123", FIRST_OF_CHAT],
        &["delete-session", "--yes"],
        &["clear-all", "user-123", "--yes"],
        &["delete", "user-123"],
    ] {
        assert_eq!(run(folder, mistake).status, Some(2), "{mistake:?}");
    }
    let delete = run(folder, &["delete-checkpoint", "user-123", FIRST_OF_CHAT]).success();
    assert_eq!(delete, "deleted 1 checkpoint\n");
    assert_eq!(run(folder, &["delete-checkpoint", "user-123", FIRST_OF_CHAT]).status, Some(3));
    let delete = run(folder, &["--json", "delete-session", "user-123", "--yes"]).success();
    assert_eq!(delete, "{\"deleted\":11}\n");
    run(folder, &arguments).success();
    assert_eq!(run(folder, &["clear-all", "--yes"]).success(), "deleted 12 checkpoints\n");
}

#[test]
fn deletion_of_a_session_or_a_prefix_asks_first() {
    let folder = folder();
    let document = golden();
    let script = format!("{} $COMMAND", program::path().display());
    for arguments in ["delete-session fx-01", "clear-all"] {
        run(folder.path(), &["save", &document]).success();
        let without_terminal = run(folder.path(), &arguments.split(' ').collect::<Vec<_>>());
        assert_eq!(without_terminal.status, Some(2), "{without_terminal:?}");
        assert!(without_terminal.err.ends_with("standard input is not a terminal; use --yes\n"));
        for (answer, status, left) in [("n", 1, 0), ("", 1, 0), ("y", 0, 3)] {
            let mut command = Command::new("sh");
            // `script` gives the program a terminal.
            command.args(["-c", &format!("echo {answer} | script -qec '{script}' /dev/null")]);
            command.env("COMMAND", arguments).current_dir(folder.path()).env_remove("CHECKPOINTER_STORE");
            let ended = run_command(command);
            assert_eq!(ended.status, Some(status), "{ended:?}");
            assert!(
                ended.out.contains("delete all checkpoints ") && ended.out.contains("? [y/N]"),
                "{ended:?}"
            );
            assert_eq!(run(folder.path(), &["latest", "fx-01"]).status, Some(left), "{ended:?}");
        }
    }
}

#[test]
fn save_warns_about_a_checkpoint_that_is_not_the_latest() {
    let folder = folder();
    let document = &data("golden")[0].1;
    let later = document.replace("fx-01-empty-state", "later").replace("T03:04:05", "T05:07:05");
    assert_eq!(run_with_input(folder.path(), &["save"], &later).err, "");
    let earlier = run_with_input(folder.path(), &["save"], document);
    assert!(earlier.out.starts_with("saved fx-01  fx-01-empty-state  "), "{earlier:?}");
    let warning =
        "checkpointer: saved fx-01 fx-01-empty-state, but later is newer by 2h 3m; the clock may be behind\n";
    assert_eq!(earlier.err, warning);
    let json = run_with_input(folder.path(), &["--json", "save"], document);
    assert_eq!(json.err, "");
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&json.out).expect("JSON"),
        serde_json::json!({
            "session_id": "fx-01", "checkpoint_id": "fx-01-empty-state", "outcome": "not-latest",
            "latest_id": "later", "behind_ms": 7_380_000,
        })
    );
    let same_time = later.replace("later", "earlier id");
    let same_time = run_with_input(folder.path(), &["save"], &same_time).err;
    assert!(same_time.ends_with("but later has the same timestamp and a greater id\n"), "{same_time}");
}

#[test]
fn exit_status_tells_success_failure_usage_error_and_not_found_apart() {
    let folder = folder();
    for (arguments, expected) in [
        (&["list", "s"][..], 0),
        (&["latest", "s"], 3),
        (&["load", "s", "c"], 3),
        (&["delete-checkpoint", "s", "c"], 3),
        (&["delete-session", "s", "--yes"], 3),
        (&["--json", "delete-checkpoint", "s", "c"], 3),
        (&["pin-checkpoint", "s", "c"], 3),
        (&["unpin-checkpoint", "s", "c"], 3),
        (&["pin-session", "s"], 0),
        (&["unpin-session", "s"], 0),
        (&["frobnicate"], 2),
        (&["load"], 2),
        (&["load", "s"], 2),
        (&["latest", "s", "c"], 2),
        (&["latest", ""], 2),
        (&["pin-checkpoint", "s"], 2),
        (&["delete-session", "s"], 2),
        (&["list", "s", "--limit", "0"], 2),
        (&["--prefix", "", "list", "s"], 2),
        (&["--ttl", "0", "list", "s"], 2),
        (&["--ttl", "-1", "list", "s"], 2),
        (&["--ttl", "1.5", "list", "s"], 2),
        (&["--ttl", "9223372036854775807", "list", "s"], 2),
        (&["--session-ttl", "0", "list", "s"], 2),
        (&["--session-ttl", "5", "--ttl", "5", "list", "s"], 2),
        (&["--max-checkpoints", "0", "list", "s"], 2),
        (&["--layout", "other", "list", "s"], 2),
        (&["--store", "postgres://localhost", "list", "s"], 2),
        (&["clear-all"], 2),
        (&["--store", "sqlite:/nowhere/x.db", "list", "s"], 1),
        (&["save", "nowhere.json"], 1),
        (&["--help"], 0),
        (&["--version"], 0),
    ] {
        let ended = run(folder.path(), arguments);
        assert_eq!(ended.status, Some(expected), "{arguments:?}: {ended:?}");
        if expected != 0 {
            assert_eq!(ended.out, "", "{arguments:?}");
            assert!(!ended.err.is_empty(), "{arguments:?}");
        }
    }
}

#[test]
fn invalid_document_is_named_by_file_and_line() {
    let folder = folder();
    let folder = folder.path();
    let good = &data("golden")[0].1;
    let lines = format!("{good}\n{}\n", good.replace("2026", "soon"));
    fs::write(folder.join("two.jsonl"), lines).expect("written");
    let ended = run(folder, &["save", "two.jsonl"]);
    assert_eq!(ended.status, Some(2));
    assert!(ended.err.starts_with("checkpointer: two.jsonl, line 2: "), "{ended:?}");
    assert!(ended.err.contains("\"soon-01-02T03:04:05.123456+00:00\""), "{ended:?}");
    assert!(run(folder, &["latest", "fx-01"]).success().contains("fx-01-empty-state"));
    assert_eq!(run_with_input(folder, &["save"], "").status, Some(2));
    assert_eq!(run_with_input(folder, &["save"], "{\"a\":\n").status, Some(2));
}

#[test]
fn store_is_that_of_the_option_or_the_variable_or_the_default_file() {
    let folder = folder();
    let save = |arguments: &[&str]| {
        let mut command = command(folder.path(), arguments);
        command.args(["save", &golden()]).env("CHECKPOINTER_STORE", "sqlite:environment.db");
        run_command(command).success();
    };
    save(&[]);
    assert!(folder.path().join("environment.db").exists());
    save(&["--store", "sqlite:option.db"]);
    assert!(folder.path().join("option.db").exists());
    run(folder.path(), &["list", "s"]).success();
    assert!(folder.path().join("checkpoints.db").exists());
}

#[test]
fn passwords_are_never_printed() {
    let folder = folder();
    let with_host = |host: &str| format!("redis://ann:hunter2@127.0.0.1:{host}");
    for store in [
        with_host(&free_port().to_string()),
        with_host("x"),
        with_host("1/x"),
        "redis+unix:///no?password=hunter2".to_owned(),
    ] {
        for arguments in [
            &["list", "s"][..],
            &["clear-all"],
            &["delete-session", "s"],
            &["--help"],
            &["save", "--help"],
            &["copy", "--help"],
        ] {
            let mut command = command(folder.path(), arguments);
            for variable in ["STORE", "FROM", "TO"] {
                command.env(format!("CHECKPOINTER_{variable}"), &store);
            }
            let Ended { out, err, .. } = run_command({
                command.env("CHECKPOINTER_LOG", "trace");
                command
            });
            assert!(!out.contains("hunter2") && !err.contains("hunter2"), "{arguments:?}: {out}{err}");
        }
    }
}

#[test]
fn store_errors_have_the_address_and_the_cause() {
    let folder = folder();
    let port = free_port();
    let [redis, cluster] =
        ["redis", "redis-cluster"].map(|scheme| format!("{scheme}://ann:hunter2@127.0.0.1:{port}"));
    fs::write(folder.path().join("text.db"), "text ".repeat(1000)).expect("written");
    for (store, address, cause) in [
        (redis.as_str(), format!("127.0.0.1:{port}"), "Connection refused"),
        (&cluster, format!("127.0.0.1:{port}"), "Connection refused"),
        ("redis://nowhere.invalid", "nowhere.invalid:6379".to_owned(), "failed to lookup address"),
        ("sqlite:/nowhere/x.db", "/nowhere/x.db".to_owned(), "Error code 14"),
        ("sqlite:text.db", "text.db".to_owned(), "Error code 26"),
    ] {
        let failed = run(folder.path(), &["--store", store, "--layout", "partitioned", "list", "s"]);
        assert_eq!((failed.status, failed.out.as_str()), (Some(1), ""), "{failed:?}");
        assert!(failed.err.contains(&address), "{failed:?}");
        assert_eq!(failed.err.matches(cause).count(), 1, "{failed:?}");
    }
}

#[test]
fn read_only_file_is_read_and_a_write_fails() {
    let folder = folder();
    let golden = golden();
    run(folder.path(), &["save", &golden]).success();
    // A read-only mount also refuses writes of root.
    let file = folder.path().join("checkpoints.db");
    let script = format!(
        "mount --bind {file} {file} && mount -o remount,bind,ro {file} && cd {folder} && \
         {program} latest fx-01 --json && {program} save {golden}",
        file = file.display(),
        folder = folder.path().display(),
        program = program::path().display(),
    );
    let ended = run_in_own_mounts(&script);
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert_eq!(ended.out.trim_end(), data("golden")[0].1);
    assert!(ended.err.contains("the file of the store is read-only"), "{ended:?}");
}

#[test]
fn full_disk_loses_no_saved_checkpoint() {
    let folder = folder();
    let document = &data("golden")[0].1;
    let large = |number: u32| {
        let state = format!("\"state\": \"{}\"", "x".repeat(20_000));
        document.replace("fx-01-empty-state", &format!("c{number}")).replace("\"state\": {}", &state)
    };
    let lines: String = (0..100).map(|number| large(number) + "\n").collect();
    fs::write(folder.path().join("large.jsonl"), lines).expect("written");
    let script = format!(
        "cp {folder}/large.jsonl /tmp/large.$$ && mount -t tmpfs -o size=1m tmpfs {folder} && cd {folder} && \
         {program} save /tmp/large.$$ > /dev/shm/saved.$$; echo $?; grep -c ^saved /dev/shm/saved.$$; \
         {program} list fx-01 --json --limit 1000 | wc -l; rm /tmp/large.$$ /dev/shm/saved.$$",
        folder = folder.path().display(),
        program = program::path().display()
    );
    let ended = run_in_own_mounts(&script);
    let numbers: Vec<u32> =
        ended.out.split_whitespace().map(|word| word.parse().expect("a number")).collect();
    let [status, saved, listed] = numbers[..] else { panic!("{ended:?}") };
    assert_eq!(status, 1, "{ended:?}");
    assert_eq!(saved, listed, "{ended:?}");
    assert!(saved > 3 && saved < 100, "{ended:?}");
    assert!(ended.err.contains("the disk of the store is full"), "{ended:?}");
}

/// Runs a script in a mount namespace of its own, as root of a user namespace.
fn run_in_own_mounts(script: &str) -> Ended {
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script]);
    let ended = run_command(command);
    assert!(!ended.err.contains("unshare"), "this test needs user namespaces: {ended:?}");
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_resumes_after_a_kill_over_every_store() {
    let server = RedisServer::start().await;
    let (cluster, _guard) = RedisCluster::shared().await;
    for (store, layout) in [
        ("sqlite:demo.db".to_owned(), "llmfy"),
        (server.url(), "llmfy"),
        (server.url(), "partitioned"),
        (cluster.url(), "partitioned"),
    ] {
        let folder = folder();
        let options = ["--store", &store, "--layout", layout];
        for _ in 0..2 {
            let story = run(folder.path(), &[&options[..], &["demo"]].concat()).success();
            for part in [
                "✓ step 3: book_train",
                "✗ killed (SIGKILL)",
                "The latest checkpoint: step 3, book_train.",
                "✓ step 4: search_hotels",
                "✓ step 6: write_itinerary",
            ] {
                assert_eq!(story.matches(part).count(), 1, "{part}: {story}");
            }
        }
        let listed = run(folder.path(), &[&options[..], &["list", "demo-trip-to-lisbon"]].concat()).success();
        assert_eq!(listed.lines().count(), 7, "{listed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_used_with_a_trusted_certificate_only() {
    let folder = folder();
    let request = [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost",
        "-addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:localhost",
        "-keyout key.pem -out cert.pem",
    ];
    let mut openssl = Command::new("openssl");
    openssl.args(request.iter().flat_map(|line| line.split(' '))).current_dir(folder.path());
    run_command(openssl).success();
    let port = free_port();
    let [certificate, key] =
        ["cert.pem", "key.pem"].map(|name| folder.path().join(name).display().to_string());
    let _server = RedisServer::start_with_words(&[&format!(
        "--tls-port {port} --tls-cert-file {certificate} --tls-key-file {key} --tls-auth-clients no"
    )])
    .await;
    let save = |host: &str, trusted: &str| {
        let store = format!("rediss://{host}:{port}");
        let mut command = command(folder.path(), &["--store", &store, "save", &golden()]);
        command.env("SSL_CERT_FILE", trusted);
        run_command(command)
    };
    assert!(save("localhost", &certificate).success().starts_with("saved fx-01"));
    for (host, trusted) in [("127.0.0.1", certificate.as_str()), ("localhost", "/dev/null")] {
        let refused = save(host, trusted);
        assert_eq!(refused.status, Some(1), "{refused:?}");
        assert!(refused.err.contains("the certificate of the store is not trusted"), "{refused:?}");
    }
}

#[test]
fn max_checkpoints_prunes_and_compress_compresses() {
    let folder = folder();
    let folder = folder.path();
    let files = data("agent-chat");
    let mut arguments = vec!["--max-checkpoints", "3", "--compress", "save"];
    // Newest first: all after the third are older than the kept ones.
    arguments.extend(files.iter().rev().map(|(file, _)| file.to_str().expect("UTF-8")));
    let saved = run(folder, &arguments).success();
    assert_eq!(saved.lines().filter(|line| line.starts_with("saved user-123")).count(), 3, "{saved}");
    assert_eq!(saved.lines().filter(|line| line.starts_with("not saved, older than")).count(), 9, "{saved}");
    assert_eq!(run(folder, &["list", "user-123"]).success().lines().count(), 4);
    assert!(run(folder, &["latest", "user-123", "--json"]).success().contains("\"state\": \"eJ"));
    assert!(run(folder, &["--compress", "latest", "user-123"]).success().contains("\"messages\": ["));
    let pruned = run(folder, &["--max-checkpoints", "3", "--json", "save", arguments[6]]).success();
    assert!(pruned.contains("\"outcome\":\"latest\"") || pruned.contains("\"outcome\":\"not-latest\""));
    let pruned = run(folder, &["--max-checkpoints", "3", "--json", "save", arguments[15]]).success();
    assert!(pruned.contains("\"outcome\":\"pruned\""), "{pruned}");
}

#[test]
fn checkpoints_of_one_layout_are_not_visible_in_the_other() {
    let folder = folder();
    let folder = folder.path();
    let golden = golden();
    run(folder, &["--layout", "partitioned", "save", &golden]).success();
    assert_eq!(run(folder, &["latest", "fx-01"]).status, Some(3));
    assert_eq!(run(folder, &["--layout", "llmfy", "latest", "fx-01"]).status, Some(3));
    assert_eq!(run(folder, &["clear-all", "--yes"]).success(), "deleted 0 checkpoints\n");
    let loaded = run(folder, &["--layout", "partitioned", "--json", "latest", "fx-01"]).success();
    assert_eq!(loaded.trim_end(), fs::read_to_string(golden).expect("a document").trim_end());
    let cleared = run(folder, &["--layout", "partitioned", "clear-all", "--yes"]).success();
    assert_eq!(cleared, "deleted 1 checkpoint\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn ttl_option_is_the_ttl_of_all_keys_in_redis() {
    let server = RedisServer::start().await;
    let folder = folder();
    let arguments = ["--store", &server.url(), "--ttl", "3600", "--prefix", "p:", "save", &golden()];
    run(folder.path(), &arguments).success();
    for key in ["p:checkpoint:fx-01-empty-state", "p:session:fx-01", "p:session:fx-01:run:fx-run-01"] {
        let ttl: i64 = server.command(&["TTL", key]).await;
        assert!((3590..=3600).contains(&ttl), "{key}: {ttl}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_checkpoints_have_no_ttl_until_they_are_unpinned() {
    let server = RedisServer::start().await;
    let (folder, url, golden) = (folder(), server.url(), golden());
    let run = |arguments: &[&str]| {
        let options = ["--store", &url, "--prefix", "p:", "--session-ttl", "3600", "--refresh-on-read"];
        run(folder.path(), &[&options[..], arguments].concat()).success()
    };
    let document = "p:checkpoint:fx-01-empty-state";
    let ttl = async || server.command::<i64>(&["TTL", document]).await;
    run(&["save", &golden]);
    assert_eq!(run(&["pin-session", "fx-01"]), "pinned 1 checkpoint\n");
    run(&["save", &golden]);
    assert_eq!(ttl().await, -1);
    assert_eq!(run(&["--json", "unpin-session", "fx-01"]), "{\"unpinned\":1}\n");
    assert!(ttl().await > 3500);
    assert_eq!(run(&["pin-checkpoint", "fx-01", "fx-01-empty-state"]), "pinned 1 checkpoint\n");
    assert_eq!(ttl().await, -1);
    assert_eq!(run(&["unpin-checkpoint", "fx-01", "fx-01-empty-state"]), "unpinned 1 checkpoint\n");
    server.command::<i64>(&["EXPIRE", document, "100"]).await;
    run(&["latest", "fx-01"]);
    assert!(ttl().await > 3500);
}
