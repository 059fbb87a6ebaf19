//! What the processors did for something: processor time, since on a machine
//! where others work too the time of a clock says little.

use anyhow::{Context, Result};
use checkpointer_tests::redis_server::RedisServer;
use rustix::time::{ClockId, clock_gettime};

/// What this process and some servers have used since they started.
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
    /// Up to now.
    ///
    /// # Errors
    /// A server does not say so.
    pub async fn now(servers: &[RedisServer]) -> Result<Self> {
        let (mut redis, mut bytes) = (0.0, 0.0);
        for server in servers {
            for name in ["used_cpu_user", "used_cpu_sys"] {
                redis += 1e6 * number(server, "cpu", name).await?;
            }
            for name in ["total_net_input_bytes", "total_net_output_bytes"] {
                bytes += number(server, "stats", name).await?;
            }
        }
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let host = 1e6 * time.tv_sec as f64 + time.tv_nsec as f64 / 1e3;
        Ok(Self { host, redis, bytes })
    }

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

/// How many bytes of memory the servers use for what they store. What they use for
/// their clients comes and goes.
///
/// # Errors
/// A server does not say so.
pub async fn memory(servers: &[RedisServer]) -> Result<f64> {
    let mut bytes = 0.0;
    for server in servers {
        bytes += number(server, "memory", "used_memory").await?;
        bytes -= number(server, "memory", "mem_clients_normal").await?;
    }
    Ok(bytes)
}

async fn number(server: &RedisServer, section: &str, name: &str) -> Result<f64> {
    let text = server.information(section, name).await;
    text.parse().with_context(|| format!("the server does not say its {name}"))
}
