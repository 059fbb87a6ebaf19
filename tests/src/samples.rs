//! Sample checkpoints.

use std::fs;
use std::path::{Path, PathBuf};

use checkpointer::{Checkpoint, Metadata, Run, Timestamp};

/// A checkpoint of a run, with the timestamp `second` seconds into 2026.
pub fn checkpoint(session: &str, id: &str, run: &str, second: u32) -> Checkpoint {
    let mut run = Run::new(run);
    run.prev_node = "__start__".to_owned();
    run.updated_fields = vec!["messages".to_owned()];
    run.attempt = Some(1);
    let metadata =
        Metadata::new(session, id).timestamp(timestamp(second)).node("node").step(i64::from(second)).run(run);
    Checkpoint::new(metadata, format!("{{\"from\": \"{id} {second}\"}}"))
}

/// A checkpoint without a run.
pub fn plain(session: &str, id: &str, second: u32) -> Checkpoint {
    let mut checkpoint = checkpoint(session, id, "", second);
    checkpoint.metadata.run = None;
    checkpoint
}

/// The checkpoint with another state.
pub fn with_state(checkpoint: Checkpoint, state: impl Into<String>) -> Checkpoint {
    Checkpoint::new(checkpoint.metadata, state)
}

/// The timestamp `second` seconds into 2026, less than a day.
pub fn timestamp(second: u32) -> Timestamp {
    const START_OF_2026: i64 = 1_767_225_600;
    Timestamp::from_unix_micros((START_OF_2026 + i64::from(second)) * 1_000_000)
}

/// The JSON files of a folder in `tests/data`, ordered by name, each with its
/// text.
pub fn data(folder: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(folder);
    let files = fs::read_dir(&folder).expect("a folder of tests/data");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    let json = files.into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "json"));
    json.map(|file| (file.clone(), fs::read_to_string(file).expect("text"))).collect()
}
