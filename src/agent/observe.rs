//! The agent beside a node: what arrives there, and whom the node follows.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::sleep};

use super::{
    spec::{ArrivalsFrom, Observe},
    state::{StateHandle, Told},
};
use crate::{
    broker::{Broker, Listen},
    mesh::party::Input,
    model::{
        ClusterName, Epoch, Fact, Failure, FailureKind, MemberName, NodeName, Outcome, Target, Time,
        observation::Arrivals,
    },
    probe::{
        Probe, Subject, exec,
        file::{File, FileProbe},
        prometheus::{Prometheus, PrometheusProbe},
    },
    sys::{clock, file},
};

/// How often the count is told.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// How often an application's counter is read.
const READ_EVERY: Duration = Duration::from_millis(500);
/// How long one reading may take.
const READ_WITHIN: Duration = Duration::from_secs(1);
/// Between two tries to listen.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Keeps the traffic of fenced members from the node.
pub trait Drops: Send + 'static {
    /// Drops what comes from and goes to these, and nothing else; with port 0, all TCP of that host. Reads back that it does.
    ///
    /// # Errors
    /// Why it may pass.
    fn set(&mut self, addresses: &[SocketAddr]) -> Result<(), String>;
}

/// Whom the node follows. Survives a restart of the agent: an order of an older epoch is refused for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Following {
    /// The epoch that made it so.
    pub epoch: Epoch,
    /// The primary, and its address.
    pub primary: Option<(MemberName, String)>,
    /// Members whose traffic is dropped, where that is enforced.
    pub fenced: Vec<MemberName>,
}

/// One node, as the agent serves it.
pub struct Node {
    /// The cluster.
    pub cluster: ClusterName,
    /// The node.
    pub name: NodeName,
    /// What is to be done.
    pub observe: Observe,
    /// The broker kind.
    pub broker: Option<Arc<dyn Broker>>,
    /// Whom to follow until an arbiter says.
    pub first: Option<Target>,
    /// The sockets of the members' brokers, for the drop set.
    pub members: BTreeMap<MemberName, Vec<SocketAddr>>,
    /// The drop set, where it is to be enforced.
    pub drops: Option<Box<dyn Drops>>,
    /// Directory of what survives a restart.
    pub state: PathBuf,
}

/// The way to a node's observer.
#[derive(Clone)]
pub struct NodeHandle {
    name: NodeName,
    inner: Arc<Inner>,
}

struct Inner {
    file: PathBuf,
    members: BTreeMap<MemberName, Vec<SocketAddr>>,
    drops: Mutex<Option<Box<dyn Drops>>>,
    following: watch::Sender<Following>,
}

impl NodeHandle {
    /// The node's name.
    #[must_use]
    pub const fn name(&self) -> &NodeName {
        &self.name
    }

    /// Whom it follows.
    #[must_use]
    pub fn following(&self) -> Following {
        self.inner.following.borrow().clone()
    }

    /// Follow that primary from now on, and drop what the fenced members send. Durable before it is acknowledged.
    ///
    /// # Errors
    /// The epoch is an old one, it could not be made durable, or traffic could not be dropped.
    pub async fn redirect(
        &self,
        epoch: Epoch,
        primary: MemberName,
        address: String,
        fenced: Vec<MemberName>,
    ) -> Result<(), String> {
        let inner = Arc::clone(&self.inner);
        let change = move || inner.change(Following { epoch, primary: Some((primary, address)), fenced }, epoch);
        tokio::task::spawn_blocking(change).await.map_err(|_| "the change was broken off".to_owned())?
    }
}

impl NodeHandle {
    /// Drop what that member sends as well, from now on, whomever the node follows; or take it again. Durable before it is
    /// acknowledged.
    ///
    /// # Errors
    /// The epoch is an old one, it could not be made durable, or traffic could not be dropped; nothing is dropped here by
    /// the file.
    pub async fn drop_member(&self, epoch: Epoch, member: MemberName, lift: bool) -> Result<(), String> {
        let inner = Arc::clone(&self.inner);
        let change = move || {
            // What is read here cannot change before it is written: orders of one node come one after the other, and an
            // older one is refused below.
            let old = inner.following.borrow().clone();
            let mut fenced: Vec<MemberName> = old.fenced.into_iter().filter(|other| *other != member).collect();
            if !lift {
                fenced.push(member);
            }
            fenced.sort();
            if !lift && inner.drops.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
                return Err("this node drops nothing: write `observe: { enforce: true }`".to_owned());
            }
            inner.change(Following { epoch: epoch.max(old.epoch), primary: old.primary, fenced }, epoch)
        };
        tokio::task::spawn_blocking(change).await.map_err(|_| "the change was broken off".to_owned())?
    }
}

impl Inner {
    fn change(&self, new: Following, ordered_in: Epoch) -> Result<(), String> {
        // One at a time: the lock is held from the look at the epoch to the end.
        let mut drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.following.borrow().clone();
        if ordered_in < old.epoch {
            return Err(format!("it follows epoch {} already", old.epoch));
        }
        if new != old {
            let bytes = serde_json::to_vec_pretty(&new).map_err(|error| error.to_string())?;
            file::replace(&self.file, &bytes)
                .map_err(|error| format!("{} cannot be written: {error}", self.file.display()))?;
        }
        // Listening moves even where dropping fails: the first serves the node, the second only protects it.
        self.following.send_replace(new.clone());
        self.enforce(drops.as_deref_mut(), &new.fenced)
    }

    fn enforce(&self, drops: Option<&mut (dyn Drops + 'static)>, fenced: &[MemberName]) -> Result<(), String> {
        let Some(drops) = drops else { return Ok(()) };
        let mut addresses = Vec::new();
        for member in fenced {
            let known = self.members.get(member).filter(|known| !known.is_empty());
            addresses.extend(known.ok_or_else(|| format!("the file knows no address of {member}"))?);
        }
        drops.set(&addresses)
    }
}

/// What has arrived.
#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    /// [`Time`] of the last; zero: none.
    last: AtomicU64,
}

impl Counter {
    fn add(&self, more: u64) {
        self.count.fetch_add(more, Ordering::Relaxed);
        self.last.store(clock::now().0, Ordering::Relaxed);
    }

    /// An application's counter says so many. A smaller number is a new life of the application.
    fn is_now(&self, count: u64) {
        if self.count.swap(count, Ordering::Relaxed) != count {
            self.last.store(clock::now().0, Ordering::Relaxed);
        }
    }
}

/// Takes up what the last life left and serves the node from then on, in tasks of the current runtime.
///
/// # Errors
/// The file of the last life cannot be used, a probe cannot be built, or traffic cannot be dropped.
pub fn start(node: Node, state: StateHandle) -> Result<NodeHandle, String> {
    let file = node.state.join(format!("{}.{}.node.json", node.name, node.cluster));
    let first = Following {
        primary: node.first.as_ref().map(|target| (target.member.clone(), target.address.clone())),
        ..Following::default()
    };
    let following = load(&file)?.unwrap_or(first);
    let (sender, receiver) = watch::channel(following.clone());
    let inner = Arc::new(Inner { file, members: node.members, drops: Mutex::new(node.drops), following: sender });
    {
        let mut drops = inner.drops.lock().unwrap_or_else(PoisonError::into_inner);
        inner.enforce(drops.as_deref_mut(), &following.fenced)?;
    }
    let counter = Arc::<Counter>::default();
    match node.observe.arrivals {
        ArrivalsFrom::Nothing => return Ok(NodeHandle { name: node.name, inner }),
        ArrivalsFrom::Channels(channels) => {
            let broker = node.broker.ok_or("to subscribe, the cluster needs a `broker`")?;
            let listen = Listen::Channels(channels);
            tokio::spawn(subscribe(node.cluster.clone(), broker, listen, receiver, Arc::clone(&counter)));
        }
        ArrivalsFrom::Streams(streams) => {
            let broker = node.broker.ok_or("to subscribe, the cluster needs a `broker`")?;
            let listen = Listen::Streams(streams);
            tokio::spawn(subscribe(node.cluster.clone(), broker, listen, receiver, Arc::clone(&counter)));
        }
        ArrivalsFrom::Metric { url, metric } => {
            let config = Prometheus { url, metric: Some(metric), ..Prometheus::default() };
            let probe = Box::new(PrometheusProbe::new(&config)?);
            tokio::spawn(read(probe, node.cluster.clone(), node.name.clone(), Arc::clone(&counter)));
        }
        ArrivalsFrom::File(path) => {
            let path = path.display().to_string();
            let config = File { path, content: exec::Output::Value, ..File::default() };
            let probe = Box::new(FileProbe::new(&config)?);
            tokio::spawn(read(probe, node.cluster.clone(), node.name.clone(), Arc::clone(&counter)));
        }
    }
    let handle = NodeHandle { name: node.name, inner };
    tokio::spawn(tell(node.cluster, handle.clone(), counter, state));
    Ok(handle)
}

fn load(file: &Path) -> Result<Option<Following>, String> {
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            let file = file.display();
            format!("{file} cannot be understood: {error}. It holds whom the node follows; remove it to begin anew")
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{} cannot be read: {error}", file.display())),
    }
}

async fn tell(cluster: ClusterName, node: NodeHandle, counter: Arc<Counter>, state: StateHandle) {
    loop {
        let following = node.following();
        let last = counter.last.load(Ordering::Relaxed);
        let arrivals = Arrivals {
            received: counter.count.load(Ordering::Relaxed),
            last_age: (last != 0).then(|| clock::now().since(Time(last))),
            attempted: None,
            acknowledged: None,
            primary: following.primary.map(|(primary, _)| primary),
            epoch: following.epoch,
        };
        state.tell(Told::Input(Box::new(Input::Node { cluster: cluster.clone(), arrivals })));
        sleep(TELL_EVERY).await;
    }
}

/// Listens to whoever is primary, for ever.
async fn subscribe(
    cluster: ClusterName,
    broker: Arc<dyn Broker>,
    listen: Listen,
    mut following: watch::Receiver<Following>,
    counter: Arc<Counter>,
) {
    let mut told = None;
    loop {
        let primary = following.borrow_and_update().primary.clone();
        let Some((member, address)) = primary.clone() else {
            if following.changed().await.is_err() {
                return;
            }
            continue;
        };
        let target = Target { cluster: cluster.clone(), member, address };
        let came = |more| counter.add(more);
        // Whoever hangs on the old primary hears of the new one all the same.
        let moved = async { while following.changed().await.is_ok() && following.borrow().primary == primary {} };
        tokio::select! {
            () = moved => told = None,
            failure = broker.listen(&target, &listen, &came) => {
                // Once per change: it is tried again all the time.
                if told.as_ref() != Some(&failure) {
                    tracing::warn!(%cluster, member = %target.member, %failure, "cannot listen; trying again");
                }
                told = Some(failure);
                sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// Reads an application's counter, for ever.
async fn read(probe: Box<dyn Probe>, cluster: ClusterName, node: NodeName, counter: Arc<Counter>) {
    let subject = Subject { cluster: cluster.to_string(), name: node.to_string(), address: String::new() };
    let mut told = None;
    loop {
        let failure = match probe.look(&subject, READ_WITHIN).await {
            Outcome::Fact(Fact::Value(value)) if value >= 0.0 => {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; saturates")]
                counter.is_now(value as u64);
                None
            }
            Outcome::Fact(_) => Some(Failure::new(FailureKind::Parse, "it is not a count")),
            Outcome::Failure(failure) => Some(failure),
        };
        if let Some(failure) = failure.as_ref().filter(|failure| told.as_ref() != Some(*failure)) {
            tracing::warn!(%cluster, %node, %failure, "the count of arrivals cannot be read; trying again");
        }
        told = failure;
        sleep(READ_EVERY).await;
    }
}
