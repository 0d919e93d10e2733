//! What the modules for MySQL and MariaDB share: the host's client, with passwords and statements that no
//! process list shows, and quotation of names and values.

use serde::Deserialize;

use crate::module::{ModuleError, Param, Type, args, host};
use crate::system::{Command, Done, Intent, Output, System};
use crate::value::Value;

type Result<T> = std::result::Result<T, ModuleError>;

/// Who connects.
pub const LOGIN_USER: Param =
    Param::new("login_user", Type::Str, "Who connects; else that of the client's settings.");
/// With which password.
pub const LOGIN_PASSWORD: Param =
    Param::new("login_password", Type::Str, "Password of who connects.").secret();
/// Where to.
pub const LOGIN_HOST: Param = Param::new("login_host", Type::Str, "Host of the server.").default("localhost");
/// At which port.
pub const LOGIN_PORT: Param = Param::new("login_port", Type::Int, "Port of the server.").default("3306");
/// By which socket.
pub const LOGIN_UNIX_SOCKET: Param = Param::new("login_unix_socket", Type::Str, "The server's socket.");
/// The client's settings.
pub const CONFIG_FILE: Param =
    Param::new("config_file", Type::Path, "The client's settings, if the file is there.")
        .default("~/.my.cnf");
/// How long to wait.
pub const CONNECT_TIMEOUT: Param =
    Param::new("connect_timeout", Type::Int, "Seconds to wait for a connection.").default("30");
/// Authorities.
pub const CA_CERT: Param =
    Param::new("ca_cert", Type::Path, "File with certificates of authorities.").aliases(&["ssl_ca"]);
/// A client's certificate.
pub const CLIENT_CERT: Param =
    Param::new("client_cert", Type::Path, "Client certificate.").aliases(&["ssl_cert"]);
/// Its key.
pub const CLIENT_KEY: Param =
    Param::new("client_key", Type::Path, "Key of the client certificate.").aliases(&["ssl_key"]);
/// Whether the name is checked.
pub const CHECK_HOSTNAME: Param =
    Param::new("check_hostname", Type::Bool, "The server's certificate must have its name.");
/// A new server's account.
pub const CHECK_IMPLICIT_ADMIN: Param = Param::new(
    "check_implicit_admin",
    Type::Bool,
    "First try as root without a password, as a new server has it.",
)
.default("false");
/// Whether it is written to the log for replicas.
pub const SQL_LOG_BIN: Param =
    Param::new("sql_log_bin", Type::Bool, "Changes are written to the log for replicas.").default("true");

/// How a task connects.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Connection {
    login_user: Option<String>,
    login_password: Option<String>,
    login_host: String,
    login_port: i64,
    login_unix_socket: Option<String>,
    config_file: String,
    connect_timeout: i64,
    ca_cert: Option<String>,
    client_cert: Option<String>,
    client_key: Option<String>,
    check_hostname: Option<bool>,
    check_implicit_admin: bool,
    sql_log_bin: Option<bool>,
}

/// A server.
#[derive(Clone, Debug)]
pub struct Server {
    program: String,
    /// A private file with the client's settings and those of the task.
    settings: String,
    prelude: String,
}

impl Server {
    /// The server that the task names.
    ///
    /// # Errors
    /// If there is no client.
    pub fn new(connection: &Connection, system: &mut dyn System) -> Result<Server> {
        let program = match host::find_program("mysql", system)? {
            Some(path) => path.to_string_lossy().into_owned(),
            None => host::need_program("mariadb", system)?,
        };
        let prelude = if connection.sql_log_bin == Some(false) {
            "SET SESSION sql_log_bin = 0;\n".to_string()
        } else {
            String::new()
        };
        let plain = Server { program, settings: String::new(), prelude };
        if connection.check_implicit_admin {
            let root = Connection {
                login_user: Some("root".into()),
                login_password: Some(String::new()),
                ..connection.clone()
            };
            let server = Server { settings: settings_file(&root, false, system)?, ..plain.clone() };
            if system.query(&server.command("SELECT 1;"))?.success() {
                return Ok(server);
            }
        }
        let settings = settings_file(connection, true, system)?;
        Ok(Server { settings, ..plain })
    }

    /// The option by which another program of the server's reaches it.
    pub fn option(&self) -> String {
        format!("--defaults-extra-file={}", self.settings)
    }

    /// The client as another account, to find out whether it can connect.
    pub fn as_account(&self, settings: &str) -> Command {
        let mut command =
            Command::new([self.program.as_str(), &format!("--defaults-file={settings}"), "--batch"])
                .c_locale();
        command.stdin = Some(b"SELECT 1;\n".to_vec());
        command
    }

    /// The client with statements to read.
    pub fn command(&self, statements: &str) -> Command {
        self.with(&["--batch", "--skip-column-names"], statements)
    }

    /// The client with options and statements to read.
    pub fn with(&self, options: &[&str], statements: &str) -> Command {
        let mut argv = vec![self.program.clone(), self.option()];
        argv.extend(options.iter().map(ToString::to_string));
        let mut command = Command::new(argv).c_locale();
        command.stdin = Some(format!("{}{statements}\n", self.prelude).into_bytes());
        command
    }

    /// The rows that a statement gives.
    ///
    /// # Errors
    /// What the server says.
    pub fn rows(&self, statements: &str, system: &mut dyn System) -> Result<Vec<Vec<String>>> {
        let output = system.query(&self.command(statements))?;
        if !output.success() {
            return Err(failure(&output));
        }
        let row = |line: &str| line.split('\t').map(unescaped).collect();
        Ok(output.stdout_text().lines().map(row).collect())
    }

    /// Runs a statement that acts. `false` if it was only recorded.
    ///
    /// # Errors
    /// What the server says.
    pub fn change(&self, statement: &str, intent: Intent, system: &mut dyn System) -> Result<bool> {
        match system.change(&self.command(statement), intent)? {
            Done::Recorded => Ok(false),
            Done::Made(output) if output.success() => Ok(true),
            Done::Made(output) => Err(failure(&output)),
        }
    }
}

/// A private file with what the task gives; the client's own settings are included first.
fn settings_file(connection: &Connection, with_own: bool, system: &mut dyn System) -> Result<String> {
    let mut text = String::new();
    let own = args::expand_path(&connection.config_file, system)?;
    if with_own && host::exists(&own, system)? {
        // What is overlaid in a dry run is read through the machine too.
        text.push_str(&String::from_utf8_lossy(&system.read(&own)?));
        text.push('\n');
    }
    text.push_str("[client]\n");
    let mut add = |name: &str, value: Option<&String>| {
        if let Some(value) = value {
            text.push_str(&format!("{name}={}\n", quoted_setting(value)));
        }
    };
    add("user", connection.login_user.as_ref());
    add("password", connection.login_password.as_ref());
    add("socket", connection.login_unix_socket.as_ref());
    let port = connection.login_port.to_string();
    // A local server is reached by its socket, and what the client's settings say of it counts.
    if connection.login_unix_socket.is_none() && connection.login_host != "localhost" {
        add("host", Some(&connection.login_host));
        add("port", Some(&port));
    }
    add("ssl-ca", connection.ca_cert.as_ref());
    add("ssl-cert", connection.client_cert.as_ref());
    add("ssl-key", connection.client_key.as_ref());
    if connection.check_hostname == Some(true) {
        text.push_str("loose-ssl-verify-server-cert\n");
    }
    text.push_str(&format!("[mysql]\nconnect-timeout={}\n", connection.connect_timeout));
    let path = system.spool(if with_own { "client.cnf" } else { "implicit.cnf" }, &mut text.as_bytes())?;
    Ok(path.to_string_lossy().into_owned())
}

/// A value in the client's settings.
fn quoted_setting(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// What the server said went wrong.
pub fn failure(output: &Output) -> ModuleError {
    let said = output.stderr_text();
    let said: Vec<&str> =
        said.lines().filter(|line| !line.starts_with("--------") && !line.trim().is_empty()).collect();
    ModuleError::new(said.join(" ").trim()).with("rc", output.code)
}

/// A field of the client's batch output.
pub fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('0') => out.push('\0'),
            Some(other) => out.push(other),
            None => out.push('\\'),
        }
    }
    out
}

/// A name, quoted.
pub fn name(text: &str) -> String {
    format!("`{}`", text.replace('`', "``"))
}

/// A text, quoted.
pub fn literal(text: &str) -> String {
    let mut out = String::from("'");
    for character in text.chars() {
        match character {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            '\0' => out.push_str("\\0"),
            other => out.push(other),
        }
    }
    out.push('\'');
    out
}

/// A value as SQL writes it.
pub fn value(given: &Value) -> String {
    match given {
        Value::Null => "NULL".into(),
        Value::Bool(truth) => if *truth { "1" } else { "0" }.into(),
        Value::Int(_) | Value::Float(_) => given.to_text(),
        Value::List(items) => format!("({})", items.iter().map(value).collect::<Vec<_>>().join(",")),
        Value::Map(_) => literal(&args::json_text(given)),
        other => literal(&other.to_text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::fake::Fake;

    #[test]
    fn names_and_values_are_quoted() {
        assert_eq!(name("a`b"), "`a``b`");
        assert_eq!(literal("it's \\"), "'it''s \\\\'");
        assert_eq!(value(&Value::list(vec![Value::Int(1), "x".into()])), "(1,'x')");
        assert_eq!(unescaped("a\\tb\\\\n\\n"), "a\tb\\n\n");
        assert_eq!(quoted_setting("a\"b\\"), "\"a\\\"b\\\\\"");
    }

    #[test]
    fn a_password_is_only_in_a_private_file() {
        let mut fake = Fake::new()
            .with_program("/usr/bin/mysql")
            .with_file("/root/.my.cnf", "[client]\nuser=me\n")
            .with_command_prefix(&["mysql"], Output::ok("1\\t2\tx\n"));
        let connection = Connection {
            login_password: Some("secret".into()),
            login_host: "db".into(),
            login_port: 3307,
            config_file: "~/.my.cnf".into(),
            ..Connection::default()
        };
        let server = Server::new(&connection, &mut fake).expect("there");
        assert_eq!(server.rows("SELECT 1;", &mut fake).expect("rows"), [["1\t2", "x"]]);
        assert!(!fake.log()[0].contains("secret"));
        let file = fake.text("/tmp/scratch/client.cnf").expect("written");
        assert_eq!(
            file,
            "[client]\nuser=me\n\n[client]\npassword=\"secret\"\nhost=\"db\"\nport=\"3307\"\n[mysql]\nconnect-timeout=0\n"
        );
    }
}
