//! `docker_image_tag`: further names for an image of docker.

use serde::Deserialize;

use crate::module::docker::{self, Connection, Docker, at, state};
use crate::module::docker_image::{Images, full_name, is_id};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::{Applied, System};
use crate::value::Value;

/// Gives an image further names.
pub const MODULE: Module = Module {
    name: "community.docker.docker_image_tag",
    summary: "Give an image further names",
    description: "Through the docker command.",
    example: "- community.docker.docker_image_tag:\n    name: app:v1\n    repository:\n      - registry.example.com/app:v1\n      - registry.example.com/app:newest\n",
    scope: Scope::Host,
    params: &[
        Param::new("name", Type::Str, "The image, with or without tag or digest; or its id.").required(),
        Param::new("tag", Type::Str, "Tag, where a name has none.").default("latest"),
        Param::new("repository", Type::List, "The further names.").required(),
        Param::new("existing_images", Type::Str, "What becomes of a name that another image has.")
            .choices(&["keep", "overwrite"])
            .default("overwrite"),
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
    returns: &[
        ("image", "What docker knows of the image."),
        ("tagged_images", "The names that it got."),
        ("actions", "What was done."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    tag: String,
    #[serde(deserialize_with = "host::texts")]
    repository: Vec<String>,
    existing_images: String,
    #[serde(flatten)]
    connection: Connection,
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    if let Some(id) = args.repository.iter().find(|name| is_id(name)) {
        return Err(ModuleError::new(format!("repository must hold names, not an image's id: {id}")));
    }
    let name = full_name(&args.name, &args.tag);
    let docker = Docker::new(&args.connection, system)?;
    let mut images = Images { docker, system, actions: Vec::new() };
    let image = images.inspect(&name)?;
    let id = at(&image, "Id").map(Value::to_text);
    if id.is_none() && images.system.uncertain().is_none() {
        return Err(ModuleError::new(format!("Cannot find image {name}")));
    }
    let mut tagged = Vec::new();
    for further in args.repository.iter().map(|further| full_name(further, &args.tag)) {
        let now = images.id(&further)?;
        if now.is_none() || (now != id && args.existing_images == "overwrite") {
            images.tag(&name, &further, now.as_ref(), id.as_ref())?;
            tagged.push(further.clone());
        }
        images.system.applied(Applied { kind: "image".into(), id: further, state: state("present") });
    }
    Ok(Outcome::default().set("image", image).set("tagged_images", tagged).set("actions", images.actions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::on_fake;
    use crate::system::Output;
    use crate::system::fake::Fake;

    /// An engine whose images are files: a name holds an id.
    fn engine() -> Fake {
        let word = |command: &crate::system::Command, at: usize| {
            let words: Vec<String> =
                command.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            format!("/images/{}", words[at].replace('/', "_"))
        };
        Fake::new()
            .with_program("/usr/bin/docker")
            .with_file("/images/a:1", "sha256:1")
            .with_file("/images/b:1", "sha256:1")
            .with_file("/images/c:1", "sha256:2")
            .with_file("/images/sha256:2", "sha256:2")
            .with_behaviour(&["docker", "image", "inspect"], move |fake, command| {
                match fake.text(&word(command, 3)) {
                    Some(id) => Output::ok(&format!(r#"[{{"Id": "{id}"}}]"#)),
                    None => Output::fails(1, "No such image"),
                }
            })
            .with_behaviour(&["/usr/bin/docker", "tag"], move |fake, command| {
                let id = fake.text(&word(command, 2)).unwrap_or_default();
                fake.put(&word(command, 3), id.as_bytes());
                Output::ok("")
            })
            .with_behaviour(&["/usr/bin/docker", "image", "rm"], move |fake, command| {
                fake.delete(&word(command, 3));
                Output::ok("")
            })
    }

    #[test]
    fn names_are_given_once_and_taken_back() {
        let table: &[(&str, &[&str])] = &[
            (r#""repository": ["b:1"]"#, &[]),
            (r#""repository": ["d:1", "h:5000/a"], "tag": "3""#, &["d:1", "h:5000/a:3"]),
            (r#""repository": ["c:1"]"#, &["c:1"]),
            (r#""repository": ["c:1"], "existing_images": "keep""#, &[]),
        ];
        for (arguments, expected) in table {
            let verdict = on_fake(&MODULE, engine, &format!(r#"{{"name": "a:1", {arguments}}}"#));
            assert_eq!(verdict.error, None, "{arguments}");
            let commands: Vec<String> =
                expected.iter().map(|name| format!("/usr/bin/docker tag a:1 {name}")).collect();
            assert_eq!(verdict.acted(), commands, "{arguments}");
            assert!(verdict.rolled_back, "{arguments}");
        }
        for (arguments, expected) in [
            (r#"{"name": "x", "repository": "y"}"#, "Cannot find image x:latest"),
            (r#"{"name": "a:1", "repository": "sha256:1"}"#, "not an image's id"),
        ] {
            let error = on_fake(&MODULE, engine, arguments).error.unwrap_or_default();
            assert!(error.contains(expected), "{error}");
        }
    }
}
