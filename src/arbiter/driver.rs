//! The one task that owns the engine: everything that happens passes here, in order, and everything that is done
//! begins here.
//!
//! The loop takes what has come in, hands it to the engine with the time, and drains the engine's effects: records
//! go to the store, and what the engine put behind them is not handed out before the store has answered; acts run
//! side by side as tasks, each result coming back as an event. Nothing acts straight from a callback.
//!
//! Before anything that came in is looked at, the loop asks whether it is late itself. A process that was stopped,
//! a machine that slept, a disk that hung: then the engine hears `RanLate` first, and forgets its suspicions before
//! it sees messages that lay in queues (A11, A12).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    closed::{self, Closed},
    crash,
    handle::{Handle, Input, Query, TimedNotice},
    hands::{self, AllHands, Hands},
    journal::Journal,
    mesh::{Link, Standing},
    outbox::Outbox,
    rehearsal::is_meant,
    reports,
    several::{self, Look, Several, Turn},
    tally::Tallies,
};
use crate::{
    config::Config,
    engine::Engine,
    journal::Mark,
    model::{
        ClusterName, ClusterPolicy, Command, CommandError, CommandReply, Effect, Event, Incident, IncidentId,
        MemberName, Mode, Notice, Observation, Observer, Operator, Order, Outcome, Record, RuleName, SignalName,
        Target, Time,
        command::CommandErrorCode,
        doctor::{FenceReach, FenceTest, FenceTestReport, Rehearsal},
        effect::Run,
        explain::RuleExplanation,
        record::OpenIncident,
        rule::Reaction,
        status::PrimaryView,
    },
    store::{Store, StoreError, shared::SharedStore},
    sys::clock::{self, Stopwatch},
    telemetry::{events, metrics::Metrics},
};

/// The loop runs at least this often, so that its own lateness shows and the watchdog is fed.
const TICK: Duration = Duration::from_millis(100);
/// Inputs taken in one turn, so that a flood cannot keep the loop from acting.
const INPUTS_A_TURN: usize = 4_096;
/// How long the end waits for reports to be spooled.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);
/// How long the report of an incident's end may take to be spooled; longer, and it counts as told to nobody.
const SPOOLED_WITHIN: Duration = Duration::from_secs(30);
/// What a probe saw longer ago than this is told to nobody.
const PEERS_KEEP: Duration = Duration::from_secs(3);
const TRIM_EVERY: Duration = Duration::from_secs(60);
/// How long a harmless check of one fence path may take.
const FENCE_CHECK_WITHIN: Duration = Duration::from_secs(5);

/// What comes back to the loop from its own tasks.
pub(super) enum Inner {
    /// An event for the engine.
    Event(Event),
    /// The store answered.
    Stored(u64, Result<(), StoreError>),
    /// A closed incident was acknowledged in the store, or nobody knows whether its end was told.
    Closed(Box<Incident>),
    /// An act ended, which was begun in that term.
    Ended(Option<u64>, Event),
    /// The store was read, to lead in that epoch or to follow.
    Read(Option<u64>, several::Read),
}

/// The driver.
pub(super) struct Driver {
    pub(super) engine: Engine,
    pub(super) config: Arc<ArcSwap<Config>>,
    pub(super) handle: Handle,
    pub(super) inputs: mpsc::Receiver<Input>,
    pub(super) inner: mpsc::UnboundedReceiver<Inner>,
    pub(super) to_inner: mpsc::UnboundedSender<Inner>,
    pub(super) to_store: mpsc::UnboundedSender<(u64, Option<u64>, Vec<Record>)>,
    pub(super) hands: AllHands,
    /// The hands and the policy that an open incident began with.
    pub(super) frozen: HashMap<IncidentId, (Arc<Hands>, Option<Arc<ClusterPolicy>>)>,
    pub(super) primaries: BTreeMap<ClusterName, watch::Sender<PrimaryView>>,
    pub(super) notices: broadcast::Sender<Arc<TimedNotice>>,
    pub(super) journal: Journal,
    /// How often each rule fired.
    pub(super) tallies: Tallies,
    pub(super) outbox: Outbox,
    /// The records of incidents that the engine knows no more.
    pub(super) closed: Closed,
    pub(super) replies: HashMap<u64, oneshot::Sender<Result<CommandReply, CommandError>>>,
    pub(super) next_reply: u64,
    pub(super) last_turn: Time,
    /// The other arbiters; `None`: this is the only one.
    pub(super) several: Option<Several>,
    /// What this arbiter's own probes saw last, for the others.
    pub(super) looks: HashMap<(ClusterName, SignalName, Option<MemberName>), (Time, Outcome)>,
    pub(super) views: watch::Sender<Vec<Look>>,
    /// The way to the agents; `None`: the file has no mesh.
    pub(super) link: Option<Arc<Link>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) on_tick: Box<dyn FnMut() + Send>,
    pub(super) reload: Box<dyn FnMut() -> Result<Config, String> + Send>,
    pub(super) on_reloaded: Box<dyn FnMut(&AllHands) + Send>,
    /// Called once a file was put in force, or was refused.
    pub(super) on_loaded: Box<dyn FnMut(bool) + Send>,
}

impl Driver {
    /// Runs until `stop` says so. Acts under way are left to the next life: their intents are in the log.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>, mut hangup: mpsc::Receiver<()>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut flush = interval(Journal::every());
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.last_turn = clock::now();
        if let Some(several) = &self.several {
            let reason = several.reason();
            self.follow(self.last_turn, reason, None);
        } else {
            self.closed.tell_what_is_untold();
        }
        self.carry_out();
        loop {
            let wait = self.engine.poll_timeout().map_or(TICK, |at| at.since(clock::now()));
            let mut first = None;
            let mut inner = None;
            let mut is_flush = false;
            let mut is_hangup = false;
            tokio::select! {
                _ = &mut stop => break,
                Some(()) = hangup.recv() => is_hangup = true,
                Some(answer) = self.inner.recv() => inner = Some(answer),
                Some(input) = self.inputs.recv() => first = Some(input),
                _ = tick.tick() => (self.on_tick)(),
                _ = flush.tick() => is_flush = true,
                () = sleep(wait) => {}
            }
            let now = clock::now();
            self.notice_lateness(now);
            self.see_who_leads(now);
            self.engine.handle_timeout(now);
            if let Some(answer) = inner {
                self.answered(now, answer);
            }
            while let Ok(answer) = self.inner.try_recv() {
                self.answered(now, answer);
            }
            if let Some(input) = first {
                self.take(now, input);
                for _ in 1..INPUTS_A_TURN {
                    let Ok(input) = self.inputs.try_recv() else { break };
                    self.take(now, input);
                }
            }
            if is_flush {
                let anchor = clock::anchor();
                self.metrics.history_dropped.set(i64::try_from(self.journal.dropped()).unwrap_or(i64::MAX));
                self.report_stats();
                self.metrics.queue_depth.set(i64::try_from(self.inputs.len()).unwrap_or(i64::MAX));
                self.engine.handle(now, Event::WallClockRead(anchor));
                self.journal.flush(anchor);
                self.tell_others(now);
            }
            if is_hangup {
                // What came of it is logged there.
                drop(self.load());
            }
            self.carry_out();
            self.tell_agents();
            self.metrics.decision_latency.observe(clock::now().since(now).as_secs_f64());
            // Only what passes between two turns is lateness; a turn's own length is part of it.
            self.last_turn = now;
        }
        self.journal.end(FLUSH_WITHIN).await;
        if !self.outbox.flush(FLUSH_WITHIN).await {
            tracing::warn!("some reports could not be spooled before the end");
        }
        // Nothing is begun any more, so that nobody has to wait for the lease.
        if let Some(several) = self.several {
            several.leave().await;
        }
    }

    // ---- one of several ---------------------------------------------------------------------------------------

    /// Before anything else of a turn: whether this arbiter may still act, or may begin to.
    fn see_who_leads(&mut self, now: Time) {
        let Some(several) = &mut self.several else { return };
        match several.turn(now) {
            Turn::Nothing => {}
            Turn::StepDown => {
                let reason = several.reason();
                self.follow(now, reason, None);
            }
            Turn::Tell(reason) => self.follow(now, reason, None),
            Turn::Read(epoch) => {
                let (store, to_inner) = (several.store(), self.to_inner.clone());
                tokio::spawn(async move {
                    drop(to_inner.send(Inner::Read(epoch, several::read(&store, epoch.is_some()).await)));
                });
            }
        }
    }

    /// This arbiter only watches: what it had under way is forgotten.
    fn follow(&mut self, now: Time, reason: String, read: Option<several::Read>) {
        self.frozen.clear();
        let (clusters, seen) = match read {
            Some(Ok((recovered, seen))) => (Some(recovered.clusters), seen),
            Some(Err(_)) | None => (None, BTreeMap::new()),
        };
        self.engine.handle(now, Event::Follows { reason, clusters, seen });
    }

    fn has_read(&mut self, now: Time, epoch: Option<u64>, read: several::Read) {
        let Some(several) = &mut self.several else { return };
        if let Err(error) = &read {
            tracing::warn!(%error, "The store that the arbiters share cannot be read.");
        }
        let goes_on = several.has_read(now, epoch, read.is_ok());
        let reason = several.reason();
        match (epoch, read) {
            (Some(epoch), Ok((mut recovered, seen))) if goes_on => {
                let anchor = clock::anchor();
                for open in &mut recovered.open {
                    let incident = &mut open.incident;
                    tracing::warn!(incident = %incident.id, cluster = %incident.cluster, "taking up an open incident");
                    // Moments of another host's clock, or of this one before it was started again.
                    let (theirs, ours) = (incident.anchor.unix_ms_at(anchor.boot), anchor.unix_ms);
                    if theirs.abs_diff(ours) > 1_000 {
                        incident.move_to(anchor);
                    }
                }
                tracing::info!(epoch, "this arbiter leads");
                self.frozen = frozen_hands(&recovered.open, &self.hands);
                self.engine.handle(now, Event::Leads { recovered: Box::new(recovered), seen });
                self.closed.tell_what_is_untold();
            }
            (None, read @ Ok(_)) if goes_on => self.follow(now, reason, Some(read)),
            (Some(_), Err(error)) => self.follow(now, format!("the store cannot be read: {error}"), None),
            _ => {}
        }
    }

    /// The store holds what this arbiter does not know, or nobody can say what it holds: nothing is done before all of it
    /// was read anew.
    fn read_anew(&mut self, now: Time, error: &StoreError) {
        let Some(several) = &mut self.several else { return };
        several.step_down(now);
        tracing::error!(%error, "everything is read anew before anything more is done");
        self.follow(now, format!("it reads how things stand in the store, because a write was refused: {error}"), None);
    }

    /// In which term something is begun; `Err`: nothing may be.
    fn term(&self) -> Result<Option<u64>, ()> {
        match &self.several {
            None => Ok(None),
            Some(several) => several.term().map(Some).ok_or(()),
        }
    }

    /// What the other arbiters may count on.
    fn tell_others(&self, now: Time) {
        if self.several.is_none() {
            return;
        }
        let mut looks: Vec<Look> = self
            .looks
            .iter()
            .filter(|(_, (at, _))| now.since(*at) < PEERS_KEEP)
            .map(|((cluster, signal, subject), (at, outcome))| Look {
                cluster: cluster.clone(),
                signal: signal.clone(),
                subject: subject.clone(),
                age: now.since(*at),
                outcome: outcome.clone(),
            })
            .collect();
        looks.sort_by(|a, b| (&a.cluster, &a.signal, &a.subject).cmp(&(&b.cluster, &b.signal, &b.subject)));
        self.views.send_replace(looks);
    }

    fn report_stats(&self) {
        for reporter in &self.outbox.stats().reporters {
            let count = |result: &str, now: u64| {
                let counter = self.metrics.reports.with_label_values(&[reporter.label.as_str(), result]);
                counter.inc_by(now.saturating_sub(counter.get()));
            };
            count("sent", reporter.sent.load(Ordering::Relaxed));
            count("failed", reporter.failed.load(Ordering::Relaxed));
            count("refused", reporter.refused.load(Ordering::Relaxed));
            let waiting = i64::try_from(reporter.waiting.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
            self.metrics.reports_spooled.with_label_values(&[reporter.label.as_str()]).set(waiting);
        }
    }

    fn notice_lateness(&mut self, now: Time) {
        let gap = now.since(self.last_turn);
        let late = gap.saturating_sub(TICK);
        self.metrics.loop_late.set(late.as_secs_f64());
        if late >= self.engine.policy().arbiter.tilt_after {
            let detail = format!(
                "the arbiter's own loop ran {} late: it was stopped, starved, or the machine slept",
                crate::model::time::human(late)
            );
            self.journal.mark(now, Mark::RanLate { by: late, detail: detail.clone() });
            self.engine.handle(now, Event::RanLate { by: late, detail });
        }
    }

    fn take(&mut self, now: Time, input: Input) {
        match input {
            Input::Seen(seen) => {
                let observation = Observation {
                    at: now,
                    cluster: seen.cluster,
                    signal: seen.signal,
                    observer: seen.observer,
                    subject: seen.subject,
                    outcome: seen.outcome,
                };
                let source = match &observation.observer {
                    Observer::Arbiter => "probe",
                    Observer::Member(_) => "member",
                    Observer::Node(_) => "node",
                    Observer::Peer(_) => "peer",
                };
                self.metrics.observations.with_label_values(&[source]).inc();
                self.journal.seen(now, &observation);
                if self.several.is_some() && observation.observer == Observer::Arbiter {
                    let key = (observation.cluster.clone(), observation.signal.clone(), observation.subject.clone());
                    self.looks.insert(key, (now, Look::plain(&observation.outcome)));
                }
                self.engine.handle(now, Event::Observed(observation));
            }
            Input::Peer { peer, looks } => {
                for look in looks {
                    let observation = Observation {
                        at: now.before(look.age),
                        cluster: look.cluster,
                        signal: look.signal,
                        observer: Observer::Peer(peer.clone()),
                        subject: look.subject,
                        outcome: look.outcome,
                    };
                    self.metrics.observations.with_label_values(&["peer"]).inc();
                    self.journal.seen(now, &observation);
                    self.engine.handle(now, Event::Observed(observation));
                }
            }
            Input::Notice(notice) => self.tell(now, *notice),
            Input::Command { by, command, reply } => self.command(now, by, command, reply),
            // A receiver that is gone does not matter.
            Input::Query(query) => match query {
                Query::Status(reply) => {
                    let mut status = self.engine.status(now);
                    status.arbiters = self.several.as_ref().map(|s| s.others().status(self.engine.leads()));
                    self.tallies.fill(now, &mut status);
                    drop(reply.send(status));
                }
                Query::Why(cluster, reply) => drop(reply.send(self.engine.why(now, &cluster))),
                Query::WhyNot(cluster, reply) => drop(reply.send(self.engine.why_not(now, &cluster))),
                Query::Signals(cluster, reply) => drop(reply.send(self.engine.signals(now, &cluster))),
            },
            Input::Rehearse { cluster, test, reply } => self.rehearse(&cluster, test, reply),
            Input::Reload(reply) => drop(reply.send(self.load())),
        }
    }

    /// Rehearses fences now, beside whatever else is done.
    fn rehearse(
        &self,
        cluster: &ClusterName,
        test: FenceTest,
        reply: oneshot::Sender<Result<FenceTestReport, CommandError>>,
    ) {
        let policy = self.engine.policy();
        let found = policy.clusters.get(cluster).cloned().zip(self.hands.get(cluster).cloned());
        let Some((policy, hands)) = found else {
            let text = format!("there is no cluster {cluster}; `coroner status` lists them");
            return drop(reply.send(Err(CommandError::new(CommandErrorCode::NotFound, text))));
        };
        if let Some(why) = nothing_to_rehearse(&policy, &test) {
            return drop(reply.send(Err(CommandError::new(CommandErrorCode::NotFound, why))));
        }
        let (to_inner, rehearsals) = (self.to_inner.clone(), self.handle.rehearsals.clone());
        tokio::spawn(async move {
            let done = hands.rehearse(&policy, &test, FENCE_CHECK_WITHIN).await;
            let now = clock::now();
            for rehearsed in &done {
                rehearsals.note(now, &policy, rehearsed);
                drop(to_inner.send(Inner::Event(rehearsed.clone().event(policy.name.clone()))));
            }
            // Whoever asked may be gone; what was found is kept all the same.
            drop(reply.send(Ok(report_of_test(&policy, &test, rehearsals.view(now, &policy)))));
        });
    }

    fn command(
        &mut self,
        now: Time,
        by: Operator,
        command: Command,
        reply: oneshot::Sender<Result<CommandReply, CommandError>>,
    ) {
        tracing::info!(by = %by, command = ?command, "a command");
        self.journal.mark(now, Mark::Commanded { by: by.to_string(), what: format!("{command:?}") });
        self.next_reply += 1;
        let reply_to = self.next_reply;
        self.replies.insert(reply_to, reply);
        match command {
            Command::Acknowledge { incident, note, cluster: None } if self.engine.leads() => {
                self.closed.acknowledge(now, by, incident, note, reply_to);
            }
            command => self.engine.handle(now, Event::Commanded { by, command, reply_to }),
        }
    }

    fn answered(&mut self, now: Time, answer: Inner) {
        match answer {
            Inner::Event(event) => self.engine.handle(now, event),
            Inner::Stored(id, Ok(())) => self.engine.handle(now, Event::Persisted(id)),
            Inner::Stored(_, Err(error)) if self.several.is_some() && matches!(error, StoreError::Conflict(_)) => {
                // Of a term that is over it says nothing.
                if self.term().is_ok() {
                    self.read_anew(now, &error);
                }
            }
            Inner::Stored(id, Err(error)) => {
                let conflict = matches!(error, StoreError::Conflict(_));
                self.engine.handle(now, Event::PersistFailed { id, conflict, reason: error.to_string() });
            }
            // What a former term had begun is looked at again by whoever leads now.
            Inner::Ended(term, event) => {
                if self.term() == Ok(term) {
                    self.engine.handle(now, event);
                }
            }
            Inner::Read(epoch, read) => self.has_read(now, epoch, read),
            Inner::Closed(incident) => {
                self.tell(now, Notice::IncidentUpdated(incident));
            }
        }
    }

    /// Drains the engine's effects.
    fn carry_out(&mut self) {
        while let Some(effect) = self.engine.poll_effect() {
            let now = clock::now();
            match effect {
                // The store's task answers with `Stored`; until then the engine holds back what follows.
                Effect::Persist { id, mut records } => {
                    // Where this arbiter leads no more, the next turn forgets what was to be written.
                    if let Ok(term) = self.term() {
                        closed::mark_untold(&mut records);
                        drop(self.to_store.send((id, term, records)));
                    }
                }
                Effect::Run(run) => self.start(*run),
                Effect::Tell(notice) => self.tell(now, *notice),
                Effect::Reply { to, result } => {
                    if let Some(reply) = self.replies.remove(&to) {
                        drop(reply.send(result));
                    }
                }
            }
        }
    }

    /// Who should hold which lease, and whom nodes should follow.
    fn tell_agents(&self) {
        let Some(link) = &self.link else { return };
        let standing = |primary: PrimaryView| {
            let appointed = self.engine.appointment(&primary.cluster);
            let fenced = self.engine.quarantined(&primary.cluster);
            (primary.cluster.clone(), Standing { appointed, primary, fenced })
        };
        // Whoever only watches gives no orders: what it knows may be over.
        let standings = if self.term().is_ok() {
            self.engine.primaries().into_iter().map(standing).collect()
        } else {
            BTreeMap::new()
        };
        link.set_standings(&self.handle, standings);
    }

    fn start(&mut self, run: Run) {
        // The lease is over since the turn began; the next one says so to the engine.
        let Ok(term) = self.term() else { return };
        let cluster = run.order.target.cluster.clone();
        let (hands, policy) = match self.frozen.get(&run.token.incident) {
            Some((hands, policy)) => (Arc::clone(hands), policy.clone()),
            None => {
                let Some(hands) = self.hands.get(&cluster).cloned() else {
                    tracing::error!(%cluster, "an act for a cluster that is not in the file");
                    return;
                };
                self.frozen.insert(run.token.incident.clone(), (Arc::clone(&hands), None));
                (hands, None)
            }
        };
        let to_inner = self.to_inner.clone();
        let lease = self.several.as_ref().map(Several::lease);
        tokio::spawn(async move {
            crash::point("before-act", &run.action);
            // The process may have been stopped between the decision and this moment.
            if lease.is_some_and(|lease| !lease.holds(term)) {
                return;
            }
            let result = hands.carry_out(&run, policy.as_deref()).await;
            crash::point("after-act", &run.action);
            drop(to_inner.send(Inner::Ended(term, Event::StepEnded { token: run.token, result })));
        });
    }

    fn tell(&mut self, now: Time, notice: Notice) {
        let anchor = self.engine.anchor();
        if let Notice::PrimaryChanged { cluster, .. } = &notice {
            self.publish(cluster);
        }
        self.journal.told(now, &notice);
        if let Notice::RuleFired { cluster, explanation } = &notice {
            self.count(now, cluster, explanation);
        }
        if let Notice::RuleFired { cluster, explanation } = &notice
            && explanation.then == Reaction::Redirect
            && !explanation.shadow
        {
            self.redirect_again(cluster, &explanation.rule);
        }
        if let Notice::IncidentUpdated(incident) = &notice
            && incident.is_closed()
        {
            self.frozen.remove(&incident.id);
        }
        let arbiter = &self.engine.policy().arbiter.name;
        // Of a cluster, only the one that leads reports: the others see the same.
        let is_told = self.engine.leads() || matches!(notice, Notice::Own { .. });
        if is_told && let Some(report) = reports::report_of(now, anchor, arbiter, &notice) {
            match &notice {
                Notice::IncidentUpdated(incident) if incident.is_closed() => {
                    let kept = self.outbox.send_and_keep(report, SPOOLED_WITHIN);
                    self.closed.handed_over(incident.id.clone(), kept);
                }
                _ => self.outbox.send(report),
            }
        }
        let timed = TimedNotice { at: now, anchor, notice };
        events::emit(&timed, &self.metrics);
        // Nobody listening is no error.
        drop(self.notices.send(Arc::new(timed)));
    }

    /// Counts a rule that became true. Of one that only watches and would act: whether it could have.
    fn count(&mut self, now: Time, cluster: &ClusterName, fired: &RuleExplanation) {
        let guards = self.tallies.fired(now, &self.engine, cluster, fired);
        let Some(guards) = guards else { return };
        let (name, rule) = (cluster.as_str(), fired.rule.as_str());
        let result = if guards.is_empty() { "would_act" } else { "held_back" };
        self.metrics.rule_would_act.with_label_values(&[name, rule, result]).inc();
        for guard in &guards {
            self.metrics.rule_held_back.with_label_values(&[name, rule, guard.as_str()]).inc();
        }
        self.journal.mark(now, Mark::WouldAct { cluster: cluster.clone(), rule: fired.rule.clone(), guards });
    }

    /// Tells nodes and clients once more who is primary, as it stands: the same epoch, the same member. Not while a saga is
    /// under way, which does so itself.
    fn redirect_again(&self, cluster: &ClusterName, rule: &RuleName) {
        let view = self.engine.primaries().into_iter().find(|view| view.cluster == *cluster);
        let Some(PrimaryView { primary: Some(member), address: Some(address), epoch, .. }) = view else { return };
        let policy = self.engine.policy();
        let (Some(hands), Some(policy)) = (self.hands.get(cluster), policy.clusters.get(cluster)) else { return };
        if !self.engine.leads() || policy.mode != Mode::Auto || self.engine.incident(cluster).is_some() {
            tracing::warn!(
                %cluster,
                %rule,
                "nobody is redirected by the rule: another arbiter leads, the mode is not auto, or an incident is under way"
            );
            return;
        }
        let target = Target { cluster: cluster.clone(), member, address };
        let incident = format!("rule-{rule}").replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let order = Order { target, epoch, incident: incident.into() };
        let (hands, methods) = (Arc::clone(hands), policy.failover.redirect.clone());
        tokio::spawn(async move {
            for (label, result) in hands.redirect_again(&order, &methods).await {
                tracing::warn!(cluster = %order.target.cluster, member = %order.target.member, label, ?result, "redirected by a rule");
            }
        });
    }

    fn publish(&mut self, cluster: &ClusterName) {
        let view = self.engine.primaries().into_iter().find(|v| v.cluster == *cluster);
        if let (Some(view), Some(sender)) = (view, self.primaries.get(cluster)) {
            sender.send_replace(view);
        }
    }

    /// Loads the file anew. A bad one changes nothing. What only a start can change is said.
    fn load(&mut self) -> Result<String, String> {
        let result = self.try_load();
        self.metrics.config_reload_ok.set(i64::from(result.is_ok()));
        match &result {
            Ok(text) => tracing::info!("{text}"),
            Err(text) => tracing::error!("the file was not loaded, the old policy stays:\n{text}"),
        }
        (self.on_loaded)(result.is_ok());
        result
    }

    fn try_load(&mut self) -> Result<String, String> {
        let mut config = (self.reload)()?;
        if self.several.is_some() {
            config.become_instance(&self.config.load().arbiter.name);
        }
        let hands = hands::build(&config, self.link.as_ref())?;
        let now = clock::now();
        // Open incidents keep the hands that they began with.
        for view in self.engine.primaries() {
            if let (Some(incident), Some(hands)) = (self.engine.incident(&view.cluster), self.hands.get(&view.cluster))
            {
                self.frozen.entry(incident.id.clone()).or_insert_with(|| (Arc::clone(hands), None));
            }
        }
        // One that was taken up from the log has the hands of the file as it stood then, which may have been changed
        // meanwhile; each place is compared with what the incident began with, so the newest file is as good.
        for (held, meant) in self.frozen.values_mut() {
            let cluster = meant.as_ref().map(|policy| &policy.name);
            if let Some(new) = cluster.and_then(|cluster| hands.get(cluster)) {
                *held = Arc::clone(new);
            }
        }
        let old = self.config.load_full();
        let mut text = format!("policy {} is in force", config.policy.hash);
        if old.arbiter.http != config.arbiter.http
            || old.arbiter.udp != config.arbiter.udp
            || old.arbiter.socket != config.arbiter.socket
            || old.arbiter.store != config.arbiter.store
            || shared_of(&old) != shared_of(&config)
        {
            text.push_str("; a change of addresses or of the store takes effect at the next start");
        }
        let policy = config.policy.clone();
        self.config.store(Arc::new(config));
        self.hands = hands;
        self.engine.handle(now, Event::PolicyLoaded(Box::new(policy)));
        publish_all(&self.engine, &mut self.primaries, &self.handle);
        (self.on_reloaded)(&self.hands);
        Ok(text)
    }
}

/// What only a start can change of a shared store.
fn shared_of(config: &Config) -> Option<(&str, Duration, Duration)> {
    config.arbiter.shared.as_ref().map(|shared| (shared.url.expose(), shared.heartbeat, shared.valid_for))
}

/// Publishes whom to follow in every cluster, and forgets clusters that are gone.
pub(super) fn publish_all(
    engine: &Engine,
    primaries: &mut BTreeMap<ClusterName, watch::Sender<PrimaryView>>,
    handle: &Handle,
) {
    let views = engine.primaries();
    primaries.retain(|name, _| views.iter().any(|v| v.cluster == *name));
    for view in views {
        match primaries.get(&view.cluster) {
            Some(sender) => drop(sender.send_replace(view)),
            None => drop(primaries.insert(view.cluster.clone(), watch::channel(view).0)),
        }
    }
    let receivers = primaries.iter().map(|(name, sender)| (name.clone(), sender.subscribe())).collect();
    handle.primaries.store(Arc::new(receivers));
}

/// Writes the engine's records one after the other and answers each.
pub(super) async fn write_records(
    store: Arc<dyn Store>,
    shared: Option<Arc<SharedStore>>,
    mut records: mpsc::UnboundedReceiver<(u64, Option<u64>, Vec<Record>)>,
    to_inner: mpsc::UnboundedSender<Inner>,
    metrics: Arc<Metrics>,
) {
    while let Some((id, term, records)) = records.recv().await {
        let watch = Stopwatch::start();
        let result = match (&shared, term) {
            (Some(shared), Some(term)) => shared.persist_as(term, &records).await,
            _ => store.persist(&records).await,
        };
        metrics.persist_duration.observe(watch.elapsed().as_secs_f64());
        if result.is_err() {
            metrics.persist_failures.inc();
        }
        crash::point_records("after-persist", &records);
        if to_inner.send(Inner::Stored(id, result)).is_err() {
            return;
        }
    }
}

fn is_wanted(test: &FenceTest, member: &MemberName, method: &str) -> bool {
    test.member.as_ref().is_none_or(|only| only == member)
        && test.method.as_deref().is_none_or(|only| is_meant(method, only))
}

/// Why nothing would be rehearsed.
fn nothing_to_rehearse(policy: &ClusterPolicy, test: &FenceTest) -> Option<String> {
    if let Some(member) = test.member.as_ref().filter(|member| policy.member(member).is_none()) {
        let members: Vec<&str> = policy.members.iter().map(|member| member.name.as_str()).collect();
        return Some(format!("{} has no member {member}: its members are {}", policy.name, members.join(", ")));
    }
    let methods = || policy.failover.fence.iter().flatten();
    let is_any = methods()
        .any(|spec| policy.members.iter().any(|m| spec.applies_to(&m.name) && is_wanted(test, &m.name, &spec.label)));
    if is_any || (methods().next().is_none() && test.method.is_none()) {
        return None;
    }
    let labels: Vec<&str> = methods().map(|spec| spec.label.as_str()).collect();
    Some(format!(
        "no such fence there: the file has {}",
        if labels.is_empty() { "none".into() } else { labels.join(", ") }
    ))
}

fn report_of_test(policy: &ClusterPolicy, test: &FenceTest, mut rehearsals: Vec<Rehearsal>) -> FenceTestReport {
    let needed = policy.failover.proof_needed;
    // What was not asked for now counts by its newest rehearsal.
    let members = policy.members.iter().map(|member| &member.name);
    let members = members.filter(|name| test.member.as_ref().is_none_or(|only| only == *name));
    let members = members.map(|name| FenceReach::of(name, &rehearsals, needed, policy.has_broker)).collect();
    rehearsals.retain(|rehearsal| is_wanted(test, &rehearsal.member, &rehearsal.method));
    FenceTestReport {
        cluster: policy.name.clone(),
        proof_needed: needed,
        has_lease: policy.failover.lease.is_some(),
        rehearsals,
        members,
    }
}

/// Exercises all fence paths without harm, again and again.
pub(super) async fn check_fences(handle: Handle, hands: AllHands, to_inner: mpsc::UnboundedSender<Inner>) {
    loop {
        let config = handle.config();
        for (cluster, policy) in &config.policy.clusters {
            let Some(hands) = hands.get(cluster) else { continue };
            for rehearsed in hands.rehearse(policy, &FenceTest::default(), FENCE_CHECK_WITHIN).await {
                handle.rehearsals.note(clock::now(), policy, &rehearsed);
                if to_inner.send(Inner::Event(rehearsed.event(cluster.clone()))).is_err() {
                    return;
                }
            }
        }
        sleep(config.arbiter.check_fences_every).await;
    }
}

/// Forgets what the store keeps beyond its bounds.
pub(super) async fn trim_store(store: Arc<dyn Store>) {
    loop {
        sleep(TRIM_EVERY).await;
        if let Err(error) = store.trim().await {
            tracing::warn!(%error, "the history could not be trimmed");
        }
    }
}

/// Asks the store again and again whether it takes intents, so that its loss is known before it matters.
pub(super) async fn check_store(store: Arc<dyn Store>, to_inner: mpsc::UnboundedSender<Inner>) {
    loop {
        sleep(Duration::from_secs(5)).await;
        let event = match store.check().await {
            Ok(()) => Event::StoreHealth { ok: true, detail: String::new() },
            Err(error) => Event::StoreHealth { ok: false, detail: error.to_string() },
        };
        if to_inner.send(Inner::Event(event)).is_err() {
            return;
        }
    }
}

/// The hands for incidents that were under way when the last life ended.
pub(super) fn frozen_hands(
    open: &[OpenIncident],
    hands: &AllHands,
) -> HashMap<IncidentId, (Arc<Hands>, Option<Arc<ClusterPolicy>>)> {
    open.iter()
        .filter_map(|open| {
            let policy = open.policy.clusters.get(&open.incident.cluster).cloned().map(Arc::new);
            Some((open.incident.id.clone(), (Arc::clone(hands.get(&open.incident.cluster)?), policy)))
        })
        .collect()
}
