//! The gate before a broker's ports: **the kernel keeps the lease's promise when the agent cannot.**
//!
//! A table of our own in nftables drops all TCP to and from the broker's ports, unless an element with a timeout stands
//! in a set. Each renewal of the lease replaces the element with the *remaining* time, in one transaction. An agent that
//! hangs, starves or dies leaves an element that expires, and a gate that is shut. What the rules are: [`rules`].
//!
//! The table does not belong to the process that made it (nftables' `owner` flag): it has to outlive a killed agent,
//! and to stand before the first agent of a boot runs. So root can flush it, by `nft flush ruleset` or by a firewall's
//! reload; [`GateWatch`] sees that, and [`Gate::install`] restores it.
//!
//! Not promised, and found by [`drill`] where it can be found: traffic that passes nftables by (unix sockets, XDP, DPDK,
//! a broker in another network namespace, RDMA), and protocols other than TCP. Packets that had passed the output hook
//! when the gate shut still leave the network card's queue. The kernel counts an element's time while it runs: after a
//! suspend, or in a paused virtual machine, the element is as old as it was, and the agent has to close the gate when
//! its boot clock says so.

mod drill;
mod expression;
mod netlink;
mod nodes;
mod rules;
mod table;
mod watch;
mod watchdog;

use std::{collections::BTreeSet, fmt, path::Path, time::Duration};

use nix::sched::{CloneFlags, setns};
use rustix::io::Errno;

pub use drill::{Bypass, ClientPath, DrillReport, PathProof, bypasses, drill};
pub use nodes::DropSet;
pub use watch::GateWatch;
pub use watchdog::{Watchdog, WatchdogError, allowed_timeout};

use self::{
    netlink::{Batch, Socket},
    table::{Layout, address_key, port_key},
};
use super::spec::GateSpec;

/// With `local: closed`, sockets that carry this mark (`SO_MARK`, for which CAP_NET_ADMIN is needed) reach the broker over
/// the loopback while the gate is shut. A low number: others use marks bit by bit, and use the high ones.
pub const OWN_MARK: u32 = 0x2b;

/// Why something could not be done at the gate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// The kernel refused. A transaction that was refused changed nothing.
    #[error("the kernel did not {doing}: {errno}{}", remedy(*errno))]
    Kernel {
        /// What it was asked.
        doing: &'static str,
        /// Its answer.
        errno: Errno,
    },
    /// The table is not what was installed.
    #[error("the table `inet {table}` was altered: {what}")]
    Altered {
        /// Its name.
        table: String,
        /// What differs.
        what: String,
    },
    /// The file asks for a gate that cannot be.
    #[error("{why}")]
    Spec {
        /// Why not.
        why: String,
    },
    /// The broker's network namespace could not be entered.
    #[error("cannot enter the network namespace {path}: {why}; the agent needs CAP_SYS_ADMIN for it")]
    Namespace {
        /// Which.
        path: String,
        /// Why not.
        why: String,
    },
}

fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS => "; CAP_NET_ADMIN is needed",
        Errno::PROTONOSUPPORT | Errno::OPNOTSUPP | Errno::INVAL => {
            "; nftables of Linux 5.4 or newer is needed (modules nf_tables, nf_tables_inet)"
        }
        _ => "",
    }
}

impl GateError {
    const fn from_errno(doing: &'static str, errno: Errno) -> Self {
        Self::Kernel { doing, errno }
    }

    /// Whether what it speaks of is not there.
    const fn is_absence(&self) -> bool {
        matches!(self, Self::Kernel { errno: Errno::NOENT, .. })
    }
}

/// Installs the gate and shuts it, whatever stood there before: for boot, before anything listens, and for operators.
///
/// # Errors
/// The kernel refused, or lists something else than what was installed.
pub fn close_at_boot(spec: &GateSpec) -> Result<(), GateError> {
    Gate::install(spec)?.close()
}

/// The gate of one broker. Every call is a few system calls and waits for nobody but the kernel's own lock on its rules,
/// which another program that loads a large ruleset may hold for long; whoever waits for it with a lease to renew ends
/// with a gate that shut in time.
#[derive(Debug)]
pub struct Gate {
    socket: Socket,
    layout: Layout,
    ports: BTreeSet<Vec<u8>>,
    admit: BTreeSet<(bool, Vec<u8>)>,
}

impl Gate {
    /// Sees to it that the table stands as the file wants it. A table that does is left as it is: shut if it is shut, open
    /// for as long as its element lasts if it is open. One that does not is replaced in one transaction, **shut**.
    ///
    /// # Errors
    /// The kernel refused, or the file asks for what cannot be.
    pub fn install(spec: &GateSpec) -> Result<Self, GateError> {
        let mut gate = Self {
            socket: Socket::open(0)?,
            layout: rules::layout(spec)?,
            ports: spec.ports.iter().map(|port| port_key(*port)).collect(),
            admit: spec.admit.iter().map(|address| address_key(*address)).collect(),
        };
        gate.ensure()?;
        Ok(gate)
    }

    /// The same in the network namespace of that file (`/proc/PID/ns/net`, `/run/netns/NAME`), for a broker in a container
    /// without host network. The gate's socket stays in that namespace; a container that is started again has a new one,
    /// without a gate: see [`bypasses`].
    ///
    /// # Errors
    /// As [`Gate::install`], or the namespace cannot be entered.
    pub fn install_in(spec: &GateSpec, namespace: &Path) -> Result<Self, GateError> {
        let failed = |why: &dyn fmt::Display| GateError::Namespace {
            path: namespace.display().to_string(),
            why: why.to_string(),
        };
        let file = std::fs::File::open(namespace).map_err(|e| failed(&e))?;
        // A thread of its own is in that namespace, and ends; the caller never was.
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&file, CloneFlags::CLONE_NEWNET).map_err(|e| failed(&e))?;
                Self::install(spec)
            });
            inside.join().unwrap_or_else(|_| Err(failed(&"the thread panicked")))
        })
    }

    /// As [`Gate::install`], on a gate that is there: after a change that [`GateWatch`] saw. Says whether it had to replace
    /// the table; then it is shut, and whoever holds a lease opens it for what is left of it.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn ensure(&mut self) -> Result<bool, GateError> {
        match self.verify() {
            Ok(()) => Ok(false),
            Err(GateError::Altered { .. }) => self.replace().map(|()| true),
            Err(e) if e.is_absence() => self.replace().map(|()| true),
            Err(e) => Err(e),
        }
    }

    fn replace(&mut self) -> Result<(), GateError> {
        let mut batch = Batch::default();
        self.layout.write(&mut batch);
        self.socket.commit(&batch)
    }

    /// Opens the ports for this long from now, or extends or shortens the time that they are open. In one transaction:
    /// there is no moment between the old element and the new one. Time below a millisecond is none.
    ///
    /// # Errors
    /// The kernel refused, or the table is gone: then nothing is open by our doing, see [`Gate::ensure`].
    pub fn open_for(&mut self, left: Duration) -> Result<(), GateError> {
        let mut batch = Batch::default();
        // Emptied and filled rather than updated: so it works on every kernel, with updates of timeouts (6.12) or without,
        // with `destroy element` (6.3) or without, and with an element that expired a moment ago.
        table::flush(&mut batch, &self.layout.name, rules::OPEN);
        if left >= Duration::from_millis(1) {
            table::add_elements(&mut batch, &self.layout.name, rules::OPEN, self.ports.iter(), Some(left));
        }
        self.socket.commit(&batch)
    }

    /// Lets those pass who look at a standby, for this long from now; zero: no longer. A standby's agent repeats it. It
    /// ends by itself like the lease, so that nobody passes to a member whose agent is gone.
    ///
    /// # Errors
    /// The kernel refused, or the table is gone.
    pub fn admit_for(&mut self, left: Duration) -> Result<(), GateError> {
        let mut batch = Batch::default();
        for (set, is_v4) in [rules::ADMIT_V4, rules::ADMIT_V6] {
            table::flush(&mut batch, &self.layout.name, set);
            let mut keys = self.admit.iter().filter(|(of_v4, _)| *of_v4 == is_v4).map(|(_, key)| key).peekable();
            if left >= Duration::from_millis(1) && keys.peek().is_some() {
                table::add_elements(&mut batch, &self.layout.name, set, keys, Some(left));
            }
        }
        self.socket.commit(&batch)
    }

    /// Shuts the gate. When this returns `Ok`, the kernel listed the table as installed and no element in it.
    ///
    /// # Errors
    /// The kernel refused, or somebody else alters the table again and again: the gate proves nothing then.
    pub fn close(&mut self) -> Result<(), GateError> {
        match self.open_for(Duration::ZERO) {
            Err(e) if e.is_absence() => self.replace()?,
            result => result?,
        }
        self.ensure()?;
        self.admit_for(Duration::ZERO)?;
        match self.is_open()? {
            None => Ok(()),
            Some(_) => Err(self.altered("an element was put into the set that was just emptied")),
        }
    }

    /// How long the ports stay open yet, as the kernel lists it; `None`: they are shut. An element that somebody else put
    /// there without a timeout is open for ever.
    ///
    /// # Errors
    /// The kernel refused, or the table is gone.
    pub fn is_open(&mut self) -> Result<Option<Duration>, GateError> {
        let elements = table::elements(&mut self.socket, &self.layout.name, rules::OPEN)?;
        Ok(elements.into_iter().map(|element| element.left.unwrap_or(Duration::MAX)).max())
    }

    /// Compares every chain, rule and set with what was installed.
    ///
    /// # Errors
    /// [`GateError::Altered`] says what differs.
    pub fn verify(&mut self) -> Result<(), GateError> {
        self.layout.verify(&mut self.socket)
    }

    /// Takes the gate away: everything passes.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(mut self) -> Result<(), GateError> {
        let mut batch = Batch::default();
        table::delete(&mut batch, &self.layout.name);
        self.socket.commit(&batch)
    }

    /// The table's name.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.layout.name
    }

    /// The kernel's number of this gate's socket, for [`GateWatch::ignore`].
    #[must_use]
    pub const fn port_id(&self) -> u32 {
        self.socket.port()
    }

    fn altered(&self, what: &str) -> GateError {
        GateError::Altered { table: self.layout.name.clone(), what: what.to_owned() }
    }
}
