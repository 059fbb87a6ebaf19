//! Redis 7.0 and later, and Valkey: values are strings, indexes are sorted sets.
//!
//! A commit is one script, so that it is atomic and can't fail half-way. A page of an
//! index with its values is one `SORT_RO`, or a script where `SORT_RO` is not enough.
//!
//! - `script_args`: the arguments of the scripts in `scripts/`.
//! - `transport`: how requests reach a server, the master that Sentinels name, or a
//!   cluster.
//! - `retry`: when requests are retried.
//! - `error`: failures and their effect.
//! - `url`, `tls`: the configuration.

mod error;
mod retry;
mod script_args;
mod tls;
mod transport;
mod url;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::redis::{Cmd, FromRedisValue, RedisError, Script, Value as Reply, cmd, from_redis_value};
use async_trait::async_trait;
use tracing::{debug, trace};

use self::error::{TransportError, TransportFailure};
use self::retry::{Answer, RetryPolicy};
use self::script_args::{Argument, ScriptArgs, commit_args, put_args};
use self::transport::{
    Access, Cluster, Connector, MasterDiscovery, Request, SingleServer, Transport, parse_numbers,
    requires_rediscovery,
};
use self::url::Endpoint;
pub use self::url::RedisUrl;
use super::quota::{Limit, RECONCILE_PAGE};
use super::{
    Batch, Condition, Effect, Entry, Expiry, IndexPage, KeyPage, Operation, Order, Position, Put, Query,
    Quota, StorageError, StorageReason, Store, Value, ValuePrefix, invalid, size, text_value, too_large,
    validate,
};

/// A Redis server, the master that Sentinels name, or a cluster. It connects on first
/// use.
pub struct RedisStore {
    transport: Box<dyn Transport>,
    /// The address for errors that name no node.
    address: String,
    put: LuaScript,
    commit: LuaScript,
    commit_with_quota: LuaScript,
    reconcile: LuaScript,
    range: LuaScript,
    get: LuaScript,
    ttl: LuaScript,
    /// Whether the ACL of the user permits `SORT_RO`.
    may_sort: AtomicBool,
}

/// A Lua script.
///
/// Each call emits a trace event with the name of the script.
struct LuaScript {
    name: &'static str,
    text: &'static str,
    sha: String,
    /// Whether its last call that writes succeeded, which shows that the ACL permits all
    /// of its commands. Otherwise it checks them before it writes, or it could stop
    /// half-way.
    is_permitted: AtomicBool,
}

impl LuaScript {
    fn new(name: &'static str, text: &'static str) -> Self {
        let sha = Script::new(text).get_hash().to_owned();
        Self { name, text, sha, is_permitted: AtomicBool::new(false) }
    }

    /// The argument that asks the script to check the ACL first.
    fn check_argument(&self) -> &'static str {
        if self.is_permitted.load(Ordering::Relaxed) { "" } else { "check" }
    }
}

/// The text of a script from its files.
macro_rules! script {
    ($($file:literal),+) => {
        concat!($(include_str!(concat!("redis/scripts/", $file))),+)
    };
}

/// The indexes of two arguments of `range.lua`: the limit and the start position.
const LIMIT: usize = 1;
const AFTER: usize = 5;

impl RedisStore {
    /// Prepares the connection to the servers of `url`. Nothing is sent yet.
    ///
    /// # Errors
    /// The URL can't be used, for instance a Unix socket on a system without them, or a
    /// file with certificates, which is named.
    pub fn new(url: &RedisUrl) -> Result<Self, StorageError> {
        let address = url.endpoint.to_string();
        let unusable = |error: RedisError| {
            invalid("the URL of the store can't be used; see its cause")
                .with_context(Some(address.clone()), Some(Box::new(error)))
        };
        let certificates = url.tls.as_ref().map(tls::read).transpose()?;
        let policy = match url.endpoint {
            Endpoint::Server(_) | Endpoint::Unix(_) => {
                RetryPolicy::once(url.connect_timeout, url.response_timeout)
            }
            _ => RetryPolicy::failover(url.response_timeout),
        };
        let connector = Connector::new(url, certificates.clone(), policy);
        let transport: Box<dyn Transport> = match &url.endpoint {
            Endpoint::Server(node) => {
                let client = connector.client(node).map_err(unusable)?;
                Box::new(connector.single_server(client, address.as_str().into(), policy))
            }
            Endpoint::Unix(socket) => {
                let client = connector.unix_client(socket).map_err(unusable)?;
                Box::new(connector.single_server(client, address.as_str().into(), policy))
            }
            Endpoint::Cluster(nodes) => {
                Box::new(Cluster::new(nodes, connector, url, policy).map_err(unusable)?)
            }
            Endpoint::Sentinels { nodes, master, user, password } => {
                let (user, password) = (user.clone(), password.clone());
                let sentinel_url = RedisUrl { user, password, database: 0, ..url.clone() };
                let sentinels = Connector::new(&sentinel_url, certificates, policy);
                let discovery = MasterDiscovery::new(nodes, master, &sentinels, connector, url, policy);
                let discovery = discovery.map_err(unusable)?;
                let discover = move || Arc::clone(&discovery).discover();
                Box::new(SingleServer::new(discover, requires_rediscovery, policy))
            }
        };
        Ok(Self {
            transport,
            put: LuaScript::new("put", script!("prelude.lua", "write.lua", "put.lua")),
            commit: LuaScript::new(
                "commit",
                concat!(script!("prelude.lua", "write.lua"), "local ledger\n", script!("commit.lua")),
            ),
            commit_with_quota: LuaScript::new(
                "commit_with_quota",
                script!("prelude.lua", "write.lua", "ledger.lua", "commit.lua"),
            ),
            reconcile: LuaScript::new("reconcile", script!("prelude.lua", "ledger.lua", "reconcile.lua")),
            range: LuaScript::new("range", script!("prelude.lua", "range.lua")),
            get: LuaScript::new("get", script!("prelude.lua", "get.lua")),
            ttl: LuaScript::new("ttl", script!("prelude.lua", "ttl.lua")),
            may_sort: AtomicBool::new(!matches!(url.endpoint, Endpoint::Cluster(_))),
            address,
        })
    }

    fn read_error(&self, failure: impl Into<TransportFailure>) -> StorageError {
        failure.into().into_storage_error(Access::Read, &self.address)
    }

    /// Sends a command that reads one key.
    async fn read<T: FromRedisValue>(&self, command: &Cmd, key: &str) -> Result<T, TransportFailure> {
        Ok(from_redis_value(self.transport.send(Request::read(command, key)).await?.reply)?)
    }

    /// Calls a script by its hash, or with its text if the server does not have it.
    async fn call(
        &self,
        script: &LuaScript,
        keys: &[impl AsRef<str> + Sync],
        arguments: &[impl AsRef<[u8]> + Sync],
        access: Access,
        reads_undeclared_keys: bool,
    ) -> Result<Answer<Reply>, TransportFailure> {
        trace!(script = script.name, keys = keys.len(), "calling a script");
        // The exact capacity, since the buffer would be copied each time it grows.
        let bytes = keys.iter().map(|key| key.as_ref().len()).sum::<usize>()
            + arguments.iter().map(|argument| argument.as_ref().len()).sum::<usize>();
        let call = |verb: &str, script: &str| {
            let count = keys.len() + arguments.len() + 3;
            let mut call = Cmd::with_capacity(count, bytes + verb.len() + script.len() + 20);
            call.arg(verb).arg(script).arg(keys.len());
            for key in keys {
                call.arg(key.as_ref());
            }
            for argument in arguments {
                call.arg(argument.as_ref());
            }
            call
        };
        let command = call("EVALSHA", &script.sha);
        let eval = || call("EVAL", script.text);
        let key = keys.first().map(AsRef::as_ref);
        let request =
            Request { command: &command, key, access, reads_undeclared_keys, eval_fallback: Some(&eval) };
        self.transport.send(request).await
    }

    /// Calls a script that reads each key, in one round trip if the keys are in one slot.
    async fn read_each(
        &self,
        script: &LuaScript,
        keys: &[String],
        arguments: &[impl AsRef<[u8]> + Sync],
    ) -> Result<Vec<Reply>, StorageError> {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let is_one_slot = self.transport.check_slot(&keys).is_ok();
        let mut all = Vec::with_capacity(keys.len());
        for keys in keys.chunks(if is_one_slot { keys.len().max(1) } else { 1 }) {
            let answer = self.call(script, keys, arguments, Access::Read, false).await;
            all.extend(replies(answer).map_err(|failure| self.read_error(failure))?);
        }
        Ok(all)
    }

    /// Calls a script that writes.
    async fn write<T: FromRedisValue>(
        &self,
        script: &LuaScript,
        ScriptArgs { keys, arguments }: &ScriptArgs<'_>,
        reads_undeclared_keys: bool,
    ) -> Result<Answer<T>, StorageError> {
        self.transport.check_slot(keys)?;
        let answer = self.call(script, keys, arguments, Access::Write, reads_undeclared_keys).await;
        script.is_permitted.store(answer.is_ok(), Ordering::Relaxed);
        let parse = |Answer { reply, is_retry }| Ok(Answer { reply: from_redis_value(reply)?, is_retry });
        answer.and_then(parse).map_err(|failure| failure.into_storage_error(Access::Write, &self.address))
    }

    /// Which batches were applied, by the answer of a script.
    ///
    /// If an earlier attempt's reply was lost, that attempt may be the reason why this
    /// one's precondition failed. If its value is stored, it is written again so that
    /// replicas are waited for; otherwise the attempt had no effect. For commits that only
    /// delete this cannot be decided.
    async fn resolve_retry(
        &self,
        batches: &[Batch],
        Answer { reply: mut applied, is_retry }: Answer<Vec<bool>>,
    ) -> Result<Vec<bool>, StorageError> {
        if !is_retry {
            return Ok(applied);
        }
        let any_puts = batches.iter().any(|batch| puts(batch).next().is_some());
        for (batch, applied) in batches.iter().zip(&mut applied).filter(|(_, applied)| !**applied) {
            if puts(batch).next().is_some() {
                let again = [reapply_puts(batch)];
                let args = commit_args(&again, self.commit.check_argument());
                let written = self.write::<Vec<bool>>(&self.commit, &args, false).await;
                *applied = written.map_err(|error| error.with_effect(Effect::Unknown))?.reply == [true];
            } else if !any_puts && deletes(batch) {
                let message = "the connection to the store was lost, and an earlier attempt may have deleted the \
                    keys; read them to find out";
                let error = StorageError::new(StorageReason::Unavailable, Effect::Unknown, message);
                return Err(error.with_context(Some(self.address.clone()), None));
            }
        }
        Ok(applied)
    }

    /// Reads the start of an index with `SORT_RO`; none if that is not enough.
    async fn sort(&self, query: &Query) -> Option<Result<IndexPage, StorageError>> {
        let is_simple =
            query.after.is_none() && query.max_value_bytes.is_none() && !query.with_next && !query.with_count;
        // In a pattern of SORT, the first `*` stands for the member, and a NUL ends it.
        if !is_simple
            || query.value_key_prefix.contains(['*', '\0'])
            || !self.may_sort.load(Ordering::Relaxed)
        {
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
            Err(failure) if matches!(failure.error, TransportError::MissingPermission(_)) => {
                debug!(%failure, "SORT_RO is not permitted; using a script instead");
                self.may_sort.store(false, Ordering::Relaxed);
                return None;
            }
            Err(failure) => return Some(Err(self.read_error(failure))),
        };
        let mut entries = Vec::with_capacity(replies.len() / 2);
        let mut replies = replies.into_iter();
        while let (Some(member), Some(value)) = (replies.next(), replies.next()) {
            match (String::from_utf8(bytes_of(member)), value_of(value, None)) {
                // No value, a value of another type, or a member that is not UTF-8: the
                // script distinguishes them.
                (_, Value::Absent) | (Err(_), _) => return None,
                (Ok(member), value) => entries.push(Entry { member, score: None, value }),
            }
        }
        Some(Ok(IndexPage { entries, next: None, count: None }))
    }

    /// Reads a page of an index with a script; of the values at most `max_bytes` bytes.
    async fn page(&self, query: Query, max_bytes: Option<usize>) -> Result<IndexPage, StorageError> {
        self.transport.check_slot(&[&query.index, &query.value_key_prefix])?;
        let mut arguments: Vec<Vec<u8>> = vec![
            match query.order {
                Order::Ascending => "ascending".into(),
                Order::Descending => "descending".into(),
            },
            Vec::new(),
            query.value_key_prefix.into(),
            limit_argument(query.max_value_bytes).into(),
            limit_argument(max_bytes).into(),
        ];
        if let Some(after) = query.after {
            if after.score.is_nan() {
                return Err(invalid("a score must be a number"));
            }
            arguments.extend([after.score.to_string().into(), after.member.into()]);
        }
        let limit = query.limit as usize;
        let (mut entries, mut count) = (Vec::new(), None);
        loop {
            let missing = limit - entries.len();
            arguments[LIMIT] = missing.to_string().into();
            let answer = self.call(&self.range, &[&query.index], &arguments, Access::Read, true).await;
            let replies = replies(answer).map_err(|failure| match (&failure.error, max_bytes) {
                (TransportError::PageTooLarge, Some(max_bytes)) => too_large(max_bytes),
                _ => self.read_error(failure),
            })?;
            let is_full = missing > 0 && replies.len() > 3 * missing;
            let mut replies = replies.into_iter();
            let size = replies.next().and_then(|size| u64::from_redis_value(size).ok());
            count = count.or(size).filter(|_| query.with_count);
            let mut last = None;
            while let (Some(member), Some(score), Some(value)) =
                (replies.next(), replies.next(), replies.next())
            {
                let (member, score) = (bytes_of(member), bytes_of(score));
                // A member that is not UTF-8 is foreign. It is skipped.
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
                    return Ok(IndexPage { entries, next, count });
                }
            }
        }
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RedisStore({})", self.address)
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn get(&self, keys: Vec<String>, max_value_bytes: Option<u32>) -> Result<Vec<Value>, StorageError> {
        if let ([key], None) = (keys.as_slice(), max_value_bytes) {
            return match self.read(cmd("GET").arg(key), key).await {
                Ok(reply) => Ok(vec![value_of(reply, None)]),
                Err(failure) if matches!(failure.error, TransportError::WrongType(_)) => {
                    Ok(vec![Value::Unreadable(OTHER_TYPE.into())])
                }
                Err(failure) => Err(self.read_error(failure)),
            };
        }
        let replies = self.read_each(&self.get, &keys, &[limit_argument(max_value_bytes)]).await?;
        Ok(replies.into_iter().map(|reply| value_of(reply, max_value_bytes)).collect())
    }

    async fn ttl(&self, keys: Vec<String>) -> Result<Vec<Option<Expiry>>, StorageError> {
        let replies = self.read_each(&self.ttl, &keys, &[] as &[&str]).await?;
        replies
            .into_iter()
            .map(|reply| expiry_of(reply).map_err(|failure| self.read_error(failure)))
            .collect()
    }

    async fn range(&self, query: Query) -> Result<IndexPage, StorageError> {
        match self.sort(&query).await {
            Some(page) => page,
            None => self.page(query, None).await,
        }
    }

    async fn range_with_byte_limit(&self, query: Query, max_bytes: usize) -> Result<IndexPage, StorageError> {
        // SORT_RO can't measure the values first. One value is at most as large as a save.
        match if query.limit == 1 { self.sort(&query).await } else { None } {
            Some(page) => {
                let page = page?;
                let is_too_large = page.entries.iter().any(|entry| size(&entry.value) > max_bytes);
                if is_too_large { Err(too_large(max_bytes)) } else { Ok(page) }
            }
            None => self.page(query, Some(max_bytes)).await,
        }
    }

    async fn commit(&self, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        validate(&batches)?;
        let (script, args) = match put_args(&batches, self.put.check_argument()) {
            Some(args) => (&self.put, args),
            None => (&self.commit, commit_args(&batches, self.commit.check_argument())),
        };
        let answer = self.write(script, &args, reads_undeclared_keys(&batches)).await?;
        self.resolve_retry(&batches, answer).await
    }

    async fn scan(&self, prefix: String, cursor: Option<String>) -> Result<KeyPage, StorageError> {
        let page = self.transport.scan(&format!("{}*", escape(&prefix)), cursor.as_deref()).await;
        let page = page.map_err(|failure| self.read_error(failure))?;
        // A key that is not UTF-8 is foreign.
        let keys = page.keys.into_iter().filter_map(|key| String::from_utf8(key).ok()).collect();
        Ok(KeyPage { keys, next_cursor: page.next })
    }

    fn is_colocated(&self, prefix: &str) -> bool {
        self.transport.is_colocated(prefix)
    }

    async fn commit_with_quota(&self, quota: &Quota, batches: Vec<Batch>) -> Result<Vec<bool>, StorageError> {
        validate(&batches)?;
        quota.validate(&batches)?;
        let mut args = commit_args(&batches, self.commit_with_quota.check_argument());
        args.keys.push(&quota.ledger);
        args.arguments.extend(quota_arguments(quota));
        // The name of a limit, or a list of numbers.
        let Answer { reply, is_retry } = self.write::<Vec<u8>>(&self.commit_with_quota, &args, true).await?;
        let limit = match reply.as_slice() {
            b"values" => Limit::Values,
            b"bytes" => Limit::Bytes,
            applied => {
                let reply = applied.iter().map(|applied| *applied == 1).collect();
                return self.resolve_retry(&batches, Answer { reply, is_retry }).await;
            }
        };
        let full = quota.full(limit);
        // An earlier attempt may be the one that used up the quota.
        Err(if is_retry { full.with_effect(Effect::Unknown) } else { full })
    }

    async fn reconcile_quota(
        &self,
        quota: &Quota,
        cursor: Option<String>,
    ) -> Result<Option<String>, StorageError> {
        let cursor = cursor.as_deref().map_or(Ok([0]), parse_numbers);
        let [cursor] = cursor.map_err(|error| self.read_error(error))?;
        let mut arguments = vec![
            Argument::Owned(cursor.to_string()),
            Argument::Owned(RECONCILE_PAGE.to_string()),
            Argument::Text(self.reconcile.check_argument()),
        ];
        arguments.extend(quota_arguments(quota));
        let args = ScriptArgs { keys: vec![&quota.ledger], arguments };
        let next = self.write::<u64>(&self.reconcile, &args, true).await?.reply;
        Ok((next != 0).then(|| next.to_string()))
    }
}

fn replies(answer: Result<Answer<Reply>, TransportFailure>) -> Result<Vec<Reply>, TransportFailure> {
    Ok(from_redis_value(answer?.reply)?)
}

/// Whether a commit reads values that are not among the keys of its script.
fn reads_undeclared_keys(batches: &[Batch]) -> bool {
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

/// The batch that repeats the puts of a batch if its values are stored.
fn reapply_puts(batch: &Batch) -> Batch {
    let is_stored = |put: &Put| {
        vec![Condition::StartsWith(ValuePrefix { key: put.key.clone(), text: put.value.clone() })]
    };
    let is_put = |operation: &&Operation| matches!(operation, Operation::Put(_) | Operation::IndexPut(_));
    Batch {
        conditions: puts(batch).map(is_stored).collect(),
        operations: batch.operations.iter().filter(is_put).cloned().collect(),
    }
}

fn deletes(batch: &Batch) -> bool {
    let is_delete = |it: &Operation| matches!(it, Operation::Delete(_) | Operation::IndexDelete(_));
    batch.operations.iter().any(is_delete)
}

/// The arguments that `ledger.lua` removes.
fn quota_arguments(quota: &Quota) -> [Argument<'static>; 2] {
    [quota.values, quota.bytes].map(|limit| Argument::Owned(limit_argument(limit)))
}

const OTHER_TYPE: &str = "a Redis value that is not a string";

/// A limit as the scripts take it.
fn limit_argument(limit: Option<impl ToString>) -> String {
    limit.map_or(String::new(), |limit| limit.to_string())
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

/// Parses a reply to `PTTL`. A key that expires within this millisecond still exists.
fn expiry_of(reply: Reply) -> Result<Option<Expiry>, TransportFailure> {
    match i64::from_redis_value(reply)? {
        -2 => Ok(None),
        -1 => Ok(Some(Expiry::Never)),
        ttl => Ok(Some(Expiry::AfterMs(ttl.unsigned_abs().max(1)))),
    }
}

fn bytes_of(reply: Reply) -> Vec<u8> {
    match reply {
        Reply::BulkString(bytes) => bytes,
        Reply::SimpleString(text) => text.into_bytes(),
        _ => Vec::new(),
    }
}

/// A pattern of Redis that matches exactly this text.
fn escape(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len());
    for character in prefix.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use checkpointer_tests::redis_server::RedisServer;
    use tokio::runtime::Runtime;

    use super::*;
    use crate::store::StoreUrl;
    use crate::{Checkpoint, Checkpointer, Layout, Metadata, Run};

    fn store(url: &str) -> RedisStore {
        match url.parse() {
            Ok(StoreUrl::Redis(url)) => RedisStore::new(&url).expect("a store"),
            _ => panic!("{url} is not a URL of Redis"),
        }
    }

    #[test]
    fn escaped_prefix_has_no_wildcards() {
        assert_eq!(escape("app[1]:*?\\^-x"), "app\\[1\\]:\\*\\?\\\\\\^\\-x");
    }

    #[tokio::test]
    async fn usual_save_takes_put_lua() {
        let server = RedisServer::start().await;
        let store = Arc::new(store(&server.url()));
        for layout in [Layout::Llmfy, Layout::Partitioned] {
            let builder = Checkpointer::builder().layout(layout).ttl(Duration::from_hours(1));
            let checkpointer = builder.open_store(store.clone()).await.expect("a checkpointer");
            for id in ["a", "b", "a"] {
                let metadata = Metadata::new("session", id).run(Run::new("run"));
                checkpointer.save(Checkpoint::new(metadata, "1")).await.expect("saved");
            }
        }
        let exist: Vec<bool> = server.command(&["SCRIPT", "EXISTS", &store.put.sha, &store.commit.sha]).await;
        assert_eq!(exist, [true, false]);
    }

    #[test]
    fn store_is_used_from_several_runtimes() {
        let runtimes = [(); 3].map(|()| Runtime::new().expect("a runtime"));
        let [of_server, first, second] = &runtimes;
        let server = of_server.block_on(RedisServer::start());
        // With `replicas=0` and without, writes take different connections.
        let [plain, durable] =
            ["", "?on_disk=false&replicas=0"].map(|options| store(&(server.url() + options)));
        let save = async || {
            for store in [&plain, &durable] {
                let put = Put { key: "key".to_owned(), value: "value".to_owned(), expiry: Expiry::Never };
                let batch = Batch { conditions: Vec::new(), operations: vec![Operation::Put(put)] };
                assert_eq!(store.commit(vec![batch]).await, Ok(vec![true]));
            }
        };
        first.block_on(save());
        second.block_on(save());
        let [_of_server, first, second] = runtimes;
        drop(first);
        second.block_on(save());
        drop(second);
        Runtime::new().expect("a runtime").block_on(save());
    }

    #[tokio::test]
    async fn error_names_the_address_and_the_cause() {
        let error = store("redis://user:secret@127.0.0.1:1").ttl(vec![String::new()]).await;
        let error = error.expect_err("no server");
        assert_eq!((error.reason, error.effect), (StorageReason::Unavailable, Effect::None));
        assert_eq!(error.address(), Some("127.0.0.1:1"));
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(cause.contains("refused"), "{cause}");
        let error =
            store("redis://host.invalid").get(vec![String::new()], None).await.expect_err("no server");
        assert_eq!((error.reason, error.address()), (StorageReason::Unavailable, Some("host.invalid:6379")));
        let sentinel = store("redis+sentinel://127.0.0.1:1/main?response_timeout=1");
        let error = sentinel.get(vec![String::new()], None).await.expect_err("no server");
        assert_eq!((error.reason, error.address()), (StorageReason::Unavailable, Some("127.0.0.1:1")));
        let cluster = store("redis-cluster://127.0.0.1:1,127.0.0.1:2?response_timeout=1");
        let error = cluster.get(vec![String::new()], None).await.expect_err("no server");
        assert!(error.address().is_some_and(|address| address.starts_with("127.0.0.1:")), "{error}");
    }
}
