//! The component and the real llmfy over one redis-server, in both directions.

use std::time::{Duration, Instant};

use checkpointer::{Checkpoint, Run};
use checkpointer_tests::checkpointer_under_test::{CheckpointerUnderTest, Mode, Options};
use checkpointer_tests::contract::redis_store;
use checkpointer_tests::llmfy::{FORMATS, Format, Llmfy, take_turn};
use checkpointer_tests::redis_server::RedisServer;
use checkpointer_tests::samples::{checkpoint, plain, with_state};
use serde_json::json;
use tempfile::TempDir;

/// The component over a server.
async fn component(server: &RedisServer, options: &Options) -> CheckpointerUnderTest {
    CheckpointerUnderTest::open(Mode::Component, redis_store(&server.url()), options)
        .await
        .expect("a checkpointer")
}

/// A server with the component and llmfy.
async fn beside(format: Format) -> (RedisServer, CheckpointerUnderTest, Llmfy) {
    let server = RedisServer::start().await;
    let component = component(&server, &Options::default()).await;
    let llmfy = Llmfy::start(format, &server.url()).await;
    (server, component, llmfy)
}

/// A checkpoint in this format.
fn sample(format: Format, session: &str, id: &str, second: u32) -> Checkpoint {
    match format {
        Format::A => plain(session, id, second),
        Format::B => checkpoint(session, id, "r", second),
    }
}

/// Three checkpoints of one session, oldest first.
fn three(format: Format, session: &str) -> [Checkpoint; 3] {
    [1, 2, 3].map(|second| sample(format, session, &format!("{session}-{second}"), second))
}

/// The checkpoints of a run; none in the format without runs.
fn of_run<T, const COUNT: usize>(format: Format, checkpoints: [T; COUNT]) -> Vec<T> {
    if format == Format::A { Vec::new() } else { Vec::from(checkpoints) }
}

fn sample_with_state(format: Format, id: &str, state: &str) -> Checkpoint {
    with_state(sample(format, "s", id, 1), state)
}

async fn save(component: &CheckpointerUnderTest, checkpoint: &Checkpoint) {
    component.save(checkpoint).await.expect("saved");
}

async fn load(component: &CheckpointerUnderTest, session: &str, id: Option<&str>) -> Option<Checkpoint> {
    let loaded = match id {
        Some(id) => component.load(session, id).await,
        None => component.latest(session).await,
    };
    loaded.expect("a checkpoint or none")
}

/// Returns the number of deleted checkpoints.
async fn delete(component: &CheckpointerUnderTest, session: &str, id: Option<&str>) -> u64 {
    let deleted = match id {
        Some(id) => component.delete_checkpoint(session, id).await.map(u64::from),
        None => component.delete_session(session).await,
    };
    deleted.expect("deleted")
}

async fn wait_until_gone(server: &RedisServer, key: &str) {
    let start = Instant::now();
    while server.command::<bool>(&["EXISTS", key]).await {
        assert!(start.elapsed() < Duration::from_secs(10), "{key} does not expire");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The remaining TTL of a key in seconds; -1 if it never expires.
async fn seconds_left(server: &RedisServer, key: &str) -> i64 {
    server.command(&["TTL", key]).await
}

mod beside_llmfy {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_component_reads_checkpoints_of_llmfy() {
        for format in FORMATS {
            let (_server, component, mut llmfy) = beside(format).await;
            let [first, second, third] = three(format, "s");
            for checkpoint in [&second, &third, &first] {
                llmfy.save(checkpoint).await;
            }
            assert_eq!(load(&component, "s", Some("s-2")).await, Some(second.clone()));
            assert_eq!(load(&component, "s", None).await, Some(third.clone()));
            assert_eq!(load(&component, "s", Some("none")).await, None);
            let newest = component.list("s", Some(2)).await.expect("a history");
            assert_eq!(
                (newest.checkpoints, newest.unreadable),
                (vec![third.clone(), second.clone()], vec![])
            );
            let run = component.list_by_run("s", "r", None).await.expect("a history");
            let expected = of_run(format, [third, second, first]);
            assert_eq!((run.checkpoints, run.unreadable), (expected, vec![]));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn llmfy_reads_checkpoints_of_the_component() {
        for format in FORMATS {
            let (_server, component, mut llmfy) = beside(format).await;
            let [first, second, third] = three(format, "s");
            for checkpoint in [&second, &third, &first] {
                save(&component, checkpoint).await;
            }
            assert_eq!(llmfy.load("s", Some("s-2")).await, Some(second.clone()));
            assert_eq!(llmfy.load("s", None).await, Some(third.clone()));
            assert_eq!(llmfy.load("s", Some("none")).await, None);
            assert_eq!(llmfy.list_at_most("s", 2).await, [third.clone(), second.clone()]);
            if format == Format::B {
                assert_eq!(llmfy.list_by_run("s", "r").await, [third, second, first]);
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_component_deletes_checkpoints_of_llmfy() {
        for format in FORMATS {
            let (server, component, mut llmfy) = beside(format).await;
            llmfy.save(&sample(format, "other", "o", 1)).await;
            let without_session = server.keyspace().await;
            let [first, second, third] = three(format, "s");
            llmfy.save(&first).await;
            llmfy.save(&third).await;
            let without_second = server.keyspace().await;
            llmfy.save(&second).await;

            assert_eq!(delete(&component, "s", Some("s-2")).await, 1);
            assert_eq!(server.keyspace().await, without_second);
            assert_eq!(llmfy.ids("s").await, ["s-3", "s-1"]);
            assert_eq!(delete(&component, "s", None).await, 2);
            assert_eq!(server.keyspace().await, without_session);
            assert_eq!(llmfy.load("s", None).await, None);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn llmfy_deletes_checkpoints_of_the_component() {
        for format in FORMATS {
            let (server, component, mut llmfy) = beside(format).await;
            save(&component, &sample(format, "other", "o", 1)).await;
            let without_session = server.keyspace().await;
            let [first, second, third] = three(format, "s");
            save(&component, &first).await;
            save(&component, &third).await;
            let without_second = server.keyspace().await;
            save(&component, &second).await;

            llmfy.delete("s", Some("s-2")).await;
            assert_eq!(server.keyspace().await, without_second);
            assert_eq!(component.ids("s", 10).await, ["s-3", "s-1"]);
            llmfy.delete("s", None).await;
            assert_eq!(server.keyspace().await, without_session);
            assert_eq!(component.latest_id("s").await, None);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn both_clear_exactly_the_checkpoints_under_the_prefix() {
        for format in FORMATS {
            let (server, component, mut llmfy) = beside(format).await;
            server.command::<()>(&["SET", "llmfy:checkpoint:c", "another application's"]).await;
            let without_checkpoints = server.keyspace().await;
            for session in ["s", "t"] {
                for checkpoint in three(format, session) {
                    llmfy.save(&checkpoint).await;
                }
            }
            assert_eq!(component.clear_all().await.expect("cleared"), 6);
            assert_eq!(server.keyspace().await, without_checkpoints);
            assert_eq!(llmfy.ids("s").await, [""; 0]);

            for session in ["s", "t"] {
                for checkpoint in three(format, session) {
                    save(&component, &checkpoint).await;
                }
            }
            llmfy.clear_all().await;
            assert_eq!(server.keyspace().await, without_checkpoints);
            assert_eq!(component.ids("s", 10).await, [""; 0]);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_component_writes_the_keys_bytes_and_scores_of_llmfy() {
        let timestamps = [
            "2026-01-02T03:04:05+00:00",
            "2026-01-02T03:04:05.123456+00:00",
            "2026-01-02T03:04:05.100000+00:00",
            "2026-01-02T03:04:05.000001-03:30:15",
            "2026-01-02T03:04:05.999999+07:00",
            "1969-12-31T23:59:59.999999+00:00",
            "2026-01-02T03:04:05.000006",
        ];
        let mut long_run = Run::new("r:2");
        long_run.prev_node = "vor\u{7f}her \"\\".to_owned();
        long_run.dispatch_id = Some("verteilt \u{1f600}".to_owned());
        for format in FORMATS {
            let (server, component, mut llmfy) = beside(format).await;
            let mut checkpoints = Vec::new();
            for (number, timestamp) in timestamps.iter().enumerate() {
                let mut checkpoint = sample(format, "s", &format!("c{number}"), 1);
                checkpoint.metadata.timestamp = timestamp.parse().expect("a timestamp");
                checkpoints.push(checkpoint);
            }
            let mut odd = sample(format, "s\u{e9}ance: 1", "\u{4f60}\u{597d}", 1);
            odd.metadata.node = "n\u{e4}chster\n".to_owned();
            odd.metadata.step = -7;
            odd.metadata.run = odd.metadata.run.map(|_| long_run.clone());
            odd.state =
                r#"{"\u00e9": ["\ud83d\ude00\u007f\\\"\n", 1.0, 1e-07, -0.0, null, true]}"#.to_owned();
            checkpoints.push(odd);

            for checkpoint in &checkpoints {
                llmfy.save(checkpoint).await;
            }
            let by_llmfy = server.keyspace().await;
            assert_eq!(by_llmfy.len(), if format == Format::A { 10 } else { 12 });
            server.command::<()>(&["FLUSHALL"]).await;
            for checkpoint in &checkpoints {
                save(&component, checkpoint).await;
            }
            assert_eq!(server.keyspace().await, by_llmfy);
            for checkpoint in checkpoints {
                let metadata = &checkpoint.metadata;
                let (session, id) = (metadata.session_id.clone(), metadata.checkpoint_id.clone());
                assert_eq!(llmfy.load(&session, Some(&id)).await, Some(checkpoint));
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_session_written_by_both_is_newest_first_in_both() {
        for format in FORMATS {
            let (_server, component, mut llmfy) = beside(format).await;
            // The last two have equal timestamps: the greater id is newer.
            for (id, second) in [("c1", 1), ("c4", 4), ("c3", 3), ("c2", 2), ("c6", 6), ("c5", 6)] {
                let checkpoint = sample(format, "s", id, second);
                if ["c1", "c3", "c6"].contains(&id) {
                    llmfy.save(&checkpoint).await;
                } else {
                    save(&component, &checkpoint).await;
                }
                assert_eq!(llmfy.load("s", None).await, load(&component, "s", None).await);
            }
            assert_eq!(llmfy.ids("s").await, ["c6", "c5", "c4", "c3", "c2", "c1"]);
            assert_eq!(component.ids("s", 10).await, ["c6", "c5", "c4", "c3", "c2", "c1"]);

            // Each saves the checkpoint of the other again.
            llmfy.save(&sample(format, "s", "c2", 8)).await;
            save(&component, &sample(format, "s", "c1", 9)).await;
            let listed = llmfy.list("s").await;
            assert_eq!(listed[0], sample(format, "s", "c1", 9));
            assert_eq!(listed[1], sample(format, "s", "c2", 8));
            assert_eq!(component.list("s", None).await.expect("a history").checkpoints, listed);
            assert_eq!(llmfy.ids("s").await, ["c1", "c2", "c6", "c5", "c4", "c3"]);
            if format == Format::B {
                assert_eq!(llmfy.list_by_run("s", "r").await, listed);
                assert_eq!(component.ids_of_run("s", "r").await, ["c1", "c2", "c6", "c5", "c4", "c3"]);
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_component_lists_and_deletes_both_formats_in_one_session() {
        let (server, component, mut old) = beside(Format::A).await;
        let mut new = Llmfy::start(Format::B, &server.url()).await;
        let by_old = sample(Format::A, "s", "old", 1);
        let by_new = sample(Format::B, "s", "new", 2);
        let (plain, of_run) = (plain("s", "plain", 3), checkpoint("s", "of run", "r", 4));
        old.save(&by_old).await;
        new.save(&by_new).await;
        save(&component, &plain).await;
        save(&component, &of_run).await;

        let history = component.list("s", None).await.expect("a history");
        assert_eq!(history.checkpoints, [of_run.clone(), plain.clone(), by_new.clone(), by_old.clone()]);
        assert_eq!(history.unreadable, []);
        assert_eq!(component.ids_of_run("s", "r").await, ["of run", "new"]);
        assert_eq!(old.load("s", Some("plain")).await, Some(plain));
        assert_eq!(new.list_by_run("s", "r").await, [of_run, by_new]);
        assert_eq!(delete(&component, "s", None).await, 4);
        assert_eq!(server.keyspace().await, []);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn states_of_python_are_unchanged_by_the_component() {
        let states = [
            "{}".to_owned(),
            r#"{"numbers": [NaN, Infinity, -Infinity, -0.0, 0, 1, 1.0, 1e-07, 1e+16, 5e-324]}"#.to_owned(),
            r#"{"text": "\u00e9 \u4f60\u597d \ud83d\ude00 \u0000\u001f\u007f \\ \" / \b\f\n\r\t"}"#
                .to_owned(),
            r#"{"alone": "\ud800", "\udfff": ["\udc00\ud800", "\ud83d"]}"#.to_owned(),
            format!(r#"{{"big": [-18446744073709551617, {}]}}"#, "9".repeat(4000)),
            format!(r#"{{"deep": {}{}}}"#, "[".repeat(400), "]".repeat(400)),
            r#"{"zz": 1, "a": {"1": null, "": true}, "m": [[], {}]}"#.to_owned(),
        ];
        for format in FORMATS {
            let (_server, component, mut llmfy) = beside(format).await;
            for (number, state) in states.iter().enumerate() {
                let by_llmfy = sample_with_state(format, &format!("llmfy-{number}"), state);
                llmfy.save(&by_llmfy).await;
                let loaded = load(&component, "s", Some(&by_llmfy.metadata.checkpoint_id)).await;
                assert_eq!(loaded.as_ref(), Some(&by_llmfy));

                let again = sample_with_state(format, &format!("component-{number}"), &by_llmfy.state);
                save(&component, &again).await;
                let id = again.metadata.checkpoint_id.clone();
                assert_eq!(llmfy.load("s", Some(&id)).await, Some(again));
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn llmfy_reads_states_in_other_json_spellings() {
        for format in FORMATS {
            let (_server, component, mut llmfy) = beside(format).await;
            let state = " {\"\u{e9}\":\t[1E2,\"\u{1f600}\\/\"] } ";
            save(&component, &sample_with_state(format, "c", state)).await;
            let loaded = llmfy.load("s", None).await.expect("a checkpoint");
            assert_eq!(loaded.state, r#"{"\u00e9": [100.0, "\ud83d\ude00/"]}"#);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_state_that_names_a_class_is_text_to_the_component() {
        let (server, component, mut llmfy) = beside(Format::A).await;
        let folder = TempDir::new().expect("a temporary folder");
        let mark = folder.path().join("was called");
        // llmfy 0.10.1 would call os.mkdir.
        let call = format!(
            r#"{{"__type__": "mkdir", "__module__": "os", "data": {{"path": "{}"}}}}"#,
            mark.display()
        );
        let hostile = sample_with_state(Format::A, "c", &format!(r#"{{"call": {call}}}"#));
        llmfy.save(&hostile).await;
        assert_eq!(load(&component, "s", None).await.as_ref(), Some(&hostile));
        assert_eq!(component.ids("s", 10).await, ["c"]);
        save(&component, &hostile).await;
        assert_eq!(load(&component, "s", Some("c")).await, Some(hostile));
        assert!(!mark.exists());

        // The state is executable for llmfy, and the component does not change that.
        let loaded = llmfy.load("s", None).await.expect("a checkpoint");
        assert_eq!(loaded.state, r#"{"call": null}"#);
        assert!(mark.exists());
        assert_eq!(delete(&component, "s", None).await, 1);
        assert_eq!(server.keyspace().await, []);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn checkpoints_expired_by_llmfy_are_none_for_the_component() {
        for format in FORMATS {
            let (server, component, _) = beside(format).await;
            let mut short = Llmfy::start_with(format, &server.url(), json!({ "ttl": 2 })).await;
            short.save(&sample(format, "s", "short", 2)).await;
            save(&component, &sample(format, "s", "lasting", 1)).await;
            assert_eq!(component.ids("s", 10).await, ["short", "lasting"]);
            wait_until_gone(&server, "llmfy_checkpoint:checkpoint:short").await;
            assert_eq!(load(&component, "s", Some("short")).await, None);
            assert_eq!(component.latest_id("s").await.as_deref(), Some("lasting"));
            assert_eq!(component.ids("s", 10).await, ["lasting"]);
            assert_eq!(component.ids_of_run("s", "r").await, of_run(format, ["lasting"]));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn checkpoints_expired_by_the_component_hide_no_others_from_llmfy() {
        for format in FORMATS {
            let (server, component, mut llmfy) = beside(format).await;
            let short = super::component(&server, &Options::ttl_ms(2000)).await;
            let lasting = sample(format, "s", "lasting", 1);
            llmfy.save(&lasting).await;
            let before = server.keyspace().await;
            save(&short, &sample(format, "s", "short", 2)).await;
            assert_eq!(llmfy.ids("s").await, ["short", "lasting"]);
            wait_until_gone(&server, "llmfy_checkpoint:checkpoint:short").await;
            // Until the dangling entries are removed by a read of the component, llmfy
            // finds no checkpoint in the session.
            assert_eq!(component.latest_id("s").await.as_deref(), Some("lasting"));
            assert_eq!(component.ids_of_run("s", "r").await, of_run(format, ["lasting"]));
            assert_eq!(server.keyspace().await, before);
            assert_eq!(llmfy.load("s", None).await, Some(lasting));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_ttl_is_written_like_llmfy_does_and_never_shortens_an_index() {
        for format in FORMATS {
            let (server, lasting, _) = beside(format).await;
            let mut llmfy = Llmfy::start_with(format, &server.url(), json!({ "ttl": 100 })).await;
            let shorter = component(&server, &Options::ttl_ms(50_000)).await;
            let same = component(&server, &Options::ttl_ms(100_000)).await;
            let index = "llmfy_checkpoint:session:s";

            llmfy.save(&sample(format, "s", "by llmfy", 1)).await;
            save(&same, &sample(format, "t", "by the component", 1)).await;
            for (key, _, _) in server.keyspace().await {
                let seconds = seconds_left(&server, &key).await;
                assert!((90..=100).contains(&seconds), "{key} expires in {seconds} seconds");
            }
            save(&shorter, &sample(format, "s", "shorter", 2)).await;
            let seconds = seconds_left(&server, "llmfy_checkpoint:checkpoint:shorter").await;
            assert!((40..=50).contains(&seconds), "{seconds}");
            assert!(seconds_left(&server, index).await >= 90);
            save(&lasting, &sample(format, "s", "lasting", 3)).await;
            assert_eq!(seconds_left(&server, "llmfy_checkpoint:checkpoint:lasting").await, -1);
            assert_eq!(seconds_left(&server, index).await, -1);
            assert!(seconds_left(&server, "llmfy_checkpoint:checkpoint:by llmfy").await >= 90);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_state_compressed_by_llmfy_is_unchanged_by_the_component() {
        let (server, component, _) = beside(Format::B).await;
        let mut llmfy = Llmfy::start_with(Format::B, &server.url(), json!({ "compress": true })).await;
        let saved = sample_with_state(Format::B, "c", r#"{"text": "\u00e9\ud800", "number": NaN}"#);
        llmfy.save(&saved).await;
        let document = server.keyspace().await;
        let loaded = load(&component, "s", None).await.expect("a checkpoint");
        assert!(loaded.state.starts_with("\"eJ"), "{}", loaded.state);
        assert_eq!(delete(&component, "s", None).await, 1);
        save(&component, &loaded).await;
        assert_eq!(server.keyspace().await, document);
        assert_eq!(llmfy.load("s", None).await, Some(saved));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn both_read_states_compressed_by_the_other() {
        let (server, _, _) = beside(Format::B).await;
        let mut llmfy = Llmfy::start_with(Format::B, &server.url(), json!({ "compress": true })).await;
        let component = component(&server, &Options { compress: true, ..Options::default() }).await;
        let long = format!(r#"{{"text": "\u00e9\ud800{}", "number": NaN}}"#, "again and ".repeat(10_000));
        let [mut first, mut second, mut third] = three(Format::B, "s");
        (first.state, second.state, third.state) = (long.clone(), long, "{}".to_owned());
        llmfy.save(&first).await;
        save(&component, &second).await;
        save(&component, &third).await;
        for id in ["s-1", "s-2"] {
            let key = format!("llmfy_checkpoint:checkpoint:{id}");
            assert!(server.command::<u64>(&["STRLEN", &key]).await < 1000, "{id} is not compressed");
        }
        let newest_first = [third, second, first];
        assert_eq!(llmfy.list("s").await, newest_first);
        assert_eq!(component.list("s", None).await.expect("a history").checkpoints, newest_first);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn both_apply_max_checkpoints_to_sessions_of_the_other() {
        let (server, component, mut llmfy) = beside(Format::B).await;
        let [first, second, third] = three(Format::B, "s");
        save(&component, &second).await;
        save(&component, &third).await;
        let pruned = server.keyspace().await;

        server.command::<()>(&["FLUSHALL"]).await;
        let two = json!({ "max_checkpoints_per_session": 2 });
        let mut pruning = Llmfy::start_with(Format::B, &server.url(), two).await;
        save(&component, &first).await;
        save(&component, &second).await;
        pruning.save(&third).await;
        assert_eq!(server.keyspace().await, pruned);
        assert_eq!(component.ids("s", 10).await, ["s-3", "s-2"]);

        server.command::<()>(&["FLUSHALL"]).await;
        let two = Options { max_checkpoints: Some(2), ..Options::default() };
        let pruning = super::component(&server, &two).await;
        llmfy.save(&first).await;
        llmfy.save(&second).await;
        save(&pruning, &third).await;
        assert_eq!(server.keyspace().await, pruned);
        assert_eq!(llmfy.ids("s").await, ["s-3", "s-2"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_flow_engine_continues_from_checkpoints_of_the_component() {
        let (server, component, mut llmfy) = beside(Format::B).await;
        let end = take_turn(&server.url(), "s", "hello").await;
        assert_eq!(end, json!({ "turn": 1, "messages": ["hello", "hello, in turn 1"] }));
        let history = component.list("s", None).await.expect("a history");
        let nodes = history.checkpoints.iter().map(|checkpoint| checkpoint.metadata.node.as_str());
        assert_eq!(nodes.collect::<Vec<_>>(), ["reply", "listen"]);

        // Only the checkpoint in the middle of that turn remains, changed by the
        // component.
        let mut middle = history.checkpoints[1].clone();
        assert_eq!(delete(&component, "s", None).await, 2);
        middle.metadata.checkpoint_id = "by the component".to_owned();
        middle.state =
            middle.state.replace("\"hello\"", "\"bonjour\"").replace("\"turn\": 1", "\"turn\": 41");
        save(&component, &middle).await;
        assert_eq!(llmfy.load("s", None).await, Some(middle));

        // The engine continues with the next node, and then with the next turn.
        let end = take_turn(&server.url(), "s", "again").await;
        assert_eq!(end, json!({ "turn": 41, "messages": ["bonjour", "again", "again, in turn 41"] }));
        let end = take_turn(&server.url(), "s", "and again").await;
        let messages = ["bonjour", "again", "again, in turn 41", "and again", "and again, in turn 42"];
        assert_eq!(end, json!({ "turn": 42, "messages": messages }));
        let history = component.list("s", None).await.expect("a history").checkpoints;
        let nodes = history.iter().map(|checkpoint| checkpoint.metadata.node.as_str());
        assert_eq!(nodes.collect::<Vec<_>>(), ["reply", "listen", "reply", "listen"]);
        assert_eq!(llmfy.list("s").await, history);
    }
}
