//! Signals to a local process, its group or its control group.
//!
//! When it lies: a pid file of yesterday, a number that was recycled, a parent that died while its children write on,
//! a supervisor that starts it again. So the process is identified beyond its number, everything it leads or begot
//! must be gone, and without a word on the supervisor a kill is a claim.

use std::{
    collections::{BTreeSet, HashMap},
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::sleep;

use super::Fence;
use crate::{
    model::{ActError, ClusterName, Done, FenceHealth, FenceReport, MemberName, Order, Proof, Span, Target},
    sys::{
        clock::Stopwatch,
        process::{self, ControlGroup, Handle, HandleError, Identity, Seen},
    },
};

/// TERM, then KILL. Exactly one of `pid_file`, `cgroup` or `command_line` says which process.
///
/// With `pid_file` and `command_line`, what is killed is the process, everything that descends from it, and, if it
/// leads a process group or a session, all of that. A child that left for a session of its own and whose parent
/// ended before anybody looked is found only by `cgroup`, which sees everything.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Signal {
    /// File with the process id. `{member}` and `{port}` are put in. A process that began after the file was
    /// written is not the one that wrote it, and is not touched.
    pub pid_file: Option<String>,
    /// Control group below the cgroup2 mount: all of it is killed, and has to be empty afterwards.
    pub cgroup: Option<String>,
    /// The process whose whole command line equals this text, with single blanks between the words.
    pub command_line: Option<String>,
    /// The executable's file name must be this; guards against a recycled id. Default: none checked beyond the
    /// identity (boot id, pid, start time) seen when the fence was last checked.
    pub executable: Option<String>,
    /// Wait this long after TERM before KILL. Default 0s: KILL at once, because a primary believed dead is not
    /// asked to shut down.
    pub term_for: Option<Span>,
    /// What restarts the process when it dies. Without a word on this, a kill is a claim and no more.
    pub supervisor: Option<Supervisor>,
}

/// What restarts a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Supervisor {
    /// Nothing does: the operator says so, and the report repeats it.
    None,
    /// Something does: combine this method with one that inhibits it.
    Other,
}

/// How often we look whether all has ended.
const POLL: Duration = Duration::from_millis(5);

/// A pid file's time and a process's start are in different clocks and units; this much may lie between.
const SLACK_SECONDS: f64 = 2.0;

impl Signal {
    pub(super) fn build(&self) -> Result<Box<dyn Fence>, String> {
        let by = match (&self.pid_file, &self.cgroup, &self.command_line) {
            (Some(path), None, None) => By::PidFile(path.clone()),
            (None, Some(path), None) => By::Cgroup(path.clone()),
            (None, None, Some(line)) => By::CommandLine(line.clone()),
            _ => return Err("exactly one of `pid_file`, `cgroup`, `command_line` has to say which process".into()),
        };
        if by.text().trim().is_empty() {
            return Err(format!("`{}` is empty", by.name()));
        }
        let inner = Inner { by, config: self.clone(), remembered: Mutex::default() };
        Ok(Box::new(Method(Arc::new(inner))))
    }
}

/// What says which process.
#[derive(Clone, Debug)]
enum By {
    PidFile(String),
    Cgroup(String),
    CommandLine(String),
}

impl By {
    const fn name(&self) -> &'static str {
        match self {
            Self::PidFile(_) => "pid_file",
            Self::Cgroup(_) => "cgroup",
            Self::CommandLine(_) => "command_line",
        }
    }

    fn text(&self) -> &str {
        let (Self::PidFile(text) | Self::Cgroup(text) | Self::CommandLine(text)) = self;
        text
    }
}

/// What was seen of a member when it was last checked or fenced.
#[derive(Clone, Debug, Default)]
struct Remembered {
    /// The process that leads the rest.
    main: Option<Identity>,
    /// Everything of it, the leader included.
    all: BTreeSet<Identity>,
    /// Whether the control group was there.
    had_cgroup: bool,
    /// The systemd service it was in.
    service: Option<String>,
}

/// What of the member runs now.
#[derive(Debug, Default)]
struct Found {
    /// Led by these.
    roots: BTreeSet<i32>,
    /// All of it.
    running: Vec<Seen>,
    /// How we know that it is the member's, or that nothing of the member's runs.
    because: String,
}

/// Why the member's processes cannot be told.
enum Lost {
    /// There is no way to know: nothing may be killed and nothing is proved.
    Unknown(String),
    /// The configuration names something that must never be killed.
    Refused(String),
}

struct Inner {
    by: By,
    config: Signal,
    remembered: Mutex<HashMap<(ClusterName, MemberName), Remembered>>,
}

struct Method(Arc<Inner>);

impl Inner {
    fn recall(&self, target: &Target) -> Remembered {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.get(&(target.cluster.clone(), target.member.clone())).cloned().unwrap_or_default()
    }

    fn remember(&self, target: &Target, change: impl FnOnce(&mut Remembered)) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        change(remembered.entry((target.cluster.clone(), target.member.clone())).or_default());
    }

    fn control_group(&self, target: &Target) -> Result<Option<ControlGroup>, String> {
        match &self.by {
            By::Cgroup(path) => ControlGroup::at(&target.expand(path)).map(Some),
            By::PidFile(_) | By::CommandLine(_) => Ok(None),
        }
    }

    /// What of the member runs. Kills nobody. Everything that is named here was identified.
    fn find(&self, target: &Target) -> Result<Found, Lost> {
        let all = process::all().map_err(Lost::Unknown)?;
        let known = self.recall(target);
        let mut found = match &self.by {
            By::Cgroup(_) => self.find_in_group(target, &known, &all)?,
            By::PidFile(path) => self.find_by_file(&target.expand(path), &known, &all)?,
            By::CommandLine(line) => self.find_by_line(&target.expand(line), &known, &all)?,
        };
        // Whatever was seen of it before and still runs is its own, wherever it has gone since.
        let also: Vec<_> = all.iter().filter(|p| known.all.contains(&p.identity)).cloned().collect();
        for survivor in also {
            if !found.running.contains(&survivor) {
                found.running.push(survivor);
            }
        }
        refuse_ourselves(&found, &all)?;
        let main = found.roots.first().and_then(|pid| found.running.iter().find(|p| p.identity.pid == *pid));
        let service = found.running.iter().find_map(|p| process::service_of(p.identity.pid));
        self.remember(target, |r| {
            if let Some(main) = main {
                r.main = Some(main.identity.clone());
            }
            r.all.retain(process::runs);
            r.all.extend(found.running.iter().map(|p| p.identity.clone()));
            r.service = service.or_else(|| r.service.take());
        });
        Ok(found)
    }

    fn find_in_group(&self, target: &Target, known: &Remembered, all: &[Seen]) -> Result<Found, Lost> {
        let group = self.control_group(target).map_err(Lost::Refused)?;
        let Some(group) = group else { return Ok(Found::default()) };
        let name = group.directory().display();
        match group.populated().map_err(Lost::Unknown)? {
            None if known.had_cgroup => {
                Ok(Found { because: format!("the control group {name} was there and is gone"), ..Found::default() })
            }
            None => Err(Lost::Unknown(format!("there is no control group {name}, and it was never seen"))),
            Some(_) => {
                self.remember(target, |r| r.had_cgroup = true);
                let pids = group.processes();
                let running: Vec<_> = all.iter().filter(|p| pids.contains(&p.identity.pid)).cloned().collect();
                let because = format!("the control group {name} is there");
                Ok(Found { roots: BTreeSet::new(), running, because })
            }
        }
    }

    fn find_by_file(&self, path: &str, known: &Remembered, all: &[Seen]) -> Result<Found, Lost> {
        let gone = |why: String| Ok(Found { because: why, ..Found::default() });
        let read = std::fs::read_to_string(path).and_then(|text| Ok((text, std::fs::metadata(path)?)));
        let (text, metadata) = match (read, &known.main) {
            (Ok(read), _) => read,
            (Err(e), None) => {
                return Err(Lost::Unknown(format!("{path} cannot be read ({e}), and the process was never seen")));
            }
            (Err(e), Some(main)) => {
                let found = self.family_of(main, known, all);
                let why = format!("{path} cannot be read ({e}), but the process was seen before as {}", main.pid);
                return Ok(Found { because: why, ..found });
            }
        };
        let pid: i32 = match text.split_whitespace().next().and_then(|word| word.parse().ok()) {
            Some(pid) if pid > 1 => pid,
            _ => return Err(Lost::Unknown(format!("{path} holds no process id"))),
        };
        let Some(process) = all.iter().find(|p| p.identity.pid == pid) else {
            return self.orphans(pid, known, all).map_or_else(
                || gone(format!("process {pid}, which {path} names, has ended")),
                |orphans| orphans.map_err(Lost::Unknown),
            );
        };
        if known.main.as_ref() != Some(&process.identity) {
            #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
            let written = metadata.mtime() as f64;
            if process::started_unix(&process.identity).is_some_and(|start| start > written + SLACK_SECONDS) {
                // Its number was recycled, and the kernel recycles none that still leads a group: the rest of the
                // group is gone too. What we saw ourselves is still looked for, by its identity.
                return match &known.main {
                    Some(main) if main.pid == pid => {
                        gone(format!("process {pid} of {path} has ended; its number belongs to another one now"))
                    }
                    _ => Err(Lost::Unknown(format!(
                        "{path} is older than process {pid}, so that is another process: its number was recycled"
                    ))),
                };
            }
        }
        self.check_executable(&process.identity)?;
        Ok(Found {
            roots: [pid].into(),
            running: process::family(all, &[pid].into()),
            because: format!("process {pid} by {path}"),
        })
    }

    fn find_by_line(&self, line: &str, known: &Remembered, all: &[Seen]) -> Result<Found, Lost> {
        let wanted: Vec<&str> = line.split_whitespace().collect();
        let is_it = |p: &&Seen| {
            let words = process::command_line(p.identity.pid);
            words.iter().flat_map(|word| word.split_whitespace()).eq(wanted.iter().copied())
        };
        let matching: Vec<&Seen> = all.iter().filter(is_it).collect();
        // A child that has not begun to execute anything else shows its parent's command line.
        let is_child = |p: &&&Seen| matching.iter().any(|parent| parent.identity.pid == p.parent);
        let roots: Vec<&&Seen> = matching.iter().filter(|p| !is_child(p)).collect();
        match (roots.as_slice(), &known.main) {
            ([process], _) => {
                self.check_executable(&process.identity)?;
                let pid = process.identity.pid;
                Ok(Found {
                    roots: [pid].into(),
                    running: process::family(all, &[pid].into()),
                    because: format!("process {pid} by its command line"),
                })
            }
            ([], Some(main)) => {
                let why = format!("the process was seen before as {}", main.pid);
                Ok(Found { because: why, ..self.family_of(main, known, all) })
            }
            ([], None) => Err(Lost::Unknown(format!("no process has the command line `{line}`, and none was seen"))),
            (many, _) => Err(Lost::Unknown(format!("{} processes have the command line `{line}`", many.len()))),
        }
    }

    /// What runs of a process that was seen before.
    fn family_of(&self, main: &Identity, known: &Remembered, all: &[Seen]) -> Found {
        let runs = all.iter().any(|p| p.identity == *main);
        let roots: BTreeSet<i32> = if runs || self.orphans(main.pid, known, all).is_some_and(|o| o.is_ok()) {
            [main.pid].into()
        } else {
            BTreeSet::new()
        };
        let running = process::family(all, &roots);
        Found { roots, running, because: String::new() }
    }

    /// What still runs in the group of a leader that has ended (P3). The kernel gives a number to nobody else while
    /// a group or session bears it, so if we saw the leader, these are its own; otherwise the executable has to say.
    fn orphans(&self, leader: i32, known: &Remembered, all: &[Seen]) -> Option<Result<Found, String>> {
        if all.iter().any(|p| p.identity.pid == leader) {
            return None;
        }
        let running = process::family(all, &[leader].into());
        if running.is_empty() {
            return None;
        }
        let was_seen = known.main.as_ref().is_some_and(|main| main.pid == leader);
        let is_it = |p: &Seen| process::executable(p.identity.pid) == self.config.executable;
        let text = process::describe(&running);
        Some(if was_seen || (self.config.executable.is_some() && running.iter().any(is_it)) {
            let because = format!("process {leader} has ended, but of its group there still ran {text}");
            Ok(Found { roots: [leader].into(), running, because })
        } else {
            Err(format!(
                "process {leader} has ended, but its group still has {text}, and nothing says that these are the member's: name `executable`"
            ))
        })
    }

    fn check_executable(&self, identity: &Identity) -> Result<(), Lost> {
        let Some(wanted) = &self.config.executable else { return Ok(()) };
        match process::executable(identity.pid) {
            Some(name) if name == *wanted => Ok(()),
            Some(name) => {
                Err(Lost::Unknown(format!("{identity} executes `{name}` and not `{wanted}`: it is another process")))
            }
            None => Err(Lost::Unknown(format!("what {identity} executes cannot be read"))),
        }
    }

    /// Sends a signal to everything that was found, through descriptors.
    fn send(&self, target: &Target, running: &[Seen], signal: process::Signal) -> Result<(), String> {
        let group = self.control_group(target)?;
        if let Some(group) = group.filter(|g| matches!(g.populated(), Ok(Some(true)))) {
            return if signal == process::Signal::KILL { group.kill() } else { group.signal(signal) };
        }
        let mut refused = None;
        for p in running {
            match Handle::open(&p.identity).and_then(|handle| handle.signal(signal)) {
                Ok(()) | Err(HandleError::Gone) => {}
                Err(HandleError::Refused(e)) => refused = Some(format!("{}: {e}", p.identity)),
            }
        }
        refused.map_or(Ok(()), Err)
    }

    fn is_populated(&self, target: &Target) -> bool {
        self.control_group(target)
            .ok()
            .flatten()
            .is_some_and(|g| g.populated() != Ok(Some(false)) && g.populated() != Ok(None))
    }
}

/// We never kill ourselves, what started us, or the first process.
fn refuse_ourselves(found: &Found, all: &[Seen]) -> Result<(), Lost> {
    let mut pid = i32::try_from(std::process::id()).unwrap_or(0);
    while pid > 1 {
        if found.running.iter().any(|p| p.identity.pid == pid) {
            return Err(Lost::Refused("this arbiter itself, or what started it, would be killed".into()));
        }
        pid = all.iter().find(|p| p.identity.pid == pid).map_or(0, |p| p.parent);
    }
    if found.running.iter().any(|p| p.identity.pid == 1) {
        return Err(Lost::Refused("the host's first process would be killed".into()));
    }
    Ok(())
}

/// Looks in a thread of its own: reading /proc of a process in an uninterruptible wait may itself wait.
async fn find(inner: &Arc<Inner>, target: &Target) -> Result<Found, Lost> {
    let (inner, target) = (Arc::clone(inner), target.clone());
    tokio::task::spawn_blocking(move || inner.find(&target))
        .await
        .unwrap_or_else(|_| Err(Lost::Unknown("looking for the process failed".into())))
}

/// In words, why what is left does not go.
fn why_left(left: &[Seen], refused: Option<&str>) -> String {
    let text = process::describe(left);
    if left.iter().any(|p| p.state == 'D') {
        return format!("unkillable: {text} took KILL and waits in the kernel, most often for a disk");
    }
    match refused {
        Some(e) => format!("still there: {text}; {e}"),
        None => format!("still there: {text}"),
    }
}

impl Method {
    fn proof(&self) -> Proof {
        if self.0.config.supervisor == Some(Supervisor::None) { Proof::Stopped } else { Proof::Claim }
    }

    /// Everything is gone: what that is worth, and why.
    fn gone(&self, target: &Target, what: &str) -> FenceReport {
        let restart = match self.0.config.supervisor {
            Some(Supervisor::None) => "the operator says that nothing restarts it",
            Some(Supervisor::Other) => "something restarts it, so this is a claim: inhibit it by another method",
            None => "nothing is known of what restarts it, so this is a claim: say `supervisor: none` if nothing does",
        };
        let service = self
            .0
            .recall(target)
            .service
            .map_or_else(String::new, |unit| format!("; it was in the systemd unit {unit}, which may restart it"));
        FenceReport::confirmed(self.proof(), format!("{what}; {restart}{service}"))
    }
}

#[async_trait]
impl Fence for Method {
    fn label(&self) -> String {
        format!("signal by {} {}", self.0.by.name(), self.0.by.text())
    }

    fn best_proof(&self) -> Proof {
        self.proof()
    }

    async fn check(&self, target: &Target, _deadline: Duration) -> FenceHealth {
        let health = |usable, detail| FenceHealth { usable, detail };
        match find(&self.0, target).await {
            Ok(found) if found.running.is_empty() && found.roots.is_empty() && !self.0.is_populated(target) => {
                health(Some(true), format!("{}: nothing of it runs", found.because))
            }
            Ok(found) => {
                for p in &found.running {
                    if let Err(HandleError::Refused(e)) = Handle::open(&p.identity).and_then(may_signal) {
                        return health(Some(false), format!("{}: {e}", p.identity));
                    }
                }
                let service = self.0.recall(target).service.map_or_else(String::new, |unit| {
                    format!("; it is in the systemd unit {unit}, which may restart it: the `systemd` fence is better")
                });
                health(Some(true), format!("{}: {}{service}", found.because, process::describe(&found.running)))
            }
            Err(Lost::Refused(why) | Lost::Unknown(why)) => health(Some(false), why),
        }
    }

    async fn fence(&self, order: &Order, deadline: Duration) -> FenceReport {
        let watch = Stopwatch::start();
        let target = &order.target;
        // At least half of the time belongs to KILL and to seeing that it worked.
        let term_for = self.0.config.term_for.map_or(Duration::ZERO, |span| span.0.min(deadline / 2));
        let mut refused = None;
        let mut seen: Option<(String, String)> = None;
        let mut left = Vec::new();
        let mut has_termed = term_for.is_zero();
        loop {
            match find(&self.0, target).await {
                Ok(found) => {
                    let is_empty = found.running.is_empty() && !self.0.is_populated(target);
                    if is_empty {
                        let what = match seen {
                            Some((because, what)) => format!("{because}: killed {what}; all of it has ended"),
                            None => format!("{}: nothing of it runs", found.because),
                        };
                        return self.gone(target, &what);
                    }
                    seen.get_or_insert_with(|| (found.because.clone(), process::describe(&found.running)));
                    if watch.elapsed() >= term_for {
                        refused = self.0.send(target, &found.running, process::Signal::KILL).err();
                    } else if !has_termed {
                        has_termed = true;
                        // A stopped process takes TERM only when it is continued, which we never do: it would serve.
                        refused = self.0.send(target, &found.running, process::Signal::TERM).err();
                    }
                    left = found.running;
                }
                // After the first kill, the pid file may be half gone; only what was seen counts then.
                Err(Lost::Unknown(why) | Lost::Refused(why)) if seen.is_none() => {
                    return FenceReport::unknown(format!("nothing was killed: {why}"));
                }
                Err(Lost::Unknown(why) | Lost::Refused(why)) => refused = Some(why),
            }
            if watch.elapsed() + POLL >= deadline {
                return FenceReport::unknown(why_left(&left, refused.as_deref()));
            }
            sleep(POLL).await;
        }
    }

    async fn unfence(&self, _: &Order, _: Duration) -> Result<Done, ActError> {
        Ok(Done::new("nothing to lift: a killed process stays dead until somebody starts it"))
    }
}

/// Whether we may signal it, found with the signal that does nothing.
fn may_signal(handle: Handle) -> Result<(), HandleError> {
    // Signal 0 cannot be sent through this interface; the owner says the same.
    let pid = handle.identity().pid;
    let uid = rustix::process::geteuid();
    let owner = std::fs::metadata(format!("/proc/{pid}")).map_err(|_| HandleError::Gone)?.uid();
    if uid.is_root() || uid.as_raw() == owner {
        Ok(())
    } else {
        Err(HandleError::Refused(format!("it belongs to user {owner}, and we are user {}", uid.as_raw())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P7: a process that takes KILL and stays is not stopped, and the report says so.
    #[test]
    fn p7_an_unkillable_process_is_called_so() {
        let identity = Identity { boot_id: "b".into(), pid: 7, start_ticks: 1 };
        let mut p = Seen { identity, parent: 1, group: 7, session: 7, state: 'D', name: "broker".into() };
        assert!(why_left(&[p.clone()], None).starts_with("unkillable: 7 (broker"));
        p.state = 'S';
        assert_eq!(why_left(&[p], Some("not permitted")), "still there: 7 (broker, sleeping); not permitted");
    }

    #[test]
    fn exactly_one_way_to_find_the_process() {
        assert!(Signal::default().build().is_err());
        let two = Signal { pid_file: Some("/a".into()), cgroup: Some("b".into()), ..Signal::default() };
        assert!(two.build().is_err());
        assert!(Signal { command_line: Some(" ".into()), ..Signal::default() }.build().is_err());
    }
}
