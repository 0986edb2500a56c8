//! `coroner rejoin`.

use super::{
    Context,
    exit::{Exit, Failure},
    follow,
};
use crate::model::Command;

/// Bring a quarantined member back as a standby. What it has that the new primary never got is counted first.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The member.
    member: String,
    /// The cluster. May be left out if there is only one.
    cluster: Option<String>,
    #[command(flatten)]
    wait: follow::Wait,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let client = context.client()?;
    let cluster = client.cluster(args.cluster.as_deref()).await?;
    let reply = client.command(&Command::Rejoin { cluster, member: args.member.into() }).await?;
    context.reply_and_follow(&client, &reply, &args.wait).await
}
