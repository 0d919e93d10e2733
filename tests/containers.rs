//! Playbooks in a container (`connection: podman`) and below another root (`connection: chroot`), where there is
//! nothing but busybox; and the modules that manage containers, through podman and through what takes docker's
//! commands.
//!
//! Needs root, podman and a static busybox; without them the tests say that they were skipped.

#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use setpoint::value::Value;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/containers")
}

fn output_of(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("the program starts")
}

/// Makes a root file system of busybox alone; `None`, said aloud, where that can't be done.
fn busybox_root(test: &str, root: &Path) -> Option<()> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped {test}: needs root");
        return None;
    }
    let busybox = Path::new("/bin/busybox");
    let dynamic = || output_of(Command::new("ldd").arg(busybox)).status.success();
    if !busybox.exists() || dynamic() {
        eprintln!("skipped {test}: needs a static busybox");
        return None;
    }
    for directory in ["bin", "etc", "tmp", "root", "proc", "dev", "sys", "run", "srv", "home/app"] {
        fs::create_dir_all(root.join(directory)).expect("made");
    }
    fs::set_permissions(root.join("tmp"), PermissionsExt::from_mode(0o1777)).expect("ours");
    chown(root.join("home/app"), Some(1000), Some(1000)).expect("we are root");
    fs::copy(busybox, root.join("bin/busybox")).expect("copied");
    // Without the set-user-ID bit its `su` would work for root all the same.
    let listed = output_of(Command::new(busybox).arg("--list"));
    for applet in String::from_utf8_lossy(&listed.stdout).lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).expect("made");
    }
    let users = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:App:/home/app:/bin/sh\n";
    fs::write(root.join("etc/passwd"), users).expect("written");
    fs::write(root.join("etc/group"), "root:x:0:\napp:x:1000:\n").expect("written");
    for (name, minor) in [("null", "3"), ("zero", "5")] {
        let node = output_of(
            Command::new("mknod")
                .args(["-m", "666"])
                .arg(root.join("dev").join(name))
                .args(["c", "1", minor]),
        );
        if !node.status.success() {
            eprintln!("skipped {test}: no devices can be made here");
            return None;
        }
    }
    Some(())
}

/// A container that runs until this is dropped, with storage of its own.
struct Container {
    options: Vec<String>,
}

const NAME: &str = "setpoint-test";

impl Container {
    fn start(test: &str, root: &Path, storage: &Path) -> Option<Container> {
        if Command::new("podman").arg("--version").output().is_err() {
            eprintln!("skipped {test}: needs podman");
            return None;
        }
        // Its own limits may be higher than may be asked for here.
        let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"];
        let mut last = String::new();
        for runtime in ["crun", "runc"] {
            let mut options: Vec<String> = ["root", "runroot"]
                .iter()
                .map(|name| format!("--{name}={}", storage.join(runtime).join(name).display()))
                .collect();
            options.extend(["--storage-driver=vfs", "--cgroup-manager=cgroupfs"].map(String::from));
            options.push(format!("--runtime={runtime}"));
            let container = Container { options };
            let archive = storage.join("root.tar");
            let packed = output_of(Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&archive).arg("."));
            assert!(packed.status.success());
            let archive = archive.display().to_string();
            let imported = container.podman(&["import", "--quiet", &archive, "busybox-alone:1"]);
            let mut arguments = vec!["run", "--detach", "--name", NAME, "--network=host"];
            arguments.extend(limits);
            arguments.extend(["busybox-alone:1", "/bin/sleep", "600"]);
            let started = container.podman(&arguments);
            if imported.status.success() && started.status.success() {
                return Some(container);
            }
            last = String::from_utf8_lossy(&started.stderr).trim().to_string();
        }
        eprintln!("skipped {test}: no container starts here: {last}");
        None
    }

    fn podman(&self, arguments: &[&str]) -> Output {
        output_of(Command::new("podman").args(&self.options).args(arguments))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.podman(&["rm", "--force", "--all", "--volumes", "--time=0"]);
    }
}

/// How the tests look into a place: a shell in it.
type Shell<'a> = &'a dyn Fn(&str) -> Output;

/// Path, kind, mode, owner and content of all that is there, but for the runner's cache and what is kept for a
/// rollback: a command may change anything, so each run of one keeps what was there.
fn tree(shell: Shell<'_>) -> BTreeMap<String, String> {
    let script = "cd / && find . -xdev \\( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run -o -path '*/.cache' -o -path '*/setpoint/rollback' \\) -prune \
                  -o -print | while read -r path; do \
                  echo \"$path $(stat -c '%f %u:%g' \"$path\") $([ -f \"$path\" ] && sha256sum <\"$path\")\"; done";
    let output = shell(script);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(path, rest)| (path.into(), rest.into()))
        .collect()
}

fn differences(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let told = paths.into_iter().filter(|path| before.get(*path) != after.get(*path));
    told.map(|path| format!("{path}: {:?}, then {:?}", before.get(path), after.get(path))).collect()
}

/// Runs the program on a host named `box`, with a home of its own: its exit code, what it told, and its complaints.
/// `None`, said aloud, if this build has no runner.
fn run(
    home: &Path,
    vars: &str,
    words: &[&str],
    paths: Option<String>,
) -> Option<(Option<i32>, String, String)> {
    let inventory = home.join("inventory.ini");
    fs::write(&inventory, format!("[boxes]\nbox {vars}\n")).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_setpoint"))
        .args(words)
        .arg("-i")
        .arg(&inventory)
        .current_dir(source())
        .env_remove("ANSIBLE_CONFIG")
        .env_remove("DOCKER_HOST")
        .env("HOME", home)
        .env("ANSIBLE_NOCOLOR", "1")
        .envs(paths.map(|paths| ("PATH", paths)))
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    if told.contains("built without a runner") {
        eprintln!("skipped: this build has no runner");
        return None;
    }
    Some((output.status.code(), told, String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Runs the playbook; the line of the recap.
fn play(vars: &str, home: &Path, arguments: &[&str]) -> Option<String> {
    let (code, told, errors) = run(home, vars, &[&["run", "play.yml"], arguments].concat(), None)?;
    assert_eq!(code, Some(0), "{told}\n{errors}");
    let recap = told.lines().rfind(|line| line.starts_with("box ")).expect("a recap");
    Some(recap.split_whitespace().take(7).skip(2).collect::<Vec<_>>().join(" "))
}

/// A registry on this machine that is there until this is dropped.
struct Registry {
    server: Child,
    place: String,
}

impl Registry {
    /// Starts one; `None`, said aloud, if there is no program for it.
    fn start(test: &str, storage: &Path) -> Option<Registry> {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let place = free.local_addr().expect("bound").to_string();
        drop(free);
        let directory = storage.join("registry");
        fs::create_dir_all(&directory).expect("made");
        let settings = storage.join("registry.yml");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{place}'}}\n",
            directory.display()
        );
        fs::write(&settings, text).expect("written");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&settings).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(server) = command.spawn() else {
            eprintln!("skipped a part of {test}: needs docker-registry");
            return None;
        };
        let registry = Registry { server, place };
        for _ in 0..100 {
            if TcpStream::connect(&registry.place).is_ok() {
                return Some(registry);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the registry does not answer");
    }

    /// What it answers to a question.
    fn ask(&self, path: &str) -> String {
        let mut connection = TcpStream::connect(&self.place).expect("it is there");
        write!(connection, "GET {path} HTTP/1.0\r\n\r\n").expect("asked");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("answered");
        answer
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Runs `engine.yml`: the tasks that changed something. `None`, said aloud, if this build has no runner.
fn manage(home: &Path, arguments: &[String], more: &[&str]) -> Option<BTreeSet<String>> {
    let paths = format!("{}:{}", home.display(), std::env::var("PATH").expect("it is set"));
    let mut words = vec!["run", "engine.yml", "--output", "json"];
    words.extend(arguments.iter().map(String::as_str).chain(more.iter().copied()));
    let (code, told, errors) = run(home, "ansible_connection=local", &words, Some(paths))?;
    let mut changed = BTreeSet::new();
    for line in told.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let text = |name: &str| event.get(name).map(Value::to_text).unwrap_or_default();
        if text("event") == "result" && text("changed").eq_ignore_ascii_case("true") {
            changed.insert(text("task"));
        }
    }
    let failed: Vec<&str> = told.lines().filter(|line| line.contains("\"failed\"")).collect();
    assert_eq!(code, Some(0), "{}\n{errors}", failed.join("\n"));
    Some(changed)
}

/// A dry run changes nothing and foretells the run; a second run changes nothing.
fn keeps_the_contract(vars: &str, shell: Shell<'_>) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let before = tree(shell);
    let Some(foretold) = play(vars, home.path(), &["--check", "--diff"]) else { return };
    assert_eq!(differences(&before, &tree(shell)), Vec::<String>::new(), "a dry run changed something");
    assert_eq!(play(vars, home.path(), &[]).as_deref(), Some(foretold.as_str()));
    assert_eq!(foretold, "ok=8 changed=6 unreachable=0 failed=0 skipped=0");
    let after = tree(shell);
    let said =
        String::from_utf8_lossy(&shell("cat /srv/app/told; stat -c %u /home/app/file").stdout).into_owned();
    assert_eq!(said, "on Linux, as root\n1000\n");
    let again = play(vars, home.path(), &[]);
    assert_eq!(again.as_deref(), Some("ok=7 changed=0 unreachable=0 failed=0 skipped=0"));
    assert_eq!(differences(&after, &tree(shell)), Vec::<String>::new(), "a second run changed something");
}

#[test]
fn a_container_needs_no_more_than_a_shell() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let root = place.path().join("root");
    let test = "a_container_needs_no_more_than_a_shell";
    let Some(()) = busybox_root(test, &root) else { return };
    let Some(container) = Container::start(test, &root, place.path()) else { return };
    let vars = format!(
        "ansible_connection=podman ansible_host={NAME} ansible_become_method=su ansible_podman_extra_args='{}'",
        container.options.join(" ")
    );
    keeps_the_contract(&vars, &|script| container.podman(&["exec", NAME, "/bin/sh", "-c", script]));
}

/// podman stands for docker too: it takes the same commands, but tells of things in its own way. All that a task
/// may give is given, so that what is told differently would be found to differ for ever.
#[test]
fn what_is_asked_of_an_engine_for_containers_is_made_once() {
    let test = "what_is_asked_of_an_engine_for_containers_is_made_once";
    let place = tempfile::tempdir().expect("a temporary directory");
    let root = place.path().join("root");
    let Some(()) = busybox_root(test, &root) else { return };
    let Some(container) = Container::start(test, &root, place.path()) else { return };
    let home = place.path().join("home");
    fs::create_dir_all(home.join("context")).expect("made");
    fs::write(home.join("context/file"), "content\n").expect("written");
    let image = "localhost/busybox-alone:1";
    let recipe = format!("FROM {image}\nARG NOTE\nLABEL note=$NOTE\nCOPY file /srv/file\n");
    fs::write(home.join("context/Dockerfile"), recipe).expect("written");
    // Networks of root's are not kept with its storage.
    let settings = format!(
        "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1000:1000\"]\n[network]\nnetwork_config_dir = \"{}\"\n",
        place.path().join("networks").display()
    );
    fs::write(home.join("containers.conf"), settings).expect("written");
    let registry = Registry::start(test, place.path());
    let location = registry.as_ref().map_or("127.0.0.1:1", |registry| registry.place.as_str());
    let registries = format!("[[registry]]\nlocation = \"{location}\"\ninsecure = true\n");
    fs::write(home.join("registries.conf"), registries).expect("written");
    let docker = home.join("docker");
    let script = format!(
        "#!/bin/sh\ncd {}\nexport CONTAINERS_CONF=$PWD/containers.conf CONTAINERS_REGISTRIES_CONF=$PWD/registries.conf\nexec podman {} \"$@\"\n",
        home.display(),
        container.options.join(" ")
    );
    fs::write(&docker, script).expect("written");
    fs::set_permissions(&docker, PermissionsExt::from_mode(0o755)).expect("ours");
    let all = || -> String {
        let lists: [&[&str]; 4] = [
            &["ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Exited}}"],
            &["images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"],
            &["volume", "ls", "--format", "{{.Name}} {{.Labels}}"],
            &["network", "ls", "--no-trunc", "--format", "{{.ID}} {{.Name}}"],
        ];
        let said = |words: &&[&str]| {
            String::from_utf8_lossy(&output_of(Command::new(&docker).args(*words)).stdout).into_owned()
        };
        let files = output_of(Command::new("ls").arg("-l").arg(&home).args(["-I", "inventory.ini"]));
        lists.iter().map(said).collect::<String>() + &String::from_utf8_lossy(&files.stdout)
    };
    for name in
        registry.iter().flat_map(|registry| [1, 2].map(|tag| format!("{}/there:{tag}", registry.place)))
    {
        for words in [vec!["tag", image, &name], vec!["push", &name], vec!["image", "rm", &name]] {
            let output = output_of(Command::new(&docker).args(&words));
            assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let paths = format!("{}:{}", home.display(), std::env::var("PATH").expect("it is set"));
    for generation in 1..=2 {
        let mut variables = vec![
            format!("generation={generation}"),
            format!("image={image}"),
            format!("place={}", home.display()),
            format!("podman={}", docker.display()),
        ];
        variables.extend(registry.as_ref().map(|registry| format!("registry={}", registry.place)));
        let arguments: Vec<String> =
            variables.into_iter().flat_map(|pair| ["-e".to_string(), pair]).collect();
        let before = all();
        let Some(foretold) = manage(&home, &arguments, &["--check", "--diff"]) else { return };
        assert_eq!(all(), before, "a dry run changed something");
        let mut made = manage(&home, &arguments, &[]).expect("there is a runner");
        made.retain(|task| !task.ends_with("(uncertain)"));
        assert_eq!(foretold, made, "generation {generation}");
        assert!(made.len() >= 10, "{made:?}");
        if let Some(registry) = &registry {
            let tags = registry.ask("/v2/ours/tags/list");
            assert!(tags.contains(&format!("\"{generation}\"")), "{tags}");
        }
        let back = |more: &[&str]| {
            let words = [&["rollback", "last"], more].concat();
            run(&home, "ansible_connection=local", &words, Some(paths.clone())).expect("there is a runner")
        };
        if generation == 1 {
            let (code, told, errors) = back(&[]);
            assert_eq!(code, Some(0), "{told}\n{errors}");
            assert_eq!(all(), before, "a rollback left something: {told}");
            let anew = manage(&home, &arguments, &[]).expect("there is a runner");
            assert_eq!(anew.iter().filter(|task| !task.ends_with("(uncertain)")).count(), made.len());
        } else {
            // A container that was made anew can't be had back, and that is said beforehand.
            let (_, told, errors) = back(&["--check"]);
            let (_, impossible) = told.split_once("can't be taken back").expect(&errors);
            assert!(impossible.contains("container process"), "{told}");
        }
        let again = manage(&home, &arguments, &[]).expect("there is a runner");
        assert_eq!(again, BTreeSet::new(), "a second run of generation {generation} changed something");
    }
}

#[test]
fn another_root_needs_no_more_than_a_shell() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let root = place.path().join("root");
    let Some(()) = busybox_root("another_root_needs_no_more_than_a_shell", &root) else { return };
    let vars = format!("ansible_connection=chroot ansible_host={} ansible_become_method=su", root.display());
    keeps_the_contract(&vars, &|script| {
        output_of(Command::new("chroot").arg(&root).args(["/bin/sh", "-c", script]))
    });
}
