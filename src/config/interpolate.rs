//! Secrets: `${env:NAME}`, `${file:PATH}`, `${credential:NAME}`, put into scalars after parsing.
//!
//! What was put in never appears in a message: messages show the `${…}` as it stands in the file.

use std::path::{Path, PathBuf};

use super::{
    diagnostic::{Notes, did_you_mean},
    yaml::{Tree, Value},
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
        Ok(format!("stand-in-for-the-file-{}", path.display()))
    }

    fn credentials_directory(&self) -> Option<PathBuf> {
        Some(PathBuf::new())
    }
}

/// Puts in what every scalar of the tree asks for. `directory`: where the configuration file lies.
pub(super) fn interpolate(tree: &mut Tree, directory: &Path, env: &dyn Environment, notes: &mut Notes) {
    let keys: std::collections::HashSet<_> =
        tree.ids().flat_map(|id| tree.entries(id).iter().map(|(k, _)| *k).collect::<Vec<_>>()).collect();
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
            Err((message, help)) => notes.error_help(place, message, help),
        }
    }
}

type Put = (String, Vec<(String, String)>);

/// The text with everything put in, and what was put in for what.
fn expand(raw: &str, directory: &Path, env: &dyn Environment) -> Result<Put, (String, String)> {
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
            ("`${` is not closed".to_owned(), "close it with `}`, or write `$${` for the two characters".to_owned())
        })?;
        let shown = &rest[at..=at + end];
        let value = lookup(&shown[2..end], directory, env)
            .map_err(|(why, help)| (format!("`{shown}` cannot be put in: {why}"), help))?;
        text.push_str(&value);
        secrets.push((value, shown.to_owned()));
        rest = &rest[at + end + 1..];
    }
    text.push_str(rest);
    Ok((text, secrets))
}

fn lookup(what: &str, directory: &Path, env: &dyn Environment) -> Result<String, (String, String)> {
    let Some((from, name)) = what.split_once(':').filter(|(_, name)| !name.is_empty()) else {
        let help = "write `${env:NAME}`, `${file:PATH}` or `${credential:NAME}`; `$${` stands for the two characters";
        return Err(("it does not say where from".into(), help.into()));
    };
    // The line end that editors and `echo` leave is not part of a secret.
    let trimmed = |text: String| text.trim_end_matches(['\n', '\r']).to_owned();
    match from {
        "env" => env.var(name).ok_or_else(|| {
            (format!("the environment has no variable `{name}`"), "set it where this process is started".into())
        }),
        "file" => {
            let path = directory.join(name);
            env.read(&path).map(trimmed).map_err(|why| {
                let help = "a relative path counts from the directory of this file; the file must be readable here";
                (why, help.into())
            })
        }
        "credential" => {
            if name.contains('/') || name == ".." {
                return Err(("the name of a credential has no `/`".into(), "write its name alone".into()));
            }
            let missing = || {
                let why = "there is no credentials directory (CREDENTIALS_DIRECTORY is not set)";
                (why.to_owned(), "add `LoadCredential=` to the unit, or use `${file:…}`".to_owned())
            };
            let path = env.credentials_directory().ok_or_else(missing)?.join(name);
            let help = || format!("add `LoadCredential={name}:…` to the unit");
            env.read(&path).map(trimmed).map_err(|why| (why, help()))
        }
        other => {
            let help = did_you_mean(other, ["env", "file", "credential"]);
            Err((format!("`{other}` is no source of secrets"), help))
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
        let put = |raw| expand(raw, Path::new("/etc/coroner"), &Fixed).map(|(text, _)| text).map_err(|(why, _)| why);
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
