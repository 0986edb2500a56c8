//! Evidence of the dying, gathered before the kill and never for longer than a budget: what each process was doing, its
//! stacks in the kernel, sockets, pressure, the last lines of the journal. For the post-mortem; nothing is decided by it.
//!
//! All of it happens on a thread of its own that is left behind when the time is over: a read of /proc, or a write to the
//! disk that is the very trouble, may hang. Files are written one by one, each with its line in `SHA256SUMS` (check with
//! `sha256sum -c SHA256SUMS`); they are not forced to the disk, which could take longer than everything else.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::{
        fs::{DirBuilderExt, OpenOptionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Sender, channel},
    },
    time::Duration,
};

use ring::digest::{SHA256, digest};

use crate::sys::{
    clock::Stopwatch,
    process::{ControlGroup, Seen},
};

/// Lines of the journal.
const LINES: &str = "200";
/// Of so many processes all is kept; a hundred workers tell no more.
const PROCESSES: usize = 16;
/// And of so many of their threads.
const THREADS: usize = 64;
/// Open files listed.
const FILES: usize = 1024;
/// The last part of the budget is for the writing.
const WRITING: Duration = Duration::from_millis(20);
const MANIFEST: &str = "SHA256SUMS";

/// What is to be preserved.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The processes.
    pub processes: Vec<Seen>,
    /// Their control group.
    pub group: Option<ControlGroup>,
    /// Their systemd unit, for the journal.
    pub unit: Option<String>,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Kept {
    /// Its name in the directory.
    pub name: String,
    /// Its checksum, in hexadecimal digits.
    pub sha256: String,
    /// Its length.
    pub bytes: usize,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Preserved {
    /// Where the files lie.
    pub directory: PathBuf,
    /// They.
    pub files: Vec<Kept>,
    /// Whether the time was over before everything was gathered, or something could not be had. In words.
    pub left_out: Vec<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// What the gathering thread tells.
enum News {
    Kept(Kept),
    LeftOut(String),
}

/// Gathers evidence into `directory`, for at most `budget`; zero: nothing is done, not even the directory.
#[must_use]
pub fn preserve(subject: &Subject, directory: &Path, budget: Duration) -> Preserved {
    let watch = Stopwatch::start();
    let mut preserved =
        Preserved { directory: directory.to_owned(), files: Vec::new(), left_out: Vec::new(), took_ms: 0 };
    if budget.is_zero() {
        return preserved;
    }
    let (tell, news) = channel();
    let is_over = Arc::new(AtomicBool::new(false));
    let gatherer = Gatherer {
        subject: subject.clone(),
        directory: directory.to_owned(),
        tell,
        is_over: Arc::clone(&is_over),
        budget,
        watch,
    };
    let thread = std::thread::Builder::new().name("coroner-preserve".into()).spawn(move || gatherer.run());
    if let Err(e) = thread {
        preserved.left_out.push(format!("no thread to gather evidence: {e}"));
    }
    loop {
        match news.recv_timeout(budget.saturating_sub(watch.elapsed())) {
            Ok(News::Kept(kept)) => preserved.files.push(kept),
            Ok(News::LeftOut(why)) => preserved.left_out.push(why),
            // All was gathered, or the time was over.
            Err(_) => break,
        }
    }
    is_over.store(true, Ordering::Relaxed);
    if watch.elapsed() >= budget {
        preserved.left_out.push("the time was over before all was gathered".into());
    }
    preserved.took_ms = u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
    preserved
}

struct Gatherer {
    subject: Subject,
    directory: PathBuf,
    tell: Sender<News>,
    is_over: Arc<AtomicBool>,
    budget: Duration,
    watch: Stopwatch,
}

impl Gatherer {
    fn run(&self) {
        if let Err(e) = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory) {
            let _ = self.tell.send(News::LeftOut(format!("{} cannot be made: {e}", self.directory.display())));
            return;
        }
        // It takes the longest, so it runs beside all the rest.
        let journal = self.begin_journal();
        let processes = &self.subject.processes[..self.subject.processes.len().min(PROCESSES)];
        self.keep("processes", || list(&self.subject.processes));
        // The quick ones of all processes first, then what may hang.
        for p in processes {
            let pid = p.identity.pid;
            for name in ["status", "limits", "wchan", "stack"] {
                self.keep(&format!("{pid}-{name}"), || read(format!("/proc/{pid}/{name}")));
            }
            self.keep(&format!("{pid}-threads"), || Ok(threads(pid)));
        }
        if let Some(group) = &self.subject.group {
            for name in
                ["cgroup.events", "memory.pressure", "io.pressure", "cpu.pressure", "memory.events", "memory.current"]
            {
                // A host without the memory controller has no `memory.events`.
                if group.directory().join(name).exists() {
                    self.keep(name, || read(group.directory().join(name)));
                }
            }
        }
        for p in processes {
            let pid = p.identity.pid;
            let mut sockets = BTreeSet::new();
            self.keep(&format!("{pid}-files"), || Ok(files(pid, &mut sockets)));
            self.keep(&format!("{pid}-sockets"), || connections(pid, &sockets));
        }
        // These wait for the lock of the process's memory, which a stuck thread may hold.
        for p in processes {
            let pid = p.identity.pid;
            self.keep(&format!("{pid}-cmdline"), || read(format!("/proc/{pid}/cmdline")));
        }
        self.end_journal(journal);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed) || self.watch.elapsed() >= self.budget
    }

    fn keep(&self, name: &str, gather: impl FnOnce() -> Result<Vec<u8>, String>) {
        if self.is_over() {
            return;
        }
        let kept = gather().and_then(|bytes| self.write(name, &bytes));
        let _ = self.tell.send(match kept {
            Ok(kept) => News::Kept(kept),
            Err(why) => News::LeftOut(format!("{name}: {why}")),
        });
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<Kept, String> {
        let path = self.directory.join(name);
        let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        options.and_then(|mut file| file.write_all(bytes)).map_err(|e| format!("it cannot be written: {e}"))?;
        self.sum(name, bytes)
    }

    /// Adds its line to the manifest.
    fn sum(&self, name: &str, bytes: &[u8]) -> Result<Kept, String> {
        let sha256 = digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(self.directory.join(MANIFEST))
            .and_then(|mut file| file.write_all(format!("{sha256}  {name}\n").as_bytes()))
            .map_err(|e| format!("{MANIFEST} cannot be written: {e}"))?;
        Ok(Kept { name: name.to_owned(), sha256, bytes: bytes.len() })
    }

    fn begin_journal(&self) -> Option<Child> {
        let unit = self.subject.unit.as_ref()?;
        let file = File::create(self.directory.join("journal")).ok()?;
        Command::new("journalctl")
            .args(["--unit", unit, "--lines", LINES, "--no-pager", "--quiet", "--output", "short-precise"])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(Stdio::null())
            .spawn()
            .ok()
    }

    fn end_journal(&self, journal: Option<Child>) {
        let path = self.directory.join("journal");
        let Some(mut child) = journal else {
            let _ = fs::remove_file(&path);
            return;
        };
        let mut has_ended = false;
        while !has_ended && self.watch.elapsed() + WRITING < self.budget && !self.is_over() {
            has_ended = matches!(child.try_wait(), Ok(Some(_)));
            if !has_ended {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if !has_ended {
            let _ = child.kill();
            let _ = child.wait();
        }
        // What it had written by then is kept.
        self.keep("journal", || read(&path));
        if !has_ended {
            let _ = self.tell.send(News::LeftOut("journal: journalctl took too long and was cut off".into()));
        }
    }
}

fn read(path: impl AsRef<Path>) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("it cannot be read: {e}"))
}

fn list(processes: &[Seen]) -> Result<Vec<u8>, String> {
    let mut text = String::from("pid ppid pgid sid state start_ticks name\n");
    for p in processes {
        let id = &p.identity;
        let _ = writeln!(
            text,
            "{} {} {} {} {} {} {}",
            id.pid, p.parent, p.group, p.session, p.state, id.start_ticks, p.name
        );
    }
    Ok(text.into_bytes())
}

/// State, place of waiting and kernel stack of each thread.
fn threads(pid: i32) -> Vec<u8> {
    let mut text = String::new();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks.take(THREADS) {
        let part = |name| fs::read_to_string(task.path().join(name)).unwrap_or_else(|e| format!("({name}: {e})"));
        let status = part("status");
        let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or("State: unknown");
        let thread = task.file_name();
        let _ = writeln!(
            text,
            "thread {} {} {} wchan {}\n{}",
            thread.to_string_lossy(),
            part("comm").trim(),
            state.trim(),
            part("wchan").trim(),
            part("stack").trim_end()
        );
    }
    text.into_bytes()
}

/// Open files, and the sockets' inodes among them.
fn files(pid: i32, sockets: &mut BTreeSet<u64>) -> Vec<u8> {
    let mut text = String::new();
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    for (number, entry) in entries.enumerate() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let target = target.to_string_lossy();
        let inode: Option<u64> = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')?.parse().ok());
        sockets.extend(inode);
        if number < FILES {
            let _ = writeln!(text, "{} {target}", entry.file_name().to_string_lossy());
        }
    }
    text.into_bytes()
}

/// Lines of its network namespace's tables that are about its own sockets.
fn connections(pid: i32, sockets: &BTreeSet<u64>) -> Result<Vec<u8>, String> {
    let mut text = String::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let Ok(content) = fs::read_to_string(format!("/proc/{pid}/net/{table}")) else { continue };
        for (number, line) in content.lines().enumerate() {
            let inode = line.split_whitespace().nth(9).and_then(|word| word.parse().ok());
            if number == 0 || inode.is_some_and(|inode: u64| sockets.contains(&inode)) {
                let _ = writeln!(text, "{table} {}", line.trim());
            }
        }
    }
    if text.is_empty() {
        Err("the tables of its network namespace cannot be read".into())
    } else {
        Ok(text.into_bytes())
    }
}
