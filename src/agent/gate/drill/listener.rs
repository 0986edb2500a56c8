//! The throwaway broker of the drill: it counts what comes, and sends without being asked.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::atomic::Ordering,
    thread::{self, Scope},
};

use super::{Stage, client::PACE};

/// Accepts until the drill ends; a thread per connection, each ends with the drill.
pub(super) fn serve<'scope>(listener: &'scope TcpListener, stage: &'scope Stage, scope: &'scope Scope<'scope, '_>) {
    // Without it, the loop could not see the end.
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    while !stage.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                scope.spawn(move || talk(stream, stage));
            }
            Err(_) => thread::sleep(PACE),
        }
    }
}

fn talk(mut stream: TcpStream, stage: &Stage) {
    if stream.set_nonblocking(true).is_err() || stream.set_nodelay(true).is_err() {
        return;
    }
    let mut bytes = [0; 512];
    while !stage.stop.load(Ordering::Relaxed) {
        // What waits for acknowledgement fills the buffer while the gate is shut: nothing to worry about.
        let _ = stream.write(b"!");
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => {
                stage.received.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        thread::sleep(PACE);
    }
}
