//! The lab's writers: they run in a namespace of their own, as this test binary started again with `LAB_ROLE=writer`.
//!
//! Two kinds, on both sides of every cut. *Followers* ask the arbiter (long poll) whom to follow and write there.
//! *Stubborn* ones write to one fixed address for ever, as a client with a cached address does; *patient* ones among
//! them keep an unanswered connection open, so that an answer that comes far too late is heard as well.
//!
//! Every write is one transaction that also reads the epoch and its holder as stored at that server, and the server's
//! clock: so every acknowledgement says in which epoch and when it was given. Acknowledged writes are logged, one
//! line each.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread::{self, sleep},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// Between two writes of one writer.
const PACE: Duration = Duration::from_millis(10);
const CONNECT_WITHIN: Duration = Duration::from_millis(300);

/// One acknowledged write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    /// Who wrote.
    pub(crate) writer: String,
    /// The server that acknowledged, by name.
    pub(crate) server: String,
    /// The epoch stored there at that moment; 0: none yet.
    pub(crate) epoch: u64,
    /// Who was made primary in that epoch, as stored there; `-`: nobody yet.
    pub(crate) holder: String,
    /// The value.
    pub(crate) value: u64,
    /// When it was sent and acknowledged: nanoseconds of `CLOCK_MONOTONIC`, which all processes of this host share.
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    /// When the server executed it, on the server's wall clock, in microseconds. The same host, so the same clock.
    pub(crate) executed: u64,
}

impl Ack {
    pub(crate) fn line(&self) -> String {
        let Self { writer, server, epoch, holder, value, sent, acked, executed } = self;
        format!("{writer} {server} {epoch} {holder} {value} {sent} {acked} {executed}\n")
    }

    pub(crate) fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let [writer, server, epoch, holder, value, sent, acked, executed] = words[..] else { return None };
        Some(Self {
            writer: writer.into(),
            server: server.into(),
            epoch: epoch.parse().ok()?,
            holder: holder.into(),
            value: value.parse().ok()?,
            sent: sent.parse().ok()?,
            acked: acked.parse().ok()?,
            executed: executed.parse().ok()?,
        })
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

/// What the process is told by its environment.
pub(crate) mod env {
    pub(crate) const ROLE: &str = "LAB_ROLE";
    pub(crate) const NAME: &str = "LAB_NAME";
    pub(crate) const LOGS: &str = "LAB_LOGS";
    pub(crate) const ARBITER: &str = "LAB_ARBITER";
    pub(crate) const TOKEN: &str = "LAB_TOKEN";
    /// `m=10.213.0.11:6379,s=…`
    pub(crate) const MEMBERS: &str = "LAB_MEMBERS";
    /// `follow`, `seek`, `stubborn:m`, `patient:s`, separated by commas.
    pub(crate) const WRITERS: &str = "LAB_WRITERS";
    /// The epoch that a node which never moves reports; role `stuck`.
    pub(crate) const STUCK: &str = "stuck";
    pub(crate) const WRITER: &str = "writer";
}

/// The process: runs until standard input ends.
pub(crate) fn run() {
    let get = |name: &str| std::env::var(name).unwrap_or_default();
    match get(env::ROLE).as_str() {
        env::WRITER => writers(&get),
        env::STUCK => {
            let (arbiter, token, name) = (get(env::ARBITER), get(env::TOKEN), get(env::NAME));
            thread::spawn(move || stuck_node(&arbiter, &token, &name));
        }
        other => panic!("{other:?} is no role"),
    }
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}

fn writers(get: &impl Fn(&str) -> String) {
    let members: Vec<(String, SocketAddr)> = get(env::MEMBERS)
        .split(',')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, address)| (name.to_owned(), address.parse().unwrap()))
        .collect();
    for spec in get(env::WRITERS).split(',') {
        let name = format!("{}-{}", get(env::NAME), spec.replace(':', "-"));
        let log = Path::new(&get(env::LOGS)).join(format!("{name}.acks"));
        let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let (kind, member) = spec.split_once(':').unwrap_or((spec, ""));
        let members = members.clone();
        match kind {
            "follow" => {
                let following = Arc::new(Mutex::new((0, members[0].clone())));
                let (arbiter, token, whom) = (get(env::ARBITER), get(env::TOKEN), Arc::clone(&following));
                thread::spawn(move || ask(&arbiter, &token, &members, &whom));
                thread::spawn(move || {
                    write_on(&name, log, Duration::from_millis(300), |_| following.lock().unwrap().1.clone())
                });
            }
            // Knows both addresses, and tries the other one when the one fails: needs nobody to tell it.
            "seek" => {
                let mut at = 0;
                let seek = move |is_well: bool| {
                    at = if is_well { at } else { (at + 1) % members.len() };
                    members[at].clone()
                };
                thread::spawn(move || write_on(&name, log, Duration::from_millis(300), seek));
            }
            "stubborn" | "patient" => {
                let at = members.iter().find(|(name, _)| name == member).unwrap().clone();
                let patience = if kind == "patient" { Duration::from_secs(60) } else { Duration::from_millis(300) };
                thread::spawn(move || write_on(&name, log, patience, |_| at.clone()));
            }
            other => panic!("{other:?} is no kind of writer"),
        }
    }
}

/// Writes without end to whom `whom` names, which is told whether the last write was acknowledged.
fn write_on(name: &str, mut log: File, patience: Duration, mut whom: impl FnMut(bool) -> (String, SocketAddr)) {
    let mut is_well = true;
    let mut connection: Option<(String, Connection)> = None;
    let mut value = 0;
    loop {
        sleep(PACE);
        let (server, address) = whom(std::mem::replace(&mut is_well, false));
        if connection.as_ref().is_some_and(|(at, _)| *at != server) {
            connection = None;
        }
        let open = match &mut connection {
            Some((_, open)) => open,
            None => match Connection::open(address, patience) {
                Ok(open) => &mut connection.insert((server.clone(), open)).1,
                Err(_) => continue,
            },
        };
        value += 1;
        let sent = monotonic();
        match open.write(name, value) {
            Ok(Some((epoch, holder, executed))) => {
                let acked = monotonic();
                let ack = Ack { writer: name.into(), server, epoch, holder, value, sent, acked, executed };
                is_well = true;
                // One write, so that no line is torn when the process is ended.
                log.write_all(ack.line().as_bytes()).unwrap();
            }
            // Refused. The connection is good, and a stubborn client does not let go of it.
            Ok(None) => {}
            Err(_) => connection = None,
        }
    }
}

/// A plain connection.
struct Connection {
    stream: BufReader<TcpStream>,
}

/// As much of a reply as is needed here.
#[derive(Debug)]
enum Reply {
    Text(Option<String>),
    Error,
    Array(Vec<Self>),
}

impl Connection {
    fn open(address: SocketAddr, patience: Duration) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// One write with the epoch, its holder and the server's time; `None` if the server refused it.
    fn write(&mut self, name: &str, value: u64) -> std::io::Result<Option<(u64, String, u64)>> {
        let value = value.to_string();
        let key = format!("lab:{name}");
        let mut packed = String::new();
        for words in [
            &["MULTI"][..],
            &["GET", "coroner:epoch"],
            &["GET", "coroner:holder"],
            &["SET", &key, &value],
            &["XADD", "demo:messages", "MAXLEN", "~", "1000", "*", "n", &value],
            &["TIME"],
            &["EXEC"],
        ] {
            packed += &format!("*{}\r\n", words.len());
            for word in words {
                packed += &format!("${}\r\n{word}\r\n", word.len());
            }
        }
        self.stream.get_mut().write_all(packed.as_bytes())?;
        for _ in 0..6 {
            self.reply()?;
        }
        let Reply::Array(replies) = self.reply()? else { return Ok(None) };
        let [Reply::Text(epoch), Reply::Text(holder), Reply::Text(_), Reply::Text(_), Reply::Array(time)] =
            &replies[..]
        else {
            return Ok(None);
        };
        let part = |at: usize| match time.get(at) {
            Some(Reply::Text(Some(text))) => text.parse::<u64>().unwrap_or(0),
            _ => 0,
        };
        let epoch = epoch.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
        let holder = holder.clone().unwrap_or_else(|| "-".into());
        Ok(Some((epoch, holder, part(0) * 1_000_000 + part(1))))
    }

    fn reply(&mut self) -> std::io::Result<Reply> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let bad = || std::io::Error::from(ErrorKind::InvalidData);
        let (kind, rest) = line.split_at_checked(1).ok_or_else(bad)?;
        match kind {
            "+" | ":" => Ok(Reply::Text(Some(rest.into()))),
            "-" => Ok(Reply::Error),
            "$" if rest == "-1" => Ok(Reply::Text(None)),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().map_err(|_| bad())? + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Ok(Reply::Text(Some(String::from_utf8_lossy(&bytes).into_owned())))
            }
            "*" => {
                let count = rest.parse::<i64>().map_err(|_| bad())?;
                (0..count).map(|_| self.reply()).collect::<Result<_, _>>().map(Reply::Array)
            }
            _ => Err(bad()),
        }
    }
}

/// Asks the arbiter again and again whom to follow. A smaller epoch than the largest heard of is passed over.
fn ask(arbiter: &str, token: &str, members: &[(String, SocketAddr)], following: &Mutex<(u64, (String, SocketAddr))>) {
    loop {
        let epoch = following.lock().unwrap().0;
        let newer = if epoch == 0 { String::new() } else { format!("&epoch={epoch}") };
        let path = format!("/v1/clusters/lab/primary?wait=2s{newer}");
        if let Ok((200, body)) = request(arbiter, "GET", &path, token, "", Duration::from_secs(3))
            && let Ok(view) = serde_json::from_str::<serde_json::Value>(&body)
            && let (Some(epoch), Some(name)) = (view["epoch"].as_u64(), view["primary"].as_str())
            && let Some(member) = members.iter().find(|(member, _)| member == name)
        {
            let mut now = following.lock().unwrap();
            if epoch >= now.0 {
                *now = (epoch, member.clone());
            }
        } else {
            sleep(Duration::from_millis(50));
        }
    }
}

/// A node that reports what it always reported and never follows anybody else.
fn stuck_node(arbiter: &str, token: &str, name: &str) {
    loop {
        let body = serde_json::json!({
            "cluster": "lab", "node": name, "received": 1, "last_age_ms": 10, "primary": "m", "epoch": 1,
        });
        let _ = request(arbiter, "POST", "/v1/arrivals", token, &body.to_string(), Duration::from_secs(1));
        sleep(Duration::from_millis(200));
    }
}

fn request(
    host: &str,
    method: &str,
    path: &str,
    token: &str,
    body: &str,
    patience: Duration,
) -> std::io::Result<(u16, String)> {
    let bad = || std::io::Error::from(ErrorKind::InvalidData);
    let address: SocketAddr = host.parse().map_err(|_| bad())?;
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN)?;
    stream.set_read_timeout(Some(patience))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    answer(&text).ok_or_else(bad)
}

/// Status and body of an answer that came whole.
pub(crate) fn answer(text: &str) -> Option<(u16, String)> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
