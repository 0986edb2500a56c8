//! The relay as a server: accepts connections, asks who comes, and lets each do its part.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt as _,
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    client::Control,
    control::{Answer, Reason, Request, Role, Status},
    core::{Core, Job, Storage},
    entry::EntryKind,
    shared::{Heard, Shared},
    wire::{self, FrameReader, Hello, Kind, Refusal, Why},
};
use crate::sys::clock::Stopwatch;

mod node;
mod sender;

/// Connections at one time, all together.
const MOST_CONNECTIONS: usize = 1_024;
/// Who does not say who it is within this time goes.
const GREET_WITHIN: Duration = Duration::from_secs(5);
/// A client that takes nothing for so long goes.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
/// A controller that says nothing for so long goes.
const CONTROL_IDLE: Duration = Duration::from_secs(300);
/// What all messages that wait for the storage may take, bytes.
const MEMORY: usize = 64 * 1024 * 1024;
/// Jobs that wait for the storage.
const JOBS: usize = 4_096;
/// How long a probe or an order may wait for the storage, beyond what it says itself.
const STORAGE_WITHIN: Duration = Duration::from_secs(10);
/// How often a shadow hears its primary's heart.
const HEAR_EVERY: Duration = Duration::from_millis(200);

/// How a relay is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its name: letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// The storage that all members share.
    pub dir: PathBuf,
    /// This member's own directory; none: `members/<name>` on the shared storage.
    pub own: Option<PathBuf>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Whether it may found the log, and be its first primary, if there is none.
    pub may_found: bool,
    /// Whom a new member follows.
    pub follow: Option<String>,
    /// How long a segment grows, bytes.
    pub segment_bytes: u64,
    /// How much of the log is kept, bytes.
    pub retain_bytes: u64,
    /// A shadow applies entries only when they are so old.
    pub replay_delay: Duration,
}

impl Options {
    /// A relay with the usual sizes.
    #[must_use]
    pub fn new(name: &str, dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            dir: dir.into(),
            own: None,
            listen,
            may_found: false,
            follow: None,
            segment_bytes: 64 * 1024 * 1024,
            retain_bytes: 4 * 1024 * 1024 * 1024,
            replay_delay: Duration::ZERO,
        }
    }
}

/// A running relay. It ends when this is dropped, as far as its connections are concerned; the storage thread ends after
/// the commit that it is at.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
    ended: Arc<AtomicBool>,
}

/// What connections have in common.
#[derive(Clone, Debug)]
struct Common {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    memory: Arc<Semaphore>,
    dir: PathBuf,
}

impl Server {
    /// Starts it, within a tokio runtime of several threads: replays what is there, and serves or follows.
    ///
    /// # Errors
    /// Its directories, its port, or another process that is this member already.
    pub async fn start(options: Options) -> io::Result<Self> {
        let is_fit = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !wire::is_name(&options.name) || !options.name.chars().all(is_fit) || options.name.starts_with('.') {
            let text = format!("`{}` is no name: letters, digits, `-`, `_`, `.`, at most 64", options.name);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let shared = Arc::new(Shared::new(&options.name));
        let own = options.own.unwrap_or_else(|| options.dir.join("members").join(&options.name));
        let storage = Storage {
            dir: options.dir.clone(),
            own,
            segment_bytes: options.segment_bytes,
            retain_bytes: options.retain_bytes,
            replay_delay: options.replay_delay,
        };
        let (jobs, queue) = mpsc::channel(JOBS);
        let ended = Arc::new(AtomicBool::new(false));
        let mut core = Core::new(storage, Arc::clone(&shared), queue, Arc::clone(&ended));
        let lock = core.prepare()?;
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let common =
            Common { shared: Arc::clone(&shared), jobs, memory: Arc::new(Semaphore::new(MEMORY)), dir: options.dir };
        let (begun, has_begun) = oneshot::channel();
        let (runtime, may_found, follow) = (Handle::current(), options.may_found, options.follow);
        // Status is answered while it replays; the tasks come first.
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, common));
        tasks.spawn(hear(Arc::clone(&shared)));
        std::thread::Builder::new().name("relay-storage".into()).spawn(move || {
            // Held as long as the storage may be written.
            let _lock = lock;
            let result = core.begin(may_found, follow);
            let is_ok = result.is_ok();
            let _ = begun.send(result);
            if is_ok {
                core.run(&runtime);
            }
        })?;
        has_begun.await.map_err(|_| io::Error::other("the storage thread died"))??;
        Ok(Self { address, shared, _tasks: tasks, ended })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Stops, and waits until the storage thread has ended.
    pub async fn stop(mut self) {
        self._tasks.shutdown().await;
        while !self.ended.load(Ordering::Acquire) {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn accept(listener: TcpListener, common: Common) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            // Too many open files, mostly: a pause lets some end.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let common = common.clone();
        connections.spawn(async move {
            let _place = place;
            // However it ends, the client knows what was acknowledged.
            let _ = serve(stream, common).await;
        });
    }
}

type Frames = FrameReader<OwnedReadHalf>;

async fn serve(stream: TcpStream, common: Common) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let mut frames = FrameReader::new(reader, wire::MAX_FIRST_FRAME);
    let hello = timeout(GREET_WITHIN, frames.next()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
    let Some(hello) = hello?.filter(|frame| frame.kind == Kind::Hello) else { return Ok(()) };
    let hello: Hello = hello.json()?;
    frames.allow(wire::MAX_FRAME);
    match hello {
        Hello::Control => control(frames, writer, &common).await,
        Hello::Sender { name, epoch } if wire::is_name(&name) => {
            sender::serve(frames, writer, &common, name, epoch).await
        }
        Hello::Node { name, after, epoch } if wire::is_name(&name) => {
            node::serve(frames, writer, &common, &name, after, epoch).await
        }
        Hello::Sender { .. } | Hello::Node { .. } => {
            let detail = "a name has 1 to 64 letters, digits, or one of `-_.:/`";
            refuse(writer, &common, Why::BadRequest, detail).await
        }
    }
}

async fn write(writer: &mut OwnedWriteHalf, frame: &[u8]) -> io::Result<()> {
    timeout(WRITE_WITHIN, writer.write_all(frame)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn refuse(writer: OwnedWriteHalf, common: &Common, why: Why, detail: &str) -> io::Result<()> {
    let epoch = common.shared.lock().stored_epoch;
    refuse_with(writer, &Refusal { why, detail: detail.to_owned(), epoch }).await
}

async fn refuse_with(mut writer: OwnedWriteHalf, refusal: &Refusal) -> io::Result<()> {
    write(&mut writer, &wire::json(Kind::Refused, refusal)?).await?;
    writer.shutdown().await
}

fn gone<T>(_: T) -> io::Error {
    io::Error::other("the storage thread has ended")
}

async fn control(mut frames: Frames, mut writer: OwnedWriteHalf, common: &Common) -> io::Result<()> {
    loop {
        let frame = match timeout(CONTROL_IDLE, frames.next()).await {
            Ok(Ok(Some(frame))) if frame.kind == Kind::Ask => frame,
            _ => return Ok(()),
        };
        let answer = match frame.json::<Request>() {
            Ok(request) => answer(request, common).await?,
            Err(error) => Answer::Refused {
                reason: Reason::BadRequest,
                detail: error.to_string(),
                status: common.shared.status(),
            },
        };
        write(&mut writer, &wire::json(Kind::Answer, &answer)?).await?;
    }
}

async fn answer(request: Request, common: &Common) -> io::Result<Answer> {
    let (kind, id) = match request {
        Request::Status => {
            let status = common.shared.status();
            return Ok(Answer::Ok { status, detail: String::new(), set_apart: None, replayed: None });
        }
        Request::Probe { id } => (EntryKind::Probe, id),
        Request::Canary { id } => (EntryKind::Canary, id),
        order => return give_order(order, common).await,
    };
    if id.len() > wire::MAX_FIRST_FRAME {
        let detail = format!("the id is longer than {} bytes", wire::MAX_FIRST_FRAME);
        return Ok(Answer::Refused { reason: Reason::BadRequest, detail, status: common.shared.status() });
    }
    let (reply, answered) = oneshot::channel();
    let detail = id.clone();
    common.jobs.send(Job::Special { kind, id, reply }).await.map_err(gone)?;
    Ok(match timeout(STORAGE_WITHIN, answered).await {
        Ok(Ok(Ok(()))) => Answer::Ok { status: common.shared.status(), detail, set_apart: None, replayed: None },
        Ok(Ok(Err((reason, detail)))) => Answer::Refused { reason, detail, status: common.shared.status() },
        Ok(Err(error)) => return Err(gone(error)),
        Err(_) => Answer::Failed { detail: format!("the storage did not answer within {STORAGE_WITHIN:?}") },
    })
}

async fn give_order(request: Request, common: &Common) -> io::Result<Answer> {
    let own = match &request {
        Request::CatchUp { within_ms, .. } | Request::Promote { within_ms, .. } => Duration::from_millis(*within_ms),
        _ => Duration::ZERO,
    };
    if let Request::ReadOnly { on: true, epoch } = &request {
        // At once, even if the storage hangs; the storage thread makes it durable.
        let mut inner = common.shared.lock();
        inner.read_only |= *epoch >= inner.stored_epoch;
    }
    let (reply, answered) = oneshot::channel();
    common.jobs.send(Job::Order { request, reply }).await.map_err(gone)?;
    let within = own.saturating_mul(2).saturating_add(STORAGE_WITHIN);
    match timeout(within, answered).await {
        Ok(answer) => answer.map_err(gone),
        Err(_) => Ok(Answer::Failed { detail: format!("the storage did not answer within {within:?}") }),
    }
}

/// A shadow listens to its primary's heart.
async fn hear(shared: Arc<Shared>) {
    let mut following = shared.following.subscribe();
    loop {
        let whom = following.borrow_and_update().clone();
        let Some(address) = whom else {
            if following.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            () = hear_one(&shared, &address) => {}
            _ = following.changed() => continue,
        }
        sleep(HEAR_EVERY).await;
    }
}

async fn hear_one(shared: &Shared, address: &str) {
    let within = Duration::from_secs(1);
    let Ok(mut control) = Control::connect(address, within).await else { return };
    while let Ok(Answer::Ok { status, .. }) = control.ask(&Request::Status, within).await {
        {
            let mut inner = shared.lock();
            inner.heard = Some(Heard {
                at: Stopwatch::start(),
                position: status.position,
                epoch: status.epoch,
                is_primary: status.role == Role::Primary,
            });
        }
        sleep(HEAR_EVERY).await;
    }
}

/// Waits until this is no primary of that epoch any more.
async fn until_no_primary(serving: &mut watch::Receiver<super::shared::Serving>, epoch: u64) {
    // The shared state outlives all connections.
    let _ = serving.wait_for(|now| now.epoch != Some(epoch)).await;
}
