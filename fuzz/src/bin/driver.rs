//! Runs every target on the stable toolchain: all seeds first, then mutations of them for N seconds each.
//!
//! Without coverage feedback it finds less than cargo-fuzz; it is the smoke test that runs everywhere. The random
//! sequence follows from `--seed`, printed at the start; the input that made a target panic is written to `crashes/`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// xorshift64*: all the randomness a mutation needs.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

const LONGEST: usize = 64 * 1024;
/// Pieces that parsers stumble over.
const PIECES: &[&[u8]] = &[
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"0", b"ffffffffffffffff", b"-1", b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"$", b"${", b"}", b"[", b"]", b"\"", b"\\", b"%00", b"%", b"..",
    b"\xff", b"\xc3\x28",
];

fn main() -> ExitCode {
    let (mut seconds, mut only, mut seed) = (60, None, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next();
        match (arg.as_str(), value) {
            ("--seconds", Some(v)) if v.parse::<u64>().is_ok() => seconds = v.parse().unwrap_or(60),
            ("--seed", Some(v)) if v.parse::<u64>().is_ok() => seed = v.parse().ok(),
            ("--target", Some(v)) if sluice_fuzz::target(&v).is_some() => only = Some(v),
            _ => {
                let names: Vec<&str> = sluice_fuzz::TARGETS.iter().map(|(n, _)| *n).collect();
                eprintln!("usage: driver [--seconds N] [--seed N] [--target {}]", names.join("|"));
                return ExitCode::FAILURE;
            }
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
    let seed: u64 = seed.unwrap_or(now).max(1);
    println!("seed {seed}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, run) in sluice_fuzz::TARGETS {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        match fuzz(root, name, *run, Duration::from_secs(seconds), Random(seed)) {
            Ok(count) => println!("{name}: {count} inputs, no panic"),
            Err(why) => {
                eprintln!("{name}: {why}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn fuzz(root: &Path, name: &str, run: fn(&[u8]), time: Duration, mut random: Random) -> Result<u64, String> {
    let seeds = read_seeds(&root.join("seeds").join(name)).map_err(|e| format!("seeds/{name}: {e}"))?;
    if seeds.is_empty() {
        return Err(format!("seeds/{name} is empty"));
    }
    let end = Instant::now() + time;
    let mut count = 0;
    let mut input = Vec::new();
    loop {
        match seeds.get(count as usize) {
            Some(seed) => input.clone_from(seed),
            None => mutate(&mut input, &seeds, &mut random),
        }
        if catch_unwind(AssertUnwindSafe(|| run(&input))).is_err() {
            let folder = root.join("crashes");
            let file = folder.join(format!("{name}-{count}"));
            let saved = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, &input));
            return Err(format!("panic; input in {} ({saved:?})", file.display()));
        }
        count += 1;
        if count as usize >= seeds.len() && Instant::now() >= end {
            return Ok(count);
        }
    }
}

fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    input.clone_from(&seeds[random.below(seeds.len())]);
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(6) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => {
                let end = (at + random.below(16)).min(input.len());
                input.drain(at..end);
            }
            3 => {
                let piece = PIECES[random.below(PIECES.len())];
                input.splice(at..at, piece.iter().copied());
            }
            4 => {
                let end = (at + random.below(64)).min(input.len());
                let copy = input[at..end].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            _ => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
        input.truncate(LONGEST);
    }
}

fn read_seeds(folder: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    files.iter().map(std::fs::read).collect()
}
