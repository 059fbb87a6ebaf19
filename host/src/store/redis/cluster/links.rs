//! Links to the servers of a cluster, each made when it is needed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ::redis::{RedisError, TlsCertificates};

use crate::store::redis::address::{Node, RedisAddress};
use crate::store::redis::client;
use crate::store::redis::connection::{TRIES, before_sending};
use crate::store::redis::failure::is_lost;
use crate::store::redis::latest::Latest;
use crate::store::redis::link::Link;

pub struct Links {
    /// How to connect, but for where.
    reach: Arc<(RedisAddress, Option<TlsCertificates>)>,
    latest: Mutex<HashMap<Node, Arc<Latest<Link>>>>,
}

impl Links {
    pub fn new(address: RedisAddress, tls: Option<TlsCertificates>) -> Self {
        Self { reach: Arc::new((address, tls)), latest: Mutex::default() }
    }

    /// Does something over the link to a server, which has to be there until then.
    pub async fn with<T>(
        &self,
        node: &Node,
        deadline: Instant,
        action: impl AsyncFnOnce(&Link) -> Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        let latest = {
            let mut all = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
            match all.get(node) {
                Some(latest) => Arc::clone(latest),
                None => Arc::clone(all.entry(node.clone()).or_insert(Arc::new(Latest::new(is_lost)))),
            }
        };
        latest.with(deadline, || connect(Arc::clone(&self.reach), node.clone()), action).await
    }

    /// Forgets the links to all other servers.
    pub fn keep_only(&self, is_to_stay: impl Fn(&Node) -> bool) {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).retain(|node, _| is_to_stay(node));
    }
}

/// Connects, so quickly that there is the time for other tries.
async fn connect(
    reach: Arc<(RedisAddress, Option<TlsCertificates>)>,
    node: Node,
) -> Result<Link, RedisError> {
    let (address, tls) = &*reach;
    let patience = address.response_timeout / TRIES;
    let deadline = Instant::now() + address.connect_timeout.min(patience / 2);
    let client = client(address, &node, tls.clone())?;
    before_sending(deadline, Link::connect(client, address.durability, patience)).await
}
