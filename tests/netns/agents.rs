//! The lab with agents: the file that all hosts share, and their keys.

use coroner::mesh::keys::PrivateKey;

use crate::{
    lab::Lab,
    net::{NODES, address},
};

/// The hosts that have an agent.
pub(crate) const HOSTS: [&str; 5] = ["m", "s", "n1", "n2", "n3"];
/// By which each process gets its own key.
pub(crate) const KEY: &str = "LAB_MESH_KEY";

/// A host's private key, made when it is first asked for.
pub(crate) fn key(lab: &Lab, host: &str) -> String {
    let path = lab.path(&format!("{host}.key"));
    if !path.exists() {
        std::fs::write(&path, PrivateKey::generate().unwrap().reveal()).unwrap();
    }
    std::fs::read_to_string(path).unwrap()
}

/// The file.
pub(crate) fn config(lab: &Lab) -> String {
    let mut parties = String::new();
    for host in HOSTS.into_iter().chain(["a"]) {
        let public = PrivateKey::parse(&key(lab, host)).unwrap().public();
        parties += &format!("    {host}: {{ key: \"{public}\", address: \"{}:7402\" }}\n", address(host));
    }
    CONFIG.replace("@PARTIES@", &parties).replace("@NODES@", &NODES.join(", "))
}

const CONFIG: &str = r#"
arbiter:
  name: a
  listen: { http: "10.213.0.1:7400", socket: "@DIR@/coroner.sock" }
  store: "sqlite:@DIR@/coroner.db"
  access: [{ name: nodes, role: view, token: a-token-of-the-lab-and-of-nobody-else }]
  tilt: { after: 500ms, for: 1s }
  check_fences_every: 5s
mesh:
  key: "${env:LAB_MESH_KEY}"
  parties:
@PARTIES@  ping_every: 100ms
  beat_every: 100ms
  state: "@DIR@"
  socket: "@DIR@/agent-{name}.sock"
clusters:
  lab:
    mode: auto
    broker: { redis: { keep_tail_in: "@DIR@/tails" } }
    members:
      m: { address: "10.213.0.11:6379" }
      s: { address: "10.213.0.12:6379" }
    nodes: [@NODES@]
    agent:
      broker: { pid_file: "@DIR@/{member}.pid", executable: redis-check-rdb }
      gate: { local: closed }
      progress: { every: 50ms, timeout: 600ms }
      data: "@DIR@/{member}"
      restart_grace: 0s
    observe: { streams: ["demo:messages"], enforce: true }
    signals:
      arrivals: { push: { from: nodes, every: 100ms, traffic: constant } }
      process:  { agent: { watch: process, of: primary } }
      progress: { agent: { watch: progress, of: primary } }
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
      - name: nothing arrives
        when: { at_least: { count: majority, of: arrivals, are: { silent: 1s } } }
        for: 300ms
        verdict: gray
        then: switchover
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
      budget: { failovers: 1000, per: 1d }
"#;
