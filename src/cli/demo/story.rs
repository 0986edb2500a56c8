//! What is told: the messages, the fault, the failover step by step, the outage, the end.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;
use tokio::time::sleep;

use super::{
    Args, Fault,
    gaps::Gap,
    kind::Kind,
    stage::{CLUSTER, Dir, Stage},
};
use crate::{
    cli::{
        Context,
        client::IncidentDetail,
        exit::{Code, Exit, Failure},
        incidents, json, print,
    },
    model::{
        Incident, IncidentId, Role, Time, Verdict,
        incident::IncidentState,
        record::SagaKind,
        status::{ClusterStatus, IncidentBrief},
        time::human,
    },
    sys::clock::now,
};

/// What is left at the end, for `-o json`.
#[derive(Debug, Serialize)]
struct Summary {
    fault: String,
    incident: Option<IncidentId>,
    primary: Option<String>,
    epoch: u64,
    outages: Vec<Outage>,
    broker: &'static str,
    #[serde(flatten)]
    tally: Tally,
    report: Vec<PathBuf>,
}

/// What became of the messages.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Tally {
    /// Acknowledged to the sender.
    acknowledged: u64,
    /// Sent again, under the same number, because no acknowledgement had come.
    repeated: u64,
    /// Acknowledged, and not at the new primary.
    lost: u64,
    /// Acknowledged, and not at some node: summed over the nodes.
    undelivered: u64,
    /// Delivered twice, summed over the nodes.
    twice: u64,
    /// Delivered behind a larger number, summed over the nodes.
    out_of_order: u64,
}

/// What one of them went through.
#[derive(Debug, Serialize)]
struct Outage {
    who: String,
    outage_ms: Option<u128>,
}

struct Teller<'a> {
    context: &'a Context,
    begun: Time,
}

impl Teller<'_> {
    fn say(&self, text: &str) -> Result<(), Failure> {
        if self.context.is_json() {
            return Ok(());
        }
        print(&format!("{text}\n")).map(drop)
    }

    /// Says something with the time since the demo's begin.
    fn at(&self, moment: Time, text: &str) -> Result<(), Failure> {
        self.say(&format!("{:>7.2}s  {text}", moment.since(self.begun).as_secs_f64()))
    }

    fn now(&self, text: &str) -> Result<(), Failure> {
        self.at(now(), text)
    }
}

/// Plays the whole.
pub(super) async fn tell(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let kind = args.broker.kind();
    kind.check()?;
    let mut dir = Dir::new("demo", args.keep.as_deref())?;
    let teller = Teller { context, begun: now() };
    let paint = context.paint;
    teller.say(&paint.bold(&format!("{}, three nodes, a sender, and the arbiter, on loopback.", kind.cast())))?;
    teller.say(&format!("Files: {}", dir.path.display()))?;
    let mut stage = Stage::set(&dir, args, &kind).await?;
    teller.say(&format!("Configuration, a good first example: {}", stage.config.display()))?;
    teller.say(&format!("Elsewhere, try: coroner --socket {} watch\n", stage.socket.display()))?;

    let result = play(&teller, args, kind.as_ref(), &mut stage, &dir.path).await;
    if args.verbose {
        let log = fs::read_to_string(dir.path.join("arbiter.log")).unwrap_or_default();
        teller.say(&format!("\nWhat the arbiter logged:\n{log}"))?;
    }
    stage.strike().await;
    match result {
        Ok(summary) => {
            if context.is_json() {
                print(&format!("{}\n", json(&summary)?))?;
            }
            Ok(Exit::OK)
        }
        Err(failure) => {
            dir.keep = true;
            Err(Failure::new(failure.code, format!("{}\nEverything is kept in {}.", failure.text, dir.path.display())))
        }
    }
}

async fn play(
    teller: &Teller<'_>,
    args: &Args,
    kind: &dyn Kind,
    stage: &mut Stage,
    dir: &Path,
) -> Result<Summary, Failure> {
    let paint = teller.context.paint;
    let ready = stage.wait_until("All is up", Duration::from_secs(15), is_ready).await?;
    let before = ready.epoch;
    teller.now(&format!(
        "all is up: broker-a is primary in epoch {before}, everyone follows it, a failover could be done"
    ))?;
    show_traffic(teller, stage, 3).await?;

    let known: BTreeSet<IncidentId> = list(stage).await?.into_iter().map(|brief| brief.id).collect();
    let fault_at = now();
    inject(args.fault, stage).await?;
    teller.at(fault_at, &paint.bad(&format!("FAULT: {}", describe(args.fault, kind, stage))))?;

    let incident = follow(teller, stage, &known, fault_at).await?;
    let new = incident.candidate.clone();
    let follows_new =
        |c: &ClusterStatus| c.nodes.iter().all(|n| n.follows.as_ref() == Some(&new) && n.epoch == Some(incident.epoch));
    stage.wait_until(&format!("All nodes follow {new}"), Duration::from_secs(10), follows_new).await?;
    wait_for_messages(stage, fault_at).await?;
    let outages = tell_outages(teller, stage, fault_at).await?;
    show_traffic(teller, stage, 2).await?;
    tell_roles(teller, stage).await?;

    teller.now("broker-a is started again, with its old data and the belief that it is primary")?;
    if let Some(cable) = &stage.old.cable {
        cable.mend();
    }
    stage.old.start_again().await?;
    let rejoined = |c: &ClusterStatus| {
        c.incident.as_ref().is_none_or(|i| i.closed_unix_ms.is_some())
            && c.members.iter().any(|m| {
                m.member.as_str() == "broker-a"
                    && !m.quarantined
                    && m.role == Role::Standby
                    && m.claims == Some(Role::Standby)
            })
    };
    stage.wait_until("broker-a rejoins as the standby", Duration::from_secs(15), rejoined).await?;
    teller.now(&paint.good("broker-a follows broker-b: it is the standby now, ready to be promoted in turn"))?;
    tell_roles(teller, stage).await?;

    let tally = tally(kind, stage).await?;
    tell_tally(teller, &tally)?;
    let report = keep_report(stage, &incident.id, dir, args).await?;
    for path in &report {
        teller.say(&format!("Kept: {}", path.display()))?;
    }
    let fault = args.fault;
    Ok(Summary {
        fault: format!("{fault:?}").to_lowercase(),
        incident: Some(incident.id),
        primary: Some(incident.candidate.to_string()),
        epoch: incident.epoch.0,
        outages,
        broker: args.broker.as_str(),
        tally,
        report,
    })
}

fn is_ready(cluster: &ClusterStatus) -> bool {
    cluster.ready
        && cluster.verdict == Verdict::Alive
        && cluster.primary.as_ref().is_some_and(|p| p.as_str() == "broker-a")
        && cluster.nodes.iter().all(|n| n.follows == cluster.primary && n.epoch == Some(cluster.epoch))
        && cluster.nodes.iter().filter(|n| n.received.is_some_and(|r| r > 0)).count() >= 3
}

/// One line a second: what reached whom.
async fn show_traffic(teller: &Teller<'_>, stage: &Stage, seconds: u32) -> Result<(), Failure> {
    let mut before = counts(stage).await?;
    let mut at = now();
    for _ in 0..seconds {
        sleep(Duration::from_secs(1)).await;
        let (after, moment) = (counts(stage).await?, now());
        let passed = moment.since(at).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a demo sends fewer than 2^52 messages")]
        let rates =
            after.iter().zip(&before).map(|((who, a), (_, b))| format!("{who} {:.0}/s", (a - b) as f64 / passed));
        let line: Vec<String> = rates.collect();
        teller.at(moment, &format!("received: {}", line.join("  ")))?;
        (before, at) = (after, moment);
    }
    Ok(())
}

async fn counts(stage: &Stage) -> Result<Vec<(String, u64)>, Failure> {
    let mut counts = Vec::new();
    for node in &stage.nodes {
        counts.push((node.name.clone(), stage.node(node).await?.received.arrived.count));
    }
    counts.push(("acknowledged to the sender".into(), stage.sender().await?.acknowledged.count));
    Ok(counts)
}

fn describe(fault: Fault, kind: &dyn Kind, stage: &Stage) -> String {
    let pid = stage.old.process.pid();
    match fault {
        Fault::Kill => format!("SIGKILL to broker-a, process {pid}: its port closes"),
        Fault::Freeze => format!("SIGSTOP to broker-a, process {pid}: it answers nobody and keeps its connections"),
        Fault::Readonly => {
            format!("broker-a, process {pid}: {}; it answers, and refuses writes", kind.refusal())
        }
        Fault::Partition => {
            format!("the cable of broker-a, process {pid}, is cut: nodes, standby and arbiter lose it; it runs on")
        }
    }
}

async fn inject(fault: Fault, stage: &Stage) -> Result<(), Failure> {
    use nix::sys::signal::Signal;
    match fault {
        Fault::Kill => stage.old.process.signal(Signal::SIGKILL),
        Fault::Freeze => stage.old.process.signal(Signal::SIGSTOP),
        Fault::Readonly => stage.old.refuse_writes().await?,
        Fault::Partition => {
            if let Some(cable) = &stage.old.cable {
                cable.cut();
            }
        }
    }
    Ok(())
}

async fn list(stage: &Stage) -> Result<Vec<IncidentBrief>, Failure> {
    stage.client.get(&format!("/v1/incidents?cluster={CLUSTER}&limit=20")).await
}

/// Tells verdicts and steps as they come, until the failover is done.
async fn follow(
    teller: &Teller<'_>,
    stage: &Stage,
    known: &BTreeSet<IncidentId>,
    fault_at: Time,
) -> Result<Incident, Failure> {
    let paint = teller.context.paint;
    let mut verdict = Verdict::Alive;
    let mut told = Told::default();
    let with_log = |failure| stage.with_arbiter_log(failure);
    loop {
        let cluster = stage.cluster().await.map_err(with_log)?;
        if cluster.verdict != verdict && told.incident.is_none() {
            verdict = cluster.verdict;
            let by = cluster.rule.as_ref().map_or_else(String::new, |rule| format!(", by the rule `{rule}`"));
            let since = now().before(cluster.verdict_since);
            teller.at(since, &format!("verdict: {}{by}", paint.verdict(verdict, verdict.as_str())))?;
        }
        let brief = list(stage).await.map_err(with_log)?;
        let brief = brief.into_iter().find(|b| b.kind == SagaKind::Failover && !known.contains(&b.id));
        if let Some(brief) = brief {
            let detail = stage.client.incident(&brief.id).await.map_err(with_log)?;
            told.tell(teller, &detail.incident)?;
            match detail.incident.state {
                IncidentState::Held | IncidentState::Aborted => {
                    let reason = detail.incident.state_reason.as_deref().unwrap_or("no reason recorded");
                    let text = format!("The failover is {}: {reason}.", detail.incident.state);
                    return Err(with_log(Failure::new(Code::Internal, text)));
                }
                IncidentState::Resolved => return Ok(detail.incident),
                _ => {}
            }
        }
        if now().since(fault_at) > Duration::from_secs(20) {
            let text = "There is no finished failover 20 s after the fault.";
            return Err(with_log(Failure::new(Code::Internal, text)));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// What was told of an incident already.
#[derive(Default)]
struct Told {
    incident: Option<IncidentId>,
    steps: BTreeSet<u32>,
    resolved: bool,
}

impl Told {
    fn tell(&mut self, teller: &Teller<'_>, incident: &Incident) -> Result<(), Failure> {
        let paint = teller.context.paint;
        if self.incident.is_none() {
            self.incident = Some(incident.id.clone());
            let text = format!(
                "incident {}: {} is to be fenced, {} is the candidate, epoch {}",
                incident.id, incident.old_primary, incident.candidate, incident.epoch
            );
            teller.at(incident.opened, &paint.bold(&text))?;
        }
        let mut ended: Vec<_> = incident
            .steps
            .iter()
            .filter(|step| !self.steps.contains(&step.act))
            .filter_map(|step| step.took.map(|took| (step.started + took, took, step)))
            .collect();
        ended.sort_by_key(|(end, ..)| *end);
        for (end, took, step) in ended {
            self.steps.insert(step.act);
            let detail = if step.detail.is_empty() { String::new() } else { format!(" ({})", step.detail) };
            teller.at(end, &format!("  {}: {} after {}{detail}", step.label, step.outcome, human(took)))?;
        }
        if let (Some(closed), false) = (incident.closed, self.resolved) {
            self.resolved = true;
            let text =
                format!("{} is primary in epoch {}, proof {}", incident.candidate, incident.epoch, incident.proof);
            teller.at(closed, &paint.good(&text))?;
        }
        Ok(())
    }
}

/// Waits until messages reach every node again.
async fn wait_for_messages(stage: &Stage, fault_at: Time) -> Result<(), Failure> {
    let begun = now();
    loop {
        let mut all = stage.sender().await?.acknowledged.longest_since(fault_at).is_some();
        for node in &stage.nodes {
            let state = stage.node(node).await?;
            all &= state.received.in_epoch > 0 && state.received.arrived.longest_since(fault_at).is_some();
        }
        if all {
            return Ok(());
        }
        // Where the outage was too short to be a pause, nothing is missing.
        if now().since(begun) > Duration::from_secs(5) {
            return Ok(());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn tell_outages(teller: &Teller<'_>, stage: &Stage, fault_at: Time) -> Result<Vec<Outage>, Failure> {
    let mut gaps: Vec<(String, Option<Gap>)> = Vec::new();
    for node in &stage.nodes {
        gaps.push((node.name.clone(), stage.node(node).await?.received.arrived.longest_since(fault_at)));
    }
    gaps.push(("sender".into(), stage.sender().await?.acknowledged.longest_since(fault_at)));
    teller.say("\nThe outage as they saw it:")?;
    for (who, gap) in &gaps {
        let what = if who == "sender" { "nothing acknowledged" } else { "nothing received" };
        let text = gap.map_or_else(
            || "no pause worth telling".to_owned(),
            |gap| {
                format!("{what} for {}, until {} after the fault", human(gap.length()), human(gap.to.since(fault_at)))
            },
        );
        teller.say(&format!("  {who:<8} {text}"))?;
    }
    teller.say("")?;
    Ok(gaps.into_iter().map(|(who, gap)| Outage { who, outage_ms: gap.map(|g| g.length().as_millis()) }).collect())
}

/// Asks the servers themselves.
async fn tell_roles(teller: &Teller<'_>, stage: &Stage) -> Result<(), Failure> {
    let mut primaries = 0;
    let mut words = Vec::new();
    for server in [&stage.old, &stage.other] {
        let role = match server.process.ended() {
            Some(_) => "stopped",
            None => server.role().await.unwrap_or("does not answer"),
        };
        primaries += u32::from(role == "primary");
        words.push(format!("{} {role}", server.name));
    }
    teller.now(&format!("asked themselves: {}", words.join(", ")))?;
    if primaries == 1 {
        return Ok(());
    }
    Err(Failure::new(Code::Internal, format!("There are {primaries} primaries: {}.", words.join(", "))))
}

/// Counts what was acknowledged, and what of it is missing. The sender goes on meanwhile, so it is asked first, and the
/// nodes get a moment for what is on its way to them.
async fn tally(kind: &dyn Kind, stage: &Stage) -> Result<Tally, Failure> {
    let sender = stage.sender().await?;
    let kept = kind.kept(stage.other.behind_the_cable()).await;
    let kept = kept.map_err(|e| Failure::new(Code::Internal, format!("The messages cannot be counted: {e}.")))?;
    let acknowledged = &sender.acknowledged_numbers;
    let lost = acknowledged.numbers().filter(|number| !kept.contains(number)).count() as u64;
    let begun = now();
    loop {
        let mut tally =
            Tally { acknowledged: sender.acknowledged.count, repeated: sender.repeated, lost, ..Tally::default() };
        for node in &stage.nodes {
            let received = stage.node(node).await?.received;
            tally.undelivered += received.numbers.missing_of(acknowledged);
            tally.twice += received.twice;
            tally.out_of_order += received.out_of_order;
        }
        // What was lost reaches nobody.
        let on_its_way = tally.undelivered > lost * stage.nodes.len() as u64;
        if !on_its_way || now().since(begun) > Duration::from_secs(3) {
            return Ok(tally);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn tell_tally(teller: &Teller<'_>, tally: &Tally) -> Result<(), Failure> {
    let paint = teller.context.paint;
    let Tally { acknowledged, repeated, lost, undelivered, twice, out_of_order } = *tally;
    let judged = |text: String, good: bool| if good { paint.good(&text) } else { paint.warn(&text) };
    teller.say(&format!(
        "\nMessages acknowledged to the sender: {acknowledged} ({repeated} were sent again, as no acknowledgement had come)."
    ))?;
    teller
        .say(&judged(format!("Of these, lost: {lost}. Missing at a node: {undelivered}."), lost + undelivered == 0))?;
    let text = format!("Delivered twice: {twice}. Delivered out of order: {out_of_order}.");
    teller.say(&judged(text, twice + out_of_order == 0))
}

/// Keeps the incident, and the configuration, where they outlive the demo.
async fn keep_report(stage: &Stage, id: &IncidentId, dir: &Path, args: &Args) -> Result<Vec<PathBuf>, Failure> {
    let detail: IncidentDetail = stage.client.incident(id).await?;
    let markdown = incidents::markdown(&detail.incident);
    let full = format!("{}\n", json(&detail)?);
    if args.keep.is_some() {
        let paths = [(dir.join("report.md"), &markdown), (dir.join("report.json"), &full)];
        for (path, text) in &paths {
            write(path, text)?;
        }
        return Ok(paths.into_iter().map(|(path, _)| path).chain([stage.config.clone()]).collect());
    }
    let config = fs::read_to_string(&stage.config).unwrap_or_default();
    let files =
        [("coroner-demo-report.md", &markdown), ("coroner-demo-report.json", &full), ("coroner-demo.yaml", &config)];
    let here = std::env::current_dir().unwrap_or_default();
    let mut kept = Vec::new();
    for (name, text) in files {
        let path = here.join(name);
        let path = if write(&path, text).is_ok() { path } else { std::env::temp_dir().join(name) };
        write(&path, text)?;
        kept.push(path);
    }
    Ok(kept)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text)
        .map_err(|e| Failure::new(Code::CannotCreate, format!("Cannot write {}: {e}.", path.display())))
}
