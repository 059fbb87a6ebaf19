//! What the processors did for something: processor time, since on a machine
//! where others work too the time of a clock says little.

use anyhow::{Context, Result};
use checkpointer_tests::redis_server::RedisServer;
use redis::aio::MultiplexedConnection;
use redis::{InfoDict, cmd};
use rustix::time::{ClockId, clock_gettime};

/// What Redis counts as used and is no part of what it stores: it comes and goes
/// with clients, replicas and the other servers of a cluster.
const NOT_STORED: [&str; 4] =
    ["mem_clients_normal", "mem_clients_slaves", "mem_replication_backlog", "mem_cluster_links"];

/// A connection to each of some servers, kept since a new one costs as much as some
/// operations.
pub struct Meter {
    connections: Vec<MultiplexedConnection>,
}

impl Meter {
    /// Connects to the servers.
    ///
    /// # Errors
    /// One can't be reached.
    pub async fn open(servers: &[RedisServer]) -> Result<Self> {
        let mut connections = Vec::new();
        for server in servers {
            connections.push(server.connect().await?);
        }
        Ok(Self { connections })
    }

    /// What this process and the servers have used since they started.
    ///
    /// # Errors
    /// A server does not say so.
    pub async fn usage(&self) -> Result<Usage> {
        let (mut redis, mut bytes) = (0.0, 0.0);
        for said in self.information(&["cpu", "stats"]).await? {
            redis += 1e6 * (number(&said, "used_cpu_user")? + number(&said, "used_cpu_sys")?);
            bytes += number(&said, "total_net_input_bytes")? + number(&said, "total_net_output_bytes")?;
        }
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let host = 1e6 * time.tv_sec as f64 + time.tv_nsec as f64 / 1e3;
        Ok(Usage { host, redis, bytes })
    }

    /// How many bytes of memory the servers use for what they store.
    ///
    /// # Errors
    /// A server does not say so.
    pub async fn memory(&self) -> Result<f64> {
        let mut bytes = 0.0;
        for said in self.information(&["memory"]).await? {
            bytes += number(&said, "used_memory")?;
            for name in NOT_STORED {
                bytes -= number(&said, name)?;
            }
        }
        Ok(bytes)
    }

    /// What each server says in some sections of `INFO`.
    async fn information(&self, sections: &[&str]) -> Result<Vec<InfoDict>> {
        let mut said = Vec::new();
        for mut connection in self.connections.clone() {
            said.push(cmd("INFO").arg(sections).query_async(&mut connection).await?);
        }
        Ok(said)
    }
}

/// What this process and some servers used.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor time of this process, all threads, in microseconds.
    pub host: f64,
    /// That of the servers.
    pub redis: f64,
    /// How many bytes clients sent to the servers and got from them.
    pub bytes: f64,
}

impl Usage {
    /// What was used from an earlier moment to this one, for each of so many
    /// operations.
    pub fn since(self, earlier: Self, count: u64) -> Self {
        let each = |now: f64, earlier: f64| (now - earlier) / count as f64;
        Self {
            host: each(self.host, earlier.host),
            redis: each(self.redis, earlier.redis),
            bytes: each(self.bytes, earlier.bytes),
        }
    }
}

fn number(said: &InfoDict, name: &str) -> Result<f64> {
    said.get(name).with_context(|| format!("the server does not say its {name}"))
}
