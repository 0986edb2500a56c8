//! Tests of death rules, played: the `tests:` of a file against the real engine.
//!
//! Pure: no clock, no socket; a story of an hour takes milliseconds. The primary is known and everybody is well; then each
//! stream shows what the test says, at the signal's own period, and the engine judges as it does in production. Nothing is
//! carried out. What *would* be done is found where the engine would do it: the rules and guards are those of the cluster,
//! and when nothing but a person's approval stands against an act, a copy of the engine in `mode: auto` is asked to open
//! the incident. So a test says the same in every mode; `mode` only says what becomes of it.
//!
//! What a story leaves out, and so cannot show: a look takes no time, everything arrives at once, the arbiter is never late
//! and its store always answers. `coroner simulate` is for those.
//!
//! - [`world`]: what is seen, moment by moment.
//! - [`stage`]: the engine in that world, and what is believed at each moment.
//! - here: what was expected against what came.

mod stage;
mod world;

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

pub use self::stage::Belief;
use self::stage::Stage;
use crate::model::{
    ClusterName, Policy, Trial,
    explain::GuardState,
    status::Why,
    time::millis,
    trial::{Claim, Expectation, Response, When, moment},
};

/// What came of one test.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// The line of the file where it stands.
    pub line: u32,
    /// The cluster.
    pub cluster: ClusterName,
    /// Whether all that was expected came.
    pub passed: bool,
    /// What did not.
    pub misses: Vec<Miss>,
    /// What was believed, each time that it changed.
    pub story: Vec<Scene>,
}

/// What was believed from a moment on.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Scene {
    /// When, from the beginning of the story.
    #[serde(with = "millis", rename = "at_ms")]
    #[schemars(with = "f64")]
    pub at: Duration,
    /// What.
    #[serde(flatten)]
    pub belief: Belief,
}

/// An expectation that was not met.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Miss {
    /// The line of the file where it stands.
    pub line: u32,
    /// What was expected, and when.
    pub expected: String,
    /// What came instead.
    pub came: String,
    /// The moment that is explained.
    #[serde(with = "millis", rename = "at_ms")]
    #[schemars(with = "f64")]
    pub at: Duration,
    /// The rules at that moment, explained.
    pub why: Why,
    /// The guards that stood against an act at that moment; approval is a matter of `mode` and not among them.
    pub against: Vec<GuardState>,
}

/// Plays one test. The policy may hold other clusters: they take no part.
///
/// `None`: the policy has no such cluster.
#[must_use]
pub fn play(policy: &Policy, trial: &Trial) -> Option<Outcome> {
    let mut stage = Stage::new(policy, trial)?;
    stage.play(trial.lasts);
    let story = stage.story();
    let misses: Vec<Miss> = trial
        .expect
        .iter()
        .filter_map(|expectation| {
            let (at, came) = miss(&story, expectation)?;
            let mut stage = Stage::new(policy, trial)?;
            stage.play(at);
            let (why, against) = stage.explain()?;
            let claims: Vec<String> = expectation.claims.iter().map(ToString::to_string).collect();
            let expected = format!("{}: {}", expectation.when, claims.join(", "));
            Some(Miss { line: expectation.line, expected, came, at, why, against })
        })
        .collect();
    Some(Outcome {
        name: trial.name.clone(),
        line: trial.line,
        cluster: trial.cluster.clone(),
        passed: misses.is_empty(),
        misses,
        story,
    })
}

/// Where and how an expectation was missed; `None`: it was met.
fn miss(story: &[Scene], expectation: &Expectation) -> Option<(Duration, String)> {
    let claims = &expectation.claims;
    match expectation.when {
        When::At(at) => {
            let belief = believed_at(story, at)?;
            (!meets(belief, claims)).then(|| (at, instead(belief, claims)))
        }
        When::First { not_before, by } => {
            let first = story.iter().take_while(|scene| scene.at <= by).find(|scene| meets(&scene.belief, claims));
            match first {
                Some(scene) if scene.at < not_before => {
                    Some((scene.at, format!("it was so at {} already", moment(scene.at))))
                }
                Some(_) => None,
                None => {
                    let belief = believed_at(story, by)?;
                    let later = story.iter().find(|scene| meets(&scene.belief, claims));
                    let later = later.map_or_else(String::new, |scene| format!("; it came at {}", moment(scene.at)));
                    Some((by, format!("{}{later}", instead(belief, claims))))
                }
            }
        }
        When::Never { from, until } => {
            let ends = story.iter().skip(1).map(|scene| Some(scene.at)).chain([None]);
            let (scene, _) = story.iter().zip(ends).find(|(scene, end)| {
                scene.at <= until && end.is_none_or(|end| end > from) && meets(&scene.belief, claims)
            })?;
            let at = scene.at.max(from);
            Some((at, format!("at {}: {}", moment(at), instead(&scene.belief, claims))))
        }
    }
}

fn believed_at(story: &[Scene], at: Duration) -> Option<&Belief> {
    story.iter().take_while(|scene| scene.at <= at).last().map(|scene| &scene.belief)
}

fn meets(belief: &Belief, claims: &[Claim]) -> bool {
    claims.iter().all(|claim| match claim {
        Claim::Verdict(verdict) => belief.verdict == *verdict,
        Claim::Then(then) => belief.then == *then,
        Claim::Rule(rule) => belief.rule.as_ref() == Some(rule),
        Claim::Fires(rule) => belief.fires.contains(rule),
        Claim::BlockedBy(guard) => belief.blocked_by.contains(guard),
        Claim::Candidate(member) => belief.candidate.as_ref() == Some(member),
    })
}

/// What is so, in the words of what was claimed.
fn instead(belief: &Belief, claims: &[Claim]) -> String {
    let mut said: Vec<String> = Vec::new();
    for claim in claims {
        let words = match claim {
            Claim::Verdict(_) => format!("verdict {}", belief.verdict),
            Claim::Then(_) => match belief.then {
                Response::Blocked => format!("then blocked (by {})", listed(&belief.blocked_by)),
                then => format!("then {then}"),
            },
            Claim::Rule(_) => match &belief.rule {
                Some(rule) => format!("by the rule `{rule}`"),
                None => "by no rule".into(),
            },
            Claim::Fires(_) => match belief.fires.as_slice() {
                [] => "no rule holds".into(),
                [one] => format!("`{one}` alone holds"),
                several => {
                    let names: Vec<String> = several.iter().map(|rule| format!("`{rule}`")).collect();
                    format!("{} hold", names.join(", "))
                }
            },
            Claim::BlockedBy(_) if belief.blocked_by.is_empty() => "blocked by nothing".into(),
            Claim::BlockedBy(_) => format!("blocked by {}", listed(&belief.blocked_by)),
            Claim::Candidate(_) => match &belief.candidate {
                Some(member) => format!("{member} would be promoted"),
                None => "nobody would be promoted".into(),
            },
        };
        if !said.contains(&words) {
            said.push(words);
        }
    }
    said.join(", ")
}

fn listed(guards: &[crate::model::explain::Guard]) -> String {
    guards.iter().map(|guard| guard.as_str()).collect::<Vec<_>>().join(", ")
}
