//! Which tasks `--tags` and `--skip-tags` choose.

use crate::value::Value;

/// Whether a task with these tags (inherited ones included, rendered) runs under `--tags only` and
/// `--skip-tags skip`. An empty `only` means `all`.
pub fn selected<T: AsRef<str>, O: AsRef<str>, S: AsRef<str>>(tags: &[T], only: &[O], skip: &[S]) -> bool {
    let has = |tag: &str| tags.iter().any(|own| own.as_ref() == tag);
    let untagged = tags.is_empty() || tags.iter().all(|own| own.as_ref() == "untagged");
    let is_one_of = |tag: &str| has(tag) || (untagged && tag == "untagged");
    let asks = |tag: &str| only.iter().any(|asked| asked.as_ref() == tag);
    let skips = |tag: &str| skip.iter().any(|skipped| skipped.as_ref() == tag);
    let chosen = has("always")
        || ((only.is_empty() || asks("all")) && !has("never"))
        || only.iter().any(|asked| is_one_of(asked.as_ref()))
        || (asks("tagged") && !untagged && !has("never"));
    let skipped = if skips("all") {
        !has("always") || skips("always")
    } else {
        skip.iter().any(|skipped| is_one_of(skipped.as_ref())) || (skips("tagged") && !untagged)
    };
    chosen && !skipped
}

/// The words of rendered tags: lists are flattened, strings split at commas.
pub fn words(tags: &[Value]) -> Vec<String> {
    let mut out = Vec::new();
    for tag in tags {
        match tag {
            Value::List(items) => out.extend(words(items)),
            Value::Str(text) => {
                out.extend(
                    text.text.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()),
                );
            }
            Value::Null | Value::Omit => {}
            other => out.push(other.to_text()),
        }
    }
    let mut seen = std::collections::HashSet::new();
    out.retain(|word| seen.insert(word.clone()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_choose() {
        let split = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
        for (tags, only, skip, expected) in [
            ("", "", "", true),
            ("", "all", "", true),
            ("a", "all", "", true),
            ("never", "all", "", false),
            ("never a", "all", "", false),
            ("never", "", "", false),
            ("a", "a", "", true),
            ("a b", "b", "", true),
            ("a", "b", "", false),
            ("", "b", "", false),
            ("always", "b", "", true),
            ("never c", "c", "", true),
            ("never c", "never", "", true),
            ("always never", "", "", true),
            ("a", "tagged", "", true),
            ("", "tagged", "", false),
            ("never a", "tagged", "", false),
            ("", "untagged", "", true),
            ("a", "untagged", "", false),
            ("always", "untagged", "", true),
            ("a", "", "a", false),
            ("a", "a", "a", false),
            ("a b", "a", "b", false),
            ("always", "", "always", false),
            ("always", "", "tagged", false),
            ("a", "", "tagged", false),
            ("", "", "tagged", true),
            ("", "", "untagged", false),
            ("a", "", "untagged", true),
            ("a", "", "all", false),
            ("", "", "all", false),
            ("always", "", "all", true),
            ("always", "", "all always", false),
        ] {
            let found = selected(&split(tags), &split(only), &split(skip));
            assert_eq!(found, expected, "tags [{tags}] --tags [{only}] --skip-tags [{skip}]");
        }
    }

    #[test]
    fn rendered_tags_are_words() {
        let tags = [Value::str("a, b"), Value::from(vec!["c", "a,d"]), Value::Int(5), Value::Null];
        assert_eq!(words(&tags), ["a", "b", "c", "d", "5"]);
    }
}
