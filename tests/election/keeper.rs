//! The keeper, over a database in memory, with real time.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use coroner::{
    elect::keeper::{self, Options},
    election::Standing,
    registry::{Beat, Beaten, Document, Instance, Leader, Put, Registry, RegistryError},
    sys::clock,
};
use tokio::time::timeout;

use crate::database::Database;

#[derive(Default)]
struct Fake {
    database: Mutex<Database>,
    is_hung: AtomicBool,
}

impl Fake {
    async fn with<T>(&self, act: impl FnOnce(&mut Database) -> T) -> T {
        if self.is_hung.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let mut database = self.database.lock().unwrap();
        database.now_ms = i64::try_from(clock::now().0 / 1_000_000).unwrap();
        act(&mut database)
    }
}

#[async_trait]
impl Registry for Fake {
    fn label(&self) -> String {
        "memory".into()
    }
    async fn prepare(&self) -> Result<(), RegistryError> {
        Ok(())
    }
    async fn beat(&self, beat: &Beat) -> Result<Beaten, RegistryError> {
        Ok(self.with(|d| d.beat(beat)).await)
    }
    async fn claim(&self, leader: &Leader) -> Result<(), RegistryError> {
        self.with(|d| d.claim(leader)).await
    }
    async fn leave(&self, _: &str, id: u64) -> Result<(), RegistryError> {
        self.with(|d| d.leave(id)).await;
        Ok(())
    }
    async fn instances(&self, group: Option<&str>, limit: u32) -> Result<Vec<Instance>, RegistryError> {
        Ok(self.with(|d| d.instances(group.unwrap_or_default(), limit)).await)
    }
    async fn get(&self, _: &str) -> Result<Option<Document>, RegistryError> {
        Ok(None)
    }
    async fn list(&self, _: &str) -> Result<Vec<Document>, RegistryError> {
        Ok(Vec::new())
    }
    async fn put(&self, _: &[Put], _: Option<&Leader>) -> Result<(), RegistryError> {
        Ok(())
    }
}

fn options(instance: &str) -> Options {
    Options {
        heartbeat_every: Duration::from_millis(200),
        valid_for: Duration::from_secs(2),
        stop_time: Duration::from_millis(200),
        ..Options::new("g", instance)
    }
}

async fn until(keeper: &keeper::Keeper, is_it: impl FnMut(&Standing) -> bool) -> Standing {
    let mut watch = keeper.watch();
    timeout(Duration::from_secs(60), watch.wait_for(is_it)).await.expect("within the bound").unwrap().clone()
}

const fn leads(standing: &Standing) -> bool {
    matches!(standing, Standing::Leader { .. })
}

#[tokio::test]
async fn one_leads_and_when_it_leaves_the_next_one_does() {
    let fake = Arc::new(Fake::default());
    let first = keeper::start(fake.clone(), options("app1")).unwrap();
    until(&first, leads).await;
    assert!(leads(&first.standing()));
    let second = keeper::start(fake.clone(), options("app2")).unwrap();
    let standby = until(&second, |s| matches!(s, Standing::Standby { .. })).await;
    assert_eq!(standby, Standing::Standby { id: 2, leader: Some("app1".into()) });
    first.leave().await;
    let Standing::Leader { epoch, .. } = until(&second, leads).await else { panic!("it leads") };
    assert_eq!(epoch, 2);
    second.leave().await;
    assert!(fake.database.lock().unwrap().rows.values().all(|row| row.valid_for_ms == 0));
}

#[tokio::test]
async fn a_database_that_hangs_deposes_the_leader_in_time() {
    let fake = Arc::new(Fake::default());
    let keeper = keeper::start(fake.clone(), options("app1")).unwrap();
    let Standing::Leader { until: first, .. } = until(&keeper, leads).await else { panic!("it leads") };
    // Each heartbeat moves the end.
    until(&keeper, |s| matches!(s, Standing::Leader { until, .. } if until.boot > first.boot)).await;
    fake.is_hung.store(true, Ordering::SeqCst);
    until(&keeper, |s| !leads(s)).await;
    assert!(!leads(&keeper.standing()));
    fake.is_hung.store(false, Ordering::SeqCst);
    let Standing::Leader { epoch, .. } = until(&keeper, leads).await else { panic!("it leads again") };
    assert!(epoch > 1, "under a new epoch");
}

#[tokio::test]
async fn numbers_that_promise_nothing_are_refused() {
    let fake: Arc<dyn Registry> = Arc::new(Fake::default());
    let bad = Options { valid_for: Duration::from_millis(300), ..options("app1") };
    let said = keeper::start(fake, bad).unwrap_err().to_string();
    assert!(said.contains("let heartbeats be valid for at least"), "{said}");
}
