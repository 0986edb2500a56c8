//! The list of defects: read, checked against the tree, applied to a text.
//!
//! ```text
//! # name-of-the-defect
//! What is broken, and what it would do at night: one sentence, over as many lines as it needs.
//! in src/engine/judge.rs
//! -a line that is there, whole, with its indentation behind the sign
//! +a line that stands in its place
//!  a line that stays, to make the place unique
//! ```
//!
//! A blank line ends a defect. What stands before the first `#` of a file says what the file is about.

use std::{fs, path::Path};

/// One deliberately broken variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// Lower case, with hyphens.
    pub name: String,
    /// The file of the list in which it stands.
    pub part: String,
    /// What is broken, and what it would do at night.
    pub sentence: String,
    /// The file that is broken, from the root of the repository.
    pub file: String,
    /// The lines as they are.
    pub was: Vec<String>,
    /// The lines as they become.
    pub becomes: Vec<String>,
}

/// All defects, in the order of their files and places.
///
/// # Errors
/// A file cannot be read, or says something else than a list.
pub fn read(folder: &Path) -> Result<Vec<Defect>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "txt"));
    files.sort();
    let mut all: Vec<Defect> = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let part = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        all.extend(parse(&part, &text)?);
    }
    for (at, defect) in all.iter().enumerate() {
        if let Some(other) = all[..at].iter().find(|other| other.name == defect.name) {
            return Err(format!(
                "{}: in {}.txt and in {}.txt; a name is one defect's",
                defect.name, other.part, defect.part
            ));
        }
    }
    Ok(all)
}

/// The defects of one file of the list.
///
/// # Errors
/// A block is not one, with its line.
pub fn parse(part: &str, text: &str) -> Result<Vec<Defect>, String> {
    let mut all: Vec<Defect> = Vec::new();
    let mut is_open = false;
    for (number, line) in text.lines().enumerate() {
        let at = |what: &str| format!("{part}.txt:{}: {what}", number + 1);
        if let Some(name) = line.strip_prefix("# ") {
            let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if name.is_empty() || !name.chars().all(is_plain) {
                return Err(at("a name is lower case, with hyphens"));
            }
            let (name, part) = (name.to_owned(), part.to_owned());
            let empty = String::new();
            all.push(Defect { name, part, sentence: empty.clone(), file: empty, was: Vec::new(), becomes: Vec::new() });
            is_open = true;
            continue;
        }
        // What stands before the first name is for people.
        let Some(defect) = all.last_mut() else { continue };
        if line.trim().is_empty() {
            is_open = false;
            continue;
        }
        if !is_open {
            return Err(at("a blank line ended the defect: a new one begins with `# name`"));
        }
        if defect.file.is_empty() {
            if let Some(file) = line.strip_prefix("in ") {
                defect.file = file.trim().to_owned();
            } else {
                if !defect.sentence.is_empty() {
                    defect.sentence.push(' ');
                }
                defect.sentence.push_str(line.trim());
            }
            continue;
        }
        let (sign, rest) = line.split_at_checked(1).unwrap_or((line, ""));
        if sign == "-" || sign == " " {
            defect.was.push(rest.to_owned());
        }
        if sign == "+" || sign == " " {
            defect.becomes.push(rest.to_owned());
        }
        if !["-", "+", " "].contains(&sign) {
            return Err(at("behind the file come lines that begin with `-`, `+` or a space"));
        }
    }
    for defect in &all {
        let complain = |what: &str| Err(format!("{part}.txt: {}: {what}", defect.name));
        if !defect.sentence.ends_with('.') {
            return complain("a sentence says what is broken and what it would do, and ends");
        }
        if defect.file.is_empty() {
            return complain("`in FILE` is missing");
        }
        if defect.was.is_empty() || defect.was == defect.becomes {
            return complain("nothing changes: at least one line begins with `-`");
        }
    }
    Ok(all)
}

impl Defect {
    /// The text with the defect in it.
    ///
    /// # Errors
    /// The lines are not there exactly once.
    pub fn apply(&self, text: &str) -> Result<String, String> {
        let lines: Vec<&str> = text.lines().collect();
        // The list was read by `parse`: there is at least one line, so that no window is empty.
        let windows = lines.windows(self.was.len().max(1)).enumerate();
        let places: Vec<usize> =
            windows.filter(|(_, window)| window.iter().eq(self.was.iter())).map(|(at, _)| at).collect();
        let [at] = places.as_slice() else {
            return Err(format!(
                "{}: its lines are {} times in {}, and must be there exactly once: bring {}.txt up to the file",
                self.name,
                places.len(),
                self.file,
                self.part
            ));
        };
        let before = lines[..*at].iter().copied();
        let after = lines[at + self.was.len()..].iter().copied();
        let all: Vec<&str> = before.chain(self.becomes.iter().map(String::as_str)).chain(after).collect();
        Ok(all.join("\n") + "\n")
    }

    /// The same to a file below `root`.
    ///
    /// # Errors
    /// The file cannot be read, or the lines are not there exactly once.
    pub fn apply_below(&self, root: &Path) -> Result<String, String> {
        let path = root.join(&self.file);
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {}: {e}", self.name, self.file))?;
        self.apply(&text)
    }
}
