//! `template`: rendered on the controller, put in place as `copy` does.

use crate::module::{Module, ModuleError, Outcome, Param, Type, copy};
use crate::system::System;
use crate::value::Value;

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.template",
    summary: "Renders a template and puts the result on a host",
    description: "The controller renders the file `src` with the host's variables; the result goes to the host as with \
        `copy`, replaced at once and only if it differs. Parameters of the syntax (`trim_blocks`, `variable_start_string`, …) \
        belong to this one file.",
    example: "- name: Configuration from a template\n  ansible.builtin.template:\n    src: nginx.conf.j2\n    dest: /etc/nginx/nginx.conf\n    mode: \"0644\"\n    validate: nginx -t -c %s\n  notify: Reload nginx\n",
    params: &[
        Param::new(
            "src",
            Type::Path,
            "The template: relative to the playbook's or role's `templates`, or absolute.",
        )
        .required(),
        Param::new("dest", Type::Path, "Where the result goes on the host.").required(),
        Param::new("backup", Type::Bool, "Keep a copy of what is replaced, with the time in its name.")
            .default("false"),
        Param::new(
            "force",
            Type::Bool,
            "Replace what differs; if false, only write what is not there at all.",
        )
        .default("true"),
        Param::new(
            "follow",
            Type::Bool,
            "Write to the target of a symbolic link at `dest` instead of replacing the link.",
        )
        .default("false"),
        Param::new(
            "validate",
            Type::Str,
            "A command, without a shell, that must accept the new file, which `%s` stands for.",
        ),
        Param::new("newline_sequence", Type::Str, "How lines of the result end.")
            .choices(&["\n", "\r", "\r\n", "\\n", "\\r", "\\r\\n"])
            .default("\n"),
        Param::new("block_start_string", Type::Str, "What opens a statement.").default("{%"),
        Param::new("block_end_string", Type::Str, "What closes a statement.").default("%}"),
        Param::new("variable_start_string", Type::Str, "What opens an expression.").default("{{"),
        Param::new("variable_end_string", Type::Str, "What closes an expression.").default("}}"),
        Param::new("comment_start_string", Type::Str, "What opens a comment."),
        Param::new("comment_end_string", Type::Str, "What closes a comment."),
        Param::new("trim_blocks", Type::Bool, "Drop the first newline after a statement.").default("true"),
        Param::new("lstrip_blocks", Type::Bool, "Drop blanks before a statement at the start of a line.")
            .default("false"),
        Param::new("output_encoding", Type::Str, "Character set of the result.").default("utf-8"),
        copy::INTERNAL[0],
        copy::INTERNAL[1],
        copy::INTERNAL[2],
        copy::INTERNAL[4],
    ],
    file_params: true,
    returns: copy::MODULE.returns,
    run,
    ..Module::DEFAULT
};

fn run(args: Value, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    (copy::MODULE.run)(args, system)
}
