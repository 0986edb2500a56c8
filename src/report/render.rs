//! An incident as Markdown that a stranger understands, and as one line.

use std::{fmt::Write as _, time::Duration};

use jiff::Timestamp;

use super::line::{incident_line, one_line, rejoining};
pub use super::line::{notice_line, summary};
use crate::model::{
    Explanation, Incident, Proof, Time,
    explain::RuleExplanation,
    incident::{IncidentState, RejoinRecord, StepRecord, TimelineEntry, Trigger},
    record::SagaKind,
    time::human,
};

/// An incident as Markdown: what happened, the outage, the story, why, what was done with which proof, what may be
/// lost, what was bypassed, what is left to do.
#[must_use]
pub fn markdown(incident: &Incident) -> String {
    let mut page = Page { out: String::new(), incident };
    page.head();
    page.bypassed();
    page.outage();
    page.timeline();
    page.why();
    page.guards();
    page.candidates();
    page.steps();
    page.loss();
    page.rejoin();
    page.follow_ups();
    page.out
}

/// What happened, in two sentences.
pub(super) fn happened(incident: &Incident) -> String {
    format!("{} {}", cause(incident), effect(incident))
}

struct Page<'i> {
    out: String,
    incident: &'i Incident,
}

impl Page<'_> {
    fn line(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn section(&mut self, title: &str) {
        let _ = writeln!(self.out, "\n## {title}\n");
    }

    fn row(&mut self, cells: &[&str]) {
        for cell in cells {
            let _ = write!(self.out, "| {} ", safe(cell));
        }
        self.line("|");
    }

    fn table(&mut self, heads: &[&str]) {
        self.row(heads);
        self.line(&("|---".repeat(heads.len()) + "|"));
    }

    fn head(&mut self) {
        let i = self.incident;
        let what = match i.kind {
            SagaKind::Failover => format!("Failover of {}: {} → {}", i.cluster, i.old_primary, i.candidate),
            SagaKind::Switchover => format!("Switchover of {}: {} → {}", i.cluster, i.old_primary, i.candidate),
            SagaKind::Rejoin => format!("Rejoin of {} to {}", rejoining(i), i.cluster),
        };
        let _ = writeln!(self.out, "# {}\n", safe(&what));
        let said = happened(i);
        self.line(&safe(&said));
        self.line("");
        self.table(&["", ""]);
        let state = format!("**{}**", i.state);
        self.row(&["State", &state]);
        if let Some(reason) = &i.state_reason {
            self.row(&["Reason", reason]);
        }
        let opened = format!("{} UTC", self.wall(i.opened));
        self.row(&["Opened", &opened]);
        if let Some(closed) = i.closed {
            let closed = format!("{} UTC, after {}", self.wall(closed), human(closed.since(i.opened)));
            self.row(&["Closed", &closed]);
        }
        let epochs = format!("{} → {}", i.epoch_before, i.epoch);
        self.row(&["Epoch", &epochs]);
        let by = format!("{}, mode {}, policy {}", i.arbiter, i.mode, i.policy_hash);
        self.row(&["Decided by", &by]);
        let noted = match &i.acknowledged {
            Some(ack) if ack.note.is_empty() => format!("by {} at {} UTC", ack.by, self.wall(ack.at)),
            Some(ack) => format!("by {} at {} UTC: {}", ack.by, self.wall(ack.at), ack.note),
            None => "not yet".into(),
        };
        self.row(&["Acknowledged", &noted]);
        self.row(&["Incident", i.id.as_str()]);
    }

    fn bypassed(&mut self) {
        if self.incident.bypassed.is_empty() {
            return;
        }
        self.section("⚠ SAFEGUARDS WERE BYPASSED");
        self.line("What keeps two primaries apart, or messages from being lost, was weakened or passed here:\n");
        for what in &self.incident.bypassed {
            let line = format!("- **{}**", safe(what));
            self.line(&line);
        }
    }

    fn outage(&mut self) {
        let i = self.incident;
        let outage = &i.outage;
        if i.kind == SagaKind::Rejoin && outage.last_good.is_none() && outage.first_new.is_none() {
            return;
        }
        self.section("Outage");
        let text = match (outage.last_good, outage.first_new) {
            (Some(from), Some(to)) => format!(
                "Nodes received nothing for **{}**: the last message under epoch {} at {} UTC, the first under epoch \
                 {} at {} UTC.",
                exact(to.since(from)),
                i.epoch_before,
                self.wall(from),
                i.epoch,
                self.wall(to)
            ),
            (Some(from), None) => format!(
                "The last message under epoch {} reached a node at {} UTC. That one arrived under epoch {} is not known: \
                 no node reported any.",
                i.epoch_before,
                self.wall(from),
                i.epoch
            ),
            (None, Some(to)) => format!(
                "The first message under epoch {} reached a node at {} UTC. When the last one before it arrived is not \
                 known, so neither is the length of the outage.",
                i.epoch,
                self.wall(to)
            ),
            (None, None) => "Nodes reported no arrivals; how long they were without messages is not known.".into(),
        };
        self.line(&text);
        if !outage.following.is_empty() {
            self.line("");
            self.table(&["Node", "follows since", "offset"]);
            for (node, at) in &outage.following {
                let (wall, offset) = (self.wall(*at), self.offset(*at));
                self.row(&[node.as_str(), &wall, &offset]);
            }
        }
        if !outage.laggards.is_empty() {
            let names: Vec<&str> = outage.laggards.iter().map(crate::model::NodeName::as_str).collect();
            let line = format!("\n**These nodes did not say in time that they follow: {}.**", names.join(", "));
            self.line(&line);
        }
    }

    fn timeline(&mut self) {
        let i = self.incident;
        let mut story = i.timeline.clone();
        let marks = [
            (i.outage.last_good, "the last message that a node received from the old primary"),
            (i.outage.first_new, "the first message that a node received under the new epoch"),
        ];
        for (at, text) in marks {
            // The saga tells these itself where it knows them.
            if let Some(at) = at.filter(|at| i.timeline.iter().all(|entry| entry.at != *at)) {
                story.push(TimelineEntry { at, text: text.into() });
            }
        }
        story.sort_by_key(|entry| entry.at);
        self.section("Timeline");
        self.line("Times are UTC; offsets count from the opening of the incident.\n");
        self.table(&["time", "offset", "what"]);
        for entry in &story {
            let (wall, offset) = (self.wall(entry.at), self.offset(entry.at));
            self.row(&[&wall, &offset, &entry.text]);
        }
    }

    fn why(&mut self) {
        self.section("Why");
        match &self.incident.trigger {
            Trigger::Rule(rule) => self.rule(rule),
            Trigger::Operator { by, reason } => {
                let line = format!("{} asked for it: {}", safe(&by.to_string()), safe(reason));
                self.line(&line);
            }
            Trigger::SeenAgain => self.line("The quarantined member was seen again."),
        }
    }

    fn rule(&mut self, rule: &RuleExplanation) {
        let line = format!(
            "The rule “{}” had been {} for {}; it says **{}** and asks for **{}**. Each branch with what was seen, by \
             whom, and how old it was (✔ true, ✘ false, ? unknown, which never kills):\n",
            safe(rule.rule.as_str()),
            rule.truth,
            human(rule.since),
            rule.verdict,
            rule.then
        );
        self.line(&line);
        let tree: &Explanation = &rule.tree;
        self.code(&tree.to_text());
    }

    /// A block that nothing inside can end early.
    fn code(&mut self, text: &str) {
        let mut fence = String::from("```");
        while text.contains(&fence) {
            fence.push('`');
        }
        let clean: String = text.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
        let block = format!("{fence}text\n{}\n{fence}", clean.trim_end());
        self.line(&block);
    }

    fn guards(&mut self) {
        if self.incident.guards.is_empty() {
            return;
        }
        self.section("Guards");
        self.line("As they stood when it began:\n");
        self.table(&["guard", "stood against it", "because"]);
        for guard in &self.incident.guards {
            self.row(&[guard.guard.as_str(), if guard.blocks { "**yes**" } else { "no" }, &guard.reason]);
        }
    }

    fn candidates(&mut self) {
        if self.incident.candidates.is_empty() {
            return;
        }
        self.section("Candidates");
        self.table(&["standby", "place", "position", "behind", "priority", "judgement"]);
        for c in &self.incident.candidates {
            let judgement = match c.rank {
                Some(1) => "best".to_owned(),
                Some(_) => "fit".to_owned(),
                None => format!("rejected: {}", c.rejected.join("; ")),
            };
            let chosen = if c.member == self.incident.candidate { "**chosen**, " } else { "" };
            let judgement = format!("{chosen}{judgement}");
            let place = c.rank.map_or_else(|| "—".into(), |rank| rank.to_string());
            let (position, behind, priority) = (known(c.position), known(c.behind), c.priority.to_string());
            self.row(&[c.member.as_str(), &place, &position, &behind, &priority, &judgement]);
        }
    }

    fn steps(&mut self) {
        let i = self.incident;
        self.section("Steps");
        if i.steps.is_empty() {
            self.line("None was done.");
        } else {
            self.table(&["#", "step", "offset", "took", "outcome", "what was seen"]);
            for step in &i.steps {
                let (act, offset) = (step.act.to_string(), self.offset(step.started));
                let took = match step.took {
                    Some(took) => human(took),
                    None if step.outcome == "running" => "—".into(),
                    None => "not known".into(),
                };
                let outcome = outcome(step);
                self.row(&[&act, &step.label, &offset, &took, &outcome, &step.detail]);
            }
        }
        if i.kind != SagaKind::Rejoin {
            let line = match i.proof {
                Proof::Nothing => format!("\nThat {} is stopped was **not proved** (proof 0).", i.old_primary),
                proof => format!("\nThe strongest proof that {} is stopped: **{proof}**.", i.old_primary),
            };
            self.line(&line);
        }
    }

    fn loss(&mut self) {
        let i = self.incident;
        if i.kind == SagaKind::Rejoin {
            return;
        }
        self.section("Possible loss");
        let Some(loss) = &i.loss else {
            self.line("It was not estimated: it did not come to that, or no position was known.");
            return;
        };
        let line = match loss.behind {
            Some(0) => {
                format!("{} had everything up to the old primary's last known position: no loss is known.", i.candidate)
            }
            Some(behind) => format!("**At least {behind}** (in the broker's own unit) may be lost."),
            None => "**How much may be lost is not known.**".into(),
        };
        self.line(&line);
        self.line("");
        self.table(&["", ""]);
        let (primary, candidate) = (known(loss.primary_position), known(loss.candidate_position));
        self.row(&["last known position of the old primary", &primary]);
        self.row(&["position of the new one after catching up", &candidate]);
        self.row(&["estimate", &loss.detail]);
        let blind = match loss.blind {
            Some(blind) => format!(
                "what the old primary took in the {} before the fence, after its position was last read",
                human(blind)
            ),
            None => "what the old primary took after its position was last read; how long that was, too".into(),
        };
        self.row(&["not known", &blind]);
    }

    fn rejoin(&mut self) {
        let Some(rejoin) = &self.incident.rejoin else { return };
        self.section("Rejoin");
        let line = self.rejoined(rejoin);
        self.line(&line);
        if let Some(divergent) = rejoin.divergent {
            let line = match divergent {
                0 => "It had nothing that the new primary did not get.".to_owned(),
                n => format!("**It had {n} (in the broker's own unit) that the new primary never got.**"),
            };
            self.line(&line);
        }
        if !rejoin.detail.is_empty() {
            self.line(&safe(&rejoin.detail));
        }
    }

    fn follow_ups(&mut self) {
        let i = self.incident;
        let mut list = Vec::new();
        if i.state == IncidentState::Held {
            list.push(format!(
                "It is held. Look at the reason and at `coroner why-not {0}`; if you have checked with your own eyes that {1} \
                 is stopped, say so with `coroner fence confirm {0}`.",
                i.cluster, i.old_primary
            ));
        }
        for step in i.steps.iter().filter(|s| matches!(s.outcome.as_str(), "failed" | "unknown" | "refuted")) {
            list.push(format!("Find out why step {} ({}) ended as {}.", step.act, step.label, step.outcome));
        }
        if !i.outage.laggards.is_empty() {
            list.push(
                "Look at the nodes that did not say that they follow; they may still use the old address.".into(),
            );
        }
        if i.loss.as_ref().is_some_and(|loss| loss.behind != Some(0)) {
            list.push("Compare what senders believe to be acknowledged with what the new primary has.".into());
        }
        match &i.rejoin {
            Some(rejoin) if rejoin.divergent.is_some_and(|n| n > 0) => {
                list.push(format!("Look through the divergent tail of {} before it is thrown away.", rejoin.member));
            }
            None if i.kind == SagaKind::Failover && i.proof != Proof::Nothing => list.push(format!(
                "{0} is fenced and quarantined, and {1} has one standby less. Find out why it died; `coroner status` \
                 shows when it is back.",
                i.old_primary, i.cluster
            )),
            _ => {}
        }
        if i.acknowledged.is_none() {
            list.push(format!("Take note: `coroner incidents ack {}` ends the alert and the cooldown.", i.id));
        }
        if list.is_empty() {
            return;
        }
        self.section("What is left to do");
        for item in list {
            let line = format!("- {}", one_line(&item));
            self.line(&line);
        }
    }

    fn rejoined(&self, rejoin: &RejoinRecord) -> String {
        let seen = rejoin
            .seen
            .map_or_else(|| "was not seen again yet".into(), |at| format!("was seen again at {} UTC", self.wall(at)));
        let done = rejoin.done.map_or_else(
            || "it is quarantined".into(),
            |at| format!("it follows the new primary, and its fence was lifted at {} UTC", self.wall(at)),
        );
        format!("{} {seen}; {done}.", rejoin.member)
    }

    fn wall(&self, at: Time) -> String {
        wall(self.incident, at)
    }

    /// Seconds before or after the opening.
    fn offset(&self, at: Time) -> String {
        let opened = self.incident.opened;
        if at >= opened {
            format!("+{:.3}s", at.since(opened).as_secs_f64())
        } else {
            format!("−{:.3}s", opened.since(at).as_secs_f64())
        }
    }
}

/// An outage to the millisecond, as long as that says anything.
fn exact(d: Duration) -> String {
    if d < Duration::from_mins(1) { format!("{:.3}s", d.as_secs_f64()) } else { human(d) }
}

fn cause(i: &Incident) -> String {
    let at = wall(i, i.opened);
    match (&i.trigger, i.kind) {
        (Trigger::Rule(rule), _) => format!(
            "At {at} UTC the rule “{}” called {}, the primary of {}, {}.",
            one_line(rule.rule.as_str()),
            i.old_primary,
            i.cluster,
            rule.verdict
        ),
        (Trigger::Operator { by, reason }, SagaKind::Rejoin) => {
            let reason = one_line(reason);
            format!("At {at} UTC {by} asked to bring {} back to {} ({reason}).", rejoining(i), i.cluster)
        }
        (Trigger::Operator { by, reason }, kind) => {
            let kind = if kind == SagaKind::Failover { "failover" } else { "switchover" };
            let reason = one_line(reason);
            format!("At {at} UTC {by} asked for a {kind} of {} from {} ({reason}).", i.cluster, i.old_primary)
        }
        (Trigger::SeenAgain, _) => {
            format!("At {at} UTC {}, a quarantined member of {}, was seen again.", rejoining(i), i.cluster)
        }
    }
}

fn effect(i: &Incident) -> String {
    let reason = one_line(i.state_reason.as_deref().unwrap_or("no reason was recorded"));
    match (i.state, i.kind) {
        (IncidentState::Resolved, SagaKind::Rejoin) => format!("It is a standby of {} again.", i.cluster),
        (IncidentState::Resolved, _) => {
            let stopped = match i.proof {
                Proof::Nothing => format!("{} was taken out of service", i.old_primary),
                proof => format!("{} was stopped, proof {proof}", i.old_primary),
            };
            let nodes = i.outage.following.len();
            let all = nodes + i.outage.laggards.len();
            let followers = match (nodes, all) {
                (_, 0) => String::new(),
                (n, all) if n == all => format!(", and {n} of {all} nodes follow it"),
                (n, all) => format!(", and only {n} of {all} nodes said in time that they follow it"),
            };
            format!("{stopped}; {} was promoted under epoch {}{followers}.", i.candidate, i.epoch)
        }
        (IncidentState::Aborted, _) => {
            format!(
                "It was given up before anything irreversible was done, and {} stays primary: {reason}.",
                i.old_primary
            )
        }
        (IncidentState::Held, _) => format!("It is HELD and waits for a person: {reason}."),
        (state, SagaKind::Rejoin) => format!("It is being brought back ({state})."),
        (state, _) => format!("{} is to take over under epoch {} ({state}).", i.candidate, i.epoch),
    }
}

/// The wall time of a moment, with milliseconds.
fn wall(incident: &Incident, at: Time) -> String {
    let ms = incident.anchor.unix_ms_at(at);
    Timestamp::from_millisecond(ms)
        .map_or_else(|_| format!("{ms} ms after 1970"), |t| t.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string())
}

fn outcome(step: &StepRecord) -> String {
    match step.outcome.as_str() {
        good @ ("done" | "confirmed") => good.to_owned(),
        other => format!("**{other}**"),
    }
}

fn known(position: Option<u64>) -> String {
    position.map_or_else(|| "not known".into(), |p| p.to_string())
}

/// Text of programs and of the network inside Markdown: one line, no cell or tag of its own.
fn safe(text: &str) -> String {
    one_line(text).replace('|', "\\|").replace('<', "&lt;")
}

/// An incident as one line.
#[must_use]
pub fn incident_summary(incident: &Incident) -> String {
    one_line(&incident_line(incident))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples;

    #[test]
    fn the_report_of_a_failover_reads_as_it_was_agreed() {
        let text = markdown(&samples::incident());
        let golden = include_str!("../../tests/report/failover.md");
        if text != golden && std::env::var_os("CORONER_UPDATE_GOLDEN").is_some() {
            std::fs::write("tests/report/failover.md", &text).unwrap();
        }
        assert_eq!(text, golden, "if the change is meant: CORONER_UPDATE_GOLDEN=1 cargo test --lib report::render");
    }

    #[test]
    fn every_state_has_its_sentences() {
        let mut incident = samples::incident();
        for (state, kind, wanted) in [
            (IncidentState::Held, SagaKind::Failover, "It is HELD and waits for a person: no proof"),
            (IncidentState::Aborted, SagaKind::Switchover, "given up before anything irreversible"),
            (IncidentState::Promoting, SagaKind::Failover, "broker-b is to take over under epoch 8 (promoting)"),
            (IncidentState::Resolved, SagaKind::Rejoin, "It is a standby of orders again."),
        ] {
            incident.state = state;
            incident.kind = kind;
            incident.state_reason = Some("no proof".into());
            let text = markdown(&incident);
            assert!(text.contains(wanted), "{state}: {text}");
        }
    }

    #[test]
    fn what_is_missing_is_said_and_not_left_out() {
        let mut incident = samples::incident();
        incident.outage = crate::model::incident::Outage::default();
        incident.loss = None;
        incident.proof = Proof::Nothing;
        incident.steps.clear();
        incident.bypassed.clear();
        let text = markdown(&incident);
        for wanted in ["is not known", "It was not estimated", "was **not proved**", "None was done"] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        assert!(!text.contains("BYPASSED"));
    }

    #[test]
    fn texts_of_others_cannot_change_the_page() {
        let mut incident = samples::incident();
        incident.steps[0].detail = "a | b\n## Forged\n<script>".into();
        let Trigger::Rule(rule) = &mut incident.trigger else { panic!("a rule") };
        rule.tree.seen = "```\n# Forged\n".into();
        let text = markdown(&incident);
        assert!(!text.contains("\n## Forged") && !text.contains("<script>"));
        assert!(text.contains("a \\| b ## Forged &lt;script>"));
        assert!(text.contains("````text"), "a longer fence holds it");
    }
}
