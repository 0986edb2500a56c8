//! Which notices become reports to people, and under which key.

use crate::model::{ClusterName, Notice, Report, Time, WallAnchor, explain::Guard, report::ReportSubject};

/// The report that a notice makes, if people should be told. An incident stays open with people until somebody
/// acknowledged it: an alert that resolves by itself at four in the morning is missed.
pub(super) fn report_of(at: Time, anchor: WallAnchor, arbiter: &str, notice: &Notice) -> Option<Report> {
    let report = |key: String, subject: ReportSubject, resolved: bool| {
        Some(Report { key, at, anchor, arbiter: arbiter.to_owned(), subject, resolved })
    };
    let warning = |cluster: Option<&ClusterName>, what: &str, text: String, resolved: bool| {
        let place = cluster.map_or_else(|| "arbiter".to_owned(), ToString::to_string);
        let subject = ReportSubject::Warning { cluster: cluster.cloned(), what: what.to_owned(), text };
        report(format!("warning/{place}/{what}"), subject, resolved)
    };
    match notice {
        Notice::IncidentUpdated(incident) => {
            let resolved = incident.is_closed() && incident.acknowledged.is_some();
            report(format!("incident/{}", incident.id), ReportSubject::Incident(incident.clone()), resolved)
        }
        Notice::RuleFired { cluster, explanation } => report(
            format!("rule/{cluster}/{}", explanation.rule),
            ReportSubject::Rule {
                cluster: cluster.clone(),
                rule: explanation.rule.clone(),
                explanation: Some(explanation.clone()),
            },
            false,
        ),
        Notice::RuleCleared { cluster, rule, .. } => report(
            format!("rule/{cluster}/{rule}"),
            ReportSubject::Rule { cluster: cluster.clone(), rule: rule.clone(), explanation: None },
            true,
        ),
        Notice::TwoPrimaries { cluster, members, now } => {
            let names: Vec<String> = members.iter().map(ToString::to_string).collect();
            let text = if *now {
                format!("{} all claim to be primary", names.join(" and "))
            } else {
                "only one claims to be primary again".into()
            };
            warning(Some(cluster), "two_primaries", text, !now)
        }
        // These make a failover impossible before one is needed: people are told before it matters.
        Notice::GuardChanged { cluster, guard, blocks, reason }
            if matches!(
                guard,
                Guard::NoCandidate
                    | Guard::NoFence
                    | Guard::NoLease
                    | Guard::StoreLost
                    | Guard::PrimaryUnclear
                    | Guard::Storm
                    | Guard::Isolated
            ) =>
        {
            warning(Some(cluster), guard.as_str(), reason.clone(), !blocks)
        }
        Notice::ActBlocked { cluster, rule, guards } => {
            let list: Vec<String> = guards.iter().map(|(guard, reason)| format!("{guard}: {reason}")).collect();
            let text = if list.is_empty() {
                format!("nothing stands against the rule “{rule}” any more, or it no longer wants to act")
            } else {
                format!("the rule “{rule}” wants to act, and these guards stand against it: {}", list.join("; "))
            };
            warning(Some(cluster), "act_blocked", text, list.is_empty())
        }
        // That it watches while another one leads is how it should be.
        Notice::Own { what, ok, detail } if !matches!(what.as_str(), "policy" | "leading") => {
            warning(None, what, detail.clone(), *ok)
        }
        _ => None,
    }
}
