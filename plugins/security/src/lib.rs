//! Plugins that keep unwanted requests out: by address, user agent, referring page, URI, origin, token or label, or by the
//! rules of a web application firewall.

mod acl;
mod attach_consumer_label;
mod coraza;
mod cors;
mod csrf;
mod ip_restriction;
mod ip_set;
mod json_path;
mod ocsp_stapling;
mod pattern;
mod referer_restriction;
mod ua_restriction;
mod uri_blocker;

use acl::Acl;
use attach_consumer_label::AttachConsumerLabel;
use coraza::Coraza;
use cors::Cors;
use csrf::Csrf;
use ip_restriction::IpRestriction;
use ocsp_stapling::OcspStapling;
use referer_restriction::RefererRestriction;
use sluice_plugin::{Definition, StreamDefinition, define, define_stream};
use ua_restriction::UaRestriction;
use uri_blocker::UriBlocker;

/// The family's plugins, by name.
pub static PLUGINS: &[Definition] = &[
    define::<Acl>(),
    define::<AttachConsumerLabel>(),
    define::<Coraza>(),
    define::<Cors>().metadata::<cors::Metadata>(),
    define::<Csrf>(),
    define::<IpRestriction>(),
    define::<OcspStapling>(),
    define::<RefererRestriction>(),
    define::<UaRestriction>(),
    define::<UriBlocker>(),
];

/// The family's plugins for stream routes.
pub static STREAM_PLUGINS: &[StreamDefinition] = &[define_stream::<IpRestriction>()];
