//! The arbiter process: the driver that owns the engine, the journal, and the effects.
//!
//! [`run`] is the whole life of it: read the file, open the store, take up what the last life left, listen, watch,
//! judge, act. Everything that happens reaches the driver's one queue through [`handle::Handle`].

mod closed;
mod crash;
pub mod doctor;
mod driver;
pub mod handle;
pub mod hands;
mod journal;
pub mod mesh;
pub mod outbox;
pub mod rehearsal;
mod reports;
pub mod several;
pub mod signals;
mod tally;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{broadcast, mpsc, oneshot, watch},
};

use self::{
    closed::Closed,
    driver::{Driver, check_fences, check_store, frozen_hands, publish_all, trim_store, write_records},
    handle::Handle,
    hands::AllHands,
    journal::Journal,
    outbox::Outbox,
    rehearsal::Rehearsals,
    several::Several,
    signals::canary::Receipts,
    tally::Tallies,
};
use crate::{
    api,
    broker::Broker,
    config::{self, Config},
    engine::Engine,
    journal::{Known, Life},
    model::{
        ClusterName, NodeName,
        record::{ClusterState, Recovered},
        time::human,
    },
    report,
    store::{
        Store, StoreError,
        sqlite::{Bounds, SqliteStore},
    },
    sys::clock,
    telemetry::metrics::Metrics,
};

/// Observations that may wait for the driver. Beyond it they are dropped and counted: memory stays bounded.
const QUEUE: usize = 65_536;
/// Notices that a slow listener may be behind before it misses some.
const NOTICES: usize = 1_024;

/// What `systemctl status` shows while all is as it should be.
const WATCHING: &str = "watching";

/// The arbiter could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file has mistakes.
    #[error("{0}")]
    Config(String),
    /// The arbiter cannot take part in the mesh.
    #[error(transparent)]
    Mesh(#[from] mesh::MeshError),
    /// Something in the file cannot work.
    #[error("{0}")]
    Build(String),
    /// The store cannot be used.
    #[error("the store {path} cannot be used: {source}")]
    Store {
        /// The file.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// The interfaces cannot listen.
    #[error(transparent)]
    Api(#[from] api::StartError),
    /// A signal cannot be waited for.
    #[error("signals of the operating system cannot be waited for: {0}")]
    Signals(#[source] std::io::Error),
}

/// Runs the arbiter until it is told to stop by SIGTERM or SIGINT. SIGHUP loads the file anew. `instance`: its name among
/// several arbiters that share a store.
///
/// # Errors
/// Why it could not start.
pub async fn run(path: &Path, instance: Option<&str>) -> Result<(), StartError> {
    let mut config = config::load(path).map_err(|mistakes| StartError::Config(mistakes.to_string()))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    several::name_instance(&mut config, instance)?;
    let in_mesh = mesh::start(&config)?;
    let link = in_mesh.as_ref().map(|(_, link, _)| Arc::clone(link));
    let hands = hands::build(&config, link.as_ref()).map_err(StartError::Build)?;
    let (store, several, recovered) = take_up(&config).await?;
    for open in &recovered.open {
        tracing::warn!(incident = %open.incident.id, cluster = %open.incident.cluster, "taking up an open incident");
    }

    let metrics = Arc::new(Metrics::new());
    let (to_driver, inputs) = mpsc::channel(QUEUE);
    let (notices, _) = broadcast::channel(NOTICES);
    let (to_inner, inner) = mpsc::unbounded_channel();
    let (to_store, records) = mpsc::unbounded_channel();
    let config = Arc::new(ArcSwap::from_pointee(config));
    let handle = Handle {
        inputs: to_driver,
        notices: notices.clone(),
        primaries: Arc::new(ArcSwap::from_pointee(BTreeMap::new())),
        config: Arc::clone(&config),
        store: Arc::clone(&store),
        rehearsals: Rehearsals::default(),
        link: link.clone(),
        file: Some(path.into()),
    };

    let mut party = None;
    if let Some((thread, link, mut events)) = in_mesh {
        party = Some(thread);
        let handle = handle.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                link.take(&handle, event);
            }
        });
    }

    let frozen = frozen_hands(&recovered.open, &hands);
    let anchor = clock::anchor();
    let seed = clock::now().0 ^ u64::from(std::process::id()).rotate_left(32) ^ anchor.unix_ms.unsigned_abs();
    let policy = config.load().policy.clone();
    let life = Life {
        arbiter: policy.arbiter.name.clone(),
        policy: policy.hash.clone(),
        boot_id: crate::sys::process::boot_id(),
        began: clock::now(),
        anchor,
        clusters: recovered.clusters.iter().map(known).collect(),
    };
    let journal = Journal::start(&config.load().arbiter.journal, life)
        .map_err(|e| StartError::Build(format!("the thread of the journal cannot be started: {e}")))?;
    let engine = Engine::new(clock::now(), anchor, seed, policy, recovered);
    let mut primaries = BTreeMap::new();
    publish_all(&engine, &mut primaries, &handle);

    let mut reporters = Vec::new();
    for kind in &config.load().reports {
        reporters.push(kind.build().map_err(StartError::Build)?);
    }
    let outbox = Outbox::start(Arc::clone(&store), reporters);

    let receipts = Receipts::default();
    let (stop_api, api_stopped) = oneshot::channel::<()>();
    let options =
        api::Options { markdown: Some(|incident, _| report::render::markdown(incident)), ..Default::default() };
    let api_shutdown = async move { drop(api_stopped.await) };
    let api = api::serve_with(
        options,
        handle.clone(),
        Arc::new(ApiReceipts(receipts.clone())),
        Arc::clone(&metrics),
        api_shutdown,
    )
    .await?;
    if let Some(http) = api.http {
        tracing::info!(%http, "listening");
    }

    let watch = Arc::new(Mutex::new(Watching::start(&handle, &hands, &receipts, &to_inner)));
    let shared = several.as_ref().map(Several::store);
    let (views, views_seen) = watch::channel(Vec::new());
    if let Some(several) = &several {
        tokio::spawn(several.others().run(handle.clone(), views_seen));
    }
    tokio::spawn(write_records(Arc::clone(&store), shared, records, to_inner.clone(), Arc::clone(&metrics)));
    tokio::spawn(check_store(Arc::clone(&store), to_inner.clone()));
    tokio::spawn(trim_store(Arc::clone(&store)));

    let (stop, stopped) = oneshot::channel();
    let (to_hangup, hangup) = mpsc::channel(1);
    let on_reloaded = {
        let (handle, receipts, to_inner) = (handle.clone(), receipts.clone(), to_inner.clone());
        move |hands: &AllHands| {
            // The old probes end before the new ones begin.
            let mut watch = watch.lock().unwrap_or_else(PoisonError::into_inner);
            watch.stop();
            *watch = Watching::start(&handle, hands, &receipts, &to_inner);
        }
    };
    let closed = Closed::new(Arc::clone(&store), to_inner.clone());
    let driver = Driver {
        engine,
        config,
        handle: handle.clone(),
        inputs,
        inner,
        to_inner,
        to_store,
        hands,
        frozen,
        primaries,
        notices,
        journal,
        tallies: Tallies::default(),
        outbox,
        closed,
        replies: HashMap::new(),
        next_reply: 0,
        last_turn: clock::now(),
        several,
        looks: HashMap::new(),
        views,
        link,
        metrics: Arc::clone(&metrics),
        on_tick: Box::new(|| drop(sd_notify::notify(&[NotifyState::Watchdog]))),
        reload: {
            let path = path.to_owned();
            Box::new(move || {
                drop(sd_notify::notify(&reloading()));
                config::load(&path).map_err(|mistakes| mistakes.to_string())
            })
        },
        on_reloaded: Box::new(on_reloaded),
        // Whoever waits for the reload asks us next: so this is told once the new policy is in force. Systemd knows no
        // reload that failed; the status line says it.
        on_loaded: Box::new(|is_new| {
            let text = if is_new { WATCHING } else { "watching; the file has mistakes, so the old policy stays" };
            drop(sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(text)]));
        }),
    };
    tokio::spawn(wait_for_signals(stop, to_hangup).map_err(StartError::Signals)?);
    drop(sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(WATCHING)]));
    driver.run(stopped, hangup).await;
    // Members live on the grants of the others.
    if let Some(thread) = party {
        thread.stop();
    }
    drop(sd_notify::notify(&[NotifyState::Stopping]));
    drop(stop_api);
    drop(tokio::time::timeout(std::time::Duration::from_secs(2), api.finished()).await);
    Ok(())
}

/// The file, judged as `run` would before it touches anything but the store's lock.
///
/// # Errors
/// What would keep the arbiter from starting.
pub async fn check(path: &Path, instance: Option<&str>) -> Result<Config, StartError> {
    let mut config = config::load(path).map_err(|mistakes| StartError::Config(mistakes.to_string()))?;
    several::name_instance(&mut config, instance)?;
    hands::build(&config, None).map_err(StartError::Build)?;
    for kind in &config.reports {
        kind.build().map_err(StartError::Build)?;
    }
    if let Some(shared) = &config.arbiter.shared {
        several::refuse_a_guarded_store(&config, shared).await?;
        drop(several::registry(shared)?);
    }
    drop(open_store(&config).await?);
    Ok(config)
}

/// The store, and what it holds. One of several reads that once it knows whether it leads.
async fn take_up(config: &Config) -> Result<(Arc<dyn Store>, Option<Several>, Recovered), StartError> {
    if let Some(shared) = &config.arbiter.shared {
        let several = Several::start(config, shared, Bounds::default()).await?;
        return Ok((several.store(), Some(several), Recovered::default()));
    }
    let store = open_store(config).await?;
    let recovered = store.recover().await;
    let recovered = recovered.map_err(|source| StartError::Store { path: config.arbiter.store.clone(), source })?;
    Ok((store, None, recovered))
}

/// What the journal says of a cluster at the beginning of a life.
fn known(state: &ClusterState) -> Known {
    Known {
        cluster: state.cluster.clone(),
        primary: state.primary.clone(),
        epoch: state.primary_epoch,
        heard: state.heard.clone(),
    }
}

async fn open_store(config: &Config) -> Result<Arc<dyn Store>, StartError> {
    let arbiter = &config.arbiter;
    match SqliteStore::open(&arbiter.store, Bounds::default()).await {
        Ok(store) => Ok(Arc::new(store)),
        Err(source) => Err(StartError::Store { path: arbiter.store.clone(), source }),
    }
}

/// The signal sources and the fence checks of one configuration.
struct Watching {
    signals: Option<signals::Running>,
    fences: tokio::task::JoinHandle<()>,
}

impl Watching {
    fn start(
        handle: &Handle,
        hands: &AllHands,
        receipts: &Receipts,
        to_inner: &mpsc::UnboundedSender<driver::Inner>,
    ) -> Self {
        let brokers: BTreeMap<ClusterName, Arc<dyn Broker>> =
            hands.iter().filter_map(|(name, hands)| Some((name.clone(), hands.broker()?))).collect();
        Self {
            signals: Some(signals::start(handle, brokers, receipts)),
            fences: tokio::spawn(check_fences(handle.clone(), hands.clone(), to_inner.clone())),
        }
    }

    fn stop(&mut self) {
        self.signals = None;
        self.fences.abort();
    }
}

struct ApiReceipts(Receipts);

impl api::CanaryReceipts for ApiReceipts {
    fn received(&self, cluster: &ClusterName, node: &NodeName, id: &str) {
        self.0.received(cluster, node, id);
    }

    fn node_reported(&self, cluster: &ClusterName, node: &NodeName) {
        self.0.node_reported(cluster, node);
    }
}

/// `RELOADING=1` with the monotonic moment that systemd wants to tell reloads apart.
fn reloading() -> Vec<NotifyState<'static>> {
    match NotifyState::monotonic_usec_now() {
        Ok(moment) => vec![NotifyState::Reloading, moment],
        Err(_) => vec![NotifyState::Reloading],
    }
}

fn wait_for_signals(
    stop: oneshot::Sender<()>,
    hangup: mpsc::Sender<()>,
) -> Result<impl Future<Output = ()>, std::io::Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    let started = clock::now();
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                // A reload that is asked for while one is waiting is the same reload.
                _ = hup.recv() => drop(hangup.try_send(())),
            }
        }
        tracing::info!("stopping after {}", human(clock::now().since(started)));
        let _ = stop.send(());
    })
}
