//! Compiled plugins in a folder, so that each is compiled once.
//!
//! Compiled code is run as it is, so a file is only believed if it is what this
//! library wrote: the folder belongs to this user and nobody else may write to it,
//! and the file begins with the hash of all that it was made of (plugin, engine,
//! settings) and of all that it holds. Anything else is compiled again and
//! replaced.

use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, process};

use sha2::{Digest, Sha256};
use tracing::{debug, warn};
use wasmtime::Engine;
use wasmtime::component::Component;

/// A folder of compiled plugins.
pub struct Cache {
    folder: PathBuf,
}

/// The length of a hash.
const HASH: usize = 32;

impl Cache {
    /// The folder, made if it is not there.
    ///
    /// # Errors
    /// It can't be made, it belongs to somebody else, or others may write to it.
    pub fn open(folder: &Path) -> io::Result<Self> {
        make(folder)?;
        is_ours(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The plugin, compiled now or before.
    ///
    /// # Errors
    /// It does not compile. What is wrong with the folder only costs time.
    pub fn compile(&self, engine: &Engine, wasm: &[u8]) -> wasmtime::Result<Component> {
        let made_of = made_of(engine, wasm);
        let path = self.folder.join(format!("{}.cwasm", hexadecimal(&made_of)));
        if let Some(code) = read(&path, &made_of) {
            // SAFETY: the file is one that `write` made, in a folder that nobody
            // else may write to, for this very engine, and it is undamaged.
            match unsafe { Component::deserialize(engine, code) } {
                Ok(component) => {
                    debug!(bytes = wasm.len(), "the plugin was compiled before");
                    return Ok(component);
                }
                Err(error) => warn!(%error, "a compiled plugin can't be used; compiling it again"),
            }
        }
        let component = Component::new(engine, wasm)?;
        debug!(bytes = wasm.len(), "compiled a plugin");
        if let Err(error) = component
            .serialize()
            .map_err(io::Error::other)
            .and_then(|code| self.write(&path, &made_of, &code))
        {
            warn!(%error, "the compiled plugin can't be kept");
        }
        Ok(component)
    }

    /// Others find the whole file or none.
    fn write(&self, path: &Path, made_of: &[u8; HASH], code: &[u8]) -> io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let half = self.folder.join(format!("{}.{number}.half", process::id()));
        let whole = [made_of.as_slice(), &Sha256::digest(code), code].concat();
        let written = make_file(&half).and_then(|mut file| file.write_all(&whole));
        written.and_then(|()| fs::rename(&half, path)).inspect_err(|_| {
            let _ = fs::remove_file(&half);
        })
    }
}

/// The code in a file, if it is whole and made of what it should be.
fn read(path: &Path, made_of: &[u8; HASH]) -> Option<Vec<u8>> {
    is_ours(path).ok()?;
    let mut whole = fs::read(path).ok()?;
    let is_whole = whole.get(..HASH)? == made_of
        && whole.get(HASH..2 * HASH)? == Sha256::digest(whole.get(2 * HASH..)?).as_slice();
    if !is_whole {
        warn!("a compiled plugin is damaged or another's; compiling it again");
        return None;
    }
    Some(whole.split_off(2 * HASH))
}

/// What compiled code depends on.
fn made_of(engine: &Engine, wasm: &[u8]) -> [u8; HASH] {
    let mut hash = Hashing(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hash);
    hash.0.update(Sha256::digest(wasm));
    hash.0.finalize().into()
}

/// What implements `Hash`, hashed by SHA-256.
struct Hashing(Sha256);

impl Hasher for Hashing {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

fn hexadecimal(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(unix)]
fn make(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// A new file that only this user can change, whatever others may do to the files
/// that programs of this user make (umask).
#[cfg(unix)]
fn make_file(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// That a file or folder is one that only this user can change.
#[cfg(unix)]
fn is_ours(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let found = fs::symlink_metadata(path)?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(format!("{} belongs to somebody else", path.display())));
    }
    if found.is_symlink() {
        return Err(io::Error::other(format!("{} is a link to another place", path.display())));
    }
    if found.mode() & 0o022 != 0 {
        return Err(io::Error::other(format!("others than its owner may write to {}", path.display())));
    }
    Ok(())
}

#[cfg(not(unix))]
fn make(_: &Path) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "compiled plugins are kept on Unix only"))
}

#[cfg(not(unix))]
fn make_file(path: &Path) -> io::Result<fs::File> {
    make(path).and_then(|()| fs::File::create(path))
}

#[cfg(not(unix))]
fn is_ours(path: &Path) -> io::Result<()> {
    make(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A component with nothing in it.
    const PLUGIN: &[u8] = b"\0asm\x0d\0\x01\0";

    fn only_file(folder: &Path) -> PathBuf {
        let mut files = fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path());
        let file = files.next().expect("a file");
        assert_eq!(files.next(), None);
        file
    }

    fn is_kept(engine: &Engine, file: &Path) -> bool {
        read(file, &made_of(engine, PLUGIN)).is_some()
    }

    #[test]
    fn what_is_damaged_or_foreign_is_compiled_again_and_never_loaded() {
        let (engine, folder) = (Engine::default(), tempfile::tempdir().expect("a folder"));
        let folder = folder.path().join("plugins");
        let cache = Cache::open(&folder).expect("a cache");
        cache.compile(&engine, PLUGIN).expect("compiled");
        let file = only_file(&folder);
        let whole = fs::read(&file).expect("code");
        assert!(is_kept(&engine, &file));
        // Whatever the umask is: with that of many users, their group may write.
        assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);

        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        let mut foreign = whole.clone();
        foreign[0] ^= 1;
        for bad in [flipped, foreign, whole[..whole.len() - 1].to_vec(), whole[..40].to_vec(), Vec::new()] {
            fs::write(&file, &bad).expect("written");
            assert!(!is_kept(&engine, &file));
            cache.compile(&engine, PLUGIN).expect("compiled");
            assert_eq!(fs::read(only_file(&folder)).expect("code"), whole);
        }

        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("permissions");
        assert!(!is_kept(&engine, &file));
        let other = Engine::new(wasmtime::Config::new().epoch_interruption(true)).expect("an engine");
        assert_ne!(made_of(&engine, PLUGIN), made_of(&other, PLUGIN));
    }

    #[test]
    fn a_folder_that_is_a_link_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).expect("a link");
        let refused = Cache::open(&link).err().expect("refused").to_string();
        assert!(refused.ends_with(" is a link to another place"), "{refused}");
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("permissions");
        let refused = Cache::open(folder.path()).err().expect("refused").to_string();
        assert!(refused.starts_with("others than its owner may write to "), "{refused}");
        assert!(Cache::open(&folder.path().join("none/below")).is_ok());
    }
}
