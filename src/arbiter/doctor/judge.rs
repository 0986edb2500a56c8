//! What is good and what is amiss, section by section, each with its remedy.

use std::time::Duration;

use super::{Facts, OnDisk};
use crate::{
    config::lint::lint,
    model::{
        ClusterName, MemberName, Mode, PartyName, Role, Verdict,
        agent::{GateState, LeaseState},
        doctor::{FenceReach, Finding, Level, LinkView, MeshView, PartyView, Section, unheard_voters},
        explain::{Guard, GuardState},
        incident::IncidentState,
        policy::{ClusterPolicy, LeasePolicy, Observers, SignalKind},
        status::{AgentStatus, ClusterStatus, MemberStatus},
        time::human,
    },
};

/// A store that takes longer to write and sync something delays every step of a failover.
const STORE_SLOW: Duration = Duration::from_millis(100);
/// A sign of a wrong key or a different file that is older than this may have been mended.
const SIGN_FRESH: Duration = Duration::from_secs(60);
/// A party that was not heard by any path for so long is not heard.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// All findings, in the order of the sections.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Findings { list: Vec::new(), section: Section::File, cluster: None };
    file(facts, &mut found);
    found.section = Section::Arbiter;
    arbiter(facts, &mut found);
    found.section = Section::Mesh;
    mesh(facts, &mut found);
    for status in &facts.status.clusters {
        // A cluster that left the file stays while its incident is open; there is nothing to compare it with.
        let Some(policy) = facts.config.policy.clusters.get(&status.cluster) else { continue };
        found.cluster = Some(status.cluster.clone());
        let about = About { facts, status, policy };
        found.section = Section::Leases;
        about.leases(&mut found);
        found.section = Section::Gates;
        about.gates(&mut found);
        found.section = Section::Fences;
        about.fences(&mut found);
        found.section = Section::Brokers;
        about.brokers(&mut found);
        found.section = Section::Nodes;
        about.nodes(&mut found);
        found.section = Section::Readiness;
        about.readiness(&mut found);
    }
    found.list.sort_by_key(|finding| finding.section);
    found.list
}

struct Findings {
    list: Vec<Finding>,
    section: Section,
    cluster: Option<ClusterName>,
}

impl Findings {
    fn push(&mut self, level: Level, text: impl Into<String>, remedy: Option<String>) {
        let (section, cluster, text) = (self.section, self.cluster.clone(), text.into());
        self.list.push(Finding { section, level, cluster, text, remedy });
    }

    fn ok(&mut self, text: impl Into<String>) {
        self.push(Level::Ok, text, None);
    }

    fn warn(&mut self, text: impl Into<String>, remedy: impl Into<String>) {
        self.push(Level::Warn, text, Some(remedy.into()));
    }

    fn fail(&mut self, text: impl Into<String>, remedy: impl Into<String>) {
        self.push(Level::Fail, text, Some(remedy.into()));
    }
}

fn file(facts: &Facts, found: &mut Findings) {
    match &facts.on_disk {
        OnDisk::Same => found.ok("the file on the disk has no mistakes, and decides as the policy in force"),
        OnDisk::Changed => {
            found.warn("the file on the disk decides otherwise than the policy in force", "`coroner reload` loads it");
        }
        OnDisk::Refused(text) => found.fail(
            format!(
                "the file on the disk would be refused, so that the arbiter could not start again: {}",
                first(text)
            ),
            "`coroner check` lists all its mistakes",
        ),
        OnDisk::Unknown => {}
    }
    for finding in lint(&facts.config) {
        let cluster = finding.cluster.as_ref();
        if cluster.is_none_or(|cluster| facts.status.clusters.iter().any(|status| status.cluster == *cluster)) {
            found.cluster = finding.cluster.clone();
            found.push(Level::Warn, finding.message, None);
        }
    }
    found.cluster = None;
}

/// The first line that says something.
fn first(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default()
}

fn arbiter(facts: &Facts, found: &mut Findings) {
    let status = &facts.status;
    match (&status.store_lost, &facts.store) {
        (Some(why), _) | (None, Err(why)) => found.fail(
            format!("the store takes no intents: {why}"),
            "free the disk, mount it writable, or remove the lock; without it no failover begins",
        ),
        (None, Ok(took)) if *took > STORE_SLOW => found.warn(
            format!(
                "the store took {} to write and sync something; every step of a failover waits for it",
                human(*took)
            ),
            "put `arbiter.store` on a faster disk",
        ),
        (None, Ok(took)) => found.ok(format!("the store wrote and synced something in {}", human(*took))),
    }
    let tilt_after = facts.config.policy.arbiter.tilt_after;
    let late = facts.loop_late.max(facts.answered_in);
    let times = |count: u64| if count == 1 { "once".to_owned() } else { format!("{count} times") };
    let before = match facts.tilts {
        0 => String::new(),
        count => format!("; it was late {} since its start, and did not act meanwhile", times(count)),
    };
    if let Some(why) = &status.tilt {
        found.fail(
            format!("it distrusts its own clock or scheduler: {why}"),
            "look for a starved or paused host: processor, memory, disk, a suspended virtual machine",
        );
    } else if late > tilt_after / 2 {
        found.warn(
            format!("the decision loop is {} late, and stops acting at {}{before}", human(late), human(tilt_after)),
            "give the host more processor time",
        );
    } else {
        found.ok(format!("the decision loop answered in {}{before}", human(facts.answered_in)));
    }
    if facts.slept > Duration::from_secs(1) {
        found.warn(
            format!("this machine slept for {} since its boot; meanwhile nothing was watched", human(facts.slept)),
            "run the arbiter where nothing suspends it",
        );
    }
    match facts.clock_source.as_deref() {
        Some(source @ ("jiffies" | "refined-jiffies" | "acpi_pm")) => found.warn(
            format!("the kernel counts time by {source}, which is coarse or slow"),
            "let it use `tsc` or the hypervisor's clock (/sys/devices/system/clocksource)",
        ),
        Some(source) => found.ok(format!("the kernel counts time by {source}")),
        None => {}
    }
    if facts.history_dropped > 0 {
        found.warn(
            format!("the journal missed {} observations since the start", facts.history_dropped),
            "the disk is behind, full, or not to be written: see the log, and `arbiter.journal`",
        );
    }
}

fn mesh(facts: &Facts, found: &mut Findings) {
    let Some(mesh) = &facts.mesh else {
        if facts.config.mesh.is_some() {
            found.fail("the thread of leases has ended: nobody is granted anything", "start the arbiter again");
        } else {
            found.ok("the file has no `mesh`: there are no agents, and what a host could prove is not known");
        }
        return;
    };
    let me = PartyName::from(mesh.me.as_str());
    for party in &mesh.parties {
        one_party(facts, mesh, &me, party, found);
    }
    let between = |link: &&LinkView| link.from != me && link.to != me;
    for link in mesh.links.iter().filter(between).filter(|link| link.is_one_way) {
        found.warn(
            format!("{} hears {} directly, and what it sends to it directly is lost", link.from, link.to),
            format!("look for a filter or a wrong route on the way from {} to {}", link.from, link.to),
        );
    }
    for text in &mesh.troubles {
        // Its remedy stands in it.
        found.push(Level::Warn, text.clone(), None);
    }
}

fn one_party(facts: &Facts, mesh: &MeshView, me: &PartyName, party: &PartyView, found: &mut Findings) {
    let name = &party.party;
    let address = facts.config.mesh.as_ref().and_then(|mesh| mesh.parties.get(name)).map(|party| party.address.clone());
    let address = address.unwrap_or_default();
    if let Some(age) = party.bad_signature.filter(|age| *age < SIGN_FRESH) {
        return found.fail(
            format!("{} ago somebody signed as {name} with a key that is not the file's", human(age)),
            format!("compare `coroner key show` on its host with `mesh.parties.{name}.key`"),
        );
    }
    if let Some(age) = party.differs.filter(|age| *age < SIGN_FRESH) {
        found.fail(
            format!(
                "{} ago the file of {name} and the arbiter's disagreed on what keeps leases safe: length, wait, clock \
                 rate or voters",
                human(age)
            ),
            "bring the same file to both; until then neither grants the other anything",
        );
    }
    let is_of_member = is_of_member(facts, name);
    let level = if is_of_member { Level::Fail } else { Level::Warn };
    let heard = if party.is_agent { party.beat } else { party.heard };
    let Some(age) = heard.filter(|age| *age < HEARD_WITHIN) else {
        let what = match (heard, party.heard) {
            (Some(age), _) => format!("{name} was last heard {} ago", human(age)),
            (None, Some(_)) => format!("{name} answers, and does not tell what it knows"),
            (None, None) => format!("{name} was never heard"),
        };
        let runs = if party.is_agent { "`coroner agent`" } else { "the arbiter" };
        let remedy = format!("does {runs} run there, is UDP {address} open both ways, and do the keys fit?");
        return found.push(level, what, Some(remedy));
    };
    let link = mesh.links.iter().find(|link| link.from == *me && link.to == *name);
    match link {
        Some(LinkView { is_up: true, round_trip, .. }) => {
            let trip = round_trip.map_or_else(String::new, |trip| format!(", {} there and back", human(trip)));
            found.ok(format!("{name} is heard directly{trip}"));
        }
        Some(LinkView { is_one_way: true, .. }) => found.warn(
            format!("{name} is heard directly, and what is sent to it directly is lost: others pass it on"),
            format!("look for a filter or a wrong route on the way from the arbiter to UDP {address}"),
        ),
        _ => found.warn(
            format!("{name} is heard through others only ({} ago)", human(age)),
            format!("open UDP {address} for the arbiter, and the arbiter's own address for it"),
        ),
    }
}

fn is_of_member(facts: &Facts, party: &PartyName) -> bool {
    let parts = facts.config.mesh.as_ref().and_then(|mesh| mesh.parties.get(party)).map(|party| &party.part);
    matches!(parts, Some(crate::config::Part::Members(_)))
}

struct About<'a> {
    facts: &'a Facts,
    status: &'a ClusterStatus,
    policy: &'a ClusterPolicy,
}

impl About<'_> {
    fn agent(&self, member: &MemberName) -> Option<&AgentStatus> {
        self.status.members.iter().find(|m| m.member == *member)?.agent.as_ref()
    }

    fn is_primary(&self, member: &MemberStatus) -> bool {
        self.status.primary.as_ref() == Some(&member.member)
    }

    fn is_under_way(&self) -> bool {
        self.status.incident.is_some()
    }

    // ---- leases -----------------------------------------------------------------------------------------------

    fn leases(&self, found: &mut Findings) {
        let Some(lease) = &self.policy.failover.lease else {
            return found.ok("the primary has no lease: one that no fence reaches is not replaced");
        };
        self.voters(lease, found);
        let Some(primary) = &self.status.primary else { return };
        let Some(agent) = self.agent(primary).filter(|agent| agent.is_heard) else { return };
        let length = human(lease.length);
        match agent.lease {
            LeaseState::Held { left } if agent.appointed == Some(self.status.epoch) => found.ok(format!(
                "{primary} holds the lease of epoch {}: {} of {length} were left when it told",
                self.status.epoch,
                human(left)
            )),
            LeaseState::Held { .. } => found.warn(
                format!("{primary} holds a lease of another epoch than {}", self.status.epoch),
                "it is appointed anew within a second; if this stays, read the log of its agent",
            ),
            LeaseState::Wanted => found.fail(
                format!("{primary} asks for its lease, and no majority grants it: its gate is shut"),
                "look at the links between the voters, and whether their files agree",
            ),
            LeaseState::GivenUp => found.fail(
                format!("{primary} gave its lease up: its evidence says that the broker does not serve"),
                format!("`coroner why {}`, and the log of its agent", self.status.cluster),
            ),
            LeaseState::None => found.fail(
                format!("{primary} is not appointed: it asks for no lease, and its gate is shut"),
                "it is appointed within seconds once the arbiter knows who is primary; if this stays, read the arbiter's log",
            ),
        }
        self.renewals(lease, primary, agent, found);
        for member in self.status.members.iter().filter(|member| !self.is_primary(member)) {
            let agent = member.agent.as_ref().filter(|agent| agent.is_heard);
            if agent.is_some_and(|agent| matches!(agent.lease, LeaseState::Held { .. })) && !self.is_under_way() {
                found.fail(
                    format!("{} holds a lease, and is not the primary", member.member),
                    "`coroner status` and `coroner epoch`: somebody else may have promoted it",
                );
            }
        }
    }

    fn voters(&self, lease: &LeasePolicy, found: &mut Findings) {
        let mesh = self.facts.mesh.as_ref();
        let missing = unheard_voters(&lease.voters, &self.facts.status.arbiter, self.status, mesh);
        let missing: Vec<&str> = missing.into_iter().map(PartyName::as_str).collect();
        let (all, needed) = (lease.voters.len(), lease.voters.len() / 2 + 1);
        let heard = all - missing.len();
        let wait = human(lease.wait);
        if missing.is_empty() {
            found.ok(format!(
                "all {all} voters are heard; after the last grant they wait {wait} before another may serve"
            ));
        } else if heard < needed {
            found.fail(
                format!(
                    "{heard} of {all} voters are heard, and {needed} are needed; not heard: {}",
                    missing.join(", ")
                ),
                "bring them back: nobody could be promoted now",
            );
        } else {
            found.warn(
                format!("{heard} of {all} voters are heard; not heard: {}", missing.join(", ")),
                format!("bring them back: {needed} are needed, and one more that fails may be one too many"),
            );
        }
    }

    fn renewals(&self, lease: &LeasePolicy, primary: &MemberName, agent: &AgentStatus, found: &mut Findings) {
        let Some(health) = &agent.renewals else { return };
        let least = health.least_left_ms.and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok());
        let counted = format!("{} of {} rounds of renewals were granted", health.granted, health.rounds);
        let text = match least {
            Some(least) => format!(
                "{primary}: {counted}; the least that was left was {} of {}, since its agent's start",
                human(least),
                human(lease.length)
            ),
            None => format!("{primary}: {counted}, since its agent's start"),
        };
        // Renewed every quarter, so that three quarters are left when all goes well.
        if least.is_some_and(|least| least < lease.length / 4) {
            found.warn(
                text,
                "its host or the links stall at times: see that the agent has its real-time priority, or write a longer \
                 `lease`",
            );
        } else {
            found.ok(text);
        }
    }

    // ---- gates ------------------------------------------------------------------------------------------------

    fn gates(&self, found: &mut Findings) {
        let guards = self.facts.config.clusters.get(&self.status.cluster).map(|parts| &parts.guards);
        let mut is_any = false;
        for member in &self.status.members {
            let Some(agent) = member.agent.as_ref().filter(|agent| agent.is_heard) else { continue };
            let is_configured = guards.and_then(|g| g.get(&member.member)).is_some_and(|guard| guard.gate.is_some());
            if !is_configured && agent.gate == GateState::None {
                continue;
            }
            is_any = true;
            self.gate(member, agent, found);
        }
        if !is_any {
            found.ok("no gate is to be seen: none is configured, or no agent is heard");
        }
    }

    fn gate(&self, member: &MemberStatus, agent: &AgentStatus, found: &mut Findings) {
        let name = &member.member;
        let drill = self.facts.rehearsals.iter().find(|r| {
            r.cluster == self.status.cluster && r.member == *name && r.method.split_whitespace().any(|w| w == "gate")
        });
        let proved = drill.filter(|drill| drill.usable == Some(true)).map_or_else(String::new, |drill| {
            let age = drill.proof_age.map_or_else(String::new, |age| format!(" {} ago", human(age)));
            format!("; proved{age}: {}", drill.detail)
        });
        match (agent.gate, self.is_primary(member)) {
            (GateState::None, _) => found.fail(
                format!("{name} has no gate, and its file says that it should"),
                "read the log of its agent: `nft` and the capability to use it may be missing",
            ),
            (GateState::Unproven, _) => {
                let said =
                    drill.filter(|d| d.usable == Some(false)).map_or_else(String::new, |d| format!(": {}", d.detail));
                found.fail(
                    format!("the gate of {name} is not proved to stop traffic{said}"),
                    format!("`coroner fence test {} --member {name} --method gate`", self.status.cluster),
                );
            }
            (GateState::Open, true) => {
                found.ok(format!("the gate of {name} is open, as a primary's should be{proved}"))
            }
            (GateState::Closed, false) => {
                found.ok(format!("the gate of {name} is shut, as a standby's should be{proved}"))
            }
            (GateState::Closed, true) | (GateState::Open, false) if self.is_under_way() => {}
            (GateState::Closed, true) => found
                .fail(format!("the gate of the primary {name} is shut: no client reaches it"), "see its lease, above"),
            (GateState::Open, false) => found.fail(
                format!("the gate of {name} is open, and it is not the primary"),
                "`coroner status` and `coroner epoch`: somebody else may have promoted it",
            ),
        }
    }

    // ---- fences -----------------------------------------------------------------------------------------------

    fn fences(&self, found: &mut Findings) {
        let failover = &self.policy.failover;
        let all: Vec<_> = self.facts.rehearsals.iter().filter(|r| r.cluster == self.status.cluster).collect();
        let test = |member: &MemberName| {
            format!("mend it, then `coroner fence test {} --member {member}`", self.status.cluster)
        };
        for member in &self.status.members {
            let name = &member.member;
            let of_member = || all.iter().copied().filter(|r| r.member == *name);
            let reach = FenceReach::of(name, of_member(), failover.proof_needed, self.policy.has_broker);
            let needed = failover.proof_needed;
            let by_lease = failover.lease.is_some();
            let is_new = of_member().any(|r| r.age.is_none());
            match reach.reaches {
                Some(true) => found.ok(format!("{name} can be fenced with proof {}; needed is {needed}", reach.best)),
                None if is_new => found.warn(
                    format!("the fences of {name} were not rehearsed yet"),
                    format!(
                        "wait for {}, or `coroner fence test`",
                        human(self.facts.config.arbiter.check_fences_every)
                    ),
                ),
                None => found.warn(
                    format!("whether {name} can be fenced with proof {needed} cannot be told without harm"),
                    "let the method check itself (`check`, `status`), or try it in a maintenance window",
                ),
                Some(false) if by_lease => found.warn(
                    format!("{name} cannot be fenced with proof {needed} now, only by the end of its lease"),
                    test(name),
                ),
                Some(false) if self.is_primary(member) => {
                    found.fail(format!("the primary {name} cannot be fenced with proof {needed} now"), test(name));
                }
                Some(false) => found.warn(format!("{name} cannot be fenced with proof {needed} now"), test(name)),
            }
            for rehearsal in of_member() {
                let place = format!("{} (level {}) at {name}", rehearsal.method, rehearsal.level);
                let Some(age) = rehearsal.age else { continue };
                let (age_text, took) = (human(age), human(rehearsal.took.unwrap_or_default()));
                let old = self.facts.config.policy.arbiter.check_fences_every.saturating_mul(5);
                match rehearsal.usable {
                    Some(false) => found.warn(format!("{place} would not work: {}", rehearsal.detail), test(name)),
                    _ if age > old => found.warn(
                        format!("{place} was last rehearsed {age_text} ago, and is counted on for {}", human(old)),
                        format!("`coroner fence test {}`", self.status.cluster),
                    ),
                    Some(true) => {
                        found.ok(format!("{place}: rehearsed {age_text} ago in {took}: {}", rehearsal.detail));
                    }
                    None => {
                        let last = rehearsal.proof_age.map_or_else(
                            || "never proved since the arbiter's start".to_owned(),
                            |age| format!("last proved {} ago", human(age)),
                        );
                        found.push(Level::Ok, format!("{place}: {}; {last}", rehearsal.detail), None);
                    }
                }
            }
        }
        if all.is_empty() && failover.lease.is_none() {
            found.fail("there is no fence and no lease: nobody can be promoted", "write `failover.fence`");
        }
    }

    // ---- brokers ----------------------------------------------------------------------------------------------

    fn brokers(&self, found: &mut Findings) {
        let Some(primary) = &self.status.primary else {
            return found.fail(
                "it is not known who is primary",
                "see that the members answer, or declare it with `coroner adopt`",
            );
        };
        let primary_at = self.status.members.iter().find(|m| m.member == *primary).and_then(|m| m.position);
        let fresh_for = self.fresh_for();
        for member in &self.status.members {
            let name = &member.member;
            let is_primary = self.is_primary(member);
            if member.quarantined {
                found.warn(
                    format!("{name} was fenced, and is not back"),
                    format!("repair it, then `coroner rejoin {} {name}`", self.status.cluster),
                );
                continue;
            }
            let Some(seen) = member.seen.filter(|age| *age <= fresh_for) else {
                let since = member
                    .seen
                    .map_or_else(|| "was never seen".into(), |age| format!("was last seen {} ago", human(age)));
                found.fail(
                    format!("{name} {since}"),
                    format!("is it running, and does {} answer from here?", member.address),
                );
                continue;
            };
            let seen = human(seen);
            match member.claims {
                Some(Role::Primary) if !is_primary && !self.is_under_way() => found.fail(
                    format!("{name} says that it is primary, and {primary} is"),
                    "stop clients from writing to it, then bring it back as a standby; `coroner adopt` says who is right",
                ),
                Some(claim) if is_primary && claim != Role::Primary && !self.is_under_way() => found.fail(
                    format!("the primary {name} says that it is a {claim}"),
                    "somebody else may have promoted: `coroner adopt` says who is right",
                ),
                _ if is_primary => found.ok(format!("{name} is primary, seen {seen} ago")),
                _ => {
                    let behind = primary_at.zip(member.position).map(|(primary, own)| primary.saturating_sub(own));
                    let lag = behind.map_or_else(|| "its lag is not known".into(), |behind| format!("{behind} behind"));
                    match (self.policy.failover.candidate_lag_max, behind) {
                        (Some(max), Some(behind)) if behind > max => found.warn(
                            format!("{name} is {behind} behind, and no candidate beyond {max}"),
                            "see to its replication",
                        ),
                        _ => found.ok(format!("{name} is a standby, seen {seen} ago, {lag}")),
                    }
                }
            }
        }
        let links = |name| self.policy.signals.get(name).is_some_and(|signal| signal.kind == SignalKind::Link);
        for stream in self.facts.signals.get(&self.status.cluster).into_iter().flatten().filter(|s| links(&s.signal)) {
            let subject = stream.subject.as_ref().map_or("a standby", |subject| subject.as_str());
            match (stream.up, stream.value) {
                (Some(true), Some(value)) if value > 0.0 => {
                    found.ok(format!("{subject} is linked to its primary: {}", stream.seen))
                }
                (Some(_), _) => found.warn(
                    format!("the replication of {subject} does not run: {}", stream.seen),
                    "see to its replication: what it does not get is lost in a failover",
                ),
                (None, _) => {}
            }
        }
    }

    fn fresh_for(&self) -> Duration {
        let signals = self.policy.signals.values().map(|signal| signal.fresh_for).max().unwrap_or_default();
        signals.max(self.policy.failover.candidate_fresh_for)
    }

    // ---- nodes ------------------------------------------------------------------------------------------------

    fn nodes(&self, found: &mut Findings) {
        let nodes = &self.status.nodes;
        if nodes.is_empty() {
            return found.ok("no nodes are configured");
        }
        let reports = |node| {
            self.policy.signals.values().any(|s| matches!(&s.observers, Observers::Nodes(list) if list.contains(node)))
        };
        let fresh_for = self.fresh_for();
        let (mut reporting, mut expected, mut following) = (0, 0, 0);
        for node in nodes {
            if reports(&node.node) {
                expected += 1;
                match node.seen.filter(|age| *age <= fresh_for) {
                    Some(_) => reporting += 1,
                    None => {
                        let since = node
                            .seen
                            .map_or_else(|| "never reported".into(), |age| format!("last reported {} ago", human(age)));
                        found.warn(
                            format!("{} {since}", node.node),
                            "see to its reporter, its token, and the way to the arbiter",
                        );
                    }
                }
            }
            let is_right =
                node.follows == self.status.primary && node.epoch.is_none_or(|epoch| epoch == self.status.epoch);
            match &node.follows {
                Some(_) if is_right => following += 1,
                Some(other) if !self.is_under_way() => found.warn(
                    format!(
                        "{} follows {other} in epoch {}, and not {} in epoch {}",
                        node.node,
                        node.epoch.map_or_else(|| "?".into(), |epoch| epoch.to_string()),
                        self.status.primary.as_ref().map_or("nobody", |primary| primary.as_str()),
                        self.status.epoch
                    ),
                    "it did not hear of the redirect: move it by hand",
                ),
                _ => {}
            }
        }
        if expected == 0 {
            found.ok(format!("none of {} nodes is to report: whether clients are served is not known", nodes.len()));
        } else if reporting > 0 {
            found.ok(format!("{reporting} of {expected} nodes report; {following} say that they follow the primary"));
        }
        self.ways_to_standbys(found);
    }

    /// A standby that the nodes do not reach would be primary for nobody. Agents tell of it.
    fn ways_to_standbys(&self, found: &mut Findings) {
        let Some(mesh) = &self.facts.mesh else { return };
        for standby in self.status.members.iter().filter(|member| !self.is_primary(member) && member.agent.is_some()) {
            let party = PartyName::from(&standby.member);
            let nodes: Vec<PartyName> = self.status.nodes.iter().map(|node| PartyName::from(&node.node)).collect();
            let links: Vec<_> =
                mesh.links.iter().filter(|link| link.to == party && nodes.contains(&link.from)).collect();
            let cut: Vec<&str> = links.iter().filter(|link| !link.is_up).map(|link| link.from.as_str()).collect();
            if links.is_empty() {
                continue;
            }
            if cut.is_empty() {
                found.ok(format!("all {} nodes whose agents are heard reach {}", links.len(), standby.member));
            } else {
                found.warn(
                    format!(
                        "{} of {} nodes do not reach {} directly: {}",
                        cut.len(),
                        links.len(),
                        standby.member,
                        cut.join(", ")
                    ),
                    "mend the way before it is needed: promoted, it would not serve them",
                );
            }
        }
    }

    // ---- readiness --------------------------------------------------------------------------------------------

    fn readiness(&self, found: &mut Findings) {
        let name = &self.status.cluster;
        let why = format!("`coroner why {name}`");
        match self.status.verdict {
            Verdict::Alive => {}
            Verdict::Unknown => found.warn("nothing is known of the primary", why),
            Verdict::Suspect => found.warn("the primary is suspect", why),
            Verdict::Dead | Verdict::Gray => found.fail(format!("the primary is {}", self.status.verdict), why),
        }
        if let Some(incident) = &self.status.incident {
            let show = format!("`coroner incidents show {}`", incident.id);
            let text = format!("incident {} is {}", incident.id, incident.state);
            let level = if incident.state == IncidentState::Held { Level::Fail } else { Level::Warn };
            found.push(level, text, Some(show));
        }
        for GuardState { guard, reason, .. } in self.status.blocking.iter().filter(|state| state.blocks) {
            let level = match guard {
                Guard::Approval | Guard::NotLeading => Level::Ok,
                Guard::Paused | Guard::HeldByRule | Guard::Cooldown | Guard::Budget | Guard::Busy => Level::Warn,
                _ => Level::Fail,
            };
            let remedy = (level != Level::Ok).then(|| format!("`coroner why-not {name}`"));
            found.push(level, format!("{guard}: {reason}"), remedy);
        }
        if self.status.ready {
            let by = match self.status.mode {
                Mode::Auto => "by itself",
                Mode::Manual => "once a person approves",
                Mode::Shadow => "in shadow only",
            };
            found.ok(format!("a failover could be done now, {by}"));
        }
    }
}
