//! Redis 7.0 and later, and Valkey: values are strings, indexes sorted sets.
//!
//! A commit is one script, so that it is atomic and can't fail half-way; a page
//! of an index with its values is one `SORT_RO`, or a script where that can't
//! do it. How these get to a server is the matter of `connection` and of the
//! files beside it.

mod address;
mod cluster;
mod commit;
mod connection;
mod failure;
mod latest;
mod link;
mod put;
mod replicas;
mod scan;
mod sentinel;
mod server;
mod tls;
mod vote;

use std::sync::atomic::{AtomicBool, Ordering};

use ::redis::{
    Client, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, RedisError, Script, TlsCertificates, Value as Reply, cmd, from_redis_value,
};
use async_trait::async_trait;
use tracing::{debug, warn};

pub use self::address::RedisAddress;
use self::address::{Endpoint, Node};
use self::cluster::Cluster;
use self::commit::{Argument, CommitCall, expiry_argument};
use self::connection::{Access, Answer, Connection, Request};
use self::failure::failure;
use self::put::PutCall;
use self::scan::numbers;
use self::sentinel::Sentinels;
use self::server::Server;
use super::quota::{Limit, RECONCILE_PAGE};
use super::{
    Batch, Condition, Effect, Entry, Expiry, IndexPage, KeyPage, ValuePrefix, Operation, Order, Position, Put,
    Query, Quota, StorageError, StorageReason, Store, Value, invalid, size, text_value, too_large, validate,
};

/// A server or a cluster, connected to when it is first used.
pub struct RedisStore {
    connection: Box<dyn Connection>,
    put: Program,
    commit: Program,
    commit_with_quota: Program,
    settle: Program,
    range: Program,
    get: Program,
    ttl: Program,
    /// Whether the server lets this user sort, which an ACL may forbid.
    may_sort: AtomicBool,
}

/// A script, as its text and as the name that Redis gives it.
struct Program {
    text: &'static str,
    hash: String,
    /// Whether it went well when it last wrote, so that the user may do all that
    /// it does. If an ACL forbade only a part, the script would stop half-way.
    may_write: AtomicBool,
}

impl Program {
    fn new(text: &'static str) -> Self {
        let hash = Script::new(text).get_hash().to_owned();
        Self { text, hash, may_write: AtomicBool::new(false) }
    }

    /// What a script that writes is told: whether to look first if the user may
    /// do all that it does.
    fn check_argument(&self) -> &'static str {
        if self.may_write.load(Ordering::Relaxed) { "" } else { "check" }
    }
}

/// The places of what `range.lua` is called with: the limit, and that behind
/// which to begin.
const LIMIT: usize = 1;
const AFTER: usize = 5;

/// What `range.lua` fails with where the values are more than asked for.
const TOO_LARGE: &str = "TOOLARGE";

impl RedisStore {
    /// Gets ready for the server at `address`; nothing is sent yet.
    ///
    /// # Errors
    /// The address can't be used, for instance a Unix socket on a system
    /// without them; or a file with certificates, which is named.
    pub fn new(address: &RedisAddress) -> Result<Self, StorageError> {
        let refused = |error: RedisError| {
            warn!(%address, %error, "the address can't be used");
            invalid("the address of the store can't be used")
        };
        let tls = address.tls.as_ref().map(tls::read).transpose()?;
        let connection: Box<dyn Connection> = match &address.endpoint {
            Endpoint::Server(node) => {
                let client = client(address, node, tls).map_err(refused)?;
                Box::new(Server::new(client, address))
            }
            Endpoint::Unix(path) => {
                let information = with_settings(address, ConnectionAddr::Unix(path.clone()));
                let client = Client::open(information.map_err(refused)?).map_err(refused)?;
                Box::new(Server::new(client, address))
            }
            Endpoint::Cluster(nodes) => Box::new(Cluster::new(nodes, tls, address).map_err(refused)?),
            Endpoint::Sentinels { nodes, master, user, password } => {
                let (user, password) = (user.as_ref(), password.as_ref());
                let sentinels = Sentinels::new(nodes, master, user, password, tls, address);
                Box::new(sentinels.map_err(refused)?)
            }
        };
        Ok(Self {
            connection,
            put: Program::new(concat!(
                include_str!("prelude.lua"),
                include_str!("write.lua"),
                include_str!("put.lua")
            )),
            commit: Program::new(concat!(
                include_str!("prelude.lua"),
                include_str!("write.lua"),
                "local ledger\n",
                include_str!("commit.lua")
            )),
            commit_with_quota: Program::new(concat!(
                include_str!("prelude.lua"),
                include_str!("write.lua"),
                include_str!("ledger.lua"),
                include_str!("commit.lua")
            )),
            settle: Program::new(concat!(
                include_str!("prelude.lua"),
                include_str!("ledger.lua"),
                include_str!("settle.lua")
            )),
            range: Program::new(concat!(include_str!("prelude.lua"), include_str!("range.lua"))),
            get: Program::new(concat!(include_str!("prelude.lua"), include_str!("get.lua"))),
            ttl: Program::new(concat!(include_str!("prelude.lua"), include_str!("ttl.lua"))),
            may_sort: AtomicBool::new(!matches!(address.endpoint, Endpoint::Cluster(_))),
        })
    }

    /// Reads what stands at a key.
    async fn read<T: FromRedisValue>(&self, command: &Cmd, key: &str) -> Result<T, RedisError> {
        Ok(from_redis_value(self.connection.send(Request::to_read(command, key)).await?.reply)?)
    }

    /// Runs a script by its hash, or by its text where the server doesn't have
    /// it yet.
    async fn run(
        &self,
        program: &Program,
        keys: &[impl AsRef<str> + Sync],
        arguments: &[impl AsRef<[u8]> + Sync],
        access: Access,
        reads_unnamed: bool,
    ) -> Result<Answer, RedisError> {
        // Room for all, or the value would be copied each time that it gets narrow.
        let bytes = keys.iter().map(|key| key.as_ref().len()).sum::<usize>()
            + arguments.iter().map(|argument| argument.as_ref().len()).sum::<usize>();
        let call = |verb: &str, name: &str| {
            let count = keys.len() + arguments.len() + 3;
            let mut call = Cmd::with_capacity(count, bytes + verb.len() + name.len() + 20);
            call.arg(verb).arg(name).arg(keys.len());
            for key in keys {
                call.arg(key.as_ref());
            }
            for argument in arguments {
                call.arg(argument.as_ref());
            }
            call
        };
        let command = call("EVALSHA", &program.hash);
        let with_text = || call("EVAL", program.text);
        let key = keys.first().map(AsRef::as_ref);
        let request = Request { command: &command, key, access, reads_unnamed, with_text: Some(&with_text) };
        self.connection.send(request).await
    }

    /// Runs a script that reads something of each key; in one round trip, unless the
    /// keys are in different places.
    async fn read_each(
        &self,
        program: &Program,
        keys: &[String],
        arguments: &[impl AsRef<[u8]> + Sync],
    ) -> Result<Vec<Reply>, StorageError> {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let are_together = self.connection.check_slot(&keys).is_ok();
        let mut all = Vec::with_capacity(keys.len());
        for keys in keys.chunks(if are_together { keys.len().max(1) } else { 1 }) {
            let answer = self.run(program, keys, arguments, Access::Read, false).await;
            all.extend(replies_of(answer).map_err(|error| failure(error, Access::Read))?);
        }
        Ok(all)
    }

    /// Runs a script that writes; says too whether it was tried before, and nobody
    /// knows what became of that.
    async fn write<T: FromRedisValue>(
        &self,
        program: &Program,
        keys: &[impl AsRef<str> + Sync],
        arguments: &[impl AsRef<[u8]> + Sync],
        reads_unnamed: bool,
    ) -> Result<(T, bool), StorageError> {
        let answer = self.run(program, keys, arguments, Access::Write, reads_unnamed).await;
        program.may_write.store(answer.is_ok(), Ordering::Relaxed);
        let read = answer.and_then(|answer| Ok((from_redis_value(answer.reply)?, answer.is_repeat)));
        read.map_err(|error| failure(error, Access::Write))
    }

    /// Which batches were applied, where a script says that these were.
    ///
    /// If the answer to an earlier try was lost, that may have done what this one
    /// was refused for. What it put stands there then, and is put once more, so that it
    /// is waited for as any other write is; if it does not, nothing is left of that
    /// try. Of a commit that only removes, nobody could tell.
    async fn outcomes(
        &self,
        batches: &[Batch],
        mut applied: Vec<bool>,
        is_repeat: bool,
    ) -> Result<Vec<bool>, StorageError> {
        if !is_repeat {
            return Ok(applied);
        }
        let puts_something = batches.iter().any(|batch| puts(batch).next().is_some());
        for (batch, applied) in batches.iter().zip(&mut applied).filter(|(_, applied)| !**applied) {
            if puts(batch).next().is_some() {
                let again = [put_again(batch)];
                let call = CommitCall::of(&again, self.commit.check_argument());
                let written = self.write(&self.commit, &call.keys, &call.arguments, false).await;
                let (outcome, _): (Vec<bool>, _) =
                    written.map_err(|error| error.with_effect(Effect::Unknown))?;
                *applied = outcome == [true];
            } else if !puts_something && removes(batch) {
                let message =
                    "the connection to the store was lost, and what was to be removed may be gone already";
                return Err(StorageError::new(StorageReason::Unavailable, Effect::Unknown, message));
            }
        }
        Ok(applied)
    }

    /// Reads the beginning of an index in one command, if that is enough.
    async fn sort(&self, query: &Query) -> Option<Result<IndexPage, StorageError>> {
        let fits = query.after.is_none() && query.max_value_bytes.is_none() && !query.with_next && !query.with_count;
        // In SORT's patterns, the first `*` stands for the member, and a NUL is their end.
        if !fits || query.value_key_prefix.contains(['*', '\0']) || !self.may_sort.load(Ordering::Relaxed) {
            return None;
        }
        let mut command = cmd("SORT_RO");
        command.arg(&query.index).arg("BY").arg("nosort").arg("LIMIT").arg(0).arg(query.limit);
        command.arg("GET").arg("#").arg("GET").arg(format!("{}*", query.value_key_prefix));
        if query.order == Order::Descending {
            command.arg("DESC");
        }
        let replies: Vec<Reply> = match self.read(&command, &query.index).await {
            Ok(replies) => replies,
            Err(error) if error.code() == Some("NOPERM") || error.to_string().contains("denied") => {
                debug!(%error, "sorting is not allowed here; a script does it instead");
                self.may_sort.store(false, Ordering::Relaxed);
                return None;
            }
            Err(error) => return Some(Err(failure(error, Access::Read))),
        };
        let mut entries = Vec::with_capacity(replies.len() / 2);
        let mut replies = replies.into_iter();
        while let (Some(member), Some(value)) = (replies.next(), replies.next()) {
            match (String::from_utf8(bytes_of(member)), value_of(value, None)) {
                // Nothing, or something of another type, or a member that is no
                // text: the script can tell.
                (_, Value::Absent) | (Err(_), _) => return None,
                (Ok(member), value) => entries.push(Entry { member, score: None, value }),
            }
        }
        Some(Ok(IndexPage { entries, next: None, count: None }))
    }

    /// Reads a page of an index by a script; of its values no more than `most` bytes,
    /// if given.
    async fn page(&self, query: Query, most: Option<usize>) -> Result<IndexPage, StorageError> {
        self.connection.check_slot(&[&query.index, &query.value_key_prefix])?;
        let mut arguments: Vec<Vec<u8>> = vec![
            match query.order {
                Order::Ascending => "ascending".into(),
                Order::Descending => "descending".into(),
            },
            Vec::new(),
            query.value_key_prefix.into(),
            head_argument(query.max_value_bytes).into(),
            most.map_or_else(Vec::new, |most| most.to_string().into()),
        ];
        if let Some(after) = query.after {
            if after.score.is_nan() {
                return Err(invalid("a score must be a number"));
            }
            arguments.extend([after.score.to_string().into(), after.member.into()]);
        }
        let limit = query.limit as usize;
        let (mut entries, mut size) = (Vec::new(), None);
        let failed = |error: RedisError| match most {
            Some(most) if error.code() == Some(TOO_LARGE) => too_large(most),
            _ => failure(error, Access::Read),
        };
        loop {
            let missing = limit - entries.len();
            arguments[LIMIT] = missing.to_string().into();
            let answer = self.run(&self.range, &[&query.index], &arguments, Access::Read, true).await;
            let replies = replies_of(answer).map_err(failed)?;
            let is_full = missing > 0 && replies.len() > 3 * missing;
            let mut replies = replies.into_iter();
            let counted = replies.next().and_then(|size| u64::from_redis_value(size).ok());
            size = size.or(counted).filter(|_| query.with_count);
            let mut last = None;
            while let (Some(member), Some(score), Some(value)) =
                (replies.next(), replies.next(), replies.next())
            {
                let (member, score) = (bytes_of(member), bytes_of(score));
                // Somebody else's member, which no text can name, is passed over.
                if let Ok(member) = String::from_utf8(member.clone()) {
                    let score = std::str::from_utf8(&score).ok().and_then(|score| score.parse().ok());
                    entries.push(Entry { member, score, value: value_of(value, query.max_value_bytes) });
                }
                last = Some((score, member));
            }
            match last {
                Some((score, member)) if is_full && entries.len() < limit => {
                    arguments.truncate(AFTER);
                    arguments.extend([score, member]);
                }
                _ => {
                    let last = entries.last().filter(|_| is_full && query.with_next);
                    let next = last
                        .and_then(|last| Some(Position { score: last.score?, member: last.member.clone() }));
                    for entry in &mut entries {
                        entry.score = entry.score.filter(|_| query.with_next);
                    }
                    return Ok(IndexPage { entries, next, count: size });
                }
            }
        }
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn get(&self, keys: Vec<String>, max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        if let ([key], None) = (keys.as_slice(), max_value_bytes) {
            return match self.read(cmd("GET").arg(key), key).await {
                Ok(reply) => Ok(vec![value_of(reply, None)]),
                Err(error) if error.code() == Some("WRONGTYPE") => {
                    Ok(vec![Value::Unreadable(OTHER_TYPE.into())])
                }
                Err(error) => Err(failure(error, Access::Read)),
            };
        }
        let replies = self.read_each(&self.get, &keys, &[head_argument(max_value_bytes)]).await?;
        Ok(replies.into_iter().map(|reply| value_of(reply, max_value_bytes)).collect())
    }

    async fn ttl(&self, keys: Vec<String>) -> Result<Vec<Option<Expiry>>, StorageError> {
        let replies = self.read_each(&self.ttl, &keys, &[] as &[&str]).await?;
        replies.into_iter().map(life_of).collect()
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        self.connection.is_colocated(prefix)
    }

    async fn range(&self, query: Query) -> Result<IndexPage, StorageError> {
        match self.sort(&query).await {
            Some(page) => page,
            None => self.page(query, None).await,
        }
    }

    async fn range_with_byte_limit(&self, query: Query, most: usize) -> Result<IndexPage, StorageError> {
        // Sorting can't measure first. One value is no larger than it was saved.
        match if query.limit == 1 { self.sort(&query).await } else { None } {
            Some(page) => {
                let page = page?;
                let is_too_large = page.entries.iter().any(|entry| size(&entry.value) > most);
                if is_too_large { Err(too_large(most)) } else { Ok(page) }
            }
            None => self.page(query, Some(most)).await,
        }
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        validate(&batches)?;
        if let Some(call) = PutCall::of(&batches, self.put.check_argument()) {
            self.connection.check_slot(&call.keys)?;
            let (applied, is_repeat) = self.write(&self.put, &call.keys, &call.arguments, false).await?;
            return self.outcomes(&batches, vec![applied], is_repeat).await;
        }
        let call = CommitCall::of(&batches, self.commit.check_argument());
        self.connection.check_slot(&call.keys)?;
        let reads_unnamed = reads_unnamed(&batches);
        let (applied, is_repeat) =
            self.write(&self.commit, &call.keys, &call.arguments, reads_unnamed).await?;
        self.outcomes(&batches, applied, is_repeat).await
    }

    async fn commit_with_quota(&self, quota: &Quota, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        validate(&batches)?;
        quota.validate(&batches)?;
        let mut call = CommitCall::of(&batches, self.commit_with_quota.check_argument());
        call.keys.push(&quota.ledger);
        call.arguments.extend(limit_arguments(quota).map(Argument::Own));
        self.connection.check_slot(&call.keys)?;
        // The name of a limit, or a list of numbers.
        let (reply, is_repeat): (Vec<u8>, _) =
            self.write(&self.commit_with_quota, &call.keys, &call.arguments, true).await?;
        let limit = match reply.as_slice() {
            b"values" => Limit::Values,
            b"bytes" => Limit::Bytes,
            applied => {
                let applied = applied.iter().map(|applied| *applied == 1).collect();
                return self.outcomes(&batches, applied, is_repeat).await;
            }
        };
        let full = quota.full(limit);
        // An earlier try may have been what filled it.
        Err(if is_repeat { full.with_effect(Effect::Unknown) } else { full })
    }

    async fn reconcile_quota(&self, quota: &Quota, after: Option<String>) -> Result<Option<String>, StorageError> {
        let [cursor] = after.as_deref().map_or(Ok([0]), numbers)?;
        let mut arguments =
            vec![cursor.to_string(), RECONCILE_PAGE.to_string(), self.settle.check_argument().to_owned()];
        arguments.extend(limit_arguments(quota));
        let (next, _): (u64, _) = self.write(&self.settle, &[&quota.ledger], &arguments, true).await?;
        Ok((next != 0).then(|| next.to_string()))
    }

    async fn scan(&self, prefix: String, after: Option<String>) -> Result<KeyPage, StorageError> {
        let page = self.connection.scan(&format!("{}*", escaped(&prefix)), after.as_deref()).await?;
        // A key that is not UTF-8 is none that was ever put.
        let keys = page.keys.into_iter().filter_map(|key| String::from_utf8(key).ok()).collect();
        Ok(KeyPage { keys, next_cursor: page.next })
    }
}

fn replies_of(answer: Result<Answer, RedisError>) -> Result<Vec<Reply>, RedisError> {
    Ok(from_redis_value(answer?.reply)?)
}

/// Whether a commit looks at values that it does not name.
fn reads_unnamed(batches: &[Batch]) -> bool {
    let mut conditions = batches.iter().flat_map(|batch| &batch.conditions).flatten();
    conditions.any(|condition| matches!(condition, Condition::IndexMax(_)))
}

/// The values that a batch puts.
fn puts(batch: &Batch) -> impl Iterator<Item = &Put> {
    batch.operations.iter().filter_map(|operation| match operation {
        Operation::Put(put) => Some(put),
        _ => None,
    })
}

/// The batch that puts again what a batch puts, if that stands there.
fn put_again(batch: &Batch) -> Batch {
    let stands =
        |put: &Put| vec![Condition::StartsWith(ValuePrefix { key: put.key.clone(), text: put.value.clone() })];
    let is_put = |it: &&Operation| matches!(it, Operation::Put(_) | Operation::IndexPut(_));
    Batch {
        conditions: puts(batch).map(stands).collect(),
        operations: batch.operations.iter().filter(is_put).cloned().collect(),
    }
}

fn removes(batch: &Batch) -> bool {
    let is_removal = |it: &Operation| matches!(it, Operation::Delete(_) | Operation::IndexDelete(_));
    batch.operations.iter().any(is_removal)
}

/// What `ledger.lua` takes off the end.
fn limit_arguments(quota: &Quota) -> [String; 2] {
    [quota.values, quota.bytes].map(|most| most.map_or(String::new(), |most| most.to_string()))
}

const OTHER_TYPE: &str = "a value of another Redis type than string";

/// Lua counts both ends, so this asks for one byte more than is wanted: it
/// tells whether there is more.
fn head_argument(max_value_bytes: Option<u32>) -> String {
    max_value_bytes.map_or(String::new(), |max_value_bytes| max_value_bytes.to_string())
}

fn value_of(reply: Reply, max_value_bytes: Option<u32>) -> Value {
    match reply {
        Reply::Nil | Reply::Boolean(false) => Value::Absent,
        Reply::BulkString(bytes) => text_value(bytes, max_value_bytes),
        Reply::SimpleString(text) => text_value(text.into_bytes(), max_value_bytes),
        Reply::Array(mut kind) if kind.len() == 1 => {
            let kind = bytes_of(kind.remove(0));
            Value::Unreadable(format!("a {} instead of a string", String::from_utf8_lossy(&kind)))
        }
        _ => Value::Unreadable(OTHER_TYPE.to_owned()),
    }
}

/// What `PTTL` says. A key that goes within this millisecond is still there.
fn life_of(reply: Reply) -> Result<Option<Expiry>, StorageError> {
    match i64::from_redis_value(reply).map_err(|error| failure(error.into(), Access::Read))? {
        -2 => Ok(None),
        -1 => Ok(Some(Expiry::Never)),
        left => Ok(Some(Expiry::AfterMs(left.unsigned_abs().max(1)))),
    }
}

fn bytes_of(reply: Reply) -> Vec<u8> {
    match reply {
        Reply::BulkString(bytes) => bytes,
        Reply::SimpleString(text) => text.into_bytes(),
        _ => Vec::new(),
    }
}

/// `prefix` as the beginning of a Redis pattern that matches just that.
fn escaped(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len());
    for character in prefix.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// What connects to a server.
fn client(address: &RedisAddress, node: &Node, tls: Option<TlsCertificates>) -> Result<Client, RedisError> {
    let information = connection_info(address, node)?;
    match tls {
        Some(tls) => Client::build_with_tls(information, tls),
        None => Client::open(information),
    }
}

/// How to connect to a server.
fn connection_info(address: &RedisAddress, node: &Node) -> Result<ConnectionInfo, RedisError> {
    let (host, port) = (node.host.clone(), node.port);
    if address.tls.is_none() {
        return with_settings(address, ConnectionAddr::Tcp(host, port));
    }
    // The first one installed stays; an application may have its own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    with_settings(address, ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None })
}

fn with_settings(address: &RedisAddress, place: ConnectionAddr) -> Result<ConnectionInfo, RedisError> {
    // With RESP3 the connection notices that it was cut while nobody uses it. The
    // name of the client library is not told, since that needs a permission.
    let mut settings = RedisConnectionInfo::default()
        .set_skip_set_lib_name()
        .set_db(i64::from(address.database))
        .set_protocol(ProtocolVersion::RESP3);
    if let Some(user) = &address.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = &address.password {
        settings = settings.set_password(password);
    }
    Ok(place.into_connection_info()?.set_redis_settings(settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_no_pattern() {
        assert_eq!(escaped("app[1]:*?\\^-x"), "app\\[1\\]:\\*\\?\\\\\\^\\-x");
    }
}
