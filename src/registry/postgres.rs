//! PostgreSQL, 12 or newer.
//!
//! Only a server that takes writes is used, for reading too: a replica may lag. Commits are synced whatever the user's
//! default says; a server that does not sync at all (`fsync = off`) is refused. With replicas, a failover of the
//! database itself loses what no replica had confirmed unless `synchronous_standby_names` is set: that is a database
//! that is set back.

use std::{str::FromStr as _, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{ConnectOptions as _, PgConnection, Postgres, postgres::PgConnectOptions};

use super::{
    OpenError, Options, Registry,
    sql::{Cell, ConnectError, Dialect, Meaning, Session, SqlRegistry, Words, lacks_password, session},
};

const WORDS: Words = Words {
    begin: "BEGIN",
    // The time at which the server got the statement: not that of the transaction, and one for the whole statement.
    now: "date_trunc('milliseconds', statement_timestamp())",
    milliseconds: "CAST(FLOOR(EXTRACT(EPOCH FROM {}) * 1000 + 0.5) AS BIGINT)",
    lock: " FOR UPDATE",
    is_numbered: true,
    schema: "
SELECT pg_advisory_xact_lock(1129271886, 1);
CREATE TABLE IF NOT EXISTS {p}_instances (
    id BIGINT PRIMARY KEY, grp TEXT COLLATE \"C\" NOT NULL, instance TEXT NOT NULL, start_time TIMESTAMPTZ NOT NULL,
    heartbeat TIMESTAMPTZ NOT NULL, valid_for_ms BIGINT NOT NULL, beats BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS {p}_instances_by_group ON {p}_instances (grp, id);
CREATE TABLE IF NOT EXISTS {p}_leaders (grp TEXT COLLATE \"C\" PRIMARY KEY, leader BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS {p}_documents (
    doc_key TEXT COLLATE \"C\" PRIMARY KEY, version BIGINT NOT NULL, doc TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS {p}_counters (name TEXT COLLATE \"C\" PRIMARY KEY, value BIGINT NOT NULL);
INSERT INTO {p}_counters (name, value) VALUES ('schema', 1), ('instances', 0), ('documents', 0)
    ON CONFLICT (name) DO NOTHING;
",
};

struct Server {
    options: PgConnectOptions,
    label: String,
    timeout: Duration,
}

session!(PgConnection, Postgres);

/// Opens `postgres://user:password@host:port/database`, with the parameters that libpq knows for TLS.
pub(super) fn open(url: &str, options: &Options) -> Result<Arc<dyn Registry>, OpenError> {
    // What the driver says may quote the value, and the value may be a secret.
    let mut connect = PgConnectOptions::from_str(url).map_err(|_| {
        OpenError::Invalid(
            "the store's URL is not one of PostgreSQL: write postgres://user@host:5432/database, with special \
             characters as %XX, and sslmode and sslrootcert as they are for libpq"
                .into(),
        )
    })?;
    if let (Some(password), true) = (&options.password, lacks_password(url)) {
        connect = connect.password(password.expose());
    }
    connect = connect.application_name("coroner").disable_statement_logging();
    let database = connect.get_database().unwrap_or_else(|| connect.get_username()).to_owned();
    let label = match connect.get_socket() {
        Some(socket) => format!("postgres at {}/{database}", socket.display()),
        None => format!("postgres at {}:{}/{database}", connect.get_host(), connect.get_port()),
    };
    let server = Server { options: connect, label, timeout: options.timeout };
    Ok(Arc::new(SqlRegistry::new(Box::new(server), options)))
}

fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

#[async_trait]
impl Dialect for Server {
    fn label(&self) -> String {
        self.label.clone()
    }

    fn words(&self) -> &'static Words {
        &WORDS
    }

    async fn connect(&self) -> Result<Box<dyn Session>, ConnectError> {
        let mut connection = self.options.connect().await?;
        // A transaction whose client stopped, or cannot be reached, ends with the client's own patience.
        let ms = self.timeout.as_millis();
        let set = format!(
            "SET default_transaction_isolation = 'read committed'; SET statement_timeout = {ms}; SET lock_timeout = {ms}; SET idle_in_transaction_session_timeout = {ms}; \
             SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        );
        connection.script(&set).await?;
        let asked = connection
            .rows(
                "SELECT pg_is_in_recovery()::text, current_setting('transaction_read_only'), current_setting('fsync')",
                &[],
            )
            .await?;
        let said = |at: usize| match asked.first().and_then(|row| row.get(at)) {
            Some(Cell::Text(text)) => text.as_str(),
            _ => "",
        };
        if said(0) != "false" {
            return Err(ConnectError::Unfit("the server is a replica; give the primary's address".into()));
        }
        if said(1) != "off" {
            return Err(ConnectError::Unfit("the server is read-only; look at default_transaction_read_only".into()));
        }
        if said(2) != "on" {
            return Err(ConnectError::Unfit(
                "the server does not sync what it commits (fsync = off), and an epoch that is forgotten is given out \
                 twice; set fsync = on"
                    .into(),
            ));
        }
        Ok(Box::new(connection))
    }

    fn meaning(&self, error: &sqlx::Error) -> Meaning {
        match code(error).as_deref() {
            // Serialization, deadlock, a lock that was not to be had at once.
            Some("40001" | "40P01" | "55P03") => Meaning::Again,
            // The session was ended before this was asked: idle in a transaction; a deferred constraint.
            Some("25P02" | "25P03" | "40000" | "40002") => Meaning::RolledBack,
            Some("23505") => Meaning::Taken,
            Some("42P01") => Meaning::NoTable,
            _ => Meaning::Other,
        }
    }

    fn remedy(&self, error: &sqlx::Error) -> Option<&'static str> {
        if let sqlx::Error::Io(_) = error {
            return Some("is it running, and can it be reached from here?");
        }
        Some(match code(error)?.as_str() {
            "28P01" | "28000" => "check the user and the password, and pg_hba.conf",
            "3D000" => "create the database",
            "42P01" => "the tables are not made yet, or stand in another schema",
            "42501" => "grant the user SELECT, INSERT, UPDATE and DELETE on the tables, and CREATE for making them",
            "25006" => "the server is read-only",
            "53100" => "the server's disk is full; make room",
            "53300" => "the server has too many connections; raise max_connections",
            "57P01" | "57P02" | "57P03" => "the server is starting or stopping",
            "57014" => "it took longer than the time-out",
            _ => return None,
        })
    }
}
