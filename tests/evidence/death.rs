//! A broker ends: how it is told, and how soon.

use std::{path::Path, time::Duration};

use coroner::{
    agent::{evidence::Watcher, spec::Guarded},
    model::agent::{Certainty, Watch},
    sys::process,
};
use rustix::process::Signal;

use crate::lab::{
    Sacrifice, TestGroup, guard, hear, hear_of, in_mount_namespace, known, mount_at, pid_file, print, signal, until,
    uses, watcher,
};

const HEAVY: &str = "b = b'x' * (256 << 20)\n@READY@\nimport time\ntime.sleep(300)";

fn watch_one(directory: &Path, pid: i32) -> Watcher {
    let watcher = watcher(&guard(pid_file(directory, pid)));
    let process = known(&watcher, Watch::Process).unwrap();
    assert!(!process.is_so && process.certainty == Certainty::Proven, "{process:?}");
    let identity = watcher.identity();
    assert_eq!((identity.pid, identity.boot_id), (pid, process::boot_id()));
    assert_eq!(Some(identity.start_ticks), process::look(pid).map(|seen| seen.identity.start_ticks));
    watcher
}

#[test]
fn p1_a_kill_is_proven_within_milliseconds() {
    let directory = tempfile::tempdir().unwrap();
    let mut times = Vec::new();
    for _ in 0..20 {
        let mut sleeper = Sacrifice::run(&["sleep", "300"]);
        let mut watcher = watch_one(directory.path(), sleeper.pid());
        assert!(uses(&watcher, "pidfd"), "{:?}", watcher.sources());
        sleeper.kill();
        let (evidence, took) = hear_of(&mut watcher, Watch::Process, true);
        assert_eq!(evidence.certainty, Certainty::Proven);
        times.push(took);
        // The last word says how.
        let pid = sleeper.pid();
        if !evidence.detail.contains("killed by SIGKILL") {
            hear(&mut watcher, "how it ended", |e| e.detail == format!("process {pid} killed by SIGKILL"));
        }
        assert_eq!(watcher.identity().pid, pid, "the evidence is still about it");
        sleeper.reap();
    }
    let median = print("kill to evidence, small process", times);
    assert!(median < Duration::from_millis(40), "{median:?}");
}

#[test]
fn an_exit_is_told_with_its_code() {
    let directory = tempfile::tempdir().unwrap();
    let program = "import os, signal\nsignal.signal(15, lambda *_: os._exit(3))\n@READY@\nsignal.pause()";
    let broker = Sacrifice::python_ready(directory.path(), program);
    let mut watcher = watch_one(directory.path(), broker.pid());
    signal(broker.pid(), Signal::TERM);
    let (evidence, _) = hear(&mut watcher, "how it ended", |e| e.detail.contains("exited with 3"));
    assert!(evidence.is_so && evidence.certainty == Certainty::Proven);
}

fn kill_heavy(title: &str) -> (Duration, bool) {
    let directory = tempfile::tempdir().unwrap();
    let mut times = Vec::new();
    let mut has_tracepoint = false;
    for _ in 0..5 {
        let heavy = Sacrifice::python_ready(directory.path(), HEAVY);
        let mut watcher = watch_one(directory.path(), heavy.pid());
        has_tracepoint = uses(&watcher, "tracepoint");
        heavy.kill();
        times.push(hear_of(&mut watcher, Watch::Process, true).1);
    }
    (print(title, times), has_tracepoint)
}

#[test]
fn a_large_process_is_told_too() {
    let (median, _) = kill_heavy("kill to evidence, 256 MiB resident");
    assert!(median < Duration::from_millis(500), "{median:?}");
}

#[test]
fn with_tracefs_a_large_process_is_told_before_its_memory_is_freed() {
    if !in_mount_namespace("death::with_tracefs_a_large_process_is_told_before_its_memory_is_freed") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    mount_at(&directory.path().join("tracefs"), "tracefs", "rw");
    let instances = || {
        let own = format!("coroner-{}-", std::process::id());
        let all = std::fs::read_dir(directory.path().join("tracefs/instances")).unwrap().flatten();
        all.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own)).count()
    };
    let sleeper = Sacrifice::run(&["sleep", "300"]);
    let watcher = watch_one(directory.path(), sleeper.pid());
    assert!(uses(&watcher, "tracepoint"), "it needs tracefs in the kernel: {:?}", watcher.sources());
    assert_eq!(instances(), 1);
    drop(watcher);
    assert_eq!(instances(), 0, "our instance is removed");
    let (median, has_tracepoint) = kill_heavy("kill to evidence, 256 MiB resident, with the tracepoint");
    assert!(has_tracepoint && median < Duration::from_millis(100), "{median:?}");
    assert_eq!(instances(), 0);
}

#[test]
fn p2_a_core_dump_is_told_when_it_begins() {
    let directory = tempfile::tempdir().unwrap();
    let program = "import resource, os, time\nhard = resource.getrlimit(resource.RLIMIT_CORE)[1]\n\
                   resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))\nb = b'x' * (256 << 20)\n@READY@\n\
                   time.sleep(300)";
    let (mut begun, mut over) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let broker = Sacrifice::python_ready(directory.path(), program);
        let mut watcher = watch_one(directory.path(), broker.pid());
        let pid = broker.pid();
        let watch = coroner::sys::clock::Stopwatch::start();
        signal(pid, Signal::ABORT);
        let (evidence, took) = hear_of(&mut watcher, Watch::Process, true);
        assert_eq!(evidence.certainty, Certainty::Proven);
        begun.push(took);
        let has_ended = |detail: &str| detail.contains("killed by SIGABRT");
        if !has_ended(&evidence.detail) {
            assert!(evidence.detail.starts_with(&format!("process {pid} is ending")), "{}", evidence.detail);
            let (last, _) = hear(&mut watcher, "its end", |e| e.watch == Watch::Process && has_ended(&e.detail));
            assert!(last.is_so);
        }
        over.push(watch.elapsed());
    }
    let median = print("abort to evidence, 256 MiB with a core dump", begun);
    print("abort to its end", over);
    assert!(median < Duration::from_millis(300), "{median:?}");
}

/// A process whose first thread has left still serves: its other threads do.
#[test]
fn a_process_lives_as_long_as_one_of_its_threads() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("two.c");
    let program = "#include <pthread.h>\n#include <unistd.h>\nstatic void *f(void *a) { (void)a; for (;;) pause(); }\n\
                   int main(void) { pthread_t t; pthread_create(&t, 0, f, 0); pthread_exit(0); }\n";
    std::fs::write(&source, program).unwrap();
    let binary = directory.path().join("two");
    let made = std::process::Command::new("gcc").arg("-o").args([&binary, &source]).arg("-pthread").output();
    assert!(made.expect("gcc is needed: apt install gcc libc6-dev").status.success());
    let two = Sacrifice::run(&[binary.to_str().unwrap()]);
    until("its first thread has left", || process::look(two.pid()).is_some_and(|p| p.state == 'Z'));
    let group = TestGroup::new();
    let held = coroner::agent::evidence::process::Held::open(two.pid()).unwrap();
    assert!(matches!(held.look(), coroner::agent::evidence::process::Look::Runs(_)), "{:?}", held.look());
    two.kill();
    until("it has ended", || !matches!(held.look(), coroner::agent::evidence::process::Look::Runs(_)));
    drop(group);
}

/// P3: the parent is dead, its children still write: the process is gone, and its control group is not empty.
#[test]
fn p3_children_that_outlive_the_parent_keep_the_group_populated() {
    let group = TestGroup::new();
    let mut parent = group.shell("sleep 300 & setsid sleep 300 & wait");
    until("three run", || group.count() == 3);
    let mut watcher = watcher(&guard(group.guarded()));
    assert_eq!(watcher.identity().pid, parent.pid());
    assert_eq!(watcher.processes().len(), 3);
    parent.kill();
    let (evidence, _) = hear(&mut watcher, "the end of the parent", |e| {
        e.watch == Watch::Process && e.detail.contains("killed by SIGKILL")
    });
    assert!(evidence.is_so && evidence.detail.contains("2 more of its control group outlived it"), "{evidence:?}");
    parent.reap();
    assert!(known(&watcher, Watch::Cgroup).is_some_and(|e| !e.is_so), "the group still has them");
    // None of those that are left is taken for a new broker.
    for _ in 0..5 {
        watcher.tick(coroner::sys::clock::now());
    }
    assert!(known(&watcher, Watch::Process).is_some_and(|e| e.is_so), "{:?}", known(&watcher, Watch::Process));
    std::fs::write(group.directory.join("cgroup.kill"), "1").unwrap();
    let (empty, took) = hear_of(&mut watcher, Watch::Cgroup, true);
    assert_eq!(empty.certainty, Certainty::Proven);
    println!("cgroup.kill to `empty`: {took:.2?}");

    // Started anew, it is another process.
    let second = group.shell("exec sleep 300");
    let (again, _) = hear_of(&mut watcher, Watch::Process, false);
    assert!(again.detail.contains(&second.pid().to_string()));
    assert_eq!(watcher.identity().pid, second.pid());
    assert!(known(&watcher, Watch::Cgroup).is_some_and(|e| !e.is_so));
}

#[test]
fn a_pid_file_is_believed_only_as_far_as_it_goes() {
    let directory = tempfile::tempdir().unwrap();
    let missing = Guarded::PidFile { path: directory.path().join("none"), executable: None };
    let of = |guarded| known(&watcher(&guard(guarded)), Watch::Process).unwrap();
    let evidence = of(missing);
    assert!(evidence.is_so && evidence.certainty == Certainty::Unreachable, "not found is not dead: {evidence:?}");

    let mut sleeper = Sacrifice::run(&["sleep", "300"]);
    let Guarded::PidFile { path, .. } = pid_file(directory.path(), sleeper.pid()) else { unreachable!() };
    let named = |name: &str| Guarded::PidFile { path: path.clone(), executable: Some(name.into()) };
    let other = of(named("redis-server"));
    assert!(other.is_so && other.certainty == Certainty::Unreachable && other.detail.contains("`sleep`"), "{other:?}");
    let right = Guarded::PidFile { path: path.clone(), executable: process::executable(sleeper.pid()) };
    assert!(!of(right.clone()).is_so);
    sleeper.kill();
    sleeper.reap();
    let gone = of(right);
    assert!(gone.is_so && gone.certainty == Certainty::Proven, "{gone:?}");
}

#[test]
fn watching_costs_less_than_one_hundredth_of_a_core() {
    let directory = tempfile::tempdir().unwrap();
    let sleeper = Sacrifice::run(&["sleep", "300"]);
    let mut watcher = watch_one(directory.path(), sleeper.pid());
    let watch = coroner::sys::clock::Stopwatch::start();
    const TICKS: u32 = 2000;
    for _ in 0..TICKS {
        watcher.tick(coroner::sys::clock::now());
    }
    let each = watch.elapsed() / TICKS;
    println!("one tick: {each:.1?}; at 20 per second {:.3} % of a core", each.as_secs_f64() * 20.0 * 100.0);
    assert!(each < Duration::from_micros(400), "{each:?}");
}
