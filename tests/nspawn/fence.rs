//! The fences that act on this host, from within the hardened unit, on brokers that systemd restarts.

use serde_json::Value;

use crate::{
    arbiter::{self, status},
    machine::Machine,
};

/// Silences are short, so that the test is.
const CONFIG: &str = r#"
arbiter: { name: inside, store: "sqlite:/var/lib/coroner/coroner.db", check_fences_every: 1s }
clusters:
  cache:
    mode: auto
    broker: { redis: {} }
    members:
      a: { address: "127.0.0.1:6381" }
      b: { address: "127.0.0.1:6382" }
    signals:
      ping: { broker: { ask: ping, of: primary, every: 100ms, timeout: 90ms } }
      role: { broker: { ask: role, of: members, every: 200ms, timeout: 150ms } }
      link: { broker: { ask: replication_link, of: standbys, every: 200ms, timeout: 150ms } }
    death_rules:
      - name: silent, and its standby has lost it
        when: { all: [{ ping: { silent: 1s } }, { any: [{ link: down }, { link: { lag_above: 2s } }] }] }
        verdict: dead
        then: failover
    failover:
      fence: [{ @FENCE@, deadline: 6s }]
      max_loss: any
      rejoin: follow
      cooldown: 30s
"#;

/// Two instances of Debian's template: `a` as it is packaged, `b` with a unit of its own in /etc, where a mask for
/// this boot has no effect.
fn pair(machine: &Machine) {
    for (name, port) in [("a", 6381), ("b", 6382)] {
        let lines = format!(
            "bind 127.0.0.1\nport {port}\ndir /var/lib/redis/{name}\nsave \"\"\nrepl-diskless-sync-delay 0\n\
             repl-ping-replica-period 1\npidfile /run/redis-{name}/redis-server.pid\n"
        );
        machine.write(&format!("/etc/redis/redis-{name}.conf"), lines, 0o644);
        machine.ok(&["install", "-d", "-o", "redis", "-g", "redis", &format!("/var/lib/redis/{name}")]);
        // Late enough to be caught before it: a restart that is due in an instant would be no test of that.
        let dropin = format!("/etc/systemd/system/redis-server@{name}.service.d/test.conf");
        machine.write(&dropin, "[Service]\nRestartSec=15s\nTimeoutStopSec=60s\n", 0o644);
    }
    machine.ok(&["chown", "-R", "redis:redis", "/etc/redis"]);
    let (packaged, own) =
        ("/usr/lib/systemd/system/redis-server@.service", "/etc/systemd/system/redis-server@b.service");
    machine.ok(&["cp", packaged, own]);
    machine.ok(&["systemctl", "daemon-reload"]);
    machine.ok(&["systemctl", "start", "redis-server@a", "redis-server@b"]);
    machine.ok(&["redis-cli", "-p", "6382", "replicaof", "127.0.0.1", "6381"]);
}

fn info(machine: &Machine, port: &str) -> String {
    machine.run(&["timeout", "2", "redis-cli", "-p", port, "info", "replication"]).out
}

fn state(machine: &Machine, unit: &str) -> (String, String) {
    (machine.property(unit, "LoadState"), machine.property(unit, "ActiveState"))
}

fn primary_and_incident(status: &Value) -> (&str, bool) {
    let cluster = &status["clusters"][0];
    (cluster["primary"].as_str().unwrap_or_default(), cluster["incident"].is_null())
}

fn until_ready(machine: &Machine, primary: &str) {
    machine.until_or(
        &format!("a failover from {primary} could be done"),
        |machine| {
            let status = status(machine);
            primary_and_incident(&status) == (primary, true) && status["clusters"][0]["ready"] == true
        },
        story,
    );
}

fn story(machine: &Machine) -> String {
    machine.journal(arbiter::UNIT) + &machine.run(&["coroner", "why-not", "cache"]).out
}

#[test]
fn p5_a_unit_that_restarts_is_fenced_by_systemd_and_comes_back_as_the_standby() {
    let machine = Machine::boot();
    pair(&machine);
    arbiter::install(&machine, &CONFIG.replace("@FENCE@", "systemd: { unit: \"redis-server@{member}.service\" }"));
    arbiter::start(&machine);
    until_ready(&machine, "a");

    // Killed as by the kernel; systemd would start it again in a while.
    let a = "redis-server@a.service";
    machine.ok(&["systemctl", "kill", "--signal=KILL", a]);
    machine.until_or("b is primary", |machine| info(machine, "6382").contains("role:master"), story);
    // A unit that was killed is `failed` until somebody resets it.
    let (load, active) = state(&machine, a);
    assert!(load == "masked" && ["inactive", "failed"].contains(&active.as_str()), "{active}: {}", story(&machine));
    assert_ne!(machine.run(&["systemctl", "start", a]).code, 0, "a masked unit starts");
    machine.until("the incident is closed", |machine| primary_and_incident(&status(machine)) == ("b", true));
    let report = machine.ok(&["coroner", "incidents", "list", "-o", "json"]);
    let incidents: Value = serde_json::from_str(&report).unwrap();
    let id = incidents[0]["id"].as_str().unwrap_or_else(|| panic!("{report}")).to_owned();
    let report = machine.ok(&["coroner", "incidents", "show", &id]);
    assert!(report.contains("masked for this boot"), "{report}");

    // It is started by a person, after the mask was taken away, and is told to follow.
    machine.ok(&["systemctl", "unmask", "--runtime", a]);
    machine.ok(&["systemctl", "start", a]);
    machine.until("a follows b", |machine| {
        let info = info(machine, "6381");
        info.contains("role:slave") && info.contains("master_link_status:up")
    });
    machine.run(&["coroner", "incidents", "ack", &id]);
    until_ready(&machine, "b");
    assert_eq!(state(&machine, a), ("loaded".into(), "active".into()));

    // Frozen: it does not end when it is told to, and its unit lies in /etc.
    let b = "redis-server@b.service";
    machine.ok(&["systemctl", "kill", "--signal=STOP", b]);
    machine.until_or("a is primary", |machine| info(machine, "6381").contains("role:master"), story);
    machine.until("the incident is closed", |machine| primary_and_incident(&status(machine)) == ("a", true));
    let active = machine.property(b, "ActiveState");
    assert!(["inactive", "failed"].contains(&active.as_str()), "{active}: {}", story(&machine));
    assert_eq!(machine.ok(&["ls", "/run/systemd/system/redis-server@b.service.d"]), "00-coroner-fence.conf");
    // systemd calls a start that a condition keeps from happening a success.
    machine.run(&["systemctl", "start", b]);
    assert_ne!(machine.property(b, "ActiveState"), "active", "a fenced unit starts");
    assert_eq!(machine.property(b, "ConditionResult"), "no");
}

#[test]
fn p1_the_hardened_unit_lets_the_signal_fence_kill_another_users_process() {
    let machine = Machine::boot();
    pair(&machine);
    let fence = "signal: { pid_file: \"/run/redis-{member}/redis-server.pid\", executable: redis-check-rdb, \
                 supervisor: none }";
    // systemd would start it again: here only whether the kill is possible is asked.
    arbiter::install(&machine, &CONFIG.replace("@FENCE@", fence));
    arbiter::start(&machine);
    until_ready(&machine, "a");
    let pid = machine.property("redis-server@a.service", "MainPID");
    machine.ok(&["systemctl", "kill", "--signal=STOP", "redis-server@a.service"]);
    machine.until_or("b is primary", |machine| info(machine, "6382").contains("role:master"), story);
    assert_ne!(machine.run(&["kill", "-0", &pid]).code, 0, "{}", story(&machine));
    assert_eq!(machine.property("redis-server@a.service", "Result"), "signal", "{}", story(&machine));
}
