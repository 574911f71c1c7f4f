//! The nearest valid word for a mistyped one ("did you mean …"). The surprise: a word that is too far from every
//! candidate gets no suggestion at all, since a wrong hint costs more than none.

/// The candidate nearest to `word` by edit distance (insert, delete, replace, swap of neighbours), when at most a third
/// of its letters, and at least one, are wrong. Words beyond 64 characters are not compared.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters = fold(word);
    if letters.is_empty() || letters.len() > 64 {
        return None;
    }
    let allowed = (letters.len() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .filter(|candidate| *candidate != word)
        .map(|candidate| (distance(&letters, &fold(candidate)), candidate))
        .filter(|(wrong, _)| *wrong <= allowed)
        .min_by_key(|(wrong, _)| *wrong)
        .map(|(_, candidate)| candidate)
}

/// Case and the two word separators do not count as errors of typing.
fn fold(word: &str) -> Vec<char> {
    word.chars().take(65).map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        for (j, y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_the_nearest_key_and_stays_silent_when_none_is_near() {
        let keys = ["node_listen", "enable_http2", "enable_ipv6", "router"];
        assert_eq!(nearest("node_lisen", keys), Some("node_listen"));
        assert_eq!(nearest("enable-http2", keys), Some("enable_http2"));
        assert_eq!(nearest("Router", keys), Some("router"));
        assert_eq!(nearest("rotuer", keys), Some("router"));
        assert_eq!(nearest("something_else", keys), None);
        assert_eq!(nearest("", keys), None);
        assert_eq!(nearest("router", keys), None, "the word itself is not a hint");
    }
}
