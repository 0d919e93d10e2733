//! `docker_image_pull`: images of docker from a registry.

use serde::Deserialize;

use crate::module::docker::{self, Connection, Docker, at, state};
use crate::module::docker_image::{Images, full_name, is_id};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, typed};
use crate::system::{Applied, System};
use crate::value::Value;

/// Fetches images.
pub const MODULE: Module = Module {
    name: "community.docker.docker_image_pull",
    summary: "Fetch an image from its registry",
    description: "Through the docker command. With `always`, the registry is asked first which image has the name: the one \
        that is here is not fetched again. Where that can't be asked (by podman, or of a registry without TLS), the image is fetched, \
        and a dry run says that it would be.",
    example: "- community.docker.docker_image_pull:\n    name: nginx\n    tag: '1.27'\n\n- community.docker.docker_image_pull:\n    name: registry.example.com/app:v1\n    pull: not_present\n    platform: linux/arm64\n",
    scope: Scope::World,
    params: &[
        Param::new("name", Type::Str, "The image, with or without tag or digest.").required(),
        Param::new("tag", Type::Str, "Tag or digest, where the name has none.").default("latest"),
        Param::new("platform", Type::Str, "Platform that the image is for, such as `linux/arm64`."),
        Param::new(
            "pull",
            Type::Str,
            "When it is fetched: unless it is the registry's, or only if there is none.",
        )
        .choices(&["always", "not_present"])
        .default("always"),
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
    platform: Option<String>,
    pull: String,
    #[serde(flatten)]
    connection: Connection,
}

/// Operating system, architecture and variant of a platform as a task writes it; the first may be left out.
fn platform(text: &str) -> [Option<String>; 3] {
    let mut parts: Vec<String> = text.to_lowercase().split('/').map(String::from).collect();
    if parts.len() == 1 && !["linux", "windows"].contains(&parts[0].as_str()) {
        parts.insert(0, "linux".into());
    }
    let mut parts = parts.into_iter().map(|part| match part.as_str() {
        "x86_64" | "x86-64" => "amd64".to_string(),
        "aarch64" => "arm64".into(),
        "armhf" => "arm".into(),
        "i386" => "386".into(),
        _ => part,
    });
    [parts.next(), parts.next(), parts.next()]
}

/// Whether an image is for a platform, as far as both say.
fn is_for(image: &Value, wanted: &str) -> bool {
    let fields = ["Os", "Architecture", "Variant"];
    platform(wanted).iter().zip(fields).all(|(wanted, field)| {
        let is = at(image, field).map(Value::to_text).filter(|text| !text.is_empty());
        match (wanted, is) {
            (Some(wanted), Some(is)) => *wanted == is,
            _ => true,
        }
    })
}

/// Whether the registry's image of this name is the one that is here; false if that can't be found out.
fn is_current(name: &str, image: &Value, images: &mut Images<'_>) -> Result<bool, ModuleError> {
    let mut words = vec!["manifest", "inspect", "--verbose"];
    // As the engine does, where the registry is on this machine.
    words.extend(["127.", "localhost"].iter().any(|local| name.starts_with(local)).then_some("--insecure"));
    words.push(name);
    let output = images.docker.ask(words, images.system)?;
    let Ok(told) = serde_json::from_str::<Value>(&output.stdout_text()) else { return Ok(false) };
    let id = at(image, "Id").map(Value::to_text).unwrap_or_default();
    let same = |manifest: &Value| {
        // An image is known by the digest of its configuration, or, in newer stores, by that of its manifest.
        ["SchemaV2Manifest.config.digest", "OCIManifest.config.digest", "Descriptor.digest"]
            .iter()
            .any(|path| at(manifest, path).is_some_and(|digest| digest.to_text() == id))
    };
    Ok(output.success() && told.as_list().map_or_else(|| same(&told), |list| list.iter().any(same)))
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    if is_id(&args.name) {
        return Err(ModuleError::new("Cannot pull an image by ID: give its name"));
    }
    let name = full_name(&args.name, &args.tag);
    let docker = Docker::new(&args.connection, system)?;
    let mut images = Images { docker, system, actions: Vec::new() };
    let now = images.inspect(&name)?;
    let before = at(&now, "Id").map(Value::to_text);
    let fits = before.is_some() && args.platform.as_ref().is_none_or(|wanted| is_for(&now, wanted));
    let is_right = fits && (args.pull == "not_present" || is_current(&name, &now, &mut images)?);
    let fetched =
        if is_right { None } else { images.pull(&name, args.platform.as_ref(), before.as_ref())? };
    let image = images.inspect(&name)?;
    images.system.applied(Applied { kind: "image".into(), id: name, state: state("present") });
    // What the registry has may have turned out to be what is here.
    let changed = fetched.map(|_| at(&image, "Id").map(Value::to_text) != before);
    let outcome = Outcome::default().set("image", image).set("actions", images.actions);
    Ok(Outcome { changed, ..outcome })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    const HERE: &str = r#"[{"Id": "sha256:1", "Os": "linux", "Architecture": "amd64"}]"#;

    #[test]
    fn images_are_fetched_if_the_registry_has_another() {
        let of = |digest: &str| format!(r#"{{"SchemaV2Manifest": {{"config": {{"digest": "{digest}"}}}}}}"#);
        let list =
            format!(r#"[{}, {{"OCIManifest": {{"config": {{"digest": "sha256:1"}}}}}}]"#, of("sha256:3"));
        let pull = vec!["pull --quiet a:latest"];
        let table: [(&str, Output, Vec<&str>, Option<bool>); 8] = [
            (r#"{"name": "a"}"#, Output::ok(&of("sha256:1")), vec![], None),
            (r#"{"name": "a"}"#, Output::ok(&list), vec![], None),
            (r#"{"name": "a"}"#, Output::ok(&of("sha256:2")), pull.clone(), Some(false)),
            (r#"{"name": "a"}"#, Output::fails(1, "no such manifest"), pull, Some(false)),
            (r#"{"name": "a", "pull": "not_present"}"#, Output::fails(1, ""), vec![], None),
            (r#"{"name": "a", "pull": "not_present", "platform": "x86_64"}"#, Output::ok(""), vec![], None),
            (
                r#"{"name": "a", "pull": "not_present", "platform": "linux/arm64/v8"}"#,
                Output::ok(""),
                vec!["pull --quiet --platform linux/arm64/v8 a:latest"],
                Some(false),
            ),
            (
                r#"{"name": "b", "tag": "2", "pull": "not_present"}"#,
                Output::ok(""),
                vec!["pull --quiet b:2"],
                Some(false),
            ),
        ];
        for (given, manifest, expected, changed) in table {
            let mut fake = Fake::new()
                .with_program("/usr/bin/docker")
                .with_command_prefix(&["docker"], Output::ok(""))
                .with_command_prefix(&["docker", "image", "inspect"], Output::fails(1, "No such image"))
                .with_command(&["docker", "image", "inspect", "a:latest"], Output::ok(HERE))
                .with_command_prefix(&["docker", "manifest"], manifest);
            let arguments: Value = serde_json::from_str(given).expect("JSON");
            let outcome = call(&MODULE, &arguments, &mut fake).expect("it works");
            let acted: Vec<&str> =
                fake.log().iter().filter_map(|line| line.strip_prefix("! /usr/bin/docker ")).collect();
            assert_eq!((acted, outcome.changed), (expected, changed), "{given}");
        }
        let arguments: Value = serde_json::from_str(r#"{"name": "sha256:1"}"#).expect("JSON");
        let error = call(&MODULE, &arguments, &mut Fake::new()).expect_err("an id");
        assert!(error.starts_with("Cannot pull an image by ID"), "{error}");
    }
}
