//! The counters of a copy, and the report that they make.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, Write};

use checkpointer::ScanEntry;
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;
use serde_json::json;

use super::super::print::{checkpoints, escape_control};
use super::transfer::CopyOutcome;

/// How many skipped checkpoints and sessions are reported by name.
const MAX_REPORTED: usize = 20;

/// The counters of a copy. Those of a pass start again with each pass.
#[derive(Default)]
pub struct Summary {
    /// Copied checkpoints. One that is copied again in a later pass counts once.
    copied: u64,
    /// The bytes of all copied documents.
    bytes: u64,
    /// Sessions that the copy pinned at the target.
    pub pinned: u64,
    pub passes: u32,
    pass: Pass,
}

/// The counters of one pass.
#[derive(Default)]
struct Pass {
    /// Checkpoints that were equal.
    equal: u64,
    /// Checkpoints that were copied, because they were missing or different.
    different: u64,
    skipped: u64,
    reported: Vec<Skipped>,
    /// Hashes of the ids of the sessions at the target: the ids may need much memory.
    sessions: HashSet<u64>,
    /// Sessions that are pinned at the source.
    pinned_at_source: HashSet<String>,
    /// For each session that is pinned at the target, the number of checkpoints that
    /// expire only at the source.
    pinned_at_target: BTreeMap<String, u64>,
    /// Checkpoints since the last call of [`Summary::take_processed`].
    processed: u64,
}

/// A checkpoint or session that could not be made equal.
#[derive(Serialize)]
struct Skipped {
    session_id: Option<String>,
    checkpoint_id: Option<String>,
    reason: String,
}

impl Summary {
    pub fn begin_pass(&mut self) {
        self.passes += 1;
        self.pass = Pass::default();
    }

    pub fn count(&mut self, entry: &ScanEntry, outcome: CopyOutcome) {
        self.pass.processed += 1;
        match outcome {
            CopyOutcome::Vanished => return,
            CopyOutcome::Skipped(reason) => {
                return self.skip(Some(&entry.session_id), Some(&entry.checkpoint_id), reason);
            }
            CopyOutcome::PinnedAtTarget => {
                *self.pass.pinned_at_target.entry(entry.session_id.clone()).or_default() += 1;
                return;
            }
            CopyOutcome::Equal { .. } => self.pass.equal += 1,
            CopyOutcome::Copied { bytes, replaced } => {
                self.pass.different += 1;
                self.bytes += bytes as u64;
                self.copied += u64::from(self.passes == 1 || !replaced);
            }
        }
        self.count_session(&entry.session_id);
    }

    fn count_session(&mut self, session: &str) {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        self.pass.sessions.insert(hasher.hash_one(session));
    }

    pub fn count_pinned_at_source(&mut self, session: &str) {
        self.pass.pinned_at_source.insert(session.to_owned());
    }

    /// Whether checkpoints of this session were found to be pinned at the target in
    /// this pass.
    pub fn is_pinned_at_target(&self, session: &str) -> bool {
        self.pass.pinned_at_target.contains_key(session)
    }

    /// Counts the checkpoints of sessions that are pinned at the target: as equal if
    /// the session is pinned at the source, too, which only a complete pass knows.
    pub fn end_pass(&mut self) {
        for (session, count) in std::mem::take(&mut self.pass.pinned_at_target) {
            if self.pass.pinned_at_source.contains(&session) {
                self.pass.equal += count;
                self.count_session(&session);
            } else {
                let reason = format!(
                    "it is pinned at the target only, so {} of it will not expire there; unpin it at the target and \
                     repeat the command, or pin it at the source",
                    checkpoints(count)
                );
                self.skip(Some(&session), None, reason);
                self.pass.pinned_at_target.insert(session, count);
            }
        }
    }

    pub fn skip(&mut self, session: Option<&str>, checkpoint: Option<&str>, reason: String) {
        self.pass.skipped += 1;
        if self.pass.reported.len() < MAX_REPORTED {
            let (session_id, checkpoint_id) = (session.map(str::to_owned), checkpoint.map(str::to_owned));
            self.pass.reported.push(Skipped { session_id, checkpoint_id, reason });
        }
    }

    /// The number of checkpoints since the last call.
    pub fn take_processed(&mut self) -> u64 {
        std::mem::take(&mut self.pass.processed)
    }

    /// The number of checkpoints that differed in this pass.
    pub fn different(&self) -> u64 {
        self.pass.different
    }

    pub fn has_skipped(&self) -> bool {
        self.pass.skipped > 0
    }

    /// The progress of a pass that is running.
    pub fn progress(&self) -> String {
        let Pass { equal, different, skipped, .. } = self.pass;
        let (processed, bytes) = (checkpoints(equal + different + skipped), HumanBytes(self.bytes));
        format!("pass {}: {processed}, {} of them copied ({bytes})", self.passes, HumanCount(different))
    }

    /// The result of a pass that has ended.
    pub fn pass_result(&self) -> String {
        let (different, equal) = (HumanCount(self.pass.different), HumanCount(self.pass.equal));
        let bytes = if self.passes == 1 { format!(" ({})", HumanBytes(self.bytes)) } else { String::new() };
        format!("pass {}: {different} copied{bytes}, {equal} equal", self.passes)
    }

    /// Prints the result of the copy.
    pub fn print(&self, json: bool, out: &mut impl Write) -> io::Result<()> {
        let Pass { equal, skipped, ref reported, .. } = self.pass;
        let (copied, bytes, sessions) = (self.copied, self.bytes, self.pass.sessions.len() as u64);
        let at_target = equal + self.pass.pinned_at_target.values().sum::<u64>();
        let already_at_target = at_target.saturating_sub(copied);
        if json {
            let result = json!({
                "copied": copied, "bytes": bytes, "already_at_target": already_at_target, "equal": equal,
                "sessions": sessions, "pinned": self.pinned, "passes": self.passes, "skipped": skipped,
                "reported": reported,
            });
            return writeln!(out, "{result}");
        }
        writeln!(
            out,
            "copied {} ({}), already at the target: {}; {} of {} {} compared equal",
            checkpoints(copied),
            HumanBytes(bytes),
            HumanCount(already_at_target),
            checkpoints(equal),
            HumanCount(sessions),
            if sessions == 1 { "session" } else { "sessions" },
        )?;
        out.flush()?;
        let err = &mut io::stderr();
        for Skipped { session_id, checkpoint_id, reason } in reported {
            let names = [("checkpoint", checkpoint_id), ("session", session_id)];
            let names = names.iter().filter_map(|(kind, id)| id.as_ref().map(|id| format!("{kind} {id:?}")));
            let names = names.collect::<Vec<_>>().join(" of ");
            writeln!(err, "checkpointer: skipped {names}: {}", escape_control(reason))?;
        }
        if skipped > reported.len() as u64 {
            writeln!(err, "checkpointer: skipped {} more", HumanCount(skipped - reported.len() as u64))?;
        }
        Ok(())
    }
}
