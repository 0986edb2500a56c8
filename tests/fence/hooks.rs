//! Programs, requests, fence agents and files: honest ones, liars, and those that hang or flood.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use coroner::{
    fence::{
        AnyFence,
        exec::Exec,
        fence_agent::FenceAgent,
        file_flag::FileFlag,
        http::{Http, Request},
    },
    model::{FenceVerdict, Proof, Secret},
    sys::clock::Stopwatch,
};
use serde_json::json;

use crate::lab::{LONG, build, group, number_in, order, script, serve, target, until};

fn sh(text: &str) -> Vec<String> {
    vec!["sh".into(), "-c".into(), text.into()]
}

/// H1: a hook that hangs ends by the deadline with everything it started, and is neither failed nor done.
#[tokio::test]
async fn h1_a_hanging_hook_is_unknown_and_its_group_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let command = sh(&format!("echo $$ > {}; sleep 301 & trap '' TERM; sleep 302", file.display()));
    let watch = Stopwatch::start();
    let fence = build(AnyFence::Exec(Exec { command, ..Exec::default() }));
    let report = fence.fence(&order(1), Duration::from_secs(1)).await;
    assert_eq!(report.verdict, FenceVerdict::Unknown, "{}", report.detail);
    assert!(watch.elapsed() < Duration::from_secs(3), "{:?}", watch.elapsed());
    let pid = number_in(&file).await;
    until("the group is empty", || group(pid).is_empty()).await;
}

/// H2: a hook lies. Its exit code is a claim; what reads back decides.
#[tokio::test]
async fn h2_a_lying_hook_is_refuted_by_what_reads_back() {
    let lie = Exec { command: sh("exit 0"), ..Exec::default() };
    let report = build(AnyFence::Exec(lie.clone())).fence(&order(1), LONG).await;
    assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::Claim), "{}", report.detail);
    for (code, verdict) in [(0, FenceVerdict::Confirmed), (1, FenceVerdict::Refuted), (3, FenceVerdict::Unknown)] {
        let status = sh(&format!("exit {code}"));
        let fence = build(AnyFence::Exec(Exec { status, proof: Some(Proof::PowerOff), ..lie.clone() }));
        let report = fence.fence(&order(1), LONG).await;
        assert_eq!(report.verdict, verdict, "{}", report.detail);
        let proof = if verdict == FenceVerdict::Confirmed { Proof::PowerOff } else { Proof::Nothing };
        assert_eq!(report.proof, proof);
    }
    let vouched = Exec { proof: Some(Proof::Gate), ..lie.clone() };
    assert!(AnyFence::Exec(vouched).build(None, None).is_err(), "nobody can vouch for what nobody reads back");
    let lease = Exec { proof: Some(Proof::LeaseOver), status: sh("exit 0"), ..lie };
    assert!(AnyFence::Exec(lease).build(None, None).is_err());
}

/// H3: the hook fails or hangs, but the member is stopped all the same: what reads back says so.
#[tokio::test]
async fn h3_a_failing_hook_is_not_the_last_word() {
    for command in [sh("exit 7"), sh("sleep 303"), vec!["/no/such/program".into()]] {
        let config = Exec { command, status: sh("exit 0"), proof: Some(Proof::Gate), ..Exec::default() };
        let report = build(AnyFence::Exec(config)).fence(&order(1), Duration::from_secs(2)).await;
        assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::Gate), "{}", report.detail);
    }
}

/// H14: a gigabyte of output and a crowd of children cost neither memory nor the answer.
#[tokio::test]
async fn h14_a_flood_and_a_crowd_of_children() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let text = format!(
        "echo $$ > {}; i=0; while [ $i -lt 50 ]; do sleep 304 & i=$((i+1)); done; head -c 1000000000 /dev/zero; exit 0",
        file.display()
    );
    let fence = build(AnyFence::Exec(Exec { command: sh(&text), ..Exec::default() }));
    let report = fence.fence(&order(1), Duration::from_secs(60)).await;
    assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::Claim), "{}", report.detail);
    assert!(report.detail.len() < 1_000);
    let pid = number_in(&file).await;
    until("the children are gone", || group(pid).is_empty()).await;
}

/// H5: an answer that comes after the deadline changes nothing any more; a smaller epoch is refused.
#[tokio::test]
async fn h5_a_late_or_old_order_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let late = dir.path().join("late");
    let command = sh(&format!("sleep 2; echo 1 > {}", late.display()));
    let fence = build(AnyFence::Exec(Exec { command, ..Exec::default() }));
    let report = fence.fence(&order(2), Duration::from_millis(300)).await;
    assert_eq!(report.verdict, FenceVerdict::Unknown, "{}", report.detail);
    let old = fence.fence(&order(1), LONG).await;
    assert_eq!(old.verdict, FenceVerdict::Refuted, "{}", old.detail);
    assert!(!late.exists());
}

#[tokio::test]
async fn a_hook_is_told_whom_it_is_about_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("env");
    let command = vec![
        "sh".into(),
        "-c".into(),
        format!("env > {}; echo \"$1\" >> {0}", file.display()),
        "sh".into(),
        "{member}@{port}".into(),
    ];
    let environment = [("EXTRA".to_owned(), "{host}".to_owned())].into();
    let fence = build(AnyFence::Exec(Exec { command, environment, ..Exec::default() }));
    assert_eq!(fence.fence(&order(7), LONG).await.verdict, FenceVerdict::Confirmed);
    let text = std::fs::read_to_string(&file).unwrap();
    for line in [
        "CORONER_ACTION=fence",
        "CORONER_CLUSTER=orders",
        "CORONER_MEMBER=broker-a",
        "CORONER_ADDRESS=127.0.0.1:6379",
        "CORONER_EPOCH=7",
        "CORONER_INCIDENT=01JTEST",
        "EXTRA=127.0.0.1",
        "broker-a@6379",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing in {text}");
    }
    assert!(!text.contains("CARGO"), "{text}");
}

/// An agent that keeps the power's state in a file. It is told its plug by `port`, and repeats its password on
/// standard error as real ones do.
const AGENT: &str = r#"#!/usr/bin/env python3
import os, sys, time
options = dict(line.rstrip("\n").split("=", 1) for line in sys.stdin if "=" in line)
print("password was", options.get("passwd"), file=sys.stderr)
state = options["state"]
mode = open(state + ".mode").read() if os.path.exists(state + ".mode") else ""
power = open(state).read().strip() if os.path.exists(state) else "on"
action = options.get("action", "reboot")
if options.get("port") != "broker-a":
    sys.exit(1)
if "hang" in mode and action == "off":
    time.sleep(300)
if "cut" in mode:
    print("Unable to connect/login to fencing device", file=sys.stderr)
    sys.exit(1)
if action in ("on", "off"):
    if "lie" not in mode:
        open(state, "w").write(action)
    print("Success: Powered", action.upper())
elif action == "reboot":
    print("Success: Rebooted")
elif action in ("status", "monitor"):
    sys.exit(2 if power == "off" else 0)
"#;

fn agent(dir: &tempfile::TempDir) -> FenceAgent {
    let state = dir.path().join("power");
    let options = [("port", "{member}"), ("passwd", "hunter2"), ("state", state.to_str().unwrap())];
    let options = options.map(|(key, value)| (key.to_owned(), Secret::new(value.to_owned())));
    FenceAgent { name: script(dir.path(), "fence_test", AGENT), options: options.into(), ..FenceAgent::default() }
}

#[tokio::test]
async fn a_fence_agent_cuts_power_and_reads_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let power = || std::fs::read_to_string(dir.path().join("power")).unwrap_or_else(|_| "on".into());
    let fence = build(AnyFence::FenceAgent(FenceAgent { power_on_after: true, ..agent(&dir) }));
    let health = fence.check(&target("127.0.0.1:6379"), LONG).await;
    assert_eq!(health.usable, Some(true), "{}", health.detail);
    assert!(!health.detail.contains("hunter2"), "{}", health.detail);
    assert_eq!(power(), "on", "a check harms nobody");
    for _ in 0..2 {
        let report = fence.fence(&order(1), LONG).await;
        assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::PowerOff), "{}", report.detail);
        assert!(!report.detail.contains("hunter2"), "{}", report.detail);
        assert_eq!(power(), "off");
    }
    fence.unfence(&order(1), LONG).await.unwrap();
    assert_eq!(power(), "on");
}

/// H1, H2 and a cut line to the power controller.
#[tokio::test]
async fn h1_h2_fence_agents_that_hang_lie_or_cannot_connect() {
    for (mode, verdict) in
        [("hang", FenceVerdict::Refuted), ("lie", FenceVerdict::Refuted), ("cut", FenceVerdict::Unknown)]
    {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("power.mode"), mode).unwrap();
        let watch = Stopwatch::start();
        let report = build(AnyFence::FenceAgent(agent(&dir))).fence(&order(1), Duration::from_secs(4)).await;
        assert_eq!(report.verdict, verdict, "{mode}: {}", report.detail);
        assert!(watch.elapsed() < Duration::from_secs(6));
    }
    let dir = tempfile::tempdir().unwrap();
    let report = build(AnyFence::FenceAgent(FenceAgent { action: Some("reboot".into()), ..agent(&dir) }))
        .fence(&order(1), LONG)
        .await;
    assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::Claim), "{}", report.detail);
    let missing = FenceAgent { name: "fence_no_such".into(), ..FenceAgent::default() };
    let report = build(AnyFence::FenceAgent(missing)).fence(&order(1), LONG).await;
    assert_eq!(report.verdict, FenceVerdict::Refuted, "{}", report.detail);
}

fn http(address: &str, expected: serde_json::Value) -> Http {
    Http {
        fence: Request {
            url: format!("http://{address}/power/{{member}}"),
            body: Some(r#"{"state":"off","member":"{{ member }}","epoch":{{ epoch }}}"#.into()),
            ..Request::default()
        },
        status: Some(Request {
            url: format!("http://{address}/power/{{member}}"),
            json: [("/state".to_owned(), expected)].into(),
            ..Request::default()
        }),
        proof: Some(Proof::PowerOff),
        ..Http::default()
    }
}

#[tokio::test]
async fn an_http_fence_waits_until_the_read_back_confirms() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // It takes the order at once and has carried it out when it is asked the third time.
    let address = serve(move |method, path, body| {
        let count = Arc::clone(&count);
        async move {
            assert_eq!(path, "/power/broker-a");
            if method == "POST" {
                let body: serde_json::Value = serde_json::from_str(&body).unwrap();
                assert_eq!(body, json!({"state": "off", "member": "broker-a", "epoch": 7}));
                return Some((202, String::new()));
            }
            let state = if count.fetch_add(1, Ordering::SeqCst) < 2 { "on" } else { "off" };
            Some((200, json!({"state": state}).to_string()))
        }
    })
    .await;
    let fence = build(AnyFence::Http(http(&address, json!("off"))));
    for _ in 0..2 {
        let report = fence.fence(&order(7), LONG).await;
        assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::PowerOff), "{}", report.detail);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 4);
    assert_eq!(fence.check(&target("127.0.0.1:6379"), LONG).await.usable, Some(true));
}

/// H2: it says yes to everything and does nothing.
#[tokio::test]
async fn h2_an_http_service_that_lies_is_refuted() {
    let address = serve(|_, _, _| async { Some((200, json!({"state": "on"}).to_string())) }).await;
    let report = build(AnyFence::Http(http(&address, json!("off")))).fence(&order(1), Duration::from_secs(1)).await;
    assert_eq!(report.verdict, FenceVerdict::Refuted, "{}", report.detail);
    assert!(report.detail.contains(r#""on""#), "{}", report.detail);
    // Without a read-back, a yes is a claim, and what could not be sent was not done.
    let alone = Http { status: None, proof: None, ..http(&address, json!("off")) };
    let report = build(AnyFence::Http(alone)).fence(&order(1), LONG).await;
    assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::Claim), "{}", report.detail);
    let closed = Http { status: None, proof: None, ..http("127.0.0.1:1", json!("off")) };
    let report = build(AnyFence::Http(closed)).fence(&order(1), LONG).await;
    assert_eq!(report.verdict, FenceVerdict::Refuted, "{}", report.detail);
}

/// A connection that is cut in the middle leaves the act unknown.
#[tokio::test]
async fn a_cut_connection_is_unknown() {
    let address = serve(|_, _, _| async { None }).await;
    for status in [true, false] {
        let mut config = http(&address, json!("off"));
        if !status {
            (config.status, config.proof) = (None, None);
        }
        let report = build(AnyFence::Http(config)).fence(&order(1), Duration::from_secs(1)).await;
        assert_eq!(report.verdict, FenceVerdict::Unknown, "{}", report.detail);
    }
}

#[tokio::test]
async fn a_file_flag_keeps_everything_else_and_is_taken_back() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (file, log) = (dir.path().join("broker-a.conf"), dir.path().join("log"));
    let before = "# readonly: see the manual\nport = 6379\n  readonly = no\t\n\nsecret=x";
    std::fs::write(&file, before).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
    let config = FileFlag {
        path: dir.path().join("{member}.conf").to_str().unwrap().into(),
        key: "readonly".into(),
        fenced: "yes".into(),
        reload: sh(&format!("echo $CORONER_ACTION >> {}", log.display())),
        ..FileFlag::default()
    };
    let fence = build(AnyFence::FileFlag(config.clone()));
    let health = fence.check(&target("127.0.0.1:6379"), LONG).await;
    assert_eq!(health.usable, Some(true), "{}", health.detail);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    for _ in 0..2 {
        let report = fence.fence(&order(1), LONG).await;
        assert_eq!((report.verdict, report.proof), (FenceVerdict::Confirmed, Proof::Claim), "{}", report.detail);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), before.replace("= no", "= yes"));
    }
    let backup = dir.path().join("broker-a.conf.before-fence");
    assert_eq!(std::fs::read_to_string(&backup).unwrap(), before);
    for path in [&file, &backup] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o640);
    }
    for _ in 0..2 {
        fence.unfence(&order(1), LONG).await.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    }
    assert!(!backup.exists());
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "fence\nfence\nunfence\nunfence\n");

    // A reload that fails leaves it open whether the broker knows.
    let fence = build(AnyFence::FileFlag(FileFlag { reload: sh("exit 1"), ..config.clone() }));
    assert_eq!(fence.fence(&order(1), LONG).await.verdict, FenceVerdict::Unknown);
    // A file that is not there cannot be changed.
    let fence = build(AnyFence::FileFlag(FileFlag { path: "/no/such/file".into(), ..config }));
    assert_eq!(fence.fence(&order(1), LONG).await.verdict, FenceVerdict::Refuted);
    assert_eq!(fence.check(&target("127.0.0.1:6379"), LONG).await.usable, Some(false));
}
