//! The `signal` method against real processes.

use std::time::Duration;

use coroner::{
    fence::{
        AnyFence,
        signal::{Signal, Supervisor},
    },
    model::{FenceVerdict, Proof, Span},
    sys::{clock::Stopwatch, process},
};
use rustix::process::{Pid, kill_process};

use crate::lab::{LONG, Sacrifice, TestGroup, build, group, number_in, order, runs, target, until};

fn by_file(path: &std::path::Path) -> Signal {
    Signal { pid_file: Some(path.to_str().unwrap().into()), supervisor: Some(Supervisor::None), ..Signal::default() }
}

fn pid_file(dir: &tempfile::TempDir, pid: i32) -> std::path::PathBuf {
    let path = dir.path().join("pid");
    std::fs::write(&path, format!("{pid}\n")).unwrap();
    path
}

fn stop(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), rustix::process::Signal::STOP).unwrap();
}

#[tokio::test]
async fn a_kill_is_proof_only_where_nothing_restarts() {
    let dir = tempfile::tempdir().unwrap();
    for (supervisor, proof, word) in [
        (Some(Supervisor::None), Proof::Stopped, "operator says"),
        (Some(Supervisor::Other), Proof::Claim, "something restarts it"),
        (None, Proof::Claim, "supervisor: none"),
    ] {
        let mut sleeper = Sacrifice::run(&["sleep", "300"]);
        let config = Signal { supervisor, ..by_file(&pid_file(&dir, sleeper.pid())) };
        let fence = build(AnyFence::Signal(config));
        let report = fence.fence(&order(1), LONG).await;
        assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, proof), "{}", report.detail);
        assert_eq!(fence.best_proof(), proof);
        assert!(report.detail.contains(word), "{}", report.detail);
        assert!(!sleeper.runs());
        sleeper.reap();
        // Twice is the same as once; a pid file that names a dead process is no riddle.
        let again = fence.fence(&order(1), LONG).await;
        assert_eq!((again.verdict, again.proof), (FenceVerdict::Confirmed, proof), "{}", again.detail);
    }
}

/// P3: the parent is dead, its children still write.
#[tokio::test]
async fn p3_children_that_outlive_the_parent_are_killed_too() {
    let dir = tempfile::tempdir().unwrap();
    let (child, stray) = (dir.path().join("child"), dir.path().join("stray"));
    let script = "sleep 300 & echo $! > \"$1\"; setsid sh -c 'echo $$ > \"$1\"; exec sleep 300' sh \"$2\" & wait";
    let mut parent = Sacrifice::sh(script, &[child.to_str().unwrap(), stray.to_str().unwrap()]);
    let (child, stray) = (number_in(&child).await, number_in(&stray).await);
    parent.with(stray);
    let fence = build(AnyFence::Signal(by_file(&pid_file(&dir, parent.pid()))));
    // The check sees all of it and remembers who they are.
    let health = fence.check(&target("127.0.0.1:6379"), LONG).await;
    assert_eq!(health.usable, Some(true), "{}", health.detail);
    assert!(parent.runs() && runs(child) && runs(stray), "a check harms nobody");

    kill_process(Pid::from_raw(parent.pid()).unwrap(), rustix::process::Signal::KILL).unwrap();
    parent.reap();
    assert!(runs(child) && runs(stray));
    let report = fence.fence(&order(1), LONG).await;
    assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::Stopped), "{}", report.detail);
    assert!(!runs(child) && !runs(stray), "{}", report.detail);
}

/// P3, seen for the first time when the parent is gone: nobody is killed whom nothing ties to the member.
#[tokio::test]
async fn p3_orphans_of_an_unknown_parent_are_not_killed_on_suspicion() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("child");
    let mut parent = Sacrifice::sh("sleep 300 & echo $! > \"$1\"; wait", &[file.to_str().unwrap()]);
    let child = number_in(&file).await;
    let path = pid_file(&dir, parent.pid());
    kill_process(Pid::from_raw(parent.pid()).unwrap(), rustix::process::Signal::KILL).unwrap();
    parent.reap();
    let report = build(AnyFence::Signal(by_file(&path))).fence(&order(1), LONG).await;
    assert_eq!(report.verdict, FenceVerdict::Unknown, "{}", report.detail);
    assert!(report.detail.contains("`executable`") && runs(child), "{}", report.detail);
    // With the executable's name, they are known.
    let config = Signal { executable: Some("sleep".into()), ..by_file(&path) };
    let report = build(AnyFence::Signal(config)).fence(&order(1), LONG).await;
    assert_eq!(report.verdict, FenceVerdict::Confirmed, "{}", report.detail);
    assert!(!runs(child));
}

/// P5: a frozen process is killed, and never continued.
#[tokio::test]
async fn p5_a_stopped_process_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let alive = dir.path().join("alive");
    // It would tell if it were ever continued.
    let script = "trap 'echo termed > \"$1\"' TERM; while :; do sleep 0.05; done";
    let frozen = Sacrifice::sh(script, &[alive.to_str().unwrap()]);
    stop(frozen.pid());
    let pid = frozen.pid();
    until("it is stopped", || process::look(pid).is_some_and(|p| p.state == 'T')).await;
    let config = Signal { term_for: Some(Span(Duration::from_millis(200))), ..by_file(&pid_file(&dir, frozen.pid())) };
    let report = build(AnyFence::Signal(config)).fence(&order(1), LONG).await;
    assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::Stopped), "{}", report.detail);
    assert!(!frozen.runs());
    assert!(!alive.exists(), "it ran again");
}

#[tokio::test]
async fn term_comes_first_where_it_is_wanted_and_kill_ends_the_stubborn() {
    let dir = tempfile::tempdir().unwrap();
    let (ready, termed) = (dir.path().join("ready"), dir.path().join("termed"));
    let script = "trap 'echo 1 > \"$2\"' TERM; echo 1 > \"$1\"; while :; do sleep 0.05; done";
    let stubborn = Sacrifice::sh(script, &[ready.to_str().unwrap(), termed.to_str().unwrap()]);
    number_in(&ready).await;
    let config =
        Signal { term_for: Some(Span(Duration::from_millis(500))), ..by_file(&pid_file(&dir, stubborn.pid())) };
    let watch = Stopwatch::start();
    let report = build(AnyFence::Signal(config)).fence(&order(1), LONG).await;
    assert_eq!(report.verdict, FenceVerdict::Confirmed, "{}", report.detail);
    assert!(watch.elapsed() >= Duration::from_millis(500));
    assert!(termed.exists() && !stubborn.runs());
}

#[tokio::test]
async fn a_recycled_pid_is_never_hit() {
    let dir = tempfile::tempdir().unwrap();
    // A stranger runs under a number that an old pid file names.
    let stranger = Sacrifice::run(&["sleep", "300"]);
    let path = pid_file(&dir, stranger.pid());
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let written = std::fs::metadata(&path).unwrap().modified().unwrap() - Duration::from_secs(3_600);
    file.set_modified(written).unwrap();
    let fence = build(AnyFence::Signal(by_file(&path)));
    let report = fence.fence(&order(1), LONG).await;
    assert_eq!(report.verdict, FenceVerdict::Unknown, "{}", report.detail);
    assert!(report.detail.contains("recycled") && stranger.runs(), "{}", report.detail);
    assert_eq!(fence.check(&target("127.0.0.1:6379"), LONG).await.usable, Some(false));

    // The executable tells strangers apart too.
    let fresh = pid_file(&dir, stranger.pid());
    let config = Signal { executable: Some("redis-server".into()), ..by_file(&fresh) };
    let report = build(AnyFence::Signal(config)).fence(&order(1), LONG).await;
    assert_eq!(report.verdict, FenceVerdict::Unknown, "{}", report.detail);
    assert!(report.detail.contains("executes `sleep`") && stranger.runs(), "{}", report.detail);
}

#[tokio::test]
async fn what_was_never_seen_is_unknown_and_what_was_seen_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let missing = build(AnyFence::Signal(by_file(&dir.path().join("pid"))));
    let report = missing.fence(&order(1), LONG).await;
    assert_eq!(report.verdict, FenceVerdict::Unknown, "{}", report.detail);

    let sleeper = Sacrifice::run(&["sleep", "300"]);
    let path = pid_file(&dir, sleeper.pid());
    let fence = build(AnyFence::Signal(by_file(&path)));
    assert_eq!(fence.check(&target("127.0.0.1:6379"), LONG).await.usable, Some(true));
    // The file goes, the process stays: it is still known.
    std::fs::remove_file(&path).unwrap();
    let report = fence.fence(&order(1), LONG).await;
    assert_eq!(report.verdict, FenceVerdict::Confirmed, "{}", report.detail);
    assert!(!sleeper.runs());
}

#[tokio::test]
async fn a_command_line_finds_exactly_one() {
    // A length of sleep that nobody else has.
    let length = format!("300.{:09}", std::process::id());
    let by_line = || {
        let command_line = Some(format!("sleep {length}"));
        build(AnyFence::Signal(Signal { command_line, supervisor: Some(Supervisor::None), ..Signal::default() }))
    };
    let none = by_line().fence(&order(1), LONG).await;
    assert_eq!(none.verdict, FenceVerdict::Unknown, "{}", none.detail);
    let first = Sacrifice::run(&["sleep", &length]);
    let pid = first.pid();
    let is_sleep = |pid: i32| process::command_line(pid).first().is_some_and(|word| word == "sleep");
    until("sleep runs", || is_sleep(pid)).await;
    {
        let second = Sacrifice::run(&["sleep", &length]);
        until("sleep runs", || is_sleep(second.pid())).await;
        let two = by_line().fence(&order(1), LONG).await;
        assert_eq!(two.verdict, FenceVerdict::Unknown, "{}", two.detail);
        assert!(first.runs() && second.runs());
    }
    let fence = by_line();
    for _ in 0..2 {
        let report = fence.fence(&order(1), LONG).await;
        assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::Stopped), "{}", report.detail);
        assert!(!first.runs());
    }
}

#[tokio::test]
async fn we_do_not_kill_ourselves() {
    let dir = tempfile::tempdir().unwrap();
    let me = i32::try_from(std::process::id()).unwrap();
    for pid in [me, 1] {
        let report = build(AnyFence::Signal(by_file(&pid_file(&dir, pid)))).fence(&order(1), LONG).await;
        assert_eq!(report.verdict, FenceVerdict::Unknown, "{}", report.detail);
    }
}

/// P3 and a fork that runs away: the control group sees everything, its own session or not.
#[tokio::test]
async fn p3_a_control_group_is_emptied_whole() {
    let group = TestGroup::new("kill");
    let dir = tempfile::tempdir().unwrap();
    let stray = dir.path().join("stray");
    let script = "read go < \"$2\"; (setsid sh -c 'echo $$ > \"$1\"; exec sleep 300' sh \"$1\" &) ; exec sleep 300";
    let fifo = dir.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let broker = Sacrifice::sh(script, &[stray.to_str().unwrap(), fifo.to_str().unwrap()]);
    group.add(broker.pid());
    std::fs::write(&fifo, "go\n").unwrap();
    let stray = number_in(&stray).await;
    let config = Signal { cgroup: Some(group.name.clone()), supervisor: Some(Supervisor::None), ..Signal::default() };
    let fence = build(AnyFence::Signal(config));
    let health = fence.check(&target("127.0.0.1:6379"), LONG).await;
    assert_eq!(health.usable, Some(true), "{}", health.detail);
    assert!(broker.runs() && runs(stray));
    for _ in 0..2 {
        let report = fence.fence(&order(1), LONG).await;
        assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::Stopped), "{}", report.detail);
        assert!(!broker.runs() && !runs(stray));
    }
    // systemd removes the group of a unit that stopped.
    drop(group);
    let report = fence.fence(&order(1), LONG).await;
    assert_eq!(report.verdict, FenceVerdict::Confirmed, "{}", report.detail);
}

#[tokio::test]
async fn a_control_group_that_was_never_there_proves_nothing() {
    let config = Signal { cgroup: Some("coroner-test-no-such-group".into()), ..Signal::default() };
    let report = build(AnyFence::Signal(config)).fence(&order(1), LONG).await;
    assert_eq!(report.verdict, FenceVerdict::Unknown, "{}", report.detail);
}

/// A broker that forks as fast as it is killed still goes, because its whole group is shot at again and again.
#[tokio::test]
async fn a_forking_group_goes_whole() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Sacrifice::sh("while :; do sleep 300 & sleep 0.01; done", &[]);
    let pid = broker.pid();
    until("it has forked", || group(pid).len() > 3).await;
    let report = build(AnyFence::Signal(by_file(&pid_file(&dir, pid)))).fence(&order(1), LONG).await;
    assert_eq!(report.verdict, FenceVerdict::Confirmed, "{}", report.detail);
    assert!(group(pid).is_empty());
}
