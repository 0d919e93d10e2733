//! Where text goes: standard output and standard error, and the one live line on a terminal that must never
//! get mixed up with them.

use std::io::Write;

use unicode_width::UnicodeWidthStr as _;

use super::clock::Clock;
use super::style::{Role, Style};
use crate::config::Display;

/// A stream with what is known of it.
pub struct Stream {
    /// Where bytes go.
    pub to: Box<dyn Write + Send>,
    /// It is a terminal.
    pub terminal: bool,
}

/// Standard output and error.
pub struct Streams {
    /// Results.
    pub out: Stream,
    /// Warnings.
    pub err: Stream,
    /// Columns of the terminal, if there is one.
    pub columns: Option<usize>,
}

/// Writes whole lines to both streams.
pub(super) struct Screen {
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    columns: Option<usize>,
    live: bool,
    shown: bool,
    out_style: Style,
    err_style: Style,
    /// Text that is not written yet.
    pending: String,
    /// Copy of all that is shown, without colours.
    log: Option<(Box<dyn Write + Send>, Clock)>,
}

impl Screen {
    pub(super) fn new(streams: Streams, display: &Display) -> Screen {
        Screen {
            out_style: Style::new(display, streams.out.terminal),
            err_style: Style::new(display, streams.err.terminal),
            live: streams.out.terminal,
            shown: false,
            out: streams.out.to,
            err: streams.err.to,
            columns: streams.columns,
            pending: String::new(),
            log: None,
        }
    }

    pub(super) fn style(&self) -> &Style {
        &self.out_style
    }

    /// Text on standard output, in a colour, with a newline.
    pub(super) fn line(&mut self, role: Option<Role>, text: &str) {
        let safe = self.out_style.safe(text);
        match role {
            Some(role) => self.pending.push_str(&self.out_style.paint(role, &safe)),
            None => self.pending.push_str(&safe),
        }
        self.pending.push('\n');
        self.keep(text);
    }

    /// Text that was dressed by the caller; it may bring its newline along.
    pub(super) fn dressed(&mut self, text: &str, plain: &str) {
        self.pending.push_str(text);
        if !text.ends_with('\n') {
            self.pending.push('\n');
        }
        self.keep(plain);
    }

    /// Text on standard error, in a colour, with a newline.
    pub(super) fn error_line(&mut self, role: Role, text: &str) {
        self.flush();
        let safe = self.err_style.safe(text);
        let painted = self.err_style.paint(role, &safe);
        self.clear();
        // A closed standard error is no reason to stop a run that is changing hosts.
        let _ = self.err.write_all(format!("{painted}\n").as_bytes());
        let _ = self.err.flush();
        self.keep(text);
    }

    /// A banner: an empty line, the text, stars up to the width.
    pub(super) fn banner(&mut self, text: &str) {
        let safe = self.out_style.safe(text).replace('\n', " ");
        let width = self.columns.map_or(79, |columns| columns.saturating_sub(1)).max(79);
        let stars = width.saturating_sub(safe.width()).max(3);
        let line = format!("\n{safe} {}", "*".repeat(stars));
        self.pending.push_str(&line);
        self.pending.push('\n');
        self.keep(&line);
    }

    /// Writes what is pending.
    pub(super) fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        self.clear();
        // As for standard error: a reader that went away must not end a run in the middle of a change.
        let _ = self.out.write_all(self.pending.as_bytes());
        let _ = self.out.flush();
        self.pending.clear();
    }

    /// Shows the live line, on a terminal; cut to its width.
    pub(super) fn progress(&mut self, text: &str) {
        self.flush();
        if !self.live {
            return;
        }
        let most = self.columns.unwrap_or(80).saturating_sub(1);
        let safe = super::style::defuse(text).replace(['\n', '\t'], " ");
        let mut cut = String::new();
        for c in safe.chars() {
            if cut.width() + c.to_string().width() > most {
                break;
            }
            cut.push(c);
        }
        let _ = self.out.write_all(format!("\r\x1b[2K{cut}").as_bytes());
        let _ = self.out.flush();
        self.shown = true;
    }

    /// Removes the live line.
    pub(super) fn clear(&mut self) {
        if self.shown {
            let _ = self.out.write_all(b"\r\x1b[2K");
            let _ = self.out.flush();
            self.shown = false;
        }
    }

    /// Keeps a copy of all lines from now on, each with the time.
    pub(super) fn log_to(&mut self, log: Box<dyn Write + Send>, clock: Clock) {
        self.log = Some((log, clock));
    }

    fn keep(&mut self, text: &str) {
        let Some((log, clock)) = &mut self.log else { return };
        let time = super::clock::iso(clock());
        for line in text.lines() {
            // A log that can't be written any more must not end a run in the middle of a change.
            let _ = writeln!(log, "{time} | {line}");
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.flush();
        self.clear();
    }
}
