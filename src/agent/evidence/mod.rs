//! What the kernel and the service manager know of a broker.
//!
//! A [`Watcher`] is for one thread's poll loop: one descriptor ([`AsFd`]) to wait for, [`Watcher::ready`] when it is
//! readable, [`Watcher::tick`] every 50 to 100 ms. Neither waits, and neither does more than a few reads of /proc.
//!
//! The death of a process is told by whatever of these is to be had, the quickest first; [`Watcher::sources`] says which:
//!
//! - [`tracepoint`]: it exits, before its memory is torn down; needs tracefs and the first process-number namespace;
//! - [`connector`]: it dumps core, or it has exited and how; needs CAP_NET_ADMIN and the first network namespace;
//! - /proc at every tick: KILL is upon it, it is exiting, it dumps core ([`process`]);
//! - its pidfd: it has ended. Always there, and the only one that cannot be mistaken.
//!
//! "Exits" proves that it will not run its own code again. It does not prove that its sockets are closed, that a system
//! call under way has not still an effect, that its children are gone ([`cgroup`] tells that), or that nothing starts it
//! again ([`unit`] tells when it has).

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use rustix::event::{Timespec, epoll};

use self::{
    cgroup::Group,
    connector::{Connector, Notice},
    identity::Main,
    looks::{Finding, Looks, Plan},
    pressure::{Threshold, Triggers},
    process::{Held, Look, how_it_ended},
    tracepoint::Tracepoint,
    unit::UnitWatch,
};
use super::spec::{Guard, Guarded};
use crate::{
    model::{
        Time,
        agent::{Certainty, Evidence, ProcessIdentity, Watch},
    },
    sys::{
        clock,
        process::{self as processes, Identity, Seen},
        systemd::Standing,
    },
};

pub mod cgroup;
pub mod connector;
pub mod disk;
pub mod identity;
pub mod listener;
mod looks;
pub mod pressure;
pub mod process;
pub mod tracepoint;
pub mod unit;

/// How closely to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Looks at threads, ports and the file system.
    pub look_every: Duration,
    /// A thread in the same uninterruptible wait at this many looks is stuck.
    pub stuck_after: u32,
    /// What pressure is a stall.
    pub pressure: Threshold,
    /// A stall is over when the kernel told of none for this long.
    pub pressure_holds: Duration,
    /// A file system that does not answer for this long hangs.
    pub disk_answers_within: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            look_every: Duration::from_secs(1),
            stuck_after: 3,
            pressure: Threshold::default(),
            pressure_holds: Duration::from_secs(3),
            disk_answers_within: Duration::from_secs(5),
        }
    }
}

/// A source of evidence: whether it is in use, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `pidfd`, `connector`, `tracepoint`, `cgroup`, `unit`, `pressure`, `listener`, `disk`.
    pub name: &'static str,
    /// In use.
    pub is_used: bool,
    /// What it watches, or why it cannot be used.
    pub detail: String,
}

/// systemd's first answer is waited for this long at start.
const FIRST_NEWS: Duration = Duration::from_secs(2);

const CONNECTOR: u64 = 1;
const TRACEPOINT: u64 = 2;
const PIDFD: u64 = 3;
const GROUP: u64 = 4;
const UNIT: u64 = 5;
const LOOKS: u64 = 6;
const PRESSURE: u64 = 7;

/// Watches one broker. See the module.
#[derive(Debug)]
pub struct Watcher {
    guarded: Guarded,
    boot_id: String,
    options: Options,
    epoll: OwnedFd,
    process: Option<Held>,
    /// The process that `process` evidence is about, also after its end.
    about: Option<Identity>,
    /// It will not run its own code again.
    is_ending: bool,
    /// Wait status, where a notice told it.
    status: Option<i32>,
    /// What was alive of it when the last main process ended.
    left: BTreeSet<Identity>,
    connector: Option<Connector>,
    tracepoint: Option<Tracepoint>,
    group: Option<Group>,
    group_path: Option<String>,
    is_group_frozen: bool,
    /// The group is the broker's own: that it is empty means something.
    is_own_group: bool,
    unit: Option<UnitWatch>,
    standing: Option<Standing>,
    pressure: Option<Triggers>,
    pressed_at: Option<Time>,
    looks: Looks,
    disk_answered: Option<Time>,
    looked_at: Time,
    known: BTreeMap<Watch, Evidence>,
    sources: BTreeMap<&'static str, Source>,
}

impl Watcher {
    /// Begins to watch a guard's broker. What cannot be used on this host is left out, and [`Self::sources`] tells it.
    ///
    /// # Errors
    /// The kernel refuses what every host has: descriptors, threads.
    pub fn new(guard: &Guard, boot_id: impl Into<String>) -> Result<Self, String> {
        Self::with(guard, boot_id, Options::default())
    }

    /// The same, with other limits.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn with(guard: &Guard, boot_id: impl Into<String>, options: Options) -> Result<Self, String> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| format!("no descriptor to poll by: {e}"))?;
        let ports = guard.gate.as_ref().map(|gate| gate.ports.clone()).unwrap_or_default();
        let looks = Looks::start(Plan {
            every: options.look_every,
            stuck_after: options.stuck_after,
            ports: ports.clone(),
            data: guard.data.clone(),
        })?;
        let mut watcher = Self {
            guarded: guard.broker.clone(),
            boot_id: boot_id.into(),
            options,
            epoll,
            process: None,
            about: None,
            is_ending: false,
            status: None,
            left: BTreeSet::new(),
            connector: None,
            tracepoint: None,
            group: None,
            group_path: None,
            is_group_frozen: false,
            is_own_group: !matches!(guard.broker, Guarded::PidFile { .. }),
            unit: None,
            standing: None,
            pressure: None,
            pressed_at: None,
            looks,
            disk_answered: guard.data.as_ref().map(|_| clock::now()),
            looked_at: Time::ZERO,
            known: BTreeMap::new(),
            sources: BTreeMap::new(),
        };
        watcher.add(&watcher.looks, LOOKS, epoll::EventFlags::IN)?;
        watcher
            .source("listener", if ports.is_empty() { Err("no gate names its ports".into()) } else { Ok("its ports") });
        watcher.source("disk", guard.data.as_ref().map(|_| "its data directory").ok_or_else(|| "no `data`".into()));
        watcher.begin_kernel();
        watcher.begin_guarded()?;
        let _ = watcher.tick(clock::now());
        Ok(watcher)
    }

    fn begin_kernel(&mut self) {
        let connector = Connector::open().and_then(|connector| {
            self.add(&connector, CONNECTOR, epoll::EventFlags::IN)?;
            Ok(connector)
        });
        self.source("connector", connector.as_ref().map(|_| "exit and core-dump notices").map_err(Clone::clone));
        self.connector = connector.ok();
        let tracepoint = Tracepoint::open().and_then(|tracepoint| {
            let fd = tracepoint.fd().ok_or("it has no pipe")?;
            self.add(&fd, TRACEPOINT, epoll::EventFlags::IN)?;
            Ok(tracepoint)
        });
        self.source("tracepoint", tracepoint.as_ref().map(|_| "exit before the memory is freed").map_err(Clone::clone));
        self.tracepoint = tracepoint.ok();
    }

    fn begin_guarded(&mut self) -> Result<(), String> {
        match self.guarded.clone() {
            Guarded::Unit(name) => {
                let unit = UnitWatch::start(&name)?;
                self.add(&unit, UNIT, epoll::EventFlags::IN)?;
                if let Some(news) = unit.first(FIRST_NEWS) {
                    self.hear_unit(news);
                } else {
                    self.source("unit", Err("the system bus has not answered yet".into()));
                }
                self.unit = Some(unit);
            }
            Guarded::Cgroup(path) => {
                self.group_path = Some(path.to_string_lossy().into_owned());
                self.source("unit", Err("it is guarded as a control group".into()));
            }
            Guarded::PidFile { .. } => self.source("unit", Err("it is guarded by a pid file".into())),
        }
        Ok(())
    }

    /// What the evidence of the process is about.
    #[must_use]
    pub fn identity(&self) -> ProcessIdentity {
        let (pid, start_ticks) = self.about.as_ref().map_or((0, 0), |about| (about.pid, about.start_ticks));
        ProcessIdentity { boot_id: self.boot_id.clone(), pid, start_ticks }
    }

    /// All its processes: of its control group if it has one of its own, otherwise what its main process leads or begot.
    #[must_use]
    pub fn processes(&self) -> Vec<Seen> {
        let all = processes::all().unwrap_or_default();
        if let Some(group) = self.group.as_ref().filter(|_| self.is_own_group) {
            let pids = group.group().processes();
            return all.into_iter().filter(|p| pids.contains(&p.identity.pid)).collect();
        }
        let roots: BTreeSet<i32> = self.process.iter().map(|held| held.identity().pid).collect();
        processes::family(&all, &roots)
    }

    /// Everything that is known now. What is not in it is not known.
    #[must_use]
    pub fn evidence(&self) -> Vec<Evidence> {
        self.known.values().cloned().collect()
    }

    /// Which sources are in use, and why the others are not.
    #[must_use]
    pub fn sources(&self) -> Vec<Source> {
        self.sources.values().cloned().collect()
    }

    /// When the descriptor is readable: what has changed. Never waits.
    pub fn ready(&mut self) -> Vec<Evidence> {
        let before = self.known.clone();
        let mut events = [MaybeUninit::uninit(); 16];
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, Some(&zero)) else { return Vec::new() };
        let mut tokens: Vec<u64> = events.iter().map(|event| event.data.u64()).collect();
        // The connector's notice with the status comes before the pidfd's wake-up, and is read before it.
        tokens.sort_unstable();
        for token in tokens {
            match token {
                CONNECTOR => self.hear_connector(),
                TRACEPOINT => self.hear_tracepoint(),
                PIDFD => self.look_at_process(true),
                GROUP => self.look_at_group(),
                UNIT => {
                    if let Some(news) = self.unit.as_ref().and_then(UnitWatch::read) {
                        self.hear_unit(news);
                        self.find_process();
                        self.open_group();
                    }
                }
                LOOKS => {
                    for finding in self.looks.read() {
                        self.hear_look(finding);
                    }
                }
                _ => self.hear_pressure(),
            }
        }
        self.changed(&before)
    }

    /// Every 50 to 100 ms: what has changed. One read of /proc, once per second a few more. Never waits.
    pub fn tick(&mut self, now: Time) -> Vec<Evidence> {
        let before = self.known.clone();
        self.look_at_process(false);
        if self.looked_at == Time::ZERO || now.since(self.looked_at) >= self.options.look_every {
            self.looked_at = now;
            if self.group.is_some() {
                self.look_at_group()
            } else {
                self.open_group()
            }
            if self.pressure.is_none() {
                self.read_pressure(None);
            }
        }
        if self.process.is_none() {
            self.find_process();
        }
        self.pressure_passes(now);
        if let Some(answered) = self.disk_answered
            && now.since(answered) > self.options.disk_answers_within
        {
            self.know(Watch::Disk, Certainty::Unreachable, true, "the file system of its data does not answer");
        }
        self.changed(&before)
    }

    fn hear_connector(&mut self) {
        let Some(connector) = &self.connector else { return };
        let notices = connector.read();
        let Some(about) = self.process.as_ref().map(|held| held.identity().pid) else { return };
        let mut is_news = false;
        for notice in notices {
            match notice {
                Notice::CoreDump { pid } if pid == about => self.ending("it dumps core"),
                Notice::Exit { thread, pid, status } if pid == about => {
                    // The first thread's status is the process's.
                    if thread == pid {
                        self.status = Some(status);
                    }
                    is_news = true;
                }
                // What was missed is found by looking.
                Notice::Lost => is_news = true,
                Notice::CoreDump { .. } | Notice::Exit { .. } => {}
            }
        }
        if is_news {
            self.look_at_process(false);
        }
    }

    fn hear_tracepoint(&mut self) {
        let exits = self.tracepoint.as_mut().map(Tracepoint::read).unwrap_or_default();
        let Some(about) = self.process.as_ref().map(|held| held.identity().pid) else { return };
        if exits.iter().any(|exit| exit.thread == about && exit.group_dead == Some(true)) {
            self.ending("it is exiting");
        } else if !exits.is_empty() {
            self.look_at_process(false);
        }
    }

    /// It will not run its own code again.
    fn ending(&mut self, how: &str) {
        if !self.is_ending {
            self.is_ending = true;
            let pid = self.about.as_ref().map_or(0, |about| about.pid);
            self.know(Watch::Process, Certainty::Proven, true, format!("process {pid} is ending: {how}"));
        }
    }

    /// `has_ended`: its pidfd says so.
    fn look_at_process(&mut self, has_ended: bool) {
        let Some(held) = &self.process else { return };
        match held.look() {
            Look::Ended(status) => self.ended(status),
            _ if has_ended => self.ended(None),
            Look::Ending(how) => self.ending(&how),
            Look::Runs(state) => self.judge_frozen(Some(state)),
        }
    }

    fn ended(&mut self, status: Option<i32>) {
        let Some(held) = self.process.take() else { return };
        let _ = epoll::delete(&self.epoll, &held);
        let how = self.status.take().or(status).map_or_else(|| "ended".to_owned(), how_it_ended);
        let pid = held.identity().pid;
        self.left = match &self.group {
            Some(group) if self.is_own_group => {
                group.group().processes().into_iter().filter_map(processes::look).map(|p| p.identity).collect()
            }
            _ => BTreeSet::new(),
        };
        self.left.remove(held.identity());
        let children = match self.left.len() {
            0 => String::new(),
            n => format!("; {n} more of its control group outlived it"),
        };
        self.know(Watch::Process, Certainty::Proven, true, format!("process {pid} {how}{children}"));
        for watch in [Watch::Stuck, Watch::Frozen] {
            self.known.remove(&watch);
        }
        self.looks.about(None);
        if let Some(tracepoint) = &self.tracepoint {
            let _ = tracepoint.watch(None);
        }
    }

    fn find_process(&mut self) {
        // Only systemd may say that another process is the main one while the old one runs.
        if self.process.is_some() && self.standing.as_ref().is_none_or(|standing| standing.main_pid == 0) {
            return;
        }
        let group = self.group.as_ref().filter(|_| self.is_own_group).map(Group::group);
        match identity::find(&self.guarded, self.standing.as_ref(), group, &self.left) {
            Main::Is(pid) => {
                if self.process.as_ref().is_none_or(|held| held.identity().pid != pid) {
                    self.adopt(pid);
                }
            }
            // What is held speaks for itself, as does the end of what was.
            Main::None { certainty, detail } if self.process.is_none() && self.about.is_none() => {
                self.know(Watch::Process, certainty, true, detail);
            }
            Main::None { .. } => {}
        }
        let pidfd = if self.process.is_some() { Ok("its main process") } else { Err("no process to hold".into()) };
        self.source("pidfd", pidfd);
    }

    fn adopt(&mut self, pid: i32) {
        let Ok(held) = Held::open(pid) else { return };
        // A zombie, or what systemd has not yet noticed to be gone.
        if matches!(held.look(), Look::Ended(_)) {
            if self.about.is_none() {
                self.know(Watch::Process, Certainty::Proven, true, format!("process {pid} has ended"));
            }
            return;
        }
        if let Some(old) = self.process.take() {
            let _ = epoll::delete(&self.epoll, &old);
        }
        if self.add(&held, PIDFD, epoll::EventFlags::IN).is_err() {
            return;
        }
        self.about = Some(held.identity().clone());
        self.process = Some(held);
        (self.is_ending, self.status) = (false, None);
        self.left.clear();
        if let Some(tracepoint) = &self.tracepoint
            && let Err(e) = tracepoint.watch(Some(pid))
        {
            self.source("tracepoint", Err(e));
        }
        self.looks.about(Some(pid));
        self.know(Watch::Process, Certainty::Proven, false, format!("process {pid} runs"));
        if !self.is_own_group {
            self.group_path = cgroup::of_process(pid);
            (self.group, self.is_group_frozen) = (None, false);
        }
        self.open_group();
        // What happened between its opening and now was told to nobody.
        self.look_at_process(false);
    }

    fn open_group(&mut self) {
        let Some(path) = self.group_path.clone() else {
            self.source("cgroup", Err("it has no control group of its own".into()));
            // That of the host, then; once: where triggers are refused, they are refused.
            if !self.sources.contains_key("pressure") {
                self.open_pressure();
            }
            return;
        };
        if self.group.is_some() {
            return;
        }
        match Group::open(&path).and_then(|group| {
            self.add(&group, GROUP, epoll::EventFlags::PRI)?;
            Ok(group)
        }) {
            Ok(group) => {
                self.group = Some(group);
                self.source("cgroup", Ok("its control group"));
                self.open_pressure();
                self.look_at_group();
            }
            Err(e) => {
                if self.is_own_group && !self.known.contains_key(&Watch::Cgroup) {
                    self.know(Watch::Cgroup, Certainty::Unreachable, true, e.clone());
                }
                self.source("cgroup", Err(e));
            }
        }
    }

    fn look_at_group(&mut self) {
        let Some(group) = &self.group else { return };
        let standing = group.look();
        let name = group.group().directory().display().to_string();
        if self.is_own_group {
            let words = if standing.populated { "has processes" } else { "is empty" };
            self.know(Watch::Cgroup, Certainty::Proven, !standing.populated, format!("{name} {words}"));
        }
        self.is_group_frozen = standing.frozen;
        if standing.removed {
            // Its descriptors would wake us for ever.
            self.group = None;
            self.pressure = None;
        }
        self.judge_frozen(None);
    }

    fn judge_frozen(&mut self, state: Option<char>) {
        let Some(held) = &self.process else { return };
        let state = state.or_else(|| match held.look() {
            Look::Runs(state) => Some(state),
            _ => None,
        });
        let pid = held.identity().pid;
        let (is_so, detail) = match state {
            _ if self.is_group_frozen => (true, "its control group is frozen".into()),
            Some('T') => (true, format!("process {pid} is stopped")),
            Some('t') => (true, format!("process {pid} is stopped by a debugger")),
            _ => (false, "it is not frozen".into()),
        };
        // It may be let go again at any moment.
        self.know(Watch::Frozen, Certainty::Warning, is_so, detail);
    }

    fn hear_unit(&mut self, news: Result<Standing, String>) {
        match news {
            Ok(standing) => {
                let Guarded::Unit(name) = &self.guarded else { return };
                let is_up = matches!(standing.active.as_str(), "active" | "reloading" | "refreshing");
                let result = match standing.result.as_str() {
                    "" | "success" => String::new(),
                    other => format!(", it ended by {other}"),
                };
                if standing.load == "not-found" {
                    let detail = format!("there is no unit {name} on this host: is this its name?");
                    self.source("unit", Err(detail.clone()));
                    self.know(Watch::Unit, Certainty::Unreachable, true, detail);
                } else {
                    let detail = format!("{name} is {} ({}{result})", standing.active, standing.sub);
                    self.source("unit", Ok("its unit, over the system bus"));
                    self.know(Watch::Unit, Certainty::Proven, !is_up, detail);
                }
                if !standing.control_group.is_empty()
                    && self.group_path.as_deref() != Some(standing.control_group.as_str())
                {
                    self.group_path = Some(standing.control_group.clone());
                    self.group = None;
                }
                self.standing = Some(standing);
            }
            Err(e) => {
                self.source("unit", Err(e));
                self.known.remove(&Watch::Unit);
                self.standing = None;
            }
        }
    }

    fn hear_look(&mut self, finding: Finding) {
        let Finding { watch, found } = finding;
        if watch == Watch::Disk {
            self.disk_answered = Some(clock::now());
        }
        // A look may have begun before the process ended.
        if watch == Watch::Stuck && self.process.is_none() {
            return;
        }
        match found {
            Ok((is_so, detail)) => {
                let certainty = if watch == Watch::Listener { Certainty::Proven } else { Certainty::Warning };
                self.know(watch, certainty, is_so, detail);
            }
            Err(_) => {
                self.known.remove(&watch);
            }
        }
    }

    fn open_pressure(&mut self) {
        let directory: Option<PathBuf> = self.group.as_ref().map(|group| group.group().directory().to_owned());
        self.pressure = None;
        let triggers = Triggers::start(directory.as_deref(), self.options.pressure).and_then(|triggers| {
            self.add(&triggers, PRESSURE, epoll::EventFlags::IN)?;
            Ok(triggers)
        });
        match triggers {
            Ok(triggers) => {
                self.pressure = Some(triggers);
                self.source("pressure", Ok(if directory.is_some() { "its control group" } else { "the host" }));
                self.know(Watch::Pressure, Certainty::Warning, false, "no stall");
            }
            Err(why) => self.read_pressure(Some(why)),
        }
    }

    /// Where there are no triggers, the files are read.
    fn read_pressure(&mut self, why: Option<String>) {
        let directory = self.group.as_ref().map(|group| group.group().directory());
        let stalled = pressure::stalled(directory, self.options.pressure);
        if let (Ok(_), Some(why)) = (&stalled, &why) {
            let detail = format!("the files are read: {why}");
            self.sources.insert("pressure", Source { name: "pressure", is_used: true, detail });
        }
        match stalled {
            Ok(stall) => {
                let detail = stall.clone().unwrap_or_else(|| "no stall".into());
                self.know(Watch::Pressure, Certainty::Warning, stall.is_some(), detail);
            }
            Err(e) => {
                self.known.remove(&Watch::Pressure);
                self.source("pressure", Err(e));
            }
        }
    }

    fn hear_pressure(&mut self) {
        let stalls = self.pressure.as_ref().map(Triggers::read).unwrap_or_default();
        if let Some(detail) = stalls.into_iter().last() {
            self.pressed_at = Some(clock::now());
            self.know(Watch::Pressure, Certainty::Warning, true, detail);
        }
    }

    fn pressure_passes(&mut self, now: Time) {
        if self.pressed_at.is_some_and(|at| now.since(at) >= self.options.pressure_holds) {
            self.pressed_at = None;
            self.know(Watch::Pressure, Certainty::Warning, false, "no stall");
        }
    }

    fn know(&mut self, watch: Watch, certainty: Certainty, is_so: bool, detail: impl Into<String>) {
        self.known.insert(watch, Evidence { watch, certainty, is_so, detail: detail.into() });
    }

    fn changed(&self, before: &BTreeMap<Watch, Evidence>) -> Vec<Evidence> {
        self.known.values().filter(|evidence| before.get(&evidence.watch) != Some(evidence)).cloned().collect()
    }

    fn source(&mut self, name: &'static str, state: Result<&str, String>) {
        let is_used = state.is_ok();
        let detail = state.map_or_else(|why| why, str::to_owned);
        self.sources.insert(name, Source { name, is_used, detail });
    }

    fn add(&self, fd: &impl AsFd, token: u64, events: epoll::EventFlags) -> Result<(), String> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), events)
            .map_err(|e| format!("it cannot be polled: {e}"))
    }
}

impl AsFd for Watcher {
    /// Readable when [`Watcher::ready`] has something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
