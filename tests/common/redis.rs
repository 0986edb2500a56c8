//! Real `redis-server` processes for tests: each on a free port, in a process group and a directory of its own.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "every test binary uses a part of it")]

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tempfile::TempDir;

/// How a server is to be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `requirepass` and `masterauth`.
    pub password: Option<String>,
    /// TLS on the port, and no plain one; clients must show a certificate.
    pub tls: Option<TlsFiles>,
    /// More lines of `redis.conf`.
    pub lines: Vec<String>,
    /// Listen here; default `127.0.0.1`.
    pub bind: Option<String>,
}

/// PEM files of a small authority, of a server and of a client.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The authority.
    pub ca: PathBuf,
    /// The certificate, for both sides, of `localhost` and `127.0.0.1`.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// Makes them in `dir`; `expired`: the certificate has been invalid since 2001.
    pub fn make(dir: &Path, expired: bool) -> Self {
        let mut ca_params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca_params.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
        ca_params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        ca_params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let ca_cert = ca_params.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(ca_params, ca_key);
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "test instance");
        if expired {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap();
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        Self {
            ca: write("ca.pem", ca_cert.pem()),
            cert: write("cert.pem", cert.pem()),
            key: write("key.pem", key.serialize_pem()),
        }
    }
}

/// One running server. Killed, with its whole process group, when dropped.
pub struct RedisServer {
    /// Its port.
    pub port: u16,
    host: String,
    options: Options,
    dir: TempDir,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts a plain one on loopback and waits until it answers.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// Starts one that asks for a password.
    pub fn with_password(password: &str) -> Self {
        Self::with(Options { password: Some(password.into()), ..Options::default() })
    }

    /// Starts one with TLS only.
    pub fn with_tls(tls: &TlsFiles) -> Self {
        Self::with(Options { tls: Some(tls.clone()), ..Options::default() })
    }

    /// Starts one.
    pub fn with(options: Options) -> Self {
        let host = options.bind.clone().unwrap_or_else(|| "127.0.0.1".into());
        let dir = tempfile::tempdir().unwrap();
        let mut server = Self { port: 0, host, options, dir, child: None };
        // Between finding a free port and Redis taking it, another test may take it; then the server ends at once.
        for _ in 0..10 {
            server.port = free_port(&server.host);
            server.write_conf();
            server.spawn();
            if server.comes_up() {
                return server;
            }
            server.kill();
        }
        panic!("redis-server did not come up on any port");
    }

    fn write_conf(&self) {
        let mut lines = vec![
            format!("bind {}", self.host),
            format!("dir {}", self.dir.path().display()),
            "save \"\"".into(),
            "appendonly yes".into(),
            "appendfsync everysec".into(),
            "repl-diskless-sync-delay 0".into(),
            "protected-mode no".into(),
            "repl-ping-replica-period 1".into(),
        ];
        match &self.options.tls {
            None => lines.push(format!("port {}", self.port)),
            Some(tls) => {
                lines.extend(["port 0".into(), format!("tls-port {}", self.port), "tls-replication yes".into()]);
                lines.push(format!("tls-ca-cert-file {}", tls.ca.display()));
                lines.push(format!("tls-cert-file {}", tls.cert.display()));
                lines.push(format!("tls-key-file {}", tls.key.display()));
            }
        }
        if let Some(password) = &self.options.password {
            lines.extend([format!("requirepass {password}"), format!("masterauth {password}")]);
        }
        lines.extend(self.options.lines.iter().cloned());
        std::fs::write(self.conf(), lines.join("\n") + "\n").unwrap();
    }

    /// Path of its configuration file, which the server itself may rewrite.
    pub fn conf(&self) -> PathBuf {
        self.dir.path().join("redis.conf")
    }

    fn spawn(&mut self) {
        let child = Command::new("redis-server")
            .arg(self.conf())
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(self.dir.path().join("log")).unwrap())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("redis-server cannot be started ({e}); install it: apt install redis-server"));
        self.child = Some(child);
    }

    fn comes_up(&mut self) -> bool {
        for _ in 0..1_000 {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            if log.contains("Ready to accept connections") && TcpStream::connect(self.host_port()).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.host_port()
    }

    fn host_port(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The newest lines of its log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().expect("it runs").id()).unwrap()
    }

    /// Makes it a replica of `primary`, and waits until the link is up.
    pub fn replica_of(&self, primary: &Self) {
        self.command(&["REPLICAOF", &primary.host, &primary.port.to_string()]);
        self.wait_info("master_link_status:up");
    }

    /// Waits until `INFO replication` contains `text`.
    pub fn wait_info(&self, text: &str) {
        self.wait_until(&["INFO", "replication"], |info| info.contains(text), text);
    }

    /// Waits until the answer to a command pleases.
    pub fn wait_until(&self, command: &[&str], is_right: impl Fn(&str) -> bool, what: &str) {
        let mut last = String::new();
        for _ in 0..2_000 {
            last = self.command(command);
            if is_right(&last) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("waited in vain for {what}; the last answer was:\n{last}");
    }

    /// Sends one command over a connection of its own; the raw reply, error replies included.
    pub fn command(&self, parts: &[&str]) -> String {
        self.try_command(parts).unwrap_or_else(|e| panic!("{parts:?} at port {}: {e}", self.port))
    }

    /// The same, where the server may be down.
    pub fn try_command(&self, parts: &[&str]) -> std::io::Result<String> {
        if self.options.tls.is_some() {
            return Ok(self.command_by_cli(parts));
        }
        let mut client = Client::connect(&self.host_port())?;
        if let Some(password) = &self.options.password {
            client.command(&["AUTH", password])?;
        }
        client.command(parts)
    }

    fn command_by_cli(&self, parts: &[&str]) -> String {
        let tls = self.options.tls.as_ref().unwrap();
        let output = Command::new("redis-cli")
            .args(["-h", &self.host, "-p", &self.port.to_string(), "--tls"])
            .args(["--cacert".as_ref(), tls.ca.as_os_str(), "--cert".as_ref(), tls.cert.as_os_str()])
            .args(["--key".as_ref(), tls.key.as_os_str()])
            .args(parts)
            .output()
            .expect("redis-cli is installed with redis-server: apt install redis-tools");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// A connection that stays.
    pub fn client(&self) -> Client {
        Client::connect(&self.host_port()).unwrap()
    }

    /// Stops its process without ending it; its connections stay open.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        killpg(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Kills it as a crash does, and waits until it is gone. Harmless when it is gone already.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = killpg(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGKILL);
            let _ = child.wait();
        }
    }

    /// Starts it again, with its data and its configuration file as it left them.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
        assert!(self.comes_up(), "redis-server did not come up again on port {}", self.port);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that was free a moment ago.
pub fn free_port(host: &str) -> u16 {
    TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port()
}

/// A plain connection that a service's client would hold open.
pub struct Client {
    stream: TcpStream,
}

impl Client {
    /// Opens it.
    pub fn connect(address: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self { stream })
    }

    /// Sends one command; the raw reply. Enough for replies that arrive whole: no nested arrays.
    pub fn command(&mut self, parts: &[&str]) -> std::io::Result<String> {
        let mut packed = format!("*{}\r\n", parts.len());
        for part in parts {
            packed += &format!("${}\r\n{part}\r\n", part.len());
        }
        self.stream.write_all(packed.as_bytes())?;
        let mut reply = Vec::new();
        let mut chunk = [0_u8; 4096];
        loop {
            let read = self.stream.read(&mut chunk)?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            reply.extend_from_slice(&chunk[..read]);
            let text = String::from_utf8_lossy(&reply);
            let is_whole = match text.strip_prefix('$').and_then(|rest| rest.split_once("\r\n")) {
                Some((length, rest)) => length.parse::<usize>().map_or(true, |length| rest.len() >= length + 2),
                None => !text.starts_with('$') && text.ends_with("\r\n"),
            };
            if is_whole {
                return Ok(text.into_owned());
            }
        }
    }
}
