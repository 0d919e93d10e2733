//! Asks the person at the terminal for passphrases and about host keys.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::transport::{Prompter, Secret, UnknownKey};

/// The terminal; refuses where there is none.
#[derive(Debug)]
pub struct TerminalPrompter;

impl Prompter for TerminalPrompter {
    fn secret(&self, prompt: &str) -> Option<Secret> {
        if !io::stdin().is_terminal() {
            return None;
        }
        rpassword::prompt_password(prompt).ok().map(Secret::new)
    }

    fn confirm_host_keys(&self, unknown: &[UnknownKey]) -> Vec<bool> {
        if !io::stdin().is_terminal() {
            return vec![false; unknown.len()];
        }
        let mut err = io::stderr();
        let mut text = String::from("\nThe keys of these hosts are not known yet:\n");
        for key in unknown {
            text.push_str(&format!("  {:<30} {} {}\n", key.host, key.algorithm, key.fingerprint));
        }
        text.push_str("Accept all of them (yes), none (no), or ask for each (ask)? ");
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
        match answer().as_str() {
            "yes" => vec![true; unknown.len()],
            "ask" => unknown
                .iter()
                .map(|key| {
                    let question =
                        format!("Accept {} {} of {} (yes/no)? ", key.algorithm, key.fingerprint, key.host);
                    let _ = err.write_all(question.as_bytes()).and_then(|()| err.flush());
                    answer() == "yes"
                })
                .collect(),
            _ => vec![false; unknown.len()],
        }
    }
}

fn answer() -> String {
    let mut line = String::new();
    let _ = io::stdin().lock().read_line(&mut line);
    line.trim().to_ascii_lowercase()
}
