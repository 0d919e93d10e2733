//! Showing a host who we are.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::agent::AgentIdentity;
use russh::keys::{Certificate, HashAlg, PrivateKeyWithHashAlg, PublicKey};
use russh::{MethodKind, MethodSet};

use super::super::config::Resolved;
use super::super::error::Cause;
use super::super::keys::{Agent, AgentSigner, FileSigner, KeyFile, is_rsa};
use super::super::{BoxFuture, DURING_AUTHENTICATION};
use super::handler::{Handler, Report, ssh_cause};
use super::{AUTHENTICATION_STEP, Credentials, Inner, TYPING};

/// Showing a host who we are.
pub(super) struct Login<'a> {
    pub(super) inner: &'a Arc<Inner>,
    pub(super) resolved: &'a Resolved,
    pub(super) credentials: &'a Credentials,
    pub(super) report: &'a Report,
}

/// What became of an attempt.
pub(super) enum Attempt {
    Accepted,
    /// Accepted, but the host wants more.
    Partial(MethodSet),
    Refused(MethodSet),
    /// There was nothing to try with.
    Skipped,
}

/// What has been tried on a connection.
#[derive(Default)]
pub(super) struct Tried {
    /// For the message.
    pub(super) offers: Vec<String>,
    /// Key files that could not be used.
    pub(super) notes: Vec<String>,
    /// Public keys that were offered.
    pub(super) keys: Vec<PublicKey>,
    /// Methods that are used up.
    pub(super) methods: Vec<MethodKind>,
    /// What the host still takes; `None` before it has said.
    pub(super) allowed: Option<MethodSet>,
}

impl Tried {
    pub(super) fn allows(&self, method: MethodKind) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.contains(&method))
    }
}

impl Login<'_> {
    pub(super) async fn run(&self, handle: &mut Handle<Handler>) -> Result<(), Cause> {
        let mut tried = Tried::default();
        match self.try_all(handle, &mut tried).await {
            // A host that hangs up with a word after an attempt has had enough of them.
            Err(Cause::Closed { detail: Some(detail), .. }) if !tried.offers.is_empty() => {
                tried.notes.push(detail);
                Err(self.failure(tried))
            }
            Err(cause) => Err(cause),
            Ok(true) => Ok(()),
            Ok(false) => Err(self.failure(tried)),
        }
    }

    /// Tries all that we have; whether something was accepted.
    pub(super) async fn try_all(
        &self,
        handle: &mut Handle<Handler>,
        tried: &mut Tried,
    ) -> Result<bool, Cause> {
        'again: loop {
            for method in self.order() {
                if !tried.allows(method) || tried.methods.contains(&method) {
                    continue;
                }
                let attempt = match method {
                    MethodKind::PublicKey => self.public_keys(handle, tried).await?,
                    MethodKind::KeyboardInteractive => self.keyboard_interactive(handle, tried).await?,
                    _ => self.password(handle, tried).await?,
                };
                match attempt {
                    Attempt::Accepted => return Ok(true),
                    Attempt::Partial(remaining) => {
                        tried.allowed = Some(remaining);
                        // Several keys may be wanted; a password is not asked for twice.
                        if method != MethodKind::PublicKey {
                            tried.methods.push(method);
                        }
                        continue 'again;
                    }
                    Attempt::Refused(remaining) => {
                        tried.allowed = Some(remaining);
                        tried.methods.push(method);
                    }
                    Attempt::Skipped => {}
                }
            }
            break;
        }
        if tried.offers.is_empty() {
            // Nothing to offer: learn what the host would take, for the message. It may even take nothing.
            let attempt =
                self.step(AUTHENTICATION_STEP, handle.authenticate_none(&self.resolved.user)).await?;
            match self.attempt(attempt, handle).await? {
                Attempt::Accepted => return Ok(true),
                Attempt::Refused(remaining) | Attempt::Partial(remaining) => tried.allowed = Some(remaining),
                Attempt::Skipped => {}
            }
        }
        Ok(false)
    }

    /// The order of methods. A password that the user gave, and no key, is meant to be used: it goes
    /// first, as each key that is refused before it costs round trips and counts as a failed attempt.
    pub(super) fn order(&self) -> Vec<MethodKind> {
        let resolved = self.resolved;
        let named: Vec<MethodKind> = resolved.preferred.iter().filter_map(|name| name.parse().ok()).collect();
        let explicit_key = self.credentials.private_key.is_some() || resolved.explicit_identities;
        let order = if !named.is_empty() {
            named
        } else if self.credentials.password.is_some() && !explicit_key {
            vec![MethodKind::Password, MethodKind::KeyboardInteractive, MethodKind::PublicKey]
        } else {
            vec![MethodKind::PublicKey, MethodKind::KeyboardInteractive, MethodKind::Password]
        };
        let distrusted = self.report.distrusted.load(Ordering::Relaxed);
        order
            .into_iter()
            .filter(|method| match method {
                MethodKind::PublicKey => resolved.public_key,
                MethodKind::Password => resolved.password && !distrusted,
                MethodKind::KeyboardInteractive => resolved.keyboard_interactive && !distrusted,
                _ => false,
            })
            .collect()
    }

    pub(super) async fn step<T, E: Into<StepError>>(
        &self,
        limit: Duration,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Cause> {
        match tokio::time::timeout(limit, step).await {
            Err(_) => Err(Cause::TimedOut { after: limit, waiting_for: "an answer to our authentication" }),
            Ok(Err(error)) => match error.into() {
                StepError::Ssh(error) => {
                    Err(self.report.ended().unwrap_or_else(|| ssh_cause(&error, DURING_AUTHENTICATION)))
                }
            },
            Ok(Ok(value)) => Ok(value),
        }
    }

    /// Tells a refusal from a lost connection, which the library reports alike.
    pub(super) async fn attempt(
        &self,
        result: AuthResult,
        handle: &Handle<Handler>,
    ) -> Result<Attempt, Cause> {
        match result {
            AuthResult::Success => Ok(Attempt::Accepted),
            AuthResult::Failure { remaining_methods, partial_success: true } => {
                Ok(Attempt::Partial(remaining_methods))
            }
            AuthResult::Failure { remaining_methods, .. } => {
                // The library says the same when the connection is lost. When the host takes no further
                // method it hangs up itself, which it notes first.
                if remaining_methods.is_empty() && handle.is_closed() {
                    self.report.settled().await;
                    if !self.report.exhausted.load(Ordering::Relaxed) {
                        return Err(self.closed());
                    }
                }
                Ok(Attempt::Refused(remaining_methods))
            }
        }
    }

    pub(super) fn closed(&self) -> Cause {
        let detail = match self.report.ended() {
            Some(Cause::Closed { detail, .. }) => detail,
            Some(cause @ (Cause::Protocol(_) | Cause::Dead { .. })) => return cause,
            _ => None,
        };
        Cause::Closed { during: DURING_AUTHENTICATION, detail }
    }

    pub(super) async fn password(
        &self,
        handle: &mut Handle<Handler>,
        tried: &mut Tried,
    ) -> Result<Attempt, Cause> {
        let Some(password) = &self.credentials.password else { return Ok(Attempt::Skipped) };
        tried.offers.push("password".to_owned());
        let step = handle.authenticate_password(&self.resolved.user, password.reveal());
        let result = self.step(AUTHENTICATION_STEP, step).await?;
        self.attempt(result, handle).await
    }

    /// Answers every hidden question with the password, as it is asked by PAM; questions that are echoed
    /// have no answer that we know.
    pub(super) async fn keyboard_interactive(
        &self,
        handle: &mut Handle<Handler>,
        tried: &mut Tried,
    ) -> Result<Attempt, Cause> {
        let Some(password) = &self.credentials.password else { return Ok(Attempt::Skipped) };
        tried.offers.push("keyboard-interactive".to_owned());
        let start = handle.authenticate_keyboard_interactive_start(&self.resolved.user, None::<String>);
        let mut response = self.step(AUTHENTICATION_STEP, start).await?;
        let mut answered = false;
        loop {
            match response {
                KeyboardInteractiveAuthResponse::Success => return Ok(Attempt::Accepted),
                KeyboardInteractiveAuthResponse::Failure { remaining_methods, partial_success: true } => {
                    return Ok(Attempt::Partial(remaining_methods));
                }
                KeyboardInteractiveAuthResponse::Failure { remaining_methods, .. } => {
                    return Ok(Attempt::Refused(remaining_methods));
                }
                KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => {
                    let hidden = prompts.iter().any(|prompt| !prompt.echo);
                    if hidden && answered {
                        // The same question again: the answer was wrong, and more of it would lock the account.
                        tried.notes.push("the host asks again, or for a second factor".to_owned());
                        return Ok(Attempt::Refused(MethodSet::from(&[MethodKind::PublicKey][..])));
                    }
                    answered |= hidden;
                    let answers = prompts
                        .iter()
                        .map(|prompt| if prompt.echo { String::new() } else { password.reveal().to_owned() })
                        .collect();
                    let respond = handle.authenticate_keyboard_interactive_respond(answers);
                    response = self.step(AUTHENTICATION_STEP, respond).await?;
                }
            }
        }
    }

    /// Offers keys in order: named files, the agent's, the usual files. A named key that works costs
    /// nothing else; the agent is not even asked.
    pub(super) async fn public_keys(
        &self,
        handle: &mut Handle<Handler>,
        tried: &mut Tried,
    ) -> Result<Attempt, Cause> {
        let resolved = self.resolved;
        let mut last = Attempt::Skipped;
        let named = self.credentials.private_key.iter().map(|path| (path, true));
        let configured = resolved.identity_files.iter().map(|path| (path, false));
        let explicit: Vec<(PathBuf, bool)> = if resolved.explicit_identities {
            named.chain(configured).map(|(path, must)| (path.clone(), must)).collect()
        } else {
            named.map(|(path, must)| (path.clone(), must)).collect()
        };
        for (path, must) in &explicit {
            match self.key_file(path, *must, handle, tried).await? {
                Attempt::Skipped => {}
                refused @ Attempt::Refused(_) => last = refused,
                done => return Ok(done),
            }
        }
        if !resolved.identities_only {
            match self.agent_keys(handle, tried).await? {
                Attempt::Skipped => {}
                refused @ Attempt::Refused(_) => last = refused,
                done => return Ok(done),
            }
        }
        if !resolved.explicit_identities
            && (!resolved.identities_only || self.credentials.private_key.is_none())
        {
            for path in &resolved.identity_files {
                match self.key_file(path, false, handle, tried).await? {
                    Attempt::Skipped => {}
                    refused @ Attempt::Refused(_) => last = refused,
                    done => return Ok(done),
                }
            }
        }
        Ok(last)
    }

    pub(super) async fn agent(&self) -> Option<Result<Agent, String>> {
        let socket = self.inner.agent_socket(self.resolved)?;
        Some(self.inner.keys.agent(&socket).await)
    }

    /// Offers one file: its certificate, then its key. Locked files are offered by their public half, and
    /// unlocked only when the host would take them; if the agent holds the key it signs instead.
    pub(super) async fn key_file(
        &self,
        path: &Path,
        must: bool,
        handle: &mut Handle<Handler>,
        tried: &mut Tried,
    ) -> Result<Attempt, Cause> {
        let file = match self.inner.keys.file(path) {
            Ok(file) => file,
            Err(problem) => {
                // A key that the inventory names is wanted; one of the usual names may just not be there.
                let missing = !path.exists();
                if must {
                    return Err(Cause::Key { path: path.to_owned(), problem });
                }
                if !missing || self.resolved.explicit_identities {
                    tried.notes.push(format!("{}: {problem}", path.display()));
                }
                return Ok(Attempt::Skipped);
            }
        };
        let Some(public) = file.public.clone() else {
            // An old encrypted format without a .pub beside it: only the passphrase tells which key it is.
            return self.opaque_key(&file, handle, tried).await;
        };
        if tried.keys.iter().any(|key| key.key_data() == public.key_data()) {
            return Ok(Attempt::Skipped);
        }
        tried.keys.push(public.clone());
        let mut last = Attempt::Skipped;
        for certificate in self.certificates(&file, &public) {
            tried.offers.push(format!("certificate for {}", path.display()));
            match self.offer_certificate(&file, certificate, handle).await? {
                refused @ Attempt::Refused(_) => last = refused,
                Attempt::Skipped => {}
                done => return Ok(done),
            }
        }
        tried.offers.push(format!("key {}", path.display()));
        match self.offer_key(&file, &public, handle, tried).await? {
            Attempt::Skipped => Ok(last),
            attempt => Ok(attempt),
        }
    }

    pub(super) fn certificates(&self, file: &KeyFile, public: &PublicKey) -> Vec<Certificate> {
        let configured = self.resolved.certificate_files.iter();
        let configured = configured.filter_map(|path| russh::keys::load_openssh_certificate(path).ok());
        let mut certificates: Vec<Certificate> =
            configured.filter(|certificate| certificate.public_key() == public.key_data()).collect();
        certificates.extend(file.certificate.clone());
        certificates
    }

    pub(super) async fn offer_certificate(
        &self,
        file: &Arc<KeyFile>,
        certificate: Certificate,
        handle: &mut Handle<Handler>,
    ) -> Result<Attempt, Cause> {
        let user = &self.resolved.user;
        let hash = is_rsa(&certificate.algorithm()).then_some(HashAlg::Sha512);
        let mut signer = self.file_signer(file);
        let step = handle.authenticate_certificate_with(user, certificate, hash, &mut signer);
        match tokio::time::timeout(TYPING, step).await {
            Ok(Ok(result)) => self.attempt(result, handle).await,
            Ok(Err(_)) => Ok(Attempt::Skipped),
            Err(_) => Err(Cause::TimedOut { after: TYPING, waiting_for: "an answer to our authentication" }),
        }
    }

    pub(super) fn file_signer(&self, file: &Arc<KeyFile>) -> FileSigner {
        let prompter = (!self.resolved.batch_mode).then(|| self.inner.prompter.clone());
        let named = self.credentials.private_key.as_deref() == Some(file.path.as_path());
        let passphrase = self.credentials.passphrase.clone().filter(|_| named);
        FileSigner { file: file.clone(), passphrase, prompter }
    }

    pub(super) async fn offer_key(
        &self,
        file: &Arc<KeyFile>,
        public: &PublicKey,
        handle: &mut Handle<Handler>,
        tried: &mut Tried,
    ) -> Result<Attempt, Cause> {
        if let Some(key) = file.plain() {
            let rsa = is_rsa(&key.algorithm());
            let offer = |hash| PrivateKeyWithHashAlg::new(key.clone(), hash);
            let first = offer(rsa.then_some(HashAlg::Sha512));
            let step = handle.authenticate_publickey(&self.resolved.user, first);
            let result = self.step(AUTHENTICATION_STEP, step).await?;
            let attempt = self.attempt(result, handle).await?;
            if rsa && matches!(attempt, Attempt::Refused(_)) && self.wants_sha256(handle).await {
                let step = handle.authenticate_publickey(&self.resolved.user, offer(Some(HashAlg::Sha256)));
                let result = self.step(AUTHENTICATION_STEP, step).await?;
                return self.attempt(result, handle).await;
            }
            return Ok(attempt);
        }
        if let Some(Ok(agent)) = self.agent().await
            && let Some(identity) = agent.holding(public).cloned()
        {
            return self.offer_identity(&agent, identity, handle, tried).await;
        }
        let hash = is_rsa(&public.algorithm()).then_some(HashAlg::Sha512);
        let mut signer = self.file_signer(file);
        let step = handle.authenticate_publickey_with(&self.resolved.user, public.clone(), hash, &mut signer);
        match tokio::time::timeout(TYPING, step).await {
            Ok(Ok(result)) => self.attempt(result, handle).await,
            Ok(Err(error)) => {
                tried.notes.push(format!("{}: {}", file.path.display(), error.0));
                Ok(Attempt::Skipped)
            }
            Err(_) => Err(Cause::TimedOut { after: TYPING, waiting_for: "an answer to our authentication" }),
        }
    }

    pub(super) async fn opaque_key(
        &self,
        file: &Arc<KeyFile>,
        handle: &mut Handle<Handler>,
        tried: &mut Tried,
    ) -> Result<Attempt, Cause> {
        let signer = self.file_signer(file);
        match file.unlock(signer.passphrase, signer.prompter).await {
            Ok(key) => {
                let public = key.public_key().clone();
                if tried.keys.iter().any(|other| other.key_data() == public.key_data()) {
                    return Ok(Attempt::Skipped);
                }
                tried.keys.push(public);
                tried.offers.push(format!("key {}", file.path.display()));
                let hash = is_rsa(&key.algorithm()).then_some(HashAlg::Sha512);
                let offer = PrivateKeyWithHashAlg::new(key, hash);
                let step = handle.authenticate_publickey(&self.resolved.user, offer);
                let result = self.step(AUTHENTICATION_STEP, step).await?;
                self.attempt(result, handle).await
            }
            Err(problem) => {
                tried.notes.push(format!("{}: {problem}", file.path.display()));
                Ok(Attempt::Skipped)
            }
        }
    }

    /// Whether the host has said that it takes RSA signatures with SHA-256 but not with SHA-512.
    pub(super) async fn wants_sha256(&self, handle: &Handle<Handler>) -> bool {
        let asked = tokio::time::timeout(Duration::from_millis(50), handle.best_supported_rsa_hash()).await;
        matches!(asked, Ok(Ok(Some(Some(HashAlg::Sha256)) | None)))
    }

    pub(super) async fn agent_keys(
        &self,
        handle: &mut Handle<Handler>,
        tried: &mut Tried,
    ) -> Result<Attempt, Cause> {
        let agent = match self.agent().await {
            None => return Ok(Attempt::Skipped),
            Some(Err(problem)) => {
                tried.notes.push(problem);
                return Ok(Attempt::Skipped);
            }
            Some(Ok(agent)) => agent,
        };
        let mut last = Attempt::Skipped;
        for identity in agent.identities.iter() {
            if let AgentIdentity::PublicKey { key, .. } = identity {
                if tried.keys.iter().any(|other| other.key_data() == key.key_data()) {
                    continue;
                }
                tried.keys.push(key.clone());
            }
            let comment = identity.comment();
            tried.offers.push(if comment.is_empty() {
                "agent key".to_owned()
            } else {
                format!("agent key {comment}")
            });
            match self.offer_identity(&agent, identity.clone(), handle, tried).await? {
                Attempt::Skipped => {}
                refused @ Attempt::Refused(_) => last = refused,
                done => return Ok(done),
            }
        }
        Ok(last)
    }

    pub(super) async fn offer_identity(
        &self,
        agent: &Agent,
        identity: AgentIdentity,
        handle: &mut Handle<Handler>,
        tried: &mut Tried,
    ) -> Result<Attempt, Cause> {
        let user = &self.resolved.user;
        let mut signer = AgentSigner { agent: agent.clone(), identity: identity.clone() };
        let step: BoxFuture<'_, _> = match identity {
            AgentIdentity::PublicKey { key, .. } => {
                let hash = is_rsa(&key.algorithm()).then_some(HashAlg::Sha512);
                Box::pin(handle.authenticate_publickey_with(user, key, hash, &mut signer))
            }
            AgentIdentity::Certificate { certificate, .. } => {
                let hash = is_rsa(&certificate.algorithm()).then_some(HashAlg::Sha512);
                Box::pin(handle.authenticate_certificate_with(user, certificate, hash, &mut signer))
            }
        };
        // An agent may ask its user to confirm, or to touch a token.
        match tokio::time::timeout(TYPING, step).await {
            Ok(Ok(result)) => self.attempt(result, handle).await,
            Ok(Err(error)) => {
                tried.notes.push(error.0);
                Ok(Attempt::Skipped)
            }
            Err(_) => Err(Cause::TimedOut { after: TYPING, waiting_for: "the agent to sign" }),
        }
    }

    pub(super) fn failure(&self, mut tried: Tried) -> Cause {
        let names = |methods: &MethodSet| {
            methods.iter().filter(|m| **m != MethodKind::None).map(String::from).collect::<Vec<String>>()
        };
        if self.report.distrusted.load(Ordering::Relaxed) {
            tried.notes.push("its host key has changed, so no password was sent".to_owned());
        }
        tried
            .notes
            .extend(self.resolved.unsupported.iter().map(|setting| format!("not honoured: {setting}")));
        let banner = self.report.banner.lock().unwrap_or_else(PoisonError::into_inner);
        let banner = banner.trim();
        if !banner.is_empty() {
            tried.notes.push(format!("the host says: {banner}"));
        }
        Cause::AuthFailed {
            user: self.resolved.user.clone(),
            tried: tried.offers,
            accepts: tried.allowed.as_ref().map(names).unwrap_or_default(),
            hint: (!tried.notes.is_empty()).then(|| tried.notes.join("; ")),
        }
    }
}

/// An error of a step that is not a refusal.
pub(super) enum StepError {
    Ssh(russh::Error),
}

impl From<russh::Error> for StepError {
    fn from(error: russh::Error) -> StepError {
        StepError::Ssh(error)
    }
}
