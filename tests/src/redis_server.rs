//! A real redis-server or valkey-server on a free port of the loopback interface.
//! It runs until it is dropped.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Value};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// An argument of a server that is replaced by a free port.
pub const FREE_PORT: &str = "a free port";

/// A running server. Dropping it kills it by its process id.
pub struct RedisServer {
    child: Child,
    folder: TempDir,
    port: u16,
    program: PathBuf,
    arguments: Vec<String>,
}

impl RedisServer {
    /// Starts a server without persistence.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with additional arguments of `redis-server`.
    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::start_program("redis-server".into(), arguments).await
    }

    /// Starts a Valkey server, which `tests/run` installs, with additional
    /// arguments.
    pub async fn start_valkey_with(arguments: &[&str]) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/valkey/valkey-server");
        Self::start_program(program, arguments).await
    }

    async fn start_program(program: PathBuf, arguments: &[&str]) -> Self {
        // Another process may take the port before the server does.
        for _ in 0..10 {
            let folder = TempDir::new().expect("a temporary folder");
            let port = free_port();
            let arguments = arguments.iter().map(|argument| match *argument {
                FREE_PORT => free_port().to_string(),
                argument => argument.to_owned(),
            });
            let arguments: Vec<String> = arguments.collect();
            let child = spawn(&program, &folder, port, &arguments);
            let mut server = Self { child, folder, port, program: program.clone(), arguments };
            if server.is_ready().await {
                return server;
            }
        }
        panic!("{} does not start", program.display());
    }

    /// Starts a server with additional arguments, several words in each text.
    pub async fn start_with_words(arguments: &[&str]) -> Self {
        let words: Vec<&str> = arguments.iter().flat_map(|argument| argument.split(' ')).collect();
        Self::start_with(&words).await
    }

    /// Starts a replica of this server with the same arguments, and waits until
    /// it receives writes.
    pub async fn start_replica(&self) -> Self {
        self.command::<Value>(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]).await;
        let port = self.port.to_string();
        let mut arguments = vec!["--replicaof", "127.0.0.1", &port];
        arguments.extend(self.arguments.iter().map(String::as_str));
        let replica = Self::start_program(self.program.clone(), &arguments).await;
        let online = format!("port={},state=online", replica.port);
        let start = Instant::now();
        while !self.command::<String>(&["INFO", "replication"]).await.contains(&online) {
            assert!(start.elapsed() < Duration::from_secs(20), "the replica does not come up");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        replica
    }

    /// The port of the server.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of the server.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The Unix socket of the server.
    pub fn socket(&self) -> PathBuf {
        self.folder().join("redis.sock")
    }

    /// The folder of the server's files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Kills the server with SIGKILL.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("the server can be killed");
    }

    /// Restarts the server on the same port with the data that it had on disk.
    pub async fn restart(&mut self) {
        self.begin_restart(&[]);
        self.wait_until_ready().await;
    }

    /// Restarts the server with additional arguments, without waiting.
    pub fn begin_restart(&mut self, arguments: &[&str]) {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self.child = spawn(&self.program, &self.folder, self.port, &self.arguments);
    }

    /// Sends a signal to the server's process.
    pub async fn signal(&self, signal: &str) {
        let id = self.child.id().expect("the server runs").to_string();
        let status = Command::new("kill").args([signal, &id]).status().await.expect("kill runs");
        assert!(status.success());
    }

    /// Sends a command and returns its reply.
    pub async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_command(words).await.expect("the server answers")
    }

    /// Sends a command and returns its reply or its error.
    pub async fn try_command<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut connection = self.connect().await?;
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query_async(&mut connection).await
    }

    /// A connection for several commands; [`RedisServer::command`] opens one per
    /// command.
    pub async fn connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        // A busy server is not a failure.
        let patient = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
        redis::Client::open(self.url())?.get_multiplexed_async_connection_with_config(&patient).await
    }

    /// The value of a field in a section of `INFO`; empty if the server does not
    /// know the field.
    pub async fn information(&self, section: &str, name: &str) -> String {
        let information: String = self.command(&["INFO", section]).await;
        let line = information.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().to_owned()
    }

    /// The number of calls of a command, by clients and scripts.
    pub async fn calls(&self, command: &str) -> u64 {
        let statistics = self.information("commandstats", &format!("cmdstat_{command}")).await;
        let calls = statistics.split(',').find_map(|part| part.strip_prefix("calls="));
        calls.map_or(0, |calls| calls.parse().expect("a number"))
    }

    /// All keys of the server, each with its type and value.
    pub async fn keyspace(&self) -> Vec<(String, String, String)> {
        let mut keys: Vec<String> = self.command(&["KEYS", "*"]).await;
        keys.sort();
        let mut keyspace = Vec::new();
        for key in keys {
            let kind: String = self.command(&["TYPE", &key]).await;
            let content = match kind.as_str() {
                "string" => self.command::<String>(&["GET", &key]).await,
                "zset" => format!(
                    "{:?}",
                    self.command::<Vec<String>>(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]).await
                ),
                _ => String::new(),
            };
            keyspace.push((key, kind, content));
        }
        keyspace
    }

    /// Starts to record the commands that clients send.
    pub async fn watch(&self) -> Watch {
        let mut stream =
            BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).await.expect("a connection"));
        stream.write_all(b"MONITOR\r\n").await.expect("sent");
        let mut answer = String::new();
        stream.read_line(&mut answer).await.expect("an answer");
        assert_eq!(answer, "+OK\r\n");
        Watch { stream }
    }

    /// Waits until the server answers and has loaded its data.
    pub async fn wait_until_ready(&mut self) {
        assert!(self.is_ready().await, "the server has ended");
    }

    /// Waits until the server answers. Returns false if it has ended.
    async fn is_ready(&mut self) -> bool {
        let start = Instant::now();
        loop {
            match self.try_command::<Value>(&["PING"]).await {
                Ok(_) => return true,
                // The server answers and requires a password: it is ready.
                Err(error) if error.code() == Some("NOAUTH") => return true,
                Err(error) => {
                    assert!(start.elapsed() < Duration::from_secs(20), "the server does not start: {error}");
                    if let Ok(Some(_)) = self.child.try_wait() {
                        return false;
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The value that follows an argument of the server.
    pub fn argument(&self, name: &str) -> Option<&str> {
        let at = self.arguments.iter().position(|argument| argument == name)?;
        self.arguments.get(at + 1).map(String::as_str)
    }
}

/// Records the commands that clients send to a server.
pub struct Watch {
    stream: BufReader<TcpStream>,
}

impl Watch {
    /// The names of the recorded commands in upper case.
    pub async fn commands(self, server: &RedisServer) -> Vec<String> {
        self.calls(server).await.into_iter().map(|mut words| words.swap_remove(0)).collect()
    }

    /// The recorded commands with their arguments, the name in upper case. Commands
    /// of scripts, and those of clients that connect, are left out.
    pub async fn calls(mut self, server: &RedisServer) -> Vec<Vec<String>> {
        server.command::<String>(&["ECHO", "end of watch"]).await;
        let mut calls = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).await.expect("a line");
            if line.contains("end of watch") {
                return calls;
            }
            // +1763840000.123456 [0 127.0.0.1:50000] "GET" "key"
            let (from, command) = line.split_once("] ").expect("a command");
            let mut words = words(command);
            words[0] = words[0].to_uppercase();
            if !from.ends_with(" lua") && !["HELLO", "CLIENT", "AUTH", "SELECT"].contains(&&*words[0]) {
                calls.push(words);
            }
        }
    }
}

/// The quoted words of a line of MONITOR. Bytes that are not printable ASCII are
/// replaced.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (&mut word, character) {
            (None, '"') => word = Some(String::new()),
            (None, _) => {}
            (Some(_), '"') => words.extend(word.take()),
            (Some(text), '\\') => text.push(match characters.next().expect("an escape") {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'x' => {
                    characters.nth(1).expect("two digits");
                    char::REPLACEMENT_CHARACTER
                }
                other => other,
            }),
            (Some(text), other) => text.push(other),
        }
    }
    words
}

/// A port on which no process listens.
pub fn free_port() -> u16 {
    // The system may return the same port to two tests before the first one uses it.
    static RETURNED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        if RETURNED.lock().expect("no panic").insert(port) {
            return port;
        }
    }
}

fn spawn(program: &Path, folder: &TempDir, port: u16, arguments: &[String]) -> Child {
    Command::new(program)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--unixsocket", "redis.sock", "--dir"])
        .arg(folder.path())
        .args(arguments)
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{} has to be there, see tests/run: {error}", program.display()))
}
