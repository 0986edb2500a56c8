//! The house: a shared storage (a directory), two relays, the arbiter, three nodes, two senders. All of it ends with it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::LazyLock,
    time::Duration,
};

use coroner::{
    relay::{
        client::Control,
        control::{Answer, Request, Role, Status},
    },
    sys::clock::Stopwatch,
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    sync::{Semaphore, SemaphorePermit},
    time::sleep,
};

use crate::{
    cable::Cable,
    clients::{Arbiter, Node, Source, Ways, token_of},
    freeze::freeze,
};

pub const A: &str = "relay-a";
pub const B: &str = "relay-b";
/// Whatever is waited for comes within this, on a busy machine too.
pub const SOON: Duration = Duration::from_secs(40);

/// A house is three processes and a load; lateness is what these tests are about, so that few stand at once.
static HOUSES: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(2));

/// How the house is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// The fences. `@DIR@` is the house's directory.
    pub fence: &'static str,
    /// Bytes of a message.
    pub size: usize,
    /// Messages of a sender under way at once.
    pub window: usize,
}

/// Kills the relay's process by its pid file. Nothing restarts it but the tests.
pub const KILL: &str =
    r#"- { signal: { pid_file: "@DIR@/{member}.pid", executable: coroner, supervisor: none }, deadline: 2s }"#;
/// Does nothing: the operator vouches for the storage, whose epoch keeps the old primary from acknowledging anything.
pub const TRUST_THE_STORAGE: &str = r#"- { exec: { command: ["true"], status: ["true"], proof: gate }, deadline: 2s }"#;

impl Default for Options {
    fn default() -> Self {
        Self { fence: KILL, size: 100, window: 200 }
    }
}

/// A process in a session of its own, killed with all its children when it is dropped.
pub struct Process {
    child: Child,
    pid: Pid,
}

impl Process {
    fn start(log: &Path, arguments: &[String]) -> Self {
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        // `setsid` becomes the program itself, under the same number.
        let mut command = Command::new("setsid");
        command.arg(env!("CARGO_BIN_EXE_coroner")).args(arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().expect("setsid is needed: apt-get install util-linux");
        let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap());
        Self { child, pid }
    }

    pub fn signal(&self, signal: Signal) {
        let _ = nix::sys::signal::kill(self.pid, signal);
    }

    pub fn freeze(&self) {
        freeze(self.pid.as_raw().unsigned_abs());
    }

    async fn end(&mut self) {
        let _ = killpg(self.pid, Signal::SIGKILL);
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait().await;
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            let _ = killpg(self.pid, Signal::SIGKILL);
            self.signal(Signal::SIGKILL);
        }
    }
}

pub struct House {
    pub nodes: Vec<Node>,
    pub senders: Vec<Source>,
    /// Between the nodes and relay-a: the arbiter, the shadow and the senders have ways of their own.
    pub nodes_to_a: Cable,
    arbiter: Process,
    relays: BTreeMap<&'static str, Process>,
    ports: BTreeMap<&'static str, u16>,
    control: Arbiter,
    dir: TempDir,
    _permit: SemaphorePermit<'static>,
}

impl House {
    /// Sets it up, and waits until the arbiter could fail over from relay-a to relay-b.
    pub async fn build(options: &Options) -> Self {
        let permit = HOUSES.acquire().await.unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::Builder::new().prefix("coroner-house-").tempdir().unwrap();
        fs::create_dir(dir.path().join("storage")).unwrap();
        for name in ["node-1", "node-2", "node-3", A, B, "operator"] {
            fs::write(dir.path().join(format!("{name}.token")), token_of(name)).unwrap();
        }
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let control = Arbiter { http, address: local(free_port()) };
        let ports = BTreeMap::from([(A, free_port()), (B, free_port())]);
        let a = start_relay(dir.path(), A, ports[A], None, control.address);
        wait_for_answer(ports[A]).await;
        let b = start_relay(dir.path(), B, ports[B], Some(ports[A]), control.address);
        wait_for_answer(ports[B]).await;

        let nodes_to_a = Cable::lay(local(ports[A])).await;
        let direct: Ways = ports.iter().map(|(name, port)| ((*name).to_owned(), local(*port))).collect();
        let mut by_cable = direct.clone();
        by_cable.insert(A.to_owned(), nodes_to_a.address);
        let (mut nodes, mut senders) = (Vec::new(), Vec::new());
        for name in ["node-1", "node-2", "node-3"] {
            nodes.push(Node::start(name, &by_cable, A, &control).await);
        }
        for name in ["sender-1", "sender-2"] {
            senders.push(Source::start(name, &direct, A, options.window, options.size).await);
        }
        let notices: Vec<_> =
            nodes.iter().map(|n| (&n.name, n.notices)).chain(senders.iter().map(|s| (&s.name, s.notices))).collect();
        let config = dir.path().join("coroner.yaml");
        fs::write(&config, yaml(dir.path(), control.address, &ports, &notices, options)).unwrap();
        let words = ["arbiter", "--config", &config.display().to_string()].map(str::to_owned);
        let arbiter = Process::start(&dir.path().join("arbiter.log"), &words);
        let relays = BTreeMap::from([(A, a), (B, b)]);
        let mut house = Self { nodes, senders, nodes_to_a, arbiter, relays, ports, control, dir, _permit: permit };
        house.wait_ready(A).await;
        house
    }

    // ---- relays -------------------------------------------------------------------------------------------------

    pub fn address(&self, member: &str) -> SocketAddr {
        local(self.ports[member])
    }

    pub fn relay(&self, member: &str) -> &Process {
        &self.relays[member]
    }

    /// SIGKILL, as a crash does.
    pub async fn kill(&mut self, member: &'static str) {
        self.relays.get_mut(member).unwrap().end().await;
    }

    /// Starts it as its unit would: it is told nothing of what happened.
    pub fn start_again(&mut self, member: &'static str) {
        let process = start_relay(self.dir.path(), member, self.ports[member], None, self.control.address);
        self.relays.insert(member, process);
    }

    /// What it says of itself; nothing if it does not answer.
    pub async fn status(&self, member: &str) -> Option<Status> {
        status(self.ports[member]).await
    }

    // ---- the arbiter --------------------------------------------------------------------------------------------

    pub async fn get(&self, path: &str) -> Option<Value> {
        let url = format!("http://{}{path}", self.control.address);
        let request = self.control.http.get(url).bearer_auth(token_of("operator")).timeout(Duration::from_secs(5));
        request.send().await.ok()?.json().await.ok()
    }

    pub async fn cluster(&self) -> Option<Value> {
        self.get("/v1/status").await?["clusters"].as_array()?.first().cloned()
    }

    /// The incidents, the newest first.
    pub async fn incidents(&self) -> Vec<Value> {
        self.get("/v1/incidents").await.and_then(|list| list.as_array().cloned()).unwrap_or_default()
    }

    /// Incidents that changed who is primary.
    pub async fn failovers(&self) -> Vec<Value> {
        self.incidents().await.into_iter().filter(|i| i["kind"] != "rejoin").collect()
    }

    /// Runs a verb of the command line.
    pub async fn cli(&self, words: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coroner"));
        command.arg("--socket").arg(self.dir.path().join("s")).args(words).stdin(Stdio::null());
        let output = command.output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{words:?}: {out}{err}\n{}", self.portrait().await);
        out
    }

    /// Ends the cooldown, as somebody does who has read the report.
    pub async fn acknowledge(&self) {
        for incident in self.incidents().await {
            if incident["acknowledged"].is_null() || incident["acknowledged"] == false {
                self.cli(&["incidents", "ack", incident["id"].as_str().unwrap()]).await;
            }
        }
    }

    // ---- waiting ------------------------------------------------------------------------------------------------

    pub async fn until(&mut self, what: &str, mut is_so: impl AsyncFnMut(&mut Self) -> bool) {
        let watch = Stopwatch::start();
        while !is_so(self).await {
            assert!(!self.arbiter.has_ended(), "the arbiter ended\n{}", self.portrait().await);
            assert!(watch.elapsed() < SOON, "waited in vain: {what}\n{}", self.portrait().await);
            sleep(Duration::from_millis(30)).await;
        }
    }

    /// Looks again and again, for so long, that it stays so.
    pub async fn stays(&mut self, what: &str, for_: Duration, mut is_so: impl AsyncFnMut(&mut Self) -> bool) {
        let watch = Stopwatch::start();
        while watch.elapsed() < for_ {
            assert!(is_so(self).await, "did not stay so: {what}\n{}", self.portrait().await);
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// This member is primary, all nodes follow it, nothing is under way, the other is a linked shadow, and a failover
    /// could be done.
    pub async fn wait_ready(&mut self, primary: &'static str) {
        let other = if primary == A { B } else { A };
        self.until(&format!("{primary} is primary and {other} could take over"), async |house: &mut Self| {
            let Some(cluster) = house.cluster().await else { return false };
            let all_follow = cluster["nodes"].as_array().is_some_and(|nodes| {
                let mut nodes = nodes.iter().filter(|n| n["node"].as_str().is_some_and(|n| n.starts_with("node-")));
                nodes.all(|n| n["follows"] == cluster["primary"] && n["epoch"] == cluster["epoch"])
            });
            let rest = cluster["primary"] == primary && cluster["incident"].is_null() && cluster["verdict"] == "alive";
            // The cooldown is over as soon as somebody takes note.
            let blocks = |g: &Value| g["blocks"] == true && g["guard"] != "cooldown";
            let nothing_blocks = cluster["blocking"].as_array().is_none_or(|guards| !guards.iter().any(blocks));
            rest && nothing_blocks && all_follow && house.is_linked(other).await
        })
        .await;
    }

    /// It is the shadow, it is linked and keeps up, and nothing keeps it from being promoted. A member that comes back
    /// replays the whole log first: a failover before its end may take longer than the file allows, and is held then.
    pub async fn is_linked(&self, member: &str) -> bool {
        let is_quarantined = self.cluster().await.is_none_or(|cluster| {
            let members = cluster["members"].as_array().cloned().unwrap_or_default();
            members.iter().any(|m| m["member"] == member && m["quarantined"] != false)
        });
        let (Some(a), Some(b)) = (self.status(A).await, self.status(B).await) else { return false };
        let (own, other) = if member == A { (a, b) } else { (b, a) };
        let keeps_up = other.position.saturating_sub(own.position) < 20_000;
        !is_quarantined && keeps_up && own.role == Role::Shadow && own.is_linked
    }

    /// This member is primary in a larger epoch than `epoch`; the epoch.
    pub async fn wait_primary(&mut self, member: &'static str, epoch: u64) -> u64 {
        let mut found = 0;
        self.until(&format!("{member} is primary in an epoch above {epoch}"), async |house: &mut Self| {
            let Some(cluster) = house.cluster().await else { return false };
            found = cluster["epoch"].as_u64().unwrap_or(0);
            cluster["primary"] == member && cluster["incident"].is_null() && found > epoch
        })
        .await;
        found
    }

    pub async fn epoch(&self) -> u64 {
        self.cluster().await.and_then(|c| c["epoch"].as_u64()).unwrap()
    }

    // ---- what is promised ---------------------------------------------------------------------------------------

    /// Senders rest, everything that was given is acknowledged and at all nodes; nothing twice, missing or disordered.
    /// Answers how many messages there were.
    pub async fn nothing_is_lost_or_twice(&mut self) -> u64 {
        for sender in &mut self.senders {
            sender.rest().await;
        }
        self.until("everything is acknowledged", async |house: &mut Self| {
            house.senders.iter().all(|s| s.acknowledged() == s.last())
        })
        .await;
        self.until("everything is at all nodes", async |house: &mut Self| {
            let has_all = |node: &Node| house.senders.iter().all(|s| node.last_of(&s.name) >= s.acknowledged());
            house.nodes.iter().all(has_all)
        })
        .await;
        for node in &self.nodes {
            let got = node.got().clone();
            assert_eq!(got.wrong, [""; 0], "{}\n{}", node.name, self.portrait().await);
            for sender in &self.senders {
                // The numbers are consecutive, so the last one is how many there were.
                assert_eq!(node.last_of(&sender.name), sender.last(), "{}: nobody sent more", node.name);
            }
        }
        self.senders.iter().map(Source::last).sum()
    }

    /// Everything that helps to understand a failure.
    pub async fn portrait(&self) -> String {
        let tail = |name: &str| {
            let text = fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(40)..].join("\n")
        };
        let mut text = format!("status: {:#}\n", self.cluster().await.unwrap_or_default());
        for incident in self.incidents().await.iter().take(2) {
            let id = incident["id"].as_str().unwrap_or_default();
            let _ =
                writeln!(text, "incident: {:#}", self.get(&format!("/v1/incidents/{id}")).await.unwrap_or_default());
        }
        for member in [A, B] {
            let _ = writeln!(text, "{member}: {:?}\n{}", self.status(member).await, tail(&format!("{member}.log")));
        }
        for sender in &self.senders {
            let _ = writeln!(text, "{}: {:?}", sender.name, sender.sender.state());
        }
        for node in &self.nodes {
            let _ = writeln!(text, "{}", node.portrait());
        }
        format!("{text}\narbiter:\n{}", tail("arbiter.log"))
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Below the range from which the kernel takes ports by itself; a process and a counter keep tests apart.
fn free_port() -> u16 {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn start_relay(dir: &Path, name: &str, port: u16, follows: Option<u16>, arbiter: SocketAddr) -> Process {
    let mut words: Vec<String> =
        ["relay", "serve", "--name", name, "--listen", &local(port).to_string()].map(str::to_owned).into();
    words.extend(["--storage".to_owned(), dir.join("storage").display().to_string()]);
    words.extend(["--arbiter".to_owned(), format!("http://{arbiter}")]);
    words.extend(["--token-file".to_owned(), dir.join(format!("{name}.token")).display().to_string()]);
    words.extend(["--cluster", "messages", "--beat-every-ms", "200"].map(str::to_owned));
    if let Some(port) = follows {
        words.extend(["--follow".to_owned(), local(port).to_string()]);
    }
    let process = Process::start(&dir.join(format!("{name}.log")), &words);
    // By renaming: the arbiter may look at any moment, and does not look again soon.
    let file = dir.join(format!("{name}.pid"));
    fs::write(file.with_extension("new"), format!("{}\n", process.pid)).unwrap();
    fs::rename(file.with_extension("new"), file).unwrap();
    process
}

async fn status(port: u16) -> Option<Status> {
    match Control::ask_once(&local(port).to_string(), &Request::Status, Duration::from_secs(1)).await {
        Ok(Answer::Ok { status, .. }) => Some(status),
        _ => None,
    }
}

async fn wait_for_answer(port: u16) {
    let watch = Stopwatch::start();
    while status(port).await.is_none() {
        assert!(watch.elapsed() < SOON, "the relay at port {port} does not answer");
        sleep(Duration::from_millis(20)).await;
    }
}

fn yaml(
    dir: &Path,
    http: SocketAddr,
    ports: &BTreeMap<&'static str, u16>,
    notices: &[(&String, SocketAddr)],
    options: &Options,
) -> String {
    let mut nodes = String::new();
    for (name, at) in notices {
        let _ = writeln!(nodes, "      {name}: {{ address: \"{at}\" }}");
    }
    let path = |name: &str| PathBuf::from(dir).join(name).display().to_string();
    TEMPLATE
        .replace("@NODES@", nodes.trim_end())
        .replace("@FENCE@", options.fence)
        .replace("@HTTP@", &http.to_string())
        .replace("@A@", &local(ports[A]).to_string())
        .replace("@B@", &local(ports[B]).to_string())
        .replace("@SOCKET@", &path("s"))
        .replace("@STORE@", &path("coroner.db"))
        .replace("@DIR@", &dir.display().to_string())
}

/// The rules of config/examples/relay.yaml, with shorter silences.
const TEMPLATE: &str = r#"
arbiter:
  name: arbiter-1
  listen: { http: "@HTTP@", socket: "@SOCKET@" }
  store: "sqlite:@STORE@"
  access:
    - { name: node-1, role: report, token: "${file:node-1.token}" }
    - { name: node-2, role: report, token: "${file:node-2.token}" }
    - { name: node-3, role: report, token: "${file:node-3.token}" }
    - { name: relay-a, role: report, token: "${file:relay-a.token}" }
    - { name: relay-b, role: report, token: "${file:relay-b.token}" }
    - { name: operator, role: operate, token: "${file:operator.token}" }
clusters:
  messages:
    mode: auto
    broker: { relay: {} }
    members:
      relay-a: { address: "@A@" }
      relay-b: { address: "@B@" }
    nodes:
@NODES@
    signals:
      heartbeat: { push: { from: primary, every: 200ms } }
      arrivals: { push: { from: [node-1, node-2, node-3], every: 200ms, traffic: constant } }
      canary: { canary: { to: [node-1, node-2, node-3], every: 300ms, timeout: 280ms } }
      ping: { broker: { ask: ping, of: primary, every: 100ms, timeout: 90ms } }
      link: { broker: { ask: replication_link, of: standbys, every: 100ms, timeout: 90ms } }
      role: { broker: { ask: role, of: members, every: 200ms, timeout: 150ms } }
    death_rules:
      - name: the port is closed
        when:
          all:
            - ping: { failing: 3 of 3 }
            - any: [{ ping: { failed_with: refused } }, { ping: { failed_with: reset } }]
            - at_least: { count: all, of: arrivals, are: { silent: 600ms } }
        verdict: dead
        then: failover
      - name: has sent no message to any node
        when:
          all:
            - heartbeat: { silent: 2s }
            - at_least: { count: all, of: arrivals, are: { silent: 2s } }
            - any: [{ link: down }, { link: { lag_above: 1s } }]
        verdict: dead
        then: failover
      - name: answers, but sends to no node
        when:
          all:
            - ping: ok
            - at_least: { count: all, of: arrivals, are: { silent: 2s } }
            - at_least: { count: all, of: canary, are: { failing: 3 of 3 } }
        verdict: gray
        then: switchover
    failover:
      fence:
        @FENCE@
      catch_up: { within: 5s }
      promote: { within: 5s }
      max_loss: { entries: 0 }
      redirect: [{ http: { path: /primary }, deadline: 1s }]
      redirect_within: 3s
      rejoin: follow
      cooldown: 1h
      budget: { failovers: 1000, per: 1d }
"#;
