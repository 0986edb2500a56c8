//! `coroner elect`, and the two processes that it starts.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use super::exit::{Code, Exit, Failure};
use crate::{
    elect::{
        guard::{self, Deadlines, Launch},
        keeper::{self, Options},
        runner::{self, OnExit, RunError},
    },
    model::{Secret, Span, Time},
    registry::{self, OpenError, Registry},
    telemetry::log::{self, Format},
};

/// Where the table of instances is.
#[derive(Debug, clap::Args)]
pub(super) struct Store {
    /// The database: sqlite:/path, postgres://, mysql://, redis://, mongodb://, etcd://.
    #[arg(long, env = "CORONER_STORE", hide_env_values = true, value_name = "URL")]
    pub(super) store: String,
    /// The password, if the URL has none.
    #[arg(long, env = "CORONER_STORE_PASSWORD", hide_env_values = true, hide = true, value_name = "PASSWORD")]
    pub(super) store_password: Option<String>,
}

impl Store {
    /// Opens it; each call ends within `within`.
    pub(super) fn open(&self, within: Duration) -> Result<Arc<dyn Registry>, Failure> {
        let options = registry::Options {
            timeout: within,
            password: self.store_password.clone().map(Secret::new),
            ..registry::Options::default()
        };
        registry::open(&self.store, &options).map_err(|error| {
            let code = match error {
                OpenError::Scheme(_) | OpenError::Invalid(_) => Code::Usage,
            };
            Failure::new(code, format!("The store cannot be used: {error}."))
        })
    }
}

/// Run a program on one machine at a time.
///
/// Each machine runs this; one of them is elected through the database, and runs the program. It is stopped, with all that
/// it started, before the lease of its machine ends, also if this process is killed, stopped or starved. Then another one
/// starts it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The program finds CORONER_EPOCH (a number that grows with each election), CORONER_GROUP and CORONER_INSTANCE in its
environment, and an empty standard input. What it writes for others is best marked with the epoch, so that they can refuse
a smaller one.

SIGTERM and SIGINT stop the program, leave the election, and exit with the program's code (143 if it died of SIGTERM), or 0
if none ran. If the program ends by itself, this leaves and exits with its code, so that another machine runs it.

What is promised, and what is not: src/docs/elect.md.")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) store: Store,
    /// Instances of the same group elect one.
    #[arg(long, env = "CORONER_GROUP", value_name = "NAME")]
    pub(super) group: String,
    /// This instance's name. Default: the host's.
    #[arg(long, env = "CORONER_INSTANCE", value_name = "NAME")]
    pub(super) instance: Option<String>,
    /// A heartbeat this often.
    #[arg(long, default_value = "1s", value_parser = Span::parse, value_name = "DURATION")]
    pub(super) heartbeat: Span,
    /// For how long a heartbeat is valid: the same on all machines. Default: five heartbeats.
    #[arg(long, value_parser = Span::parse, value_name = "DURATION")]
    pub(super) valid_for: Option<Span>,
    /// How long the program may take to stop: TERM at the beginning, KILL in the middle. Default: one heartbeat.
    #[arg(long, value_parser = Span::parse, value_name = "DURATION")]
    pub(super) stop_within: Option<Span>,
    /// By how many percent clocks may run too fast or too slow.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=50), value_name = "PERCENT")]
    pub(super) clock_rate: u32,
    /// What follows when the program ends by itself.
    #[arg(long, value_enum, default_value_t)]
    pub(super) on_exit: OnExit,
    /// How to log, to standard error. The level is set with CORONER_LOG.
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    pub(super) log: Format,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(super) program: Vec<String>,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    log::init(args.log, None).map_err(|error| Failure::new(Code::Usage, error.to_string()))?;
    let instance = match args.instance {
        Some(name) => name,
        None => host()?,
    };
    let heartbeat_every = args.heartbeat.0;
    let options = Options {
        heartbeat_every,
        valid_for: args.valid_for.map_or(5 * heartbeat_every, |span| span.0),
        stop_time: args.stop_within.map_or(heartbeat_every, |span| span.0),
        clock_rate_permille: args.clock_rate * 10,
        ..Options::new(args.group, instance)
    };
    options.check().map_err(|error| Failure::new(Code::Usage, format!("{error}.")))?;
    let registry = args.store.open(keeper::call_within(&options).max(Duration::from_millis(10)))?;
    let listen =
        |kind| signal(kind).map_err(|e| Failure::new(Code::Internal, format!("Signals cannot be heard: {e}.")));
    let (mut term, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stop = async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    match runner::run(registry, options, args.program, args.on_exit, stop).await {
        Ok(code) => Ok(Exit(code)),
        Err(error @ RunError::Unsafe(_)) => Err(Failure::new(Code::Usage, format!("{error}."))),
        Err(error @ RunError::Orphans(_)) => Err(Failure::new(Code::Unavailable, format!("{error}."))),
    }
}

fn host() -> Result<String, Failure> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        return Err(Failure::new(Code::Usage, "This host has no name: say --instance."));
    }
    Ok(name.to_owned())
}

/// The guard of a run of `coroner elect`.
#[derive(Debug, clap::Args)]
pub(super) struct GuardArgs {
    /// TERM then, in nanoseconds of CLOCK_BOOTTIME.
    #[arg(long)]
    term_at: u64,
    /// KILL then.
    #[arg(long)]
    kill_at: u64,
    #[arg(last = true, required = true)]
    program: Vec<String>,
}

pub(super) fn guard(args: &GuardArgs) -> Result<Exit, Failure> {
    let deadlines = Deadlines { term: Time(args.term_at), kill: Time(args.kill_at) };
    guard::run(deadlines, &args.program)
        .map_err(|e| Failure::new(Code::Internal, format!("The program's guard cannot work: {e}.")))?;
    Ok(Exit::OK)
}

/// What becomes the program of `coroner elect`.
#[derive(Debug, clap::Args)]
pub(super) struct LaunchArgs {
    #[arg(long)]
    guard: i32,
    #[arg(long)]
    before: u64,
    #[arg(long, allow_negative_numbers = true)]
    nice: i32,
    #[arg(long)]
    cgroup: Option<PathBuf>,
    #[arg(last = true, required = true)]
    program: Vec<String>,
}

pub(super) fn launch(args: LaunchArgs) -> Exit {
    let LaunchArgs { guard, before, nice, cgroup, program } = args;
    let (code, why) = guard::launch(&Launch { guard, before: Time(before), nice, cgroup, program });
    // Nothing can be done when standard error is gone.
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("coroner: {why}.\n"));
    Exit(code)
}
