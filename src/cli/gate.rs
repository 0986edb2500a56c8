//! `coroner gate`: whether a broker may start, and what stands before its port.

use std::{path::PathBuf, time::Duration};

use clap::Subcommand;
use serde::Serialize;
use tokio::time::{sleep, timeout};

use super::{
    Context,
    agent::failure,
    exit::{Code, Exit, Failure},
};
use crate::{
    agent::{
        self,
        gate::close_at_boot,
        setup::{self, SetupError},
        socket::{self, AgentStatus, Answer, Question},
        spec::Guard,
    },
    config::Config,
    mesh::party::MayStart,
    model::{ClusterName, MemberName, PartyName, Span, time::human},
    sys::clock::Stopwatch,
};

/// The gate before a broker's port.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Wait until the broker of this host may be started: for `ExecStartPre=` of its unit.
    #[command(after_long_help = "\
Exit codes:
    0  It may be started: as the primary of the current epoch, its lease is held; or as a standby, behind its shut gate.
   69  No agent answered in time.
   75  It is primary by appointment, and a majority has not granted its lease in time. Later perhaps.
   77  It was fenced, and has not been brought back: `coroner rejoin` does that.
   78  The configuration file has mistakes, or names no agent of this host.

It never takes longer than --within (else `agent.start_within` of the file), whether an agent answers or not. Give the
unit a longer TimeoutStartSec=. A restart within `agent.restart_grace` keeps its epoch if no failover has begun.")]
    Wait(Wait),
    /// Shut the gate of this host's broker now, whatever stands in it: for a unit that is ordered before the broker's, at
    /// boot. Needs neither an agent nor a key; the gate opens again when an agent holds a lease.
    Close(Where),
    /// Ask this host's agent how gates, leases and evidence stand.
    Status(Where),
}

#[derive(Debug, clap::Args)]
struct Where {
    /// The configuration file.
    #[arg(short, long, env = "CORONER_CONFIG", default_value = "/etc/coroner/coroner.yaml", value_name = "FILE")]
    config: PathBuf,
    /// The party of the file that this host's agent is. Default: as `coroner agent` finds it.
    #[arg(short, long, env = "CORONER_NAME", value_name = "NAME")]
    name: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Wait {
    #[command(flatten)]
    at: Where,
    /// The cluster, where the agent guards members of several.
    #[arg(long, value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Wait at most this long: `10s`.
    #[arg(long, value_name = "DURATION", value_parser = Span::parse)]
    within: Option<Span>,
}

/// Between two tries to reach an agent that does not answer.
const RETRY_EVERY: Duration = Duration::from_millis(50);
/// An answer may take this much longer than what was asked for.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// How long an agent may take to say how it stands.
const STATUS_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    match args.what {
        What::Wait(args) => wait(context, &args).await,
        What::Close(at) => close(context, &at),
        What::Status(at) => status(context, &at).await,
    }
}

/// The file, and who this host's agent is in it.
struct Here {
    config: Config,
    me: PartyName,
    socket: PathBuf,
}

impl Where {
    fn find(&self) -> Result<Here, Failure> {
        let wrong = |error: SetupError| Failure::new(Code::Config, error.to_string());
        let config = agent::load(&self.config).map_err(|error| failure(&error))?;
        let mesh = config.mesh.as_ref().ok_or_else(|| wrong(SetupError::NoMesh))?;
        let me = setup::who_am_i(mesh, self.name.as_deref()).map_err(wrong)?;
        let socket = socket::path_of(&mesh.socket, &me);
        Ok(Here { me, socket, config })
    }
}

impl Here {
    /// The members that the agent guards, with how.
    fn guards(&self) -> Result<Vec<(ClusterName, MemberName, &Guard)>, Failure> {
        let of = self.config.mesh.as_ref().map(|mesh| setup::guarded(mesh, &self.me)).unwrap_or_default();
        let found: Vec<_> = of
            .into_iter()
            .filter_map(|(cluster, member)| {
                let guard = self.config.clusters.get(&cluster)?.guards.get(&member)?;
                Some((cluster, member, guard))
            })
            .collect();
        if found.is_empty() {
            return Err(Failure::new(Code::Config, format!("{} guards no broker: there is no gate of it.", self.me)));
        }
        Ok(found)
    }
}

async fn wait(context: &Context, args: &Wait) -> Result<Exit, Failure> {
    let watch = Stopwatch::start();
    let here = args.at.find()?;
    let guards = here.guards()?;
    let wanted = args.cluster.as_deref().map(ClusterName::from);
    let of = guards.iter().filter(|(cluster, ..)| wanted.as_ref().is_none_or(|wanted| wanted == cluster));
    let written = of.map(|(_, _, guard)| guard.start_within).max();
    let within = match (args.within, written) {
        (Some(within), _) => within.0,
        (None, Some(written)) => written,
        (None, None) => {
            let named = wanted.map(|name| name.to_string()).unwrap_or_default();
            return Err(Failure::new(Code::Config, format!("{} guards no member of {named}.", here.me)));
        }
    };
    let mut trouble = String::new();
    loop {
        let left = within.saturating_sub(watch.elapsed());
        if left.is_zero() {
            let text = format!("No agent answered within {} at {}{trouble}.", human(within), here.socket.display());
            return Err(Failure::new(Code::Unavailable, text));
        }
        let within_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let question = Question::Start { cluster: wanted.clone(), within_ms };
        match timeout(left + ANSWER_WITHIN, socket::ask(&here.socket, &question)).await {
            Ok(Ok(Answer::Start(may))) => return may_start(context, &may, within),
            Ok(Ok(Answer::Error(why))) => {
                return Err(Failure::new(Code::Unavailable, format!("The agent says: {why}.")));
            }
            Ok(Ok(_)) => return Err(Failure::new(Code::Internal, "The agent answered another question.")),
            Ok(Err(error)) => trouble = format!(" ({error})"),
            Err(_) => trouble = " (it took the question, and did not answer)".into(),
        }
        sleep(RETRY_EVERY.min(within.saturating_sub(watch.elapsed()))).await;
    }
}

fn may_start(context: &Context, may: &MayStart, within: Duration) -> Result<Exit, Failure> {
    let text = match may {
        MayStart::AsPrimary(epoch) => format!("It may start as the primary of epoch {epoch}: its lease is held."),
        MayStart::AsStandby(epoch) => format!("It may start as a standby, behind its shut gate; the epoch is {epoch}."),
        MayStart::NotYet(epoch) => {
            let text = format!(
                "It is primary of epoch {epoch} by appointment, and a majority of the voters has not granted its lease \
                 within {}. The arbiter appoints it anew, or another.",
                human(within)
            );
            return Err(Failure::new(Code::Temporary, text));
        }
        MayStart::No(epoch) => {
            let text = format!("It was fenced in epoch {epoch} and not brought back: `coroner rejoin` does that.");
            return Err(Failure::new(Code::NotPermitted, text));
        }
    };
    context.emit(may, |_| format!("{text}\n"))
}

/// A gate that was shut.
#[derive(Serialize)]
struct Closed {
    cluster: ClusterName,
    member: MemberName,
    table: String,
}

fn close(context: &Context, at: &Where) -> Result<Exit, Failure> {
    let here = at.find()?;
    let mut closed = Vec::new();
    for (cluster, member, guard) in here.guards()? {
        let Some(spec) = &guard.gate else { continue };
        close_at_boot(spec).map_err(|error| {
            Failure::new(Code::Unavailable, format!("The gate of {member} cannot be shut: {error}."))
        })?;
        closed.push(Closed { cluster, member, table: spec.table.clone() });
    }
    if closed.is_empty() {
        return Err(Failure::new(Code::Config, format!("The file has no gate for {}.", here.me)));
    }
    context.emit(&closed, |_| {
        let line = |gate: &Closed| format!("The gate of {} is shut (table inet {}).\n", gate.member, gate.table);
        closed.iter().map(line).collect()
    })
}

async fn status(context: &Context, at: &Where) -> Result<Exit, Failure> {
    let here = at.find()?;
    let asked = timeout(STATUS_WITHIN, socket::ask(&here.socket, &Question::Status)).await;
    let why = match asked {
        Ok(Ok(Answer::Status(status))) => return context.emit(&*status, |_| text(&status)),
        Ok(Ok(other)) => format!("it answered {other:?}"),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it did not answer within {}", human(STATUS_WITHIN)),
    };
    Err(Failure::new(Code::Unavailable, format!("No agent answers at {}: {why}.", here.socket.display())))
}

fn text(status: &AgentStatus) -> String {
    use std::fmt::Write as _;
    let mut out = format!("agent {}\n", status.party);
    for member in &status.members {
        let _ = writeln!(
            out,
            "{} of {}: lease {:?}, gate {:?}, may start {:?}",
            member.member, member.cluster, member.lease, member.report.gate, member.may_start
        );
        for evidence in member.report.evidence.iter().filter(|evidence| evidence.is_so) {
            let _ = writeln!(out, "  {} ({:?}): {}", evidence.watch, evidence.certainty, evidence.detail);
        }
    }
    for (cluster, node, following) in &status.nodes {
        let primary = following.primary.as_ref().map_or("nobody", |(primary, _)| primary.as_str());
        let _ = writeln!(out, "{node} of {cluster}: follows {primary} of epoch {}", following.epoch);
    }
    for (party, link) in &status.health.links {
        let age = |ms: Option<f64>| ms.map_or_else(|| "never".into(), |ms| format!("{ms:.0} ms ago"));
        let _ = writeln!(out, "{party}: directly {}, by any way {}", age(link.direct_age_ms), age(link.any_age_ms));
    }
    out
}
