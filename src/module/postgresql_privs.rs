//! `postgresql_privs`: what roles of PostgreSQL may do with its objects.

use serde::Deserialize;

use crate::module::postgresql::{self, Connection, Database, dotted, literal, name, rows};
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, typed};
use crate::system::{Applied, Effect, Intent, System};
use crate::value::{Value, map_of};

/// Grants and revokes privileges.
pub const MODULE: Module = Module {
    name: "community.postgresql.postgresql_privs",
    summary: "Grant privileges on objects of PostgreSQL to roles, or revoke them",
    description: "Through the host's psql. Whether granting would change anything is found out by granting in a \
        transaction that is taken back, and comparing the objects' lists of privileges before and after.",
    example: "- community.postgresql.postgresql_privs:\n    login_db: shop\n    roles: reader\n    privs: SELECT\n    type: table\n    objs: ALL_IN_SCHEMA\n    schema: public\n  become: true\n  become_user: postgres\n",
    scope: Scope::World,
    params: &[
        Param::new("login_db", Type::Str, "The database.").aliases(&["db", "database"]).required(),
        Param::new("state", Type::Str, "Granted or revoked.").choices(&["absent", "present"]).default("present"),
        Param::new("privs", Type::Str, "Privileges, joined by commas; `ALL` for all.").aliases(&["priv"]),
        Param::new("type", Type::Str, "Kind of objects.").choices(&["database", "default_privs", "foreign_data_wrapper", "foreign_server", "function", "group", "language", "table", "tablespace", "schema", "sequence", "type", "procedure", "parameter"]).default("table"),
        Param::new("objs", Type::Str, "Objects, joined by commas; `ALL_IN_SCHEMA` for all of a schema; `ALL_DEFAULT` for kinds of later ones.").aliases(&["obj"]),
        Param::new("schema", Type::Str, "Schema of the objects."),
        Param::new("roles", Type::Str, "Roles, joined by commas; `PUBLIC` for all.").aliases(&["role"]).required(),
        Param::new("target_roles", Type::Str, "With `default_privs`, the roles whose later objects are meant."),
        Param::new("grant_option", Type::Bool, "They may grant it to others.").aliases(&["admin_option"]),
        Param::new("fail_on_role", Type::Bool, "Fail if a role does not exist.").default("true"),
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
    returns: &[("queries", "What was run.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    login_db: String,
    state: String,
    privs: Option<String>,
    r#type: String,
    objs: Option<String>,
    schema: Option<String>,
    roles: String,
    target_roles: Option<String>,
    grant_option: Option<bool>,
    fail_on_role: bool,
    #[serde(flatten)]
    connection: Connection,
}

fn split(text: Option<&str>) -> Vec<String> {
    // A comma inside of parentheses belongs to a function's arguments.
    let mut out = vec![String::new()];
    let mut depth = 0;
    for character in text.unwrap_or_default().chars() {
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
    out.into_iter().map(|one| one.trim().to_string()).filter(|one| !one.is_empty()).collect()
}

/// Privileges as SQL has them.
fn privileges(args: &Args) -> Result<Vec<String>, ModuleError> {
    const KNOWN: &[&str] = &[
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "TRUNCATE",
        "REFERENCES",
        "TRIGGER",
        "CREATE",
        "CONNECT",
        "TEMPORARY",
        "TEMP",
        "EXECUTE",
        "USAGE",
        "ALL",
        "ALL PRIVILEGES",
        "SET",
        "ALTER SYSTEM",
        "MAINTAIN",
    ];
    split(args.privs.as_deref())
        .into_iter()
        .map(|word| {
            let upper = word.to_uppercase();
            // Columns may follow.
            let plain = upper.split('(').next().unwrap_or_default().trim();
            if KNOWN.contains(&plain) {
                let columns = word.find('(').map_or("", |at| &word[at..]);
                Ok(format!(
                    "{plain}{}",
                    if columns.is_empty() { String::new() } else { column_list(columns) }
                ))
            } else {
                Err(ModuleError::new(format!("Invalid privileges specified: {word}")))
            }
        })
        .collect()
}

fn column_list(text: &str) -> String {
    let inner = text.trim_matches(['(', ')']);
    let names: Vec<String> = inner.split(',').map(|column| name(column.trim().trim_matches('"'))).collect();
    format!(" ({})", names.join(", "))
}

fn role_name(role: &str) -> String {
    if role.eq_ignore_ascii_case("public") { "PUBLIC".into() } else { name(role) }
}

/// A function or procedure: the name quoted, the arguments as they are, `:` for their commas.
fn callable(text: &str, schema: Option<&str>) -> Result<String, ModuleError> {
    let (plain, rest) = text
        .split_once('(')
        .ok_or_else(|| ModuleError::new(format!("Illegal function / procedure signature: \"{text}\".")))?;
    let arguments = rest.trim_end_matches(')').replace(':', ",");
    if arguments.contains([';', '\'', '\\']) || arguments.contains("--") {
        return Err(ModuleError::new(format!("Illegal function / procedure signature: \"{text}\".")));
    }
    Ok(format!("{}({arguments})", qualified(plain, schema)))
}

fn qualified(object: &str, schema: Option<&str>) -> String {
    match schema {
        Some(schema) => format!("{}.{}", name(schema), name(object.trim_matches('"'))),
        None => dotted(object),
    }
}

/// What a grant is on, and a query for the lists of privileges that it changes.
struct Target {
    on: String,
    status: String,
}

fn target(args: &Args) -> Result<Target, ModuleError> {
    let schema = args.schema.as_deref();
    // The original's default, without which names would depend on the search path.
    let default_schema = schema.unwrap_or("public");
    let objects = split(args.objs.as_deref());
    let all = args.objs.as_deref() == Some("ALL_IN_SCHEMA");
    let list = |quoted: &dyn Fn(&String) -> String| objects.iter().map(quoted).collect::<Vec<_>>().join(", ");
    let names = |objects: &[String]| {
        objects.iter().map(|object| literal(object.trim_matches('"'))).collect::<Vec<_>>().join(", ")
    };
    let of_schema = |schemas: &str| {
        format!("(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = {})", literal(schemas))
    };
    let simple = |words: &str, table: &str, name_column: &str, acl: &str| Target {
        on: format!("{words} {}", list(&|object| name(object.trim_matches('"')))),
        status: format!(
            "SELECT {name_column}, {acl}::text FROM pg_catalog.{table} WHERE {name_column} IN ({}) ORDER BY 1",
            names(&objects)
        ),
    };
    let relations = |plural: &str, singular: &str, kinds: &str| {
        let on = if all {
            format!("ALL {plural} IN SCHEMA {}", name(default_schema))
        } else {
            format!("{singular} {}", list(&|object| qualified(object, Some(default_schema))))
        };
        let filter = if all { String::new() } else { format!(" AND c.relname IN ({})", names(&objects)) };
        Target {
            on,
            status: format!(
                "SELECT c.relname, c.relacl::text, (SELECT pg_catalog.string_agg(a.attname || a.attacl::text, ' ' ORDER BY a.attnum) \
                 FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL) FROM pg_catalog.pg_class c \
                 WHERE c.relnamespace = {} AND c.relkind IN ({kinds}){filter} ORDER BY 1",
                of_schema(default_schema)
            ),
        }
    };
    let callables = |plural: &str, singular: &str| -> Result<Target, ModuleError> {
        let on = if all {
            format!("ALL {plural} IN SCHEMA {}", name(default_schema))
        } else {
            let names = objects
                .iter()
                .map(|object| callable(object, Some(default_schema)))
                .collect::<Result<Vec<_>, _>>()?;
            format!("{singular} {}", names.join(", "))
        };
        let status = format!(
            "SELECT p.oid::regprocedure::text, p.proacl::text FROM pg_catalog.pg_proc p WHERE p.pronamespace = {} ORDER BY 1",
            of_schema(default_schema)
        );
        Ok(Target { on, status })
    };
    if objects.is_empty() && args.r#type != "database" {
        return Err(ModuleError::new(format!("Argument \"objs\" is required for type \"{}\".", args.r#type)));
    }
    Ok(match args.r#type.as_str() {
        "table" => relations("TABLES", "TABLE", "'r', 'v', 'm', 'p', 'f'"),
        "sequence" => relations("SEQUENCES", "SEQUENCE", "'S'"),
        "function" => callables("FUNCTIONS", "FUNCTION")?,
        "procedure" => callables("PROCEDURES", "PROCEDURE")?,
        "database" => {
            let databases = if objects.is_empty() { vec![args.login_db.clone()] } else { objects.clone() };
            let quoted: Vec<String> = databases.iter().map(|one| name(one)).collect();
            Target {
                on: format!("DATABASE {}", quoted.join(", ")),
                status: format!(
                    "SELECT datname, datacl::text FROM pg_catalog.pg_database WHERE datname IN ({}) ORDER BY 1",
                    names(&databases)
                ),
            }
        }
        "schema" => simple("SCHEMA", "pg_namespace", "nspname", "nspacl"),
        "language" => simple("LANGUAGE", "pg_language", "lanname", "lanacl"),
        "tablespace" => simple("TABLESPACE", "pg_tablespace", "spcname", "spcacl"),
        "foreign_data_wrapper" => {
            simple("FOREIGN DATA WRAPPER", "pg_foreign_data_wrapper", "fdwname", "fdwacl")
        }
        "foreign_server" => simple("FOREIGN SERVER", "pg_foreign_server", "srvname", "srvacl"),
        "type" => Target {
            on: format!("TYPE {}", list(&|object| qualified(object, schema))),
            status: format!(
                "SELECT typname, typacl::text FROM pg_catalog.pg_type WHERE typname IN ({}) ORDER BY 1",
                names(&objects)
            ),
        },
        "parameter" => Target {
            on: format!("PARAMETER {}", list(&|object| dotted(object))),
            status: "SELECT parname, paracl::text FROM pg_catalog.pg_parameter_acl ORDER BY 1".into(),
        },
        other => return Err(ModuleError::new(format!("type {other} is not supported"))),
    })
}

/// The statements that lead to the state, and the query for what they change.
fn plan(args: &Args, roles: &[String]) -> Result<(Vec<String>, String), ModuleError> {
    let grants = args.state == "present";
    let roles: Vec<String> = roles.iter().map(|role| role_name(role)).collect();
    let roles = roles.join(", ");
    if args.r#type == "group" {
        let groups: Vec<String> =
            split(args.objs.as_deref().or(args.privs.as_deref())).iter().map(|group| name(group)).collect();
        if groups.is_empty() {
            return Err(ModuleError::new("Argument \"objs\" is required for type \"group\"."));
        }
        let groups = groups.join(", ");
        let status = "SELECT roleid::regrole::text, member::regrole::text, bool_or(admin_option) FROM pg_catalog.pg_auth_members GROUP BY 1, 2 ORDER BY 1, 2";
        let statement = match (grants, args.grant_option) {
            (true, Some(true)) => vec![format!("GRANT {groups} TO {roles} WITH ADMIN OPTION")],
            (true, Some(false)) => vec![
                format!("GRANT {groups} TO {roles}"),
                format!("REVOKE ADMIN OPTION FOR {groups} FROM {roles}"),
            ],
            (true, None) => vec![format!("GRANT {groups} TO {roles}")],
            (false, _) => vec![format!("REVOKE {groups} FROM {roles}")],
        };
        return Ok((statement, status.into()));
    }
    let privileges = privileges(args)?;
    if privileges.is_empty() {
        return Err(ModuleError::new(format!(
            "Argument \"privs\" is required for type \"{}\".",
            args.r#type
        )));
    }
    let privileges = privileges.join(", ");
    if args.r#type == "default_privs" {
        return Ok(default_plan(args, &privileges, &roles, grants));
    }
    let target = target(args)?;
    let on = &target.on;
    let statements = match (grants, args.grant_option) {
        (true, Some(true)) => vec![format!("GRANT {privileges} ON {on} TO {roles} WITH GRANT OPTION")],
        (true, Some(false)) => vec![
            format!("GRANT {privileges} ON {on} TO {roles}"),
            format!("REVOKE GRANT OPTION FOR {privileges} ON {on} FROM {roles}"),
        ],
        (true, None) => vec![format!("GRANT {privileges} ON {on} TO {roles}")],
        (false, Some(true)) => vec![format!("REVOKE GRANT OPTION FOR {privileges} ON {on} FROM {roles}")],
        (false, _) => vec![format!("REVOKE {privileges} ON {on} FROM {roles}")],
    };
    Ok((statements, target.status))
}

fn default_plan(args: &Args, privileges: &str, roles: &str, grants: bool) -> (Vec<String>, String) {
    let mut kinds: Vec<String> = split(args.objs.as_deref()).iter().map(|kind| kind.to_uppercase()).collect();
    if kinds.iter().any(|kind| kind == "ALL_DEFAULT") {
        kinds = ["TABLES", "SEQUENCES", "TYPES", "FUNCTIONS"].map(String::from).to_vec();
    }
    let owners: Vec<String> = split(args.target_roles.as_deref()).iter().map(|role| name(role)).collect();
    let mut head = "ALTER DEFAULT PRIVILEGES".to_string();
    if !owners.is_empty() {
        head += &format!(" FOR ROLE {}", owners.join(", "));
    }
    // Without one they hold for every schema.
    if let Some(schema) = &args.schema {
        head += &format!(" IN SCHEMA {}", name(schema));
    }
    let option = if grants && args.grant_option == Some(true) { " WITH GRANT OPTION" } else { "" };
    let known = ["TABLES", "SEQUENCES", "TYPES", "FUNCTIONS", "ROUTINES", "SCHEMAS"];
    let statements = kinds.iter().filter(|kind| known.contains(&kind.as_str())).map(|kind| {
        if grants {
            format!("{head} GRANT {privileges} ON {kind} TO {roles}{option}")
        } else {
            format!("{head} REVOKE {privileges} ON {kind} FROM {roles}")
        }
    });
    let status = "SELECT defaclrole::regrole::text, defaclnamespace, defaclobjtype, defaclacl::text FROM pg_catalog.pg_default_acl ORDER BY 1, 2, 3";
    (statements.collect(), status.into())
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let database = Database::new(&args.connection, &args.login_db, system)?;
    let mut roles = split(Some(&args.roles));
    let mut warnings = Vec::new();
    if roles.is_empty() {
        return Err(ModuleError::new("roles is empty"));
    }
    let known = known_roles(&database, &roles, system)?;
    if let Some(known) = known {
        let is_known = |role: &String| role.eq_ignore_ascii_case("public") || known.contains(role);
        if let Some(missing) = roles.iter().find(|role| !is_known(role)) {
            let message = format!("Role {missing} does not exist");
            if args.fail_on_role && args.state == "present" {
                return Err(ModuleError::new(message));
            }
            warnings.push(format!("{message}, pass it"));
        }
        roles.retain(is_known);
    }
    if roles.is_empty() {
        let outcome = Outcome { warnings, ..Outcome::default() };
        return Ok(outcome.set("queries", Vec::<String>::new()));
    }
    let (statements, status) = plan(args, &roles)?;
    let script: String = statements.iter().map(|statement| format!("{statement};\n")).collect();
    let differs = rehearse(&database, &status, &script, system)?;
    let id = format!(
        "{}: {} {} for {}",
        args.login_db,
        args.r#type,
        args.objs.as_deref().unwrap_or_default(),
        roles.join(", ")
    );
    let privileges = args.privs.clone().unwrap_or_default();
    if differs {
        let intent = Intent {
            kind: "postgresql_privileges",
            id: id.clone(),
            before: map_of([("state", "differs")]).into(),
            after: map_of([("state", args.state.as_str()), ("privs", privileges.as_str())]).into(),
            effects: vec![Effect::Anything],
            ..Intent::default()
        };
        database.change(&format!("BEGIN;\n{script}COMMIT;"), intent, system)?;
    }
    let state = if args.state == "present" { map_of([("privs", privileges)]).into() } else { Value::Null };
    system.applied(Applied { kind: "postgresql_privileges".into(), id, state });
    let outcome = Outcome { warnings, ..Outcome::default() };
    Ok(outcome.set("queries", if differs { statements } else { Vec::new() }))
}

/// The roles among these that exist; `None` if the server may not be there yet.
fn known_roles(
    database: &Database,
    roles: &[String],
    system: &mut dyn System,
) -> Result<Option<Vec<String>>, ModuleError> {
    let list: Vec<String> = roles.iter().map(|role| literal(role)).collect();
    let query = format!("SELECT rolname FROM pg_catalog.pg_roles WHERE rolname IN ({});", list.join(", "));
    match database.rows(&query, system) {
        Ok(rows) => {
            // In a dry run a role may have been made only on record.
            if system.uncertain().is_some() && rows.len() < roles.len() {
                return Ok(None);
            }
            Ok(Some(rows.into_iter().filter_map(|row| row.into_iter().next()).collect()))
        }
        Err(_) if system.uncertain().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether statements change what a query tells, found out in a transaction that is taken back.
fn rehearse(
    database: &Database,
    status: &str,
    script: &str,
    system: &mut dyn System,
) -> Result<bool, ModuleError> {
    const MARK: &str = "\u{1d}setpoint\u{1d}";
    let text = format!("BEGIN;\n{status};\n\\echo '{MARK}'\n{script}{status};\nROLLBACK;");
    let output = match database.query(&database.command(&text), system) {
        Ok(output) => output.stdout_text(),
        Err(_) if system.uncertain().is_some() => return Ok(true),
        Err(error) => return Err(error),
    };
    let (before, after) = output.split_once(MARK).unwrap_or((&output, ""));
    Ok(rows(before) != rows(after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::args::check;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    fn statements(given: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let given = map_of(given.iter().copied().chain([("login_db", "d"), ("roles", "a,PUBLIC")]));
        let args: Args = typed(check(&MODULE, &given, &|_| true).expect("valid")).expect("typed");
        plan(&args, &split(Some(&args.roles)))
            .map(|(statements, _)| statements)
            .map_err(|error| error.message)
    }

    #[test]
    fn grants_are_written_for_every_kind() {
        for (given, expected) in [
            (
                vec![("privs", "select,insert"), ("objs", "t,u"), ("schema", "s")],
                "GRANT SELECT, INSERT ON TABLE \"s\".\"t\", \"s\".\"u\" TO \"a\", PUBLIC",
            ),
            (
                vec![("privs", "ALL"), ("objs", "ALL_IN_SCHEMA")],
                "GRANT ALL ON ALL TABLES IN SCHEMA \"public\" TO \"a\", PUBLIC",
            ),
            (
                vec![("privs", "SELECT (x, y)"), ("objs", "t"), ("state", "absent")],
                "REVOKE SELECT (\"x\", \"y\") ON TABLE \"public\".\"t\" FROM \"a\", PUBLIC",
            ),
            (
                vec![("privs", "CONNECT"), ("type", "database"), ("grant_option", "yes")],
                "GRANT CONNECT ON DATABASE \"d\" TO \"a\", PUBLIC WITH GRANT OPTION",
            ),
            (vec![("type", "group"), ("objs", "g")], "GRANT \"g\" TO \"a\", PUBLIC"),
            (
                vec![("type", "function"), ("privs", "EXECUTE"), ("objs", "f(int:text)")],
                "GRANT EXECUTE ON FUNCTION \"public\".\"f\"(int,text) TO \"a\", PUBLIC",
            ),
            (
                vec![("type", "schema"), ("privs", "USAGE"), ("objs", "s")],
                "GRANT USAGE ON SCHEMA \"s\" TO \"a\", PUBLIC",
            ),
            (
                vec![
                    ("type", "default_privs"),
                    ("privs", "SELECT"),
                    ("objs", "TABLES"),
                    ("schema", "s"),
                    ("target_roles", "o"),
                ],
                "ALTER DEFAULT PRIVILEGES FOR ROLE \"o\" IN SCHEMA \"s\" GRANT SELECT ON TABLES TO \"a\", PUBLIC",
            ),
        ] {
            assert_eq!(statements(&given), Ok(vec![expected.to_string()]), "{given:?}");
        }
        for (given, expected) in [
            (vec![("privs", "FLY"), ("objs", "t")], "Invalid privileges specified: FLY"),
            (vec![("privs", "SELECT")], "Argument \"objs\" is required for type \"table\"."),
            (
                vec![("type", "function"), ("privs", "EXECUTE"), ("objs", "f(int'); DROP")],
                "Illegal function / procedure signature: \"f(int'); DROP\".",
            ),
        ] {
            assert_eq!(statements(&given), Err(expected.to_string()), "{given:?}");
        }
    }

    #[test]
    fn nothing_is_granted_twice() {
        for (differs, changes) in [(true, 1), (false, 0)] {
            let mut fake =
                Fake::new().with_program("/usr/bin/psql").with_behaviour(&["psql"], move |_, command| {
                    let text =
                        String::from_utf8_lossy(command.stdin.as_deref().unwrap_or_default()).into_owned();
                    if text.contains("pg_roles") {
                        return Output::ok("a\n");
                    }
                    let after = if differs { "t\u{1f}{a=r/p}\n" } else { "t\u{1f}\n" };
                    Output::ok(&format!("t\u{1f}\n\u{1d}setpoint\u{1d}\n{after}"))
                });
            let given = map_of([("login_db", "d"), ("roles", "a"), ("privs", "SELECT"), ("objs", "t")]);
            call(&MODULE, &given.into(), &mut fake).expect("it works");
            assert_eq!(fake.changes().len(), changes);
            let given = map_of([("login_db", "d"), ("roles", "b"), ("privs", "SELECT"), ("objs", "t")]);
            assert_eq!(
                call(&MODULE, &given.into(), &mut fake).expect_err("unknown"),
                "Role b does not exist"
            );
        }
    }
}
