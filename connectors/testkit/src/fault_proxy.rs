//! A proxy on loopback that makes an HTTP server look bad: it answers 503 in the server's
//! place, swallows answers of requests that were carried out, and cuts connections.

mod http;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{self, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use http::Request;

/// No exchange with a server on loopback takes this long, so one that does is given up.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(60);

/// Which requests a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// All.
    Any,
    /// Those that write: PUT and POST.
    Writes,
    /// PUTs that must not replace anything: those with `If-None-Match: *`.
    ConditionalCreates,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server never sees it; the client gets a 503.
    Unavailable,
    /// The server carries it out; the client's connection is cut instead of the answer.
    LostReply,
    /// The server decides, but the client is told that it succeeded, as by a store that
    /// ignores conditions.
    FalseSuccess,
}

/// What the proxy has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests that were passed on and answered.
    pub passed: u64,
    /// Requests that got a 503.
    pub unavailable: u64,
    /// Requests whose answer was swallowed.
    pub lost_replies: u64,
    /// Requests whose answer was replaced by a success.
    pub false_successes: u64,
}

/// A running proxy. Dropping it cuts everything and stops it.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: SocketAddr,
    plan: Mutex<Plan>,
    /// Whether connections are let through.
    open: watch::Sender<bool>,
}

#[derive(Default)]
struct Plan {
    /// Faults still to come, each with how often. The first that fits a request strikes it.
    faults: Vec<(Which, Fault, u64)>,
    tally: Tally,
}

impl FaultProxy {
    /// Starts a proxy in front of the HTTP server at `upstream`, on a free port.
    ///
    /// # Errors
    /// If it cannot listen, or no thread can be started.
    pub fn start(upstream: SocketAddr) -> Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            plan: Mutex::default(),
            open: watch::Sender::new(true),
        });
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let (serving, stopped) = (shared.clone(), stop.clone());
        let thread = std::thread::Builder::new()
            .name("testkit-proxy".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = stopped.cancelled() => {}
                        () = serve(listener, &serving) => {}
                    }
                });
            })
            .context("cannot start a thread")?;
        Ok(Self {
            address,
            shared,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes the next `times` requests of that kind fail so. Faults that are still to come stay;
    /// a request is struck by the oldest that fits it.
    pub fn inject(&self, which: Which, fault: Fault, times: u64) {
        self.shared.plan().faults.push((which, fault, times));
    }

    /// Drops the faults that are still to come.
    pub fn calm(&self) {
        self.shared.plan().faults.clear();
    }

    /// Cuts all connections, and every new one at once.
    pub fn cut(&self) {
        self.shared.open.send_replace(false);
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.shared.open.send_replace(true);
    }

    /// What it has done up to now.
    pub fn tally(&self) -> Tally {
        self.shared.plan().tally
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        // Counters are valid at every step.
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault that strikes `request`, which is used up by it.
    fn strike(&self, request: &Request) -> Option<Fault> {
        let mut plan = self.plan();
        let (_, fault, left) = plan
            .faults
            .iter_mut()
            .find(|(which, _, left)| *left > 0 && which.fits(request))?;
        *left -= 1;
        Some(*fault)
    }
}

impl Which {
    fn fits(self, request: &Request) -> bool {
        match self {
            Self::Any => true,
            Self::Writes => ["PUT", "POST"].contains(&request.method()),
            Self::ConditionalCreates => request.method() == "PUT" && request.header("if-none-match") == Some("*"),
        }
    }
}

async fn serve(listener: std::net::TcpListener, shared: &Arc<Shared>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    // Dropped with this function, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        if !*shared.open.borrow() {
            continue;
        }
        let shared = shared.clone();
        connections.spawn(async move {
            let mut open = shared.open.subscribe();
            let exchanges = async {
                // Only the client's side can fail in a way that matters here, and it knows.
                let _ = exchange(client, &shared).await;
            };
            tokio::select! {
                _ = open.wait_for(|open| !open) => {}
                () = exchanges => {}
            }
        });
    }
}

/// One request and its answer. A connection serves one request only, so that an answer ends
/// where its connection does.
async fn exchange(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let Some(request) = Request::read_head(&mut client).await? else {
        return Ok(());
    };
    tokio::time::timeout(EXCHANGE_LIMIT, async {
        match shared.strike(&request) {
            None => {
                let mut server = forward(request, &mut client, shared.upstream).await?;
                shared.plan().tally.passed += 1;
                io::copy(&mut server, &mut client).await?;
            }
            Some(Fault::LostReply) => {
                let mut server = forward(request, &mut client, shared.upstream).await?;
                io::copy(&mut server, &mut io::sink()).await?;
                shared.plan().tally.lost_replies += 1;
                return Ok(());
            }
            Some(Fault::FalseSuccess) => {
                let mut server = forward(request, &mut client, shared.upstream).await?;
                io::copy(&mut server, &mut io::sink()).await?;
                shared.plan().tally.false_successes += 1;
                client.write_all(http::SUCCESS).await?;
            }
            Some(Fault::Unavailable) => {
                // A body left unread would reset the connection before the answer is seen.
                request.pass_body(&mut client, &mut io::sink()).await?;
                shared.plan().tally.unavailable += 1;
                client.write_all(http::UNAVAILABLE).await?;
            }
        }
        client.shutdown().await
    })
    .await?
}

/// Sends the request on; its answer can be read from what is returned.
async fn forward(request: Request, client: &mut TcpStream, upstream: SocketAddr) -> io::Result<TcpStream> {
    let mut server = TcpStream::connect(upstream).await?;
    server.write_all(&request.closing_head()).await?;
    request.pass_body(client, &mut server).await?;
    Ok(server)
}

#[cfg(test)]
mod tests;
