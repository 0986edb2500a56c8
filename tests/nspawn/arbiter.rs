//! The arbiter's own unit: becomes ready, loads its file anew, is watched, stops; and is not kept from its work by
//! what hardens it.

use std::path::Path;

use crate::machine::Machine;

pub(crate) const UNIT: &str = "coroner-arbiter.service";
pub(crate) const CONFIG: &str = "/etc/coroner/coroner.yaml";

/// Installs the program, the unit as it is shipped, and the file.
pub(crate) fn install(machine: &Machine, config: &str) {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    machine.copy_in(Path::new(env!("CARGO_BIN_EXE_coroner")), "/usr/bin/coroner", 0o755);
    for file in [UNIT, "coroner-arbiter.service.d/10-notify-reload.conf"] {
        machine.copy_in(&units.join(file), &format!("/etc/systemd/system/{file}"), 0o644);
    }
    machine.write(CONFIG, config, 0o600);
    machine.ok(&["systemctl", "daemon-reload"]);
}

/// Starts it; `systemctl` returns when it said that it is ready.
pub(crate) fn start(machine: &Machine) {
    let said = machine.run(&["systemctl", "start", UNIT]);
    assert!(said.code == 0, "{said:?}\n{}", machine.journal(UNIT));
    assert_eq!(machine.property(UNIT, "ActiveState"), "active", "{}", machine.journal(UNIT));
}

/// What `coroner status` says, as JSON. The exit code tells the state of the clusters, so it is not looked at.
pub(crate) fn status(machine: &Machine) -> serde_json::Value {
    let said = machine.run(&["coroner", "status", "-o", "json"]);
    serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}\n{}", machine.journal(UNIT)))
}

fn policy(machine: &Machine) -> String {
    status(machine)["policy_hash"].as_str().unwrap().to_owned()
}

/// Nothing listens at these addresses, and nothing is done about it.
const IDLE: &str = r#"
arbiter: { name: inside, store: "sqlite:/var/lib/coroner/coroner.db" }
clusters:
  cache:
    mode: shadow
    broker: { redis: {} }
    members:
      a: { address: "127.0.0.1:16379" }
      b: { address: "127.0.0.1:16380" }
    signals:
      ping: { broker: { ask: ping, of: primary, every: 1s } }
    death_rules:
      - { name: does not answer, when: { ping: { failing: 3 of 3 } }, verdict: dead, then: alert }
"#;

#[test]
fn the_arbiter_starts_reloads_is_watched_and_stops() {
    let machine = Machine::boot();
    install(&machine, IDLE);
    // The watchdog as it is shipped would make this test wait.
    let quick = "[Service]\nWatchdogSec=2s\n";
    machine.write("/etc/systemd/system/coroner-arbiter.service.d/50-test.conf", quick, 0o644);
    machine.ok(&["systemctl", "daemon-reload"]);
    start(&machine);
    assert_eq!(machine.property(UNIT, "Type"), "notify-reload");
    assert_eq!(machine.property(UNIT, "StatusText"), "watching");

    // What it needs is there, with the rights that the unit gives.
    let before = policy(&machine);
    for (path, rights) in [("/var/lib/coroner", "700"), ("/var/lib/coroner/coroner.db", "600")] {
        assert_eq!(machine.ok(&["stat", "-c", "%a", path]), rights, "{path}");
    }
    machine.ok(&["test", "-S", "/run/coroner/coroner.sock"]);

    // A good file: `reload` returns when RELOADING=1 with MONOTONIC_USEC, and then READY=1, were told.
    machine.write(CONFIG, IDLE.replace("3 of 3", "4 of 4"), 0o600);
    let said = machine.run(&["systemctl", "reload", UNIT]);
    assert!(said.code == 0, "{said:?}\n{}", machine.journal(UNIT));
    let after = policy(&machine);
    assert_ne!(before, after, "{}", machine.journal(UNIT));

    // C-faults: a bad one keeps the old policy, says where the mistake is, and the unit stays up.
    let pid = machine.property(UNIT, "MainPID");
    machine.write(CONFIG, IDLE.replace("every: 1s", "every: 1 fortnight"), 0o600);
    assert_eq!(machine.run(&["systemctl", "reload", UNIT]).code, 0);
    assert_eq!(machine.property(UNIT, "ActiveState"), "active");
    assert_eq!(machine.property(UNIT, "MainPID"), pid);
    assert_eq!(policy(&machine), after);
    let status_text = machine.property(UNIT, "StatusText");
    assert!(status_text.contains("old policy stays"), "{status_text}");
    machine.until("the log says where the mistake is", |machine| machine.journal(UNIT).contains("fortnight"));
    machine.write(CONFIG, IDLE, 0o600);
    machine.ok(&["systemctl", "reload", UNIT]);
    assert_eq!((policy(&machine), machine.property(UNIT, "StatusText").as_str()), (before.clone(), "watching"));

    // A11: it hangs. The watchdog ends it, and it comes back with what it knew.
    machine.ok(&["kill", "-STOP", &pid]);
    machine.until("the watchdog restarted it", |machine| {
        machine.property(UNIT, "NRestarts") == "1" && machine.property(UNIT, "ActiveState") == "active"
    });
    assert_ne!(machine.property(UNIT, "MainPID"), pid);
    machine.until("it answers", |machine| machine.run(&["coroner", "status", "-o", "json"]).out.contains(&before));

    // It is fed as long as it runs: no second restart within several of its periods.
    let fed_since = machine.property(UNIT, "MainPID");
    machine.ok(&["sleep", "5"]);
    assert_eq!(machine.property(UNIT, "MainPID"), fed_since, "{}", machine.journal(UNIT));

    machine.ok(&["systemctl", "stop", UNIT]);
    assert_eq!(machine.property(UNIT, "ActiveState"), "inactive");
    assert_eq!(machine.property(UNIT, "Result"), "success", "{}", machine.journal(UNIT));
    assert_eq!(machine.property(UNIT, "ExecMainStatus"), "0", "{}", machine.journal(UNIT));
    assert_ne!(machine.run(&["test", "-e", "/run/coroner/coroner.sock"]).code, 0);

    // A file that cannot be used at the start: exit code 78, and no restart that would not mend it.
    machine.write(CONFIG, "clusters: 5\n", 0o600);
    assert_ne!(machine.run(&["systemctl", "start", UNIT]).code, 0);
    machine.until("it has failed", |machine| machine.property(UNIT, "ActiveState") == "failed");
    assert_eq!(machine.property(UNIT, "ExecMainStatus"), "78");
}
