//! The seams of the agent, made of what the host has: its kernel's rules, its processes, its service manager.

use std::{
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use super::{
    acts::HostActs,
    evidence::Watcher,
    gate::{DropSet, Gate, GateError, GateWatch, Watchdog, drill},
    host::{Host, rehearse_kill},
    keep::Keeper,
    observe::Drops,
    patience::Processor,
    preserve::preserve,
    spec::GateSpec,
    state::{GateKeeper, Watching},
};
use crate::{
    model::{
        FenceHealth, Order, Time,
        agent::{Evidence, ProcessIdentity},
        policy::LeasePolicy,
        time::human,
    },
    sys::process,
};

/// /proc is looked at this often, beside what the kernel tells by itself.
const TICK_EVERY: Duration = Duration::from_millis(50);
/// The service manager answers within this, or is not waited for.
const BUS_WITHIN: Duration = Duration::from_secs(5);
/// A rehearsal of the kill takes no longer.
const REHEARSE_WITHIN: Duration = Duration::from_secs(5);

/// A [`Watcher`] in the thread of leases.
pub struct RealWatching {
    watcher: Watcher,
    ticked: Time,
}

impl RealWatching {
    /// Over this watcher.
    #[must_use]
    pub const fn new(watcher: Watcher) -> Self {
        Self { watcher, ticked: Time::ZERO }
    }
}

impl Watching for RealWatching {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.watcher.as_fd()]
    }

    fn poll_timeout(&self) -> Option<Time> {
        Some(self.ticked + TICK_EVERY)
    }

    fn turn(&mut self, now: Time) {
        // What changed is in `evidence` as well.
        let _ = self.watcher.ready();
        if self.ticked + TICK_EVERY <= now {
            self.ticked = now;
            let _ = self.watcher.tick(now);
        }
    }

    fn evidence(&self) -> Vec<Evidence> {
        self.watcher.evidence()
    }

    fn identity(&self) -> ProcessIdentity {
        self.watcher.identity()
    }

    fn processor(&self) -> Option<Processor> {
        let pid = Some(self.watcher.identity().pid).filter(|pid| *pid > 0)?;
        let (is_runnable, ran) = process::processor(pid)?;
        Some(Processor { is_runnable, ran })
    }
}

/// A [`Gate`] with its watch, and a watchdog behind it where one fits.
pub struct RealGate {
    gate: Gate,
    watch: GateWatch,
    second_line: Option<SecondLine>,
}

struct SecondLine {
    device: PathBuf,
    policy: LeasePolicy,
    armed: Option<Watchdog>,
    /// It did not fit, which was told; it is not tried again.
    is_refused: bool,
}

impl RealGate {
    /// Installs the gate, shut unless it stands open already: a restart of the agent must not cut off a primary whose lease
    /// runs. `others`: sockets of this process whose changes are no news.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn install(spec: &GateSpec, others: &[u32]) -> Result<Self, GateError> {
        let gate = Gate::install(spec)?;
        let watch = others.iter().fold(GateWatch::new(gate.table())?, |watch, other| watch.ignore(*other));
        let watch = watch.ignore(gate.port_id());
        // What was changed between the two was not heard of.
        let mut own = Self { gate, watch, second_line: None };
        own.gate.ensure()?;
        Ok(own)
    }

    /// With a watchdog device that is stroked with every renewal while the gate is open.
    #[must_use]
    pub fn with_watchdog(mut self, device: PathBuf, policy: LeasePolicy) -> Self {
        self.second_line = Some(SecondLine { device, policy, armed: None, is_refused: false });
        self
    }
}

impl SecondLine {
    fn stroke(&mut self, left: Duration) {
        if self.is_refused {
            return;
        }
        let age = self.policy.length.saturating_sub(left);
        if self.armed.is_none() {
            match Watchdog::arm(&self.device, &self.policy, self.policy.renew_every) {
                Ok(armed) => self.armed = Some(armed),
                Err(error) => {
                    self.is_refused = true;
                    tracing::error!(%error, "the watchdog is not used; the gate stands alone");
                }
            }
        }
        if let Some(armed) = &mut self.armed
            && let Err(error) = armed.stroke(age)
        {
            tracing::warn!(%error, "the watchdog was not stroked");
        }
    }

    fn stand_down(&mut self) {
        if let Some(armed) = self.armed.take()
            && let Err(error) = armed.disarm()
        {
            tracing::error!(%error, "the watchdog goes on, and will reset this host");
        }
    }
}

impl Drop for RealGate {
    /// An orderly end: the kernel shuts the gate when its element runs out. After a panic the watchdog goes on.
    fn drop(&mut self) {
        if let Some(second) = self.second_line.as_mut().filter(|_| !std::thread::panicking()) {
            second.stand_down();
        }
    }
}

impl GateKeeper for RealGate {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.watch.as_fd()]
    }

    fn was_touched(&mut self) -> bool {
        // What cannot be heard may have happened.
        self.watch.drain().unwrap_or(true)
    }

    fn open_for(&mut self, left: Duration) -> Result<(), String> {
        match self.gate.open_for(left) {
            Ok(()) => {}
            // Somebody took the table away, and the watch has not been heard yet.
            Err(_) => {
                self.gate.ensure().map_err(|error| error.to_string())?;
                self.gate.open_for(left).map_err(|error| error.to_string())?;
            }
        }
        if let Some(second) = &mut self.second_line {
            second.stroke(left);
        }
        Ok(())
    }

    fn admit_for(&mut self, left: Duration) -> Result<(), String> {
        self.gate.admit_for(left).map_err(|error| error.to_string())
    }

    fn close(&mut self) -> Result<(), String> {
        self.gate.close().map_err(|error| error.to_string())?;
        if let Some(second) = &mut self.second_line {
            second.stand_down();
        }
        Ok(())
    }

    fn verify_and_restore(&mut self, left: Option<Duration>) -> Result<Option<String>, String> {
        if !self.gate.ensure().map_err(|error| error.to_string())? {
            return Ok(None);
        }
        if let Some(left) = left {
            self.gate.open_for(left).map_err(|error| error.to_string())?;
        }
        Ok(Some(format!("the table {} was put back", self.gate.table())))
    }
}

/// The hands on one broker.
pub struct RealHost {
    /// There until dropped.
    host: Option<Arc<Host>>,
    gate: Option<Arc<Mutex<Gate>>>,
    spec: Option<GateSpec>,
    enforced_within: Option<Duration>,
    preserved: PathBuf,
    keeper: Keeper,
}

impl RealHost {
    /// Over these. `preserved`: the directory of what is kept of the dying. `keeper`: keeps what the broker had. `enforced_within`: what the lease's arithmetic
    /// allows a gate to be late.
    ///
    /// # Errors
    /// The gate's socket could not be opened.
    pub fn new(
        host: Host,
        spec: Option<&GateSpec>,
        enforced_within: Option<Duration>,
        preserved: PathBuf,
        keeper: Keeper,
    ) -> Result<Self, GateError> {
        let gate = spec.map(Gate::install).transpose()?.map(|gate| Arc::new(Mutex::new(gate)));
        Ok(Self { host: Some(Arc::new(host)), gate, spec: spec.cloned(), enforced_within, preserved, keeper })
    }

    /// The sockets by which it changes the gate, for the watch to know them.
    #[must_use]
    pub fn port_ids(&self) -> Vec<u32> {
        let port = |gate: &Arc<Mutex<Gate>>| gate.lock().unwrap_or_else(PoisonError::into_inner).port_id();
        self.gate.iter().map(port).collect()
    }

    async fn at_host<R: Send + 'static>(&self, act: impl FnOnce(&Host) -> R + Send + 'static) -> Result<R, String> {
        let host = self.host.clone().ok_or("the agent is about to end")?;
        blocking(move || act(&host)).await
    }
}

impl Drop for RealHost {
    /// It has a runtime of its own, which must not end inside another.
    fn drop(&mut self) {
        if let Some(host) = self.host.take() {
            std::thread::spawn(move || drop(host));
        }
    }
}

async fn blocking<R: Send + 'static>(act: impl FnOnce() -> R + Send + 'static) -> Result<R, String> {
    tokio::task::spawn_blocking(act).await.map_err(|_| "it was broken off".to_owned())
}

#[async_trait]
impl HostActs for RealHost {
    async fn prepare(&self) -> Result<String, String> {
        self.at_host(|host| host.prepare(BUS_WITHIN)).await?
    }

    async fn inhibit_restart(&self) -> Result<String, String> {
        self.at_host(|host| host.inhibit_restart(BUS_WITHIN)).await?
    }

    async fn kill(&self, within: Duration) -> Result<String, String> {
        let kill = move |host: &Host| {
            let killed = host.kill_all(within);
            let empty = host.require_empty(within)?;
            Ok(killed.map_or_else(|_| empty.clone(), |killed| format!("{killed}; {empty}")))
        };
        self.at_host(kill).await?
    }

    async fn lift(&self) -> Result<String, String> {
        self.at_host(|host| host.bring_back(BUS_WITHIN)).await?
    }

    async fn preserve(&self, order: &Order, within: Duration) -> String {
        let directory = self.preserved.join(format!("{}-{}", order.incident, order.target.member));
        let kept = self.at_host(move |host| preserve(&host.subject(within / 4), &directory, within)).await;
        match kept {
            Ok(kept) if kept.files.is_empty() => "nothing of it was preserved".into(),
            Ok(kept) => format!("{} files in {}", kept.files.len(), kept.directory.display()),
            Err(error) => format!("nothing of it was preserved: {error}"),
        }
    }

    async fn announce_kept(&self) -> String {
        let keeper = self.keeper.clone();
        blocking(move || keeper.announce()).await.unwrap_or_default()
    }

    async fn keep(&self, order: &Order) -> Result<String, String> {
        let (keeper, order) = (self.keeper.clone(), order.clone());
        blocking(move || keeper.keep(&order)).await?
    }

    async fn rehearse_kill(&self) -> FenceHealth {
        let rehearse = |host: &Host| {
            let real = host.check(REHEARSE_WITHIN);
            if real.usable == Some(false) {
                return real;
            }
            match rehearse_kill(REHEARSE_WITHIN) {
                Ok(done) => FenceHealth { usable: real.usable, detail: format!("{}; {}", done.detail, real.detail) },
                Err(detail) => FenceHealth { usable: Some(false), detail },
            }
        };
        let done = self.at_host(rehearse).await;
        done.unwrap_or_else(|detail| FenceHealth { usable: None, detail })
    }

    async fn close_gate(&self) -> Result<(), String> {
        let gate = self.gate.clone().ok_or("there is no gate")?;
        let close = move || gate.lock().unwrap_or_else(PoisonError::into_inner).close();
        blocking(close).await?.map_err(|error| error.to_string())
    }

    async fn drill_gate(&self) -> Result<String, String> {
        let spec = self.spec.clone().ok_or("there is no gate")?;
        let report = blocking(move || drill(&spec)).await?.map_err(|error| error.to_string())?;
        if !report.is_proven() {
            return Err(report.to_string());
        }
        match (report.late(), self.enforced_within) {
            (Some(late), Some(most)) if late > most => Err(format!(
                "something passed {} after the end, and the lease allows {}: {report}",
                human(late),
                human(most)
            )),
            _ => Ok(report.to_string()),
        }
    }
}

/// A node's drop set.
#[derive(Debug)]
pub struct RealDrops(DropSet);

impl RealDrops {
    /// The drop set of this party and cluster.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn install(name: &str) -> Result<Self, GateError> {
        DropSet::install(name).map(Self)
    }
}

impl Drops for RealDrops {
    fn set(&mut self, addresses: &[SocketAddr]) -> Result<(), String> {
        let wanted = addresses.iter().copied().collect();
        let mut set = || -> Result<_, GateError> {
            self.0.ensure()?;
            self.0.set(addresses)?;
            // Whoever is told that it drops may promote by it.
            self.0.ensure()?;
            self.0.get()
        };
        match set().map_err(|error| error.to_string())? {
            found if found == wanted => Ok(()),
            found => Err(format!("read back, {found:?} are dropped")),
        }
    }
}
