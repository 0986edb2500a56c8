//! A child process with bounds: no shell, its own process group, a deadline, capped output.
//!
//! What a program leaves running in its process group is killed when the program ends; whoever wants to leave
//! something behind gives it to a service manager. A grandchild that began a session of its own is killed at the
//! deadline only if its parent still lives then: nothing short of a control group promises more.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::{
    fs::{Access, access},
    process::{Pid, Signal, kill_process_group},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

use super::{clock::Stopwatch, process};

/// Kept of each stream unless told otherwise.
const CAP: usize = 64 * 1024;

/// How long we read on after the program ended, if somebody else still holds its pipes.
const LINGER: Duration = Duration::from_millis(100);

/// A program to run.
#[derive(Clone, Debug)]
pub struct Run {
    words: Vec<String>,
    environment: BTreeMap<String, String>,
    stdin: Vec<u8>,
    deadline: Duration,
    cap: usize,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal, which was not ours.
    Signalled(i32),
    /// It did not end by the deadline; its process group was killed.
    TimedOut(Duration),
    /// It could not be started, and why. Nothing was done.
    NotStarted(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with {code}"),
            Self::Signalled(signal) => write!(f, "was ended by signal {signal}"),
            Self::TimedOut(after) => {
                write!(f, "did not end within {} and was killed", crate::model::time::human(*after))
            }
            Self::NotStarted(why) => write!(f, "could not be started: {why}"),
        }
    }
}

/// What a program did and said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub ended: Ended,
    /// The beginning of its standard output.
    pub stdout: Vec<u8>,
    /// The beginning of its standard error.
    pub stderr: Vec<u8>,
    /// Whether it said more than was kept.
    pub truncated: bool,
}

impl Output {
    /// Whether it exited with 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.ended == Ended::Exited(0)
    }

    /// Its exit code, if it ended by itself.
    #[must_use]
    pub const fn code(&self) -> Option<i32> {
        if let Ended::Exited(code) = self.ended { Some(code) } else { None }
    }

    /// How it ended and the first line that it said, errors first, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let said = [&self.stderr, &self.stdout].into_iter().find_map(|bytes| first_line(bytes));
        said.map_or_else(|| self.ended.to_string(), |line| format!("{}: {line}", self.ended))
    }
}

/// The first line with anything in it, without control characters, at most 200 characters long.
fn first_line(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).take(200).collect())
}

impl Run {
    /// A program and its arguments, with a deadline.
    #[must_use]
    pub fn new<W: Into<String>>(words: impl IntoIterator<Item = W>, deadline: Duration) -> Self {
        let words = words.into_iter().map(Into::into).collect();
        Self { words, environment: BTreeMap::new(), stdin: Vec::new(), deadline, cap: CAP }
    }

    /// Adds to its environment, which otherwise has `PATH` and `LANG` of ours and nothing else.
    #[must_use]
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.insert(key.into(), value.into());
        self
    }

    /// Adds many to its environment.
    #[must_use]
    pub fn envs(mut self, more: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(more);
        self
    }

    /// What it reads on its standard input; nothing by default.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How much of each stream is kept; 64 KiB by default. The rest is read and thrown away.
    #[must_use]
    pub const fn cap(mut self, bytes: usize) -> Self {
        self.cap = bytes;
        self
    }

    /// Runs it to its end or to the deadline. If the future is dropped, the process group is killed.
    pub async fn output(&self) -> Output {
        let watch = Stopwatch::start();
        let mut group = match self.spawn().await {
            Ok(child) => Group { child },
            Err(why) => return Output::not_started(why),
        };
        let mut out = Collected::default();
        let mut err = Collected::default();
        let (stdin, stdout, stderr) = (group.child.stdin.take(), group.child.stdout.take(), group.child.stderr.take());
        let ended = {
            let write = async {
                if let Some(mut pipe) = stdin {
                    // A program need not read what it is given.
                    let _ = pipe.write_all(&self.stdin).await;
                }
            };
            let io = async { tokio::join!(write, out.read(stdout, self.cap), err.read(stderr, self.cap)) };
            tokio::pin!(io);
            let left = self.deadline.saturating_sub(watch.elapsed());
            let exited = timeout(left, async {
                tokio::select! {
                    () = group.exited() => false,
                    // Closed pipes are no exit.
                    _ = &mut io => { group.exited().await; true }
                }
            });
            match exited.await {
                Ok(io_done) => {
                    group.kill();
                    if !io_done {
                        let _ = timeout(LINGER, &mut io).await;
                    }
                    None
                }
                Err(_) => {
                    group.kill_family();
                    let _ = timeout(LINGER, &mut io).await;
                    Some(Ended::TimedOut(self.deadline))
                }
            }
        };
        let reaped = group.reap().await;
        Output { ended: ended.unwrap_or(reaped), truncated: out.more || err.more, stdout: out.kept, stderr: err.kept }
    }

    async fn spawn(&self) -> Result<Child, String> {
        let [program, arguments @ ..] = self.words.as_slice() else {
            return Err("no program is named".into());
        };
        let mut command = Command::new(program);
        command.args(arguments).env_clear().process_group(0).kill_on_drop(true);
        for key in ["PATH", "LANG"] {
            if let Some(value) = std::env::var_os(key) {
                command.env(key, value);
            }
        }
        command.envs(&self.environment);
        command.stdin(if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // A script that is being replaced at this very moment is busy for some milliseconds.
        let mut tries = 10;
        loop {
            match command.spawn() {
                Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy && tries > 0 => {
                    tries -= 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                result => return result.map_err(|e| format!("`{program}`: {e}")),
            }
        }
    }
}

/// Where a program is that would be run, found without running it.
///
/// # Errors
/// It is not there, or not executable.
pub fn find_program(program: &str) -> Result<PathBuf, String> {
    let executable = |path: &Path| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    if program.contains('/') {
        let path = PathBuf::from(program);
        return if executable(&path) { Ok(path) } else { Err(format!("`{program}` is no executable file")) };
    }
    let directories = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&directories)
        .map(|directory| directory.join(program))
        .find(|path| executable(path))
        .ok_or_else(|| format!("`{program}` is not in PATH"))
}

impl Output {
    const fn not_started(why: String) -> Self {
        Self { ended: Ended::NotStarted(why), stdout: Vec::new(), stderr: Vec::new(), truncated: false }
    }
}

#[derive(Default)]
struct Collected {
    kept: Vec<u8>,
    more: bool,
}

impl Collected {
    async fn read(&mut self, pipe: Option<impl AsyncRead + Unpin>, cap: usize) {
        let Some(mut pipe) = pipe else { return };
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n) = pipe.read(&mut buffer).await {
            if n == 0 {
                return;
            }
            let room = cap.saturating_sub(self.kept.len()).min(n);
            self.kept.extend_from_slice(&buffer[..room]);
            self.more |= room < n;
        }
    }
}

/// A child and its process group, killed on drop. The group's number is ours as long as the child is not reaped.
struct Group {
    child: Child,
}

impl Group {
    fn pid(&self) -> Option<i32> {
        self.child.id().and_then(|pid| i32::try_from(pid).ok())
    }

    /// Waits for the child's end without reaping it, so that its number, and its group's, stay its own.
    async fn exited(&self) {
        let Some(seen) = self.pid().and_then(process::look) else { return };
        if let Ok(handle) = process::Handle::open(&seen.identity) {
            handle.ended().await;
            return;
        }
        // Ended already, or out of descriptors: then look again and again.
        while process::runs(&seen.identity) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn kill(&self) {
        if let Some(pid) = self.pid().and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    /// The group, and what left it and still has its parent.
    fn kill_family(&self) {
        let Some(pid) = self.pid() else { return };
        let family = process::family(&process::all().unwrap_or_default(), &[pid].into());
        self.kill();
        for member in family {
            if let Ok(handle) = process::Handle::open(&member.identity) {
                let _ = handle.signal(Signal::KILL);
            }
        }
    }

    async fn reap(&mut self) -> Ended {
        use std::os::unix::process::ExitStatusExt;
        match timeout(Duration::from_secs(1), self.child.wait()).await {
            Ok(Ok(status)) => match (status.code(), status.signal()) {
                (Some(code), _) => Ended::Exited(code),
                (None, signal) => Ended::Signalled(signal.unwrap_or(0)),
            },
            Ok(Err(e)) => Ended::NotStarted(format!("its end could not be learned: {e}")),
            // Killed, but in an uninterruptible wait: tokio reaps it whenever it ends.
            Err(_) => Ended::TimedOut(Duration::from_secs(1)),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // `id` is `None` once the child was reaped, and then there is nothing to kill.
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn sh(script: &str, deadline: Duration) -> Run {
        Run::new(["sh", "-c", script], deadline)
    }

    #[tokio::test]
    async fn what_a_program_says_and_how_it_ends_is_told() {
        let out = sh("cat; echo oops >&2; exit 3", LONG).stdin("hello").output().await;
        assert_eq!((out.ended.clone(), &*out.stdout, &*out.stderr), (Ended::Exited(3), &b"hello"[..], &b"oops\n"[..]));
        assert_eq!(out.describe(), "exited with 3: oops");
        assert_eq!(sh("kill -9 $$", LONG).output().await.ended, Ended::Signalled(9));
        let none = Run::new(["/no/such/program"], LONG).output().await;
        assert!(matches!(none.ended, Ended::NotStarted(why) if why.contains("/no/such/program")));
        assert!(matches!(Run::new(Vec::<String>::new(), LONG).output().await.ended, Ended::NotStarted(_)));
    }

    #[tokio::test]
    async fn the_environment_is_clean() {
        let out = Run::new(["env"], LONG).env("CORONER_EPOCH", "7").output().await;
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.contains("CORONER_EPOCH=7"));
        assert!(text.lines().all(|l| ["PATH=", "LANG=", "CORONER_EPOCH="].iter().any(|k| l.starts_with(k))), "{text}");
    }

    /// H1: a hook that hangs ends by the deadline, with everything it started, a child in its own session included.
    #[tokio::test]
    async fn h1_a_hanging_program_is_killed_with_its_whole_group() {
        let watch = Stopwatch::start();
        let out = sh("echo $$; sleep 61 & setsid sleep 62 & wait", Duration::from_millis(500)).output().await;
        assert!(matches!(out.ended, Ended::TimedOut(_)));
        assert!(watch.elapsed() < Duration::from_secs(5));
        let group: i32 = String::from_utf8(out.stdout).unwrap().trim().parse().unwrap();
        wait_until_empty(group).await;
    }

    /// H14: a flood of output neither blocks the program nor fills our memory; what it forked is cleaned up.
    #[tokio::test]
    async fn h14_a_gigabyte_of_output_is_read_and_thrown_away() {
        let script = "echo $$; sleep 61 & sleep 61 & sleep 61 & head -c 1000000000 /dev/zero";
        let out = sh(script, Duration::from_secs(60)).output().await;
        assert!(out.is_success(), "{}", out.ended);
        assert!(out.truncated);
        assert_eq!(out.stdout.len(), CAP);
        let end = out.stdout.iter().position(|b| *b == b'\n').unwrap();
        let group: i32 = std::str::from_utf8(&out.stdout[..end]).unwrap().parse().unwrap();
        wait_until_empty(group).await;
    }

    #[tokio::test]
    async fn a_grandchild_that_holds_the_pipes_does_not_hold_us() {
        let watch = Stopwatch::start();
        let out = sh("echo $$; setsid sleep 3 & exit 0", LONG).output().await;
        assert!(out.is_success());
        assert!(watch.elapsed() < Duration::from_secs(2), "{:?}", watch.elapsed());
    }

    #[tokio::test]
    async fn a_dropped_future_kills_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let run = Run::new(["sh", "-c", "echo $$ > \"$1\"; sleep 61 & wait", "sh", file.to_str().unwrap()], LONG);
        let task = tokio::spawn(async move { run.output().await });
        let group: i32 = loop {
            if let Some(pid) = std::fs::read_to_string(&file).ok().and_then(|t| t.trim().parse().ok()) {
                break pid;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        task.abort();
        wait_until_empty(group).await;
    }

    async fn wait_until_empty(group: i32) {
        let watch = Stopwatch::start();
        loop {
            let left: Vec<_> = process::all().unwrap().into_iter().filter(|p| p.group == group).collect();
            if left.is_empty() {
                return;
            }
            assert!(watch.elapsed() < Duration::from_secs(10), "still there: {}", process::describe(&left));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
