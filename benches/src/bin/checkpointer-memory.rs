//! Prints how many bytes of memory a save or a load needs at its peak, over what
//! the process had before: `checkpointer-memory STORE save STATE_FILE`, or `load
//! SESSION`. Only Linux tells.

use std::fs;
use std::io::{Write, stdout};

use anyhow::{Context, Result, bail};
use checkpointer::Checkpointer;
use checkpointer_benches::states::checkpoint;
use tokio::runtime::Builder;

/// A session that nobody else uses.
const SESSION: u32 = 0xfffe;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, work, argument] = arguments.as_slice() else { bail!("say: STORE save|load ARGUMENT") };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let checkpointer = Checkpointer::open(address).await?;
        // An idle process has called before, so that what only the first call
        // needs does not count.
        let small = checkpoint(SESSION, 0, "{}");
        checkpointer.save(&small).await?;
        checkpointer.load(&small.metadata.session_id, None).await?;
        let bytes = match work.as_str() {
            "save" => {
                let large = checkpoint(SESSION, 1, &fs::read_to_string(argument)?);
                let before = Resident::now()?;
                checkpointer.save(&large).await?;
                before.peak_since()?
            }
            "load" => {
                let before = Resident::now()?;
                let loaded = checkpointer.load(argument, None).await?;
                let peak = before.peak_since()?;
                loaded.context("no checkpoint")?;
                peak
            }
            other => bail!("no work: {other}"),
        };
        checkpointer.delete(&small.metadata.session_id, None).await?;
        Ok(writeln!(stdout(), "{bytes}")?)
    })
}

/// How much memory the process had at a moment.
struct Resident(u64);

impl Resident {
    /// Now; a peak before it is forgotten.
    fn now() -> Result<Self> {
        fs::write("/proc/self/clear_refs", "5").context("the peak can't be forgotten")?;
        Ok(Self(status("VmRSS:")?))
    }

    /// How many bytes more there were at the highest since then.
    fn peak_since(&self) -> Result<u64> {
        Ok(status("VmHWM:")?.saturating_sub(self.0))
    }
}

fn status(name: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}
