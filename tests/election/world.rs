//! A world with a true time that nobody in it can read: candidates with clocks of their own, a database whose clock does
//! what it likes, messages that are late or lost, processes that stand still.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use coroner::{
    election::{Action, Candidate, Settings, Standing},
    model::{
        Time,
        time::{Moment, Mono},
    },
    registry::{Beaten, Instance, RegistryError},
};

use crate::database::Database;

/// True time, in microseconds.
pub type Micros = u64;

pub const MS: Micros = 1_000;
pub const SECOND: Micros = 1_000 * MS;

/// SplitMix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Whether something with that chance in a thousand happens.
    pub fn permille(&mut self, chance: u64) -> bool {
        self.below(1_000) < chance
    }
}

/// What the network and the database do to requests.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Chances in a thousand.
    pub lost_request: u64,
    pub lost_answer: u64,
    /// One way, at most.
    pub delay: Micros,
    /// Chance in a thousand of ten times that.
    pub slow: u64,
}

pub const FAIR: Weather = Weather { lost_request: 0, lost_answer: 0, delay: 2 * MS, slow: 0 };

#[derive(Clone, Debug)]
enum Answer {
    Beaten(Result<Beaten, RegistryError>),
    Claimed(Result<(), RegistryError>),
    Looked(Result<Vec<Instance>, RegistryError>),
    Left,
}

#[derive(Clone, Debug)]
enum Event {
    Wake { who: usize, life: u64 },
    Arrives { who: usize, life: u64, call: u64, action: Action },
    Answered { who: usize, life: u64, call: u64, answer: Answer },
    GivenUp { who: usize, life: u64, call: u64 },
}

struct Queued(Micros, u64, Event);

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// One process.
struct Process {
    candidate: Candidate,
    /// Thousandths by which its clock is fast.
    rate_permille: i64,
    offset: Micros,
    /// It grows when the process dies, so that old events find nobody.
    life: u64,
    is_up: bool,
    paused_until: Micros,
    is_cut: bool,
    call: u64,
    /// Older wake-ups are void.
    wakes_at: Micros,
    under_way: Option<(u64, Moment, Action)>,
    /// Until then, by true time, what it started as a leader may run.
    acts_until: Micros,
    epoch: Option<u64>,
}

/// All of it.
pub struct World {
    pub now: Micros,
    pub database: Database,
    pub database_runs: bool,
    pub weather: Weather,
    /// One after the other: who led, in which epoch, from when.
    pub history: Vec<(usize, u64, Micros)>,
    settings: Settings,
    processes: Vec<Process>,
    queue: BinaryHeap<Reverse<Queued>>,
    number: u64,
    dice: Dice,
    micros_left: Micros,
}

impl World {
    pub fn new(seed: u64, processes: usize, settings: &Settings) -> Self {
        settings.check().unwrap();
        let mut world = Self {
            now: 0,
            database: Database { now_ms: 1_000_000, ..Database::default() },
            database_runs: true,
            weather: FAIR,
            history: Vec::new(),
            settings: settings.clone(),
            processes: Vec::new(),
            queue: BinaryHeap::new(),
            number: 0,
            dice: Dice(seed),
            micros_left: 0,
        };
        let rate = u64::from(settings.clock_rate_permille);
        for _ in 0..processes {
            let rate_permille = i64::try_from(world.dice.below(2 * rate + 1)).unwrap() - i64::try_from(rate).unwrap();
            let offset = world.dice.below(1_000 * SECOND);
            world.processes.push(Process {
                candidate: Candidate::new(settings.clone()),
                rate_permille,
                offset,
                life: 0,
                is_up: false,
                paused_until: 0,
                is_cut: false,
                call: 0,
                wakes_at: 0,
                under_way: None,
                acts_until: 0,
                epoch: None,
            });
        }
        world
    }

    fn moment(&self, who: usize) -> Moment {
        let process = &self.processes[who];
        let own = (self.now + process.offset) * u64::try_from(1_000 + process.rate_permille).unwrap();
        // Microseconds times a thousand are nanoseconds.
        Moment { boot: Time(own), mono: Mono(own) }
    }

    /// How long that is in true time, rounded up.
    fn true_span(&self, who: usize, own: Duration) -> Micros {
        let rate = u64::try_from(1_000 + self.processes[who].rate_permille).unwrap();
        u64::try_from(own.as_nanos()).unwrap().div_ceil(rate)
    }

    fn push(&mut self, at: Micros, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Queued(at, self.number, event)));
    }

    // What a test does.

    pub fn start(&mut self, who: usize) {
        if self.processes[who].is_up {
            return;
        }
        let mut settings = self.settings.clone();
        settings.instance = format!("app{who}");
        let process = &mut self.processes[who];
        process.is_up = true;
        process.life += 1;
        process.candidate = Candidate::new(settings);
        process.under_way = None;
        process.paused_until = 0;
        process.wakes_at = self.now;
        let life = process.life;
        self.push(self.now, Event::Wake { who, life });
    }

    /// kill -9: what it started is stopped within the time to stop.
    pub fn kill(&mut self, who: usize) {
        self.processes[who].is_up = false;
        self.processes[who].life += 1;
        self.stops(who);
    }

    pub fn pause(&mut self, who: usize, span: Micros) {
        self.processes[who].paused_until = self.now + span;
    }

    pub fn cut(&mut self, who: usize, is_cut: bool) {
        self.processes[who].is_cut = is_cut;
    }

    /// A clean stop: the work first, then the word to the others.
    pub fn leave(&mut self, who: usize) {
        if self.processes[who].is_up && self.processes[who].paused_until <= self.now {
            self.processes[who].candidate.leave();
            self.processes[who].acts_until = self.now;
            self.processes[who].epoch = None;
            self.drive(who);
        }
    }

    pub fn step_clock(&mut self, by_ms: i64) {
        self.database.now_ms += by_ms;
    }

    pub fn standing(&self, who: usize) -> Standing {
        self.processes[who].candidate.standing(self.moment(who))
    }

    /// Who may act now.
    pub fn leaders(&self) -> Vec<usize> {
        (0..self.processes.len()).filter(|who| self.processes[*who].acts_until > self.now).collect()
    }

    pub fn is_set_back(&self, who: usize) -> bool {
        matches!(self.standing(who), Standing::Outside { reason } if reason.contains("set back"))
    }

    /// Lets true time go on.
    pub fn run_for(&mut self, span: Micros) {
        let end = self.now + span;
        while let Some(Reverse(Queued(at, ..))) = self.queue.peek()
            && *at <= end
        {
            let Some(Reverse(Queued(at, _, event))) = self.queue.pop() else { break };
            self.set_time(at);
            self.handle(event);
        }
        self.set_time(end);
    }

    fn set_time(&mut self, at: Micros) {
        if self.database_runs {
            self.micros_left += at - self.now;
            self.database.now_ms += i64::try_from(self.micros_left / MS).unwrap();
            self.micros_left %= MS;
        }
        self.now = at;
    }

    fn handle(&mut self, event: Event) {
        let (who, life) = match &event {
            Event::Wake { who, life } | Event::Answered { who, life, .. } | Event::GivenUp { who, life, .. } => {
                (*who, *life)
            }
            Event::Arrives { who, life, call, action } => {
                let (who, life, call, action) = (*who, *life, *call, action.clone());
                return self.arrive(who, life, call, &action);
            }
        };
        if life != self.processes[who].life {
            return;
        }
        let is_wake = matches!(event, Event::Wake { .. });
        if is_wake && self.processes[who].wakes_at != self.now {
            return;
        }
        // Who is paused finds everything afterwards.
        let paused_until = self.processes[who].paused_until;
        if paused_until > self.now {
            if is_wake {
                self.processes[who].wakes_at = paused_until;
            }
            return self.push(paused_until, event);
        }
        match event {
            Event::Wake { .. } | Event::Arrives { .. } => {}
            Event::Answered { call, answer, .. } => self.answered(who, call, answer),
            Event::GivenUp { call, .. } => {
                let lost = || RegistryError::Unknown("no answer".into());
                let is_it = |(number, ..): &(u64, Moment, Action)| *number == call;
                let answer =
                    self.processes[who].under_way.as_ref().filter(|u| is_it(u)).map(|(.., action)| match action {
                        Action::Beat(_) => Answer::Beaten(Err(lost())),
                        Action::Claim(_) => Answer::Claimed(Err(lost())),
                        Action::Look => Answer::Looked(Err(lost())),
                        Action::Leave { .. } => Answer::Left,
                    });
                if let Some(answer) = answer {
                    self.answered(who, call, answer);
                }
            }
        }
        self.drive(who);
    }

    fn answered(&mut self, who: usize, call: u64, answer: Answer) {
        let now = self.moment(who);
        let process = &mut self.processes[who];
        let Some((_, sent, _)) = process.under_way.take_if(|(number, ..)| *number == call) else { return };
        match answer {
            Answer::Beaten(result) => process.candidate.handle_beaten(sent, now, result),
            Answer::Claimed(result) => process.candidate.handle_claimed(sent, now, &result),
            Answer::Looked(result) => process.candidate.handle_looked(sent, now, &result),
            Answer::Left => process.candidate.handle_left(now),
        }
    }

    fn arrive(&mut self, who: usize, life: u64, call: u64, action: &Action) {
        let answer = match action {
            Action::Beat(beat) => Answer::Beaten(Ok(self.database.beat(beat))),
            Action::Claim(leader) => Answer::Claimed(self.database.claim(leader)),
            Action::Look => Answer::Looked(Ok(self.database.instances("g", Candidate::LOOK_ROWS))),
            Action::Leave { id } => {
                self.database.leave(*id);
                Answer::Left
            }
        };
        if !self.dice.permille(self.weather.lost_answer) && !self.processes[who].is_cut {
            let at = self.now + self.delay();
            self.push(at, Event::Answered { who, life, call, answer });
        }
    }

    fn delay(&mut self) -> Micros {
        let delay = self.dice.below(self.weather.delay) + 1;
        if self.dice.permille(self.weather.slow) { 10 * delay } else { delay }
    }

    /// Asks the candidate what it wants, and looks at what it may do.
    fn drive(&mut self, who: usize) {
        let now = self.moment(who);
        self.judge(who);
        let life = self.processes[who].life;
        if let Some(action) = self.processes[who].candidate.poll_action(now) {
            let process = &mut self.processes[who];
            process.call += 1;
            let call = process.call;
            process.under_way = Some((call, now, action.clone()));
            let is_cut = process.is_cut;
            let patience = self.settings.heartbeat_every;
            self.push(self.now + self.true_span(who, patience), Event::GivenUp { who, life, call });
            if !is_cut && !self.dice.permille(self.weather.lost_request) {
                let at = self.now + self.delay();
                self.push(at, Event::Arrives { who, life, call, action });
            }
        }
        while self.processes[who].candidate.poll_notice().is_some() {}
        if let Some(wait) = self.processes[who].candidate.poll_timeout(now) {
            let at = self.now + self.true_span(who, wait).max(1);
            self.processes[who].wakes_at = at;
            self.push(at, Event::Wake { who, life });
        }
    }

    fn judge(&mut self, who: usize) {
        match self.standing(who) {
            Standing::Leader { epoch, until } => {
                let ends = until.boot + self.settings.stop_time;
                let end = self.now + self.true_span(who, ends.since(self.moment(who).boot));
                let others: Vec<usize> = self.leaders().into_iter().filter(|other| *other != who).collect();
                assert!(
                    others.is_empty(),
                    "two lead at {} µs: {who} in epoch {epoch} and {others:?}; {:?}",
                    self.now,
                    self.database
                );
                let process = &mut self.processes[who];
                process.acts_until = end;
                if process.epoch != Some(epoch) {
                    process.epoch = Some(epoch);
                    if let Some((_, last, _)) = self.history.last() {
                        assert!(*last < epoch, "epochs grow: {epoch} after {last}");
                    }
                    self.history.push((who, epoch, self.now));
                }
            }
            Standing::Standby { .. } | Standing::Outside { .. } => {
                if self.processes[who].epoch.take().is_some() {
                    self.stops(who);
                }
            }
        }
    }

    /// It stops what it started: within the time to stop, and before the lease ends.
    fn stops(&mut self, who: usize) {
        let stopped = self.now + self.true_span(who, self.settings.stop_time);
        let process = &mut self.processes[who];
        process.acts_until = process.acts_until.min(stopped);
        process.epoch = None;
    }
}
