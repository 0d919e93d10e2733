//! Builds nodes from the YAML parser's events: tags, anchors, merge keys, duplicate keys, and bounds.
//!
//! The parser speaks YAML 1.2; what Ansible's users write is YAML 1.1 as PyYAML reads it. The difference
//! is made up here and in `scalar`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::scalar::{self, Plain};
use super::{DuplicateKeys, Node, NodeValue, Parsed, hint, indent::Pushed, to_u32};
use crate::diagnostic::Diagnostic;
use crate::value::{Origin, Text, Value, VaultText};

/// Lists and mappings inside each other at most.
const MAX_DEPTH: usize = 200;
/// Nodes that aliases and merge keys may add to a document.
const MAX_EXPANSION: usize = 500_000;
/// Errors told about one document.
const MAX_PROBLEMS: usize = 20;

const CORE: &str = "tag:yaml.org,2002:";

/// Reads one document.
pub(super) fn load(file: &Arc<str>, text: &str) -> Result<Parsed, Vec<Diagnostic>> {
    if let Some(problem) = control_character(file, text) {
        return Err(vec![problem]);
    }
    let json = is_json(text);
    let mut pushed: Option<Pushed> = None;
    loop {
        let (error, problems) = match attempt(file, text, pushed.as_ref(), json) {
            Ok(parsed) => return Ok(parsed),
            Err(Failure { syntax: Some(error), problems }) => (error, problems),
            Err(Failure { problems, .. }) => return Err(problems),
        };
        let mark = *error.marker();
        let indentation = error.info().starts_with("invalid indentation")
            || error.info() == "tab cannot be used as indentation";
        let again = indentation
            && pushed.get_or_insert_with(|| Pushed::new(text)).push(error.info(), mark.line(), mark.col());
        if !again {
            return Err(problems);
        }
    }
}

struct Failure {
    /// What the parser said when it gave up, if it did.
    syntax: Option<ScanError>,
    problems: Vec<Diagnostic>,
}

/// Reads the document once.
fn attempt(file: &Arc<str>, written: &str, pushed: Option<&Pushed>, json: bool) -> Result<Parsed, Failure> {
    let text = pushed.map_or(written, |pushed| &pushed.text).to_owned();
    let ends_open = !text.is_empty() && !text.ends_with('\n');
    let text = if ends_open { text + "\n" } else { text };
    let mut loader = Loader {
        parser: Parser::new_from_str(&text),
        file: Arc::clone(file),
        lines: &text,
        pushed,
        open_line: ends_open.then(|| {
            (text.matches('\n').count(), text.trim_end_matches('\n').rsplit('\n').next().unwrap_or(""))
        }),
        json,
        tab_indents: if json { HashMap::new() } else { tab_indents(&text) },
        unsafe_depth: 0,
        anchors: HashMap::new(),
        expanded: 0,
        warnings: Vec::new(),
        problems: Vec::new(),
        syntax: None,
    };
    let problem = match loader.document() {
        Ok(root) if loader.problems.is_empty() => return Ok(Parsed { root, warnings: loader.warnings }),
        Ok(_) => return Err(Failure { syntax: None, problems: loader.problems }),
        Err(problem) => problem,
    };
    if json {
        let start = loader.origin(Marker::new(0, 1, 0));
        return super::json::parse(file, written)
            .map(|value| Parsed { root: plain_node(value, &start), warnings: Vec::new() })
            .map_err(|problem| Failure { syntax: None, problems: vec![problem] });
    }
    loader.problems.push(*problem);
    Err(Failure { syntax: loader.syntax, problems: loader.problems })
}

/// Lines whose indentation has a tab. They are harmless inside text.
fn tab_indents(text: &str) -> HashMap<usize, usize> {
    if !text.contains('\t') {
        return HashMap::new();
    }
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]))
        .filter(|(_, indent)| indent.contains('\t'))
        .map(|(line, indent)| (line, indent.len()))
        .collect()
}

/// A JSON text is read by JSON's rules for bare words, as Ansible does.
fn is_json(text: &str) -> bool {
    text.trim_start().starts_with(['{', '[', '"'])
        && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// The control characters that YAML forbids.
fn control_character(file: &Arc<str>, text: &str) -> Option<Diagnostic> {
    let bad = |c: char| matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\x7f' | '\u{80}'..='\u{84}' | '\u{86}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}');
    let at = text.find(bad)?;
    let character = text[at..].chars().next()?;
    let line = text[..at].matches('\n').count() + 1;
    let column = text[..at].rsplit('\n').next().map_or(0, |tail| tail.chars().count()) + 1;
    let origin = Origin { file: Arc::clone(file), line: to_u32(line), column: to_u32(column) };
    Some(
        Diagnostic::error(format!("the control character U+{:04X} isn't allowed in YAML", character as u32))
            .at(Some(Arc::new(origin)))
            .hint("remove it, or write it as an escape in a string in double quotes"),
    )
}

/// A value without places of its own, as a node at `origin`.
fn plain_node(value: Value, origin: &Arc<Origin>) -> Node {
    let value = match value {
        Value::List(items) => {
            NodeValue::List(items.iter().map(|item| plain_node(item.clone(), origin)).collect())
        }
        Value::Map(map) => NodeValue::Map(
            map.iter()
                .map(|(key, value)| (plain_node(key.clone(), origin), plain_node(value.clone(), origin)))
                .collect(),
        ),
        Value::Str(text) => NodeValue::Scalar(Value::written(text.text, Arc::clone(origin))),
        other => NodeValue::Scalar(other),
    };
    Node { value, origin: Arc::clone(origin) }
}

type Step<T> = Result<T, Box<Diagnostic>>;

struct Loader<'text> {
    parser: Parser<'text, StrInput<'text>>,
    file: Arc<str>,
    lines: &'text str,
    pushed: Option<&'text Pushed>,
    /// If the text doesn't end with a newline: the number and the text of its last line. (The parser is
    /// given one more newline.)
    open_line: Option<(usize, &'text str)>,
    json: bool,
    /// Lines (from 1) whose indentation has a tab, with the length of the indentation.
    tab_indents: HashMap<usize, usize>,
    /// How many `!unsafe` collections the current node is in.
    unsafe_depth: usize,
    /// What each anchor names and how many nodes that is.
    anchors: HashMap<usize, (Node, usize)>,
    /// How many nodes aliases have added so far.
    expanded: usize,
    warnings: Vec<Diagnostic>,
    /// Errors past which reading goes on.
    problems: Vec<Diagnostic>,
    /// What the parser said when it gave up.
    syntax: Option<ScanError>,
}

impl<'text> Loader<'text> {
    fn origin(&self, mark: Marker) -> Arc<Origin> {
        Arc::new(Origin {
            file: Arc::clone(&self.file),
            line: to_u32(mark.line().max(1)),
            column: to_u32(
                self.pushed.map_or(mark.col(), |pushed| pushed.column(mark.line(), mark.col())) + 1,
            ),
        })
    }

    fn next(&mut self) -> Step<(Event<'text>, Span)> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let diagnostic = self.syntax_error(&error);
                self.syntax = Some(error);
                Err(Box::new(diagnostic))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn syntax_error(&self, error: &ScanError) -> Diagnostic {
        let mark = *error.marker();
        let diagnostic =
            Diagnostic::error(format!("invalid YAML: {}", error.info())).at(Some(self.origin(mark)));
        match hint::for_syntax_error(self.lines, mark.line(), error.info()) {
            Some(hint) => diagnostic.hint(hint),
            None => diagnostic,
        }
    }

    /// Notes an error past which reading goes on.
    fn problem(&mut self, problem: Diagnostic) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        }
    }

    fn document(&mut self) -> Step<Node> {
        let mut root: Option<Node> = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(_) if root.is_some() => {
                    return Err(Box::new(
                        Diagnostic::error("a second YAML document starts here; a file holds one")
                            .at(Some(self.origin(span.start)))
                            .hint("remove this `---`, or put the rest in a file of its own"),
                    ));
                }
                Event::StreamStart
                | Event::DocumentStart(_)
                | Event::DocumentEnd
                | Event::Nothing
                | Event::SequenceEnd
                | Event::MappingEnd => {}
                event => root = Some(self.node(event, span, 0)?.0),
            }
        }
        let start = self.origin(Marker::new(0, 1, 0));
        Ok(root.unwrap_or(Node { value: NodeValue::Scalar(Value::Null), origin: start }))
    }

    /// Builds the node that starts with `event`; also tells how many nodes it is made of.
    fn node(&mut self, event: Event<'text>, span: Span, depth: usize) -> Step<(Node, usize)> {
        let origin = self.origin(span.start);
        if depth > MAX_DEPTH {
            return Err(Box::new(
                Diagnostic::error(format!("nested more than {MAX_DEPTH} levels deep")).at(Some(origin)),
            ));
        }
        if !self.tab_indents.is_empty()
            && !span.is_empty()
            && self.tab_indents.get(&span.start.line()).is_some_and(|indent| span.start.col() <= *indent)
        {
            return Err(Box::new(
                Diagnostic::error("invalid YAML: a tab in the indentation")
                    .at(Some(origin))
                    .hint("YAML is indented with spaces, never with tabs"),
            ));
        }
        let (node, size, anchor) = match event {
            Event::Alias(id) => return self.alias(id, &origin),
            Event::Scalar(text, style, anchor, tag) => {
                let text = self.unterminated(text, style, span);
                let value = self.scalar(text, style, tag.as_deref(), &origin);
                (Node { value: NodeValue::Scalar(value), origin }, 1, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                let kind = self.collection_tag(tag.as_deref(), "seq", &origin);
                self.unsafe_depth += usize::from(kind == Collection::Unsafe);
                let (items, size) = self.list(depth)?;
                self.unsafe_depth -= usize::from(kind == Collection::Unsafe);
                (Node { value: NodeValue::List(items), origin }, size, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                let kind = self.collection_tag(tag.as_deref(), "map", &origin);
                self.unsafe_depth += usize::from(kind == Collection::Unsafe);
                let (entries, size) = self.mapping(depth)?;
                self.unsafe_depth -= usize::from(kind == Collection::Unsafe);
                (Node { value: NodeValue::Map(entries), origin }, size, anchor)
            }
            _ => {
                return Err(Box::new(Diagnostic::error("invalid YAML: a value is missing").at(Some(origin))));
            }
        };
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok((node, size))
    }

    /// A block scalar at the end of a text without a final newline has no final newline either.
    fn unterminated(&self, text: Cow<'text, str>, style: ScalarStyle, span: Span) -> Cow<'text, str> {
        let Some((number, last)) = self.open_line else { return text };
        let block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
        if !block || span.end.line() < number || !text.ends_with('\n') {
            return text;
        }
        let blank = last.trim_matches(' ').is_empty();
        let content = text.trim_end_matches('\n').rsplit('\n').next().unwrap_or("");
        let is_last = !content.is_empty()
            && last.strip_suffix(content).is_some_and(|indent| indent.bytes().all(|b| b == b' '));
        if is_last || (blank && text.ends_with("\n\n")) {
            return Cow::Owned(text[..text.len() - 1].to_owned());
        }
        text
    }

    fn alias(&mut self, id: usize, origin: &Arc<Origin>) -> Step<(Node, usize)> {
        let Some((_, size)) = self.anchors.get(&id) else {
            return Err(Box::new(
                Diagnostic::error("this alias names a value that it is itself a part of")
                    .at(Some(Arc::clone(origin))),
            ));
        };
        self.expanded += size;
        if self.expanded > MAX_EXPANSION {
            return Err(Box::new(
                Diagnostic::error(format!(
                    "the aliases of this file stand for more than {MAX_EXPANSION} values"
                ))
                .at(Some(Arc::clone(origin))),
            ));
        }
        self.anchors.get(&id).cloned().ok_or_else(|| Box::new(Diagnostic::error("unknown alias")))
    }

    fn list(&mut self, depth: usize) -> Step<(Vec<Node>, usize)> {
        let mut items = Vec::new();
        let mut size = 1;
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok((items, size));
            }
            let (item, item_size) = self.node(event, span, depth + 1)?;
            size += item_size;
            items.push(item);
        }
    }

    fn mapping(&mut self, depth: usize) -> Step<(Vec<(Node, Node)>, usize)> {
        let mut own: Vec<(Node, Node)> = Vec::new();
        let mut merged: Vec<(Node, Node)> = Vec::new();
        let mut size = 1;
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let merge = is_merge(&event) && !self.json;
            let key = self.key(event, span, depth, merge)?;
            let (event, span) = self.next()?;
            let (value, value_size) = self.node(event, span, depth + 1)?;
            size += 1 + value_size;
            if merge {
                let before = merged.len();
                self.merge(value, &mut merged);
                size += 2 * (merged.len() - before);
            } else {
                own.push((key, value));
            }
        }
        Ok((self.unique(merged, own), size))
    }

    fn key(&mut self, event: Event<'text>, span: Span, depth: usize, merge: bool) -> Step<Node> {
        let origin = self.origin(span.start);
        if merge {
            return Ok(Node { value: NodeValue::Scalar(Value::str("<<")), origin });
        }
        // `=` means something as a key only.
        if let Event::Scalar(text, ScalarStyle::Plain, _, None) = &event
            && text == "="
        {
            return Ok(Node { value: NodeValue::Scalar(Value::written("=", Arc::clone(&origin))), origin });
        }
        let (node, _) = self.node(event, span, depth + 1)?;
        if node.as_scalar().is_none() {
            let problem = node.error(format!("{} can't be a key", node.kind_name()));
            return Err(Box::new(match hint::for_collection_key(self.lines, span.start.line()) {
                Some(hint) => problem.hint(hint),
                None => problem,
            }));
        }
        Ok(node)
    }

    /// Adds what a merge key names. Of several mappings in a list the first one wins.
    fn merge(&mut self, value: Node, merged: &mut Vec<(Node, Node)>) {
        match value.value {
            NodeValue::Map(entries) => merged.extend(entries),
            NodeValue::List(items) => {
                for item in items.into_iter().rev() {
                    match item.value {
                        NodeValue::Map(entries) => merged.extend(entries),
                        _ => self.problem(
                            item.error(format!("`<<` merges mappings, but this is {}", item.kind_name())),
                        ),
                    }
                }
            }
            NodeValue::Scalar(_) => {
                self.problem(value.error(format!("`<<` merges mappings, but this is {}", value.kind_name())));
            }
        }
    }

    /// Merged entries first, own entries over them; the last of equal keys wins.
    fn unique(&mut self, merged: Vec<(Node, Node)>, own: Vec<(Node, Node)>) -> Vec<(Node, Node)> {
        if merged.is_empty() && own.len() < 2 {
            return own;
        }
        let from_merge = merged.len();
        let mut places: HashMap<Value, (usize, bool)> = HashMap::with_capacity(merged.len() + own.len());
        let mut out: Vec<(Node, Node)> = Vec::with_capacity(merged.len() + own.len());
        for (index, (key, value)) in merged.into_iter().chain(own).enumerate() {
            let is_own = index >= from_merge;
            match places.get_mut(&key.to_value()) {
                Some((place, was_own)) => {
                    if is_own && *was_own {
                        let first = out[*place].0.origin.line;
                        self.duplicate(&key, first);
                    }
                    *was_own |= is_own;
                    out[*place].1 = value;
                }
                None => {
                    places.insert(key.to_value(), (out.len(), is_own));
                    out.push((key, value));
                }
            }
        }
        out
    }

    /// What the tag of a list or mapping asks for; `core` is the tag that it has anyway.
    fn collection_tag(&mut self, tag: Option<&Tag>, core: &str, origin: &Arc<Origin>) -> Collection {
        let Some(tag) = tag else { return Collection::Plain };
        let name = tag_name(tag);
        match name.as_ref() {
            "!" => Collection::Plain,
            "!unsafe" => Collection::Unsafe,
            "!vault" | "!vault-encrypted" => {
                self.problem(
                    Diagnostic::error(format!("{name} needs a string")).at(Some(Arc::clone(origin))),
                );
                Collection::Plain
            }
            name if name.strip_prefix(CORE) == Some(core)
                || (core == "map" && name == "tag:yaml.org,2002:python/dict") =>
            {
                Collection::Plain
            }
            name => {
                self.unknown_tag(name, origin);
                Collection::Plain
            }
        }
    }

    fn unknown_tag(&mut self, name: &str, origin: &Arc<Origin>) {
        let shown = match name.strip_prefix(CORE) {
            Some(core) => format!("!!{core}"),
            None => name.to_owned(),
        };
        let problem = Diagnostic::error(format!("the YAML tag `{shown}` isn't supported here"))
            .at(Some(Arc::clone(origin)));
        let problem = if shown.starts_with("!!python") {
            problem.hint("tags that build Python objects are never loaded")
        } else if let Some(meant) = crate::diagnostic::did_you_mean(name, ["!vault", "!unsafe"]) {
            problem.hint(format!("did you mean `{meant}`?"))
        } else if shown.starts_with("!!") {
            problem
        } else {
            problem.hint("a value that starts with `!` needs quotes, if that is what it is")
        };
        self.problem(problem);
    }

    fn written(&self, text: Cow<'text, str>, origin: &Arc<Origin>) -> Value {
        Value::Str(Text {
            text: Arc::from(text),
            trusted: self.unsafe_depth == 0,
            vaulted: false,
            origin: Some(Arc::clone(origin)),
        })
    }

    fn scalar(
        &mut self,
        text: Cow<'text, str>,
        style: ScalarStyle,
        tag: Option<&Tag>,
        origin: &Arc<Origin>,
    ) -> Value {
        let Some(tag) = tag else {
            return if style == ScalarStyle::Plain {
                self.plain(text, origin)
            } else {
                self.written(text, origin)
            };
        };
        let name = tag_name(tag);
        match name.as_ref() {
            // PyYAML reads a lone `!` as no tag, even before quotes.
            "!" => self.plain(text, origin),
            "!unsafe" => {
                // The value is resolved as if it were plain, even in quotes.
                self.unsafe_depth += 1;
                let value = self.plain(text, origin);
                self.unsafe_depth -= 1;
                value
            }
            "!vault" | "!vault-encrypted" => Value::Vault(Arc::new(VaultText {
                envelope: Arc::from(text),
                origin: Some(Arc::clone(origin)),
            })),
            name => match name.strip_prefix(CORE) {
                Some(core) => self.core_tag(core, text, origin),
                None => {
                    self.unknown_tag(name, origin);
                    Value::Null
                }
            },
        }
    }

    /// A scalar that is tagged with one of YAML's own types.
    fn core_tag(&mut self, core: &str, text: Cow<'text, str>, origin: &Arc<Origin>) -> Value {
        let resolved = match core {
            "str" | "python/unicode" => return self.written(text, origin),
            "null" => return Value::Null,
            "bool" => match text.to_ascii_lowercase().as_str() {
                "yes" | "true" | "on" => Some(Value::Bool(true)),
                "no" | "false" | "off" => Some(Value::Bool(false)),
                _ => None,
            },
            "int" => match scalar::resolve(&text) {
                Plain::Typed(value @ Value::Int(_)) => Some(value),
                _ => None,
            },
            "float" => match scalar::resolve(&text) {
                Plain::Typed(value @ Value::Float(_)) => Some(value),
                Plain::Typed(Value::Int(int)) =>
                {
                    #[expect(clippy::cast_precision_loss, reason = "a float was asked for")]
                    Some(Value::Float(int as f64))
                }
                _ => text.replace('_', "").parse().ok().map(Value::Float),
            },
            "timestamp" => match scalar::resolve(&text) {
                Plain::Timestamp(iso) => Some(self.untrusted(iso.into(), origin)),
                _ => None,
            },
            "binary" => {
                use base64::Engine as _;
                let compact: String = text.split_whitespace().collect();
                base64::engine::general_purpose::STANDARD
                    .decode(compact)
                    .ok()
                    .map(|bytes| self.untrusted(String::from_utf8_lossy(&bytes).into(), origin))
            }
            _ => {
                self.unknown_tag(&format!("{CORE}{core}"), origin);
                return Value::Null;
            }
        };
        resolved.unwrap_or_else(|| {
            self.problem(
                Diagnostic::error(format!("'{text}' can't be read as `!!{core}`"))
                    .at(Some(Arc::clone(origin))),
            );
            Value::Null
        })
    }

    fn untrusted(&self, text: Arc<str>, origin: &Arc<Origin>) -> Value {
        Value::Str(Text { text, trusted: false, vaulted: false, origin: Some(Arc::clone(origin)) })
    }

    /// A key that the mapping has already.
    fn duplicate(&mut self, key: &Node, first: u32) {
        let message = format!(
            "Found duplicate mapping key '{}', which is on line {first} already",
            key.to_value().to_text()
        );
        let at = Some(Arc::clone(&key.origin));
        match super::duplicate_keys() {
            DuplicateKeys::Ignored => {}
            DuplicateKeys::Warned => {
                self.warnings.push(Diagnostic::warning(message).at(at).hint("the last value is used"))
            }
            DuplicateKeys::Refused => self.problem(Diagnostic::error(message).at(at)),
        }
    }

    /// A scalar without quotes and without a tag.
    fn plain(&mut self, text: Cow<'text, str>, origin: &Arc<Origin>) -> Value {
        let resolved = if self.json { scalar::resolve_json(&text) } else { scalar::resolve(&text) };
        match resolved {
            Plain::Typed(value) => value,
            Plain::Text => self.written(text, origin),
            Plain::Timestamp(iso) => self.untrusted(iso.into(), origin),
            Plain::TooLarge(digits) => {
                self.warnings.push(
                    Diagnostic::warning(format!(
                        "the integer {text} needs more than 64 bits; it is kept as text"
                    ))
                    .at(Some(Arc::clone(origin))),
                );
                self.written(digits.into(), origin)
            }
            Plain::Merge => self.reserved(
                "<<",
                "`<<` merges mappings and is a key; put it in quotes if you mean the text",
                origin,
            ),
            Plain::Reserved => self.reserved("=", "YAML reserves a lone `=`; put it in quotes", origin),
            Plain::Invalid(what) => {
                self.problem(
                    Diagnostic::error(format!("'{text}' is {what}"))
                        .at(Some(Arc::clone(origin)))
                        .hint("put it in quotes if you mean the text"),
                );
                Value::Null
            }
        }
    }

    fn reserved(&mut self, text: &str, hint: &str, origin: &Arc<Origin>) -> Value {
        self.problem(
            Diagnostic::error(format!("`{text}` can't be a value")).at(Some(Arc::clone(origin))).hint(hint),
        );
        Value::Null
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Collection {
    Plain,
    Unsafe,
}

fn is_merge(event: &Event) -> bool {
    match event {
        Event::Scalar(text, ScalarStyle::Plain, _, None) => text == "<<",
        Event::Scalar(_, _, _, Some(tag)) => tag_name(tag) == "tag:yaml.org,2002:merge",
        _ => false,
    }
}

/// The tag as it is known: `!vault`, `tag:yaml.org,2002:str`, `!`.
fn tag_name(tag: &Tag) -> Cow<'_, str> {
    match (tag.handle.as_str(), tag.suffix.as_str()) {
        ("", suffix) => Cow::Borrowed(suffix),
        ("!", "" | "!") => Cow::Borrowed("!"),
        (handle, suffix) => Cow::Owned(format!("{handle}{suffix}")),
    }
}
