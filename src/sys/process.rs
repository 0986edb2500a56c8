//! Processes: who one is, beyond its number; signals that cannot hit a stranger; groups, trees, control groups.
//!
//! A process number is recycled, and a signal to a zombie "succeeds". So a process is named by boot id, number and
//! start time; a signal goes through a pidfd whose process was identified *after* the pidfd was opened; and ended
//! means that /proc says zombie or nothing, never that a signal was accepted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::ErrorKind,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use procfs::process::{Process, Stat};
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use tokio::io::{Interest, unix::AsyncFd};

pub use rustix::process::Signal;

/// Who a process is: no two processes ever share this.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The boot in which it was started.
    pub boot_id: String,
    /// Its number.
    pub pid: i32,
    /// Its start, in clock ticks since boot.
    pub start_ticks: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)
    }
}

/// One process, as /proc shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who it is.
    pub identity: Identity,
    /// Its parent's number.
    pub parent: i32,
    /// Its process group.
    pub group: i32,
    /// Its session.
    pub session: i32,
    /// The letter of its state: `R`, `S`, `D`, `T`, `Z`, …
    pub state: char,
    /// Its short name.
    pub name: String,
}

impl Seen {
    /// Whether it has ended: a zombie only waits to be counted.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    fn new(boot_id: &str, stat: Stat) -> Self {
        Self {
            identity: Identity { boot_id: boot_id.to_owned(), pid: stat.pid, start_ticks: stat.starttime },
            parent: stat.ppid,
            group: stat.pgrp,
            session: stat.session,
            state: stat.state,
            name: stat.comm,
        }
    }
}

/// This boot's id; empty if /proc does not say.
#[must_use]
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// The process with that number just now, zombies included; `None` if there is none.
#[must_use]
pub fn look(pid: i32) -> Option<Seen> {
    let stat = Process::new(pid).ok()?.stat().ok()?;
    Some(Seen::new(&boot_id(), stat))
}

/// Whether this very process still runs: not gone, not a zombie, not a stranger with the same number.
#[must_use]
pub fn runs(identity: &Identity) -> bool {
    look(identity.pid).is_some_and(|seen| seen.identity == *identity && !seen.has_ended())
}

/// All processes that have not ended.
///
/// # Errors
/// /proc cannot be read.
pub fn all() -> Result<Vec<Seen>, String> {
    let boot = boot_id();
    let processes = procfs::process::all_processes().map_err(|e| format!("/proc cannot be read: {e}"))?;
    // A process that ends while we read is one that has ended.
    let seen = processes.filter_map(|p| p.ok()?.stat().ok()).map(|stat| Seen::new(&boot, stat));
    Ok(seen.filter(|p| !p.has_ended()).collect())
}

/// Those of `all` that are among `roots`, in a process group or session led by one of them, or descend from one.
///
/// A child that began its own session and whose parent ended before we looked is not seen: only a control group
/// sees everything.
#[must_use]
pub fn family(all: &[Seen], roots: &BTreeSet<i32>) -> Vec<Seen> {
    let mut pids = roots.clone();
    loop {
        let before = pids.len();
        for p in all {
            let led = |id: i32| id > 0 && roots.contains(&id);
            if led(p.group) || led(p.session) || pids.contains(&p.parent) {
                pids.insert(p.identity.pid);
            }
        }
        if pids.len() == before {
            break;
        }
    }
    all.iter().filter(|p| pids.contains(&p.identity.pid)).cloned().collect()
}

/// The words with which a process was started; empty for a kernel thread or a zombie.
#[must_use]
pub fn command_line(pid: i32) -> Vec<String> {
    Process::new(pid).and_then(|p| p.cmdline()).unwrap_or_default()
}

/// File name of what a process executes, even if the file was replaced since.
#[must_use]
pub fn executable(pid: i32) -> Option<String> {
    let path = Process::new(pid).and_then(|p| p.exe()).ok()?;
    let name = path.file_name()?.to_string_lossy().into_owned();
    Some(name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned())
}

/// The systemd service that a process belongs to, if it does.
#[must_use]
pub fn service_of(pid: i32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        path.rsplit('/').find(|part| part.ends_with(".service")).map(str::to_owned)
    })
}

/// When a process began, in seconds since 1970 by the wall clock as it stands now. For comparing with file times
/// only, and only with slack: the wall clock may have been set since.
#[must_use]
pub fn started_unix(identity: &Identity) -> Option<f64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let booted: f64 = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let ticks = u32::try_from(identity.start_ticks / 100).ok()?;
    // Linux has shown start times in hundredths of a second to programs on every architecture since 2.6.
    Some(booted + f64::from(ticks))
}

/// Whether a process's main thread runs or waits for a processor, and how long it has run in its life. `None`: it is gone,
/// or the kernel does not count (`CONFIG_SCHED_INFO`).
#[must_use]
pub fn processor(pid: i32) -> Option<(bool, Duration)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it is the process's own choice.
    let state = stat.rsplit_once(") ")?.1.bytes().next()?;
    let counted = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    let ran: u64 = counted.split(' ').next()?.parse().ok()?;
    Some((state == b'R', Duration::from_nanos(ran)))
}

/// A process held by a descriptor: signals to it cannot hit another.
#[derive(Debug)]
pub struct Handle {
    fd: AsyncFd<OwnedFd>,
    identity: Identity,
}

/// Why a process could not be held or signalled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// It has ended, or its number belongs to another process by now.
    #[error("it has ended")]
    Gone,
    /// We may not, or the kernel refused.
    #[error("{0}")]
    Refused(String),
}

impl Handle {
    /// Takes hold of exactly this process. Needs a tokio runtime.
    ///
    /// # Errors
    /// It is gone, or the kernel refuses.
    pub fn open(identity: &Identity) -> Result<Self, HandleError> {
        let pid = Some(identity.pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or(HandleError::Gone)?;
        let fd = pidfd_open(pid, PidfdFlags::NONBLOCK).or_else(|e| match e {
            rustix::io::Errno::INVAL => pidfd_open(pid, PidfdFlags::empty()),
            e => Err(e),
        });
        let fd = fd.map_err(|e| match e {
            rustix::io::Errno::SRCH => HandleError::Gone,
            e => HandleError::Refused(format!("the process cannot be opened: {e}")),
        })?;
        // The number may have been recycled before the descriptor was opened. From here on it cannot be.
        if !runs(identity) {
            return Err(HandleError::Gone);
        }
        #[expect(deprecated, reason = "the successor is unsafe for types that swap descriptors; an OwnedFd cannot")]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)
            .map_err(|e| HandleError::Refused(format!("the process cannot be watched: {e}")))?;
        Ok(Self { fd, identity: identity.clone() })
    }

    /// Who it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Sends a signal. Success says that the kernel took it, not that the process ended.
    ///
    /// # Errors
    /// It is gone, or we may not.
    pub fn signal(&self, signal: Signal) -> Result<(), HandleError> {
        pidfd_send_signal(self.fd.get_ref(), signal).map_err(|e| match e {
            rustix::io::Errno::SRCH => HandleError::Gone,
            rustix::io::Errno::PERM => {
                HandleError::Refused("not permitted: this user may not signal that process".into())
            }
            e => HandleError::Refused(e.to_string()),
        })
    }

    /// Waits until its first thread group has ended. A zombie counts as ended.
    pub async fn ended(&self) {
        // An error of the reactor would mean that the runtime is going down; then nobody waits any more.
        let _ = self.fd.readable().await;
    }
}

/// A control group of the unified hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlGroup {
    directory: PathBuf,
}

impl ControlGroup {
    /// The group at a path below the cgroup2 mount, wherever that is mounted. It need not exist.
    ///
    /// # Errors
    /// There is no cgroup2 mount, or the path leaves it or names its root.
    pub fn at(path: &str) -> Result<Self, String> {
        let relative = Path::new(path.trim_start_matches('/'));
        if relative.as_os_str().is_empty() || relative.components().any(|c| !matches!(c, Component::Normal(_))) {
            return Err(format!("`{path}` is no control group below the root: write for example `system.slice/x`"));
        }
        Ok(Self { directory: cgroup2_mount()?.join(relative) })
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether any process is in it or below it; `None` if the group does not exist.
    ///
    /// # Errors
    /// The kernel's file cannot be read.
    pub fn populated(&self) -> Result<Option<bool>, String> {
        let file = self.directory.join("cgroup.events");
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(Some(!text.lines().any(|line| line == "populated 0"))),
            // A group that is removed while it is read answers ENODEV.
            Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(19) => Ok(None),
            Err(e) => Err(format!("{} cannot be read: {e}", file.display())),
        }
    }

    /// The numbers of all processes in it and below it.
    #[must_use]
    pub fn processes(&self) -> BTreeSet<i32> {
        let mut pids = BTreeSet::new();
        let mut todo = vec![self.directory.clone()];
        while let Some(directory) = todo.pop() {
            let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok()));
            let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
            todo.extend(entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        }
        pids
    }

    /// Kills all of it at once (`cgroup.kill`); where the kernel is older than 5.14, one by one.
    ///
    /// # Errors
    /// We may not.
    pub fn kill(&self) -> Result<(), String> {
        let file = self.directory.join("cgroup.kill");
        match std::fs::write(&file, "1") {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => self.signal(Signal::KILL),
            Err(e) => Err(format!("{} cannot be written: {e}", file.display())),
        }
    }

    /// Sends a signal to each process in it and below it.
    ///
    /// # Errors
    /// The first refusal; the others were signalled all the same.
    pub fn signal(&self, signal: Signal) -> Result<(), String> {
        let mut refused = None;
        for pid in self.processes() {
            let Some(seen) = look(pid) else { continue };
            if let Err(HandleError::Refused(e)) = Handle::open(&seen.identity).and_then(|h| h.signal(signal)) {
                refused.get_or_insert_with(|| format!("process {pid}: {e}"));
            }
        }
        refused.map_or(Ok(()), Err)
    }
}

/// Where the unified hierarchy is mounted.
fn cgroup2_mount() -> Result<PathBuf, String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").map_err(|e| format!("/proc/self/mounts: {e}"))?;
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (path, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    mount.ok_or_else(|| "no cgroup2 hierarchy is mounted on this host".into())
}

/// Groups processes by what they are doing, for people: `process 12 (redis-server, running)`.
#[must_use]
pub fn describe(processes: &[Seen]) -> String {
    const SHOWN: usize = 8;
    let words: BTreeMap<char, &str> =
        [('R', "running"), ('S', "sleeping"), ('D', "in an uninterruptible wait"), ('T', "stopped"), ('t', "traced")]
            .into();
    let mut text = processes
        .iter()
        .take(SHOWN)
        .map(|p| {
            let state = words.get(&p.state).map_or_else(|| format!("state {}", p.state), |w| (*w).to_owned());
            format!("{} ({}, {state})", p.identity.pid, p.name)
        })
        .collect::<Vec<_>>()
        .join(", ");
    if processes.len() > SHOWN {
        text.push_str(&format!(" and {} more", processes.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pid: i32, parent: i32, group: i32, session: i32) -> Seen {
        let identity = Identity { boot_id: "b".into(), pid, start_ticks: 1 };
        Seen { identity, parent, group, session, state: 'S', name: "x".into() }
    }

    #[test]
    fn a_family_is_the_group_the_session_and_the_descendants() {
        let all = [
            seen(1, 0, 1, 1),
            seen(10, 1, 10, 10),
            seen(11, 10, 10, 10),
            seen(12, 11, 12, 12),
            // The parent is gone, the group and the session tell.
            seen(13, 1, 10, 9),
            seen(14, 1, 14, 10),
            seen(20, 1, 20, 20),
        ];
        let pids = |roots: &[i32]| -> Vec<i32> {
            family(&all, &roots.iter().copied().collect()).iter().map(|p| p.identity.pid).collect()
        };
        assert_eq!(pids(&[10]), [10, 11, 12, 13, 14]);
        assert_eq!(pids(&[11]), [11, 12], "who leads no group takes nobody else's along");
        assert!(pids(&[99]).is_empty());
    }

    #[test]
    fn we_run_and_a_stranger_with_our_number_is_not_us() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let me = look(pid).unwrap().identity;
        assert!(runs(&me));
        assert!(!runs(&Identity { start_ticks: me.start_ticks + 1, ..me.clone() }));
        assert!(!runs(&Identity { boot_id: "another boot".into(), ..me.clone() }));
        assert!(all().unwrap().iter().any(|p| p.identity == me));
        assert!(executable(pid).is_some());
        assert!(!command_line(pid).is_empty());
    }

    #[tokio::test]
    async fn a_zombie_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = look(i32::try_from(child.id()).unwrap()).unwrap().identity;
        let nobody = Identity { pid: -1, ..id.clone() };
        assert_eq!(Handle::open(&nobody).unwrap_err(), HandleError::Gone);
        let stranger = Identity { start_ticks: id.start_ticks + 1, ..id.clone() };
        assert_eq!(Handle::open(&stranger).unwrap_err(), HandleError::Gone);
        let handle = Handle::open(&id).unwrap();
        handle.signal(Signal::KILL).unwrap();
        tokio::time::timeout(Duration::from_secs(10), handle.ended()).await.unwrap();
        // Nobody has reaped it yet: a signal to it would still "succeed".
        assert!(look(id.pid).is_some_and(|p| p.has_ended()));
        assert!(handle.signal(Signal::TERM).is_ok());
        assert!(!runs(&id));
        child.wait().unwrap();
        assert_eq!(handle.signal(Signal::TERM).unwrap_err(), HandleError::Gone);
    }

    #[test]
    fn the_root_and_paths_out_of_the_hierarchy_are_refused() {
        for bad in ["", "/", "..", "a/../../b"] {
            assert!(ControlGroup::at(bad).is_err(), "{bad}");
        }
    }
}
