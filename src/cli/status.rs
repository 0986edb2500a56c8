//! `coroner status`.

use std::fmt::Write as _;

use super::{
    Context,
    exit::{Code, Exit, Failure},
    print,
    style::Paint,
    table::Table,
};
use crate::model::{
    Verdict,
    agent::{GateState, LeaseState},
    incident::IncidentState,
    rule::Reaction,
    status::{AgentStatus, Arbiters, ClusterStatus, IncidentBrief, Status},
    time::human,
};

/// Show the clusters.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this cluster.
    cluster: Option<String>,
    /// One line and the exit code of a monitoring plugin: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
    #[arg(long)]
    pub(super) nagios: bool,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let mut status = context.client()?.status().await?;
    if let Some(name) = &args.cluster {
        status.clusters.retain(|c| c.cluster.as_str() == name);
        if status.clusters.is_empty() {
            return Err(Failure::new(Code::Data, format!("The arbiter watches no cluster `{name}`.")));
        }
    }
    if args.nagios {
        let (health, line) = nagios(&status);
        print(&line)?;
        return Ok(Exit(health as u8));
    }
    context.emit(&status, |paint| render(&status, paint))
}

/// All clusters, their members and nodes.
#[must_use]
pub fn render(status: &Status, paint: Paint) -> String {
    let mut out = format!("{}  policy {}\n", paint.bold(&status.arbiter), short(&status.policy_hash));
    if let Some(reason) = &status.tilt {
        let _ = writeln!(out, "{} {reason}", paint.bad("tilt, nothing is done:"));
    }
    if let Some(reason) = &status.store_lost {
        let _ = writeln!(out, "{} {reason}", paint.bad("the store takes no intents, nothing is done:"));
    }
    if let Some(arbiters) = &status.arbiters {
        render_arbiters(&mut out, arbiters, paint);
    }
    if status.clusters.is_empty() {
        out.push_str("No clusters.\n");
    }
    for cluster in &status.clusters {
        out.push('\n');
        render_cluster(&mut out, cluster, paint);
    }
    out
}

fn render_arbiters(out: &mut String, arbiters: &Arbiters, paint: Paint) {
    let role = if arbiters.leads { paint.good("leads") } else { paint.warn("watches only") };
    let _ = writeln!(out, "of {} arbiters, this one ({}) {role}", arbiters.instances.len(), arbiters.me);
    let mut table = Table::new(paint, 2, &["ARBITER", "ROLE", "EPOCH>", "ADDRESS"]);
    for arbiter in &arbiters.instances {
        let role = match (arbiter.is_valid, arbiter.is_leader) {
            (true, true) => "leader",
            (true, false) => "standby",
            (false, _) => "gone",
        };
        table.row([arbiter.instance.as_str(), role, &arbiter.epoch.to_string(), &dash(arbiter.address.as_ref())]);
    }
    out.push_str(&table.to_text());
}

fn render_cluster(out: &mut String, cluster: &ClusterStatus, paint: Paint) {
    let verdict = paint.verdict(cluster.verdict, cluster.verdict.as_str());
    let by = cluster.rule.as_ref().map_or_else(String::new, |rule| format!(" by `{rule}`"));
    let ready = if cluster.ready { paint.good("ready") } else { paint.warn("not ready") };
    let _ = writeln!(
        out,
        "{}  {verdict}{by} for {}  primary {}  epoch {}  mode {}  {ready}",
        paint.bold(cluster.cluster.as_str()),
        human(cluster.verdict_since),
        dash(cluster.primary.as_ref()),
        cluster.epoch,
        cluster.mode,
    );
    if let Some(pause) = &cluster.pause {
        let until = pause.until_unix_ms.map_or_else(|| "until resumed".to_owned(), |ms| format!("until {}", wall(ms)));
        let _ = writeln!(out, "  {} by {} {until}: {}", paint.warn("paused"), pause.owner, pause.reason);
    }
    for state in cluster.blocking.iter().filter(|g| g.blocks) {
        let _ = writeln!(out, "  {} {}: {}", paint.warn("✘"), state.guard, state.reason);
    }
    if let Some(incident) = &cluster.incident {
        let _ = writeln!(out, "  {}", incident_line(incident, paint));
    }
    render_shadow_rules(out, cluster, paint);
    let has_agents = cluster.members.iter().any(|member| member.agent.is_some());
    let mut headings = vec!["MEMBER", "ROLE", "CLAIMS", "POSITION>", "SEEN>", "ADDRESS"];
    if has_agents {
        headings.extend(["AGENT>", "LEASE", "GATE"]);
    }
    headings.push("NOTE");
    let mut members = Table::new(paint, 2, &headings);
    for member in &cluster.members {
        let note = if member.quarantined {
            "quarantined"
        } else if member.claims.is_some_and(|claim| claim != member.role) {
            "claims another role"
        } else {
            ""
        };
        let mut row = vec![
            member.member.to_string(),
            member.role.to_string(),
            dash(member.claims),
            dash(member.position),
            dash(member.seen.map(human)),
            member.address.clone(),
        ];
        if has_agents {
            row.extend(agent_cells(member.agent.as_ref()));
        }
        let note = match &member.agent {
            Some(agent) => [note.to_owned(), agent_note(agent)]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join(", "),
            None => note.to_owned(),
        };
        row.push(note.clone());
        members.row(row);
        if !note.is_empty() {
            members.paint_last(headings.len() - 1, Paint::warn);
        }
    }
    out.push_str(&members.to_text());
    if cluster.nodes.is_empty() {
        return;
    }
    let mut nodes = Table::new(paint, 2, &["NODE", "FOLLOWS", "EPOCH>", "RECEIVED>", "LAST ARRIVAL>", "SEEN>"]);
    for node in &cluster.nodes {
        nodes.row([
            node.node.as_str(),
            &dash(node.follows.as_ref()),
            &dash(node.epoch),
            &dash(node.received),
            &dash(node.last_arrival.map(human)),
            &dash(node.seen.map(human)),
        ]);
        if node.follows.is_some() && node.follows != cluster.primary {
            nodes.paint_last(1, Paint::warn);
        }
    }
    out.push_str(&nodes.to_text());
}

/// What rules that only watch say, and what would have come of it.
fn render_shadow_rules(out: &mut String, cluster: &ClusterStatus, paint: Paint) {
    if !cluster.rules.iter().any(|rule| rule.shadow) {
        return;
    }
    let mut table = Table::new(
        paint,
        2,
        &["SHADOW RULE", "THEN", "NOW", "FIRED>", "WOULD HAVE ACTED>", "LAST FIRED>", "HELD BACK BY"],
    );
    for rule in cluster.rules.iter().filter(|rule| rule.shadow) {
        let guards: Vec<&str> = rule.held_back_by.iter().map(|guard| guard.as_str()).collect();
        let is_acting = matches!(rule.then, Reaction::Failover | Reaction::Switchover);
        table.row([
            rule.rule.as_str(),
            &rule.then.to_string(),
            &rule.truth.to_string(),
            &rule.fired.to_string(),
            &dash(is_acting.then_some(rule.would_have_acted)),
            &dash(rule.last_fired.map(|age| format!("{} ago", human(age)))),
            &guards.join(", "),
        ]);
        if rule.truth.is_true() {
            table.paint_last(2, Paint::warn);
        }
    }
    out.push_str(&table.to_text());
}

/// When the agent was heard, its lease, its gate.
fn agent_cells(agent: Option<&AgentStatus>) -> [String; 3] {
    let Some(agent) = agent else { return ["-".into(), "-".into(), "-".into()] };
    if agent.seen.is_none() {
        return ["never".into(), "-".into(), "-".into()];
    }
    let lease = match agent.lease {
        LeaseState::None => "-".into(),
        LeaseState::Held { left } => format!("{} left", human(left)),
        LeaseState::Wanted => "wanted".into(),
        LeaseState::GivenUp => "given up".into(),
    };
    let gate = match agent.gate {
        GateState::None => "-",
        GateState::Unproven => "unproven",
        GateState::Open => "open",
        GateState::Closed => "closed",
    };
    [dash(agent.seen.map(human)), lease, gate.into()]
}

/// What stands out: a silent agent, and what it sees.
fn agent_note(agent: &AgentStatus) -> String {
    if !agent.is_heard {
        return "its agent is silent".into();
    }
    let firing: Vec<String> = agent
        .evidence
        .iter()
        .filter(|(_, is_so)| *is_so)
        .map(|(watch, _)| if watch.is_about_running() { format!("{watch} gone") } else { watch.to_string() })
        .collect();
    firing.join(", ")
}

/// An incident in one line.
#[must_use]
pub fn incident_line(incident: &IncidentBrief, paint: Paint) -> String {
    let state = incident.state.to_string();
    let state = match incident.state {
        IncidentState::Held => paint.bad(&state),
        IncidentState::Resolved => paint.good(&state),
        _ => paint.warn(&state),
    };
    let reason = incident.state_reason.as_ref().map_or_else(String::new, |r| format!(": {r}"));
    format!(
        "incident {} {} {} → {} (epoch {}) {state}{reason}",
        incident.id,
        super::incidents::kind(incident.kind),
        incident.old_primary,
        incident.candidate,
        incident.epoch
    )
}

/// A value, or a dash.
pub(super) fn dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

/// A wall time for people, in UTC to the second.
#[must_use]
pub fn wall(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms)
        .map_or_else(|_| "an impossible time".to_owned(), |t| t.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// What a monitoring plugin says, by its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// All clusters are well, and could be failed over.
    Ok = 0,
    /// Somebody should look.
    Warning = 1,
    /// Somebody must look.
    Critical = 2,
    /// Nothing can be said.
    Unknown = 3,
}

impl Health {
    /// The order in which one outweighs another.
    const fn weight(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Unknown => 1,
            Self::Warning => 2,
            Self::Critical => 3,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// One line for a monitoring plugin, with performance data.
#[must_use]
pub fn nagios(status: &Status) -> (Health, String) {
    let mut worst = Health::Ok;
    let mut words: Vec<String> = Vec::new();
    let mut note = |health: Health, text: String| {
        if health.weight() > worst.weight() {
            worst = health;
        }
        if health != Health::Ok {
            words.push(text);
        }
    };
    if status.clusters.is_empty() {
        note(Health::Unknown, "no clusters".into());
    }
    if let Some(reason) = &status.store_lost {
        note(Health::Critical, format!("store lost: {reason}"));
    }
    if let Some(reason) = &status.tilt {
        note(Health::Warning, format!("tilt: {reason}"));
    }
    for cluster in &status.clusters {
        let (health, text) = judge(cluster);
        note(health, format!("{}: {text}", cluster.cluster));
    }
    let summary = if words.is_empty() {
        let alive: Vec<String> = status
            .clusters
            .iter()
            .map(|c| format!("{}: {} alive, epoch {}, ready", c.cluster, dash(c.primary.as_ref()), c.epoch))
            .collect();
        alive.join("; ")
    } else {
        words.join("; ")
    };
    let summary: String = summary.chars().map(|c| if c == '|' || c.is_control() { ' ' } else { c }).collect();
    let data: Vec<String> = status.clusters.iter().map(performance).collect();
    (worst, format!("CORONER {} - {summary} | {}\n", worst.word(), data.join(" ")))
}

fn judge(cluster: &ClusterStatus) -> (Health, String) {
    let rule = cluster.rule.as_ref().map_or_else(String::new, |r| format!(" ({r})"));
    let held = cluster.incident.as_ref().filter(|i| i.state == IncidentState::Held);
    if let Some(incident) = held {
        let reason = incident.state_reason.as_deref().unwrap_or("a person is needed");
        return (Health::Critical, format!("incident {} is held: {reason}", incident.id));
    }
    match cluster.verdict {
        Verdict::Dead => return (Health::Critical, format!("{} is dead{rule}", dash(cluster.primary.as_ref()))),
        Verdict::Gray => return (Health::Critical, format!("{} is gray{rule}", dash(cluster.primary.as_ref()))),
        Verdict::Suspect => return (Health::Warning, format!("{} is suspect{rule}", dash(cluster.primary.as_ref()))),
        Verdict::Unknown => return (Health::Unknown, "nothing is known of the primary".into()),
        Verdict::Alive => {}
    }
    if let Some(incident) = cluster.incident.as_ref().filter(|i| i.closed_unix_ms.is_none()) {
        return (Health::Warning, format!("incident {} is {}", incident.id, incident.state));
    }
    if let Some(pause) = &cluster.pause {
        return (Health::Warning, format!("paused by {}: {}", pause.owner, pause.reason));
    }
    if !cluster.ready {
        let guards: Vec<String> =
            cluster.blocking.iter().filter(|g| g.blocks).map(|g| format!("{}: {}", g.guard, g.reason)).collect();
        return (Health::Warning, format!("no failover could be done now ({})", guards.join(", ")));
    }
    (Health::Ok, String::new())
}

fn performance(cluster: &ClusterStatus) -> String {
    // Quotes and equal signs would break the format; names of the file hold none.
    let name: String = cluster.cluster.as_str().chars().filter(|c| !matches!(c, '\'' | '=' | '|')).collect();
    let following = cluster.nodes.iter().filter(|n| n.follows.is_some() && n.follows == cluster.primary).count();
    let total = cluster.nodes.len();
    let oldest = cluster.nodes.iter().filter_map(|n| n.last_arrival).max();
    let age = oldest.map_or_else(String::new, |d| format!(" '{name}_oldest_arrival'={:.3}s;;;0", d.as_secs_f64()));
    format!(
        "'{name}_ready'={};;;0;1 '{name}_epoch'={} '{name}_nodes_following'={following};;;0;{total}{age}",
        u8::from(cluster.ready),
        cluster.epoch
    )
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{
        Epoch, Mode, Role,
        agent::Watch,
        explain::{Guard, GuardState, Truth},
        record::SagaKind,
        status::{MemberStatus, NodeStatus, RuleStatus},
    };

    pub(in crate::cli) fn sample() -> Status {
        let member = |name: &str, role, address: &str| MemberStatus {
            member: name.into(),
            address: address.into(),
            role,
            claims: Some(role),
            quarantined: false,
            position: Some(1_234),
            seen: Some(Duration::from_millis(80)),
            agent: None,
        };
        let node = |name: &str, received| NodeStatus {
            node: name.into(),
            seen: Some(Duration::from_millis(150)),
            received: Some(received),
            last_arrival: Some(Duration::from_millis(20)),
            follows: Some("broker-a".into()),
            epoch: Some(Epoch(4)),
        };
        Status {
            arbiter: "arbiter-1".into(),
            policy_hash: "0123456789abcdef".into(),
            tilt: None,
            store_lost: None,
            arbiters: None,
            clusters: vec![ClusterStatus {
                cluster: "orders".into(),
                mode: Mode::Auto,
                primary: Some("broker-a".into()),
                epoch: Epoch(4),
                verdict: Verdict::Alive,
                verdict_since: Duration::from_secs(130),
                rule: None,
                ready: true,
                blocking: vec![],
                pause: None,
                members: vec![
                    member("broker-a", Role::Primary, "10.0.0.11:6379"),
                    member("broker-b", Role::Standby, "10.0.0.12:6379"),
                ],
                nodes: vec![node("node-1", 991), node("node-2", 12)],
                incident: None,
                rules: Vec::new(),
            }],
        }
    }

    pub(in crate::cli) fn held() -> IncidentBrief {
        IncidentBrief {
            id: "01J0".into(),
            cluster: "orders".into(),
            kind: SagaKind::Failover,
            state: IncidentState::Held,
            state_reason: Some("no fence level reached its proof".into()),
            opened_unix_ms: 1_700_000_000_000,
            closed_unix_ms: None,
            old_primary: "broker-a".into(),
            candidate: "broker-b".into(),
            epoch: Epoch(5),
            acknowledged: false,
        }
    }

    #[test]
    fn status_reads_as_tables() {
        assert_eq!(
            render(&sample(), Paint::OFF),
            "arbiter-1  policy 0123456789ab\n\
             \n\
             orders  alive for 2m 10s  primary broker-a  epoch 4  mode auto  ready\n\
             \x20 MEMBER    ROLE     CLAIMS   POSITION  SEEN  ADDRESS         NOTE\n\
             \x20 broker-a  primary  primary      1234  80ms  10.0.0.11:6379\n\
             \x20 broker-b  standby  standby      1234  80ms  10.0.0.12:6379\n\
             \x20 NODE    FOLLOWS   EPOCH  RECEIVED  LAST ARRIVAL   SEEN\n\
             \x20 node-1  broker-a      4       991          20ms  150ms\n\
             \x20 node-2  broker-a      4        12          20ms  150ms\n"
        );
    }

    #[test]
    fn rules_that_only_watch_say_what_would_have_come() {
        let mut status = sample();
        let rule = |name: &str, then, truth| RuleStatus {
            rule: name.into(),
            verdict: Verdict::Dead,
            then,
            shadow: true,
            truth,
            since: Duration::from_secs(1),
            fired: 3,
            would_have_acted: 1,
            held_back_by: vec![Guard::NoCandidate, Guard::Isolated],
            last_fired: Some(Duration::from_secs(7_200)),
        };
        status.clusters[0].rules = vec![
            RuleStatus { shadow: false, ..rule("acts", Reaction::Failover, Truth::False) },
            rule("faster", Reaction::Failover, Truth::True),
            RuleStatus {
                fired: 0,
                last_fired: None,
                held_back_by: vec![],
                ..rule("slow", Reaction::Alert, Truth::Unknown)
            },
        ];
        let text = render(&status, Paint::OFF);
        let rows: Vec<&str> = text.lines().skip(3).take(3).collect();
        assert_eq!(
            rows,
            [
                "  SHADOW RULE  THEN      NOW      FIRED  WOULD HAVE ACTED  LAST FIRED  HELD BACK BY",
                "  faster       failover  true         3                 1      2h ago  no_candidate, isolated",
                "  slow         alert     unknown      0                 -           -",
            ]
        );
    }

    #[test]
    fn members_with_agents_show_lease_and_gate() {
        let mut status = sample();
        status.clusters[0].nodes.clear();
        status.clusters[0].members[0].agent = Some(AgentStatus {
            seen: Some(Duration::from_millis(12)),
            is_heard: true,
            lease: LeaseState::Held { left: Duration::from_millis(160) },
            gate: GateState::Open,
            evidence: vec![(Watch::Process, false), (Watch::Disk, true), (Watch::Listener, true)],
            ..AgentStatus::default()
        });
        status.clusters[0].members[1].agent = Some(AgentStatus::default());
        let text = render(&status, Paint::OFF);
        let rows: Vec<&str> = text.lines().skip(3).collect();
        assert_eq!(
            rows,
            [
                "  MEMBER    ROLE     CLAIMS   POSITION  SEEN  ADDRESS         AGENT  LEASE       GATE  NOTE",
                "  broker-a  primary  primary      1234  80ms  10.0.0.11:6379   12ms  160ms left  open  disk, listener gone",
                "  broker-b  standby  standby      1234  80ms  10.0.0.12:6379  never  -           -     its agent is silent",
            ]
        );
    }

    #[test]
    fn nagios_is_ok_only_when_a_failover_could_be_done() {
        let mut status = sample();
        let (health, line) = nagios(&status);
        assert_eq!(health, Health::Ok);
        assert_eq!(
            line,
            "CORONER OK - orders: broker-a alive, epoch 4, ready | 'orders_ready'=1;;;0;1 'orders_epoch'=4 \
             'orders_nodes_following'=2;;;0;2 'orders_oldest_arrival'=0.020s;;;0\n"
        );
        let guard = GuardState { guard: Guard::NoCandidate, blocks: true, reason: "broker-b|\nis silent".into() };
        status.clusters[0].ready = false;
        status.clusters[0].blocking = vec![guard];
        let (health, line) = nagios(&status);
        assert_eq!(health, Health::Warning);
        assert!(line.contains("(no_candidate: broker-b  is silent)"), "{line}");
        assert_eq!(line.matches('|').count(), 1);
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn nagios_severities() {
        let with = |change: fn(&mut Status)| {
            let mut status = sample();
            change(&mut status);
            nagios(&status).0
        };
        assert_eq!(with(|s| s.clusters[0].verdict = Verdict::Dead), Health::Critical);
        assert_eq!(with(|s| s.clusters[0].verdict = Verdict::Suspect), Health::Warning);
        assert_eq!(with(|s| s.clusters[0].verdict = Verdict::Unknown), Health::Unknown);
        assert_eq!(with(|s| s.clusters[0].incident = Some(held())), Health::Critical);
        assert_eq!(with(|s| s.tilt = Some("late".into())), Health::Warning);
        assert_eq!(with(|s| s.store_lost = Some("disk full".into())), Health::Critical);
        assert_eq!(with(|s| s.clusters.clear()), Health::Unknown);
    }
}
