//! The log: text, JSON, or the journal with its fields.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// The journal if standard error is connected to it, else text.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
    /// The systemd journal, each field as its own.
    Journald,
}

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be parsed.
    #[error("`{filter}` is not a log filter ({reason}): write a level such as `info`, or `coroner=debug,info`")]
    Filter {
        /// What was given.
        filter: String,
        /// Why not.
        reason: String,
    },
    /// The journal's socket cannot be opened.
    #[error("the journal cannot be reached ({0}): use `text` or `json`")]
    Journald(#[source] io::Error),
    /// A log was set up before in this process.
    #[error("the log is already set up")]
    Twice,
}

/// The level when neither the flag nor `CORONER_LOG` says one.
const DEFAULT_FILTER: &str = "info";

/// The environment variable that holds the filter.
pub const FILTER_VARIABLE: &str = "CORONER_LOG";

/// Sets up the log of this process: `filter` first, then the environment, then `info`. Lines go to standard error, so
/// that standard output stays for answers.
///
/// # Errors
/// The filter is wrong, the journal is out of reach, or there is a log already.
pub fn init(format: Format, filter: Option<&str>) -> Result<(), LogError> {
    let environment = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.is_empty());
    let layer = layer(format)?.with_filter(parse(filter.or(environment.as_deref()).unwrap_or(DEFAULT_FILTER))?);
    Registry::default().with(layer).try_init().map_err(|_| LogError::Twice)
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| LogError::Filter { filter: filter.to_owned(), reason: error.to_string() })
}

fn layer(format: Format) -> Result<Box<dyn Layer<Registry> + Send + Sync>, LogError> {
    let text = || {
        tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
    };
    Ok(match format {
        // systemd sets JOURNAL_STREAM when standard error is connected to the journal.
        Format::Auto if std::env::var_os("JOURNAL_STREAM").is_some() => {
            tracing_journald::layer().map_or_else(|_| text().boxed(), Layer::boxed)
        }
        Format::Auto | Format::Text => text().boxed(),
        Format::Json => tracing_subscriber::fmt::layer().with_writer(io::stderr).json().flatten_event(true).boxed(),
        Format::Journald => tracing_journald::layer().map_err(LogError::Journald)?.boxed(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_explained() {
        let error = parse("coroner=shout").unwrap_err().to_string();
        assert!(error.contains("coroner=shout") && error.contains("info"), "{error}");
        assert!(parse("coroner=debug,info").is_ok());
    }

    #[test]
    fn every_format_but_the_journal_builds_anywhere() {
        for format in [Format::Auto, Format::Text, Format::Json] {
            assert!(layer(format).is_ok());
        }
    }
}
