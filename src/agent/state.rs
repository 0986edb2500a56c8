//! What the agent knows of the brokers that it guards, kept on the thread of leases: so that evidence reaches the arbiter
//! and the lease without a detour.

use std::{
    collections::BTreeMap,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{
    driver::{Host, PartyHandle},
    patience::{Patience, Processor, Pulse},
};
use crate::{
    mesh::party::Input,
    model::{
        ClusterName, MemberName, Role, Time,
        agent::{Certainty, Evidence, GateState, MemberReport, ProcessIdentity, Watch},
        observation::RoleReport,
        time::{Moment, human},
    },
    sys::clock,
};

/// Without news, the party is told the same again this often, so that ages grow with it.
const TELL_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long what a standby said of its role lets the arbiters pass to it.
const ADMIT_FOR: Duration = Duration::from_secs(1);
/// After the gate could not be verified or restored, the next try waits this long.
const GATE_RETRY_AFTER: Duration = Duration::from_millis(10);

/// What is known of a broker by the kernel of its host.
pub trait Watching: Send + 'static {
    /// Readable when there is something new.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;
    /// When [`Self::turn`] is wanted at the latest.
    fn poll_timeout(&self) -> Option<Time>;
    /// Takes in what is new. Must not block.
    fn turn(&mut self, now: Time);
    /// What is so now.
    fn evidence(&self) -> Vec<Evidence>;
    /// Of which boot and process.
    fn identity(&self) -> ProcessIdentity;
    /// How its main thread stands with the processors, if that is known. Must not block.
    fn processor(&self) -> Option<Processor>;
}

/// The gate before a broker's port.
pub trait GateKeeper: Send + 'static {
    /// Readable when somebody touched the kernel's rules.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;
    /// Whether the rules may have been touched by another since last asked. Takes in what is new; must not block.
    fn was_touched(&mut self) -> bool;
    /// Opens it for that long and no longer, from now.
    ///
    /// # Errors
    /// Why it is not open.
    fn open_for(&mut self, left: Duration) -> Result<(), String>;
    /// Lets the arbiters, and whom the file names, pass to a standby for that long and no longer; zero: no longer.
    ///
    /// # Errors
    /// Why they do not pass, or may pass.
    fn admit_for(&mut self, left: Duration) -> Result<(), String>;
    /// Closes it, for established connections too.
    ///
    /// # Errors
    /// Why it may be open.
    fn close(&mut self) -> Result<(), String>;
    /// Looks whether all rules stand as they should, and puts them back if not; `left`: how long it should be open yet.
    /// Says in words what was put back.
    ///
    /// # Errors
    /// Why it does not stand.
    fn verify_and_restore(&mut self, left: Option<Duration>) -> Result<Option<String>, String>;
}

/// One guarded broker.
pub struct Guarded {
    /// Which.
    pub member: MemberName,
    /// What the kernel tells.
    pub watching: Box<dyn Watching>,
    /// Its gate, if it has one.
    pub gate: Option<Box<dyn GateKeeper>>,
    /// Without an answer for this long, its lease is not renewed.
    pub progress_timeout: Duration,
    /// A gate that is not restored by then, after it was touched: see [`News::GateLost`].
    pub gate_restored_within: Duration,
}

/// What other threads tell the host state.
#[derive(Debug)]
pub enum Told {
    /// The broker answered, or not, at this time.
    Progress {
        /// Whose.
        cluster: ClusterName,
        /// When it was asked.
        asked: Time,
        /// Whether it answered; `Err`: in words why not.
        answer: Result<Option<RoleReport>, String>,
    },
    /// The drill of the gate ended.
    Drilled {
        /// Whose.
        cluster: ClusterName,
        /// Why it proved nothing.
        result: Result<(), String>,
    },
    /// Something for the party that comes from a node's observer.
    Input(Box<Input>),
}

/// What the host state tells the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The gate was touched by another and put back.
    GateRestored {
        /// Whose.
        cluster: ClusterName,
        /// What was put back.
        detail: String,
    },
    /// The gate was touched by another, and could not be put back in time.
    GateLost {
        /// Whose.
        cluster: ClusterName,
        /// Why.
        error: String,
    },
}

/// The way to the host state, from any thread.
#[derive(Clone, Debug)]
pub struct StateHandle {
    told: Sender<Told>,
    party: PartyHandle,
    pulse: Arc<ArcSwap<Pulse>>,
}

impl StateHandle {
    /// The calling thread runs: called every [`super::patience::PULSE_EVERY`] while the process is well.
    pub fn show_pulse(&self, now: Time) {
        self.pulse.rcu(|pulse| Arc::new(pulse.shown(now)));
    }

    /// Tells it.
    pub fn tell(&self, told: Told) {
        if self.told.send(told).is_ok() {
            self.party.wake();
        }
    }

    /// The way to the party itself.
    #[must_use]
    pub const fn party(&self) -> &PartyHandle {
        &self.party
    }
}

/// The other half of a handle, before the party's thread runs.
#[derive(Debug)]
pub struct StateSender(Sender<Told>, Arc<ArcSwap<Pulse>>);

impl StateSender {
    /// Complete.
    #[must_use]
    pub fn with(self, party: PartyHandle) -> StateHandle {
        StateHandle { told: self.0, party, pulse: self.1 }
    }
}

/// The newest reports, and whether the lease may be renewed, for whoever wants to look; never waits for anybody.
pub type Reports = ArcSwap<BTreeMap<ClusterName, (MemberReport, bool)>>;

/// All guarded brokers of the agent.
pub struct HostState {
    reports: Arc<Reports>,
    guarded: BTreeMap<ClusterName, Known>,
    told: Receiver<Told>,
    pulse: Arc<ArcSwap<Pulse>>,
    news: Box<dyn FnMut(News) + Send>,
}

struct Known {
    guarded: Guarded,
    role: Option<(RoleReport, Time)>,
    patience: Patience,
    silence: Option<String>,
    open_until: Option<Time>,
    is_drilled: bool,
    /// Since when the gate does not stand as it should, and whether that was told.
    gate_touched: Option<(Time, bool)>,
    gate_retry: Option<Time>,
    gate_error: Option<String>,
    last_told: Option<(MemberReport, bool, Time)>,
    looked: Time,
    /// Until when the arbiters pass the gate of a standby.
    admitted_until: Option<Time>,
}

impl HostState {
    /// Guards these.
    #[must_use]
    pub fn new(guarded: BTreeMap<ClusterName, Guarded>, news: Box<dyn FnMut(News) + Send>) -> (Self, StateSender) {
        let (sender, told) = channel();
        let pulse = Arc::<ArcSwap<Pulse>>::default();
        let known = |guarded: Guarded| Known {
            patience: Patience::new(guarded.progress_timeout),
            guarded,
            role: None,
            silence: None,
            open_until: None,
            is_drilled: false,
            gate_touched: None,
            gate_retry: None,
            gate_error: None,
            last_told: None,
            looked: Time::ZERO,
            admitted_until: None,
        };
        let guarded = guarded.into_iter().map(|(cluster, guarded)| (cluster, known(guarded))).collect();
        let state = Self { reports: Arc::default(), guarded, told, pulse: Arc::clone(&pulse), news };
        (state, StateSender(sender, pulse))
    }

    /// The newest reports, as they come.
    #[must_use]
    pub fn reports(&self) -> Arc<Reports> {
        Arc::clone(&self.reports)
    }

    fn publish(&self) {
        let told = |known: &Known| known.last_told.as_ref().map(|(report, may, _)| (report.clone(), *may));
        let all = self.guarded.iter().filter_map(|(name, known)| Some((name.clone(), told(known)?)));
        self.reports.store(Arc::new(all.collect()));
    }

    fn take_in(&mut self, now: Time, pulse: Pulse, told: Told) -> Option<Input> {
        match told {
            Told::Progress { cluster, asked, answer } => {
                let known = self.guarded.get_mut(&cluster)?;
                match answer {
                    Ok(role) => {
                        let ran = known.guarded.watching.processor().map(|processor| processor.ran);
                        known.patience.has_answered(now, pulse, ran);
                        known.silence = None;
                        known.role = role.map(|role| (role, asked)).or_else(|| known.role.take());
                    }
                    Err(why) => known.silence = Some(why),
                }
                // The role's age counts from now on: told again.
                known.last_told = known.last_told.take().map(|(report, may, _)| (report, may, Time::ZERO));
            }
            Told::Drilled { cluster, result } => {
                let known = self.guarded.get_mut(&cluster)?;
                known.is_drilled = result.is_ok();
            }
            Told::Input(input) => return Some(*input),
        }
        None
    }
}

impl Known {
    /// Whether the kernel says that the broker runs no more.
    fn is_gone(evidence: &[Evidence]) -> bool {
        let tells = |e: &&Evidence| matches!(e.watch, Watch::Process | Watch::Cgroup);
        evidence.iter().filter(tells).any(|e| e.is_so && e.certainty == Certainty::Proven)
    }

    /// Whether it runs and can do nothing.
    fn is_stuck(evidence: &[Evidence]) -> bool {
        let tells = |e: &&Evidence| matches!(e.watch, Watch::Stuck | Watch::Frozen);
        evidence.iter().filter(tells).any(|e| e.is_so && e.certainty == Certainty::Proven)
    }

    /// The report, and whether the lease may be renewed.
    fn report(&mut self, now: Time, pulse: Pulse) -> (MemberReport, bool) {
        let mut evidence = self.guarded.watching.evidence();
        let is_silent = self.patience.is_silent(now, pulse, || self.guarded.watching.processor());
        let answered = self.patience.answered();
        // At once, whatever the grace for a restart: the party knows of that, and is told when a start begins.
        let may_renew = !is_silent && !Self::is_gone(&evidence) && !Self::is_stuck(&evidence);
        let detail = match (is_silent, answered, &self.silence) {
            (false, ..) => "it answers".into(),
            (true, None, None) => "it was not asked yet".into(),
            (true, None, Some(why)) => format!("it has not answered yet: {why}"),
            (true, Some(at), why) => {
                let why = why.as_deref().unwrap_or("no answer came");
                // Rounded, so that the words change once a second and not with every beat.
                let silent = Duration::from_secs(now.since(at).as_secs());
                if silent.is_zero() { why.to_owned() } else { format!("no answer for {}: {why}", human(silent)) }
            }
        };
        if answered.is_some() || self.silence.is_some() {
            let certainty = Certainty::Unreachable;
            evidence.push(Evidence { watch: Watch::Progress, certainty, is_so: is_silent, detail });
        }
        let report = MemberReport {
            identity: self.guarded.watching.identity(),
            gate: self.gate_state(now),
            evidence,
            role: self.role.as_ref().map(|(role, _)| role.clone()),
            role_age: self.role.as_ref().map(|(_, at)| now.since(*at)),
            ..MemberReport::default()
        };
        (report, may_renew)
    }

    /// The arbiters pass to a broker that says that it is a standby, and to no other: what it says is asked again and
    /// again, and what they may runs out by itself.
    fn admit(&mut self, now: Time) {
        let Some(gate) = self.guarded.gate.as_mut() else { return };
        let says_so =
            self.role.as_ref().is_some_and(|(role, at)| role.role == Role::Standby && now.since(*at) < ADMIT_FOR);
        let is_standby = says_so && self.open_until.is_none_or(|until| until <= now);
        let left = self.admitted_until.map_or(Duration::ZERO, |until| until.since(now));
        let wanted = match is_standby {
            true if left < ADMIT_FOR / 2 => ADMIT_FOR,
            false if !left.is_zero() => Duration::ZERO,
            _ => return,
        };
        // What cannot be programmed runs out, or is tried again in the next turn.
        if gate.admit_for(wanted).is_ok() {
            self.admitted_until = (!wanted.is_zero()).then_some(now + wanted);
        }
    }

    fn gate_state(&self, now: Time) -> GateState {
        if self.guarded.gate.is_none() {
            GateState::None
        } else if !self.is_drilled || self.gate_touched.is_some() || self.gate_error.is_some() {
            GateState::Unproven
        } else if self.open_until.is_some_and(|until| now < until) {
            GateState::Open
        } else {
            GateState::Closed
        }
    }

    /// Looks after a gate that somebody touched.
    fn keep_gate(&mut self, now: Time, cluster: &ClusterName) -> Option<News> {
        let gate = self.guarded.gate.as_mut()?;
        if gate.was_touched() {
            self.gate_touched = self.gate_touched.or(Some((now, false)));
            self.gate_retry = None;
        }
        let (since, is_told) = self.gate_touched?;
        if self.gate_retry.is_some_and(|at| now < at) {
            return None;
        }
        let left = self.open_until.map(|until| until.since(now)).filter(|left| !left.is_zero());
        match gate.verify_and_restore(left) {
            Ok(restored) => {
                self.gate_touched = None;
                self.gate_retry = None;
                restored.map(|detail| News::GateRestored { cluster: cluster.clone(), detail })
            }
            Err(error) => {
                self.gate_retry = Some(now + GATE_RETRY_AFTER);
                if is_told || now.since(since) < self.guarded.gate_restored_within {
                    return None;
                }
                self.gate_touched = Some((since, true));
                Some(News::GateLost { cluster: cluster.clone(), error })
            }
        }
    }

    fn poll_timeout(&self) -> Option<Time> {
        let told_again = self.last_told.as_ref().map(|(_, _, at)| *at + TELL_AGAIN_AFTER);
        // Only what lies ahead of the last look: what has passed was seen then.
        let ahead = |at: Option<Time>| at.filter(|at| *at > self.looked);
        let turns = [self.patience.looks_again(), self.open_until].map(ahead);
        let own = [self.guarded.watching.poll_timeout(), self.gate_retry, told_again];
        own.into_iter().chain(turns).flatten().min()
    }
}

impl Host for HostState {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = Vec::new();
        for known in self.guarded.values() {
            all.extend(known.guarded.watching.descriptors());
            all.extend(known.guarded.gate.iter().flat_map(|gate| gate.descriptors()));
        }
        all
    }

    fn poll_timeout(&self) -> Option<Time> {
        self.guarded.values().filter_map(Known::poll_timeout).min()
    }

    fn turn(&mut self, now: Moment, is_ready: bool) -> Vec<Input> {
        let now = now.boot;
        let mut inputs = Vec::new();
        let mut has_news = false;
        let pulse = **self.pulse.load();
        while let Ok(told) = self.told.try_recv() {
            inputs.extend(self.take_in(now, pulse, told));
        }
        for (cluster, known) in &mut self.guarded {
            let watching = &mut known.guarded.watching;
            if is_ready || watching.poll_timeout().is_some_and(|at| at <= now) {
                watching.turn(now);
            }
            if let Some(news) = known.keep_gate(now, cluster) {
                (self.news)(news);
            }
            known.admit(now);
            let (report, may_renew) = known.report(now, pulse);
            known.looked = now;
            let is_news = known.last_told.as_ref().is_none_or(|(last, may, at)| {
                *may != may_renew || !is_same(last, &report) || now.since(*at) >= TELL_AGAIN_AFTER
            });
            if is_news {
                has_news = true;
                known.last_told = Some((report.clone(), may_renew, now));
                inputs.push(Input::Member { cluster: cluster.clone(), report: Box::new(report), may_renew });
            }
        }
        if has_news {
            self.publish();
        }
        inputs
    }

    fn open_for(&mut self, cluster: &ClusterName, left: Duration) -> Result<(), String> {
        let Some(known) = self.guarded.get_mut(cluster) else { return Ok(()) };
        let Some(gate) = &mut known.guarded.gate else { return Ok(()) };
        let result = gate.open_for(left);
        known.gate_error = result.clone().err();
        if result.is_ok() {
            known.open_until = Some(clock::now() + left);
        }
        result
    }

    fn close(&mut self, cluster: &ClusterName) -> Result<(), String> {
        let Some(known) = self.guarded.get_mut(cluster) else { return Ok(()) };
        let Some(gate) = &mut known.guarded.gate else { return Ok(()) };
        let result = gate.close();
        known.gate_error = result.clone().err();
        if result.is_ok() {
            known.open_until = None;
        }
        result
    }
}

/// Whether two reports differ in ages alone.
fn is_same(one: &MemberReport, other: &MemberReport) -> bool {
    one.identity == other.identity && one.gate == other.gate && one.evidence == other.evidence && one.role == other.role
}
