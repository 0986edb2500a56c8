//! A13, A17, A19: the store takes nothing, or cannot be trusted. The primary is left alone, and people are told.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    http::{Answer, Server},
    world::{Options, World},
};

/// A transaction of another program on the store.
struct Lock(Child);

impl Lock {
    fn take(store: &Path) -> Self {
        let mut child = Command::new("sqlite3")
            .arg(store)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("sqlite3 cannot be started ({e}); install it: apt install sqlite3"));
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, ".timeout 5000\nBEGIN EXCLUSIVE;\nSELECT 'locked';").unwrap();
        stdin.flush().unwrap();
        child.stdin = Some(stdin);
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "locked");
        Self(child)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sql(store: &Path, text: &str) -> String {
    let output = Command::new("sqlite3").arg(store).arg(text).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The primary is frozen while the store takes nothing: it is neither killed nor replaced, and people hear of it.
/// When the store is back, the failover goes on.
fn check_store_lost(world: &mut World, pager: &Server, mend: impl FnOnce()) {
    world.member("broker-a").freeze();
    world.wait_until("the rule holds, and the store is known to be lost", |world| {
        let lost = world.status().is_some_and(|status| status["store_lost"].is_string());
        lost && world.cluster().is_some_and(|c| c["verdict"] == "dead")
    });
    assert!(world.blocking().iter().any(|guard| guard == "store_lost"));
    let pid = world.member("broker-a").pid();
    world.stays("the primary is left alone", Duration::from_secs(3), |world| {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        state.contains(") T ") && world.role("broker-b") == Some("slave")
    });
    assert_eq!(world.metric("coroner_store_lost"), Some(1.0));
    assert_eq!(world.cli_text(&["status", "--nagios"]).code, 2);
    let told =
        |pager: &Server, what: &str| pager.requests().iter().any(|r| String::from_utf8_lossy(&r.body).contains(what));
    world.wait_until("people are told", |_| told(pager, "store"));
    assert!(!told(pager, "failover from"), "people were told of a failover that never began");
    mend();
    world.wait_primary("broker-b");
    assert_eq!(world.failovers().len(), 1);
    assert_eq!(world.cluster().unwrap()["epoch"], 2);
}

fn pager() -> (Server, String) {
    let pager = Server::start(|_| Answer::Status(200, "{}".into()));
    let report = format!("- {{ webhook: {{ url: \"http://{}/\" }} }}", pager.address);
    (pager, report)
}

#[test]
fn a17_a19_nothing_is_done_while_another_program_locks_the_store() {
    let (pager, report) = pager();
    let mut world = World::start(Options { report, ..Options::default() });
    let lock = Lock::take(&world.store);
    check_store_lost(&mut world, &pager, || drop(lock));
}

/// A small file system of its own.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "coroner-test"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(done.success(), "a small file system cannot be mounted: run this test as root");
        Self(dir)
    }

    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("filler");
        let mut file = fs::File::create(&path).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a17_nothing_is_done_while_the_disk_is_full() {
    let (pager, report) = pager();
    let disk = Disk::new();
    let store = disk.0.path().join("coroner.db");
    let mut world = World::start(Options { report, store, ..Options::default() });
    let filler = disk.fill();
    // Room that the file has already is used up first; until then the store is as good as ever.
    world.wait_until("the store is lost", |world| {
        let status = world.status();
        status.is_some_and(|status| status["store_lost"].as_str().is_some_and(|why| why.contains("full")))
    });
    check_store_lost(&mut world, &pager, || fs::remove_file(filler).unwrap());
    drop(world);
    drop(disk);
}

#[test]
fn a17_a_damaged_record_keeps_the_arbiter_from_starting_and_is_named() {
    let mut world = World::start(Options::default());
    world.kill_arbiter();
    sql(&world.store, "UPDATE clusters SET json = replace(json, 'broker-a', 'broker-x')");
    world.spawn(&[]);
    let code = world.wait_death();
    let log = world.log_text();
    assert!(code != Some(0) && code.is_some(), "{code:?}");
    assert!(log.contains("orders") && log.contains("damaged or was edited"), "{log}");
    assert_eq!(world.role("broker-a"), Some("master"));
}

#[test]
fn a13_a_second_arbiter_on_the_same_store_does_not_start() {
    let mut world = World::start(Options::default());
    let mut text = fs::read_to_string(&world.config).unwrap();
    for address in [world.http.to_string(), world.udp.to_string()] {
        text = text.replace(&address, "127.0.0.1:0");
    }
    text = text.replace(&world.socket.display().to_string(), &world.dir().join("s2").display().to_string());
    let second = world.dir().join("second.yaml");
    fs::write(&second, text).unwrap();
    let ran = world.cli_text(&["arbiter", "--config", &second.display().to_string()]);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("another coroner holds") || ran.out.contains("another coroner holds"), "{ran:?}");
    world.stays_untouched(Duration::from_millis(500));
    world.wait_ready();
}

/// A1: what was persisted is all there is: a store that is moved away makes an arbiter that learns from the members.
#[test]
fn a18_an_arbiter_with_an_empty_store_takes_up_the_epoch_that_the_members_know() {
    let mut world = World::start(Options::default());
    world.member_mut("broker-a").kill();
    world.wait_primary("broker-b");
    world.member_mut("broker-a").restart();
    world.wait_standby("broker-a");
    // Two, unless an opening was taken back on the way.
    let known = world.cluster().unwrap()["epoch"].clone();
    assert!(known.as_u64().unwrap() >= 2, "{known}");
    world.kill_arbiter();
    for ending in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{ending}", world.store.display()));
    }
    world.run(&[]);
    world.wait_primary("broker-b");
    assert_eq!(world.cluster().unwrap()["epoch"], known, "never below what a member has stored");
    world.wait_ready();
}
