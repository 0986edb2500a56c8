//! Any program, on one machine at a time: started where this instance is elected, stopped before its lease ends.

use std::{io, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use tracing::{error, info, warn};

use super::{
    guard::Deadlines,
    keeper::{self, Options},
    program::{Ended, Program, Spec},
    tree,
};
use crate::{
    election::{Standing, Unsafe},
    model::Time,
    registry::Registry,
    sys::clock,
};

/// Between an end of the program and its next start.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// What follows when the program ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnExit {
    /// Leave the election, and exit with the program's code: another machine runs it.
    #[default]
    Leave,
    /// Start it again here, a second later, for as long as this instance leads.
    Restart,
}

/// Why nothing could be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The numbers promise nothing.
    #[error("{0}")]
    Unsafe(#[from] Unsafe),
    /// The kernel refused what the guard needs.
    #[error("what the program starts cannot be kept together: {0}")]
    Orphans(#[source] io::Error),
}

/// Stands for election and runs the program while elected, until `stop` resolves or the program ends by itself. The code
/// to exit with: the program's, or 0 if none ran.
///
/// # Errors
/// See [`RunError`]; nothing was started.
pub async fn run(
    registry: Arc<dyn Registry>,
    options: Options,
    program: Vec<String>,
    on_exit: OnExit,
    stop: impl Future<Output = ()>,
) -> Result<u8, RunError> {
    tree::adopt_orphans().map_err(RunError::Orphans)?;
    // The first half of the time to stop belongs to TERM, the second one to KILL and to seeing that it worked.
    let grace = options.stop_time / 2;
    let spec = Spec { program, group: options.group.clone(), instance: options.instance.clone() };
    let keeper = keeper::start(registry, options)?;
    let mut run = Run { spec, grace, on_exit, program: None, may_start_at: Time::ZERO };
    let code = run.run(keeper.watch(), stop).await;
    // Nothing of the program runs: nobody has to wait.
    keeper.leave().await;
    Ok(code)
}

struct Run {
    spec: Spec,
    grace: Duration,
    on_exit: OnExit,
    program: Option<Program>,
    may_start_at: Time,
}

/// What woke it.
enum Woken {
    Standing,
    Ended(Ended),
    Restart,
    Stop,
}

impl Run {
    async fn run(&mut self, mut standing: watch::Receiver<Standing>, stop: impl Future<Output = ()>) -> u8 {
        tokio::pin!(stop);
        let mut is_stopped = false;
        loop {
            if !is_stopped {
                let now = standing.borrow_and_update().clone();
                self.follow(&now);
            }
            let woken = {
                let restarts_in = self.may_start_at.since(clock::now());
                let is_running = self.program.is_some();
                let ended = async {
                    match &mut self.program {
                        Some(program) => program.ended().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    ended = ended => Woken::Ended(ended),
                    () = &mut stop, if !is_stopped => Woken::Stop,
                    // The keeper ends only when it is told to, or by a fault of ours: then nobody renews, and the guard ends it.
                    changed = standing.changed(), if !is_stopped => match changed {
                        Ok(()) => Woken::Standing,
                        Err(_) => Woken::Stop,
                    },
                    () = sleep(restarts_in), if !is_running && !restarts_in.is_zero() => Woken::Restart,
                }
            };
            match woken {
                Woken::Standing | Woken::Restart => {}
                Woken::Stop => {
                    info!("Told to stop.");
                    is_stopped = true;
                    match &mut self.program {
                        Some(program) => program.stop(self.grace),
                        None => return 0,
                    }
                }
                Woken::Ended(Ended { code, by_itself }) => {
                    self.program = None;
                    if is_stopped {
                        return code;
                    }
                    if !by_itself {
                        warn!("The program was stopped, with code {code}: another one may lead.");
                        continue;
                    }
                    info!("The program ended by itself, with code {code}.");
                    match self.on_exit {
                        OnExit::Leave => return code,
                        OnExit::Restart => self.may_start_at = clock::now() + RESTART_AFTER,
                    }
                }
            }
        }
    }

    fn follow(&mut self, standing: &Standing) {
        let grace = self.grace;
        let deadlines = |term: Time| Deadlines { term, kill: term + grace };
        match (standing, &mut self.program) {
            (Standing::Leader { epoch, until }, Some(program)) if program.epoch == *epoch => {
                program.hold(deadlines(until.boot));
            }
            (_, Some(program)) => program.stop(self.grace),
            (Standing::Leader { epoch, until }, None) => {
                let now = clock::now();
                if until.boot <= now || self.may_start_at > now {
                    return;
                }
                match Program::start(&self.spec, *epoch, deadlines(until.boot)) {
                    Ok(program) => {
                        info!("Elected, in epoch {epoch}: the program is started.");
                        self.program = Some(program);
                    }
                    Err(e) => {
                        error!("The program's guard cannot be started: {e}; it is tried again.");
                        self.may_start_at = now + RESTART_AFTER;
                    }
                }
            }
            (Standing::Standby { .. } | Standing::Outside { .. }, None) => {}
        }
    }
}
