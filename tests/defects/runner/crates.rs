//! The test crates of the scratch package: built, run with a time limit, and what came of them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The unit tests inside the library.
pub const UNIT: &str = "unit";

/// One moment's memory of a test crate may not be larger: a defect may eat without end.
const MEMORY_KIB: u64 = 6 * 1024 * 1024;

/// Random tests draw fewer cases than usual: a defect that only the thousandth case finds is not caught well enough, and
/// there are many defects.
const BUDGETS: [(&str, &str); 3] =
    [("PROPTEST_CASES", "64"), ("CORONER_MESH_SEEDS", "40"), ("CORONER_ELECTION_SEEDS", "100")];

/// What a test crate made of a defect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All its tests passed: it did not notice.
    Passed,
    /// These failed, in the order of their names.
    Failed(Vec<String>),
    /// It did not end in time; the first of those that were not over, if its name is known.
    TimedOut(Option<String>),
    /// It ended otherwise: a stack that overflowed, memory used up.
    Died(String),
}

impl Verdict {
    /// Whether the defect was noticed.
    #[must_use]
    pub fn is_caught(&self) -> bool {
        *self != Self::Passed
    }

    /// In one cell of the table.
    #[must_use]
    pub fn cell(&self) -> String {
        match self {
            Self::Passed => "·".into(),
            Self::Failed(names) => names.len().to_string(),
            Self::TimedOut(_) => "time-out".into(),
            Self::Died(_) => "died".into(),
        }
    }

    /// The first test that noticed.
    #[must_use]
    pub fn first(&self) -> Option<String> {
        match self {
            Self::Passed => None,
            Self::Failed(names) => names.first().cloned(),
            Self::TimedOut(name) => name.clone().or_else(|| Some("time-out".into())),
            Self::Died(how) => Some(how.clone()),
        }
    }
}

/// One run of one test crate.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it made of it.
    pub verdict: Verdict,
    /// All tests that it said something of.
    pub names: Vec<String>,
    /// What it printed.
    pub output: String,
    /// How long it took.
    pub took: Duration,
}

/// Where things are built and run.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The scratch package.
    pub package: PathBuf,
    /// Where cargo builds.
    pub target: PathBuf,
    /// Tests whose names hold one of these are left out.
    pub skip: Vec<String>,
}

impl Bench {
    /// Builds these test crates. The programs by the names of their crates.
    ///
    /// # Errors
    /// What the compiler said.
    pub fn build(&self, crates: &[String]) -> Result<BTreeMap<String, PathBuf>, String> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["test", "--no-run"]).current_dir(&self.package);
        cargo.env("CARGO_TARGET_DIR", &self.target).env("CARGO_TERM_COLOR", "never").env("CARGO_INCREMENTAL", "1");
        // A defect leaves things unused; that is not what is wrong with it.
        cargo.env("RUSTFLAGS", "-Awarnings");
        for name in crates {
            match name.as_str() {
                UNIT => cargo.arg("--lib"),
                name => cargo.args(["--test", name]),
            };
        }
        let output = cargo.stdin(Stdio::null()).output().map_err(|e| format!("cargo: {e}"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            return Err(said);
        }
        let mut programs = programs(&said);
        programs.retain(|name, _| crates.contains(name));
        match crates.iter().find(|name| !programs.contains_key(*name)) {
            Some(name) => Err(format!("cargo built no {name}:\n{said}")),
            None => Ok(programs.into_iter().map(|(name, path)| (name, self.package.join(path))).collect()),
        }
    }

    /// Runs one of them. `known`: its tests, as far as they are known.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, program: &Path, limit: Duration, known: &[String]) -> Result<Run, String> {
        let told = |e: std::io::Error| format!("{}: {e}", program.display());
        let path = self.target.join("output.txt");
        let file = File::create(&path).map_err(told)?;
        let both = file.try_clone().map_err(told)?;
        let mut command = limited(program, limit);
        command.args(self.skip.iter().flat_map(|name| ["--skip", name]));
        command.current_dir(&self.package).env("CARGO_MANIFEST_DIR", &self.package);
        // The same cases in each run; nothing learned from one defect is tried on the next; no time lost in shrinking.
        command.env("PROPTEST_RNG_SEED", "1").env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
        command.env("PROPTEST_MAX_SHRINK_ITERS", "0").env("PROPTEST_MAX_SHRINK_TIME", "1");
        command.envs(BUDGETS.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()));
        command.env("INSTA_UPDATE", "no").env("RUST_BACKTRACE", "0");
        let begun = now();
        let mut child = command.stdin(Stdio::null()).stdout(file).stderr(both).spawn().map_err(told)?;
        let status = wait(&mut child, limit).map_err(told)?;
        let took = begun.elapsed();
        let output = String::from_utf8_lossy(&fs::read(&path).map_err(told)?).into_owned();
        let (verdict, names) = judge(&output, status, known);
        Ok(Run { verdict, names, output, took })
    }
}

/// What the stop-watch shows.
#[expect(clippy::disallowed_methods, reason = "a tool's own stop-watch, not the program's")]
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Under a bound of memory and of processor time, where there is a shell that knows them. Processor time, for a machine
/// that is busy with something else is no hang.
fn limited(program: &Path, limit: Duration) -> Command {
    if cfg!(unix) {
        let mut shell = Command::new("sh");
        let limits = format!("ulimit -v {MEMORY_KIB}; ulimit -S -t {}", limit.as_secs().max(1));
        shell.arg("-c").arg(format!("{{ {limits}; }} 2>/dev/null; exec \"$0\" \"$@\"")).arg(program);
        shell
    } else {
        Command::new(program)
    }
}

/// `None`: it was not over in time, and was ended: the processor's time, or twenty times as much on the wall.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let begun = now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status).filter(|status| !has_used_its_time(*status)));
        }
        if begun.elapsed() > limit * 20 {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(unix)]
fn has_used_its_time(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    const SIGXCPU: i32 = 24;
    status.signal() == Some(SIGXCPU)
}

#[cfg(not(unix))]
const fn has_used_its_time(_: ExitStatus) -> bool {
    false
}

/// The programs that cargo says it built: `Executable tests/engine/main.rs (PATH)`.
#[must_use]
pub fn programs(said: &str) -> BTreeMap<String, PathBuf> {
    let program = |line: &str| {
        let (source, path) = line.trim().strip_prefix("Executable ")?.split_once(" (")?;
        let name = match source.strip_prefix("tests/") {
            Some(rest) => rest.split('/').next()?.to_owned(),
            None => UNIT.to_owned(),
        };
        Some((name, PathBuf::from(path.trim_end_matches(')'))))
    };
    said.lines().filter_map(program).collect()
}

/// What a test program's output says, and the names of its tests in it.
#[must_use]
pub fn judge(output: &str, status: Option<ExitStatus>, known: &[String]) -> (Verdict, Vec<String>) {
    let mut names = Vec::new();
    let mut failed = Vec::new();
    for line in output.lines() {
        let Some((name, said)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) else { continue };
        let name = name.split(" - ").next().unwrap_or(name).to_owned();
        if said.starts_with("FAILED") {
            failed.push(name.clone());
        }
        names.push(name);
    }
    failed.sort();
    let Some(status) = status else {
        let unfinished = known.iter().find(|name| !names.contains(name)).cloned();
        return (Verdict::TimedOut(failed.into_iter().next().or(unfinished)), names);
    };
    let verdict = if !failed.is_empty() {
        Verdict::Failed(failed)
    } else if status.success() {
        Verdict::Passed
    } else {
        Verdict::Died(format!("{status}"))
    };
    (verdict, names)
}
