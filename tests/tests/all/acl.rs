//! The Redis user of README.md has all permissions that are needed and no others.
//! A missing permission is reported by name, and nothing is written.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use checkpointer::store::{
    Batch, Effect, Expiry, Operation, Order, Position, Put, Query, Quota, StorageError, StorageReason, Store,
};
use checkpointer::{Checkpointer, CheckpointerBuilder, DEFAULT_PREFIX, Error, HistoryQuery, Layout};
use checkpointer_tests::acl::{CONTRACT, USER, documented, rules, set_user};
use checkpointer_tests::contract::{keys_after, redis_store};
use checkpointer_tests::errors::{storage_error, storage_fields};
use checkpointer_tests::redis_cluster::RedisCluster;
use checkpointer_tests::redis_server::RedisServer;
use checkpointer_tests::samples::checkpoint;

/// The comment of README.md on the permission with which a scan continues.
const GO_ON: &str = "to go on clearing or copying after a connection was cut";

/// An operation over a new connection to a server without cached scripts.
type Action = fn(Arc<dyn Store>) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

macro_rules! action {
    (|$store:ident| $body:expr) => {
        (|$store| Box::pin(async move { $body.map(drop).map_err(Error::from) })) as Action
    };
}

/// Operations of which at least one needs each permission.
const ACTIONS: [(&str, Action); 18] = [
    ("save", action!(|store| open(store).await.save(&checkpoint("s", "new", "r", 9)).await)),
    ("save in another run", action!(|store| open(store).await.save(&checkpoint("s", "a", "r2", 9)).await)),
    (
        "save after",
        action!(|store| open(store).await.save_after(&checkpoint("s", "n", "r", 9), Some("b")).await),
    ),
    ("save with a ttl", action!(|store| with_ttl(store).await.save(&checkpoint("s", "new", "r", 9)).await)),
    ("save at the limit", action!(|store| limited(store).await.save(&checkpoint("s", "new", "r", 9)).await)),
    ("load the latest", action!(|store| open(store).await.latest("s").await)),
    ("load", action!(|store| open(store).await.load("s", "a").await)),
    ("list", action!(|store| open(store).await.list("s").await)),
    ("list a run", action!(|store| open(store).await.list(HistoryQuery::new("s").run("r")).await)),
    ("pin", action!(|store| open(store).await.pin_checkpoint("s", "a").await)),
    ("pin a session", action!(|store| open(store).await.pin_session("s").await)),
    ("delete", action!(|store| open(store).await.delete_checkpoint("s", "a").await)),
    ("delete a session", action!(|store| open(store).await.delete_session("s").await)),
    ("clear all", action!(|store| open(store).await.clear_all().await)),
    ("go on in an index", action!(|store| store.range(from_the_middle()).await)),
    ("list for a plugin", action!(|store| store.range_with_byte_limit(from_the_middle(), 1000).await)),
    ("save within a quota", action!(|store| put_within(&store).await)),
    ("settle a quota", action!(|store| store.reconcile_quota(&quota(), None).await)),
];

async fn open(store: Arc<dyn Store>) -> Checkpointer {
    open_by(Checkpointer::builder(), store).await
}

async fn with_ttl(store: Arc<dyn Store>) -> Checkpointer {
    open_by(Checkpointer::builder().ttl(Duration::from_secs(60)), store).await
}

async fn limited(store: Arc<dyn Store>) -> Checkpointer {
    open_by(Checkpointer::builder().max_checkpoints(2), store).await
}

async fn open_by(builder: CheckpointerBuilder, store: Arc<dyn Store>) -> Checkpointer {
    builder.open_store(store).await.expect("a checkpointer")
}

fn from_the_middle() -> Query {
    Query {
        index: format!("{DEFAULT_PREFIX}session:s"),
        order: Order::Descending,
        after: Some(Position { score: 1767225602.0, member: "b".into() }),
        limit: 5,
        value_key_prefix: format!("{DEFAULT_PREFIX}checkpoint:"),
        max_value_bytes: Some(0),
        with_next: true,
        with_count: false,
    }
}

fn quota() -> Quota {
    Quota::new(format!("{DEFAULT_PREFIX}\0quota"), Some(100), None)
}

async fn put_within(store: &Arc<dyn Store>) -> Result<Vec<bool>, StorageError> {
    let put = Put { key: format!("{DEFAULT_PREFIX}x"), value: "1".into(), expiry: Expiry::Never };
    let batch = Batch { conditions: Vec::new(), operations: vec![Operation::Put(put)] };
    store.commit_with_quota(&quota(), vec![batch]).await
}

/// Clears a server. Then saves two checkpoints, a value within a quota, and a
/// checkpoint of another prefix.
async fn furnish(server: &RedisServer) {
    server.command::<redis::Value>(&["FLUSHALL"]).await;
    server.command::<redis::Value>(&["SCRIPT", "FLUSH"]).await;
    let store = redis_store(&server.url());
    let checkpointer = open(Arc::clone(&store)).await;
    checkpointer.save(&checkpoint("s", "a", "r", 1)).await.expect("saved");
    checkpointer.save(&checkpoint("s", "b", "r", 2)).await.expect("saved");
    put_within(&store).await.expect("written");
    let other = Checkpointer::builder().prefix("other:").open_store(store).await.expect("a checkpointer");
    other.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    server.command::<redis::Value>(&["SCRIPT", "FLUSH"]).await;
}

/// The operations that fail for a user with these rules, each with its error. A
/// failed operation must not write.
async fn refusals(server: &RedisServer, rules: &[String]) -> Vec<(&'static str, String)> {
    let mut refusals = Vec::new();
    for (name, action) in ACTIONS {
        furnish(server).await;
        let url = set_user(server, rules).await;
        let before = server.keyspace().await;
        let Err(error) = action(redis_store(&url)).await else { continue };
        let (reason, effect, message) = storage_fields(error);
        assert_eq!((reason, effect), (StorageReason::AccessDenied, Effect::None), "{name}: {message}");
        assert_eq!(server.keyspace().await, before, "{name}: {message}");
        refusals.push((name, message));
    }
    refusals
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_of_the_readme_has_all_permissions() {
    let server = RedisServer::start().await;
    assert_eq!(refusals(&server, &rules(&CONTRACT)).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_permission_is_needed_and_reported_if_missing() {
    let server = RedisServer::start().await;
    let all = rules(&CONTRACT);
    let commands: BTreeSet<&str> = all.iter().filter_map(|rule| rule.strip_prefix('+')).collect();
    for command in commands {
        let without: Vec<String> =
            all.iter().filter(|rule| rule.strip_prefix('+') != Some(command)).cloned().collect();
        let refusals = refusals(&server, &without).await;
        assert_ne!(refusals, [], "{command} is not needed");
        for (action, message) in refusals {
            let named = message.to_lowercase();
            assert_eq!(named, format!("the store's user lacks a permission: {command}"), "{action}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_of_the_readme_grants_what_its_comment_says() {
    let server = RedisServer::start().await;
    let mut purposes = vec!["who it is, and where", "to read"];
    let reading = ["load the latest", "load", "list", "list a run", "go on in an index"];
    for (purpose, more) in [
        ("to write", &[][..]),
        (
            "to clear all",
            &[
                "save",
                "save in another run",
                "save after",
                "save with a ttl",
                "save at the limit",
                "pin",
                "pin a session",
                "delete",
                "delete a session",
            ],
        ),
        ("for plugins", &["clear all"]),
        ("for plugins with a quota", &["list for a plugin"]),
    ] {
        let refusals = refusals(&server, &rules(&purposes)).await;
        for (action, _) in &refusals {
            assert!(!reading.contains(action) && !more.contains(action), "{action} with {purposes:?}");
        }
        purposes.push(purpose);
    }
    assert_eq!(purposes, CONTRACT);
    let others: Vec<String> = documented().into_iter().map(|(purpose, _)| purpose).collect();
    let apart = [GO_ON, "for replicas=N", "for on_disk=true", "for a cluster", "for a database other than 0"];
    assert_eq!(others[CONTRACT.len()..], apart);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_without_the_prefix_are_not_accessible() {
    let server = RedisServer::start().await;
    furnish(&server).await;
    let store = redis_store(&set_user(&server, &rules(&CONTRACT)).await);
    let stranger = open_by(Checkpointer::builder().prefix("other:"), store).await;
    let before = server.keyspace().await;
    for error in [
        stranger.latest("s").await.expect_err("forbidden"),
        stranger.load("s", "c").await.expect_err("forbidden"),
        stranger.save(&checkpoint("s", "d", "r", 1)).await.expect_err("forbidden"),
        stranger.delete_session("s").await.expect_err("forbidden"),
        stranger.clear_all().await.expect_err("forbidden"),
    ] {
        let error = storage_error(error);
        assert_eq!(error.message, "the store's user lacks a permission: access to a key");
        assert_eq!(error.effect, Effect::None);
    }
    assert_eq!(server.keyspace().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_needs_a_permission_only_for_another_database() {
    let server = RedisServer::start().await;
    furnish(&server).await;
    let least = rules(&["who it is, and where"]);
    let url = set_user(&server, &least).await;
    let error = open(redis_store(&url)).await.load("s", "a").await.expect_err("forbidden");
    assert_eq!(storage_error(error).message, "the store's user lacks a permission: get");
    let in_another = open(redis_store(&format!("{}/1", set_user(&server, &rules(&CONTRACT)).await))).await;
    for error in [
        in_another.latest("s").await.expect_err("forbidden"),
        in_another.save(&checkpoint("s", "c", "r", 1)).await.expect_err("forbidden"),
    ] {
        let error = storage_error(error);
        assert_eq!((error.reason, error.effect), (StorageReason::AccessDenied, Effect::None), "{error:?}");
        assert_eq!(error.message, "the store's user lacks a permission: select");
    }
    // The open checkpointer works as soon as the permission is granted.
    set_user(&server, &[rules(&CONTRACT), rules(&["for a database other than 0"])].concat()).await;
    in_another.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    let beyond = open(redis_store(&format!("{}/99", server.url()))).await;
    let error = beyond.save(&checkpoint("s", "c", "r", 1)).await.expect_err("no such database");
    let error = storage_error(error);
    assert_eq!(error.message, "the store has no database of this number");
    assert_eq!(error.effect, Effect::None);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_info_a_scan_restarts_after_a_lost_connection() {
    let server = RedisServer::start().await;
    let keys: Vec<String> = (0..5000).map(|number| format!("{DEFAULT_PREFIX}{number:04}")).collect();
    let mut mset = vec!["MSET"];
    mset.extend(keys.iter().flat_map(|key| [key.as_str(), "value"]));
    server.command::<redis::Value>(&mset).await;
    for (more, begins_again) in [(&[GO_ON][..], false), (&[], true)] {
        let store = redis_store(&set_user(&server, &rules(&[&CONTRACT[..], more].concat())).await);
        let page = store.scan(DEFAULT_PREFIX.to_owned(), None).await.expect("a page");
        assert!(page.next_cursor.is_some());
        server.command::<redis::Value>(&["CLIENT", "KILL", "USER", USER]).await;
        let rest = keys_after(&store, DEFAULT_PREFIX, page.next_cursor).await;
        assert_eq!(rest == keys, begins_again, "{} after {}", rest.len(), page.keys.len());
        let all: BTreeSet<String> = page.keys.into_iter().chain(rest).collect();
        assert!(all.into_iter().eq(keys.iter().cloned()), "none is missing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_needs_one_more_permission_line() {
    let (cluster, _guard) = RedisCluster::shared().await;
    let all = rules(&[&CONTRACT[..], &["for a cluster"]].concat());
    let set_user_without = async |missing: &str| {
        let rules: Vec<String> = all.iter().filter(|rule| *rule != missing).cloned().collect();
        for server in cluster.servers() {
            set_user(server, &rules).await;
        }
        let password = all.iter().find_map(|rule| rule.strip_prefix('>')).expect("a password");
        let url = cluster.url().replace("//", &format!("//{USER}:{password}@"));
        let url = format!("{url}?response_timeout=1");
        Checkpointer::builder().layout(Layout::Partitioned).open(&url).await.expect("a checkpointer")
    };
    let checkpointer = set_user_without("").await;
    for session in ["s", "t", "u"] {
        checkpointer.save(&checkpoint(session, "a", "r", 1)).await.expect("saved");
        checkpointer.save_after(&checkpoint(session, "b", "r", 2), Some("a")).await.expect("saved");
        assert_eq!(checkpointer.list(session).await.expect("listed").checkpoints.len(), 2);
        assert!(checkpointer.delete_checkpoint(session, "a").await.expect("deleted"));
    }
    assert_eq!(checkpointer.clear_all().await.expect("cleared"), 3);
    for (missing, command) in [("+cluster|slots", "cluster|slots"), ("+set", "SET")] {
        let error = set_user_without(missing).await.save(&checkpoint("s", "a", "r", 1)).await;
        let error = error.expect_err("forbidden");
        let error = storage_error(error);
        assert_eq!(error.message, format!("the store's user lacks a permission: {command}"));
        assert_eq!(error.effect, Effect::None);
    }
    let error = set_user_without("+cluster|nodes").await.clear_all().await.expect_err("forbidden");
    assert_eq!(storage_error(error).message, "the store's user lacks a permission: cluster|nodes");
    for server in cluster.servers() {
        server.command::<redis::Value>(&["ACL", "DELUSER", USER]).await;
    }
}
