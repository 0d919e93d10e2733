//! `mysql_query`: statements for MySQL and MariaDB.

use std::time::Instant;

use serde::Deserialize;

use crate::module::mysql::{self, Connection, Server, failure, name, value};
use crate::module::postgresql_query::filled;
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, typed};
use crate::system::{Done, Effect, Intent, System};
use crate::value::{Map, Value};

/// Runs statements.
pub const MODULE: Module = Module {
    name: "community.mysql.mysql_query",
    summary: "Run statements in a database of MySQL or MariaDB",
    description: "Through the host's mysql. Reading is no change; nor is a statement that touches no row. Whole numbers \
        in results are numbers, other values are text. In check mode only statements that read are run.",
    example: "- community.mysql.mysql_query:\n    login_db: shop\n    query: SELECT * FROM item WHERE id = %s\n    positional_args: [7]\n  register: items\n",
    scope: Scope::World,
    params: &[
        Param::new("query", Type::Raw, "A statement, or a list of them.").required(),
        Param::new("positional_args", Type::List, "Values for `%s`, in order."),
        Param::new("named_args", Type::Dict, "Values for `%(name)s`."),
        Param::new("login_db", Type::Str, "The database."),
        Param::new("single_transaction", Type::Bool, "All in one transaction.").default("false"),
        Param::new("session_vars", Type::Dict, "Variables of the session."),
        mysql::CA_CERT,
        mysql::CHECK_HOSTNAME,
        mysql::CLIENT_CERT,
        mysql::CLIENT_KEY,
        mysql::CONFIG_FILE,
        mysql::CONNECT_TIMEOUT,
        mysql::LOGIN_HOST,
        mysql::LOGIN_PASSWORD,
        mysql::LOGIN_PORT,
        mysql::LOGIN_UNIX_SOCKET,
        mysql::LOGIN_USER,
    ],
    rules: &[Rule::MutuallyExclusive(&["positional_args", "named_args"])],
    returns: &[
        ("executed_queries", "The statements, values put in."),
        ("query_result", "Rows of each statement: lists of mappings."),
        ("rowcount", "How many rows each statement read or changed."),
        ("execution_time_ms", "How long it took: one number, because it is one run of mysql."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    query: Value,
    positional_args: Option<Vec<Value>>,
    named_args: Option<Map>,
    login_db: Option<String>,
    single_transaction: bool,
    session_vars: Option<Map>,
    #[serde(flatten)]
    connection: Connection,
}

/// Whether a statement only reads.
fn reads(statement: &str) -> bool {
    let first = statement.split_whitespace().next().unwrap_or_default().to_uppercase();
    ["SELECT", "SHOW", "DESCRIBE", "DESC", "EXPLAIN", "USE", "HELP"].contains(&first.trim_start_matches('('))
        && !statement.to_uppercase().contains(" INTO OUTFILE")
}

/// Stands before what a statement printed.
const MARK: &str = "setpoint-statement";

fn script(args: &Args, list: &[String]) -> String {
    let mut out = String::new();
    if let Some(database) = &args.login_db {
        out.push_str(&format!("USE {};\n", name(database)));
    }
    for (key, given) in args.session_vars.iter().flat_map(Map::iter) {
        out.push_str(&format!("SET SESSION {} = {};\n", name(&key.to_text()), value(given)));
    }
    if args.single_transaction {
        out.push_str("START TRANSACTION;\n");
    }
    for statement in list {
        out.push_str(&format!(
            "SELECT '{MARK}' AS `{MARK}`;\n{statement}\n;\nSELECT ROW_COUNT() AS `{MARK}-count`;\n"
        ));
    }
    out.push_str(if args.single_transaction { "COMMIT;\n" } else { "" });
    out
}

/// What one statement gave.
#[derive(Debug, Default, PartialEq)]
struct Answer {
    rows: Vec<Value>,
    changed_rows: i64,
}

fn unescaped(text: &str) -> String {
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")]
        .iter()
        .fold(text.to_string(), |text, (entity, plain)| text.replace(entity, plain))
}

/// The rows in the client's XML.
fn rows(result: &str) -> Vec<Value> {
    let row = |part: &str| {
        let fields = part.split("<field name=\"").skip(1).filter_map(|field| {
            let (name, rest) = field.split_once('"')?;
            let value = if rest.starts_with(" xsi:nil=\"true\"") {
                Value::Null
            } else {
                typed_value(&unescaped(rest.split_once('>')?.1.split("</field>").next().unwrap_or_default()))
            };
            Some((Value::str(unescaped(name)), value))
        });
        Value::map(fields.collect())
    };
    result.split("<row>").skip(1).map(|part| row(part.split("</row>").next().unwrap_or_default())).collect()
}

/// Whole numbers as the server writes them are numbers.
fn typed_value(text: &str) -> Value {
    match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => Value::Int(number),
        _ => Value::str(text),
    }
}

fn answers(text: &str) -> Vec<Answer> {
    let mut out: Vec<Answer> = Vec::new();
    for result in text.split("<resultset ").skip(1) {
        let rows = rows(result);
        let first = rows.first().and_then(Value::as_map);
        if first.is_some_and(|row| row.contains_key(MARK)) {
            out.push(Answer::default());
        } else if let Some(last) = out.last_mut() {
            match first.and_then(|row| row.get(format!("{MARK}-count").as_str())) {
                Some(count) => last.changed_rows = count.as_int().unwrap_or(0),
                None => last.rows = rows,
            }
        }
    }
    out
}

fn has_changed(statement: &str, answer: &Answer) -> bool {
    let first = statement.split_whitespace().next().unwrap_or_default().to_uppercase();
    match first.as_str() {
        "CREATE" | "DROP" | "ALTER" | "RENAME" | "TRUNCATE" | "GRANT" | "REVOKE" => true,
        _ => !reads(statement) && answer.changed_rows > 0,
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let given: Vec<String> = match &args.query {
        Value::List(items) => items.iter().map(Value::to_text).collect(),
        query => vec![query.to_text()],
    };
    let list = given
        .iter()
        .map(|query| {
            filled(
                query.trim().trim_end_matches(';'),
                args.positional_args.as_deref(),
                args.named_args.as_ref(),
                &value,
            )
        })
        .collect::<Result<Vec<String>, _>>()?;
    if list.iter().any(|query| query.is_empty()) {
        return Err(ModuleError::new("query is empty"));
    }
    let server = Server::new(&args.connection, system)?;
    let watch = Instant::now();
    let command = server.with(&["--xml"], &script(args, &list));
    let answers = if list.iter().all(|statement| reads(statement)) {
        let output = system.query(&command)?;
        if !output.success() {
            return Err(failure(&output));
        }
        answers(&output.stdout_text())
    } else {
        let intent =
            Intent { kind: "", id: list.join("; "), effects: vec![Effect::Anything], ..Intent::default() };
        match system.change(&command, intent)? {
            Done::Made(output) if output.success() => answers(&output.stdout_text()),
            Done::Made(output) => return Err(failure(&output)),
            Done::Recorded => list.iter().map(|_| Answer { changed_rows: 1, ..Answer::default() }).collect(),
        }
    };
    let changed = list.iter().zip(&answers).any(|(statement, answer)| has_changed(statement, answer));
    let counts: Vec<Value> = list
        .iter()
        .zip(&answers)
        .map(
            |(statement, answer)| {
                if reads(statement) { answer.rows.len().into() } else { answer.changed_rows.max(0).into() }
            },
        )
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "a time in milliseconds is small")]
    let took = watch.elapsed().as_micros() as f64 / 1000.0;
    let outcome = Outcome::default()
        .set("executed_queries", list)
        .set(
            "query_result",
            Value::list(answers.into_iter().map(|answer| Value::list(answer.rows)).collect()),
        )
        .set("rowcount", Value::list(counts))
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

    fn result(fields: &str) -> String {
        format!("<resultset statement=\"x\">\n<row>{fields}</row>\n</resultset>\n")
    }

    #[test]
    fn results_are_read_from_xml() {
        let text = format!(
            "{}{}{}",
            result("<field name=\"setpoint-statement\">setpoint-statement</field>"),
            result(
                "<field name=\"a\">7</field>\n<field name=\"b\" xsi:nil=\"true\" /><field name=\"c\">a&lt;b&amp;c\nd</field><field name=\"d\">007</field>"
            ),
            result("<field name=\"setpoint-statement-count\">-1</field>")
        );
        let answers = answers(&text);
        assert_eq!(
            Value::list(answers[0].rows.clone()).repr(),
            "[{'a': 7, 'b': None, 'c': 'a<b&c\\nd', 'd': '007'}]"
        );
        assert_eq!((answers.len(), answers[0].changed_rows), (1, -1));
    }

    #[test]
    fn a_change_is_told_from_reading() {
        for (query, count, changed, acts) in [
            ("SELECT 1", -1, false, false),
            ("UPDATE t SET a = 1;", 0, false, true),
            ("UPDATE t SET a = 1", 2, true, true),
            ("CREATE TABLE t (a INT)", 0, true, true),
        ] {
            let text = result("<field name=\"setpoint-statement\">x</field>")
                + &result(&format!("<field name=\"setpoint-statement-count\">{count}</field>"));
            let mut fake =
                Fake::new().with_program("/usr/bin/mysql").with_command_prefix(&["mysql"], Output::ok(&text));
            let typed = check(&MODULE, &map_of([("query", query)]), &|_| true).expect("valid");
            let outcome = (MODULE.run)(typed, &mut fake).expect("it works");
            assert_eq!(outcome.changed, Some(changed), "{query} {count}");
            assert_eq!(fake.log().iter().any(|line| line.starts_with("! ")), acts, "{query}");
        }
    }
}
