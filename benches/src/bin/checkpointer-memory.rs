//! Prints the peak memory of a save or a load in bytes, above the memory of the
//! process before it: `checkpointer-memory STORE save STATE_FILE`, or
//! `checkpointer-memory STORE latest SESSION`. Runs on Linux only.

use std::fs;
use std::io::{Write, stdout};

use anyhow::{Context, Result, bail};
use checkpointer::Checkpointer;
use checkpointer_benches::states::checkpoint;
use tokio::runtime::Builder;

/// A session that no benchmark uses.
const SESSION: u32 = 0xfffe;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, operation, argument] = arguments.as_slice() else {
        bail!("usage: checkpointer-memory STORE save STATE_FILE | STORE latest SESSION")
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let checkpointer = Checkpointer::open(url).await?;
        // Memory that only the first call allocates is not counted.
        let small = checkpoint(SESSION, 0, "{}");
        let session = &small.metadata.session_id;
        checkpointer.save(&small).await?;
        checkpointer.latest(session).await?;
        let bytes = match operation.as_str() {
            "save" => {
                let large = checkpoint(SESSION, 1, &fs::read_to_string(argument)?);
                let before = Resident::now()?;
                checkpointer.save(large).await?;
                before.peak_since()?
            }
            "latest" => {
                let before = Resident::now()?;
                let latest = checkpointer.latest(argument).await?;
                let peak = before.peak_since()?;
                latest.context("no checkpoint")?;
                peak
            }
            other => bail!("unknown operation {other:?}; use save or latest"),
        };
        checkpointer.delete_session(session).await?;
        Ok(writeln!(stdout(), "{bytes}")?)
    })
}

/// The resident memory of the process at some moment.
struct Resident(u64);

impl Resident {
    /// The resident memory now. Resets the peak.
    fn now() -> Result<Self> {
        fs::write("/proc/self/clear_refs", "5").context("the peak can't be reset")?;
        Ok(Self(status("VmRSS:")?))
    }

    /// The peak since that moment above it, in bytes.
    fn peak_since(&self) -> Result<u64> {
        Ok(status("VmHWM:")?.saturating_sub(self.0))
    }
}

fn status(name: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("/proc/self/status lacks {name}"))?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}
