//! How long a backtest of a month takes: one cluster, six observations a second for thirty days, some outages, two files of
//! rules. And what recording costs: time of the writer for each observation, bytes for each, time of the decision loop.
//!
//! `cargo bench --bench backtest`. `CORONER_BACKTEST_DAYS` asks for another length, `CORONER_BACKTEST_DIR` for another place of
//! the journal than a temporary directory.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a benchmark may stop")]

#[path = "common/mod.rs"]
mod common;
#[path = "../tests/backtest/generator.rs"]
mod generator;

use std::{hint::black_box, path::Path, time::Duration};

use coroner::{
    backtest::{self, Question, Side},
    config::{self, WithoutSecrets},
    journal::{Bounds, Journal, Reader, What},
    model::{Fact, Observation, Observer, Outcome, Policy},
    sys::clock::Stopwatch,
};
use generator::{ANCHOR, CAREFUL, HASTY, Weather, World, file};

fn policy_of(rules: &str) -> Policy {
    let text = file(Path::new("/nowhere"), rules);
    config::load_text(&text, "bench.yaml", &WithoutSecrets).unwrap_or_else(|e| panic!("{e}\n{text}")).policy
}

/// A month with an outage of half a minute every three days, a cut cable of six seconds each day, and idle nights.
fn record(dir: &Path, seconds: u64) -> u64 {
    let mut world = World::begin(dir, Bounds { most_bytes: u64::MAX, ..Bounds::default() });
    for second in 0..seconds {
        let (of_day, day) = (second % 86_400, second / 86_400);
        let weather = match of_day {
            40_000..40_006 => Weather::Cut,
            50_000..50_030 if day % 3 == 1 => Weather::Dead,
            10_000..20_000 => Weather::Idle,
            _ => Weather::Fair,
        };
        world.second(weather);
    }
    world.flush();
    world.observations
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn per(total: Duration, count: u64) -> f64 {
    total.as_secs_f64() * 1e9 / count.max(1) as f64
}

fn main() {
    let days: f64 = std::env::var("CORONER_BACKTEST_DAYS").ok().and_then(|days| days.parse().ok()).unwrap_or(30.0);
    let days = if common::is_test() { 0.02 } else { days };
    let seconds = Duration::from_secs_f64(days * 86_400.0).as_secs();
    let temporary = tempfile::tempdir().unwrap();
    let dir = std::env::var_os("CORONER_BACKTEST_DIR").map_or_else(|| temporary.path().join("journal"), Into::into);

    let watch = Stopwatch::start();
    let observations = record(&dir, seconds);
    let took = watch.elapsed();
    let journal = Journal::open(&dir).unwrap();
    let bytes: u64 = journal.segments.iter().map(|segment| segment.bytes).sum();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let per_observation = bytes as f64 / observations as f64;
    println!(
        "recorded {observations} observations of {days} days in {:.2} s: {:.0} ns each, made up included; {:.1} MB in {} \
         segments, {per_observation:.2} bytes each",
        took.as_secs_f64(),
        per(took, observations),
        bytes as f64 / 1e6,
        journal.segments.len()
    );

    // What the decision loop pays: a copy for the writer.
    let seen = Observation {
        at: ANCHOR.boot,
        cluster: "orders".into(),
        signal: "heartbeat".into(),
        observer: Observer::Member("broker-a".into()),
        subject: Some("broker-a".into()),
        outcome: Outcome::Fact(Fact::Beat { seq: 1, echoed: true }),
    };
    let (copies, mut batch) = (1_000_000_u64, Vec::new());
    let watch = Stopwatch::start();
    for _ in 0..copies {
        batch.push(black_box(&seen).clone());
        if batch.len() == 4_096 {
            batch.clear();
        }
    }
    println!("the decision loop's part of recording: {:.0} ns for each observation", per(watch.elapsed(), copies));

    let watch = Stopwatch::start();
    let mut count = 0_u64;
    for segment in &journal.segments {
        let bytes = segment.read().unwrap();
        let mut reader = Reader::over(&bytes).unwrap();
        while let Some(entry) = reader.next_entry() {
            count += u64::from(matches!(entry.what, What::Seen(_)));
        }
    }
    assert_eq!(count, observations);
    println!(
        "read all of it once in {:.2} s: {:.0} ns each",
        watch.elapsed().as_secs_f64(),
        per(watch.elapsed(), count)
    );

    let (in_force, other) = (policy_of(CAREFUL), policy_of(HASTY));
    let question = Question {
        in_force: &in_force,
        other: &other,
        clusters: vec!["orders".into()],
        from_unix_ms: ANCHOR.unix_ms,
        to_unix_ms: i64::MAX,
        window: Duration::from_secs(60),
        outage: Duration::from_secs(3),
        disowned: Vec::new(),
        threads: std::thread::available_parallelism().map_or(2, usize::from),
    };
    for round in 0..if common::is_test() { 1 } else { 3 } {
        let watch = Stopwatch::start();
        let report = backtest::run(&journal, &question, &|_| {}).unwrap();
        let took = watch.elapsed();
        let cluster = &report.clusters[0];
        assert_eq!(cluster.observations, observations);
        let of = |side: Side| {
            let rules = cluster.rules.iter().filter(|rule| rule.side == side && rule.truly.is_some());
            rules.map(|rule| format!("{} fired {} times", rule.rule, rule.fired)).collect::<Vec<_>>().join(", ")
        };
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let rate = observations as f64 / took.as_secs_f64();
        println!(
            "backtest {}: {:.2} s, {rate:.0} observations a second, each through two files; in force: {}; new: {}; {} events, {} \
             false firings",
            round + 1,
            took.as_secs_f64(),
            of(Side::InForce),
            of(Side::New),
            cluster.events.len(),
            cluster.false_firings.len()
        );
    }
}
