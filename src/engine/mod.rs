//! Runs playbooks: decides what each host does next, sends it, and folds what comes back.

pub mod options;

pub use options::RunOptions;
