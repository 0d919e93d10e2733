//! What people usually did when YAML can't be read: tabs, unquoted templates, a colon in plain text.

/// A hint for a syntax error reported at `line` (from 1), if the text there shows one of the usual mistakes.
///
/// The parser often notices only on the line after the mistake, so the line before is looked at too.
pub(super) fn for_syntax_error(text: &str, line: usize, info: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let at = |number: usize| lines.get(number.checked_sub(1)?).copied();
    let before = (1..line).rev().filter_map(at).find(|line| !line.trim().is_empty());
    let near: Vec<&str> = [at(line), before].into_iter().flatten().collect();
    near.iter()
        .find_map(|line| tab(line))
        .or_else(|| near.iter().find_map(|line| unquoted_template(line)))
        .or_else(|| near.iter().find_map(|line| half_quoted(line)))
        .or_else(|| near.iter().find_map(|line| colon_in_plain(line)))
        .or_else(|| near.iter().find_map(|line| reserved_start(line)))
        .or_else(|| near.iter().find_map(|line| missing_space(line)))
        .or_else(|| unclosed(info))
        .or_else(|| indentation(info))
}

/// A hint for a list or mapping that stands where a key is wanted.
pub(super) fn for_collection_key(text: &str, line: usize) -> Option<String> {
    text.lines().nth(line.checked_sub(1)?).and_then(unquoted_template)
}

fn tab(line: &str) -> Option<String> {
    let indent = &line[..line.len() - line.trim_start().len()];
    if indent.contains('\t') {
        return Some("YAML is indented with spaces, never with tabs".into());
    }
    let content = line.trim();
    (content.contains(":\t") || content.contains("-\t")).then(|| "there is a tab here; use spaces".into())
}

/// The text after `key:` or `-`, if there is some.
fn value_part(line: &str) -> &str {
    let mut rest = line.trim_start();
    while let Some(item) = rest.strip_prefix("- ") {
        rest = item.trim_start();
    }
    match rest.split_once(": ") {
        Some((key, value)) if !key.starts_with(['"', '\'', '{', '[']) => value.trim(),
        _ => rest.trim_end(),
    }
}

fn unquoted_template(line: &str) -> Option<String> {
    let value = value_part(line);
    value.starts_with("{{").then(|| {
        let shown = value.split(" #").next().unwrap_or(value).trim_end();
        format!(
            "a value that starts with `{{{{` needs quotes around all of it: \"{}\"",
            shown.replace('"', "'")
        )
    })
}

/// `"{{ a }}" b`: only the start of the value is in quotes.
fn half_quoted(line: &str) -> Option<String> {
    let value = value_part(line);
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let end = value[1..].find(quote)? + 1;
    let rest = value[end + 1..].trim();
    (!rest.is_empty() && !rest.starts_with(['#', ',', ']', '}', ':']))
        .then(|| "only the start of the value is in quotes; put quotes around all of it".into())
}

fn colon_in_plain(line: &str) -> Option<String> {
    let value = value_part(line);
    if value.starts_with(['"', '\'', '{', '[', '#', '|', '>']) {
        return None;
    }
    (value.contains(": ") || value.ends_with(':'))
        .then(|| "text that holds `: ` needs quotes, or it is taken for a key with a value".into())
}

fn reserved_start(line: &str) -> Option<String> {
    let first = value_part(line).chars().next()?;
    matches!(first, '@' | '`' | '%' | '&' | '*')
        .then(|| format!("a value that starts with `{first}` needs quotes"))
}

fn missing_space(line: &str) -> Option<String> {
    let content = line.trim_start();
    if let Some(rest) = content.strip_prefix('-')
        && rest.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '"' | '\'' | '{' | '['))
    {
        return Some(format!("a list item needs a space after the dash: `- {}`", rest.trim_end()));
    }
    let (key, value) = content.split_once(':')?;
    let plain_key =
        !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
    (plain_key && value.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '"' | '\'')))
        .then(|| format!("a key needs a space after the colon: `{key}: {}`", value.trim_end()))
}

fn unclosed(info: &str) -> Option<String> {
    (info.contains("quoted scalar") || info.contains("end of stream"))
        .then(|| "a quote or bracket that was opened is not closed".into())
}

fn indentation(info: &str) -> Option<String> {
    (info.contains("expected <block end>")
        || info.contains("block mapping")
        || info.contains("block collection")
        || info.contains("indent"))
    .then(|| {
        "the line isn't indented like its neighbours; keys of one mapping start in the same column".into()
    })
}
