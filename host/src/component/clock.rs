//! The epoch clock, by which computing code is interrupted.

use std::io;
use std::time::Duration;

use tokio::task::yield_now;
use wasmtime::{Engine, Store, UpdateDeadline};

/// The time between two interruptions of computing code. Each lets other tasks run
/// and timeouts expire.
const TICK: Duration = Duration::from_millis(1);

/// Starts the epoch clock of an engine. Its thread ends after the engine is dropped.
pub(crate) fn start(engine: &Engine) -> io::Result<()> {
    let clock = engine.weak();
    let tick = move || {
        while let Some(engine) = clock.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    };
    std::thread::Builder::new().name("checkpointer clock".to_owned()).spawn(tick).map(drop)
}

/// Makes code in `store` yield at each tick. It yields through tokio: after a yield
/// by wasmtime itself, tokio would not poll its timers and sockets.
pub(crate) fn interrupt<T: 'static>(store: &mut Store<T>) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(yield_now()))));
}
