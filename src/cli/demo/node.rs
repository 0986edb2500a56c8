//! later
use crate::cli::exit::{Exit, Failure};

/// later
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) async fn run(_: Args) -> Result<Exit, Failure> {
    Ok(Exit::OK)
}
