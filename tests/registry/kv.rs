//! Real Redis and etcd servers for tests, each in a session and a directory of its own on free ports of loopback.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Redis,
    Etcd,
}

/// One running server. Killed when dropped.
pub struct Server {
    pub kind: Kind,
    pub port: u16,
    peers: u16,
    dir: TempDir,
    is_on_tmpfs: bool,
    lines: Vec<String>,
    child: Option<Child>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn run(command: &mut Command) {
    let status = command.status();
    assert!(status.is_ok_and(|status| status.success()), "{command:?} failed: run the tests as root");
}

impl Server {
    pub fn start(kind: Kind) -> Self {
        Self::with(kind, None, &[])
    }

    /// On a disk of so many MiB, with more lines of configuration (Redis).
    pub fn with(kind: Kind, mebibytes: Option<u32>, lines: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        let mut server = Self { kind, port: 0, peers: 0, dir, is_on_tmpfs: mebibytes.is_some(), lines, child: None };
        std::fs::create_dir(server.disk()).unwrap();
        if let Some(mebibytes) = mebibytes {
            let size = format!("size={mebibytes}m");
            run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(server.disk()));
        }
        // Between finding a free port and the server taking it, another test may take it; then the server ends at once.
        for _ in 0..10 {
            (server.port, server.peers) = (free_port(), free_port());
            std::fs::create_dir_all(server.data()).unwrap();
            server.spawn();
            if server.comes_up() {
                return server;
            }
            server.kill();
            std::fs::remove_dir_all(server.data()).unwrap();
        }
        panic!("{kind:?} did not come up on any port:\n{}", server.log());
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn data(&self) -> PathBuf {
        self.disk().join("data")
    }

    fn spawn(&mut self) {
        // `setsid` becomes what it is told to run: its process is the server's.
        let mut command = Command::new("setsid");
        match self.kind {
            Kind::Redis => {
                let mut lines = vec![
                    "bind 127.0.0.1".to_owned(),
                    format!("port {}", self.port),
                    format!("dir {}", self.data().display()),
                    "save \"\"".into(),
                    "appendonly yes".into(),
                    "appendfsync always".into(),
                    "repl-diskless-sync-delay 0".into(),
                ];
                lines.extend(self.lines.iter().cloned());
                std::fs::write(self.dir.path().join("redis.conf"), lines.join("\n") + "\n").unwrap();
                command.arg("redis-server").arg(self.dir.path().join("redis.conf"));
            }
            Kind::Etcd => {
                let (client, peer) = (self.url_of(self.port, "http"), self.url_of(self.peers, "http"));
                command.args(["etcd", "--name", "only", "--logger", "zap", "--log-outputs", "stderr", "--data-dir"]);
                command.arg(self.data());
                command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
                command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
                command.args(["--initial-cluster", &format!("only={peer}")]);
            }
        }
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("setsid cannot be started ({e}); install it: apt install util-linux"));
        self.child = Some(child);
    }

    fn comes_up(&mut self) -> bool {
        for _ in 0..6_000 {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                let name = if self.kind == Kind::Redis { "redis-server" } else { "etcd" };
                let is_there = Command::new(name).arg("--version").output().is_ok();
                let package = if self.kind == Kind::Redis { "redis-server" } else { "etcd-server" };
                assert!(is_there, "{name} cannot be started; install it: apt install {package}");
                return false;
            }
            if self.answers().is_ok_and(|is_well| is_well) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Whether it says that it is well.
    fn answers(&self) -> std::io::Result<bool> {
        let (question, well) = match self.kind {
            Kind::Redis => ("PING\r\n", &["+PONG", "-NOAUTH"][..]),
            Kind::Etcd => ("GET /health HTTP/1.0\r\n\r\n", &["\"health\":\"true\""][..]),
        };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(question.as_bytes())?;
        let mut answer = Vec::new();
        let mut piece = [0; 1024];
        loop {
            let count = stream.read(&mut piece)?;
            answer.extend_from_slice(&piece[..count]);
            let text = String::from_utf8_lossy(&answer);
            if count == 0 || self.kind == Kind::Redis && text.ends_with("\r\n") {
                return Ok(well.iter().any(|word| text.contains(word)));
            }
        }
    }

    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        log[log.len().saturating_sub(20_000)..].to_owned()
    }

    fn url_of(&self, port: u16, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{port}")
    }

    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The same through another port.
    pub fn url_at(&self, port: u16) -> String {
        self.url_of(port, if self.kind == Kind::Redis { "redis" } else { "etcd" })
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().expect("it runs").id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// As a crash does. Harmless when it is gone already.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// As an operator does.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
    }

    pub fn start_again(&mut self) {
        self.spawn();
        assert!(self.comes_up(), "{:?} did not come up again:\n{}", self.kind, self.log());
    }

    /// Stops it, copies its data, starts it again.
    pub fn backup(&mut self) {
        self.stop();
        run(Command::new("cp").arg("-a").arg(self.data()).arg(self.dir.path().join("backup")));
        self.start_again();
    }

    /// Puts the copy in place of its data.
    pub fn restore(&mut self) {
        self.stop();
        std::fs::remove_dir_all(self.data()).unwrap();
        run(Command::new("cp").arg("-a").arg(self.dir.path().join("backup")).arg(self.data()));
        self.start_again();
    }

    pub fn fill_disk(&self) {
        crate::databases::fill(&self.disk().join("filler"));
    }

    pub fn empty_disk(&self) {
        std::fs::remove_file(self.disk().join("filler")).unwrap();
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
