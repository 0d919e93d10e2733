//! `deb822_repository`: sources of packages in apt's newer form.

use std::path::{Path, PathBuf};

use crate::module::files::{self, Mode};
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, host};
use crate::system::{Applied, Attributes, Content, System, WriteOptions};
use crate::value::Value;

/// Adds and removes sources of packages.
pub const MODULE: Module = Module {
    name: "ansible.builtin.deb822_repository",
    summary: "Add or remove a source of packages, in apt's newer form",
    description: "Writes `/etc/apt/sources.list.d/<name>.sources`, and with `signed_by` the key to \
        `/etc/apt/keyrings`. The lists of packages are not fetched: do that with `apt` and `update_cache`.",
    example: "- ansible.builtin.deb822_repository:\n    name: example\n    types: deb\n    uris: https://apt.example.com\n    suites: stable\n    components: main\n    signed_by: https://apt.example.com/key.asc\n",
    scope: Scope::World,
    params: &[
        Param::new("name", Type::Str, "Name of the source.").required(),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("types", Type::List, "Kinds of packages.").choices(&["deb", "deb-src"]).default("deb"),
        Param::new("uris", Type::List, "Addresses."),
        Param::new("suites", Type::List, "Releases, or paths that end in `/`."),
        Param::new("components", Type::List, "Parts of the releases."),
        Param::new("architectures", Type::List, "Kinds of processors."),
        Param::new("languages", Type::List, "Languages of descriptions."),
        Param::new("targets", Type::List, "What is fetched."),
        Param::new(
            "signed_by",
            Type::Str,
            "The key: an address, a file on the host, its text, or its fingerprint.",
        ),
        Param::new("enabled", Type::Bool, "Whether it is used."),
        Param::new("trusted", Type::Bool, "Use it without verification."),
        Param::new("allow_insecure", Type::Bool, "Use it without a signature."),
        Param::new("allow_weak", Type::Bool, "Accept weak signatures."),
        Param::new("allow_downgrade_to_insecure", Type::Bool, "Accept that signatures have gone."),
        Param::new("by_hash", Type::Bool, "Fetch files by their digest."),
        Param::new("check_date", Type::Bool, "Check the time of the lists."),
        Param::new("check_valid_until", Type::Bool, "Check until when the lists are valid."),
        Param::new("date_max_future", Type::Int, "Seconds that the lists may be from the future."),
        Param::new("inrelease_path", Type::Str, "Where the signed list is."),
        Param::new("pdiffs", Type::Bool, "Fetch differences of lists."),
        Param::new("mode", Type::Raw, "Permissions of the file.").default("0644"),
    ],
    returns: &[("repo", "The file's content."), ("dest", "The file."), ("key_filename", "The key's file.")],
    run,
    ..Module::DEFAULT
};

/// Fields in the order in which they are written.
const FIELDS: [&str; 20] = [
    "allow_downgrade_to_insecure",
    "allow_insecure",
    "allow_weak",
    "architectures",
    "by_hash",
    "check_date",
    "check_valid_until",
    "components",
    "date_max_future",
    "enabled",
    "inrelease_path",
    "languages",
    "name",
    "pdiffs",
    "signed_by",
    "suites",
    "targets",
    "trusted",
    "types",
    "uris",
];

/// A name as it can stand in a path.
fn slug(name: &str) -> String {
    let lower = name.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| c == '_' || c.is_whitespace()).filter(|word| !word.is_empty()).collect();
    words.join("-").chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-').collect()
}

fn field_name(name: &str) -> String {
    match name {
        "name" => "X-Repolib-Name".into(),
        "uris" => "URIs".into(),
        _ => {
            let part = |part: &str| part[..1].to_ascii_uppercase() + &part[1..];
            name.split('_').map(part).collect::<Vec<_>>().join("-")
        }
    }
}

fn field_text(value: &Value) -> String {
    match value {
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::List(items) => items.iter().map(Value::to_text).collect::<Vec<_>>().join(" "),
        other => other.to_text(),
    }
}

/// A value of several lines, each but the first indented, empty ones as a dot.
fn multiline(text: &str) -> String {
    let lines = text
        .trim()
        .lines()
        .map(|line| if line.trim().is_empty() { " .".into() } else { format!(" {}", line.trim()) });
    format!("\n{}", lines.collect::<Vec<_>>().join("\n"))
}

fn run(given: Value, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let map = given.as_map().cloned().unwrap_or_default();
    let text = |name: &str| map.get(name).map(Value::to_text).unwrap_or_default();
    let slug = slug(&text("name"));
    let file = PathBuf::from(format!("/etc/apt/sources.list.d/{slug}.sources"));
    let shown = file.to_string_lossy().into_owned();
    let keys = ["asc", "gpg"].map(|kind| PathBuf::from(format!("/etc/apt/keyrings/{slug}.{kind}")));
    let outcome = Outcome::default().set("dest", shown.as_str());
    if text("state") == "absent" {
        let mut key_name = Value::Null;
        for path in keys.iter().chain([&file]) {
            if system.stat(path)?.is_some() {
                system.remove(path)?;
                if *path != file {
                    key_name = path.to_string_lossy().into_owned().into();
                }
            }
        }
        system.applied(Applied { kind: "file".into(), id: shown, state: Value::Null });
        return Ok(outcome.set("repo", Value::Null).set("key_filename", key_name));
    }
    let mut key_name = Value::Null;
    let mut content = String::new();
    for name in FIELDS {
        let Some(value) = map.get(name).filter(|value| !value.is_null()) else { continue };
        let mut value = field_text(value);
        if name == "signed_by"
            && let Some(path) = key_file(&value, &keys, system)?
        {
            key_name = path.as_str().into();
            value = path;
        }
        let value = if value.contains('\n') { multiline(&value) } else { format!(" {value}") };
        content.push_str(&format!("{}:{value}\n", field_name(name)));
    }
    let mode =
        map.get("mode").map(Mode::parse).transpose()?.and_then(|mode| mode.bits(0o644, false, 0o022, None));
    let before = system.stat(&file)?;
    if host::read_text(&file, system).as_deref() != Some(content.as_str()) {
        let attributes = Attributes { mode, ..Attributes::default() };
        let bytes = Content::Bytes(content.clone().into_bytes());
        system.write(&file, &bytes, &attributes, WriteOptions::default())?;
    } else if mode.is_some_and(|mode| before.is_some_and(|stat| stat.mode != mode)) {
        system.set_attributes(&file, &Attributes { mode, ..Attributes::default() }, true)?;
    }
    let stat = system.stat(&file)?;
    files::record(system, &file, stat.as_ref(), None)?;
    Ok(outcome.set("repo", content).set("key_filename", key_name))
}

/// Puts the key in place; `None` if what is given goes into the file itself.
fn key_file(
    given: &str,
    keys: &[PathBuf; 2],
    system: &mut dyn System,
) -> Result<Option<String>, ModuleError> {
    if given.starts_with('/') && !given.contains('\n') {
        return Ok(Some(given.to_string()));
    }
    let bytes = if given.contains("://") {
        host::fetch_url(given, true, system)?
    } else if given.contains("-----BEGIN PGP PUBLIC KEY BLOCK-----") {
        given.as_bytes().to_vec()
    } else {
        return Ok(None);
    };
    let is_text = bytes.windows(10).any(|window| window == b"-----BEGIN");
    let path = if is_text { &keys[0] } else { &keys[1] };
    let directory = Path::new("/etc/apt/keyrings");
    if system.stat_follow(directory)?.is_none() {
        system.make_dir(directory, &Attributes { mode: Some(0o755), ..Attributes::default() })?;
    }
    let there = system.stat(path)?.is_some();
    if !there || system.read(path)? != bytes {
        let attributes = Attributes { mode: Some(0o644), ..Attributes::default() };
        system.write(path, &Content::Bytes(bytes), &attributes, WriteOptions::default())?;
    }
    Ok(Some(path.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::fake::Fake;
    use crate::value::map_of;

    #[test]
    fn fields_are_written_in_order() {
        let mut fake = Fake::new().with_dir("/etc/apt/sources.list.d");
        let key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n";
        let given = Value::map(map_of([
            ("name", Value::from("My Repo_x!")),
            ("uris", "https://a.example".into()),
            ("suites", vec!["a", "b"].into()),
            ("components", "main".into()),
            ("enabled", true.into()),
            ("signed_by", key.into()),
        ]));
        call(&MODULE, &given, &mut fake).expect("it works");
        assert_eq!(
            fake.text("/etc/apt/sources.list.d/my-repo-x.sources").as_deref(),
            Some(
                "Components: main\nEnabled: yes\nX-Repolib-Name: My Repo_x!\nSigned-By: /etc/apt/keyrings/my-repo-x.asc\nSuites: a b\nTypes: deb\nURIs: https://a.example\n"
            )
        );
        assert_eq!(fake.text("/etc/apt/keyrings/my-repo-x.asc").as_deref(), Some(key));
        fake.forget();
        call(&MODULE, &given, &mut fake).expect("it works");
        assert!(fake.changes().is_empty());
        let gone = Value::map(map_of([("name", "My Repo_x!"), ("state", "absent")]));
        call(&MODULE, &gone, &mut fake).expect("it works");
        assert_eq!(fake.changes().len(), 2);
        assert_eq!(multiline("a\n\nb\n"), "\n a\n .\n b");
    }
}
