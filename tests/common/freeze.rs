//! Stopping a process, and knowing that it stands.

use std::{fs, path::Path, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// SIGSTOP, and waits until each of its threads stands still: the signal alone is under way for a moment, in which it
/// still answers.
pub(crate) fn freeze(process: u32) {
    kill(Pid::from_raw(process.try_into().unwrap()), Signal::SIGSTOP).unwrap();
    let stands = |stat: &Path| fs::read_to_string(stat).is_ok_and(|text| text.contains(") T "));
    let tasks = format!("/proc/{process}/task");
    while !fs::read_dir(&tasks).unwrap().all(|task| stands(&task.unwrap().path().join("stat"))) {
        std::thread::sleep(Duration::from_millis(2));
    }
}
