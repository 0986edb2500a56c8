//! HTTP clients that build even without a CA bundle, errors with their kind, and JSON assertions.

use std::{
    collections::BTreeMap,
    error::Error,
    io,
    path::Path,
    sync::{Once, OnceLock},
    time::Duration,
};

use reqwest::{Certificate, Client, ClientBuilder, Response, redirect};
use serde_json::Value;

use crate::model::{Failure, FailureKind};

/// Makes *ring* the provider of cryptography for the whole process. Done once; harmless when done again.
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only if somebody installed one before us, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// A client that follows no redirects, takes no proxy from the environment, and opens a new connection for each
/// request: a kept one would hide that new ones are refused, or fail because the other side had closed it.
///
/// With `ca_file`, only these authorities are trusted. Without it, those of the system; where the system has none,
/// the client is built all the same and only its https requests fail.
///
/// # Errors
/// `ca_file` cannot be read or holds no certificate.
pub fn client(ca_file: Option<&Path>) -> Result<Client, String> {
    static SYSTEM: OnceLock<Client> = OnceLock::new();
    install_crypto();
    let Some(path) = ca_file else {
        // One for all: each copy of the system's bundle would take megabytes.
        return Ok(SYSTEM.get_or_init(system).clone());
    };
    let pem = std::fs::read(path).map_err(|e| format!("the CA file {} cannot be read: {e}", path.display()))?;
    let certificates = Certificate::from_pem_bundle(&pem)
        .map_err(|e| format!("the CA file {} holds no usable certificates: {e}", path.display()))?;
    if certificates.is_empty() {
        return Err(format!("the CA file {} holds no certificate: it must be PEM", path.display()));
    }
    builder()
        .tls_certs_only(certificates)
        .build()
        .map_err(|e| format!("the CA file {} cannot be used: {}", path.display(), chain(&e)))
}

fn builder() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("coroner/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .pool_max_idle_per_host(0)
        .tcp_nodelay(true)
}

fn system() -> Client {
    builder().build().unwrap_or_else(|e| {
        tracing::warn!(error = %chain(&e), "No certificate authorities were found on this system: https requests will fail until a CA file is named.");
        without_authorities()
    })
}

fn without_authorities() -> Client {
    // Nothing is read and nothing is optional any more: an error here would be a defect of the TLS library itself,
    // and even then a client that speaks plain http is better than none.
    builder().tls_certs_only([]).build().unwrap_or_default()
}

/// Which kind of failure an error is, in words without the URL, which may hold a secret.
#[must_use]
pub fn failure(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let kind = kind(&error);
    Failure::new(kind, chain(&error))
}

/// Whether a request that failed so may have reached the other side. A connection that never came about did not.
#[must_use]
pub fn may_have_arrived(error: &reqwest::Error) -> bool {
    !(error.is_connect() || error.is_builder())
}

fn kind(error: &reqwest::Error) -> FailureKind {
    if error.is_timeout() {
        return FailureKind::TimedOut;
    }
    if error.is_dns() {
        return FailureKind::NotFound;
    }
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    let mut found = None;
    while let Some(e) = source {
        if e.is::<rustls::Error>() {
            return FailureKind::Tls;
        }
        if let Some(e) = e.downcast_ref::<io::Error>() {
            // What an io::Error wraps is not among its sources, and it may wrap another one.
            let mut error = e;
            loop {
                found = found.or_else(|| io_kind(error));
                let Some(inner) = error.get_ref() else { break };
                if inner.is::<rustls::Error>() {
                    return FailureKind::Tls;
                }
                let Some(inner) = inner.downcast_ref::<io::Error>() else { break };
                error = inner;
            }
        }
        if let Some(e) = e.downcast_ref::<hyper::Error>() {
            if e.is_parse() {
                return FailureKind::Parse;
            }
            if e.is_incomplete_message() || e.is_closed() || e.is_canceled() {
                found = found.or(Some(FailureKind::Reset));
            }
        }
        source = e.source();
    }
    found.unwrap_or_else(|| match () {
        () if error.is_decode() => FailureKind::Parse,
        () if error.is_builder() => FailureKind::Local,
        () if error.is_connect() => FailureKind::Unreachable,
        () => FailureKind::Reset,
    })
}

/// Which kind of failure an error of a socket is; `None` for one that says nothing of the other side's.
#[must_use]
pub fn io_kind(error: &io::Error) -> Option<FailureKind> {
    use io::ErrorKind as K;
    Some(match error.kind() {
        K::ConnectionRefused => FailureKind::Refused,
        K::TimedOut => FailureKind::TimedOut,
        K::HostUnreachable | K::NetworkUnreachable | K::NetworkDown => FailureKind::Unreachable,
        K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::UnexpectedEof => FailureKind::Reset,
        K::AddrNotAvailable | K::AddrInUse | K::PermissionDenied | K::OutOfMemory => FailureKind::Local,
        // EMFILE, ENFILE: the descriptors are ours.
        _ if matches!(error.raw_os_error(), Some(23 | 24)) => FailureKind::Local,
        _ => return None,
    })
}

/// An error and its causes, each once.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        let more = e.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = e.source();
    }
    text
}

/// Reads an answer's body, at most `cap` bytes of it.
///
/// # Errors
/// The connection broke, or the body is longer.
pub async fn body(mut response: Response, cap: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failure)? {
        if bytes.len() + chunk.len() > cap {
            return Err(Failure::new(FailureKind::Parse, format!("the answer is longer than {cap} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Sends a request and reads its whole answer within the deadline: status and body.
///
/// # Errors
/// The failure, and whether the request may have arrived.
pub async fn ask(
    request: reqwest::RequestBuilder,
    deadline: Duration,
    cap: usize,
) -> Result<(u16, Vec<u8>), (Failure, bool)> {
    let whole = async {
        let response = request.send().await.map_err(|e| {
            let arrived = may_have_arrived(&e);
            (failure(e), arrived)
        })?;
        let status = response.status().as_u16();
        let bytes = body(response, cap).await.map_err(|f| (f, true))?;
        Ok((status, bytes))
    };
    tokio::time::timeout(deadline, whole).await.unwrap_or_else(|_| {
        let text = format!("no answer within {}", crate::model::time::human(deadline));
        Err((Failure::new(FailureKind::TimedOut, text), true))
    })
}

/// Whether the value has, at each JSON pointer, what is expected there. An empty pointer, or one without its leading
/// slash, is read as people mean it.
///
/// # Errors
/// The first difference, in words.
pub fn json_matches(value: &Value, expected: &BTreeMap<String, Value>) -> Result<(), String> {
    for (pointer, want) in expected {
        let slash = if pointer.is_empty() || pointer.starts_with('/') { "" } else { "/" };
        match value.pointer(&format!("{slash}{pointer}")) {
            Some(have) if equal(have, want) => {}
            Some(have) => return Err(format!("`{pointer}` is {}, expected {want}", shown(have))),
            None => return Err(format!("`{pointer}` is missing, expected {want}")),
        }
    }
    Ok(())
}

/// Numbers are equal when their values are, however they are written.
fn equal(have: &Value, want: &Value) -> bool {
    have == want || matches!((have.as_f64(), want.as_f64()), (Some(a), Some(b)) if a == b)
}

fn shown(value: &Value) -> String {
    value.to_string().chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn expect(pairs: Value) -> BTreeMap<String, Value> {
        serde_json::from_value(pairs).unwrap()
    }

    #[test]
    fn json_is_compared_by_value() {
        let value = json!({"state": "off", "n": 1.0, "list": [{"ok": true}]});
        assert_eq!(json_matches(&value, &expect(json!({"/state": "off", "n": 1, "/list/0/ok": true}))), Ok(()));
        let wrong = json_matches(&value, &expect(json!({"/state": "on"}))).unwrap_err();
        assert_eq!(wrong, r#"`/state` is "off", expected "on""#);
        let missing = json_matches(&value, &expect(json!({"/power": "off"}))).unwrap_err();
        assert_eq!(missing, r#"`/power` is missing, expected "off""#);
    }

    #[tokio::test]
    async fn without_any_authority_plain_http_works_and_https_fails_as_tls() {
        install_crypto();
        let url = answer(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
        let client = without_authorities();
        let (status, body) = ask(client.get(&url), Duration::from_secs(10), 100).await.unwrap();
        assert_eq!((status, &*body), (200, &b"hi"[..]));
        let (failure, _) =
            ask(client.get(url.replace("http:", "https:")), Duration::from_secs(10), 9).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Tls, "{failure}");
    }

    #[test]
    fn a_ca_file_must_hold_certificates() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"nothing of the kind").unwrap();
        assert!(client(Some(file.path())).is_err());
        assert!(client(Some(Path::new("/no/such/file"))).unwrap_err().contains("/no/such/file"));
        assert!(client(None).is_ok());
    }

    #[tokio::test]
    async fn failures_keep_their_kind() {
        let client = client(None).unwrap();
        let short = Duration::from_millis(200);
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            format!("http://{}/", listener.local_addr().unwrap())
        };
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = (format!("http://{}/", silent.local_addr().unwrap()), silent);
        let cases = [
            (closed, FailureKind::Refused, false),
            (silent.0.clone(), FailureKind::TimedOut, true),
            (answer(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nhi").await, FailureKind::Reset, true),
            (answer(b"220 mail.example ESMTP\r\n").await, FailureKind::Parse, true),
            (answer(b"").await, FailureKind::Reset, true),
            ("http://127.0.0.1:notaport/".into(), FailureKind::Local, false),
        ];
        for (url, kind, may_have_arrived) in cases {
            let (failure, arrived) = ask(client.get(&url), short, 100).await.unwrap_err();
            assert_eq!((failure.kind, arrived), (kind, may_have_arrived), "{url}: {failure}");
        }
        let long = answer(b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\nhi").await;
        assert!(ask(client.get(&long), short, 100).await.is_err());
    }

    #[tokio::test]
    async fn no_secret_of_the_url_is_in_the_error() {
        let client = client(None).unwrap();
        let request = client.get("http://user:hunter2@127.0.0.1:1/?token=hunter2");
        let (failure, _) = ask(request, Duration::from_secs(5), 100).await.unwrap_err();
        assert!(!failure.text.contains("hunter2"), "{failure}");
    }

    /// Answers each connection with these bytes and closes it.
    async fn answer(bytes: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = socket.read(&mut request).await;
                let _ = socket.write_all(bytes).await;
            }
        });
        url
    }
}
