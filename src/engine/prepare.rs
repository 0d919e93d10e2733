//! The controller's part of modules that need its files: finds sources, renders templates, lists trees, and
//! turns a task's arguments into those that the host's module takes. Content is named by digest here and
//! travels later, if at all.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::charset;
use crate::engine::plan::{Bound, PlanError, failed};
use crate::engine::shared::Shared;
use crate::playbook::Task;
use crate::system::BlobRef;
use crate::template::{FileOptions, Syntax};
use crate::value::{Map, Value, Vars, map_of};

/// What the controller does with a report.
#[derive(Clone, Debug)]
pub enum After {
    /// Receives a file of the host at this place (`fetch`).
    Fetch {
        /// Where it goes; ends in `/` for a directory.
        dest: PathBuf,
    },
}

/// A task's arguments as the host's module takes them.
pub struct Prepared {
    /// Full name of the module.
    pub module: String,
    /// Its arguments.
    pub args: Map,
    /// What the controller does with the report.
    pub after: Option<After>,
}

struct Preparation<'a> {
    shared: &'a Shared,
    task: &'a Task,
    bound: &'a Bound,
}

/// Does the controller's part for `action`.
///
/// # Errors
/// A failure of the task: a source that is not there, a template that can't be rendered.
pub fn prepare(
    shared: &Shared,
    task: &Task,
    action: &str,
    args: Map,
    bound: &Bound,
) -> Result<Prepared, PlanError> {
    let preparation = Preparation { shared, task, bound };
    let short = action.rsplit('.').next().unwrap_or(action);
    let (args, after) = match short {
        "copy" => (preparation.copy(args)?, None),
        "template" => (preparation.template(args)?, None),
        "script" => (preparation.script(args)?, None),
        "unarchive" => (preparation.controller_source(args, "files", "copy", true)?, None),
        "assemble" => (preparation.assemble(args)?, None),
        "patch" => (preparation.controller_source(args, "files", "", true)?, None),
        "fetch" => {
            let dest = preparation.fetch_destination(&args)?;
            let mut args = args;
            // What is here already need not travel again.
            if let Ok(here) = shared.blobs.file(&dest) {
                args.insert(Value::str("_sha256"), Value::from(here.sha256));
            }
            (args, Some(After::Fetch { dest }))
        }
        "package" => (preparation.package(args)?, None),
        "observe" => (preparation.request(args), None),
        _ => (args, None),
    };
    Ok(Prepared { module: action.to_string(), args, after })
}

impl Preparation<'_> {
    /// `package`: a variable may say what manages packages, if the task does not.
    fn package(&self, mut args: Map) -> Result<Map, PlanError> {
        let named = args.get("use").map(Value::to_text).filter(|name| !name.is_empty() && name != "auto");
        if named.is_none()
            && let Some(wanted) = self.bound.vars.get("ansible_package_use")
        {
            let wanted = self.shared.templar.render(&wanted, &self.bound.context())?;
            args.insert(Value::str("use"), wanted);
        }
        Ok(args)
    }

    /// What an audit asks of the host, which would be too much for a playbook.
    fn request(&self, args: Map) -> Map {
        let host = self.bound.vars.get("inventory_hostname").map(|name| name.to_text()).unwrap_or_default();
        let number = args.get("request").map(Value::to_text).and_then(|text| text.parse::<i64>().ok());
        let requests = crate::engine::shared::lock(&self.shared.options.requests);
        let asked = number.and_then(|number| requests.get(&(number, host)));
        asked.and_then(Value::as_map).cloned().unwrap_or(args)
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, PlanError> {
        Err(PlanError::Failed(Box::new(failed(self.task, message))))
    }

    fn find(&self, kind: &str, name: &str) -> Result<PathBuf, PlanError> {
        self.bound.search.find(kind, name).or_else(|missing| {
            let tried: Vec<String> = missing.tried.iter().map(|path| format!("\t{}", path.display())).collect();
            self.fail(format!(
                "Could not find or access '{name}'\nSearched in:\n{} on the controller.\nIf you are using a module and expect the file to exist on the remote, see the remote_src option",
                tried.join("\n")
            ))
        })
    }

    /// The content of a controller's file, decrypted if it is vaulted and `decrypt` is not false.
    fn blob(&self, path: &Path, decrypt: bool) -> Result<BlobRef, PlanError> {
        let vaulted = decrypt && starts_with_vault_header(path);
        if vaulted {
            let bytes = std::fs::read(path).or_else(|error| self.unreadable(path, &error))?;
            let text = String::from_utf8_lossy(&bytes);
            let plain = self
                .shared
                .vault
                .decrypt(text.trim_end(), None)
                .or_else(|error| self.fail(format!("{}: {error}", path.display())))?;
            return Ok(self.shared.blobs.bytes(&plain));
        }
        self.shared.blobs.file(path).or_else(|error| self.unreadable(path, &error))
    }

    /// A blob as arguments name it, with the sha1 that the module returns: the host need not compute it.
    fn blob_with_sha1(&self, blob: &BlobRef) -> Result<Value, PlanError> {
        let sha1 = self.shared.blobs.sha1(blob);
        let sha1 = sha1.or_else(|error| self.fail(format!("failed to read on the controller: {error}")))?;
        Ok(Value::map(map_of([
            ("sha256", Value::str(blob.sha256.as_str())),
            ("size", Value::from(blob.size)),
            ("sha1", Value::from(sha1)),
        ])))
    }

    fn unreadable<T>(&self, path: &Path, error: &std::io::Error) -> Result<T, PlanError> {
        self.fail(format!("failed to read {} on the controller: {error}", path.display()))
    }

    fn copy(&self, mut args: Map) -> Result<Map, PlanError> {
        if flag(&args, "remote_src") {
            return Ok(args);
        }
        let decrypt = args.get("decrypt").and_then(Value::to_bool).unwrap_or(true);
        match (args.shift_remove("content"), args.get("src").cloned()) {
            (Some(_), Some(_)) => self.fail("src and content are mutually exclusive"),
            (Some(content), None) => {
                let text = match &content {
                    Value::List(_) | Value::Map(_) | Value::Lazy(_) => {
                        crate::module::args::json_text(&content)
                    }
                    other => other.to_text(),
                };
                if args.get("dest").is_some_and(|dest| dest.to_text().ends_with('/')) {
                    return self.fail("can not use content with a dir as dest");
                }
                let blob = self.shared.blobs.bytes(text.as_bytes());
                args.insert(Value::str("_blob"), self.blob_with_sha1(&blob)?);
                Ok(args)
            }
            (None, None) => self.fail("src (or content) is required"),
            (None, Some(src)) => {
                let src = src.to_text();
                let whole = src.ends_with('/');
                let path = self.find("files", &src)?;
                let metadata = std::fs::metadata(&path).or_else(|error| self.unreadable(&path, &error))?;
                if metadata.is_dir() {
                    let local_follow = args.get("local_follow").and_then(Value::to_bool).unwrap_or(true);
                    let prefix = if whole {
                        PathBuf::new()
                    } else {
                        path.file_name().map(PathBuf::from).unwrap_or_default()
                    };
                    let mut entries = Vec::new();
                    if !prefix.as_os_str().is_empty() {
                        entries.push(tree_entry(&prefix, "directory", &metadata));
                    }
                    self.tree(&path, &prefix, local_follow, decrypt, &mut entries)?;
                    args.insert(Value::str("_tree"), Value::list(entries));
                } else {
                    args.insert(Value::str("_blob"), self.blob_with_sha1(&self.blob(&path, decrypt)?)?);
                    args.insert(Value::str("_basename"), Value::str(basename(&path)));
                    args.insert(Value::str("_source_mode"), mode_value(&metadata));
                }
                args.insert(Value::str("src"), Value::str(path.to_string_lossy()));
                Ok(args)
            }
        }
    }

    fn tree(
        &self,
        dir: &Path,
        relative: &Path,
        follow: bool,
        decrypt: bool,
        entries: &mut Vec<Value>,
    ) -> Result<(), PlanError> {
        let mut names: Vec<PathBuf> = std::fs::read_dir(dir)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .or_else(|error| self.unreadable(dir, &error))?;
        names.sort();
        for path in names {
            let inner = relative.join(path.file_name().unwrap_or_default());
            let link = std::fs::symlink_metadata(&path).or_else(|error| self.unreadable(&path, &error))?;
            if link.is_symlink() && !follow {
                let target = std::fs::read_link(&path).or_else(|error| self.unreadable(&path, &error))?;
                entries.push(Value::map(map_of([
                    ("path", Value::str(inner.to_string_lossy())),
                    ("kind", Value::str("link")),
                    ("target", Value::str(target.to_string_lossy())),
                ])));
                continue;
            }
            let metadata = std::fs::metadata(&path).or_else(|error| self.unreadable(&path, &error))?;
            if metadata.is_dir() {
                entries.push(tree_entry(&inner, "directory", &metadata));
                self.tree(&path, &inner, follow, decrypt, entries)?;
            } else {
                let blob = self.blob(&path, decrypt)?;
                let Value::Map(entry) = tree_entry(&inner, "file", &metadata) else { continue };
                let mut entry = entry.as_ref().clone();
                entry.insert(Value::str("sha256"), Value::from(blob.sha256));
                entry.insert(Value::str("size"), Value::from(blob.size));
                entries.push(Value::map(entry));
            }
        }
        Ok(())
    }

    fn template(&self, mut args: Map) -> Result<Map, PlanError> {
        let Some(src) = args.get("src").map(Value::to_text) else {
            return self.fail("src and dest are required");
        };
        let path = self.find("templates", &src)?;
        let metadata = std::fs::metadata(&path).or_else(|error| self.unreadable(&path, &error))?;
        let source = self.shared.text_file(&path).or_else(|error| self.fail(error.message))?;
        let mut local = template_vars(&path, &metadata);
        local.insert(
            Value::str("template_destpath"),
            args.get("dest").map(Value::untrusted).unwrap_or_default(),
        );
        let managed = match self.bound.vars.get("ansible_managed") {
            Some(managed) => managed,
            None => managed(&self.shared.settings.ansible_managed, &metadata)?,
        };
        local.insert(Value::str("ansible_managed"), managed);
        let vars: Arc<dyn Vars> = Arc::new(Over { local, below: self.bound.vars.clone() });
        let mut search = self.bound.search.as_ref().clone();
        if let Some(dir) = path.parent() {
            search.dirs.push(dir.to_path_buf());
        }
        let bound = Bound { vars, search: Arc::new(search) };
        let options = file_options(&args);
        let text = self.shared.templar.file(&path, &source, &bound.context(), &options)?;
        let encoding = args.get("output_encoding").map(Value::to_text).unwrap_or_default();
        let content = charset::encode(&text, &encoding).or_else(|reason| self.fail(reason))?;
        for name in SYNTAX_ARGS {
            args.shift_remove(*name);
        }
        let blob = self.shared.blobs.bytes(&content);
        args.insert(Value::str("_blob"), self.blob_with_sha1(&blob)?);
        args.insert(Value::str("_basename"), Value::str(basename(&path)));
        args.insert(Value::str("_source_mode"), mode_value(&metadata));
        args.insert(Value::str("_template"), Value::Bool(true));
        args.insert(Value::str("src"), Value::str(path.to_string_lossy()));
        Ok(args)
    }

    /// `script`: the first word is a file of the controller.
    fn script(&self, mut args: Map) -> Result<Map, PlanError> {
        let Some(line) = args.get("_raw_params").or_else(|| args.get("cmd")).map(Value::to_text) else {
            return self.fail("one of the following is required: cmd, or the path of a script as free text");
        };
        let words = shlex::split(&line).unwrap_or_else(|| vec![line.clone()]);
        let Some(name) = words.first() else {
            return self.fail("one of the following is required: cmd, or the path of a script as free text");
        };
        let path = self.find("files", name)?;
        let decrypt = args.get("decrypt").and_then(Value::to_bool).unwrap_or(true);
        args.insert(Value::str("_blob"), blob_value(&self.blob(&path, decrypt)?));
        Ok(args)
    }

    /// A `src` that is the controller's unless `remote_src` (or `copy: false`) says otherwise.
    fn controller_source(
        &self,
        mut args: Map,
        kind: &str,
        old: &str,
        decrypt: bool,
    ) -> Result<Map, PlanError> {
        let on_host = flag(&args, "remote_src")
            || (!old.is_empty() && args.get(old).and_then(Value::to_bool) == Some(false));
        let Some(src) = args.get("src").map(Value::to_text) else { return Ok(args) };
        if on_host || src.contains("://") {
            return Ok(args);
        }
        let path = self.find(kind, &src)?;
        let decrypt = decrypt && args.get("decrypt").and_then(Value::to_bool).unwrap_or(true);
        args.insert(Value::str("_blob"), blob_value(&self.blob(&path, decrypt)?));
        args.insert(Value::str("src"), Value::str(path.to_string_lossy()));
        Ok(args)
    }

    /// `assemble` of fragments that are here: put together here.
    fn assemble(&self, mut args: Map) -> Result<Map, PlanError> {
        if args.get("remote_src").and_then(Value::to_bool).unwrap_or(true) {
            return Ok(args);
        }
        let Some(src) = args.get("src").map(Value::to_text) else {
            return self.fail("src and dest are required");
        };
        let dir = self.find("files", &src)?;
        if !dir.is_dir() {
            return self.fail(format!("Source ({}) is not a directory", dir.display()));
        }
        let delimiter = args.get("delimiter").map(Value::to_text).map(|text| text.replace("\\n", "\n"));
        let ignore_hidden = flag(&args, "ignore_hidden");
        let pattern = match args.get("regexp").map(Value::to_text) {
            Some(pattern) => Some(
                fancy_regex::Regex::new(&pattern).or_else(|error| self.fail(format!("regexp: {error}")))?,
            ),
            None => None,
        };
        let mut names: Vec<PathBuf> = std::fs::read_dir(&dir)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .or_else(|error| self.unreadable(&dir, &error))?;
        names.sort();
        let mut content: Vec<u8> = Vec::new();
        let mut first = true;
        for path in names {
            let name = basename(&path);
            let wanted = pattern.as_ref().is_none_or(|pattern| pattern.is_match(&name).unwrap_or(false));
            if !path.is_file() || !wanted || (ignore_hidden && name.starts_with('.')) {
                continue;
            }
            if !first {
                if content.last().is_some_and(|byte| *byte != b'\n') {
                    content.push(b'\n');
                }
                if let Some(delimiter) = &delimiter {
                    content.extend_from_slice(delimiter.as_bytes());
                    if !delimiter.ends_with('\n') {
                        content.push(b'\n');
                    }
                }
            }
            first = false;
            content.extend(std::fs::read(&path).or_else(|error| self.unreadable(&path, &error))?);
        }
        args.insert(Value::str("_blob"), blob_value(&self.shared.blobs.bytes(&content)));
        Ok(args)
    }

    fn fetch_destination(&self, args: &Map) -> Result<PathBuf, PlanError> {
        let (Some(src), Some(dest)) =
            (args.get("src").map(Value::to_text), args.get("dest").map(Value::to_text))
        else {
            return self.fail("src and dest are required");
        };
        let dest = expand_home(&dest);
        let base = if Path::new(&dest).is_absolute() {
            PathBuf::from(&dest)
        } else {
            self.bound.search.playbook_dir.join(&dest)
        };
        if flag(args, "flat") {
            if dest.ends_with('/') || base.is_dir() {
                if base.is_dir() && !dest.ends_with('/') {
                    return self.fail("dest is an existing directory, use a trailing slash if you want to fetch src into that directory");
                }
                return Ok(base.join(basename(Path::new(&src))));
            }
            return Ok(base);
        }
        let host = self.bound.vars.get("inventory_hostname").map(|name| name.to_text()).unwrap_or_default();
        // A source such as `../x` must not lead out of the host's own directory.
        let relative: PathBuf = Path::new(&src)
            .components()
            .filter(|part| matches!(part, std::path::Component::Normal(_)))
            .collect();
        Ok(base.join(host).join(relative))
    }
}

/// `~` of the controller's user.
fn expand_home(path: &str) -> String {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest).to_string_lossy().into_owned(),
        _ => path.to_string(),
    }
}

fn flag(args: &Map, name: &str) -> bool {
    args.get(name).and_then(Value::to_bool).unwrap_or(false)
}

fn basename(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn blob_value(blob: &BlobRef) -> Value {
    Value::map(map_of([("sha256", Value::str(blob.sha256.as_str())), ("size", Value::from(blob.size))]))
}

fn mode_value(metadata: &std::fs::Metadata) -> Value {
    Value::str(format!("{:04o}", metadata.permissions().mode() & 0o7777))
}

fn tree_entry(path: &Path, kind: &str, metadata: &std::fs::Metadata) -> Value {
    Value::map(map_of([
        ("path", Value::str(path.to_string_lossy())),
        ("kind", Value::str(kind)),
        ("mode", mode_value(metadata)),
    ]))
}

fn starts_with_vault_header(path: &Path) -> bool {
    use std::io::Read;
    let mut start = [0u8; 14];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok()
        && &start == b"$ANSIBLE_VAULT"
}

/// What a template sees of itself.
fn template_vars(path: &Path, metadata: &std::fs::Metadata) -> Map {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    map_of([
        ("template_path", Value::str(path.to_string_lossy())),
        ("template_fullpath", Value::str(full.to_string_lossy())),
        ("template_host", Value::str(rustix::system::uname().nodename().to_string_lossy())),
        ("template_uid", owner_name(metadata.uid())),
        ("template_mtime", Value::Int(metadata.mtime())),
        ("template_run_date", Value::Int(crate::engine::now_seconds())),
        ("template_destpath", Value::Null),
    ])
}

/// The name of an account here, or its number.
fn owner_name(uid: u32) -> Value {
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = uid.to_string();
    let found = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(number.as_str())).then(|| Value::str(name))
    });
    found.unwrap_or_else(|| Value::from(uid))
}

/// `ansible_managed` from the setting: `{file}`, `{host}` and `{uid}` stand for the template's variables, and
/// the time of the template is put in as `strftime` does. It is a template itself.
fn managed(setting: &str, metadata: &std::fs::Metadata) -> Result<Value, PlanError> {
    let mut text = setting.to_string();
    if setting.contains(['{', '}']) {
        // Doubled braces are braces.
        text = text.replace("{{", "\u{1}").replace("}}", "\u{2}");
        for (name, variable) in
            [("file", "template_path"), ("host", "template_host"), ("uid", "template_uid")]
        {
            text = text.replace(&format!("{{{name}}}"), &format!("{{{{ {variable} }}}}"));
        }
        text = text.replace('\u{1}', "{").replace('\u{2}', "}");
    }
    if text.contains('%') {
        text = crate::template::local_time(&text, metadata.mtime())?;
    }
    Ok(Value::trusted(text))
}

/// Arguments of `template` that are about the file's syntax.
const SYNTAX_ARGS: &[&str] = &[
    "block_start_string",
    "block_end_string",
    "variable_start_string",
    "variable_end_string",
    "comment_start_string",
    "comment_end_string",
    "trim_blocks",
    "lstrip_blocks",
    "newline_sequence",
    "output_encoding",
];

/// How a template file is read, from the module's arguments.
fn file_options(args: &Map) -> FileOptions {
    let mut options = FileOptions { syntax: Syntax { trim_blocks: true, ..Syntax::default() } };
    let syntax = &mut options.syntax;
    let text = |name: &str, to: &mut String| {
        if let Some(value) = args.get(name).filter(|value| !value.is_null()) {
            *to = value.to_text();
        }
    };
    text("block_start_string", &mut syntax.block_start);
    text("block_end_string", &mut syntax.block_end);
    text("variable_start_string", &mut syntax.variable_start);
    text("variable_end_string", &mut syntax.variable_end);
    text("comment_start_string", &mut syntax.comment_start);
    text("comment_end_string", &mut syntax.comment_end);
    let flag = |name: &str, to: &mut bool| {
        if let Some(value) = args.get(name).and_then(Value::to_bool) {
            *to = value;
        }
    };
    flag("trim_blocks", &mut syntax.trim_blocks);
    flag("lstrip_blocks", &mut syntax.lstrip_blocks);
    if let Some(value) = args.get("newline_sequence") {
        syntax.newline_sequence = value.to_text().replace("\\n", "\n").replace("\\r", "\r");
    }
    options
}

/// Variables over others.
#[derive(Debug)]
struct Over {
    local: Map,
    below: Arc<dyn Vars>,
}

impl Vars for Over {
    fn get(&self, name: &str) -> Option<Value> {
        self.local.get(name).cloned().or_else(|| self.below.get(name))
    }

    fn names(&self) -> Vec<Arc<str>> {
        let own = self.local.keys().filter_map(|key| match key {
            Value::Str(text) => Some(text.text.clone()),
            _ => None,
        });
        own.chain(self.below.names()).collect()
    }
}
