//! The list of defects, and the table of who catches them: do they still fit the tree?
//!
//! The defects themselves are tried out by `tests/defects/run`, which takes an hour. This holds, in a moment, that what it
//! reads has not rotted: each defect's lines are there exactly once, and the table speaks of the same defects as the list.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "parts of the command, of which a test uses some; and a test fails by panicking"
)]

#[path = "runner/crates.rs"]
mod crates;
#[path = "runner/list.rs"]
mod list;
#[path = "runner/package.rs"]
mod package;
#[path = "runner/table.rs"]
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crates::Verdict;
use list::Defect;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn all() -> Vec<Defect> {
    list::read(&root().join("tests/defects/list")).unwrap_or_else(|why| panic!("{why}"))
}

#[test]
fn each_defect_fits_its_file_exactly_once() {
    let all = all();
    assert!(all.len() >= 100, "{} defects are left", all.len());
    let wrong: Vec<String> = all.iter().filter_map(|defect| defect.apply_below(&root()).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_defect_breaks_a_pure_part() {
    let pure = ["model", "engine", "failover", "lease", "mesh", "election", "sim"];
    for defect in all() {
        let part = defect.file.strip_prefix("src/").and_then(|rest| rest.split('/').next()).unwrap_or_default();
        assert!(pure.contains(&part), "{}: {} is in no part that the command builds", defect.name, defect.file);
    }
}

/// No two of them are the same under two names.
#[test]
fn no_defect_is_another_one() {
    let mut broken: BTreeMap<(String, String), String> = BTreeMap::new();
    for defect in all() {
        let text = defect.apply_below(&root()).unwrap();
        if let Some(other) = broken.insert((defect.file, text), defect.name.clone()) {
            panic!("{} and {other} break the same", defect.name);
        }
    }
}

/// The table is never of another list, each row was run, and none says that nobody noticed.
#[test]
fn the_table_is_of_this_list_and_every_defect_is_caught() {
    let rows = table::read(&fs::read_to_string(root().join("tests/defects/caught.md")).unwrap());
    let (listed, told): (BTreeSet<_>, BTreeSet<_>) =
        (all().into_iter().map(|defect| defect.name).collect(), rows.keys().cloned().collect());
    let missing: Vec<_> = listed.symmetric_difference(&told).collect();
    assert!(missing.is_empty(), "tests/defects/run {missing:?} brings tests/defects/caught.md up to date");
    for (name, row) in rows {
        let first = row.get(table::FIRST).cloned().unwrap_or_default();
        assert!(first != "–", "{name} was never tried: `tests/defects/run {name}`");
        assert!(first.contains('`'), "{name} is caught by {first}: write the test that is missing");
    }
}

#[test]
fn a_list_that_is_none_is_refused_with_its_place() {
    let good = "About.\n\n# a-name\nA sentence\nthat ends.\nin src/x.rs\n stays\n-goes\n+comes\n";
    let parsed = list::parse("part", good).unwrap();
    assert_eq!(parsed[0].sentence, "A sentence that ends.");
    assert_eq!(parsed[0].apply("first\nstays\ngoes\n").unwrap(), "first\nstays\ncomes\n");
    assert!(parsed[0].apply("stays\ngoes\nstays\ngoes\n").unwrap_err().contains("2 times"));
    assert!(parsed[0].apply("stays\n").unwrap_err().contains("0 times"));
    for (bad, words) in [
        (good.replace("a-name", "A Name"), "part.txt:3: a name is lower case"),
        (good.replace("ends.", "ends"), "and ends"),
        (good.replace("in src", "at src"), "and ends"),
        (good.replace("-goes\n+comes\n", ""), "nothing changes"),
        (good.replace("-goes", "*goes"), "part.txt:8: behind the file come lines"),
        (good.replace(" stays\n", "\n"), "part.txt:8: a blank line ended the defect"),
    ] {
        let why = list::parse("part", &bad).unwrap_err();
        assert!(why.contains(words), "{why} does not say {words}");
    }
}

#[test]
fn a_test_programs_output_is_read_as_it_was_meant() {
    let output =
        "running 3 tests\ntest b::two ... FAILED\ntest a::one ... ok\ntest c::three - should panic ... FAILED\n";
    let known: Vec<String> = ["a::one", "b::two", "c::three", "d::four"].map(Into::into).to_vec();
    // `true` ends well though tests failed: what was printed counts.
    let ended = std::process::Command::new("true").status().unwrap();
    let (verdict, names) = crates::judge(output, Some(ended), &known);
    assert_eq!(verdict, Verdict::Failed(vec!["b::two".into(), "c::three".into()]));
    assert_eq!(names.len(), 3);
    assert_eq!(crates::judge("test a::one ... ok\n", Some(ended), &known).0, Verdict::Passed);
    assert_eq!(crates::judge("test a::one ... ok\n", None, &known).0, Verdict::TimedOut(Some("b::two".into())));
    let died = std::process::Command::new("false").status().unwrap();
    assert!(matches!(crates::judge("test a::one ... ok\n", Some(died), &known).0, Verdict::Died(_)));
    let said = "   Compiling coroner v0.0.0\n  Executable unittests src/lib.rs (/t/coroner-1)\n  Executable tests/sim/main.rs (/t/sim-2)\n";
    let programs = crates::programs(said);
    assert_eq!(programs.keys().collect::<Vec<_>>(), ["sim", "unit"]);
    assert_eq!(programs["sim"], Path::new("/t/sim-2"));
}

/// It would not compile otherwise, and no defect could be tried.
#[test]
fn the_scratch_package_holds_each_file_that_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let package = package::make(&root(), folder.path()).unwrap();
    assert!(package.tests.iter().any(|name| name == "sim"), "{:?}", package.tests);
    let mut named = 0;
    for path in package::below(&folder.path().join("tests")).unwrap() {
        for other in package::named(&path, &fs::read_to_string(&path).unwrap()) {
            assert!(other.is_file(), "{} names {}", path.display(), other.display());
            named += 1;
        }
    }
    assert!(named > 5, "{named} files are named by others");
}

/// A test crate runs what it names and what that needs; only where something of that is broken can it notice.
#[test]
fn what_a_test_crate_runs_is_known() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pure-parts");
    let package = package::make(&root(), &folder).unwrap_or_else(|why| panic!("{why}"));
    let runs = |test: &str| package.runs[test].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(runs("lease"), ["lease", "model"]);
    assert_eq!(runs("mesh"), ["lease", "mesh", "model"]);
    assert!(["engine", "failover", "model"].iter().all(|part| package.runs["failover"].contains(*part)));
    assert!(!package.runs["failover"].contains("mesh"));
    // Once more: nothing is written that is as it should be, or everything would be built anew.
    let written = |path: &str| fs::metadata(folder.join(path)).and_then(|file| file.modified()).unwrap();
    let before = (written("src/engine/mod.rs"), written("Cargo.toml"));
    package::make(&root(), &folder).unwrap();
    assert_eq!((written("src/engine/mod.rs"), written("Cargo.toml")), before);
}

#[test]
fn the_table_is_read_as_it_was_written() {
    let defect = |name: &str| Defect {
        name: name.into(),
        part: "lease".into(),
        sentence: "It breaks.".into(),
        file: "src/lease/mod.rs".into(),
        was: vec!["a".into()],
        becomes: Vec::new(),
    };
    let crates: Vec<String> = ["unit", "lease"].map(Into::into).to_vec();
    let caught = vec![("unit".to_owned(), Verdict::Passed), ("lease".to_owned(), Verdict::Failed(vec!["x::y".into()]))];
    let missed = vec![("unit".to_owned(), Verdict::Passed), ("lease".to_owned(), Verdict::Passed)];
    let rows = BTreeMap::from([("one".to_owned(), table::row(&caught)), ("two".to_owned(), table::row(&missed))]);
    let text = table::write(&[defect("one"), defect("two")], &crates, &rows);
    assert_eq!(table::read(&text), rows, "{text}");
    assert!(text.contains("1 of 2 defects are caught") && text.contains("| `two` | It breaks. | · | · | **nobody** |"));
    assert!(text.contains("`lease` catches 1, 1 of them alone"));
}
