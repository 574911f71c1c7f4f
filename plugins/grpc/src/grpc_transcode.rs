//! `grpc-transcode`: calls a gRPC service for clients that speak plain HTTP with JSON.
//!
//! Use it on a route whose upstream has scheme `grpc` or `grpcs`. `proto_id` names a proto resource with the service's definition,
//! `service` and `method` the call. The request's message is made of the JSON body (`POST`, `PUT`, `PATCH` with `application/json`),
//! of the form (`POST`) or of the query; names that the message does not have are passed over. Numbers may be text, enumerations
//! names or numbers, `bytes` are the text's bytes. A request that does not fit gets 400, a method that does not exist 503.
//!
//! The answer's message becomes JSON by `pb_option`. A call that fails becomes a status of HTTP: `NOT_FOUND` 404, `INVALID_ARGUMENT`
//! 400 and so on, 599 for statuses that gRPC does not know; `grpc-status`, `grpc-message` and `grpc-status-details-bin` stand in
//! the head. With `show_status_in_body` the body is `{"error": {"code", "message", "details"}}`, with `status_detail_type` the
//! details are decoded as that message. `deadline` goes to the service as `grpc-timeout` and bounds the wait: 504.
//!
//! Different from APISIX: a method that streams its answer is served: one line of JSON for each message, as it comes
//! (`application/x-ndjson`); a call that fails behind its head but without a message has its status of HTTP too; 64-bit numbers keep all digits;
//! repeated and 64-bit fields take what APISIX loses; `false` and `0` as text are false; an argument that is there once may be a list; an
//! answer over `max_resp_body_size` is refused instead of cut; a missing proto gets 503 instead of the untranslated answer of the service. `.proto` text may import Google's well-known types.
//!
//! Source: apisix/plugins/grpc-transcode.lua, apisix/plugins/grpc-transcode/. The surprise: a change of the proto resource changes the
//! plugin without building it anew; the answer is read with the definition that wrote the request.
use arc_swap::ArcSwapOption;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_engine_grpc::{Definition, FrameError, Frames, Library, Method, Options, Proto, frame, status_details};
use sluice_plugin::{BodyChunk, BuildError, Context, Define, Env, Flow, Info, Phases, Plugin, Reply};
use std::sync::Arc;

mod fields;
mod schema;
mod status;

/// Configuration of `grpc-transcode`.
#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// The largest message of an answer (bytes).
    max_resp_body_size: usize,
    /// The proto resource that defines the service.
    #[schemars(with = "Value")]
    proto_id: Value,
    /// The service's full name, `package.Service`.
    service: String,
    /// The method's name.
    method: String,
    /// How long the call may take (milliseconds); 0 is without a limit.
    deadline: f64,
    /// How messages become JSON.
    pb_option: Vec<String>,
    /// Show `grpc-status-details-bin` in the body of a call that failed.
    show_status_in_body: bool,
    /// The message type of the details in it; they stay as they are without.
    status_detail_type: Option<String>,
}

/// A method as it was found in a definition, or not.
struct Found {
    definition: Arc<Definition>,
    method: Option<Method>,
}

/// A request's message is on its way; what its answer needs.
struct Call {
    found: Arc<Found>,
    answer: Answer,
}

/// What becomes of the body.
enum Answer {
    /// Nothing.
    Same,
    /// One message; the text once it has come.
    Message(Frames, Option<Vec<u8>>),
    /// A line for each message.
    Messages(Frames),
    /// The call failed: this stands for the body.
    Status(Vec<u8>),
    /// No more of it can be read.
    Broken,
}

pub struct GrpcTranscode {
    proto: Arc<Proto>,
    proto_id: String,
    service: String,
    method: String,
    target: Vec<u8>,
    timeout: Option<String>,
    options: Options,
    limit: usize,
    show_status: bool,
    detail_type: Option<String>,
    found: ArcSwapOption<Found>,
}

impl Define for GrpcTranscode {
    const INFO: Info =
        Info::new("grpc-transcode", 506, Phases::ACCESS.and(Phases::HEADER_FILTER).and(Phases::BODY_FILTER))
            .request_body();
    type Config = Config;

    fn schema() -> Value {
        schema::schema()
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        let proto_id = match &config.proto_id {
            Value::String(id) => id.clone(),
            other => other.to_string(),
        };
        let plugin = GrpcTranscode {
            proto: env.part::<Library>().unwrap_or_default().proto(&proto_id),
            proto_id,
            target: format!("/{}/{}", config.service, config.method).into_bytes(),
            service: config.service,
            method: config.method,
            timeout: timeout(config.deadline),
            options: Options::of(config.pb_option.iter().map(String::as_str)),
            limit: config.max_resp_body_size,
            show_status: config.show_status_in_body,
            detail_type: config.status_detail_type,
            found: ArcSwapOption::empty(),
        };
        plugin.find();
        Ok(plugin)
    }
}

/// `grpc-timeout` of milliseconds: at most eight digits, in a larger unit where there are more.
fn timeout(millis: f64) -> Option<String> {
    if millis.is_nan() || millis <= 0.0 {
        return None;
    }
    let millis = millis.ceil();
    [("m", 1.0), ("S", 1e3), ("M", 60e3), ("H", 3600e3)].into_iter().find_map(|(unit, length)| {
        let n = (millis / length).ceil();
        (n < 1e8).then(|| format!("{}{unit}", n as u64))
    })
}

impl GrpcTranscode {
    /// The method, looked for once in each definition; `None`: there is no proto.
    fn find(&self) -> Option<Arc<Found>> {
        if let Some(found) = self.found.load_full().filter(|found| self.proto.says(&found.definition)) {
            return Some(found);
        }
        let definition = self.proto.definition()?;
        let found = Arc::new(Found { method: definition.method(&self.service, &self.method), definition });
        self.found.store(Some(found.clone()));
        Some(found)
    }

    /// Makes the request's message; the error is the status to answer with.
    fn translate(&self, cx: &mut Context) -> Result<(), u16> {
        let Some(found) = self.find() else {
            tracing::error!("proto load error: failed to find proto by id: {}", self.proto_id);
            return Err(503);
        };
        let Some(method) = &found.method else {
            let (service, method) = (&self.service, &self.method);
            tracing::error!("transform request error: Undefined service method: {service}/{method} end");
            return Err(503);
        };
        let (fields, given) = fields::of(cx);
        let message = method.encode(&fields, given).map_err(|error| {
            tracing::error!(%error, "transform request error: failed to encode request data to protobuf");
            400u16
        })?;
        cx.upstream.body = Some(frame(&message));
        cx.upstream.target = Some(self.target.clone());
        cx.upstream.content_type = Some("application/grpc");
        cx.upstream.awaits_message = true;
        cx.set_method("POST");
        let headers = &mut cx.request.headers;
        // They are of the client's body and its reader; the message is plain, and so is to be the answer's.
        for name in ["content-encoding", "grpc-encoding", "grpc-accept-encoding"] {
            headers.remove(name);
        }
        if let Some(timeout) = &self.timeout {
            headers.set("grpc-timeout", timeout);
        }
        cx.insert(Call { found, answer: Answer::Same });
        Ok(())
    }

    /// What becomes of an answer with this head.
    fn begin(&self, cx: &mut Context, found: &Found) -> Answer {
        let details = || cx.response.headers.get("grpc-status-details-bin");
        if cx.response.status >= 300 {
            return details().filter(|_| self.show_status).map_or(Answer::Same, |field| self.explain(found, field));
        }
        let code = cx.response.headers.get("grpc-status").filter(|code| *code != b"0");
        if let Some(code) = code {
            let status = status::of_http(code);
            let answer = details().filter(|_| self.show_status).map(|field| self.explain(found, field));
            cx.response.set_status(status);
            cx.response.headers.set("Content-Type", "application/json");
            cx.response.headers.remove("content-length");
            return answer.unwrap_or(Answer::Same);
        }
        let streams = found.method.as_ref().is_some_and(Method::streams);
        let kind = if streams { "application/x-ndjson" } else { "application/json" };
        cx.response.headers.set("Content-Type", kind);
        cx.response.headers.remove("content-length");
        cx.response.headers.remove("trailer");
        cx.response.headers.append("Trailer", "grpc-status");
        cx.response.headers.append("Trailer", "grpc-message");
        match streams {
            true => Answer::Messages(Frames::new(self.limit)),
            false => Answer::Message(Frames::new(self.limit), None),
        }
    }

    /// Why a call failed, in JSON.
    fn explain(&self, found: &Found, field: &[u8]) -> Answer {
        let text = status_details(field, &found.definition, self.detail_type.as_deref(), self.options);
        Answer::Status(text.unwrap_or_else(|error| {
            tracing::error!("transform response error: {error}");
            error.told.as_bytes().to_vec()
        }))
    }

    /// Writes a message as JSON.
    fn print(&self, found: &Found, message: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let Some(method) = &found.method else { return Ok(()) };
        method.print(message, self.options, out).map_err(|error| error.0)
    }

    /// The whole answer of one message, or of none.
    fn whole(&self, found: &Found, message: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(message.len() * 2 + 16);
        self.print(found, message, &mut text).map_or_else(|error| undecodable(&error), |()| text)
    }

    /// Takes a piece of the body; what is to be sent of it.
    fn follow(&self, call: &mut Call, piece: &[u8], last: bool) -> Result<Vec<u8>, FrameError> {
        match &mut call.answer {
            Answer::Message(frames, text) => {
                if text.is_none() {
                    frames.push(piece);
                    if let Some(message) = frames.message()? {
                        *text = Some(self.whole(&call.found, message));
                    }
                }
                Ok(match last {
                    true if text.is_none() && !frames.is_empty() => undecodable("a message breaks off"),
                    true => text.take().unwrap_or_else(|| self.whole(&call.found, &[])),
                    false => Vec::new(),
                })
            }
            Answer::Messages(frames) => {
                frames.push(piece);
                let mut lines = Vec::new();
                while let Some(message) = frames.message()? {
                    let before = lines.len();
                    if let Err(error) = self.print(&call.found, message, &mut lines) {
                        lines.truncate(before);
                        lines.extend_from_slice(&undecodable(&error));
                        lines.push(b'\n');
                        call.answer = Answer::Broken;
                        return Ok(lines);
                    }
                    lines.push(b'\n');
                }
                Ok(lines)
            }
            Answer::Status(text) => Ok(if last { std::mem::take(text) } else { Vec::new() }),
            Answer::Same | Answer::Broken => Ok(Vec::new()),
        }
    }
}

/// What a client is told of an answer that is not what it should be.
fn undecodable(error: &str) -> Vec<u8> {
    tracing::error!("transform response error: failed to decode response data by protobuf, err: {error}");
    b"failed to decode response data by protobuf".to_vec()
}

impl Plugin for GrpcTranscode {
    fn wants_request_body(&self, _: &Context) -> bool {
        true
    }

    fn access<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        match self.translate(cx) {
            Ok(()) => Flow::Next,
            Err(status) => Flow::reply(Reply::status(status)),
        }
    }

    fn header_filter(&self, cx: &mut Context) {
        if cx.own_response {
            return;
        }
        let Some(found) = cx.get::<Call>().map(|call| call.found.clone()) else { return };
        let answer = self.begin(cx, &found);
        if !matches!(answer, Answer::Same) {
            cx.filter_body();
        }
        if let Some(call) = cx.get_mut::<Call>() {
            call.answer = answer;
        }
    }

    fn body_filter(&self, cx: &mut Context, chunk: &mut BodyChunk) {
        let Some(call) = cx.get_mut::<Call>() else { return };
        if matches!(call.answer, Answer::Same) {
            return;
        }
        let text = self.follow(call, &chunk.data, chunk.last);
        chunk.data = text.unwrap_or_else(|error| {
            call.answer = Answer::Broken;
            undecodable(&error.to_string())
        });
        if let (true, Answer::Messages(frames)) = (chunk.last, &call.answer) {
            if !frames.is_empty() {
                chunk.data.extend_from_slice(&undecodable("a message breaks off"));
                chunk.data.push(b'\n');
            } else if self.show_status {
                let found = call.found.clone();
                chunk.data.extend_from_slice(&self.last_line(cx, &found));
            }
        }
    }
}

impl GrpcTranscode {
    /// How a stream failed, where it did.
    fn last_line(&self, cx: &Context, found: &Found) -> Vec<u8> {
        let Some(trailers) = cx.response.trailers.as_deref() else { return Vec::new() };
        let Some(code) = trailers.get("grpc-status").filter(|code| *code != b"0") else { return Vec::new() };
        let mut line = match trailers.get("grpc-status-details-bin").map(|field| self.explain(found, field)) {
            Some(Answer::Status(text)) => text,
            _ => {
                let code: i64 = std::str::from_utf8(code).ok().and_then(|code| code.parse().ok()).unwrap_or(2);
                let message = String::from_utf8_lossy(trailers.get("grpc-message").unwrap_or_default());
                json!({"error": {"code": code, "message": message}}).to_string().into_bytes()
            }
        };
        line.push(b'\n');
        line
    }
}

#[cfg(test)]
mod tests;
