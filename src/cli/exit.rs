//! Exit codes: one table, the same for every subcommand.

use std::process::ExitCode;

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All went well (also: no host matched, every failure was rescued or ignored).
    Success,
    /// A file is missing, a limit matches nothing, a password does not fit: nothing was run.
    Error,
    /// A host failed. Also: the command line can't be understood.
    Failed,
    /// `drift audit`: nothing was changed on the hosts, and the playbook wants what no run has brought there.
    Pending,
    /// A host could not be reached (wins over [`Exit::Failed`]). Also: a playbook can't be parsed.
    Unreachable,
    /// An option's value can't be used, or an option is not supported.
    Options,
    /// `--detailed-exitcode`: all went well, and something was changed.
    Changed,
    /// `--detailed-exitcode` with `--check`: all went well, and something would be changed.
    WouldChange,
    /// Ctrl-C.
    Interrupted,
    /// A bug.
    Unexpected,
}

/// Every exit with its code and meaning, for help and documentation.
pub const TABLE: &[(Exit, u8, &str)] = &[
    (Exit::Success, 0, "success; also: no host matched, all failures were rescued or ignored"),
    (Exit::Error, 1, "error before anything ran: missing file, limit without a match, wrong vault password"),
    (Exit::Failed, 2, "a host failed; also: wrong usage"),
    (Exit::Pending, 3, "drift audit: only what has not been rolled out"),
    (Exit::Unreachable, 4, "a host could not be reached (wins over 2); also: a playbook can't be parsed"),
    (Exit::Options, 5, "an option's value can't be used, or an option is not supported"),
    (Exit::Changed, 80, "--detailed-exitcode: success, and something was changed"),
    (Exit::WouldChange, 81, "--detailed-exitcode with --check: success, and something would be changed"),
    (Exit::Interrupted, 99, "interrupted by Ctrl-C"),
    (Exit::Unexpected, 250, "unexpected error: a bug"),
];

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        TABLE.iter().find(|(exit, _, _)| *exit == self).map_or(250, |(_, code, _)| *code)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct() {
        let mut codes: Vec<u8> = TABLE.iter().map(|(exit, _, _)| exit.code()).collect();
        codes.dedup();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 80, 81, 99, 250]);
    }
}
