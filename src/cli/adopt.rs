//! `coroner adopt`.

use super::{
    Context, confirm,
    exit::{Exit, Failure},
};
use crate::model::Command;

/// Declare who is primary after somebody else changed it. Takes a new epoch.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The member that is primary.
    primary: String,
    /// The cluster. May be left out if there is only one.
    cluster: Option<String>,
    /// Why; it is recorded.
    #[arg(long, default_value = "asked for by hand")]
    reason: String,
    #[command(flatten)]
    yes: confirm::Yes,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let client = context.client()?;
    let cluster = client.cluster(args.cluster.as_deref()).await?;
    let what = format!("`{}` will be the primary of `{cluster}` in a new epoch", args.primary);
    confirm::confirm(args.yes, &what, cluster.as_str())?;
    let command = Command::Adopt { cluster, primary: args.primary.into(), reason: args.reason };
    context.reply(&client.command(&command).await?)
}
