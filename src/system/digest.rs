//! Digests, streamed.

use std::fmt::Write as _;
use std::io::Read;

use md5::Md5;
use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Sha224, Sha256, Sha384, Sha512};

use super::Algorithm;

/// How much is read at once.
const BLOCK: usize = 128 << 10;

/// A digest that is being computed.
pub struct Hasher(Box<dyn DynDigest + Send>);

impl Hasher {
    /// Nothing hashed yet.
    pub fn new(algorithm: Algorithm) -> Hasher {
        Hasher(match algorithm {
            Algorithm::Md5 => Box::<Md5>::default(),
            Algorithm::Sha1 => Box::<Sha1>::default(),
            Algorithm::Sha224 => Box::<Sha224>::default(),
            Algorithm::Sha256 => Box::<Sha256>::default(),
            Algorithm::Sha384 => Box::<Sha384>::default(),
            Algorithm::Sha512 => Box::<Sha512>::default(),
        })
    }

    /// Hashes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest in lower-case hexadecimal.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// The digest of bytes at hand.
pub fn of_bytes(algorithm: Algorithm, bytes: &[u8]) -> String {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

/// The digest of a stream.
pub fn of_reader(algorithm: Algorithm, reader: &mut dyn Read) -> std::io::Result<String> {
    let mut hasher = Hasher::new(algorithm);
    let mut block = vec![0; BLOCK];
    loop {
        match reader.read(&mut block) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => hasher.update(&block[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
