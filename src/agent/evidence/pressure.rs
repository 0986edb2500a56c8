//! Pressure: the kernel wakes us when all of a control group waits for memory or for disk most of a second.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use super::unit::{bell, quiet, wake};

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

/// The window that everybody may have.
const ORDINARY: Duration = Duration::from_secs(2);

impl Threshold {
    /// The same share of another window.
    fn over(self, within: Duration) -> Self {
        let share = self.stalled.as_secs_f64() / self.within.as_secs_f64().max(f64::MIN_POSITIVE);
        Self { stalled: within.mul_f64(share.clamp(0.0, 1.0)), within }
    }
}

fn set(path: &Path, threshold: Threshold) -> std::io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    // The kernel overwrites the last byte with an end of text, whatever it was.
    let text = format!("full {} {}\0", threshold.stalled.as_micros(), threshold.within.as_micros());
    file.write_all(text.as_bytes())?;
    Ok(file)
}

/// The kernel's triggers on a control group or the host; they go with this.
///
/// A thread waits for them: a trigger is told to whoever polls it first, and only once, so that it would get lost
/// between a poll of our descriptor and a look at what is behind it.
#[derive(Debug)]
pub struct Triggers {
    news: Receiver<String>,
    bell: Arc<OwnedFd>,
    stop: Arc<OwnedFd>,
}

impl Triggers {
    /// Triggers on a control group's directory, or on the host's `/proc/pressure`.
    ///
    /// # Errors
    /// The kernel has no pressure files, or we may not.
    pub fn start(group: Option<&Path>, threshold: Threshold) -> Result<Self, String> {
        let files = RESOURCES.into_iter().map(|resource| {
            let path = file(group, resource);
            // Without CAP_SYS_RESOURCE the window has to be a multiple of two seconds.
            let file = set(&path, threshold).or_else(|_| set(&path, threshold.over(ORDINARY)));
            let file = file.map_err(|e| format!("{} takes no trigger: {e}", path.display()))?;
            Ok((file, describe(&path, resource)))
        });
        let files = files.collect::<Result<Vec<_>, String>>()?;
        let (bell, stop) = (Arc::new(bell()?), Arc::new(bell()?));
        let (tell, news) = channel();
        let (ring, stopped) = (Arc::clone(&bell), Arc::clone(&stop));
        let wait = move || {
            loop {
                let mut fds: Vec<PollFd<'_>> =
                    files.iter().map(|(file, _)| PollFd::new(file, PollFlags::PRI)).collect();
                fds.push(PollFd::new(&stopped, PollFlags::IN));
                if poll(&mut fds, None).is_err_and(|e| e != Errno::INTR) {
                    return;
                }
                for (fd, text) in fds.iter().zip(files.iter().map(|(_, text)| Some(text)).chain([None])) {
                    // An error: the control group is gone. The last is the word to stop.
                    let (Some(text), false) = (text, fd.revents().contains(PollFlags::ERR)) else {
                        if fd.revents().is_empty() { continue } else { return }
                    };
                    if fd.revents().contains(PollFlags::PRI) {
                        if tell.send(text.clone()).is_err() {
                            return;
                        }
                        wake(&ring);
                    }
                }
            }
        };
        std::thread::Builder::new()
            .name("coroner-pressure".into())
            .spawn(wait)
            .map_err(|e| format!("no thread to wait for pressure: {e}"))?;
        Ok(Self { news, bell, stop })
    }

    /// The stalls since, in words.
    #[must_use]
    pub fn read(&self) -> Vec<String> {
        quiet(&self.bell);
        self.news.try_iter().collect()
    }
}

impl AsFd for Triggers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Drop for Triggers {
    fn drop(&mut self) {
        wake(&self.stop);
    }
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
