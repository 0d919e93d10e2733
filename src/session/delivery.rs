//! Getting the runner started on a host: one round trip if it is there, one push if it is not.

use std::borrow::Cow;

use super::runners::{Runner, Runners};

/// The longest line that the script prints.
const MAX_LINE: usize = 4096;

/// The script for a host's shell. `first` is how many bytes for the runner are sent right behind it.
pub(super) fn script(runners: &Runners, first: usize, cache: bool) -> String {
    let sums: Vec<&str> = runners.all().iter().map(|runner| runner.sha256.as_ref()).collect();
    let kib = runners.all().iter().map(|runner| runner.program.len().div_ceil(1024)).max().unwrap_or(0);
    let code: Vec<&str> = include_str!("delivery.sh")
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    code.join("\n")
        .replace("@RUNNERS@", &sums.join(" "))
        .replace("@FIRST@", &first.to_string())
        .replace("@KIB@", &kib.to_string())
        .replace("@CACHE@", if cache { "1" } else { "0" })
}

/// What the script says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The runner begins; everything after this line is frames.
    Run,
    /// The runner is wanted.
    Need {
        /// As `uname -m` says it.
        arch: String,
        /// The host can decompress.
        gzip: bool,
    },
    /// It can't be started.
    Fail(String),
}

/// Takes a whole line off the front of what came. `Err` holds what came instead of a word.
pub(super) fn next_word(bytes: &mut Vec<u8>) -> Result<Option<Word>, String> {
    let shown = |bytes: &[u8]| {
        let text: String = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_string()
    };
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() > MAX_LINE { Err(shown(bytes)) } else { Ok(None) };
    };
    let line: Vec<u8> = bytes.drain(..=end).collect();
    let text = String::from_utf8_lossy(&line);
    let mut words = text.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some("RUN"), None, None) => Ok(Some(Word::Run)),
        (Some("NEED"), Some(arch), Some(packing)) => {
            Ok(Some(Word::Need { arch: arch.to_string(), gzip: packing == "gzip" }))
        }
        (Some("FAIL"), ..) => Ok(Some(Word::Fail(shown(&line)[4..].trim().to_string()))),
        _ => Err(shown(&line)),
    }
}

/// What answers [`Word::Need`]: a line, and what follows it.
pub(super) fn push(runner: &Runner, gzip: bool) -> (String, Cow<'static, [u8]>) {
    let (packing, body) = if gzip { ("gzip", &runner.gzip) } else { ("plain", &runner.program) };
    let line = format!("{} {} {} {packing}\n", body.len(), runner.sha256, runner.program.len());
    (line, body.clone())
}
