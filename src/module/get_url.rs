//! `get_url`: a file from the web.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::module::files::{self, FileArgs, Writing};
use crate::module::http::{self, Redirects, Request, Response};
use crate::module::stat::algorithm;
use crate::module::{Module, ModuleError, Outcome, Param, Scope, Type, typed};
use crate::system::{Algorithm, Content, Effect, FileKind, Intent, System};
use crate::value::{Map, Value};

type Result<T> = std::result::Result<T, ModuleError>;

/// Parameters of everything that speaks HTTP.
pub const HTTP_PARAMS: [Param; 13] = [
    Param::new("url_username", Type::Str, "Account at the server.").aliases(&["username", "user"]),
    Param::new("url_password", Type::Str, "Its password.").aliases(&["password"]).secret(),
    Param::new("force_basic_auth", Type::Bool, "Send the account without being asked for it.")
        .default("false"),
    Param::new("headers", Type::Dict, "Headers to send."),
    Param::new("unredirected_headers", Type::List, "Names of headers that are not sent on after a redirect.")
        .default("[]"),
    Param::new("validate_certs", Type::Bool, "The server's certificate must be valid.").default("true"),
    Param::new("client_cert", Type::Path, "Certificate of the client, in PEM."),
    Param::new("client_key", Type::Path, "Key of the client, in PEM."),
    Param::new("ciphers", Type::List, "Ciphers to allow, for TLS."),
    Param::new("use_proxy", Type::Bool, "Follow `http_proxy`, `https_proxy` and `no_proxy`.").default("true"),
    Param::new("use_netrc", Type::Bool, "Look for the account in `~/.netrc`.").default("true"),
    Param::new("http_agent", Type::Str, "Name of the client.").default("ansible-httpget"),
    Param::new("decompress", Type::Bool, "Unpack a body that was compressed on the way.").default("true"),
];

/// Kerberos.
pub const GSSAPI: Param = Param::new("use_gssapi", Type::Bool, "")
    .refused("Kerberos is not spoken; use a password or a certificate");

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.get_url",
    summary: "Downloads a file to a host",
    description: "Puts what a server returns in place, if it differs. A file that is there is asked for with \
        `If-Modified-Since`; with `checksum` and a file that has it, the server is not asked at all. `http` is spoken by the \
        runner itself; `https` takes the host's `curl`, `wget` or `openssl`, `ftp` its `curl` or `wget`. In check mode, a file that is not there is asked \
        for with HEAD, and its content is not known to later tasks.",
    example: "- name: The application's archive\n  ansible.builtin.get_url:\n    url: https://example.org/app-1.2.tar.gz\n    dest: /opt/app-1.2.tar.gz\n    checksum: sha256:https://example.org/SHA256SUMS\n    mode: \"0644\"\n",
    scope: Scope::World,
    params: &[
        Param::new("url", Type::Str, "The address: `http`, `https`, `ftp` or `file`.").required(),
        Param::new(
            "dest",
            Type::Path,
            "Where it goes; in a directory, under the name that the server or the address gives.",
        )
        .required(),
        Param::new("checksum", Type::Str, "`algorithm:digest`, or `algorithm:address` of a list of digests.")
            .default(""),
        Param::new("force", Type::Bool, "Download even if the server's file is not newer.").default("false"),
        Param::new("backup", Type::Bool, "Keep a copy of what is replaced, with the time in its name.")
            .default("false"),
        Param::new("timeout", Type::Int, "Seconds to wait for the server at each step.").default("10"),
        Param::new(
            "tmp_dest",
            Type::Path,
            "Must be a directory if given; downloads are kept in the runner's own.",
        ),
        HTTP_PARAMS[0],
        HTTP_PARAMS[1],
        HTTP_PARAMS[2],
        HTTP_PARAMS[3],
        HTTP_PARAMS[4],
        HTTP_PARAMS[5],
        HTTP_PARAMS[6],
        HTTP_PARAMS[7],
        HTTP_PARAMS[8],
        HTTP_PARAMS[9],
        HTTP_PARAMS[10],
        HTTP_PARAMS[11],
        HTTP_PARAMS[12],
        GSSAPI,
    ],
    file_params: true,
    returns: &[
        ("dest", "Where the file is."),
        ("url", "The address."),
        ("status_code", "The server's answer."),
        ("msg", "Its words."),
        ("checksum_src", "SHA-1 of what came."),
        ("checksum_dest", "SHA-1 of what was there."),
        ("elapsed", "Seconds that the download took."),
        ("backup_file", "The copy that was kept."),
    ],
    run,
    ..Module::DEFAULT
};

/// What [`HTTP_PARAMS`] hold.
#[derive(Clone, Debug, Deserialize)]
pub struct HttpArgs {
    pub(crate) url: String,
    url_username: Option<String>,
    url_password: Option<String>,
    force_basic_auth: bool,
    pub(crate) headers: Option<Map>,
    unredirected_headers: Vec<Value>,
    validate_certs: bool,
    client_cert: Option<String>,
    client_key: Option<String>,
    ciphers: Option<Vec<Value>>,
    use_proxy: bool,
    use_netrc: bool,
    http_agent: String,
    decompress: bool,
    pub(crate) timeout: u64,
    #[serde(default)]
    pub(crate) force: bool,
}

impl HttpArgs {
    /// A GET request with these parameters.
    ///
    /// # Errors
    /// If the accounts can't be read.
    pub fn request(&self, system: &mut dyn System) -> Result<Request> {
        let mut path = |text: &Option<String>| -> Result<Option<PathBuf>> {
            text.as_deref().map(|text| files::path_arg(system, text)).transpose()
        };
        let mut headers: Vec<(String, String)> =
            self.headers.iter().flatten().map(|(name, value)| (name.to_text(), value.to_text())).collect();
        if self.force {
            headers.push(("Cache-Control".into(), "no-cache".into()));
        }
        let texts = |list: &[Value]| list.iter().map(Value::to_text).collect();
        Ok(Request {
            method: "GET".into(),
            url: self.url.clone(),
            headers,
            unredirected_headers: texts(&self.unredirected_headers),
            body: None,
            body_size: 0,
            timeout: Duration::from_secs(self.timeout.max(1)),
            redirects: Redirects::All,
            user: self.url_username.clone(),
            password: self.url_password.clone(),
            force_basic_auth: self.force_basic_auth,
            validate_certs: self.validate_certs,
            ca_path: None,
            client_cert: path(&self.client_cert)?,
            client_key: path(&self.client_key)?,
            ciphers: self.ciphers.as_deref().map(texts).unwrap_or_default(),
            unix_socket: None,
            use_proxy: self.use_proxy,
            use_netrc: self.use_netrc,
            agent: self.http_agent.clone(),
            decompress: self.decompress,
        })
    }
}

#[derive(Deserialize)]
struct Args {
    dest: String,
    checksum: String,
    backup: bool,
    tmp_dest: Option<String>,
    #[serde(flatten)]
    http: HttpArgs,
    #[serde(flatten)]
    file: FileArgs,
}

/// What a download must have.
struct Expected {
    algorithm: Algorithm,
    digest: String,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    let started = Instant::now();
    let dest = files::path_arg(system, &args.dest)?;
    let url = http::mask(&args.http.url);
    let with_context = |error: ModuleError| {
        error
            .with("url", url.as_str())
            .with("dest", files::text_of(&dest))
            .with("elapsed", started.elapsed().as_secs())
    };
    let outcome = get(system, &args, &dest).map_err(with_context)?;
    Ok(outcome.set("url", url.as_str()).set("elapsed", started.elapsed().as_secs()))
}

fn get(system: &mut dyn System, args: &Args, dest: &Path) -> Result<Outcome> {
    if let Some(place) = &args.tmp_dest {
        let place = files::path_arg(system, place)?;
        let kind = system.stat_follow(&place)?.map(|stat| stat.kind);
        if kind != Some(FileKind::Directory) {
            let what = if kind.is_some() {
                "is a file but should be a directory."
            } else {
                "directory does not exist."
            };
            return Err(ModuleError::new(format!("{} {what}", place.display())));
        }
    }
    let expected = expected(system, args)?;
    let is_directory =
        |stat: Option<crate::system::Stat>| stat.is_some_and(|stat| stat.kind == FileKind::Directory);
    let into_directory = is_directory(system.stat_follow(dest)?);
    let mut request = args.http.request(system)?;
    let mut there = None;
    if !into_directory {
        there = system.stat_follow(dest)?;
    }
    if let Some(stat) = &there {
        let mut right = false;
        if let Some(expected) = &expected {
            right = system.digest(dest, expected.algorithm)? == expected.digest;
        }
        if right && !args.http.force {
            args.file.apply(system, dest, true)?;
            let message = if system.changes().is_empty() {
                "file already exists"
            } else {
                "file already exists but file attributes changed"
            };
            return files::finish(system, Outcome::default().set("msg", message), dest, "dest", None);
        }
        if !args.http.force && expected.is_none() {
            request.headers.push(("If-Modified-Since".into(), http::http_date(stat.mtime)));
        }
    } else if !into_directory {
        let parent = files::parent_of(dest);
        if !is_directory(system.stat_follow(&parent)?) && system.uncertain().is_none() {
            return Err(ModuleError::new(format!("Destination {} does not exist", parent.display())));
        }
        if let Some(outcome) = dry(system, args, &request, dest)? {
            return Ok(outcome);
        }
    }
    let download = download(system, &request)?;
    if download.status == 304 {
        args.file.apply(system, dest, true)?;
        let outcome = Outcome::default().set("msg", "HTTP Error 304: Not Modified").set("status_code", 304);
        return files::finish(system, outcome, dest, "dest", None);
    }
    let path = if into_directory { dest.join(download.filename()) } else { dest.to_path_buf() };
    if let Some(expected) = &expected {
        let digest = system.digest(&download.file, expected.algorithm)?;
        if digest != expected.digest {
            return Err(ModuleError::new(format!(
                "The checksum for {} did not match {}; it was {digest}.",
                http::mask(&args.http.url),
                expected.digest
            )));
        }
    }
    place(system, args, &download, &path)
}

/// In a dry run, a file that is not there is only asked for, and recorded as coming. `None` in a real run.
fn dry(system: &mut dyn System, args: &Args, request: &Request, dest: &Path) -> Result<Option<Outcome>> {
    let intent = Intent::default();
    if system.perform(intent, &mut || Ok(()))? {
        return Ok(None);
    }
    if args.http.url.starts_with("http://") || args.http.url.starts_with("https://") {
        let head = Request { method: "HEAD".into(), ..request.clone() };
        let response = http::send(system, &head)?;
        // Some servers know no HEAD; that says nothing of the file.
        if !matches!(response.status, 200..=299 | 403 | 405 | 501) {
            return Err(request_failed(response.status, &response.reason));
        }
    }
    let effects = vec![Effect::Path(dest.to_path_buf(), FileKind::File)];
    let after = crate::value::map_of([("url", http::mask(&args.http.url))]).into();
    let intent = Intent { kind: "file", id: files::text_of(dest), after, effects, ..Intent::default() };
    system.perform(intent, &mut || Ok(()))?;
    Ok(Some(Outcome::default().set("dest", files::text_of(dest)).set("msg", "it would be downloaded")))
}

/// A file that came.
pub struct Download {
    /// Where it is kept.
    pub file: PathBuf,
    status: u16,
    message: String,
    url: String,
    disposition: Option<String>,
}

impl Download {
    /// The name that the server or the address gives it.
    pub fn filename(&self) -> String {
        let from_server = self.disposition.as_deref().and_then(disposition_name);
        from_server.unwrap_or_else(|| url_filename(&self.url))
    }
}

/// Downloads into the scratch directory. A status other than 200 and 304 is an error.
///
/// # Errors
/// If the file can't be had.
pub fn download(system: &mut dyn System, request: &Request) -> Result<Download> {
    if let Some(path) = request.url.strip_prefix("file://") {
        let file = PathBuf::from(path.strip_prefix("localhost").unwrap_or(path));
        if system.stat_follow(&file)?.is_none() {
            return Err(ModuleError::new(format!(
                "Request failed: <urlopen error [Errno 2] No such file or directory: '{}'>",
                file.display()
            )));
        }
        return Ok(Download {
            file,
            status: 200,
            message: "OK".into(),
            url: request.url.clone(),
            disposition: None,
        });
    }
    let response = http::send(system, request)?;
    if !matches!(response.status, 200 | 304) {
        return Err(request_failed(response.status, &response.reason));
    }
    let disposition = response.header("content-disposition");
    let Response { status, reason, url, body, .. } = response;
    Ok(Download { file: body, status, message: reason, url, disposition })
}

fn request_failed(status: u16, reason: &str) -> ModuleError {
    ModuleError::new("Request failed")
        .with("status_code", u32::from(status))
        .with("response", format!("HTTP Error {status}: {reason}"))
}

/// The file name that an answer's `Content-Disposition` gives.
pub fn response_filename(response: &Response) -> Option<String> {
    response.header("content-disposition").as_deref().and_then(disposition_name)
}

/// The last part of an address's path.
fn url_filename(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let name = path.split_once('/').and_then(|(_, path)| path.rsplit('/').next()).unwrap_or_default();
    if name.is_empty() { "index.html".into() } else { name.into() }
}

/// The file name in a `Content-Disposition`, without any directory.
fn disposition_name(header: &str) -> Option<String> {
    let value = header.split(';').skip(1).find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("filename").then(|| value.trim().trim_matches('"').to_string())
    })?;
    let name = value.rsplit('/').next().unwrap_or_default();
    (!name.is_empty() && name != "." && name != "..").then(|| name.to_string())
}

/// The digest that `checksum` asks for, fetched from a list if it names one.
fn expected(system: &mut dyn System, args: &Args) -> Result<Option<Expected>> {
    if args.checksum.is_empty() {
        return Ok(None);
    }
    let (name, digest) = args.checksum.split_once(':').ok_or_else(|| {
        ModuleError::new("The checksum parameter has to be in format <algorithm>:<checksum>")
    })?;
    let algorithm = algorithm(&name.to_ascii_lowercase())?;
    let mut digest = digest.trim().to_string();
    if ["http://", "https://", "ftp://", "file://"].iter().any(|scheme| digest.starts_with(scheme)) {
        let request = Request { url: digest.clone(), ..args.http.request(system)? };
        let list = download(system, &request)?;
        let text = String::from_utf8_lossy(&system.read(&list.file)?).into_owned();
        let filename = url_filename(&args.http.url);
        digest = find_digest(&text, &filename).ok_or_else(|| {
            ModuleError::new(format!(
                "Unable to find a checksum for file '{filename}' in '{}'",
                http::mask(&digest)
            ))
        })?;
    }
    let digest: String = digest.chars().filter(|c| c.is_alphanumeric() || *c == '_').collect();
    let digest = digest.to_ascii_lowercase();
    if digest.is_empty() || !digest.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(ModuleError::new("The checksum format is invalid"));
    }
    Ok(Some(Expected { algorithm, digest }))
}

/// A file's digest in a list as `sha256sum` or the BSD tools write it, or a file with one digest alone.
fn find_digest(list: &str, filename: &str) -> Option<String> {
    let lines: Vec<&str> = list.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if let [only] = lines[..]
        && only.split_whitespace().count() == 1
    {
        return Some(only.into());
    }
    lines.into_iter().find_map(|line| {
        if let Some((head, digest)) = line.rsplit_once('=')
            && let Some((_, path)) = head.trim_end().split_once('(')
        {
            let path = path.strip_suffix(')')?;
            return (path == filename).then(|| digest.trim().to_string());
        }
        let (digest, path) = line.split_once(char::is_whitespace)?;
        let path = path.trim_start();
        let path = path.strip_prefix('*').unwrap_or(path).trim_start_matches(['.', '/']);
        (path == filename).then(|| digest.to_string())
    })
}

fn place(system: &mut dyn System, args: &Args, download: &Download, path: &Path) -> Result<Outcome> {
    let checksum_src = system.digest(&download.file, Algorithm::Sha1)?;
    let sha256 = system.digest(&download.file, Algorithm::Sha256)?;
    let size = system.stat(&download.file)?.map_or(0, |stat| stat.size);
    let stat = system.stat_follow(path)?;
    let mut checksum_dest = None;
    if stat.as_ref().is_some_and(|stat| stat.kind == FileKind::File) {
        checksum_dest = Some(system.digest(path, Algorithm::Sha1)?);
    }
    let mut outcome = Outcome::default()
        .set("checksum_src", checksum_src.as_str())
        .set("checksum_dest", checksum_dest.clone())
        .set("status_code", u32::from(download.status))
        .set("msg", format!("{} ({size} bytes)", download.message));
    if checksum_dest.as_ref() == Some(&checksum_src) {
        args.file.apply(system, path, true)?;
    } else {
        let writing = Writing { backup: args.backup, ..Writing::plain(&args.file) };
        let content = Content::File(download.file.clone());
        if let Some(backup) = files::put(system, path, &content, &writing)? {
            outcome = outcome.set("backup_file", backup);
        }
    }
    files::finish(system, outcome, path, "dest", Some(sha256))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{Server, contract};

    #[test]
    fn digests_are_found_in_lists() {
        for (list, expected) in [
            ("abc123\n", Some("abc123")),
            ("aa  other\nbb  app.tgz\n", Some("bb")),
            ("aa *app.tgz\n11  x\n", Some("aa")),
            ("aa  ./app.tgz\n11  x\n", Some("aa")),
            ("SHA256 (x) = 11\nSHA256 (app.tgz) = cc\n", Some("cc")),
            ("aa  other\nbb  more\n", None),
        ] {
            assert_eq!(find_digest(list, "app.tgz").as_deref(), expected, "{list}");
        }
        assert_eq!(url_filename("http://h/a/b.tgz?x=/y#z"), "b.tgz");
        assert_eq!(url_filename("http://h"), "index.html");
        assert_eq!(disposition_name("attachment; filename=\"../x.sh\"").as_deref(), Some("x.sh"));
    }

    #[test]
    fn downloads_what_differs() {
        let server = Server::start();
        let url = server.url();
        for (start, args, expected) in [
            (
                &[][..],
                format!(r#"{{"url": "{url}/text", "dest": "@/x", "mode": "0600"}}"#),
                Ok("f x 600 hello"),
            ),
            (&["f x 640 hello"], format!(r#"{{"url": "{url}/text", "dest": "@/x"}}"#), Ok("f x 640 hello")),
            (&["f x 640 other"], format!(r#"{{"url": "{url}/text", "dest": "@/x"}}"#), Ok("f x 640 hello")),
            (
                &["d d 755"],
                format!(r#"{{"url": "{url}/text?q", "dest": "@/d", "mode": "0644"}}"#),
                Ok("f d/text 644 hello"),
            ),
            (
                &["d d 755"],
                format!(r#"{{"url": "{url}/named", "dest": "@/d/", "mode": "0644"}}"#),
                Ok("f d/name.bin 644 hello"),
            ),
            (
                &[],
                format!(r#"{{"url": "{url}/redirect", "dest": "@/x", "mode": "0644"}}"#),
                Ok("f x 644 hello"),
            ),
            (
                &[],
                format!(r#"{{"url": "{url}/chunked", "dest": "@/x", "mode": "0644"}}"#),
                Ok("f x 644 hello"),
            ),
            (
                &["f x 640 old"],
                format!(r#"{{"url": "{url}/not-modified", "dest": "@/x"}}"#),
                Ok("f x 640 old"),
            ),
            (
                &["f x 640 other"],
                format!(
                    r#"{{"url": "{url}/text", "dest": "@/x",
                    "checksum": "sha1:aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d"}}"#
                ),
                Ok("f x 640 hello"),
            ),
            (
                &["f x 640 other"],
                format!(r#"{{"url": "{url}/text", "dest": "@/x", "checksum": "md5:{url}/sums"}}"#),
                Ok("f x 640 hello"),
            ),
            (
                &["f x 640 old"],
                format!(r#"{{"url": "{url}/text", "dest": "@/x", "checksum": "sha1:00"}}"#),
                Err(format!(
                    "The checksum for {url}/text did not match 00; it was aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d."
                )),
            ),
            (&[], format!(r#"{{"url": "{url}/none", "dest": "@/x"}}"#), Err("Request failed".into())),
            (
                &["f x 640 old"],
                format!(r#"{{"url": "{url}/short", "dest": "@/x"}}"#),
                Err("Request failed: the connection broke: Incomplete read, 5 bytes are missing".into()),
            ),
            (
                &[],
                format!(r#"{{"url": "{url}/text", "dest": "@/a/x"}}"#),
                Err("Destination @/a does not exist".into()),
            ),
            (
                &["f y 644 mine"],
                r#"{"url": "file://@/y", "dest": "@/x", "mode": "0644"}"#.into(),
                Ok("f x 644 mine"),
            ),
        ] {
            let verdict = contract(&MODULE, start, &args);
            let got = verdict.error.clone().map_or_else(|| Ok(()), Err);
            match expected {
                Ok(line) => {
                    assert_eq!(got, Ok(()), "{args}");
                    assert!(verdict.tree.contains(&line.to_string()), "{args}: {:?}", verdict.tree);
                }
                Err(message) => assert_eq!(got, Err(message), "{args}"),
            }
        }
    }
}
