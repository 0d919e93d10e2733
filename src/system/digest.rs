//! Digests, streamed.

use std::cell::RefCell;
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
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// The digest of bytes at hand.
pub fn of_bytes(algorithm: Algorithm, bytes: &[u8]) -> String {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

/// The digest of a stream.
pub fn of_reader(algorithm: Algorithm, reader: &mut dyn Read) -> std::io::Result<String> {
    thread_local! {
        // So large a block is asked of the kernel and given back each time, which costs more than a small file.
        static BLOCKS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let mut hasher = Hasher::new(algorithm);
    // A reader may digest something itself: it gets a block of its own.
    let mut block = BLOCKS.take();
    block.resize(BLOCK, 0);
    let outcome = loop {
        match reader.read(&mut block) {
            Ok(0) => break Ok(()),
            Ok(count) => hasher.update(&block[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    BLOCKS.set(block);
    outcome.map(|()| hasher.finish())
}
