//! A broker that is in trouble, but not dead.

use std::{net::TcpListener, time::Duration};

use coroner::{
    agent::evidence::{Options, Watcher, pressure::Threshold},
    model::agent::{Certainty, Watch},
    sys::process,
};
use rustix::process::Signal;

use crate::lab::{
    OldFreezer, Sacrifice, TestGroup, gate, guard, hear_of, in_mount_namespace, known, mount_at, pid_file, print,
    quick, signal, uses, watcher,
};

#[test]
fn a_stopped_process_is_frozen_until_it_is_let_go() {
    let directory = tempfile::tempdir().unwrap();
    let sleeper = Sacrifice::run(&["sleep", "300"]);
    let mut watcher = watcher(&guard(pid_file(directory.path(), sleeper.pid())));
    assert!(known(&watcher, Watch::Frozen).is_some_and(|e| !e.is_so));
    let mut times = Vec::new();
    for _ in 0..5 {
        signal(sleeper.pid(), Signal::STOP);
        let (evidence, took) = hear_of(&mut watcher, Watch::Frozen, true);
        assert_eq!(evidence.certainty, Certainty::Warning, "it may be let go: it is not dead");
        times.push(took);
        signal(sleeper.pid(), Signal::CONT);
        hear_of(&mut watcher, Watch::Frozen, false);
    }
    assert!(known(&watcher, Watch::Process).is_some_and(|e| !e.is_so), "frozen is not dead");
    let median = print("stop to evidence", times);
    assert!(median < Duration::from_millis(300), "{median:?}");
}

#[test]
fn a_frozen_control_group_is_told_by_the_kernel() {
    let group = TestGroup::new();
    let _broker = group.shell("exec sleep 300");
    let mut watcher = watcher(&guard(group.guarded()));
    let mut times = Vec::new();
    for _ in 0..5 {
        group.freeze(true);
        let (evidence, took) = hear_of(&mut watcher, Watch::Frozen, true);
        assert!(evidence.detail.contains("control group"), "{evidence:?}");
        times.push(took);
        group.freeze(false);
        hear_of(&mut watcher, Watch::Frozen, false);
    }
    print("freeze to evidence", times);
}

/// A process that the old freezer holds is in D state with not one change of context, as one that waits for a dead disk.
#[test]
fn p7_a_thread_in_one_and_the_same_wait_is_stuck() {
    if !in_mount_namespace("trouble::p7_a_thread_in_one_and_the_same_wait_is_stuck") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let sleeper = Sacrifice::run(&["sleep", "300"]);
    let mut watcher = watcher(&guard(pid_file(directory.path(), sleeper.pid())));
    let freezer = OldFreezer::new(&directory.path().join("freezer"));
    freezer.freeze(sleeper.pid());
    let (evidence, took) = hear_of(&mut watcher, Watch::Stuck, true);
    assert!(evidence.detail.contains(&format!("thread {} is stuck in D state", sleeper.pid())), "{evidence:?}");
    assert_eq!(evidence.certainty, Certainty::Warning);
    assert!(took >= quick().look_every, "one look is not enough: {took:?}");
    freezer.thaw();
    hear_of(&mut watcher, Watch::Stuck, false);
}

#[test]
fn a_listening_socket_that_is_gone_is_told_while_the_process_lives() {
    let directory = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let program = format!(
        "import socket, sys\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
         s.bind(('127.0.0.1', {port}))\ns.listen()\n@READY@\nsys.stdin.readline()\ns.close()\nimport time\ntime.sleep(300)"
    );
    let mut broker = Sacrifice::python_ready(directory.path(), &program);
    let mut guard = guard(pid_file(directory.path(), broker.pid()));
    guard.gate = Some(gate(&[port]));
    let mut watcher = watcher(&guard);
    hear_of(&mut watcher, Watch::Listener, false);
    broker.say_go();
    let (evidence, _) = hear_of(&mut watcher, Watch::Listener, true);
    assert_eq!(evidence.certainty, Certainty::Proven);
    assert!(evidence.detail.contains(&port.to_string()), "{evidence:?}");
    assert!(known(&watcher, Watch::Process).is_some_and(|e| !e.is_so));
}

#[test]
fn a_full_or_read_only_file_system_is_told() {
    if !in_mount_namespace("trouble::a_full_or_read_only_file_system_is_told") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    mount_at(&data, "tmpfs", "size=8m");
    let sleeper = Sacrifice::run(&["sleep", "300"]);
    let mut guard = guard(pid_file(directory.path(), sleeper.pid()));
    guard.data = Some(data.clone());
    let mut watcher = watcher(&guard);
    hear_of(&mut watcher, Watch::Disk, false);
    std::fs::write(data.join("log"), vec![1; 7_800_000]).unwrap();
    let (full, _) = hear_of(&mut watcher, Watch::Disk, true);
    assert!(full.detail.ends_with("is full") && full.certainty == Certainty::Warning, "{full:?}");
    std::fs::remove_file(data.join("log")).unwrap();
    hear_of(&mut watcher, Watch::Disk, false);
    let said = std::process::Command::new("mount").args(["-o", "remount,ro"]).arg(&data).output().unwrap();
    assert!(said.status.success(), "{said:?}");
    let (read_only, _) = hear_of(&mut watcher, Watch::Disk, true);
    assert!(read_only.detail.ends_with("is read-only"), "{read_only:?}");
}

#[test]
fn a_control_group_that_only_waits_for_its_disk_is_under_pressure() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let group = TestGroup::new();
    // As low as the kernel takes it: how slow this machine's disk is, is not the question.
    let pressure = Threshold { stalled: Duration::from_millis(5), within: Duration::from_millis(500) };
    let options = Options { pressure, pressure_holds: Duration::from_millis(600), ..quick() };
    let file = directory.path().join("load");
    let script = format!("while :; do dd if=/dev/zero of={} bs=8M count=8 oflag=direct,sync; done", file.display());
    let broker = group.shell(&script);
    let mut watcher = Watcher::with(&guard(group.guarded()), process::boot_id(), options).unwrap();
    assert!(uses(&watcher, "pressure"), "{:?}", watcher.sources());
    let (evidence, _) = hear_of(&mut watcher, Watch::Pressure, true);
    assert!(evidence.detail.contains("waits for disk"), "{evidence:?}");
    assert_eq!(evidence.certainty, Certainty::Warning);
    group.freeze(true);
    hear_of(&mut watcher, Watch::Pressure, false);
    drop(broker);
}

#[test]
fn what_cannot_be_watched_here_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let sleeper = Sacrifice::run(&["sleep", "300"]);
    let watcher = watcher(&guard(pid_file(directory.path(), sleeper.pid())));
    let sources = watcher.sources();
    for name in ["pidfd", "connector", "tracepoint", "cgroup", "unit", "pressure", "listener", "disk"] {
        let source = sources.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("{name}: {sources:#?}"));
        assert!(!source.detail.is_empty());
        println!("{name}: {} ({})", if source.is_used { "used" } else { "not used" }, source.detail);
    }
}
