//! Filters, by theme. Each theme has a table; the registry knows them all.

mod complaints;
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

/// Those of `ansible.utils`.
pub(super) const UTILS: [&[Function]; 2] = [network::TABLE, xml::TABLE];

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
