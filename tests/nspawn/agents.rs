//! Agents, gates and brokers as units of a real systemd: what is killed in a failover does not serve again under its old
//! epoch and comes back as the standby; and a host that boots has its gate shut before its broker starts.
//!
//! All parties live in one container, each at an address of its own on its loopback; so the gates keep local clients out.

use std::{path::Path, thread::sleep, time::Duration};

use serde_json::Value;

use crate::{
    arbiter::{self, status},
    machine::Machine,
};

const PARTIES: [(&str, &str); 3] = [("a", "10.88.0.11"), ("b", "10.88.0.12"), ("inside", "10.88.0.13")];

/// Each gate sees all ports of the one network namespace, so each broker has its own.
const PORTS: [&str; 2] = ["6381", "6382"];

const CONFIG: &str = r#"
arbiter: { name: inside, store: "sqlite:/var/lib/coroner/coroner.db", unsafe_colocated: true }
mesh:
  key: "${env:CORONER_MESH_KEY}"
  parties:
@PARTIES@
clusters:
  cache:
    mode: auto
    broker: { redis: {} }
    members:
      a: { address: "10.88.0.11:6381" }
      b: { address: "10.88.0.12:6382" }
    agent:
      broker: { unit: "redis-server@{member}.service" }
      gate: { local: closed }
      progress: { every: 200ms, timeout: 2s }
      restart_grace: 0s
      start_within: 20s
    signals:
      process: { agent: { watch: process, of: primary } }
      role: { broker: { ask: role, of: members, every: 500ms, timeout: 400ms } }
    death_rules:
      - { name: its process is gone, when: { process: exited }, verdict: dead, then: failover }
    failover:
      lease: 2s
      fence: [[gate, kill]]
      max_loss: any
      rejoin: follow
      cooldown: 40s
"#;

/// One unit for each of the two on this host, where a host of its own has one without a name.
fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name);
    std::fs::read_to_string(path)
        .unwrap()
        .replace("coroner-agent.service", "coroner-agent@%i.service")
        .replace("coroner-gate.service", "coroner-gate@%i.service")
        .replace("--config /etc/coroner/coroner.yaml", "--config /etc/coroner/coroner.yaml --name %i")
        .replace("[Service]\n", "[Service]\nEnvironmentFile=-/etc/coroner/%i.env\n")
}

fn install(machine: &Machine) {
    arbiter::install(machine, "");
    let mut parties = String::new();
    for (party, address) in PARTIES {
        let key = format!("/etc/coroner/{party}.key");
        machine.ok(&["coroner", "key", "new", &key]);
        let public = machine.ok(&["coroner", "key", "show", &key]);
        let public = public.split_whitespace().find(|word| word.contains("ed25519:")).unwrap().trim_matches('"');
        parties += &format!("    {party}: {{ key: \"{public}\", address: \"{address}:7402\" }}\n");
        let private = machine.ok(&["cat", &key]);
        machine.write(&format!("/etc/coroner/{party}.env"), format!("CORONER_MESH_KEY={}\n", private.trim()), 0o600);
    }
    machine.write(arbiter::CONFIG, CONFIG.replace("@PARTIES@", &parties), 0o600);
    let of_arbiter = "[Service]\nEnvironmentFile=/etc/coroner/inside.env\n";
    machine.write("/etc/systemd/system/coroner-arbiter.service.d/60-key.conf", of_arbiter, 0o644);
    for name in ["agent", "gate"] {
        let text = unit(&format!("coroner-{name}.service"));
        machine.write(&format!("/etc/systemd/system/coroner-{name}@.service"), text, 0o644);
    }
    let addresses = "[Unit]\nDefaultDependencies=no\nBefore=network-pre.target coroner-gate@a.service coroner-gate@b.service\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=/bin/sh -c 'for n in 11 12 13; do ip addr replace 10.88.0.$$n/32 dev lo; done'\n\
         [Install]\nWantedBy=multi-user.target\n";
    machine.write("/etc/systemd/system/addresses.service", addresses, 0o644);
    for ((member, address), port) in PARTIES[..2].iter().zip(PORTS) {
        let follows = if *member == "b" { "replicaof 10.88.0.11 6381\n" } else { "" };
        let conf = format!(
            "bind {address}\nbind-source-addr {address}\nprotected-mode no\nport {port}\ndir /var/lib/redis/{member}\nsave \"\"\n\
             repl-diskless-sync-delay 0\nrepl-ping-replica-period 1\n\
             pidfile /run/redis-{member}/redis-server.pid\n{follows}"
        );
        machine.write(&format!("/etc/redis/redis-{member}.conf"), conf, 0o644);
        machine.ok(&["install", "-d", "-o", "redis", "-g", "redis", &format!("/var/lib/redis/{member}")]);
        let dropins = format!("/etc/systemd/system/redis-server@{member}.service.d");
        // Before the shipped drop-in asks for a grant: what a client would meet now.
        let look = "[Service]\nRestart=always\nTimeoutStartSec=40s\n\
             ExecStartPre=+/bin/sh -c 'nft list ruleset > /var/lib/ruleset-%i'\n";
        machine.write(&format!("{dropins}/00-look.conf"), look, 0o644);
        machine.write(&format!("{dropins}/coroner-gate.conf"), unit("coroner-gate.conf"), 0o644);
    }
    machine.ok(&["chown", "-R", "redis:redis", "/etc/redis"]);
    machine.ok(&["systemctl", "daemon-reload"]);
    machine.ok(&["systemctl", "enable", "addresses", "coroner-arbiter"]);
    for member in ["a", "b"] {
        for name in ["coroner-gate", "coroner-agent", "redis-server"] {
            machine.ok(&["systemctl", "enable", &format!("{name}@{member}")]);
        }
    }
}

/// What a client on this host gets from a member; nothing, where its gate is shut.
fn write_to(machine: &Machine, member: &str) -> String {
    let ((_, address), port) = PARTIES.iter().zip(PORTS).find(|((name, _), _)| *name == member).unwrap();
    machine.run(&["timeout", "1", "redis-cli", "-h", address, "-p", port, "set", "key", "value"]).out.trim().to_owned()
}

fn story(machine: &Machine) -> String {
    let mut text = machine.run(&["coroner", "status"]).out + &machine.run(&["coroner", "why-not"]).out;
    text += &machine.run(&["coroner", "incidents", "show", "last"]).out;
    for unit in
        [arbiter::UNIT, "coroner-agent@a", "coroner-agent@b", "coroner-gate@a", "redis-server@a", "redis-server@b"]
    {
        let journal = machine.journal(unit);
        let lines: Vec<&str> = journal.lines().collect();
        text += &format!("---- {unit}\n{}\n", lines[lines.len().saturating_sub(70)..].join("\n"));
    }
    text
}

fn until_primary_is(machine: &Machine, primary: &str) {
    machine.until_or(
        &format!("{primary} is primary, the other its standby, and no incident is open"),
        |machine| {
            let said = machine.run(&["coroner", "status", "-o", "json"]);
            let Ok(status) = serde_json::from_str::<Value>(&said.out) else { return false };
            let cluster = &status["clusters"][0];
            let is_whole = cluster["members"].as_array().is_some_and(|members| {
                members.iter().all(|m| {
                    let wanted = if m["member"] == primary { "primary" } else { "standby" };
                    m["claims"] == wanted && m["quarantined"] == false
                })
            });
            cluster["primary"] == primary && cluster["incident"].is_null() && is_whole
        },
        story,
    );
    machine.until_or(&format!("clients reach {primary}"), |machine| write_to(machine, primary) == "OK", story);
    // With its first standby a primary begins a history of its own: both have to have told it.
    sleep(Duration::from_millis(1_500));
    machine.run(&["coroner", "incidents", "ack", "last", "--note", "seen"]);
    machine.until_or("a failover could be done", |machine| status(machine)["clusters"][0]["ready"] == true, story);
}

#[test]
fn p4_p15_what_was_killed_comes_back_as_the_standby_and_a_boot_finds_the_gate_shut() {
    let mut machine = Machine::boot();
    install(&machine);
    machine.ok(&["systemctl", "start", "addresses"]);
    for unit in ["coroner-gate@a", "coroner-gate@b", "coroner-agent@a", "coroner-agent@b", arbiter::UNIT] {
        let said = machine.run(&["systemctl", "start", unit]);
        assert!(said.code == 0, "{unit}: {said:?}\n{}", story(&machine));
    }
    let said = machine.run(&["systemctl", "start", "redis-server@a", "redis-server@b"]);
    assert!(said.code == 0, "{said:?}\n{}", story(&machine));
    until_primary_is(&machine, "a");
    assert_ne!(write_to(&machine, "b"), "OK", "a standby's gate is shut for clients");

    // Killed, and started again by systemd as soon as it may: never with its old epoch.
    let before = machine.property("redis-server@a.service", "NRestarts");
    machine.ok(&["systemctl", "kill", "--signal=KILL", "redis-server@a"]);
    machine.until_or("b is primary", |machine| status(machine)["clusters"][0]["primary"] == "b", story);
    for _ in 0..10 {
        assert_ne!(write_to(&machine, "a"), "OK", "{}", story(&machine));
        sleep(Duration::from_millis(100));
    }
    until_primary_is(&machine, "b");
    println!("restarts of a: {before} before, {} after", machine.property("redis-server@a.service", "NRestarts"));
    assert_ne!(write_to(&machine, "a"), "OK");
    // It answers before it has told systemd that it is ready.
    let is_active = |m: &Machine| m.property("redis-server@a.service", "ActiveState") == "active";
    machine.until_or("its unit is active", is_active, story);

    // P18: an agent that is killed comes back within the lease, and costs the primary nothing.
    machine.ok(&["systemctl", "kill", "--signal=KILL", "coroner-agent@b"]);
    machine.until_or("the agent is back", |m| m.property("coroner-agent@b.service", "ActiveState") == "active", story);
    assert_eq!(write_to(&machine, "b"), "OK", "{}", story(&machine));

    // The power fails and comes back.
    machine.run(&["rm", "-f", "/var/lib/ruleset-a", "/var/lib/ruleset-b"]);
    machine.cut_power();
    machine.wait_until_up();
    // Which of the two starts first is systemd's business: a primary whose process is not there yet is a dead one.
    machine.until_or("one of them serves", |machine| ["a", "b"].iter().any(|m| write_to(machine, m) == "OK"), story);
    for member in ["a", "b"] {
        let rules = machine.ok(&["cat", &format!("/var/lib/ruleset-{member}")]);
        let table = rules.split("table inet ").find(|t| t.starts_with(&format!("coroner_gate_cache_{member}")));
        let table = table.unwrap_or_else(|| panic!("no gate stood before {member} was started:\n{rules}"));
        let open = table.split("set open").nth(1).and_then(|set| set.split('}').next()).unwrap();
        assert!(!open.contains("elements"), "the gate was open before {member} was started:\n{table}");
        assert!(table.contains("drop"), "{table}");
    }
    let serving = ["a", "b"].iter().filter(|member| write_to(&machine, member) == "OK").count();
    assert!(serving <= 1, "two masters: {}", story(&machine));
    let epoch = status(&machine)["clusters"][0]["epoch"].as_u64().unwrap();
    assert!(epoch >= 2, "the epoch survives: {epoch}");
}
