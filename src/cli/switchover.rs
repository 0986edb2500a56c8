//! `coroner switchover`.

use super::{
    Context, confirm,
    exit::{Code, Exit, Failure},
    failover, follow, why_not,
};
use crate::model::{Command, explain::Guard};

/// Planned: the primary stops taking writes, the standby catches up to the exact position and takes over.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster. May be left out if there is only one.
    cluster: Option<String>,
    /// The standby to promote. Default: the best.
    #[arg(long, value_name = "MEMBER")]
    to: Option<String>,
    /// Why; it stands in the incident.
    #[arg(long, default_value = "asked for by hand")]
    reason: String,
    /// Pass this guard; may be repeated.
    #[arg(long = "skip-guard", value_name = "GUARD", value_parser = failover::guard)]
    skip_guards: Vec<Guard>,
    /// Change nothing; show what stands against it, as `why-not` does.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    yes: confirm::Yes,
    #[command(flatten)]
    wait: follow::Wait,
}

pub(super) async fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let client = context.client()?;
    let cluster = client.cluster(args.cluster.as_deref()).await?;
    if args.dry_run {
        let view = why_not::fetch(&client, &cluster).await?;
        context.emit(&view, |paint| why_not::render(&view, paint))?;
        let blocks = |g: &crate::model::explain::GuardState| g.blocks && !args.skip_guards.contains(&g.guard);
        return if view.guards.iter().any(blocks) {
            Err(Failure::new(Code::Refused, "A switchover would be refused now. Nothing was done."))
        } else {
            Ok(Exit::OK)
        };
    }
    let what = format!("The primary of `{cluster}` will step down and a standby take over");
    confirm::confirm(args.yes, &what, cluster.as_str())?;
    let command = Command::Switchover {
        cluster,
        to: args.to.map(Into::into),
        reason: args.reason,
        skip_guards: args.skip_guards,
    };
    let reply = client.command(&command).await?;
    context.reply_and_follow(&client, &reply, &args.wait).await
}
