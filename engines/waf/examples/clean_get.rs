//! What the Core Rule Set costs on a small request that is clean: the engine alone, no gateway around it.
//!
//! `cargo run --release -p sluice-engine-waf --example clean_get -- /path/to/crs` prints microseconds of CPU per
//! request, the median of rounds; with a second argument the requests of a round, with a third the paranoia level. `cargo xtask crs --cost` measures with everything around it.

use sluice_engine_waf::{Ruleset, Sources, Transaction, compile};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// As in the gateway.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HEADERS: [(&str, &str); 8] = [
    ("Host", "api.example.com"),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("Accept", "application/json, text/plain, */*"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate"),
    ("Referer", "https://shop.example.com/products"),
    ("Connection", "keep-alive"),
    ("Cookie", "session=8f14e45fceea167a5a36dedd4bea2543"),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let crs = PathBuf::from(args.next().ok_or("name the folder of a Core Rule Set")?);
    let requests: u32 = args.next().unwrap_or_else(|| "2000".to_owned()).parse()?;
    let level = args.next().unwrap_or_else(|| "1".to_owned());
    let text = format!(
        "SecRuleEngine On
         SecRequestBodyAccess On
         Include {}
         SecAction \"id:900000,phase:1,pass,nolog,setvar:tx.blocking_paranoia_level={level}\"
         Include @owasp_crs/*.conf",
        crs.join("crs-setup.conf.example").display()
    );
    let sources = Sources { folders: vec![("@owasp_crs".to_owned(), crs.join("rules"))], texts: Vec::new() };
    let begun = Instant::now();
    let rules = Arc::new(compile(&text, &sources)?);
    println!("{} rules compiled in {:.2} s", rules.rule_count(), begun.elapsed().as_secs_f64());
    for _ in 0..200 {
        clean(&rules);
    }
    let mut rounds = Vec::new();
    for _ in 0..7 {
        let begun = cpu()?;
        for _ in 0..requests {
            clean(&rules);
        }
        rounds.push((cpu()? - begun) / 1e3 / f64::from(requests));
    }
    rounds.sort_by(f64::total_cmp);
    println!("paranoia level {level}: {:.1} µs a request", rounds[rounds.len() / 2]);
    Ok(())
}

/// Nanoseconds of CPU that this process had, as the kernel counts them.
fn cpu() -> Result<f64, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

fn clean(rules: &Arc<Ruleset>) {
    let mut transaction = Transaction::new(rules.clone());
    let localhost = std::net::IpAddr::from([127, 0, 0, 1]);
    transaction.connection(localhost, 40_000, localhost, 9080);
    transaction.request_line(b"GET", b"/api/products/42?fields=name,price&limit=20", b"HTTP/1.1");
    for (name, value) in HEADERS {
        transaction.request_header(name.as_bytes(), value.as_bytes());
    }
    transaction.run(1);
    transaction.run(2);
    transaction.response_line(200, b"HTTP/1.1");
    transaction.response_header(b"Content-Type", b"application/json");
    transaction.response_header(b"Content-Length", b"1024");
    transaction.run(3);
    transaction.run(5);
    assert!(transaction.hits().is_empty() && transaction.intervention().is_none(), "{:?}", transaction.hits());
}
