//! Character sets in which templates are written, by the names that Python gives them.

/// What windows-1252 has from 0x80 on where ISO 8859-1 has control characters.
const WINDOWS_1252: [Option<char>; 32] = [
    Some('€'),
    None,
    Some('‚'),
    Some('ƒ'),
    Some('„'),
    Some('…'),
    Some('†'),
    Some('‡'),
    Some('ˆ'),
    Some('‰'),
    Some('Š'),
    Some('‹'),
    Some('Œ'),
    None,
    Some('Ž'),
    None,
    None,
    Some('‘'),
    Some('’'),
    Some('“'),
    Some('”'),
    Some('•'),
    Some('–'),
    Some('—'),
    Some('˜'),
    Some('™'),
    Some('š'),
    Some('›'),
    Some('œ'),
    None,
    Some('ž'),
    Some('Ÿ'),
];

/// What ISO 8859-15 has in place of characters of ISO 8859-1.
const LATIN_9: [(u8, char); 8] =
    [(0xa4, '€'), (0xa6, 'Š'), (0xa8, 'š'), (0xb4, 'Ž'), (0xb8, 'ž'), (0xbc, 'Œ'), (0xbd, 'œ'), (0xbe, 'Ÿ')];

/// Text in a character set; an empty name stands for UTF-8.
///
/// # Errors
/// A sentence if the character set is not known or lacks a character.
pub(super) fn encode(text: &str, name: &str) -> Result<Vec<u8>, String> {
    let plain: String = name.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    let one_byte = |known: fn(char) -> Option<u8>| -> Result<Vec<u8>, String> {
        let lacks = |(position, character): (usize, char)| {
            format!(
                "'{name}' can't encode the character {character:?} at position {position} of the template's text"
            )
        };
        text.chars()
            .enumerate()
            .map(|(at, character)| known(character).ok_or_else(|| lacks((at, character))))
            .collect()
    };
    let wide = |bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes);
    Ok(match plain.as_str() {
        "" | "utf8" | "u8" | "cp65001" => text.as_bytes().to_vec(),
        "utf8sig" => [b"\xef\xbb\xbf", text.as_bytes()].concat(),
        "utf16" => [0xff, 0xfe].into_iter().chain(wide(u16::to_le_bytes)).collect(),
        "utf16le" => wide(u16::to_le_bytes).collect(),
        "utf16be" => wide(u16::to_be_bytes).collect(),
        "ascii" | "usascii" | "646" => {
            one_byte(|character| u8::try_from(character).ok().filter(u8::is_ascii))?
        }
        "latin1" | "iso88591" | "88591" | "l1" | "latin" | "cp819" => {
            one_byte(|character| u8::try_from(character).ok())?
        }
        "iso885915" | "latin9" | "l9" => one_byte(latin_9)?,
        "cp1252" | "windows1252" | "1252" => one_byte(windows_1252)?,
        _ => {
            return Err(format!(
                "unknown encoding: {name}; there are utf-8, utf-8-sig, utf-16, utf-16-le, utf-16-be, ascii, latin-1, iso-8859-15, windows-1252"
            ));
        }
    })
}

fn latin_9(character: char) -> Option<u8> {
    if let Some((byte, _)) = LATIN_9.iter().find(|(_, known)| *known == character) {
        return Some(*byte);
    }
    u8::try_from(character).ok().filter(|byte| LATIN_9.iter().all(|(taken, _)| taken != byte))
}

fn windows_1252(character: char) -> Option<u8> {
    if let Some(index) = WINDOWS_1252.iter().position(|known| *known == Some(character)) {
        return u8::try_from(index).ok().map(|index| 0x80 + index);
    }
    u8::try_from(character).ok().filter(|byte| !(0x80..0xa0).contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_written_in_the_character_set_that_is_named() {
        for (text, name, expected) in [
            ("é€", "", Some(&b"\xc3\xa9\xe2\x82\xac"[..])),
            ("é€", "UTF_8", Some(b"\xc3\xa9\xe2\x82\xac")),
            ("é", "utf-8-sig", Some(b"\xef\xbb\xbf\xc3\xa9")),
            ("é", "utf-16", Some(b"\xff\xfe\xe9\x00")),
            ("é", "utf-16-be", Some(b"\x00\xe9")),
            ("é€", "windows-1252", Some(b"\xe9\x80")),
            ("Ÿ", "cp1252", Some(b"\x9f")),
            ("\u{81}", "cp1252", None),
            ("é", "latin-1", Some(b"\xe9")),
            ("€", "latin-1", None),
            ("€¤", "iso-8859-15", None),
            ("€é", "iso-8859-15", Some(b"\xa4\xe9")),
            ("é", "ascii", None),
            ("a", "ascii", Some(b"a")),
            ("a", "klingon", None),
        ] {
            assert_eq!(encode(text, name).ok().as_deref(), expected, "{text} in {name}");
        }
    }
}
