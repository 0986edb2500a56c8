//! A program of the operator's; the report as JSON on its standard input.
//!
//! *What it gets*: one JSON document, the report, on standard input, and `CORONER_KEY`, `CORONER_SUMMARY`,
//! `CORONER_RESOLVED` (`true` or `false`) in its environment. No shell; it is killed at the deadline, with everything
//! in its process group. Exit 0: taken. Exit 65: this report will never be taken. Anything else: tried again.

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Reporter, SendError, render};
use crate::{
    model::Report,
    sys::command::{Ended, Run},
};

/// The exit code that says that the data is wrong (`EX_DATAERR` of sysexits).
const REFUSED: i32 = 65;

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exec {
    /// Program and arguments; no shell.
    pub command: Vec<String>,
}

impl Exec {
    pub(super) fn build(&self) -> Result<Box<dyn Reporter>, String> {
        match self.command.first() {
            Some(program) if !program.is_empty() => Ok(Box::new(self.clone())),
            _ => Err("`command` is empty: write the program and its arguments as a list".into()),
        }
    }
}

#[async_trait]
impl Reporter for Exec {
    fn label(&self) -> String {
        // Arguments may hold secrets; the program does not.
        format!("exec {}", self.command.first().map_or("", String::as_str))
    }

    async fn send(&self, report: &Report, deadline: Duration) -> Result<(), SendError> {
        let json = serde_json::to_vec(report).map_err(|e| SendError::never(format!("the report is not JSON: {e}")))?;
        let output = Run::new(self.command.iter().cloned(), deadline)
            .stdin(json)
            .env("CORONER_KEY", &report.key)
            .env("CORONER_SUMMARY", render::summary(report))
            .env("CORONER_RESOLVED", report.resolved.to_string())
            .output()
            .await;
        match output.ended {
            Ended::Exited(0) => Ok(()),
            Ended::Exited(REFUSED) => Err(SendError::never(output.describe())),
            _ => Err(SendError::later(output.describe())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    fn sh(script: &str) -> Exec {
        Exec { command: vec!["sh".into(), "-c".into(), script.into()] }
    }

    async fn send(script: &str, deadline: Duration) -> Result<(), SendError> {
        sh(script).send(&samples::incident_report(), deadline).await
    }

    #[tokio::test]
    async fn the_program_reads_the_report() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("report");
        let script = format!("cat > {0}; printf '%s' \"$CORONER_KEY\" > {0}.key", file.display());
        send(&script, Duration::from_secs(20)).await.unwrap();
        let read: Report = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(read, samples::incident_report());
        assert_eq!(std::fs::read_to_string(file.with_extension("key")).unwrap(), read.key);
    }

    #[tokio::test]
    async fn how_it_ends_says_whether_to_try_again() {
        let long = Duration::from_secs(20);
        assert!(send("echo no network >&2; exit 1", long).await.unwrap_err().retryable);
        assert!(!send("exit 65", long).await.unwrap_err().retryable);
        assert!(send("sleep 61", Duration::from_millis(100)).await.unwrap_err().retryable);
        let missing = Exec { command: vec!["/no/such/program".into()] };
        assert!(missing.send(&samples::incident_report(), long).await.unwrap_err().retryable);
        assert!(Exec::default().build().is_err());
        assert_eq!(sh("echo secret").label(), "exec sh");
    }
}
