//! Colours, on terminals only.

use std::io::IsTerminal as _;

use clap::builder::styling::{AnsiColor, Style};

use crate::model::{Verdict, explain::Truth};

/// Paints text, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// Never paints: files, pipes, tests.
    pub const OFF: Self = Self { on: false };

    /// Paints when standard output is a terminal and `NO_COLOR` is not set.
    #[must_use]
    pub fn for_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        Self { on: !refused && !dumb && std::io::stdout().is_terminal() }
    }

    fn with(self, style: Style, text: &str) -> String {
        if self.on { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    fn colour(self, colour: AnsiColor, text: &str) -> String {
        self.with(Style::new().fg_color(Some(colour.into())), text)
    }

    /// Well.
    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.colour(AnsiColor::Green, text)
    }

    /// Worth a look.
    #[must_use]
    pub fn warn(self, text: &str) -> String {
        self.colour(AnsiColor::Yellow, text)
    }

    /// Bad.
    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.with(Style::new().bold().fg_color(Some(AnsiColor::Red.into())), text)
    }

    /// A heading.
    #[must_use]
    pub fn bold(self, text: &str) -> String {
        self.with(Style::new().bold(), text)
    }

    /// Of less interest.
    #[must_use]
    pub fn dim(self, text: &str) -> String {
        self.with(Style::new().dimmed(), text)
    }

    /// A verdict in its colour.
    #[must_use]
    pub fn verdict(self, verdict: Verdict, text: &str) -> String {
        match verdict {
            Verdict::Alive => self.good(text),
            Verdict::Dead => self.bad(text),
            Verdict::Suspect | Verdict::Gray => self.warn(text),
            Verdict::Unknown => self.dim(text),
        }
    }
}

/// The mark of a truth.
#[must_use]
pub const fn mark(truth: Truth) -> char {
    match truth {
        Truth::True => '✔',
        Truth::False => '✘',
        Truth::Unknown => '?',
    }
}
