//! One connection to one instance: open, authenticate, ask, with every failure under its name.
//!
//! The `redis` crate packs commands and parses replies; the stream is ours, so that a connection can be held open
//! over a freeze and a late reply is never taken for the answer to a later question.

use std::net::IpAddr;

use bytes::{Buf, BytesMut};
use redis::{Cmd, Value};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Redis, Tls, reply};
use crate::{
    model::{Failure, FailureKind, Secret, Target},
    sys::{
        net::{Connector, failure_of},
        tls,
    },
};

/// No reply that we ask for is near this; whatever sends more is not what we think it is.
const REPLY_MAX: usize = 256 * 1024;

/// How to reach and enter any instance of the cluster.
pub(super) struct Door {
    connector: Connector,
    user: Option<String>,
    password: Option<Secret>,
    tls: Option<(TlsConnector, Option<ServerName<'static>>)>,
}

impl Door {
    /// Reads certificates and keys; opens nothing.
    pub(super) fn new(config: &Redis) -> Result<Self, String> {
        let tls = config.tls.as_ref().map(prepare_tls).transpose()?;
        if config.user.is_some() && config.password.is_none() {
            return Err("redis: `user` is written without `password`; write both, or neither".into());
        }
        Ok(Self { connector: Connector::default(), user: config.user.clone(), password: config.password.clone(), tls })
    }

    /// Opens a connection and authenticates. The caller bounds it in time.
    pub(super) async fn open(&self, target: &Target) -> Result<Connection, Failure> {
        let tcp = self.connector.connect(&target.address).await?;
        let stream = match &self.tls {
            None => Stream::Plain(tcp),
            Some((connector, name)) => {
                let name = name.clone().map_or_else(|| server_name(target.host()), Ok)?;
                let stream = connector.connect(name, tcp).await.map_err(|e| failure_of(&e))?;
                Stream::Tls(Box::new(stream))
            }
        };
        let mut connection = Connection { stream, buffer: BytesMut::new(), owed: 0, broken: false, longest: REPLY_MAX };
        if let Some(password) = &self.password {
            let mut auth = redis::cmd("AUTH");
            if let Some(user) = &self.user {
                auth.arg(user);
            }
            auth.arg(password.expose());
            connection.call(&auth).await?;
        }
        Ok(connection)
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, Failure> {
    let name = host.parse::<IpAddr>().map(|ip| ServerName::IpAddress(ip.into()));
    name.or_else(|_| ServerName::try_from(host.to_owned()))
        .map_err(|_| Failure::new(FailureKind::Local, format!("`{host}` is not a name that a certificate can have")))
}

fn prepare_tls(own: &Tls) -> Result<(TlsConnector, Option<ServerName<'static>>), String> {
    let parts = (own.ca.as_deref(), own.cert.as_deref(), own.key.as_deref());
    let config = tls::client_config("redis.tls", parts.0, parts.1, parts.2)?;
    let name = own.server_name.clone().map(|name| {
        ServerName::try_from(name.clone()).map_err(|_| format!("redis.tls.server_name: `{name}` is not a host name"))
    });
    Ok((TlsConnector::from(config), name.transpose()?))
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// An open, authenticated connection.
pub(super) struct Connection {
    stream: Stream,
    buffer: BytesMut,
    /// Replies that the instance still owes us: of a call that was given up, too.
    owed: usize,
    /// A command was sent in part; nothing after it would be understood.
    broken: bool,
    /// Longer answers are garbage.
    longest: usize,
}

impl Connection {
    /// Takes answers up to this length: for messages of the service, whose length is its own affair.
    pub(super) const fn accept(&mut self, longest: usize) {
        self.longest = longest;
    }

    /// Sends a command, and does not wait for its reply.
    pub(super) async fn send(&mut self, command: &Cmd) -> Result<(), Failure> {
        self.write(&command.get_packed_command()).await.map_err(|error| failure_of(&error))
    }

    /// What the instance says by itself, once it was subscribed to. May be given up and called again.
    pub(super) async fn next(&mut self) -> Result<Value, Failure> {
        reply::said(self.reply().await?)
    }

    /// Sends a command and waits for its reply. Giving up in the middle is harmless: the late reply is skipped.
    pub(super) async fn call(&mut self, command: &Cmd) -> Result<Value, Failure> {
        let [reply] = self.call_each([command]).await?;
        reply
    }

    /// Sends commands together and waits for their replies: an instance that is busy with others has one turn for all of
    /// them instead of one for each.
    pub(super) async fn call_each<const N: usize>(
        &mut self,
        commands: [&Cmd; N],
    ) -> Result<[Result<Value, Failure>; N], Failure> {
        if self.broken {
            return Err(Failure::new(FailureKind::Reset, "the connection was given up in the middle of a command"));
        }
        self.broken = true;
        let packed: Vec<u8> = commands.iter().flat_map(|command| command.get_packed_command()).collect();
        match self.write(&packed).await {
            Ok(()) => {
                self.broken = false;
                self.owed += N;
            }
            // An instance that closes at once may have said why before.
            Err(error) => return Err(self.last_words().await.unwrap_or_else(|| failure_of(&error))),
        }
        // What calls before left behind.
        while self.owed > N {
            self.reply().await?;
            self.owed -= 1;
        }
        let mut replies = [const { Ok(Value::Nil) }; N];
        for place in &mut replies {
            let reply = self.reply().await?;
            self.owed = self.owed.saturating_sub(1);
            *place = reply::said(reply);
        }
        Ok(replies)
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes).await,
            Stream::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    async fn last_words(&mut self) -> Option<Failure> {
        let reply = self.reply().await.ok()?;
        reply::said(reply).err()
    }

    async fn reply(&mut self) -> Result<Value, Failure> {
        loop {
            if let Some(length) = reply::length(&self.buffer, self.longest)? {
                let value = reply::read(&self.buffer[..length]);
                self.buffer.advance(length);
                return value;
            }
            if self.buffer.len() > self.longest.saturating_add(REPLY_MAX) {
                return Err(reply::garbage("the answer is too long"));
            }
            self.fill().await?;
        }
    }

    /// The next bytes as they come, for a stream that is no reply.
    pub(super) async fn raw(&mut self) -> Result<BytesMut, Failure> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(self.buffer.split())
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        let read = match &mut self.stream {
            Stream::Plain(stream) => stream.read_buf(&mut self.buffer).await,
            Stream::Tls(stream) => stream.read_buf(&mut self.buffer).await,
        };
        match read {
            Ok(0) => Err(Failure::new(FailureKind::Reset, "the connection was closed")),
            Ok(_) => Ok(()),
            Err(error) => Err(failure_of(&error)),
        }
    }

    /// Whether the other side has closed or cut the connection, found without sending anything. A frozen
    /// instance's connection is open.
    pub(super) fn is_closed(&self) -> bool {
        let tcp = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        };
        let mut byte = [0_u8; 1];
        // `peek` takes nothing out of the stream, so a late reply stays where it is.
        match futures::FutureExt::now_or_never(tcp.peek(&mut byte)) {
            Some(Ok(0) | Err(_)) => true,
            Some(Ok(_)) | None => self.broken,
        }
    }
}
