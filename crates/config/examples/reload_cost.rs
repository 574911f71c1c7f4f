//! Prints what a change of one object among many costs, in milliseconds of the process's CPU time: reading the file,
//! finding the difference, compiling. For people, not a test; build with optimisation to learn anything.
//!
//! `cargo run --release -p sluice-config --example reload_cost [routes]`
use rustix::time::{ClockId, clock_gettime};
use sluice_config::environment::Environment;
use sluice_config::standalone::{Changes, StandaloneSource};
use sluice_config::{CompileSettings, Compiler};
use sluice_plugin::{Clock, Env, Registry};
use sluice_router::Mode;
use sluice_upstream::pool::PoolSettings;
use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// The gateway's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// CPU time of the process, in milliseconds.
fn cpu() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6
}

/// Routes, each with an upstream of its own: within it, or in a list of its own.
fn file(count: usize, inline: bool) -> String {
    let mut text = "routes:\n".to_owned();
    for i in 0..count {
        let _ = write!(
            text,
            "  - id: r{i}\n    name: route-{i}\n    uri: /service-{}/{i}/*\n    hosts:\n      - api.example.com\n",
            i % 97
        );
        let node = format!("10.{}.{}.{}", i >> 16, (i >> 8) & 255, i & 255);
        let _ = match inline {
            true => write!(text, "    upstream:\n      type: roundrobin\n      nodes:\n        \"{node}:8080\": 1\n"),
            false => writeln!(text, "    upstream_id: u{i}"),
        };
    }
    if !inline {
        text.push_str("upstreams:\n");
        for i in 0..count {
            let node = format!("10.{}.{}.{}", i >> 16, (i >> 8) & 255, i & 255);
            let _ = write!(text, "  - id: u{i}\n    type: roundrobin\n    nodes:\n      \"{node}:8080\": 1\n");
        }
    }
    text.push_str("#END\n");
    text
}

fn compiler() -> Result<Compiler, Box<dyn Error>> {
    let registry = Arc::new(Registry::new(&[]).map_err(|error| error.0)?);
    let env = Env::new(Clock::default(), sluice_telemetry::Registry::new()).with_registry(registry.clone());
    let settings = CompileSettings {
        rules: Arc::default(),
        mode: Mode::Uri,
        pool: PoolSettings::default(),
        workers: 1,
        trusted_certificates: None,
        protocols: sluice_net::tls::Protocols::default(),
        resolver: None,
        discovery: None,
        health_checks: true,
        skip_disabled_plugins: false,
        health_probes: 64,
        zone: None,
    };
    Ok(Compiler::new(registry, env, settings))
}

fn measure(what: &str, source: &StandaloneSource, compiler: &mut Compiler) -> Result<(), Box<dyn Error>> {
    let start = cpu();
    let update = source.load().map_err(|errors| errors.iter().map(ToString::to_string).collect::<String>())?;
    let read = cpu();
    let kind = match &update.changes {
        Changes::Whole(objects) => format!("{} objects as a whole", objects.len()),
        Changes::Part(set) => format!("{} set, {} deleted", set.upserts.len(), set.deletes.len()),
    };
    let before = compiler.snapshot().clone();
    let applied = compiler.update(update.changes);
    source.applied(update.revision);
    drop(before);
    let end = cpu();
    println!(
        "{what:32} {:8.2} ms read and compared, {:8.2} ms compiled: {:8.2} ms ({kind}; {} problems, {} routes)",
        read - start,
        end - read,
        end - start,
        applied.problems.len(),
        applied.snapshot.router.len()
    );
    Ok(())
}

fn run(path: &Path, count: usize, inline: bool) -> Result<(), Box<dyn Error>> {
    let mut text = file(count, inline);
    std::fs::write(path, &text)?;
    println!(
        "{count} routes, upstreams {}, {:.1} MB",
        if inline { "within them" } else { "beside them" },
        text.len() as f64 / 1e6
    );
    let source = StandaloneSource::new(path, Environment::Process);
    let mut compiler = compiler()?;
    measure("first load", &source, &mut compiler)?;
    measure("no change", &source, &mut compiler)?;
    let middle = count / 2;
    let added =
        "  - id: new\n    uri: /new\n    upstream:\n      type: roundrobin\n      nodes:\n        \"10.0.0.1:80\": 1\n";
    let mut steps = vec![
        ("name of a route", format!("name: route-{middle}\n"), format!("name: ROUTE-{middle}\n")),
        ("uri of a route, longer", format!("/{middle}/*"), format!("/{middle}/changed/*")),
        ("a new route", format!("  - id: r{middle}\n"), format!("{added}  - id: r{middle}\n")),
        ("the new route deleted", added.to_owned(), String::new()),
    ];
    let node = format!("10.{}.{}.{}:8080", middle >> 16, (middle >> 8) & 255, middle & 255);
    steps.push(("a node of an upstream", node, "10.9.9.9:8080".to_owned()));
    for (what, old, new) in steps {
        text = text.replacen(&old, &new, 1);
        std::fs::write(path, &text)?;
        measure(what, &source, &mut compiler)?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let count = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse())?;
    let folder = std::env::temp_dir().join(format!("reload-cost-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("apisix.yaml");
    let result = run(&path, count, true).and_then(|()| run(&path, count, false));
    std::fs::remove_dir_all(&folder)?;
    result
}
