//! The clients of a relay: [`Control`] asks and orders, a [`Sender`] sends, a [`Node`](NodeClient) receives.

use std::{fmt, io, time::Duration};

use futures::FutureExt as _;
use tokio::{
    io::AsyncWriteExt as _,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::{
    control::{Answer, Request},
    wire::{self, Frame, FrameReader, Hello, Kind, Refusal, Welcome, Why},
};

mod node;
mod sender;

pub use node::{Arrival, Message, NodeClient, NodeHandle, NodeOptions, NodeState};
pub use sender::{SendError, Sender, SenderOptions, SenderState};

/// How long a connection and the greeting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// The first pause after a failed attempt, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Whoever says nothing for so long although it should is given up, and connected to anew.
const SILENT_AT_MOST: Duration = Duration::from_secs(5);

/// Why a controller got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No connection: nothing was asked.
    #[error("{address} cannot be reached: {detail}; nothing was asked")]
    Connect {
        /// Whom.
        address: String,
        /// Why not, in words.
        detail: String,
        /// The same as the operating system says it: refused, timed out.
        kind: io::ErrorKind,
    },
    /// It was sent, at least in part, and no answer came: it may have happened.
    #[error("{address} did not answer: {detail}; it may have happened")]
    NoAnswer {
        /// Whom.
        address: String,
        /// Why not, in words.
        detail: String,
        /// The same as the operating system says it. `InvalidData`: it answered, but not as a relay does.
        kind: io::ErrorKind,
    },
}

impl ClientError {
    /// Whether what was asked may have happened.
    #[must_use]
    pub const fn may_have_happened(&self) -> bool {
        matches!(self, Self::NoAnswer { .. })
    }

    /// How it failed, as the operating system says it.
    #[must_use]
    pub const fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Connect { kind, .. } | Self::NoAnswer { kind, .. } => *kind,
        }
    }
}

/// A connection of somebody who asks and orders. Questions are answered one after the other.
#[derive(Debug)]
pub struct Control {
    address: String,
    link: Option<Link>,
}

impl Control {
    /// Connects.
    ///
    /// # Errors
    /// It cannot, or not in time.
    pub async fn connect(address: &str, within: Duration) -> Result<Self, ClientError> {
        let link = match timeout(within, Link::open(address, &Hello::Control)).await {
            Ok(Ok(link)) => link,
            Ok(Err(e)) => return Err(unreachable(address, &e)),
            Err(_) => return Err(unreachable(address, &io::ErrorKind::TimedOut.into())),
        };
        Ok(Self { address: address.to_owned(), link: Some(link) })
    }

    /// Uses a connection that the caller opened to `address`, and bounds in time.
    ///
    /// # Errors
    /// It broke at once.
    pub async fn over(stream: TcpStream, address: &str) -> Result<Self, ClientError> {
        let link = Link::over(stream, &Hello::Control).await.map_err(|e| unreachable(address, &e))?;
        Ok(Self { address: address.to_owned(), link: Some(link) })
    }

    /// Whether the connection is of no more use, found without sending anything. That of a frozen relay is open.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let Some(link) = &self.link else { return true };
        let mut byte = [0_u8; 1];
        // `peek` takes nothing out of the stream; whatever waits there was not asked for.
        link.reader.get_ref().as_ref().peek(&mut byte).now_or_never().is_some()
    }

    /// Asks, and waits for the answer. After an error the connection is of no more use.
    ///
    /// # Errors
    /// [`ClientError::may_have_happened`] says whether what was asked may have happened.
    pub async fn ask(&mut self, request: &Request, within: Duration) -> Result<Answer, ClientError> {
        let none = |detail: &dyn fmt::Display, kind| ClientError::NoAnswer {
            address: self.address.clone(),
            detail: detail.to_string(),
            kind,
        };
        let spent = || unreachable(&self.address, &io::Error::other("the connection broke before; connect anew"));
        // Taken out: whoever gives up halfway must not read the answer to this question as that to the next.
        let mut link = self.link.take().ok_or_else(spent)?;
        let frame = wire::json(Kind::Ask, request).map_err(|e| unreachable(&self.address, &e))?;
        let talk = async {
            link.writer.write_all(&frame).await?;
            link.expect(Kind::Answer).await?.json::<Answer>()
        };
        match timeout(within, talk).await {
            Ok(Ok(answer)) => {
                self.link = Some(link);
                Ok(answer)
            }
            Ok(Err(e)) => Err(none(&e, e.kind())),
            Err(_) => Err(none(&format_args!("not within {within:?}"), io::ErrorKind::TimedOut)),
        }
    }

    /// Connects, asks once, and closes.
    ///
    /// # Errors
    /// As [`connect`](Self::connect) and [`ask`](Self::ask); the time is for both together.
    pub async fn ask_once(address: &str, request: &Request, within: Duration) -> Result<Answer, ClientError> {
        let watch = crate::sys::clock::Stopwatch::start();
        let mut control = Self::connect(address, within).await?;
        control.ask(request, within.saturating_sub(watch.elapsed())).await
    }
}

fn unreachable(address: &str, error: &io::Error) -> ClientError {
    ClientError::Connect { address: address.to_owned(), detail: error.to_string(), kind: error.kind() }
}

/// Both halves of a connection.
#[derive(Debug)]
struct Link {
    reader: FrameReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

/// What came of a greeting.
enum Greeted {
    Welcome(Link, Welcome),
    Refused(Refusal),
}

impl Link {
    async fn open(address: &str, hello: &Hello) -> io::Result<Self> {
        Self::over(TcpStream::connect(address).await?, hello).await
    }

    async fn over(stream: TcpStream, hello: &Hello) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (reader, mut writer) = stream.into_split();
        writer.write_all(&wire::json(Kind::Hello, hello)?).await?;
        Ok(Self { reader: FrameReader::new(reader, wire::MAX_FRAME), writer })
    }

    /// Connects and greets, in bounded time.
    async fn greet(address: &str, hello: &Hello) -> io::Result<Greeted> {
        let greet = async {
            let mut link = Self::open(address, hello).await?;
            let frame = link.next().await?;
            match frame.kind {
                Kind::Welcome => Ok(Greeted::Welcome(link, frame.json()?)),
                Kind::Refused => Ok(Greeted::Refused(frame.json()?)),
                other => Err(wire::bad(format!("{other:?} as the answer to a greeting"))),
            }
        };
        timeout(CONNECT_WITHIN, greet).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn next(&mut self) -> io::Result<Frame> {
        self.reader
            .next()
            .await?
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection"))
    }

    async fn expect(&mut self, kind: Kind) -> io::Result<Frame> {
        let frame = self.next().await?;
        if frame.kind == kind { Ok(frame) } else { Err(wire::bad(format!("{:?} instead of {kind:?}", frame.kind))) }
    }
}

/// Where a client turns to, and the largest epoch that it has heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    address: String,
    epoch: u64,
}

impl Target {
    /// Takes another one unless its epoch is smaller. Answers whether it was taken.
    fn offer(&mut self, address: &str, epoch: u64) -> bool {
        if epoch < self.epoch {
            return false;
        }
        address.clone_into(&mut self.address);
        self.epoch = epoch;
        true
    }
}

/// Waits longer after each failure in a row.
#[derive(Debug)]
struct Backoff(Duration);

impl Backoff {
    const fn new() -> Self {
        Self(PAUSES.0)
    }

    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (self.0 * 2).min(PAUSES.1);
        pause
    }
}
