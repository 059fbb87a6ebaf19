//! Processor time, network traffic and memory. Wall-clock time is not used, since
//! it depends on the other load of the machine.

use anyhow::{Context, Result};
use checkpointer_tests::redis_server::RedisServer;
use redis::aio::MultiplexedConnection;
use redis::{InfoDict, cmd};
use rustix::time::{ClockId, clock_gettime};

/// Fields of INFO for memory that Redis counts as used although it stores no data.
/// It varies with clients, replicas and the other servers of a cluster.
const NOT_STORED: [&str; 4] =
    ["mem_clients_normal", "mem_clients_slaves", "mem_replication_backlog", "mem_cluster_links"];

/// A connection per server. Connections stay open, because opening one costs as much
/// as some operations.
pub struct Meter {
    connections: Vec<MultiplexedConnection>,
}

impl Meter {
    /// Connects to the servers.
    ///
    /// # Errors
    /// A server can't be reached.
    pub async fn open(servers: &[RedisServer]) -> Result<Self> {
        let mut connections = Vec::new();
        for server in servers {
            connections.push(server.connect().await?);
        }
        Ok(Self { connections })
    }

    /// The usage of this process and of the servers since their start.
    ///
    /// # Errors
    /// A server fails or does not report a field.
    pub async fn usage(&self) -> Result<Usage> {
        let (mut redis, mut bytes) = (0.0, 0.0);
        for info in self.info(&["cpu", "stats"]).await? {
            redis += 1e6 * (number(&info, "used_cpu_user")? + number(&info, "used_cpu_sys")?);
            bytes += number(&info, "total_net_input_bytes")? + number(&info, "total_net_output_bytes")?;
        }
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let host = 1e6 * time.tv_sec as f64 + time.tv_nsec as f64 / 1e3;
        Ok(Usage { host, redis, bytes })
    }

    /// The bytes of memory that the servers use for stored data.
    ///
    /// # Errors
    /// A server fails or does not report a field.
    pub async fn memory(&self) -> Result<f64> {
        let mut bytes = 0.0;
        for info in self.info(&["memory"]).await? {
            bytes += number(&info, "used_memory")?;
            for name in NOT_STORED {
                bytes -= number(&info, name)?;
            }
        }
        Ok(bytes)
    }

    /// Sections of the `INFO` of each server.
    async fn info(&self, sections: &[&str]) -> Result<Vec<InfoDict>> {
        let mut infos = Vec::new();
        for mut connection in self.connections.clone() {
            infos.push(cmd("INFO").arg(sections).query_async(&mut connection).await?);
        }
        Ok(infos)
    }
}

/// The usage of this process and of servers.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor time of all threads of this process in microseconds.
    pub host: f64,
    /// Processor time of the servers in microseconds.
    pub redis: f64,
    /// Bytes between clients and servers in both directions.
    pub bytes: f64,
}

impl Usage {
    /// The mean usage of `count` operations since an earlier moment.
    pub fn since(self, earlier: Self, count: u64) -> Self {
        let mean = |now: f64, earlier: f64| (now - earlier) / count as f64;
        Self {
            host: mean(self.host, earlier.host),
            redis: mean(self.redis, earlier.redis),
            bytes: mean(self.bytes, earlier.bytes),
        }
    }
}

fn number(info: &InfoDict, name: &str) -> Result<f64> {
    info.get(name).with_context(|| format!("the server does not report {name}"))
}
