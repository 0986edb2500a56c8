//! What of the view decides what is believed.

use std::hash::Hasher;

use super::{Attempt, Progress, Stream, View};
use crate::{
    failover::Print,
    model::{
        Fact, Outcome,
        agent::MemberReport,
        observation::{Arrivals, RoleReport},
    },
};

impl View {
    pub(in crate::engine) fn fingerprint<H: Hasher>(&self, print: &mut Print<'_, H>) {
        print.moment(self.floor);
        for streams in self.signals.values() {
            print.count(streams.len());
            streams.iter().for_each(|stream| stream.fingerprint(print));
        }
        print.count(self.agents.len());
        for (member, (at, report)) in &self.agents {
            print.plain(member);
            print.moment(*at);
            agent(report, print);
        }
        print.count(self.reaches.len());
        for (observer, (at, parties)) in &self.reaches {
            print.plain((observer, parties));
            print.moment(*at);
        }
        print.count(self.peers.len());
        for (name, peer) in &self.peers {
            print.plain(name);
            print.moment(peer.heard);
            print.count(peer.seen.len());
            for (what, (at, seen)) in &peer.seen {
                print.plain(what);
                print.moment(*at);
                outcome(seen, print);
            }
        }
        print.count(self.attempts.len());
        for Attempt { not_before, told } in &self.attempts {
            print.moment(*not_before);
            print.moment(*told);
        }
    }
}

impl Stream {
    fn fingerprint<H: Hasher>(&self, print: &mut Print<'_, H>) {
        print.plain((&self.observer, &self.subject, &self.recent, self.attempted, self.heard_before));
        print.perhaps(self.newest.as_ref().map(|(at, _)| *at));
        if let Some((_, newest)) = &self.newest {
            outcome(newest, print);
        }
        print.perhaps(self.success.as_ref().map(|(at, _)| *at));
        if let Some((_, success)) = &self.success {
            fact(success, print);
        }
        if let Some((at, progress)) = &self.progress {
            print.moment(*at);
            match progress {
                Progress::Number(number) => print.plain(number.to_bits()),
                Progress::Text(text) => print.plain(text),
            }
        }
        self.rhythm.fingerprint(print);
    }
}

fn outcome<H: Hasher>(outcome: &Outcome, print: &mut Print<'_, H>) {
    match outcome {
        Outcome::Fact(seen) => fact(seen, print),
        Outcome::Failure(failure) => print.plain(failure.kind),
    }
}

fn fact<H: Hasher>(fact: &Fact, print: &mut Print<'_, H>) {
    print.plain(std::mem::discriminant(fact));
    match fact {
        Fact::Beat { seq, echoed } => print.plain((seq, echoed)),
        Fact::Arrivals(Arrivals { received, last_age, attempted, acknowledged, primary, epoch }) => {
            print.plain((received, last_age, attempted, acknowledged, primary, epoch));
        }
        Fact::Ok { latency } | Fact::Canary { latency } => print.plain(latency),
        Fact::Role(report) => role(report, print),
        Fact::Position { position } => print.plain(position),
        Fact::Link { up, last_io } => print.plain((up, last_io)),
        Fact::Writable(is_so) | Fact::Alert { firing: is_so } => print.plain(is_so),
        Fact::Value(value) => print.plain(value.to_bits()),
        Fact::Text(text) => print.plain(text),
        Fact::Process { running, detail: _ } => print.plain(running),
        Fact::Agent(report) => agent(report, print),
        Fact::Reaches(parties) => print.plain(parties),
    }
}

fn role<H: Hasher>(report: &RoleReport, print: &mut Print<'_, H>) {
    let RoleReport { role, position, link_up, follows, lineage, epoch, priority } = report;
    print.plain((role, position, link_up, follows, lineage, epoch, priority));
}

/// What rules and guards look at; the lease's and the gate's own state is the agent's business.
fn agent<H: Hasher>(report: &MemberReport, print: &mut Print<'_, H>) {
    print.plain((report.epoch, report.appointed, report.gate as u8, report.role.is_some(), report.role_age));
    if let Some(report) = &report.role {
        role(report, print);
    }
    print.count(report.evidence.len());
    report.evidence.iter().for_each(|seen| print.plain((seen.watch, seen.certainty, seen.is_so)));
}
