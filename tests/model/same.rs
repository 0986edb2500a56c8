//! Is the fingerprint right? Two ways to one fingerprint must go on alike, or the search leaves out what it has not seen.

use std::collections::{HashMap, VecDeque};

use crate::{
    setup::{Faults, Setup},
    world::{Notes, World},
};

/// What comes of a world by one move each; in whichever order its acts stand.
fn next(setup: &Setup, world: &World) -> Vec<(u128, u32, Option<String>)> {
    let mut moves = Vec::new();
    world.moves(setup, &mut moves);
    let mut all: Vec<_> = moves
        .into_iter()
        .map(|step| {
            let mut notes = Notes::default();
            let mut after = world.clone();
            after.apply(setup, step, &mut notes);
            (after.print(setup), notes.reached, notes.wrong)
        })
        .collect();
    all.sort();
    all
}

/// Looks at that many states, and at every so many-th state that was come to in two ways.
fn compare(setup: &Setup, states: usize, every: u128) -> usize {
    let mut known: HashMap<u128, Option<World>> = HashMap::new();
    let first = World::new(setup, &mut Notes::default());
    let mut waiting = VecDeque::from([first]);
    let mut compared = 0;
    let mut moves = Vec::new();
    while let Some(world) = waiting.pop_front() {
        if known.len() > states {
            break;
        }
        world.moves(setup, &mut moves);
        for step in &moves {
            let mut after = world.clone();
            after.apply(setup, *step, &mut Notes::default());
            let print = after.print(setup);
            match known.get(&print) {
                None => {
                    known.insert(print, print.is_multiple_of(every).then(|| after.clone()));
                    waiting.push_back(after);
                }
                Some(None) => {}
                Some(Some(other)) => {
                    compared += 1;
                    assert_eq!(
                        next(setup, &after),
                        next(setup, other),
                        "two worlds with one fingerprint, {} s and {} s old, go on differently:\n{after}\n{other}",
                        after.now,
                        other.now
                    );
                }
            }
        }
    }
    compared
}

#[test]
fn worlds_with_the_same_fingerprint_go_on_alike() {
    let (states, every) = match crate::sound::by_hand() {
        Some(states) => (states.min(200_000), 1),
        None => (600, 4),
    };
    for has_lease in [true, false] {
        let setup = Setup::new("two ways to one state", has_lease, Faults::any(2));
        let compared = compare(&setup, states, every);
        assert!(compared > 20, "only {compared} states were come to in two ways");
    }
}
