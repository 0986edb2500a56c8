//! Is the fingerprint right? Two ways to one fingerprint must go on alike, or the search leaves out what it has not seen.

use std::collections::{HashMap, VecDeque};

use crate::{
    setup::{Faults, Setup},
    world::{Notes, World},
};

/// So many moves further the two are followed: what tells them apart may show only once a rule has held for its time.
const FOLLOWED: usize = 12;

/// What one move did: the fingerprint after it, the goals it reached, what was wrong.
type Outcome = (u128, u32, Option<String>);

/// What comes of a world by one move each; in whichever order its acts stand.
fn next(setup: &Setup, world: &World) -> Vec<(Outcome, World)> {
    let mut moves = Vec::new();
    world.moves(setup, &mut moves);
    let mut all: Vec<_> = moves
        .into_iter()
        .map(|step| {
            let mut notes = Notes::default();
            let mut after = world.clone();
            after.apply(setup, step, &mut notes);
            ((after.print(setup), notes.reached, notes.wrong), after)
        })
        .collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

/// Takes both by the same moves, a few of all that there are, and compares what comes of each of them.
fn go_on_alike(setup: &Setup, one: &World, other: &World) {
    let (mut left, mut right) = (one.clone(), other.clone());
    let mut draw = one.print(setup);
    for step in 0..FOLLOWED {
        let (of_left, of_right) = (next(setup, &left), next(setup, &right));
        let outcomes = |all: &[(Outcome, World)]| all.iter().map(|(o, _)| o.clone()).collect::<Vec<_>>();
        assert_eq!(
            outcomes(&of_left),
            outcomes(&of_right),
            "two worlds with one fingerprint, {} s and {} s old, go on differently after {step} moves:\n{one}\n{other}\n\
             then\n{left}\n{right}",
            one.now,
            other.now
        );
        if of_left.is_empty() {
            return;
        }
        // Knuth's constants for a linear congruential generator: the same walk each time.
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let chosen = usize::try_from((draw >> 33) % of_left.len() as u128).expect("it is less than a length");
        (left, right) = (of_left[chosen].1.clone(), of_right[chosen].1.clone());
    }
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
                    go_on_alike(setup, &after, other);
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
        None => (1_500, 1),
    };
    for has_lease in [true, false] {
        let setup = Setup::new("two ways to one state", has_lease, Faults::any(2));
        let compared = compare(&setup, states, every);
        assert!(compared > 20, "only {compared} states were come to in two ways");
    }
}
