//! `openssl_csr`: requests for certificates.

use serde::Deserialize;

use crate::module::files::FileArgs;
use crate::module::openssl::{self, Call, Key, escaped, extension, meaning};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::System;
use crate::value::{Map, Value};

/// Makes requests for certificates.
pub const MODULE: Module = Module {
    name: "community.crypto.openssl_csr",
    summary: "Make a request for a certificate",
    description: "Makes a request with the host's openssl. What is asked for is compared with the request that is there \
        by what both say, key included, so that it is made anew only if it would say something else.",
    example: "- community.crypto.openssl_csr:\n    path: /etc/ssl/example.csr\n    privatekey_path: /etc/ssl/private/example.key\n    common_name: www.example.com\n    subject_alt_name: ['DNS:www.example.com', 'DNS:example.com']\n",
    scope: Scope::Host,
    file_params: true,
    params: &[
        Param::new("path", Type::Path, "The file.").required(),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("privatekey_path", Type::Path, "The private key's file."),
        Param::new("privatekey_content", Type::Str, "The private key.").secret(),
        Param::new("privatekey_passphrase", Type::Str, "Passphrase of the private key.").secret(),
        Param::new("common_name", Type::Str, "Name in the subject.").aliases(&["CN", "commonName"]),
        Param::new("country_name", Type::Str, "Country in the subject, two letters.")
            .aliases(&["C", "countryName"]),
        Param::new("state_or_province_name", Type::Str, "State or province in the subject.")
            .aliases(&["ST", "stateOrProvinceName"]),
        Param::new("locality_name", Type::Str, "Town in the subject.").aliases(&["L", "localityName"]),
        Param::new("organization_name", Type::Str, "Organisation in the subject.")
            .aliases(&["O", "organizationName"]),
        Param::new("organizational_unit_name", Type::Str, "Unit of the organisation in the subject.")
            .aliases(&["OU", "organizationalUnitName"]),
        Param::new("email_address", Type::Str, "Address in the subject.").aliases(&["E", "emailAddress"]),
        Param::new(
            "subject",
            Type::Dict,
            "Further fields of the subject; a list gives a field several times.",
        ),
        Param::new("subject_ordered", Type::List, "The whole subject, as a list of mappings, in this order."),
        Param::new(
            "subject_alt_name",
            Type::List,
            "Other names, such as `DNS:example.com` or `IP:10.0.0.1`.",
        )
        .aliases(&["subjectAltName"]),
        Param::new("subject_alt_name_critical", Type::Bool, "They must be understood.")
            .aliases(&["subjectAltName_critical"])
            .default("false"),
        Param::new("use_common_name_for_san", Type::Bool, "Without other names, the common name is one.")
            .aliases(&["useCommonNameForSAN"])
            .default("true"),
        Param::new("key_usage", Type::List, "What the key is for.").aliases(&["keyUsage"]),
        Param::new("key_usage_critical", Type::Bool, "It must be understood.")
            .aliases(&["keyUsage_critical"])
            .default("false"),
        Param::new("extended_key_usage", Type::List, "What the certificate is for.")
            .aliases(&["extKeyUsage", "extendedKeyUsage"]),
        Param::new("extended_key_usage_critical", Type::Bool, "It must be understood.")
            .aliases(&["extKeyUsage_critical", "extendedKeyUsage_critical"])
            .default("false"),
        Param::new(
            "basic_constraints",
            Type::List,
            "Whether it is an authority, such as `CA:TRUE` and `pathlen:0`.",
        )
        .aliases(&["basicConstraints"]),
        Param::new("basic_constraints_critical", Type::Bool, "They must be understood.")
            .aliases(&["basicConstraints_critical"])
            .default("false"),
        Param::new("ocsp_must_staple", Type::Bool, "Servers must send proof that it has not been revoked.")
            .aliases(&["ocspMustStaple"])
            .default("false"),
        Param::new("ocsp_must_staple_critical", Type::Bool, "It must be understood.")
            .aliases(&["ocspMustStaple_critical"])
            .default("false"),
        Param::new("name_constraints_permitted", Type::List, "Names that an authority may certify."),
        Param::new("name_constraints_excluded", Type::List, "Names that an authority may not certify."),
        Param::new("name_constraints_critical", Type::Bool, "They must be understood.").default("false"),
        Param::new("create_subject_key_identifier", Type::Bool, "With an identifier made from the key.")
            .default("false"),
        Param::new("subject_key_identifier", Type::Str, "Identifier, as bytes in hexadecimal with colons."),
        Param::new("authority_key_identifier", Type::Str, "Not supported.").refused(
            "openssl makes it only from the authority's certificate; x509_certificate adds it when it signs",
        ),
        Param::new("authority_cert_issuer", Type::List, "Not supported.")
            .refused("openssl makes it only from the authority's certificate"),
        Param::new("authority_cert_serial_number", Type::Int, "Not supported.")
            .refused("openssl makes it only from the authority's certificate"),
        Param::new(
            "crl_distribution_points",
            Type::List,
            "Where lists of revoked certificates are: mappings with `full_name` and `reasons`.",
        ),
        Param::new("digest", Type::Str, "Digest for the signature.").default("sha256"),
        Param::new("version", Type::Int, "Version of the request.").default("1"),
        Param::new("force", Type::Bool, "Make a new request each time.").default("false"),
        Param::new("backup", Type::Bool, "Keep a copy of the request that is replaced or removed.")
            .default("false"),
        Param::new("return_content", Type::Bool, "Return the request too.").default("false"),
        Param::new("select_crypto_backend", Type::Str, "Has no effect: openssl is used.")
            .choices(&["auto", "cryptography"])
            .default("auto"),
    ],
    rules: &[
        Rule::MutuallyExclusive(&["privatekey_path", "privatekey_content"]),
        Rule::MutuallyExclusive(&["subject", "subject_ordered"]),
        Rule::RequiredTogether(&["authority_cert_issuer", "authority_cert_serial_number"]),
        Rule::RequiredIf {
            param: "state",
            value: "present",
            needs: &["privatekey_path", "privatekey_content"],
            any: true,
        },
    ],
    returns: &[
        ("filename", "The file."),
        ("privatekey", "The private key's file."),
        ("subject", "The subject, as pairs of field and value."),
        ("subjectAltName", "Other names."),
        ("keyUsage", "What the key is for."),
        ("extendedKeyUsage", "What the certificate is for."),
        ("basicConstraints", "Whether it is an authority."),
        ("ocsp_must_staple", "Whether proof must be sent."),
        ("name_constraints_permitted", "Names that may be certified."),
        ("name_constraints_excluded", "Names that may not be certified."),
        ("backup_file", "The copy of the request that was there."),
        ("csr", "The request, if asked for."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    path: String,
    state: String,
    privatekey_path: Option<String>,
    privatekey_content: Option<String>,
    privatekey_passphrase: Option<String>,
    common_name: Option<String>,
    country_name: Option<String>,
    state_or_province_name: Option<String>,
    locality_name: Option<String>,
    organization_name: Option<String>,
    organizational_unit_name: Option<String>,
    email_address: Option<String>,
    subject: Option<Map>,
    subject_ordered: Option<Vec<Map>>,
    #[serde(deserialize_with = "host::optional_texts")]
    subject_alt_name: Option<Vec<String>>,
    subject_alt_name_critical: bool,
    use_common_name_for_san: bool,
    #[serde(deserialize_with = "host::optional_texts")]
    key_usage: Option<Vec<String>>,
    key_usage_critical: bool,
    #[serde(deserialize_with = "host::optional_texts")]
    extended_key_usage: Option<Vec<String>>,
    extended_key_usage_critical: bool,
    #[serde(deserialize_with = "host::optional_texts")]
    basic_constraints: Option<Vec<String>>,
    basic_constraints_critical: bool,
    ocsp_must_staple: bool,
    ocsp_must_staple_critical: bool,
    #[serde(deserialize_with = "host::optional_texts")]
    name_constraints_permitted: Option<Vec<String>>,
    #[serde(deserialize_with = "host::optional_texts")]
    name_constraints_excluded: Option<Vec<String>>,
    name_constraints_critical: bool,
    create_subject_key_identifier: bool,
    subject_key_identifier: Option<String>,
    crl_distribution_points: Option<Vec<Map>>,
    digest: String,
    force: bool,
    backup: bool,
    return_content: bool,
    #[serde(flatten)]
    file: FileArgs,
}

/// The subject's fields in order.
fn subject(args: &Args) -> Result<Vec<(String, String)>, ModuleError> {
    let mut out = Vec::new();
    for (name, value) in [
        ("C", &args.country_name),
        ("ST", &args.state_or_province_name),
        ("L", &args.locality_name),
        ("O", &args.organization_name),
        ("OU", &args.organizational_unit_name),
        ("CN", &args.common_name),
        ("emailAddress", &args.email_address),
    ] {
        out.extend(value.iter().map(|value| (name.to_string(), value.clone())));
    }
    let mut add = |map: &Map| {
        for (name, value) in map.iter() {
            let values = match value {
                Value::List(items) => items.iter().map(Value::to_text).collect(),
                other => vec![other.to_text()],
            };
            out.extend(values.into_iter().map(|value| (name.to_text(), value)));
        }
    };
    if let Some(map) = &args.subject {
        add(map);
    }
    for map in args.subject_ordered.iter().flatten() {
        add(map);
    }
    match out.iter().find(|(name, value)| name.is_empty() || value.is_empty()) {
        Some((name, _)) => {
            Err(ModuleError::new(format!("Values for subject field {name} must not be empty")))
        }
        None => Ok(out),
    }
}

/// A section with numbered entries: `DNS.1 = a`.
fn numbered(section: &str, names: &[String]) -> Result<String, ModuleError> {
    let mut out = format!("[{section}]\n");
    for (index, name) in names.iter().enumerate() {
        let Some((kind, value)) = name.split_once(':') else {
            return Err(ModuleError::new(format!(
                "Cannot parse the name \"{name}\": it needs a kind, as in DNS:{name}"
            )));
        };
        let known = ["DNS", "IP", "email", "URI", "RID", "dirName", "otherName"];
        let Some(kind) = known.iter().find(|known| known.eq_ignore_ascii_case(kind)) else {
            return Err(ModuleError::new(format!(
                "Cannot parse the name \"{name}\": {kind} is not a kind of name"
            )));
        };
        out.push_str(&format!("{kind}.{index} = {}\n", escaped(value)));
    }
    Ok(out)
}

/// Settings for `openssl req`.
fn settings(args: &Args) -> Result<String, ModuleError> {
    let mut extensions: Vec<String> = Vec::new();
    let mut sections = String::new();
    let critical = |critical: bool| if critical { "critical," } else { "" };
    let mut add = |name: &str, is_critical: bool, value: String| {
        extensions.push(format!("{name} = {}{value}\n", critical(is_critical)));
    };
    let mut names = args.subject_alt_name.clone().unwrap_or_default();
    if names.is_empty()
        && args.use_common_name_for_san
        && let Some((_, name)) =
            subject(args)?.iter().find(|(name, _)| ["CN", "commonName"].contains(&name.as_str()))
    {
        names.push(format!("DNS:{name}"));
    }
    if !names.is_empty() {
        add("subjectAltName", args.subject_alt_name_critical, "@names".into());
        sections.push_str(&numbered("names", &names)?);
    }
    let lists = [
        ("keyUsage", &args.key_usage, args.key_usage_critical),
        ("extendedKeyUsage", &args.extended_key_usage, args.extended_key_usage_critical),
        ("basicConstraints", &args.basic_constraints, args.basic_constraints_critical),
    ];
    for (name, values, is_critical) in lists {
        if let Some(values) = values.as_ref().filter(|values| !values.is_empty()) {
            let values: Vec<String> = values.iter().map(|value| escaped(value)).collect();
            add(name, is_critical, values.join(","));
        }
    }
    if args.ocsp_must_staple {
        add("tlsfeature", args.ocsp_must_staple_critical, "status_request".into());
    }
    let constraints: Vec<String> =
        [("permitted", &args.name_constraints_permitted), ("excluded", &args.name_constraints_excluded)]
            .into_iter()
            .flat_map(|(kind, names)| names.iter().flatten().map(move |name| (kind, name)))
            .enumerate()
            .map(|(index, (kind, name))| {
                let (sort, value) = name.split_once(':').unwrap_or(("DNS", name));
                format!("{kind};{sort}.{index} = {}\n", escaped(value))
            })
            .collect();
    if !constraints.is_empty() {
        add("nameConstraints", args.name_constraints_critical, "@constraints".into());
        sections.push_str(&format!("[constraints]\n{}", constraints.concat()));
    }
    if args.create_subject_key_identifier {
        add("subjectKeyIdentifier", false, "hash".into());
    } else if let Some(identifier) = &args.subject_key_identifier {
        add("subjectKeyIdentifier", false, escaped(identifier));
    }
    let points = args.crl_distribution_points.as_deref().unwrap_or_default();
    for (index, point) in points.iter().enumerate() {
        sections.push_str(&distribution_point(index, point)?);
    }
    if !points.is_empty() {
        let names: Vec<String> = (0..points.len()).map(|index| format!("point{index}")).collect();
        add("crlDistributionPoints", false, names.join(","));
    }
    let mut out =
        "[req]\nprompt = no\nutf8 = yes\nstring_mask = utf8only\ndistinguished_name = subject\n".to_string();
    if !extensions.is_empty() {
        out.push_str("req_extensions = extensions\n");
    }
    out.push_str("[subject]\n");
    for (index, (name, value)) in subject(args)?.iter().enumerate() {
        out.push_str(&format!("{index}.{name} = {}\n", escaped(value)));
    }
    out.push_str("[extensions]\n");
    out.extend(extensions);
    out.push_str(&sections);
    Ok(out)
}

fn distribution_point(index: usize, point: &Map) -> Result<String, ModuleError> {
    let list = |name: &str| -> Vec<String> {
        match point.get(name) {
            Some(Value::List(items)) => items.iter().map(Value::to_text).collect(),
            None | Some(Value::Null) => Vec::new(),
            Some(other) => vec![other.to_text()],
        }
    };
    for name in ["relative_name", "crl_issuer"] {
        if !list(name).is_empty() {
            return Err(ModuleError::new(format!(
                "crl_distribution_points: {name} is not supported; full_name and reasons are"
            )));
        }
    }
    let mut out = format!(
        "[point{index}]\nfullname = {}\n",
        list("full_name").iter().map(|name| escaped(name)).collect::<Vec<_>>().join(",")
    );
    let reasons = list("reasons");
    if !reasons.is_empty() {
        let word = |name: &String| match name.as_str() {
            "key_compromise" => "keyCompromise",
            "ca_compromise" => "CACompromise",
            "affiliation_changed" => "affiliationChanged",
            "superseded" => "superseded",
            "cessation_of_operation" => "cessationOfOperation",
            "certificate_hold" => "certificateHold",
            "privilege_withdrawn" => "privilegeWithdrawn",
            _ => "AACompromise",
        };
        out.push_str(&format!("reasons = {}\n", reasons.iter().map(word).collect::<Vec<_>>().join(",")));
    }
    Ok(out)
}

/// Makes the request that is asked for.
fn make(args: &Args, key: &Key<'_>, system: &mut dyn System) -> Result<Vec<u8>, ModuleError> {
    let config = openssl::spool("request.cnf", settings(args)?.as_bytes(), system)?;
    let key_file = key.spooled("request.key", system)?;
    let mut call = Call::new(["req", "-new", "-batch", "-config", &config, "-key", &key_file]);
    if subject(args)?.is_empty() {
        call = call.with(["-subj", "/"]);
    }
    // Keys such as Ed25519 have a digest of their own; openssl ignores another.
    call.with([format!("-{}", args.digest)]).passin(key.passphrase).get("failed to make the request", system)
}

/// What a request says; `None` if it can't be read.
fn text(request: &[u8], system: &mut dyn System) -> Result<Option<String>, ModuleError> {
    let output = Call::new(["req", "-noout", "-text", "-nameopt", "RFC2253,-esc_msb,utf8", "-verify"])
        .reading(request)
        .ask(system)?;
    Ok(output.success().then(|| output.stdout_text()))
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let product = openssl::product(&args.path, &args.file, args.backup, 0o644, system)?;
    if args.state == "absent" {
        return product.remove(system);
    }
    let key = Key::read(
        args.privatekey_path.as_deref(),
        args.privatekey_content.as_deref(),
        args.privatekey_passphrase.as_deref(),
        system,
    )?;
    let wanted = make(args, &key, system)?;
    let wanted_text = text(&wanted, system)?
        .ok_or_else(|| ModuleError::new("openssl can't read the request that it has made"))?;
    let now = match &product.before {
        Some(request) if !args.force => text(request, system)?,
        _ => None,
    };
    let same = now.is_some_and(|now| meaning(&now, false) == meaning(&wanted_text, false));
    let content = match &product.before {
        Some(request) if same => request.clone(),
        _ => wanted,
    };
    let outcome = product.put(&content, system)?;
    describe(args, &wanted_text, &content, outcome)
}

fn describe(args: &Args, text: &str, content: &[u8], outcome: Outcome) -> Result<Outcome, ModuleError> {
    let pairs: Vec<Value> = subject(args)?
        .into_iter()
        .map(|(name, value)| Value::list(vec![name.into(), value.into()]))
        .collect();
    let names: Option<Vec<String>> = extension(text, "X509v3 Subject Alternative Name").map(|(_, lines)| {
        lines.join(" ").split(", ").map(|name| name.trim().replace("IP Address:", "IP:")).collect()
    });
    let mut outcome = outcome
        .set("privatekey", args.privatekey_path.clone())
        .set("subject", Value::list(pairs))
        .set("subjectAltName", names)
        .set("keyUsage", args.key_usage.clone())
        .set("extendedKeyUsage", args.extended_key_usage.clone())
        .set("basicConstraints", args.basic_constraints.clone())
        .set("ocsp_must_staple", args.ocsp_must_staple)
        .set("ocspMustStaple", args.ocsp_must_staple)
        .set("name_constraints_permitted", args.name_constraints_permitted.clone().unwrap_or_default())
        .set("name_constraints_excluded", args.name_constraints_excluded.clone().unwrap_or_default());
    if args.return_content {
        outcome = outcome.set("csr", String::from_utf8_lossy(content).into_owned());
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::args::check;
    use crate::module::contract::contract;
    use crate::value::map_of;

    /// Made for this test.
    pub(super) const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIGMdWgSVN8SN7i9d1WxEGoWGmWZjvhgbc8y3Zx8wYQ0a\n-----END PRIVATE KEY-----\n";

    #[test]
    fn requests_are_made_once() {
        let start = format!("f k 600 {KEY}");
        for (arguments, subject) in [
            (r#""common_name": "www.example.com""#, "[['CN', 'www.example.com']]"),
            (
                r#""subject": {"O": "A $B# & \"C\"", "OU": ["x", "y"]}, "subject_alt_name": ["DNS:a", "IP:10.0.0.1", "email:a@b.c"],
                   "key_usage": ["digitalSignature", "keyEncipherment"], "key_usage_critical": true,
                   "extended_key_usage": ["serverAuth"], "basic_constraints": ["CA:TRUE", "pathlen:0"],
                   "basic_constraints_critical": true, "ocsp_must_staple": true, "create_subject_key_identifier": true,
                   "name_constraints_permitted": ["DNS:a.b"], "name_constraints_excluded": ["IP:10.0.0.0/255.0.0.0"],
                   "crl_distribution_points": [{"full_name": ["URI:http://x/y"], "reasons": ["key_compromise"]}]"#,
                "[['O', 'A $B# & \"C\"'], ['OU', 'x'], ['OU', 'y']]",
            ),
            (
                r#""subject_ordered": [{"CN": "ä"}, {"C": "DE"}], "use_common_name_for_san": false"#,
                "[['CN', 'ä'], ['C', 'DE']]",
            ),
            (r#""digest": "sha512""#, "[]"),
        ] {
            let arguments = format!(r#"{{"path": "@/r", "privatekey_path": "@/k", {arguments}}}"#);
            let verdict = contract(&MODULE, &[&start], &arguments);
            assert_eq!((verdict.error.clone(), verdict.changed), (None, true), "{arguments}");
            assert_eq!(verdict.outcome.values.get("subject").map(Value::repr).as_deref(), Some(subject));
            assert!(
                verdict.tree[1].starts_with("f r 644 -----BEGIN CERTIFICATE REQUEST"),
                "{:?}",
                verdict.tree
            );
        }
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        for (name, expected) in [("a", "it needs a kind"), ("XX:a", "XX is not a kind of name")] {
            let error = numbered("names", &[name.to_string()]).expect_err("refused");
            assert!(error.message.contains(expected), "{}", error.message);
        }
        let args = [
            ("path", Value::from("/r")),
            ("privatekey_path", "/k".into()),
            ("authority_key_identifier", "00".into()),
        ];
        let errors = check(&MODULE, &map_of(args), &|_| true).expect_err("refused");
        assert!(errors[0].message.contains("authority_key_identifier"), "{errors:?}");
    }
}
