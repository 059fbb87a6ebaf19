//! Many tasks for a long time, and sessions of many checkpoints: memory stays
//! bounded, and a server is never busy with one step for long.
//!
//! `LOAD_SECONDS` says for how long (60), `LOAD_CHECKPOINTS` says how many
//! (1,000,000). What was measured is printed: see it with `-- --nocapture`.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{fmt, fs};

use checkpointer::store::StorageReason;
use checkpointer::{Checkpointer, Error, HistoryQuery};
use checkpointer_tests::chance::milliseconds;
use checkpointer_tests::errors::storage_error;
use checkpointer_tests::proxy::{Fault, Proxy};
use checkpointer_tests::redis_server::RedisServer;
use checkpointer_tests::samples::{checkpoint, plain, timestamp};
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// These tests measure, so each one runs alone.
static ALONE: Mutex<()> = Mutex::const_new(());

/// How much the process may grow by what should need no memory to speak of.
const GROWTH: u64 = 64 * 1024 * 1024;

/// How long a server may be busy with a step, on average by the time it has the
/// processor, and at most by the clock, which does not stop while others have it.
const USUAL_STEP: Duration = Duration::from_millis(10);
const LONGEST_STEP: Duration = Duration::from_secs(1);

fn from_environment(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tasks_over_redis_meet_no_error_and_need_no_more_memory_with_time() {
    let _alone = ALONE.lock().await;
    let server = RedisServer::start().await;
    let seconds = from_environment("LOAD_SECONDS", 60);
    run_a_thousand_tasks("Redis", &server.url(), Duration::from_secs(seconds.into())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tasks_over_a_file_meet_no_error_and_need_no_more_memory_with_time() {
    let _alone = ALONE.lock().await;
    let folder = TempDir::new().expect("a temporary folder");
    let address = format!("sqlite:{}", folder.path().join("checkpoints.db").display());
    let seconds = from_environment("LOAD_SECONDS", 60);
    run_a_thousand_tasks("SQLite", &address, Duration::from_secs(seconds.into()) / 4).await;
}

async fn run_a_thousand_tasks(name: &str, address: &str, time: Duration) {
    let checkpointer = Checkpointer::open(address).await.expect("opened");
    let (stops, operations) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut sizes = vec![resident_bytes()];
    let start = Instant::now();
    let tasks: Vec<_> = (0..1000)
        .map(|number| {
            let task = Task {
                checkpointer: checkpointer.clone(),
                session: format!("session-{number}"),
                operations: Arc::clone(&operations),
            };
            tokio::spawn(task.run(Arc::clone(&stops)))
        })
        .collect();
    while start.elapsed() < time {
        tokio::time::sleep(time / 100).await;
        sizes.push(resident_bytes());
    }
    stops.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.expect("a task that met no error");
    }
    let (operations, seconds) = (operations.load(Ordering::SeqCst), start.elapsed().as_secs_f64());
    let warm = sizes[sizes.len() / 5];
    println!(
        "1,000 tasks over {name}: {operations} operations in {seconds:.0} s, {:.0}/s; resident: {} MiB at \
         first, {} after a fifth, {} in the middle, {} at the end",
        operations as f64 / seconds,
        mebibytes(sizes[0]),
        mebibytes(warm),
        mebibytes(sizes[sizes.len() / 2]),
        mebibytes(sizes[sizes.len() - 1]),
    );
    let most = sizes.iter().skip(sizes.len() / 5).max().expect("a size");
    assert!(*most < warm + GROWTH, "it grew from {} to {} MiB", mebibytes(warm), mebibytes(*most));
}

/// Uses a session of its own, and checks all that it is told of it.
struct Task {
    checkpointer: Checkpointer,
    session: String,
    operations: Arc<AtomicU64>,
}

impl Task {
    async fn run(self, stops: Arc<AtomicBool>) {
        let Self { checkpointer, session, operations } = self;
        let mut ids = Vec::new();
        for second in 0.. {
            if stops.load(Ordering::SeqCst) {
                return;
            }
            let saved = checkpoint(&session, &format!("{session}-{second}"), "r", second);
            checkpointer.save(&saved).await.expect("saved");
            ids.push(saved.metadata.checkpoint_id.clone());
            assert_eq!(checkpointer.latest(&session).await.expect("loaded"), Some(saved));
            let history = checkpointer.list(HistoryQuery::new(&session).limit(5)).await.expect("a history");
            let listed: Vec<_> =
                history.checkpoints.iter().map(|listed| &listed.metadata.checkpoint_id).collect();
            assert_eq!(listed, ids.iter().rev().take(5).collect::<Vec<_>>());
            operations.fetch_add(3, Ordering::SeqCst);
            // The store stays as large as it is.
            if ids.len() == 20 {
                assert_eq!(checkpointer.delete_session(&session).await.expect("deleted"), 20);
                ids.clear();
                operations.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_checkpoints_in_redis_go_in_short_steps_and_bounded_memory() {
    let _alone = ALONE.lock().await;
    let server = RedisServer::start().await;
    let proxy = Proxy::before(server.port()).await;
    let checkpointer = Checkpointer::open(&server.url()).await.expect("opened");
    let cut = Checkpointer::open(&proxy.url()).await.expect("opened");
    let store = Backstage::Redis(&server);
    let pattern = store.pattern(&checkpointer).await;
    let many = from_environment("LOAD_CHECKPOINTS", 1_000_000);
    for removal in [Removal::Delete, Removal::ClearAll] {
        let many = store.fill(&pattern, removal, many).await;
        check_the_fill(&checkpointer).await;
        for _ in 0..3 {
            removal.drop_half_way(&checkpointer).await;
            store.check_that_nothing_is_half_removed().await;
            removal.fail_half_way(&cut, &proxy).await;
            store.check_that_nothing_is_half_removed().await;
        }
        let left = store.documents().await;
        assert!(0 < left && left < many, "{left} of {many} are left");

        let (watch, pings) = (StepWatch::begin(&server).await, Pings::begin(&server).await);
        let removed = observe(&format!("Redis: {removal:?} of {left}"), removal.run(&checkpointer)).await;
        let (steps, pings) = (watch.end().await, pings.end().await);
        assert_eq!(removed.expect("removed"), left);
        assert_eq!(server.keyspace().await, []);
        println!("  steps of the server: {steps}\n  pings beside it: {pings}");
        assert!(steps.usual < USUAL_STEP, "{steps}");
        assert!(within(&steps.times, 1.0) < LONGEST_STEP, "{steps}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_checkpoints_in_a_file_go_in_bounded_memory() {
    let _alone = ALONE.lock().await;
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("checkpoints.db");
    let checkpointer = Checkpointer::open(&format!("sqlite:{}", file.display())).await.expect("opened");
    let store = Backstage::File(rusqlite::Connection::open(&file).expect("a database"));
    let pattern = store.pattern(&checkpointer).await;
    let many = from_environment("LOAD_CHECKPOINTS", 1_000_000);
    // A disk that is written to takes its time, so not all of it twice.
    for (removal, many) in [(Removal::Delete, many), (Removal::ClearAll, many / 4)] {
        let many = store.fill(&pattern, removal, many).await;
        check_the_fill(&checkpointer).await;
        for _ in 0..3 {
            removal.drop_half_way(&checkpointer).await;
            store.check_that_nothing_is_half_removed().await;
        }
        let left = store.documents().await;
        assert!(0 < left && left < many, "{left} of {many} are left");
        let removed = observe(&format!("SQLite: {removal:?} of {left}"), removal.run(&checkpointer)).await;
        assert_eq!(removed.expect("removed"), left);
        assert_eq!(store.counts().await, (0, 0));
    }
}

/// What removes many checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removal {
    /// All of them in one session.
    Delete,
    /// All of them in up to a thousand sessions.
    ClearAll,
}

impl Removal {
    fn sessions(self) -> u32 {
        match self {
            Self::Delete => 1,
            Self::ClearAll => 1000,
        }
    }

    async fn run(self, checkpointer: &Checkpointer) -> Result<u64, Error> {
        match self {
            Self::Delete => checkpointer.delete_session("session-0").await,
            Self::ClearAll => checkpointer.clear_all().await,
        }
    }

    /// The caller goes away.
    async fn drop_half_way(self, checkpointer: &Checkpointer) {
        let ended = tokio::time::timeout(milliseconds(200..800), self.run(checkpointer)).await;
        assert!(ended.is_err(), "it was quicker than that; there must be more to remove");
    }

    /// The connection is cut, until that is more than a read that can be repeated.
    async fn fail_half_way(self, checkpointer: &Checkpointer, proxy: &Proxy) {
        let checkpointer = checkpointer.clone();
        let call = tokio::spawn(async move { self.run(&checkpointer).await });
        while !call.is_finished() {
            tokio::time::sleep(milliseconds(20..200)).await;
            proxy.fail(Fault::LoseRequest);
        }
        let error = call.await.expect("a task").expect_err("the connection was cut");
        assert_eq!(storage_error(error).reason, StorageReason::Unavailable);
    }
}

/// A store as nobody should use it: for the sake of speed.
enum Backstage<'a> {
    Redis(&'a RedisServer),
    File(rusqlite::Connection),
}

/// What a checkpoint that was saved with [`ID`] in [`SESSION`] looks like.
struct Pattern {
    text: String,
    score: f64,
}

const ID: &str = "the_id";
const SESSION: &str = "the_session";

/// How many checkpoints have the same timestamp, and are written in one step.
const CHUNK: u32 = 1000;

impl Backstage<'_> {
    async fn pattern(&self, checkpointer: &Checkpointer) -> Pattern {
        checkpointer.save(&plain(SESSION, ID, 0)).await.expect("saved");
        let text = checkpointer.load_document(SESSION, ID).await.expect("loaded").expect("there");
        let score = match self {
            Self::Redis(server) => {
                server.command(&["ZSCORE", &format!("llmfy_checkpoint:session:{SESSION}"), ID]).await
            }
            Self::File(database) => database
                .query_row("SELECT score FROM checkpointer_member", [], |row| row.get(0))
                .expect("a score"),
        };
        checkpointer.delete_checkpoint(SESSION, ID).await.expect("deleted");
        Pattern { text, score }
    }

    /// Writes what `save` would have written of about so many checkpoints; says
    /// how many exactly.
    async fn fill(&self, pattern: &Pattern, removal: Removal, about: u32) -> u64 {
        let start = Instant::now();
        let chunks = about / CHUNK;
        if let Self::File(database) = self {
            database.execute_batch("BEGIN").expect("begun");
        }
        for chunk in 0..chunks {
            let (session, second) = (chunk % removal.sessions(), chunk / removal.sessions());
            let session = format!("session-{session}");
            let text = pattern.text.replace(SESSION, &session).replace(&timestamp(0).to_string(), &timestamp(second).to_string());
            let (score, first) = (pattern.score + f64::from(second), second * CHUNK);
            self.write(&text, &session, score, first).await;
        }
        if let Self::File(database) = self {
            database.execute_batch("COMMIT").expect("committed");
        }
        let many = u64::from(chunks * CHUNK);
        assert_eq!(self.counts().await, (many, many));
        println!("filled with {many} checkpoints in {:.1} s", start.elapsed().as_secs_f64());
        many
    }

    async fn write(&self, text: &str, session: &str, score: f64, first: u32) {
        match self {
            Self::Redis(server) => {
                let script = "
                    local text, session, score, first = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
                    for number = first, first + ARGV[5] - 1 do
                      local id = string.format('%s-%07d', session, number)
                      redis.call('SET', 'llmfy_checkpoint:checkpoint:' .. id, (text:gsub('the_id', id)))
                      redis.call('ZADD', 'llmfy_checkpoint:session:' .. session, score, id)
                    end";
                let [score, first, count] = [score.to_string(), first.to_string(), CHUNK.to_string()];
                server.command::<()>(&["EVAL", script, "0", text, session, &score, &first, &count]).await;
            }
            Self::File(database) => {
                let statement = |text: &str| database.prepare_cached(text).expect("a statement");
                let index = format!("llmfy_checkpoint:session:{session}");
                statement("INSERT INTO checkpointer_index (name) VALUES (?1) ON CONFLICT DO NOTHING")
                    .execute([&index])
                    .expect("written");
                let mut document = statement("INSERT INTO checkpointer_value (key, value) VALUES (?1, ?2)");
                let mut member = statement(
                    "INSERT INTO checkpointer_member (index_id, member, score)
                     SELECT id, ?2, ?3 FROM checkpointer_index WHERE name = ?1",
                );
                for number in first..first + CHUNK {
                    let id = format!("{session}-{number:07}");
                    let key = format!("llmfy_checkpoint:checkpoint:{id}");
                    document.execute([key, text.replace(ID, &id)]).expect("written");
                    member.execute(rusqlite::params![index, id, score]).expect("written");
                }
            }
        }
    }

    /// How many documents there are, and how many entries of indexes.
    async fn counts(&self) -> (u64, u64) {
        match self {
            Self::Redis(server) => {
                let script = "
                    local entries, indexes = 0, 0
                    for number = 0, 999 do
                      local size = redis.call('ZCARD', 'llmfy_checkpoint:session:session-' .. number)
                      entries, indexes = entries + size, indexes + (size > 0 and 1 or 0)
                    end
                    return { redis.call('DBSIZE') - indexes, entries }";
                server.command(&["EVAL", script, "0"]).await
            }
            Self::File(database) => {
                let counts = "SELECT (SELECT count(*) FROM checkpointer_value),
                                     (SELECT count(*) FROM checkpointer_member)";
                let counts: (i64, i64) =
                    database.query_row(counts, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("counts");
                (counts.0.unsigned_abs(), counts.1.unsigned_abs())
            }
        }
    }

    /// How many documents there are when nothing is under way any more.
    async fn documents(&self) -> u64 {
        loop {
            let (documents, _) = self.counts().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            if self.counts().await.0 == documents {
                return documents;
            }
        }
    }

    async fn check_that_nothing_is_half_removed(&self) {
        let (documents, entries) = self.counts().await;
        assert_eq!(documents, entries);
    }
}

/// What was written looks to the checkpointer as if it had been saved.
async fn check_the_fill(checkpointer: &Checkpointer) {
    let first = plain("session-0", "session-0-0000000", 0);
    let loaded = checkpointer.load("session-0", "session-0-0000000").await;
    assert_eq!(loaded.expect("loaded"), Some(first));
    let latest = checkpointer.latest("session-0").await.expect("loaded").expect("a latest one");
    assert!(latest.metadata.checkpoint_id.ends_with("999"), "{latest:?}");
}

/// Does something large; says how long it took, and checks how much memory.
async fn observe<T>(name: &str, work: impl Future<Output = T>) -> T {
    let (start, before) = (Instant::now(), resident_bytes());
    let mut most = before;
    let mut moments = tokio::time::interval(Duration::from_millis(50));
    tokio::pin!(work);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            _ = moments.tick() => most = most.max(resident_bytes()),
        }
    };
    let growth = most - before;
    println!(
        "{name}: {:.1} s, at {} MiB it grew by {:.1} MiB",
        start.elapsed().as_secs_f64(),
        mebibytes(before),
        growth as f64 / 1024.0 / 1024.0
    );
    assert!(growth < GROWTH, "{name}: it grew by {} MiB", mebibytes(growth));
    done
}

/// Watches how long a server is busy with each step of a call, and so deaf to
/// others.
struct StepWatch<'a> {
    server: &'a RedisServer,
    processor_time: f64,
}

impl<'a> StepWatch<'a> {
    async fn begin(server: &'a RedisServer) -> Self {
        // Everything that takes a tenth of a millisecond or more.
        server.command::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", "100"]).await;
        server.command::<()>(&["CONFIG", "SET", "slowlog-max-len", "100000"]).await;
        server.command::<()>(&["SLOWLOG", "RESET"]).await;
        server.command::<()>(&["CONFIG", "RESETSTAT"]).await;
        Self { server, processor_time: Self::processor_time(server).await }
    }

    async fn end(self) -> Steps {
        let seconds = Self::processor_time(self.server).await - self.processor_time;
        let count = self.server.calls("evalsha").await + self.server.calls("scan").await;
        type Line = (i64, i64, u64, Vec<String>, String, String);
        let lines: Vec<Line> = self.server.command(&["SLOWLOG", "GET", "-1"]).await;
        let own = lines.into_iter().filter(|(_, _, _, words, ..)| ["EVALSHA", "SCAN"].contains(&&*words[0]));
        let mut times: Vec<_> = own.map(|(_, _, time, ..)| Duration::from_micros(time)).collect();
        times.sort();
        Steps { usual: Duration::from_secs_f64(seconds / count as f64), times }
    }

    /// The seconds that the server has had the processor.
    async fn processor_time(server: &RedisServer) -> f64 {
        let mut seconds = 0.0;
        for part in ["used_cpu_user", "used_cpu_sys"] {
            seconds += server.information("cpu", part).await.parse::<f64>().expect("seconds");
        }
        seconds
    }
}

/// What the steps of a call cost a server.
struct Steps {
    /// On average, in time of the processor, with all that the server did beside.
    usual: Duration,
    /// By the clock, in order, of those of a tenth of a millisecond or more.
    times: Vec<Duration>,
}

impl fmt::Display for Steps {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}; {:?} of the processor for each", distribution(&self.times), self.usual)
    }
}

/// How many times there are and how long, in words.
fn distribution(sorted: &[Duration]) -> String {
    let [half, most, all] = [0.5, 0.99, 1.0].map(|part| within(sorted, part));
    format!("{}, half within {half:?}, 99 % within {most:?}, all within {all:?}", sorted.len())
}

/// The longest of the shortest `part` of times.
fn within(sorted: &[Duration], part: f64) -> Duration {
    let last = (sorted.len() as f64 * part) as usize;
    sorted[last.clamp(1, sorted.len()) - 1]
}

/// Another client that asks again and again whether the server is there.
struct Pings {
    stops: Arc<AtomicBool>,
    task: JoinHandle<Vec<Duration>>,
}

impl Pings {
    async fn begin(server: &RedisServer) -> Self {
        let mut connection = server.connect().await.expect("a connection");
        let stops = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stops);
        let task = tokio::spawn(async move {
            let mut times = Vec::new();
            while !told.load(Ordering::SeqCst) {
                let start = Instant::now();
                redis::cmd("PING").query_async::<()>(&mut connection).await.expect("an answer");
                times.push(start.elapsed());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            times.sort();
            times
        });
        Self { stops, task }
    }

    /// What was measured, in words.
    async fn end(self) -> String {
        self.stops.store(true, Ordering::SeqCst);
        let times = self.task.await.expect("a task");
        distribution(&times)
    }
}

/// How much memory this process has.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes * 1024
}

fn mebibytes(bytes: u64) -> u64 {
    bytes / 1024 / 1024
}
