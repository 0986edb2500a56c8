//! `coroner arbiter`.

use std::path::PathBuf;

use clap::ValueEnum;

use super::exit::{Code, Exit, Failure};

/// Run the arbiter.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file.
    #[arg(short, long, env = "CORONER_CONFIG", default_value = "/etc/coroner/coroner.yaml", value_name = "FILE")]
    pub(super) config: PathBuf,
    /// How to log. The level is set with RUST_LOG.
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
    serve(&args)
}

fn serve(args: &Args) -> Result<Exit, Failure> {
    let Args { config, log, check_only } = args;
    let text = format!("The arbiter is not part of this build ({}, {log:?}, {check_only}).", config.display());
    Err(Failure::new(Code::Internal, text))
}
