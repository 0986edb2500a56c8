//! Coroner with agents: the arbiter on a third host, an agent beside each server and beside each node, leases of 200 ms.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Command,
    time::Duration,
};

use coroner::mesh::keys::PrivateKey;
use serde_json::Value;

use crate::{
    Rival,
    net::{NODES, address},
    stage::Stage,
};

const HOSTS: [&str; 6] = ["a", "m", "s", "n1", "n2", "n3"];

pub(crate) struct Coroner;

/// The program that is measured: the one built for this benchmark, or `CORONER_BENCH_PROGRAM`, to compare builds.
pub(crate) fn program() -> String {
    std::env::var("CORONER_BENCH_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_coroner").into())
}

pub(crate) fn agent_of(host: &str) -> String {
    format!("agent-{host}")
}

fn key(stage: &Stage, host: &str) -> String {
    let path = stage.path(&format!("{host}.key"));
    if !path.exists() {
        std::fs::write(&path, PrivateKey::generate().unwrap().reveal()).unwrap();
    }
    std::fs::read_to_string(path).unwrap()
}

fn start(stage: &Stage, host: &str) {
    let mut command = stage.net.command(host);
    command.arg(program());
    let name = if host == "a" {
        command.arg("arbiter");
        "arbiter".to_owned()
    } else {
        command.args(["agent", "--name", host]);
        agent_of(host)
    };
    command.arg("--config").arg(stage.path("coroner.yaml")).env("LAB_MESH_KEY", key(stage, host));
    command.env("CORONER_LOG", std::env::var("CORONER_LOG").unwrap_or_else(|_| "info".into()));
    stage.start(&name, command);
}

fn get(stage: &Stage, path: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(stage.path("coroner.sock")).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
}

/// A verb of the command line.
fn coroner(stage: &Stage, words: &[&str]) -> String {
    let output = Command::new(program()).args(words).arg("--socket").arg(stage.path("coroner.sock")).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// The epoch in force.
pub(crate) fn epoch(stage: &Stage) -> Option<u64> {
    get(stage, "/v1/status")?["clusters"][0]["epoch"].as_u64()
}

impl Rival for Coroner {
    fn name(&self) -> String {
        "coroner".into()
    }

    fn start(&self, stage: &Stage) {
        let mut parties = String::new();
        for host in HOSTS {
            let public = PrivateKey::parse(&key(stage, host)).unwrap().public();
            parties += &format!("    {host}: {{ key: \"{public}\", address: \"{}:7402\" }}\n", address(host));
        }
        let config = CONFIG
            .replace("@DIR@", &stage.path("").display().to_string())
            .replace("@PARTIES@", &parties)
            .replace("@NODES@", &NODES.join(", "));
        std::fs::write(stage.path("coroner.yaml"), config).unwrap();
        for host in HOSTS {
            start(stage, host);
        }
    }

    fn missing(&self, stage: &Stage) -> Option<String> {
        let Some(status) = get(stage, "/v1/status") else { return Some("the arbiter does not answer".into()) };
        let cluster = &status["clusters"][0];
        if !cluster["incident"].is_null() {
            return Some(format!("an incident is open: {}", cluster["incident"]));
        }
        if cluster["ready"] != true {
            if cluster["blocking"].to_string().contains("cooldown") {
                // What an operator does after a failover: the next one may come.
                coroner(stage, &["incidents", "ack", "last", "--note", "seen"]);
            }
            return Some(format!("not ready: {}", cluster["blocking"]));
        }
        match stage.primary() {
            Err(why) => Some(why),
            Ok(primary) if cluster["primary"] != primary => Some(format!("{} is not {primary}", cluster["primary"])),
            Ok(_) => None,
        }
    }

    fn beside(&self, member: &str) -> Vec<String> {
        vec![agent_of(member)]
    }

    fn come_back(&self, stage: &Stage, member: &str) {
        if !stage.runs(&agent_of(member)) {
            start(stage, member);
        }
        // As its own files have it: the arbiter leads it back.
        if !stage.runs(member) {
            stage.start_redis(member, None);
        }
    }

    fn story(&self, stage: &Stage) -> String {
        let list = get(stage, "/v1/incidents").unwrap_or_default();
        let list = list.as_array().or_else(|| list["incidents"].as_array()).cloned().unwrap_or_default();
        // The newest is mostly the old primary's return.
        let failover = list.iter().find(|incident| incident["kind"] == "failover").and_then(|i| i["id"].as_str());
        let mut text = failover.map_or_else(String::new, |id| coroner(stage, &["incidents", "show", id]));
        text += &coroner(stage, &["why", "lab"]);
        text + &coroner(stage, &["why-not", "lab"])
    }

    fn beyond(&self) -> &'static str {
        "agents with gate and lease 200 ms, arbiter on a third host"
    }
}

const CONFIG: &str = r#"
arbiter:
  name: a
  listen: { http: "10.213.0.1:7400", socket: "@DIR@/coroner.sock" }
  store: "sqlite:@DIR@/coroner.db"
  tilt: { after: 50ms, for: 300ms }
  check_fences_every: 5s
mesh:
  key: "${env:LAB_MESH_KEY}"
  parties:
@PARTIES@  ping_every: 100ms
  beat_every: 50ms
  state: "@DIR@"
  socket: "@DIR@/agent-{name}.sock"
clusters:
  lab:
    mode: auto
    broker: { redis: {} }
    members:
      m: { address: "10.213.0.11:6379" }
      s: { address: "10.213.0.12:6379" }
    nodes: [@NODES@]
    agent:
      broker: { pid_file: "@DIR@/{member}.pid", executable: redis-check-rdb }
      gate: { local: closed }
      progress: { every: 20ms, timeout: 200ms }
      data: "@DIR@/{member}"
      restart_grace: 0s
    observe: { streams: [rivals], enforce: true }
    signals:
      arrivals: { push: { from: nodes, every: 100ms, traffic: constant } }
      process:  { agent: { watch: process, of: primary } }
      host:     { agent: { watch: beat, of: primary } }
      progress: { agent: { watch: progress, of: primary } }
      ping: { broker: { ask: ping, of: primary, every: 50ms, timeout: 45ms } }
      role: { broker: { ask: role, of: members, every: 200ms, timeout: 150ms } }
    death_rules:
      - name: its process is gone
        when: { process: exited }
        verdict: dead
        then: failover
      - name: it makes no progress
        when: { progress: firing }
        verdict: dead
        then: failover
      # Its host may be cut off, or gone: its agent is not heard over any path either. Where packets get lost, connections
      # stall for longer than this, while some of the agent's datagrams come through.
      - name: nobody hears its host
        when:
          all:
            - host: { silent: 250ms }
            - ping: { silent: 200ms }
            - at_least: { count: majority, of: arrivals, are: { silent: 200ms } }
        verdict: dead
        then: failover
      - name: nobody reaches it
        when:
          all:
            - ping: { silent: 3s }
            - at_least: { count: majority, of: arrivals, are: { silent: 3s } }
        verdict: dead
        then: failover
    failover:
      lease: 200ms
      preserve: { within: 0ms }
      fence: [[gate, kill]]
      catch_up: { within: 2s }
      promote: { within: 3s }
      max_loss: any
      redirect_within: 4s
      rejoin: follow
      candidate: { fresh_for: 3s }
      cooldown: 1m
      budget: { failovers: 1000000, per: 1d }
"#;
