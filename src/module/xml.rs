//! `xml`: parts of XML files, named by XPath.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::module::files::{self, FileArgs, Writing};
use crate::module::xml_tree::{Attribute, DOCUMENT, Kind, Name, NodeId, Tree};
use crate::module::xpath::{self, Axis, Evaluator, Expression, Found, Item, Step, Test};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Type, host, typed};
use crate::system::{Content, System};
use crate::value::{Map, Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Changes parts of XML.
pub const MODULE: Module = Module {
    name: "community.general.xml",
    summary: "Read, set, add and remove parts of XML files",
    description: "XPath 1.0 says which elements or attributes are meant. With `value`, and with `xpath` alone, what a path of \
        plain steps names is made if it is not there. A file is written only if something other than indentation is \
        another; it then has the declaration of UTF-8, double quotes, and short tags for empty elements. Not supported: \
        entities that a document declares, encodings other than UTF-8, US-ASCII and ISO-8859-1, and in XPath \
        variables, `id()`, `lang()` and the axis `namespace`.",
    example: "- name: The connector listens on another port\n  community.general.xml:\n    path: /etc/tomcat9/server.xml\n    xpath: /Server/Service/Connector[@protocol='HTTP/1.1']\n    attribute: port\n    value: '8081'\n",
    params: &[
        Param::new("path", Type::Path, "The file.").aliases(&["dest", "file"]),
        Param::new("xmlstring", Type::Str, "XML to work on instead of a file."),
        Param::new("xpath", Type::Str, "What is meant, in XPath."),
        Param::new("namespaces", Type::Dict, "Prefixes in `xpath` and in new names, with their namespaces.")
            .default("{}"),
        Param::new("state", Type::Str, "Whether what `xpath` names should be there.")
            .choices(&["absent", "present"])
            .default("present")
            .aliases(&["ensure"]),
        Param::new("attribute", Type::Raw, "The attribute that gets `value`, instead of the text."),
        Param::new("value", Type::Raw, "The text, or the value of `attribute`."),
        Param::new(
            "add_children",
            Type::List,
            "Elements to add each time: names, or mappings of a name to text or attributes (`_`: children).",
        ),
        Param::new(
            "set_children",
            Type::List,
            "Elements that should be the only ones there; written as for `add_children`.",
        ),
        Param::new("count", Type::Bool, "Return how many things `xpath` names.").default("false"),
        Param::new("print_match", Type::Bool, "Return the paths of what `xpath` names.").default("false"),
        Param::new("pretty_print", Type::Bool, "Indent the file anew.").default("false"),
        Param::new("content", Type::Str, "Return attributes or text of what `xpath` names.")
            .choices(&["attribute", "text"]),
        Param::new("input_type", Type::Str, "Whether children are written as YAML or as XML.")
            .choices(&["xml", "yaml"])
            .default("yaml"),
        Param::new("backup", Type::Bool, "Keep a copy of what is replaced.").default("false"),
        Param::new("strip_cdata_tags", Type::Bool, "Write CDATA sections as text.").default("false"),
        Param::new("insertbefore", Type::Bool, "Add children before the first thing that `xpath` names.")
            .default("false"),
        Param::new("insertafter", Type::Bool, "Add children behind the last thing that `xpath` names.")
            .default("false"),
    ],
    rules: &[
        Rule::MutuallyExclusive(&[
            "add_children",
            "content",
            "count",
            "print_match",
            "set_children",
            "value",
        ]),
        Rule::MutuallyExclusive(&["path", "xmlstring"]),
        Rule::MutuallyExclusive(&["insertbefore", "insertafter"]),
        Rule::RequiredOneOf(&["path", "xmlstring"]),
        Rule::RequiredBy { param: "add_children", needs: &["xpath"] },
        Rule::RequiredBy { param: "attribute", needs: &["value"] },
        Rule::RequiredBy { param: "content", needs: &["xpath"] },
        Rule::RequiredBy { param: "set_children", needs: &["xpath"] },
        Rule::RequiredBy { param: "value", needs: &["xpath"] },
        Rule::RequiredIf { param: "count", value: "true", needs: &["xpath"], any: false },
        Rule::RequiredIf { param: "print_match", value: "true", needs: &["xpath"], any: false },
        Rule::RequiredIf { param: "insertbefore", value: "true", needs: &["xpath"], any: false },
        Rule::RequiredIf { param: "insertafter", value: "true", needs: &["xpath"], any: false },
    ],
    returns: &[
        ("actions", "The `xpath`, `namespaces` and `state` of the task."),
        ("count", "How many things `xpath` names."),
        ("matches", "What `xpath` names: with `content` by name, with `print_match` as paths."),
        ("msg", "What was found."),
        ("xmlstring", "The XML that became of `xmlstring`."),
        ("backup_file", "The copy that was kept."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Deserialize)]
struct Args {
    path: Option<String>,
    xmlstring: Option<String>,
    xpath: Option<String>,
    namespaces: BTreeMap<String, Value>,
    state: String,
    attribute: Option<Value>,
    value: Option<Value>,
    add_children: Option<Vec<Value>>,
    set_children: Option<Vec<Value>>,
    count: bool,
    print_match: bool,
    pretty_print: bool,
    content: Option<String>,
    input_type: String,
    backup: bool,
    strip_cdata_tags: bool,
    insertbefore: bool,
    insertafter: bool,
}

/// A document with what a task says of it.
struct Work<'a> {
    args: &'a Args,
    namespaces: BTreeMap<String, String>,
    tree: Tree,
}

impl Work<'_> {
    fn parse(&self, xpath: &str) -> Result<Expression> {
        xpath::parse(xpath, &self.namespaces)
            .map_err(|error| ModuleError::new(format!("Syntax error in xpath expression: {xpath} ({error})")))
    }

    fn evaluate(&self, expression: &Expression) -> Result<Found> {
        Evaluator::new(&self.tree).evaluate(expression).map_err(|error| {
            ModuleError::new(format!("Error while evaluating the xpath expression: {error}"))
        })
    }

    fn items(&self, expression: &Expression) -> Result<Vec<Item>> {
        match self.evaluate(expression)? {
            Found::Items(items) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    /// The elements that an expression finds.
    fn elements(&self, expression: &Expression) -> Result<Vec<NodeId>> {
        let element = |item: Item| match item {
            Item::Node(id) if self.tree.element(id).is_some() => Some(id),
            _ => None,
        };
        Ok(self.items(expression)?.into_iter().filter_map(element).collect())
    }

    /// A name with or without a prefix, or `{namespace}name`.
    fn name(&self, text: &str) -> Result<Name> {
        if let Some((space, local)) = text.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            return Ok(Name { space: space.into(), prefix: String::new(), local: local.into() });
        }
        let (prefix, local) = text.split_once(':').unwrap_or(("", text));
        let space = match (prefix, self.namespaces.get(prefix)) {
            (_, Some(space)) if !prefix.is_empty() => space.clone(),
            ("", _) => String::new(),
            _ => {
                return Err(ModuleError::new(format!(
                    "the prefix of {text} is not known: name it in namespaces"
                )));
            }
        };
        let fits = |part: &str| crate::module::xml_tree::leading_name(part) == Some(part);
        if !fits(local) || !(prefix.is_empty() || fits(prefix)) {
            return Err(ModuleError::new(format!("{text:?} can't be the name of an element or attribute")));
        }
        Ok(Name { space, prefix: prefix.into(), local: local.into() })
    }

    fn new_element(&mut self, parent: NodeId, index: usize, name: Name) -> NodeId {
        let id = self.tree.add(Kind::Element { name: Name::default(), declares: vec![], attributes: vec![] });
        self.tree.insert(parent, index, id);
        let mut settled = name;
        self.tree.settle(id, &mut settled, false);
        if let Kind::Element { name, .. } = &mut self.tree.nodes[id].kind {
            *name = settled;
        }
        id
    }

    fn append_element(&mut self, parent: NodeId, name: Name) -> NodeId {
        self.new_element(parent, self.tree.nodes[parent].children.len(), name)
    }

    fn set_attribute(&mut self, id: NodeId, mut name: Name, value: &str) {
        if let Some(known) =
            self.tree.attributes_mut(id).and_then(|list| list.iter_mut().find(|known| known.name.is(&name)))
        {
            known.value = value.to_string();
            return;
        }
        self.tree.settle(id, &mut name, true);
        if let Some(list) = self.tree.attributes_mut(id) {
            list.push(Attribute { name, value: value.to_string() });
        }
    }

    /// Puts an element as a task writes it into `parent`.
    fn child(&mut self, parent: NodeId, index: usize, child: &Value) -> Result<()> {
        if self.args.input_type == "xml" {
            let text = child.to_text();
            let other = Tree::parse(text.trim().as_bytes(), self.args.strip_cdata_tags)
                .map_err(|error| ModuleError::new(format!("Error while parsing child element: {error}")))?;
            let root = root_of(&other);
            let copy = self.tree.copy_of(&other, root);
            self.tree.insert(parent, index, copy);
            return Ok(());
        }
        if let Some(name) = child.as_str() {
            let name = self.name(name)?;
            self.new_element(parent, index, name);
            return Ok(());
        }
        let Some(map) = child.as_map() else {
            return Err(ModuleError::new(format!(
                "Invalid child type: {}. Children must be either strings or hashes.",
                child.type_name()
            )));
        };
        let (Some((key, value)), 1) = (map.iter().next(), map.len()) else {
            return Err(ModuleError::new("Can only create children from hashes with one key"));
        };
        let name = self.name(&key.to_text())?;
        let id = self.new_element(parent, index, name);
        let Some(inside) = value.as_map() else {
            if !value.is_null() {
                self.tree.set_leading_text(id, &value.to_text());
            }
            return Ok(());
        };
        for (key, value) in inside {
            let key = key.to_text();
            if key == "_" {
                let Some(children) = value.as_list() else {
                    return Err(ModuleError::new(format!(
                        "Invalid children type: {}, must be list.",
                        value.type_name()
                    )));
                };
                for child in children {
                    self.child(id, self.tree.nodes[id].children.len(), child)?;
                }
            } else {
                let name = self.name(&key)?;
                self.set_attribute(id, name, &value.to_text());
            }
        }
        Ok(())
    }

    fn add_children(&mut self, expression: &Expression, children: &[Value]) -> Result<()> {
        let found = self.elements(expression)?;
        let beside = if self.args.insertbefore {
            found.first().map(|id| (*id, 0))
        } else if self.args.insertafter {
            found.last().map(|id| (*id, 1))
        } else {
            None
        };
        if let Some((neighbour, behind)) = beside {
            let parent = self.tree.nodes[neighbour].parent;
            if parent == DOCUMENT {
                return Err(ModuleError::new("the element at the root can't have neighbours"));
            }
            let mut index = self.tree.index_of(neighbour) + behind;
            // The text behind an element stays with it.
            if behind == 1 {
                let siblings = &self.tree.nodes[parent].children;
                index += siblings[index..].iter().take_while(|id| self.tree.is_text(**id)).count();
            }
            for (offset, child) in children.iter().enumerate() {
                self.child(parent, index + offset, child)?;
            }
        } else {
            for id in found {
                for child in children {
                    self.child(id, self.tree.nodes[id].children.len(), child)?;
                }
            }
        }
        Ok(())
    }

    fn set_children(&mut self, expression: &Expression, children: &[Value]) -> Result<()> {
        for id in self.elements(expression)? {
            let before = self.tree.nodes[id].children.clone();
            let old: Vec<NodeId> =
                before.into_iter().filter(|one| self.tree.element(*one).is_some()).collect();
            for one in &old {
                self.tree.remove(*one);
            }
            for child in children {
                self.child(id, self.tree.nodes[id].children.len(), child)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, expression: &Expression) -> Result<()> {
        let mut items = self.items(expression)?;
        // Attributes are known by their place: the last go first.
        items.reverse();
        for item in items {
            match item {
                Item::Attribute(id, index) => {
                    if let Some(list) = self.tree.attributes_mut(id) {
                        list.remove(index);
                    }
                }
                Item::Node(id)
                    if self.tree.element(id).is_some() && self.tree.nodes[id].parent != DOCUMENT =>
                {
                    self.tree.remove(id);
                }
                Item::Node(_) => {
                    return Err(ModuleError::new(format!(
                        "Couldn't delete xpath target: {}: only elements below the root and attributes can be removed",
                        self.args.xpath.as_deref().unwrap_or_default()
                    )));
                }
            }
        }
        Ok(())
    }

    fn cannot_make(&self, why: &str) -> ModuleError {
        ModuleError::new(format!(
            "Can't process Xpath {} in order to spawn nodes: {why}",
            self.args.xpath.as_deref().unwrap_or_default()
        ))
    }

    /// Makes what a path names, as far as it is not there: elements below elements, at last perhaps an
    /// attribute or a text, with what predicates say they hold.
    fn make(&mut self, expression: &Expression) -> Result<()> {
        let (path, value) = equation(expression).unwrap_or((expression, None));
        let Expression::Path { steps, .. } = path else {
            return Err(self.cannot_make("it is no path"));
        };
        let steps: Vec<Step> =
            steps.iter().filter(|step| !is_itself(step) || !step.predicates.is_empty()).cloned().collect();
        self.make_steps(&steps, value)
    }

    fn make_steps(&mut self, steps: &[Step], value: Option<&str>) -> Result<()> {
        let path = Expression::Path { absolute: true, steps: steps.to_vec() };
        if value.is_none() && !self.items(&path)?.is_empty() {
            return Ok(());
        }
        let Some((last, before)) = steps.split_last() else {
            return Err(self.cannot_make("nothing is left of it"));
        };
        if before.is_empty() {
            return Err(self.cannot_make("the document has another element at its root"));
        }
        self.make_steps(before, None)?;
        let parents = self.elements(&Expression::Path { absolute: true, steps: before.to_vec() })?;
        if parents.is_empty() {
            return Err(self.cannot_make("what it is in is no element"));
        }
        for parent in parents {
            self.make_step(parent, last, value)?;
        }
        Ok(())
    }

    /// What one step names, in `parent`.
    fn make_step(&mut self, parent: NodeId, step: &Step, value: Option<&str>) -> Result<()> {
        match (&step.axis, &step.test) {
            (Axis::Attribute, Test::Named(name)) if step.predicates.is_empty() => {
                let there = self.tree.attributes(parent).iter().any(|known| known.name.is(name));
                if !there || value.is_some() {
                    self.set_attribute(parent, name.clone(), value.unwrap_or_default());
                }
                Ok(())
            }
            (Axis::Child, Test::Text) if value.is_some() && step.predicates.is_empty() => {
                self.tree.set_leading_text(parent, value.unwrap_or_default());
                Ok(())
            }
            (Axis::Child, Test::Named(name)) => {
                let children = self.tree.nodes[parent].children.clone();
                let known = children.into_iter().find(|id| {
                    step.predicates.is_empty() && self.tree.element(*id).is_some_and(|known| known.is(name))
                });
                let id = match known {
                    Some(id) => id,
                    None => self.append_element(parent, name.clone()),
                };
                if let Some(value) = value {
                    self.tree.set_leading_text(id, value);
                }
                for predicate in &step.predicates {
                    self.fulfil(id, predicate)?;
                }
                Ok(())
            }
            _ => Err(self.cannot_make("a step is neither a name nor an attribute")),
        }
    }

    /// Makes a new element such that a predicate holds.
    fn fulfil(&mut self, id: NodeId, predicate: &Expression) -> Result<()> {
        if let Expression::Both("and", left, right) = predicate {
            self.fulfil(id, left)?;
            return self.fulfil(id, right);
        }
        let (path, value) = equation(predicate).unwrap_or((predicate, None));
        let Expression::Path { absolute: false, steps } = path else {
            return Err(self.cannot_make("a condition is neither a path nor a path = 'text'"));
        };
        let mut at = id;
        for (index, step) in steps.iter().enumerate() {
            let last = index + 1 == steps.len();
            if is_itself(step) {
                if let (true, Some(value)) = (last, value) {
                    self.tree.set_leading_text(at, value);
                }
                continue;
            }
            self.make_step(at, step, value.filter(|_| last))?;
            at = self.tree.nodes[at].children.last().copied().unwrap_or(at);
        }
        Ok(())
    }

    fn set_value(&mut self, expression: &Expression, value: &Value) -> Result<()> {
        if self.elements(expression)?.is_empty() {
            self.make(expression)?;
        }
        let found = self.elements(expression)?;
        if found.is_empty() {
            return Err(ModuleError::new(format!(
                "Xpath {} does not reference a node!",
                self.args.xpath.as_deref().unwrap_or_default()
            )));
        }
        let text = if value.is_null() { String::new() } else { value.to_text() };
        let attribute = self.args.attribute.as_ref().filter(|attribute| !attribute.is_null());
        for id in found {
            match attribute {
                Some(attribute) => {
                    let name = self.name(&attribute.to_text())?;
                    self.set_attribute(id, name, &text);
                }
                None if self.tree.leading_text(id).unwrap_or_default() != text => {
                    self.tree.set_leading_text(id, &text);
                }
                None => {}
            }
        }
        Ok(())
    }

    /// The path of something, with numbers where several elements have its name.
    fn path_of(&self, item: Item) -> String {
        let (mut id, mut out) = match item {
            Item::Node(id) => (id, String::new()),
            Item::Attribute(id, index) => {
                let name = self.tree.attributes(id).get(index).map(|one| one.name.written());
                (id, format!("/@{}", name.unwrap_or_default()))
            }
        };
        while id != DOCUMENT {
            let node = &self.tree.nodes[id];
            let label = match &node.kind {
                Kind::Element { name, .. } if name.prefix.is_empty() && !name.space.is_empty() => {
                    "*".to_string()
                }
                Kind::Element { name, .. } => name.written(),
                Kind::Comment(_) => "comment()".to_string(),
                Kind::Instruction(_) => "processing-instruction()".to_string(),
                _ => "text()".to_string(),
            };
            let alike = |other: &NodeId| match (self.tree.element(*other), self.tree.element(id)) {
                (Some(other), Some(this)) => label == "*" || other.is(this),
                (None, None) => {
                    std::mem::discriminant(&self.tree.nodes[*other].kind)
                        == std::mem::discriminant(&node.kind)
                }
                _ => false,
            };
            let same: Vec<&NodeId> =
                self.tree.nodes[node.parent].children.iter().filter(|one| alike(one)).collect();
            let number = match same.iter().position(|one| **one == id) {
                Some(index) if same.len() > 1 => format!("[{}]", index + 1),
                _ => String::new(),
            };
            out = format!("/{label}{number}{out}");
            id = node.parent;
        }
        if out.is_empty() { "/".to_string() } else { out }
    }
}

/// A path and the text that it should equal, for `path = 'text'`.
fn equation(expression: &Expression) -> Option<(&Expression, Option<&str>)> {
    match expression {
        Expression::Both("=", left, right) => match &**right {
            Expression::Literal(text) => Some((left, Some(text))),
            _ => None,
        },
        _ => None,
    }
}

fn is_itself(step: &Step) -> bool {
    step.axis == Axis::Itself && step.test == Test::Node
}

fn root_of(tree: &Tree) -> NodeId {
    tree.nodes[DOCUMENT].children.iter().copied().find(|id| tree.element(*id).is_some()).unwrap_or_default()
}

/// A document without its indentation: what has to differ for a file to be written.
fn essence(tree: &Tree) -> String {
    let mut bare = tree.clone();
    bare.without_blanks();
    bare.fragment(root_of(&bare))
}

/// What a task that only asks returns. `None` if the task is to change something.
fn answered(work: &Work<'_>, expression: &Expression, outcome: &Outcome) -> Result<Option<Outcome>> {
    let outcome = outcome.clone();
    let args = work.args;
    let xpath = args.xpath.as_deref().unwrap_or_default();
    if args.print_match {
        let paths: Vec<Value> =
            work.items(expression)?.into_iter().map(|item| Value::str(work.path_of(item))).collect();
        let shown: Vec<String> = paths.iter().map(|path| format!("\"{}\"", path.to_text())).collect();
        let message = format!("selector '{xpath}' match: [{}]", shown.join(", "));
        return Ok(Some(outcome.set("matches", Value::list(paths)).set("msg", message)));
    }
    if args.count {
        let count = work.items(expression)?.len();
        return Ok(Some(outcome.set("count", count).set("msg", format!("found {count} nodes"))));
    }
    let Some(content) = &args.content else { return Ok(None) };
    let found = work.elements(expression)?;
    if found.is_empty() {
        return Err(ModuleError::new(format!("Xpath {xpath} does not reference a node!")));
    }
    let of = |id: &NodeId| {
        let value = if content == "text" {
            work.tree.leading_text(*id).map_or(Value::Null, Value::str)
        } else {
            let pairs = work.tree.attributes(*id).iter();
            Value::map(map_of(pairs.map(|one| (one.name.expanded(), Value::str(one.value.as_str())))))
        };
        let name = work.tree.element(*id).map(Name::expanded).unwrap_or_default();
        Value::map(map_of([(name, value)]))
    };
    let matches: Vec<Value> = found.iter().map(of).collect();
    Ok(Some(outcome.set("msg", matches.len()).set("matches", Value::list(matches))))
}

/// Makes the difference in the tree that the task asks for. Whether only the form is meant.
fn edit(work: &mut Work<'_>) -> Result<bool> {
    let args = work.args;
    let expression = args.xpath.as_deref().map(|xpath| work.parse(xpath)).transpose()?;
    let Some(expression) = expression else {
        return if args.pretty_print { Ok(true) } else { Err(ModuleError::new("Don't know what to do")) };
    };
    if args.state == "absent" {
        work.remove(&expression)?;
    } else if let Some(children) = &args.set_children {
        work.set_children(&expression, children)?;
    } else if let Some(children) = &args.add_children {
        work.add_children(&expression, children)?;
    } else if let Some(value) = &args.value {
        work.set_value(&expression, value)?;
    } else if work.elements(&expression)?.is_empty() {
        work.make(&expression)?;
    }
    Ok(false)
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    let namespaces: BTreeMap<String, String> =
        args.namespaces.iter().map(|(prefix, space)| (prefix.clone(), space.to_text())).collect();
    let spaces: Map = map_of(namespaces.iter().map(|(prefix, space)| (prefix.as_str(), space.as_str())));
    let actions = map_of([
        ("xpath", args.xpath.as_deref().map_or(Value::Null, Value::str)),
        ("namespaces", Value::map(spaces)),
        ("state", Value::str(args.state.as_str())),
    ]);
    let mut outcome = Outcome::default().set("actions", Value::map(actions));
    let path = args.path.as_deref().map(|path| files::path_arg(system, path)).transpose()?;
    let before = match &path {
        None => args.xmlstring.clone().unwrap_or_default().into_bytes(),
        Some(path) => {
            if !host::exists(path, system)? {
                if let Some(outcome) = files::uncertain(system, path) {
                    return Ok(outcome);
                }
                return Err(ModuleError::new(format!(
                    "The target XML source '{}' does not exist.",
                    path.display()
                )));
            }
            system.read(path)?
        }
    };
    let mut tree = Tree::parse(&before, args.strip_cdata_tags).map_err(|error| {
        let source = path.as_ref().map_or("xmlstring".to_string(), |path| path.display().to_string());
        ModuleError::new(format!("Error while parsing document: {source} ({error})"))
    })?;
    if args.pretty_print {
        tree.without_blanks();
    }
    let essential = essence(&tree);
    let mut work = Work { args, namespaces, tree };
    if let Some(xpath) = &args.xpath {
        let expression = work.parse(xpath)?;
        if let Some(answer) = answered(&work, &expression, &outcome)? {
            return Ok(answer);
        }
    }
    let form = edit(&mut work)?;
    let after = work.tree.to_text(args.pretty_print);
    let differs = if form { after.as_bytes() != before } else { essence(&work.tree) != essential };
    let Some(path) = path else {
        if differs || form {
            outcome = outcome.set("xmlstring", after);
        }
        return Ok(Outcome { changed: Some(differs), ..outcome });
    };
    if differs {
        let attributes = FileArgs::default();
        let real = system.resolve(&path)?;
        let writing = Writing { backup: args.backup, ..Writing::plain(&attributes) };
        if let Some(backup) = files::put(system, &real, &Content::Bytes(after.into_bytes()), &writing)? {
            outcome = outcome.set("backup_file", backup);
        }
    }
    let stat = system.stat_follow(&path)?;
    files::record(system, &path, stat.as_ref(), None)?;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{contract, contract_once};

    const FILE: &str = "<business type=\"bar\">\n  <name>Tasty</name>\n  <beers>\n    <beer>Rochefort</beer>\n    <beer strong=\"yes\">Orval</beer>\n  </beers>\n  <rating s=\"5\">10</rating>\n</business>";
    const DECLARATION: &str = "<?xml version='1.0' encoding='UTF-8'?>\n";

    fn start() -> String {
        format!("f x 644 {DECLARATION}{FILE}")
    }

    #[test]
    fn parts_are_set_made_and_removed() {
        // Arguments; what is replaced by what in the file; nothing if it stays as it is.
        let table: &[(&str, &str, &str)] = &[
            (r#""xpath":"/business/rating","value":"11""#, ">10<", ">11<"),
            (r#""xpath":"/business/rating","value":10"#, "", ""),
            (r#""xpath":"/business/rating","attribute":"s","value":"6""#, "s=\"5\"", "s=\"6\""),
            (
                r#""xpath":"//beer[attribute::strong]","attribute":"by","value":"monks""#,
                "strong=\"yes\"",
                "strong=\"yes\" by=\"monks\"",
            ),
            (
                r#""xpath":"/business/beers/beer[.='Orval']","state":"absent""#,
                "    <beer strong=\"yes\">Orval</beer>\n  ",
                "    ",
            ),
            (r#""xpath":"/business/rating/attribute::s","state":"absent""#, " s=\"5\"", ""),
            (r#""xpath":"//none","state":"absent""#, "", ""),
            (r#""xpath":"/business/rating","state":"present""#, "", ""),
            (
                r#""xpath":"/business/website/address","value":"x & y""#,
                "</rating>\n",
                "</rating>\n<website><address>x &amp; y</address></website>",
            ),
            (
                r#""xpath":"/business/owner[attribute::id='7' and name='A']/title""#,
                "</rating>\n",
                "</rating>\n<owner id=\"7\"><name>A</name><title/></owner>",
            ),
            (
                r#""xpath":"/business/attribute::kind","state":"present""#,
                "type=\"bar\"",
                "type=\"bar\" kind=\"\"",
            ),
            (r#""xpath":"/business/rating/attribute::s='9'""#, "s=\"5\"", "s=\"9\""),
            (r#""xpath":"/business/rating/text()='9'""#, ">10<", ">9<"),
            (
                r#""xpath":"/business/beers","set_children":["none",{"beer":"Duvel"},{"beer":{"a":"1","_":[{"b":2}]}}]"#,
                "<beer>Rochefort</beer>\n    <beer strong=\"yes\">Orval</beer>\n  ",
                "<none/><beer>Duvel</beer><beer a=\"1\"><b>2</b></beer>",
            ),
            (
                r#""xpath":"/business/beers","set_children":["<beer>Rochefort</beer>","<beer strong='yes'>Orval</beer>"],"input_type":"xml""#,
                "",
                "",
            ),
            (
                r#""xpath":"/business/n:extra","namespaces":{"n":"urn:n"},"value":"1""#,
                "</rating>\n",
                "</rating>\n<n:extra xmlns:n=\"urn:n\">1</n:extra>",
            ),
        ];
        for (arguments, from, to) in table {
            let arguments = format!(r#"{{"path":"@/x",{arguments}}}"#);
            let verdict = contract(&MODULE, &[&start()], &arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            assert_eq!(verdict.changed, !from.is_empty(), "{arguments}");
            let expected = if from.is_empty() { FILE.to_string() } else { FILE.replacen(from, to, 1) };
            assert_eq!(verdict.tree, [format!("f x 644 {DECLARATION}{expected}")], "{arguments}");
        }
    }

    #[test]
    fn children_are_added_where_they_are_wanted() {
        for (arguments, from, to) in [
            (
                r#""xpath":"/business/beers","add_children":[{"beer":"A"},"b"]"#,
                "</beer>\n  </beers>",
                "</beer>\n  <beer>A</beer><b/></beers>",
            ),
            (r#""xpath":"//beer","add_children":["b"],"insertbefore":true"#, "<beer>R", "<b/><beer>R"),
            (
                r#""xpath":"//beer","add_children":["b"],"insertafter":true"#,
                "Orval</beer>\n  ",
                "Orval</beer>\n  <b/>",
            ),
        ] {
            let arguments = format!(r#"{{"path":"@/x",{arguments}}}"#);
            let verdict = contract_once(&MODULE, &[&start()], &arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            assert_eq!(
                verdict.tree,
                [format!("f x 644 {DECLARATION}{}", FILE.replacen(from, to, 1))],
                "{arguments}"
            );
        }
    }

    #[test]
    fn questions_are_answered_and_nothing_is_written() {
        for (arguments, name, expected) in [
            (r#""xpath":"//beer","count":true"#, "count", "2"),
            (
                r#""xpath":"//beer","print_match":true"#,
                "msg",
                "selector '//beer' match: [\"/business/beers/beer[1]\", \"/business/beers/beer[2]\"]",
            ),
            (r#""xpath":"//beer","content":"text""#, "matches", "[{'beer': 'Rochefort'}, {'beer': 'Orval'}]"),
            (r#""xpath":"//beer[2]","content":"attribute""#, "matches", "[{'beer': {'strong': 'yes'}}]"),
        ] {
            let verdict = contract(&MODULE, &[&start()], &format!(r#"{{"path":"@/x",{arguments}}}"#));
            assert_eq!((verdict.error.as_deref(), verdict.changed), (None, false), "{arguments}");
            let value = verdict
                .outcome
                .values
                .get(name)
                .map(|value| if value.as_str().is_some() { value.to_text() } else { value.repr() });
            assert_eq!(value.as_deref(), Some(expected), "{arguments}");
        }
    }

    #[test]
    fn a_file_is_indented_anew_and_a_string_is_returned() {
        let verdict =
            contract(&MODULE, &["f x 600 <a><b>1</b><c/></a>"], r#"{"path":"@/x","pretty_print":true}"#);
        assert_eq!(verdict.tree, [format!("f x 600 {DECLARATION}<a>\n  <b>1</b>\n  <c/>\n</a>\n")]);
        let verdict =
            contract_once(&MODULE, &[], r#"{"xmlstring":"<a><b>1</b></a>","xpath":"/a/b","value":"2"}"#);
        assert_eq!(verdict.text("xmlstring"), format!("{DECLARATION}<a><b>2</b></a>"));
        assert!(verdict.changed);
        let cdata = r#"{"path":"@/x","xpath":"/a/b","value":"2","strip_cdata_tags":true}"#;
        let verdict = contract(&MODULE, &["f x 600 <a><b>1</b><![CDATA[<]]></a>"], cdata);
        assert_eq!(verdict.tree, [format!("f x 600 {DECLARATION}<a><b>2</b>&lt;</a>")]);
    }

    #[test]
    fn mistakes_are_told() {
        for (arguments, expected) in [
            (r#"{"path":"@/none","xpath":"/a","state":"absent"}"#, "does not exist"),
            (r#"{"path":"@/x","xpath":"/a["}"#, "Syntax error in xpath expression: /a["),
            (r#"{"path":"@/x","xpath":"/other/b","value":"1"}"#, "another element at its root"),
            (r#"{"path":"@/x","xpath":"/business[last()]/a[2]","value":"1"}"#, "Can't process Xpath"),
            (r#"{"path":"@/x","xpath":"/business","state":"absent"}"#, "below the root"),
            (r#"{"path":"@/x","xpath":"//n:a","count":true}"#, "Undefined namespace prefix n"),
            (r#"{"path":"@/x","xpath":"//beers","add_children":[{"a":1,"b":2}]}"#, "hashes with one key"),
            (r#"{"path":"@/x","xpath":"//beers","add_children":["a b"]}"#, "can't be the name"),
            (r#"{"path":"@/x","xpath":"//none","content":"text"}"#, "does not reference a node"),
            (r#"{"path":"@/x"}"#, "Don't know what to do"),
            (r#"{"path":"@/bad","xpath":"/a"}"#, "Error while parsing document"),
        ] {
            let error =
                contract(&MODULE, &[&start(), "f bad 644 <a><b></a>"], arguments).error.unwrap_or_default();
            assert!(error.contains(expected), "{arguments}: {error}");
        }
    }
}
