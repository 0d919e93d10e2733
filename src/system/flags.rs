//! The inode flags of `chattr` and `lsattr`.

/// The name under which [`super::System::extended_attribute`] gives them, as `lsattr` prints them.
pub const NAME: &str = "flags";

/// Letter, bit (`FS_*_FL`), whether `chattr` may set it. In the order in which `lsattr` prints them.
const TABLE: &[(char, u32, bool)] = &[
    ('s', 0x0000_0001, true),
    ('u', 0x0000_0002, true),
    ('S', 0x0000_0008, true),
    ('D', 0x0001_0000, true),
    ('i', 0x0000_0010, true),
    ('a', 0x0000_0020, true),
    ('d', 0x0000_0040, true),
    ('A', 0x0000_0080, true),
    ('c', 0x0000_0004, true),
    ('E', 0x0000_0800, false),
    ('j', 0x0000_4000, true),
    ('I', 0x0000_1000, false),
    ('t', 0x0000_8000, true),
    ('T', 0x0002_0000, true),
    ('e', 0x0008_0000, true),
    ('C', 0x0080_0000, true),
    ('x', 0x0200_0000, true),
    ('F', 0x4000_0000, true),
    ('N', 0x1000_0000, false),
    ('P', 0x2000_0000, true),
    ('V', 0x0010_0000, false),
    ('m', 0x0000_0400, true),
];

/// The letters of the bits that are set.
pub fn text(bits: u32) -> String {
    TABLE.iter().filter(|(_, bit, _)| bits & bit != 0).map(|(letter, _, _)| *letter).collect()
}

/// The bits of letters; what is no letter of a flag is passed over.
pub fn parse(letters: &str) -> u32 {
    letters
        .chars()
        .filter_map(|letter| TABLE.iter().find(|row| row.0 == letter))
        .fold(0, |all, row| all | row.1)
}

/// What `chattr WISH` makes of these bits.
///
/// # Errors
/// Names the letter that is no flag, or that can't be set.
pub fn apply(bits: u32, wish: &str) -> Result<u32, String> {
    let (sign, letters) = match wish.chars().next() {
        Some(sign @ ('+' | '-' | '=')) => (sign, &wish[1..]),
        _ => ('=', wish),
    };
    let mut given = 0;
    for letter in letters.chars() {
        match TABLE.iter().find(|row| row.0 == letter) {
            Some((_, bit, true)) => given |= bit,
            _ => {
                return Err(format!("`{letter}` in attributes `{wish}` is not an attribute that can be set"));
            }
        }
    }
    let settable = TABLE.iter().filter(|row| row.2).fold(0, |all, row| all | row.1);
    Ok(match sign {
        '+' => bits | given,
        '-' => bits & !given,
        _ => (bits & !settable) | given,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_chattrs() {
        let start = parse("ie");
        for (wish, expected) in
            [("+a", Ok("iae")), ("-i", Ok("e")), ("=a", Ok("a")), ("a", Ok("a")), ("+z", Err(()))]
        {
            assert_eq!(apply(start, wish).map(text).map_err(|_| ()), expected.map(String::from), "{wish}");
        }
    }
}
