//! A run of the program, as `coroner elect` sees it: a guard at the other end of a socket.

use std::{io, os::fd::OwnedFd, os::unix::net::UnixStream as StdUnixStream, process::Stdio, time::Duration};

use tokio::{
    io::AsyncReadExt as _,
    net::UnixStream,
    process::{Child, Command},
    time::sleep,
};
use tracing::error;

use super::{
    guard::{Deadlines, Order, Report},
    tree::Tree,
};
use crate::sys::clock;

/// Between two looks whether all is dead.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What the program is, and what it is told.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    /// Its words.
    pub(super) program: Vec<String>,
    /// `CORONER_GROUP`.
    pub(super) group: String,
    /// `CORONER_INSTANCE`.
    pub(super) instance: String,
}

/// A run, from its start until nothing of it is left.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) epoch: u64,
    guard: Child,
    socket: UnixStream,
    received: Vec<u8>,
    deadlines: Deadlines,
    is_stopping: bool,
    /// The program's code, and whether it ended by itself.
    ended: Option<(u8, bool)>,
    /// The guard is gone, or said that all of it is.
    is_gone: bool,
    tree: Tree,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) code: u8,
    /// It was not told to.
    pub(super) by_itself: bool,
}

impl Program {
    /// Starts it. Between the look at the clock and the start, others look too: the guard, and the launcher.
    pub(super) fn start(spec: &Spec, epoch: u64, deadlines: Deadlines) -> io::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["elect-guard", "--term-at", &deadlines.term.0.to_string()]);
        command.args(["--kill-at", &deadlines.kill.0.to_string(), "--"]).args(&spec.program);
        command.env("CORONER_EPOCH", epoch.to_string());
        command.env("CORONER_GROUP", &spec.group).env("CORONER_INSTANCE", &spec.instance);
        // A secret of the election is none of the program's.
        command.env_remove("CORONER_STORE_PASSWORD").env_remove("CORONER_STORE");
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let guard = command.spawn()?;
        let number = guard.id().and_then(|id| i32::try_from(id).ok()).unwrap_or(0);
        Ok(Self {
            epoch,
            guard,
            socket: UnixStream::from_std(ours)?,
            received: Vec::new(),
            deadlines,
            is_stopping: false,
            ended: None,
            is_gone: false,
            tree: Tree::below_me(number),
        })
    }

    /// The lease went on.
    pub(super) fn hold(&mut self, deadlines: Deadlines) {
        if !self.is_stopping && clock::now() < self.deadlines.term {
            self.deadlines = deadlines;
            self.order(Order::Hold(deadlines));
        }
    }

    /// TERM now, KILL at most `grace` later.
    pub(super) fn stop(&mut self, grace: Duration) {
        if !self.is_stopping {
            self.is_stopping = true;
            self.deadlines.kill = self.deadlines.kill.min(clock::now() + grace);
            self.order(Order::Stop { kill: self.deadlines.kill });
        }
    }

    fn order(&self, order: Order) {
        // A guard that died is seen by `ended`; one that does not read for hours kills by its deadline.
        let _ = self.socket.try_write(order.to_string().as_bytes());
    }

    /// Waits until nothing of it runs any more, and makes sure of it itself where the guard does not: it died, or is late.
    pub(super) async fn ended(&mut self) -> Ended {
        // Whoever waits may give up and come again, at any of the waits in here.
        while !self.is_gone {
            // Twice the time between the two deadlines is past the lease's end: the guard does not do its work.
            let patience = self.deadlines.kill.since(clock::now()) + Duration::from_millis(100);
            tokio::select! {
                biased;
                report = self.report() => match report {
                    Some(Report::Ended(code)) => self.ended = Some((code, true)),
                    Some(Report::Stopped(code)) => self.ended = Some((code, false)),
                    Some(Report::Gone) if self.ended.is_some() => self.is_gone = true,
                    Some(Report::Gone) | None => {
                        error!("The guard ended before it saw the program's end: all of it is killed.");
                        self.is_gone = true;
                    }
                },
                () = sleep(patience) => {
                    if self.deadlines.kill <= clock::now() {
                        // Without waiting for the guard, which kills the same.
                        let _ = self.tree.kill();
                        sleep(LOOK_EVERY).await;
                    }
                }
            }
        }
        self.make_sure().await;
        let (code, by_itself) = self.ended.unwrap_or((128 + 9, !self.is_stopping));
        Ended { code, by_itself }
    }

    /// Kills whatever there is below this process, the guard too, until nothing is.
    async fn make_sure(&mut self) {
        let mut has_told = false;
        // The guard's last act was its word; give it the moment to go by itself.
        let _ = tokio::time::timeout(Duration::from_millis(500), self.guard.wait()).await;
        loop {
            match self.tree.running() {
                Ok(running) if running.is_empty() => break,
                Ok(running) => {
                    if !std::mem::replace(&mut has_told, true) {
                        error!("Still there, and killed: {}.", crate::sys::process::describe(&running));
                    }
                }
                Err(e) => error!("Whether anything of the program runs cannot be seen: {e}."),
            }
            let _ = self.tree.kill();
            sleep(LOOK_EVERY).await;
        }
        self.tree.remove_group();
        let _ = self.guard.wait().await;
        reap_orphans();
    }

    /// The next thing the guard says; `None`: it is gone.
    async fn report(&mut self) -> Option<Report> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                if let Ok(report) = String::from_utf8_lossy(&line).trim_end().parse() {
                    return Some(report);
                }
                continue;
            }
            let mut buffer = [0; 256];
            match self.socket.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(length) => self.received.extend_from_slice(&buffer[..length]),
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The socket closes, upon which the guard stops everything.
        let _ = self.tree.kill();
    }
}

/// Counts the dead that fell to this process because their guard died. No other child of it is there by now.
fn reap_orphans() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    while !matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive) | Err(_)) {}
}
