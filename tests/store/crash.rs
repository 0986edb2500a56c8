//! A17, A1 to A9: whatever returned `Ok` is there after a kill -9.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
};

use coroner::{
    model::{Record, record::LogEntry},
    store::{
        Store as _,
        sqlite::{Bounds, SqliteStore},
    },
};

use crate::{Sqlite, samples::*};

/// Where the child writes; set by the parent only.
const CHILD: &str = "CORONER_TEST_CRASH_CHILD";

/// Kills the child by its id, whatever becomes of the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The child's part of `every_persist_that_returned_is_there_after_a_kill`. Run alone, it has nothing to do.
#[tokio::test]
async fn the_child_that_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = SqliteStore::open(path, Bounds::default()).await.unwrap();
    store.persist(&opening("i-1", 0)).await.unwrap();
    let mut out = std::io::stdout();
    for number in 2.. {
        let entry = if number % 2 == 0 { started(number) } else { ended(number) };
        store.persist(&[log("i-1", number, entry), take("orders", 1, 1)]).await.unwrap();
        store.spool("webhook", &report(&format!("k{number}"), "text")).await.unwrap();
        // In one write, so that the kill cannot cut a number in two.
        out.write_all(format!("\npersisted {number}\n").as_bytes()).unwrap();
        out.flush().unwrap();
    }
}

#[tokio::test]
async fn every_persist_that_returned_is_there_after_a_kill() {
    for until in [1, 40, 150] {
        let home = Sqlite::new();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["crash::the_child_that_is_killed", "--exact", "--nocapture"])
            .env(CHILD, home.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut child = Killed(child);
        let mut promised = 1;
        let mut count = 0;
        for line in BufReader::new(child.0.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let Some(number) = line.strip_prefix("persisted ") else { continue };
            promised = number.parse().unwrap();
            count += 1;
            if count == until {
                // Killed while it goes on writing; what the pipe still holds counts as promised too.
                child.0.kill().unwrap();
            }
        }
        drop(child);
        assert!(promised > 1, "the child wrote something");

        let store = SqliteStore::open(home.path(), Bounds::default()).await.unwrap();
        let recovered = store.recover().await.unwrap();
        let log = &recovered.open[0].log;
        assert!(log.len() >= promised, "{promised} were promised, {} are there", log.len());
        assert!(log.len() <= promised + 1, "nothing is there that was not asked for");
        assert_eq!(log[0], opened());
        for (entry, number) in log.iter().zip(1_u32..).skip(1) {
            let wanted = if number % 2 == 0 { started(number) } else { ended(number) };
            assert_eq!(*entry, wanted);
        }
        // And it goes on from there.
        let next = u32::try_from(log.len()).unwrap() + 1;
        let entry = LogEntry::Held { reason: "a restart".into() };
        let record = Record::Log { incident: "i-1".into(), cluster: "orders".into(), number: next, entry };
        store.persist(&[record]).await.unwrap();
    }
}
