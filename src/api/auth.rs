//! Who asks, and what they may.
//!
//! Over TCP: a bearer token, or a client certificate with the identity's name as DNS name. Over the Unix socket: the
//! kernel says which user it is. A forged heartbeat hides a death and a forged report causes one, so whoever reports
//! does it only under the names in `reports_as`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, header, request::Parts},
};
use ring::{hmac, rand::SystemRandom};

use super::{
    Shared,
    beat::BeatKey,
    error::ApiError,
    limit::{Bucket, HTTP_ITEMS_PER_SECOND, UDP_BEATS_PER_SECOND},
};
use crate::{
    config::{AccessRole, Config},
    model::Operator,
};

/// What the connection itself proves about the other side.
#[derive(Clone, Debug)]
pub(super) enum Peer {
    /// A TCP connection, with the DNS names of its verified client certificate.
    Tcp(Arc<[String]>),
    /// A user of this host who may operate.
    Socket(Arc<Identity>),
    /// A user of this host who may not.
    Stranger(u32),
}

/// One who may come in.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) name: String,
    role: AccessRole,
    reports_as: Vec<String>,
    /// A local operator, who may also report under any name.
    is_local: bool,
    /// None of its names is a member or a node: an external system, which may push alerts.
    is_external: bool,
    pub(super) key: Option<BeatKey>,
    http: Bucket,
    pub(super) udp: Bucket,
}

impl Identity {
    pub(super) fn local(uid: u32) -> Self {
        Self {
            name: format!("uid {uid} on the control socket"),
            role: AccessRole::Operate,
            reports_as: Vec::new(),
            is_local: true,
            is_external: true,
            key: None,
            http: Bucket::new(f64::INFINITY),
            udp: Bucket::new(0.0),
        }
    }

    pub(super) fn may_report_as(&self, name: &str) -> bool {
        self.is_local || (self.role == AccessRole::Report && self.reports_as.iter().any(|own| own == name))
    }

    /// A member's or node's own identity must not be able to raise an alert that kills, unless it is written so.
    pub(super) fn may_alert(&self, signal: &str) -> bool {
        self.is_external || self.may_report_as(signal)
    }

    pub(super) fn operator(&self) -> Operator {
        Operator(self.name.clone())
    }

    /// Counts `items` against the identity's rate.
    pub(super) fn charge(&self, now: Duration, items: usize) -> Result<(), ApiError> {
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        if self.is_local || self.http.take(now, f64::from(items)) { Ok(()) } else { Err(ApiError::flood()) }
    }
}

/// The identities of one configuration.
#[derive(Debug)]
pub(super) struct AccessTable {
    pub(super) config: Arc<Config>,
    by_name: HashMap<String, Arc<Identity>>,
    /// By a digest under a key that nobody else knows: how long a look-up takes says nothing about the tokens.
    by_token: HashMap<[u8; 32], Arc<Identity>>,
    digest: hmac::Key,
}

impl AccessTable {
    pub(super) fn new(config: Arc<Config>) -> Self {
        let digest = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            // Without randomness the look-up is still right, only its duration might tell a little.
            .unwrap_or_else(|_| hmac::Key::new(hmac::HMAC_SHA256, b"coroner"));
        let mut new = Self { config, by_name: HashMap::new(), by_token: HashMap::new(), digest };
        let config = Arc::clone(&new.config);
        for access in &config.arbiter.access {
            let reports_as =
                if access.reports_as.is_empty() { vec![access.name.clone()] } else { access.reports_as.clone() };
            let is_known = |name: &String| {
                config.policy.clusters.values().any(|cluster| {
                    cluster.members.iter().any(|m| m.name.as_str() == name)
                        || cluster.nodes.iter().any(|n| n.as_str() == name)
                })
            };
            let token = access.token.as_ref().map(|token| token.expose()).filter(|token| !token.is_empty());
            let identity = Arc::new(Identity {
                name: access.name.clone(),
                role: access.role,
                is_local: false,
                is_external: access.role == AccessRole::Report && !reports_as.iter().any(is_known),
                reports_as,
                key: token.filter(|_| access.role == AccessRole::Report).map(BeatKey::new),
                http: Bucket::new(HTTP_ITEMS_PER_SECOND),
                udp: Bucket::new(UDP_BEATS_PER_SECOND),
            });
            if let Some(token) = token {
                new.by_token.insert(new.digest(token.as_bytes()), Arc::clone(&identity));
            }
            new.by_name.insert(access.name.clone(), identity);
        }
        new
    }

    fn digest(&self, token: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&self.digest, token).as_ref());
        out
    }

    pub(super) fn named(&self, name: &str) -> Option<&Arc<Identity>> {
        self.by_name.get(name)
    }

    fn authenticate(&self, peer: &Peer, parts: &Parts) -> Result<Arc<Identity>, ApiError> {
        let names = match peer {
            Peer::Socket(identity) => return Ok(Arc::clone(identity)),
            Peer::Stranger(uid) => {
                return Err(ApiError::forbidden(format!(
                    "uid {uid} may not use the control socket: add it to `arbiter.socket_operators`, or use sudo"
                )));
            }
            Peer::Tcp(names) => names,
        };
        let refuse = |text: &str| Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthenticated", text));
        if self.by_name.is_empty() {
            return refuse(
                "nobody may come in over TCP, since `arbiter.access` is empty: add entries with `name`, `role` and \
                 `token`, or use the Unix socket",
            );
        }
        if let Some(given) = parts.headers.get(header::AUTHORIZATION) {
            let token = given.as_bytes().split_at_checked(7).filter(|(s, _)| s.eq_ignore_ascii_case(b"bearer "));
            let identity = token.and_then(|(_, token)| self.by_token.get(&self.digest(token.trim_ascii())));
            return identity.map_or_else(
                || {
                    refuse(
                        "this token is not one of those under `arbiter.access`: send `Authorization: Bearer <token>`",
                    )
                },
                |identity| Ok(Arc::clone(identity)),
            );
        }
        if let Some(identity) = names.iter().find_map(|name| self.by_name.get(name)) {
            return Ok(Arc::clone(identity));
        }
        if names.is_empty() {
            refuse("say who you are: send `Authorization: Bearer <token>`, or a client certificate")
        } else {
            refuse("no DNS name of the client certificate is a `name` under `arbiter.access`")
        }
    }
}

/// What a route demands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Report,
    View,
    Operate,
    Any,
}

fn admit(parts: &Parts, shared: &Shared, need: Need) -> Result<(Arc<Identity>, Arc<AccessTable>), ApiError> {
    let table = shared.access();
    let stranger = Peer::Tcp(Arc::from([]));
    let identity = table.authenticate(parts.extensions.get::<Peer>().unwrap_or(&stranger), parts)?;
    identity.charge(shared.clock.elapsed(), 1)?;
    let (may, role) = match need {
        Need::Any => (true, ""),
        Need::Report => (identity.is_local || identity.role == AccessRole::Report, "report"),
        Need::View => (matches!(identity.role, AccessRole::View | AccessRole::Operate), "view"),
        Need::Operate => (identity.role == AccessRole::Operate, "operate"),
    };
    if may {
        return Ok((identity, table));
    }
    let name = &identity.name;
    Err(ApiError::forbidden(format!(
        "`{name}` lacks the role for this: it needs `role: {role}` under `arbiter.access`"
    )))
}

/// One who may report.
pub(super) struct Reporter(pub(super) Arc<Identity>, pub(super) Arc<AccessTable>);
/// One who may read everything.
pub(super) struct Viewer;
/// One who may command.
pub(super) struct Operating(pub(super) Arc<Identity>);
/// Anybody with an identity.
pub(super) struct Anyone;

macro_rules! roles {
    ($($Name:ident needs $need:ident: |$identity:pat_param, $table:pat_param| $made:expr;)*) => {$(
        impl FromRequestParts<Arc<Shared>> for $Name {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, ApiError> {
                let ($identity, $table) = admit(parts, shared, Need::$need)?;
                Ok($made)
            }
        }
    )*};
}

roles! {
    Reporter needs Report: |identity, table| Self(identity, table);
    Viewer needs View: |_, _| Self;
    Operating needs Operate: |identity, _| Self(identity);
    Anyone needs Any: |_, _| Self;
}
