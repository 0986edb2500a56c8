//! An arbiter without its sockets, its store and its clock: the real interface before the real engine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use axum::{body::Body, http::Request, response::Response};
use coroner::{
    api::{CanaryReceipts, Offline, Options, beat::ECHO_LEN},
    arbiter::handle::{Handle, Input, Query, Seen},
    config::{Config, Environment, load_text},
    engine::Engine,
    model::{
        ActError, ClusterName, CommandError, CommandReply, Effect, Epoch, Event, Incident, IncidentId, MemberName,
        NodeName, Observation, Operator, Record, Report, StepResult, Time, WallAnchor,
        command::CommandErrorCode,
        record::{ClusterState, LogEntry, Recovered},
        status::{IncidentBrief, PrimaryView},
    },
    store::{Store, StoreError},
    telemetry::Metrics,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{broadcast, mpsc, oneshot, watch},
};

/// Who may come in, with the names under which each may report.
pub(super) const IDENTITIES: [(&str, &[&str]); 6] = [
    ("redis-a", &["redis-a"]),
    ("redis-b", &["redis-b"]),
    ("nodes", &["node-1", "node-2", "node-3"]),
    ("alertmanager", &["pager"]),
    ("grafana", &[]),
    ("alice", &[]),
];

/// The token of an identity of the house.
pub(super) fn token_of(identity: &str) -> String {
    let variable = match identity {
        "alertmanager" => "ALERTS".to_owned(),
        "grafana" => "VIEW".to_owned(),
        name => name.to_uppercase().replace('-', "_"),
    };
    format!("the-token-of-{variable}")
}

struct Tokens;

impl Environment for Tokens {
    fn var(&self, name: &str) -> Option<String> {
        Some(format!("the-token-of-{name}"))
    }
    fn read(&self, path: &Path) -> Result<String, String> {
        Err(format!("{} is not read here", path.display()))
    }
    fn credentials_directory(&self) -> Option<PathBuf> {
        None
    }
}

/// The house's own configuration.
pub(super) static CONFIG: LazyLock<Arc<Config>> = LazyLock::new(|| {
    let config = load_text(include_str!("house.yaml"), "house.yaml", &Tokens);
    Arc::new(config.unwrap_or_else(|mistakes| panic!("{mistakes}")))
});

static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(|| Arc::new(Metrics::new()));

/// When every house begins.
pub(super) const BEGIN: Time = Time(1_000_000_000_000);
pub(super) const ANCHOR: WallAnchor = WallAnchor { boot: BEGIN, unix_ms: 1_700_000_000_000 };

#[derive(Default)]
struct Receipts(Mutex<Vec<(NodeName, String)>>);

impl CanaryReceipts for Receipts {
    fn received(&self, _: &ClusterName, node: &NodeName, id: &str) {
        self.0.lock().unwrap().push((node.clone(), id.to_owned()));
    }
    fn node_reported(&self, _: &ClusterName, _: &NodeName) {}
}

/// The interface, and the engine behind it.
pub(super) struct House {
    offline: Offline,
    court: Court,
    receipts: Arc<Receipts>,
    runtime: Runtime,
}

/// What stands behind the queue.
struct Court {
    inputs: mpsc::Receiver<Input>,
    engine: Engine,
    now: Time,
    seen: Vec<Seen>,
    commanded: Vec<Operator>,
    replies: BTreeMap<u64, oneshot::Sender<Result<CommandReply, CommandError>>>,
    next_reply: u64,
}

impl House {
    pub(super) fn new() -> Self {
        let config = &*CONFIG;
        let (to_court, inputs) = mpsc::channel(2_048);
        let view = PrimaryView {
            cluster: "orders".into(),
            epoch: Epoch(3),
            primary: Some("redis-a".into()),
            address: Some("10.0.0.11:6379".into()),
        };
        let primaries = BTreeMap::from([(ClusterName::from("orders"), watch::channel(view).1)]);
        let handle = Handle::new(
            to_court,
            broadcast::channel(4).0,
            Arc::new(ArcSwap::from_pointee(primaries)),
            Arc::new(ArcSwap::new(Arc::clone(config))),
            Arc::new(NoStore),
        );
        let receipts = Arc::new(Receipts::default());
        let told: Arc<dyn CanaryReceipts> = Arc::clone(&receipts) as _;
        let engine = Engine::new(BEGIN, ANCHOR, 1, config.policy.clone(), Recovered::default());
        Self {
            offline: Offline::new(Options::default(), handle, told, Arc::clone(&METRICS)),
            court: Court {
                inputs,
                engine,
                now: BEGIN,
                seen: Vec::new(),
                commanded: Vec::new(),
                replies: BTreeMap::new(),
                next_reply: 0,
            },
            receipts,
            runtime: Builder::new_current_thread().enable_time().build().expect("a runtime"),
        }
    }

    /// One request, answered by the real routes and the real engine.
    pub(super) fn answer(&mut self, request: Request<Body>) -> (Response<()>, Vec<u8>) {
        let Self { offline, court, runtime, .. } = self;
        runtime.block_on(async {
            let mut answer = std::pin::pin!(offline.answer(request));
            let response = loop {
                tokio::select! {
                    biased;
                    response = &mut answer => break response,
                    Some(input) = court.inputs.recv() => court.take(input),
                }
            };
            while let Ok(input) = court.inputs.try_recv() {
                court.take(input);
            }
            let (parts, body) = response.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.expect("an answer in memory");
            (Response::from_parts(parts, ()), body.to_vec())
        })
    }

    /// One datagram; its echo.
    pub(super) fn datagram(&mut self, datagram: &[u8]) -> Option<[u8; ECHO_LEN]> {
        let echo = self.offline.take(datagram);
        while let Ok(input) = self.court.inputs.try_recv() {
            self.court.take(input);
        }
        echo
    }

    /// What was told since this was last asked.
    pub(super) fn take_seen(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.court.seen)
    }

    /// Who commanded since this was last asked.
    pub(super) fn take_commanded(&mut self) -> Vec<Operator> {
        std::mem::take(&mut self.court.commanded)
    }

    /// Which canaries were received since this was last asked.
    pub(super) fn take_receipts(&mut self) -> Vec<(NodeName, String)> {
        std::mem::take(&mut self.receipts.0.lock().unwrap())
    }

    /// Time passes for the engine.
    pub(super) fn pass(&mut self, time: Duration) {
        self.court.pass(time);
    }
}

impl Court {
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        // What is due between now and then comes in its turn; the bound only keeps an engine that spins from never ending.
        for _ in 0..200 {
            match self.engine.poll_timeout() {
                Some(at) if at <= until => {
                    self.now = self.now.max(at);
                    self.engine.handle_timeout(self.now);
                    self.carry_out();
                }
                _ => break,
            }
        }
        self.now = until;
        self.engine.handle_timeout(self.now);
        self.carry_out();
    }

    fn take(&mut self, input: Input) {
        let now = self.now;
        match input {
            Input::Seen(seen) => {
                self.seen.push(seen.clone());
                let Seen { cluster, signal, observer, subject, outcome } = seen;
                let observation = Observation { at: now, cluster, signal, observer, subject, outcome };
                self.engine.handle(now, Event::Observed(observation));
            }
            Input::Command { by, command, reply } => {
                self.commanded.push(by.clone());
                self.next_reply += 1;
                self.replies.insert(self.next_reply, reply);
                self.engine.handle(now, Event::Commanded { by, command, reply_to: self.next_reply });
            }
            Input::Query(query) => match query {
                Query::Status(reply) => drop(reply.send(self.engine.status(now))),
                Query::Why(cluster, reply) => drop(reply.send(self.engine.why(now, &cluster))),
                Query::WhyNot(cluster, reply) => drop(reply.send(self.engine.why_not(now, &cluster))),
                Query::Signals(cluster, reply) => drop(reply.send(self.engine.signals(now, &cluster))),
            },
            Input::Rehearse { reply, .. } => {
                let _ = reply.send(Err(CommandError::new(CommandErrorCode::NotFound, "nothing is rehearsed here")));
            }
            Input::Reload(reply) => drop(reply.send(Err("nothing is loaded here".into()))),
            Input::Peer { .. } | Input::Notice(_) => {}
        }
        self.carry_out();
    }

    /// A store that takes everything at once, and executors that provably do nothing.
    fn carry_out(&mut self) {
        let mut count = 0;
        while let Some(effect) = self.engine.poll_effect() {
            count += 1;
            assert!(count < 10_000, "the engine has no end of effects at one moment");
            let event = match effect {
                Effect::Persist { id, .. } => Event::Persisted(id),
                Effect::Run(run) => {
                    let error = ActError::nothing_done("act", "nothing is done here");
                    Event::StepEnded { token: run.token, result: StepResult::Failed(error) }
                }
                Effect::Reply { to, result } => {
                    if let Some(reply) = self.replies.remove(&to) {
                        let _ = reply.send(result);
                    }
                    continue;
                }
                Effect::Tell(_) => continue,
            };
            self.engine.handle(self.now, event);
        }
    }
}

/// Whether the identity may report under that name.
pub(super) fn may_report_as(identity: &str, name: &str) -> bool {
    IDENTITIES.iter().any(|(known, names)| *known == identity && names.contains(&name))
}

/// Whether the house has that member.
pub(super) fn is_member(name: &MemberName) -> bool {
    CONFIG.policy.clusters.values().any(|cluster| cluster.member(name).is_some())
}

struct NoStore;

#[async_trait]
impl Store for NoStore {
    async fn recover(&self) -> Result<Recovered, StoreError> {
        Ok(Recovered::default())
    }
    async fn persist(&self, _: &[Record]) -> Result<(), StoreError> {
        Ok(())
    }
    async fn cluster(&self, _: &ClusterName) -> Result<Option<ClusterState>, StoreError> {
        Ok(None)
    }
    async fn incidents(&self, _: Option<&ClusterName>, _: u32) -> Result<Vec<IncidentBrief>, StoreError> {
        Ok(Vec::new())
    }
    async fn incident(&self, _: &str) -> Result<Option<(Incident, Vec<LogEntry>)>, StoreError> {
        Ok(None)
    }
    async fn spool(&self, _: &str, _: &Report) -> Result<(), StoreError> {
        Ok(())
    }
    async fn spooled(&self, _: &str) -> Result<Vec<(i64, Report)>, StoreError> {
        Ok(Vec::new())
    }
    async fn unspool(&self, _: i64) -> Result<(), StoreError> {
        Ok(())
    }
    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }
    async fn trim(&self) -> Result<(), StoreError> {
        Ok(())
    }
    async fn replace_incident(&self, _: &IncidentId, _: &Incident) -> Result<(), StoreError> {
        Ok(())
    }
}
