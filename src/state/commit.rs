//! From which commit a playbook was run.

use std::path::Path;
use std::process::{Command, Stdio};

/// The state of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its commit.
    pub id: String,
    /// Files that it knows were changed and not committed.
    pub dirty: bool,
}

/// The commit of the repository that holds a file; `None` if it is in none, or there is no git.
pub fn of(file: &Path) -> Option<Commit> {
    let directory = file.parent()?;
    // Where there is clearly no repository, no program needs to say so.
    let elsewhere = std::env::var_os("GIT_DIR").is_some();
    if !elsewhere && !directory.ancestors().any(|place| place.join(".git").exists()) {
        return None;
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(directory)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let id = git(&["rev-parse", "--verify", "HEAD"])?;
    // Nothing of the repository's own configuration is to be run for this.
    let quiet = ["-c", "core.fsmonitor=false", "--no-optional-locks"];
    let status = git(&[&quiet[..], &["status", "--porcelain", "--untracked-files=no"]].concat())?;
    Some(Commit { id, dirty: !status.is_empty() })
}
