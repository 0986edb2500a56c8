//! A real pair of Redis servers, real nodes, real writers and the real arbiter in network namespaces, with faults.
//! Needs root, redis-server, iproute2, nftables, util-linux.

#![allow(clippy::unwrap_used, reason = "a lab that cannot be set up is a failed test")]

mod agents;
mod checker;
mod client;
mod doctor;
mod faults;
mod guarded;
mod lab;
mod matrix;
mod net;
mod scenarios;
mod schedules;
mod table;

use std::time::Duration;

use faults::{Fault, Random};
use lab::{Lab, Options};

/// Not a test: the process that a lab starts on its hosts.
#[test]
fn helper() {
    if std::env::var_os(client::env::ROLE).is_some() {
        client::run();
    }
}

/// `CORONER_LAB_FAULTS`: how many faults (9); `CORONER_LAB_SEED`: which.
#[test]
fn random_faults_never_show_two_primaries() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
    };
    let count = number("CORONER_LAB_FAULTS", 9);
    let seed = number("CORONER_LAB_SEED", client::monotonic());
    println!("SEED {seed}, {count} faults");
    let mut random = Random(seed);
    let lab = Lab::new(&Options::default());
    let mut rows = Vec::new();
    for turn in 1..=count {
        let fault = Fault::random(&mut random);
        println!("{turn:3} of {count}: {fault:?} (CORONER_LAB_SEED={seed})");
        rows.push(faults::run(&lab, fault));
        lab.findings().assert_clean();
    }
    let found = lab.findings();
    println!("\n    fault                                         on outcome                        outage  overlap");
    let mut outages = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let outage = found.outage(row.span.0, row.span.1);
        if row.has_moved {
            outages.push(outage);
        }
        println!("{:3} {row} {:5} ms {:5} ms", index + 1, outage.as_millis(), found.overlap.as_millis());
    }
    outages.sort();
    println!(
        "\n{count} faults with seed {seed}: {} moved; their outage: median {:?}, longest {:?}; {} acknowledged writes in \
         {} epochs; overlap {:?}; {} violations; {} answers given in time that came late",
        outages.len(),
        outages.get(outages.len() / 2).copied().unwrap_or_default(),
        outages.last().copied().unwrap_or_default(),
        found.acks.len(),
        found.terms.len(),
        found.overlap,
        found.violations.len(),
        found.late
    );
    found.assert_clean();
    assert!(found.overlap < Duration::from_nanos(1));
    assert!(found.terms.windows(2).all(|pair| pair[0].epoch < pair[1].epoch));
}
