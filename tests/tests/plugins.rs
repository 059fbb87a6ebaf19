//! Other people's components, with what they were granted and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use checkpointer::plugin::{Grant, Grants, Limits, Plugin, PluginError, Plugins};
use checkpointer::store::{SqliteStore, Store};
use checkpointer::{COMPONENT, Checkpointer};
use checkpointer_tests::contract::redis_store;
use checkpointer_tests::plugins;
use checkpointer_tests::redis_server::RedisServer;

fn agent() -> Plugin {
    Plugins::new().and_then(|all| all.load(plugins::rust())).expect("a plugin")
}

async fn store() -> Arc<dyn Store> {
    Arc::new(SqliteStore::in_memory().await.expect("a database in memory"))
}

fn granted(store: &Arc<dyn Store>, prefix: &str) -> Grants {
    Grants::new().bucket("default", Grant::new(Arc::clone(store), prefix))
}

async fn answer(plugin: &Plugin, grants: &Grants, input: &str) -> Result<String, String> {
    plugin.run(grants, input).await.expect("it ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_goes_on_from_what_was_saved_and_the_library_reads_it() {
    let (agent, store) = (agent(), store().await);
    let grants = granted(&store, "tenant-1/");
    assert_eq!(answer(&agent, &grants, "s").await, Ok("1 rust s-1-rust".to_owned()));
    assert_eq!(answer(&agent, &grants, "step s").await, Ok("2 rust s-2-rust\n1 rust s-1-rust".to_owned()));
    assert_eq!(answer(&agent, &grants, "history s").await, Ok("2 rust s-2-rust\n1 rust s-1-rust".to_owned()));
    let library =
        Checkpointer::builder().prefix("tenant-1/llmfy_checkpoint:").open_store(store).await.expect("opened");
    let latest = library.load("s", None).await.expect("loaded").expect("there");
    assert_eq!(latest.state, r#"{"count":2,"trail":["rust","rust"]}"#);
    assert_eq!(latest.metadata.checkpoint_id, "s-2-rust");
    let said = answer(&agent, &grants, "").await;
    assert_eq!(said, Err("say: SESSION | step SESSION [RUN] | history SESSION".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_in_one_session_each_come_after_another() {
    let server = RedisServer::start().await;
    let (agent, store) = (agent(), redis_store(&server.url()));
    let runs: Vec<_> = (0..8)
        .map(|run| {
            let (agent, grants) = (agent.clone(), granted(&store, ""));
            tokio::spawn(async move { answer(&agent, &grants, &format!("step s run-{run}")).await })
        })
        .collect();
    for run in runs {
        run.await.expect("a task").expect("a step");
    }
    let latest = answer(&agent, &granted(&store, ""), "history s").await.expect("a history");
    assert_eq!(latest.lines().count(), 8);
    assert!(latest.lines().next().is_some_and(|line| line.ends_with("-8-rust")), "{latest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_granted_does_not_exist() {
    let (agent, store) = (agent(), store().await);
    let one = granted(&store, "tenant-1/");
    answer(&agent, &one, "s").await.expect("a step");
    let other = granted(&store, "tenant-2/");
    assert_eq!(answer(&agent, &other, "history s").await, Ok(String::new()));
    assert_eq!(
        answer(&agent, &Grants::new(), "s").await,
        Err("the store failed: there is no bucket \"default\"".to_owned())
    );
    let elsewhere = Grants::new().bucket("other", Grant::new(Arc::clone(&store), ""));
    assert!(answer(&agent, &elsewhere, "s").await.is_err());
    let to_read = Grants::new().bucket("default", Grant::new(Arc::clone(&store), "tenant-1/").read_only());
    assert_eq!(answer(&agent, &to_read, "history s").await, Ok("1 rust s-1-rust".to_owned()));
    assert_eq!(
        answer(&agent, &to_read, "s").await,
        Err("the store failed: the bucket takes no writes".to_owned())
    );
    assert_eq!(answer(&agent, &one, "history s").await, Ok("1 rust s-1-rust".to_owned()));
}

#[test]
fn a_plugin_that_imports_more_than_the_checkpointer_is_not_run() {
    let refused = Plugins::new().and_then(|all| all.load(COMPONENT)).err().expect("refused");
    assert!(matches!(&refused, PluginError::Imports(names) if names == &["flow:checkpoint/keyvalue@0.1.0"]));
    let refused = Plugins::new().and_then(|all| all.load(b"no component")).err().expect("refused");
    assert!(matches!(refused, PluginError::NotAPlugin(_)), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_takes_too_long_is_ended_and_others_go_on() {
    let all = Plugins::new().expect("an engine");
    let limits = Limits { time: Duration::from_millis(300), ..Limits::default() };
    let endless = all.load(plugins::ENDLESS).expect("a plugin").limits(limits.clone());
    let (agent, store) = (all.load(plugins::rust()).expect("a plugin"), store().await);
    let start = Instant::now();
    // More than there are threads.
    let runs: Vec<_> = (0..8)
        .map(|_| {
            let endless = endless.clone();
            tokio::spawn(async move { endless.run(&Grants::new(), "").await })
        })
        .collect();
    answer(&agent, &granted(&store, ""), "s").await.expect("a step");
    for run in runs {
        let ended = run.await.expect("a task");
        assert!(matches!(ended, Err(PluginError::Time(_))), "{ended:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(20));
    // Waiting for the store counts as well, and the next run is a new one.
    let server = RedisServer::start().await;
    let grants = granted(&redis_store(&server.url()), "");
    let agent = agent.limits(limits);
    answer(&agent, &grants, "s").await.expect("a step");
    server.signal("-STOP").await;
    let ended = agent.run(&grants, "s").await;
    server.signal("-CONT").await;
    assert!(matches!(ended, Err(PluginError::Time(_))), "{ended:?}");
    let agent = agent.limits(Limits::default());
    assert!(answer(&agent, &grants, "s").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_wants_too_much_memory_is_ended() {
    let limits = Limits { memory: 128 << 10, ..Limits::default() };
    let ended = agent().limits(limits).run(&Grants::new(), "s").await;
    assert!(matches!(ended, Err(PluginError::Memory(_))), "{ended:?}");
}
