//! Accepts connections, with bounds on their number and on how slow they may be.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::{
    sys::socket::{setsockopt, sockopt},
    unistd::Uid,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::{
    Shared, SocketFile, StartError,
    auth::{Identity, Peer},
    limit::Throttle,
    tls::{Tls, dns_names},
};
use crate::config::Config;

/// An answer that the other side does not take for this long ends the connection.
const WRITE_STALL_MS: u32 = 15_000;
/// Longest header of a request.
const MAX_HEADER: usize = 16 * 1024;
/// Requests under way may end for this long after the shutdown began.
const DRAIN: Duration = Duration::from_secs(2);
/// Waits before accepting again when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn tcp(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen {
        on: format!("tcp {address} (arbiter.listen)"),
        remedy: "choose an address of this host whose port is free",
        source,
    })
}

/// Binds the Unix socket. A file left by a process that is gone is replaced; one that answers is not.
pub(super) async fn unix(path: &Path, is_shared: bool) -> Result<UnixListener, StartError> {
    let refused = |remedy| {
        move |source| StartError::Listen { on: format!("{} (arbiter.socket)", path.display()), remedy, source }
    };
    let writable = "choose a path in a directory that this user may write to";
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(refused(writable))?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(data) if data.file_type().is_socket() => {
            if UnixStream::connect(path).await.is_ok() {
                let taken = io::Error::new(io::ErrorKind::AddrInUse, "another process answers there");
                return Err(refused("stop it, or give this arbiter its own socket")(taken));
            }
            std::fs::remove_file(path).map_err(refused(writable))?;
        }
        Ok(_) => {
            let other = io::Error::new(io::ErrorKind::AlreadyExists, "a file that is not a socket stands there");
            return Err(refused("move it away, or choose another path")(other));
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(refused(writable))?;
    // The kernel tells who connects, and that is checked; the mode is a second line.
    let mode = if is_shared { 0o666 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(refused(writable))?;
    Ok(listener)
}

/// Open connections by address, so that one host cannot take all places.
#[derive(Default)]
struct Places(Mutex<HashMap<IpAddr, usize>>);

struct Place {
    places: Arc<Places>,
    of: IpAddr,
}

impl Places {
    fn take(self: &Arc<Self>, of: IpAddr, most: usize) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(of).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { places: Arc::clone(self), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.of);
            }
        }
    }
}

pub(super) async fn run_tcp(
    listener: TcpListener,
    tls: Option<Tls>,
    shared: Arc<Shared>,
    router: Router,
    tasks: TaskTracker,
) {
    let limits = &shared.options.limits;
    let room = Arc::new(Semaphore::new(limits.connections));
    let places = Arc::<Places>::default();
    let trouble = Throttle::new();
    let refused = |reason| shared.metrics.api_refused.with_label_values(&[reason]).inc();
    let mut certificates = Certificates { of: shared.handle.config(), tls };
    loop {
        let accepted = tokio::select! {
            () = shared.stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                accept_failed(&error, &trouble, &shared).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            refused("full");
            continue;
        };
        let Some(place) = places.take(address.ip(), limits.connections_per_address) else {
            refused("address");
            continue;
        };
        prepare(&stream);
        let tls = certificates.current(&shared);
        let (shared, router) = (Arc::clone(&shared), router.clone());
        tasks.spawn(async move {
            let _held = (permit, place);
            let Some(Tls(acceptor)) = tls else {
                return connection(stream, Peer::Tcp(Arc::from([])), &shared, router, "tcp").await;
            };
            match timeout(shared.options.limits.handshake, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let names = dns_names(stream.get_ref().1.peer_certificates());
                    connection(stream, Peer::Tcp(names), &shared, router, "tcp").await;
                }
                Ok(Err(error)) => {
                    tracing::debug!(%address, %error, "A TLS handshake failed.");
                    shared.metrics.api_refused.with_label_values(&["handshake"]).inc();
                }
                Err(_) => shared.metrics.api_refused.with_label_values(&["slow"]).inc(),
            }
        });
    }
}

/// The certificates of the configuration in force; bad new ones keep the old.
struct Certificates {
    of: Arc<Config>,
    tls: Option<Tls>,
}

impl Certificates {
    fn current(&mut self, shared: &Shared) -> Option<Tls> {
        let config = shared.handle.config();
        if !Arc::ptr_eq(&self.of, &config) {
            if let (Some(files), Some(_)) = (&config.arbiter.tls, &self.tls) {
                match Tls::load(files) {
                    Ok(new) => self.tls = Some(new),
                    Err(error) => {
                        tracing::error!(error, "The new TLS files cannot be used; the old certificate stays in force.");
                    }
                }
            }
            self.of = config;
        }
        self.tls.clone()
    }
}

/// Best effort: without these options, a stalled reader is closed later.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(stream, sockopt::TcpUserTimeout, &WRITE_STALL_MS);
}

async fn accept_failed(error: &io::Error, trouble: &Throttle, shared: &Shared) {
    if let Some(held_back) = trouble.pass(&shared.clock) {
        tracing::warn!(%error, held_back, "A connection could not be accepted.");
    }
    sleep(ACCEPT_PAUSE).await;
}

pub(super) async fn run_unix(
    listener: UnixListener,
    file: SocketFile,
    shared: Arc<Shared>,
    router: Router,
    tasks: TaskTracker,
) {
    let _removed_at_the_end = file;
    let room = Arc::new(Semaphore::new(shared.options.limits.socket_connections));
    let trouble = Throttle::new();
    loop {
        let accepted = tokio::select! {
            () = shared.stopping.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                accept_failed(&error, &trouble, &shared).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            shared.metrics.api_refused.with_label_values(&["full"]).inc();
            continue;
        };
        let Ok(user) = stream.peer_cred() else { continue };
        let uid = user.uid();
        let may = uid == 0
            || uid == Uid::effective().as_raw()
            || shared.handle.config().arbiter.socket_operators.contains(&uid);
        let peer = if may { Peer::Socket(Arc::new(Identity::local(uid))) } else { Peer::Stranger(uid) };
        let (shared, router) = (Arc::clone(&shared), router.clone());
        tasks.spawn(async move {
            let _held = permit;
            connection(stream, peer, &shared, router, "unix").await;
        });
    }
}

/// Serves one connection until it ends, is too slow, or the arbiter stops.
async fn connection<I>(io: I, peer: Peer, shared: &Arc<Shared>, router: Router, listener: &'static str)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &shared.options.limits;
    let open = shared.metrics.api_connections.with_label_values(&[listener]);
    open.inc();
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let asked = Arc::clone(&asked);
        service_fn(move |mut request: Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer.clone());
            let router = router.clone();
            async move { Ok::<_, Infallible>(router.oneshot(request.map(Body::new)).await.unwrap_or_else(|e| match e {})) }
        })
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(io), service);
    tokio::pin!(served);
    let first = sleep(limits.first_request);
    tokio::pin!(first);
    let mut waits_for_first = true;
    let mut stops = false;
    loop {
        tokio::select! {
            ended = served.as_mut() => {
                if ended.is_err_and(|error| error.is_timeout()) {
                    shared.metrics.api_refused.with_label_values(&["slow"]).inc();
                }
                break;
            }
            () = first.as_mut(), if waits_for_first => {
                waits_for_first = false;
                if stops {
                    break;
                }
                if !asked.load(Ordering::Relaxed) {
                    shared.metrics.api_refused.with_label_values(&["slow"]).inc();
                    break;
                }
            }
            () = shared.stopping.cancelled(), if !stops => {
                stops = true;
                served.as_mut().graceful_shutdown();
                first.as_mut().set(sleep(DRAIN));
                waits_for_first = true;
            }
        }
    }
    open.dec();
}
