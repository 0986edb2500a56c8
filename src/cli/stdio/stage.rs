//! What is started behind a conversation: relays on scratch storage, and an arbiter that watches them.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::file::{Plan, yaml};
use crate::{
    cli::{
        client::{Client, Connect},
        demo::{
            process::Process,
            server::free_port,
            stage::{Dir, ourselves, socket_path, write_private},
        },
        exit::{Code, Failure},
    },
    model::Span,
    relay::{
        client::Control,
        control::{Answer, Request, Role, Status},
    },
    sys::clock::Stopwatch,
};

/// Between two looks at something that is coming up.
const POLL: Duration = Duration::from_millis(10);
/// A relay answers a question within this, or it does not.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Something that was started is up within this, on a slow machine as well.
const UP_WITHIN: Duration = Duration::from_secs(30);
/// So many ports are tried before we give up.
const TRIES: u32 = 5;

/// A relay: its process, and where it is reached.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) process: Process,
}

/// Everything that was started. Dropped, it ends, and then its directory goes: fields are dropped in this order.
#[derive(Debug)]
pub(super) struct Stage {
    arbiter: Option<Process>,
    pub(super) servers: Vec<Server>,
    pub(super) socket: PathBuf,
    dir: Dir,
}

impl Stage {
    /// Starts the relays: the first node as the primary, the others as its shadows.
    pub(super) async fn set(nodes: &[String], keep: Option<&Path>) -> Result<Self, Failure> {
        let dir = Dir::new("stdio", keep)?;
        let mut stage = Self { arbiter: None, servers: Vec::new(), socket: socket_path(&dir.path), dir };
        if let [first, others @ ..] = nodes {
            let primary = start(&stage.dir.path, first, None).await?;
            let shadows = others.iter().map(|name| start(&stage.dir.path, name, Some(&primary.address)));
            let shadows = futures::future::try_join_all(shadows).await?;
            stage.servers.push(primary);
            stage.servers.extend(shadows);
        }
        Ok(stage)
    }

    /// Starts the arbiter; `node` is where notices of a new primary go.
    pub(super) async fn watch(&mut self, node: SocketAddr) -> Result<Client, Failure> {
        let members: Vec<(String, String)> =
            self.servers.iter().map(|server| (server.name.clone(), server.address.clone())).collect();
        // No node is called like a member.
        let mut node_name = "driver".to_owned();
        while members.iter().any(|(name, _)| *name == node_name) {
            node_name.push('-');
        }
        let program = std::env::current_exe().unwrap_or_default();
        let plan = Plan {
            dir: &self.dir.path,
            socket: &self.socket,
            members: &members,
            node: (&node_name, node),
            executable: &program.file_name().unwrap_or_default().to_string_lossy(),
        };
        let config = self.dir.path.join("coroner.yaml");
        write_private(&config, &yaml(&plan))?;
        let mut command = ourselves()?;
        command.arg("arbiter").arg("--config").arg(&config).arg("--until-stdin-ends");
        let arbiter = Process::start_held("the arbiter", command, &self.dir.path.join("arbiter.log"))?;
        let arbiter = self.arbiter.insert(arbiter);
        let client = connect(&self.socket)?;
        let watch = Stopwatch::start();
        while client.status().await.is_err() {
            if arbiter.ended().is_some() || watch.elapsed() > UP_WITHIN {
                let text = format!("The arbiter does not come up. {}", arbiter.last_words());
                return Err(Failure::new(Code::Internal, text));
            }
            sleep(POLL).await;
        }
        Ok(client)
    }

    /// Adds what the arbiter said last.
    pub(super) fn last_words(&self) -> String {
        self.arbiter.as_ref().map_or_else(String::new, Process::last_words)
    }

    /// Ends everything and waits for it.
    pub(super) async fn strike(mut self) {
        // First, lest it takes the relays' end for a death.
        if let Some(arbiter) = &mut self.arbiter {
            arbiter.signal(Signal::SIGTERM);
            if !arbiter.wait(Duration::from_secs(2)).await {
                arbiter.signal(Signal::SIGKILL);
                arbiter.wait(Duration::from_secs(2)).await;
            }
        }
        for server in &self.servers {
            server.process.signal(Signal::SIGKILL);
        }
        for server in &mut self.servers {
            server.process.wait(Duration::from_secs(2)).await;
        }
        // It lies beside the directory only when that path is too long for a socket.
        let _ = fs::remove_file(&self.socket);
    }
}

/// The way to an arbiter's socket.
pub(super) fn connect(socket: &Path) -> Result<Client, Failure> {
    let timeout = Span(Duration::from_secs(5));
    Client::new(&Connect { socket: socket.to_owned(), url: None, token_file: None, ca: None, cert: None, timeout })
}

/// What a relay says of itself.
pub(super) async fn ask(address: &str, request: &Request) -> Result<Status, String> {
    match Control::ask_once(address, request, ANSWER_WITHIN).await {
        Ok(Answer::Ok { status, .. }) => Ok(status),
        Ok(Answer::Refused { detail, .. } | Answer::Failed { detail }) => Err(detail),
        Err(error) => Err(error.to_string()),
    }
}

async fn start(dir: &Path, name: &str, primary: Option<&str>) -> Result<Server, Failure> {
    let mut tries = 0;
    loop {
        tries += 1;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)).to_string();
        let process = launch(dir, name, &address, primary)?;
        match comes_up(name, &address, primary, &process).await {
            Ok(()) => return Ok(Server { name: name.to_owned(), address, process }),
            Err(_) if tries < TRIES && process.found_port_taken() => {}
            Err(failure) => return Err(failure),
        }
    }
}

fn launch(dir: &Path, name: &str, address: &str, primary: Option<&str>) -> Result<Process, Failure> {
    let mut command = ourselves()?;
    command.args(["relay", "serve", "--name", name, "--listen", address, "--until-stdin-ends"]);
    command.arg("--storage").arg(dir.join("storage"));
    if let Some(primary) = primary {
        command.args(["--follow", primary]);
    }
    let process = Process::start_held(name, command, &dir.join(format!("relay-{name}.log")))?;
    write_private(&dir.join(format!("{name}.pid")), &format!("{}\n", process.pid()))?;
    Ok(process)
}

/// Waits until it is what it was started as, and itself: somebody else's relay may sit on the port.
async fn comes_up(name: &str, address: &str, primary: Option<&str>, process: &Process) -> Result<(), Failure> {
    let watch = Stopwatch::start();
    loop {
        if process.ended().is_none()
            && let Ok(status) = ask(address, &Request::Status).await
            && status.name == name
        {
            let is_up = match primary {
                None => status.role == Role::Primary,
                Some(_) => status.role == Role::Shadow && status.is_linked,
            };
            if is_up {
                return Ok(());
            }
        }
        if process.ended().is_some() || watch.elapsed() > UP_WITHIN {
            let text = format!("{name} does not come up at {address}. {}", process.last_words());
            return Err(Failure::new(Code::Unavailable, text));
        }
        sleep(POLL).await;
    }
}
