//! A file: its presence, its age, its content.

use std::{
    collections::HashMap,
    fs,
    io::{ErrorKind, Read as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{ANSWER_MAX, Probe, Subject, exec, within};
use crate::{
    model::{Fact, Failure, FailureKind, Outcome, Span, policy::SignalKind, time::human},
    sys::clock::Stopwatch,
};

/// Looks at a file on this host.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// The path. `{member}` is put in.
    pub path: String,
    /// It must have been changed within this time, else it is a wrong answer.
    pub younger_than: Option<Span>,
    /// It must contain this text, else it is a wrong answer.
    pub contains: Option<String>,
    /// What its first line means. Default `ok`: nothing.
    pub content: exec::Output,
}

impl File {
    /// What kind of facts it brings.
    #[must_use]
    pub const fn signal_kind(&self) -> SignalKind {
        match self.content {
            exec::Output::Ok => SignalKind::Check,
            exec::Output::Value => SignalKind::Value,
            exec::Output::Text => SignalKind::Text,
        }
    }
}

/// The probe at work.
pub struct FileProbe {
    config: File,
    /// One look at a time: a file on storage that hangs holds one thread, not one more with every period.
    turn: Arc<Semaphore>,
    seen: Mutex<HashMap<String, Seen>>,
}

/// A change that was seen, and how old it was then. From there on the age is counted on our own clock, so that a
/// wall clock that is set does not make a file old.
#[derive(Clone, Copy)]
struct Seen {
    changed: SystemTime,
    age_then: Duration,
    since: Stopwatch,
}

impl FileProbe {
    /// Makes it usable.
    ///
    /// # Errors
    /// There is no path.
    pub fn new(config: &File) -> Result<Self, String> {
        if config.path.is_empty() {
            return Err("file: `path` is missing".into());
        }
        Ok(Self { config: config.clone(), turn: Arc::new(Semaphore::new(1)), seen: Mutex::default() })
    }

    async fn read(&self, subject: &Subject) -> Result<Fact, Failure> {
        let watch = Stopwatch::start();
        let path = subject.expand(&self.config.path);
        let needs_content = self.config.contains.is_some() || self.config.content != exec::Output::Ok;
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else {
            return Err(Failure::new(FailureKind::Local, "the probe is stopping"));
        };
        let place = path.clone();
        let read = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            open(Path::new(&place), needs_content)
        });
        let (changed, content) =
            read.await.map_err(|_| Failure::new(FailureKind::Local, "the look at the file was broken off"))??;
        if let Some(limit) = self.config.younger_than {
            let age = self.age(&path, changed);
            if age > limit.0 {
                let text = format!("the file was last changed {} ago, more than {limit}", human(age));
                return Err(Failure::new(FailureKind::WrongAnswer, text));
            }
        }
        if let Some(text) = &self.config.contains
            && !content.windows(text.len().max(1)).any(|part| part == text.as_bytes())
        {
            return Err(Failure::new(FailureKind::WrongAnswer, format!("the file does not contain `{text}`")));
        }
        self.config.content.read(&content, watch.elapsed())
    }

    fn age(&self, path: &str, changed: SystemTime) -> Duration {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Seen {
            changed,
            // A change in the future is a clock that was set; then it counts from now.
            age_then: changed.elapsed().unwrap_or_default(),
            since: Stopwatch::start(),
        };
        let entry = seen.entry(path.to_owned()).or_insert_with(fresh);
        if entry.changed != changed {
            *entry = fresh();
        }
        entry.age_then + entry.since.elapsed()
    }
}

fn open(path: &Path, needs_content: bool) -> Result<(SystemTime, Vec<u8>), Failure> {
    let failed = |e: std::io::Error| {
        let kind = if e.kind() == ErrorKind::NotFound { FailureKind::NotFound } else { FailureKind::Local };
        Failure::new(kind, format!("{}: {e}", path.display()))
    };
    let about = fs::metadata(path).map_err(failed)?;
    if !about.is_file() {
        // A pipe would hold us for ever.
        return Err(Failure::new(FailureKind::Local, format!("{} is not a regular file", path.display())));
    }
    let mut content = Vec::new();
    if needs_content {
        fs::File::open(path).map_err(failed)?.take(ANSWER_MAX as u64).read_to_end(&mut content).map_err(failed)?;
    }
    Ok((about.modified().map_err(failed)?, content))
}

#[async_trait]
impl Probe for FileProbe {
    async fn look(&self, subject: &Subject, timeout: Duration) -> Outcome {
        within(timeout, self.read(subject)).await
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{SHORT, SOON, fact, kind, subject},
        *,
    };

    #[tokio::test]
    async fn presence_age_and_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broker-a.state");
        let config = File {
            path: dir.path().join("{member}.state").display().to_string(),
            younger_than: Some(Span(Duration::from_secs(60))),
            contains: Some("state".into()),
            content: exec::Output::Text,
        };
        let probe = FileProbe::new(&config).unwrap();
        let at = subject("");
        assert_eq!(kind(probe.look(&at, SOON).await), FailureKind::NotFound);
        fs::write(&path, "running\nstate: x\n").unwrap();
        assert_eq!(fact(probe.look(&at, SOON).await), Fact::Text("running".into()));
        fs::write(&path, "nothing").unwrap();
        assert_eq!(kind(probe.look(&at, SOON).await), FailureKind::WrongAnswer);
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(kind(probe.look(&at, SOON).await), FailureKind::WrongAnswer);
        fs::write(&path, b"\xff\xfe state").unwrap();
        assert_eq!(kind(probe.look(&at, SOON).await), FailureKind::Parse);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(kind(probe.look(&at, SOON).await), FailureKind::Local);
    }

    /// C1: a wall clock that jumps does not make a file old, nor young.
    #[test]
    fn c1_the_age_counts_on_our_own_clock_once_a_change_was_seen() {
        let probe = FileProbe::new(&File { path: "x".into(), ..File::default() }).unwrap();
        let future = SystemTime::UNIX_EPOCH + Duration::from_secs(32_503_680_000);
        assert!(probe.age("x", future) < SOON);
        assert!(probe.age("y", SystemTime::UNIX_EPOCH) > SOON);
        probe.seen.lock().unwrap().get_mut("y").unwrap().age_then = Duration::ZERO;
        assert!(probe.age("y", SystemTime::UNIX_EPOCH) < SOON, "the same change is not dated again");
    }

    #[tokio::test]
    async fn storage_that_hangs_holds_one_thread_only() {
        let probe = FileProbe::new(&File { path: "/proc/self/status".into(), ..File::default() }).unwrap();
        let _hung = Arc::clone(&probe.turn).acquire_owned().await.unwrap();
        assert_eq!(kind(probe.look(&subject(""), SHORT).await), FailureKind::TimedOut);
    }
}
