//! A Prometheus query, or a scrape of a counter at a node.
//!
//! Trouble with the Prometheus server itself is trouble of our own: it says nothing of the subject.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use reqwest::{Client, header::HeaderMap};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{ANSWER_MAX, Probe, Subject, headers, number};
use crate::{
    model::{Fact, Failure, FailureKind, Outcome, Secret, observation::Arrivals, policy::SignalKind},
    sys::http,
};

/// Asks a Prometheus server (`query`), or reads one metric off an exposition page (`metric`).
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prometheus {
    /// With `query`: the server's base URL. With `metric`: the page, `http://{address}/metrics`.
    pub url: String,
    /// A PromQL query whose result is one number. No result is *unknown*, not zero.
    pub query: Option<String>,
    /// The metric to read off the page.
    pub metric: Option<String>,
    /// Labels that the metric must have. Several series that fit are added up.
    pub labels: BTreeMap<String, String>,
    /// The number counts messages that reached the node: the signal then brings arrivals.
    pub counts_arrivals: bool,
    /// With `query`: a sample older than this is unknown. Default 1m. Needs a server that knows `lookback_delta`
    /// (2.38 and newer); an older one takes its own limit, five minutes unless set.
    pub max_age: Option<crate::model::Span>,
    /// Headers.
    pub headers: BTreeMap<String, Secret>,
}

impl Prometheus {
    /// What kind of facts it brings.
    #[must_use]
    pub const fn signal_kind(&self) -> SignalKind {
        if self.counts_arrivals { SignalKind::Arrivals } else { SignalKind::Value }
    }
}

/// The probe at work.
pub struct PrometheusProbe {
    config: Prometheus,
    client: Client,
    headers: HeaderMap,
}

impl PrometheusProbe {
    /// Makes it usable.
    ///
    /// # Errors
    /// Neither or both of `query` and `metric`, or a header that cannot be used.
    pub fn new(config: &Prometheus) -> Result<Self, String> {
        if config.url.is_empty() {
            return Err("prometheus: `url` is missing".into());
        }
        if config.query.is_some() == config.metric.is_some() {
            return Err("prometheus: write either `query` (asks a server) or `metric` (reads a page)".into());
        }
        if config.query.is_some() && !config.labels.is_empty() {
            return Err("prometheus: `labels` belong to `metric`; write them into the `query` itself".into());
        }
        Ok(Self { client: http::client(None)?, headers: headers(&config.headers)?, config: config.clone() })
    }

    async fn read(&self, subject: &Subject, timeout: Duration) -> Result<Fact, Failure> {
        let url = subject.expand(&self.config.url);
        let value = match (&self.config.query, &self.config.metric) {
            (Some(query), _) => self.query(&url, &subject.expand(query), timeout).await?,
            (None, Some(metric)) => self.scrape(&url, metric, timeout).await?,
            (None, None) => return Err(Failure::new(FailureKind::Local, "neither a query nor a metric is configured")),
        };
        if !self.config.counts_arrivals {
            return Ok(Fact::Value(value));
        }
        if value < 0.0 {
            return Err(Failure::new(FailureKind::Parse, format!("a count of arrivals cannot be {value}")));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; saturates")]
        let received = value as u64;
        Ok(Fact::Arrivals(Arrivals { received, ..Arrivals::default() }))
    }

    async fn query(&self, url: &str, query: &str, timeout: Duration) -> Result<f64, Failure> {
        let lookback = self.config.max_age.map_or(Duration::from_secs(60), |age| age.0).as_millis();
        let request = self
            .client
            .get(format!("{}/api/v1/query", url.trim_end_matches('/')))
            .headers(self.headers.clone())
            .query(&[("query", query), ("lookback_delta", &format!("{lookback}ms"))]);
        let (status, body) = http::ask(request, timeout, ANSWER_MAX).await.map_err(|(failure, _)| {
            Failure::new(FailureKind::Local, format!("the Prometheus server does not answer: {failure}"))
        })?;
        match serde_json::from_slice(&body) {
            Ok(answer) => result(answer),
            Err(_) => Err(Failure::new(
                FailureKind::Local,
                format!("the Prometheus server answered with status {status} and no result"),
            )),
        }
    }

    async fn scrape(&self, url: &str, metric: &str, timeout: Duration) -> Result<f64, Failure> {
        let request = self.client.get(url).headers(self.headers.clone()).header("accept", "text/plain;version=0.0.4");
        let (status, body) = http::ask(request, timeout, ANSWER_MAX).await.map_err(|(failure, _)| failure)?;
        match status {
            200..300 => sum(&String::from_utf8_lossy(&body), metric, &self.config.labels),
            401 | 403 => Err(Failure::new(FailureKind::Auth, format!("the page answered with status {status}"))),
            _ => Err(Failure::new(FailureKind::WrongAnswer, format!("the page answered with status {status}"))),
        }
    }
}

#[async_trait]
impl Probe for PrometheusProbe {
    async fn look(&self, subject: &Subject, timeout: Duration) -> Outcome {
        match self.read(subject, timeout).await {
            Ok(fact) => Outcome::Fact(fact),
            Err(failure) => Outcome::Failure(failure),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    data: Option<Data>,
    error: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Series>),
    Scalar(Sample),
    Matrix(serde::de::IgnoredAny),
    String(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct Series {
    value: Option<Sample>,
}

/// Time of the evaluation, and the value as text.
#[derive(Deserialize)]
struct Sample(#[expect(dead_code, reason = "the server's wall clock is compared with nothing")] f64, String);

fn result(answer: Answer) -> Result<f64, Failure> {
    let parse = |text: String| Failure::new(FailureKind::Parse, text);
    let sample = match answer.data {
        Some(Data::Scalar(sample)) => sample,
        Some(Data::Vector(mut series)) if series.len() <= 1 => match series.pop() {
            Some(Series { value: Some(sample) }) => sample,
            Some(Series { value: None }) => return Err(parse("the query gives histograms, not a number".into())),
            None => return Err(Failure::new(FailureKind::NotFound, "the query has no result")),
        },
        Some(Data::Vector(series)) => {
            let count = series.len();
            return Err(parse(format!("the query gives {count} series, not one; add `sum(…)` or `max(…)` around it")));
        }
        Some(Data::Matrix(_) | Data::String(_)) => {
            return Err(parse("the query gives a range or a text, not a number".into()));
        }
        None => {
            let why: String = answer.error.unwrap_or_default().chars().take(200).collect();
            return Err(Failure::new(FailureKind::Local, format!("the Prometheus server refused the query: {why}")));
        }
    };
    number(&sample.1)
}

/// Adds up the series of `metric` that have these labels.
fn sum(page: &str, metric: &str, labels: &BTreeMap<String, String>) -> Result<f64, Failure> {
    let mut total = None;
    for line in page.lines() {
        let Some(rest) = line.trim_start().strip_prefix(metric) else { continue };
        let (found, rest) = match rest.strip_prefix('{') {
            Some(inside) => match read_labels(inside) {
                Some(read) => read,
                None => continue,
            },
            // `metric` is the beginning of a longer name.
            None if !rest.starts_with([' ', '\t']) => continue,
            None => (BTreeMap::new(), rest),
        };
        if labels.iter().all(|(name, value)| found.get(name).is_some_and(|have| have == value)) {
            // A time may follow the value.
            *total.get_or_insert(0.0) += number(rest.split_whitespace().next().unwrap_or_default())?;
        }
    }
    total.ok_or_else(|| {
        let what = if labels.is_empty() { "" } else { " with these labels" };
        Failure::new(FailureKind::NotFound, format!("the page has no `{metric}`{what}"))
    })
}

/// Reads `name="value",…}`; gives the labels and what follows. `None`: it is not of that form.
fn read_labels(mut text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once('=')?;
        let mut chars = rest.trim_start().strip_prefix('"')?.chars();
        let mut value = String::new();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => match chars.next()? {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                other => value.push(other),
            }
        }
        labels.insert(name.trim().to_owned(), value);
        text = chars.as_str();
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{SOON, answer, closed, fact, kind, response, subject},
        *,
    };

    async fn query(status: &str, body: &str) -> Outcome {
        let config = Prometheus {
            url: "http://{address}/".into(),
            query: Some("sum(rate(arrived_total{job=\"{cluster}\"}[1m]))".into()),
            ..Prometheus::default()
        };
        let address = answer(response(status, body)).await;
        PrometheusProbe::new(&config).unwrap().look(&subject(address), SOON).await
    }

    fn vector(values: &str) -> String {
        format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{values}]}}}}"#)
    }

    #[tokio::test]
    async fn a_query_gives_one_number_or_nothing_that_counts() {
        let one = vector(r#"{"metric":{},"value":[1435781451.781,"2.5"]}"#);
        assert_eq!(fact(query("200 OK", &one).await), Fact::Value(2.5));
        let scalar = r#"{"status":"success","data":{"resultType":"scalar","result":[1.5,"7"]}}"#;
        assert_eq!(fact(query("200 OK", scalar).await), Fact::Value(7.0));
        let two = vector(r#"{"metric":{"a":"1"},"value":[1,"1"]},{"metric":{"a":"2"},"value":[1,"2"]}"#);
        let cases = [
            ("200 OK", vector(""), FailureKind::NotFound),
            ("200 OK", vector(r#"{"metric":{},"value":[1,"NaN"]}"#), FailureKind::Parse),
            ("200 OK", vector(r#"{"metric":{},"value":[1,"+Inf"]}"#), FailureKind::Parse),
            ("200 OK", two, FailureKind::Parse),
            ("200 OK", r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#.into(), FailureKind::Parse),
            (
                "400 Bad Request",
                r#"{"status":"error","errorType":"bad_data","error":"1:3"}"#.into(),
                FailureKind::Local,
            ),
            ("503 Unavailable", "upstream".into(), FailureKind::Local),
        ];
        for (status, body, expected) in cases {
            let found = kind(query(status, &body).await);
            assert_eq!(found, expected, "{body}");
            assert!(!found.is_evidence(), "{body}");
        }
    }

    #[tokio::test]
    async fn a_prometheus_server_that_is_down_kills_nobody() {
        let config = Prometheus { url: "http://{address}".into(), query: Some("up".into()), ..Prometheus::default() };
        let outcome = PrometheusProbe::new(&config).unwrap().look(&subject(closed().await), SOON).await;
        assert_eq!(kind(outcome), FailureKind::Local);
    }

    const PAGE: &str = "# HELP arrived_total Messages.\n# TYPE arrived_total counter\n\
        arrived_total{topic=\"orders\",part=\"0\"} 40 1700000000000\n\
        arrived_total{topic=\"orders\", part=\"1\",} 2\n\
        arrived_total{topic=\"a \\\"b\\\" \\\\ }\"} 5\n\
        arrived_total_bytes 9\nplain 1e3\nbroken{x=\"} 1\nodd NaN\nbelow -1\n";

    async fn scrape(metric: &str, labels: &[(&str, &str)], counts_arrivals: bool) -> Outcome {
        let config = Prometheus {
            url: "http://{address}/metrics".into(),
            metric: Some(metric.into()),
            labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            counts_arrivals,
            ..Prometheus::default()
        };
        let address = answer(response("200 OK", PAGE)).await;
        PrometheusProbe::new(&config).unwrap().look(&subject(address), SOON).await
    }

    #[tokio::test]
    async fn a_page_is_read_by_name_and_labels() {
        assert_eq!(fact(scrape("plain", &[], false).await), Fact::Value(1000.0));
        assert_eq!(fact(scrape("arrived_total", &[("topic", "orders")], false).await), Fact::Value(42.0));
        assert_eq!(fact(scrape("arrived_total", &[("topic", "a \"b\" \\ }")], false).await), Fact::Value(5.0));
        let arrivals = fact(scrape("arrived_total", &[], true).await);
        assert!(matches!(arrivals, Fact::Arrivals(Arrivals { received: 47, last_age: None, .. })), "{arrivals:?}");
        for (metric, labels, expected) in [
            ("arrived", &[][..], FailureKind::NotFound),
            ("broken", &[], FailureKind::NotFound),
            ("arrived_total", &[("topic", "bills")], FailureKind::NotFound),
            ("odd", &[], FailureKind::Parse),
            ("below", &[], FailureKind::Parse),
        ] {
            assert_eq!(kind(scrape(metric, labels, true).await), expected, "{metric}");
        }
    }

    #[test]
    fn what_cannot_work_is_told_at_once() {
        let url = || "http://x".to_owned();
        for config in [
            Prometheus::default(),
            Prometheus { url: url(), ..Prometheus::default() },
            Prometheus { url: url(), query: Some("a".into()), metric: Some("b".into()), ..Prometheus::default() },
            Prometheus {
                url: url(),
                query: Some("a".into()),
                labels: [("a".into(), "b".into())].into(),
                ..Prometheus::default()
            },
        ] {
            assert!(PrometheusProbe::new(&config).is_err(), "{config:?}");
        }
    }
}
