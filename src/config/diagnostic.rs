//! Mistakes, each with its place: collected, sorted, and shown with the offending line.

use std::{fmt, fmt::Write as _};

use serde::Serialize;

/// Where something stands in the file. Lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The line; 0: the file as a whole.
    pub(super) line: u32,
    /// The first column.
    pub(super) column: u32,
    /// The column after the last one, on the same line.
    pub(super) end: u32,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is accepted, and probably does not say what was meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One mistake or warning, with its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file, as it was named.
    pub file: String,
    /// The line, from 1; 0 when it concerns the file as a whole.
    pub line: u32,
    /// The column, from 1, in characters.
    pub column: u32,
    /// The column after the last one that is meant, on the same line.
    pub end_column: u32,
    /// What is wrong. Never holds a resolved secret.
    pub message: String,
    /// What to do about it.
    pub suggestion: Option<String>,
    /// The line as it stands in the file, with secrets that were written in clear masked.
    pub snippet: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}: {}", self.file, self.severity, self.message)?;
        } else {
            let (Self { file, line, column, severity, message, .. }, margin) = (self, self.line.to_string().len());
            writeln!(f, "{file}:{line}:{column}: {severity}: {message}")?;
            let (shown, before) = window(&self.snippet, column.saturating_sub(1) as usize);
            let wide = (self.end_column.saturating_sub(*column) as usize).max(1);
            let wide = wide.min(shown.chars().count().saturating_sub(before).max(1));
            writeln!(f, "{:margin$} |", "")?;
            writeln!(f, "{line} | {shown}")?;
            write!(f, "{:margin$} | {:before$}{:^<wide$}", "", "", "")?;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(f, "\n{:margin$} = help: {suggestion}", "", margin = self.line.to_string().len())?;
        }
        Ok(())
    }
}

/// The part of a line worth showing, and how many characters of it stand before `column` (from 0).
fn window(line: &str, column: usize) -> (String, usize) {
    const WIDTH: usize = 140;
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let total = line.chars().count();
    if total <= WIDTH {
        return (line.chars().map(clean).collect(), column.min(total));
    }
    let from = column.saturating_sub(WIDTH / 2).min(total - WIDTH);
    let mut shown: String = line.chars().skip(from).take(WIDTH).map(clean).collect();
    if from + WIDTH < total {
        shown.push('…');
    }
    (shown, column.saturating_sub(from).min(WIDTH))
}

/// Everything that is wrong with a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mistakes {
    /// In the order of the file.
    pub list: Vec<Diagnostic>,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.list {
            writeln!(f, "{mistake}\n")?;
        }
        let file = self.list.first().map_or("the file", |m| m.file.as_str());
        match self.list.len() {
            1 => write!(f, "1 mistake in {file}"),
            n => write!(f, "{n} mistakes in {file}"),
        }
    }
}

impl std::error::Error for Mistakes {}

/// Collects what is found while a file is read.
#[derive(Debug)]
pub(super) struct Notes {
    file: String,
    lines: Vec<String>,
    /// What must not appear in any message, and what to say instead.
    secrets: Vec<(String, String)>,
    list: Vec<Diagnostic>,
}

impl Notes {
    /// Nothing found yet in that text.
    pub(super) fn new(file: &str, text: &str) -> Self {
        let lines = text.lines().map(ToOwned::to_owned).collect();
        Self { file: file.into(), lines, secrets: Vec::new(), list: Vec::new() }
    }

    /// From now on, `value` is shown as `raw`.
    pub(super) fn hide(&mut self, value: &str, raw: &str) {
        if value.chars().count() >= 3 {
            self.secrets.push((value.into(), raw.into()));
        }
    }

    /// From now on, that place is masked when its line is shown.
    pub(super) fn mask(&mut self, place: Place) {
        if let Some(line) = (place.line as usize).checked_sub(1).and_then(|i| self.lines.get_mut(i)) {
            let masked = |(i, c)| if (place.column..place.end).contains(&(i as u32 + 1)) { '*' } else { c };
            *line = line.chars().enumerate().map(masked).collect();
        }
    }

    /// A mistake.
    pub(super) fn error(&mut self, place: Place, message: impl Into<String>) {
        self.push(Severity::Error, place, message.into(), None);
    }

    /// A mistake with a way out.
    pub(super) fn error_help(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.push(Severity::Error, place, message.into(), Some(help.into()));
    }

    /// A warning.
    pub(super) fn warning(&mut self, place: Place, message: impl Into<String>) {
        self.push(Severity::Warning, place, message.into(), None);
    }

    /// Anything.
    pub(super) fn push(&mut self, severity: Severity, place: Place, message: String, suggestion: Option<String>) {
        let snippet = (place.line as usize).checked_sub(1).and_then(|i| self.lines.get(i)).cloned();
        let clean = |text: String| self.secrets.iter().fold(text, |text, (value, raw)| text.replace(value, raw));
        let found = Diagnostic {
            severity,
            file: self.file.clone(),
            line: place.line,
            column: place.column,
            end_column: place.end,
            message: clean(message),
            suggestion: suggestion.map(clean),
            snippet: snippet.unwrap_or_default(),
        };
        if !self.list.contains(&found) {
            self.list.push(found);
        }
    }

    /// Whether the file is refused.
    pub(super) fn is_refused(&self) -> bool {
        self.list.iter().any(|d| d.severity == Severity::Error)
    }

    /// What was found of that severity, in the order of the file. Snippets are taken anew, because a secret in
    /// clear may have been recognised after the first mistake on its line.
    pub(super) fn take(&self, severity: Severity) -> Vec<Diagnostic> {
        let mut list: Vec<_> = self.list.iter().filter(|d| d.severity == severity).cloned().collect();
        for found in &mut list {
            if let Some(line) = (found.line as usize).checked_sub(1).and_then(|i| self.lines.get(i)) {
                found.snippet.clone_from(line);
            }
        }
        list.sort_by_key(|d| (d.line, d.column));
        list
    }
}

/// The one of `known` that was probably meant. Of several that are equally near, none.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let mut near: Vec<(f64, &str)> = known
        .into_iter()
        .map(|k| (strsim::jaro_winkler(&lower, &k.to_lowercase()), strsim::damerau_levenshtein(&lower, k), k))
        .filter(|(likeness, distance, k)| *likeness > 0.85 || *distance <= 1 + k.chars().count() / 5)
        .map(|(likeness, _, k)| (likeness, k))
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    match near[..] {
        [(best, _), (second, _), ..] if best - second < 1e-9 => None,
        _ => near.first().map(|(_, k)| *k),
    }
}

/// "did you mean …?", or the list of what there is.
pub(super) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    nearest(word, known.clone()).map_or_else(|| one_of(known), |k| format!("did you mean `{k}`?"))
}

/// "there is: `a`, `b`, `c`".
pub(super) fn one_of<'a>(known: impl IntoIterator<Item = &'a str>) -> String {
    let mut out = String::new();
    let mut left_off = 0;
    for (i, k) in known.into_iter().enumerate() {
        match i {
            0..24 => {
                let _ = write!(out, "{}`{k}`", if i == 0 { "there is: " } else { ", " });
            }
            _ => left_off += 1,
        }
    }
    match (out.is_empty(), left_off) {
        (true, _) => "there is none".into(),
        (_, 0) => out,
        (_, n) => format!("{out}, and {n} more"),
    }
}

/// Words of a later release, and what to say about them.
pub(super) fn of_a_later_release(word: &str) -> Option<&'static str> {
    Some(match word {
        "rewind" | "rebuild" => "comes with a later release: write `follow`, `ask` or `never`",
        "sql" => "comes with a later release",
        _ => return None,
    })
}

/// Where a word belongs that stands in the wrong place.
pub(super) fn belongs_elsewhere(word: &str) -> Option<&'static str> {
    Some(match word {
        "agent" | "agents" => {
            "where an agent is reached stands under `mesh.parties`, how it guards under `agent` of the cluster"
        }
        "gate" => "a gate stands under `agent` of the cluster, closing it under `failover.fence`",
        "kill" => "it stands under `failover.fence`",
        "lease" | "preserve" => "it stands under `failover`",
        "observe" => "it stands in the cluster, beside `agent`",
        "parties" | "real_time" => "it stands under `mesh`",
        "unsafe_colocated" => "it stands under `arbiter`",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_word_and_nonsense_does_not() {
        let known = ["heartbeat", "arrivals", "ping", "link"];
        assert_eq!(nearest("hartbeat", known), Some("heartbeat"));
        assert_eq!(nearest("pnig", known), Some("ping"));
        assert_eq!(nearest("Link", known), Some("link"));
        assert_eq!(nearest("zebra", known), None);
        assert_eq!(did_you_mean("zebra", ["a", "b"]), "there is: `a`, `b`");
    }

    #[test]
    fn the_caret_stands_under_the_place() {
        let mut notes = Notes::new("f.yaml", "a: 1\nb:\tcé: 2\n");
        notes.error_help(Place { line: 2, column: 4, end: 6 }, "no", "yes");
        assert_eq!(
            notes.take(Severity::Error)[0].to_string(),
            "f.yaml:2:4: error: no\n  |\n2 | b: cé: 2\n  |    ^^\n  = help: yes"
        );
    }

    #[test]
    fn what_is_hidden_appears_nowhere() {
        let mut notes = Notes::new("f.yaml", "password: hunter2\n");
        notes.error(Place { line: 1, column: 1, end: 9 }, "bad hunter2");
        notes.hide("s3cret", "${env:X}");
        notes.error(Place { line: 1, column: 1, end: 9 }, "bad s3cret");
        notes.mask(Place { line: 1, column: 11, end: 18 });
        let all: Vec<_> = notes.take(Severity::Error);
        assert!(all.iter().all(|d| d.snippet == "password: *******"), "{all:?}");
        assert!(all[1].message.contains("${env:X}"));
    }
}
