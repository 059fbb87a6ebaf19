//! Attacks with texts and lists that are too large, are not there, or are none.

use core::arch::wasm32::memory_grow;
use core::mem::ManuallyDrop;

use crate::flow::checkpoint::checkpointer::Checkpointer;
use crate::handles::{Answer, load_document};
use crate::{Ending, checkpoint, in_words, open, options};

/// Passes bytes as the id of a session.
///
/// They need not be there, nor be text: what the host does about it is what is
/// to be seen.
fn pass(start: *const u8, bytes: usize, case: u32) -> Ending {
    let checkpointer = open("strings:")?;
    // SAFETY: the host looks at what it is given before it reads it.
    unsafe { load_document(checkpointer.handle(), start, bytes, case, start, 0, &mut Answer::new()) };
    Ok("it was taken".into())
}

/// A text that goes on where memory ends.
pub fn claim_beyond_memory(bytes: usize) -> Ending {
    pass("session".as_ptr(), bytes, 0)
}

/// A text that is really there, of NULs.
pub fn pass_one_of(bytes: usize) -> Ending {
    let pages = bytes.div_ceil(64 * 1024);
    match memory_grow(0, pages) {
        usize::MAX => Ok("there is no memory for it".into()),
        before => pass((before * 64 * 1024) as *const u8, bytes, 0),
    }
}

/// A list of texts that all stand at the same place: small here, large there.
pub fn pass_the_same_many_times(count: usize, bytes: usize) -> Ending {
    let text = ManuallyDrop::new("x".repeat(bytes));
    // SAFETY: nobody writes to them, and nobody drops them.
    let same = || unsafe { String::from_raw_parts(text.as_ptr().cast_mut(), bytes, bytes) };
    let mut saved = ManuallyDrop::new(checkpoint("session", "id", "run", "0"));
    if let Some(run) = &mut saved.metadata.run {
        run.updated_fields = (0..count).map(|_| same()).collect();
    }
    open("strings:")?.save(&saved).map_err(in_words)?;
    Ok("it was taken".into())
}

pub fn pass_what_is_no_text() -> Ending {
    pass([b'a', 0xff, b'b'].as_ptr(), 3, 0)
}

/// An `option` that is neither none nor some.
pub fn pass_what_is_no_case() -> Ending {
    pass("session".as_ptr(), 7, 7)
}

/// A name that is larger in the message that refuses it.
pub fn open_a_bucket_with_a_name_of(bytes: usize) -> Ending {
    let mut options = options("strings:");
    options.bucket = "\u{1}".repeat(bytes);
    match Checkpointer::open(&options) {
        Ok(_) => Err("it is there".into()),
        Err(error) => Ok(format!("refused in {} bytes", in_words(error).len())),
    }
}

pub fn give_back(bytes: usize) -> Ending {
    Ok("x".repeat(bytes))
}
