//! `coroner demo`: a real failover on this machine, from the fault to the rejoined standby, in under a minute.
//!
//! Everything is a process of its own, on loopback and free ports: a primary and a standby (of the broker of this package,
//! or of Redis: [`kind`]), three nodes, a sender, the arbiter. What the demo itself does is to start and stop them, to inject the fault, and to tell what it
//! sees; it never helps the arbiter.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use super::{
    Context,
    exit::{Code, Exit, Failure},
};

mod cable;
mod file;
pub(super) mod follow;
mod gaps;
mod kind;
mod link;
pub mod node;
pub(super) mod process;
mod ranges;
pub mod sender;
pub(super) mod server;
pub(super) mod stage;
mod story;

/// Show a failover on this machine.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What happens to the primary.
    #[arg(long, value_enum, default_value_t = Fault::Kill)]
    fault: Fault,
    /// Which broker plays.
    #[arg(long, value_enum, default_value_t)]
    broker: kind::Broker,
    /// Work in this directory and keep it: configuration, logs, store, report.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Also show what the arbiter logs, at the end.
    #[arg(long)]
    verbose: bool,
}

/// What happens to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// SIGKILL: its port closes.
    Kill,
    /// SIGSTOP: it keeps its connections and answers nobody.
    Freeze,
    /// It answers, and refuses writes: a full memory (Redis), the read-only flag (relay).
    Readonly,
    /// Its cable is cut: neither the nodes, nor the standby, nor the arbiter reach it; it runs on. (A relay keeps the
    /// storage.)
    Partition,
}

/// The demo ends by itself before this.
const AT_MOST: Duration = Duration::from_secs(58);

pub(super) async fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let fail = |e: std::io::Error| Failure::new(Code::Internal, format!("Signals cannot be caught: {e}."));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(fail)?;
    // Whichever branch wins, the others are dropped, and with the story all processes that it started.
    let exit = tokio::select! {
        told = timeout(AT_MOST, story::tell(context, &args)) => told.unwrap_or_else(|_| {
            Err(Failure::new(Code::Temporary, "The demo did not end within a minute. Is this machine very busy?"))
        }),
        _ = interrupt.recv() => Ok(Exit(130)),
        _ = terminate.recv() => Ok(Exit(143)),
        _ = hang_up.recv() => Ok(Exit(129)),
    };
    // Those that were killed are reaped before we go, so that nothing is left behind.
    tokio::time::sleep(Duration::from_millis(50)).await;
    exit
}
