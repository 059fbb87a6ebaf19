//! Attacks with handles: the import as it is below the types that keep a program
//! from doing such things.

use core::mem;

use crate::{Ending, open};

#[link(wasm_import_module = "flow:checkpoint/checkpointer@0.1.0")]
unsafe extern "C" {
    #[link_name = "[method]checkpointer.load-document"]
    pub fn load_document(
        handle: u32,
        session: *const u8,
        session_bytes: usize,
        case: u32,
        checkpoint: *const u8,
        checkpoint_bytes: usize,
        answer: *mut Answer,
    );

    #[link_name = "[resource-drop]checkpointer"]
    fn drop_handle(handle: u32);
}

/// Room for the answer of any call here.
#[repr(C, align(8))]
pub struct Answer([u8; 64]);

impl Answer {
    pub const fn new() -> Self {
        Self([0; 64])
    }
}

/// Uses a handle, whatever it is.
fn use_handle(handle: u32) {
    let session = "session";
    // SAFETY: all that is pointed to is there; and what the host does about the
    // handle is what is to be seen.
    unsafe {
        load_document(handle, session.as_ptr(), session.len(), 0, session.as_ptr(), 0, &mut Answer::new());
    }
}

pub fn drop_twice() -> Ending {
    let handle = open("handles:")?.take_handle();
    // SAFETY: as above.
    unsafe {
        drop_handle(handle);
        drop_handle(handle);
    }
    Ok("dropped twice".into())
}

pub fn use_after_drop() -> Ending {
    let handle = open("handles:")?.take_handle();
    // SAFETY: as above.
    unsafe { drop_handle(handle) };
    use_handle(handle);
    Ok("used after it was dropped".into())
}

pub fn leak(count: usize) -> Ending {
    for _ in 0..count {
        mem::forget(open("handles:")?);
    }
    Ok(format!("leaked {count}"))
}

/// There is one handle, and this is none of it.
pub fn use_number(handle: u32) -> Ending {
    let own = open("handles:")?;
    if own.handle() == handle {
        return Err("that is its own".into());
    }
    use_handle(handle);
    Ok(format!("used {handle}"))
}

pub fn drop_number(handle: u32) -> Ending {
    let own = open("handles:")?;
    if own.handle() == handle {
        return Err("that is its own".into());
    }
    // SAFETY: as above.
    unsafe { drop_handle(handle) };
    Ok(format!("dropped {handle}"))
}
