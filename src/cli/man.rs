//! `coroner man`.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    command,
    exit::{Code, Exit, Failure, TABLE},
    print,
};

/// Print `coroner(1)`, or write the pages of all verbs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write one page per verb into this directory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let mut root = command().after_long_help(None::<&str>).after_help(None::<&str>);
    root.build();
    match &args.dir {
        None => print(&String::from_utf8_lossy(&page(&root, "coroner"))),
        Some(dir) => {
            std::fs::create_dir_all(dir)
                .map_err(|e| Failure::new(Code::CannotCreate, format!("Cannot create {}: {e}.", dir.display())))?;
            let mut written = 0;
            write(dir, &root, "coroner", &mut written)?;
            print(&format!("Wrote {written} pages to {}.\n", dir.display()))
        }
    }
}

fn write(dir: &Path, command: &clap::Command, name: &str, written: &mut u32) -> Result<(), Failure> {
    let path = dir.join(format!("{name}.1"));
    std::fs::write(&path, page(command, name))
        .map_err(|e| Failure::new(Code::CannotCreate, format!("Cannot write {}: {e}.", path.display())))?;
    *written += 1;
    for sub in command.get_subcommands().filter(|s| !s.is_hide_set() && s.get_name() != "help") {
        write(dir, sub, &format!("{name}-{}", sub.get_name()), written)?;
    }
    Ok(())
}

fn page(command: &clap::Command, name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let man = clap_mangen::Man::new(command.clone()).title(name.to_uppercase()).manual("Coroner");
    // Writing to memory does not fail.
    let _ = man.render(&mut out).and_then(|()| exit_codes(&mut out));
    out
}

fn exit_codes(out: &mut dyn io::Write) -> io::Result<()> {
    writeln!(out, ".SH \"EXIT CODES\"")?;
    for (code, text) in TABLE {
        writeln!(out, ".TP\n\\fB{code}\\fR\n{}", text.replace('-', "\\-"))?;
    }
    writeln!(out, ".PP\n\\fBcoroner status \\-\\-nagios\\fR exits with 0, 1, 2 or 3 as a monitoring plugin does.")
}
