//! How often the server is asked, counted by the server itself: it tells
//! every command that a client sends. No command is sent before the answer to the one
//! before it has come, so a command is a round trip.

use std::sync::Arc;

use checkpointer::Layout;
use checkpointer_tests::contract::redis_store;
use checkpointer_tests::redis_server::RedisServer;
use checkpointer_tests::samples::checkpoint;
use checkpointer_tests::checkpointer_under_test::{MODES, Mode, Options, CheckpointerUnderTest};

struct Counted {
    server: RedisServer,
    subject: CheckpointerUnderTest,
    with_ttl: CheckpointerUnderTest,
    partitioned: CheckpointerUnderTest,
    next: u32,
}

impl Counted {
    async fn new(mode: Mode) -> Self {
        let server = RedisServer::start().await;
        let store = redis_store(&server.url());
        // The rest of the database, which must not matter.
        server
            .command::<Option<String>>(&[
                "EVAL",
                "for i = 1, 20000 do redis.call('SET', 'other:' .. i, i) end",
                "0",
            ])
            .await;
        let open =
            async |opening| CheckpointerUnderTest::open(mode, Arc::clone(&store), &opening).await.expect("a checkpointer");
        let subject = open(Options::default()).await;
        let with_ttl = open(Options::ttl_ms(60_000)).await;
        let partitioned = open(Options { layout: Layout::Partitioned, ..Options::default() }).await;
        let mut counted = Self { server, subject, with_ttl, partitioned, next: 0 };
        // Connects, and has the server learn the scripts.
        counted.fill("warm", 2).await;
        counted.subject.list("warm", None).await.expect("a list");
        let mut page = counted.subject.scan(None).await.expect("a page");
        while let Some(cursor) = page.next_cursor {
            page = counted.subject.scan(Some(&cursor)).await.expect("a page");
        }
        counted.subject.delete_checkpoint("warm", "warm0").await.expect("deleted");
        counted.subject.delete_session("warm").await.expect("deleted");
        counted
    }

    async fn fill(&mut self, session: &str, count: u32) {
        for number in 0..count {
            self.next += 1;
            let saved =
                checkpoint(session, &format!("{session}{number}"), &format!("r{}", number % 3), self.next);
            self.subject.save(&saved).await.expect("saved");
        }
    }

    /// How many round trips `call` takes.
    async fn trips<T>(&self, call: impl AsyncFnOnce(&Self) -> T) -> u64 {
        let watch = self.server.watch().await;
        call(self).await;
        watch.commands(&self.server).await.len() as u64
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_take_no_more_round_trips_than_promised() {
    for mode in MODES {
        let mut counted = Counted::new(mode).await;
        counted.fill("ten", 10).await;
        counted.fill("thousand", 1000).await;
        // Enough for a page to have some.
        for number in 0..300 {
            let saved = checkpoint(&format!("p{number}"), "p", "r", 1);
            counted.partitioned.save(&saved).await.expect("saved");
        }
        let again = checkpoint("ten", "ten9", "r0", 9);
        let table = [
            (
                "save",
                1,
                counted
                    .trips(async |it| {
                        it.subject.save(&checkpoint("ten", "new", "r", 1)).await.expect("saved")
                    })
                    .await,
            ),
            (
                "save with ttl",
                1,
                counted
                    .trips(async |it| {
                        it.with_ttl.save(&checkpoint("ten", "ttl", "r", 1)).await.expect("saved")
                    })
                    .await,
            ),
            ("save again", 1, counted.trips(async |it| it.subject.save(&again).await.expect("saved")).await),
            (
                "load latest",
                1,
                counted.trips(async |it| it.subject.latest("thousand").await.expect("loaded")).await,
            ),
            (
                "load by id",
                1,
                counted.trips(async |it| it.subject.load("ten", "ten3").await.expect("loaded")).await,
            ),
            (
                "load nothing",
                1,
                counted.trips(async |it| it.subject.latest("none").await.expect("loaded")).await,
            ),
            (
                "list 10",
                1,
                counted.trips(async |it| it.subject.list("ten", None).await.expect("listed")).await,
            ),
            (
                "list by run",
                1,
                counted
                    .trips(async |it| it.subject.list_by_run("ten", "r1", None).await.expect("listed"))
                    .await,
            ),
            (
                "list 100",
                1,
                counted.trips(async |it| it.subject.list("thousand", Some(100)).await.expect("listed")).await,
            ),
            (
                "list 1000",
                1,
                counted
                    .trips(async |it| it.subject.list("thousand", Some(1000)).await.expect("listed"))
                    .await,
            ),
            (
                "save in a partition",
                1,
                counted
                    .trips(async |it| {
                        it.partitioned.save(&checkpoint("ten", "new", "r", 1)).await.expect("saved")
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
                counted
                    .trips(async |it| it.partitioned.load("ten", "new").await.expect("loaded"))
                    .await,
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
                counted.trips(async |it| it.subject.scan(None).await.expect("a page")).await,
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
                    .trips(async |it| it.subject.delete_checkpoint("ten", "ten3").await.expect("deleted"))
                    .await,
            ),
            (
                "delete a missing id",
                2,
                counted
                    .trips(async |it| it.subject.delete_checkpoint("ten", "none").await.expect("deleted"))
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
                assert_eq!(it.subject.delete_session(session).await.expect("deleted"), u64::from(count));
            });
            let trips = trips.await;
            // A session of fewer than 100 needs to be read and removed as well.
            let promised = 1 + u64::from(count.div_ceil(100));
            println!("{mode:?}: delete of {count}: {trips} of {promised}");
            assert!(
                trips <= promised,
                "{mode:?}: delete of {count} took {trips} round trips, not {promised}"
            );
        }
    }
}

/// There is nothing between two commands that a crash could come into.
#[tokio::test(flavor = "multi_thread")]
async fn a_save_is_one_command_and_a_script() {
    let counted = Counted::new(Mode::Component).await;
    let watch = counted.server.watch().await;
    counted.with_ttl.save(&checkpoint("s", "c", "r", 1)).await.expect("saved");
    assert_eq!(watch.commands(&counted.server).await, ["EVALSHA"]);
}
