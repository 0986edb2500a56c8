//! `coroner epoch`.

use std::collections::BTreeMap;

use super::{
    Context,
    client::only,
    exit::{Code, Exit, Failure},
    status::dash,
};
use crate::model::{ClusterName, status::PrimaryView};

/// Print the epoch, the primary and its address, in one line.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The cluster. May be left out if there is only one.
    cluster: Option<String>,
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let all: BTreeMap<ClusterName, PrimaryView> = context.client()?.get("/v1/epoch").await?;
    let view = match &args.cluster {
        Some(name) => all
            .get(name.as_str())
            .ok_or_else(|| Failure::new(Code::Data, format!("The arbiter watches no cluster `{name}`.")))?,
        None => {
            let name = only(all.keys())?;
            &all[&name]
        }
    };
    context.emit(view, |_| format!("{} {} {}\n", view.epoch, dash(view.primary.as_ref()), dash(view.address.as_ref())))
}
