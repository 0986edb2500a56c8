//! A cable that can be cut without root: a relay in front of a server. Cut, it keeps what is in it and passes
//! nothing, as a cable does: connections hang, none is refused or closed.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::JoinHandle,
};

/// A relay on a free port of loopback. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Cable {
    address: SocketAddr,
    whole: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl Cable {
    /// Lays a cable to `target`.
    pub(crate) async fn lay(target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let whole = Arc::new(watch::Sender::new(true));
        let plug = Arc::clone(&whole);
        let task = tokio::spawn(async move {
            let mut relays = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    Ok((client, _)) = listener.accept() => {
                        relays.spawn(relay(client, target, plug.subscribe()));
                    }
                    Some(_) = relays.join_next(), if !relays.is_empty() => {}
                }
            }
        });
        Ok(Self { address, whole, task })
    }

    /// Where it is plugged in.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts it.
    pub(crate) fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Mends it.
    pub(crate) fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(client: TcpStream, target: SocketAddr, mut whole: watch::Receiver<bool>) {
    if whole.wait_for(|whole| *whole).await.is_err() {
        return;
    }
    // A server that refuses is shown as a connection that closes at once.
    let Ok(server) = TcpStream::connect(target).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::join!(pass(from_client, to_server, whole.clone()), pass(from_server, to_client, whole));
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut whole: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        // What was read before the cut, or while it lasts, waits here.
        if whole.wait_for(|whole| *whole).await.is_err() || read == 0 {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_cut_cable_hangs_and_a_mended_one_goes_on() {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = echo.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = echo.accept().await.unwrap();
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
        let cable = Cable::lay(target).await.unwrap();
        let mut client = TcpStream::connect(cable.address()).await.unwrap();
        let mut byte = [0];
        client.write_all(b"a").await.unwrap();
        client.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"a");

        cable.cut();
        client.write_all(b"b").await.unwrap();
        assert!(timeout(Duration::from_millis(200), client.read_exact(&mut byte)).await.is_err(), "nothing passes");
        cable.mend();
        client.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"b", "nothing was lost either");
    }
}
