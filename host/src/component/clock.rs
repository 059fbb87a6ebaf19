//! The clock by which code is interrupted while it computes.

use std::io;
use std::time::Duration;

use tokio::task::yield_now;
use wasmtime::{Engine, Store, UpdateDeadline};

/// How often code is interrupted to let others run, and a time-out be seen.
const TICK: Duration = Duration::from_millis(1);

/// Starts the clock of an engine; it ends with the engine.
pub fn start(engine: &Engine) -> io::Result<()> {
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

/// Lets what runs in `store` be interrupted at each tick, and go on when the others
/// had their turn. It is tokio's way to yield: of wasmtime's own, tokio does not know
/// that it should look at its timers and sockets meanwhile.
pub fn interrupt<T: 'static>(store: &mut Store<T>) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(yield_now()))));
}
