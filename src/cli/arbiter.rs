//! `coroner arbiter`.

use std::path::PathBuf;

use super::exit::{Code, Exit, Failure};
use crate::telemetry::log::Format;

/// Run the arbiter.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file.
    #[arg(short, long, env = "CORONER_CONFIG", default_value = "/etc/coroner/coroner.yaml", value_name = "FILE")]
    pub(super) config: PathBuf,
    /// How to log. The level is set with RUST_LOG.
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    pub(super) log: Format,
    /// Check the file and the store, say what would be run, and end.
    #[arg(long)]
    pub(super) check_only: bool,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    serve(&args)
}

fn serve(args: &Args) -> Result<Exit, Failure> {
    let Args { config, log, check_only } = args;
    let text = format!("The arbiter is not part of this build ({}, {log:?}, {check_only}).", config.display());
    Err(Failure::new(Code::Internal, text))
}
