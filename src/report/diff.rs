//! Diffs as text, from what modules return under `diff`.

use similar::{ChangeTag, TextDiff};

use super::result::Format;
use super::style::{Role, Style};
use crate::source::json::{Layout, dump};
use crate::value::Value;

/// All diffs of one result as text, empty if there is nothing to show.
pub(super) fn render(diff: &Value, context: usize, format: Format, style: &Style) -> String {
    match diff {
        Value::List(items) => items.iter().map(|item| one(item, context, format, style)).collect(),
        single => one(single, context, format, style),
    }
}

fn one(diff: &Value, context: usize, format: Format, style: &Style) -> String {
    let mut out = String::new();
    let has = |key: &str| diff.get(key).is_some_and(Value::truthy);
    for (key, what) in [("dst_binary", "destination"), ("src_binary", "source")] {
        if has(key) {
            out.push_str(&format!("diff skipped: {what} file appears to be binary\n"));
        }
    }
    for (key, what) in [("dst_larger", "destination"), ("src_larger", "source")] {
        if let Some(size) = diff.get(key).filter(|size| size.truthy()) {
            out.push_str(&format!("diff skipped: {what} file size is greater than {}\n", size.to_text()));
        }
    }
    if let (Some(before), Some(after)) = (diff.get("before"), diff.get("after")) {
        let header = |word: &str, key: &str| match diff.get(key) {
            Some(header) if !header.is_null() => format!("{word}: {}", header.to_text()),
            _ => word.to_owned(),
        };
        out.push_str(&unified(
            &text(before, format),
            &text(after, format),
            &header("before", "before_header"),
            &header("after", "after_header"),
            context,
            style,
        ));
    }
    if let Some(prepared) = diff.get("prepared") {
        out.push_str(&style.safe(&prepared.to_text()));
    }
    out
}

/// A mapping is shown as sorted JSON or YAML, so that two of them can be compared line by line.
fn text(side: &Value, format: Format) -> String {
    match side {
        Value::Null => String::new(),
        Value::Str(text) => text.text.to_string(),
        other if format == Format::Yaml => super::yaml::block(other) + "\n",
        other => dump(other, &Layout { indent: Some(4), sort_keys: true, ..Layout::default() }) + "\n",
    }
}

fn unified(before: &str, after: &str, from: &str, to: &str, context: usize, style: &Style) -> String {
    let (before, after) = (style.safe(before), style.safe(after));
    let diff = TextDiff::from_lines(before.as_ref(), after.as_ref());
    let groups = diff.grouped_ops(context);
    if groups.is_empty() {
        return String::new();
    }
    // The newline is painted too, as people's terminals and logs have always had it.
    let paint = |role: Role, line: &str| style.paint(role, line).into_owned();
    let mut out = paint(Role::DiffRemove, &format!("--- {}\n", style.safe(from)));
    out.push_str(&paint(Role::DiffAdd, &format!("+++ {}\n", style.safe(to))));
    for group in &groups {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let old = range(first.old_range().start, last.old_range().end);
        let new = range(first.new_range().start, last.new_range().end);
        out.push_str(&paint(Role::DiffLines, &format!("@@ -{old} +{new} @@\n")));
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            let line = change.value();
            let (sign, role) = match change.tag() {
                ChangeTag::Equal => (' ', None),
                ChangeTag::Delete => ('-', Some(Role::DiffRemove)),
                ChangeTag::Insert => ('+', Some(Role::DiffAdd)),
            };
            let end = if line.ends_with('\n') { "" } else { "\n\\ No newline at end of file\n" };
            let signed = format!("{sign}{line}{end}");
            match role {
                Some(role) => out.push_str(&paint(role, &signed)),
                None => out.push_str(&signed),
            }
        }
    }
    out.push('\n');
    out
}

/// A hunk's range: first line and count, the count left out if it is one.
fn range(start: usize, end: usize) -> String {
    match end - start {
        1 => format!("{}", start + 1),
        0 => format!("{start},0"),
        length => format!("{},{length}", start + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::map_of;

    #[test]
    fn the_layout_is_the_familiar_one() {
        let diff = |before: &str, after: &str| {
            Value::map(map_of([("before", before), ("after", after), ("after_header", "/etc/motd")]))
        };
        for (value, expected) in [
            (diff("", "a\nb\n"), "--- before\n+++ after: /etc/motd\n@@ -0,0 +1,2 @@\n+a\n+b\n\n"),
            (
                diff("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nfive\n6\n7\n8\n9\n"),
                "--- before\n+++ after: /etc/motd\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n\n",
            ),
            (
                diff("a", "a\n"),
                "--- before\n+++ after: /etc/motd\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n\n",
            ),
            (diff("a\n", "a\n"), ""),
        ] {
            assert_eq!(render(&value, 3, Format::Json, &Style::default()), expected);
        }
    }

    #[test]
    fn mappings_are_compared_as_sorted_json() {
        let side = |state: &str| Value::map(map_of([("path", "/x"), ("mode", state)]));
        let value = Value::map(map_of([("before", side("0600")), ("after", side("0644"))]));
        let expected = "--- before\n+++ after\n@@ -1,4 +1,4 @@\n {\n-    \"mode\": \"0600\",\n+    \"mode\": \"0644\",\n     \"path\": \"/x\"\n }\n\n";
        assert_eq!(render(&value, 3, Format::Json, &Style::default()), expected);
    }
}
