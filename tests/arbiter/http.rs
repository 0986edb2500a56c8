//! As much of HTTP as stand-ins need: a server whose answers a test chooses, and one request at a time.

use std::{
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;

/// What came in.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub body: Vec<u8>,
}

impl Request {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// What goes out.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A status and a body.
    Status(u16, String),
    /// The connection stays open and nothing is said.
    Hang,
}

type Choose = Box<dyn FnMut(&Request) -> Answer + Send>;

/// A server on a free port of loopback; ends with this value.
pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    choose: Arc<Mutex<Choose>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub fn start(choose: impl FnMut(&Request) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            choose: Arc::new(Mutex::new(Box::new(choose))),
            stop: Arc::default(),
        };
        let (requests, choose, stop) =
            (Arc::clone(&server.requests), Arc::clone(&server.choose), Arc::clone(&server.stop));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                let (requests, choose, stop) = (Arc::clone(&requests), Arc::clone(&choose), Arc::clone(&stop));
                thread::spawn(move || drop(serve(stream, &requests, &choose, &stop)));
            }
        });
        server
    }

    /// Answers otherwise from now on.
    pub fn answer(&self, choose: impl FnMut(&Request) -> Answer + Send + 'static) {
        *self.choose.lock().unwrap() = Box::new(choose);
    }

    /// What came in so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn serve(
    mut stream: TcpStream,
    requests: &Mutex<Vec<Request>>,
    choose: &Mutex<Choose>,
    stop: &AtomicBool,
) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut body = vec![0; read_head(&mut reader)?.1];
    reader.read_exact(&mut body)?;
    let request = Request { path, body };
    requests.lock().unwrap().push(request.clone());
    let answer = (choose.lock().unwrap())(&request);
    match answer {
        Answer::Status(status, body) => {
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: \
                 close\r\n\r\n{body}"
            )
        }
        Answer::Hang => {
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        }
    }
}

/// Reads headers up to the empty line: whether the body is chunked, and its length.
fn read_head(reader: &mut impl io::BufRead) -> io::Result<(bool, usize)> {
    let (mut chunked, mut length) = (false, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok((chunked, length));
        }
        let lower = line.to_ascii_lowercase();
        chunked |= lower.starts_with("transfer-encoding:") && lower.contains("chunked");
        if let Some(text) = lower.strip_prefix("content-length:") {
            length = text.trim().parse().unwrap_or(0);
        }
    }
}

/// One request over an open connection; the status and the whole body.
pub fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &[u8],
) -> io::Result<(u16, String)> {
    let auth = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: arbiter\r\n{auth}content-type: application/json\r\ncontent-length: \
         {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let status = first.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let (chunked, length) = read_head(&mut reader)?;
    let mut body = Vec::new();
    if chunked {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    } else {
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
    }
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// One request over TCP.
pub fn tcp(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &[u8],
) -> io::Result<(u16, String)> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    exchange(stream, method, path, token, body)
}

/// One request over a Unix socket.
pub fn unix(socket: &Path, method: &str, path: &str, body: &[u8]) -> io::Result<(u16, String)> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    exchange(stream, method, path, None, body)
}
