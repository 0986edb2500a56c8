//! A cable between clients and a relay, that can be cut: both ways, or the answers alone. Nothing in it is lost; it hangs.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// Which ways pass: to the relay, and back.
type Ways = (bool, bool);

/// A cable. It ends when it is dropped.
pub struct Cable {
    pub address: SocketAddr,
    ways: Arc<watch::Sender<Ways>>,
    task: JoinHandle<()>,
}

impl Cable {
    pub async fn lay(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ways = Arc::new(watch::Sender::new((true, true)));
        let plug = Arc::clone(&ways);
        let task = tokio::spawn(async move {
            let mut lines = JoinSet::new();
            loop {
                tokio::select! {
                    Ok((client, _)) = listener.accept() => {
                        lines.spawn(line(client, target, plug.subscribe()));
                    }
                    Some(_) = lines.join_next(), if !lines.is_empty() => {}
                }
            }
        });
        Self { address, ways, task }
    }

    /// Nothing passes any more.
    pub fn cut(&self) {
        self.ways.send_replace((false, false));
    }

    /// What is sent to the relay arrives; its answers do not.
    pub fn cut_answers(&self) {
        self.ways.send_replace((true, false));
    }

    pub fn mend(&self) {
        self.ways.send_replace((true, true));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn line(client: TcpStream, target: SocketAddr, mut ways: watch::Receiver<Ways>) {
    if ways.wait_for(|(there, _)| *there).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::join!(
        pass(from_client, to_server, ways.clone(), |(there, _)| *there),
        pass(from_server, to_client, ways, |(_, back)| *back)
    );
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut ways: watch::Receiver<Ways>,
    open: fn(&Ways) -> bool,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        // What was read before the cut, or while it lasts, waits here.
        if ways.wait_for(open).await.is_err() || read == 0 {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
