//! What config.yaml says of a request before its route is looked for: the client's address, the path that is matched. The
//! surprise: it stands in the snapshot, so that a request that is only explained is looked at like one that is served.
mod path;
mod real_ip;

pub use path::Ambiguous;
use sluice_http::Known;
use sluice_plugin::{Context, ParsedBodies};

/// `apisix.*` and `nginx_config.http.real_ip_*`; the default leaves requests as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestRules {
    /// `apisix.delete_uri_tail_slash`
    pub delete_uri_tail_slash: bool,
    /// `apisix.normalize_uri_like_servlet`
    pub normalize_uri_like_servlet: bool,
    /// `apisix.match_uri_encoded_slash`: `%2F` stays as it is while a route is matched.
    pub match_uri_encoded_slash: bool,
    /// `nginx_config.http.real_ip_*`
    pub real_ip: Option<RealIp>,
    /// Up to which size bodies are parsed for variables.
    pub parsed_bodies: ParsedBodies,
}

/// nginx's realip module.
#[derive(Clone, Debug, PartialEq)]
pub struct RealIp {
    /// Field to read, or `proxy_protocol`.
    pub header: Box<str>,
    /// [`RealIp::header`], resolved.
    pub known: Known,
    pub recursive: bool,
    pub from: Vec<ipnet::IpNet>,
}

impl RequestRules {
    /// Finds the client's address.
    #[inline]
    pub fn find_client(&self, cx: &mut Context) {
        if let Some(settings) = &self.real_ip {
            real_ip::apply(cx, settings);
        }
    }

    /// Gives the path the form in which everything sees it. Errors: it is to be refused.
    #[inline]
    pub fn shape_path(&self, cx: &mut Context) -> Result<(), Ambiguous> {
        if self.delete_uri_tail_slash || self.normalize_uri_like_servlet {
            return path::apply(cx, self);
        }
        Ok(())
    }

    /// The path to match by, where that is not the request's.
    #[inline]
    pub fn path_to_match(&self, cx: &Context) -> Option<String> {
        if self.match_uri_encoded_slash { path::keep_encoded_slash(cx) } else { None }
    }
}

/// The rules of config.yaml.
pub fn read(settings: &crate::settings::Settings) -> RequestRules {
    let (apisix, http) = (&settings.apisix, &settings.nginx.http);
    RequestRules {
        delete_uri_tail_slash: apisix.delete_uri_tail_slash,
        normalize_uri_like_servlet: apisix.normalize_uri_like_servlet,
        match_uri_encoded_slash: apisix.match_uri_encoded_slash,
        real_ip: (!http.real_ip_from.is_empty()).then(|| RealIp {
            header: http.real_ip_header.as_str().into(),
            known: Known::from_name(http.real_ip_header.as_bytes()),
            recursive: http.real_ip_recursive,
            from: http.real_ip_from.clone(),
        }),
        parsed_bodies: ParsedBodies {
            graphql: settings.graphql_max_size as usize,
            post_args: apisix.max_post_args_readable_size.map_or(usize::MAX, |bytes| bytes as usize),
        },
    }
}
