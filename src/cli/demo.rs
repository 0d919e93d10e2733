//! `setpoint demo`: a site applied to sandbox hosts on loopback, over real SSH, in a directory of its own.

use std::path::{Path, PathBuf};

use clap::{Args, Parser};

use super::exit::Exit;
use super::failure::Failure;
use super::run::Run;
use super::{Console, run};
use crate::transport::{Sandbox, SandboxHost};

/// Try it: a site applied to sandbox hosts on this machine, over SSH
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Starts SSH servers on loopback in this process, makes a directory for each host, and applies the\n\
    site to them: first as a dry run, then for real, then again (nothing is left to do), then after a\n\
    change by hand. Needs no root and touches nothing outside its directory."
)]
pub struct Demo {
    /// How many hosts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub hosts: u8,
    /// Keep everything in this directory afterwards; it must not exist yet
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// The site: path below the demo's directory, and content.
const SITE: &[(&str, &str)] = &[
    ("site.yml", include_str!("../../playbooks/demo/site.yml")),
    ("roles/app/defaults/main.yml", include_str!("../../playbooks/demo/roles/app/defaults/main.yml")),
    ("roles/app/tasks/main.yml", include_str!("../../playbooks/demo/roles/app/tasks/main.yml")),
    ("roles/app/handlers/main.yml", include_str!("../../playbooks/demo/roles/app/handlers/main.yml")),
    ("roles/app/templates/app.conf.j2", include_str!("../../playbooks/demo/roles/app/templates/app.conf.j2")),
    ("roles/app/files/index.html", include_str!("../../playbooks/demo/roles/app/files/index.html")),
];

/// A command line of its own, so that the demo does exactly what a user would.
#[derive(Parser)]
struct Line {
    #[command(flatten)]
    run: Run,
}

/// Carries out the subcommand.
///
/// # Errors
/// The directory can't be made, or a run does not go as it must.
pub fn run(args: &Demo, console: &mut Console) -> Result<Exit, Failure> {
    let temporary;
    let dir = match &args.keep {
        Some(dir) => {
            std::fs::create_dir(dir)
                .map_err(|error| Failure::error(format!("{}: {error}", dir.display())))?;
            std::path::absolute(dir)?
        }
        None => {
            temporary = tempfile::Builder::new().prefix("setpoint-demo-").tempdir()?;
            temporary.path().to_path_buf()
        }
    };
    for (name, text) in SITE {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)?;
    }
    let names: Vec<String> = (1..=args.hosts)
        .map(|number| if number == 1 { "front".into() } else { format!("app{}", number - 1) })
        .collect();
    let hosts_dir = dir.join("hosts");
    std::fs::create_dir_all(&hosts_dir)?;
    let sandbox = Sandbox::start(&hosts_dir, &names)?;
    std::fs::write(dir.join("hosts.ini"), inventory(&sandbox, &names))?;

    console.print(&format!(
        "{} hosts listen on loopback; everything is in {}\n",
        names.len(),
        dir.display()
    ))?;
    for (name, host) in names.iter().zip(&sandbox.hosts) {
        console.print(&format!("  {name:<8} ssh://{}\n", host.address))?;
    }
    say(console, "1. A dry run: what would change?  setpoint run site.yml -i hosts.ini --check")?;
    expect(playbook(&dir, &["--check", "--detailed-exitcode"], console)?, Exit::WouldChange)?;
    say(console, "2. For real.  setpoint run site.yml -i hosts.ini")?;
    expect(playbook(&dir, &["--detailed-exitcode"], console)?, Exit::Changed)?;
    say(console, "3. Again: nothing is left to do, and each host is asked once for all tasks together.")?;
    expect(playbook(&dir, &["--detailed-exitcode"], console)?, Exit::Success)?;
    say(console, "4. Somebody edits a file on `front` by hand. What differs?  … --check --diff -l front")?;
    tamper(&sandbox.hosts[0])?;
    expect(
        playbook(&dir, &["--check", "--diff", "-l", "front", "--detailed-exitcode"], console)?,
        Exit::WouldChange,
    )?;
    say(console, "5. And back.  setpoint run site.yml -i hosts.ini -l front")?;
    expect(playbook(&dir, &["-l", "front", "--detailed-exitcode"], console)?, Exit::Changed)?;
    console.print(
        "\nThat was it. Next, on hosts of yours:\n  \
         setpoint run site.yml -i inventory/ --check --diff    what would change\n  \
         setpoint run site.yml -i inventory/                   change it\n  \
         setpoint exec all -i inventory/ -m setup              what is known of the hosts\n  \
         setpoint doc template                                 a module's parameters\n",
    )?;
    Ok(Exit::Success)
}

fn say(console: &Console, text: &str) -> Result<(), Failure> {
    console.print(&format!("\n==> {text}\n"))
}

fn expect(exit: Exit, expected: Exit) -> Result<(), Failure> {
    if exit == expected {
        return Ok(());
    }
    Err(Failure::error(format!(
        "the demo ended with exit code {} where {} was expected",
        exit.code(),
        expected.code()
    )))
}

fn playbook(dir: &Path, more: &[&str], console: &mut Console) -> Result<Exit, Failure> {
    let site = dir.join("site.yml");
    let inventory = dir.join("hosts.ini");
    let mut words = vec!["run".into(), site.into_os_string(), "-i".into(), inventory.into_os_string()];
    words.extend(more.iter().map(Into::into));
    let line = Line::try_parse_from(words).map_err(|error| Failure::options(error.to_string()))?;
    run::run(&line.run, console)
}

fn inventory(sandbox: &Sandbox, names: &[String]) -> String {
    let mut text = String::from("[all]\n");
    for (name, host) in names.iter().zip(&sandbox.hosts) {
        text.push_str(&format!(
            "{name} ansible_host={} ansible_port={} sandbox={}\n",
            host.address.ip(),
            host.address.port(),
            host.root.display()
        ));
    }
    text.push_str(&format!(
        "\n[all:vars]\nansible_connection=ssh\nansible_user=demo\nansible_ssh_private_key_file={}\nansible_ssh_common_args=-F /dev/null -o UserKnownHostsFile={} -o StrictHostKeyChecking=yes\n",
        sandbox.key.display(),
        sandbox.known_hosts.display()
    ));
    text
}

/// What somebody does by hand at night.
fn tamper(host: &SandboxHost) -> Result<(), Failure> {
    let path = host.root.join("etc/shop.conf");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, text.replace("port = 8080", "port = 9090"))?;
    Ok(())
}
