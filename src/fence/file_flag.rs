//! A property in a file, and a reload.
//!
//! When it lies: the broker reads the file when it likes. So this is a claim, to be read back by a forbidden write.

use std::{
    borrow::Cow,
    io::ErrorKind,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Fence;
use crate::{
    model::{ActError, Done, FenceHealth, FenceReport, Order, Proof, Target},
    sys::{
        command::{Ended, Output, Run, find_program},
        file, hook, properties,
    },
};

/// Sets a line in a properties-like file, keeping everything else, then runs a reload. A key that is not there is
/// added at the end; one that stands there several times is set everywhere. What the file held before is kept beside
/// it, as `<file>.before-fence`, until the fence is lifted.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FileFlag {
    /// The file. `{member}` is put in.
    pub path: String,
    /// The key: `readonly`.
    pub key: String,
    /// Its value while fenced: `true`.
    pub fenced: String,
    /// Its value when the fence is lifted: `false`. Without it, the former line is put back.
    pub unfenced: Option<String>,
    /// How the file is read: `lines`, or `java_properties` with its escapes and continued lines. Default `lines`.
    pub format: Format,
    /// The flag belongs to the member's role, under the cluster's `agent.fences`: the agent sets it before the member is
    /// started or made a standby, keeps it when the fence is lifted, and writes `unfenced` when the member is promoted.
    /// So whatever starts an old primary starts a standby. Default false.
    pub follows_role: bool,
    /// What stands between key and value. Default `=`; blanks around it are kept as they are.
    pub separator: Option<String>,
    /// The program that makes the broker read the file again; no shell. `{member}` and the like are put in, and its
    /// environment is that of the `exec` fence.
    pub reload: Vec<String>,
}

/// How a file with properties is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One line for each, nothing escaped.
    #[default]
    Lines,
    /// As Java's `Properties` reads them.
    JavaProperties,
}

impl FileFlag {
    pub(super) fn build(&self) -> Result<Box<dyn Fence>, String> {
        for (name, value) in [("path", &self.path), ("key", &self.key), ("fenced", &self.fenced)] {
            if value.is_empty() {
                return Err(format!("`{name}` is missing"));
            }
        }
        let texts = [Some(&self.key), Some(&self.fenced), self.unfenced.as_ref(), self.separator.as_ref()];
        if texts.into_iter().flatten().any(|text| text.contains(['\n', '\r'])) {
            return Err("a property is one line".into());
        }
        if self.unfenced.as_ref() == Some(&self.fenced) {
            return Err("`fenced` and `unfenced` are the same".into());
        }
        if self.follows_role && self.unfenced.is_none() {
            return Err("`follows_role` needs `unfenced`: what the file says of a primary".into());
        }
        let separator = self.separator.clone().filter(|s| !s.is_empty()).unwrap_or_else(|| "=".into());
        Ok(Box::new(Method { config: self.clone(), separator }))
    }
}

struct Method {
    config: FileFlag,
    separator: String,
}

/// A part of the file that sets the key: all of it, where the value stands, and the value.
struct Property<'a> {
    whole: Range<usize>,
    value_at: Range<usize>,
    value: Cow<'a, [u8]>,
}

impl Method {
    fn path(&self, target: &Target) -> PathBuf {
        PathBuf::from(target.expand(&self.config.path))
    }

    /// The parts of the file that set the key, in their order.
    fn properties<'a>(&self, content: &'a [u8]) -> Vec<Property<'a>> {
        match self.config.format {
            Format::Lines => {
                let mut found = Vec::new();
                let mut at = 0;
                for line in lines(content) {
                    let whole = at..at + line.len();
                    at = whole.end;
                    if let Some(value_at) = self.value_in(line) {
                        let value_at = whole.start + value_at.start..whole.start + value_at.end;
                        found.push(Property { whole, value: content[value_at.clone()].into(), value_at });
                    }
                }
                found
            }
            Format::JavaProperties => properties::entries(content)
                .into_iter()
                .filter(|entry| entry.key == self.config.key)
                .map(|entry| Property {
                    whole: entry.whole,
                    value_at: entry.value_at,
                    value: entry.value.into_bytes().into(),
                })
                .collect(),
        }
    }

    /// Where the value stands in a line, if it sets the key. A comment never does, because it does not begin with the key.
    fn value_in(&self, line: &[u8]) -> Option<Range<usize>> {
        let blank = |b: &u8| *b == b' ' || *b == b'\t';
        let start = line.iter().take_while(|b| blank(b)).count();
        let rest = line[start..].strip_prefix(self.config.key.as_bytes())?;
        let separator = self.separator.trim();
        let gap = rest.iter().take_while(|b| blank(b)).count();
        let rest = &rest[gap..];
        let rest = if separator.is_empty() {
            // The separator is a blank: without one, this is a longer key.
            if gap == 0 && !rest.trim_ascii().is_empty() {
                return None;
            }
            rest
        } else {
            rest.strip_prefix(separator.as_bytes())?
        };
        let rest = &rest[rest.iter().take_while(|b| blank(b)).count()..];
        let from = line.len() - rest.len();
        Some(from..from + rest.trim_ascii_end().len())
    }

    fn has(&self, content: &[u8], value: &str) -> bool {
        let found = self.properties(content);
        !found.is_empty() && found.iter().all(|p| *p.value == *value.as_bytes())
    }

    /// The content with the key set, everything else as it was.
    fn set(&self, content: &[u8], value: &str) -> Vec<u8> {
        let found = self.properties(content);
        let written = match self.config.format {
            Format::Lines => value.as_bytes().to_vec(),
            Format::JavaProperties => properties::escaped(value),
        };
        let mut out = Vec::with_capacity(content.len() + 64);
        let mut at = 0;
        for property in &found {
            out.extend_from_slice(&content[at..property.value_at.start]);
            out.extend_from_slice(&written);
            at = property.value_at.end;
        }
        out.extend_from_slice(&content[at..]);
        if found.is_empty() {
            if !out.is_empty() && !out.ends_with(b"\n") {
                out.push(b'\n');
            }
            out.extend(match self.config.format {
                Format::Lines => [self.config.key.as_bytes(), self.separator.as_bytes(), value.as_bytes()].concat(),
                Format::JavaProperties => properties::line(&self.config.key, &self.separator, value),
            });
            out.push(b'\n');
        }
        out
    }

    /// The content with the key's lines as they were in `before`; lines that were not there go.
    fn restore(&self, content: &[u8], before: &[u8]) -> Vec<u8> {
        let former = self.properties(before);
        let mut former = former.iter().map(|p| &before[p.whole.clone()]);
        let mut out = Vec::with_capacity(content.len());
        let mut at = 0;
        for property in self.properties(content) {
            out.extend_from_slice(&content[at..property.whole.start]);
            out.extend_from_slice(former.next().unwrap_or_default());
            at = property.whole.end;
        }
        out.extend_from_slice(&content[at..]);
        former.for_each(|line| out.extend_from_slice(line));
        out
    }

    async fn reload(&self, action: &str, order: &Order, deadline: Duration) -> Option<Output> {
        if self.config.reload.is_empty() {
            return None;
        }
        let words = self.config.reload.iter().map(|word| order.target.expand(word));
        let environment = hook::environment(action, order, &Default::default());
        Some(Run::new(words, deadline).envs(environment).output().await)
    }

    /// Writes the flag; says what was done. The former content is safe beside the file before the file changes.
    fn write_fenced(&self, path: &Path) -> Result<String, String> {
        let content = read(path)?;
        if self.has(&content, &self.config.fenced) {
            return Ok(format!("{} already says so", path.display()));
        }
        let backup = backup(path);
        let told = |what: &Path, e| format!("{} cannot be written: {e}", what.display());
        file::replace_like(&backup, path, &content).map_err(|e| told(&backup, e))?;
        file::replace(path, &self.set(&content, &self.config.fenced)).map_err(|e| told(path, e))?;
        Ok(format!("set in {}; the former content is in {}", path.display(), backup.display()))
    }

    fn write_unfenced(&self, path: &Path) -> Result<String, String> {
        let content = read(path)?;
        if !self.has(&content, &self.config.fenced) {
            return Ok(format!("{} does not say so any more", path.display()));
        }
        let backup = backup(path);
        let new = match (&self.config.unfenced, std::fs::read(&backup)) {
            (Some(value), _) => self.set(&content, value),
            (None, Ok(before)) => self.restore(&content, &before),
            (None, Err(e)) => {
                return Err(format!("the former line is not known: {} cannot be read: {e}", backup.display()));
            }
        };
        file::replace(path, &new).map_err(|e| format!("{} cannot be written: {e}", path.display()))?;
        // A stale one would do harm the next time, but only where the file had been fenced by somebody else.
        match std::fs::remove_file(&backup) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Ok(format!("put back in {}; {} cannot be removed: {e}", path.display(), backup.display()))
            }
            _ => Ok(format!("put back in {}", path.display())),
        }
    }
}

fn lines(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content.split_inclusive(|b| *b == b'\n')
}

fn backup(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".before-fence");
    PathBuf::from(name)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))
}

#[async_trait]
impl Fence for Method {
    fn label(&self) -> String {
        format!("file_flag {}", self.config.path)
    }

    fn best_proof(&self) -> Proof {
        Proof::Claim
    }

    async fn check(&self, target: &Target, _deadline: Duration) -> FenceHealth {
        use rustix::fs::{Access, access};
        let health = |usable, detail| FenceHealth { usable: Some(usable), detail };
        let path = self.path(target);
        if let Err(e) = read(&path) {
            return health(false, e);
        }
        let real = std::fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        for directory in [path.parent(), real.parent()].into_iter().flatten() {
            let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            if access(directory, Access::WRITE_OK | Access::EXEC_OK).is_err() {
                return health(false, format!("no file can be put into {}", directory.display()));
            }
        }
        match self.config.reload.first().map(|program| find_program(&target.expand(program))) {
            Some(Err(e)) => health(false, e),
            Some(Ok(_)) => health(true, format!("{} can be written and the reload program is there", path.display())),
            None => health(true, format!("{} can be written; there is no reload program", path.display())),
        }
    }

    async fn fence(&self, order: &Order, deadline: Duration) -> FenceReport {
        let path = self.path(&order.target);
        let what = format!("`{}{}{}`", self.config.key, self.separator, self.config.fenced);
        let written = match self.write_fenced(&path) {
            Ok(written) => written,
            Err(e) => return FenceReport::refuted(format!("nothing was done: {e}")),
        };
        // Even if the line stood there already: nobody knows whether the broker was told.
        let reload = self.reload("fence", order, deadline).await;
        if !read(&path).is_ok_and(|content| self.has(&content, &self.config.fenced)) {
            return FenceReport::unknown(format!("{what}: {written}, but somebody else has changed the file since"));
        }
        match reload {
            None => FenceReport::confirmed(Proof::Claim, format!("{what}: {written}; there is no reload program")),
            Some(output) => {
                let said = format!("{what}: {written}; the reload program {}", output.describe());
                if output.is_success() {
                    FenceReport::confirmed(Proof::Claim, said)
                } else {
                    FenceReport::unknown(said)
                }
            }
        }
    }

    async fn unfence(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        if self.config.follows_role {
            return Ok(Done::new("kept: it is a standby now, and its file says so until it is promoted"));
        }
        self.lift(order, deadline).await
    }

    fn follows_role(&self) -> bool {
        self.config.follows_role
    }

    async fn become_primary(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        if self.config.follows_role { self.lift(order, deadline).await } else { Ok(Done::default()) }
    }
}

impl Method {
    async fn lift(&self, order: &Order, deadline: Duration) -> Result<Done, ActError> {
        let attempted = format!("lift {} on {}", Fence::label(self), order.target.member);
        let written =
            self.write_unfenced(&self.path(&order.target)).map_err(|e| ActError::nothing_done(attempted.clone(), e))?;
        match self.reload("unfence", order, deadline).await {
            None => Ok(Done::new(written)),
            Some(output) if output.is_success() => Ok(Done::new(format!("{written}; the reload program ran"))),
            Some(Output { ended: Ended::NotStarted(why), .. }) => Err(ActError::uncertain(
                attempted,
                format!("{written}; the reload program could not be started: {why}"),
            )),
            Some(output) => {
                Err(ActError::uncertain(attempted, format!("{written}; the reload program {}", output.describe())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(key: &str, separator: &str) -> Method {
        let config = FileFlag {
            path: "/x".into(),
            key: key.into(),
            fenced: "yes".into(),
            separator: Some(separator.into()),
            ..FileFlag::default()
        };
        Method { config, separator: separator.into() }
    }

    #[test]
    fn everything_but_the_value_is_kept() {
        let m = method("readonly", "=");
        let before = b"# readonly=no\r\n  readonly =  no \r\nreadonly.x=no\nother=1";
        let fenced = m.set(before, "yes");
        assert_eq!(String::from_utf8_lossy(&fenced), "# readonly=no\r\n  readonly =  yes \r\nreadonly.x=no\nother=1");
        assert!(m.has(&fenced, "yes") && !m.has(before, "yes"));
        assert_eq!(m.restore(&fenced, before), before);
    }

    #[test]
    fn a_missing_key_is_added_and_goes_again() {
        let m = method("readonly", "=");
        let fenced = m.set(b"a=1\nb=2", "yes");
        assert_eq!(String::from_utf8_lossy(&fenced), "a=1\nb=2\nreadonly=yes\n");
        assert_eq!(m.restore(&fenced, b"a=1\nb=2"), b"a=1\nb=2\n");
        assert_eq!(m.set(b"", "yes"), b"readonly=yes\n");
    }

    #[test]
    fn a_blank_may_separate() {
        let m = method("min-replicas-to-write", " ");
        assert_eq!(m.set(b"min-replicas-to-write 0\n", "yes"), b"min-replicas-to-write yes\n");
        let found = m.properties(b"min-replicas-to-write-x 0\nmin-replicas-to-write\t3\n");
        assert_eq!(found.iter().map(|p| &*p.value).collect::<Vec<_>>(), [b"3"]);
    }

    #[test]
    fn a_java_file_keeps_its_order_its_comments_and_its_ways() {
        let mut m = method("read-only", "=");
        m.config.format = Format::JavaProperties;
        let before = b"# read-only=x \\\nworkers: a,\\\n  b\r\n! kept\nread\\-only \t: fal\\\n   se\nlast=1";
        let fenced = m.set(before, "yes");
        assert_eq!(
            String::from_utf8_lossy(&fenced),
            "# read-only=x \\\nworkers: a,\\\n  b\r\n! kept\nread\\-only \t: yes\nlast=1"
        );
        assert!(m.has(&fenced, "yes") && m.has(before, "false"));
        assert_eq!(m.restore(&fenced, before), before);
        // A line that ends in a backslash would swallow what is put behind it.
        assert_eq!(m.set(b"a=1", "yes"), b"a=1\nread-only=yes\n");
    }

    #[test]
    fn a_key_that_stands_there_twice_is_set_twice() {
        let m = method("a", "=");
        assert_eq!(m.set(b"a=1\na=2\n", "yes"), b"a=yes\na=yes\n");
        assert_eq!(m.restore(b"a=yes\na=yes\n", b"a=1\na=2\n"), b"a=1\na=2\n");
        assert!(!m.has(b"a=yes\na=2\n", "yes"));
    }
}
