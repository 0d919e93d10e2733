//! XML as a tree that can be changed: a parser for what configuration files hold, and the way back to text.
//!
//! Names are resolved to namespaces. Entities that a document declares itself are refused by name: nothing
//! is ever expanded but the five of XML and characters by number, and nothing outside the text is read.

use std::collections::BTreeMap;

/// A place in a [`Tree`].
pub type NodeId = usize;

/// The document itself: its children are the element at the root and what stands around it.
pub const DOCUMENT: NodeId = 0;

/// The namespace that the prefix `xml` always means.
const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";

/// Elements below each other; more is no configuration.
const DEEPEST: usize = 256;

/// An XML document that can't be read or is not understood.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct XmlError {
    line: usize,
    message: String,
}

/// A name as written, with the namespace that its prefix means (empty: none).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// Namespace.
    pub space: String,
    /// Prefix, empty without one.
    pub prefix: String,
    /// The rest of the name.
    pub local: String,
}

impl Name {
    /// `prefix:local`, as it is written in a document.
    pub fn written(&self) -> String {
        if self.prefix.is_empty() { self.local.clone() } else { format!("{}:{}", self.prefix, self.local) }
    }

    /// `{namespace}local`, as return values have it.
    pub fn expanded(&self) -> String {
        if self.space.is_empty() { self.local.clone() } else { format!("{{{}}}{}", self.space, self.local) }
    }

    /// Whether two names mean the same.
    pub fn is(&self, other: &Name) -> bool {
        self.space == other.space && self.local == other.local
    }
}

/// An attribute. Declarations of namespaces are kept apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its name.
    pub name: Name,
    /// Its value.
    pub value: String,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The document.
    Document,
    /// An element.
    Element {
        /// Its name.
        name: Name,
        /// Prefixes that it declares, with their namespaces; the empty one is the default.
        declares: Vec<(String, String)>,
        /// Its attributes in the order of the text.
        attributes: Vec<Attribute>,
    },
    /// Text.
    Text(String),
    /// Text in a CDATA section.
    Cdata(String),
    /// A comment.
    Comment(String),
    /// A processing instruction.
    Instruction(String),
    /// The document type, kept as it is.
    Doctype(String),
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// The node that it is in; the document is in itself.
    pub parent: NodeId,
    /// What is in it.
    pub children: Vec<NodeId>,
}

/// A document. Nodes that were taken out stay in the list and are in no other's children.
#[derive(Clone, Debug)]
pub struct Tree {
    /// All nodes.
    pub nodes: Vec<Node>,
}

impl Tree {
    /// Reads a document. With `plain_cdata`, CDATA sections become text.
    ///
    /// # Errors
    /// If it is not well-formed, is in an encoding other than UTF-8, US-ASCII or ISO-8859-1, or uses
    /// entities that it declares.
    pub fn parse(bytes: &[u8], plain_cdata: bool) -> Result<Tree, XmlError> {
        let text = decode(bytes)?;
        let mut parser = Parser {
            text: &text,
            at: 0,
            tree: Tree { nodes: vec![Node { kind: Kind::Document, parent: DOCUMENT, children: Vec::new() }] },
            plain_cdata,
        };
        parser.document()?;
        Ok(parser.tree)
    }

    /// A node that is in no other's children yet.
    pub fn add(&mut self, kind: Kind) -> NodeId {
        self.nodes.push(Node { kind, parent: DOCUMENT, children: Vec::new() });
        self.nodes.len() - 1
    }

    /// Puts `child` into `parent`, before the child that is at `index`.
    pub fn insert(&mut self, parent: NodeId, index: usize, child: NodeId) {
        self.nodes[child].parent = parent;
        self.nodes[parent].children.insert(index, child);
    }

    /// Puts `child` behind the other children of `parent`.
    pub fn append(&mut self, parent: NodeId, child: NodeId) {
        self.insert(parent, self.nodes[parent].children.len(), child);
    }

    /// Takes an element out, with the text behind it.
    pub fn remove(&mut self, id: NodeId) {
        let index = self.index_of(id);
        let children = &self.nodes[self.nodes[id].parent].children;
        let tail = children[index + 1..].iter().take_while(|child| self.is_text(**child)).count();
        let parent = self.nodes[id].parent;
        self.nodes[parent].children.drain(index..=index + tail);
    }

    /// Which child of its parent a node is.
    pub fn index_of(&self, id: NodeId) -> usize {
        let siblings = &self.nodes[self.nodes[id].parent].children;
        siblings.iter().position(|child| *child == id).unwrap_or_default()
    }

    /// A copy of a node of `other` and all that is in it, in no other's children yet.
    pub fn copy_of(&mut self, other: &Tree, id: NodeId) -> NodeId {
        let copy = self.add(other.nodes[id].kind.clone());
        for child in &other.nodes[id].children {
            let child = self.copy_of(other, *child);
            self.append(copy, child);
        }
        copy
    }

    /// Whether a node is text, in a CDATA section or not.
    pub fn is_text(&self, id: NodeId) -> bool {
        matches!(self.nodes[id].kind, Kind::Text(_) | Kind::Cdata(_))
    }

    /// The name of an element.
    pub fn element(&self, id: NodeId) -> Option<&Name> {
        match &self.nodes[id].kind {
            Kind::Element { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The attributes of an element.
    pub fn attributes(&self, id: NodeId) -> &[Attribute] {
        match &self.nodes[id].kind {
            Kind::Element { attributes, .. } => attributes,
            _ => &[],
        }
    }

    /// The attributes of an element, to be changed. `None` if it is not an element.
    pub fn attributes_mut(&mut self, id: NodeId) -> Option<&mut Vec<Attribute>> {
        match &mut self.nodes[id].kind {
            Kind::Element { attributes, .. } => Some(attributes),
            _ => None,
        }
    }

    /// The text before the first thing in an element that is not text. `None` if there is none.
    pub fn leading_text(&self, id: NodeId) -> Option<String> {
        let children = &self.nodes[id].children;
        let texts: Vec<&str> = children.iter().map_while(|child| self.text_at(*child)).collect();
        (!texts.is_empty()).then(|| texts.concat())
    }

    /// Replaces the text before the first thing in an element that is not text.
    pub fn set_leading_text(&mut self, id: NodeId, text: &str) {
        let count = self.nodes[id].children.iter().take_while(|child| self.is_text(**child)).count();
        self.nodes[id].children.drain(..count);
        if !text.is_empty() {
            let node = self.add(Kind::Text(text.to_string()));
            self.insert(id, 0, node);
        }
    }

    fn text_at(&self, id: NodeId) -> Option<&str> {
        match &self.nodes[id].kind {
            Kind::Text(text) | Kind::Cdata(text) => Some(text),
            _ => None,
        }
    }

    /// The text of a node as XPath has it: for an element, all text below it.
    pub fn string_value(&self, id: NodeId) -> String {
        match &self.nodes[id].kind {
            Kind::Text(text) | Kind::Cdata(text) | Kind::Comment(text) | Kind::Instruction(text) => {
                text.clone()
            }
            Kind::Doctype(_) => String::new(),
            Kind::Document | Kind::Element { .. } => {
                let inside = self.nodes[id].children.iter();
                inside
                    .filter(|child| self.is_text(**child) || self.element(**child).is_some())
                    .map(|child| self.string_value(*child))
                    .collect()
            }
        }
    }

    /// Takes away text that only indents. Elements with other text, and an element's only blank text, keep it.
    pub fn without_blanks(&mut self) {
        for id in 0..self.nodes.len() {
            if self.element(id).is_none() || self.keeps_space(id) {
                continue;
            }
            let children = std::mem::take(&mut self.nodes[id].children);
            let blank = |child: NodeId| matches!(&self.nodes[child].kind, Kind::Text(text) if text.trim_matches([' ', '\t', '\n', '\r']).is_empty());
            let mixed = children.first().is_some_and(|first| self.is_text(*first) && !blank(*first));
            let only = children.len() == 1;
            let mut kept: Vec<NodeId> = Vec::new();
            for child in children {
                let after_text = kept.last().is_some_and(|last| self.is_text(*last));
                if mixed || only || after_text || !blank(child) {
                    kept.push(child);
                }
            }
            self.nodes[id].children = kept;
        }
    }

    /// Whether `xml:space` asks that blanks be kept.
    fn keeps_space(&self, mut id: NodeId) -> bool {
        while id != DOCUMENT {
            let space = self
                .attributes(id)
                .iter()
                .find(|one| one.name.space == XML_NAMESPACE && one.name.local == "space");
            if let Some(space) = space {
                return space.value == "preserve";
            }
            id = self.nodes[id].parent;
        }
        false
    }

    /// The namespaces that prefixes mean at a node.
    pub fn namespaces_at(&self, mut id: NodeId) -> BTreeMap<String, String> {
        let mut known = BTreeMap::from([("xml".to_string(), XML_NAMESPACE.to_string())]);
        while id != DOCUMENT {
            if let Kind::Element { declares, .. } = &self.nodes[id].kind {
                for (prefix, space) in declares {
                    known.entry(prefix.clone()).or_insert_with(|| space.clone());
                }
            }
            id = self.nodes[id].parent;
        }
        known
    }

    /// Gives the name of an element or attribute at `at` the prefix that means its namespace there, and
    /// declares one if there is none.
    pub fn settle(&mut self, at: NodeId, name: &mut Name, attribute: bool) {
        if name.space.is_empty() {
            return;
        }
        let known = self.namespaces_at(at);
        if known.get(&name.prefix) == Some(&name.space) && !(attribute && name.prefix.is_empty()) {
            return;
        }
        let fits =
            |(prefix, space): &(&String, &String)| **space == name.space && !(attribute && prefix.is_empty());
        if let Some((prefix, _)) = known.iter().find(fits) {
            name.prefix.clone_from(prefix);
            return;
        }
        if name.prefix.is_empty() || known.contains_key(&name.prefix) {
            let free = (0..).map(|number| format!("ns{number}")).find(|prefix| !known.contains_key(prefix));
            name.prefix = free.unwrap_or_default();
        }
        if let Kind::Element { declares, .. } = &mut self.nodes[at].kind {
            declares.push((name.prefix.clone(), name.space.clone()));
        }
    }

    /// The document as text: declaration, UTF-8. `pretty` indents by two spaces what holds no text.
    pub fn to_text(&self, pretty: bool) -> String {
        let mut out = String::from("<?xml version='1.0' encoding='UTF-8'?>\n");
        let parts = &self.nodes[DOCUMENT].children;
        for (index, child) in parts.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            self.write(*child, pretty, 0, &mut out);
        }
        if pretty {
            out.push('\n');
        }
        out
    }

    /// One node as text.
    pub fn fragment(&self, id: NodeId) -> String {
        let mut out = String::new();
        self.write(id, false, 0, &mut out);
        out
    }

    fn write(&self, id: NodeId, pretty: bool, depth: usize, out: &mut String) {
        let node = &self.nodes[id];
        match &node.kind {
            Kind::Document => node.children.iter().for_each(|child| self.write(*child, pretty, depth, out)),
            Kind::Text(text) => escape(text, false, out),
            Kind::Cdata(text) => out.push_str(&format!("<![CDATA[{text}]]>")),
            Kind::Comment(text) => out.push_str(&format!("<!--{text}-->")),
            Kind::Instruction(text) => out.push_str(&format!("<?{text}?>")),
            Kind::Doctype(text) => out.push_str(text),
            Kind::Element { name, declares, attributes } => {
                let name = name.written();
                out.push('<');
                out.push_str(&name);
                for (prefix, space) in declares {
                    out.push_str(" xmlns");
                    if !prefix.is_empty() {
                        out.push(':');
                        out.push_str(prefix);
                    }
                    out.push_str("=\"");
                    escape(space, true, out);
                    out.push('"');
                }
                for attribute in attributes {
                    out.push(' ');
                    out.push_str(&attribute.name.written());
                    out.push_str("=\"");
                    escape(&attribute.value, true, out);
                    out.push('"');
                }
                if node.children.is_empty() {
                    out.push_str("/>");
                    return;
                }
                out.push('>');
                let pretty = pretty && !node.children.iter().any(|child| self.is_text(*child));
                for child in &node.children {
                    if pretty {
                        out.push('\n');
                        out.push_str(&"  ".repeat(depth + 1));
                    }
                    self.write(*child, pretty, depth + 1, out);
                }
                if pretty {
                    out.push('\n');
                    out.push_str(&"  ".repeat(depth));
                }
                out.push_str(&format!("</{name}>"));
            }
        }
    }
}

fn escape(text: &str, attribute: bool, out: &mut String) {
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\r' => out.push_str("&#13;"),
            '"' if attribute => out.push_str("&quot;"),
            '\n' if attribute => out.push_str("&#10;"),
            '\t' if attribute => out.push_str("&#9;"),
            other => out.push(other),
        }
    }
}

/// The text of a document in the encoding that it declares, with lines ended by `\n`.
fn decode(bytes: &[u8]) -> Result<String, XmlError> {
    let error = |message: String| XmlError { line: 1, message };
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.starts_with(&[0xfe, 0xff]) || bytes.starts_with(&[0xff, 0xfe]) {
        return Err(error(
            "the document is in UTF-16, which is not supported here: convert it to UTF-8".into(),
        ));
    }
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    let declaration =
        head.strip_prefix("<?xml").and_then(|rest| rest.split_once("?>")).map(|(inside, _)| inside);
    let named = declaration.and_then(|inside| inside.split_once("encoding")).map(|(_, rest)| {
        rest.trim_start_matches([' ', '=', '"', '\''])
            .split(['"', '\''])
            .next()
            .unwrap_or_default()
            .to_string()
    });
    let text = match named.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("utf-8" | "utf8" | "us-ascii" | "ascii") => String::from_utf8(bytes.to_vec())
            .map_err(|_| error("the document is not valid UTF-8, and names no other encoding".into()))?,
        Some("iso-8859-1" | "latin1" | "latin-1") => bytes.iter().map(|byte| char::from(*byte)).collect(),
        Some(other) => {
            return Err(error(format!(
                "the encoding {other} is not supported here: convert the document to UTF-8"
            )));
        }
    };
    Ok(text.replace("\r\n", "\n").replace('\r', "\n"))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    tree: Tree,
    plain_cdata: bool,
}

/// Whether a name may begin with it.
fn begins_name(letter: char) -> bool {
    letter.is_alphabetic() || letter == '_'
}

/// Whether a name may hold it, the colon aside.
fn in_name(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.' | '\u{b7}')
}

/// The name at the beginning of a text, without a colon. `None` if there is none.
pub(super) fn leading_name(text: &str) -> Option<&str> {
    let first = text.chars().next().filter(|letter| begins_name(*letter))?;
    let rest = &text[first.len_utf8()..];
    let length = rest.find(|letter| !in_name(letter)).unwrap_or(rest.len());
    Some(&text[..first.len_utf8() + length])
}

impl<'a> Parser<'a> {
    fn error(&self, message: impl Into<String>) -> XmlError {
        let line = self.text[..self.at].matches('\n').count() + 1;
        XmlError { line, message: message.into() }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn take(&mut self, what: &str) -> bool {
        let there = self.rest().starts_with(what);
        if there {
            self.at += what.len();
        }
        there
    }

    fn blanks(&mut self) -> bool {
        let rest = self.rest();
        let count = rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
        self.at += count;
        count > 0
    }

    /// What stands before `end`, which is passed.
    fn until(&mut self, end: &str, what: &str) -> Result<&'a str, XmlError> {
        let Some(length) = self.rest().find(end) else {
            return Err(self.error(format!("{what} is not closed: {end} is missing")));
        };
        let inside = &self.rest()[..length];
        self.at += length + end.len();
        Ok(inside)
    }

    fn name(&mut self) -> Result<Name, XmlError> {
        let mut part = || {
            let name = leading_name(self.rest()).map(String::from);
            self.at += name.as_ref().map_or(0, String::len);
            name
        };
        let Some(first) = part() else { return Err(self.error("a name was expected")) };
        if !self.rest().starts_with(':') {
            return Ok(Name { local: first, ..Name::default() });
        }
        self.at += 1;
        let second = leading_name(self.rest()).map(String::from);
        let Some(second) = second else { return Err(self.error("a name was expected after the colon")) };
        self.at += second.len();
        Ok(Name { prefix: first, local: second, ..Name::default() })
    }

    fn document(&mut self) -> Result<(), XmlError> {
        if self.rest().starts_with("<?xml") && self.rest()[5..].starts_with([' ', '\t', '\n']) {
            self.until("?>", "the declaration")?;
        }
        let mut rooted = false;
        loop {
            self.blanks();
            if self.rest().is_empty() {
                break;
            }
            if self.rest().starts_with("<!DOCTYPE") {
                self.doctype()?;
            } else if self.rest().starts_with("<!") || self.rest().starts_with("<?") {
                self.aside(DOCUMENT)?;
            } else if self.rest().starts_with('<') && !rooted {
                self.elements()?;
                rooted = true;
            } else {
                return Err(self.error(if rooted {
                    "there is more after the element at the root"
                } else {
                    "this is no XML: an element was expected"
                }));
            }
        }
        if rooted { Ok(()) } else { Err(self.error("the document is empty")) }
    }

    fn doctype(&mut self) -> Result<(), XmlError> {
        let rest = self.rest();
        let (mut depth, mut quote) = (0_usize, None);
        for (index, letter) in rest.char_indices() {
            match (letter, quote) {
                (_, Some(open)) if letter == open => quote = None,
                (_, Some(_)) => {}
                ('"' | '\'', None) => quote = Some(letter),
                ('<', None) => depth += 1,
                ('>', None) => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                let text = &rest[..=index];
                if text.contains("<!ENTITY") {
                    return Err(self.error(
                        "the document declares entities, which are not supported here: write what they stand for",
                    ));
                }
                self.at += text.len();
                let node = self.tree.add(Kind::Doctype(text.to_string()));
                self.tree.append(DOCUMENT, node);
                return Ok(());
            }
        }
        Err(self.error("the document type is not closed"))
    }

    /// A comment, an instruction or a CDATA section.
    fn aside(&mut self, parent: NodeId) -> Result<(), XmlError> {
        let kind = if self.take("<!--") {
            Kind::Comment(self.until("-->", "a comment")?.to_string())
        } else if self.take("<?") {
            Kind::Instruction(self.until("?>", "an instruction")?.to_string())
        } else if parent != DOCUMENT && self.take("<![CDATA[") {
            let inside = self.until("]]>", "a CDATA section")?.to_string();
            if self.plain_cdata {
                self.push_text(parent, inside);
                return Ok(());
            }
            Kind::Cdata(inside)
        } else {
            return Err(self.error("this is no XML: neither an element nor a comment"));
        };
        let node = self.tree.add(kind);
        self.tree.append(parent, node);
        Ok(())
    }

    /// Text behind text is one text.
    fn push_text(&mut self, parent: NodeId, text: String) {
        if let Some(last) = self.tree.nodes[parent].children.last().copied()
            && let Kind::Text(before) = &mut self.tree.nodes[last].kind
        {
            before.push_str(&text);
            return;
        }
        let node = self.tree.add(Kind::Text(text));
        self.tree.append(parent, node);
    }

    /// The element at the root with all that is in it.
    fn elements(&mut self) -> Result<(), XmlError> {
        let mut open: Vec<NodeId> = Vec::new();
        loop {
            let parent = open.last().copied().unwrap_or(DOCUMENT);
            if self.take("</") {
                let name = self.name()?;
                self.blanks();
                let expected = self.tree.element(parent).map(Name::written).unwrap_or_default();
                if !self.take(">") || name.written() != expected {
                    return Err(
                        self.error(format!("</{expected}> was expected here, not </{}", name.written()))
                    );
                }
                open.pop();
            } else if self.rest().starts_with("<!") || self.rest().starts_with("<?") {
                self.aside(parent)?;
            } else if self.take("<") {
                let (id, closed) = self.start(parent)?;
                if !closed {
                    open.push(id);
                }
                if open.len() > DEEPEST {
                    return Err(self.error(format!("elements are nested more than {DEEPEST} deep")));
                }
            } else {
                let rest = self.rest();
                let length = rest.find('<').unwrap_or(rest.len());
                let text = self.resolved(&rest[..length])?;
                self.at += length;
                self.push_text(parent, text);
            }
            if open.is_empty() {
                return Ok(());
            }
            if self.rest().is_empty() {
                let name = open.last().and_then(|id| self.tree.element(*id)).map(Name::written);
                return Err(self.error(format!("<{}> is not closed", name.unwrap_or_default())));
            }
        }
    }

    /// A start tag, after its `<`. Whether the element is closed by it.
    fn start(&mut self, parent: NodeId) -> Result<(NodeId, bool), XmlError> {
        let mut name = self.name()?;
        let mut declares: Vec<(String, String)> = Vec::new();
        let mut attributes: Vec<Attribute> = Vec::new();
        let closed = loop {
            let blank = self.blanks();
            if self.take("/>") {
                break true;
            }
            if self.take(">") {
                break false;
            }
            if !blank {
                return Err(self.error(format!("<{}> is not closed: > is missing", name.written())));
            }
            let key = self.name()?;
            self.blanks();
            if !self.take("=") {
                return Err(self.error(format!("attribute {} has no value", key.written())));
            }
            self.blanks();
            let quote = match self.rest().chars().next() {
                Some(quote @ ('"' | '\'')) => quote,
                _ => return Err(self.error(format!("the value of {} is not in quotes", key.written()))),
            };
            self.at += 1;
            let inside = self.until(&quote.to_string(), "the value of an attribute")?;
            let value = self.resolved(&inside.replace(['\n', '\t'], " "))?;
            if inside.contains('<') {
                return Err(self.error(format!("the value of {} holds <: write &lt;", key.written())));
            }
            if key.prefix == "xmlns" {
                declares.push((key.local, value));
            } else if key.prefix.is_empty() && key.local == "xmlns" {
                declares.push((String::new(), value));
            } else if attributes.iter().any(|known| known.name == key) {
                return Err(self.error(format!("attribute {} is there twice", key.written())));
            } else {
                attributes.push(Attribute { name: key, value });
            }
        };
        let id = self.tree.add(Kind::Element { name: Name::default(), declares, attributes: Vec::new() });
        self.tree.append(parent, id);
        let known = self.tree.namespaces_at(id);
        let resolve = |name: &mut Name, default: bool| match known.get(&name.prefix) {
            Some(space) if default || !name.prefix.is_empty() => {
                name.space.clone_from(space);
                true
            }
            _ => name.prefix.is_empty(),
        };
        let mut fine = resolve(&mut name, true);
        for attribute in &mut attributes {
            fine &= resolve(&mut attribute.name, false);
        }
        if !fine {
            return Err(self.error(format!("<{}> uses a prefix that nothing declares", name.written())));
        }
        if let Kind::Element { name: own, attributes: list, .. } = &mut self.tree.nodes[id].kind {
            (*own, *list) = (name, attributes);
        }
        Ok((id, closed))
    }

    /// Text with characters in place of references to them.
    fn resolved(&self, text: &str) -> Result<String, XmlError> {
        let mut out = String::with_capacity(text.len());
        let mut parts = text.split('&');
        out.push_str(parts.next().unwrap_or_default());
        for part in parts {
            let Some((name, rest)) = part.split_once(';') else {
                return Err(self.error("a lone & is not allowed: write &amp;"));
            };
            let number = match name.strip_prefix('#') {
                Some(digits) => match digits.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16).ok(),
                    None => digits.parse().ok(),
                },
                None => None,
            };
            let letter = match (name, number.and_then(char::from_u32)) {
                (_, Some(letter)) => letter,
                ("lt", _) => '<',
                ("gt", _) => '>',
                ("amp", _) => '&',
                ("quot", _) => '"',
                ("apos", _) => '\'',
                _ => return Err(self.error(format!("the entity &{name}; is not known here"))),
            };
            out.push(letter);
            out.push_str(rest);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_come_back_as_they_are_meant() {
        let declaration = "<?xml version='1.0' encoding='UTF-8'?>\n";
        for (text, expected) in [
            ("<a/>", "<a/>"),
            (
                "<?xml version=\"1.0\"?>\n<!-- c -->\n<a  b = 'x\"y' >t&amp;&#x41;<c></c>\r\n</a>\n<?pi x?>\n",
                "<!-- c -->\n<a b=\"x&quot;y\">t&amp;A<c/>\n</a>\n<?pi x?>",
            ),
            ("<!DOCTYPE a [<!ELEMENT a ANY>]>\n<a/>", "<!DOCTYPE a [<!ELEMENT a ANY>]>\n<a/>"),
            (
                "<a xmlns='u' xmlns:p=\"v\"><p:b p:c='1'/><![CDATA[<&]]></a>",
                "<a xmlns=\"u\" xmlns:p=\"v\"><p:b p:c=\"1\"/><![CDATA[<&]]></a>",
            ),
            ("<a>\n  <b>x\n</b>\n</a>", "<a>\n  <b>x\n</b>\n</a>"),
        ] {
            let tree = Tree::parse(text.as_bytes(), false).expect(text);
            assert_eq!(tree.to_text(false), format!("{declaration}{expected}"));
        }
        let mut tree =
            Tree::parse(b"<a><b>t</b>\n\n<c> <d/><!--x--></c><e>m <f/> </e></a>", false).expect("fine");
        tree.without_blanks();
        assert_eq!(
            tree.to_text(true),
            format!(
                "{declaration}<a>\n  <b>t</b>\n  <c>\n    <d/>\n    <!--x-->\n  </c>\n  <e>m <f/> </e>\n</a>\n"
            )
        );
        let plain = Tree::parse(b"<a>x<![CDATA[<y>]]></a>", true).expect("fine");
        assert_eq!(plain.fragment(1), "<a>x&lt;y&gt;</a>");
        let latin =
            Tree::parse(b"<?xml version='1.0' encoding='ISO-8859-1'?><a>\xe9</a>", true).expect("fine");
        assert_eq!(latin.fragment(1), "<a>\u{e9}</a>");
    }

    #[test]
    fn what_is_not_understood_is_said_with_its_line() {
        for (text, expected) in [
            ("", "line 1: the document is empty"),
            ("<a>\n<b>\n</a>", "line 3: </b> was expected here, not </a"),
            ("<a>", "<a> is not closed"),
            ("<a b=c/>", "not in quotes"),
            ("<a b='1' b='2'/>", "twice"),
            ("<a>&x;</a>", "entity &x;"),
            ("<a>a & b</a>", "lone &"),
            ("<p:a/>", "prefix"),
            ("<a/><b/>", "more after"),
            ("text", "no XML"),
            ("<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>", "declares entities"),
            ("<?xml version='1.0' encoding='EBCDIC'?><a/>", "ebcdic"),
        ] {
            let error = Tree::parse(text.as_bytes(), false).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let deep = "<a>".repeat(300);
        assert!(Tree::parse(deep.as_bytes(), false).expect_err("deep").to_string().contains("256 deep"));
    }
}
