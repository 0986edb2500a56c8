//! Which process is the broker: by its unit, its pid file or its control group.

use std::{collections::BTreeSet, os::unix::fs::MetadataExt, path::Path};

use crate::{
    agent::spec::Guarded,
    model::agent::Certainty,
    sys::{
        process::{self, ControlGroup, Identity, Seen},
        systemd::Standing,
    },
};

/// A pid file's time and a process's start are in different clocks and units; this much may lie between.
const SLACK_SECONDS: f64 = 2.0;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Main {
    /// The number of the main process.
    Is(i32),
    /// None runs.
    None {
        /// Whether that is known, or it only was not found.
        certainty: Certainty,
        /// Why.
        detail: String,
    },
}

impl Main {
    fn gone(detail: impl Into<String>) -> Self {
        Self::None { certainty: Certainty::Proven, detail: detail.into() }
    }

    fn unknown(detail: impl Into<String>) -> Self {
        Self::None { certainty: Certainty::Unreachable, detail: detail.into() }
    }
}

/// Looks for the main process. `left` are processes that outlived an earlier one: none of them is the new one (P3).
#[must_use]
pub fn find(
    guarded: &Guarded,
    unit: Option<&Standing>,
    group: Option<&ControlGroup>,
    left: &BTreeSet<Identity>,
) -> Main {
    match guarded {
        Guarded::PidFile { path, executable } => by_file(path, executable.as_deref()),
        Guarded::Unit(name) => match unit {
            Some(standing) if standing.load == "not-found" => {
                Main::unknown(format!("there is no unit {name} on this host: is this its name?"))
            }
            Some(standing) if standing.main_pid > 0 => i32::try_from(standing.main_pid)
                .map_or_else(|_| Main::unknown(format!("systemd names no possible main process of {name}")), Main::Is),
            Some(standing) if standing.active != "active" || group.is_none() => {
                Main::gone(format!("{name} is {} ({}) and has no main process", standing.active, standing.sub))
            }
            _ => by_group(group, left),
        },
        Guarded::Cgroup(_) => by_group(group, left),
    }
}

fn by_file(path: &Path, executable: Option<&str>) -> Main {
    let name = path.display();
    let read = std::fs::read_to_string(path).and_then(|text| Ok((text, std::fs::metadata(path)?)));
    let (text, metadata) = match read {
        Ok(read) => read,
        Err(e) => return Main::unknown(format!("{name} cannot be read: {e}")),
    };
    let Some(pid) = text.split_whitespace().next().and_then(|word| word.parse().ok()).filter(|pid: &i32| *pid > 1)
    else {
        return Main::unknown(format!("{name} holds no process number"));
    };
    let Some(seen) = process::look(pid).filter(|seen| !seen.has_ended()) else {
        return Main::gone(format!("process {pid}, which {name} names, has ended"));
    };
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
    let written = metadata.mtime() as f64;
    if process::started_unix(&seen.identity).is_some_and(|start| start > written + SLACK_SECONDS) {
        return Main::gone(format!("{name} is older than process {pid}: the number belongs to another one by now"));
    }
    match (executable, process::executable(pid)) {
        (Some(wanted), Some(found)) if wanted != found => {
            Main::unknown(format!("process {pid} executes `{found}` and not `{wanted}`"))
        }
        (Some(_), None) => Main::unknown(format!("what process {pid} executes cannot be read")),
        _ => Main::Is(pid),
    }
}

/// The eldest process whose parent is not in the group.
fn by_group(group: Option<&ControlGroup>, left: &BTreeSet<Identity>) -> Main {
    let Some(group) = group else { return Main::unknown("its control group is not there") };
    let name = group.directory().display();
    let pids = group.processes();
    if pids.is_empty() {
        return Main::gone(format!("the control group {name} is empty"));
    }
    let seen: Vec<Seen> = pids.iter().filter_map(|pid| process::look(*pid)).filter(|p| !p.has_ended()).collect();
    let heads = seen.iter().filter(|p| !pids.contains(&p.parent) && !left.contains(&p.identity));
    heads.min_by_key(|p| (p.identity.start_ticks, p.identity.pid)).map_or_else(
        || Main::gone(format!("of the control group {name} only {} is left", process::describe(&seen))),
        |p| Main::Is(p.identity.pid),
    )
}
