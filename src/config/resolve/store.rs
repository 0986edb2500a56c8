//! Where intents are kept: one arbiter's file, or what several share.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::Resolver;
use crate::{
    config::{
        JournalConfig, SharedStoreConfig, schema,
        shape::At,
        yaml::{Node, Value},
    },
    model::{Secret, time::human},
};

const HELP: &str = "write `sqlite:/var/lib/coroner/coroner.db`; or, for several arbiters, `postgres://…`, `mysql://…`, \
                    `redis://…`, `mongodb://…` or `etcd://…`";
const HEARTBEAT: Duration = Duration::from_secs(1);
const VALID_FOR: Duration = Duration::from_secs(3);
/// Four of its parts.
const LEAST_JOURNAL: u64 = 16 << 20;
/// How long a leader takes to stop acting once its lease ends.
const STOP_TIME: Duration = Duration::from_millis(250);
/// By how many thousandths clocks may run apart.
const CLOCK_RATE_PERMILLE: u32 = 100;

/// The kinds of stores that several arbiters share, and the port of each if none is written.
const KINDS: [(&str, u16); 11] = [
    ("postgres", 5432),
    ("postgresql", 5432),
    ("mysql", 3306),
    ("mariadb", 3306),
    ("redis", 6379),
    ("rediss", 6379),
    ("mongodb", 27017),
    ("mongodb+srv", 27017),
    ("etcd", 2379),
    ("etcds", 2379),
    ("etcd+https", 2379),
];

/// Every host and port that a store's URL names, without resolving names.
pub(crate) fn endpoints(url: &str) -> Vec<(String, u16)> {
    let Some((kind, rest)) = url.split_once("://") else { return Vec::new() };
    let Some((_, port)) = KINDS.iter().find(|(word, _)| *word == kind) else { return Vec::new() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let split = |host: &str| match host.rsplit_once(':') {
        // The last colon of a bare IPv6 address divides nothing.
        Some((name, digits)) if !name.contains(':') || name.ends_with(']') => Some((bare(name), digits.parse().ok()?)),
        _ => Some((bare(host), *port)),
    };
    hosts.split(',').filter(|host| !host.is_empty()).filter_map(split).collect()
}

fn bare(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
}

/// A member's address in the same shape.
pub(crate) fn endpoint(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((bare(host), port.parse().ok()?))
}

/// The password of a URL that was written into the file as it is.
pub(super) fn credentials_in_clear(node: &Node) -> Option<&str> {
    if node.raw.is_some() || !matches!(node.value, Value::Str) {
        return None;
    }
    let (_, rest) = node.text.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (credentials, _) = authority.rsplit_once('@')?;
    let (_, password) = credentials.split_once(':')?;
    (!password.is_empty() && !password.contains("${")).then_some(password)
}

impl Resolver<'_> {
    /// The SQLite file, and what is shared beside it.
    pub(super) fn store(
        &mut self,
        at: &At<String>,
        arbiter: &schema::Arbiter,
    ) -> Option<(PathBuf, Option<SharedStoreConfig>)> {
        if let Some(("sqlite", path)) = at.value.split_once(':').filter(|(_, path)| !path.is_empty()) {
            if arbiter.leadership.is_some() {
                return Some(self.shared(at, arbiter));
            }
            let alone = "belongs to a store that several arbiters share, and a SQLite file has one arbiter";
            for (word, given) in [("instance", arbiter.instance.as_ref()), ("local", arbiter.local.as_ref())] {
                if let Some(given) = given {
                    let help = "leave it out; or write a database that several hosts reach, or, to try it out with several \
                                arbiters on one host, `leadership: {}` beside the file";
                    self.error_help(given, format!("`{word}` {alone}"), help);
                }
            }
            return Some((plain(path), None));
        }
        // A URL that another host's secrets make up cannot be looked at here.
        let is_stand_in = self.tree.node(at.id).raw.is_some() && !at.value.contains("://");
        let kind = at.value.split_once("://").map(|(kind, _)| kind);
        let is_known = kind.is_some_and(|kind| KINDS.iter().any(|(word, _)| *word == kind));
        if !is_known && !is_stand_in {
            self.error_help(at, format!("`{}` names no store", self.shown(at.id)), HELP);
            return None;
        };
        if !is_stand_in && endpoints(&at.value).is_empty() {
            self.error_help(at, format!("`{}` names no host", self.shown(at.id)), "write `kind://user@host:port/name`");
            return None;
        }
        Some(self.shared(at, arbiter))
    }

    fn shared(&mut self, at: &At<String>, arbiter: &schema::Arbiter) -> (PathBuf, Option<SharedStoreConfig>) {
        let none = schema::Leadership::default();
        let l = arbiter.leadership.as_ref().map_or(&none, |at| &at.value);
        let (heartbeat, valid_for) = (self.span(&l.heartbeat, HEARTBEAT), self.span(&l.valid_for, VALID_FOR));
        // The election's own arithmetic: two heartbeats, and the time to stop, within what clocks leave of a lease.
        let needed = (heartbeat.saturating_mul(2) + STOP_TIME).saturating_mul(1_000) / (1_000 - CLOCK_RATE_PERMILLE);
        let needed = Duration::from_millis(u64::try_from(needed.as_millis()).unwrap_or(u64::MAX).saturating_add(1));
        if let Some(at) = l.valid_for.as_ref().or(l.heartbeat.as_ref()).filter(|_| valid_for < needed) {
            let message = format!(
                "a heartbeat every {} that is valid for {} is lost with the first late answer of the store: no arbiter \
                 would lead for long",
                human(heartbeat),
                human(valid_for)
            );
            self.error_help(at, message, format!("write `valid_for: {}` or more", human(needed)));
        }
        if let Some(at) = l.heartbeat.as_ref().filter(|_| heartbeat < Duration::from_millis(100)) {
            self.error_help(
                at,
                "a heartbeat is a durable write: the store would be busy with it",
                "write 100ms or more",
            );
        }
        if let Some(instance) = &arbiter.instance {
            self.check_name(instance, "an instance's name");
        }
        let local = arbiter.local.as_ref().map_or("/var/lib/coroner/local.db", |path| &path.value);
        let shared = SharedStoreConfig {
            url: Secret::new(at.value.clone()),
            instance: arbiter.instance.as_ref().map(|name| name.value.clone()),
            heartbeat,
            valid_for,
        };
        (plain(local.strip_prefix("sqlite:").unwrap_or(local)), Some(shared))
    }

    /// The journal: beside the SQLite file unless written.
    pub(super) fn journal(&mut self, j: &schema::Journal, store: &Path) -> JournalConfig {
        let path = j.path.as_ref().map_or_else(|| store.with_extension("journal"), |at| PathBuf::from(&at.value));
        let keep_for = self.span(&j.keep_for, Duration::from_hours(30 * 24));
        let most_bytes = j.max_size.as_ref().map_or(1 << 30, |at| at.value.0);
        if let Some(at) = j.max_size.as_ref().filter(|_| most_bytes < LEAST_JOURNAL) {
            self.error_help(at, "a journal so small would hold less than one of its parts", "write `16MiB` or more");
        }
        if let Some(at) = j.path.as_ref().filter(|_| path == store) {
            self.error_help(at, "this is the file of the store; the journal is a directory of its own", "leave it out");
        }
        JournalConfig { path, keep_for, most_bytes }
    }

    /// A store that dies together with what it guards says nothing in the one moment that counts.
    pub(super) fn store_is_no_member(&mut self, file: &schema::File) {
        let Some(at) = file.arbiter.as_ref().and_then(|a| a.value.store.as_ref()) else { return };
        let stores = endpoints(&at.value);
        for (cluster, entry) in file.clusters.iter().flat_map(|c| &c.value.0) {
            for (member, m) in entry.value.members.iter().flat_map(|m| &m.value.0) {
                let address = m.value.address.as_ref().and_then(|a| endpoint(&a.value));
                if address.is_some_and(|address| stores.contains(&address)) {
                    let message = format!(
                        "the store is `{}` of `{}`, which it is to outlive: when that dies, nobody could decide",
                        member.value, cluster.value
                    );
                    self.error_help(at, message, "write another database, on a host of its own");
                    return;
                }
            }
        }
    }
}

fn plain(path: &str) -> PathBuf {
    path.strip_prefix("//").filter(|p| p.starts_with('/')).unwrap_or(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_of_a_url() {
        let of =
            |url: &str| endpoints(url).into_iter().map(|(host, port)| format!("{host} {port}")).collect::<Vec<_>>();
        assert_eq!(of("postgres://a:p@s@DB.example/coroner"), ["db.example 5432"]);
        assert_eq!(of("redis://10.0.0.1:7000/3"), ["10.0.0.1 7000"]);
        assert_eq!(of("mongodb://a,b:1,[::1]:2/x?replicaSet=y"), ["a 27017", "b 1", "::1 2"]);
        assert_eq!(of("etcd://[fd00::1]"), ["fd00::1 2379"]);
        assert_eq!(of("sqlite:/x"), [""; 0]);
        assert_eq!(of("ftp://x"), [""; 0]);
        assert_eq!(endpoint("[::1]:6379"), Some(("::1".into(), 6379)));
    }
}
