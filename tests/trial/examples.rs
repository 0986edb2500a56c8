//! The tests in the files that we hand out hold, are some, and can fail.

use std::path::Path;

use super::{all, example, load, shown};

fn files() -> Vec<String> {
    let mut files = vec!["config/coroner.yaml".to_owned()];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    files.extend(std::fs::read_dir(folder).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        name.ends_with(".yaml").then(|| format!("config/examples/{name}"))
    }));
    files.sort();
    assert!(files.len() >= 7, "{files:?}");
    files
}

#[test]
fn the_tests_of_our_files_hold() {
    for name in files() {
        let outcomes = all(&load(&example(&name)));
        assert!(!outcomes.is_empty(), "{name} has no tests");
        for outcome in outcomes {
            assert!(outcome.passed, "{name}, {}:\n{}", outcome.name, shown(&outcome));
        }
    }
}

/// A file's tests stand for its rules: without those, some of them fail.
#[test]
fn the_tests_of_our_files_can_fail() {
    for name in files() {
        let mut config = load(&example(&name));
        for cluster in config.policy.clusters.values_mut() {
            cluster.rules.iter_mut().for_each(|rule| rule.then = coroner::model::rule::Reaction::Hold);
        }
        assert!(all(&config).iter().any(|outcome| !outcome.passed), "{name}");
    }
}

/// What a file's tests say changes nothing that an arbiter does.
#[test]
fn tests_are_no_part_of_the_policy() {
    let text = example("config/examples/redis.yaml");
    let (without, _) = text.split_once("\ntests:").unwrap();
    let (with, without) = (load(&text), load(without));
    assert!(!with.tests.is_empty() && without.tests.is_empty());
    assert_eq!((&with.policy, &with.policy.hash), (&without.policy, &without.policy.hash));
}
