//! Runs a [`Candidate`] over a [`Registry`], and tells where it stands.
//!
//! A leader must not act on a standing that it was told a while ago: [`Standing::Leader`] says until when it holds, and
//! whoever acts compares that with the clock itself. This task may be late.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    election::{Action, Candidate, Settings, Standing, Unsafe},
    model::time::Moment,
    registry::{Registry, RegistryError},
    sys::clock,
};

/// How an instance takes part, and the numbers of its election.
pub type Options = Settings;

/// The running election of one instance. Dropped without [`Keeper::leave`], it stops beating, and the others wait until
/// its row lapsed.
#[derive(Debug)]
pub struct Keeper {
    standing: watch::Receiver<Standing>,
    leave: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    leave_within: Duration,
}

/// Begins to beat. The tables are prepared first; while that does not succeed, the instance stands outside.
///
/// # Errors
/// The numbers do not keep what an election promises.
pub fn start(registry: Arc<dyn Registry>, options: Options) -> Result<Keeper, Unsafe> {
    options.check()?;
    let (told, standing) =
        watch::channel(Standing::Outside { reason: format!("{} was not asked yet", registry.label()) });
    let (leave, leaves) = oneshot::channel();
    let call_within = call_within(&options);
    let run = Run { registry, candidate: Candidate::new(options), told, call_within };
    Ok(Keeper {
        standing,
        leave: Some(leave),
        task: tokio::spawn(run.run(leaves)),
        // The call under way, and the leave itself.
        leave_within: call_within.saturating_mul(2).saturating_add(Duration::from_millis(500)),
    })
}

/// How long a call is waited for, and what the registry's time-out is best set to: two of them, one after the other, must fit
/// into the part of the lease that a leader has.
#[must_use]
pub fn call_within(options: &Options) -> Duration {
    let acts = options.lease(options.valid_for).saturating_sub(options.stop_time);
    (acts.saturating_sub(options.heartbeat_every) / 2).max(options.heartbeat_every / 2)
}

impl Keeper {
    /// Where it stands, by the clock: a leader whose time is over is none.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self.standing.borrow().clone() {
            Standing::Leader { epoch, until } if until.boot <= clock::now() => {
                Standing::Outside { reason: format!("the lease of epoch {epoch} ran out") }
            }
            standing => standing,
        }
    }

    /// The standings as they change; each heartbeat of a leader moves its `until`. The channel closes when this ends.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Leaves the election: nobody waits for the lease any more. To be called once everything that a leader does was
    /// stopped. Ends within a few time-outs, whether or not the database could be told.
    pub async fn leave(mut self) {
        if let Some(leave) = self.leave.take() {
            // If the task has ended, there is nobody to leave.
            let _ = leave.send(());
        }
        if timeout(self.leave_within, &mut self.task).await.is_err() {
            warn!("The database could not be told that this instance left: the others wait until its row lapsed.");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Run {
    registry: Arc<dyn Registry>,
    candidate: Candidate,
    told: watch::Sender<Standing>,
    call_within: Duration,
}

impl Run {
    async fn run(mut self, mut leaves: oneshot::Receiver<()>) {
        let mut has_prepared = false;
        let mut is_leaving = false;
        while !self.candidate.has_left() {
            if !has_prepared && !is_leaving {
                has_prepared = tokio::select! {
                    prepared = self.prepare() => prepared,
                    _ = &mut leaves => {
                        is_leaving = true;
                        self.candidate.leave();
                        false
                    }
                };
                if !has_prepared {
                    continue;
                }
            }
            let now = clock::moment();
            if let Some(action) = self.candidate.poll_action(now) {
                self.act(action, now).await;
            } else if !self.candidate.has_left() {
                let wait = self.candidate.poll_timeout(now).unwrap_or(Duration::from_secs(1));
                tokio::select! {
                    () = sleep(wait) => {}
                    left = &mut leaves, if !is_leaving => {
                        is_leaving = true;
                        // Dropped without a word: it lapses.
                        if left.is_err() {
                            return;
                        }
                        self.candidate.leave();
                    }
                }
            }
            self.tell();
        }
    }

    /// Makes the tables; tells why not, and waits a little.
    async fn prepare(&self) -> bool {
        let reason = match timeout(self.call_within, self.registry.prepare()).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error.to_string(),
            Err(_) => self.silent().to_string(),
        };
        let standing = Standing::Outside { reason };
        self.told.send_if_modified(|told| {
            let is_news = *told != standing;
            if is_news {
                warn!("{}", describe(&standing));
                *told = standing;
            }
            is_news
        });
        sleep(self.candidate.settings().heartbeat_every).await;
        false
    }

    fn silent(&self) -> RegistryError {
        RegistryError::Unknown(format!("{} did not answer within {:?}", self.registry.label(), self.call_within))
    }

    async fn act(&mut self, action: Action, sent: Moment) {
        let registry = Arc::clone(&self.registry);
        match action {
            Action::Beat(beat) => {
                let result = self.within(async move { registry.beat(&beat).await }).await;
                self.candidate.handle_beaten(sent, clock::moment(), result);
            }
            Action::Claim(leader) => {
                let result = self.within(async move { registry.claim(&leader).await }).await;
                if let Err(error) = &result {
                    info!("The claim of epoch {} was not taken: {error}.", leader_id(&self.candidate));
                }
                self.candidate.handle_claimed(sent, clock::moment(), &result);
            }
            Action::Look => {
                let group = self.candidate.settings().group.clone();
                let look = async move { registry.instances(Some(&group), Candidate::LOOK_ROWS).await };
                let result = self.within(look).await;
                self.candidate.handle_looked(sent, clock::moment(), &result);
            }
            Action::Leave { id } => {
                let group = self.candidate.settings().group.clone();
                if let Err(error) = self.within(async move { registry.leave(&group, id).await }).await {
                    warn!("The row {id} could not be left, and lapses by itself: {error}.");
                }
                self.candidate.handle_left(clock::moment());
            }
        }
    }

    /// Waits for an answer, and meanwhile tells if the standing changes because time passes.
    ///
    /// A call that is given up may take effect later. That is why only a heartbeat that was answered begins a lease.
    async fn within<T>(&self, call: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
        let call = timeout(self.call_within, call);
        tokio::pin!(call);
        loop {
            let changes_in = self.candidate.poll_timeout(clock::moment()).unwrap_or(Duration::MAX);
            tokio::select! {
                answer = &mut call => return answer.unwrap_or_else(|_| Err(self.silent())),
                () = sleep(changes_in) => self.publish(),
            }
        }
    }

    fn tell(&mut self) {
        while let Some(notice) = self.candidate.poll_notice() {
            warn!("In the election of {}: {notice}.", self.candidate.settings().group);
        }
        self.publish();
    }

    fn publish(&self) {
        let standing = self.candidate.standing(clock::moment());
        self.told.send_if_modified(|told| {
            if *told == standing {
                return false;
            }
            if is_other(told, &standing) {
                info!("{}", describe(&standing));
            }
            *told = standing;
            true
        });
    }
}

fn leader_id(candidate: &Candidate) -> String {
    candidate.row().map_or_else(|| "none".to_owned(), |id| id.to_string())
}

/// A leader whose lease went on stands where it stood.
fn is_other(was: &Standing, is: &Standing) -> bool {
    match (was, is) {
        (Standing::Leader { epoch: was, .. }, Standing::Leader { epoch: is, .. }) => was != is,
        (was, is) => was != is,
    }
}

fn describe(standing: &Standing) -> String {
    match standing {
        Standing::Outside { reason } => format!("Outside the election: {reason}."),
        Standing::Standby { id, leader: Some(leader) } => format!("Standby as {id}: {leader} was elected last."),
        Standing::Standby { id, leader: None } => format!("Standby as {id}: nobody leads yet."),
        Standing::Leader { epoch, .. } => format!("Leader, in epoch {epoch}."),
    }
}
