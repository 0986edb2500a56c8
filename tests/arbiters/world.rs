//! A Redis pair, several arbiters as processes, and the store that they share. Everything ends with it.

use std::{
    fs,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use coroner::sys::clock::Stopwatch;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    http,
    redis::{RedisServer, free_port},
};

/// Whatever is waited for comes within this, on a busy machine too.
pub const SOON: Duration = Duration::from_secs(60);

/// Where the arbiters' store is.
pub enum Shared {
    /// A SQLite file, as several arbiters on one host may share one to try it out.
    File,
    /// At this URL.
    Url(String),
    /// At this URL, the first arbiter by this other one.
    Through(String, String),
}

/// How it is to be.
pub struct Options {
    pub shared: Shared,
    pub rules: &'static str,
    /// More lines below `failover`.
    pub failover: &'static str,
    /// More lines below `leadership`.
    pub leadership: &'static str,
}

/// Both the arbiter and the standby have to say so.
pub const DEAD: &str =
    "- { name: dead, when: { all: [{ ping: { failing: 3 of 3 } }, { link: down }] }, verdict: dead, then: failover }";

impl Default for Options {
    fn default() -> Self {
        Self {
            shared: Shared::File,
            rules: DEAD,
            failover: "unknown_loss: accept",
            leadership: "heartbeat: 300ms, valid_for: 1500ms",
        }
    }
}

/// One arbiter.
pub struct Arbiter {
    pub name: String,
    pub http: SocketAddr,
    config: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Arbiter {
    pub fn get(&self, path: &str) -> Option<Value> {
        let (status, body) = http::unix(&self.socket, "GET", path, b"").ok()?;
        (status == 200).then(|| serde_json::from_str(&body).unwrap())
    }

    pub fn command(&self, body: &Value) -> (u16, Value) {
        let (status, body) = http::unix(&self.socket, "POST", "/v1/command", body.to_string().as_bytes()).unwrap();
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    pub fn leads(&self) -> bool {
        self.get("/v1/status").is_some_and(|status| status["arbiters"]["leads"] == true)
    }

    pub fn cluster(&self) -> Option<Value> {
        self.get("/v1/status")?["clusters"].as_array()?.first().cloned()
    }

    pub fn incidents(&self) -> Vec<Value> {
        self.get("/v1/incidents").and_then(|list| list.as_array().cloned()).unwrap_or_default()
    }

    /// The guards that block, with their reasons.
    pub fn blocking(&self) -> Vec<(String, String)> {
        let guards = self.cluster().and_then(|c| c["blocking"].as_array().cloned()).unwrap_or_default();
        let text = |guard: &Value, key: &str| guard[key].as_str().unwrap_or_default().to_owned();
        guards.iter().filter(|g| g["blocks"] == true).map(|g| (text(g, "guard"), text(g, "reason"))).collect()
    }

    pub fn reason(&self, guard: &str) -> Option<String> {
        self.blocking().into_iter().find(|(name, _)| name == guard).map(|(_, reason)| reason)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().expect("it runs").id();
        killpg(Pid::from_raw(id.try_into().unwrap()), signal).unwrap();
    }

    pub fn has_ended(&mut self) -> bool {
        let ended = self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some());
        if ended {
            self.child = None;
        }
        ended
    }

    /// As a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = killpg(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGKILL);
            let _ = child.wait();
        }
    }

    /// Starts it; does not wait for it.
    pub fn start(&mut self, environment: &[(&str, &str)]) {
        self.start_as(&self.name.clone(), environment);
    }

    /// The same under another name.
    pub fn start_as(&mut self, name: &str, environment: &[(&str, &str)]) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_coroner"))
            .args(["arbiter", "--instance", name, "--config"])
            .arg(&self.config)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }
}

impl Drop for Arbiter {
    fn drop(&mut self) {
        self.kill();
    }
}

pub struct World {
    pub arbiters: Vec<Arbiter>,
    pub a: RedisServer,
    pub b: RedisServer,
    dir: TempDir,
}

impl World {
    /// Sets it up with so many arbiters; none of them runs.
    pub fn new(count: usize, options: &Options) -> Self {
        let dir = tempfile::Builder::new().prefix("coroner-arbiters-").tempdir().unwrap();
        let (a, b) = (RedisServer::start(), RedisServer::start());
        b.replica_of(&a);
        b.command(&["CONFIG", "REWRITE"]);
        a.command(&["SET", "first", "1"]);
        let mut world = Self { arbiters: Vec::new(), a, b, dir };
        let fence = world.dir().join("fence");
        fs::write(&fence, world.fence()).unwrap();
        fs::set_permissions(&fence, fs::Permissions::from_mode(0o755)).unwrap();
        for number in 0..count {
            let name = format!("arbiter-{}", number + 1);
            let path = world.dir.path().join(&name);
            fs::create_dir(&path).unwrap();
            let http = SocketAddr::from(([127, 0, 0, 1], free_port("127.0.0.1")));
            fs::write(path.join("coroner.yaml"), world.yaml(&path, http, options)).unwrap();
            world.arbiters.push(Arbiter {
                name,
                http,
                config: path.join("coroner.yaml"),
                socket: path.join("s"),
                log: path.join("log"),
                child: None,
            });
        }
        world
    }

    /// The same; the arbiters run, the first one leads, and all see the primary.
    pub fn start(count: usize, options: &Options, first: &[(&str, &str)]) -> Self {
        let mut world = Self::new(count, options);
        world.arbiters[0].start(first);
        world.wait("the first one leads", |w| w.arbiters[0].leads());
        for arbiter in &mut world.arbiters[1..] {
            arbiter.start(&[]);
        }
        world.wait_ready(0);
        world
    }

    /// SIGSTOP, where the shared file is free: one that is stopped inside a transaction of SQLite stops everybody, which is
    /// that database's way and said of it in the documents.
    pub fn stop(&mut self, arbiter: usize) {
        let file = self.dir().join("shared.db");
        self.wait("it stands still outside of a transaction", |world| {
            world.arbiters[arbiter].signal(Signal::SIGSTOP);
            let look = Command::new("sqlite3").arg(&file).args([".timeout 300", "BEGIN IMMEDIATE; ROLLBACK;"]).output();
            let is_free = look.expect("sqlite3 runs: apt install sqlite3").status.success();
            if !is_free {
                world.arbiters[arbiter].signal(Signal::SIGCONT);
            }
            is_free
        });
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Kills the primary's process, and writes down that it did. `delay` holds it up.
    fn fence(&self) -> String {
        let dir = self.dir().display();
        format!(
            "#!/bin/sh
pid=$(cat {dir}/$CORONER_MEMBER.pid)
is_dead() {{ ! kill -0 $pid 2>/dev/null || [ \"$(cut -d' ' -f3 /proc/$pid/stat)\" = Z ]; }}
if [ \"$CORONER_ACTION\" = status ]; then is_dead; exit $?; fi
while [ -e {dir}/hold-fence ]; do sleep 0.05; done
echo \"$CORONER_MEMBER $CORONER_EPOCH\" >> {dir}/fences
kill -KILL $pid 2>/dev/null
until is_dead; do sleep 0.02; done
"
        )
    }

    fn yaml(&self, path: &Path, http: SocketAddr, options: &Options) -> String {
        let dir = path.display();
        for (name, server) in [("broker-a", &self.a), ("broker-b", &self.b)] {
            fs::write(self.dir().join(format!("{name}.pid")), server.pid().to_string()).unwrap();
        }
        let store = match &options.shared {
            Shared::File => format!("sqlite:{}/shared.db", self.dir().display()),
            Shared::Url(url) => url.clone(),
            Shared::Through(_, first) if path.ends_with("arbiter-1") => first.clone(),
            Shared::Through(url, _) => url.clone(),
        };
        format!(
            "arbiter:
  name: the-arbiters
  listen: {{ http: \"{http}\", socket: \"{dir}/s\" }}
  store: \"{store}\"
  local: \"{dir}/local.db\"
  leadership: {{ {leadership} }}
  check_fences_every: 1s
clusters:
  orders:
    mode: auto
    broker: {{ redis: {{}} }}
    members:
      broker-a: {{ address: \"{a}\" }}
      broker-b: {{ address: \"{b}\" }}
    signals:
      ping: {{ broker: {{ ask: ping, of: primary, every: 100ms, timeout: 90ms }} }}
      role: {{ broker: {{ ask: role, of: members, every: 200ms, timeout: 150ms }} }}
      link: {{ broker: {{ ask: replication_link, of: standbys, every: 200ms, timeout: 150ms }} }}
    death_rules:
      {rules}
    failover:
      fence: [{{ exec: {{ command: [\"{common}/fence\"], status: [\"{common}/fence\"], proof: stopped }}, deadline: 60s }}]
      catch_up: {{ within: 2s }}
      max_loss: {{ bytes: 1000000 }}
      rejoin: never
      cooldown: 1h
      {failover}
",
            common = self.dir().display(),
            leadership = options.leadership,
            a = self.a.address(),
            b = self.b.address(),
            rules = options.rules,
            failover = options.failover,
        )
    }

    /// Who was fenced, in which epoch, in order.
    pub fn fences(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir().join("fences")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Fences hang, from here on or no more.
    pub fn hold_fences(&self, hold: bool) {
        let path = self.dir().join("hold-fence");
        match hold {
            true => fs::write(path, "").unwrap(),
            false => drop(fs::remove_file(path)),
        }
    }

    /// `master`, `slave`, or nothing.
    pub fn role(&self, server: &RedisServer) -> Option<&'static str> {
        let info = server.try_command(&["INFO", "replication"]).ok()?;
        Some(if info.contains("role:master") { "master" } else { "slave" })
    }

    /// Waits until the arbiter leads, and nothing stands against a failover.
    pub fn wait_ready(&mut self, arbiter: usize) {
        self.wait("ready for a failover", |w| {
            let Some(cluster) = w.arbiters[arbiter].cluster() else { return false };
            let known = |m: &Value| m["position"].as_u64() > Some(0);
            w.arbiters[arbiter].leads()
                && cluster["ready"] == true
                && cluster["verdict"] == "alive"
                && cluster["members"].as_array().is_some_and(|members| members.iter().all(known))
        });
    }

    /// The others know whom the store has as the primary.
    pub fn wait_followed(&mut self) {
        self.wait("all know the primary", |w| {
            let mut primaries = w.arbiters.iter().map(|a| a.cluster().map(|c| c["primary"].clone()));
            primaries.all(|primary| primary.is_some_and(|p| p.is_string()))
        });
    }

    #[track_caller]
    pub fn wait(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let watch = Stopwatch::start();
        while !is_so(self) {
            assert!(watch.elapsed() < SOON, "waited in vain: {what}\n{}", self.portrait());
            thread::sleep(Duration::from_millis(40));
        }
    }

    /// Looks again and again, for so long, that it stays so.
    #[track_caller]
    pub fn stays(&mut self, what: &str, for_: Duration, mut is_so: impl FnMut(&mut Self) -> bool) {
        let watch = Stopwatch::start();
        while watch.elapsed() < for_ {
            assert!(is_so(self), "did not stay so: {what}\n{}", self.portrait());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What a person would want to see.
    pub fn portrait(&self) -> String {
        let mut out = format!("fences: {:?}\n", self.fences());
        for arbiter in &self.arbiters {
            let log = arbiter.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            let status = arbiter.get("/v1/status").map_or_else(|| "no answer".into(), |s| format!("{s:#}"));
            out += &format!("---- {}\n{status}\n{tail}\n", arbiter.name);
        }
        out
    }
}
