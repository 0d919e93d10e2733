//! `supervisorctl`: programs that supervisor runs.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, Attributes, Command, Content, Intent, Output, System, WriteOptions};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Manages programs and groups of supervisor.
pub const MODULE: Module = Module {
    name: "community.general.supervisorctl",
    summary: "Manage programs that supervisor runs",
    description: "`present` makes supervisor read a new program's configuration, `absent` makes it forget a program. \
        `restarted` and `signalled` always act. A password is handed over in a private file, not on a command line.",
    example: "- name: The worker runs\n  community.general.supervisorctl:\n    name: worker\n    state: started\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "Name of the program; `group:` for all of a group; `all`.").required(),
        Param::new("state", Type::Str, "The state to reach.").required().choices(&[
            "present",
            "started",
            "stopped",
            "restarted",
            "absent",
            "signalled",
        ]),
        Param::new("signal", Type::Str, "The signal, for `signalled`."),
        Param::new("config", Type::Path, "Configuration file of supervisor."),
        Param::new("server_url", Type::Str, "Where supervisor listens."),
        Param::new("username", Type::Str, "Who asks."),
        Param::new("password", Type::Str, "Password.").secret(),
        Param::new("supervisorctl_path", Type::Path, "The program `supervisorctl`."),
        Param::new("stop_before_removing", Type::Bool, "For `absent`: stop it first.").default("false"),
    ],
    rules: &[Rule::RequiredIf { param: "state", value: "signalled", needs: &["signal"], any: false }],
    returns: &[("name", "The name."), ("state", "The state."), ("affected", "Programs that were changed.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    state: String,
    signal: Option<String>,
    config: Option<String>,
    server_url: Option<String>,
    username: Option<String>,
    password: Option<String>,
    supervisorctl_path: Option<String>,
    stop_before_removing: bool,
}

struct Supervisor {
    words: Vec<String>,
}

impl Supervisor {
    fn new(args: &Args, system: &mut dyn System) -> Result<Supervisor> {
        let program = match &args.supervisorctl_path {
            Some(path) => {
                let path = args::expand_path(path, system)?;
                if !host::exists(&path, system)? && system.uncertain().is_none() {
                    return Err(ModuleError::new(format!(
                        "Provided path to supervisorctl does not exist: {}",
                        path.display()
                    )));
                }
                path.to_string_lossy().into_owned()
            }
            None => host::need_program("supervisorctl", system)?,
        };
        let mut words = vec![program];
        let config = match &args.config {
            Some(path) => Some(args::expand_path(path, system)?.to_string_lossy().into_owned()),
            None => None,
        };
        if let Some(password) = &args.password {
            words.extend(["-c".into(), private_config(args, config.as_deref(), password, system)?]);
            return Ok(Supervisor { words });
        }
        for (flag, value) in [("-c", &config), ("-s", &args.server_url), ("-u", &args.username)] {
            words.extend(value.iter().flat_map(|value| [flag.to_string(), value.clone()]));
        }
        Ok(Supervisor { words })
    }

    fn command(&self, words: &[&str]) -> Command {
        let argv = self.words.iter().map(String::as_str).chain(words.iter().copied());
        Command::new(argv).c_locale()
    }

    /// Programs with their states. Supervisor's exit status says that some do not run, which is no error.
    fn status(&self, system: &mut dyn System) -> Result<Vec<(String, String)>> {
        let command = self.command(&["status"]);
        let output = host::ask(command.argv.clone(), system)?;
        let text = output.stdout_text();
        let broken =
            ["refused connection", "no such file", "Server requires authentication", "Error:", "HTTP"];
        if output.code == 127 && system.uncertain().is_some() {
            return Ok(Vec::new());
        }
        if !output.success()
            && (output.code > 3
                || broken.iter().any(|sign| text.contains(sign) || output.stderr_text().contains(sign)))
        {
            return Err(ModuleError::command("supervisor does not answer", &command, &output));
        }
        let row = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_string(), words.next()?.to_string()))
        };
        Ok(text.lines().filter_map(row).collect())
    }

    fn act(
        &self,
        verb: &[&str],
        name: &str,
        before: Value,
        after: Value,
        undo: Option<&str>,
        system: &mut dyn System,
    ) -> Result<Output> {
        let command = self.command(&[verb, &[name]].concat());
        let intent = Intent {
            kind: "service",
            id: format!("supervisor {name}"),
            before,
            after,
            undo: undo.map(|verb| self.command(&[verb, name])),
            ..Intent::default()
        };
        host::carry_out(&command, intent, "supervisorctl failed", system)
    }
}

/// A configuration that holds the password, so that no command line does.
fn private_config(
    args: &Args,
    config: Option<&str>,
    password: &str,
    system: &mut dyn System,
) -> Result<String> {
    let url = match &args.server_url {
        Some(url) => url.clone(),
        None => {
            let files =
                ["/etc/supervisor/supervisord.conf", "/etc/supervisord.conf", "/usr/etc/supervisord.conf"];
            let given = config.into_iter().chain(files);
            let found = given.filter_map(|path| host::read_text(path, system)).next();
            found.as_deref().and_then(server_url).unwrap_or_else(|| "http://localhost:9001".into())
        }
    };
    let path = system.scratch()?.join("supervisorctl.conf");
    // `%` begins a variable there.
    let plain = |text: &str| text.replace('%', "%%");
    let text = format!(
        "[supervisorctl]\nserverurl={}\nusername={}\npassword={}\n",
        plain(&url),
        plain(args.username.as_deref().unwrap_or_default()),
        plain(password)
    );
    let attributes = Attributes { mode: Some(0o600), ..Attributes::default() };
    system.write(&path, &Content::Bytes(text.into_bytes()), &attributes, WriteOptions::default())?;
    Ok(path.to_string_lossy().into_owned())
}

/// `serverurl` of section `supervisorctl`.
fn server_url(text: &str) -> Option<String> {
    let mut inside = false;
    for line in text.lines() {
        let line = line.split(" ;").next().unwrap_or_default().trim();
        if line.starts_with('[') {
            inside = line == "[supervisorctl]";
        } else if inside
            && let Some((name, value)) = line.split_once('=')
            && name.trim() == "serverurl"
        {
            return Some(value.trim().to_string());
        }
    }
    None
}

fn is_running(state: &str) -> bool {
    matches!(state, "RUNNING" | "STARTING")
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    let supervisor = Supervisor::new(args, system)?;
    let name = args.name.as_str();
    let status = supervisor.status(system)?;
    let group = name.strip_suffix(':');
    let is_it = |program: &str| match group {
        Some(group) => program.split_once(':').is_some_and(|(known, _)| known == group),
        None => {
            name == "all"
                || program == name
                || program.split_once(':').is_some_and(|(known, own)| known == name && own == name)
        }
    };
    let mine: Vec<(String, String)> = status.into_iter().filter(|(program, _)| is_it(program)).collect();
    // Groups are added and removed under their own name.
    let plain = group.unwrap_or(name);
    let known = !mine.is_empty();
    let stop = |running: bool| -> Value { map_of([("running", running)]).into() };
    let mut affected: Vec<String> = Vec::new();
    match args.state.as_str() {
        "absent" => {
            if known {
                let any = mine.iter().any(|(_, state)| is_running(state));
                if args.stop_before_removing && any {
                    supervisor.act(&["stop"], name, stop(true), stop(false), Some("start"), system)?;
                }
                reread(&supervisor, system)?;
                let exists = map_of([("present", true)]).into();
                let output = supervisor.act(&["remove"], plain, exists, Value::Null, Some("add"), system)?;
                expect(&output, &[": removed process group"], plain, &output.stdout_text(), system)?;
            }
        }
        "present" => {
            if !known {
                reread(&supervisor, system)?;
                let exists = map_of([("present", true)]).into();
                let output = supervisor.act(&["add"], plain, Value::Null, exists, Some("remove"), system)?;
                expect(&output, &[": added process group"], plain, &output.stdout_text(), system)?;
            }
        }
        _ if !known && system.uncertain().is_none() => {
            return Err(ModuleError::new(format!(
                "ERROR (no such process): {name}; supervisor does not know it: add it with `state: present`"
            )));
        }
        "started" => {
            for (program, _) in mine.iter().filter(|(_, state)| !is_running(state)) {
                let output =
                    supervisor.act(&["start"], program, stop(false), stop(true), Some("stop"), system)?;
                expect(&output, &[": started", "already started"], program, "", system)?;
                affected.push(program.clone());
            }
        }
        "stopped" => {
            for (program, _) in
                mine.iter().filter(|(_, state)| matches!(state.as_str(), "RUNNING" | "STARTING" | "BACKOFF"))
            {
                let output =
                    supervisor.act(&["stop"], program, stop(true), stop(false), Some("start"), system)?;
                expect(&output, &[": stopped", "not running"], program, "", system)?;
                affected.push(program.clone());
            }
        }
        "restarted" => {
            reread(&supervisor, system)?;
            update(&supervisor, plain, system)?;
            let before = stop(mine.iter().any(|(_, state)| is_running(state)));
            let output = supervisor.act(&["restart"], name, before, stop(true), None, system)?;
            expect(&output, &[": started"], name, "", system)?;
            affected.extend(mine.iter().map(|(program, _)| program.clone()));
        }
        _ => {
            let signal = args.signal.as_deref().unwrap_or_default();
            for (program, _) in mine.iter().filter(|(_, state)| state == "RUNNING") {
                let output =
                    supervisor.act(&["signal", signal], program, stop(true), stop(true), None, system)?;
                expect(&output, &[": signalled"], program, "", system)?;
                affected.push(program.clone());
            }
        }
    }
    let state = match args.state.as_str() {
        "absent" => Value::Null,
        "present" => map_of([("present", true)]).into(),
        state => map_of([("running", state != "stopped")]).into(),
    };
    system.applied(Applied { kind: "service".into(), id: format!("supervisor {name}"), state });
    let mut outcome = Outcome::default().set("name", name).set("state", args.state.as_str());
    if !affected.is_empty() {
        outcome = outcome.set("affected", Value::list(affected.iter().cloned().map(Value::from).collect()));
    }
    Ok(outcome)
}

/// Makes supervisor look at its configuration; that alone changes nothing.
fn reread(supervisor: &Supervisor, system: &mut dyn System) -> Result<()> {
    let command = supervisor.command(&["reread"]);
    host::carry_out(&command, Intent::default(), "supervisor can't read its configuration", system)?;
    Ok(())
}

fn update(supervisor: &Supervisor, name: &str, system: &mut dyn System) -> Result<()> {
    let command = supervisor.command(&["update", name]);
    host::carry_out(&command, Intent::default(), "supervisorctl update failed", system)?;
    Ok(())
}

/// Some versions tell of a failure in words only.
fn expect(output: &Output, signs: &[&str], name: &str, said: &str, system: &mut dyn System) -> Result<()> {
    let text = output.stdout_text();
    // Nothing was said in a dry run.
    if text.is_empty() || signs.iter().any(|sign| text.contains(sign)) || system.uncertain().is_some() {
        return Ok(());
    }
    let said = if said.is_empty() { text.trim() } else { said.trim() };
    Err(ModuleError::new(format!("supervisor did not do it: {name}: {said}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{call, on_fake};
    use crate::system::fake::Fake;

    /// A machine whose programs are lines `name state` of a file.
    fn machine() -> Fake {
        Fake::new()
            .with_program("/usr/bin/supervisorctl")
            .with_file(
                "/etc/supervisor/supervisord.conf",
                "[unix_http_server]\nserverurl=x\n[supervisorctl]\nserverurl=unix:///run/s.sock ; path\n",
            )
            .with_file("/state/programs", "web RUNNING\njobs:a STOPPED\njobs:b RUNNING\n")
            .with_behaviour(&["/usr/bin/supervisorctl"], |fake, command| {
                let words: Vec<String> =
                    command.argv[1..].iter().map(|word| word.to_string_lossy().into_owned()).collect();
                let at = words
                    .iter()
                    .position(|word| {
                        ["status", "start", "stop", "restart", "add", "remove", "reread", "update", "signal"]
                            .contains(&word.as_str())
                    })
                    .expect("a verb");
                let (verb, name) = (words[at].as_str(), words.last().cloned().unwrap_or_default());
                let text = fake.text("/state/programs").unwrap_or_default();
                let set = |state: &str| -> String {
                    text.lines()
                        .map(|line| {
                            if line.starts_with(&format!("{name} ")) {
                                format!("{name} {state}\n")
                            } else {
                                format!("{line}\n")
                            }
                        })
                        .collect()
                };
                match verb {
                    "status" => Output { code: 3, stdout: text.into(), stderr: Vec::new() },
                    "start" => {
                        fake.put("/state/programs", set("RUNNING"));
                        Output::ok(&format!("{name}: started\n"))
                    }
                    "stop" => {
                        fake.put("/state/programs", set("STOPPED"));
                        Output::ok(&format!("{name}: stopped\n"))
                    }
                    "restart" => Output::ok(&format!("{name}: stopped\n{name}: started\n")),
                    "signal" => Output::ok(&format!("{name}: signalled\n")),
                    "add" => {
                        fake.put("/state/programs", format!("{text}{name} RUNNING\n"));
                        Output::ok(&format!("{name}: added process group\n"))
                    }
                    "remove" => {
                        fake.put(
                            "/state/programs",
                            text.lines()
                                .filter(|line| !line.starts_with(&format!("{name} ")))
                                .map(|line| format!("{line}\n"))
                                .collect::<String>(),
                        );
                        Output::ok(&format!("{name}: removed process group\n"))
                    }
                    _ => Output::ok(""),
                }
            })
    }

    #[test]
    fn programs_are_started_stopped_added_and_removed() {
        const CTL: &str = "/usr/bin/supervisorctl ";
        let table: &[(&str, &[&str])] = &[
            (r#"{"name":"web","state":"started"}"#, &[]),
            (r#"{"name":"web","state":"stopped"}"#, &["stop web"]),
            (r#"{"name":"jobs:","state":"started"}"#, &["start jobs:a"]),
            (r#"{"name":"new","state":"present"}"#, &["reread", "add new"]),
            (r#"{"name":"web","state":"present"}"#, &[]),
            (r#"{"name":"gone","state":"absent"}"#, &[]),
        ];
        for (arguments, expected) in table {
            let verdict = on_fake(&MODULE, machine, arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            let acted: Vec<&str> =
                verdict.acted().into_iter().filter_map(|line| line.strip_prefix(CTL)).collect();
            assert_eq!(acted, *expected, "{arguments}");
            assert!(verdict.rolled_back, "{arguments}");
        }
        let acts = |arguments: &str| {
            let mut fake = machine();
            let given = serde_json::from_str(arguments).expect("JSON");
            call(&MODULE, &given, &mut fake).map(|_| {
                fake.log()
                    .iter()
                    .filter(|line| line.starts_with('!'))
                    .map(|line| line.replace("! /usr/bin/supervisorctl ", ""))
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(
            acts(r#"{"name":"web","state":"restarted"}"#).expect("works"),
            ["reread", "update web", "restart web"]
        );
        assert_eq!(
            acts(r#"{"name":"web","state":"signalled","signal":"HUP"}"#).expect("works"),
            ["signal HUP web"]
        );
        assert_eq!(
            acts(r#"{"name":"web","state":"absent","stop_before_removing":true}"#).expect("works"),
            ["stop web", "reread", "remove web"]
        );
        assert!(
            acts(r#"{"name":"gone","state":"started"}"#).expect_err("unknown").contains("no such process")
        );
    }

    #[test]
    fn a_password_is_on_no_command_line() {
        let mut fake = machine();
        let given =
            serde_json::from_str(r#"{"name":"web","state":"stopped","username":"me","password":"se%cret"}"#)
                .expect("JSON");
        call(&MODULE, &given, &mut fake).expect("it works");
        assert!(fake.log().iter().all(|line| !line.contains("cret")), "{:?}", fake.log());
        assert_eq!(
            fake.text("/tmp/scratch/supervisorctl.conf").as_deref(),
            Some("[supervisorctl]\nserverurl=unix:///run/s.sock\nusername=me\npassword=se%%cret\n")
        );
        assert_eq!(fake.mode("/tmp/scratch/supervisorctl.conf"), Some(0o600));
    }
}
