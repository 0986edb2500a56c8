//! What the process leaves behind: exit codes, and errors that carry one.
//!
//! The codes are those of `sysexits.h`, as Pacemaker and others use them, so that scripts can tell a wrong
//! argument from an arbiter that does not answer. [`TABLE`] is the one list; the help, the man pages and the
//! tests are made from it.

use std::fmt;

use crate::model::{CommandError, command::CommandErrorCode};

/// How a verb ends well: with 0, or with a state that monitoring understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    /// All is well.
    pub const OK: Self = Self(0);
    /// An examination found something.
    pub const FOUND: Self = Self(1);
}

/// The codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Code {
    /// The command line is wrong.
    Usage = 64,
    /// What was named or given is wrong.
    Data = 65,
    /// Something needed is not there.
    Unavailable = 69,
    /// A fault of our own.
    Internal = 70,
    /// A file cannot be created.
    CannotCreate = 73,
    /// Reading or writing failed.
    Io = 74,
    /// Not now; later perhaps.
    Temporary = 75,
    /// Not permitted.
    NotPermitted = 77,
    /// The configuration is wrong.
    Config = 78,
    /// Guards stand against it.
    Refused = 107,
}

/// Every code with its meaning, for the help and the man pages.
pub const TABLE: &[(u8, &str)] = &[
    (0, "All is well."),
    (
        1,
        "Something was found: by `doctor`, `fence test`, a test of the file in `check`, or, with --strict, by `simulate`, \
         `backtest`, or among `doctor`'s warnings.",
    ),
    (Code::Usage as u8, "The command line is wrong, or a question could not be asked (use --yes)."),
    (Code::Data as u8, "There is no such cluster, member or incident, or what was given is wrong."),
    (Code::Unavailable as u8, "The arbiter does not answer, or a program that is needed is missing."),
    (Code::Internal as u8, "An internal error; please report it."),
    (Code::CannotCreate as u8, "A file cannot be created."),
    (Code::Io as u8, "Reading or writing failed; the arbiter's store among it."),
    (
        Code::Temporary as u8,
        "It makes no sense in the present state, is held, was aborted, or did not end in time; later perhaps.",
    ),
    (Code::NotPermitted as u8, "Not permitted: the token, the certificate or the user may not do this."),
    (Code::Config as u8, "The configuration file has mistakes (or, with --strict, warnings)."),
    (Code::Refused as u8, "Guards stand against it: `coroner why-not` names them."),
];

/// The table as text, indented for the help.
#[must_use]
pub fn table_text() -> String {
    use fmt::Write as _;
    let mut out = String::from("Exit codes:\n");
    for (code, text) in TABLE {
        let _ = writeln!(out, "  {code:>3}  {text}");
    }
    out.push_str("\n`status --nagios` exits with 0 (OK), 1 (WARNING), 2 (CRITICAL) or 3 (UNKNOWN) instead.\n");
    out
}

/// Why a verb failed: a code for scripts, words and the remedy for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    /// In words, with the remedy.
    pub text: String,
}

impl Failure {
    /// A failure, in words.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// Writing to standard output or a file failed.
    #[must_use]
    pub fn writing(what: &str, error: &std::io::Error) -> Self {
        Self::new(Code::Io, format!("Cannot write {what}: {error}."))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<CommandError> for Failure {
    fn from(error: CommandError) -> Self {
        use fmt::Write as _;
        let code = match error.code {
            CommandErrorCode::NotFound | CommandErrorCode::Invalid => Code::Data,
            CommandErrorCode::WrongState => Code::Temporary,
            CommandErrorCode::Blocked => Code::Refused,
            CommandErrorCode::Store => Code::Io,
        };
        let mut text = error.text;
        for (guard, reason) in &error.guards {
            let skip =
                if guard.may_be_skipped() { format!(" (--skip-guard {guard} passes it)") } else { String::new() };
            let _ = write!(text, "\n  {guard}: {reason}{skip}");
        }
        Self { code, text }
    }
}

/// The code that fits an HTTP status which is not a success.
#[must_use]
pub const fn code_of_status(status: u16) -> Code {
    match status {
        401 | 403 => Code::NotPermitted,
        408 | 409 | 425 | 429 | 503 | 504 => Code::Temporary,
        400..=499 => Code::Data,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::explain::Guard;

    #[test]
    fn every_code_is_documented_once() {
        let mut codes: Vec<u8> = TABLE.iter().map(|(code, _)| *code).collect();
        let listed = codes.clone();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes, listed, "sorted, and each once");
        for code in [64, 65, 69, 70, 73, 74, 75, 77, 78, 107] {
            assert!(codes.contains(&code), "{code}");
        }
    }

    #[test]
    fn refusals_keep_their_class_and_name_the_guards() {
        let mut error = CommandError::new(CommandErrorCode::Blocked, "Two guards stand against it.");
        error.guards = vec![(Guard::Cooldown, "4m left".into()), (Guard::NoFence, "no level works".into())];
        let failure = Failure::from(error);
        assert_eq!(failure.code, Code::Refused);
        assert!(failure.text.contains("cooldown: 4m left (--skip-guard cooldown passes it)"), "{failure}");
        assert!(failure.text.ends_with("no_fence: no level works"), "{failure}");
        assert_eq!(code_of_status(403), Code::NotPermitted);
        assert_eq!(code_of_status(404), Code::Data);
        assert_eq!(code_of_status(503), Code::Temporary);
        assert_eq!(code_of_status(500), Code::Internal);
    }
}
