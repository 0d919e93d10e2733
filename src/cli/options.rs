//! Options that several subcommands share, named as ansible-core names them.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use crate::config::Flag;
use crate::engine::RollbackScope;

/// `-v`.
#[derive(Args, Clone, Debug, Default)]
pub struct Verbosity {
    /// Tell more; up to -vvvv
    #[arg(short = 'v', long = "verbose", action = ArgAction::Count, display_order = 900)]
    pub verbose: u8,
}

/// Which hosts.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Inventory")]
#[group(id = "InventorySources")]
pub struct Inventory {
    /// Inventory file, directory, script, or comma-separated list of hosts; may be repeated
    #[arg(short, long, visible_alias = "inventory-file", value_name = "INVENTORY")]
    pub inventory: Vec<String>,
    /// Further restrict the hosts to this pattern, or to the patterns in @FILE
    #[arg(short, long, value_name = "PATTERN", allow_hyphen_values = true)]
    pub limit: Option<String>,
    /// Forget the cached facts of all hosts first
    #[arg(long)]
    pub flush_cache: bool,
}

/// Variables from the command line.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Variables")]
pub struct ExtraVars {
    /// Set variables: key=value, YAML or JSON, or @FILE; may be repeated
    #[arg(short = 'e', long = "extra-vars", value_name = "VARS", allow_hyphen_values = true)]
    pub extra_vars: Vec<String>,
}

/// Passwords of vaults.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Vault")]
pub struct VaultPasswords {
    /// Password with its label: LABEL@FILE, LABEL@SCRIPT or LABEL@prompt; may be repeated
    #[arg(long = "vault-id", value_name = "ID")]
    pub vault_id: Vec<String>,
    /// Ask for the vault's password
    #[arg(
        short = 'J',
        long = "ask-vault-password",
        visible_alias = "ask-vault-pass",
        conflicts_with = "vault_password_file"
    )]
    pub ask_vault_password: bool,
    /// File (or script) with the vault's password; may be repeated
    #[arg(long = "vault-password-file", visible_alias = "vault-pass-file", value_name = "FILE")]
    pub vault_password_file: Vec<String>,
}

/// How to reach hosts.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// Log in as this user
    #[arg(short = 'u', long = "user", value_name = "USER")]
    pub remote_user: Option<String>,
    /// Log in with this private key
    #[arg(long = "private-key", visible_alias = "key-file", value_name = "FILE")]
    pub private_key: Option<PathBuf>,
    /// Connection kind: ssh, openssh, local, docker, podman, chroot
    #[arg(short = 'c', long = "connection", value_name = "KIND")]
    pub connection: Option<String>,
    /// Seconds until a connection must stand
    #[arg(short = 'T', long = "timeout", value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Options for every SSH connection, as for ssh (such as -o ProxyJump=…)
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub ssh_common_args: Option<String>,
    /// More of them
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub ssh_extra_args: Option<String>,
    /// Accepted for compatibility; files travel over the connection itself, not through sftp
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true, hide_short_help = true)]
    pub sftp_extra_args: Option<String>,
    /// Accepted for compatibility; files travel over the connection itself, not through scp
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true, hide_short_help = true)]
    pub scp_extra_args: Option<String>,
    /// Ask for the connection's password
    #[arg(short = 'k', long = "ask-pass", conflicts_with = "connection_password_file")]
    pub ask_pass: bool,
    /// File (or script) with the connection's password
    #[arg(long, visible_alias = "conn-pass-file", value_name = "FILE")]
    pub connection_password_file: Option<PathBuf>,
}

/// Becoming another user.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Privilege escalation")]
pub struct Become {
    /// Become another user on the host (root, if none is named)
    #[arg(short = 'b', long = "become")]
    pub become_: bool,
    /// How: sudo, su or doas
    #[arg(long, value_name = "METHOD")]
    pub become_method: Option<String>,
    /// Which user
    #[arg(long, value_name = "USER")]
    pub become_user: Option<String>,
    /// Ask for the password for that
    #[arg(short = 'K', long = "ask-become-pass", conflicts_with = "become_password_file")]
    pub ask_become_pass: bool,
    /// File (or script) with the password for that
    #[arg(long, visible_alias = "become-pass-file", value_name = "FILE")]
    pub become_password_file: Option<PathBuf>,
}

/// How much is changed and shown.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Run")]
pub struct Running {
    /// Change nothing; say what would be changed
    #[arg(short = 'C', long)]
    pub check: bool,
    /// Show changes of files and other resources as diffs
    #[arg(short = 'D', long)]
    pub diff: bool,
    /// How many hosts are worked on at a time
    #[arg(short = 'f', long, value_name = "N")]
    pub forks: Option<usize>,
    /// Accepted for compatibility; modules are built in
    #[arg(short = 'M', long = "module-path", value_name = "PATH", hide_short_help = true)]
    pub module_path: Vec<String>,
}

/// How a run is told.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Layout: default, yaml, minimal, oneline, json (a stream of events), json-document, junit, tree
    #[arg(long, value_name = "LAYOUT")]
    pub output: Option<String>,
    /// Exit with 80 when something was changed, 81 when something would be
    #[arg(long)]
    pub detailed_exitcode: bool,
    /// Add where the time went: by phase, by host, by task
    #[arg(long)]
    pub profile: bool,
    /// The same as a trace for chrome://tracing or Perfetto
    #[arg(long, value_name = "FILE")]
    pub profile_trace: Option<PathBuf>,
}

/// What is rolled back when a host fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RollbackOnFailure {
    /// The host.
    Host,
    /// All hosts of its batch (`serial`).
    Batch,
}

impl From<RollbackOnFailure> for RollbackScope {
    fn from(scope: RollbackOnFailure) -> RollbackScope {
        match scope {
            RollbackOnFailure::Host => RollbackScope::Host,
            RollbackOnFailure::Batch => RollbackScope::Batch,
        }
    }
}

/// A time such as `60s`, `5m`, `1h30m` or `90`, in seconds.
///
/// # Errors
/// It is none, or zero, or more than a year.
pub fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no time; write 60s, 5m, 1h30m or 2d");
    let mut total = 0_u64;
    let mut digits = String::new();
    for c in text.trim().chars() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 24 * 3600,
            'w' => 7 * 24 * 3600,
            _ => return Err(wrong()),
        };
        let number: u64 = std::mem::take(&mut digits).parse().map_err(|_| wrong())?;
        total = number.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
    }
    if !digits.is_empty() {
        if total > 0 {
            return Err(wrong());
        }
        total = digits.parse().map_err(|_| wrong())?;
    }
    if total == 0 || total > 366 * 24 * 3600 { Err(wrong()) } else { Ok(total) }
}

/// Collects what the command line says about settings.
#[derive(Debug, Default)]
pub struct Flags(pub Vec<Flag>);

impl Flags {
    /// The value of an option, if it was given.
    pub fn value(
        &mut self,
        key: &'static str,
        value: Option<impl ToString>,
        flag: &'static str,
    ) -> &mut Flags {
        if let Some(value) = value {
            self.0.push((key, value.to_string(), flag));
        }
        self
    }

    /// A switch, if it was given.
    pub fn switch(&mut self, key: &'static str, on: bool, flag: &'static str) -> &mut Flags {
        self.value(key, on.then_some("true"), flag)
    }

    /// A list, if anything is in it.
    pub fn list(&mut self, key: &'static str, values: &[String], flag: &'static str) -> &mut Flags {
        self.value(key, (!values.is_empty()).then(|| values.join(",")), flag)
    }
}

impl Connection {
    /// What it says about settings.
    pub fn flags(&self, flags: &mut Flags) {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        flags
            .value("DEFAULT_REMOTE_USER", self.remote_user.as_ref(), "--user")
            .value("DEFAULT_PRIVATE_KEY_FILE", path(&self.private_key), "--private-key")
            .value("DEFAULT_TRANSPORT", self.connection.as_ref(), "--connection")
            .value("DEFAULT_TIMEOUT", self.timeout, "--timeout")
            .value("SSH_COMMON_ARGS", self.ssh_common_args.as_ref(), "--ssh-common-args")
            .value("SSH_EXTRA_ARGS", self.ssh_extra_args.as_ref(), "--ssh-extra-args")
            .value(
                "CONNECTION_PASSWORD_FILE",
                path(&self.connection_password_file),
                "--connection-password-file",
            )
            .switch("DEFAULT_ASK_PASS", self.ask_pass, "--ask-pass");
    }
}

impl Become {
    /// What it says about settings.
    pub fn flags(&self, flags: &mut Flags) {
        let file = self.become_password_file.as_ref().map(|path| path.display().to_string());
        flags
            .switch("DEFAULT_BECOME", self.become_, "--become")
            .value("DEFAULT_BECOME_METHOD", self.become_method.as_ref(), "--become-method")
            .value("DEFAULT_BECOME_USER", self.become_user.as_ref(), "--become-user")
            .switch("DEFAULT_BECOME_ASK_PASS", self.ask_become_pass, "--ask-become-pass")
            .value("BECOME_PASSWORD_FILE", file, "--become-password-file");
    }
}

impl Output {
    /// What it says about settings.
    pub fn flags(&self, flags: &mut Flags) {
        flags.value("DEFAULT_STDOUT_CALLBACK", self.output.as_deref().map(layout), "--output");
    }
}

/// `json` means the stream of events here; what that name means among stdout callbacks is `json-document`.
fn layout(name: &str) -> &str {
    match name {
        "json" | "jsonl" => "jsonl",
        "json-document" => "json",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, expected) in [
            ("60s", Some(60)),
            ("90", Some(90)),
            ("1h30m", Some(5400)),
            ("2d", Some(172_800)),
            ("0", None),
            ("", None),
            ("s", None),
            ("1h30", None),
            ("5x", None),
            ("-5", None),
            ("99999999999999999999w", None),
        ] {
            assert_eq!(seconds(text).ok(), expected, "{text}");
        }
    }
}
