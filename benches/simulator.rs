//! How fast the simulator plays: failovers per second and core (a primary that is killed again and again, each failover
//! with its fence, promotion, redirect and rejoin), and runs of random faults per second and core.
//!
//! `cargo bench --bench simulator`. `CORONER_BENCH_SECONDS` (default 5): how long each of the two.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "a benchmark may stop")]

#[path = "../tests/common/policy.rs"]
mod policy;
#[path = "../tests/sim/settings.rs"]
#[allow(dead_code, reason = "the tests play more settings")]
mod settings;

use std::time::Duration;

use coroner::{
    sim::{self, Fault, Schedule},
    sys::clock::Stopwatch,
};

fn main() {
    let is_test = !std::env::args().any(|arg| arg == "--bench");
    let seconds = std::env::var("CORONER_BENCH_SECONDS").map_or(5.0, |text| text.parse().unwrap());
    let limit = Duration::from_secs_f64(if is_test { 0.01 } else { seconds });
    let setting = settings::agents(&["a", "b"]);

    // 1.2 s apart: the cooldown of this setting is one second.
    let kills: Vec<(Duration, Fault)> =
        (0..200_u64).map(|n| (Duration::from_millis(500 + 1_200 * n), Fault::KillPrimary)).collect();
    let (mut failovers, mut events, watch) = (0_u64, 0_u64, Stopwatch::start());
    for seed in 0.. {
        let outcome = sim::run(&setting, &Schedule::of(seed, &kills, Duration::from_secs(242)));
        assert_eq!(outcome.violations, [], "seed {seed}");
        failovers += u64::from(outcome.promotions);
        events += outcome.events;
        if watch.elapsed() > limit {
            break;
        }
    }
    let took = watch.elapsed().as_secs_f64();
    println!(
        "one primary after the other: {:.0} failovers a second of one core ({failovers} in {took:.1} s, {:.0} events each)",
        failovers as f64 / took,
        events as f64 / failovers.max(1) as f64
    );

    let (mut runs, mut failovers, mut events, watch) = (0_u64, 0_u64, 0_u64, Stopwatch::start());
    for seed in 0.. {
        let outcome = sim::run(&setting, &Schedule::random(&setting, seed));
        assert_eq!(outcome.violations, [], "seed {seed}");
        runs += 1;
        failovers += u64::from(outcome.promotions);
        events += outcome.events;
        if watch.elapsed() > limit {
            break;
        }
    }
    let took = watch.elapsed().as_secs_f64();
    println!(
        "random faults: {:.0} runs a second of one core ({runs} in {took:.1} s, {failovers} failovers, {:.0} events each)",
        runs as f64 / took,
        events as f64 / runs.max(1) as f64
    );
}
