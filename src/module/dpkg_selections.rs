//! `dpkg_selections` and `debconf`: what dpkg is to do with a package, and answers to its questions.

use serde::Deserialize;

use crate::module::dpkg::Database;
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::{Applied, Command, Done, Intent, System};
use crate::value::{Map, Value, map_of};

/// Sets what dpkg is to do with a package.
pub const SELECTIONS: Module = Module {
    name: "ansible.builtin.dpkg_selections",
    summary: "Set what dpkg is to do with a package, such as to hold it",
    description: "Nothing is installed or removed by this alone.",
    example: "- ansible.builtin.dpkg_selections:\n    name: linux-image-amd64\n    selection: hold\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Name of the package.").required(),
        Param::new("selection", Type::Str, "What is to be done.").required().choices(&[
            "install",
            "hold",
            "deinstall",
            "purge",
        ]),
    ],
    returns: &[("before", "What was to be done."), ("after", "What is to be done.")],
    run: |args, system| select(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Deserialize)]
struct Selection {
    name: String,
    selection: String,
}

fn select(args: &Selection, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let database = Database::read(system);
    let (name, architecture) = match args.name.split_once(':') {
        Some((name, architecture)) => (name, Some(architecture)),
        None => (args.name.as_str(), None),
    };
    let now = database.get(name, architecture).and_then(|package| package.status.split(' ').next());
    let Some(now) = now.map(String::from).or_else(|| system.uncertain().map(|_| "unknown".into())) else {
        return Err(ModuleError::new(format!(
            "Failed to find package '{}' to perform selection '{}'.",
            args.name, args.selection
        )));
    };
    if now != args.selection {
        let program = host::need_program("dpkg", system)?;
        let line = |selection: &str| Some(format!("{} {selection}\n", args.name).into_bytes());
        let set = Command::new([program.as_str(), "--set-selections"]);
        let command = Command { stdin: line(&args.selection), ..set.clone() };
        let intent = Intent {
            kind: "package_selection",
            id: args.name.clone(),
            before: map_of([("selection", now.as_str())]).into(),
            after: map_of([("selection", args.selection.as_str())]).into(),
            undo: Some(Command { stdin: line(&now), ..set }),
            ..Intent::default()
        };
        act(&command, intent, system)?;
    }
    let state = map_of([("selection", args.selection.as_str())]).into();
    system.applied(Applied { kind: "package_selection".into(), id: args.name.clone(), state });
    Ok(Outcome::default().set("before", now).set("after", args.selection.as_str()))
}

fn act(command: &Command, intent: Intent, system: &mut dyn System) -> Result<(), ModuleError> {
    match system.change(command, intent)? {
        Done::Made(output) if !output.success() => {
            Err(ModuleError::command(format!("{} failed", command.line()), command, &output))
        }
        _ => Ok(()),
    }
}

/// Answers questions of packages beforehand.
pub const DEBCONF: Module = Module {
    name: "ansible.builtin.debconf",
    summary: "Answer questions of Debian packages beforehand",
    description: "Answers that are there are asked of `debconf-communicate`, new ones go to \
        `debconf-set-selections` on standard input. Answers of type password are not shown.",
    example: "- ansible.builtin.debconf:\n    name: locales\n    question: locales/default_environment_locale\n    value: en_US.UTF-8\n    vtype: select\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Name of the package.").required().aliases(&["pkg"]),
        Param::new("question", Type::Str, "Name of the question.").aliases(&["selection", "setting"]),
        Param::new("vtype", Type::Str, "Kind of the question.").choices(&[
            "boolean",
            "error",
            "multiselect",
            "note",
            "password",
            "seen",
            "select",
            "string",
            "text",
            "title",
        ]),
        Param::new("value", Type::Raw, "The answer.").aliases(&["answer"]),
        Param::new("unseen", Type::Bool, "Ask it all the same.").default("false"),
    ],
    rules: &[Rule::RequiredTogether(&["question", "vtype", "value"])],
    returns: &[("current", "The answer now."), ("previous", "The answer before.")],
    run: |args, system| answer(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    name: String,
    question: Option<String>,
    vtype: Option<String>,
    value: Option<Value>,
    unseen: bool,
}

fn sorted(text: &str) -> Vec<String> {
    let mut items: Vec<String> = text.split(',').map(|item| item.trim().to_string()).collect();
    items.sort();
    items
}

fn answer(args: &Answer, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let (Some(question), Some(kind), Some(given)) = (&args.question, &args.vtype, &args.value) else {
        let output = host::ask(["debconf-show", &args.name], system)?;
        let text = output.stdout_text();
        let known = text.lines().filter_map(|line| {
            let (name, value) = line.trim_start_matches(['*', ' ']).split_once(':')?;
            Some((Value::str(name.trim()), Value::str(value.trim())))
        });
        return Ok(Outcome::default().set("current", known.collect::<Map>()));
    };
    if let (Value::List(items), "multiselect") = (given, kind.as_str())
        && let Some(wrong) = items.iter().find(|item| item.as_str().is_none())
    {
        return Err(ModuleError::new(format!(
            "Invalid value provided for {question}: the answers are strings, and {} is none",
            wrong.repr()
        )));
    }
    let value = match (given, kind.as_str()) {
        (Value::List(items), _) => items.iter().map(Value::to_text).collect::<Vec<_>>().join(", "),
        (other, "boolean") => other.to_text().to_lowercase(),
        (other, _) => other.to_text(),
    };
    let before = current(args, question, system)?;
    let same = before.as_deref().is_some_and(|before| match kind.as_str() {
        "boolean" => before.to_lowercase() == value,
        // As one string, the answer has an order; as a list it has none.
        "multiselect" if given.as_list().is_some() => sorted(before) == sorted(&value),
        _ => before == value,
    });
    if !same {
        let mut argv = vec![host::need_program("debconf-set-selections", system)?];
        argv.extend(args.unseen.then(|| "-u".to_string()));
        let line = format!("{} {question} {kind} {value}\n", args.name);
        let command = Command { stdin: Some(line.into_bytes()), ..Command::new(argv) };
        let is_secret = kind == "password";
        let intent = Intent {
            kind: "debconf",
            id: format!("{} {question}", args.name),
            before: if is_secret { Value::Null } else { map_of([("value", before.clone())]).into() },
            after: if is_secret { Value::Null } else { map_of([("value", value.as_str())]).into() },
            sensitive: is_secret,
            ..Intent::default()
        };
        act(&command, intent, system)?;
    }
    if kind == "password" {
        return Ok(Outcome::default());
    }
    let state = map_of([("value", value.as_str())]).into();
    system.applied(Applied { kind: "debconf".into(), id: format!("{} {question}", args.name), state });
    let shown = |value: Option<&str>| map_of([(question.as_str(), value)]);
    Ok(Outcome::default().set("current", shown(Some(&value))).set("previous", shown(before.as_deref())))
}

/// The answer that is there; `None` if there is none.
fn current(args: &Answer, question: &str, system: &mut dyn System) -> Result<Option<String>, ModuleError> {
    let program = host::need_program("debconf-communicate", system)?;
    let command = Command {
        stdin: Some(format!("GET {question}\n").into_bytes()),
        ..Command::new([program.as_str(), args.name.as_str()]).c_locale()
    };
    let output = match system.query(&command) {
        Ok(output) => output,
        Err(error) if error.is_not_found() && system.uncertain().is_some() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let text = output.stdout_text();
    let line = text.lines().next().unwrap_or_default();
    let (code, value) = line.split_once(' ').unwrap_or((line, ""));
    Ok((code == "0").then(|| value.trim().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    #[test]
    fn selections_are_set_where_they_differ() {
        for (selection, expected) in [("hold", 1), ("install", 0)] {
            let mut fake = Fake::new()
                .with_program("/usr/bin/dpkg")
                .with_command_prefix(&["/usr/bin/dpkg"], Output::ok(""))
                .with_file("/var/lib/dpkg/status", "Package: a\nStatus: install ok installed\nVersion: 1\n");
            let given = map_of([("name", "a"), ("selection", selection)]);
            call(&SELECTIONS, &given.into(), &mut fake).expect("it works");
            assert_eq!(fake.changes().len(), expected, "{selection}");
        }
        let given = map_of([("name", "gone"), ("selection", "hold")]);
        let error = call(&SELECTIONS, &given.into(), &mut Fake::new()).expect_err("unknown");
        assert_eq!(error, "Failed to find package 'gone' to perform selection 'hold'.");
    }

    #[test]
    fn answers_are_set_where_they_differ() {
        for (kind, known, value, expected) in [
            ("select", "0 en_US.UTF-8", Value::from("en_US.UTF-8"), 0),
            ("select", "10 a/b doesn't exist", "x".into(), 1),
            ("boolean", "0 true", "True".into(), 0),
            ("multiselect", "0 b, a", "b, a".into(), 0),
            ("multiselect", "0 b, a", "a, b".into(), 1),
            ("multiselect", "0 b, a", Value::list(vec!["a".into(), "b".into()]), 0),
            ("password", "0 old", "new".into(), 1),
        ] {
            let mut fake = Fake::new()
                .with_program("/usr/bin/debconf-communicate")
                .with_program("/usr/bin/debconf-set-selections")
                .with_command_prefix(&["/usr/bin/debconf-communicate"], Output::ok(known))
                .with_command_prefix(&["/usr/bin/debconf-set-selections"], Output::ok(""));
            let given = map_of([
                ("name", Value::from("p")),
                ("question", "a/b".into()),
                ("vtype", kind.into()),
                ("value", value),
            ]);
            call(&DEBCONF, &given.into(), &mut fake).expect("it works");
            assert_eq!(fake.changes().len(), expected, "{kind} {known}");
            assert!(fake.log().iter().all(|line| !line.contains("new")), "a secret in an argument list");
        }
    }
}
