//! Whether the broker's ports still have a listening socket. The kernel is asked for listeners only, so a hundred
//! thousand connections cost nothing; a process in a network namespace of its own is asked through its own /proc.

use std::{collections::BTreeSet, os::fd::OwnedFd, path::Path, time::Duration};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with, sockopt},
};

/// SOCK_DIAG_BY_FAMILY.
const BY_FAMILY: u16 = 20;
/// NLM_F_REQUEST | NLM_F_DUMP.
const DUMP: u16 = 0x301;
const DONE: u16 = 3;
const ERROR: u16 = 2;
const TCP: u8 = 6;
/// One bit per state; LISTEN is 10.
const LISTENING: u32 = 1 << 10;
const FAMILIES: [u8; 2] = [2, 10];
/// Length of a request: netlink's header, and `inet_diag_req_v2`.
const REQUEST: usize = 16 + 56;
/// The kernel answers a dump within the call; a hung netlink is a failure like others.
const ANSWER: Duration = Duration::from_millis(500);

/// Ports on which something listens, TCP over IPv4 and IPv6, in the process's own network namespace.
///
/// # Errors
/// Neither the kernel nor /proc tells.
pub fn listening(pid: i32) -> Result<BTreeSet<u16>, String> {
    let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let (own, its) = (of("self"), of(&pid.to_string()));
    if own.is_some() && own == its { ask_kernel().or_else(|_| read_proc(pid)) } else { read_proc(pid) }
}

fn ask_kernel() -> Result<BTreeSet<u16>, String> {
    let said = |e: Errno| format!("listening sockets cannot be asked for: {e}");
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))
        .map_err(said)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER)).map_err(said)?;
    let mut ports = BTreeSet::new();
    for family in FAMILIES {
        send(&socket, &request(family), SendFlags::empty()).map_err(said)?;
        dump(&socket, &mut ports)?;
    }
    Ok(ports)
}

fn request(family: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(REQUEST);
    bytes.extend(u32::try_from(REQUEST).unwrap_or(0).to_ne_bytes());
    bytes.extend([BY_FAMILY, DUMP].into_iter().flat_map(u16::to_ne_bytes));
    bytes.extend([0; 8]);
    bytes.extend([family, TCP, 0, 0]);
    bytes.extend(LISTENING.to_ne_bytes());
    bytes.resize(REQUEST, 0);
    bytes
}

fn dump(socket: &OwnedFd, ports: &mut BTreeSet<u16>) -> Result<(), String> {
    let mut buffer = [0_u8; 16 * 1024];
    loop {
        let (length, _) = recv(socket, &mut buffer[..], RecvFlags::empty())
            .map_err(|e| format!("listening sockets were not told: {e}"))?;
        let mut rest = &buffer[..length.min(buffer.len())];
        while rest.len() >= 16 {
            let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            match u16::from_ne_bytes([rest[4], rest[5]]) {
                DONE => return Ok(()),
                ERROR => return Err("the kernel refused to tell listening sockets".into()),
                // `inet_diag_msg`: four bytes, then the port in network order.
                BY_FAMILY if rest.len() >= 22 => {
                    ports.insert(u16::from_be_bytes([rest[20], rest[21]]));
                }
                _ => {}
            }
            if size < 16 {
                return Err("the kernel's answer on listening sockets was not understood".into());
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn read_proc(pid: i32) -> Result<BTreeSet<u16>, String> {
    let mut ports = BTreeSet::new();
    let directory = format!("/proc/{pid}/net");
    let text = std::fs::read_to_string(Path::new(&directory).join("tcp"));
    let text = text.map_err(|e| format!("{directory}/tcp cannot be read: {e}"))?;
    // A host without IPv6 has no second file.
    let more = std::fs::read_to_string(Path::new(&directory).join("tcp6")).unwrap_or_default();
    for line in text.lines().chain(more.lines()) {
        let mut words = line.split_whitespace().skip(1);
        if let (Some(local), Some(_), Some("0A")) = (words.next(), words.next(), words.next()) {
            ports.extend(local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok()));
        }
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_see_a_listener_and_no_connection() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = std::net::TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let own = i32::try_from(std::process::id()).unwrap();
            for seen in [ask_kernel().unwrap(), read_proc(own).unwrap(), listening(own).unwrap()] {
                assert!(seen.contains(&port), "{address}");
                assert!(!seen.contains(&client.local_addr().unwrap().port()));
            }
            drop(listener);
            assert!(!listening(own).unwrap().contains(&port), "the connection outlives its listener");
        }
    }
}
