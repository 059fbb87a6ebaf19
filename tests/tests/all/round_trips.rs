//! The number of round trips, counted by the server with MONITOR. A client waits
//! for each reply before the next command, so each command is a round trip.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use checkpointer::Layout;
use checkpointer_tests::checkpointer_under_test::{CheckpointerUnderTest, MODES, Mode, Options};
use checkpointer_tests::contract::redis_store;
use checkpointer_tests::redis_server::RedisServer;
use checkpointer_tests::samples::checkpoint;

/// Newer than all other checkpoints.
const NEWEST: u32 = 80_000;

struct Counted {
    server: RedisServer,
    checkpointer: CheckpointerUnderTest,
    with_ttl: CheckpointerUnderTest,
    partitioned: CheckpointerUnderTest,
    next: u32,
}

impl Counted {
    async fn new(mode: Mode) -> Self {
        let server = RedisServer::start().await;
        let store = redis_store(&server.url());
        // Unrelated keys, which must not affect the operations.
        server
            .command::<Option<String>>(&[
                "EVAL",
                "for i = 1, 20000 do redis.call('SET', 'other:' .. i, i) end",
                "0",
            ])
            .await;
        let open = async |options| {
            CheckpointerUnderTest::open(mode, Arc::clone(&store), &options).await.expect("a checkpointer")
        };
        let checkpointer = open(Options::default()).await;
        let with_ttl = open(Options::ttl_ms(60_000)).await;
        let partitioned = open(Options { layout: Layout::Partitioned, ..Options::default() }).await;
        let mut counted = Self { server, checkpointer, with_ttl, partitioned, next: 0 };
        // Connects, and lets the server cache the scripts.
        counted.fill("warm", 2).await;
        counted.checkpointer.list("warm", None).await.expect("a list");
        let mut page = counted.checkpointer.scan(None).await.expect("a page");
        while let Some(cursor) = page.next_cursor {
            page = counted.checkpointer.scan(Some(&cursor)).await.expect("a page");
        }
        counted.checkpointer.delete_checkpoint("warm", "warm0").await.expect("deleted");
        counted.checkpointer.delete_session("warm").await.expect("deleted");
        counted
    }

    async fn fill(&mut self, session: &str, count: u32) {
        for number in 0..count {
            self.next += 1;
            let saved =
                checkpoint(session, &format!("{session}{number}"), &format!("r{}", number % 3), self.next);
            self.checkpointer.save(&saved).await.expect("saved");
        }
    }

    /// The number of round trips of a call.
    async fn trips<T>(&self, call: impl AsyncFnOnce(&Self) -> T) -> u64 {
        let watch = self.server.watch().await;
        call(self).await;
        watch.commands(&self.server).await.len() as u64
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_take_the_promised_round_trips() {
    for mode in MODES {
        let mut counted = Counted::new(mode).await;
        counted.fill("ten", 10).await;
        counted.fill("thousand", 1000).await;
        // Enough to fill a page of a scan.
        for number in 0..300 {
            let saved = checkpoint(&format!("p{number}"), "p", "r", 1);
            counted.partitioned.save(&saved).await.expect("saved");
        }
        let again = checkpoint("ten", "ttl", "r", NEWEST + 1);
        let table = [
            (
                "save",
                1,
                counted
                    .trips(async |it| {
                        it.checkpointer.save(&checkpoint("ten", "new", "r", NEWEST)).await.expect("saved")
                    })
                    .await,
            ),
            (
                "save with ttl",
                1,
                counted
                    .trips(async |it| {
                        it.with_ttl.save(&checkpoint("ten", "ttl", "r", NEWEST + 1)).await.expect("saved")
                    })
                    .await,
            ),
            (
                "save again",
                1,
                counted.trips(async |it| it.checkpointer.save(&again).await.expect("saved")).await,
            ),
            (
                "save an older checkpoint",
                2,
                counted
                    .trips(async |it| {
                        it.checkpointer.save(&checkpoint("ten", "old", "r", 1)).await.expect("saved")
                    })
                    .await,
            ),
            (
                "load latest",
                1,
                counted.trips(async |it| it.checkpointer.latest("thousand").await.expect("loaded")).await,
            ),
            (
                "load by id",
                1,
                counted.trips(async |it| it.checkpointer.load("ten", "ten3").await.expect("loaded")).await,
            ),
            (
                "load nothing",
                1,
                counted.trips(async |it| it.checkpointer.latest("none").await.expect("loaded")).await,
            ),
            (
                "list 10",
                1,
                counted.trips(async |it| it.checkpointer.list("ten", None).await.expect("listed")).await,
            ),
            (
                "list by run",
                1,
                counted
                    .trips(async |it| it.checkpointer.list_by_run("ten", "r1", None).await.expect("listed"))
                    .await,
            ),
            (
                "list 100",
                1,
                counted
                    .trips(async |it| it.checkpointer.list("thousand", Some(100)).await.expect("listed"))
                    .await,
            ),
            (
                "list 1000",
                1,
                counted
                    .trips(async |it| it.checkpointer.list("thousand", Some(1000)).await.expect("listed"))
                    .await,
            ),
            (
                "save in a partition",
                1,
                counted
                    .trips(async |it| {
                        it.partitioned.save(&checkpoint("ten", "new", "r", NEWEST)).await.expect("saved")
                    })
                    .await,
            ),
            (
                "load latest of a partition",
                1,
                counted.trips(async |it| it.partitioned.latest("ten").await.expect("loaded")).await,
            ),
            (
                "load by id in a partition",
                1,
                counted.trips(async |it| it.partitioned.load("ten", "new").await.expect("loaded")).await,
            ),
            (
                "list 10 of a partition",
                1,
                counted.trips(async |it| it.partitioned.list("ten", None).await.expect("listed")).await,
            ),
            (
                "delete a partition",
                2,
                counted.trips(async |it| it.partitioned.delete_session("ten").await.expect("deleted")).await,
            ),
            (
                "a page of a scan",
                3,
                counted.trips(async |it| it.checkpointer.scan(None).await.expect("a page")).await,
            ),
            (
                "a page of a scan of partitions",
                3,
                counted.trips(async |it| it.partitioned.scan(None).await.expect("a page")).await,
            ),
            (
                "delete by id",
                2,
                counted
                    .trips(async |it| {
                        it.checkpointer.delete_checkpoint("ten", "ten3").await.expect("deleted")
                    })
                    .await,
            ),
            (
                "delete a missing id",
                2,
                counted
                    .trips(async |it| {
                        it.checkpointer.delete_checkpoint("ten", "none").await.expect("deleted")
                    })
                    .await,
            ),
        ];
        for (operation, promised, counted) in table {
            println!("{mode:?}: {operation}: {counted} of {promised}");
            assert!(counted <= promised, "{mode:?}: {operation} took {counted} round trips, not {promised}");
        }
        for (session, count) in
            [("few", 7), ("hundred", 100), ("two-hundred", 200), ("three-hundred", 301), ("thousand", 1000)]
        {
            if session != "thousand" {
                counted.fill(session, count).await;
            }
            let trips = counted.trips(async |it| {
                assert_eq!(it.checkpointer.delete_session(session).await.expect("deleted"), u64::from(count));
            });
            let trips = trips.await;
            // Sessions of fewer than 100 checkpoints also need a read and a deletion.
            let promised = 1 + u64::from(count.div_ceil(100));
            println!("{mode:?}: delete of {count}: {trips} of {promised}");
            assert!(
                trips <= promised,
                "{mode:?}: delete of {count} took {trips} round trips, not {promised}"
            );
        }
    }
}

/// A crash can't happen between two commands of a save.
#[tokio::test(flavor = "multi_thread")]
async fn a_save_is_one_script_call() {
    let counted = Counted::new(Mode::Component).await;
    let watch = counted.server.watch().await;
    counted.with_ttl.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    assert_eq!(watch.commands(&counted.server).await, ["EVALSHA"]);
}

/// The usual save uses the short script `put.lua`, whatever the layout and TTL.
#[tokio::test(flavor = "multi_thread")]
async fn the_usual_save_runs_put_lua() {
    let put = script("put.lua");
    let counted = Counted::new(Mode::Component).await;
    for (name, checkpointer) in [
        ("llmfy", &counted.checkpointer),
        ("with a TTL", &counted.with_ttl),
        ("partitioned", &counted.partitioned),
    ] {
        for (second, save) in ["the first", "a later"].into_iter().enumerate() {
            // Without cached scripts the server receives the text of the script.
            counted.server.command::<redis::Value>(&["SCRIPT", "FLUSH"]).await;
            let watch = counted.server.watch().await;
            let saved = checkpoint(name, &format!("{name} {second}"), "r", second as u32);
            checkpointer.save(&saved).await.expect("saved");
            let calls = watch.calls(&counted.server).await;
            let texts: Vec<&String> =
                calls.iter().filter(|words| words[0] == "EVAL").map(|words| &words[1]).collect();
            assert_eq!(texts.len(), 1, "{name}, {save} save: {calls:?}");
            assert!(texts[0].contains(&put), "{name}, {save} save runs another script: {}", texts[0]);
        }
    }
}

/// A Lua script of the store.
fn script(name: &str) -> String {
    fn find(folder: &Path, name: &str) -> Option<PathBuf> {
        let mut entries =
            fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        entries.find_map(|path| match path.is_dir() {
            true => find(&path, name),
            false => path.ends_with(name).then_some(path),
        })
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/src/store");
    let text = fs::read_to_string(find(&folder, name).expect(name)).expect("text");
    // As far as MONITOR shows it.
    text.chars().filter(char::is_ascii).collect()
}
