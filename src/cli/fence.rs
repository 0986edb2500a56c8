//! `coroner fence confirm`.

use clap::Subcommand;

use super::{
    Context, confirm,
    exit::{Exit, Failure},
};
use crate::model::Command;

/// What a person says about fences.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say that you have checked with your own eyes that the old primary is stopped. If it is not, there will be
    /// two primaries.
    Confirm {
        /// The cluster. May be left out if there is only one.
        cluster: Option<String>,
        /// What you checked, in your words; it stands in the incident.
        #[arg(long)]
        checked: String,
        #[command(flatten)]
        yes: confirm::Yes,
    },
}

pub(super) async fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let Verb::Confirm { cluster, checked, yes } = args.verb;
    let client = context.client()?;
    let cluster = client.cluster(cluster.as_deref()).await?;
    let what =
        format!("You vouch that the old primary of `{cluster}` is stopped and stays so; a standby will be promoted");
    confirm::confirm(yes, &what, cluster.as_str())?;
    context.reply(&client.command(&Command::FenceConfirm { cluster, checked }).await?)
}
