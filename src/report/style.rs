//! Colours, and the guard that keeps a host's text from steering the terminal.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::config::Display;

/// What a piece of text is, which decides its colour. The names are those of the `[colors]` settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Nothing changed.
    Ok,
    /// Something changed.
    Changed,
    /// Skipped, ignored.
    Skip,
    /// Failed.
    Error,
    /// Not reached.
    Unreachable,
    /// A warning.
    Warn,
    /// Something deprecated.
    Deprecate,
    /// A file was included.
    Included,
    /// Retries, polls, paths.
    Debug,
    /// What `-v` adds.
    Verbose,
    /// A banner.
    Highlight,
    /// Added lines.
    DiffAdd,
    /// Removed lines.
    DiffRemove,
    /// Hunk headers.
    DiffLines,
}

const ROLES: &[(Role, &str)] = &[
    (Role::Ok, "ok"),
    (Role::Changed, "changed"),
    (Role::Skip, "skip"),
    (Role::Error, "error"),
    (Role::Unreachable, "unreachable"),
    (Role::Warn, "warn"),
    (Role::Deprecate, "deprecate"),
    (Role::Included, "included"),
    (Role::Debug, "debug"),
    (Role::Verbose, "verbose"),
    (Role::Highlight, "highlight"),
    (Role::DiffAdd, "diff_add"),
    (Role::DiffRemove, "diff_remove"),
    (Role::DiffLines, "diff_lines"),
];

/// Names of colours and their SGR parameters.
const COLORS: &[(&str, &str)] = &[
    ("black", "0;30"),
    ("bright gray", "0;37"),
    ("blue", "0;34"),
    ("white", "1;37"),
    ("green", "0;32"),
    ("bright blue", "1;34"),
    ("cyan", "0;36"),
    ("bright green", "1;32"),
    ("red", "0;31"),
    ("bright cyan", "1;36"),
    ("purple", "0;35"),
    ("bright red", "1;31"),
    ("yellow", "0;33"),
    ("bright purple", "1;35"),
    ("dark gray", "1;30"),
    ("bright yellow", "1;33"),
    ("magenta", "0;35"),
    ("bright magenta", "1;35"),
    ("normal", "0"),
];

/// How text is dressed for one stream.
#[derive(Clone, Debug, Default)]
pub struct Style {
    /// SGR parameters by role; `None`: no colours.
    palette: Option<BTreeMap<Role, String>>,
    /// Control characters are shown instead of sent.
    guard: bool,
}

impl Style {
    /// The style for a stream that is, or is not, a terminal.
    pub fn new(display: &Display, terminal: bool) -> Style {
        let colored = display.force_color || (terminal && !display.no_color);
        let palette = || {
            ROLES
                .iter()
                .filter_map(|(role, name)| {
                    let color = display.colors.get(*name)?;
                    Some((*role, sgr(color)?))
                })
                .collect()
        };
        Style { palette: colored.then(palette), guard: terminal || colored }
    }

    /// Whether there are colours.
    pub fn colored(&self) -> bool {
        self.palette.is_some()
    }

    /// The text in the role's colour, line by line, so that a pager keeps it.
    pub fn paint<'a>(&self, role: Role, text: &'a str) -> Cow<'a, str> {
        let Some(code) = self.palette.as_ref().and_then(|palette| palette.get(&role)) else {
            return Cow::Borrowed(text);
        };
        let lines: Vec<String> = text.split('\n').map(|line| format!("\x1b[{code}m{line}\x1b[0m")).collect();
        Cow::Owned(lines.join("\n"))
    }

    /// The text without characters that steer a terminal (they are shown as `\x1b`), if it goes to one.
    pub fn safe<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.guard { defuse(text) } else { Cow::Borrowed(text) }
    }
}

/// Shows control characters other than newline and tab, and the characters that turn the direction of
/// writing, instead of sending them.
pub fn defuse(text: &str) -> Cow<'_, str> {
    let steers = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let text = text.replace("\r\n", "\n");
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if !steers(c) {
            out.push(c);
        } else if (c as u32) < 0x100 {
            out.push_str(&format!("\\x{:02x}", c as u32));
        } else {
            out.push_str(&format!("\\u{:04x}", c as u32));
        }
    }
    Cow::Owned(out)
}

/// SGR parameters of a colour's name: one of the names, `colorN`, `grayN`, `rgbRGB`.
fn sgr(name: &str) -> Option<String> {
    if let Some((_, code)) = COLORS.iter().find(|(known, _)| *known == name) {
        return Some((*code).to_owned());
    }
    let number = |text: &str, most: u16| text.parse::<u16>().ok().filter(|number| *number <= most);
    if let Some(index) = name.strip_prefix("color").and_then(|text| number(text, 255)) {
        return Some(format!("38;5;{index}"));
    }
    if let Some(index) = name.strip_prefix("gray").and_then(|text| number(text, 23)) {
        return Some(format!("38;5;{}", 232 + index));
    }
    let rgb: Vec<u32> = name.strip_prefix("rgb")?.chars().map(|c| c.to_digit(6)).collect::<Option<_>>()?;
    match rgb.as_slice() {
        [red, green, blue] => Some(format!("38;5;{}", 16 + 36 * red + 6 * green + blue)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_cannot_steer_the_terminal() {
        assert_eq!(defuse("a\x1b]0;owned\x07b\r\nc\td\n"), "a\\x1b]0;owned\\x07b\nc\td\n");
        assert_eq!(defuse("\u{9b}31m\u{202e}x"), "\\x9b31m\\u202ex");
        assert_eq!(defuse("plain ünïcode"), "plain ünïcode");
    }

    #[test]
    fn colors_by_name() {
        for (name, code) in [
            ("bright red", Some("1;31")),
            ("color208", Some("38;5;208")),
            ("gray0", Some("38;5;232")),
            ("rgb500", Some("38;5;196")),
            ("mauve", None),
            ("color999", None),
        ] {
            assert_eq!(sgr(name).as_deref(), code, "{name}");
        }
    }
}
