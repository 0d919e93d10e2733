//! YAML in PyYAML's layout, byte for byte: what the filters `to_yaml` and `to_nice_yaml` print.
//!
//! Where lines break, which strings get which quotes, and that lists inside mappings aren't indented is
//! seen by users in files that they template, so none of it is left to taste.

use super::scalar::{self, Plain};
use crate::value::{Value, float_repr};

/// How YAML is laid out.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Spaces per level, 2 to 9.
    pub indent: usize,
    /// Lines are broken at spaces behind this column.
    pub width: usize,
    /// `true`: all in brackets. `false`: all on lines of their own. `None`: brackets for collections of
    /// scalars only.
    pub flow: Option<bool>,
    /// Whether keys are sorted.
    pub sort_keys: bool,
    /// Whether what isn't ASCII is written as it is.
    pub allow_unicode: bool,
    /// Whether the text starts with `---`.
    pub explicit_start: bool,
    /// Whether the text ends with `...`.
    pub explicit_end: bool,
    /// How every scalar is written, where it can be.
    pub style: Option<Style>,
    /// All in brackets and quotes, everything with its tag.
    pub canonical: bool,
}

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Without quotes.
    Plain,
    /// Between single quotes.
    Single,
    /// Between double quotes.
    Double,
    /// Line by line, behind a `|`.
    Literal,
    /// In lines that are joined again when it is read, behind a `>`.
    Folded,
}

impl Style {
    /// The style that a sign stands for: that which such a scalar begins with.
    pub fn of_sign(sign: &str) -> Option<Style> {
        match sign {
            "'" => Some(Style::Single),
            "\"" => Some(Style::Double),
            "|" => Some(Style::Literal),
            ">" => Some(Style::Folded),
            _ => None,
        }
    }
}

/// PyYAML's defaults, with Unicode as it is.
impl Default for Layout {
    fn default() -> Layout {
        Layout {
            indent: 2,
            width: 80,
            flow: Some(false),
            sort_keys: true,
            allow_unicode: true,
            explicit_start: false,
            explicit_end: false,
            style: None,
            canonical: false,
        }
    }
}

impl Layout {
    /// The layout of the `to_yaml` filter.
    pub fn to_yaml() -> Layout {
        Layout { flow: None, ..Layout::default() }
    }

    /// The layout of the `to_nice_yaml` filter.
    pub fn to_nice_yaml() -> Layout {
        Layout { indent: 4, ..Layout::default() }
    }
}

/// Writes a value as one document, with a newline at its end.
pub fn dump(value: &Value, layout: &Layout) -> String {
    let indent = if (2..10).contains(&layout.indent) { layout.indent } else { 2 };
    let mut emitter = Emitter {
        out: String::new(),
        layout,
        step: indent,
        width: if layout.width > indent * 2 { layout.width } else { 80 },
        column: 0,
        whitespace: true,
        indention: true,
        indent: None,
        flow_level: 0,
        open_ended: false,
    };
    let root = Node::new(value, layout);
    if layout.explicit_start || layout.canonical {
        emitter.indicator("---", true, false, false);
    }
    if layout.canonical {
        emitter.write_indent();
    }
    emitter.node(&root, Context::Root);
    emitter.write_indent();
    if layout.explicit_end || emitter.open_ended {
        emitter.indicator("...", true, false, false);
        emitter.write_indent();
    }
    emitter.out
}

/// A value with what the layout depends on.
enum Node {
    Scalar(Scalar),
    List { items: Vec<Node>, flow: bool },
    Map { entries: Vec<(Node, Node)>, flow: bool },
}

struct Scalar {
    text: String,
    tag: &'static str,
    /// It is read again as what it is: without quotes, with quotes.
    implicit: (bool, bool),
    style: Option<Style>,
}

impl Node {
    fn new(value: &Value, layout: &Layout) -> Node {
        let scalar =
            |text: String, tag, implicit| Node::Scalar(Scalar { text, tag, implicit, style: layout.style });
        let typed = |text: &str, tag| scalar(text.to_owned(), tag, (true, false));
        match value {
            Value::Null | Value::Omit | Value::Pending => typed("null", "!!null"),
            Value::Bool(true) => typed("true", "!!bool"),
            Value::Bool(false) => typed("false", "!!bool"),
            Value::Int(int) => typed(&int.to_string(), "!!int"),
            Value::Float(float) => typed(&float_text(*float), "!!float"),
            Value::Str(text) => {
                scalar(text.text.to_string(), "!!str", (scalar::resolve(&text.text) == Plain::Text, true))
            }
            Value::Vault(vault) => Node::Scalar(Scalar {
                text: vault.envelope.to_string(),
                tag: "!vault",
                implicit: (false, false),
                style: Some(Style::Literal),
            }),
            Value::List(items) => {
                let items: Vec<Node> = items.iter().map(|item| Node::new(item, layout)).collect();
                let flow = layout.flow.unwrap_or_else(|| items.iter().all(Node::is_unstyled));
                Node::List { items, flow }
            }
            Value::Map(map) => Node::map(map.iter().map(|(k, v)| (k.clone(), v.clone())).collect(), layout),
            Value::Lazy(lazy) => Node::map(
                lazy.keys()
                    .iter()
                    .map(|key| (Value::str(key.clone()), lazy.get(key).unwrap_or_default()))
                    .collect(),
                layout,
            ),
        }
    }

    fn map(mut entries: Vec<(Value, Value)>, layout: &Layout) -> Node {
        if layout.sort_keys {
            sort(&mut entries);
        }
        let entries: Vec<(Node, Node)> =
            entries.iter().map(|(key, value)| (Node::new(key, layout), Node::new(value, layout))).collect();
        let flow = layout
            .flow
            .unwrap_or_else(|| entries.iter().all(|(key, value)| key.is_unstyled() && value.is_unstyled()));
        Node::Map { entries, flow }
    }

    fn is_unstyled(&self) -> bool {
        matches!(self, Node::Scalar(Scalar { style: None, .. }))
    }

    fn is_empty(&self) -> bool {
        match self {
            Node::Scalar(_) => false,
            Node::List { items, .. } => items.is_empty(),
            Node::Map { entries, .. } => entries.is_empty(),
        }
    }
}

/// Sorts by key as Python does: not at all if the keys can't be compared.
fn sort(entries: &mut [(Value, Value)]) {
    if entries.iter().all(|(key, _)| key.as_str().is_some()) {
        entries.sort_by(|(a, _), (b, _)| a.as_str().cmp(&b.as_str()));
        return;
    }
    let number = |value: &Value| match value {
        Value::Bool(value) => Some(f64::from(u8::from(*value))),
        #[expect(clippy::cast_precision_loss, reason = "only the order counts")]
        Value::Int(value) => Some(*value as f64),
        Value::Float(value) => Some(*value),
        _ => None,
    };
    if entries.iter().all(|(key, _)| number(key).is_some()) {
        entries
            .sort_by(|(a, _), (b, _)| number(a).partial_cmp(&number(b)).unwrap_or(std::cmp::Ordering::Equal));
    }
}

fn float_text(float: f64) -> String {
    if float.is_nan() {
        return ".nan".into();
    }
    if float.is_infinite() {
        return if float > 0.0 { ".inf".into() } else { "-.inf".into() };
    }
    let text = float_repr(float);
    // YAML 1.1 takes `1e+16` for text.
    if text.contains('.') { text } else { text.replacen('e', ".0e", 1) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    Root,
    Sequence,
    Mapping,
    SimpleKey,
}

/// What a text allows.
struct Analysis {
    multiline: bool,
    flow_plain: bool,
    block_plain: bool,
    single_quoted: bool,
    block: bool,
}

fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_space_or_break(c: char) -> bool {
    is_break(c) || matches!(c, '\0' | ' ' | '\t' | '\r')
}

fn analyze(text: &[char], allow_unicode: bool) -> Analysis {
    if text.is_empty() {
        return Analysis {
            multiline: false,
            flow_plain: false,
            block_plain: true,
            single_quoted: true,
            block: false,
        };
    }
    let (mut block_indicators, mut flow_indicators, mut line_breaks, mut special) =
        (false, false, false, false);
    let (mut edge_space, mut trailing_space, mut break_space, mut space_break) = (false, false, false, false);
    let (mut previous_space, mut previous_break) = (false, false);
    if text.starts_with(&['-', '-', '-']) || text.starts_with(&['.', '.', '.']) {
        block_indicators = true;
        flow_indicators = true;
    }
    let mut after_space = true;
    let last = text.len() - 1;
    for (index, c) in text.iter().copied().enumerate() {
        let before_space = text.get(index + 1).is_none_or(|next| is_space_or_break(*next));
        if index == 0 {
            let always = "#,[]{}&*!|>'\"%@`".contains(c) || (c == '-' && before_space);
            flow_indicators |= always || matches!(c, '?' | ':');
            block_indicators |= always || (matches!(c, '?' | ':') && before_space);
        } else {
            flow_indicators |= ",?[]{}:".contains(c) || (c == '#' && after_space);
            block_indicators |= (c == ':' && before_space) || (c == '#' && after_space);
        }
        line_breaks |= is_break(c);
        if !(c == '\n' || (' '..='~').contains(&c)) {
            let printable = c == '\u{85}'
                || (c >= '\u{a0}' && !matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}' | '\u{10ffff}'));
            special |= !printable || !allow_unicode;
        }
        if c == ' ' {
            edge_space |= index == 0 || index == last;
            trailing_space |= index == last;
            break_space |= previous_break;
            previous_space = true;
            previous_break = false;
        } else if is_break(c) {
            edge_space |= index == 0 || index == last;
            space_break |= previous_space;
            previous_space = false;
            previous_break = true;
        } else {
            previous_space = false;
            previous_break = false;
        }
        after_space = is_space_or_break(c);
    }
    let odd = space_break || special;
    let plain = !(edge_space || break_space || odd || line_breaks);
    Analysis {
        multiline: line_breaks,
        flow_plain: plain && !flow_indicators,
        block_plain: plain && !block_indicators,
        single_quoted: !break_space && !odd,
        block: !trailing_space && !odd,
    }
}

struct Emitter<'a> {
    out: String,
    layout: &'a Layout,
    step: usize,
    width: usize,
    column: usize,
    /// The last thing written was a space, or it counts as one.
    whitespace: bool,
    /// The line has only indentation and dashes so far.
    indention: bool,
    indent: Option<usize>,
    flow_level: usize,
    open_ended: bool,
}

impl Emitter<'_> {
    fn write(&mut self, text: &str) {
        self.column += text.chars().count();
        self.out.push_str(text);
    }

    fn write_chars(&mut self, text: &[char]) {
        self.column += text.len();
        self.out.extend(text);
    }

    fn indicator(&mut self, text: &str, need_space: bool, whitespace: bool, indention: bool) {
        if need_space && !self.whitespace {
            self.write(" ");
        }
        self.write(text);
        self.whitespace = whitespace;
        self.indention = self.indention && indention;
        self.open_ended = false;
    }

    fn line_break(&mut self, character: char) {
        self.whitespace = true;
        self.indention = true;
        self.column = 0;
        self.out.push(character);
    }

    fn write_indent(&mut self) {
        let indent = self.indent.unwrap_or(0);
        if !self.indention || self.column > indent || (self.column == indent && !self.whitespace) {
            self.line_break('\n');
        }
        if self.column < indent {
            self.whitespace = true;
            self.out.extend(std::iter::repeat_n(' ', indent - self.column));
            self.column = indent;
        }
    }

    /// Goes one level in; returns what to restore.
    fn go_in(&mut self, flow: bool, indentless: bool) -> Option<usize> {
        let before = self.indent;
        self.indent = match self.indent {
            None => Some(if flow { self.step } else { 0 }),
            Some(indent) if indentless => Some(indent),
            Some(indent) => Some(indent + self.step),
        };
        before
    }

    fn node(&mut self, node: &Node, context: Context) {
        match node {
            Node::Scalar(scalar) => {
                let before = self.go_in(true, false);
                self.scalar(scalar, context);
                self.indent = before;
            }
            Node::List { items, flow } => {
                if self.layout.canonical {
                    self.indicator("!!seq", true, false, false);
                }
                if self.flow_level > 0 || self.layout.canonical || *flow || items.is_empty() {
                    self.flow_list(items);
                } else {
                    self.block_list(items, context);
                }
            }
            Node::Map { entries, flow } => {
                if self.layout.canonical {
                    self.indicator("!!map", true, false, false);
                }
                if self.flow_level > 0 || self.layout.canonical || *flow || entries.is_empty() {
                    self.flow_map(entries);
                } else {
                    self.block_map(entries);
                }
            }
        }
    }

    fn flow_list(&mut self, items: &[Node]) {
        self.indicator("[", true, true, false);
        self.flow_level += 1;
        let before = self.go_in(true, false);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.indicator(",", false, false, false);
            }
            self.break_line();
            self.node(item, Context::Sequence);
        }
        self.indent = before;
        self.flow_level -= 1;
        self.last_break(items.is_empty());
        self.indicator("]", false, false, false);
    }

    /// A new line in brackets, where one is due.
    fn break_line(&mut self) {
        if self.layout.canonical || self.column > self.width {
            self.write_indent();
        }
    }

    /// What is before the closing bracket.
    fn last_break(&mut self, is_empty: bool) {
        if self.layout.canonical && !is_empty {
            self.indicator(",", false, false, false);
            self.write_indent();
        }
    }

    fn flow_map(&mut self, entries: &[(Node, Node)]) {
        self.indicator("{", true, true, false);
        self.flow_level += 1;
        let before = self.go_in(true, false);
        for (index, (key, value)) in entries.iter().enumerate() {
            if index > 0 {
                self.indicator(",", false, false, false);
            }
            self.break_line();
            if !self.layout.canonical && self.is_simple_key(key) {
                self.node(key, Context::SimpleKey);
                self.indicator(":", false, false, false);
            } else {
                self.indicator("?", true, false, false);
                self.node(key, Context::Mapping);
                self.break_line();
                self.indicator(":", true, false, false);
            }
            self.node(value, Context::Mapping);
        }
        self.indent = before;
        self.flow_level -= 1;
        self.last_break(entries.is_empty());
        self.indicator("}", false, false, false);
    }

    fn block_list(&mut self, items: &[Node], context: Context) {
        let in_mapping = matches!(context, Context::Mapping | Context::SimpleKey);
        let before = self.go_in(false, in_mapping && !self.indention);
        for item in items {
            self.write_indent();
            self.indicator("-", true, false, true);
            self.node(item, Context::Sequence);
        }
        self.indent = before;
    }

    fn block_map(&mut self, entries: &[(Node, Node)]) {
        let before = self.go_in(false, false);
        for (key, value) in entries {
            self.write_indent();
            if self.is_simple_key(key) {
                self.node(key, Context::SimpleKey);
                self.indicator(":", false, false, false);
            } else {
                self.indicator("?", true, false, true);
                self.node(key, Context::Mapping);
                self.write_indent();
                self.indicator(":", true, false, true);
            }
            self.node(value, Context::Mapping);
        }
        self.indent = before;
    }

    fn is_simple_key(&self, key: &Node) -> bool {
        match key {
            Node::Scalar(Scalar { text, tag, .. }) => {
                text.chars().count() + tag.len() < 128 && !text.is_empty() && !text.chars().any(is_break)
            }
            other => other.is_empty(),
        }
    }

    fn scalar(&mut self, scalar: &Scalar, context: Context) {
        let text: Vec<char> = scalar.text.chars().collect();
        let analysis = analyze(&text, self.layout.allow_unicode);
        let key = context == Context::SimpleKey;
        let style = self.choose(scalar, &analysis, key);
        let implicit = if style == Style::Plain { scalar.implicit.0 } else { scalar.implicit.1 };
        if self.layout.canonical || !implicit {
            self.indicator(scalar.tag, true, false, false);
        }
        match style {
            Style::Plain => self.plain(&text, !key, context),
            Style::Single => self.single_quoted(&text, !key),
            Style::Double => self.double_quoted(&text, !key),
            Style::Literal => self.literal(&text),
            Style::Folded => self.folded(&text),
        }
    }

    /// The style that is asked for, or what comes nearest to it here.
    fn choose(&self, scalar: &Scalar, analysis: &Analysis, key: bool) -> Style {
        let plain = if self.flow_level > 0 { analysis.flow_plain } else { analysis.block_plain };
        let bare_key = key && (scalar.text.is_empty() || analysis.multiline);
        let single = analysis.single_quoted && !(key && analysis.multiline);
        match scalar.style {
            _ if self.layout.canonical => Style::Double,
            None if scalar.implicit.0 && plain && !bare_key => Style::Plain,
            None | Some(Style::Single) if single => Style::Single,
            Some(style @ (Style::Literal | Style::Folded))
                if self.flow_level == 0 && !key && analysis.block =>
            {
                style
            }
            _ => Style::Double,
        }
    }

    fn plain(&mut self, text: &[char], split: bool, context: Context) {
        if context == Context::Root {
            self.open_ended = true;
        }
        if text.is_empty() {
            return;
        }
        if !self.whitespace {
            self.write(" ");
        }
        self.whitespace = false;
        self.indention = false;
        // Plain text has neither breaks nor spaces at its ends: it is words and spaces.
        let mut start = 0;
        while start < text.len() {
            let spaces = text[start] == ' ';
            let end = (start..text.len()).find(|at| (text[*at] == ' ') != spaces).unwrap_or(text.len());
            if spaces && start + 1 == end && self.column > self.width && split {
                self.write_indent();
                self.whitespace = false;
                self.indention = false;
            } else {
                self.write_chars(&text[start..end]);
            }
            start = end;
        }
    }

    fn single_quoted(&mut self, text: &[char], split: bool) {
        self.indicator("'", true, false, false);
        let kind = |c: char| match c {
            ' ' => 0,
            c if is_break(c) => 1,
            _ => 2,
        };
        let mut start = 0;
        while start < text.len() {
            let this = kind(text[start]);
            let end = (start..text.len()).find(|at| kind(text[*at]) != this).unwrap_or(text.len());
            match this {
                0 if start + 1 == end
                    && self.column > self.width
                    && split
                    && start != 0
                    && end != text.len() =>
                {
                    self.write_indent();
                }
                1 => {
                    if text[start] == '\n' {
                        self.line_break('\n');
                    }
                    for c in &text[start..end] {
                        self.line_break(*c);
                    }
                    self.write_indent();
                }
                _ => {
                    for c in &text[start..end] {
                        self.write_chars(if *c == '\'' { &['\'', '\''] } else { std::slice::from_ref(c) });
                    }
                }
            }
            start = end;
        }
        self.indicator("'", false, false, false);
    }

    fn double_quoted(&mut self, text: &[char], split: bool) {
        self.indicator("\"", true, false, false);
        let mut start = 0;
        for end in 0..=text.len() {
            let c = text.get(end).copied();
            if c.is_none_or(|c| !self.is_verbatim(c)) {
                if start < end {
                    self.write_chars(&text[start..end]);
                    start = end;
                }
                if let Some(c) = c {
                    self.write(&escape(c));
                    start = end + 1;
                }
            }
            let inside = 0 < end && end + 1 < text.len();
            if inside && (c == Some(' ') || start >= end) && self.column + end > self.width + start && split {
                if start < end {
                    self.write_chars(&text[start..end]);
                    start = end;
                }
                self.write("\\");
                self.write_indent();
                self.whitespace = false;
                self.indention = false;
                if text.get(start) == Some(&' ') {
                    self.write("\\");
                }
            }
        }
        self.indicator("\"", false, false, false);
    }

    fn is_verbatim(&self, c: char) -> bool {
        let printable = (' '..='~').contains(&c)
            || (self.layout.allow_unicode
                && (('\u{a0}'..='\u{d7ff}').contains(&c) || ('\u{e000}'..='\u{fffd}').contains(&c)));
        printable && !matches!(c, '"' | '\\' | '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
    }

    /// Opens a block: its sign, and what its ends and its first line need to be said.
    fn open_block(&mut self, sign: char, text: &[char]) {
        let mut hints = String::from(sign);
        if text.first().is_some_and(|c| *c == ' ' || is_break(*c)) {
            hints.push_str(&self.step.to_string());
        }
        let ends_in_break = text.last().is_some_and(|c| is_break(*c));
        let keep = ends_in_break && (text.len() == 1 || is_break(text[text.len() - 2]));
        if !ends_in_break {
            hints.push('-');
        } else if keep {
            hints.push('+');
        }
        self.indicator(&hints, true, false, false);
        self.open_ended = keep;
        self.line_break('\n');
    }

    fn literal(&mut self, text: &[char]) {
        self.open_block('|', text);
        let body = if text.last().is_some_and(|c| is_break(*c)) { &text[..text.len() - 1] } else { text };
        for line in body.split(|c| is_break(*c)) {
            if !line.is_empty() {
                self.write_indent();
                self.write_chars(line);
            }
            self.line_break('\n');
        }
    }

    /// A line break between two words is read as a space, so that one of the text takes two.
    fn folded(&mut self, text: &[char]) {
        self.open_block('>', text);
        let kind = |c: char| match c {
            ' ' => 0,
            c if is_break(c) => 1,
            _ => 2,
        };
        // What is indented more keeps its breaks as they are.
        let mut indented = true;
        let mut start = 0;
        if text.first().is_some_and(|c| !is_break(*c)) {
            indented = text[0] == ' ';
            self.write_indent();
        }
        while start < text.len() {
            let this = kind(text[start]);
            let end = (start..text.len()).find(|at| kind(text[*at]) != this).unwrap_or(text.len());
            let next = text.get(end).copied();
            match this {
                0 if start + 1 == end && self.column > self.width && next.is_some() => self.write_indent(),
                1 => {
                    if !indented && next.is_some_and(|c| c != ' ') && text[start] == '\n' {
                        self.line_break('\n');
                    }
                    indented = next == Some(' ');
                    for c in &text[start..end] {
                        self.line_break(*c);
                    }
                    if next.is_some() {
                        self.write_indent();
                    }
                }
                _ => {
                    self.write_chars(&text[start..end]);
                    if next.is_none() {
                        self.line_break('\n');
                    }
                }
            }
            start = end;
        }
    }
}

fn escape(c: char) -> String {
    let short = match c {
        '\0' => '0',
        '\u{7}' => 'a',
        '\u{8}' => 'b',
        '\t' => 't',
        '\n' => 'n',
        '\u{b}' => 'v',
        '\u{c}' => 'f',
        '\r' => 'r',
        '\u{1b}' => 'e',
        '"' => '"',
        '\\' => '\\',
        '\u{85}' => 'N',
        '\u{a0}' => '_',
        '\u{2028}' => 'L',
        '\u{2029}' => 'P',
        c if c <= '\u{ff}' => return format!("\\x{:02X}", c as u32),
        c if c <= '\u{ffff}' => return format!("\\u{:04X}", c as u32),
        c => return format!("\\U{:08X}", c as u32),
    };
    format!("\\{short}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What PyYAML 6.0.3 printed for these values and options is recorded; it must be what we print.
    #[test]
    fn prints_as_pyyaml_does() {
        let table: Vec<(Value, Value, String)> =
            serde_json::from_str(include_str!("testdata/pyyaml_dump.json")).expect("the table is JSON");
        assert!(table.len() > 300);
        for (value, options, expected) in table {
            let mut layout = Layout::default();
            for (name, option) in options.as_map().expect("a mapping") {
                let number = || usize::try_from(option.as_int().expect("a number")).expect("positive");
                match name.as_str().expect("a string") {
                    "default_flow_style" => layout.flow = option.as_bool(),
                    "indent" => layout.indent = number(),
                    "width" => layout.width = number(),
                    "allow_unicode" => layout.allow_unicode = option.truthy(),
                    "sort_keys" => layout.sort_keys = option.truthy(),
                    "explicit_start" => layout.explicit_start = option.truthy(),
                    "explicit_end" => layout.explicit_end = option.truthy(),
                    "canonical" => layout.canonical = option.truthy(),
                    "default_style" => {
                        layout.style = Some(Style::of_sign(option.as_str().expect("a sign")).expect("known"));
                    }
                    other => panic!("unknown option {other}"),
                }
            }
            assert_eq!(dump(&value, &layout), expected, "{} {}", value.repr(), options.repr());
        }
    }

    /// What can't be in JSON: other keys than strings, infinity, vaulted strings.
    #[test]
    fn prints_what_json_cannot_hold() {
        let vault = Value::Vault(std::sync::Arc::new(crate::value::VaultText {
            envelope: "$ANSIBLE_VAULT;1.1;AES256\n6162\n".into(),
            origin: None,
        }));
        let map = |key: Value, value: Value| Value::map([(key, value)].into_iter().collect());
        for (value, expected) in [
            (Value::Float(f64::INFINITY), ".inf\n...\n"),
            (Value::Float(-0.0), "-0.0\n...\n"),
            (map(Value::Int(1), Value::Null), "1: null\n"),
            (map(Value::Null, Value::Bool(true)), "null: true\n"),
            (map(Value::str("a"), vault), "a: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n"),
        ] {
            assert_eq!(dump(&value, &Layout::default()), expected);
        }
    }
}
