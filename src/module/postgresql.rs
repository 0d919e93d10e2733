//! What the modules for PostgreSQL share: the host's psql, with passwords and statements that no process list
//! shows, quotation of names and values, and a reader for statements.

use serde::Deserialize;

use crate::module::{ModuleError, Param, Type, host};
use crate::system::{Command, Intent, Output, System};
use crate::value::{Map, Value};

type Result<T> = std::result::Result<T, ModuleError>;

/// Who connects.
pub const LOGIN_USER: Param =
    Param::new("login_user", Type::Str, "Who connects.").aliases(&["login"]).default("postgres");
/// With which password.
pub const LOGIN_PASSWORD: Param =
    Param::new("login_password", Type::Str, "Password of who connects.").secret().default("''");
/// Where to.
pub const LOGIN_HOST: Param =
    Param::new("login_host", Type::Str, "Host of the server; its socket if not given.")
        .aliases(&["host"])
        .default("''");
/// At which port.
pub const LOGIN_PORT: Param =
    Param::new("login_port", Type::Int, "Port of the server.").aliases(&["port"]).default("5432");
/// By which socket.
pub const LOGIN_UNIX_SOCKET: Param =
    Param::new("login_unix_socket", Type::Str, "Directory of the server's socket.")
        .aliases(&["unix_socket"])
        .default("''");
/// Whether with TLS.
pub const SSL_MODE: Param = Param::new("ssl_mode", Type::Str, "Whether TLS is used, and what is checked.")
    .choices(&["allow", "disable", "prefer", "require", "verify-ca", "verify-full"])
    .default("prefer");
/// Authorities.
pub const CA_CERT: Param =
    Param::new("ca_cert", Type::Str, "File with certificates of authorities.").aliases(&["ssl_rootcert"]);
/// A client's certificate.
pub const SSL_CERT: Param = Param::new("ssl_cert", Type::Path, "Client certificate.");
/// Its key.
pub const SSL_KEY: Param = Param::new("ssl_key", Type::Path, "Key of the client certificate.");
/// Further settings.
pub const CONNECT_PARAMS: Param =
    Param::new("connect_params", Type::Dict, "Further parameters of the connection, by libpq's names.")
        .default("{}");
/// As which role.
pub const SESSION_ROLE: Param = Param::new("session_role", Type::Str, "Role that is taken after connecting.");
/// Whether names are checked.
pub const TRUST_INPUT: Param =
    Param::new("trust_input", Type::Bool, "Has no effect: names and values are always quoted.")
        .default("true");

/// How a task connects.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Connection {
    login_user: String,
    login_password: String,
    login_host: String,
    login_port: i64,
    login_unix_socket: String,
    ssl_mode: String,
    ca_cert: Option<String>,
    ssl_cert: Option<String>,
    ssl_key: Option<String>,
    connect_params: Map,
    session_role: Option<String>,
}

/// A database of a server.
#[derive(Clone, Debug)]
pub struct Database {
    program: String,
    env: Vec<(String, String)>,
    session_role: Option<String>,
}

/// Names that libpq's parameters have in the environment, where they are not the parameter's own.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("dbname", "PGDATABASE"),
    ("application_name", "PGAPPNAME"),
    ("passfile", "PGPASSFILE"),
    ("service", "PGSERVICE"),
];

impl Database {
    /// The database `name` of the server that the task names.
    ///
    /// # Errors
    /// If there is no psql.
    pub fn new(connection: &Connection, name: &str, system: &mut dyn System) -> Result<Database> {
        let program = host::need_program("psql", system)?;
        let mut env: Vec<(String, String)> = vec![
            ("PGUSER".into(), connection.login_user.clone()),
            ("PGPORT".into(), connection.login_port.to_string()),
            ("PGDATABASE".into(), name.into()),
            ("PGSSLMODE".into(), connection.ssl_mode.clone()),
            ("PGCLIENTENCODING".into(), "UTF8".into()),
        ];
        // This machine by name is this machine by its socket, if one is named.
        let by_socket = connection.login_host == "localhost" && !connection.login_unix_socket.is_empty();
        let host = if connection.login_host.is_empty() || by_socket {
            &connection.login_unix_socket
        } else {
            &connection.login_host
        };
        for (key, value) in [
            ("PGHOST", Some(host)),
            ("PGPASSWORD", Some(&connection.login_password)),
            ("PGSSLROOTCERT", connection.ca_cert.as_ref()),
            ("PGSSLCERT", connection.ssl_cert.as_ref()),
            ("PGSSLKEY", connection.ssl_key.as_ref()),
        ] {
            env.extend(value.filter(|value| !value.is_empty()).map(|value| (key.to_string(), value.clone())));
        }
        for (key, value) in connection.connect_params.iter() {
            let key = key.to_text();
            let known = ENVIRONMENT.iter().find(|(name, _)| *name == key).map(|(_, name)| name.to_string());
            env.push((
                known.unwrap_or_else(|| format!("PG{}", key.replace('_', "").to_uppercase())),
                value.to_text(),
            ));
        }
        Ok(Database { program, env, session_role: connection.session_role.clone() })
    }

    /// The environment in which other programs of PostgreSQL reach the same database.
    pub fn environment(&self) -> &[(String, String)] {
        &self.env
    }

    /// psql with statements to read. Fields and rows are separated by characters that no text has.
    pub fn command(&self, statements: &str) -> Command {
        let argv = [
            self.program.as_str(),
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--set=ON_ERROR_STOP=1",
            "--set=VERBOSITY=default",
            "--field-separator=\u{1f}",
            "--record-separator=\u{1e}",
            "--no-password",
        ];
        self.reading(argv, statements)
    }

    /// psql with other options.
    pub fn reading<'a>(&self, argv: impl IntoIterator<Item = &'a str>, statements: &str) -> Command {
        let mut command = Command::new(argv).c_locale();
        command.env.extend(self.env.iter().cloned());
        // Somebody else's home may not be readable.
        command.cwd = Some("/".into());
        let role =
            self.session_role.as_ref().map(|role| format!("SET ROLE {};\n", name(role))).unwrap_or_default();
        command.stdin = Some(format!("{role}{statements}\n").into_bytes());
        command
    }

    /// The rows that statements give.
    ///
    /// # Errors
    /// What the server says.
    pub fn rows(&self, statements: &str, system: &mut dyn System) -> Result<Vec<Vec<String>>> {
        let output = self.query(&self.command(statements), system)?;
        Ok(rows(&output.stdout_text()))
    }

    /// Runs a command that only looks.
    ///
    /// # Errors
    /// What the server says.
    pub fn query(&self, command: &Command, system: &mut dyn System) -> Result<Output> {
        let output = system.query(command)?;
        if output.success() { Ok(output) } else { Err(failure(&output)) }
    }

    /// The first field of the first row.
    ///
    /// # Errors
    /// What the server says.
    pub fn value(&self, statements: &str, system: &mut dyn System) -> Result<Option<String>> {
        Ok(self.rows(statements, system)?.into_iter().next().and_then(|row| row.into_iter().next()))
    }

    /// Runs a statement that acts. `false` if it was only recorded.
    ///
    /// # Errors
    /// What the server says.
    pub fn change(&self, statement: &str, intent: Intent, system: &mut dyn System) -> Result<bool> {
        match system.change(&self.command(statement), intent)? {
            crate::system::Done::Recorded => Ok(false),
            crate::system::Done::Made(output) if output.success() => Ok(true),
            crate::system::Done::Made(output) => Err(failure(&output)),
        }
    }

    /// Version of the server, such as 150004.
    ///
    /// # Errors
    /// What the server says.
    pub fn version(&self, system: &mut dyn System) -> Result<u32> {
        let text = self.value("SHOW server_version_num;", system)?.unwrap_or_default();
        Ok(text.parse().unwrap_or(0))
    }
}

/// Rows of fields in psql's output.
pub fn rows(text: &str) -> Vec<Vec<String>> {
    let text = text.trim_end_matches('\n');
    text.split('\u{1e}')
        .map(|row| row.trim_start_matches('\n'))
        .filter(|row| !row.is_empty())
        .map(|row| row.split('\u{1f}').map(String::from).collect())
        .collect()
}

/// What the server said went wrong.
pub fn failure(output: &Output) -> ModuleError {
    let said = output.stderr_text();
    let said = said.trim().trim_start_matches("psql: ").replace("psql:<stdin>:", "line ");
    let said = match said.split_once("ERROR:  ") {
        Some((_, rest)) => rest.to_string(),
        None => said,
    };
    ModuleError::new(said.trim()).with("rc", output.code)
}

/// A name, quoted.
pub fn name(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// A name with parts, such as `schema.table`: each is quoted, unless it is already.
pub fn dotted(text: &str) -> String {
    let mut parts = vec![String::new()];
    let mut inside = false;
    for character in text.chars() {
        match character {
            '"' => inside = !inside,
            '.' if !inside => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().expect("there is always one").push(character);
    }
    let one = |part: &String| {
        if part.starts_with('"') && part.ends_with('"') && part.len() > 1 { part.clone() } else { name(part) }
    };
    parts.iter().map(one).collect::<Vec<_>>().join(".")
}

/// A text, quoted, whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    let escaped = text.replace('\'', "''");
    if escaped.contains('\\') {
        format!("E'{}'", escaped.replace('\\', "\\\\"))
    } else {
        format!("'{escaped}'")
    }
}

/// A value as SQL writes it.
pub fn value(given: &Value) -> String {
    match given {
        Value::Null => "NULL".into(),
        Value::Bool(truth) => if *truth { "true" } else { "false" }.into(),
        Value::Int(_) | Value::Float(_) => given.to_text(),
        Value::List(items) if items.is_empty() => "'{}'".into(),
        Value::List(items) => format!("ARRAY[{}]", items.iter().map(value).collect::<Vec<_>>().join(",")),
        Value::Map(_) => literal(&crate::module::args::json_text(given)),
        other => literal(&other.to_text()),
    }
}

/// Splits a script into statements at semicolons that stand outside of quotations and comments.
///
/// # Errors
/// If it has a backslash outside of them, where psql would take it for a command of its own.
pub fn statements(script: &str) -> Result<Vec<String>> {
    let mut out = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while at < script.len() {
        let rest = &script[at..];
        let character = rest.chars().next().unwrap_or(' ');
        let escapes = at > 0
            && script[..at].ends_with(['E', 'e'])
            && !script[..at - 1].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        at += match character {
            '\'' => quotation(rest, '\'', escapes),
            '"' => quotation(rest, '"', false),
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment(rest),
            '$' => dollars(rest),
            '\\' => {
                return Err(ModuleError::new("a statement can't have a backslash outside of quotations"));
            }
            ';' => {
                out.push(script[start..at].trim().to_string());
                start = at + 1;
                1
            }
            other => other.len_utf8(),
        };
    }
    out.push(script[start..].trim().to_string());
    out.retain(|statement| !statement.is_empty());
    Ok(out)
}

/// Length of a quotation, its quotes included. A doubled quote stands for one.
fn quotation(text: &str, quote: char, escapes: bool) -> usize {
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if escapes && character == '\\' {
            characters.next();
        } else if character == quote {
            if characters.peek().is_some_and(|(_, next)| *next == quote) {
                characters.next();
            } else {
                return at + 1;
            }
        }
    }
    text.len()
}

/// Length of a comment; comments nest.
fn comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of a quotation such as `$body$ … $body$`; 1 if it is not one.
fn dollars(text: &str) -> usize {
    let Some(end) = text[1..].find('$') else { return 1 };
    let tag = &text[..end + 2];
    let word = &tag[1..tag.len() - 1];
    if !word.chars().all(|c| c.is_alphanumeric() || c == '_')
        || word.starts_with(|c: char| c.is_ascii_digit())
    {
        return 1;
    }
    text[tag.len()..].find(tag).map_or(text.len(), |close| tag.len() * 2 + close)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fake::Fake;

    #[test]
    fn scripts_are_split_into_statements() {
        for (script, expected) in [
            ("SELECT 1; SELECT 2;", vec!["SELECT 1", "SELECT 2"]),
            ("SELECT 'a;''b', \"c;\"\"d\"", vec!["SELECT 'a;''b', \"c;\"\"d\""]),
            ("SELECT E'\\';' ; x", vec!["SELECT E'\\';'", "x"]),
            ("-- a;b\nSELECT 1 /* ; /* ; */ ; */; y", vec!["-- a;b\nSELECT 1 /* ; /* ; */ ; */", "y"]),
            ("DO $$ BEGIN x; END $$; DO $a$ ; $$ ; $a$", vec!["DO $$ BEGIN x; END $$", "DO $a$ ; $$ ; $a$"]),
            ("SELECT $1; z", vec!["SELECT $1", "z"]),
            (" ; ", vec![]),
        ] {
            assert_eq!(statements(script).expect("valid"), expected, "{script}");
        }
        statements("\\! rm").expect_err("a command of psql");
        statements("SELECT 'a\\'; \\!").expect_err("a command of psql");
    }

    #[test]
    fn this_machine_is_reached_by_its_socket() {
        for (host, socket, expected) in [
            ("", "", None),
            ("", "/run/x", Some("/run/x")),
            ("localhost", "", Some("localhost")),
            ("localhost", "/run/x", Some("/run/x")),
            ("db", "/run/x", Some("db")),
        ] {
            let connection = Connection {
                login_host: host.into(),
                login_unix_socket: socket.into(),
                ..Connection::default()
            };
            let mut fake = Fake::new().with_program("/usr/bin/psql");
            let database = Database::new(&connection, "d", &mut fake).expect("psql is there");
            let found = database.env.iter().find(|(name, _)| name == "PGHOST").map(|(_, host)| host.as_str());
            assert_eq!(found, expected, "{host} {socket}");
        }
    }

    #[test]
    fn names_and_values_are_quoted() {
        assert_eq!(name("a\"b"), "\"a\"\"b\"");
        assert_eq!(dotted("s.t"), "\"s\".\"t\"");
        assert_eq!(dotted("\"s.x\".t"), "\"s.x\".\"t\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\b'"), "E'a\\\\b'''");
        assert_eq!(value(&Value::list(vec![Value::Int(1), "x'".into(), Value::Null])), "ARRAY[1,'x''',NULL]");
        assert_eq!(rows("a\u{1f}b\u{1e}c\u{1f}\u{1e}\n"), [vec!["a", "b"], vec!["c", ""]]);
    }
}
