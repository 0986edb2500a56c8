//! The whole thing: the arbiter's process, an agent beside each master, clients that write, and the cases that the runbook
//! leaves to people.

use std::{
    fs,
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use coroner::{mesh::keys::PrivateKey, sys::clock::Stopwatch};
use serde_json::Value;

use crate::lab::{Lab, Process, SOON, eventually, http, http_over, log_file};

struct World {
    lab: Lab,
    writers: Arc<(AtomicBool, AtomicUsize)>,
    sampler: Option<thread::JoinHandle<()>>,
    processes: Vec<Process>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.writers.0.store(true, Ordering::Relaxed);
        if let Some(sampler) = self.sampler.take() {
            let _ = sampler.join();
        }
        self.processes.clear();
    }
}

const CONFIG: &str = r#"
arbiter:
  name: arbiter-1
  listen: { http: "127.0.0.1:@HTTP@", socket: "@DIR@/s" }
  store: "sqlite:@DIR@/coroner.db"
  access: [{ name: viewer, role: view, token: a-token-of-the-lab-and-of-nobody-else }]
  tilt: { after: 2s, for: 1s }
  check_fences_every: 1s
mesh:
  key: "${env:LAB_MESH_KEY}"
  parties:
@PARTIES@
  ping_every: 100ms
  beat_every: 100ms
  state: "@DIR@/state"
  socket: "@DIR@/agent-{name}.sock"
clusters:
  graph:
    mode: auto
    broker: { jolokia: @KIND@ }
    members:
      master-1: { address: "127.0.0.1:@A@" }
      master-2: { address: "127.0.0.1:@B@" }
    agent:
      broker: { pid_file: "@DIR@/{member}/pid" }
      keep: ["@DIR@/{member}/txlog"]
      fences:
        properties:
          file_flag:
            path: "@DIR@/{member}/cluster.properties"
            format: java_properties
            key: read-only
            fenced: "true"
            unfenced: "false"
            follows_role: true
    signals:
      process: { agent: { watch: process, of: primary } }
      ping: { broker: { ask: ping, of: primary, every: 200ms, timeout: 190ms } }
      role: { broker: { ask: role, of: members, every: 300ms, timeout: 290ms } }
      link: { broker: { ask: replication_link, of: standbys, every: 300ms, timeout: 290ms } }
      refused: { file: { path: "@DIR@/refused", content: value }, of: primary, every: 200ms }
    death_rules:
      - name: its process is gone
        when: { all: [{ process: exited }, { ping: failing }] }
        verdict: dead
        then: failover
      - name: the masters are apart
        when: { link: down }
        for: 300ms
        verdict: suspect
        then: alert
      - name: clients see only the read-only master
        when: { refused: { above: 0 } }
        verdict: gray
        then: @THEN@
    failover:
      fence: [[kill, { agent: properties }]]
      catch_up: { within: 3s }
      promote: { within: 10s }
      max_loss: { entries: 0 }
      redirect: [{ file: { path: "@DIR@/route", template: "{{ address }} in epoch {{ epoch }}" } }]
      redirect_within: 1s
      rejoin: follow
      candidate: { fresh_for: 4s }
"#;

impl World {
    /// `then`: what is done for clients that see only the read-only master.
    fn start(then: &str) -> Self {
        let lab = Lab::start();
        let dir = lab.dir.path().display().to_string();
        fs::write(lab.dir.path().join("refused"), "0\n").unwrap();
        let (mut parties, mut keys) = (String::new(), Vec::new());
        for name in ["arbiter-1", "master-1", "master-2"] {
            let key = PrivateKey::generate().unwrap();
            let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            parties += &format!("    {name}: {{ key: \"{}\", address: \"127.0.0.1:{port}\" }}\n", key.public());
            keys.push((name, key.reveal().to_string()));
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = CONFIG
            .replace("@PARTIES@", parties.trim_end())
            .replace("@KIND@", &lab.config().to_string())
            .replace("@HTTP@", &free.to_string())
            .replace("@A@", &lab.a.port.to_string())
            .replace("@B@", &lab.b.port.to_string())
            .replace("@THEN@", then)
            .replace("@DIR@", &dir);
        fs::write(lab.dir.path().join("coroner.yaml"), text).unwrap();
        let writers = Arc::new((AtomicBool::new(false), AtomicUsize::new(0)));
        let ports = [lab.a.port, lab.b.port];
        let shared = Arc::clone(&writers);
        // Two that take writes at one moment: asked one after the other, and both once more.
        let sampler = thread::spawn(move || {
            let takes = |port: u16| {
                let answer = http(port, "POST", "/repositories/cluster/statements", "", "DELETE DATA {}");
                answer.is_ok_and(|(status, _)| status == 200)
            };
            while !shared.0.load(Ordering::Relaxed) {
                if takes(ports[0]) && takes(ports[1]) && takes(ports[0]) {
                    shared.1.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let mut world = Self { lab, writers, sampler: Some(sampler), processes: Vec::new() };
        for (name, key) in keys {
            let verb = if name == "arbiter-1" { "arbiter" } else { "agent" };
            let log = log_file(world.lab.dir.path(), &format!("{name}.log"));
            let mut command = Command::new(env!("CARGO_BIN_EXE_coroner"));
            command.args([verb, "--config"]).arg(world.lab.dir.path().join("coroner.yaml"));
            if verb == "agent" {
                command.args(["--name", name]);
            }
            command.env("LAB_MESH_KEY", key).stdout(log.try_clone().unwrap()).stderr(log);
            world.processes.push(Process::start(&mut command));
        }
        world.wait("ready for a failover", |w| {
            let c = w.cluster()?;
            let blocks = |g: &Value| g["blocks"] == true;
            let is_free = !c["blocking"].as_array()?.iter().any(blocks);
            let is_known = c["members"].as_array()?.iter().all(|m| m["position"].as_u64() == Some(3));
            (is_free && is_known && c["primary"] == "master-1" && c["verdict"] == "alive").then_some(())
        });
        world
    }

    fn cli(&self, words: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coroner"));
        command.args(["-o", "json", "--socket"]).arg(self.lab.dir.path().join("s")).args(words);
        let output = command.current_dir(self.lab.dir.path()).stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    fn get(&self, path: &str) -> Option<Value> {
        let stream = UnixStream::connect(self.lab.dir.path().join("s")).ok()?;
        let (status, body) = http_over(stream, "GET", path, "", "").ok()?;
        if status == 200 { serde_json::from_str(&body).ok() } else { None }
    }

    fn cluster(&self) -> Option<Value> {
        let status = self.get("/v1/status")?;
        status["clusters"].as_array()?.iter().find(|c| c["cluster"] == "graph").cloned()
    }

    fn incidents(&self) -> Vec<Value> {
        self.get("/v1/incidents").and_then(|list| list.as_array().cloned()).unwrap_or_default()
    }

    fn newest(&self, kind: &str) -> Option<Value> {
        let id = self.incidents().into_iter().find(|i| i["kind"] == kind)?["id"].as_str()?.to_owned();
        Some(self.get(&format!("/v1/incidents/{id}"))?["incident"].clone())
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let watch = Stopwatch::start();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(watch.elapsed() < 2 * SOON, "waited in vain: {what}\n{}", self.portrait());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn portrait(&self) -> String {
        let log = |name: &str| {
            let text = fs::read_to_string(self.lab.dir.path().join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("{name}:\n{}\n", lines[lines.len().saturating_sub(25)..].join("\n"))
        };
        let newest = self.incidents().first().map(|i| self.cli(&["incidents", "show", i["id"].as_str().unwrap_or("")]));
        format!(
            "{}\n{}\n{}{}{}",
            self.cli(&["status"]),
            newest.unwrap_or_default(),
            log("arbiter-1.log"),
            log("master-1.log"),
            log("master-2.log")
        )
    }

    fn never_two_writers(&self) {
        assert_eq!(self.writers.1.load(Ordering::Relaxed), 0, "two masters took writes at once\n{}", self.portrait());
    }

    fn wait_ended(&self, primary: &str) {
        self.wait(&format!("{primary} is primary, and nothing is under way"), |w| {
            let c = w.cluster()?;
            let is_closed = w.incidents().iter().all(|i| !i["closed_unix_ms"].is_null());
            (c["primary"] == primary && c["incident"].is_null() && is_closed).then_some(())
        });
    }
}

fn text(value: &Value) -> String {
    value.to_string()
}

#[test]
fn the_runbook_mirrors_the_topology() {
    let mut world = World::start("alert");
    world.lab.a.kill();
    world.wait("the second is promoted, and the saga is over", |w| {
        let incident = w.newest("failover")?;
        (incident["state"] == "resolved").then_some(())
    });
    let incident = world.newest("failover").unwrap();
    let told = text(&incident["steps"]);
    for part in ["unpeer the other master: done and read back", "set read-only to false: done and read back", "txlog"] {
        assert!(told.contains(part), "{part} is not told: {told}");
    }
    // Its file was edited while it was down: the flag alone, and a backup beside it.
    let properties = world.lab.a.properties();
    assert!(properties.contains("read-only = true\n") && properties.starts_with("# The cluster"), "{properties}");
    let backup = fs::read_to_string(world.lab.a.dir.join("cluster.properties.before-fence")).unwrap();
    assert_eq!(properties, backup.replace("read-only = false", "read-only = true"));
    assert!(world.lab.b.properties().contains("read-only = false"), "a restart of the new primary keeps it so");
    assert_eq!(world.lab.b.write("INSERT by-the-new").unwrap().0, 200);

    // Whoever starts it starts a read-only master; Coroner peers both.
    world.lab.a.start();
    assert_eq!(world.lab.a.read("ReadOnly"), true);
    world.wait("the old primary is back", |w| (w.newest("rejoin")?["state"] == "resolved").then_some(()));
    world.lab.wait_mirrored();
    let rejoin = world.newest("rejoin").unwrap();
    assert!(text(&rejoin["steps"]).contains("the topology is the mirrored one"), "{rejoin}");
    assert_eq!(rejoin["rejoin"]["divergent"], 0, "{rejoin}");
    world.wait_ended("master-2");
    world.never_two_writers();
    assert!(world.lab.workers.iter().all(|w| w.log() == ["INSERT 0", "INSERT 1", "INSERT 2", "INSERT by-the-new"]));
}

/// Split case one: all clients see both masters.
#[test]
fn masters_apart_and_seen_by_all_are_an_alarm_and_nothing_more() {
    let world = World::start("switchover");
    world.lab.split(true);
    world.wait("the alarm", |w| (w.cluster()?["verdict"] == "suspect").then_some(()));
    let watch = Stopwatch::start();
    while watch.elapsed() < Duration::from_secs(2) {
        assert!(world.incidents().is_empty(), "{}", world.portrait());
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(world.lab.a.write("INSERT meanwhile").unwrap().0, 200);
    assert_eq!((world.lab.a.read("ReadOnly"), world.lab.b.read("ReadOnly")), (false.into(), true.into()));
    world.lab.split(false);
    world.lab.wait_synced();
    world.wait("the alarm ends", |w| (w.cluster()?["verdict"] == "alive").then_some(()));
    world.never_two_writers();
}

/// Split case two, with a rule that redirects: the writes of those who see only the read-only master fail, until they are
/// told where the primary is.
#[test]
fn clients_of_the_read_only_master_are_redirected() {
    let world = World::start("redirect");
    world.lab.split(true);
    let (status, said) = world.lab.b.write("INSERT by client 2").unwrap();
    assert!(status == 500 && said.contains("read-only"), "{status} {said}");
    fs::write(world.lab.dir.path().join("refused"), "1\n").unwrap();
    let route =
        world.wait("the client's route is written", |w| fs::read_to_string(w.lab.dir.path().join("route")).ok());
    assert_eq!(route, format!("127.0.0.1:{} in epoch 1", world.lab.a.port));
    assert_eq!(world.lab.a.write("INSERT by client 2").unwrap().0, 200);
    assert!(world.incidents().is_empty(), "nobody became primary by it: {}", world.portrait());
    world.never_two_writers();
}

/// Split case two, with a rule that switches over: done where nothing is lost, given up where something would be.
#[test]
fn a_rule_may_switch_over_and_never_opens_two_writers() {
    let world = World::start("switchover");
    world.lab.split(true);
    fs::write(world.lab.dir.path().join("refused"), "1\n").unwrap();
    world.wait("the switchover", |w| (w.newest("switchover")?["state"] == "resolved").then_some(()));
    fs::write(world.lab.dir.path().join("refused"), "0\n").unwrap();
    world.wait_ended("master-2");
    assert_eq!((world.lab.a.read("ReadOnly"), world.lab.b.read("ReadOnly")), (true.into(), false.into()));
    assert_eq!(world.lab.b.write("INSERT by client 2").unwrap().0, 200);
    world.never_two_writers();
    world.lab.split(false);
    world.lab.wait_mirrored();
}

#[test]
fn a_switchover_that_would_lose_the_splits_writes_is_given_up() {
    let world = World::start("switchover");
    world.lab.split(true);
    assert_eq!(world.lab.a.write("INSERT only-here").unwrap().0, 200);
    fs::write(world.lab.dir.path().join("refused"), "1\n").unwrap();
    let ended = world.wait("the switchover is given up", |w| {
        let incident = w.newest("switchover")?;
        (incident["state"] == "aborted").then_some(incident)
    });
    assert!(text(&ended["state_reason"]).contains("master-2 did not catch up"), "{ended}");
    eventually("the first takes writes again", || {
        world.lab.a.write("INSERT more").is_ok_and(|(status, _)| status == 200)
    });
    assert_eq!(world.lab.b.read("ReadOnly"), true);
    world.never_two_writers();
}

/// Split case three: the primary dies during a split. Run blindly, the runbook would lose the log of the split.
#[test]
fn a_primary_that_dies_during_a_split_is_held_and_its_log_is_kept() {
    let mut world = World::start("alert");
    world.lab.split(true);
    for n in 0..2 {
        assert_eq!(world.lab.a.write(&format!("INSERT split {n}")).unwrap().0, 200);
    }
    world.wait("the arbiter knows how far the first came", |w| {
        let c = w.cluster()?;
        let first = c["members"].as_array()?.iter().find(|m| m["member"] == "master-1")?.clone();
        (first["position"] == 5 && c["verdict"] == "suspect").then_some(())
    });
    world.lab.a.kill();
    let held = world.wait("it is held", |w| {
        let incident = w.newest("failover")?;
        (incident["state"] == "held").then_some(incident)
    });
    let reason = text(&held["state_reason"]);
    assert!(reason.contains("would lose 2 that master-1 had, more than the 0 allowed"), "{reason}");
    let steps = text(&held["steps"]);
    assert!(steps.contains("2 short of 5") && steps.contains("apart from the other"), "{steps}");
    assert!(steps.contains("for the salvage it leaves") && steps.contains("master-1/txlog"), "{steps}");
    assert_eq!(held["loss"]["behind"], 2, "{held}");
    assert_eq!(world.lab.b.read("ReadOnly"), true);

    // A person takes it upon themselves.
    let said = world.cli(&["continue", "graph", "--accept-loss"]);
    world.wait("it goes on", |w| (w.newest("failover")?["state"] == "resolved").then_some(said.clone()));
    let incident = world.newest("failover").unwrap();
    assert!(text(&incident["bypassed"]).contains("any loss was accepted"), "{incident}");
    assert!(text(&incident["steps"]).contains("[OUT_OF_SYNC]"), "the workers' state is told: {incident}");
    eventually("the workers have what the new primary has", || {
        world.lab.workers.iter().all(|w| w.log().len() == 3 && w.state()["replaced"] == 1)
    });

    // It comes back, and what it alone had is safe before it is peered.
    world.lab.a.start();
    world.lab.split(false);
    world.wait("the old primary is back", |w| (w.newest("rejoin")?["state"] == "resolved").then_some(()));
    world.lab.wait_mirrored();
    let rejoin = world.newest("rejoin").unwrap();
    assert_eq!(rejoin["rejoin"]["divergent"], 2, "{rejoin}");
    let epoch = incident["epoch"].as_u64().unwrap();
    let kept = world.lab.dir.path().join(format!("state/kept/graph.master-1.epoch-{epoch}/0-txlog/log.json"));
    assert!(fs::read_to_string(&kept).unwrap().contains("split 1"), "{}", kept.display());
    assert!(text(&incident["steps"]).contains("is kept in"), "{incident}");
    eventually("the old one has what the new one has", || world.lab.a.position() == 3);
    world.never_two_writers();
}
