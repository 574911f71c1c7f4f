//! Tests of `regex`.
use proptest::prelude::*;

use super::*;

fn re(pattern: &str, options: &str) -> Regex {
    Regex::new(pattern, options).unwrap()
}

fn sub(pattern: &str, subject: &str, with: &str) -> Option<String> {
    re(pattern, "jo").replace_first(subject.as_bytes(), with).map(|v| String::from_utf8(v).unwrap())
}

fn gsub(pattern: &str, subject: &str, with: &str) -> Option<String> {
    re(pattern, "jo").replace_all(subject.as_bytes(), with).map(|v| String::from_utf8(v).unwrap())
}

#[test]
fn engine_choice() {
    assert!(re("^/a/(.*)$", "").is_linear());
    assert!(!re("a(?!b)", "").is_linear());
    assert!(!re(r"(a)\1", "").is_linear());
    assert!(!re("a++b", "").is_linear());
    assert!(Regex::new("(", "").is_err());
    assert!(Regex::new("a", "q").is_err());
}

#[test]
fn options() {
    assert!(re("ABC", "i").is_match(b"xabc"));
    assert!(!re("ABC", "").is_match(b"xabc"));
    assert!(re("a.b", "s").is_match(b"a\nb"));
    assert!(!re("a.b", "").is_match(b"a\nb"));
    assert!(re("^b", "m").is_match(b"a\nb"));
    assert!(re("a b # c", "x").is_match(b"ab"));
    assert!(!re("b", "a").is_match(b"ab"));
    assert!(re("^.$", "u").is_match("é".as_bytes()));
    assert!(!re("^.$", "").is_match("é".as_bytes()));
    assert!(!re(r"^\d$", "u").is_match("٣".as_bytes()));
}

#[test]
fn backtracking_patterns_see_any_bytes() {
    let r = re("^(?!admin).+x", "");
    assert!(r.is_match(b"\xff\xfex"));
    assert!(!r.is_match(b"admin\xffx"));
    let r = re(r"(.)\1", "");
    assert_eq!(r.captures(b"a\xff\xff"), Some(vec![Some((1, 3)), Some((1, 2))]));
    assert!(!re("(?>a+)ab", "").is_match(b"aaab"));
    assert!(!re("a++ab", "").is_match(b"aaab"));
    assert!(re("(?<=/)v1", "").is_match(b"/v1"));
}

#[test]
fn catastrophe_is_bounded() {
    let subject = [b"a".repeat(60), b"!".to_vec()].concat();
    assert!(!re(r"^(a|a)*\1?(?!.)b$", "").is_match(&subject));
}

#[test]
fn captures_are_reused() {
    let (a, b) = (re("(x)(y)?", ""), re("(?<n>.)z", ""));
    let mut c = Captures::default();
    assert!(a.captures_into(b"-x", &mut c));
    assert_eq!((c.len(), c.get(0), c.get(1), c.get(2)), (3, Some((1, 2)), Some((1, 2)), None));
    assert!(b.captures_into(b"qz", &mut c));
    assert_eq!(c.slice(1, b"qz"), Some(&b"q"[..]));
    assert!(!a.captures_into(b"q", &mut c));
    assert!(c.is_empty());
    assert_eq!(b.group_names(), [(1, "n")]);
}

#[test]
fn replacement_rules() {
    assert_eq!(sub("^/a/(.*)", "/a/b/c", "/$1").as_deref(), Some("/b/c"));
    assert_eq!(sub("(b)(c)", "abcd", "[$0|${2}1|$$|$7]").as_deref(), Some("a[bc|c1|$|]d"));
    assert_eq!(sub("x", "abc", "y"), None);
    assert_eq!(sub("a", "aa", "$x").as_deref(), Some("$xa"));
    assert!(Replacement::compile("$x").is_err() && Replacement::compile("${1").is_err());
    assert!(Replacement::compile("$1${2}$$").is_ok());
    assert_eq!(gsub("[0-9]", "a1b2", "<$0>").as_deref(), Some("a<1>b<2>"));
    assert_eq!(gsub("^a", "aaa", "b").as_deref(), Some("baa"));
    assert_eq!(gsub("a*", "baac", "-").as_deref(), Some("-b--c-"));
}

#[test]
fn empty_matches_step_by_character_with_u() {
    assert_eq!(re("", "u").replace_all("é".as_bytes(), "-"), Some("-é-".into()));
    assert_eq!(re("", "").replace_all(b"ab", "-"), Some(b"-a-b-".to_vec()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A literal needle: `replace_all` is `str::replace`.
    #[test]
    fn literal_replacement_is_naive(needle in "[a-c./+*?$^{}()|\\[\\]\\\\ ~&#-]{1,3}", parts in prop::collection::vec("[a-c.+ ]{0,4}", 1..5), with in "[x-z]{0,3}") {
        let subject = parts.join(&needle);
        let pattern: String = needle.chars().flat_map(|c| if c.is_ascii_alphanumeric() { vec![c] } else { vec!['\\', c] }).collect();
        let got = re(&pattern, "").replace_all(subject.as_bytes(), &with);
        let want = subject.contains(&needle).then(|| subject.replace(&needle, &with).into_bytes());
        prop_assert_eq!(got, want);
    }

    /// The two engines agree: an empty look-ahead forces the backtracking one.
    #[test]
    fn engines_agree(pattern in "([abc.]|\\[ab\\]|a[*+?]|b\\{1,2\\}|\\(a\\|c\\)|\\\\w){1,5}", subject in prop::collection::vec(prop::sample::select(b"abc1\n\xff".to_vec()), 0..12)) {
        let linear = re(&pattern, "");
        let fancy = re(&format!("(?=){pattern}"), "");
        prop_assert!(linear.is_linear() && !fancy.is_linear());
        prop_assert_eq!(linear.captures(&subject), fancy.captures(&subject), "{}", pattern);
        prop_assert_eq!(linear.replace_all(&subject, "<$0>"), fancy.replace_all(&subject, "<$0>"), "{}", pattern);
    }

    #[test]
    fn never_panics(pattern in "\\PC{0,12}", options in "[imsxuU]{0,3}", subject in prop::collection::vec(any::<u8>(), 0..12)) {
        if let Ok(r) = Regex::new(&pattern, &options) {
            let found = r.captures(&subject);
            prop_assert_eq!(found.is_some(), r.is_match(&subject));
        }
    }
}
