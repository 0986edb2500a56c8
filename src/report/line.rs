//! Reports and notices as one line.

use crate::model::{
    ClusterName, Incident, Notice, Report, explain::Guard, incident::IncidentState, record::SagaKind,
    report::ReportSubject, time::human,
};

/// A report as one line.
#[must_use]
pub fn summary(report: &Report) -> String {
    let line = match &report.subject {
        ReportSubject::Incident(incident) => incident_line(incident),
        ReportSubject::Rule { cluster, rule, explanation } => match explanation {
            Some(e) if !report.resolved => {
                let for_ = human(e.since);
                format!("{cluster}: the rule “{rule}” is true for {for_}: {}, then {}", e.verdict, e.then)
            }
            _ if report.resolved => format!("{cluster}: the rule “{rule}” is no longer true"),
            _ => format!("{cluster}: the rule “{rule}” is true"),
        },
        ReportSubject::Warning { cluster, what, text } => {
            let whose = cluster.as_ref().map_or(report.arbiter.as_str(), ClusterName::as_str);
            let over = if report.resolved { " (over)" } else { "" };
            format!("{whose}: {}: {text}{over}", what.replace('_', " "))
        }
    };
    one_line(&line)
}

/// An incident as one line.
pub(super) fn incident_line(incident: &Incident) -> String {
    let Incident { cluster, id, old_primary, candidate, epoch, .. } = incident;
    let what = match incident.kind {
        SagaKind::Failover => format!("failover from {old_primary} to {candidate}"),
        SagaKind::Switchover => format!("switchover from {old_primary} to {candidate}"),
        SagaKind::Rejoin => format!("rejoin of {}", rejoining(incident)),
    };
    let reason = incident.state_reason.as_deref().unwrap_or("no reason was recorded");
    let state = match incident.state {
        IncidentState::Held => format!("is HELD and waits for a person: {reason}"),
        IncidentState::Aborted => format!("was given up: {reason}"),
        IncidentState::Resolved => match (incident.outage.last_good, incident.outage.first_new) {
            (Some(from), Some(to)) => format!("is done; nodes were without messages for {}", human(to.since(from))),
            _ => "is done".into(),
        },
        state => format!("is under way: {state}"),
    };
    let unsafe_ = if incident.bypassed.is_empty() { "" } else { "; SAFEGUARDS WERE BYPASSED" };
    format!("{cluster}: {what} {state}{unsafe_} (epoch {epoch}, incident {id})")
}

/// The member that an incident of kind `rejoin` brings back.
pub(super) fn rejoining(incident: &Incident) -> &str {
    incident.rejoin.as_ref().map_or(incident.old_primary.as_str(), |r| r.member.as_str())
}

/// A notice as one line.
#[must_use]
pub fn notice_line(notice: &Notice) -> String {
    let line = match notice {
        Notice::VerdictChanged { cluster, member, from, to, rule } => {
            let member = member.as_ref().map_or_else(|| "the primary".to_owned(), |m| format!("primary {m}"));
            let by = rule.as_ref().map_or_else(String::new, |r| format!(", by the rule “{r}”"));
            format!("{cluster}: {member} is {to}, was {from}{by}")
        }
        Notice::RuleFired { cluster, explanation: e } => {
            let shadow = if e.shadow { " (shadow: nothing is done)" } else { "" };
            format!("{cluster}: the rule “{}” became true: {}, then {}{shadow}", e.rule, e.verdict, e.then)
        }
        Notice::RuleCleared { cluster, rule, after } => {
            format!("{cluster}: the rule “{rule}” is no longer true, after {}", human(*after))
        }
        Notice::ActBlocked { cluster, rule, guards } => {
            format!("{cluster}: the rule “{rule}” wants to act and is blocked by {}", guards_line(guards))
        }
        Notice::GuardChanged { cluster, guard, blocks, reason } => {
            format!("{cluster}: the guard {guard} {}: {reason}", if *blocks { "blocks" } else { "blocks no more" })
        }
        Notice::PrimaryChanged { cluster, primary, epoch } => match primary {
            Some(primary) => format!("{cluster}: {primary} is primary in epoch {epoch}"),
            None => format!("{cluster}: no primary is known in epoch {epoch}"),
        },
        Notice::TwoPrimaries { cluster, members, now } => {
            let members: Vec<&str> = members.iter().map(crate::model::MemberName::as_str).collect();
            let members = members.join(" and ");
            if *now {
                format!("{cluster}: MORE THAN ONE PRIMARY: {members}")
            } else {
                format!("{cluster}: there is one primary again; there were {members}")
            }
        }
        Notice::IncidentUpdated(incident) => incident_line(incident),
        Notice::Own { what, ok, detail } => {
            format!("arbiter: {what} is {}: {detail}", if *ok { "well" } else { "NOT well" })
        }
    };
    one_line(&line)
}

fn guards_line(guards: &[(Guard, String)]) -> String {
    let guards: Vec<String> = guards.iter().map(|(guard, reason)| format!("{guard} ({reason})")).collect();
    guards.join(", ")
}

/// Line breaks and other control characters become spaces: the texts come from programs and from the network.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        model::{Epoch, Verdict, rule::Reaction},
        report::samples,
    };

    #[test]
    fn an_incident_in_one_line() {
        let mut report = samples::incident_report();
        let done = "orders: failover from broker-a to broker-b is done; nodes were without messages for 2.3s";
        assert!(summary(&report).starts_with(done), "{}", summary(&report));
        let ReportSubject::Incident(incident) = &mut report.subject else { panic!("an incident") };
        incident.state = IncidentState::Held;
        incident.state_reason = Some("no fence\nconfirmed it".into());
        let held = "orders: failover from broker-a to broker-b is HELD and waits for a person: no fence confirmed it; \
                    SAFEGUARDS WERE BYPASSED (epoch 8, incident 01K0ZX6Q1MABCDEFGHJKMNPQRS)";
        assert_eq!(summary(&report), held);
    }

    #[test]
    fn notices_in_one_line() {
        let cluster = || ClusterName::from("orders");
        let cases = [
            (
                Notice::VerdictChanged {
                    cluster: cluster(),
                    member: Some("broker-a".into()),
                    from: Verdict::Alive,
                    to: Verdict::Dead,
                    rule: Some("silent".into()),
                },
                "orders: primary broker-a is dead, was alive, by the rule “silent”",
            ),
            (
                Notice::RuleFired { cluster: cluster(), explanation: Box::new(samples::rule()) },
                "orders: the rule “silent to everyone” became true: dead, then failover",
            ),
            (
                Notice::RuleCleared { cluster: cluster(), rule: "silent".into(), after: Duration::from_millis(2_500) },
                "orders: the rule “silent” is no longer true, after 2.5s",
            ),
            (
                Notice::ActBlocked {
                    cluster: cluster(),
                    rule: "silent".into(),
                    guards: vec![(Guard::Paused, "by alice: upgrade".into())],
                },
                "orders: the rule “silent” wants to act and is blocked by paused (by alice: upgrade)",
            ),
            (
                Notice::PrimaryChanged { cluster: cluster(), primary: Some("broker-b".into()), epoch: Epoch(8) },
                "orders: broker-b is primary in epoch 8",
            ),
            (
                Notice::TwoPrimaries {
                    cluster: cluster(),
                    members: vec!["broker-a".into(), "broker-b".into()],
                    now: true,
                },
                "orders: MORE THAN ONE PRIMARY: broker-a and broker-b",
            ),
            (
                Notice::Own { what: "store".into(), ok: false, detail: "the disk is full".into() },
                "arbiter: store is NOT well: the disk is full",
            ),
        ];
        for (notice, wanted) in cases {
            assert_eq!(notice_line(&notice), wanted);
        }
        assert_eq!(samples::rule().then, Reaction::Failover);
    }
}
