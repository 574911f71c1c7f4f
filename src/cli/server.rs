//! What the commands that talk to an Admin API have in common: where it is, the key, which objects. The surprise: there is
//! no option for the key itself, since other users of the machine see command lines.
use anyhow::{Context as _, bail, ensure};
use sluice_config::environment::Environment;
use sluice_declarative::plan::{Plan, Rules};
use sluice_declarative::target::Current;
use sluice_declarative::{Client, ClientSettings, Selection, Source};
use sluice_model::Kind;
use sluice_plugin::Registry;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The Admin API to talk to.
#[derive(clap::Args)]
pub struct Server {
    /// Address of the Admin API; SLUICE_SERVER when not given, else http://127.0.0.1:9180.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// File with the Admin API's key; without it the key is taken from SLUICE_ADMIN_KEY.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Trusted certificates (PEM) instead of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Our certificate chain (PEM), where the server asks for one.
    #[arg(long, value_name = "FILE", requires = "cert_key")]
    cert: Option<PathBuf>,
    /// The private key (PEM) of our certificate.
    #[arg(long, value_name = "FILE", requires = "cert")]
    cert_key: Option<PathBuf>,
    /// Do not check the server's certificate.
    #[arg(long)]
    insecure: bool,
    /// Longest time of one request, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

/// Which objects.
#[derive(clap::Args)]
pub struct Select {
    /// Only objects with this label; several times: with all of them.
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Only these kinds, such as `routes,services`.
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kind)]
    include: Vec<Kind>,
    /// All kinds but these.
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kind)]
    exclude: Vec<Kind>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn kind(text: &str) -> Result<Kind, String> {
    let named = Kind::ALL.into_iter().find(|kind| kind.dir() == text || kind.name().replace(' ', "_") == text);
    named.ok_or_else(|| format!("expected one of {}", Kind::ALL.map(Kind::dir).join(", ")))
}

impl Select {
    pub fn selection(&self) -> Selection {
        Selection { labels: self.label.clone(), include: self.include.clone(), exclude: self.exclude.clone() }
    }
}

impl Server {
    pub fn client(&self) -> anyhow::Result<Client> {
        let read = |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let key = match &self.key_file {
            Some(path) => Some(read(path)?.trim().to_owned()),
            None => environment("SLUICE_ADMIN_KEY"),
        };
        let client_cert = match (&self.cert, &self.cert_key) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            _ => None,
        };
        let defaults = ClientSettings::default();
        Ok(Client::new(&ClientSettings {
            server: self.server.clone().or_else(|| environment("SLUICE_SERVER")).unwrap_or(defaults.server),
            key,
            ca_pem: self.ca.as_deref().map(read).transpose()?,
            client_cert,
            verify: !self.insecure,
            timeout: Duration::from_secs(self.timeout),
            answer_bytes: defaults.answer_bytes,
        })?)
    }
}

/// Runs what talks to a server.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// What a server has of a selection.
pub async fn read_server(client: &Client, selection: &Selection) -> anyhow::Result<Current> {
    let progress = Progress::new();
    let current = sluice_declarative::target::read(client, selection, |kind| progress.show(&format!("reading {kind}")));
    let current = current.await;
    progress.clear();
    Ok(current?)
}

/// What files say of a selection; notices go to stderr, errors are all told at once.
pub fn read_files(files: &[PathBuf], selection: &Selection) -> anyhow::Result<Source> {
    let mut source = Source::load(files, &Environment::Process);
    for notice in &source.notices {
        eprintln!("notice: {notice}");
    }
    if !source.errors.is_empty() {
        bail!("{}", source.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }
    let all = source.objects.len();
    source.objects.retain(|object| selection.has(object));
    let left_out = all - source.objects.len();
    if left_out > 0 {
        eprintln!("notice: {left_out} of {all} objects in the files are not selected");
    }
    Ok(source)
}

/// What has to be done so that the server has what the files say.
pub fn plan(source: &Source, current: &Current, registry: &Registry, delete: bool) -> anyhow::Result<Plan> {
    let rules = Rules { registry, delete, unsupported: &current.unsupported };
    let plan = Plan::new(&source.objects, &current.objects, &rules)?;
    ensure!(
        !source.objects.is_empty() || plan.is_empty(),
        "the files have no selected object: to delete all {} objects of the server, delete them by hand",
        plan.changes.len()
    );
    Ok(plan)
}

/// Whether stdout takes colours (https://no-color.org).
pub fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// A line that says how far we are, for people alone.
pub struct Progress(bool);

impl Progress {
    pub fn new() -> Progress {
        Progress(std::io::stderr().is_terminal())
    }

    pub fn show(&self, text: &str) {
        if self.0 {
            eprint!("\r\x1b[K{text}");
            let _ = std::io::stderr().flush();
        }
    }

    pub fn clear(&self) {
        self.show("");
    }
}
