//! Does this back-end keep the contract of `coroner::store::Store`?
//!
//! One suite for all back-ends (`suite.rs`): each case gets a `Backend` that opens the same, at first empty, store as
//! often as it likes. What only one back-end can suffer (a full disk, a flipped bit, a second process) stands in a
//! file of that back-end's name. To add a back-end: implement `Backend` and add one `contract!` line.

#![expect(clippy::unwrap_used, reason = "a test says by a panic that something is not as it must be")]

mod crash;
mod memory;
mod samples;
mod shared;
mod sqlite;
mod suite;

use std::sync::Arc;

use async_trait::async_trait;
use coroner::store::{
    Store,
    shared::SharedStore,
    sqlite::{Bounds, SqliteStore},
};

/// A store that can be opened again.
#[async_trait]
trait Backend: Send + Sync {
    /// Opens it; the handle opened before was dropped.
    async fn open(&self) -> Arc<dyn Store>;
}

/// SQLite in a directory of its own.
struct Sqlite(tempfile::TempDir);

impl Sqlite {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("coroner.db")
    }
}

#[async_trait]
impl Backend for Sqlite {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(self.path(), Bounds::default()).await.unwrap())
    }
}

/// A registry in memory, with a local file in a directory of its own.
struct Shared {
    registry: memory::Memory,
    dir: tempfile::TempDir,
}

impl Shared {
    fn new() -> Self {
        let registry = memory::Memory::default();
        registry.appoint(1);
        Self { registry, dir: tempfile::tempdir().expect("a temporary directory") }
    }
}

#[async_trait]
impl Backend for Shared {
    async fn open(&self) -> Arc<dyn Store> {
        let local = SqliteStore::open(self.dir.path().join("local.db"), Bounds::default()).await.unwrap();
        let store = SharedStore::new(Arc::new(self.registry.clone()), local, "arbiters", 1_000);
        store.lead(Some(1));
        Arc::new(store)
    }
}

macro_rules! contract {
    ($backend:ident: $new:expr) => {
        mod $backend {
            use super::*;
            contract!(@cases $new;
                an_empty_store_gives_nothing_back,
                what_was_persisted_is_recovered_with_logs_and_policies,
                an_epoch_is_taken_once,
                of_many_who_take_an_epoch_at_once_one_gets_it,
                an_epoch_never_goes_back,
                a_batch_is_written_all_or_none,
                log_numbers_grow_by_one,
                the_same_batch_twice_is_written_once,
                another_entry_with_the_same_number_is_a_conflict,
                a_log_without_an_incident_is_refused,
                a_policy_is_written_once,
                closed_incidents_are_listed_but_not_recovered,
                an_incident_is_found_by_the_beginning_of_its_name,
                an_acknowledgement_replaces_the_record,
                a_spooled_report_replaces_the_older_one,
                what_grows_is_bounded,
                check_and_trim_work_on_an_empty_store,
            );
        }
    };
    (@cases $new:expr; $($case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                suite::$case(&$new).await;
            }
        )*
    };
}

contract!(sqlite_contract: Sqlite::new());
contract!(shared_contract: Shared::new());
