//! Filters, by theme. Each theme has a table; the registry knows them all.

pub(super) mod data;
pub(super) mod lists;
pub(super) mod random;
pub(super) mod regex;
pub(super) mod strings;

use super::registry::Function;

/// All tables.
pub(super) const TABLES: &[&[Function]] =
    &[data::TABLE, lists::TABLE, random::TABLE, regex::TABLE, strings::TABLE];
