//! The alert rules and the dashboard ask only for what is exported, and every alert is tested.

#![expect(clippy::unwrap_used, reason = "a test may stop")]

#[path = "../common/court.rs"]
mod court;
#[path = "../common/policy.rs"]
mod policy;

mod agents;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use coroner::telemetry::Metrics;

fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

/// The metrics of ours that a text asks for, without the endings of histograms.
fn asked(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    text.split(|c| !is_part(c))
        .filter(|word| word.starts_with("coroner_") || word.starts_with("process_"))
        .map(|word| {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
            base.filter(|base| Metrics::names().contains(base)).unwrap_or(word).to_owned()
        })
        .collect()
}

fn alerts() -> Vec<String> {
    let rules = fs::read_to_string(config("prometheus/coroner.rules.yml")).unwrap();
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect()
}

#[test]
fn what_is_asked_for_is_exported() {
    for name in ["prometheus/coroner.rules.yml", "prometheus/coroner.rules.test.yml", "grafana/coroner.json"] {
        let text = fs::read_to_string(config(name)).unwrap();
        let missing: Vec<_> =
            asked(&text).into_iter().filter(|metric| !Metrics::names().contains(&metric.as_str())).collect();
        assert!(missing.is_empty(), "{name} asks for what nobody exports: {missing:?}");
        assert!(asked(&text).len() > 10, "{name}");
    }
}

#[test]
fn promtool_accepts_the_rules_and_passes_their_tests() {
    for (verb, file) in [("check", "coroner.rules.yml"), ("test", "coroner.rules.test.yml")] {
        let output = Command::new("promtool")
            .args([verb, "rules"])
            .arg(config("prometheus").join(file))
            .output()
            .expect("promtool is needed: apt-get install prometheus");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
    }
}

#[test]
fn every_alert_is_tested_and_says_what_to_do() {
    let rules = fs::read_to_string(config("prometheus/coroner.rules.yml")).unwrap();
    let tests = fs::read_to_string(config("prometheus/coroner.rules.test.yml")).unwrap();
    let names = alerts();
    assert!(names.len() > 15);
    for name in &names {
        assert!(tests.contains(&format!("alertname: {name}\n        exp_alerts:\n          - ")), "{name} has no test");
    }
    for annotation in ["severity:", "summary:", "description:"] {
        assert_eq!(rules.matches(annotation).count(), names.len(), "{annotation}");
    }
}

#[test]
fn the_dashboard_can_be_read() {
    let text = fs::read_to_string(config("grafana/coroner.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels {
        assert!(panel["title"].is_string() && !panel["targets"].as_array().unwrap().is_empty(), "{panel}");
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{panel}");
    }
}
