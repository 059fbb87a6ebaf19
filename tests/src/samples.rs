//! Checkpoints to save.

use std::fs;
use std::path::{Path, PathBuf};

use checkpointer::{Checkpoint, Metadata, Run};

/// A checkpoint of a run, saved `second` seconds into 2026.
pub fn checkpoint(session: &str, id: &str, run: &str, second: u32) -> Checkpoint {
    Checkpoint {
        metadata: Metadata {
            session_id: session.to_owned(),
            checkpoint_id: id.to_owned(),
            timestamp: timestamp(second),
            node: "node".to_owned(),
            step: i64::from(second),
            run: Some(Run {
                run_id: run.to_owned(),
                prev_node: "__start__".to_owned(),
                updated_fields: vec!["messages".to_owned()],
                attempt: Some(1),
                dispatch_id: None,
            }),
        },
        state: format!("{{\"from\": \"{id} {second}\"}}"),
    }
}

/// The same without a run.
pub fn plain(session: &str, id: &str, second: u32) -> Checkpoint {
    let mut checkpoint = checkpoint(session, id, "", second);
    checkpoint.metadata.run = None;
    checkpoint
}

/// The time so many seconds into 2026, less than a day.
pub fn timestamp(second: u32) -> String {
    format!("2026-01-01T{:02}:{:02}:{:02}+00:00", second / 3600, second / 60 % 60, second % 60)
}

/// The files of a folder of `tests/data`, in order of their names, each with
/// its text.
pub fn data(folder: &str) -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(folder);
    let files = fs::read_dir(&folder).expect("a folder of tests/data");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    let json = files.into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "json"));
    json.map(|file| (file.clone(), fs::read_to_string(file).expect("text"))).collect()
}
