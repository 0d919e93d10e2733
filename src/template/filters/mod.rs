//! Filters, by theme. Each theme has a table; the registry knows them all.

pub(super) mod crypt;
pub(super) mod data;
pub(super) mod lists;
mod network;
pub(super) mod random;
pub(super) mod regex;
pub(super) mod strings;
mod xml;
mod yaml;

use super::registry::Function;

/// All tables.
pub(super) const TABLES: &[&[Function]] = &[
    crypt::TABLE,
    data::TABLE,
    lists::TABLE,
    network::TABLE,
    random::TABLE,
    regex::TABLE,
    strings::TABLE,
    xml::TABLE,
    yaml::TABLE,
];
