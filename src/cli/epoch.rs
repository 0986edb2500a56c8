//! `coroner epoch`.

use serde::Serialize;

use super::{
    Context,
    client::only_cluster,
    exit::{Code, Exit, Failure},
};
use crate::model::{ClusterName, Epoch, MemberName};

/// Print the epoch and the primary of a cluster.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster. May be left out if there is only one.
    cluster: Option<String>,
}

#[derive(Serialize)]
struct View<'a> {
    cluster: &'a ClusterName,
    epoch: Epoch,
    primary: Option<&'a MemberName>,
    address: Option<&'a str>,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let status = context.client()?.status().await?;
    let name = match &args.cluster {
        Some(name) => name.as_str().into(),
        None => only_cluster(&status)?,
    };
    let cluster = status
        .clusters
        .iter()
        .find(|c| c.cluster == name)
        .ok_or_else(|| Failure::new(Code::Data, format!("The arbiter watches no cluster `{name}`.")))?;
    let primary = cluster.primary.as_ref();
    let address = cluster.members.iter().find(|m| Some(&m.member) == primary).map(|m| m.address.as_str());
    let view = View { cluster: &cluster.cluster, epoch: cluster.epoch, primary, address };
    context.emit(&view, |_| {
        let who = primary.map_or_else(|| "-".to_owned(), ToString::to_string);
        format!("{} {who} {}\n", view.epoch, address.unwrap_or("-"))
    })
}
