//! Opening a connection: to a server, to a cluster, or to the server that a sentinel names. Log-in and choice of the database
//! are commands of our own, so that the server's words reach the log (apisix/utils/redis.lua).
use crate::error::RedisError;
use crate::reply::Reply;
use crate::settings::{Role, Servers, Settings, Tls};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo,
    RedisResult, TlsCertificates, Value,
};
use std::time::Duration;

/// An open connection; clones share it.
#[derive(Clone)]
pub enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    pub async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Connection::Single(connection) => ask(connection, command).await,
            Connection::Cluster(connection) => {
                connection.req_packed_command(command).await.and_then(Value::extract_error)
            }
        }
    }

    pub async fn open(settings: &Settings) -> Result<Connection, RedisError> {
        match tokio::time::timeout(settings.connect_timeout, open(settings)).await {
            Ok(result) => result,
            Err(_) => Err(RedisError::away("timeout")),
        }
    }
}

async fn open(settings: &Settings) -> Result<Connection, RedisError> {
    // The library takes the process's default where the gateway has set none.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match &settings.servers {
        Servers::Single { host, port } => Ok(Connection::Single(server(host, *port, settings).await?)),
        Servers::Cluster(nodes) => Ok(Connection::Cluster(cluster(nodes, settings)?.get_async_connection().await?)),
        Servers::Sentinel { sentinels, .. } => {
            let mut last = RedisError::away("no hosts available");
            for (host, port) in sentinels {
                match by_sentinel(host, *port, settings).await {
                    Ok(connection) => return Ok(Connection::Single(connection)),
                    Err(e) => last = e,
                }
            }
            Err(RedisError::away(format!("redis connection failed, err: {last}")))
        }
    }
}

fn address(host: &str, port: u16, tls: Option<&Tls>) -> ConnectionAddr {
    let host = host.to_string();
    match tls {
        None => ConnectionAddr::Tcp(host, port),
        Some(tls) => ConnectionAddr::TcpTls { host, port, insecure: !tls.verify, tls_params: None },
    }
}

fn certificates(tls: &Tls) -> Option<TlsCertificates> {
    let root_cert = tls.trusted.as_ref().filter(|_| tls.verify)?;
    Some(TlsCertificates { client_tls: None, root_cert: Some(root_cert.as_bytes().to_vec()) })
}

fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// A connection without log-in.
async fn connect(host: &str, port: u16, settings: &Settings, tls: Option<&Tls>) -> RedisResult<MultiplexedConnection> {
    let plain = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
    let info = address(host, port, tls).into_connection_info()?.set_redis_settings(plain).set_tcp_settings(tcp());
    let client = match tls.and_then(certificates) {
        Some(certificates) => Client::build_with_tls(info, certificates)?,
        None => Client::open(info)?,
    };
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.connect_timeout))
        .set_response_timeout(Some(settings.read_timeout));
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// An answer that is an error comes as a value from the library.
async fn ask(connection: &mut MultiplexedConnection, command: &Cmd) -> RedisResult<Value> {
    connection.send_packed_command(command).await.and_then(Value::extract_error)
}

async fn log_in(
    connection: &mut MultiplexedConnection,
    username: Option<&str>,
    password: Option<&str>,
) -> RedisResult<()> {
    let Some(password) = password.filter(|p| !p.is_empty()) else { return Ok(()) };
    let mut command = redis::cmd("AUTH");
    command.arg(username).arg(password);
    ask(connection, &command).await.map(drop)
}

async fn server(host: &str, port: u16, settings: &Settings) -> Result<MultiplexedConnection, RedisError> {
    let mut connection = connect(host, port, settings, settings.tls.as_ref()).await?;
    log_in(&mut connection, settings.username.as_deref(), settings.password.as_deref()).await?;
    if settings.database != 0 {
        let mut command = redis::cmd("SELECT");
        command.arg(settings.database);
        let selected = ask(&mut connection, &command).await;
        selected.map_err(|e| RedisError::from(e).within("failed to change redis db, err: "))?;
    }
    Ok(connection)
}

/// How long a cluster's own retries may take: a slot that moves is found, a node that is away is not waited for long.
fn overall(settings: &Settings) -> Duration {
    settings.read_timeout * 2
}

fn cluster(nodes: &[(String, u16)], settings: &Settings) -> RedisResult<ClusterClient> {
    let tls = settings.tls.as_ref();
    let nodes = nodes.iter().map(|(host, port)| address(host, *port, tls));
    let mut builder = ClusterClientBuilder::new(nodes)
        .use_protocol(ProtocolVersion::RESP2)
        .tcp_settings(tcp())
        .retries(3)
        .min_retry_wait(20)
        .max_retry_wait(200)
        .connection_timeout(settings.connect_timeout)
        .response_timeout(settings.read_timeout)
        .overall_response_timeout(Some(overall(settings)));
    if let Some(password) = settings.password.as_deref().filter(|p| !p.is_empty()) {
        builder = builder.password(password);
        if let Some(username) = &settings.username {
            builder = builder.username(username);
        }
    }
    if let Some(tls) = tls {
        builder = builder.tls(if tls.verify { redis::TlsMode::Secure } else { redis::TlsMode::Insecure });
        if let Some(certificates) = certificates(tls) {
            builder = builder.certs(certificates);
        }
    }
    builder.build()
}

/// Asks one sentinel for the server, and connects to that.
async fn by_sentinel(host: &str, port: u16, settings: &Settings) -> Result<MultiplexedConnection, RedisError> {
    let Servers::Sentinel { master, role, username, password, .. } = &settings.servers else {
        return Err(RedisError::away("no sentinels"));
    };
    let mut sentinel = connect(host, port, settings, None).await?;
    log_in(&mut sentinel, username.as_deref(), password.as_deref()).await?;
    let question = match role {
        Role::Master => "GET-MASTER-ADDR-BY-NAME",
        Role::Replica => "REPLICAS",
    };
    let mut command = redis::cmd("SENTINEL");
    command.arg(question).arg(master);
    let answer = Reply::from(ask(&mut sentinel, &command).await?);
    let addresses = match role {
        Role::Master => pair(answer.items()).into_iter().collect(),
        Role::Replica => answer.items().iter().filter_map(replica).collect::<Vec<_>>(),
    };
    let mut last = RedisError::away(match role {
        Role::Master => "invalid master name",
        Role::Replica => "no slaves available",
    });
    for (host, port) in addresses {
        match server(&host, port, settings).await {
            Ok(connection) => return Ok(connection),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn text(reply: &Reply) -> Option<String> {
    Some(String::from_utf8_lossy(reply.bytes()?).into_owned())
}

fn pair(items: &[Reply]) -> Option<(String, u16)> {
    let [host, port] = items else { return None };
    Some((text(host)?, port.integer()?.try_into().ok()?))
}

/// The address of a replica that is up, from the names and values that describe it.
fn replica(description: &Reply) -> Option<(String, u16)> {
    let field = |name: &str| {
        let mut fields = description.items().chunks_exact(2);
        fields.find_map(|pair| pair.first().filter(|n| n.bytes() == Some(name.as_bytes())).and(pair.get(1)))
    };
    let flags = text(field("flags")?)?;
    if flags.split(',').any(|flag| matches!(flag, "s_down" | "o_down" | "disconnected")) {
        return None;
    }
    Some((text(field("ip")?)?, field("port")?.integer()?.try_into().ok()?))
}
