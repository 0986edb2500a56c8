//! Agents as processes, each in a network namespace of its own, before real Redis instances. The test is the arbiter.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    net::TcpStream,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use coroner::{
    agent::{
        driver::{Event, NoHost, Options, PartyThread, draw_life},
        durable::DurableFile,
        setup::setup,
        socket::AgentStatus,
    },
    config::{AgentEnvironment, load_with},
    mesh::{
        keys::PrivateKey,
        message::{Beat, DeedOrder},
        party::{Input, Output, Party},
    },
    model::{
        Epoch, FenceVerdict, IncidentId, Proof, StepResult,
        agent::{Deed, DeedResult, GateState, LeaseState, OrderId, Watch},
    },
    sys::clock::{self, Stopwatch},
};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::net::{Net, address};

const LONG: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_millis(200);
const AGENTS: [&str; 3] = ["m", "s", "n1"];

const CONFIG: &str = r#"
arbiter: { name: a, store: "sqlite:@DIR@/coroner.db" }
mesh:
  key: "${env:TEST_MESH_KEY}"
  parties:
@PARTIES@  ping_every: 100ms
  beat_every: 100ms
  state: "@DIR@/state"
  socket: "@DIR@/{name}.sock"
clusters:
  lab:
    mode: auto
    broker: { redis: {} }
    members: { m: { address: "10.213.0.11:6379" }, s: { address: "10.213.0.12:6379" } }
    nodes: [n1]
    agent:
      broker: { pid_file: "@DIR@/{member}.pid" }
      gate: { local: open }
      progress: { every: 50ms, timeout: 200ms }
      restart_grace: 5s
      start_within: 1s
    observe: { channels: [orders] }
    signals:
      process: { agent: { watch: process, of: primary } }
    death_rules: [{ name: gone, when: { process: exited }, verdict: dead, then: failover }]
    failover: { lease: { length: 200ms }, fence: [[gate, kill]], max_loss: any }
"#;

struct Process(Child);

impl Process {
    fn start(mut command: Command, log: PathBuf) -> Self {
        let log = File::options().create(true).append(true).open(log).unwrap();
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}; apt install util-linux redis-server")))
    }

    fn signal(&self, signal: Signal) {
        let _ = killpg(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// Everything, in the order in which it is to end.
struct Lab {
    processes: BTreeMap<String, Process>,
    arbiter: Option<PartyThread>,
    events: Receiver<Event>,
    net: Net,
    dir: TempDir,
    number: u32,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(thread) = self.arbiter.take() {
            thread.stop();
        }
        if std::thread::panicking() {
            for agent in AGENTS {
                let log = std::fs::read_to_string(self.dir.path().join(format!("{agent}.log"))).unwrap_or_default();
                eprintln!("--- {agent}\n{log}");
            }
        }
    }
}

impl Lab {
    fn new() -> Self {
        let (net, dir) = (Net::new(), TempDir::new().unwrap());
        let keys: BTreeMap<&str, PrivateKey> =
            AGENTS.into_iter().chain(["a"]).map(|host| (host, PrivateKey::generate().unwrap())).collect();
        let mut parties = String::new();
        for (host, key) in &keys {
            std::fs::write(dir.path().join(format!("{host}.key")), key.reveal()).unwrap();
            parties += &format!("    {host}: {{ key: \"{}\", address: \"{}:7402\" }}\n", key.public(), address(host));
        }
        let text = CONFIG.replace("@DIR@", &dir.path().display().to_string()).replace("@PARTIES@", &parties);
        let file = dir.path().join("coroner.yaml");
        std::fs::write(&file, text).unwrap();

        let config = load_with(&file, &AgentEnvironment).unwrap_or_else(|e| panic!("{e}"));
        let setup = setup(&config, &"a".into(), draw_life().unwrap()).unwrap();
        let options = Options { address: setup.parties["a"].address, is_real_time: false };
        let key = PrivateKey::parse(&keys["a"].reveal()).unwrap();
        let party = Party::new(clock::moment(), setup, key, Default::default());
        let disk = DurableFile::new(&dir.path().join("state"), &"a".into());
        disk.load().unwrap();
        let (sink, events) = channel();
        let sink = Box::new(move |event| drop(sink.send(event)));
        let start = move || PartyThread::start(options, party, NoHost, disk, sink).unwrap();
        let arbiter = Some(within(&net, "a", start));
        let mut lab = Self { processes: BTreeMap::new(), arbiter, events, net, dir, number: 0 };
        lab.start_redis("m");
        lab.start_redis("s");
        for agent in AGENTS {
            lab.start_agent(agent);
        }
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start_redis(&mut self, member: &str) {
        let mut command = self.net.command(member);
        command.args(["redis-server", "--port", "6379", "--protected-mode", "no", "--save", "", "--pidfile"]);
        command.arg(self.path(&format!("{member}.pid")));
        if member == "s" {
            command.args(["--replicaof", address("m"), "6379"]);
        }
        let process = Process::start(command, self.path(&format!("redis-{member}.log")));
        self.processes.insert(format!("redis-{member}"), process);
    }

    fn coroner(&self, host: &str, words: &[&str]) -> Command {
        let mut command = self.net.command(host);
        command.arg(env!("CARGO_BIN_EXE_coroner")).args(words).arg("--config").arg(self.path("coroner.yaml"));
        command.args(["--name", host]);
        command.env("TEST_MESH_KEY", std::fs::read_to_string(self.path(&format!("{host}.key"))).unwrap());
        command
    }

    fn start_agent(&mut self, host: &str) {
        let process = Process::start(self.coroner(host, &["agent"]), self.path(&format!("{host}.log")));
        self.processes.insert(format!("agent-{host}"), process);
    }

    fn gate_wait(&self, host: &str) -> i32 {
        self.coroner(host, &["gate", "wait"]).output().unwrap().status.code().unwrap()
    }

    fn agent_status(&self, host: &str) -> AgentStatus {
        let output = self.coroner(host, &["--output", "json", "gate", "status"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    }

    /// Waits for a beat of that party that is as wanted.
    fn beat<R>(&self, of: &str, what: &str, mut look: impl FnMut(&Beat) -> Option<R>) -> R {
        let watch = Stopwatch::start();
        let mut last = None;
        while watch.elapsed() < LONG {
            if let Ok(Event::Told(Output::Heard { from, beat, .. })) = self.events.recv_timeout(LONG)
                && from.as_str() == of
            {
                if let Some(found) = look(&beat) {
                    return found;
                }
                last = Some(beat);
            }
        }
        panic!("not within {LONG:?}: {what}; last: {last:#?}");
    }

    fn order(&mut self, to: &str, epoch: u64, deed: Deed) -> DeedResult {
        self.number += 1;
        let id = OrderId { incident: IncidentId::from("test"), number: self.number };
        let member = if to == "n1" { "s" } else { to };
        let order = DeedOrder {
            id: id.clone(),
            cluster: "lab".into(),
            member: member.into(),
            epoch: Epoch(epoch),
            challenge: 0,
            deed,
            deadline: Duration::from_secs(10),
        };
        self.arbiter.as_ref().unwrap().handle().send(Input::Order { to: to.into(), order: Box::new(order) });
        let watch = Stopwatch::start();
        while watch.elapsed() < LONG {
            if let Ok(Event::Told(Output::Answer { id: of, result, .. })) = self.events.recv_timeout(LONG)
                && of == id
                && result != DeedResult::Taken
            {
                return result;
            }
        }
        panic!("no answer to {id:?}");
    }

    /// Whether a client at the node gets an answer of the member.
    fn answers(&self, member: &'static str) -> bool {
        within(&self.net, "n1", move || ping(member))
    }

    fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let watch = Stopwatch::start();
        while !holds(self) {
            assert!(watch.elapsed() < LONG, "not within {LONG:?}: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn ping(member: &str) -> bool {
    let to = format!("{}:6379", address(member)).parse().unwrap();
    let soon = Duration::from_millis(50);
    TcpStream::connect_timeout(&to, soon).is_ok_and(|mut stream| {
        stream.set_read_timeout(Some(soon)).unwrap();
        let mut answer = [0; 7];
        std::io::Write::write_all(&mut stream, b"PING\r\n").is_ok() && stream.read_exact(&mut answer).is_ok()
    })
}

/// Does something in a host's network.
fn within<R: Send + 'static>(net: &Net, host: &str, act: impl FnOnce() -> R + Send + 'static) -> R {
    let file = File::open(net.path(host)).unwrap();
    let there = std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
        act()
    });
    there.join().unwrap()
}

fn ended(result: DeedResult) -> StepResult {
    match result {
        DeedResult::Ended(result) => *result,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_agent_holds_a_lease_loses_it_when_stopped_and_obeys_orders() {
    let mut lab = Lab::new();
    lab.beat("m", "the gate of m is proved", |beat| (beat.members.first()?.2.gate == GateState::Closed).then_some(()));
    lab.beat("s", "the gate of s is proved", |beat| (beat.members.first()?.2.gate == GateState::Closed).then_some(()));
    assert!(!lab.answers("m"), "nobody was appointed, and the gate lets clients through");

    // Appointed: it holds the lease, and its gate is open.
    let appointed = ended(lab.order("m", 1, Deed::Appoint));
    assert!(matches!(appointed, StepResult::Done(_)), "{appointed:?}");
    lab.until("clients reach m", |lab| lab.answers("m"));
    let report = lab.beat("m", "m holds its lease", |beat| {
        let report = &beat.members.first()?.2;
        (matches!(report.lease, LeaseState::Held { .. }) && report.gate == GateState::Open).then(|| report.clone())
    });
    assert_eq!(report.appointed, Some(Epoch(1)));
    assert!(report.role.is_some() && report.identity.pid > 0, "{report:?}");
    assert!(!lab.answers("s"), "a standby serves no clients");
    assert_eq!(lab.gate_wait("m"), 0, "the primary may start: its lease is held");
    assert_eq!(lab.gate_wait("s"), 0, "a standby may start behind its gate");

    // What arrives at the node is counted there.
    lab.order(
        "n1",
        1,
        Deed::Redirect { primary: "m".into(), address: format!("{}:6379", address("m")), fenced: Vec::new() },
    );
    lab.until("the node counts arrivals", |lab| {
        let mut command = lab.net.command("m");
        command.args(["redis-cli", "-h", address("m"), "publish", "orders", "x"]);
        assert!(command.output().unwrap().status.success());
        let beat = lab.beat("n1", "a beat of the node", |beat| beat.nodes.first().cloned());
        let arrivals = beat.2;
        arrivals.received > 0 && arrivals.epoch == Epoch(1) && arrivals.primary == Some("m".into())
    });

    // An agent that is stopped keeps no port open.
    lab.processes["agent-m"].signal(Signal::SIGSTOP);
    let watch = Stopwatch::start();
    lab.until("the kernel shuts the gate", |lab| !lab.answers("m"));
    let shut_after = watch.elapsed();
    assert!(shut_after < Duration::from_secs(2), "{shut_after:?}");
    lab.processes["agent-m"].signal(Signal::SIGCONT);
    lab.until("the lease comes back", |lab| lab.answers("m"));

    // A process that dies is told at once, and may come back within the grace.
    let pid: i32 = std::fs::read_to_string(lab.path("m.pid")).unwrap().trim().parse().unwrap();
    let watch = Stopwatch::start();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    lab.beat("m", "the process is gone", |beat| {
        let evidence = &beat.members.first()?.2.evidence;
        evidence.iter().any(|e| e.watch == Watch::Process && e.is_so).then_some(())
    });
    let told_after = watch.elapsed();
    assert_eq!(lab.gate_wait("m"), 0, "it may come back within the grace");
    lab.start_redis("m");
    lab.until("it serves again", |lab| lab.answers("m"));

    // Fenced: killed, the gate shut, and it may not start again, over a restart of the agent too.
    let fence = Deed::Fence { name: "kill".into(), preserve: Duration::from_millis(100) };
    let StepResult::Fenced(report) = ended(lab.order("m", 2, fence)) else { panic!("a fence") };
    assert_eq!(report.verdict, FenceVerdict::Confirmed, "{report:?}");
    assert!(report.proof.meets(Proof::Gate), "{report:?}");
    assert!(!lab.answers("m"));
    assert_eq!(lab.gate_wait("m"), 77);
    lab.processes["agent-m"].signal(Signal::SIGTERM);
    assert!(lab.processes.get_mut("agent-m").unwrap().0.wait().unwrap().success());
    assert_eq!(lab.gate_wait("m"), 69, "no agent answers, and no boot is held up");
    lab.start_agent("m");
    assert_eq!(lab.gate_wait("m"), 77);
    let old = lab.order("m", 1, Deed::Appoint);
    assert!(matches!(old, DeedResult::Refused { .. }), "{old:?}");

    let status = lab.agent_status("s");
    let (resident, private) = (status.memory.resident_bytes.unwrap(), status.memory.private_bytes.unwrap());
    println!(
        "shut {shut_after:?} after the stop (lease {LEASE:?}); told of the exit after {told_after:?}; resident {} KiB, \
         {} of them its own; latest turn {} µs; slowest gate {} µs",
        resident / 1024,
        private / 1024,
        status.counts.latest_turn_us,
        status.counts.slowest_gate_us
    );
    // The rest is code, which is unoptimised and large here, and shared with every other process of the program.
    assert!(private < 10 << 20, "{private}");
}
