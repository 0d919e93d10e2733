//! Hashes, identifiers and chance.

use minijinja::value::Value as V;
use sha1::Digest as _;

use crate::template::error::TemplateError;
use crate::template::object::{Py, R, check, list, py};
use crate::template::ops::{self, Num, number};
use crate::template::registry::{Args, Call, Function, function};
use crate::template::special::Range;

pub(super) const TABLE: &[Function] = &[
    function("random", "end start? step? seed?", random),
    function("shuffle", "mylist seed?", shuffle),
    function("hash", "data hashtype?", |call| hash(&call.text(0)?, &call.text_or(1, "sha1")?).map(V::from)),
    function("md5", "data", |call| hash(&call.text(0)?, "md5").map(V::from)),
    function("sha1", "data", |call| hash(&call.text(0)?, "sha1").map(V::from)),
    function("checksum", "data", |call| hash(&call.text(0)?, "sha1").map(V::from)),
    function("to_uuid", "string namespace?", to_uuid),
    function("random_mac", "value seed?", random_mac),
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hex digest of a text.
pub(in crate::template) fn hash(text: &str, kind: &str) -> R<String> {
    let bytes = text.as_bytes();
    Ok(match kind.to_lowercase().as_str() {
        "md5" => hex(&md5::Md5::digest(bytes)),
        "sha1" => hex(&sha1::Sha1::digest(bytes)),
        "sha224" => hex(&sha2::Sha224::digest(bytes)),
        "sha256" => hex(&sha2::Sha256::digest(bytes)),
        "sha384" => hex(&sha2::Sha384::digest(bytes)),
        "sha512" => hex(&sha2::Sha512::digest(bytes)),
        _ => return Err(TemplateError::runtime(format!("unsupported hash type {kind}"))),
    })
}

/// Python's generator (Mersenne Twister), so that a seed gives the same choice there and here.
pub(in crate::template) struct Twister {
    state: [u32; 624],
    index: usize,
}

impl Twister {
    /// Seeds as `random.Random(text)` does.
    pub(in crate::template) fn from_text(text: &str) -> Twister {
        let mut bytes = text.as_bytes().to_vec();
        bytes.extend(sha2::Sha512::digest(text.as_bytes()));
        Twister::from_big_endian(&bytes)
    }

    /// Seeds as `random.Random(number)` does.
    pub(in crate::template) fn from_number(number: i128) -> Twister {
        Twister::from_big_endian(&number.unsigned_abs().to_be_bytes())
    }

    pub(in crate::template) fn from_chance() -> Twister {
        Twister::from_big_endian(&rand::random::<[u8; 32]>())
    }

    fn from_big_endian(bytes: &[u8]) -> Twister {
        let mut key: Vec<u32> = bytes
            .rchunks(4)
            .map(|chunk| chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)))
            .collect();
        while key.len() > 1 && key.last() == Some(&0) {
            key.pop();
        }
        let mut twister = Twister { state: [0; 624], index: 624 };
        twister.seed(19_650_218);
        let state = &mut twister.state;
        let (mut i, mut j) = (1, 0);
        for _ in 0..624.max(key.len()) {
            let previous = state[i - 1];
            state[i] = (state[i] ^ (previous ^ previous >> 30).wrapping_mul(1_664_525))
                .wrapping_add(key[j])
                .wrapping_add(u32::try_from(j).unwrap_or(0));
            i += 1;
            j += 1;
            if i >= 624 {
                state[0] = state[623];
                i = 1;
            }
            if j >= key.len() {
                j = 0;
            }
        }
        for _ in 0..623 {
            let previous = state[i - 1];
            state[i] = (state[i] ^ (previous ^ previous >> 30).wrapping_mul(1_566_083_941))
                .wrapping_sub(u32::try_from(i).unwrap_or(0));
            i += 1;
            if i >= 624 {
                state[0] = state[623];
                i = 1;
            }
        }
        state[0] = 0x8000_0000;
        twister
    }

    fn seed(&mut self, seed: u32) {
        self.state[0] = seed;
        for index in 1..624 {
            let previous = self.state[index - 1];
            self.state[index] = (previous ^ previous >> 30)
                .wrapping_mul(1_812_433_253)
                .wrapping_add(u32::try_from(index).unwrap_or(0));
        }
    }

    fn word(&mut self) -> u32 {
        if self.index >= 624 {
            for index in 0..624 {
                let joined =
                    (self.state[index] & 0x8000_0000) | (self.state[(index + 1) % 624] & 0x7fff_ffff);
                let mut next = self.state[(index + 397) % 624] ^ joined >> 1;
                if joined & 1 != 0 {
                    next ^= 0x9908_b0df;
                }
                self.state[index] = next;
            }
            self.index = 0;
        }
        let mut word = self.state[self.index];
        self.index += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    fn bits(&mut self, count: u32) -> u64 {
        if count <= 32 {
            return u64::from(self.word() >> (32 - count.max(1)));
        }
        let low = u64::from(self.word());
        let high = u64::from(self.word() >> (64 - count));
        high << 32 | low
    }

    /// A number below `limit`, as Python's `_randbelow`.
    pub(in crate::template) fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 {
            return 0;
        }
        let bits = 64 - limit.leading_zeros();
        loop {
            let number = self.bits(bits);
            if number < limit {
                return number;
            }
        }
    }

    pub(in crate::template) fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            let other = usize::try_from(self.below(index as u64 + 1)).unwrap_or(0);
            items.swap(index, other);
        }
    }
}

/// The generator for a `seed` argument.
pub(in crate::template) fn generator(seed: Option<&V>) -> R<Twister> {
    Ok(match seed {
        None => Twister::from_chance(),
        Some(seed) => match (py(seed), number(seed)) {
            (_, Some(Num::Int(number))) => Twister::from_number(number),
            _ => Twister::from_text(&ops::to_text(seed)?),
        },
    })
}

fn random(call: &mut Call) -> R {
    let input = call.input();
    let mut generator = generator(call.some(3).as_ref())?;
    let (start, step) = (call.int(1)?, call.int(2)?);
    match py(&input) {
        Py::Int(_) | Py::Bool(_) => {
            let (start, end, step) = (
                start.unwrap_or(0),
                super::lists::whole(&input)?,
                step.filter(|step| *step != 0).unwrap_or(1),
            );
            let range = Range { start, stop: end, step };
            if range.len() == 0 {
                return Err(TemplateError::runtime(format!(
                    "empty range for randrange() ({start}, {end}, {})",
                    i128::from(end) - i128::from(start)
                )));
            }
            Ok(V::from(range.at(generator.below(range.len()))))
        }
        Py::List(_) | Py::Str(_) | Py::Other => {
            if start.is_some_and(|n| n != 0) || step.is_some_and(|n| n != 0) {
                return Err(TemplateError::runtime("start and step can only be used with integer values"));
            }
            if let Some(range) = input.downcast_object_ref::<Range>() {
                return Ok(V::from(range.at(generator.below(range.len()))));
            }
            let items = call.items()?;
            if items.is_empty() {
                return Err(TemplateError::runtime("Cannot choose from an empty sequence"));
            }
            let chosen = usize::try_from(generator.below(items.len() as u64)).unwrap_or(0);
            Ok(items[chosen].clone())
        }
        _ => Err(TemplateError::runtime("random can only be used on sequences and integers")),
    }
}

fn shuffle(call: &mut Call) -> R {
    let input = call.input();
    check(&input)?;
    // What is no list has no order.
    let Ok(mut items) = call.items() else { return Ok(input) };
    let seed = match call.some(1) {
        Some(seed) if ops::truth(&seed)? => Some(seed),
        _ => None,
    };
    generator(seed.as_ref())?.shuffle(&mut items);
    Ok(list(items))
}

const NAMESPACE: &str = "361E6D51-FAEC-444A-9079-341386DA8E2E";

fn to_uuid(call: &mut Call) -> R {
    let namespace = call.text_or(1, NAMESPACE)?;
    let parsed = uuid::Uuid::parse_str(&namespace).map_err(|error| {
        TemplateError::runtime(format!("Invalid value '{namespace}' for 'namespace': {error}"))
    })?;
    Ok(V::from(uuid::Uuid::new_v5(&parsed, call.text(0)?.as_bytes()).to_string()))
}

fn random_mac(call: &mut Call) -> R {
    let prefix = call.text(0)?.to_lowercase();
    let wrong = |why: &str| TemplateError::runtime(format!("Invalid value ({prefix}) for random_mac: {why}"));
    if prefix.is_empty() {
        return Err(wrong("empty"));
    }
    let parts: Vec<&str> = prefix.split(':').collect();
    if parts.len() > 5 {
        return Err(wrong("5 colon(:) separated items max"));
    }
    for part in &parts {
        if part.len() != 2 || !part.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(wrong("each item must be two hexadecimal digits"));
        }
    }
    let mut generator = generator(call.some(1).as_ref())?;
    let mut bytes: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
    // The reference draws one number of 68 to 136 bits and keeps as many digits as are missing.
    let missing = (6 - bytes.len()) * 2;
    let mut digits = String::new();
    while digits.len() < missing {
        digits.push_str(&format!("{:02x}", generator.below(256)));
    }
    let digits: Vec<char> = digits.chars().take(missing).collect();
    bytes.extend(digits.chunks(2).map(|pair| pair.iter().collect::<String>()));
    Ok(V::from(bytes.join(":")))
}

const WORDS: &[&str] = &[
    "a",
    "ac",
    "accumsan",
    "ad",
    "aenean",
    "aliquam",
    "aliquet",
    "amet",
    "ante",
    "aptent",
    "arcu",
    "at",
    "auctor",
    "augue",
    "bibendum",
    "blandit",
    "class",
    "commodo",
    "condimentum",
    "congue",
    "consectetuer",
    "consequat",
    "conubia",
    "convallis",
    "cras",
    "cubilia",
    "cum",
    "curabitur",
    "curae",
    "cursus",
    "dapibus",
    "diam",
    "dictum",
    "dictumst",
    "dignissim",
    "dis",
    "dolor",
    "donec",
    "dui",
    "duis",
    "egestas",
    "eget",
    "eleifend",
    "elementum",
    "elit",
    "enim",
    "erat",
    "eros",
    "est",
    "et",
    "etiam",
    "eu",
    "euismod",
    "facilisi",
    "fames",
    "faucibus",
];

/// `lipsum(n=5, html=True, min=20, max=100)`
pub(in crate::template) fn lipsum(args: &Args) -> R {
    let number = |index: usize, name: &str, default: u64| -> R<u64> {
        args.get(index, name).map_or(Ok(default), |value| {
            super::lists::whole(value).map(|number| u64::try_from(number).unwrap_or(0))
        })
    };
    let (count, low, high) = (number(0, "n", 5)?, number(2, "min", 20)?, number(3, "max", 100)?);
    let html = args.get(1, "html").map_or(Ok(true), ops::truth)?;
    let mut generator = Twister::from_chance();
    let mut paragraphs = Vec::new();
    for _ in 0..count.min(1000) {
        let length = low + generator.below(high.saturating_sub(low).max(1));
        let words: Vec<&str> = (0..length.min(10_000))
            .map(|_| WORDS[usize::try_from(generator.below(WORDS.len() as u64)).unwrap_or(0)])
            .collect();
        let text = crate::template::methods::capitalize(&words.join(" ")) + ".";
        paragraphs.push(if html { format!("<p>{text}</p>") } else { text });
    }
    Ok(V::from(paragraphs.join(if html { "\n" } else { "\n\n" })))
}
