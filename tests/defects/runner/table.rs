//! The table of who caught what: written, and read back, so that a run of a few defects brings only their rows up to date.

use std::collections::BTreeMap;

use super::{crates::Verdict, list::Defect};

/// What the test crates made of one defect, by crate, and the first test that noticed.
pub type Row = BTreeMap<String, String>;

/// The column of the first test that noticed.
pub const FIRST: &str = "first of them";

/// Which test crates noticed.
#[must_use]
pub fn row(verdicts: &[(String, Verdict)]) -> Row {
    let mut row: Row = verdicts.iter().map(|(name, verdict)| (name.clone(), verdict.cell())).collect();
    let first = verdicts.iter().find_map(|(name, verdict)| Some(format!("{name}: `{}`", verdict.first()?)));
    row.insert(FIRST.to_owned(), first.unwrap_or_else(|| "**nobody**".to_owned()));
    row
}

/// The rows of a table, by the names of their defects.
#[must_use]
pub fn read(text: &str) -> BTreeMap<String, Row> {
    let mut heads: Vec<String> = Vec::new();
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let Some(inner) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) else { continue };
        let cells: Vec<&str> = inner.split(" | ").map(str::trim).collect();
        if cells[0] == "defect" {
            heads = cells.iter().map(|cell| (*cell).to_owned()).collect();
        } else if let Some(name) = cells[0].strip_prefix('`').and_then(|name| name.strip_suffix('`')) {
            // The first two are the defect itself.
            let row = heads.iter().cloned().zip(cells.iter().map(|cell| (*cell).to_owned())).skip(2).collect();
            rows.insert(name.to_owned(), row);
        }
    }
    rows
}

/// The table of all defects of the list. What was not run with a crate is a dash.
#[must_use]
pub fn write(list: &[Defect], crates: &[String], rows: &BTreeMap<String, Row>) -> String {
    let none = Row::new();
    let of = |defect: &Defect| rows.get(&defect.name).unwrap_or(&none);
    let is_caught = |defect: &&Defect| of(defect).get(FIRST).is_some_and(|first| !first.contains("**nobody**"));
    let mut text = String::from(
        "# Who catches what\n\n\
         Made by `tests/defects/run`: each defect alone was put into the pure parts, and the test crates were run one by \
         one. The number is how many of a crate's tests failed; `·`: all passed; `time-out`: it did not end in time; \
         `died`: it ended without a verdict; `–`: not run, because none \
         of it needs what is broken, or, with `--first`, another crate had noticed. A row of dashes was not run since it was \
         listed. `unit` are the tests inside the library.\n\n",
    );
    text.push_str(&format!("{} of {} defects are caught.\n\n", list.iter().filter(is_caught).count(), list.len()));
    for name in crates {
        let of_crate = |defect: &&Defect| of(defect).get(name).is_some_and(|cell| cell != "·" && cell != "–");
        let alone =
            |defect: &&Defect| crates.iter().filter(|other| *other != name).all(|other| !caught(of(defect), other));
        let (by, only) = (list.iter().filter(of_crate).count(), list.iter().filter(of_crate).filter(alone).count());
        text.push_str(&format!("- `{name}` catches {by}, {only} of them alone\n"));
    }
    text.push_str(&format!("\n| defect | what is broken | {} | {FIRST} |\n", crates.join(" | ")));
    text.push_str(&format!("|---|---|{}---|\n", "---|".repeat(crates.len())));
    for defect in list {
        let row = of(defect);
        let cells: Vec<&str> = crates.iter().map(|name| row.get(name).map_or("–", String::as_str)).collect();
        let first = row.get(FIRST).map_or("–", String::as_str);
        text.push_str(&format!("| `{}` | {} | {} | {first} |\n", defect.name, defect.sentence, cells.join(" | ")));
    }
    text
}

fn caught(row: &Row, name: &str) -> bool {
    row.get(name).is_some_and(|cell| cell != "·" && cell != "–")
}
