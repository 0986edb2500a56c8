//! What the SQL databases share: the statements, the transactions around them, the time-outs. A database adds its words
//! ([`Words`]), how it is connected to and what its errors mean ([`Dialect`]).
//!
//! # What locks what
//!
//! A heartbeat touches its own row alone, so that heartbeats never wait for one another. A claim, and a write in the
//! name of a leader, lock the group's row of `…_leaders`: they happen one after the other. Who needs a new id locks the
//! counter `instances`, who writes documents the counter `documents`, always in this order, and never longer than one
//! call's time-out: a process that is stopped inside of a transaction is thrown out by the server.
//!
//! # What an error means
//!
//! `COMMIT` is sent only after every statement succeeded, therefore whatever fails before it did not happen, and the
//! connection it failed on is closed. A `COMMIT` without an answer, or with an error that does not say by itself that
//! the transaction was rolled back, is [`RegistryError::Unknown`].

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use self::statements::Statements;
use super::{Options, RegistryError, seen::Seen};
use crate::sys::clock::{self, Stopwatch};

mod session;
mod statements;
mod work;

pub(super) use session::{Arg, Cell, Session, session};
pub(super) use statements::Words;

/// Connections that are kept for the next call.
const KEPT: usize = 4;

/// What an error of the database means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The transaction was rolled back, whenever this was answered, and may be tried again: a deadlock, a lock.
    Again,
    /// The transaction was rolled back, whenever this was answered.
    RolledBack,
    /// A unique key is there already. The transaction goes no further.
    Taken,
    /// A table is missing. The connection goes on.
    NoTable,
    /// Before `COMMIT`: it did not happen. As the answer to `COMMIT`: nobody knows.
    Other,
}

/// Whether an address leaves the password to the options.
pub(super) fn lacks_password(url: &str) -> bool {
    reqwest::Url::parse(url).is_ok_and(|url| url.password().is_none())
}

/// One kind of database.
#[async_trait]
pub(super) trait Dialect: Send + Sync {
    /// What it is and where.
    fn label(&self) -> String;

    /// Its words.
    fn words(&self) -> &'static Words;

    /// Makes a connection that is set up. Words of its own, where the server is not fit to be used.
    async fn connect(&self) -> Result<Box<dyn Session>, ConnectError>;

    /// What an error means.
    fn meaning(&self, error: &sqlx::Error) -> Meaning;

    /// The remedy, as far as the error tells it.
    fn remedy(&self, error: &sqlx::Error) -> Option<&'static str>;
}

/// Why there is no connection.
pub(super) enum ConnectError {
    /// The driver says so.
    Sql(sqlx::Error),
    /// The server is there and not fit.
    Unfit(String),
}

impl From<sqlx::Error> for ConnectError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

/// Why work within a transaction stopped.
pub(super) enum Stop {
    /// The database, or the way there.
    Sql(sqlx::Error),
    /// It was decided.
    Answer(RegistryError),
    /// Somebody else was faster; the same again will see it.
    Again,
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<RegistryError> for Stop {
    fn from(error: RegistryError) -> Self {
        Self::Answer(error)
    }
}

/// What is to be done within one transaction. It may be done several times, each time from the beginning.
#[async_trait]
pub(super) trait Work: Sync {
    /// What comes of it.
    type Output: Send;

    /// For errors: `claiming the group orders`.
    fn name(&self) -> String;

    /// Whether it only reads, by one statement, for which the database needs no transaction.
    fn is_read(&self) -> bool {
        false
    }

    /// Does it.
    async fn run(&self, registry: &SqlRegistry, session: &mut dyn Session) -> Result<Self::Output, Stop>;
}

/// The registry in an SQL database.
pub(super) struct SqlRegistry {
    dialect: Box<dyn Dialect>,
    statements: Statements,
    timeout: Duration,
    seen: Seen,
    idle: Mutex<Vec<Box<dyn Session>>>,
}

/// A call's time.
pub(super) struct Budget {
    since: Stopwatch,
    timeout: Duration,
}

impl Budget {
    fn left(&self) -> Duration {
        self.timeout.saturating_sub(self.since.elapsed())
    }

    async fn within<T>(&self, at_most: Duration, what: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(self.left().min(at_most), what).await.ok()
    }
}

/// How an attempt ended that did not succeed.
enum Ended {
    /// That is the answer.
    For(RegistryError),
    /// Nothing happened, another attempt may succeed; else that is the answer.
    Again(RegistryError),
    /// Nothing happened in time; what an earlier attempt said is worth more than that.
    TooLate(RegistryError),
    /// Nothing happened, on a connection that was kept from before: a new one is worth the attempt at once.
    Stale(RegistryError),
}

impl SqlRegistry {
    pub(super) fn new(dialect: Box<dyn Dialect>, options: &Options) -> Self {
        let statements = Statements::new(dialect.words(), &options.prefix);
        let idle = Mutex::new(Vec::new());
        Self { dialect, statements, timeout: options.timeout, seen: Seen::default(), idle }
    }

    // A panic elsewhere leaves whole connections behind.
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Box<dyn Session>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, session: Box<dyn Session>) {
        let mut idle = self.idle();
        if idle.len() < KEPT {
            idle.push(session);
        }
    }

    fn failed(&self, doing: &str, why: &str) -> RegistryError {
        RegistryError::Failed(format!("{}: {doing}: {why}; nothing was written", self.dialect.label()))
    }

    fn words(&self, error: &sqlx::Error) -> String {
        let text = error.as_database_error().map_or_else(|| error.to_string(), |e| e.message().to_owned());
        match self.dialect.remedy(error) {
            Some(remedy) => format!("{text}: {remedy}"),
            None => text,
        }
    }

    /// Does work in a transaction of its own, again where the database asks for that, within the time-out.
    pub(super) async fn perform<W: Work>(&self, work: &W) -> Result<W::Output, RegistryError> {
        self.perform_within(work, &self.budget()).await
    }

    /// The time of one call from now on.
    pub(super) fn budget(&self) -> Budget {
        Budget { since: Stopwatch::start(), timeout: self.timeout }
    }

    /// The same as a part of a longer call.
    pub(super) async fn perform_within<W: Work>(&self, work: &W, budget: &Budget) -> Result<W::Output, RegistryError> {
        self.seen.check()?;
        let mut before = None;
        for attempt in 0_u32.. {
            let error = match self.attempt(work, budget).await {
                Ok(output) => return Ok(output),
                Err(Ended::For(error)) => return Err(error),
                Err(Ended::TooLate(error)) => return Err(before.unwrap_or(error)),
                Err(Ended::Stale(error)) => {
                    // One kept connection is broken: so are the others, most likely.
                    self.idle().clear();
                    if budget.left().is_zero() {
                        return Err(error);
                    }
                    continue;
                }
                Err(Ended::Again(error)) => error,
            };
            // Several that met once are not to meet again.
            let pause = Duration::from_millis(u64::from(attempt.min(8)) * 2 + clock::now().0 / 1_000 % 10);
            if budget.left() <= pause {
                return Err(error);
            }
            before = Some(error);
            tokio::time::sleep(pause).await;
        }
        Err(self.failed(&work.name(), "it was tried too often"))
    }

    async fn attempt<W: Work>(&self, work: &W, budget: &Budget) -> Result<W::Output, Ended> {
        let name = work.name();
        let too_late = || self.failed(&name, &format!("it did not answer within {:?}", self.timeout));
        let kept = self.idle().pop();
        let is_kept = kept.is_some();
        let mut session = match kept {
            Some(session) => session,
            None => self.connect(&name, budget).await?,
        };
        let patience = if is_kept { self.timeout / 3 } else { self.timeout };
        if !work.is_read() {
            // A connection that is open on this side only answers nothing: a new one shall have time left.
            match budget.within(patience, session.script(self.dialect.words().begin)).await {
                Some(Ok(())) => {}
                Some(Err(error)) if is_kept && self.dialect.meaning(&error) != Meaning::Again => {
                    return Err(Ended::Stale(self.failed(&name, &self.words(&error))));
                }
                Some(Err(error)) => return Err(self.stopped(&name, Stop::Sql(error))),
                None if is_kept => return Err(Ended::Stale(too_late())),
                None => return Err(Ended::TooLate(too_late())),
            }
        }
        let patience = if work.is_read() { patience } else { self.timeout };
        let output = match budget.within(patience, work.run(self, session.as_mut())).await {
            Some(Ok(output)) => output,
            None if work.is_read() && is_kept => return Err(Ended::Stale(too_late())),
            None => return Err(Ended::TooLate(too_late())),
            Some(Err(Stop::Sql(error))) if work.is_read() && is_kept => {
                return Err(Ended::Stale(self.failed(&name, &self.words(&error))));
            }
            Some(Err(stop)) => {
                let is_answer = !matches!(stop, Stop::Sql(_));
                // Whether the rollback succeeds or the connection is closed comes to the same.
                let rolled_back = is_answer && !work.is_read() && {
                    matches!(budget.within(self.timeout, session.script("ROLLBACK")).await, Some(Ok(())))
                };
                if rolled_back || is_answer && work.is_read() {
                    self.keep(session);
                }
                return Err(self.stopped(&name, stop));
            }
        };
        if !work.is_read() {
            let lost = |why: &str| {
                let label = self.dialect.label();
                Ended::For(RegistryError::Unknown(format!("{label}: {name}: the answer to COMMIT was lost: {why}")))
            };
            match budget.within(self.timeout, session.script("COMMIT")).await {
                Some(Ok(())) => {}
                None => return Err(lost(&format!("it did not come within {:?}", self.timeout))),
                Some(Err(error)) => {
                    let why = self.words(&error);
                    return Err(match self.dialect.meaning(&error) {
                        Meaning::Again => Ended::Again(self.failed(&name, &why)),
                        Meaning::RolledBack | Meaning::Taken => Ended::For(self.failed(&name, &why)),
                        Meaning::NoTable | Meaning::Other => lost(&why),
                    });
                }
            }
        }
        self.keep(session);
        Ok(output)
    }

    async fn connect(&self, name: &str, budget: &Budget) -> Result<Box<dyn Session>, Ended> {
        let failed = |why: &str| self.failed(name, &format!("connecting: {why}"));
        match budget.within(self.timeout, self.dialect.connect()).await {
            Some(Ok(session)) => Ok(session),
            Some(Err(ConnectError::Unfit(why))) => Err(Ended::For(failed(&why))),
            Some(Err(ConnectError::Sql(error))) => {
                let said = failed(&self.words(&error));
                Err(match self.dialect.meaning(&error) {
                    Meaning::Again => Ended::Again(said),
                    _ => Ended::For(said),
                })
            }
            None => Err(Ended::TooLate(failed(&format!("it did not answer within {:?}", self.timeout)))),
        }
    }

    fn stopped(&self, name: &str, stop: Stop) -> Ended {
        match stop {
            Stop::Answer(error) => Ended::For(error),
            Stop::Again => Ended::Again(self.failed(name, "others write at the same time, again and again")),
            Stop::Sql(error) => {
                let said = self.failed(name, &self.words(&error));
                match self.dialect.meaning(&error) {
                    Meaning::Again => Ended::Again(said),
                    _ => Ended::For(said),
                }
            }
        }
    }
}
