//! One connection, in the two types that the statements need: whole numbers and text.

use async_trait::async_trait;

/// A parameter.
#[derive(Clone, Copy, Debug)]
pub(in crate::registry) enum Arg<'a> {
    /// A whole number.
    Number(i64),
    /// Text.
    Text(&'a str),
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Cell {
    /// NULL.
    Null,
    /// A whole number.
    Number(i64),
    /// Text.
    Text(String),
}

impl Cell {
    /// The number; NULL is 0.
    pub(in crate::registry) fn signed(&self) -> Result<i64, sqlx::Error> {
        match self {
            Self::Null => Ok(0),
            Self::Number(number) => Ok(*number),
            Self::Text(text) => Err(sqlx::Error::Protocol(format!("a number was expected and {text:?} is there"))),
        }
    }

    /// The number, which is never negative; NULL is 0.
    pub(in crate::registry) fn whole(&self) -> Result<u64, sqlx::Error> {
        let number = self.signed()?;
        u64::try_from(number)
            .map_err(|_| sqlx::Error::Protocol(format!("{number} stands where no negative number may be")))
    }

    /// The text; `None` is NULL.
    pub(in crate::registry) fn text(self) -> Result<Option<String>, sqlx::Error> {
        match self {
            Self::Null => Ok(None),
            Self::Text(text) => Ok(Some(text)),
            Self::Number(number) => Err(sqlx::Error::Protocol(format!("text was expected and {number} is there"))),
        }
    }
}

/// A number as a parameter. Ids and versions grow by one and begin at 1: none comes near the end of `i64`.
pub(in crate::registry) fn number(number: u64) -> Arg<'static> {
    Arg::Number(i64::try_from(number).unwrap_or(i64::MAX))
}

/// One connection.
#[async_trait]
pub(in crate::registry) trait Session: Send {
    /// Reads rows.
    async fn rows(&mut self, sql: &str, args: &[Arg<'_>]) -> Result<Vec<Vec<Cell>>, sqlx::Error>;

    /// Changes rows, and says how many.
    async fn change(&mut self, sql: &str, args: &[Arg<'_>]) -> Result<u64, sqlx::Error>;

    /// Statements without parameters, among them those that begin and end a transaction.
    async fn script(&mut self, sql: &str) -> Result<(), sqlx::Error>;
}

/// Makes a connection of the driver a [`Session`].
macro_rules! session {
    ($connection:ty, $database:ty) => {
        #[async_trait::async_trait]
        impl $crate::registry::sql::Session for $connection {
            async fn rows(
                &mut self,
                sql: &str,
                args: &[$crate::registry::sql::Arg<'_>],
            ) -> Result<Vec<Vec<$crate::registry::sql::Cell>>, sqlx::Error> {
                use sqlx::{Column as _, Row as _};
                use $crate::registry::sql::{Arg, Cell};
                // The statements are this folder's; what comes from outside is bound.
                let mut query = sqlx::query::<$database>(sqlx::AssertSqlSafe(sql));
                for arg in args {
                    query = match arg {
                        Arg::Number(number) => query.bind(*number),
                        Arg::Text(text) => query.bind(*text),
                    };
                }
                let rows = query.fetch_all(self).await?;
                let cell = |row: &<$database as sqlx::Database>::Row, at: usize| {
                    if let Ok(number) = row.try_get::<Option<i64>, _>(at) {
                        return Ok(number.map_or(Cell::Null, Cell::Number));
                    }
                    row.try_get::<Option<String>, _>(at).map(|text| text.map_or(Cell::Null, Cell::Text))
                };
                rows.iter().map(|row| row.columns().iter().map(|c| cell(row, c.ordinal())).collect()).collect()
            }

            async fn change(&mut self, sql: &str, args: &[$crate::registry::sql::Arg<'_>]) -> Result<u64, sqlx::Error> {
                use $crate::registry::sql::Arg;
                let mut query = sqlx::query::<$database>(sqlx::AssertSqlSafe(sql));
                for arg in args {
                    query = match arg {
                        Arg::Number(number) => query.bind(*number),
                        Arg::Text(text) => query.bind(*text),
                    };
                }
                Ok(query.execute(self).await?.rows_affected())
            }

            async fn script(&mut self, sql: &str) -> Result<(), sqlx::Error> {
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(self).await.map(drop)
            }
        }
    };
}
pub(in crate::registry) use session;
