//! One server, over one multiplexed connection that comes back by itself; writes
//! that wait for replicas have another one, and so have scans.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::{Client, Cmd, RedisError, Value as Reply};
use async_trait::async_trait;
use tracing::debug;

use super::address::RedisAddress;
use super::connection::{Access, Answer, Connection, KeysPage, Request, in_time};
use super::failure::{failure, is_without_script, stays};
use super::link::{Found, Link};
use super::replicas::ReplicatedWrites;
use super::scan::Place;
use crate::store::StorageError;

/// A server, connected to when it is first used.
pub struct Server {
    client: Client,
    configuration: ConnectionManagerConfig,
    connection: Mutex<Arc<ConnectionManager>>,
    /// Another connection for writes, where replicas are to have them.
    replicated: Option<ReplicatedWrites>,
    /// Another one for scans.
    scanning: Mutex<Arc<Found>>,
    address: RedisAddress,
}

impl Server {
    /// Gets ready within a tokio runtime; nothing is sent yet.
    pub fn new(client: Client, address: &RedisAddress) -> Result<Self, RedisError> {
        let configuration = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(address.connect_timeout))
            .set_response_timeout(Some(address.response_timeout))
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(50));
        let replicated = address.durability.map(|durability| {
            let timeout = address.response_timeout.saturating_add(durability.timeout);
            let patient = configuration.clone().set_response_timeout(Some(timeout));
            let client = client.clone();
            let connect = move || ConnectionManager::new_lazy_with_config(client.clone(), patient.clone());
            let (connection, patience) = (connect()?, address.response_timeout);
            Ok::<_, RedisError>(ReplicatedWrites::new(
                connection,
                move || connect().ok(),
                durability,
                patience,
            ))
        });
        let connection = ConnectionManager::new_lazy_with_config(client.clone(), configuration.clone())?;
        Ok(Self {
            replicated: replicated.transpose()?,
            connection: Mutex::new(Arc::new(connection)),
            scanning: Mutex::default(),
            // It is not for writes.
            address: RedisAddress { durability: None, ..address.clone() },
            client,
            configuration,
        })
    }

    /// When something that begins now has to be done.
    fn deadline(&self) -> Instant {
        Instant::now() + self.address.response_timeout
    }

    /// The link that is scanned over, or a new one.
    fn scanning(&self) -> Arc<Found> {
        let mut scanning = self.scanning.lock().unwrap_or_else(PoisonError::into_inner);
        if scanning.get().is_some_and(|found| found.as_ref().map_or(true, Link::is_over)) {
            *scanning = Arc::default();
        }
        Arc::clone(&scanning)
    }

    /// A page of a scan, tried once.
    async fn try_to_scan(
        &self,
        pattern: &str,
        place: Place,
    ) -> Result<Result<KeysPage, StorageError>, RedisError> {
        let found = self.scanning();
        let connecting = Instant::now() + self.address.connect_timeout;
        let connect = || in_time(connecting, Link::connect(&self.client, &self.address));
        let link = found.get_or_init(connect).await.as_ref().map_err(RedisError::clone)?;
        let page = place.page(link, pattern, self.deadline()).await;
        if let Err(error) = &page {
            link.give_up(error);
        }
        page
    }

    /// Sends a command, and again if it was not sent or only reads.
    async fn send_patiently(&self, command: &Cmd, access: Access) -> Result<Reply, RedisError> {
        match self.try_to_send(command, access).await {
            // A connection that was cut while nobody used it, or that could not be
            // made when it was last tried, shows only now. To read again does no
            // harm, nor does it to send what was not sent.
            Err(error)
                if error.is_connection_refusal()
                    || access == Access::Read && error.is_connection_dropped() && !error.is_timeout() =>
            {
                debug!(%error, "sending again over a new connection");
                self.try_to_send(command, access).await
            }
            answer => answer,
        }
    }

    /// Sends a command once.
    async fn try_to_send(&self, command: &Cmd, access: Access) -> Result<Reply, RedisError> {
        if let (Some(replicated), Access::Write) = (&self.replicated, access) {
            return replicated.send(command, false, self.deadline()).await;
        }
        let used = Arc::clone(&self.connection.lock().unwrap_or_else(PoisonError::into_inner));
        let answer = command.query_async(&mut ConnectionManager::clone(&used)).await;
        if let Err(error) = &answer
            && stays(error)
        {
            debug!(%error, "giving up a connection");
            let mut current = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
            // Somebody else may have been quicker.
            if Arc::ptr_eq(&current, &used) {
                let (client, configuration) = (self.client.clone(), self.configuration.clone());
                *current = Arc::new(ConnectionManager::new_lazy_with_config(client, configuration)?);
            }
        }
        answer
    }
}

#[async_trait]
impl Connection for Server {
    async fn send(&self, request: Request<'_>) -> Result<Answer, RedisError> {
        let reply = match self.send_patiently(request.command, request.access).await {
            Err(error)
                if is_without_script(&error)
                    && let Some(with_text) = request.with_text =>
            {
                self.send_patiently(&with_text(), request.access).await
            }
            reply => reply,
        };
        Ok(Answer { reply: reply?, is_repeat: false })
    }

    async fn scan(&self, pattern: &str, after: Option<&str>) -> Result<KeysPage, StorageError> {
        let place = Place::read(after)?;
        let page = match self.try_to_scan(pattern, place).await {
            // It may have been cut while nobody scanned.
            Err(error) if error.is_connection_dropped() && !error.is_timeout() => {
                self.try_to_scan(pattern, place).await
            }
            page => page,
        };
        page.map_err(|error| failure(error, Access::Read))?
    }
}
