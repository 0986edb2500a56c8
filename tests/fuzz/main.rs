//! The fuzz targets without a fuzzer: their kept inputs, and some thousand mutations of each, with every test run.
//!
//! `fuzz/` holds the same targets for libFuzzer, which finds what chance does not; see `fuzz/README.md`. Here they are to
//! stay alive: each kept input runs, some of each target get past its door, and the oracles can fail.
//! `CORONER_FUZZ_SECONDS=60 cargo test --test fuzz` tries others for a minute each, from a seed that it prints, and
//! `CORONER_FUZZ_MUTATIONS=100000` more of the usual ones; `UPDATE_SEEDS=1` writes the kept inputs that are made by
//! [`seeds`] anew.

#![expect(clippy::unwrap_used, reason = "a test may stop")]

use std::{
    collections::BTreeMap,
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::Duration,
};

use coroner::sys::clock::Stopwatch;
use targets::{Reached, TARGETS};

mod oracles;
mod seeds;
#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// Mutations of each target, unless the environment says otherwise.
const MUTATIONS: u64 = 400;
/// So many inputs are mutated at most.
const POOL_MAX: usize = 4_000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The kept inputs of a target, by their names.
fn kept(target: &str) -> BTreeMap<String, Vec<u8>> {
    let mut folders = vec![root().join("fuzz/seeds").join(target)];
    if target == "config" {
        folders.extend(["config", "config/examples", "tests/config/good", "tests/config/bad"].map(|f| root().join(f)));
    }
    let mut all = BTreeMap::new();
    for folder in folders {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for path in entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
            if path.extension().is_none_or(|extension| extension != "stderr") {
                let name = path.strip_prefix(root()).unwrap().display().to_string();
                all.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    assert!(!all.is_empty(), "{target} has no kept inputs");
    all
}

/// Runs one input; the words of its panic, if it panics.
fn run(target: &str, input: &[u8]) -> Result<Reached, String> {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    catch_unwind(AssertUnwindSafe(|| run(input))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    })
}

#[test]
fn every_kept_input_runs_and_the_targets_are_reached() {
    for (target, _) in TARGETS {
        let mut reached = BTreeMap::new();
        for (name, input) in kept(target) {
            let how = run(target, &input).unwrap_or_else(|said| panic!("{target}, {name}: {said}"));
            reached.entry(how).or_insert(name);
        }
        assert!(reached.contains_key(&Reached::Taken), "{target}: no kept input gets past its door");
        assert!(reached.contains_key(&Reached::Refused), "{target}: no kept input is refused");
    }
}

#[test]
fn each_target_has_its_binary_and_its_name_in_the_package() {
    let package = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    let named: Vec<&str> =
        package.split("[[bin]]\nname = \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(named, TARGETS.map(|(name, _)| name));
    for (target, _) in TARGETS {
        let file = root().join("fuzz/fuzz_targets").join(format!("{target}.rs"));
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(&format!("coroner_fuzz::{target}::run(input)")), "{}", file.display());
        assert!(fs::read_to_string(root().join("fuzz/README.md")).unwrap().contains(&format!("| `{target}` |")));
    }
}

#[test]
fn kept_inputs_that_are_made_here_are_as_they_are_made() {
    for (target, name, input) in seeds::all() {
        let path = root().join("fuzz/seeds").join(target).join(name);
        if env::var_os("UPDATE_SEEDS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &input).unwrap();
        }
        let found = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; UPDATE_SEEDS=1 writes it", path.display()));
        assert!(found == input, "{}: it is made otherwise now; UPDATE_SEEDS=1 writes it anew", path.display());
    }
}

/// Vigna's splitmix64: the same mutations on every machine.
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % count.max(1) as u64).unwrap()
    }
}

/// Words at which parsers err.
const WORDS: [&str; 12] =
    ["-1", "18446744073709551615", "1e308", "null", "\"\"", "{}", "[]", "\u{0}", "\r\n", "0.1", "\\ud800", "\u{feff}"];

fn mutated(inputs: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = inputs[random.below(inputs.len())].clone();
    for _ in 0..1 + random.below(4) {
        let at = random.below(input.len() + 1);
        match random.below(8) {
            0 => input.truncate(at),
            1 | 2 if at < input.len() => input[at] ^= 1 << random.below(8),
            3 if at < input.len() => input[at] = u8::try_from(random.below(256)).unwrap(),
            4 if at < input.len() => drop(input.remove(at)),
            5 => {
                let word = WORDS[random.below(WORDS.len())].bytes();
                input.splice(at..at, word);
            }
            6 => {
                let other = &inputs[random.below(inputs.len())];
                let from = random.below(other.len() + 1);
                let piece = other[from..(from + random.below(64)).min(other.len())].to_vec();
                input.splice(at..at, piece);
            }
            _ => input.insert(at, u8::try_from(random.below(256)).unwrap()),
        }
    }
    input.truncate(16 * 1024);
    input
}

/// How long each target gets mutations, and which.
#[derive(Clone, Copy, Debug)]
enum Budget {
    /// So many of each, the same each time.
    Mutations(u64),
    /// For so long each, others for each seed.
    Time { each: Duration, seed: u64 },
}

impl Budget {
    fn of_the_environment() -> Self {
        let number = |name: &str| {
            let text = env::var(name).ok()?;
            Some(text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}: write a whole number")))
        };
        match number("CORONER_FUZZ_SECONDS") {
            None => Self::Mutations(number("CORONER_FUZZ_MUTATIONS").unwrap_or(MUTATIONS)),
            Some(seconds) => {
                let other_each_time = || (ulid::Ulid::generate().0 & u128::from(u32::MAX)) as u64;
                let seed = number("CORONER_FUZZ_SEED").unwrap_or_else(other_each_time);
                Self::Time { each: Duration::from_secs(seconds), seed }
            }
        }
    }
}

/// Runs mutations of a target's kept inputs, and of what comes of them past its door. Answers how many it ran.
fn mutate(target: &str, budget: Budget) -> u64 {
    let mut inputs: Vec<Vec<u8>> = kept(target).into_values().collect();
    let (count, longest, seed) = match budget {
        Budget::Mutations(count) => (count, None, 0),
        Budget::Time { each, seed } => (u64::MAX, Some(each), seed),
    };
    let running = Stopwatch::start();
    let mut random = Random(seed ^ (u64::from(target.len() as u32) << 32 | u64::from(target.as_bytes()[0])));
    for number in 0..count {
        if longest.is_some_and(|longest| running.elapsed() >= longest) {
            return number;
        }
        let input = mutated(&inputs, &mut random);
        match run(target, &input) {
            Ok(Reached::Taken) if inputs.len() < POOL_MAX => inputs.push(input),
            Ok(_) => {}
            Err(said) => {
                let file = env::temp_dir().join(format!("coroner-fuzz-{target}-{seed}-{number}"));
                fs::write(&file, &input).unwrap();
                panic!("{target}, mutation {number} of seed {seed}, kept as {}: {said}", file.display());
            }
        }
    }
    count
}

#[test]
fn what_is_like_the_kept_inputs_runs_as_well() {
    let budget = Budget::of_the_environment();
    let next = AtomicUsize::new(0);
    // Those that take time run beside each other.
    let workers = match budget {
        Budget::Mutations(_) => 1,
        Budget::Time { seed, .. } => {
            println!("CORONER_FUZZ_SEED={seed}");
            thread::available_parallelism().map_or(1, usize::from)
        }
    };
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((target, _)) = TARGETS.get(next.fetch_add(1, Relaxed)) {
                    let ran = mutate(target, budget);
                    assert!(ran > 0, "{target}: no time for a single one");
                    println!("{target:<12} {ran:>9} mutations");
                }
            });
        }
    });
}
