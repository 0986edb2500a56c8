//! When who is looked at: each look at its own period, spread in time, following the roles.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

use super::Observe;
use crate::{
    arbiter::handle::Seen,
    broker::{Ask, Broker},
    config::{ClusterConfig, Source},
    model::{
        ClusterName, Failure, FailureKind, MemberName, NodeName, Observer, Outcome, SignalName, Target,
        policy::{Observers, Subjects},
        status::PrimaryView,
    },
    probe::{Probe, Subject},
};

/// How often the connection for the forbidden write is looked after. It costs a system call when it is open.
const HOLD_EVERY: Duration = Duration::from_secs(1);

/// Looks due within this are made together.
const SLOT: Duration = Duration::from_millis(10);

/// What every task of a cluster knows.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) cluster: ClusterName,
    pub(super) members: Arc<[Target]>,
    pub(super) primary: watch::Receiver<PrimaryView>,
    pub(super) observe: Arc<Observe>,
    /// When all sources started: their periods count from there.
    pub(super) started: Instant,
}

impl Context {
    /// The primary now, if there is one to follow.
    pub(super) fn target_of_primary(&self) -> Option<Target> {
        let view = self.primary.borrow();
        let name = view.primary.as_ref()?;
        self.members.iter().find(|member| member.member == *name).cloned()
    }

    /// The beats of one task, from a moment of its own, so that a thousand tasks do not all look at once; the same after
    /// every restart. Tasks that would look within one [`SLOT`] do it together: waking up costs more than looking.
    pub(super) fn beats(&self, every: Duration, salt: impl std::hash::Hash) -> Interval {
        let mut hasher = DefaultHasher::new();
        self.cluster.hash(&mut hasher);
        salt.hash(&mut hasher);
        let every = every.max(Duration::from_millis(1));
        let slot = SLOT.min(every / 10);
        let slots = u64::try_from(every.as_nanos() / slot.as_nanos().max(1)).unwrap_or(1);
        let own = u32::try_from(hasher.finish() % slots.max(1)).unwrap_or(0);
        let mut ticks = interval_at(self.started + slot * own, every);
        // After a pause of the process the missed looks are not made up for.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }
}

/// Which role a look is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Always,
    Primary,
    Standby,
}

enum Eye {
    Ask(Arc<dyn Broker>, Ask),
    Probe(Arc<dyn Probe>),
    /// A probe that could not be built says so instead of being silent.
    Broken(String),
}

/// One signal at one subject.
pub(super) struct Look {
    context: Context,
    signal: SignalName,
    observer: Observer,
    /// The member looked at; for a node's counter or the service as a whole, none.
    member: Option<Target>,
    subject: Subject,
    when: When,
    eye: Arc<Eye>,
    every: Duration,
    timeout: Duration,
}

/// The looks of one signal of one cluster.
pub(super) fn looks(
    context: &Context,
    cluster: &ClusterConfig,
    broker: Option<&Arc<dyn Broker>>,
    signal: &SignalName,
    source: &Source,
) -> Vec<Look> {
    let (eye, subjects, observers, every, timeout) = match source {
        Source::Broker { ask, subjects, every, timeout } => {
            let eye = broker.map_or_else(
                || Eye::Broken("there is no broker kind to ask".into()),
                |broker| Eye::Ask(Arc::clone(broker), *ask),
            );
            (eye, subjects, &Observers::Arbiter, *every, *timeout)
        }
        Source::Probe { probe, subjects, observers, every, timeout } => {
            let eye = match probe.build() {
                Ok(probe) => Eye::Probe(probe.into()),
                Err(why) => Eye::Broken(why),
            };
            (eye, subjects, observers, *every, *timeout)
        }
        Source::Heartbeats | Source::Arrivals | Source::Alert { .. } | Source::Agent { .. } | Source::Canary { .. } => {
            return Vec::new();
        }
    };
    let eye = Arc::new(eye);
    let look = |observer, member: Option<Target>, name: &str, address: &str, when| Look {
        context: context.clone(),
        signal: signal.clone(),
        observer,
        member,
        subject: Subject { cluster: context.cluster.to_string(), name: name.into(), address: address.into() },
        when,
        eye: Arc::clone(&eye),
        every,
        timeout,
    };
    if let Observers::Nodes(nodes) = observers {
        let address =
            |node: &NodeName| cluster.nodes.iter().find(|n| n.node == *node).and_then(|n| n.address.as_deref());
        return nodes
            .iter()
            .map(|node| {
                let at = address(node).unwrap_or_default();
                look(Observer::Node(node.clone()), None, node.as_str(), at, When::Always)
            })
            .collect();
    }
    let of = |when, only: Option<&MemberName>| {
        let members = context.members.iter().filter(|m| only.is_none_or(|name| m.member == *name));
        members
            .map(|m| look(Observer::Arbiter, Some(m.clone()), m.member.as_str(), &m.address, when))
            .collect::<Vec<_>>()
    };
    match subjects {
        Subjects::Primary => of(When::Primary, None),
        Subjects::Standbys => of(When::Standby, None),
        Subjects::Members => of(When::Always, None),
        Subjects::Member(name) => of(When::Always, Some(name)),
        Subjects::Service => vec![look(Observer::Arbiter, None, context.cluster.as_str(), "", When::Always)],
    }
}

impl Look {
    /// Looks at every period until it is dropped or the arbiter stops.
    pub(super) async fn run(mut self) {
        let mut ticks = self.context.beats(self.every, (&self.signal, &self.subject.name));
        loop {
            if !self.is_wanted() {
                if self.context.primary.wait_for(|view| wants(self.when, self.member.as_ref(), view)).await.is_err() {
                    return;
                }
                // Now that the roles changed, the first look is due at once.
                ticks.reset_immediately();
            }
            ticks.tick().await;
            if !self.is_wanted() {
                continue;
            }
            let outcome = self.look().await;
            (self.context.observe)(Seen {
                cluster: self.context.cluster.clone(),
                signal: self.signal.clone(),
                observer: self.observer.clone(),
                subject: self.member.as_ref().map(|target| target.member.clone()),
                outcome,
            });
        }
    }

    fn is_wanted(&self) -> bool {
        wants(self.when, self.member.as_ref(), &self.context.primary.borrow())
    }

    async fn look(&self) -> Outcome {
        let outcome = match (&*self.eye, &self.member) {
            (Eye::Ask(broker, ask), Some(target)) => broker.ask(*ask, target, self.timeout).await,
            (Eye::Ask(..), None) => {
                let text = "the broker kind can be asked about members only";
                Outcome::Failure(Failure::new(FailureKind::Local, text))
            }
            (Eye::Probe(probe), _) => probe.look(&self.subject, self.timeout).await,
            (Eye::Broken(why), _) => Outcome::Failure(Failure::new(FailureKind::Local, why.clone())),
        };
        match (outcome, &self.observer) {
            // A node that cannot be read says nothing of the primary.
            (Outcome::Failure(failure), Observer::Node(node)) if failure.kind.is_evidence() => {
                let text = format!("the counter of {node} cannot be read: {failure}");
                Outcome::Failure(Failure::new(FailureKind::Local, text))
            }
            (outcome, _) => outcome,
        }
    }
}

fn wants(when: When, member: Option<&Target>, view: &PrimaryView) -> bool {
    let is_primary = member.is_some_and(|target| view.primary.as_ref() == Some(&target.member));
    match when {
        When::Always => true,
        When::Primary => is_primary,
        When::Standby => !is_primary,
    }
}

/// Keeps a connection to the primary open, so that there is one from before the fence.
pub(super) async fn hold_open(mut context: Context, broker: Arc<dyn Broker>) {
    let mut ticks = context.beats(HOLD_EVERY, "hold open");
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            changed = context.primary.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        if let Some(target) = context.target_of_primary() {
            broker.hold_open(&target, HOLD_EVERY).await;
        }
    }
}
