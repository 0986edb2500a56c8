//! Words of tests: `silent for 60s`, `refused from 20s until 30s`, `ok in 250ms`, `5000 behind`, `cut off`.

use std::time::Duration;

use crate::model::{
    FailureKind, Role, Span,
    policy::{Observers, SignalKind, SignalPolicy},
    trial::Sight,
};

/// How looking can fail, in the order of `FailureKind`.
const FAILURES: [FailureKind; 14] = [
    FailureKind::Refused,
    FailureKind::TimedOut,
    FailureKind::Unreachable,
    FailureKind::Reset,
    FailureKind::WrongAnswer,
    FailureKind::Full,
    FailureKind::ReadOnly,
    FailureKind::Loading,
    FailureKind::Overloaded,
    FailureKind::Auth,
    FailureKind::Tls,
    FailureKind::Parse,
    FailureKind::NotFound,
    FailureKind::Local,
];

/// When a state is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// From the beginning to the end.
    Throughout,
    /// For so long at the end.
    Last(Duration),
    /// From a moment on, and perhaps until another one.
    From(Duration, Option<Duration>),
}

/// What a signal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// What agents tell of themselves.
    Agents,
    /// Arrivals read off a counter.
    Counter,
    /// An alert that another system pushes.
    Webhook,
    /// Looked at by the arbiter, or sent by it and received at nodes.
    Look(SignalKind),
    /// Read by the arbiter at each node.
    AtNodes(SignalKind),
    /// Pushed by members, nodes or agents.
    Pushed(SignalKind),
}

impl About {
    pub(super) fn of(signal: &SignalPolicy, is_counter: bool) -> Self {
        match (signal.kind, &signal.observers) {
            (SignalKind::Arrivals, _) if is_counter => Self::Counter,
            (SignalKind::Alert, Observers::Arbiter) => Self::Webhook,
            (SignalKind::Canary, _) => Self::Look(SignalKind::Canary),
            (SignalKind::Arrivals, _) | (_, Observers::Members) => Self::Pushed(signal.kind),
            (kind, Observers::Nodes(_)) => Self::AtNodes(kind),
            (kind, Observers::Arbiter) => Self::Look(kind),
        }
    }

    const fn kind(self) -> Option<SignalKind> {
        match self {
            Self::Look(kind) | Self::AtNodes(kind) | Self::Pushed(kind) => Some(kind),
            Self::Counter => Some(SignalKind::Arrivals),
            Self::Agents | Self::Webhook => None,
        }
    }

    /// Everything that it can show, as it is written.
    pub(super) fn words(self) -> Vec<&'static str> {
        let mut words = vec!["fresh"];
        words.extend(match (self, self.kind()) {
            (Self::Webhook, _) => &["firing", "resolved"][..],
            (Self::Agents, _) => &["silent"],
            (Self::Counter, _) => &["silent", "absent", "local"],
            (_, Some(SignalKind::Heartbeat)) => &["silent", "not echoed"],
            (_, Some(SignalKind::Arrivals)) => &["silent", "idle", "absent", "lag 6s"],
            (_, Some(SignalKind::Canary | SignalKind::Check)) => &["ok", "ok in 250ms", "failing", "silent", "absent"],
            (_, Some(SignalKind::Role)) => {
                &["primary", "standby", "up", "down", "5000 behind", "stalled", "failing", "silent", "absent"]
            }
            (_, Some(SignalKind::Position)) => &["123456", "5000 behind", "stalled", "failing", "silent", "absent"],
            (_, Some(SignalKind::Link)) => &["up", "down", "quiet", "lag 6s", "failing", "silent", "absent"],
            (_, Some(SignalKind::Write)) => &["writable", "not writable", "failing", "silent", "absent"],
            (_, Some(SignalKind::Process)) => &["running", "exited", "silent", "absent"],
            (_, Some(SignalKind::Alert)) => &["firing", "not firing", "silent", "absent"],
            (_, Some(SignalKind::Value)) => &["97.5", "stalled", "failing", "silent", "absent"],
            (_, Some(SignalKind::Text)) => &["any text", "failing", "silent", "absent"],
            (_, None) => &[],
        });
        match self {
            Self::Look(_) => words.extend(FAILURES.iter().map(|kind| kind.as_str())),
            Self::AtNodes(_) => words.push("local"),
            Self::Agents | Self::Counter | Self::Webhook | Self::Pushed(_) => {}
        }
        words
    }

    /// The state in words; `None`: it cannot show that.
    pub(super) fn sight(self, text: &str) -> Option<Sight> {
        let text = text.trim();
        let word = text.to_lowercase().replace(['_', '-'], " ");
        let is_text = self.kind() == Some(SignalKind::Text);
        let (is_asked, is_look) = (!matches!(self, Self::Webhook), matches!(self, Self::Look(_) | Self::AtNodes(_)));
        if self == Self::Webhook
            && let Some(sight) = firing(&word)
        {
            return Some(sight);
        }
        match word.as_str() {
            "fresh" => return Some(Sight::Well),
            "ok" | "well" if !is_text => return Some(Sight::Well),
            "absent" | "not reporting" if is_asked => return Some(Sight::Absent),
            "silent" if is_asked => return Some(Sight::Silent),
            "failing" if is_look => {
                // What is read at a node and fails is no evidence.
                let at_node = matches!(self, Self::AtNodes(_));
                return Some(Sight::Failing(if at_node { FailureKind::Local } else { FailureKind::TimedOut }));
            }
            _ => {}
        }
        let may_fail_with = |kind: &FailureKind| match self {
            Self::Look(_) => true,
            Self::AtNodes(_) | Self::Counter => *kind == FailureKind::Local,
            Self::Agents | Self::Webhook | Self::Pushed(_) => false,
        };
        if let Some(kind) = FAILURES.into_iter().filter(may_fail_with).find(|k| k.as_str().replace('_', " ") == word) {
            return Some(Sight::Failing(kind));
        }
        self.sight_of_kind(text, &word)
    }

    fn sight_of_kind(self, text: &str, word: &str) -> Option<Sight> {
        let behind = || word.strip_suffix(" behind").and_then(|n| n.trim().parse().ok()).map(Sight::Behind);
        let after = |prefix: &str| Some(Span::parse(word.strip_prefix(prefix)?).ok()?.0);
        Some(match (self, self.kind()?) {
            (Self::Counter, _) => match word {
                "stalled" | "idle" => Sight::Silent,
                _ => return None,
            },
            (_, SignalKind::Heartbeat) => match word {
                "not echoed" => Sight::Unechoed,
                _ => return None,
            },
            (_, SignalKind::Arrivals) => match word {
                "stalled" => Sight::Silent,
                "idle" | "not attempting" => Sight::Idle,
                _ => Sight::Lag(after("lag ")?),
            },
            (_, SignalKind::Canary | SignalKind::Check) => Sight::OkIn(after("ok in ")?),
            (_, SignalKind::Role) => match word {
                "primary" => Sight::Role(Role::Primary),
                "standby" => Sight::Role(Role::Standby),
                "up" | "down" => Sight::Link(word == "up"),
                "stalled" => Sight::Stalled,
                _ => behind()?,
            },
            (_, SignalKind::Position) => match word {
                "stalled" => Sight::Stalled,
                _ => text.parse().ok().map(Sight::Position).or_else(behind)?,
            },
            (_, SignalKind::Link) => match word {
                "up" | "down" => Sight::Link(word == "up"),
                "quiet" => Sight::Quiet,
                _ => Sight::Lag(after("lag ")?),
            },
            (_, SignalKind::Write) => match word {
                "writable" | "true" => Sight::Writable(true),
                "not writable" | "false" => Sight::Writable(false),
                _ => return None,
            },
            (_, SignalKind::Process) => match word {
                "running" => Sight::Running(true),
                "exited" | "not running" => Sight::Running(false),
                _ => return None,
            },
            (_, SignalKind::Alert) => return firing(word),
            (_, SignalKind::Value) => match word {
                "stalled" => Sight::Stalled,
                _ => Sight::Number(text.parse().ok().filter(|n: &f64| n.is_finite())?),
            },
            (_, SignalKind::Text) => Sight::Text(text.to_owned()),
        })
    }
}

fn firing(word: &str) -> Option<Sight> {
    Some(match word {
        "firing" => Sight::Firing(true),
        "not firing" | "resolved" => Sight::Firing(false),
        _ => return None,
    })
}

/// What may become of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plight {
    Well,
    /// Its process has ended; its host lives.
    Dead,
    /// It runs and does nothing; its kernel answers.
    Frozen,
    /// Nobody reaches it, its host included.
    CutOff,
}

impl Plight {
    pub(super) const WORDS: [&'static str; 4] = ["dead", "frozen", "cut off", "fresh"];
    /// What may become of an arbiter that still judges.
    pub(super) const WORDS_OF_ARBITER: [&'static str; 2] = ["cut off", "fresh"];

    pub(super) fn read(text: &str) -> Option<Self> {
        Some(match text.trim().to_lowercase().replace(['_', '-'], " ").as_str() {
            "fresh" | "ok" | "well" => Self::Well,
            "dead" => Self::Dead,
            "frozen" => Self::Frozen,
            "cut off" => Self::CutOff,
            _ => return None,
        })
    }
}

/// Cuts off when it is so. `Err`: what is wrong with the time. Texts may hold these words: there, what is no time is text.
pub(super) fn extent(text: &str, is_text: bool) -> Result<(&str, Extent), String> {
    match strict_extent(text) {
        Err(_) if is_text => Ok((text, Extent::Throughout)),
        found => found,
    }
}

fn strict_extent(text: &str) -> Result<(&str, Extent), String> {
    if let Some((state, time)) = cut(text, "for") {
        return Ok((state, Extent::Last(span(time)?)));
    }
    let (rest, until) = match cut(text, "until") {
        Some((rest, time)) => (rest, Some(span(time)?)),
        None => (text, None),
    };
    Ok(match cut(rest, "from") {
        Some((state, time)) => (state, Extent::From(span(time)?, until)),
        None if until.is_some() => (rest, Extent::From(Duration::ZERO, until)),
        None => (text, Extent::Throughout),
    })
}

fn span(text: &str) -> Result<Duration, String> {
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    Span::parse(text).map(|span| span.0)
}

fn cut<'t>(text: &'t str, word: &str) -> Option<(&'t str, &'t str)> {
    let pattern = format!(" {word} ");
    let at = text.rfind(&pattern)?;
    Some((&text[..at], &text[at + pattern.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn times_stand_behind_the_state() {
        for (text, state, when) in [
            ("silent", "silent", Extent::Throughout),
            ("silent for 60s", "silent", Extent::Last(S(60))),
            ("cut off for 2m 30s", "cut off", Extent::Last(S(150))),
            ("refused from 20s", "refused", Extent::From(S(20), None)),
            ("refused from 0 until 30s", "refused", Extent::From(S(0), Some(S(30)))),
            ("refused until 30s", "refused", Extent::From(S(0), Some(S(30)))),
        ] {
            assert_eq!(extent(text, false), Ok((state, when)), "{text}");
        }
        assert_eq!(extent("silent for 60", false).unwrap_err(), "`60` has no unit: write `60ms` or `60s`");
        assert!(extent("silent from then", false).is_err());
        assert_eq!(extent("ready for work", true), Ok(("ready for work", Extent::Throughout)));
        assert_eq!(extent("ready for 5s", true), Ok(("ready", Extent::Last(S(5)))));
    }

    #[test]
    fn every_word_that_is_listed_is_known() {
        use SignalKind as K;
        let looks = [K::Canary, K::Check, K::Role, K::Position, K::Link, K::Write, K::Value, K::Text].map(About::Look);
        let pushed = [K::Heartbeat, K::Arrivals, K::Process, K::Alert].map(About::Pushed);
        let at_nodes = [K::Value, K::Text, K::Check].map(About::AtNodes);
        let others = [About::Agents, About::Counter, About::Webhook];
        for about in looks.into_iter().chain(pushed).chain(at_nodes).chain(others) {
            for word in about.words() {
                assert!(about.sight(word).is_some(), "{about:?}: {word}");
            }
            let is_text = about.kind() == Some(K::Text);
            assert_eq!(about.sight("zebra").is_some(), is_text, "{about:?}");
        }
        for word in Plight::WORDS.into_iter().chain(Plight::WORDS_OF_ARBITER) {
            assert!(Plight::read(word).is_some(), "{word}");
        }
    }
}
