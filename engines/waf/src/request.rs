//! From a message to variables. The caller hands over what the wire brought, undecoded.

use crate::body::{self, Body};
use crate::transaction::Transaction;
use crate::variable::Variable as V;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

impl Transaction {
    pub fn connection(&mut self, client: IpAddr, client_port: u16, server: IpAddr, server_port: u16) {
        self.space.values.set(V::RemoteAddr, client.to_string().as_bytes());
        self.space.values.set(V::RemoteHost, client.to_string().as_bytes());
        self.space.values.set(V::RemotePort, client_port.to_string().as_bytes());
        self.space.values.set(V::ServerAddr, server.to_string().as_bytes());
        self.space.values.set(V::ServerPort, server_port.to_string().as_bytes());
    }

    /// A value that names the request in logs.
    pub fn unique_id(&mut self, id: &str) {
        self.space.values.set(V::UniqueId, id.as_bytes());
    }

    /// `target` as it was sent, with its scheme and authority where it had them; `protocol` as `HTTP/1.1`.
    pub fn request_line(&mut self, method: &[u8], target: &[u8], protocol: &[u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let values = &mut self.space.values;
        values.set(V::TimeEpoch, now.as_secs().to_string().as_bytes());
        values.set(V::RequestMethod, method);
        values.set(V::RequestProtocol, protocol);
        values.set(V::RequestLine, &[method, b" ", target, b" ", protocol].concat());
        values.set(V::RequestUriRaw, target);
        let local = without_authority(target);
        let local = local.split(|b| *b == b'#').next().unwrap_or_default();
        values.set(V::RequestUri, local);
        let (path, query) = match memchr::memchr(b'?', local) {
            Some(at) => (local.get(..at).unwrap_or_default(), local.get(at + 1..).unwrap_or_default()),
            None => (local, &[][..]),
        };
        values.set(V::QueryString, query);
        let decoded = path_decoded(path);
        let path: &[u8] = &decoded;
        values.set(V::RequestFilename, path);
        values.set(V::RequestBasename, path.rsplit(|b| matches!(b, b'/' | b'\\')).next().unwrap_or_default());
        let mut size = 0;
        let limit = self.rules.settings.arguments_limit;
        let mut pairs = body::urlencoded::pairs(query);
        for (name, value) in pairs.by_ref().take(limit) {
            size += name.len() + value.len();
            self.argument(V::ArgsGet, V::ArgsGetNames, &name, &value);
        }
        self.query_cut = pairs.next().is_some();
        self.space.values.set(V::ArgsCombinedSize, size.to_string().as_bytes());
    }

    fn argument(&mut self, values: V, names: V, name: &[u8], value: &[u8]) {
        let (name, value) = (self.space.values.arena.push(name), self.space.values.arena.push(value));
        self.space.values.add_spans(values, name, value);
        self.space.values.add_spans(names, name, name);
    }

    pub fn request_header(&mut self, name: &[u8], value: &[u8]) {
        let (n, v) = (self.space.values.arena.push(name), self.space.values.arena.push(value));
        self.space.values.add_spans(V::RequestHeaders, n, v);
        self.space.values.add_spans(V::RequestHeadersNames, n, n);
        if name.eq_ignore_ascii_case(b"host") {
            let host = value.split(|b| *b == b':').next().unwrap_or_default();
            self.space.values.set(V::ServerName, host);
        } else if name.eq_ignore_ascii_case(b"content-type") {
            let media = value.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
            if media.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
                self.space.values.set(V::ReqbodyProcessor, b"URLENCODED");
            } else if media.eq_ignore_ascii_case(b"multipart/form-data") {
                self.space.values.set(V::ReqbodyProcessor, b"MULTIPART");
            }
        } else if name.eq_ignore_ascii_case(b"cookie") {
            for pair in value.split(|b| *b == b';').map(<[u8]>::trim_ascii_start).filter(|p| !p.is_empty()) {
                let (name, value) = match memchr::memchr(b'=', pair) {
                    Some(at) => (pair.get(..at).unwrap_or_default(), pair.get(at + 1..).unwrap_or_default()),
                    None => (pair, &[][..]),
                };
                self.argument(V::RequestCookies, V::RequestCookiesNames, name, value);
            }
        } else if name.eq_ignore_ascii_case(b"authorization") {
            let scheme = value.split(|b| *b == b' ').next().unwrap_or_default();
            self.space.values.set(V::AuthType, scheme);
        }
    }

    /// The body, whole or as much of it as the limit lets be seen; `cut` says that there was more.
    pub fn request_body(&mut self, body: &[u8], cut: bool) {
        self.space.values.set(V::RequestBody, body);
        self.space.values.set(V::InboundDataError, if cut { b"1" } else { b"0" });
    }

    /// Reads the body into arguments and files as the processor of the moment says; phase 2 begins with it.
    pub(crate) fn process_request_body(&mut self) {
        let raw = self.space.values.first(V::RequestBody, None).unwrap_or_default().to_vec();
        self.space.values.set(V::RequestBodyLength, raw.len().to_string().as_bytes());
        let processor = self.space.values.first(V::ReqbodyProcessor, None).unwrap_or_default().to_vec();
        // what rules do not see must not pass as if they had
        let too_many = || format!("more than {} arguments", self.rules.settings.arguments_limit);
        let mut error = self.query_cut.then(too_many);
        let mut keep_raw = self.controls.force_request_body || processor == b"URLENCODED";
        if !raw.is_empty() && self.controls.request_body {
            let settings = &self.rules.settings;
            let content_type =
                self.space.values.first(V::RequestHeaders, Some(b"content-type")).unwrap_or_default().to_vec();
            match processor.as_slice() {
                b"URLENCODED" => {
                    let body = body::urlencoded::read(&raw, settings.arguments_limit);
                    if body.cut {
                        error = Some(too_many());
                    }
                    self.take_body(body);
                }
                b"MULTIPART" => match body::multipart::read(&raw, &content_type) {
                    Ok(body) => self.take_body(body),
                    Err(body) => {
                        error = Some("the multipart body is not well formed".to_owned());
                        self.take_body(*body);
                    }
                },
                b"JSON" => match body::json::read(&raw, settings.json_depth_limit, settings.arguments_limit) {
                    Ok(body) => self.take_body(body),
                    Err(what) => error = Some(what),
                },
                b"XML" => match body::xml::read(&raw) {
                    Ok(body) => self.take_body(body),
                    Err(what) => error = Some(what),
                },
                _ => {}
            }
        } else {
            keep_raw = keep_raw && !raw.is_empty();
        }
        if !keep_raw {
            self.space.values.set(V::RequestBody, b"");
        }
        let flag: &[u8] = if error.is_some() { b"1" } else { b"0" };
        self.space.values.set(V::ReqbodyError, flag);
        self.space.values.set(V::ReqbodyProcessorError, flag);
        self.space.values.set(V::ReqbodyErrorMsg, error.unwrap_or_default().as_bytes());
    }

    fn take_body(&mut self, body: Body) {
        let size: usize = body.arguments.iter().map(|(n, v)| n.len() + v.len()).sum();
        let before = self.space.values.first(V::ArgsCombinedSize, None).map_or(0, crate::operator::number);
        self.space.values.set(V::ArgsCombinedSize, (before + size as i64).to_string().as_bytes());
        for (name, value) in &body.arguments {
            self.argument(V::ArgsPost, V::ArgsPostNames, name, value);
        }
        let mut files = 0;
        for file in &body.files {
            files += file.size;
            self.space.values.add(V::Files, &file.field, &file.name);
            self.space.values.add(V::FilesNames, &file.field, &file.field);
            self.space.values.add(V::FilesSizes, &file.field, file.size.to_string().as_bytes());
            self.space.values.add(V::MultipartFilename, &file.field, &file.name);
            self.space.values.add(V::MultipartName, &file.field, &file.field);
        }
        self.space.values.set(V::FilesCombinedSize, files.to_string().as_bytes());
        for (part, header) in &body.part_headers {
            self.space.values.add(V::MultipartPartHeaders, part, header);
        }
        for (path, text) in &body.xml {
            self.space.values.add(V::Xml, path.as_bytes(), text);
        }
        for flag in body::multipart::FLAGS {
            let set = body.flags.contains(flag);
            self.space.values.set(*flag, if set { b"1" } else { b"0" });
        }
        let strict = body.flags.iter().any(|f| body::multipart::STRICT.contains(f));
        self.space.values.set(V::MultipartStrictError, if strict { b"1" } else { b"0" });
    }

    pub fn response_line(&mut self, status: u16, protocol: &[u8]) {
        self.space.values.set(V::ResponseStatus, status.to_string().as_bytes());
        self.space.values.set(V::ResponseProtocol, protocol);
        self.space.values.set(V::StatusLine, &[protocol, b" ", status.to_string().as_bytes()].concat());
    }

    pub fn response_header(&mut self, name: &[u8], value: &[u8]) {
        let (n, v) = (self.space.values.arena.push(name), self.space.values.arena.push(value));
        self.space.values.add_spans(V::ResponseHeaders, n, v);
        self.space.values.add_spans(V::ResponseHeadersNames, n, n);
        if name.eq_ignore_ascii_case(b"content-type") {
            let media = value.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
            self.space.values.set(V::ResponseContentType, media);
        }
    }

    /// The body of the answer, whole or as much of it as the limit lets be seen.
    pub fn response_body(&mut self, body: &[u8], cut: bool) {
        self.space.values.set(V::ResponseBody, body);
        self.space.values.set(V::ResponseContentLength, body.len().to_string().as_bytes());
        self.space.values.set(V::OutboundDataError, if cut { b"1" } else { b"0" });
    }
}

/// A path as a server looks it up: `%41` decoded, what is no escape as it is.
fn path_decoded(path: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if memchr::memchr(b'%', path).is_none() {
        return path.into();
    }
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high << 4 | low).unwrap_or_default());
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out.into()
}

/// The target without scheme and authority.
fn without_authority(target: &[u8]) -> &[u8] {
    if target.first() == Some(&b'/') {
        return target;
    }
    let Some(at) = memchr::memmem::find(target, b"://") else { return target };
    let rest = target.get(at + 3..).unwrap_or_default();
    match rest.iter().position(|b| matches!(b, b'/' | b'?')) {
        Some(path) => rest.get(path..).unwrap_or_default(),
        None => b"/",
    }
}
