//! Password hashes as `crypt(3)` writes them: MD5, SHA-256, SHA-512 and bcrypt.

use blowfish::Blowfish;
use minijinja::value::Value as V;
use sha2::{Digest, Sha256, Sha512};

use super::random::Twister;
use crate::template::error::TemplateError;
use crate::template::object::R;
use crate::template::registry::{Call, Function, function};

pub(super) const TABLE: &[Function] =
    &[function("password_hash", "password hashtype? salt? salt_size? rounds? ident?", password_hash)];

const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const BCRYPT_ALPHABET: &[u8; 64] = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Which hash, with what it needs.
#[derive(Clone, Debug, Default)]
pub(in crate::template) struct Request {
    pub(in crate::template) kind: String,
    pub(in crate::template) salt: Option<String>,
    pub(in crate::template) salt_size: Option<usize>,
    pub(in crate::template) rounds: Option<u32>,
    pub(in crate::template) ident: Option<String>,
}

fn password_hash(call: &mut Call) -> R {
    let number = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
    let request = Request {
        kind: call.text_or(1, "sha512")?,
        salt: call.some(2).map(|salt| crate::template::ops::to_text(&salt)).transpose()?,
        salt_size: number(call.int(3).map_err(|_| TemplateError::runtime("salt_size must be an integer"))?)
            .and_then(|size| usize::try_from(size).ok()),
        rounds: number(call.int(4)?),
        ident: call.some(5).map(|ident| crate::template::ops::to_text(&ident)).transpose()?,
    };
    hash(&call.text(0)?, &request).map(V::from)
}

/// Letters and digits for a salt.
pub(in crate::template) fn random_salt(length: usize) -> String {
    let mut generator = Twister::from_chance();
    (0..length).map(|_| char::from(ALPHABET[2 + usize::try_from(generator.below(62)).unwrap_or(0)])).collect()
}

/// Hashes a password.
pub(in crate::template) fn hash(password: &str, request: &Request) -> R<String> {
    let kind = match request.kind.as_str() {
        "md5" | "md5_crypt" => "md5_crypt",
        "blowfish" | "bcrypt" => "bcrypt",
        "sha256" | "sha256_crypt" => "sha256_crypt",
        "sha512" | "sha512_crypt" => "sha512_crypt",
        other => {
            return Err(TemplateError::runtime(format!(
                "{other} is not in the list of supported passlib algorithms: md5, blowfish, sha256, sha512"
            )));
        }
    };
    let limit = if kind == "md5_crypt" { 8 } else { 16 };
    if kind != "bcrypt" {
        if let Some(salt) = &request.salt {
            let fits = salt.len() <= limit && salt.bytes().all(|byte| ALPHABET.contains(&byte));
            if !fits {
                return Err(TemplateError::runtime(format!(
                    "Could not hash the secret. The salt must have at most {limit} characters out of ./0-9A-Za-z"
                )));
            }
        }
        if request.salt_size.is_some_and(|size| size > limit) {
            return Err(TemplateError::runtime("Could not hash the secret. The salt is too long"));
        }
    }
    let salt = || request.salt.clone().unwrap_or_else(|| random_salt(request.salt_size.unwrap_or(limit)));
    match kind {
        "md5_crypt" => Ok(md5_crypt(password.as_bytes(), salt().as_bytes())),
        "sha256_crypt" => {
            sha_crypt::<Sha256>('5', password.as_bytes(), &salt(), request.rounds.unwrap_or(535_000))
        }
        "sha512_crypt" => {
            sha_crypt::<Sha512>('6', password.as_bytes(), &salt(), request.rounds.unwrap_or(656_000))
        }
        _ => bcrypt(password, request),
    }
}

/// Three bytes as four characters, least significant bits first.
fn encode_group(out: &mut String, high: u8, middle: u8, low: u8, characters: usize) {
    let mut bits = u32::from(high) << 16 | u32::from(middle) << 8 | u32::from(low);
    for _ in 0..characters {
        out.push(char::from(ALPHABET[(bits & 63) as usize]));
        bits >>= 6;
    }
}

fn md5_crypt(password: &[u8], salt: &[u8]) -> String {
    use md5::Md5;
    let mut alternate = Md5::new();
    alternate.update(password);
    alternate.update(salt);
    alternate.update(password);
    let alternate = alternate.finalize();
    let mut context = Md5::new();
    context.update(password);
    context.update(b"$1$");
    context.update(salt);
    for index in 0..password.len() {
        context.update([alternate[index % 16]]);
    }
    let mut length = password.len();
    while length > 0 {
        context.update(if length & 1 == 1 { [0] } else { [password[0]] });
        length >>= 1;
    }
    let mut digest = context.finalize();
    for round in 0..1000 {
        let mut context = Md5::new();
        if round & 1 == 1 {
            context.update(password)
        } else {
            context.update(digest)
        }
        if round % 3 != 0 {
            context.update(salt);
        }
        if round % 7 != 0 {
            context.update(password);
        }
        if round & 1 == 1 {
            context.update(digest)
        } else {
            context.update(password)
        }
        digest = context.finalize();
    }
    let mut out = format!("$1${}$", String::from_utf8_lossy(salt));
    for (a, b, c) in [(0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5)] {
        encode_group(&mut out, digest[a], digest[b], digest[c], 4);
    }
    encode_group(&mut out, 0, 0, digest[11], 2);
    out
}

fn sha_crypt<D: Digest>(ident: char, password: &[u8], salt: &str, rounds: u32) -> R<String> {
    if !(1000..=999_999_999).contains(&rounds) {
        return Err(TemplateError::runtime(
            "Could not hash the secret. rounds must be from 1000 to 999999999",
        ));
    }
    let salt_bytes = salt.as_bytes();
    let size = <D as Digest>::output_size();
    let digest_of = |parts: &[&[u8]]| {
        let mut digest = D::new();
        for part in parts {
            digest.update(part);
        }
        digest.finalize().to_vec()
    };
    let stretch =
        |block: &[u8], length: usize| -> Vec<u8> { block.iter().copied().cycle().take(length).collect() };
    let b = digest_of(&[password, salt_bytes, password]);
    let mut context = D::new();
    context.update(password);
    context.update(salt_bytes);
    context.update(stretch(&b, password.len()));
    let mut length = password.len();
    while length > 0 {
        if length & 1 == 1 {
            context.update(&b)
        } else {
            context.update(password)
        }
        length >>= 1;
    }
    let mut a = context.finalize().to_vec();
    let mut context = D::new();
    for _ in 0..password.len() {
        context.update(password);
    }
    let p = stretch(&context.finalize(), password.len());
    let mut context = D::new();
    for _ in 0..16 + usize::from(a[0]) {
        context.update(salt_bytes);
    }
    let s = stretch(&context.finalize(), salt_bytes.len());
    for round in 0..rounds {
        let mut context = D::new();
        if round & 1 == 1 {
            context.update(&p)
        } else {
            context.update(&a)
        }
        if round % 3 != 0 {
            context.update(&s);
        }
        if round % 7 != 0 {
            context.update(&p);
        }
        if round & 1 == 1 {
            context.update(&a)
        } else {
            context.update(&p)
        }
        a = context.finalize().to_vec();
    }
    let mut out = format!("${ident}$");
    if rounds != 5000 {
        out.push_str(&format!("rounds={rounds}$"));
    }
    out.push_str(salt);
    out.push('$');
    if size == 64 {
        let (mut x, mut y, mut z) = (0_usize, 21_usize, 42_usize);
        for _ in 0..21 {
            encode_group(&mut out, a[x], a[y], a[z], 4);
            (x, y, z) = (y + 1, z + 1, x + 1);
        }
        encode_group(&mut out, 0, 0, a[63], 2);
    } else {
        let (mut x, mut y, mut z) = (0_usize, 10_usize, 20_usize);
        for _ in 0..10 {
            encode_group(&mut out, a[x], a[y], a[z], 4);
            (x, y, z) = (z + 1, x + 1, y + 1);
        }
        encode_group(&mut out, 0, a[31], a[30], 3);
    }
    Ok(out)
}

fn bcrypt(password: &str, request: &Request) -> R<String> {
    let ident = request.ident.clone().unwrap_or_else(|| "2b".into());
    let ident = ident.trim_matches('$');
    if !matches!(ident, "2" | "2a" | "2b" | "2y") {
        return Err(TemplateError::runtime(format!("Could not hash the secret. Unknown ident '{ident}'")));
    }
    let rounds = request.rounds.unwrap_or(12);
    if !(4..=31).contains(&rounds) {
        return Err(TemplateError::runtime("Could not hash the secret. rounds must be from 4 to 31"));
    }
    let salt = match &request.salt {
        Some(salt) => {
            let bytes = decode_bcrypt(salt)?;
            <[u8; 16]>::try_from(bytes.as_slice()).map_err(|_| {
                TemplateError::runtime("Could not hash the secret. A bcrypt salt has exactly 22 characters")
            })?
        }
        None => rand::random::<[u8; 16]>(),
    };
    let mut key = password.as_bytes().to_vec();
    key.push(0);
    key.truncate(72);
    let mut state: Blowfish = Blowfish::bc_init_state();
    state.salted_expand_key(&salt, &key);
    for _ in 0..1_u64 << rounds {
        state.bc_expand_key(&key);
        state.bc_expand_key(&salt);
    }
    let mut words: Vec<u32> = b"OrpheanBeholderScryDoubt"
        .chunks_exact(4)
        .map(|chunk| u32::from_be_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]))
        .collect();
    for pair in words.chunks_exact_mut(2) {
        for _ in 0..64 {
            let next = state.bc_encrypt([pair[0], pair[1]]);
            pair.copy_from_slice(&next);
        }
    }
    let digest: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    Ok(format!("${ident}${rounds:02}${}{}", encode_bcrypt(&salt), encode_bcrypt(&digest[..23])))
}

fn encode_bcrypt(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().enumerate().fold(0_u32, |word, (at, byte)| word | u32::from(*byte) << (16 - 8 * at));
        for at in 0..=chunk.len() {
            out.push(char::from(BCRYPT_ALPHABET[(word >> (18 - 6 * at) & 63) as usize]));
        }
    }
    out
}

fn decode_bcrypt(text: &str) -> R<Vec<u8>> {
    let wrong = || {
        TemplateError::runtime("Could not hash the secret. The salt has characters other than ./A-Za-z0-9")
    };
    let mut bits = 0_u32;
    let mut count = 0;
    let mut out = Vec::new();
    for byte in text.bytes() {
        let value = BCRYPT_ALPHABET.iter().position(|known| *known == byte).ok_or_else(wrong)?;
        bits = bits << 6 | u32::try_from(value).unwrap_or(0);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 255).unwrap_or(0));
        }
    }
    Ok(out)
}
