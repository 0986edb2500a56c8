//! Pressure: the kernel wakes us when all of a control group waits for memory or for disk most of a second.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    time::Duration,
};

/// How much stall within how long makes it a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// All that could run waited for this long …
    pub stalled: Duration,
    /// … within this long. The kernel takes 500 ms to 10 s.
    pub within: Duration,
}

impl Default for Threshold {
    fn default() -> Self {
        Self { stalled: Duration::from_millis(700), within: Duration::from_secs(1) }
    }
}

/// One of the kernel's triggers; it goes with the descriptor.
#[derive(Debug)]
pub struct Trigger {
    file: File,
    path: PathBuf,
    /// `memory` or `io`.
    pub resource: &'static str,
}

/// What is watched: waiting for the processor is no sign of the broker's death.
const RESOURCES: [&str; 2] = ["memory", "io"];

impl Trigger {
    /// Triggers on a control group's directory, or on the host's `/proc/pressure`.
    ///
    /// # Errors
    /// The kernel has no pressure files, or we may not.
    pub fn open(group: Option<&Path>, threshold: Threshold) -> Result<Vec<Self>, String> {
        RESOURCES
            .into_iter()
            .map(|resource| {
                let path = group.map_or_else(
                    || PathBuf::from(format!("/proc/pressure/{resource}")),
                    |group| group.join(format!("{resource}.pressure")),
                );
                let text = format!("full {} {}", threshold.stalled.as_micros(), threshold.within.as_micros());
                let open = OpenOptions::new().read(true).write(true).open(&path);
                let file = open
                    .and_then(|mut file| file.write_all(text.as_bytes()).map(|()| file))
                    .map_err(|e| format!("{} takes no trigger: {e}", path.display()))?;
                Ok(Self { file, path, resource })
            })
            .collect()
    }

    /// In words: whose pressure.
    #[must_use]
    pub fn describe(&self) -> String {
        let waits_for = if self.resource == "io" { "disk" } else { "memory" };
        let what = if self.path.starts_with("/proc/pressure") { "host" } else { "control group" };
        format!("all of the {what} waits for {waits_for}")
    }
}

impl AsFd for Trigger {
    /// Has `POLLPRI` when it fired; that is told once.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
