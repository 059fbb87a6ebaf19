//! The checkpoints that are stored during a measurement.

use std::fmt;
use std::time::Duration;

use checkpointer::{Checkpointer, CheckpointerBuilder};
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::states::{MEDIUM, SMALL};

/// The servers that store a population.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topology {
    /// One server.
    Server,
    /// One server with a replica. Writes do not wait for the replica.
    WithReplica,
    /// One server with a replica. Each write waits for the replica.
    Replicated,
    /// A cluster of three masters without replicas.
    Cluster,
}

/// The layout of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// [`checkpointer::Layout::Llmfy`].
    Llmfy,
    /// [`checkpointer::Layout::Partitioned`].
    Partitioned,
}

/// The form of the checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Without expiry, not compressed.
    Plain,
    /// Without expiry, compressed.
    Compressed,
    /// With expiry, not compressed.
    Expiring,
}

/// Sessions of equally many checkpoints with states of equal size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Population {
    /// The servers.
    pub topology: Topology,
    /// The layout of the keys.
    pub layout: Layout,
    /// The form of the checkpoints.
    pub form: Form,
    /// The size of a state in bytes.
    pub state_bytes: usize,
    /// The number of sessions.
    pub sessions: u32,
    /// The number of checkpoints per session.
    pub checkpoints: u32,
}

/// 1 KB, the size of states in the populations with more or longer sessions.
pub const KILOBYTE: usize = 1024;

/// The sizes of states in the populations with larger states.
pub const STATE_BYTES: [usize; 4] = [KILOBYTE, 10 * KILOBYTE, 100 * KILOBYTE, 1024 * KILOBYTE];

/// The numbers of sessions in the populations with more sessions.
pub const SESSIONS: [u32; 3] = [100, 10_000, 100_000];

/// The numbers of checkpoints per session in the populations with longer sessions.
pub const CHECKPOINTS: [u32; 3] = [10, 1_000, 100_000];

/// The number of checkpoints per session in the other populations.
pub const FEW: u32 = 10;

/// The TTL of checkpoints that expire.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Population {
    /// The base population with this size of states: one server, layout `llmfy`, ten
    /// checkpoints per session.
    pub fn new(state_bytes: usize) -> Self {
        let sessions = (100 * 1024 * KILOBYTE / state_bytes / FEW as usize).clamp(40, 2_000) as u32;
        let (topology, layout, form) = (Topology::Server, Layout::Llmfy, Form::Plain);
        Self { topology, layout, form, state_bytes, sessions, checkpoints: FEW }
    }

    /// Changes the servers. A cluster implies the layout `partitioned`.
    pub fn on(self, topology: Topology) -> Self {
        let layout = if topology == Topology::Cluster { Layout::Partitioned } else { self.layout };
        Self { topology, layout, ..self }
    }

    /// Changes the form.
    pub fn form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// Changes the layout to `partitioned`.
    pub fn partitioned(self) -> Self {
        Self { layout: Layout::Partitioned, ..self }
    }

    /// A population with this number of sessions and states of 1 KB.
    pub fn with_sessions(sessions: u32) -> Self {
        Self { sessions, ..Self::new(KILOBYTE) }
    }

    /// A population with this number of checkpoints per session and states of 1 KB.
    /// It has at least two sessions, since the measurement deletes half of them one
    /// by one.
    pub fn with_checkpoints(checkpoints: u32) -> Self {
        Self { sessions: (20_000 / checkpoints).max(2), checkpoints, ..Self::new(KILOBYTE) }
    }

    /// All measured populations, without duplicates.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for size in [SMALL, MEDIUM] {
            let base = Self::new(size.bytes);
            all.extend([base, base.partitioned()]);
            all.extend([Form::Compressed, Form::Expiring].map(|form| base.form(form)));
            all.extend(
                [Topology::WithReplica, Topology::Replicated, Topology::Cluster].map(|it| base.on(it)),
            );
        }
        all.extend(STATE_BYTES.map(Self::new));
        all.extend(CHECKPOINTS.map(Self::with_checkpoints));
        all.extend(CHECKPOINTS.map(|checkpoints| Self::with_checkpoints(checkpoints).form(Form::Expiring)));
        all.extend(
            CHECKPOINTS[..2].iter().map(|checkpoints| Self::with_checkpoints(*checkpoints).partitioned()),
        );
        all.extend(SESSIONS.map(Self::with_sessions));
        let mut unique = Vec::new();
        for population in all {
            if !unique.contains(&population) {
                unique.push(population);
            }
        }
        unique
    }

    /// The operations that are measured in addition to [`Operation::BOUNDED`]: those
    /// on whole sessions, in the populations with longer sessions.
    pub fn unbounded_operations(&self) -> &'static [Operation] {
        use Operation::{ClearAll, DeleteSession, SaveAtLimit, SaveWithSessionTtl};
        let plain = Self { layout: Layout::Llmfy, form: Form::Plain, ..*self };
        if !CHECKPOINTS.map(Self::with_checkpoints).contains(&plain) {
            return &[];
        }
        match self.form {
            Form::Expiring => &[SaveWithSessionTtl],
            Form::Plain | Form::Compressed => &[SaveAtLimit, DeleteSession, ClearAll],
        }
    }

    /// The number of checkpoints in all sessions.
    pub fn total(&self) -> u32 {
        self.sessions * self.checkpoints
    }

    /// The options of the checkpointer for an operation.
    pub fn builder(&self, operation: Operation) -> CheckpointerBuilder {
        let builder =
            Checkpointer::builder().compress(self.form == Form::Compressed).layout(match self.layout {
                Layout::Llmfy => checkpointer::Layout::Llmfy,
                Layout::Partitioned => checkpointer::Layout::Partitioned,
            });
        match operation {
            Operation::SaveAtLimit => builder.max_checkpoints(self.checkpoints),
            // A TTL longer than that of the population is extended by each save.
            Operation::SaveWithSessionTtl => builder.session_ttl(2 * DAY),
            _ if self.form == Form::Expiring => builder.ttl(DAY),
            _ => builder,
        }
    }
}

impl fmt::Display for Population {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topology, layout, form, state_bytes, sessions, checkpoints } = self;
        write!(f, "{topology:?}, {layout:?}, {form:?}, {sessions} × {checkpoints} of {state_bytes} bytes")
    }
}
