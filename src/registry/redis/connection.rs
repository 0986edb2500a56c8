//! One connection to the server, for one question at a time: what was never sent is known not to have happened.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use redis::{Cmd, Value};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{model::Secret, registry::RegistryError, sys::net::Connector};

/// How to reach and enter the server.
pub(super) struct Door {
    pub(super) connector: Connector,
    pub(super) place: String,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) database: u32,
}

impl Door {
    /// Opens a connection, authenticates, chooses the database. Nothing was written by anything that fails here.
    pub(super) async fn open(&self) -> Result<Connection, RegistryError> {
        let cannot = |text: String| RegistryError::Failed(format!("redis at {} cannot be used: {text}", self.place));
        let tcp = self.connector.connect(&self.place).await.map_err(|e| cannot(e.to_string()))?;
        let stream: Box<dyn Wire> = match &self.tls {
            None => Box::new(tcp),
            Some(config) => {
                let host = self.place.rsplit_once(':').map_or(self.place.as_str(), |(host, _)| host);
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                    .map_err(|_| cannot(format!("`{host}` is not a name that a certificate can have")))?;
                let tls = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await;
                Box::new(tls.map_err(|e| cannot(e.to_string()))?)
            }
        };
        let mut connection = Connection { stream, buffer: BytesMut::new(), replicas: 0 };
        if let Some(password) = &self.password {
            let mut auth = redis::cmd("AUTH");
            if let Some(user) = &self.user {
                auth.arg(user);
            }
            connection.ask(auth.arg(password.expose())).await.map_err(|e| cannot(e.text))?;
        }
        if self.database != 0 {
            connection.ask(redis::cmd("SELECT").arg(self.database)).await.map_err(|e| cannot(e.text))?;
        }
        Ok(connection)
    }
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for tokio_rustls::client::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Why a command got no answer that pleases.
pub(super) struct Refused {
    /// The first word of the server's error; empty if the connection failed.
    pub(super) code: String,
    /// In words.
    pub(super) text: String,
}

/// An open, authenticated connection. Whoever gives up in the middle of a question drops it.
pub(super) struct Connection {
    stream: Box<dyn Wire>,
    buffer: BytesMut,
    /// How many replicas are waited for after a write.
    pub(super) replicas: u32,
}

impl Connection {
    /// Whether the other side has closed it, found without sending anything.
    pub(super) fn is_closed(&self) -> bool {
        let mut byte = [0_u8; 1];
        // Nothing is owed to us between two questions: whatever can be read is the end, or a server that babbles.
        futures::FutureExt::now_or_never(self.stream.tcp().peek(&mut byte)).is_some()
    }

    /// Sends a command and reads its answer.
    pub(super) async fn ask(&mut self, command: &Cmd) -> Result<Value, Refused> {
        let lost = |e: std::io::Error| Refused { code: String::new(), text: e.to_string() };
        self.stream.write_all(&command.get_packed_command()).await.map_err(lost)?;
        self.stream.flush().await.map_err(lost)?;
        let reply = loop {
            if let Some(length) = whole(&self.buffer) {
                let reply = redis::parse_redis_value(&self.buffer[..length]);
                self.buffer.advance(length);
                break reply;
            }
            self.buffer.reserve(16 * 1024);
            if self.stream.read_buf(&mut self.buffer).await.map_err(lost)? == 0 {
                return Err(Refused { code: String::new(), text: "the connection was closed".into() });
            }
        };
        reply.and_then(Value::extract_error).map_err(|e| {
            let code = e.code().unwrap_or("garbage").to_owned();
            Refused { text: format!("{code} {}", e.detail().map_or_else(|| e.to_string(), str::to_owned)), code }
        })
    }
}

/// The length of the first whole answer; `None` while it is incomplete. What cannot be an answer counts as whole, and is
/// refused by the parser.
fn whole(bytes: &[u8]) -> Option<usize> {
    // Depth first, without recursion: `open` values are still to come.
    let (mut at, mut open) = (0_usize, 1_usize);
    while open > 0 {
        let line = bytes.get(at..)?.windows(2).position(|two| two == b"\r\n")?;
        let number = || std::str::from_utf8(&bytes[at + 1..at + line]).ok()?.parse::<i64>().ok();
        let next = at + line + 2;
        open -= 1;
        at = match bytes[at] {
            b'$' => match number() {
                Some(length) => next + usize::try_from(length).map_or(0, |length| length.saturating_add(2)),
                None => return Some(bytes.len()),
            },
            b'*' => match number() {
                Some(count) => {
                    open = open.saturating_add(usize::try_from(count).unwrap_or(0));
                    next
                }
                None => return Some(bytes.len()),
            },
            b'+' | b'-' | b':' => next,
            _ => return Some(bytes.len()),
        };
    }
    (at <= bytes.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_cut_where_it_ends() {
        let answers: [&[u8]; 7] = [
            b"+OK\r\n",
            b"-ERR no\r\n",
            b":-12\r\n",
            b"$4\r\na\r\nb\r\n",
            b"$-1\r\n",
            b"*3\r\n$2\r\nok\r\n*0\r\n*2\r\n:1\r\n$0\r\n\r\n",
            b"*-1\r\n",
        ];
        for answer in answers {
            let more = [answer, b"+next\r\n"].concat();
            assert_eq!(whole(&more), Some(answer.len()), "{}", answer.escape_ascii());
            for cut in 0..answer.len() {
                assert_eq!(whole(&answer[..cut]), None, "{} cut at {cut}", answer.escape_ascii());
            }
        }
        for garbage in [&b"HTTP/1.1 400\r\n"[..], b"$x\r\n", b"*x\r\n"] {
            let end = whole(garbage).unwrap();
            assert!(redis::parse_redis_value(&garbage[..end]).is_err(), "{}", garbage.escape_ascii());
        }
    }
}
