//! `setpoint drift report`: an audit of the store, in the form that somebody wants it in.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::options::Flags;
use crate::cli::{Console, state};
use crate::report::audit::{AuditReport, Format};
use crate::state::Store;

/// How many audits a trend is made of.
const TREND: u64 = 60;

/// Report an audit: terminal, JSON, JUnit, SARIF, Prometheus, or one HTML page
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Report {
    /// The audit: its name or the beginning of it, `last`, or `last~N` for the N-th before
    #[arg(value_name = "AUDIT", default_value = "last")]
    pub audit: String,
    /// In which form: terminal, json, junit, sarif, prometheus, html
    #[arg(long, value_name = "FORMAT", default_value = "terminal", value_parser = format)]
    pub format: Format,
    /// Into this file, which is replaced at once; `-` is standard output
    #[arg(short = 'o', long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  setpoint drift report                                   the last audit
  setpoint drift report --format html -o drift.html       one page that needs no server and no network
  setpoint drift report --format sarif -o drift.sarif     for code scanning
  setpoint drift report --format prometheus -o /var/lib/node_exporter/textfile/setpoint.prom";

fn format(name: &str) -> Result<Format, String> {
    Format::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = Format::ALL.iter().map(|(name, _)| *name).collect();
        format!("there are {}", known.join(", "))
    })
}

/// Carries out the subcommand.
///
/// # Errors
/// There is no such audit, or the file can't be written.
pub fn run(args: &Report, console: &mut Console) -> Result<Exit, Failure> {
    let settings = console.settings(&Flags::default())?;
    let mut store = state::open(&settings, console)?;
    let report = read(&mut store, &args.audit)?;
    let text = report.render(args.format);
    if args.output.as_os_str() == "-" {
        console.print(&text)?;
    } else {
        replace(&args.output, &text)
            .map_err(|error| Failure::error(format!("can't write {}: {error}", args.output.display())))?;
    }
    Ok(Exit::Success)
}

/// An audit of the store, with those before it.
pub(super) fn read(store: &mut Store, word: &str) -> Result<AuditReport, Failure> {
    let audit = store.find_audit(word)?;
    let id = audit.new.id.clone();
    let trend = store.audits(1000)?.into_iter().filter(|other| other.started <= audit.started);
    let trend = trend.take(usize::try_from(TREND).unwrap_or(usize::MAX)).collect();
    Ok(AuditReport { hosts: store.audit_hosts(&id)?, findings: store.findings(&id)?, trend, audit })
}

/// Replaces a file at once: whoever reads it sees the old or the new one.
pub(super) fn replace(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".setpoint-")
        .tempfile_in(directory.unwrap_or_else(|| ".".as_ref()))?;
    file.write_all(text.as_bytes())?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
