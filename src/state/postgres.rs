//! PostgreSQL: one store for a team. Who writes takes turns with the others, as with a file.

use std::collections::{HashMap, HashSet};
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres::config::Host;
use postgres::error::{DbError, Error};
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Config, NoTls, Statement};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::StoreError;
use super::backend::{Backend, Cell, Insert, Rows};

/// How long a connection may take, unless the URL says otherwise (`connect_timeout`).
const PATIENCE: Duration = Duration::from_secs(10);

/// The key of the lock that writers hold, so that they do it one after the other: any number that no other
/// program is likely to use.
const WRITERS: i64 = 0x7365_7470_6f69_6e74;

/// How many rows travel in one statement. Few different numbers, because each is a statement of its own.
const CHUNKS: [usize; 5] = [256, 64, 16, 4, 1];

/// A store on a server.
pub struct Postgres {
    client: Client,
    name: String,
    statements: HashMap<String, Statement>,
}

/// The URL as it may be shown: without the password.
fn shown(config: &Config) -> String {
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        })
        .collect();
    let user = config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
    format!("postgres://{user}{}/{}", hosts.join(","), config.get_dbname().unwrap_or_default())
}

/// Checks the server's certificate by the authorities that this machine trusts.
fn tls() -> Result<MakeRustlsConnect, String> {
    let mut roots = RootCertStore::empty();
    for certificate in rustls_native_certs::load_native_certs().certs {
        // One that can't be read is one that nothing is signed by.
        let _ = roots.add(certificate);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// All that an error says, with what it comes from.
fn said(error: &Error) -> String {
    if let Some(told) = error.as_db_error() {
        let more = [told.detail(), told.hint()].into_iter().flatten().map(|text| format!("; {text}"));
        return format!("{}{}", DbError::message(told), more.collect::<String>());
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    if text.contains("certificate") {
        text.push_str(
            " (the server's certificate must be signed by an authority that this machine trusts, or that \
             SSL_CERT_FILE names; sslmode=disable in the URL does without encryption)",
        );
    }
    text
}

impl Postgres {
    /// Connects to the server that a URL names.
    ///
    /// # Errors
    /// The URL can't be read, nobody is there, or they don't let us in.
    pub fn open(url: &str) -> Result<Postgres, StoreError> {
        let mut config: Config = url.parse().map_err(|error: Error| {
            StoreError::Place(format!("the URL of the state store: {}", said(&error)))
        })?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(PATIENCE);
        }
        config.application_name("setpoint");
        let name = shown(&config);
        let fail = |message: String| StoreError::Database { name: name.clone(), message };
        // A socket goes nowhere, so nothing on it is encrypted.
        let is_socket = |host: &Host| matches!(host, Host::Unix(_));
        let client = if config.get_hosts().iter().all(is_socket) {
            config.connect(NoTls)
        } else {
            config.connect(tls().map_err(&fail)?)
        };
        let client = client.map_err(|error| fail(said(&error)))?;
        Ok(Postgres { client, name, statements: HashMap::new() })
    }

    fn fail(&self, error: &Error) -> StoreError {
        StoreError::Database { name: self.name.clone(), message: said(error) }
    }

    fn prepared(&mut self, sql: &str) -> Result<Statement, StoreError> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).map_err(|error| self.fail(&error))?;
        self.statements.insert(sql.to_string(), statement.clone());
        Ok(statement)
    }

    /// Puts in rows of which no two have the same key.
    fn insert_different(&mut self, into: &Insert, mut rows: &[&Vec<Cell<'_>>]) -> Result<(), StoreError> {
        for size in CHUNKS {
            while rows.len() >= size {
                let (chunk, rest) = rows.split_at(size);
                let statement = self.prepared(&into.statement(size))?;
                let cells: Vec<&(dyn ToSql + Sync)> =
                    chunk.iter().flat_map(|row| row.iter()).map(|cell| cell as _).collect();
                self.client.execute(&statement, &cells).map_err(|error| self.fail(&error))?;
                rows = rest;
            }
        }
        Ok(())
    }
}

/// Where the columns of `on conflict (…)` stand among those of the rows.
fn key_of(into: &Insert) -> Vec<usize> {
    let columns = into.conflict.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    let names = columns.map(|(names, _)| names.split(',').map(str::trim)).into_iter().flatten();
    names.filter_map(|name| into.columns.iter().position(|column| *column == name)).collect()
}

impl ToSql for Cell<'_> {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Cell::Null => Ok(IsNull::Yes),
            Cell::Int(number) if *kind == Type::INT4 => i32::try_from(*number)?.to_sql(kind, out),
            Cell::Int(number) if *kind == Type::TEXT => number.to_string().to_sql(kind, out),
            Cell::Int(number) => number.to_sql(kind, out),
            Cell::Text(text) => text.as_ref().to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        [Type::INT8, Type::INT4].contains(kind) || <&str as ToSql>::accepts(kind)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Cell<'a> {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Cell<'a>, Box<dyn std::error::Error + Sync + Send>> {
        Ok(match *kind {
            Type::INT8 => Cell::Int(i64::from_sql(kind, raw)?),
            Type::INT4 => Cell::Int(i32::from_sql(kind, raw)?.into()),
            Type::BOOL => Cell::Int(bool::from_sql(kind, raw)?.into()),
            Type::NUMERIC => Cell::Int(whole(raw).ok_or("a sum that is no whole number")?),
            _ => Cell::Text(<&str>::from_sql(kind, raw)?.into()),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Cell<'a>, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Cell::Null)
    }

    fn accepts(kind: &Type) -> bool {
        [Type::INT8, Type::INT4, Type::BOOL, Type::NUMERIC].contains(kind) || <&str as FromSql>::accepts(kind)
    }
}

/// A whole number in the binary form of `numeric`, as which sums come: how many digits to the base 10,000 there
/// are, the power of the first, the sign, how many decimal places are shown, the digits.
fn whole(raw: &[u8]) -> Option<i64> {
    let words: Vec<i64> =
        raw.chunks_exact(2).map(|pair| i16::from_be_bytes([pair[0], pair[1]]).into()).collect();
    let [count, weight, sign, _, digits @ ..] = words.as_slice() else { return None };
    let mut value: i64 = 0;
    for place in 0..=*weight {
        let digit = usize::try_from(place).ok().and_then(|place| digits.get(place)).copied().unwrap_or(0);
        value = value.checked_mul(10_000)?.checked_add(digit)?;
    }
    match (*count > weight + 1, sign) {
        (true, _) => None,
        (false, 0) => Some(value),
        (false, 0x4000) => Some(-value),
        _ => None,
    }
}

impl Backend for Postgres {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn batch(&mut self, sql: &str) -> Result<(), StoreError> {
        self.client.batch_execute(sql).map_err(|error| self.fail(&error))
    }

    fn execute(&mut self, sql: &str, cells: &[Cell<'_>]) -> Result<u64, StoreError> {
        let statement = self.prepared(sql)?;
        let cells: Vec<&(dyn ToSql + Sync)> = cells.iter().map(|cell| cell as _).collect();
        self.client.execute(&statement, &cells).map_err(|error| self.fail(&error))
    }

    fn query(
        &mut self,
        sql: &str,
        cells: &[Cell<'_>],
        row: &mut dyn FnMut(&[Cell<'_>]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let statement = self.prepared(sql)?;
        let name = self.name.clone();
        let fail = |error: Error| StoreError::Database { name: name.clone(), message: said(&error) };
        let mut rows = self.client.query_raw(&statement, cells).map_err(fail)?;
        while let Some(found) = rows.next().map_err(fail)? {
            let out: Result<Vec<Cell<'_>>, Error> =
                (0..found.len()).map(|column| found.try_get(column)).collect();
            row(&out.map_err(fail)?)?;
        }
        Ok(())
    }

    fn insert(&mut self, into: &Insert, rows: Rows<'_, '_>) -> Result<(), StoreError> {
        let rows: Vec<Vec<Cell<'_>>> = rows.collect();
        // One statement can't put in the same row twice; a second one finds the first there.
        let key = key_of(into);
        let mut seen: HashSet<Vec<&Cell<'_>>> = HashSet::new();
        let mut different: Vec<&Vec<Cell<'_>>> = Vec::new();
        for row in &rows {
            let named: Vec<&Cell<'_>> = key.iter().map(|column| &row[*column]).collect();
            if !key.is_empty() && seen.contains(&named) {
                self.insert_different(into, &different)?;
                different.clear();
                seen.clear();
            }
            seen.insert(named);
            different.push(row);
        }
        self.insert_different(into, &different)
    }

    fn table_query(&self) -> &'static str {
        "select 1 from pg_tables where schemaname = current_schema() and tablename = $1"
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.batch(&format!("begin; select pg_advisory_xact_lock({WRITERS})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_read() {
        let numeric = |words: &[i16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        for (words, expected) in [
            (vec![0, 0, 0, 0], Some(0)),
            (vec![1, 0, 0, 0, 42], Some(42)),
            (vec![1, 1, 0, 0, 3], Some(30_000)),
            (vec![2, 1, 0x4000, 0, 1, 2], Some(-10_002)),
            (vec![2, 0, 0, 1, 1, 5000], None),
            (vec![1], None),
        ] {
            assert_eq!(whole(&numeric(&words)), expected, "{words:?}");
        }
    }

    #[test]
    fn the_key_is_that_of_the_conflict() {
        let into =
            Insert { table: "t", columns: &["a", "b", "c"], conflict: "on conflict (c, a) do nothing" };
        assert_eq!(key_of(&into), [2, 0]);
        assert_eq!(key_of(&Insert { conflict: "", ..into }), [0_usize; 0]);
    }

    #[test]
    fn no_password_is_shown() {
        let error = Postgres::open("postgres://ann:secret@127.0.0.1:1/state?connect_timeout=1").err();
        let told = error.expect("nobody is there").to_string();
        assert!(told.contains("postgres://ann@127.0.0.1/state: ") && !told.contains("secret"), "{told}");
        let wrong = Postgres::open("postgres://ann:secret@h:port/state").err().expect("no port").to_string();
        assert!(wrong.contains("the URL of the state store") && !wrong.contains("secret"), "{wrong}");
    }
}
