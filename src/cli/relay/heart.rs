//! A relay's heartbeats to the arbiter.

use std::{io::Write as _, path::PathBuf, time::Duration};

use serde::Serialize;

use crate::{
    cli::{
        client::innermost,
        exit::{Code, Failure},
    },
    model::Secret,
    sys::clock::{anchor, now},
};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Heart {
    /// Push heartbeats to the arbiter at this HTTP address, such as http://127.0.0.1:7400.
    #[arg(long, value_name = "URL", requires = "cluster")]
    arbiter: Option<String>,
    /// The cluster that the heartbeats belong to.
    #[arg(long)]
    cluster: Option<String>,
    /// The file with the bearer token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The signal that the heartbeats belong to. May be left out if only one takes them.
    #[arg(long)]
    signal: Option<String>,
    /// How often.
    #[arg(long, default_value_t = 1_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..))]
    beat_every_ms: u64,
}

/// Ready to beat.
pub(super) struct Ready {
    to: Option<(reqwest::Client, String, Option<Secret>)>,
    beat: Beat,
    every: Duration,
}

#[derive(Serialize)]
struct Beat {
    cluster: String,
    member: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
    session: u64,
    seq: u64,
}

impl Heart {
    pub(super) fn ready(self, member: &str) -> Result<Ready, Failure> {
        let to = match self.arbiter {
            None => None,
            Some(url) => {
                let http = reqwest::Client::builder()
                    .no_proxy()
                    .connect_timeout(Duration::from_millis(500))
                    .timeout(Duration::from_secs(2))
                    .tls_certs_only([])
                    .build()
                    .map_err(|e| Failure::new(Code::Internal, format!("No HTTP client: {}.", innermost(&e))))?;
                let token = self.token_file.as_deref().map(super::token).transpose()?;
                Some((http, format!("{}/v1/heartbeat", url.trim_end_matches('/')), token))
            }
        };
        let beat = Beat {
            cluster: self.cluster.unwrap_or_default(),
            member: member.to_owned(),
            signal: self.signal,
            // New for each start: no two begin at the same nanosecond, and a clock that was set back has the other part.
            session: anchor().unix_ms.unsigned_abs().rotate_left(20) ^ now().0,
            seq: 0,
        };
        Ok(Ready { to, beat, every: Duration::from_millis(self.beat_every_ms) })
    }
}

impl Ready {
    /// Beats; ends never.
    pub(super) async fn beat(mut self) {
        let Some((http, url, token)) = self.to else { return std::future::pending().await };
        let mut tick = tokio::time::interval(self.every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            tick.tick().await;
            self.beat.seq += 1;
            let request = http.post(&url).json(&self.beat);
            let request = if let Some(token) = &token { request.bearer_auth(token.expose()) } else { request };
            let error = match request.send().await {
                Ok(response) if response.status().is_success() => None,
                Ok(response) => Some(format!("HTTP {}", response.status().as_u16())),
                Err(error) => Some(innermost(&error)),
            };
            // Said once per change.
            if let Some(error) = error.as_ref().filter(|error| told.as_ref() != Some(*error)) {
                let _ = writeln!(std::io::stderr(), "the arbiter did not take the heartbeat: {error}");
            }
            told = error;
        }
    }
}
