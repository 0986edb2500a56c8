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
