//! A real systemd in a container: boots in seconds, thrown away at the end.
//!
//! The root file system is made once by debootstrap and kept in `$CORONER_TEST_CACHE` (default
//! `/var/tmp/coroner-test-cache`); each machine writes to a layer of its own above it, with its own session, network and
//! cgroup tree. What it wrote survives [`Machine::cut_power`], and ends with the machine.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use coroner::sys::clock::Stopwatch;
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};

/// Debian 13: its systemd (257) knows `notify-reload`.
const SUITE: &str = "trixie";
const PACKAGES: &str = "systemd,systemd-sysv,dbus,redis-server,nftables,iproute2,procps,python3-minimal";
/// Counts up when the packages change, so that old caches are not used.
const VERSION: u32 = 1;
/// A boot or a command that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(50);

/// A booted container.
pub(crate) struct Machine {
    child: Child,
    /// Its process 1, as this host numbers it.
    leader: i32,
    directory: tempfile::TempDir,
}

/// What a command inside said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Machine {
    /// Boots a container and waits until its systemd is up.
    pub(crate) fn boot() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for layer in ["written", "work", "root"] {
            fs::create_dir(directory.path().join(layer)).unwrap();
        }
        let mut machine = Self { child: nspawn(directory.path()), leader: 0, directory };
        machine.wait_until_up();
        machine
    }

    /// Ends everything inside between two instructions, and boots again from what is on its disk. Returns as soon as its
    /// first process runs: see [`Self::wait_until_up`].
    pub(crate) fn cut_power(&mut self) {
        kill(Pid::from_raw(self.leader), Signal::SIGKILL).unwrap();
        self.child.wait().unwrap();
        self.leader = 0;
        self.child = nspawn(self.directory.path());
        self.wait_for_leader();
    }

    /// Waits until all that is started at boot was started, or has failed.
    pub(crate) fn wait_until_up(&mut self) {
        if self.leader == 0 {
            self.wait_for_leader();
        }
        self.until("systemd is up", |machine| {
            let said = machine.run(&["systemctl", "is-system-running"]);
            matches!(said.out.trim(), "running" | "degraded")
        });
    }

    fn wait_for_leader(&mut self) {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let mut waited = Duration::ZERO;
        while waited < PATIENCE {
            if let Some(ended) = self.child.try_wait().unwrap() {
                panic!("systemd-nspawn ended with {ended}:\n{}", self.console());
            }
            let text = fs::read_to_string(&children).unwrap_or_default();
            let candidates = text.split_whitespace().filter_map(|pid| pid.parse().ok());
            // Before it is process 1 of its own namespace, the child is a helper of nspawn.
            if let Some(leader) = candidates.into_iter().find(|pid| is_process_one(*pid)) {
                self.leader = leader;
                return;
            }
            thread::sleep(STEP);
            waited += STEP;
        }
        panic!("the container did not start:\n{}", self.console());
    }

    /// What the container wrote to its console.
    pub(crate) fn console(&self) -> String {
        let mut text = Vec::new();
        let _ = File::open(self.directory.path().join("console")).and_then(|mut file| file.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Runs a program inside as root; killed with its group if it takes too long.
    pub(crate) fn run(&self, command: &[&str]) -> Said {
        let output = Command::new("timeout")
            .args(["--kill-after=1", &PATIENCE.as_secs().to_string(), "nsenter", "--all", "--target"])
            .arg(self.leader.to_string())
            .arg("--")
            .args(command)
            .process_group(0)
            .stdin(Stdio::null())
            .output()
            .expect("nsenter and timeout are needed: apt-get install util-linux coreutils");
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a program inside that must succeed; its output without the end of line.
    pub(crate) fn ok(&self, command: &[&str]) -> String {
        let said = self.run(command);
        assert!(said.code == 0, "{command:?}: {said:?}");
        said.out.trim_end().to_owned()
    }

    /// A property of a unit, as `systemctl show` tells it.
    pub(crate) fn property(&self, unit: &str, name: &str) -> String {
        self.ok(&["systemctl", "show", "--value", "--property", name, unit])
    }

    /// The journal of a unit with what its lines carry, for messages of failed tests.
    pub(crate) fn journal(&self, unit: &str) -> String {
        let json = self.run(&["journalctl", "--no-pager", "--output=json", "--unit", unit]).out;
        let line = |line: &str| {
            let entry: serde_json::Value = serde_json::from_str(line).ok()?;
            let at = entry["__REALTIME_TIMESTAMP"].as_str().and_then(|us| us.parse::<u64>().ok()).unwrap_or_default();
            let fields = entry.as_object()?.iter().filter(|(key, _)| key.starts_with("F_"));
            let fields: String = fields.map(|(key, value)| format!(" {key}={value}")).collect();
            let (s, ms) = (at / 1_000_000 % 1_000, at / 1_000 % 1_000);
            Some(format!("{s:03}.{ms:03} {}{fields}\n", entry["MESSAGE"].as_str().unwrap_or("(no text)")))
        };
        json.lines().filter_map(line).collect()
    }

    /// A path inside, as this host sees it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        Path::new("/proc").join(self.leader.to_string()).join("root").join(inside.trim_start_matches('/'))
    }

    /// Writes a file inside, with its directories.
    pub(crate) fn write(&self, inside: &str, text: impl AsRef<[u8]>, mode: u32) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Copies a file of this host to a place inside.
    pub(crate) fn copy_in(&self, from: &Path, inside: &str, mode: u32) {
        self.write(inside, fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())), mode);
    }

    /// Waits until something is so.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        self.until_or(what, is_so, Self::console);
    }

    /// The same, with more to tell when it does not come about.
    pub(crate) fn until_or(&self, what: &str, is_so: impl Fn(&Self) -> bool, story: impl Fn(&Self) -> String) {
        let watch = Stopwatch::start();
        while !is_so(self) {
            assert!(watch.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{}", story(self));
            thread::sleep(STEP);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With process 1 dies the whole namespace; the mount of its file system ends with nspawn.
        if self.leader > 0 {
            let _ = kill(Pid::from_raw(self.leader), Signal::SIGKILL);
        } else if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

/// Starts the container on the layers in this directory, in a mount namespace that ends with it.
fn nspawn(directory: &Path) -> Child {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    const SCRIPT: &str = "mount -t overlay overlay -o \"lowerdir=$1,upperdir=$2/written,workdir=$2/work\" \"$2/root\" && \
                          cd / && name=$3 && at=$2/root && shift 3 && \
                          exec systemd-nspawn --directory \"$at\" --machine \"$name\" \"$@\"";
    let name = format!("coroner-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let console = File::options().create(true).append(true).open(directory.join("console")).unwrap();
    Command::new("setsid")
        .args(["unshare", "--mount", "sh", "-c", SCRIPT, "sh"])
        .args([rootfs().as_path(), directory])
        .arg(name)
        .args(["--boot", "--quiet", "--register=no", "--keep-unit", "--private-network", "--console=pipe"])
        // What root has on a host, and nspawn withholds.
        .args(["--capability=CAP_IPC_LOCK", "--system-call-filter=perf_event_open"])
        .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
        .stdin(Stdio::null())
        .stdout(console.try_clone().unwrap())
        .stderr(console)
        .spawn()
        .expect("systemd-nspawn is needed: apt-get install systemd-container")
}

fn is_process_one(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let innermost =
        status.lines().find_map(|line| line.strip_prefix("NSpid:")).and_then(|pids| pids.split_whitespace().last());
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    innermost == Some("1") && command.trim() == "systemd"
}

/// The root file system, made by the first test that needs it.
fn rootfs() -> PathBuf {
    assert!(Uid::effective().is_root(), "a container needs root: run this test as root");
    let cache =
        std::env::var_os("CORONER_TEST_CACHE").map_or_else(|| "/var/tmp/coroner-test-cache".into(), PathBuf::from);
    fs::create_dir_all(&cache).unwrap();
    let root = cache.join(format!("{SUITE}-{VERSION}"));
    let lock = File::create(cache.join("lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).unwrap_or_else(|(_, error)| panic!("{error}"));
    if root.exists() {
        return root;
    }
    let half = cache.join(format!("{SUITE}-{VERSION}.half"));
    let _ = fs::remove_dir_all(&half);
    let output = Command::new("debootstrap")
        .args(["--variant=minbase", &format!("--include={PACKAGES}"), SUITE])
        .arg(&half)
        .output()
        .expect("debootstrap is needed: apt-get install debootstrap");
    let tail: Vec<_> = output.stdout.split(|byte| *byte == b'\n').rev().take(5).map(String::from_utf8_lossy).collect();
    assert!(output.status.success(), "debootstrap failed (it needs a Debian mirror): {tail:?}");
    // Tests start what they need.
    let disabled = Command::new("chroot").arg(&half).args(["systemctl", "disable", "redis-server"]).output().unwrap();
    assert!(disabled.status.success(), "{disabled:?}");
    fs::rename(&half, &root).unwrap();
    root
}
