//! `coroner incidents`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Subcommand;

use super::{
    Context,
    client::{Client, segment},
    exit::{Code, Exit, Failure},
    json,
    status::wall,
    style::Paint,
    table::Table,
};
use crate::model::{Command, Incident, IncidentId, incident::IncidentState, record::SagaKind, status::IncidentBrief};

/// Incidents.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the newest incidents.
    List {
        /// Only those of this cluster.
        cluster: Option<String>,
        /// At most this many.
        #[arg(short = 'n', long, default_value_t = 20)]
        limit: u32,
    },
    /// Show one as Markdown, or with `-o json` as JSON with its log.
    Show {
        /// The incident; `last` is the newest.
        id: String,
    },
    /// Write one as files: JSON with its log, and Markdown.
    Export {
        /// The incident; `last` is the newest.
        id: String,
        /// Where to. Created if it is missing.
        #[arg(long, default_value = ".", value_name = "DIR")]
        dir: PathBuf,
    },
    /// Take note of one: ends its alert and the cooldown.
    Ack {
        /// The incident; `last` is the newest.
        id: String,
        /// What to note.
        #[arg(long, default_value = "")]
        note: String,
    },
}

pub(super) async fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let client = context.client()?;
    match &args.verb {
        Verb::List { cluster, limit } => {
            let list = list(&client, cluster.as_deref(), *limit).await?;
            context.emit(&list, |paint| render(&list, paint))
        }
        Verb::Show { id } => {
            let detail = client.incident(&resolve(&client, id).await?).await?;
            context.emit(&detail, |_| markdown(&detail.incident))
        }
        Verb::Export { id, dir } => {
            let detail = client.incident(&resolve(&client, id).await?).await?;
            let written = export(dir, &detail.incident, &format!("{}\n", json(&detail)?))?;
            context.emit(&written, |_| written.iter().map(|p| format!("{}\n", p.display())).collect())
        }
        Verb::Ack { id, note } => {
            let incident = resolve(&client, id).await?;
            context.reply(&client.command(&Command::Acknowledge { incident, cluster: None, note: note.clone() }).await?)
        }
    }
}

async fn list(client: &Client, cluster: Option<&str>, limit: u32) -> Result<Vec<IncidentBrief>, Failure> {
    let filter = cluster.map_or_else(String::new, |c| format!("&cluster={}", segment(c)));
    client.get(&format!("/v1/incidents?limit={limit}{filter}")).await
}

/// `last` means the newest.
async fn resolve(client: &Client, id: &str) -> Result<IncidentId, Failure> {
    if id != "last" {
        return Ok(id.into());
    }
    let newest = list(client, None, 1).await?.into_iter().next();
    newest.map(|brief| brief.id).ok_or_else(|| Failure::new(Code::Data, "There is no incident."))
}

fn render(list: &[IncidentBrief], paint: Paint) -> String {
    if list.is_empty() {
        return "No incidents.\n".into();
    }
    let mut table =
        Table::new(paint, 0, &["INCIDENT", "OPENED", "CLUSTER", "WHAT", "FROM", "TO", "EPOCH>", "STATE", "ACK"]);
    for brief in list {
        table.row([
            brief.id.as_str(),
            &wall(brief.opened_unix_ms),
            brief.cluster.as_str(),
            kind(brief.kind),
            brief.old_primary.as_str(),
            brief.candidate.as_str(),
            &brief.epoch.to_string(),
            &brief.state.to_string(),
            if brief.acknowledged { "yes" } else { "no" },
        ]);
        table.paint_last(7, |paint, text| match brief.state {
            IncidentState::Resolved => paint.good(text),
            IncidentState::Held => paint.bad(text),
            _ => paint.warn(text),
        });
    }
    table.to_text()
}

/// The word for what an incident is for.
pub(super) const fn kind(kind: SagaKind) -> &'static str {
    match kind {
        SagaKind::Failover => "failover",
        SagaKind::Switchover => "switchover",
        SagaKind::Rejoin => "rejoin",
    }
}

/// The incident as a report that a stranger understands.
pub(super) fn markdown(incident: &Incident) -> String {
    crate::report::render::markdown(incident)
}

/// Writes both files; answers where they are.
pub(super) fn export(dir: &Path, incident: &Incident, json: &str) -> Result<Vec<PathBuf>, Failure> {
    let fail = |path: &Path, e: &std::io::Error| {
        Failure::new(Code::CannotCreate, format!("Cannot write {}: {e}.", path.display()))
    };
    fs::create_dir_all(dir).map_err(|e| fail(dir, &e))?;
    // Names are ULIDs; whatever else the arbiter may say is kept inside the directory.
    let stem: String = incident.id.as_str().chars().filter(char::is_ascii_alphanumeric).collect();
    let mut written = Vec::new();
    for (ending, text) in [("json", json), ("md", &markdown(incident))] {
        let path = dir.join(format!("coroner-incident-{stem}.{ending}"));
        fs::write(&path, text).map_err(|e| fail(&path, &e))?;
        written.push(path);
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::held;

    #[test]
    fn the_list_is_a_table() {
        assert_eq!(
            render(&[held()], Paint::OFF),
            "INCIDENT  OPENED                CLUSTER  WHAT      FROM      TO        EPOCH  STATE  ACK\n\
             01J0      2023-11-14 22:13:20Z  orders   failover  broker-a  broker-b      5  held   no\n"
        );
        assert_eq!(render(&[], Paint::OFF), "No incidents.\n");
    }
}
