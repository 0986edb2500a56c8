//! Does every fact come back; what becomes of files that are not whole.

use std::{
    fs,
    io::{Read as _, Seek as _, Write as _},
    path::Path,
    time::Duration,
};

use coroner::{
    journal::{Bounds, Header, Journal, Mark, Reader, Recorder, What, decode::Fault, encode::Encoder},
    model::{
        Epoch, Fact, Failure, FailureKind, Observation, Observer, Outcome, Role, Time, WallAnchor,
        agent::{GateState, LeaseState, MemberReport},
        observation::{Arrivals, RoleReport},
    },
};

use crate::generator::{ANCHOR, BOOT, Weather, World, life};

fn header() -> Header {
    Header { sequence: 3, arbiter: "arbiter-1".into(), began: BOOT, anchor: ANCHOR, ..Header::default() }
}

fn seen(signal: &str, at: Time, outcome: Outcome) -> Observation {
    Observation {
        at,
        cluster: "orders".into(),
        signal: signal.into(),
        observer: Observer::Arbiter,
        subject: Some("broker-a".into()),
        outcome,
    }
}

/// One of each, with their corners.
fn outcomes() -> Vec<Outcome> {
    let us = Duration::from_micros;
    let mut all: Vec<Outcome> = [
        Fact::Beat { seq: 0, echoed: false },
        Fact::Beat { seq: u64::MAX, echoed: true },
        Fact::Arrivals(Arrivals::default()),
        Fact::Arrivals(Arrivals {
            received: 9,
            last_age: Some(us(1_234)),
            attempted: Some(3),
            acknowledged: Some(2),
            primary: Some("broker-a".into()),
            epoch: Epoch(7),
        }),
        Fact::Arrivals(Arrivals { attempted: Some(u64::MAX), ..Arrivals::default() }),
        Fact::Ok { latency: us(0) },
        Fact::Role(RoleReport {
            role: Role::Primary,
            position: Some(u64::MAX),
            link_up: Some(false),
            follows: Some("10.0.0.11:6379".into()),
            lineage: Some(String::new()),
            epoch: Some(Epoch(3)),
            priority: Some(u32::MAX),
        }),
        Fact::Position { position: 17 },
        Fact::Link { up: true, last_io: None },
        Fact::Link { up: false, last_io: Some(us(99)) },
        Fact::Writable(true),
        Fact::Writable(false),
        Fact::Value(0.0),
        Fact::Value(-0.0),
        Fact::Value(-3.0),
        Fact::Value(0.1),
        Fact::Value(f64::INFINITY),
        Fact::Value(1e300),
        Fact::Text("grün, und\nmehr".into()),
        Fact::Process { running: false, detail: "killed by SIGKILL".into() },
        Fact::Canary { latency: us(7) },
        Fact::Alert { firing: true },
        Fact::Agent(Box::new(MemberReport { epoch: Epoch(4), gate: GateState::Open, ..MemberReport::default() })),
        Fact::Reaches(vec!["broker-b".into(), "node-1".into()]),
    ]
    .into_iter()
    .map(Outcome::Fact)
    .collect();
    for kind in [FailureKind::Refused, FailureKind::TimedOut, FailureKind::Auth, FailureKind::Local, FailureKind::Full]
    {
        all.push(Outcome::Failure(Failure::new(kind, format!("because of {kind}"))));
    }
    all
}

/// Every outcome after every other, in one stream and in many, twice in a row and with growing numbers.
fn everything() -> Vec<(Time, Observation)> {
    let all = outcomes();
    let mut out = Vec::new();
    let mut now = BOOT;
    let mut add = |signal: &str, age: Duration, outcome: &Outcome| {
        now = now + Duration::from_micros(137);
        out.push((now, seen(signal, now.before(age), outcome.clone())));
    };
    for a in &all {
        for b in &all {
            add("mixed", Duration::ZERO, a);
            add("mixed", Duration::from_millis(3), b);
        }
    }
    for (n, outcome) in all.iter().enumerate() {
        for _ in 0..3 {
            add(&format!("signal-{n}"), Duration::ZERO, outcome);
        }
    }
    for seq in 0..50 {
        add("beat", Duration::ZERO, &Outcome::Fact(Fact::Beat { seq: seq * 3, echoed: true }));
    }
    out
}

fn encoded(observations: &[(Time, Observation)], frame_of: usize) -> Vec<u8> {
    let mut encoder = Encoder::new(&header());
    let mut bytes = encoder.take();
    for part in observations.chunks(frame_of) {
        for (now, seen) in part {
            encoder.seen(*now, seen);
        }
        bytes.extend(encoder.take());
    }
    bytes
}

fn decoded(bytes: &[u8]) -> (Vec<(Time, Observation)>, Option<Fault>) {
    let mut reader = match Reader::over(bytes) {
        Ok(reader) => reader,
        Err(fault) => return (Vec::new(), Some(fault)),
    };
    let mut out = Vec::new();
    while let Some(entry) = reader.next_entry() {
        if let What::Seen(raw) = entry.what {
            out.push((entry.now, raw.observation().unwrap()));
        }
    }
    (out, reader.fault().cloned())
}

#[test]
fn everything_comes_back() {
    let all = everything();
    for frame_of in [1, 7, 10_000] {
        let bytes = encoded(&all, frame_of);
        let (back, fault) = decoded(&bytes);
        assert_eq!(fault, None);
        assert_eq!(back.len(), all.len());
        for (a, b) in back.iter().zip(&all) {
            // NaN apart, which is not among them, equal is equal; -0.0 is told from 0.0 by its bits.
            assert_eq!(format!("{a:?}"), format!("{b:?}"));
        }
    }
}

#[test]
fn what_changes_with_every_beat_of_an_agent_is_left_out() {
    let held = |ms| MemberReport {
        lease: LeaseState::Held { left: Duration::from_millis(ms) },
        renewals: Some(coroner::model::agent::RenewalHealth { rounds: ms, ..Default::default() }),
        role_age: Some(Duration::from_millis(ms)),
        ..MemberReport::default()
    };
    let beats: Vec<_> = (0..1_000_u64)
        .map(|n| {
            let now = BOOT + Duration::from_millis(250 * n);
            (now, seen("agents", now, Outcome::Fact(Fact::Agent(Box::new(held(n))))))
        })
        .collect();
    let bytes = encoded(&beats, 8);
    assert!(bytes.len() < 8_000, "{} bytes for a thousand beats", bytes.len());
    let (back, _) = decoded(&bytes);
    let wanted = MemberReport { lease: LeaseState::Held { left: Duration::ZERO }, ..MemberReport::default() };
    assert_eq!(back[999].1.outcome, Outcome::Fact(Fact::Agent(Box::new(wanted))));
}

#[test]
fn a_text_that_is_too_long_is_cut_at_a_character() {
    let long = "ä".repeat(40_000);
    let all: Vec<_> = (1..4_u64)
        .map(|n| {
            (
                BOOT + Duration::from_secs(n),
                seen("text", BOOT + Duration::from_secs(n), Outcome::Fact(Fact::Text(long.clone()))),
            )
        })
        .collect();
    let (back, fault) = decoded(&encoded(&all, 2));
    assert_eq!((back.len(), fault), (3, None));
    assert_eq!(back[2].1.outcome, Outcome::Fact(Fact::Text("ä".repeat(8 * 1_024))));
}

#[test]
fn a_torn_tail_ends_the_reading_and_nothing_before_it_is_lost() {
    let all: Vec<_> = everything().into_iter().take(60).collect();
    let bytes = encoded(&all, 4);
    for length in 0..bytes.len() {
        let (back, fault) = decoded(&bytes[..length]);
        assert_eq!(back.as_slice(), &all[..back.len()], "cut after {length}");
        match fault {
            Some(Fault::Torn(_) | Fault::Foreign) => {}
            None => assert_eq!(back.len() % 4, 0, "cut between two frames"),
            Some(other) => panic!("cut after {length}: {other}"),
        }
    }
}

#[test]
fn no_flipped_bit_makes_up_an_observation() {
    let all: Vec<_> = everything().into_iter().take(40).collect();
    let bytes = encoded(&all, 4);
    let mut found = 0;
    for bit in 0..bytes.len() * 8 {
        let mut other = bytes.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        let (back, fault) = decoded(&other);
        assert_eq!(back.as_slice(), &all[..back.len()], "bit {bit}");
        assert!(fault.is_some(), "bit {bit} was not noticed");
        found += usize::from(matches!(fault, Some(Fault::Corrupt { .. })));
    }
    assert!(found > bytes.len() * 4, "most are told as corrupt, and not as the end: {found}");
}

#[test]
fn rubbish_is_refused_and_never_a_panic() {
    assert_eq!(Reader::over(b"").unwrap_err(), Fault::Foreign);
    assert_eq!(Reader::over(b"SQLite format 3").unwrap_err(), Fault::Foreign);
    assert_eq!(Reader::over(b"CORONERJ").unwrap_err(), Fault::Torn(8));
    assert_eq!(Reader::over(b"CORONERJ\x07rest").unwrap_err(), Fault::Version(7));
    // Empty frames without end.
    let mut bytes = Encoder::new(&header()).take();
    let empty = [0, 0, 0, 0, 0];
    (0..200_000).for_each(|_| bytes.extend_from_slice(&empty));
    assert_eq!(decoded(&bytes).0, []);
    let mut seed = 9_u64;
    for length in 0..2_000 {
        let mut bytes = encoded(&everything()[..3], 1);
        for _ in 0..length % 97 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bytes.push(seed.to_le_bytes()[5]);
        }
        assert!(decoded(&bytes).0.len() >= 3);
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.filter(|name| name.ends_with(".journal")).collect();
    names.sort();
    names
}

#[test]
fn segments_end_by_size_and_by_age_and_follow_one_another() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds { segment_bytes: 4_096, segment_for: Duration::from_secs(600), ..Bounds::default() };
    let mut world = World::begin(dir.path(), bounds);
    world.seconds(300, Weather::Fair);
    drop(world);
    let journal = Journal::open(dir.path()).unwrap();
    assert!(journal.segments.len() > 2, "{:?}", names(dir.path()));
    assert!(journal.troubles.is_empty());
    assert!(journal.segments.windows(2).all(|pair| pair[1].header.follows(&pair[0].header)));
    assert!(journal.segments.iter().all(|segment| segment.bytes < 8_192));
    assert_eq!(names(dir.path())[0], "0000000000-20261101T000000Z.journal");
    // What had been heard is known in every one of them.
    let last = journal.segments.last().unwrap();
    assert_eq!(last.header.clusters[0].primary, Some("broker-a".into()));
    assert!(last.header.clusters[0].heard.len() >= 6, "{:?}", last.header.clusters[0].heard);

    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds { segment_for: Duration::from_secs(60), ..Bounds::default() };
    World::begin(dir.path(), bounds).seconds(300, Weather::Fair);
    assert_eq!(Journal::open(dir.path()).unwrap().segments.len(), 5);
}

#[test]
fn all_together_stay_within_their_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds { segment_bytes: 4_096, most_bytes: 20_000, ..Bounds::default() };
    World::begin(dir.path(), bounds).seconds(2_000, Weather::Fair);
    let journal = Journal::open(dir.path()).unwrap();
    let total: u64 = journal.segments.iter().map(|segment| segment.bytes).sum();
    assert!(total <= 20_000 + 4_096, "{total}");
    assert!(journal.segments[0].header.sequence > 0, "the oldest went");

    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds { segment_bytes: 4_096, ..Bounds::default() };
    World::begin(dir.path(), bounds).seconds(300, Weather::Fair);
    let names = names(dir.path());
    for (place, name) in names.iter().enumerate() {
        let age = if place < 2 { Duration::from_hours(31 * 24) } else { Duration::from_hours(1) };
        let began = std::time::UNIX_EPOCH + Duration::from_millis(ANCHOR.unix_ms.unsigned_abs());
        fs::File::options().write(true).open(dir.path().join(name)).unwrap().set_modified(began - age).unwrap();
    }
    World::begin(dir.path(), bounds).seconds(1, Weather::Fair);
    let sequences: Vec<u64> = Journal::open(dir.path()).unwrap().segments.iter().map(|s| s.header.sequence).collect();
    assert_eq!(sequences, (2..=names.len() as u64).collect::<Vec<_>>(), "what is older than 30 days went");
}

#[test]
fn a_restart_begins_a_segment_and_cuts_what_the_last_life_left_half() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::begin(dir.path(), Bounds::default());
    world.seconds(30, Weather::Fair);
    drop(world);
    let path = dir.path().join(&names(dir.path())[0]);
    let whole = fs::metadata(&path).unwrap().len();
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(&[200, 1, 3, 3, 3, 3, 5, 5]).unwrap();
    drop(file);

    let journal = Journal::open(dir.path()).unwrap();
    let bytes = journal.segments[0].read().unwrap();
    let mut reader = Reader::over(&bytes).unwrap();
    while reader.next_entry().is_some() {}
    assert_eq!(reader.fault(), Some(&Fault::Torn(8)));

    let second = World::live(dir.path(), Bounds::default(), BOOT + Duration::from_secs(90));
    assert_eq!(fs::metadata(&path).unwrap().len(), whole, "the torn tail is cut");
    let busy = Recorder::open(dir.path(), Bounds::default(), life(BOOT, ANCHOR)).unwrap_err();
    assert!(busy.to_string().contains("another process records there"), "{busy}");
    drop(second);
    let mut second = World::live(dir.path(), Bounds::default(), BOOT + Duration::from_secs(90));
    second.seconds(5, Weather::Fair);
    drop(second);
    let journal = Journal::open(dir.path()).unwrap();
    let headers: Vec<_> = journal.segments.iter().map(|s| (s.header.sequence, s.header.part, s.header.lost)).collect();
    assert_eq!(headers, [(0, 0, 0), (1, 0, 0)]);
    assert_ne!(journal.segments[0].header.life, journal.segments[1].header.life);
}

#[test]
fn it_is_readable_while_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::begin(dir.path(), Bounds::default());
    let mut before = 0;
    for _ in 0..20 {
        world.seconds(7, Weather::Fair);
        let journal = Journal::open(dir.path()).unwrap();
        let bytes = journal.segments[0].read().unwrap();
        let (seen, fault) = decoded(&bytes);
        assert_eq!(fault, None);
        assert!(seen.len() > before && seen.len() as u64 <= world.observations);
        before = seen.len();
    }
}

#[test]
fn a_corrupt_segment_is_reported_and_the_next_one_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let bounds = Bounds { segment_bytes: 4_096, ..Bounds::default() };
    World::begin(dir.path(), bounds).seconds(300, Weather::Fair);
    let path = dir.path().join(&names(dir.path())[1]);
    let mut file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.seek(std::io::SeekFrom::Start(3_000)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(std::io::SeekFrom::Start(3_000)).unwrap();
    file.write_all(&[byte[0] ^ 0x10]).unwrap();
    fs::write(dir.path().join("0000000099-20270101T000000Z.journal"), "not a segment").unwrap();

    let journal = Journal::open(dir.path()).unwrap();
    assert_eq!(journal.troubles.len(), 1);
    assert!(journal.troubles[0].to_string().contains("does not begin like a segment"), "{}", journal.troubles[0]);
    let faults: Vec<Option<Fault>> =
        journal.segments.iter().map(|segment| decoded(&segment.read().unwrap()).1).collect();
    assert!(matches!(faults[1], Some(Fault::Corrupt { .. })), "{faults:?}");
    assert_eq!(faults.iter().filter(|fault| fault.is_some()).count(), 1);
}

#[test]
fn what_was_lost_is_said_by_the_next_segment() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::begin(dir.path(), Bounds::default());
    world.seconds(10, Weather::Fair);
    world.recorder.lost(42);
    world.seconds(10, Weather::Fair);
    drop(world);
    let journal = Journal::open(dir.path()).unwrap();
    assert_eq!(journal.segments.iter().map(|s| s.header.lost).collect::<Vec<_>>(), [0, 42]);
    assert!(!journal.segments[1].header.follows(&journal.segments[0].header));
}

#[test]
fn the_wall_clock_may_step() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::begin(dir.path(), Bounds::default());
    world.seconds(5, Weather::Fair);
    let stepped = WallAnchor { boot: world.now, unix_ms: ANCHOR.unix_ms_at(world.now) + 3_600_000 };
    world.recorder.wall(WallAnchor { boot: world.now, unix_ms: ANCHOR.unix_ms_at(world.now) + 3 });
    world.recorder.wall(stepped);
    world.recorder.wall(stepped);
    world.seconds(5, Weather::Fair);
    drop(world);
    let journal = Journal::open(dir.path()).unwrap();
    let bytes = journal.segments[0].read().unwrap();
    let mut reader = Reader::over(&bytes).unwrap();
    let mut walls = Vec::new();
    while let Some(entry) = reader.next_entry() {
        if let What::Mark(mark) = entry.what
            && let Mark::Wall(anchor) = *mark
        {
            walls.push(anchor);
        }
    }
    assert_eq!(walls, [stepped], "a drift of milliseconds is no step");
}
