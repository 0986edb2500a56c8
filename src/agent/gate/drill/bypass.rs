//! What is known to pass a gate by, looked for at a running broker.

use std::{collections::BTreeSet, fmt, fs, io};

/// A way around the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// The broker's sockets are in another network namespace than the agent's gate: it stops nothing. Install it in
    /// there ([`super::super::Gate::install_in`]), or give the broker the host's network.
    OtherNetwork {
        /// The broker's namespace, as `/proc/PID/ns/net` names it.
        broker: String,
        /// The agent's.
        agent: String,
    },
    /// The broker listens on a unix socket: programs on this host write through it whatever the gate says.
    UnixSocket {
        /// Its path, or its abstract name with a leading `@`.
        path: String,
    },
}

impl Bypass {
    /// Whether the gate is no proof because of it; otherwise it is a warning.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::OtherNetwork { .. })
    }
}

impl fmt::Display for Bypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherNetwork { broker, agent } => write!(
                f,
                "the broker runs in the network namespace {broker}, the gate stands in {agent} and stops nothing: give \
                 the broker the host's network, or run the agent in the broker's"
            ),
            Self::UnixSocket { path } => write!(
                f,
                "the broker listens on the unix socket {path}, which no gate shuts: turn it off, or see to it that \
                 nothing on this host writes through it"
            ),
        }
    }
}

/// What passes the gate by at a broker with this process number. To be asked whenever the broker has a new process: a
/// container that starts again has a new network namespace.
///
/// # Errors
/// The process is gone, or may not be looked at (CAP_SYS_PTRACE).
pub fn bypasses(pid: i32) -> io::Result<Vec<Bypass>> {
    let name = |path: String| Ok::<_, io::Error>(fs::read_link(path)?.to_string_lossy().into_owned());
    let broker = name(format!("/proc/{pid}/ns/net"))?;
    let agent = name("/proc/thread-self/ns/net".into())?;
    let mut found = Vec::new();
    if broker != agent {
        found.push(Bypass::OtherNetwork { broker, agent });
    }
    let mut inodes = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        // A descriptor that was closed meanwhile is no socket that listens.
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let link = link.to_string_lossy();
        let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse::<u64>().ok());
        inodes.extend(inode);
    }
    let listed = fs::read_to_string(format!("/proc/{pid}/net/unix"))?;
    found.extend(listeners(&listed, &inodes).map(|path| Bypass::UnixSocket { path }));
    Ok(found)
}

/// `__SO_ACCEPTCON`.
const LISTENS: u32 = 0x1_0000;

/// The named unix sockets of these inodes that listen.
fn listeners(listed: &str, inodes: &BTreeSet<u64>) -> impl Iterator<Item = String> {
    // Num RefCount Protocol Flags Type St Inode Path
    listed.lines().filter_map(move |line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, _, _, flags, _, _, inode, path @ ..] = words.as_slice() else { return None };
        let listens = u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & LISTENS != 0);
        let is_ours = inode.parse().is_ok_and(|inode: u64| inodes.contains(&inode));
        (listens && is_ours && !path.is_empty()).then(|| path.join(" "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_unix_sockets_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("broker.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let found = bypasses(std::process::id().cast_signed()).unwrap();
        assert!(found.contains(&Bypass::UnixSocket { path: path.display().to_string() }), "{found:?}");
        assert!(!found.iter().any(Bypass::is_fatal), "{found:?}");
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(bypasses(i32::MAX).is_err());
    }
}
