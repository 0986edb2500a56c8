//! A program.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Probe, Subject, number};
use crate::{
    model::{Fact, Failure, FailureKind, Outcome, policy::SignalKind},
    sys::{
        clock::Stopwatch,
        command::{Ended, Run},
        hook,
    },
};

/// Runs a program without a shell. Exit 0 is success, anything else a wrong answer; a program that cannot be
/// started is trouble of our own.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// Program and arguments. `{host}`, `{port}`, `{member}` are put in.
    pub command: Vec<String>,
    /// More environment.
    pub environment: BTreeMap<String, String>,
    /// What its output means. Default `ok`: nothing.
    pub output: Output,
}

/// What a program's first line means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Nothing: the exit code speaks.
    #[default]
    Ok,
    /// A number.
    Value,
    /// A text.
    Text,
}

impl Exec {
    /// What kind of facts it brings.
    #[must_use]
    pub const fn signal_kind(&self) -> SignalKind {
        match self.output {
            Output::Ok => SignalKind::Check,
            Output::Value => SignalKind::Value,
            Output::Text => SignalKind::Text,
        }
    }
}

impl Output {
    /// The fact in what a program printed or a file holds.
    pub(super) fn read(self, bytes: &[u8], latency: Duration) -> Result<Fact, Failure> {
        if self == Self::Ok {
            return Ok(Fact::Ok { latency });
        }
        let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
        let line = std::str::from_utf8(line)
            .map_err(|_| Failure::new(FailureKind::Parse, "the first line is not UTF-8"))?
            .trim();
        match self {
            Self::Ok => Ok(Fact::Ok { latency }),
            Self::Value => number(line).map(Fact::Value),
            Self::Text => Ok(Fact::Text(line.chars().take(TEXT_MAX).collect())),
        }
    }
}

/// No text of a fact is longer, in characters.
const TEXT_MAX: usize = 200;

/// The probe at work.
pub struct ExecProbe {
    config: Exec,
}

impl ExecProbe {
    /// Makes it usable.
    ///
    /// # Errors
    /// There is no program.
    pub fn new(config: &Exec) -> Result<Self, String> {
        if config.command.first().is_none_or(String::is_empty) {
            return Err("exec: `command` is empty; write the program and its arguments as a list".into());
        }
        Ok(Self { config: config.clone() })
    }
}

#[async_trait]
impl Probe for ExecProbe {
    async fn look(&self, subject: &Subject, timeout: Duration) -> Outcome {
        let watch = Stopwatch::start();
        let words = self.config.command.iter().map(|word| subject.expand(word));
        let environment = hook::target_environment("probe", &subject.target(), &self.config.environment);
        let output = Run::new(words, timeout).envs(environment).output().await;
        let kind = match output.ended {
            Ended::Exited(0) => {
                return match self.config.output.read(&output.stdout, watch.elapsed()) {
                    Ok(fact) => Outcome::Fact(fact),
                    Err(failure) => Outcome::Failure(failure),
                };
            }
            // What a shell says of a program that it did not find or may not start.
            Ended::NotStarted(_) | Ended::Exited(126 | 127) => FailureKind::Local,
            Ended::TimedOut(_) => FailureKind::TimedOut,
            Ended::Exited(_) | Ended::Signalled(_) => FailureKind::WrongAnswer,
        };
        Outcome::Failure(Failure::new(kind, output.describe()))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{SHORT, SOON, fact, kind, subject},
        *,
    };

    async fn look(script: &str, output: Output, limit: Duration) -> Outcome {
        let command = vec!["sh".into(), "-c".into(), script.into(), "probe".into(), "{host}".into(), "{port}".into()];
        let config = Exec { command, output, ..Exec::default() };
        ExecProbe::new(&config).unwrap().look(&subject("10.0.0.1:6379"), limit).await
    }

    #[tokio::test]
    async fn the_exit_code_speaks_and_the_first_line_if_asked() {
        assert!(matches!(fact(look("exit 0", Output::Ok, SOON).await), Fact::Ok { .. }));
        assert_eq!(fact(look("echo ' 1.5 '; echo 2", Output::Value, SOON).await), Fact::Value(1.5));
        let words = fact(look("echo \"$1 $2 $CORONER_MEMBER\"", Output::Text, SOON).await);
        assert_eq!(words, Fact::Text("10.0.0.1 6379 broker-a".into()));
        let cases = [
            ("exit 3", Output::Ok, FailureKind::WrongAnswer),
            ("kill -9 $$", Output::Ok, FailureKind::WrongAnswer),
            ("no-such-program", Output::Ok, FailureKind::Local),
            ("echo NaN", Output::Value, FailureKind::Parse),
            ("echo many", Output::Value, FailureKind::Parse),
            ("true", Output::Value, FailureKind::Parse),
            ("printf '\\377\\376\\n'", Output::Text, FailureKind::Parse),
        ];
        for (script, output, expected) in cases {
            assert_eq!(kind(look(script, output, SOON).await), expected, "{script}");
        }
    }

    /// H1, H14: a program that hangs or floods is bounded.
    #[tokio::test]
    async fn a_program_is_bounded_in_time_and_words() {
        assert_eq!(kind(look("sleep 60", Output::Ok, SHORT).await), FailureKind::TimedOut);
        let flood = look("yes | head -c 50000000", Output::Text, SOON).await;
        assert_eq!(fact(flood), Fact::Text("y".into()));
        let long = look("head -c 100000 /dev/zero | tr '\\0' x", Output::Text, SOON).await;
        assert!(matches!(fact(long), Fact::Text(text) if text.len() == TEXT_MAX));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_our_own_trouble() {
        let config = Exec { command: vec!["/nonexistent/probe".into()], ..Exec::default() };
        let outcome = ExecProbe::new(&config).unwrap().look(&subject(""), SOON).await;
        assert_eq!(kind(outcome), FailureKind::Local);
        assert!(ExecProbe::new(&Exec::default()).is_err());
    }
}
