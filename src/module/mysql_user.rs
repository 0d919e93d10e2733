//! `mysql_user`: accounts of MySQL and MariaDB.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use sha1::{Digest, Sha1};

use crate::module::mysql::{self, Connection, Server, literal, value};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, typed};
use crate::system::{Applied, Effect, Intent, System};
use crate::value::{Map, Value, map_of};

/// Adds, changes and removes accounts.
pub const MODULE: Module = Module {
    name: "community.mysql.mysql_user",
    summary: "Add, change or remove an account of MySQL or MariaDB",
    description: "Through the host's mysql. Whether the password is the one that the server knows is found out from its \
        digest, or by connecting with it where the digest does not tell. Passwords are never on a command line and in no \
        diff. Privileges that are not asked for are revoked, unless `append_privs` is set.",
    example: "- community.mysql.mysql_user:\n    name: shop\n    password: '{{ shop_password }}'\n    priv: 'shop.*:ALL'\n    host: '%'\n    login_unix_socket: /run/mysqld/mysqld.sock\n",
    scope: Scope::World,
    params: &[
        Param::new("name", Type::Str, "The account.").aliases(&["user"]).required(),
        Param::new("host", Type::Str, "Host that it connects from; `%` for any.").default("localhost"),
        Param::new("host_all", Type::Bool, "All accounts of this name, whatever their hosts.")
            .default("false"),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("password", Type::Str, "Its password.").secret(),
        Param::new("encrypted", Type::Bool, "`password` is the digest of `mysql_native_password`.")
            .default("false"),
        Param::new(
            "update_password",
            Type::Str,
            "Whether the password of an account that is there is changed.",
        )
        .choices(&["always", "on_create", "on_new_username"])
        .default("always"),
        Param::new("plugin", Type::Str, "Plugin that checks who it is."),
        Param::new("plugin_auth_string", Type::Str, "Password for the plugin."),
        Param::new("plugin_hash_string", Type::Str, "Digest for the plugin."),
        Param::new("salt", Type::Str, "Not supported.")
            .refused("give plugin_hash_string, or the password and let the server choose the salt"),
        Param::new("priv", Type::Raw, "Privileges: `db.table:PRIV,PRIV/db2.*:ALL`, or a mapping."),
        Param::new("append_privs", Type::Bool, "Other privileges stay.").default("false"),
        Param::new("subtract_privs", Type::Bool, "These privileges are revoked.").default("false"),
        Param::new(
            "tls_requires",
            Type::Dict,
            "What TLS must be like: `SSL`, `X509`, or `SUBJECT`, `ISSUER` and `CIPHER` with values.",
        ),
        Param::new("resource_limits", Type::Dict, "Limits, such as `MAX_USER_CONNECTIONS`."),
        Param::new("locked", Type::Bool, "It can't connect."),
        Param::new("password_expire", Type::Str, "When its password must be changed.")
            .choices(&["now", "never", "default", "interval"])
            .secret(),
        Param::new("password_expire_interval", Type::Int, "Days, with `password_expire: interval`.").secret(),
        Param::new("attributes", Type::Dict, "Attributes, as MySQL 8 has them."),
        Param::new("session_vars", Type::Dict, "Variables of the session."),
        Param::new(
            "force_context",
            Type::Bool,
            "Has no effect: statements do not depend on the current database.",
        )
        .default("false"),
        Param::new(
            "column_case_sensitive",
            Type::Bool,
            "Has no effect: names of columns are compared as they are written.",
        ),
        mysql::CA_CERT,
        mysql::CHECK_HOSTNAME,
        mysql::CHECK_IMPLICIT_ADMIN,
        mysql::CLIENT_CERT,
        mysql::CLIENT_KEY,
        mysql::CONFIG_FILE,
        mysql::CONNECT_TIMEOUT,
        mysql::LOGIN_HOST,
        mysql::LOGIN_PASSWORD,
        mysql::LOGIN_PORT,
        mysql::LOGIN_UNIX_SOCKET,
        mysql::LOGIN_USER,
        mysql::SQL_LOG_BIN,
    ],
    rules: &[Rule::MutuallyExclusive(&["append_privs", "subtract_privs"])],
    returns: &[
        ("user", "The account."),
        ("msg", "What was done."),
        ("password_changed", "Whether the password was changed."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    host: String,
    host_all: bool,
    state: String,
    password: Option<String>,
    encrypted: bool,
    update_password: String,
    plugin: Option<String>,
    plugin_auth_string: Option<String>,
    plugin_hash_string: Option<String>,
    r#priv: Option<Value>,
    append_privs: bool,
    subtract_privs: bool,
    tls_requires: Option<Map>,
    resource_limits: Option<Map>,
    locked: Option<bool>,
    password_expire: Option<String>,
    password_expire_interval: Option<i64>,
    attributes: Option<Map>,
    session_vars: Option<Map>,
    #[serde(flatten)]
    connection: Connection,
}

/// Privileges by what they are on.
type Grants = BTreeMap<String, BTreeSet<String>>;

/// `db.table` with quotation: `` `db`.* ``.
fn object(text: &str) -> String {
    let text = text.trim();
    let (kind, text) = ["FUNCTION ", "PROCEDURE "]
        .iter()
        .find_map(|kind| text.to_uppercase().starts_with(kind).then(|| (*kind, &text[kind.len()..])))
        .unwrap_or(("", text));
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut inside = false;
    for character in text.chars() {
        match character {
            '`' => inside = !inside,
            '.' if !inside && parts.is_empty() => parts.push(std::mem::take(&mut part)),
            other => part.push(other),
        }
    }
    parts.push(part);
    if parts.len() == 1 {
        parts.push("*".into());
    }
    let quoted = |part: &String| if part == "*" { part.clone() } else { mysql::name(part) };
    format!("{kind}{}", parts.iter().map(quoted).collect::<Vec<_>>().join("."))
}

/// Splits at commas that stand outside of parentheses.
fn split(text: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut depth = 0;
    for character in text.chars() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(String::new());
                continue;
            }
            _ => {}
        }
        out.last_mut().expect("there is always one").push(character);
    }
    out.iter().map(|one| one.trim().to_string()).filter(|one| !one.is_empty()).collect()
}

/// A privilege in the form in which two of the same meaning are the same.
fn privilege(text: &str) -> String {
    let (plain, columns) =
        text.split_once('(').map_or((text, None), |(plain, columns)| (plain, Some(columns)));
    let plain = plain.trim().to_uppercase();
    let plain = match plain.as_str() {
        "ALL" => "ALL PRIVILEGES",
        "GRANT" => "GRANT OPTION",
        // MariaDB's other names, of which it tells one and takes both.
        "BINLOG MONITOR" => "REPLICATION CLIENT",
        "REPLICA MONITOR" => "SLAVE MONITOR",
        "REPLICATION REPLICA" => "REPLICATION SLAVE",
        "DELETE VERSIONING ROWS" => "DELETE HISTORY",
        other => other,
    };
    let Some(columns) = columns else { return plain.to_string() };
    let mut names: Vec<String> = columns
        .trim_end_matches(')')
        .split(',')
        .map(|name| mysql::name(name.trim().trim_matches('`')))
        .collect();
    names.sort();
    format!("{plain} ({})", names.join(", "))
}

/// What the task asks for.
fn wanted(given: &Value) -> Result<Grants, ModuleError> {
    let entries: Vec<(String, String)> = match given {
        Value::Map(map) => map.iter().map(|(key, value)| (key.to_text(), value.to_text())).collect(),
        other => {
            let text = other.to_text();
            let entry = |part: &str| {
                // A host or column does not have a colon; a privilege never has.
                part.rsplit_once(':').map(|(object, list)| (object.to_string(), list.to_string()))
            };
            let parts = text.split('/').filter(|part| !part.trim().is_empty());
            parts
                .map(|part| {
                    entry(part).ok_or_else(|| {
                        ModuleError::new(format!("invalid privileges string: '{part}' has no colon"))
                    })
                })
                .collect::<Result<_, _>>()?
        }
    };
    let mut out = Grants::new();
    for (on, list) in entries {
        let privileges = split(&list).into_iter().map(|one| privilege(&one)).filter(|one| one != "USAGE");
        out.entry(object(&on)).or_default().extend(privileges);
    }
    Ok(out)
}

/// What `SHOW GRANTS` tells.
fn granted(lines: &[Vec<String>]) -> Grants {
    let mut out = Grants::new();
    for line in lines.iter().filter_map(|row| row.first()) {
        // Without a part `ON …` it is a role.
        let Some((list, rest)) = line.strip_prefix("GRANT ").and_then(|rest| rest.split_once(" ON ")) else {
            continue;
        };
        let Some((on, rest)) = rest.split_once(" TO ") else { continue };
        let privileges = split(list).into_iter().map(|one| privilege(&one)).filter(|one| one != "USAGE");
        let entry = out.entry(object(on)).or_default();
        entry.extend(privileges);
        if rest.contains("WITH GRANT OPTION") {
            entry.insert("GRANT OPTION".into());
        }
    }
    out
}

/// MySQL 8 tells what makes up all privileges one by one.
fn is_everything(privileges: &BTreeSet<String>) -> bool {
    privileges.contains("ALL PRIVILEGES") || privileges.len() > 25
}

/// Privileges to revoke and to grant, with what they are on.
fn differences(
    args: &Args,
    now: &Grants,
    wanted: &Grants,
) -> (Vec<(String, Vec<String>)>, Vec<(String, Vec<String>)>) {
    let empty = BTreeSet::new();
    let (mut revoke, mut grant) = (Vec::new(), Vec::new());
    let list = |set: &BTreeSet<String>, without: &BTreeSet<String>| -> Vec<String> {
        set.difference(without).cloned().collect()
    };
    if args.subtract_privs {
        for (on, privileges) in wanted {
            let now = now.get(on).unwrap_or(&empty);
            let gone: Vec<String> = privileges.intersection(now).cloned().collect();
            revoke.push((on.clone(), gone));
        }
    } else {
        for (on, privileges) in now.iter().filter(|(on, _)| !args.append_privs && !wanted.contains_key(*on)) {
            revoke.push((on.clone(), privileges.iter().cloned().collect()));
        }
        for (on, privileges) in wanted {
            let now = now.get(on).unwrap_or(&empty);
            if privileges.contains("ALL PRIVILEGES") && is_everything(now) {
                let option = BTreeSet::from(["GRANT OPTION".to_string()]);
                let has = |set: &BTreeSet<String>| set.contains("GRANT OPTION");
                if has(privileges) && !has(now) {
                    grant.push((on.clone(), option.into_iter().collect()));
                } else if has(now) && !has(privileges) && !args.append_privs {
                    revoke.push((on.clone(), option.into_iter().collect()));
                }
                continue;
            }
            if !args.append_privs {
                revoke.push((on.clone(), list(now, privileges)));
            }
            grant.push((on.clone(), list(privileges, now)));
        }
    }
    revoke.retain(|(_, list)| !list.is_empty());
    grant.retain(|(_, list)| !list.is_empty());
    (revoke, grant)
}

/// The digest of `mysql_native_password`.
fn native_digest(password: &str) -> String {
    if password.is_empty() {
        return String::new();
    }
    let digest = Sha1::digest(Sha1::digest(password));
    format!("*{}", digest.iter().map(|byte| format!("{byte:02X}")).collect::<String>())
}

/// How an account is recognised, as SQL has it. `None` if the task does not say.
fn identification(args: &Args) -> Option<String> {
    if let Some(plugin) = &args.plugin {
        let how = match (&args.plugin_hash_string, &args.plugin_auth_string) {
            (Some(digest), _) => format!(" AS {}", literal(digest)),
            (None, Some(password)) => format!(" BY {}", literal(password)),
            (None, None) => String::new(),
        };
        return Some(format!(" IDENTIFIED WITH {}{how}", mysql::name(plugin)));
    }
    let password = args.password.as_ref()?;
    Some(if args.encrypted {
        format!(" IDENTIFIED WITH `mysql_native_password` AS {}", literal(password))
    } else {
        format!(" IDENTIFIED BY {}", literal(password))
    })
}

fn requirements(given: &Map) -> String {
    let words: Vec<String> = given
        .iter()
        .map(|(key, value)| {
            let key = key.to_text().to_uppercase();
            if value.is_null() || matches!(value, Value::Bool(_)) || ["SSL", "X509"].contains(&key.as_str()) {
                key
            } else {
                format!("{key} {}", literal(&value.to_text()))
            }
        })
        .collect();
    format!(" REQUIRE {}", if words.is_empty() { "NONE".into() } else { words.join(" AND ") })
}

/// Limits and the server's columns for them.
const LIMITS: [(&str, &str); 4] = [
    ("MAX_QUERIES_PER_HOUR", "max_questions"),
    ("MAX_UPDATES_PER_HOUR", "max_updates"),
    ("MAX_CONNECTIONS_PER_HOUR", "max_connections"),
    ("MAX_USER_CONNECTIONS", "max_user_connections"),
];

struct Work<'a> {
    args: &'a Args,
    server: Server,
    system: &'a mut dyn System,
    prelude: String,
    done: Vec<&'static str>,
    password_changed: bool,
}

impl Work<'_> {
    fn change(
        &mut self,
        statement: &str,
        host: &str,
        before: Value,
        after: Value,
        what: &'static str,
    ) -> Result<(), ModuleError> {
        let intent = Intent {
            kind: "mysql_account",
            id: format!("{}@{host}", self.args.name),
            before,
            after,
            effects: vec![Effect::Anything],
            ..Intent::default()
        };
        self.server.change(&format!("{}{statement};", self.prelude), intent, self.system)?;
        if !self.done.contains(&what) {
            self.done.push(what);
        }
        Ok(())
    }

    fn rows(&mut self, query: &str) -> Result<Vec<Vec<String>>, ModuleError> {
        match self.server.rows(query, self.system) {
            // The server may come with a package that an earlier step would install.
            Err(_) if self.system.uncertain().is_some() => Ok(Vec::new()),
            other => other,
        }
    }

    fn create(&mut self, host: &str) -> Result<(), ModuleError> {
        let account = account(&self.args.name, host);
        let mut statement = format!("CREATE USER {account}{}", identification(self.args).unwrap_or_default());
        if let Some(tls) = self.args.tls_requires.as_ref().filter(|tls| !tls.is_empty()) {
            statement += &requirements(tls);
        }
        let present = map_of([("state", "present")]).into();
        self.password_changed = self.args.password.is_some();
        self.change(&statement, host, Value::Null, present, "User added")?;
        self.rest(host, None)
    }

    fn adapt(&mut self, host: &str) -> Result<(), ModuleError> {
        let account = account(&self.args.name, host);
        let query = format!(
            "SELECT plugin, authentication_string, ssl_type, ssl_cipher, x509_issuer, x509_subject, {} FROM mysql.user WHERE user = {} AND host = {};",
            LIMITS.map(|(_, column)| column).join(", "),
            literal(&self.args.name),
            literal(host)
        );
        let row = self.rows(&query)?.into_iter().next().unwrap_or_default();
        if self.args.update_password == "always"
            && let Some(how) = identification(self.args)
            && !self.is_recognised_so(&row, host)?
        {
            let state = |word: &str| Value::map(map_of([("password", word)]));
            self.password_changed = true;
            self.change(
                &format!("ALTER USER {account}{how}"),
                host,
                state("old"),
                state("new"),
                "Password updated",
            )?;
        }
        if let Some(tls) = &self.args.tls_requires {
            let field = |index: usize| row.get(index).cloned().unwrap_or_default();
            let wanted = |name: &str| {
                tls.iter()
                    .find(|(key, _)| key.to_text().eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.to_text())
            };
            let kind = match () {
                () if tls.is_empty() => "",
                () if wanted("SSL").is_some() => "ANY",
                () if wanted("X509").is_some() => "X509",
                () => "SPECIFIED",
            };
            let same = field(2) == kind
                && (kind != "SPECIFIED"
                    || [("CIPHER", 3), ("ISSUER", 4), ("SUBJECT", 5)]
                        .iter()
                        .all(|(name, index)| wanted(name).unwrap_or_default() == field(*index)));
            if !same {
                let (before, after) = (map_of([("tls", field(2))]), map_of([("tls", requirements(tls))]));
                self.change(
                    &format!("ALTER USER {account}{}", requirements(tls)),
                    host,
                    before.into(),
                    after.into(),
                    "TLS requirements updated",
                )?;
            }
        }
        self.rest(host, Some(&row))
    }

    /// Whether the account is recognised as the task says.
    fn is_recognised_so(&mut self, row: &[String], host: &str) -> Result<bool, ModuleError> {
        let field = |index: usize| row.get(index).cloned().unwrap_or_default();
        let (plugin, digest) = (field(0), field(1));
        if let Some(wanted) = &self.args.plugin {
            if plugin != *wanted {
                return Ok(false);
            }
            return match (&self.args.plugin_hash_string, &self.args.plugin_auth_string) {
                (Some(wanted), _) => Ok(*wanted == digest),
                (None, None) => Ok(true),
                (None, Some(password))
                    if digest == native_digest(password) && plugin == "mysql_native_password" =>
                {
                    Ok(true)
                }
                (None, Some(password)) => self.can_connect(password, host),
            };
        }
        let password = self.args.password.clone().unwrap_or_default();
        if self.args.encrypted {
            return Ok(digest == password);
        }
        if plugin == "mysql_native_password" || plugin.is_empty() {
            return Ok(digest == native_digest(&password));
        }
        self.can_connect(&password, host)
    }

    fn can_connect(&mut self, password: &str, host: &str) -> Result<bool, ModuleError> {
        if !["localhost", "%", "127.0.0.1"].contains(&host) {
            return Ok(false);
        }
        let file = format!(
            "[client]\nuser=\"{}\"\npassword=\"{}\"\n",
            self.args.name.replace('"', "\\\""),
            password.replace('\\', "\\\\").replace('"', "\\\"")
        );
        let path = self.system.spool("account.cnf", &mut file.as_bytes())?;
        let command = self.server.as_account(&path.to_string_lossy());
        Ok(self.system.query(&command)?.success())
    }

    /// What is set after the account is there.
    fn rest(&mut self, host: &str, row: Option<&[String]>) -> Result<(), ModuleError> {
        let args = self.args;
        let account = account(&args.name, host);
        if let Some(limits) = &args.resource_limits {
            let mut due = Vec::new();
            for (key, limit) in limits.iter() {
                let key = key.to_text().to_uppercase();
                let index = LIMITS.iter().position(|(name, _)| *name == key);
                let index = index.ok_or_else(|| ModuleError::new(format!("{key} is not a limit")))?;
                if row.and_then(|row| row.get(6 + index)) != Some(&limit.to_text()) {
                    due.push(format!(
                        "{key} {}",
                        limit
                            .to_text()
                            .parse::<u64>()
                            .map_err(|_| ModuleError::new(format!("{key} must be a number")))?
                    ));
                }
            }
            if !due.is_empty() {
                let after = map_of([("limits", due.join(" "))]).into();
                self.change(
                    &format!("ALTER USER {account} WITH {}", due.join(" ")),
                    host,
                    Value::Null,
                    after,
                    "Resource limits updated",
                )?;
            }
        }
        self.privileges(host)?;
        if args.locked.is_none() && args.password_expire.is_none() && args.attributes.is_none() {
            return Ok(());
        }
        let shown = self.rows(&format!("SHOW CREATE USER {account};")).unwrap_or_default();
        let shown = shown.into_iter().flatten().next().unwrap_or_default();
        if let Some(wanted) = args.locked.filter(|wanted| *wanted != shown.contains("ACCOUNT LOCK")) {
            let state = |locked: bool| Value::map(map_of([("locked", locked)]));
            let word = if wanted { "LOCK" } else { "UNLOCK" };
            self.change(
                &format!("ALTER USER {account} ACCOUNT {word}"),
                host,
                state(!wanted),
                state(wanted),
                "User locked or unlocked",
            )?;
        }
        if let Some(when) = &args.password_expire {
            let words = match when.as_str() {
                "never" => "PASSWORD EXPIRE NEVER".to_string(),
                "default" => "PASSWORD EXPIRE DEFAULT".into(),
                "interval" => {
                    let days = args.password_expire_interval.filter(|days| *days > 0);
                    let days = days.ok_or_else(|| {
                        ModuleError::new("password_expire_interval must be a number of days above 0")
                    })?;
                    format!("PASSWORD EXPIRE INTERVAL {days} DAY")
                }
                _ => "PASSWORD EXPIRE".into(),
            };
            let known = shown.find("PASSWORD EXPIRE").map_or("PASSWORD EXPIRE DEFAULT", |at| &shown[at..]);
            let same = match when.as_str() {
                "now" => {
                    known.starts_with("PASSWORD EXPIRE")
                        && !["NEVER", "INTERVAL", "DEFAULT"]
                            .iter()
                            .any(|word| known[15..].trim_start().starts_with(word))
                }
                _ => known.starts_with(&words),
            };
            if !same {
                let after = map_of([("expires", words.as_str())]).into();
                self.change(
                    &format!("ALTER USER {account} {words}"),
                    host,
                    Value::Null,
                    after,
                    "Password expiration updated",
                )?;
            }
        }
        if let Some(wanted) = &args.attributes {
            let query = format!(
                "SELECT ATTRIBUTE FROM information_schema.USER_ATTRIBUTES WHERE USER = {} AND HOST = {};",
                literal(&args.name),
                literal(host)
            );
            let known = self.rows(&query)?.into_iter().flatten().next().unwrap_or_default();
            let known: Value = serde_json::from_str(&known).unwrap_or_default();
            let differs = wanted.iter().any(|(key, value)| {
                known.get(&key.to_text()).filter(|known| !known.is_null())
                    != Some(value).filter(|value| !value.is_null())
            });
            if differs {
                let text = args::json_text(&Value::map(wanted.clone()));
                let after = Value::map(wanted.clone());
                self.change(
                    &format!("ALTER USER {account} ATTRIBUTE {}", literal(&text)),
                    host,
                    known,
                    after,
                    "Attributes updated",
                )?;
            }
        }
        Ok(())
    }

    fn privileges(&mut self, host: &str) -> Result<(), ModuleError> {
        let Some(given) = &self.args.r#priv else { return Ok(()) };
        let wanted = wanted(given)?;
        let account = account(&self.args.name, host);
        // An account that was made only on record has no privileges yet.
        let now = granted(
            &self.server.rows(&format!("SHOW GRANTS FOR {account};"), self.system).unwrap_or_default(),
        );
        let (revoke, grant) = differences(self.args, &now, &wanted);
        let shown = |list: &[String]| Value::from(list.to_vec());
        for (on, list) in revoke {
            let (plain, option): (Vec<String>, Vec<String>) =
                list.iter().cloned().partition(|one| one != "GRANT OPTION");
            let mut statement = String::new();
            if !option.is_empty() {
                statement += &format!("REVOKE GRANT OPTION ON {on} FROM {account};\n");
            }
            if !plain.is_empty() {
                statement += &format!("REVOKE {} ON {on} FROM {account}", plain.join(", "));
            }
            let before = map_of([(on.as_str(), shown(&list))]).into();
            self.change(
                statement.trim_end().trim_end_matches(';'),
                host,
                before,
                map_of([(on.as_str(), Value::Null)]).into(),
                "Privileges updated",
            )?;
        }
        for (on, list) in grant {
            let (mut plain, option): (Vec<String>, Vec<String>) =
                list.iter().cloned().partition(|one| one != "GRANT OPTION");
            if plain.is_empty() {
                plain.push("USAGE".into());
            }
            let option = if option.is_empty() { "" } else { " WITH GRANT OPTION" };
            let statement = format!("GRANT {} ON {on} TO {account}{option}", plain.join(", "));
            let after = map_of([(on.as_str(), shown(&list))]).into();
            self.change(
                &statement,
                host,
                map_of([(on.as_str(), Value::Null)]).into(),
                after,
                "Privileges updated",
            )?;
        }
        Ok(())
    }
}

fn account(user: &str, host: &str) -> String {
    format!("{}@{}", literal(user), literal(host))
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    if args.subtract_privs && args.r#priv.is_none() {
        return Err(ModuleError::new("subtract_privs needs priv"));
    }
    if args.host_all
        && args.state == "present"
        && args.r#priv.is_none()
        && args.password.is_none()
        && args.locked.is_none()
    {
        return Err(ModuleError::new("host_all needs something to change"));
    }
    let server = Server::new(&args.connection, system)?;
    let settings = args.session_vars.iter().flat_map(Map::iter);
    let prelude: String = settings
        .map(|(key, given)| format!("SET SESSION {} = {};\n", mysql::name(&key.to_text()), value(given)))
        .collect();
    let mut work = Work { args, server, system, prelude, done: Vec::new(), password_changed: false };
    let query = format!("SELECT host FROM mysql.user WHERE user = {};", literal(&args.name));
    let known: Vec<String> = work.rows(&query)?.into_iter().flatten().collect();
    let host = args.host.to_lowercase();
    let hosts: Vec<String> = if args.host_all { known.clone() } else { vec![host] };
    for host in &hosts {
        let there = known.iter().any(|known| known.eq_ignore_ascii_case(host));
        match (there, args.state.as_str()) {
            (true, "absent") => {
                let statement = format!("DROP USER {}", account(&args.name, host));
                let present = map_of([("state", "present")]).into();
                work.change(&statement, host, present, Value::Null, "User deleted")?;
            }
            (false, "absent") => {}
            (true, _) => work.adapt(host)?,
            (false, _) => {
                // An account of this name elsewhere has its password already.
                if args.update_password == "on_new_username" && !known.is_empty() {
                    let first = known[0].clone();
                    let query = format!(
                        "SELECT plugin, authentication_string FROM mysql.user WHERE user = {} AND host = {};",
                        literal(&args.name),
                        literal(&first)
                    );
                    let row = work.rows(&query)?.into_iter().next().unwrap_or_default();
                    create_like(&mut work, host, &row)?;
                } else {
                    work.create(host)?;
                }
            }
        }
        let state = if args.state == "absent" { Value::Null } else { map_of([("state", "present")]).into() };
        work.system.applied(Applied {
            kind: "mysql_account".into(),
            id: format!("{}@{host}", args.name),
            state,
        });
    }
    let message = match (work.done.is_empty(), args.state.as_str()) {
        (true, "absent") => "User doesn't exist".to_string(),
        (true, _) => "User unchanged".into(),
        _ => work.done.join(", "),
    };
    Ok(Outcome::default()
        .set("user", args.name.as_str())
        .set("msg", message)
        .set("password_changed", work.password_changed))
}

/// An account with the password of another one.
fn create_like(work: &mut Work<'_>, host: &str, row: &[String]) -> Result<(), ModuleError> {
    let [plugin, digest] = row else { return work.create(host) };
    let statement = format!(
        "CREATE USER {} IDENTIFIED WITH {} AS {}",
        account(&work.args.name, host),
        mysql::name(plugin),
        literal(digest)
    );
    work.change(&statement, host, Value::Null, map_of([("state", "present")]).into(), "User added")?;
    work.rest(host, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn privileges_are_read_in_every_form() {
        let grants = |entries: &[(&str, &[&str])]| -> Grants {
            entries
                .iter()
                .map(|(on, list)| (on.to_string(), list.iter().map(ToString::to_string).collect()))
                .collect()
        };
        for (given, expected) in [
            (
                Value::from("a.*:ALL,GRANT/*.*:SELECT"),
                grants(&[("`a`.*", &["ALL PRIVILEGES", "GRANT OPTION"]), ("*.*", &["SELECT"])]),
            ),
            (
                Value::from("a.b:select (y, x),INSERT"),
                grants(&[("`a`.`b`", &["SELECT (`x`, `y`)", "INSERT"])]),
            ),
            (Value::map(map_of([("`a.b`.*", "USAGE")])), grants(&[("`a.b`.*", &[])])),
            (Value::from("*.*:BINLOG MONITOR"), grants(&[("*.*", &["REPLICATION CLIENT"])])),
        ] {
            assert_eq!(wanted(&given).expect("valid"), expected, "{given:?}");
        }
        wanted(&"nothing".into()).expect_err("no colon");
        let lines = [
            "GRANT USAGE ON *.* TO `u`@`h` IDENTIFIED BY PASSWORD '*X'",
            "GRANT SELECT, INSERT (`b`, `a`) ON `d`.* TO `u`@`h` WITH GRANT OPTION",
            "GRANT `role` TO `u`@`h`",
        ];
        let lines: Vec<Vec<String>> = lines.iter().map(|line| vec![line.to_string()]).collect();
        assert_eq!(
            granted(&lines),
            grants(&[("*.*", &[]), ("`d`.*", &["SELECT", "INSERT (`a`, `b`)", "GRANT OPTION"])])
        );
    }

    #[test]
    fn accounts_are_made_and_adapted_once() {
        // The digest of `secret`.
        assert_eq!(native_digest("secret"), "*14E65567ABDB5135D0CFD9A70B3032C179A49EE7");
        let row = format!("mysql_native_password\t{}\t\t\t\t\t0\t0\t0\t5\n", native_digest("secret"));
        for (given, expected) in [
            (vec![("name", "known".into()), ("password", "secret".into())], vec![]),
            (
                vec![("name", "known".into()), ("password", "other".into())],
                vec!["ALTER USER 'known'@'localhost' IDENTIFIED BY 'other'"],
            ),
            (
                vec![
                    ("name", "known".into()),
                    ("password", "other".into()),
                    ("update_password", "on_create".into()),
                ],
                vec![],
            ),
            (
                vec![("name", "known".into()), ("priv", "d.*:SELECT,INSERT".into())],
                vec![
                    "REVOKE UPDATE ON `d`.* FROM 'known'@'localhost'",
                    "GRANT INSERT ON `d`.* TO 'known'@'localhost'",
                ],
            ),
            (
                vec![("name", "known".into()), ("priv", "e.*:ALL".into()), ("append_privs", true.into())],
                vec!["GRANT ALL PRIVILEGES ON `e`.* TO 'known'@'localhost'"],
            ),
            (
                vec![
                    ("name", "known".into()),
                    ("priv", "d.*:UPDATE,DELETE".into()),
                    ("subtract_privs", true.into()),
                ],
                vec!["REVOKE UPDATE ON `d`.* FROM 'known'@'localhost'"],
            ),
            (
                vec![
                    ("name", "known".into()),
                    ("resource_limits", Value::map(map_of([("MAX_USER_CONNECTIONS", 5)]))),
                ],
                vec![],
            ),
            (
                vec![("name", "known".into()), ("tls_requires", Value::map(map_of([("SSL", Value::Null)])))],
                vec!["ALTER USER 'known'@'localhost' REQUIRE SSL"],
            ),
            (
                vec![("name", "known".into()), ("locked", true.into())],
                vec!["ALTER USER 'known'@'localhost' ACCOUNT LOCK"],
            ),
            (
                vec![
                    ("name", "new".into()),
                    ("host", "%".into()),
                    ("password", "it's".into()),
                    ("priv", "d.*:ALL,GRANT".into()),
                ],
                vec![
                    "CREATE USER 'new'@'%' IDENTIFIED BY 'it''s'",
                    "GRANT ALL PRIVILEGES ON `d`.* TO 'new'@'%' WITH GRANT OPTION",
                ],
            ),
            (
                vec![("name", "known".into()), ("state", "absent".into())],
                vec!["DROP USER 'known'@'localhost'"],
            ),
            (vec![("name", "known".into()), ("state", "absent".into()), ("host", "other".into())], vec![]),
        ] {
            let row = row.clone();
            let said = std::sync::Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
            let heard = said.clone();
            let mut fake =
                Fake::new().with_program("/usr/bin/mysql").with_behaviour(&["mysql"], move |_, command| {
                    let text =
                        String::from_utf8_lossy(command.stdin.as_deref().unwrap_or_default()).into_owned();
                    assert!(!command.line().contains("secret"));
                    let reads = ["SELECT ", "SHOW "].iter().any(|word| text.starts_with(word));
                    if !reads {
                        heard
                            .lock()
                            .expect("not poisoned")
                            .push(text.trim().trim_end_matches(';').to_string());
                    }
                    Output::ok(match &text {
                        text if text.starts_with("SELECT host") && text.contains("'known'") => "localhost\n",
                        text if text.starts_with("SELECT plugin") => &row,
                        text if text.starts_with("SHOW GRANTS") && text.contains("known") => {
                            "GRANT SELECT, UPDATE ON `d`.* TO `known`@`localhost`\n"
                        }
                        _ => "",
                    })
                });
            let outcome = call(&MODULE, &map_of(given.clone()).into(), &mut fake).expect("it works");
            assert_eq!(*said.lock().expect("not poisoned"), expected, "{given:?}");
            assert_eq!(fake.changes().len(), expected.len(), "{given:?} {outcome:?}");
        }
    }
}
