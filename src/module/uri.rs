//! `uri`: asks a web service.

use std::path::Path;
use std::time::Instant;

use serde::Deserialize;

use crate::module::args::json_text;
use crate::module::copy::Blob;
use crate::module::files::{self, FileArgs, Writing};
use crate::module::get_url::{GSSAPI, HTTP_PARAMS, HttpArgs};
use crate::module::http::{self, HttpError, Redirects, Request, Response};
use crate::module::regex::Coding;
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, typed};
use crate::system::{Algorithm, Attributes, Content, FileKind, Intent, System, WriteOptions};
use crate::value::{Map, Value};

type Result<T> = std::result::Result<T, ModuleError>;

/// The module.
pub const MODULE: Module = Module {
    name: "ansible.builtin.uri",
    summary: "Sends a request to a web service",
    description: "Returns status, headers and (for JSON always, else with `return_content`) the content of the answer; fails \
        if the status is not one of `status_code`. Reports a change only if it writes `dest`. `http` and sockets are spoken by \
        the runner itself; `https` takes the host's `curl`, `wget` or `openssl`. In check mode no request is sent and the task is skipped.",
    example: "- name: Is the service healthy?\n  ansible.builtin.uri:\n    url: http://localhost:8080/health\n    return_content: true\n  register: health\n  until: health.status == 200\n  retries: 10\n- name: Make an issue\n  ansible.builtin.uri:\n    url: https://tracker.example.org/api/issues\n    method: POST\n    body_format: json\n    body: { title: \"From a playbook\" }\n    url_username: bot\n    url_password: \"{{ token }}\"\n    force_basic_auth: true\n    status_code: [200, 201]\n",
    scope: Scope::World,
    params: &[
        Param::new("url", Type::Str, "The address: `http` or `https`.").required(),
        Param::new("method", Type::Str, "Kind of request, in capitals.").default("GET"),
        Param::new(
            "body",
            Type::Raw,
            "What to send: text, or what `body_format` makes of lists and mappings.",
        ),
        Param::new("body_format", Type::Str, "How `body` is written; also sets the header `Content-Type`.")
            .choices(&["form-urlencoded", "json", "raw", "form-multipart"])
            .default("raw"),
        Param::new("src", Type::Path, "A file to send in place of `body`."),
        Param::new("remote_src", Type::Bool, "`src` is on the host.").default("false"),
        Param::new("status_code", Type::List, "Which answers are right.").default("200"),
        Param::new("return_content", Type::Bool, "Return the content.").default("false"),
        Param::new("dest", Type::Path, "Where to write the content: a file or a directory."),
        Param::new("force", Type::Bool, "Ask even if the server's content is not newer than `dest`.")
            .default("false"),
        Param::new("creates", Type::Path, "If this is there, do nothing."),
        Param::new("removes", Type::Path, "If this is not there, do nothing."),
        Param::new(
            "follow_redirects",
            Type::Str,
            "Which redirects to follow: `all`, those of GET and HEAD (`safe`), or `none`.",
        )
        .choices(&["all", "no", "none", "safe", "urllib2", "yes"])
        .default("safe"),
        Param::new("timeout", Type::Int, "Seconds to wait for the server at each step.").default("30"),
        Param::new("unix_socket", Type::Path, "A socket to connect to in place of the address's host."),
        Param::new("ca_path", Type::Path, "Certificates that are trusted: a file or directory."),
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
        Param::new("_blob", Type::Dict, ""),
    ],
    file_params: true,
    rules: &[Rule::MutuallyExclusive(&["body", "src"])],
    returns: &[
        ("status", "The answer's status; -1 if there was none."),
        ("msg", "Its words."),
        ("url", "The address that answered, after redirects."),
        ("redirected", "Whether there were redirects."),
        ("elapsed", "Seconds that it took."),
        ("content", "The content, with `return_content` or on failure."),
        ("json", "The content, if it is JSON."),
        ("cookies", "Cookies that the server set."),
        ("cookies_string", "The same, as a header has them."),
        ("path", "The file that was written."),
        ("content_type", "As other headers: their names in lower case, with `_` for `-`."),
    ],
    run,
    ..Module::DEFAULT
};

#[derive(Deserialize)]
struct Args {
    method: String,
    body: Option<Value>,
    body_format: String,
    src: Option<String>,
    status_code: Vec<Value>,
    return_content: bool,
    dest: Option<String>,
    creates: Option<String>,
    removes: Option<String>,
    follow_redirects: String,
    unix_socket: Option<String>,
    ca_path: Option<String>,
    #[serde(rename = "_blob")]
    blob: Option<Blob>,
    #[serde(flatten)]
    http: HttpArgs,
    #[serde(flatten)]
    file: FileArgs,
}

fn run(args: Value, system: &mut dyn System) -> Result<Outcome> {
    let args: Args = typed(args)?;
    let method = args.method.to_uppercase();
    if method.is_empty() || !method.chars().all(|c| c.is_ascii_uppercase()) {
        return Err(ModuleError::new(
            "Parameter 'method' needs to be a single word in uppercase, like GET or POST.",
        ));
    }
    for (path, wanted, reason) in [(&args.creates, false, "exists"), (&args.removes, true, "does not exist")]
    {
        if let Some(path) = path {
            let path = files::path_arg(system, path)?;
            if system.stat_follow(&path)?.is_some() != wanted {
                let text = format!("skipped, since '{}' {reason}", path.display());
                return Ok(Outcome { changed: Some(false), ..Outcome::default() }.set("stdout", text));
            }
        }
    }
    let mut real = false;
    system.perform(Intent::default(), &mut || {
        real = true;
        Ok(())
    })?;
    if !real {
        let text = "a dry run sends no request";
        return Ok(Outcome { skipped: true, changed: Some(false), ..Outcome::default() }.set("msg", text));
    }
    ask(system, &args, method)
}

fn ask(system: &mut dyn System, args: &Args, method: String) -> Result<Outcome> {
    let allowed = args
        .status_code
        .iter()
        .map(|status| match status {
            Value::Int(status) => Ok(*status),
            other => other.to_text().trim().parse(),
        })
        .collect::<std::result::Result<Vec<i64>, _>>()
        .map_err(|_| ModuleError::new("status_code must be numbers"))?;
    let mut request = args.http.request(system)?;
    request.method = method;
    request.redirects = match args.follow_redirects.as_str() {
        "all" | "yes" | "urllib2" => Redirects::All,
        "no" | "none" => Redirects::No,
        _ => Redirects::Safe,
    };
    request.unix_socket =
        args.unix_socket.as_deref().map(|path| files::path_arg(system, path)).transpose()?;
    request.ca_path = args.ca_path.as_deref().map(|path| files::path_arg(system, path)).transpose()?;
    add_body(system, args, &mut request)?;
    let dest = args.dest.as_deref().map(|path| files::path_arg(system, path)).transpose()?;
    if let Some(dest) = &dest
        && !args.http.force
        && let Some(stat) = system.stat_follow(dest)?.filter(|stat| stat.kind == FileKind::File)
    {
        request.headers.push(("If-Modified-Since".into(), http::http_date(stat.mtime)));
    }
    let started = Instant::now();
    let shown = |statuses: &[i64]| Value::from(statuses.to_vec()).repr();
    let response = match http::send(system, &request) {
        Ok(response) => response,
        Err(HttpError::System(error)) => return Err(error.into()),
        Err(HttpError::Failed(reason)) => {
            return Err(ModuleError::new(format!(
                "Status code was -1 and not {}: {reason}",
                shown(&allowed)
            ))
            .with("status", -1)
            .with("redirected", false)
            .with("url", http::mask(&request.url))
            .with("elapsed", started.elapsed().as_secs()));
        }
    };
    let size = system.stat(&response.body)?.map_or(0, |stat| stat.size);
    let good = allowed.contains(&i64::from(response.status));
    let mut values = header_values(&response);
    let mut set = |name: &str, value: Value| values.insert(Value::str(name), value);
    set("status", u32::from(response.status).into());
    set("url", response.url.as_str().into());
    set("redirected", response.redirected.into());
    set("elapsed", started.elapsed().as_secs().into());
    let message = if response.status >= 300 {
        format!("HTTP Error {}: {}", response.status, response.reason)
    } else if response.header("content-length").is_some() {
        format!("{} ({size} bytes)", response.reason)
    } else {
        format!("{} (unknown bytes)", response.reason)
    };
    let is_json = is_json(&response);
    if is_json || args.return_content || !good {
        let (_, text) = Coding::decode(system.read(&response.body)?);
        if is_json && let Ok(json) = serde_json::from_str::<Value>(&text) {
            set("json", json);
        }
        if args.return_content || !good {
            set("content", text.into());
        }
    }
    if !good {
        let message = format!("Status code was {} and not {}: {message}", response.status, shown(&allowed));
        return Err(ModuleError { message, values });
    }
    let mut outcome = Outcome { values, changed: Some(false), ..Outcome::default() }.set("msg", message);
    if let Some(dest) = dest {
        outcome = write(system, args, &response, &dest, outcome)?;
        outcome.changed = Some(!system.changes().is_empty());
    }
    Ok(outcome)
}

fn write(
    system: &mut dyn System,
    args: &Args,
    response: &Response,
    dest: &Path,
    outcome: Outcome,
) -> Result<Outcome> {
    let mut path = dest.to_path_buf();
    let is_directory = system.stat_follow(dest)?.is_some_and(|stat| stat.kind == FileKind::Directory);
    if is_directory {
        path.push(crate::module::get_url::response_filename(response).unwrap_or_else(|| "index.html".into()));
    }
    if response.status != 304 {
        let digest = system.digest(&response.body, Algorithm::Sha256)?;
        let there = system.stat_follow(&path)?.is_some_and(|stat| stat.kind == FileKind::File);
        if there && system.digest(&path, Algorithm::Sha256)? == digest {
            args.file.apply(system, &path, true)?;
        } else {
            let content = Content::File(response.body.clone());
            files::put(system, &path, &content, &Writing::plain(&args.file))?;
        }
        let stat = system.stat(&path)?;
        files::record(system, &path, stat.as_ref(), Some(digest))?;
        if let Some(stat) = &stat {
            let mut outcome = outcome;
            outcome.values.extend(files::common_values(system, &path, stat)?);
            return Ok(outcome.set("path", files::text_of(&path)));
        }
    }
    Ok(outcome.set("path", files::text_of(&path)))
}

/// Headers as return values, and cookies.
fn header_values(response: &Response) -> Map {
    let mut values = Map::new();
    let mut cookies = Map::new();
    for (name, _) in &response.headers {
        let key = name.replace('-', "_");
        if !values.contains_key(key.as_str())
            && let Some(value) = response.header(name)
        {
            let value = if name == "location" {
                http::absolute(&response.url, &value).unwrap_or(value)
            } else {
                value
            };
            values.insert(key.into(), value.into());
        }
    }
    for (_, value) in response.headers.iter().filter(|(name, _)| name == "set-cookie") {
        if let Some((name, value)) = value.split(';').next().unwrap_or_default().split_once('=') {
            cookies.insert(name.trim().into(), value.trim().trim_matches('"').into());
        }
    }
    let text: Vec<String> =
        cookies.iter().map(|(name, value)| format!("{}={}", name.to_text(), value.to_text())).collect();
    values.insert("cookies_string".into(), text.join("; ").into());
    values.insert("cookies".into(), cookies.into());
    values
}

fn is_json(response: &Response) -> bool {
    let header = response.header("content-type").unwrap_or_default().to_ascii_lowercase();
    let subtype = header.split(';').next().and_then(|kind| kind.split_once('/')).map(|(_, sub)| sub.trim());
    let last = subtype.map(|subtype| subtype.rsplit('+').next().unwrap_or(subtype));
    matches!(last, Some("json" | "javascript"))
}

/// Puts the body into a file of the scratch directory, and sets the header that says what it is.
fn add_body(system: &mut dyn System, args: &Args, request: &mut Request) -> Result<()> {
    let has_type = request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let mut content_type = None;
    let mut bytes = None;
    match (args.body_format.as_str(), &args.body) {
        ("json", body) => {
            bytes = match body {
                Some(Value::Str(text)) => Some(text.text.to_string()),
                // Without a body there is nothing to write, yet the header is sent.
                None if args.src.is_some() || args.blob.is_some() => None,
                None => Some("null".into()),
                Some(other) => Some(json_text(other)),
            }
            .map(String::into_bytes);
            content_type = Some("application/json".to_string());
        }
        ("form-urlencoded", body) => {
            bytes = body.as_ref().map(|body| form_urlencoded(body).map(String::into_bytes)).transpose()?;
            content_type = Some("application/x-www-form-urlencoded".into());
        }
        ("form-multipart", Some(body)) => {
            let boundary = format!("setpoint-{:x}", boundary_number(body));
            bytes = Some(multipart(system, body, &boundary)?);
            request.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
            request
                .headers
                .push(("Content-Type".into(), format!("multipart/form-data; boundary=\"{boundary}\"")));
        }
        (_, Some(body)) => bytes = Some(body.to_text().into_bytes()),
        (_, None) => {}
    }
    if let Some(content_type) = content_type
        && !has_type
    {
        request.headers.push(("Content-Type".into(), content_type));
    }
    if let Some(bytes) = bytes {
        request.body_size = bytes.len() as u64;
        request.body = Some(system.spool("request", &mut bytes.as_slice())?);
    } else if let Some(blob) = &args.blob {
        let path = system.scratch()?.join("request");
        let private = Attributes { mode: Some(0o600), ..Attributes::default() };
        system.write(&path, &blob.content(), &private, WriteOptions::default())?;
        request.body_size = blob.reference().size;
        request.body = Some(path);
    } else if let Some(src) = &args.src {
        let path = files::path_arg(system, src)?;
        let stat = system
            .stat_follow(&path)?
            .ok_or_else(|| ModuleError::new(format!("Unable to open source file {}", path.display())))?;
        request.body_size = stat.size;
        request.body = Some(path);
    }
    if request.body.is_some()
        && !request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
    {
        request.headers.push(("Content-Type".into(), "application/x-www-form-urlencoded".into()));
    }
    Ok(())
}

/// `a=1&b=2` of a mapping or of a list of pairs.
fn form_urlencoded(body: &Value) -> Result<String> {
    let mut pairs = Vec::new();
    let mut add = |key: &Value, value: &Value| {
        let values = match value {
            Value::List(items) => items.to_vec(),
            other => vec![other.clone()],
        };
        for value in values.iter().filter(|value| !value.is_null()) {
            pairs.push(format!(
                "{}={}",
                http::quote_plus(&key.to_text()),
                http::quote_plus(&value.to_text())
            ));
        }
    };
    match body {
        Value::Map(map) => map.iter().for_each(|(key, value)| add(key, value)),
        Value::List(items) => {
            for item in items.iter() {
                let Some([key, value]) = item.as_list() else {
                    return Err(ModuleError::new(
                        "failed to parse body as form_urlencoded: a list must hold pairs",
                    ));
                };
                add(key, value);
            }
        }
        other => return Ok(other.to_text()),
    }
    Ok(pairs.join("&"))
}

/// A number that does not occur in what is sent, for all practical purposes.
fn boundary_number(body: &Value) -> u64 {
    use std::hash::{BuildHasher, Hash, RandomState};
    let mut hasher = RandomState::new().build_hasher();
    body.repr().hash(&mut hasher);
    std::hash::Hasher::finish(&hasher)
}

/// The fields of a form in parts: text, or mappings with `content` or `filename`, and `mime_type`.
fn multipart(system: &mut dyn System, body: &Value, boundary: &str) -> Result<Vec<u8>> {
    let wrong = |reason: &str| ModuleError::new(format!("failed to parse body as form-multipart: {reason}"));
    let fields = body.as_map().ok_or_else(|| wrong("Mapping is required"))?;
    let quoted = |text: &str| text.replace('"', "%22").replace(['\r', '\n'], " ");
    let mut out = Vec::new();
    for (name, field) in fields {
        let field_name = quoted(&name.to_text());
        let mut disposition = format!("form-data; name=\"{field_name}\"");
        let mut mime = None;
        let content = match field {
            Value::Map(map) => {
                mime = map.get("mime_type").map(Value::to_text);
                let filename = map.get("filename").map(Value::to_text);
                if let Some(filename) = &filename {
                    let base = filename.rsplit('/').next().unwrap_or(filename);
                    disposition.push_str(&format!("; filename=\"{}\"", quoted(base)));
                    mime = mime.or_else(|| Some("application/octet-stream".into()));
                }
                match (map.get("content"), map.get("_blob"), filename) {
                    (Some(content), _, _) => content.to_text().into_bytes(),
                    (None, Some(blob), _) => {
                        let blob: Blob = crate::value::from_value(blob.clone())
                            .map_err(|error| wrong(&error.to_string()))?;
                        system.blob(&blob.reference())?
                    }
                    (None, None, Some(filename)) => {
                        let path = files::path_arg(system, &filename)?;
                        system.read(&path)?
                    }
                    (None, None, None) => {
                        return Err(wrong("at least one of filename or content must be provided"));
                    }
                }
            }
            Value::Str(text) => text.text.as_bytes().to_vec(),
            other => {
                return Err(wrong(&format!(
                    "value must be a string, or mapping, cannot be type {}",
                    other.type_name()
                )));
            }
        };
        out.extend(format!("--{boundary}\r\nContent-Disposition: {disposition}\r\n").into_bytes());
        if let Some(mime) = mime {
            out.extend(format!("Content-Type: {}\r\n", quoted(&mime)).into_bytes());
        }
        out.extend(b"\r\n");
        out.extend(content);
        out.extend(b"\r\n");
    }
    out.extend(format!("--{boundary}--\r\n").into_bytes());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{Server, call};
    use crate::system::journal::Journal;
    use crate::system::local::{Local, NoDepot};
    use crate::system::recorder::Recorder;

    fn request(args: &str) -> std::result::Result<Outcome, String> {
        let given: Value = serde_json::from_str(args).expect("arguments are JSON");
        let mut local = Local::new(Box::new(NoDepot));
        let mut dry = Recorder::new(&mut local);
        let outcome = call(&MODULE, &given, &mut dry).expect("a dry run sends nothing");
        assert!(outcome.skipped, "{args}");
        drop(dry);
        call(&MODULE, &given, &mut Journal::new(&mut local))
    }

    #[test]
    fn asks_and_tells() {
        let server = Server::start();
        let url = server.url();
        for (args, key, expected) in [
            (r#""url": "U/text""#, "status", "200"),
            (r#""url": "U/text""#, "msg", "OK (5 bytes)"),
            (r#""url": "U/text""#, "content_type", "text/plain"),
            (r#""url": "U/text", "return_content": true"#, "content", "hello"),
            (r#""url": "U/json""#, "json", "{'a': [1, True, None, 'x']}"),
            (r#""url": "U/json""#, "cookies", "{'a': '1', 'b': '2'}"),
            (r#""url": "U/json""#, "cookies_string", "a=1; b=2"),
            (r#""url": "U/redirect""#, "redirected", "True"),
            (
                r#""url": "U/redirect", "follow_redirects": "none", "status_code": "302""#,
                "location",
                "U/text",
            ),
            (r#""url": "U/none", "status_code": [404]"#, "msg", "HTTP Error 404: Not Found"),
            (
                r#""url": "U/auth", "url_username": "me", "url_password": "secret", "return_content": true"#,
                "content",
                "welcome",
            ),
            (r#""url": "U/gzip", "return_content": true"#, "content", "hello"),
        ] {
            let outcome = request(&format!("{{{}}}", args.replace('U', &url))).expect(args);
            let got = outcome.values.get(key).map(Value::to_text);
            assert_eq!(got.as_deref(), Some(expected.replace('U', &url).as_str()), "{args}");
            assert_eq!(outcome.changed, Some(false), "{args}");
        }
        let error = request(&format!(r#"{{"url": "{url}/none"}}"#)).expect_err("fails");
        assert_eq!(error, "Status code was 404 and not [200]: HTTP Error 404: Not Found");
        drop(server);
        let error = request(r#"{"url": "http://127.0.0.1:9/"}"#).expect_err("fails");
        assert_eq!(
            error,
            "Status code was -1 and not [200]: Request failed: <urlopen error [Errno 111] Connection refused>"
        );
    }

    #[test]
    fn sends_bodies_in_every_format() {
        let server = Server::start();
        let url = server.url();
        for (args, needles) in [
            (
                r#""method": "POST", "body_format": "json", "body": {"a": [1, "ü"]}"#,
                &[
                    "POST /echo HTTP/1.1",
                    "Content-Type: application/json",
                    "Content-Length: 16",
                    r#"{"a": [1, "ü"]}"#,
                ][..],
            ),
            (
                r#""method": "PUT", "body_format": "form-urlencoded", "body": {"a": "b c", "d": ["1", "2"]}"#,
                &["PUT /echo", "Content-Type: application/x-www-form-urlencoded", "a=b+c&d=1&d=2"],
            ),
            (
                r#""method": "POST", "body_format": "form-multipart",
                    "body": {"f": {"filename": "/x/y.txt", "content": "text", "mime_type": "text/plain"}, "g": "v"}"#,
                &[
                    "multipart/form-data; boundary=",
                    "name=\"f\"; filename=\"y.txt\"\r\nContent-Type: text/plain\r\n\r\ntext\r\n",
                ],
            ),
            (
                r#""headers": {"X-Token": "t", "User-Agent": "me"}"#,
                &["X-Token: t", "User-Agent: me", "GET /echo"],
            ),
            (
                r#""url_username": "u", "url_password": "p", "force_basic_auth": true"#,
                &["Authorization: Basic dTpw", "User-Agent: ansible-httpget"],
            ),
        ] {
            let args = format!(r#"{{"url": "{url}/echo", "return_content": true, {args}}}"#);
            let outcome = request(&args).expect(&args);
            let content = outcome.values.get("content").expect("returned").to_text();
            for needle in needles {
                assert!(content.contains(needle), "{args}: {needle} is not in {content}");
            }
        }
    }

    #[test]
    fn writes_what_it_got() {
        let server = Server::start();
        let place = tempfile::tempdir().expect("a directory");
        let dest = place.path().join("x");
        let args =
            format!(r#"{{"url": "{}/text", "dest": "{}", "mode": "0600"}}"#, server.url(), dest.display());
        let outcome = request(&args).expect("written");
        assert_eq!(outcome.changed, Some(true));
        assert_eq!(std::fs::read_to_string(&dest).expect("there"), "hello");
        assert_eq!(request(&args).expect("same").changed, Some(false));
    }
}
