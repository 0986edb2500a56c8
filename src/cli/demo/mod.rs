//! `coroner demo`.

use super::{
    Context,
    exit::{Exit, Failure},
};

pub mod node;
pub mod sender;

/// Show a failover on this machine.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) async fn run(_: &Context, _: Args) -> Result<Exit, Failure> {
    Ok(Exit::OK)
}
