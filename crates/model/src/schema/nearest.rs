//! "Did you mean": the candidate with the smallest edit distance, if it is small enough to be a slip of the pen.
//! Surprise: long words are compared only up to a fixed length, so that hostile input costs nothing.

const LONGEST: usize = 64;

/// The candidate nearest to `word`; `None` when nothing is nearer than a third of its length (at least 2 edits are
/// allowed, equal words excluded).
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let letters: Vec<char> = word.chars().take(LONGEST).collect();
    let allowed = (letters.len() / 3).max(2);
    candidates
        .map(|candidate| (distance(&letters, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= allowed && *edits < candidate.chars().count())
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

fn distance(a: &[char], b: &str) -> usize {
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, right) in b.chars().take(LONGEST).enumerate() {
        let mut diagonal = i;
        let mut left_cell = i + 1;
        let mut next = vec![left_cell];
        for (left, above) in a.iter().zip(row.iter().skip(1)) {
            let swap = diagonal + usize::from(!left.eq_ignore_ascii_case(&right));
            left_cell = swap.min(left_cell + 1).min(above + 1);
            diagonal = *above;
            next.push(left_cell);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips_and_ignores_strangers() {
        let names = ["upstream", "upstream_id", "uri", "plugins"];
        assert_eq!(nearest("upstram", names.into_iter()), Some("upstream"));
        assert_eq!(nearest("plugin", names.into_iter()), Some("plugins"));
        assert_eq!(nearest("url", names.into_iter()), Some("uri"));
        assert_eq!(nearest("whatever", names.into_iter()), None);
    }
}
