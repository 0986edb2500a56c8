//! TCP connections with a named reason when there is none, and addresses that outlive the name service.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{Mutex, OnceLock, PoisonError},
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream};

use crate::model::{Failure, FailureKind};

/// Opens TCP connections and keeps the last good answer of the name service.
///
/// A literal address never asks anybody. A name is asked for again only after a connection to the remembered
/// address failed; when the name service fails then, the last good address is used.
#[derive(Debug, Default)]
pub struct Connector {
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Clone, Debug)]
struct Known {
    addresses: Vec<SocketAddr>,
    doubted: bool,
}

impl Connector {
    /// Connects to `host:port`. The caller bounds it in time.
    ///
    /// # Errors
    /// The failure with its kind. A name that has never been resolved is trouble of our own: it says nothing of
    /// the subject.
    pub async fn connect(&self, address: &str) -> Result<TcpStream, Failure> {
        if let Ok(literal) = address.parse::<SocketAddr>() {
            let stream = open(literal).await.map_err(|e| failure_of(&e))?;
            // Small questions and answers: waiting to fill a packet would only add latency.
            let _ = stream.set_nodelay(true);
            return Ok(stream);
        }
        let addresses = self.resolve(address).await?;
        let mut last = Failure::new(FailureKind::Local, format!("{address} has no address"));
        for candidate in addresses {
            match open(candidate).await {
                Ok(stream) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) => last = failure_of(&error),
            }
        }
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get_mut(address) {
            known.doubted = true;
        }
        Err(last)
    }

    async fn resolve(&self, address: &str) -> Result<Vec<SocketAddr>, Failure> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(address).cloned();
        if let Some(Known { addresses, doubted: false }) = known {
            return Ok(addresses);
        }
        let found = tokio::net::lookup_host(address).await.map(Iterator::collect::<Vec<_>>);
        match (found, known) {
            (Ok(addresses), _) if !addresses.is_empty() => {
                let entry = Known { addresses: addresses.clone(), doubted: false };
                self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(address.to_owned(), entry);
                Ok(addresses)
            }
            (_, Some(known)) => Ok(known.addresses),
            (Err(error), None) => {
                Err(Failure::new(FailureKind::Local, format!("the address {address} cannot be resolved: {error}")))
            }
            (Ok(_), None) => Err(Failure::new(FailureKind::Local, format!("the name {address} has no address"))),
        }
    }
}

/// The mark of this process's connections, once it was set.
static MARK: OnceLock<u32> = OnceLock::new();

/// From now on all connections of this process carry this mark (`SO_MARK`), by which a gate on this host lets its own
/// agent through. Needs CAP_NET_ADMIN; without it they are opened without. Only the first call counts.
pub fn mark_connections(mark: u32) {
    MARK.get_or_init(|| mark);
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let Some(mark) = MARK.get() else { return TcpStream::connect(address).await };
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Where it may not be marked the gate decides, and what it keeps out is told as such.
    let _ = setsockopt(&socket, sockopt::Mark, mark);
    socket.connect(address).await
}

/// What an error of a socket means. What is not clearly the other side's doing is trouble of our own, which never
/// counts towards a death.
#[must_use]
pub fn failure_of(error: &io::Error) -> Failure {
    if is_tls(error) {
        return Failure::new(FailureKind::Tls, error.to_string());
    }
    let kind = match error.kind() {
        ErrorKind::ConnectionRefused => FailureKind::Refused,
        ErrorKind::TimedOut => FailureKind::TimedOut,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => FailureKind::Unreachable,
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected
        | ErrorKind::UnexpectedEof => FailureKind::Reset,
        _ => FailureKind::Local,
    };
    Failure::new(kind, error.to_string())
}

/// Whether TLS itself failed: a certificate, a version, garbage in place of a handshake.
fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_listening_is_refused_and_a_name_is_remembered() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connector = Connector::default();
        let by_name = format!("localhost:{port}");
        connector.connect(&by_name).await.unwrap();
        assert!(connector.known.lock().unwrap().contains_key(&by_name));
        drop(listener);
        for address in [by_name, format!("127.0.0.1:{port}")] {
            assert_eq!(connector.connect(&address).await.unwrap_err().kind, FailureKind::Refused, "{address}");
        }
        assert!(connector.known.lock().unwrap().values().all(|known| known.doubted));
    }

    #[tokio::test]
    async fn a_name_that_was_never_known_is_our_own_trouble() {
        let failure = Connector::default().connect("no-such-host.invalid:1").await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Local, "{failure}");
    }

    #[test]
    fn errors_keep_their_kind() {
        let tls = io::Error::new(ErrorKind::InvalidData, rustls::Error::DecryptError);
        assert_eq!(failure_of(&tls).kind, FailureKind::Tls);
        assert_eq!(failure_of(&io::Error::from(ErrorKind::HostUnreachable)).kind, FailureKind::Unreachable);
        assert_eq!(failure_of(&io::Error::from(ErrorKind::UnexpectedEof)).kind, FailureKind::Reset);
        assert_eq!(failure_of(&io::Error::from_raw_os_error(24)).kind, FailureKind::Local, "too many open files");
    }
}
