//! The enumerator: every state that can be reached, once.
//!
//! Breadth first finds the shortest story of what is wrong, and keeps a whole layer of states in memory; depth first, in
//! batches, keeps few, and its story is shortened afterwards. Both see the same states. What was seen is kept as a
//! fingerprint of 128 bits.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    goals::Goal,
    moves::Move,
    setup::Setup,
    world::{Notes, World},
};

/// In which order, and how far.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub is_depth_first: bool,
    /// No further than so many states.
    pub states: usize,
    pub workers: usize,
    /// One state in so many is followed to its end with nothing more going wrong.
    pub calm_every: u32,
    /// Progress goes to standard error.
    pub tells: bool,
    /// Ends once all of these were reached, as bits of [`Goal`].
    pub until: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { is_depth_first: false, states: usize::MAX, workers: 2, calm_every: 1, tells: false, until: None }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    pub states: usize,
    pub transitions: usize,
    pub deepest: usize,
    /// There is no state that was not seen.
    pub is_exhausted: bool,
    /// Bits of [`Goal`].
    pub reached: u32,
    pub took: Duration,
    /// How many states have which faults behind them.
    pub by_faults: BTreeMap<String, usize>,
    pub wrong: Option<Story>,
}

/// How something wrong comes to be.
#[derive(Debug)]
pub struct Story {
    pub what: String,
    pub moves: Vec<Move>,
    pub text: String,
}

impl Outcome {
    /// The numbers, for people.
    pub fn summary(&self, name: &str) -> String {
        let rate = self.states as f64 / self.took.as_secs_f64().max(1e-3);
        let how = if self.is_exhausted { "exhausted" } else { "not exhausted" };
        format!(
            "{name}: {} states, {} transitions, {} deep, {how}, {:.1} s, {rate:.0} states/s; reached {}",
            self.states,
            self.transitions,
            self.deepest,
            self.took.as_secs_f64(),
            Goal::names(self.reached).join(", ")
        )
    }
}

/// The way to a state.
struct Way {
    last: Move,
    before: Option<Arc<Self>>,
    length: u32,
}

struct Entry {
    world: World,
    way: Option<Arc<Way>>,
}

#[derive(Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("fingerprints are numbers");
    }
    fn write_u128(&mut self, x: u128) {
        self.0 = x as u64;
    }
}

/// A set that two workers share.
struct Seen(Vec<Mutex<HashSet<u128, BuildHasherDefault<Same>>>>);

impl Seen {
    fn new() -> Self {
        Self((0..64).map(|_| Mutex::default()).collect())
    }

    /// `true`: it was not in it.
    fn insert(&self, print: u128) -> bool {
        self.0[(print >> 122) as usize].lock().unwrap().insert(print)
    }

    fn contains(&self, print: u128) -> bool {
        self.0[(print >> 122) as usize].lock().unwrap().contains(&print)
    }
}

/// Seconds for people; nothing is decided by them.
#[expect(clippy::disallowed_methods, reason = "a rate for people, where the crate's clock is not at hand")]
fn now() -> Instant {
    Instant::now()
}

/// Looks at everything that can be reached.
pub fn search(setup: &Setup, limits: Limits) -> Outcome {
    let began = now();
    let seen = Seen::new();
    let calmed = Seen::new();
    let (counted, transitions) = (AtomicUsize::new(1), AtomicUsize::new(0));
    let reached = AtomicUsize::new(0);
    let deepest = AtomicUsize::new(0);
    let found: Mutex<Option<(u32, String, Vec<Move>)>> = Mutex::default();
    let mut notes = Notes::default();
    let first = World::new(setup, &mut notes);
    assert_eq!(notes.wrong, None, "the beginning itself is wrong");
    seen.insert(first.print(setup));
    let mut stack = vec![Entry { world: first, way: None }];
    let mut told = began;
    let mut by_faults: BTreeMap<String, usize> = BTreeMap::new();
    let is_enough = || {
        let reached = reached.load(Ordering::Relaxed) as u32;
        limits.until.is_some_and(|until| until & !reached == 0) || counted.load(Ordering::Relaxed) >= limits.states
    };
    while !stack.is_empty() && found.lock().unwrap().is_none() && !is_enough() {
        let from = if limits.is_depth_first { stack.len().saturating_sub(1_024) } else { 0 };
        let batch: Vec<Mutex<Option<Entry>>> = stack.drain(from..).map(|entry| Mutex::new(Some(entry))).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            let mut children = Vec::new();
            let mut moves = Vec::new();
            loop {
                // In small portions, from the newest.
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(entry) = batch.get(at).and_then(|entry| entry.lock().unwrap().take()) else { break };
                let length = entry.way.as_ref().map_or(0, |way| way.length);
                entry.world.moves(setup, &mut moves);
                transitions.fetch_add(moves.len(), Ordering::Relaxed);
                for step in &moves {
                    let mut notes = Notes::default();
                    let after = catch_unwind(AssertUnwindSafe(|| {
                        let mut world = entry.world.clone();
                        world.apply(setup, *step, &mut notes);
                        world
                    }));
                    reached.fetch_or(notes.reached as usize, Ordering::Relaxed);
                    let way = || Arc::new(Way { last: *step, before: entry.way.clone(), length: length + 1 });
                    let report = |what: String, way: Arc<Way>| {
                        let mut found = found.lock().unwrap();
                        if found.as_ref().is_none_or(|(shortest, ..)| way.length < *shortest) {
                            *found = Some((way.length, what, moves_of(&way)));
                        }
                    };
                    let world = match after {
                        Ok(world) => world,
                        Err(panic) => {
                            report(format!("A PANIC: {}", panic_in_words(&panic)), way());
                            continue;
                        }
                    };
                    if let Some(what) = notes.wrong {
                        report(what, way());
                        continue;
                    }
                    let print = world.print(setup);
                    if !seen.insert(print) {
                        continue;
                    }
                    counted.fetch_add(1, Ordering::Relaxed);
                    let way = way();
                    if (print as u32).is_multiple_of(limits.calm_every) && !calmed.contains(print) {
                        let mut notes = Notes::default();
                        let end = world.clone().calm(setup, &mut notes, |print| !calmed.insert(print));
                        reached.fetch_or(notes.reached as usize, Ordering::Relaxed);
                        if let Err(what) = end {
                            report(what, Arc::clone(&way));
                        }
                    }
                    children.push(Entry { world, way: Some(way) });
                }
                deepest.fetch_max(length as usize + 1, Ordering::Relaxed);
            }
            children
        };
        let children: Vec<Vec<Entry>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..limits.workers).map(|_| scope.spawn(work)).collect();
            workers.into_iter().map(|worker| worker.join().expect("a worker")).collect()
        });
        for entry in children.iter().flatten().filter(|_| limits.tells) {
            *by_faults.entry(entry.world.spent.names()).or_default() += 1;
        }
        stack.extend(children.into_iter().flatten());
        if limits.tells && told.elapsed() > Duration::from_secs(10) {
            told = now();
            eprintln!(
                "{}: {} states, {} waiting, {} deep, {:.0} s",
                setup.name,
                counted.load(Ordering::Relaxed),
                stack.len(),
                deepest.load(Ordering::Relaxed),
                began.elapsed().as_secs_f64()
            );
        }
    }
    let found = found.into_inner().unwrap();
    let wrong = found.map(|(_, what, moves)| {
        let moves = if limits.is_depth_first { shortened(setup, &what, moves) } else { moves };
        tell(setup, &moves, &what)
    });
    Outcome {
        states: counted.into_inner(),
        transitions: transitions.into_inner(),
        deepest: deepest.into_inner(),
        // Cut short in the middle of a batch, it would have ended with something wrong.
        is_exhausted: stack.is_empty() && wrong.is_none(),
        reached: u32::try_from(reached.into_inner()).unwrap(),
        took: began.elapsed(),
        by_faults,
        wrong,
    }
}

fn moves_of(way: &Arc<Way>) -> Vec<Move> {
    let mut moves = Vec::new();
    let mut at = Some(way);
    while let Some(way) = at {
        moves.push(way.last);
        at = way.before.as_ref();
    }
    moves.reverse();
    moves
}

fn panic_in_words(panic: &Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without words").to_owned()
}

/// Goes that way as far as it can be gone: moves that cannot be made are left out. What is wrong at its end, and the moves
/// that were made.
fn go(setup: &Setup, moves: &[Move], notes: &mut Notes) -> (Option<String>, Vec<Move>, World) {
    let mut world = World::new(setup, &mut Notes::default());
    let (mut can, mut made) = (Vec::new(), Vec::new());
    for step in moves {
        world.moves(setup, &mut can);
        if !can.contains(step) {
            continue;
        }
        made.push(*step);
        let went = catch_unwind(AssertUnwindSafe(|| world.apply(setup, *step, notes)));
        if let Err(panic) = went {
            return (Some(format!("A PANIC: {}", panic_in_words(&panic))), made, world);
        }
        if notes.wrong.is_some() {
            return (notes.wrong.clone(), made, world);
        }
    }
    (None, made, world)
}

/// What is wrong, without its numbers: a shorter way may come to it in another epoch.
fn class(what: &str) -> String {
    what.chars().take_while(|c| !c.is_ascii_digit()).collect()
}

/// Leaves out whatever is not needed for it.
fn shortened(setup: &Setup, what: &str, moves: Vec<Move>) -> Vec<Move> {
    let class = class(what);
    let is_wrong = |moves: &[Move]| {
        let (wrong, made, world) = go(setup, moves, &mut Notes::default());
        let wrong = wrong.or_else(|| world.calm(setup, &mut Notes::default(), |_| false).err());
        wrong.is_some_and(|wrong| self::class(&wrong) == class).then_some(made)
    };
    let Some(mut best) = is_wrong(&moves) else { return moves };
    let mut size = best.len() / 2;
    while size > 0 {
        let mut at = 0;
        let before = best.len();
        while at < best.len() {
            let mut fewer = best.clone();
            fewer.drain(at..(at + size).min(best.len()));
            match is_wrong(&fewer) {
                Some(made) if made.len() < best.len() => best = made,
                _ => at += size,
            }
        }
        if size == 1 && best.len() == before {
            break;
        }
        size = if best.len() < before { size.min(best.len()) } else { size / 2 };
    }
    best
}

fn tell(setup: &Setup, moves: &[Move], what: &str) -> Story {
    let mut notes = Notes { lines: Some(Vec::new()), ..Notes::default() };
    let (_, made, world) = go(setup, moves, &mut notes);
    let lines = notes.lines.unwrap_or_default();
    let text = format!("{what}\n\n{}\n\nThen: {world}\n{what}\n", lines.join("\n"));
    Story { what: what.to_owned(), moves: made, text }
}
