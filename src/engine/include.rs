//! Dynamic includes: which files or roles an include task brings for a host. Hosts that include the same with
//! the same variables get the same tasks.

use std::path::Path;
use std::sync::Arc;

use crate::diagnostic::Diagnostic;
use crate::engine::cursor::Cursor;
use crate::engine::plan::{PlanError, Planner, Settled, Step, failed};
use crate::engine::select;
use crate::engine::shared::{Included, lock};
use crate::playbook::loader::{IncludeRole, LoadContext};
use crate::playbook::{Item, Task};
use crate::template::TemplateError;
use crate::value::{Map, Value, map_of};

/// What an include brings for one host.
pub struct Resolved {
    /// What is included, in order; empty if all is skipped.
    pub included: Vec<Arc<Included>>,
    /// Labels of the items that brought them.
    pub labels: Vec<Option<String>>,
    /// The result of each item, for `register`.
    pub results: Vec<Settled>,
    /// Items whose file or role can't be had: each is a failure that no `ignore_errors` covers.
    pub missing: Vec<Settled>,
    /// What is wrong with the files that are there, which ends the run.
    pub broken: Vec<Diagnostic>,
    /// It was looped.
    pub looped: bool,
    /// It changes nothing but the tasks that follow, so that it may be resolved before its turn.
    pub foreseeable: bool,
}

/// The name of a `meta` task's action.
pub fn meta_name(task: &Task) -> &str {
    task.args.get("_raw_params").and_then(Value::as_str).unwrap_or_default().trim()
}

/// Puts what is included at the place of the include.
pub fn enter(cursor: &mut Cursor, included: &[Arc<Included>]) {
    if included.is_empty() {
        cursor.advance(false);
        return;
    }
    if let [one] = included
        && one.ordinal == 0
    {
        cursor.include(Arc::from(vec![group_item(one)]), Some(Arc::from(vec![0])));
        return;
    }
    let items: Vec<Item> = included.iter().map(|one| group_item(one)).collect();
    let ordinals: Vec<u32> = included.iter().map(|one| one.ordinal).collect();
    cursor.include(items.into(), Some(ordinals.into()));
}

fn group_item(included: &Included) -> Item {
    included.block.clone()
}

/// Finds out what an include brings.
///
/// # Errors
/// [`PlanError::Pending`], or a failure of the task.
pub fn resolve(planner: &Planner<'_>) -> Result<Resolved, PlanError> {
    let planned = planner.plan()?;
    let mut resolved = Resolved {
        included: Vec::new(),
        labels: Vec::new(),
        results: Vec::new(),
        missing: Vec::new(),
        broken: Vec::new(),
        looped: planned.looped.is_some(),
        foreseeable: true,
    };
    for item in planned.items {
        match item.step {
            Step::Engine { args, .. } => {
                let included = match load(planner, &args, &item.local) {
                    Ok(included) => included,
                    Err(LoadError::Missing(settled)) => {
                        resolved.foreseeable = false;
                        resolved.missing.push(*settled);
                        continue;
                    }
                    Err(LoadError::Broken(errors)) => {
                        resolved.foreseeable = false;
                        resolved.broken.extend(errors);
                        continue;
                    }
                    Err(LoadError::Plan(error)) => return Err(error),
                };
                resolved.foreseeable &=
                    included.role.as_ref().is_none_or(|role| !role.public) && included.handlers.is_empty();
                let mut result = map_of([
                    ("changed", Value::Bool(false)),
                    ("include", Value::str(included.what.as_str())),
                    ("include_args", Value::map(Map::new())),
                ]);
                if let Some(value) = item.item {
                    result.insert(Value::str("item"), value);
                }
                resolved.results.push(Settled { result, diagnostic: None });
                resolved.labels.push(item.label);
                resolved.included.push(included);
            }
            Step::Done(settled) if settled.result.get("failed").is_some_and(Value::truthy) => {
                return Err(PlanError::Failed(Box::new(settled)));
            }
            Step::Done(settled) => resolved.results.push(settled),
            _ => {}
        }
    }
    Ok(resolved)
}

/// Why an include brings nothing.
enum LoadError {
    Plan(PlanError),
    /// There is no such file or role.
    Missing(Box<Settled>),
    /// It is there, and can't be read or makes no sense.
    Broken(Vec<Diagnostic>),
}

impl From<TemplateError> for LoadError {
    fn from(error: TemplateError) -> LoadError {
        LoadError::Plan(error.into())
    }
}

/// So many includes may be inside each other; more is a file or role that includes itself without an end.
const MAX_DEPTH: usize = 500;

fn load(planner: &Planner<'_>, args: &Map, local: &Map) -> Result<Arc<Included>, LoadError> {
    let task = planner.task;
    if task.included_from.len() >= MAX_DEPTH {
        return Err(LoadError::Missing(Box::new(failed(
            task,
            format!("includes are nested more than {MAX_DEPTH} deep: what is included here includes itself"),
        ))));
    }
    let shared = planner.shared;
    let is_role = task.action.ends_with("include_role");
    let text = |name: &str| {
        args.get(name).filter(|value| !value.is_null()).map(Value::to_text).filter(|text| !text.is_empty())
    };
    let what = if is_role {
        text("name").or_else(|| text("role"))
    } else {
        text("file").or_else(|| text("_raw_params"))
    };
    let Some(what) = what.map(|what| what.trim().to_string()) else {
        return Err(LoadError::Missing(Box::new(failed(
            task,
            if is_role {
                "'name' is a required field for include_role."
            } else {
                "No file specified for ansible.builtin.include_tasks"
            },
        ))));
    };
    // The include's own variables hold inside it, the loop's with them.
    let mut vars = local.clone();
    if let Some(own) = task.keywords.vars.last().filter(|layer| layer.kind == crate::playbook::VarsKind::Task)
    {
        let mut scope = planner.scope();
        scope.local.extend(local.iter().map(|(key, value)| (key.clone(), value.clone())));
        let bound = planner.bind(scope);
        for (name, value) in own.map.iter() {
            // A loop variable is gone by the time that the included tasks run; what uses it is settled now.
            let value = if local.is_empty() {
                value.clone()
            } else {
                shared.templar.render(value, &bound.context())?
            };
            vars.insert(name.clone(), value);
        }
    }
    let apply = args.get("apply").cloned();
    let key = format!(
        "{}\0{what}\0{}\0{}\0{}",
        task.id,
        Value::map(args.clone()).repr(),
        Value::map(vars.clone()).repr(),
        planner.play.play.path.display(),
    );
    let mut known = lock(&shared.included);
    if let Some(included) = known.get(&key) {
        return Ok(included.clone());
    }
    let ordinal = known.values().filter(|included| included.include_task == task.id).count() as u32;
    let render =
        |value: &Value, scope: &Map| -> Result<Value, Diagnostic> { shared.render_static(value, scope) };
    let context = LoadContext { render: &render };
    let play = &planner.play.play;
    let vars = Arc::new(vars);
    let missing = |error: Diagnostic| {
        let mut settled = failed(task, error.message.clone());
        settled.diagnostic = Some(error);
        LoadError::Missing(Box::new(settled))
    };
    let (shown, items, role, handlers) = if is_role {
        let wanted = include_role_args(&what, args);
        let brought =
            shared.loader.include_role(&wanted, task, &vars, play, &context).map_err(|mut errors| {
                // Only a role that is not there at all is a failure of the task.
                let absent = errors.first().is_some_and(crate::playbook::loader::is_missing_role);
                if absent { missing(errors.swap_remove(0)) } else { LoadError::Broken(errors) }
            })?;
        (what.clone(), brought.items, Some(brought.role), brought.handlers)
    } else {
        let path = shared.loader.find_include(&what, task, play).map_err(missing)?;
        let items = shared
            .loader
            .include_tasks(&path, task, &vars, apply.as_ref(), play, &context)
            .map_err(LoadError::Broken)?;
        (shown_path(&path), items, None, Vec::new())
    };
    let selected = select::by_tags(shared, play, items);
    let block = Item::Block(Arc::new(crate::playbook::Block {
        id: 0,
        name: None,
        origin: task.origin.clone(),
        block: selected,
        rescue: Vec::new(),
        always: Vec::new(),
        role: role.clone(),
    }));
    let included = Arc::new(Included { ordinal, include_task: task.id, what: shown, block, role, handlers });
    known.insert(key, included.clone());
    Ok(included)
}

fn shown_path(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()).to_string_lossy().into_owned()
}

/// The arguments of `include_role`, rendered.
fn include_role_args(name: &str, args: &Map) -> IncludeRole {
    let text = |key: &str| args.get(key).filter(|value| !value.is_null()).map(Value::to_text);
    let flag = |key: &str, default: bool| args.get(key).and_then(Value::to_bool).unwrap_or(default);
    IncludeRole {
        name: name.to_string(),
        tasks_from: text("tasks_from"),
        vars_from: text("vars_from"),
        defaults_from: text("defaults_from"),
        handlers_from: text("handlers_from"),
        public: flag("public", false),
        allow_duplicates: flag("allow_duplicates", true),
        apply: args.get("apply").cloned(),
        rolespec_validate: flag("rolespec_validate", true),
    }
}
