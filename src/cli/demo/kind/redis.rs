//! The demo on Redis: a primary and a standby that replicates, a stream of messages, pub/sub for the canary.
//!
//! Redis replicates asynchronously, and a message has no key by which it could be recognised: each is tried once, and what
//! was acknowledged in the last moment may be lost.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use futures::StreamExt as _;
use redis::{RedisResult, Value, aio::MultiplexedConnection, cmd};
use tokio::process::Command;

use super::{
    At, Broker, Inbox, Kind, Launch, Look, Receive, Transmit, Words,
    stream::{STREAM, messages, messages_of_xread, open},
};
use crate::cli::exit::{Code, Failure};

/// The channel of the canary.
const CANARIES: &str = "coroner:canary";

/// How to get Redis.
const REMEDY: &str = "Install it: `apt-get install redis-server` (Debian, Ubuntu), `dnf install redis` (Fedora), \
                      `apk add redis` (Alpine), `brew install redis` (macOS); or play it with the broker of this package: \
                      `coroner demo`.";

/// A message whose answer takes longer is given up; whether it was taken is not known.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// The kind.
#[derive(Debug)]
pub(crate) struct Redis;

/// Finds `redis-server`, or what speaks like it.
fn find() -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = ["redis-server", "valkey-server"]
        .iter()
        .flat_map(|name| std::env::split_paths(&path).map(move |dir| dir.join(name)))
        .find(|file| file.is_file());
    found.ok_or_else(|| {
        Failure::new(
            Code::Unavailable,
            format!("This demo needs a real Redis, and there is no `redis-server` in PATH. {REMEDY}"),
        )
    })
}

#[async_trait]
impl Kind for Redis {
    fn broker(&self) -> Broker {
        Broker::Redis
    }

    fn cast(&self) -> &'static str {
        "A Redis primary and a standby"
    }

    fn check(&self) -> Result<(), Failure> {
        find().map(drop)
    }

    fn executable(&self) -> Result<String, Failure> {
        // The links to it are followed.
        let program = find()?;
        let real = program.canonicalize().unwrap_or(program);
        Ok(real.file_name().unwrap_or_default().to_string_lossy().into_owned())
    }

    fn words(&self) -> Words {
        Words {
            title: "one Redis pair on one machine, three nodes, a sender",
            broker: "{ redis: {} }",
            max_loss: "{ bytes: 65536 }   # Redis replicates asynchronously: what is on its way may be lost.",
            rejoin: "an old primary that comes back becomes the standby",
        }
    }

    fn command(&self, launch: &Launch<'_>) -> Result<Command, Failure> {
        let Launch { dir, name, port, follows } = *launch;
        let data = dir.join(name);
        std::fs::create_dir_all(&data)
            .map_err(|e| Failure::new(Code::CannotCreate, format!("Cannot create {}: {e}.", data.display())))?;
        // A file of its own, so that a promotion or a rejoin outlives a restart of the server.
        let quoted =
            |path: &Path| format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""));
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
        let mut command = Command::new(find()?);
        command.arg(file);
        Ok(command)
    }

    async fn look(&self, at: SocketAddr) -> Result<Look, String> {
        let info = async {
            let mut connection = open(&at.to_string(), Duration::from_millis(500)).await?;
            let mut server = cmd("INFO").arg("server").query_async::<String>(&mut connection).await?;
            server.push_str(&cmd("INFO").arg("replication").query_async::<String>(&mut connection).await?);
            RedisResult::Ok(server)
        };
        let info = info.await.map_err(|e| e.to_string())?;
        let value = |key: &str| info.lines().find_map(|l| l.trim().strip_prefix(key)?.strip_prefix(':'));
        Ok(Look {
            process: value("process_id").and_then(|id| id.parse().ok()),
            role: if value("role") == Some("master") { "primary" } else { "standby" },
            is_linked: value("master_link_status") == Some("up"),
        })
    }

    async fn refuse_writes(&self, at: SocketAddr) -> Result<(), String> {
        let set = async {
            let mut connection = open(&at.to_string(), Duration::from_secs(1)).await?;
            for (key, value) in [("maxmemory-policy", "noeviction"), ("maxmemory", "1")] {
                cmd("CONFIG").arg("SET").arg(key).arg(value).query_async::<()>(&mut connection).await?;
            }
            RedisResult::Ok(())
        };
        set.await.map_err(|e| e.to_string())
    }

    fn refusal(&self) -> &'static str {
        "its memory is full"
    }

    fn receiver(&self, _: &str) -> Box<dyn Receive> {
        Box::new(Reader { last_id: None })
    }

    fn sender(&self, _: &str) -> Box<dyn Transmit> {
        Box::new(Writer { connection: None })
    }

    async fn kept(&self, at: SocketAddr) -> Result<BTreeSet<u64>, String> {
        let read = async {
            let mut connection = open(&at.to_string(), Duration::from_secs(5)).await?;
            cmd("XRANGE").arg(STREAM).arg("-").arg("+").query_async::<Value>(&mut connection).await
        };
        let entries = read.await.map_err(|e| e.to_string())?;
        Ok(messages(&entries).into_iter().map(|m| m.number).collect())
    }
}

/// Reads the stream from the last message it has seen.
struct Reader {
    last_id: Option<String>,
}

impl Reader {
    async fn read(&mut self, address: &str, inbox: &Inbox) -> RedisResult<()> {
        let mut connection = open(address, Duration::from_secs(2)).await?;
        loop {
            let from = self.last_id.as_deref().unwrap_or("0");
            let mut xread = cmd("XREAD");
            xread.arg("COUNT").arg(1_000).arg("BLOCK").arg(500).arg("STREAMS").arg(STREAM).arg(from);
            let answer: Value = xread.query_async(&mut connection).await?;
            let messages = messages_of_xread(&answer);
            let Some(last) = messages.last() else { continue };
            self.last_id = Some(last.id.clone());
            inbox.take(&messages.iter().map(|m| m.number).collect::<Vec<_>>());
        }
    }
}

#[async_trait]
impl Receive for Reader {
    async fn receive(&mut self, at: At<'_>, inbox: &Inbox) -> String {
        tokio::select! {
            ended = self.read(at.address, inbox) => match ended {
                Ok(()) => "the stream ended".into(),
                Err(error) => error.to_string(),
            },
            never = take_canaries(at.address, inbox) => match never {},
        }
    }
}

/// Canaries come on a connection of their own, which does not bring the reading down.
async fn take_canaries(address: &str, inbox: &Inbox) -> std::convert::Infallible {
    loop {
        let subscribed = async {
            let mut pubsub = redis::Client::open(format!("redis://{address}"))?.get_async_pubsub().await?;
            pubsub.subscribe(CANARIES).await?;
            let mut messages = pubsub.on_message();
            while let Some(message) = messages.next().await {
                inbox.canary(message.get_payload()?);
            }
            RedisResult::Ok(())
        };
        let _ = subscribed.await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Adds to the stream.
struct Writer {
    connection: Option<MultiplexedConnection>,
}

#[async_trait]
impl Transmit for Writer {
    async fn send(&mut self, at: At<'_>, number: u64) -> Result<(), String> {
        let send = async {
            let connection = match &mut self.connection {
                Some(connection) => connection,
                None => self.connection.insert(open(at.address, ANSWER_WITHIN).await?),
            };
            let mut xadd = cmd("XADD");
            xadd.arg(STREAM).arg("MAXLEN").arg("~").arg(100_000).arg("*").arg("n").arg(number);
            xadd.query_async::<String>(connection).await.map(drop)
        };
        match tokio::time::timeout(ANSWER_WITHIN, send).await {
            Ok(sent) => sent.map_err(|e| e.to_string()),
            Err(_) => Err("no answer".into()),
        }
    }

    fn is_repeatable(&self) -> bool {
        false
    }

    fn hang_up(&mut self) {
        self.connection = None;
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, sync::Arc};

    use super::{super::super::server, *};

    #[tokio::test]
    async fn a_taken_port_is_told_from_other_troubles_and_another_one_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("a \"b\" ü");
        std::fs::create_dir(&dir).unwrap();
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let kind: Arc<dyn Kind> = Arc::new(Redis);
        kind.check().unwrap_or_else(|failure| panic!("{failure}"));
        server::test_a_taken_port(&kind, &dir, port).await;
    }
}
