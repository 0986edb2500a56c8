//! A real systemd: units start, reload, are watched, and are fenced.

#![expect(clippy::unwrap_used, reason = "a test may stop")]

mod agents;
mod arbiter;
mod evidence;
mod fence;
mod machine;

use machine::Machine;

/// A service that speaks systemd's notify protocol, with which the machine itself is tested.
const NOTIFIER: &str = r#"
import os, signal, socket, time
def tell(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.connect(os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)); s.send(text.encode())
def reload(*_):
    tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    tell("READY=1\nSTATUS=reloaded")
signal.signal(signal.SIGHUP, reload)
tell("READY=1\nSTATUS=started")
while True:
    if not os.path.exists("/run/hang"): tell("WATCHDOG=1")
    time.sleep(0.1)
"#;

#[test]
fn a_unit_starts_reloads_is_watched_and_is_masked() {
    let machine = Machine::boot();
    assert_eq!(machine.ok(&["systemctl", "is-system-running"]), "running");

    machine.write("/usr/local/bin/notifier.py", NOTIFIER, 0o755);
    let unit = "[Service]\nType=notify-reload\nExecStart=python3 /usr/local/bin/notifier.py\nWatchdogSec=2s\n";
    machine.write("/etc/systemd/system/notifier.service", unit, 0o644);
    machine.ok(&["systemctl", "daemon-reload"]);
    machine.ok(&["systemctl", "start", "notifier"]);
    assert_eq!(machine.property("notifier", "StatusText"), "started");
    machine.ok(&["systemctl", "reload", "notifier"]);
    assert_eq!(machine.property("notifier", "StatusText"), "reloaded");

    machine.write("/run/hang", "", 0o644);
    machine.until("the watchdog ends it", |machine| machine.property("notifier", "Result") == "watchdog");

    machine.ok(&["systemctl", "mask", "--runtime", "--now", "redis-server"]);
    assert_ne!(machine.run(&["systemctl", "start", "redis-server"]).code, 0, "a masked unit starts");
    machine.ok(&["systemctl", "unmask", "--runtime", "redis-server"]);
    machine.ok(&["systemctl", "start", "redis-server"]);
    assert_eq!(machine.ok(&["redis-cli", "ping"]), "PONG");
}

#[test]
fn this_systemd_accepts_our_units() {
    let machine = Machine::boot();
    let units = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    machine.write("/usr/bin/coroner", "#!/bin/sh\n", 0o755);
    for file in ["coroner-arbiter.service", "coroner-arbiter.service.d/10-notify-reload.conf"] {
        machine.copy_in(&units.join(file), &format!("/etc/systemd/system/{file}"), 0o644);
    }
    let said = machine.run(&["systemd-analyze", "verify", "--man=no", "coroner-arbiter.service"]);
    assert!(said.code == 0 && !said.err.contains("coroner"), "{said:?}");
    machine.ok(&["systemctl", "daemon-reload"]);
    assert_eq!(machine.property("coroner-arbiter", "Type"), "notify-reload", "{}", machine.journal("coroner-arbiter"));
}
