//! Is the layering kept? Reads the source.
//!
//! `engine`, `failover` and `model` are pure: no runtime, no socket, no file, no clock. An edge knows `model`, `sys` and
//! its own folder, and nothing else of ours. Imports run one way. Only these tests hold that; the compiler would not.

use std::{
    fs,
    path::{Path, PathBuf},
};

const EDGES: [&str; 7] = ["broker", "fence", "probe", "redirect", "registry", "report", "store"];
const PARTS: [&str; 27] = [
    "agent",
    "api",
    "arbiter",
    "backtest",
    "broker",
    "cli",
    "config",
    "elect",
    "election",
    "engine",
    "failover",
    "fence",
    "journal",
    "lease",
    "mesh",
    "model",
    "probe",
    "redirect",
    "registry",
    "relay",
    "report",
    "sim",
    "stdio",
    "store",
    "sys",
    "telemetry",
    "trial",
];

/// What a part may import of ours. A part that is not listed may not exist.
fn allowed(part: &str) -> &'static [&'static str] {
    match part {
        "model" => &["model"],
        "failover" => &["failover", "model"],
        "engine" => &["engine", "failover", "model"],
        "trial" => &["trial", "engine", "model"],
        "election" => &["election", "lease", "model", "registry"],
        "elect" => &["elect", "election", "model", "registry", "sys"],
        "relay" => &["relay", "model", "sys"],
        "lease" => &["lease", "model"],
        "mesh" => &["mesh", "lease", "model"],
        "journal" => &["journal", "model"],
        "backtest" => &["backtest", "engine", "journal", "model"],
        "stdio" => &["stdio"],
        "sim" => &["sim", "engine", "failover", "lease", "model"],
        "sys" => &["sys", "model"],
        "config" => {
            &["config", "agent", "lease", "mesh", "model", "broker", "fence", "probe", "redirect", "report", "sys"]
        }
        "telemetry" => &["telemetry", "model", "arbiter", "report", "sys"],
        "api" => &["api", "model", "arbiter", "config", "report", "store", "sys", "telemetry"],
        "agent" => &["agent", "broker", "config", "fence", "lease", "mesh", "model", "probe", "sys", "telemetry"],
        "arbiter" => &PARTS,
        "cli" => &PARTS,
        _ => &[],
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the source is there") {
        let path = entry.expect("a directory can be read").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The lines that are code: no comments, and nothing behind the unit tests' door.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end].lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn part_of(path: &Path) -> String {
    let relative = path.strip_prefix(root()).expect("a path below src");
    let first = relative.components().next().expect("a name").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Test modules in files of their own may use what they like.
fn is_test_file(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests" || stem.to_string_lossy().ends_with("_tests"))
        || path.components().any(|c| c.as_os_str() == "tests")
}

fn complain(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

#[test]
fn the_decision_is_pure() {
    let banned = [
        "tokio",
        "hyper",
        "reqwest",
        "nix::",
        "rustix",
        "std::fs",
        "std::net",
        "std::thread",
        "std::process",
        "std::env",
        "SystemTime",
        "Instant",
        "sqlx",
        "tracing",
        "redis::",
    ];
    let mut found = Vec::new();
    for part in ["election", "engine", "failover", "lease", "mesh", "model", "sim", "stdio", "trial"] {
        for path in files(&root().join(part)) {
            let text = fs::read_to_string(&path).expect("source is text");
            for (number, line) in code(&text) {
                found.extend(
                    banned
                        .iter()
                        .filter(|word| line.contains(**word))
                        .map(|word| format!("{}:{}: {word}", path.display(), number + 1)),
                );
            }
        }
    }
    complain(
        found,
        "engine, failover, lease, mesh, model, sim, stdio and trial know no runtime, socket, file or clock",
    );
}

#[test]
fn imports_run_one_way() {
    let mut found = Vec::new();
    for path in files(&root()).into_iter().filter(|p| !is_test_file(p)) {
        let part = part_of(&path);
        // What begins a program may begin with anything.
        if ["main", "lib", "bin"].contains(&part.as_str()) {
            continue;
        }
        assert!(PARTS.contains(&part.as_str()), "{} is a new part: say here what it may import", path.display());
        let own = [part.as_str(), "model", "sys"];
        // One of the broker kinds is our own broker: it is asked in its own words.
        let broker = ["broker", "model", "relay", "sys"];
        let may: &[&str] = match part.as_str() {
            "broker" => &broker,
            // What several arbiters share is kept in a registry.
            "store" => &["store", "model", "registry", "sys"],
            edge if EDGES.contains(&edge) => &own,
            other => allowed(other),
        };
        let text = fs::read_to_string(&path).expect("source is text");
        let mut is_use_of_crate = false;
        for (number, line) in code(&text) {
            // `use crate::{ a::…, b::… };` spreads over lines; each of its names at depth one is a part.
            let trimmed = line.trim_start();
            if trimmed.starts_with("use crate::{") {
                is_use_of_crate = true;
            }
            let mut named: Vec<&str> =
                line.match_indices("crate::").map(|(at, word)| &line[at + word.len()..]).collect();
            if is_use_of_crate && line.starts_with("    ") && !line.starts_with("     ") {
                named.push(trimmed);
            }
            if is_use_of_crate && line.contains("};") {
                is_use_of_crate = false;
            }
            for rest in named {
                let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if PARTS.contains(&word.as_str()) && !may.contains(&word.as_str()) {
                    found.push(format!("{}:{}: {part} imports {word}", path.display(), number + 1));
                }
            }
        }
    }
    complain(found, "imports run main → cli → arbiter → engine, edges, store; an edge knows model and sys only");
}

#[test]
fn the_clock_is_read_in_one_place() {
    let mut found = Vec::new();
    for path in files(&root()) {
        let text = fs::read_to_string(&path).expect("source is text");
        let may = path.ends_with("sys/clock.rs") || path.ends_with("cli/demo/clock.rs");
        for (number, line) in code(&text) {
            if line.contains("clock_gettime(") && !may {
                found.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    complain(found, "clocks are read in sys::clock");
}

#[test]
fn no_file_grows_beyond_reading() {
    let long: Vec<String> = files(&root())
        .into_iter()
        .filter_map(|path| {
            let lines = fs::read_to_string(&path).expect("source is text").lines().count();
            (lines > 900).then(|| format!("{}: {lines} lines", path.display()))
        })
        .collect();
    complain(long, "a newcomer has to find the one thing to change: split files over 900 lines");
}
