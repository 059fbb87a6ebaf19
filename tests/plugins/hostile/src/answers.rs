//! Attacks in the middle of a call: the host has done the work, and calls the
//! plugin's allocator to write the answer. The allocator misbehaves.

use core::alloc::Layout;
use core::arch::wasm32::unreachable;
use core::hint::black_box;
use std::alloc::{alloc, handle_alloc_error, realloc};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::handles::{ReturnArea, load_document};
use crate::{Answer, describe, open};

/// The attack of the next allocation.
static HARM: AtomicU32 = AtomicU32::new(NONE);

const NONE: u32 = 0;
const TRAP: u32 = 1;
const LOOP: u32 = 2;
const OUTSIDE: u32 = 3;
const CALL: u32 = 4;

/// The allocator that the host calls before it writes to the plugin's memory.
///
/// # Safety
/// `old` is an allocation of `old_size` bytes by this function, unless that is 0.
#[unsafe(export_name = "cabi_realloc")]
unsafe extern "C" fn allocate(old: *mut u8, old_size: usize, alignment: usize, size: usize) -> *mut u8 {
    match HARM.swap(NONE, Ordering::Relaxed) {
        TRAP => unreachable(),
        LOOP => loop {
            black_box(());
        },
        OUTSIDE => return usize::MAX.wrapping_sub(15) as *mut u8,
        CALL => {
            let id = "session";
            // SAFETY: all pointers are valid; handle 1 exists.
            unsafe {
                load_document(1, id.as_ptr(), id.len(), id.as_ptr(), id.len(), &mut ReturnArea::new());
            }
        }
        _ => {}
    }
    if size == 0 {
        return alignment as *mut u8;
    }
    // SAFETY: the host calls it as the canonical ABI requires.
    unsafe {
        let layout = Layout::from_size_align_unchecked(size, alignment);
        let new = if old_size == 0 {
            alloc(layout)
        } else {
            realloc(old, Layout::from_size_align_unchecked(old_size, alignment), size)
        };
        if new.is_null() { handle_alloc_error(layout) } else { new }
    }
}

/// A document of format A.
const DOCUMENT: &str = r#"{"checkpoint_id": "id", "session_id": "session", "timestamp": "2026-01-01T00:00:00+00:00", "node_name": "node", "step": 1, "state": "{}"}"#;

pub fn save_with(harm: &str) -> Answer {
    let checkpointer = open("answers:")?;
    let harm = match harm {
        "trap" => TRAP,
        "loop" => LOOP,
        "outside" => OUTSIDE,
        "call" => CALL,
        _ => return Err("answer trap | loop | outside | call".into()),
    };
    HARM.store(harm, Ordering::Relaxed);
    let (metadata, outcome) = checkpointer.save_document(DOCUMENT).map_err(describe)?;
    Ok(format!("{outcome:?} {}", metadata.checkpoint_id))
}

pub fn trap_after_save() -> Answer {
    open("answers:")?.save_document(DOCUMENT).map_err(describe)?;
    unreachable()
}
