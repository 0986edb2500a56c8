//! One file per verb.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use serde::Serialize;

pub mod client;
pub mod exit;
pub mod style;
pub mod table;

mod abort;
mod adopt;
mod agent;
mod arbiter;
pub mod backtest;
mod check;
mod completions;
mod confirm;
mod continue_;
pub mod demo;
pub mod doctor;
mod elect;
mod epoch;
mod failover;
pub mod fence;
mod follow;
mod gate;
mod incidents;
mod instances;
mod key;
pub mod kinds;
mod man;
mod pause;
mod rejoin;
mod relay;
mod reload;
mod replay;
mod resume;
mod schema;
pub mod simulate;
pub mod status;
mod stdio;
mod switchover;
pub mod watch;
mod when;
pub mod why;
pub mod why_not;

use client::{Client, Connect};
use exit::{Code, Exit, Failure};
use style::Paint;

use crate::model::{CommandReply, IncidentId};

/// An external failover arbiter for brokers and databases: decides by written death rules, fences, promotes,
/// redirects, reports.
#[derive(Debug, Parser)]
#[command(name = "coroner", version, max_term_width = 110, arg_required_else_help = true)]
#[command(after_help = "Exit codes follow sysexits.h: `coroner --help` lists them.")]
pub struct Cli {
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the arbiter: watch, judge, fence, promote, redirect, report.
    Arbiter(arbiter::Args),
    /// Run the agent beside a broker or a node: evidence, lease, gate, fences of the host.
    Agent(agent::Args),
    /// The gate before this host's broker: wait for leave to start, shut it at boot, see how it stands.
    Gate(gate::Args),
    /// Check a configuration file and print all its mistakes.
    Check(check::Args),
    /// Replay recorded observations through other rules: when would they have fired, and how often falsely.
    Backtest(backtest::Args),
    /// Tell what an arbiter saw and decided, event by event.
    Replay(replay::Args),
    /// Make the key with which an arbiter or an agent signs, or show its public line.
    Key(key::Args),
    /// List what a file may name: broker kinds, probes, fences, redirects, reports.
    Kinds(kinds::Args),
    /// Show the clusters: verdict, primary, epoch, members, nodes, readiness.
    Status(status::Args),
    /// Explain what is believed of the primary, with every value, age and observer.
    Why(why::Args),
    /// Explain what stands between now and a failover: guards, candidates, rules.
    WhyNot(why_not::Args),
    /// A live view in the terminal.
    Watch(watch::Args),
    /// Incidents: list, show, export, acknowledge.
    Incidents(incidents::Args),
    /// Fence the primary and promote a standby, now.
    Failover(failover::Args),
    /// Planned: the primary steps down, a standby takes over.
    Switchover(switchover::Args),
    /// Bring a quarantined member back as a standby.
    Rejoin(rejoin::Args),
    /// Rehearse fences now, or say that one was checked by eye.
    Fence(fence::Args),
    /// Let a held incident try again from where it stands.
    Continue(continue_::Args),
    /// Give up an incident, where that is still legal.
    Abort(abort::Args),
    /// Declare who is primary after somebody else changed it.
    Adopt(adopt::Args),
    /// Hands off: watch, judge, tell, do not act.
    Pause(pause::Args),
    /// Hands on again.
    Resume(resume::Args),
    /// Let the arbiter load its file again; a bad one changes nothing.
    Reload(reload::Args),
    /// Print the epoch and the primary of a cluster.
    Epoch(epoch::Args),
    /// Run a program on one machine at a time, elected through a database.
    Elect(elect::Args),
    /// The guard of a program under election.
    #[command(hide = true)]
    ElectGuard(elect::GuardArgs),
    /// What becomes a program under election.
    #[command(hide = true)]
    ElectLaunch(elect::LaunchArgs),
    /// The history of starts in a database of elections.
    Instances(instances::Args),
    /// Examine the whole deployment, each finding with its remedy, and how long a failover takes.
    Doctor(doctor::Args),
    /// Play all faults against a file's clusters, and say what could go wrong.
    Simulate(simulate::Args),
    /// Show a failover on this machine: a real primary, a standby, nodes, the arbiter, a fault.
    Demo(demo::Args),
    /// Speak the JSON line protocol on standard input and output, with a real pair behind it.
    Stdio(stdio::Args),
    /// A node of the demo.
    #[command(hide = true)]
    DemoNode(demo::node::Args),
    /// The sender of the demo.
    #[command(hide = true)]
    DemoSender(demo::sender::Args),
    /// The broker of this package: a small relay with a log on shared storage, and its shadow.
    Relay(Box<relay::Args>),
    /// Print a completion script for a shell.
    Completions(completions::Args),
    /// Print the manual page, or write all pages to a directory.
    Man(man::Args),
    /// Print the JSON Schema of the configuration file or of an answer.
    Schema(schema::Args),
}

/// What every verb gets.
#[derive(Clone, Debug)]
pub struct Context {
    format: Format,
    connect: Connect,
    paint: Paint,
}

impl Context {
    fn client(&self) -> Result<Client, Failure> {
        Client::new(&self.connect)
    }

    const fn is_json(&self) -> bool {
        matches!(self.format, Format::Json)
    }

    /// Prints one answer: the value as JSON, or its text.
    fn emit(&self, value: &impl Serialize, text: impl FnOnce(Paint) -> String) -> Result<Exit, Failure> {
        if self.is_json() { print(&format!("{}\n", json(value)?)) } else { print(&text(self.paint)) }
    }

    /// Prints the answer to a command.
    fn reply(&self, reply: &CommandReply) -> Result<Exit, Failure> {
        self.emit(reply, |_| match &reply.incident {
            Some(id) => format!("{}\nIncident {id}: `coroner incidents show {id}`\n", reply.text),
            None => format!("{}\n", reply.text),
        })
    }

    /// Prints the answer to a command, and where `wait` says so follows its incident to the end.
    async fn reply_and_follow(
        &self,
        client: &Client,
        reply: &CommandReply,
        wait: &follow::Wait,
    ) -> Result<Exit, Failure> {
        match &reply.incident {
            Some(id) if wait.wait => self.follow(client, reply, id, wait).await,
            _ => self.reply(reply),
        }
    }

    async fn follow(
        &self,
        client: &Client,
        reply: &CommandReply,
        id: &IncidentId,
        wait: &follow::Wait,
    ) -> Result<Exit, Failure> {
        if !self.is_json() {
            self.reply(reply)?;
        }
        follow::follow(self, client, id, wait).await
    }
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map_err(|e| Failure::new(Code::Internal, format!("The answer cannot be written as JSON: {e}.")))
}

/// Ends this process as SIGTERM would once standard input ends: so it does not outlive the one who started it.
fn end_with_stdin() {
    // A thread, since reading standard input blocks and must not hold up the end of the process.
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGTERM);
    });
}

/// Prints to standard output. A reader that went away (`| head`) is no error.
fn print(text: &str) -> Result<Exit, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Exit::OK),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::OK),
        Err(e) => Err(Failure::writing("to standard output", &e)),
    }
}

/// The whole command line, as clap sees it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command().after_long_help(exit::table_text())
}

/// Parses the arguments, runs the verb, and turns the result into an exit code.
#[must_use]
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

/// The same for the program `coroner-relay`, whose arguments are those of `coroner relay`.
#[must_use]
pub fn relay_main() -> ExitCode {
    let mut words = std::env::args_os();
    main_with(words.next().into_iter().chain([OsString::from("relay")]).chain(words))
}

fn main_with(words: impl Iterator<Item = OsString>) -> ExitCode {
    let cli =
        match command().try_get_matches_from(words).and_then(|m| <Cli as clap::FromArgMatches>::from_arg_matches(&m)) {
            Ok(cli) => cli,
            Err(error) => {
                // Help and version are answers, not errors. A reader that went away is no error either.
                let _ = error.print();
                return if error.use_stderr() { ExitCode::from(Code::Usage as u8) } else { ExitCode::SUCCESS };
            }
        };
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let context = Context { format: cli.output, connect: cli.connect, paint: Paint::for_stdout() };
    let nagios = matches!(&cli.verb, Verb::Status(args) if args.nagios);
    match run(&context, cli.verb) {
        Ok(Exit(code)) => ExitCode::from(code),
        Err(failure) if nagios => {
            let _ = print(&format!("CORONER UNKNOWN - {}\n", failure.text.replace(['\n', '|'], " ")));
            ExitCode::from(3)
        }
        Err(failure) => {
            tell_failure(&context, &failure);
            ExitCode::from(failure.code as u8)
        }
    }
}

fn tell_failure(context: &Context, failure: &Failure) {
    #[derive(Serialize)]
    struct Told<'a> {
        error: &'a str,
        exit_code: u8,
    }
    let told = Told { error: &failure.text, exit_code: failure.code as u8 };
    // Nothing can be done when standard error is gone.
    let _ = match context.format {
        Format::Json => writeln!(io::stderr(), "{}", serde_json::to_string(&told).unwrap_or_default()),
        Format::Text => writeln!(io::stderr(), "coroner: {}", failure.text),
    };
}

/// Threads of the arbiter that serve the network, at most.
const MOST_WORKERS: usize = 4;

fn run(context: &Context, verb: Verb) -> Result<Exit, Failure> {
    let verb = match verb {
        // These two hold a deadline or become another program: no runtime.
        Verb::ElectGuard(args) => return elect::guard(&args),
        Verb::ElectLaunch(args) => return Ok(elect::launch(args)),
        verb => verb,
    };
    let mut builder = match verb {
        Verb::Arbiter(_) | Verb::Relay(_) => {
            // The decision (a relay's storage) has a thread to itself; these serve the network. More of them would wake one another
            // up for little, and each costs memory.
            let cores = std::thread::available_parallelism().map_or(2, usize::from);
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(cores.clamp(2, MOST_WORKERS));
            builder
        }
        Verb::Agent(_) => {
            // Locked in memory, so: few threads, and small stacks.
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.max_blocking_threads(8).thread_stack_size(512 * 1024);
            builder
        }
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Code::Internal, format!("The runtime cannot be started: {e}.")))?;
    runtime.block_on(dispatch(context, verb))
}

async fn dispatch(context: &Context, verb: Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::Arbiter(args) => arbiter::run(args).await,
        Verb::Agent(args) => agent::run(args).await,
        Verb::Gate(args) => gate::run(context, args).await,
        Verb::Check(args) => check::run(context, &args),
        Verb::Backtest(args) => backtest::run(context, &args),
        Verb::Replay(args) => replay::run(context, &args),
        Verb::Key(args) => key::run(context, &args),
        Verb::Kinds(args) => kinds::run(context, &args),
        Verb::Status(args) => status::run(context, &args).await,
        Verb::Why(args) => why::run(context, &args).await,
        Verb::WhyNot(args) => why_not::run(context, &args).await,
        Verb::Watch(args) => watch::run(context, &args).await,
        Verb::Incidents(args) => incidents::run(context, &args).await,
        Verb::Failover(args) => failover::run(context, args).await,
        Verb::Switchover(args) => switchover::run(context, args).await,
        Verb::Rejoin(args) => rejoin::run(context, args).await,
        Verb::Fence(args) => fence::run(context, args).await,
        Verb::Continue(args) => continue_::run(context, &args).await,
        Verb::Abort(args) => abort::run(context, &args).await,
        Verb::Adopt(args) => adopt::run(context, args).await,
        Verb::Pause(args) => pause::run(context, args).await,
        Verb::Resume(args) => resume::run(context, &args).await,
        Verb::Reload(args) => reload::run(context, &args).await,
        Verb::Epoch(args) => epoch::run(context, &args).await,
        Verb::Elect(args) => elect::run(args).await,
        Verb::Instances(args) => instances::run(context, &args).await,
        // Done before there was a runtime.
        Verb::ElectGuard(args) => elect::guard(&args),
        Verb::ElectLaunch(args) => Ok(elect::launch(args)),
        Verb::Doctor(args) => doctor::run(context, &args).await,
        Verb::Simulate(args) => simulate::run(context, &args),
        Verb::Demo(args) => demo::run(context, args).await,
        Verb::Stdio(args) => stdio::run(args).await,
        Verb::DemoNode(args) => demo::node::run(args).await,
        Verb::DemoSender(args) => demo::sender::run(args).await,
        Verb::Relay(args) => relay::run(context, *args).await,
        Verb::Completions(args) => completions::run(&args),
        Verb::Man(args) => man::run(&args),
        Verb::Schema(args) => schema::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
