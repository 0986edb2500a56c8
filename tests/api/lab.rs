//! An arbiter's API over a decision loop that only writes down what it is told.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use coroner::{
    api::{CanaryReceipts, Options, Running, serve_with},
    arbiter::handle::{Handle, Input, Query, Seen, TimedNotice},
    config::{Access, AccessRole, ArbiterConfig, ClusterConfig, Config, JournalConfig, Source},
    model::{
        ClusterName, ClusterPolicy, CommandError, CommandReply, Epoch, Incident, IncidentId, Mode, NodeName,
        NodeTarget, Policy, Proof, Record, Report, Secret, SignalName, Time,
        command::CommandErrorCode,
        doctor::{FenceReach, FenceTestReport},
        policy::{FailoverPolicy, MemberPolicy, Rejoin, UnknownLoss},
        record::{ClusterState, LogEntry, Recovered},
        status::{ClusterStatus, IncidentBrief, PrimaryView, SignalStatus, Status},
    },
    store::{Store, StoreError},
    telemetry::Metrics,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    sync::{broadcast, mpsc, oneshot, watch},
    time::timeout,
};

/// A running API and what it told.
pub(crate) struct Lab {
    pub(crate) handle: Handle,
    pub(crate) running: Running,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    pub(crate) receipts: Arc<Receipts>,
    pub(crate) primary: watch::Sender<PrimaryView>,
    pub(crate) notices: broadcast::Sender<Arc<TimedNotice>>,
    pub(crate) config: Arc<ArcSwap<Config>>,
    pub(crate) ready: Arc<AtomicBool>,
    /// While set, the decision loop takes nothing from its queue.
    pub(crate) stuck: Arc<AtomicBool>,
    stop: Option<oneshot::Sender<()>>,
    _directory: tempfile::TempDir,
}

#[derive(Default)]
pub(crate) struct Receipts {
    pub(crate) received: Mutex<Vec<(String, String)>>,
    pub(crate) reported: Mutex<Vec<String>>,
}

impl CanaryReceipts for Receipts {
    fn received(&self, _: &ClusterName, node: &NodeName, id: &str) {
        self.received.lock().unwrap().push((node.to_string(), id.into()));
    }
    fn node_reported(&self, _: &ClusterName, node: &NodeName) {
        self.reported.lock().unwrap().push(node.to_string());
    }
}

pub(crate) fn access(name: &str, role: AccessRole, token: &str, reports_as: &[&str]) -> Access {
    Access {
        name: name.into(),
        role,
        token: (!token.is_empty()).then(|| Secret::new(token.into())),
        reports_as: reports_as.iter().map(|name| (*name).into()).collect(),
    }
}

pub(crate) fn config(socket: PathBuf) -> Config {
    let here = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let cluster: ClusterName = "orders".into();
    let member = |name: &str| MemberPolicy {
        name: name.into(),
        address: format!("{name}:6379"),
        priority: 100,
        zone: None,
        has_agent: false,
    };
    let policy = ClusterPolicy {
        name: cluster.clone(),
        mode: Mode::Auto,
        members: vec![member("broker-a"), member("broker-b")],
        nodes: vec!["node-1".into(), "node-2".into()],
        initial_primary: None,
        has_broker: false,
        signals: BTreeMap::new(),
        role_signal: None,
        rules: Vec::new(),
        failover: FailoverPolicy {
            fence: Vec::new(),
            proof_needed: Proof::Gate,
            is_unsafe: false,
            catch_up_within: Duration::ZERO,
            promote_within: Duration::ZERO,
            max_loss: None,
            unknown_loss: UnknownLoss::Hold,
            redirect: Vec::new(),
            redirect_within: Duration::ZERO,
            rejoin: Rejoin::Ask,
            candidate_fresh_for: Duration::ZERO,
            candidate_lag_max: None,
            lease: None,
            preserve_within: Duration::ZERO,
            cooldown: Duration::ZERO,
            budget: 1,
            budget_per: Duration::ZERO,
        },
    };
    let labels = BTreeMap::from([("alertname".to_owned(), "DiskFull".to_owned())]);
    let sources: BTreeMap<SignalName, Source> = BTreeMap::from([
        ("heartbeat".into(), Source::Heartbeats),
        ("arrivals".into(), Source::Arrivals),
        ("disk".into(), Source::Alert { labels }),
    ]);
    let parts = ClusterConfig {
        broker: None,
        members: Vec::new(),
        nodes: vec![NodeTarget { node: "node-1".into(), address: None }],
        sources,
        fence: Vec::new(),
        guards: BTreeMap::new(),
        observes: BTreeMap::new(),
        redirect: Vec::new(),
    };
    Config {
        mesh: None,
        tests: Vec::new(),
        policy: Policy { clusters: BTreeMap::from([(cluster.clone(), policy)]), ..Policy::default() },
        arbiter: ArbiterConfig {
            shared: None,
            name: "arbiter-1".into(),
            http: here,
            udp: here,
            socket,
            tls: None,
            access: vec![
                access("broker-a", AccessRole::Report, "token-a", &[]),
                access("broker-b", AccessRole::Report, "token-b", &[]),
                access("nodes", AccessRole::Report, "token-nodes", &["node-1", "node-2"]),
                access("alertmanager", AccessRole::Report, "token-alerts", &[]),
                access("grafana", AccessRole::View, "token-view", &[]),
                access("alice", AccessRole::Operate, "token-operate", &[]),
            ],
            socket_operators: Vec::new(),
            store: "unused".into(),
            journal: JournalConfig::default(),
            check_fences_every: Duration::from_secs(60),
        },
        clusters: BTreeMap::from([(cluster, parts)]),
        reports: Vec::new(),
        warnings: Vec::new(),
    }
}

impl Lab {
    pub(crate) async fn start() -> Self {
        Self::with(Options::default(), |_| {}).await
    }

    pub(crate) async fn with(options: Options, change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path().join("run/coroner.sock"));
        change(&mut config);
        let config = Arc::new(ArcSwap::from_pointee(config));
        let (inputs, queue) = mpsc::channel(64);
        let (notices, _) = broadcast::channel(64);
        let view = PrimaryView {
            cluster: "orders".into(),
            epoch: Epoch(3),
            primary: Some("broker-a".into()),
            address: Some("broker-a:6379".into()),
        };
        let (primary, watched) = watch::channel(view);
        let primaries = Arc::new(ArcSwap::from_pointee(BTreeMap::from([(ClusterName::from("orders"), watched)])));
        let handle = Handle::new(inputs, notices.clone(), primaries, Arc::clone(&config), Arc::new(NoStore));
        let (seen, ready, stuck) = <(Arc<Mutex<Vec<Seen>>>, Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        tokio::spawn(decide(queue, Arc::clone(&seen), Arc::clone(&ready), Arc::clone(&stuck)));
        let (metrics, receipts) = (Arc::new(Metrics::new()), Arc::new(Receipts::default()));
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let told: Arc<dyn CanaryReceipts> = Arc::clone(&receipts) as _;
        let running = serve_with(options, handle.clone(), told, Arc::clone(&metrics), shutdown).await.unwrap();
        Self {
            handle,
            running,
            metrics,
            seen,
            receipts,
            primary,
            notices,
            config,
            ready,
            stuck,
            stop: Some(stop),
            _directory: directory,
        }
    }

    pub(crate) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.running.http.unwrap()).await.unwrap()
    }

    /// One request over TCP.
    pub(crate) async fn ask(&self, method: &str, path: &str, token: &str, body: &str) -> Answer {
        ask(self.tcp().await, method, path, token, body).await
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        self.ask("GET", path, token, "").await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: &str) -> Answer {
        self.ask("POST", path, token, body).await
    }

    /// One request over the Unix socket, as this process's user.
    pub(crate) async fn ask_socket(&self, method: &str, path: &str, body: &str) -> Answer {
        ask(UnixStream::connect(&self.running.socket).await.unwrap(), method, path, "", body).await
    }

    pub(crate) fn rejected(&self, via: &str, reason: &str) -> u64 {
        self.metrics.rejected.with_label_values(&[via, reason]).get()
    }

    /// Ends the API and waits for it.
    pub(crate) async fn stop(mut self) -> PathBuf {
        drop(self.stop.take());
        let socket = self.running.socket.clone();
        timeout(Duration::from_secs(10), self.running.finished()).await.expect("the shutdown takes too long");
        socket
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 10s: {what}");
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The text of a refusal.
    pub(crate) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error text: {self:?}")).to_owned()
    }
}

pub(crate) async fn ask(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
    token: &str,
    body: &str,
) -> Answer {
    let auth = if token.is_empty() { String::new() } else { format!("authorization: Bearer {token}\r\n") };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\n{auth}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // A refusal of a long body may close the connection before all of it is written.
    let _ = io.write_all(request.as_bytes()).await;
    let mut raw = Vec::new();
    let _ = timeout(Duration::from_secs(20), io.read_to_end(&mut raw)).await.expect("no answer");
    parse(&String::from_utf8_lossy(&raw))
}

pub(crate) fn parse(raw: &str) -> Answer {
    let (head, body) = raw.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {raw:?}"));
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { code, head: head.to_lowercase(), body: body.into() }
}

async fn decide(
    mut queue: mpsc::Receiver<Input>,
    seen: Arc<Mutex<Vec<Seen>>>,
    ready: Arc<AtomicBool>,
    stuck: Arc<AtomicBool>,
) {
    loop {
        while stuck.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let Some(input) = queue.recv().await else { return };
        match input {
            Input::Seen(one) => seen.lock().unwrap().push(one),
            Input::Command { by, reply, .. } if by.0 == "alice" || by.0.starts_with("uid ") => {
                let _ = reply.send(Ok(CommandReply { text: format!("done for {by}"), incident: None }));
            }
            Input::Command { reply, .. } => {
                let _ = reply.send(Err(CommandError::new(CommandErrorCode::WrongState, "not you")));
            }
            // Only other arbiters send these, and there are none.
            Input::Peer { .. } | Input::Notice(_) => {}
            Input::Query(Query::Status(reply)) => {
                let _ = reply.send(status(ready.load(Ordering::Relaxed)));
            }
            Input::Query(Query::Signals(cluster, reply)) => {
                let stream = SignalStatus {
                    signal: "heartbeat".into(),
                    observer: "broker-a".into(),
                    subject: Some("broker-a".into()),
                    up: Some(true),
                    age: Some(Duration::from_millis(250)),
                    seen: "beat".into(),
                    value: None,
                };
                let _ = reply.send((cluster.as_str() == "orders").then(|| vec![stream]));
            }
            Input::Query(Query::Why(_, reply)) => drop(reply.send(None)),
            Input::Query(Query::WhyNot(_, reply)) => drop(reply.send(None)),
            Input::Rehearse { cluster, test, reply } => {
                let report = FenceTestReport {
                    cluster,
                    proof_needed: Proof::Gate,
                    has_lease: false,
                    rehearsals: Vec::new(),
                    members: test
                        .member
                        .map(|member| FenceReach::of(&member, &[], Proof::Gate, false))
                        .into_iter()
                        .collect(),
                };
                let _ = reply.send(Ok(report));
            }
            Input::Reload(reply) => {
                let _ = reply.send(Err("line 3: `mode` is missing".into()));
            }
        }
    }
}

fn status(ready: bool) -> Status {
    use coroner::model::explain::{Guard, GuardState};
    let blocking = GuardState { guard: Guard::NoFence, blocks: true, reason: "ipmi does not answer".into() };
    Status {
        arbiter: "arbiter-1".into(),
        clusters: vec![ClusterStatus {
            cluster: "orders".into(),
            mode: Mode::Auto,
            primary: Some("broker-a".into()),
            epoch: Epoch(3),
            verdict: coroner::model::Verdict::Alive,
            verdict_since: Duration::from_secs(5),
            rule: None,
            ready,
            blocking: if ready { Vec::new() } else { vec![blocking] },
            pause: None,
            members: Vec::new(),
            nodes: Vec::new(),
            incident: None,
            rules: Vec::new(),
        }],
        ..Status::default()
    }
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
        Ok(vec![IncidentBrief {
            id: "01INCIDENT".into(),
            cluster: "orders".into(),
            kind: coroner::model::record::SagaKind::Failover,
            state: coroner::model::incident::IncidentState::Resolved,
            state_reason: None,
            opened_unix_ms: 1,
            closed_unix_ms: Some(2),
            old_primary: "broker-b".into(),
            candidate: "broker-a".into(),
            epoch: Epoch(3),
            acknowledged: false,
        }])
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

/// A notice at the start of time.
pub(crate) fn timed(notice: coroner::model::Notice) -> Arc<TimedNotice> {
    Arc::new(TimedNotice { at: Time::ZERO, anchor: coroner::model::WallAnchor::default(), notice })
}
