//! What every method owes, whatever it does: twice is the same as once; it ends by its deadline when what it calls
//! hangs; a check harms nothing; a cut connection is unknown and never confirmed; an older epoch is refused.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use coroner::{
    fence::{
        AnyFence, Fence, ReadOnlyFlag,
        exec::Exec,
        fence_agent::FenceAgent,
        file_flag::FileFlag,
        firewall::Firewall,
        http::{Http, Request},
        read_only::ReadOnly,
        signal::{Signal, Supervisor},
        systemd::Systemd,
    },
    model::{ActError, Done, FenceHealth, FenceReport, FenceVerdict, Order, Proof, Secret, Target},
    sys::clock::Stopwatch,
};

use crate::lab::{LONG, Namespace, Sacrifice, order, script, serve, target};

/// How what a method calls behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum World {
    /// It does what it is asked.
    Honest,
    /// It never answers.
    Hangs,
    /// It cannot be reached, or the connection breaks in the middle.
    Cut,
}

/// One method in one world, with what shows whether the member is stopped.
struct Case {
    fence: Box<dyn Fence>,
    /// Everything the method may change, as text.
    state: Box<dyn Fn() -> String + Send>,
    #[expect(dead_code, reason = "kept alive until the end of the case")]
    keep: Vec<Box<dyn std::any::Any + Send>>,
}

/// A read-only flag in a file.
struct Flag(World, std::path::PathBuf);

#[async_trait]
impl ReadOnlyFlag for Flag {
    async fn set(&self, _: &Order, _: Duration) -> FenceReport {
        match self.0 {
            World::Honest => {
                std::fs::write(&self.1, "yes").unwrap();
                FenceReport::confirmed(Proof::ReadBack, "set")
            }
            World::Hangs => std::future::pending().await,
            World::Cut => FenceReport::unknown("the connection broke"),
        }
    }

    async fn clear(&self, _: &Order, _: Duration) -> Result<Done, ActError> {
        match self.0 {
            World::Honest => std::fs::write(&self.1, "no").unwrap(),
            World::Hangs => std::future::pending().await,
            World::Cut => return Err(ActError::uncertain("clear", "the connection broke")),
        }
        Ok(Done::new("cleared"))
    }

    async fn check(&self, _: &Target, _: Duration) -> FenceHealth {
        if self.0 == World::Hangs {
            std::future::pending::<()>().await;
        }
        FenceHealth { usable: Some(self.0 == World::Honest), detail: String::new() }
    }
}

/// A program in this world: `honest` is what it does when it may.
fn program(dir: &Path, world: World, name: &str, honest: &str) -> String {
    let text = match world {
        World::Honest => honest,
        World::Hangs => "sleep 305",
        World::Cut => "echo 'connection reset' >&2; exit 255",
    };
    script(dir, name, &format!("#!/bin/sh\n{text}\n"))
}

fn contents(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

const KINDS: [&str; 8] = ["signal", "systemd", "firewall", "read_only", "file_flag", "exec", "http", "fence_agent"];

/// `None`: the method calls nobody in this world.
async fn case(kind: &str, world: World, dir: &Path) -> Option<Case> {
    let flag = dir.join("state");
    let mut keep: Vec<Box<dyn std::any::Any + Send>> = Vec::new();
    let mut read_only: Option<Arc<dyn ReadOnlyFlag>> = None;
    let mut state: Box<dyn Fn() -> String + Send> = {
        let flag = flag.clone();
        Box::new(move || contents(&flag))
    };
    let set = format!("echo fenced > {}", flag.display());
    let clear = format!("echo open > {}", flag.display());
    let any = match kind {
        "signal" => {
            // It calls nobody but the kernel; that a process does not go is tested where it can be made.
            if world != World::Honest {
                return None;
            }
            let sleeper = Sacrifice::run(&["sleep", "300"]);
            let (file, pid) = (dir.join("pid"), sleeper.pid());
            std::fs::write(&file, format!("{pid}\n")).unwrap();
            state = Box::new(move || crate::lab::runs(pid).to_string());
            keep.push(Box::new(sleeper));
            let pid_file = Some(file.to_str().unwrap().into());
            AnyFence::Signal(Signal { pid_file, supervisor: Some(Supervisor::None), ..Signal::default() })
        }
        "systemd" => {
            // No unit of this name exists, with a bus or without: it must be unknown and change nothing.
            if world != World::Cut {
                return None;
            }
            AnyFence::Systemd(Systemd { unit: "coroner-test-no-such-unit.service".into() })
        }
        "firewall" => {
            let via = if world == World::Honest {
                let namespace = Arc::new(Namespace::new().await);
                let via = namespace.via();
                state = Box::new(move || namespace.output(&["nft", "list", "ruleset"]));
                via
            } else {
                vec![program(dir, world, "via", "")]
            };
            AnyFence::Firewall(Firewall { via, ..Firewall::default() })
        }
        "read_only" => {
            read_only = Some(Arc::new(Flag(world, flag.clone())));
            AnyFence::ReadOnly(ReadOnly {})
        }
        "file_flag" => {
            let path = dir.join("conf");
            std::fs::write(&path, "readonly=false\n").unwrap();
            let reload = vec![program(dir, world, "reload", "true")];
            state = {
                let path = path.clone();
                Box::new(move || contents(&path))
            };
            AnyFence::FileFlag(FileFlag {
                path: path.to_str().unwrap().into(),
                key: "readonly".into(),
                fenced: "true".into(),
                reload,
                ..FileFlag::default()
            })
        }
        "exec" => AnyFence::Exec(Exec {
            command: vec![program(dir, world, "fence", &set)],
            status: vec![program(dir, world, "status", &format!("grep -q fenced {}", flag.display()))],
            unfence: vec![program(dir, world, "unfence", &clear)],
            check: vec![program(dir, world, "check", "exit 0")],
            proof: Some(Proof::Gate),
            ..Exec::default()
        }),
        "http" => {
            let file = flag.clone();
            let address = serve(move |method, path, _| {
                let file = file.clone();
                async move {
                    match world {
                        World::Honest if method == "GET" => {
                            Some((200, format!("{{\"state\":\"{}\"}}", contents(&file))))
                        }
                        World::Honest => {
                            std::fs::write(&file, path.trim_start_matches('/')).unwrap();
                            Some((204, String::new()))
                        }
                        World::Hangs => std::future::pending().await,
                        World::Cut => None,
                    }
                }
            })
            .await;
            let request = |path: &str| Request { url: format!("http://{address}/{path}"), ..Request::default() };
            let json = [("/state".to_owned(), "fenced".into())].into();
            AnyFence::Http(Http {
                fence: request("fenced"),
                status: Some(Request { json, ..request("") }),
                unfence: Some(request("open")),
                proof: Some(Proof::Gate),
                ..Http::default()
            })
        }
        "fence_agent" => {
            let honest = format!(
                "while read line; do case $line in action=off) {set};; action=on) {clear};; action=status) \
                 grep -q fenced {} && exit 2;; esac; done; exit 0",
                flag.display()
            );
            AnyFence::FenceAgent(FenceAgent {
                name: program(dir, world, "fence_test", &honest),
                options: [("port".to_owned(), Secret::new("{member}".into()))].into(),
                power_on_after: true,
                ..FenceAgent::default()
            })
        }
        other => panic!("{other} is no kind"),
    };
    Some(Case { fence: any.build(read_only, None).unwrap(), state, keep })
}

#[tokio::test]
async fn twice_is_the_same_as_once_and_a_check_harms_nothing() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let Some(case) = case(kind, World::Honest, dir.path()).await else { continue };
        let before = (case.state)();
        let health = case.fence.check(&target("127.0.0.1:6379"), LONG).await;
        assert_ne!(health.usable, Some(false), "{kind}: {}", health.detail);
        assert_eq!((case.state)(), before, "{kind}: a check harms nothing");

        let once = case.fence.fence(&order(5), LONG).await;
        assert_eq!(
            (once.verdict, once.proof),
            (FenceVerdict::Confirmed, case.fence.best_proof()),
            "{kind}: {}",
            once.detail
        );
        assert!(!once.detail.is_empty());
        let fenced = (case.state)();
        assert_ne!(fenced, before, "{kind} did something");
        let twice = case.fence.fence(&order(5), LONG).await;
        assert_eq!((twice.verdict, twice.proof), (once.verdict, once.proof), "{kind}: {}", twice.detail);
        assert_eq!((case.state)(), fenced, "{kind}: twice is the same as once");
        case.fence.check(&target("127.0.0.1:6379"), LONG).await;
        assert_eq!((case.state)(), fenced, "{kind}: a check lifts nothing");

        // H5: an order of yesterday.
        let old = case.fence.fence(&order(4), LONG).await;
        assert_eq!(old.verdict, FenceVerdict::Refuted, "{kind}: {}", old.detail);
        let old = case.fence.unfence(&order(4), LONG).await.unwrap_err();
        assert!(!old.may_have_happened, "{kind}: {old}");
        assert_eq!((case.state)(), fenced, "{kind}: an older order changes nothing");

        case.fence.unfence(&order(5), LONG).await.unwrap_or_else(|e| panic!("{kind}: {e}"));
        let lifted = (case.state)();
        case.fence.unfence(&order(5), LONG).await.unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!((case.state)(), lifted, "{kind}: lifted twice is lifted once");
        if kind != "signal" {
            assert_ne!(lifted, fenced, "{kind} was lifted");
        }
    }
}

/// H1: whatever it calls hangs, and the method ends, and claims nothing.
#[tokio::test]
async fn h1_every_method_ends_by_its_deadline() {
    let deadline = Duration::from_millis(1_500);
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let Some(case) = case(kind, World::Hangs, dir.path()).await else { continue };
        let watch = Stopwatch::start();
        let report = case.fence.fence(&order(1), deadline).await;
        assert!(watch.elapsed() < deadline * 2, "{kind} took {:?}", watch.elapsed());
        assert_eq!(
            (report.verdict, report.proof),
            (FenceVerdict::Unknown, Proof::Nothing),
            "{kind}: {}",
            report.detail
        );
        let watch = Stopwatch::start();
        let health = case.fence.check(&target("127.0.0.1:6379"), deadline).await;
        // A file can be checked without the program that hangs.
        assert!(health.usable != Some(true) || kind == "file_flag", "{kind}: {}", health.detail);
        assert!(watch.elapsed() < deadline * 2, "{kind} took {:?} to check", watch.elapsed());
        let watch = Stopwatch::start();
        let lifted = case.fence.unfence(&order(1), deadline).await;
        assert!(lifted.is_err(), "{kind}");
        assert!(watch.elapsed() < deadline * 2, "{kind} took {:?} to lift", watch.elapsed());
    }
}

#[tokio::test]
async fn a_cut_connection_is_unknown_and_never_confirmed() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let Some(case) = case(kind, World::Cut, dir.path()).await else { continue };
        let report = case.fence.fence(&order(1), Duration::from_secs(2)).await;
        assert_eq!(
            (report.verdict, report.proof),
            (FenceVerdict::Unknown, Proof::Nothing),
            "{kind}: {}",
            report.detail
        );
        assert!(!report.detail.is_empty());
        assert!(case.fence.unfence(&order(1), Duration::from_secs(2)).await.is_err(), "{kind}");
    }
}

#[test]
fn a_read_only_fence_needs_a_broker_kind_with_a_flag() {
    assert!(AnyFence::ReadOnly(ReadOnly {}).build(None, None).err().unwrap().contains("read-only flag"));
}
