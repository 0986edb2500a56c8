//! The guard: a small process that lets a program run until a deadline, and the launcher that becomes the program.
//!
//! It has no runtime and asks nobody. Its standard input is one end of a pair of sockets, whose other end `coroner elect`
//! holds: `hold` moves the deadlines, `stop` stops now, an end of file means that the other one died. What it says back is
//! told in [`Report`].
//!
//! TERM goes out at the first deadline, KILL at the second one and every few milliseconds from then on.

use std::{
    fmt,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::PathBuf,
    process::{Command, Stdio},
    str::FromStr,
    time::Duration,
};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    mm::{MlockAllFlags, mlockall},
    process::{
        Pid, PidfdFlags, Signal, geteuid, getpid, getppid, getpriority_process, pidfd_open,
        set_parent_process_death_signal, setpriority_process, setsid,
    },
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime},
};

use super::tree::{self, Tree};
use crate::{model::Time, sys::clock};

/// Between two kills, and two looks whether all is gone.
const KILL_EVERY: Duration = Duration::from_millis(10);

/// The program had not been started when its time was over.
const TOO_LATE: u8 = 143;

/// Until when a program may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// It is told to stop.
    pub term: Time,
    /// It is killed.
    pub kill: Time,
}

/// What the guard is told, one a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Other deadlines.
    Hold(Deadlines),
    /// Now, and by that time.
    Stop {
        /// It is killed.
        kill: Time,
    },
}

/// What the guard says, one a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The program ended by itself, with that code; what is left of it is killed.
    Ended(u8),
    /// It was stopped, and left that code.
    Stopped(u8),
    /// Nothing of it runs any more.
    Gone,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hold(Deadlines { term, kill }) => writeln!(f, "hold {} {}", term.0, kill.0),
            Self::Stop { kill } => writeln!(f, "stop {}", kill.0),
        }
    }
}

impl FromStr for Order {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let mut words = line.split(' ');
        let name = words.next();
        let mut time = || words.next().and_then(|word| word.parse().ok()).map(Time).ok_or(());
        match name {
            Some("hold") => Ok(Self::Hold(Deadlines { term: time()?, kill: time()? })),
            Some("stop") => Ok(Self::Stop { kill: time()? }),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(code) => writeln!(f, "ended {code}"),
            Self::Stopped(code) => writeln!(f, "stopped {code}"),
            Self::Gone => writeln!(f, "gone"),
        }
    }
}

impl FromStr for Report {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let (name, code) = line.split_once(' ').unwrap_or((line, "0"));
        let code = code.parse().map_err(|_| ())?;
        match name {
            "ended" => Ok(Self::Ended(code)),
            "stopped" => Ok(Self::Stopped(code)),
            "gone" => Ok(Self::Gone),
            _ => Err(()),
        }
    }
}

/// The guard.
struct Guard {
    socket: UnixStream,
    received: Vec<u8>,
    timer: OwnedFd,
    deadlines: Deadlines,
    tree: Tree,
    main: Pid,
    main_fd: Option<OwnedFd>,
    has_termed: bool,
    code: Option<u8>,
}

/// Runs a program until a deadline. For `coroner elect` only, which makes its standard input.
///
/// # Errors
/// It could not be started; nothing of it runs.
pub fn run(deadlines: Deadlines, program: &[String]) -> io::Result<()> {
    // Fails only for who leads a group already, which a child of `coroner elect` does not.
    let _ = setsid();
    tree::adopt_orphans()?;
    let nice = rise();
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let own = getpid().as_raw_nonzero().get();
    let mut tree = Tree::below_me(own);
    let group = tree.make_group();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["elect-launch", "--guard", &own.to_string(), "--before", &deadlines.term.0.to_string()]);
    command.args(["--nice", &nice.to_string()]);
    if let Some(group) = &group {
        command.arg("--cgroup").arg(group);
    }
    command.arg("--").args(program).stdin(Stdio::null());
    let child = command.spawn().inspect_err(|_| tree.remove_group())?;
    // A number of a process that was just started is positive.
    let main = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    // Without it, the end is seen at the next renewal.
    let main_fd = pidfd_open(main, PidfdFlags::empty()).ok();
    let received = Vec::new();
    let mut guard = Guard { socket, received, timer, deadlines, tree, main, main_fd, has_termed: false, code: None };
    guard.guard();
    guard.tree.remove_group();
    guard.say(Report::Gone);
    Ok(())
}

/// What a starved machine lets run first, and does not swap out. The launcher gives the niceness back.
fn rise() -> i32 {
    let nice = getpriority_process(None).unwrap_or(0);
    if geteuid().is_root() {
        // It works without them, only later under load.
        let _ = setpriority_process(None, -20);
        let _ = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
    }
    nice
}

impl Guard {
    fn guard(&mut self) {
        loop {
            self.reap();
            let now = clock::now();
            if self.code.is_some() || now >= self.deadlines.kill {
                // /proc that cannot be read proves nothing: on.
                let _ = self.tree.kill();
                self.reap();
                if self.code.is_some() && self.tree.running().is_ok_and(|running| running.is_empty()) {
                    return;
                }
            } else if now >= self.deadlines.term && !self.has_termed {
                self.has_termed = true;
                let _ = self.tree.signal(Signal::TERM);
            }
            self.wait(now);
            self.listen();
        }
    }

    /// Until something happens, or the next deadline.
    fn wait(&self, now: Time) {
        let is_killing = self.code.is_some() || now >= self.deadlines.kill;
        let next = if is_killing {
            now + KILL_EVERY
        } else if self.has_termed {
            self.deadlines.kill
        } else {
            self.deadlines.term.min(self.deadlines.kill)
        };
        // Zero would disarm it. Both parts fit: they are those of a u64 of nanoseconds.
        let ns = next.0.max(1);
        let value = Timespec {
            tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ns % 1_000_000_000).unwrap_or(0),
        };
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let armed = timerfd_settime(
            &self.timer,
            TimerfdTimerFlags::ABSTIME,
            &Itimerspec { it_interval: zero, it_value: value },
        );
        let mut fds = vec![PollFd::new(&self.timer, PollFlags::IN)];
        // While it kills, an end of file or of the program would wake it without a pause.
        if !is_killing {
            fds.push(PollFd::new(&self.socket, PollFlags::IN));
            fds.extend(self.main_fd.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        }
        // Twice a second it looks by itself: a timer that could not be armed shifts a deadline by no more.
        let tick = if armed.is_ok() { 500_000_000 } else { 5_000_000 };
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: tick }));
    }

    fn listen(&mut self) {
        let mut buffer = [0; 512];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return self.orphaned(),
                Ok(length) => self.received.extend_from_slice(&buffer[..length]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return self.orphaned(),
            }
        }
        while let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.received.drain(..=end).collect();
            match String::from_utf8_lossy(&line).trim_end().parse() {
                // What was told to stop is not told otherwise.
                Ok(Order::Hold(deadlines)) if !self.has_termed && clock::now() < self.deadlines.term => {
                    self.deadlines = deadlines;
                }
                Ok(Order::Stop { kill }) => self.stop(kill),
                Ok(Order::Hold(_)) | Err(()) => {}
            }
        }
    }

    fn stop(&mut self, kill: Time) {
        self.deadlines.term = self.deadlines.term.min(clock::now());
        self.deadlines.kill = self.deadlines.kill.min(kill);
    }

    /// `coroner elect` died: as if it had said so, with the time that it would have given.
    fn orphaned(&mut self) {
        if !self.has_termed && self.code.is_none() {
            let grace = self.deadlines.kill.since(self.deadlines.term);
            self.stop(clock::now() + grace);
        }
        // An end of file is readable for ever.
        self.pause();
    }

    fn pause(&self) {
        let _ = poll(&mut [PollFd::new(&self.timer, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 }));
    }

    /// Counts the dead: the program, and the orphans that fell to us.
    fn reap(&mut self) {
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + u8::try_from(signal as i32).unwrap_or(0)),
                // Nothing more to count just now, or no child at all.
                _ => return,
            };
            if pid.as_raw() == self.main.as_raw_nonzero().get() {
                self.code = Some(code);
                let is_stopped = self.has_termed || clock::now() >= self.deadlines.term;
                self.say(if is_stopped { Report::Stopped(code) } else { Report::Ended(code) });
            }
        }
    }

    fn say(&mut self, report: Report) {
        // Whoever is gone hears nothing, and the buffer holds far more than is ever said.
        let _ = self.socket.write_all(report.to_string().as_bytes());
    }
}

/// How a program is launched.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The guard's number.
    pub guard: i32,
    /// Not later than this.
    pub before: Time,
    /// The niceness that the program is to have.
    pub nice: i32,
    /// The control group's directory.
    pub cgroup: Option<PathBuf>,
    /// What is to run.
    pub program: Vec<String>,
}

/// Becomes the program. Returns only if it could not: with the code that a shell would leave, and why.
#[must_use]
pub fn launch(launch: &Launch) -> (u8, String) {
    let Some((name, arguments)) = launch.program.split_first() else {
        return (126, "there is no program to run".into());
    };
    // Leads no group yet, so that this works; without a session of its own a terminal's signals would reach it.
    let _ = setsid();
    if let Some(directory) = &launch.cgroup {
        // What could not enter is found by the walk all the same.
        let _ = tree::enter(directory);
    }
    let _ = setpriority_process(None, launch.nice);
    if let Err(e) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return (126, format!("the kernel would not kill it with its guard: {e}"));
    }
    // The guard may have died before the kernel was asked.
    if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(launch.guard) {
        return (TOO_LATE, "its guard died".into());
    }
    if clock::now() >= launch.before {
        return (TOO_LATE, "the lease ended before it was started".into());
    }
    let error = Command::new(name).args(arguments).exec();
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    (code, format!("{name} cannot be started: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_back() {
        let deadlines = Deadlines { term: Time(5), kill: Time(9) };
        for order in [Order::Hold(deadlines), Order::Stop { kill: Time(7) }] {
            assert_eq!(order.to_string().trim_end().parse(), Ok(order));
        }
        for report in [Report::Ended(3), Report::Stopped(143), Report::Gone] {
            assert_eq!(report.to_string().trim_end().parse(), Ok(report));
        }
        for bad in ["", "hold", "hold 1", "stop x", "ended 999", "lives"] {
            assert!(bad.parse::<Order>().is_err() && bad.parse::<Report>().is_err(), "{bad}");
        }
    }
}
