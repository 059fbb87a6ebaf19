//! Tasks that save until they are stopped, each in a session of its own, and
//! record the acknowledged saves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use checkpointer::{Checkpointer, Error, HistoryQuery, SaveOutcome};
use tokio::task::JoinHandle;

use crate::eventually::eventually;
use crate::samples::checkpoint;

/// Running tasks.
pub struct Writers {
    checkpointer: Checkpointer,
    tasks: Vec<JoinHandle<()>>,
    sessions: Vec<Arc<Session>>,
    stop: Arc<AtomicBool>,
}

/// The saves of a task: `c0`, `c1` and so on.
#[derive(Default)]
struct Session {
    tried: AtomicU64,
    acknowledged: std::sync::Mutex<Vec<u64>>,
}

/// How a task saves.
#[derive(Clone, Copy)]
pub enum Saving {
    /// With `save_after` the previous checkpoint. Every save must succeed.
    AfterPrevious,
    /// With `save`. Every save must succeed.
    Independent,
    /// With `save`. Failures of the store with such a message are allowed.
    Tolerating(fn(&str) -> bool),
}

impl Writers {
    /// Starts this many tasks.
    pub fn start(checkpointer: &Checkpointer, count: usize, saving: Saving) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let sessions: Vec<Arc<Session>> = (0..count).map(|_| Arc::default()).collect();
        let tasks = sessions.iter().enumerate().map(|(number, session)| {
            let (checkpointer, session, stop) =
                (checkpointer.clone(), Arc::clone(session), Arc::clone(&stop));
            tokio::spawn(async move {
                let name = session_name(number);
                while !stop.load(Ordering::Relaxed) {
                    let number = session.tried.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = save(&checkpointer, &name, number, saving).await {
                        let is_refusal = matches!((saving, &error),
                            (Saving::Tolerating(is_refusal), Error::Storage(error))
                            if is_refusal(&error.message));
                        assert!(is_refusal, "{name}, c{number}: {error:?}");
                        continue;
                    }
                    session.acknowledged.lock().expect("no panic").push(number);
                }
            })
        });
        Self { checkpointer: checkpointer.clone(), tasks: tasks.collect(), sessions, stop }
    }

    /// Waits until this many more saves of every task are acknowledged.
    pub async fn make_progress(&self, saves: usize) {
        let counts =
            || self.sessions.iter().map(|session| session.acknowledged.lock().expect("no panic").len());
        let goals: Vec<usize> = counts().map(|count| count + saves).collect();
        eventually("every writer goes on", async || {
            assert!(!self.tasks.iter().any(JoinHandle::is_finished), "a writer met an error");
            counts().zip(&goals).all(|(count, goal)| count >= *goal)
        })
        .await;
    }

    /// Stops the tasks. Returns the number of acknowledged saves, and how many of
    /// them are not listed. Lists must be in order. They may contain more, for
    /// example saves that failed with effect `unknown`.
    pub async fn stop(self) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a writer that met no error");
        }
        let (mut saved, mut lost) = (0, 0);
        for (number, session) in self.sessions.iter().enumerate() {
            let acknowledged = session.acknowledged.lock().expect("no panic").clone();
            let history = self
                .checkpointer
                .list(HistoryQuery::new(session_name(number)).limit(u32::MAX))
                .await
                .expect("a list");
            let found: Vec<u64> = history
                .checkpoints
                .iter()
                .map(|it| it.metadata.checkpoint_id[1..].parse().expect("c…"))
                .collect();
            assert!(found.is_sorted_by(|newer, older| newer > older), "{found:?}");
            saved += acknowledged.len();
            lost += acknowledged.iter().filter(|number| !found.contains(number)).count();
        }
        (saved, lost)
    }
}

fn session_name(number: usize) -> String {
    format!("session-{number}")
}

async fn save(checkpointer: &Checkpointer, session: &str, number: u64, saving: Saving) -> Result<(), Error> {
    let next = checkpoint(session, &format!("c{number}"), "r", u32::try_from(number).expect("few"));
    let outcome = match saving {
        Saving::AfterPrevious => {
            let latest = number.checked_sub(1).map(|before| format!("c{before}"));
            checkpointer.save_after(&next, latest.as_deref()).await?
        }
        Saving::Independent | Saving::Tolerating(_) => checkpointer.save(&next).await?,
    };
    assert_eq!(outcome, SaveOutcome::Latest);
    if number.is_multiple_of(8) && matches!(saving, Saving::AfterPrevious) {
        assert_eq!(checkpointer.latest(session).await?.as_ref(), Some(&next));
    }
    // Limits the number of checkpoints to check at the end.
    tokio::time::sleep(Duration::from_millis(2)).await;
    Ok(())
}
