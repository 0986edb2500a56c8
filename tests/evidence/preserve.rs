//! What is kept of a dying broker, and that it never takes longer than it may.

use std::{net::TcpListener, path::Path, process::Command, time::Duration};

use coroner::{
    agent::preserve::{Preserved, Subject, preserve},
    sys::{
        clock::Stopwatch,
        process::{self, ControlGroup},
    },
};

use crate::lab::{LONG, OldFreezer, Sacrifice, TestGroup, in_mount_namespace, number, until};

fn subject(group: &TestGroup) -> Subject {
    let control_group = ControlGroup::at(&group.name).unwrap();
    let processes = control_group.processes().into_iter().filter_map(process::look).collect();
    Subject { processes, group: Some(control_group), unit: None }
}

fn check_sums(directory: &Path) {
    let said = Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(directory).output();
    let said = said.unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
}

fn text(preserved: &Preserved, name: &str) -> String {
    assert!(preserved.files.iter().any(|kept| kept.name == name), "{name}: {preserved:#?}");
    std::fs::read_to_string(preserved.directory.join(name)).unwrap()
}

#[test]
fn what_it_was_doing_is_kept_with_true_checksums() {
    let state = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let program = format!(
        "import socket, time\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
         s.bind(('127.0.0.1', {port}))\ns.listen()\n@READY@\ntime.sleep(300)"
    );
    let broker = Sacrifice::python_ready(state.path(), &program);
    let group = TestGroup::new();
    group.add(broker.pid());
    // Frozen, and still all of it can be had.
    group.freeze(true);
    until("it is frozen", || {
        std::fs::read_to_string(group.directory.join("cgroup.events")).unwrap().contains("frozen 1")
    });
    let pid = broker.pid();
    let directory = state.path().join("preserved/01JTEST");
    let preserved = preserve(&subject(&group), &directory, LONG);
    println!("preserved {} files in {} ms", preserved.files.len(), preserved.took_ms);
    assert!(preserved.left_out.is_empty(), "{:#?}", preserved.left_out);
    assert!(text(&preserved, &format!("{pid}-status")).contains("State:"));
    assert!(text(&preserved, &format!("{pid}-limits")).contains("Max open files"));
    assert!(text(&preserved, &format!("{pid}-threads")).contains(&format!("thread {pid} ")));
    assert!(text(&preserved, &format!("{pid}-files")).contains("socket:["));
    assert!(text(&preserved, &format!("{pid}-sockets")).contains(&format!(":{port:04X}")), "its listener");
    assert!(text(&preserved, "cgroup.events").contains("frozen 1"));
    assert!(text(&preserved, "processes").contains("python3"));
    check_sums(&directory);
    let listed = std::fs::read_to_string(directory.join("SHA256SUMS")).unwrap();
    for kept in &preserved.files {
        assert!(listed.contains(&format!("{}  {}\n", kept.sha256, kept.name)));
        assert_eq!(kept.bytes, std::fs::read(directory.join(&kept.name)).unwrap().len());
    }
    assert_eq!(listed.lines().count(), preserved.files.len());
}

#[test]
fn a_budget_of_zero_does_nothing() {
    let state = tempfile::tempdir().unwrap();
    let group = TestGroup::new();
    let _broker = group.shell("exec sleep 300");
    let directory = state.path().join("none");
    let preserved = preserve(&subject(&group), &directory, Duration::ZERO);
    assert!(preserved.files.is_empty() && !directory.exists());
}

#[test]
fn a_budget_is_kept_with_a_frozen_broker_and_many_processes() {
    let state = tempfile::tempdir().unwrap();
    let group = TestGroup::new();
    let _broker = group.shell("for i in 1 2 3 4 5 6 7 8 9; do sleep 300 & done; wait");
    group.freeze(true);
    for budget in [Duration::from_millis(1), Duration::from_millis(5), Duration::from_millis(300)] {
        let watch = Stopwatch::start();
        let directory = state.path().join(number().to_string());
        let preserved = preserve(&subject(&group), &directory, budget);
        let took = watch.elapsed();
        println!(
            "budget {budget:?}: {} files in {took:.1?}, left out: {:?}",
            preserved.files.len(),
            preserved.left_out
        );
        assert!(took < budget + Duration::from_millis(150), "{took:?} for {budget:?}");
        assert!(budget > Duration::from_millis(200) || preserved.files.len() < 60);
    }
}

/// The disk to which it would be written hangs, as it does when that is the trouble.
#[test]
fn a_hung_disk_does_not_hold_up_the_kill() {
    if !in_mount_namespace("preserve::a_hung_disk_does_not_hold_up_the_kill") {
        return;
    }
    // A pipe that nobody reads hangs whoever opens it to write, as a dead disk does.
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().join("hung");
    std::fs::create_dir(&directory).unwrap();
    let made = Command::new("mkfifo").arg(directory.join("processes")).status().unwrap();
    assert!(made.success());
    let group = TestGroup::new();
    let broker = group.shell("exec sleep 300");
    let freezer = OldFreezer::new(&state.path().join("freezer"));
    freezer.freeze(broker.pid());
    let watch = Stopwatch::start();
    let preserved = preserve(&subject(&group), &directory, Duration::from_millis(100));
    assert!(watch.elapsed() < Duration::from_millis(400), "{:?}", watch.elapsed());
    assert!(preserved.left_out.iter().any(|why| why.contains("time was over")), "{preserved:?}");
}
