//! The dead man's switch: before its first change a run arms a reverter on the host, which takes the run back
//! by itself unless somebody comes over a new connection and confirms.
//!
//! The reverter is a copy of the runner that waits beside the prior states of the run. systemd keeps it (and
//! starts it again after a reboot) where it is in charge; elsewhere it is a process of its own, with a line
//! `@reboot` in the user's crontab. It asks nothing of the network and nothing of the controller.
//!
//! Files in the run's directory: `armed` holds the deadline and is moved on while the run goes on. Whoever
//! renames it first decides: to `confirmed`, or to `reverting`. `reverted` is written at the end.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::prior::{self, ARMED, Outcome, Plan, Step, Store};
use super::{Command, System};

/// The run was confirmed.
const CONFIRMED: &str = "confirmed";

/// The run is being taken back.
const REVERTING: &str = "reverting";

/// The run was taken back; what became of it.
const REVERTED: &str = "reverted";

/// The reverter's process.
const WATCHING: &str = "watching";

/// The reverter's program.
const PROGRAM: &str = "runner";

/// Where systemd finds units that are ours.
const UNITS: &str = "/etc/systemd/system";

/// What is said to a run that goes on after it was taken back.
pub const OVER: &str = "this run was not confirmed in time, and the host has taken it back by itself";

/// How long the reverter may take to say that it is there.
const START: Duration = Duration::from_secs(10);

/// An armed switch, as the run sees it.
#[derive(Clone, Debug)]
pub struct Switch {
    directory: PathBuf,
    seconds: u64,
}

/// What a confirmation finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// The changes stay.
    Confirmed,
    /// Nothing was armed: the run changed nothing here.
    NotArmed,
    /// It came too late.
    Late(String),
}

/// When the run is taken back. Clocks may be set, and start anew at a reboot.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Deadline {
    boot: String,
    /// Seconds since the boot.
    at: u64,
    /// How long the switch waits at all.
    seconds: u64,
}

impl Deadline {
    fn text(&self) -> String {
        format!("{} {} {}\n", self.boot, self.at, self.seconds)
    }

    fn parse(text: &str) -> Option<Deadline> {
        let mut words = text.split_whitespace();
        let boot = words.next()?.to_string();
        let at = words.next()?.parse().ok()?;
        let seconds = words.next()?.parse().ok()?;
        Some(Deadline { boot, at, seconds })
    }

    /// Seconds that are left. After a reboot the time begins anew, because the clock can't be trusted.
    fn left(&self, boot: &str, uptime: u64, waited: u64) -> u64 {
        if self.boot == boot { self.at.saturating_sub(uptime) } else { self.seconds.saturating_sub(waited) }
    }
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string()
}

/// Seconds since the boot, time asleep included.
fn uptime() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(time.tv_sec).unwrap_or_default()
}

impl Switch {
    /// Moves the deadline on: the run is alive.
    ///
    /// # Errors
    /// It can't be written.
    pub fn alive(&self) -> io::Result<()> {
        let armed = self.directory.join(ARMED);
        // Not if it has been decided meanwhile.
        if !armed.exists() {
            return Ok(());
        }
        let next = self.directory.join(".armed");
        let deadline = Deadline { boot: boot(), at: uptime() + self.seconds, seconds: self.seconds };
        fs::write(&next, deadline.text())?;
        // `exchange` fails if `armed` is gone, so that a decision is never undone.
        rustix::fs::renameat_with(
            rustix::fs::CWD,
            &next,
            rustix::fs::CWD,
            &armed,
            rustix::fs::RenameFlags::EXCHANGE,
        )
        .or_else(|error| match error {
            rustix::io::Errno::NOENT => Ok(()),
            rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS => File::options()
                .write(true)
                .truncate(true)
                .open(&armed)
                .and_then(|mut file| file.write_all(deadline.text().as_bytes()))
                .map_err(|_| rustix::io::Errno::IO),
            error => Err(error),
        })?;
        Ok(())
    }

    /// Whether the run was taken back, or is being: then nothing more may be changed for it.
    pub fn is_over(&self) -> bool {
        !self.directory.join(ARMED).exists() && !self.directory.join(CONFIRMED).exists()
    }

    /// How often the deadline has to be moved on.
    pub fn interval(&self) -> Duration {
        Duration::from_millis((self.seconds * 1000 / 4).clamp(200, 5000))
    }
}

/// Arms the switch of a run. What it returns besides is what the user should know.
///
/// # Errors
/// Why the host would not revert by itself. Nothing may be changed then.
pub fn arm(
    store: &mut Store,
    run: &str,
    seconds: u64,
    system: &mut dyn System,
) -> Result<(Switch, Option<String>), String> {
    let directory = store.directory().to_path_buf();
    let switch = Switch { directory: directory.clone(), seconds };
    let say = |what: &str, error: &dyn std::fmt::Display| {
        format!("the dead man's switch could not be armed: {what}: {error}")
    };
    if [REVERTING, REVERTED].iter().any(|name| directory.join(name).exists()) {
        return Err(OVER.into());
    }
    store.make_durable();
    store.keep_rules(system).map_err(|error| say("the packet filter's rules", &error))?;
    let deadline = Deadline { boot: boot(), at: uptime() + seconds, seconds };
    if directory.join(ARMED).exists() {
        // Another runner of this run has done it.
        return Ok((switch, None));
    }
    let program = directory.join(PROGRAM);
    fs::copy("/proc/self/exe", &program)
        .and_then(|_| fs::set_permissions(&program, fs::Permissions::from_mode(0o700)))
        .and_then(|()| File::open(&program)?.sync_all())
        .map_err(|error| say("the reverter's program", &error))?;
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(directory.join(ARMED))
        .and_then(|mut file| {
            file.write_all(deadline.text().as_bytes())?;
            file.sync_all()
        })
        .map_err(|error| say("the deadline", &error))?;
    let warning = start(&program, run, system).inspect_err(|_| {
        let _ = disarm(&directory, run, system);
    })?;
    let started = Instant::now();
    while !is_watched(&directory) {
        if started.elapsed() > START {
            let _ = disarm(&directory, run, system);
            return Err(say("the reverter", &"it did not start"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = File::open(&directory).and_then(|directory| directory.sync_all());
    Ok((switch, warning))
}

/// Whether the reverter is there.
fn is_watched(directory: &Path) -> bool {
    fs::read_to_string(directory.join(WATCHING))
        .is_ok_and(|pid| Path::new("/proc").join(pid.trim()).join("exe").exists())
}

fn has_systemd() -> bool {
    rustix::process::geteuid().is_root() && Path::new("/run/systemd/system").is_dir()
}

fn unit_name(run: &str) -> String {
    format!("setpoint-revert-{run}.service")
}

/// A unit that starts again at every boot until the run is decided.
fn unit(program: &Path, run: &str) -> String {
    let armed = program.with_file_name(ARMED);
    let reverting = program.with_file_name(REVERTING);
    format!(
        "# Takes a run of setpoint back unless it is confirmed. It goes away by itself.\n\
         [Unit]\nDescription=Takes run {run} of setpoint back unless it is confirmed\n\
         ConditionPathExists=|{}\nConditionPathExists=|{}\n\n\
         [Service]\nType=exec\nExecStart={} --revert {run}\nRestart=on-failure\nRestartSec=2\nKillMode=process\n\n\
         [Install]\nWantedBy=multi-user.target\n",
        armed.display(),
        reverting.display(),
        program.display()
    )
}

fn run_quietly(system: &mut dyn System, argv: &[&str]) -> Result<(), String> {
    let command = Command::new(argv.iter().copied());
    match system.query(&command) {
        Ok(output) if output.success() => Ok(()),
        Ok(output) => Err(format!("{}: {}", command.line(), output.stderr_text().trim())),
        Err(error) => Err(error.to_string()),
    }
}

/// Starts the reverter, and sees to it that it is started again after a reboot.
fn start(program: &Path, run: &str, system: &mut dyn System) -> Result<Option<String>, String> {
    if has_systemd() {
        let name = unit_name(run);
        let failed = |error: io::Error| format!("the dead man's switch could not be armed: {name}: {error}");
        let mut file = File::create(Path::new(UNITS).join(&name)).map_err(failed)?;
        file.write_all(unit(program, run).as_bytes()).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        run_quietly(system, &["systemctl", "daemon-reload"])?;
        run_quietly(system, &["systemctl", "enable", &name])?;
        run_quietly(system, &["systemctl", "start", "--no-block", &name])?;
        return Ok(None);
    }
    let mut command = std::process::Command::new(program);
    command.args(["--revert", run]).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    #[expect(unsafe_code, reason = "the only way to leave the session in the child")]
    // SAFETY: setsid and fork are async-signal-safe; the first child ends at once.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            match libc::fork() {
                0 => Ok(()),
                -1 => Err(io::Error::last_os_error()),
                _ => libc::_exit(0),
            }
        });
    }
    let mut child =
        command.spawn().map_err(|error| format!("the dead man's switch could not be armed: {error}"))?;
    let _ = child.wait();
    let line = format!("@reboot {} --revert {run}", program.display());
    Ok(crontab(system, |lines| lines.push(line.clone()))
        .err()
        .map(|error| format!("what this run changes is not taken back by itself after a reboot: {error}")))
}

/// Changes this user's crontab.
fn crontab(system: &mut dyn System, change: impl FnOnce(&mut Vec<String>)) -> Result<(), String> {
    let listed = system.query(&Command::new(["crontab", "-l"])).map_err(|error| error.to_string())?;
    let before: Vec<String> =
        if listed.success() { listed.stdout_text().lines().map(String::from).collect() } else { Vec::new() };
    let mut after = before.clone();
    change(&mut after);
    if after == before {
        return Ok(());
    }
    let command = if after.is_empty() {
        Command::new(["crontab", "-r"])
    } else {
        let text: String = after.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        Command { stdin: Some(text.into_bytes()), ..Command::new(["crontab", "-"]) }
    };
    match system.query(&command) {
        Ok(output) if output.success() => Ok(()),
        Ok(output) => Err(output.stderr_text().trim().to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Takes away what starts the reverter.
fn disarm(directory: &Path, run: &str, system: &mut dyn System) -> Result<(), String> {
    let _ = fs::remove_file(directory.join(ARMED));
    clean_up(directory, run, system)
}

fn clean_up(directory: &Path, run: &str, system: &mut dyn System) -> Result<(), String> {
    let _ = fs::remove_file(directory.join(".armed"));
    let name = unit_name(run);
    let path = Path::new(UNITS).join(&name);
    if has_systemd() && path.exists() {
        let _ = fs::remove_file(Path::new(UNITS).join("multi-user.target.wants").join(&name));
        fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        // The reverter sees for itself that it is not wanted any more.
        let _ = run_quietly(system, &["systemctl", "daemon-reload"]);
    } else if !has_systemd() {
        let mark = format!("--revert {run}");
        let _ = crontab(system, |lines| lines.retain(|line| !line.ends_with(&mark)));
    }
    Ok(())
}

/// Confirms a run: its changes stay.
///
/// # Errors
/// What can't be done.
pub fn confirm(root: &Path, run: &str, system: &mut dyn System) -> Result<Confirmation, String> {
    if !prior::is_name(run) {
        return Err(format!("`{run}` is not a name for a run"));
    }
    let directory = root.join(run);
    match fs::rename(directory.join(ARMED), directory.join(CONFIRMED)) {
        Ok(()) => {
            clean_up(&directory, run, system)?;
            Ok(Confirmation::Confirmed)
        }
        Err(_) if directory.join(CONFIRMED).exists() => Ok(Confirmation::Confirmed),
        Err(_) if directory.join(REVERTED).exists() => {
            let told = fs::read_to_string(directory.join(REVERTED)).unwrap_or_default();
            Ok(Confirmation::Late(told.lines().next().unwrap_or_default().to_string()))
        }
        Err(_) if directory.join(REVERTING).exists() => {
            Ok(Confirmation::Late("it is being taken back at this moment".into()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Confirmation::NotArmed),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits until the run is decided; true if it is to be taken back.
///
/// # Errors
/// The run's files can't be read or renamed.
pub fn wait(root: &Path, run: &str) -> io::Result<bool> {
    let directory = root.join(run);
    fs::write(directory.join(WATCHING), std::process::id().to_string())?;
    let started = Instant::now();
    loop {
        if directory.join(REVERTING).exists() {
            return Ok(true);
        }
        let text = match fs::read_to_string(directory.join(ARMED)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        // An empty file is one that is being written; what can't be read for long counts as over.
        let left = match Deadline::parse(&text) {
            Some(deadline) => deadline.left(&boot(), uptime(), started.elapsed().as_secs()),
            None => 60_u64.saturating_sub(started.elapsed().as_secs()),
        };
        if left == 0 {
            return match fs::rename(directory.join(ARMED), directory.join(REVERTING)) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error),
            };
        }
        std::thread::sleep(Duration::from_millis(if left > 2 { 500 } else { 100 }));
    }
}

/// Takes the run back and says so beside its records.
///
/// # Errors
/// Nothing is kept of the run, or the outcome can't be written.
pub fn revert(root: &Path, run: &str, system: &mut dyn System) -> io::Result<Vec<Step>> {
    let directory = root.join(run);
    let records = prior::records(root, run)?
        .ok_or_else(|| io::Error::other(format!("nothing is kept of run {run}")))?;
    let plan = Plan { directory: &directory, records: &records, force: true, rescue: true };
    let steps = prior::restore(plan, system);
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let count = |test: fn(&Outcome) -> bool| steps.iter().filter(|step| test(&step.outcome)).count();
    let mut text = format!(
        "it was not confirmed in time and was taken back by the host itself ({} restored, {} left)\n",
        count(|outcome| *outcome == Outcome::Restored),
        count(|outcome| matches!(outcome, Outcome::Left(_))),
    );
    for step in &steps {
        text.push_str(&format!("{}: {}: {:?}\n", step.what, step.how, step.outcome));
    }
    prior::mark_rolled_back(root, run, now)?;
    fs::write(directory.join(REVERTED), text)?;
    let _ = fs::remove_file(directory.join(REVERTING));
    let _ = clean_up(&directory, run, system);
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_jump_and_reboots_do_not_keep_a_host_cut_off() {
        let deadline = Deadline { boot: "a".into(), at: 100, seconds: 60 };
        assert_eq!(Deadline::parse(&deadline.text()), Some(deadline.clone()));
        for (boot, uptime, waited, left) in [
            ("a", 40, 0, 60),
            ("a", 99, 59, 1),
            ("a", 100, 0, 0),
            ("a", 900, 0, 0),
            ("b", 5, 2, 58),
            ("b", 5, 60, 0),
        ] {
            assert_eq!(deadline.left(boot, uptime, waited), left, "{boot} {uptime} {waited}");
        }
        for text in ["", "a", "a b c", "a 1"] {
            assert_eq!(Deadline::parse(text), None);
        }
    }

    #[test]
    fn whoever_comes_first_decides() {
        use crate::system::fake::Fake;
        let place = tempfile::tempdir().expect("a temporary directory");
        let directory = place.path().join("r");
        let over = Deadline { boot: boot(), at: 0, seconds: 60 }.text();
        let ahead = Deadline { boot: boot(), at: uptime() + 600, seconds: 600 }.text();
        let mut machine = Fake::new();
        for (text, first, expected) in [
            (&ahead, "confirm", Confirmation::Confirmed),
            (&over, "wait", Confirmation::Late("it is being taken back at this moment".into())),
        ] {
            let _ = fs::remove_dir_all(&directory);
            fs::create_dir(&directory).expect("made");
            assert_eq!(confirm(place.path(), "r", &mut machine), Ok(Confirmation::NotArmed));
            fs::write(directory.join(ARMED), text).expect("written");
            if first == "wait" {
                assert!(wait(place.path(), "r").expect("decided"));
            }
            assert_eq!(confirm(place.path(), "r", &mut machine), Ok(expected.clone()));
            if first == "confirm" {
                assert!(!wait(place.path(), "r").expect("decided"));
            }
            let switch = Switch { directory: directory.clone(), seconds: 60 };
            switch.alive().expect("nothing to do");
            assert!(!directory.join(ARMED).exists(), "a decision is not undone");
        }
    }
}
