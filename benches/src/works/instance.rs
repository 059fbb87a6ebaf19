//! A new instance of the component, ready for its first call: what it takes to
//! open a checkpointer over a store that is open already.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use checkpointer::Checkpointer;
use checkpointer::store::{SqliteStore, Store};

use super::LIBRARY;
use crate::bench::Bench;
use crate::report::{Finding, Target, Unit};
use crate::statistics::{Contender, interleave, time_of_a_call};

const CALLS: usize = 100;
const ROUNDS: usize = 100;
const MOST_NANOSECONDS: f64 = 40e3;

pub fn measure(bench: &Bench) -> Result<Vec<Finding>> {
    let name = "a fresh instance";
    bench.begin(name);
    let runtime = &bench.runtime;
    let store = runtime.block_on(SqliteStore::in_memory()).map_err(|error| anyhow!("{error:?}"))?;
    let store: Arc<dyn Store> = Arc::new(store);
    let fresh = Contender::new(|| {
        let stores = vec![Arc::clone(&store); CALLS];
        time_of_a_call(stores, |store| Ok(runtime.block_on(Checkpointer::builder().open_store(store))?))
    });
    let measured = interleave(bench.rounds(ROUNDS), vec![fresh], &bench.progress)?;
    let row = Finding::alone(name, Unit::Nanoseconds, (LIBRARY, &measured[0]));
    Ok(vec![row.target(Target::AtMost(MOST_NANOSECONDS))])
}
