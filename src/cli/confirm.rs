//! The question before what cannot be undone.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use super::exit::{Code, Failure};

/// `--yes`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Yes {
    /// Do not ask.
    #[arg(short, long)]
    pub(super) yes: bool,
}

/// Lets a person type the cluster's name before `what` is done. Without a terminal, `--yes` is demanded: a script
/// that did not mean it must not do it.
pub(super) fn confirm(yes: Yes, what: &str, cluster: &str) -> Result<(), Failure> {
    if yes.yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let text = format!("{what} needs a confirmation, and there is no terminal to ask on: add --yes.");
        return Err(Failure::new(Code::Usage, text));
    }
    let mut err = io::stderr().lock();
    write!(err, "{what}. Type the cluster's name ({cluster}) to go on: ")
        .and_then(|()| err.flush())
        .map_err(|e| Failure::writing("the question", &e))?;
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|e| Failure::new(Code::Io, format!("Cannot read the answer: {e}.")))?;
    if line.trim() == cluster {
        Ok(())
    } else {
        Err(Failure::new(Code::Usage, format!("`{}` is not `{cluster}`: nothing was done.", line.trim())))
    }
}
