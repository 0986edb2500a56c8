//! Real PostgreSQL and MariaDB servers for tests, each in a directory of its own on a free port of loopback, with every
//! commit synced; and a TCP proxy that cuts, delays and breaks. To be included by path:
//! `#[path = "../common/databases.rs"] mod databases;`.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "every test binary uses a part of it")]

use std::{
    fs,
    io::Read as _,
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use tempfile::TempDir;

/// The password of the user that tests connect as. It must never be seen in an error.
pub const PASSWORD: &str = "hunter2";
/// Nobody's number.
const NOBODY: u32 = 65_534;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Postgres,
    MariaDb,
}

/// One running server. Killed, with all its processes, when dropped.
pub struct Server {
    pub kind: Kind,
    pub port: u16,
    dir: TempDir,
    is_on_tmpfs: bool,
    child: Option<Child>,
}

impl Server {
    /// Starts one and waits until it takes connections.
    pub fn start(kind: Kind) -> Self {
        Self::with_disk(kind, None)
    }

    /// Starts one whose data lie on a disk of so many MiB, which can be filled.
    pub fn with_disk(kind: Kind, mebibytes: Option<u32>) -> Self {
        let template = template(kind);
        let dir = tempfile::tempdir().unwrap();
        // The server runs as another user, who must get in.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut server = Self { kind, port: 0, dir, is_on_tmpfs: mebibytes.is_some(), child: None };
        fs::create_dir(server.disk()).unwrap();
        if let Some(mebibytes) = mebibytes {
            let size = format!("size={mebibytes}m");
            run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(server.disk()));
        }
        run(Command::new("cp").arg("-a").arg(&template).arg(server.data()));
        server.own();
        for _ in 0..10 {
            server.port = free_port();
            server.spawn();
            if server.comes_up() {
                return server;
            }
            server.kill();
        }
        panic!("{kind:?} did not come up on any port:\n{}", server.log_tail());
    }

    /// What a registry is opened by.
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The same through a proxy.
    pub fn url_at(&self, port: u16) -> String {
        match self.kind {
            Kind::Postgres => format!("postgres://coroner:{PASSWORD}@127.0.0.1:{port}/postgres"),
            Kind::MariaDb => format!("mysql://coroner:{PASSWORD}@127.0.0.1:{port}/coroner"),
        }
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn data(&self) -> PathBuf {
        self.disk().join("data")
    }

    fn own(&self) {
        if geteuid().is_root() {
            run(Command::new("chown").args(["-R", &format!("{NOBODY}:{NOBODY}")]).arg(self.disk()));
        }
    }

    fn spawn(&mut self) {
        let (data, port) = (self.data(), self.port);
        let mut command = match self.kind {
            Kind::Postgres => {
                let mut command = as_nobody(&postgres_tool("postgres"));
                command.arg("-D").arg(&data);
                for setting in [
                    format!("port={port}"),
                    "listen_addresses=127.0.0.1".into(),
                    "unix_socket_directories=".into(),
                    "fsync=on".into(),
                    "shared_buffers=16MB".into(),
                    "max_connections=100".into(),
                    "wal_recycle=off".into(),
                    "min_wal_size=32MB".into(),
                    "max_wal_size=32MB".into(),
                ] {
                    command.args(["-c", &setting]);
                }
                command
            }
            Kind::MariaDb => {
                let mut command = as_nobody(&tool("mariadbd", "mariadb-server", &["/usr/sbin"]));
                command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
                command.arg(format!("--init-file={}", data.join("init.sql").display()));
                command.arg(format!("--socket={}", data.join("s").display()));
                command.arg(format!("--pid-file={}", data.join("pid").display()));
                command.arg(format!("--port={port}"));
                command.args(["--bind-address=127.0.0.1", "--innodb-buffer-pool-size=16M", "--max-connections=100"]);
                command.args(["--innodb-log-file-size=8M", "--skip-name-resolve", "--lower-case-table-names=0"]);
                command
            }
        };
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        self.child = Some(command.spawn().unwrap());
    }

    fn comes_up(&mut self) -> bool {
        for _ in 0..6_000 {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            if self.is_up() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    fn is_up(&self) -> bool {
        match self.kind {
            Kind::Postgres => {
                let mut command = Command::new(postgres_tool("pg_isready"));
                command.args(["-q", "-h", "127.0.0.1", "-t", "1", "-d", "postgres", "-p", &self.port.to_string()]);
                command.status().is_ok_and(|status| status.success())
            }
            Kind::MariaDb => {
                let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                // A greeting begins with the protocol's number, 10, after its length; a refusal with 255.
                let mut greeting = [0; 5];
                stream.read_exact(&mut greeting).is_ok() && greeting[4] == 10
            }
        }
    }

    /// Asks it to end, and waits for that. It syncs what it has.
    pub fn stop(&mut self) {
        let Some(child) = self.child.as_mut() else { return };
        let signal = if self.kind == Kind::Postgres { Signal::SIGINT } else { Signal::SIGTERM };
        let _ = kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal);
        for _ in 0..3_000 {
            if child.try_wait().unwrap().is_some() {
                self.child = None;
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }

    /// `kill -9` of all its processes at once.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // Stopped first, so that none of them sees another die and does something about it.
        let pids = stopped_tree(i32::try_from(child.id()).unwrap());
        for pid in &pids {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        let _ = child.wait();
        // PostgreSQL's children are not ours to wait for, and it does not start again beside one.
        for _ in 0..1_000 {
            if pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists() || is_zombie(*pid)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts it again, where it was.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs");
        self.spawn();
        assert!(self.comes_up(), "{:?} did not come up again:\n{}", self.kind, self.log_tail());
    }

    /// SIGSTOP for all its processes: its connections stay open and nothing answers.
    pub fn pause(&self) {
        stopped_tree(self.pid());
    }

    /// SIGCONT.
    pub fn resume(&self) {
        for pid in tree(self.pid()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
    }

    /// Its first process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().expect("it runs").id()).unwrap()
    }

    /// Copies its data while it is stopped; `restore` brings them back.
    pub fn backup(&mut self) {
        self.stop();
        run(Command::new("cp").arg("-a").arg(self.data()).arg(self.disk().join("backup")));
        self.start_again();
    }

    /// Puts the backup in the place of the data.
    pub fn restore(&mut self) {
        self.stop();
        fs::remove_dir_all(self.data()).unwrap();
        run(Command::new("cp").arg("-a").arg(self.disk().join("backup")).arg(self.data()));
        self.start_again();
    }

    /// Fills its disk. Only for one that was made by [`Self::with_disk`].
    pub fn fill_disk(&self) {
        assert!(self.is_on_tmpfs, "that would be everybody's disk");
        fill(&self.disk().join("filler"));
    }

    /// Makes room again.
    pub fn empty_disk(&self) {
        let _ = fs::remove_file(self.disk().join("filler"));
    }

    /// The newest lines of its log.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if self.is_on_tmpfs {
            let _ = Command::new("umount").arg("-l").arg(self.disk()).status();
        }
    }
}

/// Writes until there is no room.
pub fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = fs::File::create(path).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        let block = vec![b'x'; size];
        while file.write_all(&block).is_ok() {}
    }
}

/// Waits until it is so.
pub async fn wait_until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    for _ in 0..3_000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain until {what}");
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?} cannot be started: {e}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed:\n{out}{err}");
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn tool(name: &str, package: &str, places: &[&str]) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = places.iter().copied().chain(path.split(':'));
    let mut found = places.map(|place| Path::new(place).join(name)).filter(|path| path.exists());
    found.next().unwrap_or_else(|| panic!("{name} is not there; install it: apt install {package}"))
}

fn postgres_tool(name: &str) -> PathBuf {
    // Debian keeps the versions apart.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    places.sort();
    let places: Vec<String> = places.iter().rev().map(|place| place.display().to_string()).collect();
    tool(name, "postgresql", &places.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The servers refuse to run as root.
fn as_nobody(program: &Path) -> Command {
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    let number = NOBODY.to_string();
    command.args(["--reuid", &number, "--regid", &number, "--clear-groups", "--"]).arg(program);
    command.current_dir("/");
    command
}

/// A data directory that nobody uses: it is made once and copied for each server.
fn template(kind: Kind) -> PathBuf {
    static MADE: Mutex<()> = Mutex::new(());
    let _made = MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let ready = kept.join(format!("template-{kind:?}-2"));
    if ready.exists() {
        return ready;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let data = dir.path().join("data");
    match kind {
        Kind::Postgres => {
            let password = dir.path().join("password");
            fs::write(&password, PASSWORD).unwrap();
            let mut command = as_nobody(&postgres_tool("initdb"));
            command.arg("-D").arg(&data).args(["-U", "coroner", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]);
            command.arg("--pwfile").arg(&password).args(["--no-sync", "--no-instructions", "--wal-segsize=1"]);
            run(&mut command);
        }
        Kind::MariaDb => {
            let mut command = as_nobody(&tool("mariadb-install-db", "mariadb-server", &["/usr/bin"]));
            command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
            command.args(["--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=8M"]);
            run(&mut command);
            let sql = format!(
                "CREATE DATABASE IF NOT EXISTS coroner;\nCREATE USER IF NOT EXISTS coroner@'%' IDENTIFIED BY \
                 '{PASSWORD}';\nGRANT ALL ON *.* TO coroner@'%';\n"
            );
            fs::write(data.join("init.sql"), sql).unwrap();
        }
    }
    // Another test binary may do the same at the same time: the first one to rename wins.
    let mine = kept.join(format!("template-{kind:?}-{}", std::process::id()));
    run(Command::new("cp").arg("-a").arg(&data).arg(&mine));
    if fs::rename(&mine, &ready).is_err() {
        let _ = fs::remove_dir_all(&mine);
    }
    ready
}

fn stat(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn is_zombie(pid: i32) -> bool {
    stat(pid).is_none_or(|(state, _)| state == 'Z')
}

/// A process and all that came from it. PostgreSQL gives each of its processes a session of its own.
fn tree(root: i32) -> Vec<i32> {
    let all: Vec<(i32, i32)> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.1)))
        .collect();
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

/// Stops all of them: the first one first, so that none is added.
fn stopped_tree(root: i32) -> Vec<i32> {
    let _ = kill(Pid::from_raw(root), Signal::SIGSTOP);
    let pids = tree(root);
    for pid in &pids {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGSTOP);
    }
    pids
}
