//! `request-id` gives every request an id in a header field, unless the client brought one, and tells it in the response.
//!
//! Use it to follow a request through services and logs; `$apisix_request_id` holds the id too. Algorithms: `uuid`
//! (random, version 4), `uuidv7` (sortable by time), `nanoid`, `ksuid` (sortable by second), and `range_id`: so many
//! characters of a set of one's own.
//!
//! Difference from APISIX: the random bits of a `uuidv7` differ between ids of the same millisecond, too.
//!
//! Source: apisix/plugins/request-id.lua, apisix/core/utils.lua (`generate_uuid_v7`).
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_plugin::{BuildError, Clock, Context, Define, Env, Flow, Info, Phases, Plugin};
use smallvec::SmallVec;

mod generate;
#[cfg(test)]
mod tests;

const CHARACTERS: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIGKLMNOPQRSTUVWXYZ0123456789";

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Debug)]
#[serde(rename_all = "lowercase")]
enum Algorithm {
    Uuid,
    Nanoid,
    #[serde(rename = "range_id")]
    RangeId,
    Ksuid,
    Uuidv7,
}

#[derive(Deserialize, JsonSchema)]
struct RangeId {
    /// Characters of an id.
    length: usize,
    /// What they are taken from.
    char_set: String,
}

#[derive(Deserialize, JsonSchema)]
pub struct Config {
    /// The field that holds the id.
    header_name: String,
    /// Tell the id in the response.
    include_in_response: bool,
    /// How ids are made.
    algorithm: Algorithm,
    /// Settings of `range_id`.
    range_id: RangeId,
}

pub struct RequestId {
    config: Config,
    clock: Clock,
}

/// What the field held, or got: a client may repeat it.
type Values = SmallVec<[Vec<u8>; 1]>;

/// The ids to be told in the response, by plugin instance: a global rule and a route may both have one.
struct Ids(SmallVec<[(usize, Values); 1]>);

impl Define for RequestId {
    const INFO: Info = Info::new("request-id", 12015, Phases::REWRITE.and(Phases::HEADER_FILTER));
    type Config = Config;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "header_name": {"description": "The field that holds the id.", "type": "string", "default": "X-Request-Id"},
                "include_in_response": {"description": "Tell the id in the response.", "type": "boolean", "default": true},
                "algorithm": {
                    "description": "How ids are made.",
                    "type": "string", "enum": ["uuid", "nanoid", "range_id", "ksuid", "uuidv7"], "default": "uuid"
                },
                "range_id": {
                    "description": "Settings of `range_id`.",
                    "type": "object",
                    "properties": {
                        "length": {"description": "Characters of an id.", "type": "integer", "minimum": 6, "default": 16},
                        "char_set": {"description": "What they are taken from.", "type": "string", "minLength": 6, "default": CHARACTERS}
                    },
                    "default": {"length": 16, "char_set": CHARACTERS}
                }
            }
        })
    }

    fn build(config: Config, env: &Env) -> Result<Self, BuildError> {
        Ok(RequestId { config, clock: env.clock.clone() })
    }
}

impl RequestId {
    fn owner(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    fn generate(&self) -> Vec<u8> {
        match self.config.algorithm {
            Algorithm::Uuid => generate::uuid_v4().to_vec(),
            Algorithm::Uuidv7 => generate::uuid_v7(self.clock.millis()).to_vec(),
            Algorithm::Nanoid => generate::nanoid().to_vec(),
            Algorithm::Ksuid => generate::ksuid(self.clock.seconds()).to_vec(),
            Algorithm::RangeId => {
                generate::range_id(self.config.range_id.length, self.config.range_id.char_set.as_bytes())
            }
        }
    }
}

impl Plugin for RequestId {
    fn rewrite<'a>(&'a self, cx: &'a mut Context) -> Flow<'a> {
        let name = &self.config.header_name;
        let mut ids: Values = cx.request.headers.get_all(name).map(<[u8]>::to_vec).collect();
        if matches!(ids.as_slice(), [] | [_]) && ids.first().is_none_or(Vec::is_empty) {
            let id = self.generate();
            cx.request.headers.set(name, &id);
            ids = SmallVec::from_buf([id]);
        }
        if let Some(id) = ids.first() {
            cx.set_apisix_request_id(String::from_utf8_lossy(id));
        }
        if self.config.include_in_response {
            match cx.get_mut::<Ids>() {
                Some(all) => all.0.push((self.owner(), ids)),
                None => cx.insert(Ids(SmallVec::from_buf([(self.owner(), ids)]))),
            }
        }
        Flow::Next
    }

    fn header_filter(&self, cx: &mut Context) {
        if !self.config.include_in_response {
            return;
        }
        let name = &self.config.header_name;
        if cx.response.headers.get(name).is_some_and(|v| !v.is_empty()) {
            return;
        }
        let owner = self.owner();
        let Some(all) = cx.get_mut::<Ids>() else { return };
        let Some((_, ids)) = all.0.iter_mut().find(|(o, _)| *o == owner) else { return };
        let ids = std::mem::take(ids);
        cx.response.headers.remove(name);
        for id in ids {
            cx.response.headers.append(name, id);
        }
    }
}
