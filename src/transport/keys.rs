//! Private keys and the agent: read once per run, unlocked once per run, shared by all hosts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::signature::Signer as _;
use russh::keys::ssh_encoding::Encode;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::{Algorithm, Certificate, HashAlg, PrivateKey, PublicKey};
use tokio::net::UnixStream;

use super::{Secret, SharedPrompter};

/// How often we ask for a passphrase before we give up.
const PASSPHRASE_ATTEMPTS: usize = 3;

/// A private key file.
#[derive(Debug)]
pub(super) struct KeyFile {
    pub(super) path: PathBuf,
    /// Its public half, where that is known without the passphrase.
    pub(super) public: Option<PublicKey>,
    /// `<path>-cert.pub`, if it is there and belongs to it.
    pub(super) certificate: Option<Certificate>,
    /// The text of the file, while it is locked.
    locked: Option<Secret>,
    /// The key, or why it can't be unlocked. The lock is held while the user is asked.
    unlocked: tokio::sync::Mutex<Option<Result<Arc<PrivateKey>, String>>>,
    /// The key, if the file is not encrypted.
    plain: Option<Arc<PrivateKey>>,
}

impl KeyFile {
    /// Reads a key; `Err` holds the reason in words.
    fn read(path: &Path) -> Result<KeyFile, String> {
        let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
        check_permissions(&metadata)?;
        let text = std::fs::read_to_string(path).map(Secret::new).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => "is not a private key".to_owned(),
            _ => error.to_string(),
        })?;
        let (plain, public) = match PrivateKey::from_openssh(text.reveal()) {
            Ok(key) if key.is_encrypted() => (None, Some(key.public_key().clone())),
            Ok(key) => (Some(Arc::new(key)), None),
            Err(_) => match russh::keys::decode_secret_key(text.reveal(), None) {
                Ok(key) => (Some(Arc::new(key)), None),
                Err(_) if looks_encrypted(text.reveal()) => (None, None),
                Err(error) => return Err(format!("is not a private key that we understand ({error})")),
            },
        };
        let public = match &plain {
            Some(key) => Some(key.public_key().clone()),
            None => public.or_else(|| russh::keys::load_public_key(suffixed(path, ".pub")).ok()),
        };
        let certificate = russh::keys::load_openssh_certificate(suffixed(path, "-cert.pub"))
            .ok()
            .filter(|certificate| belongs(certificate, public.as_ref()));
        let locked = plain.is_none().then_some(text);
        Ok(KeyFile {
            path: path.to_owned(),
            public,
            certificate,
            locked,
            unlocked: tokio::sync::Mutex::new(None),
            plain,
        })
    }

    /// The key, if it needs no passphrase.
    pub(super) fn plain(&self) -> Option<Arc<PrivateKey>> {
        self.plain.clone()
    }

    /// The key; asks for the passphrase if `passphrase` is not given or wrong. Everybody who comes while
    /// the user types waits for the same answer, and nobody asks again.
    pub(super) async fn unlock(
        &self,
        passphrase: Option<Secret>,
        prompter: Option<SharedPrompter>,
    ) -> Result<Arc<PrivateKey>, String> {
        if let Some(key) = self.plain() {
            return Ok(key);
        }
        let mut unlocked = self.unlocked.lock().await;
        if let Some(result) = unlocked.as_ref() {
            return result.clone();
        }
        let Some(text) = self.locked.clone() else { return Err("is locked".to_owned()) };
        let path = self.path.clone();
        // Deriving the key from a passphrase is slow on purpose, and asking blocks.
        let result = tokio::task::spawn_blocking(move || ask_and_unlock(&path, &text, passphrase, prompter))
            .await
            .unwrap_or_else(|_| Err("the runtime is shutting down".to_owned()));
        *unlocked = Some(result.clone());
        result
    }
}

fn ask_and_unlock(
    path: &Path,
    text: &Secret,
    passphrase: Option<Secret>,
    prompter: Option<SharedPrompter>,
) -> Result<Arc<PrivateKey>, String> {
    let decode =
        |passphrase: &Secret| russh::keys::decode_secret_key(text.reveal(), Some(passphrase.reveal()));
    if let Some(passphrase) = passphrase {
        return decode(&passphrase)
            .map(Arc::new)
            .map_err(|_| "its passphrase (ansible_ssh_private_key_passphrase) is wrong".to_owned());
    }
    let Some(prompter) = prompter else {
        return Err("is encrypted, and nobody can be asked (BatchMode)".to_owned());
    };
    for attempt in 0..PASSPHRASE_ATTEMPTS {
        let again = if attempt == 0 { "" } else { "Wrong. " };
        let prompt = format!("{again}Passphrase for key {}: ", path.display());
        let Some(passphrase) = prompter.secret(&prompt) else {
            return Err("is encrypted, and nobody can be asked for its passphrase; use ssh-agent or ansible_ssh_private_key_passphrase".to_owned());
        };
        if let Ok(key) = decode(&passphrase) {
            return Ok(Arc::new(key));
        }
    }
    Err("is encrypted, and the passphrase was wrong".to_owned())
}

/// A key that others can read is no secret; OpenSSH ignores such a file, and so do we, aloud.
fn check_permissions(metadata: &std::fs::Metadata) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    if metadata.is_dir() {
        return Err("is a directory".to_owned());
    }
    let ours = metadata.uid() == rustix::process::getuid().as_raw();
    if ours && metadata.mode() & 0o077 != 0 {
        return Err(format!(
            "its permissions {:04o} let others read it; chmod 600 it",
            metadata.mode() & 0o7777
        ));
    }
    Ok(())
}

fn looks_encrypted(text: &str) -> bool {
    text.contains("ENCRYPTED")
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}

fn belongs(certificate: &Certificate, public: Option<&PublicKey>) -> bool {
    public.is_none_or(|public| certificate.public_key() == public.key_data())
}

type AgentStream = AgentClient<UnixStream>;

/// A connection to an agent and what it holds. Agents answer one request at a time, so one connection
/// for all hosts loses nothing.
#[derive(Clone)]
pub(super) struct Agent {
    client: Arc<tokio::sync::Mutex<AgentStream>>,
    pub(super) identities: Arc<Vec<AgentIdentity>>,
}

impl Agent {
    async fn connect(socket: &Path) -> Result<Agent, String> {
        let describe = |error: russh::keys::Error| format!("ssh-agent at {}: {error}", socket.display());
        let mut client = AgentClient::connect_uds(socket).await.map_err(describe)?;
        let identities = client.request_identities().await.map_err(describe)?;
        Ok(Agent { client: Arc::new(tokio::sync::Mutex::new(client)), identities: Arc::new(identities) })
    }

    /// The identity with this public key.
    pub(super) fn holding(&self, public: &PublicKey) -> Option<&AgentIdentity> {
        self.identities.iter().find(|identity| match identity {
            AgentIdentity::PublicKey { key, .. } => key.key_data() == public.key_data(),
            AgentIdentity::Certificate { .. } => false,
        })
    }
}

/// All keys of a run.
pub(super) struct KeyStore {
    files: Mutex<HashMap<PathBuf, Result<Arc<KeyFile>, String>>>,
    agents: tokio::sync::Mutex<HashMap<PathBuf, Result<Agent, String>>>,
}

impl KeyStore {
    pub(super) fn new() -> KeyStore {
        KeyStore { files: Mutex::default(), agents: tokio::sync::Mutex::default() }
    }

    /// The key file, read at most once per run.
    pub(super) fn file(&self, path: &Path) -> Result<Arc<KeyFile>, String> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = files.get(path) {
            return known.clone();
        }
        let read = KeyFile::read(path).map(Arc::new);
        files.insert(path.to_owned(), read.clone());
        read
    }

    /// The agent behind `socket`, connected at most once per run.
    pub(super) async fn agent(&self, socket: &Path) -> Result<Agent, String> {
        let mut agents = self.agents.lock().await;
        if let Some(known) = agents.get(socket) {
            return known.clone();
        }
        let agent = Agent::connect(socket).await;
        agents.insert(socket.to_owned(), agent.clone());
        agent
    }
}

/// Why nothing was signed.
#[derive(Debug)]
pub(super) struct NotSigned(pub(super) String);

impl From<russh::SendError> for NotSigned {
    fn from(_: russh::SendError) -> NotSigned {
        NotSigned("the connection was closed".to_owned())
    }
}

/// Signs with the agent, with the identity itself or with the plain key under a certificate.
pub(super) struct AgentSigner {
    pub(super) agent: Agent,
    pub(super) identity: AgentIdentity,
}

impl russh::Signer for AgentSigner {
    type Error = NotSigned;

    async fn auth_sign(
        &mut self,
        _key: &AgentIdentity,
        hash: Option<HashAlg>,
        data: Vec<u8>,
    ) -> Result<Vec<u8>, NotSigned> {
        let mut client = self.agent.client.lock().await;
        let signed = client.sign_request(&self.identity, hash, data).await;
        signed.map_err(|error| NotSigned(format!("ssh-agent would not sign: {error}")))
    }
}

/// Signs with a key file, unlocking it only now that the host has said it would take the key.
pub(super) struct FileSigner {
    pub(super) file: Arc<KeyFile>,
    pub(super) passphrase: Option<Secret>,
    pub(super) prompter: Option<SharedPrompter>,
}

impl russh::Signer for FileSigner {
    type Error = NotSigned;

    async fn auth_sign(
        &mut self,
        _key: &AgentIdentity,
        hash: Option<HashAlg>,
        mut data: Vec<u8>,
    ) -> Result<Vec<u8>, NotSigned> {
        let key =
            self.file.unlock(self.passphrase.clone(), self.prompter.clone()).await.map_err(NotSigned)?;
        let broken = |error: &dyn std::fmt::Display| NotSigned(format!("could not sign: {error}"));
        let signature = match key.key_data() {
            KeypairData::Rsa(pair) => (pair, hash).try_sign(&data).map_err(|error| broken(&error))?,
            _ => key.try_sign(&data).map_err(|error| broken(&error))?,
        };
        let mut blob = Vec::new();
        signature.encode(&mut blob).map_err(|error| broken(&error))?;
        blob.encode(&mut data).map_err(|error| broken(&error))?;
        Ok(data)
    }
}

/// Whether a key's signature needs a choice of hash.
pub(super) fn is_rsa(algorithm: &Algorithm) -> bool {
    matches!(algorithm, Algorithm::Rsa { .. })
}
