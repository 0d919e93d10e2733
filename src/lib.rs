//! Configuration management over SSH: playbooks of idempotent modules, pushed in parallel, audited by checksum.
//!
//! ARCHITECTURE.md draws the map.

pub mod diagnostic;
pub mod module;
pub mod protocol;
pub mod system;
pub mod value;
