//! What Redis's and etcd's addresses share: `scheme://user:password@host:port,host:port/path?name=value`, and TLS files.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::model::Secret;

/// An address, taken apart. The password never shows in its [`std::fmt::Debug`].
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) scheme: String,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    /// `host:port` each.
    pub(super) hosts: Vec<String>,
    /// Without the slash before it.
    pub(super) path: String,
    query: BTreeMap<String, String>,
}

impl Address {
    /// Takes it apart. Errors never repeat the address, which may hold a password.
    pub(super) fn parse(url: &str, port: u16) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("an address of a store begins with `scheme://`")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (who, hosts) = place.rsplit_once('@').map_or((None, place), |(who, hosts)| (Some(who), hosts));
        let (user, password) = match who {
            None => (None, None),
            Some(who) => {
                let (user, password) = who.split_once(':').map_or((who, None), |(user, pass)| (user, Some(pass)));
                (Some(decode(user)?).filter(|user| !user.is_empty()), password.map(decode).transpose()?)
            }
        };
        let hosts: Vec<String> = hosts.split(',').filter(|h| !h.is_empty()).map(|h| with_port(h, port)).collect();
        if hosts.is_empty() {
            return Err(format!("a {scheme} address names a host: `{scheme}://10.0.0.20:{port}`"));
        }
        let mut pairs = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.insert(decode(name)?, decode(value)?);
        }
        Ok(Self {
            scheme: scheme.to_owned(),
            user,
            password: password.map(Secret::new),
            hosts,
            path: decode(path)?,
            query: pairs,
        })
    }

    /// A parameter, taken out, so that [`Self::finish`] finds those that nobody knows.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.query.remove(name)
    }

    /// A whole number among the parameters.
    pub(super) fn number(&mut self, name: &str) -> Result<Option<u32>, String> {
        let Some(text) = self.take(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("`{name}={text}` in a store's address is no whole number"))
    }

    /// Complains of what was not taken.
    pub(super) fn finish(self) -> Result<(), String> {
        match self.query.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("`{name}` is no parameter of a {} store's address", self.scheme)),
        }
    }
}

fn with_port(host: &str, port: u16) -> String {
    let has_port = match host.rsplit_once(':') {
        Some((before, _)) => !before.contains(':') || before.ends_with(']'),
        None => false,
    };
    match (has_port, host.contains(':') && !host.starts_with('[')) {
        (true, _) => host.to_owned(),
        (false, true) => format!("[{host}]:{port}"),
        (false, false) => format!("{host}:{port}"),
    }
}

/// Undoes `%41`.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = hex.and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(byte.ok_or("a `%` in a store's address is followed by two hexadecimal digits: write it as `%25`")?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| "a store's address is not UTF-8".into())
}

/// Makes a name fit for one part of a key: everything but letters, digits, `-`, `_`, `.` as `%41`.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// TLS towards a store: whom to trust, and as whom to come.
pub(super) fn tls(
    ca: Option<&str>,
    cert: Option<&str>,
    key: Option<&str>,
) -> Result<Arc<rustls::ClientConfig>, String> {
    crate::sys::tls::client_config("a store's address", ca, cert, key)
}

/// Milliseconds of a span, at least one.
pub(super) fn milliseconds(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart() {
        let mut address = Address::parse("etcd://me:p%40ss@a:1,b,[::1]/x/y?prefix=p&ca=%2Ftmp%2Fca.pem", 2379).unwrap();
        assert_eq!(address.user.as_deref(), Some("me"));
        assert_eq!(address.password.as_ref().map(|p| p.expose()), Some("p@ss"));
        assert_eq!(address.hosts, ["a:1", "b:2379", "[::1]:2379"]);
        assert_eq!(address.path, "x/y");
        assert_eq!(address.take("prefix").as_deref(), Some("p"));
        assert_eq!(address.take("ca").as_deref(), Some("/tmp/ca.pem"));
        address.finish().unwrap();
        assert!(!format!("{:?}", Address::parse("redis://u:geheim@h", 1).unwrap()).contains("geheim"));
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said_without_its_password() {
        for (url, complaint) in [
            ("redis", "begins with"),
            ("redis://", "names a host"),
            ("redis://u:geheim%4@h", "two hexadecimal digits"),
            ("redis://u:geheim@h?tiemout=3", "`tiemout` is no parameter"),
        ] {
            let told = Address::parse(url, 1).and_then(Address::finish);
            let told = told.unwrap_err();
            assert!(told.contains(complaint) && !told.contains("geheim"), "{url}: {told}");
        }
    }

    #[test]
    fn names_survive_as_parts_of_keys() {
        assert_eq!(encode("orders/é 1"), "orders%2F%C3%A9%201");
    }
}
