//! The servers of the demo: started on free ports, asked, started again.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::{sleep, timeout};

use super::{
    cable::Cable,
    kind::{Kind, Launch, Look},
    process::Process,
};
use crate::{
    cli::exit::{Code, Failure},
    sys::clock::Stopwatch,
};

/// One member: a server, and where others reach it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) process: Process,
    /// For the fault `partition`.
    pub(crate) cable: Option<Cable>,
    kind: Arc<dyn Kind>,
    dir: PathBuf,
    port: u16,
}

/// A free port of loopback. It may be taken by somebody else before it is used; whoever uses it looks.
pub(crate) fn free_port() -> Result<u16, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener
        .and_then(|l| l.local_addr())
        .map(|a| a.port())
        .map_err(|e| Failure::new(Code::Unavailable, format!("There is no free port on loopback: {e}.")))
}

/// So many ports are tried before we give up.
const TRIES: u32 = 5;
/// A server of this machine answers within this, or does not.
const LOOK_WITHIN: Duration = Duration::from_millis(500);

impl Server {
    /// Starts a server on a free port, with a cable in front if one is wanted.
    pub(crate) async fn start(
        kind: &Arc<dyn Kind>,
        dir: &Path,
        name: &str,
        follows: Option<SocketAddr>,
        with_cable: bool,
    ) -> Result<Self, Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            let port = free_port()?;
            let process = launch(kind, Launch { dir, name, port, follows })?;
            match answers(kind, port, &process).await {
                Ok(()) => {
                    let cable = if with_cable { Some(lay(port).await?) } else { None };
                    let (kind, dir) = (Arc::clone(kind), dir.to_owned());
                    return Ok(Self { name: name.to_owned(), process, cable, kind, dir, port });
                }
                Err(_) if tries < TRIES && process.found_port_taken() => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Starts it again as it was, alone: it believes that it is a primary.
    pub(crate) async fn start_again(&mut self) -> Result<(), Failure> {
        self.process.signal(nix::sys::signal::Signal::SIGKILL);
        self.process.wait(Duration::from_secs(5)).await;
        let Self { kind, dir, name, port, .. } = &*self;
        let process = launch(kind, Launch { dir, name, port: *port, follows: None })?;
        answers(kind, *port, &process).await?;
        self.process = process;
        Ok(())
    }

    /// Where others reach it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.cable.as_ref().map_or_else(|| local(self.port), Cable::address)
    }

    /// Where it really is.
    pub(crate) fn behind_the_cable(&self) -> SocketAddr {
        local(self.port)
    }

    /// What it says it is, asked past the cable: `primary`, `standby`, or nothing.
    pub(crate) async fn role(&self) -> Option<&'static str> {
        look(&self.kind, self.port).await.ok().map(|look| look.role)
    }

    /// Lets it refuse writes while it answers everything else.
    pub(crate) async fn refuse_writes(&self) -> Result<(), Failure> {
        let done = self.kind.refuse_writes(local(self.port)).await;
        done.map_err(|e| Failure::new(Code::Internal, format!("{} does not take the fault: {e}.", self.name)))
    }

    /// Waits until it follows its primary.
    pub(crate) async fn wait_for_link(&self, within: Duration) -> Result<(), Failure> {
        let watch = Stopwatch::start();
        loop {
            if look(&self.kind, self.port).await.is_ok_and(|look| look.is_linked) {
                return Ok(());
            }
            if watch.elapsed() > within {
                let text = format!("{} does not follow its primary. {}", self.name, self.process.last_words());
                return Err(Failure::new(Code::Unavailable, text));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

async fn look(kind: &Arc<dyn Kind>, port: u16) -> Result<Look, String> {
    timeout(LOOK_WITHIN, kind.look(local(port))).await.unwrap_or_else(|_| Err("no answer".into()))
}

async fn lay(port: u16) -> Result<Cable, Failure> {
    Cable::lay(local(port)).await.map_err(|e| Failure::new(Code::Unavailable, format!("Cannot lay a cable: {e}.")))
}

fn launch(kind: &Arc<dyn Kind>, launch: Launch<'_>) -> Result<Process, Failure> {
    let (command, log) = (kind.command(&launch)?, launch.dir.join(format!("{}.log", launch.name)));
    let process = Process::start(launch.name, command, &log)?;
    // A server that writes this file itself writes the same into it.
    let file = launch.dir.join(format!("{}.pid", launch.name));
    std::fs::write(&file, format!("{}\n", process.pid()))
        .map_err(|e| Failure::new(Code::CannotCreate, format!("Cannot write {}: {e}.", file.display())))?;
    Ok(process)
}

async fn answers(kind: &Arc<dyn Kind>, port: u16, process: &Process) -> Result<(), Failure> {
    let watch = Stopwatch::start();
    loop {
        if process.ended().is_none()
            && let Ok(seen) = look(kind, port).await
            // Somebody else's server may sit on the port.
            && seen.process.is_none_or(|id| id == process.pid().as_raw())
        {
            return Ok(());
        }
        if process.ended().is_some() || watch.elapsed() > Duration::from_secs(10) {
            let text = format!("{} does not come up on port {port}. {}", process.name(), process.last_words());
            return Err(Failure::new(Code::Unavailable, text));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// What each kind's tests ask of its servers. `taken`: a port that somebody listens at.
#[cfg(test)]
pub(super) async fn test_a_taken_port(kind: &Arc<dyn Kind>, dir: &Path, taken: u16) {
    let process = launch(kind, Launch { dir, name: "broker-x", port: taken, follows: None }).unwrap();
    assert!(answers(kind, taken, &process).await.is_err());
    assert!(process.found_port_taken(), "{}", process.last_words());

    let mut server = Server::start(kind, dir, "broker-a", None, true).await.unwrap();
    assert_ne!(server.port, taken);
    assert_eq!(server.role().await, Some("primary"));
    let pid = server.process.pid();
    server.start_again().await.unwrap();
    assert_ne!(server.process.pid(), pid);
    let written = std::fs::read_to_string(dir.join("broker-a.pid")).unwrap();
    assert_eq!(written.trim(), server.process.pid().to_string());
}
