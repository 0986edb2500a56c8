//! Relays and their arbiter, asked by their own clients: whether they were started here or run elsewhere makes no
//! difference but for what may be done to a shadow.

use std::{collections::BTreeMap, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use nix::sys::signal::Signal;
use serde_json::{Map, Value};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    attach::Running,
    stage::{Stage, ask, connect},
};
use crate::{
    cli::{
        client::Client,
        demo::follow::{Follower, listen},
        exit::{self, Failure},
    },
    model::{
        ClusterName, Command, CommandReply, Incident, Role, explain::Guard, incident::IncidentState,
        status::ClusterStatus,
    },
    relay::{
        client::{Arrival, Message as Received, NodeClient, NodeHandle, NodeOptions, SendError, Sender, SenderOptions},
        control::{Request, Status},
    },
    stdio::{Appended, Code, Entry, FailoverDone, Message, Page, Refusal, ShadowStatus},
    sys::clock::Stopwatch,
};

/// Between two looks.
const POLL: Duration = Duration::from_millis(10);
/// A deployment that was started is ready for a failover within this.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// A message is durable within this, or nobody knows.
const APPEND_WITHIN: Duration = Duration::from_secs(10);
/// A page is read within this.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// For so long a failover is asked for again while guards stand against it.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(10);
/// A failover that was accepted ends within this, or nobody knows.
const DONE_WITHIN: Duration = Duration::from_secs(60);
/// A shadow has replayed what is there within this, before it is paused.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(5);
/// The beginning of the names under which messages are sent from here: what they say is JSON.
const SENDER: &str = "stdio-";

/// A deployment, and our place in it: a sender and a node.
#[derive(Debug)]
pub(super) struct Deployment {
    client: Client,
    cluster: ClusterName,
    /// The nodes in the driver's order, with the addresses of their relays.
    members: Vec<(String, String)>,
    follower: Follower,
    sender: Arc<Sender>,
    sender_name: String,
    node: NodeHandle,
    arrived: watch::Receiver<Arrived>,
    paused: Option<Paused>,
    /// What was started here, if anything was.
    stage: Option<Stage>,
    /// The node, the listener for notices, and what moves the sender. They end with this.
    tasks: JoinSet<()>,
}

/// The newest of our messages that came back to us as a node.
#[derive(Clone, Copy, Debug, Default)]
struct Arrived {
    number: u64,
    at: Option<Appended>,
}

/// A shadow that was stopped.
#[derive(Debug)]
struct Paused {
    name: String,
    /// What it has applied.
    position: u64,
    /// Since when something is in the log that it has not applied.
    behind: Option<Stopwatch>,
}

impl Deployment {
    /// Starts one of these nodes.
    pub(super) async fn start(nodes: &[String], keep: Option<&Path>) -> Result<Self, Failure> {
        let watch = Stopwatch::start();
        let mut stage = Stage::set(nodes, keep).await?;
        match Self::bring_up(&mut stage).await {
            Ok(mut deployment) => {
                deployment.stage = Some(stage);
                tracing::info!(nodes = nodes.len(), ms = milliseconds(watch.elapsed()), "the pair is up");
                Ok(deployment)
            }
            Err(failure) => {
                let text = format!("{}\n{}", failure.text, stage.last_words());
                stage.strike().await;
                Err(Failure::new(failure.code, text))
            }
        }
    }

    async fn bring_up(stage: &mut Stage) -> Result<Self, Failure> {
        let members: Vec<(String, String)> =
            stage.servers.iter().map(|server| (server.name.clone(), server.address.clone())).collect();
        let has_shadow = members.len() > 1;
        let follower = Follower::new(members.iter().cloned().collect::<BTreeMap<_, _>>());
        let (address, serve) = listen((Ipv4Addr::LOCALHOST, 0).into(), follower.clone(), || ()).await?;
        let client = stage.watch(address).await?;
        let mut deployment = Self::join(client, "stdio".into(), members, follower).await?;
        deployment.tasks.spawn(serve);
        deployment.wait_until_ready(has_shadow).await?;
        Ok(deployment)
    }

    /// Joins one that runs.
    pub(super) async fn attach(nodes: &[String], running: &Running) -> Result<Self, Failure> {
        let address = |name: &String| running.members.iter().find(|(member, _)| member == name).cloned();
        let members: Vec<(String, String)> = nodes.iter().filter_map(address).collect();
        let follower = Follower::new(running.members.iter().cloned().collect::<BTreeMap<_, _>>());
        let client = connect(&running.socket)?;
        Self::join(client, running.cluster.clone(), members, follower).await
    }

    /// Takes our place: a sender, and a node that hears what comes from now on.
    async fn join(
        client: Client,
        cluster: ClusterName,
        members: Vec<(String, String)>,
        follower: Follower,
    ) -> Result<Self, Failure> {
        let id = ulid::Ulid::generate();
        let sender_name = format!("{SENDER}{id}");
        let (send, arrived) = watch::channel(Arrived::default());
        // Both are moved as soon as the arbiter has said who is primary.
        let first = members.first().map_or_else(String::new, |(_, address)| address.clone());
        let sender =
            Arc::new(Sender::start(SenderOptions { after: Some(0), ..SenderOptions::new(&sender_name, &first) }));
        let options = NodeOptions { name: format!("{SENDER}node-{id}"), address: first, epoch: 0, after: None };
        let node = NodeClient::start(options);
        let handle = node.handle();
        let own = handle.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(hear(node, sender_name.clone(), send));
        let (mut following, mover) = (follower.watch(), Arc::clone(&sender));
        tasks.spawn(async move {
            loop {
                let now = following.borrow_and_update().clone();
                if let Some(address) = &now.address {
                    mover.move_to(address, now.epoch.0);
                    handle.follow(address, now.epoch.0);
                }
                if following.changed().await.is_err() {
                    return;
                }
            }
        });
        let deployment = Self {
            client,
            cluster,
            members,
            follower,
            sender,
            sender_name,
            node: own,
            arrived,
            paused: None,
            stage: None,
            tasks,
        };
        deployment.view().await.map_err(|refusal| Failure::new(exit::Code::Unavailable, refusal.text))?;
        Ok(deployment)
    }

    async fn wait_until_ready(&self, has_shadow: bool) -> Result<(), Failure> {
        let watch = Stopwatch::start();
        loop {
            let fail = |refusal: Refusal| Failure::new(exit::Code::Internal, refusal.text);
            let cluster = self.view().await.map_err(fail)?;
            // Alone, there is nothing to be ready for but to know who is primary.
            if cluster.primary.is_some() && (cluster.ready || !has_shadow) && self.sender.state().connected {
                return Ok(());
            }
            if watch.elapsed() > READY_WITHIN {
                let guards: Vec<String> = cluster.blocking.iter().map(|guard| guard.guard.to_string()).collect();
                let text =
                    format!("No failover could be done {READY_WITHIN:?} after the start: {}.", guards.join(", "));
                return Err(Failure::new(exit::Code::Internal, text));
            }
            sleep(POLL).await;
        }
    }

    /// Ends what was started here.
    pub(super) async fn end(mut self: Box<Self>) {
        self.tasks.shutdown().await;
        if let Some(stage) = self.stage.take() {
            stage.strike().await;
        }
    }

    /// The cluster as the arbiter sees it. Whom to follow is taken from it as well: a notice may have been lost.
    async fn view(&self) -> Result<ClusterStatus, Refusal> {
        let unknown = |text: String| Refusal::new(Code::TemporarilyUnavailable, text);
        let status = self.client.status().await.map_err(|failure| unknown(failure.text))?;
        let found = status.clusters.into_iter().find(|c| c.cluster == self.cluster);
        let mut cluster =
            found.ok_or_else(|| unknown(format!("the arbiter watches no cluster `{}`.", self.cluster)))?;
        if let ([only], None) = (cluster.members.as_slice(), &cluster.primary) {
            // Of one alone the arbiter says nothing, and there is nobody else.
            cluster.primary = Some(only.member.clone());
        } else if let Some(primary) = &cluster.primary {
            self.follower.offer(cluster.epoch, primary.as_str(), None);
        }
        Ok(cluster)
    }

    /// The primary, by its name.
    fn primary<'a>(&self, cluster: &'a ClusterStatus) -> Result<&'a str, Refusal> {
        let none = || Refusal::new(Code::TemporarilyUnavailable, "the arbiter does not know who is primary just now.");
        cluster.primary.as_ref().map(|primary| primary.as_str()).ok_or_else(none)
    }

    /// The first of the nodes that could be promoted.
    fn shadow(&self, cluster: &ClusterStatus) -> Option<&(String, String)> {
        let is_fit = |name: &str| {
            let is_primary = cluster.primary.as_ref().is_some_and(|primary| primary.as_str() == name);
            let mut members = cluster.members.iter().filter(|member| member.member.as_str() == name);
            !is_primary && members.any(|member| member.role == Role::Standby && !member.quarantined)
        };
        self.members.iter().find(|(name, _)| is_fit(name))
    }

    fn address(&self, cluster: &ClusterStatus, name: &str) -> String {
        let known = self.members.iter().find(|(member, _)| member == name).map(|(_, address)| address.clone());
        let told = || cluster.members.iter().find(|m| m.member.as_str() == name).map(|m| m.address.clone());
        known.or_else(told).unwrap_or_default()
    }

    pub(super) async fn status(&mut self) -> Result<ShadowStatus, Refusal> {
        let cluster = self.view().await?;
        let primary = self.primary(&cluster)?.to_owned();
        let Some((shadow, address)) = self.shadow(&cluster).cloned() else {
            return Ok(ShadowStatus { primary, shadow: None, wal_lag_entries: None, wal_lag_ms: None });
        };
        // The primary first: what the shadow applies in between makes the lag smaller, as it is.
        let end = ask(&self.address(&cluster, &primary), &Request::Status).await.ok().map(|status| status.position);
        let (entries, ms) = match &self.paused {
            Some(paused) if paused.name == shadow => {
                let entries = end.map_or(0, |end| end.saturating_sub(paused.position));
                let waiting = paused.behind.filter(|_| entries > 0);
                (entries, waiting.map_or(0, |since| milliseconds(since.elapsed())))
            }
            _ => {
                let said = ask(&address, &Request::Status).await.map_err(|error| no_answer(&shadow, &error))?;
                let entries = said.lag_entries.max(end.unwrap_or(0).saturating_sub(said.position));
                (entries, said.lag_ms)
            }
        };
        Ok(ShadowStatus { primary, shadow: Some(shadow), wal_lag_entries: Some(entries), wal_lag_ms: Some(ms) })
    }

    pub(super) async fn trigger_failover(&mut self, failed: &str) -> Result<FailoverDone, Refusal> {
        let watch = Stopwatch::start();
        let cluster = self.view().await?;
        let primary = self.primary(&cluster)?;
        if primary != failed {
            let text = format!("`{failed}` is not the master: `{primary}` is, in epoch {}.", cluster.epoch);
            return Err(Refusal::new(Code::PreconditionFailed, text));
        }
        let Some((shadow, address)) = self.shadow(&cluster).cloned() else {
            let text = format!("no shadow is left that could take over from `{failed}`.");
            return Err(Refusal::new(Code::TemporarilyUnavailable, text));
        };
        // What it has applied before anything is done about the failure.
        let before = match &self.paused {
            Some(paused) if paused.name == shadow => paused.position,
            _ => ask(&address, &Request::Status).await.map_err(|error| no_answer(&shadow, &error))?.position,
        };
        // Stopped, it could not be promoted. What it catches up with from here on belongs to the failover.
        self.let_go_on();
        let accepted = self.command(&shadow).await?;
        let Some(id) = &accepted.incident else {
            return Err(Refusal::new(Code::Crash, format!("the arbiter named no incident: {}", accepted.text)));
        };
        let waited = Stopwatch::start();
        let incident = loop {
            let incident = self.client.incident(id).await.map(|detail| detail.incident);
            match incident {
                Ok(incident) => match incident.state {
                    IncidentState::Resolved => break incident,
                    IncidentState::Aborted => return Err(Refusal::new(Code::Abort, unfinished(&incident))),
                    IncidentState::Held => return Err(Refusal::new(Code::Crash, unfinished(&incident))),
                    _ => {}
                },
                Err(failure) if waited.elapsed() > DONE_WITHIN => {
                    return Err(Refusal::new(Code::Timeout, failure.text));
                }
                Err(_) => {}
            }
            if waited.elapsed() > DONE_WITHIN {
                let text = format!("the failover {id} was begun and has not ended within {DONE_WITHIN:?}.");
                return Err(Refusal::new(Code::Timeout, text));
            }
            sleep(POLL).await;
        };
        // We are one of those who are redirected.
        while self.follower.current().epoch < incident.epoch && waited.elapsed() < DONE_WITHIN {
            self.view().await?;
            sleep(POLL).await;
        }
        let took = watch.elapsed();
        let reached = incident.loss.as_ref().and_then(|loss| loss.candidate_position).unwrap_or(before);
        Ok(FailoverDone {
            new_primary: incident.candidate.to_string(),
            wal_entries_replayed: reached.saturating_sub(before),
            failover_time_ms: milliseconds(took),
            epoch: incident.epoch.0,
        })
    }

    /// Commands the failover; again while guards stand against it, which a shadow that just went on may cause.
    async fn command(&self, shadow: &str) -> Result<CommandReply, Refusal> {
        let command = Command::Failover {
            cluster: self.cluster.clone(),
            to: Some(shadow.into()),
            reason: "asked for over the line protocol".to_owned(),
            accept_loss: false,
            // On scratch storage a driver may fail over as often as it likes. A running deployment keeps its own pace.
            skip_guards: if self.stage.is_some() { vec![Guard::Cooldown] } else { Vec::new() },
        };
        let watch = Stopwatch::start();
        loop {
            let failure = match self.client.command(&command).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            let code = match failure.code {
                // `Io`: the arbiter's store takes nothing just now, so nothing was begun.
                exit::Code::Refused | exit::Code::Temporary | exit::Code::Io if watch.elapsed() < ACCEPTED_WITHIN => {
                    sleep(POLL * 5).await;
                    continue;
                }
                exit::Code::Refused | exit::Code::Temporary | exit::Code::Io => Code::TemporarilyUnavailable,
                exit::Code::Data | exit::Code::NotPermitted | exit::Code::Usage => Code::Abort,
                // It may have been accepted before the answer was lost.
                _ => Code::Crash,
            };
            return Err(Refusal::new(code, failure.text));
        }
    }

    pub(super) async fn append(&mut self, entry: &Entry) -> Result<Appended, Refusal> {
        self.view().await?;
        let mut body = Map::new();
        if let Some(key) = &entry.key {
            body.insert("key".into(), key.as_str().into());
        }
        body.insert("message".into(), entry.message.clone());
        let begun = Stopwatch::start();
        // A node that has never been connected hears what comes after that, and its place in the log is to be told.
        while self.node.state().last.is_none() {
            if begun.elapsed() > APPEND_WITHIN {
                let trouble = self.node.state().trouble.unwrap_or_else(|| "no answer".to_owned());
                return Err(Refusal::new(Code::TemporarilyUnavailable, format!("no primary serves: {trouble}.")));
            }
            sleep(POLL).await;
        }
        let begun = Stopwatch::start();
        let number = self.sender.try_send(Value::Object(body).to_string()).map_err(|error| match error {
            SendError::TooLarge => Refusal::new(Code::MalformedRequest, error.to_string()),
            SendError::WindowFull => Refusal::new(Code::TemporarilyUnavailable, error.to_string()),
            SendError::Ended => Refusal::new(Code::Abort, error.to_string()),
        })?;
        if !self.sender.wait_for(number, APPEND_WITHIN).await {
            let trouble = self.sender.state().trouble.unwrap_or_else(|| "no answer".to_owned());
            let text = format!(
                "it is not durable after {APPEND_WITHIN:?} ({trouble}); it is sent again until it is, so do not append it twice."
            );
            return Err(Refusal::new(Code::Timeout, text));
        }
        if let Some(paused) = &mut self.paused {
            paused.behind.get_or_insert(begun);
        }
        // Its place in the log is what a node is told, and we are one.
        let came = timeout(APPEND_WITHIN, self.arrived.wait_for(|arrived| arrived.number >= number)).await;
        match came {
            Ok(Ok(arrived)) if arrived.number == number => arrived.at.ok_or_else(|| unplaced(&self.sender_name)),
            _ => Err(unplaced(&self.sender_name)),
        }
    }

    pub(super) async fn read(&mut self, from: u64, limit: usize) -> Result<Page, Refusal> {
        let cluster = self.view().await?;
        let primary = self.primary(&cluster)?;
        let address = self.address(&cluster, primary);
        let status = ask(&address, &Request::Status).await.map_err(|error| no_answer(primary, &error))?;
        let mut page = Page::default();
        if from > status.position {
            return Ok(page);
        }
        let read = read_from(&address, &status, from.saturating_sub(1), limit, &mut page);
        match timeout(READ_WITHIN, read).await {
            Ok(result) => result.map(|()| page),
            Err(_) => Err(Refusal::new(
                Code::TemporarilyUnavailable,
                format!("`{primary}` sent too little in {READ_WITHIN:?}."),
            )),
        }
    }

    pub(super) async fn pause_shadow(&mut self) -> Result<String, Refusal> {
        let cluster = self.view().await?;
        let Some((shadow, address)) = self.shadow(&cluster).cloned() else {
            return Err(Refusal::new(Code::TemporarilyUnavailable, "no shadow is left."));
        };
        if self.paused.as_ref().is_some_and(|paused| paused.name == shadow) {
            return Ok(shadow);
        }
        let server = self.stage.as_ref().and_then(|stage| stage.servers.iter().find(|server| server.name == shadow));
        let Some(server) = server else {
            let text = "the shadow of a running deployment is not ours to stop: pause its process yourself.";
            return Err(Refusal::new(Code::NotSupported, text));
        };
        // Nothing is written meanwhile but by us: once it has everything, what it has is known while it cannot be asked.
        let catch_up = Request::CatchUp { upto: None, within_ms: milliseconds(CAUGHT_UP_WITHIN) };
        let status = ask(&address, &catch_up).await.map_err(|error| no_answer(&shadow, &error))?;
        server.process.signal(Signal::SIGSTOP);
        self.paused = Some(Paused { name: shadow.clone(), position: status.position, behind: None });
        Ok(shadow)
    }

    pub(super) async fn resume_shadow(&mut self) -> Result<String, Refusal> {
        let cluster = self.view().await?;
        self.let_go_on();
        let Some((shadow, address)) = self.shadow(&cluster) else {
            return Err(Refusal::new(Code::TemporarilyUnavailable, "no shadow is left."));
        };
        ask(address, &Request::Status).await.map_err(|error| no_answer(shadow, &error))?;
        Ok(shadow.clone())
    }

    /// Lets a stopped shadow go on.
    fn let_go_on(&mut self) {
        if let (Some(paused), Some(stage)) = (self.paused.take(), &self.stage)
            && let Some(server) = stage.servers.iter().find(|server| server.name == paused.name)
        {
            server.process.signal(Signal::SIGCONT);
        }
    }
}

/// Hears what comes, and keeps the newest of our own messages.
async fn hear(mut node: NodeClient, sender: String, arrived: watch::Sender<Arrived>) {
    while let Some(arrival) = node.next().await {
        let Arrival::Messages(messages) = arrival else { continue };
        if let Some(message) = messages.iter().rev().find(|message| message.sender == sender) {
            let at = Appended { sequence: message.sequence, epoch: message.epoch };
            arrived.send_replace(Arrived { number: message.number, at: Some(at) });
        }
    }
}

/// Reads what is in the log after a sequence, up to its present end, as a node does that comes back.
async fn read_from(address: &str, status: &Status, after: u64, limit: usize, page: &mut Page) -> Result<(), Refusal> {
    let name = format!("{SENDER}reader-{}", ulid::Ulid::generate());
    let options = NodeOptions { name, address: address.to_owned(), epoch: 0, after: Some(after) };
    let mut node = NodeClient::start(options);
    loop {
        // Entries that are no messages count for the end, and nothing comes of them here.
        let arrival = match timeout(POLL, node.next()).await {
            Ok(Some(arrival)) => arrival,
            Ok(None) => return Err(Refusal::new(Code::Crash, "the reader ended.")),
            Err(_) if node.state().last.is_some_and(|last| last >= status.position) => return Ok(()),
            Err(_) => continue,
        };
        match arrival {
            Arrival::Messages(messages) => {
                for message in messages {
                    if message.sequence > status.position {
                        return Ok(());
                    }
                    if page.messages.len() == limit {
                        page.next = Some(message.sequence);
                        return Ok(());
                    }
                    let is_end = message.sequence == status.position;
                    page.messages.push(understand(&message));
                    if is_end {
                        return Ok(());
                    }
                }
            }
            Arrival::TooFarBehind { oldest } => {
                let text = format!("the log begins at {oldest}: read from there.");
                return Err(Refusal::new(Code::PreconditionFailed, text));
            }
            Arrival::Canary { .. } | Arrival::Epoch { .. } => {}
        }
    }
}

/// A message as the driver wrote it; one of somebody else as text.
fn understand(message: &Received) -> Message {
    let ours =
        message.sender.starts_with(SENDER).then(|| serde_json::from_slice::<Map<String, Value>>(&message.payload));
    let entry = match ours {
        Some(Ok(mut body)) => Entry {
            key: body.get("key").and_then(Value::as_str).map(str::to_owned),
            message: body.remove("message").unwrap_or_default(),
        },
        _ => Entry { key: None, message: String::from_utf8_lossy(&message.payload).into() },
    };
    Message { sequence: message.sequence, epoch: message.epoch, entry }
}

fn unfinished(incident: &Incident) -> String {
    let reason = incident.state_reason.as_deref().unwrap_or("no reason is recorded");
    format!("the failover {} is {}: {reason}.", incident.id, incident.state)
}

fn unplaced(sender: &str) -> Refusal {
    let text =
        format!("it is durable, but its place in the log was not told in time; `read` shows it (sender {sender}).");
    Refusal::new(Code::Timeout, text)
}

fn no_answer(name: &str, error: &str) -> Refusal {
    Refusal::new(Code::TemporarilyUnavailable, format!("`{name}` does not answer: {error}."))
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
