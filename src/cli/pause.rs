//! `coroner pause`.

use super::{
    Context,
    exit::{Exit, Failure},
};
use crate::model::{Command, Span};

/// Hands off: watch, judge, tell, do not act.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster. Default: all of them.
    cluster: Option<String>,
    /// Why; it is shown to everyone.
    #[arg(long)]
    reason: String,
    /// For how long. Without it, until `coroner resume`.
    #[arg(long = "for", value_parser = Span::parse, value_name = "DURATION")]
    for_: Option<Span>,
    /// Whose pause it is. Default: yours.
    #[arg(long, default_value = "")]
    owner: String,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let command = Command::Pause {
        cluster: args.cluster.map(Into::into),
        owner: args.owner,
        reason: args.reason,
        for_: args.for_.map(|span| span.0),
    };
    context.reply(&context.client()?.command(&command).await?)
}
