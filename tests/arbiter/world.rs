//! A small world: a Redis pair, nodes, one arbiter with a generated file. Everything in it ends with it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use coroner::sys::clock::Stopwatch;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    http,
    node::{Node, token_of},
    redis::{Options as RedisOptions, RedisServer, free_port},
};

/// So many worlds at once: a world is half a dozen processes, and lateness is what many of these tests are about.
const WORLDS: usize = 3;
/// Whatever is waited for comes within this, on a busy machine too.
pub const SOON: Duration = Duration::from_secs(25);

static PERMITS: (Mutex<usize>, Condvar) = (Mutex::new(WORLDS), Condvar::new());

struct Permit;

impl Permit {
    fn take() -> Self {
        let mut free = PERMITS.0.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = PERMITS.1.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *PERMITS.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        PERMITS.1.notify_one();
    }
}

/// How the world is to be. In all texts `@DIR@` stands for its directory, `@EXE@` for the name of the server's
/// executable, `@A@` and `@B@` for the ports of the members.
pub struct Options {
    pub mode: &'static str,
    /// More lines below `arbiter`.
    pub arbiter: String,
    pub broker: &'static str,
    pub signals: String,
    pub rules: String,
    pub fence: String,
    pub max_loss: &'static str,
    pub cooldown: &'static str,
    pub rejoin: &'static str,
    /// More lines below `failover`.
    pub failover: String,
    pub report: String,
    /// Programs, by name: written to the directory, and executable.
    pub scripts: Vec<(&'static str, String)>,
    /// More lines for both servers' files.
    pub redis: Vec<String>,
    /// Where the store is, below the directory.
    pub store: PathBuf,
    /// Prepares the directory before the arbiter starts.
    pub prepare: Box<dyn FnOnce(&Path)>,
    /// Whether the arbiter is started, and waited for until it could act.
    pub start: bool,
}

pub const ARRIVALS: &str = "arrivals: { push: { from: nodes, every: 100ms } }";
pub const ASKED: &str = "ping: { broker: { ask: ping, of: primary, every: 100ms, timeout: 90ms } }
role: { broker: { ask: role, of: members, every: 200ms, timeout: 150ms } }";

/// Dead when its port is closed, or when it answers nobody.
pub const RULES: &str = "- name: the port is closed
  when:
    all:
      - ping: { failing: 3 of 3 }
      - any: [{ ping: { failed_with: refused } }, { ping: { failed_with: reset } }]
      - at_least: { count: majority, of: arrivals, are: { silent: 600ms } }
  verdict: dead
  then: failover
- name: silent to everyone
  when:
    all:
      - ping: { silent: 1s }
      - at_least: { count: majority, of: arrivals, are: { silent: 1s } }
  verdict: dead
  then: failover";

pub const KILL: &str =
    "- { signal: { pid_file: \"@DIR@/{member}.pid\", executable: \"@EXE@\", supervisor: none }, deadline: 2s }";

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: "auto",
            arbiter: String::new(),
            broker: "{ redis: {} }",
            signals: format!("{ARRIVALS}\n{ASKED}"),
            rules: RULES.into(),
            fence: KILL.into(),
            max_loss: "{ bytes: 1000000 }",
            cooldown: "1h",
            rejoin: "follow",
            failover: String::new(),
            report: String::new(),
            scripts: Vec::new(),
            redis: Vec::new(),
            store: "coroner.db".into(),
            prepare: Box::new(|_| {}),
            start: true,
        }
    }
}

/// What a command line left behind.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("not JSON ({e}): {self:?}"))
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

pub struct World {
    pub nodes: Vec<Node>,
    pub http: SocketAddr,
    pub udp: SocketAddr,
    pub socket: PathBuf,
    pub config: PathBuf,
    pub store: PathBuf,
    arbiter: Option<Child>,
    members: BTreeMap<String, RedisServer>,
    /// Starts the arbiter again, without crash points, whenever it is found dead; how often it was.
    pub revive: bool,
    pub deaths: u32,
    dir: TempDir,
    _permit: Permit,
}

impl World {
    /// Sets it up; with `start`, waits until the arbiter could fail over from broker-a to broker-b.
    pub fn start(mut options: Options) -> Self {
        let permit = Permit::take();
        let dir = tempfile::Builder::new().prefix("coroner-arbiter-").tempdir().unwrap();
        let (a, b) = (redis(dir.path(), "broker-a", &options), redis(dir.path(), "broker-b", &options));
        b.replica_of(&a);
        // Started again, it is a standby still.
        b.command(&["CONFIG", "REWRITE"]);
        let http = SocketAddr::from(([127, 0, 0, 1], free_port("127.0.0.1")));
        let udp = SocketAddr::from(([127, 0, 0, 1], free_udp_port()));
        let nodes: Vec<Node> =
            ["node-1", "node-2", "node-3"].map(|name| Node::start(name, "broker-a", &a.address(), http)).into();
        let members = BTreeMap::from([("broker-a".to_owned(), a), ("broker-b".to_owned(), b)]);
        let path = dir.path().to_owned();
        let mut world = Self {
            nodes,
            http,
            udp,
            socket: path.join("s"),
            config: path.join("coroner.yaml"),
            store: path.join(&options.store),
            arbiter: None,
            members,
            revive: false,
            deaths: 0,
            dir,
            _permit: permit,
        };
        std::mem::replace(&mut options.prepare, Box::new(|_| {}))(&path);
        for name in ["node-1", "node-2", "node-3", "broker-a", "broker-b", "viewer", "alice"] {
            let file = path.join(format!("{name}.token"));
            fs::write(&file, token_of(name)).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        for (name, text) in &options.scripts {
            let file = path.join(name);
            fs::write(&file, world.fill(text)).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let text = world.yaml(&options);
        fs::write(&world.config, text).unwrap();
        if options.start {
            world.run(&[]);
            world.wait_ready();
        }
        world
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Puts this world's places into a text.
    pub fn fill(&self, text: &str) -> String {
        let exe = fs::canonicalize(which("redis-server")).unwrap();
        text.replace("@DIR@", &self.dir().display().to_string())
            .replace("@EXE@", &exe.file_name().unwrap().to_string_lossy())
            .replace("@A@", &self.member("broker-a").port.to_string())
            .replace("@B@", &self.member("broker-b").port.to_string())
    }

    /// The file that these options make.
    pub fn yaml(&self, options: &Options) -> String {
        let (mut access, mut nodes) = (String::new(), String::new());
        for node in &self.nodes {
            let _ = writeln!(nodes, "      {}: {{ address: \"{}\" }}", node.name, node.listener.address);
        }
        for name in ["node-1", "node-2", "node-3", "broker-a", "broker-b"] {
            let _ = writeln!(access, "    - {{ name: {name}, role: report, token: \"${{file:{name}.token}}\" }}");
        }
        for (name, role) in [("viewer", "view"), ("alice", "operate")] {
            let _ = writeln!(access, "    - {{ name: {name}, role: {role}, token: \"${{file:{name}.token}}\" }}");
        }
        let (http, udp, socket) = (self.http, self.udp, self.socket.display());
        let mut text = format!(
            "arbiter:
  name: arbiter-1
  listen: {{ http: \"{http}\", udp: \"{udp}\", socket: \"{socket}\" }}
  store: \"sqlite:{store}\"
  check_fences_every: 1s
  access:
{access}{arbiter}
clusters:
  orders:
    mode: {mode}
    broker: {broker}
    members:
      broker-a: {{ address: \"127.0.0.1:@A@\" }}
      broker-b: {{ address: \"127.0.0.1:@B@\" }}
    nodes:
{nodes}    signals:
{signals}
    death_rules:
{rules}
    failover:
      fence:
{fence}
      catch_up: {{ within: 2s }}
      max_loss: {max_loss}
      redirect:
        - {{ http: {{ path: /primary }}, deadline: 1s }}
      redirect_within: 3s
      rejoin: {rejoin}
      cooldown: {cooldown}
      budget: {{ failovers: 1000, per: 1d }}
{failover}
",
            store = self.store.display(),
            arbiter = indent(&options.arbiter, 2),
            mode = options.mode,
            broker = options.broker,
            signals = indent(&options.signals, 6),
            rules = indent(&options.rules, 6),
            fence = indent(&options.fence, 8),
            max_loss = options.max_loss,
            rejoin = options.rejoin,
            cooldown = options.cooldown,
            failover = indent(&options.failover, 6),
        );
        if !options.report.is_empty() {
            let _ = writeln!(text, "report:\n{}", indent(&options.report, 2));
        }
        self.fill(&text)
    }

    // ---- the arbiter ------------------------------------------------------------------------------------------

    fn log(&self) -> PathBuf {
        self.dir().join("arbiter.log")
    }

    /// Starts the arbiter with this environment; does not wait for it.
    pub fn spawn(&mut self, environment: &[(&str, &str)]) {
        assert!(self.arbiter.is_none(), "the arbiter runs already");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_coroner"))
            .args(["arbiter", "--config"])
            .arg(&self.config)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        self.arbiter = Some(child);
    }

    /// Starts the arbiter and waits until it answers.
    pub fn run(&mut self, environment: &[(&str, &str)]) {
        self.spawn(environment);
        self.wait_for("the arbiter answers", |world| {
            assert!(!world.has_died(), "the arbiter ended:\n{}", world.log_text());
            world.status()
        });
    }

    /// The arbiter's log so far.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        let id = self.arbiter.as_ref().expect("the arbiter runs").id();
        killpg(Pid::from_raw(id.try_into().unwrap()), signal).unwrap();
    }

    /// Whether the arbiter has ended by itself; takes note of its end.
    pub fn has_died(&mut self) -> bool {
        let ended = self.arbiter.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some());
        if ended {
            self.arbiter = None;
        }
        ended
    }

    /// Waits until the arbiter has ended by itself; its exit code.
    pub fn wait_death(&mut self) -> Option<i32> {
        let code = self.wait_for("the arbiter ends", |world| {
            world.arbiter.as_mut().and_then(|child| child.try_wait().unwrap()).map(|status| status.code())
        });
        self.arbiter = None;
        code
    }

    /// Kills the arbiter as a crash does.
    pub fn kill_arbiter(&mut self) {
        if let Some(mut child) = self.arbiter.take() {
            let _ = killpg(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGKILL);
            let _ = child.wait();
        }
    }

    // ---- the members ------------------------------------------------------------------------------------------

    pub fn member(&self, name: &str) -> &RedisServer {
        &self.members[name]
    }

    pub fn member_mut(&mut self, name: &str) -> &mut RedisServer {
        self.members.get_mut(name).unwrap()
    }

    /// `master` or `slave`, as the member itself says; nothing if it does not answer.
    pub fn role(&self, name: &str) -> Option<&'static str> {
        let info = self.member(name).try_command(&["INFO", "replication"]).ok()?;
        if info.contains("role:master") { Some("master") } else { Some("slave") }
    }

    // ---- asking -----------------------------------------------------------------------------------------------

    /// Runs a verb of the command line.
    pub fn cli(&self, words: &[&str]) -> Ran {
        self.cli_with(&["-o", "json"], words)
    }

    /// The same, for people.
    pub fn cli_text(&self, words: &[&str]) -> Ran {
        self.cli_with(&[], words)
    }

    fn cli_with(&self, before: &[&str], words: &[&str]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_coroner"))
            .args(before)
            .arg("--socket")
            .arg(&self.socket)
            .args(words)
            .current_dir(self.dir())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Asks the control socket.
    pub fn get(&self, path: &str) -> Option<Value> {
        let (status, body) = http::unix(&self.socket, "GET", path, b"").ok()?;
        (status == 200).then(|| serde_json::from_str(&body).unwrap())
    }

    pub fn status(&self) -> Option<Value> {
        self.get("/v1/status")
    }

    /// The status of the cluster.
    pub fn cluster(&self) -> Option<Value> {
        let status = self.status()?;
        status["clusters"].as_array()?.iter().find(|c| c["cluster"] == "orders").cloned()
    }

    /// The incidents, the newest first.
    pub fn incidents(&self) -> Vec<Value> {
        self.get("/v1/incidents").and_then(|list| list.as_array().cloned()).unwrap_or_default()
    }

    /// The incidents that are no rejoins, the newest first.
    pub fn failovers(&self) -> Vec<Value> {
        self.incidents().into_iter().filter(|i| i["kind"] != "rejoin").collect()
    }

    /// One incident with its log.
    pub fn incident(&self, id: &Value) -> Value {
        self.get(&format!("/v1/incidents/{}", id.as_str().unwrap())).unwrap()["incident"].clone()
    }

    /// One value of `/metrics`; `name` with its labels, as it stands there.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = http::tcp(self.http, "GET", "/metrics", None, b"").ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// The guards that stand against a failover now.
    pub fn blocking(&self) -> Vec<String> {
        let Some(cluster) = self.cluster() else { return Vec::new() };
        let guards = cluster["blocking"].as_array().cloned().unwrap_or_default();
        let blocks = guards.iter().filter(|g| g["blocks"] == true);
        blocks.map(|g| g["guard"].as_str().unwrap().to_owned()).collect()
    }

    // ---- waiting ----------------------------------------------------------------------------------------------

    /// Waits until `look` finds something.
    #[track_caller]
    pub fn wait_for<T>(&mut self, what: &str, look: impl FnMut(&mut Self) -> Option<T>) -> T {
        self.wait_within(what, SOON, look)
    }

    #[track_caller]
    pub fn wait_within<T>(&mut self, what: &str, within: Duration, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        let watch = Stopwatch::start();
        loop {
            if self.revive && self.has_died() {
                self.deaths += 1;
                self.spawn(&[]);
            }
            if let Some(found) = look(self) {
                return found;
            }
            if watch.elapsed() > within {
                panic!("waited in vain: {what}\n{}", self.portrait());
            }
            thread::sleep(Duration::from_millis(40));
        }
    }

    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        self.wait_for(what, |world| is_so(world).then_some(()));
    }

    /// Looks again and again, for so long, that it stays so.
    #[track_caller]
    pub fn stays(&mut self, what: &str, for_: Duration, mut is_so: impl FnMut(&mut Self) -> bool) {
        let watch = Stopwatch::start();
        while watch.elapsed() < for_ {
            assert!(is_so(self), "did not stay so: {what}\n{}", self.portrait());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a failover could be done.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        self.wait_until("ready for a failover", |world| {
            // The cooldown is over as soon as somebody takes note.
            let nothing_blocks = world.blocking().iter().all(|guard| guard == "cooldown");
            nothing_blocks
                && world
                    .cluster()
                    .is_some_and(|c| c["verdict"] == "alive" && world.all_follow(&c) && Self::positions_are_known(&c))
        });
    }

    /// Without positions nobody could tell what a failover would lose, and it would be held. A standby stays at 0 for up
    /// to a second after its first copy.
    pub fn positions_are_known(cluster: &Value) -> bool {
        cluster["members"].as_array().is_some_and(|members| members.iter().all(|m| m["position"].as_u64() > Some(0)))
    }

    fn all_follow(&self, cluster: &Value) -> bool {
        let nodes = cluster["nodes"].as_array().cloned().unwrap_or_default();
        nodes.len() == 3 && nodes.iter().all(|n| n["follows"] == cluster["primary"] && n["epoch"] == cluster["epoch"])
    }

    /// Waits until this member is primary, nothing is under way, and the nodes follow and receive.
    #[track_caller]
    pub fn wait_primary(&mut self, member: &str) {
        self.wait_until(&format!("{member} is primary and all follow"), |world| {
            world.cluster().is_some_and(|c| c["primary"] == member && world.all_follow(&c)) && world.is_settled()
        });
        let before: Vec<u64> = self.nodes.iter().map(Node::received).collect();
        self.wait_until("the nodes receive", |world| {
            world.nodes.iter().zip(&before).all(|(node, before)| node.received() > *before)
        });
        assert_eq!(self.role(member), Some("master"));
    }

    /// Waits until this member is a standby, not quarantined, and really follows.
    #[track_caller]
    pub fn wait_standby(&mut self, member: &str) {
        self.wait_until(&format!("{member} is a standby"), |world| {
            let Some(cluster) = world.cluster() else { return false };
            let members = cluster["members"].as_array().cloned().unwrap_or_default();
            let found = members.iter().find(|m| m["member"] == member);
            world.is_settled()
                && found.is_some_and(|m| m["quarantined"] == false && m["role"] == "standby")
                && world.role(member) == Some("slave")
        });
        self.member(member).wait_info("master_link_status:up");
    }

    /// Nothing is under way, and the store knows that all that was has ended: it is a moment behind.
    pub fn is_settled(&self) -> bool {
        self.cluster().is_some_and(|c| c["incident"].is_null())
            && self.incidents().iter().all(|incident| !incident["closed_unix_ms"].is_null())
    }

    /// Waits until this member is primary and the failover has ended, whether all follow or not.
    #[track_caller]
    pub fn wait_end(&mut self, primary: &str) {
        self.wait_until(&format!("{primary} is primary, and nothing is under way"), |world| {
            world.cluster().is_some_and(|c| c["primary"] == primary) && world.is_settled()
        });
    }

    /// Waits until the open incident is held, in the store too; its whole record.
    #[track_caller]
    pub fn wait_held(&mut self) -> Value {
        self.wait_for("the incident is held", |world| {
            let cluster = world.cluster()?;
            let open = (cluster["incident"]["state"] == "held").then(|| cluster["incident"]["id"].clone())?;
            Some(world.incident(&open)).filter(|incident| incident["state"] == "held")
        })
    }

    /// Nothing was done about it: broker-a is primary in its first epoch, and there is no incident.
    #[track_caller]
    pub fn stays_untouched(&mut self, for_: Duration) {
        self.stays("nothing is done", for_, |world| {
            let nothing = world.cluster().is_none_or(|c| c["primary"] == "broker-a" && c["incident"].is_null());
            nothing && world.incidents().is_empty() && world.role("broker-b") == Some("slave")
        });
    }

    /// Everything that helps to understand a failure.
    pub fn portrait(&self) -> String {
        let log = self.log_text();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(60)..].join("\n");
        let pretty = |value: Option<Value>| value.map(|v| format!("{v:#}")).unwrap_or_else(|| "no answer".into());
        let detail: String = self
            .incidents()
            .first()
            .map(|i| self.cli_text(&["incidents", "show", i["id"].as_str().unwrap()]).out)
            .unwrap_or_default();
        let why = self.cli_text(&["why"]).out;
        let cluster = pretty(self.cluster());
        let servers: String =
            self.members.iter().map(|(name, server)| format!("{name}:\n{}\n", server.log_tail())).collect();
        format!("status: {cluster}\n\nwhy: {why}\n\nthe newest incident: {detail}\n\n{servers}\n\nlog:\n{tail}")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill_arbiter();
    }
}

fn redis(dir: &Path, name: &str, options: &Options) -> RedisServer {
    let mut lines = options.redis.clone();
    lines.push(format!("pidfile {}", dir.join(format!("{name}.pid")).display()));
    RedisServer::with(RedisOptions { lines, ..RedisOptions::default() })
}

fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("there is no {program}; install it: apt install redis-server"))
}

fn free_udp_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn indent(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{:by$}{line}\n", "")).collect::<String>().trim_end_matches('\n').to_owned()
}
