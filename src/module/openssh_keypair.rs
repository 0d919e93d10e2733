//! `openssh_keypair`: a private key for SSH and its public half.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::module::files::{self, FileArgs, Writing};
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, args, host, typed};
use crate::system::{
    Attributes, Command, Content, Done, Effect, FileKind, Intent, Output, System, WriteOptions,
};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Makes keys with `ssh-keygen`.
pub const MODULE: Module = Module {
    name: "community.crypto.openssh_keypair",
    summary: "Generate a private and a public key for SSH",
    description: "Uses the host's `ssh-keygen`, in a private directory; both files are then put in place. Passphrases are handed \
        over in files that only the runner's account can read, never on a command line.",
    example: "- name: A key for the backup\n  community.crypto.openssh_keypair:\n    path: /root/.ssh/backup\n    type: ed25519\n    comment: backup\n",
    scope: Scope::Host,
    params: &[
        Param::new("path", Type::Path, "The private key; the public one has `.pub` behind.").required(),
        Param::new("state", Type::Str, "Whether the two files should be there.")
            .choices(&["present", "absent"])
            .default("present"),
        Param::new("type", Type::Str, "Algorithm.")
            .choices(&["rsa", "dsa", "rsa1", "ecdsa", "ed25519"])
            .default("rsa"),
        Param::new("size", Type::Int, "Bits: 4096 for rsa, 256 for ecdsa, 1024 for dsa unless given."),
        Param::new("comment", Type::Str, "Comment of the public key."),
        Param::new("passphrase", Type::Str, "Passphrase of the private key.").secret(),
        Param::new("private_key_format", Type::Str, "Format of a new private key.")
            .choices(&["auto", "pkcs1", "pkcs8", "ssh"])
            .default("auto"),
        Param::new("backend", Type::Str, "Taken for compatibility: `ssh-keygen` does the work.")
            .choices(&["auto", "cryptography", "opensshbin"])
            .default("auto"),
        Param::new("force", Type::Bool, "Generate anew even if there is a key.").default("false"),
        Param::new(
            "regenerate",
            Type::Str,
            "When a key that is there is replaced: never; never, and fail if it is another; if it is another; also if it can't be read; always.",
        )
        .choices(&["never", "fail", "partial_idempotence", "full_idempotence", "always"])
        .default("partial_idempotence"),
    ],
    file_params: true,
    returns: &[
        ("size", "Bits."),
        ("type", "Algorithm."),
        ("filename", "The private key."),
        ("fingerprint", "Fingerprint of the key."),
        ("public_key", "The public key."),
        ("comment", "Its comment."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    path: String,
    state: String,
    #[serde(rename = "type")]
    kind: String,
    size: Option<i64>,
    comment: Option<String>,
    passphrase: Option<String>,
    private_key_format: String,
    force: bool,
    regenerate: String,
    #[serde(flatten)]
    file: FileArgs,
}

/// What `ssh-keygen -l` says of a key.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    size: i64,
    fingerprint: String,
    kind: String,
    public: String,
}

/// Reads `256 SHA256:… comment (ED25519)`.
fn parse(line: &str) -> Option<(i64, String, String)> {
    let line = line.trim();
    let mut words = line.split_whitespace();
    let size = words.next()?.parse().ok()?;
    let fingerprint = words.next()?.to_string();
    let kind = line.rsplit_once('(')?.1.trim_end_matches(')').to_ascii_lowercase();
    Some((size, fingerprint, kind))
}

struct Keygen {
    program: String,
    scratch: PathBuf,
    /// Variables that make it take the passphrase from a file.
    env: Vec<(String, String)>,
    encrypted: bool,
}

impl Keygen {
    fn new(passphrase: Option<&str>, system: &mut dyn System) -> Result<Keygen> {
        let program = host::need_program("ssh-keygen", system)?;
        let scratch = system.scratch()?;
        let mut put = |name: &str, text: String, mode: u32| -> Result<PathBuf> {
            let path = scratch.join(name);
            let attributes = Attributes { mode: Some(mode), ..Attributes::default() };
            system.write(&path, &Content::Bytes(text.into_bytes()), &attributes, WriteOptions::default())?;
            Ok(path)
        };
        let secret = put("passphrase", format!("{}\n", passphrase.unwrap_or_default()), 0o600)?;
        let quoted = host::quote_word(&secret.to_string_lossy());
        let asker = put("askpass", format!("#!/bin/sh\nexec cat {quoted}\n"), 0o700)?;
        let env = vec![
            ("SSH_ASKPASS".into(), asker.to_string_lossy().into_owned()),
            ("SSH_ASKPASS_REQUIRE".into(), "force".into()),
            ("DISPLAY".into(), "none:0".into()),
        ];
        Ok(Keygen { program, scratch, env, encrypted: passphrase.is_some() })
    }

    fn command(&self, words: &[&str]) -> Command {
        let argv = std::iter::once(self.program.as_str()).chain(words.iter().copied());
        let mut command = Command::new(argv).c_locale();
        command.env.extend(self.env.clone());
        command
    }

    fn ask(&self, words: &[&str], system: &mut dyn System) -> Result<Output> {
        match system.query(&self.command(words)) {
            Ok(output) => Ok(output),
            Err(error) if error.is_not_found() && system.uncertain().is_some() => {
                Ok(Output { code: 127, ..Output::default() })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What is known of a private key; `None` if it can't be read with this passphrase.
    fn look(&self, path: &Path, system: &mut dyn System) -> Result<Option<Known>> {
        // ssh-keygen takes no key that others can read, which is not for us to judge: it gets a copy.
        let Ok(private) = system.read(path) else { return Ok(None) };
        let copy = self.scratch.join("look");
        let attributes = Attributes { mode: Some(0o600), ..Attributes::default() };
        system.write(&copy, &Content::Bytes(private), &attributes, WriteOptions::default())?;
        let path = copy.to_string_lossy().into_owned();
        let mut words = vec!["-y", "-f", &path];
        if !self.encrypted {
            words.extend(["-P", ""]);
        }
        let public = self.ask(&words, system)?;
        if !public.success() {
            system.remove(&copy)?;
            return Ok(None);
        }
        if self.encrypted && self.ask(&["-y", "-P", "", "-f", &path], system)?.success() {
            // It should be protected and is not.
            system.remove(&copy)?;
            return Ok(None);
        }
        let public = public.stdout_text().trim().to_string();
        system.remove(&copy)?;
        let copy = self.scratch.join("look.pub");
        let content = Content::Bytes(format!("{public}\n").into_bytes());
        system.write(&copy, &content, &Attributes::default(), WriteOptions::default())?;
        let shown = self.ask(&["-l", "-f", &copy.to_string_lossy()], system)?;
        Ok(parse(&shown.stdout_text()).map(|(size, fingerprint, kind)| Known {
            size,
            fingerprint,
            kind,
            public,
        }))
    }
}

fn public_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".pub");
    PathBuf::from(name)
}

/// Type and key of a public key's line, and its comment.
fn split_public(line: &str) -> (String, String) {
    let mut words = line.trim().splitn(3, ' ');
    let key = format!("{} {}", words.next().unwrap_or_default(), words.next().unwrap_or_default());
    (key, words.next().unwrap_or_default().trim().to_string())
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    let path = args::expand_path(&args.path, system)?;
    let public = public_path(&path);
    if args.state == "absent" {
        for path in [&path, &public] {
            if system.stat(path)?.is_some() {
                system.remove(path)?;
            }
            files::record(system, path, None, None)?;
        }
        return Ok(Outcome::default().set("filename", path.to_string_lossy().into_owned()));
    }
    if args.kind == "rsa1" {
        return Err(ModuleError::new("type rsa1 is no longer known to OpenSSH; use ed25519"));
    }
    if host::is_directory(&path, system)? {
        return Err(ModuleError::new(format!("{} is a directory", path.display())));
    }
    let parent = files::parent_of(&path);
    if !host::is_directory(&parent, system)? && system.uncertain().is_none() {
        return Err(ModuleError::new(format!(
            "the directory {} does not exist; make it first",
            parent.display()
        )));
    }
    let passphrase = args.passphrase.as_deref().filter(|text| !text.is_empty());
    let keygen = Keygen::new(passphrase, system)?;
    let there = system.stat(&path)?.is_some();
    let known = if there { keygen.look(&path, system)? } else { None };
    if must_generate(args, &path, there, known.as_ref())? {
        return generate(&keygen, args, &path, &public, system);
    }
    let Some(known) = known else {
        return Err(ModuleError::new(format!("the key {} can't be read", path.display())));
    };
    finish(&known, &keygen, args, &path, &public, system)
}

fn wanted_size(args: &Args) -> Option<i64> {
    args.size.or(match args.kind.as_str() {
        "rsa" => Some(4096),
        "dsa" => Some(1024),
        "ecdsa" => Some(256),
        _ => None,
    })
}

fn must_generate(args: &Args, path: &Path, there: bool, known: Option<&Known>) -> Result<bool> {
    if !there || args.force || args.regenerate == "always" {
        return Ok(true);
    }
    let Some(known) = known else {
        if args.regenerate == "full_idempotence" {
            return Ok(true);
        }
        return Err(ModuleError::new(format!(
            "the key {} can't be read: it is broken, or protected by another passphrase, or by none where one is given; \
             set regenerate to full_idempotence to replace it",
            path.display()
        )));
    };
    // An ed25519 key has one size.
    let same_size = args.kind == "ed25519" || wanted_size(args).is_none_or(|size| size == known.size);
    let same = known.kind == args.kind && same_size;
    match args.regenerate.as_str() {
        "never" => Ok(false),
        "fail" if !same => Err(ModuleError::new(format!(
            "the key {} is {} with {} bits and not what is asked for; set regenerate to partial_idempotence to replace it",
            path.display(),
            known.kind,
            known.size
        ))),
        _ => Ok(!same),
    }
}

fn generate(
    keygen: &Keygen,
    args: &Args,
    path: &Path,
    public: &Path,
    system: &mut dyn System,
) -> Result<Outcome> {
    let temporary = keygen.scratch.join("key");
    let name = temporary.to_string_lossy().into_owned();
    let size = wanted_size(args).filter(|_| args.kind != "ed25519").map(|size| size.to_string());
    let mut words =
        vec!["-q", "-t", args.kind.as_str(), "-f", &name, "-C", args.comment.as_deref().unwrap_or("")];
    if let Some(size) = &size {
        words.extend(["-b", size]);
    }
    match args.private_key_format.as_str() {
        "pkcs1" => words.extend(["-m", "PEM"]),
        "pkcs8" => words.extend(["-m", "PKCS8"]),
        _ => {}
    }
    if !keygen.encrypted {
        words.extend(["-N", ""]);
    }
    for left in [temporary.clone(), public_path(&temporary)] {
        if system.stat(&left)?.is_some() {
            system.remove(&left)?;
        }
    }
    let command = keygen.command(&words);
    let effect = |path: &Path| Effect::Path(path.to_path_buf(), FileKind::File);
    let intent = Intent { effects: vec![effect(path), effect(public)], ..Intent::default() };
    let outcome = Outcome::default()
        .set("filename", path.to_string_lossy().into_owned())
        .set("type", args.kind.as_str());
    match system.change(&command, intent)? {
        // What it would hold can't be known before.
        Done::Recorded => {
            for path in [path, public] {
                let intent = Intent {
                    kind: "file",
                    id: path.to_string_lossy().into_owned(),
                    after: map_of([("type", args.kind.as_str())]).into(),
                    ..Intent::default()
                };
                system.perform(intent, &mut || Ok(()))?;
            }
            Ok(outcome.set("size", size.and_then(|size| size.parse().ok()).unwrap_or(256_i64)))
        }
        Done::Made(output) if !output.success() => {
            Err(ModuleError::command("failed to generate the key", &command, &output))
        }
        Done::Made(_) => {
            let private = system.read(&temporary)?;
            let line = system.read(&public_path(&temporary))?;
            put(path, private, 0o600, args, system)?;
            let known = keygen.look(&temporary, system)?;
            for path in [temporary.clone(), public_path(&temporary)] {
                system.remove(&path)?;
            }
            put(public, line, 0o644, args, system)?;
            let Some(known) = known else {
                return Err(ModuleError::new("the new key can't be read again"));
            };
            finish(&known, keygen, args, path, public, system)
        }
    }
}

/// Writes a file with the attributes that were asked for; `mode` if none was.
fn put(path: &Path, content: Vec<u8>, mode: u32, args: &Args, system: &mut dyn System) -> Result<()> {
    let mut file = args.file.clone();
    let is_public = path.extension().is_some_and(|extension| extension == "pub");
    if file.mode.is_none() || is_public {
        file.mode = Some(Value::str(files::mode_text(mode)));
    }
    files::put(system, path, &Content::Bytes(content), &Writing::plain(&file))?;
    Ok(())
}

/// The public half, the comment and the attributes; and what is returned.
fn finish(
    known: &Known,
    keygen: &Keygen,
    args: &Args,
    path: &Path,
    public: &Path,
    system: &mut dyn System,
) -> Result<Outcome> {
    let (key, private_comment) = split_public(&known.public);
    let there = host::read_text(public, system);
    let (old_key, old_comment) = there.as_deref().map(split_public).unwrap_or_default();
    let comment = match (&args.comment, there.is_some()) {
        (Some(comment), _) => comment.clone(),
        (None, true) if old_key == key => old_comment.clone(),
        (None, _) => private_comment.clone(),
    };
    if args.comment.is_some() && private_comment != comment {
        change_comment(keygen, args, path, &comment, system)?;
    }
    if old_key != key || old_comment != comment {
        let line = format!("{}\n", format!("{key} {comment}").trim_end());
        put(public, line.into_bytes(), 0o644, args, system)?;
    }
    let private_mode =
        FileArgs { mode: args.file.mode.clone().or_else(|| Some(Value::str("0600"))), ..args.file.clone() };
    private_mode.apply(system, path, true)?;
    let public_mode = FileArgs { mode: None, ..args.file.clone() };
    public_mode.apply(system, public, true)?;
    for path in [path, public] {
        let stat = system.stat(path)?;
        files::record(system, path, stat.as_ref(), None)?;
    }
    Ok(Outcome::default()
        .set("size", known.size)
        .set("type", known.kind.as_str())
        .set("filename", path.to_string_lossy().into_owned())
        .set("fingerprint", known.fingerprint.as_str())
        .set("public_key", key)
        .set("comment", comment))
}

/// The comment inside of a private key, changed on a copy. Formats that hold none are left alone.
fn change_comment(
    keygen: &Keygen,
    args: &Args,
    path: &Path,
    comment: &str,
    system: &mut dyn System,
) -> Result<()> {
    let text = host::read_text(path, system).unwrap_or_default();
    if !text.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----") {
        return Ok(());
    }
    let copy = keygen.scratch.join("comment");
    let private = Attributes { mode: Some(0o600), ..Attributes::default() };
    system.write(&copy, &Content::Bytes(text.clone().into_bytes()), &private, WriteOptions::default())?;
    let name = copy.to_string_lossy().into_owned();
    let mut words = vec!["-q", "-c", "-C", comment, "-f", &name];
    if !keygen.encrypted {
        words.extend(["-P", ""]);
    }
    let output = keygen.ask(&words, system)?;
    if !output.success() {
        return Err(ModuleError::command("failed to change the comment", &keygen.command(&words), &output));
    }
    let after = system.read(&copy)?;
    for path in [copy.clone(), public_path(&copy)] {
        if system.stat(&path)?.is_some() {
            system.remove(&path)?;
        }
    }
    put(path, after, 0o600, args, system)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{contract, contract_once};

    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn has_ssh_keygen() -> bool {
        let there = Path::new("/usr/bin/ssh-keygen").exists();
        if !there {
            eprintln!("skipped: no ssh-keygen");
        }
        there
    }

    #[test]
    fn listings_are_read() {
        assert_eq!(
            parse("256 SHA256:abc a comment (x) (ED25519)\n"),
            Some((256, "SHA256:abc".into(), "ed25519".into()))
        );
        assert_eq!(split_public("ssh-rsa AAAA a b\n"), ("ssh-rsa AAAA".into(), "a b".into()));
    }

    #[test]
    fn keys_are_made_kept_and_replaced() {
        if !has_ssh_keygen() {
            return;
        }
        let verdict = contract(&MODULE, &[], r#"{"path":"@/key","type":"ed25519","comment":"me"}"#);
        assert!(verdict.changed && verdict.error.is_none(), "{verdict:?}");
        assert_eq!((verdict.text("size").as_str(), verdict.text("type").as_str()), ("256", "ed25519"));
        assert!(verdict.text("fingerprint").starts_with("SHA256:"));
        assert!(verdict.tree[0].starts_with("f key 600 -----BEGIN OPENSSH PRIVATE KEY-----"));
        assert_eq!(verdict.tree[1], format!("f key.pub 644 {} me\n", verdict.text("public_key")));
        // The same key, from its file.
        let private = &verdict.tree[0];
        let public = &verdict.tree[1];
        let start = [private.as_str(), public.as_str()];
        let kept = contract(&MODULE, &start, r#"{"path":"@/key","type":"ed25519"}"#);
        assert!(!kept.changed, "{kept:?}");
        let renamed = contract(&MODULE, &start, r#"{"path":"@/key","type":"ed25519","comment":"you"}"#);
        assert!(renamed.tree[1].ends_with(" you\n"), "{renamed:?}");
        assert_eq!(renamed.text("public_key"), verdict.text("public_key"));
        let alone = contract(&MODULE, &start[..1], r#"{"path":"@/key","type":"ed25519"}"#);
        assert_eq!(alone.tree[1], *public);
        let moved = contract(&MODULE, &start, r#"{"path":"@/key","type":"ed25519","mode":"0640"}"#);
        assert!(moved.tree[0].starts_with("f key 640"), "{:?}", moved.tree);
        let other = contract(&MODULE, &start, r#"{"path":"@/key","type":"ecdsa"}"#);
        assert_eq!(other.text("type"), "ecdsa");
        for (arguments, expected) in [
            (r#"{"path":"@/key","type":"ecdsa","regenerate":"fail"}"#, "is ed25519 with 256 bits"),
            (r#"{"path":"@/key","type":"ed25519","passphrase":"secret"}"#, "can't be read"),
            (r#"{"path":"@/none/key","type":"ed25519"}"#, "does not exist"),
        ] {
            let error = contract(&MODULE, &start, arguments).error.unwrap_or_default();
            assert!(error.contains(expected), "{arguments}: {error}");
        }
        let protected = contract(
            &MODULE,
            &start,
            r#"{"path":"@/key","type":"ed25519","passphrase":"secret","regenerate":"full_idempotence"}"#,
        );
        assert!(protected.changed && protected.error.is_none(), "{protected:?}");
        assert_ne!(protected.text("public_key"), verdict.text("public_key"));
        let forced = contract_once(&MODULE, &start, r#"{"path":"@/key","type":"ed25519","force":true}"#);
        assert_ne!(forced.text("public_key"), verdict.text("public_key"));
        let gone = contract(&MODULE, &start, r#"{"path":"@/key","state":"absent"}"#);
        assert!(gone.tree.is_empty());
    }
}
