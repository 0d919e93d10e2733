//! `openssl_privatekey`: private keys.

use serde::Deserialize;

use crate::module::files::FileArgs;
use crate::module::openssl::{self, Call, FROM_ENVIRONMENT, Product};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, typed};
use crate::system::System;
use crate::value::Value;

/// Makes private keys.
pub const MODULE: Module = Module {
    name: "community.crypto.openssl_privatekey",
    summary: "Make a private key",
    description: "Makes a key with the host's openssl unless there is one that is as asked for. Nothing but openssl \
        needs to be installed. A passphrase is never on a command line, and the key is in no diff.",
    example: "- community.crypto.openssl_privatekey:\n    path: /etc/ssl/private/example.key\n    size: 2048\n",
    scope: Scope::Host,
    file_params: true,
    params: &[
        Param::new("path", Type::Path, "The file.").required(),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("type", Type::Str, "Kind of key.")
            .choices(&["DSA", "ECC", "Ed25519", "Ed448", "RSA", "X25519", "X448"])
            .default("RSA"),
        Param::new("size", Type::Int, "Bits of an RSA or DSA key.").default("4096"),
        Param::new("curve", Type::Str, "Curve of an ECC key.").choices(&[
            "secp224r1",
            "secp256k1",
            "secp256r1",
            "secp384r1",
            "secp521r1",
            "secp192r1",
            "brainpoolP256r1",
            "brainpoolP384r1",
            "brainpoolP512r1",
            "sect163k1",
            "sect163r2",
            "sect233k1",
            "sect233r1",
            "sect283k1",
            "sect283r1",
            "sect409k1",
            "sect409r1",
            "sect571k1",
            "sect571r1",
        ]),
        Param::new("passphrase", Type::Str, "Passphrase that protects the key.").secret(),
        Param::new(
            "cipher",
            Type::Str,
            "How it is protected: a cipher of openssl; `auto` for AES with 256 bits.",
        )
        .default("auto"),
        Param::new("format", Type::Str, "Form of the file; `auto_ignore` takes any for a key that is there.")
            .choices(&["pkcs1", "pkcs8", "raw", "auto", "auto_ignore"])
            .default("auto_ignore"),
        Param::new("format_mismatch", Type::Str, "What becomes of a key in another form.")
            .choices(&["regenerate", "convert"])
            .default("regenerate"),
        Param::new(
            "regenerate",
            Type::Str,
            "When a key that is not as asked for is replaced by a new one, and when that is a failure.",
        )
        .choices(&["never", "fail", "partial_idempotence", "full_idempotence", "always"])
        .default("full_idempotence"),
        Param::new("force", Type::Bool, "Make a new key each time.").default("false"),
        Param::new("backup", Type::Bool, "Keep a copy of the key that is replaced or removed.")
            .default("false"),
        Param::new("return_content", Type::Bool, "Return the key too.").default("false"),
        Param::new("select_crypto_backend", Type::Str, "Has no effect: openssl is used.")
            .choices(&["auto", "cryptography"])
            .default("auto"),
    ],
    rules: &[Rule::RequiredIf { param: "type", value: "ECC", needs: &["curve"], any: false }],
    returns: &[
        ("filename", "The file."),
        ("size", "Bits of the key."),
        ("type", "Kind of key."),
        ("curve", "Curve of an ECC key."),
        ("fingerprint", "Digests of the public key."),
        ("backup_file", "The copy of the key that was there."),
        ("privatekey", "The key, if asked for."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    path: String,
    state: String,
    r#type: String,
    size: i64,
    curve: Option<String>,
    passphrase: Option<String>,
    cipher: String,
    format: String,
    format_mismatch: String,
    regenerate: String,
    force: bool,
    backup: bool,
    return_content: bool,
    #[serde(flatten)]
    file: FileArgs,
}

/// Curves as openssl calls them, where that is another name.
const CURVES: [(&str, &str); 2] = [("secp256r1", "prime256v1"), ("secp192r1", "prime192v1")];

fn curve(name: &str) -> &str {
    CURVES.iter().find(|(known, _)| *known == name).map_or(name, |(_, openssl)| openssl)
}

/// What a key is.
#[derive(Debug, PartialEq, Eq)]
struct Nature {
    kind: String,
    size: i64,
    curve: Option<String>,
}

/// Reads what `openssl pkey -text` prints.
fn nature(text: &str) -> Option<Nature> {
    let head = text.lines().next()?;
    let digits: String =
        head.split_once('(').map_or("", |(_, rest)| rest).chars().take_while(char::is_ascii_digit).collect();
    let size = digits.parse().unwrap_or(0);
    let curve =
        text.lines().find_map(|line| line.strip_prefix("ASN1 OID: ")).map(|name| name.trim().to_string());
    let bare = ["ED25519", "ED448", "X25519", "X448"].iter().find(|name| head.starts_with(**name));
    let kind = match bare {
        Some(name) => name.replace("ED", "Ed"),
        None if curve.is_some() => "ECC".into(),
        None if text.contains("\nmodulus:") => "RSA".into(),
        None => "DSA".into(),
    };
    let size = match kind.as_str() {
        "Ed25519" | "X25519" => 256,
        "Ed448" => 456,
        "X448" => 448,
        _ => size,
    };
    Some(Nature { kind, size, curve })
}

/// The form that a key's file has.
fn form(text: &[u8]) -> &'static str {
    let text = String::from_utf8_lossy(text);
    if text.contains("-----BEGIN PRIVATE KEY") || text.contains("-----BEGIN ENCRYPTED PRIVATE KEY") {
        "pkcs8"
    } else if text.contains(" PRIVATE KEY-----") {
        "pkcs1"
    } else {
        "raw"
    }
}

/// The form that is asked for; `None` if any is good for a key that is there.
fn wanted_form(args: &Args) -> Option<&'static str> {
    match args.format.as_str() {
        "pkcs1" => Some("pkcs1"),
        "pkcs8" => Some("pkcs8"),
        "raw" => Some("raw"),
        "auto" => Some(natural_form(args)),
        _ => None,
    }
}

fn natural_form(args: &Args) -> &'static str {
    if ["RSA", "DSA", "ECC"].contains(&args.r#type.as_str()) { "pkcs1" } else { "pkcs8" }
}

fn generate(args: &Args, system: &mut dyn System) -> Result<Vec<u8>, ModuleError> {
    let call = match args.r#type.as_str() {
        "DSA" => {
            Call::new(["dsaparam".to_string(), "-genkey".into(), "-noout".into(), args.size.to_string()])
        }
        "RSA" => Call::new([
            "genpkey".to_string(),
            "-algorithm".into(),
            "RSA".into(),
            "-pkeyopt".into(),
            format!("rsa_keygen_bits:{}", args.size),
        ]),
        "ECC" => Call::new([
            "genpkey".to_string(),
            "-algorithm".into(),
            "EC".into(),
            "-pkeyopt".into(),
            format!("ec_paramgen_curve:{}", curve(args.curve.as_deref().unwrap_or_default())),
            "-pkeyopt".into(),
            "ec_param_enc:named_curve".into(),
        ]),
        other => Call::new(["genpkey", "-algorithm", other]),
    };
    call.get("failed to make the key", system)
}

/// The key in a form, protected if a passphrase is given.
fn shaped(
    args: &Args,
    key: &[u8],
    from: Option<&str>,
    form: &str,
    system: &mut dyn System,
) -> Result<Vec<u8>, ModuleError> {
    let natural = ["RSA", "DSA", "ECC"].contains(&args.r#type.as_str());
    match form {
        "raw" => {
            if natural {
                return Err(ModuleError::new(format!(
                    "a key of type {} can't be written in the form raw",
                    args.r#type
                )));
            }
            let call = Call::new(["pkey", "-outform", "DER"]).passin(from).reading(key);
            let der = call.get("failed to read the key", system)?;
            // The key itself is the last octet string.
            let length = match args.r#type.as_str() {
                "Ed448" => 57,
                "X448" => 56,
                _ => 32,
            };
            return Ok(der[der.len().saturating_sub(length)..].to_vec());
        }
        "pkcs1" if !natural => {
            return Err(ModuleError::new(format!(
                "a key of type {} can't be written in the form pkcs1",
                args.r#type
            )));
        }
        _ => {}
    }
    let mut call = Call::new(["pkey"]).passin(from).reading(key);
    if form == "pkcs1" {
        call = call.with(["-traditional"]);
    }
    if args.passphrase.is_some() {
        let cipher = if args.cipher == "auto" { "-aes256".to_string() } else { format!("-{}", args.cipher) };
        call = call.with([cipher, "-passout".into(), FROM_ENVIRONMENT.into()]);
    }
    call.passphrase(args.passphrase.as_deref()).get("failed to write the key", system)
}

/// What a key that is there is; the reason if it can't be read.
fn look(args: &Args, key: &[u8], system: &mut dyn System) -> Result<Result<Nature, String>, ModuleError> {
    let encrypted = String::from_utf8_lossy(key).contains("ENCRYPTED");
    if encrypted != args.passphrase.is_some() && form(key) != "raw" {
        return Ok(Err(if encrypted {
            "the key is protected by a passphrase, and none was given".into()
        } else {
            "the key is not protected by the passphrase that was given".into()
        }));
    }
    if form(key) == "raw" {
        return Ok(raw_nature(args, key).ok_or_else(|| "it is not a key".into()));
    }
    let call = Call::new(["pkey", "-noout", "-text"]).passin(args.passphrase.as_deref()).reading(key);
    let output = call.ask(system)?;
    let read = if output.success() { nature(&output.stdout_text()) } else { None };
    Ok(read.ok_or_else(|| format!("unable to read the key: {}", openssl::complaint(&output))))
}

fn raw_nature(args: &Args, key: &[u8]) -> Option<Nature> {
    let size = match (args.r#type.as_str(), key.len()) {
        ("Ed25519" | "X25519", 32) => 256,
        ("Ed448", 57) => 456,
        ("X448", 56) => 448,
        _ => return None,
    };
    Some(Nature { kind: args.r#type.clone(), size, curve: None })
}

fn is_as_asked(args: &Args, nature: &Nature) -> bool {
    nature.kind == args.r#type
        && match args.r#type.as_str() {
            "RSA" | "DSA" => nature.size == args.size,
            "ECC" => nature.curve.as_deref() == args.curve.as_deref().map(curve),
            _ => true,
        }
}

/// What is to be done with the key that is there.
enum Verdict {
    Keep,
    Convert,
    Replace,
}

fn judge(args: &Args, key: &[u8], system: &mut dyn System) -> Result<Verdict, ModuleError> {
    if args.force || args.regenerate == "always" {
        return Ok(Verdict::Replace);
    }
    if args.regenerate == "never" {
        return Ok(Verdict::Keep);
    }
    let refuse = |why: &str| {
        Err(ModuleError::new(format!(
            "{why}. Will not proceed. To force regeneration, set regenerate to full_idempotence or always, or set force"
        )))
    };
    match look(args, key, system)? {
        Err(why) if args.regenerate != "full_idempotence" => refuse(&why),
        Err(_) => Ok(Verdict::Replace),
        Ok(nature) if !is_as_asked(args, &nature) => {
            if args.regenerate == "fail" {
                refuse("Key has wrong type and/or size")
            } else {
                Ok(Verdict::Replace)
            }
        }
        Ok(_) if wanted_form(args).is_none_or(|wanted| wanted == form(key)) => Ok(Verdict::Keep),
        Ok(_) if args.format_mismatch == "convert" => Ok(Verdict::Convert),
        Ok(_) if args.regenerate == "fail" => refuse("Key has wrong format"),
        Ok(_) => Ok(Verdict::Replace),
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let product =
        Product { secret: true, ..openssl::product(&args.path, &args.file, args.backup, 0o600, system)? };
    if args.state == "absent" {
        return product.remove(system);
    }
    let verdict = match &product.before {
        None => Verdict::Replace,
        Some(key) => judge(args, key, system)?,
    };
    let content = match (verdict, &product.before) {
        (Verdict::Keep, Some(key)) => key.clone(),
        (Verdict::Convert, Some(key)) => {
            let wanted = wanted_form(args).unwrap_or_else(|| natural_form(args));
            shaped(args, key, args.passphrase.as_deref(), wanted, system)?
        }
        _ => {
            let key = generate(args, system)?;
            shaped(args, &key, None, wanted_form(args).unwrap_or_else(|| natural_form(args)), system)?
        }
    };
    let outcome = product.put(&content, system)?;
    describe(args, &content, outcome, system)
}

fn describe(
    args: &Args,
    key: &[u8],
    outcome: Outcome,
    system: &mut dyn System,
) -> Result<Outcome, ModuleError> {
    // With `never`, what is there may be anything.
    let nature = look(args, key, system)?.unwrap_or(Nature {
        kind: args.r#type.clone(),
        size: args.size,
        curve: None,
    });
    let mut outcome = outcome.set("type", nature.kind.as_str()).set("size", nature.size);
    if let Some(name) = nature.curve {
        let known =
            CURVES.iter().find(|(_, openssl)| *openssl == name).map_or(name.as_str(), |(known, _)| known);
        outcome = outcome.set("curve", known);
    }
    let public =
        Call::new(["pkey", "-pubout", "-outform", "DER"]).passin(args.passphrase.as_deref()).reading(key);
    let public = public.ask(system)?;
    if public.success() {
        outcome = outcome.set("fingerprint", openssl::fingerprints(&public.stdout));
    }
    if args.return_content {
        let text = match std::str::from_utf8(key) {
            Ok(text) => text.to_string(),
            Err(_) => base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key),
        };
        outcome = outcome.set("privatekey", Value::from(text));
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    #[test]
    fn keys_are_made_once() {
        for (arguments, kind, size) in [
            (r#""type": "ECC", "curve": "secp256r1""#, "ECC", "256"),
            (r#""type": "Ed25519""#, "Ed25519", "256"),
            (r#""type": "X448", "format": "raw""#, "X448", "448"),
            (r#""size": 1024, "passphrase": "secret", "format": "pkcs8""#, "RSA", "1024"),
            (r#""size": 1024, "passphrase": "secret""#, "RSA", "1024"),
        ] {
            let verdict = contract(&MODULE, &[], &format!(r#"{{"path": "@/k", {arguments}}}"#));
            assert_eq!((verdict.error.clone(), verdict.changed), (None, true), "{arguments}");
            assert_eq!(
                (verdict.text("type").as_str(), verdict.text("size").as_str()),
                (kind, size),
                "{arguments}"
            );
            assert!(verdict.tree[0].starts_with("f k 600 "), "{arguments}: {:?}", verdict.tree);
        }
        let verdict = contract(&MODULE, &["f k 600 x"], r#"{"path": "@/k", "state": "absent"}"#);
        assert!(verdict.changed && verdict.tree.is_empty());
    }

    #[test]
    fn a_key_that_is_not_as_asked_is_replaced_or_refused() {
        for (regenerate, error) in [
            ("never", None),
            ("fail", Some("unable to read the key")),
            ("partial_idempotence", Some("unable to read the key")),
            ("full_idempotence", None),
        ] {
            let start = "f k 600 -----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
            let verdict = contract(
                &MODULE,
                &[start],
                &format!(r#"{{"path": "@/k", "type": "Ed25519", "regenerate": "{regenerate}"}}"#),
            );
            match error {
                Some(error) => {
                    assert!(verdict.error.as_ref().is_some_and(|said| said.starts_with(error)), "{verdict:?}")
                }
                None => assert_eq!((verdict.error, verdict.changed), (None, regenerate != "never")),
            }
        }
    }

    #[test]
    fn what_openssl_prints_is_read() {
        for (text, kind, size, curve) in [
            ("Private-Key: (2048 bit, 2 primes)\nmodulus:\n", "RSA", 2048, None),
            ("RSA Private-Key: (1024 bit)\nmodulus:\n", "RSA", 1024, None),
            (
                "Private-Key: (256 bit)\npriv:\nASN1 OID: prime256v1\nNIST CURVE: P-256\n",
                "ECC",
                256,
                Some("prime256v1"),
            ),
            ("Private-Key: (1024 bit)\npriv:\n", "DSA", 1024, None),
            ("ED448 Private-Key:\npriv:\n", "Ed448", 456, None),
        ] {
            let expected = Nature { kind: kind.into(), size, curve: curve.map(String::from) };
            assert_eq!(nature(text), Some(expected), "{text}");
        }
    }
}
