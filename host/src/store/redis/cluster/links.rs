//! Links to the servers of a cluster, each made when it is needed.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ::redis::{RedisError, TlsCertificates};

use crate::store::redis::address::{Node, RedisAddress};
use crate::store::redis::client;
use crate::store::redis::connection::{TRIES, before_sending};
use crate::store::redis::failure::stays;
use crate::store::redis::link::{Found, Link};

pub struct Links {
    /// How to connect, but for where.
    address: RedisAddress,
    tls: Option<TlsCertificates>,
    found: Mutex<HashMap<Node, Arc<Found>>>,
}

impl Links {
    pub fn new(address: RedisAddress, tls: Option<TlsCertificates>) -> Self {
        Self { address, tls, found: Mutex::default() }
    }

    /// Does something over the link to a server, which has to be there until then. If
    /// the connection does not survive it, nobody else begins to use it.
    pub async fn with<T>(
        &self,
        node: &Node,
        deadline: Instant,
        action: impl AsyncFnOnce(&Link) -> Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        let found = self.latest(node);
        let connecting =
            async { found.get_or_init(|| self.connect(node)).await.as_ref().map_err(RedisError::clone) };
        let link = before_sending(deadline, connecting).await?;
        let done = action(link).await;
        if let Err(error) = &done
            && is_lost(error)
        {
            link.give_up(error);
        }
        done
    }

    /// Forgets the links to all other servers.
    pub fn keep_only(&self, nodes: &BTreeSet<Node>) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).retain(|node, _| nodes.contains(node));
    }

    /// The latest link to a server, or a new one if that is of no use any more.
    fn latest(&self, node: &Node) -> Arc<Found> {
        let mut all = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = all.get(node)
            && found.get().is_none_or(|found| found.as_ref().is_ok_and(|link| !link.is_over()))
        {
            return Arc::clone(found);
        }
        let new = Arc::default();
        all.insert(node.clone(), Arc::clone(&new));
        new
    }

    /// Connects, so quickly that there is the time for other tries.
    async fn connect(&self, node: &Node) -> Result<Link, RedisError> {
        let limit = self.address.connect_timeout.min(self.address.response_timeout / TRIES / 2);
        let client = client(&self.address, node, self.tls.clone())?;
        before_sending(Instant::now() + limit, Link::connect(&client, &self.address)).await
    }
}

/// Whether a connection is of no use after this failure. What a server answers is none
/// of its connection.
pub fn is_lost(error: &RedisError) -> bool {
    error.code().is_none() || stays(error)
}
