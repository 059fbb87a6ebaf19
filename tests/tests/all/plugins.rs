//! Plugins access what they were granted, and nothing else.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use checkpointer::keyvalue::{self, KeyvalueCtx, KeyvalueCtxView, KeyvalueView};
use checkpointer::plugin::{self, CompositionError, Grant, Grants, Limits, Plugin, PluginError, Plugins};
use checkpointer::store::{SqliteStore, Store};
use checkpointer::{COMPONENT, Checkpointer};
use checkpointer_tests::contract::redis_store;
use checkpointer_tests::fake_cluster::FakeCluster;
use checkpointer_tests::plugins::{self, granted};
use checkpointer_tests::redis_server::RedisServer;
use wasmtime::component::{Component, Linker, ResourceTable};

fn agent() -> Plugin {
    Plugins::new().and_then(|all| all.load(plugins::rust())).expect("a plugin")
}

async fn store() -> Arc<dyn Store> {
    Arc::new(SqliteStore::in_memory().await.expect("a database in memory"))
}

async fn answer(plugin: &Plugin, grants: &Grants, input: &str) -> Result<String, String> {
    plugin.run(grants, input).await.expect("it ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_continues_from_its_checkpoint_and_the_library_reads_it() {
    let (agent, store) = (agent(), store().await);
    let grants = granted(&store, "tenant-1/");
    assert_eq!(answer(&agent, &grants, "s").await, Ok("1 rust s-1-rust".to_owned()));
    assert_eq!(answer(&agent, &grants, "step s").await, Ok("2 rust s-2-rust\n1 rust s-1-rust".to_owned()));
    assert_eq!(answer(&agent, &grants, "history s").await, Ok("2 rust s-2-rust\n1 rust s-1-rust".to_owned()));
    let library =
        Checkpointer::builder().prefix("tenant-1/llmfy_checkpoint:").open_store(store).await.expect("opened");
    let latest = library.latest("s").await.expect("loaded").expect("there");
    assert_eq!(latest.state, r#"{"count":2,"trail":["rust","rust"]}"#);
    assert_eq!(latest.metadata.checkpoint_id, "s-2-rust");
    let said = answer(&agent, &grants, "").await;
    assert_eq!(said, Err("say: SESSION | step SESSION [RUN] | history SESSION".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_runs_in_one_session_follow_each_other() {
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
async fn a_plugin_accesses_only_granted_buckets() {
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
        Err("the store failed: the bucket is read-only".to_owned())
    );
    assert_eq!(answer(&agent, &one, "history s").await, Ok("1 rust s-1-rust".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_scans_and_restores_within_its_grant() {
    let (agent, store) = (agent(), store().await);
    let (one, other) = (granted(&store, "tenant-1/"), granted(&store, "tenant-2/"));
    answer(&agent, &one, "s").await.expect("a step");
    answer(&agent, &other, "t").await.expect("a step");
    let hostile = Plugins::new().and_then(|all| all.load(plugins::hostile())).expect("a plugin");
    let found = "s/s-1-rust None, pinned".to_owned();
    assert_eq!(answer(&hostile, &one, "restore").await, Ok(found));
    let to_read = Grants::new().bucket("default", Grant::new(Arc::clone(&store), "tenant-1/").read_only());
    assert_eq!(
        answer(&hostile, &to_read, "restore").await,
        Err("StorageReason::ReadOnly, Effect::None: the bucket is read-only".to_owned())
    );
    // The restored checkpoint has a TTL of a minute; others do not change.
    let lives = async |prefix: &str| {
        let opened = Checkpointer::builder().prefix(format!("{prefix}llmfy_checkpoint:"));
        let opened = opened.open_store(Arc::clone(&store)).await.expect("opened");
        opened.scan(None).await.expect("a page").checkpoints.remove(0).expires_in
    };
    assert!(lives("tenant-1/").await.is_some_and(|left| left <= Duration::from_secs(60)));
    assert_eq!(lives("tenant-2/").await, None);
}

/// As on a cluster: the hash tag of the whole key counts, including the granted
/// prefix.
#[tokio::test(flavor = "multi_thread")]
async fn a_layout_is_rejected_if_its_keys_are_not_colocated() {
    let agent = agent();
    let store: Arc<dyn Store> = FakeCluster::new(store().await);
    assert_eq!(
        answer(&agent, &granted(&store, "tenant-1/"), "s").await,
        Err("invalid argument: the store is a cluster, and the keys under the prefix \"llmfy_checkpoint:\" are in \
             many slots; use a prefix with a hash tag, for example \"{llmfy_checkpoint}:\", or the layout \
             `partitioned`"
            .to_owned())
    );
    let tagged = granted(&store, "{tenant-1}/");
    assert_eq!(answer(&agent, &tagged, "s").await, Ok("1 rust s-1-rust".to_owned()));
    // Of 31 valid prefixes one has a hash tag; in the other layout all are valid.
    let hostile = Plugins::new().and_then(|all| all.load(plugins::hostile())).expect("a plugin");
    let reached = answer(&hostile, &granted(&store, "tenant-2/"), "prefixes").await;
    assert_eq!(reached, Ok(format!("{} taken, {} refused; []", 56 + 31 * 56, 5 + 30 + 5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn wasi_provides_only_a_clock_and_random_numbers() {
    let probe = Plugins::new().and_then(|all| all.load(plugins::probe())).expect("a plugin");
    let found = answer(&probe, &Grants::new(), "look").await.expect("an answer");
    let expected = [
        "variables 0",
        "arguments 0",
        "input Some(0)",
        "files 0",
        "tcp false",
        "udp false",
        "names false",
        "clock true",
    ];
    assert_eq!(found, expected.join("\n"));
    let chance = [
        answer(&probe, &Grants::new(), "chance").await.expect("a number"),
        answer(&probe, &Grants::new(), "chance").await.expect("a number"),
    ];
    assert_ne!(chance[0], chance[1]);
    let left = probe.run(&Grants::new(), "leave").await;
    assert!(
        matches!(&left, Err(PluginError::Trap(why)) if why == "Exited with i32 exit status 1"),
        "{left:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_wasi_resources_are_reported() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&log);
    let limits =
        Limits::default().max_log_bytes(10_000).max_handles(100).run_timeout(Duration::from_millis(500));
    let probe = Plugins::new()
        .and_then(|all| all.load(plugins::probe()))
        .expect("a plugin")
        .limits(limits.clone())
        .log(move |bytes| sink.lock().expect("a log").extend_from_slice(bytes));
    let none = Grants::new();
    assert_eq!(answer(&probe, &none, "write 10000").await, Ok("written".to_owned()));
    assert_eq!(*log.lock().expect("a log"), [vec![b'o'; 5000], vec![b'e'; 5000]].concat());
    let ended = probe.run(&none, "write 10001").await;
    assert!(matches!(ended, Err(PluginError::LogLimit(10_000))), "{ended:?}");
    assert!(log.lock().expect("a log").len() <= 20_000);
    assert_eq!(answer(&probe, &none, "wait 50").await, Ok("50".to_owned()));
    let ended = probe.run(&none, "wait 100000").await;
    assert!(matches!(ended, Err(PluginError::HandleLimit(100))), "{ended:?}");
    let ended = probe.run(&none, "sleep").await;
    assert!(matches!(ended, Err(PluginError::Timeout(_))), "{ended:?}");
    assert_eq!(answer(&probe, &none, "wait 50").await, Ok("50".to_owned()));
    let wait = async |limits: Limits| probe.clone().limits(limits).run(&none, "wait 1").await;
    let ended = wait(limits.clone().max_instances(1)).await;
    assert!(matches!(ended, Err(PluginError::TooManyInstances(1))), "{ended:?}");
    let ended = wait(limits.clone().max_tables(0)).await;
    assert!(matches!(ended, Err(PluginError::TooManyTables(0))), "{ended:?}");
    let ended = wait(limits.max_memories(0)).await;
    assert!(matches!(ended, Err(PluginError::TooManyMemories(0))), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_grant_are_reported() {
    let (agent, store) = (agent(), store().await);
    let limited = |limit: fn(Grant) -> Grant| {
        Grants::new().bucket("default", limit(Grant::new(Arc::clone(&store), "tenant-1/")))
    };
    answer(&agent, &limited(|grant| grant), "s").await.expect("a step");
    let small = answer(&agent, &limited(|grant| grant.max_checkpoint_bytes(200)), "s").await;
    let expected = "the store failed: the checkpoint has 273 bytes, more than the limit of 200";
    assert_eq!(small, Err(expected.to_owned()));
    // The agent lists with the default limit, which the grant reduces.
    let one = answer(&agent, &limited(|grant| grant.max_results_per_call(1)), "step s").await;
    assert_eq!(one, Ok("2 rust s-2-rust".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_timeout_fails_the_call_and_the_plugin_continues() {
    let server = RedisServer::start().await;
    let grants = granted(&redis_store(&server.url()), "");
    let limits = Limits::default().call_timeout(Duration::from_millis(300));
    let agent = agent().limits(limits);
    answer(&agent, &grants, "s").await.expect("a step");
    server.signal("-STOP").await;
    let slow = answer(&agent, &grants, "s").await;
    server.signal("-CONT").await;
    assert_eq!(slow, Err("the store failed: the call exceeded its timeout of 300ms".to_owned()));
    assert!(answer(&agent, &grants, "s").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_composed_plugin_imports_only_keyvalue_and_types() {
    let composed = plugin::compose(plugins::rust()).expect("composed");
    let mut config = wasmtime::Config::new();
    config.wasm_component_model(true);
    let engine = wasmtime::Engine::new(&config).expect("an engine");
    let component = Component::new(&engine, &composed).expect("a component");
    let kind = component.component_type();
    let imports: Vec<&str> = kind.imports(&engine).map(|(name, _)| name).collect();
    assert_eq!(imports, ["flow:checkpoint/types@0.1.0", "flow:checkpoint/keyvalue@0.1.0"]);

    let store = store().await;
    let ctx = KeyvalueCtx::builder().bucket("default", Arc::clone(&store), "tenant-1/").build();
    let mut linker = Linker::new(&engine);
    keyvalue::add_to_linker(&mut linker).expect("linked");
    let mut instances = wasmtime::Store::new(&engine, Host { ctx, table: ResourceTable::new() });
    let instance = linker.instantiate_async(&mut instances, &component).await.expect("an instance");
    let run = instance
        .get_typed_func::<(&str,), (Result<String, String>,)>(&mut instances, "run")
        .expect("its export");
    let (told,) = run.call_async(&mut instances, ("s",)).await.expect("it ends");
    assert_eq!(told, Ok("1 rust s-1-rust".to_owned()));
    // A normal run continues from the checkpoint of the composed plugin.
    let told = answer(&agent(), &granted(&store, "tenant-1/"), "step s").await;
    assert_eq!(told, Ok("2 rust s-2-rust\n1 rust s-1-rust".to_owned()));
}

/// A host without the library's checkpointer.
struct Host {
    ctx: KeyvalueCtx,
    table: ResourceTable,
}

impl KeyvalueView for Host {
    fn keyvalue(&mut self) -> KeyvalueCtxView<'_> {
        KeyvalueCtxView { ctx: &mut self.ctx, table: &mut self.table }
    }
}

#[test]
fn composition_rejects_disallowed_imports() {
    let refused = plugin::compose(COMPONENT).expect_err("refused");
    let names = ["flow:checkpoint/keyvalue@0.1.0"];
    assert!(matches!(&refused, CompositionError::DisallowedImports(found) if found == &names), "{refused}");
    let refused = plugin::compose(plugins::ENDLESS).expect_err("refused");
    assert!(matches!(refused, CompositionError::NoCheckpointer), "{refused}");
    let refused = plugin::compose(b"no component").expect_err("refused");
    assert!(matches!(refused, CompositionError::NotAComponent(_)), "{refused}");
}

#[test]
fn loading_rejects_disallowed_imports() {
    let refused = Plugins::new().and_then(|all| all.load(COMPONENT)).expect_err("refused");
    assert!(
        matches!(&refused, PluginError::DisallowedImports(names) if names == &["flow:checkpoint/keyvalue@0.1.0"])
    );
    let refused = Plugins::new().and_then(|all| all.load(b"no component")).expect_err("refused");
    assert!(matches!(refused, PluginError::NotAPlugin(_)), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_timeout_stops_the_plugin_and_no_other() {
    let all = Plugins::new().expect("an engine");
    let limits = Limits::default().run_timeout(Duration::from_millis(300));
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
        assert!(matches!(ended, Err(PluginError::Timeout(_))), "{ended:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(20));
    // Waiting for the store counts as time of the run. The next run has a new
    // instance.
    let server = RedisServer::start().await;
    let grants = granted(&redis_store(&server.url()), "");
    let agent = agent.limits(limits);
    answer(&agent, &grants, "s").await.expect("a step");
    server.signal("-STOP").await;
    let ended = agent.run(&grants, "s").await;
    server.signal("-CONT").await;
    assert!(matches!(ended, Err(PluginError::Timeout(_))), "{ended:?}");
    let agent = agent.limits(Limits::default());
    assert!(answer(&agent, &grants, "s").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_limit_stops_the_plugin() {
    let limits = Limits::default().max_memory_bytes(128 << 10);
    let ended = agent().limits(limits).run(&Grants::new(), "s").await;
    assert!(matches!(ended, Err(PluginError::MemoryLimit(_))), "{ended:?}");
}
