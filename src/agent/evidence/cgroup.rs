//! The control group's own file: whether anything is in it, and whether it is frozen. The kernel wakes us at a change.

use std::{
    fs::File,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::FileExt,
    },
};

use crate::sys::process::ControlGroup;

/// A control group that is watched.
#[derive(Debug)]
pub struct Group {
    group: ControlGroup,
    events: File,
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Anything is in it or below it. A group that was removed is empty: the kernel removes no other.
    pub populated: bool,
    /// All of it is frozen.
    pub frozen: bool,
    /// It was removed: open it anew.
    pub removed: bool,
}

impl Group {
    /// Opens the group at a path below the cgroup2 mount.
    ///
    /// # Errors
    /// It is not there.
    pub fn open(path: &str) -> Result<Self, String> {
        let group = ControlGroup::at(path)?;
        let file = group.directory().join("cgroup.events");
        let events = File::open(&file).map_err(|e| format!("{} cannot be opened: {e}", file.display()))?;
        Ok(Self { group, events })
    }

    /// The group.
    #[must_use]
    pub const fn group(&self) -> &ControlGroup {
        &self.group
    }

    /// Reads it, which also rearms the wake-up.
    #[must_use]
    pub fn look(&self) -> Standing {
        let mut buffer = [0; 256];
        match self.events.read_at(&mut buffer, 0) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&buffer[..length]);
                let has = |wanted: &str| text.lines().any(|line| line == wanted);
                Standing { populated: !has("populated 0"), frozen: has("frozen 1"), removed: false }
            }
            // ENODEV: removed under us.
            Err(_) => Standing { populated: false, frozen: false, removed: true },
        }
    }
}

impl AsFd for Group {
    /// Has `POLLPRI` after a change.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// The control group of a process in the unified hierarchy; `None` where it is in the root.
#[must_use]
pub fn of_process(pid: i32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    (path.len() > 1 && !path.contains("/..")).then(|| path.to_owned())
}
