//! A cable: a TCP proxy on loopback that can be cut. What was under way waits, and arrives when the cable is whole again.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, sleep},
    time::Duration,
};

const TICK: Duration = Duration::from_millis(20);

/// One cable.
pub struct Proxy {
    pub port: u16,
    is_cut: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
}

impl Proxy {
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_cut, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (cut, over) = (Arc::clone(&is_cut), Arc::clone(&is_over));
        thread::spawn(move || {
            while !over.load(SeqCst) {
                let Ok((near, _)) = listener.accept() else {
                    sleep(TICK);
                    continue;
                };
                let Ok(far) = TcpStream::connect(server) else { continue };
                near.set_nonblocking(false).unwrap();
                for (from, to) in
                    [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far.try_clone().unwrap(), near)]
                {
                    let (cut, over) = (Arc::clone(&cut), Arc::clone(&over));
                    thread::spawn(move || copy(from, to, &cut, &over));
                }
            }
        });
        Self { port, is_cut, is_over }
    }

    pub fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.is_over.store(true, SeqCst);
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool, over: &AtomicBool) {
    let _ = from.set_read_timeout(Some(TICK));
    let mut buffer = [0; 16_384];
    while !over.load(SeqCst) {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                while cut.load(SeqCst) && !over.load(SeqCst) {
                    sleep(TICK);
                }
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
