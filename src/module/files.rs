//! What every module that manages files shares: modes, owners, attributes, backups, validation, the
//! return values common to them, and the record of what was left on the path.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::module::{ModuleError, Outcome, expand_path};
use crate::system::{
    Algorithm, Applied, Attributes, Command, Content, FileKind, Output, Stat, System, WriteOptions, flags,
    process_umask,
};
use crate::value::{Map, Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// A uid or gid that the machine is going to choose (see [`crate::system::Effect::User`]).
pub const UNKNOWN_ID: u32 = u32::MAX;

/// Permission bits of a new file before the umask.
const NEW_FILE: u32 = 0o666;
/// Permission bits of a new directory before the umask.
const NEW_DIRECTORY: u32 = 0o777;

/// The parameters of [`crate::module::args::FILE_PARAMS`], to be flattened into a module's arguments.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct FileArgs {
    /// Octal, symbolic, or `preserve`.
    pub mode: Option<Value>,
    /// Name or number.
    pub owner: Option<String>,
    /// Name or number.
    pub group: Option<String>,
    /// Part of the SELinux context.
    pub seuser: Option<String>,
    /// Part of the SELinux context.
    pub serole: Option<String>,
    /// Part of the SELinux context.
    pub setype: Option<String>,
    /// Part of the SELinux context.
    pub selevel: Option<String>,
    /// As `chattr` takes them.
    pub attributes: Option<String>,
    /// Write in place if a rename is refused.
    pub unsafe_writes: bool,
}

/// A `mode` as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// These bits.
    Exact(u32),
    /// Changes to the bits that are there.
    Symbolic(Vec<Clause>),
    /// Those of the source.
    Preserve,
}

/// One operation of a symbolic mode: `g+ws`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// Some of `u`, `g`, `o`; empty: all, within the umask.
    who: String,
    operator: char,
    permissions: String,
}

impl Mode {
    /// Reads a mode parameter.
    ///
    /// # Errors
    /// If it is neither octal nor symbolic.
    pub fn parse(value: &Value) -> Result<Mode> {
        let wrong = |details: String| {
            ModuleError::new(format!("mode must be in octal or symbolic form: {details}"))
                .with("details", details)
        };
        let bits = |number: i64| {
            u32::try_from(number).ok().filter(|bits| *bits <= 0o7777).map(Mode::Exact).ok_or_else(|| {
                wrong(format!(
                    "{} has more than permission bits; quote octal modes: \"0644\"",
                    value.to_text()
                ))
            })
        };
        match value {
            Value::Int(number) => bits(*number),
            Value::Str(text) => {
                let text = text.text.trim();
                let digits = text.strip_prefix("0o").or_else(|| text.strip_prefix("0O")).unwrap_or(text);
                if !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()) {
                    let number = i64::from_str_radix(digits, 8)
                        .map_err(|_| wrong(format!("'{text}' is not an octal number")))?;
                    return bits(number);
                }
                if text == "preserve" {
                    return Ok(Mode::Preserve);
                }
                symbolic(text)
                    .map(Mode::Symbolic)
                    .ok_or_else(|| wrong(format!("bad symbolic permission '{text}'")))
            }
            other => Err(wrong(format!("{} is of type {}", other.to_text(), other.type_name()))),
        }
    }

    /// Whether [`Mode::bits`] depends on the umask.
    fn needs_umask(&self) -> bool {
        matches!(self, Mode::Symbolic(clauses) if clauses.iter().any(|clause| clause.who.is_empty()))
    }

    /// The bits that result from `current`. `None` if it is `preserve` and there is no source.
    pub fn bits(&self, current: u32, directory: bool, umask: u32, source: Option<u32>) -> Option<u32> {
        match self {
            Mode::Exact(bits) => Some(*bits),
            Mode::Preserve => source,
            Mode::Symbolic(clauses) => {
                Some(clauses.iter().fold(current, |mode, clause| clause.apply(mode, directory, umask)))
            }
        }
    }
}

fn symbolic(text: &str) -> Option<Vec<Clause>> {
    let mut out = Vec::new();
    for part in text.split(',') {
        let first = part.find(['+', '-', '='])?;
        let (who, mut rest) = part.split_at(first);
        if !who.chars().all(|c| "ugoa".contains(c)) {
            return None;
        }
        let who = if who.contains('a') { "ugo" } else { who };
        while let Some(operator) = rest.chars().next() {
            let tail = &rest[1..];
            let end = tail.find(['+', '-', '=']).unwrap_or(tail.len());
            let permissions = &tail[..end];
            if !permissions.chars().all(|c| "rwxXstugo".contains(c)) {
                return None;
            }
            out.push(Clause { who: who.into(), operator, permissions: permissions.into() });
            rest = &tail[end..];
        }
    }
    Some(out)
}

impl Clause {
    fn apply(&self, mode: u32, directory: bool, umask: u32) -> u32 {
        let who = if self.who.is_empty() { "ugo" } else { &self.who };
        let mut result = mode;
        for user in who.chars() {
            let (shift, special) = match user {
                'u' => (6, 0o4000),
                'g' => (3, 0o2000),
                _ => (0, 0o1000),
            };
            let mut bits = 0;
            for permission in self.permissions.chars() {
                bits |= match permission {
                    'r' => 4 << shift,
                    'w' => 2 << shift,
                    'x' => 1 << shift,
                    'X' if directory || mode & 0o111 != 0 => 1 << shift,
                    's' if user != 'o' => special,
                    't' if user == 'o' => special,
                    'u' => ((mode >> 6) & 7) << shift,
                    'g' => ((mode >> 3) & 7) << shift,
                    'o' => (mode & 7) << shift,
                    _ => 0,
                };
            }
            if self.who.is_empty() {
                bits &= !umask;
            }
            result = match self.operator {
                '+' => result | bits,
                '-' => result & !bits,
                _ => (result & !((7 << shift) | special)) | bits,
            };
        }
        result
    }
}

impl FileArgs {
    /// What these parameters ask for on `path`. `current` is what is there now, `kind` what will be there;
    /// `source` holds the permission bits that `mode: preserve` means.
    ///
    /// # Errors
    /// A mode that can't be read, an account that does not exist.
    pub fn wanted(
        &self,
        system: &mut dyn System,
        path: &Path,
        current: Option<&Stat>,
        kind: FileKind,
        source: Option<u32>,
    ) -> Result<Attributes> {
        let mode = match &self.mode {
            None => None,
            Some(value) => {
                let mode = Mode::parse(value)?;
                let directory = kind == FileKind::Directory;
                let umask = if mode.needs_umask() || current.is_none() && matches!(mode, Mode::Symbolic(_)) {
                    process_umask()
                } else {
                    0
                };
                let new = if directory { NEW_DIRECTORY } else { NEW_FILE } & !umask;
                mode.bits(current.map_or(new, |stat| stat.mode), directory, umask, source)
            }
        };
        Ok(Attributes {
            uid: self.owner.as_deref().map(|owner| user_id(system, owner)).transpose()?,
            gid: self.group.as_deref().map(|group| group_id(system, group)).transpose()?,
            mode,
            selinux: self.context(system, path, current.is_some())?,
            flags: self.flags(system, path, current.is_some()),
            ..Attributes::default()
        })
    }

    /// Sets what differs on a path that exists; does nothing if it does not. `follow` says whether a
    /// symbolic link stands for its target.
    ///
    /// # Errors
    /// As [`FileArgs::wanted`], and what the system says.
    pub fn apply(&self, system: &mut dyn System, path: &Path, follow: bool) -> Result<()> {
        self.apply_with(system, path, follow, None)
    }

    /// As [`FileArgs::apply`], with the permission bits that `mode: preserve` means.
    ///
    /// # Errors
    /// As [`FileArgs::apply`].
    pub fn apply_with(
        &self,
        system: &mut dyn System,
        path: &Path,
        follow: bool,
        source: Option<u32>,
    ) -> Result<()> {
        if self.asks_nothing() {
            return Ok(());
        }
        let stat = if follow { system.stat_follow(path)? } else { system.stat(path)? };
        let Some(stat) = stat else { return Ok(()) };
        let mut wanted = self.wanted(system, path, Some(&stat), stat.kind, source)?;
        if stat.kind == FileKind::Link {
            // Linux has no permissions on links.
            wanted.mode = None;
        }
        let different = difference(&stat, wanted);
        if !different.is_empty() {
            system.set_attributes(path, &different, follow)?;
        }
        Ok(())
    }

    /// Tells who reads a dry run of an owner or group that is not there: a task of the real run has to make it
    /// before this one.
    ///
    /// # Errors
    /// What the system says.
    pub fn tell_missing_accounts(&self, system: &mut dyn System) -> Result<()> {
        let what = |given: &str, numbered: &str| {
            if given.parse::<u32>().is_ok() { format!(" {numbered}") } else { String::new() }
        };
        if let Some(owner) = &self.owner
            && system.user(owner)?.is_none()
        {
            let with = what(owner, "with uid");
            system.caveat(format!(
                "failed to look up user{with} {owner}; in the real run it must be there by now"
            ));
        }
        if let Some(group) = &self.group
            && system.group(group)?.is_none()
        {
            let with = what(group, "with gid");
            system.caveat(format!(
                "failed to look up group{with} {group}; in the real run it must be there by now"
            ));
        }
        Ok(())
    }

    /// Whether no attribute is asked for.
    pub fn asks_nothing(&self) -> bool {
        self.mode.is_none()
            && self.owner.is_none()
            && self.group.is_none()
            && self.attributes.is_none()
            && self.asks_no_context()
    }

    fn asks_no_context(&self) -> bool {
        self.seuser.is_none() && self.serole.is_none() && self.setype.is_none() && self.selevel.is_none()
    }

    /// The whole SELinux context to set, or `None` if it is right or not asked for.
    fn context(&self, system: &mut dyn System, path: &Path, exists: bool) -> Result<Option<String>> {
        if self.asks_no_context() || !selinux_enabled(system)? {
            return Ok(None);
        }
        let current = if exists { context_of(system, path)? } else { None };
        let default = default_context(system, path)?;
        let Some(base) = current.clone().or_else(|| default.clone()) else { return Ok(None) };
        let split = |text: &str| -> Vec<String> { text.splitn(4, ':').map(str::to_string).collect() };
        let default = default.map_or_else(|| split(&base), |text| split(&text));
        let mut parts = split(&base);
        for (index, given) in
            [&self.seuser, &self.serole, &self.setype, &self.selevel].into_iter().enumerate()
        {
            let value = match given.as_deref() {
                Some("_default") => default.get(index).cloned(),
                Some(text) => Some(text.to_string()),
                None => continue,
            };
            if let (Some(value), Some(slot)) = (value, parts.get_mut(index)) {
                *slot = value;
            }
        }
        let wanted = parts.join(":");
        Ok((current.as_ref() != Some(&wanted)).then_some(wanted))
    }

    /// The change of `chattr` attributes to make, or `None` if they are right or not asked for.
    fn flags(&self, system: &mut dyn System, path: &Path, exists: bool) -> Option<String> {
        let asked = self.attributes.as_deref().filter(|asked| !asked.is_empty())?;
        let (operator, letters) = match asked.chars().next() {
            Some(operator @ ('+' | '-' | '=')) => (operator, &asked[1..]),
            _ => ('=', asked),
        };
        let have = if exists { flags_of(system, path) } else { String::new() };
        let right = match operator {
            '+' => letters.chars().all(|letter| have.contains(letter)),
            '-' => !letters.chars().any(|letter| have.contains(letter)),
            _ => {
                let sorted = |text: &str| {
                    let mut letters: Vec<char> = text.chars().collect();
                    letters.sort_unstable();
                    letters
                };
                sorted(&have) == sorted(letters)
            }
        };
        (!right).then(|| format!("{operator}{letters}"))
    }
}

/// Leaves only what differs from `stat`.
fn difference(stat: &Stat, wanted: Attributes) -> Attributes {
    let uid = wanted.uid.filter(|uid| *uid != stat.uid);
    let gid = wanted.gid.filter(|gid| *gid != stat.gid);
    // A change of owner clears setuid and setgid, so that the mode has to be set again after it.
    let owner_changes = uid.is_some() || gid.is_some();
    let mode = wanted.mode.filter(|mode| *mode != stat.mode || owner_changes);
    Attributes { uid, gid, mode, ..wanted }
}

/// The number of an account given by name or number.
///
/// # Errors
/// If there is none of that name (unless an earlier recorded step may bring it).
pub fn user_id(system: &mut dyn System, owner: &str) -> Result<u32> {
    if let Ok(number) = owner.parse() {
        return Ok(number);
    }
    match system.user(owner)? {
        Some(user) => Ok(user.uid),
        None if system.uncertain().is_some() => Ok(UNKNOWN_ID),
        None => Err(ModuleError::new(format!("chown failed: failed to look up user {owner}"))),
    }
}

/// The number of a group given by name or number.
///
/// # Errors
/// If there is none of that name (unless an earlier recorded step may bring it).
pub fn group_id(system: &mut dyn System, group: &str) -> Result<u32> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    match system.group(group)? {
        Some(group) => Ok(group.gid),
        None if system.uncertain().is_some() => Ok(UNKNOWN_ID),
        None => Err(ModuleError::new(format!("chgrp failed: failed to look up group {group}"))),
    }
}

/// The name of the account with this number, or the number as text.
///
/// # Errors
/// What the system says.
pub fn user_name(system: &mut dyn System, uid: u32) -> Result<String> {
    let number = uid.to_string();
    Ok(system.user(&number)?.map_or(number, |user| user.name))
}

/// The name of the group with this number, or the number as text.
///
/// # Errors
/// What the system says.
pub fn group_name(system: &mut dyn System, gid: u32) -> Result<String> {
    let number = gid.to_string();
    Ok(system.group(&number)?.map_or(number, |group| group.name))
}

/// Whether the machine has SELinux and it is on.
///
/// # Errors
/// What the system says.
pub fn selinux_enabled(system: &mut dyn System) -> Result<bool> {
    Ok(system.stat(Path::new("/sys/fs/selinux/enforce"))?.is_some())
}

/// The SELinux context of a path.
///
/// # Errors
/// What the system says.
pub fn context_of(system: &mut dyn System, path: &Path) -> Result<Option<String>> {
    let bytes = system.extended_attribute(path, "security.selinux").unwrap_or(None);
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_string()))
}

/// The context that the policy gives to a path.
fn default_context(system: &mut dyn System, path: &Path) -> Result<Option<String>> {
    let mut command = Command::new(["matchpathcon", "-n"]);
    command.argv.push(path.into());
    let Some(output) = try_query(system, &command)? else { return Ok(None) };
    let text = output.stdout_text().trim().to_string();
    Ok((output.success() && text.contains(':') && text != "<<none>>").then_some(text))
}

/// What a command that only looks prints; `None` if there is no such program.
///
/// # Errors
/// What the system says, unless it is that there is no such program.
pub fn try_query(system: &mut dyn System, command: &Command) -> Result<Option<Output>> {
    match system.query(command) {
        Ok(output) if output.code == 127 => Ok(None),
        Ok(output) => Ok(Some(output)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The letters that `lsattr` shows for a path; empty where the file system has none.
fn flags_of(system: &mut dyn System, path: &Path) -> String {
    let bytes = system.extended_attribute(path, flags::NAME).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&bytes).chars().filter(char::is_ascii_alphabetic).collect()
}

/// The path that a parameter of type path names: `~` and `$VAR` expanded, no slash at its end.
///
/// # Errors
/// If the accounts can't be read.
pub fn path_arg(system: &mut dyn System, text: &str) -> Result<PathBuf> {
    let path = expand_path(text, system)?;
    Ok(match path.to_str() {
        Some(text) if text.len() > 1 && text.ends_with('/') => {
            let trimmed = text.trim_end_matches('/');
            PathBuf::from(if trimmed.is_empty() { "/" } else { trimmed })
        }
        _ => path,
    })
}

/// The text of a path for messages and return values.
pub fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The directory that holds `path`; `.` for a bare name.
pub fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        Some(_) => PathBuf::from("."),
        None => PathBuf::from("/"),
    }
}

/// The word for what is at a path that users of file modules know.
pub fn state_name(stat: Option<&Stat>) -> &'static str {
    match stat {
        None => "absent",
        Some(stat) => match stat.kind {
            FileKind::Link => "link",
            FileKind::Directory => "directory",
            _ if stat.links > 1 => "hard",
            _ => "file",
        },
    }
}

/// `0644`.
pub fn mode_text(mode: u32) -> String {
    format!("{mode:04o}")
}

/// How [`put`] writes.
#[derive(Debug)]
pub struct Writing<'a> {
    /// Attributes to set with the content.
    pub args: &'a FileArgs,
    /// Keep a copy of what was there.
    pub backup: bool,
    /// A command with `%s` that must accept the new content before it is put in place.
    pub validate: Option<&'a str>,
    /// The permission bits that `mode: preserve` means.
    pub source_mode: Option<u32>,
    /// The content is a secret: it is in no diff.
    pub secret: bool,
}

impl<'a> Writing<'a> {
    /// Neither backup nor validation.
    pub fn plain(args: &'a FileArgs) -> Writing<'a> {
        Writing { args, backup: false, validate: None, source_mode: None, secret: false }
    }
}

/// Puts new content in place, with its attributes, after validation and a backup. The caller has found
/// that the content differs. Returns the path of the backup.
///
/// # Errors
/// A rejected validation, an account that does not exist, what the system says.
pub fn put(
    system: &mut dyn System,
    path: &Path,
    content: &Content,
    writing: &Writing<'_>,
) -> Result<Option<String>> {
    let before = system.stat(path)?;
    // A link at the end of the path is replaced: what counts for its successor is nothing that it has.
    let kept = before.as_ref().filter(|stat| stat.kind == FileKind::File);
    let wanted = writing.args.wanted(system, path, kept, FileKind::File, writing.source_mode)?;
    if let Some(command) = writing.validate {
        validate(system, command, content, &wanted)?;
    }
    let backup = if writing.backup && before.is_some() { Some(back_up(system, path)?) } else { None };
    let options = WriteOptions { unsafe_writes: writing.args.unsafe_writes, secret: writing.secret };
    system.write(path, content, &wanted, options)?;
    Ok(backup)
}

/// Runs `command`, in which `%s` stands for a private copy of `content`.
fn validate(system: &mut dyn System, command: &str, content: &Content, wanted: &Attributes) -> Result<()> {
    if !command.contains("%s") {
        return Err(ModuleError::new(format!("validate must contain %s: {command}")));
    }
    let copy = system.scratch()?.join("validate");
    let attributes = Attributes {
        mode: wanted.mode,
        uid: wanted.uid.filter(|uid| *uid != UNKNOWN_ID),
        gid: wanted.gid.filter(|gid| *gid != UNKNOWN_ID),
        ..Attributes::default()
    };
    system.write(&copy, content, &attributes, WriteOptions::default())?;
    let words = split_words(&command.replace("%s", &text_of(&copy)))
        .ok_or_else(|| ModuleError::new(format!("validate has an unbalanced quote: {command}")))?;
    let command = Command::new(words);
    let output = match try_query(system, &command)? {
        Some(output) => output,
        // The program may come with a package that an earlier step would install.
        None if system.uncertain().is_some() => return Ok(()),
        None => {
            return Err(ModuleError::new(format!("failed to validate: no such program: {}", command.line())));
        }
    };
    if output.success() {
        return Ok(());
    }
    Err(ModuleError::new(format!(
        "failed to validate: rc:{} error:{}",
        output.code,
        output.stderr_text().trim()
    ))
    .with("exit_status", output.code)
    .with("stdout", output.stdout_text())
    .with("stderr", output.stderr_text()))
}

/// Splits a command line as a shell splits words: quotes and backslashes, nothing else. `None` if a quote
/// is not closed.
pub fn split_words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next()? {
                        '\'' => break,
                        inner => word.push(inner),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next()? {
                        '"' => break,
                        '\\' => match characters.next()? {
                            escaped @ ('"' | '\\') => word.push(escaped),
                            other => word.extend(['\\', other]),
                        },
                        inner => word.push(inner),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(characters.next()?),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Some(words)
}

/// Copies a file beside itself, with its attributes, under the name that users look for:
/// `path.PID.YYYY-MM-DD@HH:MM:SS~`.
///
/// # Errors
/// What the system says.
pub fn back_up(system: &mut dyn System, path: &Path) -> Result<String> {
    let name = format!("{}.{}.{}~", path.display(), std::process::id(), local_time(system)?);
    let stat = system.stat_follow(path)?;
    let attributes = stat.map_or_else(Attributes::default, |stat| Attributes {
        uid: Some(stat.uid),
        gid: Some(stat.gid),
        mode: Some(stat.mode),
        mtime: Some(stat.mtime),
        atime: Some(stat.atime),
        ..Attributes::default()
    });
    let content = Content::File(path.to_path_buf());
    system.write(Path::new(&name), &content, &attributes, WriteOptions::default())?;
    Ok(name)
}

/// `YYYY-MM-DD@HH:MM:SS` in the host's time zone, which `date` knows and we do not.
fn local_time(system: &mut dyn System) -> Result<String> {
    let output = try_query(system, &Command::new(["date", "+%Y-%m-%d@%H:%M:%S"]))?;
    let text = output.map(|output| output.stdout_text().trim().to_string()).unwrap_or_default();
    Ok(if text.len() == 19 { text } else { utc(now()) })
}

/// Seconds since the epoch.
pub fn now() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// `YYYY-MM-DD@HH:MM:SS` in UTC.
#[expect(clippy::cast_possible_truncation, reason = "seconds since the epoch fit")]
pub fn utc(seconds: f64) -> String {
    let seconds = seconds as i64;
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let rest = seconds.rem_euclid(86_400);
    format!("{year:04}-{month:02}-{day:02}@{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Year, month and day of a number of days since 1970-01-01.
pub fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Days since 1970-01-01 of a date.
pub fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_index = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * month_index + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    era * 146_097 + of_era - 719_468
}

/// Records what a task manages, as it is now, and adds the return values common to file modules under
/// `key` (`path` or `dest`). `sha256` is the digest of the content if the caller knows it already.
///
/// # Errors
/// What the system says.
pub fn finish(
    system: &mut dyn System,
    mut outcome: Outcome,
    path: &Path,
    key: &str,
    sha256: Option<String>,
) -> Result<Outcome> {
    let stat = system.stat(path)?;
    outcome.values.insert(Value::str(key), Value::str(text_of(path)));
    if let Some(stat) = &stat {
        outcome.values.extend(common_values(system, path, stat)?);
    }
    if !outcome.values.contains_key("state") {
        outcome = outcome.set("state", state_name(stat.as_ref()));
    }
    record(system, path, stat.as_ref(), sha256)?;
    Ok(outcome)
}

/// `uid`, `gid`, `owner`, `group`, `mode`, `state`, `size`, and `secontext` where there is SELinux.
///
/// # Errors
/// What the system says.
pub fn common_values(system: &mut dyn System, path: &Path, stat: &Stat) -> Result<Map> {
    let mut values = Map::new();
    let mut set = |key: &str, value: Value| values.insert(Value::str(key), value);
    if stat.uid != UNKNOWN_ID {
        set("uid", stat.uid.into());
        set("owner", user_name(system, stat.uid)?.into());
    }
    if stat.gid != UNKNOWN_ID {
        set("gid", stat.gid.into());
        set("group", group_name(system, stat.gid)?.into());
    }
    // Users of file modules know a leading zero also before four digits; those of `stat` do not.
    set("mode", format!("0{:03o}", stat.mode).into());
    set("state", state_name(Some(stat)).into());
    set("size", stat.size.into());
    if selinux_enabled(system)?
        && let Some(context) = context_of(system, path)?
    {
        set("secontext", context.into());
    }
    Ok(values)
}

/// Tells the system in what state a managed path was left.
///
/// # Errors
/// What the system says.
pub fn record(
    system: &mut dyn System,
    path: &Path,
    stat: Option<&Stat>,
    sha256: Option<String>,
) -> Result<()> {
    let (kind, state) = match stat {
        None => ("file", Value::Null),
        Some(stat) => {
            let attributes = [
                ("mode", Value::from(mode_text(stat.mode))),
                ("uid", Value::from(stat.uid)),
                ("gid", Value::from(stat.gid)),
            ];
            match stat.kind {
                FileKind::Directory => ("directory", map_of(attributes).into()),
                FileKind::Link => ("link", map_of([("target", text_of(&system.read_link(path)?))]).into()),
                FileKind::File => {
                    let mut state = map_of(attributes);
                    state.extend(map_of([("size", stat.size)]));
                    // A file that can't be read still has attributes.
                    let digest = sha256.or_else(|| system.digest(path, Algorithm::Sha256).ok());
                    state.extend(digest.map(|digest| ("sha256".into(), digest.into())));
                    ("file", state.into())
                }
                _ => ("file", map_of(attributes).into()),
            }
        }
    };
    system.applied(Applied { kind: kind.into(), id: text_of(path), state });
    Ok(())
}

/// What a module returns in a dry run when the path that it works on is missing, and an earlier step that
/// was only recorded may bring it. `None` if the path is certainly missing.
pub fn uncertain(system: &dyn System, path: &Path) -> Option<Outcome> {
    let why = system.uncertain()?;
    let message = format!("{} is not there yet; it may come with {why}", path.display());
    Some(Outcome { changed: Some(true), ..Outcome::default() }.set("path", text_of(path)).set("msg", message))
}

/// Changes the text of the file that `path` names (through symbolic links) to `after`, if that is not what
/// it holds, and sets its attributes. Returns the path of the backup.
///
/// # Errors
/// As [`put`].
pub fn put_if_changed(
    system: &mut dyn System,
    path: &Path,
    before: Option<&[u8]>,
    after: &[u8],
    writing: &Writing<'_>,
) -> Result<Option<String>> {
    if before == Some(after) {
        writing.args.apply(system, path, true)?;
        return Ok(None);
    }
    let real = system.resolve(path)?;
    put(system, &real, &Content::Bytes(after.to_vec()), writing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_in_every_form() {
        let exact = |value: Value| match Mode::parse(&value) {
            Ok(Mode::Exact(bits)) => Some(bits),
            _ => None,
        };
        for (value, expected) in [
            (Value::Int(0o644), Some(0o644)),
            (Value::Int(644), Some(0o1204)),
            (Value::Int(100_644), None),
            (Value::str("0644"), Some(0o644)),
            (Value::str("644"), Some(0o644)),
            (Value::str("0o2755"), Some(0o2755)),
            (Value::str("999"), None),
            (Value::Bool(true), None),
            (Value::str("rw"), None),
            (Value::str("u=rq"), None),
        ] {
            assert_eq!(exact(value.clone()), expected, "{value:?}");
        }
        assert_eq!(Mode::parse(&Value::str("preserve")).expect("valid"), Mode::Preserve);
    }

    #[test]
    fn symbolic_modes_change_what_is_there() {
        for (text, current, directory, expected) in [
            ("u=rw,g=r,o=", 0o777, false, 0o640),
            ("u=rwX,g=rX,o=", 0o644, false, 0o640),
            ("u=rwX,g=rX,o=", 0o744, false, 0o750),
            ("u=rwX,g=rX,o=", 0o644, true, 0o750),
            ("a-w", 0o666, false, 0o444),
            ("+x", 0o644, false, 0o755),
            ("+w", 0o444, false, 0o644),
            ("=rw", 0o777, false, 0o644),
            ("ug+s", 0o755, false, 0o6755),
            ("o+t", 0o777, true, 0o1777),
            ("g+s", 0o755, true, 0o2755),
            ("g=u", 0o740, false, 0o770),
            ("go-rwx", 0o755, false, 0o700),
            ("u+x-w", 0o644, false, 0o544),
            ("ugo=", 0o777, false, 0),
        ] {
            let mode = Mode::parse(&Value::str(text)).expect("valid");
            let got = mode.bits(current, directory, 0o022, None).expect("not preserve");
            assert_eq!(format!("{got:o}"), format!("{expected:o}"), "{text} on {current:o}");
        }
    }

    #[test]
    fn words_are_split_as_in_a_shell() {
        for (line, expected) in [
            ("visudo -cf %s", Some(vec!["visudo", "-cf", "%s"])),
            ("sh -c 'a b' \"c \\\" d\" e\\ f ''", Some(vec!["sh", "-c", "a b", "c \" d", "e f", ""])),
            ("sh -c 'a", None),
        ] {
            let expected: Option<Vec<String>> =
                expected.map(|words| words.into_iter().map(str::to_string).collect());
            assert_eq!(split_words(line), expected, "{line}");
        }
    }

    #[test]
    fn dates_are_gregorian() {
        for (day, date) in [(0, (1970, 1, 1)), (19_782, (2024, 2, 29)), (-1, (1969, 12, 31))] {
            assert_eq!(civil(day), date);
            assert_eq!(days(date.0, date.1, date.2), day);
        }
        assert_eq!(utc(951_782_400.0), "2000-02-29@00:00:00");
    }
}
