//! The real pair: started behind `init`, and asked once it is up.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{attach::Running, deployment::Deployment};
use crate::{
    cli::exit::Failure,
    stdio::{Appended, Code, Entry, FailoverDone, Page, Pair, Refusal, ShadowStatus},
};

/// What is spoken for.
#[derive(Debug)]
pub(super) enum Behind {
    /// Relays and an arbiter of our own.
    Scratch {
        /// Where to work, if it is to be kept.
        keep: Option<PathBuf>,
    },
    /// Those that run already.
    Running(Running),
}

/// The pair, in whatever state it is.
#[derive(Debug)]
pub(super) struct Real {
    behind: Behind,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nobody said `init`.
    Idle,
    /// On its way.
    Starting(AbortOnDropHandle<Result<Box<Deployment>, Failure>>),
    /// There.
    Up(Box<Deployment>),
    /// It did not come.
    Failed(String),
}

/// The start takes no longer than this; it is bounded in its parts as well.
const UP_WITHIN: Duration = Duration::from_secs(60);
/// Whoever is to end while it starts gives the start so long; then it is broken off, and its processes are killed.
const STARTED_WITHIN: Duration = Duration::from_secs(20);

impl Real {
    /// Nothing is started yet.
    pub(super) const fn new(behind: Behind) -> Self {
        Self { behind, state: State::Idle }
    }

    /// Ends what was started.
    pub(super) async fn end(self) {
        match self.state {
            State::Up(deployment) => deployment.end().await,
            State::Starting(mut starting) => {
                // Halfway, nobody knows all processes: once it is up, everything is ended in its order.
                if let Ok(Ok(Ok(deployment))) = timeout(STARTED_WITHIN, &mut starting).await {
                    deployment.end().await;
                }
            }
            State::Idle | State::Failed(_) => {}
        }
    }

    /// Waits until it is up.
    async fn up(&mut self) -> Result<&mut Deployment, Refusal> {
        if let State::Starting(starting) = &mut self.state {
            let started = timeout(UP_WITHIN, starting).await;
            self.state = match started {
                Ok(Ok(Ok(deployment))) => State::Up(deployment),
                Ok(Ok(Err(failure))) => State::Failed(failure.text),
                Ok(Err(error)) => State::Failed(format!("the start ended in the middle: {error}")),
                Err(_) => State::Failed("it did not come up within a minute".to_owned()),
            };
            if let State::Failed(text) = &self.state {
                tracing::error!("the pair does not come up: {text}");
            }
        }
        match &mut self.state {
            State::Up(deployment) => Ok(deployment),
            State::Failed(text) => Err(Refusal::new(Code::Abort, format!("the pair did not come up: {text}"))),
            State::Idle | State::Starting(_) => {
                Err(Refusal::new(Code::TemporarilyUnavailable, "nothing was started yet."))
            }
        }
    }
}

#[async_trait]
impl Pair for Real {
    async fn begin(&mut self, nodes: &[String]) -> Result<(), Refusal> {
        let nodes = nodes.to_vec();
        let start = match &self.behind {
            Behind::Scratch { keep } => {
                let keep = keep.clone();
                tokio::spawn(async move { Deployment::start(&nodes, keep.as_deref()).await.map(Box::new) })
            }
            Behind::Running(running) => {
                for node in &nodes {
                    if !running.members.iter().any(|(name, _)| name == node) {
                        let members: Vec<&str> = running.members.iter().map(|(name, _)| name.as_str()).collect();
                        let text =
                            format!("`{node}` is no member of `{}`; {} are.", running.cluster, members.join(", "));
                        return Err(Refusal::new(Code::NodeNotFound, text));
                    }
                }
                let running = running.clone();
                tokio::spawn(async move { Deployment::attach(&nodes, &running).await.map(Box::new) })
            }
        };
        self.state = State::Starting(AbortOnDropHandle::new(start));
        Ok(())
    }

    async fn status(&mut self) -> Result<ShadowStatus, Refusal> {
        self.up().await?.status().await
    }

    async fn trigger_failover(&mut self, failed: &str) -> Result<FailoverDone, Refusal> {
        self.up().await?.trigger_failover(failed).await
    }

    async fn append(&mut self, entry: Entry) -> Result<Appended, Refusal> {
        self.up().await?.append(&entry).await
    }

    async fn read(&mut self, from: u64, limit: usize) -> Result<Page, Refusal> {
        self.up().await?.read(from, limit).await
    }

    async fn pause_shadow(&mut self) -> Result<String, Refusal> {
        self.up().await?.pause_shadow().await
    }

    async fn resume_shadow(&mut self) -> Result<String, Refusal> {
        self.up().await?.resume_shadow().await
    }
}
