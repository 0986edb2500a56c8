//! The shared store is killed, paused, cut off, emptied, restored from a backup: nothing is done to the primary, and people
//! are told why.

use std::{fs, time::Duration};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    databases::{Kind, Server},
    proxy::{Mode, Proxy},
    world::{Options, Shared, World},
};

fn over(url: String) -> Options {
    Options { shared: Shared::Url(url), ..Options::default() }
}

#[track_caller]
fn nobody_leads(world: &mut World) {
    world.wait("nobody leads, and says so", |w| {
        w.arbiters
            .iter()
            .all(|a| !a.leads() && a.reason("not_leading").is_some_and(|why| why.contains("not in the election")))
    });
}

/// A19: the store dies, and then the primary: nothing is done, the standby is left alone; once the store is back, the
/// failover is.
#[test]
fn a19_without_the_store_there_is_no_failover() {
    let mut server = Server::start(Kind::Postgres);
    let mut world = World::start(2, &over(server.url()), &[]);
    world.wait_followed();
    server.kill();
    nobody_leads(&mut world);
    world.stays("the primary goes on", Duration::from_secs(2), |w| {
        w.role(&w.a) == Some("master") && w.fences().is_empty()
    });
    let command = json!({ "command": "failover", "cluster": "orders", "reason": "now" });
    assert_eq!(world.arbiters[0].command(&command).0, 409);
    world.a.kill();
    world.stays("no failover", Duration::from_secs(3), |w| w.role(&w.b) == Some("slave") && w.fences().is_empty());
    server.start_again();
    world.wait("the failover is done", |w| w.role(&w.b) == Some("master"));
    assert_eq!(world.fences(), ["broker-a 2"]);
}

/// A20: the store is paused for longer than a heartbeat is valid, and goes on.
#[test]
fn a20_a_store_that_is_paused_stops_failovers_only() {
    let server = Server::start(Kind::Postgres);
    let mut world = World::start(2, &over(server.url()), &[]);
    world.wait_followed();
    server.pause();
    nobody_leads(&mut world);
    server.resume();
    world.wait("one leads again", |w| w.arbiters.iter().filter(|a| a.leads()).count() == 1);
    world.stays("nothing was done", Duration::from_secs(2), |w| {
        w.role(&w.a) == Some("master") && w.fences().is_empty() && w.arbiters.iter().filter(|a| a.leads()).count() <= 1
    });
}

/// A14: the leader is cut off from the store in the middle of a failover; the other one finishes it, and the first one does
/// nothing more, neither before nor after it is back.
#[test]
fn a14_a_leader_that_is_cut_off_from_the_store_stops() {
    let server = Server::start(Kind::Postgres);
    let proxy = Proxy::start(server.port);
    let shared = Shared::Through(server.url(), server.url_at(proxy.port));
    let mut world = World::start(2, &Options { shared, ..Options::default() }, &[]);
    world.wait_followed();
    world.hold_fences(true);
    world.a.kill();
    world.wait("the failover is fencing", |w| {
        w.arbiters[0].incidents().first().is_some_and(|incident| incident["state"] == "fencing")
    });
    proxy.set(Mode::Swallow);
    world.wait("the other one leads", |w| w.arbiters[1].leads());
    assert!(!world.arbiters[0].leads(), "{}", world.portrait());
    world.hold_fences(false);
    world.wait("the failover is over", |w| {
        w.arbiters[1].incidents().first().is_some_and(|incident| incident["state"] == "resolved")
    });
    let incidents = world.arbiters[1].incidents();
    proxy.set(Mode::Pass);
    world.wait("the first one knows", |w| {
        w.arbiters[0].cluster().is_some_and(|c| c["primary"] == "broker-b" && c["epoch"] == 2)
    });
    world.stays("nothing more is done", Duration::from_secs(2), |w| {
        !w.arbiters[0].leads() && w.arbiters[1].incidents() == incidents && w.role(&w.b) == Some("master")
    });
    assert!(world.fences().iter().all(|line| line == "broker-a 2"), "{:?}", world.fences());
}

/// A21: the store comes back from a backup that knows less. No epoch is used again: whoever saw more says so and stops, over
/// a restart, too, until a person says which member is primary.
#[test]
fn a21_a_store_that_was_set_back_stops_everything() {
    let mut server = Server::start(Kind::Postgres);
    let mut world = World::start(2, &over(server.url()), &[]);
    world.wait_followed();
    server.backup();
    world.wait("one leads", |w| w.arbiters.iter().filter(|a| a.leads()).count() == 1);
    world.a.kill();
    world.wait("a failover was done", |w| {
        w.arbiters.iter().all(|a| a.cluster().is_some_and(|c| c["primary"] == "broker-b" && c["epoch"] == 2))
    });
    world.wait("it is over", |w| w.arbiters[1].incidents().first().is_some_and(|i| i["state"] == "resolved"));
    let fences = world.fences();
    for arbiter in &mut world.arbiters {
        arbiter.kill();
    }
    server.restore();
    for arbiter in &mut world.arbiters {
        arbiter.start(&[]);
    }
    world.wait("one leads, and says that the store was set back", |w| {
        w.arbiters
            .iter()
            .any(|a| a.leads() && a.reason("primary_unclear").is_some_and(|why| why.contains("it was set back")))
    });
    world.stays("nothing is done", Duration::from_secs(2), |w| w.fences() == fences && w.role(&w.b) == Some("master"));
    let leader = world.arbiters.iter().find(|a| a.leads()).unwrap();
    let adopt = json!({ "command": "adopt", "cluster": "orders", "primary": "broker-b", "reason": "it serves" });
    let (status, answer) = leader.command(&adopt);
    assert_eq!(status, 200, "{answer}");
    world.wait("the next epoch was never used", |w| {
        w.arbiters.iter().any(|a| a.cluster().is_some_and(|c| c["primary"] == "broker-b" && c["epoch"] == 3))
    });
}

/// A18: everything that the arbiters knew is gone; the members were failed over before. What nobody can know is asked for,
/// and the epoch goes on from theirs.
#[test]
fn a18_an_empty_store_beside_a_cluster_that_was_failed_over() {
    let mut world = World::start(1, &Options::default(), &[]);
    world.a.kill();
    world.wait("a failover was done", |w| w.arbiters[0].cluster().is_some_and(|c| c["primary"] == "broker-b"));
    world.wait("it is over", |w| w.arbiters[0].incidents().first().is_some_and(|i| i["state"] == "resolved"));
    let fences = world.fences();
    world.arbiters[0].kill();
    for entry in fs::read_dir(world.dir()).unwrap().chain(fs::read_dir(world.dir().join("arbiter-1")).unwrap()) {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().contains(".db") {
            fs::remove_file(path).unwrap();
        }
    }
    world.arbiters[0].start(&[]);
    world.wait("it leads, and does not know who is primary", |w| {
        w.arbiters[0].leads() && w.arbiters[0].reason("primary_unclear").is_some()
    });
    world.stays("nothing is done", Duration::from_secs(2), |w| w.fences() == fences && w.role(&w.b) == Some("master"));
    let adopt = json!({ "command": "adopt", "cluster": "orders", "primary": "broker-b", "reason": "it serves" });
    let (status, answer) = world.arbiters[0].command(&adopt);
    assert_eq!(status, 200, "{answer}");
    world.wait("the epoch is above the broker's own", |w| {
        w.arbiters[0].cluster().is_some_and(|c| c["primary"] == "broker-b" && c["epoch"] == 3)
    });
}

/// The store must not be what it guards, by whatever name.
#[test]
fn a_store_that_is_the_broker_is_refused() {
    let options = over("redis://localhost:1/0".into());
    let mut world = World::new(1, &options);
    let port = world.a.port;
    let file = world.dir().join("arbiter-1/coroner.yaml");
    let text = fs::read_to_string(&file).unwrap().replace("localhost:1/", &format!("localhost:{port}/"));
    fs::write(&file, text).unwrap();
    world.arbiters[0].start(&[]);
    world.wait("it ends", |w| w.arbiters[0].has_ended());
    let log = world.arbiters[0].log();
    assert!(log.contains("`arbiter.store` is broker-a of orders"), "{log}");
}

/// A watcher that is stopped and goes on has missed nothing that matters.
#[test]
fn a_watcher_that_was_stopped_catches_up() {
    let mut world = World::start(2, &Options::default(), &[]);
    world.wait_followed();
    world.stop(1);
    world.a.kill();
    world.wait("the failover is done", |w| w.arbiters[0].cluster().is_some_and(|c| c["primary"] == "broker-b"));
    world.arbiters[1].signal(Signal::SIGCONT);
    world.wait("the watcher knows", |w| {
        w.arbiters[1].cluster().is_some_and(|c| c["primary"] == "broker-b" && c["epoch"] == 2) && w.arbiters[0].leads()
    });
    assert_eq!(world.fences().len(), 1);
}
