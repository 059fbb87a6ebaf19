//! Attacks that want more than their share: of the processor, of memory, of what
//! the host keeps for a plugin.

use core::arch::wasm32::{memory_grow, memory_size};
use std::hint::black_box;

use crate::flow::checkpoint::checkpointer::Checkpointer;
use crate::{Ending, checkpoint, in_words, open, options};

const PAGE: usize = 64 * 1024;

pub fn run_for_ever() -> Ending {
    loop {
        black_box(());
    }
}

/// Each call takes no time to speak of.
pub fn call_for_ever() -> Ending {
    let checkpointer = open("calls:")?;
    loop {
        checkpointer.load("session", None).map_err(in_words)?;
    }
}

/// Calls for which the host needs to ask nobody.
pub fn be_refused_for_ever() -> Ending {
    let mut refused = options("refusals:");
    refused.bucket = "not-granted".into();
    loop {
        black_box(Checkpointer::open(&refused).is_err());
    }
}

pub fn open_and_close_for_ever() -> Ending {
    loop {
        open("opens:")?;
    }
}

/// Until the store is full of them.
pub fn save_for_ever() -> Ending {
    let checkpointer = open("saves:")?;
    for number in 0_u64.. {
        let saved = checkpoint("session", &format!("checkpoint-{number}"), "run", "0");
        checkpointer.save(&saved).map_err(in_words)?;
    }
    unreachable!("there are that many numbers")
}

pub fn recur() -> Ending {
    /// It needs nothing of the stack in linear memory, only that of the host.
    fn deeper(depth: u64) -> u64 {
        if depth == u64::MAX { 1 } else { deeper(depth + 1).rotate_left(7).wrapping_mul(depth | 1) }
    }
    Ok(deeper(black_box(0)).to_string())
}

/// Takes all memory there is, page by page, and writes to it.
pub fn grow_until_refused() -> Ending {
    loop {
        let end = memory_size(0) * PAGE;
        if memory_grow(0, 1) == usize::MAX {
            return Ok(format!("refused at {} pages", memory_size(0)));
        }
        for at in (end..end + PAGE).step_by(4096) {
            // SAFETY: the page was added just now, and nobody else has it.
            unsafe { (at as *mut u8).write_volatile(1) };
        }
    }
}

/// The same as most programs do it, which end if they are refused.
pub fn allocate_until_refused() -> Ending {
    let mut hoard = Vec::new();
    loop {
        hoard.push(black_box(vec![1_u8; PAGE]));
    }
}

pub fn open_until_refused() -> Ending {
    let mut hoard = Vec::new();
    while hoard.len() < 100_000 {
        match open("checkpointers:") {
            Ok(checkpointer) => hoard.push(checkpointer),
            Err(refusal) => {
                let count = hoard.len();
                // They stay open.
                std::mem::forget(hoard);
                return Ok(format!("{count} open, then {refusal}"));
            }
        }
    }
    Ok("never refused".into())
}

pub fn list_without_limit() -> Ending {
    let checkpointer = open("lists:")?;
    let all = Some(u32::MAX);
    let refusals = [
        checkpointer.list("session", all).map(|_| ()),
        checkpointer.list_by_run("session", "run", all).map(|_| ()),
        checkpointer.list_documents("session", None, all).map(|_| ()),
    ];
    let texts = refusals.map(|refusal| refusal.err().map_or("not refused".into(), in_words));
    Ok(if texts[0] == texts[1] && texts[1] == texts[2] { texts[0].clone() } else { texts.join("; ") })
}

/// Each state goes into its memory, all of them together do not.
pub fn list_more_than_fits(count: u32, bytes: usize) -> Ending {
    let checkpointer = open("lists:")?;
    let state = format!("\"{}\"", "x".repeat(bytes - 2));
    for number in 0..count {
        checkpointer.save(&checkpoint("session", &number.to_string(), "run", &state)).map_err(in_words)?;
    }
    let listed = checkpointer.list("session", Some(count)).map_err(in_words)?;
    Ok(format!("{} fit", listed.checkpoints.len()))
}

/// Work that the checkpointer does for it.
pub fn compress(bytes: usize) -> Ending {
    let mut compressing = options("compression:");
    compressing.compress = true;
    let checkpointer = Checkpointer::open(&compressing).map_err(in_words)?;
    // What looks like chance is most work.
    let mut random = 1_u32;
    let state: String = (2..bytes)
        .map(|_| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'a' + (random >> 24) as u8 % 26)
        })
        .collect();
    checkpointer.save(&checkpoint("session", "id", "run", &format!("\"{state}\""))).map_err(in_words)?;
    Ok("saved".into())
}
