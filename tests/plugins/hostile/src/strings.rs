//! Attacks with strings and lists that are too large, out of bounds or invalid.

use core::arch::wasm32::memory_grow;
use core::mem::ManuallyDrop;

use crate::flow::checkpoint::checkpointer::Checkpointer;
use crate::handles::{ReturnArea, load_document, scan};
use crate::{Answer, checkpoint, describe, open, options};

/// Passes bytes as a session id. They may be out of bounds or invalid UTF-8.
fn pass(start: *const u8, bytes: usize) -> Answer {
    let checkpointer = open("strings:")?;
    // SAFETY: the host must check the range and the bytes.
    unsafe { load_document(checkpointer.handle(), start, bytes, start, 0, &mut ReturnArea::new()) };
    Ok("accepted".into())
}

/// Passes a string that ends beyond the end of memory.
pub fn pass_beyond_memory(bytes: usize) -> Answer {
    pass("session".as_ptr(), bytes)
}

/// Passes a string of NULs within memory.
pub fn pass_nuls(bytes: usize) -> Answer {
    let pages = bytes.div_ceil(64 * 1024);
    match memory_grow(0, pages) {
        usize::MAX => Ok("there is no memory for it".into()),
        before => pass((before * 64 * 1024) as *const u8, bytes),
    }
}

/// Passes a list of strings that share one address: small in the plugin, and a copy
/// for each element in the host.
pub fn pass_copies(count: usize, bytes: usize) -> Answer {
    let text = ManuallyDrop::new("x".repeat(bytes));
    // SAFETY: the strings are neither changed nor dropped.
    let same = || unsafe { String::from_raw_parts(text.as_ptr().cast_mut(), bytes, bytes) };
    let mut saved = ManuallyDrop::new(checkpoint("session", "id", "run", "0"));
    if let Some(run) = &mut saved.metadata.run {
        run.updated_fields = (0..count).map(|_| same()).collect();
    }
    open("strings:")?.save(&saved).map_err(describe)?;
    Ok("accepted".into())
}

pub fn pass_invalid_utf8() -> Answer {
    pass([b'a', 0xff, b'b'].as_ptr(), 3)
}

/// Passes an `option` that is neither none nor some.
pub fn pass_invalid_discriminant() -> Answer {
    let (checkpointer, cursor) = (open("strings:")?, "cursor");
    // SAFETY: all pointers are valid. The host must check the discriminant.
    unsafe { scan(checkpointer.handle(), 7, cursor.as_ptr(), cursor.len(), &mut ReturnArea::new()) };
    Ok("accepted".into())
}

/// Opens a bucket with a name that is longer in the error message, which escapes it.
pub fn open_bucket_with_long_name(bytes: usize) -> Answer {
    let mut options = options("strings:");
    options.bucket = "\u{1}".repeat(bytes);
    match Checkpointer::open(&options) {
        Ok(_) => Err("the bucket exists".into()),
        Err(error) => Ok(format!("refused in {} bytes", describe(error).len())),
    }
}

pub fn return_string(bytes: usize) -> Answer {
    Ok("x".repeat(bytes))
}
