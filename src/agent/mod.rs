//! The process beside a broker, or beside a node.
//!
//! Next to a broker it watches what the kernel knows of it ([`evidence`]), holds its lease and its gate, and carries out
//! what only its host can. Next to a node it tells what arrives there, and keeps a fenced primary's traffic out.
//!
//! [`run`] is the whole life of it. The thread of leases ([`driver`]) has the socket, the timer, the evidence and the gates
//! to itself ([`state`]); everything slower, orders ([`acts`]), the broker's answers ([`progress`]), nodes ([`observe`]),
//! local questions ([`socket`]), runs on the main thread. What the host has is behind seams ([`real`]).

pub mod acts;
pub mod driver;
pub mod durable;
pub mod evidence;
pub mod gate;
pub mod host;
pub mod keep;
pub mod observe;
pub mod patience;
pub mod preserve;
pub mod progress;
pub mod real;
pub mod realtime;
pub mod setup;
pub mod socket;
pub mod spec;
pub mod state;

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

use self::{
    acts::{Acts, GuardedActs},
    driver::{Event, Options, PartyThread, draw_life},
    durable::DurableFile,
    keep::Keeper,
    observe::{Node, NodeHandle},
    real::{RealDrops, RealGate, RealHost, RealWatching},
    spec::Guard,
    state::{Guarded, HostState, News, StateHandle, Told},
};
use crate::{
    broker::Broker,
    config::{self, AgentEnvironment, Config, MeshConfig},
    mesh::{
        keys::PrivateKey,
        party::{Output, Party},
    },
    model::{ClusterName, MemberName, PartyName, Target},
    sys::clock,
};

/// The thread of leases answers within this, or systemd's watchdog is not fed.
const ALIVE_WITHIN: Duration = Duration::from_secs(2);
/// A drill that proved nothing is tried again after this, and after twice as long each time: a host that is busy starting
/// is too slow for one.
const DRILL_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// At the latest after this.
const DRILL_AGAIN_WITHIN: Duration = Duration::from_secs(60);

/// The agent could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The file has mistakes.
    #[error("{0}")]
    Config(String),
    /// The file does not say enough.
    #[error(transparent)]
    Setup(#[from] setup::SetupError),
    /// Something in the file cannot work.
    #[error("{0}")]
    Build(String),
    /// What has to survive a restart cannot be used.
    #[error(transparent)]
    Durable(#[from] durable::DurableError),
    /// The gate cannot be put up. Without it no lease can be kept, so the agent does not start.
    #[error("the gate of {member} cannot be put up: {source}")]
    Gate {
        /// Whose.
        member: MemberName,
        /// Why.
        source: gate::GateError,
    },
    /// The thread of leases cannot be started.
    #[error(transparent)]
    Thread(#[from] driver::ThreadError),
    /// The local socket cannot be made.
    #[error("{0}")]
    Socket(String),
    /// Signals cannot be waited for.
    #[error("signals of the operating system cannot be waited for: {0}")]
    Signals(#[source] io::Error),
    /// The thread of leases ended by itself.
    #[error("the thread of leases ended, which is a fault of our own; gates shut when their time runs out")]
    Ended,
}

/// Runs the agent until it is told to stop by SIGTERM or SIGINT. Gates are then left as they are: what stands open runs out
/// within the lease, and an agent that is back before that renews it.
///
/// # Errors
/// Why it could not start, or had to end.
pub async fn run(path: &Path, name: Option<&str>) -> Result<(), AgentError> {
    let config = load(path)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let mesh = config.mesh.as_ref().ok_or(setup::SetupError::NoMesh)?;
    let me = setup::who_am_i(mesh, name)?;
    let keys = own_key(mesh, &me)?;
    let life = draw_life()?;
    let setup = setup::setup(&config, &me, life)?;
    let address = setup
        .parties
        .get(&me)
        .map(|own| own.address)
        .ok_or_else(|| AgentError::Build(format!("{me} is not among the file's parties")))?;
    // One agent for each name: the second one ends here, before it touches anything.
    let socket = socket::path_of(&mesh.socket, &me);
    let listener = socket::bind(&socket).await.map_err(AgentError::Socket)?;
    let durable = DurableFile::new(&mesh.state, &me);
    let kept = durable.load()?;

    // By this the gate knows the agent's own looks at its broker.
    crate::sys::net::mark_connections(gate::OWN_MARK);
    let brokers = brokers(&config)?;
    let mut hands = build_hands(&config, mesh, &me, &brokers)?;
    let guarded = build_guarded(&config, mesh, &me, &hands)?;
    let (told, mut events) = mpsc::unbounded_channel();
    let news = {
        let told = told.clone();
        Box::new(move |news| drop(told.send(Happened::News(news))))
    };
    let (state, sender) = HostState::new(guarded, news);
    let reports = state.reports();
    let party = Party::new(clock::moment(), setup, keys, kept);
    let options = Options { address, is_real_time: mesh.is_real_time };
    let sink = Box::new(move |event| drop(told.send(Happened::Event(event))));
    let thread = PartyThread::start(options, party, state, durable, sink)?;
    let state = sender.with(thread.handle());

    for (cluster, hands) in &hands {
        if let (Some(broker), Some(guard)) = (&hands.broker, guard_of(&config, cluster, &hands.target.member)) {
            let (every, timeout) = (guard.progress_every, guard.progress_timeout);
            tokio::spawn(progress::ask(Arc::clone(broker), hands.target.clone(), every, timeout, state.clone()));
        }
    }
    if !hands.is_empty() {
        tokio::spawn(progress::show_pulse(state.clone()));
    }
    let nodes = start_nodes(&config, mesh, &me, &brokers, &state)?;
    let members = config.clusters.iter().flat_map(|(cluster, working)| {
        working.members.iter().map(|target| ((cluster.clone(), target.member.clone()), target.clone()))
    });
    let acts = Arc::new(Acts {
        guarded: std::mem::take(&mut hands),
        nodes,
        members: members.collect(),
        party: thread.handle(),
        reports,
    });
    for cluster in acts.guarded.keys().cloned() {
        tokio::spawn(prepare(Arc::clone(&acts), cluster, state.clone()));
    }
    tokio::spawn(socket::serve(listener, me.clone(), Arc::clone(&acts)));
    tokio::spawn(feed_watchdog(thread.handle()));

    let mut terminate = stop_signal(SignalKind::terminate())?;
    let mut interrupt = stop_signal(SignalKind::interrupt())?;
    // Not heeded, and no reason to die of either: that would cost a lease.
    let mut hangup = stop_signal(SignalKind::hangup())?;
    tracing::info!(party = %me, %address, guards = acts.guarded.len(), nodes = acts.nodes.len(), "the agent watches");
    drop(sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("watching")]));
    let result = loop {
        let happened = tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hangup.recv() => {
                tracing::warn!("SIGHUP is not heeded: restart the agent to load a changed file");
                continue;
            }
            Some(happened) = events.recv() => happened,
        };
        match happened {
            Happened::Event(Event::Ended) => break Err(AgentError::Ended),
            Happened::Event(event) => heed(event, &acts),
            Happened::News(news) => heed_news(news, &acts, &config),
        }
    };
    drop(sd_notify::notify(&[NotifyState::Stopping]));
    tracing::info!("stopping; gates stay as they are, and shut when the time in them runs out");
    // Waits for the thread, which is in the middle of a turn at most.
    thread.stop();
    let _ = std::fs::remove_file(&socket);
    result
}

/// What the main thread is told.
enum Happened {
    Event(Event),
    News(News),
}

/// The file, as an agent reads it: secrets that only an arbiter needs may be missing.
///
/// # Errors
/// All its mistakes.
pub fn load(path: &Path) -> Result<Config, AgentError> {
    config::load_with(path, &AgentEnvironment).map_err(|mistakes| AgentError::Config(mistakes.to_string()))
}

fn stop_signal(kind: SignalKind) -> Result<Signal, AgentError> {
    signal(kind).map_err(AgentError::Signals)
}

fn own_key(mesh: &MeshConfig, me: &PartyName) -> Result<PrivateKey, AgentError> {
    let text = mesh.key.as_ref().ok_or_else(|| {
        AgentError::Build("the file has no `mesh.key` that this host can read; `coroner key` makes one".into())
    })?;
    let key = PrivateKey::parse(text.expose()).map_err(|error| AgentError::Build(format!("mesh.key: {error}")))?;
    let public = mesh.parties.get(me).map(|party| party.public_key);
    if public != Some(key.public().0) {
        let text = format!(
            "mesh.key is not the private half of the public key that the file has for {me}: is this the key of another \
             host? Nobody would believe a word"
        );
        return Err(AgentError::Build(text));
    }
    Ok(key)
}

fn brokers(config: &Config) -> Result<BTreeMap<ClusterName, Arc<dyn Broker>>, AgentError> {
    let mut built = BTreeMap::new();
    for (cluster, working) in &config.clusters {
        if let Some(broker) = &working.broker {
            let broker: Arc<dyn Broker> = broker.build().map_err(AgentError::Build)?.into();
            built.insert(cluster.clone(), broker);
        }
    }
    Ok(built)
}

fn guard_of<'a>(config: &'a Config, cluster: &ClusterName, member: &MemberName) -> Option<&'a Guard> {
    config.clusters.get(cluster)?.guards.get(member)
}

fn target_of(config: &Config, cluster: &ClusterName, member: &MemberName) -> Option<Target> {
    config.clusters.get(cluster)?.members.iter().find(|target| target.member == *member).cloned()
}

/// What this agent's acts need, for each member that it guards.
fn build_hands(
    config: &Config,
    mesh: &MeshConfig,
    me: &PartyName,
    brokers: &BTreeMap<ClusterName, Arc<dyn Broker>>,
) -> Result<BTreeMap<ClusterName, GuardedActs>, AgentError> {
    let mut hands = BTreeMap::new();
    for (cluster, member) in setup::guarded(mesh, me) {
        let (Some(guard), Some(target)) = (guard_of(config, &cluster, &member), target_of(config, &cluster, &member))
        else {
            continue;
        };
        let host = host::Host::new(&cluster, &member, &guard.broker).map_err(AgentError::Build)?;
        let lease = config.policy.clusters.get(&cluster).and_then(|policy| policy.failover.lease.as_ref());
        let enforced_within = lease.map(|lease| lease.enforced_within);
        let preserved = mesh.state.join("preserved");
        let kept = Keeper::new(guard.keep.clone(), mesh.state.join("kept"));
        let real = RealHost::new(host, guard.gate.as_ref(), enforced_within, preserved, kept)
            .map_err(|source| AgentError::Gate { member: member.clone(), source })?;
        let mut fences = BTreeMap::new();
        for (name, fence) in &guard.fences {
            let built = fence.build(None, None);
            fences.insert(name.clone(), built.map_err(|why| AgentError::Build(format!("the fence {name}: {why}")))?);
        }
        let own = GuardedActs {
            target,
            broker: brokers.get(&cluster).cloned(),
            gate_ports: real.port_ids(),
            host: Arc::new(real),
            has_gate: guard.gate.is_some(),
            is_gate_proven: AtomicBool::new(false),
            stopping: tokio::sync::Mutex::new(()),
            fences,
        };
        hands.insert(cluster, own);
    }
    Ok(hands)
}

/// What the thread of leases needs, for each member that it guards.
fn build_guarded(
    config: &Config,
    mesh: &MeshConfig,
    me: &PartyName,
    hands: &BTreeMap<ClusterName, GuardedActs>,
) -> Result<BTreeMap<ClusterName, Guarded>, AgentError> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut guarded = BTreeMap::new();
    for (cluster, member) in setup::guarded(mesh, me) {
        let (Some(guard), Some(hands)) = (guard_of(config, &cluster, &member), hands.get(&cluster)) else { continue };
        let lease = config.policy.clusters.get(&cluster).and_then(|policy| policy.failover.lease.clone());
        let gate = match &guard.gate {
            None => None,
            Some(spec) => {
                let failed = |source| AgentError::Gate { member: member.clone(), source };
                let gate = RealGate::install(spec, &hands.gate_ports).map_err(failed)?;
                Some(match (&guard.watchdog, &lease) {
                    (Some(device), Some(lease)) => gate.with_watchdog(device.clone(), lease.clone()),
                    _ => gate,
                })
            }
        };
        let watcher = evidence::Watcher::new(guard, boot_id.trim()).map_err(AgentError::Build)?;
        for source in watcher.sources() {
            tracing::info!(%cluster, %member, source = source.name, is_used = source.is_used, detail = source.detail, "evidence");
        }
        // Without a lease a gate is open for good or shut for good; an hour's thought is too long all the same.
        let gate_restored_within = lease.map_or(Duration::from_secs(1), |lease| lease.length / 4);
        let own = Guarded {
            member,
            watching: Box::new(RealWatching::new(watcher)),
            gate: gate.map(|gate| Box::new(gate) as Box<dyn state::GateKeeper>),
            progress_timeout: guard.progress_timeout,
            gate_restored_within,
        };
        guarded.insert(cluster, own);
    }
    Ok(guarded)
}

fn start_nodes(
    config: &Config,
    mesh: &MeshConfig,
    me: &PartyName,
    brokers: &BTreeMap<ClusterName, Arc<dyn Broker>>,
    state: &StateHandle,
) -> Result<BTreeMap<ClusterName, NodeHandle>, AgentError> {
    let mut nodes = BTreeMap::new();
    for (cluster, name) in setup::observed(mesh, me) {
        let Some(working) = config.clusters.get(&cluster) else { continue };
        let Some(observe) = working.observes.get(&name).cloned() else { continue };
        let initial = config.policy.clusters.get(&cluster).and_then(|policy| policy.initial_primary.as_ref());
        let first =
            initial.and_then(|member| target_of(config, &cluster, member)).or_else(|| working.members.first().cloned());
        let drops = if observe.enforce {
            let failed = |error| AgentError::Build(format!("the node {name} cannot drop traffic: {error}"));
            let drops = RealDrops::install(&format!("{cluster}_{name}")).map_err(failed)?;
            Some(Box::new(drops) as Box<dyn observe::Drops>)
        } else {
            None
        };
        let whole_host = observe.whole_host;
        let mut members = setup::broker_sockets(config, &cluster);
        for socket in members.values_mut().flatten().filter(|_| whole_host) {
            socket.set_port(0);
        }
        let node = Node {
            cluster: cluster.clone(),
            name,
            observe,
            broker: brokers.get(&cluster).cloned(),
            first,
            members,
            drops,
            state: mesh.state.clone(),
        };
        nodes.insert(cluster, observe::start(node, state.clone()).map_err(AgentError::Build)?);
    }
    Ok(nodes)
}

fn heed(event: Event, acts: &Arc<Acts>) {
    match event {
        Event::Told(Output::Ordered(order)) => {
            let acts = Arc::clone(acts);
            tokio::spawn(async move { acts.carry_out(*order).await });
        }
        Event::Told(Output::LeaseOver { cluster, why }) => {
            let acts = Arc::clone(acts);
            tokio::spawn(async move { acts.lease_over(&cluster, &why).await });
        }
        // What only arbiters are told.
        Event::Told(_) => {}
        Event::Gate { cluster, error: Some(error) } => {
            tracing::error!(%cluster, error, "the gate cannot be programmed")
        }
        Event::Gate { cluster, error: None } => tracing::info!(%cluster, "the gate can be programmed again"),
        Event::Disk { error: Some(error) } => tracing::error!(
            error,
            "what has to survive a restart cannot be written; nothing that depends on it is said until it can"
        ),
        Event::Disk { error: None } => tracing::info!("what has to survive a restart is written again"),
        Event::Trouble(text) => tracing::warn!("{text}"),
        Event::Ended => {}
    }
}

fn heed_news(news: News, acts: &Arc<Acts>, config: &Config) {
    match news {
        News::GateRestored { cluster, detail } => {
            tracing::warn!(%cluster, detail, "somebody altered the gate; it was restored");
        }
        News::GateLost { cluster, error } => {
            let member = acts.guarded.get(&cluster).map(|guarded| guarded.target.member.clone());
            let guard = member.and_then(|member| guard_of(config, &cluster, &member));
            if guard.is_some_and(|guard| guard.stop_without_gate) {
                tracing::error!(%cluster, error, "the gate was altered and cannot be restored: the broker is stopped");
                let acts = Arc::clone(acts);
                tokio::spawn(async move { acts.stop_without_gate(&cluster).await });
            } else {
                tracing::error!(%cluster, error, "the gate was altered and cannot be restored (stop_without_gate is off)");
            }
        }
    }
}

/// What is done once, at the start, beside everything else: the host is made ready for a fence, the gate is proved.
async fn prepare(acts: Arc<Acts>, cluster: ClusterName, state: StateHandle) {
    let Some(guarded) = acts.guarded.get(&cluster) else { return };
    let drill = async {
        if !guarded.has_gate {
            return;
        }
        let mut again_after = DRILL_AGAIN_AFTER;
        loop {
            let drilled = guarded.host.drill_gate().await;
            guarded.is_gate_proven.store(drilled.is_ok(), Ordering::Relaxed);
            let result = drilled.as_ref().map(drop).map_err(Clone::clone);
            state.tell(Told::Drilled { cluster: cluster.clone(), result });
            match drilled {
                Ok(detail) => return tracing::info!(%cluster, detail, "the gate is proved"),
                Err(error) => {
                    tracing::error!(%cluster, error, "the gate is not proved: it is no proof of anything yet")
                }
            }
            tokio::time::sleep(again_after).await;
            again_after = DRILL_AGAIN_WITHIN.min(again_after * 2);
        }
    };
    let ready = async {
        match guarded.host.prepare().await {
            Ok(detail) => tracing::info!(%cluster, detail, "ready to stop the broker"),
            Err(error) => tracing::warn!(%cluster, error, "stopping the broker may take longer"),
        }
    };
    tokio::join!(drill, ready);
}

/// systemd is told that we live only while the thread of leases does.
async fn feed_watchdog(party: driver::PartyHandle) {
    let Some(every) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = interval(every / 3);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Ok(Some(())) = timeout(ALIVE_WITHIN, party.look(|_| ())).await {
            drop(sd_notify::notify(&[NotifyState::Watchdog]));
        }
    }
}
