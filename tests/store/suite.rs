//! The contract, case by case, for any back-end.

use std::sync::Arc;

use coroner::{
    model::{
        Epoch, Operator, Time,
        incident::{Acknowledgement, IncidentState},
        record::LogEntry,
    },
    store::{Store, StoreError},
};

use crate::{Backend, samples::*};

async fn logs(store: &dyn Store, id: &str) -> Vec<LogEntry> {
    store.incident(id).await.unwrap().map(|(_, log)| log).unwrap_or_default()
}

fn is_conflict(result: Result<(), StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict(_)))
}

pub(crate) async fn an_empty_store_gives_nothing_back(backend: &dyn Backend) {
    let store = backend.open().await;
    let recovered = store.recover().await.unwrap();
    assert!(recovered.clusters.is_empty() && recovered.open.is_empty());
    assert_eq!(store.cluster(&"orders".into()).await.unwrap(), None);
    assert_eq!(store.incidents(None, 10).await.unwrap(), []);
    assert_eq!(store.incident("01").await.unwrap(), None);
    assert_eq!(store.incident("").await.unwrap(), None);
    assert_eq!(store.spooled("webhook").await.unwrap(), []);
    store.persist(&[]).await.unwrap();
}

pub(crate) async fn what_was_persisted_is_recovered_with_logs_and_policies(backend: &dyn Backend) {
    let store = backend.open().await;
    store.persist(&opening("i-1", 0)).await.unwrap();
    store.persist(&[log("i-1", 2, started(1))]).await.unwrap();
    store.persist(&[log("i-1", 3, ended(1)), log("i-1", 4, started(2))]).await.unwrap();
    drop(store);

    let store = backend.open().await;
    let recovered = store.recover().await.unwrap();
    assert_eq!(recovered.clusters, [cluster("orders", 1)]);
    let [open] = recovered.open.as_slice() else { panic!("one incident is open: {:?}", recovered.open) };
    assert_eq!(open.incident, incident("i-1", "orders", IncidentState::Fencing));
    assert_eq!(open.policy.hash, "abc");
    assert_eq!(open.log, [opened(), started(1), ended(1), started(2)]);
    assert_eq!(store.cluster(&"orders".into()).await.unwrap(), Some(cluster("orders", 1)));
}

pub(crate) async fn an_epoch_is_taken_once(backend: &dyn Backend) {
    let store = backend.open().await;
    store.persist(&[take("orders", 0, 1)]).await.unwrap();
    store.persist(&[take("orders", 1, 2)]).await.unwrap();
    assert!(is_conflict(store.persist(&[take("orders", 1, 2)]).await), "a late writer does not take epoch 2 again");
    assert!(is_conflict(store.persist(&[take("orders", 3, 4)]).await));
    assert!(is_conflict(store.persist(&[take("metrics", 1, 2)]).await), "an absent cluster is at epoch 0");
    store.persist(&[take("orders", 2, 2)]).await.unwrap();
    assert_eq!(store.cluster(&"orders".into()).await.unwrap().unwrap().epoch, Epoch(2));
    assert_eq!(store.cluster(&"metrics".into()).await.unwrap(), None);
}

pub(crate) async fn of_many_who_take_an_epoch_at_once_one_gets_it(backend: &dyn Backend) {
    let store = backend.open().await;
    let racers: Vec<_> = (0..20)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.persist(&opening(&format!("i-{n}"), 0)).await })
        })
        .collect();
    let mut winners = 0;
    for racer in racers {
        match racer.await.unwrap() {
            Ok(()) => winners += 1,
            Err(StoreError::Conflict(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(winners, 1);
    assert_eq!(store.recover().await.unwrap().open.len(), 1);
}

pub(crate) async fn an_epoch_never_goes_back(backend: &dyn Backend) {
    let store = backend.open().await;
    store.persist(&[take("orders", 0, 7)]).await.unwrap();
    assert!(is_conflict(store.persist(&[take("orders", 7, 6)]).await));
}

pub(crate) async fn a_batch_is_written_all_or_none(backend: &dyn Backend) {
    let store = backend.open().await;
    store.persist(&opening("i-1", 0)).await.unwrap();
    let before = store.recover().await.unwrap();
    let batch = [
        take("orders", 1, 2),
        record("i-2", IncidentState::Fencing),
        policy("i-2"),
        log("i-2", 1, opened()),
        log("i-1", 9, started(1)),
    ];
    assert!(is_conflict(store.persist(&batch).await), "entry 9 does not follow entry 1");
    assert_eq!(store.recover().await.unwrap(), before);
    assert_eq!(store.incident("i-2").await.unwrap(), None);
}

pub(crate) async fn log_numbers_grow_by_one(backend: &dyn Backend) {
    let store = backend.open().await;
    store.persist(&opening("i-1", 0)).await.unwrap();
    assert!(is_conflict(store.persist(&[log("i-1", 3, started(1))]).await), "a gap");
    assert!(is_conflict(store.persist(&[log("i-1", 0, started(1))]).await), "zero");
    store.persist(&[log("i-1", 2, started(1))]).await.unwrap();
    store.persist(&[record("i-2", IncidentState::Held), policy("i-2"), log("i-2", 1, opened())]).await.unwrap();
    assert_eq!(logs(&*store, "i-1").await, [opened(), started(1)]);
    assert_eq!(logs(&*store, "i-2").await, [opened()]);
}

pub(crate) async fn the_same_batch_twice_is_written_once(backend: &dyn Backend) {
    let store = backend.open().await;
    // As after a commit whose answer was lost.
    store.persist(&opening("i-1", 0)).await.unwrap();
    store.persist(&opening("i-1", 0)).await.unwrap();
    store.persist(&[log("i-1", 2, started(1))]).await.unwrap();
    store.persist(&[log("i-1", 2, started(1))]).await.unwrap();
    store.persist(&[log("i-1", 2, started(1)), log("i-1", 3, ended(1))]).await.unwrap();
    assert_eq!(logs(&*store, "i-1").await, [opened(), started(1), ended(1)]);
    assert!(is_conflict(store.persist(&opening("i-2", 0)).await), "another incident cannot pass for the same");
}

pub(crate) async fn another_entry_with_the_same_number_is_a_conflict(backend: &dyn Backend) {
    let store = backend.open().await;
    store.persist(&opening("i-1", 0)).await.unwrap();
    assert!(is_conflict(store.persist(&[log("i-1", 1, started(1))]).await));
    assert_eq!(logs(&*store, "i-1").await, [opened()]);
}

pub(crate) async fn a_log_without_an_incident_is_refused(backend: &dyn Backend) {
    let store = backend.open().await;
    let error = store.persist(&[log("i-1", 1, opened())]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Failed(text) if text.contains("i-1")), "{error}");
    assert_eq!(store.recover().await.unwrap().open, []);
}

pub(crate) async fn a_policy_is_written_once(backend: &dyn Backend) {
    let store = backend.open().await;
    store.persist(&opening("i-1", 0)).await.unwrap();
    store.persist(&[policy("i-1")]).await.unwrap();
    let coroner::model::Record::IncidentPolicy { incident, mut policy } = policy("i-1") else { unreachable!() };
    policy.hash = "another".into();
    assert!(is_conflict(store.persist(&[coroner::model::Record::IncidentPolicy { incident, policy }]).await));
}

pub(crate) async fn closed_incidents_are_listed_but_not_recovered(backend: &dyn Backend) {
    let store = backend.open().await;
    store.persist(&opening("i-1", 0)).await.unwrap();
    store.persist(&[record("i-1", IncidentState::Resolved), log("i-1", 2, LogEntry::Resolved)]).await.unwrap();
    let mut other = incident("j-1", "metrics", IncidentState::Aborted);
    other.opened = Time::from_millis(7_000);
    store.persist(&[coroner::model::Record::Incident(Box::new(other))]).await.unwrap();
    assert_eq!(store.recover().await.unwrap().open, []);
    let all = store.incidents(None, 10).await.unwrap();
    assert_eq!(all.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["j-1", "i-1"], "the newest first");
    assert_eq!(all[1].opened_unix_ms, ANCHOR.unix_ms + 4_000);
    assert_eq!(all[1].closed_unix_ms, Some(ANCHOR.unix_ms + 5_500));
    assert_eq!(store.incidents(None, 1).await.unwrap().len(), 1);
    assert_eq!(store.incidents(Some(&"orders".into()), 10).await.unwrap().len(), 1);
}

pub(crate) async fn an_incident_is_found_by_the_beginning_of_its_name(backend: &dyn Backend) {
    let store = backend.open().await;
    for id in ["01ABC", "01ABD", "01ABCD"] {
        store.persist(&[record(id, IncidentState::Resolved)]).await.unwrap();
    }
    assert_eq!(store.incident("01abd").await.unwrap().unwrap().0.id.as_str(), "01ABD");
    assert_eq!(store.incident("01ABC").await.unwrap().unwrap().0.id.as_str(), "01ABC", "the whole name wins");
    assert!(matches!(store.incident("01AB").await, Err(StoreError::Failed(text)) if text.contains("more than one")));
    assert_eq!(store.incident("02").await.unwrap(), None);
    assert_eq!(store.incident("%").await.unwrap(), None);
}

pub(crate) async fn an_acknowledgement_replaces_the_record(backend: &dyn Backend) {
    let store = backend.open().await;
    let mut known = incident("i-1", "orders", IncidentState::Resolved);
    assert!(store.replace_incident(&known.id, &known).await.is_err(), "it must exist");
    store.persist(&[record("i-1", IncidentState::Resolved)]).await.unwrap();
    let by = Operator("alice".into());
    known.acknowledged = Some(Acknowledgement { by, at: Time::from_millis(8_000), note: "seen".into() });
    store.replace_incident(&known.id, &known).await.unwrap();
    assert_eq!(store.incident("i-1").await.unwrap().unwrap().0, known);
    assert!(store.incidents(None, 1).await.unwrap()[0].acknowledged);
    assert!(store.replace_incident(&"i-2".into(), &known).await.is_err(), "under its own name only");
}

pub(crate) async fn a_spooled_report_replaces_the_older_one(backend: &dyn Backend) {
    let store = backend.open().await;
    for (reporter, key, text) in [("a", "k1", "one"), ("a", "k2", "two"), ("b", "k1", "other")] {
        store.spool(reporter, &report(key, text)).await.unwrap();
    }
    let first = store.spooled("a").await.unwrap();
    assert_eq!(first.iter().map(|(_, r)| r.key.as_str()).collect::<Vec<_>>(), ["k1", "k2"]);
    store.spool("a", &report("k1", "newer")).await.unwrap();
    // The older one was on its way meanwhile; that it arrived does not remove the newer one.
    store.unspool(first[0].0).await.unwrap();
    drop(store);

    let store = backend.open().await;
    let left = store.spooled("a").await.unwrap();
    assert_eq!(left.iter().map(|(_, r)| r.clone()).collect::<Vec<_>>(), [report("k2", "two"), report("k1", "newer")]);
    for (number, _) in left {
        store.unspool(number).await.unwrap();
    }
    assert_eq!(store.spooled("a").await.unwrap(), []);
    assert_eq!(store.spooled("b").await.unwrap().len(), 1);
}

pub(crate) async fn what_grows_is_bounded(backend: &dyn Backend) {
    let store: Arc<dyn Store> = backend.open().await;
    for n in 0..3_000_u64 {
        store.spool("webhook", &report(&format!("k{n}"), "text")).await.unwrap();
    }
    store.trim().await.unwrap();
    // What remains is the back-end's own to look at; here: it stays usable, and twice is the same as once.
    store.trim().await.unwrap();
    store.persist(&opening("i-1", 0)).await.unwrap();
}

pub(crate) async fn check_and_trim_work_on_an_empty_store(backend: &dyn Backend) {
    let store = backend.open().await;
    store.check().await.unwrap();
    store.trim().await.unwrap();
    store.check().await.unwrap();
}
