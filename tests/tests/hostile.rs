//! Plugins that mean harm, in one host and over one store with honest ones: how
//! each attack ends, that the honest ones get the exact answers meanwhile, and that
//! nobody else's keys change.
//!
//! `RUNS` says how many runs are to leave memory as it is (10,000). What the attacks
//! cost the honest ones is printed: see it with `-- --nocapture`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use checkpointer::Checkpointer;
use checkpointer::plugin::{
    Grant, Grants, Limits, Plugin, PluginCtx, PluginCtxView, PluginError, PluginView, Plugins, add_to_linker,
};
use checkpointer::store::{Operation, SqliteStore, Store};
use checkpointer_tests::contents::{Contents, Kept};
use checkpointer_tests::contract::{Backend, TestStore, redis_store};
use checkpointer_tests::plugins;
use checkpointer_tests::redis_server::{RedisServer, free_port};
use checkpointer_tests::samples::checkpoint;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::RwLock;
use tokio::task::JoinHandle;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker, ResourceTable};

/// Tests that measure write to this, and so run alone; the others read.
static QUIET: RwLock<()> = RwLock::const_new(());

/// How many do the same attack at once: more than there are processors to run on.
const ATTACKERS: usize = 4;

/// What the prefixes of all attackers begin with. Others begin almost so.
const ATTACKERS_PREFIX: &str = "attacker/";

/// A word for the plugin `tests/plugins/hostile`, and what has to come of it.
struct Attack {
    input: &'static str,
    limits: Limits,
    ends: Ends,
}

/// How a run ends.
enum Ends {
    /// [`PluginError::Time`], with the limit.
    Time,
    /// [`PluginError::Memory`], with the limit.
    Memory,
    /// [`PluginError::Bytes`], with the limit.
    Bytes,
    /// [`PluginError::Stack`].
    Stack,
    /// [`PluginError::Trap`], with this reason.
    Trap(&'static str),
    /// By itself, with this answer.
    Answer(&'static str),
    /// By itself, with this error.
    Refusal(&'static str),
}

/// All attacks, and how each one ends.
fn attacks() -> Vec<Attack> {
    use Ends::{Answer, Bytes, Memory, Refusal, Stack, Time, Trap};
    const UNREACHABLE: &str = "wasm trap: wasm `unreachable` instruction executed";
    const OUTSIDE: &str = "string pointer/length out of bounds of memory";
    let mut attacks = Vec::new();
    // What never ends by itself.
    for (input, ends) in [
        ("loop", Time),
        ("calls", Time),
        ("refusals", Time),
        ("opens", Time),
        ("saves", Time),
        ("checkpointers loop", Time),
        ("answer loop", Time),
    ] {
        attacks.push(Attack {
            input,
            limits: Limits { run_time: Duration::from_millis(400), ..small() },
            ends,
        });
    }
    // What ends, in any time.
    for (input, ends) in [
        ("recursion", Stack),
        // A page less than there might be: the tables of the plugin count as well.
        ("memory", Answer("refused at 255 pages")),
        ("allocations", Memory),
        (
            "lists",
            Answer("invalid argument: the limit is 4294967295, and a call gives 1000 results at the most"),
        ),
        (
            "lists 20 900000",
            Refusal(
                "StorageReason::TooLarge, Effect::None: the answer has more than 1048576 bytes; ask for fewer at once",
            ),
        ),
        (
            "checkpointers",
            Answer(
                "16 open, then StorageReason::Unsupported, Effect::None: no more than 16 checkpointers may be open",
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
    // 18 MB, where 16 MiB fit: the checkpointer of a plugin has as much as the plugin.
    let limits = Limits { max_bytes_per_call: 32 << 20, ..small() };
    let ends = Refusal(
        "StorageReason::TooLarge, Effect::None: the call needs more than the 16777216 bytes of memory that there are for it",
    );
    attacks.push(Attack { input: "lists 20 900000", limits, ends });
    // With all the memory that it takes.
    let limits = Limits { memory: 2 << 30, ..small() };
    attacks.push(Attack { input: "string 1073741824", limits, ends: Bytes });
    attacks
}

/// Enough for what is honest.
fn small() -> Limits {
    Limits { memory: 16 << 20, max_bytes_per_call: 1 << 20, ..Limits::default() }
}

impl Attack {
    fn check(&self, ended: &Result<Result<String, String>, PluginError>) {
        let is_right = match (&self.ends, ended) {
            (Ends::Time, Err(PluginError::Time(limit))) => *limit == self.limits.run_time,
            (Ends::Memory, Err(PluginError::Memory(limit))) => *limit == self.limits.memory,
            (Ends::Bytes, Err(PluginError::Bytes(limit))) => *limit == self.limits.max_bytes_per_call,
            (Ends::Stack, Err(PluginError::Stack)) => true,
            (Ends::Trap(expected), Err(PluginError::Trap(reason))) => reason == expected,
            (Ends::Answer(expected), Ok(Ok(answer))) => answer == expected,
            (Ends::Refusal(expected), Ok(Err(error))) => error == expected,
            _ => false,
        };
        assert!(is_right, "{}: {ended:?}", self.input);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attack_harms_anyone_over_a_file() {
    let _alone = QUIET.write().await;
    attack_over(TestStore::in_memory_file().await, TestStore::in_memory_file().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attack_harms_anyone_over_redis() {
    let _alone = QUIET.write().await;
    attack_over(TestStore::new(Backend::Redis).await, TestStore::new(Backend::Redis).await).await;
}

/// Does every attack over `attacked`. What is honest is done over `quiet` as well,
/// where nobody attacks: in the end both hold the same.
async fn attack_over(attacked: TestStore, quiet: TestStore) {
    let all = Plugins::new().expect("an engine");
    let agent = all.load(plugins::rust()).expect("a plugin");
    let hostile = all.load(plugins::hostile()).expect("a plugin");
    for place in [&attacked, &quiet] {
        fill_for_others(place).await;
    }
    for (number, attack) in attacks().iter().enumerate() {
        let goes_on = Arc::new(AtomicBool::new(true));
        let honest = Honest::begin(&agent, &attacked, number, {
            let goes_on = Arc::clone(&goes_on);
            move |_, steps| steps < 3 || goes_on.load(Ordering::SeqCst)
        });
        let start = Instant::now();
        let attackers: Vec<_> = (0..ATTACKERS)
            .map(|attacker| granted(&attacked.store, &format!("{ATTACKERS_PREFIX}{number}/{attacker}/")))
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

fn granted(store: &Arc<dyn Store>, prefix: &str) -> Grants {
    Grants::new().bucket("default", Grant::new(Arc::clone(store), prefix))
}

/// What nobody here may touch: checkpoints with the ids that the attackers use,
/// some pinned and some that expire, and what is no checkpoint.
async fn fill_for_others(place: &TestStore) {
    for prefix in ["", "tenant-2/", "attacker-2/", "attacke", "*"] {
        let prefix = format!("{prefix}llmfy_checkpoint:");
        let open = Checkpointer::builder().prefix(&prefix).open_store(Arc::clone(&place.store)).await;
        let checkpointer = open.expect("opened");
        let expiring = Checkpointer::builder().prefix(&prefix).ttl(Duration::from_secs(3600));
        let expiring = expiring.open_store(Arc::clone(&place.store)).await.expect("opened");
        for session in ["s", "session", "*"] {
            for second in 0..3 {
                let id = format!("{session}-{second}");
                checkpointer.save(&checkpoint(session, &id, "run", second)).await.expect("saved");
            }
            expiring.save(&checkpoint(session, session, session, 3)).await.expect("saved");
        }
        assert_eq!(checkpointer.pin_session("s").await.expect("pinned"), 4);
    }
    place.put("plain", "nobody's").await;
}

/// What is left of an attack may be large.
async fn remove_all_of_attackers(place: &TestStore) {
    let left = place.keys(ATTACKERS_PREFIX).await;
    for some in left.chunks(1000) {
        place.write(some.iter().cloned().map(Operation::Delete).collect()).await;
    }
}

/// All that a store holds of others than the attackers.
#[derive(Debug, PartialEq)]
struct Others<'a> {
    keys: BTreeMap<&'a str, Option<bool>>,
    kept: BTreeMap<&'a str, Kept<'a>>,
    /// Entries of indexes that name no document.
    wrong: BTreeSet<(String, String)>,
}

impl<'a> Others<'a> {
    fn of(contents: &'a Contents) -> Self {
        let is_of_others = |key: &str| !key.starts_with(ATTACKERS_PREFIX);
        let keys = contents.keys().filter(|key| is_of_others(key)).map(|key| (key, contents.expires(key)));
        Self {
            keys: keys.collect(),
            kept: contents.kept().into_iter().filter(|(key, _)| is_of_others(key)).collect(),
            wrong: contents.wrong().into_iter().filter(|(index, _)| is_of_others(index)).collect(),
        }
    }
}

/// Honest plugins at work, each with a prefix of its own.
struct Honest {
    tasks: Vec<JoinHandle<(u32, Duration)>>,
}

/// What they got done.
struct Served {
    steps: Vec<u32>,
    time: Duration,
}

impl Honest {
    const PREFIXES: [&str; 2] = ["honest-1/", "honest-2/"];

    /// Lets them do steps for as long as `goes_on` says, which is given who asks
    /// and the number of steps so far.
    fn begin(
        agent: &Plugin,
        place: &TestStore,
        number: usize,
        goes_on: impl Fn(usize, u32) -> bool + Clone + Send + 'static,
    ) -> Self {
        let tasks = Self::PREFIXES.iter().enumerate().map(|(one, prefix)| {
            let (agent, grants, goes_on) = (agent.clone(), granted(&place.store, prefix), goes_on.clone());
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

/// One step of the sample agent, after so many others; its answer is as it is to be.
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
async fn millions_of_saves_end_at_what_was_granted() {
    let _beside_others = QUIET.read().await;
    let hostile = Plugins::new().and_then(|all| all.load(plugins::hostile())).expect("a plugin");
    for kind in [Backend::File, Backend::Redis] {
        let place = TestStore::new(kind).await;
        // All attackers share it.
        let grant = Grant::new(Arc::clone(&place.store), ATTACKERS_PREFIX);
        let saves = |grant: Grant| {
            let runs = (0..ATTACKERS).map(|_| {
                let (hostile, grants) = (hostile.clone(), Grants::new().bucket("default", grant.clone()));
                tokio::spawn(async move { hostile.run(&grants, "saves").await.expect("it ends") })
            });
            runs.collect::<Vec<_>>()
        };
        for run in saves(grant.clone().checkpoints(50)) {
            let refused = "StorageReason::Full, Effect::None: the bucket is full: it may have 50 checkpoints";
            assert_eq!(run.await.expect("no panic"), Err(refused.to_owned()));
        }
        assert_eq!(Contents::of(&place).await.count(), 50);
        place.clear().await;
        for run in saves(grant.clone().bytes(20_000)) {
            let refused = "StorageReason::Full, Effect::None: the bucket is full: it may have 20000 bytes";
            assert_eq!(run.await.expect("no panic"), Err(refused.to_owned()));
        }
        place.clear().await;
        let hostile = hostile.clone().limits(Limits { run_time: Duration::from_secs(2), ..small() });
        let slow = Grants::new().bucket("default", grant.clone().operations_per_second(10));
        let ended = hostile.run(&slow, "saves").await;
        assert!(matches!(ended, Err(PluginError::Time(_))), "{ended:?}");
        // A second's worth at once, and that of two seconds.
        let saved = Contents::of(&place).await.count();
        assert!((10..=31).contains(&saved), "{saved}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_saved_stays_where_a_plugin_traps_over_the_answer() {
    let _beside_others = QUIET.read().await;
    let hostile = Plugins::new().and_then(|all| all.load(plugins::hostile())).expect("a plugin");
    let hostile = hostile.limits(Limits { run_time: Duration::from_secs(1), ..small() });
    for kind in [Backend::Memory, Backend::Redis] {
        let place = TestStore::new(kind).await;
        for harm in ["answer trap", "answer loop", "answer outside", "answer call", "trap-after-save"] {
            let ended = hostile.run(&granted(&place.store, "attacker/"), harm).await;
            assert!(matches!(ended, Err(PluginError::Trap(_) | PluginError::Time(_))), "{harm}: {ended:?}");
            let library = Checkpointer::builder().prefix("attacker/answers:");
            let library = library.open_store(Arc::clone(&place.store)).await.expect("opened");
            let saved = library.load("session", "id").await.expect("loaded").expect(harm);
            assert_eq!(saved.state, "{}");
            assert_eq!(library.clear_all().await.expect("cleared"), 1);
        }
    }
}

/// What the checkpointer computes for a plugin is a part of its run: here it
/// compresses, and hears at once that it may not write.
#[tokio::test]
async fn a_plugin_that_lets_the_checkpointer_compute_for_too_long_is_ended() {
    let _alone = QUIET.write().await;
    let limits = Limits { run_time: Duration::from_millis(400), ..Limits::default() };
    let hostile =
        Plugins::new().and_then(|all| all.load(plugins::hostile())).expect("a plugin").limits(limits);
    let place = TestStore::new(Backend::Memory).await;
    let to_read =
        Grants::new().bucket("default", Grant::new(Arc::clone(&place.store), "attacker/").read_only());
    let start = Instant::now();
    let run = tokio::spawn(async move { hostile.run(&to_read, "compression 24000000").await });
    let ended = run.await.expect("no panic");
    println!("400 ms for compression: ended after {:.1?}", start.elapsed());
    assert!(matches!(ended, Err(PluginError::Time(_))), "{ended:?}");
}

#[test]
fn a_plugin_that_wants_the_raw_store_is_not_run() {
    let refused = Plugins::new().and_then(|all| all.load(plugins::thief())).err().expect("refused");
    assert!(
        matches!(&refused, PluginError::Imports(names) if names == &["flow:checkpoint/keyvalue@0.1.0"]),
        "{refused}"
    );
    // Nor by a host that has its own way to run plugins.
    struct Ctx(PluginCtx, ResourceTable);
    impl PluginView for Ctx {
        fn plugin(&mut self) -> PluginCtxView<'_> {
            PluginCtxView { ctx: &mut self.0, table: &mut self.1 }
        }
    }
    let engine = Engine::default();
    let thief = Component::new(&engine, plugins::thief()).expect("a component");
    let mut linker = Linker::<Ctx>::new(&engine);
    add_to_linker(&mut linker).expect("the import");
    let refused = linker.instantiate_pre(&thief).err().expect("refused");
    assert!(refused.to_string().contains("flow:checkpoint/keyvalue@0.1.0"), "{refused:#}");
}

const USER: &str = "secret-user";
const PASSWORD: &str = "secret-password";

/// All that errors say to a plugin over a store of which nobody is to learn the
/// `secrets`; in the end, what of it is about the store.
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
async fn a_store_that_is_well_is_not_told_of() {
    let _beside_others = QUIET.read().await;
    for kind in [Backend::Memory, Backend::Redis] {
        let place = TestStore::new(kind).await;
        let port = place.server.as_ref().map_or("no port".to_owned(), |server| server.port().to_string());
        assert_eq!(texts_about(&place.store, &[&port]).await, set([]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_can_t_be_reached_is_not_told_of() {
    let _beside_others = QUIET.read().await;
    let expected = set(["StorageReason::Unavailable, Effect::None: the store can't be reached"]);
    let port = free_port().to_string();
    let down = redis_store(&format!("redis://{USER}:{PASSWORD}@127.0.0.1:{port}"));
    assert_eq!(texts_about(&down, &[&port]).await, expected);
    let socket = format!("redis+unix:///nowhere/secret.sock?user={USER}&password={PASSWORD}");
    assert_eq!(texts_about(&redis_store(&socket), &["nowhere", "secret.sock"]).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_is_not_told_of() {
    let _beside_others = QUIET.read().await;
    let server = RedisServer::start().await;
    let port = server.port().to_string();
    let password = format!(">{PASSWORD}");
    server.command::<()>(&["ACL", "SETUSER", USER, "on", &password, "~*", "+@all"]).await;
    let deaf = redis_store(&format!("redis://{USER}:{PASSWORD}@127.0.0.1:{port}?response_timeout=0.5"));
    // It lets clients in, and runs no script.
    server.command::<()>(&["CLIENT", "PAUSE", "600000", "WRITE"]).await;
    let texts = texts_about(&deaf, &[&port]).await;
    server.signal("-STOP").await;
    let expected = set(["StorageReason::Unavailable, Effect::None: the store can't be reached"]);
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
async fn a_store_that_refuses_the_password_is_not_told_of() {
    let _beside_others = QUIET.read().await;
    let server = RedisServer::start_with(&["--requirepass", "another"]).await;
    let port = server.port().to_string();
    let expected =
        set(["StorageReason::AccessDenied, Effect::None: the store refused the user or the password"]);
    for credentials in [format!("{USER}:{PASSWORD}@"), format!(":{PASSWORD}@"), String::new()] {
        let store = redis_store(&format!("redis://{credentials}127.0.0.1:{port}"));
        assert_eq!(texts_about(&store, &[&port, "another"]).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_lacks_permissions_is_not_told_of() {
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

/// What a server of a later version says names the user, and the key.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_whom_the_server_names_is_not_told_of() {
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

/// Passes on what a server of version 7.0 says in the words that it has for it
/// since 7.2.
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
async fn a_file_that_is_damaged_is_not_told_of() {
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

/// How much the process may grow by a run: less than the least there is to leak,
/// the handle of a checkpointer.
const GROWTH_OF_A_RUN: u64 = 512;

/// It runs in a process of its own: one that was large before has room for a leak.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_runs_leave_memory_as_it_is() {
    let _alone = QUIET.write().await;
    if std::env::var_os("OWN_PROCESS").is_none() {
        let mut again = Command::new(std::env::current_exe().expect("this program"));
        again.args(["--exact", "ten_thousand_runs_leave_memory_as_it_is", "--nocapture"]);
        let status = again.env("OWN_PROCESS", "yes").status().await.expect("it runs");
        assert!(status.success(), "see above");
        return;
    }
    const TASKS: u32 = 4;
    let runs: u32 = std::env::var("RUNS").map_or(10_000, |runs| runs.parse().expect("a number"));
    let all = Plugins::new().expect("an engine");
    let agent = all.load(plugins::rust()).expect("a plugin");
    let hostile = all.load(plugins::hostile()).expect("a plugin").limits(small());
    let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().await.expect("a database in memory"));
    step(&agent, &granted(&store, "honest-1/"), 0, 0).await;
    let run_many = async |runs: u32| {
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let (agent, hostile, store) = (agent.clone(), hostile.clone(), Arc::clone(&store));
                tokio::spawn(async move {
                    let honest = granted(&store, "honest-1/");
                    let attacker = granted(&store, &format!("attacker/{task}/"));
                    for _ in 0..runs / TASKS / 8 {
                        for _ in 0..3 {
                            let answer = agent.run(&honest, "history s0-0").await.expect("it ends");
                            assert_eq!(answer, Ok("1 rust s0-0-1-rust".to_owned()));
                        }
                        for attack in ["answer trap", "trap-after-save", "drop-twice", "no-utf-8", "leak 3"] {
                            let ended = hostile.run(&attacker, attack).await;
                            assert_eq!(ended.is_ok(), attack == "leak 3", "{attack}: {ended:?}");
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("as it should be");
        }
        resident_bytes()
    };
    let warm = run_many(1000).await;
    let start = Instant::now();
    let after = run_many(runs).await;
    println!("{runs} runs in {:.1?}: from {} KiB to {} KiB", start.elapsed(), warm / 1024, after / 1024);
    let growth = after.saturating_sub(warm);
    assert!(growth < u64::from(runs) * GROWTH_OF_A_RUN, "it grew by {} KiB", growth / 1024);
}

/// How much memory this process has.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes * 1024
}
