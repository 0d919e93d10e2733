//! Files of known hosts: which keys a host may show, and which authorities may vouch for it.
//!
//! The format is OpenSSH's: plain and hashed names, `[host]:port`, wildcards and negation,
//! `@cert-authority` and `@revoked`. All files are read once per run; keys that the user accepts are
//! appended in one write.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Algorithm, Certificate, HashAlg, PublicKey, PublicKeyOrCertificate};
use sha1::Sha1;

use super::error::{Cause, ChangedKey};

/// What a line says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Marker {
    None,
    Authority,
    Revoked,
}

/// The names of a line.
#[derive(Clone, Debug)]
enum Names {
    /// Comma-separated patterns, lower case.
    Patterns(Vec<String>),
    /// `|1|salt|hash`.
    Hashed { salt: Vec<u8>, hash: Vec<u8> },
}

/// A line.
#[derive(Debug)]
struct Entry {
    marker: Marker,
    names: Names,
    key: PublicKey,
    file: Arc<Path>,
    line: usize,
}

impl Entry {
    fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

/// Several files, read.
#[derive(Debug, Default)]
pub(super) struct KnownHosts {
    entries: Vec<Entry>,
    /// Plain names without wildcards, to the indices of their entries.
    plain: HashMap<String, Vec<usize>>,
    /// The entries that have to be matched one by one.
    others: Vec<usize>,
}

/// What the files say about a key.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is this host's.
    Known,
    /// Nothing is known about the host.
    Unknown,
    /// It must not be used.
    Refused(Cause),
}

impl KnownHosts {
    /// Reads the files; those that don't exist are empty.
    pub(super) fn read(files: &[PathBuf]) -> Result<KnownHosts, Cause> {
        let mut known = KnownHosts::default();
        for file in files {
            match std::fs::read(file) {
                Ok(bytes) => known.add_text(file, &String::from_utf8_lossy(&bytes)),
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                    ) => {}
                Err(error) => {
                    return Err(Cause::KnownHosts { path: file.clone(), problem: error.to_string() });
                }
            }
        }
        Ok(known)
    }

    /// Adds the lines of a file. Lines that are not understood are skipped, as OpenSSH does: key types
    /// that we don't know must not keep the user from hosts that don't use them.
    fn add_text(&mut self, file: &Path, text: &str) {
        let file: Arc<Path> = file.into();
        for (number, line) in text.lines().enumerate() {
            if let Some((marker, names, key)) = parse_line(line) {
                self.add(Entry { marker, names, key, file: file.clone(), line: number + 1 });
            }
        }
    }

    fn add(&mut self, entry: Entry) {
        let index = self.entries.len();
        match &entry.names {
            Names::Patterns(patterns) if !patterns.iter().any(|p| p.contains(['*', '?', '!'])) => {
                for name in patterns {
                    self.plain.entry(name.clone()).or_default().push(index);
                }
            }
            _ => self.others.push(index),
        }
        self.entries.push(entry);
    }

    /// The entries that speak of `name` (already in the files' form).
    fn matching(&self, name: &str) -> Vec<&Entry> {
        let mut found: Vec<usize> = self.plain.get(name).cloned().unwrap_or_default();
        found.extend(self.others.iter().copied().filter(|&index| self.entries[index].names.matches(name)));
        found.sort_unstable();
        found.into_iter().map(|index| &self.entries[index]).collect()
    }

    /// What is known about `key` for the host.
    pub(super) fn check(&self, host: &str, port: u16, key: &PublicKeyOrCertificate, now: u64) -> Verdict {
        let name = name_in_file(host, port);
        let verdict = self.check_name(&name, host, key, now);
        if matches!(verdict, Verdict::Unknown) && port != 22 {
            // A key listed without its port vouches for the host on every port, but an entry that
            // differs says nothing: it belongs to the server on port 22.
            let bare = self.check_name(&host.to_lowercase(), host, key, now);
            if matches!(bare, Verdict::Known) {
                return bare;
            }
        }
        verdict
    }

    fn check_name(&self, name: &str, host: &str, key: &PublicKeyOrCertificate, now: u64) -> Verdict {
        let entries = self.matching(name);
        let public = key.public_key();
        for entry in entries.iter().filter(|entry| entry.marker == Marker::Revoked) {
            let signer = key.certificate().map(|certificate| certificate.signature_key());
            if entry.key.key_data() == public.key_data() || signer == Some(entry.key.key_data()) {
                return Verdict::Refused(Cause::HostKeyRevoked {
                    host: name.to_owned(),
                    algorithm: entry.key.algorithm().to_string(),
                    fingerprint: entry.key.fingerprint(HashAlg::Sha256).to_string(),
                    place: entry.place(),
                });
            }
        }
        if let Some(certificate) = key.certificate() {
            let authority = entries.iter().find(|entry| {
                entry.marker == Marker::Authority && entry.key.key_data() == certificate.signature_key()
            });
            if authority.is_some() {
                return match certificate_problem(certificate, host, now) {
                    None => Verdict::Known,
                    Some(problem) => {
                        Verdict::Refused(Cause::HostCertificate { host: host.to_owned(), problem })
                    }
                };
            }
        }
        let mut plain = entries.iter().filter(|entry| entry.marker == Marker::None).peekable();
        let Some(first) = plain.peek().copied() else { return Verdict::Unknown };
        let mut differing = first;
        for entry in plain {
            if entry.key.key_data() == public.key_data() {
                return Verdict::Known;
            }
            // Name the entry of the same type if there is one: that is the one which changed.
            if entry.key.algorithm() == public.algorithm() {
                differing = entry;
            }
        }
        Verdict::Refused(Cause::HostKeyChanged(Box::new(ChangedKey {
            host: name.to_owned(),
            offered: public.fingerprint(HashAlg::Sha256).to_string(),
            offered_algorithm: public.algorithm().to_string(),
            known: differing.key.fingerprint(HashAlg::Sha256).to_string(),
            known_algorithm: differing.key.algorithm().to_string(),
            place: differing.place(),
        })))
    }

    /// The key types listed for the host, and whether an authority may vouch for it: what the
    /// negotiation should prefer.
    pub(super) fn known_types(&self, host: &str, port: u16) -> (Vec<Algorithm>, bool) {
        let mut entries = self.matching(&name_in_file(host, port));
        if entries.is_empty() && port != 22 {
            entries = self.matching(&host.to_lowercase());
        }
        let mut types = Vec::new();
        for entry in entries.iter().filter(|entry| entry.marker == Marker::None) {
            let algorithm = entry.key.algorithm();
            if !types.contains(&algorithm) {
                types.push(algorithm);
            }
        }
        (types, entries.iter().any(|entry| entry.marker == Marker::Authority))
    }

    /// Takes a key for good: later checks of this run know it.
    pub(super) fn learn(&mut self, file: &Path, host: &str, port: u16, key: &PublicKey) {
        let names = Names::Patterns(vec![name_in_file(host, port)]);
        self.add(Entry { marker: Marker::None, names, key: key.clone(), file: file.into(), line: 0 });
    }
}

impl Names {
    fn matches(&self, name: &str) -> bool {
        match self {
            Names::Patterns(patterns) => pattern_list_matches(patterns.iter().map(String::as_str), name),
            Names::Hashed { salt, hash } => hash_name(salt, name) == *hash,
        }
    }
}

/// The name as the files write it: `[host]:port` unless the port is the usual one.
pub(super) fn name_in_file(host: &str, port: u16) -> String {
    let host = host.to_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

fn hash_name(salt: &[u8], name: &str) -> Vec<u8> {
    // HMAC takes keys of any length, so this can't fail; an empty hash matches nothing.
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(salt) else { return Vec::new() };
    mac.update(name.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// Whether a list of patterns with `!` negation matches: one positive match, and no negated one.
pub(super) fn pattern_list_matches<'a>(patterns: impl Iterator<Item = &'a str>, name: &str) -> bool {
    let mut matched = false;
    for pattern in patterns {
        if let Some(negated) = pattern.strip_prefix('!') {
            if wildcard_matches(negated, name) {
                return false;
            }
        } else if wildcard_matches(pattern, name) {
            matched = true;
        }
    }
    matched
}

/// `*` and `?`, in time linear in the text for each star.
pub(super) fn wildcard_matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            star = Some((star_p, star_t + 1));
            p = star_p + 1;
            t = star_t + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

fn parse_line(line: &str) -> Option<(Marker, Names, PublicKey)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let mut fields = line.split_ascii_whitespace();
    let mut names = fields.next()?;
    let mut marker = Marker::None;
    if names.starts_with('@') {
        marker = match names {
            "@cert-authority" => Marker::Authority,
            "@revoked" => Marker::Revoked,
            _ => return None,
        };
        names = fields.next()?;
    }
    let (kind, blob) = (fields.next()?, fields.next()?);
    let blob = BASE64.decode(blob).ok()?;
    let key = russh::keys::key::parse_public_key(&blob).ok()?;
    // The type is written twice; a line whose two types differ was tampered with or broken.
    if key.algorithm().to_string() != kind {
        return None;
    }
    let names = match names.strip_prefix("|1|") {
        Some(rest) => {
            let (salt, hash) = rest.split_once('|')?;
            Names::Hashed { salt: BASE64.decode(salt).ok()?, hash: BASE64.decode(hash).ok()? }
        }
        None => Names::Patterns(names.split(',').map(str::to_lowercase).collect()),
    };
    Some((marker, names, key))
}

/// Why a certificate signed by a trusted authority is not good for the host; `None` if it is.
fn certificate_problem(certificate: &Certificate, host: &str, now: u64) -> Option<String> {
    if certificate.cert_type() != CertType::Host {
        return Some("is a user certificate, not a host's".to_owned());
    }
    if let Err(error) = certificate.verify_signature() {
        return Some(format!("does not carry a valid signature of its authority ({error})"));
    }
    if now < certificate.valid_after() {
        return Some("is not valid yet".to_owned());
    }
    if now >= certificate.valid_before() {
        return Some("has expired".to_owned());
    }
    if !certificate.critical_options().is_empty() {
        return Some("has critical options, which no host certificate may have".to_owned());
    }
    let principals = certificate.valid_principals();
    if principals.is_empty() {
        return Some("names no host".to_owned());
    }
    let host = host.to_lowercase();
    let named = principals.iter().any(|principal| wildcard_matches(&principal.to_lowercase(), &host));
    (!named).then(|| format!("is for {} and not for this host", principals.join(", ")))
}

/// Appends keys to the user's file in one write, creating it (and its directory) for the user alone.
pub(super) fn append(file: &Path, keys: &[(String, PublicKey)], hash_names: bool) -> Result<(), Cause> {
    let problem =
        |error: std::io::Error| Cause::KnownHosts { path: file.to_owned(), problem: error.to_string() };
    if let Some(directory) = file.parent().filter(|directory| !directory.exists()) {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(problem)?;
    }
    let mut text = String::new();
    for (name, key) in keys {
        let name = if hash_names { hashed(name) } else { name.clone() };
        let key = key.to_openssh().map_err(|error| problem(std::io::Error::other(error)))?;
        text.push_str(&format!("{name} {}\n", key.trim_end()));
    }
    use std::os::unix::fs::OpenOptionsExt;
    let mut opened = std::fs::OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)
        .map_err(problem)?;
    // Two runs may append at once: the lock covers looking at the last byte and the write.
    rustix::fs::flock(&opened, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|errno| problem(errno.into()))?;
    if opened.metadata().map_err(problem)?.len() > 0 {
        let mut last = [0];
        opened.seek(SeekFrom::End(-1)).map_err(problem)?;
        opened.read_exact(&mut last).map_err(problem)?;
        if last != *b"\n" {
            text.insert(0, '\n');
        }
    }
    opened.write_all(text.as_bytes()).map_err(problem)
}

fn hashed(name: &str) -> String {
    let salt: [u8; 20] = rand::random();
    format!("|1|{}|{}", BASE64.encode(salt), BASE64.encode(hash_name(&salt, name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use russh::keys::PrivateKey;
    use russh::keys::ssh_key::certificate::Builder;

    fn key(kind: Algorithm) -> PrivateKey {
        PrivateKey::random(&mut russh::keys::key::safe_rng(), kind).expect("a key")
    }

    fn line(key: &PrivateKey) -> String {
        key.public_key().to_openssh().expect("encodes").trim().to_owned()
    }

    fn plain(key: &PrivateKey) -> PublicKeyOrCertificate {
        PublicKeyOrCertificate::from(key.public_key().clone())
    }

    fn check(text: &str, host: &str, port: u16, key: &PublicKeyOrCertificate) -> String {
        let mut known = KnownHosts::default();
        known.add_text(Path::new("known"), text);
        match known.check(host, port, key, 1_000_000) {
            Verdict::Known => "known".to_owned(),
            Verdict::Unknown => "unknown".to_owned(),
            Verdict::Refused(Cause::HostKeyChanged(change)) => format!("changed {}", change.place),
            Verdict::Refused(Cause::HostKeyRevoked { place, .. }) => format!("revoked {place}"),
            Verdict::Refused(other) => other.to_string(),
        }
    }

    #[test]
    fn names_decide() {
        let (ours, other) = (key(Algorithm::Ed25519), key(Algorithm::Ed25519));
        let (good, bad) = (line(&ours), line(&other));
        let hashed_name = hashed("h");
        let hashed_port = hashed("[h]:2222");
        let cases = [
            ("".to_owned(), "h", 22, "unknown"),
            (format!("h {good}"), "h", 22, "known"),
            (format!("H,x {good}"), "h", 22, "known"),
            (format!("h {good} a comment"), "H", 22, "known"),
            (format!("h {bad}"), "h", 22, "changed known:1"),
            (format!("h {bad}\nh {good}"), "h", 22, "known"),
            (format!("# c\n\nh {bad}"), "h", 22, "changed known:3"),
            (format!("[h]:2222 {good}"), "h", 2222, "known"),
            (format!("[h]:2222 {good}"), "h", 22, "unknown"),
            (format!("h {good}"), "h", 2222, "known"),
            (format!("h {bad}"), "h", 2222, "unknown"),
            (format!("*.lan {good}"), "a.lan", 22, "known"),
            (format!("*.lan,!b.lan {good}"), "b.lan", 22, "unknown"),
            (format!("h? {good}"), "h1", 22, "known"),
            (format!("{hashed_name} {good}"), "h", 22, "known"),
            (format!("{hashed_name} {bad}"), "h", 22, "changed known:1"),
            (format!("{hashed_name} {good}"), "g", 22, "unknown"),
            (format!("{hashed_port} {good}"), "h", 2222, "known"),
            (format!("@revoked * {good}\nh {good}"), "h", 22, "revoked known:1"),
            (format!("@revoked * {bad}\nh {good}"), "h", 22, "known"),
            (format!("@cert-authority h {good}"), "h", 22, "unknown"),
            (format!("@strange h {good}"), "h", 22, "unknown"),
            ("h ssh-ed25519 notbase64".to_owned(), "h", 22, "unknown"),
            (format!("h {}", good.replace("ssh-ed25519 ", "ssh-rsa ")), "h", 22, "unknown"),
            ("h".to_owned(), "h", 22, "unknown"),
        ];
        for (text, host, port, expected) in cases {
            assert_eq!(check(&text, host, port, &plain(&ours)), expected, "{text} {host}:{port}");
        }
    }

    #[test]
    fn a_key_of_another_type_is_a_change() {
        let ours = key(Algorithm::Ed25519);
        let ecdsa = key(Algorithm::Ecdsa { curve: russh::keys::EcdsaCurve::NistP256 });
        assert_eq!(check(&format!("h {}", line(&ecdsa)), "h", 22, &plain(&ours)), "changed known:1");
        let mut known = KnownHosts::default();
        known.add_text(
            Path::new("known"),
            &format!("h {}\n@cert-authority *.lan {}", line(&ecdsa), line(&ours)),
        );
        assert_eq!(known.known_types("h", 22), (vec![ecdsa.algorithm()], false));
        assert_eq!(known.known_types("x.lan", 22), (vec![], true));
        assert_eq!(known.known_types("h", 99), (vec![ecdsa.algorithm()], false));
    }

    #[test]
    fn authorities_vouch() {
        let (host_key, authority, stranger) =
            (key(Algorithm::Ed25519), key(Algorithm::Ed25519), key(Algorithm::Ed25519));
        let certificate = |kind: CertType, principal: Option<&str>, until: u64, signer: &PrivateKey| {
            let public = host_key.public_key().key_data().clone();
            let mut builder =
                Builder::new_with_random_nonce(&mut russh::keys::key::safe_rng(), public, 1_000, until)
                    .expect("a builder");
            builder.cert_type(kind).expect("a type");
            match principal {
                Some(principal) => builder.valid_principal(principal).expect("a principal"),
                None => builder.all_principals_valid().expect("any principal"),
            };
            PublicKeyOrCertificate::from(builder.sign(signer).expect("a certificate"))
        };
        let trusting = format!("@cert-authority *.lan {}", line(&authority));
        let far = 2_000_000;
        let cases = [
            (trusting.clone(), certificate(CertType::Host, Some("h.lan"), far, &authority), "known"),
            (trusting.clone(), certificate(CertType::Host, Some("*.lan"), far, &authority), "known"),
            (trusting.clone(), certificate(CertType::Host, Some("h.lan"), far, &stranger), "unknown"),
            (
                trusting.clone(),
                certificate(CertType::Host, Some("g.lan"), far, &authority),
                "host certificate refused: h.lan presents a certificate that is for g.lan and not for this host",
            ),
            (
                trusting.clone(),
                certificate(CertType::Host, Some("h.lan"), 900_000, &authority),
                "host certificate refused: h.lan presents a certificate that has expired",
            ),
            (
                trusting.clone(),
                certificate(CertType::User, Some("h.lan"), far, &authority),
                "host certificate refused: h.lan presents a certificate that is a user certificate, not a host's",
            ),
            (
                trusting.clone(),
                certificate(CertType::Host, None, far, &authority),
                "host certificate refused: h.lan presents a certificate that names no host",
            ),
            (
                format!("{trusting}\n@revoked * {}", line(&authority)),
                certificate(CertType::Host, Some("h.lan"), far, &authority),
                "revoked known:2",
            ),
            (
                format!("{trusting}\n@revoked * {}", line(&host_key)),
                certificate(CertType::Host, Some("h.lan"), far, &authority),
                "revoked known:2",
            ),
            // Without an authority the key inside still counts.
            (
                format!("h.lan {}", line(&host_key)),
                certificate(CertType::Host, Some("x"), far, &stranger),
                "known",
            ),
        ];
        for (text, certificate, expected) in cases {
            assert_eq!(check(&text, "h.lan", 22, &certificate), expected, "{text}");
        }
    }

    #[test]
    fn accepted_keys_are_appended_whole() {
        let home = tempfile::TempDir::new().expect("a directory");
        let file = home.path().join("new/known_hosts");
        let (first, second) = (key(Algorithm::Ed25519), key(Algorithm::Ed25519));
        append(&file, &[("a".to_owned(), first.public_key().clone())], false).expect("appends");
        // Somebody's editor left no newline at the end.
        let text = std::fs::read_to_string(&file).expect("readable");
        std::fs::write(&file, text.trim_end()).expect("writable");
        let both = [
            ("b".to_owned(), second.public_key().clone()),
            ("[c]:23".to_owned(), first.public_key().clone()),
        ];
        append(&file, &both, true).expect("appends");
        let text = std::fs::read_to_string(&file).expect("readable");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.ends_with('\n') && text.starts_with("a ssh-ed25519 "), "{text}");
        assert!(!text.contains("[c]"), "hashed: {text}");
        for (host, port, key) in [("a", 22, &first), ("b", 22, &second), ("c", 23, &first)] {
            assert_eq!(check(&text, host, port, &plain(key)), "known", "{host}");
        }
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn wildcards() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b", "a-c", false),
            ("?", "", false),
            ("10.0.*.1", "10.0.255.1", true),
            ("*a*a*a*a*a*a*a*a*b", &"a".repeat(64), false),
        ] {
            assert_eq!(wildcard_matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
