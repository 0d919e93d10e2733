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
use server::{Rules, Server, new_key};

mod server;

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
    fn programs_that_enter_a_place() {
        run(async {
            let home = Home::new();
            let transports = Transports::new(home.settings(), Box::new(NoPrompter));
            let fake = home.path("fake-docker");
            // It says how it was called, and runs what it was given.
            let script = "#!/bin/sh\necho \"$@\" | head -c 40 >&2\nwhile [ \"$1\" != /bin/sh ]; do shift; done\nexec \"$@\"\n";
            std::fs::write(&fake, script).expect("writable");
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o700)).expect("permissions");
            let fake = fake.display().to_string();
            let cases = [
                (
                    vec![
                        ("ansible_connection", "community.docker.docker"),
                        ("ansible_host", "box"),
                        ("ansible_user", "app"),
                        ("ansible_docker_executable", fake.as_str()),
                        ("ansible_docker_extra_args", "--context x"),
                    ],
                    "--context x exec -i -u app box /bin/sh -",
                ),
                (
                    vec![("ansible_connection", "podman"), ("ansible_podman_executable", fake.as_str())],
                    "exec -i web1 /bin/sh -c exec /bin/sh -c",
                ),
                (
                    vec![
                        ("ansible_connection", "chroot"),
                        ("ansible_host", "/srv/x"),
                        ("ansible_chroot_exe", fake.as_str()),
                    ],
                    "/srv/x /bin/sh -c exec /bin/sh -c 'print",
                ),
            ];
            for (vars, called) in cases {
                let target = target("web1", &vars, &home.settings()).expect("a target");
                let connection = transports.connect(&target).await.expect("it connects");
                let (out, err, status) = run_command(&*connection, "cat; exit 3", b"in").await;
                assert_eq!((out.as_str(), err.trim(), status), ("in", called.trim(), ExitStatus::Code(3)));
                let refused = connection.open_terminal("true").await.expect_err("there is none");
                assert_eq!(refused.class(), Class::Setup, "{refused}");
            }
            if rustix::process::getuid().is_root() {
                let vars = [("ansible_connection", "chroot"), ("ansible_host", "/")];
                let target = target("root", &vars, &home.settings()).expect("a target");
                let connection = transports.connect(&target).await.expect("it connects");
                assert_eq!(run_command(&*connection, "id -u", b"").await.0, "0\n");
            } else {
                skipped("chroot needs root");
            }
            // One that never lets our command begin.
            let flood = home.path("flood");
            std::fs::write(&flood, "#!/bin/sh\nexec yes 'no entry'\n").expect("writable");
            std::fs::set_permissions(&flood, std::fs::Permissions::from_mode(0o700)).expect("permissions");
            let flood = flood.display().to_string();
            let vars = [("ansible_connection", "docker"), ("ansible_docker_executable", flood.as_str())];
            let floods = target("web1", &vars, &home.settings()).expect("a target");
            let connection = transports.connect(&floods).await.expect("nothing runs yet");
            let mut pipe = open_as(&*connection, None, "true").await.expect("it starts");
            let error = pipe.stdout.read_to_end(&mut Vec::new()).await.expect_err("it is no banner");
            let error = TransportError::from_io(&error).expect("typed").to_string();
            assert!(error.contains("it printed more than 1 MiB") && error.contains("no entry"), "{error}");
            drop(pipe);
            let vars = [("ansible_connection", "docker"), ("ansible_docker_executable", "/no/such/docker")];
            let target = target("web1", &vars, &home.settings()).expect("a target");
            let connection = transports.connect(&target).await.expect("nothing runs yet");
            let error = open_as(&*connection, None, "true").await.expect_err("no program").to_string();
            assert!(error.contains("could not start /no/such/docker: No such file"), "{error}");
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
        Sshd::start_in(authorized, more, None)
    }

    /// The same; `setup` is a script that runs first, in a mount namespace that only this sshd sees.
    fn start_in(authorized: &[&str], more: &str, setup: Option<&str>) -> Option<Sshd> {
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
             AuthorizedKeysFile {d}/authorized\nStrictModes no\nPidFile none\nPermitRootLogin yes\n\
             MaxStartups 200\nMaxSessions 100\nLogLevel ERROR\n",
            d = dir.path().display()
        );
        std::fs::write(at("config"), config).expect("writable");
        let mut command = match setup {
            None => Command::new(program),
            Some(setup) => {
                let mut command = Command::new("unshare");
                let script = format!("set -e; cd {}; {setup}\nexec \"$@\"", dir.path().display());
                command.args(["-m", "/bin/sh", "-c", &script, "sh"]).arg(program);
                command
            }
        };
        let child = command
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
            assert!(connection.round_trip().is_some());
            let (out, err, status) =
                run_command(&*connection, "read x; echo \"got $x\"; echo 'oops' >&2; exit 3", b"it's\n")
                    .await;
            assert_eq!((out.as_str(), err.as_str(), status), ("got it's\n", "oops\n", ExitStatus::Code(3)));
        });
    }

    /// Connects with the key, over the variables given, and says how `echo hello` went.
    async fn hello(home: &Home, settings: &Settings, vars: &[(&str, &str)]) -> String {
        let _ = home;
        let target = match target("web1", vars, settings) {
            Ok(target) => target,
            Err(error) => return error.to_string(),
        };
        match Transports::new(settings.clone(), Box::new(NoPrompter)).connect(&target).await {
            Ok(connection) => match open_as(&*connection, None, "echo hello").await {
                Ok(mut pipe) => {
                    let mut text = String::new();
                    match pipe.stdout.read_to_string(&mut text).await {
                        Ok(_) => text.trim().to_owned(),
                        Err(error) => {
                            TransportError::from_io(&error).map_or(error.to_string(), ToString::to_string)
                        }
                    }
                }
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn it_costs_seven_round_trips_after_tcp() {
        let home = Home::new();
        let key = home.key("key", "ed25519", "");
        let Some(sshd) = Sshd::start(&[&public(&key)], "") else { return };
        run(async {
            let one_way = Duration::from_millis(100);
            let link = SlowLink::to(sshd.port, one_way).await;
            let line = format!("[127.0.0.1]:{} {}\n", link.port, sshd.host_key("ed25519"));
            std::fs::write(home.path(".ssh/known_hosts"), line).expect("writable");
            let settings = home.settings();
            let (port, key) = (link.port.to_string(), key.display().to_string());
            assert_eq!(hello(&home, &settings, &sshd.vars(&port, &key)).await, "hello");
            let mut spoken = link.spoken.lock().expect("not poisoned").clone();
            spoken.dedup();
            // The version strings cross, and the last word of the client is its goodbye.
            let turns = spoken.iter().filter(|side| **side == Side::Client).count();
            assert!((7..=8).contains(&turns), "{spoken:?}");
        });
    }

    #[test]
    fn compression_rekeying_and_every_cipher() {
        let home = Home::new();
        let key = home.key("key", "ed25519", "");
        let Some(sshd) = Sshd::start(&[&public(&key)], "RekeyLimit 1M\n") else { return };
        sshd.make_known(&home);
        run(async {
            let settings = home.settings();
            let (port, key) = (sshd.port.to_string(), key.display().to_string());
            for options in [
                "",
                "-C",
                "-c aes256-gcm@openssh.com",
                "-c chacha20-poly1305@openssh.com",
                "-c aes256-ctr -m hmac-sha2-512",
            ] {
                let mut vars = sshd.vars(&port, &key);
                vars.push(("ansible_ssh_common_args", options));
                let target = target("web1", &vars, &settings).expect("a target");
                let connection = Transports::new(settings.clone(), Box::new(NoPrompter))
                    .connect(&target)
                    .await
                    .expect(options);
                let input: Vec<u8> =
                    (0..3_000_000_u32).map(|number| (number * 7 + number / 256) as u8).collect();
                let Pipe { mut stdin, mut stdout, exit, guard, .. } =
                    open_as(&*connection, None, "cat").await.expect("it starts");
                let mut output = Vec::new();
                let (written, read) = tokio::join!(
                    async {
                        stdin.write_all(&input).await?;
                        stdin.shutdown().await
                    },
                    stdout.read_to_end(&mut output)
                );
                written.expect("it takes all");
                read.expect("it gives all");
                assert!(output == input, "{options}: {} bytes", output.len());
                assert_eq!(exit.await, ExitStatus::Code(0));
                drop(guard);
            }
        });
    }

    #[test]
    fn the_users_own_ssh_program() {
        let home = Home::new();
        let key = home.key("key", "ed25519", "");
        let Some(sshd) = Sshd::start(&[&public(&key)], "") else { return };
        sshd.make_known(&home);
        run(async {
            let settings = home.settings();
            let (port, key) = (sshd.port.to_string(), key.display().to_string());
            let mut vars = sshd.vars(&port, &key);
            vars.push(("ansible_connection", "openssh"));
            let known = format!("-F none -o UserKnownHostsFile={}", home.path(".ssh/known_hosts").display());
            vars.push(("ansible_ssh_common_args", &known));
            assert_eq!(hello(&home, &settings, &vars).await, "hello");
            let gone = free_port().to_string();
            vars[1].1 = &gone;
            let error = hello(&home, &settings, &vars).await;
            assert!(error.contains("Connection refused") && error.contains("exit code 255"), "{error}");
            vars[0].1 = "-oProxyCommand=touch /tmp/owned";
            let error = hello(&home, &settings, &vars).await;
            assert!(error.contains("must not begin with a dash"), "{error}");
            vars[0].1 = "127.0.0.1";
            vars.push(("ansible_password", "x"));
            let error = hello(&home, &settings, &vars).await;
            assert!(error.contains("ansible_password: the ssh program takes no password from us"), "{error}");
        });
    }

    #[test]
    fn an_agent_signs() {
        let home = Home::new();
        let key = home.key("key", "rsa", "");
        let locked = home.key("locked", "ed25519", "passphrase");
        let Some(sshd) = Sshd::start(&[&public(&key)], "") else { return };
        sshd.make_known(&home);
        let socket = home.path("agent");
        let Ok(mut agent) =
            Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn()
        else {
            skipped("there is no ssh-agent");
            return;
        };
        for _ in 0..100 {
            if socket.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let added =
            Command::new("ssh-add").arg(&key).env("SSH_AUTH_SOCK", &socket).stderr(Stdio::null()).status();
        assert!(added.expect("ssh-add runs").success());
        // What the agent holds is not read from the file.
        std::fs::remove_file(&key).expect("it was there");
        run(async {
            let mut settings = home.settings();
            settings.agent = Some(socket.clone());
            let port = sshd.port.to_string();
            let vars = [("ansible_host", "127.0.0.1"), ("ansible_port", port.as_str())];
            assert_eq!(hello(&home, &settings, &vars).await, "hello");
            // IdentitiesOnly keeps the agent's other keys out.
            let only = format!("-o IdentitiesOnly=yes -i {}", locked.display());
            let vars = [vars[0], vars[1], ("ansible_ssh_common_args", only.as_str())];
            let error = hello(&home, &settings, &vars).await;
            assert!(error.contains("authentication failed"), "{error}");
            // A command there may use the agent when it is lent.
            for (options, expected) in [("-A", "1"), ("", "0")] {
                let vars = [vars[0], vars[1], ("ansible_ssh_common_args", options)];
                let target = target("web1", &vars, &settings).expect("a target");
                let transports = Transports::new(settings.clone(), Box::new(NoPrompter));
                let connection = transports.connect(&target).await.expect("it connects");
                let (out, _, _) =
                    run_command(&*connection, "ssh-add -l 2>/dev/null | grep -c RSA", b"").await;
                assert_eq!(out.trim(), expected, "{options}");
            }
        });
        let _ = agent.kill();
        let _ = agent.wait();
    }

    #[test]
    fn a_real_chain() {
        let home = Home::new();
        let key = home.key("key", "ed25519", "");
        let Some(gate) = Sshd::start(&[&public(&key)], "") else { return };
        let Some(inner) = Sshd::start(&[&public(&key)], "") else { return };
        let known: String = [&gate, &inner]
            .map(|sshd| format!("[127.0.0.1]:{} {}\n", sshd.port, sshd.host_key("ecdsa")))
            .concat();
        std::fs::write(home.path(".ssh/known_hosts"), known).expect("writable");
        let config =
            format!("Host gate\nHostName 127.0.0.1\nPort {}\nIdentityFile {}", gate.port, key.display());
        std::fs::write(home.path(".ssh/config"), config).expect("writable");
        run(async {
            let (port, key) = (inner.port.to_string(), key.display().to_string());
            let mut vars = inner.vars(&port, &key);
            vars.push(("ansible_ssh_common_args", "-o ProxyJump=gate"));
            assert_eq!(hello(&home, &home.settings(), &vars).await, "hello");
        });
    }

    #[test]
    fn a_dead_peer_is_noticed() {
        let home = Home::new();
        let key = home.key("key", "ed25519", "");
        let Some(sshd) = Sshd::start(&[&public(&key)], "") else { return };
        run(async {
            let link = SlowLink::to(sshd.port, Duration::ZERO).await;
            let settings = home.settings();
            let (port, key) = (link.port.to_string(), key.display().to_string());
            let mut vars = sshd.vars(&port, &key);
            vars.push(("ansible_host_key_checking", "false"));
            vars.push(("ansible_ssh_extra_args", "-o ServerAliveInterval=1 -o ServerAliveCountMax=2"));
            let target = target("web1", &vars, &settings).expect("a target");
            let transports = Transports::new(settings, Box::new(NoPrompter));
            let connection = transports.connect(&target).await.expect("it connects");
            let mut pipe = open_as(&*connection, None, "echo up; sleep 100").await.expect("it starts");
            let mut up = [0; 3];
            pipe.stdout.read_exact(&mut up).await.expect("it is up");
            link.dead.store(true, std::sync::atomic::Ordering::Relaxed);
            let error = pipe.stdout.read_to_end(&mut Vec::new()).await.expect_err("it is dead");
            let error = TransportError::from_io(&error).expect("typed").to_string();
            assert!(error.contains("the host stopped answering: 2 keepalives, one every 1 s"), "{error}");
        });
    }

    #[test]
    fn dropping_the_pipe_ends_the_command() {
        let home = Home::new();
        let key = home.key("key", "ed25519", "");
        let Some(sshd) = Sshd::start(&[&public(&key)], "") else { return };
        sshd.make_known(&home);
        run(async {
            let settings = home.settings();
            let (port, key) = (sshd.port.to_string(), key.display().to_string());
            let target = target("web1", &sshd.vars(&port, &key), &settings).expect("a target");
            let connection =
                Transports::new(settings, Box::new(NoPrompter)).connect(&target).await.expect("it connects");
            // A program that reads its input, as the runner does.
            let mut pipe = open_as(&*connection, None, "echo $$; exec cat").await.expect("it starts");
            let mut pid = vec![0; 32];
            let count = pipe.stdout.read(&mut pid).await.expect("it says");
            let process = Path::new("/proc").join(String::from_utf8_lossy(&pid[..count]).trim());
            assert!(process.exists());
            drop(pipe);
            for _ in 0..50 {
                if !process.exists() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            panic!("still there");
        });
    }
}

/// A proxy that keeps every byte back for a while, and can be told to pass nothing more.
struct SlowLink {
    port: u16,
    dead: Arc<std::sync::atomic::AtomicBool>,
    /// Who spoke, in order.
    spoken: Arc<Mutex<Vec<Side>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

impl SlowLink {
    async fn to(port: u16, one_way: Duration) -> SlowLink {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let own = listener.local_addr().expect("an address").port();
        let dead: Arc<std::sync::atomic::AtomicBool> = Arc::default();
        let spoken: Arc<Mutex<Vec<Side>>> = Arc::default();
        let (shared, heard) = (dead.clone(), spoken.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far =
                    tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("the server is there");
                near.set_nodelay(true).expect("a socket");
                far.set_nodelay(true).expect("a socket");
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                tokio::spawn(delay(
                    near_read,
                    far_write,
                    one_way,
                    shared.clone(),
                    heard.clone(),
                    Side::Client,
                ));
                tokio::spawn(delay(
                    far_read,
                    near_write,
                    one_way,
                    shared.clone(),
                    heard.clone(),
                    Side::Server,
                ));
            }
        });
        SlowLink { port: own, dead, spoken }
    }
}

async fn delay(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    one_way: Duration,
    dead: Arc<std::sync::atomic::AtomicBool>,
    spoken: Arc<Mutex<Vec<Side>>>,
    side: Side,
) {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
    let write = async {
        while let Some((due, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            if dead.load(std::sync::atomic::Ordering::Relaxed) {
                // Neither passed on nor closed: as if a cable were cut.
                std::future::pending::<()>().await;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let read = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            spoken.lock().expect("not poisoned").push(side);
            // The other half may be gone.
            let _ = sender.send((tokio::time::Instant::now() + one_way, buffer[..count].to_vec()));
        }
        drop(sender);
    };
    tokio::join!(read, write);
}

/// Connecting to in-process servers.
mod in_process {
    use super::*;
    use russh::keys::ssh_key::LineEnding;
    use russh::keys::ssh_key::certificate::{Builder, CertType};
    use russh::keys::{HashAlg, PrivateKey};

    /// A home, a prompter, and how a test connects to a server.
    struct Client {
        home: Home,
        prompter: Scripted,
        settings: Settings,
        transports: Option<Transports>,
    }

    impl Client {
        fn new() -> Client {
            let home = Home::new();
            let settings = home.settings();
            Client { home, prompter: Scripted::default(), settings, transports: None }
        }

        /// Lists the server's key.
        fn knows(self, server: &Server) -> Client {
            self.known_text(&format!("[127.0.0.1]:{} {}\n", server.port, openssh(&server.host_key)))
        }

        fn known_text(self, text: &str) -> Client {
            std::fs::write(self.home.path(".ssh/known_hosts"), text).expect("writable");
            self
        }

        fn config(self, text: &str) -> Client {
            std::fs::write(self.home.path(".ssh/config"), text).expect("writable");
            self
        }

        fn answers(self, secrets: &[&str]) -> Client {
            *self.prompter.secrets.lock().expect("not poisoned") =
                secrets.iter().map(|s| (*s).to_owned()).collect();
            self
        }

        fn accepts_keys(mut self) -> Client {
            self.prompter.accept = true;
            self
        }

        fn asked(&self) -> Vec<String> {
            self.prompter.asked.lock().expect("not poisoned").clone()
        }

        async fn connect(
            &mut self,
            port: u16,
            vars: &[(&str, &str)],
        ) -> Result<Box<dyn Connection>, TransportError> {
            let port = port.to_string();
            let mut all =
                vec![("ansible_host", "127.0.0.1"), ("ansible_port", port.as_str()), ("ansible_user", "me")];
            all.extend(vars);
            let target = target("web1", &all, &self.settings)?;
            let (settings, prompter) = (self.settings.clone(), self.prompter.clone());
            let transports =
                self.transports.get_or_insert_with(|| Transports::new(settings, Box::new(prompter)));
            transports.connect(&target).await
        }

        /// Connects, runs `echo hello`, and says how that went in a line.
        async fn hello(&mut self, port: u16, vars: &[(&str, &str)]) -> String {
            match self.connect(port, vars).await {
                Ok(connection) => run_command(&*connection, "echo hello", b"").await.0.trim().to_owned(),
                Err(error) => error.to_string(),
            }
        }

        fn write_key(&self, name: &str, key: &PrivateKey) -> String {
            let path = self.home.path(name);
            let text = key.to_openssh(LineEnding::LF).expect("encodes");
            std::fs::write(&path, text.as_bytes()).expect("writable");
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("permissions");
            path.display().to_string()
        }
    }

    fn openssh(key: &PrivateKey) -> String {
        key.public_key().to_openssh().expect("encodes").trim().to_owned()
    }

    fn rules_for(key: &PrivateKey) -> Rules {
        Rules { keys: vec![key.public_key().clone()], ..Rules::default() }
    }

    #[test]
    fn each_kind_of_key_is_signed_with() {
        run(async {
            for (kind, signed) in [
                ("ed25519", "signed ssh-ed25519"),
                ("ecdsa", "signed ecdsa-sha2-nistp256"),
                ("rsa", "signed rsa-sha2-512"),
            ] {
                let mut client = Client::new();
                let path = client.home.key("key", kind, "");
                let key = russh::keys::load_secret_key(&path, None).expect("a key");
                let server = Server::start(rules_for(&key)).await;
                client = client.knows(&server);
                let path = path.display().to_string();
                assert_eq!(
                    client.hello(server.port, &[("ansible_ssh_private_key_file", &path)]).await,
                    "hello"
                );
                let seen = server.seen();
                assert_eq!(seen[2], signed, "offered and signed at once, nothing before: {seen:?}");
                assert_eq!(seen.len(), 4, "{seen:?}");
            }
        });
    }

    #[test]
    fn an_encrypted_key_is_asked_for_once_per_run() {
        run(async {
            let client = Client::new().answers(&["wrong", "right"]);
            let path = client.home.key("key", "ed25519", "right");
            let key = russh::keys::load_secret_key(&path, Some("right")).expect("a key");
            let server = Server::start(rules_for(&key)).await;
            let mut client = client.knows(&server);
            let path = path.display().to_string();
            for _ in 0..2 {
                assert_eq!(
                    client.hello(server.port, &[("ansible_ssh_private_key_file", &path)]).await,
                    "hello"
                );
            }
            let asked = client.asked();
            assert_eq!(
                asked,
                [format!("Passphrase for key {path}: "), format!("Wrong. Passphrase for key {path}: ")]
            );

            let vars = [
                ("ansible_ssh_private_key_file", path.as_str()),
                ("ansible_ssh_private_key_passphrase", "right"),
            ];
            let mut client = Client::new().knows(&server);
            assert_eq!(client.hello(server.port, &vars).await, "hello");
            assert!(client.asked().is_empty());

            // A host that would not take it costs nobody a passphrase.
            let other = Server::start(rules_for(&new_key())).await;
            let mut client = Client::new().knows(&other);
            let error = client.hello(other.port, &[("ansible_ssh_private_key_file", &path)]).await;
            assert!(error.contains("authentication failed for user me: tried key"), "{error}");
            assert!(client.asked().is_empty());
        });
    }

    #[test]
    fn passwords() {
        run(async {
            let password = Rules { password: Some("s3cret".into()), ..Rules::default() };
            let interactive = Rules { interactive: Some("s3cret".into()), ..Rules::default() };
            let cases = [
                (password.clone(), "s3cret", "hello", &["connected", "password", "exec"][..]),
                (
                    password,
                    "wrong",
                    "could not connect to web1 (127.0.0.1): authentication failed for user me: tried password; the host accepts no further method",
                    &["connected", "password"],
                ),
                (
                    interactive.clone(),
                    "s3cret",
                    "hello",
                    &["connected", "password", "interactive", "interactive", "exec"],
                ),
                (
                    interactive,
                    "wrong",
                    "could not connect to web1 (127.0.0.1): authentication failed for user me: tried password, keyboard-interactive; the host accepts keyboard-interactive",
                    &["connected", "password", "interactive", "interactive"],
                ),
            ];
            for (rules, password, expected, seen) in cases {
                let server = Server::start(rules).await;
                let mut client = Client::new().knows(&server);
                assert_eq!(client.hello(server.port, &[("ansible_password", password)]).await, expected);
                let actual: Vec<String> = server.seen();
                if expected == "hello" {
                    assert_eq!(actual, seen);
                }
            }
        });
    }

    #[test]
    fn a_key_and_a_password_together() {
        run(async {
            let mut client = Client::new();
            let key = new_key();
            let path = client.write_key("key", &key);
            let rules = Rules { password: Some("p".into()), key_and_password: true, ..rules_for(&key) };
            let server = Server::start(rules).await;
            client = client.knows(&server);
            let vars = [("ansible_ssh_private_key_file", path.as_str()), ("ansible_password", "p")];
            assert_eq!(client.hello(server.port, &vars).await, "hello", "{:?}", server.seen());
        });
    }

    #[test]
    fn certificates() {
        run(async {
            let mut client = Client::new();
            let (key, authority) = (new_key(), new_key());
            let path = client.write_key("key", &key);
            let mut builder = Builder::new_with_random_nonce(
                &mut russh::keys::key::safe_rng(),
                key.public_key().key_data().clone(),
                0,
                u64::MAX - 1,
            )
            .expect("a builder");
            builder.cert_type(CertType::User).expect("a type").valid_principal("me").expect("a principal");
            let certificate = builder.sign(&authority).expect("signed").to_openssh().expect("encodes");
            std::fs::write(format!("{path}-cert.pub"), certificate).expect("writable");
            let rules =
                Rules { authority: Some(authority.public_key().key_data().clone()), ..Rules::default() };
            let server = Server::start(rules).await;
            client = client.knows(&server);
            assert_eq!(client.hello(server.port, &[("ansible_ssh_private_key_file", &path)]).await, "hello");
            assert!(server.seen().contains(&"certificate".to_owned()), "{:?}", server.seen());
        });
    }

    #[test]
    fn nothing_to_offer_is_said() {
        run(async {
            let server =
                Server::start(Rules { banner: Some("Members only.\n".into()), ..rules_for(&new_key()) })
                    .await;
            let mut client = Client::new().knows(&server);
            let error = client.hello(server.port, &[]).await;
            assert_eq!(
                error,
                "could not connect to web1 (127.0.0.1): authentication failed for user me: tried nothing (no key, \
                 agent or password to offer); the host accepts publickey; the host says: Members only."
            );
        });
    }

    #[test]
    fn a_named_key_that_cannot_be_used_is_an_error_of_its_own() {
        run(async {
            let server = Server::start(rules_for(&new_key())).await;
            let client = Client::new().knows(&server);
            let open = client.write_key("open", &new_key());
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).expect("permissions");
            std::fs::write(client.home.path("junk"), "junk").expect("writable");
            let mut client = client;
            for (name, expected) in [
                ("missing", "No such file or directory"),
                ("open", "its permissions 0644 let others read it; chmod 600 it"),
                (".ssh", "is a directory"),
            ] {
                let path = client.home.path(name).display().to_string();
                let error = client.hello(server.port, &[("ansible_ssh_private_key_file", &path)]).await;
                assert!(
                    error.contains(&format!("private key {path}: ")) && error.contains(expected),
                    "{error}"
                );
            }
        });
    }

    #[test]
    fn host_keys() {
        run(async {
            let key = new_key();
            let server = Server::start(rules_for(&key)).await;
            let name = format!("[127.0.0.1]:{}", server.port);
            let (good, bad) = (openssh(&server.host_key), openssh(&new_key()));
            let fingerprint = server.host_key.fingerprint(HashAlg::Sha256).to_string();
            let strict = |how: &str| format!("-o StrictHostKeyChecking={how}");
            let cases: Vec<(String, Vec<(&str, String)>, &str)> = vec![
                (String::new(), vec![], "host key unknown: [127.0.0.1]:"),
                (format!("{name} {good}"), vec![], "hello"),
                (format!("{name} {bad}"), vec![], "HOST KEY CHANGED"),
                (
                    format!("{name} {bad}"),
                    vec![("ansible_ssh_common_args", strict("accept-new"))],
                    "HOST KEY CHANGED",
                ),
                (
                    format!("@revoked * {good}"),
                    vec![("ansible_ssh_common_args", strict("no"))],
                    "HOST KEY REVOKED",
                ),
                (String::new(), vec![("ansible_ssh_common_args", strict("yes"))], "host key unknown"),
                (String::new(), vec![("ansible_ssh_common_args", strict("accept-new"))], "hello"),
                (String::new(), vec![("ansible_ssh_host_key_checking", "false".into())], "hello"),
                // Checking is off: a changed key is accepted, as ssh does it.
                (format!("{name} {bad}"), vec![("ansible_host_key_checking", "false".into())], "hello"),
                (
                    format!("alias {good}"),
                    vec![("ansible_ssh_extra_args", "-o HostKeyAlias=alias".into())],
                    "hello",
                ),
            ];
            for (known, vars, expected) in cases {
                let mut client = Client::new().known_text(&known);
                let path = client.write_key("key", &key);
                let mut all: Vec<(&str, &str)> =
                    vars.iter().map(|(name, value)| (*name, value.as_str())).collect();
                all.push(("ansible_ssh_private_key_file", &path));
                let result = client.hello(server.port, &all).await;
                assert!(result.contains(expected), "{known:?} {vars:?}: {result}");
                if expected.starts_with("HOST KEY") {
                    assert!(result.contains(&fingerprint) && result.contains("known_hosts:1"), "{result}");
                }
                let learnt = std::fs::read_to_string(client.home.path(".ssh/known_hosts")).expect("readable");
                let should_learn = known.is_empty() && expected == "hello";
                assert_eq!(
                    learnt.contains(&format!("{name} {good}")),
                    should_learn || known.contains(&format!("{name} {good}"))
                );
            }
        });
    }

    #[test]
    fn a_changed_key_gets_no_password() {
        run(async {
            let server = Server::start(Rules { password: Some("p".into()), ..Rules::default() }).await;
            let mut client =
                Client::new().known_text(&format!("[127.0.0.1]:{} {}", server.port, openssh(&new_key())));
            let vars = [("ansible_password", "p"), ("ansible_host_key_checking", "no")];
            let error = client.hello(server.port, &vars).await;
            assert!(error.contains("its host key has changed, so no password was sent"), "{error}");
            assert!(!server.seen().contains(&"password".to_owned()));
        });
    }

    #[test]
    fn unknown_keys_of_many_hosts_are_one_question() {
        run(async {
            let key = new_key();
            let client = Client::new().accepts_keys();
            let path = client.write_key("key", &key);
            let mut servers = Vec::new();
            for _ in 0..5 {
                servers.push(Server::start(rules_for(&key)).await);
            }
            // Only two hosts at a time; those that wait for an answer do not count.
            let forks = Arc::new(tokio::sync::Semaphore::new(2));
            let transports = Transports::new(client.settings.clone(), Box::new(client.prompter.clone()))
                .lending(Arc::clone(&forks));
            let mut tasks = tokio::task::JoinSet::new();
            for (index, server) in servers.iter().enumerate() {
                let forks = Arc::clone(&forks);
                let port = server.port.to_string();
                let vars = [
                    ("ansible_host", "127.0.0.1"),
                    ("ansible_port", port.as_str()),
                    ("ansible_ssh_private_key_file", path.as_str()),
                ];
                let target = target(&format!("h{index}"), &vars, &client.settings).expect("a target");
                let transports = transports.clone();
                tasks.spawn(async move {
                    let _permit = forks.acquire_owned().await.expect("open");
                    let connection = transports.connect(&target).await.expect("it connects");
                    run_command(&*connection, "echo hello", b"").await.0
                });
            }
            while let Some(result) = tasks.join_next().await {
                assert_eq!(result.expect("no panic"), "hello\n");
            }
            assert_eq!(forks.available_permits(), 2);
            let names: Vec<String> =
                servers.iter().map(|server| format!("[127.0.0.1]:{}", server.port)).collect();
            assert_eq!(client.asked(), [format!("host keys: {}", names.join(" "))]);
            let learnt = std::fs::read_to_string(client.home.path(".ssh/known_hosts")).expect("readable");
            assert_eq!(learnt.lines().count(), 5, "{learnt}");
        });
    }

    #[test]
    fn host_certificates_are_vouched_for() {
        run(async {
            let (host_key, authority, key) = (new_key(), new_key(), new_key());
            for (principal, expected) in
                [("127.0.0.1", "hello"), ("other", "is for other and not for this host")]
            {
                let public = host_key.public_key().key_data().clone();
                let mut builder = Builder::new_with_random_nonce(
                    &mut russh::keys::key::safe_rng(),
                    public,
                    0,
                    u64::MAX - 1,
                )
                .expect("a builder");
                builder
                    .cert_type(CertType::Host)
                    .expect("a type")
                    .valid_principal(principal)
                    .expect("a principal");
                let certificate = builder.sign(&authority).expect("signed");
                let rules = Rules {
                    host_keys: vec![host_key.clone()],
                    host_certificates: vec![certificate],
                    ..rules_for(&key)
                };
                let server = Server::start(rules).await;
                let mut client = Client::new()
                    .known_text(&format!("@cert-authority [127.0.0.1]:* {}", openssh(&authority)));
                let path = client.write_key("key", &key);
                let result = client.hello(server.port, &[("ansible_ssh_private_key_file", &path)]).await;
                assert!(result.contains(expected), "{result}");
            }
        });
    }

    #[test]
    fn a_chain_of_jump_hosts_shares_its_connections() {
        run(async {
            let key = new_key();
            let mut servers = Vec::new();
            for _ in 0..4 {
                servers.push(Server::start(rules_for(&key)).await);
            }
            let (first, second) = (&servers[0], &servers[1]);
            let known: String = servers
                .iter()
                .map(|server| format!("[127.0.0.1]:{} {}\n", server.port, openssh(&server.host_key)))
                .collect();
            let client = Client::new().known_text(&known);
            let path = client.write_key("key", &key);
            let mut client = client.config(&format!(
                "Host one\n HostName 127.0.0.1\n Port {}\n IdentityFile {path}\nHost two\n HostName 127.0.0.1\n \
                 Port {}\n IdentityFile {path}\n",
                first.port, second.port
            ));
            let vars = [
                ("ansible_ssh_private_key_file", path.as_str()),
                ("ansible_ssh_common_args", "-J one,you@two"),
            ];
            for server in &servers[2..] {
                assert_eq!(client.hello(server.port, &vars).await, "hello");
            }
            let connections =
                |server: &Server| server.seen().iter().filter(|what| *what == "connected").count();
            assert_eq!((connections(first), connections(second)), (1, 1));
            assert_eq!(second.seen().iter().filter(|what| *what == "to 127.0.0.1").count(), 2);

            let proxy = format!("-o ProxyCommand='ssh -q -W %h:%p -i {path} -p {} me@127.0.0.1'", first.port);
            let disguised = [
                ("ansible_ssh_private_key_file", path.as_str()),
                ("ansible_ssh_common_args", proxy.as_str()),
            ];
            for server in &servers[2..] {
                assert_eq!(client.hello(server.port, &disguised).await, "hello");
            }
            assert_eq!(connections(first), 2, "one more, shared by both");

            let gone = free_port();
            let error = client.hello(gone, &vars).await;
            assert!(
                error.contains("by way of jump host you@two: it could not connect to 127.0.0.1"),
                "{error}"
            );
            let vars = [
                ("ansible_ssh_private_key_file", path.as_str()),
                ("ansible_ssh_common_args", "-J nowhere.invalid"),
            ];
            let error = client.hello(servers[2].port, &vars).await;
            assert!(error.contains("by way of jump host nowhere.invalid: could not resolve"), "{error}");
        });
    }

    #[test]
    fn few_connect_through_a_jump_host_at_once() {
        run(async {
            let key = new_key();
            let jump = Server::start(rules_for(&key)).await;
            // Says nothing: whoever comes through waits for its name, and holds a place.
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let silent = listener.local_addr().expect("an address").port().to_string();
            let came = Arc::new(std::sync::atomic::AtomicUsize::new(0));
            let count = came.clone();
            let door = tokio::spawn(async move {
                let mut held = Vec::new();
                while let Ok((stream, _)) = listener.accept().await {
                    count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    held.push(stream);
                }
            });
            let client = Client::new().knows(&jump);
            let path = client.write_key("key", &key);
            let config =
                format!("Host jump\n HostName 127.0.0.1\n Port {}\n IdentityFile {path}\n", jump.port);
            let client = client.config(&config);
            let settings = Settings { per_jump_host: 3, ..client.settings.clone() };
            let transports = Transports::new(settings.clone(), Box::new(NoPrompter));
            let vars = [
                ("ansible_host", "127.0.0.1"),
                ("ansible_port", silent.as_str()),
                ("ansible_ssh_common_args", "-J jump"),
                ("ansible_ssh_timeout", "30"),
            ];
            let mut tasks = tokio::task::JoinSet::new();
            for index in 0..12 {
                let target = target(&format!("h{index}"), &vars, &settings).expect("a target");
                let transports = transports.clone();
                tasks.spawn(async move { transports.connect(&target).await.is_ok() });
            }
            let seen = || came.load(std::sync::atomic::Ordering::SeqCst);
            let patience = std::time::Instant::now();
            while seen() < 3 && patience.elapsed() < Duration::from_secs(20) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // Time for more to come, if they could.
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(seen(), 3, "the others wait for a place");
            tasks.abort_all();
            door.abort();
        });
    }

    #[test]
    fn a_door_that_drops_some_is_tried_again() {
        run(async {
            let key = new_key();
            let server = Server::start(rules_for(&key)).await;
            // Drops whom it likes before a word is said, as an sshd does to which too many come.
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = listener.local_addr().expect("an address").port();
            let (behind, line) = (server.port, format!("[127.0.0.1]:{port} {}", openssh(&server.host_key)));
            let times: Arc<Mutex<Vec<std::time::Instant>>> = Arc::default();
            let noted = times.clone();
            let door = tokio::spawn(async move {
                while let Ok((mut near, _)) = listener.accept().await {
                    let count = {
                        let mut times = noted.lock().expect("not poisoned");
                        times.push(std::time::Instant::now());
                        times.len()
                    };
                    if count <= 2 {
                        continue;
                    }
                    let mut far =
                        tokio::net::TcpStream::connect(("127.0.0.1", behind)).await.expect("it is there");
                    tokio::spawn(async move {
                        tokio::io::copy_bidirectional(&mut near, &mut far).await.map(drop)
                    });
                }
            });
            let mut client = Client::new().known_text(&line);
            let path = client.write_key("key", &key);
            assert_eq!(client.hello(port, &[("ansible_ssh_private_key_file", &path)]).await, "hello");
            let times = times.lock().expect("not poisoned").clone();
            assert_eq!(times.len(), 3);
            let waits: Vec<u128> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
            // Half a second and then a whole one, give or take a quarter.
            assert!(waits[0] >= 375 && waits[1] >= 750, "{waits:?}");
            door.abort();
        });
    }

    #[test]
    fn a_proxy_command_is_a_way_too() {
        run(async {
            let key = new_key();
            let server = Server::start(rules_for(&key)).await;
            let mut client = Client::new().knows(&server);
            let path = client.write_key("key", &key);
            // What nc would do, with what every test machine has.
            let script = client.home.path("proxy.py");
            std::fs::write(
                &script,
                "import socket,sys,threading,os\ns=socket.create_connection((sys.argv[1],int(sys.argv[2])))\n\
                 def up():\n    while True:\n        d=os.read(0,65536)\n        if not d: s.shutdown(1); return\n        s.sendall(d)\n\
                 threading.Thread(target=up,daemon=True).start()\n\
                 while True:\n    d=s.recv(65536)\n    if not d: break\n    os.write(1,d)\n",
            )
            .expect("writable");
            let proxy = format!("-o 'ProxyCommand=python3 {} %h %p'", script.display());
            let vars = [
                ("ansible_ssh_private_key_file", path.as_str()),
                ("ansible_ssh_common_args", proxy.as_str()),
            ];
            assert_eq!(client.hello(server.port, &vars).await, "hello");
            let vars = [("ansible_ssh_common_args", "-o ProxyCommand=false")];
            let error = client.hello(server.port, &vars).await;
            assert!(error.contains("connection closed while the SSH handshake was under way"), "{error}");
        });
    }

    #[test]
    fn servers_with_bad_manners() {
        run(async {
            let manners: [(&str, &[u8], &str); 4] = [
                (
                    "garbage",
                    b"HTTP/1.1 400 Bad Request\r\n\r\n<html>\r\n",
                    "connection closed while the SSH handshake was under way",
                ),
                ("flood", &[b'x'; 4096], "what answers there does not speak SSH 2"),
                ("cut", b"SSH-2.0-cut\r\n", "connection closed while the SSH handshake was under way"),
                ("noise", b"SSH-2.0-noise\r\n\xff\xff\xff\xff\xff\xff\xff\xff", "SSH protocol error"),
            ];
            for (name, bytes, expected) in manners {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
                let port = listener.local_addr().expect("an address").port();
                let serve = tokio::spawn(async move {
                    while let Ok((mut stream, _)) = listener.accept().await {
                        let _ = stream.write_all(bytes).await;
                        // Read what comes, so that closing is no reset.
                        let mut buffer = [0; 4096];
                        let _ =
                            tokio::time::timeout(Duration::from_millis(200), stream.read(&mut buffer)).await;
                    }
                });
                let error = Client::new().hello(port, &[]).await;
                assert!(error.contains(expected), "{name}: {error}");
                serve.abort();
            }
        });
    }

    #[test]
    fn hosts_that_are_not_there_or_say_nothing() {
        run(async {
            let error = Client::new().hello(free_port(), &[]).await;
            assert!(error.contains("connection refused: is sshd running"), "{error}");
            let error = Client::new().hello(22, &[("ansible_host", "no-such-host.invalid")]).await;
            assert!(error.contains("could not resolve the host name no-such-host.invalid"), "{error}");
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = listener.local_addr().expect("an address").port();
            let started = std::time::Instant::now();
            let error = Client::new().hello(port, &[("ansible_ssh_timeout", "1")]).await;
            assert!(error.contains("no answer within 1 s while waiting for the SSH handshake"), "{error}");
            assert!(started.elapsed() < Duration::from_secs(5));
        });
    }

    #[test]
    fn a_line_cut_in_the_middle_is_lost_not_ended() {
        run(async {
            let key = new_key();
            let server = Server::start(rules_for(&key)).await;
            let mut client = Client::new().knows(&server);
            let path = client.write_key("key", &key);
            let connection = client
                .connect(server.port, &[("ansible_ssh_private_key_file", &path)])
                .await
                .expect("it connects");
            let mut pipe = open_as(&*connection, None, "echo CUT THE LINE").await.expect("it starts");
            let mut text = String::new();
            let error = pipe.stdout.read_to_string(&mut text).await.expect_err("it is cut");
            let error = TransportError::from_io(&error).expect("typed").clone();
            assert_eq!(error.class(), Class::Unreachable, "{error}");
            assert!(matches!(pipe.exit.await, ExitStatus::Lost(_)));
            let error = connection.open("true").await.expect_err("it is gone");
            assert_eq!(error.class(), Class::Unreachable, "{error}");
            assert!(connection.is_closed());
        });
    }

    #[test]
    fn hundreds_at_once_take_no_threads() {
        run(async {
            let key = new_key();
            let server = Server::start(rules_for(&key)).await;
            let client = Client::new().knows(&server);
            let path = client.write_key("key", &key);
            let port = server.port.to_string();
            let vars = [
                ("ansible_host", "127.0.0.1"),
                ("ansible_port", port.as_str()),
                ("ansible_ssh_private_key_file", path.as_str()),
                ("ansible_ssh_timeout", "50"),
            ];
            let transports = Transports::new(client.settings.clone(), Box::new(NoPrompter));
            let threads = || std::fs::read_dir("/proc/self/task").expect("proc").count();
            let before = threads();
            let mut tasks = tokio::task::JoinSet::new();
            for index in 0..200 {
                let target = target(&format!("h{index}"), &vars, &client.settings).expect("a target");
                let transports = transports.clone();
                tasks.spawn(
                    async move { transports.connect(&target).await.map_err(|error| error.to_string()) },
                );
            }
            let mut connections = Vec::new();
            while let Some(connection) = tasks.join_next().await {
                connections.push(connection.expect("no panic").expect("it connects"));
            }
            assert_eq!(connections.len(), 200);
            // Other tests start threads of their own meanwhile, but not hundreds.
            assert!(threads() < before + 100, "{} threads", threads());
        });
    }

    #[test]
    fn much_goes_either_way_without_being_kept() {
        run(async {
            let key = new_key();
            let server = Server::start(rules_for(&key)).await;
            let mut client = Client::new().knows(&server);
            let path = client.write_key("key", &key);
            let connection = client
                .connect(server.port, &[("ansible_ssh_private_key_file", &path)])
                .await
                .expect("it connects");
            const TOTAL: usize = 24 << 20;
            // A program that takes its time: the writer has to wait for it.
            let pipe = open_as(&*connection, None, "sleep 1; wc -c").await.expect("it starts");
            let Pipe { mut stdin, mut stdout, exit, guard, .. } = pipe;
            let writer = tokio::spawn(async move {
                let chunk = vec![7; 1 << 16];
                for _ in 0..TOTAL / chunk.len() {
                    stdin.write_all(&chunk).await.expect("writable");
                }
                stdin.shutdown().await.expect("it ends");
            });
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert!(!writer.is_finished(), "everything was buffered");
            let mut text = String::new();
            stdout.read_to_string(&mut text).await.expect("readable");
            assert_eq!((text.trim(), exit.await), (TOTAL.to_string().as_str(), ExitStatus::Code(0)));
            drop(guard);
            // A reader that takes its time: the program has to wait for it.
            let flag = client.home.path("done");
            let command = format!("head -c {TOTAL} /dev/zero; touch {}", flag.display());
            let mut pipe = open_as(&*connection, None, &command).await.expect("it starts");
            pipe.stdout.read_exact(&mut [0]).await.expect("it has begun");
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert!(!flag.exists(), "everything was buffered");
            let mut total = 1;
            let mut buffer = vec![0; 1 << 16];
            loop {
                match pipe.stdout.read(&mut buffer).await.expect("readable") {
                    0 => break,
                    count => total += count,
                }
            }
            assert_eq!((total, pipe.exit.await), (TOTAL, ExitStatus::Code(0)));
        });
    }
}

/// Real sudo, su and doas, and real login shells, in a mount namespace with users of its own.
mod identities {
    use super::*;

    /// Users: `tester` may become anybody with a password, `free` without, `tty` only on a terminal,
    /// `mallory` not at all. Each has `NAME-pw` as password. `tester`'s shell greets everybody.
    const SETUP: &str = r#"
        mkdir t; mount -t tmpfs tmpfs t; mkdir t/up t/work t/home
        mount -t overlay overlay -o lowerdir=/etc,upperdir=$PWD/t/up,workdir=$PWD/t/work /etc
        mount -t tmpfs tmpfs /run; mkdir /run/sshd
        chmod 755 . t t/home
        number=60000
        add() {
            number=$((number + 1)); mkdir t/home/$1
            echo "$1:x:$number:$number::$PWD/t/home/$1:$2" >> /etc/passwd
            echo "$1:$(openssl passwd -6 $1-pw):19000:0:99999:7:::" >> /etc/shadow
            echo "$1:x:$number:" >> /etc/group
            chown $number:$number t/home/$1
        }
        add tester /bin/bash; add free /bin/sh; add tty /bin/sh; add mallory /bin/sh; add deploy /bin/sh
        for shell in fish tcsh zsh ksh; do
            if command -v $shell >/dev/null; then add $shell $(command -v $shell); fi
        done
        echo 'echo WELCOME TO THE MACHINE; echo Password: >&2' > t/home/tester/.bashrc
        cat > /etc/sudoers <<'END'
Defaults lecture=always
Defaults:tty requiretty
tester ALL=(ALL) ALL
free ALL=(ALL) NOPASSWD: ALL
tty ALL=(ALL) NOPASSWD: ALL
END
        chmod 440 /etc/sudoers
        printf 'permit tester\npermit nopass free\n' > /etc/doas.conf
    "#;

    struct Machine {
        sshd: Sshd,
        home: Home,
        key: String,
        transports: Transports,
    }

    impl Machine {
        fn start() -> Option<Machine> {
            if !rustix::process::getuid().is_root() {
                skipped("sudo, su and doas are tested by root, who can make users in a namespace");
                return None;
            }
            for program in ["unshare", "openssl", "sudo", "su"] {
                if Command::new(program)
                    .arg("--version")
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()
                    .is_err()
                {
                    skipped(&format!("there is no {program}"));
                    return None;
                }
            }
            let home = Home::new();
            let key = home.key("key", "ed25519", "");
            let sshd = Sshd::start_in(
                &[&public(&key)],
                "UsePAM yes\nKbdInteractiveAuthentication yes\n",
                Some(SETUP),
            )?;
            sshd.make_known(&home);
            let transports = Transports::new(home.settings(), Box::new(NoPrompter));
            Some(Machine { sshd, home, key: key.display().to_string(), transports })
        }

        async fn login(&self, user: &str) -> Box<dyn Connection> {
            let port = self.sshd.port.to_string();
            let mut vars = self.sshd.vars(&port, &self.key);
            vars.push(("ansible_user", user));
            let target = target("machine", &vars, &self.home.settings()).expect("a target");
            self.transports.connect(&target).await.expect("it connects")
        }

        /// `id -un` and an echo of binary input, as somebody else; or the error.
        async fn become_and_echo(&self, login: &str, r#become: Option<&Become>) -> String {
            let connection = self.login(login).await;
            let pipe = match open_as(&*connection, r#become, "id -un; head -c 1024").await {
                Ok(pipe) => pipe,
                Err(error) => return error.cause.to_string(),
            };
            let input: Vec<u8> = (0..1024_u32).map(|number| number as u8).collect();
            let Pipe { mut stdin, mut stdout, stderr, exit, guard } = pipe;
            drop(stderr);
            let mut out = Vec::new();
            let (_, read) = tokio::join!(
                async {
                    // It may have failed already; the read tells.
                    let _ = stdin.write_all(&input).await;
                },
                stdout.read_to_end(&mut out)
            );
            if let Err(error) = read {
                return TransportError::from_io(&error)
                    .map_or_else(|| error.to_string(), |e| e.cause.to_string());
            }
            let status = exit.await;
            drop((guard, stdin));
            let end = out.len().saturating_sub(input.len());
            if out[end..] != input {
                return format!("garbled: {}", String::from_utf8_lossy(&out));
            }
            format!("{} {status}", String::from_utf8_lossy(&out[..end]).trim())
        }
    }

    fn r#become(method: Method, user: &str, password: Option<&str>) -> Become {
        Become { method, user: user.to_owned(), password: password.map(Secret::new), exe: None, flags: None }
    }

    #[test]
    fn sudo_su_and_doas() {
        let Some(machine) = Machine::start() else { return };
        let doas = Path::new("/usr/bin/doas").exists();
        if !doas {
            skipped("there is no doas");
        }
        run(async {
            use Method::{Doas, Su, Sudo};
            let cases = [
                ("tester", Sudo, "root", Some("tester-pw"), "root exit code 0"),
                ("tester", Sudo, "deploy", Some("tester-pw"), "deploy exit code 0"),
                ("tester", Sudo, "root", Some("nope"), "sudo: wrong password for becoming root"),
                ("tester", Sudo, "root", None, "sudo: a password is needed to become root"),
                ("tester", Sudo, "nobody-here", Some("tester-pw"), "sudo: there is no user nobody-here"),
                ("free", Sudo, "root", None, "root exit code 0"),
                ("free", Sudo, "root", Some("not-needed"), "root exit code 0"),
                ("free", Sudo, "nobody-here", None, "sudo: there is no user nobody-here"),
                ("tty", Sudo, "root", None, "sudo insists on a terminal"),
                ("mallory", Sudo, "root", Some("mallory-pw"), "sudo: the login user may not become root"),
                ("tester", Su, "deploy", Some("deploy-pw"), "deploy exit code 0"),
                ("tester", Su, "deploy", Some("nope"), "su: wrong password for becoming deploy"),
                ("tester", Su, "deploy", None, "su: a password is needed to become deploy"),
                ("tester", Su, "nobody-here", Some("x"), "su: there is no user nobody-here"),
                ("tester", Doas, "root", Some("tester-pw"), "root exit code 0"),
                ("tester", Doas, "deploy", Some("tester-pw"), "deploy exit code 0"),
                ("tester", Doas, "root", Some("nope"), "doas: wrong password"),
                ("tester", Doas, "root", None, "doas: a password is needed to become root"),
                ("free", Doas, "root", None, "root exit code 0"),
                ("mallory", Doas, "root", None, "doas: the login user may not become root"),
            ];
            let mut wrong = Vec::new();
            for (login, method, user, password, expected) in cases {
                if method == Doas && !doas {
                    continue;
                }
                let result = machine.become_and_echo(login, Some(&r#become(method, user, password))).await;
                if !result.starts_with(expected) {
                    wrong.push(format!("{login} {method:?} {user} {password:?}: {result}"));
                }
            }
            assert!(wrong.is_empty(), "{wrong:#?}");
            let elsewhere = Become { exe: Some("/opt/bin/sudo".into()), ..r#become(Sudo, "root", None) };
            let result = machine.become_and_echo("free", Some(&elsewhere)).await;
            assert!(result.starts_with("/opt/bin/sudo is not installed on the host"), "{result}");
            let flagged =
                Become { flags: Some("-H -S -n -E".into()), ..r#become(Sudo, "root", Some("tester-pw")) };
            assert_eq!(machine.become_and_echo("tester", Some(&flagged)).await, "root exit code 0");
            let trick = Become { exe: Some("sudo su -".into()), ..r#become(Su, "deploy", Some("tester-pw")) };
            assert_eq!(machine.become_and_echo("tester", Some(&trick)).await, "deploy exit code 0");
            let sneaky = r#become(Sudo, "-u", None);
            let result = machine.become_and_echo("free", Some(&sneaky)).await;
            assert!(result.contains("must not begin with a dash"), "{result}");
        });
    }

    #[test]
    fn passwords_are_nowhere_to_be_seen() {
        let Some(machine) = Machine::start() else { return };
        run(async {
            let connection = machine.login("tester").await;
            let command = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep -c 'tester-p[w]'";
            let pipe =
                open_as(&*connection, Some(&r#become(Method::Sudo, "root", Some("tester-pw"))), command)
                    .await
                    .expect("it starts");
            assert_eq!(finish(pipe, b"").await.0, "0\n");
        });
    }

    #[test]
    fn the_locale_is_given_back() {
        let Some(machine) = Machine::start() else { return };
        run(async {
            for (method, login, password) in
                [(Method::Sudo, "free", None), (Method::Su, "tester", Some("deploy-pw"))]
            {
                let connection = machine.login(login).await;
                let pipe = open_as(
                    &*connection,
                    Some(&r#become(method, "deploy", password)),
                    "echo \"<${LC_ALL-unset}>\"",
                )
                .await
                .expect("it starts");
                assert_eq!(finish(pipe, b"").await.0, "<unset>\n", "{method:?}");
            }
        });
    }

    #[test]
    fn any_login_shell_will_do() {
        let Some(machine) = Machine::start() else { return };
        run(async {
            let mut tried = 0;
            for (user, shell) in [
                ("fish", "/usr/bin/fish"),
                ("tcsh", "/usr/bin/tcsh"),
                ("zsh", "/usr/bin/zsh"),
                ("ksh", "/usr/bin/ksh"),
                ("tester", "/bin/bash"),
                ("free", "/bin/sh"),
            ] {
                if !Path::new(shell).exists() {
                    skipped(&format!("there is no {shell}"));
                    continue;
                }
                tried += 1;
                let connection = machine.login(user).await;
                let script = "x='a b'; echo \"it's $x! \\$HOME\"\nif true; then echo `echo yes`; fi; exit 4";
                let result = run_command(&*connection, script, b"").await;
                assert_eq!(
                    (result.0.as_str(), result.2),
                    ("it's a b! $HOME\nyes\n", ExitStatus::Code(4)),
                    "{user}"
                );
                assert_eq!(machine.become_and_echo(user, None).await, format!("{user} exit code 0"));
                let su = r#become(Method::Su, user, Some(&format!("{user}-pw")));
                if user != "tester" {
                    assert_eq!(
                        machine.become_and_echo("mallory", Some(&su)).await,
                        format!("{user} exit code 0")
                    );
                }
            }
            assert!(tried >= 2);
        });
    }

    #[test]
    fn pam_takes_passwords() {
        let Some(machine) = Machine::start() else { return };
        run(async {
            let port = machine.sshd.port.to_string();
            for (password, options, expected) in [
                ("mallory-pw", "", "mallory"),
                ("mallory-pw", "-o PreferredAuthentications=keyboard-interactive", "mallory"),
                (
                    "nope",
                    "",
                    "authentication failed for user mallory: tried password, keyboard-interactive; the host accepts publickey, password, keyboard-interactive",
                ),
            ] {
                let vars = [
                    ("ansible_host", "127.0.0.1"),
                    ("ansible_port", port.as_str()),
                    ("ansible_user", "mallory"),
                    ("ansible_password", password),
                    ("ansible_ssh_common_args", options),
                ];
                let target = target("machine", &vars, &machine.home.settings()).expect("a target");
                let result = match machine.transports.connect(&target).await {
                    Ok(connection) => run_command(&*connection, "id -un", b"").await.0.trim().to_owned(),
                    Err(error) => error.cause.to_string(),
                };
                assert_eq!(result, expected);
            }
        });
    }
}
