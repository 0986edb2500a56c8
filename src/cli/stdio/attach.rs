//! A running deployment, found by its configuration file.

use std::path::{Path, PathBuf};

use crate::{
    broker::AnyBroker,
    cli::{
        client::only,
        exit::{Code, Failure},
    },
    config::{self, WithoutSecrets},
    model::ClusterName,
};

/// Where a running deployment is.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) socket: PathBuf,
    pub(super) cluster: ClusterName,
    /// Name and address.
    pub(super) members: Vec<(String, String)>,
}

/// Reads a file as far as it matters here: its secrets are not needed and not looked for.
pub(super) fn read(path: &Path, cluster: Option<&str>) -> Result<Running, Failure> {
    let config = config::load_with(path, &WithoutSecrets)
        .map_err(|mistakes| Failure::new(Code::Config, mistakes.to_string().trim_end().to_owned()))?;
    let cluster = match cluster {
        Some(name) => ClusterName::from(name),
        None => only(config.clusters.keys())?,
    };
    let found = config
        .clusters
        .get(&cluster)
        .ok_or_else(|| Failure::new(Code::Data, format!("{} has no cluster `{cluster}`.", path.display())))?;
    if !matches!(found.broker, Some(AnyBroker::Relay(_))) {
        let text = format!("The broker of `{cluster}` is no relay; the line protocol speaks for relays alone.");
        return Err(Failure::new(Code::Data, text));
    }
    let members = found.members.iter().map(|m| (m.member.to_string(), m.address.clone())).collect();
    Ok(Running { socket: config.arbiter.socket, cluster, members })
}
