//! What an agent sees and does of a unit of a real systemd. The test's own program is run inside.

use std::{os::fd::AsFd, time::Duration};

use coroner::{
    agent::{
        evidence::Watcher,
        host::Host,
        spec::{Guard, Guarded},
    },
    model::{
        FenceVerdict, Proof,
        agent::{Evidence, Watch},
    },
    sys::{
        clock::{self, Stopwatch},
        process,
    },
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::machine::Machine;

const INSIDE: &str = "CORONER_EVIDENCE_TEST_INSIDE";
const UNIT: &str = "broker.service";
const LONG: Duration = Duration::from_secs(20);

/// The worst that restarts: at once, for ever, with a child that outlives its parent.
const SERVICE: &str = "[Unit]\nStartLimitIntervalSec=0\n[Service]\n\
                       ExecStart=/bin/sh -c 'setsid sleep 1000 & exec sleep 1000'\nRestart=always\nRestartSec=0\n";

#[test]
fn p1_p3_p5_a_unit_is_watched_over_the_bus_and_stopped_for_good() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let machine = Machine::boot();
    machine.write(&format!("/etc/systemd/system/{UNIT}"), SERVICE, 0o644);
    machine.copy_in(&std::env::current_exe().unwrap(), "/opt/test", 0o755);
    machine.ok(&["systemctl", "daemon-reload"]);
    machine.ok(&["systemctl", "start", UNIT]);
    let test = "evidence::p1_p3_p5_a_unit_is_watched_over_the_bus_and_stopped_for_good";
    let said = machine.run(&["env", &format!("{INSIDE}=yes"), "/opt/test", "--exact", test, "--nocapture"]);
    println!("{}", said.out);
    assert!(said.code == 0 && said.out.contains("1 passed"), "{said:?}\n{}", machine.journal(UNIT));
    assert!(["inactive", "active"].contains(&machine.property(UNIT, "ActiveState").as_str()));
}

fn systemctl(words: &[&str]) -> String {
    let output = std::process::Command::new("systemctl").args(words).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn hear(watcher: &mut Watcher, what: &str, wanted: impl Fn(&Evidence) -> bool) -> (Evidence, Duration) {
    let watch = Stopwatch::start();
    loop {
        let tick = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let is_ready = poll(&mut [PollFd::new(&watcher.as_fd(), PollFlags::IN)], Some(&tick)).unwrap() > 0;
        let news = if is_ready { watcher.ready() } else { watcher.tick(clock::now()) };
        if let Some(found) = news.into_iter().find(|evidence| wanted(evidence)) {
            return (found, watch.elapsed());
        }
        assert!(watch.elapsed() < LONG, "never heard: {what}; known: {:#?}", watcher.evidence());
    }
}

fn inside() {
    let guard = Guard {
        member: "broker-a".into(),
        broker: Guarded::Unit(UNIT.into()),
        gate: None,
        fences: Default::default(),
        data: None,
        keep: Vec::new(),
        progress_every: Duration::from_millis(50),
        progress_timeout: Duration::from_millis(200),
        restart_grace: Duration::ZERO,
        start_within: Duration::from_secs(1),
        watchdog: None,
        stop_without_gate: false,
    };
    let host = Host::new(&"orders".into(), &"broker-a".into(), &guard.broker).unwrap();
    println!("prepared: {}", host.prepare(LONG).unwrap());
    let mut watcher = Watcher::new(&guard, process::boot_id()).unwrap();
    println!("{:#?}", watcher.sources());
    let main: i32 = systemctl(&["show", "--value", "--property", "MainPID", UNIT]).parse().unwrap();
    assert_eq!(watcher.identity().pid, main, "{:#?}", watcher.evidence());
    let is = |watch: Watch, is_so: bool| move |e: &Evidence| e.watch == watch && e.is_so == is_so;
    assert!(watcher.evidence().iter().any(is(Watch::Unit, false)), "{:#?}", watcher.evidence());

    // Killed by whomever: told at once, and told again when systemd has started it anew.
    process::ControlGroup::at(&format!("system.slice/{UNIT}")).unwrap();
    let pid = rustix::process::Pid::from_raw(main).unwrap();
    rustix::process::kill_process(pid, process::Signal::KILL).unwrap();
    let (_, took) = hear(&mut watcher, "its death", is(Watch::Process, true));
    println!("kill to evidence: {took:.2?}");
    let (_, took) = hear(&mut watcher, "its successor", is(Watch::Process, false));
    println!("and to its successor: {took:.2?}");
    assert_ne!(watcher.identity().pid, main);

    // Stopped by the agent it stays so, though it restarts at once.
    for round in 0..3 {
        let watch = Stopwatch::start();
        let report = host.stop(LONG);
        println!("round {round}: stopped in {:.2?}: {}", watch.elapsed(), report.detail);
        assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::Stopped), "{}", report.detail);
        assert!(report.detail.contains("a flag keeps it from starting"), "{}", report.detail);
        if watcher.evidence().iter().any(is(Watch::Unit, false)) {
            let (unit, _) = hear(&mut watcher, "the unit is down", is(Watch::Unit, true));
            println!("{}", unit.detail);
        }
        if watcher.evidence().iter().any(is(Watch::Cgroup, false)) {
            hear(&mut watcher, "the group is empty", is(Watch::Cgroup, true));
        }
        // systemd calls a start that a condition keeps from happening a success.
        systemctl(&["start", UNIT]);
        assert_ne!(systemctl(&["is-active", UNIT]), "active", "a fenced unit starts");
        let again = host.stop(LONG);
        assert_eq!(again.proof, Proof::Stopped, "{}", again.detail);
        host.lift(LONG).unwrap();
        systemctl(&["start", UNIT]);
        assert_eq!(systemctl(&["is-active", UNIT]), "active");
        hear(&mut watcher, "it runs again", is(Watch::Process, false));
    }

    // A process of that unit's, guarded by its number only: systemd would start it again, and that is said.
    let main = systemctl(&["show", "--value", "--property", "MainPID", UNIT]);
    let path = std::env::temp_dir().join("pid");
    std::fs::write(&path, &main).unwrap();
    let by_file = Guarded::PidFile { path, executable: None };
    let report = Host::new(&"orders".into(), &"broker-a".into(), &by_file).unwrap().stop(LONG);
    println!("by its pid file: {} {}", report.proof, report.detail);
    assert!(report.proof < Proof::Gate, "{}", report.detail);
    assert!(report.detail.contains("guard the broker as `unit: broker.service`"), "{}", report.detail);

    // Without a flag, by the mask.
    let _ = std::fs::remove_dir_all("/run/systemd/system/broker.service.d");
    systemctl(&["daemon-reload"]);
    let watch = Stopwatch::start();
    let report = host.stop(LONG);
    println!("without a flag: stopped in {:.2?}: {}", watch.elapsed(), report.detail);
    assert_eq!(report.proof, Proof::Stopped, "{}", report.detail);
    assert_ne!(systemctl(&["is-active", UNIT]), "active");
}
