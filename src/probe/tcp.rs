//! A TCP connection. Sees a listener; a frozen process still has one.

use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;

use super::{Probe, Subject, within};
use crate::{
    model::{Fact, Failure, FailureKind, Outcome},
    sys::{
        clock::Stopwatch,
        net::{Connector, failure_of},
    },
};

/// Opens a connection and closes it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tcp {
    /// `host:port`; default: the subject's own address. `{host}` is put in.
    pub address: Option<String>,
    /// Text that the other side must send first, as a prefix: `220 `.
    pub expect: Option<String>,
}

/// The probe at work.
pub struct TcpProbe {
    config: Tcp,
    connector: Connector,
}

impl TcpProbe {
    /// Makes it usable.
    #[must_use]
    pub fn new(config: &Tcp) -> Self {
        Self { config: config.clone(), connector: Connector::default() }
    }

    async fn connect(&self, subject: &Subject) -> Result<Fact, Failure> {
        let watch = Stopwatch::start();
        let address = self.config.address.as_ref().map_or_else(|| subject.address.clone(), |text| subject.expand(text));
        let mut stream = self.connector.connect(&address).await?;
        if let Some(expected) = &self.config.expect {
            let mut heard = vec![0; expected.len()];
            stream.read_exact(&mut heard).await.map_err(|e| failure_of(&e))?;
            if heard != expected.as_bytes() {
                let text = format!("it began with `{}`, not with `{expected}`", heard.escape_ascii());
                return Err(Failure::new(FailureKind::WrongAnswer, text));
            }
        }
        Ok(Fact::Ok { latency: watch.elapsed() })
    }
}

#[async_trait]
impl Probe for TcpProbe {
    async fn look(&self, subject: &Subject, timeout: Duration) -> Outcome {
        within(timeout, self.connect(subject)).await
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::{
        super::tests::{SHORT, SOON, closed, fact, kind, silent, subject},
        *,
    };

    fn probe(expect: Option<&str>) -> TcpProbe {
        TcpProbe::new(&Tcp { expect: expect.map(Into::into), ..Tcp::default() })
    }

    #[tokio::test]
    async fn a_listener_is_enough_unless_words_are_expected() {
        let (address, listener) = silent().await;
        let at = subject(&*address);
        assert!(matches!(fact(probe(None).look(&at, SOON).await), Fact::Ok { .. }));
        assert_eq!(kind(probe(Some("220 ")).look(&at, SHORT).await), FailureKind::TimedOut);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.write_all(b"220 mail\r\n").await;
            }
        });
        assert!(matches!(fact(probe(Some("220 ")).look(&at, SOON).await), Fact::Ok { .. }));
        assert_eq!(kind(probe(Some("550 ")).look(&at, SOON).await), FailureKind::WrongAnswer);
        assert_eq!(kind(probe(Some("220 mail and more")).look(&at, SOON).await), FailureKind::Reset);
    }

    #[tokio::test]
    async fn nothing_listening_is_refused_and_no_address_is_our_own_trouble() {
        assert_eq!(kind(probe(None).look(&subject(closed().await), SOON).await), FailureKind::Refused);
        assert_eq!(kind(probe(None).look(&subject(""), SOON).await), FailureKind::Local);
    }
}
