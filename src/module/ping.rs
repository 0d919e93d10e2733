//! `ping`: whether the runner works on a host.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Type, typed};
use crate::system::System;
use crate::value::Value;

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.ping",
    summary: "Checks that a host can be reached and worked on",
    description: "Answers `pong`, which proves that the connection works and that modules run there. It has nothing to do with ICMP.",
    example: "- name: Is everybody there?\n  ansible.builtin.ping:\n",
    params: &[Param::new("data", Type::Str, "What to answer; `crash` makes the module fail.").default("pong")],
    returns: &[("ping", "The value of `data`.")],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    data: String,
}

fn run(args: Value, _system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let args: Args = typed(args)?;
    if args.data == "crash" {
        return Err(ModuleError::new("boom"));
    }
    Ok(Outcome::default().set("ping", args.data))
}
