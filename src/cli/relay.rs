//! `coroner relay`: the broker of this package: serve, send, receive, ask, look into its log.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use clap::Subcommand;
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Context,
    exit::{Code, Exit, Failure},
    print,
};
use crate::{
    model::Secret,
    relay::{
        Options, Server,
        client::{Arrival, Control, Message, NodeClient, NodeOptions, Sender, SenderOptions},
        control::{Answer, Request, Role},
    },
};

mod dump;
mod heart;

/// The broker of this package.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Run a relay: primary or shadow, as the epoch file on the storage and its own memory say.
    Serve(Serve),
    /// Send numbered messages, and repeat what is not acknowledged.
    Send(Send),
    /// Receive all messages, once, and write down what came.
    Node(Node),
    /// Ask a relay how it is.
    Status(Status),
    /// Print what is in the log, and whether it is whole.
    Dump(dump::Dump),
}

#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// Its name, as the configuration file says it.
    #[arg(long)]
    name: String,
    /// The directory on the storage that all members share.
    #[arg(long, value_name = "DIR")]
    storage: PathBuf,
    /// This member's own directory. Default: `members/NAME` on the shared storage.
    #[arg(long, value_name = "DIR")]
    own: Option<PathBuf>,
    /// Where to listen. Port 0: any free one; the address is the first line on standard output.
    #[arg(long, value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// Begin as the shadow of this primary. A member that was told whom to follow, or that it is primary, knows.
    /// Without it, a new member founds the log if there is none.
    #[arg(long, value_name = "HOST:PORT")]
    follow: Option<String>,
    /// How long a segment of the log grows, in MiB.
    #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=4096))]
    segment_mib: u64,
    /// How much of the log is kept, in MiB. A node that is farther behind is told so.
    #[arg(long, default_value_t = 4096, value_name = "MIB", value_parser = clap::value_parser!(u64).range(4..))]
    retain_mib: u64,
    /// As shadow, apply messages only when they are so old: a mistake can be caught before it is replayed.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    replay_delay_ms: u64,
    #[command(flatten)]
    heart: heart::Heart,
    /// End when standard input ends, so that it does not outlive the one who started it.
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

#[derive(Debug, clap::Args)]
struct Send {
    /// Its name: with the number the idempotency key.
    #[arg(long)]
    name: String,
    #[command(flatten)]
    whom: Whom,
    /// Messages a second; 0: as fast as they are acknowledged.
    #[arg(long, default_value_t = 50)]
    rate: u64,
    /// End after so many, once they are acknowledged. Default: never.
    #[arg(long)]
    count: Option<u64>,
    /// The size of a message, bytes. Each begins with its number in decimal digits.
    #[arg(long, default_value_t = 100)]
    size: usize,
}

#[derive(Debug, clap::Args)]
struct Node {
    /// Its name.
    #[arg(long)]
    name: String,
    #[command(flatten)]
    whom: Whom,
    /// Receive what comes after this sequence; 0: everything. Default: what comes from now on.
    #[arg(long)]
    after: Option<u64>,
    /// Write a line for each message: sequence, epoch, sender, number.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// To whom, and how one hears of another one.
#[derive(Clone, Debug, clap::Args)]
struct Whom {
    /// The primary.
    #[arg(long, value_name = "HOST:PORT")]
    to: String,
    /// A file whose first line is `HOST:PORT EPOCH`: read again and again, and followed (see the redirect `file`).
    #[arg(long, value_name = "FILE")]
    primary_file: Option<PathBuf>,
    /// Write the counters to this file again and again, as one line of JSON.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Status {
    /// The relay.
    #[arg(value_name = "HOST:PORT")]
    address: String,
}

/// How often files are read and written.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) async fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    match args.what {
        What::Serve(serve) => run_relay(serve).await,
        What::Send(send) => run_sender(send).await,
        What::Node(node) => run_node(node).await,
        What::Status(status) => tell_status(context, &status).await,
        What::Dump(dump) => dump::run(&dump),
    }
}

async fn run_relay(args: Serve) -> Result<Exit, Failure> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    // Fails only when a log is set up already, which is as good.
    let _ = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).try_init();
    let heart = args.heart.ready(&args.name)?;
    let mut end = Ending::new()?;
    if args.until_stdin_ends {
        super::end_with_stdin();
    }
    let storage = args.storage;
    let failed = |e: std::io::Error| {
        let text = format!("The relay cannot start on {}: {e}.", storage.display());
        Failure::new(if e.kind() == std::io::ErrorKind::InvalidInput { Code::Usage } else { Code::Io }, text)
    };
    let mut options = Options::new(&args.name, &storage, args.listen);
    options.own = args.own;
    options.may_found = args.follow.is_none();
    options.follow = args.follow;
    options.segment_bytes = args.segment_mib * 1024 * 1024;
    options.retain_bytes = args.retain_mib * 1024 * 1024;
    options.replay_delay = Duration::from_millis(args.replay_delay_ms);
    let server = Server::start(options).await.map_err(failed)?;
    line(&format!("listening {}", server.address()))?;
    tokio::select! {
        exit = end.wait() => {
            server.stop().await;
            Ok(exit)
        }
        () = heart.beat() => Ok(Exit::OK),
    }
}

fn line(text: &str) -> Result<(), Failure> {
    print(&format!("{text}\n")).map(drop)
}

fn json_line(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| Failure::new(Code::Internal, format!("Not to be written as JSON: {e}.")))
}

/// The signals that end a verb, and the one that asks for its counters.
struct Ending {
    interrupt: Signal,
    terminate: Signal,
    show: Signal,
}

impl Ending {
    fn new() -> Result<Self, Failure> {
        let fail = |e: std::io::Error| Failure::new(Code::Internal, format!("Signals cannot be caught: {e}."));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(fail)?,
            terminate: signal(SignalKind::terminate()).map_err(fail)?,
            show: signal(SignalKind::user_defined1()).map_err(fail)?,
        })
    }

    async fn wait(&mut self) -> Exit {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return Exit(130),
                _ = self.terminate.recv() => return Exit::OK,
                // Of a relay one asks `status`.
                _ = self.show.recv() => {}
            }
        }
    }
}

impl Whom {
    /// Passes on what the file says, and writes down the state; ends never.
    async fn attend(&self, mut follow: impl FnMut(&str, u64), state: impl Fn() -> Result<String, Failure>) {
        loop {
            if let Some(file) = &self.primary_file
                && let Ok(text) = std::fs::read_to_string(file)
                && let Some((address, epoch)) = text.lines().next().and_then(|first| first.trim().split_once(' '))
                && let Ok(epoch) = epoch.trim().parse()
            {
                follow(address, epoch);
            }
            if let (Some(file), Ok(state)) = (&self.state, state()) {
                // The next one comes soon.
                let _ = crate::sys::file::replace(file, state.as_bytes());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

async fn run_sender(args: Send) -> Result<Exit, Failure> {
    let mut end = Ending::new()?;
    let sender = Sender::start(SenderOptions::new(&args.name, &args.whom.to));
    let state = || json_line(&sender.state());
    let send = async {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / u32::try_from(args.rate.max(1)).unwrap_or(1));
        let mut last = 0;
        for number in 1..=args.count.unwrap_or(u64::MAX) {
            if args.rate > 0 {
                tick.tick().await;
            }
            let mut payload = number.to_string().into_bytes();
            payload.resize(args.size.max(payload.len()), b' ');
            last = sender.send(payload).await.map_err(|e| Failure::new(Code::Data, e.to_string()))?;
        }
        while !sender.wait_for(last, Duration::from_secs(1)).await {}
        Ok::<_, Failure>(())
    };
    let attend = args.whom.attend(|address, epoch| _ = sender.move_to(address, epoch), state);
    tokio::pin!(send, attend);
    loop {
        tokio::select! {
            sent = &mut send => {
                sent?;
                break;
            }
            () = &mut attend => {}
            _ = end.interrupt.recv() => break,
            _ = end.terminate.recv() => break,
            _ = end.show.recv() => line(&state()?)?,
        }
    }
    line(&state()?)?;
    Ok(Exit::OK)
}

async fn run_node(args: Node) -> Result<Exit, Failure> {
    let fail = |e: std::io::Error| Failure::writing("the record", &e);
    let mut end = Ending::new()?;
    let mut record = match &args.record {
        Some(path) => Some(BufWriter::new(File::options().create(true).append(true).open(path).map_err(fail)?)),
        None => None,
    };
    let mut node =
        NodeClient::start(NodeOptions { name: args.name, address: args.whom.to.clone(), epoch: 0, after: args.after });
    let handle = node.handle();
    let state = || json_line(&handle.state());
    let attend = args.whom.attend(|address, epoch| _ = handle.follow(address, epoch), state);
    tokio::pin!(attend);
    loop {
        tokio::select! {
            arrival = node.next() => match arrival {
                Some(Arrival::Messages(messages)) => {
                    if let Some(record) = &mut record {
                        messages.iter().try_for_each(|message| note(record, message)).map_err(fail)?;
                        record.flush().map_err(fail)?;
                    }
                }
                Some(Arrival::TooFarBehind { oldest }) => {
                    let text = format!("The log begins with sequence {oldest}: messages before it are missed for good.");
                    return Err(Failure::new(Code::Data, text));
                }
                Some(Arrival::Canary { .. } | Arrival::Epoch { .. }) => {}
                None => break,
            },
            () = &mut attend => {}
            _ = end.interrupt.recv() => break,
            _ = end.terminate.recv() => break,
            _ = end.show.recv() => line(&state()?)?,
        }
    }
    line(&state()?)?;
    Ok(Exit::OK)
}

fn note(record: &mut impl std::io::Write, message: &Message) -> std::io::Result<()> {
    writeln!(record, "{} {} {} {}", message.sequence, message.epoch, message.sender, message.number)
}

async fn tell_status(context: &Context, args: &Status) -> Result<Exit, Failure> {
    let answer = Control::ask_once(&args.address, &Request::Status, Duration::from_secs(5)).await;
    let status = match answer.map_err(|e| Failure::new(Code::Unavailable, format!("{e}.")))? {
        Answer::Ok { status, .. } | Answer::Refused { status, .. } => status,
        Answer::Failed { detail } => return Err(Failure::new(Code::Temporary, format!("{detail}."))),
    };
    context.emit(&status, |_| {
        let mut text =
            format!("{}: {:?} in epoch {}, sequence {}\n", status.name, status.role, status.epoch, status.position);
        if status.role == Role::Shadow {
            let linked = if status.is_linked { "linked" } else { "not linked" };
            text += &format!("  {linked}, {} entries ({} ms) behind\n", status.lag_entries, status.lag_ms);
        }
        if status.read_only {
            text += "  read-only: senders are refused\n";
        }
        for (node, sequence) in &status.nodes {
            text += &format!("  node {node} has {sequence}\n");
        }
        if status.corrupt > 0 {
            text += &format!("  {} places in the log are corrupt: nothing behind them is served\n", status.corrupt);
        }
        text
    })
}

/// A token out of a file.
fn token(path: &std::path::Path) -> Result<Secret, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::new(Code::Config, format!("The token in {} cannot be read: {e}.", path.display())))?;
    Ok(Secret::new(text.trim().to_owned()))
}
