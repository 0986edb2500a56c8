//! The stage: a directory, the servers, the nodes, the sender, the arbiter; all up, or an error that says why not.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::{process::Command, time::sleep};

use super::{
    Args, Fault,
    file::{Plan, yaml},
    kind::Kind,
    node::NodeState,
    process::Process,
    sender::SenderState,
    server::{self, Server},
};
use crate::{
    cli::{
        client::{Client, Connect},
        exit::{Code, Failure},
    },
    model::{Span, status::ClusterStatus},
    sys::clock::Stopwatch,
};

/// The cluster's name in the demo.
pub(crate) const CLUSTER: &str = "demo";

/// A verb's own directory; removed with this value unless it is to be kept.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) path: PathBuf,
    pub(crate) keep: bool,
}

impl Dir {
    pub(crate) fn new(verb: &str, keep: Option<&Path>) -> Result<Self, Failure> {
        let path = match keep {
            Some(path) => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            None => std::env::temp_dir().join(format!("coroner-{verb}-{}", ulid::Ulid::generate())),
        };
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(keep.is_some()).mode(0o700).create(&path);
        made.map_err(|e| Failure::new(Code::CannotCreate, format!("Cannot create {}: {e}.", path.display())))?;
        Ok(Self { path, keep: keep.is_some() })
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed lies in the temporary directory, which the system clears.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// A node or the sender: its process, and where it shows its state.
#[derive(Debug)]
pub(crate) struct Player {
    pub(crate) name: String,
    address: String,
    _process: Process,
}

/// Everything that plays. Dropped, it ends, and then its directory goes: fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) arbiter: Process,
    pub(crate) client: Client,
    http: reqwest::Client,
    pub(crate) nodes: Vec<Player>,
    pub(crate) sender: Player,
    pub(crate) old: Server,
    pub(crate) other: Server,
    pub(crate) config: PathBuf,
    pub(crate) socket: PathBuf,
}

/// How often the whole is started anew when the arbiter finds its port taken.
const TRIES: u32 = 3;

impl Stage {
    /// Starts everything.
    pub(crate) async fn set(dir: &Dir, args: &Args, kind: &Arc<dyn Kind>) -> Result<Self, Failure> {
        let with_cable = args.fault == Fault::Partition;
        let path = &dir.path;
        let old = Server::start(kind, path, "broker-a", None, with_cable).await?;
        let other = Server::start(kind, path, "broker-b", Some(old.address()), with_cable).await?;
        other.wait_for_link(Duration::from_secs(10)).await?;
        let mut servers = Some((old, other));
        let mut tries = 0;
        loop {
            tries += 1;
            // The servers are given back when only the arbiter's port was the trouble.
            match Self::set_once(path, kind, &mut servers).await {
                Err(_) if servers.is_some() && tries < TRIES => {}
                result => return result,
            }
        }
    }

    async fn set_once(
        path: &Path,
        kind: &Arc<dyn Kind>,
        servers: &mut Option<(Server, Server)>,
    ) -> Result<Self, Failure> {
        let gone = || Failure::new(Code::Internal, "The servers were given away.");
        let (old, other) = servers.take().ok_or_else(gone)?;
        let port = server::free_port()?;
        let url = format!("http://127.0.0.1:{port}");
        let members = format!("{}={},{}={}", old.name, old.address(), other.name, other.address());
        let players = Players { kind: kind.as_ref(), url: &url, members: &members, dir: path };
        let mut nodes = Vec::new();
        for name in ["node-1", "node-2", "node-3"] {
            nodes.push(players.start("demo-node", name).await?);
        }
        let sender = players.start("demo-sender", "sender").await?;

        let socket = socket_path(path);
        let reached: Vec<(String, String)> =
            nodes.iter().chain([&sender]).map(|p| (p.name.clone(), p.address.clone())).collect();
        let plan = Plan {
            dir: path,
            socket: &socket,
            http: ([127, 0, 0, 1], port).into(),
            members: &[(&old.name, old.address()), (&other.name, other.address())],
            nodes: &reached,
            executable: &kind.executable()?,
            words: kind.words(),
        };
        let config = path.join("coroner.yaml");
        write_private(&config, &yaml(&plan))?;
        let log = path.join("arbiter.log");
        // A log of a former try would be taken for this one's.
        let _ = fs::remove_file(&log);
        let mut command = ourselves()?;
        command.arg("arbiter").arg("--config").arg(&config);
        let arbiter = Process::start("the arbiter", command, &log)?;
        let client = Client::new(&Connect {
            socket: socket.clone(),
            url: None,
            token_file: None,
            ca: None,
            cert: None,
            timeout: Span(Duration::from_secs(5)),
        })?;
        if let Err(failure) = wait_for_arbiter(&client, &arbiter).await {
            if arbiter.found_port_taken() {
                *servers = Some((old, other));
            }
            return Err(failure);
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(2))
            .tls_certs_only([])
            .build()
            .map_err(|e| Failure::new(Code::Internal, format!("The HTTP client cannot be made: {e}.")))?;
        Ok(Self { arbiter, client, http, nodes, sender, old, other, config, socket })
    }

    /// The cluster as the arbiter sees it.
    pub(crate) async fn cluster(&self) -> Result<ClusterStatus, Failure> {
        let found = self.client.status().await?.clusters.into_iter().find(|c| c.cluster.as_str() == CLUSTER);
        found.ok_or_else(|| Failure::new(Code::Internal, "The arbiter does not know the demo's cluster."))
    }

    /// What a node says of itself.
    pub(crate) async fn node(&self, player: &Player) -> Result<NodeState, Failure> {
        self.state(player).await
    }

    /// What the sender says of itself.
    pub(crate) async fn sender(&self) -> Result<SenderState, Failure> {
        self.state(&self.sender).await
    }

    async fn state<T: DeserializeOwned>(&self, player: &Player) -> Result<T, Failure> {
        let fail =
            |e: reqwest::Error| Failure::new(Code::Internal, format!("{} does not show its state: {e}.", player.name));
        let response = self.http.get(format!("http://{}/state", player.address)).send().await.map_err(fail)?;
        let body = response.bytes().await.map_err(fail)?;
        serde_json::from_slice(&body).map_err(|e| {
            Failure::new(Code::Internal, format!("{} shows a state that is not understood: {e}.", player.name))
        })
    }

    /// Waits until `done` says so of the cluster; `what` is for the error.
    pub(crate) async fn wait_until(
        &mut self,
        what: &str,
        within: Duration,
        done: impl Fn(&ClusterStatus) -> bool,
    ) -> Result<ClusterStatus, Failure> {
        let watch = Stopwatch::start();
        loop {
            let cluster = self.cluster().await.map_err(|failure| self.with_arbiter_log(failure))?;
            if done(&cluster) {
                return Ok(cluster);
            }
            if watch.elapsed() > within {
                let status = crate::model::status::Status { clusters: vec![cluster], ..Default::default() };
                let text = format!(
                    "{what}: not within {}. The arbiter says:\n{}",
                    crate::model::time::human(within),
                    crate::cli::status::render(&status, crate::cli::style::Paint::OFF)
                );
                return Err(self.with_arbiter_log(Failure::new(Code::Internal, text)));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Adds what the arbiter said last.
    pub(crate) fn with_arbiter_log(&self, failure: Failure) -> Failure {
        Failure::new(failure.code, format!("{}\n{}", failure.text, self.arbiter.last_words()))
    }

    /// Ends everything and waits for it.
    pub(crate) async fn strike(mut self) {
        use nix::sys::signal::Signal;
        self.arbiter.signal(Signal::SIGTERM);
        if !self.arbiter.wait(Duration::from_secs(2)).await {
            self.arbiter.signal(Signal::SIGKILL);
            self.arbiter.wait(Duration::from_secs(2)).await;
        }
        for server in [&mut self.old, &mut self.other] {
            server.process.signal(Signal::SIGKILL);
            server.process.wait(Duration::from_secs(2)).await;
        }
        // It lies beside the directory only when that path is too long for a socket.
        let _ = fs::remove_file(&self.socket);
    }
}

/// The program that runs now.
pub(crate) fn ourselves() -> Result<Command, Failure> {
    let program = std::env::current_exe()
        .map_err(|e| Failure::new(Code::Internal, format!("Where this program lies cannot be told: {e}.")))?;
    Ok(Command::new(program))
}

/// What nodes and the sender are started with.
struct Players<'a> {
    kind: &'a dyn Kind,
    url: &'a str,
    members: &'a str,
    dir: &'a Path,
}

impl Players<'_> {
    async fn start(&self, verb: &str, name: &str) -> Result<Player, Failure> {
        let Self { kind, url, members, dir } = *self;
        let token = format!("{}{}", ulid::Ulid::generate(), ulid::Ulid::generate());
        write_private(&dir.join(format!("{name}.token")), &format!("{token}\n"))?;
        let mut command = ourselves()?;
        command.args([verb, "--name", name, "--cluster", CLUSTER, "--arbiter", url, "--member", members]);
        command.args(["--broker", kind.broker().as_str()]);
        command.args(["--token-env", "CORONER_TOKEN", "--until-stdin-ends"]).env("CORONER_TOKEN", token);
        let log = dir.join(format!("{name}.log"));
        let (process, address) = Process::start_listening(name, command, &log).await?;
        Ok(Player { name: name.to_owned(), address, _process: process })
    }
}

pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let file = fs::File::options().create(true).write(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut f| f.write_all(text.as_bytes()))
        .map_err(|e| Failure::new(Code::CannotCreate, format!("Cannot write {}: {e}.", path.display())))
}

/// The kernel takes 107 bytes of path for a socket.
pub(crate) fn socket_path(dir: &Path) -> PathBuf {
    let inside = dir.join("coroner.sock");
    if inside.as_os_str().len() <= 107 {
        inside
    } else {
        std::env::temp_dir().join(format!("coroner-demo-{}.sock", ulid::Ulid::generate()))
    }
}

async fn wait_for_arbiter(client: &Client, arbiter: &Process) -> Result<(), Failure> {
    let watch = Stopwatch::start();
    loop {
        if client.status().await.is_ok() {
            return Ok(());
        }
        if arbiter.ended().is_some() || watch.elapsed() > Duration::from_secs(10) {
            let text = format!("The arbiter does not come up. {}", arbiter.last_words());
            return Err(Failure::new(Code::Internal, text));
        }
        sleep(Duration::from_millis(20)).await;
    }
}
