//! `tests:`: names resolved, words read, times held against each other. What comes out is played by `trial`.

mod given;
mod phrase;

use std::{collections::BTreeMap, time::Duration};

use self::given::Given;
use super::Resolver;
use crate::{
    config::{
        ClusterConfig, Source,
        decode::unknown,
        diagnostic::did_you_mean,
        schema::{Cluster, Expect, Test},
        shape::{At, Entries, OneOrMany, Raw},
        yaml::{Id, Value},
    },
    model::{
        ClusterName, ClusterPolicy, Condition, Expr, MemberName, PartyName, RuleName, SignalName, Span, Trial, Verdict,
        policy::{Observers, SignalKind},
        rule::ExprKind,
        trial::{Claim, Expectation, Response, StreamId, When, moment, streams},
    },
};

/// A story needs more observations than this: refused, so that a file cannot keep `check` busy for hours.
const OBSERVATIONS_MAX: u128 = 2_000_000;
/// No story is shorter, unless it says so.
const LASTS_AT_LEAST: Duration = Duration::from_secs(10);

const VERDICTS: [Verdict; 5] = Verdict::ALL;
const RESPONSES: [Response; 7] = [
    Response::Nothing,
    Response::Alert,
    Response::Redirect,
    Response::Hold,
    Response::Blocked,
    Response::Switchover,
    Response::Failover,
];

/// What a test is read against.
struct Scene<'a> {
    policy: &'a ClusterPolicy,
    parts: &'a ClusterConfig,
    /// The cluster's node.
    id: Id,
    primary: &'a MemberName,
    arbiter: &'a str,
    peers: &'a [String],
    counters: Vec<SignalName>,
    streams: Vec<StreamId>,
    /// The names of all rules, sound or not.
    rules: Vec<&'a str>,
}

/// The clusters that could be resolved.
pub(super) struct Resolved<'a> {
    pub(super) policies: &'a BTreeMap<ClusterName, ClusterPolicy>,
    pub(super) parts: &'a BTreeMap<ClusterName, ClusterConfig>,
    /// The arbiter's name.
    pub(super) arbiter: &'a str,
}

/// An expectation whose times are not settled yet.
struct Draft<'t> {
    at: &'t At<Expect>,
    claims: Vec<Claim>,
    /// What never happens, each by itself.
    never: Vec<Claim>,
}

impl Resolver<'_> {
    pub(super) fn trials(
        &mut self,
        tests: &[At<Test>],
        clusters: Option<&At<Entries<Cluster>>>,
        resolved: &Resolved<'_>,
    ) -> Vec<Trial> {
        let mut names: Vec<&str> = Vec::new();
        let mut trials = Vec::new();
        for at in tests {
            if let Some(name) = &at.value.name {
                if names.contains(&name.value.as_str()) {
                    self.error(name, format!("another test is named `{}` already", self.shown(name.id)));
                }
                if name.value.trim().is_empty() {
                    self.error(name, "a test needs a name that says what it shows");
                }
                names.push(&name.value);
            }
            trials.extend(self.trial(at, clusters, resolved));
        }
        trials
    }

    fn trial(
        &mut self,
        at: &At<Test>,
        clusters: Option<&At<Entries<Cluster>>>,
        resolved: &Resolved<'_>,
    ) -> Option<Trial> {
        let test = &at.value;
        let name = self.need(at.id, "name", &test.name);
        let expect = self.need(at.id, "expect", &test.expect);
        let cluster = self.cluster_of_test(at, clusters)?;
        // A cluster that could not be read was noted where it stands.
        let policy = resolved.policies.get(cluster.0.value.as_str())?;
        let parts = resolved.parts.get(cluster.0.value.as_str())?;
        let (arbiter, peers) = self.arbiters(resolved.arbiter);
        let primary = match &test.primary {
            Some(primary) => {
                let known = policy.members.iter().map(|m| m.name.as_str());
                let found = policy.member(&MemberName::from(primary.value.as_str())).map(|m| &m.name);
                if found.is_none() {
                    let help = did_you_mean(&primary.value, known);
                    self.error_help(primary, format!("there is no member `{}`", self.shown(primary.id)), help);
                }
                found?
            }
            None => policy.initial_primary.as_ref().or_else(|| policy.members.first().map(|m| &m.name))?,
        };
        let counters: Vec<SignalName> = parts
            .sources
            .iter()
            .filter(|(signal, source)| {
                let is_read = matches!(source, Source::Probe { .. });
                is_read && policy.signals.get(*signal).is_some_and(|s| s.kind == SignalKind::Arrivals)
            })
            .map(|(signal, _)| signal.clone())
            .collect();
        let rules = cluster.1.value.death_rules.iter().filter_map(|r| Some(r.value.name.as_ref()?.value.as_str()));
        let scene = Scene {
            streams: streams(policy, primary, &peers),
            rules: rules.collect(),
            id: cluster.1.id,
            arbiter: &arbiter,
            peers: &peers,
            policy,
            parts,
            primary,
            counters,
        };
        let given = match &test.given {
            Some(entries) => self.given(&scene, &entries.value.0),
            None => Given::default(),
        };
        let drafts = self.drafts(&scene, expect?);
        let lasts = self.length(&scene, at, &given, &drafts);
        let given = self.phases(&scene, &given, lasts);
        self.check_length(&scene, at, lasts);
        let expect = drafts.iter().flat_map(|draft| self.expectations(draft, lasts)).collect();
        Some(Trial {
            name: name?.value.clone(),
            line: self.tree.place(test.name.as_ref()?.id).line,
            cluster: policy.name.clone(),
            primary: primary.clone(),
            counters: scene.counters,
            arbiter,
            peers,
            lasts,
            given,
            expect,
        })
    }

    fn cluster_of_test<'c>(
        &mut self,
        at: &At<Test>,
        clusters: Option<&'c At<Entries<Cluster>>>,
    ) -> Option<&'c (At<String>, At<Cluster>)> {
        let list = &clusters?.value.0;
        let known = list.iter().map(|(name, _)| name.value.as_str());
        match (&at.value.cluster, list.as_slice()) {
            (Some(word), _) => {
                let found = list.iter().find(|(name, _)| name.value == word.value);
                // One that could not be read was noted where it stands.
                let root = self.tree.root.and_then(|root| self.tree.get(root, "clusters"));
                let is_declared = root.is_some_and(|clusters| self.tree.get(clusters, &word.value).is_some());
                if found.is_none() && !is_declared {
                    let help = did_you_mean(&word.value, known);
                    self.error_help(word, format!("there is no cluster `{}`", self.shown(word.id)), help);
                }
                found
            }
            (None, [only]) => Some(only),
            (None, []) => None,
            (None, _) => {
                let help = format!("write `cluster: …`; {}", did_you_mean("", known));
                let place = at.value.name.as_ref().map_or_else(|| self.tree.head(at.id), |n| self.tree.place(n.id));
                self.notes.error_help(place, "the file has several clusters: whose rules does this test?", help);
                None
            }
        }
    }

    /// Who judges, and the other arbiters.
    fn arbiters(&self, own: &str) -> (String, Vec<String>) {
        let all: Vec<String> =
            self.mesh.iter().flat_map(|mesh| &mesh.arbiters).map(|name: &PartyName| name.as_str().to_owned()).collect();
        let me =
            all.iter().find(|name| *name == own).or_else(|| all.first()).cloned().unwrap_or_else(|| own.to_owned());
        let peers = all.into_iter().filter(|name| *name != me).collect();
        (me, peers)
    }

    // ---- what is expected -------------------------------------------------------------------------------------

    fn drafts<'t>(&mut self, scene: &Scene<'_>, expect: &'t OneOrMany<At<Expect>>) -> Vec<Draft<'t>> {
        let list = match expect {
            OneOrMany::One(one) => std::slice::from_ref(one),
            OneOrMany::Many(list) => list.as_slice(),
        };
        list.iter().map(|at| self.draft(scene, at)).collect()
    }

    fn draft<'t>(&mut self, scene: &Scene<'_>, at: &'t At<Expect>) -> Draft<'t> {
        let e = &at.value;
        let mut claims = Vec::new();
        claims.extend(e.verdict.as_ref().map(|v| Claim::Verdict(v.value)));
        claims.extend(e.then.as_ref().map(|t| Claim::Then(t.value)));
        if let Some(rule) = &e.rule {
            claims.extend(self.rule_name(scene, rule.id).map(Claim::Rule));
        }
        for rule in each(e.fires.as_ref()) {
            claims.extend(self.rule_name(scene, rule.id).map(Claim::Fires));
        }
        claims.extend(each(e.blocked_by.as_ref()).map(|guard| Claim::BlockedBy(guard.value)));
        if let Some(member) = &e.candidate {
            let standbys = scene.policy.members.iter().map(|m| &m.name).filter(|m| *m != scene.primary);
            match standbys.clone().find(|m| m.as_str() == member.value) {
                Some(found) => claims.push(Claim::Candidate(found.clone())),
                None => {
                    let help = did_you_mean(&member.value, standbys.map(MemberName::as_str));
                    self.error_help(member, format!("there is no standby `{}`", self.shown(member.id)), help);
                }
            }
        }
        let never = match e.never {
            Some(Raw(id)) => self.never(scene, id),
            None => Vec::new(),
        };
        self.check_expectation(at);
        Draft { at, claims, never }
    }

    fn check_expectation(&mut self, at: &At<Expect>) {
        let e = &at.value;
        let is_written = |word: &&str| self.tree.get(at.id, word).is_some();
        let claims = ["verdict", "then", "rule", "fires", "blocked_by", "candidate"];
        let has_claim = claims.iter().any(is_written);
        let has_never = is_written(&"never");
        let head = self.tree.head(at.id);
        if !has_claim && !has_never {
            let help = "write for example `verdict: dead`, `then: failover`, or `never: failover`";
            self.notes.error_help(head, "it expects nothing", help);
        }
        for time in [&e.from, &e.until].into_iter().flatten().filter(|_| !has_never) {
            let place = self.tree.node(time.id).key.map_or(head, |key| self.tree.place(key));
            self.notes.error_help(place, "`from` and `until` belong to `never`", "write `at`, `by` or `not_before`");
        }
        for time in [&e.at, &e.by, &e.not_before].into_iter().flatten().filter(|_| has_never && !has_claim) {
            let place = self.tree.node(time.id).key.map_or(head, |key| self.tree.place(key));
            self.notes.error_help(place, "`never` is about a span, not about a moment", "write `from` or `until`");
        }
        if let (Some(moment), Some(other)) = (&e.at, e.by.as_ref().or(e.not_before.as_ref())) {
            let place = self.tree.node(other.id).key.unwrap_or(moment.id);
            let message = "`at` says the moment already";
            self.notes.error_help(self.tree.place(place), message, "leave it out, or write `not_before` and `by`");
        }
        if let (Some(by), Some(not_before)) = (&e.by, &e.not_before)
            && not_before.value > by.value
        {
            let (late, early) = (moment(not_before.value.0), moment(by.value.0));
            self.error(by, format!("it cannot come by {early} and not before {late}"));
        }
    }

    /// A verdict, a reaction, or a rule's name, whichever it is; `{ rule: … }` for a rule that is named like another word.
    fn never(&mut self, scene: &Scene<'_>, id: Id) -> Vec<Claim> {
        if let Value::Seq(items) = &self.tree.node(id).value {
            return items.iter().filter_map(|item| self.never_one(scene, *item)).collect();
        }
        self.never_one(scene, id).into_iter().collect()
    }

    fn never_one(&mut self, scene: &Scene<'_>, id: Id) -> Option<Claim> {
        let verdict = |word: &str| VERDICTS.into_iter().find(|v| v.as_str() == word);
        let response = |word: &str| RESPONSES.into_iter().find(|r| r.to_string() == word);
        let (key, value) = match self.tree.entries(id) {
            [] => ("", id),
            [(key, value)] => (self.tree.node(*key).text.as_str(), *value),
            [_, (second, _), ..] => {
                self.notes.error_help(self.tree.place(*second), "one thing at a time", "write a list of them");
                return None;
            }
        };
        let word = self.tree.node(value).text.as_str();
        let responses: Vec<String> = RESPONSES.iter().map(ToString::to_string).collect();
        let verdicts = VERDICTS.iter().map(|v| v.as_str());
        let known: Vec<&str> = match key {
            "verdict" => verdicts.collect(),
            "then" => responses.iter().map(String::as_str).collect(),
            "rule" => scene.rules.clone(),
            "" => verdicts.chain(responses.iter().map(String::as_str)).chain(scene.rules.iter().copied()).collect(),
            _ => {
                let place =
                    self.tree.entries(id).first().map_or_else(|| self.tree.head(id), |(k, _)| self.tree.place(*k));
                unknown(self.notes, place, "key", key, &["verdict", "then", "rule"]);
                return None;
            }
        };
        let is_rule = |word: &str| scene.rules.contains(&word).then(|| Claim::Fires(RuleName::from(word)));
        let found = match key {
            "verdict" => verdict(word).map(Claim::Verdict),
            "then" => response(word).map(Claim::Then),
            "rule" => is_rule(word),
            _ => {
                verdict(word).map(Claim::Verdict).or_else(|| response(word).map(Claim::Then)).or_else(|| is_rule(word))
            }
        };
        if found.is_none() {
            let help = did_you_mean(word, known.iter().copied());
            let message = format!("`{}` is no verdict, no reaction and no rule", self.shown(value));
            self.notes.error_help(self.tree.head(value), message, help);
        }
        found
    }

    fn rule_name(&mut self, scene: &Scene<'_>, id: Id) -> Option<RuleName> {
        let word = self.tree.node(id).text.as_str();
        if scene.rules.contains(&word) {
            return Some(word.into());
        }
        let help = did_you_mean(word, scene.rules.iter().copied());
        let message = format!("{} has no rule `{}`", scene.policy.name, self.shown(id));
        self.notes.error_help(self.tree.head(id), message, help);
        None
    }

    // ---- times ------------------------------------------------------------------------------------------------

    /// How long the story lasts.
    fn length(&mut self, scene: &Scene<'_>, at: &At<Test>, given: &Given, drafts: &[Draft<'_>]) -> Duration {
        if let Some(written) = &at.value.for_ {
            if written.value.0.is_zero() {
                self.error(written, "a story of no length shows nothing");
            }
            return written.value.0;
        }
        // `silent for 60s`: then it is judged.
        if let Some(last) = given.last() {
            return last.max(given.changes());
        }
        // Else until nothing changes any more, so that what comes too late is seen to come.
        let asked = drafts.iter().flat_map(|draft| times(&draft.at.value)).map(|(_, at)| at.value.0).max();
        asked.unwrap_or_default().max(given.changes()).saturating_add(settles_after(scene.policy))
    }

    fn check_length(&mut self, scene: &Scene<'_>, at: &At<Test>, lasts: Duration) {
        let looks: u128 = scene
            .streams
            .iter()
            .filter_map(|id| scene.policy.signals.get(&id.signal))
            .map(|signal| lasts.as_millis() / signal.every.as_millis().max(1))
            .sum();
        if looks > OBSERVATIONS_MAX {
            let place = match (&at.value.for_, &at.value.name) {
                (Some(written), _) => self.tree.place(written.id),
                (None, Some(name)) => self.tree.place(name.id),
                (None, None) => self.tree.head(at.id),
            };
            let message =
                format!("a story of {} takes {looks} observations; {OBSERVATIONS_MAX} are the most", moment(lasts));
            self.notes.error_help(place, message, "make it shorter");
        }
    }

    fn expectations(&mut self, draft: &Draft<'_>, lasts: Duration) -> Vec<Expectation> {
        let e = &draft.at.value;
        for (word, time) in times(e) {
            if time.value.0 > lasts {
                let message =
                    format!("the story ends at {}: `{word}: {}` lies behind it", moment(lasts), moment(time.value.0));
                let help = format!(
                    "write `for: {}` beside `name`, or `from …` instead of `for …` under `given`",
                    moment(time.value.0)
                );
                self.error_help(time, message, help);
            }
        }
        let span = |at: &Option<At<Span>>| at.as_ref().map(|at| at.value.0);
        let line = self.tree.head(draft.at.id).line;
        let line = self.tree.entries(draft.at.id).first().map_or(line, |(key, _)| self.tree.place(*key).line);
        let mut list = Vec::new();
        if !draft.claims.is_empty() {
            let when = match (span(&e.at), span(&e.by), span(&e.not_before)) {
                (Some(at), ..) => When::At(at),
                (None, None, None) => When::At(lasts),
                (None, by, not_before) => {
                    When::First { not_before: not_before.unwrap_or_default(), by: by.unwrap_or(lasts) }
                }
            };
            list.push(Expectation { line, when, claims: draft.claims.clone() });
        }
        let never = When::Never { from: span(&e.from).unwrap_or_default(), until: span(&e.until).unwrap_or(lasts) };
        let line = e.never.map_or(line, |Raw(id)| self.tree.head(id).line);
        list.extend(draft.never.iter().map(|claim| Expectation { line, when: never, claims: vec![claim.clone()] }));
        list
    }
}

/// All times that an expectation names.
fn times(e: &Expect) -> impl Iterator<Item = (&'static str, &At<Span>)> {
    let all = [("at", &e.at), ("by", &e.by), ("not_before", &e.not_before), ("from", &e.from), ("until", &e.until)];
    all.into_iter().filter_map(|(word, at)| Some((word, at.as_ref()?)))
}

fn each<T>(list: Option<&OneOrMany<At<T>>>) -> std::slice::Iter<'_, At<T>> {
    match list {
        None => [].iter(),
        Some(OneOrMany::One(one)) => std::slice::from_ref(one).iter(),
        Some(OneOrMany::Many(list)) => list.iter(),
    }
}

/// After so long with nothing new, no rule of the cluster changes by itself any more.
fn settles_after(policy: &ClusterPolicy) -> Duration {
    let longest = policy.rules.iter().map(|rule| branch_settles_after(policy, &rule.when)).max().unwrap_or_default();
    let stale = policy.signals.values().filter(|s| !is_webhook(s.kind, &s.observers)).map(|s| s.fresh_for).max();
    let whole = longest.max(stale.unwrap_or_default()).saturating_add(Duration::from_secs(1)).max(LASTS_AT_LEAST);
    // Whole seconds read better.
    Duration::from_secs(whole.as_secs() + u64::from(whole.subsec_nanos() > 0))
}

fn is_webhook(kind: SignalKind, observers: &Observers) -> bool {
    kind == SignalKind::Alert && *observers == Observers::Arbiter
}

fn branch_settles_after(policy: &ClusterPolicy, expr: &Expr) -> Duration {
    let own = expr.hold.unwrap_or_default().saturating_add(expr.window.map_or(Duration::ZERO, |window| window.of));
    let below = match &expr.kind {
        ExprKind::Signal { signal, condition } | ExprKind::Observers { signal, are: condition, .. } => {
            let Some(spec) = policy.signals.get(signal) else { return own };
            if is_webhook(spec.kind, &spec.observers) {
                return own;
            }
            let of_itself = match condition {
                Condition::Silent(d) | Condition::Stalled(d) | Condition::LagLongerThan(d) => *d,
                Condition::FailingOf { of, .. } => spec.every.saturating_mul(*of),
                Condition::PhiAbove(_) => spec.every.saturating_mul(10),
                _ => Duration::ZERO,
            };
            of_itself.saturating_add(spec.every.saturating_mul(2)).max(spec.fresh_for)
        }
        _ => expr.children().iter().map(|child| branch_settles_after(policy, child)).max().unwrap_or_default(),
    };
    own.saturating_add(below)
}
