//! Is traffic stopped, in time, in both families, and nothing else?

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use coroner::{
    agent::{
        gate::{Gate, GateError, OWN_MARK},
        spec::LocalClients,
    },
    sys::clock::{self, Stopwatch},
};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{AddressFamily, SocketType};

use crate::lab::{ARBITER_V4, ARBITER_V6, Broker, LATE_MAX, Lab, MS, is_served, local_client, nft, until};

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[test]
fn a_lease_that_nobody_renews_ends_in_the_kernel() {
    Lab::run(|lab| {
        let broker = Broker::start();
        let mut gate = Gate::install(&broker.spec()).unwrap();
        let mut worst = Duration::ZERO;
        for _ in 0..5 {
            gate.open_for(Duration::from_secs(5)).unwrap();
            let clients = [lab.client(broker.v4()).unwrap(), lab.client(broker.v6()).unwrap()];
            let end = clock::now() + MS(200);
            gate.open_for(MS(200)).unwrap();
            for client in &clients {
                let late = client.falls_silent().since(end);
                assert!(late <= LATE_MAX, "the last byte came {late:?} after the end");
                worst = worst.max(late);
                let early = end.since(client.last());
                assert!(early < MS(50), "the port was shut {early:?} before the end");
            }
            // Neither new clients, nor a byte of the old ones.
            let before = broker.received();
            assert!(!lab.is_served(broker.v4()) && !lab.is_served(broker.v6()));
            assert_eq!(broker.received(), before);
            assert_eq!(gate.is_open(), Ok(None));
        }
        println!("established connections cut at most {:.1} ms after the lease's end", milliseconds(worst));
    });
}

#[test]
fn a_renewal_extends_and_an_element_that_expired_is_no_obstacle() {
    Lab::run(|lab| {
        let broker = Broker::start();
        let mut gate = Gate::install(&broker.spec()).unwrap();
        gate.open_for(MS(200)).unwrap();
        let client = lab.client(broker.v4()).unwrap();
        let watch = Stopwatch::start();
        let mut longest = Duration::ZERO;
        // Four times the lease.
        while watch.elapsed() < MS(800) {
            gate.open_for(MS(200)).unwrap();
            let left = gate.is_open().unwrap().unwrap();
            assert!(left > MS(150) && left <= MS(200), "{left:?}");
            longest = longest.max(clock::now().since(client.last()));
            std::thread::sleep(MS(10));
        }
        assert!(longest < MS(150), "a pause of {longest:?} while the gate was open");
        // Shorter, as well as longer.
        gate.open_for(MS(40)).unwrap();
        client.falls_silent();
        assert_eq!(gate.is_open(), Ok(None));
        gate.open_for(Duration::from_secs(5)).unwrap();
        until("TCP heals a lease that came too late", || client.hears());
        // Around the very moment of expiry.
        for micros in (900..1_500).step_by(20) {
            gate.open_for(MS(1)).unwrap();
            std::thread::sleep(Duration::from_micros(micros));
            gate.open_for(MS(500)).unwrap();
            assert!(gate.is_open().unwrap().is_some());
        }
        gate.open_for(Duration::from_micros(999)).unwrap();
        assert_eq!(gate.is_open(), Ok(None), "less than the kernel can count is nothing");
    });
}

#[test]
fn close_is_at_once_and_proven() {
    Lab::run(|lab| {
        let broker = Broker::start();
        let mut gate = Gate::install(&broker.spec()).unwrap();
        gate.open_for(Duration::from_secs(30)).unwrap();
        let client = lab.client(broker.v6()).unwrap();
        let watch = Stopwatch::start();
        gate.close().unwrap();
        let (took, end) = (watch.elapsed(), clock::now());
        let late = client.falls_silent().since(end);
        println!(
            "close and proof took {:.3} ms, the last byte came {:.1} ms later",
            milliseconds(took),
            milliseconds(late)
        );
        assert!(late < LATE_MAX);
        // Also where the table is gone.
        nft("flush ruleset");
        gate.close().unwrap();
        assert!(!client.hears());
        gate.remove().unwrap();
        assert!(!nft("list ruleset").contains("coroner"));
    });
}

/// Whether a client at that address of the clients' host gets through.
fn is_served_from(lab: &Lab, from: &str, to: SocketAddr) -> bool {
    lab.at_clients(|| {
        let from: SocketAddr = (from.parse::<IpAddr>().unwrap(), 0).into();
        let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &from).unwrap();
        let stream = TcpStream::from(socket);
        // A packet that is dropped has no answer.
        stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        rustix::net::connect(&stream, &to).is_ok() && std::io::Read::read_exact(&mut &stream, &mut [0]).is_ok()
    })
}

#[test]
fn other_members_always_pass() {
    Lab::run(|lab| {
        let broker = Broker::start();
        let mut spec = broker.spec();
        spec.peers = vec![ARBITER_V4.parse().unwrap(), ARBITER_V6.parse().unwrap()];
        let mut gate = Gate::install(&spec).unwrap();
        for (from, to) in [(ARBITER_V4, broker.v4()), (ARBITER_V6, broker.v6())] {
            assert!(!lab.is_served(to), "a client from another address than {from}");
            assert!(is_served_from(lab, from, to), "{from}");
        }
        gate.close().unwrap();
        assert!(is_served_from(lab, ARBITER_V4, broker.v4()), "replication goes on behind a gate that was shut");
    });
}

#[test]
fn the_arbiter_passes_while_it_is_let_and_no_longer() {
    Lab::run(|lab| {
        let broker = Broker::start();
        let mut spec = broker.spec();
        spec.admit = vec![ARBITER_V4.parse().unwrap(), ARBITER_V6.parse().unwrap()];
        let mut gate = Gate::install(&spec).unwrap();
        let passes = || is_served_from(lab, ARBITER_V4, broker.v4());
        assert!(!passes(), "nobody let it in yet");
        gate.admit_for(Duration::from_secs(20)).unwrap();
        gate.verify().unwrap();
        assert!(passes() && is_served_from(lab, ARBITER_V6, broker.v6()));
        assert!(!lab.is_served(broker.v4()), "a client");
        gate.admit_for(Duration::ZERO).unwrap();
        assert!(!passes());
        gate.admit_for(Duration::from_secs(20)).unwrap();
        gate.close().unwrap();
        assert!(!passes(), "a gate that is shut by a fence keeps it out as well");
        // By itself, as the lease.
        gate.admit_for(Duration::from_millis(200)).unwrap();
        assert!(passes());
        std::thread::sleep(Duration::from_millis(260));
        assert!(!passes());
    });
}

#[test]
fn local_clients_pass_only_where_the_file_says_so() {
    Lab::run(|_| {
        let broker = Broker::start();
        let mut spec = broker.spec();
        let mut gate = Gate::install(&spec).unwrap();
        assert!(is_served(broker.local()) && is_served(broker.local_v6()) && is_served(broker.v4()));

        spec.local = LocalClients::Closed;
        gate.open_for(Duration::from_secs(20)).unwrap();
        let clients = [local_client(broker.local()), local_client(broker.local_v6()), local_client(broker.v4())];
        // Another file: the table is replaced, shut.
        let mut gate = Gate::install(&spec).unwrap();
        assert_eq!(gate.is_open(), Ok(None));
        let before = broker.received();
        for client in &clients {
            assert!(!client.hears());
        }
        // What the clients sent before may still have lain in the broker's buffers; nothing follows.
        let settled = broker.received();
        assert!(settled - before < 100, "{before} {settled}");
        assert!(![broker.local(), broker.local_v6(), broker.v4()].into_iter().any(is_served));
        assert_eq!(broker.received(), settled);

        // The agent's own look.
        for to in [broker.local(), broker.local_v6()] {
            let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
            setsockopt(&socket, sockopt::Mark, &OWN_MARK).unwrap();
            rustix::net::connect(&socket, &to).unwrap();
            std::io::Read::read_exact(&mut TcpStream::from(socket), &mut [0]).unwrap();
        }
        gate.open_for(Duration::from_secs(5)).unwrap();
        assert!(is_served(broker.local()) && is_served(broker.local_v6()));
    });
}

#[test]
fn other_ports_are_nobodys_business() {
    Lab::run(|lab| {
        let (broker, other) = (Broker::start(), Broker::start());
        let _gate = Gate::install(&broker.spec()).unwrap();
        assert!(!lab.is_served(broker.v4()));
        assert!(lab.is_served(other.v4()) && lab.is_served(other.v6()));
    });
}

#[test]
fn what_cannot_be_a_gate_is_said() {
    Lab::run(|_| {
        let broker = Broker::start();
        for (table, ports) in [("", vec![1]), ("x", vec![]), ("x", vec![0])] {
            let spec = coroner::agent::spec::GateSpec { table: table.into(), ports, ..broker.spec() };
            assert!(matches!(Gate::install(&spec), Err(GateError::Spec { .. })));
        }
    });
}

#[test]
fn opening_takes_microseconds() {
    Lab::run(|_| {
        let broker = Broker::start();
        let mut spec = broker.spec();
        spec.ports.extend([26379, 26380]);
        let mut gate = Gate::install(&spec).unwrap();
        let mut measure = |what: &str, act: &mut dyn FnMut(&mut Gate)| {
            let mut all: Vec<Duration> = (0..2_000)
                .map(|_| {
                    let watch = Stopwatch::start();
                    act(&mut gate);
                    watch.elapsed()
                })
                .collect();
            all.sort_unstable();
            let at = |permille: usize| all[all.len() * permille / 1000].as_secs_f64() * 1e6;
            println!("{what}: p50 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs", at(500), at(990), at(999));
            all[all.len() / 2]
        };
        let open = measure("open_for", &mut |gate| gate.open_for(MS(200)).unwrap());
        measure("is_open", &mut |gate| assert!(gate.is_open().unwrap().is_some()));
        measure("verify", &mut |gate| gate.verify().unwrap());
        // 200 µs in quiet; a tenth of a lease where all processors are busy.
        assert!(open < MS(20), "{open:?}");
    });
}
