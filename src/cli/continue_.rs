//! `coroner continue`.

use super::{
    Context,
    exit::{Exit, Failure},
    follow,
};
use crate::model::Command;

/// Let a held incident try again from where it stands.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster. May be left out if there is only one.
    cluster: Option<String>,
    /// Promote whatever the loss.
    #[arg(long)]
    accept_loss: bool,
    #[command(flatten)]
    wait: follow::Wait,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let client = context.client()?;
    let cluster = client.cluster(args.cluster.as_deref()).await?;
    let reply = client.command(&Command::Continue { cluster, accept_loss: args.accept_loss }).await?;
    context.reply_and_follow(&client, &reply, &args.wait).await
}
