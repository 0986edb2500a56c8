//! A cluster of processes: two masters, three workers. All of it ends with the lab.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use coroner::{
    broker::{AnyBroker, Broker},
    model::{Epoch, Order, Target},
    sys::clock::Stopwatch,
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Whatever is waited for comes within this, on a busy machine too.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A process in a session of its own, killed with all that it started.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).process_group(0).spawn();
        Self(child.unwrap_or_else(|e| panic!("{command:?} cannot be started: {e}; install it: apt install python3")))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let _ = killpg(Pid::from_raw(self.0.id().try_into().unwrap()), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// One request, answered: status and body.
pub(crate) fn http(port: u16, method: &str, path: &str, headers: &str, body: &str) -> Result<(u16, String), String> {
    let stream = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(SOON)).map_err(|e| e.to_string())?;
    http_over(stream, method, path, headers, body)
}

/// The same over what is connected already.
pub(crate) fn http_over(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Result<(u16, String), String> {
    let mut work = || -> std::io::Result<String> {
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = work().map_err(|e| e.to_string())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("no answer: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| format!("no status: {head:?}"))?;
    Ok((status, body.to_owned()))
}

#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let watch = Stopwatch::start();
    while !is_so() {
        assert!(watch.elapsed() < SOON, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A port that was free a moment ago and is not given out by the system for connections of its own.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) struct Master {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    pub(crate) dir: PathBuf,
    process: Option<Process>,
    workers: String,
    auth: Option<&'static str>,
}

impl Master {
    pub(crate) fn node(&self) -> String {
        format!("http://127.0.0.1:{}/repositories/cluster", self.port)
    }

    pub(crate) fn start(&mut self) {
        let mut command = standin();
        command.args(["master", self.name, &self.port.to_string()]).arg(&self.dir).arg(&self.workers);
        command.args(self.auth);
        command.stderr(log_file(&self.dir, "log"));
        self.process = Some(Process::start(&mut command));
        eventually("the master answers", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    pub(crate) fn jolokia(&self, request: &Value) -> Value {
        let (_, body) = http(self.port, "POST", "/jolokia/", "", &request.to_string()).unwrap();
        serde_json::from_str(&body).unwrap()
    }

    pub(crate) fn read(&self, attribute: &str) -> Value {
        let mbean = "ReplicationCluster:name=ClusterInfo/cluster";
        let answer = self.jolokia(&json!({"type": "read", "mbean": mbean, "attribute": attribute}));
        assert_eq!(answer["status"], 200, "{answer}");
        answer["value"].clone()
    }

    /// What a client gets for a write.
    pub(crate) fn write(&self, text: &str) -> Result<(u16, String), String> {
        http(self.port, "POST", "/repositories/cluster/statements", "", text)
    }

    pub(crate) fn position(&self) -> u64 {
        self.read("LastTransaction").as_u64().unwrap()
    }

    pub(crate) fn is_in_step(&self) -> bool {
        self.read("Status") == 0
    }

    /// The properties that it would start with.
    pub(crate) fn properties(&self) -> String {
        fs::read_to_string(self.dir.join("cluster.properties")).unwrap()
    }
}

pub(crate) struct Worker {
    pub(crate) port: u16,
    _process: Process,
}

impl Worker {
    /// Drops what these masters send, as the node's agent would have its kernel do.
    pub(crate) fn drop_traffic(&self, masters: &[&str]) {
        http(self.port, "POST", "/control", "", &json!({ "drop": masters }).to_string()).unwrap();
    }

    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&http(self.port, "GET", "/state", "", "").unwrap().1).unwrap()
    }

    pub(crate) fn log(&self) -> Vec<String> {
        serde_json::from_value(self.state()["log"].clone()).unwrap()
    }
}

fn standin() -> Command {
    let mut command = Command::new("python3");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jolokia/standin.py"));
    command
}

/// One cluster at a time: it is six processes, and with the arbiter's and the agents' nine.
static TURN: Mutex<()> = Mutex::new(());

pub(crate) struct Lab {
    pub(crate) a: Master,
    pub(crate) b: Master,
    pub(crate) workers: Vec<Worker>,
    pub(crate) dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

const PROPERTIES: &str = "# The cluster of this master.\n! Written by a person: keep it in order.\nsplit-strategy = NONE\n\
                          read-only = @READONLY@\nworkers : worker-1,\\\n          worker-2\n";

impl Lab {
    /// The first is primary, the second read-only; they are peered, and a few transactions are done.
    pub(crate) fn start() -> Self {
        Self::with(None)
    }

    pub(crate) fn with(auth: Option<&'static str>) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::Builder::new().prefix("coroner-jolokia-").tempdir().unwrap();
        let workers: Vec<Worker> = (1..=3)
            .map(|n| {
                let port = free_port();
                let mut command = standin();
                command
                    .args(["worker", &format!("worker-{n}"), &port.to_string()])
                    .arg(dir.path().join(format!("worker-{n}")));
                command.stderr(log_file(dir.path(), &format!("worker-{n}.log")));
                let worker = Worker { port, _process: Process::start(&mut command) };
                eventually("the worker answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
                worker
            })
            .collect();
        let urls = workers.iter().map(|w| format!("http://127.0.0.1:{}", w.port)).collect::<Vec<_>>().join(",");
        let ports = [free_port(), free_port()];
        let nodes = ports.map(|port| format!("http://127.0.0.1:{port}/repositories/cluster"));
        let master = |name: &'static str, own: usize, is_read_only: &str| {
            let at = dir.path().join(name);
            fs::create_dir_all(at.join("txlog")).unwrap();
            fs::write(at.join("cluster.properties"), PROPERTIES.replace("@READONLY@", is_read_only)).unwrap();
            fs::write(at.join("peers.json"), json!({ &nodes[1 - own]: &nodes[1 - own] }).to_string()).unwrap();
            let mut master = Master { name, port: ports[own], dir: at, process: None, workers: urls.clone(), auth };
            master.start();
            master
        };
        let (a, b) = (master("master-1", 0, "false"), master("master-2", 1, "true"));
        let lab = Self { a, b, workers, dir, _turn: turn };
        if auth.is_none() {
            eventually("the workers are in step", || lab.a.is_in_step() && lab.b.is_in_step());
            for n in 0..3 {
                assert_eq!(lab.a.write(&format!("INSERT {n}")).unwrap().0, 200);
            }
            lab.wait_synced();
        }
        lab
    }

    pub(crate) fn wait_synced(&self) {
        eventually("the masters are at the same transaction, as peers", || {
            let up = |m: &Master| m.read("PeerStatus").to_string().contains("[ON]");
            self.a.position() == self.b.position() && up(&self.a) && up(&self.b)
        });
    }

    /// Cuts the masters from each other, or lets them meet again.
    pub(crate) fn split(&self, is_cut: bool) {
        for (one, other) in [(&self.a, &self.b), (&self.b, &self.a)] {
            let cut = if is_cut { json!([other.node()]) } else { json!([]) };
            http(one.port, "POST", "/control", "", &json!({ "cut": cut }).to_string()).unwrap();
        }
    }

    /// The kind's settings for these masters.
    pub(crate) fn config(&self) -> Value {
        json!({
            "preset": "graphdb",
            "repository": "cluster",
            "members": { "master-1": { "node": self.a.node() }, "master-2": { "node": self.b.node() } },
            "position": { "attribute": "LastTransaction" },
            "link": { "attribute": "PeerStatus", "has": "[ON] {other.node}" },
        })
    }

    pub(crate) fn broker(&self) -> Box<dyn Broker> {
        broker(self.config())
    }

    pub(crate) fn target(&self, name: &str) -> Target {
        let port = if name == "master-1" { self.a.port } else { self.b.port };
        target(name, port)
    }

    /// Exactly one master takes writes.
    pub(crate) fn writers(&self) -> usize {
        [&self.a, &self.b].iter().filter(|m| m.write("DELETE DATA {}").is_ok_and(|(status, _)| status == 200)).count()
    }

    /// The picture after the runbook: who was primary is read-only, who was read-only is primary, peered both ways, all
    /// workers in step with both.
    #[track_caller]
    pub(crate) fn wait_mirrored(&self) {
        eventually("the topology is the mirrored one", || {
            let peered = |m: &Master, other: &Master| {
                m.read("SyncPeers") == json!([other.node()])
                    && m.read("PeerStatus") == json!([format!("[ON] {}", other.node())])
            };
            self.a.read("ReadOnly") == true
                && self.b.read("ReadOnly") == false
                && peered(&self.a, &self.b)
                && peered(&self.b, &self.a)
                && self.a.is_in_step()
                && self.b.is_in_step()
        });
        assert_eq!(self.writers(), 1);
    }
}

pub(crate) fn broker(config: Value) -> Box<dyn Broker> {
    AnyBroker::Jolokia(serde_json::from_value(config).unwrap()).build().unwrap()
}

pub(crate) fn target(name: &str, port: u16) -> Target {
    Target { cluster: "graph".into(), member: name.into(), address: format!("127.0.0.1:{port}") }
}

pub(crate) fn order(target: &Target, epoch: u64) -> Order {
    Order { target: target.clone(), epoch: Epoch(epoch), incident: "01TEST".into() }
}

/// Stands before a master and cuts the connection of one request: before it gets through, or after it was carried out.
pub(crate) struct Cutter {
    pub(crate) port: u16,
    state: Arc<CutterState>,
}

struct CutterState {
    seen: AtomicUsize,
    cut_at: Mutex<Option<(usize, bool)>>,
    was_cut: AtomicBool,
}

impl Cutter {
    pub(crate) fn before(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(CutterState {
            seen: AtomicUsize::new(0),
            cut_at: Mutex::new(None),
            was_cut: AtomicBool::new(false),
        });
        let shared = Arc::clone(&state);
        // Ends with the process: it holds nothing but a port.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.serve(client, to));
            }
        });
        Self { port, state }
    }

    /// The request of that number, from 0, is cut off; `arrived`: only its answer is. Later ones get through.
    pub(crate) fn cut(&self, number: usize, arrived: bool) {
        self.state.seen.store(0, Ordering::SeqCst);
        self.state.was_cut.store(false, Ordering::SeqCst);
        *self.state.cut_at.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, arrived));
    }

    /// All get through from now on.
    pub(crate) fn mend(&self) {
        *self.state.cut_at.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn was_cut(&self) -> bool {
        self.state.was_cut.load(Ordering::SeqCst)
    }
}

impl CutterState {
    fn serve(&self, mut client: TcpStream, to: u16) {
        let number = self.seen.fetch_add(1, Ordering::SeqCst);
        let cut = self.cut_at.lock().unwrap_or_else(PoisonError::into_inner).filter(|(at, _)| *at == number);
        if cut.is_some() {
            self.was_cut.store(true, Ordering::SeqCst);
        }
        if matches!(cut, Some((_, false))) {
            return;
        }
        let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)) else { return };
        let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let up = thread::spawn(move || drop(std::io::copy(&mut from_client, &mut to_server)));
        if cut.is_some() {
            // Its answer has come: it was carried out.
            let mut answer = [0; 4096];
            let _ = server.read(&mut answer);
        } else {
            let _ = std::io::copy(&mut server, &mut client);
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
        let _ = up.join();
    }
}

pub(crate) fn log_file(dir: &Path, name: &str) -> File {
    File::options().create(true).append(true).open(dir.join(name)).unwrap()
}
