use std::time::Duration;

use coroner::sim::{self, Coverage, Fault, Schedule, Setting, fault::singles, run_told};

use crate::settings;

fn quiet() -> Schedule {
    Schedule::of(7, &[], Duration::from_secs(5))
}

fn all() -> [(&'static str, Setting); 5] {
    [
        ("agents", settings::agents(&["a", "b"])),
        ("three members", settings::agents(&["a", "b", "c"])),
        ("several arbiters", settings::several()),
        ("synchronous", settings::synchronous()),
        ("without agents", settings::without_agents()),
    ]
}

#[test]
fn on_a_quiet_day_nothing_happens() {
    for (name, setting) in all() {
        let outcome = run_told(&setting, &quiet());
        let story = outcome.story.join("\n");
        assert_eq!(outcome.violations, [], "{name}\n{story}");
        assert_eq!((outcome.opened, outcome.promotions), (0, 0), "{name}\n{story}");
        assert!(outcome.outage_ns < 1_000_000_000, "{name}: {} ns without service\n{story}", outcome.outage_ns);
    }
}

#[test]
fn a_dead_primary_is_replaced_and_comes_back() {
    for (name, setting) in all() {
        let dies = [(Duration::from_millis(500), Fault::KillBroker { member: 0 })];
        let outcome =
            run_told(&Setting { restarts_after: None, ..setting }, &Schedule::of(1, &dies, Duration::from_secs(5)));
        let story = outcome.story.join("\n");
        assert_eq!(outcome.violations, [], "{name}\n{story}");
        assert_eq!(outcome.promotions, 1, "{name}\n{story}");
    }
}

/// Plays it; what is broken is shrunk, told, and printed in the form that replays it.
fn assert_clean(name: &str, setting: &Setting, schedule: &Schedule, what: &str) -> sim::Outcome {
    let outcome = sim::run(setting, schedule);
    if let Some(first) = outcome.violations.first().map(|violation| violation.invariant) {
        let small = sim::shrink(setting, schedule, |o| o.breaks(first));
        let told = run_told(setting, &small);
        let schedule = serde_json::to_string(&small).unwrap();
        panic!("{name}, {what}: {:?}\n{schedule}\n{}", told.violations, told.story.join("\n"));
    }
    outcome
}

#[test]
fn each_fault_alone() {
    for (name, setting) in all() {
        for fault in singles(&setting) {
            let schedule = Schedule::of(3, &[(Duration::from_millis(500), fault.clone())], Duration::from_secs(12));
            assert_clean(name, &setting, &schedule, &fault.words(&setting));
        }
    }
}

/// Whoever is lost beside the primary, it goes on serving: with three voters any two decide.
#[test]
fn the_loss_of_one_other_costs_no_service() {
    let setting = settings::agents(&["a", "b"]);
    let (arbiter, standby) = (0, 2);
    let faults = [
        Fault::Isolate { host: arbiter },
        Fault::Isolate { host: standby },
        Fault::KillArbiter { arbiter: 0 },
        Fault::PowerOff { host: standby },
        Fault::KillAgent { member: 1 },
        Fault::Cut { a: 0, b: 1 },
        Fault::Cut { a: 1, b: 2 },
        Fault::Cut { a: 0, b: 2 },
    ];
    for fault in faults {
        let schedule = Schedule::of(5, &[(Duration::from_millis(500), fault.clone())], Duration::from_secs(20));
        let outcome = run_told(&setting, &schedule);
        let story = outcome.story.join("\n");
        assert_eq!((outcome.violations.len(), outcome.promotions), (0, 0), "{fault:?}\n{story}");
        assert!(outcome.outage_ns < 1_000_000_000, "{fault:?}: {} ns\n{story}", outcome.outage_ns);
    }
}

/// `CORONER_SIM_RUNS`: of each setting. `CORONER_SIM_SEED`: from which number on.
#[test]
fn by_chance() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |n| n.parse().unwrap());
    let (runs, first) = (number("CORONER_SIM_RUNS", 60), number("CORONER_SIM_SEED", 0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let mut coverage = Coverage::default();
    let mut promotions = 0;
    for (name, setting) in all() {
        std::thread::scope(|scope| {
            let parts: Vec<_> = (0..threads)
                .map(|thread| {
                    let setting = &setting;
                    scope.spawn(move || {
                        let (mut coverage, mut promotions) = (Coverage::default(), 0);
                        for seed in (first..first + runs).filter(|seed| seed % threads == thread) {
                            let schedule = Schedule::random(setting, seed);
                            let outcome = assert_clean(name, setting, &schedule, &format!("seed {seed}"));
                            promotions += u64::from(outcome.promotions);
                            coverage.add(&outcome.coverage);
                        }
                        (coverage, promotions)
                    })
                })
                .collect();
            for part in parts {
                let (own, promoted) = part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                coverage.add(&own);
                promotions += promoted;
            }
        });
    }
    println!("{} runs, {promotions} promotions\n{}", 5 * runs, coverage.report());
    assert!(promotions >= runs, "{promotions} promotions in {} runs", 5 * runs);
}
