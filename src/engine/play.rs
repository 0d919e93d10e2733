//! What a play needs before its first task: its name, hosts in order, batches, prompts, files of variables,
//! magic variables, the list of its items.

use std::collections::HashSet;
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::Settings;
use crate::diagnostic::Diagnostic;
use crate::engine::debugger;
use crate::engine::options::RunOptions;
use crate::engine::plan::Bound;
use crate::engine::run::{Strategy, sections};
use crate::engine::select;
use crate::engine::shared::PlayState;
use crate::engine::{Engine, Stop};
use crate::event::Event;
use crate::inventory::{GroupNames, LoadOptions};
use crate::playbook::loader::{LoaderOptions, Purpose};
use crate::playbook::{Item, Keywords, Play, Task};
use crate::template::SearchPath;
use crate::value::{Map, Value, map_of};
use crate::vars::cache::FactCache;
use crate::vars::{HostVars, PlayVars, Scope, language_version};
use crate::vault::Vault;

/// The name that banners show: the play's, or its host pattern.
pub(super) fn name(engine: &Engine, play: &Play) -> String {
    let render =
        |value: &Value| engine.shared.render_static(value, &play.vars).unwrap_or_else(|_| value.clone());
    let text = |value: &Value| match render(value) {
        Value::List(items) => items.iter().map(Value::to_text).collect::<Vec<_>>().join(","),
        other => other.to_text(),
    };
    match &play.name {
        Some(name) => text(name).trim().to_string(),
        None => text(&play.hosts),
    }
}

/// The names of a play's handlers; `None` if only running it tells them all, because it includes what may bring
/// more, or because a name depends on more than the play.
pub(super) fn handler_names(play: &Play) -> Option<HashSet<String>> {
    fn includes(items: &[Item]) -> bool {
        items.iter().any(|item| match item {
            Item::Task(task) => ["ansible.builtin.include_role", "ansible.builtin.include_tasks"]
                .contains(&task.action.as_str()),
            Item::Block(block) => {
                [&block.block, &block.rescue, &block.always].into_iter().any(|part| includes(part))
            }
        })
    }
    if [&play.pre_tasks, &play.role_tasks, &play.tasks, &play.post_tasks]
        .into_iter()
        .any(|part| includes(part))
    {
        return None;
    }
    // A name that is a template may read what only a role or a host knows.
    let name = |handler: &Arc<Task>| match &handler.name {
        Some(name) => Some(name.to_text()).filter(|name| !name.contains("{{")),
        None => Some(handler.action_written.clone()),
    };
    play.handlers.iter().map(name).collect()
}

fn wrong(play: &Play, message: String) -> Stop {
    Stop::Error(Diagnostic::error(message).at(Some(play.origin.clone())))
}

fn rendered(engine: &Engine, play: &Play, value: &Option<Value>) -> Result<Option<Value>, Stop> {
    match value {
        Some(value) => {
            let value = engine.shared.render_static(value, &play.vars).map_err(Stop::Error)?;
            Ok(Some(value).filter(|value| !matches!(value, Value::Null | Value::Omit)))
        }
        None => Ok(None),
    }
}

pub(super) fn strategy(engine: &mut Engine, play: &Play) -> Result<Strategy, Stop> {
    let name = rendered(engine, play, &play.strategy)?
        .map_or_else(|| engine.shared.settings.strategy.clone(), |value| value.to_text());
    match name.rsplit('.').next().unwrap_or_default() {
        "linear" => Ok(Strategy::Linear),
        // A debugger is part of every strategy; this one asks for it after each failure.
        "debug" if debugger::everywhere(&engine.shared.settings, play) => Ok(Strategy::Linear),
        // Mitogen's strategies are what users of it have in their settings; the plain ones take their place.
        "mitogen_linear" => Ok(Strategy::Linear),
        "free" | "mitogen_free" => Ok(Strategy::Free),
        "host_pinned" | "mitogen_host_pinned" => Ok(Strategy::HostPinned(engine.shared.options.forks)),
        _ => Err(wrong(
            play,
            format!(
                "the strategy `{name}` is not supported; linear, free, host_pinned and debug (without a template) are"
            ),
        )),
    }
}

pub(super) fn max_fail(engine: &Engine, play: &Play) -> Result<Option<f64>, Stop> {
    match rendered(engine, play, &play.max_fail_percentage)? {
        None => Ok(None),
        Some(value) => {
            let text = value.to_text();
            text.trim().trim_end_matches('%').parse().map(Some).map_err(|_| {
                wrong(
                    play,
                    format!("max_fail_percentage has the value {}, which is not a number", value.repr()),
                )
            })
        }
    }
}

/// Puts the hosts in the play's `order`.
pub(super) fn order(engine: &Engine, play: &Play, hosts: &mut [Arc<str>]) -> Result<(), Stop> {
    let Some(order) = rendered(engine, play, &play.order)? else { return Ok(()) };
    match order.to_text().as_str() {
        "inventory" => {}
        "reverse_inventory" => hosts.reverse(),
        "sorted" => hosts.sort(),
        "reverse_sorted" => {
            hosts.sort();
            hosts.reverse();
        }
        "shuffle" => {
            use rand::seq::SliceRandom;
            hosts.shuffle(&mut rand::rng());
        }
        other => {
            return Err(wrong(
                play,
                format!(
                    "`order: {other}` is not known: inventory, reverse_inventory, sorted, reverse_sorted or shuffle"
                ),
            ));
        }
    }
    Ok(())
}

/// The play's hosts in the batches that `serial` asks for.
pub(super) fn batches(engine: &Engine, play: &Play, hosts: &[Arc<str>]) -> Result<Vec<Vec<Arc<str>>>, Stop> {
    let mut sizes = Vec::new();
    for entry in &play.serial {
        let value = engine.shared.render_static(entry, &play.vars).map_err(Stop::Error)?;
        let entries = match value {
            Value::List(items) => items.as_ref().clone(),
            Value::Null | Value::Omit => continue,
            other => vec![other],
        };
        for entry in entries {
            let text = entry.to_text();
            let size = match text.trim().strip_suffix('%') {
                Some(percent) => percent.trim().parse::<f64>().ok().map(|percent| {
                    #[expect(clippy::cast_precision_loss, reason = "counts of hosts are small")]
                    let share = hosts.len() as f64 * percent / 100.0;
                    (share as usize).max(1)
                }),
                None => text
                    .trim()
                    .parse::<i64>()
                    .ok()
                    .map(|size| if size <= 0 { hosts.len() } else { size as usize }),
            };
            sizes.push(size.ok_or_else(|| {
                wrong(
                    play,
                    format!(
                        "serial has the value {}, which is neither a number nor a percentage",
                        entry.repr()
                    ),
                )
            })?);
        }
    }
    let Some(last) = sizes.last().copied() else { return Ok(vec![hosts.to_vec()]) };
    let mut batches = Vec::new();
    let mut rest = hosts;
    let mut sizes = sizes.into_iter();
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(last).min(rest.len());
        let (batch, others) = rest.split_at(size);
        batches.push(batch.to_vec());
        rest = others;
    }
    Ok(batches)
}

/// Asks for the play's `vars_prompt`.
pub(super) fn prompt(engine: &mut Engine, play: &Play) -> Result<Arc<Map>, Stop> {
    let mut answers = Map::new();
    for prompt in &play.vars_prompt {
        if engine.shared.options.extra_vars.contains_key(prompt.name.as_str()) {
            continue;
        }
        let default = rendered(engine, play, &prompt.default)?.map(|value| value.to_text());
        let question = rendered(engine, play, &prompt.prompt)?
            .map_or_else(|| prompt.name.clone(), |value| value.to_text());
        let shown = match &default {
            Some(default) if !prompt.private => format!("{question} [{default}]: "),
            _ => format!("{question}: "),
        };
        let answer = if std::io::stdin().is_terminal() {
            loop {
                let first = ask(&shown, prompt.private);
                if !prompt.confirm || first == ask(&format!("confirm {shown}"), prompt.private) {
                    break first;
                }
                let mut out = std::io::stdout();
                let _ = out.write_all(b"***** VALUES ENTERED DO NOT MATCH ****\n");
            }
        } else {
            engine.tell(Event::Diagnostic(Diagnostic::warning(format!(
                "Not prompting as we are not in interactive mode, `{}` keeps its default",
                prompt.name
            ))));
            String::new()
        };
        let answer = if answer.is_empty() { default.unwrap_or_default() } else { answer };
        let value = match &prompt.encrypt {
            Some(scheme) => {
                let salt = rendered(engine, play, &prompt.salt)?;
                let mut options = map_of([("hashtype", Value::str(scheme.as_str()))]);
                if let Some(salt) = salt {
                    options.insert(Value::str("salt"), salt);
                }
                let vars = map_of([("__prompted", Value::from(answer)), ("__options", Value::map(options))]);
                let expression = Value::trusted(
                    "{{ __prompted | password_hash(__options.hashtype, salt=__options.salt | default(none)) }}",
                );
                engine.shared.render_static(&expression, &vars).map_err(Stop::Error)?
            }
            None if prompt.is_unsafe => Value::from(answer),
            None => Value::trusted(answer),
        };
        answers.insert(Value::str(prompt.name.as_str()), value);
    }
    Ok(Arc::new(answers))
}

pub(super) fn ask(prompt: &str, hidden: bool) -> String {
    if hidden {
        return rpassword::prompt_password(prompt).unwrap_or_default();
    }
    let mut out = std::io::stdout();
    let _ = out.write_all(prompt.as_bytes()).and_then(|()| out.flush());
    let mut line = String::new();
    let _ = std::io::stdin().lock().read_line(&mut line);
    line.trim_end_matches('\n').to_string()
}

/// Everything that hosts of the play do, in order, with tags applied.
pub(super) fn items(engine: &Engine, play: &Play) -> Arc<[Item]> {
    let shared = &engine.shared;
    let flush = Arc::new(implicit(
        play,
        u64::MAX,
        "ansible.builtin.meta",
        map_of([("_raw_params", Value::str("flush_handlers"))]),
        None,
    ));
    let gather = gathers(engine, play).then(|| {
        let mut args = Map::new();
        for (name, value) in [
            ("gather_subset", &play.gather_subset),
            ("gather_timeout", &play.gather_timeout),
            ("fact_path", &play.fact_path),
        ] {
            if let Some(value) = value {
                args.insert(Value::str(name), value.clone());
            }
        }
        let mut task = implicit(play, u64::MAX - 1, "ansible.builtin.setup", args, Some("Gathering Facts"));
        let mut keywords = play.keywords.as_ref().clone();
        if keywords.tags.is_empty() {
            keywords.tags.push(Value::str("always"));
        }
        task.keywords = Arc::new(keywords);
        Arc::new(task)
    });
    let items = sections(play, gather, &flush);
    let mut items = select::by_tags(shared, play, items);
    if let Some(start) = &shared.options.start_at_task {
        items = start_at(items, start);
    }
    items.into()
}

/// Leaves out what comes before the first task of this name (or matching pattern); implicit tasks stay.
fn start_at(items: Vec<Item>, start: &str) -> Vec<Item> {
    let pattern = glob::Pattern::new(start).ok();
    let matches = |task: &Task| {
        let Some(name) = task.name.as_ref().map(Value::to_text) else { return false };
        let full = task.role.as_ref().map(|role| format!("{} : {name}", role.name));
        let hit = |name: &str| name == start || pattern.as_ref().is_some_and(|pattern| pattern.matches(name));
        hit(&name) || full.as_deref().is_some_and(hit)
    };
    let mut found = false;
    let mut out = Vec::new();
    for item in items {
        match item {
            Item::Task(task) => {
                found |= matches(&task);
                if found || task.implicit {
                    out.push(Item::Task(task));
                }
            }
            Item::Block(block) if !found => {
                let inner = start_at(block.block.clone(), start);
                let hit = inner.iter().any(|item| match item {
                    Item::Task(task) => !task.implicit,
                    Item::Block(_) => true,
                });
                if hit {
                    found = true;
                    out.push(Item::Block(Arc::new(crate::playbook::Block {
                        id: block.id,
                        name: block.name.clone(),
                        origin: block.origin.clone(),
                        block: inner,
                        rescue: block.rescue.clone(),
                        always: block.always.clone(),
                        role: block.role.clone(),
                    })));
                }
            }
            block => out.push(block),
        }
    }
    out
}

fn gathers(engine: &Engine, play: &Play) -> bool {
    match &play.gather_facts {
        Some(value) => engine
            .shared
            .render_static(value, &play.vars)
            .ok()
            .and_then(|value| value.to_bool())
            .unwrap_or(true),
        None => engine.shared.settings.gathering != "explicit",
    }
}

fn implicit(play: &Play, id: u64, action: &str, args: Map, name: Option<&str>) -> Task {
    Task {
        id,
        name: name.map(Value::str),
        origin: play.origin.clone(),
        file: Arc::new(play.path.clone()),
        included_from: Vec::new(),
        action: action.to_string(),
        action_written: action.rsplit('.').next().unwrap_or(action).to_string(),
        args: Arc::new(args),
        args_template: None,
        keywords: Arc::new(Keywords { tags: vec![Value::str("always")], ..Keywords::default() }),
        register: None,
        looping: None,
        until: Vec::new(),
        retries: None,
        delay: None,
        changed_when: None,
        failed_when: None,
        notify: Vec::new(),
        listen: Vec::new(),
        detach: None,
        poll: None,
        role: None,
        handler: false,
        implicit: true,
        around: None,
    }
}

/// The names of the roles that a role depends on, directly or not.
fn add_dependencies(role: &crate::playbook::Role, names: &mut Vec<Arc<str>>) {
    for dependency in &role.dependencies {
        let name: Arc<str> = dependency.name.as_str().into();
        if !names.contains(&name) {
            names.push(name);
            add_dependencies(dependency, names);
        }
    }
}

/// Leaves out the gathering of facts at the start of a play.
pub(super) fn skip_gathering(cursor: &mut crate::engine::cursor::Cursor) {
    if let Some((task, _)) = cursor.peek()
        && task.implicit
        && matches!(task.action.as_str(), "ansible.builtin.setup" | "ansible.builtin.gather_facts")
    {
        cursor.advance(false);
    }
}

/// The fact cache that the settings ask for, emptied if the command line says so.
pub(super) fn fact_cache(
    options: &RunOptions,
    settings: &Settings,
    inventory: &crate::inventory::Inventory,
) -> std::io::Result<FactCache> {
    let cache = FactCache::open(
        &settings.fact_caching,
        settings.fact_caching_connection.as_deref(),
        // The setting's default is not part of the files' names.
        if settings.is_given("CACHE_PLUGIN_PREFIX") { &settings.fact_caching_prefix } else { "" },
        Duration::from_secs(settings.fact_caching_timeout),
    )
    .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error.to_string()))?;
    if options.flush_cache {
        cache.flush(inventory.hosts().map(|host| host.name.as_ref()).chain(["localhost"]));
    }
    Ok(cache)
}

/// What a loader of playbooks in these directories needs to know.
pub fn loader_options(
    playbook_dirs: &[PathBuf],
    settings: &Settings,
    vault: &Arc<Vault>,
    purpose: Purpose,
) -> LoaderOptions {
    // Collections beside a playbook are searched first.
    let beside = playbook_dirs.iter().map(|dir| dir.join("collections"));
    let folders = |key: &str| {
        let value = settings.setting(key).map(|setting| &setting.value);
        value.and_then(Value::as_list).unwrap_or_default().iter().map(|dir| PathBuf::from(dir.to_text()))
    };
    LoaderOptions {
        roles_path: settings.roles_path.clone(),
        collections_paths: beside.chain(settings.collections_path.iter().cloned()).collect(),
        vault: Arc::clone(vault),
        module_paths: folders("DEFAULT_MODULE_PATH").chain(folders("DEFAULT_ACTION_PLUGIN_PATH")).collect(),
        purpose,
        private_role_vars: settings.private_role_vars,
    }
}

fn names_value(names: &[Arc<str>]) -> Value {
    Value::list(names.iter().map(|name| Value::str(name.clone())).collect())
}

/// What a batch of the play shares.
pub(super) fn state(
    engine: &Engine,
    play: &Arc<Play>,
    prompted: Arc<Map>,
    all: &[Arc<str>],
    batch: &[Arc<str>],
    later: &[Arc<str>],
    handlers: Arc<[Arc<Task>]>,
) -> PlayState {
    let path = std::path::absolute(&play.path).unwrap_or_else(|_| play.path.clone());
    let dir = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut hosts = batch.to_vec();
    hosts.extend(later.iter().cloned());
    let named = play.roles.iter().filter(|role| role.parents.is_empty());
    let roles: Vec<Arc<str>> = named.map(|role| role.name.as_str().into()).collect();
    let mut dependent: Vec<Arc<str>> = Vec::new();
    play.roles.iter().for_each(|role| add_dependencies(role, &mut dependent));
    let every: Vec<Arc<str>> =
        roles.iter().chain(&dependent).cloned().collect::<indexmap::IndexSet<_>>().into_iter().collect();
    let magic = map_of([
        ("ansible_play_name", Value::from(name(engine, play))),
        ("ansible_play_hosts_all", names_value(all)),
        ("ansible_play_hosts", names_value(&hosts)),
        ("play_hosts", names_value(&hosts)),
        ("ansible_play_batch", names_value(batch)),
        ("ansible_play_role_names", names_value(&roles)),
        ("ansible_dependent_role_names", names_value(&dependent)),
        ("ansible_role_names", names_value(&every)),
        ("role_names", names_value(&roles)),
        ("playbook_dir", Value::str(dir.to_string_lossy())),
        ("_later_hosts", names_value(later)),
    ]);
    let vars = PlayVars {
        vars: play.vars.clone(),
        prompted,
        public_roles: play.roles.iter().filter(|role| role.public).cloned().collect(),
        magic,
    };
    PlayState { play: play.clone(), vars: Arc::new(vars), handlers }
}

/// The play's `vars_files` for one host. Files that are not there are passed over, as are names that need
/// variables which are not known yet.
pub(super) fn vars_files(
    engine: &mut Engine,
    play: &Arc<Play>,
    state: &PlayState,
    host: &HostVars,
) -> Result<Arc<Vec<Arc<Map>>>, Stop> {
    let mut files = Vec::new();
    if play.vars_files.is_empty() {
        return Ok(Arc::default());
    }
    let mut host = host.clone();
    for entry in &play.vars_files {
        host.files = Arc::new(files.clone());
        let scope = Scope::of_host(&engine.shared.vars, &state.vars, &Arc::new(host.clone()));
        let dir = play.path.parent().map(Path::to_path_buf).unwrap_or_default();
        let search = Arc::new(SearchPath { playbook_dir: dir, ..SearchPath::default() });
        let bound = Bound { vars: Arc::new(scope), search };
        let candidates = match entry {
            Value::List(items) => items.as_ref().clone(),
            other => vec![other.clone()],
        };
        for candidate in candidates {
            let Ok(name) = engine.shared.templar.render(&candidate, &bound.context()) else {
                continue;
            };
            let names = match &name {
                Value::List(items) => items.iter().map(Value::to_text).collect(),
                other => vec![other.to_text()],
            };
            let found = names.iter().find_map(|name| bound.search.find("vars", name).ok());
            if let Some(path) = found {
                files.push(engine.shared.vars_file(&path).map_err(Stop::Error)?);
                break;
            }
        }
    }
    Ok(Arc::new(files))
}

/// Magic variables that do not change in a run.
pub(super) fn run_magic(options: &RunOptions, settings: &Settings, playbook_dir: &Path) -> Map {
    let list = |items: &[String]| Value::list(items.iter().map(|item| Value::str(item.as_str())).collect());
    let dir = std::path::absolute(playbook_dir).unwrap_or_else(|_| playbook_dir.to_path_buf());
    let sources: Vec<String> = options
        .inventory
        .iter()
        .map(|source| {
            if source.contains(',') {
                source.clone()
            } else {
                std::path::absolute(source)
                    .map_or_else(|_| source.clone(), |path| path.to_string_lossy().into_owned())
            }
        })
        .collect();
    map_of([
        ("ansible_version", language_version()),
        ("ansible_check_mode", Value::Bool(options.check)),
        ("ansible_diff_mode", Value::Bool(options.diff)),
        ("ansible_forks", Value::from(options.forks)),
        ("ansible_verbosity", Value::Int(options.verbosity.into())),
        (
            "ansible_run_tags",
            if options.tags.is_empty() { list(&["all".into()]) } else { list(&options.tags) },
        ),
        ("ansible_skip_tags", list(&options.skip_tags)),
        ("ansible_inventory_sources", list(&sources)),
        ("ansible_limit", options.limit.clone().map_or(Value::Null, Value::from)),
        (
            "ansible_config_file",
            settings.ansible_cfg.as_ref().map_or(Value::Null, |path| Value::str(path.to_string_lossy())),
        ),
        ("ansible_playbook_python", Value::str(crate::inventory::CONTROLLER_PYTHON)),
        ("playbook_dir", Value::str(dir.to_string_lossy())),
    ])
    .into_iter()
    .filter(|(key, value)| key.as_str() != Some("ansible_limit") || !value.is_null())
    .collect()
}

/// How hosts are reached where nothing else says.
pub(super) fn transport_settings(options: &RunOptions, settings: &Settings) -> crate::transport::Settings {
    let mut transport = crate::transport::Settings::from_environment();
    let text = |text: &str| Some(text.to_string()).filter(|text| !text.trim().is_empty());
    transport.connection.clone_from(&settings.transport);
    transport.remote_user = options.remote_user.clone().or_else(|| settings.remote_user.clone());
    transport.remote_port = settings.remote_port;
    transport.private_key = options.private_key.clone().or_else(|| settings.private_key_file.clone());
    transport.password.clone_from(&options.connection_password);
    transport.timeout = Some(Duration::from_secs(options.timeout.unwrap_or(settings.timeout)));
    transport.host_key_checking =
        settings.is_given("HOST_KEY_CHECKING").then_some(settings.host_key_checking);
    transport.retries = u32::try_from(settings.ssh_retries).unwrap_or(0);
    transport.ssh_args = settings.ssh_args.as_deref().and_then(text);
    transport.ssh_common_args = options.ssh_common_args.clone().or_else(|| text(&settings.ssh_common_args));
    transport.ssh_extra_args = options.ssh_extra_args.clone().or_else(|| text(&settings.ssh_extra_args));
    if !settings.ssh_executable.is_empty() {
        transport.ssh_executable = PathBuf::from(&settings.ssh_executable);
    }
    transport
}

/// What templates see of how hosts are reached, where neither variables nor keywords say so.
pub(super) fn connection_vars(options: &RunOptions, settings: &Settings) -> Map {
    let mut vars = Map::new();
    let connection = options.connection.as_ref().unwrap_or(&settings.transport);
    vars.insert(Value::str("ansible_connection"), Value::str(connection.as_str()));
    if let Some(user) = options.remote_user.as_ref().or(settings.remote_user.as_ref()) {
        vars.insert(Value::str("ansible_user"), Value::str(user.as_str()));
        vars.insert(Value::str("ansible_ssh_user"), Value::str(user.as_str()));
    }
    if let Some(port) = settings.remote_port {
        vars.insert(Value::str("ansible_port"), Value::Int(i64::from(port)));
        vars.insert(Value::str("ansible_ssh_port"), Value::Int(i64::from(port)));
    }
    vars
}

/// How inventories are read.
pub fn inventory_options(settings: &Settings, vault: &Vault) -> LoadOptions {
    LoadOptions {
        vault: vault.clone(),
        ignore_extensions: settings.inventory_ignore_extensions.clone(),
        ignore_patterns: settings.inventory_ignore_patterns.clone(),
        merge_hashes: settings.hash_merge,
        group_names: match settings.force_valid_group_names.as_str() {
            "always" => GroupNames::Replaced,
            "silently" => GroupNames::ReplacedSilently,
            "ignore" => GroupNames::KeptSilently,
            _ => GroupNames::Kept,
        },
        ..LoadOptions::default()
    }
}

/// Who runs this, for the lock that changing runs take.
pub(super) fn operator() -> String {
    let user = rustix::process::getuid().as_raw();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("uid {user} on {host} (pid {})", std::process::id())
}

/// Puts a file that came from a host in place, at once; tells whether it differs from what was there, and its
/// SHA-1.
///
/// # Errors
/// If it can't be written.
pub(super) fn place_fetched(received: &Path, dest: &Path) -> std::io::Result<(bool, String)> {
    if let Some(dir) = dest.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let new = sha1_of(received)?;
    let same = dest.is_file() && sha1_of(dest)? == new;
    if same {
        std::fs::remove_file(received)?;
    } else {
        let mut temporary = dest.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        std::fs::copy(received, &temporary)?;
        std::fs::rename(&temporary, dest)?;
        std::fs::remove_file(received)?;
    }
    Ok((!same, new))
}

fn sha1_of(path: &Path) -> std::io::Result<String> {
    use sha1::{Digest, Sha1};
    let mut digest = Sha1::new();
    std::io::copy(&mut std::fs::File::open(path)?, &mut digest)?;
    Ok(crate::engine::blobs::hex(&digest.finalize()))
}
