//! From a URL to a back-end. What is wrong with a URL is said without showing it: it may hold a password.

use std::{sync::Arc, time::Duration};

use super::Registry;
use crate::model::Secret;

/// How a database is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Every call ends within this, connecting included.
    pub timeout: Duration,
    /// What the names of tables, collections and keys begin with: lower-case letters, digits and `_`.
    pub prefix: String,
    /// The password, if the URL has none: so that it need not stand on a command line.
    pub password: Option<Secret>,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(2), prefix: "coroner".into(), password: None }
    }
}

/// Why a URL cannot be used. Nothing was asked of any database yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is no back-end of that name.
    #[error(
        "`{0}` is no database that Coroner knows: write sqlite:/path, postgres://, mysql://, redis://, mongodb:// or \
         etcd://host:port"
    )]
    Scheme(String),
    /// The URL, or an option, is not well-formed. Full sentences with the remedy; no part of a secret.
    #[error("{0}")]
    Invalid(String),
}

/// Opens the back-end that the URL's scheme names. Connects only when it is first asked for something.
///
/// | URL | back-end |
/// |---|---|
/// | `sqlite:/path/to/file` | SQLite, for processes on one host |
/// | `postgres://user@host:port/database` (or `postgresql://`) | PostgreSQL |
/// | `mysql://user@host:port/database` (or `mariadb://`) | MySQL, MariaDB |
/// | `redis://host:port/number`, `rediss://` with TLS | Redis |
/// | `mongodb://host:port/database`, `mongodb+srv://` | MongoDB |
/// | `etcd://host:port,host:port`, `etcds://` with TLS | etcd |
///
/// # Errors
/// An unknown scheme; a URL, or a prefix, that is not well-formed.
pub fn open(url: &str, options: &Options) -> Result<Arc<dyn Registry>, OpenError> {
    check_options(options)?;
    let Some((scheme, _)) = url.split_once(':') else {
        return Err(OpenError::Invalid(
            "the store's URL has no scheme: write for example postgres://user@host/database or sqlite:/path".into(),
        ));
    };
    match scheme {
        "sqlite" => super::sqlite::open(url, options),
        "postgres" | "postgresql" => super::postgres::open(url, options),
        "mysql" | "mariadb" => super::mysql::open(url, options),
        "redis" | "rediss" => built(super::redis::Redis::open(url, options)),
        "mongodb" | "mongodb+srv" => built(super::mongodb::Mongodb::open(url, options)),
        "etcd" | "etcds" => built(super::etcd::Etcd::open(url, options)),
        // What stands before the first colon of something that is no URL may be anything, a password too.
        other if other.len() <= 12 && other.chars().all(|c| c.is_ascii_lowercase()) => {
            Err(OpenError::Scheme(other.to_owned()))
        }
        _ => Err(OpenError::Scheme("this".into())),
    }
}

fn built<R: Registry + 'static>(opened: Result<R, String>) -> Result<Arc<dyn Registry>, OpenError> {
    opened.map(|registry| Arc::new(registry) as Arc<dyn Registry>).map_err(OpenError::Invalid)
}

fn check_options(options: &Options) -> Result<(), OpenError> {
    let prefix = &options.prefix;
    let is_plain = prefix.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if prefix.is_empty() || prefix.len() > 32 || !is_plain || prefix.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(OpenError::Invalid(format!(
            "the prefix `{prefix}` cannot begin the name of a table: use up to 32 lower-case letters, digits and `_`, \
             a letter first"
        )));
    }
    if options.timeout < Duration::from_millis(10) {
        return Err(OpenError::Invalid("the store's time-out is below 10 ms: no call could end in it".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        open(url, &Options::default()).map(|r| r.label()).expect_err("not to be opened").to_string()
    }

    #[test]
    fn what_is_wrong_is_said_without_the_url() {
        for url in [
            "hunter2",
            "postgre://user:hunter2@host/db",
            "postgres://user:hunter2@host:70000/db",
            "mysql://user:hunter2@ho st/db",
            "mysql://user:hunter2@host/db?ssl-mode=hunter2",
            "postgres://user:hunter2@host/db?sslmode=hunter2",
            "hunter2:x",
            "sqlite:",
            "",
        ] {
            let said = refused(url);
            assert!(!said.contains("hunter2"), "{url}: {said}");
        }
    }

    #[test]
    fn a_label_shows_no_password() {
        let options = Options { password: Some(Secret::new("hunter2".into())), ..Options::default() };
        for (url, label) in [
            ("postgres://u:hunter2@db.example:5433/coroner", "postgres at db.example:5433/coroner"),
            ("postgresql://u:hunter2@db.example", "postgres at db.example:5432/u"),
            ("mysql://u:hunter2@db.example/coroner", "mysql at db.example:3306/coroner"),
            ("mariadb://u:hunter2@db.example/coroner?ssl-mode=DISABLED", "mysql at db.example:3306/coroner"),
            ("sqlite:/var/lib/elect.db", "sqlite at /var/lib/elect.db"),
            ("sqlite:///var/lib/elect.db", "sqlite at /var/lib/elect.db"),
        ] {
            assert_eq!(open(url, &options).map(|r| r.label()), Ok(label.to_owned()));
        }
        assert!(!format!("{options:?}").contains("hunter2"));
    }

    #[test]
    fn a_prefix_is_the_beginning_of_a_name() {
        for prefix in ["", "1a", "a-b", "a;drop table x", "A", &"a".repeat(33)] {
            let options = Options { prefix: prefix.into(), ..Options::default() };
            assert!(open("sqlite:/x", &options).is_err(), "{prefix}");
        }
    }
}
