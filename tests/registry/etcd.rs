//! The suite and the faults for etcd, and what only etcd has: several endpoints, users, leases.

use std::{process::Command, time::Duration};

use coroner::registry::RegistryError;

use crate::{
    conformance::{self, beat, fresh, join, leader, put},
    kv::{Kind, Server},
    kv_faults,
    sql::{patient, registry},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_does_what_every_back_end_must() {
    let server = Server::start(Kind::Etcd);
    conformance::run(&|| registry(&server.url(), &patient())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_survives() {
    kv_faults::survive(&mut Server::start(Kind::Etcd)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_on_a_full_disk() {
    kv_faults::on_a_full_disk(Kind::Etcd, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_dead_or_silent_is_passed_over() {
    let (server, mut dead, silent) = (Server::start(Kind::Etcd), Server::start(Kind::Etcd), Server::start(Kind::Etcd));
    dead.kill();
    silent.pause();
    let key = fresh("endpoint");
    let url = format!("etcd://127.0.0.1:{},127.0.0.1:{}", dead.port, server.port);
    registry(&url, &patient()).put(&[put(&key, 0, "1")], None).await.unwrap();
    // One that is silent may have got it; what only reads goes on to the next.
    let url = format!("etcd://127.0.0.1:{},127.0.0.1:{}", silent.port, server.port);
    let both = registry(&url, &coroner::registry::Options { timeout: Duration::from_secs(4), ..patient() });
    assert_eq!(both.get(&key).await.unwrap().unwrap().version, 1);
    both.put(&[put(&key, 1, "2")], None).await.unwrap();
    silent.resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_sees_its_own_prefix_only() {
    let server = Server::start(Kind::Etcd);
    let endpoint = format!("127.0.0.1:{}", server.port);
    let ctl = |arguments: &[&str]| {
        let done =
            Command::new("etcdctl").env("ETCDCTL_API", "3").args(["--endpoints", &endpoint]).args(arguments).output();
        let done = done.expect("etcdctl cannot be started; install it: apt install etcd-client");
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    ctl(&["user", "add", "root:hunter2"]);
    ctl(&["role", "add", "coroner"]);
    ctl(&["role", "grant-permission", "--prefix=true", "coroner", "readwrite", "coroner/"]);
    ctl(&["user", "add", "arbiter:hunter2"]);
    ctl(&["user", "grant-role", "arbiter", "coroner"]);
    ctl(&["auth", "enable"]);
    for who in ["", "arbiter:hunter3@"] {
        let error = registry(&format!("etcd://{who}{endpoint}"), &patient()).get("x").await.unwrap_err();
        assert!(matches!(error, RegistryError::Failed(_)) && !error.to_string().contains("hunter"), "{error:?}");
    }
    let known = registry(&format!("etcd://arbiter:hunter2@{endpoint}"), &patient());
    known.prepare().await.unwrap();
    let group = fresh("user");
    let joined = join(&*known, &group, "app", Duration::from_secs(600)).await;
    known.claim(&leader(&group, joined.id)).await.unwrap();
    known.put(&[put("x", 0, "1")], Some(&leader(&group, joined.id))).await.unwrap();
    let elsewhere = coroner::registry::Options { prefix: "other".into(), ..patient() };
    let error = registry(&format!("etcd://arbiter:hunter2@{endpoint}"), &elsewhere).prepare().await.unwrap_err();
    assert!(matches!(&error, RegistryError::Failed(why) if why.contains("permission denied")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_lives_at_least_as_long_as_it_is_valid() {
    let server = Server::start(Kind::Etcd);
    let (registry, group) = (registry(&server.url(), &patient()), fresh("lease"));
    let valid_for = Duration::from_millis(2_500);
    let first = join(&*registry, &group, "app", valid_for).await;
    let since = coroner::sys::clock::Stopwatch::start();
    loop {
        // Read before it is looked at: what is found lapsed then lapsed later than this.
        let rows = registry.instances(Some(&group), 1).await.unwrap();
        if !rows[0].is_valid {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "it does not lapse");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(since.elapsed() >= valid_for - Duration::from_millis(100), "after {:?}", since.elapsed());
    let next = registry.beat(&beat(&group, "app", Some(first.id), valid_for)).await.unwrap();
    assert!(next.id > first.id);
}
