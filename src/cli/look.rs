//! What is answered from files alone, with no host touched: `--syntax-check`, `--list-hosts`, `--list-tasks`,
//! `--list-tags`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Console;
use super::exit::Exit;
use super::failure::Failure;
use super::run::Prepared;
use crate::config::Settings;
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::engine::{inventory_options, loader_options};
use crate::inventory::Inventory;
use crate::playbook::Play;
use crate::playbook::listing::{Lookups, What, listing};
use crate::playbook::loader::{LoadContext, Loader, Purpose};
use crate::template::{Context, Options, SearchPath, Templar};
use crate::value::{Map, Value, Vars};
use crate::vault::Vault;

/// Variables from maps, the first that has a name wins.
#[derive(Debug)]
struct Maps(Vec<Arc<Map>>);

impl Vars for Maps {
    fn get(&self, name: &str) -> Option<Value> {
        self.0.iter().find_map(|map| map.get(name)).cloned()
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.0.iter().flat_map(|map| map.keys()).filter_map(Value::as_str).map(Arc::from).collect()
    }
}

/// Renders what may hold templates over variables of files and of the command line.
pub(super) struct Renderer {
    templar: Templar,
    extra: Arc<Map>,
    search: Arc<SearchPath>,
}

impl Renderer {
    pub(super) fn new(
        vault: &Vault,
        settings: &Settings,
        extra: Arc<Map>,
        directory: &Path,
        cwd: &Path,
    ) -> Renderer {
        let vault = vault.clone();
        let decrypt = move |text: &crate::value::VaultText| {
            let plain = vault.decrypt_bytes(text.envelope.as_bytes()).map_err(|error| error.to_string())?;
            Ok(String::from_utf8_lossy(&plain).into_owned())
        };
        let options = Options {
            vault: Arc::new(decrypt),
            allow_broken_conditionals: settings.allow_broken_conditionals,
            services: None,
        };
        let search = SearchPath { playbook_dir: directory.to_owned(), dirs: Vec::new(), cwd: cwd.to_owned() };
        Renderer { templar: Templar::new(options), extra, search: Arc::new(search) }
    }

    /// Renders a value; `vars` below the extra variables.
    pub(super) fn render(&self, value: &Value, vars: &Map) -> Result<Value, Diagnostic> {
        let maps = Maps(vec![Arc::clone(&self.extra), Arc::new(vars.clone())]);
        let vars: Arc<dyn Vars> = Arc::new(maps);
        let context = Context { vars: &vars, search: &self.search };
        self.templar
            .render(value, &context)
            .map_err(|error| Diagnostic::error(error.to_string()).at(value.origin().cloned()))
    }
}

/// Reads the inventory of a run. Its warnings are shown.
///
/// # Errors
/// Nothing can be read, and the settings make that an error.
pub(super) fn inventory(
    sources: &[String],
    settings: &Settings,
    vault: &Vault,
    console: &Console,
) -> Result<Inventory, Failure> {
    let options = inventory_options(settings, vault);
    // The default inventory need not be there.
    let sources: Vec<String> = sources
        .iter()
        .filter(|source| {
            settings.is_given("DEFAULT_HOST_LIST")
                || *source != "/etc/ansible/hosts"
                || Path::new(source).exists()
        })
        .cloned()
        .collect();
    let (inventory, warnings) = Inventory::load(&sources, &options)
        .map_err(|diagnostics| Failure { exit: Exit::Error, diagnostics })?;
    for warning in &warnings {
        console.tell(warning);
    }
    Ok(inventory)
}

/// Lists what was asked for, or only checks.
///
/// # Errors
/// All that is wrong with a playbook.
pub(super) fn look(prepared: &Prepared, console: &Console) -> Result<Exit, Failure> {
    let options = &prepared.options;
    let settings = &prepared.settings;
    let inventory = inventory(&options.inventory, settings, &prepared.vault, console)?;
    if let Some(limit) = &options.limit {
        check_limit(&inventory, limit)?;
    }
    // A list of tasks is one of names: whether what they would do could be done is not asked.
    let lists = options.list_hosts || options.list_tasks || options.list_tags;
    let purpose = if lists { Purpose::List } else { Purpose::Check };
    let dirs: Vec<PathBuf> = options.playbooks.iter().map(|path| directory_of(path)).collect();
    let vault = Arc::new(prepared.vault.clone());
    let loader = Loader::new(loader_options(&dirs, settings, &vault, purpose));
    let what = What {
        hosts: options.list_hosts,
        tasks: options.list_tasks,
        tags: options.list_tags,
        only: options.tags.clone(),
        skip: options.skip_tags.clone(),
    };
    for path in &options.playbooks {
        let directory = directory_of(path);
        let renderer = Renderer::new(
            &prepared.vault,
            settings,
            Arc::clone(&options.extra_vars),
            &directory,
            &console.around.cwd,
        );
        let render = |value: &Value, vars: &Map| renderer.render(value, vars);
        let (playbook, warnings) =
            loader.playbook(path, &LoadContext { render: &render }).map_err(Failure::parse)?;
        for warning in &warnings {
            console.tell(warning);
        }
        let lookups = Lookups {
            hosts: &|play: &Play| hosts(play, &inventory, options.limit.as_deref(), &renderer, console),
            render: &|value: &Value, play: &Play| {
                renderer.render(value, &play.vars).unwrap_or_else(|_| value.clone())
            },
        };
        console.print(&listing(&playbook, &path.display().to_string(), &what, &lookups))?;
    }
    Ok(Exit::Success)
}

fn directory_of(playbook: &Path) -> PathBuf {
    playbook.parent().map(Path::to_owned).unwrap_or_default()
}

/// A limit that selects nothing is a mistake.
pub(super) fn check_limit(inventory: &Inventory, limit: &str) -> Result<(), Failure> {
    let failure = |problem: Diagnostic| Failure { exit: Exit::Error, diagnostics: vec![problem] };
    let selection = inventory.select("all", Some(limit)).map_err(failure)?;
    let implicit = inventory.select(limit, None).map_err(failure)?;
    if !selection.hosts.is_empty() || !implicit.hosts.is_empty() {
        return Ok(());
    }
    let problem = Diagnostic::error(format!("the limit `{limit}` matches no host"));
    let names: Vec<Arc<str>> = inventory.hosts_in_order();
    Err(failure(match did_you_mean(limit, names.iter().map(AsRef::as_ref)) {
        Some(meant) => problem.hint(format!("did you mean `{meant}`?")),
        None => problem,
    }))
}

fn hosts(
    play: &Play,
    inventory: &Inventory,
    limit: Option<&str>,
    renderer: &Renderer,
    console: &Console,
) -> Vec<Arc<str>> {
    let patterns = renderer.render(&play.hosts, &play.vars).unwrap_or_else(|_| play.hosts.clone());
    let patterns: Vec<String> = match &patterns {
        Value::Omit => return Vec::new(),
        Value::List(items) => items.iter().map(Value::to_text).collect(),
        other => vec![other.to_text()],
    };
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    match inventory.select_all(&patterns, limit) {
        Ok(selection) => {
            for warning in &selection.warnings {
                console.tell(warning);
            }
            selection.hosts
        }
        Err(problem) => {
            console.tell(&problem);
            Vec::new()
        }
    }
}

/// The hosts of an ad-hoc run.
///
/// # Errors
/// The inventory or the pattern can't be read.
pub(super) fn list_hosts(prepared: &Prepared, pattern: &str, console: &Console) -> Result<Exit, Failure> {
    let options = &prepared.options;
    let inventory = inventory(&options.inventory, &prepared.settings, &prepared.vault, console)?;
    if let Some(limit) = &options.limit {
        check_limit(&inventory, limit)?;
    }
    let selection = inventory
        .select(pattern, options.limit.as_deref())
        .map_err(|problem| Failure { exit: Exit::Error, diagnostics: vec![problem] })?;
    for warning in &selection.warnings {
        console.tell(warning);
    }
    let lines: String = selection.hosts.iter().map(|host| format!("    {host}\n")).collect();
    console.print(&format!("  hosts ({}):\n{lines}", selection.hosts.len()))?;
    Ok(Exit::Success)
}
