//! `postgresql_user`: roles of PostgreSQL.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use serde::Deserialize;
use sha2::Sha256;

use crate::module::postgresql::{self, Connection, Database, literal, name};
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, typed};
use crate::system::{Applied, Effect, Intent, System};
use crate::value::{Map, Value, map_of};

/// Adds, changes and removes roles.
pub const MODULE: Module = Module {
    name: "community.postgresql.postgresql_user",
    summary: "Add, change or remove a role of PostgreSQL",
    description: "Through the host's psql. Whether the password is the one that the server knows is found out from its \
        digest (MD5 or SCRAM), so that it is set only if it differs; who can't read digests must use \
        `no_password_changes` or accept a change each time. Passwords are never on a command line and in no diff.",
    example: "- community.postgresql.postgresql_user:\n    name: shop\n    password: '{{ shop_password }}'\n    role_attr_flags: CREATEDB,NOSUPERUSER\n  become: true\n  become_user: postgres\n",
    scope: Scope::World,
    params: &[
        Param::new("name", Type::Str, "The role.").aliases(&["user"]).required(),
        Param::new("password", Type::Str, "Its password, or the digest of it.").secret(),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("login_db", Type::Str, "The database to connect to.").aliases(&["db"]).default("''"),
        Param::new("role_attr_flags", Type::Str, "What it may, such as `CREATEDB,NOSUPERUSER`.")
            .default("''"),
        Param::new("expires", Type::Str, "Until when its password is valid; `infinity` for ever."),
        Param::new("conn_limit", Type::Int, "Most connections."),
        Param::new("comment", Type::Str, "Comment."),
        Param::new("configuration", Type::Dict, "Settings of its sessions.").default("{}"),
        Param::new("reset_unspecified_configuration", Type::Bool, "Other settings are reset.")
            .default("false"),
        Param::new("quote_configuration_values", Type::Bool, "Settings are quoted.").default("true"),
        Param::new("encrypted", Type::Bool, "Has no effect: the server keeps digests alone.").default("true"),
        Param::new(
            "fail_on_user",
            Type::Bool,
            "Fail if it can't be removed because something belongs to it.",
        )
        .aliases(&["fail_on_role"])
        .default("true"),
        Param::new("no_password_changes", Type::Bool, "Leave the password of a role that is there.")
            .default("false"),
        postgresql::CA_CERT,
        postgresql::CONNECT_PARAMS,
        postgresql::LOGIN_HOST,
        postgresql::LOGIN_PASSWORD,
        postgresql::LOGIN_PORT,
        postgresql::LOGIN_UNIX_SOCKET,
        postgresql::LOGIN_USER,
        postgresql::SESSION_ROLE,
        postgresql::SSL_CERT,
        postgresql::SSL_KEY,
        postgresql::SSL_MODE,
        postgresql::TRUST_INPUT,
    ],
    returns: &[("queries", "What was run, without passwords."), ("user", "The role.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    password: Option<String>,
    state: String,
    login_db: String,
    role_attr_flags: String,
    expires: Option<String>,
    conn_limit: Option<i64>,
    comment: Option<String>,
    configuration: Map,
    reset_unspecified_configuration: bool,
    quote_configuration_values: bool,
    fail_on_user: bool,
    no_password_changes: bool,
    #[serde(flatten)]
    connection: Connection,
}

/// What a role may, and the server's column for it.
const FLAGS: [(&str, &str); 7] = [
    ("SUPERUSER", "rolsuper"),
    ("CREATEROLE", "rolcreaterole"),
    ("CREATEDB", "rolcreatedb"),
    ("INHERIT", "rolinherit"),
    ("LOGIN", "rolcanlogin"),
    ("REPLICATION", "rolreplication"),
    ("BYPASSRLS", "rolbypassrls"),
];

/// The flags that are asked for: index in [`FLAGS`] and whether it is set.
fn flags(text: &str) -> Result<Vec<(usize, bool)>, ModuleError> {
    let words = text.split(',').map(|word| word.trim().to_uppercase()).filter(|word| !word.is_empty());
    words
        .map(|word| {
            let (plain, on) = word.strip_prefix("NO").map_or((word.as_str(), true), |plain| (plain, false));
            let index = FLAGS.iter().position(|(flag, _)| *flag == plain);
            index
                .map(|index| (index, on))
                .ok_or_else(|| ModuleError::new(format!("Invalid role_attr_flags specified: {word}")))
        })
        .collect()
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let pad = |byte: u8| block.map(|one| one ^ byte);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

/// PBKDF2 with one block.
fn salted(password: &[u8], salt: &[u8], rounds: u32) -> Vec<u8> {
    let mut last = hmac(password, &[salt, &[0, 0, 0, 1]].concat());
    let mut out = last.clone();
    for _ in 1..rounds {
        last = hmac(password, &last);
        out.iter_mut().zip(&last).for_each(|(one, other)| *one ^= other);
    }
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a digest as the server keeps it is that of a password (or is what was given).
fn is_password(stored: &str, user: &str, given: &str) -> bool {
    if stored == given {
        return true;
    }
    if let Some(digest) = stored.strip_prefix("md5") {
        return hex(&Md5::digest(format!("{given}{user}"))) == digest;
    }
    let scram = || {
        let rest = stored.strip_prefix("SCRAM-SHA-256$")?;
        let (rounds, rest) = rest.split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored_key, _) = keys.split_once(':')?;
        let key = salted(given.as_bytes(), &STANDARD.decode(salt).ok()?, rounds.parse().ok()?);
        Some(STANDARD.encode(Sha256::digest(hmac(&key, b"Client Key"))) == stored_key)
    };
    scram().unwrap_or(false)
}

/// What the server knows of a role.
#[derive(Debug, Default)]
struct Role {
    flags: Vec<bool>,
    limit: i64,
    /// Its password is valid until the time that is asked for.
    expires_as_asked: bool,
    settings: Vec<(String, String)>,
    comment: String,
    /// The digest; `None` if it can't be read.
    password: Option<String>,
}

fn look(args: &Args, database: &Database, system: &mut dyn System) -> Result<Option<Role>, ModuleError> {
    let columns: Vec<String> = FLAGS.iter().map(|(_, column)| format!("r.{column}")).collect();
    let expires = match &args.expires {
        Some(time) => format!("coalesce(r.rolvaliduntil, 'infinity') = {}::timestamptz", literal(time)),
        None => "true".into(),
    };
    let select = |password: &str, table: &str| {
        format!(
            "SELECT {}, r.rolconnlimit, {expires}, coalesce(pg_catalog.shobj_description(r.oid, 'pg_authid'), ''), {password}, \
             coalesce((SELECT pg_catalog.json_agg(c) FROM pg_catalog.unnest(s.setconfig) c)::text, '[]') \
             FROM {table} r LEFT JOIN pg_catalog.pg_db_role_setting s ON s.setrole = r.oid AND s.setdatabase = 0 WHERE r.rolname = {};",
            columns.join(", "),
            literal(&args.name)
        )
    };
    // Digests are for superusers alone.
    let rows = match database.rows(&select("coalesce(r.rolpassword, '')", "pg_catalog.pg_authid"), system) {
        Ok(rows) => rows,
        Err(error) if error.message.contains("permission denied") => {
            database.rows(&select("'?'", "pg_catalog.pg_roles"), system)?
        }
        Err(_) if system.uncertain().is_some() => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(row) = rows.into_iter().next() else { return Ok(None) };
    let count = FLAGS.len();
    let field = |index: usize| row.get(index).cloned().unwrap_or_default();
    let settings: Value = serde_json::from_str(&field(count + 4)).unwrap_or_default();
    let settings = settings.as_list().unwrap_or_default().iter().map(Value::to_text);
    Ok(Some(Role {
        flags: row.iter().take(count).map(|field| field == "t").collect(),
        limit: field(count).parse().unwrap_or(-1),
        expires_as_asked: field(count + 1) == "t",
        comment: field(count + 2),
        password: Some(field(count + 3)).filter(|password| password != "?"),
        settings: settings
            .filter_map(|text| text.split_once('=').map(|(key, value)| (key.to_string(), value.to_string())))
            .collect(),
    }))
}

struct Work<'a> {
    args: &'a Args,
    database: Database,
    system: &'a mut dyn System,
    queries: Vec<String>,
}

impl Work<'_> {
    /// Runs a statement; `shown` is what may be seen of it.
    fn change(
        &mut self,
        statement: &str,
        shown: &str,
        before: Value,
        after: Value,
    ) -> Result<(), ModuleError> {
        let intent = Intent {
            kind: "postgresql_role",
            id: self.args.name.clone(),
            before,
            after,
            effects: vec![Effect::Anything],
            ..Intent::default()
        };
        // A statement with a password must not be in the server's log either, where the role may say so.
        let quiet = if statement == shown {
            ""
        } else {
            "DO $$ BEGIN PERFORM set_config('log_min_error_statement', 'panic', false); \
             EXCEPTION WHEN insufficient_privilege THEN NULL; END $$;\n"
        };
        self.database.change(&format!("{quiet}{statement};"), intent, self.system)?;
        self.queries.push(shown.to_string());
        Ok(())
    }

    fn plain(
        &mut self,
        statement: &str,
        property: &str,
        before: impl Into<Value>,
        after: impl Into<Value>,
    ) -> Result<(), ModuleError> {
        let (before, after) = (map_of([(property, before.into())]), map_of([(property, after.into())]));
        self.change(statement, statement, before.into(), after.into())
    }

    fn create(&mut self, wanted: &[(usize, bool)]) -> Result<(), ModuleError> {
        let args = self.args;
        let mut options = String::new();
        // A user, as opposed to a role, may log in.
        if !wanted.iter().any(|(index, _)| FLAGS[*index].0 == "LOGIN") {
            options += " LOGIN";
        }
        options += &flag_words(wanted);
        if let Some(limit) = args.conn_limit {
            options += &format!(" CONNECTION LIMIT {limit}");
        }
        if let Some(time) = &args.expires {
            options += &format!(" VALID UNTIL {}", literal(time));
        }
        let head = format!("CREATE ROLE {}{options}", name(&args.name));
        let (full, shown) = match args.password.as_deref() {
            None => (head.clone(), head),
            Some("") => (format!("{head} PASSWORD NULL"), format!("{head} PASSWORD NULL")),
            Some(password) => {
                (format!("{head} PASSWORD {}", literal(password)), format!("{head} PASSWORD '********'"))
            }
        };
        self.change(
            &full,
            &shown,
            Value::Null,
            map_of([("state", "present"), ("options", options.trim())]).into(),
        )
    }

    fn adapt(&mut self, now: &Role, wanted: &[(usize, bool)]) -> Result<(), ModuleError> {
        let args = self.args;
        let role = name(&args.name);
        let differing: Vec<(usize, bool)> =
            wanted.iter().copied().filter(|(index, on)| now.flags.get(*index) != Some(on)).collect();
        if !differing.is_empty() {
            let before: Vec<(usize, bool)> = differing.iter().map(|(index, on)| (*index, !on)).collect();
            let statement = format!("ALTER ROLE {role}{}", flag_words(&differing));
            self.plain(&statement, "flags", flag_words(&before).trim(), flag_words(&differing).trim())?;
        }
        if let Some(password) = args.password.as_ref().filter(|_| !args.no_password_changes) {
            let same = match now.password.as_deref() {
                Some("") => password.is_empty(),
                Some(stored) => !password.is_empty() && is_password(stored, &args.name, password),
                None => false,
            };
            if !same {
                let word = if password.is_empty() { "NULL".to_string() } else { literal(password) };
                let shown = format!("ALTER ROLE {role} PASSWORD '********'");
                let hidden = |word: &str| Value::map(map_of([("password", word)]));
                self.change(
                    &format!("ALTER ROLE {role} PASSWORD {word}"),
                    &shown,
                    hidden("old"),
                    hidden("new"),
                )?;
            }
        }
        if let Some(limit) = args.conn_limit.filter(|limit| *limit != now.limit) {
            self.plain(
                &format!("ALTER ROLE {role} CONNECTION LIMIT {limit}"),
                "conn_limit",
                now.limit,
                limit,
            )?;
        }
        if let Some(time) = args.expires.as_ref().filter(|_| !now.expires_as_asked) {
            self.plain(
                &format!("ALTER ROLE {role} VALID UNTIL {}", literal(time)),
                "expires",
                "another",
                time.as_str(),
            )?;
        }
        Ok(())
    }

    fn settings(&mut self, now: &[(String, String)]) -> Result<(), ModuleError> {
        let args = self.args;
        let role = name(&args.name);
        for (key, value) in args.configuration.iter() {
            let (key, value) = (key.to_text(), value.to_text());
            let known = now.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone());
            if known.as_deref() == Some(value.as_str()) {
                continue;
            }
            let written = if args.quote_configuration_values { literal(&value) } else { value.clone() };
            self.plain(
                &format!("ALTER ROLE {role} SET {} TO {written}", postgresql::dotted(&key)),
                &key,
                known,
                value,
            )?;
        }
        if args.reset_unspecified_configuration {
            for (key, value) in now.iter().filter(|(key, _)| !args.configuration.contains_key(key.as_str())) {
                self.plain(
                    &format!("ALTER ROLE {role} RESET {}", postgresql::dotted(key)),
                    key,
                    value.as_str(),
                    Value::Null,
                )?;
            }
        }
        Ok(())
    }
}

fn flag_words(flags: &[(usize, bool)]) -> String {
    flags.iter().map(|(index, on)| format!(" {}{}", if *on { "" } else { "NO" }, FLAGS[*index].0)).collect()
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let wanted = flags(&args.role_attr_flags)?;
    let database = Database::new(
        &args.connection,
        if args.login_db.is_empty() { "postgres" } else { &args.login_db },
        system,
    )?;
    let now = look(args, &database, system)?;
    let mut work = Work { args, database, system, queries: Vec::new() };
    let mut removed = true;
    if args.state == "absent" {
        if now.is_some() {
            let statement = format!("DROP ROLE {}", name(&args.name));
            let present = Value::map(map_of([("state", "present")]));
            match work.change(&statement, &statement, present, Value::Null) {
                Err(error) if !args.fail_on_user && error.message.contains("depend on it") => removed = false,
                other => other?,
            }
        }
    } else {
        match &now {
            None => work.create(&wanted)?,
            Some(now) => work.adapt(now, &wanted)?,
        }
        let known = now.unwrap_or_default();
        work.settings(&known.settings)?;
        if let Some(comment) = args.comment.as_ref().filter(|comment| **comment != known.comment) {
            let statement = format!("COMMENT ON ROLE {} IS {}", name(&args.name), literal(comment));
            work.plain(&statement, "comment", known.comment.as_str(), comment.as_str())?;
        }
    }
    let state = if args.state == "absent" {
        Value::Null
    } else {
        map_of([("flags", args.role_attr_flags.as_str())]).into()
    };
    work.system.applied(Applied { kind: "postgresql_role".into(), id: args.name.clone(), state });
    let outcome = Outcome::default().set("user", args.name.as_str()).set("queries", work.queries);
    Ok(if removed { outcome } else { Outcome { changed: Some(false), ..outcome.set("user_removed", false) } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    const SCRAM: &str = "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$bpSY5Ze9NUH+I35LC3gVq+DpBfK46iXBxvhAKqVu9pE=:VpYlBuxyzeCI1KnctrefdljpB1mk3Gp7sBI/t11+NkQ=";

    #[test]
    fn passwords_are_compared_with_digests() {
        let md5 = format!("md5{}", hex(&Md5::digest("secretme")));
        assert_eq!(hex(&Md5::digest("abc")), "900150983cd24fb0d6963f7d28e17f72");
        for (stored, given, same) in [
            (md5.as_str(), "secret", true),
            (&md5, "other", false),
            (&md5, &md5, true),
            (SCRAM, "secret", true),
            (SCRAM, "other", false),
            ("SCRAM-SHA-256$broken", "secret", false),
        ] {
            assert_eq!(is_password(stored, "me", given), same, "{stored} {given}");
        }
    }

    #[test]
    fn roles_are_made_and_adapted_once() {
        let row = format!(
            "f\u{1f}f\u{1f}t\u{1f}t\u{1f}t\u{1f}f\u{1f}f\u{1f}-1\u{1f}t\u{1f}\u{1f}{SCRAM}\u{1f}[\"work_mem=4MB\"]\n"
        );
        for (given, expected) in [
            (vec![("name", "known".into())], vec![]),
            (
                vec![
                    ("name", "known".into()),
                    ("password", "secret".into()),
                    ("role_attr_flags", "CREATEDB,NOSUPERUSER".into()),
                ],
                vec![],
            ),
            (
                vec![("name", "known".into()), ("password", "other".into())],
                vec!["ALTER ROLE \"known\" PASSWORD '********'"],
            ),
            (
                vec![
                    ("name", "known".into()),
                    ("password", "other".into()),
                    ("no_password_changes", true.into()),
                ],
                vec![],
            ),
            (
                vec![("name", "known".into()), ("role_attr_flags", "SUPERUSER,NOCREATEDB".into())],
                vec!["ALTER ROLE \"known\" SUPERUSER NOCREATEDB"],
            ),
            (
                vec![("name", "known".into()), ("conn_limit", 5.into()), ("comment", "x".into())],
                vec!["ALTER ROLE \"known\" CONNECTION LIMIT 5", "COMMENT ON ROLE \"known\" IS 'x'"],
            ),
            (
                vec![
                    ("name", "known".into()),
                    ("configuration", Value::map(map_of([("a.b", "1")]))),
                    ("reset_unspecified_configuration", true.into()),
                ],
                vec![
                    "ALTER ROLE \"known\" SET \"a\".\"b\" TO '1'",
                    "ALTER ROLE \"known\" RESET \"work_mem\"",
                ],
            ),
            (
                vec![
                    ("name", "new".into()),
                    ("password", "it's".into()),
                    ("role_attr_flags", "NOLOGIN".into()),
                    ("expires", "infinity".into()),
                ],
                vec!["CREATE ROLE \"new\" NOLOGIN VALID UNTIL 'infinity' PASSWORD '********'"],
            ),
            (vec![("name", "known".into()), ("state", "absent".into())], vec!["DROP ROLE \"known\""]),
            (vec![("name", "new".into()), ("state", "absent".into())], vec![]),
        ] {
            let row = row.clone();
            let mut fake =
                Fake::new().with_program("/usr/bin/psql").with_behaviour(&["psql"], move |_, command| {
                    let text =
                        String::from_utf8_lossy(command.stdin.as_deref().unwrap_or_default()).into_owned();
                    assert!(!command.line().contains("secret") && !command.line().contains("it's"));
                    Output::ok(if text.contains("rolname = 'known'") { &row } else { "" })
                });
            let outcome = call(&MODULE, &map_of(given.clone()).into(), &mut fake).expect("it works");
            assert_eq!(outcome.values.get("queries"), Some(&expected.into()), "{given:?}");
        }
        let error =
            call(&MODULE, &map_of([("name", "a"), ("role_attr_flags", "FLY")]).into(), &mut Fake::new());
        assert_eq!(error.expect_err("unknown"), "Invalid role_attr_flags specified: FLY");
    }
}
