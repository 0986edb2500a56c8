//! What the storage thread and the connections share: small, never held over anything that can block, so that a relay
//! whose storage hangs still says how it is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    control::{Role, Status},
    epoch::Own,
    reader::ReadError,
};
use crate::sys::clock::Stopwatch;

/// Heartbeats of the primary that are older than this are missing.
const LINKED_WITHIN: Duration = Duration::from_millis(1_500);
/// So many nodes are remembered after they left.
const MOST_NODES: usize = 256;

/// What nodes may have: the end of the log, in which epoch, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Serving {
    /// The epoch; none: this is no primary.
    pub(super) epoch: Option<u64>,
    /// The last sequence that may be sent.
    pub(super) end: u64,
}

/// What was heard of the primary, by a shadow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) at: Stopwatch,
    pub(super) position: u64,
    pub(super) epoch: u64,
    pub(super) is_primary: bool,
}

/// A node, connected or not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NodeSeen {
    pub(super) received: u64,
    pub(super) connections: u32,
}

/// Everything.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) role: Role,
    pub(super) epoch: u64,
    pub(super) stored_epoch: u64,
    pub(super) read_only: bool,
    pub(super) position: u64,
    pub(super) following: Option<String>,
    /// Shadow: entries in the log, not applied, as the reader estimates them.
    pub(super) unread: u64,
    /// Shadow: since when some are waiting.
    pub(super) behind_since: Option<Stopwatch>,
    /// Shadow: whether the replay goes on.
    pub(super) is_replaying: bool,
    pub(super) heard: Option<Heard>,
    /// Since when it has been what it is.
    pub(super) since: Stopwatch,
    pub(super) nodes: BTreeMap<String, NodeSeen>,
    /// The last sequence that was sent to any node.
    pub(super) sent: u64,
    /// Since when something waits to be sent and nothing was.
    pub(super) unsent_since: Option<Stopwatch>,
    pub(super) corrupt: BTreeSet<(PathBuf, u64)>,
    /// The newest connection of each sender.
    pub(super) senders: HashMap<String, (u64, Arc<tokio::sync::Notify>)>,
    pub(super) generations: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    inner: Mutex<Inner>,
    pub(super) serving: watch::Sender<Serving>,
    /// Tells the heartbeat task that somebody else is followed.
    pub(super) following: watch::Sender<Option<String>>,
}

impl Shared {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            inner: Mutex::new(Inner {
                role: Role::Retired,
                epoch: 0,
                stored_epoch: 0,
                read_only: false,
                position: 0,
                following: None,
                unread: 0,
                behind_since: None,
                is_replaying: false,
                heard: None,
                since: Stopwatch::start(),
                nodes: BTreeMap::new(),
                sent: 0,
                unsent_since: None,
                corrupt: BTreeSet::new(),
                senders: HashMap::new(),
                generations: 0,
            }),
            serving: watch::Sender::new(Serving { epoch: None, end: 0 }),
            following: watch::Sender::new(None),
        }
    }

    /// A panic while it was held leaves values behind that are whole one by one; they are used on.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to remember over a restart.
    pub(super) fn own(&self) -> Own {
        let inner = self.lock();
        Own {
            epoch: inner.stored_epoch,
            role: inner.role,
            read_only: inner.read_only,
            following: inner.following.clone(),
        }
    }

    pub(super) fn set_role(&self, role: Role, epoch: u64) {
        let mut inner = self.lock();
        if inner.role != role {
            inner.since = Stopwatch::start();
            inner.heard = None;
            inner.behind_since = None;
        }
        inner.role = role;
        inner.epoch = epoch;
        inner.stored_epoch = inner.stored_epoch.max(epoch);
        if role != Role::Shadow {
            inner.following = None;
        }
        let (following, end) = (inner.following.clone(), inner.position);
        if role == Role::Primary {
            inner.sent = end;
            inner.unsent_since = None;
            inner.nodes.clear();
        }
        drop(inner);
        self.following.send_if_modified(|now| std::mem::replace(now, following.clone()) != following);
        self.serving.send_replace(Serving { epoch: (role == Role::Primary).then_some(epoch), end });
    }

    /// The primary's log has grown.
    pub(super) fn grew(&self, end: u64) {
        let mut inner = self.lock();
        inner.position = end;
        if inner.unsent_since.is_none() && inner.sent < end {
            inner.unsent_since = Some(Stopwatch::start());
        }
        drop(inner);
        self.serving.send_modify(|serving| serving.end = end);
    }

    /// Something was sent to a node.
    pub(super) fn sent(&self, last: u64) {
        let mut inner = self.lock();
        inner.sent = inner.sent.max(last);
        inner.unsent_since = (inner.sent < inner.position).then(Stopwatch::start);
    }

    /// A node has taken everything up to `sequence`.
    pub(super) fn node(&self, name: &str, change: impl FnOnce(&mut NodeSeen)) {
        let mut inner = self.lock();
        if !inner.nodes.contains_key(name) && inner.nodes.len() >= MOST_NODES {
            let gone = inner.nodes.iter().find(|(_, seen)| seen.connections == 0).map(|(name, _)| name.clone());
            let Some(gone) = gone else { return };
            inner.nodes.remove(&gone);
        }
        change(inner.nodes.entry(name.to_owned()).or_default());
    }

    /// Remembers a place that is corrupt.
    pub(super) fn note(&self, error: &ReadError) {
        if let ReadError::Corrupt { file, offset, .. } = error
            && self.lock().corrupt.insert((file.clone(), *offset))
        {
            tracing::error!(relay = self.name, "{error}");
        }
    }

    pub(super) fn status(&self) -> Status {
        let inner = self.lock();
        let ms = |watch: &Stopwatch| u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
        let is_shadow = inner.role == Role::Shadow;
        let heard = inner.heard.filter(|heard| is_shadow && heard.is_primary);
        let known = heard.map_or(0, |heard| heard.position.saturating_sub(inner.position));
        let silent_ms = match inner.role {
            Role::Shadow => ms(&heard.map_or(inner.since, |heard| heard.at)),
            Role::Primary => inner.unsent_since.as_ref().map_or(0, ms),
            Role::Retired => 0,
        };
        let is_linked = is_shadow
            && inner.is_replaying
            && inner.corrupt.is_empty()
            && heard.is_some_and(|heard| heard.at.elapsed() < LINKED_WITHIN && heard.epoch >= inner.stored_epoch);
        Status {
            name: self.name.clone(),
            role: inner.role,
            epoch: inner.epoch,
            stored_epoch: inner.stored_epoch,
            read_only: inner.read_only,
            position: inner.position,
            lag_entries: if is_shadow { known.max(inner.unread) } else { 0 },
            lag_ms: inner.behind_since.filter(|_| is_shadow).as_ref().map_or(0, ms),
            following: inner.following.clone(),
            is_linked,
            silent_ms,
            nodes: inner
                .nodes
                .iter()
                .filter(|(_, seen)| seen.connections > 0)
                .map(|(name, seen)| (name.clone(), seen.received))
                .collect(),
            corrupt: inner.corrupt.len() as u64,
        }
    }
}
