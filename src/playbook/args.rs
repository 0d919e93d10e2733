//! `k=v` text: how a task's arguments in one line are split.
//!
//! The text is split before anything is rendered, so a value that a template gives can hold spaces or
//! quotes without becoming another argument.

/// What the text after an action's name says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs {
    /// `k=v`, in order, quotes removed.
    pub pairs: Vec<(String, String)>,
    /// What is not `k=v`.
    pub raw: Option<String>,
}

/// The options that are lifted out of the text of `command` and its kin.
const COMMAND_OPTIONS: &[&str] =
    &["creates", "removes", "chdir", "executable", "warn", "stdin", "stdin_add_newline", "strip_empty_ends"];

/// A word of the text, and the white space between it and the next.
#[derive(Debug, PartialEq, Eq)]
struct Word<'a> {
    text: &'a str,
    gap: &'a str,
}

/// Splits at spaces and newlines that are outside of quotes and templates.
fn words(text: &str) -> Result<Vec<Word<'_>>, Unbalanced> {
    let mut out: Vec<Word<'_>> = Vec::new();
    let mut state = State::default();
    let mut start = text.len() - text.trim_start_matches([' ', '\n']).len();
    let mut end = None;
    let first = start;
    for (at, character) in text.char_indices().skip_while(|(at, _)| *at < first) {
        let is_gap = matches!(character, ' ' | '\n') && state.is_outside();
        match (is_gap, end) {
            (true, None) => end = Some(at),
            (false, Some(word_end)) => {
                out.push(Word { text: &text[start..word_end], gap: &text[word_end..at] });
                (start, end) = (at, None);
            }
            _ => {}
        }
        if is_gap {
            (state.previous, state.half) = (Some(character), None);
        } else {
            state.see(character);
        }
    }
    if !state.is_outside() {
        return Err(Unbalanced);
    }
    let word_end = end.unwrap_or(text.len());
    out.push(Word { text: &text[start..word_end], gap: &text[word_end..] });
    out.retain(|word| !word.text.is_empty());
    Ok(out)
}

/// A quote or a template that is opened and not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a quote or a template is opened and not closed in this text")]
pub struct Unbalanced;

/// Inside of what a character stands.
#[derive(Default)]
struct State {
    quote: Option<char>,
    print: usize,
    block: usize,
    comment: usize,
    previous: Option<char>,
    /// The previous character, unless it was the end of a pair: `{{{` opens one template.
    half: Option<char>,
}

impl State {
    fn is_outside(&self) -> bool {
        self.quote.is_none() && self.print == 0 && self.block == 0 && self.comment == 0
    }

    fn see(&mut self, character: char) {
        if matches!(character, '"' | '\'') && self.previous != Some('\\') {
            match self.quote {
                Some(quote) if quote == character => self.quote = None,
                Some(_) => {}
                None => self.quote = Some(character),
            }
        }
        let half = self.half.replace(character);
        self.previous = Some(character);
        let (depth, opens) = match (half, character) {
            (Some('{'), '{') => (&mut self.print, true),
            (Some('{'), '%') => (&mut self.block, true),
            (Some('{'), '#') => (&mut self.comment, true),
            (Some('}'), '}') => (&mut self.print, false),
            (Some('%'), '}') => (&mut self.block, false),
            (Some('#'), '}') => (&mut self.comment, false),
            _ => return,
        };
        *depth = if opens { *depth + 1 } else { depth.saturating_sub(1) };
        self.half = None;
    }
}

/// Splits `k=v` text. With `free_form`, only the options of `command` count as `k=v`.
///
/// # Errors
/// A quote or template is opened and not closed.
pub fn parse(text: &str, free_form: bool) -> Result<Pairs, Unbalanced> {
    let mut out = Pairs::default();
    let words = words(text)?;
    let mut raw = String::new();
    let mut gap = text[..text.len() - text.trim_start_matches([' ', '\n']).len()].to_owned();
    let mut has_raw = false;
    let mut follows_option = false;
    for (index, word) in words.iter().enumerate() {
        if word.text == "\\" && (word.gap.starts_with('\n') || word.gap.is_empty()) {
            // A line goes on after a backslash. Of what indents the next one, one space is lost, and all after an
            // option, which takes it along.
            let rest = word.gap.strip_prefix('\n').unwrap_or_default();
            let rest = rest.strip_prefix(' ').unwrap_or(rest);
            if rest.starts_with('\n') && gap.ends_with(' ') {
                gap.pop();
            }
            gap.push_str(if follows_option { "" } else { rest });
            continue;
        }
        let decoded = decode_escapes(word.text);
        let mut keep = |text: &str| {
            // One space before the text is no part of it; more are.
            if has_raw || (index == 0 && gap != " ") {
                raw.push_str(&gap);
            }
            raw.push_str(text);
            word.gap.clone_into(&mut gap);
            has_raw = true;
            follows_option = false;
            if index + 1 == words.len() {
                raw.push_str(&gap);
            }
        };
        if !decoded.contains('=') {
            keep(word.text);
            continue;
        }
        let Some(at) = split_point(&decoded) else {
            keep(&decoded.replace("\\=", "="));
            continue;
        };
        let (key, value) = (decoded[..at].trim(), decoded[at + 1..].trim());
        if free_form && !COMMAND_OPTIONS.contains(&key) {
            keep(word.text);
            continue;
        }
        follows_option = true;
        let pair = (key.to_owned(), unquote(value).to_owned());
        match out.pairs.iter_mut().find(|(name, _)| *name == pair.0) {
            Some(known) => *known = pair,
            None => out.pairs.push(pair),
        }
    }
    out.raw = has_raw.then_some(raw);
    Ok(out)
}

/// The first word of the text, and the rest.
///
/// # Errors
/// A quote or template is opened and not closed.
pub fn first_word(text: &str) -> Result<(&str, &str), Unbalanced> {
    let text = text.trim_start_matches([' ', '\n']);
    let first = words(text)?.into_iter().next().map_or("", |word| word.text);
    Ok((first, text[first.len()..].trim_start_matches([' ', '\n'])))
}

/// Whether quotes and templates in the text are closed.
pub fn is_balanced(text: &str) -> bool {
    words(text).is_ok()
}

/// The place of the first `=` that is neither at the start nor escaped.
fn split_point(word: &str) -> Option<usize> {
    word.char_indices()
        .filter(|(at, character)| *character == '=' && *at > 0)
        .map(|(at, _)| at)
        .find(|at| !word[..*at].ends_with('\\'))
}

/// Removes quotes that are around all of it.
fn unquote(text: &str) -> &str {
    let mut characters = text.chars();
    match (characters.next(), characters.next_back()) {
        (Some(first @ ('"' | '\'')), Some(last)) if first == last => {
            let inner = characters.as_str();
            if inner.ends_with('\\') { text } else { inner }
        }
        _ => text,
    }
}

/// Escapes: `\n`, `\t`, `\x41`, `\u00e9`, `\'`, `\"`, `\\`. A digit stays what it is: `\1` is a group of a
/// regular expression.
fn decode_escapes(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        match escape(after) {
            Some((character, length)) => {
                out.push(character);
                rest = &after[length..];
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

/// The character that an escape means and how many bytes after the backslash it takes.
fn escape(after: &str) -> Option<(char, usize)> {
    let code = |digits: usize, skip: usize, radix: u32| -> Option<(char, usize)> {
        let text = after.get(skip..skip + digits)?;
        let number = u32::from_str_radix(text, radix).ok().filter(|_| !text.starts_with('+'))?;
        char::from_u32(number).map(|character| (character, skip + digits))
    };
    let simple = |character| Some((character, 1));
    match after.chars().next()? {
        '\\' => simple('\\'),
        '\'' => simple('\''),
        '"' => simple('"'),
        'a' => simple('\x07'),
        'b' => simple('\x08'),
        'f' => simple('\x0c'),
        'n' => simple('\n'),
        'r' => simple('\r'),
        't' => simple('\t'),
        'v' => simple('\x0b'),
        'x' => code(2, 1, 16),
        'u' => code(4, 1, 16),
        'U' => code(8, 1, 16),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a table's row expects: pairs, and raw text; nothing for an error.
    type Expected = Option<(&'static [(&'static str, &'static str)], Option<&'static str>)>;

    /// The results were recorded from ansible-core.
    #[test]
    fn text_is_split_as_ansible_splits_it() {
        let table: &[(&str, bool, Expected)] = &[
            ("a \\\n b", true, Some((&[], Some("a b")))),
            (
                "echo a \\\n\"b c\" \\\n\"new\nline\" \\\n| x\necho d\n",
                true,
                Some((&[], Some("echo a \"b c\" \"new\nline\" | x\necho d\n"))),
            ),
            ("a\n\\\nb", true, Some((&[], Some("a\nb")))),
            ("a \\\n\nb", true, Some((&[], Some("a\nb")))),
            ("a  \\\n   b", true, Some((&[], Some("a    b")))),
            ("a chdir=/x \\\n  b", true, Some((&[("chdir", "/x")], Some("a b")))),
            ("a b \\\nchdir=/x \\\n c", true, Some((&[("chdir", "/x")], Some("a b c")))),
            ("creates=x \\\na \\\nb", true, Some((&[("creates", "x")], Some("a b")))),
            ("a \\\n", true, Some((&[], Some("a")))),
            ("echo  a   b", false, Some((&[], Some("echo  a   b")))),
            ("echo  a   b", true, Some((&[], Some("echo  a   b")))),
            ("ls chdir=/tmp -la", false, Some((&[("chdir", "/tmp")], Some("ls -la")))),
            ("ls chdir=/tmp -la", true, Some((&[("chdir", "/tmp")], Some("ls -la")))),
            ("a=b c=\"d e\"", false, Some((&[("a", "b"), ("c", "d e")], None))),
            ("a=b c=\"d e\"", true, Some((&[], Some("a=b c=\"d e\"")))),
            (
                "msg='{{ x | default(\"a b\") }}' y={{ z }}",
                false,
                Some((&[("msg", "{{ x | default(\"a b\") }}"), ("y", "{{ z }}")], None)),
            ),
            (
                "msg='{{ x | default(\"a b\") }}' y={{ z }}",
                true,
                Some((&[], Some("msg='{{ x | default(\"a b\") }}' y={{ z }}"))),
            ),
            ("a\\=b c=d", false, Some((&[("c", "d")], Some("a=b")))),
            ("a\\=b c=d", true, Some((&[], Some("a=b c=d")))),
            ("it's", false, None),
            ("it's", true, None),
            ("echo hi\necho  b\n", false, Some((&[], Some("echo hi\necho  b\n")))),
            ("echo hi\necho  b\n", true, Some((&[], Some("echo hi\necho  b\n")))),
            ("  lead x=1 ", false, Some((&[("x", "1")], Some("  lead")))),
            ("  lead x=1 ", true, Some((&[], Some("  lead x=1 ")))),
            ("a=b\nc=d", false, Some((&[("a", "b"), ("c", "d")], None))),
            ("a=b\nc=d", true, Some((&[], Some("a=b\nc=d")))),
            (
                "creates=/x echo creates=1 foo=bar",
                false,
                Some((&[("creates", "1"), ("foo", "bar")], Some("echo"))),
            ),
            ("creates=/x echo creates=1 foo=bar", true, Some((&[("creates", "1")], Some("echo foo=bar")))),
            ("name=\"x\\\"y\"", false, Some((&[("name", "x\"y")], None))),
            ("name=\"x\\\"y\"", true, Some((&[], Some("name=\"x\\\"y\"")))),
            ("p=\\n\\t\\x41", false, Some((&[("p", "A")], None))),
            ("replace='\"\\1\"' x=\\0", false, Some((&[("replace", "\"\\1\""), ("x", "\\0")], None))),
            ("p=\\n\\t\\x41", true, Some((&[], Some("p=\\n\\t\\x41")))),
            ("{{ a b }}", false, Some((&[], Some("{{ a b }}")))),
            ("{{ a b }}", true, Some((&[], Some("{{ a b }}")))),
            ("x={% if a %}b c{% endif %}", false, Some((&[("x", "{% if a %}b")], Some("c{% endif %}")))),
            ("x={% if a %}b c{% endif %}", true, Some((&[], Some("x={% if a %}b c{% endif %}")))),
            ("=a b=", false, Some((&[("b", "")], Some("=a")))),
            ("=a b=", true, Some((&[], Some("=a b=")))),
            ("a= b", false, Some((&[("a", "")], Some("b")))),
            ("a= b", true, Some((&[], Some("a= b")))),
            ("a='b\\'", false, None),
            ("a='b\\'", true, None),
            ("a=\"b\"c", false, Some((&[("a", "\"b\"c")], None))),
            ("a=\"b\"c", true, Some((&[], Some("a=\"b\"c")))),
            (
                "echo \"a  b\"   c executable=/bin/sh\n\nfoo",
                false,
                Some((&[("executable", "/bin/sh")], Some("echo \"a  b\"   c foo"))),
            ),
            (
                "echo \"a  b\"   c executable=/bin/sh\n\nfoo",
                true,
                Some((&[("executable", "/bin/sh")], Some("echo \"a  b\"   c foo"))),
            ),
            ("a=b=c", false, Some((&[("a", "b=c")], None))),
            ("a=b=c", true, Some((&[], Some("a=b=c")))),
            ("\\", false, Some((&[], None))),
            ("\\", true, Some((&[], None))),
            ("a=\\\\", false, Some((&[("a", "\\")], None))),
            ("a=\\\\", true, Some((&[], Some("a=\\\\")))),
            ("a='x' a=y", false, Some((&[("a", "y")], None))),
            ("a='x' a=y", true, Some((&[], Some("a='x' a=y")))),
            ("echo \\n", false, Some((&[], Some("echo \\n")))),
            ("echo \\n", true, Some((&[], Some("echo \\n")))),
            ("echo a\\=b", false, Some((&[], Some("echo a=b")))),
            ("echo a\\=b", true, Some((&[], Some("echo a=b")))),
            ("foo \"a=b\" c", false, Some((&[("\"a", "b\"")], Some("foo c")))),
            ("foo \"a=b\" c", true, Some((&[], Some("foo \"a=b\" c")))),
            ("x='a=b c'", false, Some((&[("x", "a=b c")], None))),
            ("x='a=b c'", true, Some((&[], Some("x='a=b c'")))),
            ("tab\there a=b", false, Some((&[("a", "b")], Some("tab\there")))),
            ("tab\there a=b", true, Some((&[], Some("tab\there a=b")))),
            ("echo a \\\n  b chdir=/x \\\n c", false, Some((&[("chdir", "/x")], Some("echo a  b c")))),
            ("echo a \\\n  b chdir=/x \\\n c", true, Some((&[("chdir", "/x")], Some("echo a  b c")))),
            ("b\\createsa=%}", false, Some((&[("b\\createsa", "%}")], None))),
            ("b\\createsa=%}", true, Some((&[], Some("b\\createsa=%}")))),
        ];
        for (text, free_form, expected) in table {
            let found = parse(text, *free_form).ok();
            let expected = expected.map(|(pairs, raw)| Pairs {
                pairs: pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
                raw: raw.map(str::to_owned),
            });
            assert_eq!(found, expected, "{text:?} {free_form}");
        }
    }

    #[test]
    fn templates_in_templates_close() {
        for text in [
            "echo a \\\n\"b c\" \\\n 'd'",
            "{{{'a': 1} }}",
            "{{ {'a': 1}}}",
            "a={{x}}{{y}} b=1",
            "x={# a b #}c",
        ] {
            assert!(is_balanced(text), "{text}");
        }
        assert_eq!(first_word("{{ a b }} c=d"), Ok(("{{ a b }}", "c=d")));
    }
}
