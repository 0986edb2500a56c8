//! An HTTP request.

use std::{collections::BTreeMap, path::Path, time::Duration};

use async_trait::async_trait;
use reqwest::{Client, Method, header::HeaderMap};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{ANSWER_MAX, Probe, Subject, headers, number};
use crate::{
    model::{Fact, Failure, FailureKind, Outcome, Secret, policy::SignalKind},
    sys::{clock::Stopwatch, http},
};

/// Sends a request and judges status and JSON.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// The URL. `{host}`, `{address}`, `{member}`, `{node}` are put in.
    pub url: String,
    /// Default `GET`.
    pub method: Option<String>,
    /// Headers.
    pub headers: BTreeMap<String, Secret>,
    /// Statuses that are right. Default: any 2xx.
    pub status: Vec<u16>,
    /// JSON pointers into the answer and the values they must have: `/status: UP`.
    pub json: BTreeMap<String, Value>,
    /// JSON pointer to a number in the answer: the signal then brings values.
    pub value: Option<String>,
    /// PEM file of the authorities to trust. Without it, the system's.
    pub ca: Option<String>,
}

impl Http {
    /// What kind of facts it brings.
    #[must_use]
    pub const fn signal_kind(&self) -> SignalKind {
        if self.value.is_some() { SignalKind::Value } else { SignalKind::Check }
    }
}

/// The probe at work.
pub struct HttpProbe {
    config: Http,
    client: Client,
    method: Method,
    headers: HeaderMap,
}

impl HttpProbe {
    /// Makes it usable.
    ///
    /// # Errors
    /// A method, header or CA file that cannot be used.
    pub fn new(config: &Http) -> Result<Self, String> {
        if config.url.is_empty() {
            return Err("http: `url` is missing".into());
        }
        let method = config.method.as_deref().unwrap_or("GET");
        Ok(Self {
            client: http::client(config.ca.as_deref().map(Path::new))?,
            method: method.parse().map_err(|_| format!("http: `{method}` is not a method"))?,
            headers: headers(&config.headers)?,
            config: config.clone(),
        })
    }

    async fn ask(&self, subject: &Subject, timeout: Duration) -> Result<Fact, Failure> {
        let watch = Stopwatch::start();
        let url = subject.expand(&self.config.url);
        let request = self.client.request(self.method.clone(), url).headers(self.headers.clone());
        let (status, body) = http::ask(request, timeout, ANSWER_MAX).await.map_err(|(failure, _)| failure)?;
        let latency = watch.elapsed();
        self.judge_status(status)?;
        if self.config.json.is_empty() && self.config.value.is_none() {
            return Ok(Fact::Ok { latency });
        }
        let json: Value = serde_json::from_slice(&body)
            .map_err(|e| Failure::new(FailureKind::Parse, format!("the answer is not JSON: {e}")))?;
        http::json_matches(&json, &self.config.json).map_err(|text| Failure::new(FailureKind::WrongAnswer, text))?;
        let Some(pointer) = &self.config.value else { return Ok(Fact::Ok { latency }) };
        match json.pointer(pointer) {
            Some(Value::Number(n)) => number(&n.to_string()).map(Fact::Value),
            Some(Value::String(text)) => number(text).map(Fact::Value),
            Some(_) => Err(Failure::new(FailureKind::Parse, format!("`{pointer}` in the answer is not a number"))),
            None => Err(Failure::new(FailureKind::NotFound, format!("`{pointer}` is not in the answer"))),
        }
    }

    fn judge_status(&self, status: u16) -> Result<(), Failure> {
        let is_right = if self.config.status.is_empty() {
            (200..300).contains(&status)
        } else {
            self.config.status.contains(&status)
        };
        if is_right {
            return Ok(());
        }
        let kind = match status {
            401 | 403 | 407 => FailureKind::Auth,
            429 => FailureKind::Overloaded,
            507 => FailureKind::Full,
            _ => FailureKind::WrongAnswer,
        };
        Err(Failure::new(kind, format!("it answered with status {status}")))
    }
}

#[async_trait]
impl Probe for HttpProbe {
    async fn look(&self, subject: &Subject, timeout: Duration) -> Outcome {
        match self.ask(subject, timeout).await {
            Ok(fact) => Outcome::Fact(fact),
            Err(failure) => Outcome::Failure(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::tests::{SHORT, SOON, answer, closed, fact, kind, response, silent, subject},
        *,
    };

    fn config() -> Http {
        Http { url: "http://{address}/health".into(), ..Http::default() }
    }

    fn json() -> Http {
        Http { json: [("/status".to_owned(), json!("UP"))].into(), ..config() }
    }

    async fn look(config: Http, bytes: impl Into<Vec<u8>>) -> Outcome {
        HttpProbe::new(&config).unwrap().look(&subject(answer(bytes).await), SOON).await
    }

    #[tokio::test]
    async fn status_and_json_are_judged() {
        assert!(matches!(fact(look(config(), response("204 No Content", "")).await), Fact::Ok { .. }));
        assert!(matches!(fact(look(json(), response("200 OK", r#"{"status":"UP"}"#)).await), Fact::Ok { .. }));
        let teapot = Http { status: vec![418], ..config() };
        assert!(matches!(fact(look(teapot.clone(), response("418 T", "")).await), Fact::Ok { .. }));
        assert_eq!(kind(look(teapot, response("200 OK", "")).await), FailureKind::WrongAnswer);
        let cases = [
            (response("500 Internal Server Error", ""), FailureKind::WrongAnswer),
            (response("401 Unauthorized", ""), FailureKind::Auth),
            (response("429 Too Many Requests", ""), FailureKind::Overloaded),
            (response("302 Found", ""), FailureKind::WrongAnswer),
            (response("200 OK", r#"{"status":"DOWN"}"#), FailureKind::WrongAnswer),
            (response("200 OK", r#"{"state":"UP"}"#), FailureKind::WrongAnswer),
            (response("200 OK", "<html>"), FailureKind::Parse),
            ("HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n{".into(), FailureKind::Reset),
            ("220 mail\r\n".into(), FailureKind::Parse),
        ];
        for (bytes, expected) in cases {
            assert_eq!(kind(look(json(), &*bytes).await), expected, "{bytes}");
        }
        let not_text = [b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n".as_slice(), b"{\"\xff\xfe"].concat();
        assert_eq!(kind(look(json(), not_text).await), FailureKind::Parse);
    }

    #[tokio::test]
    async fn a_number_may_be_taken_out() {
        let value = Http { value: Some("/queue/depth".into()), ..config() };
        for (body, expected) in [(r#"{"queue":{"depth":12}}"#, 12.0), (r#"{"queue":{"depth":"1.5"}}"#, 1.5)] {
            assert_eq!(fact(look(value.clone(), response("200 OK", body)).await), Fact::Value(expected));
        }
        for (body, expected) in [
            (r#"{"queue":{}}"#, FailureKind::NotFound),
            (r#"{"queue":{"depth":null}}"#, FailureKind::Parse),
            (r#"{"queue":{"depth":"NaN"}}"#, FailureKind::Parse),
        ] {
            assert_eq!(kind(look(value.clone(), response("200 OK", body)).await), expected, "{body}");
        }
    }

    /// H14: an answer without end is cut off, and proves nothing.
    #[tokio::test]
    async fn a_huge_answer_is_cut_off() {
        let huge = response("200 OK", &"x".repeat(ANSWER_MAX + 1));
        assert_eq!(kind(look(config(), huge).await), FailureKind::Parse);
    }

    #[tokio::test]
    async fn silence_and_closed_ports_keep_their_kind() {
        let probe = HttpProbe::new(&config()).unwrap();
        let (address, _listener) = silent().await;
        assert_eq!(kind(probe.look(&subject(address), SHORT).await), FailureKind::TimedOut);
        assert_eq!(kind(probe.look(&subject(closed().await), SOON).await), FailureKind::Refused);
    }

    /// F4: an expired certificate is no sign of death.
    #[tokio::test]
    async fn f4_an_expired_certificate_keeps_its_kind() {
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let ca = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(ca.path(), cert.pem()).unwrap();
        http::install_crypto();
        let server = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key.into())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(server));
        let (address, listener) = silent().await;
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let _ = acceptor.accept(socket).await;
            }
        });
        let config =
            Http { url: "https://{address}/".into(), ca: Some(ca.path().display().to_string()), ..Http::default() };
        let found = kind(HttpProbe::new(&config).unwrap().look(&subject(address), SOON).await);
        assert_eq!(found, FailureKind::Tls);
    }

    #[test]
    fn what_cannot_work_is_told_at_once() {
        for config in [
            Http::default(),
            Http { method: Some("GE T".into()), ..config() },
            Http { headers: [("bad name".to_owned(), Secret::default())].into(), ..config() },
            Http { ca: Some("/nonexistent/ca.pem".into()), ..config() },
        ] {
            assert!(HttpProbe::new(&config).is_err(), "{config:?}");
        }
        let secret = Http { headers: [("x".to_owned(), Secret::new("hunter2\n".into()))].into(), ..config() };
        assert!(!HttpProbe::new(&secret).err().unwrap().contains("hunter2"));
    }
}
