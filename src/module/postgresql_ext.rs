//! `postgresql_ext`: extensions of PostgreSQL.

use serde::Deserialize;

use crate::module::postgresql::{self, Connection, Database, literal, name};
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, typed};
use crate::system::{Applied, Effect, Intent, System};
use crate::value::{Value, map_of};

/// Adds and removes extensions.
pub const MODULE: Module = Module {
    name: "community.postgresql.postgresql_ext",
    summary: "Add an extension to a database of PostgreSQL, update or remove it",
    description: "Through the host's psql. The extension must be installed on the server.",
    example: "- community.postgresql.postgresql_ext:\n    name: pg_trgm\n    login_db: shop\n  become: true\n  become_user: postgres\n",
    scope: Scope::World,
    params: &[
        Param::new("name", Type::Str, "The extension.").aliases(&["ext"]).required(),
        Param::new("login_db", Type::Str, "The database.").aliases(&["db"]).required(),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("schema", Type::Str, "Schema that it goes into."),
        Param::new("version", Type::Str, "Version, or `latest`."),
        Param::new("cascade", Type::Bool, "Also what it needs; or, when it goes, what needs it.")
            .default("false"),
        Param::new("comment", Type::Str, "Comment."),
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
    returns: &[
        ("queries", "What was run."),
        ("prev_version", "Version before."),
        ("version", "Version afterwards."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    login_db: String,
    state: String,
    schema: Option<String>,
    version: Option<String>,
    cascade: bool,
    comment: Option<String>,
    #[serde(flatten)]
    connection: Connection,
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let database = Database::new(&args.connection, &args.login_db, system)?;
    let rows = database.rows(
        &format!(
            "SELECT e.extversion, n.nspname, coalesce(pg_catalog.obj_description(e.oid, 'pg_extension'), '') FROM pg_catalog.pg_extension e \
             JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = {};",
            literal(&args.name)
        ),
        system,
    );
    let now = match rows {
        Ok(rows) => rows.into_iter().next(),
        Err(_) if system.uncertain().is_some() => None,
        Err(error) => return Err(error),
    };
    let before = now.as_ref().map(|row| row[0].clone()).unwrap_or_default();
    let newest = if args.version.as_deref() == Some("latest") {
        let query = format!(
            "SELECT default_version FROM pg_catalog.pg_available_extensions WHERE name = {};",
            literal(&args.name)
        );
        database.value(&query, system)?
    } else {
        args.version.clone()
    };
    let extension = name(&args.name);
    let cascade = if args.cascade { " CASCADE" } else { "" };
    let mut queries = Vec::new();
    let mut after = before.clone();
    match (&now, args.state.as_str()) {
        (None, "absent") => {}
        (Some(_), "absent") => {
            queries.push((format!("DROP EXTENSION {extension}{cascade}"), None));
            after = String::new();
        }
        (None, _) => {
            let mut statement = format!("CREATE EXTENSION {extension}");
            if let Some(schema) = &args.schema {
                statement += &format!(" SCHEMA {}", name(schema));
            }
            if let Some(version) = &newest {
                statement += &format!(" VERSION {}", literal(version));
                after = version.clone();
            }
            queries.push((statement + cascade, Some("present".to_string())));
        }
        (Some(row), _) => {
            if let Some(version) = newest.filter(|version| *version != row[0]) {
                let update = match args.version.as_deref() {
                    Some("latest") => format!("ALTER EXTENSION {extension} UPDATE"),
                    _ => format!("ALTER EXTENSION {extension} UPDATE TO {}", literal(&version)),
                };
                queries.push((update, Some(version.clone())));
                after = version;
            }
            if let Some(schema) = args.schema.as_ref().filter(|schema| **schema != row[1]) {
                queries.push((
                    format!("ALTER EXTENSION {extension} SET SCHEMA {}", name(schema)),
                    Some(schema.clone()),
                ));
            }
        }
    }
    let known = now.as_ref().map(|row| row[2].clone()).unwrap_or_default();
    if let Some(comment) =
        args.comment.as_ref().filter(|comment| **comment != known && args.state != "absent")
    {
        queries.push((
            format!("COMMENT ON EXTENSION {extension} IS {}", literal(comment)),
            Some(comment.clone()),
        ));
    }
    let mut executed = Vec::new();
    let id = format!("{}: {}", args.login_db, args.name);
    for (statement, to) in queries {
        let intent = Intent {
            kind: "postgresql_extension",
            id: id.clone(),
            before: if before.is_empty() {
                Value::Null
            } else {
                map_of([("version", before.as_str())]).into()
            },
            after: to.map_or(Value::Null, |to| map_of([("version", to)]).into()),
            effects: vec![Effect::Anything],
            ..Intent::default()
        };
        let made = database.change(&format!("{statement};"), intent, system)?;
        executed.push(statement);
        if made && args.state != "absent" && args.version.is_none() && before.is_empty() {
            let query = format!(
                "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = {};",
                literal(&args.name)
            );
            after = database.value(&query, system)?.unwrap_or_default();
        }
    }
    let state =
        if args.state == "absent" { Value::Null } else { map_of([("version", args.version.clone())]).into() };
    system.applied(Applied { kind: "postgresql_extension".into(), id, state });
    Ok(Outcome::default()
        .set("ext", args.name.as_str())
        .set("db", args.login_db.as_str())
        .set("queries", executed)
        .set("prev_version", before)
        .set("version", after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn extensions_are_added_once() {
        for (given, expected) in [
            (vec![("name", "known")], vec![]),
            (vec![("name", "known"), ("version", "latest")], vec!["ALTER EXTENSION \"known\" UPDATE"]),
            (vec![("name", "known"), ("version", "1.0"), ("schema", "public")], vec![]),
            (vec![("name", "known"), ("schema", "x")], vec!["ALTER EXTENSION \"known\" SET SCHEMA \"x\""]),
            (
                vec![("name", "new"), ("schema", "x"), ("version", "2"), ("cascade", "yes")],
                vec!["CREATE EXTENSION \"new\" SCHEMA \"x\" VERSION '2' CASCADE"],
            ),
            (vec![("name", "known"), ("state", "absent")], vec!["DROP EXTENSION \"known\""]),
            (vec![("name", "new"), ("state", "absent")], vec![]),
        ] {
            let mut fake =
                Fake::new().with_program("/usr/bin/psql").with_behaviour(&["psql"], |_, command| {
                    let text =
                        String::from_utf8_lossy(command.stdin.as_deref().unwrap_or_default()).into_owned();
                    Output::ok(match &text {
                        text if text.contains("default_version") => "1.1\u{1e}",
                        text if text.contains("extname = 'known'") => "1.0\u{1f}public\u{1f}\u{1e}",
                        _ => "",
                    })
                });
            let given = map_of(given.into_iter().chain([("db", "shop")]));
            let outcome = call(&MODULE, &given.clone().into(), &mut fake).expect("it works");
            assert_eq!(outcome.values.get("queries"), Some(&expected.into()), "{given:?}");
        }
    }
}
