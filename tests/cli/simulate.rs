//! `coroner simulate` and `coroner replay` of what it saved.

use std::{fs, path::Path};

use serde_json::Value;

use crate::coroner;

/// A rule that fires when only the arbiter is cut off, no lease, and a fence that needs the consent of what it stops, with
/// the proof lowered to what that can give.
const HOLE: &str = r#"
arbiter: { name: arbiter-1, store: "sqlite:/nowhere/coroner.db" }
clusters:
  orders:
    mode: auto
    broker: { redis: {} }
    members:
      a: { address: "10.0.0.11:6379" }
      b: { address: "10.0.0.12:6379" }
    nodes: [n1, n2, n3]
    signals:
      arrivals: { push: { from: nodes, every: 1s } }
      ping: { broker: { ask: ping, of: primary, every: 500ms, timeout: 300ms } }
    death_rules:
      - { name: does not answer the arbiter, when: { ping: { silent: 2s } }, verdict: dead, then: failover }
    failover:
      fence: [{ exec: { command: [/usr/local/bin/please-stop, "{host}"] } }]
      proof: claim
      unsafe: true
      max_loss: any
      redirect: [{ exec: { command: [/bin/true] } }]
      rejoin: follow
"#;

fn simulate(file: &Path, more: &[&str]) -> (i32, String) {
    let words: Vec<&str> = ["simulate", file.to_str().unwrap()].into_iter().chain(more.iter().copied()).collect();
    let (code, out, err) = coroner(&words);
    assert!(err.is_empty(), "{err}");
    (code, out)
}

/// Whether a line of the table says that, however wide its columns are.
fn says(text: &str, words: &str) -> bool {
    text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").starts_with(words))
}

fn example(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples").join(name)
}

#[test]
fn a_known_hole_is_found_and_told_and_can_be_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hole.yaml");
    fs::write(&file, HOLE).unwrap();
    let saved = dir.path().join("found");
    let more = ["--random", "100", "--pairs", "150", "--strict", "--save", saved.to_str().unwrap()];
    let (code, text) = simulate(&file, &more);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("two masters possible?"), "{text}");
    assert!(text.contains("a and b could acknowledge writes at once"), "{text}");
    assert!(text.contains("does not answer the arbiter"), "{text}");
    let found = saved.join("orders-two-masters.json");
    assert!(text.contains(&format!("coroner replay {}", found.display())), "{text}");
    let recorded: Value = serde_json::from_str(&fs::read_to_string(&found).unwrap()).unwrap();
    assert!(recorded["schedule"]["faults"].as_array().unwrap().len() <= 2, "{recorded}");
    let (_, story, _) = coroner(&["replay", found.to_str().unwrap()]);
    assert!(story.contains("a and b could acknowledge writes at once"), "{story}");
}

#[test]
fn the_readmes_example_is_clean() {
    let (code, text) = simulate(&example("redis.yaml"), &["--random", "60", "--pairs", "60", "--strict"]);
    assert_eq!(code, 0, "{text}");
    assert!(says(&text, "two masters possible? not in these runs"), "{text}");
}

/// No two masters, nothing promised broken, whatever happens; and no single fault leaves the nodes alone.
#[test]
fn the_example_with_agents_keeps_its_promises() {
    let (_, text) = simulate(&example("agents.yaml"), &["--random", "60", "--pairs", "60"]);
    assert!(says(&text, "two masters possible? not in these runs"), "{text}");
    assert!(says(&text, "another promise broken? not in these runs"), "{text}");
    let (_, text) = simulate(&example("agents.yaml"), &["--random", "0", "--pairs", "0"]);
    assert!(says(&text, "failover missed? not in these runs"), "{text}");
}

#[test]
fn for_programs_it_is_json() {
    let (code, text) = simulate(&example("redis.yaml"), &["--random", "10", "--pairs", "10", "-o", "json"]);
    assert_eq!(code, 0, "{text}");
    let reports: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(reports[0]["cluster"], "orders");
    assert!(reports[0]["runs"].as_u64().unwrap() > 20, "{text}");
}

#[test]
fn a_cluster_that_is_not_there_is_named_with_those_that_are() {
    let (code, _, text) = coroner(&["simulate", example("redis.yaml").to_str().unwrap(), "--cluster", "nobody"]);
    assert_eq!(code, 65, "{text}");
    assert!(text.contains("it has: orders"), "{text}");
}
