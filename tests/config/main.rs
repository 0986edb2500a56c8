//! Are good files accepted and bad ones explained?
//!
//! `good/*.yaml` and everything under `config/` must load. `bad/<the-mistake>.yaml` must be refused with exactly what
//! stands in the `.stderr` beside it; `UPDATE_GOLDEN=1` writes those files anew, to be read before they are committed.

#![allow(
    clippy::unwrap_used,
    clippy::type_complexity,
    reason = "a test fails by panicking, and its tables are its own"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use coroner::config::{Config, Environment, Mistakes, lint, load_text, schema_json};
use proptest::prelude::*;

mod agents;

/// Every secret exists, and has a value that must appear nowhere.
struct Given;

const SECRET: &str = "tops3cret-tops3cret";

impl Environment for Given {
    fn var(&self, name: &str) -> Option<String> {
        (!name.contains("MISSING")).then(|| format!("{SECRET}-{name}"))
    }
    fn read(&self, path: &Path) -> Result<String, String> {
        let path = path.display();
        if path.to_string().contains("missing") { Err("no such file".into()) } else { Ok(format!("{SECRET}-{path}\n")) }
    }
    fn credentials_directory(&self) -> Option<PathBuf> {
        Some("/run/credentials/coroner".into())
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn yaml_files(name: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{name} holds no YAML file");
    files
}

fn read(path: &Path) -> (String, Result<Config, Mistakes>) {
    let text = fs::read_to_string(path).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let config = load_text(&text, &name, &Given);
    (text, config)
}

#[test]
fn good_files_load() {
    for path in ["tests/config/good", "config", "config/examples"].into_iter().flat_map(yaml_files) {
        if let Err(mistakes) = read(&path).1 {
            panic!("{}:\n{mistakes}", path.display());
        }
    }
}

#[test]
fn what_we_hand_out_gives_no_warnings() {
    for path in ["config", "config/examples"].into_iter().flat_map(yaml_files) {
        let config = read(&path).1.unwrap();
        assert_eq!(config.warnings, [""; 0], "{}", path.display());
        assert_eq!(lint::lint(&config), [], "{}", path.display());
    }
}

#[test]
fn bad_files_are_explained() {
    let mut wrong = Vec::new();
    for path in yaml_files("tests/config/bad") {
        let golden = path.with_extension("stderr");
        let (text, config) = read(&path);
        let said = match config {
            Ok(_) => "accepted\n".to_owned(),
            Err(mistakes) => format!("{mistakes}\n"),
        };
        assert!(!said.contains(SECRET), "{}: a secret is printed:\n{said}", path.display());
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &said).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if said != expected {
            wrong.push(format!("{}\n--- expected\n{expected}--- said\n{said}", path.display()));
        }
        // `# expect 3:7` in the file says where each mistake is, so that a golden file cannot drift to nonsense.
        let places: BTreeSet<&str> =
            text.lines().filter_map(|line| line.split("# expect ").nth(1)).flat_map(str::split_whitespace).collect();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let found: BTreeSet<String> = said
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("{file}:"))?.split(": error").next().map(Into::into))
            .collect();
        if found.iter().map(String::as_str).collect::<BTreeSet<_>>() != places {
            wrong.push(format!("{}: the file expects {places:?}, and was told\n{said}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(yaml_files("tests/config/bad").len() >= 90);
}

#[test]
fn the_annotated_reference_and_the_examples_fit_the_schema() {
    let schema = schema_json();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for path in ["config", "config/examples"].into_iter().flat_map(yaml_files) {
        let json = as_json(&fs::read_to_string(&path).unwrap());
        let errors: Vec<_> = validator.iter_errors(&json).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{}:\n{}", path.display(), errors.join("\n"));
    }
}

#[test]
fn the_schema_knows_typos() {
    let validator = jsonschema::validator_for(&schema_json()).unwrap();
    let mut json = as_json(&fs::read_to_string(folder("config/examples/redis.yaml")).unwrap());
    assert!(validator.is_valid(&json));
    json["clusters"]["orders"]["falover"] = serde_json::json!({});
    assert!(!validator.is_valid(&json));
}

/// An editor's view of a YAML file: by another path than ours.
fn as_json(text: &str) -> serde_json::Value {
    serde_saphyr::from_str(text).unwrap()
}

#[test]
fn the_same_meaning_has_the_same_hash() {
    let text = fs::read_to_string(folder("config/examples/redis.yaml")).unwrap();
    let hash = |text: &str| load_text(text, "f.yaml", &Given).unwrap().policy.hash;
    let first = hash(&text);
    assert_eq!(first.len(), 16);
    assert_eq!(first, hash(&text.replace("5s", "5000ms").replace("# ", "#  ")));
    assert_ne!(first, hash(&text.replace("silent: 5s", "silent: 6s")));
}

#[test]
fn no_secret_is_in_the_debug_text_of_a_configuration() {
    let (_, config) = read(&folder("config/examples/redis.yaml"));
    assert!(!format!("{config:?}").contains(SECRET));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_loader_panic(text in "\\PC{0,200}") {
        let _ = load_text(&text, "f.yaml", &Given).map_err(|m| m.to_string());
    }

    #[test]
    fn no_yaml_like_text_makes_the_loader_panic(text in "([a-z]{1,4}|[:\\-{}\\[\\],&*!|>'\"#\\n \t]|\\$\\{|: |\\n  |- |<<){0,80}") {
        let _ = load_text(&text, "f.yaml", &Given).map_err(|m| m.to_string());
    }

    /// A whole file with one word replaced: past the parser, into everything behind it.
    #[test]
    fn no_broken_word_makes_the_loader_panic(
        at in any::<prop::sample::Index>(),
        with in prop::sample::select(vec![
            "", "~", "0", "-1", "1e308", "99999999999999999999", "true", "x", "[]", "{}", "[x, {y: z}]", "{a: {b: c}}",
            "0s", "1us", "500000d", "majority", "101%", "0 of 0", "9 of 3", "${env:MISSING}", "${env:X}", "&a [*a]", "\"\\u0000\"",
            "ok", "all", "for", "primary", "nodes", "member", "é", "\t", "|", ">", "'",
        ]),
    ) {
        let text = include_str!("../../config/coroner.yaml");
        let words: Vec<(usize, &str)> = text
            .split(|c: char| c.is_whitespace() || "{}[],:".contains(c))
            .filter(|w| !w.is_empty())
            .map(|w| (w.as_ptr() as usize - text.as_ptr() as usize, w))
            .collect();
        let (offset, word) = *at.get(&words);
        let broken = format!("{}{with}{}", &text[..offset], &text[offset + word.len()..]);
        let _ = load_text(&broken, "f.yaml", &Given).map_err(|m| m.to_string());
    }
}
