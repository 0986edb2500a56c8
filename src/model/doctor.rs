//! What `fence test` and `doctor` show: what was rehearsed, how the mesh is linked, what is amiss in the whole deployment,
//! and how long a failover takes.

use std::{collections::BTreeMap, fmt, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClusterName, IncidentId, MemberName, PartyName, Proof, status::ClusterStatus, time::millis};

/// The newest rehearsal of one fence method at one member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rehearsal {
    /// The cluster.
    pub cluster: ClusterName,
    /// The member.
    pub member: MemberName,
    /// The level of the file, from 1.
    pub level: usize,
    /// The method, as the file names it.
    pub method: String,
    /// `true`: would work. `false`: would not. Null: that cannot be told without harm, or it was not rehearsed yet.
    pub usable: Option<bool>,
    /// Why.
    pub detail: String,
    /// The best proof that it can give by itself.
    pub best_proof: Proof,
    /// How long the rehearsal took.
    #[serde(with = "millis::option", rename = "took_ms")]
    #[schemars(with = "Option<f64>")]
    pub took: Option<Duration>,
    /// How long ago it was; null: it was not rehearsed yet.
    #[serde(with = "millis::option", rename = "age_ms")]
    #[schemars(with = "Option<f64>")]
    pub age: Option<Duration>,
    /// How long ago a rehearsal last showed that it would work, since the arbiter's start.
    #[serde(with = "millis::option", rename = "proof_age_ms")]
    #[schemars(with = "Option<f64>")]
    pub proof_age: Option<Duration>,
}

/// What `fence test` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FenceTest {
    /// Only at this member.
    pub member: Option<MemberName>,
    /// Only this method, as the file names it or by the word it begins with.
    pub method: Option<String>,
}

/// What came of rehearsing the fences of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FenceTestReport {
    /// The cluster.
    pub cluster: ClusterName,
    /// A promotion needs this proof.
    pub proof_needed: Proof,
    /// The end of a lease is a proof too, if nothing else gives one.
    pub has_lease: bool,
    /// Every method at every member.
    pub rehearsals: Vec<Rehearsal>,
    /// What they add up to, by member.
    pub members: Vec<FenceReach>,
}

/// What the fences of one member can reach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FenceReach {
    /// The member.
    pub member: MemberName,
    /// The best proof of those that would work.
    pub best: Proof,
    /// Whether that meets what a promotion needs. Null: only with methods of which it cannot be told whether they work.
    pub reaches: Option<bool>,
}

impl FenceReach {
    /// Adds up the rehearsals of one member. `reads_back`: a forbidden write can make a bare claim a proof that was read
    /// back.
    #[must_use]
    pub fn of<'a>(
        member: &MemberName,
        rehearsals: impl IntoIterator<Item = &'a Rehearsal>,
        needed: Proof,
        reads_back: bool,
    ) -> Self {
        let (mut best, mut perhaps) = (Proof::Nothing, Proof::Nothing);
        for rehearsal in rehearsals.into_iter().filter(|r| r.member == *member) {
            let proof = match rehearsal.best_proof {
                Proof::Claim if reads_back => Proof::ReadBack,
                proof => proof,
            };
            match rehearsal.usable {
                Some(true) => best = best.max(proof),
                None => perhaps = perhaps.max(proof),
                Some(false) => {}
            }
        }
        let reaches = match (best.meets(needed), perhaps.meets(needed)) {
            (true, _) => Some(true),
            (false, true) => None,
            (false, false) => Some(false),
        };
        Self { member: member.clone(), best, reaches }
    }
}

/// The mesh, as the arbiter knows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MeshView {
    /// The arbiter's own name in it.
    pub me: String,
    /// The others.
    pub parties: Vec<PartyView>,
    /// Every link that somebody told of.
    pub links: Vec<LinkView>,
    /// Messages, by what became of them, since the start.
    pub counts: BTreeMap<String, u64>,
    /// What the thread of leases does without.
    pub troubles: Vec<String>,
}

/// One of the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PartyView {
    /// Its name.
    pub party: PartyName,
    /// Whether it is an agent, which beats; another arbiter does not.
    pub is_agent: bool,
    /// Age of its newest word, by whatever path; null: it was never heard.
    #[serde(with = "millis::option", rename = "heard_ms")]
    #[schemars(with = "Option<f64>")]
    pub heard: Option<Duration>,
    /// Age of its newest beat.
    #[serde(with = "millis::option", rename = "beat_ms")]
    #[schemars(with = "Option<f64>")]
    pub beat: Option<Duration>,
    /// Whether its newest beat came without a detour.
    pub is_direct: Option<bool>,
    /// Age of the newest message in its name that another key had signed.
    #[serde(with = "millis::option", rename = "bad_signature_ms")]
    #[schemars(with = "Option<f64>")]
    pub bad_signature: Option<Duration>,
    /// Age of the newest sign that its file and the arbiter's disagree on what keeps leases safe.
    #[serde(with = "millis::option", rename = "differs_ms")]
    #[schemars(with = "Option<f64>")]
    pub differs: Option<Duration>,
}

impl MeshView {
    /// One of the others.
    #[must_use]
    pub fn party(&self, name: &PartyName) -> Option<&PartyView> {
        self.parties.iter().find(|party| party.party == *name)
    }
}

/// Another arbiter that was not heard for so long, by whatever path, is not heard.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

/// The voters of a cluster's lease that are not heard. `arbiter`: the one that asks, which hears itself.
#[must_use]
pub fn unheard_voters<'a>(
    voters: &'a [PartyName],
    arbiter: &str,
    cluster: &ClusterStatus,
    mesh: Option<&MeshView>,
) -> Vec<&'a PartyName> {
    let is_heard = |voter: &PartyName| {
        let member = cluster.members.iter().find(|member| PartyName::from(&member.member) == *voter);
        let party = mesh.and_then(|mesh| mesh.party(voter)).filter(|party| !party.is_agent);
        voter.as_str() == arbiter
            || member.and_then(|member| member.agent.as_ref()).is_some_and(|agent| agent.is_heard)
            || party.and_then(|party| party.heard).is_some_and(|age| age < HEARD_WITHIN)
    };
    voters.iter().filter(|voter| !is_heard(voter)).collect()
}

/// One link, as the party at its near end knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LinkView {
    /// Who says so.
    pub from: PartyName,
    /// The other end.
    pub to: PartyName,
    /// Whether questions sent directly are answered directly.
    pub is_up: bool,
    /// Whether `to` is heard directly and does not answer directly: what `from` sends is lost on the way.
    pub is_one_way: bool,
    /// The newest round trip, where it is known.
    #[serde(with = "millis::option", rename = "round_trip_ms")]
    #[schemars(with = "Option<f64>")]
    pub round_trip: Option<Duration>,
}

/// What an examination of the whole deployment found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DoctorReport {
    /// The arbiter's name.
    pub arbiter: String,
    /// Its version.
    pub version: String,
    /// Hash of the policy in force.
    pub policy_hash: String,
    /// What was found, good and bad, by section.
    pub findings: Vec<Finding>,
    /// How long a failover of each cluster takes.
    pub timelines: Vec<Timeline>,
    /// The fences, as they were rehearsed last.
    pub rehearsals: Vec<Rehearsal>,
    /// The mesh; null: the file has none.
    pub mesh: Option<MeshView>,
}

impl DoctorReport {
    /// The worst of the findings.
    #[must_use]
    pub fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or_default()
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// What part of the deployment it is about.
    pub section: Section,
    /// How bad it is.
    pub level: Level,
    /// The cluster; null: all of them.
    pub cluster: Option<ClusterName>,
    /// What was found.
    pub text: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    #[default]
    Ok,
    /// It works, and something is missing or near a limit.
    Warn,
    /// A failover now would not do what it should.
    Fail,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// The parts of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    /// The configuration file.
    File,
    /// The arbiter's own process: store, clock, decision loop.
    Arbiter,
    /// The links between arbiters and agents.
    Mesh,
    /// The primaries' leases, and who votes.
    Leases,
    /// The gates before the brokers' ports.
    Gates,
    /// The fences, as they were rehearsed.
    Fences,
    /// The brokers: roles, lag, replication.
    Brokers,
    /// The nodes.
    Nodes,
    /// Whether a failover could be done now.
    Readiness,
}

impl Section {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::File,
        Self::Arbiter,
        Self::Mesh,
        Self::Leases,
        Self::Gates,
        Self::Fences,
        Self::Brokers,
        Self::Nodes,
        Self::Readiness,
    ];
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::File => "File",
            Self::Arbiter => "Arbiter",
            Self::Mesh => "Mesh",
            Self::Leases => "Leases",
            Self::Gates => "Gates",
            Self::Fences => "Fences",
            Self::Brokers => "Brokers",
            Self::Nodes => "Nodes",
            Self::Readiness => "Readiness",
        })
    }
}

/// How long a failover of one cluster takes: by the file at worst, and as it was measured last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Timeline {
    /// The cluster.
    pub cluster: ClusterName,
    /// The steps, in their order.
    pub steps: Vec<TimelineStep>,
    /// The sum of the worst cases: the slowest rule that acts, and every step once. Null: no bound is known.
    #[serde(with = "millis::option", rename = "worst_ms")]
    #[schemars(with = "Option<f64>")]
    pub worst: Option<Duration>,
    /// The newest outage, from the last message under the old epoch to the first under the new one, as nodes told.
    #[serde(with = "millis::option", rename = "measured_ms")]
    #[schemars(with = "Option<f64>")]
    pub measured: Option<Duration>,
    /// The incident in which that was measured.
    pub measured_in: Option<IncidentId>,
}

/// One step of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TimelineStep {
    /// What.
    pub step: String,
    /// Whether it is in the sum. What runs beside a longer step, or is an alternative to another, is not.
    pub counts: bool,
    /// The longest it may take by the file, once. Null: that depends on more than the file.
    #[serde(with = "millis::option", rename = "worst_ms")]
    #[schemars(with = "Option<f64>")]
    pub worst: Option<Duration>,
    /// How long it took last.
    #[serde(with = "millis::option", rename = "measured_ms")]
    #[schemars(with = "Option<f64>")]
    pub measured: Option<Duration>,
    /// Where that was measured: an incident, or a rehearsal.
    pub measured_in: Option<String>,
    /// What else is to be said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rehearsal(usable: Option<bool>, best_proof: Proof) -> Rehearsal {
        Rehearsal {
            cluster: "orders".into(),
            member: "a".into(),
            level: 1,
            method: "kill".into(),
            usable,
            detail: String::new(),
            best_proof,
            took: None,
            age: None,
            proof_age: None,
        }
    }

    #[test]
    fn what_would_work_reaches_what_cannot_be_told_may_and_the_rest_does_not() {
        let reach = |list: &[Rehearsal], reads_back| FenceReach::of(&"a".into(), list, Proof::ReadBack, reads_back);
        assert_eq!(reach(&[], true).reaches, Some(false));
        assert_eq!(reach(&[rehearsal(Some(true), Proof::Stopped)], false).reaches, Some(true));
        assert_eq!(reach(&[rehearsal(Some(false), Proof::Stopped)], false).reaches, Some(false));
        assert_eq!(reach(&[rehearsal(None, Proof::Stopped)], false).reaches, None);
        assert_eq!(reach(&[rehearsal(Some(true), Proof::Claim)], false).reaches, Some(false));
        let read_back = reach(&[rehearsal(Some(true), Proof::Claim), rehearsal(None, Proof::Gate)], true);
        assert_eq!((read_back.best, read_back.reaches), (Proof::ReadBack, Some(true)));
        let other = Rehearsal { member: "b".into(), ..rehearsal(Some(true), Proof::Gate) };
        assert_eq!(reach(&[other], true).reaches, Some(false));
    }
}
