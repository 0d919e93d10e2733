//! Host patterns: `web:&prod:!web3`, `db[0:1]`, `*.example.com`, `~web\d+`.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::names::{self, LOCALHOST};
use super::{Host, Inventory};
use crate::diagnostic::{Diagnostic, did_you_mean};

/// The hosts that a pattern selects.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Their names, in order, none twice.
    pub hosts: Vec<Arc<str>>,
    /// Parts of the pattern that match nothing.
    pub warnings: Vec<Diagnostic>,
}

impl Inventory {
    /// The hosts that a pattern selects, and, with a limit, the limit selects too.
    ///
    /// # Errors
    /// The pattern is malformed, its index is out of range, or the limit's file can't be read.
    pub fn select(&self, pattern: &str, limit: Option<&str>) -> Result<Selection, Diagnostic> {
        self.select_all(&[pattern], limit)
    }

    /// The same as [`Inventory::select`] for the patterns of a list.
    ///
    /// # Errors
    /// As [`Inventory::select`].
    pub fn select_all(&self, patterns: &[&str], limit: Option<&str>) -> Result<Selection, Diagnostic> {
        let mut warnings = Vec::new();
        let patterns: Vec<String> = patterns.iter().flat_map(|pattern| split(pattern)).collect();
        let mut hosts = self.evaluate(&patterns, &mut warnings)?;
        if let Some(limit) = limit {
            let limit = limit_patterns(limit)?;
            if !limit.is_empty() {
                let allowed: HashSet<&str> = self
                    .evaluate(&limit, &mut warnings)?
                    .into_iter()
                    .map(|host| host.name.as_ref())
                    .collect();
                hosts.retain(|host| allowed.contains(host.name.as_ref()));
            }
        }
        Ok(Selection { hosts: hosts.into_iter().map(|host| Arc::clone(&host.name)).collect(), warnings })
    }

    /// First what is named, then what must be in it too (`&`), then what must not (`!`), wherever they stand.
    fn evaluate(
        &self,
        patterns: &[String],
        warnings: &mut Vec<Diagnostic>,
    ) -> Result<Vec<&Host>, Diagnostic> {
        let with = |prefix: char| patterns.iter().filter(move |pattern| pattern.starts_with(prefix));
        let plain: Vec<&str> = patterns
            .iter()
            .map(String::as_str)
            .filter(|pattern| !pattern.is_empty() && !pattern.starts_with(['&', '!']))
            .collect();
        let plain = if plain.is_empty() { vec!["all"] } else { plain };
        let mut seen: HashSet<&str> = HashSet::new();
        let mut hosts: Vec<&Host> = Vec::new();
        for pattern in plain {
            for host in self.matching(pattern, warnings)? {
                if seen.insert(host.name.as_ref()) {
                    hosts.push(host);
                }
            }
        }
        for (prefix, keep) in [('&', true), ('!', false)] {
            for pattern in with(prefix) {
                let pattern = &pattern[1..];
                if pattern.is_empty() {
                    return Err(Diagnostic::error(format!(
                        "there is nothing behind the '{prefix}' of the host pattern"
                    )));
                }
                let named: HashSet<&str> =
                    self.matching(pattern, warnings)?.into_iter().map(|host| host.name.as_ref()).collect();
                hosts.retain(|host| named.contains(host.name.as_ref()) == keep);
            }
        }
        Ok(hosts)
    }

    /// The hosts of one pattern without prefix.
    fn matching(&self, pattern: &str, warnings: &mut Vec<Diagnostic>) -> Result<Vec<&Host>, Diagnostic> {
        if let Some(id) = self.host_ids.get(pattern) {
            return Ok(vec![&self.hosts[*id]]);
        }
        let (base, subscript) =
            if pattern.starts_with('~') { (pattern, None) } else { split_subscript(pattern) };
        let hosts = self.matching_names(base, warnings)?;
        let Some(subscript) = subscript.filter(|_| !hosts.is_empty()) else { return Ok(hosts) };
        subscript.apply(&hosts).ok_or_else(|| {
            Diagnostic::error(format!("no host matches '{pattern}': '{base}' has only {}", hosts.len()))
        })
    }

    fn matching_names(
        &self,
        pattern: &str,
        warnings: &mut Vec<Diagnostic>,
    ) -> Result<Vec<&Host>, Diagnostic> {
        let matcher = Matcher::new(pattern)?;
        let mut seen: HashSet<usize> = HashSet::new();
        let mut ids: Vec<usize> = Vec::new();
        let mut group_matched = false;
        for group in self.groups_matching(&matcher) {
            group_matched = true;
            ids.extend(self.hosts_of(group).into_iter().filter(|host| seen.insert(*host)));
        }
        if !group_matched || pattern.starts_with('~') || pattern.contains(['.', '?', '*', '[']) {
            let named = self.hosts.iter().enumerate().filter(|(_, host)| matcher.matches(&host.name));
            ids.extend(named.map(|(id, _)| id).filter(|id| seen.insert(*id)));
        }
        let mut hosts: Vec<&Host> = ids.into_iter().map(|id| &self.hosts[id]).collect();
        if hosts.is_empty() && LOCALHOST.contains(&pattern) {
            hosts.extend(self.host(pattern));
        }
        if hosts.is_empty() && !group_matched && pattern != "all" {
            warnings.push(self.no_match(pattern));
        }
        Ok(hosts)
    }

    fn groups_matching(&self, matcher: &Matcher) -> Vec<usize> {
        match matcher {
            Matcher::Name(name) => self.group_ids.get(name.as_str()).copied().into_iter().collect(),
            _ => (0..self.groups.len()).filter(|id| matcher.matches(&self.groups[*id].name)).collect(),
        }
    }

    fn no_match(&self, pattern: &str) -> Diagnostic {
        let problem = Diagnostic::warning(format!("no host or group matches '{pattern}'"));
        let names = self.groups.iter().map(|group| group.name.as_ref());
        let names = names.chain(self.hosts.iter().map(|host| host.name.as_ref()));
        match did_you_mean(pattern, names) {
            Some(meant) => problem.hint(format!("did you mean '{meant}'?")),
            None => problem,
        }
    }
}

/// Splits at commas; without one, at colons, unless the whole is one address or range.
pub(super) fn split(pattern: &str) -> Vec<String> {
    let parts: Vec<String> = if pattern.contains(',') {
        pattern.split(',').map(|part| part.trim().to_owned()).collect()
    } else if names::address(pattern).is_some() {
        vec![pattern.trim().to_owned()]
    } else {
        split_at_colons(pattern)
    };
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}

/// Splits at colons and white space that are not inside brackets.
fn split_at_colons(pattern: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = pattern;
    while let Some(character) = rest.chars().next() {
        let mut length = character.len_utf8();
        if character == '['
            && let Some(end) = rest.find(']')
        {
            length = end + 1;
        }
        if character == ':' || character.is_whitespace() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push_str(&rest[..length]);
        }
        rest = &rest[length..];
    }
    parts
}

/// The patterns of a limit; `@file` stands for the file's lines.
fn limit_patterns(limit: &str) -> Result<Vec<String>, Diagnostic> {
    let mut patterns = Vec::new();
    for part in split(limit) {
        match part.strip_prefix('@') {
            Some(file) => {
                let text = std::fs::read_to_string(super::load::expand_home(file)).map_err(|error| {
                    Diagnostic::error(format!(
                        "can't read the limit file {}: {error}",
                        Path::new(file).display()
                    ))
                })?;
                patterns
                    .extend(text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()));
            }
            None => patterns.push(part),
        }
    }
    Ok(patterns)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Subscript {
    /// `[n]`; negative counts from the end.
    Index(i64),
    /// `[from:to]`, both included; without `to` up to the end.
    Range(usize, Option<usize>),
}

impl Subscript {
    /// The part of the hosts; `None` if the index is out of range.
    fn apply<'h>(self, hosts: &[&'h Host]) -> Option<Vec<&'h Host>> {
        match self {
            Subscript::Index(index) => {
                let index = usize::try_from(index)
                    .ok()
                    .or_else(|| hosts.len().checked_sub(usize::try_from(index.unsigned_abs()).ok()?))?;
                hosts.get(index).map(|host| vec![*host])
            }
            Subscript::Range(from, to) => {
                // `[n:0]` is `[n]`.
                if to == Some(0) {
                    return hosts.get(from).map(|host| vec![*host]);
                }
                let to = to.unwrap_or(usize::MAX - 1).min(hosts.len() - 1);
                Some(hosts.iter().take(to + 1).skip(from).copied().collect())
            }
        }
    }
}

/// `name[1]` and `name[1:3]`.
fn split_subscript(pattern: &str) -> (&str, Option<Subscript>) {
    let split = || {
        let (base, inside) = pattern.strip_suffix(']')?.rsplit_once('[')?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if base.is_empty() {
            return None;
        }
        if digits(inside.strip_prefix('-').unwrap_or(inside)) {
            return Some((base, Subscript::Index(inside.parse().ok()?)));
        }
        let (from, to) = inside.split_once([':', '-'])?;
        if !digits(from) || !(to.is_empty() || digits(to)) {
            return None;
        }
        let to = if to.is_empty() { None } else { Some(to.parse().ok()?) };
        Some((base, Subscript::Range(from.parse().ok()?, to)))
    };
    match split() {
        Some((base, subscript)) => (base, Some(subscript)),
        None => (pattern, None),
    }
}

/// What a name is compared with.
enum Matcher {
    Name(String),
    Glob(Vec<Glob>),
    Regex(Box<fancy_regex::Regex>),
}

impl Matcher {
    fn new(pattern: &str) -> Result<Matcher, Diagnostic> {
        if let Some(regex) = pattern.strip_prefix('~') {
            let regex = fancy_regex::Regex::new(&format!("\\A(?:{regex})")).map_err(|error| {
                Diagnostic::error(format!("the host pattern '{pattern}' isn't a regular expression: {error}"))
            })?;
            return Ok(Matcher::Regex(Box::new(regex)));
        }
        if pattern.contains(['*', '?', '[']) {
            return Ok(Matcher::Glob(globs(pattern)));
        }
        Ok(Matcher::Name(pattern.to_owned()))
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Matcher::Name(expected) => expected == name,
            Matcher::Glob(globs) => glob_matches(globs, &name.chars().collect::<Vec<_>>()),
            Matcher::Regex(regex) => regex.is_match(name).unwrap_or(false),
        }
    }
}

enum Glob {
    Any,
    Many,
    One(char),
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// The parts of a shell pattern, as Python's `fnmatch` reads it.
fn globs(pattern: &str) -> Vec<Glob> {
    let characters: Vec<char> = pattern.chars().collect();
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(character) = characters.get(at) {
        at += 1;
        match character {
            '*' => {
                if !matches!(out.last(), Some(Glob::Many)) {
                    out.push(Glob::Many);
                }
            }
            '?' => out.push(Glob::Any),
            '[' => match class(&characters[at..]) {
                Some((class, length)) => {
                    out.push(class);
                    at += length;
                }
                None => out.push(Glob::One('[')),
            },
            other => out.push(Glob::One(*other)),
        }
    }
    out
}

/// A character class, from behind its bracket; with its length, the closing bracket included.
fn class(characters: &[char]) -> Option<(Glob, usize)> {
    let negated = characters.first() == Some(&'!');
    let start = usize::from(negated);
    // A bracket right at the start is one of the characters.
    let end = (start + 1..characters.len()).find(|at| characters[*at] == ']')?;
    let members = &characters[start..end];
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Some(first) = members.get(at) {
        if members.get(at + 1) == Some(&'-') && at + 2 < members.len() {
            ranges.push((*first, members[at + 2]));
            at += 3;
        } else {
            ranges.push((*first, *first));
            at += 1;
        }
    }
    Some((Glob::Class { negated, ranges }, end + 1))
}

/// Whether a name fits, in time that grows with the product of the lengths at most.
fn glob_matches(globs: &[Glob], name: &[char]) -> bool {
    let (mut glob, mut at) = (0, 0);
    // Where to go on if the last `*` takes one more character.
    let mut retry: Option<(usize, usize)> = None;
    while at < name.len() {
        let fits = match globs.get(glob) {
            Some(Glob::Many) => {
                retry = Some((glob + 1, at));
                glob += 1;
                continue;
            }
            Some(Glob::Any) => true,
            Some(Glob::One(character)) => *character == name[at],
            Some(Glob::Class { negated, ranges }) => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&name[at])) != *negated
            }
            None => false,
        };
        if fits {
            glob += 1;
            at += 1;
        } else if let Some((after, from)) = retry {
            retry = Some((after, from + 1));
            glob = after;
            at = from + 1;
        } else {
            return false;
        }
    }
    globs[glob..].iter().all(|glob| matches!(glob, Glob::Many))
}
