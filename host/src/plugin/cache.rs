//! A cache of compiled plugins in a folder.
//!
//! Compiled code runs without further checks, so only files of this library are
//! loaded: folder and file belong to this user, no other user may write to them,
//! and the file begins with a hash of its inputs (plugin, engine, settings) and a
//! hash of its code. Any other file is replaced after the plugin was recompiled.

use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tracing::{debug, warn};
use wasmtime::Engine;
use wasmtime::component::Component;

/// A folder of compiled plugins.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
}

/// The bytes of a hash.
const HASH_BYTES: usize = 32;

impl Cache {
    /// The cache in a folder, which is created if it does not exist.
    ///
    /// # Errors
    /// The folder can't be created, or other users may write to it.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(folder)?;
        check_is_private(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The compiled plugin, from the cache if possible.
    ///
    /// # Errors
    /// The plugin does not compile. A failure of the cache is only logged.
    pub(super) fn compile(&self, engine: &Engine, wasm: &[u8]) -> wasmtime::Result<Component> {
        let key = cache_key(engine, wasm);
        let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = self.folder.join(name + ".cwasm");
        if let Some(code) = read(&path, &key) {
            // SAFETY: `write` made the file for this engine. It is undamaged, and no
            // other user may write to it or its folder.
            match unsafe { Component::deserialize(engine, code) } {
                Ok(component) => {
                    debug!(bytes = wasm.len(), "loaded a compiled plugin from the cache");
                    return Ok(component);
                }
                Err(error) => warn!(%error, "a cached plugin can't be loaded and is recompiled"),
            }
        }
        let component = Component::new(engine, wasm)?;
        debug!(bytes = wasm.len(), "compiled a plugin");
        let code = component.serialize().map_err(io::Error::other);
        if let Err(error) = code.and_then(|code| self.write(&path, &key, &code)) {
            warn!(%error, "a compiled plugin can't be written to the cache");
        }
        Ok(component)
    }

    /// Writes a file with mode 0600 and then renames it, so that readers find the
    /// whole file or none.
    fn write(&self, path: &Path, key: &[u8; HASH_BYTES], code: &[u8]) -> io::Result<()> {
        let mut tmp = NamedTempFile::new_in(&self.folder)?;
        tmp.write_all(&[key.as_slice(), &Sha256::digest(code), code].concat())?;
        tmp.persist(path)?;
        Ok(())
    }
}

/// The code in a file, if the file is private, undamaged and of this key.
fn read(path: &Path, key: &[u8; HASH_BYTES]) -> Option<Vec<u8>> {
    check_is_private(path).ok()?;
    let mut file = fs::read(path).ok()?;
    let is_valid = file.get(..HASH_BYTES)? == key
        && file.get(HASH_BYTES..2 * HASH_BYTES)? == Sha256::digest(file.get(2 * HASH_BYTES..)?).as_slice();
    if !is_valid {
        warn!("a file in the cache is damaged or foreign and is replaced");
        return None;
    }
    Some(file.split_off(2 * HASH_BYTES))
}

/// The hash of the inputs of compiled code.
fn cache_key(engine: &Engine, wasm: &[u8]) -> [u8; HASH_BYTES] {
    let mut hasher = Sha256Hasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.update(Sha256::digest(wasm));
    hasher.0.finalize().into()
}

/// Feeds values that implement `Hash` to SHA-256.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

/// Checks that only this user may write to a file or folder.
#[cfg(unix)]
fn check_is_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::symlink_metadata(path)?;
    let fault = if metadata.uid() != rustix::process::geteuid().as_raw() {
        "belongs to another user"
    } else if metadata.is_symlink() {
        "is a symbolic link"
    } else if metadata.mode() & 0o022 != 0 {
        "is writable by other users; remove that permission with chmod go-w"
    } else {
        return Ok(());
    };
    Err(io::Error::other(format!("{} {fault}", path.display())))
}

#[cfg(not(unix))]
fn check_is_private(_: &Path) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "the cache of compiled plugins is available on Unix only"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// An empty component.
    const PLUGIN: &[u8] = b"\0asm\x0d\0\x01\0";

    fn only_file(folder: &Path) -> PathBuf {
        let mut files = fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path());
        let file = files.next().expect("a file");
        assert_eq!(files.next(), None);
        file
    }

    fn is_cached(engine: &Engine, file: &Path) -> bool {
        read(file, &cache_key(engine, PLUGIN)).is_some()
    }

    #[test]
    fn damaged_or_foreign_files_are_recompiled_and_never_loaded() {
        let (engine, folder) = (Engine::default(), tempfile::tempdir().expect("a folder"));
        let folder = folder.path().join("plugins");
        let cache = Cache::open(&folder).expect("a cache");
        cache.compile(&engine, PLUGIN).expect("compiled");
        let file = only_file(&folder);
        let valid = fs::read(&file).expect("code");
        assert!(is_cached(&engine, &file));
        // The mode does not depend on the umask, which may let the group write.
        assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);

        let mut flipped = valid.clone();
        flipped[valid.len() / 2] ^= 1;
        let mut foreign = valid.clone();
        foreign[0] ^= 1;
        for bad in [flipped, foreign, valid[..valid.len() - 1].to_vec(), valid[..40].to_vec(), Vec::new()] {
            fs::write(&file, &bad).expect("written");
            assert!(!is_cached(&engine, &file));
            cache.compile(&engine, PLUGIN).expect("compiled");
            assert_eq!(fs::read(only_file(&folder)).expect("code"), valid);
        }

        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("permissions");
        assert!(!is_cached(&engine, &file));
        let other = Engine::new(wasmtime::Config::new().epoch_interruption(true)).expect("an engine");
        assert_ne!(cache_key(&engine, PLUGIN), cache_key(&other, PLUGIN));
    }

    #[test]
    fn folder_that_is_a_symbolic_link_is_rejected() {
        let folder = tempfile::tempdir().expect("a folder");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).expect("a link");
        let error = Cache::open(&link).expect_err("an error").to_string();
        assert!(error.ends_with(" is a symbolic link"), "{error}");
    }

    #[test]
    fn folder_writable_by_others_is_rejected() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("permissions");
        let error = Cache::open(folder.path()).expect_err("an error").to_string();
        assert!(error.contains(" is writable by other users; "), "{error}");
        assert!(Cache::open(&folder.path().join("none/below")).is_ok());
    }
}
