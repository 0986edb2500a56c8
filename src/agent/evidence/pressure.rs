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

/// Where there are no triggers (they need a right, and a kernel from 5.2): what a look at the pressure files shows. They
/// average over ten seconds, so a stall is told late.
///
/// # Errors
/// There are no such files.
pub fn stalled(group: Option<&Path>, threshold: Threshold) -> Result<Option<String>, String> {
    let limit = 100.0 * threshold.stalled.as_secs_f64() / threshold.within.as_secs_f64().max(f64::MIN_POSITIVE);
    for resource in RESOURCES {
        let path = file(group, resource);
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
        if full_average(&text).is_some_and(|percent| percent >= limit) {
            return Ok(Some(describe(&path, resource)));
        }
    }
    Ok(None)
}

/// Of `full avg10=1.50 avg60=…`, the first number, in percent.
fn full_average(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("full avg10="))?;
    line.split_whitespace().next()?.parse().ok()
}

fn file(group: Option<&Path>, resource: &str) -> PathBuf {
    group.map_or_else(
        || PathBuf::from(format!("/proc/pressure/{resource}")),
        |group| group.join(format!("{resource}.pressure")),
    )
}

fn describe(path: &Path, resource: &str) -> String {
    let waits_for = if resource == "io" { "disk" } else { "memory" };
    let what = if path.starts_with("/proc/pressure") { "host" } else { "control group" };
    format!("all of the {what} waits for {waits_for}")
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
                let path = file(group, resource);
                // The kernel overwrites the last byte with an end of text, whatever it was.
                let text = format!("full {} {}\0", threshold.stalled.as_micros(), threshold.within.as_micros());
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
        describe(&self.path, self.resource)
    }
}

impl AsFd for Trigger {
    /// Has `POLLPRI` when it fired; that is told once.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_of_a_pressure_file() {
        let text = "some avg10=9.00 avg60=1.00 avg300=0.34 total=1\nfull avg10=1.50 avg60=0.10 avg300=0.32 total=2\n";
        assert_eq!(full_average(text), Some(1.5));
        assert_eq!(full_average("some avg10=9.00 avg60=1.00 avg300=0.34 total=1\n"), None);
    }
}
