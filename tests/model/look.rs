//! One round of looking: everything that an arbiter's probes, the agents' beats, the nodes' reports and the other arbiter's
//! view tell within a second, in one go.

use std::time::Duration;

use coroner::model::{
    Event, Fact, Failure, FailureKind, Observation, Observer, Outcome, PartyName, Role,
    agent::MemberReport,
    observation::{AGENTS_SIGNAL, Arrivals, RoleReport},
};

use crate::{
    acts::POSITION,
    setup::{ARBITERS, MEMBERS, NODE, NODE_PARTY, ORDERS, PARTIES, Setup, party},
    world::{Life, Notes, World},
};

impl World {
    /// See the module.
    pub fn look(&mut self, setup: &Setup, arbiter: usize, notes: &mut Notes) {
        self.turn(setup, arbiter, notes);
        let views = self.arbiters[arbiter].engine.primaries();
        let primary = views.into_iter().next().and_then(|view| view.primary);
        for member in 0..2 {
            self.look_at(setup, arbiter, member, primary.as_ref().is_some_and(|p| p.as_str() == MEMBERS[member]));
        }
        if self.has_path(arbiter, NODE_PARTY) {
            let node = Observer::Node(NODE.into());
            let arrivals =
                Arrivals { primary: Some(MEMBERS[self.node.0].into()), epoch: self.node.1, ..Arrivals::default() };
            self.sees(arbiter, "arrivals", node.clone(), None, Outcome::Fact(Fact::Arrivals(arrivals)));
            let reached = self.reached_by(NODE_PARTY);
            self.sees(arbiter, AGENTS_SIGNAL, node, None, Outcome::Fact(Fact::Reaches(reached)));
        }
        let other = 1 - arbiter;
        if self.arbiters[other].life == Life::Up {
            // Told over the store.
            let peer = Observer::Peer(ARBITERS[other].into());
            let fact = Fact::Ok { latency: Duration::from_millis(1) };
            self.sees(arbiter, "ping", peer, Some("a"), Outcome::Fact(fact));
        }
        self.arbiter(arbiter).has_looked = true;
        self.drain(setup, arbiter, notes);
    }

    fn look_at(&mut self, setup: &Setup, arbiter: usize, member: usize, is_primary: bool) {
        let name = MEMBERS[member];
        let it = &self.members[member];
        let is_shut = setup.has_lease && it.is_primary && !self.may_acknowledge(setup, member) && !it.read_only;
        let answers = it.has_broker() && self.is_linked(arbiter, party(member)) && !is_shut;
        let kind = if it.killed { FailureKind::Refused } else { FailureKind::TimedOut };
        let outcome = |fact: Fact| match answers {
            true => Outcome::Fact(fact),
            false => Outcome::Failure(Failure::new(kind, "no answer")),
        };
        let role = RoleReport {
            role: if it.is_primary { Role::Primary } else { Role::Standby },
            position: Some(POSITION),
            link_up: None,
            follows: None,
            lineage: None,
            epoch: Some(it.broker_epoch),
            priority: None,
        };
        let own = Observer::Member(name.into());
        let agent = MemberReport {
            epoch: self.voters[party(member)].sealed(),
            appointed: it.appointed,
            ..MemberReport::default()
        };
        let (is_heard, has_broker) = (self.reaches(arbiter, member), it.has_broker());
        self.sees(arbiter, "role", Observer::Arbiter, Some(name), outcome(Fact::Role(role.clone())));
        if is_primary {
            let fact = Fact::Ok { latency: Duration::from_millis(1) };
            self.sees(arbiter, "ping", Observer::Arbiter, Some(name), outcome(fact));
        }
        if is_heard {
            let agent = Outcome::Fact(Fact::Agent(Box::new(agent)));
            self.sees(arbiter, AGENTS_SIGNAL, own.clone(), Some(name), agent);
            let reached = self.reached_by(party(member));
            self.sees(arbiter, AGENTS_SIGNAL, own.clone(), None, Outcome::Fact(Fact::Reaches(reached)));
            if has_broker {
                self.sees(arbiter, "role", own, Some(name), Outcome::Fact(Fact::Role(role)));
            }
        }
    }

    /// The parties that this one reaches without a detour.
    fn reached_by(&self, who: usize) -> Vec<PartyName> {
        let is_reached = |other: &usize| *other != who && self.answers(*other) && self.is_linked(who, *other);
        (0..PARTIES.len()).filter(is_reached).map(|other| PARTIES[other].into()).collect()
    }

    fn sees(&mut self, arbiter: usize, signal: &str, observer: Observer, subject: Option<&str>, outcome: Outcome) {
        let seen = Observation {
            at: self.time(),
            cluster: ORDERS.into(),
            signal: signal.into(),
            observer,
            subject: subject.map(Into::into),
            outcome,
        };
        self.tell(arbiter, Event::Observed(seen));
    }
}
