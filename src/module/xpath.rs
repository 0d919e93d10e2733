//! XPath 1.0 over a [`Tree`]: parsed once, evaluated from the document. Variables, `id()`, `lang()` and the
//! axis `namespace` are refused by name.

use std::collections::{BTreeMap, HashMap};

use crate::module::xml_tree::{DOCUMENT, Kind, Name, NodeId, Tree, leading_name};

/// An expression that can't be read, or asks for what is not supported.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct XPathError(String);

type Result<T> = std::result::Result<T, XPathError>;

fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(XPathError(message.into()))
}

/// Where a step looks from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// What is in it.
    Child,
    /// What is in it at any depth.
    Descendant,
    /// The same, and itself.
    DescendantOrSelf,
    /// Itself.
    Itself,
    /// What it is in.
    Parent,
    /// What it is in at any depth.
    Ancestor,
    /// The same, and itself.
    AncestorOrSelf,
    /// What comes after it in the same parent.
    FollowingSibling,
    /// What comes before it in the same parent.
    PrecedingSibling,
    /// What begins after its end.
    Following,
    /// What ended before its beginning.
    Preceding,
    /// Its attributes.
    Attribute,
}

const AXES: [(&str, Axis); 12] = [
    ("child", Axis::Child),
    ("descendant", Axis::Descendant),
    ("descendant-or-self", Axis::DescendantOrSelf),
    ("self", Axis::Itself),
    ("parent", Axis::Parent),
    ("ancestor", Axis::Ancestor),
    ("ancestor-or-self", Axis::AncestorOrSelf),
    ("following-sibling", Axis::FollowingSibling),
    ("preceding-sibling", Axis::PrecedingSibling),
    ("following", Axis::Following),
    ("preceding", Axis::Preceding),
    ("attribute", Axis::Attribute),
];

/// What a step takes of what it finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// Elements (or attributes) of this name.
    Named(Name),
    /// Elements (or attributes) of any name, of this namespace if one is given.
    Any(Option<String>),
    /// Anything.
    Node,
    /// Text.
    Text,
    /// Comments.
    Comment,
    /// Processing instructions, of this target if one is given.
    Instruction(Option<String>),
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Where it looks.
    pub axis: Axis,
    /// What it takes.
    pub test: Test,
    /// What must hold for it.
    pub predicates: Vec<Expression>,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// Two expressions and what is between them.
    Both(&'static str, Box<Expression>, Box<Expression>),
    /// The negative number.
    Negative(Box<Expression>),
    /// A path from the document or the current node.
    Path {
        /// It begins at the document.
        absolute: bool,
        /// Its steps.
        steps: Vec<Step>,
    },
    /// Steps from what another expression finds, after its predicates.
    From {
        /// What finds.
        start: Box<Expression>,
        /// What must hold.
        predicates: Vec<Expression>,
        /// Steps.
        steps: Vec<Step>,
    },
    /// A string.
    Literal(String),
    /// A number.
    Number(f64),
    /// A function.
    Call(String, Vec<Expression>),
}

/// A node or an attribute (by its place in the list of the element).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    /// A node.
    Node(NodeId),
    /// An attribute.
    Attribute(NodeId, usize),
}

/// What an expression yields.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// Nodes and attributes in the order of the document.
    Items(Vec<Item>),
    /// A string.
    Text(String),
    /// A number.
    Number(f64),
    /// A truth.
    Truth(bool),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Text(String),
    Number(f64),
    Sign(&'static str),
    End,
}

/// The longest come first.
const SIGNS: [&str; 24] = [
    "::", "//", "..", "!=", "<=", ">=", "/", ".", "@", "[", "]", "(", ")", ",", "|", "+", "-", "=", "<", ">",
    "*", ":", "$", "",
];

fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let second_digit = rest[first.len_utf8()..].starts_with(|letter: char| letter.is_ascii_digit());
        let length = if first == '"' || first == '\'' {
            let Some(length) = rest[1..].find(first) else { return fail("a string is not closed") };
            out.push(Token::Text(rest[1..=length].to_string()));
            length + 2
        } else if first.is_ascii_digit() || first == '.' && second_digit {
            let length =
                rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
            let Ok(number) = rest[..length].parse() else {
                return fail(format!("not a number: {}", &rest[..length]));
            };
            out.push(Token::Number(number));
            length
        } else if let Some(name) = leading_name(rest) {
            out.push(Token::Name(name.to_string()));
            name.len()
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign)).copied().unwrap_or_default();
            if sign.is_empty() {
                return fail(format!("unexpected {first:?}"));
            }
            out.push(Token::Sign(sign));
            sign.len()
        };
        rest = rest[length..].trim_start();
    }
    out.push(Token::End);
    Ok(out)
}

/// What binds least comes first; each level is left to right.
const LEVELS: [&[&str]; 6] =
    [&["or"], &["and"], &["=", "!="], &["<", "<=", ">", ">="], &["+", "-"], &["*", "div", "mod"]];

struct Parser<'a> {
    tokens: Vec<Token>,
    at: usize,
    namespaces: &'a BTreeMap<String, String>,
    depth: usize,
}

/// Reads an expression; `namespaces` says what prefixes in it mean.
///
/// # Errors
/// If it can't be read, uses a prefix that is not known, or what is not supported.
pub fn parse(text: &str, namespaces: &BTreeMap<String, String>) -> Result<Expression> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, namespaces, depth: 0 };
    let expression = parser.level(0)?;
    match parser.peek() {
        Token::End => Ok(expression),
        other => fail(format!("unexpected {other:?} in the expression")),
    }
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).unwrap_or(&Token::End)
    }

    fn next_is(&self, offset: usize, sign: &str) -> bool {
        matches!(self.tokens.get(self.at + offset), Some(Token::Sign(it)) if *it == sign)
    }

    fn take(&mut self, sign: &str) -> bool {
        let there = self.next_is(0, sign);
        self.at += usize::from(there);
        there
    }

    fn need(&mut self, sign: &str) -> Result<()> {
        if self.take(sign) { Ok(()) } else { fail(format!("{sign} was expected, not {:?}", self.peek())) }
    }

    fn level(&mut self, level: usize) -> Result<Expression> {
        self.depth += 1;
        if self.depth > 400 {
            return fail("the expression is nested too deep");
        }
        let Some(operators) = LEVELS.get(level) else {
            let expression = self.unary();
            self.depth -= 1;
            return expression;
        };
        let mut left = self.level(level + 1)?;
        loop {
            let operator = match self.peek() {
                Token::Sign(sign) => operators.iter().find(|one| *one == sign),
                Token::Name(name) => operators.iter().find(|one| *one == name),
                _ => None,
            };
            let Some(operator) = operator else { break };
            self.at += 1;
            let right = self.level(level + 1)?;
            left = Expression::Both(operator, Box::new(left), Box::new(right));
        }
        self.depth -= 1;
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expression> {
        if self.take("-") {
            return Ok(Expression::Negative(Box::new(self.level(LEVELS.len())?)));
        }
        let mut left = self.path()?;
        while self.take("|") {
            left = Expression::Both("|", Box::new(left), Box::new(self.path()?));
        }
        Ok(left)
    }

    fn path(&mut self) -> Result<Expression> {
        let start = match self.peek().clone() {
            Token::Text(text) => Some(Expression::Literal(text)),
            Token::Number(number) => Some(Expression::Number(number)),
            Token::Sign("(") => {
                self.at += 1;
                let inside = self.level(0)?;
                self.need(")")?;
                self.at -= 1;
                Some(inside)
            }
            Token::Sign("$") => return fail("variables ($…) are not supported: write their value"),
            Token::Name(name)
                if self.next_is(1, "(")
                    && !["text", "node", "comment", "processing-instruction"].contains(&name.as_str()) =>
            {
                let call = self.call(name)?;
                self.at -= 1;
                Some(call)
            }
            _ => None,
        };
        if let Some(start) = start {
            self.at += 1;
            let predicates = self.predicates()?;
            let steps =
                if self.next_is(0, "/") || self.next_is(0, "//") { self.steps(false)? } else { Vec::new() };
            if predicates.is_empty() && steps.is_empty() {
                return Ok(start);
            }
            return Ok(Expression::From { start: Box::new(start), predicates, steps });
        }
        let absolute = self.next_is(0, "/") || self.next_is(0, "//");
        Ok(Expression::Path { absolute, steps: self.steps(!absolute)? })
    }

    fn call(&mut self, name: String) -> Result<Expression> {
        self.at += 2;
        let mut arguments = Vec::new();
        while !self.take(")") {
            if !arguments.is_empty() {
                self.need(",")?;
            }
            arguments.push(self.level(0)?);
        }
        let (least, most) = match name.as_str() {
            "last" | "position" | "true" | "false" => (0, 0),
            "string" | "number" | "name" | "local-name" | "namespace-uri" | "normalize-space"
            | "string-length" => (0, 1),
            "count" | "not" | "boolean" | "sum" | "floor" | "ceiling" | "round" => (1, 1),
            "contains" | "starts-with" | "substring-before" | "substring-after" => (2, 2),
            "substring" => (2, 3),
            "translate" => (3, 3),
            "concat" => (2, usize::MAX),
            _ => return fail(format!("the function {name}() is not supported here")),
        };
        if arguments.len() < least || arguments.len() > most {
            return fail(format!("{name}() does not take {} arguments", arguments.len()));
        }
        Ok(Expression::Call(name, arguments))
    }

    fn predicates(&mut self) -> Result<Vec<Expression>> {
        let mut out = Vec::new();
        while self.take("[") {
            out.push(self.level(0)?);
            self.need("]")?;
        }
        Ok(out)
    }

    /// Steps; `first` if they begin without a slash.
    fn steps(&mut self, first: bool) -> Result<Vec<Step>> {
        let mut out = Vec::new();
        if first {
            out.push(self.step()?);
        }
        loop {
            if self.take("//") {
                out.push(Step { axis: Axis::DescendantOrSelf, test: Test::Node, predicates: Vec::new() });
                out.push(self.step()?);
            } else if self.take("/") {
                let more = matches!(self.peek(), Token::Name(_) | Token::Sign("." | ".." | "@" | "*"));
                if !more && out.is_empty() {
                    return Ok(out);
                }
                out.push(self.step()?);
            } else {
                return Ok(out);
            }
        }
    }

    fn step(&mut self) -> Result<Step> {
        for (sign, axis) in [("..", Axis::Parent), (".", Axis::Itself)] {
            if self.take(sign) {
                return Ok(Step { axis, test: Test::Node, predicates: self.predicates()? });
            }
        }
        let mut axis = if self.take("@") { Axis::Attribute } else { Axis::Child };
        if self.next_is(1, "::")
            && let Token::Name(name) = self.peek().clone()
        {
            axis = match AXES.iter().find(|(known, _)| *known == name) {
                Some((_, axis)) => *axis,
                None => return fail(format!("the axis {name} is not supported here")),
            };
            self.at += 2;
        }
        let test = self.test(axis)?;
        Ok(Step { axis, test, predicates: self.predicates()? })
    }

    fn test(&mut self, axis: Axis) -> Result<Test> {
        if self.take("*") {
            return Ok(Test::Any(None));
        }
        let Token::Name(name) = self.peek().clone() else {
            return fail(match self.peek() {
                Token::End => "the expression ends too early".to_string(),
                other => format!("a name was expected, not {other:?}"),
            });
        };
        self.at += 1;
        if self.take("(") {
            let target = match self.peek().clone() {
                Token::Text(target) if name == "processing-instruction" => {
                    self.at += 1;
                    Some(target)
                }
                _ => None,
            };
            self.need(")")?;
            return match name.as_str() {
                "text" => Ok(Test::Text),
                "node" => Ok(Test::Node),
                "comment" => Ok(Test::Comment),
                "processing-instruction" => Ok(Test::Instruction(target)),
                _ => fail(format!("{name}() can't be a step")),
            };
        }
        if !self.take(":") {
            return Ok(Test::Named(Name { local: name, ..Name::default() }));
        }
        let known = match name.as_str() {
            "xml" => Some("http://www.w3.org/XML/1998/namespace"),
            _ => self.namespaces.get(&name).map(String::as_str),
        };
        let Some(space) = known.map(String::from) else {
            return fail(format!("Undefined namespace prefix {name}: name it in namespaces"));
        };
        if self.take("*") {
            return Ok(Test::Any(Some(space)));
        }
        match self.peek().clone() {
            Token::Name(local) => {
                self.at += 1;
                let prefix = if axis == Axis::Attribute || !name.is_empty() { name } else { String::new() };
                Ok(Test::Named(Name { space, prefix, local }))
            }
            other => fail(format!("a name was expected after {name}:, not {other:?}")),
        }
    }
}

/// Evaluates expressions over one state of a tree.
pub struct Evaluator<'a> {
    tree: &'a Tree,
    /// Place of each node in the document.
    order: HashMap<NodeId, usize>,
}

#[derive(Clone, Copy)]
struct Context {
    item: Item,
    position: usize,
    size: usize,
}

impl<'a> Evaluator<'a> {
    /// For this state of a tree.
    pub fn new(tree: &'a Tree) -> Evaluator<'a> {
        let mut evaluator = Evaluator { tree, order: HashMap::new() };
        let mut all = vec![DOCUMENT];
        evaluator.below(DOCUMENT, &mut all);
        evaluator.order = all.into_iter().enumerate().map(|(place, id)| (id, place)).collect();
        evaluator
    }

    /// What an expression yields, from the document.
    ///
    /// # Errors
    /// If a function gets something that it can't work on.
    pub fn evaluate(&self, expression: &Expression) -> Result<Found> {
        self.at(expression, Context { item: Item::Node(DOCUMENT), position: 1, size: 1 })
    }

    fn below(&self, id: NodeId, out: &mut Vec<NodeId>) {
        for child in &self.tree.nodes[id].children {
            if !matches!(self.tree.nodes[*child].kind, Kind::Doctype(_)) {
                out.push(*child);
                self.below(*child, out);
            }
        }
    }

    fn place(&self, item: Item) -> (usize, usize) {
        match item {
            Item::Node(id) => (self.order.get(&id).copied().unwrap_or_default(), 0),
            Item::Attribute(id, index) => (self.order.get(&id).copied().unwrap_or_default(), index + 1),
        }
    }

    fn at(&self, expression: &Expression, context: Context) -> Result<Found> {
        Ok(match expression {
            Expression::Literal(text) => Found::Text(text.clone()),
            Expression::Number(number) => Found::Number(*number),
            Expression::Negative(inside) => Found::Number(-self.number(&self.at(inside, context)?)),
            Expression::Both(operator, left, right) => self.both(operator, left, right, context)?,
            Expression::Call(name, arguments) => self.call(name, arguments, context)?,
            Expression::Path { absolute, steps } => {
                let start = if *absolute { Item::Node(DOCUMENT) } else { context.item };
                Found::Items(self.walk(vec![start], steps)?)
            }
            Expression::From { start, predicates, steps } => {
                let Found::Items(mut items) = self.at(start, context)? else {
                    return fail("predicates and steps need nodes before them");
                };
                for predicate in predicates {
                    items = self.filtered(items, predicate)?;
                }
                Found::Items(self.walk(items, steps)?)
            }
        })
    }

    fn walk(&self, mut items: Vec<Item>, steps: &[Step]) -> Result<Vec<Item>> {
        for step in steps {
            let mut next = Vec::new();
            for item in items {
                let mut found: Vec<Item> =
                    self.along(item, step.axis).into_iter().filter(|one| self.passes(*one, step)).collect();
                for predicate in &step.predicates {
                    found = self.filtered(found, predicate)?;
                }
                next.extend(found);
            }
            next.sort_by_key(|item| self.place(*item));
            next.dedup();
            items = next;
        }
        Ok(items)
    }

    fn filtered(&self, items: Vec<Item>, predicate: &Expression) -> Result<Vec<Item>> {
        let size = items.len();
        let mut out = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let context = Context { item, position: index + 1, size };
            let holds = match self.at(predicate, context)? {
                #[expect(clippy::cast_precision_loss, reason = "no document has so many nodes")]
                Found::Number(number) => number == context.position as f64,
                other => self.truth(&other),
            };
            if holds {
                out.push(item);
            }
        }
        Ok(out)
    }

    /// What is along an axis, nearest first.
    fn along(&self, item: Item, axis: Axis) -> Vec<Item> {
        let nodes = &self.tree.nodes;
        let wrap = |ids: Vec<NodeId>| ids.into_iter().map(Item::Node).collect::<Vec<_>>();
        let ancestors = |from: NodeId, itself: bool| {
            let mut out = if itself { vec![from] } else { Vec::new() };
            let mut id = from;
            while id != DOCUMENT {
                id = nodes[id].parent;
                out.push(id);
            }
            out
        };
        let id = match item {
            Item::Node(id) => id,
            Item::Attribute(owner, _) => {
                return match axis {
                    Axis::Itself | Axis::DescendantOrSelf => vec![item],
                    Axis::Parent => vec![Item::Node(owner)],
                    Axis::Ancestor => wrap(ancestors(owner, true)),
                    Axis::AncestorOrSelf => [vec![item], wrap(ancestors(owner, true))].concat(),
                    _ => Vec::new(),
                };
            }
        };
        let mut below = Vec::new();
        match axis {
            Axis::Child => wrap(nodes[id].children.clone()),
            Axis::Itself => vec![item],
            Axis::Attribute => {
                (0..self.tree.attributes(id).len()).map(|index| Item::Attribute(id, index)).collect()
            }
            Axis::Descendant | Axis::DescendantOrSelf => {
                if axis == Axis::DescendantOrSelf {
                    below.push(id);
                }
                self.below(id, &mut below);
                wrap(below)
            }
            Axis::Parent => wrap(ancestors(id, false).into_iter().take(1).collect()),
            Axis::Ancestor => wrap(ancestors(id, false)),
            Axis::AncestorOrSelf => wrap(ancestors(id, true)),
            Axis::FollowingSibling | Axis::PrecedingSibling if id == DOCUMENT => Vec::new(),
            Axis::FollowingSibling => {
                wrap(nodes[nodes[id].parent].children[self.tree.index_of(id) + 1..].to_vec())
            }
            Axis::PrecedingSibling => {
                let before = &nodes[nodes[id].parent].children[..self.tree.index_of(id)];
                wrap(before.iter().rev().copied().collect())
            }
            Axis::Following | Axis::Preceding => {
                let above = ancestors(id, true);
                self.below(id, &mut below);
                let here = self.order.get(&id).copied().unwrap_or_default();
                let mut out: Vec<(usize, NodeId)> = self
                    .order
                    .iter()
                    .map(|(other, place)| (*place, *other))
                    .filter(|(place, _)| (*place > here) == (axis == Axis::Following))
                    .filter(|(_, other)| !above.contains(other) && !below.contains(other))
                    .collect();
                out.sort_unstable();
                if axis == Axis::Preceding {
                    out.reverse();
                }
                wrap(out.into_iter().map(|(_, other)| other).collect())
            }
        }
    }

    fn name_of(&self, item: Item) -> Option<&Name> {
        match item {
            Item::Node(id) => self.tree.element(id),
            Item::Attribute(id, index) => {
                self.tree.attributes(id).get(index).map(|attribute| &attribute.name)
            }
        }
    }

    fn passes(&self, item: Item, step: &Step) -> bool {
        let name = || {
            self.name_of(item)
                .filter(|_| matches!(item, Item::Attribute(..)) == (step.axis == Axis::Attribute))
        };
        let kind = match item {
            Item::Node(id) => Some(&self.tree.nodes[id].kind),
            Item::Attribute(..) => None,
        };
        match &step.test {
            Test::Node => !matches!(kind, Some(Kind::Doctype(_))),
            Test::Text => matches!(kind, Some(Kind::Text(_) | Kind::Cdata(_))),
            Test::Comment => matches!(kind, Some(Kind::Comment(_))),
            Test::Instruction(target) => {
                matches!(kind, Some(Kind::Instruction(text)) if target.as_ref().is_none_or(|target| text.split_whitespace().next() == Some(target)))
            }
            Test::Named(wanted) => name().is_some_and(|name| name.is(wanted)),
            Test::Any(None) => name().is_some(),
            Test::Any(Some(space)) => name().is_some_and(|name| name.space == *space),
        }
    }

    /// The text of a node or an attribute.
    pub fn text_of(&self, item: Item) -> String {
        match item {
            Item::Node(id) => self.tree.string_value(id),
            Item::Attribute(id, index) => self
                .tree
                .attributes(id)
                .get(index)
                .map(|attribute| attribute.value.clone())
                .unwrap_or_default(),
        }
    }

    fn text(&self, found: &Found) -> String {
        match found {
            Found::Items(items) => items.first().map(|item| self.text_of(*item)).unwrap_or_default(),
            Found::Text(text) => text.clone(),
            Found::Truth(truth) => truth.to_string(),
            Found::Number(number) if number.is_infinite() => {
                if *number > 0.0 {
                    "Infinity".into()
                } else {
                    "-Infinity".into()
                }
            }
            Found::Number(number) => (number + 0.0).to_string(),
        }
    }

    fn number(&self, found: &Found) -> f64 {
        match found {
            Found::Number(number) => *number,
            Found::Truth(truth) => f64::from(*truth),
            other => {
                let text = self.text(other);
                let text = text.trim();
                let plain = text.chars().all(|letter| letter.is_ascii_digit() || matches!(letter, '.' | '-'));
                if plain { text.parse().unwrap_or(f64::NAN) } else { f64::NAN }
            }
        }
    }

    /// Whether a result counts as true.
    pub fn truth(&self, found: &Found) -> bool {
        match found {
            Found::Items(items) => !items.is_empty(),
            Found::Text(text) => !text.is_empty(),
            Found::Number(number) => *number != 0.0 && !number.is_nan(),
            Found::Truth(truth) => *truth,
        }
    }

    fn both(&self, operator: &str, left: &Expression, right: &Expression, context: Context) -> Result<Found> {
        let left = self.at(left, context)?;
        if operator == "or" || operator == "and" {
            let first = self.truth(&left);
            let decided = first == (operator == "or");
            return Ok(Found::Truth(if decided { first } else { self.truth(&self.at(right, context)?) }));
        }
        let right = self.at(right, context)?;
        if operator == "|" {
            let (Found::Items(mut items), Found::Items(more)) = (left, right) else {
                return fail("| needs nodes on both sides");
            };
            items.extend(more);
            items.sort_by_key(|item| self.place(*item));
            items.dedup();
            return Ok(Found::Items(items));
        }
        let calculated = |a: f64, b: f64| match operator {
            "+" => Some(a + b),
            "-" => Some(a - b),
            "*" => Some(a * b),
            "div" => Some(a / b),
            "mod" => Some(a % b),
            _ => None,
        };
        if let Some(number) = calculated(self.number(&left), self.number(&right)) {
            return Ok(Found::Number(number));
        }
        // Nodes are compared one by one; against a truth they are one.
        let truths = matches!(left, Found::Truth(_)) || matches!(right, Found::Truth(_));
        let single = |found: &Found| match found {
            Found::Items(items) if !truths => {
                items.iter().map(|item| Found::Text(self.text_of(*item))).collect()
            }
            Found::Items(items) => vec![Found::Truth(!items.is_empty())],
            other => vec![other.clone()],
        };
        let rights = single(&right);
        Ok(Found::Truth(
            single(&left).iter().any(|left| rights.iter().any(|right| self.compare(operator, left, right))),
        ))
    }

    fn compare(&self, operator: &str, left: &Found, right: &Found) -> bool {
        let numbers = (self.number(left), self.number(right));
        let equal = match (left, right) {
            (Found::Truth(_), _) | (_, Found::Truth(_)) => self.truth(left) == self.truth(right),
            (Found::Number(_), _) | (_, Found::Number(_)) => numbers.0 == numbers.1,
            _ => self.text(left) == self.text(right),
        };
        match operator {
            "=" => equal,
            "!=" => !equal,
            "<" => numbers.0 < numbers.1,
            "<=" => numbers.0 <= numbers.1,
            ">" => numbers.0 > numbers.1,
            _ => numbers.0 >= numbers.1,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "no document has so many nodes")]
    fn call(&self, name: &str, arguments: &[Expression], context: Context) -> Result<Found> {
        let mut given = Vec::new();
        for argument in arguments {
            given.push(self.at(argument, context)?);
        }
        let here = Found::Items(vec![context.item]);
        let first = given.first().unwrap_or(&here);
        let text = |index: usize| given.get(index).map(|found| self.text(found)).unwrap_or_default();
        let count = |number: usize| Found::Number(number as f64);
        let named = |part: fn(&Name) -> String| match first {
            Found::Items(items) => Ok(Found::Text(
                items.first().and_then(|item| self.name_of(*item)).map(part).unwrap_or_default(),
            )),
            _ => fail(format!("{name}() needs nodes")),
        };
        Ok(match name {
            "true" | "false" => Found::Truth(name == "true"),
            "position" => count(context.position),
            "last" => count(context.size),
            "not" => Found::Truth(!self.truth(first)),
            "boolean" => Found::Truth(self.truth(first)),
            "string" => Found::Text(self.text(first)),
            "number" => Found::Number(self.number(first)),
            "floor" => Found::Number(self.number(first).floor()),
            "ceiling" => Found::Number(self.number(first).ceil()),
            "round" => Found::Number((self.number(first) + 0.5).floor()),
            "name" => named(Name::written)?,
            "local-name" => named(|name| name.local.clone())?,
            "namespace-uri" => named(|name| name.space.clone())?,
            "string-length" => count(self.text(first).chars().count()),
            "normalize-space" => {
                Found::Text(self.text(first).split_whitespace().collect::<Vec<_>>().join(" "))
            }
            "count" | "sum" => match first {
                Found::Items(items) if name == "count" => count(items.len()),
                Found::Items(items) => Found::Number(
                    items.iter().map(|item| self.number(&Found::Text(self.text_of(*item)))).sum(),
                ),
                _ => return fail(format!("{name}() needs nodes")),
            },
            "contains" => Found::Truth(text(0).contains(&text(1))),
            "starts-with" => Found::Truth(text(0).starts_with(&text(1))),
            "substring-before" => Found::Text(
                text(0).split_once(&text(1)).map(|(before, _)| before.to_string()).unwrap_or_default(),
            ),
            "substring-after" => Found::Text(
                text(0).split_once(&text(1)).map(|(_, after)| after.to_string()).unwrap_or_default(),
            ),
            "concat" => Found::Text((0..given.len()).map(text).collect()),
            "translate" => {
                let (from, to): (Vec<char>, Vec<char>) =
                    (text(1).chars().collect(), text(2).chars().collect());
                let moved = |letter: char| match from.iter().position(|one| *one == letter) {
                    None => Some(letter),
                    Some(index) => to.get(index).copied(),
                };
                Found::Text(text(0).chars().filter_map(moved).collect())
            }
            _ => {
                let begin = (self.number(&given[1]) + 0.5).floor();
                let end =
                    given.get(2).map_or(f64::INFINITY, |length| begin + (self.number(length) + 0.5).floor());
                let inside = |index: usize| (index as f64 + 1.0) >= begin && (index as f64 + 1.0) < end;
                let letters = self.text(&given[0]);
                Found::Text(
                    letters
                        .chars()
                        .enumerate()
                        .filter(|(index, _)| inside(*index))
                        .map(|(_, letter)| letter)
                        .collect(),
                )
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "<b n='top'><r id='1'><x>5</x>one</r><!--c--><r id='2' k='v'><x>7</x><y/></r><p:r xmlns:p='urn:p' p:z='q'/></b>";

    fn all(expression: &str) -> String {
        let tree = Tree::parse(TEXT.as_bytes(), false).expect("fine");
        let namespaces = BTreeMap::from([("q".to_string(), "urn:p".to_string())]);
        let evaluator = Evaluator::new(&tree);
        let found = match parse(expression, &namespaces).and_then(|parsed| evaluator.evaluate(&parsed)) {
            Ok(found) => found,
            Err(error) => return format!("error: {error}"),
        };
        let Found::Items(items) = &found else { return evaluator.text(&found) };
        let shown = |item: &Item| match item {
            Item::Node(DOCUMENT) => "document".to_string(),
            Item::Node(id) => tree.fragment(*id),
            Item::Attribute(..) => format!("@{}", evaluator.text_of(*item)),
        };
        items.iter().map(shown).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn expressions_find_what_they_should() {
        for (expression, expected) in [
            ("/b/r/x", "<x>5</x> <x>7</x>"),
            ("b/r[2]/x", "<x>7</x>"),
            ("/b/r[@id='2']/y", "<y/>"),
            ("/b/r[x=5]/text()", "one"),
            ("/b/r[x > 5 and @k]/@k", "@v"),
            ("//x", "<x>5</x> <x>7</x>"),
            ("//x[1]", "<x>5</x> <x>7</x>"),
            ("(//x)[1]", "<x>5</x>"),
            ("//x[last()]/../@id", "@1 @2"),
            ("/b/q:r/@q:z", "@q"),
            ("/b/*[local-name()='r'][3]/@*", "@q"),
            ("/b/q:*", "<p:r p:z=\"q\" xmlns:p=\"urn:p\"/>"),
            ("//y/ancestor::*[@n]/@n", "@top"),
            ("//y/preceding-sibling::x", "<x>7</x>"),
            ("//y/preceding::x[1]", "<x>7</x>"),
            ("//comment()/following::x", "<x>7</x>"),
            ("//comment()/following-sibling::r/@id", "@2"),
            ("/", "document"),
            ("/b/comment()", "<!--c-->"),
            ("//x | //y", "<x>5</x> <x>7</x> <y/>"),
            ("count(//x) + 2 * 3", "8"),
            ("sum(//x) div 4", "3"),
            ("-3 mod 2", "-1"),
            ("concat('a', string(//x), \"b\")", "a5b"),
            ("substring('12345', 2, 3)", "234"),
            ("normalize-space('  a   b ')", "a b"),
            ("translate('abc', 'ab', 'x')", "xc"),
            ("not(//z) and starts-with(/b/@n, 'to') and contains('abc', 'bc')", "true"),
            ("substring-after(//r[2]/@k, 'q') = ''", "true"),
            ("//x = 7", "true"),
            ("//x != 7", "true"),
            ("string-length(name(/b/*[3]))", "3"),
            ("/b/r[position() < 2]/@id", "@1"),
            ("//r[.='5one']/@id", "@1"),
            ("/b/none", ""),
        ] {
            let expected =
                expected.replace("<p:r p:z=\"q\" xmlns:p=\"urn:p\"/>", "<p:r xmlns:p=\"urn:p\" p:z=\"q\"/>");
            assert_eq!(all(expression), expected, "{expression}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (expression, expected) in [
            ("//z:a", "Undefined namespace prefix z"),
            ("$x", "variables"),
            ("id('a')", "id()"),
            ("namespace::a", "axis namespace"),
            ("/b[", "ends too early"),
            ("/b]", "unexpected"),
            ("'a", "not closed"),
            ("count('a')", "needs nodes"),
            ("contains('a')", "1 arguments"),
            ("#", "unexpected '#'"),
        ] {
            let said = all(expression);
            assert!(said.starts_with("error: ") && said.contains(expected), "{expression}: {said}");
        }
    }
}
