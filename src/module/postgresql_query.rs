//! `postgresql_query`: statements for PostgreSQL.

use std::time::Instant;

use serde::Deserialize;

use crate::module::postgresql::{self, Connection, Database, name, statements, value};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::{Command, Done, Effect, Intent, System};
use crate::value::{Map, Value};

/// Runs statements.
pub const MODULE: Module = Module {
    name: "community.postgresql.postgresql_query",
    summary: "Run statements in a database of PostgreSQL",
    description: "Through the host's psql, in one transaction unless `autocommit` is set. Reading is no change; nor is a \
        statement that touches no row. In check mode statements run in a transaction that is taken back, so that the \
        result is the one that a real run would have.",
    example: "- community.postgresql.postgresql_query:\n    login_db: shop\n    query: SELECT * FROM item WHERE id = %(id)s\n    named_args:\n      id: 7\n  register: items\n",
    scope: Scope::World,
    params: &[
        Param::new("query", Type::Raw, "A statement, or several: in one text or as a list."),
        Param::new("positional_args", Type::List, "Values for `%s`, in order."),
        Param::new("named_args", Type::Dict, "Values for `%(name)s`."),
        Param::new("login_db", Type::Str, "The database.").aliases(&["db"]),
        Param::new(
            "autocommit",
            Type::Bool,
            "Each statement is a transaction of its own, as `VACUUM` needs.",
        )
        .default("false"),
        Param::new("encoding", Type::Str, "Encoding of the client."),
        Param::new("search_path", Type::List, "Schemas that are searched."),
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
    rules: &[Rule::MutuallyExclusive(&["positional_args", "named_args"])],
    returns: &[
        ("query", "The last statement, values put in."),
        ("query_list", "All statements, values put in."),
        ("query_result", "Rows of the last statement: a list of mappings."),
        ("query_all_results", "Rows of every statement."),
        ("rowcount", "How many rows were read or changed."),
        ("statusmessage", "What the server said to the last statement."),
        ("execution_time_ms", "How long it took: one number, because it is one run of psql."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    query: Option<Value>,
    positional_args: Option<Vec<Value>>,
    named_args: Option<Map>,
    login_db: Option<String>,
    autocommit: bool,
    encoding: Option<String>,
    #[serde(deserialize_with = "host::optional_texts")]
    search_path: Option<Vec<String>>,
    #[serde(flatten)]
    connection: Connection,
}

/// Puts values in the place of `%s` and `%(name)s`; `%%` stands for `%`. Without values nothing is replaced.
pub(crate) fn filled(
    query: &str,
    positional: Option<&[Value]>,
    named: Option<&Map>,
    shown: &dyn Fn(&Value) -> String,
) -> Result<String, ModuleError> {
    if positional.is_none() && named.is_none() {
        return Ok(query.to_string());
    }
    let mut out = String::new();
    let mut rest = query;
    let mut values = positional.unwrap_or_default().iter();
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('%') {
            out.push('%');
            rest = tail;
        } else if let Some(tail) = after.strip_prefix('s') {
            let value = values.next().ok_or_else(|| {
                ModuleError::new("not all arguments converted: there are more %s than values")
            })?;
            out.push_str(&shown(value));
            rest = tail;
        } else if let Some((key, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(")s")) {
            let value = named
                .and_then(|named| named.get(key))
                .ok_or_else(|| ModuleError::new(format!("there is no value for %({key})s")))?;
            out.push_str(&shown(value));
            rest = tail;
        } else {
            return Err(ModuleError::new("a percent sign in a query with values is written as %%"));
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Whether a statement only reads.
pub(crate) fn reads(statement: &str) -> bool {
    let plain: String = statement
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect::<Vec<_>>()
        .join("\n")
        .to_uppercase();
    let first = plain.split(|c: char| !c.is_alphanumeric()).find(|word| !word.is_empty()).unwrap_or_default();
    match first {
        "SHOW" | "VALUES" | "TABLE" | "DESCRIBE" | "DESC" => true,
        "EXPLAIN" => !plain.contains("ANALYZE"),
        // What a function that is called does nobody knows; the original takes it for reading too.
        "SELECT" => !plain.contains(" INTO "),
        _ => false,
    }
}

/// Stands between the answers of psql. No statement prints it.
const MARK: &str = "\u{1d}setpoint\u{1d}";

/// The script for psql: for each statement its columns' types, and its rows.
fn script(args: &Args, list: &[String], keeps: bool) -> String {
    let mut out = String::from("\\pset null '\u{1c}'\n");
    if let Some(encoding) = &args.encoding {
        out.push_str(&format!("SET client_encoding TO {};\n", postgresql::literal(encoding)));
    }
    if let Some(path) = &args.search_path {
        let names: Vec<String> = path.iter().map(|schema| name(schema)).collect();
        out.push_str(&format!("SET search_path TO {};\n", names.join(", ")));
    }
    let transaction = !args.autocommit || !keeps;
    if transaction {
        out.push_str("BEGIN;\n");
    }
    for statement in list {
        out.push_str(&format!("\\echo '{MARK}'\n"));
        if has_rows(statement) {
            out.push_str(&format!("{statement}\n\\gdesc\n"));
        }
        out.push_str(&format!("\\echo '{MARK}'\n{statement}\n;\n"));
    }
    out.push_str(&format!("\\echo '{MARK}'\n"));
    if transaction {
        out.push_str(if keeps { "COMMIT;\n" } else { "ROLLBACK;\n" });
    }
    out
}

/// Whether a statement may give rows, so that it is worth asking for their types.
fn has_rows(statement: &str) -> bool {
    let upper = statement.to_uppercase();
    reads(statement)
        || upper.contains("RETURNING")
        || upper.trim_start().starts_with("WITH")
        || upper.trim_start().starts_with("SELECT")
}

fn psql(database: &Database, args: &Args, list: &[String], keeps: bool) -> Command {
    let argv = [
        "psql",
        "--no-psqlrc",
        "--no-align",
        "--set=ON_ERROR_STOP=1",
        "--field-separator=\u{1f}",
        "--record-separator=\u{1e}",
        "--no-password",
    ];
    database.reading(argv, &script(args, list, keeps))
}

/// The value of a field by the type of its column.
fn typed_value(text: &str, kind: &str) -> Value {
    if text == "\u{1c}" {
        return Value::Null;
    }
    let number = || text.parse().map_or_else(|_| Value::str(text), Value::Int);
    match kind {
        "integer" | "bigint" | "smallint" | "oid" => number(),
        "boolean" => Value::Bool(text == "t"),
        "double precision" | "real" => text.parse().map_or_else(|_| Value::str(text), Value::Float),
        kind if kind.starts_with("numeric") => match text.parse() {
            Ok(number) if !text.contains('.') => Value::Int(number),
            _ => text.parse().map_or_else(|_| Value::str(text), Value::Float),
        },
        "json" | "jsonb" => serde_json::from_str(text).unwrap_or_else(|_| Value::str(text)),
        kind => match kind.strip_suffix("[]").and_then(|inner| array(text, inner)) {
            Some(list) => list,
            None => Value::str(text),
        },
    }
}

/// `{1,"a b",NULL}`; `None` for arrays of arrays.
fn array(text: &str, kind: &str) -> Option<Value> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    if inner.starts_with('{') {
        return None;
    }
    let mut items = Vec::new();
    let mut item = String::new();
    let (mut quoted, mut was_quoted) = (false, false);
    let mut characters = inner.chars();
    let mut push = |item: &mut String, was_quoted: bool| {
        let text = std::mem::take(item);
        items.push(if text == "NULL" && !was_quoted { Value::Null } else { typed_value(&text, kind) });
    };
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                quoted = !quoted;
                was_quoted = true;
            }
            '\\' => item.extend(characters.next()),
            ',' if !quoted => push(&mut item, std::mem::take(&mut was_quoted)),
            other => item.push(other),
        }
    }
    if !inner.is_empty() {
        push(&mut item, was_quoted);
    }
    Some(Value::list(items))
}

#[derive(Debug, Default)]
struct Answer {
    rows: Vec<Value>,
    status: String,
    count: i64,
}

/// The answer to one statement: the columns as `\gdesc` tells them, and what the statement printed.
fn answer(columns: &str, printed: &str) -> Answer {
    // Column names and types come as a table with a head of its own.
    let columns: Vec<(&str, &str)> = columns
        .trim_matches('\n')
        .split('\u{1e}')
        .skip(1)
        .filter_map(|row| row.trim_matches('\n').split_once('\u{1f}'))
        .collect();
    let printed = printed.trim_start_matches('\n');
    let mut records: Vec<&str> = printed.split('\u{1e}').collect();
    let last = records.pop().unwrap_or_default().trim_matches('\n');
    let mut out = Answer::default();
    if !columns.is_empty() {
        for record in records.iter().skip(1) {
            let fields = record.split('\u{1f}');
            let row: Map = columns
                .iter()
                .zip(fields)
                .map(|((name, kind), text)| (Value::str(*name), typed_value(text, kind)))
                .collect();
            out.rows.push(Value::map(row));
        }
    }
    // What was read ends with `(2 rows)`; what was changed, with what the server says of it.
    let said = last.lines().last().unwrap_or_default();
    let only_rows = said.is_empty() || said.ends_with(" row)") || said.ends_with(" rows)");
    out.status = if only_rows { format!("SELECT {}", out.rows.len()) } else { said.to_string() };
    out.count = out.status.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
    out
}

/// Whether a statement that was answered so has changed something.
fn has_changed(statement: &str, answer: &Answer) -> bool {
    if reads(statement)
        || answer.status.starts_with("SELECT")
            && answer.count == 0
            && !statement.to_uppercase().contains("INTO")
    {
        return false;
    }
    match answer.status.split(' ').next().unwrap_or_default() {
        "INSERT" | "UPDATE" | "DELETE" | "MERGE" => answer.count > 0,
        "SHOW" | "EXPLAIN" | "SET" | "BEGIN" | "COMMIT" | "ROLLBACK" => false,
        "SELECT" => statement.to_uppercase().contains("INTO"),
        _ => true,
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let given = match &args.query {
        Some(Value::List(items)) => items.iter().map(Value::to_text).collect(),
        Some(query) => vec![query.to_text()],
        None => return Err(ModuleError::new("query is required")),
    };
    let mut list = Vec::new();
    for query in &given {
        let query = filled(query, args.positional_args.as_deref(), args.named_args.as_ref(), &value)?;
        list.extend(statements(&query)?);
    }
    if list.is_empty() {
        return Err(ModuleError::new("query is empty"));
    }
    let role = args.login_db.clone().unwrap_or_else(|| "postgres".into());
    let database = Database::new(&args.connection, &role, system)?;
    let watch = Instant::now();
    let output = if list.iter().all(|statement| reads(statement)) {
        database.query(&psql(&database, args, &list, true), system)?
    } else {
        let intent =
            Intent { kind: "", id: list.join("; "), effects: vec![Effect::Anything], ..Intent::default() };
        match system.change(&psql(&database, args, &list, true), intent)? {
            Done::Made(output) if output.success() => output,
            Done::Made(output) => return Err(postgresql::failure(&output)),
            // What a transaction that is taken back would have done.
            Done::Recorded => database.query(&psql(&database, args, &list, false), system)?,
        }
    };
    let text = output.stdout_text();
    let parts: Vec<&str> = text.split(MARK).skip(1).collect();
    let answers: Vec<Answer> = parts
        .chunks(2)
        .take(list.len())
        .map(|part| answer(part[0], part.get(1).copied().unwrap_or_default()))
        .collect();
    let changed = list.iter().zip(&answers).any(|(statement, answer)| has_changed(statement, answer));
    let last = answers.last();
    let all: Vec<Value> = answers.iter().map(|answer| Value::list(answer.rows.clone())).collect();
    #[expect(clippy::cast_precision_loss, reason = "a time in milliseconds is small")]
    let took = watch.elapsed().as_micros() as f64 / 1000.0;
    let outcome = Outcome::default()
        .set("query", list.last().cloned())
        .set("query_list", list.clone())
        .set("query_result", last.map(|answer| Value::list(answer.rows.clone())).unwrap_or_default())
        .set("query_all_results", Value::list(all))
        .set("statusmessage", last.map(|answer| answer.status.clone()))
        .set("rowcount", answers.iter().map(|answer| answer.count).sum::<i64>())
        .set("execution_time_ms", vec![Value::Float(took)]);
    Ok(Outcome { changed: Some(changed), ..outcome })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::args::check;
    use crate::system::Output;
    use crate::system::fake::Fake;
    use crate::value::map_of;

    #[test]
    fn values_are_put_in() {
        let list = [Value::Int(1), Value::from("a'b")];
        let named = map_of([("x", "y")]);
        for (query, positional, expected) in [
            ("SELECT %s, %s", true, Some("SELECT 1, 'a''b'")),
            ("SELECT %(x)s, '%%'", false, Some("SELECT 'y', '%'")),
            ("SELECT %s, %s, %s", true, None),
            ("SELECT %(z)s", false, None),
            ("SELECT 'a%b'", false, None),
        ] {
            let got = filled(query, positional.then_some(&list), (!positional).then_some(&named), &value);
            assert_eq!(got.ok().as_deref(), expected, "{query}");
        }
        assert_eq!(filled("LIKE 'a%'", None, None, &value).expect("as it is"), "LIKE 'a%'");
    }

    #[test]
    fn answers_have_types() {
        let columns = "\nColumn\u{1f}Type\u{1e}a\u{1f}integer\u{1e}b\u{1f}text\u{1e}c\u{1f}boolean\u{1e}d\u{1f}text[]\u{1e}e\u{1f}jsonb\u{1e}f\u{1f}numeric(4,2)\u{1e}(6 rows)\n";
        let printed = "\na\u{1f}b\u{1f}c\u{1f}d\u{1f}e\u{1f}f\u{1e}1\u{1f}\u{1c}\u{1f}t\u{1f}{x,\"y,\\\"z\",NULL}\u{1f}{\"k\": [1]}\u{1f}1.50\u{1e}(1 row)\n";
        let answer = answer(columns, printed);
        assert_eq!(
            Value::list(answer.rows).repr(),
            "[{'a': 1, 'b': None, 'c': True, 'd': ['x', 'y,\"z', None], 'e': {'k': [1]}, 'f': 1.5}]"
        );
        assert_eq!((answer.status.as_str(), answer.count), ("SELECT 1", 1));
    }

    #[test]
    fn a_change_is_told_from_reading() {
        for (query, status, changed, acts) in [
            ("SELECT 1", "", false, false),
            ("UPDATE t SET a = 1", "UPDATE 0", false, true),
            ("UPDATE t SET a = 1", "UPDATE 2", true, true),
            ("CREATE TABLE t()", "CREATE TABLE", true, true),
            ("-- x\nSHOW all", "", false, false),
        ] {
            let status = status.to_string();
            let mut fake =
                Fake::new().with_program("/usr/bin/psql").with_behaviour(&["psql"], move |_, _| {
                    Output::ok(&format!("{MARK}\n{MARK}\n{status}\n{MARK}\n"))
                });
            let given = map_of([("query", query), ("db", "x")]);
            let typed = check(&MODULE, &given, &|_| true).expect("valid");
            let outcome = (MODULE.run)(typed, &mut fake).expect("it works");
            assert_eq!(outcome.changed, Some(changed), "{query} {status:?}", status = outcome.values);
            assert_eq!(fake.log().iter().any(|line| line.starts_with("! ")), acts, "{query}");
        }
    }
}
