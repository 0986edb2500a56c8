//! Processes to be sacrificed, control groups, mount namespaces, and the loop that an agent's thread runs.

use std::{
    io::Write,
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use coroner::{
    agent::{
        evidence::{Options, Watcher},
        spec::{GateSpec, Guard, Guarded, LocalClients},
    },
    model::agent::{Evidence, Watch},
    sys::{
        clock::{self, Stopwatch},
        process::{self, ControlGroup},
    },
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process},
};

/// Long enough for a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);
/// An agent's tick.
const TICK: Duration = Duration::from_millis(50);

/// Waits until it holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let watch = Stopwatch::start();
    while !holds() {
        assert!(watch.elapsed() < LONG, "still not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

pub(crate) fn runs(pid: i32) -> bool {
    process::look(pid).is_some_and(|p| !p.has_ended())
}

/// A program that may be killed, in a session of its own; all of it is gone when this is dropped.
pub(crate) struct Sacrifice {
    child: Child,
}

impl Sacrifice {
    pub(crate) fn run(words: &[&str]) -> Self {
        Self::run_in(Path::new("/"), words)
    }

    pub(crate) fn run_in(directory: &Path, words: &[&str]) -> Self {
        let child = Command::new(words[0])
            .args(&words[1..])
            .current_dir(directory)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("`{}` cannot be started; install it: {e}", words[0]));
        Self { child }
    }

    /// A python program that makes a file when it is ready.
    pub(crate) fn python_ready(directory: &Path, program: &str) -> Self {
        let ready = directory.join(format!("ready-{}", number()));
        let program = program.replace("@READY@", &format!("open({:?}, 'w').close()", ready.to_str().unwrap()));
        let made = Self::run_in(directory, &["python3", "-c", &program]);
        until("the program is ready (python3 is needed)", || ready.exists());
        made
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Says a line to its standard input.
    pub(crate) fn say_go(&mut self) {
        self.child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }

    pub(crate) fn kill(&self) {
        signal(self.pid(), Signal::KILL);
    }

    pub(crate) fn reap(&mut self) {
        self.child.wait().unwrap();
    }
}

impl Drop for Sacrifice {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.pid()) {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

pub(crate) fn number() -> u32 {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

/// A control group of its own, removed at the end.
pub(crate) struct TestGroup {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
}

impl TestGroup {
    pub(crate) fn new() -> Self {
        let name = format!("coroner-evidence-{}-{}", std::process::id(), number());
        let directory = ControlGroup::at(&name).unwrap().directory().to_owned();
        std::fs::create_dir(&directory)
            .unwrap_or_else(|e| panic!("the tests need root and a writable cgroup2: {}: {e}", directory.display()));
        Self { name, directory }
    }

    pub(crate) fn add(&self, pid: i32) {
        std::fs::write(self.directory.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    pub(crate) fn freeze(&self, freeze: bool) {
        std::fs::write(self.directory.join("cgroup.freeze"), if freeze { "1" } else { "0" }).unwrap();
    }

    pub(crate) fn guarded(&self) -> Guarded {
        Guarded::Cgroup(PathBuf::from(&self.name))
    }

    /// A shell in the group that runs this; it waits for a word before it begins, so that all of it is in the group.
    pub(crate) fn shell(&self, script: &str) -> Sacrifice {
        let mut shell = Sacrifice::run(&["sh", "-c", &format!("read go; {script}")]);
        self.add(shell.pid());
        shell.say_go();
        shell
    }

    pub(crate) fn count(&self) -> usize {
        ControlGroup::at(&self.name).unwrap().processes().len()
    }
}

impl Drop for TestGroup {
    fn drop(&mut self) {
        let _ = std::fs::write(self.directory.join("cgroup.kill"), "1");
        let watch = Stopwatch::start();
        while std::fs::remove_dir(&self.directory).is_err() && self.directory.exists() {
            if watch.elapsed() > LONG {
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// A group of the old freezer: what it freezes is in D state, and takes KILL only when it is thawed.
pub(crate) struct OldFreezer(PathBuf);

impl OldFreezer {
    pub(crate) fn new(mount: &Path) -> Self {
        mount_at(mount, "cgroup", "freezer");
        let directory = mount.join(format!("coroner-evidence-{}-{}", std::process::id(), number()));
        std::fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    pub(crate) fn freeze(&self, pid: i32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
        std::fs::write(self.0.join("freezer.state"), "FROZEN").unwrap();
        until("the old freezer has frozen it", || process::look(pid).is_some_and(|p| p.state == 'D'));
    }

    pub(crate) fn thaw(&self) {
        std::fs::write(self.0.join("freezer.state"), "THAWED").unwrap();
    }
}

impl Drop for OldFreezer {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("freezer.state"), "THAWED");
        let watch = Stopwatch::start();
        while std::fs::remove_dir(&self.0).is_err() && self.0.exists() && watch.elapsed() < LONG {
            // Thawed, but perhaps not yet dead; whoever was in it is killed by its own guard.
            let procs = std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
            let parent = self.0.parent().unwrap().join("cgroup.procs");
            for pid in procs.lines() {
                let _ = std::fs::write(&parent, pid);
            }
            std::thread::yield_now();
        }
    }
}

/// Runs this very test in a mount namespace of its own, where it may mount what it likes. True: this is inside.
pub(crate) fn in_mount_namespace(test: &str) -> bool {
    const INSIDE: &str = "CORONER_EVIDENCE_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "yes")
        .output()
        .expect("unshare is needed: apt install util-linux");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "in a mount namespace (root is needed): {text}");
    println!("{text}");
    false
}

pub(crate) fn mount_at(at: &Path, kind: &str, options: &str) {
    std::fs::create_dir_all(at).unwrap();
    let output = Command::new("mount").args(["-t", kind, "-o", options, "none"]).arg(at).output().unwrap();
    assert!(output.status.success(), "{kind} cannot be mounted: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn guard(broker: Guarded) -> Guard {
    Guard {
        member: "broker-a".into(),
        broker,
        gate: None,
        fences: Default::default(),
        data: None,
        keep: Vec::new(),
        progress_every: Duration::from_millis(50),
        progress_timeout: Duration::from_millis(200),
        restart_grace: Duration::ZERO,
        start_within: Duration::from_secs(1),
        watchdog: None,
        stop_without_gate: false,
    }
}

pub(crate) fn gate(ports: &[u16]) -> GateSpec {
    GateSpec {
        table: "unused".into(),
        ports: ports.to_vec(),
        local: LocalClients::Open,
        peers: Vec::new(),
        admit: Vec::new(),
    }
}

pub(crate) fn pid_file(directory: &Path, pid: i32) -> Guarded {
    let path = directory.join(format!("pid-{}", number()));
    std::fs::write(&path, format!("{pid}\n")).unwrap();
    Guarded::PidFile { path, executable: None }
}

/// Looks often, so that the tests are quick.
pub(crate) fn quick() -> Options {
    Options { look_every: Duration::from_millis(100), ..Options::default() }
}

pub(crate) fn watcher(guard: &Guard) -> Watcher {
    Watcher::with(guard, process::boot_id(), quick()).unwrap()
}

/// The loop of an agent's thread: until some evidence is as wanted.
pub(crate) fn hear(
    watcher: &mut Watcher,
    what: &str,
    mut wanted: impl FnMut(&Evidence) -> bool,
) -> (Evidence, Duration) {
    let watch = Stopwatch::start();
    let mut ticked = clock::now();
    loop {
        let left = TICK.saturating_sub(clock::now().since(ticked));
        let left = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
        let is_ready = poll(&mut [PollFd::new(&watcher.as_fd(), PollFlags::IN)], Some(&left)).unwrap() > 0;
        let mut news = if is_ready { watcher.ready() } else { Vec::new() };
        if clock::now().since(ticked) >= TICK {
            ticked = clock::now();
            news.extend(watcher.tick(ticked));
        }
        if let Some(found) = news.into_iter().find(|evidence| wanted(evidence)) {
            return (found, watch.elapsed());
        }
        assert!(watch.elapsed() < LONG, "never heard: {what}; known: {:#?}", watcher.evidence());
    }
}

/// The same, for one watch.
pub(crate) fn hear_of(watcher: &mut Watcher, watch: Watch, is_so: bool) -> (Evidence, Duration) {
    hear(watcher, &format!("{watch} {is_so}"), |evidence| evidence.watch == watch && evidence.is_so == is_so)
}

pub(crate) fn known(watcher: &Watcher, watch: Watch) -> Option<Evidence> {
    watcher.evidence().into_iter().find(|evidence| evidence.watch == watch)
}

pub(crate) fn uses(watcher: &Watcher, name: &str) -> bool {
    watcher.sources().into_iter().any(|source| source.name == name && source.is_used)
}

/// Median and largest, for people.
pub(crate) fn print(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let median = times[times.len() / 2];
    println!("{what}: median {median:.2?}, largest {:.2?} of {}", times[times.len() - 1], times.len());
    median
}
