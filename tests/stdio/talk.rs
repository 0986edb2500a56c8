//! The binary, talked to: in a session and a temporary directory of its own, so that what it leaves behind is found.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread::sleep,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::form;

/// Whatever is waited for comes within this on the slowest machine.
const WITHIN: Duration = Duration::from_secs(60);

pub(crate) struct Talk {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    answers: u64,
    pub(crate) dir: TempDir,
}

impl Talk {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // `setsid` becomes the program itself, under the same number.
        let mut command = Command::new("setsid");
        command.arg(env!("CARGO_BIN_EXE_coroner")).arg("stdio").args(arguments).env("TMPDIR", dir.path());
        for name in ["CORONER_SOCKET", "CORONER_URL", "CORONER_TOKEN", "CORONER_CONFIG"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("setsid is needed: apt-get install util-linux");
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let _ = send.send(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Self { child, input, lines, answers: 0, dir }
    }

    /// One with these nodes; it speaks as the first.
    pub(crate) fn of(nodes: &[&str], arguments: &[&str]) -> Self {
        let mut talk = Self::start(arguments);
        let body = talk.ask(json!({ "type": "init", "node_id": nodes[0], "node_ids": nodes }));
        assert_eq!(body["type"], "init_ok", "{body}");
        talk
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.input.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// The next line, as it came.
    pub(crate) fn line(&mut self) -> String {
        self.lines.recv_timeout(WITHIN).expect("an answer within a minute")
    }

    /// The next line, which must be an answer.
    pub(crate) fn answer(&mut self) -> Value {
        let line = self.line();
        self.answers += 1;
        form::check(&line, self.answers - 1)
    }

    /// Asks, and gives the body of the answer back.
    pub(crate) fn ask(&mut self, mut body: Value) -> Value {
        let msg_id = 1_000 + self.answers;
        body["msg_id"] = msg_id.into();
        let dest = body["node_id"].as_str().unwrap_or("n1").to_owned();
        self.send(format!("{}\n", json!({ "src": "c1", "dest": dest, "body": body })).as_bytes());
        let mut answer = self.answer();
        assert_eq!((&answer["dest"], &answer["body"]["in_reply_to"]), (&json!("c1"), &json!(msg_id)), "{answer}");
        answer["body"].take()
    }

    /// Asks for something that is to be done; `kind` without its `_ok`.
    pub(crate) fn done(&mut self, kind: &str, more: Value) -> Value {
        let mut body = more;
        body["type"] = kind.into();
        let answer = self.ask(body);
        assert_eq!(answer["type"], format!("{kind}_ok"), "{answer}");
        answer
    }

    /// Asks for something that is to be refused; gives the code and the words.
    pub(crate) fn refused(&mut self, kind: &str, more: Value) -> (u64, String) {
        let mut body = more;
        body["type"] = kind.into();
        let answer = self.ask(body);
        assert_eq!(answer["type"], "error", "{answer}");
        (answer["code"].as_u64().unwrap(), answer["text"].as_str().unwrap().to_owned())
    }

    /// Everything that can be read, page by page: the messages alone.
    pub(crate) fn read_all(&mut self) -> Vec<Value> {
        let (mut all, mut from) = (Vec::new(), json!(0));
        while !from.is_null() {
            let mut page = self.done("read", json!({ "from": from, "limit": 3 }));
            all.extend(page["messages"].as_array().unwrap().iter().map(|message| message["message"].clone()));
            from = page["next"].take();
        }
        all
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Nothing more is said to it.
    pub(crate) fn close(&mut self) {
        drop(self.input.take());
    }

    /// Waits for its end; it must have ended what it started and removed what it wrote. Gives its exit code back.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let status = until("the end", || self.child.try_wait().unwrap());
        assert_eq!(processes_of(self.dir.path()), [0; 0], "processes are left behind");
        let left: Vec<_> = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [""; 0].map(std::path::PathBuf::from), "files are left behind");
        status.code()
    }

    /// Ends the input and waits.
    pub(crate) fn finish(mut self) {
        self.close();
        assert_eq!(self.ended(), Some(0));
        assert!(self.lines.try_recv().is_err(), "an answer to nothing");
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What it started ends with it, but for what is stopped.
        for pid in processes_of(self.dir.path()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Waits until there is something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..WITHIN.as_millis() / 20 {
        if let Some(found) = look() {
            return found;
        }
        sleep(Duration::from_millis(20));
    }
    panic!("{what}: not within a minute");
}

/// The processes whose command line names something in this directory.
pub(crate) fn processes_of(dir: &Path) -> Vec<i32> {
    processes_with(&dir.display().to_string())
}

/// The processes whose command line has these words.
pub(crate) fn processes_with(words: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).replace('\0', " ").contains(words)
            && let Ok(pid) = entry.file_name().to_string_lossy().parse()
        {
            found.push(pid);
        }
    }
    found
}
