//! Everything that a program started, and its death.
//!
//! Whoever calls is the *subreaper* of it: a descendant whose parent ends becomes its child, also one that began a session of
//! its own. So all of it is found by walking /proc downwards. Where a control group can be made, the program is in it, and
//! `cgroup.kill` reaches all at once, whoever forks meanwhile.
//!
//! Not reached: what another process starts on the program's behalf (a service manager, a container engine, `at`), and what
//! waits in the kernel and takes no signal.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal, set_child_subreaper};

use crate::sys::process::{self, ControlGroup, Identity, Seen};

/// All descendants of a process, and a control group.
#[derive(Debug)]
pub(super) struct Tree {
    root: i32,
    group: Option<ControlGroup>,
}

/// From now on, orphans below this process become its children.
pub(super) fn adopt_orphans() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// The name of the control group of the guard with that number, below the group of whoever asks.
fn group_of_guard(guard: i32) -> Option<ControlGroup> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    if own.contains("/..") {
        return None;
    }
    ControlGroup::at(&format!("{}/coroner-elect-{guard}", own.trim_end_matches('/'))).ok()
}

impl Tree {
    /// What descends from this process, and what is in the group of that guard.
    pub(super) fn below_me(guard: i32) -> Self {
        Self { root: getpid().as_raw_nonzero().get(), group: group_of_guard(guard) }
    }

    /// Makes the control group; its directory, if that could be done.
    pub(super) fn make_group(&mut self) -> Option<PathBuf> {
        let directory = self.group.as_ref()?.directory().to_owned();
        if fs::create_dir(&directory).is_err() {
            // Not permitted, or the hierarchy is of the older kind: the walk has to do.
            self.group = None;
            return None;
        }
        Some(directory)
    }

    /// Removes the control group, which is possible once it is empty.
    pub(super) fn remove_group(&self) {
        if let Some(group) = &self.group {
            // Whoever comes second finds it gone.
            let _ = fs::remove_dir(group.directory());
        }
    }

    /// Everything of it that has not ended.
    pub(super) fn running(&self) -> Result<Vec<Seen>, String> {
        let all = process::all()?;
        let mut pids: BTreeSet<i32> = self.group.as_ref().map(ControlGroup::processes).unwrap_or_default();
        pids.insert(self.root);
        loop {
            let before = pids.len();
            pids.extend(all.iter().filter(|p| pids.contains(&p.parent)).map(|p| p.identity.pid).collect::<Vec<_>>());
            if pids.len() == before {
                break;
            }
        }
        Ok(all.into_iter().filter(|p| p.identity.pid != self.root && pids.contains(&p.identity.pid)).collect())
    }

    /// Sends a signal to each.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), String> {
        for seen in self.running()? {
            send(&seen.identity, signal);
        }
        Ok(())
    }

    /// Kills all of it; to be repeated until [`Tree::running`] is empty.
    pub(super) fn kill(&self) -> Result<(), String> {
        if let Some(group) = &self.group {
            // Below, each is killed once more.
            let _ = fs::write(group.directory().join("cgroup.kill"), "1");
        }
        self.signal(Signal::KILL)
    }
}

/// Moves this process into the group with that directory.
pub(super) fn enter(directory: &Path) -> io::Result<()> {
    fs::write(directory.join("cgroup.procs"), "0")
}

/// Sends a signal to exactly this process, if it is still there and we may.
fn send(identity: &Identity, signal: Signal) {
    let Some(pid) = Pid::from_raw(identity.pid) else { return };
    let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    // The number may have been recycled before the descriptor was opened. From here on it cannot be.
    if process::runs(identity) {
        // What has ended meanwhile needs no signal; what may not be signalled stays in the list of what runs.
        let _ = pidfd_send_signal(&fd, signal);
    }
}
