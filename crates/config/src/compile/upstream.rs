//! Upstream resources to [`Upstream`]s: nodes, balancer, TLS, pool.
use super::resilience::{breaking, concurrency};
use super::ssl::Ssls;
use super::{CompileSettings, Compiler, Work, balancing};
use serde_json::Value;
use sluice_model::resilience::Scope as Watched;
use sluice_model::upstream as model;
use sluice_model::{Kind, Ssl};
use sluice_net::tls::{ClientTls, ClientTlsConfig};
use sluice_upstream::health::{Active, Checker, CheckerSettings, Checks, ProbeKind};
use sluice_upstream::pool::PoolSettings;
use sluice_upstream::retry::{Backoff, Budget, DEFAULT_BODY_LIMIT};
use sluice_upstream::upstream::{Refresh, Tls};
use sluice_upstream::{
    Algorithm, BalancerSettings, DiscoverError, HashKey, HashOn, HostHeader, NodeConfig, NodeSet, NodeSetSettings,
    NodeStates, PassHost, RetryOn, RetryPolicy, Scheme, Service, ServiceQuery, Timeouts, Upstream,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// TLS configurations by their settings: equal ones share sessions and pooled connections.
#[derive(Clone, Default)]
pub struct TlsCache(Arc<Mutex<Vec<(ClientTlsConfig, Tls)>>>);

/// nginx's `proxy_timeout` of the stream subsystem.
const STREAM_IDLE: Duration = Duration::from_secs(600);
/// Configurations kept; beyond, unused ones go, and new ones are not shared where all are in use.
const MAX_TLS: usize = 4096;
/// No two configurations have the same, or one's connections would serve the other.
static IDENTITIES: AtomicU64 = AtomicU64::new(1);

impl TlsCache {
    fn get(&self, config: ClientTlsConfig, sni: Option<&str>) -> Result<Tls, String> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tls)) = known.iter().find(|(c, _)| *c == config) {
            return Ok(tls.clone());
        }
        let client = ClientTls::new(&config).map_err(|e| e.to_string())?;
        let tls = Tls { client, identity: IDENTITIES.fetch_add(1, Ordering::Relaxed), sni: sni.map(Into::into) };
        if known.len() >= MAX_TLS {
            known.retain(|(_, tls)| Arc::strong_count(tls.client.config()) > 1);
        }
        if known.len() < MAX_TLS {
            known.push((config, tls.clone()));
        }
        Ok(tls)
    }
}

/// What the upstreams of one compilation need.
pub(super) struct Parts<'a> {
    pub settings: &'a CompileSettings,
    pub states: &'a Arc<NodeStates>,
    pub tls: &'a TlsCache,
    pub ssls: &'a Ssls,
    pub control: Option<&'a tokio::runtime::Handle>,
}

/// A route's `timeout`.
pub(super) fn timeouts(timeout: &sluice_model::Timeout) -> Timeouts {
    Timeouts { connect: timeout.connect(), send: timeout.send(), read: timeout.read(), request: timeout.request() }
}

pub(super) fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s.max(0.0)).unwrap_or(Duration::from_secs(86_400))
}

/// The service that an upstream names.
fn query(upstream: &model::Upstream) -> Option<ServiceQuery> {
    let args = |name: &str| upstream.discovery_args.as_ref()?.get(name)?.as_str().map(Into::into);
    // `service_name` alone stands before `nodes` (apisix/upstream.lua `set_by_route`)
    Some(ServiceQuery {
        name: upstream.service_name.as_deref()?.into(),
        registry: upstream.discovery_type.as_deref().unwrap_or_default().into(),
        namespace_id: args("namespace_id"),
        group_name: args("group_name"),
        grpc: matches!(upstream.scheme, model::Scheme::Grpc | model::Scheme::Grpcs),
    })
}

/// Begins to follow the upstream's service, where it has one.
fn follow(upstream: &model::Upstream, settings: &CompileSettings) -> Result<Option<Service>, DiscoverError> {
    let Some(query) = query(upstream) else { return Ok(None) };
    let registries = settings.discovery.as_ref();
    let following = registries.ok_or(DiscoverError::Nothing)?.follow(&query)?;
    Ok(Some(Service { query, following, default_port: upstream.scheme.default_port() }))
}

/// Why the upstream's service cannot be followed. The upstream is used all the same, and has no nodes: requests get 503
/// (apisix/upstream.lua `set_by_route`).
fn undiscovered(upstream: &model::Upstream, settings: &CompileSettings) -> Option<String> {
    let query = query(upstream)?;
    match &settings.discovery {
        None => Some(DiscoverError::Nothing.to_string()),
        Some(registries) => registries.check(&query).err().map(|error| error.to_string()),
    }
}

/// Compiles one upstream; `previous` is what it replaces, for the addresses of its names.
pub(super) fn compile(
    key: &str,
    upstream: &model::Upstream,
    parts: &Parts<'_>,
    previous: Option<&Upstream>,
) -> Result<Upstream, String> {
    let settings = parts.settings;
    let hash_on = match upstream.hash_on {
        model::HashOn::Vars => HashOn::Vars,
        model::HashOn::Header => HashOn::Header,
        model::HashOn::Cookie => HashOn::Cookie,
        model::HashOn::Consumer => HashOn::Consumer,
        model::HashOn::VarsCombinations => HashOn::VarsCombinations,
        model::HashOn::ClientIp => HashOn::ClientIp,
        model::HashOn::QueryArg => HashOn::QueryArg,
        model::HashOn::Uri => HashOn::Uri,
    };
    let tls = tls(upstream, parts)?;
    let health = health(key, upstream, parts)?;
    let checks = health.as_ref().map(|checker| &checker.settings().checks);
    let defaults = BalancerSettings::default();
    let balancer = BalancerSettings {
        algorithm: Algorithm::parse(upstream.balancer.name()).map_err(|e| e.to_string())?,
        hash: HashKey::compile(hash_on, upstream.key.as_deref().unwrap_or_default()),
        counters: settings.workers,
        fail_when_none: checks.map_or(defaults.fail_when_none, |checks| checks.fail_when_none),
        max_ejection_percent: checks.map_or(defaults.max_ejection_percent, |checks| checks.max_ejection_percent),
        slow_start: upstream.slow_start.as_ref().map(balancing::slow_start),
        zone: balancing::zone(upstream, settings),
        sticky: upstream.sticky.as_ref().map(|sticky| balancing::sticky(sticky, key)),
        ..defaults
    };
    let default_port = upstream.scheme.default_port();
    let nodes = upstream.nodes.iter().flatten().map(|node| NodeConfig {
        host: node.host.as_str().into(),
        port: node.port.or(default_port).unwrap_or(80),
        weight: node.weight,
        priority: i32::try_from(node.priority).unwrap_or(0),
        metadata: node.metadata.clone().map(|m| Arc::new(Value::Object(m))),
    });
    let mut set = NodeSetSettings::new(key, upstream.scheme.name(), balancer);
    set.health.clone_from(&health);
    set.breakers = upstream.circuit_breaker.as_ref().is_some_and(|breaker| breaker.scope == Watched::Node);
    let (states, before) = (parts.states.clone(), previous.map(|u| &*u.nodes));
    let nodes = match follow(upstream, settings) {
        Ok(Some(service)) => NodeSet::follow(set, service, states, before),
        Ok(None) => NodeSet::build(set, nodes.collect(), states, before),
        Err(error) => {
            tracing::error!(upstream = key, "{error}: the upstream has no nodes");
            NodeSet::build(set, Vec::new(), states, before)
        }
    };
    let nodes = Arc::new(nodes.map_err(|e| e.to_string())?);
    if let (Some(checker), Some(control)) = (&health, parts.control) {
        checker.start(control);
    }
    let refresh = parts
        .control
        .filter(|_| nodes.moves())
        .map(|control| Refresh::new(control.spawn(nodes.clone().keep_fresh(settings.resolver.clone())).abort_handle()));
    let pass_host = match upstream.pass_host {
        model::PassHost::Pass => PassHost::Pass,
        model::PassHost::Node => PassHost::Node,
        model::PassHost::Rewrite => PassHost::Rewrite,
    };
    Ok(Upstream {
        key: key.into(),
        name: upstream.name.as_deref().map(Into::into),
        nodes,
        scheme: Scheme::parse(upstream.scheme.name()).unwrap_or_default(),
        host: HostHeader::compile(pass_host, upstream.upstream_host.as_deref()),
        timeouts: upstream.timeout.as_ref().map(timeouts).unwrap_or_default(),
        stream_idle: upstream.timeout.as_ref().map_or(STREAM_IDLE, |t| t.send().max(t.read())),
        retry: retry(key, upstream, parts.states)?,
        pool: upstream.keepalive_pool.as_ref().map_or(settings.pool, |pool| PoolSettings {
            size: usize::try_from(pool.size).unwrap_or(usize::MAX),
            idle_timeout: seconds(pool.idle_timeout),
            requests: pool.requests,
        }),
        tls,
        health,
        breaking: breaking(key, upstream, parts)?.map(Box::new),
        concurrency: upstream.concurrency_limit.as_ref().map(|limit| Box::new(concurrency(key, limit, parts))),
        load_report: upstream.load_report.as_ref().map(|report| Arc::new(balancing::load_report(report))),
        _refresh: refresh,
    })
}

/// What the upstream says about retries.
fn retry(key: &str, upstream: &model::Upstream, states: &NodeStates) -> Result<RetryPolicy, String> {
    let on = upstream.retry_on.as_deref().map(RetryOn::parse).transpose().map_err(|e| e.to_string())?;
    let backoff = upstream.retry_backoff.map(|backoff| {
        let base = seconds(backoff.base_interval);
        Backoff { base, max: backoff.max_interval.map_or(base * 10, seconds) }
    });
    let budget = upstream.retry_budget.map(|budget| Budget {
        per_mille: (budget.percent.clamp(0.0, 100.0) * 10.0) as u32,
        min_per_second: budget.min_retries_per_second,
        window: states.budget(key),
    });
    Ok(RetryPolicy {
        retries: upstream.retries.map(|r| u32::try_from(r).unwrap_or(u32::MAX)),
        retry_timeout: seconds(upstream.retry_timeout.unwrap_or(0.0)),
        rounds: on.is_some() || backoff.is_some(),
        on: on.unwrap_or_default(),
        backoff,
        budget,
        body_limit: upstream.retry_body_limit.map_or(DEFAULT_BODY_LIMIT, |n| usize::try_from(n).unwrap_or(usize::MAX)),
    })
}

/// The upstream's health checks; `None` where it has none, or config.yaml switches them off.
fn health(key: &str, upstream: &model::Upstream, parts: &Parts<'_>) -> Result<Option<Arc<Checker>>, String> {
    let Some(checks) = upstream.checks.as_ref().filter(|_| parts.settings.health_checks) else {
        parts.states.no_checker(key);
        return Ok(None);
    };
    let checks = Checks::read(checks)?;
    let tls = checks.active.as_ref().map(|active| probe_tls(active, upstream, parts)).transpose()?.flatten();
    let rewrites = upstream.pass_host == model::PassHost::Rewrite;
    let host_header = upstream.upstream_host.as_deref().filter(|_| rewrites).map(Into::into);
    Ok(Some(parts.states.checker(CheckerSettings { key: key.into(), checks, tls, host_header })))
}

/// How probes speak TLS. `https` always does; `redis` and `grpc` where the upstream does. The upstream's client certificate is
/// shown, its `tls.sni` is not used: probes ask for the host that they name.
fn probe_tls(active: &Active, upstream: &model::Upstream, parts: &Parts<'_>) -> Result<Option<ClientTls>, String> {
    let secure = Scheme::parse(upstream.scheme.name()).is_some_and(Scheme::is_tls);
    let alpn = match active.kind {
        ProbeKind::Https => Vec::new(),
        ProbeKind::Redis if secure => Vec::new(),
        ProbeKind::Grpc if secure => vec![b"h2".to_vec()],
        ProbeKind::Http | ProbeKind::Tcp | ProbeKind::Redis | ProbeKind::Grpc => return Ok(None),
    };
    let mut config = tls_config(upstream, parts)?;
    config.verify = active.https_verify_certificate;
    config.sni = None;
    config.alpn = alpn;
    parts.tls.get(config, None).map(|tls| Some(tls.client))
}

fn tls(upstream: &model::Upstream, parts: &Parts<'_>) -> Result<Tls, String> {
    let config = tls_config(upstream, parts)?;
    let sni = config.sni.clone();
    parts.tls.get(config, sni.as_deref())
}

fn tls_config(upstream: &model::Upstream, parts: &Parts<'_>) -> Result<ClientTlsConfig, String> {
    let default = model::Tls::default();
    let tls = upstream.tls.as_ref().unwrap_or(&default);
    let client_cert = match (&tls.client_cert, &tls.client_key, &tls.client_cert_id) {
        (Some(cert), Some(key), _) => Some((cert.clone(), key.clone())),
        (_, _, Some(id)) => {
            let ssl = client_ssl(id, parts.ssls).ok_or_else(|| no_client_ssl(id))?;
            ssl.pairs.first().cloned()
        }
        _ => None,
    };
    let own_ca = (!tls.ca_certs.is_empty()).then(|| tls.ca_certs.join("\n"));
    Ok(ClientTlsConfig {
        verify: tls.verify,
        ca_pem: own_ca.or_else(|| parts.settings.trusted_certificates.clone()),
        client_cert,
        sni: tls.sni.clone(),
        alpn: if upstream.scheme == model::Scheme::Grpcs { vec![b"h2".to_vec()] } else { Vec::new() },
        ..ClientTlsConfig::default()
    })
}

/// The ssl object of type client that an upstream names.
fn client_ssl<'a>(id: &str, ssls: &'a Ssls) -> Option<&'a Ssl> {
    ssls.get(id).filter(|ssl| ssl.is_client).map(AsRef::as_ref)
}

fn no_client_ssl(id: &str) -> String {
    format!("failed to fetch ssl info by ssl id [{id}], wrong ssl id")
}

/// Why an upstream cannot be asked although it is right in itself: the ssl object with its client certificate is not
/// there, or not of type client. Requests get 502 then (apisix/upstream.lua `set_by_route`).
pub(super) fn missing_certificate(upstream: &model::Upstream, ssls: &Ssls) -> Option<String> {
    let tls = upstream.tls.as_ref().filter(|tls| tls.client_cert.is_none() || tls.client_key.is_none())?;
    let id = tls.client_cert_id.as_deref()?;
    client_ssl(id, ssls).is_none().then(|| no_client_ssl(id))
}

impl Compiler {
    fn parts(&self) -> Parts<'_> {
        Parts {
            settings: &self.settings,
            states: &self.states,
            tls: &self.tls,
            ssls: &self.ssls,
            control: self.env.control.as_ref(),
        }
    }

    /// Stored upstreams that changed, and those that show a client certificate that changed.
    pub(super) fn compile_upstreams(&mut self, work: &mut Work) {
        let mut showing: Vec<Arc<str>> = Vec::new();
        let changed = work.changed.iter().map(|(kind, id, _)| (*kind, id));
        for (_, ssl) in changed.chain(work.deleted.iter().map(|(k, id)| (*k, id))).filter(|(k, _)| *k == Kind::Ssl) {
            showing.extend(self.showing.get(ssl).into_iter().flatten().cloned());
        }
        showing.sort();
        showing.dedup();
        for id in showing {
            let known = work.changed.iter().any(|(kind, other, _)| *kind == Kind::Upstream && *other == id);
            if let Some(body) = Some(()).filter(|()| !known).and_then(|()| self.accepted_one(Kind::Upstream, &id)) {
                // Routes that name it are to follow.
                work.changed.push((Kind::Upstream, id, body));
            }
        }
        let changed = work.changed_of(Kind::Upstream);
        let deleted = work.deleted_of(Kind::Upstream);
        if changed.is_empty() && deleted.is_empty() {
            return;
        }
        let mut all = std::mem::take(&mut self.upstreams);
        for id in deleted {
            self.shows(&id, None);
            if let Some(upstream) = all.get(&id) {
                self.end_checks(upstream);
            }
            all.remove(&id);
        }
        for (id, body) in changed {
            work.compiled.insert((Kind::Upstream, id.clone()));
            self.shows(&id, body.pointer("/tls/client_cert_id").and_then(Value::as_str));
            let key = format!("upstreams/{id}");
            let typed = serde_json::from_value::<model::Upstream>(body).map_err(|e| e.to_string());
            if let Some(message) = typed.as_ref().ok().and_then(|typed| missing_certificate(typed, &self.ssls)) {
                // Its last good form would show a certificate that was taken away.
                if let Some(upstream) = all.get(&id) {
                    self.end_checks(upstream);
                }
                all.remove(&id);
                work.problem(Kind::Upstream, &id, "/tls/client_cert_id", message);
                continue;
            }
            let previous = all.get(&id).cloned();
            if let Some(message) = typed.as_ref().ok().and_then(|typed| undiscovered(typed, &self.settings)) {
                work.problem(Kind::Upstream, &id, "/discovery_type", message);
            }
            let compiled = typed.and_then(|typed| compile(&key, &typed, &self.parts(), previous.as_deref()));
            match compiled {
                Ok(upstream) => {
                    if upstream.nodes.moves() {
                        work.unresolved.push(upstream.nodes.clone());
                    }
                    all.insert(id, Arc::new(upstream));
                }
                Err(message) => work.problem(Kind::Upstream, &id, "", message),
            }
        }
        self.upstreams = all;
    }

    /// Remembers which client certificate an upstream shows.
    fn shows(&mut self, id: &Arc<str>, certificate: Option<&str>) {
        if let Some(old) = self.shown.remove(id)
            && let Some(all) = self.showing.get_mut(&old)
        {
            all.remove(id);
            if all.is_empty() {
                self.showing.remove(&old);
            }
        }
        if let Some(certificate) = certificate.map(Arc::<str>::from) {
            self.showing.entry(certificate.clone()).or_default().insert(id.clone());
            self.shown.insert(id.clone(), certificate);
        }
    }

    pub(super) fn compile_service_upstream(&mut self, id: &Arc<str>, service: &sluice_model::Service, work: &mut Work) {
        let previous = self.service_upstreams.remove(id);
        let Some(typed) = &service.upstream else {
            previous.iter().for_each(|upstream| self.end_checks(upstream));
            return;
        };
        if let Some(message) = missing_certificate(typed, &self.ssls) {
            previous.iter().for_each(|upstream| self.end_checks(upstream));
            work.problem(Kind::Service, id, "/upstream/tls/client_cert_id", message);
            return;
        }
        match self.compile_inline(&format!("services/{id}"), typed, previous.as_deref(), work) {
            Ok(upstream) => {
                self.service_upstreams.insert(id.clone(), upstream);
            }
            Err(message) => work.problem(Kind::Service, id, "/upstream", message),
        }
    }

    /// The upstream is gone: its nodes are not probed any more, although requests may still be under way to them.
    pub(super) fn end_checks(&self, upstream: &Upstream) {
        if upstream.health.is_some() {
            self.states.no_checker(&upstream.key);
        }
    }

    /// An upstream that stands in a route or service.
    pub(super) fn compile_inline(
        &self,
        key: &str,
        typed: &model::Upstream,
        previous: Option<&Upstream>,
        work: &mut Work,
    ) -> Result<Arc<Upstream>, String> {
        if let Some(message) = undiscovered(typed, &self.settings)
            && let Some((dir, id)) = key.split_once('/')
            && let Some(kind) = Kind::from_dir(dir)
        {
            work.problem(kind, &id.into(), "/upstream/discovery_type", message);
        }
        let upstream = compile(key, typed, &self.parts(), previous)?;
        if upstream.nodes.moves() {
            work.unresolved.push(upstream.nodes.clone());
        }
        Ok(Arc::new(upstream))
    }
}
