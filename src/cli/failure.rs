//! Why a command did not do what it was asked to.

use super::exit::Exit;
use crate::config::ConfigError;
use crate::diagnostic::Diagnostic;
use crate::playbook::loader::{is_missing, is_reserved_name};
use crate::report::ReportError;

/// What to say, and how to end.
#[derive(Debug)]
pub struct Failure {
    /// The exit.
    pub exit: Exit,
    /// What is wrong; all of it.
    pub diagnostics: Vec<Diagnostic>,
}

impl Failure {
    /// Something is missing or broken.
    pub fn error(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Error, diagnostics: vec![Diagnostic::error(message)] }
    }

    /// An option can't be used so.
    pub fn options(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Options, diagnostics: vec![Diagnostic::error(message)] }
    }

    /// An option or command that is known to the field's users and not built here.
    pub fn unsupported(what: &str, why: &str) -> Failure {
        Failure::options(format!("{what} is not supported: {why}"))
    }

    /// A playbook or another source can't be read, or something that it names is not there or not for users.
    pub fn parse(diagnostics: Vec<Diagnostic>) -> Failure {
        let general = diagnostics.first().is_some_and(|first| is_missing(first) || is_reserved_name(first));
        Failure { exit: if general { Exit::Error } else { Exit::Unreachable }, diagnostics }
    }

    /// The same with another exit.
    #[must_use]
    pub fn exit(self, exit: Exit) -> Failure {
        Failure { exit, ..self }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::options(error.to_string())
    }
}

impl From<ReportError> for Failure {
    fn from(error: ReportError) -> Failure {
        Failure::options(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::error(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_decides_on_the_exit() {
        for (message, exit) in [
            ("`_ansible_x` can't be given in a playbook", Exit::Error),
            ("there is no file `tasks.yml`", Exit::Error),
            ("`x` is no keyword of a task", Exit::Unreachable),
        ] {
            assert_eq!(Failure::parse(vec![Diagnostic::error(message)]).exit, exit, "{message}");
        }
    }
}
