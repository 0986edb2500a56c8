//! Orders of a controller, and how a member begins.

use std::{io, time::Duration};

use super::{
    Answer, Core, EntryKind, ReadError, Reader, Reason, Request, Role, Stopwatch, Unnamed, Writer, anchor, disk,
    epoch::{self, EpochFile, Own},
};
use crate::relay::{
    apart::set_apart,
    entry::Entry,
    epoch::RaiseError,
    segment::{self, Begins, history, list},
    writer::{Appended, make_durable},
};

/// What else a restarted primary may take to replay: nobody waits for it who could be told.
const NO_HURRY: Duration = Duration::from_secs(3_600);

/// Why a member did not become primary.
#[derive(Debug, thiserror::Error)]
enum PromoteError {
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("the storage: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Unnamed(#[from] Unnamed),
    #[error("the replay did not reach the end of the log in time; sequence {0} was reached")]
    Slow(u64),
}

impl Core {
    fn ok(&self, detail: impl Into<String>) -> Answer {
        Answer::Ok { status: self.shared.status(), detail: detail.into(), set_apart: None, replayed: None }
    }

    fn refuse(&self, reason: Reason, detail: impl Into<String>) -> Answer {
        Answer::Refused { reason, detail: detail.into(), status: self.shared.status() }
    }

    pub(super) fn order(&mut self, request: &Request) -> Answer {
        match request {
            Request::ReadOnly { on, epoch } => self.read_only(*on, *epoch),
            Request::CatchUp { upto, within_ms } => self.catch_up(*upto, Duration::from_millis(*within_ms)),
            Request::Promote { epoch, within_ms } => self.promote(*epoch, Duration::from_millis(*within_ms)),
            Request::Follow { primary, epoch } => self.follow(primary, *epoch),
            // These do not come as orders.
            Request::Status | Request::Probe { .. } | Request::Canary { .. } => self.ok(""),
        }
    }

    /// The largest epoch that this member knows of, with that in the epoch file.
    fn known_epoch(&self) -> io::Result<(u64, Option<EpochFile>)> {
        let file = epoch::read(&self.storage.dir)?;
        let mut inner = self.shared.lock();
        inner.stored_epoch = inner.stored_epoch.max(file.as_ref().map_or(0, |file| file.epoch));
        Ok((inner.stored_epoch, file))
    }

    fn old(&self, epoch: u64, known: u64) -> Answer {
        self.refuse(Reason::OldEpoch, format!("the order is of epoch {epoch}, but {known} is known here"))
    }

    fn read_only(&self, on: bool, epoch: u64) -> Answer {
        let known = self.shared.lock().stored_epoch;
        if epoch < known {
            return self.old(epoch, known);
        }
        {
            let mut inner = self.shared.lock();
            inner.read_only = on;
            inner.stored_epoch = epoch;
        }
        match self.remember() {
            None => self.ok(if on { "senders are refused" } else { "the flag is taken away" }),
            Some(trouble) => Answer::Failed { detail: format!("it is so now, but {trouble}") },
        }
    }

    fn catch_up(&mut self, upto: Option<u64>, within: Duration) -> Answer {
        if self.role() != Role::Shadow {
            return self.ok("it replays nobody's log");
        }
        match self.replay_to(upto, within) {
            Ok((replayed, true)) => Answer::Ok {
                status: self.shared.status(),
                detail: format!("{replayed} entries were replayed"),
                set_apart: None,
                replayed: Some(replayed),
            },
            Ok((replayed, false)) => {
                let position = self.shared.lock().position;
                Answer::Failed {
                    detail: format!("{replayed} entries were replayed, up to {position}; that is not all"),
                }
            }
            Err(error) => {
                self.shared.note(&error);
                self.refuse(Reason::Storage, error.to_string())
            }
        }
    }

    fn promote(&mut self, epoch: u64, within: Duration) -> Answer {
        let (known, file) = match self.known_epoch() {
            Ok(known) => known,
            Err(error) => return self.refuse(Reason::Storage, format!("the epoch file cannot be read: {error}")),
        };
        let is_mine = file.as_ref().is_some_and(|f| f.epoch == epoch && f.primary == self.shared.name);
        if epoch < known || file.as_ref().is_some_and(|f| f.epoch >= epoch && !is_mine) {
            return self.old(epoch, known);
        }
        if is_mine && self.role() == Role::Primary {
            return self.ok("it is primary in this epoch already");
        }
        let watch = Stopwatch::start();
        // What can be replayed before is not waited for after; and a log that is corrupt is found before anything changes.
        if self.role() != Role::Primary
            && let Err(error) = self.replay_to(None, within)
        {
            self.shared.note(&error);
            return self.refuse(Reason::Storage, error.to_string());
        }
        match epoch::raise(&self.storage.dir, epoch, &self.shared.name, within) {
            Ok(()) => {}
            Err(error @ RaiseError::Larger(_)) => return self.refuse(Reason::OldEpoch, error.to_string()),
            Err(error @ RaiseError::Locked) => return self.refuse(Reason::Storage, error.to_string()),
            Err(error @ RaiseError::Io(_)) => return Answer::Failed { detail: error.to_string() },
        }
        // From here on the former primary acknowledges nothing.
        match self.begin_epoch(epoch, within.saturating_sub(watch.elapsed()).max(Duration::from_millis(100))) {
            Ok((replayed, after)) => {
                let trouble = self.remember().unwrap_or_default();
                Answer::Ok {
                    status: self.shared.status(),
                    detail: format!("epoch {epoch} begins after sequence {after}. {trouble}").trim_end().to_owned(),
                    set_apart: None,
                    replayed: Some(replayed),
                }
            }
            Err(error @ PromoteError::Unnamed(Unnamed::Other(_))) => {
                // If it was primary in an epoch before, that is over.
                self.is_still_primary();
                self.refuse(Reason::OldEpoch, error.to_string())
            }
            Err(error) => {
                if let PromoteError::Read(error) = &error {
                    self.shared.note(error);
                }
                let detail = format!("epoch {epoch} was raised, but it is not served yet: {error}; ask again");
                Answer::Failed { detail }
            }
        }
    }

    /// Replays to the end and begins (or goes on with) the epoch that the epoch file gives to this member.
    fn begin_epoch(&mut self, epoch: u64, within: Duration) -> Result<(u64, u64), PromoteError> {
        self.writer = None;
        let (mut replayed, is_whole) = self.replay_to(None, within)?;
        if !is_whole {
            return Err(PromoteError::Slow(self.shared.lock().position));
        }
        // What was read, not what is there by now: somebody whose epoch was overtaken may have begun a segment since.
        let newest = self.reader.as_ref().and_then(Reader::newest).cloned();
        let newest = newest.as_ref();
        if let Some(segment) = newest.and_then(|span| span.segments.last()) {
            // It was read, but perhaps from the memory of the machine only.
            make_durable(&segment.path)?;
            if segment.header.member == self.shared.name && segment.header.epoch == epoch {
                // A restart: nobody else writes in this epoch.
                if let Some(reader) = &self.reader
                    && let Some((path, length)) = reader.cut_torn()?
                {
                    tracing::warn!(
                        relay = self.shared.name,
                        "a torn end was cut from {} at byte {length}",
                        path.display()
                    );
                }
                replayed += self.replay_to(None, within)?.0;
            }
        }
        let position = self.shared.lock().position;
        let begins = match newest {
            Some(span) if span.epoch == epoch => {
                span.segments.first().map_or_else(Begins::default, |s| s.header.begins)
            }
            Some(span) => Begins { epoch: span.epoch, after: position },
            None => Begins::default(),
        };
        let is_new = newest.is_none_or(|span| span.epoch != epoch) || position == begins.after;
        let newest = newest.and_then(|span| span.segments.last());
        let mut writer = match newest.filter(|s| s.header.epoch == epoch && s.header.first == position + 1) {
            Some(empty) => Writer::go_on(&self.storage.dir, empty)?,
            None => {
                let (dir, name) = (&self.storage.dir, &self.shared.name);
                Writer::begin(dir, epoch, begins, name, position + 1, &self.table)?
            }
        };
        if is_new {
            let entry = Entry {
                epoch,
                sequence: position + 1,
                number: begins.epoch,
                time_ms: anchor().unix_ms.unsigned_abs(),
                kind: EntryKind::EpochBegin,
                sender: "",
                payload: self.shared.name.as_bytes(),
            };
            let mut bytes = Vec::new();
            entry.write(&mut bytes);
            if let Appended::Full(_) = writer.append(&bytes, &[bytes.len()])? {
                return Err(io::Error::from(io::ErrorKind::StorageFull).into());
            }
        }
        // As with every commit: what is durable is given to nobody before the epoch file is looked at. Somebody who raised it
        // meanwhile may have read the log before this was in it.
        self.is_named(epoch)?;
        let end = writer.next() - 1;
        self.writer = Some(writer);
        self.reader = None;
        self.stuck = None;
        {
            let mut inner = self.shared.lock();
            inner.position = end;
            if is_new {
                inner.read_only = false;
            }
        }
        self.shared.set_role(Role::Primary, epoch);
        Ok((replayed, position))
    }

    fn follow(&mut self, primary: &str, epoch: u64) -> Answer {
        let (known, file) = match self.known_epoch() {
            Ok(known) => known,
            Err(error) => return self.refuse(Reason::Storage, format!("the epoch file cannot be read: {error}")),
        };
        if epoch < known {
            return self.old(epoch, known);
        }
        let begun = match list(&self.storage.dir).map(|listing| history(&listing)) {
            Ok(spans) => spans,
            Err(error) => return self.refuse(Reason::Storage, format!("the log cannot be listed: {error}")),
        };
        let newest = begun.last();
        let wrote_last = newest.is_some_and(|s| s.segments.iter().any(|s| s.header.member == self.shared.name));
        let raised = file.as_ref().map_or(0, |file| file.epoch);
        if wrote_last && newest.is_some_and(|span| span.epoch < raised) {
            let text =
                format!("epoch {raised} has not begun in the log yet: what lies beyond it cannot be told; ask again");
            return self.refuse(Reason::Storage, text);
        }
        if self.role() != Role::Shadow {
            self.writer = None;
            // What it had in memory may count what is beyond the history.
            self.rewind();
        }
        {
            let mut inner = self.shared.lock();
            inner.following = Some(primary.to_owned());
            inner.stored_epoch = epoch;
            inner.heard = None;
        }
        let shown = self.shared.lock().epoch;
        self.shared.set_role(Role::Shadow, shown);
        let trouble = self.remember();
        match set_apart(&self.storage.dir, &self.shared.name) {
            Ok(reports) => {
                for report in &reports {
                    tracing::warn!(
                        relay = self.shared.name,
                        entries = report.entries,
                        "what was written beyond the end of epoch {} is set apart in {}",
                        report.epoch,
                        report.file.display()
                    );
                }
                self.replay_on();
                let words: Vec<_> =
                    reports.iter().map(|r| format!("{} entries are in {}", r.entries, r.file.display())).collect();
                Answer::Ok {
                    status: self.shared.status(),
                    detail: words.into_iter().chain(trouble).collect::<Vec<_>>().join("; "),
                    set_apart: Some(reports.iter().map(|report| report.entries).sum()),
                    replayed: None,
                }
            }
            Err(error) => Answer::Failed {
                detail: format!("it follows, but what it wrote beyond the history could not be set apart: {error}"),
            },
        }
    }

    /// What this member is at its start. It is primary only if the epoch file names it, and it was not told to be anything
    /// else; or if there is no epoch file and it `may_found` the log.
    pub(in crate::relay) fn begin(&mut self, may_found: bool, follow: Option<String>) -> io::Result<()> {
        let own = epoch::read_own(&self.storage.own)?;
        let mut file = epoch::read(&self.storage.dir)?;
        let is_new = own.is_none();
        if file.is_none() && is_new && may_found && list(&self.storage.dir)?.segments.is_empty() {
            epoch::raise(&self.storage.dir, 1, &self.shared.name, Duration::from_secs(2)).map_err(io::Error::other)?;
            file = epoch::read(&self.storage.dir)?;
        }
        let own = own.unwrap_or(Own { epoch: 0, role: Role::Primary, read_only: false, following: None });
        let following = own.following.clone().or(follow);
        {
            let mut inner = self.shared.lock();
            inner.read_only = own.read_only;
            inner.stored_epoch = own.epoch.max(file.as_ref().map_or(0, |f| f.epoch));
            inner.following.clone_from(&following);
        }
        let epoch = file.as_ref().map_or(0, |f| f.epoch);
        let is_mine = file.is_some_and(|f| f.primary == self.shared.name && f.epoch >= own.epoch);
        // Retired because of its storage it is to be looked at; a new process may try again, since it reads everything anew.
        if is_mine && own.role != Role::Shadow {
            match self.begin_epoch(epoch, NO_HURRY) {
                Ok(_) => {}
                Err(error) => {
                    if let PromoteError::Read(error) = &error {
                        self.shared.note(error);
                    }
                    self.shared.set_role(Role::Retired, epoch);
                    tracing::error!(relay = self.shared.name, "it cannot go on as primary: {error}");
                }
            }
        } else if own.role == Role::Shadow || (is_new && !is_mine) {
            self.shared.set_role(Role::Shadow, epoch);
        } else {
            self.shared.set_role(Role::Retired, epoch);
        }
        // Else the next start would not know what this one was.
        self.remember().map_or(Ok(()), |trouble| Err(io::Error::other(trouble)))
    }

    /// The directories are there, and this process alone is this member.
    pub(in crate::relay) fn prepare(&self) -> io::Result<disk::Lock> {
        disk::create_dir_all(&segment::wal(&self.storage.dir))?;
        disk::create_dir_all(&self.storage.own)?;
        disk::try_lock(&self.storage.own.join("lock"))?.ok_or_else(|| {
            let own = self.storage.own.display();
            io::Error::other(format!("another process works as this member (it holds {own}/lock): stop it first"))
        })
    }
}
