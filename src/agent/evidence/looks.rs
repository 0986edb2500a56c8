//! Looks that may take their time, or hang with a disk: on threads of their own, so that they never hold up the rest.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::Duration,
};

use super::{
    disk, listener,
    unit::{bell, quiet, wake},
};
use crate::model::agent::Watch;

/// More threads are not looked at; the first one always is.
const THREADS: usize = 512;

/// What a look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) watch: Watch,
    /// Whether it is so, and in words; or why it cannot be told.
    pub(super) found: Result<(bool, String), String>,
}

/// The threads; they end when this is dropped (one that hangs with a disk, when the disk answers).
#[derive(Debug)]
pub(super) struct Looks {
    news: Receiver<Finding>,
    bell: Arc<OwnedFd>,
    subject: Arc<Mutex<Option<i32>>>,
    _stop: Vec<Sender<()>>,
}

/// What to look at.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) every: Duration,
    pub(super) stuck_after: u32,
    /// Empty: the ports on which the process listened when it was first seen are not known, and no port is watched.
    pub(super) ports: Vec<u16>,
    pub(super) data: Option<PathBuf>,
}

impl Looks {
    pub(super) fn start(plan: Plan) -> Result<Self, String> {
        let bell = Arc::new(bell()?);
        let (tell, news) = channel();
        let subject = Arc::new(Mutex::new(None));
        let mut stops = Vec::new();
        let mut spawn = |name: &str, mut look: Box<dyn FnMut() -> Vec<Finding> + Send>| {
            let (stop, stopped) = channel::<()>();
            stops.push(stop);
            let (tell, ring): (Sender<Finding>, _) = (tell.clone(), Arc::clone(&bell));
            let every = plan.every;
            let run = move || {
                let mut last = BTreeMap::new();
                loop {
                    for finding in look() {
                        // The file system's answer is passed on each time: that it answers is news.
                        let is_news = last.get(&finding.watch) != Some(&finding.found) || finding.watch == Watch::Disk;
                        last.insert(finding.watch, finding.found.clone());
                        if is_news && tell.send(finding).is_err() {
                            return;
                        }
                        if is_news {
                            wake(&ring);
                        }
                    }
                    match stopped.recv_timeout(every) {
                        Err(RecvTimeoutError::Timeout) => {}
                        _ => return,
                    }
                }
            };
            std::thread::Builder::new().name(name.into()).spawn(run).map_err(|e| format!("no thread for {name}: {e}"))
        };
        let (about, ports) = (Arc::clone(&subject), plan.ports);
        let mut stuck = Stuck::new(plan.stuck_after);
        spawn(
            "coroner-looks",
            Box::new(move || {
                let pid: Option<i32> = *about.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(pid) = pid else { return Vec::new() };
                let mut found = vec![Finding { watch: Watch::Stuck, found: Ok(stuck.look(pid)) }];
                if !ports.is_empty() {
                    found.push(Finding { watch: Watch::Listener, found: listeners(pid, &ports) });
                }
                found
            }),
        )?;
        if let Some(data) = plan.data {
            let look = move || {
                let found = disk::trouble(&data).map(|trouble| {
                    let is_so = trouble.is_some();
                    (is_so, trouble.unwrap_or_else(|| "it has room and takes writes".into()))
                });
                vec![Finding { watch: Watch::Disk, found }]
            };
            spawn("coroner-disk", Box::new(look))?;
        }
        Ok(Self { news, bell, subject, _stop: stops })
    }

    /// Whom to look at.
    pub(super) fn about(&self, pid: Option<i32>) {
        *self.subject.lock().unwrap_or_else(PoisonError::into_inner) = pid;
    }

    /// What was found since.
    pub(super) fn read(&self) -> Vec<Finding> {
        quiet(&self.bell);
        self.news.try_iter().collect()
    }
}

impl AsFd for Looks {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

fn listeners(pid: i32, ports: &[u16]) -> Result<(bool, String), String> {
    let listening = listener::listening(pid)?;
    let gone: Vec<String> = ports.iter().filter(|port| !listening.contains(port)).map(u16::to_string).collect();
    Ok(if gone.is_empty() {
        (false, "its ports listen".into())
    } else {
        (true, format!("nothing listens on port {}", gone.join(", ")))
    })
}

/// Threads in an uninterruptible wait. A thread that uses a disk is in one often; one that is in the *same* one at
/// several looks, with not one change of context in between, is stuck.
#[derive(Debug)]
pub(super) struct Stuck {
    after: u32,
    waiting: BTreeMap<i32, (u64, u32)>,
}

impl Stuck {
    pub(super) fn new(after: u32) -> Self {
        Self { after: after.max(2), waiting: BTreeMap::new() }
    }

    pub(super) fn look(&mut self, pid: i32) -> (bool, String) {
        let mut waiting = BTreeMap::new();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks.take(THREADS) {
            let Some(thread) = task.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Some(status) = std::fs::read_to_string(task.path().join("status")).ok() else { continue };
            if let Some(switches) = in_wait(&status) {
                let before = self.waiting.get(&thread).filter(|(then, _)| *then == switches);
                waiting.insert(thread, (switches, before.map_or(1, |(_, looks)| looks + 1)));
            }
        }
        self.waiting = waiting;
        let stuck: Vec<i32> =
            self.waiting.iter().filter(|(_, (_, looks))| *looks >= self.after).map(|(thread, _)| *thread).collect();
        let Some(first) = stuck.first() else { return (false, "no thread is stuck".into()) };
        let wait = std::fs::read_to_string(format!("/proc/{pid}/task/{first}/wchan")).unwrap_or_default();
        let place = if wait.is_empty() || wait == "0" { String::new() } else { format!(" in {wait}") };
        let more = if stuck.len() > 1 { format!(" and {} more", stuck.len() - 1) } else { String::new() };
        (true, format!("thread {first}{more} is stuck in D state{place}"))
    }
}

/// The number of changes of context of a thread in an uninterruptible wait.
fn in_wait(status: &str) -> Option<u64> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    field("State:")?.starts_with('D').then_some(())?;
    let number = |name| field(name).and_then(|text| text.parse::<u64>().ok());
    Some(number("voluntary_ctxt_switches:")?.saturating_add(number("nonvoluntary_ctxt_switches:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_uninterruptible_wait_counts() {
        let status = "Name:\tx\nState:\tD (disk sleep)\nvoluntary_ctxt_switches:\t4\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(in_wait(status), Some(7));
        assert_eq!(in_wait(&status.replace("D (disk", "S (disk")), None);
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!Stuck::new(3).look(own).0);
    }
}
