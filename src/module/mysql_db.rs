//! `mysql_db`: databases of MySQL and MariaDB.

use serde::Deserialize;

use crate::module::mysql::{self, Connection, Server, failure, literal, name};
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Done, Effect, FileKind, Intent, System};
use crate::value::{Value, map_of};

/// Makes, removes, saves and fills databases.
pub const MODULE: Module = Module {
    name: "community.mysql.mysql_db",
    summary: "Make, remove, save or fill a database of MySQL or MariaDB",
    description: "Through the host's mysql and mysqldump: nothing else needs to be installed. The encoding of a database \
        that is there is changed if another is asked for.",
    example: "- community.mysql.mysql_db:\n    name: shop\n    encoding: utf8mb4\n    login_unix_socket: /run/mysqld/mysqld.sock\n",
    scope: Scope::World,
    params: &[
        Param::new("name", Type::List, "The databases; `all` with `dump` and `import`.")
            .aliases(&["db"])
            .required(),
        Param::new(
            "state",
            Type::Str,
            "Whether they should be there; `dump` saves them, `import` runs a file of statements.",
        )
        .choices(&["absent", "dump", "import", "present"])
        .default("present"),
        Param::new("encoding", Type::Str, "Encoding.").default("''"),
        Param::new("collation", Type::Str, "Order of texts.").default("''"),
        Param::new(
            "target",
            Type::Path,
            "File to save to or to run; packed if its name ends in .gz, .bz2, .xz or .zst.",
        ),
        Param::new("chdir", Type::Path, "Directory to run in."),
        Param::new("single_transaction", Type::Bool, "Save in one transaction.").default("false"),
        Param::new("quick", Type::Bool, "Save row by row.").default("true"),
        Param::new("ignore_tables", Type::List, "Tables that are not saved, as `database.table`.")
            .default("[]"),
        Param::new("hex_blob", Type::Bool, "Save binary columns in hexadecimal.").default("false"),
        Param::new("force", Type::Bool, "Go on after errors.").default("false"),
        Param::new("master_data", Type::Int, "Save the position in the log too.").default("0"),
        Param::new("skip_lock_tables", Type::Bool, "Do not lock tables.").default("false"),
        Param::new("dump_extra_args", Type::Str, "Further options for mysqldump."),
        Param::new("use_shell", Type::Bool, "Has no effect: a shell is used where files are packed.")
            .default("false"),
        Param::new(
            "unsafe_login_password",
            Type::Bool,
            "Has no effect: passwords are never on a command line.",
        )
        .default("false")
        .secret(),
        Param::new(
            "restrict_config_file",
            Type::Bool,
            "Has no effect: the client reads its own settings too.",
        )
        .default("false"),
        Param::new(
            "config_overrides_defaults",
            Type::Bool,
            "Has no effect: what the task gives counts most.",
        )
        .default("false"),
        Param::new("pipefail", Type::Bool, "Has no effect: a failure before a pipe is always noticed.")
            .default("false"),
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
    returns: &[
        ("db", "The databases, joined by blanks."),
        ("db_list", "The databases."),
        ("executed_commands", "What was run."),
        ("msg", "What mysqldump or mysql said."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    #[serde(deserialize_with = "host::texts")]
    name: Vec<String>,
    state: String,
    encoding: String,
    collation: String,
    target: Option<String>,
    chdir: Option<String>,
    single_transaction: bool,
    quick: bool,
    #[serde(deserialize_with = "host::texts")]
    ignore_tables: Vec<String>,
    hex_blob: bool,
    force: bool,
    master_data: i64,
    skip_lock_tables: bool,
    dump_extra_args: Option<String>,
    #[serde(flatten)]
    connection: Connection,
}

/// A statement and the change that it makes.
struct Step {
    statement: String,
    database: String,
    before: Value,
    after: Value,
}

/// What there is: name, encoding and collation.
fn known(args: &Args, server: &Server, system: &mut dyn System) -> Result<Vec<Vec<String>>, ModuleError> {
    let names: Vec<String> = args.name.iter().map(|name| literal(name)).collect();
    let query = format!(
        "SELECT SCHEMA_NAME, DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME IN ({});",
        names.join(", ")
    );
    match server.rows(&query, system) {
        Err(_) if system.uncertain().is_some() => Ok(Vec::new()),
        other => other,
    }
}

fn plan(args: &Args, known: &[Vec<String>]) -> Vec<Step> {
    let mut steps = Vec::new();
    for database in &args.name {
        let now = known.iter().find(|row| row[0] == *database);
        let mut options = String::new();
        let field = |index: usize| now.and_then(|row| row.get(index)).map(String::as_str).unwrap_or_default();
        let encoding = !args.encoding.is_empty() && field(1) != args.encoding;
        let collation = !args.collation.is_empty() && field(2) != args.collation;
        if encoding || (collation && !args.encoding.is_empty()) {
            options += &format!(" CHARACTER SET {}", literal(&args.encoding));
        }
        if collation {
            options += &format!(" COLLATE {}", literal(&args.collation));
        }
        let state = |encoding: &str, collation: &str| {
            Value::map(map_of([("encoding", encoding), ("collation", collation)]))
        };
        let quoted = name(database);
        let step = |statement: String, before: Value, after: Value| Step {
            statement,
            database: database.clone(),
            before,
            after,
        };
        match (now, args.state.as_str()) {
            (None, "present") => steps.push(step(
                format!("CREATE DATABASE {quoted}{options}"),
                Value::Null,
                state(&args.encoding, &args.collation),
            )),
            (Some(_), "present") if encoding || collation => {
                let after = state(
                    if encoding { &args.encoding } else { field(1) },
                    if collation { &args.collation } else { field(2) },
                );
                steps.push(step(
                    format!("ALTER DATABASE {quoted}{options}"),
                    state(field(1), field(2)),
                    after,
                ));
            }
            (Some(_), "absent") => {
                steps.push(step(format!("DROP DATABASE {quoted}"), state(field(1), field(2)), Value::Null))
            }
            _ => {}
        }
    }
    steps
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let server = Server::new(&args.connection, system)?;
    let outcome = Outcome::default().set("db", args.name.join(" ")).set("db_list", args.name.clone());
    let all = args.name.len() == 1 && args.name[0] == "all";
    match args.state.as_str() {
        "dump" | "import" => return transfer(args, &server, all, outcome, system),
        state if all => {
            return Err(ModuleError::new(format!("name=all is not supported with state={state}")));
        }
        _ => {}
    }
    let mut executed = Vec::new();
    for step in plan(args, &known(args, &server, system)?) {
        let intent = Intent {
            kind: "mysql_database",
            id: step.database,
            before: step.before,
            after: step.after,
            effects: vec![Effect::Anything],
            ..Intent::default()
        };
        server.change(&format!("{};", step.statement), intent, system)?;
        executed.push(step.statement);
    }
    for database in &args.name {
        let state = if args.state == "absent" {
            Value::Null
        } else {
            map_of([("encoding", args.encoding.as_str())]).into()
        };
        system.applied(Applied { kind: "mysql_database".into(), id: database.clone(), state });
    }
    Ok(outcome.set("executed_commands", executed))
}

fn packer(target: &str) -> Option<&'static str> {
    let known = [(".gz", "gzip"), (".bz2", "bzip2"), (".xz", "xz"), (".zst", "zstd")];
    known.iter().find(|(ending, _)| target.ends_with(ending)).map(|(_, program)| *program)
}

/// Saves or runs a file. A packed one goes through a shell that has the names as arguments.
fn transfer(
    args: &Args,
    server: &Server,
    all: bool,
    outcome: Outcome,
    system: &mut dyn System,
) -> Result<Outcome, ModuleError> {
    let dump = args.state == "dump";
    let target = args
        .target
        .as_ref()
        .ok_or_else(|| ModuleError::new(format!("with state={} target is required", args.state)))?;
    let path = args::expand_path(target, system)?;
    let cwd = args.chdir.as_ref().map(|path| args::expand_path(path, system)).transpose()?;
    let full = cwd.as_ref().map_or_else(|| path.clone(), |cwd| cwd.join(&path));
    let missing = |system: &dyn System, message: String| {
        if system.uncertain().is_some() { Ok(()) } else { Err(ModuleError::new(message)) }
    };
    if dump && !all {
        let known = known(args, server, system)?;
        if let Some(name) = args.name.iter().find(|name| !known.iter().any(|row| row[0] == **name)) {
            missing(system, format!("Cannot dump database(s) {name} - not found"))?;
        }
    }
    if !dump && !host::exists(&full, system)? {
        missing(system, format!("target {} does not exist on the host", full.display()))?;
    }
    let named = |old: &str, new: &str, system: &mut dyn System| match host::find_program(old, system)? {
        Some(path) => Ok(path.to_string_lossy().into_owned()),
        None => host::need_program(new, system),
    };
    let program =
        if dump { named("mysqldump", "mariadb-dump", system)? } else { named("mysql", "mariadb", system)? };
    let mut words = vec![program, server.option()];
    let mut flag = |given: bool, text: String| words.extend(given.then_some(text));
    if dump {
        flag(all, "--all-databases".into());
        flag(args.skip_lock_tables, "--skip-lock-tables".into());
        flag(args.single_transaction, "--single-transaction=true".into());
        flag(args.quick, "--quick".into());
        flag(args.hex_blob, "--hex-blob".into());
        flag(args.force, "--force".into());
        flag(args.master_data != 0, format!("--master-data={}", args.master_data));
        for table in &args.ignore_tables {
            flag(true, format!("--ignore-table={table}"));
        }
        for word in host::split_words(args.dump_extra_args.as_deref().unwrap_or_default())
            .map_err(ModuleError::new)?
        {
            flag(true, word);
        }
        flag(!all, "--databases".into());
        if args.name.len() == 1 && !all {
            words.pop();
        }
        words.extend(args.name.iter().filter(|_| !all).cloned());
    } else {
        flag(args.force, "--force".into());
        if !args.encoding.is_empty() {
            words.push(format!("--default-character-set={}", args.encoding));
        }
        if let (false, [one]) = (all, args.name.as_slice()) {
            create_if_missing(args, server, system)?;
            words.push("--one-database".into());
            words.push(one.clone());
        }
    }
    let shown = words.join(" ");
    // The names are arguments of the shell, which therefore does not read them.
    let script = match (dump, packer(target)) {
        (true, Some(pack)) => {
            format!("set -o pipefail 2>/dev/null; file=$1; shift; \"$@\" | {pack} > \"$file\"")
        }
        (true, None) => "file=$1; shift; exec \"$@\" > \"$file\"".into(),
        (false, Some(pack)) => {
            format!("set -o pipefail 2>/dev/null; file=$1; shift; {pack} -dc \"$file\" | \"$@\"")
        }
        (false, None) => "file=$1; shift; exec \"$@\" < \"$file\"".into(),
    };
    let shell =
        host::find_program("bash", system)?.map_or("sh".into(), |path| path.to_string_lossy().into_owned());
    let target = path.to_string_lossy().into_owned();
    let argv = [shell, "-c".into(), script, "sh".into(), target].into_iter().chain(words);
    let command = Command { cwd, ..Command::new(argv) };
    let intent = Intent {
        kind: if dump { "file" } else { "mysql_database" },
        id: if dump { full.to_string_lossy().into_owned() } else { args.name.join(" ") },
        after: map_of([("state", args.state.as_str())]).into(),
        effects: if dump { vec![Effect::Path(full, FileKind::File)] } else { vec![Effect::Anything] },
        ..Intent::default()
    };
    let said = match system.change(&command, intent)? {
        Done::Made(output) if !output.success() => return Err(failure(&output)),
        done => done.output().stderr_text(),
    };
    let outcome = outcome.set("executed_commands", vec![shown]).set("msg", said);
    Ok(Outcome { changed: Some(true), ..outcome })
}

fn create_if_missing(args: &Args, server: &Server, system: &mut dyn System) -> Result<(), ModuleError> {
    let known = known(args, server, system)?;
    let present = Args {
        name: args.name.clone(),
        state: "present".into(),
        encoding: args.encoding.clone(),
        collation: args.collation.clone(),
        ..Args::default()
    };
    if known.is_empty() {
        for step in plan(&present, &known) {
            let intent = Intent {
                kind: "mysql_database",
                id: step.database,
                after: step.after,
                effects: vec![Effect::Anything],
                ..Intent::default()
            };
            server.change(&format!("{};", step.statement), intent, system)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn databases_are_made_once() {
        for (given, expected) in [
            (vec![("name", "known")], Ok(vec![])),
            (vec![("name", "known"), ("encoding", "utf8mb4")], Ok(vec![])),
            (
                vec![("name", "known"), ("encoding", "latin1")],
                Ok(vec!["ALTER DATABASE `known` CHARACTER SET 'latin1'"]),
            ),
            (
                vec![("name", "known,new"), ("collation", "c")],
                Ok(vec!["ALTER DATABASE `known` COLLATE 'c'", "CREATE DATABASE `new` COLLATE 'c'"]),
            ),
            (
                vec![("name", "n`w"), ("encoding", "utf8mb4")],
                Ok(vec!["CREATE DATABASE `n``w` CHARACTER SET 'utf8mb4'"]),
            ),
            (vec![("name", "known"), ("state", "absent")], Ok(vec!["DROP DATABASE `known`"])),
            (vec![("name", "new"), ("state", "absent")], Ok(vec![])),
            (vec![("name", "all"), ("state", "absent")], Err("name=all is not supported with state=absent")),
            (
                vec![("name", "known"), ("state", "import"), ("target", "/gone")],
                Err("target /gone does not exist on the host"),
            ),
            (
                vec![("name", "new"), ("state", "dump"), ("target", "/x")],
                Err("Cannot dump database(s) new - not found"),
            ),
            (
                vec![("name", "known"), ("state", "dump"), ("target", "/x.gz"), ("hex_blob", "yes")],
                Ok(vec![
                    "/usr/bin/mysqldump --defaults-extra-file=/tmp/scratch/client.cnf --quick --hex-blob known",
                ]),
            ),
        ] {
            let mut fake = Fake::new()
                .with_program("/usr/bin/mysql")
                .with_program("/usr/bin/mysqldump")
                .with_command_prefix(&["sh"], Output::ok(""))
                .with_behaviour(&["mysql"], |_, command| {
                    let text =
                        String::from_utf8_lossy(command.stdin.as_deref().unwrap_or_default()).into_owned();
                    Output::ok(if text.contains("SCHEMATA") && text.contains("'known'") {
                        "known\tutf8mb4\tgeneral\n"
                    } else {
                        ""
                    })
                });
            let outcome = call(&MODULE, &map_of(given.clone()).into(), &mut fake);
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
