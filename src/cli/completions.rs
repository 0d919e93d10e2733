//! `setpoint completions` and `setpoint man`: made from the same definitions as the help.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::exit::Exit;
use super::failure::Failure;
use super::{Cli, Console};

/// Print completions for a shell
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setpoint completions bash > /etc/bash_completion.d/setpoint
  setpoint completions zsh > \"${fpath[1]}/_setpoint\"
  setpoint completions fish > ~/.config/fish/completions/setpoint.fish")]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Carries out the subcommand.
///
/// # Errors
/// Standard output can't be written to.
pub fn run(args: &Completions, console: &mut Console) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "setpoint", &mut text);
    console.print(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Success)
}

/// Print the manual page, or write all pages to a directory
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  setpoint man | man -l -
  setpoint man /usr/local/share/man/man1")]
pub struct Man {
    /// Directory for the pages (setpoint.1, setpoint-run.1, …)
    pub directory: Option<PathBuf>,
}

/// Carries out the subcommand.
///
/// # Errors
/// A file can't be written.
pub fn man(args: &Man, console: &mut Console) -> Result<Exit, Failure> {
    let Some(directory) = &args.directory else {
        let mut text = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut text)?;
        console.print(&String::from_utf8_lossy(&text))?;
        return Ok(Exit::Success);
    };
    std::fs::create_dir_all(directory)?;
    let mut command = Cli::command();
    command.build();
    let pages = std::iter::once(("setpoint".to_owned(), command.clone()))
        .chain(command.get_subcommands().map(|sub| (format!("setpoint-{}", sub.get_name()), sub.clone())));
    for (name, command) in pages {
        let mut text = Vec::new();
        // The page's own name has the dash; clap wants names to live for ever.
        let title: &'static str = Box::leak(name.clone().into_boxed_str());
        clap_mangen::Man::new(command.name(title)).render(&mut text)?;
        std::fs::write(directory.join(format!("{name}.1")), text)?;
    }
    Ok(Exit::Success)
}
