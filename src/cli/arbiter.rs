//! `coroner arbiter`.

use std::path::PathBuf;

use clap::ValueEnum;

use super::exit::{Code, Exit, Failure};
use crate::{
    arbiter::{self, StartError},
    telemetry::log,
};

/// Run the arbiter.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file.
    #[arg(short, long, env = "CORONER_CONFIG", default_value = "/etc/coroner/coroner.yaml", value_name = "FILE")]
    pub(super) config: PathBuf,
    /// How to log. The level is set with CORONER_LOG.
    #[arg(long, value_enum, default_value_t = Log::Text)]
    pub(super) log: Log,
    /// Check the file and the store, say what would be run, and end.
    #[arg(long)]
    pub(super) check_only: bool,
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Log {
    /// Lines for people, on standard error.
    Text,
    /// JSON, one object a line, on standard error.
    Json,
    /// The systemd journal.
    Journald,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    let format = match args.log {
        Log::Text => log::Format::Text,
        Log::Json => log::Format::Json,
        Log::Journald => log::Format::Journald,
    };
    log::init(format, None).map_err(|error| Failure::new(Code::Usage, error.to_string()))?;
    if args.check_only {
        let config = arbiter::check(&args.config).await.map_err(failure)?;
        let clusters = config.policy.clusters.len();
        tracing::info!(clusters, policy = %config.policy.hash, "the arbiter could be run with this file");
        return Ok(Exit::OK);
    }
    arbiter::run(&args.config).await.map_err(failure)?;
    Ok(Exit::OK)
}

fn failure(error: StartError) -> Failure {
    let code = match &error {
        StartError::Config(_) | StartError::Build(_) => Code::Config,
        StartError::Store { .. } => Code::CannotCreate,
        StartError::Api(_) => Code::Unavailable,
        StartError::Signals(_) => Code::Internal,
    };
    Failure::new(code, error.to_string())
}
