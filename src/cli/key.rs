//! `coroner key`.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    Context,
    exit::{Code, Exit, Failure},
};
use crate::mesh::keys::PrivateKey;

/// The key with which an arbiter or an agent signs: make one on each host, or show the public line of one.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make a private key in a new file that only its owner reads, and print the public line for `mesh.parties`.
    New {
        /// The file; it must not exist.
        #[arg(default_value = DEFAULT)]
        file: PathBuf,
    },
    /// Print the public line of the private key in a file.
    Show {
        /// The file.
        #[arg(default_value = DEFAULT)]
        file: PathBuf,
    },
}

const DEFAULT: &str = "/etc/coroner/mesh.key";

/// What is printed as JSON.
#[derive(Serialize)]
struct Printed {
    /// `ed25519:…`, for `mesh.parties`.
    public_key: String,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let key = match &args.what {
        What::New { file } => new(file)?,
        What::Show { file } => show(file)?,
    };
    let printed = Printed { public_key: key.public().to_string() };
    context.emit(&printed, |_| format!("{}\n", printed.public_key))
}

fn new(file: &Path) -> Result<PrivateKey, Failure> {
    let key = PrivateKey::generate().map_err(|why| Failure::new(Code::Internal, format!("No key was made: {why}.")))?;
    let fail = |why: &io::Error| {
        let text = if why.kind() == io::ErrorKind::AlreadyExists {
            format!(
                "{} exists already and was left as it is: with another key, its party would be a stranger to all others. \
                 `coroner key show {0}` prints its public line.",
                file.display()
            )
        } else {
            format!("{} cannot be written: {why}.", file.display())
        };
        Failure::new(Code::CannotCreate, text)
    };
    // Created for its owner alone from the start: there is no moment in which others could read it.
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(|why| fail(&why))?;
    let written = writeln!(out, "{}", key.reveal()).and_then(|()| out.sync_all());
    written.map_err(|why| {
        // Half a key is of no use, and would stand in the way of the next try.
        let _ = std::fs::remove_file(file);
        fail(&why)
    })?;
    Ok(key)
}

fn show(file: &Path) -> Result<PrivateKey, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|why| Failure::new(Code::Io, format!("{} cannot be read: {why}.", file.display())))?;
    PrivateKey::parse(&text)
        .map_err(|why| Failure::new(Code::Data, format!("{} holds no private key: {why}.", file.display())))
}
