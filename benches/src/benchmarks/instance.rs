//! A new instance of the component, ready for its first call: the time to open a
//! checkpointer over a store that is already open.

use std::sync::Arc;

use anyhow::Result;
use checkpointer::Checkpointer;
use checkpointer::store::{SqliteStore, Store};

use super::LIBRARY;
use crate::bench::Bench;
use crate::report::{Row, Target, Unit};
use crate::statistics::{Subject, call_time, interleave};

const CALLS: usize = 100;
const ROUNDS: usize = 100;
const MAX_NANOSECONDS: f64 = 40e3;

pub fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let name = "new instance";
    bench.begin(name);
    let runtime = &bench.runtime;
    let store: Arc<dyn Store> = Arc::new(runtime.block_on(SqliteStore::in_memory())?);
    let library = Subject::new(|| {
        let stores = vec![Arc::clone(&store); CALLS];
        call_time(stores, |store| Ok(runtime.block_on(Checkpointer::builder().open_store(store))?))
    });
    let measured = interleave(bench.rounds(ROUNDS), vec![library], &bench.progress)?;
    let row = Row::single(name, Unit::Nanoseconds, (LIBRARY, &measured[0]));
    Ok(vec![row.target(Target::AtMost(MAX_NANOSECONDS))])
}
