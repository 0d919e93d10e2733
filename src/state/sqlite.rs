//! SQLite: one file, safe under several processes at once.

use std::borrow::Cow;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, params_from_iter};

use super::StoreError;
use super::backend::{Backend, Cell, Insert, Rows};

/// How long one process waits for another that writes.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long is waited before a refused file is tried again.
const PAUSE: Duration = Duration::from_millis(10);

/// Bytes of a log from which on it is worth moving what it holds into the database.
const MUCH: u64 = 1024 * 1024;

/// How many statements are kept ready.
const STATEMENTS: usize = 64;

/// A store in a file.
pub struct Sqlite {
    connection: Connection,
    path: PathBuf,
}

impl Sqlite {
    /// Opens the file, making it (readable by its owner only) if need be.
    ///
    /// # Errors
    /// It can't be made or opened, or is no database.
    pub fn open(path: &Path) -> Result<Sqlite, StoreError> {
        let fail = |source| StoreError::File { path: path.to_path_buf(), source };
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(fail)?;
        }
        // SQLite would make it readable by everybody.
        fs::File::options().create(true).append(true).mode(0o600).open(path).map_err(fail)?;
        let connection = Connection::open(path).map_err(|error| from(path, error))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.busy_timeout(PATIENCE).map_err(|error| from(path, error))?;
        // Whoever turns a new file to WAL while another does so is refused at once, whatever the timeout.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let set = connection.execute_batch(
                "pragma journal_mode = wal; pragma synchronous = normal; pragma temp_store = memory;",
            );
            match set {
                Err(error) if is_busy(&error) && Instant::now() < deadline => std::thread::sleep(PAUSE),
                other => break other.map_err(|error| from(path, error))?,
            }
        }
        Ok(Sqlite { connection, path: path.to_path_buf() })
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// The database's error, with whether it means that the file is damaged or the disk full.
fn from(path: &Path, error: rusqlite::Error) -> StoreError {
    let code = error.sqlite_error_code();
    let path = path.to_path_buf();
    match code {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged { path, message: error.to_string() }
        }
        Some(ErrorCode::DiskFull) => StoreError::Full { path },
        _ => StoreError::Database { name: path.display().to_string(), message: error.to_string() },
    }
}

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Cell::Null => ValueRef::Null,
            Cell::Int(number) => ValueRef::Integer(*number),
            Cell::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

fn cell(value: ValueRef<'_>) -> Cell<'_> {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Int(number),
        #[expect(clippy::cast_possible_truncation, reason = "only sums of whole numbers come as this")]
        ValueRef::Real(number) => Cell::Int(number as i64),
        ValueRef::Text(text) | ValueRef::Blob(text) => Cell::Text(
            std::str::from_utf8(text).map_or_else(|_| String::from_utf8_lossy(text), Cow::Borrowed),
        ),
    }
}

impl Backend for Sqlite {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn batch(&mut self, sql: &str) -> Result<(), StoreError> {
        self.connection.execute_batch(sql).map_err(|error| from(&self.path, error))
    }

    fn execute(&mut self, sql: &str, cells: &[Cell<'_>]) -> Result<u64, StoreError> {
        let fail = |error| from(&self.path, error);
        let mut statement = self.connection.prepare_cached(sql).map_err(fail)?;
        let count = statement.execute(params_from_iter(cells)).map_err(fail)?;
        Ok(count as u64)
    }

    fn query(
        &mut self,
        sql: &str,
        cells: &[Cell<'_>],
        row: &mut dyn FnMut(&[Cell<'_>]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let fail = |error| from(&self.path, error);
        let mut statement = self.connection.prepare_cached(sql).map_err(fail)?;
        let width = statement.column_count();
        let mut rows = statement.query(params_from_iter(cells)).map_err(fail)?;
        while let Some(found) = rows.next().map_err(fail)? {
            let mut out = Vec::with_capacity(width);
            for column in 0..width {
                out.push(cell(found.get_ref(column).map_err(fail)?));
            }
            row(&out)?;
        }
        Ok(())
    }

    fn insert(&mut self, into: &Insert, rows: Rows<'_, '_>) -> Result<(), StoreError> {
        let fail = |error| from(&self.path, error);
        let mut statement = self.connection.prepare_cached(&into.statement(1)).map_err(fail)?;
        for row in rows {
            statement.execute(params_from_iter(row)).map_err(fail)?;
        }
        Ok(())
    }

    fn hurry(&mut self) -> Result<(), StoreError> {
        self.connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .and_then(|_| self.connection.pragma_update(None, "wal_autocheckpoint", 0))
            .map_err(|error| from(&self.path, error))
    }

    fn tend(&mut self) -> Result<(), StoreError> {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        if fs::metadata(log).is_ok_and(|log| log.len() >= MUCH) {
            self.batch("pragma wal_checkpoint(passive)")?;
        }
        Ok(())
    }

    fn table_query(&self) -> &'static str {
        "select name from sqlite_master where type = 'table' and name = $1"
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        // At once, so that two that read before they write don't block each other.
        self.batch("begin immediate")
    }
}
