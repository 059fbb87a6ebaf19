//! A proxy before a server. It forwards bytes until it is told to fail.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The reaction to the next request. It happens once. All bytes of one read count
/// as one request, so a large request may count as several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Close the connection before the server receives the request.
    LoseRequest,
    /// Let the server answer, and close the connection instead of forwarding the
    /// answer.
    LoseAnswer,
    /// Forward nothing on this connection any more, and keep it open.
    Stall,
}

/// A proxy on a free port of the loopback interface. It runs until it is dropped.
pub struct Proxy {
    port: u16,
    fault: Arc<Mutex<Option<Fault>>>,
    listener: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy before the server at `port`.
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own_port = listener.local_addr().expect("an address").port();
        let fault = Arc::new(Mutex::new(None));
        let to_come = Arc::clone(&fault);
        let listener = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, port, Arc::clone(&to_come)));
            }
        });
        Self { port: own_port, fault, listener }
    }

    /// The URL of the proxy.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Lets the next request fail.
    pub fn fail(&self, fault: Fault) {
        *self.fault.lock().expect("a fault") = Some(fault);
    }

    /// Whether the planned fault has happened.
    pub fn has_failed(&self) -> bool {
        self.fault.lock().expect("a fault").is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Forwards bytes in both directions, until one side closes or a fault ends it.
async fn pass_on(mut client: TcpStream, port: u16, fault: Arc<Mutex<Option<Fault>>>) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut request, mut answer) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            length = client.read(&mut request) => {
                let request = &request[..length?];
                if request.is_empty() {
                    return Ok(());
                }
                let fault = fault.lock().expect("a fault").take();
                match fault {
                    Some(Fault::LoseRequest) => return Ok(()),
                    Some(Fault::Stall) => return std::future::pending().await,
                    Some(Fault::LoseAnswer) | None => server.write_all(request).await?,
                }
                if fault == Some(Fault::LoseAnswer) {
                    server.readable().await?;
                    return Ok(());
                }
            }
            length = server.read(&mut answer) => {
                let answer = &answer[..length?];
                if answer.is_empty() {
                    return Ok(());
                }
                client.write_all(answer).await?;
            }
        }
    }
}
