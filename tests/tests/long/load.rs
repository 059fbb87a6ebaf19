//! Many tasks for a long time, and sessions of many checkpoints: the memory stays
//! bounded, and no single step occupies a server for long.
//!
//! `LOAD_SECONDS` sets the duration (60), `LOAD_CHECKPOINTS` the number of
//! checkpoints (1,000,000). The measurements are printed with `-- --nocapture`.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use checkpointer::store::StorageReason;
use checkpointer::{Checkpointer, Error, HistoryQuery};
use checkpointer_tests::errors::storage_error;
use checkpointer_tests::proxy::{Fault, Proxy};
use checkpointer_tests::random::milliseconds;
use checkpointer_tests::redis_server::RedisServer;
use checkpointer_tests::samples::{checkpoint, plain, timestamp};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{from_environment, resident_bytes, turn};

/// How much the process may grow during operations with constant memory.
const GROWTH: u64 = 64 * 1024 * 1024;

/// How long a step may occupy a server: on average by processor time, and at most
/// by the clock, which also counts the time of other processes.
const USUAL_STEP: Duration = Duration::from_millis(10);
const LONGEST_STEP: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tasks_over_redis_have_no_error_and_bounded_memory() {
    let Some(_turn) = turn().await else { return };
    let server = RedisServer::start().await;
    let seconds = from_environment("LOAD_SECONDS", 60);
    run_a_thousand_tasks("Redis", &server.url(), Duration::from_secs(seconds.into())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tasks_over_a_file_have_no_error_and_bounded_memory() {
    let Some(_turn) = turn().await else { return };
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

/// Uses a session of its own, and checks all results.
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
            // Keeps the size of the store constant.
            if ids.len() == 20 {
                assert_eq!(checkpointer.delete_session(&session).await.expect("deleted"), 20);
                ids.clear();
                operations.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_checkpoints_in_redis_are_deleted_in_short_steps_and_bounded_memory() {
    let Some(_turn) = turn().await else { return };
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
async fn a_million_checkpoints_in_a_file_are_deleted_in_bounded_memory() {
    let Some(_turn) = turn().await else { return };
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("checkpoints.db");
    let checkpointer = Checkpointer::open(&format!("sqlite:{}", file.display())).await.expect("opened");
    let store = Backstage::File(rusqlite::Connection::open(&file).expect("a database"));
    let pattern = store.pattern(&checkpointer).await;
    let many = from_environment("LOAD_CHECKPOINTS", 1_000_000);
    // A disk is slow, so the second round is smaller.
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

/// An operation that deletes many checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Removal {
    /// All checkpoints are in one session.
    Delete,
    /// The checkpoints are in up to a thousand sessions.
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

    /// The caller is dropped.
    async fn drop_half_way(self, checkpointer: &Checkpointer) {
        let ended = tokio::time::timeout(milliseconds(200..800), self.run(checkpointer)).await;
        assert!(ended.is_err(), "it was quicker than that; there must be more to remove");
    }

    /// The connection is closed until a request fails that can't be retried.
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

/// Direct access to a store, to write faster than the checkpointer does.
enum Backstage<'a> {
    Redis(&'a RedisServer),
    File(rusqlite::Connection),
}

/// The stored form of a checkpoint saved with [`ID`] in [`SESSION`].
struct Pattern {
    text: String,
    score: f64,
}

const ID: &str = "the_id";
const SESSION: &str = "the_session";

/// The number of checkpoints with equal timestamps, written in one step.
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

    /// Writes about this many checkpoints in the form of `save`. Returns the
    /// exact number.
    async fn fill(&self, pattern: &Pattern, removal: Removal, about: u32) -> u64 {
        let start = Instant::now();
        let chunks = about / CHUNK;
        if let Self::File(database) = self {
            database.execute_batch("BEGIN").expect("begun");
        }
        for chunk in 0..chunks {
            let (session, second) = (chunk % removal.sessions(), chunk / removal.sessions());
            let session = format!("session-{session}");
            let text = pattern
                .text
                .replace(SESSION, &session)
                .replace(&timestamp(0).to_string(), &timestamp(second).to_string());
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

    /// The number of documents, and of index entries.
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

    /// The number of documents after all running operations have ended.
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

/// The checkpointer reads the written checkpoints as if it had saved them.
async fn check_the_fill(checkpointer: &Checkpointer) {
    let first = plain("session-0", "session-0-0000000", 0);
    let loaded = checkpointer.load("session-0", "session-0-0000000").await;
    assert_eq!(loaded.expect("loaded"), Some(first));
    let latest = checkpointer.latest("session-0").await.expect("loaded").expect("a latest one");
    assert!(latest.metadata.checkpoint_id.ends_with("999"), "{latest:?}");
}

/// Runs a large operation. Prints its duration, and checks its memory.
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

/// Measures how long each step of an operation occupies a server.
struct StepWatch<'a> {
    server: &'a RedisServer,
    processor_time: f64,
}

impl<'a> StepWatch<'a> {
    async fn begin(server: &'a RedisServer) -> Self {
        // All commands of 0.1 ms or more.
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

    /// The processor time of the server in seconds.
    async fn processor_time(server: &RedisServer) -> f64 {
        let mut seconds = 0.0;
        for part in ["used_cpu_user", "used_cpu_sys"] {
            seconds += server.information("cpu", part).await.parse::<f64>().expect("seconds");
        }
        seconds
    }
}

/// The cost of the steps of an operation.
struct Steps {
    /// The average processor time, including other work of the server.
    usual: Duration,
    /// The durations of 0.1 ms or more by the clock, in order.
    times: Vec<Duration>,
}

impl fmt::Display for Steps {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}; {:?} of the processor for each", distribution(&self.times), self.usual)
    }
}

/// The number and distribution of durations, as text.
fn distribution(sorted: &[Duration]) -> String {
    let [half, most, all] = [0.5, 0.99, 1.0].map(|part| within(sorted, part));
    format!("{}, half within {half:?}, 99 % within {most:?}, all within {all:?}", sorted.len())
}

/// The longest of the shortest `part` of the durations.
fn within(sorted: &[Duration], part: f64) -> Duration {
    let last = (sorted.len() as f64 * part) as usize;
    sorted[last.clamp(1, sorted.len()) - 1]
}

/// Another client that sends PING repeatedly.
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

    /// The distribution of the replies, as text.
    async fn end(self) -> String {
        self.stops.store(true, Ordering::SeqCst);
        let times = self.task.await.expect("a task");
        distribution(&times)
    }
}

fn mebibytes(bytes: u64) -> u64 {
    bytes / 1024 / 1024
}
