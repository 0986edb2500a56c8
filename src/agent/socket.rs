//! The agent's Unix socket: one question a line, one answer a line, both JSON. For `coroner gate` and the local verbs.

use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{acts::Acts, driver::Counts, observe::Following};
use crate::{
    mesh::party::{Health, Input, MayStart},
    model::{ClusterName, FenceHealth, MemberName, NodeName, PartyName, agent::LeaseState, agent::MemberReport},
    sys::clock,
};

/// A question is shorter.
const QUESTION_MAX: u64 = 4_096;
/// Connections at once.
const CONNECTIONS: usize = 16;
/// Whoever says nothing for this long is cut off.
const SILENT_FOR: Duration = Duration::from_secs(10);
/// Between two looks at whether a start is granted.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A rehearsal of one fence may take this long.
const REHEARSE_WITHIN: Duration = Duration::from_secs(15);

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// May the guarded broker be started? Answered once it may, or once it is sure that it may not, or in time.
    Start {
        /// The cluster; may be left out where the agent guards one member.
        cluster: Option<ClusterName>,
        /// Wait for a grant at most this long.
        within_ms: u64,
    },
    /// How does the agent stand?
    Status,
    /// Exercise every fence without harm.
    Rehearse {
        /// The cluster; may be left out where the agent guards one member.
        cluster: Option<ClusterName>,
    },
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Question::Start`].
    Start(MayStart),
    /// To [`Question::Status`].
    Status(Box<AgentStatus>),
    /// To [`Question::Rehearse`].
    Rehearsed(BTreeMap<String, FenceHealth>),
    /// The question cannot be answered; in words.
    Error(String),
}

/// How an agent stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its name.
    pub party: PartyName,
    /// The members that it guards.
    pub members: Vec<MemberStatus>,
    /// The nodes that it serves, and whom each follows.
    pub nodes: Vec<(ClusterName, NodeName, Following)>,
    /// Links, messages, renewals.
    pub health: Health,
    /// What its thread counts.
    pub counts: Counts,
    /// Its memory.
    pub memory: Memory,
}

/// What the kernel counts as this process's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Real memory, code included.
    pub resident_bytes: Option<u64>,
    /// What is its own alone: no code, nothing that is shared.
    pub private_bytes: Option<u64>,
}

/// One guarded member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// The cluster.
    pub cluster: ClusterName,
    /// The member.
    pub member: MemberName,
    /// Its lease.
    pub lease: LeaseState,
    /// Whether the broker may be started.
    pub may_start: MayStart,
    /// Whether the evidence lets its lease be renewed.
    pub may_renew: bool,
    /// What is known of it.
    pub report: MemberReport,
}

/// The socket's path for a party.
#[must_use]
pub fn path_of(template: &Path, party: &PartyName) -> PathBuf {
    template.to_string_lossy().replace("{name}", party.as_str()).into()
}

/// Asks an agent one thing.
///
/// # Errors
/// No agent answers there, or not in a form that is understood.
pub async fn ask(path: &Path, question: &Question) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(path).await?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = String::new();
    if BufReader::new(stream).read_line(&mut answer).await? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the agent answered nothing"));
    }
    Ok(serde_json::from_str(&answer)?)
}

/// Binds the socket. A file left by a process that is gone is replaced; one that answers is not.
///
/// # Errors
/// In words, with the remedy.
pub async fn bind(path: &Path) -> Result<UnixListener, String> {
    let refused = |error: io::Error| format!("the socket {} (mesh.socket) cannot be made: {error}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(refused)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(data) if data.file_type().is_socket() => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(format!("another agent answers at {}: stop it first", path.display()));
            }
            std::fs::remove_file(path).map_err(refused)?;
        }
        Ok(_) => return Err(format!("{} is there, and is no socket: move it away", path.display())),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(refused)?;
    // The kernel tells who connects, and that is checked; the mode is a second line.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(refused)?;
    Ok(listener)
}

/// Answers for ever.
pub async fn serve(listener: UnixListener, me: PartyName, acts: Arc<Acts>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(LOOK_EVERY).await;
            continue;
        };
        let may = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == Uid::effective().as_raw());
        let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
        if !may {
            continue;
        }
        let (me, acts) = (me.clone(), Arc::clone(&acts));
        tokio::spawn(async move {
            let _place = place;
            // Whoever went away needs no answer.
            let _ = converse(stream, &me, &acts).await;
        });
    }
}

async fn converse(stream: UnixStream, me: &PartyName, acts: &Acts) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(QUESTION_MAX)).lines();
    while let Ok(Ok(Some(line))) = timeout(SILENT_FOR, lines.next_line()).await {
        let answer = match serde_json::from_str(&line) {
            Ok(question) => answer(question, me, acts).await,
            Err(error) => Answer::Error(format!("the question is not understood: {error}")),
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        write.write_all(&line).await?;
    }
    Ok(())
}

async fn answer(question: Question, me: &PartyName, acts: &Acts) -> Answer {
    match question {
        Question::Start { cluster, within_ms } => match which(acts, cluster) {
            Ok(cluster) => may_start(acts, cluster, Duration::from_millis(within_ms)).await,
            Err(why) => Answer::Error(why),
        },
        Question::Rehearse { cluster } => match which(acts, cluster) {
            Ok(cluster) => Answer::Rehearsed(acts.rehearse_all(&cluster, REHEARSE_WITHIN).await),
            Err(why) => Answer::Error(why),
        },
        Question::Status => {
            status(me, acts).await.map_or_else(|| Answer::Error(ENDED.into()), |s| Answer::Status(s.into()))
        }
    }
}

const ENDED: &str = "the agent is about to end";

fn which(acts: &Acts, cluster: Option<ClusterName>) -> Result<ClusterName, String> {
    let known = || acts.guarded.keys().map(ClusterName::as_str).collect::<Vec<_>>().join(", ");
    match cluster {
        Some(cluster) if acts.guarded.contains_key(&cluster) => Ok(cluster),
        Some(cluster) => Err(format!("this agent guards no member of {cluster}; it guards: {}", known())),
        None => match acts.guarded.keys().collect::<Vec<_>>().as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err("this agent guards no member".into()),
            _ => Err(format!("this agent guards members of several clusters; say which: {}", known())),
        },
    }
}

async fn may_start(acts: &Acts, cluster: ClusterName, within: Duration) -> Answer {
    // Nothing runs, so no evidence speaks for a lease; that a start is under way does.
    acts.party.send(Input::Starting { cluster: cluster.clone() });
    let watch = clock::Stopwatch::start();
    loop {
        let of = cluster.clone();
        let Some(may) = acts.party.look(move |seen| seen.party.may_start(seen.now, &of)).await else {
            return Answer::Error(ENDED.into());
        };
        if !matches!(may, MayStart::NotYet(_)) || watch.elapsed() >= within {
            return Answer::Start(may);
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn status(me: &PartyName, acts: &Acts) -> Option<AgentStatus> {
    let clusters: Vec<_> = acts.guarded.keys().cloned().collect();
    let looked = acts.party.look(move |seen| {
        let members = clusters.into_iter().map(|cluster| {
            let (lease, may) = (seen.party.lease(seen.now, &cluster), seen.party.may_start(seen.now, &cluster));
            (cluster, lease, may)
        });
        (members.collect::<Vec<_>>(), seen.party.health(seen.now), seen.counts.clone())
    });
    let (members, health, counts) = looked.await?;
    let reports = acts.reports.load();
    let members = members.into_iter().filter_map(|(cluster, lease, may_start)| {
        let member = acts.guarded.get(&cluster)?.target.member.clone();
        let (report, may_renew) = reports.get(&cluster).cloned().unwrap_or_default();
        Some(MemberStatus { cluster, member, lease, may_start, may_renew, report })
    });
    let nodes = acts.nodes.iter().map(|(cluster, node)| (cluster.clone(), node.name().clone(), node.following()));
    Some(AgentStatus {
        party: me.clone(),
        members: members.collect(),
        nodes: nodes.collect(),
        health,
        counts,
        memory: memory(),
    })
}

fn memory() -> Memory {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Memory { resident_bytes: bytes("VmRSS:"), private_bytes: bytes("RssAnon:") }
}
