//! `openssl_publickey`: the public part of private keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::module::files::FileArgs;
use crate::module::openssl::{self, Call, Key};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, typed};
use crate::system::System;

/// Writes public keys.
pub const MODULE: Module = Module {
    name: "community.crypto.openssl_publickey",
    summary: "Write the public key of a private key to a file",
    description: "The key is read with the host's openssl. A file that holds the same key in the same form is left as it is, \
        with the comment that an OpenSSH key may have.",
    example: "- community.crypto.openssl_publickey:\n    path: /etc/ssl/public/example.pem\n    privatekey_path: /etc/ssl/private/example.key\n",
    scope: Scope::Host,
    file_params: true,
    params: &[
        Param::new("path", Type::Path, "The file.").required(),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("format", Type::Str, "Form of the file.").choices(&["OpenSSH", "PEM"]).default("PEM"),
        Param::new("privatekey_path", Type::Path, "File with the private key."),
        Param::new("privatekey_content", Type::Str, "The private key.").secret(),
        Param::new("privatekey_passphrase", Type::Str, "Its passphrase.").secret(),
        Param::new("force", Type::Bool, "Write it each time.").default("false"),
        Param::new("backup", Type::Bool, "Keep a copy of the file that is replaced or removed.")
            .default("false"),
        Param::new("return_content", Type::Bool, "Return the public key too.").default("false"),
        Param::new("select_crypto_backend", Type::Str, "Has no effect: openssl is used.")
            .choices(&["auto", "cryptography"])
            .default("auto"),
    ],
    rules: &[
        Rule::MutuallyExclusive(&["privatekey_path", "privatekey_content"]),
        Rule::RequiredIf {
            param: "state",
            value: "present",
            needs: &["privatekey_path", "privatekey_content"],
            any: true,
        },
    ],
    returns: &[
        ("filename", "The file."),
        ("format", "Its form."),
        ("privatekey", "File with the private key."),
        ("fingerprint", "Digests of the public key."),
        ("backup_file", "The copy of what was there."),
        ("publickey", "The public key, if asked for."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    path: String,
    state: String,
    format: String,
    privatekey_path: Option<String>,
    privatekey_content: Option<String>,
    privatekey_passphrase: Option<String>,
    force: bool,
    backup: bool,
    return_content: bool,
    #[serde(flatten)]
    file: FileArgs,
}

const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const OBJECT: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// The content of the next element of this kind in DER, and what comes after it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, length], rest) = der.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match usize::from(length) {
        short @ 0..0x80 => (short, rest),
        long => {
            let (bytes, rest) = rest.split_at_checked(long & 0x7f)?;
            (
                bytes
                    .iter()
                    .try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add((*byte).into()))?,
                rest,
            )
        }
    };
    rest.split_at_checked(length)
}

/// What OpenSSH calls the curves, by their identifiers.
const CURVES: [(&[u8], &str); 3] = [
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07], "nistp256"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x22], "nistp384"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x23], "nistp521"),
];

/// The line by which OpenSSH knows a public key, without a comment. `None` if it has no form for this kind.
fn for_openssh(der: &[u8]) -> Option<String> {
    let (key, _) = element(der, SEQUENCE)?;
    let (algorithm, key) = element(key, SEQUENCE)?;
    let (kind, parameters) = element(algorithm, OBJECT)?;
    let (bits, _) = element(key, BITS)?;
    // The first byte tells how many bits of the last one are not used: none.
    let bits = bits.get(1..)?;
    let mut parts: Vec<&[u8]> = Vec::new();
    let name = match kind {
        // rsaEncryption
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01] => {
            let (numbers, _) = element(bits, SEQUENCE)?;
            let (modulus, rest) = element(numbers, INTEGER)?;
            let (exponent, _) = element(rest, INTEGER)?;
            parts.extend([exponent, modulus]);
            "ssh-rsa".to_string()
        }
        // id-ecPublicKey
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01] => {
            let (curve, _) = element(parameters, OBJECT)?;
            let (_, curve) = CURVES.iter().find(|(known, _)| *known == curve)?;
            parts.extend([curve.as_bytes(), bits]);
            format!("ecdsa-sha2-{curve}")
        }
        // id-Ed25519
        [0x2b, 0x65, 0x70] => {
            parts.push(bits);
            "ssh-ed25519".to_string()
        }
        _ => return None,
    };
    parts.insert(0, name.as_bytes());
    let mut blob = Vec::new();
    for part in parts {
        blob.extend(u32::try_from(part.len()).ok()?.to_be_bytes());
        blob.extend(part);
    }
    Some(format!("{name} {}", STANDARD.encode(blob)))
}

/// The key as a file of openssl's.
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n");
    format!("-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n")
}

/// Whether a file holds this key: layout and a comment do not matter.
fn is_same(there: &[u8], wanted: &str, format: &str) -> bool {
    let there = String::from_utf8_lossy(there);
    let words = there.split_whitespace();
    if format == "OpenSSH" {
        return words.take(2).eq(wanted.split_whitespace());
    }
    words.collect::<String>() == wanted.split_whitespace().collect::<String>()
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let product = openssl::product(&args.path, &args.file, args.backup, 0o644, system)?;
    if args.state == "absent" {
        return Ok(product.remove(system)?.set("format", args.format.as_str()));
    }
    let key = Key::read(
        args.privatekey_path.as_deref(),
        args.privatekey_content.as_deref(),
        args.privatekey_passphrase.as_deref(),
        system,
    )?;
    let der = Call::new(["pkey", "-pubout", "-outform", "DER"])
        .passin(key.passphrase)
        .reading(&key.text)
        .get("failed to read the private key", system)?;
    let content = match args.format.as_str() {
        "OpenSSH" => for_openssh(&der).ok_or_else(|| {
            ModuleError::new("OpenSSH has no form for keys of this kind: use RSA, Ed25519 or a NIST curve")
        })?,
        _ => pem(&der),
    };
    let is_there = product.before.as_ref().is_some_and(|there| is_same(there, &content, &args.format));
    let outcome = if is_there && !args.force {
        product.keep(system)?
    } else {
        product.put(content.as_bytes(), system)?
    };
    let outcome = outcome
        .set("format", args.format.as_str())
        .set("privatekey", args.privatekey_path.clone())
        .set("fingerprint", openssl::fingerprints(&der));
    Ok(if args.return_content { outcome.set("publickey", content) } else { outcome })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    /// Keys with what openssl and ssh-keygen make of them: `openssl pkey -pubout`, `ssh-keygen -y`.
    const KEYS: [(&str, &str, &str); 4] = [
        (
            "-----BEGIN PRIVATE KEY-----\nMIICdwIBADANBgkqhkiG9w0BAQEFAASCAmEwggJdAgEAAoGBAL5cHLezwLnwnfFt\nZgqDqyjD14LUHs8tKQENDWEd8qhvz+rsAy1Oy+PDfJxAssX8wRao//ekXL/9DKHU\nDkUHo5M60mrgkKD0qQjViqWB6ofl8cVNdk1Y7fa67nP1Ly+oTiHK8+RhiwOrzjaf\nTwwusr6dEIStkSKZrSVuVkOgb7HLAgMBAAECgYALRFpyyRHkL4i5rHb4slhkHktY\nNAPq0Up3BHXBRMuDCrMsvXFmsh5BSeXLPc0XCOHI3JHh73mJ54li3rFFhrE4wHWp\nvaLrv8YILaGf7MwJiAbWc2EMZQ9SC/HAgcVrvC235iYhANwKapT+4Qu1stvlq9WP\nEU8bAA4s1AOYpWnnCQJBAOyQJhMBL5WUJOQI96uoeLvPRt9+xuwoTCZYr76veIfB\n79eXFGPheExXv9eI2/Xprzegrn9gYOGj1ZMM/MT3g8UCQQDOACCNGqt36SNSd9/3\nZAaUsc54CAoDuYQWR/4wbpa/1T99GF05UfLyNicvnRboXMqDhBqgneTzSiDJ5rNa\nzmhPAkB2ThSsdnBcpszYOd/auhM/IYb5KIbE/dYvazTg8RIfGo8ey1CILu8hhtTL\nLoeKcQaOlE4QJ5vr3CpoMxuKSZpdAkEAjL1rf9vzwEXpGwPJYXTWRirAnCMp7GeH\nxc1D7gTwO3nPGYFW172UVUUIOrCBoRkcRwQvSQL3E/zWL/rNGMIiYwJBAMM2U1jF\nAug5tgXTPK5wC9KG77IxRt1+0gyBrtjSo7a9734psvopAlCDSEaIoRU+9rDW6y6N\nP26Jb6JK/2BxtSM=\n-----END PRIVATE KEY-----\n",
            "-----BEGIN PUBLIC KEY-----\nMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC+XBy3s8C58J3xbWYKg6sow9eC\n1B7PLSkBDQ1hHfKob8/q7AMtTsvjw3ycQLLF/MEWqP/3pFy//Qyh1A5FB6OTOtJq\n4JCg9KkI1YqlgeqH5fHFTXZNWO32uu5z9S8vqE4hyvPkYYsDq842n08MLrK+nRCE\nrZEima0lblZDoG+xywIDAQAB\n-----END PUBLIC KEY-----\n",
            "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC+XBy3s8C58J3xbWYKg6sow9eC1B7PLSkBDQ1hHfKob8/q7AMtTsvjw3ycQLLF/MEWqP/3pFy//Qyh1A5FB6OTOtJq4JCg9KkI1YqlgeqH5fHFTXZNWO32uu5z9S8vqE4hyvPkYYsDq842n08MLrK+nRCErZEima0lblZDoG+xyw==",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQghNU3LgyhEz+TI5zf\nPqBJEOJ7AjmqRIF6qeKm4IXzCpahRANCAATN/YhILglJm1k8upm1wWUEDPRdheiG\nd10XuOxJ0zmn+J3kQHlIk5V1NGlF4GemMXaQv4hi3BuQ/yVYfZerk+J4\n-----END PRIVATE KEY-----\n",
            "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEzf2ISC4JSZtZPLqZtcFlBAz0XYXo\nhnddF7jsSdM5p/id5EB5SJOVdTRpReBnpjF2kL+IYtwbkP8lWH2Xq5PieA==\n-----END PUBLIC KEY-----\n",
            "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBM39iEguCUmbWTy6mbXBZQQM9F2F6IZ3XRe47EnTOaf4neRAeUiTlXU0aUXgZ6YxdpC/iGLcG5D/JVh9l6uT4ng=",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIPokvof9/xu3gu3yKPsaAIDX3opg8+Vwc5XoMsRxJdFr\n-----END PRIVATE KEY-----\n",
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAD2KgOAjcb5pc1k/RW9ta+2rrQNLe+UWsdYgOSsukzCI=\n-----END PUBLIC KEY-----\n",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA9ioDgI3G+aXNZP0VvbWvtq60DS3vlFrHWIDkrLpMwi",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VuBCIEICjSkKsl1RPE+FaqVgQFdN/sGnMMX0K25e0ZLcHa2Utp\n-----END PRIVATE KEY-----\n",
            "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VuAyEA9KRquZQDaUwQw0zRPVB/aaDCIlvdcwoFLibzfWX7cWQ=\n-----END PUBLIC KEY-----\n",
            "",
        ),
    ];

    #[test]
    fn public_keys_are_written_once() {
        for (private, pem, openssh) in KEYS {
            let start = format!("f k 600 {private}");
            for (format, public) in [("PEM", pem), ("OpenSSH", openssh)] {
                let arguments = format!(
                    r#"{{"path": "@/p", "privatekey_path": "@/k", "format": "{format}", "return_content": true}}"#
                );
                let verdict = contract(&MODULE, &[&start], &arguments);
                if public.is_empty() {
                    assert!(verdict.error.unwrap_or_default().starts_with("OpenSSH has no form"));
                    continue;
                }
                assert_eq!((verdict.error.clone(), verdict.changed), (None, true), "{format}");
                assert_eq!(verdict.text("publickey"), *public, "{format}");
                assert!(verdict.tree[1].starts_with("f p 644 "), "{:?}", verdict.tree);
            }
        }
    }

    #[test]
    fn a_file_with_the_key_stays_and_another_is_replaced() {
        let (private, _, openssh) = KEYS[0];
        let key = format!("f k 600 {private}");
        for (there, changed) in
            [(format!("f p 600 {openssh} me@here\n"), false), ("f p 600 ssh-ed25519 AAAA\n".into(), true)]
        {
            let arguments = r#"{"path": "@/p", "privatekey_path": "@/k", "format": "OpenSSH"}"#;
            let verdict = contract(&MODULE, &[&key, &there], arguments);
            assert_eq!((verdict.error, verdict.changed), (None, changed), "{there}");
        }
        let gone = contract(&MODULE, &["f p 644 x"], r#"{"path": "@/p", "state": "absent"}"#);
        assert!(gone.changed && gone.tree.is_empty());
        let broken = contract(&MODULE, &["f k 600 x"], r#"{"path": "@/p", "privatekey_path": "@/k"}"#);
        assert!(broken.error.unwrap_or_default().starts_with("failed to read the private key"));
        let none = contract(&MODULE, &[], r#"{"path": "@/p"}"#);
        assert!(none.error.unwrap_or_default().contains("privatekey_path, privatekey_content"));
    }
}
