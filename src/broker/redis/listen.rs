//! Listening like a consumer: what arrives here would arrive at a consumer too.

use std::time::Duration;

use redis::{Value, cmd};
use tokio::time::{interval, timeout};

use super::{Connection, RedisBroker, text};
use crate::model::{Failure, FailureKind, Target};

/// A way that says nothing for this long, although it was asked, is dead.
const SILENT_FOR: Duration = Duration::from_secs(3);
/// How often an idle way is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Opening a connection may take this long. Below a second: before the kernel repeats a first packet that a shut gate threw
/// away, a new attempt may find the gate open.
const OPEN_WITHIN: Duration = Duration::from_millis(800);
/// Messages of the service may be this long.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// Entries asked for at once.
const ENTRIES: usize = 16;

impl RedisBroker {
    pub(super) async fn listen_to_channels(
        &self,
        target: &Target,
        channels: &[String],
        came: &(dyn Fn(u64) + Send + Sync),
    ) -> Failure {
        let listen = async {
            let mut connection = self.open_to_listen(target).await?;
            let mut subscribe = cmd("SUBSCRIBE");
            subscribe.arg(channels);
            connection.send(&subscribe).await?;
            let mut asks = interval(ASK_EVERY);
            let mut asked_in_vain = 0;
            loop {
                tokio::select! {
                    said = connection.next() => {
                        asked_in_vain = 0;
                        // `message`, channel, payload; `subscribe` and `pong` are answers to us.
                        if let Value::Array(parts) = said?
                            && parts.first().and_then(text).is_some_and(|kind| kind == "message")
                        {
                            came(1);
                        }
                    }
                    _ = asks.tick() => {
                        if ASK_EVERY * asked_in_vain > SILENT_FOR {
                            return Err(Failure::no_answer_within(SILENT_FOR));
                        }
                        asked_in_vain += 1;
                        connection.send(&cmd("PING")).await?;
                    }
                }
            }
        };
        ended(listen.await)
    }

    pub(super) async fn listen_to_streams(
        &self,
        target: &Target,
        streams: &[String],
        came: &(dyn Fn(u64) + Send + Sync),
    ) -> Failure {
        let listen = async {
            let mut connection = self.open_to_listen(target).await?;
            // The last entry's name, rather than `$` each time: nothing that comes between two questions is missed.
            let mut last = Vec::with_capacity(streams.len());
            for stream in streams {
                let newest =
                    connection.call(cmd("XREVRANGE").arg(stream).arg("+").arg("-").arg("COUNT").arg(1)).await?;
                last.push(entries(&newest).last().cloned().unwrap_or_else(|| "0-0".into()));
            }
            loop {
                let mut read = cmd("XREAD");
                read.arg("COUNT")
                    .arg(ENTRIES)
                    .arg("BLOCK")
                    .arg(millis(ASK_EVERY))
                    .arg("STREAMS")
                    .arg(streams)
                    .arg(&last);
                let reply = timeout(ASK_EVERY + SILENT_FOR, connection.call(&read)).await;
                // Nil: nothing came.
                let Value::Array(found) = reply.map_err(|_| Failure::no_answer_within(SILENT_FOR))?? else { continue };
                for stream in found {
                    let Value::Array(pair) = stream else { continue };
                    let [name, new] = pair.as_slice() else { continue };
                    let (name, new) = (text(name).unwrap_or_default(), entries(new));
                    let place = streams.iter().position(|stream| *stream == name).and_then(|at| last.get_mut(at));
                    if let (Some(place), Some(newest)) = (place, new.last()) {
                        place.clone_from(newest);
                        came(new.len() as u64);
                    }
                }
            }
        };
        ended(listen.await)
    }

    async fn open_to_listen(&self, target: &Target) -> Result<Connection, Failure> {
        let opened = timeout(OPEN_WITHIN, self.door.open(target)).await;
        let mut connection = opened.map_err(|_| Failure::no_answer_within(OPEN_WITHIN))??;
        connection.accept(MESSAGE_MAX);
        Ok(connection)
    }
}

fn ended(result: Result<std::convert::Infallible, Failure>) -> Failure {
    match result {
        Ok(never) => match never {},
        Err(failure) if failure.kind == FailureKind::Parse => {
            Failure::new(failure.kind, format!("{} (or a message is longer than 16 MiB)", failure.text))
        }
        Err(failure) => failure,
    }
}

/// The names of the entries in a reply.
fn entries(reply: &Value) -> Vec<String> {
    let Value::Array(list) = reply else { return Vec::new() };
    let name = |entry: &Value| match entry {
        Value::Array(parts) => parts.first().and_then(text),
        _ => None,
    };
    list.iter().filter_map(name).collect()
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
