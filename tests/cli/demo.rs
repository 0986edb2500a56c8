//! The demo, whole and in parts, on the broker of this package and on real Redis.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// A process of this test, killed with its whole group.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.0.wait();
    }
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..500 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: not within 10 s");
}

async fn redis(dir: &std::path::Path, follows: Option<u16>) -> (Guard, u16) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--repl-diskless-sync-delay", "0"]);
    command.arg("--dir").arg(dir).stdout(Stdio::null()).process_group(0);
    if let Some(primary) = follows {
        command.args(["--replicaof", "127.0.0.1", &primary.to_string()]);
    }
    let guard = Guard(command.spawn().expect("redis-server is needed: apt-get install redis-server"));
    let expected = if follows.is_some() { "master_link_status:up" } else { "role:master" };
    until("Redis", async || call(port, &["INFO", "replication"]).await.filter(|info| info.contains(expected))).await;
    (guard, port)
}

async fn call(port: u16, words: &[&str]) -> Option<String> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).ok()?;
    let mut connection = client.get_multiplexed_async_connection().await.ok()?;
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(*word);
    }
    command.query_async(&mut connection).await.ok()
}

fn player(verb: &str, name: &str, a: u16, b: u16) -> (Guard, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coroner"));
    let map = format!("broker-a=127.0.0.1:{a},broker-b=127.0.0.1:{b}");
    command.args([verb, "--name", name, "--cluster", "demo", "--broker", "redis", "--member", &map]);
    command.arg("--until-stdin-ends");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
    let mut guard = Guard(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(guard.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening ").unwrap().to_owned();
    (guard, address)
}

#[tokio::test]
async fn nodes_and_sender_follow_the_larger_epoch() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let (first, a) = redis(dir.path(), None).await;
    let (_second, b) = redis(dir.path(), Some(a)).await;
    let (mut node_process, node) = player("demo-node", "node-1", a, b);
    let (_sender_process, sender) = player("demo-sender", "sender", a, b);
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    let state = async |at: &str| -> serde_json::Value {
        http.get(format!("http://{at}/state")).send().await.unwrap().json().await.unwrap()
    };
    let received = async |at: &str| state(at).await["arrived"]["count"].as_u64().unwrap();
    until("messages", async || (received(&node).await >= 10).then_some(())).await;

    // A frozen primary: whoever hangs on it hears of the new one all the same.
    let frozen = Pid::from_raw(i32::try_from(first.0.id()).unwrap());
    killpg(frozen, Signal::SIGSTOP).unwrap();
    assert_eq!(call(b, &["REPLICAOF", "NO", "ONE"]).await.as_deref(), Some("OK"));
    let tell = async |at: &str, epoch: u64, primary: &str| {
        let body = serde_json::json!({ "cluster": "demo", "primary": primary, "epoch": epoch, "incident": "01J" });
        http.post(format!("http://{at}/primary")).json(&body).send().await.unwrap().status().as_u16()
    };
    for at in [&node, &sender] {
        assert_eq!(tell(at, 2, "broker-b").await, 200);
        assert_eq!(tell(at, 1, "broker-a").await, 409);
        assert_eq!(tell(at, 2, "broker-a").await, 409);
    }
    let after = until("messages of the new primary", async || {
        let state = state(&node).await;
        (state["in_epoch"].as_u64().unwrap() >= 10).then_some(state)
    })
    .await;
    assert_eq!(after["following"]["primary"], "broker-b");

    // What was acknowledged and what arrived agree, but for what was on its way at the fault.
    let numbers = state(&sender).await["acknowledged_numbers"].clone();
    assert!(numbers.as_array().is_some_and(|ranges| !ranges.is_empty()), "{numbers}");

    // A node does not outlive the one who started it.
    drop(node_process.0.stdin.take());
    until("the node's end", async || node_process.0.try_wait().unwrap()).await;
}

/// Runs the demo in a directory of its own.
fn demo(dir: &std::path::Path, broker: &str, fault: &str) -> serde_json::Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coroner"));
    command
        .args(["demo", "-o", "json", "--broker", broker, "--fault", fault, "--keep", "stage"])
        .current_dir(dir)
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{fault}: {err}");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// The processes whose command line has this word.
fn processes_with(word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(word) {
            found.push(line);
        }
    }
    found
}

/// Plays all faults, looks at what is the same for every broker, and hands on the summaries.
fn play_all(broker: &str) -> Vec<serde_json::Value> {
    let play = |fault| {
        let dir = tempfile::tempdir().unwrap();
        let summary = demo(dir.path(), broker, fault);
        assert_eq!((&summary["primary"], &summary["epoch"]), (&"broker-b".into(), &2.into()), "{fault}: {summary}");
        for outage in summary["outages"].as_array().unwrap() {
            // A second of silence is allowed by the rules; on a busy machine it takes longer, but never for ever.
            let ms = outage["outage_ms"].as_u64().unwrap_or_else(|| panic!("{fault}: {summary}"));
            assert!((1_000..15_000).contains(&ms), "{fault}: {summary}");
        }
        let report = std::fs::read_to_string(dir.path().join("stage/report.md")).unwrap();
        assert!(report.contains("broker-a") && report.contains("broker-b"), "{fault}: {report}");
        assert_eq!(processes_with(dir.path().to_str().unwrap()), [""; 0], "{fault}");
        summary
    };
    ["kill", "freeze", "readonly", "partition"].into_iter().map(play).collect()
}

#[test]
fn every_fault_of_a_relay_ends_with_one_primary_and_nothing_lost_or_twice() {
    for summary in play_all("relay") {
        assert!(summary["acknowledged"].as_u64().is_some_and(|n| n > 50), "{summary}");
        for none in ["lost", "undelivered", "twice", "out_of_order"] {
            assert_eq!(summary[none], 0, "{none}: {summary}");
        }
    }
}

#[test]
fn every_fault_of_redis_ends_with_one_primary_and_nothing_left_behind() {
    for summary in play_all("redis") {
        assert_eq!((&summary["twice"], &summary["repeated"]), (&0.into(), &0.into()), "{summary}");
    }
}

#[test]
fn an_interrupted_demo_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_coroner"));
    // No `--keep`: its directory goes too. TMPDIR tells its processes from others.
    command.arg("demo").env("TMPDIR", dir.path()).current_dir(dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut guard = Guard(command.spawn().unwrap());
    let mut lines = BufReader::new(guard.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("all is up")), "it did not come up");
    let place = dir.path().to_str().unwrap();
    assert!(!processes_with(place).is_empty());
    killpg(Pid::from_raw(i32::try_from(guard.0.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(guard.0.wait().unwrap().code(), Some(130));
    for _ in 0..250 {
        if processes_with(place).is_empty() {
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("left behind: {:?}", processes_with(place));
}

#[test]
fn a_machine_without_redis_is_told_how_to_get_it() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coroner"));
    let output =
        command.args(["demo", "--broker", "redis"]).env("PATH", "/nonexistent").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("apt-get install redis-server"));
}
