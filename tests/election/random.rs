//! Random worlds. A failing seed is run again with `CORONER_ELECTION_SEED=n cargo test --test election`.

use coroner::election::Settings;

use crate::world::{Dice, FAIR, MS, Micros, SECOND, Weather, World};

fn settings() -> Settings {
    Settings::new("g", "app")
}

/// After everything is well again: every lease that was given is over, whoever was claiming has claimed, and beaten. Steps of
/// the database's clock let the rows of the dead live longer by as much.
fn bound(stepped_back_ms: u64) -> Micros {
    30 * SECOND + stepped_back_ms * MS
}

fn play(seed: u64) -> usize {
    let mut dice = Dice(seed ^ 0xe1ec);
    let processes = [1, 2, 3, 3, 5, 10][usize::try_from(dice.below(6)).unwrap()];
    let mut world = World::new(seed, processes, &settings());
    let mut stepped_back_ms = 0;
    let has_steps = dice.permille(600);
    for who in 0..processes {
        world.start(who);
    }
    for _ in 0..60 {
        let who = usize::try_from(dice.below(processes as u64)).unwrap();
        match dice.below(12) {
            0 => world.kill(who),
            1 => world.leave(who),
            2 | 3 => world.start(who),
            4 => world.pause(who, dice.below(15 * SECOND)),
            5 => world.cut(who, true),
            6 => world.cut(who, false),
            7 if has_steps => {
                let by = i64::try_from(dice.below(12_000)).unwrap() - 6_000;
                stepped_back_ms += u64::try_from(-by.min(0)).unwrap();
                world.step_clock(by);
            }
            8 if has_steps => world.database_runs = !world.database_runs,
            9 => {
                world.weather = Weather {
                    lost_request: dice.below(300),
                    lost_answer: dice.below(300),
                    delay: 1 + dice.below(400 * MS),
                    slow: dice.below(100),
                };
            }
            10 => world.weather = FAIR,
            _ => {}
        }
        world.run_for(dice.below(4 * SECOND));
    }
    // Everything is well again.
    world.weather = FAIR;
    world.database_runs = true;
    for who in 0..processes {
        world.cut(who, false);
        world.pause(who, 0);
        // Who has left is started anew.
        world.kill(who);
        world.start(who);
    }
    world.run_for(bound(stepped_back_ms));
    assert!((0..processes).all(|who| !world.is_set_back(who)), "nothing was set back");
    assert_eq!(world.leaders().len(), 1, "somebody leads within the bound");
    // And stays.
    let led = world.history.len();
    world.run_for(60 * SECOND);
    assert_eq!(world.history.len(), led, "in fair weather the leader stays: {:?}", world.history);
    led
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("CORONER_ELECTION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CORONER_ELECTION_SEEDS").unwrap_or(500),
    }
}

#[test]
fn never_two_lead_and_always_one_within_the_bound() {
    let mut led = 0;
    for seed in seeds() {
        let result = std::panic::catch_unwind(|| play(seed));
        match result {
            Ok(times) => led += times,
            Err(panic) => {
                eprintln!("CORONER_ELECTION_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(led > 0);
}

/// The moment between the last look before a claim and the claim itself, in which the database's clock goes back, lets the
/// old leader beat, and goes forth again: at every instant around a takeover.
#[test]
fn a_clock_that_goes_back_and_forth_around_a_claim() {
    for instant in 0..400 {
        let mut world = World::new(7, 2, &settings());
        world.start(0);
        world.run_for(SECOND);
        world.start(1);
        world.run_for(10 * SECOND);
        assert_eq!(world.leaders(), [0]);
        // The database's clock stands a little ahead, so that the leader's row lapses there, while it is cut off.
        world.cut(0, true);
        world.run_for(5_000 * MS + instant * 2 * MS);
        world.cut(0, false);
        world.step_clock(-4_000);
        world.run_for(SECOND / 2);
        world.step_clock(4_000);
        world.run_for(30 * SECOND);
        assert_eq!(world.leaders().len(), 1, "instant {instant}");
    }
}
