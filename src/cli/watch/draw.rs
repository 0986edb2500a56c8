//! The picture: a pure function of what is known.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
    widgets::{Block, Borders, Cell, Paragraph, Row, Table, Wrap},
};

use super::View;
use crate::{
    cli::{follow::step_line, incidents, status::dash, style::mark},
    model::{
        Verdict,
        explain::{RuleExplanation, Truth},
        incident::IncidentState,
        status::{ClusterStatus, Why},
        time::human,
    },
};

const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const GOOD: Style = Style::new().fg(Color::Green);
const WARN: Style = Style::new().fg(Color::Yellow);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// Draws the view.
pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let clusters = view.status.as_ref().map_or(0, |s| s.clusters.len());
    let list = u16::try_from(clusters.clamp(1, 6)).unwrap_or(6) + 1;
    let [head, list, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(list), Constraint::Min(3), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(heading(view), head);
    frame.render_widget(footer(view), foot);
    draw_clusters(frame, list, view);
    let Some(cluster) = view.status.as_ref().and_then(|s| s.clusters.get(view.chosen)) else { return };
    if view.explain {
        draw_why(frame, body, view);
        return;
    }
    let people = u16::try_from(cluster.members.len().max(cluster.nodes.len()).min(6)).unwrap_or(6) + 2;
    let guards = u16::try_from(cluster.blocking.iter().filter(|g| g.blocks).count().min(3)).unwrap_or(3);
    let [sides, guards, rules, incident] = Layout::vertical([
        Constraint::Length(people),
        Constraint::Length(guards),
        Constraint::Min(3),
        Constraint::Length(incident_height(view, body.height)),
    ])
    .areas(body);
    let [members, nodes] = Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(sides);
    draw_members(frame, members, cluster);
    draw_nodes(frame, nodes, cluster);
    draw_guards(frame, guards, cluster);
    draw_rules(frame, rules, view.why.as_ref());
    draw_incident(frame, incident, view, cluster);
}

fn heading(view: &View) -> Line<'static> {
    let name = view.status.as_ref().map_or_else(String::new, |s| s.arbiter.clone());
    let mut spans = vec![Span::styled("coroner ", BOLD), Span::raw(format!("{name} at {}", view.place))];
    if let Some(status) = &view.status {
        if let Some(reason) = &status.tilt {
            spans.push(Span::styled(format!("  TILT: {reason}"), BAD));
        }
        if let Some(reason) = &status.store_lost {
            spans.push(Span::styled(format!("  STORE LOST: {reason}"), BAD));
        }
    }
    Line::from(spans)
}

fn footer(view: &View) -> Line<'static> {
    match &view.lost {
        Some(why) => Line::styled(format!("CONNECTION LOST, the above is old. {why}"), BAD),
        None => Line::styled("q quit  ↑↓ cluster  w why  PgUp/PgDn scroll", DIM),
    }
}

const fn verdict_style(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Alive => GOOD,
        Verdict::Suspect | Verdict::Gray => WARN,
        Verdict::Dead => BAD,
        Verdict::Unknown => DIM,
    }
}

fn draw_clusters(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let Some(status) = &view.status else {
        frame.render_widget(Line::styled("Nothing heard of the arbiter yet.", DIM), area);
        return;
    };
    // The chosen one stays in sight when there are more than the screen has lines.
    let room = usize::from(area.height.saturating_sub(1)).max(1);
    let from = view.chosen.saturating_sub(room - 1);
    let rows = status.clusters.iter().enumerate().skip(from).take(room).map(|(i, cluster)| {
        let sign = if i == view.chosen { "▶" } else { " " };
        let ready = if cluster.ready { Cell::from("ready").style(GOOD) } else { Cell::from("not ready").style(WARN) };
        let note = if cluster.pause.is_some() { "paused" } else { "" };
        Row::new([
            Cell::from(format!("{sign} {}", cluster.cluster)).style(if i == view.chosen { BOLD } else { Style::new() }),
            Cell::from(cluster.mode.to_string()),
            Cell::from(format!("{} {}", cluster.verdict, human(cluster.verdict_since)))
                .style(verdict_style(cluster.verdict)),
            Cell::from(dash(cluster.primary.as_ref())),
            Cell::from(cluster.epoch.to_string()),
            ready,
            Cell::from(note).style(WARN),
        ])
    });
    let widths = [
        Constraint::Fill(2),
        Constraint::Length(6),
        Constraint::Length(15),
        Constraint::Fill(2),
        Constraint::Length(6),
        Constraint::Length(9),
        Constraint::Length(6),
    ];
    let header = Row::new(["  CLUSTER", "MODE", "VERDICT", "PRIMARY", "EPOCH", "", ""]).style(DIM);
    frame.render_widget(Table::new(rows, widths).header(header), area);
}

fn block(title: String) -> Block<'static> {
    Block::new().borders(Borders::TOP).title(title).border_style(DIM)
}

fn draw_members(frame: &mut Frame<'_>, area: Rect, cluster: &ClusterStatus) {
    let rows = cluster.members.iter().map(|m| {
        let note = if m.quarantined { " quarantined" } else { "" };
        let odd = m.quarantined || m.claims.is_some_and(|claim| claim != m.role);
        Row::new([
            Cell::from(format!("{}{note}", m.member)),
            Cell::from(m.role.to_string()).style(if odd { WARN } else { Style::new() }),
            Cell::from(dash(m.seen.map(human))),
        ])
    });
    let widths = [Constraint::Fill(1), Constraint::Length(8), Constraint::Length(8)];
    let header = Row::new(["MEMBER", "ROLE", "SEEN"]).style(DIM);
    frame.render_widget(Table::new(rows, widths).header(header).block(block(String::new())), area);
}

fn draw_nodes(frame: &mut Frame<'_>, area: Rect, cluster: &ClusterStatus) {
    let rows = cluster.nodes.iter().map(|n| {
        let astray = n.follows.is_some() && n.follows != cluster.primary;
        Row::new([
            Cell::from(n.node.to_string()),
            Cell::from(dash(n.follows.as_ref())).style(if astray { WARN } else { Style::new() }),
            Cell::from(dash(n.received)),
            Cell::from(dash(n.last_arrival.map(human))),
        ])
    });
    let widths = [Constraint::Fill(1), Constraint::Fill(1), Constraint::Length(9), Constraint::Length(7)];
    let header = Row::new(["NODE", "FOLLOWS", "RECEIVED", "LAST"]).style(DIM);
    frame.render_widget(Table::new(rows, widths).header(header).block(block(String::new())), area);
}

fn draw_guards(frame: &mut Frame<'_>, area: Rect, cluster: &ClusterStatus) {
    let lines: Vec<Line<'_>> = cluster
        .blocking
        .iter()
        .filter(|g| g.blocks)
        .map(|g| Line::styled(format!("✘ {}: {}", g.guard, g.reason), WARN))
        .collect();
    frame.render_widget(Paragraph::new(lines), area);
}

fn rule_line(rule: &RuleExplanation) -> Line<'static> {
    let style = match rule.truth {
        Truth::True => verdict_style(rule.verdict),
        Truth::False => Style::new(),
        Truth::Unknown => DIM,
    };
    let shadow = if rule.shadow { " (shadow)" } else { "" };
    let text = format!("{} {}{shadow}", mark(rule.truth), rule.rule);
    let rest = format!("  {} for {}  → {}, {}", rule.truth, human(rule.since), rule.verdict, rule.then);
    Line::from(vec![Span::styled(text, style), Span::styled(rest, DIM)])
}

fn draw_rules(frame: &mut Frame<'_>, area: Rect, why: Option<&Why>) {
    let lines: Vec<Line<'_>> = why.into_iter().flat_map(|w| &w.rules).map(rule_line).collect();
    frame.render_widget(Paragraph::new(lines).block(block("RULES ".into())), area);
}

fn draw_why(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for rule in view.why.iter().flat_map(|w| &w.rules) {
        lines.push(rule_line(rule));
        lines.extend(rule.tree.to_text().lines().map(|l| Line::raw(format!("    {l}"))));
    }
    let text = Text::from(lines);
    let most = u16::try_from(text.lines.len()).unwrap_or(u16::MAX).saturating_sub(1);
    let paragraph = Paragraph::new(text).wrap(Wrap { trim: false }).scroll((view.scroll.min(most), 0));
    frame.render_widget(paragraph.block(block("WHY ".into())), area);
}

fn incident_height(view: &View, room: u16) -> u16 {
    let Some(incident) = &view.incident else {
        let any = view.status.as_ref().and_then(|s| s.clusters.get(view.chosen)).is_some_and(|c| c.incident.is_some());
        return if any { 2 } else { 0 };
    };
    let wanted = u16::try_from(incident.steps.len()).unwrap_or(u16::MAX).saturating_add(2);
    wanted.min(room / 2)
}

fn draw_incident(frame: &mut Frame<'_>, area: Rect, view: &View, cluster: &ClusterStatus) {
    let Some(brief) = &cluster.incident else { return };
    let reason = brief.state_reason.as_ref().map_or_else(String::new, |r| format!(": {r}"));
    let style = match brief.state {
        IncidentState::Held => BAD,
        IncidentState::Resolved => GOOD,
        _ => WARN,
    };
    let mut lines = vec![Line::styled(
        format!("{} → {}, epoch {}: {}{reason}", brief.old_primary, brief.candidate, brief.epoch, brief.state),
        style,
    )];
    if let Some(incident) = view.incident.as_ref().filter(|i| i.id == brief.id) {
        // The newest steps, if there is no room for all.
        let room = usize::from(area.height.saturating_sub(2));
        let from = incident.steps.len().saturating_sub(room);
        lines.extend(incident.steps.iter().skip(from).map(|step| Line::raw(step_line(incident, step))));
    }
    let title = format!("{} {} ", incidents::kind(brief.kind).to_uppercase(), brief.id);
    frame.render_widget(Paragraph::new(lines).block(block(title)), area);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::{
        cli::status::tests::{held, sample},
        model::{Explanation, rule::Reaction},
    };

    fn picture(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = (0..24).map(|y| (0..80).map(|x| buffer[(x, y)].symbol()).collect::<String>());
        lines.map(|l| l.trim_end().to_owned() + "\n").collect()
    }

    fn view() -> View {
        let rule = RuleExplanation {
            rule: "the port is closed".into(),
            verdict: Verdict::Dead,
            then: Reaction::Failover,
            shadow: false,
            truth: Truth::Unknown,
            since: Duration::from_secs(3),
            tree: Explanation {
                asked: "ping failing 3 of 5".into(),
                truth: Truth::Unknown,
                seen: "never heard".into(),
                observer: None,
                subject: None,
                age: None,
                would_change: None,
                children: vec![],
            },
        };
        let why = Why {
            cluster: "orders".into(),
            primary: Some("broker-a".into()),
            verdict: Verdict::Alive,
            rule: None,
            rules: vec![rule],
        };
        View { place: "/run/c.sock".into(), status: Some(sample()), why: Some(why), ..View::default() }
    }

    #[test]
    fn everything_fits_80_by_24() {
        let text = picture(&view());
        for expected in [
            "coroner arbiter-1 at /run/c.sock",
            "▶ orders",
            "alive 2m 10s",
            "broker-b",
            "node-2",
            "991",
            "? the port is closed  unknown for 3s  → dead, failover",
            "q quit",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn the_trees_replace_the_members() {
        let text = picture(&View { explain: true, ..view() });
        assert!(text.contains("    ? ping failing 3 of 5: never heard"), "{text}");
        assert!(!text.contains("node-2"), "{text}");
    }

    #[test]
    fn a_held_incident_and_a_lost_connection_are_said() {
        let mut view = view();
        view.lost = Some("It is not reachable.".into());
        view.status.as_mut().unwrap().clusters[0].incident = Some(held());
        let text = picture(&view);
        assert!(text.contains("broker-a → broker-b, epoch 5: held: no fence level reached its proof"), "{text}");
        assert!(text.contains("CONNECTION LOST, the above is old. It is not reachable."), "{text}");
    }

    #[test]
    fn small_and_empty_screens_do_not_crash() {
        for (width, height) in [(1, 1), (10, 3), (200, 5)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| draw(frame, &view())).unwrap();
            terminal.draw(|frame| draw(frame, &View::default())).unwrap();
        }
    }
}
