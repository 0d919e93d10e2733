//! A client for `uri` and `get_url`. `http` and sockets are spoken here; for `https` (and what else needs
//! cryptography) the host's `curl` is used, else its `wget`, so that the runner stays small; where there is
//! neither, `openssl` makes the connection, over which this client speaks as over any other. Redirects,
//! authentication and proxies follow the same rules whichever way a request goes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::module::{ModuleError, files};
use crate::system::converse::Conversation;
use crate::system::{Attributes, Command, Content, FileKind, System, SystemError, WriteOptions};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The request could not be made, in the words that users know.
    #[error("{0}")]
    Failed(String),
    /// This machine failed.
    #[error(transparent)]
    System(#[from] SystemError),
}

impl From<HttpError> for ModuleError {
    fn from(error: HttpError) -> ModuleError {
        ModuleError::new(error.to_string())
    }
}

type Result<T> = std::result::Result<T, HttpError>;

/// Which redirects are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirects {
    /// All.
    All,
    /// Those of requests that only ask: GET and HEAD.
    Safe,
    /// None.
    No,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: String,
    /// The address.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// Names of headers that are not sent on after a redirect.
    pub unredirected_headers: Vec<String>,
    /// A file with the body.
    pub body: Option<PathBuf>,
    /// Size of the body in bytes.
    pub body_size: u64,
    /// How long to wait for the server at each step.
    pub timeout: Duration,
    /// Which redirects are followed.
    pub redirects: Redirects,
    /// Account.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// Send account and password without being asked.
    pub force_basic_auth: bool,
    /// The server's certificate must be valid.
    pub validate_certs: bool,
    /// Certificates that are trusted: a file or directory.
    pub ca_path: Option<PathBuf>,
    /// The client's certificate.
    pub client_cert: Option<PathBuf>,
    /// The client's key.
    pub client_key: Option<PathBuf>,
    /// Ciphers to allow.
    pub ciphers: Vec<String>,
    /// A socket to connect to in place of the address's host.
    pub unix_socket: Option<PathBuf>,
    /// Follow `http_proxy`, `https_proxy` and `no_proxy`.
    pub use_proxy: bool,
    /// Look for the account in `~/.netrc`.
    pub use_netrc: bool,
    /// Name of the client.
    pub agent: String,
    /// Unpack a compressed body.
    pub decompress: bool,
}

impl Request {
    /// Gets what is at an address, with nothing out of the ordinary; what is, is set by whoever makes it.
    pub fn get(url: &str) -> Request {
        Request {
            method: "GET".into(),
            url: url.into(),
            headers: Vec::new(),
            unredirected_headers: Vec::new(),
            body: None,
            body_size: 0,
            timeout: Duration::from_secs(30),
            redirects: Redirects::All,
            user: None,
            password: None,
            force_basic_auth: false,
            validate_certs: true,
            ca_path: None,
            client_cert: None,
            client_key: None,
            ciphers: Vec::new(),
            unix_socket: None,
            use_proxy: true,
            use_netrc: true,
            agent: "setpoint".into(),
            decompress: true,
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status, such as 200.
    pub status: u16,
    /// Its text, such as `OK`.
    pub reason: String,
    /// The address that answered, after redirects, without password.
    pub url: String,
    /// Whether there were redirects.
    pub redirected: bool,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: PathBuf,
}

impl Response {
    /// A header's value; several of one name are joined by commas.
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> = self
            .headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }
}

/// A parsed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `http` or `https`.
    pub scheme: String,
    /// Name or number of the host, IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query, starting with a slash.
    pub target: String,
    user: Option<String>,
    password: Option<String>,
}

impl Url {
    /// Reads an address.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str) -> Result<Url> {
        let wrong = || HttpError::Failed(format!("unknown url type or invalid address: {}", mask(text)));
        let (scheme, rest) = text.trim().split_once("://").ok_or_else(wrong)?;
        let scheme = scheme.to_ascii_lowercase();
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        let (account, place) = match authority.rsplit_once('@') {
            Some((account, place)) => (Some(account), place),
            None => (None, authority),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(inner) => {
                let (host, rest) = inner.split_once(']').ok_or_else(wrong)?;
                (host, rest.strip_prefix(':').filter(|port| !port.is_empty()))
            }
            None => match place.rsplit_once(':') {
                Some((host, port)) => (host, (!port.is_empty()).then_some(port)),
                None => (place, None),
            },
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(wrong());
        }
        let port = match port {
            Some(port) => port.parse().map_err(|_| wrong())?,
            None if scheme == "https" => 443,
            None => 80,
        };
        let tail = tail.split('#').next().unwrap_or_default();
        let target = if tail.starts_with('/') { tail.to_string() } else { format!("/{tail}") };
        let (user, password) = match account.map(|account| account.split_once(':').unwrap_or((account, ""))) {
            Some((user, password)) => (Some(unquote(user)), Some(unquote(password))),
            None => (None, None),
        };
        Ok(Url { scheme, host: host.into(), port, target: quote_target(&target), user, password })
    }

    /// Host and port as a header has them.
    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let usual = if self.scheme == "https" { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }

    /// The address without account.
    fn text(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority(), self.target)
    }

    /// Where a `Location` leads from here.
    fn join(&self, location: &str) -> Result<Url> {
        let location = location.trim();
        if location.contains("://") {
            return Url::parse(location);
        }
        if let Some(rest) = location.strip_prefix("//") {
            return Url::parse(&format!("{}://{rest}", self.scheme));
        }
        let base = self.target.split('?').next().unwrap_or("/");
        let target = if location.starts_with('/') {
            location.to_string()
        } else if location.starts_with('?') {
            format!("{base}{location}")
        } else {
            let directory = base.rsplit_once('/').map_or("", |(directory, _)| directory);
            format!("{directory}/{location}")
        };
        Url::parse(&format!("{}://{}{}", self.scheme, self.authority(), without_dots(&target)))
    }
}

/// Where a `Location` in an answer from `base` leads.
pub fn absolute(base: &str, location: &str) -> Option<String> {
    Url::parse(base).and_then(|url| url.join(location)).ok().map(|url| url.text())
}

/// Resolves `.` and `..` in a path.
fn without_dots(target: &str) -> String {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').skip(1) {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let path = format!("/{}", parts.join("/"));
    query.map_or(path.clone(), |query| format!("{path}?{query}"))
}

/// Characters that may not stand in a request are written as `%20` and so on.
fn quote_target(target: &str) -> String {
    let mut out = String::with_capacity(target.len());
    for byte in target.bytes() {
        if byte.is_ascii_graphic() {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Text in the form of a query: letters, digits and `-_.~` as they are, blanks as `+`.
pub fn quote_plus(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn unquote(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// An address without its password, for messages.
pub fn mask(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.into() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        Some((account, place)) if account.contains(':') => {
            let user = account.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:********@{place}{}", &rest[end..])
        }
        _ => url.into(),
    }
}

/// Most redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// How an account is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Auth {
    No,
    Basic,
    Digest,
}

/// Sends a request, follows redirects, and answers a question for the account.
///
/// # Errors
/// If there is no answer. A status that is an error is an answer.
pub fn send(system: &mut dyn System, request: &Request) -> Result<Response> {
    let mut request = request.clone();
    let mut url = Url::parse(&request.url)?;
    adopt_account(system, &mut request, &url);
    let first = url.clone();
    let mut auth = if request.force_basic_auth && request.user.is_some() { Auth::Basic } else { Auth::No };
    for hop in 0..=MAX_REDIRECTS * 2 {
        let answer = exchange(system, &request, &url, auth)?;
        let asks_for = |scheme: &str| {
            answer.headers.iter().any(|(name, value)| {
                name == "www-authenticate" && value.to_ascii_lowercase().trim_start().starts_with(scheme)
            })
        };
        if answer.status == 401 && auth == Auth::No && request.user.is_some() {
            auth = if asks_for("digest") && !asks_for("basic") { Auth::Digest } else { Auth::Basic };
            continue;
        }
        let location = answer.headers.iter().find(|(name, _)| name == "location").map(|(_, value)| value);
        let followed = match (answer.status, location) {
            (301..=303 | 307 | 308, Some(location)) => match request.redirects {
                Redirects::All => Some(location),
                Redirects::Safe if matches!(request.method.as_str(), "GET" | "HEAD") => Some(location),
                _ => None,
            },
            _ => None,
        };
        let Some(location) = followed else {
            return finish(system, &request, answer, &url, url != first);
        };
        if hop >= MAX_REDIRECTS {
            return Err(HttpError::Failed("Request failed: too many redirects".into()));
        }
        let next = url.join(location)?;
        if !matches!(next.scheme.as_str(), "http" | "https") {
            return Err(HttpError::Failed(format!(
                "Request failed: redirected to {}, which is not a web address",
                next.text()
            )));
        }
        redirect(&mut request, answer.status, next.host != url.host || next.port != url.port);
        if next.host != url.host {
            auth = Auth::No;
        }
        url = next;
    }
    Err(HttpError::Failed("Request failed: too many redirects".into()))
}

/// Takes an account from the address, else from `~/.netrc`.
fn adopt_account(system: &mut dyn System, request: &mut Request, url: &Url) {
    if request.user.is_some() {
        return;
    }
    if url.user.is_some() {
        request.user.clone_from(&url.user);
        request.password.clone_from(&url.password);
        request.force_basic_auth = true;
        return;
    }
    let has_header = request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
    if request.use_netrc
        && !has_header
        && let Some(home) = system.env("HOME")
        && let Ok(bytes) = system.read(&Path::new(&home).join(".netrc"))
        && let Some((user, password)) = netrc(&String::from_utf8_lossy(&bytes), &url.host)
    {
        request.user = Some(user);
        request.password = Some(password);
        request.force_basic_auth = true;
    }
}

/// Account and password for a host in the format of `~/.netrc`.
fn netrc(text: &str, host: &str) -> Option<(String, String)> {
    let mut words = text.split_whitespace();
    let (mut applies, mut user, mut password) = (false, None, None);
    while let Some(word) = words.next() {
        match word {
            "machine" | "default" => {
                if applies && let (Some(user), Some(password)) = (user.take(), password.take()) {
                    return Some((user, password));
                }
                (user, password) = (None, None);
                applies = word == "default" || words.next() == Some(host);
            }
            "login" => user = words.next().map(str::to_string),
            "password" => password = words.next().map(str::to_string),
            "account" => {
                words.next();
            }
            _ => {}
        }
    }
    if applies { user.zip(password) } else { None }
}

/// Changes a request as a redirect of this status does.
fn redirect(request: &mut Request, status: u16, elsewhere: bool) {
    let to_get = match status {
        303 => request.method != "HEAD",
        301 | 302 => !matches!(request.method.as_str(), "GET" | "HEAD"),
        _ => false,
    };
    if to_get {
        request.method = "GET".into();
        request.body = None;
        request.body_size = 0;
    }
    let dropped = request.unredirected_headers.clone();
    let body_left = request.body.is_some();
    request.headers.retain(|(name, _)| {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        !dropped.iter().any(|other| is(other))
            && (body_left || !(is("content-type") || is("content-length")))
            && !(elsewhere && (is("authorization") || is("cookie")))
    });
    if elsewhere {
        // An account is for the host that it was given for.
        request.user = None;
        request.password = None;
    }
}

/// One answer as it came.
struct Answer {
    status: u16,
    reason: String,
    headers: Vec<(String, String)>,
    body: PathBuf,
}

fn finish(
    system: &mut dyn System,
    request: &Request,
    answer: Answer,
    url: &Url,
    redirected: bool,
) -> Result<Response> {
    let Answer { status, reason, headers, mut body } = answer;
    let packed = headers
        .iter()
        .any(|(name, value)| name == "content-encoding" && value.trim().eq_ignore_ascii_case("gzip"));
    if packed && request.decompress && request.method != "HEAD" {
        let reader = ScratchReader { system, path: body.clone(), offset: 0 };
        // Unpacked through memory in chunks would need the system twice at once; bodies that are
        // compressed on the way are pages, not archives.
        let mut bytes = Vec::new();
        flate2::read::MultiGzDecoder::new(reader).read_to_end(&mut bytes).map_err(|error| {
            HttpError::Failed(format!("Request failed: the compressed body is broken: {error}"))
        })?;
        body = system.spool("body-unpacked", &mut bytes.as_slice())?;
    }
    Ok(Response { status, reason, url: url.text(), redirected, headers, body })
}

struct ScratchReader<'a> {
    system: &'a mut dyn System,
    path: PathBuf,
    offset: u64,
}

impl Read for ScratchReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes =
            self.system.read_at(&self.path, self.offset, buffer.len()).map_err(std::io::Error::other)?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }
}

fn exchange(system: &mut dyn System, request: &Request, url: &Url, auth: Auth) -> Result<Answer> {
    let proxy = proxy_for(system, request, url);
    let plain = request.unix_socket.is_some()
        || url.scheme == "http" && proxy.as_ref().is_none_or(|proxy| proxy.scheme == "http");
    if plain && auth != Auth::Digest {
        return native(system, request, url, proxy.as_ref(), auth);
    }
    if let Some(answer) = curl(system, request, url, auth)? {
        return Ok(answer);
    }
    let others = auth != Auth::Digest && request.unix_socket.is_none();
    if others && let Some(answer) = wget(system, request, url, auth)? {
        return Ok(answer);
    }
    let by_openssl = others && url.scheme == "https";
    if by_openssl && let Some(line) = openssl(system, request, url, proxy.as_ref())? {
        return speak(system, request, url, None, auth, line);
    }
    Err(HttpError::Failed(format!(
        "{} needs `curl`{}{} on the host; install it first",
        url.scheme,
        if others { " or `wget`" } else { "" },
        if by_openssl { " or `openssl`" } else { "" },
    )))
}

/// The proxy that the environment names for an address.
fn proxy_for(system: &mut dyn System, request: &Request, url: &Url) -> Option<Url> {
    if !request.use_proxy || request.unix_socket.is_some() {
        return None;
    }
    let mut variable = |name: &str| {
        system
            .env(name)
            .or_else(|| system.env(&name.to_ascii_uppercase()))
            .filter(|value| !value.trim().is_empty())
    };
    let proxy = variable(&format!("{}_proxy", url.scheme)).or_else(|| variable("all_proxy"))?;
    let exceptions = variable("no_proxy").unwrap_or_default();
    let excepted = exceptions.split(',').map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let bare = entry.trim_start_matches("*.").trim_start_matches('.');
        entry == "*" || url.host == bare || url.host.ends_with(&format!(".{bare}"))
    });
    if excepted {
        return None;
    }
    let text = if proxy.contains("://") { proxy } else { format!("http://{proxy}") };
    Url::parse(&text).ok()
}

/// The headers that a request has in the end.
fn headers_of(request: &Request, url: &Url, auth: Auth) -> Vec<(String, String)> {
    let mut headers = request.headers.clone();
    let mut add = |name: &str, value: String| {
        if !headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name)) {
            headers.push((name.into(), value));
        }
    };
    add("Host", url.authority());
    add("User-Agent", request.agent.clone());
    add("Accept-Encoding", "identity".into());
    if request.body.is_some() || matches!(request.method.as_str(), "POST" | "PUT" | "PATCH") {
        add("Content-Length", request.body_size.to_string());
    }
    if auth == Auth::Basic
        && let Some(user) = &request.user
    {
        let account = format!("{user}:{}", request.password.as_deref().unwrap_or_default());
        add("Authorization", format!("Basic {}", STANDARD.encode(account)));
    }
    headers
}

fn failed(error: &std::io::Error) -> HttpError {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    HttpError::Failed(match (error.raw_os_error(), error.kind()) {
        (Some(number), kind) if kind != std::io::ErrorKind::WouldBlock => {
            format!("Request failed: <urlopen error [Errno {number}] {text}>")
        }
        (_, std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            "Request failed: <urlopen error timed out>".into()
        }
        _ => format!("Request failed: <urlopen error {text}>"),
    })
}

/// What a request goes over.
enum Line {
    Tcp(TcpStream),
    Socket(UnixStream),
    /// `openssl`, which speaks TLS for us.
    Tls(Box<dyn Conversation>),
}

impl Line {
    /// What the program in between has to say when the line has ended. `None` if all is well.
    fn complaint(&mut self, url: &Url) -> Option<HttpError> {
        let Line::Tls(program) = self else { return None };
        let output = program.end();
        (!output.success()).then(|| tls_error(&output.stderr_text(), url))?
    }
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Line::Tcp(stream) => stream.read(buffer),
            Line::Socket(stream) => stream.read(buffer),
            Line::Tls(program) => program.read(buffer),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Line::Tcp(stream) => stream.write(bytes),
            Line::Socket(stream) => stream.write(bytes),
            Line::Tls(program) => program.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn connect(request: &Request, host: &str, port: u16) -> Result<Line> {
    if let Some(path) = &request.unix_socket {
        let stream = UnixStream::connect(path).map_err(|error| failed(&error))?;
        let limit = Some(request.timeout);
        stream
            .set_read_timeout(limit)
            .and_then(|()| stream.set_write_timeout(limit))
            .map_err(|e| failed(&e))?;
        return Ok(Line::Socket(stream));
    }
    let addresses = (host, port).to_socket_addrs().map_err(|_| {
        HttpError::Failed(format!(
            "Request failed: <urlopen error [Errno -2] Name or service not known> ({host})"
        ))
    })?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, request.timeout) {
            Ok(stream) => {
                let limit = Some(request.timeout);
                stream
                    .set_read_timeout(limit)
                    .and_then(|()| stream.set_write_timeout(limit))
                    .and_then(|()| stream.set_nodelay(true))
                    .map_err(|error| failed(&error))?;
                return Ok(Line::Tcp(stream));
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(
        || HttpError::Failed(format!("Request failed: {host} has no address")),
        |error| failed(&error),
    ))
}

/// How much of a body is sent at once.
const CHUNK: usize = 256 << 10;

fn native(
    system: &mut dyn System,
    request: &Request,
    url: &Url,
    proxy: Option<&Url>,
    auth: Auth,
) -> Result<Answer> {
    let (host, port) = proxy.map_or((&url.host, url.port), |proxy| (&proxy.host, proxy.port));
    let line = connect(request, host, port)?;
    speak(system, request, url, proxy, auth, line)
}

/// Sends the request over a line, and reads the answer. What broke on the line itself says why.
fn speak(
    system: &mut dyn System,
    request: &Request,
    url: &Url,
    proxy: Option<&Url>,
    auth: Auth,
    mut line: Line,
) -> Result<Answer> {
    let sent = say(system, request, url, proxy, auth, &mut line);
    let mut reader = BufReader::new(line);
    let heard = sent.and_then(|()| hear(system, request, &mut reader));
    let line = reader.get_mut();
    match heard {
        Err(error) => Err(line.complaint(url).unwrap_or(error)),
        // Only a proper end of the line says that this was all.
        Ok((_, true)) if let Some(error) = line.complaint(url) => Err(error),
        Ok((answer, _)) => Ok(answer),
    }
}

fn say(
    system: &mut dyn System,
    request: &Request,
    url: &Url,
    proxy: Option<&Url>,
    auth: Auth,
    line: &mut Line,
) -> Result<()> {
    let target = if proxy.is_some() { url.text() } else { url.target.clone() };
    let mut head = format!("{} {target} HTTP/1.1\r\n", request.method);
    for (name, value) in headers_of(request, url, auth) {
        if name.contains(['\r', '\n', ':']) || value.contains(['\r', '\n']) {
            return Err(HttpError::Failed(format!("the header {name:?} is not valid")));
        }
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(Url { user: Some(user), password, .. }) = proxy {
        let account = format!("{user}:{}", password.as_deref().unwrap_or_default());
        head.push_str(&format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(account)));
    }
    head.push_str("Connection: close\r\n\r\n");
    line.write_all(head.as_bytes()).map_err(|error| failed(&error))?;
    if let Some(body) = &request.body {
        let mut offset = 0;
        loop {
            let bytes = system.read_at(body, offset, CHUNK)?;
            if bytes.is_empty() {
                break;
            }
            offset += bytes.len() as u64;
            // A server that has heard enough answers and closes; its answer is what counts.
            if line.write_all(&bytes).is_err() {
                break;
            }
        }
    }
    line.flush().map_err(|error| failed(&error))
}

/// The answer, and whether its body goes to the end of the line.
fn hear(
    system: &mut dyn System,
    request: &Request,
    mut reader: &mut BufReader<Line>,
) -> Result<(Answer, bool)> {
    let (status, reason, headers) = loop {
        let head = read_head(&mut reader)?;
        if head.0 >= 200 || head.0 == 101 {
            break head;
        }
    };
    let value = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.trim());
    let mut to_the_end = false;
    let mut body: Box<dyn Read + '_> = if request.method == "HEAD" || matches!(status, 204 | 304) {
        Box::new(std::io::empty())
    } else if value("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        Box::new(Chunked { inner: reader, left: 0, done: false })
    } else if let Some(length) = value("content-length") {
        let left = length.parse().map_err(|_| {
            HttpError::Failed(format!("Request failed: the server says that the body has {length} bytes"))
        })?;
        Box::new(Exactly { inner: reader, left })
    } else {
        to_the_end = true;
        Box::new(reader)
    };
    let body = system.spool("body", &mut body).map_err(|error| match error {
        SystemError::Io { action: "receive", source, .. } => {
            HttpError::Failed(format!("Request failed: the connection broke: {source}"))
        }
        other => other.into(),
    })?;
    Ok((Answer { status, reason, headers, body }, to_the_end))
}

/// A line to the server by way of the host's `openssl`; `None` if there is none. Nothing is sent before the
/// server has shown a certificate that is good (unless none is asked for).
fn openssl(
    system: &mut dyn System,
    request: &Request,
    url: &Url,
    proxy: Option<&Url>,
) -> Result<Option<Line>> {
    let place = |host: &str, port: u16| {
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    };
    let is_number = url.host.parse::<std::net::IpAddr>().is_ok();
    let mut command = Command::new(["openssl", "s_client", "-quiet"]).c_locale();
    let mut add = |words: &[&str]| command.argv.extend(words.iter().map(Into::into));
    add(&["-connect", &place(&url.host, url.port)]);
    if !is_number {
        add(&["-servername", &url.host]);
    }
    if request.validate_certs {
        // The depth switches verification on in every version.
        add(&["-verify", "16", "-verify_return_error"]);
        add(&[if is_number { "-verify_ip" } else { "-verify_hostname" }, &url.host]);
    }
    let mut password = None;
    if let Some(proxy) = proxy {
        if proxy.scheme != "http" {
            let text = format!("a proxy by {} needs `curl` on the host; install it first", proxy.scheme);
            return Err(HttpError::Failed(text));
        }
        add(&["-proxy", &place(&proxy.host, proxy.port)]);
        if let Some(user) = &proxy.user {
            add(&["-proxy_user", user, "-proxy_pass", "env:SETPOINT_PROXY_PASSWORD"]);
            password = Some(proxy.password.clone().unwrap_or_default());
        }
    }
    if let Some(ca) = &request.ca_path {
        let directory = is_directory(system, ca)?;
        add(&[if directory { "-CApath" } else { "-CAfile" }, &files::text_of(ca)]);
    }
    for (flag, path) in [("-cert", &request.client_cert), ("-key", &request.client_key)] {
        if let Some(path) = path {
            add(&[flag, &files::text_of(path)]);
        }
    }
    if !request.ciphers.is_empty() {
        add(&["-cipher", &request.ciphers.join(":")]);
    }
    command.env.extend(password.map(|password| ("SETPOINT_PROXY_PASSWORD".to_string(), password)));
    match system.converse(&command, request.timeout) {
        Ok(program) => Ok(Some(Line::Tls(program))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What `openssl` means by its messages. `None` if there are none.
fn tls_error(said: &str, url: &Url) -> Option<HttpError> {
    let after = |marker: &str| {
        let line = said.lines().find_map(|line| Some(line.split_once(marker)?.1))?;
        Some(line.split_once(':').map_or(line, |(_, text)| text).trim().to_string())
    };
    if let Some(reason) = after("verify error:num=") {
        return Some(HttpError::Failed(format!(
            "Request failed: the certificate of {} is not valid: {reason}",
            url.authority()
        )));
    }
    let number = said.lines().find_map(|line| line.strip_prefix("connect:errno=")?.trim().parse().ok());
    if let Some(number @ 1..) = number {
        return Some(failed(&std::io::Error::from_raw_os_error(number)));
    }
    // `…:error:0A000086:SSL routines:function:reason:file:line:…`
    let reason = said.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_once("error:")?.1.split(':').collect();
        fields.get(3).filter(|text| !text.is_empty()).map(ToString::to_string)
    });
    let last = || said.lines().rfind(|line| !line.trim().is_empty()).map(|line| line.trim().to_string());
    let reason = reason.or_else(last)?;
    Some(HttpError::Failed(format!("Request failed: no TLS with {}: {reason}", url.authority())))
}

fn is_directory(system: &mut dyn System, path: &Path) -> Result<bool> {
    Ok(system.stat_follow(path)?.is_some_and(|stat| stat.kind == FileKind::Directory))
}

type Head = (u16, String, Vec<(String, String)>);

/// Largest head of an answer in bytes.
const MAX_HEAD: u64 = 256 << 10;

fn read_head(reader: &mut impl BufRead) -> Result<Head> {
    let mut limited = reader.take(MAX_HEAD);
    let mut line = || -> Result<String> {
        let mut bytes = Vec::new();
        limited.read_until(b'\n', &mut bytes).map_err(|error| failed(&error))?;
        if !bytes.ends_with(b"\n") {
            return Err(HttpError::Failed(
                "Request failed: Remote end closed connection without response".into(),
            ));
        }
        Ok(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_string())
    };
    let first = line()?;
    let mut lines = vec![first];
    loop {
        let next = line()?;
        if next.is_empty() {
            break;
        }
        lines.push(next);
    }
    parse_head(&lines).ok_or_else(|| HttpError::Failed("Request failed: the answer is not HTTP".into()))
}

/// Status, reason and headers of the lines of a head.
fn parse_head(lines: &[String]) -> Option<Head> {
    let (first, rest) = lines.split_first()?;
    let mut words = first.splitn(3, ' ');
    words.next().filter(|word| word.starts_with("HTTP/"))?;
    let status = words.next()?.parse().ok()?;
    let reason = words.next().unwrap_or_default().trim().to_string();
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in rest {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = headers.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_string()));
        }
    }
    Some((status, reason, headers))
}

/// A body in chunks.
struct Chunked<R> {
    inner: R,
    left: u64,
    done: bool,
}

impl<R: BufRead> Chunked<R> {
    fn line(&mut self) -> std::io::Result<String> {
        let mut bytes = Vec::new();
        (&mut self.inner).take(8192).read_until(b'\n', &mut bytes)?;
        if !bytes.ends_with(b"\n") {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(String::from_utf8_lossy(&bytes).trim().to_string())
    }
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.done || buffer.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            let line = self.line()?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            self.left = u64::from_str_radix(digits, 16)
                .map_err(|_| std::io::Error::other("a chunk's size is not a number"))?;
            if self.left == 0 {
                while !self.line()?.is_empty() {}
                self.done = true;
                return Ok(0);
            }
        }
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.inner.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        if self.left == 0 {
            self.line()?;
        }
        Ok(count)
    }
}

/// A body of known length; one that ends before is an error.
struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.inner.read(&mut buffer[..wanted])?;
        if count == 0 {
            let text = format!("Incomplete read, {} bytes are missing", self.left);
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, text));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// A line of `curl`'s configuration. It goes over standard input: headers and passwords are secrets, and
/// arguments can be seen by everybody on the host.
fn option(out: &mut String, name: &str, value: &str) {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\r', "\\r");
    out.push_str(&format!("{name} = \"{}\"\n", escaped.replace('\t', "\\t")));
}

/// The answer by way of the host's `curl`; `None` if there is none.
fn curl(system: &mut dyn System, request: &Request, url: &Url, auth: Auth) -> Result<Option<Answer>> {
    let scratch = system.scratch()?;
    let (head, body) = (scratch.join("head"), system.spool("body", &mut std::io::empty())?);
    let mut config = String::from("silent\nshow-error\ngloboff\n");
    let seconds = request.timeout.as_secs().max(1).to_string();
    let address = if url.scheme == "ftp" { request.url.clone() } else { url.text() };
    for (name, value) in [
        ("url", address.as_str()),
        ("connect-timeout", &seconds),
        ("speed-limit", "1"),
        ("speed-time", &seconds),
        ("output", &files::text_of(&body)),
        ("dump-header", &files::text_of(&head)),
        ("header", "Expect:"),
        ("header", "Accept:"),
    ] {
        option(&mut config, name, value);
    }
    if url.scheme != "ftp" {
        if request.method == "HEAD" {
            config.push_str("head\n");
        } else {
            option(&mut config, "request", &request.method);
        }
        for (name, value) in headers_of(request, url, auth) {
            if !matches!(name.to_ascii_lowercase().as_str(), "content-length" | "host") {
                let line = if value.is_empty() { format!("{name};") } else { format!("{name}: {value}") };
                option(&mut config, "header", &line);
            }
        }
        if let Some(body) = &request.body {
            option(&mut config, "data-binary", &format!("@{}", body.display()));
            let typed = request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
            if !typed {
                option(&mut config, "header", "Content-Type:");
            }
        }
    }
    if auth == Auth::Digest
        && let Some(user) = &request.user
    {
        config.push_str("digest\n");
        option(&mut config, "user", &format!("{user}:{}", request.password.as_deref().unwrap_or_default()));
    }
    if !request.validate_certs {
        config.push_str("insecure\n");
    }
    if !request.use_proxy {
        option(&mut config, "noproxy", "*");
    }
    if let Some(ca) = &request.ca_path {
        let directory = is_directory(system, ca)?;
        option(&mut config, if directory { "capath" } else { "cacert" }, &files::text_of(ca));
    }
    for (name, path) in
        [("cert", &request.client_cert), ("key", &request.client_key), ("unix-socket", &request.unix_socket)]
    {
        if let Some(path) = path {
            option(&mut config, name, &files::text_of(path));
        }
    }
    if !request.ciphers.is_empty() {
        option(&mut config, "ciphers", &request.ciphers.join(":"));
    }
    let mut command = Command::new(["curl", "--config", "-"]).c_locale();
    command.stdin = Some(config.into_bytes());
    let Some(output) =
        files::try_query(system, &command).map_err(|error| HttpError::Failed(error.message))?
    else {
        return Ok(None);
    };
    if !output.success() {
        let said = output.stderr_text();
        return Err(HttpError::Failed(format!("Request failed: {}", said.trim())));
    }
    if url.scheme == "ftp" {
        return Ok(Some(Answer { status: 200, reason: "OK".into(), headers: Vec::new(), body }));
    }
    let text = String::from_utf8_lossy(&system.read(&head)?).into_owned();
    let lines: Vec<String> = text.lines().map(|line| line.trim_end().to_string()).collect();
    Ok(Some(last_head(&lines, body)?))
}

/// The last head of several: earlier ones are of a proxy, of `100 Continue`, of a question for the account.
fn last_head(lines: &[String], body: PathBuf) -> Result<Answer> {
    let start = lines.iter().rposition(|line| line.starts_with("HTTP/")).unwrap_or(0);
    let end = lines[start..].iter().position(String::is_empty).map_or(lines.len(), |at| start + at);
    let (status, reason, headers) = parse_head(&lines[start..end])
        .ok_or_else(|| HttpError::Failed("Request failed: the answer is not HTTP".into()))?;
    Ok(Answer { status, reason, headers, body })
}

/// The answer by way of the host's `wget`; `None` if there is none that knows what is needed.
fn wget(system: &mut dyn System, request: &Request, url: &Url, auth: Auth) -> Result<Option<Answer>> {
    if !request.ciphers.is_empty() {
        return Ok(None);
    }
    let scratch = system.scratch()?;
    let body = system.spool("body", &mut std::io::empty())?;
    let config = scratch.join("wgetrc");
    let mut lines = String::new();
    for (name, value) in headers_of(request, url, auth) {
        if !matches!(name.to_ascii_lowercase().as_str(), "content-length" | "host") {
            lines.push_str(&format!("header = {name}: {value}\n"));
        }
    }
    if !request.validate_certs {
        lines.push_str("check_certificate = off\n");
    }
    if !request.use_proxy {
        lines.push_str("use_proxy = off\n");
    }
    let ca_is_directory = request.ca_path.as_ref().map(|path| is_directory(system, path)).transpose()?;
    for (name, path) in [
        (if ca_is_directory == Some(true) { "ca_directory" } else { "ca_certificate" }, &request.ca_path),
        ("certificate", &request.client_cert),
        ("private_key", &request.client_key),
    ] {
        if let Some(path) = path {
            lines.push_str(&format!("{name} = {}\n", path.display()));
        }
    }
    let private = Attributes { mode: Some(0o600), ..Attributes::default() };
    system.write(&config, &Content::Bytes(lines.into_bytes()), &private, WriteOptions::default())?;
    let mut command = Command::new([
        "wget".to_string(),
        format!("--config={}", config.display()),
        "--server-response".into(),
        "--content-on-error".into(),
        "--max-redirect=0".into(),
        "--tries=1".into(),
        format!("--timeout={}", request.timeout.as_secs().max(1)),
        format!("--output-document={}", body.display()),
        format!("--method={}", request.method),
    ])
    .c_locale();
    if let Some(content) = &request.body {
        command.argv.push(format!("--body-file={}", content.display()).into());
    }
    command.argv.push(url.text().into());
    let Some(output) =
        files::try_query(system, &command).map_err(|error| HttpError::Failed(error.message))?
    else {
        return Ok(None);
    };
    let said = output.stderr_text();
    // That of busybox, which does not look at certificates.
    if ["unrecognized option", "invalid option", "unknown option"].iter().any(|text| said.contains(text)) {
        return Ok(None);
    }
    let lines: Vec<String> =
        said.lines().filter(|line| line.starts_with("  ")).map(|line| line.trim().to_string()).collect();
    if !lines.iter().any(|line| line.starts_with("HTTP/")) {
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        return Err(HttpError::Failed(format!("Request failed: {}", last.trim())));
    }
    Ok(Some(last_head(&lines, body)?))
}

/// A time as `If-Modified-Since` has it.
pub fn http_date(seconds: f64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    #[expect(clippy::cast_possible_truncation, reason = "seconds since the epoch fit")]
    let seconds = seconds.floor() as i64;
    let days = seconds.div_euclid(86_400);
    let (year, month, day) = files::civil(days);
    let rest = seconds.rem_euclid(86_400);
    let name = |names: &'static [&'static str], index: i64| {
        usize::try_from(index).ok().and_then(|index| names.get(index)).copied().unwrap_or_default()
    };
    format!(
        "{}, {day:02} {} {year} {:02}:{:02}:{:02} GMT",
        name(&DAYS, days.rem_euclid(7)),
        name(&MONTHS, month - 1),
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::local::{Local, NoDepot};

    #[test]
    fn addresses_are_read_and_joined() {
        let url = Url::parse("https://me:p%40ss@[::1]:8443/a b?x=1#frag").expect("valid");
        assert_eq!(url.text(), "https://[::1]:8443/a%20b?x=1");
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (Some("me"), Some("p@ss")));
        for (location, expected) in [
            ("/x", "https://[::1]:8443/x"),
            ("c?d", "https://[::1]:8443/c?d"),
            ("?q", "https://[::1]:8443/a%20b?q"),
            ("../../y", "https://[::1]:8443/y"),
            ("//h/z", "https://h/z"),
            ("http://h:80/", "http://h/"),
        ] {
            assert_eq!(url.join(location).expect("valid").text(), expected, "{location}");
        }
        assert!(Url::parse("nothing").is_err());
        assert_eq!(mask("http://a:secret@h/x"), "http://a:********@h/x");
        assert_eq!(quote_plus("a b&ü~"), "a+b%26%C3%BC~");
    }

    #[test]
    fn bodies_in_chunks_are_joined() {
        let read = |text: &str| {
            let mut out = String::new();
            let mut body = Chunked { inner: text.as_bytes(), left: 0, done: false };
            body.read_to_string(&mut out).map(|_| out).map_err(|error| error.kind())
        };
        assert_eq!(read("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\n").as_deref(), Ok("abcde"));
        assert_eq!(read("3\r\nab"), Err(std::io::ErrorKind::UnexpectedEof));
        assert_eq!(read("zz\r\n"), Err(std::io::ErrorKind::Other));
    }

    #[test]
    fn accounts_are_found_in_netrc() {
        let text =
            "machine a login u password p\nmachine b\n  login v\n  password q\ndefault login w password r";
        for (host, expected) in [("a", ("u", "p")), ("b", ("v", "q")), ("c", ("w", "r"))] {
            let expected = (expected.0.to_string(), expected.1.to_string());
            assert_eq!(netrc(text, host), Some(expected), "{host}");
        }
        assert_eq!(netrc("machine a login u password p", "c"), None);
    }

    /// An authority and servers with certificates of every kind. `None`, said aloud, without openssl.
    struct Tls {
        place: tempfile::TempDir,
    }

    /// Ends with the test.
    struct Served {
        child: std::process::Child,
        port: u16,
    }

    impl Drop for Served {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn openssl_tool(place: &Path, words: &str) -> std::process::Command {
        let mut command = std::process::Command::new("openssl");
        command.args(words.split(' ')).current_dir(place).stderr(std::process::Stdio::null());
        command
    }

    impl Tls {
        #[expect(clippy::print_stderr, reason = "a skipped test says so")]
        fn new(test: &str) -> Option<Tls> {
            let place = tempfile::tempdir().expect("a directory");
            if openssl_tool(place.path(), "version").output().is_err() {
                eprintln!("skipped {test}: needs openssl");
                return None;
            }
            let tls = Tls { place };
            let path = tls.place.path();
            let run = |words: &str| {
                assert!(openssl_tool(path, words).output().expect("it starts").status.success(), "{words}");
            };
            let write = |name: &str, text: &str| std::fs::write(path.join(name), text).expect("written");
            let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
            run(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=Test -days 3650"));
            write("index", "");
            write(
                "ca.cnf",
                "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nnew_certs_dir=.\npolicy=p\ndefault_md=sha256\nrand_serial=yes\nunique_subject=no\ncopy_extensions=none\n[p]\ncommonName=supplied\n",
            );
            for (name, alternative, until) in [
                ("good", "DNS:localhost,IP:127.0.0.1", "21000101000000Z"),
                ("other", "DNS:other.example", "21000101000000Z"),
                ("expired", "DNS:localhost,IP:127.0.0.1", "20200101000000Z"),
            ] {
                write(&format!("{name}.ext"), &format!("[e]\nsubjectAltName={alternative}\n"));
                run(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN=localhost"));
                run(&format!(
                    "ca -batch -notext -config ca.cnf -cert ca.pem -keyfile ca.key -in {name}.csr -out {name}.pem -extfile {name}.ext -extensions e -startdate 20190101000000Z -enddate {until}"
                ));
            }
            write("self.ext", "");
            run(&format!(
                "req -x509 {key} -keyout self.key -out self.pem -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -days 3650"
            ));
            run(&format!("req {key} -keyout client.key -out client.csr -subj /CN=me"));
            run(
                "x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out client.pem -days 3650",
            );
            write("hello.txt", "hello\n");
            write("large.bin", &"0123456789abcdef".repeat(1 << 17));
            Some(tls)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.place.path().join(name)
        }

        fn serve(&self, certificate: &str, how: &str) -> Served {
            let port = {
                let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
                free.local_addr().expect("bound").port()
            };
            let words = format!(
                "s_server -accept 127.0.0.1:{port} -cert {certificate}.pem -key {certificate}.key {how}"
            );
            let child = openssl_tool(self.place.path(), &words)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("it starts");
            Served { child, port }
        }

        /// A directory with a link to this program alone. `None` if it is not here.
        fn only(&self, program: &str) -> Option<PathBuf> {
            let paths = std::env::var_os("PATH")?;
            let found =
                std::env::split_paths(&paths).map(|path| path.join(program)).find(|path| path.exists())?;
            let directory = self.path(&format!("only-{program}"));
            std::fs::create_dir_all(&directory).expect("made");
            let _ = std::os::unix::fs::symlink(found, directory.join(program));
            Some(directory)
        }

        /// Asks with one program, until the server listens.
        fn ask(
            &self,
            program: &Path,
            change: impl Fn(&mut Request),
            url: &str,
        ) -> Result<(Response, Vec<u8>)> {
            let mut local = Local::new(Box::new(NoDepot));
            local.set_environment(vec![("PATH".into(), program.to_string_lossy().into_owned())]);
            let mut request = asking(url);
            request.ca_path = Some(self.path("ca.pem"));
            change(&mut request);
            for _ in 0..100 {
                let answer = send(&mut local, &request);
                let not_yet = |text: &str| text.contains("refused") || text.contains("connect to server");
                if answer.as_ref().is_err_and(|error| not_yet(&error.to_string())) {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                return answer.map(|response| {
                    let body = local.read(&response.body).expect("kept");
                    local.clear_scratch();
                    (response, body)
                });
            }
            panic!("the server does not listen");
        }
    }

    fn asking(url: &str) -> Request {
        let timeout = Duration::from_secs(10);
        Request { timeout, use_proxy: false, use_netrc: false, ..Request::get(url) }
    }

    /// Whichever of the host's programs makes the connection, only a certificate that is good is accepted.
    #[test]
    fn certificates_are_checked_whoever_connects() {
        let Some(tls) = Tls::new("certificates") else { return };
        for (certificate, valid) in [("good", true), ("other", false), ("expired", false), ("self", false)] {
            let server = tls.serve(certificate, "-WWW -quiet");
            for program in ["curl", "wget", "openssl"] {
                let Some(path) = tls.only(program) else { continue };
                for host in ["localhost", "127.0.0.1"] {
                    let url = format!("https://{host}:{}/hello.txt", server.port);
                    let what = format!("{certificate} at {host} by {program}");
                    let answer = tls.ask(&path, |_| (), &url);
                    match &answer {
                        Ok((response, body)) => {
                            assert!(valid, "{what} was accepted");
                            assert_eq!((response.status, body.as_slice()), (200, &b"hello\n"[..]), "{what}");
                        }
                        Err(error) => assert!(!valid, "{what}: {error}"),
                    }
                    let (response, body) =
                        tls.ask(&path, |request| request.validate_certs = false, &url).expect(&what);
                    assert_eq!((response.status, body.as_slice()), (200, &b"hello\n"[..]), "{what}");
                    // Without the authority nothing is known of the certificate.
                    if host == "localhost" {
                        assert!(tls.ask(&path, |request| request.ca_path = None, &url).is_err(), "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn openssl_says_what_is_wrong() {
        let Some(tls) = Tls::new("messages of openssl") else { return };
        let openssl = tls.only("openssl").expect("it is here");
        for (certificate, expected) in
            [("other", "ostname mismatch"), ("expired", "certificate has expired"), ("self", "self")]
        {
            let server = tls.serve(certificate, "-WWW -quiet");
            let authority = format!("localhost:{}", server.port);
            let error =
                tls.ask(&openssl, |_| (), &format!("https://{authority}/hello.txt")).expect_err("refused");
            let text = error.to_string();
            assert!(
                text.starts_with(&format!("Request failed: the certificate of {authority} is not valid: "))
                    && text.contains(expected),
                "{text}"
            );
        }
        let mut local = Local::new(Box::new(NoDepot));
        local.set_environment(vec![("PATH".into(), openssl.to_string_lossy().into_owned())]);
        let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = closed.local_addr().expect("bound").port();
        let mut request = asking(&format!("https://127.0.0.1:{port}/"));
        request.timeout = Duration::from_millis(300);
        let silent = send(&mut local, &request).expect_err("nobody answers").to_string();
        assert_eq!(silent, "Request failed: <urlopen error timed out>");
        drop(closed);
        let refused = send(&mut local, &request).expect_err("nobody listens").to_string();
        assert_eq!(refused, "Request failed: <urlopen error [Errno 111] Connection refused>");
        local.set_environment(vec![("PATH".into(), tls.path("empty").to_string_lossy().into_owned())]);
        let nothing = send(&mut local, &request).expect_err("no program").to_string();
        assert_eq!(nothing, "https needs `curl` or `wget` or `openssl` on the host; install it first");
    }

    /// What goes out and what comes in is the same as without TLS in between.
    #[test]
    fn openssl_carries_requests_and_answers_whole() {
        let Some(tls) = Tls::new("requests by openssl") else { return };
        let openssl = tls.only("openssl").expect("it is here");
        let server = tls.serve("good", "-WWW -quiet");
        let url = format!("https://localhost:{}/large.bin", server.port);
        let (_, body) = tls.ask(&openssl, |_| (), &url).expect("it comes");
        assert!(body == "0123456789abcdef".repeat(1 << 17).into_bytes());
        drop(server);
        // A body whose pieces begin with the letters that openssl takes as commands of a person.
        let sent: Vec<u8> = b"Q\nR\nK\nk\nB\n".iter().copied().cycle().take(700_000).collect();
        std::fs::write(tls.path("body"), &sent).expect("written");
        let mut server = tls.serve("good", "-quiet -naccept 1 -Verify 1 -CAfile ca.pem");
        let mut heard = server.child.stdout.take().expect("piped");
        let mut says = server.child.stdin.take().expect("piped");
        let length = sent.len();
        let attendant = std::thread::spawn(move || {
            let mut all = Vec::new();
            let mut block = [0; 65536];
            loop {
                let end = all.windows(4).position(|four| four == b"\r\n\r\n");
                if end.is_some_and(|end| all.len() >= end + 4 + length) {
                    break;
                }
                let count = heard.read(&mut block).expect("readable");
                assert!(count > 0, "the request ends early");
                all.extend_from_slice(&block[..count]);
            }
            let answer =
                b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
            says.write_all(answer).expect("sent");
            all
        });
        let change = |request: &mut Request| {
            request.method = "POST".into();
            request.body = Some(tls.path("body"));
            request.body_size = u64::try_from(length).expect("small");
            request.user = Some("me".into());
            request.password = Some("secret".into());
            request.force_basic_auth = true;
            request.client_cert = Some(tls.path("client.pem"));
            request.client_key = Some(tls.path("client.key"));
        };
        let url = format!("https://localhost:{}/in?x=1", server.port);
        let (response, body) = tls.ask(&openssl, change, &url).expect("it is taken");
        assert_eq!((response.status, body.as_slice()), (201, &b"abc"[..]));
        assert_eq!(response.header("x-a").as_deref(), Some("b"));
        let all = attendant.join().expect("it was heard");
        let text = String::from_utf8_lossy(&all);
        assert!(text.starts_with("POST /in?x=1 HTTP/1.1\r\n"), "{}", &text[..200]);
        assert!(text.contains("Authorization: Basic bWU6c2VjcmV0\r\n"));
        assert!(all.ends_with(&sent));
    }

    #[test]
    fn what_openssl_says_is_understood() {
        let url = Url::parse("https://h/").expect("valid");
        for (said, expected) in [
            (
                "depth=0 CN = h\nverify error:num=18:self-signed certificate\n4017:error:0A000086:SSL routines:f:certificate verify failed:x.c:1:\n",
                Some("the certificate of h is not valid: self-signed certificate"),
            ),
            (
                "40F7:error:8000006F:system library:BIO_connect:Connection refused:b.c:1:calling connect()\nconnect:errno=111\n",
                Some("<urlopen error [Errno 111] Connection refused>"),
            ),
            (
                "4017:error:0A000438:SSL routines:ssl3_read_bytes:tlsv1 alert internal error:x.c:1:SSL alert number 80\n",
                Some("no TLS with h: tlsv1 alert internal error"),
            ),
            (
                "BIO_lookup_ex: Name or service not known\nconnect:errno=0\n",
                Some("no TLS with h: connect:errno=0"),
            ),
            ("", None),
        ] {
            let got = tls_error(said, &url).map(|error| error.to_string());
            assert_eq!(got, expected.map(|text| format!("Request failed: {text}")), "{said}");
        }
    }

    #[test]
    fn dates_are_those_of_http() {
        assert_eq!(http_date(784_111_777.0), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
