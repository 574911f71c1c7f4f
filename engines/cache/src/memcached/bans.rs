//! Purges as lines of text: time, kind, value. Bounded: too many become one that hits everything.
use crate::store::Purge;
use std::time::{SystemTime, UNIX_EPOCH};

/// Most bans that are kept apart.
const MOST: usize = 128;
/// A ban is of no use once no record can be older: Memcached keeps none longer than this. Milliseconds.
const LIFE: u64 = 31 * 86_400_000;

pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// See the file's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bans(Vec<(u64, Purge)>);

impl Bans {
    pub(super) fn read(bytes: &[u8]) -> Bans {
        let line = |line: &[u8]| {
            let mut parts = line.splitn(3, |b| *b == b' ');
            let time = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
            let kind = parts.next()?;
            let value = parts.next().unwrap_or_default().to_vec();
            let purge = match kind {
                b"all" => Purge::All,
                b"key" => Purge::Key(value),
                b"prefix" => Purge::Prefix(value),
                b"tag" => Purge::Tag(String::from_utf8(value).ok()?),
                _ => return None,
            };
            Some((time, purge))
        };
        Bans(bytes.split(|b| *b == b'\n').filter_map(line).collect())
    }

    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (time, purge) in &self.0 {
            let (kind, value): (&str, &[u8]) = match purge {
                Purge::All => ("all", &[]),
                Purge::Key(key) => ("key", key),
                Purge::Prefix(prefix) => ("prefix", prefix),
                Purge::Tag(tag) => ("tag", tag.as_bytes()),
            };
            out.extend_from_slice(format!("{time} {kind} ").as_bytes());
            // A line end would begin another ban.
            out.extend(value.iter().filter(|b| **b != b'\n'));
            out.push(b'\n');
        }
        out
    }

    pub(super) fn add(&mut self, now: u64, purge: Purge) {
        self.0.retain(|(time, old)| *old != purge && now.saturating_sub(*time) < LIFE);
        if purge == Purge::All || self.0.len() >= MOST {
            self.0.clear();
            self.0.push((now, Purge::All));
        } else {
            self.0.push((now, purge));
        }
    }

    /// Whether a record made at a time is banned. One made within the same millisecond is.
    pub(super) fn hit(&self, made: u64, key: &[u8], tags: &[Box<str>]) -> bool {
        self.0.iter().any(|(time, purge)| made <= *time && purge.hits(key, tags.iter().map(|tag| &**tag)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bans_survive_writing_and_hit_what_is_older() {
        let mut bans = Bans::default();
        bans.add(100, Purge::Tag("a b".into()));
        bans.add(200, Purge::Prefix(b"h/ x\ny".to_vec()));
        let bans = Bans::read(&bans.write());
        assert!(bans.hit(100, b"k", &["a b".into()]) && !bans.hit(101, b"k", &["a b".into()]));
        assert!(bans.hit(200, b"h/ xyz", &[]) && !bans.hit(150, b"h/", &[]));
    }

    #[test]
    fn too_many_become_one() {
        let mut bans = Bans::default();
        (0..=MOST as u64).for_each(|n| bans.add(n, Purge::Tag(n.to_string())));
        assert_eq!(bans.0, [(MOST as u64, Purge::All)]);
        bans.add(LIFE + 1000, Purge::Tag("x".into()));
        assert_eq!(bans.0.len(), 1);
    }
}
