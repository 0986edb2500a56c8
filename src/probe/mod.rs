//! How we look: one file per method. A probe returns facts and failures, never verdicts.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::{Fact, Failure, FailureKind, Outcome, Target, policy::SignalKind};

pub mod exec;
pub mod file;
pub mod http;
pub mod prometheus;
pub mod tcp;

/// The probes that need no broker kind, as a file writes them under `signals:`.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnyProbe {
    /// A TCP connection.
    Tcp(tcp::Tcp),
    /// An HTTP request.
    Http(http::Http),
    /// A program.
    Exec(exec::Exec),
    /// A Prometheus query, or a scrape of a counter.
    Prometheus(prometheus::Prometheus),
    /// A file.
    File(file::File),
}

impl AnyProbe {
    /// Makes the probe usable.
    ///
    /// # Errors
    /// What in the configuration cannot work.
    pub fn build(&self) -> Result<Box<dyn Probe>, String> {
        Ok(match self {
            Self::Tcp(config) => Box::new(tcp::TcpProbe::new(config)),
            Self::Http(config) => Box::new(http::HttpProbe::new(config)?),
            Self::Exec(config) => Box::new(exec::ExecProbe::new(config)?),
            Self::Prometheus(config) => Box::new(prometheus::PrometheusProbe::new(config)?),
            Self::File(config) => Box::new(file::FileProbe::new(config)?),
        })
    }

    /// What kind of facts it brings.
    #[must_use]
    pub fn signal_kind(&self) -> SignalKind {
        match self {
            Self::Tcp(_) => SignalKind::Check,
            Self::Http(probe) => probe.signal_kind(),
            Self::Exec(probe) => probe.signal_kind(),
            Self::Prometheus(probe) => probe.signal_kind(),
            Self::File(probe) => probe.signal_kind(),
        }
    }
}

/// One probe.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Looks once at `subject`. Ends by the timeout. Never panics on what it is answered.
    async fn look(&self, subject: &Subject, timeout: Duration) -> Outcome;
}

/// Whom a probe looks at: a member, or a node for a counter that is read there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The cluster.
    pub cluster: String,
    /// Its name.
    pub name: String,
    /// Its `host:port`; empty for a node without one.
    pub address: String,
}

impl Subject {
    /// Puts this subject into a text of the file: `{cluster}`, `{member}` or `{node}`, `{address}`, `{host}`, `{port}`.
    #[must_use]
    pub fn expand(&self, text: &str) -> String {
        self.target().expand(&text.replace("{node}", &self.name))
    }

    /// This subject as the target of an act; a node stands in the member's place.
    fn target(&self) -> Target {
        Target {
            cluster: self.cluster.as_str().into(),
            member: self.name.as_str().into(),
            address: self.address.clone(),
        }
    }
}

/// No answer of a probe that is read as a whole is longer.
const ANSWER_MAX: usize = 1024 * 1024;

/// Ends a look by its timeout.
async fn within(limit: Duration, look: impl Future<Output = Result<Fact, Failure>>) -> Outcome {
    match tokio::time::timeout(limit, look).await {
        Ok(Ok(fact)) => Outcome::Fact(fact),
        Ok(Err(failure)) => Outcome::Failure(failure),
        Err(_) => Outcome::Failure(Failure::no_answer_within(limit)),
    }
}

/// A number that means something. `NaN` and infinities are what programs say when they do not know.
fn number(text: &str) -> Result<f64, Failure> {
    let text = text.trim();
    text.parse::<f64>().ok().filter(|n| n.is_finite()).ok_or_else(|| {
        let shown: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
        Failure::new(FailureKind::Parse, format!("`{shown}` is not a number"))
    })
}

/// Headers of a request, marked so that nothing prints them.
fn headers(
    written: &std::collections::BTreeMap<String, crate::model::Secret>,
) -> Result<reqwest::header::HeaderMap, String> {
    use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
    let mut headers = HeaderMap::new();
    for (name, value) in written {
        let header: HeaderName = name.parse().map_err(|_| format!("`{name}` is not a header name"))?;
        let mut value: HeaderValue = value
            .expose()
            .parse()
            .map_err(|_| format!("the value of the header `{name}` has characters no header can have"))?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}

#[cfg(test)]
pub(crate) mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    pub(crate) const SOON: Duration = Duration::from_secs(10);
    pub(crate) const SHORT: Duration = Duration::from_millis(200);

    /// Answers every connection with these bytes once it sent something, and closes it.
    pub(crate) async fn answer(bytes: impl Into<Vec<u8>>) -> String {
        let bytes: Vec<u8> = bytes.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.read(&mut [0; 4096]).await;
                let _ = socket.write_all(&bytes).await;
            }
        });
        address
    }

    /// A whole HTTP answer with this body.
    pub(crate) fn response(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    /// Accepts connections and says nothing.
    pub(crate) async fn silent() -> (String, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (listener.local_addr().unwrap().to_string(), listener)
    }

    /// An address where nothing listens.
    pub(crate) async fn closed() -> String {
        silent().await.0
    }

    pub(crate) fn subject(address: impl Into<String>) -> Subject {
        Subject { cluster: "orders".into(), name: "broker-a".into(), address: address.into() }
    }

    pub(crate) fn kind(outcome: Outcome) -> FailureKind {
        match outcome {
            Outcome::Failure(failure) => failure.kind,
            Outcome::Fact(fact) => panic!("expected a failure, got {fact:?}"),
        }
    }

    pub(crate) fn fact(outcome: Outcome) -> Fact {
        match outcome {
            Outcome::Fact(fact) => fact,
            Outcome::Failure(failure) => panic!("expected a fact, got {failure}"),
        }
    }

    /// H1: every probe ends by its timeout, whatever hangs.
    #[tokio::test]
    async fn every_probe_ends_by_its_timeout() {
        let (address, _listener) = silent().await;
        let url = format!("http://{address}/");
        let probes = [
            AnyProbe::Tcp(tcp::Tcp { expect: Some("220".into()), ..Default::default() }),
            AnyProbe::Http(http::Http { url: url.clone(), ..Default::default() }),
            AnyProbe::Exec(exec::Exec { command: vec!["sleep".into(), "60".into()], ..Default::default() }),
            AnyProbe::Prometheus(prometheus::Prometheus { url, metric: Some("up".into()), ..Default::default() }),
        ];
        let watch = crate::sys::clock::Stopwatch::start();
        for probe in probes {
            let outcome = probe.build().unwrap().look(&subject(&*address), SHORT).await;
            assert_eq!(kind(outcome), FailureKind::TimedOut, "{probe:?}");
        }
        assert!(watch.elapsed() < SOON);
    }
}
