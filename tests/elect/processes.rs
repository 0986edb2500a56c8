//! One thing at a time.

use std::os::unix::process::ExitStatusExt as _;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::lab::{Lab, eventually, now};

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn the_second_takes_over_from_the_first_which_leaves() {
    let lab = Lab::new();
    let store = lab.sqlite();
    let program = lab.program(&[]);
    let mut first = lab.start(&store, "app1", &[], &program);
    let line = lab.runs_at("app1");
    let mut second = lab.start(&store, "app2", &[], &program);
    let instances = || {
        let output = lab.coroner().args(["instances", "--store", &store, "-o", "json"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap()
    };
    eventually("two rows", || instances().len() == 2);
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait().code(), Some(143), "the program died of TERM\n{}", lab.said());
    let next = lab.runs_at("app2");
    assert!(next.epoch > line.epoch);
    let rows = instances();
    let states: Vec<&str> = rows.iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["leader", "left"], "the newest first: {rows:?}");
    let text = lab.coroner().args(["instances", "--store", &store, "--group", "g"]).output().unwrap();
    assert!(String::from_utf8_lossy(&text.stdout).contains("app2"));
    let none = lab.coroner().args(["instances", "--store", &store, "--group", "other"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&none.stdout), "No instances.\n");
    // A standby that is told to stop ran nothing.
    let mut third = lab.start(&store, "app3", &[], &program);
    eventually("a third row", || instances().len() == 3);
    third.signal(Signal::SIGINT);
    assert_eq!(third.wait().code(), Some(0));
    second.signal(Signal::SIGINT);
    assert_eq!(second.wait().code(), Some(143));
    assert_eq!(lab.check(), 2);
}

#[test]
fn its_code_is_passed_on_or_it_is_started_again() {
    let lab = Lab::new();
    let log = lab.log().display().to_string();
    let says = format!("echo $CORONER_GROUP $CORONER_INSTANCE $CORONER_EPOCH >> {log}; exit 7");
    let mut once = lab.start(&lab.sqlite(), "app1", &[], &words(&["sh", "-c", &says]));
    assert_eq!(once.wait().code(), Some(7), "{}", lab.said());
    assert_eq!(std::fs::read_to_string(lab.log()).unwrap(), "g app1 1\n");
    let mut again = lab.start(&lab.sqlite(), "app1", &["--on-exit", "restart"], &words(&["sh", "-c", &says]));
    eventually("three runs", || std::fs::read_to_string(lab.log()).unwrap().lines().count() >= 3);
    again.signal(Signal::SIGTERM);
    assert!(again.wait().code().is_some());
    let mut missing = lab.start(&lab.sqlite(), "app1", &[], &words(&["/nowhere/at-all"]));
    assert_eq!(missing.wait().code(), Some(127), "{}", lab.said());
}

#[test]
fn kill_9_of_coroner_leaves_nothing_running() {
    let lab = Lab::new();
    let (store, program) = (lab.sqlite(), lab.program(&["deaf", "escape"]));
    let mut first = lab.start(&store, "app1", &[], &program);
    lab.runs_at("app1");
    let second = lab.start(&store, "app2", &[], &program);
    first.signal(Signal::SIGKILL);
    assert_eq!(first.wait().signal(), Some(9));
    lab.runs_at("app2");
    lab.check();
    drop(second);
}

#[test]
fn sigstop_of_coroner_ends_the_program_with_the_lease() {
    let lab = Lab::new();
    let (store, program) = (lab.sqlite(), lab.program(&["deaf"]));
    let mut first = lab.start(&store, "app1", &[], &program);
    lab.runs_at("app1");
    let second = lab.start(&store, "app2", &[], &program);
    first.signal(Signal::SIGSTOP);
    lab.runs_at("app2");
    first.signal(Signal::SIGCONT);
    // It wakes up, and harms nobody: it stands by.
    drop(second);
    lab.runs_at("app1");
    assert!(!first.has_ended(), "{}", lab.said());
    assert_eq!(lab.check(), 3, "{}", lab.said());
}

#[test]
fn a_dead_guard_takes_everything_along() {
    let lab = Lab::new();
    let mut instance = lab.start(&lab.sqlite(), "app1", &[], &lab.program(&["escape"]));
    lab.runs_at("app1");
    let family = instance.family();
    assert!(family.len() >= 3, "guard, program, and what escaped: {family:?}");
    kill(Pid::from_raw(instance.guard().unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(instance.wait().code(), Some(137), "{}", lab.said());
    let end = now();
    let is_over = |pid: i32| coroner::sys::process::look(pid).is_none_or(|seen| seen.has_ended());
    assert!(family.iter().all(|p| is_over(p.identity.pid)), "nothing runs once it has ended");
    assert!(lab.lines().iter().all(|line| line.at < end));
}

#[test]
fn a_guard_that_stands_still_is_replaced_by_its_parent() {
    let lab = Lab::new();
    let (store, program) = (lab.sqlite(), lab.program(&["deaf"]));
    let mut first = lab.start(&store, "app1", &[], &program);
    lab.runs_at("app1");
    let second = lab.start(&store, "app2", &[], &program);
    kill(Pid::from_raw(first.guard().unwrap()), Signal::SIGSTOP).unwrap();
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait().code(), Some(137), "{}", lab.said());
    lab.runs_at("app2");
    lab.check();
    drop(second);
}

#[test]
fn wrong_numbers_and_stores_are_refused_with_the_remedy() {
    let lab = Lab::new();
    let said = |more: &[&str], store: &str| {
        let mut command = lab.coroner();
        command.args(["elect", "--store", store, "--group", "g"]).args(more).args(["--", "true"]);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = said(&["--valid-for", "2s"], &lab.sqlite());
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("let heartbeats be valid for at least 3.3s"), "{text}");
    let (code, text) = said(&[], "oracle://scott:tiger@host/x");
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("The store cannot be used") && !text.contains("tiger"), "{text}");
}
