//! Tests: what may follow `is`.

use std::cmp::Ordering;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use minijinja::value::Value as V;

use super::error::{TemplateError, TemplateErrorKind};
use super::filters::regex;
use super::object::{Py, R, check, is_marker, is_unsealed, iterate, py, type_name};
use super::ops::{self, Num, number};
use super::registry::{self, Call, Function, function, lenient};
use super::special::{Cycler, FunctionObject, Joiner};

pub(super) const TABLE: &[Function] = &[
    // --- Jinja2 ---
    lenient("defined", "value", |call| is_defined(call, true)),
    lenient("undefined", "value", |call| is_defined(call, false)),
    function("none", "value", |call| Ok(V::from(call.input().is_none()))),
    function("boolean", "value", |call| kind(call, |value| matches!(value, Py::Bool(_)))),
    function("true", "value", |call| kind(call, |value| matches!(value, Py::Bool(true)))),
    function("false", "value", |call| kind(call, |value| matches!(value, Py::Bool(false)))),
    function("integer", "value", |call| kind(call, |value| matches!(value, Py::Int(_)))),
    function("float", "value", |call| kind(call, |value| matches!(value, Py::Float(_)))),
    function("number", "value", |call| kind(call, |v| matches!(v, Py::Int(_) | Py::Float(_) | Py::Bool(_)))),
    function("string", "value", |call| kind(call, |value| matches!(value, Py::Str(_)))),
    function("mapping", "value", |call| kind(call, |value| matches!(value, Py::Dict(_)))),
    function("iterable", "value", |call| Ok(V::from(iterate(&call.input()).is_ok()))),
    function("sequence", "value", |call| {
        let input = call.input();
        Ok(V::from(match py(&input) {
            Py::List(_) | Py::Dict(_) | Py::Str(_) => true,
            Py::Other => super::special::iterate(&input).is_some(),
            _ => false,
        }))
    }),
    function("callable", "value", |call| {
        let input = call.input();
        Ok(V::from(
            input.downcast_object_ref::<FunctionObject>().is_some()
                || input.downcast_object_ref::<super::run::MacroObject>().is_some()
                || input.downcast_object_ref::<Joiner>().is_some()
                || input.downcast_object_ref::<Cycler>().is_some(),
        ))
    }),
    function("sameas", "value other", |call| same(&call.input(), &call.arg(1).unwrap_or_default())),
    function("escaped", "value", |_| Ok(V::from(false))),
    function("lower", "value", |call| {
        let text = call.text(0)?;
        Ok(V::from(text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)))
    }),
    function("upper", "value", |call| {
        let text = call.text(0)?;
        Ok(V::from(text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)))
    }),
    function("odd", "value", |call| remainder(call, 2).map(|rest| V::from(rest == 1))),
    function("even", "value", |call| remainder(call, 2).map(|rest| V::from(rest == 0))),
    function("divisibleby", "value num", |call| {
        let by = call.int(1)?.unwrap_or(0);
        if by == 0 {
            return Err(TemplateError::runtime("integer modulo by zero"));
        }
        remainder(call, i128::from(by)).map(|rest| V::from(rest == 0))
    }),
    function("eq", "a b", |call| compare(call, "==")),
    function("equalto", "a b", |call| compare(call, "==")),
    function("==", "a b", |call| compare(call, "==")),
    function("ne", "a b", |call| compare(call, "!=")),
    function("!=", "a b", |call| compare(call, "!=")),
    function("lt", "a b", |call| compare(call, "<")),
    function("lessthan", "a b", |call| compare(call, "<")),
    function("<", "a b", |call| compare(call, "<")),
    function("le", "a b", |call| compare(call, "<=")),
    function("<=", "a b", |call| compare(call, "<=")),
    function("gt", "a b", |call| compare(call, ">")),
    function("greaterthan", "a b", |call| compare(call, ">")),
    function(">", "a b", |call| compare(call, ">")),
    function("ge", "a b", |call| compare(call, ">=")),
    function(">=", "a b", |call| compare(call, ">=")),
    function("in", "value seq", |call| compare(call, "in")),
    function("filter", "value", |call| Ok(V::from(registry::filter(&call.text(0)?).is_some()))),
    function("test", "value", |call| Ok(V::from(registry::test(&call.text(0)?).is_some()))),
    // --- results of tasks ---
    function("failed", "result", |call| result_flag(call, "failed")),
    function("failure", "result", |call| result_flag(call, "failed")),
    function("succeeded", "result", |call| negated(result_flag(call, "failed"))),
    function("success", "result", |call| negated(result_flag(call, "failed"))),
    function("successful", "result", |call| negated(result_flag(call, "failed"))),
    function("unreachable", "result", |call| result_flag(call, "unreachable")),
    function("reachable", "result", |call| negated(result_flag(call, "unreachable"))),
    function("skipped", "result", |call| result_flag(call, "skipped")),
    function("skip", "result", |call| result_flag(call, "skipped")),
    function("changed", "result", changed),
    function("change", "result", changed),
    function("started", "result", |call| async_flag(call, "started")),
    function("finished", "result", |call| async_flag(call, "finished")),
    function("timedout", "result", |call| {
        result_of(call, "timedout")?;
        let timed_out = ops::attribute(&call.input(), "timedout")?;
        if is_marker(&timed_out) || !ops::truth(&timed_out)? {
            return Ok(V::from(false));
        }
        let period = ops::attribute(&timed_out, "period")?;
        Ok(V::from(!is_marker(&period) && ops::truth(&period)?))
    }),
    // --- text ---
    function("match", "value pattern? ignorecase? multiline?", |call| matches(call, "match")),
    function("search", "value pattern? ignorecase? multiline?", |call| matches(call, "search")),
    function("regex", "value pattern? ignorecase? multiline? match_type?", |call| {
        let how = call.text_or(4, "search")?;
        matches(call, &how)
    }),
    function("version", "value version operator? strict? version_type?", version),
    function("version_compare", "value version operator? strict? version_type?", version),
    lenient("vault_encrypted", "value", vaulted),
    lenient("ansible._protomatter.tagged_with", "value tag_name", |call| match call.text(1)?.as_str() {
        "VaultedValue" => vaulted(call),
        other => Err(TemplateError::runtime(format!("the tag {other:?} is not known here; VaultedValue is"))),
    }),
    function("vaulted_file", "value", |call| {
        let path = call.text(0)?;
        let content = std::fs::read(&path).map_err(|error| {
            TemplateError::runtime(format!("Cannot test if the file '{path}' is a vault: {error}"))
        })?;
        Ok(V::from(content.starts_with(b"$ANSIBLE_VAULT")))
    }),
    function("uri", "value schemes?", |call| uri(call).map(V::from)),
    function("url", "value schemes?", |call| url(call).map(V::from)),
    function("urn", "value", |call| Ok(V::from(call.text(0)?.to_lowercase().starts_with("urn:")))),
    // --- truth and sets ---
    function("truthy", "value convert_bool?", |call| truthy(call).map(V::from)),
    function("falsy", "value convert_bool?", |call| truthy(call).map(|truth| V::from(!truth))),
    function("all", "value", |call| {
        for item in call.items()? {
            if !ops::truth(&item)? {
                return Ok(V::from(false));
            }
        }
        Ok(V::from(true))
    }),
    function("any", "value", |call| {
        for item in call.items()? {
            if ops::truth(&item)? {
                return Ok(V::from(true));
            }
        }
        Ok(V::from(false))
    }),
    function("contains", "seq value", |call| {
        ops::contains(&call.input(), &call.arg(1).unwrap_or_default()).map(V::from)
    }),
    function("subset", "a b", |call| within(&call.items()?, &call.arg(1).unwrap_or_default())),
    function("issubset", "a b", |call| within(&call.items()?, &call.arg(1).unwrap_or_default())),
    function("superset", "a b", |call| within(&iterate(&call.arg(1).unwrap_or_default())?, &call.input())),
    function("issuperset", "a b", |call| within(&iterate(&call.arg(1).unwrap_or_default())?, &call.input())),
    function("nan", "value", |call| {
        Ok(V::from(matches!(number(&call.input()), Some(Num::Float(value)) if value.is_nan())))
    }),
    function("isnan", "value", |call| {
        Ok(V::from(matches!(number(&call.input()), Some(Num::Float(value)) if value.is_nan())))
    }),
    // --- files on the controller ---
    function("file", "value", |call| on_path(call, Path::is_file)),
    function("is_file", "value", |call| on_path(call, Path::is_file)),
    function("directory", "value", |call| on_path(call, Path::is_dir)),
    function("is_dir", "value", |call| on_path(call, Path::is_dir)),
    function("link", "value", |call| on_path(call, Path::is_symlink)),
    function("is_link", "value", |call| on_path(call, Path::is_symlink)),
    function("islink", "value", |call| on_path(call, Path::is_symlink)),
    function("exists", "value", |call| on_path(call, Path::exists)),
    function("link_exists", "value", |call| on_path(call, |path| path.symlink_metadata().is_ok())),
    function("abs", "value", |call| on_path(call, Path::is_absolute)),
    function("is_abs", "value", |call| on_path(call, Path::is_absolute)),
    function("same_file", "a b", same_file),
    function("is_same_file", "a b", same_file),
    function("mount", "value", |call| on_path(call, is_mount)),
    function("is_mount", "value", |call| on_path(call, is_mount)),
    // --- addresses ---
    function("ipv4", "value", |call| Ok(V::from(call.text(0)?.parse::<std::net::Ipv4Addr>().is_ok()))),
    function("ipv6", "value", |call| Ok(V::from(call.text(0)?.parse::<std::net::Ipv6Addr>().is_ok()))),
    function("ip", "value", |call| Ok(V::from(call.text(0)?.parse::<std::net::IpAddr>().is_ok()))),
    function("ip_address", "value", |call| Ok(V::from(call.text(0)?.parse::<std::net::IpAddr>().is_ok()))),
];

fn kind(call: &mut Call, test: fn(&Py<'_>) -> bool) -> R {
    Ok(V::from(test(&py(&call.input()))))
}

fn negated(result: R) -> R {
    result.map(|value| V::from(!value.is_true()))
}

fn is_defined(call: &mut Call, wanted: bool) -> R {
    let input = call.input();
    if input.downcast_object_ref::<super::special::Blank>().is_some() {
        return Ok(V::from(!wanted));
    }
    match check(&input) {
        Ok(()) => Ok(V::from(wanted)),
        Err(error) if error.is_undefined() => Ok(V::from(!wanted)),
        Err(_) => Ok(input),
    }
}

fn same(a: &V, b: &V) -> R {
    Ok(V::from(match (py(a), py(b)) {
        (Py::List(a), Py::List(b)) => std::ptr::eq(a, b),
        (Py::Dict(a), Py::Dict(b)) => std::ptr::eq(a, b),
        (Py::Other, Py::Other) => a == b,
        (Py::List(_) | Py::Dict(_) | Py::Other, _) | (_, Py::List(_) | Py::Dict(_) | Py::Other) => false,
        _ => type_name(a) == type_name(b) && ops::equal(a, b)?,
    }))
}

fn remainder(call: &Call, by: i128) -> R<i128> {
    match number(&call.input()) {
        Some(Num::Int(value)) => Ok(value.rem_euclid(by)),
        #[expect(clippy::cast_possible_truncation, reason = "only whole floats can be odd or even")]
        Some(Num::Float(value)) if value.fract() == 0.0 => Ok((value as i128).rem_euclid(by)),
        Some(Num::Float(_)) => Ok(-1),
        None => Err(TemplateError::runtime("not all arguments converted during string formatting")),
    }
}

fn compare(call: &mut Call, op: &str) -> R {
    ops::compare(op, &call.input(), &call.arg(1).unwrap_or_default()).map(V::from)
}

fn result_of(call: &Call, test: &str) -> R<()> {
    match py(&call.input()) {
        Py::Dict(_) => Ok(()),
        _ => Err(TemplateError::runtime(format!("The '{test}' test expects a dictionary"))),
    }
}

fn result_flag(call: &mut Call, key: &str) -> R {
    result_of(call, key)?;
    let input = call.input();
    let Py::Dict(result) = py(&input) else { return Ok(V::from(false)) };
    Ok(V::from(match result.get_str(key)? {
        Some(value) => ops::truth(&value)?,
        None => false,
    }))
}

fn async_flag(call: &mut Call, key: &str) -> R {
    result_of(call, key)?;
    let input = call.input();
    let Py::Dict(result) = py(&input) else { return Ok(V::from(true)) };
    Ok(V::from(match result.get_str(key)? {
        Some(value) => ops::truth(&value)?,
        None => true,
    }))
}

fn changed(call: &mut Call) -> R {
    result_of(call, "changed")?;
    let input = call.input();
    let Py::Dict(result) = py(&input) else { return Ok(V::from(false)) };
    if let Some(value) = result.get_str("changed")? {
        return ops::truth(&value).map(V::from);
    }
    if let Some(results) = result.get_str("results")?
        && let Py::List(results) = py(&results)
    {
        for item in results.to_vec()? {
            if let Py::Dict(item) = py(&item)
                && let Some(value) = item.get_str("changed")?
                && ops::truth(&value)?
            {
                return Ok(V::from(true));
            }
        }
    }
    Ok(V::from(false))
}

fn matches(call: &mut Call, how: &str) -> R {
    let text = call.text(0)?;
    let pattern = call.text_or(1, "")?;
    let (ignore_case, multi_line) = (call.flag(2, false)?, call.flag(3, false)?);
    let pattern = match how {
        "match" => format!("\\A(?:{pattern})"),
        "fullmatch" => format!("\\A(?:{pattern})\\Z"),
        _ => pattern,
    };
    // Flags must come first in Python's dialect, even behind our anchor.
    let pattern = hoist_flags(&pattern);
    let regex = regex::compile(&pattern, ignore_case, multi_line)?;
    regex
        .is_match(&text)
        .map(V::from)
        .map_err(|error| TemplateError::runtime(format!("the regular expression failed: {error}")))
}

/// Moves `(?i)` from within our group to the front.
fn hoist_flags(pattern: &str) -> String {
    if let Some(rest) = pattern.strip_prefix("\\A(?:(?")
        && let Some(end) = rest.find(')')
        && rest[..end].chars().all(|c| c.is_ascii_lowercase())
        && end > 0
    {
        return format!("(?{})\\A(?:{}", &rest[..end], &rest[end + 1..]);
    }
    pattern.to_owned()
}

/// A part of a version as `LooseVersion` sees it.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(super) enum Part {
    Number(u128),
    Word(String),
}

pub(super) fn loose(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if first.is_ascii_digit() {
            rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())
        } else if first.is_ascii_lowercase() {
            rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len())
        } else if first == '.' {
            rest = &rest[1..];
            continue;
        } else {
            rest.find(|c: char| c.is_ascii_digit() || c.is_ascii_lowercase() || c == '.')
                .unwrap_or(rest.len())
        };
        let (part, tail) = rest.split_at(length);
        parts.push(part.parse().map_or_else(|_| Part::Word(part.to_owned()), Part::Number));
        rest = tail;
    }
    parts
}

pub(super) fn compare_loose(a: &[Part], b: &[Part]) -> R<Ordering> {
    for (a, b) in a.iter().zip(b) {
        let order = match (a, b) {
            (Part::Number(a), Part::Number(b)) => a.cmp(b),
            (Part::Word(a), Part::Word(b)) => a.cmp(b),
            (Part::Number(_), Part::Word(_)) => {
                return Err(TemplateError::runtime("'<' not supported between instances of 'int' and 'str'"));
            }
            (Part::Word(_), Part::Number(_)) => {
                return Err(TemplateError::runtime("'<' not supported between instances of 'str' and 'int'"));
            }
        };
        if order != Ordering::Equal {
            return Ok(order);
        }
    }
    Ok(a.len().cmp(&b.len()))
}

/// Whether a string came from a vault, also if it can't be decrypted, or is a vault.
fn vaulted(call: &mut Call) -> R {
    let input = call.input();
    match check(&input) {
        Err(TemplateError { kind: TemplateErrorKind::Vault { .. }, .. }) => Ok(V::from(true)),
        Err(error) => Err(error),
        Ok(()) => Ok(V::from(is_unsealed(&input))),
    }
}

/// How versions can be compared.
const OPERATORS: [&str; 14] =
    ["==", "=", "eq", "<", "lt", "<=", "le", ">", "gt", ">=", "ge", "!=", "<>", "ne"];

fn version(call: &mut Call) -> R {
    let (value, other) = (call.input(), call.arg(1).unwrap_or_default());
    if !ops::truth(&value)? {
        return Err(TemplateError::runtime("Input version value cannot be empty"));
    }
    if !ops::truth(&other)? {
        return Err(TemplateError::runtime("Version parameter to compare against cannot be empty"));
    }
    let strict = call.some(3).map(|strict| ops::truth(&strict)).transpose()?;
    let scheme = call.some(4).map(|scheme| ops::to_text(&scheme)).transpose()?;
    if strict.is_some() && scheme.is_some() {
        return Err(TemplateError::runtime("Cannot specify both 'strict' and 'version_type'"));
    }
    let (a, b) = (ops::to_text(&value)?, ops::to_text(&other)?);
    let failed = |message: String| TemplateError::runtime(format!("Version comparison failed: {message}"));
    let scheme =
        scheme.unwrap_or_else(|| if strict == Some(true) { "strict".into() } else { "loose".into() });
    let operator = call.text_or(2, "eq")?;
    if !OPERATORS.contains(&operator.as_str()) {
        let known: Vec<_> = OPERATORS.iter().map(|known| format!("'{known}'")).collect();
        return Err(TemplateError::runtime(format!(
            "Invalid operator type ({operator}). Must be one of {}",
            known.join(", ")
        )));
    }
    let equal_only = matches!(operator.as_str(), "==" | "=" | "eq" | "!=" | "<>" | "ne");
    let order = match scheme.as_str() {
        "loose" => {
            let (a, b) = (loose(&a), loose(&b));
            if a == b {
                Ordering::Equal
            } else {
                match compare_loose(&a, &b) {
                    Ok(order) => order,
                    Err(_) if equal_only => Ordering::Less,
                    Err(error) => return Err(failed(error.message)),
                }
            }
        }
        "strict" => strict_version(&a).map_err(failed)?.cmp(&strict_version(&b).map_err(failed)?),
        "semver" | "semantic" => compare_semver(&semver(&a).map_err(failed)?, &semver(&b).map_err(failed)?),
        "pep440" => pep440(&a).map_err(failed)?.cmp(&pep440(&b).map_err(failed)?),
        other => {
            return Err(TemplateError::runtime(format!(
                "Invalid version type ({other}). Must be one of 'loose', 'strict', 'semver', 'semantic', 'pep440'"
            )));
        }
    };
    Ok(V::from(match operator.as_str() {
        "==" | "=" | "eq" => order == Ordering::Equal,
        "<" | "lt" => order == Ordering::Less,
        "<=" | "le" => order != Ordering::Greater,
        ">" | "gt" => order == Ordering::Greater,
        ">=" | "ge" => order != Ordering::Less,
        "!=" | "<>" | "ne" => order != Ordering::Equal,
        other => {
            return Err(TemplateError::runtime(format!(
                "Invalid operator type ({other}). Must be one of '==', '=', 'eq', '<', 'lt', '<=', 'le', '>', 'gt', '>=', 'ge', '!=', '<>', 'ne'"
            )));
        }
    }))
}

type Strict = (u64, u64, u64, u8, char, u64);

/// `1.2`, `1.2.3`, `1.2a1`, `1.2.3b2`
fn strict_version(text: &str) -> Result<Strict, String> {
    let wrong = || format!("invalid version number '{text}'");
    let (numbers, tag) = match text.find(['a', 'b']) {
        Some(at) => (&text[..at], Some((text[at..].chars().next().unwrap_or('a'), &text[at + 1..]))),
        None => (text, None),
    };
    let parts = numbers
        .split('.')
        .map(|part| part.parse::<u64>().map_err(|_| wrong()))
        .collect::<Result<Vec<_>, _>>()?;
    let (major, minor, patch) = match parts.as_slice() {
        [major, minor] => (*major, *minor, 0),
        [major, minor, patch] => (*major, *minor, *patch),
        _ => return Err(wrong()),
    };
    match tag {
        None => Ok((major, minor, patch, 1, 'z', 0)),
        Some((letter, number)) => Ok((major, minor, patch, 0, letter, number.parse().map_err(|_| wrong())?)),
    }
}

struct Semver {
    core: [u64; 3],
    pre: Vec<String>,
}

fn semver(text: &str) -> Result<Semver, String> {
    let wrong = || format!("invalid semantic version '{text}'");
    let without_build = text.split('+').next().unwrap_or(text);
    let (core, pre) = match without_build.split_once('-') {
        Some((core, pre)) => (core, pre.split('.').map(ToOwned::to_owned).collect()),
        None => (without_build, Vec::new()),
    };
    let numbers = core
        .split('.')
        .map(|part| {
            let leading_zero = part.len() > 1 && part.starts_with('0');
            if leading_zero { Err(wrong()) } else { part.parse::<u64>().map_err(|_| wrong()) }
        })
        .collect::<Result<Vec<_>, _>>()?;
    let core: [u64; 3] = numbers.try_into().map_err(|_| wrong())?;
    Ok(Semver { core, pre })
}

fn compare_semver(a: &Semver, b: &Semver) -> Ordering {
    a.core.cmp(&b.core).then_with(|| match (a.pre.is_empty(), b.pre.is_empty()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => {
            for (a, b) in a.pre.iter().zip(&b.pre) {
                let order = match (a.parse::<u64>(), b.parse::<u64>()) {
                    (Ok(a), Ok(b)) => a.cmp(&b),
                    (Ok(_), Err(_)) => Ordering::Less,
                    (Err(_), Ok(_)) => Ordering::Greater,
                    (Err(_), Err(_)) => a.cmp(b),
                };
                if order != Ordering::Equal {
                    return order;
                }
            }
            a.pre.len().cmp(&b.pre.len())
        }
    })
}

/// The sort key of a Python package version: epoch, release, pre, post, dev, local.
type Pep440 = (u64, Vec<u64>, (u8, u64), (u8, u64), (u8, u64), Vec<(u8, u64, String)>);

fn pep440(text: &str) -> Result<Pep440, String> {
    let wrong = || format!("Invalid version: '{text}'");
    let pattern = r"(?i)^\s*v?(?:(\d+)!)?(\d+(?:\.\d+)*)(?:[-_.]?(alpha|a|beta|b|preview|pre|c|rc)[-_.]?(\d*))?(?:-(\d+)|[-_.]?(post|rev|r)[-_.]?(\d*))?(?:[-_.]?(dev)[-_.]?(\d*))?(?:\+([a-z0-9]+(?:[-_.][a-z0-9]+)*))?\s*$";
    let regex = regex::compile(pattern, false, false).map_err(|error| error.message)?;
    let captures = regex.captures(text).ok().flatten().ok_or_else(wrong)?;
    let group = |index: usize| captures.get(index).map(|found| found.as_str().to_lowercase());
    let number = |index: usize| group(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let mut release: Vec<u64> =
        group(2).unwrap_or_default().split('.').filter_map(|part| part.parse().ok()).collect();
    while release.len() > 1 && release.last() == Some(&0) {
        release.pop();
    }
    let has_post = group(5).is_some() || group(6).is_some();
    let has_dev = group(8).is_some();
    let pre = match group(3).as_deref() {
        Some("alpha" | "a") => (1, number(4)),
        Some("beta" | "b") => (2, number(4)),
        Some(_) => (3, number(4)),
        None if !has_post && has_dev => (0, 0),
        None => (4, 0),
    };
    let post = if has_post { (1, if group(5).is_some() { number(5) } else { number(7) }) } else { (0, 0) };
    let dev = if has_dev { (0, number(9)) } else { (1, 0) };
    let local = group(10)
        .map(|local| {
            local
                .split(['-', '_', '.'])
                .map(|part| {
                    part.parse::<u64>().map_or_else(|_| (0, 0, part.to_owned()), |n| (1, n, String::new()))
                })
                .collect()
        })
        .unwrap_or_default();
    Ok((number(1), release, pre, post, dev, local))
}

fn truthy(call: &mut Call) -> R<bool> {
    let input = call.input();
    if call.flag(1, false)?
        && let Ok(value) = super::object::lower(&input)
        && let Some(truth) = value.to_bool()
    {
        return Ok(truth);
    }
    ops::truth(&input)
}

fn within(items: &[V], container: &V) -> R {
    let all = super::object::list(iterate(container)?);
    for item in items {
        if !ops::contains(&all, item)? {
            return Ok(V::from(false));
        }
    }
    Ok(V::from(true))
}

/// A URI's scheme, and whether it names a host; as lenient as the usual parsers of URLs.
fn uri_parts(text: &str) -> (String, bool) {
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    let (scheme, rest) = match text.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => (scheme.to_ascii_lowercase(), rest),
        _ => (String::new(), text),
    };
    let host = rest.strip_prefix("//").map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    (scheme, host.is_some_and(|host| !host.is_empty()))
}

/// Any text can be a URI; only a list of schemes narrows it.
fn uri(call: &mut Call) -> R<bool> {
    let (scheme, _) = uri_parts(&call.text(0)?);
    match call.some(1) {
        Some(schemes) => ops::contains(&schemes, &V::from(scheme)),
        None => Ok(true),
    }
}

fn url(call: &mut Call) -> R<bool> {
    let (scheme, host) = uri_parts(&call.text(0)?);
    Ok(uri(call)? && (host || scheme == "file"))
}

fn path_of(value: &V) -> R<PathBuf> {
    let text = ops::to_text(value)?;
    Ok(match text.strip_prefix("~/") {
        Some(rest) => std::env::home_dir().map_or_else(|| PathBuf::from(&text), |home| home.join(rest)),
        None => PathBuf::from(text),
    })
}

fn on_path(call: &mut Call, test: fn(&Path) -> bool) -> R {
    Ok(V::from(test(&path_of(&call.input())?)))
}

fn same_file(call: &mut Call) -> R {
    let meta = |value: &V| -> R<(u64, u64)> {
        let path = path_of(value)?;
        let meta = path
            .metadata()
            .map_err(|error| TemplateError::runtime(format!("{}: {error}", path.display())))?;
        Ok((meta.dev(), meta.ino()))
    };
    Ok(V::from(meta(&call.input())? == meta(&call.arg(1).unwrap_or_default())?))
}

fn is_mount(path: &Path) -> bool {
    let (Ok(own), Ok(parent)) = (path.symlink_metadata(), path.join("..").metadata()) else { return false };
    !own.is_symlink() && (own.dev() != parent.dev() || own.ino() == parent.ino())
}
