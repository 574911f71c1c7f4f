//! `ocsp-stapling` lets certificates bring the proof that they are not revoked, so that clients need not ask for it.
//!
//! It is configured on ssl objects: `ocsp_stapling: {enabled: true}`. The certificate's chain must hold its issuer after it, and
//! the certificate must name a responder. Where config.yaml lists plugins, this one must be among them.
//!
//! | field of `ocsp_stapling` | default | meaning |
//! |---|---|---|
//! | `enabled` | `false` | answers are fetched and stapled |
//! | `skip_verify` | `false` | they are stapled whatever they say; otherwise only answers that are properly signed, in force and good |
//! | `cache_ttl` | 3600 | after so many seconds a newer answer is fetched, sooner where `nextUpdate` is near |
//!
//! Differences from APISIX: answers are fetched beside handshakes, which never wait; they stay while the responder is away, until
//! their `nextUpdate` (or a week); each certificate of an object has its own answer, not the last one's for all. Read in
//! apisix/plugins/ocsp-stapling.lua.
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{BuildError, Define, Env, Info, Phases, Plugin};

/// There is nothing to configure on routes.
#[derive(Deserialize, JsonSchema)]
pub struct Config {}

pub struct OcspStapling;

impl Define for OcspStapling {
    const INFO: Info = Info::new("ocsp-stapling", -44, Phases::NONE);
    type Config = Config;

    fn build(_config: Config, _env: &Env) -> Result<Self, BuildError> {
        Ok(OcspStapling)
    }
}

impl Plugin for OcspStapling {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_plugin::{Scope, define, testing::check};

    #[test]
    fn anything_may_stand_on_a_route_and_does_nothing() {
        check(define::<OcspStapling>(), Scope::Route, &mut json!({})).unwrap();
        assert!(OcspStapling::INFO.phases.is_empty());
    }
}
