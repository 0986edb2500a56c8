//! A pair that is only imagined: a log in memory, and a number of applied entries.

use async_trait::async_trait;
use coroner::stdio::{
    Appended, Code, Entry, FailoverDone, Line, Lines, Message, Page, Pair, Refusal, Session, ShadowStatus,
};
use futures::FutureExt as _;

#[derive(Debug, Default)]
pub(crate) struct Fake {
    nodes: Vec<String>,
    primary: usize,
    log: Vec<(u64, Entry)>,
    paused_at: Option<usize>,
}

impl Fake {
    fn shadow(&self) -> Result<String, Refusal> {
        let none = || Refusal::new(Code::TemporarilyUnavailable, "no shadow is left.");
        self.nodes.get(self.primary + 1).cloned().ok_or_else(none)
    }

    fn lag(&self) -> u64 {
        (self.log.len() - self.paused_at.unwrap_or(self.log.len())) as u64
    }

    const fn epoch(&self) -> u64 {
        self.primary as u64 + 1
    }
}

#[async_trait]
impl Pair for Fake {
    async fn begin(&mut self, nodes: &[String]) -> Result<(), Refusal> {
        self.nodes = nodes.to_vec();
        Ok(())
    }

    async fn status(&mut self) -> Result<ShadowStatus, Refusal> {
        let shadow = self.shadow().ok();
        let lag = shadow.as_ref().map(|_| self.lag());
        let primary = self.nodes[self.primary].clone();
        Ok(ShadowStatus { primary, shadow, wal_lag_entries: lag, wal_lag_ms: lag.map(|lag| lag * 10) })
    }

    async fn trigger_failover(&mut self, failed: &str) -> Result<FailoverDone, Refusal> {
        if self.nodes[self.primary] != failed {
            return Err(Refusal::new(Code::PreconditionFailed, "that is not the master."));
        }
        let new_primary = self.shadow()?;
        let replayed = self.lag();
        self.primary += 1;
        self.paused_at = None;
        let epoch = self.epoch();
        Ok(FailoverDone { new_primary, wal_entries_replayed: replayed, failover_time_ms: 450, epoch })
    }

    async fn append(&mut self, entry: Entry) -> Result<Appended, Refusal> {
        self.log.push((self.epoch(), entry));
        Ok(Appended { sequence: self.log.len() as u64, epoch: self.epoch() })
    }

    async fn read(&mut self, from: u64, limit: usize) -> Result<Page, Refusal> {
        let numbered = self.log.iter().zip(1_u64..).filter(|(_, sequence)| *sequence >= from);
        let mut messages: Vec<Message> = numbered
            .take(limit + 1)
            .map(|((epoch, entry), sequence)| Message { sequence, epoch: *epoch, entry: entry.clone() })
            .collect();
        let next = messages.get(limit).map(|message| message.sequence);
        messages.truncate(limit);
        Ok(Page { messages, next })
    }

    async fn pause_shadow(&mut self) -> Result<String, Refusal> {
        let shadow = self.shadow()?;
        self.paused_at.get_or_insert(self.log.len());
        Ok(shadow)
    }

    async fn resume_shadow(&mut self) -> Result<String, Refusal> {
        self.paused_at = None;
        self.shadow()
    }
}

/// Sends these bytes over one conversation, and gives back what is answered.
pub(crate) fn converse(input: &[u8]) -> Vec<String> {
    let mut session = Session::new(Fake::default());
    let mut lines = Lines::default();
    let mut found: Vec<Line> = Vec::new();
    lines.push(input, |line| found.push(line));
    found.extend(lines.end());
    // An imagined pair never waits.
    found.iter().map(|line| session.answer(line).now_or_never().unwrap()).collect()
}
