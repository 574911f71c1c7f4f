//! The word that somebody may have meant: an error of typing is answered with the nearest word there is.

/// `; did you mean X?`, or nothing where no word is near: at most a third of the letters may be wrong.
pub(crate) fn did_you_mean<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> String {
    let wanted = word.to_ascii_lowercase();
    // a rule's text is no word
    if wanted.is_empty() || wanted.len() > 64 {
        return String::new();
    }
    let near = words.map(|w| (distance(wanted.as_bytes(), w.to_ascii_lowercase().as_bytes()), w));
    let allowed = (wanted.len() / 3).max(1);
    match near.filter(|(wrong, _)| *wrong <= allowed).min_by_key(|(wrong, _)| *wrong) {
        Some((_, word)) => format!("; did you mean {word}?"),
        None => String::new(),
    }
}

/// Letters that are inserted, deleted or replaced.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (place, y) in row.iter_mut().skip(1).zip(b) {
            let above = *place;
            left = (diagonal + usize::from(x != y)).min(above + 1).min(left + 1);
            diagonal = above;
            *place = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_meant() {
        let words = ["SecRule", "SecAction", "SecRuleEngine"];
        let ask = |word| did_you_mean(word, words.into_iter());
        assert_eq!(ask("SecRulle"), "; did you mean SecRule?");
        assert_eq!(ask("secruleengin"), "; did you mean SecRuleEngine?");
        assert_eq!(ask("Listen"), "");
        assert_eq!((distance(b"abc", b"abd"), distance(b"", b"ab"), distance(b"kitten", b"sitting")), (1, 2, 3));
    }
}
