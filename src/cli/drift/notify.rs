//! Tells people what has changed since the audit before: by a webhook, by mail. What they know already is not
//! told again.

use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;

use crate::cli::failure::Failure;
use crate::module::http::{self, Redirects, Request};
use crate::report::audit::AuditReport;
use crate::report::audit::news::{News, news};
use crate::source::json::{Layout, dump};
use crate::state::Store;
use crate::system::local::{Local, NoDepot};
use crate::system::{System, SystemError};

use super::report;

/// How long a webhook may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The name in the store under which the last audit is kept that people were told of.
const TOLD: &str = "told";

/// Whom to tell.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Messages, only when something has changed")]
pub struct Notify {
    /// Post what has changed as JSON to this address (https goes through curl or wget)
    #[arg(long, value_name = "URL")]
    pub webhook: Vec<String>,
    /// Mail it to this address, through this machine's sendmail
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub mail: Vec<String>,
}

/// An address that can't be taken for an option or a header.
fn address(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@.-_+".contains(c);
    match text.starts_with('-') || !text.chars().all(plain) || text.is_empty() {
        true => Err("that is no mail address".into()),
        false => Ok(text.to_string()),
    }
}

impl Notify {
    /// Nobody is to be told.
    pub(super) fn is_empty(&self) -> bool {
        self.webhook.is_empty() && self.mail.is_empty()
    }

    /// Tells what has changed since the last audit that people were told of. Returns what was told.
    ///
    /// # Errors
    /// Somebody could not be told; then the next audit tells it again.
    pub(super) fn tell(&self, store: &mut Store) -> Result<Option<String>, Failure> {
        if self.is_empty() {
            return Ok(None);
        }
        let now = report::read(store, "last")?;
        let before = match store.meta(TOLD)? {
            Some(id) if id == now.audit.new.id => return Ok(None),
            // One that was pruned since is as good as none.
            Some(id) => report::read(store, &id).ok(),
            None => None,
        };
        let changed = news(before.as_ref(), &now);
        if !changed.is_empty() {
            let mut failed = Vec::new();
            for url in &self.webhook {
                if let Err(error) = post(url, &changed, &now) {
                    failed.push(format!("{}: {error}", http::mask(url)));
                }
            }
            for address in &self.mail {
                if let Err(error) = mail(address, &changed, &now) {
                    failed.push(format!("{address}: {error}"));
                }
            }
            if !failed.is_empty() {
                return Err(Failure::error(format!("could not tell {}", failed.join("; "))));
            }
        }
        store.set_meta(TOLD, &now.audit.new.id)?;
        Ok((!changed.is_empty()).then(|| changed.subject(&now)))
    }
}

fn post(url: &str, news: &News, now: &AuditReport) -> Result<(), String> {
    let body = dump(&news.json(now), &Layout::default());
    let mut local = Local::new(Box::new(NoDepot));
    let outcome = post_from(&mut local, url, &body);
    local.clear_scratch();
    outcome
}

fn post_from(local: &mut Local, url: &str, body: &str) -> Result<(), String> {
    let said = |error: SystemError| error.to_string();
    let path = local.spool("body", &mut body.as_bytes()).map_err(said)?;
    let request = Request {
        method: "POST".into(),
        headers: vec![("Content-Type".into(), "application/json".into())],
        body: Some(path),
        body_size: body.len() as u64,
        timeout: PATIENCE,
        redirects: Redirects::Safe,
        use_netrc: false,
        agent: concat!("setpoint/", env!("CARGO_PKG_VERSION")).into(),
        ..Request::get(url)
    };
    let response = http::send(local, &request).map_err(|error| error.to_string())?;
    if (200..300).contains(&response.status) {
        Ok(())
    } else {
        Err(format!("it answered {} {}", response.status, response.reason))
    }
}

/// Where sendmail is found.
const SENDMAIL: &[&str] = &["/usr/sbin/sendmail", "/usr/lib/sendmail", "sendmail"];

fn mail(address: &str, news: &News, now: &AuditReport) -> Result<(), String> {
    use std::io::Write as _;
    let subject: String = news.subject(now).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let message = format!(
        "To: {address}\nSubject: {subject}\nAuto-Submitted: auto-generated\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{}",
        news.text(now)
    );
    for program in SENDMAIL {
        let started = Command::new(program)
            .args(["-i", "--", address])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.to_string()),
        };
        if let Some(mut input) = child.stdin.take() {
            // If it does not read, its exit status says why.
            let _ = input.write_all(message.as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        return if output.status.success() {
            Ok(())
        } else {
            Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
        };
    }
    Err("there is no sendmail on this machine".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_only_addresses() {
        assert!(address("ann+ops@example.org").is_ok());
        for bad in ["", "-bs", "a b@c", "a@b\nBcc: c@d", "a@b;c"] {
            assert!(address(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_webhook_gets_json_and_its_refusal_is_told() {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let server = std::thread::spawn(move || {
            let mut bodies = Vec::new();
            for answer in
                ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"]
            {
                let (mut stream, _) = listener.accept().expect("a client");
                let mut text = String::new();
                let mut block = [0; 4096];
                while !text.ends_with("{\"a\": 1}") {
                    let count = stream.read(&mut block).expect("a request");
                    text.push_str(&String::from_utf8_lossy(&block[..count]));
                }
                stream.write_all(answer.as_bytes()).expect("an answer");
                bodies.push(text);
            }
            bodies
        });
        let mut local = Local::new(Box::new(NoDepot));
        assert_eq!(post_from(&mut local, &url, "{\"a\": 1}"), Ok(()));
        assert_eq!(post_from(&mut local, &url, "{\"a\": 1}"), Err("it answered 403 Forbidden".into()));
        local.clear_scratch();
        let bodies = server.join().expect("served");
        assert!(bodies[0].starts_with("POST /hook HTTP/1.1\r\n") && bodies[0].contains("application/json"));
    }
}
