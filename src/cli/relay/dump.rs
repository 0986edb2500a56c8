//! `coroner relay dump`: what is in a log.

use std::{
    io::{self, BufWriter, Write as _},
    path::PathBuf,
};

use serde::Serialize;

use crate::{
    cli::exit::{Code, Exit, Failure},
    relay::{Reader, list},
};

#[derive(Debug, clap::Args)]
pub(super) struct Dump {
    /// The directory on the shared storage.
    #[arg(value_name = "DIR")]
    storage: PathBuf,
    /// Begin behind this sequence. Default: with the oldest entry.
    #[arg(long)]
    after: Option<u64>,
    /// Print no entries, only say whether the log is whole.
    #[arg(long)]
    check: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    sequence: u64,
    epoch: u64,
    kind: String,
    sender: &'a str,
    number: u64,
    time_ms: u64,
    bytes: usize,
}

pub(super) fn run(args: &Dump) -> Result<Exit, Failure> {
    let io =
        |e: io::Error| Failure::new(Code::Io, format!("The log in {} cannot be read: {e}.", args.storage.display()));
    if list(&args.storage).map_err(io)?.segments.is_empty() {
        return Err(Failure::new(Code::Data, format!("There is no log in {}.", args.storage.display())));
    }
    let read = |e: crate::relay::ReadError| Failure::new(Code::Data, format!("{e}."));
    let mut reader = match args.after {
        Some(after) => Reader::after(&args.storage, after),
        None => Reader::from_oldest(&args.storage),
    }
    .map_err(read)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    loop {
        let count = reader.read(1024 * 1024, |entry, _| {
            if !args.check && written.is_ok() {
                let line = Line {
                    sequence: entry.sequence,
                    epoch: entry.epoch,
                    kind: format!("{:?}", entry.kind),
                    sender: entry.sender,
                    number: entry.number,
                    time_ms: entry.time_ms,
                    bytes: entry.payload.len(),
                };
                written = serde_json::to_writer(&mut out, &line).map_err(io::Error::from).and_then(|()| writeln!(out));
            }
            true
        });
        if count.map_err(read)? == 0 || written.is_err() {
            break;
        }
    }
    let end = if args.check { writeln!(out, "whole up to sequence {}", reader.last()) } else { Ok(()) };
    match written.and(end).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::writing("to standard output", &e)),
        _ => Ok(Exit::OK),
    }
}
