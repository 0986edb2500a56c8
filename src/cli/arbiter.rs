//! `coroner arbiter`.

use std::path::PathBuf;

use super::exit::{Code, Exit, Failure};
use crate::{
    arbiter::{self, StartError},
    telemetry::log::{self, Format},
};

/// Run the arbiter.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file.
    #[arg(short, long, env = "CORONER_CONFIG", default_value = "/etc/coroner/coroner.yaml", value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Which of several arbiters this is, where they share a store. Default: `arbiter.instance` in the file, or the
    /// host's name.
    #[arg(long, value_name = "NAME")]
    pub(super) instance: Option<String>,
    /// How to log. The level is set with CORONER_LOG.
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    pub(super) log: Format,
    /// Check the file and the store, say what would be run, and end.
    #[arg(long)]
    pub(super) check_only: bool,
    /// End when standard input ends, so that it does not outlive the one who started it.
    #[arg(long, hide = true)]
    pub(super) until_stdin_ends: bool,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    log::init(args.log, None).map_err(|error| Failure::new(Code::Usage, error.to_string()))?;
    if args.check_only {
        let config = arbiter::check(&args.config, args.instance.as_deref()).await.map_err(failure)?;
        let clusters = config.policy.clusters.len();
        tracing::info!(clusters, policy = %config.policy.hash, "the arbiter could be run with this file");
        return Ok(Exit::OK);
    }
    if args.until_stdin_ends {
        super::end_with_stdin();
    }
    arbiter::run(&args.config, args.instance.as_deref()).await.map_err(failure)?;
    Ok(Exit::OK)
}

fn failure(error: StartError) -> Failure {
    let code = match &error {
        StartError::Config(_) | StartError::Build(_) | StartError::Mesh(_) => Code::Config,
        StartError::Store { .. } => Code::CannotCreate,
        StartError::Api(_) => Code::Unavailable,
        StartError::Signals(_) => Code::Internal,
    };
    Failure::new(code, error.to_string())
}
