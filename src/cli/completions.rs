//! `coroner completions`.

use clap_complete::Shell;

use super::{
    command,
    exit::{Exit, Failure},
    print,
};

/// Print a completion script.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell.
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "coroner", &mut script);
    print(&String::from_utf8_lossy(&script))
}
