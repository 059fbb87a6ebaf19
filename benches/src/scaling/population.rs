//! What is stored when something is measured.

use std::fmt;
use std::time::Duration;

use checkpointer::{Builder, Checkpointer};
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::states::{MEDIUM, SMALL};

/// Where it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// One server.
    Server,
    /// One that has a replica, which nobody waits for.
    WithReplica,
    /// The same, but each write waits for it.
    Replicated,
    /// A cluster of three masters without replicas.
    Cluster,
}

/// How keys are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// As llmfy does.
    Llmfy,
    /// By session.
    Partitioned,
}

/// How long it lives, and as what text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// For ever, as it is.
    Plain,
    /// For ever, compressed.
    Compressed,
    /// Until it expires, as it is.
    Expiring,
}

/// Many checkpoints of one size, as many in each session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Population {
    /// Where they are.
    pub place: Place,
    /// How their keys are named.
    pub layout: Layout,
    /// What they are stored as.
    pub form: Form,
    /// How large a state is.
    pub state_bytes: usize,
    /// How many sessions there are.
    pub sessions: u32,
    /// How many checkpoints each has.
    pub checkpoints: u32,
}

/// 1 KB, from which states grow.
pub const KILOBYTE: usize = 1024;

/// How large states are, where it is the state that grows.
pub const STATE_BYTES: [usize; 4] = [KILOBYTE, 10 * KILOBYTE, 100 * KILOBYTE, 1024 * KILOBYTE];

/// How many sessions there are, where that grows.
pub const SESSIONS: [u32; 3] = [100, 10_000, 100_000];

/// How many checkpoints a session has, where that grows.
pub const CHECKPOINTS: [u32; 3] = [10, 1_000, 100_000];

/// How many checkpoints a session has where something else grows.
pub const FEW: u32 = 10;

/// How long checkpoints live, and from a later save on.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Population {
    /// A simple one: on one server, in llmfy's layout, with ten checkpoints in each
    /// session.
    pub fn of(state_bytes: usize) -> Self {
        let sessions = (100 * 1024 * KILOBYTE / state_bytes / FEW as usize).clamp(40, 2_000) as u32;
        let (place, layout, form) = (Place::Server, Layout::Llmfy, Form::Plain);
        Self { place, layout, form, state_bytes, sessions, checkpoints: FEW }
    }

    /// The same at another place, with the layout that fits there.
    pub fn at(self, place: Place) -> Self {
        let layout = if place == Place::Cluster { Layout::Partitioned } else { self.layout };
        Self { place, layout, ..self }
    }

    /// The same in another form.
    pub fn form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// The same with partitions.
    pub fn partitioned(self) -> Self {
        Self { layout: Layout::Partitioned, ..self }
    }

    /// So many sessions of 1 KB states.
    pub fn of_sessions(sessions: u32) -> Self {
        Self { sessions, ..Self::of(KILOBYTE) }
    }

    /// Sessions of so many checkpoints with 1 KB states. There are two at least,
    /// since one is deleted alone.
    pub fn of_checkpoints(checkpoints: u32) -> Self {
        Self { sessions: (20_000 / checkpoints).max(2), checkpoints, ..Self::of(KILOBYTE) }
    }

    /// All that are measured, each once.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for size in [SMALL, MEDIUM] {
            let simple = Self::of(size.bytes);
            all.extend([simple, simple.partitioned()]);
            all.extend([Form::Compressed, Form::Expiring].map(|form| simple.form(form)));
            all.extend([Place::WithReplica, Place::Replicated, Place::Cluster].map(|place| simple.at(place)));
        }
        all.extend(STATE_BYTES.map(Self::of));
        all.extend(CHECKPOINTS.map(Self::of_checkpoints));
        all.extend(CHECKPOINTS.map(|checkpoints| Self::of_checkpoints(checkpoints).form(Form::Expiring)));
        all.extend(
            CHECKPOINTS[..2].iter().map(|checkpoints| Self::of_checkpoints(*checkpoints).partitioned()),
        );
        all.extend(SESSIONS.map(Self::of_sessions));
        let mut once = Vec::new();
        for population in all {
            if !once.contains(&population) {
                once.push(population);
            }
        }
        once
    }

    /// What is measured of it besides [`Operation::SINGLE`]: where it is sessions
    /// that get longer, what is about all of a session.
    pub fn others(&self) -> &'static [Operation] {
        use Operation::{ClearAll, DeleteSession, SaveOfSession, SaveWithinLimit};
        let plain = Self { layout: Layout::Llmfy, form: Form::Plain, ..*self };
        if !CHECKPOINTS.map(Self::of_checkpoints).contains(&plain) {
            return &[];
        }
        match self.form {
            Form::Expiring => &[SaveOfSession],
            Form::Plain | Form::Compressed => &[SaveWithinLimit, DeleteSession, ClearAll],
        }
    }

    /// How many checkpoints there are.
    pub fn total(&self) -> u32 {
        self.sessions * self.checkpoints
    }

    /// How the checkpointer is opened for an operation.
    pub fn builder(&self, operation: Operation) -> Builder {
        let builder =
            Checkpointer::builder().compress(self.form == Form::Compressed).layout(match self.layout {
                Layout::Llmfy => checkpointer::Layout::Llmfy,
                Layout::Partitioned => checkpointer::Layout::Partitioned,
            });
        match operation {
            Operation::SaveWithinLimit => builder.max_checkpoints(self.checkpoints),
            // It prolongs the lives of all.
            Operation::SaveOfSession => builder.session_ttl(2 * DAY),
            _ if self.form == Form::Expiring => builder.ttl(DAY),
            _ => builder,
        }
    }
}

impl fmt::Display for Population {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, layout, form, state_bytes, sessions, checkpoints } = self;
        write!(f, "{place:?}, {layout:?}, {form:?}, {sessions} × {checkpoints} of {state_bytes} bytes")
    }
}
