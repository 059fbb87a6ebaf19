//! Attacks that exhaust resources: processor time, memory, and resources of the
//! host.

use core::arch::wasm32::{memory_grow, memory_size};
use std::hint::black_box;

use crate::flow::checkpoint::checkpointer::Checkpointer;
use crate::{Answer, checkpoint, describe, open, options, query};

const PAGE: usize = 64 * 1024;

pub fn loop_forever() -> Answer {
    loop {
        black_box(());
    }
}

/// Makes short calls without end.
pub fn load_forever() -> Answer {
    let checkpointer = open("calls:")?;
    loop {
        checkpointer.latest("session").map_err(describe)?;
    }
}

/// Makes calls that the host refuses without a call of the store.
pub fn open_unknown_bucket_forever() -> Answer {
    let mut refused = options("refusals:");
    refused.bucket = "not-granted".into();
    loop {
        black_box(Checkpointer::open(&refused).is_err());
    }
}

pub fn open_and_close_forever() -> Answer {
    loop {
        open("opens:")?;
    }
}

/// Saves new checkpoints until a save fails.
pub fn save_forever() -> Answer {
    let checkpointer = open("saves:")?;
    for number in 0_u64.. {
        let saved = checkpoint("session", &format!("checkpoint-{number}"), "run", "0");
        checkpointer.save(&saved).map_err(describe)?;
    }
    unreachable!("a u64 does not overflow here")
}

pub fn recurse() -> Answer {
    /// Uses only the host's stack, not the one in linear memory.
    fn deeper(depth: u64) -> u64 {
        if depth == u64::MAX { 1 } else { deeper(depth + 1).rotate_left(7).wrapping_mul(depth | 1) }
    }
    Ok(deeper(black_box(0)).to_string())
}

/// Grows memory page by page until it is refused, and writes to each page.
pub fn grow_until_refused() -> Answer {
    loop {
        let end = memory_size(0) * PAGE;
        if memory_grow(0, 1) == usize::MAX {
            return Ok(format!("refused at {} pages", memory_size(0)));
        }
        for at in (end..end + PAGE).step_by(4096) {
            // SAFETY: the page is new and has no other user.
            unsafe { (at as *mut u8).write_volatile(1) };
        }
    }
}

/// Allocates with the standard allocator, which aborts when memory is refused.
pub fn allocate_until_refused() -> Answer {
    let mut hoard = Vec::new();
    loop {
        hoard.push(black_box(vec![1_u8; PAGE]));
    }
}

pub fn open_until_refused() -> Answer {
    let mut hoard = Vec::new();
    while hoard.len() < 100_000 {
        match open("checkpointers:") {
            Ok(checkpointer) => hoard.push(checkpointer),
            Err(refusal) => {
                let count = hoard.len();
                // Forgotten, so that the checkpointers stay open.
                std::mem::forget(hoard);
                return Ok(format!("{count} open, then {refusal}"));
            }
        }
    }
    Ok("never refused".into())
}

pub fn list_above_the_limit() -> Answer {
    let checkpointer = open("lists:")?;
    let all = Some(u32::MAX);
    let refusals = [
        checkpointer.list(&query("session", None, all)).map(|_| ()),
        checkpointer.list(&query("session", Some("run"), all)).map(|_| ()),
        checkpointer.list_documents(&query("session", None, all)).map(|_| ()),
    ];
    let texts = refusals.map(|refusal| refusal.err().map_or("not refused".into(), describe));
    Ok(if texts[0] == texts[1] && texts[1] == texts[2] { texts[0].clone() } else { texts.join("; ") })
}

/// Saves states that fit into memory one by one, and lists all of them at once.
pub fn save_and_list(count: u32, bytes: usize) -> Answer {
    let checkpointer = open("lists:")?;
    let state = format!("\"{}\"", "x".repeat(bytes - 2));
    for number in 0..count {
        checkpointer.save(&checkpoint("session", &number.to_string(), "run", &state)).map_err(describe)?;
    }
    let listed = checkpointer.list(&query("session", None, Some(count))).map_err(describe)?;
    Ok(format!("{} fit", listed.checkpoints.len()))
}

/// Makes the checkpointer compute.
pub fn compress(bytes: usize) -> Answer {
    let mut compressing = options("compression:");
    compressing.compress = true;
    let checkpointer = Checkpointer::open(&compressing).map_err(describe)?;
    // Random letters take the most time to compress.
    let mut random = 1_u32;
    let state: String = (2..bytes)
        .map(|_| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'a' + (random >> 24) as u8 % 26)
        })
        .collect();
    checkpointer.save(&checkpoint("session", "id", "run", &format!("\"{state}\""))).map_err(describe)?;
    Ok("saved".into())
}
