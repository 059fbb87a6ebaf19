//! A way to a server that can fail: it passes bytes on, until it is told to do
//! something else.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What to do when the next request comes. It happens once. What comes in one
/// piece is taken for a request, so a large one may be several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Cut the connection; the server does not see the request.
    LoseRequest,
    /// Let the server answer, and cut the connection in place of the answer.
    LoseAnswer,
    /// Pass nothing on over this connection any more, and leave it open.
    Stall,
}

/// A proxy on a free port of the loopback interface, for as long as the value
/// lives.
pub struct Proxy {
    port: u16,
    fault: Arc<Mutex<Option<Fault>>>,
    listener: JoinHandle<()>,
}

impl Proxy {
    /// Starts one before the server at `port`.
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

    /// The address of the proxy, as people write that of a Redis server.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Has the next request fail.
    pub fn fail(&self, fault: Fault) {
        *self.fault.lock().expect("a fault") = Some(fault);
    }

    /// Whether what was to fail has failed.
    pub fn has_failed(&self) -> bool {
        self.fault.lock().expect("a fault").is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Passes on what both sides send, until one of them or a fault ends it.
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
