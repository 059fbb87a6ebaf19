//! Attacks with handles. They call the raw import, since the generated types rule
//! such calls out.

use core::mem;

use crate::{Answer, open};

#[link(wasm_import_module = "flow:checkpoint/checkpointer@0.1.0")]
unsafe extern "C" {
    #[link_name = "[method]checkpointer.load-document"]
    pub fn load_document(
        handle: u32,
        session: *const u8,
        session_bytes: usize,
        checkpoint: *const u8,
        checkpoint_bytes: usize,
        answer: *mut ReturnArea,
    );

    #[link_name = "[method]checkpointer.scan"]
    pub fn scan(
        handle: u32,
        discriminant: u32,
        cursor: *const u8,
        cursor_bytes: usize,
        answer: *mut ReturnArea,
    );

    #[link_name = "[resource-drop]checkpointer"]
    fn drop_handle(handle: u32);
}

/// Memory for the answer of either function.
#[repr(C, align(8))]
pub struct ReturnArea([u8; 64]);

impl ReturnArea {
    pub const fn new() -> Self {
        Self([0; 64])
    }
}

/// Calls a method with a handle that may be invalid.
fn use_handle(handle: u32) {
    let id = "session";
    // SAFETY: all pointers are valid. The host must check the handle.
    unsafe {
        load_document(handle, id.as_ptr(), id.len(), id.as_ptr(), id.len(), &mut ReturnArea::new());
    }
}

pub fn drop_twice() -> Answer {
    let handle = open("handles:")?.take_handle();
    // SAFETY: no pointers. The host must check the handle.
    unsafe {
        drop_handle(handle);
        drop_handle(handle);
    }
    Ok("dropped twice".into())
}

pub fn use_after_drop() -> Answer {
    let handle = open("handles:")?.take_handle();
    // SAFETY: no pointers. The host must check the handle.
    unsafe { drop_handle(handle) };
    use_handle(handle);
    Ok("used after drop".into())
}

pub fn leak(count: usize) -> Answer {
    for _ in 0..count {
        mem::forget(open("handles:")?);
    }
    Ok(format!("leaked {count}"))
}

/// Uses a handle that does not exist. The only one that exists is `own`.
pub fn use_number(handle: u32) -> Answer {
    let own = open("handles:")?;
    if own.handle() == handle {
        return Err("the handle exists".into());
    }
    use_handle(handle);
    Ok(format!("used {handle}"))
}

pub fn drop_number(handle: u32) -> Answer {
    let own = open("handles:")?;
    if own.handle() == handle {
        return Err("the handle exists".into());
    }
    // SAFETY: no pointers. The host must check the handle.
    unsafe { drop_handle(handle) };
    Ok(format!("dropped {handle}"))
}
