//! Does `coroner check` run the tests of a file, and say what failed and why?

use std::{fs, path::Path};

use super::{GOOD, check, coroner};

const PASS: &str = "
tests:
  - name: a dead primary is failed over
    given: { primary: dead }
    expect: { verdict: dead, then: failover, rule: silent to everyone, candidate: broker-b, by: 10s }
  - name: a cut cable to the arbiter alone kills nobody
    given: { arbiter: cut off for 60s }
    expect: { never: [dead, failover] }
";

#[test]
fn tests_that_hold_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) = check(dir.path(), &format!("{GOOD}{PASS}"), &[]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("\n2 tests passed.\n"), "{out}");
    let (code, out, _) = check(dir.path(), GOOD, &[]);
    assert!(code == 0 && !out.contains("test"), "{out}");
    let (_, out, _) = check(dir.path(), &format!("{GOOD}{PASS}"), &["--strict", "--no-tests"]);
    assert!(!out.contains("passed"), "{out}");
    let (code, out, _) =
        check(dir.path(), &format!("{GOOD}{PASS}"), &["--test", "a dead primary is failed over", "--without-secrets"]);
    assert!(code == 0 && out.contains("1 test passed."), "{out}");
    let (code, _, err) = check(dir.path(), &format!("{GOOD}{PASS}"), &["--test", "no such test"]);
    assert_eq!(code, 65);
    assert!(err.contains("There is no test `no such test`; there is:\n  a dead primary is failed over\n"), "{err}");
}

#[test]
fn a_test_that_fails_is_shown_with_the_rules_explained() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = format!("{GOOD}{PASS}").replace("by: 10s", "by: 8s");
    let (code, out, err) = check(dir.path(), &wrong, &[]);
    assert_eq!(code, 1, "{out}{err}");
    let file = dir.path().join("coroner.yaml").display().to_string();
    insta::assert_snapshot!("a_failed_test", out.replace(&file, "coroner.yaml"));
    // One that is not run does not fail.
    assert_eq!(check(dir.path(), &wrong, &["--no-tests"]).0, 0);
    assert_eq!(check(dir.path(), &wrong, &["--test", "a cut cable to the arbiter alone kills nobody"]).0, 0);

    let (code, out, _) = check(dir.path(), &wrong, &["-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["ok"], &report["tests"]["failed"]), (1, &true.into(), &1.into()));
    let failed = &report["tests"]["tests"][0];
    assert_eq!(failed["name"], "a dead primary is failed over");
    assert_eq!(failed["misses"][0]["at_ms"].as_f64(), Some(8_000.0));
    assert_eq!(failed["misses"][0]["why"]["verdict"], "alive");
    assert_eq!(failed["story"][0]["then"], "nothing");
}

#[test]
fn a_mistake_in_a_test_is_a_mistake_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let bad = format!("{GOOD}{PASS}").replace("arbiter: cut off", "pnig: refused");
    for more in [&[][..], &["--no-tests"]] {
        let (code, _, err) = check(dir.path(), &bad, more);
        assert_eq!(code, 78);
        assert!(err.contains("there is no signal `pnig` in orders") && err.contains("did you mean `ping`?"), "{err}");
    }
}

/// As CI of ours and of others would do it: no secrets, no warnings, all tests.
#[test]
fn every_file_that_we_hand_out_passes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let examples = fs::read_dir(root.join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = examples
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .chain([root.join("coroner.yaml")])
        .collect();
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        let (code, out, err) = coroner(&["check", "--strict", "--without-secrets", file.to_str().unwrap()]);
        assert!(code == 0 && out.contains(" passed.\n"), "{}: {code}\n{out}{err}", file.display());
    }
}

#[test]
fn the_help_says_how_a_test_reads() {
    let (_, out, _) = coroner(&["check", "--help"]);
    for word in ["--no-tests", "--test <NAME>", "given: { primary: frozen from 10s }", "src/docs/testing-rules.md"] {
        assert!(out.contains(word), "{word}\n{out}");
    }
}
