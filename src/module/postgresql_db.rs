//! `postgresql_db`: databases of PostgreSQL.

use serde::Deserialize;

use crate::module::postgresql::{self, Connection, Database, literal, name};
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Effect, FileKind, Intent, System};
use crate::value::{Value, map_of};

/// Makes, removes, saves and restores databases.
pub const MODULE: Module = Module {
    name: "community.postgresql.postgresql_db",
    summary: "Make, remove, rename, save or restore a database of PostgreSQL",
    description: "Through the host's psql, pg_dump and pg_restore: nothing else needs to be installed. Owner, connection \
        limit, tablespace and comment of a database that is there are changed; its encoding and locale can't be.",
    example: "- community.postgresql.postgresql_db:\n    name: shop\n    encoding: UTF-8\n    owner: shop\n  become: true\n  become_user: postgres\n",
    scope: Scope::World,
    params: &[
        Param::new("name", Type::Str, "The database.").aliases(&["db"]).required(),
        Param::new("state", Type::Str, "Whether it should be there; `dump` saves it, `restore` fills it, `rename` gives it the name in `target`.").choices(&["absent", "dump", "present", "rename", "restore"]).default("present"),
        Param::new("owner", Type::Str, "Its owner.").default("''"),
        Param::new("template", Type::Str, "The database that it is copied from.").default("''"),
        Param::new("encoding", Type::Str, "Its encoding.").default("''"),
        Param::new("lc_collate", Type::Str, "Order of texts.").default("''"),
        Param::new("lc_ctype", Type::Str, "Kinds of characters.").default("''"),
        Param::new("icu_locale", Type::Str, "Locale of ICU.").default("''"),
        Param::new("locale_provider", Type::Str, "Where its locale comes from.").default("''"),
        Param::new("conn_limit", Type::Str, "Most connections.").default("''"),
        Param::new("tablespace", Type::Path, "Where it is.").default("''"),
        Param::new("comment", Type::Str, "Comment."),
        Param::new("target", Type::Path, "File to save to or to restore from; the new name for `rename`.").default("''"),
        Param::new("target_opts", Type::Str, "Further options for pg_dump, pg_restore or psql.").default("''"),
        Param::new("dump_extra_args", Type::Str, "Further options for pg_dump."),
        Param::new("maintenance_db", Type::Str, "The database to connect to.").default("postgres"),
        Param::new("force", Type::Bool, "End its connections before it is removed.").default("false"),
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
    returns: &[("executed_commands", "What was run."), ("db", "The database.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    state: String,
    owner: String,
    template: String,
    encoding: String,
    lc_collate: String,
    lc_ctype: String,
    icu_locale: String,
    locale_provider: String,
    conn_limit: String,
    tablespace: String,
    comment: Option<String>,
    target: String,
    target_opts: String,
    dump_extra_args: Option<String>,
    maintenance_db: String,
    force: bool,
    #[serde(flatten)]
    connection: Connection,
}

struct Work<'a> {
    args: &'a Args,
    server: Database,
    system: &'a mut dyn System,
    executed: Vec<String>,
}

impl Work<'_> {
    fn change(&mut self, statement: String, before: Value, after: Value) -> Result<(), ModuleError> {
        let intent = Intent {
            kind: "postgresql_database",
            id: self.args.name.clone(),
            before,
            after,
            effects: vec![Effect::Anything],
            ..Intent::default()
        };
        self.server.change(&format!("{statement};"), intent, self.system)?;
        self.executed.push(statement);
        Ok(())
    }

    fn change_one(
        &mut self,
        statement: String,
        property: &str,
        before: &str,
        after: &str,
    ) -> Result<(), ModuleError> {
        self.change(statement, map_of([(property, before)]).into(), map_of([(property, after)]).into())
    }

    /// Owner, encoding, collation, character type, limit, tablespace, comment.
    fn look(&mut self, database: &str) -> Result<Option<Vec<String>>, ModuleError> {
        let rows = self.server.rows(
            &format!(
                "SELECT pg_catalog.pg_get_userbyid(d.datdba), pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, \
                 d.datconnlimit, t.spcname, coalesce(pg_catalog.shobj_description(d.oid, 'pg_database'), '') \
                 FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = {};",
                literal(database)
            ),
            self.system,
        );
        match rows {
            Ok(rows) => Ok(rows.into_iter().next()),
            // The server may come with a package that an earlier step would install.
            Err(_) if self.system.uncertain().is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&mut self) -> Result<(), ModuleError> {
        let args = self.args;
        let mut statement = format!("CREATE DATABASE {}", name(&args.name));
        let mut add = |given: &str, words: String| {
            if !given.is_empty() {
                statement.push(' ');
                statement.push_str(&words);
            }
        };
        add(&args.owner, format!("OWNER {}", name(&args.owner)));
        add(&args.template, format!("TEMPLATE {}", name(&args.template)));
        add(&args.encoding, format!("ENCODING {}", literal(&args.encoding)));
        add(&args.lc_collate, format!("LC_COLLATE {}", literal(&args.lc_collate)));
        add(&args.lc_ctype, format!("LC_CTYPE {}", literal(&args.lc_ctype)));
        add(&args.locale_provider, format!("LOCALE_PROVIDER {}", literal(&args.locale_provider)));
        add(&args.icu_locale, format!("ICU_LOCALE {}", literal(&args.icu_locale)));
        add(&args.tablespace, format!("TABLESPACE {}", name(&args.tablespace)));
        if !args.conn_limit.is_empty() {
            add(&args.conn_limit, format!("CONNECTION LIMIT {}", limit(&args.conn_limit)?));
        }
        let after = map_of([("state", "present"), ("owner", args.owner.as_str())]).into();
        self.change(statement, Value::Null, after)?;
        if let Some(comment) = args.comment.as_ref().filter(|comment| !comment.is_empty()) {
            self.change_one(self.comment(comment), "comment", "", comment)?;
        }
        Ok(())
    }

    fn comment(&self, comment: &str) -> String {
        format!("COMMENT ON DATABASE {} IS {}", name(&self.args.name), literal(comment))
    }

    fn adapt(&mut self, now: &[String]) -> Result<(), ModuleError> {
        let args = self.args;
        let [owner, encoding, collate, kind, connections, tablespace, comment] = now else {
            return Err(ModuleError::new("the server's answer can't be read"));
        };
        let plain = |encoding: &str| encoding.to_uppercase().replace(['-', '_'], "");
        for (what, wanted, is, same) in [
            ("encoding", &args.encoding, encoding, plain(&args.encoding) == plain(encoding)),
            ("LC_COLLATE", &args.lc_collate, collate, args.lc_collate == *collate),
            ("LC_CTYPE", &args.lc_ctype, kind, args.lc_ctype == *kind),
        ] {
            if !wanted.is_empty() && !same {
                return Err(ModuleError::new(format!(
                    "Changing {what} is not supported. Current {what}: {is}"
                )));
            }
        }
        let database = name(&args.name);
        if !args.owner.is_empty() && args.owner != *owner {
            self.change_one(
                format!("ALTER DATABASE {database} OWNER TO {}", name(&args.owner)),
                "owner",
                owner,
                &args.owner,
            )?;
        }
        if !args.conn_limit.is_empty() && limit(&args.conn_limit)? != *connections {
            let wanted = limit(&args.conn_limit)?;
            self.change_one(
                format!("ALTER DATABASE {database} CONNECTION LIMIT {wanted}"),
                "conn_limit",
                connections,
                &wanted,
            )?;
        }
        if !args.tablespace.is_empty() && args.tablespace != *tablespace {
            let statement = format!("ALTER DATABASE {database} SET TABLESPACE {}", name(&args.tablespace));
            self.change_one(statement, "tablespace", tablespace, &args.tablespace)?;
        }
        if let Some(wanted) = args.comment.as_ref().filter(|wanted| *wanted != comment) {
            self.change_one(self.comment(wanted), "comment", comment, wanted)?;
        }
        Ok(())
    }

    fn remove(&mut self) -> Result<(), ModuleError> {
        let database = name(&self.args.name);
        let mut statement = format!("DROP DATABASE {database}");
        if self.args.force {
            if self.server.version(self.system)? >= 130_000 {
                statement += " WITH (FORCE)";
            } else {
                let end = format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}",
                    literal(&self.args.name)
                );
                self.change(end, Value::Null, Value::Null)?;
            }
        }
        self.change(statement, postgresql_state(), Value::Null)
    }

    fn rename(&mut self) -> Result<(), ModuleError> {
        let (old, new) = (&self.args.name, &self.args.target);
        if new.is_empty() {
            return Err(ModuleError::new(
                "the \"target\" option must be defined when the \"rename\" option is used.",
            ));
        }
        match (self.look(old)?.is_some(), self.look(new)?.is_some()) {
            (true, true) => Err(ModuleError::new(format!(
                "both the source database \"{old}\" and the target database \"{new}\" exist"
            ))),
            (false, false) => Err(ModuleError::new(format!(
                "the source and the target databases do not exist: \"{old}\", \"{new}\""
            ))),
            (false, true) => Ok(()),
            (true, false) => {
                let statement = format!("ALTER DATABASE {} RENAME TO {}", name(old), name(new));
                self.change_one(statement, "name", old, new)
            }
        }
    }
}

fn postgresql_state() -> Value {
    map_of([("state", "present")]).into()
}

fn limit(text: &str) -> Result<String, ModuleError> {
    text.trim()
        .parse::<i64>()
        .map(|number| number.to_string())
        .map_err(|_| ModuleError::new(format!("conn_limit must be a number, not '{text}'")))
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    if ["dump", "restore"].contains(&args.state.as_str()) {
        return transfer(args, system);
    }
    let server = Database::new(&args.connection, &args.maintenance_db, system)?;
    let mut work = Work { args, server, system, executed: Vec::new() };
    if args.state == "rename" {
        work.rename()?;
    } else {
        match (work.look(&args.name)?, args.state.as_str()) {
            (Some(_), "absent") => work.remove()?,
            (None, "absent") => {}
            (Some(now), _) => work.adapt(&now)?,
            (None, _) => work.create()?,
        }
    }
    let state =
        if args.state == "absent" { Value::Null } else { map_of([("owner", args.owner.as_str())]).into() };
    work.system.applied(Applied { kind: "postgresql_database".into(), id: args.name.clone(), state });
    Ok(Outcome::default().set("db", args.name.as_str()).set("executed_commands", work.executed))
}

/// The program that packs or unpacks a file of this name.
fn packer(target: &str) -> Option<&'static str> {
    [(".gz", "gzip"), (".bz2", "bzip2"), (".xz", "xz")]
        .iter()
        .find(|(ending, _)| target.ends_with(ending))
        .map(|(_, program)| *program)
}

/// Saves or restores. A packed file goes through a shell that has the names as arguments.
fn transfer(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let dump = args.state == "dump";
    let target = if args.target.is_empty() { format!("/tmp/{}.sql", args.name) } else { args.target.clone() };
    let path = args::expand_path(&target, system)?;
    let target = path.to_string_lossy().into_owned();
    let database = Database::new(&args.connection, &args.name, system)?;
    let custom = [".tar", ".pgc", ".dir"].iter().any(|ending| {
        target.trim_end_matches(".gz").trim_end_matches(".bz2").trim_end_matches(".xz").ends_with(ending)
    });
    let program = host::need_program(
        if dump {
            "pg_dump"
        } else if custom {
            "pg_restore"
        } else {
            "psql"
        },
        system,
    )?;
    let mut words = vec![program];
    words.extend(host::split_words(&args.target_opts).map_err(ModuleError::new)?);
    if dump {
        words.push("--create".into());
        words.extend(["tar:t", "pgc:c", "dir:d"].iter().filter_map(|pair| {
            let (ending, format) = pair.split_once(':')?;
            target.contains(&format!(".{ending}")).then(|| format!("--format={format}"))
        }));
        if target.ends_with(".dir") {
            words.push(format!("--file={target}"));
        }
        words.extend(
            host::split_words(args.dump_extra_args.as_deref().unwrap_or_default())
                .map_err(ModuleError::new)?,
        );
    } else if custom {
        words.extend([format!("--dbname={}", args.name), "--exit-on-error".into()]);
        if target.ends_with(".tar") {
            words.push("--format=tar".into());
        }
        if target.ends_with(".dir") {
            words.push(target.clone());
        }
    } else {
        words.extend(["--no-psqlrc".to_string(), "--quiet".into(), "--set=ON_ERROR_STOP=1".into()]);
    }
    if !dump && !host::exists(&path, system)? && system.uncertain().is_none() {
        return Err(ModuleError::new(format!("{target} does not exist")));
    }
    // The names are arguments of the shell, which therefore does not read them.
    let script = match (dump, packer(&target), target.ends_with(".dir")) {
        (_, _, true) => "shift 2; exec \"$@\"".to_string(),
        (true, Some(pack), _) => {
            format!("set -o pipefail 2>/dev/null; out=$1; shift 2; \"$@\" | {pack} > \"$out\"")
        }
        (true, None, _) => "out=$1; shift 2; exec \"$@\" > \"$out\"".to_string(),
        (false, Some(pack), _) => {
            format!("set -o pipefail 2>/dev/null; in=$1; shift 2; {pack} -dc \"$in\" | \"$@\"")
        }
        (false, None, _) => "in=$1; shift 2; exec \"$@\" < \"$in\"".to_string(),
    };
    let shell =
        host::find_program("bash", system)?.map_or("sh".into(), |path| path.to_string_lossy().into_owned());
    let shown = words.join(" ");
    let argv =
        [shell, "-c".into(), script, "sh".into(), target.clone(), "--".into()].into_iter().chain(words);
    let mut command = Command::new(argv);
    command.env.extend(database.environment().iter().cloned());
    let intent = Intent {
        kind: if dump { "file" } else { "postgresql_database" },
        id: if dump { target.clone() } else { args.name.clone() },
        after: map_of([("state", args.state.as_str())]).into(),
        effects: if dump { vec![Effect::Path(path, FileKind::File)] } else { vec![Effect::Anything] },
        ..Intent::default()
    };
    let output =
        host::act(&format!("{} of database {} failed", args.state, args.name), &command, intent, system)?;
    let mut outcome =
        Outcome::default().set("db", args.name.as_str()).set("executed_commands", vec![shown.as_str()]);
    outcome = outcome
        .set("cmd", shown)
        .set("rc", 0)
        .set("msg", output.map(|output| output.stdout_text()).unwrap_or_default());
    Ok(Outcome { changed: Some(true), ..outcome })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn databases_are_made_and_adapted_once() {
        let row = "me\u{1f}UTF8\u{1f}C\u{1f}C\u{1f}-1\u{1f}pg_default\u{1f}\u{1e}";
        for (given, expected) in [
            (vec![("name", "known")], Ok(vec![])),
            (
                vec![("name", "known"), ("owner", "me"), ("encoding", "utf-8"), ("conn_limit", "-1")],
                Ok(vec![]),
            ),
            (
                vec![("name", "known"), ("owner", "you")],
                Ok(vec!["ALTER DATABASE \"known\" OWNER TO \"you\""]),
            ),
            (
                vec![("name", "known"), ("encoding", "LATIN1")],
                Err("Changing encoding is not supported. Current encoding: UTF8"),
            ),
            (
                vec![("name", "new\"x"), ("owner", "o"), ("template", "template0"), ("comment", "it's")],
                Ok(vec![
                    "CREATE DATABASE \"new\"\"x\" OWNER \"o\" TEMPLATE \"template0\"",
                    "COMMENT ON DATABASE \"new\"\"x\" IS 'it''s'",
                ]),
            ),
            (
                vec![("name", "known"), ("state", "absent"), ("force", "yes")],
                Ok(vec!["DROP DATABASE \"known\" WITH (FORCE)"]),
            ),
            (vec![("name", "new"), ("state", "absent")], Ok(vec![])),
            (
                vec![("name", "known"), ("state", "rename"), ("target", "new")],
                Ok(vec!["ALTER DATABASE \"known\" RENAME TO \"new\""]),
            ),
            (vec![("name", "new"), ("state", "rename"), ("target", "known")], Ok(vec![])),
        ] {
            let mut fake =
                Fake::new().with_program("/usr/bin/psql").with_behaviour(&["psql"], move |_, command| {
                    let text =
                        String::from_utf8_lossy(command.stdin.as_deref().unwrap_or_default()).into_owned();
                    assert!(!command.line().contains("secret"));
                    if text.contains("server_version_num") {
                        return Output::ok("150000\u{1e}");
                    }
                    Output::ok(if text.contains("datname = 'known'") { row } else { "" })
                });
            let given = map_of(given.into_iter().chain([("login_password", "secret")]));
            let outcome = call(&MODULE, &given.clone().into(), &mut fake);
            let executed =
                outcome.map(|outcome| outcome.values.get("executed_commands").cloned().unwrap_or_default());
            assert_eq!(
                executed,
                expected.map(|lines: Vec<&str>| lines.into()).map_err(String::from),
                "{given:?}"
            );
        }
    }
}
