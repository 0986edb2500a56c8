//! The way to the arbiter: its Unix socket by default, or TCP with a token or a certificate.

use std::{path::PathBuf, time::Duration};

use reqwest::{Certificate, Identity, Method};
use serde::{Serialize, de::DeserializeOwned};

use super::exit::{Code, Failure, code_of_status};
use crate::model::{
    ClusterName, Command, CommandError, CommandReply, Incident, IncidentId, Secret, Span, status::Status,
};

/// Where the arbiter is, and who asks.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct Connect {
    /// The arbiter's control socket.
    #[arg(long, global = true, env = "CORONER_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
    /// The arbiter's HTTP address instead of the socket, such as http://10.0.0.13:7400. Needs a token or a certificate.
    #[arg(long, global = true, env = "CORONER_URL", value_name = "URL")]
    pub url: Option<String>,
    /// File with the bearer token for --url. Without it, the environment variable CORONER_TOKEN is used.
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// PEM file of the authorities to trust for an https --url, instead of the system's.
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// PEM file with our certificate and key, for mutual TLS.
    #[arg(long, global = true, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// How long one answer may take.
    #[arg(long, global = true, default_value = "10s", value_parser = Span::parse, value_name = "DURATION")]
    pub timeout: Span,
}

/// Where the arbiter listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/coroner/coroner.sock";

/// An answer may be this large: an incident with a long log is far below it.
const ANSWER_MAX: usize = 64 << 20;

/// A connection to the arbiter. Every request opens what it needs.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<Secret>,
    /// In words, for errors.
    place: String,
    remedy: String,
}

/// What `/v1/incidents/{id}` answers.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub struct IncidentDetail {
    /// The record.
    pub incident: Incident,
    /// The saga log, entry by entry.
    #[serde(default)]
    pub log: Vec<serde_json::Value>,
}

impl Client {
    /// Prepares the way; nothing is opened yet.
    ///
    /// # Errors
    /// A file that cannot be read or used, a URL that is none.
    pub fn new(connect: &Connect) -> Result<Self, Failure> {
        let wait = connect.timeout.0.max(Duration::from_millis(1));
        let builder = reqwest::Client::builder().no_proxy().timeout(wait).redirect(reqwest::redirect::Policy::none());
        let Some(url) = &connect.url else {
            let place = connect.socket.display().to_string();
            let http = build(builder.unix_socket(connect.socket.clone()).tls_certs_only([]))?;
            let remedy =
                "Is it running (`systemctl status coroner-arbiter`)? Another socket is named with --socket or \
                 CORONER_SOCKET, an arbiter elsewhere with --url."
                    .to_owned();
            return Ok(Self { http, base: "http://arbiter".into(), token: None, place, remedy });
        };
        let parsed = reqwest::Url::parse(url)
            .ok()
            .filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host())
            .ok_or_else(|| {
            Failure::new(
                Code::Usage,
                format!("`{url}` is not a URL of an arbiter: write for example http://10.0.0.13:7400."),
            )
        })?;
        let builder = match &connect.ca {
            Some(path) => {
                let bundle = Certificate::from_pem_bundle(&read(path)?)
                    .map_err(|e| Failure::new(Code::Data, format!("{} holds no certificates: {e}.", path.display())))?;
                builder.tls_certs_only(bundle)
            }
            // Without TLS no authorities are needed, and a host without a bundle of them must do.
            None if parsed.scheme() == "http" => builder.tls_certs_only([]),
            None => builder,
        };
        let builder = match &connect.cert {
            Some(path) => builder.identity(Identity::from_pem(&read(path)?).map_err(|e| {
                Failure::new(Code::Data, format!("{} holds no certificate with its key: {e}.", path.display()))
            })?),
            None => builder,
        };
        let base = url.trim_end_matches('/').to_owned();
        Ok(Self {
            http: build(builder)?,
            token: token(connect)?,
            place: base.clone(),
            base,
            remedy: "Is the address right, and does the arbiter listen there (`arbiter.listen` in its file)?".into(),
        })
    }

    /// Where it leads, for messages.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Reads a view.
    ///
    /// # Errors
    /// The arbiter does not answer, refuses, or says something that cannot be understood.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.understand(path, &self.send(Method::GET, path, None).await?)
    }

    /// Sends something.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let body = serde_json::to_vec(body)
            .map_err(|e| Failure::new(Code::Internal, format!("The request cannot be written as JSON: {e}.")))?;
        self.understand(path, &self.send(Method::POST, path, Some(body)).await?)
    }

    /// Commands.
    ///
    /// # Errors
    /// As [`Client::get`]; a refusal by guards has the code 107.
    pub async fn command(&self, command: &Command) -> Result<CommandReply, Failure> {
        self.post("/v1/command", command).await
    }

    /// Everything, in brief.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn status(&self) -> Result<Status, Failure> {
        self.get("/v1/status").await
    }

    /// One incident with its log.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn incident(&self, id: &IncidentId) -> Result<IncidentDetail, Failure> {
        self.get(&format!("/v1/incidents/{}", segment(id.as_str()))).await
    }

    /// The cluster that is meant: the one named, or the only one.
    ///
    /// # Errors
    /// None was named, and there are several or none.
    pub async fn cluster(&self, named: Option<&str>) -> Result<ClusterName, Failure> {
        if let Some(name) = named {
            return Ok(name.into());
        }
        only(self.status().await?.clusters.iter().map(|c| &c.cluster))
    }

    async fn send(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Vec<u8>, Failure> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let mut response = request.send().await.map_err(|e| self.unreachable(&e))?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(&e))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > ANSWER_MAX {
                return Err(Failure::new(Code::Data, format!("The answer to {path} is larger than 64 MiB.")));
            }
        }
        if status.is_success() { Ok(bytes) } else { Err(refusal(status.as_u16(), path, &bytes)) }
    }

    fn understand<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T, Failure> {
        serde_json::from_slice(body).map_err(|e| {
            Failure::new(
                Code::Data,
                format!(
                    "The answer of {} to {path} is not understood ({e}). Is it an arbiter of the same version?",
                    self.place
                ),
            )
        })
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        if error.is_timeout() {
            let text = format!("The arbiter at {} did not answer in time. Allow more with --timeout.", self.place);
            return Failure::new(Code::Unavailable, text);
        }
        let cause = innermost(error);
        if cause.contains("Permission denied") {
            let text = format!(
                "This user may not open {}: use sudo, or name the user under `arbiter.socket_operators`.",
                self.place
            );
            return Failure::new(Code::NotPermitted, text);
        }
        let text = format!("The arbiter at {} is not reachable: {cause}. {}", self.place, self.remedy);
        Failure::new(Code::Unavailable, text)
    }
}

/// The only one of some clusters.
///
/// # Errors
/// There are several, or none.
pub fn only<'a>(names: impl IntoIterator<Item = &'a ClusterName>) -> Result<ClusterName, Failure> {
    let names: Vec<&ClusterName> = names.into_iter().collect();
    match names.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(Failure::new(Code::Data, "The arbiter watches no cluster.")),
        many => {
            let many: Vec<&str> = many.iter().map(|name| name.as_str()).collect();
            Err(Failure::new(Code::Usage, format!("Say which cluster: {}.", many.join(", "))))
        }
    }
}

/// A name as one segment of a path.
#[must_use]
pub fn segment(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn refusal(status: u16, path: &str, body: &[u8]) -> Failure {
    if let Ok(error) = serde_json::from_slice::<CommandError>(body) {
        return error.into();
    }
    #[derive(serde::Deserialize)]
    struct Words {
        error: String,
    }
    let words = serde_json::from_slice::<Words>(body).map_or_else(
        |_| {
            let text: String = String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(200).collect();
            format!("The arbiter answered {path} with HTTP {status}. {text}").trim_end().to_owned()
        },
        |words| words.error,
    );
    Failure::new(code_of_status(status), words)
}

fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, Failure> {
    builder.build().map_err(|e| {
        let text =
            format!("The HTTP client cannot be made: {}. Name the authorities to trust with --ca.", innermost(&e));
        Failure::new(Code::Unavailable, text)
    })
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| Failure::new(Code::Io, format!("Cannot read {}: {e}.", path.display())))
}

fn token(connect: &Connect) -> Result<Option<Secret>, Failure> {
    let text = match &connect.token_file {
        Some(path) => Some(String::from_utf8_lossy(&read(path)?).trim().to_owned()),
        None => std::env::var("CORONER_TOKEN").ok(),
    };
    Ok(text.filter(|t| !t.is_empty()).map(Secret::new))
}

/// The cause at the bottom, which is the one that says something.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut at = error;
    while let Some(next) = at.source() {
        at = next;
    }
    at.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_api_become_codes_and_words() {
        let plain = refusal(403, "/v1/status", br#"{"error":"The role `report` may not read."}"#);
        assert_eq!(plain, Failure::new(Code::NotPermitted, "The role `report` may not read."));
        let command =
            refusal(409, "/v1/command", br#"{"code":"wrong_state","text":"No incident is held.","guards":[]}"#);
        assert_eq!(command, Failure::new(Code::Temporary, "No incident is held."));
        let odd = refusal(502, "/v1/status", b"<html>\x1b bad gateway");
        assert_eq!(odd.code, Code::Internal);
        assert!(odd.text.contains("HTTP 502") && !odd.text.contains('\x1b'));
    }

    #[test]
    fn names_are_one_segment() {
        assert_eq!(segment("orders"), "orders");
        assert_eq!(segment("../a b/ä"), "..%2Fa%20b%2F%C3%A4");
    }
}
