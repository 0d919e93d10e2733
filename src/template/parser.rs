//! Jinja2's grammar, translated into the engine's own syntax tree.
//!
//! The engine runs control flow, scopes and calls. Whatever differs between it and Python (operators,
//! attributes, literals, filters, tests, macros, inheritance, output) is emitted as a call of one of our
//! functions, which the engine knows as filters: `a + b` becomes `a|__add(b)`.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use minijinja::machinery::{CodeGenerator, Instructions, Span, ast};
use minijinja::value::Value as V;

use super::error::TemplateError;
use super::lexer::{self, Spanned, Syntax, Token};

type Expr = ast::Expr<'static>;
type Stmt = ast::Stmt<'static>;

/// How deeply expressions and blocks may nest in one template.
const MAX_NESTING: u32 = 100;

/// A template, ready to run.
pub(super) struct Program {
    /// What the engine executes.
    pub(super) code: Instructions<'static>,
    /// Macros, call blocks and the like defined anywhere in this program, by number.
    pub(super) macros: Vec<Arc<MacroCode>>,
    /// `{% block %}` bodies of this template, in order.
    pub(super) blocks: Vec<(String, Arc<Program>)>,
    /// It is one `{{ name }}` and nothing else.
    pub(super) lone_name: Option<String>,
    /// It was compiled from a bare expression: the result is the value on the stack.
    pub(super) is_expression: bool,
    /// Filters and tests that don't exist, for checks at load time.
    pub(super) unknown: Vec<Unknown>,
}

/// A name in a template that no registry knows.
#[derive(Clone, Debug)]
pub(super) struct Unknown {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) line: u32,
}

/// A macro's parameters and body.
pub(super) struct MacroCode {
    pub(super) name: String,
    pub(super) params: Vec<&'static str>,
    /// How many of the last parameters have a default (computed in the body's first statements).
    pub(super) defaults: usize,
    pub(super) body: Arc<Program>,
    pub(super) uses_varargs: bool,
    pub(super) uses_kwargs: bool,
    pub(super) uses_caller: bool,
    /// It was defined inside a loop, block or another macro, whose variables it may see.
    pub(super) nested: bool,
}

/// What the parser asks about names.
pub(super) trait Names {
    fn has_filter(&self, name: &str) -> bool;
    fn has_test(&self, name: &str) -> bool;
}

/// Makes a name live as long as the program. Names are few: they come from the playbook's own templates.
pub(super) fn intern(name: &str) -> &'static str {
    static NAMES: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Mutex::default);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return known;
    }
    let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.insert(kept);
    kept
}

/// Compiles a template.
pub(super) fn template(source: &str, syntax: &Syntax, names: &dyn Names) -> Result<Program, TemplateError> {
    let tokens = lexer::lex(source, syntax)?;
    let mut parser = Parser::new(&tokens, names);
    let statements = parser.statements(&[])?;
    if !matches!(parser.peek(), Token::End) {
        return Err(parser.unexpected());
    }
    let lone_name = match tokens.as_slice() {
        [(Token::VariableStart, _), (Token::Name(name), _), (Token::VariableEnd, _), (Token::End, _)]
            if !is_constant_name(name) =>
        {
            Some(name.clone())
        }
        _ => None,
    };
    Ok(parser.finish(&statements, lone_name))
}

/// Compiles a bare expression.
pub(super) fn expression(
    source: &str,
    literal_backslashes: bool,
    names: &dyn Names,
) -> Result<Program, TemplateError> {
    let tokens = lexer::lex_expression(source, literal_backslashes)?;
    let mut parser = Parser::new(&tokens, names);
    if matches!(parser.peek(), Token::End) {
        return Err(TemplateError::syntax("Expected an expression, got 'end of template'", 1));
    }
    let expr = parser.tuple(true)?;
    if !matches!(parser.peek(), Token::End) {
        return Err(TemplateError::syntax(
            format!("unexpected '{}' after the expression", parser.peek().describe()),
            parser.line(),
        ));
    }
    let mut generator = CodeGenerator::new("", "");
    generator.compile_expr(&expr);
    let (code, _) = generator.finish();
    Ok(Program {
        code,
        macros: parser.macros,
        blocks: parser.blocks,
        lone_name: match tokens.as_slice() {
            [(Token::Name(name), _), (Token::End, _)] if !is_constant_name(name) => Some(name.clone()),
            _ => None,
        },
        is_expression: true,
        unknown: parser.unknown,
    })
}

fn is_constant_name(name: &str) -> bool {
    matches!(name, "true" | "True" | "false" | "False" | "none" | "None")
}

struct Parser<'t> {
    tokens: &'t [Spanned],
    position: usize,
    names: &'t dyn Names,
    macros: Vec<Arc<MacroCode>>,
    blocks: Vec<(String, Arc<Program>)>,
    unknown: Vec<Unknown>,
    nesting: u32,
    /// 0 where an assignment is one of the template's own (visible to macros, blocks and importers).
    scope: u32,
    in_macro: bool,
    in_loop: u32,
    /// Names used since the innermost macro began.
    used: BTreeSet<String>,
    block_names: HashSet<String>,
    temporaries: u32,
}

type P<T> = Result<T, TemplateError>;

impl<'t> Parser<'t> {
    fn new(tokens: &'t [Spanned], names: &'t dyn Names) -> Parser<'t> {
        Parser {
            tokens,
            position: 0,
            names,
            macros: Vec::new(),
            blocks: Vec::new(),
            unknown: Vec::new(),
            nesting: 0,
            scope: 0,
            in_macro: false,
            in_loop: 0,
            used: BTreeSet::new(),
            block_names: HashSet::new(),
            temporaries: 0,
        }
    }

    fn finish(self, statements: &[Stmt], lone_name: Option<String>) -> Program {
        Program {
            code: generate(statements),
            macros: self.macros,
            blocks: self.blocks,
            lone_name,
            is_expression: false,
            unknown: self.unknown,
        }
    }

    // --- tokens ---

    fn peek(&self) -> &'t Token {
        self.peek_at(0)
    }

    fn peek_at(&self, offset: usize) -> &'t Token {
        self.tokens.get(self.position + offset).map_or(&Token::End, |(token, _)| token)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.position).or(self.tokens.last()).map_or(1, |(_, line)| *line)
    }

    fn next(&mut self) -> &'t Token {
        let token = self.peek();
        self.position += 1;
        token
    }

    fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Token::Op(found) if *found == op)
    }

    fn skip_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        if found {
            self.position += 1;
        }
        found
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Token::Name(found) if found == name)
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.position += 1;
        }
        found
    }

    fn expect_op(&mut self, op: &str) -> P<()> {
        if self.skip_op(op) {
            return Ok(());
        }
        Err(TemplateError::syntax(
            format!("expected token '{op}', got '{}'", self.peek().describe()),
            self.line(),
        ))
    }

    fn expect_name(&mut self) -> P<&'t str> {
        match self.peek() {
            Token::Name(name) => {
                self.position += 1;
                Ok(name)
            }
            other => Err(TemplateError::syntax(
                format!("expected token 'name', got '{}'", other.describe()),
                self.line(),
            )),
        }
    }

    fn expect_block_end(&mut self) -> P<()> {
        match self.next() {
            Token::BlockEnd => Ok(()),
            other => {
                self.position -= 1;
                Err(TemplateError::syntax(
                    format!("expected token 'end of statement block', got '{}'", other.describe()),
                    self.line(),
                ))
            }
        }
    }

    fn unexpected(&self) -> TemplateError {
        TemplateError::syntax(format!("unexpected '{}'", self.peek().describe()), self.line())
    }

    fn span(&self) -> Span {
        let line = u16::try_from(self.line()).unwrap_or(u16::MAX);
        Span { start_line: line, end_line: line, ..Span::default() }
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> P<T>) -> P<T> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(TemplateError::syntax("the template is nested too deeply", self.line()));
        }
        let result = parse(self);
        self.nesting -= 1;
        result
    }

    // --- statements ---

    /// Statements up to one of the closing tags `ends`, which is not consumed except for its `{%`.
    fn statements(&mut self, ends: &[&str]) -> P<Vec<Stmt>> {
        let mut out = Vec::new();
        loop {
            match self.peek() {
                Token::End => {
                    if ends.is_empty() {
                        return Ok(out);
                    }
                    let expected = ends.iter().map(|end| format!("'{end}'")).collect::<Vec<_>>().join(" or ");
                    return Err(TemplateError::syntax(
                        format!(
                            "Unexpected end of template. Jinja was looking for the following tags: {expected}."
                        ),
                        self.line(),
                    ));
                }
                Token::Data(text) => {
                    let span = self.span();
                    self.position += 1;
                    out.push(act(constant(V::from(text.as_str()), span), span));
                }
                Token::VariableStart => {
                    self.position += 1;
                    let span = self.span();
                    let expr = self.tuple(true)?;
                    if !matches!(self.next(), Token::VariableEnd) {
                        self.position -= 1;
                        return Err(TemplateError::syntax(
                            format!(
                                "expected token 'end of print statement', got '{}'",
                                self.peek().describe()
                            ),
                            self.line(),
                        ));
                    }
                    out.push(act(expr, span));
                }
                Token::BlockStart => {
                    if let Token::Name(name) = self.peek_at(1)
                        && ends.contains(&name.as_str())
                    {
                        self.position += 1;
                        return Ok(out);
                    }
                    self.position += 1;
                    self.nested(|parser| parser.statement(&mut out, ends))?;
                }
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn body(&mut self, ends: &[&str]) -> P<Vec<Stmt>> {
        self.expect_block_end()?;
        self.statements(ends)
    }

    fn scoped<T>(&mut self, parse: impl FnOnce(&mut Self) -> P<T>) -> P<T> {
        self.scope += 1;
        let result = parse(self);
        self.scope -= 1;
        result
    }

    fn statement(&mut self, out: &mut Vec<Stmt>, ends: &[&str]) -> P<()> {
        let span = self.span();
        let Token::Name(keyword) = self.next() else {
            self.position -= 1;
            return Err(TemplateError::syntax("tag name expected", self.line()));
        };
        match keyword.as_str() {
            "for" => self.for_loop(out, span),
            "if" => {
                let statement = self.if_chain(span)?;
                out.push(statement);
                Ok(())
            }
            "set" => self.set(out, span),
            "do" => {
                let expr = self.tuple(true)?;
                out.push(act(call("__discard", vec![expr], span), span));
                self.expect_block_end()
            }
            "print" => {
                let expr = self.tuple(true)?;
                out.push(act(expr, span));
                self.expect_block_end()
            }
            "with" => self.with(out, span),
            "filter" => self.filter_block(out, span),
            "macro" => self.macro_definition(out, span),
            "call" => self.call_block(out, span),
            "include" => self.include(out, span),
            "import" => self.import(out, span),
            "from" => self.import_names(out, span),
            "extends" => {
                let name = self.expression()?;
                out.push(act(call("__extends", vec![name], span), span));
                self.expect_block_end()
            }
            "block" => self.block(out, span),
            "autoescape" => {
                let _ = self.expression()?;
                let body = self.scoped(|parser| parser.body(&["endautoescape"]))?;
                self.position += 1;
                out.push(with_block(Vec::new(), body, span));
                self.expect_block_end()
            }
            "break" | "continue" => {
                if self.in_loop == 0 {
                    return Err(TemplateError::syntax(format!("'{keyword}' outside of a loop"), self.line()));
                }
                out.push(if keyword == "break" {
                    Stmt::Break(ast::Spanned::new(ast::Break, span))
                } else {
                    Stmt::Continue(ast::Spanned::new(ast::Continue, span))
                });
                self.expect_block_end()
            }
            other => {
                let mut message = format!("Encountered unknown tag '{other}'.");
                if !ends.is_empty() {
                    let expected = ends.iter().map(|end| format!("'{end}'")).collect::<Vec<_>>().join(" or ");
                    message += &format!(
                        " Jinja was looking for the following tags: {expected}. The innermost block that needs to be closed is still open."
                    );
                }
                Err(TemplateError::syntax(message, self.line()))
            }
        }
    }

    /// `a`, `a, b`, `(a, b)` or `ns.x` on the left of an assignment.
    fn target(&mut self) -> P<Vec<Target>> {
        let mut targets = Vec::new();
        loop {
            if self.skip_op("(") {
                let inner = self.target()?;
                self.expect_op(")")?;
                targets.extend(inner);
            } else if self.is_op(")") || self.is_name("in") || self.is_op("=") {
                break;
            } else {
                let name = self.expect_name()?;
                if is_constant_name(name) {
                    return Err(TemplateError::syntax(format!("can't assign to '{name}'"), self.line()));
                }
                if self.skip_op(".") {
                    let attribute = self.expect_name()?;
                    targets.push(Target::Attribute(intern(name), attribute.to_owned()));
                } else {
                    targets.push(Target::Name(intern(name)));
                }
            }
            if !self.skip_op(",") {
                if targets.len() == 1 {
                    return Ok(targets);
                }
                break;
            }
            if targets.len() == 1 && (self.is_name("in") || self.is_op("=")) {
                return Ok(vec![Target::Many(targets)]);
            }
        }
        Ok(vec![Target::Many(targets)])
    }

    fn for_loop(&mut self, out: &mut Vec<Stmt>, span: Span) -> P<()> {
        let targets = self.target()?;
        if !self.skip_name("in") {
            return Err(TemplateError::syntax(
                format!("expected token 'in', got '{}'", self.peek().describe()),
                self.line(),
            ));
        }
        let iter = self.tuple_without_condition()?;
        let filter = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.in_loop += 1;
        let body = self.scoped(|parser| parser.body(&["endfor", "else"]));
        self.in_loop -= 1;
        let body = body?;
        let else_body =
            if self.skip_name("else") { self.scoped(|parser| parser.body(&["endfor"]))? } else { Vec::new() };
        self.position += 1;
        let (target, unpack) = loop_target(&targets, span)?;
        let iter = match unpack {
            Some(shape) => call("__iter_unpack", vec![iter, shape], span),
            None => call("__iter", vec![iter], span),
        };
        let statement = Stmt::ForLoop(ast::Spanned::new(
            ast::ForLoop {
                target,
                iter,
                filter_expr: filter.map(|filter| call("__truth", vec![filter], span)),
                recursive,
                body,
                else_body,
            },
            span,
        ));
        out.push(statement);
        self.expect_block_end()
    }

    fn if_chain(&mut self, span: Span) -> P<Stmt> {
        let test = self.tuple_without_condition_or_with()?;
        let true_body = self.body(&["elif", "else", "endif"])?;
        let branch_span = self.span();
        let false_body = if self.skip_name("elif") {
            let inner = self.nested(|parser| parser.if_chain(branch_span))?;
            vec![inner]
        } else if self.skip_name("else") {
            let body = self.body(&["endif"])?;
            self.position += 1;
            self.expect_block_end()?;
            body
        } else {
            self.position += 1;
            self.expect_block_end()?;
            Vec::new()
        };
        Ok(Stmt::IfCond(ast::Spanned::new(
            ast::IfCond { expr: call("__truth", vec![test], span), true_body, false_body },
            span,
        )))
    }

    fn assign(&mut self, targets: &[Target], value: Expr, out: &mut Vec<Stmt>, span: Span) {
        match targets {
            [Target::Name(name)] => {
                out.push(set_statement(name, value, span));
                self.export(name, out, span);
            }
            [Target::Attribute(object, attribute)] => {
                let object = self.variable(object, span);
                let key = constant(V::from(attribute.as_str()), span);
                out.push(act(call("__setattr", vec![object, key, value], span), span));
            }
            [Target::Many(many)] => {
                self.temporaries += 1;
                let temporary = intern(&format!("__parts{}", self.temporaries));
                let count = constant(V::from(many.len()), span);
                out.push(set_statement(temporary, call("__unpack", vec![value, count], span), span));
                for (index, target) in many.iter().enumerate() {
                    let part =
                        call("__item", vec![var(temporary, span), constant(V::from(index), span)], span);
                    self.assign(std::slice::from_ref(target), part, out, span);
                }
            }
            _ => {}
        }
    }

    /// Makes a top-level assignment visible to macros, blocks, included and importing templates.
    fn export(&mut self, name: &'static str, out: &mut Vec<Stmt>, span: Span) {
        if self.scope == 0 {
            let key = constant(V::from(name), span);
            out.push(act(call("__export", vec![key, var(name, span)], span), span));
        }
    }

    fn set(&mut self, out: &mut Vec<Stmt>, span: Span) -> P<()> {
        let targets = self.target()?;
        if self.skip_op("=") {
            let value = self.tuple(true)?;
            self.assign(&targets, value, out, span);
            return self.expect_block_end();
        }
        let filters = self.filter_chain_positions()?;
        out.push(act(call("__begin", Vec::new(), span), span));
        let body = self.scoped(|parser| parser.body(&["endset"]))?;
        self.position += 1;
        // The body shares the surrounding scope's frame, as a capture does.
        out.push(with_block(Vec::new(), body, span));
        let end_position = self.position;
        let mut value = call("__end", Vec::new(), span);
        if let Some(position) = filters {
            self.position = position;
            value = self.filters(value, true)?;
            self.position = end_position;
        }
        self.assign(&targets, value, out, span);
        self.expect_block_end()
    }

    /// Skips `| filter(…)…` up to the end of the tag and remembers where it began.
    fn filter_chain_positions(&mut self) -> P<Option<usize>> {
        if !self.is_op("|") {
            return Ok(None);
        }
        let start = self.position;
        while !matches!(self.peek(), Token::BlockEnd | Token::End) {
            self.position += 1;
        }
        Ok(Some(start))
    }

    fn with(&mut self, out: &mut Vec<Stmt>, span: Span) -> P<()> {
        let mut assignments = Vec::new();
        while !matches!(self.peek(), Token::BlockEnd) {
            if !assignments.is_empty() {
                self.expect_op(",")?;
            }
            let name = intern(self.expect_name()?);
            self.expect_op("=")?;
            let value = self.expression()?;
            assignments.push((name, value));
        }
        let body = self.scoped(|parser| parser.body(&["endwith"]))?;
        self.position += 1;
        // All values are computed outside, before any name is bound inside.
        let mut prelude = Vec::new();
        let mut bindings = Vec::new();
        for (index, (name, value)) in assignments.into_iter().enumerate() {
            let temporary = intern(&format!("__with{index}"));
            prelude.push((var(temporary, span), value));
            bindings.push((var(name, span), var(temporary, span)));
        }
        out.push(with_block(prelude, vec![with_block(bindings, body, span)], span));
        self.expect_block_end()
    }

    fn filter_block(&mut self, out: &mut Vec<Stmt>, span: Span) -> P<()> {
        let start = self.position;
        while !matches!(self.peek(), Token::BlockEnd | Token::End) {
            self.position += 1;
        }
        out.push(act(call("__begin", Vec::new(), span), span));
        let body = self.scoped(|parser| parser.body(&["endfilter"]))?;
        self.position += 1;
        out.push(with_block(Vec::new(), body, span));
        let end = self.position;
        self.position = start;
        let first = self.one_filter(call("__end", Vec::new(), span))?;
        let value = self.filters(first, true)?;
        self.position = end;
        out.push(act(value, span));
        self.expect_block_end()
    }

    /// `(a, b=1)`, parsed; the defaults become the first statements of the body.
    fn signature(&mut self) -> P<(Vec<&'static str>, Vec<Expr>)> {
        let mut params = Vec::new();
        let mut defaults = Vec::new();
        self.expect_op("(")?;
        while !self.is_op(")") {
            if !params.is_empty() {
                self.expect_op(",")?;
            }
            params.push(intern(self.expect_name()?));
            if self.skip_op("=") {
                defaults.push(self.expression()?);
            } else if !defaults.is_empty() {
                return Err(TemplateError::syntax(
                    "non-default argument follows default argument",
                    self.line(),
                ));
            }
        }
        self.expect_op(")")?;
        Ok((params, defaults))
    }

    fn macro_code(
        &mut self,
        name: &str,
        span: Span,
        params: Vec<&'static str>,
        defaults: Vec<Expr>,
        end: &str,
    ) -> P<usize> {
        let count = defaults.len();
        let mut body = Vec::new();
        let first_default = params.len() - count;
        for (param, default) in params[first_default..].iter().zip(defaults) {
            let test = call("__missing", vec![var(param, span)], span);
            body.push(Stmt::IfCond(ast::Spanned::new(
                ast::IfCond {
                    expr: test,
                    true_body: vec![set_statement(param, default, span)],
                    false_body: Vec::new(),
                },
                span,
            )));
        }
        let outer_used = std::mem::take(&mut self.used);
        let outer_macros = std::mem::take(&mut self.macros);
        let outer_scope = std::mem::replace(&mut self.scope, 1);
        let outer_macro = std::mem::replace(&mut self.in_macro, true);
        let outer_loop = std::mem::replace(&mut self.in_loop, 0);
        let statements = self.body(&[end]);
        self.in_loop = outer_loop;
        self.in_macro = outer_macro;
        self.scope = outer_scope;
        let macros = std::mem::replace(&mut self.macros, outer_macros);
        let used = std::mem::replace(&mut self.used, outer_used);
        body.extend(statements?);
        self.position += 1;
        let uses = |name: &str| used.contains(name) && !params.contains(&name);
        let (uses_varargs, uses_kwargs, uses_caller) =
            (uses("varargs"), uses("kwargs"), used.contains("caller"));
        let program = Program {
            code: generate(&body),
            macros,
            blocks: Vec::new(),
            lone_name: None,
            is_expression: false,
            unknown: Vec::new(),
        };
        self.used.extend(
            used.into_iter().filter(|name| !matches!(name.as_str(), "varargs" | "kwargs" | "caller")),
        );
        self.macros.push(Arc::new(MacroCode {
            name: name.to_owned(),
            params,
            defaults: count,
            body: Arc::new(program),
            uses_varargs,
            uses_kwargs,
            uses_caller,
            nested: self.scope > 0 || self.in_macro,
        }));
        Ok(self.macros.len() - 1)
    }

    fn macro_definition(&mut self, out: &mut Vec<Stmt>, span: Span) -> P<()> {
        let name = intern(self.expect_name()?);
        let (params, defaults) = self.signature()?;
        let number = self.macro_code(name, span, params, defaults, "endmacro")?;
        out.push(set_statement(name, call("__macro", vec![constant(V::from(number), span)], span), span));
        self.export(name, out, span);
        self.expect_block_end()
    }

    fn call_block(&mut self, out: &mut Vec<Stmt>, span: Span) -> P<()> {
        let (params, defaults) = if self.is_op("(") { self.signature()? } else { (Vec::new(), Vec::new()) };
        let start = self.position;
        while !matches!(self.peek(), Token::BlockEnd | Token::End) {
            self.position += 1;
        }
        let number = self.macro_code("caller", span, params, defaults, "endcall")?;
        let end = self.position;
        self.position = start;
        let caller = call("__caller", vec![constant(V::from(number), span)], span);
        let callee = self.primary()?;
        let callee = self.postfix_inner(callee, Some(caller))?;
        self.position = end;
        out.push(act(callee, span));
        self.expect_block_end()
    }

    fn context_modifier(&mut self, default: bool) -> bool {
        for (word, with) in [("with", true), ("without", false)] {
            if self.is_name(word) && matches!(self.peek_at(1), Token::Name(name) if name == "context") {
                self.position += 2;
                return with;
            }
        }
        default
    }

    fn include(&mut self, out: &mut Vec<Stmt>, span: Span) -> P<()> {
        let name = self.expression()?;
        let ignore_missing =
            self.is_name("ignore") && matches!(self.peek_at(1), Token::Name(n) if n == "missing");
        if ignore_missing {
            self.position += 2;
        }
        let with_context = self.context_modifier(true);
        out.push(act(
            call(
                "__include",
                vec![name, constant(V::from(ignore_missing), span), constant(V::from(with_context), span)],
                span,
            ),
            span,
        ));
        self.expect_block_end()
    }

    fn import(&mut self, out: &mut Vec<Stmt>, span: Span) -> P<()> {
        let name = self.expression()?;
        if !self.skip_name("as") {
            return Err(TemplateError::syntax(
                format!("expected token 'as', got '{}'", self.peek().describe()),
                self.line(),
            ));
        }
        let target = intern(self.expect_name()?);
        let with_context = self.context_modifier(false);
        let module = call("__import", vec![name, constant(V::from(with_context), span)], span);
        out.push(set_statement(target, module, span));
        self.export(target, out, span);
        self.expect_block_end()
    }

    fn import_names(&mut self, out: &mut Vec<Stmt>, span: Span) -> P<()> {
        let name = self.expression()?;
        if !self.skip_name("import") {
            return Err(TemplateError::syntax(
                format!("expected token 'import', got '{}'", self.peek().describe()),
                self.line(),
            ));
        }
        let mut wanted = Vec::new();
        let mut with_context = false;
        loop {
            if matches!(self.peek(), Token::BlockEnd) {
                break;
            }
            if self.is_name("with") || self.is_name("without") {
                with_context = self.context_modifier(false);
                break;
            }
            let from = self.expect_name()?.to_owned();
            let to = if self.skip_name("as") { intern(self.expect_name()?) } else { intern(&from) };
            wanted.push((from, to));
            if !self.skip_op(",") {
                with_context = self.context_modifier(false);
                break;
            }
        }
        let temporary = intern("__imported");
        let module = call("__import", vec![name, constant(V::from(with_context), span)], span);
        out.push(set_statement(temporary, module, span));
        for (from, to) in wanted {
            let value = call("__imported", vec![var(temporary, span), constant(V::from(from), span)], span);
            out.push(set_statement(to, value, span));
            self.export(to, out, span);
        }
        self.expect_block_end()
    }

    fn block(&mut self, out: &mut Vec<Stmt>, span: Span) -> P<()> {
        let name = self.expect_name()?.to_owned();
        if !self.block_names.insert(name.clone()) {
            return Err(TemplateError::syntax(format!("block '{name}' defined twice"), self.line()));
        }
        let scoped = self.skip_name("scoped");
        let required = self.skip_name("required");
        let scoped = scoped || self.skip_name("scoped");
        let outer_macros = std::mem::take(&mut self.macros);
        let outer_scope = std::mem::replace(&mut self.scope, 1);
        let outer_loop = std::mem::replace(&mut self.in_loop, 0);
        let statements = self.body(&["endblock"]);
        self.in_loop = outer_loop;
        self.scope = outer_scope;
        let macros = std::mem::replace(&mut self.macros, outer_macros);
        let statements = statements?;
        self.position += 1;
        if matches!(self.peek(), Token::Name(end) if *end == name) {
            self.position += 1;
        }
        let mut body = statements;
        if required {
            body = vec![act(call("__required", vec![constant(V::from(name.as_str()), span)], span), span)];
        }
        let program = Program {
            code: generate(&body),
            macros,
            blocks: Vec::new(),
            lone_name: None,
            is_expression: false,
            unknown: Vec::new(),
        };
        out.push(act(
            call(
                "__block",
                vec![constant(V::from(name.as_str()), span), constant(V::from(scoped), span)],
                span,
            ),
            span,
        ));
        self.blocks.push((name, Arc::new(program)));
        self.expect_block_end()
    }

    // --- expressions ---

    /// `a, b, c` without parentheses, or one expression.
    fn tuple(&mut self, with_condition: bool) -> P<Expr> {
        let span = self.span();
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if self.tuple_ends() {
                break;
            }
            items.push(if with_condition { self.expression()? } else { self.or()? });
            if self.skip_op(",") {
                is_tuple = true;
            } else {
                break;
            }
        }
        if !is_tuple {
            return items.pop().ok_or_else(|| {
                TemplateError::syntax(
                    format!("Expected an expression, got '{}'", self.peek().describe()),
                    self.line(),
                )
            });
        }
        Ok(call("__tuple", items, span))
    }

    fn tuple_ends(&self) -> bool {
        matches!(self.peek(), Token::VariableEnd | Token::BlockEnd | Token::End) || self.is_op(")")
    }

    fn tuple_without_condition(&mut self) -> P<Expr> {
        self.tuple(false)
    }

    fn tuple_without_condition_or_with(&mut self) -> P<Expr> {
        self.tuple(false)
    }

    fn expression(&mut self) -> P<Expr> {
        self.nested(Parser::condition)
    }

    fn condition(&mut self) -> P<Expr> {
        let span = self.span();
        let mut expr = self.or()?;
        while self.skip_name("if") {
            let test = self.or()?;
            let otherwise =
                if self.skip_name("else") { self.expression()? } else { call("__no_else", Vec::new(), span) };
            expr = Expr::IfExpr(ast::Spanned::new(
                ast::IfExpr {
                    test_expr: call("__truth", vec![test], span),
                    true_expr: expr,
                    false_expr: Some(otherwise),
                },
                span,
            ));
        }
        Ok(expr)
    }

    fn or(&mut self) -> P<Expr> {
        let span = self.span();
        let mut left = self.and()?;
        while self.skip_name("or") {
            let right = self.and()?;
            left = short_circuit(ast::BinOpKind::ScOr, left, right, span);
        }
        Ok(left)
    }

    fn and(&mut self) -> P<Expr> {
        let span = self.span();
        let mut left = self.not()?;
        while self.skip_name("and") {
            let right = self.not()?;
            left = short_circuit(ast::BinOpKind::ScAnd, left, right, span);
        }
        Ok(left)
    }

    fn not(&mut self) -> P<Expr> {
        if self.is_name("not") {
            let span = self.span();
            self.position += 1;
            let inner = self.nested(Parser::not)?;
            return Ok(call("__not", vec![inner], span));
        }
        self.compare()
    }

    fn compare(&mut self) -> P<Expr> {
        let span = self.span();
        let first = self.arithmetic()?;
        let mut rest: Vec<(&'static str, Expr)> = Vec::new();
        loop {
            let op = match self.peek() {
                Token::Op(op @ ("==" | "!=" | "<" | "<=" | ">" | ">=")) => {
                    self.position += 1;
                    *op
                }
                Token::Name(name) if name == "in" => {
                    self.position += 1;
                    "in"
                }
                Token::Name(name)
                    if name == "not" && matches!(self.peek_at(1), Token::Name(next) if next == "in") =>
                {
                    self.position += 2;
                    "not in"
                }
                _ => break,
            };
            rest.push((op, self.arithmetic()?));
        }
        if rest.len() <= 1 {
            return Ok(match rest.pop() {
                None => first,
                Some((op, right)) => call(compare_function(op), vec![first, right], span),
            });
        }
        let mut args = vec![first];
        for (op, right) in rest {
            args.push(constant(V::from(op), span));
            args.push(right);
        }
        Ok(call("__chain", args, span))
    }

    /// Jinja2's order: `+ -` bind weaker than `~`, which binds weaker than `* / // %`.
    fn arithmetic(&mut self) -> P<Expr> {
        let span = self.span();
        let mut left = self.concat()?;
        loop {
            let function = if self.skip_op("+") {
                "__add"
            } else if self.skip_op("-") {
                "__sub"
            } else {
                return Ok(left);
            };
            let right = self.concat()?;
            left = call(function, vec![left, right], span);
        }
    }

    fn concat(&mut self) -> P<Expr> {
        let span = self.span();
        let first = self.multiply()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_op("~") {
            parts.push(self.multiply()?);
        }
        Ok(call("__concat", parts, span))
    }

    fn multiply(&mut self) -> P<Expr> {
        let span = self.span();
        let mut left = self.power()?;
        loop {
            let function = match self.peek() {
                Token::Op("*") => "__mul",
                Token::Op("/") => "__div",
                Token::Op("//") => "__floordiv",
                Token::Op("%") => "__mod",
                _ => return Ok(left),
            };
            self.position += 1;
            let right = self.power()?;
            left = call(function, vec![left, right], span);
        }
    }

    fn power(&mut self) -> P<Expr> {
        let span = self.span();
        let mut left = self.unary(true)?;
        while self.skip_op("**") {
            let right = self.unary(true)?;
            left = call("__pow", vec![left, right], span);
        }
        Ok(left)
    }

    fn unary(&mut self, with_filter: bool) -> P<Expr> {
        let span = self.span();
        let mut expr = if self.skip_op("-") {
            let inner = self.nested(|parser| parser.unary(false))?;
            call("__neg", vec![inner], span)
        } else if self.skip_op("+") {
            let inner = self.nested(|parser| parser.unary(false))?;
            call("__pos", vec![inner], span)
        } else {
            self.primary()?
        };
        expr = self.postfix(expr)?;
        if with_filter {
            expr = self.filters(expr, false)?;
        }
        Ok(expr)
    }

    fn primary(&mut self) -> P<Expr> {
        let span = self.span();
        match self.next() {
            Token::Name(name) => Ok(match name.as_str() {
                "true" | "True" => constant(V::from(true), span),
                "false" | "False" => constant(V::from(false), span),
                "none" | "None" => constant(V::from(()), span),
                "super" if self.is_op("(") => {
                    self.position += 1;
                    self.expect_op(")")?;
                    call("__super", Vec::new(), span)
                }
                "self" if self.is_op(".") => {
                    self.position += 1;
                    let block = self.expect_name()?;
                    self.expect_op("(")?;
                    self.expect_op(")")?;
                    call("__self_block", vec![constant(V::from(block), span)], span)
                }
                name => self.variable(intern(name), span),
            }),
            Token::Str(text) => {
                let mut text = text.clone();
                while let Token::Str(more) = self.peek() {
                    text.push_str(more);
                    self.position += 1;
                }
                let embedded = super::looks_like_template(&text);
                let expr = constant(V::from(text), span);
                Ok(if embedded { call("__embedded", vec![expr], span) } else { expr })
            }
            Token::Int(number) => {
                Ok(constant(i64::try_from(*number).map_or_else(|_| V::from(*number), V::from), span))
            }
            Token::Float(number) => Ok(constant(V::from(*number), span)),
            Token::Op("(") => {
                let items = self.nested(|parser| {
                    if parser.is_op(")") {
                        return Ok(call("__tuple", Vec::new(), span));
                    }
                    parser.tuple(true)
                })?;
                self.expect_op(")")?;
                Ok(items)
            }
            Token::Op("[") => {
                let mut items = Vec::new();
                while !self.is_op("]") {
                    if !items.is_empty() {
                        self.expect_op(",")?;
                        if self.is_op("]") {
                            break;
                        }
                    }
                    items.push(self.expression()?);
                }
                self.expect_op("]")?;
                Ok(many("__list", items, span))
            }
            Token::Op("{") => {
                let mut items = Vec::new();
                while !self.is_op("}") {
                    if !items.is_empty() {
                        self.expect_op(",")?;
                        if self.is_op("}") {
                            break;
                        }
                    }
                    items.push(self.expression()?);
                    self.expect_op(":")?;
                    items.push(self.expression()?);
                }
                self.expect_op("}")?;
                Ok(many("__dict", items, span))
            }
            other => {
                self.position -= 1;
                Err(TemplateError::syntax(format!("unexpected '{}'", other.describe()), self.line()))
            }
        }
    }

    fn variable(&mut self, name: &'static str, span: Span) -> Expr {
        self.used.insert(name.to_owned());
        var(name, span)
    }

    fn postfix(&mut self, expr: Expr) -> P<Expr> {
        self.postfix_inner(expr, None)
    }

    fn postfix_inner(&mut self, mut expr: Expr, mut caller: Option<Expr>) -> P<Expr> {
        loop {
            let span = self.span();
            if self.is_op(".") {
                self.position += 1;
                match self.next() {
                    Token::Name(name) => {
                        let key = constant(V::from(name.as_str()), span);
                        if self.is_op("(") {
                            let args = self.call_args()?;
                            let caller = if self.is_op("(") || self.is_op(".") || self.is_op("[") {
                                None
                            } else {
                                caller.take()
                            };
                            expr = call_with("__method", expr, vec![key], args, caller, span);
                        } else {
                            expr = call("__attr", vec![expr, key], span);
                        }
                    }
                    Token::Int(number) => {
                        let key = constant(V::from(i64::try_from(*number).unwrap_or(i64::MAX)), span);
                        expr = call("__item", vec![expr, key], span);
                    }
                    Token::Float(number) => {
                        // `a.0.1` reads as a number; take it apart again.
                        let text = format!("{number:?}");
                        for part in text.split('.') {
                            let key = constant(V::from(part.parse::<i64>().unwrap_or(0)), span);
                            expr = call("__item", vec![expr, key], span);
                        }
                    }
                    _ => {
                        self.position -= 1;
                        return Err(TemplateError::syntax("expected name or number", self.line()));
                    }
                }
            } else if self.skip_op("[") {
                expr = self.subscript(expr, span)?;
            } else if self.is_op("(") {
                let is_loop = matches!(&expr, Expr::Var(name) if name.id == "loop");
                let args = self.call_args()?;
                let last = !(self.is_op("(") || self.is_op(".") || self.is_op("["));
                let caller = if last { caller.take() } else { None };
                expr = if is_loop && args.len() == 1 {
                    let args = args
                        .into_iter()
                        .map(|arg| match arg {
                            ast::CallArg::Pos(value) => ast::CallArg::Pos(call("__iter", vec![value], span)),
                            other => other,
                        })
                        .collect();
                    let recursion = Expr::Call(ast::Spanned::new(ast::Call { expr, args }, span));
                    call("__loop_end", vec![call("__begin", Vec::new(), span), recursion], span)
                } else {
                    call_with("__call", expr, Vec::new(), args, caller, span)
                };
            } else {
                return Ok(expr);
            }
        }
    }

    fn subscript(&mut self, expr: Expr, span: Span) -> P<Expr> {
        let mut keys = Vec::new();
        loop {
            keys.push(self.subscript_part()?);
            if !self.skip_op(",") {
                break;
            }
        }
        self.expect_op("]")?;
        if keys.len() == 1
            && let Some(key) = keys.pop()
        {
            return Ok(match key {
                Subscript::Item(key) => call("__item", vec![expr, key], span),
                Subscript::Slice(parts) => {
                    let [start, stop, step] = *parts;
                    let none = |part: Option<Expr>| part.unwrap_or_else(|| constant(V::from(()), span));
                    call("__slice", vec![expr, none(start), none(stop), none(step)], span)
                }
            });
        }
        let items = keys
            .into_iter()
            .map(|key| match key {
                Subscript::Item(key) => Ok(key),
                Subscript::Slice(_) => Err(TemplateError::syntax("a slice within a tuple", self.line())),
            })
            .collect::<P<Vec<_>>>()?;
        Ok(call("__item", vec![expr, call("__tuple", items, span)], span))
    }

    fn subscript_part(&mut self) -> P<Subscript> {
        let mut parts: [Option<Expr>; 3] = [None, None, None];
        if !self.is_op(":") {
            let first = self.expression()?;
            if !self.is_op(":") {
                return Ok(Subscript::Item(first));
            }
            parts[0] = Some(first);
        }
        self.expect_op(":")?;
        if !self.is_op(":") && !self.is_op("]") && !self.is_op(",") {
            parts[1] = Some(self.expression()?);
        }
        if self.skip_op(":") && !self.is_op("]") && !self.is_op(",") {
            parts[2] = Some(self.expression()?);
        }
        Ok(Subscript::Slice(Box::new(parts)))
    }

    fn call_args(&mut self) -> P<Vec<ast::CallArg<'static>>> {
        self.expect_op("(")?;
        let mut args = Vec::new();
        while !self.is_op(")") {
            if !args.is_empty() {
                self.expect_op(",")?;
                if self.is_op(")") {
                    break;
                }
            }
            if self.skip_op("**") {
                args.push(ast::CallArg::KwargSplat(self.expression()?));
            } else if self.skip_op("*") {
                let span = self.span();
                let value = self.expression()?;
                args.push(ast::CallArg::PosSplat(call("__iter", vec![value], span)));
            } else if let (Token::Name(name), Token::Op("=")) = (self.peek(), self.peek_at(1)) {
                let name = intern(name);
                self.position += 2;
                args.push(ast::CallArg::Kwarg(name, self.expression()?));
            } else {
                args.push(ast::CallArg::Pos(self.expression()?));
            }
        }
        self.expect_op(")")?;
        Ok(args)
    }

    fn filters(&mut self, mut expr: Expr, only_filters: bool) -> P<Expr> {
        loop {
            if self.skip_op("|") {
                expr = self.one_filter(expr)?;
            } else if !only_filters && self.is_name("is") {
                self.position += 1;
                expr = self.test(expr)?;
            } else if !only_filters && self.is_op("(") {
                // A call of a filter's result: `(x|y)(…)` has no use here, but is Jinja2's grammar.
                expr = self.postfix(expr)?;
            } else {
                return Ok(expr);
            }
        }
    }

    fn dotted_name(&mut self) -> P<String> {
        let mut name = self.expect_name()?.to_owned();
        while self.is_op(".") && matches!(self.peek_at(1), Token::Name(_)) {
            self.position += 1;
            name.push('.');
            name.push_str(self.expect_name()?);
        }
        Ok(name)
    }

    fn one_filter(&mut self, expr: Expr) -> P<Expr> {
        let span = self.span();
        let line = self.line();
        let name = self.dotted_name()?;
        let args = if self.is_op("(") { self.call_args()? } else { Vec::new() };
        if !self.names.has_filter(&name) {
            self.unknown.push(Unknown { kind: "filter", name: name.clone(), line });
            return Ok(call(
                "__unknown",
                vec![constant(V::from("filter"), span), constant(V::from(name), span)],
                span,
            ));
        }
        let function = intern(&format!("f.{}", super::registry::short_name(&name)));
        Ok(call_with(function, expr, Vec::new(), args, None, span))
    }

    fn test(&mut self, expr: Expr) -> P<Expr> {
        let span = self.span();
        let negated = self.skip_name("not");
        let line = self.line();
        let name = self.dotted_name()?;
        let args = if self.is_op("(") {
            self.call_args()?
        } else {
            let takes_argument = match self.peek() {
                Token::Name(next) => {
                    !matches!(next.as_str(), "else" | "or" | "and" | "is" | "if" | "in" | "not")
                }
                Token::Str(_) | Token::Int(_) | Token::Float(_) => true,
                Token::Op(op) => matches!(*op, "[" | "{"),
                _ => false,
            };
            if takes_argument {
                let primary = self.primary()?;
                vec![ast::CallArg::Pos(self.postfix(primary)?)]
            } else {
                Vec::new()
            }
        };
        let result = if self.names.has_test(&name) {
            let function = intern(&format!("t.{}", super::registry::short_name(&name)));
            call_with(function, expr, Vec::new(), args, None, span)
        } else {
            self.unknown.push(Unknown { kind: "test", name: name.clone(), line });
            call("__unknown", vec![constant(V::from("test"), span), constant(V::from(name), span)], span)
        };
        Ok(if negated { call("__not", vec![result], span) } else { result })
    }
}

enum Target {
    Name(&'static str),
    Attribute(&'static str, String),
    Many(Vec<Target>),
}

enum Subscript {
    Item(Expr),
    Slice(Box<[Option<Expr>; 3]>),
}

/// The engine's target of a loop, and the shape to check items against if they are unpacked.
fn loop_target(targets: &[Target], span: Span) -> P<(Expr, Option<Expr>)> {
    fn build(target: &Target, span: Span) -> P<Expr> {
        match target {
            Target::Name(name) => Ok(var(name, span)),
            Target::Many(many) => Ok(Expr::List(ast::Spanned::new(
                ast::List { items: many.iter().map(|inner| build(inner, span)).collect::<P<Vec<_>>>()? },
                span,
            ))),
            Target::Attribute(..) => Err(TemplateError::syntax(
                "can't assign to an attribute in a loop",
                u32::from(span.start_line),
            )),
        }
    }
    fn shape(target: &Target) -> V {
        match target {
            Target::Many(many) => many.iter().map(shape).collect(),
            _ => V::from(()),
        }
    }
    let target = targets
        .first()
        .ok_or_else(|| TemplateError::syntax("expected token 'name'", u32::from(span.start_line)))?;
    let unpack = match target {
        Target::Many(_) => Some(constant(shape(target), span)),
        _ => None,
    };
    Ok((build(target, span)?, unpack))
}

fn compare_function(op: &str) -> &'static str {
    match op {
        "==" => "__eq",
        "!=" => "__ne",
        "<" => "__lt",
        "<=" => "__le",
        ">" => "__gt",
        ">=" => "__ge",
        "in" => "__in",
        _ => "__not_in",
    }
}

fn constant(value: V, span: Span) -> Expr {
    Expr::Const(ast::Spanned::new(ast::Const { value }, span))
}

fn var(name: &'static str, span: Span) -> Expr {
    Expr::Var(ast::Spanned::new(ast::Var { id: name }, span))
}

/// A call of one of our functions.
fn call(function: &'static str, args: Vec<Expr>, span: Span) -> Expr {
    let mut args = args.into_iter();
    let first = args.next().unwrap_or_else(|| constant(V::from(()), span));
    Expr::Filter(ast::Spanned::new(
        ast::Filter { name: function, expr: Some(first), args: args.map(ast::CallArg::Pos).collect() },
        span,
    ))
}

/// A constructor call; the first argument is a placeholder so that it may have no items.
fn many(function: &'static str, items: Vec<Expr>, span: Span) -> Expr {
    let mut args = vec![constant(V::from(()), span)];
    // The engine counts arguments in 16 bits; longer literals are built in parts.
    if items.len() <= 30_000 {
        args.extend(items);
        return call(function, args, span);
    }
    let mut parts = vec![constant(V::from(()), span)];
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        let mut part = vec![constant(V::from(()), span)];
        part.extend(items.by_ref().take(30_000));
        parts.push(call(function, part, span));
    }
    call("__join_parts", parts, span)
}

/// A call whose named arguments follow the positional ones, with their names as the last argument.
fn call_with(
    function: &'static str,
    first: Expr,
    fixed: Vec<Expr>,
    args: Vec<ast::CallArg<'static>>,
    caller: Option<Expr>,
    span: Span,
) -> Expr {
    let mut all: Vec<ast::CallArg<'static>> = fixed.into_iter().map(ast::CallArg::Pos).collect();
    let mut names = Vec::new();
    let mut named = Vec::new();
    for arg in args {
        match arg {
            ast::CallArg::Kwarg(name, value) => {
                names.push(name);
                named.push(ast::CallArg::Pos(value));
            }
            ast::CallArg::KwargSplat(value) => {
                names.push("**");
                named.push(ast::CallArg::Pos(value));
            }
            positional => all.push(positional),
        }
    }
    if let Some(caller) = caller {
        names.push("caller");
        named.push(ast::CallArg::Pos(caller));
    }
    if !names.is_empty() {
        all.extend(named);
        all.push(ast::CallArg::Pos(constant(V::from_object(super::object::Names(names)), span)));
    }
    Expr::Filter(ast::Spanned::new(ast::Filter { name: function, expr: Some(first), args: all }, span))
}

fn short_circuit(op: ast::BinOpKind, left: Expr, right: Expr, span: Span) -> Expr {
    let left = call("__check", vec![left], span);
    Expr::BinOp(ast::Spanned::new(ast::BinOp { op, left, right }, span))
}

fn set_statement(name: &'static str, value: Expr, span: Span) -> Stmt {
    Stmt::Set(ast::Spanned::new(ast::Set { target: var(name, span), expr: value }, span))
}

/// A call for its effect: it yields the engine's own undefined value, which is never written.
fn act(value: Expr, span: Span) -> Stmt {
    Stmt::EmitExpr(ast::Spanned::new(ast::EmitExpr { expr: value }, span))
}

fn with_block(assignments: Vec<(Expr, Expr)>, body: Vec<Stmt>, span: Span) -> Stmt {
    Stmt::WithBlock(ast::Spanned::new(ast::WithBlock { assignments, body }, span))
}

fn generate(statements: &[Stmt]) -> Instructions<'static> {
    let mut generator = CodeGenerator::new("", "");
    for statement in statements {
        generator.compile_stmt(statement);
    }
    generator.finish().0
}
