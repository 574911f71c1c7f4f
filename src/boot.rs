//! Wiring: the one file that names every part of the gateway and hands it its inputs.
use crate::certificates::Certificates;
use crate::configuration::{self, Configuration};
use crate::resolve::NodeResolver;
use crate::signals::Signals;
use crate::stapling::Stapler;
use crate::{admin_server, control_server};
use anyhow::Context as _;
use sluice_config::check::standalone_path;
use sluice_config::environment::Environment;
use sluice_config::problem::ConfigError;
use sluice_config::settings::Settings;
use sluice_config::settings::deployment::{ConfigProvider, Role};
use sluice_config::standalone::{StandaloneSource, Update};
use sluice_config::watch::{Change, POLL_INTERVAL, Watcher};
use sluice_config::{CompileSettings, Compiler};
use sluice_discovery::Registries;
use sluice_engine_cache::Zones;
use sluice_net::dns::{DnsSettings, Resolver};
use sluice_net::tls::{Protocols, ServerTls};
use sluice_net::{Address, BoundListener, Drain, ListenConfig, WorkerSettings, Workers, timer};
use sluice_plugin::record::Explained;
use sluice_plugin::{Clock, Env, HttpOptions, Registry};
use sluice_plugins_observe::prometheus::{self, ExportServer};
use sluice_plugins_serverless::LuaScripts;
use sluice_proxy::settings::Http2Settings;
use sluice_proxy::{AccessLogSink, Figures, ProxySettings, StreamFigures, Worker};
use sluice_router::Mode;
use sluice_secret::{Keyring, SecretStore, StoreSettings};
use sluice_store::{Store, Watch};
use sluice_telemetry::access_log::{AccessLogOptions, AccessLogTarget};
use sluice_telemetry::operator_log;
use sluice_telemetry::{AccessLog, AccessLogFormat, Escape, LogQueues, OperatorLog};
use sluice_upstream::Resolve;
use sluice_upstream::pool::PoolSettings;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The APISIX whose configuration and answers are followed.
pub const APISIX_VERSION: &str = "3.18.0";

/// config.yaml where none is named. It need not be there: then the defaults that are built in hold.
pub const DEFAULT_CONFIG: &str = "conf/config.yaml";

/// Where config.yaml is: as given, else conf/config.yaml.
pub fn config_path(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let named = given.is_some();
    let path = given.unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG));
    anyhow::ensure!(
        path.exists() || !named,
        "no configuration: {} does not exist (give one with -c FILE)",
        path.display()
    );
    Ok(path)
}

/// The settings of a file, or those that are built in.
pub fn settings(config: &Path) -> Result<Settings, Vec<ConfigError>> {
    if config == Path::new(DEFAULT_CONFIG) && !config.exists() {
        return Ok(Settings::defaults(&Environment::Process));
    }
    Settings::load(config, &Environment::Process)
}

/// All plugins of the binary.
pub fn registry() -> anyhow::Result<Registry> {
    Ok(Registry::new(crate::plugins::FAMILIES)?.with_stream(crate::plugins::STREAM_FAMILIES)?)
}

/// What plugins and upstreams get of the running process; nothing of it for a command that only looks.
#[derive(Default)]
pub struct Services {
    pub control: Option<tokio::runtime::Handle>,
    pub metrics: sluice_telemetry::Registry,
    pub resolver: Option<Arc<dyn Resolve>>,
    /// The registries of `discovery`; made here, and never asked, where they are not given.
    pub discovery: Option<Arc<Registries>>,
    pub prefix: PathBuf,
    pub logs: Arc<LogQueues>,
    pub explained: Arc<Explained>,
    /// Where `proxy-cache` keeps answers; only declared where they are not given.
    pub zones: Option<Arc<Zones>>,
}

/// The registries of `discovery`; without `control` they are never asked.
fn registries(
    settings: &Settings,
    control: Option<tokio::runtime::Handle>,
    prefix: &Path,
) -> anyhow::Result<Arc<Registries>> {
    let registries = Registries::start(&sluice_discovery::Settings {
        registries: settings.discovery.registries.clone(),
        control,
        ipv6: settings.apisix.enable_ipv6,
        trusted_certificates: trusted_certificates(settings)?,
        prefix: prefix.to_owned(),
    })?;
    Ok(Arc::new(registries))
}

/// `apisix.ssl.ssl_trusted_certificate`, PEM; `None`: the system's.
pub fn trusted_certificates(settings: &Settings) -> anyhow::Result<Option<String>> {
    let path = settings.apisix.ssl.ssl_trusted_certificate.as_deref().filter(|path| *path != "system");
    path.map(std::fs::read_to_string).transpose().context("apisix.ssl.ssl_trusted_certificate cannot be read")
}

/// A compiler for these settings.
pub fn compiler(settings: &Settings, services: Services) -> anyhow::Result<Compiler> {
    let mut registry = registry()?;
    if let Some(names) = &settings.plugins.plugins {
        registry = registry.enable_only(names);
    }
    if let Some(names) = &settings.plugins.stream_plugins {
        registry = registry.enable_only_stream(names);
    }
    let registry = Arc::new(registry);
    let mut env = Env::new(Clock::default(), services.metrics)
        .with_attributes(serde_json::Value::Object(settings.plugins.plugin_attr.clone()))
        .with_https_ports(settings.apisix.ssl.listen.iter().map(|l| l.address.port()).collect::<Vec<_>>())
        .with_real_ip_header(&settings.nginx.http.real_ip_header)
        .with_registry(registry.clone())
        .with_logs(services.logs)
        .with_explained(services.explained)
        .with_part(Arc::<sluice_engine_grpc::Library>::default());
    env = match services.zones {
        Some(zones) => env.with_part(zones),
        None => env.with_part(Arc::new(crate::cache::declared(settings)?)),
    };
    env.prefix = services.prefix.into();
    if let Some(resolver) = &services.resolver {
        env = env.with_resolver(resolver.clone());
    }
    if let Some(control) = services.control {
        env = env.with_control(control);
    }
    let http = &settings.nginx.http;
    let trusted_certificates = trusted_certificates(settings)?;
    env.trusted_certificates = trusted_certificates.as_deref().map(Into::into);
    let scripts = Arc::new(LuaScripts::new(&env, lua_limits(settings)));
    env = env.with_scripts(scripts);
    let discovery = match services.discovery {
        Some(registries) => registries,
        None => registries(settings, None, Path::new("."))?,
    };
    let is_configured = !settings.discovery.registries.is_empty();
    let compile = CompileSettings {
        mode: router_mode(settings),
        rules: Arc::new(sluice_config::rules::read(settings)),
        pool: PoolSettings {
            size: http.upstream.keepalive as usize,
            idle_timeout: http.upstream.keepalive_timeout,
            requests: http.upstream.keepalive_requests,
        },
        workers: worker_count(settings) as u16,
        trusted_certificates,
        protocols: Protocols { tls12: settings.apisix.ssl.tls12, tls13: settings.apisix.ssl.tls13 },
        resolver: services.resolver,
        discovery: is_configured.then_some(discovery as Arc<dyn sluice_upstream::Discover>),
        health_checks: !settings.apisix.disable_upstream_healthcheck,
        skip_disabled_plugins: settings.deployment.config_provider == ConfigProvider::Etcd,
        health_probes: settings.sluice.limits.health_probes as usize,
        zone: settings.sluice.zone.clone().or_else(|| std::env::var("SLUICE_ZONE").ok()).map(Into::into),
    };
    let secrets = SecretStore::new(StoreSettings {
        ttl: settings.apisix.lru_secret.ttl,
        neg_ttl: settings.apisix.lru_secret.neg_ttl,
        trusted_certificates: compile.trusted_certificates.clone(),
        ..StoreSettings::default()
    });
    if let Some(control) = &env.control {
        secrets.start(control);
    }
    Ok(Compiler::new(registry, env, compile).with_secrets(secrets).with_keyring(Arc::new(keyring(settings))))
}

/// The keys for what is encrypted at rest. Plugin fields are encrypted in stores, never in files (apisix/plugin.lua
/// `enable_gde`).
pub fn keyring(settings: &Settings) -> Keyring {
    let encryption = &settings.apisix.data_encryption;
    let stored = settings.deployment.config_provider == ConfigProvider::Etcd;
    Keyring::new(&encryption.keyring, encryption.enable_encrypt_fields && stored)
}

fn lua_limits(settings: &Settings) -> sluice_engine_lua::Limits {
    let lua = &settings.sluice.lua;
    sluice_engine_lua::Limits {
        instructions: lua.instruction_limit,
        memory: lua.memory_limit as usize,
        dictionary: lua.shared_dict_limit as usize,
        environment: lua.environment,
    }
}

fn router_mode(settings: &Settings) -> Mode {
    use sluice_config::settings::apisix::HttpRouter;
    match settings.apisix.router.http {
        HttpRouter::RadixtreeUri => Mode::Uri,
        HttpRouter::RadixtreeHostUri => Mode::HostUri,
        HttpRouter::RadixtreeUriWithParameter => Mode::UriWithParameter,
        HttpRouter::Priority => Mode::Priority,
    }
}

fn worker_count(settings: &Settings) -> usize {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    settings.nginx.worker_processes.unwrap_or(all).clamp(1, 1024)
}

fn proxy_settings(settings: &Settings) -> ProxySettings {
    let (apisix, http, limits) = (&settings.apisix, &settings.nginx.http, &settings.sluice.limits);
    let server = if apisix.enable_server_tokens { format!("APISIX/{APISIX_VERSION}") } else { "APISIX".to_string() };
    ProxySettings {
        limits: sluice_http::h1::Limits {
            request_line: limits.request_line_bytes as usize,
            head: limits.header_bytes as usize,
            fields: limits.header_count as usize,
        },
        response_head: limits.response_header_bytes as usize,
        max_body_size: http.client_max_body_size.unwrap_or(0),
        header_timeout: http.client_header_timeout,
        body_timeout: http.client_body_timeout,
        keepalive_timeout: http.keepalive_timeout,
        send_timeout: http.send_timeout,
        keepalive_requests: limits.requests_per_connection,
        server: Some(server.into()),
        trusted_addresses: apisix.trusted_addresses.clone(),
        show_upstream_status: apisix.show_upstream_status_in_response_header,
        preread_bytes: limits.stream_preread_bytes as usize,
        preread_timeout: limits.stream_preread_timeout,
        http2: http2_settings(&settings.sluice.http2),
        ..ProxySettings::default()
    }
}

fn http2_settings(http2: &sluice_config::settings::http2::Http2) -> Http2Settings {
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    Http2Settings {
        streams: small(http2.max_concurrent_streams),
        window: small(http2.stream_window),
        connection_window: small(http2.connection_window),
        send_buffer: http2.send_buffer as usize,
        pending_resets: http2.max_pending_resets as usize,
        local_resets: http2.max_local_resets as usize,
        control_frames: small(http2.max_control_frames),
        upstream_streams: http2.upstream_initial_streams as usize,
        upstream_connections: http2.upstream_connections as usize,
    }
}

/// Runs the gateway until a signal ends it.
pub fn run(config: &Path, data_dir: &Path) -> anyhow::Result<()> {
    let settings = match settings(config) {
        Ok(settings) => settings,
        Err(errors) => {
            errors.iter().for_each(|e| eprintln!("error: {e}"));
            anyhow::bail!("{} cannot be used", config.display());
        }
    };
    let log = open_operator_log(&settings, &prefix(config))?;
    settings.notices.iter().for_each(|n| tracing::warn!(always = true, "{n}"));
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("sluice-control")
        .enable_all()
        .build()?;
    let gateway = Gateway::prepare(&settings, config, data_dir, control.handle().clone())?;
    // Before the first request is answered, so that a signal sent then never finds the default handler, which kills.
    let signals = {
        let _runtime = control.enter();
        crate::debug_mode::follow(config, &gateway.settings.debug);
        Signals::listen()?
    };
    {
        let _runtime = control.enter();
        gateway.start_control(&settings, config)?;
    }
    // The first configuration is in force before the first connection is accepted.
    let changes = control.block_on(gateway.load());
    let workers = gateway.start_workers()?;
    let result = control.block_on(gateway.supervise(&settings, config, &log, signals, changes));
    workers.join()?;
    if let Some(access_log) = &gateway.access_log {
        access_log.sync(Duration::from_secs(5));
    }
    control.shutdown_timeout(Duration::from_secs(5));
    result
}

/// The directory that relative paths of the configuration start from: the one above `conf`, as in APISIX.
fn prefix(config: &Path) -> PathBuf {
    let folder = config.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.file_name().is_some_and(|name| name == "conf") {
        folder.parent().unwrap_or(folder).to_path_buf()
    } else {
        folder.to_path_buf()
    }
}

/// A relative log file stands below the prefix; its folder is made.
fn log_target(text: &str, prefix: &Path) -> anyhow::Result<AccessLogTarget> {
    Ok(match AccessLogTarget::parse(text) {
        AccessLogTarget::File(path) => {
            let path = prefix.join(path);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            }
            AccessLogTarget::File(path)
        }
        other => other,
    })
}

fn open_operator_log(settings: &Settings, prefix: &Path) -> anyhow::Result<OperatorLog> {
    let level = operator_log::level(&settings.nginx.error_log_level).unwrap_or(tracing::Level::WARN);
    /// Lines of a kind per second before they are only counted.
    const BURST: u32 = 10;
    let log = match settings.nginx.error_log.as_str() {
        "/dev/stderr" | "stderr" | "logs/error.log" | "" => OperatorLog::stderr(level, BURST),
        path => match log_target(path, prefix)? {
            AccessLogTarget::File(file) => OperatorLog::file(&file, level, BURST)
                .with_context(|| format!("nginx_config.error_log: {}", file.display()))?,
            _ => OperatorLog::stderr(level, BURST),
        },
    };
    operator_log::install(&log)?;
    Ok(log)
}

/// What a listener's connections are.
#[derive(Clone)]
enum Serves {
    Http,
    /// Stream routes; `announce`: nodes get a PROXY protocol header.
    Stream {
        announce: bool,
        figures: Arc<StreamFigures>,
    },
}

/// Binds every listener of the configuration, for each worker its own.
fn bind(settings: &Settings, prefix: &Path, workers: usize) -> anyhow::Result<Vec<Vec<(BoundListener, Serves)>>> {
    let apisix = &settings.apisix;
    let mut configs = Vec::new();
    // Plain HTTP comes last: who sees its port open may count on the others.
    for listen in &apisix.stream_listen {
        let mut config = ListenConfig::new(listen.address);
        config.tls = listen.tls;
        config.proxy_protocol = listen.proxy_protocol;
        let figures = Arc::new(StreamFigures::new(&listen.address.to_string())?);
        configs.push((config, Serves::Stream { announce: listen.proxy_protocol_to_upstream, figures }));
    }
    for listen in settings.sluice.listen_unix.iter().filter(|_| apisix.proxy_mode.http) {
        let mut config = ListenConfig::new(Address::unix(prefix.join(&listen.path)));
        config.mode = listen.mode;
        config.proxy_protocol = listen.proxy_protocol;
        config.http2 = apisix.enable_http2;
        configs.push((config, Serves::Http));
    }
    let encrypted = apisix.ssl.listen.iter().filter(|_| apisix.ssl.enable);
    for listen in encrypted.chain(&apisix.node_listen).filter(|_| apisix.proxy_mode.http) {
        let mut config = ListenConfig::new(listen.address);
        config.tls = listen.tls;
        config.proxy_protocol = listen.proxy_protocol;
        config.http2 = listen.http2;
        config.backlog = listen.backlog.unwrap_or(config.backlog);
        configs.push((config, Serves::Http));
    }
    let mut listeners: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    for (mut config, serves) in configs {
        config.reuseport = apisix.enable_reuseport;
        for (worker, bound) in listeners.iter_mut().zip(BoundListener::bind(&config, workers)?) {
            worker.push((bound, serves.clone()));
        }
    }
    Ok(listeners)
}

/// The running parts.
struct Gateway {
    settings: Arc<ProxySettings>,
    configuration: Arc<Configuration>,
    tls: Arc<ServerTls>,
    drain: Drain,
    figures: Figures,
    access_log: Option<AccessLog>,
    format: Arc<AccessLogFormat>,
    listeners: std::sync::Mutex<Vec<Vec<(BoundListener, Serves)>>>,
    control: std::sync::Mutex<Option<control_server::Bound>>,
    worker_settings: WorkerSettings,
    workers: usize,
    metrics: sluice_telemetry::Registry,
    logs: Arc<LogQueues>,
    /// One per listener of stream routes.
    streams: Vec<Arc<StreamFigures>>,
    resolver: Option<Arc<Resolver>>,
    /// Records of explained requests.
    explained: Arc<Explained>,
    /// What health checks have found.
    states: Arc<sluice_upstream::NodeStates>,
    /// The registries of `discovery`.
    registries: Arc<Registries>,
    zones: Arc<Zones>,
    source: Source,
    data_dir: PathBuf,
}

/// Where the configuration comes from.
enum Source {
    /// apisix.yaml or apisix.json.
    File(Arc<StandaloneSource>),
    Store(Arc<dyn Store>),
}

impl Gateway {
    fn prepare(
        settings: &Settings,
        config: &Path,
        data_dir: &Path,
        control: tokio::runtime::Handle,
    ) -> anyhow::Result<Gateway> {
        let metrics = sluice_telemetry::Registry::new();
        sluice_telemetry::process::register(&metrics)?;
        let logs = Arc::new(LogQueues::new(settings.sluice.limits.log_pending_bytes));
        logs.report(&metrics)?;
        let explained = Arc::<Explained>::default();
        let dns = DnsSettings {
            servers: settings.apisix.dns_resolver.clone(),
            timeout: settings.apisix.resolver_timeout,
            valid: settings.apisix.dns_resolver_valid,
            ..DnsSettings::default()
        };
        let names = match Resolver::new(&dns, control.clone()) {
            Ok(resolver) => Some(Arc::new(resolver)),
            Err(error) => {
                tracing::error!(%error, "no DNS: upstream nodes with names cannot be used");
                None
            }
        };
        let resolver = names.clone().map(|names| Arc::new(NodeResolver(names)) as Arc<dyn Resolve>);
        let prefix = prefix(config);
        let source = match standalone_path(config, settings) {
            Some(path) => Source::File(Arc::new(StandaloneSource::new(&path, Environment::Process))),
            None => Source::Store(crate::stores::open(settings, data_dir, &prefix, &control)?),
        };
        let registries = registries(settings, Some(control.clone()), &prefix)?;
        crate::figures::register_discovery(&metrics, &registries)?;
        let zones = Arc::new(crate::cache::open(settings, &prefix, &control)?);
        crate::cache::register(&metrics, &zones)?;
        let control_threads = control.clone();
        let services = Services {
            control: Some(control),
            discovery: Some(registries.clone()),
            metrics: metrics.clone(),
            resolver: resolver.clone(),
            prefix: prefix.clone(),
            logs: logs.clone(),
            explained: explained.clone(),
            zones: Some(zones.clone()),
        };
        let compiler = compiler(settings, services)?;
        let states = compiler.states().clone();
        let tls = Arc::new(crate::listen::server_tls(&settings.apisix.ssl)?);
        let stapler = Stapler::new(tls.clone(), compiler.http_client(&HttpOptions::default()), control_threads);
        let workers = worker_count(settings);
        let control_ports = control_server::bind(settings)?;
        let listeners = bind(settings, &prefix, workers)?;
        let streams = listeners.first().into_iter().flatten().filter_map(|(_, serves)| match serves {
            Serves::Stream { figures, .. } => Some(figures.clone()),
            Serves::Http => None,
        });
        let streams = streams.collect();
        let http = &settings.nginx.http;
        let access_log = match log_target(&http.access_log, &prefix)? {
            AccessLogTarget::Off => None,
            target if http.enable_access_log => {
                let options =
                    AccessLogOptions { buffer: http.access_log_buffer as usize, ..AccessLogOptions::default() };
                Some(
                    AccessLog::open(target, options)
                        .with_context(|| format!("nginx_config.http.access_log: {}", http.access_log))?,
                )
            }
            _ => None,
        };
        let escape = match http.access_log_format_escape {
            sluice_config::settings::http::Escape::Default => Escape::Default,
            sluice_config::settings::http::Escape::Json => Escape::Json,
            sluice_config::settings::http::Escape::None => Escape::None,
        };
        let proxy = proxy_settings(settings);
        if settings.apisix.tracing {
            proxy.debug.time();
        }
        Ok(Gateway {
            settings: Arc::new(proxy),
            configuration: Arc::new(Configuration::new(
                compiler,
                Certificates::new(tls.clone(), Some(stapler)),
                resolver,
                configuration::enabled(&settings.plugins),
            )),
            tls,
            drain: Drain::new(),
            figures: Figures::register(&metrics)?,
            access_log,
            format: Arc::new(AccessLogFormat::compile(&http.access_log_format, escape)),
            listeners: std::sync::Mutex::new(listeners),
            control: std::sync::Mutex::new(Some(control_ports)),
            worker_settings: WorkerSettings {
                pin: settings.sluice.workers_pinned,
                wakeup_batching: (!settings.sluice.wakeup_batching.is_zero())
                    .then_some(settings.sluice.wakeup_batching),
                event_interval: None,
            },
            workers,
            metrics,
            logs,
            streams,
            resolver: names,
            explained,
            states,
            registries,
            zones,
            source,
            data_dir: data_dir.to_owned(),
        })
    }

    fn start_workers(&self) -> anyhow::Result<Workers> {
        let mut listeners =
            std::mem::take(&mut *self.listeners.lock().unwrap_or_else(std::sync::PoisonError::into_inner)).into_iter();
        let workers = Workers::spawn(self.workers, &self.worker_settings, |id| {
            let bound = listeners.next().unwrap_or_default();
            let (settings, published, drain, tls) =
                (self.settings.clone(), self.configuration.published(), self.drain.clone(), self.tls.clone());
            let (log, format, count) = (self.access_log.clone(), self.format.clone(), self.workers as u16);
            let figures = self.figures.clone();
            move || async move {
                let _shard = sluice_telemetry::register_worker();
                let sink = log.map(|log| AccessLogSink { format, writer: log.writer() });
                let worker =
                    Rc::new(Worker::new(id.0 as u16, count, settings, published, drain.clone(), sink, figures));
                let mut accepting = Vec::new();
                for (bound, serves) in bound {
                    let (worker, tls, drain) = (worker.clone(), tls.clone(), drain.clone());
                    match bound.listen() {
                        Ok(listener) => accepting.push(tokio::task::spawn_local(async move {
                            match serves {
                                Serves::Http => crate::listen::accept(listener, worker, tls, drain).await,
                                Serves::Stream { announce, figures } => {
                                    crate::listen::accept_stream(listener, worker, tls, drain, announce, figures).await;
                                }
                            }
                        })),
                        Err(error) => tracing::error!(%error, "a listener could not be started"),
                    }
                }
                let ticking = worker.clone();
                let tick = tokio::task::spawn_local(async move {
                    loop {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        ticking.tick();
                    }
                });
                for accept in accepting {
                    let _ = accept.await;
                }
                timer::wake_all();
                // The supervisor forces the drain when its time is over.
                while drain.open() > 0 && !drain.is_forced() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                if drain.is_forced() {
                    // WebSockets are told, and have a moment to answer (`tunnel.rs`); all else ends when it is woken.
                    let until = tokio::time::Instant::now() + Duration::from_millis(1500);
                    timer::wake_all();
                    while drain.open() > 0 && tokio::time::Instant::now() < until {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                tick.abort();
            }
        })?;
        Ok(workers)
    }

    /// Puts the first configuration into force. Of a store it returns the changes that follow.
    async fn load(&self) -> Option<mpsc::Receiver<Watch>> {
        match &self.source {
            Source::File(source) => {
                match source.load() {
                    Ok(update) => self.configuration.update(source, update, true).await,
                    Err(errors) => {
                        errors.iter().for_each(|error| tracing::error!(always = true, "{error}"));
                        self.configuration.source_is_unreadable();
                    }
                }
                None
            }
            Source::Store(store) => Some(self.configuration.start(store.as_ref()).await),
        }
    }

    /// The ports for operators, before there is a configuration: the status API says so.
    fn start_control(&self, settings: &Settings, config: &Path) -> anyhow::Result<()> {
        let bound = self.control.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take().unwrap_or_default();
        let seen = control_server::Seen {
            debug: self.settings.debug.clone(),
            explained: self.explained.clone(),
            workers: u16::try_from(self.workers).unwrap_or(u16::MAX),
        };
        let (store, registries) = (self.store(), &self.registries);
        control_server::start(bound, settings, config.to_owned(), &self.configuration, store, registries, seen)
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        match &self.source {
            Source::File(_) => None,
            Source::Store(store) => Some(store.clone()),
        }
    }

    async fn start_admin(&self, settings: &Settings, config: &Path, store: &Arc<dyn Store>) -> anyhow::Result<()> {
        if !settings.apisix.enable_admin || settings.deployment.role == Role::DataPlane {
            return Ok(());
        }
        admin_server::reset_plugin_list(store.as_ref(), &configuration::enabled(&settings.plugins)).await;
        let keys = crate::admin_key::keys(&settings.deployment.admin, &self.data_dir)?;
        let zones = self.zones.clone();
        admin_server::start(settings, config.to_owned(), self.configuration.clone(), store.clone(), keys, zones).await
    }

    /// Registers the node's own metrics; says where they are to be served, if anywhere.
    fn export_server(&self, settings: &Settings) -> anyhow::Result<Option<ExportServer>> {
        if !settings.plugins.is_enabled("prometheus") {
            return Ok(None);
        }
        let attributes = serde_json::Value::Object(settings.plugins.plugin_attr.clone());
        let env =
            Env::new(Clock::default(), self.metrics.clone()).with_attributes(attributes).with_logs(self.logs.clone());
        let node = crate::figures::Node {
            drain: self.drain.clone(),
            figures: self.figures.clone(),
            states: self.states.clone(),
            store: self.store(),
            streams: self.streams.clone(),
        };
        prometheus::register_node(&env, Arc::new(node))?;
        crate::figures::own::register(
            &self.metrics,
            &Arc::new(crate::figures::own::Sources {
                drain: self.drain.clone(),
                figures: self.figures.clone(),
                states: self.states.clone(),
                configuration: self.configuration.clone(),
                store: self.store(),
                access_log: self.access_log.clone(),
                resolver: self.resolver.clone(),
                workers: self.workers,
                expiries: Default::default(),
            }),
        )?;
        Ok(ExportServer::read(env.attribute("prometheus"))?)
    }

    /// The control side: reloads, signals, shutdown.
    async fn supervise(
        &self,
        settings: &Settings,
        config: &Path,
        log: &OperatorLog,
        signals: Signals,
        changes: Option<mpsc::Receiver<Watch>>,
    ) -> anyhow::Result<()> {
        if let Some(server) = self.export_server(settings)? {
            crate::metrics_server::start(server, self.metrics.clone()).await?;
        }
        let told = log.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                told.tell_suppressed();
            }
        });
        let followed = self.configuration.clone();
        tokio::spawn(async move { followed.follow_secrets().await });
        let mut watch = None;
        match &self.source {
            Source::File(source) => {
                let (path, source) = (source.path().to_owned(), source.clone());
                watch = Some(Watcher::start(path, POLL_INTERVAL, move |_| source.load()));
            }
            Source::Store(store) => {
                let (configuration, followed) = (self.configuration.clone(), store.clone());
                if let Some(changes) = changes {
                    tokio::spawn(async move { configuration.follow(followed, changes).await });
                }
                self.start_admin(settings, config, store).await?;
                if !config.exists() {
                    tokio::spawn(crate::demo::serve());
                    greet(settings, &self.data_dir);
                }
            }
        }
        let Signals { mut term, mut quit, mut int, mut hup, mut usr1 } = signals;
        loop {
            tokio::select! {
                change = next(&mut watch) => match change {
                    Some(Change::Loaded(update)) => {
                        if let Source::File(source) = &self.source {
                            self.configuration.update(source, update, false).await;
                        }
                    }
                    Some(Change::Broken(errors)) => {
                        self.configuration.source_is_unreadable();
                        errors.iter().for_each(|e| tracing::error!(always = true, "{e}"));
                        tracing::error!("the running configuration stays in force");
                    }
                    None => watch = None,
                },
                _ = hup.recv() => {
                    tracing::info!("reading the configuration again");
                    if let Some((watcher, _)) = &watch {
                        watcher.trigger();
                    }
                }
                _ = usr1.recv() => {
                    if let Some(access_log) = &self.access_log {
                        access_log.reopen();
                    }
                    if let Err(error) = log.reopen() {
                        tracing::error!(%error, "the error log cannot be reopened");
                    }
                }
                _ = term.recv() => break,
                _ = quit.recv() => break,
                _ = int.recv() => break,
            }
        }
        tracing::info!(connections = self.drain.open(), "finishing running requests");
        self.drain.start_drain();
        let (begun, limit) = (std::time::Instant::now(), settings.nginx.worker_shutdown_timeout);
        if !self.drain.wait_idle(limit).await {
            tracing::warn!("requests were cut: worker_shutdown_timeout is over");
        }
        let left = self.logs.shutdown(limit.saturating_sub(begun.elapsed())).await;
        if left > 0 {
            tracing::warn!("{left} log entries were not delivered: worker_shutdown_timeout is over");
        }
        log.tell_all_suppressed();
        Ok(())
    }
}

async fn next(watch: &mut Option<(Watcher, tokio::sync::mpsc::Receiver<Change<Update>>)>) -> Option<Change<Update>> {
    match watch {
        Some((_, changes)) => changes.recv().await,
        None => std::future::pending().await,
    }
}

/// What a first user sees, who has no configuration yet: how to make a route to the demo backend.
fn greet(settings: &Settings, data_dir: &Path) {
    let port = settings.apisix.node_listen.first().map_or(9080, |listen| listen.address.port());
    let admin = settings.deployment.admin.listen.port();
    let key = data_dir.join(crate::admin_key::FILE);
    println!(
        "No {DEFAULT_CONFIG}: the built-in defaults hold. What the Admin API stores is kept in {}.",
        data_dir.display()
    );
    println!(
        "Try:  curl -X PUT http://127.0.0.1:{admin}/apisix/admin/routes/1 -H \"X-API-KEY: $(cat {})\" \\",
        key.display()
    );
    println!(
        "        -d '{{\"uri\": \"/*\", \"upstream\": {{\"type\": \"roundrobin\", \"nodes\": {{\"{}\": 1}}}}}}'",
        crate::demo::ADDRESS
    );
    println!("      curl -i http://127.0.0.1:{port}/hello");
}
