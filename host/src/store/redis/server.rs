//! One server, over a link that is made anew when it is of no use any more.

use std::time::Instant;

use ::redis::{Client, RedisError, Value as Reply};
use async_trait::async_trait;

use super::address::RedisAddress;
use super::connection::{Access, Answer, Connection, KeysPage, Request, in_time};
use super::failure::{failure, is_lost};
use super::latest::Latest;
use super::link::Link;
use super::scan::Place;
use crate::store::StorageError;

/// A server, connected to when it is first used.
pub struct Server {
    client: Client,
    address: RedisAddress,
    link: Latest<Link>,
}

impl Server {
    /// Gets ready; nothing is sent yet.
    pub fn new(client: Client, address: &RedisAddress) -> Self {
        Self { client, address: address.clone(), link: Latest::new(is_lost) }
    }

    /// Does something over the link, once.
    async fn with_link<T>(
        &self,
        action: impl AsyncFnOnce(&Link, Instant) -> Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        let RedisAddress { connect_timeout, response_timeout, durability, .. } = self.address;
        let connecting_ends = Instant::now() + connect_timeout;
        let connect = || {
            let connecting = Link::connect(self.client.clone(), durability, response_timeout);
            in_time(connecting_ends, connecting)
        };
        let act = async |link: &Link| action(link, Instant::now() + response_timeout).await;
        self.link.with(connecting_ends, connect, act).await
    }

    async fn try_to_run(&self, request: &Request<'_>) -> Result<Reply, RedisError> {
        self.with_link(async |link, deadline| link.run(request, false, deadline).await).await
    }

    async fn try_to_scan(
        &self,
        pattern: &str,
        place: Place,
    ) -> Result<Result<KeysPage, StorageError>, RedisError> {
        self.with_link(async |link, deadline| place.page(link, pattern, deadline).await).await
    }
}

/// Whether to try again what failed so: a connection that was cut while nobody used it
/// may show only now. To read again does no harm, nor does it to send what was not sent.
fn may_try_again(error: &RedisError, access: Access) -> bool {
    error.is_connection_refusal()
        || access == Access::Read && error.is_connection_dropped() && !error.is_timeout()
}

#[async_trait]
impl Connection for Server {
    async fn send(&self, request: Request<'_>) -> Result<Answer, RedisError> {
        let reply = match self.try_to_run(&request).await {
            Err(error) if may_try_again(&error, request.access) => self.try_to_run(&request).await,
            reply => reply,
        };
        Ok(Answer { reply: reply?, is_repeat: false })
    }

    async fn scan(&self, pattern: &str, after: Option<&str>) -> Result<KeysPage, StorageError> {
        let place = Place::read(after)?;
        let page = match self.try_to_scan(pattern, place).await {
            Err(error) if may_try_again(&error, Access::Read) => self.try_to_scan(pattern, place).await,
            page => page,
        };
        page.map_err(|error| failure(error, Access::Read))?
    }
}
