//! `coroner check`.

use std::path::PathBuf;

use super::{
    Context,
    exit::{Code, Exit, Failure},
};

/// Check a configuration file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file.
    #[arg(default_value = "/etc/coroner/coroner.yaml", env = "CORONER_CONFIG")]
    file: PathBuf,
    /// Warnings and what the linter finds are errors too.
    #[arg(long)]
    strict: bool,
}

pub(super) fn run(_context: &Context, args: &Args) -> Result<Exit, Failure> {
    Err(Failure::new(Code::Config, format!("{} {}", args.file.display(), args.strict)))
}
