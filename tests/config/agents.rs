//! Does the file's word on agents come out as what agents, voters and the decision read?

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use coroner::{
    agent::spec::{ArrivalsFrom, Guarded, LocalClients},
    config::{AgentEnvironment, Config, Environment, Mistakes, Part, Reader, Source, load_text},
    fence::AnyFence,
    model::{Proof, agent::Watch, policy::SignalKind},
};

use crate::{Given, folder};

const MS: fn(u64) -> Duration = Duration::from_millis;

fn texts(list: &[IpAddr]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn text(path: &str) -> String {
    std::fs::read_to_string(folder(path)).unwrap()
}

fn load(text: &str) -> Result<Config, Mistakes> {
    load_text(text, "f.yaml", &Given)
}

#[test]
fn the_short_form_has_the_defaults_that_it_promises() {
    let config = load(&text("config/examples/agents.yaml")).unwrap();
    let mesh = config.mesh.unwrap();
    assert!(mesh.key.is_some() && mesh.relays && mesh.is_real_time);
    assert_eq!((mesh.ping_every, mesh.beat_every, mesh.order_valid_for), (MS(250), MS(250), MS(2000)));
    assert_eq!(mesh.socket, Path::new("/run/coroner/agent-{name}.sock"));
    assert_eq!(mesh.parties["arbiter-1"].part, Part::Arbiter);
    assert_eq!(mesh.parties["redis-a"].part, Part::Members(vec![("orders".into(), "redis-a".into())]));
    assert_eq!(mesh.parties["node-1"].part, Part::Nodes(vec![("orders".into(), "node-1".into())]));

    let policy = &config.policy.clusters["orders"];
    assert!(policy.members.iter().all(|m| m.has_agent));
    let lease = policy.failover.lease.as_ref().unwrap();
    assert_eq!((lease.length, lease.renew_every, lease.enforced_within), (MS(200), MS(50), MS(20)));
    // 1.1 * (200 / 0.9 + 20) = 266.4
    assert_eq!((lease.clock_rate_permille, lease.wait), (100, MS(267)));
    assert_eq!(lease.voters, ["arbiter-1".into(), "redis-a".into(), "redis-b".into()]);
    assert_eq!(policy.failover.preserve_within, MS(300));
    let methods: Vec<_> = policy.failover.fence[0].iter().map(|m| (m.label.as_str(), m.best_proof)).collect();
    assert_eq!(methods, [("agent gate", Proof::Gate), ("agent kill", Proof::Stopped)]);

    let parts = &config.clusters["orders"];
    assert!(parts.fence.iter().flatten().all(|f| matches!(f, AnyFence::Agent(_))), "one form for all that read it");
    let guard = &parts.guards["redis-a"];
    assert_eq!(guard.broker, Guarded::Unit("redis-server.service".into()));
    assert_eq!((guard.progress_every, guard.progress_timeout), (MS(50), MS(200)));
    assert_eq!((guard.restart_grace, guard.start_within, guard.stop_without_gate), (MS(2000), MS(30_000), true));
    let gate = guard.gate.as_ref().unwrap();
    assert_eq!((gate.table.as_str(), &gate.ports[..]), ("coroner_gate_orders_redis_a", &[6379][..]));
    assert_eq!((texts(&gate.peers), texts(&gate.admit)), (vec!["10.0.0.12".into()], vec!["10.0.0.13".into()]));
    let observe = &parts.observes["node-2"];
    assert_eq!((&observe.arrivals, observe.enforce), (&ArrivalsFrom::Channels(vec!["orders".into()]), true));

    let process = &policy.signals["process"];
    assert_eq!((process.kind, process.every, process.fresh_for), (SignalKind::Process, MS(250), MS(1500)));
    assert_eq!(policy.signals["frozen"].kind, SignalKind::Alert);
    assert!(matches!(parts.sources["full"], Source::Agent { watch: Watch::Disk }));
}

/// That the agent itself is heard is asked like a heartbeat, and not like what it sees.
#[test]
fn an_agents_own_beat_is_a_heartbeat() {
    let example = text("config/examples/agents.yaml");
    let with = |condition: &str| {
        let signal = "signals:\n      host: { agent: { watch: beat, of: primary } }";
        let rule = format!(
            "death_rules:\n      - {{ name: far away, when: {{ host: {condition} }}, verdict: suspect, then: alert }}"
        );
        load(&example.replacen("signals:", signal, 1).replacen("death_rules:", &rule, 1))
    };
    let config = with("{ silent: 1s }").unwrap();
    let signal = &config.policy.clusters["orders"].signals["host"];
    assert_eq!((signal.kind, signal.every), (SignalKind::Heartbeat, MS(250)));
    assert!(matches!(config.clusters["orders"].sources["host"], Source::Agent { watch: Watch::Beat }));
    for wrong in ["exited", "firing"] {
        let mistakes = with(wrong).unwrap_err().to_string();
        assert!(mistakes.contains(wrong), "{mistakes}");
    }
}

#[test]
fn the_long_form_says_everything_itself() {
    let config = load(&text("tests/config/good/agents.yaml")).unwrap();
    let mesh = config.mesh.as_ref().unwrap();
    assert_eq!((mesh.relays, mesh.is_real_time, mesh.state.as_path()), (false, false, Path::new("/srv/coroner")));
    assert_eq!(mesh.parties["a2"].part, Part::Arbiter);
    let both = vec![("one".into(), "a".into()), ("two".into(), "a".into())];
    assert_eq!(mesh.parties["a"].part, Part::Members(both), "one host may serve several clusters by one name");
    assert_eq!(mesh.parties["n1"].part, Part::Nodes(vec![("one".into(), "n1".into()), ("two".into(), "n1".into())]));

    let one = &config.policy.clusters["one"];
    assert_eq!(one.members.iter().map(|m| m.has_agent).collect::<Vec<_>>(), [true, true, false]);
    let lease = one.failover.lease.as_ref().unwrap();
    assert_eq!(lease.voters, ["a1".into(), "a2".into(), "a".into(), "b".into()]);
    assert_eq!((lease.clock_rate_permille, lease.wait, lease.renew_every), (15, MS(2000), MS(200)));
    assert_eq!(one.failover.preserve_within, Duration::ZERO);
    let with_agents = [vec!["a".into(), "b".into()], vec!["a".into()]];
    let fence: Vec<_> = one.failover.fence.iter().flatten().collect();
    let deadlines: Vec<u64> = fence.iter().map(|m| m.deadline.as_secs()).collect();
    assert_eq!(deadlines, [2, 5, 10, 10, 10]);
    assert_eq!(fence[0].only_for, with_agents[0], "where there is no agent, it is of no use");
    assert_eq!(fence[3].only_for, with_agents[1]);
    let proofs: Vec<_> = fence.iter().map(|m| m.best_proof).collect();
    assert_eq!(proofs, [Proof::Gate, Proof::Stopped, Proof::Gate, Proof::Claim, Proof::ReadBack]);

    let guard = &config.clusters["one"].guards["b"];
    let broker = Guarded::PidFile { path: "/run/redis/6380.pid".into(), executable: Some("redis-server".into()) };
    assert_eq!(guard.broker, broker);
    assert_eq!((guard.restart_grace, guard.watchdog.as_deref()), (Duration::ZERO, Some(Path::new("/dev/watchdog"))));
    assert_eq!(guard.fences.keys().collect::<Vec<_>>(), ["cut", "flag"]);
    let gate = guard.gate.as_ref().unwrap();
    assert_eq!((&gate.ports[..], gate.local), (&[6379, 16379][..], LocalClients::Closed));
    assert_eq!(texts(&gate.peers), ["10.0.0.11", "10.0.0.15"]);
    assert_eq!(texts(&gate.admit), ["10.0.0.13", "10.0.0.14", "fd00::99"]);
    let of_a = config.clusters["one"].guards["a"].gate.as_ref().unwrap();
    assert!(of_a.peers.contains(&"fd00::12".parse().unwrap()), "a member by name is known by its agent's address");

    let two = &config.clusters["two"].guards["a"];
    assert_eq!((&two.broker, &two.gate), (&Guarded::Cgroup("system.slice/mqtt.service".into()), &None));
    assert_eq!(config.clusters["one"].observes["n1"].arrivals, ArrivalsFrom::File("/run/n1.count".into()));
    assert_eq!(config.clusters["two"].observes["n1"].arrivals, ArrivalsFrom::Nothing);
    let warned = ["even number", "whole seconds", "it has no agent"];
    assert!(warned.iter().all(|w| config.warnings.iter().any(|found| found.contains(w))), "{:#?}", config.warnings);
}

/// Surroundings in which nothing can be drawn but what is named.
struct Only(Reader, &'static [&'static str]);

impl Environment for Only {
    fn var(&self, _: &str) -> Option<String> {
        None
    }
    fn read(&self, path: &Path) -> Result<String, String> {
        let name = path.to_string_lossy().into_owned();
        if self.1.contains(&name.as_str()) { Ok(format!("the-secret-in-{name}")) } else { Err("no such file".into()) }
    }
    fn credentials_directory(&self) -> Option<PathBuf> {
        None
    }
    fn reader(&self) -> Reader {
        self.0
    }
}

#[test]
fn no_host_needs_the_secrets_of_another() {
    let text = text("config/examples/agents.yaml");
    let of_the_arbiter = &["node-token", "operator-token", "redis-password"];
    let config = load_text(&text, "f.yaml", &Only(Reader::Arbiter, of_the_arbiter)).unwrap();
    assert!(config.mesh.unwrap().key.is_none(), "a command or a check needs no key");

    let agent = load_text(&text, "f.yaml", &Only(Reader::Agent, &["mesh.key", "redis-password"])).unwrap();
    assert!(agent.mesh.unwrap().key.is_some());
    let mistakes = load_text(&text, "f.yaml", &Only(Reader::Agent, &["mesh.key"])).unwrap_err();
    assert_eq!(mistakes.list.len(), 1, "{mistakes}");
    assert!(mistakes.to_string().contains("redis-password"), "what it asks its broker by it does need: {mistakes}");
    assert_eq!(AgentEnvironment.reader(), Reader::Agent);
}

#[test]
fn a_private_key_in_the_file_is_masked() {
    let key = "YfqYXciIbr3Y0JBgSfUfkzvnwf+eE9FGLJeDxMGwfbk=";
    let text = text("config/examples/agents.yaml");
    let in_clear = text.replace("${file:mesh.key}", &format!("ed25519-private:{key}"));
    let warnings = load(&in_clear).unwrap().warnings.join("\n");
    assert!(warnings.contains("in clear") && !warnings.contains(key), "{warnings}");
    let swapped = text.replacen("ed25519:", "ed25519-private:", 1).replacen("ArOo9", "YfqYX", 1);
    let mistakes = load(&swapped).unwrap_err().to_string();
    assert!(!mistakes.contains("YfqYX"), "{mistakes}");
}

#[test]
fn who_allows_one_host_for_two_is_warned_all_the_same() {
    let text = text("config/examples/agents.yaml")
        .replace("10.0.0.13:7402", "10.0.0.12:7403")
        .replace("10.0.0.13", "10.0.0.12");
    assert!(load(&text).unwrap_err().to_string().contains("`unsafe_colocated: true`"));
    let config = load(&text.replace("  name: arbiter-1\n", "  name: arbiter-1\n  unsafe_colocated: true\n"));
    let warnings = config.map_err(|m| m.to_string()).map(|c| c.warnings.join("\n"));
    assert!(warnings.as_ref().is_ok_and(|w| w.contains("third host")), "{warnings:?}");
}
