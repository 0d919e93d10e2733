//! Frames: a length, a flag whether the body is compressed, and a message in MessagePack.
//!
//! What the other side sends is checked before it is decoded: length, number of values, depth. A hostile
//! host can make its own session fail and nothing else.

use std::cell::RefCell;
use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CHUNK, MAX_FRAME};

/// Set in a frame's length if the body is compressed.
const COMPRESSED: u32 = 1 << 31;

/// Bodies larger than this are worth compressing, in bytes.
const WORTH_COMPRESSING: usize = 1024;

/// Most values that one message may hold.
const MAX_VALUES: u64 = 1_000_000;

/// Deepest nesting of a message.
const MAX_DEPTH: usize = 128;

/// Why a frame can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed or ended within a frame.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A frame is longer than any may be.
    #[error("a message of {0} bytes is larger than the {MAX_FRAME} that one may have")]
    TooLong(u64),
    /// What came is no message.
    #[error("what came is no message of this protocol: {0}")]
    Garbage(String),
}

/// How much room for a message is made, and kept, whatever its size: a piece of a file and what is around it.
const ROOM: usize = CHUNK + 1024;

/// How much of a large body is compressed to see whether the rest is worth it, in bytes.
const SAMPLE: usize = 8 << 10;

/// Whether a frame's body is compressed.
pub fn is_compressed(frame: &[u8]) -> bool {
    frame.first_chunk::<4>().is_some_and(|header| u32::from_le_bytes(*header) & COMPRESSED != 0)
}

/// A message as a frame, compressed if that makes it shorter.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let out = encode_plain(message)?;
    let body = &out[4..];
    if body.len() <= WORTH_COMPRESSING || !shrinks(body) {
        return Ok(out);
    }
    let mut packed = Vec::with_capacity(body.len() / 2);
    packed.extend_from_slice(&[0; 4]);
    let mut encoder = flate2::write::DeflateEncoder::new(&mut packed, flate2::Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()?;
    Ok(if packed.len() < out.len() { with_length(packed, COMPRESSED) } else { out })
}

/// Whether a sample out of the middle of a large body gets shorter: archives and images do not.
fn shrinks(body: &[u8]) -> bool {
    if body.len() < 4 * SAMPLE {
        return true;
    }
    let middle = body.len() / 2;
    deflate(&body[middle..middle + SAMPLE]).len() < SAMPLE / 10 * 9
}

/// A message as a frame, not compressed: for links that are faster than compressing.
pub fn encode_plain<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut out = vec![0; 4];
    rmp_serde::encode::write(&mut out, message).map_err(|error| FrameError::Garbage(error.to_string()))?;
    let length = out.len() - 4;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length as u64));
    }
    Ok(with_length(out, 0))
}

fn with_length(mut frame: Vec<u8>, flag: u32) -> Vec<u8> {
    // The caller has checked that it fits.
    let length = u32::try_from(frame.len() - 4).unwrap_or(0);
    frame[..4].copy_from_slice(&(length | flag).to_le_bytes());
    frame
}

/// Writes a message and flushes.
pub fn write<T: Serialize>(stream: &mut dyn Write, message: &T) -> Result<(), FrameError> {
    stream.write_all(&encode(message)?)?;
    Ok(stream.flush()?)
}

/// Reads a message; `None` at the end of the stream.
pub fn read<T: DeserializeOwned>(stream: &mut dyn Read) -> Result<Option<T>, FrameError> {
    let mut header = [0; 4];
    let mut filled = 0;
    while filled < header.len() {
        match stream.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (length, compressed) = parse_header(header)?;
    thread_local! {
        // A piece of a file is larger than what the C library gives without asking the kernel, page by page.
        static BODY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    let mut body = BODY.take();
    body.clear();
    // Beyond that it grows with what arrives, not with what is announced.
    body.reserve(length.min(ROOM));
    stream.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let message = decode(&body, compressed)?;
    if body.capacity() <= 2 * ROOM {
        BODY.set(body);
    }
    Ok(Some(message))
}

fn parse_header(header: [u8; 4]) -> Result<(usize, bool), FrameError> {
    let word = u32::from_le_bytes(header);
    let length = (word & !COMPRESSED) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length as u64));
    }
    Ok((length, word & COMPRESSED != 0))
}

fn decode<T: DeserializeOwned>(body: &[u8], compressed: bool) -> Result<T, FrameError> {
    let inflated;
    let body = if compressed {
        inflated = inflate(body, MAX_FRAME)?;
        &inflated
    } else {
        body
    };
    check_shape(body)?;
    rmp_serde::from_slice(body).map_err(|error| FrameError::Garbage(error.to_string()))
}

/// Compresses bytes.
fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    // Writing into memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// The bytes of a compressed body, if they are no more than `limit`.
fn inflate(deflated: &[u8], limit: usize) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    let mut decoder = flate2::read::DeflateDecoder::new(deflated).take(limit as u64 + 1);
    decoder.read_to_end(&mut out).map_err(|error| FrameError::Garbage(error.to_string()))?;
    if out.len() > limit {
        return Err(FrameError::TooLong(out.len() as u64));
    }
    Ok(out)
}

/// Collects bytes as they come and gives the messages that are complete. For code that can't block.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Adds bytes that came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start > 1 << 16 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, if it is complete. After an error the stream is of no more use.
    #[expect(clippy::should_implement_trait, reason = "each call says which type it expects")]
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let rest = &self.buffer[self.start..];
        let Some(header) = rest.first_chunk::<4>() else { return Ok(None) };
        let (length, compressed) = parse_header(*header)?;
        let Some(body) = rest.get(4..4 + length) else { return Ok(None) };
        let message = decode(body, compressed)?;
        self.start += 4 + length;
        if self.start == self.buffer.len() {
            self.start = 0;
            self.buffer.clear();
            // A large frame's memory is given back.
            self.buffer.shrink_to(1 << 20);
        }
        Ok(Some(message))
    }

    /// Bytes that came and are not yet part of a message.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.start..]
    }
}

/// Walks over MessagePack without building anything: one whole value, not too many, not too deep.
fn check_shape(body: &[u8]) -> Result<(), FrameError> {
    let garbage = |what: &str| FrameError::Garbage(what.to_string());
    let mut at = 0_usize;
    let mut values = 0_u64;
    // How many values are still to come at each level.
    let mut levels: Vec<u64> = vec![1];
    while let Some(left) = levels.last_mut() {
        if *left == 0 {
            levels.pop();
            continue;
        }
        *left -= 1;
        values += 1;
        if values > MAX_VALUES {
            return Err(garbage("it holds too many values"));
        }
        let marker = *body.get(at).ok_or_else(|| garbage("it ends too soon"))?;
        at += 1;
        let mut number = |width: usize| -> Result<u64, FrameError> {
            let bytes = body.get(at..at + width).ok_or_else(|| garbage("it ends too soon"))?;
            at += width;
            Ok(bytes.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)))
        };
        let (skip, children) = match marker {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => (0, 0),
            0x80..=0x8f => (0, u64::from(marker & 0x0f) * 2),
            0x90..=0x9f => (0, u64::from(marker & 0x0f)),
            0xa0..=0xbf => (u64::from(marker & 0x1f), 0),
            0xc4 | 0xd9 => (number(1)?, 0),
            0xc5 | 0xda => (number(2)?, 0),
            0xc6 | 0xdb => (number(4)?, 0),
            0xcc | 0xd0 => (1, 0),
            0xcd | 0xd1 => (2, 0),
            0xca | 0xce | 0xd2 => (4, 0),
            0xcb | 0xcf | 0xd3 => (8, 0),
            0xdc => (0, number(2)?),
            0xdd => (0, number(4)?),
            0xde => (0, number(2)? * 2),
            0xdf => (0, number(4)? * 2),
            0xc1 | 0xc7..=0xc9 | 0xd4..=0xd8 => return Err(garbage("it holds a type that none has")),
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        if body.len() - at < skip {
            return Err(garbage("it ends too soon"));
        }
        at += skip;
        if children > 0 {
            if levels.len() >= MAX_DEPTH {
                return Err(garbage("it is nested too deeply"));
            }
            levels.push(children);
        }
    }
    if at == body.len() { Ok(()) } else { Err(garbage("it has bytes left over")) }
}

/// Bytes on the wire as bytes, not as a list of numbers.
pub(crate) mod bytes {
    use std::fmt;

    use serde::de::{SeqAccess, Visitor};
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u8>, A::Error> {
                let mut out = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    out.push(byte);
                }
                Ok(out)
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Batch, Call, Mode, Piece, ToController, ToRunner};
    use super::*;
    use crate::value::{Value, map_of};

    fn batch(size: usize) -> ToRunner {
        let args = map_of([("content", Value::str("x".repeat(size))), ("n", Value::Int(-5))]);
        let call = Call { module: "m".into(), args: Value::map(args), ..Call::default() };
        ToRunner::Batch(Batch { id: 7, mode: Mode::Verify, tasks: vec![call; 3] })
    }

    #[test]
    fn messages_come_back_however_they_are_cut() {
        let messages = [batch(3), batch(100_000), ToRunner::Cancel];
        let piece = Piece { sha256: "a".into(), bytes: vec![200; 900], last: true };
        let blob = ToRunner::Content(vec![piece]);
        let mut stream = Vec::new();
        for message in messages.iter().chain([&blob]) {
            write(&mut stream, message).expect("memory");
        }
        assert!(stream.len() < 3000, "{} bytes: compressed, and bytes are bytes", stream.len());
        for step in [1, 2, 3, 7, 1000, stream.len()] {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for piece in stream.chunks(step) {
                decoder.push(piece);
                while let Some(message) = decoder.next::<ToRunner>().expect("valid") {
                    seen.push(format!("{message:?}"));
                }
            }
            let expected: Vec<String> =
                messages.iter().chain([&blob]).map(|message| format!("{message:?}")).collect();
            assert_eq!(seen, expected, "in pieces of {step}");
            assert!(decoder.pending().is_empty());
        }
        let mut reader = stream.as_slice();
        let mut count = 0;
        while read::<ToRunner>(&mut reader).expect("valid").is_some() {
            count += 1;
        }
        assert_eq!(count, 4);
        assert!(read::<ToRunner>(&mut &stream[..stream.len() - 1]).is_ok());
        let mut cut = &stream[..2];
        assert!(matches!(read::<ToRunner>(&mut cut), Err(FrameError::Io(_))));
    }

    #[test]
    fn what_is_hostile_is_refused_without_harm() {
        let frame = |body: &[u8]| {
            let mut out = u32::try_from(body.len()).expect("small").to_le_bytes().to_vec();
            out.extend_from_slice(body);
            out
        };
        let bomb = {
            let mut packed = deflate(&vec![0; MAX_FRAME + 1]);
            let length = u32::try_from(packed.len()).expect("small") | COMPRESSED;
            let mut out = length.to_le_bytes().to_vec();
            out.append(&mut packed);
            out
        };
        let cases: &[(&str, Vec<u8>)] = &[
            ("a length beyond the limit", vec![0xff, 0xff, 0xff, 0x7f]),
            ("text", b"Welcome to this host! Enjoy your stay, and read the news.".to_vec()),
            ("a list of four billion", frame(&[0xdd, 0xff, 0xff, 0xff, 0xff])),
            ("a string of four billion", frame(&[0xdb, 0xff, 0xff, 0xff, 0xff, b'x'])),
            ("deep nesting", frame(&[0x91; 100_000])),
            ("nothing", frame(&[])),
            ("two messages in one", frame(&[0xc0, 0xc0])),
            ("a compressed bomb", bomb),
        ];
        for (name, bytes) in cases {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            assert!(decoder.next::<ToController>().is_err(), "{name}");
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut state = 0x1234_5678_9abc_def1_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let valid = encode(&batch(20)).expect("small");
        for _ in 0..20_000 {
            let mut bytes = valid.clone();
            for _ in 0..=next() % 4 {
                let at = usize::try_from(next()).expect("64 bits") % bytes.len();
                bytes[at] = next().to_le_bytes()[0];
            }
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            let _ = decoder.next::<ToRunner>();
        }
    }
}
