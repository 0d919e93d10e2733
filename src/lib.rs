//! Configuration management over SSH: playbooks of idempotent modules, pushed in parallel, audited by checksum.
//!
//! ARCHITECTURE.md draws the map.

#[cfg(feature = "controller")]
pub mod cli;
#[cfg(feature = "controller")]
pub mod config;
pub mod diagnostic;
#[cfg(feature = "controller")]
pub mod drift;
#[cfg(feature = "controller")]
pub mod engine;
#[cfg(feature = "controller")]
pub mod event;
#[cfg(feature = "controller")]
pub mod inventory;
pub mod module;
#[cfg(feature = "controller")]
pub mod playbook;
pub mod protocol;
#[cfg(feature = "controller")]
pub mod report;
pub mod runner;
#[cfg(feature = "controller")]
pub mod session;
#[cfg(feature = "controller")]
pub mod source;
#[cfg(feature = "controller")]
pub mod state;
pub mod system;
#[cfg(feature = "controller")]
pub mod template;
#[cfg(feature = "controller")]
pub mod transport;
pub mod value;
#[cfg(feature = "controller")]
pub mod vars;
#[cfg(feature = "controller")]
pub mod vault;
