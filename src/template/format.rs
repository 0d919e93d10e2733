//! Python's `str.format` and its format specifications.

use minijinja::value::Value as V;

use super::error::TemplateError;
use super::object::{Py, R, check, py};
use super::ops::{self, Num, number};

fn wrong(message: impl Into<String>) -> TemplateError {
    TemplateError::runtime(message)
}

/// `'…'.format(…)`
pub(super) fn format(template: &str, positional: &[V], named: &[(String, V)]) -> R<String> {
    let mut automatic = 0;
    expand(template, positional, named, &mut automatic, 0)
}

fn expand(
    template: &str,
    positional: &[V],
    named: &[(String, V)],
    automatic: &mut usize,
    depth: u32,
) -> R<String> {
    if depth > 2 {
        return Err(wrong("Max string recursion exceeded"));
    }
    let mut out = String::new();
    let mut chars = template.char_indices().peekable();
    while let Some((at, character)) = chars.next() {
        match character {
            '{' if chars.peek().is_some_and(|(_, next)| *next == '{') => {
                chars.next();
                out.push('{');
            }
            '}' if chars.peek().is_some_and(|(_, next)| *next == '}') => {
                chars.next();
                out.push('}');
            }
            '}' => return Err(wrong("Single '}' encountered in format string")),
            '{' => {
                let mut level = 1;
                let mut end = None;
                for (index, inner) in chars.by_ref() {
                    match inner {
                        '{' => level += 1,
                        '}' => level -= 1,
                        _ => {}
                    }
                    if level == 0 {
                        end = Some(index);
                        break;
                    }
                }
                let end = end.ok_or_else(|| wrong("expected '}' before end of string"))?;
                field(&template[at + 1..end], positional, named, automatic, depth, &mut out)?;
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

fn field(
    body: &str,
    positional: &[V],
    named: &[(String, V)],
    automatic: &mut usize,
    depth: u32,
    out: &mut String,
) -> R<()> {
    let (head, spec) = body.split_once(':').unwrap_or((body, ""));
    let (path, conversion) = match head.rsplit_once('!') {
        Some((path, conversion)) => (path, conversion),
        None => (head, ""),
    };
    let name_end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, mut rest) = path.split_at(name_end);
    let mut value = if name.is_empty() {
        let value = positional.get(*automatic).cloned();
        *automatic += 1;
        value.ok_or_else(|| {
            wrong(format!("Replacement index {} out of range for positional args tuple", *automatic - 1))
        })?
    } else if let Ok(index) = name.parse::<usize>() {
        positional.get(index).cloned().ok_or_else(|| {
            wrong(format!("Replacement index {index} out of range for positional args tuple"))
        })?
    } else {
        named
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.clone())
            .ok_or_else(|| wrong(format!("'{name}'")))?
    };
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let name = &after[..end];
            value = ops::own_attribute(&value, name)?.ok_or_else(|| {
                wrong(format!("'{}' object has no attribute '{name}'", super::object::type_name(&value)))
            })?;
            rest = &after[end..];
        } else if let Some(after) = rest.strip_prefix('[') {
            let end = after.find(']').ok_or_else(|| wrong("Missing ']' in format string"))?;
            let key = &after[..end];
            let key = key.parse::<i64>().map_or_else(|_| V::from(key), V::from);
            value = ops::item(&value, &key)?;
            rest = &after[end + 1..];
        } else {
            return Err(wrong("Only '.' or '[' may follow ']' in format field specifier"));
        }
        check(&value)?;
    }
    let value = match conversion {
        "" => value,
        "s" => V::from(ops::to_text(&value)?),
        "r" | "a" => V::from(ops::repr(&value)?),
        other => return Err(wrong(format!("Unknown conversion specifier {other:?}"))),
    };
    let spec = expand(spec, positional, named, automatic, depth + 1)?;
    out.push_str(&format_value(&value, &spec)?);
    Ok(())
}

/// Python's `format(value, spec)`.
pub(super) fn format_value(value: &V, spec: &str) -> R<String> {
    check(value)?;
    if spec.is_empty() {
        return ops::to_text(value);
    }
    if let Some(moment) = value.downcast_object_ref::<super::special::Moment>() {
        return super::time::strftime(spec, moment);
    }
    let chars: Vec<char> = spec.chars().collect();
    let mut at = 0;
    let mut fill = ' ';
    let mut align = None;
    let is_align = |c: &char| matches!(c, '<' | '>' | '^' | '=');
    if chars.len() > 1 && is_align(&chars[1]) {
        fill = chars[0];
        align = Some(chars[1]);
        at = 2;
    } else if chars.first().is_some_and(is_align) {
        align = Some(chars[0]);
        at = 1;
    }
    let mut sign = '-';
    if let Some(found) = chars.get(at).filter(|c| matches!(c, '+' | '-' | ' ')) {
        sign = *found;
        at += 1;
    }
    let mut alternate = false;
    if chars.get(at) == Some(&'#') {
        alternate = true;
        at += 1;
    }
    if chars.get(at) == Some(&'0') {
        if align.is_none() {
            fill = '0';
            align = Some('=');
        }
        at += 1;
    }
    let digits = |at: &mut usize| -> Option<usize> {
        let start = *at;
        while chars.get(*at).is_some_and(char::is_ascii_digit) {
            *at += 1;
        }
        chars[start..*at].iter().collect::<String>().parse().ok()
    };
    let width = digits(&mut at).unwrap_or(0);
    let mut grouping = None;
    if let Some(found) = chars.get(at).filter(|c| matches!(c, ',' | '_')) {
        grouping = Some(*found);
        at += 1;
    }
    let mut precision = None;
    if chars.get(at) == Some(&'.') {
        at += 1;
        precision = Some(digits(&mut at).ok_or_else(|| wrong("Format specifier missing precision"))?);
    }
    let kind = chars.get(at).copied();
    if chars.len() > at + 1 {
        return Err(wrong(format!(
            "Invalid format specifier '{spec}' for object of type '{}'",
            super::object::type_name(value)
        )));
    }
    if width > super::run::MAX_OUTPUT {
        return Err(TemplateError::limit("the text is too long"));
    }
    let unknown = |kind: char| {
        wrong(format!(
            "Unknown format code '{kind}' for object of type '{}'",
            super::object::type_name(value)
        ))
    };
    let as_number = match py(value) {
        Py::Bool(_) if kind.is_none() || kind == Some('s') => None,
        _ => number(value),
    };
    let Some(number) = as_number else {
        if let Some(kind) = kind.filter(|kind| *kind != 's') {
            return Err(unknown(kind));
        }
        let mut text = ops::to_text(value)?;
        if let Some(precision) = precision {
            text = text.chars().take(precision).collect();
        }
        return Ok(align_text("", &text, width, fill, align.unwrap_or('<')));
    };
    let (negative, prefix, mut body) = match (number, kind) {
        (Num::Int(number), None | Some('d' | 'n')) => (number < 0, "", number.unsigned_abs().to_string()),
        (Num::Int(number), Some('x')) => (number < 0, "0x", format!("{:x}", number.unsigned_abs())),
        (Num::Int(number), Some('X')) => (number < 0, "0X", format!("{:X}", number.unsigned_abs())),
        (Num::Int(number), Some('o')) => (number < 0, "0o", format!("{:o}", number.unsigned_abs())),
        (Num::Int(number), Some('b')) => (number < 0, "0b", format!("{:b}", number.unsigned_abs())),
        (Num::Int(number), Some('c')) => {
            let text = u32::try_from(number).ok().and_then(char::from_u32).map(String::from);
            let text = text.ok_or_else(|| wrong("%c arg not in range(0x110000)"))?;
            return Ok(align_text("", &text, width, fill, align.unwrap_or('<')));
        }
        (number, Some(kind @ ('f' | 'F' | 'e' | 'E' | 'g' | 'G'))) => {
            let number = number.float();
            (
                number.is_sign_negative(),
                "",
                ops::float_format(number.abs(), kind, precision.unwrap_or(6), alternate),
            )
        }
        (number, Some('%')) => {
            let number = number.float() * 100.0;
            let text = ops::float_format(number.abs(), 'f', precision.unwrap_or(6), alternate);
            (number.is_sign_negative(), "", text + "%")
        }
        (Num::Float(number), None) => {
            let text = match precision {
                Some(precision) => {
                    let text = ops::float_format(number.abs(), 'g', precision, alternate);
                    if text.contains(['.', 'e']) { text } else { text + ".0" }
                }
                None => crate::value::float_repr(number.abs()),
            };
            (number.is_sign_negative(), "", text)
        }
        (_, Some(kind)) => return Err(unknown(kind)),
    };
    if let Some(separator) = grouping {
        let size = if matches!(kind, Some('x' | 'X' | 'o' | 'b')) { 4 } else { 3 };
        body = group(&body, separator, size);
    }
    let sign = match (negative, sign) {
        (true, _) => "-",
        (false, '+') => "+",
        (false, ' ') => " ",
        _ => "",
    };
    let prefix = if alternate { prefix } else { "" };
    Ok(align_text(&format!("{sign}{prefix}"), &body, width, fill, align.unwrap_or('>')))
}

fn group(body: &str, separator: char, size: usize) -> String {
    let end = body.find(['.', 'e', '%']).unwrap_or(body.len());
    let digits: Vec<char> = body[..end].chars().collect();
    let mut out = String::new();
    for (index, digit) in digits.iter().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(size) {
            out.push(separator);
        }
        out.push(*digit);
    }
    out + &body[end..]
}

fn align_text(sign: &str, body: &str, width: usize, fill: char, align: char) -> String {
    let missing = width.saturating_sub(sign.chars().count() + body.chars().count());
    let fill = |count: usize| String::from(fill).repeat(count);
    match align {
        '<' => format!("{sign}{body}{}", fill(missing)),
        '^' => format!("{}{sign}{body}{}", fill(missing / 2), fill(missing - missing / 2)),
        '=' => format!("{sign}{}{body}", fill(missing)),
        _ => format!("{}{sign}{body}", fill(missing)),
    }
}
