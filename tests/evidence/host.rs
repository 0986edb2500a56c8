//! What only the host can do: kill all of it, require it empty, and say honestly when it is not.

use std::time::Duration;

use coroner::{
    agent::{
        host::{Host, rehearse_kill},
        spec::Guarded,
    },
    model::{FenceVerdict, Proof},
    sys::clock::Stopwatch,
};
use rustix::process::Signal;

use crate::lab::{LONG, OldFreezer, Sacrifice, TestGroup, in_mount_namespace, pid_file, print, runs, signal, until};

fn host(guarded: &Guarded) -> Host {
    Host::new(&"orders".into(), &"broker-a".into(), guarded).unwrap()
}

#[test]
fn p3_a_control_group_is_killed_with_all_its_children() {
    let mut times = Vec::new();
    for _ in 0..5 {
        let group = TestGroup::new();
        let mut parent = group.shell("for i in 1 2 3 4 5 6 7 8 9; do setsid sleep 300 & done; wait");
        until("ten run", || group.count() == 10);
        let host = host(&group.guarded());
        let health = host.check(LONG);
        assert_eq!(health.usable, Some(true), "{}", health.detail);
        assert_eq!(group.count(), 10, "a check harms nobody");
        // The parent is gone before, and some are stopped.
        parent.kill();
        parent.reap();
        let watch = Stopwatch::start();
        let report = host.stop(LONG);
        times.push(watch.elapsed());
        assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::Stopped), "{}", report.detail);
        assert!(report.detail.contains("is empty") && report.detail.contains("restarts it"), "{}", report.detail);
        assert_eq!(group.count(), 0);
        // Twice is the same as once, and there is nothing to lift.
        let again = host.stop(LONG);
        assert_eq!((again.verdict, again.proof), (FenceVerdict::Confirmed, Proof::Stopped), "{}", again.detail);
        assert!(host.lift(LONG).is_ok());
    }
    print("inhibit, kill and require empty", times);
}

#[test]
fn stopped_and_frozen_processes_are_killed() {
    let group = TestGroup::new();
    let broker = group.shell("exec sleep 300");
    signal(broker.pid(), Signal::STOP);
    group.freeze(true);
    let report = host(&group.guarded()).stop(LONG);
    assert_eq!(report.verdict, FenceVerdict::Confirmed, "{}", report.detail);
    assert!(!runs(broker.pid()));
}

/// P7: KILL was taken, the process stays: that is no proof, and the report says why.
#[test]
fn p7_what_is_stuck_in_the_kernel_is_no_proof() {
    if !in_mount_namespace("host::p7_what_is_stuck_in_the_kernel_is_no_proof") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let group = TestGroup::new();
    let broker = group.shell("exec sleep 300");
    let freezer = OldFreezer::new(&directory.path().join("freezer"));
    freezer.freeze(broker.pid());
    let host = host(&group.guarded());
    let watch = Stopwatch::start();
    let report = host.stop(Duration::from_millis(300));
    assert!(watch.elapsed() < Duration::from_secs(2), "the deadline holds: {:?}", watch.elapsed());
    assert_eq!(report.verdict, FenceVerdict::Unknown, "{}", report.detail);
    assert!(report.detail.contains("unkillable: stuck in D state"), "{}", report.detail);
    assert!(host.require_empty(Duration::ZERO).is_err());
    freezer.thaw();
    let report = host.stop(LONG);
    assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::Stopped), "{}", report.detail);
}

#[test]
fn a_process_of_a_pid_file_is_killed_with_its_family() {
    let directory = tempfile::tempdir().unwrap();
    let parent = Sacrifice::run(&["sh", "-c", "sleep 300 & sleep 300 & wait"]);
    let family = || {
        let all = coroner::sys::process::all().unwrap();
        coroner::sys::process::family(&all, &[parent.pid()].into()).len()
    };
    until("three run", || family() == 3);
    let host = host(&pid_file(directory.path(), parent.pid()));
    assert_eq!(host.check(LONG).usable, Some(true));
    let report = host.stop(LONG);
    assert_eq!(report.verdict, FenceVerdict::Confirmed, "{}", report.detail);
    assert_eq!(family(), 0);
    assert!(host.require_empty(LONG).is_ok());
}

#[test]
fn the_agent_never_kills_itself() {
    let group = TestGroup::new();
    let home = coroner::agent::evidence::cgroup::of_process(i32::try_from(std::process::id()).unwrap());
    group.add(i32::try_from(std::process::id()).unwrap());
    let host = host(&group.guarded());
    let (health, killed, report) = (host.check(LONG), host.kill_all(LONG), host.stop(Duration::from_millis(100)));
    let root = group.directory.parent().unwrap();
    let home = home.map_or_else(|| root.to_owned(), |home| root.join(home.trim_start_matches('/')));
    std::fs::write(home.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    assert_eq!(health.usable, Some(false), "{}", health.detail);
    assert!(killed.is_err_and(|why| why.contains("nothing was killed")));
    assert_eq!(report.verdict, FenceVerdict::Unknown, "{}", report.detail);
}

#[test]
fn a_rehearsal_kills_a_sacrificial_process_and_clears_up() {
    let mut times = Vec::new();
    for _ in 0..5 {
        let rehearsal = rehearse_kill(LONG).unwrap();
        // The shell, and its child, which may not have become `sleep` yet.
        assert!(rehearsal.detail.matches("(s").count() >= 2, "its child was killed too: {}", rehearsal.detail);
        times.push(rehearsal.took);
    }
    print("rehearsed kill", times);
    let root = coroner::sys::process::ControlGroup::at("x").unwrap().directory().parent().unwrap().to_owned();
    let own = coroner::agent::evidence::cgroup::of_process(i32::try_from(std::process::id()).unwrap());
    let home = own.map_or_else(|| root.clone(), |own| root.join(own.trim_start_matches('/')));
    let mine = format!("coroner-rehearsal-{}-", std::process::id());
    let left = std::fs::read_dir(home).unwrap().flatten();
    assert_eq!(left.filter(|e| e.file_name().to_string_lossy().starts_with(&mine)).count(), 0);
}
