//! Quoting for shells that we don't choose: the login shell of a remote user may be sh, fish or csh.

/// A command line that makes any of sh, bash, zsh, dash, ksh, fish, csh and tcsh run `script` with
/// `/bin/sh`.
///
/// `exec`, which all of them have, leaves no shell waiting behind. Single quotes mean nearly the same in all of them. What differs (a quote, backslash, newline or `!`
/// inside) is written as octal escapes that `/bin/sh` decodes itself.
pub fn for_any_shell(script: &str) -> String {
    if script.chars().all(|c| !matches!(c, '\'' | '\\' | '!' | '\n' | '\r' | '\0')) {
        return format!("exec /bin/sh -c '{script}'");
    }
    let mut encoded = String::with_capacity(script.len() + script.len() / 8);
    for c in script.chars() {
        match c {
            '\'' | '\\' | '!' | '\n' | '\r' => encoded.push_str(&format!("\\0{:03o}", c as u32)),
            '\0' => {}
            c => encoded.push(c),
        }
    }
    // The shell's own complaints begin with `$0`, so that must be short.
    format!("exec /bin/sh -c 's=$(printf %b \"$1\"); shift; eval \"$s\"' sh '{encoded}'")
}

/// One word for `/bin/sh`.
pub(super) fn for_sh(word: &str) -> String {
    if !word.is_empty()
        && word.chars().all(|c| {
            c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':' | '@' | '=' | '+' | ',')
        })
    {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_understands_it() {
        let script = "printf '%s|' \"a'b\" 'c\\d' e!f \"g\nh\" '$HOME' '`x`' '%' '\"' 'ü'; exit 3";
        let expected = "a'b|c\\d|e!f|g\nh|$HOME|`x`|%|\"|ü|";
        let mut tried = 0;
        for shell in [
            "/bin/sh",
            "/bin/bash",
            "/bin/dash",
            "/usr/bin/zsh",
            "/usr/bin/fish",
            "/bin/tcsh",
            "/bin/csh",
            "/bin/ksh",
        ] {
            if !std::path::Path::new(shell).exists() {
                continue;
            }
            for script in [script, "printf '%s|' plain; exit 3"] {
                let output = std::process::Command::new(shell)
                    .args(["-c", &for_any_shell(script)])
                    .output()
                    .expect("the shell starts");
                let expected = if script.contains("plain") { "plain|" } else { expected };
                assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{shell}");
                assert_eq!(output.status.code(), Some(3), "{shell}");
                tried += 1;
            }
        }
        assert!(tried >= 2, "there is at least /bin/sh");
    }

    #[test]
    fn words_for_sh() {
        for word in ["plain", "a b", "it's", "", "$x", "-n", "ü"] {
            let output = std::process::Command::new("/bin/sh")
                .args(["-c", &format!("printf %s {}", for_sh(word))])
                .output()
                .expect("sh starts");
            assert_eq!(String::from_utf8_lossy(&output.stdout), word);
        }
    }
}
