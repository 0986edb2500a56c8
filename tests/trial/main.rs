//! Do the tests of a file say what the arbiter would do? Each word of the vocabulary is held against the condition that it
//! is made for, by the file's text, through the loader and the real engine; and against one where it must fail.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod examples;
mod parties;
mod then;
mod words;

use std::{
    fs,
    path::{Path, PathBuf},
};

use coroner::{
    config::{Config, Environment, load_text},
    trial::{Outcome, play},
};

/// Every secret exists.
struct Given;

impl Environment for Given {
    fn var(&self, name: &str) -> Option<String> {
        Some(format!("a-secret-called-{name}"))
    }
    fn read(&self, path: &Path) -> Result<String, String> {
        Ok(format!("a-secret-of-{}", path.display()))
    }
    fn credentials_directory(&self) -> Option<PathBuf> {
        Some("/run/credentials/coroner".into())
    }
}

fn load(text: &str) -> Config {
    load_text(text, "t.yaml", &Given).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
}

fn all(config: &Config) -> Vec<Outcome> {
    config.tests.iter().map(|test| play(&config.policy, test).unwrap()).collect()
}

fn example(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Everything that can be looked at, a primary `a`, standbys `b` and `c`, three nodes, three arbiters that vote.
fn file(mode: &str, rules: &str, tests: &str) -> String {
    format!(
        r#"
arbiter: {{ name: arbiter-1, store: "sqlite:/var/lib/coroner/coroner.db" }}
mesh:
  key: "${{file:mesh.key}}"
  parties:
    arbiter-1: {{ key: "ed25519:ArOo9oLjoxpG9Yn5dLWNNEbOsDqcF4vNzO4JitSeJAs=", address: "10.0.0.13:7402" }}
    arbiter-2: {{ key: "ed25519:e2yHo40o6UoKxn3w0/PMWu548O2BxC50ghmmb46AtLo=", address: "10.0.0.14:7402", arbiter: true }}
    arbiter-3: {{ key: "ed25519:95q+GFfIX3DidmHclMZRUc2EBOu60TXWJGoU4gzyVuA=", address: "10.0.0.15:7402", arbiter: true }}
    a: {{ key: "ed25519:YfqYXciIbr3Y0JBgSfUfkzvnwf+eE9FGLJeDxMGwfbk=", address: "10.0.0.11:7402" }}
    b: {{ key: "ed25519:mdqtDSrTXRCLeVhDaXnAGbloaBJhOqeYjPDK1N1DTa8=", address: "10.0.0.12:7402" }}
    c: {{ key: "ed25519:bMy6UgIYoVsKTKdsAEMcbZmCanqqxqSD9Yt4QTq8O/w=", address: "10.0.0.16:7402" }}
clusters:
  orders:
    mode: {mode}
    broker: {{ redis: {{}} }}
    members:
      a: {{ address: "10.0.0.11:6379" }}
      b: {{ address: "10.0.0.12:6379" }}
      c: {{ address: "10.0.0.16:6379" }}
    nodes: [n1, n2, n3]
    agent: {{ broker: {{ unit: redis.service }}, gate: {{}} }}
    signals:
      heartbeat: {{ push: {{ from: primary, every: 1s }} }}
      beats: {{ push: {{ from: members, every: 1s }} }}
      arrivals: {{ push: {{ from: nodes, every: 1s }} }}
      busy: {{ push: {{ from: nodes, every: 1s, traffic: constant }} }}
      pager: {{ push: {{ alert: {{ labels: {{ alertname: X }} }} }} }}
      ping: {{ broker: {{ ask: ping, of: primary, every: 500ms, timeout: 300ms }} }}
      role: {{ broker: {{ ask: role, of: members, every: 1s }} }}
      position: {{ broker: {{ ask: position, of: standbys, every: 1s }} }}
      link: {{ broker: {{ ask: replication_link, of: standbys, every: 500ms }} }}
      write: {{ broker: {{ ask: write, of: primary, every: 2s }} }}
      canary: {{ canary: {{ to: nodes, every: 1s }} }}
      port: {{ tcp: {{}}, of: a, every: 1s }}
      disk: {{ exec: {{ command: [/bin/x], output: value }}, of: primary, every: 5s }}
      flag: {{ exec: {{ command: [/bin/x], output: text }}, of: primary, every: 1s }}
      clients: {{ prometheus: {{ url: "http://10.0.0.20:9090", query: x }}, of: primary, every: 5s }}
      load: {{ prometheus: {{ url: "http://{{address}}/metrics", metric: m }}, of: nodes, every: 1s }}
      counter: {{ prometheus: {{ url: "http://{{address}}/metrics", metric: m, counts_arrivals: true }}, of: nodes, every: 2s }}
      process: {{ agent: {{ watch: process, of: primary }} }}
      processes: {{ agent: {{ watch: process, of: members }} }}
      frozen: {{ agent: {{ watch: frozen, of: primary }} }}
      host: {{ agent: {{ watch: beat, of: primary }} }}
    death_rules:
{rules}
    failover:
      lease: 200ms
      fence: [[gate, kill]]
      max_loss: {{ bytes: 0 }}
      redirect: [{{ exec: {{ command: [/bin/x] }} }}]
tests:
{tests}
"#
    )
}

/// One rule `r` that only alerts, and one test of it.
fn one(when: &str, given: &str, expect: &str) -> Outcome {
    let rules = format!("      - {{ name: r, when: {when}, verdict: suspect, then: alert }}");
    let tests = format!("  - {{ name: t, given: {given}, expect: {expect} }}");
    let text = file("auto", &rules, &tests);
    all(&load(&text)).remove(0)
}

fn passes(when: &str, given: &str, expect: &str) {
    let outcome = one(when, given, expect);
    assert!(outcome.passed, "{when}, given {given}, expect {expect}:\n{}", shown(&outcome));
}

fn fails(when: &str, given: &str, expect: &str) {
    let outcome = one(when, given, expect);
    assert!(!outcome.passed, "{when}, given {given}, expect {expect} passes:\n{}", shown(&outcome));
}

fn shown(outcome: &Outcome) -> String {
    let mut text = String::new();
    for miss in &outcome.misses {
        text += &format!("line {}: expected {}, came {}\n", miss.line, miss.expected, miss.came);
        for rule in &miss.why.rules {
            text += &rule.tree.to_text();
        }
        text += &format!("against it: {:?}\n", miss.against);
    }
    for scene in &outcome.story {
        text += &format!("{:?} {:?}\n", scene.at, scene.belief);
    }
    text
}
