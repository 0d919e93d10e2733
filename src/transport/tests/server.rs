//! An SSH server inside the test, whose manners each test chooses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Certificate, PrivateKey, PublicKey};
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Response, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelMsg, MethodKind, MethodSet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Who is let in, and how.
#[derive(Clone, Default)]
pub(super) struct Rules {
    pub(super) password: Option<String>,
    /// The answer to the one hidden question of keyboard-interactive.
    pub(super) interactive: Option<String>,
    pub(super) keys: Vec<PublicKey>,
    pub(super) authority: Option<KeyData>,
    /// A key is not enough: the password is wanted too.
    pub(super) key_and_password: bool,
    pub(super) banner: Option<String>,
    /// Server keys; one is made if there is none.
    pub(super) host_keys: Vec<PrivateKey>,
    pub(super) host_certificates: Vec<Certificate>,
}

/// A running server.
pub(super) struct Server {
    pub(super) port: u16,
    pub(super) host_key: PrivateKey,
    /// What clients did, in order: `key probed`, `password` …
    pub(super) log: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) fn new_key() -> PrivateKey {
    PrivateKey::random(&mut russh::keys::key::safe_rng(), russh::keys::Algorithm::Ed25519).expect("a key")
}

impl Server {
    pub(super) async fn start(rules: Rules) -> Server {
        let host_keys = if rules.host_keys.is_empty() { vec![new_key()] } else { rules.host_keys.clone() };
        let host_key = host_keys[0].clone();
        let mut methods = Vec::new();
        if !rules.keys.is_empty() || rules.authority.is_some() {
            methods.push(MethodKind::PublicKey);
        }
        if rules.password.is_some() && !rules.key_and_password {
            methods.push(MethodKind::Password);
        }
        if rules.interactive.is_some() {
            methods.push(MethodKind::KeyboardInteractive);
        }
        let config = Arc::new(Config {
            keys: host_keys,
            certificates: rules.host_certificates.clone(),
            methods: MethodSet::from(methods.as_slice()),
            auth_rejection_time: Duration::from_millis(1),
            nodelay: true,
            ..Config::default()
        });
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = log.clone();
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let client = Client { rules: rules.clone(), log: shared.clone(), channels: HashMap::new() };
                client.note("connected");
                let config = config.clone();
                tokio::spawn(async move {
                    if let Ok(session) = russh::server::run_stream(config, stream, client).await {
                        // Clients of these tests come and go as they like.
                        let _ = session.await;
                    }
                });
            }
        });
        Server { port, host_key, log, task }
    }

    pub(super) fn seen(&self) -> Vec<String> {
        self.log.lock().expect("not poisoned").clone()
    }
}

struct Client {
    rules: Rules,
    log: Arc<Mutex<Vec<String>>>,
    channels: HashMap<ChannelId, Channel<Msg>>,
}

impl Client {
    fn note(&self, what: &str) {
        self.log.lock().expect("not poisoned").push(what.to_owned());
    }
}

fn partial() -> Auth {
    let methods = MethodSet::from(&[MethodKind::Password][..]);
    Auth::Reject { proceed_with_methods: Some(methods), partial_success: true }
}

fn verdict(good: bool) -> Auth {
    if good { Auth::Accept } else { Auth::reject() }
}

impl Handler for Client {
    type Error = russh::Error;

    async fn authentication_banner(&mut self) -> Result<Option<String>, russh::Error> {
        Ok(self.rules.banner.clone())
    }

    async fn auth_none(&mut self, _user: &str) -> Result<Auth, russh::Error> {
        self.note("none");
        Ok(Auth::reject())
    }

    async fn auth_password(&mut self, _user: &str, password: &str) -> Result<Auth, russh::Error> {
        self.note("password");
        Ok(verdict(self.rules.password.as_deref() == Some(password)))
    }

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, russh::Error> {
        self.note(&format!("offered {}", offer.algorithm));
        Ok(verdict(
            self.rules.keys.iter().any(|key| key.key_data() == offer.public_key.key_data())
                || self.rules.authority.is_some(),
        ))
    }

    async fn auth_publickey(
        &mut self,
        _user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        self.note(&format!("signed {}", key.algorithm));
        if !self.rules.keys.iter().any(|known| known.key_data() == key.public_key.key_data()) {
            return Ok(Auth::reject());
        }
        Ok(if self.rules.key_and_password { partial() } else { Auth::Accept })
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        certificate: &Certificate,
    ) -> Result<Auth, russh::Error> {
        self.note("certificate");
        let trusted = self.rules.authority.as_ref() == Some(certificate.signature_key());
        Ok(verdict(trusted && certificate.valid_principals().iter().any(|principal| principal == user)))
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        self.note("interactive");
        Ok(match response {
            None => Auth::Partial {
                name: "".into(),
                instructions: "".into(),
                prompts: vec![("Password: ".into(), false)].into(),
            },
            Some(mut response) => {
                let answer = response.next().unwrap_or_default();
                verdict(self.rules.interactive.as_deref().map(str::as_bytes) == Some(&answer[..]))
            }
        })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.note(&format!("to {host}"));
        match tokio::net::TcpStream::connect((host, u16::try_from(port).unwrap_or(0))).await {
            Ok(mut stream) => {
                reply.accept().await;
                tokio::spawn(async move {
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut channel.into_stream()).await;
                });
            }
            Err(_) => reply.reject(russh::ChannelOpenFailure::ConnectFailed).await,
        }
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let Some(channel) = self.channels.remove(&id) else { return Ok(()) };
        self.note("exec");
        let command = String::from_utf8_lossy(command).into_owned();
        if command.contains("CUT THE LINE") {
            return Err(russh::Error::Disconnect);
        }
        tokio::spawn(execute(channel, command, session.handle()));
        Ok(())
    }
}

/// Runs a command for real.
async fn execute(channel: Channel<Msg>, command: String, handle: russh::server::Handle) {
    let id = channel.id();
    let mut child = tokio::process::Command::new("/bin/sh")
        .args(["-c", &command])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("sh starts");
    let (mut read, write) = channel.split();
    let mut stdin = child.stdin.take();
    let input = tokio::spawn(async move {
        while let Some(message) = read.wait().await {
            match message {
                ChannelMsg::Data { data } => {
                    if let Some(stdin) = &mut stdin {
                        let _ = stdin.write_all(&data).await;
                    }
                }
                ChannelMsg::Eof | ChannelMsg::Close => stdin = None,
                _ => {}
            }
        }
    });
    let mut stdout = child.stdout.take().expect("piped");
    let mut stderr = child.stderr.take().expect("piped");
    let mut out = write.make_writer();
    let mut err = write.make_writer_ext(Some(1));
    let copy_out = async {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(count @ 1..) = stdout.read(&mut buffer).await {
            if out.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    };
    let copy_err = async {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
            if err.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(copy_out, copy_err);
    let status = child.wait().await.expect("it ends");
    let code = status.code().and_then(|code| u32::try_from(code).ok()).unwrap_or(255);
    let _ = handle.exit_status_request(id, code).await;
    let _ = handle.eof(id).await;
    let _ = handle.close(id).await;
    input.abort();
}
