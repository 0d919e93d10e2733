//! `x509_certificate`: certificates, signed by their own key or by an authority of one's own.

use std::time::SystemTime;

use serde::Deserialize;

use crate::module::files::{self, FileArgs};
use crate::module::openssl::{self, Call, Key, meaning};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, clock, expand_path, typed};
use crate::system::System;
use crate::value::Value;

/// Makes certificates.
pub const MODULE: Module = Module {
    name: "community.crypto.x509_certificate",
    summary: "Make a certificate, signed by its own key or by an authority of your own",
    description: "Makes a certificate with the host's openssl: `selfsigned` or `ownca`. The certificate that is there is \
        kept if it says what the new one would say (names, key, extensions, issuer), whatever its time and serial number. \
        `acme` is not supported.",
    example: "- community.crypto.x509_certificate:\n    path: /etc/ssl/example.crt\n    privatekey_path: /etc/ssl/private/example.key\n    csr_path: /etc/ssl/example.csr\n    provider: selfsigned\n",
    scope: Scope::Host,
    file_params: true,
    params: &[
        Param::new("path", Type::Path, "The file.").required(),
        Param::new("provider", Type::Str, "Who signs it.").choices(&["acme", "ownca", "selfsigned"]),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("csr_path", Type::Path, "The request's file."),
        Param::new("csr_content", Type::Str, "The request."),
        Param::new("privatekey_path", Type::Path, "The private key's file."),
        Param::new("privatekey_content", Type::Str, "The private key.").secret(),
        Param::new("privatekey_passphrase", Type::Str, "Passphrase of the private key.").secret(),
        Param::new(
            "selfsigned_not_before",
            Type::Str,
            "From when it is valid: `YYYYMMDDHHMMSSZ`, or from now such as `+1d2h`.",
        )
        .aliases(&["selfsigned_notBefore"])
        .default("+0s"),
        Param::new("selfsigned_not_after", Type::Str, "Until when it is valid.")
            .aliases(&["selfsigned_notAfter"])
            .default("+3650d"),
        Param::new("selfsigned_digest", Type::Str, "Digest for the signature.").default("sha256"),
        Param::new("selfsigned_version", Type::Int, "Version of the certificate.").default("3"),
        Param::new(
            "selfsigned_create_subject_key_identifier",
            Type::Str,
            "Whether it has an identifier made from the key.",
        )
        .choices(&["create_if_not_provided", "always_create", "never_create"])
        .default("create_if_not_provided"),
        Param::new("ownca_path", Type::Path, "The authority's certificate, a file."),
        Param::new("ownca_content", Type::Str, "The authority's certificate."),
        Param::new("ownca_privatekey_path", Type::Path, "The authority's private key, a file."),
        Param::new("ownca_privatekey_content", Type::Str, "The authority's private key.").secret(),
        Param::new("ownca_privatekey_passphrase", Type::Str, "Passphrase of the authority's private key.")
            .secret(),
        Param::new(
            "ownca_not_before",
            Type::Str,
            "From when it is valid: `YYYYMMDDHHMMSSZ`, or from now such as `+1d2h`.",
        )
        .default("+0s"),
        Param::new("ownca_not_after", Type::Str, "Until when it is valid.").default("+3650d"),
        Param::new("ownca_digest", Type::Str, "Digest for the signature.").default("sha256"),
        Param::new("ownca_version", Type::Int, "Version of the certificate.").default("3"),
        Param::new(
            "ownca_create_subject_key_identifier",
            Type::Str,
            "Whether it has an identifier made from the key.",
        )
        .choices(&["create_if_not_provided", "always_create", "never_create"])
        .default("create_if_not_provided"),
        Param::new(
            "ownca_create_authority_key_identifier",
            Type::Bool,
            "Whether it names the authority's key.",
        )
        .default("true"),
        Param::new(
            "ignore_timestamps",
            Type::Bool,
            "That the time of a certificate is another one is no reason to make a new one.",
        )
        .default("true"),
        Param::new("force", Type::Bool, "Make a new certificate each time.").default("false"),
        Param::new("backup", Type::Bool, "Keep a copy of the certificate that is replaced or removed.")
            .default("false"),
        Param::new("return_content", Type::Bool, "Return the certificate too.").default("false"),
        Param::new("select_crypto_backend", Type::Str, "Has no effect: openssl is used.")
            .choices(&["auto", "cryptography"])
            .default("auto"),
        Param::new("acme_accountkey_path", Type::Path, "Not supported.")
            .refused("the provider acme is not supported; run an ACME client such as certbot"),
        Param::new("acme_challenge_path", Type::Path, "Not supported.")
            .refused("the provider acme is not supported; run an ACME client such as certbot"),
        Param::new("acme_chain", Type::Bool, "Not supported.")
            .refused("the provider acme is not supported; run an ACME client such as certbot"),
        Param::new("acme_directory", Type::Str, "Not supported.")
            .refused("the provider acme is not supported; run an ACME client such as certbot"),
    ],
    rules: &[
        Rule::MutuallyExclusive(&["csr_path", "csr_content"]),
        Rule::MutuallyExclusive(&["privatekey_path", "privatekey_content"]),
        Rule::MutuallyExclusive(&["ownca_path", "ownca_content"]),
        Rule::MutuallyExclusive(&["ownca_privatekey_path", "ownca_privatekey_content"]),
        Rule::RequiredIf { param: "state", value: "present", needs: &["provider"], any: false },
    ],
    returns: &[
        ("filename", "The file."),
        ("csr", "The request's file."),
        ("privatekey", "The private key's file."),
        ("notBefore", "From when it is valid."),
        ("notAfter", "Until when it is valid."),
        ("serial_number", "Its number, as text because it is large."),
        ("backup_file", "The copy of the certificate that was there."),
        ("certificate", "The certificate, if asked for."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    path: String,
    provider: Option<String>,
    state: String,
    csr_path: Option<String>,
    csr_content: Option<String>,
    privatekey_path: Option<String>,
    privatekey_content: Option<String>,
    privatekey_passphrase: Option<String>,
    selfsigned_not_before: String,
    selfsigned_not_after: String,
    selfsigned_digest: String,
    selfsigned_create_subject_key_identifier: String,
    ownca_path: Option<String>,
    ownca_content: Option<String>,
    ownca_privatekey_path: Option<String>,
    ownca_privatekey_content: Option<String>,
    ownca_privatekey_passphrase: Option<String>,
    ownca_not_before: String,
    ownca_not_after: String,
    ownca_digest: String,
    ownca_create_subject_key_identifier: String,
    ownca_create_authority_key_identifier: bool,
    ignore_timestamps: bool,
    force: bool,
    backup: bool,
    return_content: bool,
    #[serde(flatten)]
    file: FileArgs,
}

/// What both providers need, by the names of neither.
struct Order<'a> {
    own: bool,
    not_before: &'a str,
    not_after: &'a str,
    digest: &'a str,
    subject_identifier: &'a str,
    authority_identifier: bool,
}

impl<'a> Order<'a> {
    fn of(args: &'a Args) -> Result<Order<'a>, ModuleError> {
        match args.provider.as_deref() {
            Some("selfsigned") => Ok(Order {
                own: true,
                not_before: &args.selfsigned_not_before,
                not_after: &args.selfsigned_not_after,
                digest: &args.selfsigned_digest,
                subject_identifier: &args.selfsigned_create_subject_key_identifier,
                authority_identifier: false,
            }),
            Some("ownca") => Ok(Order {
                own: false,
                not_before: &args.ownca_not_before,
                not_after: &args.ownca_not_after,
                digest: &args.ownca_digest,
                subject_identifier: &args.ownca_create_subject_key_identifier,
                authority_identifier: args.ownca_create_authority_key_identifier,
            }),
            _ => Err(ModuleError::new(
                "the provider acme is not supported; run an ACME client such as certbot, or use selfsigned or ownca",
            )),
        }
    }
}

/// A time as `YYYYMMDDHHMMSSZ`: given so, or from `now` (seconds since the epoch) as `[+-]1w2d3h4m5s`.
fn time(text: &str, now: i64) -> Result<String, ModuleError> {
    let text = text.trim();
    let wrong = || {
        ModuleError::new(format!(
            "'{text}' is not a time: give it as YYYYMMDDHHMMSSZ, or from now such as +365d"
        ))
    };
    let digits = text.strip_suffix('Z').filter(|digits| digits.chars().all(|c| c.is_ascii_digit()));
    match digits.map(str::len) {
        Some(14) => return Ok(text.to_string()),
        // The first digits of a year in two are those of our century.
        Some(12) => return Ok(format!("20{text}")),
        _ => {}
    }
    let (sign, mut rest) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(rest), _) => (1, rest),
        (_, Some(rest)) => (-1, rest),
        _ => return Err(wrong()),
    };
    let mut seconds = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: i64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit = match &rest[end..=end] {
            "w" => 604_800,
            "d" => 86_400,
            "h" => 3600,
            "m" => 60,
            "s" => 1,
            _ => return Err(wrong()),
        };
        seconds += number * unit;
        rest = &rest[end + 1..];
    }
    let at = now + sign * seconds;
    let (year, month, day) = files::civil(at.div_euclid(86_400));
    let (hour, minute, second) = (at.rem_euclid(86_400) / 3600, at.rem_euclid(3600) / 60, at.rem_euclid(60));
    Ok(format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}Z"))
}

/// The request: the one that is given, or one with nothing but the key.
fn request(args: &Args, order: &Order<'_>, system: &mut dyn System) -> Result<Vec<u8>, ModuleError> {
    if let Some(content) = &args.csr_content {
        return Ok(content.as_bytes().to_vec());
    }
    if let Some(path) = &args.csr_path {
        let path = expand_path(path, system)?;
        if system.stat_follow(&path)?.is_none() {
            return Err(ModuleError::new(format!(
                "The certificate signing request file {} does not exist",
                path.display()
            )));
        }
        return Ok(system.read(&path)?);
    }
    if !order.own {
        return Err(ModuleError::new("csr_path or csr_content is required for ownca provider"));
    }
    let key = own_key(args, system)?;
    let config = openssl::spool(
        "empty.cnf",
        b"[req]\nprompt = no\ndistinguished_name = subject\n[subject]\n",
        system,
    )?;
    let file = key.spooled("certificate.key", system)?;
    Call::new(["req", "-new", "-batch", "-config", &config, "-key", &file, "-subj", "/"])
        .passin(key.passphrase)
        .get("failed to make a request", system)
}

fn own_key<'a>(args: &'a Args, system: &mut dyn System) -> Result<Key<'a>, ModuleError> {
    Key::read(
        args.privatekey_path.as_deref(),
        args.privatekey_content.as_deref(),
        args.privatekey_passphrase.as_deref(),
        system,
    )
}

/// Makes the certificate that is asked for.
fn make(args: &Args, order: &Order<'_>, system: &mut dyn System) -> Result<Vec<u8>, ModuleError> {
    let request = request(args, order, system)?;
    let known =
        Call::new(["req", "-noout", "-text"]).reading(&request).get("failed to read the request", system)?;
    let known = String::from_utf8_lossy(&known);
    let with_identifier = match order.subject_identifier {
        "always_create" => true,
        "never_create" => false,
        _ => !known.contains("X509v3 Subject Key Identifier"),
    };
    let mut extensions = String::new();
    if with_identifier {
        extensions.push_str("subjectKeyIdentifier = hash\n");
    }
    if order.authority_identifier {
        extensions.push_str("authorityKeyIdentifier = keyid\n");
    }
    openssl::spool("index.txt", b"", system)?;
    openssl::spool("index.txt.attr", b"unique_subject = no\n", system)?;
    let config = format!(
        "[ca]\ndefault_ca = signer\n[signer]\ndatabase = index.txt\nrand_serial = yes\nnew_certs_dir = .\npolicy = policy\n\
         copy_extensions = copy\nunique_subject = no\nemail_in_dn = yes\ndefault_md = {}\nx509_extensions = extensions\n\
         [policy]\n[extensions]\n{extensions}",
        order.digest
    );
    let config = openssl::spool("signer.cnf", config.as_bytes(), system)?;
    let request = openssl::spool("request.csr", &request, system)?;
    let now = clock::since_epoch(SystemTime::now()).0;
    let (start, end) = (time(order.not_before, now)?, time(order.not_after, now)?);
    let mut call = Call::new([
        "ca",
        "-config",
        &config,
        "-batch",
        "-notext",
        "-preserveDN",
        "-in",
        &request,
        "-startdate",
        &start,
        "-enddate",
        &end,
    ])
    .inside(&system.scratch()?);
    if order.own {
        let key = own_key(args, system)?;
        let file = key.spooled("signer.key", system)?;
        call = call.with(["-selfsign", "-keyfile", &file]).passin(key.passphrase);
    } else {
        let key = Key::read(
            args.ownca_privatekey_path.as_deref(),
            args.ownca_privatekey_content.as_deref(),
            args.ownca_privatekey_passphrase.as_deref(),
            system,
        )?;
        let authority = match (&args.ownca_content, &args.ownca_path) {
            (Some(content), _) => content.as_bytes().to_vec(),
            (None, Some(path)) => {
                let path = expand_path(path, system)?;
                if system.stat_follow(&path)?.is_none() {
                    return Err(ModuleError::new(format!(
                        "The CA certificate file {} does not exist",
                        path.display()
                    )));
                }
                system.read(&path)?
            }
            (None, None) => {
                return Err(ModuleError::new("ownca_path or ownca_content is required for ownca provider"));
            }
        };
        let (key_file, authority) =
            (key.spooled("signer.key", system)?, openssl::spool("signer.crt", &authority, system)?);
        call = call.with(["-keyfile", &key_file, "-cert", &authority]).passin(key.passphrase);
    }
    call.get("failed to sign the certificate", system)
}

fn text(certificate: &[u8], system: &mut dyn System) -> Result<Option<String>, ModuleError> {
    let output = Call::new(["x509", "-noout", "-text", "-nameopt", "RFC2253,-esc_msb,utf8"])
        .reading(certificate)
        .ask(system)?;
    Ok(output.success().then(|| output.stdout_text()))
}

/// `notBefore`, `notAfter` and the serial number.
fn dates(certificate: &[u8], system: &mut dyn System) -> Result<[String; 3], ModuleError> {
    let printed = Call::new(["x509", "-noout", "-startdate", "-enddate", "-serial"])
        .reading(certificate)
        .get("failed to read the certificate", system)?;
    let printed = String::from_utf8_lossy(&printed).into_owned();
    let value = |name: &str| {
        printed.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_string()
    };
    let time = |name: &str| asn1_time(&value(name)).unwrap_or_else(|| value(name));
    Ok([time("notBefore="), time("notAfter="), decimal(&value("serial="))])
}

/// `Jan  2 03:04:05 2040 GMT` as `20400102030405Z`.
fn asn1_time(text: &str) -> Option<String> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let words: Vec<&str> = text.split_whitespace().collect();
    let [month, day, time, year, ..] = words.as_slice() else { return None };
    let month = MONTHS.find(month)? / 3 + 1;
    let day: u32 = day.parse().ok()?;
    Some(format!("{year}{month:02}{day:02}{}Z", time.replace(':', "")))
}

/// A number in hexadecimal as a decimal one. It has more digits than a machine's numbers.
fn decimal(hex: &str) -> String {
    let mut digits = vec![0_u32];
    for digit in hex.chars().filter_map(|c| c.to_digit(16)) {
        let mut carry = digit;
        for place in &mut digits {
            let sum = *place * 16 + carry;
            (*place, carry) = (sum % 10, sum / 10);
        }
        while carry > 0 {
            digits.push(carry % 10);
            carry /= 10;
        }
    }
    digits.iter().rev().filter_map(|digit| char::from_digit(*digit, 10)).collect()
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let product = openssl::product(&args.path, &args.file, args.backup, 0o644, system)?;
    if args.state == "absent" {
        return product.remove(system);
    }
    let order = Order::of(args)?;
    let wanted = make(args, &order, system)?;
    let wanted_text = text(&wanted, system)?
        .ok_or_else(|| ModuleError::new("openssl can't read the certificate that it has made"))?;
    let same = match &product.before {
        Some(now) if !args.force => match text(now, system)? {
            Some(now_text) => {
                // A time that counts from now is never the same twice.
                let absolute = |time: &str| !time.starts_with(['+', '-']);
                let (now_dates, wanted_dates) = (dates(now, system)?, dates(&wanted, system)?);
                let same_time = args.ignore_timestamps
                    || [order.not_before, order.not_after]
                        .iter()
                        .zip(now_dates.iter().zip(&wanted_dates))
                        .all(|(time, (now, wanted))| !absolute(time) || now == wanted);
                same_time && meaning(&now_text, true) == meaning(&wanted_text, true)
            }
            None => false,
        },
        _ => false,
    };
    let content = match &product.before {
        Some(now) if same => now.clone(),
        _ => wanted,
    };
    let mut outcome = product
        .put(&content, system)?
        .set("csr", args.csr_path.clone())
        .set("privatekey", args.privatekey_path.clone());
    let [start, end, serial] = dates(&content, system)?;
    outcome = outcome.set("notBefore", start).set("notAfter", end).set("serial_number", serial);
    if !order.own {
        outcome = outcome
            .set("ca_cert", args.ownca_path.clone())
            .set("ca_privatekey", args.ownca_privatekey_path.clone());
    }
    if args.return_content {
        outcome = outcome.set("certificate", Value::from(String::from_utf8_lossy(&content).into_owned()));
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::contract;

    const KEY: &str = "f k 600 -----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIGMdWgSVN8SN7i9d1WxEGoWGmWZjvhgbc8y3Zx8wYQ0a\n-----END PRIVATE KEY-----\n";

    #[test]
    fn certificates_are_made_once() {
        let verdict = contract(
            &MODULE,
            &[KEY],
            r#"{"path": "@/ca", "privatekey_path": "@/k", "provider": "selfsigned", "selfsigned_not_before": "20240101000000Z", "selfsigned_not_after": "20400101000000Z", "ignore_timestamps": false}"#,
        );
        assert_eq!((verdict.error.clone(), verdict.changed), (None, true));
        assert_eq!(verdict.text("notAfter"), "20400101000000Z");
        let authority = verdict.tree.iter().find(|line| line.starts_with("f ca 644 ")).expect("made");
        let own = contract(
            &MODULE,
            &[KEY, authority],
            r#"{"path": "@/ca", "privatekey_path": "@/k", "provider": "selfsigned"}"#,
        );
        assert_eq!((own.error, own.changed), (None, false));
        let missing = contract(
            &MODULE,
            &[KEY, authority],
            r#"{"path": "@/c", "provider": "ownca", "ownca_path": "@/ca", "ownca_privatekey_path": "@/k"}"#,
        );
        assert_eq!(missing.error.as_deref(), Some("csr_path or csr_content is required for ownca provider"));
        let acme = contract(&MODULE, &[KEY], r#"{"path": "@/c", "provider": "acme"}"#);
        assert!(acme.error.is_some_and(|error| error.starts_with("the provider acme is not supported")));
    }

    #[test]
    fn an_authority_signs_requests() {
        use crate::module::openssl_csr;
        let request = contract(
            &openssl_csr::MODULE,
            &[KEY],
            r#"{"path": "@/r", "privatekey_path": "@/k", "common_name": "a", "basic_constraints": "CA:TRUE"}"#,
        );
        let request = request.tree.iter().find(|line| line.starts_with("f r 644 ")).expect("made");
        let verdict = contract(
            &MODULE,
            &[KEY, request],
            r#"{"path": "@/ca", "csr_path": "@/r", "privatekey_path": "@/k", "provider": "selfsigned"}"#,
        );
        let authority = verdict.tree.iter().find(|line| line.starts_with("f ca 644 ")).expect("made");
        let verdict = contract(
            &MODULE,
            &[KEY, request, authority],
            r#"{"path": "@/c", "csr_path": "@/r", "provider": "ownca", "ownca_path": "@/ca", "ownca_privatekey_path": "@/k", "ownca_not_after": "+1d"}"#,
        );
        assert_eq!((verdict.error.clone(), verdict.changed), (None, true));
    }

    #[test]
    fn what_openssl_prints_is_read() {
        assert_eq!(asn1_time("Jan  2 03:04:05 2040 GMT").as_deref(), Some("20400102030405Z"));
        assert_eq!(asn1_time("never"), None);
        assert_eq!(decimal("FFFFFFFFFFFFFFFFFFFF"), "1208925819614629174706175");
        assert_eq!(decimal("00"), "0");
    }

    #[test]
    fn times_are_given_in_two_ways() {
        for (text, expected) in [
            ("20240102030405Z", Some("20240102030405Z")),
            ("240102030405Z", Some("20240102030405Z")),
            ("+0s", Some("19700101000000Z")),
            ("+1w1d1h1m1s", Some("19700109010101Z")),
            ("-1d", Some("19691231000000Z")),
            ("1d", None),
            ("+1x", None),
            ("soon", None),
        ] {
            assert_eq!(time(text, 0).ok().as_deref(), expected, "{text}");
        }
    }
}
