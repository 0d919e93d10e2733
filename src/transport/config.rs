//! OpenSSH's client configuration: `ssh_config` files and the options of an ssh command line, resolved
//! for one host.
//!
//! The first value given for a keyword wins: command line, user's file, machine's file. Key and
//! certificate files add up.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::error::Cause;
use super::known_hosts::{pattern_list_matches, wildcard_matches};

/// How deep `Include` may nest.
const MAX_INCLUDE_DEPTH: usize = 16;

/// What we do with a keyword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// It is honoured.
    Honoured,
    /// It does not matter for what we do: nothing is lost by passing over it.
    Irrelevant,
    /// We can't do it unless its value is `no` or `none`. On our command line that is an error; in a
    /// file, which the user wrote for all uses of ssh, it is mentioned when a connection fails.
    Unsupported,
}

use Effect::{Honoured, Irrelevant, Unsupported};

/// All keywords of OpenSSH's client, lower case.
const KEYWORDS: &[(&str, Effect)] = &[
    ("addkeystoagent", Irrelevant),
    ("addressfamily", Honoured),
    ("batchmode", Honoured),
    ("bindaddress", Honoured),
    ("bindinterface", Unsupported),
    ("canonicaldomains", Irrelevant),
    ("canonicalizefallbacklocal", Irrelevant),
    ("canonicalizehostname", Unsupported),
    ("canonicalizemaxdots", Irrelevant),
    ("canonicalizepermittedcnames", Irrelevant),
    ("casignaturealgorithms", Irrelevant),
    ("certificatefile", Honoured),
    ("channeltimeout", Irrelevant),
    ("checkhostip", Irrelevant),
    ("ciphers", Honoured),
    ("clearallforwardings", Irrelevant),
    ("compression", Honoured),
    ("connectionattempts", Honoured),
    ("connecttimeout", Honoured),
    ("controlmaster", Irrelevant),
    ("controlpath", Irrelevant),
    ("controlpersist", Irrelevant),
    ("dynamicforward", Irrelevant),
    ("enableescapecommandline", Irrelevant),
    ("enablesshkeysign", Irrelevant),
    ("escapechar", Irrelevant),
    ("exitonforwardfailure", Irrelevant),
    ("fingerprinthash", Irrelevant),
    ("forkafterauthentication", Irrelevant),
    ("forwardagent", Honoured),
    ("forwardx11", Irrelevant),
    ("forwardx11timeout", Irrelevant),
    ("forwardx11trusted", Irrelevant),
    ("gatewayports", Irrelevant),
    ("globalknownhostsfile", Honoured),
    ("gssapiauthentication", Unsupported),
    ("gssapiclientidentity", Irrelevant),
    ("gssapidelegatecredentials", Irrelevant),
    ("gssapikexalgorithms", Irrelevant),
    ("gssapikeyexchange", Unsupported),
    ("gssapirenewalforcesrekey", Irrelevant),
    ("gssapiserveridentity", Irrelevant),
    ("gssapitrustdns", Irrelevant),
    ("hashknownhosts", Honoured),
    ("hostbasedacceptedalgorithms", Irrelevant),
    ("hostbasedauthentication", Unsupported),
    ("hostbasedkeytypes", Irrelevant),
    ("hostkeyalgorithms", Honoured),
    ("hostkeyalias", Honoured),
    ("hostname", Honoured),
    ("identitiesonly", Honoured),
    ("identityagent", Honoured),
    ("identityfile", Honoured),
    ("ignoreunknown", Honoured),
    ("ipqos", Irrelevant),
    ("kbdinteractiveauthentication", Honoured),
    ("kbdinteractivedevices", Irrelevant),
    ("keepalive", Irrelevant),
    ("kexalgorithms", Honoured),
    ("knownhostscommand", Unsupported),
    ("localcommand", Irrelevant),
    ("localforward", Irrelevant),
    ("loglevel", Irrelevant),
    ("logverbose", Irrelevant),
    ("macs", Honoured),
    ("nohostauthenticationforlocalhost", Unsupported),
    ("numberofpasswordprompts", Irrelevant),
    ("obscurekeystroketiming", Irrelevant),
    ("passwordauthentication", Honoured),
    ("permitlocalcommand", Irrelevant),
    ("permitremoteopen", Irrelevant),
    ("pkcs11provider", Unsupported),
    ("port", Honoured),
    ("preferredauthentications", Honoured),
    ("proxycommand", Honoured),
    ("proxyjump", Honoured),
    ("proxyusefdpass", Unsupported),
    ("pubkeyacceptedalgorithms", Irrelevant),
    ("pubkeyauthentication", Honoured),
    ("rekeylimit", Irrelevant),
    ("remotecommand", Irrelevant),
    ("remoteforward", Irrelevant),
    ("requesttty", Irrelevant),
    ("requiredrsasize", Irrelevant),
    ("revokedhostkeys", Unsupported),
    ("securitykeyprovider", Unsupported),
    ("sendenv", Irrelevant),
    ("serveralivecountmax", Honoured),
    ("serveraliveinterval", Honoured),
    ("sessiontype", Irrelevant),
    ("setenv", Irrelevant),
    ("stdinnull", Irrelevant),
    ("streamlocalbindmask", Irrelevant),
    ("streamlocalbindunlink", Irrelevant),
    ("stricthostkeychecking", Honoured),
    ("syslogfacility", Irrelevant),
    ("tag", Honoured),
    ("tcpkeepalive", Irrelevant),
    ("tunnel", Unsupported),
    ("tunneldevice", Irrelevant),
    ("updatehostkeys", Irrelevant),
    ("usekeychain", Irrelevant),
    ("user", Honoured),
    ("userknownhostsfile", Honoured),
    ("verifyhostkeydns", Irrelevant),
    ("versionaddendum", Irrelevant),
    ("visualhostkey", Irrelevant),
    ("warnweakcrypto", Irrelevant),
    ("xauthlocation", Irrelevant),
];

/// The present name of a keyword that was renamed.
fn canonical_keyword(keyword: &str) -> String {
    let keyword = keyword.to_lowercase();
    match keyword.as_str() {
        "challengeresponseauthentication" | "skeyauthentication" | "tisauthentication" => {
            "kbdinteractiveauthentication".to_owned()
        }
        "dsaauthentication" => "pubkeyauthentication".to_owned(),
        "globalknownhostsfile2" => "globalknownhostsfile".to_owned(),
        "userknownhostsfile2" => "userknownhostsfile".to_owned(),
        "pubkeyacceptedkeytypes" => "pubkeyacceptedalgorithms".to_owned(),
        "identityfile2" => "identityfile".to_owned(),
        "smartcarddevice" => "pkcs11provider".to_owned(),
        _ => keyword,
    }
}

fn effect(keyword: &str) -> Option<Effect> {
    KEYWORDS.binary_search_by(|(name, _)| (*name).cmp(keyword)).ok().map(|index| KEYWORDS[index].1)
}

/// Where a setting was written.
#[derive(Clone, Debug)]
enum Place {
    File(Arc<Path>, usize),
    Argument(&'static str),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::File(file, line) => write!(f, "{}:{line}", file.display()),
            Place::Argument(what) => f.write_str(what),
        }
    }
}

/// A keyword with its arguments.
#[derive(Clone, Debug)]
struct Setting {
    keyword: String,
    arguments: Vec<String>,
    /// The text after the keyword, for those that take the rest of the line (ProxyCommand).
    rest: String,
    place: Place,
}

impl Setting {
    fn error(&self, reason: impl Into<String>) -> Cause {
        Cause::Option {
            option: format!("{}: {} {}", self.place, self.keyword, self.rest),
            reason: reason.into(),
        }
    }

    fn one(&self) -> Result<&str, Cause> {
        match self.arguments.first() {
            Some(argument) => Ok(argument),
            None => Err(self.error("a value is missing")),
        }
    }

    fn flag(&self) -> Result<bool, Cause> {
        match self.one()?.to_lowercase().as_str() {
            "yes" | "true" => Ok(true),
            "no" | "false" => Ok(false),
            _ => Err(self.error("must be yes or no")),
        }
    }

    fn number(&self) -> Result<u32, Cause> {
        self.one()?.parse().map_err(|_| self.error("must be a number"))
    }

    fn is_none(&self) -> bool {
        self.arguments.first().is_some_and(|argument| argument.eq_ignore_ascii_case("none"))
    }

    fn is_off(&self) -> bool {
        matches!(self.arguments.first().map(|a| a.to_lowercase()).as_deref(), Some("no" | "none" | "false"))
    }
}

/// A line of a file.
#[derive(Debug)]
enum Line {
    Host(Setting),
    Match(Setting),
    Include(Vec<File>),
    Setting(Setting),
}

/// A file, its includes read with it.
#[derive(Debug, Default)]
pub(super) struct File {
    lines: Vec<Line>,
}

impl File {
    /// Whether resolving may run commands (`Match exec`).
    pub(super) fn runs_commands(&self) -> bool {
        self.lines.iter().any(|line| match line {
            Line::Match(setting) => setting.rest.to_lowercase().contains("exec"),
            Line::Include(files) => files.iter().any(File::runs_commands),
            Line::Host(_) | Line::Setting(_) => false,
        })
    }

    /// Reads a configuration file. `required` files must exist.
    pub(super) fn read(path: &Path, home: &Path, required: bool) -> Result<File, Cause> {
        let base = if path.starts_with("/etc/ssh") { PathBuf::from("/etc/ssh") } else { home.join(".ssh") };
        File::read_nested(path, &base, home, required, 0)
    }

    fn read_nested(
        path: &Path,
        base: &Path,
        home: &Path,
        required: bool,
        depth: usize,
    ) -> Result<File, Cause> {
        match std::fs::read(path) {
            Ok(bytes) => File::parse(&String::from_utf8_lossy(&bytes), path, base, home, depth),
            Err(error) if !required && error.kind() == std::io::ErrorKind::NotFound => Ok(File::default()),
            Err(error) => Err(Cause::Option {
                option: format!("ssh configuration {}", path.display()),
                reason: error.to_string(),
            }),
        }
    }

    fn parse(text: &str, path: &Path, base: &Path, home: &Path, depth: usize) -> Result<File, Cause> {
        let path: Arc<Path> = path.into();
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let place = Place::File(path.clone(), number + 1);
            let Some(setting) = parse_setting(line, place)? else { continue };
            lines.push(match setting.keyword.as_str() {
                "host" => Line::Host(setting),
                "match" => Line::Match(setting),
                "include" => Line::Include(read_includes(&setting, base, home, depth)?),
                _ => Line::Setting(setting),
            });
        }
        Ok(File { lines })
    }
}

fn read_includes(setting: &Setting, base: &Path, home: &Path, depth: usize) -> Result<Vec<File>, Cause> {
    if depth >= MAX_INCLUDE_DEPTH {
        return Err(setting.error("includes are nested too deep"));
    }
    let mut files = Vec::new();
    for argument in &setting.arguments {
        let pattern = base.join(expand_tilde(argument, home));
        let found =
            glob::glob(&pattern.to_string_lossy()).map_err(|error| setting.error(error.to_string()))?;
        let mut paths: Vec<PathBuf> = found.flatten().collect();
        paths.sort();
        for path in paths {
            files.push(File::read_nested(&path, base, home, false, depth + 1)?);
        }
    }
    Ok(files)
}

fn expand_tilde(path: &str, home: &Path) -> PathBuf {
    match path.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None if path == "~" => home.to_owned(),
        None => PathBuf::from(path),
    }
}

/// `Keyword arguments…` or `Keyword=arguments…`; `None` for an empty line or a comment.
fn parse_setting(line: &str, place: Place) -> Result<Option<Setting>, Cause> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (keyword, rest) = match line.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
        None => {
            let end = line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len());
            line.split_at(end)
        }
    };
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim();
    let keyword = canonical_keyword(keyword);
    let setting = Setting { keyword, arguments: Vec::new(), rest: rest.to_owned(), place };
    let arguments = split_arguments(rest).ok_or_else(|| setting.error("a quote is not closed"))?;
    if arguments.is_empty() {
        return Err(setting.error("a value is missing"));
    }
    Ok(Some(Setting { arguments, ..setting }))
}

/// Splits at white space outside quotes; a word that begins with `#` starts a comment. `None` if a quote
/// stays open.
fn split_arguments(text: &str) -> Option<Vec<String>> {
    let mut arguments = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        match chars.peek() {
            None | Some('#') => return Some(arguments),
            Some(_) => {}
        }
        let mut argument = String::new();
        let mut quote = None;
        while let Some(&c) = chars.peek() {
            match (quote, c) {
                (None, c) if c.is_whitespace() => break,
                (None, '"' | '\'') => quote = Some(c),
                (Some(open), c) if c == open => quote = None,
                (_, '\\') => {
                    chars.next();
                    match chars.peek() {
                        Some(&next)
                            if matches!(next, '"' | '\'' | '\\') || (quote.is_none() && next == ' ') =>
                        {
                            argument.push(next);
                        }
                        Some(&next) => {
                            argument.push('\\');
                            argument.push(next);
                        }
                        None => {
                            argument.push('\\');
                            break;
                        }
                    }
                }
                (_, c) => argument.push(c),
            }
            chars.next();
        }
        if quote.is_some() {
            return None;
        }
        arguments.push(argument);
    }
}

/// Options given on a command line: `ansible_ssh_common_args` and its kin.
#[derive(Clone, Debug, Default)]
pub(super) struct Arguments {
    settings: Vec<Setting>,
    /// `-F`: instead of both files; `none` for no file at all.
    pub(super) config_file: Option<PathBuf>,
}

impl Arguments {
    /// No options but `-F`.
    pub(super) fn with_file(config_file: Option<&Path>) -> Arguments {
        Arguments { settings: Vec::new(), config_file: config_file.map(Path::to_owned) }
    }

    /// Parses words of an ssh command line. `origin` names where they were written.
    pub(super) fn parse(words: &[String], origin: &'static str) -> Result<Arguments, Cause> {
        let mut parsed = Arguments::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
                return Err(refused(origin, word, "is not an option"));
            };
            let mut rest = letters.chars();
            while let Some(letter) = rest.next() {
                if matches!(letter, 'v' | 'q' | 'T' | 'x' | 'a' | 'k' | 'M' | 'y' | 'n') {
                    continue;
                }
                if let Some((keyword, value)) = match letter {
                    'C' => Some(("compression", "yes")),
                    'A' => Some(("forwardagent", "yes")),
                    '4' => Some(("addressfamily", "inet")),
                    '6' => Some(("addressfamily", "inet6")),
                    _ => None,
                } {
                    parsed.set(keyword, value, origin)?;
                    continue;
                }
                if !"oiplFJbcmeES".contains(letter) {
                    return Err(refused(
                        origin,
                        &format!("-{letter}"),
                        "the built-in SSH has no such option; use `ansible_connection: openssh` for your own ssh program",
                    ));
                }
                let attached = rest.as_str();
                let value = if attached.is_empty() {
                    words
                        .next()
                        .ok_or_else(|| refused(origin, &format!("-{letter}"), "its value is missing"))?
                } else {
                    attached
                };
                parsed.take_option(letter, value, origin)?;
                break;
            }
        }
        Ok(parsed)
    }

    fn take_option(&mut self, letter: char, value: &str, origin: &'static str) -> Result<(), Cause> {
        match letter {
            'o' => {
                let Some(setting) = parse_setting(value, Place::Argument(origin))? else { return Ok(()) };
                self.push(setting)
            }
            'i' => self.set("identityfile", value, origin),
            'p' => self.set("port", value, origin),
            'l' => self.set("user", value, origin),
            'J' => self.set("proxyjump", value, origin),
            'b' => self.set("bindaddress", value, origin),
            'c' => self.set("ciphers", value, origin),
            'm' => self.set("macs", value, origin),
            'F' => {
                self.config_file.get_or_insert_with(|| PathBuf::from(value));
                Ok(())
            }
            // Escape character, log file, control socket: nothing here has one.
            _ => Ok(()),
        }
    }

    /// Adds one setting after those that are there.
    pub(super) fn set(&mut self, keyword: &str, value: &str, origin: &'static str) -> Result<(), Cause> {
        self.push(Setting {
            keyword: keyword.to_owned(),
            arguments: vec![value.to_owned()],
            rest: value.to_owned(),
            place: Place::Argument(origin),
        })
    }

    /// Adds another command line's options after these.
    pub(super) fn extend(&mut self, later: Arguments) {
        self.settings.extend(later.settings);
        self.config_file = self.config_file.take().or(later.config_file);
    }

    fn push(&mut self, setting: Setting) -> Result<(), Cause> {
        match effect(&setting.keyword) {
            None => return Err(setting.error("no such option")),
            Some(Unsupported) if !setting.is_off() => return Err(setting.error(UNSUPPORTED)),
            Some(_) => {}
        }
        // Forwarding and commands are passed over in a file, which serves interactive use too; who asks
        // for them here means us.
        if matches!(
            setting.keyword.as_str(),
            "localforward" | "remoteforward" | "dynamicforward" | "remotecommand"
        ) && !setting.is_off()
        {
            return Err(setting.error(UNSUPPORTED));
        }
        self.settings.push(setting);
        Ok(())
    }
}

const UNSUPPORTED: &str =
    "the built-in SSH can't do that; use `ansible_connection: openssh` for your own ssh program";

fn refused(origin: &str, option: &str, reason: &str) -> Cause {
    Cause::Option { option: format!("{origin}: {option}"), reason: reason.to_owned() }
}

/// How strictly unknown host keys are treated. A changed key is refused except with `No`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strict {
    /// Unknown keys are refused.
    Yes,
    /// Unknown keys are asked for.
    Ask,
    /// Unknown keys are learnt.
    AcceptNew,
    /// Everything is accepted; unknown keys are learnt.
    No,
}

/// Which agent to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Agent {
    /// The one in the environment.
    Default,
    /// None.
    None,
    /// The one behind this socket.
    Socket(PathBuf),
}

/// The way to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Proxy {
    /// Straight.
    Direct,
    /// Through these hosts, in this order.
    Jump(Vec<Hop>),
    /// Through a command's streams.
    Command(String),
}

/// A jump host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Hop {
    pub(super) host: String,
    pub(super) user: Option<String>,
    pub(super) port: Option<u16>,
    /// More options for it, as words of an ssh command line.
    pub(super) words: Vec<String>,
}

impl std::fmt::Display for Hop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// IPv4 or IPv6 only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Any,
    V4,
    V6,
}

/// Everything that holds for one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) host_name: String,
    pub(super) port: u16,
    pub(super) user: String,
    /// Key files in order; the usual names if none was given.
    pub(super) identity_files: Vec<PathBuf>,
    /// Whether any was given.
    pub(super) explicit_identities: bool,
    pub(super) certificate_files: Vec<PathBuf>,
    pub(super) identities_only: bool,
    pub(super) agent: Agent,
    pub(super) forward_agent: bool,
    pub(super) proxy: Proxy,
    /// Files to check against; the first is the one to append to.
    pub(super) user_known_hosts: Vec<PathBuf>,
    pub(super) global_known_hosts: Vec<PathBuf>,
    pub(super) strict: Strict,
    /// The name to look up instead of the host's.
    pub(super) host_key_alias: Option<String>,
    pub(super) hash_known_hosts: bool,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) attempts: u32,
    pub(super) alive_interval: Option<Duration>,
    pub(super) alive_count_max: usize,
    pub(super) compression: bool,
    pub(super) public_key: bool,
    pub(super) password: bool,
    pub(super) keyboard_interactive: bool,
    pub(super) preferred: Vec<String>,
    pub(super) batch_mode: bool,
    pub(super) kex: Option<String>,
    pub(super) ciphers: Option<String>,
    pub(super) macs: Option<String>,
    pub(super) host_key_algorithms: Option<String>,
    pub(super) family: Family,
    pub(super) bind_address: Option<String>,
    /// Settings in files that we can't honour, for the message when the connection fails.
    pub(super) unsupported: Vec<String>,
}

/// What resolving needs to know about this machine and run.
#[derive(Debug)]
pub(super) struct Environment {
    pub(super) home: PathBuf,
    pub(super) local_user: String,
    /// Results of `Match exec` commands, each run once.
    exec_results: Mutex<HashMap<String, bool>>,
}

impl Environment {
    pub(super) fn new(home: PathBuf, local_user: String) -> Environment {
        Environment { home, local_user, exec_results: Mutex::default() }
    }

    /// Runs a `Match exec` command, or remembers how it ended.
    fn exec(&self, command: &str) -> bool {
        let lock = || self.exec_results.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(result) = lock().get(command) {
            return *result;
        }
        let result = std::process::Command::new("/bin/sh")
            .args(["-c", command])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        lock().insert(command.to_owned(), result);
        result
    }
}

/// The settings found so far for one host.
struct Resolver<'a> {
    environment: &'a Environment,
    original: &'a str,
    found: HashMap<String, Vec<Setting>>,
    ignore_unknown: Vec<String>,
    unsupported: Vec<String>,
    final_pass: bool,
    wants_final_pass: bool,
}

/// Resolves `host` with the command line over the files, in that order.
pub(super) fn resolve(
    host: &str,
    arguments: &Arguments,
    files: &[&File],
    environment: &Environment,
) -> Result<Resolved, Cause> {
    let mut resolver = Resolver {
        environment,
        original: host,
        found: HashMap::new(),
        ignore_unknown: Vec::new(),
        unsupported: Vec::new(),
        final_pass: false,
        wants_final_pass: false,
    };
    for setting in &arguments.settings {
        resolver.take(setting)?;
    }
    for file in files {
        resolver.apply(file, true)?;
    }
    if resolver.wants_final_pass {
        resolver.final_pass = true;
        for file in files {
            resolver.apply(file, true)?;
        }
    }
    resolver.finish()
}

impl Resolver<'_> {
    fn apply(&mut self, file: &File, enclosing: bool) -> Result<(), Cause> {
        let mut active = enclosing;
        for line in &file.lines {
            match line {
                Line::Host(setting) => {
                    let patterns = setting.arguments.iter().map(String::as_str);
                    active = enclosing && pattern_list_matches(patterns, &self.host_to_match());
                }
                // A Match is evaluated even in a block that does not apply, to see a `final` in it.
                Line::Match(setting) => active = self.matches(setting, enclosing)? && enclosing,
                Line::Include(files) => {
                    for file in files {
                        self.apply(file, active)?;
                    }
                }
                Line::Setting(setting) if active => self.take(setting)?,
                Line::Setting(_) => {}
            }
        }
        Ok(())
    }

    /// What `Host` compares with: the name as given, or as resolved in the final pass.
    fn host_to_match(&self) -> String {
        if self.final_pass { self.host_name() } else { self.original.to_owned() }
    }

    fn first(&self, keyword: &str) -> Option<&Setting> {
        self.found.get(keyword).and_then(|settings| settings.first())
    }

    fn host_name(&self) -> String {
        match self.first("hostname").and_then(|setting| setting.arguments.first()) {
            Some(name) => expand_percent(name, |token| (token == 'h').then(|| self.original.to_owned()))
                .unwrap_or_else(|_| name.clone()),
            None => self.original.to_owned(),
        }
    }

    fn user(&self) -> String {
        self.first("user").and_then(|s| s.arguments.first()).unwrap_or(&self.environment.local_user).clone()
    }

    fn take(&mut self, setting: &Setting) -> Result<(), Cause> {
        match effect(&setting.keyword) {
            None => {
                let patterns = self.ignore_unknown.iter().map(String::as_str);
                if !pattern_list_matches(patterns, &setting.keyword) {
                    return Err(setting.error("no such option (IgnoreUnknown lets it pass)"));
                }
            }
            Some(Irrelevant) => {}
            Some(Unsupported) => {
                if !setting.is_off() && !self.found.contains_key(&setting.keyword) {
                    self.unsupported.push(format!("{}: {} {}", setting.place, setting.keyword, setting.rest));
                }
                self.found.entry(setting.keyword.clone()).or_insert_with(|| vec![setting.clone()]);
            }
            Some(Honoured) if setting.keyword == "ignoreunknown" => {
                let patterns = setting.arguments.iter().flat_map(|argument| argument.split(','));
                self.ignore_unknown.extend(patterns.map(str::to_lowercase));
            }
            // The two share a slot: whichever comes first settles the way.
            Some(Honoured)
                if (setting.keyword == "proxyjump" && self.found.contains_key("proxycommand"))
                    || (setting.keyword == "proxycommand" && self.found.contains_key("proxyjump")) => {}
            Some(Honoured) => {
                let adds_up = matches!(setting.keyword.as_str(), "identityfile" | "certificatefile");
                let settings = self.found.entry(setting.keyword.clone()).or_default();
                let again = settings.iter().any(|other| other.arguments == setting.arguments);
                if settings.is_empty() || (adds_up && !again) {
                    settings.push(setting.clone());
                }
            }
        }
        Ok(())
    }

    fn matches(&mut self, setting: &Setting, enclosing: bool) -> Result<bool, Cause> {
        let mut result = true;
        let mut words = setting.arguments.iter();
        while let Some(word) = words.next() {
            let (negated, criterion) = match word.strip_prefix('!') {
                Some(rest) => (true, rest),
                None => (false, word.as_str()),
            };
            let criterion = criterion.to_lowercase();
            let (name, attached) = match criterion.split_once('=') {
                Some((name, _)) => (name.to_owned(), word.split_once('=').map(|(_, value)| value.to_owned())),
                None => (criterion, None),
            };
            let matched = match name.as_str() {
                "all" => true,
                "final" | "canonical" => {
                    self.wants_final_pass |= name == "final";
                    self.final_pass
                }
                "host" | "originalhost" | "user" | "localuser" | "exec" | "tagged" | "localnetwork"
                | "command" | "sessiontype" | "version" => {
                    let value = match attached {
                        Some(value) => value,
                        None => words
                            .next()
                            .ok_or_else(|| setting.error(format!("{name} needs a value")))?
                            .clone(),
                    };
                    // What already failed decides; commands need not run for it.
                    result && enclosing && self.criterion(setting, &name, &value)?
                }
                _ => return Err(setting.error(format!("no such criterion: {name}"))),
            };
            result &= matched != negated;
        }
        Ok(result)
    }

    fn criterion(&self, setting: &Setting, name: &str, value: &str) -> Result<bool, Cause> {
        let list = |text: &str| pattern_list_matches(value.split(','), text);
        Ok(match name {
            "host" => list(&self.host_name()),
            "originalhost" => list(self.original),
            "user" => list(&self.user()),
            "localuser" => list(&self.environment.local_user),
            "tagged" => self.first("tag").and_then(|tag| tag.arguments.first()).is_some_and(|tag| list(tag)),
            "exec" => {
                let command = self.expand(value).map_err(|reason| setting.error(reason))?;
                self.environment.exec(&command)
            }
            "command" | "version" | "sessiontype" => name == "sessiontype" && list("exec"),
            _ => return Err(setting.error(format!("the criterion {name} is not supported"))),
        })
    }

    fn port(&self) -> Result<u16, Cause> {
        match self.first("port") {
            Some(setting) => match setting.one()?.parse() {
                Ok(port) if port != 0 => Ok(port),
                _ => Err(setting.error("must be a port number")),
            },
            None => Ok(22),
        }
    }

    /// Expands `%` tokens and `${VARIABLES}`.
    fn expand(&self, text: &str) -> Result<String, String> {
        let text = expand_variables(text)?;
        let node = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        expand_percent(&text, |token| {
            Some(match token {
                'h' => self.host_name(),
                'n' => self.original.to_owned(),
                'p' => self.port().unwrap_or(22).to_string(),
                'r' => self.user(),
                'u' => self.environment.local_user.clone(),
                'd' => self.environment.home.to_string_lossy().into_owned(),
                'i' => rustix::process::getuid().as_raw().to_string(),
                'k' => match self.first("hostkeyalias").and_then(|s| s.arguments.first()) {
                    Some(alias) => alias.clone(),
                    None => self.original.to_owned(),
                },
                'l' => node(),
                'L' => node().split('.').next().unwrap_or_default().to_owned(),
                'j' => self.first("proxyjump").map(|s| s.rest.clone()).unwrap_or_default(),
                _ => return None,
            })
        })
    }

    fn paths(&self, keyword: &str) -> Result<Option<Vec<PathBuf>>, Cause> {
        let Some(settings) = self.found.get(keyword) else { return Ok(None) };
        let mut paths = Vec::new();
        for setting in settings {
            for argument in &setting.arguments {
                if argument.eq_ignore_ascii_case("none") {
                    continue;
                }
                let expanded = self.expand(argument).map_err(|reason| setting.error(reason))?;
                paths.push(expand_tilde(&expanded, &self.environment.home));
            }
        }
        Ok(Some(paths))
    }

    fn flag(&self, keyword: &str, default: bool) -> Result<bool, Cause> {
        self.first(keyword).map_or(Ok(default), Setting::flag)
    }

    fn text(&self, keyword: &str) -> Option<String> {
        self.first(keyword).and_then(|setting| setting.arguments.first()).cloned()
    }

    fn seconds(&self, keyword: &str) -> Result<Option<Duration>, Cause> {
        let Some(setting) = self.first(keyword) else { return Ok(None) };
        if setting.is_off() {
            return Ok(None);
        }
        parse_time(setting.one()?)
            .map(Some)
            .ok_or_else(|| setting.error("must be a time, such as 10 or 1m30s"))
    }

    fn proxy(&self) -> Result<Proxy, Cause> {
        if let Some(setting) = self.first("proxyjump") {
            if !setting.is_none() {
                let text = self.expand(setting.one()?).map_err(|reason| setting.error(reason))?;
                let hops: Option<Vec<Hop>> = text.split(',').map(parse_hop).collect();
                return match hops {
                    Some(hops) => Ok(Proxy::Jump(hops)),
                    None => Err(setting.error("must be [user@]host[:port], several separated by commas")),
                };
            }
            return Ok(Proxy::Direct);
        }
        match self.first("proxycommand") {
            Some(setting) if !setting.is_none() => {
                // Quotes around the whole are the shell's business except on a command line, where
                // `-o 'ProxyCommand="…"'` is the usual way to write it.
                let text = match setting.arguments.as_slice() {
                    [one] => one,
                    _ => &setting.rest,
                };
                if let Some(hop) = jump_in_disguise(text) {
                    return Ok(Proxy::Jump(vec![hop]));
                }
                Ok(Proxy::Command(self.expand(text).map_err(|reason| setting.error(reason))?))
            }
            _ => Ok(Proxy::Direct),
        }
    }

    fn strict(&self) -> Result<Strict, Cause> {
        let Some(setting) = self.first("stricthostkeychecking") else { return Ok(Strict::Ask) };
        match setting.one()?.to_lowercase().as_str() {
            "yes" | "true" => Ok(Strict::Yes),
            "ask" => Ok(Strict::Ask),
            "accept-new" => Ok(Strict::AcceptNew),
            "no" | "false" | "off" => Ok(Strict::No),
            _ => Err(setting.error("must be yes, no, ask, accept-new or off")),
        }
    }

    fn agent(&self) -> Result<Agent, Cause> {
        let Some(setting) = self.first("identityagent") else { return Ok(Agent::Default) };
        let value = setting.one()?;
        if value.eq_ignore_ascii_case("none") {
            return Ok(Agent::None);
        }
        if value == "SSH_AUTH_SOCK" {
            return Ok(Agent::Default);
        }
        let value = match value.strip_prefix('$').filter(|name| !name.starts_with('{')) {
            Some(name) => format!("${{{name}}}"),
            None => value.to_owned(),
        };
        let path = self.expand(&value).map_err(|reason| setting.error(reason))?;
        Ok(Agent::Socket(expand_tilde(&path, &self.environment.home)))
    }

    fn finish(self) -> Result<Resolved, Cause> {
        let home = &self.environment.home;
        let ssh = home.join(".ssh");
        let identities = self.paths("identityfile")?;
        let explicit_identities = identities.is_some();
        let usual = || ["id_ed25519", "id_ecdsa", "id_rsa"].map(|name| ssh.join(name)).to_vec();
        let family = match self.text("addressfamily").as_deref() {
            Some("inet") => Family::V4,
            Some("inet6") => Family::V6,
            _ => Family::Any,
        };
        let resolved = Resolved {
            host_name: self.host_name(),
            port: self.port()?,
            user: self.user(),
            identity_files: identities.unwrap_or_else(usual),
            explicit_identities,
            certificate_files: self.paths("certificatefile")?.unwrap_or_default(),
            identities_only: self.flag("identitiesonly", false)?,
            agent: self.agent()?,
            forward_agent: match self.first("forwardagent") {
                Some(setting) => setting.flag()?,
                None => false,
            },
            proxy: self.proxy()?,
            user_known_hosts: self
                .paths("userknownhostsfile")?
                .unwrap_or_else(|| vec![ssh.join("known_hosts"), ssh.join("known_hosts2")]),
            global_known_hosts: self.paths("globalknownhostsfile")?.unwrap_or_else(|| {
                ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"].map(PathBuf::from).to_vec()
            }),
            strict: self.strict()?,
            host_key_alias: self.text("hostkeyalias"),
            hash_known_hosts: self.flag("hashknownhosts", false)?,
            connect_timeout: self.seconds("connecttimeout")?,
            attempts: match self.first("connectionattempts") {
                Some(setting) => setting.number()?.clamp(1, 100),
                None => 1,
            },
            alive_interval: self.seconds("serveraliveinterval")?,
            alive_count_max: match self.first("serveralivecountmax") {
                Some(setting) => setting.number()? as usize,
                None => 3,
            },
            compression: self.flag("compression", false)?,
            public_key: match self.first("pubkeyauthentication") {
                // `unbound` and `host-bound` are ways of saying yes.
                Some(setting) => !setting.is_off(),
                None => true,
            },
            password: self.flag("passwordauthentication", true)?,
            keyboard_interactive: self.flag("kbdinteractiveauthentication", true)?,
            preferred: self
                .text("preferredauthentications")
                .map(|list| list.split(',').map(|method| method.trim().to_lowercase()).collect())
                .unwrap_or_default(),
            batch_mode: self.flag("batchmode", false)?,
            kex: self.text("kexalgorithms"),
            ciphers: self.text("ciphers"),
            macs: self.text("macs"),
            host_key_algorithms: self.text("hostkeyalgorithms"),
            family,
            bind_address: self.text("bindaddress"),
            unsupported: self.unsupported.clone(),
        };
        Ok(resolved)
    }
}

/// `[user@]host[:port]`, `ssh://…`, an IPv6 address in brackets.
pub(super) fn parse_hop(text: &str) -> Option<Hop> {
    let text = text.trim();
    let text = text.strip_prefix("ssh://").unwrap_or(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    let (user, host) = match text.rsplit_once('@') {
        Some((user, host)) => (Some(user.to_owned()), host),
        None => (None, text),
    };
    let (host, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':'))
        }
        // More than one colon without brackets is an IPv6 address without a port.
        None if host.matches(':').count() > 1 => (host, None),
        None => match host.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host, None),
        },
    };
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
        None => None,
    };
    (!host.is_empty() && user.as_deref() != Some("")).then(|| Hop {
        host: host.to_owned(),
        user,
        port,
        words: Vec::new(),
    })
}

/// The jump host in `ssh [options] -W %h:%p [user@]host`, the old way to write ProxyJump. As a jump host
/// its one connection serves all hosts behind it; as a command each would log in there anew. `None` for
/// anything else, which then runs as the command that it is.
fn jump_in_disguise(text: &str) -> Option<Hop> {
    if text.contains(['|', ';', '&', '<', '>', '$', '`', '(', '\n']) {
        return None;
    }
    let words = shlex::split(text)?;
    let (program, rest) = words.split_first()?;
    if Path::new(program).file_name()? != "ssh" {
        return None;
    }
    let mut options = Vec::new();
    let (mut destination, mut forwards) = (None, false);
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            // A second word would be a command.
            if destination.replace(word).is_some() {
                return None;
            }
            continue;
        };
        for (at, letter) in letters.char_indices() {
            if !"BbcDEeFIiJLlmOoPpQRSwW".contains(letter) {
                options.push(format!("-{letter}"));
                continue;
            }
            let attached = &letters[at + letter.len_utf8()..];
            let value = if attached.is_empty() { rest.next()?.as_str() } else { attached };
            match letter {
                'W' if matches!(value, "%h:%p" | "[%h]:%p") => forwards = true,
                // A token here speaks of the host behind, which a shared connection can't.
                _ if value.contains('%') => return None,
                _ => options.extend([format!("-{letter}"), value.to_owned()]),
            }
            break;
        }
    }
    Arguments::parse(&options, "ProxyCommand").ok()?;
    let destination = destination.filter(|destination| forwards && !destination.contains('%'))?;
    Some(Hop { words: options, ..parse_hop(destination)? })
}

/// Replaces `%x` by what `token` gives; `%%` is a percent sign.
fn expand_percent(text: &str, token: impl Fn(char) -> Option<String>) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            expanded.push(c);
            continue;
        }
        match chars.next() {
            Some('%') => expanded.push('%'),
            Some(letter) => match token(letter) {
                Some(value) => expanded.push_str(&value),
                None => return Err(format!("%{letter} is not supported here")),
            },
            None => return Err("a % at the end must be written %%".to_owned()),
        }
    }
    Ok(expanded)
}

/// Replaces `${NAME}` by the environment's value.
fn expand_variables(text: &str) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let after = &rest[start + 2..];
        let Some(end) = after.find('}') else { break };
        let name = &after[..end];
        let value = std::env::var(name).map_err(|_| format!("the variable {name} is not set"))?;
        expanded.push_str(&rest[..start]);
        expanded.push_str(&value);
        rest = &after[end + 1..];
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// OpenSSH's times: seconds, or numbers with units such as `1h30m`.
fn parse_time(text: &str) -> Option<Duration> {
    let mut total: u64 = 0;
    let mut number: Option<u64> = None;
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(u64::from(digit))?);
            continue;
        }
        let unit = match c.to_ascii_lowercase() {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(number.take()?.checked_mul(unit)?)?;
    }
    if let Some(seconds) = number {
        total = total.checked_add(seconds)?;
    } else if text.is_empty() {
        return None;
    }
    Some(Duration::from_secs(total))
}

/// Applies an algorithm list as OpenSSH writes it (`a,b`, `+a`, `-a*`, `^a`) to what we have, by name.
pub(super) fn choose_algorithms<T: Clone>(
    list: Option<&str>,
    ours: &[T],
    all: &[T],
    name: impl Fn(&T) -> String,
) -> Vec<T> {
    let Some(list) = list else { return ours.to_vec() };
    let named = |list: &str| -> Vec<T> {
        let mut chosen: Vec<T> = Vec::new();
        for pattern in list.split(',') {
            for algorithm in all {
                let taken = chosen.iter().any(|other| name(other) == name(algorithm));
                if !taken && wildcard_matches(pattern.trim(), &name(algorithm)) {
                    chosen.push(algorithm.clone());
                }
            }
        }
        chosen
    };
    let without = |from: &[T], removed: &[T]| -> Vec<T> {
        let gone = |algorithm: &T| removed.iter().any(|other| name(other) == name(algorithm));
        from.iter().filter(|algorithm| !gone(algorithm)).cloned().collect()
    };
    match list.split_at_checked(1) {
        Some(("+", rest)) => {
            let added = named(rest);
            let mut chosen = ours.to_vec();
            chosen.extend(without(&added, ours));
            chosen
        }
        Some(("-", rest)) => without(ours, &named(rest)),
        Some(("^", rest)) => {
            let mut chosen = named(rest);
            chosen.extend(without(ours, &chosen.clone()));
            chosen
        }
        _ => named(list),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = "/home/me";

    /// Resolves `host` with a configuration text and a command line.
    fn resolved(config: &str, command_line: &str, host: &str) -> Result<Resolved, String> {
        let words = shlex::split(command_line).expect("words");
        let environment = Environment::new(PathBuf::from(HOME), "me".to_owned());
        let go = || {
            let arguments = Arguments::parse(&words, "ansible_ssh_common_args")?;
            let base = Path::new("/home/me/.ssh");
            let file = File::parse(config, Path::new("config"), base, Path::new(HOME), 0)?;
            resolve(host, &arguments, &[&file], &environment)
        };
        go().map_err(|cause| cause.to_string())
    }

    /// The way to a host in short: `user@host:port`.
    fn way(config: &str, command_line: &str, host: &str) -> String {
        match resolved(config, command_line, host) {
            Ok(resolved) => format!("{}@{}:{}", resolved.user, resolved.host_name, resolved.port),
            Err(error) => error,
        }
    }

    #[test]
    fn keywords_are_sorted() {
        assert!(KEYWORDS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn the_first_value_wins_and_patterns_choose() {
        let cases = [
            ("", "", "h", "me@h:22"),
            ("User a\nUser b", "", "h", "a@h:22"),
            ("Host h\n User a\nHost *\n User b\n Port 23", "", "h", "a@h:23"),
            ("Host h\n User a\nHost *\n User b\n Port 23", "", "other", "b@other:23"),
            ("Host *.example.com !bad.example.com\n User a", "", "good.example.com", "a@good.example.com:22"),
            ("Host *.example.com !bad.example.com\n User a", "", "bad.example.com", "me@bad.example.com:22"),
            ("Host web? db*\n HostName %h.lan", "", "web1", "me@web1.lan:22"),
            ("Host web? db*\n HostName %h.lan", "", "web12", "me@web12:22"),
            ("hOST h\nuSER=a\nport = 24", "", "h", "a@h:24"),
            ("\"User\" \"a b\"", "", "h", "a b@h:22"),
            ("User a # not b\n# User c\n\nPort 5 #x", "", "h", "a@h:5"),
            ("User 'a'", "-l b -p24", "h", "b@h:24"),
            ("", "-oUser=a -o 'Port 7' -o \"HostName = x\"", "h", "a@x:7"),
            ("User a", "-o User=b -o User=c", "h", "b@h:22"),
            ("Host a b\nUser x\nHost\t*\nUser y", "", "b", "x@b:22"),
        ];
        for (config, command_line, host, expected) in cases {
            assert_eq!(way(config, command_line, host), expected, "{config:?} {command_line:?} {host}");
        }
    }

    #[test]
    fn matches() {
        let cases = [
            ("Match all\nUser a", "h", "a@h:22"),
            ("Match host h\nUser a", "h", "a@h:22"),
            ("Match host h,g !user me\nUser a", "h", "me@h:22"),
            ("Match host *,!h\nUser a", "h", "me@h:22"),
            ("HostName real\nMatch host real\nPort 5", "h", "me@real:5"),
            ("HostName real\nMatch host h\nPort 5", "h", "me@real:22"),
            ("HostName real\nMatch originalhost h\nPort 5", "h", "me@real:5"),
            ("User x\nMatch user x\nPort 5", "h", "x@h:5"),
            ("Match user me localuser me\nPort 5", "h", "me@h:5"),
            ("Match localuser root\nPort 5", "h", "me@h:22"),
            ("Match final host real\nPort 5\nHost h\nHostName real", "h", "me@real:5"),
            ("Match !final all\nPort 5\nMatch final\nPort 6", "h", "me@h:5"),
            ("Match exec \"test %h = h\"\nPort 5", "h", "me@h:5"),
            ("Match exec \"test %h = h\"\nPort 5", "g", "me@g:22"),
            ("Match host=h\nPort 5", "h", "me@h:5"),
            ("Tag t\nMatch tagged t\nPort 5", "h", "me@h:5"),
            ("Match sessiontype exec\nPort 5", "h", "me@h:5"),
            ("Match host h\nPort 5\nMatch host g\nPort 6\nHost *\nUser z", "g", "z@g:6"),
        ];
        for (config, host, expected) in cases {
            assert_eq!(way(config, "", host), expected, "{config:?} {host}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("Usr a", "", "config:1: usr a: no such option (IgnoreUnknown lets it pass)"),
            ("\nUser", "", "config:2: user : a value is missing"),
            ("User \"a", "", "config:1: user \"a: a quote is not closed"),
            ("Port x", "", "config:1: port x: must be a port number"),
            ("Match hots h", "", "config:1: match hots h: no such criterion: hots"),
            ("Match host", "", "config:1: match host: host needs a value"),
            (
                "Match localnetwork 10.0.0.0/8",
                "",
                "config:1: match localnetwork 10.0.0.0/8: the criterion localnetwork is not supported",
            ),
            (
                "ProxyJump @",
                "",
                "config:1: proxyjump @: must be [user@]host[:port], several separated by commas",
            ),
            ("ConnectTimeout 5x", "", "config:1: connecttimeout 5x: must be a time, such as 10 or 1m30s"),
            ("IdentityFile %Z", "", "config:1: identityfile %Z: %Z is not supported here"),
            ("", "-o Bogus=1", "ansible_ssh_common_args: bogus 1: no such option"),
            (
                "",
                "-L 80:h:80",
                "ansible_ssh_common_args: -L: the built-in SSH has no such option; use `ansible_connection: openssh` for your own ssh program",
            ),
            (
                "",
                "-tt",
                "ansible_ssh_common_args: -t: the built-in SSH has no such option; use `ansible_connection: openssh` for your own ssh program",
            ),
            (
                "",
                "-o PKCS11Provider=/lib/x.so",
                "ansible_ssh_common_args: pkcs11provider /lib/x.so: the built-in SSH can't do that; use `ansible_connection: openssh` for your own ssh program",
            ),
            (
                "",
                "-o GSSAPIAuthentication=yes",
                "ansible_ssh_common_args: gssapiauthentication yes: the built-in SSH can't do that; use `ansible_connection: openssh` for your own ssh program",
            ),
            ("", "-i", "ansible_ssh_common_args: -i: its value is missing"),
            ("", "stray", "ansible_ssh_common_args: stray: is not an option"),
        ];
        for (config, command_line, expected) in cases {
            assert_eq!(way(config, command_line, "h"), expected, "{config:?} {command_line:?}");
        }
    }

    #[test]
    fn what_does_not_matter_passes() {
        let config = "IgnoreUnknown Use*,Weird\nUseKeychain yes\nWeird x\nControlMaster auto\nSendEnv LANG LC_*\n\
                      ForwardX11 yes\nGSSAPIAuthentication no\nLocalForward 1 h:1\nVisualHostKey yes";
        let command_line = "-C -o ControlMaster=auto -o ControlPersist=60s -o ControlPath=~/x -vvv -q -T \
                            -o GSSAPIAuthentication=no -S none";
        let resolved = resolved(config, command_line, "h").expect("all pass");
        assert!(resolved.compression);
        assert_eq!(resolved.unsupported, Vec::<String>::new());
    }

    #[test]
    fn what_a_file_asks_in_vain_is_remembered() {
        let resolved =
            resolved("PKCS11Provider /lib/x.so\nGSSAPIAuthentication yes", "", "h").expect("passes");
        assert_eq!(
            resolved.unsupported,
            ["config:1: pkcs11provider /lib/x.so", "config:2: gssapiauthentication yes"]
        );
    }

    #[test]
    fn everything_else_has_its_value() {
        let config = "IdentityFile ~/.ssh/a\nIdentityFile %d/b-%h-%r\nIdentityFile ~/.ssh/a\nIdentitiesOnly yes\n\
                      IdentityAgent none\nUserKnownHostsFile /k1 ~/k2\nGlobalKnownHostsFile none\n\
                      StrictHostKeyChecking accept-new\nHostKeyAlias al\nConnectTimeout 1m30s\n\
                      ServerAliveInterval 5\nServerAliveCountMax 2\nHashKnownHosts yes\nForwardAgent yes\n\
                      PreferredAuthentications publickey,password\nCertificateFile ~/c\nBatchMode yes\n\
                      ConnectionAttempts 3\nAddressFamily inet6\nPasswordAuthentication no\n\
                      ChallengeResponseAuthentication no";
        let resolved = resolved(config, "", "h").expect("resolves");
        let path = PathBuf::from;
        assert_eq!(resolved.identity_files, [path("/home/me/.ssh/a"), path("/home/me/b-h-me")]);
        assert!(resolved.explicit_identities && resolved.identities_only && resolved.hash_known_hosts);
        assert!(resolved.forward_agent && resolved.batch_mode);
        assert_eq!(resolved.agent, Agent::None);
        assert_eq!(resolved.user_known_hosts, [path("/k1"), path("/home/me/k2")]);
        assert_eq!(resolved.global_known_hosts, Vec::<PathBuf>::new());
        assert_eq!(resolved.strict, Strict::AcceptNew);
        assert_eq!(resolved.host_key_alias.as_deref(), Some("al"));
        assert_eq!(resolved.connect_timeout, Some(Duration::from_secs(90)));
        assert_eq!((resolved.alive_interval, resolved.alive_count_max), (Some(Duration::from_secs(5)), 2));
        assert_eq!(resolved.preferred, ["publickey", "password"]);
        assert_eq!(resolved.certificate_files, [path("/home/me/c")]);
        assert_eq!((resolved.attempts, resolved.family), (3, Family::V6));
        assert!(!resolved.password && !resolved.keyboard_interactive && resolved.public_key);
    }

    #[test]
    fn the_way_through_others() {
        let hop = |host: &str, user: Option<&str>, port| Hop {
            host: host.into(),
            user: user.map(Into::into),
            port,
            words: vec![],
        };
        let cases = [
            ("ProxyJump b", Proxy::Jump(vec![hop("b", None, None)])),
            (
                "ProxyJump u@b:2222,[::1]:23,ssh://x@c:24/",
                Proxy::Jump(vec![
                    hop("b", Some("u"), Some(2222)),
                    hop("::1", None, Some(23)),
                    hop("c", Some("x"), Some(24)),
                ]),
            ),
            ("ProxyJump none\nProxyCommand x", Proxy::Direct),
            ("ProxyCommand nc -X 5 %h %p", Proxy::Command("nc -X 5 h 22".into())),
            ("ProxyCommand x\nProxyJump b", Proxy::Command("x".into())),
            ("ProxyCommand none\nProxyJump b", Proxy::Direct),
        ];
        for (config, expected) in cases {
            assert_eq!(resolved(config, "", "h").map(|resolved| resolved.proxy), Ok(expected), "{config:?}");
        }
        let disguised = |words: &[&str]| {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            Proxy::Jump(vec![Hop { words, ..hop("gw", Some("u"), None) }])
        };
        let command = |text: &str| Proxy::Command(text.to_owned());
        for (text, expected) in [
            ("ssh -W %h:%p -q u@gw", disguised(&["-q"])),
            ("/usr/bin/ssh -qW%h:%p -i ~/k -p2222 u@gw", disguised(&["-q", "-i", "~/k", "-p", "2222"])),
            (
                "ssh u@gw -o StrictHostKeyChecking=no -W [%h]:%p",
                disguised(&["-o", "StrictHostKeyChecking=no"]),
            ),
            ("ssh -W %h:%p -q u@gw || true", command("ssh -W h:22 -q u@gw || true")),
            ("ssh u@gw nc %h %p", command("ssh u@gw nc h 22")),
            ("ssh -W %h:%p -o ControlPath=%r u@gw", command("ssh -W h:22 -o ControlPath=me u@gw")),
            ("ssh -W %h:%p -t u@gw", command("ssh -W h:22 -t u@gw")),
            ("sshpass -p x ssh -W %h:%p u@gw", command("sshpass -p x ssh -W h:22 u@gw")),
        ] {
            let by_option = resolved("", &format!("-o 'ProxyCommand=\"{text}\"'"), "h").map(|r| r.proxy);
            assert_eq!(by_option, Ok(expected.clone()), "{text}");
            let by_file = resolved(&format!("ProxyCommand {text}"), "", "h").map(|r| r.proxy);
            assert_eq!(by_file, Ok(expected), "{text}");
        }
        let by_flag = resolved("ProxyJump x", "-J u@b", "h").map(|r| r.proxy);
        assert_eq!(by_flag, Ok(Proxy::Jump(vec![hop("b", Some("u"), None)])));
    }

    #[test]
    fn files_include_files() {
        let home = tempfile::TempDir::new().expect("a directory");
        let ssh = home.path().join(".ssh");
        std::fs::create_dir_all(ssh.join("conf.d")).expect("a directory");
        let write = |name: &str, text: &str| std::fs::write(ssh.join(name), text).expect("writable");
        write("conf.d/10-a", "Host a\nPort 10\nHost *\nUser inner");
        write("conf.d/20-b", "Port 20");
        write("config", "Host a b\nInclude conf.d/*\nHost c\nPort 30\nInclude missing/*");
        write("loop", "Include loop");
        let environment = Environment::new(home.path().to_owned(), "me".to_owned());
        let file = File::read(&ssh.join("config"), home.path(), true).expect("readable");
        let way = |host: &str| {
            let resolved = resolve(host, &Arguments::default(), &[&file], &environment).expect("resolves");
            format!("{}:{}", resolved.user, resolved.port)
        };
        assert_eq!((way("a"), way("b"), way("c")), ("inner:10".into(), "inner:20".into(), "me:30".into()));
        let error = File::read(&ssh.join("loop"), home.path(), true).expect_err("a circle");
        assert!(error.to_string().contains("nested too deep"), "{error}");
        let error = File::read(&ssh.join("gone"), home.path(), true).expect_err("required");
        assert!(error.to_string().contains("gone"), "{error}");
    }

    #[test]
    fn algorithm_lists() {
        let cases = [
            (None, "b,a"),
            (Some("a"), "a"),
            (Some("a,c"), "a,c"),
            (Some("+c"), "b,a,c"),
            (Some("-a"), "b"),
            (Some("^a"), "a,b"),
            (Some("x"), ""),
        ];
        for (list, expected) in cases {
            let chosen = choose_algorithms(list, &["b", "a"], &["a", "b", "c"], ToString::to_string);
            assert_eq!(chosen.join(","), expected, "{list:?}");
        }
    }
}
