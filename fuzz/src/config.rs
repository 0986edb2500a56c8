//! Any text as configuration: refused with a place for each mistake, or loaded so that it means one thing.

use std::path::{Path, PathBuf};

use coroner::{
    config::{Config, Environment, Mistakes, lint, load_text},
    engine::Engine,
    failover::deadline_of,
    model::{Action, Policy, Time, WallAnchor, record::Recovered},
};

use super::Reached;

/// Every secret exists, and has a value that must appear nowhere.
struct Given;

const SECRET: &str = "tops3cret-tops3cret";

impl Environment for Given {
    fn var(&self, name: &str) -> Option<String> {
        (!name.contains("MISSING")).then(|| SECRET.to_owned())
    }
    fn read(&self, _: &Path) -> Result<String, String> {
        Ok(SECRET.to_owned())
    }
    fn credentials_directory(&self) -> Option<PathBuf> {
        Some("/credentials".into())
    }
}

pub fn run(input: &[u8]) -> Reached {
    let Ok(text) = std::str::from_utf8(input) else { return Reached::Refused };
    let load = || load_text(text, "fuzz.yaml", &Given);
    match (load(), load()) {
        (Err(mistakes), Err(again)) => {
            assert_eq!(mistakes, again, "the same text has other mistakes the second time");
            check_mistakes(text, &mistakes);
            Reached::Refused
        }
        (Ok(config), Ok(again)) => {
            assert_eq!(config.policy, again.policy, "the same text means something else the second time");
            assert_eq!(config.warnings, again.warnings);
            check_config(text, &config);
            Reached::Taken
        }
        (one, other) => panic!("loaded once and refused once: {:?}, {:?}", one.err(), other.err()),
    }
}

/// Every mistake has a place in the text, and words; no secret is among them.
pub fn check_mistakes(text: &str, mistakes: &Mistakes) {
    assert!(!mistakes.list.is_empty(), "refused without a mistake");
    // YAML breaks lines at a lone carriage return, too.
    let lines = text.split(['\n', '\r']).count();
    for mistake in &mistakes.list {
        let (line, column, end) = (mistake.line as usize, mistake.column, mistake.end_column);
        assert!((1..=lines + 1).contains(&line), "line {line} of {lines}: {mistake:?}");
        assert!(column >= 1 && end > column, "no place in its line: {mistake:?}");
        assert!(!mistake.message.trim().is_empty(), "no words: {mistake:?}");
        assert!(mistake.message != "the file could not be understood", "nothing was noted: {mistake:?}");
    }
    says_no_secret(text, &mistakes.to_string());
}

fn says_no_secret(text: &str, said: &str) {
    assert!(text.contains(SECRET) || !said.contains(SECRET), "a secret is printed: {said}");
}

/// What was loaded can be decided by, and comes back from the store as it was.
fn check_config(text: &str, config: &Config) {
    for warning in &config.warnings {
        says_no_secret(text, warning);
    }
    let policy = &config.policy;
    // An incident keeps the policy that it began with: that is this text.
    let kept = serde_json::to_string(policy).expect("a policy can be written");
    let back: Policy = serde_json::from_str(&kept).expect("what was written can be read");
    assert_eq!(&back, policy, "kept with an incident it means something else");
    let _ = lint::lint(config);
    for cluster in policy.clusters.values() {
        for action in [
            Action::Fence { level: 0, method: 0 },
            Action::AwaitLease,
            Action::CatchUp { upto: None, exact_from: None },
        ] {
            let _ = deadline_of(&action, cluster);
        }
    }
    let now = Time::from_millis(1_000_000);
    let mut engine =
        Engine::new(now, WallAnchor { boot: now, unix_ms: 1_700_000_000_000 }, 1, policy.clone(), Recovered::default());
    for _ in 0..3 {
        while engine.poll_effect().is_some() {}
        let Some(next) = engine.poll_timeout() else { break };
        assert!(next > Time::ZERO);
        engine.handle_timeout(next.max(now));
    }
    let _ = engine.status(now);
}
