//! `coroner failover`.

use super::{
    Context, confirm,
    exit::{Code, Exit, Failure},
    follow, why_not,
};
use crate::model::{Command, explain::Guard};

/// Fence the primary and promote a standby, now. In `manual` mode this is the approval.
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
    /// Promote whatever the loss.
    #[arg(long)]
    accept_loss: bool,
    /// Pass this guard; may be repeated. What keeps two primaries apart cannot be passed.
    #[arg(long = "skip-guard", value_name = "GUARD", value_parser = guard)]
    skip_guards: Vec<Guard>,
    /// Change nothing; show what stands against it, as `why-not` does.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    yes: confirm::Yes,
    #[command(flatten)]
    wait: follow::Wait,
}

/// A guard that a person may pass, by its name.
pub(super) fn guard(text: &str) -> Result<Guard, String> {
    let skippable = || {
        let names: Vec<&str> = Guard::ALL.iter().filter(|g| g.may_be_skipped()).map(|g| g.as_str()).collect();
        format!("those that can be passed are {}", names.join(", "))
    };
    match Guard::ALL.iter().find(|g| g.as_str() == text.replace('-', "_")) {
        Some(guard) if guard.may_be_skipped() => Ok(*guard),
        Some(_) => Err(format!("this guard keeps two primaries apart and cannot be passed; {}", skippable())),
        None => Err(format!("there is no such guard; {}", skippable())),
    }
}

pub(super) async fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let client = context.client()?;
    let cluster = client.cluster(args.cluster.as_deref()).await?;
    if args.dry_run {
        let view = why_not::fetch(&client, &cluster).await?;
        context.emit(&view, |paint| why_not::render(&view, paint))?;
        let blocks = |g: &crate::model::explain::GuardState| g.blocks && !args.skip_guards.contains(&g.guard);
        return if view.guards.iter().any(blocks) {
            Err(Failure::new(Code::Refused, "A failover would be refused now. Nothing was done."))
        } else {
            Ok(Exit::OK)
        };
    }
    let what = format!("The primary of `{cluster}` will be fenced and a standby promoted");
    confirm::confirm(args.yes, &what, cluster.as_str())?;
    let command = Command::Failover {
        cluster,
        to: args.to.map(Into::into),
        reason: args.reason,
        accept_loss: args.accept_loss,
        skip_guards: args.skip_guards,
    };
    let reply = client.command(&command).await?;
    context.reply_and_follow(&client, &reply, &args.wait).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_two_primaries_apart_cannot_be_passed() {
        assert_eq!(guard("held-by-rule"), Ok(Guard::HeldByRule));
        assert!(guard("no_fence").unwrap_err().contains("cannot be passed"));
        assert!(guard("coldown").unwrap_err().contains("cooldown"));
    }
}
