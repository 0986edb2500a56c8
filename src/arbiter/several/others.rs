//! What several arbiters tell each other through the store: where they are reached, and what each sees of the members.
//!
//! | document | holds | written |
//! |---|---|---|
//! | `arbiter/<instance>` | its address, for people and programs that asked the wrong one | at its start |
//! | `view/<instance>` | what its own probes saw last | when that changes, and each second |
//!
//! These are no decisions, so they are written without leading. A view counts for `unreachable_by` only, and only as long
//! as it is renewed: see `src/docs/arbiters.md`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::sleep};

use super::GROUP;
use crate::{
    arbiter::handle::{Handle, Input},
    config::Config,
    model::{
        ClusterName, Fact, MemberName, Notice, Outcome, SignalName,
        status::{ArbiterStatus, Arbiters},
        time::{Moment, millis},
    },
    registry::{Instance, Put, Registry, RegistryError},
    sys::clock,
};

/// How often the others are looked at.
const EVERY: Duration = Duration::from_millis(500);
/// A view is written at least this often.
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// The newest instances, for people.
const INSTANCES: u32 = 32;
/// A row of our own name that beat so often while we ran is another process.
const IS_ANOTHER: usize = 3;

/// What one of an arbiter's own probes saw last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// The cluster.
    pub cluster: ClusterName,
    /// The signal.
    pub signal: SignalName,
    /// At whom it looked.
    #[serde(default)]
    pub subject: Option<MemberName>,
    /// How long ago, when it was written.
    #[serde(with = "millis", rename = "age_ms")]
    pub age: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

impl Look {
    /// What counts of an outcome for others: reached or not, and how.
    pub(in crate::arbiter) fn plain(outcome: &Outcome) -> Outcome {
        match outcome {
            Outcome::Fact(_) => Outcome::Fact(Fact::Ok { latency: Duration::ZERO }),
            failure @ Outcome::Failure(_) => failure.clone(),
        }
    }

    fn says(&self) -> (&ClusterName, &SignalName, Option<&MemberName>, bool) {
        let reached = matches!(self.outcome, Outcome::Fact(_));
        (&self.cluster, &self.signal, self.subject.as_ref(), reached)
    }
}

/// Where an arbiter is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    address: Option<String>,
}

/// The other arbiters, as the store shows them.
pub(in crate::arbiter) struct Others {
    registry: Arc<dyn Registry>,
    me: String,
    place: Place,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    places: BTreeMap<String, Place>,
    instances: Vec<Instance>,
}

impl Others {
    pub(super) fn new(registry: Arc<dyn Registry>, config: &Config) -> Self {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let address = config.arbiter.http.map(|http| match http.ip().is_unspecified() {
            true => format!("{}:{}", host(), http.port()),
            false => http.to_string(),
        });
        Self { registry, me: config.arbiter.name.clone(), place: Place { address }, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is whole when the lock is given back.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where that arbiter answers, if it said so.
    pub(super) fn address(&self, instance: &str) -> Option<String> {
        self.state().places.get(instance)?.address.clone()
    }

    /// All arbiters, for people.
    pub(in crate::arbiter) fn status(&self, leads: bool) -> Arbiters {
        let state = self.state();
        let newest = state.instances.iter().map(|i| i.heartbeat_ms).max().unwrap_or_default();
        let mut instances: Vec<ArbiterStatus> = Vec::new();
        // The newest row of each name; others are the history, which `coroner instances` shows.
        for row in state.instances.iter().filter(|row| row.is_valid || row.is_leader) {
            instances.push(ArbiterStatus {
                instance: row.instance.clone(),
                epoch: row.id,
                is_valid: row.is_valid,
                is_leader: row.is_leader,
                address: state.places.get(&row.instance).and_then(|place| place.address.clone()),
                heartbeat: Duration::from_millis(u64::try_from(newest - row.heartbeat_ms).unwrap_or(0)),
            });
        }
        Arbiters { me: self.me.clone(), leads, instances }
    }

    /// Tells and looks, until the driver is gone. `views`: what this arbiter's probes saw last.
    pub(in crate::arbiter) async fn run(self: Arc<Self>, handle: Handle, mut views: watch::Receiver<Vec<Look>>) {
        let (mut places, mut own_view) =
            (Slot::new(format!("arbiter/{}", self.me)), Slot::new(format!("view/{}", self.me)));
        let mut seen: HashMap<String, u64> = HashMap::new();
        let mut twins = Twins::default();
        let mut written = Moment::default();
        let mut last: Vec<Look> = Vec::new();
        let (mut failed, mut is_prepared) = (false, false);
        loop {
            tokio::select! {
                changed = views.changed() => if changed.is_err() { return },
                () = sleep(EVERY) => {}
            }
            let now = clock::moment();
            let looks = views.borrow_and_update().clone();
            let is_news = looks.len() != last.len() || looks.iter().zip(&last).any(|(a, b)| a.says() != b.says());
            let is_due = now.boot.since(written.boot) >= RENEW_EVERY;
            let round = async {
                if !is_prepared {
                    self.registry.prepare().await?;
                    is_prepared = true;
                }
                if is_news || is_due {
                    own_view.put(&*self.registry, &looks).await?;
                    written = now;
                    last = looks;
                }
                // The rest is looked at no more often than this, however often the own view changes.
                if is_news && !is_due {
                    return Ok(());
                }
                places.put(&*self.registry, &self.place).await?;
                self.look(&handle, &mut seen, &mut twins).await
            };
            match round.await {
                Ok(()) => failed = false,
                Err(error) if !failed => {
                    failed = true;
                    tracing::warn!(%error, "The other arbiters cannot be told, nor looked at.");
                }
                Err(_) => {}
            }
            // A flapping probe does not keep the store busy.
            sleep(EVERY / 5).await;
        }
    }

    async fn look(
        &self,
        handle: &Handle,
        seen: &mut HashMap<String, u64>,
        twins: &mut Twins,
    ) -> Result<(), RegistryError> {
        for document in self.registry.list("view/").await? {
            let Some(peer) = document.key.strip_prefix("view/").filter(|peer| *peer != self.me) else { continue };
            let before = seen.insert(peer.to_owned(), document.version);
            // One that was there at the first look may be long over.
            if before.is_none_or(|version| version == document.version) {
                continue;
            }
            match serde_json::from_str::<Vec<Look>>(&document.text) {
                Ok(looks) => {
                    // A full queue drops it; the next view says the same.
                    let _ = handle.inputs.try_send(Input::Peer { peer: peer.to_owned(), looks });
                }
                Err(error) => tracing::debug!(%error, peer, "a view that cannot be read"),
            }
        }
        let mut places = BTreeMap::new();
        for document in self.registry.list("arbiter/").await? {
            if let (Some(name), Ok(place)) =
                (document.key.strip_prefix("arbiter/"), serde_json::from_str(&document.text))
            {
                places.insert(name.to_owned(), place);
            }
        }
        let instances = self.registry.instances(Some(GROUP), INSTANCES).await?;
        if let Some(notice) = twins.look(&self.me, &instances) {
            let _ = handle.inputs.try_send(Input::Notice(Box::new(notice)));
        }
        *self.state() = State { places, instances };
        Ok(())
    }
}

/// A document that this process writes alone, so far as it knows.
struct Slot {
    key: String,
    version: Option<u64>,
    text: String,
}

impl Slot {
    const fn new(key: String) -> Self {
        Self { key, version: None, text: String::new() }
    }

    async fn put<T: Serialize + ?Sized + Sync>(
        &mut self,
        registry: &dyn Registry,
        value: &T,
    ) -> Result<(), RegistryError> {
        let text = serde_json::to_string(value).map_err(|error| RegistryError::Failed(error.to_string()))?;
        // What never changes is written once.
        if self.version.is_some() && text == self.text && !self.key.starts_with("view/") {
            return Ok(());
        }
        let expected = match self.version {
            Some(version) => version,
            None => registry.get(&self.key).await?.map_or(0, |document| document.version),
        };
        // Nothing rests on it: after a conflict, or a lost answer, it is looked at anew.
        self.version = None;
        let put = Put { key: self.key.clone(), expected, text: Some(text.clone()) };
        registry.put(&[put], None).await?;
        self.version = Some(expected + 1);
        self.text = text;
        Ok(())
    }
}

/// Whether another process stands under our name. Each start has a row of its own, so the rows of one that was started
/// again do not beat any more.
#[derive(Default)]
struct Twins {
    beats: HashMap<u64, (u64, usize)>,
    told: bool,
}

impl Twins {
    fn look(&mut self, me: &str, instances: &[Instance]) -> Option<Notice> {
        self.beats.retain(|id, _| instances.iter().any(|row| row.id == *id));
        let mut beating = Vec::new();
        for row in instances.iter().filter(|row| row.instance == me && row.is_valid) {
            let (beats, moved) = self.beats.entry(row.id).or_insert((row.beats, 0));
            if *beats != row.beats {
                (*beats, *moved) = (row.beats, *moved + 1);
            }
            if *moved >= IS_ANOTHER {
                beating.push(row.id.to_string());
            }
        }
        let is_twin = beating.len() > 1;
        if is_twin == self.told {
            return None;
        }
        self.told = is_twin;
        let detail = match is_twin {
            true => format!(
                "{} processes call themselves `{me}` (rows {}): one of them leads at most, and nobody can tell them \
                 apart; give each a name of its own with `--instance`",
                beating.len(),
                beating.join(", ")
            ),
            false => format!("only one process calls itself `{me}` again"),
        };
        Some(Notice::Own { what: "instance".into(), ok: !is_twin, detail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u64, beats: u64, is_valid: bool) -> Instance {
        Instance {
            id,
            group: GROUP.into(),
            instance: "a".into(),
            start_time_ms: 0,
            heartbeat_ms: 0,
            valid_for_ms: 3_000,
            is_valid,
            is_leader: false,
            beats,
        }
    }

    #[test]
    fn a_start_that_was_killed_is_no_twin_and_another_process_is() {
        let mut twins = Twins::default();
        for beats in 1..10 {
            assert!(twins.look("a", &[row(1, 7, true), row(2, beats, true)]).is_none());
        }
        let told: Vec<_> =
            (10..20).filter_map(|beats| twins.look("a", &[row(2, beats, true), row(3, beats, true)])).collect();
        assert!(matches!(told.as_slice(), [Notice::Own { ok: false, detail, .. }] if detail.contains("rows 2, 3")));
        let told = twins.look("a", &[row(2, 21, true), row(3, 19, false)]);
        assert!(matches!(told, Some(Notice::Own { ok: true, .. })));
    }
}
