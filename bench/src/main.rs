//! CPU per request of Sluice and its peers, side by side in one run. The generator and its upstream poll on core 1, the
//! proxy runs alone on core 0, so that what is counted is the proxy's own work. Start it with `cargo xtask bench`.

mod accounting;
mod callgrind;
mod change;
mod chaos;
mod client;
mod control;
mod crs;
mod engine;
mod h2;
mod handshakes;
mod peers;
mod plugins;
mod ports;
mod runs;
mod setup;
mod sinks;
mod soak;
mod table;
mod upstream;
mod window;
mod wire;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};

/// Measure CPU per request, side by side, medians of alternating runs.
#[derive(Parser)]
#[command(name = "sluice-bench", after_help = "Example: cargo xtask bench --only small,tls --rounds 5")]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// Workloads, comma-separated: small headers body64k post4k tls h2 h2tls grpc handshake handshake-rsa limit auth plugins10 cached routes10k routes100k idle change control
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Peers, comma-separated: nginx sluice prototype haproxy envoy apisix
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Rounds; every peer runs once in each, in random order
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Measured seconds of one run
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Keep-alive connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests per second of the open loop that measures latency; 0 leaves it out
    #[arg(long, default_value_t = 5000.0)]
    rate: f64,
    #[arg(long, value_enum, default_value_t = Output::Text, global = true)]
    output: Output,
    /// The binary under test [default: target/release/sluice]
    #[arg(long, global = true)]
    sluice: Option<PathBuf>,
    /// A folder with openresty/ and apisix/
    #[arg(long)]
    apisix: Option<PathBuf>,
    /// A bare proxy, run as BINARY PORT TLSPORT CERT KEY with its upstream on 127.0.0.1:9000
    #[arg(long)]
    prototype: Option<PathBuf>,
    #[arg(long)]
    envoy: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Action {
    /// Count instructions per request of the plain path with valgrind and record them in bench/callgrind.txt
    Callgrind(callgrind::Args),
    Chaos(chaos::Args),
    Plugins(plugins::Args),
    Soak(soak::Args),
    Crs(crs::Args),
    #[command(hide = true)]
    ChaosBackend(chaos::backend::Args),
}

fn main() -> Result<()> {
    let args = Args::parse();
    let sluice = args.sluice.clone().or_else(beside_us);
    raise_file_limit()?;
    match &args.action {
        Some(Action::Callgrind(options)) => {
            return callgrind::run(options, sluice.context("no sluice binary; build it or name it with --sluice")?);
        }
        Some(Action::Plugins(options)) => {
            let sluice = sluice.context("no sluice binary; build it or name it with --sluice")?;
            return plugins::run(options, args.output, sluice);
        }
        Some(Action::Soak(options)) => {
            return soak::run(options, sluice.context("no sluice binary; build it or name it with --sluice")?);
        }
        Some(Action::Chaos(options)) => return chaos::run(options, args.output, sluice),
        Some(Action::Crs(options)) => return crs::run(options, args.output, sluice),
        Some(Action::ChaosBackend(options)) => return chaos::backend::run(options),
        None => {}
    }
    accounting::pin(1).context("the benchmark needs two cores")?;
    let (site, rsa) = (certificate()?, rsa_certificate()?);
    let wanted = peers::Wanted {
        sluice,
        apisix: args.apisix.clone(),
        prototype: args.prototype.clone(),
        envoy: args.envoy.clone(),
        only: args.peers.clone(),
    };
    let report = runs::all(&args, &wanted, &site, &rsa)?;
    match args.output {
        Output::Text => print!("{}", table::text(&report)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&table::json(&report))?),
    }
    Ok(())
}

/// `sluice` in the folder of this executable: both are built into the same target directory.
fn beside_us() -> Option<PathBuf> {
    let file = std::env::current_exe().ok()?.with_file_name("sluice");
    file.is_file().then_some(file)
}

fn raise_file_limit() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).context("RLIMIT_NOFILE")
}

fn certificate() -> Result<peers::Site> {
    site(rcgen::KeyPair::generate()?)
}

fn rsa_certificate() -> Result<peers::Site> {
    site(rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?)
}

fn site(key: rcgen::KeyPair) -> Result<peers::Site> {
    let cert = rcgen::CertificateParams::new(vec![client::NAME.to_owned()])?.self_signed(&key)?;
    let folder = tempfile::Builder::new().prefix("sluice-bench-").tempdir()?;
    // nginx's worker drops to another user and must still reach its files.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let site = peers::Site { folder, cert: cert.pem(), key: key.serialize_pem() };
    std::fs::write(site.path("cert.pem"), &site.cert)?;
    std::fs::write(site.path("key.pem"), &site.key)?;
    Ok(site)
}
