//! Every way to cut the four-party graph (arbiter, primary, standby, nodes), with relaying agents, against the oracle of
//! `cuts.csv`; and each direction alone.
//!
//! `CORONER_LAB_CUTS=all` runs all of them (default: a sample that every run of the tests can afford), and
//! `CORONER_LAB_MATRIX=FILE` writes the table.

use std::{fmt::Write as _, thread::sleep, time::Duration};

use crate::{
    client::Ack,
    faults::Random,
    lab::{Lab, Options, other},
    net::NODES,
    scenarios::one_at_a_time,
};

/// What has to come of a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Required {
    Hold,
    HoldAndAlarm,
    Switchover,
    Failover,
    SelfFence,
}

impl Required {
    fn parse(text: &str) -> Self {
        match text {
            text if text.starts_with("HOLD+ALARM") => Self::HoldAndAlarm,
            text if text.starts_with("HOLD") => Self::Hold,
            text if text.starts_with("SWITCHOVER") => Self::Switchover,
            text if text.starts_with("FAILOVER") => Self::Failover,
            text if text.starts_with("SELF-FENCE") => Self::SelfFence,
            other => panic!("{other:?} is no outcome"),
        }
    }

    const fn moves(self) -> bool {
        matches!(self, Self::Switchover | Self::Failover)
    }
}

/// One row of the oracle.
#[derive(Clone, Debug)]
struct Cut {
    name: String,
    /// Pairs of parties: both ways, or one.
    links: Vec<(char, char)>,
    is_one_way: bool,
    required: Required,
}

/// The 64 rows, with relaying; and one row for each direction of each link, which equals the row of the link.
fn oracle() -> Vec<Cut> {
    let mut cuts = Vec::new();
    for line in include_str!("cuts.csv").lines().skip(1) {
        // Fields are quoted where they hold a comma; the first never does.
        let (name, rest) = line.split_once(',').unwrap();
        let required = Required::parse(rest.trim_start_matches('"'));
        let links = if name == "none" { Vec::new() } else { name.split('+').map(pair).collect() };
        cuts.push(Cut { name: name.to_owned(), links, is_one_way: false, required });
    }
    assert_eq!(cuts.len(), 64);
    for cut in cuts.clone().into_iter().filter(|cut| cut.links.len() == 1) {
        let (one, two) = cut.links[0];
        for (from, to) in [(one, two), (two, one)] {
            let name = format!("{from}>{to}");
            cuts.push(Cut { name, links: vec![(from, to)], is_one_way: true, required: cut.required });
        }
    }
    assert_eq!(cuts.len(), 64 + 12);
    cuts
}

fn pair(name: &str) -> (char, char) {
    let mut letters = name.chars();
    (letters.next().unwrap(), letters.next().unwrap())
}

/// What came of a cut.
struct Row {
    cut: Cut,
    observed: String,
    is_as_required: bool,
    span: (u64, u64),
}

/// Longer than the rules and the lease need.
const LOOK_FOR: Duration = Duration::from_millis(2_500);

fn strike(lab: &Lab, cut: &Cut, primary: &str) {
    let hosts = |party: char| -> Vec<&str> {
        match party {
            'A' => vec!["a"],
            'M' => vec![if primary == "m" { "m" } else { "s" }],
            'S' => vec![other(primary)],
            _ => NODES.to_vec(),
        }
    };
    for (one, two) in &cut.links {
        for from in hosts(*one) {
            for to in hosts(*two) {
                if cut.is_one_way {
                    lab.net.cut_one_way(from, to);
                } else {
                    lab.net.cut(from, to);
                }
            }
        }
    }
}

fn run(lab: &Lab, cut: &Cut) -> Row {
    let before = lab.status();
    let primary = before.primary.as_ref().unwrap().as_str().to_owned();
    let begun = lab.now();
    strike(lab, cut, &primary);
    let mut has_alarm = false;
    let look = coroner::sys::clock::Stopwatch::start();
    let mut after = lab.status();
    // A move is looked for until it is done; that nothing moves has to be looked at for the whole time.
    while look.elapsed() < if cut.required.moves() { 4 * LOOK_FOR } else { LOOK_FOR } {
        after = lab.status();
        // Nodes that nobody hears are `CoronerSignalStale`.
        has_alarm |= after.nodes.iter().all(|node| node.seen.is_none_or(|seen| seen > Duration::from_secs(1)));
        has_alarm |= !after.blocking.is_empty() || after.verdict != coroner::model::Verdict::Alive;
        if cut.required.moves() && after.primary != before.primary && after.incident.is_none() {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    if after.primary != before.primary {
        // What it acknowledged before it was stopped is behind by then.
        sleep(Duration::from_millis(700));
    }
    let ended = lab.now();
    // Whether the old primary still acknowledges anything to anybody, its own host included.
    let late = |ack: &&Ack| ack.server == primary && ack.acked > ended - 500_000_000 && ack.acked <= ended;
    let serves = lab.findings().acks.iter().filter(late).count() > 0;
    let has_moved = after.primary != before.primary;
    let kind = if !has_moved { None } else { lab.incidents().pop() };
    // Graceful: it stepped down when it was told to, whatever became of the rest.
    let is_switchover = kind.is_some_and(|i| {
        let steps = i["incident"]["steps"].as_array().cloned().unwrap_or_default();
        steps.iter().any(|step| {
            let text = step.to_string();
            text.contains("read-only") && text.contains("confirmed")
        })
    });
    let observed = match (has_moved, serves) {
        (true, false) if is_switchover => "SWITCHOVER".to_owned(),
        (true, false) => "FAILOVER".to_owned(),
        (true, true) => "MOVED, AND THE OLD PRIMARY SERVES".to_owned(),
        (false, true) if has_alarm => "HOLD+ALARM".to_owned(),
        (false, true) => "HOLD".to_owned(),
        (false, false) if has_alarm => "SELF-FENCE+ALARM".to_owned(),
        (false, false) => "SELF-FENCE".to_owned(),
    };
    let is_as_required = match cut.required {
        Required::Hold => observed.starts_with("HOLD"),
        // A primary that reaches nobody shuts itself by its lease, whatever the arbiter can do; no node loses by it what it
        // had.
        Required::HoldAndAlarm => {
            observed == "HOLD+ALARM" || (observed == "SELF-FENCE+ALARM" && cut.links.contains(&('M', 'N')))
        }
        Required::Switchover => observed == "SWITCHOVER",
        Required::Failover => observed == "FAILOVER",
        Required::SelfFence => observed.starts_with("SELF-FENCE"),
    };
    let why = if is_as_required { String::new() } else { lab.story() };
    lab.heal();
    lab.whole();
    println!("{:20} required {:?}, observed {observed}", cut.name, cut.required);
    if !is_as_required {
        println!("{why}");
    }
    Row { cut: cut.clone(), observed, is_as_required, span: (begun, lab.now()) }
}

#[test]
fn every_cut_has_the_required_outcome() {
    let _one = one_at_a_time();
    let all = oracle();
    let seed = crate::client::monotonic();
    let chosen: Vec<&Cut> = match std::env::var("CORONER_LAB_CUTS").as_deref() {
        Ok("all") => all.iter().collect(),
        Ok(names) => all.iter().filter(|cut| names.split(',').any(|name| name == cut.name)).collect(),
        Err(_) => {
            // The ones that teach most, and some others each time.
            let mut random = Random(seed);
            let always = ["AM", "MN", "AM+MS+MN", "AM+MS", "AM+MN", "MN+SN", "AM+AN+MS+SN"];
            let mut some: Vec<&Cut> = all.iter().filter(|cut| always.contains(&cut.name.as_str())).collect();
            some.extend((0..5).map(|_| &all[usize::try_from(random.next() % 76).unwrap()]));
            some
        }
    };
    println!("{} of {} cuts (seed {seed}); CORONER_LAB_CUTS=all runs all of them", chosen.len(), all.len());
    let lab = Lab::new(&Options::agents());
    let rows: Vec<Row> = chosen.into_iter().map(|cut| run(&lab, cut)).collect();
    let found = lab.findings();
    let mut table = String::from("| cut | required | observed | outage | overlap |\n|---|---|---|---|---|\n");
    for row in &rows {
        let outage = found.outage(row.span.0, row.span.1);
        let mark = if row.is_as_required { "" } else { " **differs**" };
        let (name, required) = (&row.cut.name, row.cut.required);
        let _ = writeln!(
            table,
            "| {name} | {required:?} | {}{mark} | {} ms | {} ms |",
            row.observed,
            outage.as_millis(),
            found.overlap.as_millis()
        );
    }
    println!("{table}");
    if let Ok(path) = std::env::var("CORONER_LAB_MATRIX") {
        std::fs::write(path, &table).unwrap();
    }
    found.assert_clean();
    let differ: Vec<&str> = rows.iter().filter(|row| !row.is_as_required).map(|row| row.cut.name.as_str()).collect();
    assert!(differ.is_empty(), "these cuts differ from the oracle: {differ:?}");
}
