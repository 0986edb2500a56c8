//! `coroner stdio`: the JSON line protocol on standard input and output, with a real pair behind it.
//!
//! The protocol itself is [`crate::stdio`]; here is what it stands on: relays, an arbiter, the saga. Nothing is shown that
//! was not measured on them.

use std::{
    io::{self, Read as _, Write as _},
    path::PathBuf,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};

use super::exit::{Code, Exit, Failure};
use crate::{
    stdio::{Line, Lines, Session},
    telemetry::log::{self, Format},
};

mod attach;
mod deployment;
mod file;
mod pair;
mod stage;

/// Speak the JSON line protocol on standard input and output.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Speak for a running deployment of relays instead of starting one: its configuration file. Its arbiter is asked
    /// over the control socket that the file names.
    #[arg(long, value_name = "CONFIG")]
    attach: Option<PathBuf>,
    /// The cluster in that file. May be left out if there is only one.
    #[arg(long, value_name = "NAME", requires = "attach")]
    cluster: Option<String>,
    /// Work in this directory and keep it: log, configuration, store, what the processes said.
    #[arg(long, value_name = "DIR", conflicts_with = "attach")]
    keep: Option<PathBuf>,
    /// How to log, to standard error. The level is set with CORONER_LOG.
    #[arg(long, value_enum, default_value_t = Format::Auto)]
    log: Format,
}

pub(super) async fn run(args: Args) -> Result<Exit, Failure> {
    log::init(args.log, None).map_err(|error| Failure::new(Code::Usage, error.to_string()))?;
    let fail = |e: io::Error| Failure::new(Code::Internal, format!("Signals cannot be caught: {e}."));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(fail)?;
    let behind = match args.attach {
        Some(config) => pair::Behind::Running(attach::read(&config, args.cluster.as_deref())?),
        None => pair::Behind::Scratch { keep: args.keep },
    };
    let mut session = Session::new(pair::Real::new(behind));
    let exit = tokio::select! {
        talked = talk(&mut session) => talked,
        _ = interrupt.recv() => Ok(Exit(130)),
        _ = terminate.recv() => Ok(Exit(143)),
        _ = hang_up.recv() => Ok(Exit(129)),
    };
    session.into_pair().end().await;
    exit
}

/// One answer for each line, until the input ends or nobody reads the answers any more.
async fn talk(session: &mut Session<pair::Real>) -> Result<Exit, Failure> {
    let (mut input, output) = (input()?, output()?);
    let mut lines = Lines::default();
    loop {
        let mut found: Vec<Line> = Vec::new();
        let bytes = input.recv().await;
        match &bytes {
            Some(bytes) => lines.push(bytes, |line| found.push(line)),
            None => found.extend(lines.end()),
        }
        for line in &found {
            let (done, written) = oneshot::channel();
            let answer = session.answer(line).await;
            // Whoever writes them lives as long as this does; were it gone, so would be the other end of `written`.
            let _ = output.send((answer, done)).await;
            match written.await {
                Ok(Ok(())) => {}
                Ok(Err(e)) if e.kind() != io::ErrorKind::BrokenPipe => {
                    return Err(Failure::writing("to standard output", &e));
                }
                _ => return Ok(Exit::OK),
            }
        }
        if bytes.is_none() {
            return Ok(Exit::OK);
        }
    }
}

type Written = oneshot::Sender<io::Result<()>>;

/// Standard input, read by a thread: reading blocks, and must hold up neither a signal nor the end of the process.
fn input() -> Result<mpsc::Receiver<Vec<u8>>, Failure> {
    let (send, receive) = mpsc::channel(2);
    let read = move || {
        let mut input = io::stdin().lock();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    if send.blocking_send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    tracing::warn!(error = %e, "standard input cannot be read on; it is taken for ended");
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("stdin".into()).spawn(read).map_err(|e| thread_failure(&e))?;
    Ok(receive)
}

/// Standard output, written by a thread for the same reason.
fn output() -> Result<mpsc::Sender<(String, Written)>, Failure> {
    let (send, mut receive) = mpsc::channel::<(String, Written)>(1);
    let write = move || {
        while let Some((mut line, done)) = receive.blocking_recv() {
            line.push('\n');
            let mut out = io::stdout().lock();
            // Whoever asked may have gone on a signal.
            let _ = done.send(out.write_all(line.as_bytes()).and_then(|()| out.flush()));
        }
    };
    std::thread::Builder::new().name("stdout".into()).spawn(write).map_err(|e| thread_failure(&e))?;
    Ok(send)
}

fn thread_failure(error: &io::Error) -> Failure {
    Failure::new(Code::Internal, format!("A thread cannot be started: {error}."))
}
