//! Plugins that attack, in one host and over one store with honest ones: how each
//! attack ends, that the honest ones meanwhile receive correct answers, and that
//! the keys of others do not change.
//!
//! How much the attacks slow the honest plugins down is printed with `--
//! --nocapture`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use checkpointer::Checkpointer;
use checkpointer::plugin::{
    Grant, Grants, Limits, Plugin, PluginCtx, PluginCtxView, PluginError, PluginView, Plugins, add_to_linker,
};
use checkpointer::store::{Operation, SqliteStore, Store};
use checkpointer_tests::contents::{Contents, StoredDocument};
use checkpointer_tests::contract::{Backend, TestStore, redis_store};
use checkpointer_tests::plugins::{self, granted};
use checkpointer_tests::redis_server::{RedisServer, free_port};
use checkpointer_tests::samples::checkpoint;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::RwLock;
use tokio::task::JoinHandle;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker, ResourceTable};

/// Locked for writing by tests that measure, so that no other test of this file
/// runs meanwhile.
static QUIET: RwLock<()> = RwLock::const_new(());

/// How many plugins perform an attack concurrently: more than there are
/// processors.
const ATTACKERS: usize = 4;

/// The common prefix of all attackers. The prefixes of others are similar.
const ATTACKERS_PREFIX: &str = "attacker/";

/// An input of the plugin `tests/plugins/hostile`, and the expected end of its
/// run.
struct Attack {
    input: &'static str,
    limits: Limits,
    ends: Ends,
}

/// The end of a run.
enum Ends {
    /// [`PluginError::Timeout`] with the limit.
    Time,
    /// [`PluginError::MemoryLimit`] with the limit.
    Memory,
    /// [`PluginError::CallSizeLimit`] with the limit.
    Bytes,
    /// [`PluginError::StackOverflow`].
    Stack,
    /// [`PluginError::Trap`] with this reason.
    Trap(&'static str),
    /// The plugin returns this answer.
    Answer(&'static str),
    /// The plugin returns this error.
    Refusal(&'static str),
}

/// All attacks with their expected ends.
fn attacks() -> Vec<Attack> {
    use Ends::{Answer, Bytes, Memory, Refusal, Stack, Time, Trap};
    const UNREACHABLE: &str = "wasm trap: wasm `unreachable` instruction executed";
    const OUTSIDE: &str = "string pointer/length out of bounds of memory";
    let mut attacks = Vec::new();
    // Attacks that never end by themselves.
    for (input, ends) in [
        ("loop", Time),
        ("calls", Time),
        ("refusals", Time),
        ("opens", Time),
        ("saves", Time),
        ("checkpointers loop", Time),
        ("answer loop", Time),
    ] {
        attacks.push(Attack { input, limits: small().run_timeout(Duration::from_millis(400)), ends });
    }
    // Attacks that end.
    for (input, ends) in [
        ("recursion", Stack),
        // One page below the limit: the tables of the plugin count as well.
        ("memory", Answer("refused at 255 pages")),
        ("allocations", Memory),
        (
            "lists",
            Answer("invalid argument: the limit 4294967295 is above the 1000 results that a call may return"),
        ),
        (
            "lists 20 900000",
            Refusal(
                "StorageReason::TooLarge, Effect::None: the values have more than 1048576 bytes together; request fewer entries",
            ),
        ),
        (
            "checkpointers",
            Answer(
                "16 open, then StorageReason::Unsupported, Effect::None: at most 16 checkpointers may be open",
            ),
        ),
        ("claim 1073741824", Trap(OUTSIDE)),
        ("string 1073741824", Answer("there is no memory for it")),
        ("string 2000000", Bytes),
        ("strings 2000 1000", Bytes),
        ("strings 500000 1000000", Bytes),
        ("bucket-of 200000", Answer("refused in 1000064 bytes")),
        ("answer-of 2000000", Bytes),
        ("no-utf-8", Trap("invalid utf-8 sequence of 1 bytes from index 1")),
        ("no-case", Trap("invalid option discriminant")),
        ("drop-twice", Trap("unknown handle index 1")),
        ("use-after-drop", Trap("unknown handle index 1")),
        ("leak 10", Answer("leaked 10")),
        ("guess 0", Trap("unknown handle index 0")),
        ("guess 2", Trap("unknown handle index 2")),
        ("guess 65536", Trap("unknown handle index 65536")),
        ("guess 4294967295", Trap("unknown handle index 4294967295")),
        ("guess-drop 2", Trap("unknown handle index 2")),
        ("answer trap", Trap(UNREACHABLE)),
        ("answer outside", Trap("realloc return: beyond end of memory")),
        ("answer call", Trap("wasm trap: cannot leave component instance")),
        ("trap-after-save", Trap(UNREACHABLE)),
        ("buckets tenant-2 tenant-2/ honest-1 attacker", Answer("55 do not exist; []")),
        (
            "prefixes tenant-2/ ../tenant-2/ ../../tenant-2/llmfy_checkpoint: ../../honest-1/llmfy_checkpoint:",
            Answer("3920 taken, 10 refused; []"),
        ),
        (
            "ids s s-1-rust tenant-2/s ../../tenant-2/llmfy_checkpoint:session:s",
            Answer("666 taken, 95 refused; []"),
        ),
    ] {
        attacks.push(Attack { input, limits: small(), ends });
    }
    // 18 MB in 16 MiB: the checkpointer has the memory limit of the plugin.
    let limits = small().max_bytes_per_call(32 << 20);
    let ends = Refusal(
        "StorageReason::TooLarge, Effect::None: the call needs more than its limit of 16777216 bytes of memory",
    );
    attacks.push(Attack { input: "lists 20 900000", limits, ends });
    // With enough memory to build the text.
    let limits = small().max_memory_bytes(2 << 30);
    attacks.push(Attack { input: "string 1073741824", limits, ends: Bytes });
    attacks
}

/// Enough for an honest plugin.
fn small() -> Limits {
    Limits::default().max_memory_bytes(16 << 20).max_bytes_per_call(1 << 20)
}

impl Attack {
    fn check(&self, ended: &Result<Result<String, String>, PluginError>) {
        let is_right = match (&self.ends, ended) {
            (Ends::Time, Err(PluginError::Timeout(limit))) => *limit == self.limits.run_timeout,
            (Ends::Memory, Err(PluginError::MemoryLimit(limit))) => *limit == self.limits.max_memory_bytes,
            (Ends::Bytes, Err(PluginError::CallSizeLimit(limit))) => *limit == self.limits.max_bytes_per_call,
            (Ends::Stack, Err(PluginError::StackOverflow)) => true,
            (Ends::Trap(expected), Err(PluginError::Trap(reason))) => reason == expected,
            (Ends::Answer(expected), Ok(Ok(answer))) => answer == expected,
            (Ends::Refusal(expected), Ok(Err(error))) => error == expected,
            _ => false,
        };
        assert!(is_right, "{}: {ended:?}", self.input);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attacks_over_a_file_affect_no_other_plugin() {
    let _alone = QUIET.write().await;
    attack_over(TestStore::in_memory_file().await, TestStore::in_memory_file().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attacks_over_redis_affect_no_other_plugin() {
    let _alone = QUIET.write().await;
    attack_over(TestStore::new(Backend::Redis).await, TestStore::new(Backend::Redis).await).await;
}

/// Performs every attack over `attacked`. Honest plugins do the same steps over
/// `quiet`, which has no attackers: in the end both have equal contents.
async fn attack_over(attacked: TestStore, quiet: TestStore) {
    let all = Plugins::new().expect("an engine");
    let agent = all.load(plugins::rust()).expect("a plugin");
    let hostile = all.load(plugins::hostile()).expect("a plugin");
    for store in [&attacked, &quiet] {
        fill_for_others(store).await;
    }
    for (number, attack) in attacks().iter().enumerate() {
        let goes_on = Arc::new(AtomicBool::new(true));
        let honest = Honest::begin(&agent, &attacked, number, {
            let goes_on = Arc::clone(&goes_on);
            move |_, steps| steps < 3 || goes_on.load(Ordering::SeqCst)
        });
        let start = Instant::now();
        let attackers: Vec<_> = (0..ATTACKERS)
            .map(|attacker| granted(&attacked.inner, &format!("{ATTACKERS_PREFIX}{number}/{attacker}/")))
            .collect();
        let runs: Vec<_> = attackers.iter().map(|grants| run(&hostile, attack, grants)).collect();
        for run in runs {
            attack.check(&run.await.expect("no panic"));
        }
        let time = start.elapsed();
        goes_on.store(false, Ordering::SeqCst);
        let served = honest.end().await;
        let steps = served.steps.clone();
        let alone = Honest::begin(&agent, &quiet, number, move |one, count| count < steps[one]).end().await;
        println!(
            "{}, {ATTACKERS} at once for {time:.1?}: an honest step takes {:.1?}, alone {:.1?}, {:.1} times as long",
            attack.input,
            served.time_of_a_step(),
            alone.time_of_a_step(),
            served.time_of_a_step().as_secs_f64() / alone.time_of_a_step().as_secs_f64(),
        );
        let (there, expected) = (Contents::of(&attacked).await, Contents::of(&quiet).await);
        assert!(
            Others::of(&there) == Others::of(&expected),
            "{}: {}",
            attack.input,
            there.difference(&expected)
        );
        for grants in &attackers {
            let next = hostile.clone().limits(small()).run(grants, "nothing").await;
            let next = next.expect("it ends").expect("an answer");
            assert_eq!(next, r#"after 0 other runs, loaded {"harm": "none"}"#, "after {}", attack.input);
        }
        remove_all_of_attackers(&attacked).await;
    }
}

fn run(
    hostile: &Plugin,
    attack: &Attack,
    grants: &Grants,
) -> JoinHandle<Result<Result<String, String>, PluginError>> {
    let (hostile, grants, input) =
        (hostile.clone().limits(attack.limits.clone()), grants.clone(), attack.input);
    tokio::spawn(async move { hostile.run(&grants, input).await })
}

/// Keys that attackers must not change: checkpoints with the ids that attackers
/// use, some pinned and some that expire, and a value that is not a checkpoint.
async fn fill_for_others(store: &TestStore) {
    for prefix in ["", "tenant-2/", "attacker-2/", "attacke", "*"] {
        let prefix = format!("{prefix}llmfy_checkpoint:");
        let open = Checkpointer::builder().prefix(&prefix).open_store(Arc::clone(&store.inner)).await;
        let checkpointer = open.expect("opened");
        let expiring = Checkpointer::builder().prefix(&prefix).ttl(Duration::from_secs(3600));
        let expiring = expiring.open_store(Arc::clone(&store.inner)).await.expect("opened");
        for session in ["s", "session", "*"] {
            for second in 0..3 {
                let id = format!("{session}-{second}");
                checkpointer.save(&checkpoint(session, &id, "run", second)).await.expect("saved");
            }
            expiring.save(&checkpoint(session, session, session, 3)).await.expect("saved");
        }
        assert_eq!(checkpointer.pin_session("s").await.expect("pinned"), 4);
    }
    store.put("plain", "nobody's").await;
}

/// In batches: an attack may leave many keys.
async fn remove_all_of_attackers(store: &TestStore) {
    let left = store.keys(ATTACKERS_PREFIX).await;
    for some in left.chunks(1000) {
        store.write(some.iter().cloned().map(Operation::Delete).collect()).await;
    }
}

/// The contents of a store without the keys of the attackers.
#[derive(Debug, PartialEq)]
struct Others<'a> {
    keys: BTreeMap<&'a str, Option<bool>>,
    kept: BTreeMap<&'a str, StoredDocument<'a>>,
    /// Index entries without a document.
    invalid_entries: BTreeSet<(String, String)>,
}

impl<'a> Others<'a> {
    fn of(contents: &'a Contents) -> Self {
        let is_of_others = |key: &str| !key.starts_with(ATTACKERS_PREFIX);
        let keys = contents.keys().filter(|key| is_of_others(key)).map(|key| (key, contents.expires(key)));
        Self {
            keys: keys.collect(),
            kept: contents.documents().into_iter().filter(|(key, _)| is_of_others(key)).collect(),
            invalid_entries: contents
                .invalid_entries()
                .into_iter()
                .filter(|(index, _)| is_of_others(index))
                .collect(),
        }
    }
}

/// Running honest plugins, each with a prefix of its own.
struct Honest {
    tasks: Vec<JoinHandle<(u32, Duration)>>,
}

/// The steps of the honest plugins, and their duration.
struct Served {
    steps: Vec<u32>,
    time: Duration,
}

impl Honest {
    const PREFIXES: [&str; 2] = ["honest-1/", "honest-2/"];

    /// Starts the plugins. They take steps while `goes_on` returns true for the
    /// number of the plugin and the number of its steps.
    fn begin(
        agent: &Plugin,
        store: &TestStore,
        number: usize,
        goes_on: impl Fn(usize, u32) -> bool + Clone + Send + 'static,
    ) -> Self {
        let tasks = Self::PREFIXES.iter().enumerate().map(|(one, prefix)| {
            let (agent, grants, goes_on) = (agent.clone(), granted(&store.inner, prefix), goes_on.clone());
            tokio::spawn(async move {
                let (mut steps, start) = (0, Instant::now());
                while goes_on(one, steps) {
                    step(&agent, &grants, number, steps).await;
                    steps += 1;
                }
                (steps, start.elapsed())
            })
        });
        Self { tasks: tasks.collect() }
    }

    async fn end(self) -> Served {
        let mut served = Served { steps: Vec::new(), time: Duration::ZERO };
        for task in self.tasks {
            let (steps, time) = task.await.expect("the exact answers");
            served.steps.push(steps);
            served.time += time;
        }
        served
    }
}

impl Served {
    fn time_of_a_step(&self) -> Duration {
        self.time / self.steps.iter().sum::<u32>()
    }
}

/// One step of the sample agent, whose answer must be correct.
async fn step(agent: &Plugin, grants: &Grants, number: usize, before: u32) {
    const STEPS_OF_A_SESSION: u32 = 20;
    let session = format!("s{number}-{}", before / STEPS_OF_A_SESSION);
    let count = before % STEPS_OF_A_SESSION + 1;
    let newest = (1..=count).rev().take(10).map(|step| format!("{step} rust {session}-{step}-rust"));
    let expected = newest.collect::<Vec<_>>().join("\n");
    let answer = agent.run(grants, &session).await.expect("an honest plugin is served");
    assert_eq!(answer, Ok(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn continuous_saves_stop_at_the_quota() {
    let _beside_others = QUIET.read().await;
    let hostile = Plugins::new().and_then(|all| all.load(plugins::hostile())).expect("a plugin");
    for backend in [Backend::File, Backend::Redis] {
        let store = TestStore::new(backend).await;
        // All attackers share the grant.
        let grant = Grant::new(Arc::clone(&store.inner), ATTACKERS_PREFIX);
        let saves = |grant: Grant| {
            let runs = (0..ATTACKERS).map(|_| {
                let (hostile, grants) = (hostile.clone(), Grants::new().bucket("default", grant.clone()));
                tokio::spawn(async move { hostile.run(&grants, "saves").await.expect("it ends") })
            });
            runs.collect::<Vec<_>>()
        };
        for run in saves(grant.clone().max_total_checkpoints(50)) {
            let refused = "StorageReason::Full, Effect::None: the bucket is full: its limit is 50 checkpoints; delete checkpoints";
            assert_eq!(run.await.expect("no panic"), Err(refused.to_owned()));
        }
        assert_eq!(Contents::of(&store).await.count(), 50);
        store.clear().await;
        for run in saves(grant.clone().max_total_bytes(20_000)) {
            let refused = "StorageReason::Full, Effect::None: the bucket is full: its limit is 20000 bytes; delete checkpoints";
            assert_eq!(run.await.expect("no panic"), Err(refused.to_owned()));
        }
        store.clear().await;
        let hostile = hostile.clone().limits(small().run_timeout(Duration::from_secs(2)));
        let slow = Grants::new().bucket("default", grant.clone().max_operations_per_second(10));
        let ended = hostile.run(&slow, "saves").await;
        let is_timeout = matches!(ended, Err(PluginError::Timeout(_) | PluginError::RateLimitTimeout(_)));
        assert!(is_timeout, "{ended:?}");
        // The burst of one second, and two more seconds.
        let saved = Contents::of(&store).await.count();
        assert!((10..=31).contains(&saved), "{saved}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_is_kept_if_the_plugin_traps_on_the_answer() {
    let _beside_others = QUIET.read().await;
    let hostile = Plugins::new().and_then(|all| all.load(plugins::hostile())).expect("a plugin");
    let hostile = hostile.limits(small().run_timeout(Duration::from_secs(1)));
    for backend in [Backend::Memory, Backend::Redis] {
        let store = TestStore::new(backend).await;
        for harm in ["answer trap", "answer loop", "answer outside", "answer call", "trap-after-save"] {
            let ended = hostile.run(&granted(&store.inner, "attacker/"), harm).await;
            assert!(
                matches!(ended, Err(PluginError::Trap(_) | PluginError::Timeout(_))),
                "{harm}: {ended:?}"
            );
            let library = Checkpointer::builder().prefix("attacker/answers:");
            let library = library.open_store(Arc::clone(&store.inner)).await.expect("opened");
            let saved = library.load("session", "id").await.expect("loaded").expect(harm);
            assert_eq!(saved.state, "{}");
            assert_eq!(library.clear_all().await.expect("cleared"), 1);
        }
    }
}

/// The time that the checkpointer computes counts as time of the run: here it
/// compresses a state and then fails to write it.
#[tokio::test]
async fn a_plugin_whose_call_computes_too_long_is_stopped() {
    let _alone = QUIET.write().await;
    let limits = Limits::default().run_timeout(Duration::from_millis(400));
    let hostile =
        Plugins::new().and_then(|all| all.load(plugins::hostile())).expect("a plugin").limits(limits);
    let store = TestStore::new(Backend::Memory).await;
    let to_read =
        Grants::new().bucket("default", Grant::new(Arc::clone(&store.inner), "attacker/").read_only());
    let start = Instant::now();
    let run = tokio::spawn(async move { hostile.run(&to_read, "compression 24000000").await });
    let ended = run.await.expect("no panic");
    println!("400 ms for compression: ended after {:.1?}", start.elapsed());
    assert!(matches!(ended, Err(PluginError::Timeout(_))), "{ended:?}");
}

#[test]
fn a_plugin_that_imports_keyvalue_is_rejected() {
    let refused = Plugins::new().and_then(|all| all.load(plugins::raw_store_import())).expect_err("refused");
    assert!(
        matches!(&refused, PluginError::DisallowedImports(names) if names == &["flow:checkpoint/keyvalue@0.1.0"]),
        "{refused}"
    );
    // A host with its own linker rejects it as well.
    struct Ctx(PluginCtx, ResourceTable);
    impl PluginView for Ctx {
        fn plugin(&mut self) -> PluginCtxView<'_> {
            PluginCtxView { ctx: &mut self.0, table: &mut self.1 }
        }
    }
    let engine = Engine::default();
    let component = Component::new(&engine, plugins::raw_store_import()).expect("a component");
    let mut linker = Linker::<Ctx>::new(&engine);
    add_to_linker(&mut linker).expect("the import");
    let refused = linker.instantiate_pre(&component).err().expect("refused");
    assert!(refused.to_string().contains("flow:checkpoint/keyvalue@0.1.0"), "{refused:#}");
}

const USER: &str = "secret-user";
const PASSWORD: &str = "secret-password";

/// All error texts that a plugin receives over a store, which must not contain
/// the `secrets`. Returns those that describe the store.
async fn texts_about(store: &Arc<dyn Store>, secrets: &[&str]) -> BTreeSet<String> {
    let hostile = Plugins::new().and_then(|all| all.load(plugins::hostile())).expect("a plugin");
    let texts = hostile.run(&granted(store, "secret-prefix/"), "texts").await.expect("it ends");
    let texts = texts.expect("an answer");
    assert!(texts.lines().count() > 20, "{texts}");
    for secret in [USER, PASSWORD, "secret-prefix", "127.0.0.1", "localhost"].iter().chain(secrets) {
        assert_eq!(texts.lines().find(|text| text.contains(secret)), None, "{secret} is told");
    }
    let refused = "StorageReason::NoSuchBucket, Effect::None: there is no bucket \"not-granted\"";
    let about_the_store = texts.lines().filter(|text| text.starts_with("StorageReason"));
    about_the_store.filter(|text| *text != refused).map(str::to_owned).collect()
}

fn set<const N: usize>(texts: [&str; N]) -> BTreeSet<String> {
    texts.into_iter().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_a_working_store_reveal_nothing() {
    let _beside_others = QUIET.read().await;
    for backend in [Backend::Memory, Backend::Redis] {
        let store = TestStore::new(backend).await;
        let port = store.server.as_ref().map_or("no port".to_owned(), |server| server.port().to_string());
        assert_eq!(texts_about(&store.inner, &[&port]).await, set([]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_an_unreachable_store_reveal_no_address() {
    let _beside_others = QUIET.read().await;
    let expected = set([
        "StorageReason::Unavailable, Effect::None: the store can't be reached; check its address and that it is running",
    ]);
    let port = free_port().to_string();
    let down = redis_store(&format!("redis://{USER}:{PASSWORD}@127.0.0.1:{port}"));
    assert_eq!(texts_about(&down, &[&port]).await, expected);
    let socket = format!("redis+unix:///nowhere/secret.sock?user={USER}&password={PASSWORD}");
    assert_eq!(texts_about(&redis_store(&socket), &["nowhere", "secret.sock"]).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_a_stalled_store_reveal_no_address() {
    let _beside_others = QUIET.read().await;
    let server = RedisServer::start().await;
    let port = server.port().to_string();
    let password = format!(">{PASSWORD}");
    server.command::<()>(&["ACL", "SETUSER", USER, "on", &password, "~*", "+@all"]).await;
    let deaf = redis_store(&format!("redis://{USER}:{PASSWORD}@127.0.0.1:{port}?response_timeout=0.5"));
    // The server accepts clients and runs no script.
    server.command::<()>(&["CLIENT", "PAUSE", "600000", "WRITE"]).await;
    let texts = texts_about(&deaf, &[&port]).await;
    server.signal("-STOP").await;
    let expected = set([
        "StorageReason::Unavailable, Effect::None: the store can't be reached; check its address and that it is running",
    ]);
    let unreached = redis_store(&format!("redis://{USER}:{PASSWORD}@127.0.0.1:{port}?connect_timeout=0.1"));
    assert_eq!(texts_about(&unreached, &[&port]).await, expected);
    server.signal("-CONT").await;
    assert_eq!(
        texts,
        set([
            "StorageReason::Timeout, Effect::None: the store did not answer in time",
            "StorageReason::Timeout, Effect::Unknown: the store did not answer in time",
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_a_rejected_password_reveal_no_credentials() {
    let _beside_others = QUIET.read().await;
    let server = RedisServer::start_with(&["--requirepass", "another"]).await;
    let port = server.port().to_string();
    let expected =
        set(["StorageReason::AccessDenied, Effect::None: the store rejected the user or the password"]);
    for credentials in [format!("{USER}:{PASSWORD}@"), format!(":{PASSWORD}@"), String::new()] {
        let store = redis_store(&format!("redis://{credentials}127.0.0.1:{port}"));
        assert_eq!(texts_about(&store, &[&port, "another"]).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_missing_permissions_reveal_no_user() {
    let _beside_others = QUIET.read().await;
    let server = RedisServer::start().await;
    let port = server.port().to_string();
    for may in ["+@connection", "+@all -set", "+@all -get"] {
        let password = format!(">{PASSWORD}");
        let mut words = vec!["ACL", "SETUSER", USER, "reset", "on", &password, "~*"];
        words.extend(may.split(' '));
        server.command::<()>(&words).await;
        let store = redis_store(&format!("redis://{USER}:{PASSWORD}@127.0.0.1:{port}"));
        let texts = texts_about(&store, &[&port]).await;
        assert!(!texts.is_empty(), "{may}");
        for text in texts {
            assert!(text.starts_with("StorageReason::AccessDenied, Effect::None: "), "{may}: {text}");
        }
    }
}

/// A later server version names the user and the key in its errors.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_named_by_the_server_is_not_revealed() {
    let _beside_others = QUIET.read().await;
    let server = RedisServer::start().await;
    let password = format!(">{PASSWORD}");
    server.command::<()>(&["ACL", "SETUSER", USER, "reset", "on", &password, "~*", "+@connection"]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port().to_string();
    tokio::spawn(speak_as_a_later_version(listener, server.port()));
    let store = redis_store(&format!("redis://{USER}:{PASSWORD}@127.0.0.1:{port}"));
    assert!(!texts_about(&store, &[&port]).await.is_empty());
}

/// Forwards the answers of a server of version 7.0 with the wording of version
/// 7.2 and later.
async fn speak_as_a_later_version(listener: TcpListener, port: u16) {
    while let Ok((client, _)) = listener.accept().await {
        let server = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
        let ((mut asks, mut hears), (mut answers, mut is_asked)) = (client.into_split(), server.into_split());
        tokio::spawn(async move { tokio::io::copy(&mut asks, &mut is_asked).await });
        tokio::spawn(async move {
            let mut answer = [0; 4096];
            while let Ok(size @ 1..) = answers.read(&mut answer).await {
                let text = String::from_utf8_lossy(&answer[..size]);
                let later = text.replace("NOPERM this user has", &format!("NOPERM User {USER} has"));
                if hears.write_all(later.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_a_damaged_file_reveal_no_path() {
    let _beside_others = QUIET.read().await;
    let folder = TempDir::with_prefix("secret-folder").expect("a temporary folder");
    let file = folder.path().join("secret.db");
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&file).await.expect("a database"));
    let database = rusqlite::Connection::open(&file).expect("the same database");
    database.execute_batch("DROP TABLE checkpointer_value").expect("dropped");
    assert_eq!(
        texts_about(&store, &["secret-folder", "secret.db", "checkpointer_value"]).await,
        set(["StorageReason::Other, Effect::None: the store failed"])
    );
}
