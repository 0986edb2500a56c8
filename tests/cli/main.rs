//! What does the operator see? Golden output of the binary, and its exit codes.
//!
//! The binary is run as users run it, without an arbiter: help, lists, checks of files, and what is said when the
//! arbiter cannot be reached. The demo's node and sender run against a real Redis.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod demo;
mod simulate;
mod trials;

use std::{fs, path::Path};

use assert_cmd::Command;

fn coroner(args: &[&str]) -> (i32, String, String) {
    let mut command = Command::cargo_bin("coroner").unwrap();
    for name in ["CORONER_SOCKET", "CORONER_URL", "CORONER_TOKEN", "CORONER_CONFIG"] {
        command.env_remove(name);
    }
    let output = command.args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_help_names_every_verb_and_every_exit_code() {
    let (code, out, _) = coroner(&["--help"]);
    assert_eq!(code, 0);
    for verb in [
        "arbiter",
        "backtest",
        "check",
        "replay",
        "key",
        "kinds",
        "status",
        "why",
        "why-not",
        "watch",
        "incidents",
        "failover",
        "switchover",
        "rejoin",
        "fence",
        "continue",
        "abort",
        "adopt",
        "pause",
        "resume",
        "relay",
        "reload",
        "epoch",
        "doctor",
        "simulate",
        "demo",
        "stdio",
        "completions",
        "man",
        "schema",
    ] {
        assert!(out.lines().any(|line| line.trim_start().starts_with(&format!("{verb} "))), "{verb}\n{out}");
    }
    assert!(!out.contains("demo-node"), "{out}");
    for code in ["   0  ", "   1  ", "  64  ", "  69  ", "  75  ", "  78  ", " 107  "] {
        assert!(out.contains(code), "{code}\n{out}");
    }
}

#[test]
fn a_key_is_made_once_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mesh.key");
    let file = path.to_str().unwrap();
    let (code, public, err) = coroner(&["key", "new", file]);
    assert_eq!(code, 0, "{err}");
    assert!(public.starts_with("ed25519:") && public.trim_end().len() == 52, "{public}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = fs::read_to_string(&path).unwrap();
    assert!(secret.starts_with("ed25519-private:"));
    assert_eq!(coroner(&["key", "show", file]), (0, public.clone(), String::new()));
    let (_, json, _) = coroner(&["-o", "json", "key", "show", file]);
    assert!(json.contains("\"public_key\"") && json.contains(public.trim()), "{json}");

    let (code, out, err) = coroner(&["key", "new", file]);
    assert_eq!((code, out.as_str()), (73, ""), "{err}");
    assert!(err.contains("exists already"), "{err}");
    assert_eq!(fs::read_to_string(&path).unwrap(), secret, "a key is never replaced");

    fs::write(&path, public).unwrap();
    let (code, _, err) = coroner(&["key", "show", file]);
    assert_eq!(code, 65, "{err}");
    assert_eq!(coroner(&["key", "show", "/nonexistent"]).0, 74);
    assert_eq!(coroner(&["key", "new", "/nonexistent/key"]).0, 73);
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    assert_eq!(coroner(&["statsu"]).0, 64);
    assert_eq!(coroner(&["pause"]).0, 64, "a pause needs its reason");
    assert_eq!(coroner(&["pause", "--reason", "x", "--for", "10"]).0, 64, "a duration needs its unit");
    assert_eq!(coroner(&["--version"]).0, 0);
    assert_eq!(coroner(&[]).0, 64);
}

#[test]
fn an_arbiter_that_is_not_there_is_said_with_the_remedy() {
    let (code, _, err) = coroner(&["--socket", "/nonexistent/coroner.sock", "status"]);
    assert_eq!(code, 69, "{err}");
    assert!(err.contains("The arbiter at /nonexistent/coroner.sock is not reachable"), "{err}");
    assert!(err.contains("systemctl status coroner-arbiter") && err.contains("--socket"), "{err}");

    let (code, _, err) = coroner(&["--url", "http://127.0.0.1:1", "why"]);
    assert_eq!(code, 69, "{err}");
    assert!(err.contains("Connection refused"), "{err}");

    let (code, out, err) = coroner(&["--socket", "/nonexistent/coroner.sock", "-o", "json", "epoch"]);
    let told: serde_json::Value = serde_json::from_str(&err).unwrap();
    assert_eq!((code, out.as_str(), told["exit_code"].as_u64()), (69, "", Some(69)));
}

#[test]
fn monitoring_gets_one_line_even_without_an_arbiter() {
    let (code, out, err) = coroner(&["--socket", "/nonexistent/coroner.sock", "status", "--nagios"]);
    assert_eq!(code, 3);
    assert!(out.starts_with("CORONER UNKNOWN - ") && out.lines().count() == 1, "{out}");
    assert_eq!(err, "");
}

#[test]
fn what_destroys_is_not_done_without_a_word() {
    // The cluster is named, so that the question comes before the arbiter is needed.
    for args in [
        ["failover", "orders"].as_slice(),
        &["switchover", "orders"],
        &["abort", "orders"],
        &["adopt", "broker-b", "orders"],
        &["fence", "confirm", "orders", "--checked", "pulled the plug"],
    ] {
        let (code, _, err) = coroner(args);
        assert_eq!(code, 64, "{args:?}");
        assert!(err.contains("add --yes"), "{err}");
    }
}

#[test]
fn kinds_are_listed() {
    let (code, out, _) = coroner(&["kinds"]);
    assert_eq!(code, 0);
    insta::assert_snapshot!("kinds", out);
    let (code, out, _) = coroner(&["kinds", "fence", "signal"]);
    assert_eq!(code, 0);
    assert!(out.contains("pid_file") && out.contains("supervisor"), "{out}");
    assert_eq!(coroner(&["kinds", "fence", "sginal"]).0, 65);
    let (_, json, _) = coroner(&["kinds", "-o", "json"]);
    let places: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(places[0]["kinds"][0]["name"], "redis");
}

const GOOD: &str = r#"
arbiter: { name: arbiter-1, store: "sqlite:/var/lib/coroner/coroner.db" }
clusters:
  orders:
    mode: auto
    broker: { redis: {} }
    members:
      broker-a: { address: "10.0.0.11:6379" }
      broker-b: { address: "10.0.0.12:6379" }
    nodes: [node-1, node-2, node-3]
    signals:
      arrivals: { push: { from: nodes, every: 1s } }
      ping: { broker: { ask: ping, of: primary, every: 500ms, timeout: 300ms } }
    death_rules:
      - name: silent to everyone
        when:
          all:
            - ping: { silent: 10s }
            - at_least: { count: majority, of: arrivals, are: { silent: 5s } }
        verdict: dead
        then: failover
    failover:
      fence: [{ signal: { command_line: "redis-server *:6379", supervisor: none } }]
      max_loss: { bytes: 0 }
"#;

fn check(dir: &Path, text: &str, more: &[&str]) -> (i32, String, String) {
    let file = dir.join("coroner.yaml");
    fs::write(&file, text).unwrap();
    let args: Vec<&str> = ["check", file.to_str().unwrap()].into_iter().chain(more.iter().copied()).collect();
    coroner(&args)
}

#[test]
fn a_good_file_is_summed_up() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) = check(dir.path(), GOOD, &[]);
    assert_eq!(code, 0, "{out}{err}");
    for expected in ["orders", "auto", "best proof 4", "is well-formed"] {
        assert!(out.contains(expected), "{expected}\n{out}");
    }
    let (code, out, _) = check(dir.path(), GOOD, &["-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["ok"], &report["clusters"][0]["rules"]), (0, &true.into(), &1.into()));
}

#[test]
fn a_bad_file_is_refused_with_all_its_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let bad = GOOD.replace("mode: auto", "mode: autto").replace("of: primary, every: 500ms", "of: primary, every: 500");
    let (code, _, err) = check(dir.path(), &bad, &[]);
    assert_eq!(code, 78);
    assert!(err.contains("autto") && err.contains("500ms") && err.contains("2 mistakes"), "{err}");
    let (code, out, _) = check(dir.path(), &bad, &["-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["ok"]), (78, &false.into()));
    assert_eq!(coroner(&["check", "/nonexistent.yaml"]).0, 78);
}

#[test]
fn the_key_of_a_host_must_be_a_partys() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("mesh.key");
    let (_, public, _) = coroner(&["key", "new", key.to_str().unwrap()]);
    let example = include_str!("../../config/examples/agents.yaml");
    let (code, _, err) = check(dir.path(), example, &["--agent"]);
    assert_eq!(code, 78);
    assert!(err.contains("redis-password") && !err.contains("operator-token"), "{err}");

    fs::write(dir.path().join("redis-password"), "x").unwrap();
    let (code, _, err) = check(dir.path(), example, &["--agent"]);
    assert_eq!(code, 78);
    assert!(err.contains("is nobody's") && err.contains(public.trim()), "{err}");
    let theirs = example.split('"').find(|word| word.starts_with("ed25519:")).unwrap();
    let (code, _, err) = check(dir.path(), &example.replace(theirs, public.trim()), &["--agent"]);
    assert_eq!(code, 0, "{err}");
    fs::write(&key, public).unwrap();
    assert!(check(dir.path(), example, &["--agent"]).2.contains("begins with `ed25519-private:`"));
    fs::remove_file(&key).unwrap();
    assert_eq!(check(dir.path(), example, &["--agent"]).0, 0, "a command needs no key");
    assert_eq!(check(dir.path(), example, &["--without-secrets", "--strict"]).0, 0);
}

#[test]
fn strict_makes_a_dangerous_rule_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let risky = GOOD.replace("            - at_least: { count: majority, of: arrivals, are: { silent: 5s } }\n", "");
    let (code, out, _) = check(dir.path(), &risky, &[]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("silent to everyone"), "{out}");
    assert_eq!(check(dir.path(), &risky, &["--strict"]).0, 78);
}

#[test]
fn man_pages_have_the_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, _) = coroner(&["man", "--dir", dir.path().to_str().unwrap()]);
    assert_eq!(code, 0, "{out}");
    for page in
        ["coroner.1", "coroner-status.1", "coroner-incidents-show.1", "coroner-fence-confirm.1", "coroner-fence-test.1"]
    {
        let text = fs::read_to_string(dir.path().join(page)).unwrap_or_else(|e| panic!("{page}: {e}"));
        assert!(text.contains("EXIT CODES") && text.contains("107"), "{page}\n{text}");
    }
    assert!(!dir.path().join("coroner-demo-node.1").exists());
}

#[test]
fn completions_and_schemas_are_made() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = coroner(&["completions", shell]);
        assert!(code == 0 && out.contains("switchover"), "{shell}");
    }
    for of in ["config", "status", "why", "why-not", "incident", "command", "report", "event", "doctor", "fence-test"] {
        let (code, out, err) = coroner(&["schema", of]);
        assert_eq!(code, 0, "{of}: {err}");
        let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert!(jsonschema::validator_for(&schema).is_ok(), "{of}");
    }
}
