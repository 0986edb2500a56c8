//! One of several arbiters: which one this is, whether it leads, and what the others see.
//!
//! Who leads is elected through the shared store ([`crate::elect`]). Two things hold a former leader back, and neither
//! trusts the other: its own lease, which it compares with its own clock before every act ([`Lease`]); and the store,
//! which takes no write of whom it has not written down ([`crate::store::shared`]). What it had begun when its lease ended
//! runs to its end, and is not written down; whoever follows looks at everything again, by the same code that recovers
//! from a crash.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{net::lookup_host, sync::watch, time::timeout};

use super::StartError;
use crate::{
    config::{Config, Part, SharedStoreConfig, endpoint, endpoints},
    elect::keeper::{self, Keeper},
    election::{Settings, Standing},
    model::{ClusterName, Epoch, Time, record::Recovered},
    registry::{self, Registry},
    store::{
        StoreError,
        shared::SharedStore,
        sqlite::{Bounds, SqliteStore},
    },
    sys::clock,
};

mod others;

pub use others::Look;
pub(super) use others::Others;

/// The group in which the arbiters of one store elect who leads. One store belongs to one set of arbiters.
pub(super) const GROUP: &str = "arbiters";
/// The loop looks at the clock this often, and no act is begun without a look.
const STOP_TIME: Duration = Duration::from_millis(250);
/// How often a watching arbiter reads how things stand.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);
/// How often a watching arbiter looks whether who leads is to be told otherwise.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// What could not be read is read again after this.
const READ_AGAIN: Duration = Duration::from_millis(500);
/// How long names are resolved at the start.
const RESOLVE_WITHIN: Duration = Duration::from_secs(3);

/// What a reading of the store gave: everything in it, and the largest epochs ever seen there.
pub(super) type Read = Result<(Recovered, BTreeMap<ClusterName, Epoch>), StoreError>;

/// Gives the process its name among several arbiters. Without a shared store it keeps the file's.
pub(super) fn name_instance(config: &mut Config, given: Option<&str>) -> Result<(), StartError> {
    let Some(shared) = &config.arbiter.shared else {
        return match given {
            Some(_) => Err(StartError::Build(
                "`--instance` names one of several arbiters, and this file has a store for one: write a store that \
                 several can share under `arbiter.store`"
                    .into(),
            )),
            None => Ok(()),
        };
    };
    let name = match given.or(shared.instance.as_deref()) {
        Some(name) => name.to_owned(),
        None => host_name(config)?,
    };
    let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if name.is_empty() || name.len() > 64 || !is_plain {
        return Err(StartError::Build(format!(
            "`{name}` cannot be an instance's name: up to 64 letters, digits, `-`, `_` and `.`; say another with \
             `--instance`"
        )));
    }
    if let Some(mesh) = &config.mesh
        && mesh.parties.get(name.as_str()).is_none_or(|party| party.part != Part::Arbiter)
    {
        let arbiters = mesh.parties.iter().filter(|(_, party)| party.part == Part::Arbiter);
        let names: Vec<&str> = arbiters.map(|(name, _)| name.as_str()).collect();
        return Err(StartError::Build(format!(
            "this arbiter is `{name}`, and the arbiters under `mesh.parties` are: {}; say which it is with `--instance`, \
             or add it with `arbiter: true`",
            names.join(", ")
        )));
    }
    config.become_instance(&name);
    Ok(())
}

/// The host's name, or its first part, whichever the mesh knows.
fn host_name(config: &Config) -> Result<String, StartError> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").map_err(|error| {
        StartError::Build(format!("the host's name cannot be read ({error}): say `--instance NAME`"))
    })?;
    let host = host.trim();
    let short = host.split('.').next().unwrap_or(host);
    let knows = |name: &str| config.mesh.as_ref().is_some_and(|mesh| mesh.parties.contains_key(name));
    Ok(if knows(short) && !knows(host) { short } else { host }.to_owned())
}

/// The registry that the file names; not asked for anything yet.
pub(super) fn registry(shared: &SharedStoreConfig) -> Result<Arc<dyn Registry>, StartError> {
    // A call that takes longer than a third of the validity could not keep a lease alive anyway.
    let options = registry::Options {
        timeout: (shared.valid_for / 3).clamp(Duration::from_millis(200), Duration::from_secs(2)),
        ..registry::Options::default()
    };
    registry::open(shared.url.expose(), &options)
        .map_err(|error| StartError::Build(format!("`arbiter.store`: {error}")))
}

/// Refuses a store that is one of the members, by whatever name: it would be gone in the moment in which it is needed,
/// and a fence of the member would hit it.
pub(super) async fn refuse_a_guarded_store(config: &Config, shared: &SharedStoreConfig) -> Result<(), StartError> {
    let mut stores = Vec::new();
    for (host, port) in endpoints(shared.url.expose()) {
        stores.extend(resolve(&host, port).await);
    }
    for (cluster, policy) in &config.policy.clusters {
        for member in &policy.members {
            let Some((host, port)) = endpoint(&member.address) else { continue };
            if resolve(&host, port).await.iter().any(|address| stores.contains(address)) {
                return Err(StartError::Build(format!(
                    "`arbiter.store` is {} of {cluster}, which it is to outlive: when that dies, nobody could decide. \
                     Use another database, on a host of its own",
                    member.name
                )));
            }
        }
    }
    Ok(())
}

/// What cannot be resolved now is not refused: a store that is away is no reason not to start.
async fn resolve(host: &str, port: u16) -> Vec<std::net::SocketAddr> {
    match timeout(RESOLVE_WITHIN, lookup_host((host, port))).await {
        Ok(Ok(found)) => found.collect(),
        _ => Vec::new(),
    }
}

/// Whether this arbiter leads now, by its own clock. Cheap to clone; asked before every act.
#[derive(Clone)]
pub(super) struct Lease(watch::Receiver<Standing>);

impl Lease {
    /// The epoch in which this arbiter leads at this moment.
    pub(super) fn epoch(&self) -> Option<u64> {
        match &*self.0.borrow() {
            Standing::Leader { epoch, until } if until.boot > clock::now() => Some(*epoch),
            _ => None,
        }
    }

    /// Whether it still leads as it did then.
    pub(super) fn holds(&self, epoch: Option<u64>) -> bool {
        epoch.is_some() && self.epoch() == epoch
    }
}

/// How far this arbiter is with leading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Following,
    /// Elected; the store is being read.
    Reading(u64),
    Leading(u64),
}

/// This arbiter among several.
pub(super) struct Several {
    keeper: Keeper,
    lease: Lease,
    store: Arc<SharedStore>,
    others: Arc<Others>,
    phase: Phase,
    /// When a watching arbiter reads again.
    read_at: Time,
    /// When one that could not lead tries again.
    lead_at: Time,
    is_reading: bool,
    told: String,
    tell_at: Time,
}

/// What the driver is to do.
pub(super) enum Turn {
    /// Go on.
    Nothing,
    /// Stop acting.
    StepDown,
    /// This arbiter watches, and who leads, or why nobody does, is told otherwise from here on.
    Tell(String),
    /// Read the store, to lead in that epoch, or to follow.
    Read(Option<u64>),
}

impl Several {
    /// Opens the store and stands for election. A store that cannot be reached now is none that could not be later.
    pub(super) async fn start(config: &Config, shared: &SharedStoreConfig, bounds: Bounds) -> Result<Self, StartError> {
        refuse_a_guarded_store(config, shared).await?;
        let registry = registry(shared)?;
        let path = &config.arbiter.store;
        let local =
            SqliteStore::open(path, bounds).await.map_err(|source| StartError::Store { path: path.clone(), source })?;
        let keep = usize::try_from(bounds.incidents).unwrap_or(usize::MAX);
        let store = Arc::new(SharedStore::new(Arc::clone(&registry), local, GROUP, keep));
        let settings = Settings {
            heartbeat_every: shared.heartbeat,
            valid_for: shared.valid_for,
            stop_time: STOP_TIME,
            ..Settings::new(GROUP, config.arbiter.name.clone())
        };
        let keeper = keeper::start(Arc::clone(&registry), settings)
            .map_err(|error| StartError::Build(format!("`arbiter.leadership`: {error}")))?;
        let lease = Lease(keeper.watch());
        let others = Others::new(registry, config);
        Ok(Self {
            keeper,
            lease,
            store,
            others: Arc::new(others),
            phase: Phase::Following,
            read_at: clock::now(),
            lead_at: clock::now(),
            is_reading: false,
            told: String::new(),
            tell_at: clock::now(),
        })
    }

    pub(super) fn store(&self) -> Arc<SharedStore> {
        Arc::clone(&self.store)
    }

    pub(super) fn lease(&self) -> Lease {
        self.lease.clone()
    }

    pub(super) fn others(&self) -> Arc<Others> {
        Arc::clone(&self.others)
    }

    /// The epoch in which this arbiter leads, if the driver was told so and the lease holds at this moment.
    pub(super) fn term(&self) -> Option<u64> {
        match self.phase {
            Phase::Leading(epoch) if self.lease.holds(Some(epoch)) => Some(epoch),
            _ => None,
        }
    }

    /// Who leads instead, in words.
    pub(super) fn reason(&self) -> String {
        if let Phase::Reading(_) = self.phase {
            return "it was elected just now, and reads how things stand".into();
        }
        match self.keeper.standing() {
            Standing::Outside { reason } => format!("it is not in the election: {reason}"),
            Standing::Standby { leader: Some(leader), .. } => match self.others.address(&leader) {
                Some(address) => format!("{leader} leads, at {address}"),
                None => format!("{leader} leads"),
            },
            Standing::Standby { leader: None, .. } => "nobody leads yet".into(),
            Standing::Leader { .. } => "it reads how things stand in the store".into(),
        }
    }

    /// Looks at who leads now.
    pub(super) fn turn(&mut self, now: Time) -> Turn {
        let elected = self.lease.epoch();
        match (self.phase, elected) {
            (Phase::Leading(held) | Phase::Reading(held), elected) if elected != Some(held) => {
                self.step_down(now);
                Turn::StepDown
            }
            (Phase::Following, Some(epoch)) if now >= self.lead_at => {
                self.phase = Phase::Reading(epoch);
                self.store.lead(Some(epoch));
                Turn::Read(Some(epoch))
            }
            // While it stands outside, the store cannot be read either.
            (Phase::Following, None) if now >= self.read_at && !self.is_reading && self.is_standby() => {
                self.read_at = now + FOLLOW_EVERY;
                self.is_reading = true;
                Turn::Read(None)
            }
            (Phase::Following, _) if now >= self.tell_at => {
                self.tell_at = now + TELL_EVERY;
                let reason = self.reason();
                if reason == self.told {
                    return Turn::Nothing;
                }
                self.told.clone_from(&reason);
                Turn::Tell(reason)
            }
            _ => Turn::Nothing,
        }
    }

    fn is_standby(&self) -> bool {
        matches!(self.keeper.standing(), Standing::Standby { .. })
    }

    /// Nothing is written or begun any more, until everything was read anew.
    pub(super) fn step_down(&mut self, now: Time) {
        self.store.lead(None);
        self.phase = Phase::Following;
        self.lead_at = now + READ_AGAIN;
    }

    /// Whether what was read for that epoch is still asked for; from here on it leads.
    pub(super) fn has_read(&mut self, now: Time, epoch: Option<u64>, is_well: bool) -> bool {
        let Some(epoch) = epoch else {
            self.is_reading = false;
            return is_well && self.phase == Phase::Following;
        };
        if self.phase != Phase::Reading(epoch) {
            return false;
        }
        if !is_well || !self.lease.holds(Some(epoch)) {
            self.step_down(now);
            return false;
        }
        self.phase = Phase::Leading(epoch);
        true
    }

    /// Leaves the election, so that nobody waits for the lease. To be called once nothing is done any more.
    pub(super) async fn leave(self) {
        self.store.lead(None);
        self.keeper.leave().await;
    }
}

/// Reads everything to lead, or the clusters to follow, and what was ever seen there.
pub(super) async fn read(store: &SharedStore, is_to_lead: bool) -> Read {
    use crate::store::Store as _;
    let recovered = match is_to_lead {
        true => store.recover().await?,
        false => Recovered { clusters: store.clusters().await?, open: Vec::new() },
    };
    Ok((recovered, store.seen().await?))
}
