//! Lines of `/etc/passwd` and `/etc/group`, and whether accounts come from elsewhere too.

use super::{Group, User};

/// The line whose first field is `key`, or else whose third is, as a number.
pub(crate) fn find(text: &str, key: &str) -> Option<String> {
    let by_name = text.lines().find(|line| line.split(':').next() == Some(key) && !key.is_empty());
    let by_number = || {
        let number: u32 = key.parse().ok()?;
        text.lines().find(|line| line.split(':').nth(2).and_then(|id| id.parse().ok()) == Some(number))
    };
    by_name.or_else(by_number).map(String::from)
}

/// An account from its line.
pub(crate) fn user(line: &str) -> Option<User> {
    let mut fields = line.trim_end().split(':');
    let name = fields.next()?.to_string();
    let _password = fields.next()?;
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let gecos = fields.next().unwrap_or_default().to_string();
    let home = fields.next().unwrap_or_default().into();
    let shell = fields.next().unwrap_or_default().into();
    Some(User { name, uid, gid, gecos, home, shell })
}

/// A group from its line.
pub(crate) fn group(line: &str) -> Option<Group> {
    let mut fields = line.trim_end().split(':');
    let name = fields.next()?.to_string();
    let _password = fields.next()?;
    let gid = fields.next()?.parse().ok()?;
    let members = fields.next().unwrap_or_default();
    let members = members.split(',').filter(|name| !name.is_empty()).map(String::from).collect();
    Some(Group { name, gid, members })
}

/// Whether `/etc/nsswitch.conf` names a source other than the files, which only `getent` can ask.
pub(crate) fn is_served_elsewhere(database: &str) -> bool {
    let Ok(text) = std::fs::read_to_string("/etc/nsswitch.conf") else { return false };
    text.lines()
        .filter_map(|line| line.split('#').next()?.split_once(':'))
        .filter(|(name, _)| name.trim() == database)
        .any(|(_, sources)| {
            sources.split_whitespace().any(|source| source != "files" && !source.starts_with('['))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_before_numbers() {
        let text = "root:x:0:0:root:/root:/bin/sh\n1000:x:7:7::/h:/bin/sh\nann:x:1000:100:Ann,,,:/home/ann:/bin/zsh\n";
        let name = |key: &str| find(text, key).and_then(|line| user(&line)).map(|user| user.name);
        for (key, expected) in [
            ("root", Some("root")),
            ("0", Some("root")),
            ("1000", Some("1000")),
            ("7", Some("1000")),
            ("", None),
            ("bob", None),
        ] {
            assert_eq!(name(key).as_deref(), expected, "{key}");
        }
        let line = find("wheel:x:10:ann,bob\n", "10").expect("there");
        assert_eq!(
            group(&line),
            Some(Group { name: "wheel".into(), gid: 10, members: vec!["ann".into(), "bob".into()] })
        );
    }
}
