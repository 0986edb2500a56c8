//! HTTP, UDP and Unix socket: ingest, control, metrics, events.
//!
//! | route | role | |
//! |---|---|---|
//! | `POST /v1/heartbeat` | report | a heartbeat, or an array of them |
//! | `POST /v1/arrivals` | report | a node's report, or an array of them |
//! | `POST /v1/canary` | report | a canary was received |
//! | `POST /v1/alerts` | report | an Alertmanager webhook |
//! | `GET /v1/clusters/{c}/primary?epoch=&wait=` | any | whom to follow; waits for a newer epoch |
//! | `GET /v1/epoch` | any | epoch and primary of every cluster |
//! | `GET /v1/status`, `/v1/clusters/{c}/why`, `/why-not`, `/signals` | view | the state |
//! | `GET /v1/doctor?cluster=` | view | an examination of the whole deployment |
//! | `GET /v1/incidents?cluster=&limit=`, `/v1/incidents/{id}?format=` | view | the incidents |
//! | `GET /v1/events?cluster=` | view | notices as server-sent events |
//! | `POST /v1/command`, `/v1/reload`, `/v1/clusters/{c}/fence-test` | operate | control |
//! | `GET /livez`, `/readyz`, `/metrics` | none | health |
//!
//! Everything else is a JSON error. `/metrics` and the health routes are open, since scrapers and load balancers rarely
//! carry tokens: they tell names of clusters, members and nodes, so bind the port where only those may come who may know
//! them. Heartbeats over UDP: [`beat`].

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    arbiter::handle::Handle,
    model::{ClusterName, Incident, NodeName, record::LogEntry},
    sys::clock::Stopwatch,
    telemetry::Metrics,
};

mod auth;
pub mod beat;
mod control;
mod error;
mod health;
mod ingest;
pub mod limit;
mod listen;
mod offline;
mod replay;
mod routes;
mod tls;
mod udp;
mod watch;

pub use limit::Limits;
pub use offline::Offline;

use auth::AccessTable;

/// Where receipts of canaries go.
pub trait CanaryReceipts: Send + Sync {
    /// A node received this canary.
    fn received(&self, cluster: &ClusterName, node: &NodeName, id: &str);

    /// A node reported at all, so that a canary it lacks is known to be missing and not merely untold.
    fn node_reported(&self, cluster: &ClusterName, node: &NodeName);
}

/// Renders an incident as Markdown.
pub type Markdown = fn(&Incident, &[LogEntry]) -> String;

/// What a caller may choose.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Bounds.
    pub limits: Limits,
    /// For `GET /v1/incidents/{id}?format=markdown`; without it, that format is refused.
    pub markdown: Option<Markdown>,
}

/// The API could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address or path cannot be listened on.
    #[error("cannot listen on {on}: {source}; {remedy}")]
    Listen {
        /// The address or path, with what it is for.
        on: String,
        /// What to do.
        remedy: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The certificates cannot be used.
    #[error("cannot use the TLS files of `arbiter.tls`: {0}")]
    Tls(String),
}

/// What runs, and where.
#[derive(Debug)]
pub struct Running {
    /// The address of the HTTP interface, with the port that was found for port 0.
    pub http: Option<SocketAddr>,
    /// The address for heartbeats over UDP.
    pub udp: Option<SocketAddr>,
    /// The Unix socket.
    pub socket: PathBuf,
    tasks: TaskTracker,
}

impl Running {
    /// Returns once the shutdown is through and all connections are closed.
    pub async fn finished(self) {
        self.tasks.wait().await;
    }
}

/// What all routes share.
pub(crate) struct Shared {
    handle: Handle,
    receipts: Arc<dyn CanaryReceipts>,
    metrics: Arc<Metrics>,
    options: Options,
    access: ArcSwap<AccessTable>,
    clock: Stopwatch,
    status: health::StatusCache,
    waiters: Arc<Semaphore>,
    replays: replay::Replays,
    stopping: CancellationToken,
}

impl Shared {
    fn new(options: Options, handle: Handle, receipts: Arc<dyn CanaryReceipts>, metrics: Arc<Metrics>) -> Self {
        Self {
            access: ArcSwap::from_pointee(AccessTable::new(handle.config())),
            waiters: Arc::new(Semaphore::new(options.limits.waiters)),
            clock: Stopwatch::start(),
            status: health::StatusCache::default(),
            replays: replay::Replays::default(),
            stopping: CancellationToken::new(),
            handle,
            receipts,
            metrics,
            options,
        }
    }

    /// The identities of the configuration in force.
    fn access(&self) -> Arc<AccessTable> {
        let (config, table) = (self.handle.config(), self.access.load_full());
        if Arc::ptr_eq(&config, &table.config) {
            return table;
        }
        let table = Arc::new(AccessTable::new(config));
        self.access.store(Arc::clone(&table));
        table
    }
}

/// Starts listening as the configuration says. Addresses are read once; identities and certificates follow a reload.
///
/// # Errors
/// An address is taken, or the certificates cannot be used. Nothing runs then.
pub async fn serve(
    handle: Handle,
    receipts: Arc<dyn CanaryReceipts>,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Running, StartError> {
    serve_with(Options::default(), handle, receipts, metrics, shutdown).await
}

/// The same with bounds and renderers chosen.
///
/// # Errors
/// As [`serve`].
pub async fn serve_with(
    options: Options,
    handle: Handle,
    receipts: Arc<dyn CanaryReceipts>,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Running, StartError> {
    let config = handle.config();
    let arbiter = &config.arbiter;
    let tls = arbiter.tls.as_ref().map(tls::Tls::load).transpose().map_err(StartError::Tls)?;
    let http = match arbiter.http {
        Some(address) => Some(listen::tcp(address).await?),
        None => None,
    };
    let udp = match arbiter.udp {
        Some(address) => Some(udp::bind(address).await?),
        None => None,
    };
    let unix = listen::unix(&arbiter.socket, !arbiter.socket_operators.is_empty()).await?;
    let running = Running {
        http: http.as_ref().and_then(|listener| listener.local_addr().ok()),
        udp: udp.as_ref().and_then(|socket| socket.local_addr().ok()),
        socket: arbiter.socket.clone(),
        tasks: TaskTracker::new(),
    };
    let shared = Arc::new(Shared::new(options, handle, receipts, metrics));
    let stopping = shared.stopping.clone();
    let router = routes::router(&shared);
    let tasks = running.tasks.clone();
    if let Some(listener) = http {
        tasks.spawn(listen::run_tcp(listener, tls, Arc::clone(&shared), router.clone(), tasks.clone()));
    }
    if let Some(socket) = udp {
        tasks.spawn(udp::run(socket, Arc::clone(&shared)));
    }
    let socket = SocketFile::new(&arbiter.socket);
    tasks.spawn(listen::run_unix(unix, socket, Arc::clone(&shared), router, tasks.clone()));
    tasks.spawn(async move {
        shutdown.await;
        stopping.cancel();
    });
    tasks.close();
    Ok(running)
}

/// Removes the socket's file at the end, unless another process has put its own there.
struct SocketFile {
    path: PathBuf,
    inode: Option<u64>,
}

impl SocketFile {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), inode: inode(path) }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            // Left behind, it is found stale at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::symlink_metadata(path).ok().map(|data| data.ino())
}
