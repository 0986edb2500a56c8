//! Does `engine::Shadow` tell the same as the plain engine, fed one by one?
//!
//! Rules, signals and what is seen are drawn at random from a seed; what is seen goes through a journal first, so that both get
//! what a reader gets. The plain engine judges after every moment at which anything came, and whenever it wants to be woken. The
//! two must tell the same rules, verdicts and explanations at the same nanosecond.

use std::{collections::BTreeMap, time::Duration};

use coroner::{
    backtest::{self, Question, Side},
    engine::{Engine, Shadow},
    journal::{Bounds, Header, Journal, Known, Mark, Reader, Recorder, What, encode::Encoder},
    model::{
        ClusterPolicy, Condition, Effect, Epoch, Event, Expr, Fact, Failure, FailureKind, MemberName, Notice,
        Observation, Observer, Outcome, Policy, Role, Time, Verdict,
        observation::{Arrivals, RoleReport},
        policy::{Observers, SignalKind, SignalPolicy, Subjects, Traffic},
        record::{ClusterState, Recovered},
        rule::{Count, ExprKind, Reaction, Window},
    },
};

use crate::{
    generator::{ANCHOR, BOOT, life},
    policy::{bare, nodes, policy, rule, signal},
};

/// Sebastiano Vigna's splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<T: Clone>(&mut self, list: &[T]) -> T {
        list[usize::try_from(self.below(list.len() as u64)).unwrap()].clone()
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        // Whole halves of seconds now and then, so that things fall together.
        let ms = from + self.below(to - from);
        Duration::from_millis(if self.one_in(2) { ms / 500 * 500 } else { ms }.max(from))
    }
}

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const MEMBERS: [&str; 2] = ["a", "b"];

/// Its signals; each with the kind by which conditions are drawn.
fn signals(dice: &mut Dice) -> Vec<(&'static str, SignalPolicy)> {
    let every = |dice: &mut Dice, s: SignalPolicy| {
        let every = dice.millis(500, 2_000);
        SignalPolicy { every, fresh_for: every * 2 + dice.millis(0, 1_500), ..s }
    };
    let traffic = dice.of(&[Traffic::Attempted, Traffic::Attempted, Traffic::Constant]);
    let list = [
        (
            "heartbeat",
            signal(SignalKind::Heartbeat, Observers::Members, dice.of(&[Subjects::Primary, Subjects::Members])),
        ),
        ("arrivals", SignalPolicy { traffic, ..signal(SignalKind::Arrivals, nodes(&NODES), Subjects::Service) }),
        ("ping", signal(SignalKind::Check, Observers::Arbiter, Subjects::Primary)),
        ("role", signal(SignalKind::Role, Observers::Arbiter, Subjects::Members)),
        ("link", signal(SignalKind::Link, Observers::Arbiter, Subjects::Standbys)),
        ("position", signal(SignalKind::Position, Observers::Arbiter, Subjects::Members)),
        ("value", signal(SignalKind::Value, Observers::Arbiter, Subjects::Member("b".into()))),
        ("canary", signal(SignalKind::Canary, nodes(&NODES), Subjects::Service)),
        ("text", signal(SignalKind::Text, Observers::Arbiter, Subjects::Primary)),
        ("process", signal(SignalKind::Process, Observers::Members, Subjects::Primary)),
        ("alert", signal(SignalKind::Alert, Observers::Arbiter, Subjects::Service)),
        ("write", signal(SignalKind::Write, Observers::Arbiter, Subjects::Primary)),
    ];
    list.into_iter().map(|(name, s)| (name, every(dice, s))).collect()
}

/// What a case is about: what depends on more than its own stream would be asked about too seldom by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Theme {
    /// Anything.
    Anything,
    /// Silence of arrivals, which counts from attempts that others tell of.
    Attempts,
    /// Lag, which counts from the primary's position.
    Positions,
    /// Members that were never heard at first.
    Unheard,
}

impl Theme {
    const ALL: [Self; 4] = [Self::Anything, Self::Attempts, Self::Positions, Self::Unheard];

    fn asks(self, signal: &str) -> bool {
        match self {
            Self::Anything => true,
            Self::Attempts => matches!(signal, "arrivals" | "canary"),
            Self::Positions => matches!(signal, "position" | "role" | "link"),
            Self::Unheard => matches!(signal, "ping" | "write" | "text"),
        }
    }
}

fn condition(dice: &mut Dice, kind: SignalKind, peers: bool) -> Condition {
    if kind != SignalKind::Alert && dice.one_in(4) {
        return Condition::Silent(dice.millis(500, 4_000));
    }
    if kind.accepts(&Condition::LagAbove(0)) && dice.one_in(2) {
        return Condition::LagAbove(dice.below(40));
    }
    loop {
        let limit = dice.millis(1_000, 8_000);
        let found = match dice.below(20) {
            0 => Condition::Ok,
            1 => Condition::Failing,
            2 | 3 => {
                let of = u32::try_from(1 + dice.below(5)).unwrap();
                Condition::FailingOf { failures: 1 + u32::try_from(dice.below(u64::from(of))).unwrap(), of }
            }
            4 => Condition::FailedWith(FailureKind::Refused),
            5..=8 => Condition::Silent(limit),
            9 => Condition::Stalled(limit),
            10 => Condition::LagAbove(dice.below(40)),
            11 => Condition::LagLongerThan(limit),
            12 => Condition::LatencyAbove(Duration::from_millis(dice.below(6))),
            13 => dice.of(&[Condition::Above(3.0), Condition::Below(4.0), Condition::TextIs("t1".into())]),
            14 => dice.of(&[Condition::RoleIs(Role::Standby), Condition::Writable(false), Condition::Link(false)]),
            15 => dice.of(&[Condition::Exited, Condition::Firing]),
            16 => Condition::PhiAbove(1.0 + f64::from(u32::try_from(dice.below(8)).unwrap())),
            17 if peers => Condition::UnreachableBy(dice.of(&[Count::Number(1), Count::Majority, Count::All])),
            _ => continue,
        };
        if kind.accepts(&found) {
            return found;
        }
    }
}

fn expr(dice: &mut Dice, signals: &[(&'static str, SignalPolicy)], depth: u32, peers: bool) -> Expr {
    let list =
        |dice: &mut Dice| (0..1 + dice.below(3)).map(|_| expr(dice, signals, depth - 1, peers)).collect::<Vec<_>>();
    let kind = match if depth == 0 { 9 } else { dice.below(10) } {
        0 | 1 => ExprKind::All(list(dice)),
        2 => ExprKind::Any(list(dice)),
        3 => ExprKind::Not(Box::new(expr(dice, signals, depth - 1, peers))),
        4 => ExprKind::AtLeast { count: dice.of(&[Count::Number(1), Count::Majority]), of: list(dice) },
        _ => {
            let (name, policy) = dice.of(signals);
            let condition = condition(dice, policy.kind, peers);
            if dice.one_in(3) && !matches!(condition, Condition::UnreachableBy(_)) {
                let count = dice.of(&[Count::Number(1), Count::Majority, Count::All, Count::Percent(60.0)]);
                ExprKind::Observers { count, signal: name.into(), are: condition }
            } else {
                ExprKind::Signal { signal: name.into(), condition }
            }
        }
    };
    let hold = dice.one_in(4).then(|| dice.millis(200, 4_000));
    let window = dice.one_in(6).then(|| {
        let of = dice.millis(2_000, 8_000);
        Window { true_for: of / 4 + dice.millis(0, 1_000).min(of / 2), of }
    });
    Expr { kind, hold, window }
}

fn random_policy(dice: &mut Dice, theme: Theme, peers: bool) -> ClusterPolicy {
    let mut cluster = bare(&MEMBERS);
    let signals = signals(dice);
    cluster.nodes = NODES.map(Into::into).to_vec();
    cluster.role_signal = Some("role".into());
    // A few of them, so that what they have to do with one another is asked about; or all.
    let few = 1 + dice.below(4);
    let themed: Vec<_> = signals.iter().filter(|(name, _)| theme.asks(name)).cloned().collect();
    let asked: Vec<_> = (0..few).map(|_| dice.of(&themed)).collect();
    let asked = if dice.one_in(4) { themed } else { asked };
    cluster.rules = (0..1 + dice.below(4))
        .map(|n| {
            let depth = dice.of(&[0, 1, 3]);
            let when = expr(dice, &asked, depth, peers);
            let verdict = dice.of(&[Verdict::Suspect, Verdict::Gray, Verdict::Dead]);
            rule(&format!("rule {n}"), when, verdict, dice.of(&[Reaction::Alert, Reaction::Hold, Reaction::Failover]))
        })
        .collect();
    cluster.signals = signals.into_iter().map(|(name, s)| (name.into(), s)).collect();
    cluster
}

/// What happens.
#[derive(Clone, Debug)]
enum Happens {
    Seen(Observation),
    Late(Duration),
    Primary(MemberName, Epoch),
}

/// How a stream behaves for a while.
#[derive(Clone, Copy)]
enum Mood {
    Well,
    Failing,
    Silent,
    Mixed,
}

fn outcome(dice: &mut Dice, kind: SignalKind, mood: Mood, n: u64) -> Option<Outcome> {
    let fails = match mood {
        Mood::Well => false,
        Mood::Failing => true,
        Mood::Silent => return None,
        Mood::Mixed => dice.one_in(2),
    };
    if fails && !matches!(kind, SignalKind::Heartbeat | SignalKind::Arrivals | SignalKind::Process | SignalKind::Alert)
    {
        let kinds = [FailureKind::Refused, FailureKind::TimedOut, FailureKind::Auth, FailureKind::WrongAnswer];
        return Some(Outcome::Failure(Failure::new(dice.of(&kinds), "failed")));
    }
    let small = |dice: &mut Dice| Duration::from_millis(dice.below(8));
    Some(Outcome::Fact(match kind {
        SignalKind::Heartbeat => Fact::Beat { seq: n, echoed: !dice.one_in(20) },
        SignalKind::Arrivals => {
            let last_age = if fails { dice.millis(0, 9_000) } else { small(dice) };
            let attempted = (!dice.one_in(3)).then_some(if dice.one_in(5) { n / 4 } else { n });
            let last_age = (!dice.one_in(10)).then_some(last_age);
            Fact::Arrivals(Arrivals { received: if fails { 7 } else { n }, last_age, attempted, ..Arrivals::default() })
        }
        SignalKind::Canary => Fact::Canary { latency: small(dice) },
        SignalKind::Check => Fact::Ok { latency: small(dice) },
        SignalKind::Role => Fact::Role(RoleReport {
            role: dice.of(&[Role::Primary, Role::Standby, Role::Standby]),
            position: (!dice.one_in(5)).then_some(n / 3),
            link_up: Some(!dice.one_in(4)),
            follows: None,
            lineage: None,
            epoch: None,
            priority: None,
        }),
        SignalKind::Position => Fact::Position { position: if fails { 5 } else { n } },
        SignalKind::Link => Fact::Link { up: !dice.one_in(4), last_io: dice.one_in(2).then(|| dice.millis(0, 5_000)) },
        SignalKind::Write => Fact::Writable(!dice.one_in(3)),
        #[expect(clippy::cast_precision_loss, reason = "small")]
        SignalKind::Value => Fact::Value(dice.below(8) as f64),
        SignalKind::Text => Fact::Text(format!("t{}", dice.below(3))),
        SignalKind::Process => Fact::Process { running: !fails, detail: String::new() },
        SignalKind::Alert => Fact::Alert { firing: fails },
    }))
}

struct Stream {
    signal: &'static str,
    kind: SignalKind,
    observer: Observer,
    subject: Option<MemberName>,
    every: Duration,
    next: Time,
    mood: Mood,
    until: Time,
    n: u64,
}

/// Every stream that the policy knows, and some that it does not.
fn streams(dice: &mut Dice, policy: &ClusterPolicy, peers: bool) -> Vec<Stream> {
    let mut all = Vec::new();
    let names = [
        "heartbeat",
        "arrivals",
        "ping",
        "role",
        "link",
        "position",
        "value",
        "canary",
        "text",
        "process",
        "alert",
        "write",
    ];
    for signal in names {
        let s = &policy.signals[signal];
        let subjects: Vec<Option<MemberName>> = match &s.subjects {
            Subjects::Service => vec![None],
            _ => MEMBERS.map(|m| Some(m.into())).to_vec(),
        };
        for subject in subjects {
            let mut observers: Vec<Observer> = match (&s.observers, &subject) {
                (Observers::Members, Some(member)) => vec![Observer::Member(member.clone())],
                (Observers::Nodes(_), _) => NODES.map(|n| Observer::Node(n.into())).to_vec(),
                _ => vec![Observer::Arbiter],
            };
            if peers && s.observers == Observers::Arbiter {
                observers.push(Observer::Peer("arbiter-2".into()));
            }
            for observer in observers {
                let next = BOOT + dice.millis(1, 1_500);
                let (every, n) = (s.every, 0);
                let subject = subject.clone();
                all.push(Stream {
                    signal,
                    kind: s.kind,
                    observer,
                    subject,
                    every,
                    next,
                    mood: Mood::Well,
                    until: next,
                    n,
                });
            }
        }
    }
    all
}

fn happenings(
    dice: &mut Dice,
    policy: &ClusterPolicy,
    theme: Theme,
    peers: bool,
    seconds: u64,
) -> Vec<(Time, Happens)> {
    let mut streams = streams(dice, policy, peers);
    if theme == Theme::Unheard {
        // What is asked fails from the beginning, and the rest says nothing until some moment.
        for stream in &mut streams {
            stream.mood = if theme.asks(stream.signal) { Mood::Failing } else { Mood::Silent };
            // The heartbeat is often the first: that one was heard in a life before.
            let is_first = stream.signal == "heartbeat";
            stream.until = BOOT + if is_first { dice.millis(2_000, 6_000) } else { dice.millis(4_000, 25_000) };
        }
    }
    let end = BOOT + Duration::from_secs(seconds);
    let mut out: Vec<(Time, Happens)> = Vec::new();
    let mut epoch = Epoch(1);
    loop {
        let stream = streams.iter_mut().min_by_key(|stream| stream.next).unwrap();
        let now = stream.next;
        if now > end {
            return out;
        }
        if now >= stream.until {
            stream.mood = dice.of(&[Mood::Well, Mood::Well, Mood::Well, Mood::Failing, Mood::Silent, Mood::Mixed]);
            stream.until = now + dice.millis(500, 20_000);
        }
        stream.n += 1;
        let jitter = Duration::from_micros(dice.below(40_000));
        // Some fall into one moment, and some go on to the nanosecond when others grow stale.
        stream.next =
            now + if dice.one_in(3) { stream.every } else { stream.every - Duration::from_millis(20) + jitter };
        if let Some(outcome) = outcome(dice, stream.kind, stream.mood, stream.n) {
            let is_peer = matches!(stream.observer, Observer::Peer(_));
            let at = if is_peer { now.before(dice.millis(0, 1_500)) } else { now };
            let seen = Observation {
                at,
                cluster: "orders".into(),
                signal: stream.signal.into(),
                observer: stream.observer.clone(),
                subject: stream.subject.clone(),
                outcome,
            };
            out.push((now, Happens::Seen(seen)));
        }
        if dice.one_in(400) {
            out.push((now, Happens::Late(dice.millis(100, 2_000))));
        }
        if dice.one_in(500) {
            epoch = epoch.next();
            out.push((now, Happens::Primary(dice.of(&MEMBERS).into(), epoch)));
        }
    }
}

fn begun(cluster: &ClusterPolicy, dice: &mut Dice) -> ClusterState {
    let heard = if dice.one_in(2) {
        vec![("heartbeat".into(), Observer::Member("a".into()), Some("a".into()))]
    } else {
        Vec::new()
    };
    ClusterState {
        cluster: cluster.name.clone(),
        primary: Some("a".into()),
        epoch: Epoch(1),
        primary_epoch: Epoch(1),
        heard,
        ..ClusterState::default()
    }
}

type Told = Vec<(Time, Notice)>;

fn is_of_rules(notice: &Notice) -> bool {
    matches!(notice, Notice::RuleFired { .. } | Notice::RuleCleared { .. } | Notice::VerdictChanged { .. })
}

/// The plain engine, as an arbiter that only watches drives it. Answers how many moments it was judged at, too.
fn plain(policy: &Policy, mut state: ClusterState, list: &[(Time, Happens)], end: Time) -> (Told, u64) {
    let recovered = Recovered { clusters: vec![state.clone()], open: Vec::new() };
    let mut engine = Engine::new(BOOT, ANCHOR, 1, policy.clone(), recovered);
    let follows = |clusters| Event::Follows { reason: "watching".into(), clusters, seen: BTreeMap::new() };
    engine.handle(BOOT, follows(None));
    let mut told = Vec::new();
    let mut moments = 0;
    let mut drain = |engine: &mut Engine, now: Time, told: &mut Told| {
        moments += 1;
        while let Some(effect) = engine.poll_effect() {
            if let Effect::Tell(notice) = effect
                && is_of_rules(&notice)
            {
                told.push((now, *notice));
            }
        }
    };
    drain(&mut engine, BOOT, &mut told);
    let mut rest = list;
    loop {
        let next = rest.first().map_or(end, |(now, _)| *now);
        while let Some(wake) = engine.poll_timeout().filter(|wake| *wake < next) {
            engine.handle_timeout(wake);
            drain(&mut engine, wake, &mut told);
        }
        engine.handle_timeout(next);
        while let Some(((now, what), others)) = rest.split_first().filter(|((now, _), _)| *now == next) {
            rest = others;
            match what {
                Happens::Seen(seen) => engine.handle(*now, Event::Observed(seen.clone())),
                Happens::Late(by) => engine.handle(*now, Event::RanLate { by: *by, detail: "late".into() }),
                Happens::Primary(primary, epoch) => {
                    (state.primary, state.primary_epoch, state.epoch) = (Some(primary.clone()), *epoch, *epoch);
                    engine.handle(*now, follows(Some(vec![state.clone()])));
                }
            }
        }
        drain(&mut engine, next, &mut told);
        if next == end {
            return (told, moments);
        }
    }
}

fn shadowed(policy: &Policy, state: ClusterState, list: &[(Time, Happens)], end: Time) -> Told {
    let mut shadow = Shadow::new(BOOT, ANCHOR, policy, state).unwrap();
    for (now, what) in list {
        match what {
            Happens::Seen(seen) => {
                let key = shadow.stream(&seen.signal, &seen.observer, seen.subject.as_ref());
                shadow.observe(*now, key, seen.clone());
            }
            Happens::Late(by) => shadow.ran_late(*now, *by, "late".into()),
            Happens::Primary(primary, epoch) => shadow.primary_is(*now, Some(primary.clone()), *epoch),
        }
    }
    shadow.finish(end);
    std::iter::from_fn(|| shadow.poll_told()).filter(|(_, notice)| is_of_rules(notice)).collect()
}

fn through_a_journal(list: Vec<(Time, Happens)>) -> Vec<(Time, Happens)> {
    let mut encoder = Encoder::new(&Header { began: BOOT, anchor: ANCHOR, ..Header::default() });
    let mut bytes = encoder.take();
    for (now, what) in &list {
        match what {
            Happens::Seen(seen) => encoder.seen(*now, seen),
            Happens::Late(by) => encoder.mark(*now, &Mark::RanLate { by: *by, detail: "late".into() }),
            Happens::Primary(primary, epoch) => encoder.mark(*now, &primary_mark(primary, *epoch)),
        }
        if now.0 % 7 == 0 {
            bytes.extend(encoder.take());
        }
    }
    bytes.extend(encoder.take());
    let mut reader = Reader::over(&bytes).unwrap();
    let mut back = Vec::new();
    while let Some(entry) = reader.next_entry() {
        let now = entry.now;
        back.push((
            now,
            match entry.what {
                What::Seen(raw) => Happens::Seen(raw.observation().unwrap()),
                What::Mark(mark) => match *mark {
                    Mark::RanLate { by, .. } => Happens::Late(by),
                    Mark::Told(notice) => match *notice {
                        Notice::PrimaryChanged { primary: Some(primary), epoch, .. } => {
                            Happens::Primary(primary, epoch)
                        }
                        other => panic!("{other:?}"),
                    },
                    other => panic!("{other:?}"),
                },
            },
        ));
    }
    assert_eq!(reader.fault(), None);
    assert_eq!(back.len(), list.len());
    back
}

fn primary_mark(primary: &MemberName, epoch: Epoch) -> Mark {
    let notice = Notice::PrimaryChanged { cluster: "orders".into(), primary: Some(primary.clone()), epoch };
    Mark::Told(Box::new(notice))
}

fn theme_of(seed: u64) -> Theme {
    Theme::ALL[usize::try_from(seed % 4).unwrap()]
}

fn cases() -> u64 {
    std::env::var("CORONER_BACKTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(100)
}

fn assert_same(seed: u64, plain: &Told, fast: &Told) {
    for (place, (a, b)) in plain.iter().zip(fast).enumerate() {
        assert_eq!(a, b, "seed {seed}, notice {place}");
    }
    assert_eq!(plain.len(), fast.len(), "seed {seed}: {:?}", plain.get(fast.len()).or_else(|| fast.get(plain.len())));
}

#[test]
fn the_fast_path_tells_what_the_plain_engine_tells() {
    let mut fired = 0;
    for seed in 0..cases() {
        let mut dice = Dice(seed);
        // Other arbiters in one case of five: there, nothing is left out.
        let peers = seed % 5 == 0;
        let theme = theme_of(seed);
        let cluster = random_policy(&mut dice, theme, peers);
        let state = begun(&cluster, &mut dice);
        let list = through_a_journal(happenings(&mut dice, &cluster, theme, peers, 60));
        let end = BOOT + Duration::from_secs(90);
        let policy = policy(vec![cluster]);
        let (told, _) = plain(&policy, state.clone(), &list, end);
        assert_same(seed, &told, &shadowed(&policy, state, &list, end));
        fired += told.iter().filter(|(_, notice)| matches!(notice, Notice::RuleFired { .. })).count();
    }
    assert!(fired as u64 > cases(), "rules became true {fired} times only: the cases say too little");
}

/// That the comparison above can fail: what is fed to the two differs by one observation.
#[test]
fn a_single_observation_less_is_noticed() {
    let mut noticed = 0;
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let cluster = random_policy(&mut dice, theme_of(seed), false);
        let state = begun(&cluster, &mut dice);
        let list = happenings(&mut dice, &cluster, theme_of(seed), false, 60);
        let end = BOOT + Duration::from_secs(90);
        let policy = policy(vec![cluster]);
        let (told, _) = plain(&policy, state.clone(), &list, end);
        let mut less = list.clone();
        for place in (0..less.len()).step_by(less.len() / 8) {
            let removed = less.remove(place);
            noticed += usize::from(shadowed(&policy, state.clone(), &less, end) != told);
            less.insert(place, removed);
        }
    }
    assert!(noticed > 10, "{noticed}");
}

/// The same through segments, files, threads: the whole of `backtest::run`.
#[test]
fn a_backtest_finds_what_the_plain_engine_finds() {
    for seed in 0..cases().div_ceil(8) {
        let mut dice = Dice(seed.wrapping_mul(77));
        let cluster = random_policy(&mut dice, theme_of(seed), false);
        let state = begun(&cluster, &mut dice);
        let list = through_a_journal(happenings(&mut dice, &cluster, theme_of(seed), false, 60));
        let policy = policy(vec![cluster.clone()]);
        let Some((last, _)) = list.last().cloned() else { continue };
        let (told, _) = plain(&policy, state.clone(), &list, last);

        let dir = tempfile::tempdir().unwrap();
        let known =
            Known { cluster: "orders".into(), primary: Some("a".into()), epoch: Epoch(1), heard: state.heard.clone() };
        let bounds = Bounds { segment_bytes: 3_000, ..Bounds::default() };
        let life = coroner::journal::Life { clusters: vec![known], ..life(BOOT, ANCHOR) };
        let mut recorder = Recorder::open(dir.path(), bounds, life).unwrap();
        for (place, (now, what)) in list.iter().enumerate() {
            match what {
                Happens::Seen(seen) => recorder.seen(*now, seen),
                Happens::Late(by) => recorder.mark(*now, &Mark::RanLate { by: *by, detail: "late".into() }),
                Happens::Primary(primary, epoch) => recorder.mark(*now, &primary_mark(primary, *epoch)),
            }
            if place % 10 == 0 {
                recorder.flush(true).unwrap();
            }
        }
        drop(recorder);
        let journal = Journal::open(dir.path()).unwrap();
        assert!(journal.segments.len() > 1);
        let question = Question {
            in_force: &policy,
            other: &policy,
            clusters: vec!["orders".into()],
            from_unix_ms: ANCHOR.unix_ms - 1_000,
            to_unix_ms: ANCHOR.unix_ms + 3_600_000,
            window: Duration::from_secs(5),
            outage: Duration::from_secs(3),
            disowned: Vec::new(),
            threads: 2,
        };
        let report = backtest::run(&journal, &question, &|_| {}).unwrap();
        let mut wanted: Vec<(String, i64)> = told
            .iter()
            .filter_map(|(at, notice)| match notice {
                Notice::RuleFired { explanation, .. } => Some((explanation.rule.to_string(), ANCHOR.unix_ms_at(*at))),
                _ => None,
            })
            .collect();
        wanted.sort();
        for side in [Side::InForce, Side::New] {
            let rules = report.clusters[0].rules.iter().filter(|rule| rule.side == side);
            let mut found: Vec<(String, i64)> = rules
                .flat_map(|rule| rule.firings.iter().map(|s| (s.firing.rule.to_string(), s.firing.from_unix_ms)))
                .collect();
            found.sort();
            assert_eq!(found, wanted, "seed {seed}, {side:?}");
        }
    }
}
