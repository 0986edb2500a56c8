//! The lab: a real pair of Redis servers, the real arbiter, nodes, a sender and writers, each on a host of its own.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use coroner::{
    model::{Role, status::ClusterStatus, status::Status},
    sys::clock::Stopwatch,
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    agents,
    checker::{self, Findings},
    client::{answer, env, monotonic},
    net::{NODES, Net, address, run},
};

/// Long enough for a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);
const TOKEN: &str = "a-token-of-the-lab-and-of-nobody-else";
pub(crate) const MEMBERS: [&str; 2] = ["m", "s"];

/// How a lab is to be.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The fence levels, in YAML; `@DIR@` stands for the lab's directory.
    pub(crate) fence: String,
    /// `n3` reports and never follows.
    pub(crate) stuck_node: bool,
    /// Agents beside the members and the nodes, with gates and leases; else the fences alone.
    pub(crate) agents: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { fence: format!("{FIREWALL}{POWER}"), stuck_node: false, agents: false }
    }
}

impl Options {
    /// With agents.
    pub(crate) fn agents() -> Self {
        Self { agents: true, ..Self::default() }
    }
}

/// Level 1: the member's own firewall, over the management network.
pub(crate) const FIREWALL: &str = "
        - { firewall: { via: [\"@DIR@/management\", \"{member}\"], allow: [\"10.213.0.1\"] }, deadline: 2s }";
/// Level 2: its power, by a fence agent.
pub(crate) const POWER: &str = "
        - { fence_agent: { name: \"@DIR@/fence_lab\", options: { plug: \"{member}\" }, power_on_after: true }, deadline: 3s }";

/// One process in a group of its own. Killed with it when dropped.
pub(crate) struct Process {
    child: Child,
    /// Helpers end when it does.
    _stdin: Option<ChildStdin>,
}

impl Process {
    fn start(mut command: Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}; apt install util-linux redis-server"));
        let stdin = child.stdin.take();
        Self { child, _stdin: stdin }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let _ = killpg(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// The lab. Dropping it ends and removes everything.
pub(crate) struct Lab {
    // Processes first, then their network, then their files.
    processes: RefCell<BTreeMap<String, Process>>,
    pub(crate) net: Net,
    dir: TempDir,
    started: Stopwatch,
}

impl Lab {
    /// Sets up the lab with `m` as primary, and waits until everything is as it should be.
    pub(crate) fn new(options: &Options) -> Self {
        let dir = tempfile::Builder::new().prefix("coroner-lab-").tempdir().unwrap();
        let lab = Self { processes: RefCell::default(), net: Net::new(), dir, started: Stopwatch::start() };
        lab.write_files(options);
        for member in MEMBERS {
            lab.start_redis(member);
        }
        lab.until("the pair replicates", || lab.ask("s", &["INFO", "replication"]).contains("master_link_status:up"));
        if options.agents {
            for host in agents::HOSTS {
                lab.start_agent(host);
            }
            for node in NODES {
                lab.helper(node, env::WRITER, "seek,stubborn:m,stubborn:s");
            }
            lab.start_arbiter();
            // On the members' own hosts, where no cut reaches them: their gates keep them out as well.
            lab.helper("m", env::WRITER, "stubborn:m,patient:m");
            lab.helper("s", env::WRITER, "stubborn:s,patient:s");
            lab.whole();
            return lab;
        }
        lab.start_arbiter();
        for node in NODES {
            if options.stuck_node && node == "n3" {
                lab.helper(node, env::STUCK, "");
            } else {
                lab.start_demo("demo-node", node, node, &[]);
            }
        }
        lab.start_sender();
        lab.helper("n1", env::WRITER, "follow,stubborn:m,stubborn:s,patient:m,patient:s");
        lab.helper("n2", env::WRITER, "follow,stubborn:m,stubborn:s");
        // On the members' own hosts, where no cut of the network reaches them.
        lab.helper("m", env::WRITER, "stubborn:m,patient:m");
        lab.helper("s", env::WRITER, "stubborn:s,patient:s");
        lab.whole();
        lab
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write_files(&self, options: &Options) {
        let dir = self.dir.path().display().to_string();
        let namespace = self.net.path("").display().to_string();
        std::fs::create_dir(self.path("acks")).unwrap();
        std::fs::create_dir(self.path("tails")).unwrap();
        let fill = |text: &str| text.replace("@DIR@", &dir).replace("@NS@", &namespace);
        for (name, text) in [("management", MANAGEMENT), ("fence_lab", FENCE_LAB)] {
            std::fs::write(self.path(name), fill(text)).unwrap();
            std::fs::set_permissions(self.path(name), PermissionsExt::from_mode(0o755)).unwrap();
        }
        std::fs::write(self.path("token"), TOKEN).unwrap();
        let config = if options.agents { agents::config(self) } else { CONFIG.replace("@FENCE@", &options.fence) };
        std::fs::write(self.path("lab.yaml"), fill(&config)).unwrap();
        for member in MEMBERS {
            // Without an append-only file a restarted server comes back with the data, and the epoch, of its last full
            // copy; its writes would be acknowledged under an old epoch, and its standby would copy the loss.
            let mut conf = format!(
                "bind {} 127.0.0.1\nport 6379\nprotected-mode no\ndir {dir}/{member}\nunixsocket {dir}/{member}.sock\n\
                 save \"\"\nappendonly yes\nappendfsync everysec\nrepl-diskless-sync-delay 0\nrepl-ping-replica-period 1\nrepl-timeout 5\n\
                 repl-backlog-size 16mb\nmaxmemory-policy noeviction\n",
                address(member)
            );
            if member == "s" {
                conf += &format!("replicaof {} 6379\n", address("m"));
            }
            std::fs::create_dir(self.path(member)).unwrap();
            std::fs::write(self.path(&format!("{member}.conf")), conf).unwrap();
        }
    }

    // ---- processes --------------------------------------------------------------------------------------------

    fn keep(&self, name: &str, process: Process) {
        // What bore the name before is ended by this.
        self.processes.borrow_mut().insert(name.to_owned(), process);
    }

    /// Starts a member's server, with its files as it left them.
    pub(crate) fn start_redis(&self, member: &str) {
        self.spawn_redis(member);
        self.until("redis-server answers", || {
            self.try_ask(member, &["PING"]).is_some_and(|pong| pong.contains("PONG"))
        });
    }

    /// Starts it and does not wait: a fence that is under way may stop it again.
    fn spawn_redis(&self, member: &str) {
        self.kill(member);
        let _ = std::fs::remove_file(self.path(&format!("{member}.sock")));
        let mut command = self.net.command(member);
        command.arg("redis-server").arg(self.path(&format!("{member}.conf")));
        let process = Process::start(command, &self.path(&format!("{member}.log")));
        std::fs::write(self.path(&format!("{member}.pid")), process.child.id().to_string()).unwrap();
        self.keep(member, process);
    }

    pub(crate) fn start_arbiter(&self) {
        self.kill("a");
        let mut command = self.net.command("a");
        command.arg(env!("CARGO_BIN_EXE_coroner")).arg("arbiter").arg("--config").arg(self.path("lab.yaml"));
        command.env(agents::KEY, agents::key(self, "a"));
        self.keep("a", Process::start(command, &self.path("arbiter.log")));
        self.until("the arbiter answers", || self.try_status().is_some());
    }

    /// Starts the agent of a host, with its files as it left them.
    pub(crate) fn start_agent(&self, host: &str) {
        let mut command = self.net.command(host);
        command.arg(env!("CARGO_BIN_EXE_coroner")).args(["agent", "--name", host, "--config"]);
        command.arg(self.path("lab.yaml")).env(agents::KEY, agents::key(self, host));
        let name = format!("agent-{host}");
        self.keep(&name, Process::start(command, &self.path(&format!("{name}.log"))));
    }

    fn start_demo(&self, verb: &str, name: &str, host: &str, more: &[&str]) {
        let mut command = self.net.command(host);
        let port = if verb == "demo-sender" { 9001 } else { 9000 };
        let redis: Vec<String> = MEMBERS.iter().map(|m| format!("{m}={}:6379", address(m))).collect();
        command.arg(env!("CARGO_BIN_EXE_coroner")).args([verb, "--name", name, "--cluster", "lab", "--arbiter"]);
        command.arg(format!("http://{}:7400", address("a"))).args(["--broker", "redis", "--member", &redis.join(",")]);
        command.args(["--listen", &format!("{}:{port}", address(host)), "--token-env", "LAB_TOKEN"]);
        command.arg("--until-stdin-ends").args(more).env("LAB_TOKEN", TOKEN);
        self.keep(name, Process::start(command, &self.path(&format!("{name}.log"))));
    }

    /// Whose attempts make silence mean something.
    pub(crate) fn start_sender(&self) {
        self.start_demo("demo-sender", "sender", "n2", &["--rate", "50"]);
    }

    /// This test binary once more, on a host.
    fn helper(&self, host: &str, role: &str, writers: &str) {
        let mut command = self.net.command(host);
        let members: Vec<String> = MEMBERS.iter().map(|m| format!("{m}={}:6379", address(m))).collect();
        command.arg(std::env::current_exe().unwrap()).args(["--exact", "helper", "--nocapture"]);
        command.env(env::ROLE, role).env(env::NAME, host).env(env::LOGS, self.path("acks")).env(env::TOKEN, TOKEN);
        command.env(env::ARBITER, format!("{}:7400", address("a"))).env(env::MEMBERS, members.join(","));
        command.env(env::WRITERS, writers);
        self.keep(&format!("{role}-{host}"), Process::start(command, &self.path(&format!("{role}-{host}.log"))));
    }

    /// SIGKILL, to the whole group.
    pub(crate) fn kill(&self, name: &str) {
        drop(self.processes.borrow_mut().remove(name));
    }

    pub(crate) fn freeze(&self, name: &str) {
        self.signal(name, Signal::SIGSTOP);
    }

    pub(crate) fn thaw(&self, name: &str) {
        self.signal(name, Signal::SIGCONT);
    }

    pub(crate) fn signal(&self, name: &str, signal: Signal) {
        if let Some(process) = self.processes.borrow().get(name) {
            process.signal(signal);
        }
    }

    /// Ends all who write, the sender as well: a night without traffic.
    pub(crate) fn stop_writers(&self) {
        self.kill("sender");
        for host in ["n1", "n2", "m", "s"] {
            self.kill(&format!("{}-{host}", env::WRITER));
        }
    }

    /// Whether a member's server runs, as far as the lab knows. The fence agent may have killed it.
    pub(crate) fn runs(&self, name: &str) -> bool {
        let mut processes = self.processes.borrow_mut();
        processes.get_mut(name).is_some_and(|p| p.child.try_wait().unwrap().is_none())
    }

    // ---- hosts ------------------------------------------------------------------------------------------------

    /// The management network towards a host hangs.
    pub(crate) fn cut_management(&self, member: &str) {
        std::fs::write(self.path(&format!("{member}.unmanaged")), "").unwrap();
    }

    /// Whether the fence agent has switched a host off.
    pub(crate) fn is_off(&self, member: &str) -> bool {
        self.path(&format!("{member}.off")).exists()
    }

    /// The power comes back, as a person would do it: the host starts with its port closed to all but the
    /// arbiter, as `coroner gate` or a boot-time rule does. Lifting the fence opens it.
    fn power_on(&self, member: &str) {
        let arbiter = address("a");
        self.net.nft(
            member,
            &format!(
                "add table inet lab_power\ndelete table inet lab_power\ntable inet lab_power {{\n chain input {{ type \
                 filter hook input priority 0; ip saddr {arbiter} accept; tcp dport 6379 drop; }}\n}}\n"
            ),
        );
        std::fs::remove_file(self.path(&format!("{member}.off"))).unwrap();
    }

    /// Mends all that faults can break: cuts, frozen and dead processes, settings, power.
    pub(crate) fn heal(&self) {
        self.net.heal();
        for member in MEMBERS {
            let _ = std::fs::remove_file(self.path(&format!("{member}.unmanaged")));
            // A fence may be stopping it while it is mended: then it is mended again.
            self.until("a mended member answers", || {
                if self.is_off(member) {
                    self.power_on(member);
                }
                self.thaw(member);
                if !self.runs(member) {
                    self.spawn_redis(member);
                }
                self.try_ask(member, &["CONFIG", "SET", "maxmemory", "0"]).is_some()
            });
            self.want_no_replicas(member);
        }
        self.thaw("a");
        if !self.runs("a") {
            self.start_arbiter();
        }
        for node in NODES {
            self.thaw(node);
        }
    }

    /// Takes back what the fault `PrimaryWantsReplicas` set; a fence that lies on top of it is lifted first.
    fn want_no_replicas(&self, member: &str) {
        let set = self.try_ask(member, &["CONFIG", "GET", "min-replicas-to-write"]);
        if set.is_some_and(|answer| answer.ends_with("\r\n5\r\n")) {
            self.try_ask(member, &["CONFIG", "SET", "min-replicas-to-write", "0"]);
        }
    }

    // ---- questions --------------------------------------------------------------------------------------------

    /// Asks a member's server over its Unix socket, which no cut and no fence reaches.
    ///
    /// A member that is led back ends its clients' connections, this one too: it is asked again.
    pub(crate) fn ask(&self, member: &str, words: &[&str]) -> String {
        for _ in 0..20 {
            if let Some(answer) = self.try_ask(member, words) {
                return answer;
            }
            sleep(Duration::from_millis(100));
        }
        panic!("{member} does not answer {words:?}")
    }

    fn try_ask(&self, member: &str, words: &[&str]) -> Option<String> {
        let mut stream = UnixStream::connect(self.path(&format!("{member}.sock"))).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let mut packed = format!("*{}\r\n", words.len());
        for word in words {
            packed += &format!("${}\r\n{word}\r\n", word.len());
        }
        packed += "*1\r\n$4\r\nQUIT\r\n";
        stream.write_all(packed.as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text.strip_suffix("+OK\r\n").unwrap_or(&text).to_owned())
    }

    fn get(&self, path: &str) -> Option<Value> {
        let mut stream = UnixStream::connect(self.path("coroner.sock")).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (status, body) = answer(&text)?;
        (status == 200).then(|| serde_json::from_str(&body).ok())?
    }

    pub(crate) fn try_status(&self) -> Option<ClusterStatus> {
        let status: Status = serde_json::from_value(self.get("/v1/status")?).unwrap();
        status.clusters.into_iter().next()
    }

    pub(crate) fn status(&self) -> ClusterStatus {
        self.try_status().expect("the arbiter answers")
    }

    /// All incidents, in full, the oldest first.
    pub(crate) fn incidents(&self) -> Vec<Value> {
        let list = self.get("/v1/incidents").expect("the arbiter answers");
        let items = list.as_array().or_else(|| list["incidents"].as_array()).expect("a list").clone();
        let mut all: Vec<Value> =
            items.iter().filter_map(|i| self.get(&format!("/v1/incidents/{}", i["id"].as_str()?))).collect();
        all.sort_by(|a, b| a["incident"]["id"].as_str().cmp(&b["incident"]["id"].as_str()));
        all
    }

    /// A verb of the command line.
    pub(crate) fn coroner(&self, words: &[&str]) -> (bool, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_coroner"))
            .args(words)
            .arg("--socket")
            .arg(self.path("coroner.sock"))
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// What the writers logged so far, judged.
    pub(crate) fn findings(&self) -> Findings {
        checker::check(checker::read(&self.path("acks")), "m")
    }

    // ---- waiting ----------------------------------------------------------------------------------------------

    pub(crate) fn until(&self, what: &str, holds: impl FnMut() -> bool) {
        self.until_within(what, LONG, holds);
    }

    pub(crate) fn until_within(&self, what: &str, bound: Duration, mut holds: impl FnMut() -> bool) {
        let watch = Stopwatch::start();
        while !holds() {
            if watch.elapsed() > bound {
                panic!("still not after {bound:?}: {what}\n{}", self.story());
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits until another than `member` is primary in an epoch above `epoch`.
    pub(crate) fn moved(&self, member: &str, epoch: u64) {
        self.until(&format!("{member} is replaced"), || {
            self.try_status()
                .is_some_and(|s| s.epoch.0 > epoch && s.primary.as_ref().is_some_and(|p| p.as_str() != member))
        });
    }

    /// What is missing until one primary serves, the pair is whole, and the arbiter could act again.
    fn missing(&self) -> Option<String> {
        let Some(status) = self.try_status() else { return Some("the arbiter does not answer".into()) };
        for member in MEMBERS.iter().filter(|m| self.is_off(m) && status.incident.is_none()) {
            // Switched off after the fault was over: a person goes there and switches it on.
            self.power_on(member);
            self.start_redis(member);
        }
        for member in MEMBERS.iter().filter(|m| !self.is_off(m) && !self.runs(m)) {
            // Stopped by a fence after the fault was over: what a supervisor would do.
            self.spawn_redis(member);
        }
        if let Some(incident) = &status.incident {
            return Some(format!("incident {} is {}: {:?}", incident.id, incident.state, incident.state_reason));
        }
        let Some(primary) = status.primary.as_ref().map(|p| p.as_str().to_owned()) else {
            return Some("no primary".into());
        };
        let standby = other(&primary);
        for member in &status.members {
            let wanted = if member.member.as_str() == primary { Role::Primary } else { Role::Standby };
            if member.quarantined || member.claims != Some(wanted) {
                return Some(format!("{member:?} is not a {wanted}"));
            }
        }
        if let Some(node) = status.nodes.iter().find(|n| n.seen.is_none_or(|seen| seen > Duration::from_secs(1))) {
            return Some(format!("{node:?} does not report"));
        }
        MEMBERS.iter().for_each(|member| self.want_no_replicas(member));
        let info = self.try_ask(standby, &["INFO", "replication"]).unwrap_or_default();
        if !info.contains("master_link_status:up") {
            return Some(format!("{standby} does not replicate"));
        }
        if !status.ready {
            if status.blocking.iter().any(|g| g.guard.to_string() == "cooldown") {
                // What an operator does after a failover: the next one may come.
                self.coroner(&["incidents", "ack", "last", "--note", "seen in the lab"]);
            }
            return Some(format!("not ready: {:?}", status.blocking));
        }
        None
    }

    /// Waits until one primary serves and the pair is whole again.
    pub(crate) fn whole(&self) {
        let mut why = None;
        let watch = Stopwatch::start();
        while watch.elapsed() < LONG {
            why = self.missing();
            if why.is_none() {
                // A primary that was never asked is not known, and what is not known never dies.
                sleep(Duration::from_millis(400));
                why = self.missing();
            }
            if why.is_none() {
                return;
            }
            sleep(Duration::from_millis(50));
        }
        panic!("not whole after {LONG:?}: {why:?}\n{}", self.story());
    }

    /// Nothing may happen for so long: the epoch stays, and the primary.
    pub(crate) fn holds_for(&self, period: Duration) {
        let before = self.status();
        let watch = Stopwatch::start();
        while watch.elapsed() < period {
            if let Some(now) = self.try_status() {
                assert_eq!((&now.primary, now.epoch), (&before.primary, before.epoch), "{}", self.story());
                assert!(now.incident.is_none(), "{:?}\n{}", now.incident, self.story());
            }
            sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn now(&self) -> u64 {
        monotonic()
    }

    /// The newest incident and the arbiter's last words, for a test that failed.
    pub(crate) fn story(&self) -> String {
        let mut text = format!("after {:?}\n", self.started.elapsed());
        if self.try_status().is_some() {
            text += &self.coroner(&["status"]).1;
            text += &self.coroner(&["why", "lab"]).1;
            text += &self.coroner(&["why-not", "lab"]).1;
            text += &self.coroner(&["incidents", "show", "last"]).1;
        }
        for name in ["arbiter", "agent-m", "agent-s", "agent-n1", "m", "s"] {
            let log = std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text += &format!("---- {name}\n{}\n", lines[lines.len().saturating_sub(80)..].join("\n"));
        }
        text
    }
}

/// The other member.
pub(crate) fn other(member: &str) -> &'static str {
    if member == "m" { "s" } else { "m" }
}

/// Checks a file with the checker of the command line, which has to be content.
pub(crate) fn check_file(path: &Path) {
    run(env!("CARGO_BIN_EXE_coroner"), &["check", path.to_str().unwrap()], "");
}

/// The way to a member's host that does not depend on the service's network, as a management network has it.
const MANAGEMENT: &str = r#"#!/bin/sh
member=$1; shift
[ -e "@DIR@/$member.unmanaged" ] && exec sleep 60
exec nsenter --net=@NS@$member -- "$@"
"#;

/// A fence agent that switches a host's power: everything on it is killed, nothing leaves it.
const FENCE_LAB: &str = r#"#!/bin/sh
while IFS='=' read -r key value; do case $key in action) action=$value;; plug) plug=$value;; esac; done
off=@DIR@/$plug.off
case $action in
  off)
    nsenter --net=@NS@$plug -- nft -f - <<END || exit 1
add table inet lab_power
delete table inet lab_power
table inet lab_power {
  chain input { type filter hook input priority 0; policy drop; }
  chain output { type filter hook output priority 0; policy drop; }
}
END
    touch "$off"
    kill -s KILL -- "-$(cat "@DIR@/$plug.pid")" 2>/dev/null
    exit 0 ;;
  on) nsenter --net=@NS@$plug -- nft delete table inet lab_power; rm -f "$off"; exit 0 ;;
  status|monitor) [ -e "$off" ] && exit 2; exit 0 ;;
esac
exit 1
"#;

const CONFIG: &str = r#"
arbiter:
  name: lab-arbiter
  listen: { http: "10.213.0.1:7400", socket: "@DIR@/coroner.sock" }
  store: "sqlite:@DIR@/coroner.db"
  access:
    - { name: nodes, role: report, token: "${file:@DIR@/token}", reports_as: [n1, n2, n3, sender] }
  tilt: { after: 500ms, for: 1s }
  check_fences_every: 5s
clusters:
  lab:
    mode: auto
    broker: { redis: { keep_tail_in: "@DIR@/tails" } }
    members:
      m: { address: "10.213.0.11:6379" }
      s: { address: "10.213.0.12:6379" }
    nodes:
      n1: { address: "10.213.0.21:9000" }
      n2: { address: "10.213.0.22:9000" }
      n3: { address: "10.213.0.23:9000" }
      sender: { address: "10.213.0.22:9001" }
    signals:
      arrivals: { push: { from: nodes, every: 200ms } }
      ping:  { broker: { ask: ping, of: primary, every: 100ms, timeout: 90ms } }
      write: { broker: { ask: write, of: primary, every: 200ms, timeout: 150ms } }
      role:  { broker: { ask: role, of: members, every: 200ms, timeout: 150ms } }
      link:  { broker: { ask: replication_link, of: standbys, every: 200ms, timeout: 150ms } }
    death_rules:
      - name: the port is closed
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
            - ping: { silent: 800ms }
            - at_least: { count: majority, of: arrivals, are: { silent: 800ms } }
        verdict: dead
        then: failover
      - name: answers, but takes no writes
        when:
          all:
            - ping: ok
            - write: { failing: 3 of 3 }
            - at_least: { count: majority, of: arrivals, are: { silent: 800ms } }
        for: 400ms
        verdict: gray
        then: failover
      - name: answers, but reaches no node
        when:
          all:
            - ping: ok
            - write: ok
            - at_least: { count: majority, of: arrivals, are: { silent: 1s } }
        for: 500ms
        verdict: gray
        then: switchover
      - name: does not answer the arbiter
        when: { ping: { silent: 500ms } }
        verdict: suspect
        then: alert
    failover:
      fence: @FENCE@
      catch_up: { within: 2s }
      promote: { within: 3s }
      max_loss: any
      redirect: [{ http: { path: /primary }, deadline: 1s }]
      redirect_within: 4s
      rejoin: follow
      candidate: { fresh_for: 3s }
      cooldown: 1m
      budget: { failovers: 1000, per: 1d }
"#;
