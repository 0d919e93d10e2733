//! `debug`: shows a message or a variable.

use crate::engine::actions::{ActionContext, ActionOutcome};
use crate::engine::plan::{PlanError, argument_of, failed};
use crate::template::{TemplateError, TemplateErrorKind};
use crate::value::{Map, Text, Value, map_of};

pub(super) fn run(action: &ActionContext<'_>, args: Map) -> Result<ActionOutcome, PlanError> {
    for name in args.keys() {
        let name = name.to_text();
        if !["msg", "var", "verbosity"].contains(&name.as_str()) {
            return Ok(ActionOutcome::failed(
                action.task,
                format!("Invalid options for debug: {name}. Supported are: msg, var, verbosity"),
            ));
        }
    }
    let verbosity = match given(action, &args, "verbosity")? {
        Some(Value::Int(number)) => number,
        Some(other) => match other.to_text().trim().parse() {
            Ok(number) => number,
            Err(_) => return Ok(ActionOutcome::failed(action.task, not_a_number("verbosity", &other))),
        },
        None => 0,
    };
    let var = given_var(action, &args)?;
    let message = given(action, &args, "msg")?;
    if message.is_some() && var.is_some() {
        return Ok(ActionOutcome::failed(action.task, "parameters are mutually exclusive: msg|var"));
    }
    if verbosity > i64::from(action.shared.options.verbosity) {
        return Ok(ActionOutcome::result(map_of([
            ("skipped", Value::Bool(true)),
            ("skipped_reason", Value::str("Verbosity threshold not met.")),
            ("changed", Value::Bool(false)),
        ])));
    }
    let mut result = map_of([("changed", Value::Bool(false))]);
    match (message, var) {
        (Some(message), _) => {
            result.insert(Value::str("msg"), message);
        }
        (None, Some(expression)) => {
            let (value, warnings) = evaluate(action, &expression)?;
            if !warnings.is_empty() {
                result.insert(Value::str("warnings"), Value::from(warnings));
            }
            result.insert(Value::str(expression.as_str()), value);
        }
        (None, None) => {
            result.insert(Value::str("msg"), Value::str("Hello world!"));
        }
    }
    Ok(ActionOutcome::result(result))
}

/// An argument, rendered; nothing if it is omitted.
fn given(action: &ActionContext<'_>, args: &Map, name: &str) -> Result<Option<Value>, PlanError> {
    let Some(value) = args.get(name) else { return Ok(None) };
    match action.shared.templar.render(value, &action.context) {
        Ok(Value::Omit) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(error) => Err(error.wanted_for(argument_of("ansible.builtin.debug", name)).into()),
    }
}

/// The expression that `var` names: what is written, or what a template gives if that was written too.
fn given_var(action: &ActionContext<'_>, args: &Map) -> Result<Option<String>, PlanError> {
    let fail = |message: String| Err(PlanError::Failed(Box::new(failed(action.task, message))));
    let untrusted = |text: &Text| {
        fail(format!(
            "Encountered untrusted template or expression: {}",
            Value::str(text.text.clone()).repr()
        ))
    };
    match args.get("var") {
        None => Ok(None),
        Some(Value::Str(text)) if !text.trusted => untrusted(text),
        Some(value @ Value::Str(_)) => match action.shared.templar.render_trusted(value, &action.context)? {
            Value::Omit => Ok(None),
            Value::Str(text) if !text.trusted => untrusted(&text),
            Value::Str(text) => Ok(Some(text.text.to_string())),
            other => fail(not_a_string(&other)),
        },
        Some(other) => fail(not_a_string(other)),
    }
}

fn not_a_number(name: &str, value: &Value) -> String {
    let (found, shown) = (value.type_name(), value.repr());
    format!(
        "argument '{name}' is of type {found} and we were unable to convert to int: \"{shown}\" cannot be converted to an int"
    )
}

fn not_a_string(value: &Value) -> String {
    format!(
        "argument 'var' is of type {} and we were unable to convert to str: {} is not a string and conversion is not allowed",
        value.type_name(),
        value.repr()
    )
}

/// What an expression gives, and warnings. What is undefined is shown as an error in its place.
fn evaluate(action: &ActionContext<'_>, expression: &str) -> Result<(Value, Vec<String>), PlanError> {
    match action.shared.templar.expression(expression, &action.context) {
        Ok(Value::Omit) => Ok((
            Value::str("<<Omit>>"),
            vec![format!("The result of '{expression}' could not be omitted; a placeholder is shown.")],
        )),
        Ok(value) => Ok((value, Vec::new())),
        Err(error) if is_undefined(&error) => {
            let mut shown = Shown { action, warnings: Vec::new() };
            let value = match action.context.vars.get(expression) {
                Some(raw) => shown.value(&raw, 0)?,
                None => shown.error(&error),
            };
            Ok((value, shown.warnings))
        }
        Err(error) => Err(error.into()),
    }
}

fn is_undefined(error: &TemplateError) -> bool {
    matches!(error.kind, TemplateErrorKind::Undefined { .. })
}

/// How deep a value with errors in it is shown.
const MAX_DEPTH: usize = 64;

/// A value some of which can't be rendered.
struct Shown<'a, 'b> {
    action: &'a ActionContext<'b>,
    warnings: Vec<String>,
}

impl Shown<'_, '_> {
    fn error(&mut self, error: &TemplateError) -> Value {
        let number = self.warnings.len() + 1;
        self.warnings.push(format!("Encountered 1 template error.\nerror {number} - {}", error.told()));
        Value::str(format!("<< error {number} - {} >>", error.told()))
    }

    fn value(&mut self, raw: &Value, depth: usize) -> Result<Value, PlanError> {
        match raw {
            Value::List(items) if depth < MAX_DEPTH => {
                let items = items.iter().map(|item| self.value(item, depth + 1));
                Ok(Value::list(items.collect::<Result<_, _>>()?))
            }
            Value::Map(map) if depth < MAX_DEPTH => {
                let mut out = Map::new();
                for (key, value) in map.iter() {
                    out.insert(key.untrusted(), self.value(value, depth + 1)?);
                }
                Ok(Value::map(out))
            }
            raw => match self.action.shared.templar.render(raw, &self.action.context) {
                Ok(value) => Ok(value),
                Err(error) if is_undefined(&error) => Ok(self.error(&error)),
                Err(error) => Err(error.into()),
            },
        }
    }
}
