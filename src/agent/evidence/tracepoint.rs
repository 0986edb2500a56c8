//! The tracepoint `sched_process_exit`, where the host mounts tracefs: on newer kernels it fires before a dying
//! process's memory is torn down, a tenth of a millisecond after the kill whatever the size.
//!
//! We use a trace instance of our own, so nobody else's tracing is touched, filtered to one process, and remove it. The
//! notice is about one thread; `group_dead` says that it was the last of its process.

use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// The number of the first process-number namespace: the tracepoint speaks in its numbers only.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";
const PREFIX: &str = "coroner-";

/// A trace instance of our own.
#[derive(Debug)]
pub struct Tracepoint {
    directory: PathBuf,
    pipe: Option<File>,
}

/// A thread exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The thread.
    pub thread: i32,
    /// Whether it was the last of its process, if the kernel tells.
    pub group_dead: Option<bool>,
}

impl Tracepoint {
    /// Makes an instance that watches nobody yet.
    ///
    /// # Errors
    /// Why it cannot be used here.
    pub fn open() -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        if namespace != Path::new(FIRST_NAMESPACE) {
            return Err("this is not the first process-number namespace".into());
        }
        let instances = mounted().ok_or("tracefs is not mounted")?.join("instances");
        clear(&instances);
        let name = format!("{PREFIX}{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let directory = instances.join(name);
        fs::create_dir(&directory).map_err(|e| format!("{} cannot be made: {e}", directory.display()))?;
        // From here on, dropping it removes the directory.
        let mut made = Self { directory, pipe: None };
        // Kilobytes per processor: one process's exits are a handful of lines.
        made.write("buffer_size_kb", "8")?;
        // Wake at the first line. A kernel that knows no such file always does.
        let _ = made.write("buffer_percent", "0");
        made.watch(None)?;
        made.write("events/sched/sched_process_exit/enable", "1")?;
        let path = made.directory.join("trace_pipe");
        let pipe =
            OpenOptions::new().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed()).open(&path);
        made.pipe = Some(pipe.map_err(|e| format!("{} cannot be opened: {e}", path.display()))?);
        Ok(made)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.directory.join(name);
        fs::write(&path, text).map_err(|e| format!("{} cannot be written: {e}", path.display()))
    }

    /// Watches the first thread of this process, or nobody.
    ///
    /// # Errors
    /// The kernel refuses the filter.
    pub fn watch(&self, pid: Option<i32>) -> Result<(), String> {
        self.write("events/sched/sched_process_exit/filter", &format!("pid == {}", pid.unwrap_or(-1)))
    }

    /// The exits that have been told. Does not wait.
    pub fn read(&mut self) -> Vec<Exit> {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(length) if length > 0 => text.extend_from_slice(&buffer[..length]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        String::from_utf8_lossy(&text).lines().filter_map(parse).collect()
    }

    /// The readable end; readable when there is something to read.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }
}

impl Drop for Tracepoint {
    fn drop(&mut self) {
        let _ = self.write("events/sched/sched_process_exit/enable", "0");
        self.pipe = None;
        let _ = fs::remove_dir(&self.directory);
    }
}

/// Where tracefs is mounted.
fn mounted() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (path, kind) = (words.nth(1)?, words.next()?);
        (kind == "tracefs").then(|| PathBuf::from(path))
    })
}

/// Removes instances whose agents were killed.
fn clear(instances: &Path) {
    for entry in fs::read_dir(instances).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((pid, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else { continue };
        if !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) && !Path::new("/proc").join(pid).exists() {
            let _ = fs::write(entry.path().join("events/enable"), "0");
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The last words count: a program's name may hold anything.
fn parse(line: &str) -> Option<Exit> {
    line.contains(" sched_process_exit: ").then_some(())?;
    let (_, rest) = line.rsplit_once(" pid=")?;
    let mut words = rest.split_whitespace();
    let thread = words.next()?.parse().ok()?;
    let group_dead = words.find_map(|word| word.strip_prefix("group_dead=")).map(|word| word == "true" || word == "1");
    Some(Exit { thread, group_dead })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_old_and_new_kernels() {
        let new = "  sleep-812 [001] ..... 12.5: sched_process_exit: comm=a pid=3 pid=812 prio=120 group_dead=true";
        assert_eq!(parse(new), Some(Exit { thread: 812, group_dead: Some(true) }));
        let old = "  sleep-812 [001] .... 12.5: sched_process_exit: comm=sleep pid=812 prio=120";
        assert_eq!(parse(old), Some(Exit { thread: 812, group_dead: None }));
        assert_eq!(parse("CPU:1 [LOST 3 EVENTS]"), None);
    }
}
