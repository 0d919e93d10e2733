//! `setpoint drift schedule`: audits at their time, by a systemd timer, a line of the crontab, or a CronJob of
//! Kubernetes.
//!
//! What is scheduled is kept in a file of its own, and the timer only names it. A lock keeps two audits of one
//! schedule from running at once, and each one leaves when it ran and how it ended, so that one that did not
//! run is seen.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::notify::Notify;
use super::report;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::options::{Flags, seconds};
use crate::cli::{Console, state};

/// Audit at set times: install, show or remove a timer
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Schedule {
    /// What is passed to `setpoint drift audit`: playbooks and options (after `--`)
    #[arg(value_name = "AUDIT ARGUMENT", last = true)]
    pub audit: Vec<String>,
    /// How often, such as 15m, 1h, 1d
    #[arg(long, value_name = "TIME", value_parser = seconds, conflicts_with = "calendar")]
    pub every: Option<u64>,
    /// When: a calendar expression of systemd ("Mon..Fri 02:00"), or five fields of cron ("0 2 * * 1-5")
    #[arg(long, value_name = "WHEN")]
    pub calendar: Option<String>,
    /// Spread the start over so much time, so that not all controllers begin at once
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub jitter: Option<u64>,
    /// Repair what has drifted
    #[arg(long)]
    pub fix: bool,
    /// Name of the schedule; there may be several
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = name)]
    pub name: String,
    #[command(flatten)]
    pub notify: Notify,

    /// For the whole machine (the default for root)
    #[arg(long, conflicts_with = "user", help_heading = "Where")]
    pub system: bool,
    /// For this user
    #[arg(long, help_heading = "Where")]
    pub user: bool,
    /// In this user's crontab, although there is systemd
    #[arg(long, help_heading = "Where")]
    pub cron: bool,
    /// Print a CronJob for Kubernetes
    #[arg(long, help_heading = "Where")]
    pub kubernetes: bool,
    /// Its image
    #[arg(long, value_name = "IMAGE", default_value = "setpoint:latest", help_heading = "Where")]
    pub image: String,

    /// Show what is scheduled, when it ran last, and what was missed
    #[arg(long, conflicts_with_all = ["every", "calendar", "remove"], help_heading = "Look or remove")]
    pub show: bool,
    /// Remove the schedule
    #[arg(long, conflicts_with_all = ["every", "calendar"], help_heading = "Look or remove")]
    pub remove: bool,
    /// Print what would be installed
    #[arg(long, help_heading = "Look or remove")]
    pub print: bool,
}

const EXAMPLES: &str = "\
Examples:
  setpoint drift schedule --every 1h -- site.yml -i inventory/    audit every hour
  setpoint drift schedule --calendar 'Mon..Fri 02:00' --jitter 10m --mail ops@example.org
  setpoint drift schedule --every 1h --fix --name web -- site.yml -i inventory/ --limit web
  setpoint drift schedule --show                                  what is scheduled, and what was missed
  setpoint drift schedule --every 1h --kubernetes -- site.yml -i inventory/ | kubectl apply -f -";

/// Run what a schedule asks for
#[derive(Args, Clone, Debug)]
pub struct Scheduled {
    /// The schedule
    #[arg(value_parser = name)]
    pub name: String,
    /// Wait a while first
    #[arg(long)]
    pub spread: bool,
}

fn name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match !text.is_empty() && text.len() <= 40 && text.chars().all(plain) && !text.starts_with('-') {
        true => Ok(text.to_string()),
        false => Err("a name has lower-case letters, digits and dashes".into()),
    }
}

/// What is scheduled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Definition {
    every: Option<u64>,
    calendar: Option<String>,
    jitter: u64,
    fix: bool,
    audit: Vec<String>,
    webhook: Vec<String>,
    mail: Vec<String>,
    program: PathBuf,
    directory: PathBuf,
    store: Option<String>,
    /// `systemd`, `user` or `cron`.
    by: String,
    created: u64,
    last: Option<Last>,
    /// Starts that found the one before still running.
    overlapped: u64,
    /// Starts that came too late, or not at all.
    missed: u64,
}

/// When it ran last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Last {
    started: u64,
    ended: Option<u64>,
    exit: Option<i32>,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Definition {
    /// How many starts are missing by now; a start may be late by its jitter and a little.
    fn missing(&self, now: u64) -> u64 {
        let Some(every) = self.every else { return 0 };
        let since = self.last.as_ref().map_or(self.created, |last| last.started);
        let late = now.saturating_sub(since).saturating_sub(self.jitter + 60 + every / 10);
        late / every
    }

    fn when(&self) -> String {
        match (&self.calendar, self.every) {
            (Some(calendar), _) => calendar.clone(),
            (None, Some(every)) => format!("every {}", duration(every)),
            (None, None) => "never".into(),
        }
    }
}

/// A time as it is written.
fn duration(seconds: u64) -> String {
    let mut out = String::new();
    let mut rest = seconds;
    for (unit, size) in [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)] {
        if rest >= size {
            out.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    if out.is_empty() { "0s".into() } else { out }
}

/// Where definitions and locks are.
fn directory(console: &Console) -> Result<PathBuf, Failure> {
    let around = &console.around;
    let state = around.env.get("XDG_STATE_HOME").filter(|path| path.starts_with('/')).map(PathBuf::from);
    let state = state.or_else(|| around.home.as_ref().map(|home| home.join(".local/state")));
    let state = state.ok_or_else(|| Failure::error("there is no home directory for schedules"))?;
    let directory = state.join("setpoint/schedules");
    std::fs::create_dir_all(&directory)
        .map_err(|error| Failure::error(format!("can't make {}: {error}", directory.display())))?;
    Ok(directory)
}

fn load(directory: &Path, name: &str) -> Result<Definition, Failure> {
    let path = directory.join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::error(format!("there is no schedule `{name}`")),
        _ => Failure::error(format!("can't read {}: {error}", path.display())),
    })?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::error(format!("the schedule {} is damaged: {error}", path.display())))
}

fn save(directory: &Path, name: &str, definition: &Definition) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(definition).map_err(|error| Failure::error(error.to_string()))?;
    let path = directory.join(format!("{name}.json"));
    report::replace(&path, &text)
        .map_err(|error| Failure::error(format!("can't write {}: {error}", path.display())))
}

/// Carries out the subcommand.
///
/// # Errors
/// Something can't be installed or removed.
pub fn run(args: &Schedule, console: &mut Console) -> Result<Exit, Failure> {
    if args.show {
        return show(console);
    }
    if args.remove {
        return remove(&args.name, console);
    }
    if args.every.is_none() && args.calendar.is_none() {
        return Err(Failure::options("say when: --every 1h or --calendar '…' (or --show, --remove)"));
    }
    let definition = definition(args, console)?;
    if args.kubernetes {
        console.print(&cron_job(args, &definition)?)?;
        return Ok(Exit::Success);
    }
    let unit = Unit::of(&args.name, &definition);
    if args.print {
        let text = match definition.by.as_str() {
            "cron" => cron_line(&args.name, &definition)? + "\n",
            _ => format!("# {}\n{}\n# {}\n{}", unit.service_path, unit.service, unit.timer_path, unit.timer),
        };
        console.print(&text)?;
        return Ok(Exit::Success);
    }
    save(&directory(console)?, &args.name, &definition)?;
    if definition.by == "cron" {
        let line = cron_line(&args.name, &definition)?;
        crontab(&args.name, Some(&line))?;
        console.print(&format!("scheduled by cron: {line}\n"))?;
        return Ok(Exit::Success);
    }
    let base = unit_directory(&definition.by, console)?;
    std::fs::create_dir_all(&base)?;
    for (name, text) in [(&unit.service_path, &unit.service), (&unit.timer_path, &unit.timer)] {
        report::replace(&base.join(name), text)
            .map_err(|error| Failure::error(format!("can't write {}: {error}", base.join(name).display())))?;
    }
    systemctl(&definition.by, &["daemon-reload"])?;
    systemctl(&definition.by, &["enable", "--now", &unit.timer_path])?;
    systemctl(&definition.by, &["restart", &unit.timer_path])?;
    console.print(&format!("scheduled: {} by {}\n", definition.when(), unit.timer_path))?;
    if definition.by == "user" && !lingers() {
        console.warn(
            "this user's timers run only while somebody is logged in; `loginctl enable-linger` changes that",
        );
    }
    Ok(Exit::Success)
}

fn definition(args: &Schedule, console: &Console) -> Result<Definition, Failure> {
    let root = rustix::process::geteuid().is_root();
    let has_systemd = Path::new("/run/systemd/system").is_dir();
    let by = match (args.cron || !has_systemd, args.user || !(args.system || root)) {
        (true, _) => "cron",
        (false, true) => "user",
        (false, false) => "systemd",
    };
    if let (Some(calendar), "systemd" | "user", false) = (&args.calendar, by, args.kubernetes) {
        let checked = Command::new("systemd-analyze").args(["calendar", calendar.as_str()]).output();
        if let Ok(output) = checked
            && !output.status.success()
        {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
            return Err(Failure::options(format!("--calendar: {said}")));
        }
    }
    let every = args.every.unwrap_or(3600);
    Ok(Definition {
        every: args.every,
        calendar: args.calendar.clone(),
        jitter: args.jitter.unwrap_or((every / 20).min(300)),
        fix: args.fix,
        audit: args.audit.clone(),
        webhook: args.notify.webhook.clone(),
        mail: args.notify.mail.clone(),
        program: std::env::current_exe()?,
        directory: console.around.cwd.clone(),
        store: console.around.env.get("SETPOINT_STATE").cloned(),
        by: by.into(),
        created: now(),
        ..Definition::default()
    })
}

/// A service and its timer.
struct Unit {
    service_path: String,
    service: String,
    timer_path: String,
    timer: String,
}

/// A word in a unit file.
fn unit_word(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{escaped}\"")
}

impl Unit {
    fn of(name: &str, definition: &Definition) -> Unit {
        let base = format!("setpoint-drift-{name}");
        let when = match (&definition.calendar, definition.every) {
            (Some(calendar), _) => format!("OnCalendar={calendar}\nPersistent=true\n"),
            (None, every) => {
                format!("OnActiveSec=1min\nOnBootSec=2min\nOnUnitActiveSec={}s\n", every.unwrap_or(3600))
            }
        };
        let store = definition
            .store
            .as_ref()
            .map(|store| format!("Environment={}\n", unit_word(&format!("SETPOINT_STATE={store}"))));
        Unit {
            service_path: format!("{base}.service"),
            service: format!(
                "[Unit]\nDescription=Drift audit {name} of setpoint\nAfter=network-online.target\nWants=network-online.target\n\n\
                 [Service]\nType=oneshot\nWorkingDirectory={}\n{}ExecStart={} drift scheduled {name}\n\
                 # 2 is drift, 3 what is not rolled out yet, 4 a host that was not reached: found, not failed.\nSuccessExitStatus=2 3 4\n",
                definition.directory.display().to_string().replace('%', "%%"),
                store.unwrap_or_default(),
                unit_word(&definition.program.to_string_lossy()),
            ),
            timer_path: format!("{base}.timer"),
            timer: format!(
                "[Unit]\nDescription=Drift audit {name} of setpoint\n\n[Timer]\n{when}RandomizedDelaySec={}s\nAccuracySec=1s\n\n\
                 [Install]\nWantedBy=timers.target\n",
                definition.jitter
            ),
        }
    }
}

fn unit_directory(by: &str, console: &Console) -> Result<PathBuf, Failure> {
    if by == "systemd" {
        return Ok("/etc/systemd/system".into());
    }
    let around = &console.around;
    let config = around.env.get("XDG_CONFIG_HOME").filter(|path| path.starts_with('/')).map(PathBuf::from);
    let config = config.or_else(|| around.home.as_ref().map(|home| home.join(".config")));
    Ok(config.ok_or_else(|| Failure::error("there is no home directory for units"))?.join("systemd/user"))
}

fn systemctl(by: &str, words: &[&str]) -> Result<(), Failure> {
    let mut command = Command::new("systemctl");
    if by == "user" {
        command.arg("--user");
    }
    let output = command.args(words).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    Err(Failure::error(format!("systemctl {}: {said}", words.join(" "))))
}

fn lingers() -> bool {
    let output = Command::new("loginctl")
        .args(["show-user", "--property=Linger", "--value"])
        .arg(rustix::process::getuid().as_raw().to_string())
        .output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == "yes")
}

/// The five fields of cron.
fn cron_fields(definition: &Definition) -> Result<String, Failure> {
    if let Some(calendar) = &definition.calendar {
        let fields = calendar.split_whitespace().collect::<Vec<_>>();
        let plain = |field: &&str| field.chars().all(|c| c.is_ascii_alphanumeric() || "*/,-?".contains(c));
        return if fields.len() == 5 && fields.iter().all(plain) {
            Ok(fields.join(" "))
        } else {
            Err(Failure::options("cron wants five fields in --calendar, such as '0 2 * * 1-5'"))
        };
    }
    let every = definition.every.unwrap_or(3600);
    let minutes = every / 60;
    match every % 60 {
        0 if (1..60).contains(&minutes) && 60 % minutes == 0 => Ok(format!("*/{minutes} * * * *")),
        0 if minutes == 60 => Ok("0 * * * *".into()),
        0 if minutes.is_multiple_of(60) && minutes < 1440 && 24 % (minutes / 60) == 0 => {
            Ok(format!("0 */{} * * *", minutes / 60))
        }
        0 if minutes == 1440 => Ok("0 3 * * *".into()),
        _ => Err(Failure::options(format!(
            "cron can't do something every {}: use minutes that divide an hour, hours that divide a day, 1d, or --calendar",
            duration(every)
        ))),
    }
}

fn cron_line(name: &str, definition: &Definition) -> Result<String, Failure> {
    let quote = |text: &str| -> Result<String, Failure> {
        let quoted = shlex::try_quote(text).map_err(|error| Failure::error(error.to_string()))?;
        // To cron a per cent sign is the end of the line.
        Ok(quoted.replace('%', "\\%"))
    };
    let store = match &definition.store {
        Some(store) => format!("SETPOINT_STATE={} ", quote(store)?),
        None => String::new(),
    };
    Ok(format!(
        "{} cd {} && {store}{} drift scheduled --spread {name} >/dev/null # setpoint-drift-{name}",
        cron_fields(definition)?,
        quote(&definition.directory.to_string_lossy())?,
        quote(&definition.program.to_string_lossy())?,
    ))
}

/// Puts the line of a schedule into the crontab, or takes it out.
fn crontab(name: &str, line: Option<&str>) -> Result<bool, Failure> {
    use std::io::Write as _;
    let missing = |error: std::io::Error| Failure::error(format!("there is no cron here: crontab: {error}"));
    let listed = Command::new("crontab").arg("-l").output().map_err(missing)?;
    let before = if listed.status.success() {
        String::from_utf8_lossy(&listed.stdout).into_owned()
    } else {
        String::new()
    };
    let mark = format!("# setpoint-drift-{name}");
    let mut lines: Vec<&str> = before.lines().filter(|line| !line.ends_with(&mark)).collect();
    lines.extend(line);
    let after: String = lines.iter().flat_map(|line| [*line, "\n"]).collect();
    if after == before {
        return Ok(false);
    }
    let mut child = Command::new("crontab").arg("-").stdin(Stdio::piped()).spawn().map_err(missing)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(after.as_bytes())?;
    }
    if child.wait()?.success() { Ok(true) } else { Err(Failure::error("crontab did not take the line")) }
}

/// Text as a scalar of YAML, which takes JSON's.
fn yaml(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn cron_job(args: &Schedule, definition: &Definition) -> Result<String, Failure> {
    let mut words = vec!["drift".to_string(), "watch".into(), "--once".into()];
    words.extend(definition.fix.then(|| "--fix".into()));
    for url in &definition.webhook {
        words.extend(["--webhook".into(), url.clone()]);
    }
    words.push("--".into());
    words.extend(definition.audit.iter().cloned());
    let words: Vec<String> = words.iter().map(|word| yaml(word)).collect();
    Ok(format!(
        "# The volumes are yours to fill in: playbooks and inventory in /work, keys in /root/.ssh, and a place that\n\
         # lasts for the state store.\n\
         apiVersion: batch/v1\nkind: CronJob\nmetadata:\n  name: setpoint-drift-{name}\nspec:\n  schedule: {schedule}\n  concurrencyPolicy: Forbid\n  startingDeadlineSeconds: {deadline}\n  \
         successfulJobsHistoryLimit: 3\n  failedJobsHistoryLimit: 3\n  jobTemplate:\n    spec:\n      backoffLimit: 0\n      template:\n        spec:\n          restartPolicy: Never\n          containers:\n            \
         - name: setpoint\n              image: {image}\n              workingDir: /work\n              args: [{words}]\n              env:\n                - name: SETPOINT_STATE\n                  value: /state/state.db\n              volumeMounts:\n                \
         - {{ name: work, mountPath: /work, readOnly: true }}\n                - {{ name: keys, mountPath: /root/.ssh, readOnly: true }}\n                - {{ name: state, mountPath: /state }}\n          volumes:\n            \
         - name: work\n              configMap: {{ name: setpoint-playbooks }}\n            - name: keys\n              secret: {{ secretName: setpoint-keys, defaultMode: 0400 }}\n            - name: state\n              persistentVolumeClaim: {{ claimName: setpoint-state }}\n",
        name = args.name,
        schedule = yaml(&cron_fields(definition)?),
        deadline = definition.every.unwrap_or(3600).max(60),
        image = yaml(&args.image),
        words = words.join(", "),
    ))
}

fn show(console: &mut Console) -> Result<Exit, Failure> {
    let directory = directory(console)?;
    let mut names: Vec<String> = std::fs::read_dir(&directory)?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json").map(String::from))
        .collect();
    names.sort_unstable();
    let mut out = String::new();
    let mut behind = false;
    for name in &names {
        let definition = match load(&directory, name) {
            Ok(definition) => definition,
            Err(failure) => {
                console.complain(&failure);
                continue;
            }
        };
        out.push_str(&format!(
            "{name}: {} (jitter {}) by {}{}\n  setpoint drift audit {}\n",
            definition.when(),
            duration(definition.jitter),
            definition.by,
            if definition.fix { ", repairs" } else { "" },
            definition.audit.join(" "),
        ));
        match &definition.last {
            None => out.push_str("  has not run yet\n"),
            Some(last) => {
                let how = match (last.ended, last.exit) {
                    (Some(ended), Some(exit)) => {
                        format!("took {}, exit code {exit}", duration(ended.saturating_sub(last.started)))
                    }
                    _ => "runs, or was cut off".into(),
                };
                let ago = now().saturating_sub(last.started);
                out.push_str(&format!("  last: {} ago, {how}\n", duration(ago)));
            }
        }
        let missing = definition.missing(now());
        behind |= missing > 0;
        if missing + definition.missed > 0 {
            out.push_str(&format!("  MISSED: {} now, {} before\n", missing, definition.missed));
        }
        if definition.overlapped > 0 {
            out.push_str(&format!(
                "  left out, because the one before still ran: {}\n",
                definition.overlapped
            ));
        }
    }
    if names.is_empty() {
        out.push_str("nothing is scheduled\n");
    }
    console.print(&out)?;
    Ok(if behind { Exit::Failed } else { Exit::Success })
}

fn remove(name: &str, console: &mut Console) -> Result<Exit, Failure> {
    let directory = directory(console)?;
    let definition = load(&directory, name)?;
    if definition.by == "cron" {
        crontab(name, None)?;
    } else {
        let unit = Unit::of(name, &definition);
        let base = unit_directory(&definition.by, console)?;
        // What is gone already need not be stopped.
        let _ = systemctl(&definition.by, &["disable", "--now", &unit.timer_path]);
        for file in [&unit.service_path, &unit.timer_path] {
            match std::fs::remove_file(base.join(file)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        systemctl(&definition.by, &["daemon-reload"])?;
    }
    std::fs::remove_file(directory.join(format!("{name}.json")))?;
    let _ = std::fs::remove_file(directory.join(format!("{name}.lock")));
    console.print(&format!("removed: {name}\n"))?;
    Ok(Exit::Success)
}

/// Runs what a schedule asks for, once, and never twice at a time.
///
/// # Errors
/// There is no such schedule, or the audit can't be started.
pub fn scheduled(args: &Scheduled, console: &mut Console) -> Result<Exit, Failure> {
    let directory = directory(console)?;
    let mut definition = load(&directory, &args.name)?;
    if args.spread && definition.jitter > 0 {
        std::thread::sleep(std::time::Duration::from_secs(rand::random_range(0..=definition.jitter)));
    }
    let lock = File::create(directory.join(format!("{}.lock", args.name)))?;
    if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        definition.overlapped += 1;
        save(&directory, &args.name, &definition)?;
        console.warn("the audit before still runs; this one is left out");
        return Ok(Exit::Success);
    }
    let missing = definition.missing(now());
    if missing > 0 {
        console.warn(&format!("{missing} audits were missed since the last one"));
        definition.missed += missing;
    }
    definition.last = Some(Last { started: now(), ended: None, exit: None });
    save(&directory, &args.name, &definition)?;
    let notify = Notify { webhook: definition.webhook.clone(), mail: definition.mail.clone() };
    let outcome = super::watch::once(&definition.program, &definition.audit, definition.fix, None);
    // Somebody may have scheduled it anew meanwhile.
    let mut definition = load(&directory, &args.name).unwrap_or(definition);
    if let Some(last) = &mut definition.last {
        last.ended = Some(now());
        last.exit = outcome.as_ref().ok().copied();
    }
    save(&directory, &args.name, &definition)?;
    let code = outcome?;
    let settings = console.settings(&Flags::default())?;
    if !notify.is_empty() {
        let mut store = state::open(&settings, console)?;
        if let Some(told) = notify.tell(&mut store)? {
            console.print(&format!("told: {told}\n"))?;
        }
    }
    Ok(super::watch::exit_of(code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(seconds: u64) -> Definition {
        Definition { every: Some(seconds), ..Definition::default() }
    }

    #[test]
    fn cron_does_what_divides_evenly_and_refuses_the_rest() {
        for (seconds, expected) in [
            (300, Some("*/5 * * * *")),
            (3600, Some("0 * * * *")),
            (6 * 3600, Some("0 */6 * * *")),
            (86_400, Some("0 3 * * *")),
            (420, None),
            (90, None),
            (5 * 3600, None),
        ] {
            assert_eq!(cron_fields(&every(seconds)).ok().as_deref(), expected, "{seconds}");
        }
        let calendar = |text: &str| Definition { calendar: Some(text.into()), ..Definition::default() };
        assert_eq!(cron_fields(&calendar("0 2 * * 1-5")).ok().as_deref(), Some("0 2 * * 1-5"));
        assert!(cron_fields(&calendar("Mon 02:00")).is_err());
        assert!(cron_fields(&calendar("0 2 * * $(x)")).is_err());
    }

    #[test]
    fn what_did_not_run_is_counted() {
        let mut definition = Definition { created: 1000, jitter: 60, ..every(3600) };
        assert_eq!(definition.missing(1000 + 3600), 0);
        assert_eq!(definition.missing(1000 + 3 * 3600), 2);
        definition.last = Some(Last { started: 1000 + 2 * 3600, ended: None, exit: None });
        assert_eq!(definition.missing(1000 + 3 * 3600), 0);
        assert_eq!(definition.missing(1000 + 12 * 3600), 9);
    }

    #[test]
    fn units_hold_what_was_asked_for() {
        let definition = Definition {
            program: "/opt/100%/set point".into(),
            directory: "/srv".into(),
            jitter: 30,
            store: Some("/var/lib/x \"y\".db".into()),
            ..every(900)
        };
        let unit = Unit::of("web", &definition);
        for line in ["OnUnitActiveSec=900s\n", "RandomizedDelaySec=30s\n"] {
            assert!(unit.timer.contains(line), "{}", unit.timer);
        }
        for line in [
            "ExecStart=\"/opt/100%%/set point\" drift scheduled web\n",
            "Environment=\"SETPOINT_STATE=/var/lib/x \\\"y\\\".db\"\n",
            "WorkingDirectory=/srv\n",
        ] {
            assert!(unit.service.contains(line), "{}", unit.service);
        }
        assert_eq!(
            cron_line("web", &definition).expect("it divides"),
            "*/15 * * * * cd /srv && SETPOINT_STATE='/var/lib/x \"y\".db' '/opt/100\\%/set point' drift scheduled --spread web >/dev/null # setpoint-drift-web"
        );
        assert_eq!(duration(93_784), "1d2h3m4s");
    }
}
