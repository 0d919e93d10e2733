//! `setpoint vault`: encrypted files and strings, interchangeable with ansible-vault's.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::{Args, Subcommand};

use super::exit::Exit;
use super::failure::Failure;
use super::options::{Flags, VaultPasswords, Verbosity};
use super::{Console, secrets};
use crate::config::Settings;
use crate::vault::{Sources, Vault as Secrets};

/// Work with encrypted files and strings
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setpoint vault create group_vars/all/vault.yml           write a new encrypted file in your editor
  setpoint vault edit group_vars/all/vault.yml
  setpoint vault encrypt secrets.yml --vault-id prod@prompt
  setpoint vault encrypt-string -n db_password -p          an encrypted value to paste into a file
  setpoint vault rekey secrets.yml --new-vault-password-file new-password")]
pub struct Vault {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do with a vault.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Write a new encrypted file in your editor
    Create(Create),
    /// Change an encrypted file in your editor
    Edit(Edit),
    /// Show encrypted files
    View(View),
    /// Encrypt files, or standard input
    Encrypt(Encrypt),
    /// Decrypt files, or standard input
    Decrypt(Decrypt),
    /// Encrypt files anew with another password
    Rekey(Rekey),
    /// Encrypt strings as values for YAML files
    #[command(visible_alias = "encrypt_string")]
    EncryptString(EncryptString),
}

/// `create`.
#[derive(Args, Clone, Debug)]
pub struct Create {
    /// The file
    #[arg(required = true)]
    pub file: PathBuf,
    #[command(flatten)]
    pub label: Label,
    /// Start the editor although there is no terminal
    #[arg(long)]
    pub skip_tty_check: bool,
    #[command(flatten)]
    pub passwords: VaultPasswords,
    #[command(flatten)]
    pub verbosity: Verbosity,
}

/// `edit`.
#[derive(Args, Clone, Debug)]
pub struct Edit {
    /// The files
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub label: Label,
    #[command(flatten)]
    pub passwords: VaultPasswords,
    #[command(flatten)]
    pub verbosity: Verbosity,
}

/// `view`.
#[derive(Args, Clone, Debug)]
pub struct View {
    /// The files
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub passwords: VaultPasswords,
    #[command(flatten)]
    pub verbosity: Verbosity,
}

/// `encrypt`.
#[derive(Args, Clone, Debug)]
pub struct Encrypt {
    /// The files; `-` or none: standard input
    pub files: Vec<PathBuf>,
    /// Write here instead; `-`: standard output
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub label: Label,
    #[command(flatten)]
    pub passwords: VaultPasswords,
    #[command(flatten)]
    pub verbosity: Verbosity,
}

/// `decrypt`.
#[derive(Args, Clone, Debug)]
pub struct Decrypt {
    /// The files; `-` or none: standard input
    pub files: Vec<PathBuf>,
    /// Write here instead; `-`: standard output
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub passwords: VaultPasswords,
    #[command(flatten)]
    pub verbosity: Verbosity,
}

/// `rekey`.
#[derive(Args, Clone, Debug)]
pub struct Rekey {
    /// The files
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// File (or script) with the new password
    #[arg(long, value_name = "FILE", conflicts_with = "new_vault_id")]
    pub new_vault_password_file: Option<String>,
    /// The new password with its label: LABEL@FILE or LABEL@prompt
    #[arg(long, value_name = "ID")]
    pub new_vault_id: Option<String>,
    #[command(flatten)]
    pub label: Label,
    #[command(flatten)]
    pub passwords: VaultPasswords,
    #[command(flatten)]
    pub verbosity: Verbosity,
}

/// `encrypt-string`.
#[derive(Args, Clone, Debug)]
pub struct EncryptString {
    /// The strings. They are seen in the list of processes: -p and standard input are safer
    pub strings: Vec<String>,
    /// Ask for the string
    #[arg(short, long)]
    pub prompt: bool,
    /// With -p: show what is typed
    #[arg(long)]
    pub show_input: bool,
    /// Name of the variable; once for each string
    #[arg(short, long, value_name = "NAME")]
    pub name: Vec<String>,
    /// Name of the variable that comes from standard input
    #[arg(long, value_name = "NAME")]
    pub stdin_name: Option<String>,
    /// Write here; `-`: standard output
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub label: Label,
    #[command(flatten)]
    pub passwords: VaultPasswords,
    #[command(flatten)]
    pub verbosity: Verbosity,
}

/// Which of several passwords encrypts.
#[derive(Args, Clone, Debug)]
pub struct Label {
    /// Encrypt with the password of this label
    #[arg(long = "encrypt-vault-id", value_name = "LABEL")]
    pub encrypt_vault_id: Option<String>,
}

/// Carries out the subcommand.
///
/// # Errors
/// A file, a password or the editor can't be used.
pub fn run(args: &Vault, console: &mut Console) -> Result<Exit, Failure> {
    let settings = console.settings(&Flags::default())?;
    match &args.command {
        Command::Create(args) => create(args, &settings),
        Command::Edit(args) => edit(args, &settings),
        Command::View(args) => view(args, &settings, console),
        Command::Encrypt(args) => encrypt(args, &settings, console),
        Command::Decrypt(args) => decrypt(args, &settings, console),
        Command::Rekey(args) => rekey(args, &settings),
        Command::EncryptString(args) => encrypt_string(args, &settings, console),
    }?;
    Ok(Exit::Success)
}

/// The passwords, and the label to encrypt with (`None`: the first one's, written without a label if it has none).
struct Keys {
    vault: Secrets,
    label: Option<String>,
}

impl Keys {
    fn collect(sources: &Sources, label: Option<&str>) -> Result<Keys, Failure> {
        let vault = sources.collect(&mut secrets::ask_vault).map_err(vault_failure)?;
        if vault.is_empty() {
            return Err(Failure::options(
                "a vault password is needed: use --vault-password-file, --vault-id or --ask-vault-password",
            ));
        }
        let labels: Vec<&str> = vault.labels().collect();
        let label = match label {
            Some(label) => Some(label.to_owned()),
            None if labels.iter().any(|other| *other != labels[0]) => {
                return Err(Failure::options(format!(
                    "there are passwords with the labels {}: choose one with --encrypt-vault-id",
                    labels.join(", ")
                )));
            }
            None => labels.first().map(|label| (*label).to_owned()),
        };
        Ok(Keys { vault, label })
    }

    fn encrypt(&self, plain: &[u8]) -> Result<String, Failure> {
        self.vault.encrypt(plain, self.label.as_deref()).map_err(vault_failure)
    }
}

/// Passwords for reading alone, where it does not matter which label encrypts.
fn reading(passwords: &VaultPasswords, settings: &Settings) -> Result<Secrets, Failure> {
    let vault = secrets::vault(passwords, settings)?;
    let missing = "a vault password is needed: use --vault-password-file, --vault-id or --ask-vault-password";
    if vault.is_empty() { ask_anyway(missing) } else { Ok(vault) }
}

/// With a terminal there is somebody to ask.
fn ask_anyway(missing: &str) -> Result<Secrets, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::options(missing));
    }
    let sources = Sources { ask: true, ..Sources::default() };
    sources.collect(&mut secrets::ask_vault).map_err(vault_failure)
}

fn keys(
    passwords: &VaultPasswords,
    label: &Label,
    settings: &Settings,
    create: bool,
) -> Result<Keys, Failure> {
    let mut sources = Sources { create, ..secrets::vault_sources(passwords, settings) };
    if sources.ids.is_empty() && sources.password_files.is_empty() && io::stdin().is_terminal() {
        sources.ask = true;
    }
    let label = label.encrypt_vault_id.as_deref().or(settings.vault_encrypt_identity.as_deref());
    Keys::collect(&sources, label)
}

fn vault_failure(error: impl std::fmt::Display) -> Failure {
    Failure::error(error.to_string())
}

fn in_file(path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::error(format!("{}: {error}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    std::fs::read(path).map_err(|error| in_file(path, error))
}

fn open(vault: &Secrets, path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = read(path)?;
    if !Secrets::is_vault(&bytes) {
        return Err(in_file(path, "it is not encrypted with vault"));
    }
    vault.decrypt_bytes(&bytes).map_err(|error| in_file(path, error))
}

/// Replaces a file as a whole, with the owner and mode that it had; a new one is the user's alone. `-` is standard
/// output.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if path.as_os_str() == "-" {
        io::stdout().write_all(bytes)?;
        return Ok(io::stdout().flush()?);
    }
    // A link stays a link: what it points to is replaced.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let fail = |error: io::Error| in_file(&path, error);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let before = std::fs::metadata(&path).ok();
    if before.as_ref().is_some_and(|before| !before.is_file()) {
        return std::fs::write(&path, bytes).map_err(fail);
    }
    let mut file = tempfile::Builder::new().prefix(".setpoint-vault").tempfile_in(directory).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    if let Some(before) = before {
        file.as_file()
            .set_permissions(std::fs::Permissions::from_mode(before.mode() & 0o7777))
            .map_err(fail)?;
        // Only root may give files away; for others the file is theirs already.
        let _ = std::os::unix::fs::chown(file.path(), Some(before.uid()), Some(before.gid()));
    }
    file.as_file().sync_all().map_err(fail)?;
    file.persist(&path).map_err(|error| fail(error.error))?;
    Ok(())
}

fn say(text: &str) {
    if io::stdout().is_terminal() {
        // A courtesy to whoever watches.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

fn inputs(files: &[PathBuf], what: &str) -> Vec<PathBuf> {
    if !files.is_empty() {
        return files.to_vec();
    }
    if io::stdin().is_terminal() {
        let _ = writeln!(io::stderr(), "Reading {what} from standard input");
    }
    vec![PathBuf::from("-")]
}

fn one_output(files: &[PathBuf], output: Option<&PathBuf>) -> Result<(), Failure> {
    if output.is_some() && files.len() > 1 {
        return Err(Failure::options("--output takes one file at most"));
    }
    Ok(())
}

fn encrypt(args: &Encrypt, settings: &Settings, _console: &Console) -> Result<(), Failure> {
    one_output(&args.files, args.output.as_ref())?;
    let keys = keys(&args.passwords, &args.label, settings, true)?;
    for file in inputs(&args.files, "plain text") {
        let plain = read(&file)?;
        if Secrets::is_vault(&plain) {
            return Err(in_file(&file, "it is encrypted already"));
        }
        write(args.output.as_ref().unwrap_or(&file), keys.encrypt(&plain)?.as_bytes())?;
    }
    say("Encryption successful");
    Ok(())
}

fn decrypt(args: &Decrypt, settings: &Settings, _console: &Console) -> Result<(), Failure> {
    one_output(&args.files, args.output.as_ref())?;
    let vault = reading(&args.passwords, settings)?;
    for file in inputs(&args.files, "an envelope") {
        let plain = open(&vault, &file)?;
        write(args.output.as_ref().unwrap_or(&file), &plain)?;
    }
    say("Decryption successful");
    Ok(())
}

fn view(args: &View, settings: &Settings, console: &Console) -> Result<(), Failure> {
    let vault = reading(&args.passwords, settings)?;
    for file in &args.files {
        let plain = open(&vault, file)?;
        super::page(&String::from_utf8_lossy(&plain), settings, console)?;
    }
    Ok(())
}

fn rekey(args: &Rekey, settings: &Settings) -> Result<(), Failure> {
    let vault = reading(&args.passwords, settings)?;
    let ids: Vec<String> = args.new_vault_id.iter().cloned().collect();
    let password_files: Vec<String> = args.new_vault_password_file.iter().cloned().collect();
    let ask = ids.is_empty() && password_files.is_empty();
    let new = Sources { ids, password_files, ask, create: true };
    let keys = Keys::collect(&new, args.label.encrypt_vault_id.as_deref())?;
    for file in &args.files {
        let plain = open(&vault, file)?;
        write(file, keys.encrypt(&plain)?.as_bytes())?;
    }
    say("Rekey successful");
    Ok(())
}

fn create(args: &Create, settings: &Settings) -> Result<(), Failure> {
    if !io::stdout().is_terminal() && !args.skip_tty_check {
        return Err(Failure::options(
            "there is no terminal for the editor (--skip-tty-check starts it all the same)",
        ));
    }
    if args.file.exists() {
        return Err(in_file(&args.file, "it exists already: use `setpoint vault edit`"));
    }
    let keys = keys(&args.passwords, &args.label, settings, true)?;
    let plain = in_editor(b"", &args.file, settings)?;
    if let Some(parent) = args.file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|error| in_file(parent, error))?;
    }
    write(&args.file, keys.encrypt(&plain)?.as_bytes())
}

fn edit(args: &Edit, settings: &Settings) -> Result<(), Failure> {
    let vault = reading(&args.passwords, settings)?;
    for file in &args.files {
        let before = open(&vault, file)?;
        let after = in_editor(&before, file, settings)?;
        if before == after {
            continue;
        }
        let label = args.label.encrypt_vault_id.clone().or_else(|| label_of(&read(file).unwrap_or_default()));
        write(file, vault.encrypt(&after, label.as_deref()).map_err(vault_failure)?.as_bytes())?;
    }
    Ok(())
}

/// The label in an envelope's header.
fn label_of(envelope: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(envelope);
    text.lines().next()?.split(';').nth(3).map(|label| label.trim().to_owned())
}

/// Lets the user edit a text in a private file, which is overwritten and removed afterwards.
fn in_editor(plain: &[u8], file: &Path, settings: &Settings) -> Result<Vec<u8>, Failure> {
    let directory = tempfile::Builder::new().prefix("setpoint-vault").tempdir()?;
    // The name keeps its ending, so that the editor knows the language.
    let name = file.file_name().map_or_else(|| "vault.yml".into(), |name| name.to_owned());
    let path = directory.path().join(name);
    let mut draft = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
    draft.write_all(plain)?;
    drop(draft);
    let words =
        shlex::split(&settings.editor).filter(|words| !words.is_empty()).unwrap_or_else(|| vec!["vi".into()]);
    let status = Process::new(&words[0])
        .args(&words[1..])
        .arg(&path)
        .status()
        .map_err(|error| Failure::error(format!("can't start the editor {}: {error}", settings.editor)));
    let outcome = status.and_then(|status| {
        if status.success() {
            Ok(std::fs::read(&path)?)
        } else {
            Err(Failure::error(format!(
                "the editor {} failed ({status}): nothing was changed",
                settings.editor
            )))
        }
    });
    if let Ok(length) = std::fs::metadata(&path).map(|meta| meta.len()) {
        // Best effort: a journaling file system may keep the old blocks anyway.
        let _ = std::fs::write(&path, vec![0; usize::try_from(length).unwrap_or_default()]);
    }
    outcome
}

fn encrypt_string(args: &EncryptString, settings: &Settings, console: &Console) -> Result<(), Failure> {
    let mut plain: Vec<(Vec<u8>, &str, Option<String>)> = Vec::new();
    let given: Vec<&String> = args.strings.iter().filter(|text| *text != "-").collect();
    let from_stdin = args.stdin_name.is_some()
        || args.strings.iter().any(|text| text == "-")
        || (given.is_empty() && !args.prompt);
    if from_stdin && args.prompt {
        return Err(Failure::options("--prompt and standard input exclude each other"));
    }
    let keys = keys(&args.passwords, &args.label, settings, true)?;
    if args.prompt {
        let name = line("Variable name (enter for no name): ")?;
        let text = if args.show_input {
            line("String to encrypt: ")?
        } else {
            secrets::ask("String to encrypt (hidden): ")?
        };
        plain.push((text.into_bytes(), "prompt", Some(name).filter(|name| !name.is_empty())));
    }
    if from_stdin {
        say("Reading the string from standard input (Ctrl-D twice ends it)");
        plain.push((read(Path::new("-"))?, "stdin", args.stdin_name.clone()));
    }
    if given.len() > args.name.len() && !args.name.is_empty() {
        console.warn("there are fewer names than strings: the last strings have none");
    }
    for (index, text) in given.iter().enumerate() {
        plain.push((text.as_bytes().to_vec(), "the command line args", args.name.get(index).cloned()));
    }
    let several = plain.len() > 1;
    let mut out = String::new();
    for (index, (text, source, name)) in plain.iter().enumerate() {
        if text.is_empty() {
            return Err(Failure::options(format!("the string from {source} is empty: nothing to encrypt")));
        }
        if several {
            let which = name.as_ref().map(|name| format!(" (\"{name}\")")).unwrap_or_default();
            let _ = writeln!(io::stderr(), "# String {}{which} from {source}", index + 1);
        }
        out.push_str(&block(&keys.encrypt(text)?, name.as_deref()));
    }
    write(args.output.as_deref().unwrap_or(Path::new("-")), out.as_bytes())?;
    say("Encryption successful");
    Ok(())
}

/// An envelope as a YAML value.
fn block(envelope: &str, name: Option<&str>) -> String {
    let key = name.map(|name| format!("{name}: ")).unwrap_or_default();
    let lines: String = envelope.lines().map(|line| format!("          {line}\n")).collect();
    format!("{key}!vault |\n{lines}")
}

fn line(prompt: &str) -> Result<String, Failure> {
    io::stderr().write_all(prompt.as_bytes())?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_becomes_a_block() {
        assert_eq!(
            block("$ANSIBLE_VAULT;1.1;AES256\n6162\n", Some("x")),
            "x: !vault |\n          $ANSIBLE_VAULT;1.1;AES256\n          6162\n"
        );
    }

    #[test]
    fn a_file_is_replaced_with_its_mode() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("f");
        std::fs::write(&path, "old").expect("it can be written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("it is ours");
        write(&path, b"new").expect("it can be replaced");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"new");
        assert_eq!(std::fs::metadata(&path).expect("it is there").mode() & 0o777, 0o640);
        let fresh = directory.path().join("fresh");
        write(&fresh, b"new").expect("it can be made");
        assert_eq!(std::fs::metadata(&fresh).expect("it is there").mode() & 0o777, 0o600);
    }

    #[test]
    fn the_label_is_in_the_header() {
        assert_eq!(label_of(b"$ANSIBLE_VAULT;1.2;AES256;prod\n61\n").as_deref(), Some("prod"));
        assert_eq!(label_of(b"$ANSIBLE_VAULT;1.1;AES256\n61\n"), None);
    }
}
