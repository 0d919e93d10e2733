//! Filters on lists and on sequences of any kind.

use std::cmp::Ordering;

use indexmap::IndexMap;
use minijinja::value::Value as V;

use crate::template::error::TemplateError;
use crate::template::object::{
    Py, R, check, dict, group, is_marker, iterate, key_value, list, marker, none, py, to_key, tuple,
    type_name,
};
use crate::template::ops::{self, Num, number};
use crate::template::registry::{self, Args, Call, Function, function, lenient};
use crate::template::special::Range;
use crate::value::Value;

pub(super) const TABLE: &[Function] = &[
    function("batch", "value linecount fill_with?", batch),
    function("slice", "value slices fill_with?", slice),
    function("first", "seq", first),
    function("last", "seq", last),
    function("length", "seq", length),
    function("count", "seq", length),
    function("list", "value", |call| call.items().map(list)),
    function("reverse", "value", reverse),
    function("sort", "value reverse? case_sensitive? attribute?", sort),
    function("unique", "value case_sensitive? attribute?", unique),
    function("min", "value case_sensitive? attribute? **", |call| extreme(call, Ordering::Less)),
    function("max", "value case_sensitive? attribute? **", |call| extreme(call, Ordering::Greater)),
    function("sum", "iterable attribute? start?", sum),
    function("join", "value d? attribute?", join),
    lenient("map", "value * **", map),
    lenient("select", "value * **", |call| select(call, true, false)),
    lenient("reject", "value * **", |call| select(call, false, false)),
    lenient("selectattr", "value * **", |call| select(call, true, true)),
    lenient("rejectattr", "value * **", |call| select(call, false, true)),
    function("groupby", "value attribute default? case_sensitive?", group_by),
    function("flatten", "mylist levels? skip_nulls?", flatten),
    function("union", "a b", union),
    function("intersect", "a b", intersect),
    function("difference", "a b", difference),
    function("symmetric_difference", "a b", symmetric_difference),
    function("zip", "value * **", zip),
    function("zip_longest", "value * **", zip),
    function("product", "value * repeat?", product),
    function("permutations", "value r?", |call| arrange(call, true)),
    function("combinations", "value r?", |call| arrange(call, false)),
    function("subelements", "obj subelements skip_missing?", subelements),
    function("extract", "item container morekeys?", extract),
    function("rekey_on_member", "data key duplicates?", rekey_on_member),
    function("lists_union", "value * **", |call| lists_operation(call, "union")),
    function("lists_intersect", "value * **", |call| lists_operation(call, "intersect")),
    function("lists_difference", "value * **", |call| lists_operation(call, "difference")),
    function("lists_symmetric_difference", "value * **", |call| {
        lists_operation(call, "symmetric_difference")
    }),
    function("lists_mergeby", "value * **", lists_mergeby),
    function("counter", "value", counter),
    function("version_sort", "value reverse?", version_sort),
];

fn batch(call: &mut Call) -> R {
    let size = usize::try_from(call.int(1)?.unwrap_or(0)).unwrap_or(0);
    if size == 0 {
        return Err(TemplateError::runtime("the number of items per batch must be positive"));
    }
    let items = call.items()?;
    let fill = call.some(2);
    let mut out = Vec::new();
    for chunk in items.chunks(size) {
        let mut chunk = chunk.to_vec();
        if let Some(fill) = &fill {
            chunk.resize(size, fill.clone());
        }
        out.push(list(chunk));
    }
    Ok(list(out))
}

fn slice(call: &mut Call) -> R {
    let slices = usize::try_from(call.int(1)?.unwrap_or(0)).unwrap_or(0);
    if slices == 0 {
        return Err(TemplateError::runtime("the number of slices must be positive"));
    }
    let items = call.items()?;
    let (per_slice, with_extra) = (items.len() / slices, items.len() % slices);
    let fill = call.some(2);
    let mut offset = 0;
    let mut out = Vec::new();
    for number in 0..slices {
        let start = offset + number * per_slice;
        if number < with_extra {
            offset += 1;
        }
        let end = offset + (number + 1) * per_slice;
        let mut part = items[start..end].to_vec();
        if let Some(fill) = &fill
            && number >= with_extra
        {
            part.push(fill.clone());
        }
        out.push(list(part));
    }
    Ok(list(out))
}

fn first(call: &mut Call) -> R {
    let missing = || marker(TemplateError::undefined("", "No first item, sequence was empty."));
    if let Py::List(items) = py(&call.input()) {
        return Ok(items.get(0)?.unwrap_or_else(missing));
    }
    Ok(call.items()?.into_iter().next().unwrap_or_else(missing))
}

fn last(call: &mut Call) -> R {
    let missing = || marker(TemplateError::undefined("", "No last item, sequence was empty."));
    if let Py::List(items) = py(&call.input())
        && items.len() > 0
    {
        return Ok(items.get(items.len() - 1)?.unwrap_or_else(missing));
    }
    Ok(call.items()?.pop().unwrap_or_else(missing))
}

/// Python's `len()`.
pub(in crate::template) fn len(value: &V) -> R<usize> {
    check(value)?;
    match py(value) {
        Py::Str(text) => Ok(text.chars().count()),
        Py::List(items) => Ok(items.len()),
        Py::Dict(map) => Ok(map.len()),
        Py::Other => {
            if let Some(range) = value.downcast_object_ref::<Range>() {
                return Ok(usize::try_from(range.len()).unwrap_or(usize::MAX));
            }
            Ok(iterate(value).map_err(|_| no_length(value))?.len())
        }
        _ => Err(no_length(value)),
    }
}

fn no_length(value: &V) -> TemplateError {
    TemplateError::runtime(format!("object of type '{}' has no len()", type_name(value)))
}

fn length(call: &mut Call) -> R {
    len(&call.input()).map(V::from)
}

fn reverse(call: &mut Call) -> R {
    let input = call.input();
    if let Py::Str(text) = py(&input) {
        return Ok(V::from(text.chars().rev().collect::<String>()));
    }
    let mut items = call.items()?;
    items.reverse();
    Ok(list(items))
}

/// The value of `a.b.0` of an item, with a default for what is missing.
fn dotted(item: &V, path: &str, default: Option<&V>) -> R {
    let mut value = item.clone();
    for part in path.split('.') {
        value = match part.parse::<i64>() {
            Ok(index) => ops::item(&value, &V::from(index))?,
            Err(_) => ops::item(&value, &V::from(part))?,
        };
        if is_marker(&value)
            && let Some(default) = default
        {
            value = default.clone();
        }
    }
    Ok(value)
}

/// What a list is sorted, grouped or compared by: an attribute, or several joined by commas, without case.
fn sort_key(item: &V, attribute: Option<&V>, case_sensitive: bool, default: Option<&V>) -> R {
    let fold = |value: V| match py(&value) {
        Py::Str(text) if !case_sensitive => V::from(text.to_lowercase()),
        _ => value,
    };
    match attribute {
        None => Ok(fold(item.clone())),
        Some(attribute) => match py(attribute) {
            Py::Str(paths) if paths.contains(',') => {
                let parts = paths
                    .split(',')
                    .map(|path| dotted(item, path, default).map(fold))
                    .collect::<R<Vec<_>>>()?;
                Ok(list(parts))
            }
            Py::Str(path) => dotted(item, path, default).map(fold),
            _ => ops::item(item, attribute).map(fold),
        },
    }
}

/// Sorts by a key, keeping the order of equals; fails as Python does for what has no order.
pub(in crate::template) fn sorted(items: Vec<V>, reverse: bool, key: impl Fn(&V) -> R) -> R<Vec<V>> {
    let mut keyed = items.into_iter().map(|item| key(&item).map(|key| (key, item))).collect::<R<Vec<_>>>()?;
    let mut failure = None;
    keyed.sort_by(|(a, _), (b, _)| match ops::order(a, b, "<") {
        Ok(order) => {
            let order = order.unwrap_or(Ordering::Equal);
            if reverse { order.reverse() } else { order }
        }
        Err(error) => {
            failure.get_or_insert(error);
            Ordering::Equal
        }
    });
    match failure {
        Some(error) => Err(error),
        None => Ok(keyed.into_iter().map(|(_, item)| item).collect()),
    }
}

fn sort(call: &mut Call) -> R {
    let (reverse, case_sensitive, attribute) = (call.flag(1, false)?, call.flag(2, false)?, call.some(3));
    sorted(call.items()?, reverse, |item| sort_key(item, attribute.as_ref(), case_sensitive, None)).map(list)
}

fn unique(call: &mut Call) -> R {
    let case_sensitive = call.flag(1, false)?;
    let attribute = call.some(2);
    let mut seen: Vec<V> = Vec::new();
    let mut hashed = std::collections::HashSet::new();
    let mut out = Vec::new();
    for item in call.items()? {
        let key = sort_key(&item, attribute.as_ref(), case_sensitive, None)?;
        check(&key)?;
        let is_new = match to_key(&key) {
            Ok(key) => hashed.insert(key),
            Err(_) if call.some(1).is_some() && !case_sensitive || attribute.is_some() => {
                return Err(TemplateError::runtime(
                    "the items can't be hashed, and case_sensitive and attribute cannot fall back to comparing them",
                ));
            }
            Err(_) => {
                let known = contains(&seen, &key)?;
                if !known {
                    seen.push(key);
                }
                !known
            }
        };
        if is_new {
            out.push(item);
        }
    }
    Ok(list(out))
}

fn contains(items: &[V], wanted: &V) -> R<bool> {
    for item in items {
        if ops::equal(item, wanted)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn extreme(call: &mut Call, wanted: Ordering) -> R {
    let (case_sensitive, attribute) = (call.flag(1, false)?, call.some(2));
    let attribute = attribute.or_else(|| call.extra("attribute").cloned());
    let mut best: Option<(V, V)> = None;
    for item in call.items()? {
        let key = sort_key(&item, attribute.as_ref(), case_sensitive, None)?;
        let better = match &best {
            None => true,
            Some((best, _)) => {
                ops::order(&key, best, if wanted == Ordering::Less { "<" } else { ">" })? == Some(wanted)
            }
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(match best {
        Some((_, item)) => item,
        None => marker(TemplateError::undefined("", "No aggregated item, sequence was empty.")),
    })
}

fn sum(call: &mut Call) -> R {
    let attribute = call.some(1);
    let mut total = call.arg(2).unwrap_or_else(|| V::from(0));
    for item in call.items()? {
        let value = match &attribute {
            None => item,
            Some(attribute) => sort_key(&item, Some(attribute), true, None)?,
        };
        if let Py::Str(_) = py(&total) {
            return Err(TemplateError::runtime("sum() can't sum strings [use ''.join(seq) instead]"));
        }
        total = ops::add(&total, &value)?;
    }
    Ok(total)
}

fn join(call: &mut Call) -> R {
    let separator = call.text_or(1, "")?;
    let attribute = call.some(2);
    let mut out = String::new();
    for (index, item) in call.items()?.iter().enumerate() {
        if index > 0 {
            out.push_str(&separator);
        }
        let value = match &attribute {
            None => item.clone(),
            Some(attribute) => sort_key(item, Some(attribute), true, None)?,
        };
        out.push_str(&ops::to_text(&value)?);
        if out.len() > crate::template::run::MAX_OUTPUT {
            return Err(TemplateError::limit("the text is too long"));
        }
    }
    Ok(V::from(out))
}

fn map(call: &mut Call) -> R {
    let input = call.input();
    check(&input)?;
    let items = iterate(&input)?;
    if call.rest.is_empty() {
        let Some(attribute) = call.extra("attribute").cloned() else {
            return Err(TemplateError::runtime("map requires a filter argument"));
        };
        if let Some((name, _)) = call.extra.iter().find(|(name, _)| name != "attribute" && name != "default")
        {
            return Err(TemplateError::runtime(format!("Unexpected keyword argument '{name}'")));
        }
        let default = call.extra("default").cloned();
        let out = items
            .iter()
            .map(|item| {
                check(item)?;
                sort_key(item, Some(&attribute), true, default.as_ref())
            })
            .collect::<R<Vec<_>>>()?;
        return Ok(list(out));
    }
    let mut args = call.rest.iter();
    let name = args.next().map_or_else(|| Ok(String::new()), ops::to_text)?;
    let rest: Vec<V> = args.cloned().collect();
    items
        .into_iter()
        .map(|item| {
            let mut positional = vec![item];
            positional.extend(rest.iter().cloned());
            registry::call_filter(&name, Args { positional, named: call.extra.clone() }, &call.scope)
        })
        .collect::<R<Vec<_>>>()
        .map(list)
}

fn select(call: &mut Call, wanted: bool, by_attribute: bool) -> R {
    let input = call.input();
    check(&input)?;
    let mut args = call.rest.iter();
    let attribute = if by_attribute {
        let attribute =
            args.next().ok_or_else(|| TemplateError::runtime("Missing parameter for attribute name"))?;
        Some(attribute.clone())
    } else {
        None
    };
    let test = args.next().map(ops::to_text).transpose()?;
    let rest: Vec<V> = args.cloned().collect();
    let mut out = Vec::new();
    for item in iterate(&input)? {
        let value = match &attribute {
            Some(attribute) => {
                check(&item)?;
                sort_key(&item, Some(attribute), true, None)?
            }
            None => item.clone(),
        };
        let holds = match &test {
            None => ops::truth(&value)?,
            Some(test) => {
                let mut positional = vec![value];
                positional.extend(rest.iter().cloned());
                registry::call_test(test, Args { positional, named: call.extra.clone() }, &call.scope)?
            }
        };
        if holds == wanted {
            out.push(item);
        }
    }
    Ok(list(out))
}

fn group_by(call: &mut Call) -> R {
    // A missing attribute is an error in spite of `default`: the reference trips over it before it looks.
    let (attribute, case_sensitive) = (call.arg(1), call.flag(3, false)?);
    let key = |item: &V, sensitive: bool| sort_key(item, attribute.as_ref(), sensitive, None);
    let items = sorted(call.items()?, false, |item| key(item, case_sensitive))?;
    let mut groups: Vec<(V, V, Vec<V>)> = Vec::new();
    for item in items {
        let folded = key(&item, case_sensitive)?;
        match groups.last_mut() {
            Some((last, _, members)) if ops::equal(last, &folded)? => members.push(item),
            _ => groups.push((folded, key(&item, true)?, vec![item])),
        }
    }
    Ok(list(groups.into_iter().map(|(_, key, members)| group(key, members)).collect()))
}

fn flatten(call: &mut Call) -> R {
    fn walk(items: Vec<V>, levels: Option<i64>, skip_nulls: bool, out: &mut Vec<V>, depth: u32) -> R<()> {
        if depth > 200 {
            return Err(TemplateError::limit("the list is nested too deeply"));
        }
        for item in items {
            check(&item)?;
            let is_null = match py(&item) {
                Py::None => true,
                Py::Str(text) => matches!(text, "None" | "null"),
                _ => false,
            };
            if skip_nulls && is_null {
                continue;
            }
            match py(&item) {
                Py::List(inner) if levels.is_none_or(|levels| levels >= 1) => {
                    walk(inner.to_vec()?, levels.map(|levels| levels - 1), skip_nulls, out, depth + 1)?;
                }
                _ => out.push(item),
            }
        }
        Ok(())
    }
    let mut out = Vec::new();
    walk(call.items()?, call.int(1)?, call.flag(2, true)?, &mut out, 0)?;
    Ok(list(out))
}

/// A list without duplicates and its keys, as far as they can be hashed.
fn set_of(items: Vec<V>) -> R<Vec<V>> {
    let mut hashed = std::collections::HashSet::new();
    let mut out: Vec<V> = Vec::new();
    for item in items {
        check(&item)?;
        let is_new = match to_key(&item) {
            Ok(key) => hashed.insert(key),
            Err(_) => !contains(&out, &item)?,
        };
        if is_new {
            out.push(item);
        }
    }
    Ok(out)
}

fn both(call: &Call) -> R<(Vec<V>, Vec<V>)> {
    Ok((set_of(call.items()?)?, set_of(iterate(&call.arg(1).unwrap_or_default())?)?))
}

fn operate(a: Vec<V>, b: Vec<V>, operation: &str) -> R<Vec<V>> {
    let lookup = Members::new(&b)?;
    Ok(match operation {
        "intersect" => keep(a, |item| lookup.has(item))?,
        "difference" => keep(a, |item| lookup.has(item).map(|has| !has))?,
        "symmetric_difference" => {
            let in_a = Members::new(&a)?;
            let mut out = keep(a, |item| lookup.has(item).map(|has| !has))?;
            out.extend(keep(b, |item| in_a.has(item).map(|has| !has))?);
            out
        }
        _ => {
            let mut all = a;
            all.extend(b);
            set_of(all)?
        }
    })
}

struct Members {
    hashed: std::collections::HashSet<Value>,
    others: Vec<V>,
}

impl Members {
    fn new(items: &[V]) -> R<Members> {
        let mut members = Members { hashed: std::collections::HashSet::new(), others: Vec::new() };
        for item in items {
            check(item)?;
            match to_key(item) {
                Ok(key) => {
                    members.hashed.insert(key);
                }
                Err(_) => members.others.push(item.clone()),
            }
        }
        Ok(members)
    }

    fn has(&self, item: &V) -> R<bool> {
        check(item)?;
        match to_key(item) {
            Ok(key) => Ok(self.hashed.contains(&key)),
            Err(_) => contains(&self.others, item),
        }
    }
}

fn keep(items: Vec<V>, test: impl Fn(&V) -> R<bool>) -> R<Vec<V>> {
    let mut out = Vec::new();
    for item in items {
        if test(&item)? {
            out.push(item);
        }
    }
    Ok(out)
}

fn union(call: &mut Call) -> R {
    let (a, b) = both(call)?;
    operate(a, b, "union").map(list)
}

fn intersect(call: &mut Call) -> R {
    let (a, b) = both(call)?;
    operate(a, b, "intersect").map(list)
}

fn difference(call: &mut Call) -> R {
    let (a, b) = both(call)?;
    operate(a, b, "difference").map(list)
}

fn symmetric_difference(call: &mut Call) -> R {
    let (a, b) = both(call)?;
    operate(a, b, "symmetric_difference").map(list)
}

fn lists_operation(call: &mut Call, operation: &str) -> R {
    let flat = call.extra("flatten").map_or(Ok(false), ops::truth)?;
    let mut lists: Vec<V> = vec![call.input()];
    lists.extend(call.rest.iter().cloned());
    if flat {
        let mut out = Vec::new();
        for value in lists {
            let items = iterate(&value)?;
            if !items.is_empty() && items.iter().all(|item| matches!(py(item), Py::List(_))) {
                out.extend(items);
            } else {
                out.push(value);
            }
        }
        lists = out;
    }
    let mut lists = lists.into_iter();
    let mut result = set_of(iterate(&lists.next().unwrap_or_default())?)?;
    for next in lists {
        result = operate(result, set_of(iterate(&next)?)?, operation)?;
    }
    Ok(list(result))
}

fn lists_mergeby(call: &mut Call) -> R {
    let mut args: Vec<V> = vec![call.input()];
    args.extend(call.rest.iter().cloned());
    let index = match call.extra("index") {
        Some(index) => ops::to_text(index)?,
        None => match args.pop() {
            Some(index) => ops::to_text(&index)?,
            None => String::new(),
        },
    };
    let recursive = call.extra("recursive").map_or(Ok(false), ops::truth)?;
    let list_merge = call.extra("list_merge").map_or_else(|| Ok("replace".to_owned()), ops::to_text)?;
    let mut merged: IndexMap<Value, V> = IndexMap::new();
    let mut flat = Vec::new();
    for arg in args {
        for item in iterate(&arg)? {
            match py(&item) {
                Py::List(inner) => flat.extend(inner.to_vec()?),
                _ => flat.push(item),
            }
        }
    }
    for item in flat {
        let Py::Dict(map) = py(&item) else {
            return Err(TemplateError::runtime(
                "Elements of list arguments for lists_mergeby must be dictionaries",
            ));
        };
        let Some(key) = map.get_str(&index)? else { continue };
        let key = to_key(&key)?;
        let next = match merged.get(&key) {
            Some(known) => super::data::merge(known, &item, recursive, &list_merge)?,
            None => item.clone(),
        };
        merged.insert(key, next);
    }
    sorted(merged.into_values().collect(), false, |item| ops::item(item, &V::from(index.as_str()))).map(list)
}

fn zip(call: &mut Call) -> R {
    let longest_fill = call.extra("fillvalue").cloned();
    let mut columns = vec![call.items()?];
    for other in &call.rest {
        columns.push(iterate(other)?);
    }
    let longest = longest_fill.is_some();
    let rows = columns.iter().map(Vec::len);
    let rows = if longest { rows.max() } else { rows.min() }.unwrap_or(0);
    let fill = longest_fill.unwrap_or_else(none);
    Ok(list(
        (0..rows)
            .map(|row| {
                tuple(
                    columns
                        .iter()
                        .map(|column| column.get(row).cloned().unwrap_or_else(|| fill.clone()))
                        .collect(),
                )
            })
            .collect(),
    ))
}

/// The Cartesian product of lists, refused when it would not fit.
pub(in crate::template) fn cartesian(columns: &[Vec<V>]) -> R<Vec<Vec<V>>> {
    let size = columns.iter().try_fold(1_usize, |size, column| size.checked_mul(column.len()));
    if size.is_none_or(|size| size > 5_000_000) {
        return Err(TemplateError::limit("the product of the lists is too large"));
    }
    let mut out: Vec<Vec<V>> = vec![Vec::new()];
    for column in columns {
        out = out
            .iter()
            .flat_map(|row| {
                column.iter().map(|item| {
                    let mut row = row.clone();
                    row.push(item.clone());
                    row
                })
            })
            .collect();
    }
    Ok(out)
}

fn product(call: &mut Call) -> R {
    let mut columns = vec![call.items()?];
    for other in &call.rest {
        columns.push(iterate(other)?);
    }
    let repeat = usize::try_from(call.int(1)?.unwrap_or(1)).unwrap_or(1).min(64);
    let once = columns.clone();
    for _ in 1..repeat {
        columns.extend(once.iter().cloned());
    }
    Ok(list(cartesian(&columns)?.into_iter().map(tuple).collect()))
}

fn arrange(call: &mut Call, ordered: bool) -> R {
    fn walk(
        items: &[V],
        size: usize,
        start: usize,
        ordered: bool,
        chosen: &mut Vec<usize>,
        out: &mut Vec<V>,
    ) -> R<()> {
        if chosen.len() == size {
            out.push(tuple(chosen.iter().map(|index| items[*index].clone()).collect()));
            if out.len() > 2_000_000 {
                return Err(TemplateError::limit("there are too many arrangements"));
            }
            return Ok(());
        }
        for index in if ordered { 0 } else { start }..items.len() {
            if ordered && chosen.contains(&index) {
                continue;
            }
            chosen.push(index);
            walk(items, size, index + 1, ordered, chosen, out)?;
            chosen.pop();
        }
        Ok(())
    }
    let items = call.items()?;
    let size = match call.int(1)? {
        Some(size) => usize::try_from(size).map_err(|_| TemplateError::runtime("r must be non-negative"))?,
        None if ordered => items.len(),
        None => return Err(TemplateError::runtime("combinations() missing required argument 'r' (pos 2)")),
    };
    let mut out = Vec::new();
    if size <= items.len() {
        walk(&items, size, 0, ordered, &mut Vec::new(), &mut out)?;
    }
    Ok(list(out))
}

fn subelements(call: &mut Call) -> R {
    let input = call.input();
    let elements = match py(&input) {
        Py::Dict(map) => map.to_map()?.into_values().collect(),
        Py::List(items) => items.to_vec()?,
        _ => return Err(TemplateError::runtime("obj must be a list of dicts or a nested dict")),
    };
    let path: Vec<String> = match call.arg(1) {
        Some(value) => match py(&value) {
            Py::Str(text) => text.split('.').map(ToOwned::to_owned).collect(),
            Py::List(parts) => parts.to_vec()?.iter().map(ops::to_text).collect::<R<_>>()?,
            _ => return Err(TemplateError::runtime("subelements must be a list or a string")),
        },
        None => Vec::new(),
    };
    let skip_missing = call.flag(2, false)?;
    let mut out = Vec::new();
    for element in elements {
        let mut values = element.clone();
        for part in &path {
            let Py::Dict(map) = py(&values) else {
                return Err(TemplateError::runtime(format!(
                    "the key {part} should point to a dictionary, got '{}'",
                    ops::to_text(&values)?
                )));
            };
            match map.get_str(part)? {
                Some(found) => values = found,
                None if skip_missing => {
                    values = list(Vec::new());
                    break;
                }
                None => {
                    return Err(TemplateError::runtime(format!(
                        "could not find {} key in iterated item {}",
                        Value::str(part.as_str()).repr(),
                        ops::repr(&values)?
                    )));
                }
            }
        }
        let Py::List(values) = py(&values) else {
            return Err(TemplateError::runtime(format!(
                "the key {} should point to a list, got {}",
                path.last().map_or("", String::as_str),
                ops::repr(&values)?
            )));
        };
        for value in values.to_vec()? {
            out.push(tuple(vec![element.clone(), value]));
        }
    }
    Ok(list(out))
}

fn extract(call: &mut Call) -> R {
    let mut value = ops::item(&call.arg(1).unwrap_or_default(), &call.input())?;
    if let Some(more) = call.some(2) {
        let keys = match py(&more) {
            Py::List(keys) => keys.to_vec()?,
            _ => vec![more.clone()],
        };
        for key in keys {
            value = ops::item(&value, &key)?;
        }
    }
    Ok(value)
}

fn rekey_on_member(call: &mut Call) -> R {
    let input = call.input();
    let key = call.text(1)?;
    let duplicates = call.text_or(2, "error")?;
    if duplicates != "error" && duplicates != "overwrite" {
        return Err(TemplateError::runtime(format!(
            "duplicates parameter to rekey_on_member has unknown value: {duplicates}"
        )));
    }
    let items = match py(&input) {
        Py::Dict(map) => map.to_map()?.into_values().collect(),
        Py::List(items) => items.to_vec()?,
        _ => return Err(TemplateError::runtime("Type is not a valid list, set, or dict")),
    };
    let mut out = IndexMap::new();
    for item in items {
        let Py::Dict(map) = py(&item) else {
            return Err(TemplateError::runtime("List item is not a valid dict"));
        };
        let member =
            map.get_str(&key)?.ok_or_else(|| TemplateError::runtime(format!("Key {key} was not found")))?;
        let member = to_key(&member)?;
        if duplicates == "error" && out.contains_key(&member) {
            return Err(TemplateError::runtime(format!(
                "Key {} is not unique, cannot correctly turn into dict",
                member.to_text()
            )));
        }
        out.insert(member, item);
    }
    Ok(dict(out))
}

fn counter(call: &mut Call) -> R {
    let mut counts: IndexMap<Value, i64> = IndexMap::new();
    let items = match py(&call.input()) {
        Py::Dict(map) => map.keys().iter().map(key_value).collect(),
        _ => call.items()?,
    };
    for item in items {
        *counts.entry(to_key(&item)?).or_insert(0) += 1;
    }
    Ok(dict(counts.into_iter().map(|(key, count)| (key, V::from(count))).collect()))
}

fn version_sort(call: &mut Call) -> R {
    let reverse = call.flag(1, false)?;
    let mut keyed = call
        .items()?
        .into_iter()
        .map(|item| Ok((crate::template::tests::loose(&ops::to_text(&item)?), item)))
        .collect::<R<Vec<_>>>()?;
    keyed.sort_by(|(a, _), (b, _)| {
        let order = crate::template::tests::compare_loose(a, b).unwrap_or(Ordering::Equal);
        if reverse { order.reverse() } else { order }
    });
    Ok(list(keyed.into_iter().map(|(_, item)| item).collect()))
}

/// Whole numbers of a list, for callers that need them.
pub(in crate::template) fn whole(value: &V) -> R<i64> {
    match number(value) {
        Some(Num::Int(number)) => {
            i64::try_from(number).map_err(|_| TemplateError::runtime("the number is too large"))
        }
        _ => Err(TemplateError::runtime(format!("{} is not a whole number", ops::repr(value)?))),
    }
}

/// Items of a value with one level of lists taken out, as `with_items` wants them.
pub(in crate::template) fn flatten_once(items: Vec<V>) -> R<Vec<V>> {
    let mut out = Vec::new();
    for item in items {
        check(&item)?;
        match py(&item) {
            Py::List(inner) => out.extend(inner.to_vec()?),
            _ => out.push(item),
        }
    }
    Ok(out)
}
