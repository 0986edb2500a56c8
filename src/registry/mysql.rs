//! MySQL, 5.7 or newer, and MariaDB, 10.3 or newer, with InnoDB.
//!
//! Ids come from a row of their own, as `AUTO_INCREMENT` forgets deleted rows at a restart of older servers. A server
//! that is read-only is refused, as it is a replica; one that does not sync each commit
//! (`innodb_flush_log_at_trx_commit` other than 1) too. Times are `DATETIME(3)` in UTC: ask with `UTC_TIMESTAMP(3)`.
//! With Galera, a commit that another node's refuses is tried again.

use std::{str::FromStr as _, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{
    ConnectOptions as _, MySql, MySqlConnection,
    mysql::{MySqlConnectOptions, MySqlDatabaseError},
};

use super::{
    OpenError, Options, Registry,
    sql::{Cell, ConnectError, Dialect, Meaning, Session, SqlRegistry, Words, lacks_password, session},
};

const WORDS: Words = Words {
    begin: "START TRANSACTION",
    now: "UTC_TIMESTAMP(3)",
    milliseconds: "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', {}) DIV 1000)",
    lock: " FOR UPDATE",
    is_numbered: false,
    schema: "
CREATE TABLE IF NOT EXISTS {p}_instances (
    id BIGINT NOT NULL PRIMARY KEY, grp VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    instance VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, start_time DATETIME(3) NOT NULL,
    heartbeat DATETIME(3) NOT NULL, valid_for_ms BIGINT NOT NULL, beats BIGINT NOT NULL,
    KEY {p}_instances_by_group (grp, id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
CREATE TABLE IF NOT EXISTS {p}_leaders (
    grp VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY, leader BIGINT NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
CREATE TABLE IF NOT EXISTS {p}_documents (
    doc_key VARCHAR(400) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY, version BIGINT NOT NULL,
    doc LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
CREATE TABLE IF NOT EXISTS {p}_counters (
    name VARCHAR(40) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY, value BIGINT NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
INSERT IGNORE INTO {p}_counters (name, value) VALUES ('schema', 1), ('instances', 0), ('documents', 0);
",
};

struct Server {
    options: MySqlConnectOptions,
    label: String,
    timeout: Duration,
}

session!(MySqlConnection, MySql);

/// Opens `mysql://user:password@host:port/database` or `mariadb://…`, with the parameters that the clients know for TLS.
pub(super) fn open(url: &str, options: &Options) -> Result<Arc<dyn Registry>, OpenError> {
    // What the driver says may quote the value, and the value may be a secret.
    let mut connect = MySqlConnectOptions::from_str(url).map_err(|_| {
        OpenError::Invalid(
            "the store's URL is not one of MySQL: write mysql://user@host:3306/database, with special characters as \
             %XX, and ssl-mode and ssl-ca as they are for its clients"
                .into(),
        )
    })?;
    let Some(database) = connect.get_database().map(ToOwned::to_owned) else {
        return Err(OpenError::Invalid(
            "the store's URL names no database: write mysql://user@host:3306/database".into(),
        ));
    };
    if let (Some(password), true) = (&options.password, lacks_password(url)) {
        connect = connect.password(password.expose());
    }
    connect = connect.charset("utf8mb4").disable_statement_logging();
    let label = match connect.get_socket() {
        Some(socket) => format!("mysql at {}/{database}", socket.display()),
        None => format!("mysql at {}:{}/{database}", connect.get_host(), connect.get_port()),
    };
    let server = Server { options: connect, label, timeout: options.timeout };
    Ok(Arc::new(SqlRegistry::new(Box::new(server), options)))
}

fn number(error: &sqlx::Error) -> Option<u16> {
    Some(error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?.number())
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
        // A transaction whose client stopped, or cannot be reached, ends soon after the client's own patience.
        let seconds = self.timeout.as_millis().div_ceil(1_000).max(1);
        let set = format!(
            "SET SESSION TRANSACTION ISOLATION LEVEL read committed; \
             SET SESSION innodb_lock_wait_timeout = {seconds}, SESSION wait_timeout = {}, SESSION autocommit = 1, \
             SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')",
            seconds + 1
        );
        connection.script(&set).await?;
        let asked = connection
            .rows("SELECT CAST(@@global.read_only AS CHAR), CAST(@@global.innodb_flush_log_at_trx_commit AS CHAR)", &[])
            .await?;
        let said = |at: usize| match asked.first().and_then(|row| row.get(at)) {
            Some(Cell::Text(text)) => text.as_str(),
            _ => "",
        };
        if !matches!(said(0), "0" | "OFF") {
            return Err(ConnectError::Unfit(
                "the server is read-only, a replica it seems; give the primary's address".into(),
            ));
        }
        if said(1) != "1" {
            return Err(ConnectError::Unfit(
                "the server does not sync what it commits, and an epoch that is forgotten is given out twice; set \
                 innodb_flush_log_at_trx_commit = 1"
                    .into(),
            ));
        }
        Ok(Box::new(connection))
    }

    fn meaning(&self, error: &sqlx::Error) -> Meaning {
        match number(error) {
            // A lock was not to be had in time; deadlock, which is what Galera answers too; a changed record.
            Some(1205 | 1213 | 1020) => Meaning::Again,
            Some(1062) => Meaning::Taken,
            Some(1146) => Meaning::NoTable,
            _ => Meaning::Other,
        }
    }

    fn remedy(&self, error: &sqlx::Error) -> Option<&'static str> {
        if let sqlx::Error::Io(_) = error {
            return Some("is it running, and can it be reached from here?");
        }
        Some(match number(error)? {
            1044 | 1045 | 1698 => "check the user and the password, and from where the user may come",
            1049 => "create the database",
            1146 => "the tables are not made yet",
            1142 | 1370 => "grant the user SELECT, INSERT, UPDATE and DELETE on the tables, and CREATE for making them",
            1290 | 1836 | 1792 => "the server is read-only",
            1021 | 1114 | 1026 => "the server's disk is full; make room",
            1040 | 1203 => "there are too many connections; raise max_connections",
            1053 | 1077 | 1079 => "the server is stopping",
            1153 => "raise max_allowed_packet",
            1665 => "set binlog_format to ROW or MIXED",
            _ => return None,
        })
    }
}
