//! The architecture's arrows, as a test: who may name whom, and which crates are named in one place only.

use std::fs;
use std::path::{Path, PathBuf};

/// Every Rust file below a directory.
fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("readable directory") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("UTF-8");
            (path.strip_prefix(root.join("src")).expect("below src").to_string_lossy().into_owned(), text)
        })
        .collect()
}

/// The room that a file belongs to.
fn room(file: &str) -> &str {
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs")
}

/// Lines of code, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn arrows_point_down() {
    // Room → rooms that it may use. What is not listed may use anything.
    let allowed: &[(&str, &[&str])] = &[
        ("value", &[]),
        ("diagnostic", &["value"]),
        ("system", &["value", "protocol"]),
        ("module", &["value", "diagnostic", "system"]),
        ("protocol", &["value", "system"]),
        ("runner", &["value", "diagnostic", "system", "module", "protocol"]),
        ("source", &["value", "diagnostic", "vault"]),
        ("vault", &["value", "diagnostic"]),
        ("inventory", &["value", "diagnostic", "source", "vault", "template"]),
        ("template", &["value", "diagnostic", "source", "vault", "module"]),
        ("playbook", &["value", "diagnostic", "source", "vault", "module"]),
        ("vars", &["value", "diagnostic", "source", "inventory", "playbook"]),
        ("transport", &["value", "diagnostic"]),
        ("session", &["value", "protocol", "system", "transport"]),
        ("event", &["value", "diagnostic", "system"]),
    ];
    let mut wrong = Vec::new();
    for (file, text) in all() {
        let Some((_, may)) = allowed.iter().find(|(name, _)| *name == room(&file)) else { continue };
        for (number, line) in code(&text) {
            for (at, _) in line.match_indices("crate::") {
                let used: String =
                    line[at + 7..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if !used.is_empty() && used != room(&file) && !may.contains(&used.as_str()) {
                    wrong.push(format!("src/{file}:{}: `{}` must not use `{used}`", number + 1, room(&file)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_big_dependency_has_one_home() {
    let homes: &[(&str, &[&str])] = &[
        ("postgres", &["state"]),
        ("rusqlite", &["state"]),
        ("russh", &["transport"]),
        ("rustls", &["state"]),
        ("tokio", &["transport"]),
        ("minijinja", &["template"]),
        ("saphyr_parser", &["source"]),
        ("clap", &["cli"]),
    ];
    let mut wrong = Vec::new();
    for (file, text) in all() {
        for (name, rooms) in homes {
            for (number, line) in code(&text) {
                let named = line.contains(&format!("{name}::")) || line.contains(&format!("use {name};"));
                if named && !rooms.contains(&room(&file)) {
                    wrong.push(format!(
                        "src/{file}:{}: `{name}` belongs to {}",
                        number + 1,
                        rooms.join(", ")
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_module_asks_for_check_mode() {
    let mut wrong = Vec::new();
    for (file, text) in all() {
        if room(&file) != "module" {
            continue;
        }
        for (number, line) in code(&text) {
            // The name of a parameter of a container.
            let line = line.replace("pull_check_mode_behavior", "");
            if line.contains("check_mode") && !line.contains('"') {
                wrong.push(format!("src/{file}:{}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "modules that ask whether they run in check mode:\n{}", wrong.join("\n"));
}

/// The part of a file that is compiled into the programs.
fn shipped(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

#[test]
fn modules_touch_the_machine_through_system_only() {
    let doors =
        ["std::fs", " fs::", "(fs::", "File::open", "std::process::Command", "std::env::", "rustix::"];
    let mut wrong = Vec::new();
    for (file, text) in all() {
        if room(&file) != "module" || file == "module/contract.rs" {
            continue;
        }
        for (number, line) in code(shipped(&text)) {
            if let Some(door) = doors.iter().find(|door| line.contains(**door)) {
                wrong.push(format!("src/{file}:{}: {door}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "modules that go round `System`:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<String> = all()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(file, _)| format!("src/{file}"))
        .collect();
    assert!(silent.is_empty(), "files that do not open with //!:\n{}", silent.join("\n"));
}

#[test]
fn nothing_is_left_undone() {
    let mut wrong = Vec::new();
    for (file, text) in all() {
        for (number, line) in code(&text) {
            for word in ["todo!(", "unimplemented!(", "dbg!("] {
                if line.contains(word) {
                    wrong.push(format!("src/{file}:{}: {word}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
