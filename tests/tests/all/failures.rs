//! Failures of servers, connections and files are reported as what they are, and
//! never as a missing checkpoint.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use checkpointer::store::{Effect, StorageReason};
use checkpointer::{Checkpointer, HistoryQuery};
use checkpointer_tests::contract::{keys_after, redis_store};
use checkpointer_tests::errors::{reason_and_effect, storage_error};
use checkpointer_tests::proxy::{Fault, Proxy};
use checkpointer_tests::random::milliseconds;
use checkpointer_tests::redis_server::{RedisServer, free_port};
use checkpointer_tests::samples::checkpoint;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

async fn open(address: &str) -> Checkpointer {
    Checkpointer::open(address).await.expect("a checkpointer")
}

/// The failures of a load and a save.
async fn failures(checkpointer: &Checkpointer) -> [(StorageReason, Effect); 2] {
    let load = checkpointer.latest("s").await.expect_err("no answer");
    let save = checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect_err("not saved");
    [load, save].map(reason_and_effect)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_is_unavailable() {
    let checkpointer = open(&format!("redis://127.0.0.1:{}?connect_timeout=1", free_port())).await;
    let start = Instant::now();
    assert_eq!(failures(&checkpointer).await, [(StorageReason::Unavailable, Effect::None); 2]);
    assert!(start.elapsed() < Duration::from_secs(5));
    let checkpointer = open("redis+unix:///nowhere/redis.sock").await;
    assert_eq!(failures(&checkpointer).await, [(StorageReason::Unavailable, Effect::None); 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_is_used_again() {
    let mut server = RedisServer::start().await;
    let checkpointer = open(&server.url()).await;
    checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    server.kill().await;
    let error = checkpointer.latest("s").await.expect_err("no answer");
    assert_eq!(reason_and_effect(error), (StorageReason::Unavailable, Effect::None));
    server.restart().await;
    let start = Instant::now();
    while checkpointer.latest("s").await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "the connection does not come back");
    }
    checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_across_a_server_restart_returns_every_key() {
    let mut server = RedisServer::start().await;
    let store = redis_store(&server.url());
    let keys: Vec<String> = (0..5000).map(|number| format!("key {number:04}")).collect();
    let mut mset = vec!["MSET"];
    mset.extend(keys.iter().flat_map(|key| [key.as_str(), "value"]));
    server.command::<Value>(&mset).await;
    let page = store.scan("key ".to_owned(), None).await.expect("a page");
    assert!(page.next_cursor.is_some());
    server.command::<Value>(&["SAVE"]).await;
    server.kill().await;
    server.restart().await;
    // After the restart the server has another hash table.
    let found = keys_after(&store, "key ", page.next_cursor).await;
    assert!(found == keys, "{} of {}", found.len(), keys.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_save_after_an_outage_succeeds() {
    let mut server = RedisServer::start().await;
    let checkpointer = open(&server.url()).await;
    for second in 0..5 {
        server.kill().await;
        assert_eq!(failures(&checkpointer).await, [(StorageReason::Unavailable, Effect::None); 2]);
        // The background reconnect may have given up by then, or not.
        tokio::time::sleep(milliseconds(0..300)).await;
        server.restart().await;
        checkpointer.save(&checkpoint("s", "c", "r", second)).await.expect("saved");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_server_is_a_timeout_with_unknown_effect() {
    let server = RedisServer::start().await;
    let url = format!("{}?connect_timeout=0.3&response_timeout=0.3", server.url());
    let (checkpointer, other) = (open(&url).await, open(&url).await);
    for it in [&checkpointer, &other] {
        it.save(&checkpoint("s", "before", "r", 1)).await.expect("saved");
    }
    server.signal("-STOP").await;
    let [load, unsent] = failures(&checkpointer).await;
    let save = other.save(&checkpoint("s", "c", "r", 1)).await.expect_err("not saved");
    server.signal("-CONT").await;
    assert_eq!(load, (StorageReason::Timeout, Effect::None));
    // The connection was invalidated, and no other can be established.
    assert_eq!(unsent, (StorageReason::Unavailable, Effect::None));
    assert_eq!(reason_and_effect(save), (StorageReason::Timeout, Effect::Unknown));
    checkpointer.save(&checkpoint("s", "c", "r", 2)).await.expect("saved");
    let latest = checkpointer.latest("s").await.expect("loaded").expect("there");
    assert_eq!(latest.metadata.checkpoint_id, "c");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_correct_credentials_are_accepted() {
    let server =
        RedisServer::start_with(&["--requirepass", "s3cret", "--user", "ann", "on", ">p%ss", "~*", "+@all"])
            .await;
    let at = |who: &str| format!("redis://{who}127.0.0.1:{}/1", server.port());
    for who in ["", ":wrong@", "ann:wrong@", "nobody:s3cret@"] {
        let checkpointer = open(&at(who)).await;
        assert_eq!(failures(&checkpointer).await, [(StorageReason::AccessDenied, Effect::None); 2], "{who}");
    }
    for who in [":s3cret@", "ann:p%25ss@", "default:s3cret@"] {
        open(&at(who)).await.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    }
    let socket = format!("redis+unix://{}?user=ann&password=p%25ss&db=1", server.socket().display());
    assert!(open(&socket).await.latest("s").await.expect("loaded").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_used_once_it_accepts_the_credentials() {
    let server = RedisServer::start().await;
    let checkpointer = open(&format!("redis://ann:s3cret@127.0.0.1:{}", server.port())).await;
    assert_eq!(failures(&checkpointer).await, [(StorageReason::AccessDenied, Effect::None); 2]);
    server.command::<Value>(&["ACL", "SETUSER", "ann", "on", ">s3cret", "~*", "+@all"]).await;
    checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_command_is_reported_and_sort_is_optional() {
    let server = RedisServer::start_with_words(&[
        "--user reader on >x ~* +@read +@connection +evalsha +eval -sort -sort_ro -set",
        "--user writer on >x ~llmfy_checkpoint:* +@read +@write +@connection +@scripting",
    ])
    .await;
    let at = |who: &str| format!("redis://{who}:x@127.0.0.1:{}", server.port());
    let (reader, writer) = (open(&at("reader")).await, open(&at("writer")).await);
    writer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    for checkpointer in [&reader, &writer] {
        assert_eq!(checkpointer.latest("s").await.expect("loaded"), Some(checkpoint("s", "c", "r", 1)));
    }
    // The last permission that a save needs is missing: nothing is written.
    let almost = "~* +@all -zadd";
    server
        .command::<Value>(
            &[&["ACL", "SETUSER", "almost", "on", ">x"][..], &almost.split(' ').collect::<Vec<_>>()].concat(),
        )
        .await;
    let error = open(&at("almost")).await.save(&checkpoint("s", "d", "r", 1)).await.expect_err("forbidden");
    assert_eq!(storage_error(error).message, "the store's user lacks a permission: ZADD");
    let error = reader.save(&checkpoint("s", "d", "r", 1)).await.expect_err("forbidden");
    assert_eq!(reason_and_effect(error), (StorageReason::AccessDenied, Effect::None));
    assert_eq!(writer.load("s", "d").await.expect("an answer"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_or_read_only_server_writes_nothing() {
    let server = RedisServer::start().await;
    let checkpointer = open(&server.url()).await;
    checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    let before = server.keyspace().await;
    for (setting, reason) in [
        (&["CONFIG", "SET", "maxmemory", "1"][..], StorageReason::Full),
        (&["REPLICAOF", "127.0.0.1", "1"][..], StorageReason::ReadOnly),
    ] {
        server.command::<Value>(setting).await;
        for again in [checkpoint("s", "c", "r2", 9), checkpoint("s", "d", "r", 9)] {
            let error = checkpointer.save(&again).await.expect_err("not saved");
            assert_eq!(reason_and_effect(error), (reason, Effect::None));
        }
        assert_eq!(checkpointer.latest("s").await.expect("loaded"), Some(checkpoint("s", "c", "r", 1)));
        server.command::<Value>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    }
    server.command::<Value>(&["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(server.keyspace().await, before);
    server.command::<Value>(&["SCRIPT", "FLUSH"]).await;
    checkpointer.save(&checkpoint("s", "d", "r", 9)).await.expect("saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_while_idle_is_replaced_without_an_error() {
    let server = RedisServer::start().await;
    let mut other = server.connect().await.expect("a connection");
    let checkpointer = open(&server.url()).await;
    for second in 0..5 {
        checkpointer.save(&checkpoint("s", "c", "r", second)).await.expect("saved");
        assert!(kill_other_clients(&mut other).await > 0);
        // Long enough to notice the closed connection.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_before_a_call_fails_at_most_one_save_and_no_load() {
    let server = RedisServer::start().await;
    let mut other = server.connect().await.expect("a connection");
    let checkpointer = open(&server.url()).await;
    for second in 0..50 {
        let saved = checkpoint("s", "c", "r", second);
        checkpointer.save(&saved).await.expect("saved");
        kill_other_clients(&mut other).await;
        assert_eq!(checkpointer.latest("s").await.expect("loaded"), Some(saved.clone()));
        kill_other_clients(&mut other).await;
        if let Err(error) = checkpointer.save(&saved).await {
            assert_eq!(reason_and_effect(error), (StorageReason::Unavailable, Effect::Unknown));
        }
    }
}

/// Closes all connections except this one. Returns how many.
async fn kill_other_clients(own: &mut MultiplexedConnection) -> u32 {
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").query_async(own).await.expect("cut")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_during_a_call_fails_a_save_with_unknown_effect_and_retries_a_load() {
    let server = RedisServer::start().await;
    let proxy = Proxy::before(server.port()).await;
    let checkpointer = open(&proxy.url()).await;
    checkpointer.save(&checkpoint("s", "first", "r", 1)).await.expect("saved");
    for (fault, took_effect) in [(Fault::LoseRequest, false), (Fault::LoseAnswer, true)] {
        let saved = checkpoint("s", &format!("{fault:?}"), "r", 2);
        let id = saved.metadata.checkpoint_id.as_str();
        proxy.fail(fault);
        let error = checkpointer.save(&saved).await.expect_err("no answer");
        assert_eq!(reason_and_effect(error), (StorageReason::Unavailable, Effect::Unknown));
        // The next call succeeds, and shows whether the save took effect.
        assert_eq!(checkpointer.load("s", id).await.expect("loaded").is_some(), took_effect);
        checkpointer.save(&saved).await.expect("saved");
        proxy.fail(fault);
        assert_eq!(checkpointer.load("s", id).await.expect("loaded").as_ref(), Some(&saved));
        assert!(proxy.has_failed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_connection_is_a_timeout_and_is_replaced() {
    let server = RedisServer::start().await;
    let proxy = Proxy::before(server.port()).await;
    let checkpointer = open(&format!("{}?connect_timeout=0.3&response_timeout=0.3", proxy.url())).await;
    checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    proxy.fail(Fault::Stall);
    let error = checkpointer.save(&checkpoint("s", "c", "r", 2)).await.expect_err("no answer");
    assert_eq!(reason_and_effect(error), (StorageReason::Timeout, Effect::Unknown));
    checkpointer.save(&checkpoint("s", "c", "r", 3)).await.expect("saved");
    proxy.fail(Fault::Stall);
    let error = checkpointer.latest("s").await.expect_err("no answer");
    assert_eq!(reason_and_effect(error), (StorageReason::Timeout, Effect::None));
    assert_eq!(checkpointer.latest("s").await.expect("loaded"), Some(checkpoint("s", "c", "r", 3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_connection_is_replaced_after_its_caller_is_dropped() {
    let server = RedisServer::start().await;
    let proxy = Proxy::before(server.port()).await;
    let checkpointer = open(&proxy.url()).await;
    checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    proxy.fail(Fault::Stall);
    let load = async || tokio::time::timeout(Duration::from_secs(1), checkpointer.latest("s")).await;
    load().await.expect_err("no answer");
    assert!(load().await.expect("an answer").expect("loaded").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_at_maxclients_is_unavailable_until_it_accepts_clients() {
    let server = RedisServer::start().await;
    // This connection uses the only client slot.
    let mut other = server.connect().await.expect("a connection");
    let mut set = async |most: u32| {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("maxclients").arg(most);
        set.query_async::<()>(&mut other).await.expect("set");
    };
    let checkpointer = open(&server.url()).await;
    set(1).await;
    assert_eq!(failures(&checkpointer).await.map(|(reason, _)| reason), [StorageReason::Unavailable; 2]);
    set(100).await;
    checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loading_server_is_unavailable_until_it_is_ready() {
    let mut server = RedisServer::start().await;
    let checkpointer = open(&server.url()).await;
    checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    let fill = "for i = 1, 3000 do redis.call('SET', 'other:' .. i, 'something') end";
    server.command::<Value>(&["EVAL", fill, "0"]).await;
    server.command::<Value>(&["SAVE"]).await;
    server.kill().await;
    // The server loads one key per millisecond, and serves clients every 1,024
    // bytes.
    server.begin_restart(&["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"]);
    let start = Instant::now();
    while server.try_command::<Value>(&["GET", "x"]).await.is_err_and(|error| error.code().is_none()) {
        assert!(start.elapsed() < Duration::from_secs(10), "the server does not come back");
    }
    let error = checkpointer.latest("s").await.expect_err("no answer");
    assert_eq!(storage_error(error).message, "the store is not ready (LOADING); retry");
    assert_eq!(failures(&checkpointer).await, [(StorageReason::Unavailable, Effect::None); 2]);
    server.wait_until_ready().await;
    assert_eq!(checkpointer.latest("s").await.expect("loaded"), Some(checkpoint("s", "c", "r", 1)));
    checkpointer.save(&checkpoint("s", "d", "r", 1)).await.expect("saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_save_is_applied_once_despite_script_flush() {
    let server = RedisServer::start().await;
    let checkpointer = open(&server.url()).await;
    server.command::<Value>(&["CONFIG", "RESETSTAT"]).await;
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let checkpointer = checkpointer.clone();
            tokio::spawn(async move {
                for number in 0..50 {
                    let id = format!("{writer}-{number}");
                    checkpointer.save(&checkpoint("s", &id, "r", number)).await.expect("saved");
                }
            })
        })
        .collect();
    let mut flushes = 0;
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        server.command::<Value>(&["SCRIPT", "FLUSH"]).await;
        flushes += 1;
    }
    for writer in writers {
        writer.await.expect("a task");
    }
    assert!(flushes > 10, "the scripts were forgotten only {flushes} times");
    assert_eq!(server.calls("set").await, 800);
    assert_eq!(server.calls("zadd").await, 2 * 800);
    assert_eq!(
        checkpointer.list(HistoryQuery::new("s").limit(1000)).await.expect("a history").checkpoints.len(),
        800
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_to_save_to_disk_rejects_writes() {
    let server = RedisServer::start().await;
    let checkpointer = open(&server.url()).await;
    checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    server.command::<Value>(&["CONFIG", "SET", "save", "3600 1"]).await;
    // Even root can't replace a folder that is not empty by a file.
    let in_the_way = server.folder().join("dump.rdb");
    fs::create_dir_all(in_the_way.join("folder")).expect("a folder");
    let save_to_disk = async |expected: &str| {
        server.command::<Value>(&["BGSAVE"]).await;
        let start = Instant::now();
        while server.information("persistence", "rdb_last_bgsave_status").await != expected {
            assert!(start.elapsed() < Duration::from_secs(10), "saving to disk does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    save_to_disk("err").await;
    for again in [checkpoint("s", "c", "r2", 9), checkpoint("s", "d", "r", 9)] {
        let error = checkpointer.save(&again).await.expect_err("not saved");
        let error = storage_error(error);
        assert_eq!(
            error.message,
            "the store refuses writes because it can't save to disk; free space or fix its configuration"
        );
        assert_eq!((error.reason, error.effect), (StorageReason::Full, Effect::None));
    }
    assert_eq!(checkpointer.latest("s").await.expect("loaded"), Some(checkpoint("s", "c", "r", 1)));
    fs::remove_dir_all(in_the_way).expect("removed");
    save_to_disk("ok").await;
    checkpointer.save(&checkpoint("s", "c", "r2", 9)).await.expect("saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_or_inaccessible_file_is_reported() {
    let folder = TempDir::new().expect("a temporary folder");
    let text = folder.path().join("text.db");
    fs::write(&text, "this is no database, it is a text of some length".repeat(100)).expect("written");
    for (path, reason) in [
        (text.as_path(), StorageReason::Other),
        (Path::new("/nowhere/checkpoints.db"), StorageReason::Unavailable),
        (folder.path(), StorageReason::Unavailable),
    ] {
        let Err(error) = Checkpointer::open(&format!("sqlite:{}", path.display())).await else {
            panic!("{} was opened", path.display());
        };
        assert_eq!(reason_and_effect(error), (reason, Effect::None), "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_shared_by_connections_contains_every_save() {
    let folder = TempDir::new().expect("a temporary folder");
    let address = format!("sqlite:{}", folder.path().join("checkpoints.db").display());
    // Each checkpointer has a connection of its own, as a process would.
    let tasks: Vec<_> = (0..8)
        .map(|writer| {
            let address = address.clone();
            tokio::spawn(async move {
                let checkpointer = open(&address).await;
                for number in 0..25 {
                    let id = format!("{writer}-{number}");
                    checkpointer.save(&checkpoint("s", &id, "r", number)).await.expect("saved");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a task");
    }
    let history = open(&address).await.list(HistoryQuery::new("s").limit(1000)).await.expect("a history");
    assert_eq!(history.checkpoints.len(), 200);
}

/// Members that other programs added may contain any bytes.
#[tokio::test(flavor = "multi_thread")]
async fn index_members_that_are_not_utf8_are_skipped() {
    let server = RedisServer::start().await;
    let checkpointer = open(&server.url()).await;
    checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    let mut connection = server.connect().await.expect("a connection");
    for byte in 0x80_u8..=0xff {
        let mut add = redis::cmd("ZADD");
        add.arg("llmfy_checkpoint:session:s").arg(2e9).arg(&[byte][..]);
        add.query_async::<i64>(&mut connection).await.expect("added");
    }
    for limit in [1, 2, 100, 500] {
        let history = checkpointer.list(HistoryQuery::new("s").limit(limit)).await.expect("a history");
        assert_eq!(history.checkpoints, [checkpoint("s", "c", "r", 1)]);
        assert_eq!(history.unreadable, []);
    }
    let latest = checkpointer.latest("s").await.expect("loaded").expect("there");
    assert_eq!(latest.metadata.checkpoint_id, "c");
    checkpointer.save_after(&checkpoint("s", "d", "r", 2), Some("c")).await.expect("saved");
    let limited = Checkpointer::builder().max_checkpoints(1).open(&server.url()).await.expect("opened");
    limited.save(&checkpoint("s", "e", "r", 3)).await.expect("saved");
    assert_eq!(limited.list("s").await.expect("listed").checkpoints, [checkpoint("s", "e", "r", 3)]);
    assert_eq!(checkpointer.delete_session("s").await.expect("deleted"), 1);
}
