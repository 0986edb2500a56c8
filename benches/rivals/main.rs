//! End to end on a real Redis pair in network namespaces: from the fault to the first write that the new primary
//! acknowledges, as a client sees it. Coroner with agents beside Redis Sentinel and keepalived, over the same faults, in
//! the same run; and how long two servers acknowledged writes at once.
//!
//! `cargo bench --bench rivals`. Needs root, redis-server, keepalived, iproute2, nftables, util-linux.
//!
//! - `CORONER_BENCH_RUNS` (default 100) of each fault; the rivals, which are slower, a fifth of that, or
//!   `CORONER_BENCH_RIVAL_RUNS`.
//! - `CORONER_BENCH_ONLY=coroner,kill`: only these of `coroner`, `sentinel`, `keepalived`, and of the faults `kill`,
//!   `kill-1gib`, `freeze`, `cut`, `off`; or `footprint`, what the agents cost.
//! - `CORONER_BENCH_TAPE=60s`: how long disturbances are played to Coroner, none of which may cause a failover (default:
//!   none are played). `CORONER_BENCH_TAPE_SEED`: which.
//! - `CORONER_BENCH_STEPS=1` prints the incident of the last run of each fault.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may stop")]

mod client;
mod coroner;
mod keepalived;
#[path = "../../tests/netns/net.rs"]
#[allow(dead_code, reason = "the lab of the tests uses more of it")]
mod net;
mod sentinel;
mod stage;
mod tape;

use std::{thread::sleep, time::Duration};

use nix::sys::signal::Signal;

use client::now;
use stage::{Fault, MEMBERS, Stage, number, other};

/// What is measured.
pub(crate) trait Rival {
    fn name(&self) -> String;
    /// Starts it on a fresh stage.
    fn start(&self, stage: &Stage);
    /// What is missing until the pair is whole and the next failover could be.
    fn missing(&self, stage: &Stage) -> Option<String>;
    /// Names of its processes on a member's host, which end with it.
    fn beside(&self, member: &str) -> Vec<String>;
    /// A member's host is there again: starts what runs on it.
    fn come_back(&self, stage: &Stage, member: &str);
    /// The one address that its clients know, if it is not the members'.
    fn virtual_address(&self) -> Option<&'static str> {
        None
    }
    /// How the last failover went, in its own words.
    fn story(&self, _stage: &Stage) -> String {
        String::new()
    }
    /// How it was set up.
    fn beyond(&self) -> &'static str;
}

/// No failover within this is none.
const GIVE_UP_AFTER: u64 = 30_000_000_000;
/// How long the old primary is left as it is after another took over: two that serve would show.
const LOOK_FOR: Duration = Duration::from_secs(1);

/// One run.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// From the fault to the first write; `None`: none came.
    outage: Option<Duration>,
    /// From the first write of the new to the last of the old.
    overlap: Duration,
}

/// All runs of one fault with one rival.
struct Row {
    rival: String,
    fault: Fault,
    runs: Vec<Run>,
}

fn main() {
    let words: Vec<String> = std::env::var("CORONER_BENCH_ONLY")
        .map(|text| text.split(',').map(str::to_owned).collect())
        .unwrap_or_default();
    let number_of = |name: &str| {
        std::env::var(name).ok().map(|text| text.parse::<usize>().unwrap_or_else(|e| panic!("{name}: {e}")))
    };
    // `cargo test --benches` runs each once, and of Coroner only.
    let is_test = !std::env::args().any(|arg| arg == "--bench");
    let runs = if is_test { 1 } else { number_of("CORONER_BENCH_RUNS").unwrap_or(100) };
    let rival_runs = number_of("CORONER_BENCH_RIVAL_RUNS").unwrap_or_else(|| runs.div_ceil(5));
    let rivals: Vec<Box<dyn Rival>> = vec![
        Box::new(coroner::Coroner),
        Box::new(sentinel::Sentinel::new(Duration::from_secs(1))),
        Box::new(sentinel::Sentinel::new(Duration::from_millis(100))),
        Box::new(keepalived::Keepalived { advert: Duration::from_millis(100) }),
        Box::new(keepalived::Keepalived { advert: Duration::from_millis(10) }),
    ];
    let names: Vec<String> = rivals.iter().map(|rival| rival.name()).collect();
    let is_rival = |word: &String| names.iter().any(|name| name.starts_with(word.as_str()));
    let is_fault = |word: &String| Fault::ALL.iter().any(|fault| fault.name() == word);
    if let Some(word) = words.iter().find(|word| !is_rival(word) && !is_fault(word) && *word != "footprint") {
        let faults = Fault::ALL.map(Fault::name).join(", ");
        panic!("CORONER_BENCH_ONLY: {word:?} is none of {}, {faults}, footprint", names.join(", "));
    }
    let wants_rival = |name: &str| match words.iter().any(is_rival) {
        true => words.iter().any(|word| name.starts_with(word.as_str())),
        false => name == "coroner" || !is_test,
    };
    let faults: Vec<Fault> = match (words.iter().any(is_fault), words.iter().any(|word| word == "footprint")) {
        (true, _) => Fault::ALL.into_iter().filter(|f| words.iter().any(|word| word == f.name())).collect(),
        (false, true) => Vec::new(),
        (false, false) => Fault::ALL.to_vec(),
    };

    let mut rows = Vec::new();
    for rival in rivals.iter().filter(|rival| wants_rival(&rival.name())) {
        println!("{}: {}", rival.name(), rival.beyond());
        let count = if rival.name() == "coroner" { runs } else { rival_runs };
        // The stage with 1 GiB stands for its fault alone.
        for is_big in [false, true] {
            let faults: Vec<Fault> = faults.iter().copied().filter(|f| (*f == Fault::KillBig) == is_big).collect();
            if !faults.is_empty() {
                rows.extend(measure(rival.as_ref(), &faults, count, is_big));
            }
        }
    }
    print_all(&rows);
    let has_footprint = !words.iter().any(is_fault) || words.iter().any(|word| word == "footprint");
    if wants_rival("coroner") && !is_test {
        if has_footprint {
            tape::footprint();
        }
        if let Ok(text) = std::env::var("CORONER_BENCH_TAPE") {
            tape::play(::coroner::model::Span::parse(&text).unwrap_or_else(|e| panic!("CORONER_BENCH_TAPE: {e}")).0);
        }
    }
}

/// A stage on which the rival is ready.
fn stand_up(rival: &dyn Rival, is_big: bool) -> Stage {
    let stage = Stage::new(is_big, rival.virtual_address());
    rival.start(&stage);
    if let Err(why) = ready(rival, &stage) {
        panic!("{} did not get ready: {why}\n{}\n{}", rival.name(), rival.story(&stage), stage.story());
    }
    stage
}

/// Waits until the pair is whole; says who is primary.
pub(crate) fn ready(rival: &dyn Rival, stage: &Stage) -> Result<&'static str, String> {
    let started = now();
    loop {
        for member in MEMBERS.into_iter().filter(|member| !stage.runs(member)) {
            // Stopped when nothing was done to it; the pair has to be whole all the same.
            rival.come_back(stage, member);
        }
        match rival.missing(stage) {
            // Not for a moment only.
            None => {
                sleep(Duration::from_millis(300));
                if rival.missing(stage).is_none() {
                    let primary = stage.primary()?;
                    let since = now();
                    while stage.clients.first(number(primary), since).is_none() && now() - since < 1_000_000_000 {
                        sleep(Duration::from_millis(5));
                    }
                    if stage.clients.first(number(primary), since).is_some() {
                        return Ok(primary);
                    }
                }
            }
            Some(why) if now() - started > 60_000_000_000 => return Err(why),
            Some(_) => {}
        }
        if now() - started > 90_000_000_000 {
            return Err("the clients do not reach the primary".into());
        }
        sleep(Duration::from_millis(50));
    }
}

fn measure(rival: &dyn Rival, faults: &[Fault], count: usize, is_big: bool) -> Vec<Row> {
    let has_steps = std::env::var_os("CORONER_BENCH_STEPS").is_some();
    let mut random = tape::Random(now());
    let mut stage = stand_up(rival, is_big);
    let mut rows = Vec::new();
    for fault in faults.iter().copied() {
        let mut runs = Vec::new();
        for turn in 1..=count {
            let primary = match ready(rival, &stage) {
                Ok(primary) => primary,
                Err(why) => {
                    println!("{} before {} {turn}: {why}; a fresh stage", rival.name(), fault.name());
                    drop(stage);
                    stage = stand_up(rival, is_big);
                    stage.primary().unwrap()
                }
            };
            // So that the fault falls anywhere between two looks.
            sleep(Duration::from_micros(200_000 + random.next() % 200_000));
            let run = one(rival, &stage, fault, primary, has_steps && turn == count);
            if run.outage.is_none() {
                println!("{} {} {turn}: no failover", rival.name(), fault.name());
                println!("{}\n{}", rival.story(&stage), stage.story());
            }
            runs.push(run);
        }
        let row = Row { rival: rival.name(), fault, runs };
        println!("{}", row.text());
        rows.push(row);
    }
    rows
}

fn one(rival: &dyn Rival, stage: &Stage, fault: Fault, primary: &'static str, has_steps: bool) -> Run {
    let beside = rival.beside(primary);
    let (old, new) = (number(primary), number(other(primary)));
    stage.clients.log().clear();
    let begun = now();
    let at = stage.strike(fault, primary, &beside);
    let first = loop {
        if let Some(first) = stage.clients.first(new, begun) {
            break Some(first);
        }
        if now() - begun > GIVE_UP_AFTER {
            break None;
        }
        sleep(Duration::from_millis(2));
    };
    if has_steps {
        sleep(Duration::from_millis(300));
        println!(
            "outage {}\n{}",
            ms(first.map(|first| Duration::from_nanos(first.saturating_sub(at)))),
            rival.story(stage)
        );
    }
    match fault {
        Fault::Kill | Fault::KillBig => sleep(Duration::from_millis(200)),
        Fault::Freeze => {
            sleep(LOOK_FOR);
            stage.signal(primary, Signal::SIGCONT);
            sleep(LOOK_FOR / 2);
        }
        Fault::Cut => {
            sleep(LOOK_FOR);
            stage.power_off(primary, &beside);
        }
        Fault::Off => {}
    }
    let overlap = first.zip(stage.clients.last(old, false)).map_or(0, |(first, last)| last.saturating_sub(first));
    stage.kill(primary);
    stage.mend_network();
    rival.come_back(stage, primary);
    // Longer than any that counts: what is told of it later is not of this run.
    let outage = first.map(|first| Duration::from_nanos(first.saturating_sub(at)));
    Run { outage, overlap: Duration::from_nanos(overlap) }
}

impl Row {
    /// The nearest rank: of 20 runs, the p99 is the largest.
    fn quantile(&self, share: usize) -> Option<Duration> {
        let mut all: Vec<Duration> = self.runs.iter().map(|run| run.outage.unwrap_or(Duration::MAX)).collect();
        all.sort();
        all.get((all.len() * share).div_ceil(100).saturating_sub(1)).copied().filter(|d| *d < Duration::MAX)
    }

    fn overlap(&self) -> Duration {
        self.runs.iter().map(|run| run.overlap).max().unwrap_or_default()
    }

    fn text(&self) -> String {
        let none = self.runs.iter().filter(|run| run.outage.is_none()).count();
        let overlapped = self.runs.iter().filter(|run| !run.overlap.is_zero()).count();
        let mut text = format!(
            "{:<16} {:<36} p50 {:>9}   p99 {:>9}   max {:>9}   n {:>3}   overlap {}",
            self.rival,
            self.fault.words(),
            ms(self.quantile(50)),
            ms(self.quantile(99)),
            ms(self.quantile(100)),
            self.runs.len(),
            if overlapped == 0 { "0".into() } else { format!("up to {} in {overlapped}", ms(Some(self.overlap()))) },
        );
        if none > 0 {
            text += &format!("   NO FAILOVER in {none}");
        }
        text
    }
}

pub(crate) fn ms(d: Option<Duration>) -> String {
    d.map_or_else(|| "never".into(), |d| format!("{:.1} ms", d.as_secs_f64() * 1e3))
}

fn print_all(rows: &[Row]) {
    println!("\nfrom the fault to the first acknowledged write");
    for fault in Fault::ALL {
        let of_fault: Vec<&Row> = rows.iter().filter(|row| row.fault == fault).collect();
        let ours = of_fault.iter().find(|row| row.rival == "coroner").and_then(|row| row.quantile(50));
        for row in of_fault {
            let ratio = match (ours, row.quantile(50)) {
                (Some(ours), Some(theirs)) if row.rival != "coroner" => {
                    format!("   {:.1} times as long", theirs.as_secs_f64() / ours.as_secs_f64())
                }
                _ => String::new(),
            };
            println!("{}{ratio}", row.text());
        }
    }
}
