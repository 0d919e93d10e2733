//! One task for one host, decided: which items it has, which of them are skipped, what each would send to
//! which machine. Planning reads variables and the controller's files, and changes nothing, so that many
//! hosts are planned at once and ahead of their turn.

use std::path::PathBuf;
use std::sync::Arc;

use crate::diagnostic::Diagnostic;
use crate::engine::actions::{self, Effect};
use crate::engine::connect::{self, Machine};
use crate::engine::prepare::{self, After};
use crate::engine::shared::{PlayState, Shared};
use crate::event::TaskInfo;
use crate::module::{Scope as ModuleScope, registry};
use crate::playbook::{Loop, Task};
use crate::protocol::{Async, Call};
use crate::template::{Context, SearchPath, Templar, TemplateError, TemplateErrorKind};
use crate::transport::Become;
use crate::value::{Map, Value, Vars, map_of};
use crate::vars::{HostVars, Scope};

/// A task for one host, decided.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What is told of the task.
    pub info: Arc<TaskInfo>,
    /// Its items; exactly one if it has no loop.
    pub items: Vec<PlannedItem>,
    /// The loop, if it has one.
    pub looped: Option<Arc<LoopShape>>,
    /// Items from this one on need the results of earlier ones and are planned when those are there.
    pub rest: Option<Vec<Value>>,
    /// Keywords that are the same for all items, decided; for a task without a loop, all of them.
    pub flags: Flags,
}

impl Planned {
    /// The keywords of an item.
    pub fn flags_at(&self, index: usize) -> &Flags {
        self.items.get(index).map_or(&self.flags, |item| &item.flags)
    }

    /// Whether a keyword holds for one of the items.
    pub fn any(&self, keyword: impl Fn(&Flags) -> bool) -> bool {
        keyword(&self.flags) || self.items.iter().any(|item| keyword(&item.flags))
    }
}

/// Loop variables' names and what else is the same for all items.
#[derive(Clone, Debug)]
pub struct LoopShape {
    /// `loop_var`.
    pub var: String,
    /// `index_var`.
    pub index_var: Option<String>,
    /// All items.
    pub all: Arc<Vec<Value>>,
    /// `extended`.
    pub extended: bool,
    /// `extended_allitems`.
    pub extended_allitems: bool,
    /// Seconds between items.
    pub pause: f64,
}

/// Keywords that matter after the task has run.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `ignore_errors`.
    pub ignore_errors: bool,
    /// `ignore_unreachable`.
    pub ignore_unreachable: bool,
    /// `no_log`.
    pub no_log: bool,
    /// `any_errors_fatal`.
    pub any_errors_fatal: bool,
    /// `run_once`.
    pub run_once: bool,
    /// `diff`.
    pub diff: bool,
    /// It only simulates.
    pub check: bool,
    /// `retries`, if `until` or `retries` is given.
    pub retries: Option<u64>,
    /// `delay`, seconds.
    pub delay: f64,
    /// `throttle`; 0 for none.
    pub throttle: usize,
    /// `poll` of a detached task, seconds; `Some(0)` never polls.
    pub poll: Option<f64>,
    /// `async`, seconds.
    pub detach: u64,
    /// `delegate_facts`.
    pub delegate_facts: bool,
    /// The run is restricted to other tasks: nothing is done for this one and nobody is told of it.
    pub quiet: bool,
}

/// One item, decided.
#[derive(Clone, Debug)]
pub struct PlannedItem {
    /// The loop's variables, for judging the result.
    pub local: Map,
    /// The item, for `results`.
    pub item: Option<Value>,
    /// How the item is shown.
    pub label: Option<String>,
    /// What is to be done.
    pub step: Step,
    /// To whom it is delegated: inventory name and how it is shown.
    pub delegate: Option<(Arc<str>, String)>,
    /// Keywords, which may depend on the item.
    pub flags: Flags,
}

/// What is to be done for an item.
#[derive(Clone, Debug)]
pub enum Step {
    /// Nothing more: skipped, or failed while it was being decided.
    Done(Settled),
    /// The controller's own work, done; `effects` come true when its turn comes.
    Local {
        /// The outcome.
        settled: Settled,
        /// What it does to variables, inventory, … .
        effects: Vec<Effect>,
    },
    /// Work for a machine.
    Remote(Box<Remote>),
    /// Work that the engine itself does when the turn comes (`pause`, `wait_for_connection`, `reboot`).
    Engine {
        /// Which.
        action: String,
        /// Rendered arguments.
        args: Map,
        /// The machine that it is about.
        machine: Option<Arc<Machine>>,
        /// As whom.
        identity: Option<Arc<Become>>,
    },
}

/// An outcome that is known without a machine.
#[derive(Clone, Debug, Default)]
pub struct Settled {
    /// Return values, `failed`, `skipped`, `changed`, `msg` included.
    pub result: Map,
    /// Where to point for a failure.
    pub diagnostic: Option<Diagnostic>,
}

/// Work for a machine.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Which machine.
    pub machine: Arc<Machine>,
    /// As whom.
    pub identity: Option<Arc<Become>>,
    /// What is sent.
    pub call: Call,
    /// Sent to the login shell, without the runner.
    pub raw: Option<String>,
    /// What the controller does with the report.
    pub after: Option<After>,
    /// Its verdict depends on this host alone, so it may be verified ahead.
    pub verifiable: bool,
}

/// Why a task could not be planned.
#[derive(Debug)]
pub enum PlanError {
    /// It needs a result that is still out.
    Pending,
    /// The whole task fails (its loop can't be rendered, …).
    Failed(Box<Settled>),
}

impl From<TemplateError> for PlanError {
    fn from(error: TemplateError) -> PlanError {
        if matches!(error.kind, TemplateErrorKind::Pending) {
            return PlanError::Pending;
        }
        PlanError::Failed(Box::new(failure(&error)))
    }
}

/// What the value of an argument is wanted for, in the words that users know.
pub fn argument_of(action: &str, name: &str) -> String {
    format!("Finalization of task args for '{action}' failed: Error while resolving value for '{name}'")
}

/// What the value of a keyword is wanted for.
pub fn keyword(name: &str) -> String {
    format!("Error processing keyword '{name}'")
}

/// A failure of the controller's own making.
pub fn failure(error: &TemplateError) -> Settled {
    let told = error.told();
    let mut diagnostic = Diagnostic::error(told.as_str()).at(error.origin.clone());
    diagnostic.hint.clone_from(&error.hint);
    Settled {
        result: map_of([("failed", Value::Bool(true)), ("msg", Value::str(format!("Task failed: {told}")))]),
        diagnostic: Some(diagnostic),
    }
}

/// A failure with a message, pointing at the task.
pub fn failed(task: &Task, message: impl Into<String>) -> Settled {
    let message = message.into();
    Settled {
        result: map_of([("failed", Value::Bool(true)), ("msg", Value::str(message.as_str()))]),
        diagnostic: Some(Diagnostic::error(message).at(Some(task.origin.clone()))),
    }
}

/// Variables and search path together, as templates take them.
#[derive(Clone)]
pub struct Bound {
    /// Variables.
    pub vars: Arc<dyn Vars>,
    /// Where files are searched.
    pub search: Arc<SearchPath>,
}

impl Bound {
    /// The same, borrowed.
    pub fn context(&self) -> Context<'_> {
        Context { vars: &self.vars, search: &self.search }
    }
}

/// What planning looks at.
pub struct Planner<'a> {
    /// Of the run.
    pub shared: &'a Shared,
    /// Of the play.
    pub play: &'a PlayState,
    /// The task.
    pub task: &'a Arc<Task>,
    /// The host's variables.
    pub host: &'a Arc<HostVars>,
    /// Results of other tasks may be out.
    pub ahead: bool,
}

impl Planner<'_> {
    /// The task's scope on the host, without loop variables.
    pub fn scope(&self) -> Scope {
        let mut scope = Scope::of_host(&self.shared.vars, &self.play.vars, self.host);
        scope.role.clone_from(&self.task.role);
        scope.keywords = Some(self.task.keywords.clone());
        scope.ahead = self.ahead;
        scope.task = Some(self.task.clone());
        if !self.task.keywords.collections.is_empty() {
            let collection = self.task.keywords.collections[0].as_str();
            scope.local.insert(Value::str("ansible_collection_name"), Value::str(collection));
        }
        scope
    }

    /// A scope with the task's search path.
    pub fn bind(&self, scope: Scope) -> Bound {
        Bound { vars: Arc::new(scope), search: Arc::new(search_path(self.task, &self.play.play.path)) }
    }

    fn render(&self, value: &Value, bound: &Bound) -> Result<Value, TemplateError> {
        self.shared.templar.render(value, &bound.context())
    }

    /// The first of the conditions that does not hold.
    ///
    /// # Errors
    /// One can't be evaluated.
    pub fn condition(&self, conditions: &[Value], bound: &Bound) -> Result<Option<Value>, TemplateError> {
        for condition in conditions {
            if !self.shared.templar.condition(condition, &bound.context())? {
                return Ok(Some(condition.clone()));
            }
        }
        Ok(None)
    }

    fn flag(
        &self,
        value: Option<&Value>,
        name: &str,
        default: bool,
        bound: &Bound,
    ) -> Result<bool, PlanError> {
        let Some(value) = value else { return Ok(default) };
        if let Value::Bool(truth) = value {
            return Ok(*truth);
        }
        let value = self.render(value, bound).map_err(|error| error.wanted_for(keyword(name)))?;
        if matches!(value, Value::Null | Value::Omit) {
            return Ok(default);
        }
        value.to_bool().ok_or_else(|| self.bad_keyword(name, &value, "bool"))
    }

    fn number(&self, value: Option<&Value>, name: &str, bound: &Bound) -> Result<Option<f64>, PlanError> {
        let Some(value) = value else { return Ok(None) };
        let value = self.render(value, bound).map_err(|error| error.wanted_for(keyword(name)))?;
        let expected = if matches!(name, "delay" | "pause") { "float" } else { "int" };
        match &value {
            Value::Null | Value::Omit => Ok(None),
            #[expect(clippy::cast_precision_loss, reason = "seconds and counts are small")]
            Value::Int(number) => Ok(Some(*number as f64)),
            Value::Float(number) => Ok(Some(*number)),
            Value::Str(text) if text.text.is_empty() => Ok(None),
            Value::Str(text) => {
                text.text.trim().parse().map(Some).map_err(|_| self.bad_keyword(name, &value, expected))
            }
            _ => Err(self.bad_keyword(name, &value, expected)),
        }
    }

    fn bad_keyword(&self, name: &str, value: &Value, expected: &str) -> PlanError {
        let message =
            format!("{}: The value {} could not be converted to '{expected}'.", keyword(name), value.repr());
        let mut settled = failed(self.task, message.as_str());
        // A pause is between items, not within the task.
        let told = if name == "pause" { message } else { format!("Task failed: {message}") };
        settled.result.insert(Value::str("msg"), Value::str(told));
        PlanError::Failed(Box::new(settled))
    }

    /// What is told of the task: its title rendered for this host where that is possible.
    pub fn info(&self, check: bool) -> Arc<TaskInfo> {
        let name = match &self.task.name {
            Some(name) if !Templar::is_template(&name.to_text()) => name.to_text(),
            Some(name) => self
                .render(name, &self.bind(self.scope()))
                .map_or_else(|_| name.to_text(), |name| name.to_text()),
            None => String::new(),
        };
        let name = if name.is_empty() { self.task.action_written.clone() } else { name };
        let role = self.task.role.as_ref().map(|role| role.name.clone());
        let title = role.as_ref().map_or_else(|| name.clone(), |role| format!("{role} : {name}"));
        Arc::new(TaskInfo {
            id: self.task.id,
            title,
            name,
            role,
            action: self.task.action.clone(),
            origin: self.task.origin.clone(),
            handler: self.task.handler,
            check,
            args: None,
        })
    }

    /// Whether the run is restricted to other tasks. Handlers run if one of those notifies them.
    pub fn is_quiet(&self) -> bool {
        let only = self.shared.options.only.as_ref();
        !self.task.handler && only.is_some_and(|only| !only.allows(&self.host.name, &self.task.origin))
    }

    /// The keywords that are decided once, before the condition and the loop. The others have what holds as long
    /// as they are not given.
    fn task_flags(&self, bound: &Bound) -> Result<Flags, PlanError> {
        let keywords = &self.task.keywords;
        let options = &self.shared.options;
        let settings = &self.shared.settings;
        let quiet = self.is_quiet();
        let simulated = quiet || options.look_only;
        Ok(Flags {
            quiet,
            any_errors_fatal: self.flag(
                keywords.any_errors_fatal.as_ref(),
                "any_errors_fatal",
                settings.any_errors_fatal,
                bound,
            )?,
            run_once: self.flag(keywords.run_once.as_ref(), "run_once", false, bound)?,
            throttle: self.number(keywords.throttle.as_ref(), "throttle", bound)?.unwrap_or(0.0).max(0.0)
                as usize,
            ignore_errors: simulated,
            no_log: settings.no_log,
            diff: options.diff,
            check: simulated || options.check,
            ..Flags::default()
        })
    }

    /// Whether some keyword of [`Planner::item_flags`] is a template, and so may differ between items.
    fn flags_vary(&self) -> bool {
        let task = self.task;
        let keywords = &task.keywords;
        [
            &task.detach,
            &task.retries,
            &task.delay,
            &task.poll,
            &keywords.ignore_errors,
            &keywords.ignore_unreachable,
            &keywords.no_log,
            &keywords.diff,
            &keywords.check_mode,
            &keywords.delegate_facts,
        ]
        .into_iter()
        .flatten()
        .any(|value| value.as_str().is_some_and(Templar::is_template))
    }

    /// All keywords, for an item: `flags` is what was decided for all items.
    fn item_flags(&self, flags: &Flags, bound: &Bound) -> Result<Flags, PlanError> {
        let task = self.task;
        let keywords = &task.keywords;
        let options = &self.shared.options;
        let detach = self.number(task.detach.as_ref(), "async", bound)?.unwrap_or(0.0);
        let retries = self.number(task.retries.as_ref(), "retries", bound)?;
        let retries = match (retries, task.until.is_empty()) {
            (None, true) => None,
            (None, false) => Some(3),
            (Some(retries), _) => Some(retries.max(0.0) as u64),
        };
        let delay = self.number(task.delay.as_ref(), "delay", bound)?.unwrap_or(5.0);
        let poll = if detach > 0.0 {
            Some(self.number(task.poll.as_ref(), "poll", bound)?.unwrap_or(15.0))
        } else {
            None
        };
        let simulated = flags.quiet || options.look_only;
        Ok(Flags {
            ignore_errors: simulated
                || self.flag(keywords.ignore_errors.as_ref(), "ignore_errors", false, bound)?,
            ignore_unreachable: self.flag(
                keywords.ignore_unreachable.as_ref(),
                "ignore_unreachable",
                false,
                bound,
            )?,
            no_log: self.flag(keywords.no_log.as_ref(), "no_log", self.shared.settings.no_log, bound)?,
            diff: self.flag(keywords.diff.as_ref(), "diff", options.diff, bound)?,
            check: simulated
                || self.flag(keywords.check_mode.as_ref(), "check_mode", options.check, bound)?,
            retries,
            delay: if delay < 0.0 { 1.0 } else { delay },
            poll,
            detach: detach.max(0.0) as u64,
            delegate_facts: self.flag(keywords.delegate_facts.as_ref(), "delegate_facts", false, bound)?,
            ..*flags
        })
    }

    /// Decides the task.
    ///
    /// # Errors
    /// [`PlanError::Pending`] if it needs a result that is out; a failure of the whole task otherwise.
    pub fn plan(&self) -> Result<Planned, PlanError> {
        let bound = self.bind(self.scope());
        let mut flags = self.task_flags(&bound)?;
        if !self.flags_vary() {
            flags = self.item_flags(&flags, &bound)?;
        }
        let Some(looping) = &self.task.looping else {
            let item = self.item(self.scope(), &flags, None)?;
            let flags = item.flags.clone();
            let info = self.info(flags.check);
            return Ok(Planned { info, items: vec![item], looped: None, rest: None, flags });
        };
        let info = self.info(flags.check);
        let (shape, values) = match self.loop_items(looping, &bound) {
            Ok(found) => found,
            Err(PlanError::Failed(settled)) => {
                // An undefined list does not matter where the condition is false anyway.
                return match self.condition(&self.task.keywords.when, &bound) {
                    Ok(Some(condition)) => Ok(Planned {
                        info,
                        items: vec![PlannedItem {
                            local: Map::new(),
                            item: None,
                            label: None,
                            step: Step::Done(skipped(&condition)),
                            delegate: None,
                            flags: flags.clone(),
                        }],
                        looped: None,
                        rest: None,
                        flags,
                    }),
                    Err(error) if matches!(error.kind, TemplateErrorKind::Pending) => Err(PlanError::Pending),
                    _ => Err(PlanError::Failed(settled)),
                };
            }
            Err(pending) => return Err(pending),
        };
        let shape = Arc::new(shape);
        let mut planned =
            Planned { info, items: Vec::with_capacity(values.len()), looped: Some(shape), rest: None, flags };
        self.plan_items(&mut planned, values, None)?;
        Ok(planned)
    }

    /// Plans items until one needs the result of an earlier one; the rest stays in [`Planned::rest`].
    /// `previous` is the result of the item before, as the registered variable shows it during the loop.
    ///
    /// # Errors
    /// [`PlanError::Pending`] if even the first needs a result that is out.
    pub fn plan_items(
        &self,
        planned: &mut Planned,
        values: Vec<Value>,
        previous: Option<Value>,
    ) -> Result<(), PlanError> {
        let Some(shape) = planned.looped.clone() else { return Ok(()) };
        let breaks = self.task.looping.as_ref().is_some_and(|looping| !looping.break_when.is_empty());
        let one_at_a_time = breaks || shape.pause > 0.0;
        let mut values = values.into_iter().enumerate().peekable();
        while let Some((number, value)) = values.next() {
            let mut scope = self.scope();
            let index = planned.items.len();
            // Within a loop, what an item sets stands above the task's own variables.
            for item in &planned.items {
                let Step::Local { effects, .. } = &item.step else { continue };
                for effect in effects {
                    if let actions::Effect::SetFacts { vars, .. } | actions::Effect::IncludeVars(vars) =
                        effect
                    {
                        scope
                            .local
                            .extend(vars.iter().map(|(name, value)| (name.clone(), value.untrusted())));
                    }
                }
            }
            self.loop_locals(&mut scope.local, &shape, index, &value);
            if let Some(register) = &self.task.register {
                if number == 0 {
                    if let Some(previous) = &previous {
                        scope.local.insert(Value::str(register.as_str()), previous.clone());
                    }
                } else {
                    scope.local.insert(Value::str(register.as_str()), Value::Pending);
                }
            }
            match self.item(scope, &planned.flags, Some(value.clone())) {
                Ok(item) => planned.items.push(item),
                Err(PlanError::Pending) if number > 0 => {
                    planned.rest =
                        Some(std::iter::once(value).chain(values.map(|(_, value)| value)).collect());
                    return Ok(());
                }
                Err(PlanError::Pending) => return Err(PlanError::Pending),
                Err(PlanError::Failed(settled)) => {
                    let mut local = Map::new();
                    self.loop_locals(&mut local, &shape, index, &value);
                    let label = Some(value.to_text());
                    planned.items.push(PlannedItem {
                        local,
                        item: Some(value),
                        label,
                        step: Step::Done(*settled),
                        delegate: None,
                        flags: planned.flags.clone(),
                    });
                }
            }
            if one_at_a_time && values.peek().is_some() {
                planned.rest = Some(values.map(|(_, value)| value).collect());
                return Ok(());
            }
        }
        planned.rest = None;
        Ok(())
    }

    fn loop_items(&self, looping: &Loop, bound: &Bound) -> Result<(LoopShape, Vec<Value>), PlanError> {
        let context = bound.context();
        let templar = &self.shared.templar;
        let values = match &looping.lookup {
            None => {
                let value = templar.render_trusted(&looping.value, &context)?;
                match value {
                    Value::List(items) => items.as_ref().clone(),
                    other => {
                        return Err(PlanError::Failed(Box::new(failed(
                            self.task,
                            format!(
                                "The `loop` value must resolve to a 'list', not '{}'.",
                                other.type_name()
                            ),
                        ))));
                    }
                }
            }
            Some(lookup) => {
                // with_items: a list is flattened one level by the lookup; a scalar counts as one item.
                let value = templar.render_trusted(&looping.value, &context)?;
                let terms = match value {
                    Value::List(items) => items.as_ref().clone(),
                    other => vec![other],
                };
                templar.lookup(lookup, terms, Map::new(), &context).map_err(|error| match error.kind {
                    TemplateErrorKind::Lookup => {
                        let mut settled = failure(&error);
                        settled.result.insert(Value::str("msg"), Value::str(error.told()));
                        PlanError::Failed(Box::new(settled))
                    }
                    _ => PlanError::from(error),
                })?
            }
        };
        let name =
            |value: &Value| -> Result<String, PlanError> { Ok(templar.render(value, &context)?.to_text()) };
        let shape = LoopShape {
            var: name(&looping.var)?,
            index_var: looping.index_var.as_ref().map(name).transpose()?,
            all: Arc::new(values.clone()),
            extended: self.flag(looping.extended.as_ref(), "extended", false, bound)?,
            extended_allitems: self.flag(
                looping.extended_allitems.as_ref(),
                "extended_allitems",
                true,
                bound,
            )?,
            pause: self.number(looping.pause.as_ref(), "pause", bound)?.unwrap_or(0.0),
        };
        Ok((shape, values))
    }

    fn loop_locals(&self, local: &mut Map, shape: &LoopShape, index: usize, value: &Value) {
        local.insert(Value::str(shape.var.as_str()), value.clone());
        local.insert(Value::str("ansible_loop_var"), Value::str(shape.var.as_str()));
        if let Some(name) = &shape.index_var {
            local.insert(Value::str(name.as_str()), Value::from(index));
            local.insert(Value::str("ansible_index_var"), Value::str(name.as_str()));
        }
        if shape.extended {
            let length = shape.all.len();
            let mut extended = map_of([
                ("index", Value::from(index + 1)),
                ("index0", Value::from(index)),
                ("first", Value::Bool(index == 0)),
                ("last", Value::Bool(index + 1 == length)),
                ("length", Value::from(length)),
                ("revindex", Value::from(length - index)),
                ("revindex0", Value::from(length - index - 1)),
            ]);
            if shape.extended_allitems {
                extended.insert(Value::str("allitems"), Value::List(shape.all.clone()));
            }
            if index > 0 {
                extended.insert(Value::str("previtem"), shape.all[index - 1].clone());
            }
            if let Some(next) = shape.all.get(index + 1) {
                extended.insert(Value::str("nextitem"), next.clone());
            }
            local.insert(Value::str("ansible_loop"), Value::map(extended));
        }
    }

    fn item(&self, scope: Scope, flags: &Flags, item: Option<Value>) -> Result<PlannedItem, PlanError> {
        let local = scope.local.clone();
        let bound = self.bind(scope.clone());
        let label = match (&item, self.task.looping.as_ref().and_then(|looping| looping.label.as_ref())) {
            (Some(_), Some(label)) => match self.render(label, &bound) {
                Ok(label) => Some(label.to_text()),
                Err(error) if matches!(error.kind, TemplateErrorKind::Pending) => {
                    return Err(PlanError::Pending);
                }
                Err(_) => item.as_ref().map(Value::to_text),
            },
            (Some(item), None) => Some(item.to_text()),
            (None, _) => None,
        };
        let make = |step, delegate, flags: &Flags| PlannedItem {
            local: local.clone(),
            item: item.clone(),
            label: label.clone(),
            step,
            delegate,
            flags: flags.clone(),
        };
        match self.condition(&self.task.keywords.when, &bound) {
            Ok(None) => {}
            Ok(Some(condition)) => return Ok(make(Step::Done(skipped(&condition)), None, flags)),
            Err(error) if matches!(error.kind, TemplateErrorKind::Pending) => return Err(PlanError::Pending),
            // What fails with its condition may be ignored, if that can be known.
            Err(error) => {
                let own = self.item_flags(flags, &bound);
                return Ok(make(Step::Done(failure(&error)), None, own.as_ref().unwrap_or(flags)));
            }
        }
        let own;
        let flags = if self.flags_vary() {
            own = match self.item_flags(flags, &bound) {
                Ok(own) => own,
                Err(PlanError::Pending) => return Err(PlanError::Pending),
                Err(PlanError::Failed(settled)) => return Ok(make(Step::Done(*settled), None, flags)),
            };
            &own
        } else {
            flags
        };
        match self.work(scope, bound, flags) {
            Ok((step, delegate)) => Ok(make(step, delegate, flags)),
            Err(PlanError::Pending) => Err(PlanError::Pending),
            Err(PlanError::Failed(settled)) => Ok(make(Step::Done(*settled), None, flags)),
        }
    }

    /// The task's arguments, rendered, with `args: "{{ … }}"` and `module_defaults` below them.
    fn args(&self, action: &str, bound: &Bound) -> Result<Map, PlanError> {
        let mut args = Map::new();
        for defaults in &self.task.keywords.module_defaults {
            let defaults = self.render(defaults, bound)?;
            self.shared.add_module_defaults(action, &defaults, &mut args);
        }
        self.add_template_args(action, bound, &mut args)?;
        for (key, value) in self.task.args.iter() {
            let value = self.render(value, bound).map_err(|error| self.bad_argument(action, key, error))?;
            if !matches!(value, Value::Omit) {
                args.insert(key.clone(), value);
            }
        }
        Ok(args)
    }

    /// Arguments for actions that render their own: as they are written.
    fn raw_args(&self, action: &str, bound: &Bound) -> Result<Map, PlanError> {
        let mut args = Map::new();
        for defaults in &self.task.keywords.module_defaults {
            let defaults = self.render(defaults, bound)?;
            self.shared.add_module_defaults(action, &defaults, &mut args);
        }
        self.add_template_args(action, bound, &mut args)?;
        args.extend(self.task.args.iter().map(|(key, value)| (key.clone(), value.clone())));
        Ok(args)
    }

    /// Arguments that one template gives all together.
    fn add_template_args(&self, action: &str, bound: &Bound, args: &mut Map) -> Result<(), PlanError> {
        let Some(template) = &self.task.args_template else { return Ok(()) };
        match self.shared.templar.render_trusted(template, &bound.context())? {
            Value::Map(map) => args.extend(map.iter().map(|(key, value)| (key.clone(), value.clone()))),
            Value::Null | Value::Omit => {}
            other => {
                return Err(PlanError::Failed(Box::new(failed(
                    self.task,
                    format!(
                        "Finalization of task args for '{action}' failed: the arguments must be a mapping, not {}",
                        other.type_name()
                    ),
                ))));
            }
        }
        Ok(())
    }

    /// An argument that can't be rendered, in the words that users know.
    fn bad_argument(&self, action: &str, key: &Value, error: TemplateError) -> PlanError {
        error.wanted_for(argument_of(action, &key.to_text())).into()
    }

    fn work(
        &self,
        mut scope: Scope,
        mut bound: Bound,
        flags: &Flags,
    ) -> Result<(Step, Option<(Arc<str>, String)>), PlanError> {
        let action = if self.task.action.contains("{{") {
            let name = self.render(&Value::trusted(self.task.action.as_str()), &bound)?.to_text();
            self.shared.resolve_action(&name)
        } else {
            self.task.action.clone()
        };
        if matches!(action.as_str(), "ansible.builtin.include_tasks" | "ansible.builtin.include_role") {
            let args = self.args(&action, &bound)?;
            return Ok((Step::Engine { action, args, machine: None, identity: None }, None));
        }
        if flags.detach > 0 && actions::stays_attached(&action) {
            return Err(PlanError::Failed(Box::new(failed(
                self.task,
                format!("This action ({}) does not support async.", self.task.action_written),
            ))));
        }
        let delegate = self.delegate(&mut scope, &bound)?;
        if delegate.is_some() {
            bound = self.bind(scope.clone());
        }
        if let Some(run) = actions::find(&action) {
            let args = if actions::takes_raw_args(&action) {
                self.raw_args(&action, &bound)?
            } else {
                self.args(&action, &bound)?
            };
            let context = actions::ActionContext {
                shared: self.shared,
                play: self.play,
                task: self.task,
                context: bound.context(),
            };
            let outcome = run(&context, args)?;
            return Ok((
                Step::Local {
                    settled: Settled { result: outcome.result, diagnostic: outcome.diagnostic },
                    effects: outcome.effects,
                },
                delegate.map(|(name, shown, _)| (name, shown)),
            ));
        }
        let args = self.args(&action, &bound)?;
        let reached = match &delegate {
            Some((name, _, vars)) => {
                connect::Reached { name: name.clone(), vars: vars.clone(), delegated: true }
            }
            None => {
                connect::Reached { name: self.host.name.clone(), vars: self.host.clone(), delegated: false }
            }
        };
        let (args, machine, identity) = if action == actions::synchronize::NAME {
            let own =
                connect::Reached { name: self.host.name.clone(), vars: self.host.clone(), delegated: false };
            let delegate = reached.delegated.then_some(&reached);
            let ends = actions::synchronize::Ends { host: &own, delegate };
            actions::synchronize::arrange(self, &scope, &bound, &ends, args)?
        } else {
            let machine = connect::machine(self, &scope, &bound, &reached)?;
            (args, machine, connect::identity(self, &scope, &bound, &reached)?)
        };
        let shown = delegate.map(|(name, shown, _)| (name, shown));
        let raw_or_engine = actions::is_engine_action(&action) || action == "ansible.builtin.raw";
        if raw_or_engine && (flags.quiet || self.shared.options.look_only) {
            return Ok((Step::Done(skipped(&Value::Bool(false))), shown));
        }
        if actions::is_engine_action(&action) {
            return Ok((Step::Engine { action, args, machine: Some(machine), identity }, shown));
        }
        let mut environment = self.environment(&bound)?;
        self.add_job_directory(&scope, &bound, &mut environment)?;
        if action == "ansible.builtin.raw" {
            let command = args.get("_raw_params").map(Value::to_text).unwrap_or_default();
            let shell = args.get("executable").map(Value::to_text).filter(|shell| !shell.is_empty());
            let exports: String = environment
                .iter()
                .map(|(name, value)| format!("{name}={} ", connect::shell_quote(value)))
                .collect();
            let command = match shell {
                Some(shell) => format!("{exports}{shell} -c {}", connect::shell_quote(&command)),
                None => format!("{exports}{command}"),
            };
            let call = Call { module: action, ..Call::default() };
            let remote =
                Remote { machine, identity, call, raw: Some(command), after: None, verifiable: false };
            return Ok((Step::Remote(Box::new(remote)), shown));
        }
        let prepared = prepare::prepare(self.shared, self.task, &action, args, &bound)?;
        let Some(module) = registry::find(&prepared.module) else {
            return Err(PlanError::Failed(Box::new(failed(
                self.task,
                self.shared.unknown_module(&prepared.module),
            ))));
        };
        let verifiable = flags.detach == 0
            && (module.scope == ModuleScope::Host
                || prepared.args.contains_key("creates")
                || prepared.args.contains_key("removes"));
        let timeout = self
            .number(self.task.keywords.timeout.as_ref(), "timeout", &bound)?
            .filter(|seconds| *seconds > 0.0);
        // A job that is waited for needs no detaching: the channel stays open, and its limit is a time limit.
        let waited = flags.detach > 0 && flags.poll != Some(0.0);
        let detach =
            (flags.detach > 0 && !waited).then(|| Async { job: self.shared.new_job(), limit: flags.detach });
        let timeout = if waited {
            #[expect(clippy::cast_precision_loss, reason = "a limit in seconds is small")]
            let limit = flags.detach as f64;
            Some(timeout.map_or(limit, |timeout| timeout.min(limit)))
        } else {
            timeout
        };
        let call = Call {
            module: module.name.to_string(),
            args: Value::map(prepared.args),
            environment,
            diff: flags.diff,
            check: flags.check,
            timeout: timeout.map(|seconds| seconds as u64),
            detach,
            ..Call::default()
        };
        let remote = Remote { machine, identity, call, raw: None, after: prepared.after, verifiable };
        Ok((Step::Remote(Box::new(remote)), shown))
    }

    /// Where detached tasks leave their results, if the host's variables say so.
    fn add_job_directory(
        &self,
        scope: &Scope,
        bound: &Bound,
        environment: &mut Vec<(String, String)>,
    ) -> Result<(), PlanError> {
        const NAME: &str = "ANSIBLE_ASYNC_DIR";
        let concerned = self.task.detach.is_some() || self.task.action == "ansible.builtin.async_status";
        if concerned
            && !environment.iter().any(|(name, _)| name == NAME)
            && let Some(directory) = scope.get("ansible_async_dir")
        {
            environment.push((NAME.to_string(), self.render(&directory, bound)?.to_text()));
        }
        Ok(())
    }

    /// The variables of an entry that do not need the environment as a fact.
    fn without_environment_facts(&self, entry: &Value, bound: &Bound) -> Result<Value, PlanError> {
        let map = match entry {
            Value::List(entries) => {
                let entries = entries.iter().map(|entry| self.without_environment_facts(entry, bound));
                return Ok(Value::list(entries.collect::<Result<_, _>>()?));
            }
            Value::Map(map) => map,
            _ => return Ok(Value::Null),
        };
        let mut out = Map::new();
        for (name, value) in map.iter() {
            match self.render(value, bound) {
                Ok(value) => {
                    out.insert(name.clone(), value);
                }
                Err(error) if error.to_string().contains("ansible_env") => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Value::map(out))
    }

    fn environment(&self, bound: &Bound) -> Result<Vec<(String, String)>, PlanError> {
        let mut out: indexmap::IndexMap<String, String> = indexmap::IndexMap::new();
        let gathers =
            matches!(self.task.action.as_str(), "ansible.builtin.setup" | "ansible.builtin.gather_facts");
        for entry in &self.task.keywords.environment {
            let entry = match self.render(entry, bound) {
                // What gathering is to bring, gathering can't have.
                Err(error) if gathers && error.to_string().contains("ansible_env") => {
                    self.without_environment_facts(entry, bound)?
                }
                rendered => rendered.map_err(|error| error.wanted_for(keyword("environment")))?,
            };
            let maps: Vec<Value> = match entry {
                Value::List(items) => items.as_ref().clone(),
                Value::Null | Value::Omit => continue,
                other => vec![other],
            };
            for map in maps {
                let Value::Map(map) = &map else {
                    if map.as_str().is_some_and(str::is_empty) {
                        continue;
                    }
                    return Err(self.bad_keyword("environment", &map, "dict"));
                };
                for (name, value) in map.iter() {
                    out.insert(name.to_text(), value.to_text());
                }
            }
        }
        Ok(out.into_iter().collect())
    }

    fn delegate(
        &self,
        scope: &mut Scope,
        bound: &Bound,
    ) -> Result<Option<(Arc<str>, String, Arc<HostVars>)>, PlanError> {
        let Some(keyword) = &self.task.keywords.delegate_to else { return Ok(None) };
        let name = self.render(keyword, bound)?;
        if matches!(name, Value::Null | Value::Omit) {
            return Ok(None);
        }
        let name: Arc<str> = name.to_text().into();
        if name.is_empty() {
            return Err(PlanError::Failed(Box::new(failed(
                self.task,
                "Empty hostname produced from delegate_to: \"\"",
            ))));
        }
        let vars = self.shared.host_vars(&name);
        let mut other = Scope::of_host(&self.shared.vars, &self.play.vars, &vars);
        other.ahead = self.ahead;
        let address = match other.get("ansible_host") {
            Some(value) => Some(self.render(&value, &self.bind(other.clone()))?),
            None => None,
        };
        let shown = match address {
            Some(address) if address.to_text() != name.as_ref() => format!("{name}({})", address.to_text()),
            _ => name.to_string(),
        };
        let delegated: Arc<dyn crate::value::Lazy> =
            Arc::new(crate::vars::DelegatedVars { name: name.clone(), scope: other });
        scope.local.insert(Value::str("ansible_delegated_vars"), Value::Lazy(delegated));
        Ok(Some((name, shown, vars)))
    }
}

/// Where a task's files are searched: its roles, its file's directory, the playbook's.
pub fn search_path(task: &Task, playbook: &std::path::Path) -> SearchPath {
    let parent = |path: &std::path::Path| path.parent().map(PathBuf::from).unwrap_or_default();
    let mut dirs = Vec::new();
    if let Some(role) = &task.role {
        dirs.push(role.path.clone());
        dirs.extend(role.parents.iter().map(|parent| parent.path.clone()));
    }
    dirs.push(parent(&task.file));
    SearchPath { playbook_dir: parent(playbook), dirs, ..SearchPath::default() }
}

/// The result of a task whose condition is false.
pub fn skipped(condition: &Value) -> Settled {
    Settled {
        result: map_of([
            ("changed", Value::Bool(false)),
            ("skipped", Value::Bool(true)),
            ("skip_reason", Value::str("Conditional result was False")),
            ("false_condition", condition.untrusted()),
        ]),
        diagnostic: None,
    }
}
