//! The unit files: systemd accepts them, and they are hardened.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// `systemd-analyze security` calls up to this "OK".
const EXPOSURE_MAX: f64 = 4.9;

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn analyze(args: &[&str], file: &Path) -> Output {
    Command::new("systemd-analyze")
        .args(args)
        .arg(file)
        .output()
        .expect("systemd-analyze is needed: apt-get install systemd")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_unit_is_accepted_without_a_word() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("coroner-arbiter.service");
    // The programs are installed elsewhere, or not yet; any will do for this.
    let unit = std::fs::read_to_string(units().join("coroner-arbiter.service")).unwrap();
    std::fs::write(&copy, unit.replace("/usr/bin/coroner", "/bin/true")).unwrap();
    let output = analyze(&["verify", "--man=no"], &copy);
    // Warnings about other units of this host name them, not ours.
    let ours: Vec<_> = text(&output).lines().filter(|line| line.contains("coroner")).map(str::to_owned).collect();
    assert!(ours.is_empty(), "{ours:#?}");
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn the_unit_is_hardened() {
    let output = analyze(&["security", "--offline=true"], &units().join("coroner-arbiter.service"));
    let text = text(&output);
    let line = text.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{text}"));
    let level =
        line.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).and_then(|level| level.parse::<f64>().ok());
    assert!(level.is_some_and(|level| level <= EXPOSURE_MAX), "{line}");
    assert!(line.contains("OK") || line.contains("SAFE") || line.contains("PERFECT"), "{line}");
}

#[test]
fn the_unit_keeps_its_promises() {
    let unit = std::fs::read_to_string(units().join("coroner-arbiter.service")).unwrap();
    for line in [
        "WatchdogSec=10s",
        "StateDirectory=coroner",
        "RuntimeDirectory=coroner",
        "KillMode=mixed",
        "RestartPreventExitStatus=78 100",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
    ] {
        assert!(unit.lines().any(|own| own == line), "{line}");
    }
    let newer = std::fs::read_to_string(units().join("coroner-arbiter.service.d/10-notify-reload.conf")).unwrap();
    assert!(newer.contains("Type=notify-reload"));
}

/// The unit under its own name, with programs that exist, in a directory of its own.
fn verified(name: &str, text: &str) -> (Vec<String>, Output) {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join(name);
    std::fs::write(&copy, text.replace("/usr/bin/coroner", "/bin/true")).unwrap();
    // Units that ours name are looked up beside it.
    for other in ["coroner-agent.service", "coroner-gate.service"] {
        if other != name {
            let unit = std::fs::read_to_string(units().join(other)).unwrap();
            std::fs::write(directory.path().join(other), unit.replace("/usr/bin/coroner", "/bin/true")).unwrap();
        }
    }
    let output = analyze(&["verify", "--man=no"], &copy);
    let ours = text_lines(&output);
    (ours, output)
}

fn text_lines(output: &Output) -> Vec<String> {
    text(output).lines().filter(|line| line.contains("coroner")).map(str::to_owned).collect()
}

#[test]
fn the_units_of_agent_and_gate_are_accepted_without_a_word() {
    for name in ["coroner-agent.service", "coroner-gate.service"] {
        let (ours, output) = verified(name, &std::fs::read_to_string(units().join(name)).unwrap());
        assert!(ours.is_empty(), "{name}: {ours:#?}");
        assert!(output.status.success(), "{name}: {}", text(&output));
    }
}

#[test]
fn the_drop_in_fits_a_brokers_unit() {
    let drop_in = std::fs::read_to_string(units().join("coroner-gate.conf")).unwrap();
    let broker = format!("[Service]\nExecStart=/bin/true\nUser=nobody\n{drop_in}");
    let (ours, output) = verified("broker.service", &broker);
    assert!(ours.is_empty(), "{ours:#?}");
    assert!(output.status.success(), "{}", text(&output));
    assert!(drop_in.contains("ExecStartPre=+/usr/bin/coroner gate wait "));
}

#[test]
fn agent_and_gate_are_hardened() {
    // The agent keeps CAP_SYS_ADMIN for the drill's network namespace, and real-time priority.
    for (name, most) in [("coroner-agent.service", EXPOSURE_MAX), ("coroner-gate.service", 2.5)] {
        let output = analyze(&["security", "--offline=true"], &units().join(name));
        let text = text(&output);
        let line =
            text.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{text}"));
        let level =
            line.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).and_then(|level| level.parse::<f64>().ok());
        println!("{name}: {line}");
        assert!(level.is_some_and(|level| level <= most), "{name}: {line}");
    }
}

#[test]
fn agent_and_gate_keep_their_promises() {
    let holds = |name: &str, lines: &[&str]| {
        let unit = std::fs::read_to_string(units().join(name)).unwrap();
        for line in lines {
            assert!(unit.lines().any(|own| own == *line), "{name}: {line}");
        }
    };
    holds(
        "coroner-agent.service",
        &[
            "Restart=always",
            "RestartSec=50ms",
            "StartLimitIntervalSec=0",
            "OOMScoreAdjust=-1000",
            "WatchdogSec=2s",
            "LimitMEMLOCK=64M",
            "LimitRTPRIO=10",
            "RestrictNamespaces=net",
        ],
    );
    holds(
        "coroner-gate.service",
        &["Type=oneshot", "RemainAfterExit=yes", "DefaultDependencies=no", "CapabilityBoundingSet=CAP_NET_ADMIN"],
    );
}
