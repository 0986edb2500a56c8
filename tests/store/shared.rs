//! The store over a registry: what only it can suffer. A13, A14, A20, A21.

use std::sync::Arc;

use coroner::{
    model::{Epoch, incident::IncidentState},
    store::{
        Store as _, StoreError,
        shared::SharedStore,
        sqlite::{Bounds, SqliteStore},
    },
};

use crate::{
    memory::{Fault, Memory},
    samples::*,
};

struct Lab {
    registry: Memory,
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let registry = Memory::default();
        registry.appoint(1);
        Self { registry, dir: tempfile::tempdir().unwrap() }
    }

    /// One arbiter, with its own local file.
    async fn arbiter(&self, name: &str) -> SharedStore {
        let local = SqliteStore::open(self.dir.path().join(name), Bounds::default()).await.unwrap();
        SharedStore::new(Arc::new(self.registry.clone()), local, "arbiters", 1_000)
    }

    async fn leader(&self, name: &str, id: u64) -> SharedStore {
        let store = self.arbiter(name).await;
        self.registry.appoint(id);
        store.lead(Some(id));
        store.recover().await.unwrap();
        store
    }
}

fn is_conflict(result: &Result<(), StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict(_)))
}

#[tokio::test]
async fn who_does_not_lead_writes_nothing() {
    let lab = Lab::new();
    let watcher = lab.arbiter("a").await;
    let error = watcher.persist(&opening("i-1", 0)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Failed(text) if text.contains("does not lead")), "{error}");
    assert_eq!(lab.registry.keys(), [""; 0]);
    watcher.check().await.unwrap();
    assert_eq!(lab.registry.keys(), [""; 0], "whoever watches only looks");
}

/// A14: the former leader was paused; the registry itself refuses what it still wants to write.
#[tokio::test]
async fn a14_a_leader_that_was_followed_writes_nothing_more() {
    let lab = Lab::new();
    let a = lab.leader("a", 1).await;
    a.persist(&opening("i-1", 0)).await.unwrap();
    let b = lab.leader("b", 2).await;
    b.persist(&[log("i-1", 2, started(1))]).await.unwrap();
    let before = lab.registry.backup();
    for late in [vec![log("i-1", 2, ended(1))], vec![take("orders", 1, 2)], vec![record("i-1", IncidentState::Held)]] {
        assert!(is_conflict(&a.persist(&late).await), "{late:?}");
    }
    assert_eq!(lab.registry.backup(), before);
}

#[tokio::test]
async fn a20_a_lost_answer_is_found_out() {
    use Fault::{Delayed, DoneAnswerLost, NotDoneAnswerLost};
    for faults in [
        vec![DoneAnswerLost],
        vec![NotDoneAnswerLost],
        vec![NotDoneAnswerLost, DoneAnswerLost],
        vec![DoneAnswerLost, NotDoneAnswerLost],
        vec![DoneAnswerLost, Fault::Fails],
        vec![Delayed],
    ] {
        let lab = Lab::new();
        let store = lab.leader("a", 1).await;
        lab.registry.will(&faults);
        store.persist(&opening("i-1", 0)).await.unwrap_or_else(|e| panic!("{faults:?}: {e}"));
        store.persist(&[take("orders", 1, 1), log("i-1", 2, started(1))]).await.unwrap();
        let before = lab.registry.backup();
        for late in lab.registry.deliver() {
            assert!(late.is_err(), "a copy that comes late is not written again");
        }
        assert_eq!(lab.registry.backup(), before, "{faults:?}");
    }
}

/// What cannot be found out makes the driver stop and read; a copy that arrives even after that is noticed by the next
/// write.
#[tokio::test]
async fn a20_what_cannot_be_found_out_is_a_conflict() {
    let lab = Lab::new();
    let store = lab.leader("a", 1).await;
    store.persist(&opening("i-1", 0)).await.unwrap();
    lab.registry.will(&[Fault::Delayed, Fault::NotDoneAnswerLost, Fault::NotDoneAnswerLost]);
    let error = store.persist(&[take("orders", 1, 2), log("i-1", 2, started(1))]).await;
    assert!(is_conflict(&error), "{error:?}");
    assert_eq!(store.recover().await.unwrap().clusters[0].epoch, Epoch(1));
    assert_eq!(lab.registry.deliver(), [Ok(())]);
    assert!(is_conflict(&store.persist(&[take("orders", 1, 1)]).await), "what came late is not written over");
    store.recover().await.unwrap();
    store.persist(&[take("orders", 2, 3)]).await.unwrap();
}

#[tokio::test]
async fn a19_a_registry_that_takes_nothing_leaves_nothing_behind() {
    let lab = Lab::new();
    let store = lab.leader("a", 1).await;
    lab.registry.will(&[Fault::Fails]);
    assert!(matches!(store.persist(&opening("i-1", 0)).await, Err(StoreError::Failed(_))));
    assert_eq!(lab.registry.keys(), [""; 0]);
    lab.registry.will(&[Fault::Fails]);
    assert!(matches!(store.check().await, Err(StoreError::Failed(_))));
    store.persist(&opening("i-1", 0)).await.unwrap();
}

/// A21: the registry was restored from a backup that knows less: each arbiter that saw more can tell.
#[tokio::test]
async fn a21_the_largest_epochs_are_kept_beside_the_registry() {
    let lab = Lab::new();
    let a = lab.leader("a", 1).await;
    a.persist(&[take("orders", 0, 3)]).await.unwrap();
    let backup = lab.registry.backup();
    a.persist(&[take("orders", 3, 7)]).await.unwrap();
    let watcher = lab.arbiter("b").await;
    watcher.recover().await.unwrap();
    lab.registry.restore(backup);
    assert!(is_conflict(&a.persist(&[take("orders", 7, 8)]).await), "the version is another one");
    for store in [a, watcher] {
        assert_eq!(store.recover().await.unwrap().clusters[0].epoch, Epoch(3));
        assert_eq!(store.seen().await.unwrap()[&coroner::model::ClusterName::from("orders")], Epoch(7));
    }
}

#[tokio::test]
async fn a_document_that_cannot_be_read_is_named() {
    let lab = Lab::new();
    let store = lab.leader("a", 1).await;
    store.persist(&opening("i-1", 0)).await.unwrap();
    lab.registry.edit("cluster/orders", "{}?");
    let error = store.recover().await.unwrap_err().to_string();
    assert!(error.contains("cluster/orders") && error.contains("coroner adopt"), "{error}");
    lab.registry.restore(lab.registry.backup().into_iter().filter(|(key, _)| !key.starts_with("policy/")).collect());
    lab.registry.edit("cluster/orders", &serde_json::to_string(&cluster("orders", 1)).unwrap());
    let error = store.recover().await.unwrap_err().to_string();
    assert!(error.contains("policy/i-1 is missing"), "{error}");
}

#[tokio::test]
async fn old_incidents_go_whole_and_needed_ones_stay() {
    let lab = Lab::new();
    let local = SqliteStore::open(lab.dir.path().join("a"), Bounds::default()).await.unwrap();
    let store = SharedStore::new(Arc::new(lab.registry.clone()), local, "arbiters", 1);
    store.lead(Some(1));
    for (number, epoch) in (1..=3).zip(0..) {
        let id = format!("i-{number}");
        store.persist(&opening(&id, epoch)).await.unwrap();
        store.persist(&[record(&id, IncidentState::Resolved), take("orders", epoch + 1, epoch + 1)]).await.unwrap();
    }
    store.persist(&[record("i-2", IncidentState::Held)]).await.unwrap();
    store.trim().await.unwrap();
    let of = |id: &str| lab.registry.keys().iter().filter(|key| key.contains(id)).count();
    assert_eq!((of("i-1"), of("i-2"), of("i-3")), (0, 3, 3), "{:?}", lab.registry.keys());
}
