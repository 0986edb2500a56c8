//! The thread that owns a party, with a party, a host and a disk that are told what to do.

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use coroner::{
    agent::{
        driver::{Counts, Event, Host, Machine, Options, PartyThread, ThreadError, draw_life},
        durable::Disk,
    },
    mesh::party::{Durable, Health, Input, MayStart, Output},
    model::{ClusterName, Epoch, Time, agent::LeaseState, time::Moment},
    sys::clock::{self, Stopwatch},
};
use rustix::event::{EventfdFlags, eventfd};

const LONG: Duration = Duration::from_secs(10);

/// What all fakes of one test share.
#[derive(Clone, Default)]
struct Stage(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    inputs: Vec<(Moment, Input)>,
    outputs: VecDeque<Output>,
    timeout: Option<Time>,
    timeouts: Vec<(Time, Time)>,
    gates: Vec<(Time, Option<Duration>)>,
    gate_error: Option<String>,
    gate_takes: Duration,
    disk_fails: bool,
    written: Vec<Durable>,
    host_says: Vec<Input>,
}

impl Stage {
    fn with<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(&mut self.0.lock().unwrap())
    }

    fn until<R>(&self, what: &str, mut look: impl FnMut(&mut State) -> Option<R>) -> R {
        let watch = Stopwatch::start();
        loop {
            if let Some(found) = self.with(&mut look) {
                return found;
            }
            assert!(watch.elapsed() < LONG, "not within {LONG:?}: {what}");
            std::thread::yield_now();
        }
    }
}

struct Puppet(Stage);

impl Machine for Puppet {
    fn handle(&mut self, now: Moment, input: Input) {
        self.0.with(|s| s.inputs.push((now, input)));
    }
    fn handle_timeout(&mut self, now: Moment) {
        self.0.with(|s| {
            let wanted = s.timeout.take().unwrap();
            s.timeouts.push((wanted, now.boot));
        });
    }
    fn poll_timeout(&self) -> Option<Time> {
        self.0.with(|s| s.timeout)
    }
    fn poll_output(&mut self) -> Option<Output> {
        self.0.with(|s| s.outputs.pop_front())
    }
    fn lease(&self, _: Moment, _: &ClusterName) -> LeaseState {
        LeaseState::Wanted
    }
    fn may_start(&self, _: Moment, _: &ClusterName) -> MayStart {
        MayStart::NotYet(Epoch(3))
    }
    fn health(&self, _: Moment) -> Health {
        Health::default()
    }
}

struct FakeHost(Stage, OwnedFd);

impl Host for FakeHost {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.1.as_fd()]
    }
    fn poll_timeout(&self) -> Option<Time> {
        None
    }
    fn turn(&mut self, _: Moment, is_ready: bool) -> Vec<Input> {
        if !is_ready {
            return Vec::new();
        }
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.1, &mut count);
        self.0.with(|s| std::mem::take(&mut s.host_says))
    }
    fn open_for(&mut self, _: &ClusterName, left: Duration) -> Result<(), String> {
        let (takes, error) = self.0.with(|s| {
            s.gates.push((clock::now(), Some(left)));
            (std::mem::take(&mut s.gate_takes), s.gate_error.clone())
        });
        std::thread::sleep(takes);
        error.map_or(Ok(()), Err)
    }
    fn close(&mut self, _: &ClusterName) -> Result<(), String> {
        self.0.with(|s| s.gates.push((clock::now(), None)));
        Ok(())
    }
}

struct FakeDisk(Stage);

impl Disk for FakeDisk {
    fn write(&mut self, durable: &Durable) -> io::Result<()> {
        self.0.with(|s| {
            if s.disk_fails {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            s.written.push(durable.clone());
            Ok(())
        })
    }
}

struct Run {
    stage: Stage,
    thread: PartyThread,
    events: Receiver<Event>,
    host_bell: OwnedFd,
}

fn run() -> Run {
    let stage = Stage::default();
    let bell = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let host = FakeHost(stage.clone(), bell.try_clone().unwrap());
    let (sink, events) = channel();
    let options = Options { address: "127.0.0.1:0".parse().unwrap(), is_real_time: false };
    let sink = Box::new(move |event| drop(sink.send(event)));
    let thread = PartyThread::start(options, Puppet(stage.clone()), host, FakeDisk(stage.clone()), sink).unwrap();
    Run { stage, thread, events, host_bell: bell }
}

impl Run {
    fn event(&self) -> Event {
        self.events.recv_timeout(LONG).expect("the thread tells something")
    }

    fn output(&self, output: Output) {
        self.stage.with(|s| s.outputs.push_back(output));
        self.thread.handle().wake();
    }

    fn counts(&self) -> Counts {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.thread.handle().look(|seen| seen.counts.clone())).unwrap()
    }
}

fn orders() -> ClusterName {
    "orders".into()
}

fn durable(sealed: u64) -> Durable {
    let mut durable = Durable::default();
    durable.clusters.entry(orders()).or_default().sealed = Epoch(sealed);
    durable
}

fn persisted(state: &State) -> Vec<u64> {
    let ids = state.inputs.iter().filter_map(|(_, input)| match input {
        Input::Persisted(id) => Some(*id),
        _ => None,
    });
    ids.collect()
}

#[test]
fn datagrams_come_in_after_they_were_sent_and_go_out() {
    let run = run();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    other.set_read_timeout(Some(LONG)).unwrap();
    let before = clock::now();
    other.send_to(b"hello", run.thread.address()).unwrap();
    let (at, source) = run.stage.until("the datagram", |s| {
        s.inputs.iter().find_map(|(at, input)| match input {
            Input::Datagram { bytes, source } if bytes == b"hello" => Some((*at, *source)),
            _ => None,
        })
    });
    assert!(at.boot >= before, "a receipt is never dated before the sending");
    assert_eq!(source, other.local_addr().unwrap());
    run.output(Output::Send { to: source, bytes: b"welcome".to_vec() });
    let mut buffer = [0; 64];
    let (length, from) = other.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (&b"welcome"[..], run.thread.address()));

    // What the kernel does not take is counted, and nothing else.
    let nowhere: SocketAddr = "240.0.0.1:9".parse().unwrap();
    run.output(Output::Send { to: nowhere, bytes: vec![0; 70_000] });
    let counts = run.counts();
    assert_eq!((counts.sent, counts.received), (1, 1));
    assert_eq!(counts.send_errors.values().sum::<u64>(), 1, "{counts:?}");
    run.thread.stop();
}

#[test]
fn the_timer_rings_and_not_too_early() {
    let run = run();
    for wait in [0, 1, 5, 30] {
        let wanted = clock::now() + Duration::from_millis(wait);
        run.stage.with(|s| s.timeout = Some(wanted));
        run.thread.handle().wake();
        let (asked, rung) = run.stage.until("the timer", |s| s.timeouts.pop());
        assert_eq!(asked, wanted);
        assert!(rung >= wanted, "{wait} ms: {rung} is before {wanted}");
    }
    run.thread.stop();
}

#[test]
fn the_host_is_heard_when_its_descriptor_is_ready() {
    let run = run();
    run.stage.with(|s| s.host_says.push(Input::GiveUp { cluster: orders() }));
    rustix::io::write(&run.host_bell, &1_u64.to_ne_bytes()).unwrap();
    run.stage.until("the host's word", |s| {
        s.inputs.iter().any(|(_, input)| matches!(input, Input::GiveUp { .. })).then_some(())
    });
    run.thread.stop();
}

#[test]
fn a_disk_that_fails_holds_back_the_answer_and_no_more() {
    let run = run();
    run.output(Output::Persist { id: 1, durable: durable(1) });
    run.stage.until("the first answer", |s| (persisted(s) == [1]).then_some(()));

    run.stage.with(|s| s.disk_fails = true);
    run.output(Output::Persist { id: 2, durable: durable(2) });
    let Event::Disk { error: Some(error) } = run.event() else { panic!("the disk's trouble is told") };
    assert!(error.contains("storage"), "{error}");
    run.output(Output::Persist { id: 3, durable: durable(3) });
    // The thread goes on: it closes the gate, and answers.
    run.output(Output::Gate { cluster: orders(), until: None });
    run.stage.until("the gate", |s| (!s.gates.is_empty()).then_some(()));
    assert_eq!(run.stage.with(|s| persisted(s)), [1]);

    run.stage.with(|s| s.disk_fails = false);
    run.stage.until("the rest", |s| (persisted(s) == [1, 2, 3]).then_some(()));
    assert_eq!(run.event(), Event::Disk { error: None });
    assert_eq!(run.stage.with(|s| s.written.clone()), [durable(1), durable(3)], "the newest counts for all");
    run.thread.stop();
    assert_eq!(run.events.recv_timeout(LONG), Ok(Event::Ended));
}

#[test]
fn a_gate_is_opened_for_what_is_left_and_never_for_longer() {
    let run = run();
    let open = |left: Duration| {
        run.stage.with(|s| s.gates.clear());
        let until = clock::now() + left;
        run.output(Output::Gate { cluster: orders(), until: Some(until) });
        run.stage.until("the gate", |s| (!s.gates.is_empty()).then_some(()));
        // A look comes behind everything before it.
        run.counts();
        (until, run.stage.with(|s| s.gates.clone()))
    };
    let (until, gates) = open(Duration::from_millis(200));
    let (at, left) = gates[0];
    let left = left.unwrap();
    assert!(left <= Duration::from_millis(200) && at + left <= until + Duration::from_millis(1), "{gates:?}");

    // Slow to be programmed: again, with what is left then.
    run.stage.with(|s| s.gate_takes = Duration::from_millis(30));
    let (until, gates) = open(Duration::from_millis(200));
    let (at, left) = *gates.last().unwrap();
    assert!(gates.len() >= 2 && at + left.unwrap() <= until, "{gates:?} for {until}");

    // Over before it could be programmed.
    let (_, gates) = open(Duration::ZERO);
    assert_eq!(gates.iter().map(|(_, left)| *left).collect::<Vec<_>>(), [None]);

    run.stage.with(|s| s.gate_error = Some("no such table".into()));
    for _ in 0..3 {
        open(Duration::from_millis(200));
    }
    assert_eq!(run.event(), Event::Gate { cluster: orders(), error: Some("no such table".into()) });
    run.stage.with(|s| s.gate_error = None);
    open(Duration::from_millis(200));
    assert_eq!(run.event(), Event::Gate { cluster: orders(), error: None }, "told once, and once again");
    run.thread.stop();
}

#[test]
fn what_the_party_tells_reaches_the_owner_and_inputs_from_any_thread_the_party() {
    let run = run();
    let over = Output::LeaseOver { cluster: orders(), why: "nobody granted it".into() };
    run.output(over.clone());
    assert_eq!(run.event(), Event::Told(over));
    let handles: Vec<_> = (0..4)
        .map(|n| {
            let handle = run.thread.handle();
            std::thread::spawn(move || (0..500).for_each(|i| handle.send(Input::Persisted(n * 500 + i))))
        })
        .collect();
    handles.into_iter().for_each(|h| h.join().unwrap());
    let mut ids = run.stage.until("all of them", |s| Some(persisted(s)).filter(|ids| ids.len() == 2_000));
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..2_000));
    let handle = run.thread.handle();
    run.thread.stop();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(handle.look(|_| ())), None, "the thread is gone");
}

#[test]
fn an_address_that_is_not_ours_or_taken_is_refused_with_the_remedy() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    for address in ["192.0.2.1:7".parse().unwrap(), taken.local_addr().unwrap()] {
        let stage = Stage::default();
        let host = FakeHost(stage.clone(), eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let options = Options { address, is_real_time: false };
        let started = PartyThread::start(options, Puppet(stage.clone()), host, FakeDisk(stage), Box::new(|_| ()));
        let error = started.unwrap_err();
        assert!(matches!(error, ThreadError::Bind { .. }));
        assert!(error.to_string().contains("must be one of this host's own"), "{error}");
    }
}

#[test]
fn lives_differ() {
    let lives: std::collections::BTreeSet<_> = (0..100).map(|_| draw_life().unwrap()).collect();
    assert_eq!(lives.len(), 100);
    assert!(lives.iter().all(|life| life.0 != 0));
}
