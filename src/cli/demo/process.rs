//! Processes of the demo: each in a process group of its own, each killed when its guard goes away.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{ChildStdin, Command},
    sync::watch,
    time::timeout,
};

use crate::cli::exit::{Code, Failure};

/// A process that does not outlive this value.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    pid: Pid,
    ended: watch::Receiver<Option<ExitStatus>>,
    log: PathBuf,
    /// Programs of ours end when it closes, even if the demo itself is killed.
    _stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts a program; what it prints goes to `log`.
    pub(crate) fn start(name: &str, command: Command, log: &Path) -> Result<Self, Failure> {
        let mut command = command;
        command.stdin(Stdio::null()).stdout(file(log)?);
        Self::spawn(name, command, log).map(|(process, _)| process)
    }

    /// Starts a program of ours that ends with its standard input; what it prints goes to `log`.
    pub(crate) fn start_held(name: &str, command: Command, log: &Path) -> Result<Self, Failure> {
        let mut command = command;
        command.stdin(Stdio::piped()).stdout(file(log)?);
        Self::spawn(name, command, log).map(|(process, _)| process)
    }

    /// Starts a program of ours that says on its first line where it listens, and ends with its standard input.
    pub(crate) async fn start_listening(name: &str, command: Command, log: &Path) -> Result<(Self, String), Failure> {
        let mut command = command;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let (process, stdout) = Self::spawn(name, command, log)?;
        let fail =
            || Failure::new(Code::Internal, format!("{name} did not say where it listens. {}", process.last_words()));
        let mut lines = BufReader::new(stdout.ok_or_else(fail)?).lines();
        let line = timeout(Duration::from_secs(10), lines.next_line()).await;
        let address = match line {
            Ok(Ok(Some(line))) => line.strip_prefix("listening ").map(str::to_owned).ok_or_else(fail)?,
            _ => return Err(fail()),
        };
        // Whatever else it says is not kept; the pipe is kept open, so that saying it is no error.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok((process, address))
    }

    fn spawn(
        name: &str,
        mut command: Command,
        log: &Path,
    ) -> Result<(Self, Option<tokio::process::ChildStdout>), Failure> {
        command.stderr(file(log)?).process_group(0);
        let fail = |e: &dyn std::fmt::Display| Failure::new(Code::Unavailable, format!("Cannot start {name}: {e}."));
        let mut child = command.spawn().map_err(|e| fail(&e))?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw).ok_or_else(|| fail(&"no id"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (end, ended) = watch::channel(None);
        // Reaps it at once: a zombie would look alive to a fence.
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                end.send_replace(Some(status));
            }
        });
        Ok((Self { name: name.to_owned(), pid, ended, log: log.to_owned(), _stdin: stdin }, stdout))
    }

    pub(crate) const fn pid(&self) -> Pid {
        self.pid
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Sends a signal to its whole group, unless it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.ended().is_none() {
            // It may end at the same moment, which is as good.
            let _ = killpg(self.pid, signal);
        }
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self, within: Duration) -> bool {
        timeout(within, self.ended.wait_for(Option::is_some)).await.is_ok_and(|ended| ended.is_ok())
    }

    /// The end of its log, for errors.
    pub(crate) fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(2_000)..]).into_owned();
        let lines: Vec<&str> = text.lines().rev().filter(|l| !l.trim().is_empty()).take(6).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        let how = self.ended().map_or_else(|| "It still runs.".to_owned(), |status| format!("It ended: {status}."));
        format!("{how} The end of {}:\n  {}", self.log.display(), lines.join("\n  "))
    }

    /// Whether its log says that a port was taken by somebody else.
    pub(crate) fn found_port_taken(&self) -> bool {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default().to_lowercase();
        self.ended().is_some() && text.contains("address already in use")
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

fn file(path: &Path) -> Result<File, Failure> {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|e| Failure::new(Code::CannotCreate, format!("Cannot write {}: {e}.", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_ends_with_its_guard_and_its_children_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo listening $!; wait"]);
        let (process, child) = Process::start_listening("a shell", command, &dir.path().join("log")).await.unwrap();
        let child = Pid::from_raw(child.parse().unwrap());
        let mut ended = process.ended.clone();
        drop(process);
        timeout(Duration::from_secs(5), ended.wait_for(Option::is_some)).await.unwrap().unwrap();
        // The grandchild is reaped by init, some time.
        for _ in 0..500 {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the grandchild {child} still runs");
    }

    #[tokio::test]
    async fn last_words_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo bind: Address already in use >&2; exit 3"]);
        let mut process = Process::start("a shell", command, &dir.path().join("log")).unwrap();
        assert!(process.wait(Duration::from_secs(5)).await);
        assert!(process.found_port_taken());
        assert!(process.last_words().contains("exit status: 3"), "{}", process.last_words());
    }
}
