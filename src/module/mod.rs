//! The modules: one file each, one line in [`registry`].
//!
//! A module is a table of parameters, its documentation with an example, and a function that compares
//! what should be with what is and makes the difference through [`System`]. `changed` is derived from
//! the changes that it made.

use std::path::PathBuf;

use serde::de::DeserializeOwned;

use crate::system::{System, SystemError};
use crate::value::{Map, Value};

pub mod acl;
pub mod alternatives;
pub mod apache2_module;
pub mod apk;
pub mod apt;
pub mod apt_key;
pub mod apt_repository;
pub mod archive;
pub mod args;
pub mod assemble;
pub mod async_status;
pub mod at;
pub mod authorized_key;
pub mod blockinfile;
pub mod capabilities;
pub mod clock;
pub mod command;
pub mod composer;
#[cfg(test)]
pub(crate) mod contract;
pub mod copy;
pub mod cron;
pub mod deb822_repository;
pub mod dnf;
pub mod docker;
pub mod docker_compose_v2;
pub mod docker_container;
pub mod docker_image;
pub mod docker_image_build;
pub mod docker_image_pull;
pub mod docker_image_push;
pub mod docker_image_tag;
pub mod docker_login;
pub mod docker_network;
pub mod docker_volume;
mod dpkg;
pub mod dpkg_divert;
pub mod dpkg_selections;
pub mod expect;
pub mod facts;
pub mod fetch;
pub mod file;
pub mod files;
pub mod filesystem;
pub mod find;
pub mod firewalld;
pub mod gem;
pub mod get_url;
pub mod getent;
pub mod git;
pub mod git_config;
pub mod group;
pub mod haproxy;
pub mod host;
pub mod hostname;
pub mod htpasswd;
pub mod http;
pub mod ini_file;
pub mod interfaces_file;
pub mod iptables;
pub mod known_hosts;
pub mod lineinfile;
pub mod locale_gen;
pub mod lvm;
pub mod make;
pub mod modprobe;
pub mod mount;
pub mod mount_facts;
pub mod mysql;
pub mod mysql_db;
pub mod mysql_query;
pub mod mysql_user;
pub mod npm;
pub mod observe;
pub mod openssh_keypair;
pub mod openssl;
pub mod openssl_csr;
pub mod openssl_dhparam;
pub mod openssl_privatekey;
pub mod openssl_publickey;
pub mod package;
pub mod package_facts;
pub mod pacman;
pub mod pam_limits;
pub mod pamd;
pub mod parted;
pub mod patch;
pub mod ping;
pub mod pip;
mod planned;
pub mod postgresql;
pub mod postgresql_db;
pub mod postgresql_ext;
pub mod postgresql_privs;
pub mod postgresql_query;
pub mod postgresql_user;
pub mod regex;
pub mod registry;
pub mod replace;
pub mod rollback;
pub mod rpm_key;
pub mod script;
pub mod selinux;
pub mod service;
pub mod setup;
pub mod slurp;
pub mod snap;
pub mod stat;
pub mod sudoers;
pub mod supervisorctl;
pub mod synchronize;
pub mod sysctl;
pub mod systemd;
pub mod tempfile;
pub mod template;
pub mod timezone;
pub mod ufw;
pub mod unarchive;
pub mod uri;
pub mod user;
pub mod wait_for;
pub mod x509_certificate;
pub mod xml;
pub mod xml_tree;
pub mod xpath;
pub mod yum_repository;
pub mod zypper;

/// What a module's verdict depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This host alone: files, packages, users, services. May be verified ahead of its turn.
    Host,
    /// It looks elsewhere, or may: commands, the network, the clock. Runs when its turn comes.
    World,
}

/// The type of a parameter, as the field's users know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A string.
    Str,
    /// A boolean.
    Bool,
    /// An integer.
    Int,
    /// A floating point number.
    Float,
    /// A path on the host: `~` and `$VAR` are expanded there.
    Path,
    /// A list; a string is split at commas.
    List,
    /// A list of paths.
    PathList,
    /// A mapping; a string is read as JSON or `k=v` pairs.
    Dict,
    /// Anything, as it is.
    Raw,
    /// Any value, as JSON text if it is not a string.
    Json,
    /// A size such as `10M`, in bytes.
    Bytes,
}

/// One parameter.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Type,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// Allowed values (of each item, for a list). Empty: any.
    pub choices: &'static [&'static str],
    /// It must be given.
    pub required: bool,
    /// Value when it is not given, written as YAML; `None` leaves it out.
    pub default: Option<&'static str>,
    /// Its value is a secret.
    pub secret: bool,
    /// What it is for: one or two sentences.
    pub doc: &'static str,
    /// Known to the field's users, not supported here; the text says why.
    pub refused: Option<&'static str>,
}

impl Param {
    /// An optional parameter.
    pub const fn new(name: &'static str, kind: Type, doc: &'static str) -> Param {
        Param {
            name,
            kind,
            aliases: &[],
            choices: &[],
            required: false,
            default: None,
            secret: false,
            doc,
            refused: None,
        }
    }

    /// The same, with other names.
    #[must_use]
    pub const fn aliases(mut self, aliases: &'static [&'static str]) -> Param {
        self.aliases = aliases;
        self
    }

    /// The same, with the allowed values.
    #[must_use]
    pub const fn choices(mut self, choices: &'static [&'static str]) -> Param {
        self.choices = choices;
        self
    }

    /// The same, required.
    #[must_use]
    pub const fn required(mut self) -> Param {
        self.required = true;
        self
    }

    /// The same, with a default (written as YAML).
    #[must_use]
    pub const fn default(mut self, default: &'static str) -> Param {
        self.default = Some(default);
        self
    }

    /// The same, holding a secret.
    #[must_use]
    pub const fn secret(mut self) -> Param {
        self.secret = true;
        self
    }

    /// The same, refused by name.
    #[must_use]
    pub const fn refused(mut self, why: &'static str) -> Param {
        self.refused = Some(why);
        self
    }
}

/// A rule over several parameters.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// At most one of them.
    MutuallyExclusive(&'static [&'static str]),
    /// All or none of them.
    RequiredTogether(&'static [&'static str]),
    /// At least one of them.
    RequiredOneOf(&'static [&'static str]),
    /// If the first has this value (as text), all (or, if `any`, one) of the others.
    RequiredIf {
        /// The parameter that decides.
        param: &'static str,
        /// Its value.
        value: &'static str,
        /// What is then needed.
        needs: &'static [&'static str],
        /// One of them is enough.
        any: bool,
    },
    /// If the first is given, all of the others.
    RequiredBy {
        /// The parameter that decides.
        param: &'static str,
        /// What is then needed.
        needs: &'static [&'static str],
    },
}

/// Everything that is known of a module.
#[derive(Debug)]
pub struct Module {
    /// Full name: `ansible.builtin.copy`.
    pub name: &'static str,
    /// Other full names under which playbooks know it.
    pub aliases: &'static [&'static str],
    /// One line.
    pub summary: &'static str,
    /// Some sentences: what it does, what it does not, how check mode behaves where that surprises.
    pub description: &'static str,
    /// A playbook's tasks, as YAML.
    pub example: &'static str,
    /// What its verdict depends on.
    pub scope: Scope,
    /// Its parameters.
    pub params: &'static [Param],
    /// It also takes owner, group, mode, selevel, serole, setype, seuser, attributes, unsafe_writes.
    pub file_params: bool,
    /// It takes free text (`command: ls -l`), which arrives as parameter `_raw_params`.
    pub free_form: bool,
    /// It takes any parameter, whose meaning is its own (such as `set_fact`).
    pub any_params: bool,
    /// Rules over several parameters.
    pub rules: &'static [Rule],
    /// Return values: name and meaning.
    pub returns: &'static [(&'static str, &'static str)],
    /// Does the work. The arguments were checked and typed by [`args::check`].
    pub run: fn(Value, &mut dyn System) -> std::result::Result<Outcome, ModuleError>,
}

impl Module {
    /// A module with no parameters yet; for `..Module::DEFAULT` in a module's table.
    pub const DEFAULT: Module = Module {
        name: "",
        aliases: &[],
        summary: "",
        description: "",
        example: "",
        scope: Scope::Host,
        params: &[],
        file_params: false,
        free_form: false,
        any_params: false,
        rules: &[],
        returns: &[],
        run: |_, _| Ok(Outcome::default()),
    };

    /// The last part of the name: `copy`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// All parameters, those common to file modules included.
    pub fn all_params(&self) -> impl Iterator<Item = &'static Param> {
        let common: &'static [Param] = if self.file_params { args::FILE_PARAMS } else { &[] };
        self.params.iter().chain(common)
    }
}

/// What a module returns.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Return values by their documented names. `changed`, `failed`, `diff` and `skipped` are not in it.
    pub values: Map,
    /// Overrides the derived `changed`, for a tool that only tells afterwards.
    pub changed: Option<bool>,
    /// It had nothing to do for a reason that users see as "skipped" (`creates` exists).
    pub skipped: bool,
    /// Failed, with `values` (and `msg` in them) saying why, when there is more to tell than a message.
    pub failed: bool,
    /// Facts for the host, without the `ansible_` prefix.
    pub facts: Option<Map>,
    /// Things that the user should know.
    pub warnings: Vec<String>,
    /// The path that the task is about: its diff is one mapping, which is there also when nothing differs.
    pub subject: Option<String>,
}

impl Outcome {
    /// An outcome with these return values.
    pub fn with(values: Map) -> Outcome {
        Outcome { values, ..Outcome::default() }
    }

    /// Adds a return value.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Outcome {
        self.values.insert(Value::str(name), value.into());
        self
    }
}

/// Why a module failed: the message, with return values that belong to it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ModuleError {
    /// What went wrong and what to do about it.
    pub message: String,
    /// Return values (`rc`, `stderr`, …).
    pub values: Map,
}

impl ModuleError {
    /// A failure with a message.
    pub fn new(message: impl Into<String>) -> ModuleError {
        ModuleError { message: message.into(), values: Map::new() }
    }

    /// The same, with a return value.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> ModuleError {
        self.values.insert(Value::str(name), value.into());
        self
    }

    /// A command that ended with an error: `rc`, `stdout`, `stderr`, `cmd`.
    pub fn command(
        what: impl Into<String>,
        command: &crate::system::Command,
        output: &crate::system::Output,
    ) -> ModuleError {
        let stderr = output.stderr_text();
        let said = if stderr.trim().is_empty() { output.stdout_text() } else { stderr.clone() };
        ModuleError::new(format!("{}: {}", what.into(), said.trim()))
            .with("rc", output.code)
            .with("stdout", output.stdout_text())
            .with("stderr", stderr)
            .with("cmd", command.line())
    }
}

impl From<SystemError> for ModuleError {
    fn from(error: SystemError) -> ModuleError {
        ModuleError::new(error.to_string())
    }
}

/// Reads checked arguments into a module's own type.
pub fn typed<T: DeserializeOwned>(args: Value) -> std::result::Result<T, ModuleError> {
    crate::value::from_value(args).map_err(|error| ModuleError::new(format!("invalid arguments: {error}")))
}

/// `~` and `$VAR` at the host, as parameters of type path take them.
pub fn expand_path(path: &str, system: &mut dyn System) -> std::result::Result<PathBuf, ModuleError> {
    args::expand_path(path, system)
}
