//! Somebody changed the rules: the kernel says so, and nobody has to poll for it.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::{
    io::Errno,
    net::{RecvFlags, sockopt},
};

use super::{
    GateError,
    netlink::{GROUP_NFTABLES, Socket, messages, op},
};

/// A firewall that loads a large ruleset says a lot at once. The kernel counts bookkeeping too.
const BUFFER: usize = 4 << 20;

/// Hears of every change to a gate's table that others make.
///
/// It is a file descriptor to poll for input; then [`GateWatch::drain`].
#[derive(Debug)]
pub struct GateWatch {
    socket: Socket,
    table: String,
    own: Vec<u32>,
}

impl AsFd for GateWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.fd()
    }
}

impl GateWatch {
    /// Watches a table from now on. Whoever starts looks once by itself: what was changed before is not told.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn new(table: &str) -> Result<Self, GateError> {
        let socket = Socket::open(GROUP_NFTABLES)?;
        // Without CAP_NET_ADMIN the smaller one has to do; what does not fit is noticed.
        if sockopt::set_socket_recv_buffer_size_force(socket.fd(), BUFFER).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(socket.fd(), BUFFER);
        }
        Ok(Self { socket, table: table.to_owned(), own: Vec::new() })
    }

    /// Changes made through this socket ([`super::Gate::port_id`]) are ours.
    #[must_use]
    pub fn ignore(mut self, port_id: u32) -> Self {
        self.own.push(port_id);
        self
    }

    /// Reads what came, without waiting, and tells whether somebody else touched the table. When the kernel had more to
    /// say than there was room for, somebody may have.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn drain(&mut self) -> Result<bool, GateError> {
        let Self { socket, table, own } = self;
        let mut changed = false;
        loop {
            match socket.receive(RecvFlags::DONTWAIT) {
                Ok(bytes) => {
                    changed |= messages(bytes).any(|message| {
                        // The table's name is the first attribute of all of them; of a generation it is a number.
                        message.operation().is_some_and(|operation| operation != op::NEW_GENERATION)
                            && !own.contains(&message.port)
                            && message.attributes().text(1).as_ref() == Some(table)
                    });
                }
                Err(Errno::AGAIN) => return Ok(changed),
                Err(Errno::NOBUFS) => changed = true,
                Err(errno) => return Err(GateError::from_errno("tell of changes", errno)),
            }
        }
    }
}
