//! Sandbox hosts for the demo: small SSH servers on loopback, in this process, each with a directory of its
//! own. They run commands as this user, with that directory as home; they are for trying things out, not a
//! border that keeps anybody in.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey, PublicKey};
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelMsg, MethodKind, MethodSet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Running sandbox hosts; they end when this is dropped.
pub struct Sandbox {
    /// Where each listens.
    pub hosts: Vec<SandboxHost>,
    /// The private key that all of them let in.
    pub key: PathBuf,
    /// Their host keys, as a known_hosts file.
    pub known_hosts: PathBuf,
    runtime: Option<tokio::runtime::Runtime>,
}

/// One sandbox host.
#[derive(Clone, Debug)]
pub struct SandboxHost {
    /// Address on loopback.
    pub address: SocketAddr,
    /// Its directory.
    pub root: PathBuf,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Sandbox {
    /// Starts a host for each name, each in its directory below `dir`.
    ///
    /// # Errors
    /// A directory or file can't be made, or there is no port to be had.
    pub fn start(dir: &Path, names: &[String]) -> io::Result<Sandbox> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("sandbox")
            .enable_all()
            .build()?;
        let user_key = new_key()?;
        let key = dir.join("key");
        let text = user_key.to_openssh(LineEnding::LF).map_err(io::Error::other)?;
        write_private(&key, text.as_bytes())?;
        let mut hosts = Vec::new();
        let mut known = String::new();
        for name in names {
            let root = dir.join(name);
            std::fs::create_dir_all(&root)?;
            let host_key = new_key()?;
            let public = host_key.public_key().to_openssh().map_err(io::Error::other)?;
            let config = Arc::new(Config {
                keys: vec![host_key],
                methods: MethodSet::from(&[MethodKind::PublicKey][..]),
                nodelay: true,
                ..Config::default()
            });
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
            let address = listener.local_addr()?;
            known.push_str(&format!("[{}]:{} {public}\n", address.ip(), address.port()));
            let allowed = user_key.public_key().clone();
            let home = root.clone();
            runtime.spawn(async move {
                loop {
                    let Ok((stream, _)) = listener.accept().await else { return };
                    let client =
                        Client { allowed: allowed.clone(), home: home.clone(), channels: HashMap::new() };
                    let config = config.clone();
                    tokio::spawn(async move {
                        if let Ok(session) = russh::server::run_stream(config, stream, client).await {
                            // The client may go away at any time; there is nobody to tell.
                            let _ = session.await;
                        }
                    });
                }
            });
            hosts.push(SandboxHost { address, root });
        }
        let known_hosts = dir.join("known_hosts");
        std::fs::write(&known_hosts, known)?;
        Ok(Sandbox { hosts, key, known_hosts, runtime: Some(runtime) })
    }
}

fn new_key() -> io::Result<PrivateKey> {
    PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).map_err(io::Error::other)
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

struct Client {
    allowed: PublicKey,
    home: PathBuf,
    channels: HashMap<ChannelId, Channel<Msg>>,
}

impl Handler for Client {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, russh::Error> {
        let known = offer.public_key.key_data() == self.allowed.key_data();
        Ok(if known { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(
        &mut self,
        _user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        let known = key.public_key.key_data() == self.allowed.key_data();
        Ok(if known { Auth::Accept } else { Auth::reject() })
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

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let Some(channel) = self.channels.remove(&id) else { return Ok(()) };
        let command = String::from_utf8_lossy(command).into_owned();
        tokio::spawn(execute(channel, command, self.home.clone(), session.handle()));
        Ok(())
    }
}

/// Runs a command as sshd would: through the shell, in the home directory, with a small environment.
async fn execute(channel: Channel<Msg>, command: String, home: PathBuf, handle: russh::server::Handle) {
    let id = channel.id();
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let child = tokio::process::Command::new("/bin/sh")
        .args(["-c", &command])
        .env_clear()
        .env("PATH", path)
        .env("HOME", &home)
        .current_dir(&home)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut child) = child else {
        let _ = handle.exit_status_request(id, 255).await;
        let _ = handle.close(id).await;
        return;
    };
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
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut out = write.make_writer();
    let mut err = write.make_writer_ext(Some(1));
    tokio::join!(copy(stdout, &mut out), copy(stderr, &mut err));
    let code = match child.wait().await {
        Ok(status) => status.code().and_then(|code| u32::try_from(code).ok()).unwrap_or(255),
        Err(_) => 255,
    };
    let _ = handle.exit_status_request(id, code).await;
    let _ = handle.eof(id).await;
    let _ = handle.close(id).await;
    input.abort();
}

async fn copy<R, W>(from: Option<R>, to: &mut W)
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; 32 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
}
