//! Drift: compares what was applied, what the host has and what the playbook wants.
//!
//! [`mod@verdict`] decides for one resource and is pure. [`gather`] listens to the two runs of an audit (what the
//! hosts have, and a dry run of the playbooks) and collects what they say. [`mod@judge`] makes findings of it, and
//! [`group`] shows one finding for many hosts once.

pub mod adopt;
pub mod gather;
pub mod group;
pub mod judge;
pub mod plays;
pub mod verdict;

pub use gather::{Gathered, Gatherer, Look, Want};
pub use judge::{Judged, judge};
pub use verdict::{Desired, verdict};
