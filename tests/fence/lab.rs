//! Orders, processes to be sacrificed, network namespaces, a small HTTP server.

use std::{
    future::Future,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use coroner::{
    fence::{AnyFence, Fence},
    model::{Epoch, Order, Target},
    sys::{clock::Stopwatch, process},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Long enough for a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) fn target(address: &str) -> Target {
    Target { cluster: "orders".into(), member: "broker-a".into(), address: address.into() }
}

pub(crate) fn order(epoch: u64) -> Order {
    order_at("127.0.0.1:6379", epoch)
}

pub(crate) fn order_at(address: &str, epoch: u64) -> Order {
    Order { target: target(address), epoch: Epoch(epoch), incident: "01JTEST".into() }
}

pub(crate) fn build(fence: AnyFence) -> Box<dyn Fence> {
    fence.build(None, None).unwrap()
}

/// Waits until it holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let watch = Stopwatch::start();
    while !holds() {
        assert!(watch.elapsed() < LONG, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An executable script in a directory.
pub(crate) fn script(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A program that may be killed, in a process group of its own; all of it is gone when this is dropped.
pub(crate) struct Sacrifice {
    child: Child,
    also: Vec<i32>,
}

impl Sacrifice {
    /// `words` are run as they are.
    pub(crate) fn run(words: &[&str]) -> Self {
        let child = Command::new(words[0])
            .args(&words[1..])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("`{}` cannot be started; install it: {e}", words[0]));
        Self { child, also: Vec::new() }
    }

    pub(crate) fn sh(script: &str, arguments: &[&str]) -> Self {
        Self::run(&[&["sh", "-c", script, "sh"], arguments].concat())
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Clears this one away too, and its group.
    pub(crate) fn with(&mut self, pid: i32) {
        self.also.push(pid);
    }

    pub(crate) fn runs(&self) -> bool {
        runs(self.pid())
    }

    pub(crate) fn reap(&mut self) {
        self.child.wait().unwrap();
    }
}

impl Drop for Sacrifice {
    fn drop(&mut self) {
        for pid in self.also.iter().copied().chain([self.pid()]) {
            for p in group(pid) {
                let pid = rustix::process::Pid::from_raw(p.identity.pid).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

pub(crate) fn runs(pid: i32) -> bool {
    process::look(pid).is_some_and(|p| !p.has_ended())
}

/// Everything that runs in a process group.
pub(crate) fn group(id: i32) -> Vec<process::Seen> {
    process::all().unwrap().into_iter().filter(|p| p.group == id || p.identity.pid == id).collect()
}

/// The number in a file, as soon as it is there.
pub(crate) async fn number_in(path: &Path) -> i32 {
    let mut found = None;
    until(&format!("a number in {}", path.display()), || {
        found = std::fs::read_to_string(path).ok().filter(|t| t.ends_with('\n')).and_then(|t| t.trim().parse().ok());
        found.is_some()
    })
    .await;
    found.unwrap()
}

/// A network namespace with loopback up; it goes with the process that holds it.
pub(crate) struct Namespace {
    holder: Sacrifice,
}

impl Namespace {
    pub(crate) async fn new() -> Self {
        let holder = Sacrifice::run(&["unshare", "--net", "sh", "-c", "ip link set lo up && exec sleep 300"]);
        let pid = holder.pid();
        until("a network namespace of its own; the tests need root and iproute2", || {
            process::command_line(pid).first().is_some_and(|word| word == "sleep")
        })
        .await;
        Self { holder }
    }

    /// The words that lead into it.
    pub(crate) fn via(&self) -> Vec<String> {
        vec!["nsenter".into(), format!("--net=/proc/{}/ns/net", self.holder.pid())]
    }

    pub(crate) fn output(&self, words: &[&str]) -> String {
        let via = self.via();
        let output = Command::new(&via[0]).arg(&via[1]).args(words).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// A python program inside, to which lines can be said.
    pub(crate) fn python(&self, program: &str, arguments: &[&str]) -> Talk {
        let via = self.via();
        let mut child = Command::new(&via[0])
            .arg(&via[1])
            .args(["python3", "-u", "-c", program])
            .args(arguments)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 and nsenter are needed: apt install python3 util-linux");
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Talk { sacrifice: Sacrifice { child, also: Vec::new() }, stdin, stdout }
    }
}

/// A program that answers lines with lines.
pub(crate) struct Talk {
    #[expect(dead_code, reason = "kills it when dropped")]
    sacrifice: Sacrifice,
    stdin: ChildStdin,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Talk {
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    pub(crate) fn say(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").unwrap();
        self.hear()
    }
}

/// A control group of its own, removed at the end.
pub(crate) struct TestGroup {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
}

impl TestGroup {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("coroner-test-{}-{name}", std::process::id());
        let directory = process::ControlGroup::at(&name).unwrap().directory().to_owned();
        std::fs::create_dir(&directory)
            .unwrap_or_else(|e| panic!("the tests need root and a writable cgroup2: {}: {e}", directory.display()));
        Self { name, directory }
    }

    pub(crate) fn add(&self, pid: i32) {
        std::fs::write(self.directory.join("cgroup.procs"), pid.to_string()).unwrap();
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

/// An HTTP server on loopback: `answer(method, path, body)` gives status and body; without an answer it hangs up.
pub(crate) async fn serve<F>(answer: impl Fn(String, String, String) -> F + Send + Sync + 'static) -> String
where
    F: Future<Output = Option<(u16, String)>> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                let (head, body) = loop {
                    let mut buffer = [0; 4096];
                    let n = socket.read(&mut buffer).await.unwrap_or(0);
                    bytes.extend_from_slice(&buffer[..n]);
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    if let Some((head, body)) = text.split_once("\r\n\r\n") {
                        let length = head.lines().find_map(|line| {
                            let (name, value) = line.split_once(':')?;
                            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
                        });
                        if body.len() >= length.unwrap_or(0) {
                            break (head.to_owned(), body.to_owned());
                        }
                    }
                    if n == 0 {
                        return;
                    }
                };
                let mut words = head.split_whitespace().map(str::to_owned);
                let (method, path) = (words.next().unwrap(), words.next().unwrap());
                if let Some((status, text)) = answer(method, path, body).await {
                    let length = text.len();
                    let reply =
                        format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}");
                    let _ = socket.write_all(reply.as_bytes()).await;
                    let _ = socket.shutdown().await;
                }
            });
        }
    });
    address
}
