//! Links to the servers of a cluster, each made when it is needed.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ::redis::{RedisError, TlsCertificates};

use crate::store::redis::address::{Node, RedisAddress};
use crate::store::redis::client;
use crate::store::redis::connection::{TRIES, before_sending};
use crate::store::redis::failure::is_lost;
use crate::store::redis::latest::{Latest, Passing};
use crate::store::redis::link::Link;

pub struct Links {
    /// How to connect, but for where.
    address: RedisAddress,
    tls: Option<TlsCertificates>,
    latest: Mutex<HashMap<Node, Arc<Latest<Link>>>>,
}

impl Links {
    pub fn new(address: RedisAddress, tls: Option<TlsCertificates>) -> Self {
        Self { address, tls, latest: Mutex::default() }
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
            Arc::clone(all.entry(node.clone()).or_default())
        };
        let act = async |link: &Link| {
            let done = action(link).await;
            if let Err(error) = &done
                && is_lost(error)
            {
                link.give_up(error);
            }
            done
        };
        latest.with(deadline, async || self.connect(node).await, act).await
    }

    /// Forgets the links to all other servers.
    pub fn keep_only(&self, nodes: &BTreeSet<Node>) {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).retain(|node, _| nodes.contains(node));
    }

    /// Connects, so quickly that there is the time for other tries.
    async fn connect(&self, node: &Node) -> Result<Link, RedisError> {
        let patience = self.address.response_timeout / TRIES;
        let limit = self.address.connect_timeout.min(patience / 2);
        let client = client(&self.address, node, self.tls.clone())?;
        before_sending(Instant::now() + limit, Link::connect(&client, &self.address, patience)).await
    }
}
