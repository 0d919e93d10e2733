//! `docker_image_push`: images of docker to a registry.

use serde::Deserialize;

use crate::module::docker::{self, Connection, Docker};
use crate::module::docker_image::{Images, full_name, is_id};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, typed};
use crate::system::System;

/// Pushes images.
pub const MODULE: Module = Module {
    name: "community.docker.docker_image_push",
    summary: "Push an image to its registry",
    description: "Through the docker command. It is no change if the registry has all of its layers; a dry run does not ask \
        the registry and says that the image would be pushed.",
    example: "- community.docker.docker_image_push:\n    name: registry.example.com/app\n    tag: v1\n",
    scope: Scope::World,
    params: &[
        Param::new("name", Type::Str, "The image, with or without tag.").required(),
        Param::new("tag", Type::Str, "Tag, where the name has none.").default("latest"),
        docker::API_VERSION,
        docker::CA_PATH,
        docker::CLIENT_CERT,
        docker::CLIENT_KEY,
        docker::DEBUG,
        docker::DOCKER_HOST,
        docker::TIMEOUT,
        docker::TLS,
        docker::TLS_HOSTNAME,
        docker::USE_SSH_CLIENT,
        docker::VALIDATE_CERTS,
    ],
    rules: &[Rule::RequiredTogether(&["client_cert", "client_key"])],
    returns: &[("image", "What docker knows of it."), ("actions", "What was done.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    tag: String,
    #[serde(flatten)]
    connection: Connection,
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    if is_id(&args.name) {
        return Err(ModuleError::new("Cannot push an image by ID: give its name"));
    }
    let name = full_name(&args.name, &args.tag);
    let docker = Docker::new(&args.connection, system)?;
    let mut images = Images { docker, system, actions: Vec::new() };
    let image = images.inspect(&name)?;
    if image.get("Id").is_none() && images.system.uncertain().is_none() {
        return Err(ModuleError::new(format!("Cannot find image {name}")));
    }
    let changed = images.push(&name)?;
    let outcome = Outcome::default().set("image", image).set("actions", images.actions);
    Ok(Outcome { changed: Some(changed), ..outcome })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;
    use crate::value::map_of;

    #[test]
    fn what_the_registry_has_is_no_change() {
        for (printed, changed) in [
            ("aa: Pushed\nbb: Layer already exists\n1: digest: sha256:0 size: 1\n", true),
            ("bb: Layer already exists\n1: digest: sha256:0 size: 1\n", false),
        ] {
            let mut fake = Fake::new()
                .with_program("/usr/bin/docker")
                .with_command(&["docker", "image", "inspect", "h/a:1"], Output::ok(r#"[{"Id": "1"}]"#))
                .with_command(&["/usr/bin/docker", "push", "h/a:1"], Output::ok(printed));
            let given = map_of([("name", "h/a"), ("tag", "1")]);
            let outcome = call(&MODULE, &given.into(), &mut fake).expect("it works");
            assert_eq!(outcome.changed, Some(changed), "{printed}");
        }
        let mut none = Fake::new()
            .with_program("/usr/bin/docker")
            .with_command_prefix(&["docker"], Output::fails(1, "No such image"));
        let error = call(&MODULE, &map_of([("name", "x")]).into(), &mut none).expect_err("missing");
        assert_eq!(error, "Cannot find image x:latest");
    }
}
