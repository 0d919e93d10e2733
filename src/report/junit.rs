//! JUnit XML: one file a playbook, a test case a task and host.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use quick_xml::escape::escape;

use super::clock::{Clock, between};
use super::result;
use crate::config::Junit as Settings;
use crate::event::{Event, Listener, TaskInfo, TaskResult, Verdict};
use crate::value::Value;

/// Collects test cases; each playbook's are written when the next begins or the run ends.
pub struct Junit {
    settings: Settings,
    clock: Clock,
    playbook: String,
    play: String,
    tasks: Vec<Task>,
}

struct Task {
    id: u64,
    name: String,
    path: String,
    play: String,
    setup: bool,
    start: SystemTime,
    cases: Vec<Case>,
}

struct Case {
    host: String,
    status: Status,
    seconds: f64,
    /// Message of a failure or reason of a skip.
    message: String,
    output: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Passed,
    Failed,
    Skipped,
}

impl Junit {
    pub(super) fn new(settings: Settings, clock: Clock) -> Junit {
        Junit { settings, clock, playbook: String::new(), play: String::new(), tasks: Vec::new() }
    }

    fn begin(&mut self, info: &TaskInfo) -> &mut Task {
        let at = match self.tasks.iter().position(|task| task.id == info.id) {
            Some(at) => at,
            None => {
                let mut name = info.title.trim().to_owned();
                if let (Some(Value::Map(args)), false) = (&info.args, self.settings.hide_arguments) {
                    let pairs: Vec<String> = args
                        .iter()
                        .map(|(key, value)| format!("{}={}", key.to_text(), value.to_text()))
                        .collect();
                    if !pairs.is_empty() {
                        name.push_str(&format!(" {}", pairs.join(", ")));
                    }
                }
                self.tasks.push(Task {
                    id: info.id,
                    name,
                    path: self.class(info),
                    play: self.play.clone(),
                    setup: ["setup", "gather_facts"].iter().any(|name| result::is_action(&info.action, name)),
                    start: (self.clock)(),
                    cases: Vec::new(),
                });
                self.tasks.len() - 1
            }
        };
        &mut self.tasks[at]
    }

    /// The class of a test case: the task's file and line.
    fn class(&self, info: &TaskInfo) -> String {
        let file = std::path::absolute(info.origin.file.as_ref()).unwrap_or_default();
        let mut path = file.display().to_string();
        let line = info.origin.line;
        if let Some(base) = &self.settings.task_relative_path {
            path = relative(&file, Path::new(base));
            if let (Some(replacement), true) =
                (&self.settings.replace_out_of_tree_path, path.starts_with("../"))
            {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                path = format!("{replacement}{name}");
            }
        }
        match path.strip_suffix(".yml") {
            Some(stem) if self.settings.task_class => stem.to_owned(),
            _ => format!("{path}:{line}"),
        }
    }

    fn finish(&mut self, result: &TaskResult) {
        let now = (self.clock)();
        let mut status = match result.verdict {
            Verdict::Ok => Status::Passed,
            Verdict::Changed if self.settings.fail_on_change => Status::Failed,
            Verdict::Changed => Status::Passed,
            Verdict::Skipped => Status::Skipped,
            Verdict::Failed | Verdict::Unreachable if result.ignored && !self.settings.fail_on_ignore => {
                Status::Passed
            }
            Verdict::Failed | Verdict::Unreachable => Status::Failed,
        };
        let prefix = self.settings.test_case_prefix.clone();
        let task = self.begin(&result.task);
        status = match status {
            Status::Failed if task.name.contains("EXPECTED FAILURE") => Status::Passed,
            Status::Failed if task.name.contains("TOGGLE RESULT") => Status::Passed,
            Status::Passed if task.name.contains("TOGGLE RESULT") => Status::Failed,
            status => status,
        };
        if !task.name.starts_with(&prefix) && status != Status::Failed {
            return;
        }
        let said = |key: &str| result.result.get(key).map(Value::to_text);
        let message = match status {
            Status::Passed => String::new(),
            Status::Skipped => said("skip_reason").unwrap_or_else(|| "skipped".into()),
            Status::Failed => {
                said("msg").unwrap_or_else(|| format!("rc={}", said("rc").unwrap_or_else(|| "0".into())))
            }
        };
        let output = super::one_line_map(result::shown(result, 0));
        let seconds = between(task.start, now).as_secs_f64();
        task.cases.push(Case { host: result.host.to_string(), status, seconds, message, output });
    }

    fn write(&mut self) {
        let tasks = std::mem::take(&mut self.tasks);
        if self.playbook.is_empty() {
            return;
        }
        let include_setup = self.settings.include_setup;
        let xml = render(&self.playbook, tasks.iter().filter(|task| include_setup || !task.setup));
        let now = (self.clock)().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let directory = &self.settings.output_dir;
        let path: PathBuf = directory.join(format!("{}-{now}.xml", self.playbook));
        let written = std::fs::create_dir_all(directory).and_then(|()| std::fs::write(&path, xml));
        if let Err(error) = written {
            use std::io::Write as _;
            // The run itself went its way; a report that can't be kept is told and no more.
            let _ = writeln!(std::io::stderr(), "[WARNING]: can't write {}: {error}", path.display());
        }
    }
}

/// A path from `base` to `file`.
fn relative(file: &Path, base: &Path) -> String {
    let base = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
    let (file, base): (Vec<_>, Vec<_>) = (file.components().collect(), base.components().collect());
    let common = file.iter().zip(&base).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n("..".to_owned(), base.len() - common);
    let down = file[common..].iter().map(|part| part.as_os_str().to_string_lossy().into_owned());
    up.chain(down).collect::<Vec<_>>().join("/")
}

fn render<'a>(playbook: &str, tasks: impl Iterator<Item = &'a Task>) -> String {
    let mut cases = String::new();
    let (mut tests, mut failures, mut skipped, mut seconds) = (0, 0, 0, 0.0);
    for task in tasks {
        for case in &task.cases {
            tests += 1;
            seconds += case.seconds;
            failures += u64::from(case.status == Status::Failed);
            skipped += u64::from(case.status == Status::Skipped);
            cases.push_str(&case_xml(task, case));
        }
    }
    let name = xml(playbook);
    format!(
        "<?xml version=\"1.0\" ?>\n<testsuites disabled=\"0\" errors=\"0\" failures=\"{failures}\" tests=\"{tests}\" time=\"{seconds:.6}\">\n\
         \t<testsuite disabled=\"0\" errors=\"0\" failures=\"{failures}\" name=\"{name}\" skipped=\"{skipped}\" tests=\"{tests}\" time=\"{seconds:.6}\">\n\
         {cases}\t</testsuite>\n</testsuites>\n"
    )
}

fn case_xml(task: &Task, case: &Case) -> String {
    let name = xml(&format!("[{}] {}: {}", case.host, task.play, task.name));
    let (message, output) = (xml(&case.message), xml(&case.output));
    let body = match case.status {
        Status::Passed => format!("<system-out>{output}</system-out>"),
        Status::Failed => format!("<failure message=\"{message}\" type=\"failure\">{output}</failure>"),
        Status::Skipped => format!("<skipped>{message}</skipped>"),
    };
    let class = xml(&task.path);
    let seconds = case.seconds;
    format!(
        "\t\t<testcase classname=\"{class}\" name=\"{name}\" time=\"{seconds:.6}\">\n\t\t\t{body}\n\t\t</testcase>\n"
    )
}

/// Text for XML: escaped, without the control characters that XML 1.0 can't hold.
fn xml(text: &str) -> String {
    let allowed: String = text
        .chars()
        .map(|c| if c.is_control() && !matches!(c, '\n' | '\t' | '\r') { '\u{fffd}' } else { c })
        .collect();
    escape(allowed).into_owned()
}

impl Listener for Junit {
    fn event(&mut self, event: &Event) {
        match event {
            Event::PlaybookStarted { path } => {
                if !self.tasks.is_empty() {
                    self.write();
                }
                let stem = Path::new(path).file_stem().unwrap_or_default();
                self.playbook = stem.to_string_lossy().into_owned();
            }
            Event::PlayStarted { name, .. } => self.play.clone_from(name),
            Event::TaskStarted { task } => {
                self.begin(task);
            }
            Event::Result(result) => self.finish(result),
            Event::Recap { .. } => self.write(),
            _ => {}
        }
    }
}
