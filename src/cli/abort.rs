//! `coroner abort`.

use super::{
    Context, confirm,
    exit::{Exit, Failure},
};
use crate::model::Command;

/// Give up an incident. Legal until the first fence act starts; after that it goes forward or is held.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster. May be left out if there is only one.
    cluster: Option<String>,
    #[command(flatten)]
    yes: confirm::Yes,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let client = context.client()?;
    let cluster = client.cluster(args.cluster.as_deref()).await?;
    confirm::confirm(args.yes, &format!("The incident of `{cluster}` will be given up"), cluster.as_str())?;
    context.reply(&client.command(&Command::Abort { cluster }).await?)
}
