//! What all rivals share: hosts, a pair of Redis servers, processes, faults.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Write as _},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    client::{Clients, Place, now},
    net::{Net, address},
};

/// The members; a server's number is its place here.
pub(crate) const MEMBERS: [&str; 2] = ["m", "s"];

/// The other member.
pub(crate) fn other(member: &str) -> &'static str {
    if member == "m" { "s" } else { "m" }
}

/// A member's number.
pub(crate) fn number(member: &str) -> usize {
    usize::from(member != "m")
}

/// What is done to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    /// With 1 GiB resident.
    KillBig,
    Freeze,
    /// No packet passes to or from its host; a second later everything on it ends.
    Cut,
    /// No packet passes, and everything on its host ends at once.
    Off,
}

/// A standby to which the log flows is never this far behind: a tenth of a second of the clients' load.
const STREAMING_WITHIN: u64 = 10_000;

impl Fault {
    pub(crate) const ALL: [Self; 5] = [Self::Kill, Self::KillBig, Self::Freeze, Self::Cut, Self::Off];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillBig => "kill-1gib",
            Self::Freeze => "freeze",
            Self::Cut => "cut",
            Self::Off => "off",
        }
    }

    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 of the primary",
            Self::KillBig => "kill -9 with 1 GiB resident",
            Self::Freeze => "primary frozen (SIGSTOP)",
            Self::Cut => "host cut off, killed 1 s later",
            Self::Off => "host powered off (drop, then kill)",
        }
    }
}

/// One process in a group of its own. Killed with it when dropped.
struct Process {
    child: Child,
}

impl Process {
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // What it started may have made a group of its own.
        let own = children(pid);
        let _ = killpg(Pid::from_raw(pid), signal);
        for child in own {
            let _ = kill(Pid::from_raw(child), signal);
        }
    }
}

/// The children of a process that we started, and theirs.
fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let direct: Vec<i32> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    direct.iter().flat_map(|child| [*child].into_iter().chain(children(*child))).collect()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// The hosts and what runs on them. Dropping it ends and removes everything.
pub(crate) struct Stage {
    // Processes first, then their network, then their files.
    processes: RefCell<BTreeMap<String, Process>>,
    pub(crate) clients: Clients,
    pub(crate) net: Net,
    dir: TempDir,
    is_big: bool,
}

impl Stage {
    /// Hosts, the pair with `m` as primary, and the clients. `virtual_address`: one more way to the primary.
    pub(crate) fn new(is_big: bool, virtual_address: Option<&str>) -> Self {
        let dir = tempfile::Builder::new().prefix("coroner-rivals-").tempdir().unwrap();
        let net = Net::new();
        let at = |member: &str| format!("{}:6379", address(member)).parse().unwrap();
        let mut addresses: Vec<_> = MEMBERS.iter().map(|m| (at(m), Some(number(m)))).collect();
        if let Some(address) = virtual_address {
            addresses = vec![(format!("{address}:6379").parse().unwrap(), None)];
        }
        let remote = Place { namespace: net.path("n1"), addresses, is_remote: true, every: Duration::from_millis(1) };
        let own = MEMBERS.map(|member| Place {
            namespace: net.path(member),
            addresses: vec![(at(member), Some(number(member)))],
            is_remote: false,
            every: Duration::from_millis(10),
        });
        let clients = Clients::start([remote].into_iter().chain(own).collect());
        let stage = Self { processes: RefCell::default(), clients, net, dir, is_big };
        for member in MEMBERS {
            stage.write_conf(member);
            stage.start_redis(member, (member == "s").then_some("m"));
        }
        if is_big {
            // Not replicated: each makes its own, under the same names.
            for member in MEMBERS {
                stage.ask(member, &["CONFIG", "SET", "replica-read-only", "no"]);
                stage.ask(member, &["DEBUG", "POPULATE", "1024", "big", "1048576"]);
                stage.ask(member, &["CONFIG", "SET", "replica-read-only", "yes"]);
            }
        }
        stage.until("the pair replicates", || stage.replicates("s"));
        stage
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write_conf(&self, member: &str) {
        let dir = self.dir.path().display();
        std::fs::create_dir(self.path(member)).unwrap();
        let conf = format!(
            "bind 0.0.0.0\nport 6379\nprotected-mode no\ndir {dir}/{member}\nunixsocket {dir}/{member}.sock\nsave \"\"\n\
             appendonly no\nsyslog-ident rival-{}\nenable-debug-command yes\nrepl-diskless-sync yes\n\
             repl-diskless-sync-delay 0\nrepl-diskless-load on-empty-db\nrepl-ping-replica-period 1\nrepl-timeout 5\n\
             repl-backlog-size 16mb\n",
            number(member)
        );
        std::fs::write(self.path(&format!("{member}.conf")), conf).unwrap();
    }

    // ---- processes --------------------------------------------------------------------------------------------

    /// Starts a program on a host, under a name; what bore the name before is ended.
    pub(crate) fn start(&self, name: &str, mut command: Command) -> u32 {
        self.kill(name);
        let log = File::options().create(true).append(true).open(self.path(&format!("{name}.log"))).unwrap();
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}; apt install util-linux redis-server keepalived"));
        let pid = child.id();
        self.processes.borrow_mut().insert(name.to_owned(), Process { child });
        pid
    }

    /// Starts a member's server with its configuration as it left it; `follow`: as a standby of that one.
    pub(crate) fn start_redis(&self, member: &str, follow: Option<&str>) {
        let _ = std::fs::remove_file(self.path(&format!("{member}.sock")));
        let mut command = self.net.command(member);
        command.arg("redis-server").arg(self.path(&format!("{member}.conf")));
        if let Some(primary) = follow {
            command.args(["--replicaof", address(primary), "6379"]);
        }
        let pid = self.start(member, command);
        std::fs::write(self.path(&format!("{member}.pid")), pid.to_string()).unwrap();
        // A fence that is under way may stop it again; it is started again once all is well.
        self.until("redis-server answers", || {
            !self.runs(member) || self.try_ask(member, &["PING"]).is_some_and(|pong| pong.contains("PONG"))
        });
    }

    /// SIGKILL, to the whole group; waits for its end.
    pub(crate) fn kill(&self, name: &str) {
        drop(self.processes.borrow_mut().remove(name));
    }

    pub(crate) fn signal(&self, name: &str, signal: Signal) {
        if let Some(process) = self.processes.borrow().get(name) {
            process.signal(signal);
        }
    }

    pub(crate) fn pid(&self, name: &str) -> Option<u32> {
        self.processes.borrow().get(name).map(|process| process.child.id())
    }

    pub(crate) fn runs(&self, name: &str) -> bool {
        self.processes.borrow_mut().get_mut(name).is_some_and(|p| p.child.try_wait().unwrap().is_none())
    }

    // ---- faults -----------------------------------------------------------------------------------------------

    /// Does it to a member's host, on which these run besides the server. Returns when it was done.
    pub(crate) fn strike(&self, fault: Fault, member: &str, beside: &[String]) -> u64 {
        let at = now();
        match fault {
            Fault::Kill | Fault::KillBig => self.signal(member, Signal::SIGKILL),
            Fault::Freeze => self.signal(member, Signal::SIGSTOP),
            Fault::Cut | Fault::Off => {
                self.isolate(member);
                if fault == Fault::Off {
                    self.power_off(member, beside);
                }
                // Between the first and the last moment of the command: when the last answer came through.
                return self.clients.last(number(member), true).map_or(at, |last| last.max(at));
            }
        }
        at
    }

    pub(crate) fn power_off(&self, member: &str, beside: &[String]) {
        for name in beside {
            self.signal(name, Signal::SIGKILL);
        }
        self.signal(member, Signal::SIGKILL);
        beside.iter().for_each(|name| self.kill(name));
        self.kill(member);
    }

    /// Cuts a host from all others, in one transaction, whatever addresses it has.
    fn isolate(&self, host: &str) {
        let script = format!(
            "add rule bridge lab forward iifname \"to-{host}\" drop\nadd rule bridge lab forward oifname \"to-{host}\" drop\n"
        );
        self.net.nft("b", &script);
    }

    /// Everybody reaches everybody again.
    pub(crate) fn mend_network(&self) {
        self.net.nft("b", "flush chain bridge lab forward\n");
    }

    // ---- questions --------------------------------------------------------------------------------------------

    /// Asks a member's server over its Unix socket, which no cut and no fence reaches.
    pub(crate) fn try_ask(&self, member: &str, words: &[&str]) -> Option<String> {
        let mut stream = UnixStream::connect(self.path(&format!("{member}.sock"))).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
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

    pub(crate) fn ask(&self, member: &str, words: &[&str]) -> String {
        (0..100)
            .find_map(|_| {
                self.try_ask(member, words).or_else(|| {
                    sleep(Duration::from_millis(50));
                    None
                })
            })
            .unwrap_or_else(|| panic!("{member} does not answer {words:?}"))
    }

    /// Whether a member follows, and its link is up.
    pub(crate) fn replicates(&self, member: &str) -> bool {
        self.try_ask(member, &["INFO", "replication"]).is_some_and(|info| info.contains("master_link_status:up"))
    }

    /// The one that calls itself primary, if the other one replicates from it.
    pub(crate) fn primary(&self) -> Result<&'static str, String> {
        let says = |member: &str| self.try_ask(member, &["INFO", "replication"]).unwrap_or_default();
        let [m, s] = MEMBERS.map(says);
        let (primary, standby) = match (m.contains("role:master"), s.contains("role:master")) {
            (true, false) => ("m", "s"),
            (false, true) => ("s", "m"),
            (m, s) => return Err(format!("m is primary: {m}, s is primary: {s}")),
        };
        let text = if standby == "m" { m } else { s };
        let follows = format!("master_host:{}", address(primary));
        if !text.contains(&follows) || !text.contains("master_link_status:up") {
            return Err(format!("{standby} does not replicate from {primary}"));
        }
        if self.is_big && !self.ask(standby, &["DBSIZE"]).contains(":10") {
            return Err(format!("{standby} does not have all"));
        }
        // A link is up before anything flows over it: after a copy the primary waits, up to a second, for the standby's
        // first word. Until then there is no second copy of what is acknowledged, and whoever takes over waits for one.
        let offset = |member: &str| {
            let info = self.ask(member, &["INFO", "replication"]);
            let field = if member == primary { "master_repl_offset:" } else { "slave_repl_offset:" };
            info.lines().find_map(|line| line.strip_prefix(field)?.trim().parse::<u64>().ok())
        };
        match (offset(primary), offset(standby)) {
            (Some(ahead), Some(has)) if has + STREAMING_WITHIN >= ahead => Ok(primary),
            (ahead, has) => Err(format!("{standby} is at {has:?}, {primary} at {ahead:?}")),
        }
    }

    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let started = now();
        while !holds() {
            assert!(now() - started < 60_000_000_000, "still not after a minute: {what}\n{}", self.story());
            sleep(Duration::from_millis(20));
        }
    }

    /// The last words of all.
    pub(crate) fn story(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.dir.path()).unwrap().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "log") {
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let name = path.file_name().unwrap_or_default().display().to_string();
                text += &format!("---- {name}\n{}\n", lines[lines.len().saturating_sub(25)..].join("\n"));
            }
        }
        text
    }
}

/// A file that can be run.
pub(crate) fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
