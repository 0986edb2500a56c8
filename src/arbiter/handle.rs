//! What the API and the signal sources hold of the running arbiter.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{mesh::Link, rehearsal::Rehearsals};
use crate::{
    config::Config,
    model::{
        ClusterName, Command, CommandError, CommandReply, MemberName, Notice, Observer, Operator, Outcome, SignalName,
        Time, WallAnchor,
        command::CommandErrorCode,
        doctor::{FenceTest, FenceTestReport, MeshView, Rehearsal},
        status::{PrimaryView, SignalStatus, Status, Why, WhyNot},
    },
    store::Store,
    sys::clock,
};

/// What reaches the driver's one queue.
#[derive(Debug)]
pub enum Input {
    /// Somebody saw something; the driver stamps it.
    Seen(Seen),
    /// What another arbiter sees.
    Peer {
        /// Which.
        peer: String,
        /// What its probes saw last.
        looks: Vec<super::several::Look>,
    },
    /// Something about this arbiter that people should see.
    Notice(Box<Notice>),
    /// A person asks.
    Command {
        /// Who.
        by: Operator,
        /// What.
        command: Command,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<CommandReply, CommandError>>,
    },
    /// A view of the state is wanted.
    Query(Query),
    /// Rehearse fences now.
    Rehearse {
        /// Of which cluster.
        cluster: ClusterName,
        /// Which.
        test: FenceTest,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<FenceTestReport, CommandError>>,
    },
    /// Load the file again.
    Reload(oneshot::Sender<Result<String, String>>),
}

/// An observation that is not stamped yet.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The cluster.
    pub cluster: ClusterName,
    /// The signal.
    pub signal: SignalName,
    /// Who looked.
    pub observer: Observer,
    /// At whom; `None`: the service as a whole.
    pub subject: Option<MemberName>,
    /// What was seen.
    pub outcome: Outcome,
}

/// A view that is wanted.
#[derive(Debug)]
pub enum Query {
    /// Everything, in brief.
    Status(oneshot::Sender<Status>),
    /// The rules of one cluster, explained.
    Why(ClusterName, oneshot::Sender<Option<Why>>),
    /// The guards and candidates of one cluster.
    WhyNot(ClusterName, oneshot::Sender<Option<WhyNot>>),
    /// The signals of one cluster, stream by stream.
    Signals(ClusterName, oneshot::Sender<Option<Vec<SignalStatus>>>),
}

/// A notice with its moment.
#[derive(Clone, Debug)]
pub struct TimedNotice {
    /// When.
    pub at: Time,
    /// Translates it to wall time.
    pub anchor: WallAnchor,
    /// What.
    pub notice: Notice,
}

/// A handle on the running arbiter. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) notices: broadcast::Sender<Arc<TimedNotice>>,
    pub(crate) primaries: Arc<ArcSwap<BTreeMap<ClusterName, watch::Receiver<PrimaryView>>>>,
    pub(crate) config: Arc<ArcSwap<Config>>,
    pub(crate) store: Arc<dyn Store>,
    /// What the rehearsals of the fences showed.
    pub(crate) rehearsals: Rehearsals,
    /// The arbiter's end of the mesh, if the file has one.
    pub(crate) link: Option<Arc<Link>>,
    /// The file, as it lies on the disk.
    pub(crate) file: Option<Arc<Path>>,
}

/// The driver's queue is full; the observation was dropped and should be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the arbiter is overloaded")]
pub struct Overloaded;

impl Handle {
    /// Puts a handle together: the driver keeps the other ends.
    #[must_use]
    pub fn new(
        inputs: mpsc::Sender<Input>,
        notices: broadcast::Sender<Arc<TimedNotice>>,
        primaries: Arc<ArcSwap<BTreeMap<ClusterName, watch::Receiver<PrimaryView>>>>,
        config: Arc<ArcSwap<Config>>,
        store: Arc<dyn Store>,
    ) -> Self {
        Self { inputs, notices, primaries, config, store, rehearsals: Rehearsals::default(), link: None, file: None }
    }

    /// Rehearses fences of one cluster now.
    ///
    /// # Errors
    /// There is no such cluster, member or method.
    pub async fn rehearse(&self, cluster: ClusterName, test: FenceTest) -> Result<FenceTestReport, CommandError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || CommandError::new(CommandErrorCode::WrongState, "the arbiter is stopping");
        self.inputs.send(Input::Rehearse { cluster, test, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// The newest rehearsals of all clusters.
    #[must_use]
    pub fn rehearsals(&self) -> Vec<Rehearsal> {
        self.rehearsals.views(clock::now(), &self.config().policy)
    }

    /// The mesh, as the arbiter knows it. `None`: the file has none.
    pub async fn mesh(&self) -> Option<MeshView> {
        self.link.as_ref()?.view(&self.config()).await
    }

    /// Hands in an observation without waiting. Memory stays bounded: a full queue drops it.
    ///
    /// # Errors
    /// The queue is full, or the arbiter stops.
    pub fn observe(&self, seen: Seen) -> Result<(), Overloaded> {
        self.inputs.try_send(Input::Seen(seen)).map_err(|_| Overloaded)
    }

    /// Carries out a command.
    ///
    /// # Errors
    /// Why it was refused.
    pub async fn command(&self, by: Operator, command: Command) -> Result<CommandReply, CommandError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || CommandError::new(CommandErrorCode::WrongState, "the arbiter is stopping");
        self.inputs.send(Input::Command { by, command, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Everything, in brief. `None` while stopping.
    pub async fn status(&self) -> Option<Status> {
        let (reply, answer) = oneshot::channel();
        self.inputs.send(Input::Query(Query::Status(reply))).await.ok()?;
        answer.await.ok()
    }

    /// The rules of one cluster, explained. `None`: no such cluster.
    pub async fn why(&self, cluster: ClusterName) -> Option<Why> {
        let (reply, answer) = oneshot::channel();
        self.inputs.send(Input::Query(Query::Why(cluster, reply))).await.ok()?;
        answer.await.ok()?
    }

    /// The guards and candidates of one cluster. `None`: no such cluster.
    pub async fn why_not(&self, cluster: ClusterName) -> Option<WhyNot> {
        let (reply, answer) = oneshot::channel();
        self.inputs.send(Input::Query(Query::WhyNot(cluster, reply))).await.ok()?;
        answer.await.ok()?
    }

    /// The signals of one cluster, stream by stream. `None`: no such cluster.
    pub async fn signals(&self, cluster: ClusterName) -> Option<Vec<SignalStatus>> {
        let (reply, answer) = oneshot::channel();
        self.inputs.send(Input::Query(Query::Signals(cluster, reply))).await.ok()?;
        answer.await.ok()?
    }

    /// Loads the file again; a bad one changes nothing.
    ///
    /// # Errors
    /// The rendered mistakes of the file.
    pub async fn reload(&self) -> Result<String, String> {
        let (reply, answer) = oneshot::channel();
        let stopped = || "the arbiter is stopping".to_owned();
        self.inputs.send(Input::Reload(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Whom to follow in one cluster, now and whenever it changes. `None`: no such cluster.
    #[must_use]
    pub fn primary(&self, cluster: &ClusterName) -> Option<watch::Receiver<PrimaryView>> {
        self.primaries.load().get(cluster).cloned()
    }

    /// The notices from now on.
    #[must_use]
    pub fn notices(&self) -> broadcast::Receiver<Arc<TimedNotice>> {
        self.notices.subscribe()
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The store, for reading incidents.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }
}
