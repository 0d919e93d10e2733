//! What can go wrong while a template is read or rendered.

use std::fmt;
use std::sync::Arc;

use crate::value::Origin;

/// The kinds of failure that callers tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateErrorKind {
    /// A variable or an attribute that doesn't exist was used.
    Undefined {
        /// The missing variable or attribute; empty if it has no name.
        name: String,
    },
    /// The result of a task that is still out was touched.
    Pending,
    /// The value is `omit` where a value is needed.
    Omit,
    /// The template can't be parsed.
    Syntax,
    /// An operation or a method failed.
    Runtime,
    /// A filter or a test failed.
    Plugin,
    /// A condition whose result is not a boolean, or that is no condition.
    NotBoolean,
    /// A lookup failed.
    Lookup,
    /// A vaulted value can't be decrypted.
    Vault {
        /// The whole envelope.
        envelope: Arc<str>,
    },
    /// Variables that refer to each other in a circle, or templates nested too deeply.
    Recursion,
    /// The template ran longer or produced more than is sane.
    Limit,
}

/// A failure, with where the template was written.
#[derive(Clone, Debug)]
pub struct TemplateError {
    /// Which kind it is.
    pub kind: TemplateErrorKind,
    /// What is wrong, for the user.
    pub message: String,
    /// Where the template was written, advanced to the line that failed if that is known.
    pub origin: Option<Arc<Origin>>,
    /// What is defined that looks like the missing name.
    pub hint: Option<String>,
    /// What we were doing, outermost last.
    pub chain: Vec<String>,
    /// The line within the template, from 1; 0 if unknown.
    pub(super) line: u32,
    /// What the value was wanted for. Boxed, as errors are handed on far more often than made.
    pub(super) purpose: Option<Box<Purpose>>,
    /// It is about the bare expression of a condition, not a template.
    pub(super) in_expression: bool,
}

/// What a value was wanted for, and within that what.
#[derive(Clone, Debug)]
pub(super) struct Purpose {
    what: String,
    inner: Option<Box<Purpose>>,
}

impl TemplateError {
    pub(super) fn new(kind: TemplateErrorKind, message: impl Into<String>) -> TemplateError {
        TemplateError {
            kind,
            message: message.into(),
            origin: None,
            hint: None,
            chain: Vec::new(),
            line: 0,
            purpose: None,
            in_expression: false,
        }
    }

    pub(super) fn syntax(message: impl Into<String>, line: u32) -> TemplateError {
        TemplateError { line, ..TemplateError::new(TemplateErrorKind::Syntax, message) }
    }

    pub(super) fn runtime(message: impl Into<String>) -> TemplateError {
        TemplateError::new(TemplateErrorKind::Runtime, message)
    }

    pub(super) fn undefined(name: impl Into<String>, message: impl Into<String>) -> TemplateError {
        TemplateError::new(TemplateErrorKind::Undefined { name: name.into() }, message)
    }

    pub(super) fn pending() -> TemplateError {
        TemplateError::new(TemplateErrorKind::Pending, "the result of a task that has not finished is needed")
    }

    pub(super) fn limit(message: impl Into<String>) -> TemplateError {
        TemplateError::new(TemplateErrorKind::Limit, message)
    }

    /// Whether it must surface whatever filter it passes through.
    pub(super) fn is_final(&self) -> bool {
        matches!(self.kind, TemplateErrorKind::Pending | TemplateErrorKind::Limit)
    }

    /// Whether a name was missing, as opposed to all other failures.
    pub fn is_undefined(&self) -> bool {
        matches!(self.kind, TemplateErrorKind::Undefined { .. })
    }

    /// The failing line's origin: that of the text, moved down by the lines passed within it.
    pub(super) fn located(mut self, origin: Option<&Arc<Origin>>) -> TemplateError {
        if self.origin.is_none()
            && let Some(origin) = origin
        {
            self.origin = Some(if self.line > 1 {
                Arc::new(Origin { line: origin.line + self.line - 1, column: 1, file: origin.file.clone() })
            } else {
                origin.clone()
            });
        }
        self
    }

    /// The same, said of what the value was wanted for.
    #[must_use]
    pub fn wanted_for(mut self, purpose: impl Into<String>) -> TemplateError {
        self.purpose = Some(Box::new(Purpose { what: purpose.into(), inner: self.purpose.take() }));
        self
    }

    /// What a task says that fails for it: what the value was wanted for, which kind of failure it is, and the
    /// message. These are the words that playbooks look for in `msg`.
    pub fn told(&self) -> String {
        let kind = match (&self.kind, self.in_expression) {
            (TemplateErrorKind::Syntax, false) => "Syntax error in template: ",
            (TemplateErrorKind::Syntax, true) => "Syntax error in expression: ",
            (TemplateErrorKind::Runtime, false) => "Error rendering template: ",
            (TemplateErrorKind::Runtime, true) => "Error rendering expression: ",
            _ => "",
        };
        let outermost = self.purpose.as_deref();
        let purposes = std::iter::successors(outermost, |purpose| purpose.inner.as_deref());
        let purposes: String = purposes.map(|purpose| format!("{}: ", purpose.what)).collect();
        format!("{purposes}{kind}{}", self.message)
    }

    pub(super) fn context(mut self, text: impl Into<String>) -> TemplateError {
        self.chain.push(text.into());
        self
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for context in self.chain.iter().rev() {
            write!(f, "{context}: ")?;
        }
        f.write_str(&self.message)?;
        if self.origin.is_none() && self.line > 1 {
            write!(f, " (line {})", self.line)?;
        }
        Ok(())
    }
}

impl std::error::Error for TemplateError {}
