//! Every way to cut the four-party graph (arbiter, primary, standby, nodes), with relaying agents, against the oracle of
//! `cuts.csv`; and each direction alone.
//!
//! `CORONER_LAB_CUTS=all` runs all of them (default: a sample that every run of the tests can afford), and
//! `CORONER_LAB_MATRIX=FILE` writes the table.

use crate::{
    faults::Random,
    lab::{Lab, Options, other},
    net::NODES,
    scenarios::one_at_a_time,
    table::{Required, Row, observe, print},
};

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
    let run = |cut: &Cut| {
        let kind = (cut.name.as_str(), cut.required, cut.links.contains(&('M', 'N')));
        observe(&lab, kind, |primary| strike(&lab, cut, primary), |_| {})
    };
    let rows: Vec<Row> = chosen.into_iter().map(run).collect();
    let found = lab.findings();
    print(&rows, &found, "cut", "CORONER_LAB_MATRIX");
    found.assert_clean();
    let differ: Vec<&str> = rows.iter().filter(|row| !row.is_as_required).map(|row| row.name.as_str()).collect();
    assert!(differ.is_empty(), "these cuts differ from the oracle: {differ:?}");
}
