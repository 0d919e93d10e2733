//! Ansible's vault: text and files encrypted with a password, format 1.1 and 1.2.
//!
//! An envelope is a header line and hexadecimal text; inside are a salt, an HMAC and the ciphertext
//! (AES-256 in counter mode, keys by PBKDF2 with SHA-256).

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use aes::cipher::{KeyIvInit, StreamCipher};
use hmac::{Hmac, Mac};
use sha2::{Digest as _, Sha256};

use crate::diagnostic::Diagnostic;
use crate::value::Origin;

type Aes256Ctr = ctr::Ctr128BE<aes::Aes256>;
type HmacSha256 = Hmac<Sha256>;

const MAGIC: &[u8] = b"$ANSIBLE_VAULT";
const ROUNDS: u32 = 10_000;
const SALT_LENGTH: usize = 32;
const LINE_LENGTH: usize = 80;
const BLOCK: usize = 16;

/// The label of a password that was given without one.
pub const DEFAULT_LABEL: &str = "default";

/// What went wrong with a vault.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// There is nothing to decrypt with.
    #[error("no vault password was given; use --vault-password-file, --vault-id or --ask-vault-pass")]
    NoSecret,
    /// No password fits.
    #[error("none of the vault passwords fits (tried: {tried}){wanted}")]
    WrongPassword {
        /// The labels that were tried, in order.
        tried: String,
        /// What the envelope says about its label, if it does.
        wanted: String,
    },
    /// There is no password with the label that is to encrypt.
    #[error("there is no vault password with the id '{0}'")]
    NoSuchLabel(String),
    /// The envelope isn't one.
    #[error("the vaulted text is damaged: {0}")]
    Damaged(&'static str),
    /// A version or cipher that isn't known.
    #[error("the vault format '{0}' isn't supported; 1.1 and 1.2 with AES256 are")]
    Unsupported(String),
    /// A password file can't be used.
    #[error("can't read the vault password from {path}: {reason}")]
    PasswordFile {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
}

/// The passwords of a run, each under its label (vault id), in the order in which they are tried.
#[derive(Clone, Default)]
pub struct Vault {
    secrets: Vec<Secret>,
    /// Try only passwords whose label is the envelope's.
    match_label: bool,
    /// What was decrypted already, by the envelope's digest: a variable is used by many hosts, and every
    /// decryption costs thousands of hash rounds.
    cache: Arc<Mutex<Cache>>,
}

#[derive(Clone)]
struct Secret {
    label: String,
    password: Vec<u8>,
}

#[derive(Default)]
struct Cache {
    plain: std::collections::HashMap<[u8; 32], Arc<[u8]>>,
    size: usize,
}

/// Bytes of plain text that are kept.
const CACHE_SIZE: usize = 16 << 20;

/// Never shows a password.
impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("labels", &self.labels().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

impl Vault {
    /// A vault with these passwords: `(label, password)`.
    pub fn new<L: Into<String>, P: Into<Vec<u8>>>(secrets: impl IntoIterator<Item = (L, P)>) -> Vault {
        Vault {
            secrets: secrets
                .into_iter()
                .map(|(label, password)| Secret { label: label.into(), password: password.into() })
                .collect(),
            ..Vault::default()
        }
    }

    /// Adds a password that is tried after the ones that are there.
    pub fn add(&mut self, label: impl Into<String>, password: impl Into<Vec<u8>>) {
        self.secrets.push(Secret { label: label.into(), password: password.into() });
    }

    /// Whether an envelope with a label may be opened with passwords of that label only.
    #[must_use]
    pub fn match_label(mut self, only: bool) -> Vault {
        self.match_label = only;
        self
    }

    /// The labels, in order.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(|secret| secret.label.as_str())
    }

    /// Whether there is no password at all.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// Whether bytes are an envelope.
    pub fn is_vault(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
    }

    /// Opens an envelope that was written at `origin`.
    ///
    /// # Errors
    /// No password fits, or it isn't an envelope; the diagnostic points at `origin`.
    pub fn decrypt(&self, envelope: &str, origin: Option<&Arc<Origin>>) -> Result<Vec<u8>, Diagnostic> {
        self.decrypt_bytes(envelope.as_bytes()).map_err(|error| {
            Diagnostic::error(format!("can't decrypt the vaulted value: {error}")).at(origin.cloned())
        })
    }

    /// Opens an envelope.
    ///
    /// # Errors
    /// No password fits, or it isn't an envelope.
    pub fn decrypt_bytes(&self, envelope: &[u8]) -> Result<Vec<u8>, VaultError> {
        let digest: [u8; 32] = Sha256::digest(envelope).into();
        if let Some(plain) = self.cache().plain.get(&digest) {
            return Ok(plain.to_vec());
        }
        let plain = self.open(envelope)?;
        let mut cache = self.cache();
        if cache.size + plain.len() <= CACHE_SIZE {
            cache.size += plain.len();
            cache.plain.insert(digest, Arc::from(plain.as_slice()));
        }
        Ok(plain)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn open(&self, envelope: &[u8]) -> Result<Vec<u8>, VaultError> {
        let envelope = Envelope::parse(envelope)?;
        if self.secrets.is_empty() {
            return Err(VaultError::NoSecret);
        }
        let matches = |secret: &&Secret| envelope.label.as_deref() == Some(secret.label.as_str());
        let mut order: Vec<&Secret> = self.secrets.iter().filter(matches).collect();
        if envelope.label.is_none() || !self.match_label {
            order.extend(self.secrets.iter().filter(|secret| !matches(secret)));
        }
        for secret in &order {
            if let Some(plain) = envelope.open(&secret.password)? {
                return Ok(plain);
            }
        }
        let tried: Vec<&str> = order.iter().map(|secret| secret.label.as_str()).collect();
        Err(VaultError::WrongPassword {
            tried: if tried.is_empty() { "none".into() } else { tried.join(", ") },
            wanted: envelope.label.map(|label| format!("; it wants the id '{label}'")).unwrap_or_default(),
        })
    }

    /// Encrypts with the password of a label (`None`: the first password). The envelope ends with a newline.
    ///
    /// # Errors
    /// There is no such password.
    pub fn encrypt(&self, plain: &[u8], label: Option<&str>) -> Result<String, VaultError> {
        let secret = match label {
            Some(label) => self
                .secrets
                .iter()
                .find(|secret| secret.label == label)
                .ok_or_else(|| VaultError::NoSuchLabel(label.to_owned()))?,
            None => self.secrets.first().ok_or(VaultError::NoSecret)?,
        };
        let salt: [u8; SALT_LENGTH] = rand::random();
        Ok(seal(plain, &secret.password, &salt, &secret.label))
    }

    /// As [`Vault::encrypt`] with a salt of one's own, so that equal text gives equal envelopes.
    ///
    /// # Errors
    /// There is no password of this label.
    pub fn encrypt_with_salt(&self, plain: &[u8], label: &str, salt: &[u8]) -> Result<String, VaultError> {
        let secret = self
            .secrets
            .iter()
            .find(|secret| secret.label == label)
            .ok_or_else(|| VaultError::NoSuchLabel(label.to_owned()))?;
        Ok(seal(plain, &secret.password, salt, &secret.label))
    }
}

/// AES key, HMAC key and counter.
struct Keys([u8; 80]);

impl Keys {
    fn derive(password: &[u8], salt: &[u8]) -> Keys {
        let mut bytes = [0; 80];
        pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, ROUNDS, &mut bytes);
        Keys(bytes)
    }

    fn cipher(&self) -> Aes256Ctr {
        let (mut key, mut counter) = ([0; 32], [0; 16]);
        key.copy_from_slice(&self.0[..32]);
        counter.copy_from_slice(&self.0[64..]);
        Aes256Ctr::new(&key.into(), &counter.into())
    }

    fn mac(&self) -> HmacSha256 {
        #[expect(clippy::expect_used, reason = "an HMAC takes a key of any length")]
        <HmacSha256 as Mac>::new_from_slice(&self.0[32..64]).expect("an HMAC takes a key of any length")
    }
}

fn seal(plain: &[u8], password: &[u8], salt: &[u8], label: &str) -> String {
    let keys = Keys::derive(password, salt);
    let padding = BLOCK - plain.len() % BLOCK;
    let mut text = plain.to_vec();
    #[expect(clippy::cast_possible_truncation, reason = "at most a block")]
    text.extend(std::iter::repeat_n(padding as u8, padding));
    keys.cipher().apply_keystream(&mut text);
    let mut mac = keys.mac();
    mac.update(&text);
    let mac = mac.finalize().into_bytes();
    let inner = format!("{}\n{}\n{}", hex(salt), hex(&mac), hex(&text));
    let body = hex(inner.as_bytes());
    let header = if label == DEFAULT_LABEL || label.is_empty() {
        "$ANSIBLE_VAULT;1.1;AES256".to_owned()
    } else {
        format!("$ANSIBLE_VAULT;1.2;AES256;{label}")
    };
    let mut out = header;
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(LINE_LENGTH));
        out.push('\n');
        out.push_str(line);
        rest = tail;
    }
    out.push('\n');
    out
}

struct Envelope {
    label: Option<String>,
    salt: Vec<u8>,
    mac: Vec<u8>,
    text: Vec<u8>,
}

impl Envelope {
    fn parse(bytes: &[u8]) -> Result<Envelope, VaultError> {
        let text = std::str::from_utf8(bytes).map_err(|_| VaultError::Damaged("it isn't text"))?.trim_start();
        let (header, body) = text.split_once('\n').unwrap_or((text, ""));
        let fields: Vec<&str> = header.trim().split(';').collect();
        if fields.first() != Some(&"$ANSIBLE_VAULT") {
            return Err(VaultError::Damaged("it doesn't start with $ANSIBLE_VAULT"));
        }
        let label = match fields.as_slice() {
            [_, "1.1", "AES256"] => None,
            [_, "1.2", "AES256"] => None,
            [_, "1.2", "AES256", label] => Some((*label).to_owned()),
            [_, "1.1", "AES256", ..] => None,
            [_, rest @ ..] => return Err(VaultError::Unsupported(rest.join(";"))),
            [] => return Err(VaultError::Damaged("there is no header")),
        };
        let inner = unhex(body).ok_or(VaultError::Damaged("its body isn't hexadecimal"))?;
        let inner =
            String::from_utf8(inner).map_err(|_| VaultError::Damaged("its inner text isn't hexadecimal"))?;
        let mut parts = inner.split('\n').map(unhex);
        let mut part =
            || parts.next().flatten().ok_or(VaultError::Damaged("salt, HMAC or ciphertext is missing"));
        Ok(Envelope { label, salt: part()?, mac: part()?, text: part()? })
    }

    /// The plain text; `None` if the password doesn't fit.
    fn open(&self, password: &[u8]) -> Result<Option<Vec<u8>>, VaultError> {
        let keys = Keys::derive(password, &self.salt);
        let mut mac = keys.mac();
        mac.update(&self.text);
        if mac.verify_slice(&self.mac).is_err() {
            return Ok(None);
        }
        let mut plain = self.text.clone();
        keys.cipher().apply_keystream(&mut plain);
        let padding = usize::from(*plain.last().ok_or(VaultError::Damaged("it is empty"))?);
        if padding == 0 || padding > BLOCK || padding > plain.len() {
            return Err(VaultError::Damaged("its padding is wrong"));
        }
        plain.truncate(plain.len() - padding);
        Ok(Some(plain))
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

/// Bytes from hexadecimal digits; white space between them doesn't count.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    digits
        .len()
        .is_multiple_of(2)
        .then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Asks the user for a password. The argument is the label; the second one says whether it is for a new
/// vault and must be asked twice.
pub type Prompt<'a> = dyn FnMut(&str, bool) -> std::io::Result<String> + 'a;

/// Where the passwords of a run come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--vault-id`: `label@file`, `label@prompt`, or either without a label.
    pub ids: Vec<String>,
    /// `--vault-password-file`.
    pub password_files: Vec<String>,
    /// `--ask-vault-pass`.
    pub ask: bool,
    /// The passwords are for new vaults: a prompt asks twice.
    pub create: bool,
}

impl Sources {
    /// Collects the passwords.
    ///
    /// # Errors
    /// A file can't be read, a script fails, a password is empty, or the prompt fails.
    pub fn collect(&self, prompt: &mut Prompt<'_>) -> Result<Vault, VaultError> {
        let mut vault = Vault::default();
        for id in &self.ids {
            let (label, source) = match id.split_once('@') {
                Some((label, source)) if !label.is_empty() => (label, source),
                Some((_, source)) => (DEFAULT_LABEL, source),
                None => (DEFAULT_LABEL, id.as_str()),
            };
            let password = if matches!(source, "prompt" | "prompt_ask_vault_pass") {
                ask(label, self.create, prompt)?
            } else {
                read_password(Path::new(&expand_home(source)), label, &vault)?
            };
            vault.add(label, password);
        }
        for file in &self.password_files {
            let password = read_password(Path::new(&expand_home(file)), DEFAULT_LABEL, &vault)?;
            vault.add(DEFAULT_LABEL, password);
        }
        if self.ask {
            let password = ask(DEFAULT_LABEL, self.create, prompt)?;
            vault.add(DEFAULT_LABEL, password);
        }
        Ok(vault)
    }
}

fn ask(label: &str, create: bool, prompt: &mut Prompt<'_>) -> Result<Vec<u8>, VaultError> {
    let refuse =
        |reason: String| VaultError::PasswordFile { path: format!("the prompt for '{label}'"), reason };
    let password = prompt(label, create).map_err(|error| refuse(error.to_string()))?;
    let password = password.trim();
    if password.is_empty() {
        return Err(refuse("the password is empty".into()));
    }
    Ok(password.as_bytes().to_vec())
}

fn expand_home(path: &str) -> String {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest).to_string_lossy().into_owned(),
        _ => path.to_owned(),
    }
}

/// Reads a password file; an executable one is run and says the password on standard output. A script
/// whose name ends in `-client` (before the extension) is told the label.
fn read_password(path: &Path, label: &str, vault: &Vault) -> Result<Vec<u8>, VaultError> {
    let refuse = |reason: String| VaultError::PasswordFile { path: path.display().to_string(), reason };
    let executable = path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    let bytes = if executable {
        run_script(path, label).map_err(refuse)?
    } else {
        std::fs::read(path).map_err(|error| refuse(error.to_string()))?
    };
    let bytes = if Vault::is_vault(&bytes) { vault.decrypt_bytes(&bytes)? } else { bytes };
    let password = bytes.trim_ascii().to_vec();
    if password.is_empty() {
        return Err(refuse("the password is empty".into()));
    }
    Ok(password)
}

fn run_script(path: &Path, label: &str) -> Result<Vec<u8>, String> {
    let absolute = std::path::absolute(path).map_err(|error| error.to_string())?;
    let mut command = std::process::Command::new(&absolute);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if stem.ends_with("-client") {
        command.args(["--vault-id", label]);
    }
    let output = command
        .stdin(std::process::Stdio::inherit())
        .stderr(std::process::Stdio::piped())
        .output()
        .map_err(|error| format!("it is executable, but it doesn't run: {error}; if it holds the password itself, remove its execute permission"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the script failed ({}): {}", output.status, said.trim()));
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by ansible-vault 2.19 with the password `hunter2` (1.1) and, under the id `prod`, `other` (1.2).
    const FILE_1_1: &str = "$ANSIBLE_VAULT;1.1;AES256\n\
                             61333633353263336534303030343935613634343133303437666631343033346332373432666336\n\
                             6637616337323139323337646664336237393166346135660a396263373334633233333761373030\n\
                             36393633653062393136346163636536366565656339393563636662396234616337396131353765\n\
                             3562333161313362320a313464333861636565366166656632633836306231373962336431303564\n\
                             30613934643466663239646430313664373236353637316439396330303030613862643430623862\n\
                             3264646566663666333763343537363362356435383833356232\n";
    const FILE_1_2: &str = "$ANSIBLE_VAULT;1.2;AES256;prod\n\
                             31626131376339343963343838363662653937623535323263306364333937316139623832326263\n\
                             6564666539373733323739636662633230323733363964650a336133353030636665373064393031\n\
                             63323230666633323164353236353461623433666364333431313534336366616430666266306533\n\
                             3764373165373766340a616634373364336234656165663436313939316662393665613634373631\n\
                             32346164623066393362366135326237343936383466383261343931616530343632373261353632\n\
                             6537356535326333656239393134663664313434643339373134\n";
    const WHOLE_BLOCK: &str = "$ANSIBLE_VAULT;1.1;AES256\n\
                             63376466633066616633623063373834633266393431366433333733666532386339653061396338\n\
                             3465623739343865643536383761383739393734313934330a396430616332616632303238393834\n\
                             37363636336234656435613361326232643662353339323134336565326538336530396136316139\n\
                             3264626630666437360a373931313533656439336631353665656632353939393933333636323531\n\
                             63356161626432353430303364383237626266643436376636303263646463306336\n";
    const EMPTY: &str = "$ANSIBLE_VAULT;1.1;AES256\n\
                             33333035363736366137666532313639633361646438653637363338613166393634396533316433\n\
                             6462336332623833373633396532613034353439633239300a323538666135663730653964383533\n\
                             30383434383832643930316531623663316631326463366136653439303137623964303235383637\n\
                             6431363835326365380a333562353061343435653466636262393234383062386639643731353134\n\
                             3035\n";
    const PLAIN: &str = "secret: \"wörld {{ x }}\"\nlist: [1, 2]\n";

    fn vault() -> Vault {
        Vault::new([("default", "hunter2"), ("prod", "other")])
    }

    #[test]
    fn opens_what_ansible_vault_made() {
        for (envelope, plain) in
            [(FILE_1_1, PLAIN), (FILE_1_2, PLAIN), (WHOLE_BLOCK, "0123456789abcdef"), (EMPTY, "")]
        {
            let opened = vault().decrypt_bytes(envelope.as_bytes()).expect(envelope);
            assert_eq!(String::from_utf8_lossy(&opened), plain);
            // As it stands in a playbook: indented, and with the line ends of Windows.
            let indented = envelope.replace('\n', "\r\n      ");
            assert_eq!(vault().decrypt_bytes(indented.as_bytes()).expect("indented"), opened);
        }
    }

    #[test]
    fn makes_the_same_envelope_from_the_same_salt() {
        for (envelope, password, label) in [(FILE_1_1, "hunter2", "default"), (FILE_1_2, "other", "prod")] {
            let parsed = Envelope::parse(envelope.as_bytes()).expect("an envelope");
            assert_eq!(seal(PLAIN.as_bytes(), password.as_bytes(), &parsed.salt, label), envelope);
        }
    }

    #[test]
    fn what_is_sealed_opens_again() {
        let vault = vault();
        for length in [0, 1, 15, 16, 17, 1000] {
            let plain = vec![b'x'; length];
            for label in [None, Some("prod")] {
                let envelope = vault.encrypt(&plain, label).expect("sealed");
                assert!(Vault::is_vault(envelope.as_bytes()));
                assert!(envelope.lines().all(|line| line.len() <= LINE_LENGTH));
                assert_eq!(vault.decrypt_bytes(envelope.as_bytes()).expect("opened"), plain);
            }
        }
        assert_ne!(vault.encrypt(b"x", None).expect("sealed"), vault.encrypt(b"x", None).expect("sealed"));
    }

    #[test]
    fn errors_say_what_was_tried() {
        let last = if FILE_1_1.ends_with("30\n") { "31\n" } else { "30\n" };
        let changed = format!("{}{last}", &FILE_1_1[..FILE_1_1.len() - 3]);
        for (vault, envelope, message) in [
            (
                Vault::default(),
                FILE_1_1,
                "no vault password was given; use --vault-password-file, --vault-id or --ask-vault-pass",
            ),
            (
                Vault::new([("dev", "a"), ("test", "b")]),
                FILE_1_2,
                "none of the vault passwords fits (tried: dev, test); it wants the id 'prod'",
            ),
            (
                Vault::new([("dev", "other")]).match_label(true),
                FILE_1_2,
                "none of the vault passwords fits (tried: none); it wants the id 'prod'",
            ),
            (
                vault(),
                "$ANSIBLE_VAULT;1.0;AES\n61\n",
                "the vault format '1.0;AES' isn't supported; 1.1 and 1.2 with AES256 are",
            ),
            (
                vault(),
                "$ANSIBLE_VAULT;1.1;AES256\nzz\n",
                "the vaulted text is damaged: its body isn't hexadecimal",
            ),
            (
                vault(),
                "$ANSIBLE_VAULT;1.1;AES256\n",
                "the vaulted text is damaged: salt, HMAC or ciphertext is missing",
            ),
            (vault(), "$ANSIBLE_VAULT", "the vault format '' isn't supported; 1.1 and 1.2 with AES256 are"),
            (vault(), changed.as_str(), "none of the vault passwords fits (tried: default, prod)"),
            (vault(), "x", "the vaulted text is damaged: it doesn't start with $ANSIBLE_VAULT"),
        ] {
            let error = vault.decrypt_bytes(envelope.as_bytes()).expect_err(message);
            assert_eq!(error.to_string(), message);
        }
        assert_eq!(
            vault().encrypt(b"x", Some("none")).expect_err("no such id").to_string(),
            "there is no vault password with the id 'none'"
        );
    }

    #[test]
    fn debug_shows_no_password() {
        let text = format!("{:?}", vault());
        assert!(text.contains("prod") && !text.contains("hunter2") && !text.contains("other"), "{text}");
    }

    #[test]
    fn passwords_come_from_files_scripts_and_prompts() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str, mode: u32| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
            path.to_string_lossy().into_owned()
        };
        let file = write("pw", "hunter2\n", 0o600);
        let script = write("pw.sh", "#!/bin/sh\necho from-script\n", 0o700);
        let client = write("keyring-client.sh", "#!/bin/sh\necho \"$1=$2\"\n", 0o700);
        let fails = write("fails", "#!/bin/sh\necho no key >&2; exit 3\n", 0o700);
        let empty = write("empty", " \n", 0o600);
        let sources = Sources {
            ids: vec![format!("a@{file}"), script.clone(), format!("dev@{client}"), "p@prompt".into()],
            password_files: vec![file],
            ask: true,
            create: false,
        };
        let vault = sources.collect(&mut |label, _| Ok(format!("typed-{label}\n"))).expect("collected");
        let got: Vec<(String, String)> = vault
            .secrets
            .iter()
            .map(|secret| (secret.label.clone(), String::from_utf8_lossy(&secret.password).into_owned()))
            .collect();
        let expected = [
            ("a", "hunter2"),
            ("default", "from-script"),
            ("dev", "--vault-id=dev"),
            ("p", "typed-p"),
            ("default", "hunter2"),
            ("default", "typed-default"),
        ];
        assert_eq!(got, expected.map(|(label, password)| (label.to_owned(), password.to_owned())));
        for (source, message) in [
            (fails, "the script failed (exit status: 3): no key"),
            (empty, "the password is empty"),
            ("/no/such/file".to_owned(), "No such file or directory (os error 2)"),
        ] {
            let sources = Sources { ids: vec![source.clone()], ..Sources::default() };
            let error = sources.collect(&mut |_, _| Ok(String::new())).expect_err(&source);
            assert_eq!(error.to_string(), format!("can't read the vault password from {source}: {message}"));
        }
    }
}
