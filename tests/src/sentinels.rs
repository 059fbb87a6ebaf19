//! A real master with two replicas, monitored by three Sentinels, on the loopback
//! interface.

use std::fs;
use std::process::Stdio;
use std::sync::{Arc, Weak};

use redis::{FromRedisValue, RedisResult, Value};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::eventually::eventually;
use crate::redis_server::{RedisServer, free_port};

/// The name of the master for the Sentinels.
pub const NAME: &str = "mymaster";

/// The password of the Sentinels.
pub const PASSWORD: &str = "of-the-sentinels";

/// After how many milliseconds without an answer a master counts as failed: more
/// than a busy machine needs to answer.
const DOWN_AFTER: u32 = 2000;

/// The number of Sentinels.
const SENTINELS: usize = 3;

/// Running servers and Sentinels. Dropping it kills them by their process ids.
pub struct Sentinels {
    servers: Vec<RedisServer>,
    sentinels: Vec<Sentinel>,
}

struct Sentinel {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Sentinels {
    /// Starts all of them, and waits until they know each other.
    pub async fn start() -> Self {
        let master = RedisServer::start().await;
        let replicas = [master.start_replica().await, master.start_replica().await];
        let mut servers = vec![master];
        servers.extend(replicas);
        let sentinels = (0..SENTINELS).map(|_| Sentinel::start(servers[0].port())).collect();
        let it = Self { servers, sentinels };
        it.wait_until_whole().await;
        it
    }

    /// Empty servers that several tests share. Access is exclusive while the
    /// guard exists.
    pub async fn shared() -> (Arc<Self>, OwnedMutexGuard<()>) {
        static SHARED: Mutex<Weak<Sentinels>> = Mutex::const_new(Weak::new());
        static IN_USE: std::sync::OnceLock<Arc<Mutex<()>>> = std::sync::OnceLock::new();
        let it = {
            let mut shared = SHARED.lock().await;
            match shared.upgrade() {
                Some(it) => it,
                None => {
                    let it = Arc::new(Self::start().await);
                    *shared = Arc::downgrade(&it);
                    it
                }
            }
        };
        let guard = Arc::clone(IN_USE.get_or_init(Arc::default)).lock_owned().await;
        it.master().await.command::<Value>(&["FLUSHALL"]).await;
        (it, guard)
    }

    /// Waits until every Sentinel knows the other ones and a master with two
    /// replicas that can be promoted.
    pub async fn wait_until_whole(&self) {
        for sentinel in &self.sentinels {
            eventually("a sentinel knows the others", async || {
                let Ok(master) = sentinel.command::<Vec<String>>(&["MASTER", NAME]).await else {
                    return false;
                };
                let Ok(replicas) = sentinel.command::<Vec<Vec<String>>>(&["REPLICAS", NAME]).await else {
                    return false;
                };
                let ready = |replica: &Vec<String>| {
                    said(replica, "flags") == "slave" && said(replica, "master-link-status") == "ok"
                };
                said(&master, "flags") == "master"
                    && said(&master, "num-other-sentinels") == (SENTINELS - 1).to_string()
                    && replicas.len() == 2
                    && replicas.iter().all(ready)
            })
            .await;
        }
    }

    /// The URL of the store.
    pub fn url(&self) -> String {
        let of = |sentinel: &Sentinel| format!("127.0.0.1:{}", sentinel.port);
        let sentinels: Vec<_> = self.sentinels.iter().map(of).collect();
        format!("redis+sentinel://{}/{NAME}?sentinel_password={PASSWORD}", sentinels.join(","))
    }

    /// The servers; the first one is the initial master.
    pub fn servers(&self) -> &[RedisServer] {
        &self.servers
    }

    /// The servers, to be killed and restarted.
    pub fn servers_mut(&mut self) -> &mut [RedisServer] {
        &mut self.servers
    }

    /// The server that all Sentinels and it itself report as master.
    pub async fn master(&self) -> &RedisServer {
        &self.servers[self.master_other_than(None).await]
    }

    /// Waits until all Sentinels report another master. Returns its number.
    pub async fn successor_of(&self, former: usize) -> usize {
        self.master_other_than(Some(former)).await
    }

    async fn master_other_than(&self, former: Option<usize>) -> usize {
        let mut master = None;
        eventually("the sentinels name a master", async || {
            let mut ports = Vec::new();
            for sentinel in &self.sentinels {
                let named = sentinel.command::<(String, u16)>(&["GET-MASTER-ADDR-BY-NAME", NAME]).await;
                ports.extend(named.map(|(_, port)| port).ok());
            }
            let number = self.servers.iter().position(|server| ports == [server.port(); SENTINELS]);
            let Some(number) = number.filter(|number| Some(*number) != former) else { return false };
            master = Some(number);
            let about = self.servers[number].try_command::<String>(&["INFO", "replication"]).await;
            about.is_ok_and(|about| about.contains("role:master"))
        })
        .await;
        master.expect("a master")
    }

    /// Kills the master with SIGKILL. Returns its number.
    pub async fn kill_master(&mut self) -> usize {
        let master = self.master_other_than(None).await;
        self.servers[master].kill().await;
        master
    }

    /// Waits until a server is a replica with the data of the master.
    pub async fn wait_until_replica(&self, number: usize) {
        eventually("a server is a replica", async || {
            let about = self.servers[number].try_command::<String>(&["INFO", "replication"]).await;
            about.is_ok_and(|about| about.contains("role:slave") && about.contains("master_link_status:up"))
        })
        .await;
    }

    /// Starts a manual failover, as an operator does.
    pub async fn fail_over(&self) {
        self.sentinels[0].command::<Value>(&["FAILOVER", NAME]).await.expect("a failover begins");
    }

    /// Kills all Sentinels.
    pub async fn kill_sentinels(&mut self) {
        for sentinel in &mut self.sentinels {
            sentinel.child.kill().await.expect("a sentinel can be killed");
        }
    }
}

impl Sentinel {
    fn start(master: u16) -> Self {
        let (folder, port) = (TempDir::new().expect("a temporary folder"), free_port());
        let file = folder.path().join("sentinel.conf");
        let configuration = format!(
            "port {port}\nbind 127.0.0.1\ndir \"{}\"\nrequirepass \"{PASSWORD}\"\n\
             sentinel monitor {NAME} 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds {NAME} {DOWN_AFTER}\n\
             sentinel failover-timeout {NAME} 6000\n\
             sentinel parallel-syncs {NAME} 2\n",
            folder.path().display()
        );
        fs::write(&file, configuration).expect("written");
        let child = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server is installed (apt-get install redis-server)");
        Self { child, port, _folder: folder }
    }

    /// Sends a `SENTINEL` command.
    async fn command<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let address = format!("redis://:{PASSWORD}@127.0.0.1:{}", self.port);
        let mut connection = redis::Client::open(address)?.get_multiplexed_async_connection().await?;
        redis::cmd("SENTINEL").arg(words).query_async(&mut connection).await
    }
}

/// The value of a field in the answer of a Sentinel, a list of names and values.
fn said<'a>(about: &'a [String], name: &str) -> &'a str {
    about.chunks(2).find(|pair| pair[0] == name).map_or("", |pair| &pair[1])
}
