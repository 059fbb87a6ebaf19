//! Many runs of plugins leave the memory of the host as it is.
//!
//! `RUNS` sets the number of runs (10,000).

use std::sync::Arc;
use std::time::Instant;

use checkpointer::plugin::{Limits, Plugins};
use checkpointer::store::{SqliteStore, Store};
use checkpointer_tests::plugins::{self, granted};
use tokio::process::Command;

use super::{from_environment, resident_bytes, turn};

/// How much the process may grow per run: less than the smallest possible leak,
/// the handle of a checkpointer.
const GROWTH_PER_RUN: u64 = 512;

/// Runs in a process of its own: a process that was large before has room for a
/// leak.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_plugin_runs_leave_memory_unchanged() {
    let Some(_turn) = turn().await else { return };
    if std::env::var_os("OWN_PROCESS").is_none() {
        let mut again = Command::new(std::env::current_exe().expect("this program"));
        let name = "plugin_runs::ten_thousand_plugin_runs_leave_memory_unchanged";
        again.args(["--exact", name, "--nocapture"]);
        let status = again.env("OWN_PROCESS", "yes").status().await.expect("it runs");
        assert!(status.success(), "see above");
        return;
    }
    const TASKS: u32 = 4;
    let runs = from_environment("RUNS", 10_000);
    let all = Plugins::new().expect("an engine");
    let agent = all.load(plugins::rust()).expect("a plugin");
    let limits = Limits::default().max_memory_bytes(16 << 20).max_bytes_per_call(1 << 20);
    let hostile = all.load(plugins::hostile()).expect("a plugin").limits(limits);
    let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().await.expect("a database in memory"));
    let honest = granted(&store, "honest/");
    let expected = Ok("1 rust s-1-rust".to_owned());
    assert_eq!(agent.run(&honest, "s").await.expect("it ends"), expected);
    let run_many = async |runs: u32| {
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let (agent, hostile, honest) = (agent.clone(), hostile.clone(), honest.clone());
                let (expected, attacker) = (expected.clone(), granted(&store, &format!("attacker/{task}/")));
                tokio::spawn(async move {
                    for _ in 0..runs / TASKS / 8 {
                        for _ in 0..3 {
                            let answer = agent.run(&honest, "history s").await.expect("it ends");
                            assert_eq!(answer, expected);
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
            task.await.expect("a task");
        }
        resident_bytes()
    };
    let warm = run_many(1000).await;
    let start = Instant::now();
    let after = run_many(runs).await;
    println!("{runs} runs in {:.1?}: from {} KiB to {} KiB", start.elapsed(), warm / 1024, after / 1024);
    let growth = after.saturating_sub(warm);
    assert!(growth < u64::from(runs) * GROWTH_PER_RUN, "the process grew by {} KiB", growth / 1024);
}
