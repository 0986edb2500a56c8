//! Instances as processes, and the log that their programs write.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::Duration,
};

use coroner::sys::{
    clock::{self, Stopwatch},
    process::{self, Seen},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

pub const LONG: Duration = Duration::from_secs(60);

const PROGRAM: &str = include_str!("program.py");

/// One line of the programs' log.
#[derive(Clone, Debug)]
pub struct Line {
    pub pid: i32,
    pub epoch: u64,
    pub instance: String,
    pub at: u64,
}

/// One `coroner elect`.
pub struct Instance {
    child: Child,
}

impl Instance {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        // It may have ended; it is not reaped before `self` goes, so that its number is nobody else's.
        let _ = kill(Pid::from_raw(self.pid()), signal);
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn wait(&mut self) -> ExitStatus {
        let watch = Stopwatch::start();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(watch.elapsed() < LONG, "coroner elect does not end");
            sleep(Duration::from_millis(10));
        }
    }

    /// All that descends from it.
    pub fn family(&self) -> Vec<Seen> {
        let own = self.pid();
        let all = process::all().unwrap();
        process::family(&all, &[own].into()).into_iter().filter(|p| p.identity.pid != own).collect()
    }

    /// Its guard.
    pub fn guard(&self) -> Option<i32> {
        let is_guard =
            |p: &Seen| process::command_line(p.identity.pid).get(1).is_some_and(|word| word == "elect-guard");
        self.family().into_iter().find(is_guard).map(|p| p.identity.pid)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Its guard stops what it started.
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// A directory with the table's file, the programs' log, and what the instances said.
pub struct Lab {
    pub dir: TempDir,
}

impl Lab {
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("program.py"), PROGRAM).unwrap();
        Self { dir }
    }

    pub fn sqlite(&self) -> String {
        format!("sqlite:{}", self.dir.path().join("elect.db").display())
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// The program's words.
    pub fn program(&self, options: &[&str]) -> Vec<String> {
        let script = self.dir.path().join("program.py").display().to_string();
        let words = ["python3".to_owned(), script, self.log().display().to_string()];
        words.into_iter().chain(options.iter().map(|word| (*word).to_owned())).collect()
    }

    pub fn coroner(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coroner"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CORONER_")) {
            command.env_remove(name);
        }
        command
    }

    pub fn start(&self, store: &str, name: &str, more: &[&str], program: &[String]) -> Instance {
        let file = self.dir.path().join(format!("{name}.err"));
        let file = File::options().create(true).append(true).open(file).unwrap();
        let mut command = self.coroner();
        command.args(["elect", "--store", store, "--group", "g", "--instance", name, "--log", "text"]);
        command.args(["--heartbeat", "200ms", "--valid-for", "2400ms", "--stop-within", "800ms"]).args(more);
        command.arg("--").args(program).process_group(0).stdin(Stdio::null());
        command.stdout(file.try_clone().unwrap()).stderr(file);
        Instance { child: command.spawn().unwrap() }
    }

    pub fn lines(&self) -> Vec<Line> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        // The last line may be half written, by whoever was killed as well.
        let parse = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let [_, pid, epoch, instance, at] = words[..] else { return None };
            let (pid, epoch, at) = (pid.parse().ok()?, epoch.parse().ok()?, at.parse().ok()?);
            Some(Line { pid, epoch, instance: instance.to_owned(), at })
        };
        text.lines().filter_map(parse).collect()
    }

    /// Waits until a program writes that was not running at `after`, by CLOCK_BOOTTIME; its last line.
    pub fn runs_after(&self, after: u64) -> Line {
        let watch = Stopwatch::start();
        loop {
            if let Some(line) = self.lines().last().filter(|line| line.at > after) {
                return line.clone();
            }
            assert!(watch.elapsed() < LONG, "nobody runs the program\n{}", self.said());
            sleep(Duration::from_millis(10));
        }
    }

    /// Waits until that instance's program writes.
    pub fn runs_at(&self, instance: &str) -> Line {
        let watch = Stopwatch::start();
        let since = now();
        loop {
            let lines = self.lines();
            if let Some(line) = lines.last().filter(|line| line.instance == instance && line.at > since) {
                return line.clone();
            }
            assert!(watch.elapsed() < LONG, "{instance} does not run the program\n{}", self.said());
            sleep(Duration::from_millis(10));
        }
    }

    /// What the instances said.
    pub fn said(&self) -> String {
        let files = fs::read_dir(self.dir.path()).unwrap().flatten().map(|entry| entry.path());
        let told = files.filter(|path| path.extension().is_some_and(|e| e == "err"));
        told.map(|path| format!("--- {}\n{}", path.display(), fs::read_to_string(&path).unwrap_or_default())).collect()
    }

    /// How long two programs ran at once, which must be never, and that epochs grew. How many runs there were.
    pub fn check(&self) -> usize {
        let mut runs: BTreeMap<(u64, i32), (u64, u64)> = BTreeMap::new();
        for line in self.lines() {
            let run = runs.entry((line.epoch, line.pid)).or_insert((line.at, line.at));
            run.0 = run.0.min(line.at);
            run.1 = run.1.max(line.at);
        }
        let mut by_start: Vec<_> = runs.iter().collect();
        by_start.sort_by_key(|(_, (from, _))| *from);
        for pair in by_start.windows(2) {
            let ((old, (_, old_ends)), (new, (new_begins, _))) = (pair[0], pair[1]);
            assert!(
                old_ends < new_begins,
                "{old:?} and {new:?} (epoch, process) ran at once, for {} µs\n{}",
                (old_ends - new_begins) / 1_000,
                self.said()
            );
            assert!(old.0 <= new.0, "epochs grow: {old:?}, then {new:?}\n{}", self.said());
        }
        by_start.len()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Instances are declared after the lab, and so are gone by now; their guards may take a moment.
        let log = self.log().display().to_string();
        let watch = Stopwatch::start();
        let left = || -> Vec<Seen> {
            let all = process::all().unwrap_or_default();
            all.into_iter().filter(|p| process::command_line(p.identity.pid).contains(&log)).collect()
        };
        while !left().is_empty() && watch.elapsed() < Duration::from_secs(10) {
            sleep(Duration::from_millis(20));
        }
        for seen in left() {
            let _ = kill(Pid::from_raw(seen.identity.pid), Signal::SIGKILL);
        }
    }
}

/// CLOCK_BOOTTIME, in nanoseconds, as the programs read it.
pub fn now() -> u64 {
    clock::now().0
}

/// Waits for something.
pub fn eventually(what: &str, mut is_it: impl FnMut() -> bool) {
    let watch = Stopwatch::start();
    while !is_it() {
        assert!(watch.elapsed() < LONG, "{what}: not within the bound");
        sleep(Duration::from_millis(10));
    }
}
