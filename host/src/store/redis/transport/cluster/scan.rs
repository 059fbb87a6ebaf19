//! The scan of the keys of all masters, one master after the other. If slots migrate
//! during a scan, a key may move from a master that is still to come to one that is
//! done. The scan starts again then.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{cmd, from_redis_value};
use tokio::task::JoinSet;

use super::Cluster;
use super::slot_map::{ClusterNodesSnapshot, SlotMap};
use crate::store::redis::error::{TransportError, TransportFailure};
use crate::store::redis::retry::Attempt;
use crate::store::redis::transport::connection::NodeConnection;
use crate::store::redis::transport::scan_cursor::ScanCursor;
use crate::store::redis::transport::{Access, ScanPage};

/// The longest wait for a migration to end before a scan starts again.
const MAX_RESTART_DELAY: Duration = Duration::from_millis(500);

impl Cluster {
    /// Returns a page of the keys that match a pattern.
    pub(super) async fn scan_page(
        &self,
        pattern: &str,
        cursor: Option<&str>,
    ) -> Result<ScanPage, TransportFailure> {
        let cursor = cursor.map(ClusterCursor::parse).transpose()?;
        let scan = async |attempt| {
            let page = self.attempt_scan(pattern, cursor, attempt).await;
            // A master that fails may have been replaced.
            if page.as_ref().is_err_and(|failure| failure.error.is_transient()) {
                *self.snapshot.lock() = Arc::default();
            }
            page
        };
        Ok(self.policy.run(Access::Read, scan).await?.reply)
    }

    async fn attempt_scan(
        &self,
        pattern: &str,
        cursor: Option<ClusterCursor>,
        attempt: Attempt,
    ) -> Result<ScanPage, TransportFailure> {
        let mut snapshot = Arc::clone(&self.snapshot.lock());
        if cursor.is_none_or(|cursor| cursor.topology_hash != snapshot.topology_hash) {
            snapshot = self.refresh_snapshot(attempt).await?;
        }
        let mut cursor = cursor.unwrap_or_else(|| ClusterCursor::start(&snapshot));
        if cursor.topology_hash != snapshot.topology_hash {
            return cursor.restart(Vec::new(), &snapshot).await;
        }
        let master = snapshot.masters.get(cursor.master).ok_or(TransportError::InvalidCursor)?;
        let step = async |connection: &NodeConnection| {
            cursor.on_master.step(connection, pattern, attempt.response_deadline()).await
        };
        let (keys, next) = self.connections.with(master, attempt.connect_deadline(), step).await?;
        cursor.on_master = next;
        if next.is_start() {
            cursor.master += 1;
        }
        if cursor.master < snapshot.masters.len() {
            return Ok(ScanPage { keys, next: Some(cursor.to_string()) });
        }
        let current = self.refresh_snapshot(attempt).await?;
        if current.topology_hash == cursor.topology_hash && !current.is_migrating {
            return Ok(ScanPage { keys, next: None });
        }
        cursor.restart(keys, &current).await
    }

    /// Asks all masters for their slots.
    async fn refresh_snapshot(
        &self,
        attempt: Attempt,
    ) -> Result<Arc<ClusterNodesSnapshot>, TransportFailure> {
        let ask = async |slots: &SlotMap| self.ask_masters(slots, attempt).await;
        let snapshot = Arc::new(self.with_slots(attempt, ask).await?);
        *self.snapshot.lock() = Arc::clone(&snapshot);
        Ok(snapshot)
    }

    async fn ask_masters(
        &self,
        slots: &SlotMap,
        attempt: Attempt,
    ) -> Result<ClusterNodesSnapshot, TransportFailure> {
        let mut answers = JoinSet::new();
        for node in slots.masters() {
            let (connections, deadline) = (Arc::clone(&self.connections), attempt.connect_deadline());
            answers.spawn(async move {
                let question = cmd("CLUSTER").arg("NODES").clone();
                let ask = async |connection: &NodeConnection| connection.ask(&question, deadline).await;
                let answer = connections.with(&node, deadline, ask).await?;
                Ok::<_, TransportFailure>(((*node).clone(), from_redis_value(answer)?))
            });
        }
        let answers: Result<Vec<_>, _> = answers.join_all().await.into_iter().collect();
        ClusterNodesSnapshot::parse(&answers?).ok_or_else(|| TransportError::NoSlotMaster.into())
    }
}

/// The progress of a scan of a cluster.
#[derive(Clone, Copy, Default)]
struct ClusterCursor {
    /// The index of the master in the order of the node ids.
    master: usize,
    /// The topology at the start of the scan.
    topology_hash: u32,
    on_master: ScanCursor,
}

impl ClusterCursor {
    fn start(snapshot: &ClusterNodesSnapshot) -> Self {
        Self { topology_hash: snapshot.topology_hash, ..Self::default() }
    }

    fn parse(text: &str) -> Result<Self, TransportError> {
        let invalid = TransportError::InvalidCursor;
        let mut parts = text.splitn(3, '.');
        let (Some(master), Some(hash), Some(on_master)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(invalid);
        };
        let (Ok(master), Ok(topology_hash)) = (master.parse(), hash.parse()) else { return Err(invalid) };
        Ok(Self { master, topology_hash, on_master: ScanCursor::parse(Some(on_master))? })
    }

    /// A page with these keys, after which all masters are scanned again.
    async fn restart(
        self,
        keys: Vec<Vec<u8>>,
        snapshot: &ClusterNodesSnapshot,
    ) -> Result<ScanPage, TransportFailure> {
        let on_master = self.on_master.restart()?;
        let delay = on_master.restarts() * MAX_RESTART_DELAY / 10;
        tokio::time::sleep(delay.min(MAX_RESTART_DELAY)).await;
        let cursor = Self { on_master, ..Self::start(snapshot) };
        Ok(ScanPage { keys, next: Some(cursor.to_string()) })
    }
}

impl fmt::Display for ClusterCursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { master, topology_hash, on_master } = self;
        write!(formatter, "{master}.{topology_hash}.{on_master}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_is_parsed_as_it_is_displayed() {
        let cursor = ClusterCursor::parse("2.4294967295.18446744073709551615.5.3").expect("a cursor");
        assert_eq!((cursor.master, cursor.topology_hash), (2, u32::MAX));
        assert_eq!(cursor.to_string(), "2.4294967295.18446744073709551615.5.3");
        for text in ["", "17", "1.2.3.4", "1.2.3.4.x", "1.4294967296.2.3.0"] {
            assert!(ClusterCursor::parse(text).is_err(), "{text}");
        }
    }
}
