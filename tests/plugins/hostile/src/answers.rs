//! Attacks in the middle of a call: the host has done what was asked for, asks
//! the plugin for room to put its answer in, and gets something else.

use core::alloc::Layout;
use core::arch::wasm32::unreachable;
use core::hint::black_box;
use std::alloc::{alloc, handle_alloc_error, realloc};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::handles::{Answer, load_document};
use crate::{Ending, in_words, open};

/// What becomes of the next answer.
static HARM: AtomicU32 = AtomicU32::new(NONE);

const NONE: u32 = 0;
const TRAP: u32 = 1;
const LOOP: u32 = 2;
const OUTSIDE: u32 = 3;
const CALL: u32 = 4;

/// Where the host asks for room for what it gives to the plugin.
///
/// # Safety
/// `old` is what this gave for `old_size` bytes, if there are any.
#[unsafe(export_name = "cabi_realloc")]
unsafe extern "C" fn room(old: *mut u8, old_size: usize, alignment: usize, size: usize) -> *mut u8 {
    match HARM.swap(NONE, Ordering::Relaxed) {
        TRAP => unreachable(),
        LOOP => loop {
            black_box(());
        },
        OUTSIDE => return usize::MAX.wrapping_sub(15) as *mut u8,
        CALL => {
            let id = "session";
            // SAFETY: all that is pointed to is there; there is a handle 1.
            unsafe { load_document(1, id.as_ptr(), id.len(), 0, id.as_ptr(), 0, &mut Answer::new()) };
        }
        _ => {}
    }
    if size == 0 {
        return alignment as *mut u8;
    }
    // SAFETY: the host asks as the canonical ABI says.
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

/// A checkpoint as llmfy stores it.
const DOCUMENT: &str = r#"{"checkpoint_id": "id", "session_id": "session", "timestamp": "2026-01-01T00:00:00+00:00", "node_name": "node", "step": 1, "state": "{}"}"#;

pub fn take_the_answer_of_a_save(harm: &str) -> Ending {
    let checkpointer = open("answers:")?;
    let harm = match harm {
        "trap" => TRAP,
        "loop" => LOOP,
        "outside" => OUTSIDE,
        "call" => CALL,
        _ => return Err("answer trap | loop | outside | call".into()),
    };
    HARM.store(harm, Ordering::Relaxed);
    let (metadata, outcome) = checkpointer.save_document(DOCUMENT).map_err(in_words)?;
    Ok(format!("{outcome:?} {}", metadata.checkpoint_id))
}

pub fn trap_after_a_save() -> Ending {
    open("answers:")?.save_document(DOCUMENT).map_err(in_words)?;
    unreachable()
}
