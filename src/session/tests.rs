//! The delivery script under the shells and in the places that hosts have.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::delivery::{Word, next_word, push, script};
use super::{Runner, Runners};
use crate::system::Algorithm;
use crate::system::digest::of_bytes;

/// A program that says how it was started, and then what it read.
const PROGRAM: &str = "#!/bin/sh\necho \"$* $(umask) $PWD\"\nexec cat\n";

fn runners() -> Runners {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(PROGRAM.as_bytes()).expect("memory");
    let machine = Command::new("uname").arg("-m").output().expect("there is one").stdout;
    let arch: &'static str = String::from_utf8(machine).expect("text").trim().to_string().leak();
    let runner = Runner {
        arch,
        sha256: of_bytes(Algorithm::Sha256, PROGRAM.as_bytes()).into(),
        program: PROGRAM.as_bytes().into(),
        gzip: gzip.finish().expect("memory").into(),
    };
    Runners::of(vec![runner])
}

/// How a delivery went: what was said, and what the program printed.
#[derive(Debug, PartialEq)]
struct Went {
    words: Vec<Word>,
    output: String,
}

/// Delivers as a lane does.
fn deliver(shell: &[&str], environment: &[(&str, &str)], runners: &Runners, cache: bool) -> Went {
    deliver_to(false, shell, environment, runners, cache)
}

/// The same to a host that is near, or is not.
fn deliver_to(
    near: bool,
    shell: &[&str],
    environment: &[(&str, &str)],
    runners: &Runners,
    cache: bool,
) -> Went {
    let first = b"the first words\n";
    let mut child = Command::new(shell[0])
        .args(&shell[1..])
        .arg("-c")
        .arg(script(runners, first.len(), cache))
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .envs(environment.iter().copied())
        .current_dir("/usr")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the shell starts");
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = child.stdout.take().expect("piped");
    stdin.write_all(first).expect("it reads");
    let mut came = Vec::new();
    let mut words = Vec::new();
    let mut block = [0; 4096];
    while !matches!(words.last(), Some(Word::Run | Word::Fail(_))) {
        if let Some(word) = next_word(&mut came).expect("a word") {
            if let Word::Need { arch, gzip } = &word {
                let runner = runners.for_arch(arch).expect("for this machine");
                let (line, body) = push(runner, *gzip && !near);
                stdin.write_all(line.as_bytes()).and_then(|()| stdin.write_all(&body)).expect("it reads");
            }
            words.push(word);
            continue;
        }
        let count = stdout.read(&mut block).expect("it prints");
        assert!(count > 0, "it ended after {words:?}");
        came.extend_from_slice(&block[..count]);
    }
    if words.len() > 1 && words.last() == Some(&Word::Run) {
        stdin.write_all(first).expect("it reads");
    }
    drop(stdin);
    stdout.read_to_end(&mut came).expect("it prints");
    child.wait().expect("it ends");
    Went { words, output: String::from_utf8_lossy(&came).into_owned() }
}

fn need(gzip: bool, runners: &Runners) -> Word {
    Word::Need { arch: runners.all()[0].arch.to_string(), gzip }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn shells() -> Vec<Vec<&'static str>> {
    let all: [&[&str]; 5] = [&["/bin/sh"], &["/bin/bash"], &["/bin/dash"], &["busybox", "sh"], &["/bin/ksh"]];
    all.iter()
        .filter(|shell| {
            let works = Command::new(shell[0]).args(&shell[1..]).args(["-c", "exit 0"]).status();
            works.is_ok_and(|status| status.success())
        })
        .map(|shell| shell.to_vec())
        .collect()
}

/// Where a program's own temporary directories went.
fn left_in(place: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(place).expect("there").map(|entry| entry.expect("there").path()).collect()
}

#[test]
fn it_is_pushed_once_and_then_found() {
    for shell in shells() {
        let runners = runners();
        let home = tempfile::tempdir().expect("a temporary directory");
        let environment = [("HOME", text(home.path()))];
        let pushed = deliver(&shell, &environment, &runners, true);
        let cached = deliver(&shell, &environment, &runners, true);
        assert_eq!(pushed.words, [need(true, &runners), Word::Run], "{shell:?}");
        assert_eq!(cached.words, [Word::Run], "{shell:?}");
        assert_eq!(pushed.output, cached.output);
        let (head, rest) = pushed.output.split_once('\n').expect("two lines");
        assert!(head.starts_with("--cwd /usr 0022 "), "{shell:?}: {head}");
        assert_eq!(rest, "the first words\n", "{shell:?}");
        let cache = home.path().join(".cache/setpoint");
        assert_eq!(left_in(&cache).len(), 1, "{shell:?}: nothing but the runner is left");
    }
}

#[test]
fn a_cache_that_others_could_have_filled_is_not_used() {
    let runners = runners();
    let name = format!("runner-{}", runners.all()[0].sha256);
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("it is ours");
    };
    type Prepare = fn(&Path, &str, &dyn Fn(&Path, u32));
    let cases: &[(&str, Prepare)] = &[
        ("the directory can be written by others", |cache, name, mode| {
            std::fs::write(cache.join(name), "#!/bin/sh\necho evil\n").expect("written");
            mode(&cache.join(name), 0o700);
            mode(cache, 0o777);
        }),
        ("the program can be written by others", |cache, name, mode| {
            std::fs::write(cache.join(name), "#!/bin/sh\necho evil\n").expect("written");
            mode(&cache.join(name), 0o777);
            mode(cache, 0o700);
        }),
        ("the program is a link", |cache, name, mode| {
            let other = cache.with_file_name("other");
            std::fs::write(&other, "#!/bin/sh\necho evil\n").expect("written");
            mode(&other, 0o700);
            std::os::unix::fs::symlink(&other, cache.join(name)).expect("linked");
            mode(cache, 0o700);
        }),
        ("the program belongs to somebody else", |cache, name, mode| {
            std::fs::write(cache.join(name), "#!/bin/sh\necho evil\n").expect("written");
            mode(&cache.join(name), 0o700);
            mode(cache, 0o700);
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::chown(cache.join(name), Some(65534), None).expect("we are root");
            } else {
                mode(&cache.join(name), 0o755);
            }
        }),
    ];
    for (case, prepare) in cases {
        let home = tempfile::tempdir().expect("a temporary directory");
        let cache = home.path().join(".cache/setpoint");
        std::fs::create_dir_all(&cache).expect("made");
        prepare(&cache, &name, &mode);
        let went = deliver(&["/bin/sh"], &[("HOME", text(home.path()))], &runners, true);
        assert_eq!(went.words, [need(true, &runners), Word::Run], "{case}");
        assert!(!went.output.contains("evil"), "{case}");
    }
}

#[test]
fn without_a_home_it_runs_from_a_directory_of_its_own() {
    let runners = runners();
    for home in [Some("/nonexistent"), None, Some("/proc")] {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let mut environment = vec![("TMPDIR", text(temporary.path()))];
        environment.extend(home.map(|home| ("HOME", home)));
        let went = deliver(&["/bin/sh"], &environment, &runners, false);
        assert_eq!(went.words, [need(true, &runners), Word::Run], "{home:?}");
        let (head, rest) = went.output.split_once('\n').expect("two lines");
        assert!(head.contains("--cwd /usr --remove "), "{head}");
        assert_eq!(rest, "the first words\n");
        // The runner removes the directory; this program does not.
        assert_eq!(left_in(temporary.path()).len(), 1);
    }
}

#[test]
fn a_file_system_that_runs_nothing_or_is_full_is_passed_over() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let runners = runners();
    for options in ["noexec", "size=4k", "ro"] {
        let home = tempfile::tempdir().expect("a temporary directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(home.path())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            // Within a container that may not mount.
            return;
        }
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let environment = [("HOME", text(home.path())), ("TMPDIR", text(temporary.path()))];
        let went = deliver(&["/bin/sh"], &environment, &runners, true);
        let unmounted = Command::new("umount").arg(home.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
        assert_eq!(went.words, [need(true, &runners), Word::Run], "{options}");
        if options != "size=4k" {
            assert!(went.output.contains("--remove"), "{options}: {}", went.output);
        }
    }
}

#[test]
fn to_a_near_host_it_is_sent_as_it_is() {
    for shell in shells() {
        let runners = runners();
        let home = tempfile::tempdir().expect("a temporary directory");
        let went = deliver_to(true, &shell, &[("HOME", text(home.path()))], &runners, true);
        assert_eq!(went.words, [need(true, &runners), Word::Run], "{shell:?}");
        assert!(went.output.ends_with("the first words\n"), "{shell:?}: {}", went.output);
        let name = format!("runner-{}", runners.all()[0].sha256);
        let kept = std::fs::read(home.path().join(".cache/setpoint").join(name)).expect("kept");
        assert_eq!(kept, PROGRAM.as_bytes(), "{shell:?}");
    }
}

#[test]
fn without_gzip_it_is_sent_plain() {
    let runners = runners();
    let home = tempfile::tempdir().expect("a temporary directory");
    let tools = tempfile::tempdir().expect("a temporary directory");
    for tool in ["sh", "cat", "dd", "ls", "mkdir", "mv", "rm", "chmod", "uname", "wc", "id", "mktemp"] {
        let found =
            ["/bin", "/usr/bin"].iter().map(|dir| Path::new(dir).join(tool)).find(|path| path.exists());
        std::os::unix::fs::symlink(found.expect("a usual tool"), tools.path().join(tool)).expect("linked");
    }
    // Neither gzip nor head nor sha256sum.
    let environment = [("HOME", text(home.path())), ("PATH", text(tools.path()))];
    let went = deliver(&["/bin/sh"], &environment, &runners, true);
    assert_eq!(went.words, [need(false, &runners), Word::Run]);
    assert!(went.output.ends_with("the first words\n"));
}

#[test]
fn words_are_told_from_noise() {
    let cases: &[(&str, Result<Option<Word>, &str>)] = &[
        ("RUN\nrest", Ok(Some(Word::Run))),
        ("RU", Ok(None)),
        ("NEED mips plain\n", Ok(Some(Word::Need { arch: "mips".into(), gzip: false }))),
        ("FAIL no room here\n", Ok(Some(Word::Fail("no room here".into())))),
        ("This account is closed.\n", Err("This account is closed.")),
    ];
    for (text, expected) in cases {
        let mut bytes = text.as_bytes().to_vec();
        assert_eq!(next_word(&mut bytes), expected.clone().map_err(String::from), "{text:?}");
    }
    assert!(next_word(&mut vec![b'x'; 5000]).is_err());
}
