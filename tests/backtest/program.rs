//! What does the user see of it? The binary is run as users run it; one journal is a real arbiter's.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use coroner::sys::clock::Stopwatch;

use crate::generator::{CAREFUL, HASTY, file, rules, stormy_day};

fn coroner(args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coroner"));
    for name in ["CORONER_SOCKET", "CORONER_URL", "CORONER_TOKEN", "CORONER_CONFIG"] {
        command.env_remove(name);
    }
    let output = command.args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    /// A file in force, two others, and the journal of a stormy day at its default place.
    fn stormy() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("coroner.yaml"), file(dir.path(), CAREFUL)).unwrap();
        fs::write(dir.path().join("hasty.yaml"), rules(HASTY)).unwrap();
        fs::write(dir.path().join("same.yaml"), file(dir.path(), CAREFUL)).unwrap();
        stormy_day(&dir.path().join("coroner.journal"));
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn backtest(&self, rules: &str, more: &[&str]) -> (i32, String, String) {
        let (config, rules) = (self.path("coroner.yaml"), self.path(rules));
        let args = ["backtest", &config, "--rules", &rules, "--since", "2026-11-01", "--until", "2026-11-02"];
        coroner(&[&args, more].concat())
    }

    fn replay(&self, more: &[&str]) -> (i32, String, String) {
        let journal = self.path("coroner.journal");
        coroner(&[&["replay", "--journal", &journal], more].concat())
    }
}

/// Hashes of policies change with the program.
fn without_hashes(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_inclusive(' ') {
        let is_hash = word.trim().len() == 16 && word.trim().chars().all(|c| c.is_ascii_hexdigit());
        out.push_str(if is_hash { "HASH " } else { word });
    }
    out
}

#[test]
fn a_backtest_reads_well() {
    let home = Home::stormy();
    let (code, out, err) = home.backtest("hasty.yaml", &[]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    insta::assert_snapshot!("backtest", without_hashes(&out));
    assert_eq!(home.backtest("hasty.yaml", &["--strict"]).0, 1, "a false firing fails the build");
    assert_eq!(home.backtest("same.yaml", &["--strict"]).0, 0, "a whole file does as well as one of rules");
}

#[test]
fn a_backtest_speaks_json() {
    let home = Home::stormy();
    for more in [["--json"].as_slice(), &["-o", "json"]] {
        let (code, out, err) = home.backtest("hasty.yaml", more);
        assert_eq!((code, err.as_str()), (0, ""));
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(report["is_worse_than_wished"], true);
        let cluster = &report["clusters"][0];
        assert_eq!(cluster["events"][0]["in_force"]["rule"], "silent to everyone");
        assert_eq!(cluster["false_firings"][0]["rule"], "no heartbeat");
        assert!(cluster["false_firings"][0]["because"].as_str().unwrap().contains("heartbeat silent for 4s"));
    }
}

#[test]
fn mistakes_are_told_at_their_place() {
    let home = Home::stormy();
    let refused = |text: &str, words: &[&str]| {
        fs::write(home.path("bad.yaml"), text).unwrap();
        let (code, out, err) = home.backtest("bad.yaml", &[]);
        assert_eq!((code, out.as_str()), (78, ""), "{err}");
        for word in words {
            assert!(err.contains(word), "{word}\n{err}");
        }
    };
    refused("clusters:\n  ordres: {}\n", &["bad.yaml:2:3", "has no cluster `ordres`"]);
    refused("clusters:\n  orders:\n    mode: shadow\n", &["bad.yaml:3:5", "`mode` is not taken from a file of rules"]);
    refused("report: []\n", &["`report` is not taken", "there is no `clusters`"]);
    refused(
        "clusters:\n  orders:\n    death_rules:\n      - { name: x, when: { pong: ok }, verdict: dead, then: alert }\n",
        &["bad.yaml:4:", "pong"],
    );
    let config = home.path("coroner.yaml");
    let (code, _, err) =
        coroner(&["backtest", &config, "--rules", &home.path("hasty.yaml"), "--journal", "/nonexistent"]);
    assert_eq!(code, 74, "{err}");
    assert!(err.contains("Say where it is with --journal"), "{err}");
    let (code, _, err) = home.backtest("hasty.yaml", &["--cluster", "invoices"]);
    assert_eq!(code, 65, "{err}");
    let (code, _, err) = home.backtest("hasty.yaml", &["--until", "1990-01-01"]);
    assert_eq!(code, 64, "given twice: {err}");
}

#[test]
fn a_signal_that_was_never_recorded_is_named() {
    let home = Home::stormy();
    let text = "clusters:\n  orders:\n    signals: { port: { tcp: {}, of: primary, every: 1s, timeout: 500ms } }\n    \
                death_rules:\n      - { name: port, when: { port: { failing: 3 of 3 } }, verdict: dead, then: failover }\n";
    fs::write(home.path("port.yaml"), text).unwrap();
    let (code, out, err) = home.backtest("port.yaml", &[]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("nothing was recorded of `port`, which the rule “port” (new) asks"), "{out}");
    assert!(out.contains("missing it"), "{out}");
}

#[test]
fn a_replay_reads_like_a_story() {
    let home = Home::stormy();
    let (code, out, err) = home.replay(&["--from", "2026-11-01 00:04:50", "--to", "2026-11-01 00:05:30"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    insta::assert_snapshot!("replay", out);
    let (_, all, _) = home.replay(&["--from", "2026-11-01", "--all", "--to", "2026-11-01 00:00:10"]);
    assert!(all.lines().count() > 50, "{all}");
    let (_, none, _) = home.replay(&["--from", "2026-11-01", "--cluster", "invoices", "--to", "2026-11-01 00:00:10"]);
    assert_eq!(none.lines().count(), 1, "only the arbiter's own start: {none}");
}

#[test]
fn an_incident_is_found_by_the_beginning_of_its_name() {
    let home = Home::stormy();
    let (code, out, err) = home.replay(&["--incident", "01jst", "--short"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let first = out.lines().next().unwrap();
    let last = out.lines().last().unwrap();
    assert!(first >= "2026-11-01 00:04:18" && last <= "2026-11-01 00:06:20", "{out}");
    assert!(out.contains("failover 01JSTORM from broker-a to broker-b in epoch 2 is resolved"), "{out}");
    assert_eq!(home.replay(&["--incident", "last", "--short"]).1, out);
    let (code, _, err) = home.replay(&["--incident", "01NO"]);
    assert_eq!(code, 65, "{err}");
}

#[test]
fn one_segment_can_be_replayed_alone_and_as_json() {
    let home = Home::stormy();
    let segment = fs::read_dir(home.path("coroner.journal")).unwrap().map(|e| e.unwrap().path());
    let segment = segment.into_iter().find(|path| path.extension().is_some_and(|e| e == "journal")).unwrap();
    let (code, out, err) = coroner(&["replay", segment.to_str().unwrap(), "-o", "json"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["kind"], "life");
    assert!(lines.len() > 30, "{}", lines.len());
    let (code, _, err) = coroner(&["replay", &home.path("coroner.yaml")]);
    assert_eq!(code, 65, "{err}");
    assert!(err.contains("does not begin like a segment"), "{err}");
}

/// Stopped whatever becomes of the test.
struct Arbiter(Child);

impl Arbiter {
    fn start(config: &str, dir: &Path) -> Self {
        let log = fs::File::create(dir.join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_coroner"))
            .args(["arbiter", "--log", "text", "--config", config])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        Self(child.unwrap())
    }

    fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Arbiter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the arbiter says it; its log is shown if it does not.
fn wait_for(dir: &Path, what: &str, mut is_so: impl FnMut() -> bool) {
    let watch = Stopwatch::start();
    while !is_so() {
        let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert!(watch.elapsed() < Duration::from_secs(30), "{what}\n{}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_a_real_arbiter_records_can_be_replayed_and_judged_anew() {
    let dir = tempfile::tempdir().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!(
        "arbiter: {{ name: arbiter-1, listen: {{ socket: {0}/socket }}, store: \"sqlite:{0}/coroner.db\" }}
clusters:
  orders:
    mode: shadow
    primary: broker-a
    members:
      broker-a: {{ address: \"127.0.0.1:{closed}\" }}
      broker-b: {{ address: \"127.0.0.1:1\" }}
    signals:
      port: {{ tcp: {{}}, of: primary, every: 200ms, timeout: 100ms }}
    death_rules:
      - {{ name: port is shut, when: {{ port: {{ failing: 3 of 3 }} }}, verdict: dead, then: failover }}
      - {{ name: never, when: {{ port: {{ latency_above: 90ms }} }}, verdict: dead, then: failover, mode: shadow }}
    failover:
      fence: [{{ exec: {{ command: [/bin/true], status: [/bin/true], proof: gate }}, deadline: 5s }}]
      max_loss: any
",
        dir.path().display()
    );
    let config = dir.path().join("coroner.yaml").display().to_string();
    fs::write(&config, text).unwrap();
    let arbiter = Arbiter::start(&config, dir.path());
    let journal = dir.path().join("coroner.journal").display().to_string();
    let replay = || coroner(&["replay", "--journal", &journal]).1;
    // It is read while it is written.
    wait_for(dir.path(), "the rule fires", || replay().contains("the rule “port is shut” became true"));
    let socket = dir.path().join("socket").display().to_string();
    let (code, status, err) = coroner(&["--socket", &socket, "status"]);
    assert_eq!(code, 0, "{err}");
    let row = status.lines().find(|line| line.contains("port is shut") && line.contains("failover")).unwrap();
    assert!(row.contains("true") && row.contains('1'), "{status}");
    arbiter.stop();

    let story = replay();
    for words in [
        "arbiter arbiter-1 0.",
        "port of broker-a [arbiter]: first: FAILED, refused",
        "orders: broker-a is primary in epoch 1",
        "orders: broker-a: unknown → dead, by the rule “port is shut”",
        "(it only watches)",
        "it would have acted, held back by:",
        "✔ port failing 3 of 3",
    ] {
        assert!(story.contains(words), "{words}\n{story}");
    }
    let (code, out, err) = coroner(&["backtest", &config, "--rules", &config, "--since", "1h", "-o", "json"]);
    assert_eq!(code, 0, "{err}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let cluster = &report["clusters"][0];
    assert_eq!(cluster["recorded"]["port is shut"], 1, "{cluster}");
    assert_eq!(cluster["rules"][0]["fired"], 1, "{cluster}");
    assert_eq!(cluster["remarks"].as_array().unwrap().len(), 0, "{cluster}");
}
