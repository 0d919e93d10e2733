//! Connections against an in-process server and against a real sshd.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::value::Value;

/// Runs a test's future on a runtime of its own, with an end.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime starts");
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("in time") })
}

/// Says aloud that a test did not run.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

/// A directory that stands for the user's home, with a key in it.
struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Home {
        let dir = TempDir::new().expect("a temporary directory");
        std::fs::create_dir(dir.path().join(".ssh")).expect("a directory");
        Home { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn settings(&self) -> Settings {
        let (_, user) = process::whoami();
        let mut settings = Settings::new(self.dir.path(), user);
        settings.system_ssh_config = None;
        settings
    }

    /// Makes a key with ssh-keygen and gives its path.
    fn key(&self, name: &str, kind: &str, passphrase: &str) -> PathBuf {
        let path = self.path(name);
        let status = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-N", passphrase, "-C", "", "-f"])
            .arg(&path)
            .status()
            .expect("ssh-keygen runs");
        assert!(status.success(), "ssh-keygen {kind}");
        path
    }
}

fn public(key: &Path) -> String {
    std::fs::read_to_string(format!("{}.pub", key.display())).expect("a public key").trim().to_owned()
}

/// A target from inventory variables.
fn target(name: &str, vars: &[(&str, &str)], settings: &Settings) -> Result<Target, TransportError> {
    let vars: HashMap<&str, &str> = vars.iter().copied().collect();
    Target::from_vars(name, &|name| vars.get(name).map(|text| Value::str(*text)), settings)
}

/// A prompter with prepared answers, which notes what it was asked.
#[derive(Clone, Default)]
struct Scripted {
    secrets: Arc<Mutex<Vec<String>>>,
    accept: bool,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Prompter for Scripted {
    fn secret(&self, prompt: &str) -> Option<Secret> {
        self.asked.lock().expect("not poisoned").push(prompt.to_owned());
        let mut secrets = self.secrets.lock().expect("not poisoned");
        if secrets.is_empty() { None } else { Some(Secret::new(secrets.remove(0))) }
    }

    fn confirm_host_keys(&self, unknown: &[UnknownKey]) -> Vec<bool> {
        let names: Vec<&str> = unknown.iter().map(|key| key.host.as_str()).collect();
        self.asked.lock().expect("not poisoned").push(format!("host keys: {}", names.join(" ")));
        vec![self.accept; unknown.len()]
    }
}

/// Runs a command to its end: stdout, stderr, status.
async fn run_command(
    connection: &dyn Connection,
    command: &str,
    input: &[u8],
) -> (String, String, ExitStatus) {
    let pipe = open_as(connection, None, command).await.expect("the command starts");
    finish(pipe, input).await
}

async fn finish(pipe: Pipe, input: &[u8]) -> (String, String, ExitStatus) {
    let Pipe { mut stdin, mut stdout, mut stderr, exit, guard } = pipe;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let write = async {
        // The command may end without reading all.
        let _ = stdin.write_all(input).await;
        let _ = stdin.shutdown().await;
    };
    let (_, read, _) = tokio::join!(write, stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
    read.expect("stdout is readable");
    let status = exit.await;
    drop(guard);
    (String::from_utf8_lossy(&out).into_owned(), String::from_utf8_lossy(&err).into_owned(), status)
}

mod local {
    use super::*;

    #[test]
    fn a_command_has_its_streams_and_status() {
        run(async {
            let home = Home::new();
            let transports = Transports::new(home.settings(), Box::new(NoPrompter));
            let connection = transports.connect(&Target::local("here")).await.expect("it connects");
            let (out, err, status) = run_command(&*connection, "cat; echo oops >&2; exit 7", b"in\n").await;
            assert_eq!((out.as_str(), err.as_str(), status), ("in\n", "oops\n", ExitStatus::Code(7)));
            let (_, _, status) = run_command(&*connection, "kill -9 $$", b"").await;
            assert_eq!(status, ExitStatus::Signal("KILL".to_owned()));
        });
    }

    #[test]
    fn dropping_the_pipe_ends_the_group() {
        run(async {
            let home = Home::new();
            let file = home.path("pids");
            let transports = Transports::new(home.settings(), Box::new(NoPrompter));
            let connection = transports.connect(&Target::local("here")).await.expect("it connects");
            let command =
                format!("sleep 300 & echo $! > {f}; echo $$ >> {f}; echo up; wait", f = file.display());
            let mut pipe = open_as(&*connection, None, &command).await.expect("the command starts");
            let mut line = [0; 3];
            pipe.stdout.read_exact(&mut line).await.expect("it says up");
            let pids = std::fs::read_to_string(&file).expect("the pids");
            drop(pipe);
            let alive = || pids.lines().any(|pid| Path::new("/proc").join(pid).exists());
            for _ in 0..50 {
                if !alive() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            panic!("still alive: {pids}");
        });
    }
}

/// A real sshd on a port of its own.
struct Sshd {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // Reaped, so that the port is free when the test ends.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sshd {
    /// Starts one that lets `authorized` in; `None` (said aloud) where there is no sshd.
    fn start(authorized: &[&str], more: &str) -> Option<Sshd> {
        let program = Path::new("/usr/sbin/sshd");
        if !program.exists() {
            skipped("there is no /usr/sbin/sshd");
            return None;
        }
        if rustix::process::getuid().is_root() {
            // sshd started by hand wants it; it is empty and may stay.
            let _ = std::fs::create_dir_all("/run/sshd");
        }
        let dir = TempDir::new().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        for kind in ["ed25519", "ecdsa"] {
            let status = Command::new("ssh-keygen")
                .args(["-q", "-t", kind, "-N", "", "-C", "", "-f"])
                .arg(at(&format!("host_{kind}")))
                .status()
                .expect("ssh-keygen runs");
            assert!(status.success());
        }
        std::fs::write(at("authorized"), authorized.join("\n") + "\n").expect("writable");
        let port = free_port();
        let config = format!(
            "{more}\nPort {port}\nListenAddress 127.0.0.1\nHostKey {d}/host_ed25519\nHostKey {d}/host_ecdsa\n\
             AuthorizedKeysFile {d}/authorized\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n\
             MaxStartups 200\nMaxSessions 100\nLogLevel ERROR\n",
            d = dir.path().display()
        );
        std::fs::write(at("config"), config).expect("writable");
        let child = Command::new(program)
            .args(["-D", "-e", "-f"])
            .arg(at("config"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sshd starts");
        let sshd = Sshd { child, port, dir };
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(sshd);
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("sshd does not listen");
    }

    fn host_key(&self, kind: &str) -> String {
        public(&self.dir.path().join(format!("host_{kind}")))
    }

    /// Lists its key in the home's known hosts.
    fn make_known(&self, home: &Home) {
        let line = format!("[127.0.0.1]:{} {}\n", self.port, self.host_key("ed25519"));
        std::fs::write(home.path(".ssh/known_hosts"), line).expect("writable");
    }

    fn vars<'a>(&self, port: &'a str, key: &'a str) -> Vec<(&'static str, &'a str)> {
        vec![("ansible_host", "127.0.0.1"), ("ansible_port", port), ("ansible_ssh_private_key_file", key)]
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

mod openssh_server {
    use super::*;

    #[test]
    fn a_key_lets_us_in_and_commands_run() {
        let home = Home::new();
        let key = home.key("key", "ed25519", "");
        let Some(sshd) = Sshd::start(&[&public(&key)], "") else { return };
        sshd.make_known(&home);
        run(async {
            let settings = home.settings();
            let transports = Transports::new(settings.clone(), Box::new(NoPrompter));
            let (port, key) = (sshd.port.to_string(), key.display().to_string());
            let target = target("web1", &sshd.vars(&port, &key), &settings).expect("a target");
            let connection = transports.connect(&target).await.expect("it connects");
            let (out, err, status) =
                run_command(&*connection, "read x; echo \"got $x\"; echo 'oops' >&2; exit 3", b"it's\n")
                    .await;
            assert_eq!((out.as_str(), err.as_str(), status), ("got it's\n", "oops\n", ExitStatus::Code(3)));
        });
    }
}
