//! What the benchmarks share: samples and their quantiles, the real arbiter as a process, ports, and what the kernel
//! says a process used.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "every benchmark uses a part of it")]

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use coroner::sys::clock::Stopwatch;

/// Prints a row: median, p99 and maximum of the samples.
pub fn row(what: &str, mut samples: Vec<Duration>) {
    samples.sort();
    // The nearest rank: of 20 samples, the p99 is the largest.
    let at = |share: usize| samples[(samples.len() * share).div_ceil(100) - 1];
    println!(
        "{what:<58} median {:>10}   p99 {:>10}   max {:>10}   ({} samples)",
        human(at(50)),
        human(at(99)),
        human(at(100)),
        samples.len()
    );
}

fn human(d: Duration) -> String {
    let us = d.as_secs_f64() * 1e6;
    if us < 1_000.0 { format!("{us:.1} µs") } else { format!("{:.2} ms", us / 1e3) }
}

/// The benchmarks run once and briefly under `cargo test --benches`, which says `--test`.
pub fn is_test() -> bool {
    !std::env::args().any(|arg| arg == "--bench")
}

/// The program that is measured: the one built for this benchmark, or `CORONER_BENCH_PROGRAM`, to compare builds.
pub fn program() -> PathBuf {
    std::env::var_os("CORONER_BENCH_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_coroner").into(), PathBuf::from)
}

/// A TCP port and a UDP port that were free a moment ago.
pub fn free_ports() -> (u16, u16) {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    (tcp, udp)
}

/// The arbiter as users run it.
pub struct Arbiter {
    child: Child,
    pub http: SocketAddr,
    pub udp: SocketAddr,
    pub dir: tempfile::TempDir,
}

impl Arbiter {
    /// Starts one with this file; `@ARBITER@` in it becomes the addresses, the store and the socket of this one.
    pub fn start(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (http, udp) = free_ports();
        let own = format!(
            "listen: {{ http: \"127.0.0.1:{http}\", udp: \"127.0.0.1:{udp}\", socket: {0}/socket }}\n  \
             store: \"sqlite:{0}/coroner.db\"",
            dir.path().display()
        );
        let path = dir.path().join("coroner.yaml");
        fs::write(&path, config.replace("@ARBITER@", &own)).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(program())
            .args(["arbiter", "--log", "text", "--config"])
            .arg(&path)
            .env("CORONER_LOG", std::env::var("CORONER_LOG").unwrap_or_else(|_| "warn".into()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let http = SocketAddr::from(([127, 0, 0, 1], http));
        let mut arbiter = Self { child, http, udp: SocketAddr::from(([127, 0, 0, 1], udp)), dir };
        arbiter.wait();
        arbiter
    }

    fn wait(&mut self) {
        for _ in 0..3_000 {
            if self.child.try_wait().unwrap().is_some() {
                panic!("the arbiter ended:\n{}", self.log());
            }
            if TcpStream::connect(self.http).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the arbiter does not listen:\n{}", self.log());
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(Path::new("/proc").join(self.child.id().to_string()).join(file)).unwrap()
    }

    /// Processor time used so far, user and system.
    pub fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        // After the name in brackets, which may hold blanks: utime and stime are the 12th and 13th field.
        let mut fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11);
        let ticks: u64 = (0..2).map(|_| fields.next().unwrap().parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Resident memory, in megabytes.
    pub fn rss(&self) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    /// The value of a metric, summed over its labels; `labels` has to be in the line.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = Http::connect(self.http).call("GET", "/metrics", "", "").1;
        let fitting = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(labels)
        });
        fitting.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

impl Drop for Arbiter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One HTTP connection that is kept.
pub struct Http {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Http {
    pub fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// The bytes of a request.
    pub fn request(method: &str, path: &str, token: &str, body: &str) -> Vec<u8> {
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: arbiter\r\n");
        if !token.is_empty() {
            let _ = write!(text, "authorization: Bearer {token}\r\n");
        }
        let _ = write!(text, "content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        text.into_bytes()
    }

    /// Sends bytes of requests.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// One request and its answer: status and body.
    pub fn call(&mut self, method: &str, path: &str, token: &str, body: &str) -> (u16, String) {
        self.send(&Self::request(method, path, token, body));
        self.answer()
    }

    /// The next answer.
    pub fn answer(&mut self) -> (u16, String) {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length:"))
                    .map_or(0, |value| value.trim().parse::<usize>().unwrap());
                let whole = end + 4 + length;
                if self.buffer.len() >= whole {
                    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                    let body = String::from_utf8_lossy(&self.buffer[end + 4..whole]).into_owned();
                    self.buffer.drain(..whole);
                    return (status, body);
                }
            }
            let mut chunk = [0; 16_384];
            let read = self.stream.read(&mut chunk).unwrap();
            assert!(read > 0, "the arbiter closed the connection");
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }
}

/// A per-thread stop watch that also sleeps until a moment on it.
pub struct Beat {
    watch: Stopwatch,
    next: Duration,
    every: Duration,
}

impl Beat {
    pub fn every(every: Duration) -> Self {
        Self { watch: Stopwatch::start(), next: every, every }
    }

    /// Waits for the next beat.
    pub fn wait(&mut self) {
        std::thread::sleep(self.next.saturating_sub(self.watch.elapsed()));
        self.next += self.every;
    }
}

/// A directory that `redis-server` may write to, and the like.
pub fn path(dir: &tempfile::TempDir, name: &str) -> PathBuf {
    dir.path().join(name)
}
