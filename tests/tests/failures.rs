//! What goes wrong outside is said as it is, and never taken for "not found".

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use checkpointer::store::{Effect, StorageReason};
use checkpointer::{Checkpointer, HistoryQuery};
use checkpointer_tests::chance::milliseconds;
use checkpointer_tests::contract::{keys_after, redis_store};
use checkpointer_tests::errors::{reason_and_effect, storage_error};
use checkpointer_tests::proxy::{Fault, Proxy};
use checkpointer_tests::redis_server::{RedisServer, free_port};
use checkpointer_tests::samples::checkpoint;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

async fn open(address: &str) -> Checkpointer {
    Checkpointer::open(address).await.expect("a checkpointer")
}

/// What loading the latest and saving fail with.
async fn failures(checkpointer: &Checkpointer) -> [(StorageReason, Effect); 2] {
    let load = checkpointer.latest("s").await.expect_err("no answer");
    let save = checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect_err("not saved");
    [load, save].map(reason_and_effect)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_unavailable() {
    let checkpointer = open(&format!("redis://127.0.0.1:{}?connect_timeout=1", free_port())).await;
    let start = Instant::now();
    assert_eq!(failures(&checkpointer).await, [(StorageReason::Unavailable, Effect::None); 2]);
    assert!(start.elapsed() < Duration::from_secs(5));
    let checkpointer = open("redis+unix:///nowhere/redis.sock").await;
    assert_eq!(failures(&checkpointer).await, [(StorageReason::Unavailable, Effect::None); 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_is_used_again() {
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
async fn a_scan_of_a_server_that_is_restarted_meanwhile_misses_no_key() {
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
    // It has other places for its keys now.
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
        // Long enough for what connects in the background to give up, or not.
        tokio::time::sleep(milliseconds(0..300)).await;
        server.restart().await;
        checkpointer.save(&checkpoint("s", "c", "r", second)).await.expect("saved");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stalls_is_a_timeout_and_a_save_may_have_happened() {
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
    // The connection was given up, and there is no other.
    assert_eq!(unsent, (StorageReason::Unavailable, Effect::None));
    assert_eq!(reason_and_effect(save), (StorageReason::Timeout, Effect::Unknown));
    checkpointer.save(&checkpoint("s", "c", "r", 2)).await.expect("saved");
    let latest = checkpointer.latest("s").await.expect("loaded").expect("there");
    assert_eq!(latest.metadata.checkpoint_id, "c");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_refused_and_a_right_one_is_not() {
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
async fn a_server_that_comes_to_know_the_password_is_used_again() {
    let server = RedisServer::start().await;
    let checkpointer = open(&format!("redis://ann:s3cret@127.0.0.1:{}", server.port())).await;
    assert_eq!(failures(&checkpointer).await, [(StorageReason::AccessDenied, Effect::None); 2]);
    server.command::<Value>(&["ACL", "SETUSER", "ann", "on", ">s3cret", "~*", "+@all"]).await;
    checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acl_that_forbids_a_command_is_said_and_sorting_is_not_needed() {
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
    // Of what a save does, the user lacks only the last: nothing is written.
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
async fn a_server_without_memory_or_without_leave_to_write_writes_nothing() {
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
async fn a_connection_that_is_cut_while_nobody_uses_it_is_replaced_unnoticed() {
    let server = RedisServer::start().await;
    let mut other = server.connect().await.expect("a connection");
    let checkpointer = open(&server.url()).await;
    for second in 0..5 {
        checkpointer.save(&checkpoint("s", "c", "r", second)).await.expect("saved");
        assert!(kill_other_clients(&mut other).await > 0);
        // Long enough for it to be noticed.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_just_before_a_call_harms_no_load_and_only_one_save() {
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

/// Cuts all connections but this one; says how many.
async fn kill_other_clients(own: &mut MultiplexedConnection) -> u32 {
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").query_async(own).await.expect("cut")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_in_a_call_leaves_a_save_unknown_and_a_load_is_repeated() {
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
        // The next call works by itself, and tells what became of it.
        assert_eq!(checkpointer.load("s", id).await.expect("loaded").is_some(), took_effect);
        checkpointer.save(&saved).await.expect("saved");
        proxy.fail(fault);
        assert_eq!(checkpointer.load("s", id).await.expect("loaded").as_ref(), Some(&saved));
        assert!(proxy.has_failed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_stalls_is_a_timeout_and_the_next_call_has_a_new_one() {
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
async fn a_connection_that_stalls_is_replaced_too_where_nobody_waits_for_the_time_out() {
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
async fn a_server_that_takes_no_more_clients_is_used_again_when_it_does() {
    let server = RedisServer::start().await;
    // This connection is the only one that there may be.
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
async fn a_server_that_still_loads_is_unavailable_until_it_is_done() {
    let mut server = RedisServer::start().await;
    let checkpointer = open(&server.url()).await;
    checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    let fill = "for i = 1, 3000 do redis.call('SET', 'other:' .. i, 'something') end";
    server.command::<Value>(&["EVAL", fill, "0"]).await;
    server.command::<Value>(&["SAVE"]).await;
    server.kill().await;
    // A millisecond for each key, and a look at what clients want every 1,024 bytes.
    server.begin_restart(&["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"]);
    let start = Instant::now();
    while server.try_command::<Value>(&["GET", "x"]).await.is_err_and(|error| error.code().is_none()) {
        assert!(start.elapsed() < Duration::from_secs(10), "the server does not come back");
    }
    let error = checkpointer.latest("s").await.expect_err("no answer");
    assert_eq!(storage_error(error).message, "the store is not ready (LOADING)");
    assert_eq!(failures(&checkpointer).await, [(StorageReason::Unavailable, Effect::None); 2]);
    server.wait_until_ready().await;
    assert_eq!(checkpointer.latest("s").await.expect("loaded"), Some(checkpoint("s", "c", "r", 1)));
    checkpointer.save(&checkpoint("s", "d", "r", 1)).await.expect("saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgets_its_scripts_applies_each_save_once() {
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
    assert_eq!(checkpointer.list(HistoryQuery::new("s").limit(1000)).await.expect("a history").checkpoints.len(), 800);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_save_to_disk_takes_no_writes_until_it_can() {
    let server = RedisServer::start().await;
    let checkpointer = open(&server.url()).await;
    checkpointer.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    server.command::<Value>(&["CONFIG", "SET", "save", "3600 1"]).await;
    // Not even root can put a file in the place of a folder that is not empty.
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
        assert_eq!(error.message, "the store takes no writes until it can save them to disk");
        assert_eq!((error.reason, error.effect), (StorageReason::Full, Effect::None));
    }
    assert_eq!(checkpointer.latest("s").await.expect("loaded"), Some(checkpoint("s", "c", "r", 1)));
    fs::remove_dir_all(in_the_way).expect("removed");
    save_to_disk("ok").await;
    checkpointer.save(&checkpoint("s", "c", "r2", 9)).await.expect("saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_database_or_out_of_reach_is_said_to_be() {
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
async fn a_store_that_several_processes_share_has_all_that_each_saved() {
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

/// Somebody else's members can be of any bytes.
#[tokio::test(flavor = "multi_thread")]
async fn members_that_are_no_text_are_passed() {
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
