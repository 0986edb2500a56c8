//! What only the host can do to its broker: keep it from starting again, kill all of it, see that nothing is left.
//!
//! Blocking, with deadlines, for a worker thread of the agent. Everything is idempotent. The order is: inhibit the
//! restart, close the gate (not here), kill, require it empty. That KILL was sent proves nothing: a process in an
//! uninterruptible wait takes it and stays (P7), children outlive their parent (P3), a service manager starts it again
//! (P5). So `stopped` is claimed only of an empty control group that nothing starts again.

use std::{
    fs::File,
    io::ErrorKind,
    os::unix::{fs::FileExt, process::CommandExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::runtime::Runtime;

use super::{evidence::cgroup, preserve::Subject, spec::Guarded};
use crate::{
    fence::{AnyFence, Fence, signal},
    model::{
        ActError, ClusterName, Done, Epoch, FenceHealth, FenceReport, FenceVerdict, IncidentId, MemberName, Order,
        Proof, Target, time::human,
    },
    sys::{
        clock::Stopwatch,
        process::{self, ControlGroup, Seen},
        systemd::Unit,
    },
};

/// A group that is not empty yet is killed again this often: a service manager runs programs of its own in it.
const AGAIN: Duration = Duration::from_millis(20);
/// systemd is asked this often whether a unit has come to rest.
const REST: Duration = Duration::from_millis(5);
/// A rehearsal's victims sleep no longer, should everything fail.
const VICTIM_SLEEPS: &str = "60";

/// The hands on one broker. Keep it for as long as the agent runs: what a pid file named is remembered in it.
pub struct Host {
    guarded: Guarded,
    target: Target,
    runtime: Runtime,
    /// How a broker with a pid file is killed.
    by_file: Option<Box<dyn Fence>>,
    /// The unit's control group when it was last seen: a hung bus does not save the broker.
    seen_group: Mutex<Option<String>>,
}

/// How a rehearsal went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsal {
    /// From the kill until the group was empty.
    pub took: Duration,
    /// What was done, in words.
    pub detail: String,
}

impl Host {
    /// For this broker. Touches nothing.
    ///
    /// # Errors
    /// The configuration cannot work, or no runtime could be made.
    pub fn new(cluster: &ClusterName, member: &MemberName, guarded: &Guarded) -> Result<Self, String> {
        let by_file = match guarded {
            Guarded::PidFile { path, executable } => {
                let config = signal::Signal {
                    pid_file: Some(path.to_string_lossy().into_owned()),
                    executable: executable.clone(),
                    supervisor: Some(signal::Supervisor::None),
                    ..signal::Signal::default()
                };
                Some(AnyFence::Signal(config).build(None, None)?)
            }
            Guarded::Unit(_) | Guarded::Cgroup(_) => None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| format!("no runtime for the host's fences: {e}"))?;
        let target = Target { cluster: cluster.clone(), member: member.clone(), address: String::new() };
        Ok(Self { guarded: guarded.clone(), target, runtime, by_file, seen_group: Mutex::default() })
    }

    /// At the agent's start: has a unit obey a flag, so that inhibiting it later takes no reload of systemd; remembers
    /// who a pid file names. Says what was done.
    ///
    /// # Errors
    /// It did not work; fencing then takes longer, or knows less.
    pub fn prepare(&self, deadline: Duration) -> Result<String, String> {
        match &self.guarded {
            Guarded::Unit(name) => self.on_bus(deadline, async {
                let unit = Unit::open(name.clone()).await?;
                self.remember(&unit.standing().await?.control_group);
                unit.obey_flag().await?;
                Ok(format!("{name} is kept from starting by a flag when that is needed"))
            }),
            Guarded::PidFile { .. } | Guarded::Cgroup(_) => Ok(self.check(deadline).detail),
        }
    }

    /// Keeps the broker from starting again, and calls off a restart that is scheduled: a unit is also told to stop.
    /// In words, how.
    ///
    /// # Errors
    /// Something may start it again.
    pub fn inhibit_restart(&self, deadline: Duration) -> Result<String, String> {
        match &self.guarded {
            Guarded::Unit(name) => self.on_bus(deadline, async {
                let unit = Unit::open(name.clone()).await?;
                let load = unit.text("LoadState").await?;
                if !matches!(load.as_str(), "loaded" | "masked") {
                    return Err(format!("the unit {name} is `{load}`: is this its name, and this its host?"));
                }
                let how = unit.inhibit().await;
                // Asked for even if the mask failed: while it stops, it is not restarted.
                unit.stop().await?;
                Ok(format!("{name}: {}", how?))
            }),
            Guarded::PidFile { .. } | Guarded::Cgroup(_) => {
                let units = self.units();
                let restarts = self.on_bus(deadline, async { Ok(restarting(&units).await) })?;
                match restarts {
                    Some(why) => Err(why),
                    None => Ok("nothing that we know of restarts it".into()),
                }
            }
        }
    }

    /// Sends KILL to all of it. In words, to whom. That says nothing of whether it has ended: [`Self::require_empty`].
    ///
    /// # Errors
    /// We may not, or what there is to kill cannot be told.
    pub fn kill_all(&self, deadline: Duration) -> Result<String, String> {
        if let Some(fence) = &self.by_file {
            let report = self.runtime.block_on(fence.fence(&self.order(), deadline));
            // What restarts it is told by the step before; the fence only knows what it was configured with.
            let detail = report.detail.split("; the operator says").next().unwrap_or_default().to_owned();
            return match report.verdict {
                FenceVerdict::Confirmed => Ok(detail),
                _ => Err(detail),
            };
        }
        let Some(group) = self.group(deadline)? else {
            return Ok("it has no control group: nothing of it runs".into());
        };
        self.kill_group(&group)
    }

    fn kill_group(&self, group: &ControlGroup) -> Result<String, String> {
        let victims = alive(group);
        refuse_ourselves(&victims)?;
        // On a kernel without `cgroup.kill` each is signalled by a descriptor, which wants a runtime.
        let _runtime = self.runtime.enter();
        group.kill()?;
        Ok(if victims.is_empty() { "nothing ran".into() } else { format!("killed {}", process::describe(&victims)) })
    }

    /// Waits until nothing of it is left, killing again what appears.
    ///
    /// # Errors
    /// What is left, and why it does not go: `unkillable: stuck in D state`.
    pub fn require_empty(&self, deadline: Duration) -> Result<String, String> {
        if let Some(fence) = &self.by_file {
            let health = self.runtime.block_on(fence.check(&self.target, deadline));
            if health.usable == Some(true) && health.detail.ends_with("nothing of it runs") {
                return Ok(health.detail);
            }
            return self.kill_all(deadline);
        }
        let watch = Stopwatch::start();
        let Some(group) = self.group(deadline)? else {
            return Ok("it has no control group: nothing of it runs".into());
        };
        loop {
            let left = deadline.saturating_sub(watch.elapsed());
            if wait_empty(&group, left.min(AGAIN))? {
                return Ok(format!("{} is empty", group.directory().display()));
            }
            if left.is_zero() {
                return Err(why_left(&alive(&group)));
            }
            self.kill_group(&group)?;
        }
    }

    /// All of it in order: inhibit, kill, require it empty, read back. `stopped` only if both the group is empty and the
    /// restart inhibited.
    #[must_use]
    pub fn stop(&self, deadline: Duration) -> FenceReport {
        let watch = Stopwatch::start();
        let left = || deadline.saturating_sub(watch.elapsed());
        // Half of the time for systemd; if its bus hangs, the broker is killed all the same.
        let inhibited = self.inhibit_restart(deadline / 2);
        let killed = self.kill_all(left());
        let empty = self.require_empty(left());
        let rested = match (&self.guarded, &inhibited) {
            (Guarded::Unit(name), Ok(_)) => self.rest(name, left()),
            _ => Ok(String::new()),
        };
        let said = |part: &Result<String, String>| match part {
            Ok(text) | Err(text) => text.clone(),
        };
        let told: Vec<String> = [&inhibited, &killed, &empty, &rested].map(said).into();
        let told = told.iter().filter(|text| !text.is_empty()).fold(Vec::new(), |mut all: Vec<&String>, text| {
            if !all.contains(&text) {
                all.push(text);
            }
            all
        });
        let detail = told.into_iter().cloned().collect::<Vec<_>>().join("; ");
        match (inhibited, empty, rested) {
            (_, Err(_), _) => FenceReport::unknown(detail),
            (Ok(_), Ok(_), Ok(_)) => FenceReport::confirmed(Proof::Stopped, detail),
            (_, Ok(_), _) => FenceReport::confirmed(
                Proof::Claim,
                format!("{detail}; it is gone, but something may start it again, so this is a claim"),
            ),
        }
    }

    /// A unit at rest is one that systemd itself calls inactive, without a process, and kept from starting.
    fn rest(&self, name: &str, deadline: Duration) -> Result<String, String> {
        self.on_bus(deadline, async {
            let unit = Unit::open(name.to_owned()).await?;
            loop {
                let state = unit.state().await?;
                if state.has_stopped() {
                    return match unit.inhibited_by().await? {
                        Some(_) => Ok(state.describe()),
                        None => Err(format!("nothing keeps {name} from starting any more: somebody lifted it")),
                    };
                }
                tokio::time::sleep(REST).await;
            }
        })
    }

    /// Lets the broker start again; starts nothing.
    ///
    /// # Errors
    /// Whether it may is not known.
    pub fn lift(&self, deadline: Duration) -> Result<Done, ActError> {
        match &self.guarded {
            Guarded::Unit(name) => {
                let allow = async { Unit::open(name.clone()).await?.allow().await };
                self.on_bus(deadline, allow)
                    .map(|()| Done::new(format!("{name} may start again; it was not started")))
                    .map_err(|e| ActError::uncertain(format!("let {name} start again"), e))
            }
            Guarded::PidFile { .. } | Guarded::Cgroup(_) => {
                Ok(Done::new("nothing to lift: what was killed stays dead until somebody starts it"))
            }
        }
    }

    /// Lets the broker start again, and has a unit of systemd started: what is wanted of a member that was fenced is that
    /// it comes back, behind its shut gate.
    ///
    /// # Errors
    /// It may be kept from starting, or was not started.
    pub fn bring_back(&self, deadline: Duration) -> Result<String, String> {
        let lifted = self.lift(deadline).map_err(|error| error.to_string())?;
        let Guarded::Unit(name) = &self.guarded else { return Ok(lifted.detail) };
        let start = async { Unit::open(name.clone()).await?.start().await };
        self.on_bus(deadline, start).map(|()| format!("{name} may start again, and was told to"))
    }

    /// Whether all of that could work now, found without harm.
    #[must_use]
    pub fn check(&self, deadline: Duration) -> FenceHealth {
        let health = |usable, detail: String| FenceHealth { usable, detail };
        if let Some(fence) = &self.by_file {
            return self.runtime.block_on(fence.check(&self.target, deadline));
        }
        if !rustix::process::geteuid().is_root() {
            return health(None, "this agent does not run as root: whether it may kill the broker is not known".into());
        }
        match self.group(deadline) {
            Err(e) => health(Some(false), e),
            Ok(None) => health(Some(true), "it does not run".into()),
            Ok(Some(group)) => {
                let victims = alive(&group);
                match refuse_ourselves(&victims) {
                    Err(e) => health(Some(false), e),
                    Ok(()) if !group.directory().exists() => {
                        health(Some(false), format!("there is no control group {}", group.directory().display()))
                    }
                    Ok(()) => health(Some(true), format!("would kill {}", process::describe(&victims))),
                }
            }
        }
    }

    /// What there is to preserve of it, as far as it can be told within the time.
    #[must_use]
    pub fn subject(&self, deadline: Duration) -> Subject {
        let unit = match &self.guarded {
            Guarded::Unit(name) => Some(name.clone()),
            Guarded::PidFile { .. } | Guarded::Cgroup(_) => self.units().into_iter().next().map(|(unit, _)| unit),
        };
        if let Guarded::PidFile { path, .. } = &self.guarded {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let pid = text.split_whitespace().next().and_then(|word| word.parse::<i32>().ok());
            let all = process::all().unwrap_or_default();
            let roots = pid.into_iter().collect();
            return Subject { processes: process::family(&all, &roots), group: None, unit };
        }
        let group = self.group(deadline).ok().flatten();
        Subject { processes: group.as_ref().map(alive).unwrap_or_default(), group, unit }
    }

    /// The control group; `None`: the unit has none, so it has no process.
    fn group(&self, deadline: Duration) -> Result<Option<ControlGroup>, String> {
        match &self.guarded {
            Guarded::Cgroup(path) => ControlGroup::at(&path.to_string_lossy()).map(Some),
            Guarded::Unit(name) => {
                let seen = self.seen_group.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some(group) = seen.map(|path| ControlGroup::at(&path)).transpose()?
                    && group.directory().exists()
                {
                    return Ok(Some(group));
                }
                let path = self
                    .on_bus(deadline, async { Ok(Unit::open(name.clone()).await?.standing().await?.control_group) })?;
                self.remember(&path);
                if path.is_empty() { Ok(None) } else { ControlGroup::at(&path).map(Some) }
            }
            Guarded::PidFile { .. } => Err("a broker with a pid file is no control group".into()),
        }
    }

    fn remember(&self, group: &str) {
        if !group.is_empty() {
            *self.seen_group.lock().unwrap_or_else(PoisonError::into_inner) = Some(group.to_owned());
        }
    }

    /// The services that a broker may belong to that is not guarded as one.
    fn units(&self) -> Vec<(String, Vec<i32>)> {
        match &self.guarded {
            Guarded::Cgroup(path) => {
                let unit = path.iter().filter_map(|part| part.to_str()).rfind(|part| part.ends_with(".service"));
                let pids = ControlGroup::at(&path.to_string_lossy()).map(|group| group.processes()).unwrap_or_default();
                unit.map(|unit| (unit.to_owned(), pids.into_iter().collect())).into_iter().collect()
            }
            Guarded::PidFile { path, .. } => {
                let text = std::fs::read_to_string(path).unwrap_or_default();
                let pid = text.split_whitespace().next().and_then(|word| word.parse::<i32>().ok());
                let unit = pid.and_then(|pid| process::service_of(pid).map(|unit| (unit, vec![pid])));
                unit.into_iter().collect()
            }
            Guarded::Unit(_) => Vec::new(),
        }
    }

    fn order(&self) -> Order {
        Order { target: self.target.clone(), epoch: Epoch::default(), incident: IncidentId::from("local") }
    }

    fn on_bus<T>(&self, deadline: Duration, ask: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        self.runtime.block_on(async {
            tokio::time::timeout(deadline, ask).await.unwrap_or_else(|_| {
                Err(format!("systemd did not answer, or not come to rest, within {}", human(deadline)))
            })
        })
    }
}

/// Whether systemd restarts one of these when its main process, which is the broker, ends. A service of which the broker
/// is a mere child is not restarted for it.
async fn restarting(units: &[(String, Vec<i32>)]) -> Option<String> {
    for (name, pids) in units {
        let advice = format!("guard the broker as `unit: {name}`");
        let asked = async {
            let unit = Unit::open(name.clone()).await?;
            Ok::<_, String>((unit.standing().await?, unit.restart().await))
        };
        match asked.await {
            Ok((standing, restart)) => {
                let is_main = i32::try_from(standing.main_pid).is_ok_and(|main| pids.contains(&main));
                if is_main && !matches!(restart.as_str(), "" | "no") {
                    return Some(format!("systemd restarts it (Restart={restart}): {advice}"));
                }
            }
            Err(e) => {
                return Some(format!(
                    "it is in {name}, and whether systemd restarts it cannot be asked ({e}): {advice}"
                ));
            }
        }
    }
    None
}

fn alive(group: &ControlGroup) -> Vec<Seen> {
    group.processes().into_iter().filter_map(process::look).filter(|seen| !seen.has_ended()).collect()
}

/// The agent never kills itself, nor the host's first process.
fn refuse_ourselves(victims: &[Seen]) -> Result<(), String> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    match victims.iter().find(|p| p.identity.pid == own || p.identity.pid == 1) {
        Some(p) => Err(format!(
            "nothing was killed: process {} ({}) is in the group, and that is not the broker",
            p.identity.pid, p.name
        )),
        None => Ok(()),
    }
}

/// Waits until the kernel calls the group empty; false if it does not in time.
fn wait_empty(group: &ControlGroup, within: Duration) -> Result<bool, String> {
    let path = group.directory().join("cgroup.events");
    let events = match File::open(&path) {
        Ok(events) => events,
        // Only an empty group can be removed.
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(true),
        Err(e) => return Err(format!("{} cannot be opened: {e}", path.display())),
    };
    let watch = Stopwatch::start();
    loop {
        let mut buffer = [0; 256];
        let is_populated = match events.read_at(&mut buffer, 0) {
            Ok(length) => !String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == "populated 0"),
            Err(_) => false,
        };
        if !is_populated {
            return Ok(true);
        }
        let Some(left) = within.checked_sub(watch.elapsed()).filter(|left| !left.is_zero()) else { return Ok(false) };
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        let _ = poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left));
    }
}

/// In words, why what is left does not go.
fn why_left(left: &[Seen]) -> String {
    let text = process::describe(left);
    if left.iter().any(|p| p.state == 'D') {
        return format!(
            "unkillable: stuck in D state: {text} took KILL and waits in the kernel, most often for a disk"
        );
    }
    format!("still there after KILL: {text}")
}

/// The rehearsal's victims and their group, cleared away whatever happens.
struct Victim {
    child: Child,
    group: Option<PathBuf>,
}

impl Drop for Victim {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            let _ = std::fs::write(group.join("cgroup.kill"), "1");
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // Not yet reaped, so the group's number is still its own.
            let _ = rustix::process::kill_process_group(pid, process::Signal::KILL);
        }
        let _ = self.child.wait();
        if let Some(group) = &self.group {
            let _ = std::fs::remove_dir(group);
        }
    }
}

/// Kills a sacrificial process and its child by the same code as a broker, in a control group of their own, and requires
/// that empty.
///
/// # Errors
/// The kill would not work on this host, or could not be tried.
pub fn rehearse_kill(deadline: Duration) -> Result<Rehearsal, String> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let name = format!("coroner-rehearsal-{own}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let path = cgroup::of_process(own).map_or_else(|| name.clone(), |parent| format!("{parent}/{name}"));
    let group = ControlGroup::at(&path)?;
    std::fs::create_dir(group.directory()).map_err(|e| {
        format!("{} cannot be made (the agent's unit needs Delegate=yes): {e}", group.directory().display())
    })?;
    let child = Command::new("sh")
        .args(["-c", &format!("sleep {VICTIM_SLEEPS} & read go; exec sleep {VICTIM_SLEEPS}")])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let child = child.inspect_err(|_| {
        let _ = std::fs::remove_dir(group.directory());
    });
    let child = child.map_err(|e| format!("the sacrificial process cannot be started: {e}"))?;
    let pid = child.id();
    let victim = Victim { child, group: Some(group.directory().to_owned()) };
    // A cgroup takes processes one by one: the child that the shell began before is moved too.
    let watch = Stopwatch::start();
    let mut moved = Vec::new();
    while moved.len() < 2 && watch.elapsed() < deadline / 2 {
        let all = process::all()?;
        let roots = [i32::try_from(pid).unwrap_or(0)].into();
        for p in process::family(&all, &roots) {
            std::fs::write(group.directory().join("cgroup.procs"), p.identity.pid.to_string())
                .map_err(|e| format!("the sacrificial process cannot be moved to its group: {e}"))?;
        }
        moved = alive(&group);
    }
    let host = Host::new(&"rehearsal".into(), &"rehearsal".into(), &Guarded::Cgroup(PathBuf::from(&path)))?;
    let watch = Stopwatch::start();
    let killed = host.kill_all(deadline)?;
    host.require_empty(deadline.saturating_sub(watch.elapsed()))?;
    let took = watch.elapsed();
    drop(victim);
    Ok(Rehearsal { took, detail: format!("{killed}; their control group was empty after {}", human(took)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::Identity;

    /// P7: KILL was taken, and nothing ended.
    #[test]
    fn p7_what_waits_in_the_kernel_is_called_unkillable() {
        let identity = Identity { boot_id: "b".into(), pid: 7, start_ticks: 1 };
        let mut p = Seen { identity, parent: 1, group: 7, session: 7, state: 'D', name: "broker".into() };
        assert!(why_left(&[p.clone()]).starts_with("unkillable: stuck in D state: 7 (broker"));
        p.state = 'S';
        assert_eq!(why_left(&[p.clone()]), "still there after KILL: 7 (broker, sleeping)");
        p.identity.pid = 1;
        assert!(refuse_ourselves(&[p]).is_err(), "the first process is never killed");
    }
}
