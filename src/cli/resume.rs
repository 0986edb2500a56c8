//! `coroner resume`.

use super::{
    Context,
    exit::{Exit, Failure},
};
use crate::model::Command;

/// Hands on again.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster. Default: all of them.
    cluster: Option<String>,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let command = Command::Resume { cluster: args.cluster.as_deref().map(Into::into) };
    context.reply(&context.client()?.command(&command).await?)
}
