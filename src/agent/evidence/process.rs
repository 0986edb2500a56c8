//! One process, held: its pidfd, and its line in /proc by a descriptor that can never mean another.

use std::{
    fs::File,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use procfs::{FromRead, process::Stat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::sys::process::{self, Identity};

/// The kernel's PF_EXITING: it is in `do_exit` and never returns to its own code.
const EXITING: u32 = 0x4;
/// The kernel's PF_DUMPCORE: its memory is being written out.
const DUMPING: u32 = 0x200;
/// KILL among the pending signals. Nothing can block it: no thread that has it returns to its own code.
const KILL_PENDING: u64 = 1 << 8;
/// Lines of /proc/PID/stat are shorter, with a name of 64 bytes and fifty numbers of 20 digits.
const LINE: usize = 2048;

/// A process that is watched.
#[derive(Debug)]
pub struct Held {
    pidfd: OwnedFd,
    stat: File,
    identity: Identity,
}

/// What /proc says of it just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// It runs, with the letter of its state.
    Runs(char),
    /// It will not run its own code again, though it is not gone yet. In words, why.
    Ending(String),
    /// It has ended. Its wait status, where it was still to be read.
    Ended(Option<i32>),
}

impl Held {
    /// Takes hold of the process with that number.
    ///
    /// # Errors
    /// It is gone, or the kernel refuses.
    pub fn open(pid: i32) -> Result<Self, String> {
        let gone = |e: &dyn std::fmt::Display| format!("process {pid} cannot be opened: {e}");
        // A negative number is asked for before: `from_raw` takes none.
        let number = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw);
        let number = number.ok_or_else(|| format!("{pid} is no process number"))?;
        // Whoever the number belongs to when `stat` is read, that file stays with it; the pidfd, opened before, may be
        // that of a predecessor only if it has ended, which the pidfd then tells.
        let pidfd = pidfd_open(number, PidfdFlags::empty()).map_err(|e| gone(&e))?;
        let stat = File::open(format!("/proc/{pid}/stat")).map_err(|e| gone(&e))?;
        let line = read(&stat).map_err(|e| gone(&e))?;
        let identity = Identity { boot_id: process::boot_id(), pid, start_ticks: line.starttime };
        Ok(Self { pidfd, stat, identity })
    }

    /// Who it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Looks, with one read.
    #[must_use]
    pub fn look(&self) -> Look {
        let Ok(stat) = read(&self.stat) else { return Look::Ended(None) };
        if matches!(stat.state, 'Z' | 'X' | 'x') && self.has_no_thread() {
            return Look::Ended(stat.exit_code);
        }
        if stat.flags & DUMPING != 0 {
            return Look::Ending("it dumps core".into());
        }
        if stat.signal & KILL_PENDING != 0 {
            return Look::Ending("KILL is upon it".into());
        }
        // A first thread may end alone while the others serve on.
        if stat.flags & EXITING != 0 && self.threads().iter().all(is_ending) {
            return Look::Ending("it is exiting".into());
        }
        Look::Runs(stat.state)
    }

    /// A zombie's other threads may still run: then the process has not ended.
    fn has_no_thread(&self) -> bool {
        self.threads().iter().all(|stat| matches!(stat.state, 'Z' | 'X' | 'x'))
    }

    fn threads(&self) -> Vec<Stat> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.identity.pid));
        let stats = tasks.into_iter().flatten().flatten().filter_map(|task| File::open(task.path().join("stat")).ok());
        stats.filter_map(|file| read(&file).ok()).collect()
    }
}

impl AsFd for Held {
    /// Readable when the whole process, all threads, has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn is_ending(stat: &Stat) -> bool {
    matches!(stat.state, 'Z' | 'X' | 'x') || stat.flags & EXITING != 0 || stat.signal & KILL_PENDING != 0
}

fn read(file: &File) -> Result<Stat, String> {
    let mut buffer = [0; LINE];
    let length = file.read_at(&mut buffer, 0).map_err(|e| e.to_string())?;
    Stat::from_read(&buffer[..length]).map_err(|e| e.to_string())
}

/// How a process ended, from its wait status: `killed by SIGKILL`, `exited with 3`.
#[must_use]
pub fn how_it_ended(status: i32) -> String {
    let signal = status & 0x7f;
    if signal == 0 {
        return format!("exited with {}", (status >> 8) & 0xff);
    }
    let name =
        nix::sys::signal::Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |s| s.to_string());
    let core = if status & 0x80 == 0 { "" } else { ", core dumped" };
    format!("killed by {name}{core}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_in_words() {
        assert_eq!(how_it_ended(9), "killed by SIGKILL");
        assert_eq!(how_it_ended(0x80 | 11), "killed by SIGSEGV, core dumped");
        assert_eq!(how_it_ended(3 << 8), "exited with 3");
        assert_eq!(how_it_ended(40), "killed by signal 40");
    }

    #[test]
    fn we_run() {
        let held = Held::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(matches!(held.look(), Look::Runs(_)));
        assert!(Held::open(0).is_err() && Held::open(-1).is_err());
    }
}
