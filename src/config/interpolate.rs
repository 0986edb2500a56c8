//! Secrets: `${env:NAME}`, `${file:PATH}`, `${credential:NAME}`, put into scalars after parsing.
//!
//! What was put in never appears in a message: messages show the `${…}` as it stands in the file.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use super::{
    diagnostic::{Notes, did_you_mean},
    yaml::{Id, Tree, Value},
};

/// What a file may draw from its surroundings. Tests give their own, so that they are pure.
pub trait Environment {
    /// An environment variable.
    fn var(&self, name: &str) -> Option<String>;
    /// The text of a file.
    ///
    /// # Errors
    /// Why it cannot be read, without its path.
    fn read(&self, path: &Path) -> Result<String, String>;
    /// systemd's directory of credentials.
    fn credentials_directory(&self) -> Option<PathBuf>;
    /// Which process reads the file; what only the other one needs may be missing here.
    fn reader(&self) -> Reader {
        Reader::Arbiter
    }
}

/// Which process reads the file. One file serves every host, and no host holds the secrets of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// The arbiter, or a person who checks the file as the arbiter will read it.
    Arbiter,
    /// An agent.
    Agent,
}

impl Reader {
    /// Whether this process can do without a secret at that path of keys.
    fn can_do_without(self, path: &[&str]) -> bool {
        match (self, path) {
            // Whoever takes part in the mesh says so at its start; commands and checks need no key.
            (_, ["mesh", "key"]) => true,
            (Self::Arbiter, ["clusters", _, "agent" | "observe", ..]) => true,
            (Self::Agent, ["mesh", ..] | ["clusters", _, "agent" | "observe" | "broker", ..]) => false,
            (Self::Arbiter, _) => false,
            (Self::Agent, _) => true,
        }
    }
}

/// This process's own surroundings.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        std::fs::read_to_string(path).map_err(|e| e.to_string())
    }

    fn credentials_directory(&self) -> Option<PathBuf> {
        std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
    }
}

/// The surroundings of an agent: what only the arbiter needs may be missing.
#[derive(Clone, Copy, Debug, Default)]
pub struct AgentEnvironment;

impl Environment for AgentEnvironment {
    fn var(&self, name: &str) -> Option<String> {
        ProcessEnvironment.var(name)
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        ProcessEnvironment.read(path)
    }

    fn credentials_directory(&self) -> Option<PathBuf> {
        ProcessEnvironment.credentials_directory()
    }

    fn reader(&self) -> Reader {
        Reader::Agent
    }
}

/// Surroundings in which every secret is there and none is true: for looking at a file on a machine that does not
/// have them.
#[derive(Clone, Copy, Debug, Default)]
pub struct WithoutSecrets;

impl Environment for WithoutSecrets {
    // Long enough for every check of length, and different for different names.
    fn var(&self, name: &str) -> Option<String> {
        Some(format!("stand-in-for-the-variable-{name}"))
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        // It may stand in a URL, where a slash would end the host.
        let fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let name = path.display().to_string();
        let text: String = name
            .bytes()
            .map(|byte| if fit(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect();
        Ok(format!("stand-in-for-the-file-{text}"))
    }

    fn credentials_directory(&self) -> Option<PathBuf> {
        Some(PathBuf::new())
    }
}

/// Puts in what every scalar of the tree asks for. `directory`: where the configuration file lies.
pub(super) fn interpolate(tree: &mut Tree, directory: &Path, env: &dyn Environment, notes: &mut Notes) {
    let keys: HashSet<_> =
        tree.ids().flat_map(|id| tree.entries(id).iter().map(|(k, _)| *k).collect::<Vec<_>>()).collect();
    let optional = optional(tree, env.reader());
    for id in tree.ids() {
        let node = tree.node(id);
        if !node.text.contains("${") || matches!(node.value, Value::Seq(_) | Value::Map(_)) {
            continue;
        }
        if keys.contains(&id) {
            notes.error(node.place, "nothing is put into a key: `${…}` works in values only");
            continue;
        }
        let (place, raw) = (node.place, node.text.clone());
        match expand(&raw, directory, env) {
            Ok((text, secrets)) => {
                for (value, shown) in &secrets {
                    notes.hide(value, shown);
                }
                let node = tree.node_mut(id);
                node.text = text;
                node.value = Value::Str;
                // A mere `$${` is no secret.
                node.raw = (!secrets.is_empty()).then_some(raw);
            }
            // A stand-in, as [`WithoutSecrets`] gives it: nobody here uses it. The mesh's key alone is asked for by
            // processes that may have none.
            Err(Missing::Absent(..)) if optional.contains_key(&id) => {
                let node = tree.node_mut(id);
                let is_key = optional.get(&id) == Some(&Optional::Key);
                node.text = if is_key { String::new() } else { format!("stand-in-for-{raw}") };
                node.value = if is_key { Value::Null } else { Value::Str };
                node.raw = Some(raw);
            }
            Err(Missing::Absent(message, help) | Missing::Wrong(message, help)) => {
                notes.error_help(place, message, help);
            }
        }
    }
}

/// Why something cannot be put in, and what to do about it.
#[derive(Debug)]
enum Missing {
    /// It is not there, or cannot be read here.
    Absent(String, String),
    /// It is asked for in a wrong way.
    Wrong(String, String),
}

/// What may be missing.
#[derive(Clone, Copy, PartialEq)]
enum Optional {
    /// The mesh's key.
    Key,
    /// What another process uses.
    Elsewhere,
}

/// The nodes that may be missing for this reader.
fn optional(tree: &Tree, reader: Reader) -> HashMap<Id, Optional> {
    // A node below an anchor may have several paths: it is optional only if each of them is.
    let mut found: HashMap<Id, Optional> = HashMap::new();
    let mut needed: HashSet<Id> = HashSet::new();
    let mut stack: Vec<(Id, Vec<&str>)> = tree.root.map(|root| (root, Vec::new())).into_iter().collect();
    while let Some((id, path)) = stack.pop() {
        match &tree.node(id).value {
            Value::Seq(items) => stack.extend(items.iter().map(|item| (*item, path.clone()))),
            Value::Map(entries) => stack.extend(entries.iter().map(|(key, value)| {
                let below = path.iter().copied().chain([tree.node(*key).text.as_str()]);
                (*value, below.take(PATH_MAX).collect())
            })),
            _ if !tree.node(id).text.contains("${") => {}
            _ if reader.can_do_without(&path) => {
                let is_key = path == ["mesh", "key"];
                found.insert(id, if is_key { Optional::Key } else { Optional::Elsewhere });
            }
            _ => {
                needed.insert(id);
            }
        }
    }
    found.retain(|id, _| !needed.contains(id));
    found
}

/// No more of a path is looked at.
const PATH_MAX: usize = 4;

type Put = (String, Vec<(String, String)>);

/// The text with everything put in, and what was put in for what.
fn expand(raw: &str, directory: &Path, env: &dyn Environment) -> Result<Put, Missing> {
    let (mut text, mut secrets, mut rest) = (String::new(), Vec::new(), raw);
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            text.push_str(&rest[..at]);
            text.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        text.push_str(&rest[..at]);
        let end = rest[at..].find('}').ok_or_else(|| {
            let help = "close it with `}`, or write `$${` for the two characters";
            Missing::Wrong("`${` is not closed".into(), help.into())
        })?;
        let shown = &rest[at..=at + end];
        let said = |why: String| format!("`{shown}` cannot be put in: {why}");
        let value = lookup(&shown[2..end], directory, env).map_err(|missing| match missing {
            Missing::Absent(why, help) => Missing::Absent(said(why), help),
            Missing::Wrong(why, help) => Missing::Wrong(said(why), help),
        })?;
        text.push_str(&value);
        secrets.push((value, shown.to_owned()));
        rest = &rest[at + end + 1..];
    }
    text.push_str(rest);
    Ok((text, secrets))
}

fn lookup(what: &str, directory: &Path, env: &dyn Environment) -> Result<String, Missing> {
    let Some((from, name)) = what.split_once(':').filter(|(_, name)| !name.is_empty()) else {
        let help = "write `${env:NAME}`, `${file:PATH}` or `${credential:NAME}`; `$${` stands for the two characters";
        return Err(Missing::Wrong("it does not say where from".into(), help.into()));
    };
    // The line end that editors and `echo` leave is not part of a secret.
    let trimmed = |text: String| text.trim_end_matches(['\n', '\r']).to_owned();
    match from {
        "env" => env.var(name).ok_or_else(|| {
            let why = format!("the environment has no variable `{name}`");
            Missing::Absent(why, "set it where this process is started".into())
        }),
        "file" => {
            let path = directory.join(name);
            env.read(&path).map(trimmed).map_err(|why| {
                let help = "a relative path counts from the directory of this file; the file must be readable here";
                Missing::Absent(why, help.into())
            })
        }
        "credential" => {
            if name.contains('/') || name == ".." {
                let why = "the name of a credential has no `/`";
                return Err(Missing::Wrong(why.into(), "write its name alone".into()));
            }
            let missing = || {
                let why = "there is no credentials directory (CREDENTIALS_DIRECTORY is not set)";
                Missing::Absent(why.into(), "add `LoadCredential=` to the unit, or use `${file:…}`".into())
            };
            let path = env.credentials_directory().ok_or_else(missing)?.join(name);
            let help = || format!("add `LoadCredential={name}:…` to the unit");
            env.read(&path).map(trimmed).map_err(|why| Missing::Absent(why, help()))
        }
        other => {
            let help = did_you_mean(other, ["env", "file", "credential"]);
            Err(Missing::Wrong(format!("`{other}` is no source of secrets"), help))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl Environment for Fixed {
        fn var(&self, name: &str) -> Option<String> {
            (name == "PW").then(|| "from-env".into())
        }
        fn read(&self, path: &Path) -> Result<String, String> {
            match path.to_str() {
                Some("/etc/coroner/pw") => Ok("from-file\n".into()),
                Some("/run/cred/pw") => Ok("from-credential\r\n".into()),
                _ => Err("No such file or directory".into()),
            }
        }
        fn credentials_directory(&self) -> Option<PathBuf> {
            Some("/run/cred".into())
        }
    }

    #[test]
    fn everything_is_put_in_where_it_belongs() {
        let put = |raw| {
            expand(raw, Path::new("/etc/coroner"), &Fixed).map(|(text, _)| text).map_err(|m| match m {
                Missing::Absent(why, _) | Missing::Wrong(why, _) => why,
            })
        };
        assert_eq!(put("${env:PW}"), Ok("from-env".into()));
        assert_eq!(put("a${file:pw}b${credential:pw}c"), Ok("afrom-filebfrom-credentialc".into()));
        assert_eq!(put("$${env:PW}"), Ok("${env:PW}".into()));
        assert_eq!(put("${env:NO}").unwrap_err(), "`${env:NO}` cannot be put in: the environment has no variable `NO`");
        assert!(put("${file:/nope}").unwrap_err().contains("No such file"));
        for bad in ["${", "${}", "${x}", "${nev:PW}", "${credential:../x}", "${env:}"] {
            assert!(put(bad).is_err(), "{bad}");
        }
    }
}
