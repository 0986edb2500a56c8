//! What every back-end must do, whatever it is. Each test uses groups and keys of its own, so that all of them may run
//! on one database, beside one another.

#![allow(unreachable_pub, reason = "test crates include it by path")]

use std::{sync::Arc, time::Duration};

use coroner::{
    registry::{Beat, Beaten, Document, Instance, Leader, Put, Registry, RegistryError},
    sys::clock::Stopwatch,
};

/// Opens the same database anew: with connections of its own, as another process would.
pub type Open<'a> = &'a (dyn Fn() -> Arc<dyn Registry> + Sync);

/// Long enough that no pause of a loaded machine makes it lapse.
const LONG: Duration = Duration::from_secs(600);
/// Short enough to be waited for.
const SHORT: Duration = Duration::from_millis(300);

/// All of it.
pub async fn run(open: Open<'_>) {
    prepared_by_several_at_once(open).await;
    the_published_rule(open).await;
    a_heartbeat_that_lapsed_makes_a_new_row(open).await;
    a_row_that_lapsed_is_never_valid_again(open).await;
    groups_are_apart(open).await;
    ids_grow_whoever_asks(open).await;
    a_claim_waits_for_all_before(open).await;
    a_claim_is_refused_to_the_unknown_and_the_lapsed(open).await;
    a_smaller_row_never_leads_again(open).await;
    of_concurrent_claims_one_is_granted(open).await;
    who_leaves_is_not_waited_for(open).await;
    the_history_is_shown(open).await;
    a_document_changes_by_its_version(open).await;
    a_batch_is_written_whole_or_not(open).await;
    a_write_in_the_name_of_a_leader(open).await;
    documents_are_listed_by_their_beginning(open).await;
    texts_come_back_as_they_were(open).await;
    no_update_is_lost(open).await;
    names_that_would_be_folded_are_refused_or_kept_apart(open).await;
}

/// A name that no other test, and no other run on this database, uses.
pub fn fresh(what: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (boot, number) = (coroner::sys::clock::now().0, NEXT.fetch_add(1, Ordering::Relaxed));
    format!("{what}-{}-{boot}-{number}", std::process::id())
}

pub fn beat(group: &str, instance: &str, id: Option<u64>, valid_for: Duration) -> Beat {
    Beat { group: group.into(), instance: instance.into(), id, valid_for }
}

pub fn leader(group: &str, id: u64) -> Leader {
    Leader { group: group.into(), id }
}

pub fn put(key: &str, expected: u64, text: &str) -> Put {
    Put { key: key.into(), expected, text: Some(text.into()) }
}

pub async fn join(registry: &dyn Registry, group: &str, instance: &str, valid_for: Duration) -> Beaten {
    registry.beat(&beat(group, instance, None, valid_for)).await.unwrap()
}

fn own(beaten: &Beaten) -> &Instance {
    beaten.rows.iter().find(|row| row.id == beaten.id).expect("the own row is in the answer")
}

fn is_refused(result: Result<(), RegistryError>) -> String {
    match result {
        Err(RegistryError::NotLeader(why)) => why,
        other => panic!("not refused: {other:?}"),
    }
}

fn is_conflict(result: Result<(), RegistryError>, key: &str) {
    assert_eq!(result, Err(RegistryError::Conflict { key: key.into() }));
}

/// Waits until a row lapsed by the database's own clock.
async fn lapsed(registry: &dyn Registry, group: &str, id: u64) {
    for _ in 0..3_000 {
        let rows = registry.instances(Some(group), 100).await.unwrap();
        if rows.iter().any(|row| row.id == id && !row.is_valid) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("row {id} of {group} does not lapse");
}

async fn prepared_by_several_at_once(open: Open<'_>) {
    let many: Vec<_> = (0..4).map(|_| open()).collect();
    for result in futures::future::join_all(many.iter().map(|registry| registry.prepare())).await {
        assert_eq!(result, Ok(()));
    }
    assert_eq!(many[0].prepare().await, Ok(()), "it is idempotent");
    let label = many[0].label();
    assert!(!label.contains("hunter2") && !label.is_empty(), "{label}");
}

async fn the_published_rule(open: Open<'_>) {
    let (registry, group) = (open(), fresh("rule"));
    let first = join(&*registry, &group, "app1", LONG).await;
    let second = join(&*registry, &group, "app2", LONG).await;
    assert!(second.id > first.id, "ids grow");
    assert_eq!(second.leader, None, "nobody claimed");
    let names: Vec<&str> = second.rows.iter().map(|row| row.instance.as_str()).collect();
    assert_eq!(names, ["app1", "app2"], "without a leader all rows are told, by id");

    let again = registry.beat(&beat(&group, "app1", Some(first.id), LONG)).await.unwrap();
    assert_eq!(again.id, first.id, "a heartbeat in time keeps its row");
    assert!(again.now_ms >= first.now_ms, "the database's clock");
    let (before, after) = (own(&first), own(&again));
    assert!(after.beats > before.beats, "each heartbeat counts");
    assert_eq!(after.start_time_ms, before.start_time_ms, "the start stays");
    assert!(after.heartbeat_ms >= before.heartbeat_ms && after.is_valid);
    assert_eq!(after.valid_for_ms, 600_000);
    assert_eq!(after.group, group);
    assert!((after.heartbeat_ms - again.now_ms).abs() < 60_000, "a heartbeat is of the database's now");
    let other = again.rows.iter().find(|row| row.id == second.id).unwrap();
    assert_eq!(other.beats, own(&second).beats, "nobody else's heartbeat counts for it");

    assert_eq!(registry.claim(&leader(&group, first.id)).await, Ok(()));
    assert_eq!(registry.claim(&leader(&group, first.id)).await, Ok(()), "a claim is idempotent");
    let seen = open().beat(&beat(&group, "app2", Some(second.id), LONG)).await.unwrap();
    assert_eq!(seen.leader, Some(first.id));
    let leaders: Vec<u64> = seen.rows.iter().filter(|row| row.is_leader).map(|row| row.id).collect();
    assert_eq!(leaders, [first.id]);
}

async fn a_heartbeat_that_lapsed_makes_a_new_row(open: Open<'_>) {
    let (registry, group) = (open(), fresh("lapse"));
    let first = join(&*registry, &group, "app1", SHORT).await;
    lapsed(&*registry, &group, first.id).await;
    let second = registry.beat(&beat(&group, "app1", Some(first.id), LONG)).await.unwrap();
    assert!(second.id > first.id, "a row of its own for a new start");
    let old = second.rows.iter().find(|row| row.id == first.id).expect("the history stays");
    assert!(!old.is_valid);
    assert_eq!(old.beats, own(&first).beats);
    // An id that was never there is one that lapsed, too.
    let third = registry.beat(&beat(&group, "app1", Some(second.id + 1_000_000), LONG)).await.unwrap();
    assert!(third.id > second.id && third.id < second.id + 1_000_000, "{} after {}", third.id, second.id);
}

async fn a_row_that_lapsed_is_never_valid_again(open: Open<'_>) {
    let (registry, group) = (open(), fresh("never"));
    let first = join(&*registry, &group, "app1", SHORT).await;
    lapsed(&*registry, &group, first.id).await;
    for _ in 0..3 {
        let later = registry.beat(&beat(&group, "app1", Some(first.id), LONG)).await.unwrap();
        assert_ne!(later.id, first.id);
        let old = later.rows.iter().find(|row| row.id == first.id).unwrap();
        assert!(!old.is_valid);
    }
}

async fn groups_are_apart(open: Open<'_>) {
    let (registry, one, two) = (open(), fresh("one"), fresh("two"));
    let a = join(&*registry, &one, "app", LONG).await;
    let b = join(&*registry, &two, "app", LONG).await;
    assert_ne!(a.id, b.id, "an id is one of the whole database");
    assert_eq!(b.rows.len(), 1, "a group is told about itself");
    assert_eq!(registry.claim(&leader(&two, b.id)).await, Ok(()), "another group is not waited for");
    is_refused(registry.claim(&leader(&one, b.id)).await);
    assert_eq!(registry.claim(&leader(&one, a.id)).await, Ok(()));
    let moved = registry.beat(&beat(&one, "app", Some(b.id), LONG)).await.unwrap();
    assert_ne!(moved.id, b.id, "a row of another group is not touched");
}

async fn ids_grow_whoever_asks(open: Open<'_>) {
    let group = fresh("ids");
    let mut ids: Vec<u64> = Vec::new();
    for round in 0..4 {
        let many: Vec<_> = (0..6).map(|_| open()).collect();
        let name = format!("app{round}");
        let beats = many.iter().map(|registry| join(&**registry, &group, &name, LONG));
        let mut round: Vec<u64> = futures::future::join_all(beats).await.iter().map(|beaten| beaten.id).collect();
        round.sort_unstable();
        assert!(round[0] > ids.last().copied().unwrap_or(0), "{round:?} after {ids:?}");
        ids.extend(round);
    }
    let count = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), count, "no id twice: {ids:?}");
}

async fn a_claim_waits_for_all_before(open: Open<'_>) {
    let (registry, group) = (open(), fresh("claim"));
    let first = join(&*registry, &group, "app1", LONG).await;
    let second = join(&*registry, &group, "app2", SHORT).await;
    let third = join(&*registry, &group, "app3", LONG).await;
    lapsed(&*registry, &group, second.id).await;
    is_refused(registry.claim(&leader(&group, third.id)).await);
    assert_eq!(registry.claim(&leader(&group, first.id)).await, Ok(()));
    is_refused(registry.claim(&leader(&group, third.id)).await);
    // The former leader lapses: the next one is who is still there, not who would have been next.
    registry.leave(&group, first.id).await.unwrap();
    is_refused(registry.claim(&leader(&group, second.id)).await);
    assert_eq!(registry.claim(&leader(&group, third.id)).await, Ok(()));
    let seen = registry.beat(&beat(&group, "app3", Some(third.id), LONG)).await.unwrap();
    assert_eq!(seen.leader, Some(third.id));
    assert!(seen.rows.iter().all(|row| row.id >= third.id), "rows before the leader are history");
}

async fn a_claim_is_refused_to_the_unknown_and_the_lapsed(open: Open<'_>) {
    let (registry, group) = (open(), fresh("refused"));
    is_refused(registry.claim(&leader(&group, 1_000_000_000)).await);
    let first = join(&*registry, &group, "app1", SHORT).await;
    is_refused(registry.claim(&leader(&group, first.id + 1_000_000)).await);
    lapsed(&*registry, &group, first.id).await;
    is_refused(registry.claim(&leader(&group, first.id)).await);
    let second = join(&*registry, &group, "app2", LONG).await;
    assert_eq!(second.leader, None, "a refused claim leaves nothing");
}

async fn a_smaller_row_never_leads_again(open: Open<'_>) {
    let (registry, group) = (open(), fresh("smaller"));
    let first = join(&*registry, &group, "app1", LONG).await;
    let second = join(&*registry, &group, "app2", LONG).await;
    registry.leave(&group, first.id).await.unwrap();
    assert_eq!(registry.claim(&leader(&group, second.id)).await, Ok(()));
    is_refused(registry.claim(&leader(&group, first.id)).await);
    // Nor once the larger one is gone as well.
    registry.leave(&group, second.id).await.unwrap();
    is_refused(registry.claim(&leader(&group, first.id)).await);
    let third = registry.beat(&beat(&group, "app1", Some(first.id), LONG)).await.unwrap();
    assert!(third.id > second.id);
    assert_eq!(registry.claim(&leader(&group, third.id)).await, Ok(()));
}

async fn of_concurrent_claims_one_is_granted(open: Open<'_>) {
    for _ in 0..5 {
        let group = fresh("race");
        let many: Vec<_> = (0..5).map(|_| open()).collect();
        let beats = many.iter().map(|registry| join(&**registry, &group, "app", LONG));
        let ids: Vec<u64> = futures::future::join_all(beats).await.iter().map(|beaten| beaten.id).collect();
        let leaders: Vec<Leader> = ids.iter().map(|id| leader(&group, *id)).collect();
        let claims = many.iter().zip(&leaders).map(|(registry, leader)| registry.claim(leader));
        let results = futures::future::join_all(claims).await;
        let granted: Vec<u64> = results.iter().zip(&ids).filter(|(r, _)| r.is_ok()).map(|(_, id)| *id).collect();
        assert_eq!(granted, [*ids.iter().min().unwrap()], "{results:?} of {ids:?}");
        for result in results {
            assert!(matches!(result, Ok(()) | Err(RegistryError::NotLeader(_))), "{result:?}");
        }
    }
}

async fn who_leaves_is_not_waited_for(open: Open<'_>) {
    let (registry, group) = (open(), fresh("leave"));
    let first = join(&*registry, &group, "app1", LONG).await;
    let second = join(&*registry, &group, "app2", LONG).await;
    assert_eq!(registry.claim(&leader(&group, first.id)).await, Ok(()));
    assert_eq!(registry.leave(&group, first.id).await, Ok(()));
    assert_eq!(registry.leave(&group, first.id).await, Ok(()), "it is idempotent");
    assert_eq!(registry.leave(&group, second.id + 1_000_000).await, Ok(()), "who was never there is gone");
    is_refused(registry.put(&[put(&format!("{group}/x"), 0, "1")], Some(&leader(&group, first.id))).await);
    assert_eq!(registry.claim(&leader(&group, second.id)).await, Ok(()));
    let back = registry.beat(&beat(&group, "app1", Some(first.id), LONG)).await.unwrap();
    assert!(back.id > second.id, "who left comes back as a new row");
}

async fn the_history_is_shown(open: Open<'_>) {
    let (registry, group) = (open(), fresh("history"));
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(join(&*registry, &group, name, LONG).await.id);
    }
    registry.leave(&group, ids[0]).await.unwrap();
    registry.claim(&leader(&group, ids[1])).await.unwrap();
    let rows = registry.instances(Some(&group), 100).await.unwrap();
    let shown: Vec<(u64, &str, bool, bool)> =
        rows.iter().map(|row| (row.id, row.instance.as_str(), row.is_valid, row.is_leader)).collect();
    assert_eq!(shown, [(ids[2], "c", true, false), (ids[1], "b", true, true), (ids[0], "a", false, false)]);
    let newest = registry.instances(Some(&group), 1).await.unwrap();
    assert_eq!(newest.iter().map(|row| row.id).collect::<Vec<_>>(), [ids[2]]);
    let all = registry.instances(None, 1_000).await.unwrap();
    assert!(all.windows(2).all(|pair| pair[0].id > pair[1].id), "the newest first, of all groups");
    assert!(all.iter().any(|row| row.group == group));
    assert_eq!(registry.instances(Some(&fresh("nobody")), 10).await, Ok(Vec::new()));
}

async fn a_document_changes_by_its_version(open: Open<'_>) {
    let (registry, key) = (open(), fresh("document"));
    let document = |version: u64, text: &str| Some(Document { key: key.clone(), version, text: text.into() });
    assert_eq!(registry.get(&key).await, Ok(None));
    is_conflict(registry.put(&[put(&key, 1, "1")], None).await, &key);
    assert_eq!(registry.put(&[put(&key, 0, "1")], None).await, Ok(()));
    assert_eq!(registry.get(&key).await, Ok(document(1, "1")));
    is_conflict(registry.put(&[put(&key, 0, "2")], None).await, &key);
    is_conflict(registry.put(&[put(&key, 2, "2")], None).await, &key);
    assert_eq!(registry.put(&[put(&key, 1, "2")], None).await, Ok(()));
    assert_eq!(registry.put(&[put(&key, 2, "2")], None).await, Ok(()), "the same text is a write, too");
    assert_eq!(open().get(&key).await, Ok(document(3, "2")));
    let delete = |expected| [Put { key: key.clone(), expected, text: None }];
    is_conflict(registry.put(&delete(2), None).await, &key);
    is_conflict(registry.put(&delete(0), None).await, &key);
    assert_eq!(registry.put(&delete(3), None).await, Ok(()));
    assert_eq!(registry.get(&key).await, Ok(None));
    assert_eq!(registry.put(&delete(0), None).await, Ok(()), "there is none, as was expected");
    is_conflict(registry.put(&delete(3), None).await, &key);
}

async fn a_batch_is_written_whole_or_not(open: Open<'_>) {
    let (registry, base) = (open(), fresh("batch"));
    let keys: Vec<String> = (0..5).map(|i| format!("{base}/{i}")).collect();
    let all: Vec<Put> = keys.iter().map(|key| put(key, 0, "1")).collect();
    assert_eq!(registry.put(&all, None).await, Ok(()));
    let mut mixed: Vec<Put> = keys.iter().map(|key| put(key, 1, "2")).collect();
    mixed[3].expected = 7;
    mixed[1].text = None;
    is_conflict(registry.put(&mixed, None).await, &keys[3]);
    mixed[4].expected = 0;
    is_conflict(registry.put(&mixed, None).await, &keys[3]);
    let now = registry.list(&base).await.unwrap();
    assert!(now.iter().all(|document| document.version == 1 && document.text == "1") && now.len() == 5, "{now:?}");
    (mixed[3].expected, mixed[4].expected) = (1, 1);
    assert_eq!(registry.put(&mixed, None).await, Ok(()));
    assert_eq!(registry.list(&base).await.unwrap().len(), 4);
    assert_eq!(registry.put(&[], None).await, Ok(()), "nothing is easily written");
}

async fn a_write_in_the_name_of_a_leader(open: Open<'_>) {
    let (registry, group) = (open(), fresh("named"));
    let key = format!("{group}/x");
    let first = join(&*registry, &group, "app1", LONG).await;
    let second = join(&*registry, &group, "app2", LONG).await;
    let write = |expected: u64| [put(&key, expected, "1")];
    is_refused(registry.put(&write(0), Some(&leader(&group, first.id))).await);
    registry.claim(&leader(&group, first.id)).await.unwrap();
    is_refused(registry.put(&write(0), Some(&leader(&group, second.id))).await);
    is_refused(registry.put(&write(0), Some(&leader(&fresh("other"), first.id))).await);
    assert_eq!(registry.get(&key).await, Ok(None), "what was refused is not there");
    assert_eq!(registry.put(&write(0), Some(&leader(&group, first.id))).await, Ok(()));
    is_conflict(registry.put(&write(7), Some(&leader(&group, first.id))).await, &key);
    // Somebody else leads by now: a leader that was paused wakes up and harms nobody.
    registry.leave(&group, first.id).await.unwrap();
    registry.claim(&leader(&group, second.id)).await.unwrap();
    is_refused(registry.put(&write(1), Some(&leader(&group, first.id))).await);
    assert_eq!(registry.put(&write(1), Some(&leader(&group, second.id))).await, Ok(()));
    // Written down, and lapsed.
    let third = join(&*registry, &group, "app3", SHORT).await;
    registry.leave(&group, second.id).await.unwrap();
    if registry.claim(&leader(&group, third.id)).await.is_ok() {
        lapsed(&*registry, &group, third.id).await;
        is_refused(registry.put(&write(2), Some(&leader(&group, third.id))).await);
    }
    assert_eq!(registry.get(&key).await.unwrap().unwrap().version, 2);
}

async fn documents_are_listed_by_their_beginning(open: Open<'_>) {
    let (registry, base) = (open(), fresh("list"));
    let names = ["a/1", "a/2", "a", "b/1", "a/~", "a/%", "a_1", "A/1", "a/10"];
    for name in names {
        registry.put(&[put(&format!("{base}/{name}"), 0, "{}")], None).await.unwrap();
    }
    let list = async |prefix: &str| -> Vec<String> {
        let found = registry.list(&format!("{base}/{prefix}")).await.unwrap();
        found.iter().map(|document| document.key[base.len() + 1..].to_owned()).collect()
    };
    assert_eq!(list("a/").await, ["a/%", "a/1", "a/10", "a/2", "a/~"], "by key, and no wildcard is one");
    assert_eq!(list("a/1").await, ["a/1", "a/10"]);
    assert_eq!(list("a_").await, ["a_1"]);
    assert_eq!(list("c").await, Vec::<String>::new());
    assert_eq!(list("").await.len(), names.len());
    let everything = registry.list("").await.unwrap();
    assert!(everything.len() >= names.len());
    assert!(everything.windows(2).all(|pair| pair[0].key < pair[1].key), "in the order of bytes");
}

async fn texts_come_back_as_they_were(open: Open<'_>) {
    let (registry, base) = (open(), fresh("text"));
    let long: String = "0123456789abcdef".repeat(65_536);
    assert_eq!(long.len(), 1 << 20);
    let texts = [
        String::new(),
        "\"quote'`;-- $1 ? \\ \\0 %s {} \"".to_owned(),
        "Grüße, 日本語, \u{1F480}, \u{202e}, a\u{301}, \r\n\t".to_owned(),
        "  spaces at both ends  ".to_owned(),
        format!("\"{long}\""),
    ];
    for (index, text) in texts.iter().enumerate() {
        let key = format!("{base}/{index}");
        assert_eq!(registry.put(&[put(&key, 0, text)], None).await, Ok(()), "text {index}");
        let found = open().get(&key).await.unwrap().unwrap();
        assert!(found.text == *text, "text {index} came back as another one");
    }
    assert_eq!(registry.list(&base).await.unwrap().len(), texts.len());
}

async fn no_update_is_lost(open: Open<'_>) {
    const WRITERS: u64 = 4;
    const EACH: u64 = 10;
    let key = fresh("count");
    open().put(&[put(&key, 0, "0")], None).await.unwrap();
    let writers = (0..WRITERS).map(|_| {
        let (registry, key) = (open(), key.clone());
        async move {
            let mut done = 0;
            let since = Stopwatch::start();
            while done < EACH {
                assert!(since.elapsed() < Duration::from_secs(120), "only {done} of {EACH} were written");
                let Ok(Some(now)) = registry.get(&key).await else { continue };
                let next = now.text.parse::<u64>().unwrap() + 1;
                match registry.put(&[put(&key, now.version, &next.to_string())], None).await {
                    Ok(()) => done += 1,
                    Err(RegistryError::Conflict { .. } | RegistryError::Failed(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    });
    futures::future::join_all(writers).await;
    let last = open().get(&key).await.unwrap().unwrap();
    assert_eq!(last.text, (WRITERS * EACH).to_string());
    assert_eq!(last.version, WRITERS * EACH + 1);
}

async fn names_that_would_be_folded_are_refused_or_kept_apart(open: Open<'_>) {
    let registry = open();
    let base = fresh("name");
    let mut ids = Vec::new();
    for group in [base.clone(), base.to_uppercase(), format!("{base}-é"), format!("{base}-e\u{301}")] {
        let joined = join(&*registry, &group, "Instanz ä 日本", LONG).await;
        assert_eq!(joined.rows.len(), 1, "{group} is a group of its own");
        assert_eq!(own(&joined).instance, "Instanz ä 日本");
        ids.push(joined.id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 4);
    for bad in ["", " a", "a ", "a\0b"] {
        let result = registry.beat(&beat(bad, "app", None, LONG)).await;
        assert!(matches!(result, Err(RegistryError::Failed(_))), "{bad:?}: {result:?}");
    }
    for bad in ["", "ä", "a b", "a\n"] {
        let result = registry.put(&[put(bad, 0, "1")], None).await;
        assert!(matches!(result, Err(RegistryError::Failed(_))), "{bad:?}: {result:?}");
    }
}
