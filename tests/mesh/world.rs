//! A small world of parties: one true time, clocks that run at different rates, a network that loses, repeats, delays and
//! overtakes, disks that take their time, hosts that sleep, processes that are started again. All from one seed.
//!
//! After every event it checks what must never be so.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::SocketAddr,
    time::Duration,
};

use coroner::{
    lease::arithmetic::wait,
    mesh::{
        keys::PrivateKey,
        message::{DeedOrder, Life},
        party::{ClusterSetup, Durable, Input, Output, Party, PeerSetup, Sealing, Setup},
    },
    model::{
        ClusterName, Epoch, FenceReport, MemberName, PartyName, Proof, StepResult, Time,
        agent::{Deed, DeedResult, MemberReport, OrderId},
        policy::LeasePolicy,
        time::{Moment, Mono},
    },
};

pub const MS: u64 = 1_000_000;
pub const CLUSTER: &str = "orders";

/// A small generator: the same seed, the same world, on every machine.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to below `high`.
    pub const fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    pub const fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    Deliver { to: usize, from: usize, bytes: Vec<u8> },
    Persisted { host: usize, life: u64, id: u64, durable: Vec<u8> },
    Answered { host: usize, life: u64, id: OrderId },
    Wake { host: usize },
}

pub struct Host {
    pub name: PartyName,
    pub is_up: bool,
    pub is_asleep: bool,
    pub life: u64,
    pub party: Party,
    pub durable: Durable,
    rate: u64,
    offset: u64,
    slept: u64,
    asleep_since: u64,
    late: Vec<(usize, Vec<u8>)>,
    /// The kernel's gate: open until then on this host's CLOCK_BOOTTIME; in which epoch it was opened.
    gate: Option<(Time, Epoch)>,
    /// Until when, in true time, something may leave the host.
    leaves_until: u64,
    executed: BTreeSet<(u64, OrderId)>,
    pub may_renew: bool,
}

#[derive(Clone, Debug)]
pub struct Network {
    pub cuts: BTreeSet<(usize, usize)>,
    pub loss_percent: u64,
    pub twice_percent: u64,
    pub delay: (u64, u64),
    pub straggler_percent: u64,
}

impl Network {
    pub fn good() -> Self {
        Self { cuts: BTreeSet::new(), loss_percent: 0, twice_percent: 0, delay: (MS / 10, MS), straggler_percent: 0 }
    }
}

pub struct World {
    pub now: u64,
    pub hosts: Vec<Host>,
    pub network: Network,
    pub random: Random,
    pub lease: LeasePolicy,
    pub relays: bool,
    /// How long a record takes to be durable.
    pub disk: (u64, u64),
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    number: u64,
    /// What the arbiters' parties told, in order: true time, host, what.
    pub told: Vec<(u64, usize, Output)>,
    /// Lapses of an appointed member's service: host, from, to, in true time.
    pub lapses: Vec<(usize, u64, u64)>,
    pub sent: u64,
    /// All datagrams, if wanted: to whom, from whom, bytes.
    pub recorded: Option<Vec<(usize, usize, Vec<u8>)>>,
    /// What was found that must not be.
    pub broken: Vec<String>,
    pub is_lease_over: Vec<(u64, usize, String)>,
    pub executed: Vec<(usize, DeedOrder)>,
}

pub fn cluster() -> ClusterName {
    CLUSTER.into()
}

pub fn key_of(index: usize) -> PrivateKey {
    PrivateKey::from_seed([u8::try_from(index).unwrap() + 1; 32]).unwrap()
}

pub fn address(index: usize) -> SocketAddr {
    format!("10.0.0.{}:7401", index + 1).parse().unwrap()
}

pub fn usual_lease(voters: &[&str]) -> LeasePolicy {
    let (length, enforced_within) = (Duration::from_millis(200), Duration::from_millis(12));
    LeasePolicy {
        length,
        renew_every: length / 4,
        enforced_within,
        clock_rate_permille: 100,
        wait: wait(length, enforced_within, 100),
        voters: voters.iter().map(|name| PartyName::from(*name)).collect(),
    }
}

/// Names that begin with `arbiter` are arbiters, with `node` nodes; all others guard a member of their own name.
pub fn setup_of(names: &[&str], me: usize, life: u64, lease: &LeasePolicy, relays: bool) -> Setup {
    let is_member = |name: &str| !name.starts_with("arbiter") && !name.starts_with("node");
    let parties = names.iter().enumerate().map(|(index, name)| {
        let peer = PeerSetup {
            public_key: key_of(index).public().0,
            address: address(index),
            is_arbiter: name.starts_with("arbiter"),
        };
        (PartyName::from(*name), peer)
    });
    let name = names[me];
    let taken_part = ClusterSetup {
        lease: Some(lease.clone()),
        guards: is_member(name).then(|| name.into()),
        observes_for: name.starts_with("node").then(|| name.into()),
        members: names.iter().filter(|name| is_member(name)).map(|name| ((*name).into(), (*name).into())).collect(),
        restart_grace: Duration::from_secs(1),
    };
    Setup {
        me: name.into(),
        life: Life(life),
        parties: parties.collect(),
        clusters: BTreeMap::from([(cluster(), taken_part)]),
        relays,
        ping_every: Duration::from_millis(50),
        beat_every: Duration::from_millis(100),
        order_valid_for: Duration::from_millis(500),
    }
}

impl World {
    pub fn new(seed: u64, names: &[&str], voters: &[&str]) -> Self {
        let mut world = Self {
            now: 0,
            hosts: Vec::new(),
            network: Network::good(),
            random: Random::new(seed),
            lease: usual_lease(voters),
            relays: true,
            disk: (MS / 10, 5 * MS),
            events: BinaryHeap::new(),
            number: 0,
            told: Vec::new(),
            lapses: Vec::new(),
            sent: 0,
            recorded: None,
            broken: Vec::new(),
            is_lease_over: Vec::new(),
            executed: Vec::new(),
        };
        for (index, name) in names.iter().enumerate() {
            let rate = world.random.within(900, 1_101);
            let offset = world.random.within(1_000 * MS, 1_000_000 * MS);
            let setup = setup_of(names, index, 0, &world.lease, true);
            world.hosts.push(Host {
                name: (*name).into(),
                is_up: false,
                is_asleep: false,
                life: 0,
                party: Party::new(Moment::default(), setup, key_of(index), Durable::default()),
                durable: Durable::default(),
                rate,
                offset,
                slept: 0,
                asleep_since: 0,
                late: Vec::new(),
                gate: None,
                leaves_until: 0,
                executed: BTreeSet::new(),
                may_renew: true,
            });
        }
        world
    }

    pub fn with_clocks(mut self, rate: u64) -> Self {
        for host in &mut self.hosts {
            host.rate = rate;
        }
        self
    }

    pub fn start_all(&mut self) {
        for host in 0..self.hosts.len() {
            self.start(host);
        }
    }

    pub fn index(&self, name: &str) -> usize {
        self.hosts.iter().position(|host| host.name.as_str() == name).unwrap()
    }

    pub fn moment(&self, host: usize) -> Moment {
        let host = &self.hosts[host];
        let boot = host.offset + host.boot_since_start(self.now);
        Moment { boot: Time(boot), mono: Mono(boot - host.slept) }
    }

    /// The process is started, with what is durable.
    pub fn start(&mut self, index: usize) {
        let names: Vec<String> = self.hosts.iter().map(|host| host.name.as_str().to_owned()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let life = self.random.next() | 1;
        let setup = setup_of(&names, index, life, &self.lease, self.relays);
        let now = self.moment(index);
        let host = &mut self.hosts[index];
        host.life = life;
        host.is_up = true;
        host.party = Party::new(now, setup, key_of(index), host.durable.clone());
        self.drain(index);
        self.tell_member(index);
    }

    pub fn tell_member(&mut self, index: usize) {
        let may_renew = self.hosts[index].may_renew;
        let input = Input::Member { cluster: cluster(), report: Box::default(), may_renew };
        self.feed(index, input);
    }

    /// The process is killed; the kernel's gate stays as it is.
    pub fn kill(&mut self, index: usize) {
        self.hosts[index].is_up = false;
        self.hosts[index].late.clear();
    }

    /// The host is suspended.
    pub fn sleep(&mut self, index: usize, for_ns: u64) {
        if self.hosts[index].is_asleep {
            return;
        }
        self.hosts[index].is_asleep = true;
        self.hosts[index].asleep_since = self.now;
        self.at(self.now + for_ns, Event::Wake { host: index });
    }

    pub fn at(&mut self, time: u64, event: Event) {
        self.number += 1;
        self.events.push(Reverse((time.max(self.now), self.number, event)));
    }

    pub fn feed(&mut self, index: usize, input: Input) {
        if !self.hosts[index].is_up || self.hosts[index].is_asleep {
            return;
        }
        let now = self.moment(index);
        self.hosts[index].party.handle(now, input);
        self.drain(index);
    }

    pub fn order(&mut self, to: usize, id: u32, epoch: Epoch, deed: Deed) -> OrderId {
        let member = MemberName::from(self.hosts[to].name.as_str());
        let id = OrderId { incident: "incident".into(), number: id };
        let order = DeedOrder {
            id: id.clone(),
            cluster: cluster(),
            member,
            epoch,
            challenge: 0,
            deed,
            deadline: Duration::from_millis(800),
        };
        let to = self.hosts[to].name.clone();
        self.feed(0, Input::Order { to, order: Box::new(order) });
        id
    }

    /// Runs until that true time.
    pub fn run_until(&mut self, until: u64) {
        loop {
            let timer = (0..self.hosts.len()).filter_map(|host| Some((self.timer(host)?, host))).min();
            let event = self.events.peek().map(|Reverse((at, ..))| *at);
            let next = timer.map(|(at, _)| at).into_iter().chain(event).min().filter(|at| *at <= until);
            let Some(next) = next else {
                self.now = until;
                return;
            };
            self.now = self.now.max(next);
            if let (Some((at, host)), true) = (timer, event.is_none_or(|event| timer.is_some_and(|(at, _)| at < event)))
            {
                debug_assert!(at <= self.now);
                let now = self.moment(host);
                self.hosts[host].party.handle_timeout(now);
                self.drain(host);
                continue;
            }
            let Some(Reverse((_, _, event))) = self.events.pop() else { continue };
            if let Event::Persisted { host, .. } | Event::Answered { host, .. } = &event
                && self.hosts[*host].is_asleep
            {
                // Its disk sleeps too.
                self.at(self.now + MS, event);
                continue;
            }
            match event {
                Event::Deliver { to, from, bytes } => self.deliver(to, from, bytes),
                Event::Persisted { host, life, id, durable } => {
                    if self.hosts[host].life == life && self.hosts[host].is_up {
                        self.hosts[host].durable = serde_json::from_slice(&durable).unwrap();
                        self.feed(host, Input::Persisted(id));
                    }
                }
                Event::Answered { host, life, id } => {
                    if self.hosts[host].life == life {
                        let report = FenceReport::confirmed(Proof::Gate, "closed");
                        let result = DeedResult::Ended(Box::new(StepResult::Fenced(report)));
                        self.feed(host, Input::Answered { id, result });
                    }
                }
                Event::Wake { host } => {
                    let now = self.now;
                    let h = &mut self.hosts[host];
                    h.is_asleep = false;
                    h.slept += (now - h.asleep_since) * h.rate / 1_000;
                    for (from, bytes) in std::mem::take(&mut self.hosts[host].late) {
                        self.deliver(host, from, bytes);
                    }
                }
            }
        }
    }

    fn timer(&self, index: usize) -> Option<u64> {
        let host = &self.hosts[index];
        if !host.is_up || host.is_asleep {
            return None;
        }
        let boot = host.party.poll_timeout()?.0;
        Some(host.true_time_of(boot).max(self.now))
    }

    fn deliver(&mut self, to: usize, from: usize, bytes: Vec<u8>) {
        if self.hosts[to].is_asleep {
            self.hosts[to].late.push((from, bytes));
            return;
        }
        self.feed(to, Input::Datagram { bytes, source: address(from) });
    }

    fn send(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        let to = (0..self.hosts.len()).find(|index| address(*index) == to).unwrap();
        self.sent += 1;
        if let Some(recorded) = &mut self.recorded {
            recorded.push((to, from, bytes.clone()));
        }
        let network = self.network.clone();
        if network.cuts.contains(&(from, to)) {
            return;
        }
        let copies = 1 + u64::from(self.random.within(0, 100) < network.twice_percent);
        for _ in 0..copies {
            if self.random.within(0, 100) < network.loss_percent {
                continue;
            }
            let mut delay = self.random.within(network.delay.0, network.delay.1);
            if self.random.within(0, 100) < network.straggler_percent {
                delay += self.random.within(0, 400 * MS);
            }
            self.at(self.now + delay, Event::Deliver { to, from, bytes: bytes.clone() });
        }
    }

    fn drain(&mut self, index: usize) {
        while let Some(output) = self.hosts[index].party.poll_output() {
            match output {
                Output::Send { to, bytes } => self.send(index, to, bytes),
                Output::Persist { id, durable } => {
                    let after = self.random.within(self.disk.0, self.disk.1);
                    let (life, durable) = (self.hosts[index].life, serde_json::to_vec(&durable).unwrap());
                    self.at(self.now + after, Event::Persisted { host: index, life, id, durable });
                }
                Output::Gate { until, .. } => self.gate(index, until),
                Output::LeaseOver { why, .. } => self.is_lease_over.push((self.now, index, why)),
                Output::Ordered(order) => {
                    let life = self.hosts[index].life;
                    if !self.hosts[index].executed.insert((life, order.id.clone())) {
                        self.broken.push(format!("{} carried {:?} out twice", self.hosts[index].name, order.id));
                    }
                    // What an order does is done after the gate has really closed.
                    let at = self.now + 13 * MS;
                    self.at(at, Event::Answered { host: index, life, id: order.id.clone() });
                    self.executed.push((index, *order));
                }
                told => {
                    if let Output::Sealing(sealing) = &told {
                        self.check_sealing(sealing);
                    }
                    self.told.push((self.now, index, told));
                }
            }
        }
    }

    fn gate(&mut self, index: usize, until: Option<Time>) {
        let enforced = u64::try_from(self.lease.enforced_within.as_nanos()).unwrap();
        let now = self.now;
        let was_until = self.serves_until(index);
        let host = &mut self.hosts[index];
        match until {
            None => {
                host.leaves_until = host.leaves_until.min(now + enforced);
                host.gate = None;
            }
            Some(until) => {
                let epoch = host.party.durable().clusters[CLUSTER].appointed.unwrap_or_default();
                let true_until = host.true_time_of(until.0);
                if true_until > now {
                    if let Some(was_until) = was_until
                        && was_until < now
                    {
                        self.lapses.push((index, was_until, now));
                    }
                    host.gate = Some((until, epoch));
                    host.leaves_until = true_until + enforced;
                }
            }
        }
        self.check_gates();
    }

    fn serves_until(&self, index: usize) -> Option<u64> {
        let host = &self.hosts[index];
        host.gate.map(|(until, _)| host.true_time_of(until.0))
    }

    /// Whether clients can reach the member through its gate now.
    pub fn is_open(&self, index: usize) -> bool {
        self.serves_until(index).is_some_and(|until| until > self.now)
    }

    /// Never two members whose gates are open at once; what a closing gate lets out counts too.
    fn check_gates(&mut self) {
        let open: Vec<_> = (0..self.hosts.len()).filter(|index| self.is_open(*index)).collect();
        for index in open {
            for other in 0..self.hosts.len() {
                if other != index && self.hosts[other].leaves_until > self.now {
                    let (a, b) = (&self.hosts[index].name, &self.hosts[other].name);
                    self.broken.push(format!("at {} µs {a} serves while {b} may", self.now / 1_000));
                }
            }
        }
    }

    /// Never proof T while an older lease runs.
    fn check_sealing(&mut self, sealing: &Sealing) {
        if !sealing.is_over {
            return;
        }
        for host in &self.hosts {
            if let Some((_, epoch)) = host.gate
                && epoch < sealing.epoch
                && host.leaves_until > self.now
            {
                let late = (host.leaves_until - self.now) / 1_000;
                self.broken.push(format!("{} may serve in {epoch} for {late} µs, and {sealing:?}", host.name));
            }
        }
    }

    pub fn cut(&mut self, a: &str, b: &str) {
        let (a, b) = (self.index(a), self.index(b));
        self.network.cuts.extend([(a, b), (b, a)]);
    }

    /// Has the first member appointed in epoch 1, as an arbiter does at the start.
    pub fn appoint_first(&mut self, member: &str) {
        self.feed(0, Input::Seal { cluster: cluster(), epoch: Epoch(1) });
        let is_over = |world: &Self| world.is_over(1);
        self.run_while(2_000 * MS, |world| !is_over(world));
        assert!(is_over(self), "epoch 1 is sealed");
        let to = self.index(member);
        self.order(to, 1, Epoch(1), Deed::Appoint);
        self.run_while(self.now + 1_000 * MS, |world| !world.is_open(to));
        assert!(self.is_open(to), "the first primary serves");
    }

    pub fn run_while(&mut self, until: u64, holds: impl Fn(&Self) -> bool) {
        while self.now < until && holds(self) {
            let step = (self.now + MS).min(until);
            self.run_until(step);
        }
    }

    /// The newest that was told of sealing this epoch; of others it says nothing.
    pub fn sealing(&self, epoch: u64) -> Option<&Sealing> {
        self.told.iter().rev().find_map(|(_, _, told)| match told {
            Output::Sealing(sealing) if sealing.epoch == Epoch(epoch) => Some(sealing),
            _ => None,
        })
    }

    pub fn is_over(&self, epoch: u64) -> bool {
        self.sealing(epoch).is_some_and(|sealing| sealing.is_over)
    }

    pub fn answer(&self, id: &OrderId) -> Option<&DeedResult> {
        self.told.iter().rev().find_map(|(_, _, told)| match told {
            Output::Answer { id: of, result, .. } if of == id && *result != DeedResult::Taken => Some(result),
            _ => None,
        })
    }

    pub fn report_of(&self, member: &str) -> Option<&MemberReport> {
        self.told.iter().rev().find_map(|(_, _, told)| match told {
            Output::Heard { beat, .. } => {
                beat.members.iter().find(|(_, of, _)| of.as_str() == member).map(|(_, _, report)| report)
            }
            _ => None,
        })
    }

    pub fn assert_sound(&self, what: impl std::fmt::Display) {
        assert!(self.broken.is_empty(), "{what}:\n  {}", self.broken.join("\n  "));
    }
}

impl Host {
    const fn boot_since_start(&self, now: u64) -> u64 {
        // 128 bits: a thousand times a true time may not fit 64.
        (now as u128 * self.rate as u128 / 1_000) as u64
    }

    /// The first true time at which CLOCK_BOOTTIME has reached this.
    pub const fn true_time_of(&self, boot: u64) -> u64 {
        let since = boot.saturating_sub(self.offset) as u128 * 1_000;
        since.div_ceil(self.rate as u128) as u64
    }
}
