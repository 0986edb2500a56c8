//! Network namespaces on one bridge, and the cuts between them.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

/// The hosts and their addresses.
pub(crate) const HOSTS: [(&str, &str); 6] = [
    ("a", "10.213.0.1"),
    ("m", "10.213.0.11"),
    ("s", "10.213.0.12"),
    ("n1", "10.213.0.21"),
    ("n2", "10.213.0.22"),
    ("n3", "10.213.0.23"),
];
pub(crate) const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// A host's address.
pub(crate) fn address(host: &str) -> &'static str {
    HOSTS.iter().find(|(name, _)| *name == host).unwrap_or_else(|| panic!("{host:?} is no host")).1
}

static NUMBER: AtomicU32 = AtomicU32::new(0);
const PREFIX: &str = "crn";

/// The namespaces: one per host, and one for the bridge that joins them. The host's own network is not touched.
/// All are removed when this is dropped.
pub(crate) struct Net {
    prefix: String,
}

impl Net {
    pub(crate) fn new() -> Self {
        sweep();
        let prefix = format!("{PREFIX}{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let net = Self { prefix };
        let bridge = net.name("b");
        let mut script =
            format!("ip netns add {bridge}\nip -n {bridge} link add br0 type bridge\nip -n {bridge} link set br0 up\n");
        for (host, address) in HOSTS {
            let name = net.name(host);
            script += &format!(
                "ip netns add {name}\n\
                 ip link add eth0 netns {name} type veth peer name to-{host} netns {bridge}\n\
                 ip -n {bridge} link set to-{host} master br0 up\n\
                 ip -n {name} addr add {address}/24 dev eth0\n\
                 ip -n {name} link set eth0 up\n\
                 ip -n {name} link set lo up\n"
            );
        }
        run("sh", &["-e"], &script);
        net.nft(
            "b",
            "table bridge lab {\n set cut { type ipv4_addr . ipv4_addr; }\n chain forward { type filter hook forward \
             priority 0; policy accept; ip saddr . ip daddr @cut drop; }\n \
             chain loss { type filter hook forward priority 1; policy accept; }\n}\n",
        );
        net
    }

    fn name(&self, host: &str) -> String {
        format!("{}{host}", self.prefix)
    }

    /// The file that stands for a host's namespace.
    pub(crate) fn path(&self, host: &str) -> PathBuf {
        Path::new("/run/netns").join(self.name(host))
    }

    /// The words that run a program on a host. It ends with the thread that started it.
    pub(crate) fn command(&self, host: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path(host).display())).args([
            "--",
            "setpriv",
            "--pdeathsig",
            "KILL",
            "--",
        ]);
        command
    }

    /// Gives a script to nft on a host.
    pub(crate) fn nft(&self, host: &str, script: &str) {
        run("nsenter", &[&format!("--net={}", self.path(host).display()), "nft", "-f", "-"], script);
    }

    /// The tables of a host's nftables.
    pub(crate) fn list_tables(&self, host: &str) -> String {
        run("nsenter", &[&format!("--net={}", self.path(host).display()), "nft", "list", "tables"], "")
    }

    /// Cuts what goes from one host to another, connections that stand included.
    pub(crate) fn cut_one_way(&self, from: &str, to: &str) {
        self.nft("b", &format!("add element bridge lab cut {{ {} . {} }}\n", address(from), address(to)));
    }

    /// Cuts both ways.
    pub(crate) fn cut(&self, one: &str, other: &str) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Cuts a host from all others.
    pub(crate) fn isolate(&self, host: &str) {
        for (other, _) in HOSTS.iter().filter(|(other, _)| *other != host) {
            self.cut(host, other);
        }
    }

    /// Of what comes to a host, so many packets in a hundred are lost, and as many of what goes out.
    pub(crate) fn lose(&self, host: &str, percent: u32) {
        let address = address(host);
        self.nft(
            "b",
            &format!(
                "add rule bridge lab loss ip daddr {address} numgen random mod 100 < {percent} drop\n\
                 add rule bridge lab loss ip saddr {address} numgen random mod 100 < {percent} drop\n"
            ),
        );
    }

    /// Everybody reaches everybody again.
    pub(crate) fn heal(&self) {
        self.nft("b", "flush set bridge lab cut\nflush chain bridge lab loss\n");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in HOSTS.iter().map(|(host, _)| *host).chain(["b"]) {
            let _ = Command::new("ip").args(["netns", "delete", &self.name(host)]).stderr(Stdio::null()).status();
        }
    }
}

/// Removes what runs that were killed have left behind.
fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('x')?.0.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = Command::new("ip").args(["netns", "delete", &name]).stderr(Stdio::null()).status();
        }
    }
}

/// Runs a program to its end, with text on its standard input.
pub(crate) fn run(program: &str, arguments: &[&str], stdin: &str) -> String {
    let need = "the lab needs root, iproute2, nftables, util-linux: apt install iproute2 nftables util-linux";
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program} cannot be started ({e}); {need}"));
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}\n{stdin}\n({need})");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
