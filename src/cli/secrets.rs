//! Passwords: asked once a run, before anything else, and never echoed.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;

use super::failure::Failure;
use super::options::VaultPasswords;
use crate::config::Settings;
use crate::transport::Secret;
use crate::vault::{Sources, Vault};

/// Asks on the terminal; without one, reads a line of standard input.
pub fn ask(prompt: &str) -> io::Result<String> {
    match rpassword::prompt_password(prompt) {
        Ok(answer) => Ok(answer),
        Err(error) if io::stdin().is_terminal() => Err(error),
        Err(_) => {
            let mut line = String::new();
            io::stderr().write_all(prompt.as_bytes())?;
            if io::stdin().lock().read_line(&mut line)? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "there is nobody to ask"));
            }
            Ok(line.trim_end_matches(['\n', '\r']).to_owned())
        }
    }
}

/// The passwords for connecting and for becoming another user.
///
/// # Errors
/// A file can't be read, or nobody can be asked.
pub fn login_passwords(settings: &Settings) -> Result<(Option<Secret>, Option<Secret>), Failure> {
    let asked = |prompt: &str| {
        ask(prompt).map_err(|error| Failure::error(format!("can't ask for a password: {error}")))
    };
    let connection = match &settings.connection_password_file {
        Some(file) => Some(from_file(file)?),
        None if settings.ask_pass => Some(asked("SSH password: ")?),
        None => None,
    };
    let becoming = match &settings.become_password_file {
        Some(file) => Some(from_file(file)?),
        None if settings.become_ask_pass && settings.ask_pass => {
            let answer = asked("BECOME password[defaults to SSH password]: ")?;
            if answer.is_empty() { connection.clone() } else { Some(answer) }
        }
        None if settings.become_ask_pass => Some(asked("BECOME password: ")?),
        None => None,
    };
    Ok((connection.map(Secret::new), becoming.map(Secret::new)))
}

/// The first line of a file, or of what an executable one prints; `-` is standard input.
fn from_file(path: &Path) -> Result<String, Failure> {
    let refuse =
        |reason: String| Failure::error(format!("can't read a password from {}: {reason}", path.display()));
    let text = if path.ends_with("-") {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map_err(|error| refuse(error.to_string()))?;
        line
    } else if path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() {
        let output = std::process::Command::new(path)
            .stdin(std::process::Stdio::inherit())
            .output()
            .map_err(|error| refuse(error.to_string()))?;
        if !output.status.success() {
            return Err(refuse(format!("the script failed ({})", output.status)));
        }
        String::from_utf8_lossy(&output.stdout).into_owned()
    } else {
        std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?
    };
    let password = text.trim();
    if password.is_empty() {
        return Err(refuse("it is empty".into()));
    }
    Ok(password.to_owned())
}

/// Where vault passwords come from: the command line over the settings.
pub fn vault_sources(options: &VaultPasswords, settings: &Settings) -> Sources {
    let mut ids = settings.vault_identity_list.clone();
    ids.extend(options.vault_id.iter().cloned());
    let mut password_files = options.vault_password_file.clone();
    if password_files.is_empty() {
        password_files =
            settings.vault_password_files.iter().map(|path| path.display().to_string()).collect();
    }
    Sources { ids, password_files, ask: options.ask_vault_password || settings.ask_vault_pass, create: false }
}

/// Asks for a vault's password, twice if it is for a new one.
pub fn ask_vault(label: &str, create: bool) -> io::Result<String> {
    let name = if label == crate::vault::DEFAULT_LABEL { String::new() } else { format!(" ({label})") };
    let word = if create { "New vault password" } else { "Vault password" };
    let password = ask(&format!("{word}{name}: "))?;
    if create && password != ask(&format!("Confirm new vault password{name}: "))? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the passwords differ"));
    }
    Ok(password)
}

/// The vault of a run.
///
/// # Errors
/// A password can't be had.
pub fn vault(options: &VaultPasswords, settings: &Settings) -> Result<Vault, Failure> {
    let vault = vault_sources(options, settings)
        .collect(&mut ask_vault)
        .map_err(|error| Failure::error(error.to_string()))?;
    Ok(vault.match_label(settings.vault_id_match))
}
