//! Filters on text and paths.

use base64::Engine as _;
use base64::engine::general_purpose;
use minijinja::value::Value as V;

use crate::template::error::TemplateError;
use crate::template::methods;
use crate::template::object::{self, Py, R, is_marker, is_unsealed, iterate, none, py, strings, tuple};
use crate::template::ops;
use crate::template::registry::{Call, Function, function, lenient, record};
use crate::value::Value;

pub(super) const TABLE: &[Function] = &[
    function("lower", "s", |call| Ok(V::from(call.text(0)?.to_lowercase()))),
    function("upper", "s", |call| Ok(V::from(call.text(0)?.to_uppercase()))),
    function("capitalize", "s", |call| Ok(V::from(methods::capitalize(&call.text(0)?)))),
    function("title", "s", title),
    function("trim", "value chars?", trim),
    function("replace", "s old new count?", replace),
    function("string", "value", |call| {
        let input = call.input();
        if is_unsealed(&input) { Ok(input) } else { call.text(0).map(V::from) }
    }),
    function("indent", "s width? first? blank?", indent),
    function("center", "value width?", center),
    function("truncate", "s length? killwords? end? leeway?", truncate),
    function("wordcount", "s", wordcount),
    function("wordwrap", "s width? break_long_words? wrapstring? break_on_hyphens?", wordwrap),
    function("format", "value * **", format),
    function("striptags", "value", striptags),
    function("escape", "value", |call| Ok(V::from(escape(&call.text(0)?)))),
    function("e", "value", |call| Ok(V::from(escape(&call.text(0)?)))),
    function("forceescape", "value", |call| Ok(V::from(escape(&call.text(0)?)))),
    function("safe", "value", |call| Ok(call.input())),
    function("urlencode", "value", urlencode),
    function("urldecode", "value", |call| Ok(V::from(percent_decode(&call.text(0)?, true)))),
    function("urlsplit", "value query?", urlsplit),
    function("urlize", "value trim_url_limit? nofollow? target? rel? extra_schemes?", urlize),
    function("xmlattr", "d autospace?", xmlattr),
    function("split", "value sep? maxsplit?", split),
    function("quote", "a", |call| {
        Ok(V::from(quote(&if call.input().is_none() { String::new() } else { call.text(0)? })))
    }),
    function("comment", "text style? **", comment),
    function("b64encode", "string encoding? urlsafe?", b64encode),
    function("b64decode", "string encoding? urlsafe?", b64decode),
    function("basename", "path", |call| Ok(V::from(basename(&call.text(0)?)))),
    function("dirname", "path", |call| Ok(V::from(dirname(&call.text(0)?)))),
    function("expanduser", "path", |call| Ok(V::from(expand_user(&call.text(0)?)))),
    function("expandvars", "path", |call| Ok(V::from(expand_vars(&call.text(0)?)))),
    function("realpath", "path", |call| Ok(V::from(realpath(&call.text(0)?)))),
    function("normpath", "path", |call| Ok(V::from(normpath(&call.text(0)?)))),
    function("relpath", "path start?", relpath),
    function("splitext", "path", splitext),
    function("path_join", "paths", path_join),
    function("commonpath", "paths", commonpath),
    function("win_basename", "path", |call| {
        let text = call.text(0)?;
        Ok(V::from(text.rsplit(['/', '\\', ':']).next().unwrap_or_default()))
    }),
    function("win_dirname", "path", win_dirname),
    function("win_splitdrive", "path", |call| {
        let text = call.text(0)?;
        let at = if text.as_bytes().get(1) == Some(&b':') { 2 } else { 0 };
        Ok(tuple(vec![V::from(&text[..at]), V::from(&text[at..])]))
    }),
    function("fileglob", "pathname", fileglob),
    function("filesizeformat", "value binary?", filesizeformat),
    function("human_readable", "size isbits? unit?", human_readable),
    function("human_to_bytes", "size default_unit? isbits?", human_to_bytes),
    function("pprint", "value", |call| ops::repr(&call.input()).map(V::from)),
    lenient("type_debug", "obj", |call| Ok(V::from(object::type_name(&call.input())))),
    function("startswith", "value prefix", |call| Ok(V::from(call.text(0)?.starts_with(&call.text(1)?)))),
    function("endswith", "value suffix", |call| Ok(V::from(call.text(0)?.ends_with(&call.text(1)?)))),
];

/// Jinja2's title: words start after blanks and opening brackets.
fn title(call: &mut Call) -> R {
    let mut out = String::new();
    let mut starts = true;
    for character in call.text(0)?.chars() {
        if starts {
            out.extend(character.to_uppercase());
        } else {
            out.extend(character.to_lowercase());
        }
        starts = character.is_whitespace() || "-({[<".contains(character);
    }
    Ok(V::from(out))
}

fn trim(call: &mut Call) -> R {
    let text = call.text(0)?;
    match call.some(1) {
        Some(set) => {
            let set: Vec<char> = ops::to_text(&set)?.chars().collect();
            Ok(V::from(text.trim_matches(|c| set.contains(&c))))
        }
        None => Ok(V::from(methods::py_strip(&text))),
    }
}

fn replace(call: &mut Call) -> R {
    let (text, old, new) = (call.text(0)?, call.text(1)?, call.text(2)?);
    Ok(V::from(match call.int(3)?.map(usize::try_from) {
        Some(Ok(count)) => text.replacen(&old, &new, count),
        _ => text.replace(&old, &new),
    }))
}

fn indent(call: &mut Call) -> R {
    let text = call.text(0)?;
    let width = match call.some(1) {
        Some(width) => match py(&width) {
            Py::Str(text) => text.to_owned(),
            _ => " ".repeat(usize::try_from(call.int(1)?.unwrap_or(4)).unwrap_or(0).min(10_000)),
        },
        None => "    ".into(),
    };
    let (first, blank) = (call.flag(2, false)?, call.flag(3, false)?);
    let mut out = String::new();
    let full = format!("{text}\n");
    if blank {
        out.push_str(&methods::split_lines(&full, false).join(&format!("\n{width}")));
    } else {
        let lines = methods::split_lines(&full, false);
        let mut lines = lines.iter();
        if let Some(line) = lines.next() {
            out.push_str(line);
        }
        for line in lines {
            out.push('\n');
            if !line.is_empty() {
                out.push_str(&width);
                out.push_str(line);
            }
        }
    }
    Ok(V::from(if first { format!("{width}{out}") } else { out }))
}

fn center(call: &mut Call) -> R {
    let width = call.int(1)?.unwrap_or(80);
    let text = call.text(0)?;
    let width = usize::try_from(width).unwrap_or(0);
    if width > 1 << 24 {
        return Err(TemplateError::limit("the value is too large"));
    }
    let missing = width.saturating_sub(text.chars().count());
    let left = missing / 2 + (missing & width & 1);
    Ok(V::from(format!("{}{text}{}", " ".repeat(left), " ".repeat(missing - left))))
}

fn truncate(call: &mut Call) -> R {
    let text = call.text(0)?;
    let length = usize::try_from(call.int(1)?.unwrap_or(255)).unwrap_or(0);
    let (kill_words, end) = (call.flag(2, false)?, call.text_or(3, "...")?);
    let leeway = usize::try_from(call.int(4)?.unwrap_or(5)).unwrap_or(0);
    let end_length = end.chars().count();
    if length < end_length {
        return Err(TemplateError::runtime(format!("expected length >= {end_length}, got {length}")));
    }
    if text.chars().count() <= length + leeway {
        return Ok(V::from(text));
    }
    let cut: String = text.chars().take(length - end_length).collect();
    if kill_words {
        return Ok(V::from(cut + &end));
    }
    let kept = cut.rfind(' ').map_or(cut.as_str(), |at| &cut[..at]);
    Ok(V::from(format!("{kept}{end}")))
}

fn wordcount(call: &mut Call) -> R {
    let text = call.text(0)?;
    Ok(V::from(
        text.split(|c: char| c != '_' && !c.is_alphanumeric()).filter(|word| !word.is_empty()).count(),
    ))
}

/// Python's `textwrap.wrap` without its changes to blanks inside lines.
fn wrap_line(line: &str, width: usize, break_long: bool, break_hyphens: bool) -> Vec<String> {
    let mut chunks: Vec<String> = Vec::new();
    for chunk in split_chunks(line) {
        if break_hyphens && !chunk.trim().is_empty() {
            let mut part = String::new();
            let chars: Vec<char> = chunk.chars().collect();
            for (index, character) in chars.iter().enumerate() {
                part.push(*character);
                let letters_around = index >= 2
                    && chars[index - 1].is_alphabetic()
                    && chars.get(index + 1).is_some_and(|c| c.is_alphabetic());
                if *character == '-' && letters_around {
                    chunks.push(std::mem::take(&mut part));
                }
            }
            if !part.is_empty() {
                chunks.push(part);
            }
        } else {
            chunks.push(chunk);
        }
    }
    let mut lines: Vec<String> = Vec::new();
    let mut current = String::new();
    let mut length = 0;
    let mut queue: std::collections::VecDeque<String> = chunks.into();
    while let Some(chunk) = queue.pop_front() {
        let size = chunk.chars().count();
        if current.is_empty() && !lines.is_empty() && chunk.trim().is_empty() {
            continue;
        }
        if length + size <= width {
            current.push_str(&chunk);
            length += size;
            continue;
        }
        if size > width && break_long {
            let room = (width - length).max(usize::from(length == 0));
            if room > 0 {
                current.extend(chunk.chars().take(room));
                queue.push_front(chunk.chars().skip(room).collect());
            } else {
                queue.push_front(chunk);
            }
        } else if size > width && current.is_empty() {
            current.push_str(&chunk);
        } else {
            queue.push_front(chunk);
        }
        lines.push(current.trim_end().to_owned());
        current = String::new();
        length = 0;
    }
    if !current.trim().is_empty() {
        lines.push(current.trim_end().to_owned());
    }
    lines
}

fn split_chunks(line: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut blank = None;
    for character in line.chars() {
        let is_blank = character.is_whitespace();
        match (&mut blank, out.last_mut()) {
            (Some(kind), Some(last)) if *kind == is_blank => last.push(character),
            _ => {
                out.push(character.to_string());
                blank = Some(is_blank);
            }
        }
    }
    out
}

fn wordwrap(call: &mut Call) -> R {
    let width = usize::try_from(call.int(1)?.unwrap_or(79)).unwrap_or(1).max(1);
    let (break_long, separator, break_hyphens) =
        (call.flag(2, true)?, call.text_or(3, "\n")?, call.flag(4, true)?);
    let text = call.text(0)?;
    let lines: Vec<String> = methods::split_lines(&text, false)
        .iter()
        .map(|line| wrap_line(line, width, break_long, break_hyphens).join(&separator))
        .collect();
    Ok(V::from(lines.join(&separator)))
}

fn format(call: &mut Call) -> R {
    let template = call.text(0)?;
    if !call.extra.is_empty() && !call.rest.is_empty() {
        return Err(TemplateError::runtime("can't handle positional and keyword arguments at the same time"));
    }
    let values = if call.extra.is_empty() {
        tuple(call.rest.clone())
    } else {
        object::dict(
            call.extra.iter().map(|(name, value)| (Value::str(name.as_str()), value.clone())).collect(),
        )
    };
    ops::percent_format(&template, &values).map(V::from)
}

fn striptags(call: &mut Call) -> R {
    let text = call.text(0)?;
    let without = super::regex::compile(r"(?s)<!--.*?-->|<[^>]*>", false, false)?;
    let (text, _) = super::regex::substitute(&without, &text, "", 0)?;
    let text = methods::split_blank(&text, None).join(" ");
    Ok(V::from(
        text.replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&#34;", "\"")
            .replace("&#39;", "'")
            .replace("&quot;", "\"")
            .replace("&amp;", "&"),
    ))
}

pub(in crate::template) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            other => out.push(other),
        }
    }
    out
}

pub(in crate::template) fn percent_encode(text: &str, safe: &str, plus: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let character = char::from(byte);
        if character.is_ascii_alphanumeric() || "_.-~".contains(character) || safe.contains(character) {
            out.push(character);
        } else if plus && byte == b' ' {
            out.push('+');
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn percent_decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) if plus => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn urlencode(call: &mut Call) -> R {
    let input = call.input();
    let pair = |key: &V, value: &V| -> R<String> {
        Ok(format!(
            "{}={}",
            percent_encode(&ops::to_text(key)?, "", true),
            percent_encode(&ops::to_text(value)?, "", true)
        ))
    };
    match py(&input) {
        Py::Dict(map) => {
            let parts = map
                .to_map()?
                .iter()
                .map(|(key, value)| pair(&object::key_value(key), value))
                .collect::<R<Vec<_>>>()?;
            Ok(V::from(parts.join("&")))
        }
        Py::List(items) => {
            let mut parts = Vec::new();
            for item in items.to_vec()? {
                match iterate(&item)?.as_slice() {
                    [key, value] => parts.push(pair(key, value)?),
                    _ => return Err(TemplateError::runtime("urlencode wants pairs")),
                }
            }
            Ok(V::from(parts.join("&")))
        }
        _ => Ok(V::from(percent_encode(&call.text(0)?, "/", false))),
    }
}

fn urlsplit(call: &mut Call) -> R {
    let text = call.text(0)?;
    let (rest, fragment) = text.split_once('#').unwrap_or((&text, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (scheme, rest) = match rest.split_once(':') {
        Some((scheme, after))
            if scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) =>
        {
            (scheme.to_lowercase(), after)
        }
        _ => (String::new(), rest),
    };
    let (netloc, path) = match rest.strip_prefix("//") {
        Some(after) => after.find('/').map_or((after, ""), |at| after.split_at(at)),
        None => ("", rest),
    };
    let (user_info, host_port) =
        netloc.rsplit_once('@').map_or((None, netloc), |(user, host)| (Some(user), host));
    let (username, password) =
        match user_info.map(|user| user.split_once(':').map_or((user, None), |(u, p)| (u, Some(p)))) {
            Some((user, password)) => (V::from(user), password.map_or_else(none, V::from)),
            None => (none(), none()),
        };
    let (host, port) = if let Some(inner) = host_port.strip_prefix('[') {
        let (host, after) = inner.split_once(']').unwrap_or((inner, ""));
        (host, after.strip_prefix(':'))
    } else {
        host_port.split_once(':').map_or((host_port, None), |(host, port)| (host, Some(port)))
    };
    let port = match port {
        Some(port) if !port.is_empty() => V::from(port.parse::<u16>().map_err(|_| {
            TemplateError::runtime(format!("Port could not be cast to integer value as '{port}'"))
        })?),
        _ => none(),
    };
    let host = if host.is_empty() { none() } else { V::from(host.to_lowercase()) };
    let parts = record([
        ("fragment", V::from(fragment)),
        ("hostname", host),
        ("netloc", V::from(netloc)),
        ("password", password),
        ("path", V::from(path)),
        ("port", port),
        ("query", V::from(query)),
        ("scheme", V::from(scheme)),
        ("username", username),
    ]);
    match call.some(1) {
        None => Ok(parts),
        Some(wanted) => {
            let wanted = ops::to_text(&wanted)?;
            if wanted.is_empty() {
                return Ok(parts);
            }
            let found = ops::item(&parts, &V::from(wanted.as_str()))?;
            if is_marker(&found) {
                return Err(TemplateError::runtime(format!("urlsplit: unknown URL component: {wanted}")));
            }
            Ok(found)
        }
    }
}

fn urlize(call: &mut Call) -> R {
    let text = escape(&call.text(0)?);
    let limit = call.int(1)?.and_then(|limit| usize::try_from(limit).ok());
    let mut rel: Vec<String> = call.text_or(4, "")?.split_whitespace().map(ToOwned::to_owned).collect();
    if call.flag(2, false)? {
        rel.push("nofollow".into());
    }
    rel.push("noopener".into());
    rel.sort();
    rel.dedup();
    let target = call.some(3).map(|target| ops::to_text(&target)).transpose()?;
    let attributes = format!(
        " rel=\"{}\"{}",
        rel.join(" "),
        target.map(|target| format!(" target=\"{}\"", escape(&target))).unwrap_or_default()
    );
    let regex = super::regex::compile(
        r"(https?://|www\.)[^\s<>]*[^\s<>.,;:!?()\]]|[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
        false,
        false,
    )?;
    let mut out = String::new();
    let mut last = 0;
    for found in regex.find_iter(&text) {
        let found = found.map_err(|error| TemplateError::runtime(error.to_string()))?;
        out.push_str(&text[last..found.start()]);
        let url = found.as_str();
        let href = if url.contains('@') && !url.contains("://") {
            format!("mailto:{url}")
        } else if url.starts_with("www.") {
            format!("https://{url}")
        } else {
            url.to_owned()
        };
        let shown = match limit {
            Some(limit) if url.chars().count() > limit => {
                format!("{}...", url.chars().take(limit).collect::<String>())
            }
            _ => url.to_owned(),
        };
        let attributes = if href.starts_with("mailto:") { "" } else { attributes.as_str() };
        out.push_str(&format!("<a href=\"{href}\"{attributes}>{shown}</a>"));
        last = found.end();
    }
    out.push_str(&text[last..]);
    Ok(V::from(out))
}

fn xmlattr(call: &mut Call) -> R {
    let input = call.input();
    let Py::Dict(map) = py(&input) else {
        return Err(TemplateError::runtime("xmlattr wants a dict"));
    };
    let mut parts = Vec::new();
    for (key, value) in map.to_map()? {
        if value.is_none() || is_marker(&value) {
            continue;
        }
        let key = key.to_text();
        if key.contains(|c: char| c.is_whitespace() || "/>=".contains(c)) {
            return Err(TemplateError::runtime(format!("Invalid character in attribute name: {key:?}")));
        }
        parts.push(format!("{}=\"{}\"", escape(&key), escape(&ops::to_text(&value)?)));
    }
    let space = if call.flag(1, true)? && !parts.is_empty() { " " } else { "" };
    Ok(V::from(format!("{space}{}", parts.join(" "))))
}

fn split(call: &mut Call) -> R {
    let input = call.input();
    if !matches!(py(&input), Py::Str(_)) {
        return Err(TemplateError::runtime(format!(
            "descriptor 'split' for 'str' objects doesn't apply to a '{}' object",
            object::type_name(&input)
        )));
    }
    let text = call.text(0)?;
    let limit = call.int(2)?.and_then(|limit| usize::try_from(limit).ok());
    match call.some(1) {
        None => Ok(strings(methods::split_blank(&text, limit))),
        Some(separator) => {
            let separator = ops::to_text(&separator)?;
            if separator.is_empty() {
                return Err(TemplateError::runtime("empty separator"));
            }
            Ok(match limit {
                Some(limit) => strings(text.splitn(limit + 1, &separator)),
                None => strings(text.split(&separator)),
            })
        }
    }
}

/// Python's `shlex.quote`.
pub(in crate::template) fn quote(text: &str) -> String {
    if text.is_empty() {
        return "''".into();
    }
    if text.chars().all(|c| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c)) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', "'\"'\"'"))
}

fn comment(call: &mut Call) -> R {
    let text = call.text(0)?;
    let style = call.text_or(1, "plain")?;
    let (beginning, decoration, end) = match style.as_str() {
        "plain" => ("", "# ", ""),
        "erlang" => ("", "% ", ""),
        "c" => ("", "// ", ""),
        "cblock" => ("/*", " * ", " */"),
        "xml" => ("<!--", " - ", "-->"),
        other => {
            return Err(TemplateError::runtime(format!(
                "Invalid style '{other}'. Available styles: plain, erlang, c, cblock, xml"
            )));
        }
    };
    let option = |name: &str, default: &str| -> R<String> {
        call.extra(name).map_or_else(|| Ok(default.to_owned()), ops::to_text)
    };
    let count = |name: &str| -> R<usize> {
        match call.extra(name) {
            Some(value) => usize::try_from(super::lists::whole(value)?)
                .map_err(|_| TemplateError::runtime("a count can't be negative")),
            None => Ok(1),
        }
    };
    let decoration = option("decoration", decoration)?;
    let newline = option("newline", "\n")?;
    let beginning = option("beginning", beginning)?;
    let end = option("end", end)?;
    let prefix = option("prefix", decoration.trim_end())?;
    let postfix = option("postfix", decoration.trim_end())?;
    let mut out = String::new();
    if !beginning.is_empty() {
        out.push_str(&beginning);
        out.push_str(&newline);
    }
    if !prefix.is_empty() {
        let once = if prefix == newline { newline.clone() } else { format!("{prefix}{newline}") };
        out.push_str(&once.repeat(count("prefix_count")?.min(10_000)));
    }
    let body = format!("{decoration}{}", text.replace(&newline, &format!("{newline}{decoration}")));
    out.push_str(
        &body.replace(&format!("{decoration}{newline}"), &format!("{}{newline}", decoration.trim_end())),
    );
    for _ in 0..count("postfix_count")?.min(10_000) {
        out.push_str(&newline);
        out.push_str(&postfix);
    }
    if !end.is_empty() {
        out.push_str(&newline);
        out.push_str(&end);
    }
    Ok(V::from(out))
}

fn encoding_bytes(text: &str, encoding: &str) -> R<Vec<u8>> {
    match encoding.to_lowercase().replace('_', "-").as_str() {
        "utf-8" | "utf8" | "ascii" | "us-ascii" => Ok(text.as_bytes().to_vec()),
        "utf-16-le" | "utf-16le" => Ok(text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        "utf-16-be" | "utf-16be" => Ok(text.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        "utf-16" | "utf16" => {
            Ok([0xff, 0xfe].into_iter().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect())
        }
        "latin-1" | "latin1" | "iso-8859-1" => text
            .chars()
            .map(|c| {
                u8::try_from(u32::from(c)).map_err(|_| TemplateError::runtime(format!("can't encode {c:?}")))
            })
            .collect(),
        other => Err(TemplateError::runtime(format!("unknown encoding: {other}"))),
    }
}

fn decode_bytes(bytes: Vec<u8>, encoding: &str) -> R<String> {
    let wide = |units: Vec<u16>| {
        String::from_utf16(&units).map_err(|error| TemplateError::runtime(error.to_string()))
    };
    match encoding.to_lowercase().replace('_', "-").as_str() {
        "utf-8" | "utf8" | "ascii" | "us-ascii" => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        "utf-16-le" | "utf-16le" => {
            wide(bytes.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect())
        }
        "utf-16-be" | "utf-16be" => {
            wide(bytes.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect())
        }
        "utf-16" | "utf16" => {
            let body = bytes.strip_prefix(&[0xff, 0xfe]).unwrap_or(&bytes);
            wide(body.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect())
        }
        "latin-1" | "latin1" | "iso-8859-1" => Ok(bytes.iter().map(|byte| char::from(*byte)).collect()),
        other => Err(TemplateError::runtime(format!("unknown encoding: {other}"))),
    }
}

fn b64encode(call: &mut Call) -> R {
    let bytes = encoding_bytes(&call.text(0)?, &call.text_or(1, "utf-8")?)?;
    Ok(V::from(if call.flag(2, false)? {
        general_purpose::URL_SAFE.encode(bytes)
    } else {
        general_purpose::STANDARD.encode(bytes)
    }))
}

fn b64decode(call: &mut Call) -> R {
    let urlsafe = call.flag(2, false)?;
    let text: String = call
        .text(0)?
        .chars()
        .map(|c| match c {
            '-' if urlsafe => '+',
            '_' if urlsafe => '/',
            c => c,
        })
        .filter(|c| c.is_ascii_alphanumeric() || "+/=".contains(*c))
        .collect();
    let bytes = general_purpose::STANDARD
        .decode(text.as_bytes())
        .map_err(|_| {
            let data = text.trim_end_matches('=').len();
            TemplateError::runtime(match data % 4 {
                1 => format!(
                    "Invalid base64-encoded string: number of data characters ({data}) cannot be 1 more than a multiple of 4"
                ),
                _ => "Incorrect padding".to_owned(),
            })
        })?;
    decode_bytes(bytes, &call.text_or(1, "utf-8")?).map(V::from)
}

// --- paths ---

pub(in crate::template) fn basename(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

pub(in crate::template) fn dirname(path: &str) -> String {
    let head = path.rfind('/').map_or("", |at| &path[..=at]);
    if head.chars().all(|c| c == '/') { head.to_owned() } else { head.trim_end_matches('/').to_owned() }
}

pub(in crate::template) fn expand_user(path: &str) -> String {
    if path == "~" || path.starts_with("~/") {
        if let Some(home) = std::env::home_dir() {
            return format!("{}{}", home.display(), &path[1..]);
        }
    } else if let Some(rest) = path.strip_prefix('~') {
        let (user, tail) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        for line in passwd.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if fields.first() == Some(&user)
                && let Some(home) = fields.get(5)
            {
                return format!("{home}{tail}");
            }
        }
    }
    path.to_owned()
}

fn expand_vars(path: &str) -> String {
    let mut out = String::new();
    let mut rest = path;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, length) = if let Some(inner) = after.strip_prefix('{') {
            inner.find('}').map_or(("", 0), |end| (&inner[..end], end + 2))
        } else {
            let end = after.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(after.len());
            (&after[..end], end)
        };
        match std::env::var(name) {
            Ok(value) if !name.is_empty() => out.push_str(&value),
            _ => {
                out.push('$');
                out.push_str(&after[..length]);
            }
        }
        rest = &after[length..];
    }
    out + rest
}

pub(in crate::template) fn normpath(path: &str) -> String {
    if path.is_empty() {
        return ".".into();
    }
    let root = if path.starts_with("//") && !path.starts_with("///") {
        "//"
    } else if path.starts_with('/') {
        "/"
    } else {
        ""
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if root.is_empty() && parts.last().is_none_or(|last| *last == "..") => parts.push(".."),
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let joined = format!("{root}{}", parts.join("/"));
    if joined.is_empty() { ".".into() } else { joined }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        return normpath(path);
    }
    let cwd = std::env::current_dir().unwrap_or_default();
    normpath(&format!("{}/{path}", cwd.display()))
}

fn realpath(path: &str) -> String {
    let full = absolute(path);
    let mut existing = std::path::PathBuf::from(&full);
    let mut tail: Vec<std::ffi::OsString> = Vec::new();
    loop {
        if let Ok(real) = existing.canonicalize() {
            let mut out = real;
            out.extend(tail.iter().rev());
            return out.display().to_string();
        }
        match (existing.file_name().map(ToOwned::to_owned), existing.parent().map(ToOwned::to_owned)) {
            (Some(name), Some(parent)) => {
                tail.push(name);
                existing = parent;
            }
            _ => return full,
        }
    }
}

fn relpath(call: &mut Call) -> R {
    let path = absolute(&call.text(0)?);
    let start = absolute(&call.text_or(1, ".")?);
    let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let start: Vec<&str> = start.split('/').filter(|part| !part.is_empty()).collect();
    let common = path.iter().zip(&start).take_while(|(a, b)| a == b).count();
    let mut parts = vec![".."; start.len() - common];
    parts.extend(&path[common..]);
    Ok(V::from(if parts.is_empty() { ".".to_owned() } else { parts.join("/") }))
}

fn splitext(call: &mut Call) -> R {
    let path = call.text(0)?;
    let name_at = path.rfind('/').map_or(0, |at| at + 1);
    let name = &path[name_at..];
    let first = name.len() - name.trim_start_matches('.').len();
    let at = match name[first..].rfind('.') {
        Some(dot) => name_at + first + dot,
        None => path.len(),
    };
    Ok(tuple(vec![V::from(&path[..at]), V::from(&path[at..])]))
}

pub(in crate::template) fn join_paths(parts: &[String]) -> String {
    let mut out = String::new();
    for (index, part) in parts.iter().enumerate() {
        if index == 0 || part.starts_with('/') {
            out = part.clone();
        } else if out.is_empty() || out.ends_with('/') {
            out.push_str(part);
        } else {
            out.push('/');
            out.push_str(part);
        }
    }
    out
}

fn path_join(call: &mut Call) -> R {
    let input = call.input();
    match py(&input) {
        Py::Str(_) => Ok(input),
        Py::List(items) => {
            let parts = items.to_vec()?.iter().map(ops::to_text).collect::<R<Vec<_>>>()?;
            Ok(V::from(join_paths(&parts)))
        }
        _ => Err(TemplateError::runtime(format!(
            "|path_join expects string or sequence, got {} instead.",
            object::type_name(&input)
        ))),
    }
}

fn commonpath(call: &mut Call) -> R {
    let input = call.input();
    if !matches!(py(&input), Py::List(_)) {
        return Err(TemplateError::runtime(format!(
            "|commonpath expects sequence, got {} instead.",
            object::type_name(&input)
        )));
    }
    let paths = call.items()?.iter().map(ops::to_text).collect::<R<Vec<_>>>()?;
    let Some(first) = paths.first() else {
        return Err(TemplateError::runtime("commonpath() arg is an empty sequence"));
    };
    let rooted = first.starts_with('/');
    if paths.iter().any(|path| path.starts_with('/') != rooted) {
        return Err(TemplateError::runtime("Can't mix absolute and relative paths"));
    }
    let split = |path: &String| -> Vec<String> {
        path.split('/').filter(|part| !part.is_empty() && *part != ".").map(ToOwned::to_owned).collect()
    };
    let mut common = split(first);
    for path in &paths[1..] {
        let parts = split(path);
        let length = common.iter().zip(&parts).take_while(|(a, b)| a == b).count();
        common.truncate(length);
    }
    Ok(V::from(format!("{}{}", if rooted { "/" } else { "" }, common.join("/"))))
}

fn win_dirname(call: &mut Call) -> R {
    let text = call.text(0)?;
    let at = text.rfind(['/', '\\']).map_or(0, |at| at + 1);
    let head = &text[..at];
    let trimmed = head.trim_end_matches(['/', '\\']);
    Ok(V::from(if trimmed.is_empty() || trimmed.ends_with(':') { head } else { trimmed }))
}

fn fileglob(call: &mut Call) -> R {
    let pattern = call.text(0)?;
    let found = glob::glob(&pattern).map_err(|error| TemplateError::runtime(error.to_string()))?;
    let files = found.flatten().filter(|path| path.is_file()).map(|path| path.display().to_string());
    Ok(strings(files))
}

// --- sizes ---

fn filesizeformat(call: &mut Call) -> R {
    let number = match py(&call.input()) {
        Py::Str(text) => text
            .trim()
            .parse::<f64>()
            .map_err(|_| TemplateError::runtime(format!("could not convert string to float: '{text}'")))?,
        _ => ops::number(&call.input()).map_or(0.0, |number| number.float()),
    };
    let binary = call.flag(1, false)?;
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    let prefixes = if binary {
        ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]
    } else {
        ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]
    };
    if number == 1.0 {
        return Ok(V::from("1 Byte"));
    }
    if number < base {
        return Ok(V::from(format!("{} Bytes", number.trunc())));
    }
    let mut unit = base;
    for prefix in prefixes {
        unit *= base;
        if number < unit {
            return Ok(V::from(format!("{:.1} {prefix}", base * number / unit)));
        }
    }
    Ok(V::from(format!("{:.1} {}", base * number / unit, prefixes[7])))
}

const UNITS: [(char, f64); 9] = [
    ('Y', 1_208_925_819_614_629_174_706_176.0),
    ('Z', 1_180_591_620_717_411_303_424.0),
    ('E', 1_152_921_504_606_846_976.0),
    ('P', 1_125_899_906_842_624.0),
    ('T', 1_099_511_627_776.0),
    ('G', 1_073_741_824.0),
    ('M', 1_048_576.0),
    ('K', 1024.0),
    ('B', 1.0),
];

fn human_readable(call: &mut Call) -> R {
    let input = call.input();
    let Some(size) = ops::number(&input) else {
        return Err(TemplateError::runtime(format!(
            "human_readable() failed on bad input: '>=' not supported between instances of '{}' and 'int'",
            object::type_name(&input)
        )));
    };
    let size = size.float();
    let bits = call.flag(1, false)?;
    let base = if bits { "bits" } else { "Bytes" };
    let wanted = call.some(2).map(|unit| ops::to_text(&unit)).transpose()?.map(|unit| unit.to_uppercase());
    let mut chosen = ('B', 1.0);
    for (letter, factor) in UNITS {
        chosen = (letter, factor);
        let hit = match &wanted {
            None => size >= factor,
            Some(unit) => unit.starts_with(letter),
        };
        if hit {
            break;
        }
    }
    let (letter, factor) = chosen;
    let suffix = if factor == 1.0 { base.to_owned() } else { format!("{letter}{}", &base[..1]) };
    Ok(V::from(format!("{:.2} {suffix}", size / factor)))
}

fn human_to_bytes(call: &mut Call) -> R {
    bytes_of(call).map_err(|mut error| {
        error.message = format!("human_to_bytes() can't interpret the input: {}", error.message);
        error
    })
}

fn bytes_of(call: &Call) -> R {
    let text = call.text(0)?;
    let bits = call.flag(2, false)?;
    let default_unit = call.text_or(1, "")?;
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let wrong =
        || TemplateError::runtime(format!("human_to_bytes() can't interpret following string: {text}"));
    let number: f64 = trimmed[..split].parse().map_err(|_| wrong())?;
    let unit = trimmed[split..].trim();
    let unit = if unit.is_empty() { default_unit.as_str() } else { unit };
    if unit.is_empty() {
        #[expect(clippy::cast_possible_truncation, reason = "a size in bytes is whole")]
        return Ok(V::from(number.round() as i64));
    }
    let letter = unit.chars().next().unwrap_or('B').to_ascii_uppercase();
    let (_, factor) = UNITS.into_iter().find(|(known, _)| *known == letter).ok_or_else(|| {
        TemplateError::runtime(format!("human_to_bytes() failed to convert {text} (unit = {unit})"))
    })?;
    if unit.chars().count() > 1 {
        let class = if bits { 'b' } else { 'B' };
        let name = if bits { "bit" } else { "byte" };
        let full = match letter {
            'K' => "kilo",
            'M' => "mega",
            'G' => "giga",
            'T' => "tera",
            'P' => "peta",
            'E' => "exa",
            'Z' => "zetta",
            'Y' => "yotta",
            _ => "",
        };
        if unit.to_lowercase() != format!("{full}{name}") && unit != format!("{letter}{class}") {
            return Err(TemplateError::runtime(format!(
                "human_to_bytes() failed to convert {text}. Value is not a valid string (expect {letter}{class} or {letter})"
            )));
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "a size in bytes is whole")]
    Ok(V::from((number * factor).round() as i64))
}
