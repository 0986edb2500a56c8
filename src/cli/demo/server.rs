//! The Redis servers of the demo: found, started on free ports, asked, started again.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use redis::cmd;
use tokio::{process::Command, time::sleep};

use super::{broker::open, cable::Cable, process::Process};
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
    program: PathBuf,
    dir: PathBuf,
    port: u16,
}

/// How to get Redis.
const REMEDY: &str = "Install it: `apt-get install redis-server` (Debian, Ubuntu), `dnf install redis` (Fedora), \
                      `apk add redis` (Alpine), `brew install redis` (macOS).";

/// Finds `redis-server`, or what speaks like it.
pub(crate) fn find() -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = ["redis-server", "valkey-server"]
        .iter()
        .flat_map(|name| std::env::split_paths(&path).map(move |dir| dir.join(name)))
        .find(|file| file.is_file());
    found.ok_or_else(|| {
        Failure::new(
            Code::Unavailable,
            format!("The demo needs a real Redis, and there is no `redis-server` in PATH. {REMEDY}"),
        )
    })
}

/// The name under which the kernel knows the program: the links to it are followed.
pub(crate) fn executable(program: &Path) -> String {
    let real = program.canonicalize().unwrap_or_else(|_| program.to_owned());
    real.file_name().unwrap_or_default().to_string_lossy().into_owned()
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

impl Server {
    /// Starts a server on a free port, with a cable in front if one is wanted.
    pub(crate) async fn start(
        program: &Path,
        dir: &Path,
        name: &str,
        follows: Option<SocketAddr>,
        with_cable: bool,
    ) -> Result<Self, Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            let port = free_port()?;
            let process = launch(program, dir, name, port, follows)?;
            match answers(port, &process).await {
                Ok(()) => {
                    let cable = if with_cable { Some(lay(port).await?) } else { None };
                    let (program, dir) = (program.to_owned(), dir.to_owned());
                    return Ok(Self { name: name.to_owned(), process, cable, program, dir, port });
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
        self.process = launch(&self.program, &self.dir, &self.name, self.port, None)?;
        answers(self.port, &self.process).await
    }

    /// Where others reach it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.cable.as_ref().map_or_else(|| local(self.port), Cable::address)
    }

    /// Where it really is.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What it says it is, asked past the cable: `primary`, `standby`, or nothing.
    pub(crate) async fn role(&self) -> Option<&'static str> {
        let mut connection = open(&local(self.port).to_string(), Duration::from_millis(500)).await.ok()?;
        let role: redis::Value = cmd("ROLE").query_async(&mut connection).await.ok()?;
        let redis::Value::Array(parts) = role else { return None };
        let word: String = redis::from_redis_value_ref(parts.first()?).ok()?;
        Some(if word == "master" { "primary" } else { "standby" })
    }

    /// Lets it refuse writes while it answers everything else: its memory is full.
    pub(crate) async fn fill(&self) -> Result<(), Failure> {
        let set = async {
            let mut connection = open(&local(self.port).to_string(), Duration::from_secs(1)).await?;
            for (key, value) in [("maxmemory-policy", "noeviction"), ("maxmemory", "1")] {
                cmd("CONFIG").arg("SET").arg(key).arg(value).query_async::<()>(&mut connection).await?;
            }
            Ok::<_, redis::RedisError>(())
        };
        set.await.map_err(|e| Failure::new(Code::Internal, format!("{} does not take the fault: {e}.", self.name)))
    }

    /// Waits until it follows its primary.
    pub(crate) async fn wait_for_link(&self, within: Duration) -> Result<(), Failure> {
        let watch = Stopwatch::start();
        loop {
            if let Ok(mut connection) = open(&local(self.port).to_string(), Duration::from_millis(500)).await
                && let Ok(info) = cmd("INFO").arg("replication").query_async::<String>(&mut connection).await
                && info.lines().any(|line| line.trim() == "master_link_status:up")
            {
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

async fn lay(port: u16) -> Result<Cable, Failure> {
    Cable::lay(local(port)).await.map_err(|e| Failure::new(Code::Unavailable, format!("Cannot lay a cable: {e}.")))
}

fn launch(program: &Path, dir: &Path, name: &str, port: u16, follows: Option<SocketAddr>) -> Result<Process, Failure> {
    let data = dir.join(name);
    std::fs::create_dir_all(&data)
        .map_err(|e| Failure::new(Code::CannotCreate, format!("Cannot create {}: {e}.", data.display())))?;
    // A file of its own, so that a promotion or a rejoin outlives a restart of the server.
    let quoted = |path: &Path| format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = format!(
        "bind 127.0.0.1\nport {port}\ndir {}\npidfile {}\n",
        quoted(&data),
        quoted(&dir.join(format!("{name}.pid")))
    );
    // The old primary comes back with its data, so that there is something to throw away or keep.
    text.push_str("appendonly yes\nsave \"\"\nrepl-diskless-sync yes\nrepl-diskless-sync-delay 0\n");
    if let Some(primary) = follows {
        text.push_str(&format!("replicaof {} {}\n", primary.ip(), primary.port()));
    }
    let file = dir.join(format!("{name}.conf"));
    std::fs::write(&file, text)
        .map_err(|e| Failure::new(Code::CannotCreate, format!("Cannot write {}: {e}.", file.display())))?;
    let mut command = Command::new(program);
    command.arg(file);
    Process::start(name, command, &dir.join(format!("{name}.log")))
}

async fn answers(port: u16, process: &Process) -> Result<(), Failure> {
    let watch = Stopwatch::start();
    loop {
        if process.ended().is_none()
            && let Ok(mut connection) = open(&local(port).to_string(), Duration::from_millis(500)).await
            && let Ok(info) = cmd("INFO").arg("server").query_async::<String>(&mut connection).await
            // Somebody else's server may sit on the port.
            && info.lines().any(|l| l.trim() == format!("process_id:{}", process.pid()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_told_from_other_troubles_and_another_one_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a \"b\" ü");
        std::fs::create_dir(&dir).unwrap();
        let program = find().unwrap_or_else(|failure| panic!("{failure}"));
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let process = launch(&program, &dir, "broker-x", port, None).unwrap();
        assert!(answers(port, &process).await.is_err());
        assert!(process.found_port_taken(), "{}", process.last_words());

        let mut server = Server::start(&program, &dir, "broker-a", None, true).await.unwrap();
        assert_ne!(server.port(), port);
        assert_eq!(server.role().await, Some("primary"));
        let pid = server.process.pid();
        server.start_again().await.unwrap();
        assert_ne!(server.process.pid(), pid);
        let written = std::fs::read_to_string(dir.join("broker-a.pid")).unwrap();
        assert_eq!(written.trim(), server.process.pid().to_string());
    }
}
