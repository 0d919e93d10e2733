//! What the modules for keys and certificates share: the host's openssl, with passphrases that no process list
//! shows, readers for what it prints, and the fate of the file that is made.

use std::path::{Path, PathBuf};

use crate::module::files::{self, FileArgs, Writing};
use crate::module::{ModuleError, Outcome, expand_path, host};
use crate::system::{Algorithm, Command, Output, System, digest};
use crate::value::{Map, Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// The variable in which openssl finds a passphrase.
const PASSPHRASE: &str = "SETPOINT_PASSPHRASE";

/// How openssl is told where the passphrase is.
pub const FROM_ENVIRONMENT: &str = "env:SETPOINT_PASSPHRASE";

/// A call of the host's openssl.
pub struct Call<'a> {
    words: Vec<String>,
    stdin: Option<Vec<u8>>,
    passphrase: Option<&'a str>,
    cwd: Option<PathBuf>,
}

impl<'a> Call<'a> {
    /// A call with these arguments.
    pub fn new<I, S>(words: I) -> Call<'a>
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Call { words: words.into_iter().map(Into::into).collect(), stdin: None, passphrase: None, cwd: None }
    }

    /// The same with more arguments.
    #[must_use]
    pub fn with<I, S>(mut self, words: I) -> Call<'a>
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    /// The same, reading this.
    #[must_use]
    pub fn reading(mut self, bytes: &[u8]) -> Call<'a> {
        self.stdin = Some(bytes.to_vec());
        self
    }

    /// The same in a directory.
    #[must_use]
    pub fn inside(mut self, directory: &Path) -> Call<'a> {
        self.cwd = Some(directory.into());
        self
    }

    /// The same, with a passphrase for the key that is read (`-passin`). Without one an encrypted key is an
    /// error rather than a question.
    #[must_use]
    pub fn passin(mut self, passphrase: Option<&'a str>) -> Call<'a> {
        self.words.extend(["-passin".to_string(), FROM_ENVIRONMENT.into()]);
        self.passphrase = Some(passphrase.unwrap_or_default());
        self
    }

    /// The same, with a passphrase that is named elsewhere among the arguments.
    #[must_use]
    pub fn passphrase(mut self, passphrase: Option<&'a str>) -> Call<'a> {
        self.passphrase = passphrase.or(self.passphrase);
        self
    }

    /// Runs it; it only looks, or writes to its output or to scratch files.
    ///
    /// # Errors
    /// If openssl is not there.
    pub fn ask(self, system: &mut dyn System) -> Result<Output> {
        let mut argv = vec![host::need_program("openssl", system)?];
        argv.extend(self.words);
        let mut command = Command { stdin: self.stdin, cwd: self.cwd, ..Command::new(argv).c_locale() };
        command.env.extend(self.passphrase.map(|text| (PASSPHRASE.to_string(), text.to_string())));
        Ok(system.query(&command)?)
    }

    /// Like [`Call::ask`]; an exit status other than 0 is a failure that begins with `what`.
    ///
    /// # Errors
    /// If openssl is not there or fails.
    pub fn get(self, what: &str, system: &mut dyn System) -> Result<Vec<u8>> {
        let output = self.ask(system)?;
        if output.success() {
            return Ok(output.stdout);
        }
        Err(ModuleError::new(format!("{what}: {}", complaint(&output))).with("stderr", output.stderr_text()))
    }
}

/// What openssl says went wrong: its first line, because the others name threads.
pub fn complaint(output: &Output) -> String {
    output.stderr_text().lines().next().unwrap_or_default().trim().to_string()
}

/// A private key as a task names it: a file, or its text.
pub struct Key<'a> {
    /// The text of the file.
    pub text: Vec<u8>,
    /// Its passphrase.
    pub passphrase: Option<&'a str>,
}

impl<'a> Key<'a> {
    /// Reads the key that is named by a path or given as text.
    ///
    /// # Errors
    /// If there is none, or it can't be read.
    pub fn read(
        path: Option<&str>,
        content: Option<&str>,
        passphrase: Option<&'a str>,
        system: &mut dyn System,
    ) -> Result<Key<'a>> {
        let text = match (content, path) {
            (Some(content), _) => content.as_bytes().to_vec(),
            (None, Some(path)) => {
                let path = expand_path(path, system)?;
                if !host::exists(&path, system)? {
                    return Err(ModuleError::new(format!(
                        "The private key {} does not exist",
                        path.display()
                    )));
                }
                system.read(&path)?
            }
            (None, None) => {
                return Err(ModuleError::new("a private key is needed: give its path or its content"));
            }
        };
        Ok(Key { text, passphrase })
    }

    /// The key in a private file, for calls that read other things too.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn spooled(&self, name: &str, system: &mut dyn System) -> Result<String> {
        spool(name, &self.text, system)
    }
}

/// Bytes in a private file that is removed at the end.
///
/// # Errors
/// If it can't be written.
pub fn spool(name: &str, bytes: &[u8], system: &mut dyn System) -> Result<String> {
    Ok(system.spool(name, &mut &*bytes)?.to_string_lossy().into_owned())
}

/// Digests of a public key: name and pairs of hexadecimal digits with colons.
pub fn fingerprints(der: &[u8]) -> Map {
    let colons = |algorithm: Algorithm| {
        let text = digest::of_bytes(algorithm, der);
        let pairs: Vec<&str> = (0..text.len()).step_by(2).map(|at| &text[at..at + 2]).collect();
        pairs.join(":")
    };
    map_of([
        ("md5", colons(Algorithm::Md5)),
        ("sha1", colons(Algorithm::Sha1)),
        ("sha224", colons(Algorithm::Sha224)),
        ("sha256", colons(Algorithm::Sha256)),
        ("sha384", colons(Algorithm::Sha384)),
        ("sha512", colons(Algorithm::Sha512)),
    ])
}

/// What openssl's `-text` says of a request or certificate and that two of the same meaning share: not the
/// serial number, the time and the signature. The order of extensions does not matter.
pub fn meaning(text: &str, with_issuer: bool) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut skips = false;
    for line in text.lines() {
        let depth = line.len() - line.trim_start().len();
        let name = line.trim();
        if depth == 4 && name.starts_with("Signature ") {
            break;
        }
        if depth <= 8 {
            skips = name.starts_with("Serial Number")
                || name.starts_with("Validity")
                || name.starts_with("Signature Algorithm")
                || name.starts_with("Version")
                || (name.starts_with("Issuer:") && !with_issuer);
        }
        if skips {
            continue;
        }
        match blocks.last_mut() {
            // Extensions stand at 12 (certificates) or 16 (requests), with their values below.
            Some(last) if depth > 8 && !name.starts_with("X509v3 ") && !name.starts_with("TLS Feature") => {
                last.push('\n');
                last.push_str(name);
            }
            _ => blocks.push(name.to_string()),
        }
    }
    blocks.sort();
    blocks
}

/// The names of extensions and their values in openssl's `-text`, such as `X509v3 Key Usage` with its lines.
pub fn extension<'t>(text: &'t str, name: &str) -> Option<(bool, Vec<&'t str>)> {
    let mut lines = text.lines().skip_while(|line| !line.trim().starts_with(name));
    let head = lines.next()?;
    let depth = |line: &str| line.len() - line.trim_start().len();
    let values = lines.take_while(|line| depth(line) > depth(head)).map(str::trim).collect();
    Some((head.contains("critical"), values))
}

/// The file that a module makes.
pub struct Product<'a> {
    /// Where it is.
    pub path: PathBuf,
    /// What is there now.
    pub before: Option<Vec<u8>>,
    /// Attributes.
    pub args: &'a FileArgs,
    /// Keep a copy of what was there.
    pub backup: bool,
    /// Mode of a new file, where none is asked for.
    pub mode: u32,
    /// It is a secret.
    pub secret: bool,
}

impl Product<'_> {
    /// Puts content in place and returns the outcome with `filename` and `backup_file`.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn put(&self, content: &[u8], system: &mut dyn System) -> Result<Outcome> {
        let mut attributes = self.args.clone();
        if attributes.mode.is_none() && self.before.is_none() {
            attributes.mode = Some(Value::str(format!("{:04o}", self.mode)));
        }
        let writing = Writing { backup: self.backup, secret: self.secret, ..Writing::plain(&attributes) };
        let backup = files::put_if_changed(system, &self.path, self.before.as_deref(), content, &writing)?;
        let stat = system.stat_follow(&self.path)?;
        files::record(system, &self.path, stat.as_ref(), None)?;
        let outcome = Outcome::default().set("filename", files::text_of(&self.path));
        Ok(match backup {
            Some(backup) => outcome.set("backup_file", backup),
            None => outcome,
        })
    }

    /// Leaves the content as it is.
    ///
    /// # Errors
    /// If attributes can't be set.
    pub fn keep(&self, system: &mut dyn System) -> Result<Outcome> {
        self.put(self.before.as_deref().unwrap_or_default(), system)
    }

    /// Removes the file.
    ///
    /// # Errors
    /// If it can't be removed.
    pub fn remove(&self, system: &mut dyn System) -> Result<Outcome> {
        let mut outcome = Outcome::default().set("filename", files::text_of(&self.path));
        if self.before.is_some() {
            if self.backup {
                outcome = outcome.set("backup_file", files::back_up(system, &self.path)?);
            }
            system.remove(&self.path)?;
        }
        files::record(system, &self.path, None, None)?;
        Ok(outcome)
    }
}

/// Looks at the file that a module is going to make.
///
/// # Errors
/// If its directory is not there, or it can't be read.
pub fn product<'a>(
    path: &str,
    args: &'a FileArgs,
    backup: bool,
    mode: u32,
    system: &mut dyn System,
) -> Result<Product<'a>> {
    let path = files::path_arg(system, path)?;
    let parent = files::parent_of(&path);
    if !host::is_directory(&parent, system)? && system.uncertain().is_none() {
        return Err(ModuleError::new(format!(
            "The directory '{}' does not exist or the file is not a directory",
            parent.display()
        ))
        .with("name", files::text_of(&parent)));
    }
    if host::is_directory(&path, system)? {
        return Err(ModuleError::new(format!("{} is a directory", path.display())));
    }
    let before = if host::exists(&path, system)? { Some(system.read(&path)?) } else { None };
    Ok(Product { path, before, args, backup, mode, secret: false })
}

/// A value for openssl's settings, in which `$`, `\`, `#` and quotes have a meaning.
pub fn escaped(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '\n' | '\r' => out.push(' '),
            '$' | '\\' | '#' | '"' | '\'' | ';' => out.extend(['\\', character]),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Certificate:\n    Data:\n        Version: 3 (0x2)\n        Serial Number:\n            2a:1e\n        Issuer: CN = ca\n        Validity\n            Not Before: Jan\n        Subject: CN = x\n        X509v3 extensions:\n            X509v3 Key Usage: critical\n                Digital Signature\n            X509v3 Subject Alternative Name: \n                DNS:a, DNS:b\n    Signature Algorithm: x\n    Signature Value:\n        30:44\n";

    #[test]
    fn what_matters_is_compared() {
        let other = TEXT
            .replace("2a:1e", "00:11")
            .replace("Jan", "Feb")
            .replace("30:44", "55:66")
            .replace("CN = ca", "CN = other");
        assert_eq!(meaning(TEXT, false), meaning(&other, false));
        assert_ne!(meaning(TEXT, true), meaning(&other, true));
        assert_ne!(meaning(TEXT, false), meaning(&TEXT.replace("DNS:b", "DNS:c"), false));
        assert_ne!(meaning(TEXT, false), meaning(&TEXT.replace(" critical", ""), false));
        assert_eq!(extension(TEXT, "X509v3 Key Usage"), Some((true, vec!["Digital Signature"])));
        assert_eq!(extension(TEXT, "X509v3 Basic"), None);
        assert_eq!(escaped("a$b#c\\"), "a\\$b\\#c\\\\");
    }
}
