//! The engine: one owner of a run's state on one thread. It decides what each host does next, hands batches
//! to sessions, folds what comes back, and emits events.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::Settings;
use crate::diagnostic::Diagnostic;
use crate::event::{Event, HostStats, Listener, Progress, TaskResult, Verdict};
use crate::inventory::Inventory;
use crate::playbook::loader::{LoadContext, Loader, Purpose};
use crate::playbook::{Item, Play, Playbook, Task};
use crate::session::{SessionEvent, Sessions};
use crate::template::{Options as TemplateOptions, Templar};
use crate::value::{Map, Value, map_of};
use crate::vars::{HostVars, RunVars, VarSettings};
use crate::vault::Vault;

use self::actions::Effect;
use self::cursor::Cursor;
use self::host::Host;
use self::prepare::After;
use self::run::PlayRun;
use self::shared::{PlayState, Shared};

pub mod actions;
pub mod ahead;
pub mod blobs;
mod charset;
mod confirm;
pub mod connect;
pub mod cursor;
pub mod debugger;
mod doubt;
pub mod host;
pub mod include;
pub mod options;
pub use options::{RollbackScope, RunOptions};
pub use play::{inventory_options, loader_options};
mod pause;
pub mod plan;
mod play;
pub mod prepare;
pub mod reconnect;
pub mod run;
mod select;
pub mod settle;
pub mod shared;

/// What ends a run before its time.
#[derive(Debug)]
pub enum Stop {
    /// Something that the user wrote, or that is missing; exit code 1.
    Error(Diagnostic),
    /// Things that the user wrote, found before any host was touched; exit code 4.
    Syntax(Vec<Diagnostic>),
    /// Ctrl-C; exit code 99.
    Interrupted,
    /// A bug of ours; exit code 250.
    Bug(String),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunEnd {
    /// Some host failed.
    pub failed: bool,
    /// Some host could not be reached.
    pub unreachable: bool,
    /// Something was changed, or would be.
    pub changed: bool,
}

/// Ctrl-C, counted: once, nothing new starts; twice, connections are cut.
pub type Interrupt = Arc<AtomicU32>;

/// A run.
pub struct Engine {
    /// What it shares and does not change.
    pub shared: Arc<Shared>,
    sessions: Sessions,
    events: Receiver<SessionEvent>,
    listeners: Vec<Box<dyn Listener>>,
    stats: BTreeMap<Arc<str>, HostStats>,
    custom_stats: BTreeMap<Arc<str>, Map>,
    failed: HashSet<Arc<str>>,
    unreachable: HashSet<Arc<str>>,
    batches: u64,
    interrupt: Interrupt,
    pending_stop: Option<Stop>,
    /// Variables with reserved names that were warned about, with where they were written.
    reserved: HashSet<(Arc<str>, Option<String>)>,
    progress_at: Instant,
    receiving: HashMap<(u64, u32), PathBuf>,
    touched: confirm::Touched,
    inventory_sources: Vec<String>,
    /// What tasks added to the inventory, for whom: done again when it is read again.
    additions: Vec<(Option<Arc<str>>, Effect)>,
    /// The playbook that runs, or ran last.
    current: Option<PathBuf>,
    /// `--step`: every task is asked for.
    stepping: bool,
    /// Handlers that earlier runs have notified and not run.
    owed: Vec<options::OwedHandler>,
    /// Absolute path of the playbook at hand.
    playbook: String,
}

/// What a run is made of, beyond options and settings.
pub struct Parts {
    /// The inventory.
    pub inventory: Inventory,
    /// Opens vaults.
    pub vault: Arc<Vault>,
    /// Asks for host keys and passphrases.
    pub prompter: Box<dyn crate::transport::Prompter>,
    /// Who is told what happens.
    pub listeners: Vec<Box<dyn Listener>>,
    /// Ctrl-C.
    pub interrupt: Interrupt,
}

/// Seconds since the epoch.
pub fn now_seconds() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// A name for a run that no other has: its second and this process. What is done within one second by one
/// process (a repair and the audits around it) is numbered on.
fn new_run_id() -> String {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = now_seconds();
    let next = |last: i64| now.max(last + 1);
    let last = LAST.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(next(last)));
    format!("{}.{}", next(last.unwrap_or_default()), std::process::id())
}

/// What templates ask of the run.
struct Services {
    vars: Arc<RunVars>,
    settings: Arc<Settings>,
}

impl crate::template::Services for Services {
    fn inventory_hostnames(&self, pattern: &str) -> Result<Vec<String>, String> {
        let inventory = self.vars.inventory.read().unwrap_or_else(PoisonError::into_inner).clone();
        let selection = inventory.select(pattern, None).map_err(|error| error.message)?;
        Ok(selection.hosts.iter().map(ToString::to_string).collect())
    }

    fn config(&self, name: &str) -> Result<Option<Value>, String> {
        Ok(self.settings.setting(name).map(|setting| setting.value.clone()))
    }
}

impl Engine {
    /// Prepares a run: nothing is read from playbooks and no host is touched yet.
    ///
    /// # Errors
    /// There is no thread to be had, or `SETPOINT_RUNNER` names no program.
    pub fn new(options: RunOptions, settings: Arc<Settings>, parts: Parts) -> std::io::Result<Engine> {
        let playbook_dir = options
            .playbooks
            .first()
            .and_then(|path| path.parent())
            .map(|dir| if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir.to_path_buf() })
            .or_else(|| settings.playbook_dir.clone())
            .unwrap_or_else(|| PathBuf::from("."));
        let inventory = Arc::new(parts.inventory);
        let vars = Arc::new(RunVars {
            extra: options.extra_vars.clone(),
            magic: play::run_magic(&options, &settings, &playbook_dir),
            connection: play::connection_vars(&options, &settings),
            cache: play::fact_cache(&options, &settings, &inventory)?,
            settings: VarSettings {
                inject_facts: settings.inject_facts_as_vars,
                merge_hashes: settings.hash_merge,
            },
            hosts: std::sync::RwLock::default(),
            groups: std::sync::RwLock::new(inventory.groups_value()),
            inventory: std::sync::RwLock::new(inventory),
        });
        let vault = parts.vault.clone();
        let opener = parts.vault.clone();
        let services = Services { vars: vars.clone(), settings: settings.clone() };
        let templar = Arc::new(Templar::new(TemplateOptions {
            vault: Arc::new(move |text| {
                let plain =
                    opener.decrypt(&text.envelope, text.origin.as_ref()).map_err(|error| error.message)?;
                String::from_utf8(plain).map_err(|_| "the vaulted text is not UTF-8".to_string())
            }),
            allow_broken_conditionals: settings.allow_broken_conditionals,
            services: Some(Arc::new(services)),
        }));
        let dirs = std::slice::from_ref(&playbook_dir);
        let loader = Arc::new(Loader::new(loader_options(dirs, &settings, &vault, Purpose::Run)));
        let transport = play::transport_settings(&options, &settings);
        let (sender, events) = std::sync::mpsc::channel();
        let forks = options.forks.max(1);
        let run_id = new_run_id();
        let config = crate::session::Config {
            transport: transport.clone(),
            prompter: parts.prompter,
            operator: play::operator(),
            run: run_id.clone(),
            forks,
            runners: crate::session::Runners::find()?,
            // What a dry run does for real (`check_mode: false`) is there to look.
            keep: !options.check,
            confirm: options.confirm,
        };
        let sessions = Sessions::start(config, sender)?;
        let stepping = options.step;
        let shared = Arc::new(Shared {
            inventory_sources: options.inventory.clone(),
            options,
            settings,
            templar,
            vault,
            transport,
            texts: Mutex::default(),
            vars_files: Mutex::default(),
            loader,
            vars,
            blobs: Arc::default(),
            machines: connect::Machines::default(),
            included: Mutex::default(),
            playbook_dir,
            run_id,
            jobs: std::sync::atomic::AtomicU64::new(1),
        });
        Ok(Engine {
            inventory_sources: shared.inventory_sources.clone(),
            shared,
            sessions,
            events,
            listeners: parts.listeners,
            stats: BTreeMap::new(),
            custom_stats: BTreeMap::new(),
            failed: HashSet::new(),
            unreachable: HashSet::new(),
            batches: 0,
            interrupt: parts.interrupt,
            pending_stop: None,
            reserved: HashSet::new(),
            progress_at: Instant::now(),
            receiving: HashMap::new(),
            additions: Vec::new(),
            current: None,
            stepping,
            owed: Vec::new(),
            playbook: String::new(),
            touched: confirm::Touched::default(),
        })
    }

    /// Name of this run, under which hosts keep prior states.
    pub fn run_id(&self) -> &str {
        &self.shared.run_id
    }

    /// Tells one more listener of everything that happens from now on.
    pub fn listen(&mut self, listener: Box<dyn Listener>) {
        self.listeners.push(listener);
    }

    /// Handlers that earlier runs have notified and not run: their plays will run them.
    pub fn owe(&mut self, handlers: Vec<options::OwedHandler>) {
        self.owed = handlers;
    }

    /// Reads a playbook with all that it imports.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self, path: &Path) -> Result<(Playbook, Vec<Diagnostic>), Vec<Diagnostic>> {
        let render = |value: &Value, vars: &Map| self.shared.render_static(value, vars);
        self.shared.loader.playbook(path, &LoadContext { render: &render })
    }

    /// Runs the playbooks one after the other.
    ///
    /// # Errors
    /// What ended the run before its time.
    pub fn run(&mut self, playbooks: &[Playbook]) -> Result<RunEnd, Stop> {
        let mut outcome = Ok(());
        for playbook in playbooks {
            let path = std::fs::canonicalize(&playbook.path).unwrap_or_else(|_| playbook.path.clone());
            self.playbook = path.to_string_lossy().into_owned();
            self.tell(Event::PlaybookStarted { path: playbook.path.to_string_lossy().into_owned() });
            self.current = Some(playbook.path.clone());
            outcome = self.playbook(playbook);
            self.give_up_what_is_gone(playbook);
            let broken = !self.failed.is_empty() || !self.unreachable.is_empty();
            if outcome.is_err() || (broken && !self.shared.options.look_only) {
                break;
            }
        }
        self.confirm();
        match &outcome {
            // A missing handler or file ends the run without a recap, as users know it.
            Err(Stop::Error(_) | Stop::Bug(_) | Stop::Syntax(_)) => {}
            _ => self.recap(),
        }
        outcome?;
        let any = |test: fn(&HostStats) -> bool| self.stats.values().any(test);
        Ok(RunEnd {
            failed: !self.failed.is_empty(),
            unreachable: !self.unreachable.is_empty(),
            changed: any(|stats| stats.changed > 0),
        })
    }

    /// Says of handlers that are owed and no longer in their playbook that they are gone: once, and they are owed
    /// no more. What brings its handlers only while it runs (an included role) may bring them the next time.
    fn give_up_what_is_gone(&mut self, playbook: &Playbook) {
        if self.owed.iter().all(|owed| owed.playbook != self.playbook) {
            return;
        }
        let mut known: HashMap<String, Option<HashSet<String>>> = HashMap::new();
        for play in &playbook.plays {
            let names = known.entry(play::name(self, play)).or_insert_with(|| Some(HashSet::new()));
            match (names.as_mut(), play::handler_names(play)) {
                (Some(names), Some(more)) => names.extend(more),
                _ => *names = None,
            }
        }
        for owed in std::mem::take(&mut self.owed) {
            let may_come = match known.get(&owed.play) {
                Some(Some(names)) => names.contains(&owed.handler),
                Some(None) => true,
                None => false,
            };
            if owed.playbook != self.playbook || may_come {
                self.owed.push(owed);
                continue;
            }
            self.tell(Event::Diagnostic(Diagnostic::warning(format!(
                "the handler '{}' is owed to {} since an earlier run, but the play `{}` does not have it any more: \
                 it will not be run",
                owed.handler, owed.host, owed.play
            ))));
            let options::OwedHandler { host, playbook, play, handler } = owed;
            self.tell(Event::HandlerGone { host: host.into(), playbook, play, handler });
        }
    }

    fn recap(&mut self) {
        let stats = self.stats.iter().map(|(host, stats)| (host.clone(), *stats)).collect();
        if !self.custom_stats.is_empty() {
            let mut of_hosts = self.custom_stats.clone();
            let of_run = of_hosts.remove("_run");
            self.tell(Event::CustomStats { of_hosts: of_hosts.into_iter().collect(), of_run });
        }
        self.tell(Event::Recap { stats });
    }

    fn playbook(&mut self, playbook: &Playbook) -> Result<(), Stop> {
        for play in &playbook.plays {
            if self.stopping() {
                return Err(Stop::Interrupted);
            }
            if !self.play(play)? {
                break;
            }
        }
        Ok(())
    }

    /// Runs a play; false if the playbook ends here because no host of it is left.
    fn play(&mut self, play: &Arc<Play>) -> Result<bool, Stop> {
        let prompted = play::prompt(self, play)?;
        let (named, all) = self.select(play)?;
        let name = play::name(self, play);
        if all.is_empty() {
            self.tell(Event::PlayStarted { name, hosts: Vec::new(), check: self.shared.options.check });
            self.tell(Event::NoHostsMatched);
            return Ok(true);
        }
        let strategy = play::strategy(self, play)?;
        let max_fail = play::max_fail(self, play)?;
        let batches = play::batches(self, play, &all)?;
        let items = play::items(self, play);
        let handlers: Arc<[Arc<Task>]> = play.handlers.clone().into();
        let mut later: Vec<Arc<str>> = all.clone();
        for batch in batches {
            later.retain(|host| !batch.contains(host));
            let alive: Vec<Arc<str>> = batch
                .iter()
                .filter(|host| !self.failed.contains(*host) && !self.unreachable.contains(*host))
                .cloned()
                .collect();
            if alive.is_empty() {
                continue;
            }
            let hosts = alive.clone();
            self.tell(Event::PlayStarted { name: name.clone(), hosts, check: self.shared.options.check });
            let state = play::state(self, play, prompted.clone(), &named, &alive, &later, handlers.clone());
            let hosts = self.hosts(play, &state, &alive, &items)?;
            let end = PlayRun::new(self, Arc::new(state), hosts, strategy, max_fail).run()?;
            if let Some(stop) = self.pending_stop.take() {
                return Err(stop);
            }
            self.roll_back(&end.failed, &alive);
            let lost = end.failed.len() + end.unreachable.len();
            self.failed.extend(end.failed);
            self.unreachable.extend(end.unreachable);
            if end.end_play {
                break;
            }
            if lost == alive.len() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The hosts of a play: all that it names, and those that have not failed earlier, in its order.
    fn select(&mut self, play: &Arc<Play>) -> Result<(Vec<Arc<str>>, Vec<Arc<str>>), Stop> {
        let pattern = self.shared.render_static(&play.hosts, &play.vars).map_err(Stop::Error)?;
        let pattern = match &pattern {
            // A play that leaves its hosts out has none.
            Value::Omit => return Ok((Vec::new(), Vec::new())),
            Value::List(items) => items.iter().map(Value::to_text).collect::<Vec<_>>().join(","),
            other => other.to_text(),
        };
        let inventory = self.inventory();
        let limit = self.shared.options.limit.clone();
        let hosts = match inventory.select(&pattern, limit.as_deref()) {
            Ok(selection) => {
                for warning in selection.warnings {
                    self.tell(Event::Diagnostic(warning));
                }
                selection.hosts
            }
            Err(error) => return Err(Stop::Error(error.at(Some(play.origin.clone())))),
        };
        let mut all = hosts;
        play::order(self, play, &mut all)?;
        let alive = all
            .iter()
            .filter(|host| !self.failed.contains(*host) && !self.unreachable.contains(*host))
            .cloned()
            .collect();
        Ok((all, alive))
    }

    fn hosts(
        &mut self,
        play: &Arc<Play>,
        state: &PlayState,
        names: &[Arc<str>],
        items: &Arc<[Item]>,
    ) -> Result<Vec<Host>, Stop> {
        let inventory = self.inventory();
        let dir = play.path.parent().map(PathBuf::from);
        let window = if self.shared.options.window == Some(1) {
            1
        } else {
            self.shared.options.window.unwrap_or(usize::MAX)
        };
        let mut hosts = Vec::with_capacity(names.len());
        for name in names {
            let known = self.shared.host_vars(name);
            let mut vars: HostVars = known.as_ref().clone();
            vars.inventory =
                inventory.var_layers(name, dir.as_deref()).map_err(|errors| Stop::Syntax(errors.to_vec()))?;
            vars.files = Arc::default();
            vars.facts_pending = false;
            vars.files = play::vars_files(self, play, state, &vars)?;
            self.shared.vars.publish(&vars);
            let mut cursor = Cursor::new(items.clone());
            if self.shared.settings.gathering == "smart" && vars.facts.contains_key("module_setup") {
                play::skip_gathering(&mut cursor);
            }
            hosts.push(Host::new(Arc::new(vars), cursor, window));
        }
        Ok(hosts)
    }

    // ---- what plays use ----

    pub(crate) fn tell(&mut self, event: Event) {
        for listener in &mut self.listeners {
            listener.event(&event);
        }
    }

    fn progress(&mut self, progress: Progress) {
        if self.progress_at.elapsed() >= Duration::from_millis(100) {
            self.progress_at = Instant::now();
            self.tell(Event::Progress(progress));
        }
    }

    fn inventory(&self) -> Arc<Inventory> {
        self.shared.vars.inventory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the inventory of this run; tells whether anything changed.
    fn change_inventory(&mut self, change: impl FnOnce(&mut Inventory) -> Result<bool, Diagnostic>) -> bool {
        let mut inventory = self.inventory().as_ref().clone();
        match change(&mut inventory) {
            Ok(changed) => {
                if changed {
                    self.shared.vars.set_inventory(Arc::new(inventory));
                }
                changed
            }
            Err(error) => {
                self.tell(Event::Diagnostic(error));
                false
            }
        }
    }

    fn refresh_inventory(&mut self) -> Result<(), Stop> {
        let options = inventory_options(&self.shared.settings, &self.shared.vault);
        let (mut inventory, warnings) =
            Inventory::load(&self.inventory_sources, &options).map_err(Stop::Syntax)?;
        for warning in warnings {
            self.tell(Event::Diagnostic(warning));
        }
        for (host, effect) in &self.additions {
            let outcome = match effect {
                Effect::AddHost { name, groups, vars } => inventory.add_host(name, groups, vars),
                Effect::GroupBy { group, parents } => {
                    // The host may be gone; its group is not.
                    let hosts: Vec<&str> = host
                        .iter()
                        .map(AsRef::as_ref)
                        .filter(|host| inventory.host(host).is_some())
                        .collect();
                    inventory.add_group(group, parents, &hosts)
                }
                _ => continue,
            };
            outcome.map_err(Stop::Error)?;
        }
        self.shared.vars.set_inventory(Arc::new(inventory));
        Ok(())
    }

    /// A task added a host.
    fn note_addition(&mut self, effect: &Effect) {
        self.additions.push((None, effect.clone()));
    }

    /// A task put a host in a group.
    fn note_group(&mut self, host: &Arc<str>, effect: &Effect) {
        self.additions.push((Some(host.clone()), effect.clone()));
    }

    fn interrupted(&self) -> bool {
        // Once: what runs is finished. Twice: connections are cut, and there is nothing to wait for.
        if self.interrupt.load(Ordering::Relaxed) >= 2 {
            self.sessions.cut_all();
            return true;
        }
        false
    }

    /// Ctrl-C was pressed.
    fn is_interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed) >= 1
    }

    fn stopping(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed) >= 1 || self.pending_stop.is_some()
    }

    fn next_batch(&mut self) -> u64 {
        self.batches += 1;
        self.batches
    }

    fn machine_name(&self, machine: u32) -> Arc<str> {
        self.shared.machines.name(machine)
    }

    fn reset_connection(&mut self, host: &str) {
        for machine in self.shared.machines.of_host(host) {
            self.sessions.reset_connection(machine);
        }
    }

    fn clear_host_errors(&mut self) {
        self.failed.clear();
        self.unreachable.clear();
    }

    fn force_handlers(&self, play: &PlayState) -> bool {
        let own = play.play.force_handlers.as_ref().and_then(Value::to_bool);
        own.unwrap_or(self.shared.options.force_handlers || self.shared.settings.force_handlers)
    }

    /// Keeps a host's facts for later runs.
    fn cache_facts(&mut self, host: &HostVars) {
        if let Err(error) = self.shared.vars.cache.store(host) {
            self.tell(Event::Diagnostic(Diagnostic::warning(error.message)));
        }
    }

    /// The playbook that ran last.
    pub fn last_playbook(&self) -> Option<&Path> {
        self.current.as_deref()
    }

    /// `--step`: whether a task is to be done. An answer may end the asking.
    fn steps_into(&mut self, title: &str) -> bool {
        if !self.stepping {
            return true;
        }
        let answer = play::ask(&format!("Perform task: TASK: {title} (N)o/(y)es/(c)ontinue: "), false);
        match answer.trim().chars().next().map(|c| c.to_ascii_lowercase()) {
            Some('y') => true,
            Some('c') => {
                self.stepping = false;
                true
            }
            _ => false,
        }
    }

    /// Closes all connections; nothing more is run.
    pub fn hang_up(&mut self) {
        self.sessions.shutdown();
    }

    /// The hosts that failed or could not be reached, in order.
    pub fn lost_hosts(&self) -> Vec<Arc<str>> {
        let mut hosts: Vec<Arc<str>> = self.failed.union(&self.unreachable).cloned().collect();
        hosts.sort();
        hosts
    }

    /// Counts a result for the recap.
    fn count(&mut self, result: &TaskResult) {
        let stats = self.stats.entry(result.host.clone()).or_default();
        match result.verdict {
            Verdict::Ok => stats.ok += 1,
            Verdict::Changed => {
                stats.ok += 1;
                stats.changed += 1;
            }
            Verdict::Skipped => stats.skipped += 1,
            Verdict::Failed if result.ignored => {
                stats.ok += 1;
                stats.ignored += 1;
                if result.result.get("changed").is_some_and(Value::truthy) {
                    stats.changed += 1;
                }
            }
            Verdict::Failed if result.rescued => stats.rescued += 1,
            Verdict::Failed => stats.failed += 1,
            Verdict::Unreachable if result.ignored => {
                stats.ok += 1;
                stats.ignored += 1;
            }
            Verdict::Unreachable => stats.unreachable += 1,
        }
    }

    fn count_ok(&mut self, host: &Arc<str>) {
        self.stats.entry(host.clone()).or_default().ok += 1;
    }

    fn add_stats(&mut self, name: &Arc<str>, data: &Map, aggregate: bool) {
        let known = self.custom_stats.entry(name.clone()).or_default();
        for (key, value) in data {
            let merged = match (known.get(key), value) {
                (Some(Value::Int(a)), Value::Int(b)) if aggregate => Value::Int(a + b),
                (Some(Value::List(a)), Value::List(b)) if aggregate => {
                    Value::list(a.iter().chain(b.iter()).cloned().collect())
                }
                (Some(Value::Map(a)), Value::Map(b)) if aggregate => {
                    let mut map = a.as_ref().clone();
                    map.extend(b.iter().map(|(key, value)| (key.clone(), value.clone())));
                    Value::map(map)
                }
                _ => value.clone(),
            };
            known.insert(key.clone(), merged);
        }
    }

    /// A chunk of a file that a host sends: kept beside its destination until it is whole.
    fn receive_file(&mut self, batch: u64, task: u32, data: &[u8]) {
        let path = self.receiving.entry((batch, task)).or_insert_with(|| {
            std::env::temp_dir().join(format!(".setpoint-{}-{batch}-{task}", std::process::id()))
        });
        let written = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&*path)
            .and_then(|mut file| file.write_all(data));
        if let Err(error) = written {
            let message = format!("failed to write {}: {error}", path.display());
            self.tell(Event::Diagnostic(Diagnostic::error(message)));
        }
    }

    /// The controller's part after a report: puts a fetched file in place.
    fn after(&mut self, after: &After, batch: Option<(u64, u32)>, result: &mut Map) {
        let After::Fetch { dest } = after;
        let received = batch.and_then(|key| self.receiving.remove(&key));
        let failed = result.get("failed").is_some_and(Value::truthy);
        let Some(received) = received.filter(|_| !failed) else {
            // It was here already.
            if !failed && result.contains_key("checksum") && dest.is_file() {
                result.insert(Value::str("dest"), Value::str(dest.to_string_lossy()));
            }
            return;
        };
        match play::place_fetched(&received, dest) {
            Ok((changed, checksum)) => {
                result.extend(map_of([
                    ("changed", Value::Bool(changed)),
                    ("dest", Value::str(dest.to_string_lossy())),
                    ("checksum", Value::from(checksum)),
                ]));
            }
            Err(error) => {
                result.insert(Value::str("failed"), Value::Bool(true));
                result.insert(
                    Value::str("msg"),
                    Value::str(format!("failed to write {}: {error}", dest.display())),
                );
            }
        }
    }
}
