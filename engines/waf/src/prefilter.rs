//! Which rules of a phase could match at all: the patterns of many rules as one set, run once over each value.
//!
//! Rules are put in classes by their `paranoia-level` tag, and a class is worked out when the first of its rules is
//! reached: what a lower level skips costs nothing. Within a class, the patterns that apply to one collection are one set,
//! whatever their transformations, and collections with the same patterns share it. The set is run over each different form
//! that the chains give a value; most values have one form only. So it may name a rule too many, never one too few.

use crate::operator::Operator;
use crate::pattern::{Pattern, SIZE_LIMIT};
use crate::rule::Rule;
use crate::transformation::{ChainId, Chains, Kinds};
use crate::variable::{Life, Selector, Variable};
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use regex::bytes::{RegexSet, RegexSetBuilder};
use std::collections::BTreeMap;

/// Memory of one set's lazily built automaton, per thread.
const DFA_SIZE_LIMIT: usize = 8 << 20;

/// A set of rules of a phase, by position.
#[derive(Clone, Default, Debug)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    pub(crate) fn new(len: usize) -> Bits {
        Bits(vec![0; len.div_ceil(64)])
    }

    pub(crate) fn set(&mut self, at: usize) {
        if let Some(word) = self.0.get_mut(at / 64) {
            *word |= 1 << (at % 64);
        }
    }

    pub(crate) fn has(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Becomes the same, in the memory it has.
    pub(crate) fn copy(&mut self, other: &Bits) {
        self.0.clone_from(&other.0);
    }

    pub(crate) fn clear(&mut self) {
        self.0.fill(0);
    }

    /// Takes away what is in `of` and not in `found`.
    pub(crate) fn keep(&mut self, of: &Bits, found: &Bits) {
        for ((word, of), found) in self.0.iter_mut().zip(&of.0).zip(&found.0) {
            *word &= !(of & !found);
        }
    }

    /// The first member at or after a position.
    pub(crate) fn next(&self, from: usize) -> Option<usize> {
        let mut index = from / 64;
        let mut word = self.0.get(index)? & (u64::MAX << (from % 64));
        loop {
            if word != 0 {
                return Some(index * 64 + word.trailing_zeros() as usize);
            }
            index += 1;
            word = *self.0.get(index)?;
        }
    }
}

pub(crate) struct Prefilter {
    /// All rules of the phase.
    pub all: Bits,
    pub classes: Vec<Class>,
    sets: Vec<Set>,
}

pub(crate) struct Class {
    pub members: Bits,
    pub probes: Vec<Probe>,
}

/// Values of a collection, the chains that they go through, and the set that is run over the results.
pub(crate) struct Probe {
    pub variable: Variable,
    /// Lower case; none: all members.
    pub member: Option<Box<[u8]>>,
    pub chains: Vec<ChainId>,
    /// What starts any transformation of any chain.
    pub triggers: Kinds,
    pub set: usize,
}

struct Set {
    patterns: Option<(RegexSet, Vec<usize>)>,
    /// Words, and of each word the rule that it belongs to.
    words: Option<(AhoCorasick, Vec<usize>)>,
}

/// Probe key → rules and the chains that values go through.
type Wanted = BTreeMap<(Variable, Option<Box<[u8]>>), (Vec<usize>, Vec<ChainId>)>;

impl Prefilter {
    /// Builds the sets of a phase and tells each rule its class.
    pub(crate) fn build(rules: &mut [Rule], chains: &Chains) -> Prefilter {
        let mut all = Bits::new(rules.len());
        let mut names: Vec<Option<Box<str>>> = Vec::new();
        let mut wanted: Vec<(Bits, Wanted)> = Vec::new();
        let count = rules.len();
        for (position, rule) in rules.iter_mut().enumerate() {
            all.set(position);
            if !is_filterable(rule) {
                continue;
            }
            let tag = rule.tags.iter().find(|t| t.starts_with("paranoia-level/")).cloned();
            let class = names.iter().position(|n| *n == tag).unwrap_or_else(|| {
                names.push(tag);
                wanted.push((Bits::new(count), Wanted::new()));
                names.len() - 1
            });
            rule.class = Some(class);
            let (Some((members, probes)), Some(link)) = (wanted.get_mut(class), rule.links.first()) else { continue };
            members.set(position);
            for target in &link.targets.wanted {
                let parts = match target.variable.parts() {
                    [] => std::slice::from_ref(&target.variable),
                    parts => parts,
                };
                let member = match &target.selector {
                    Selector::Name(name) => Some(name.clone()),
                    // a superset: the rule itself looks closer
                    Selector::All | Selector::Pattern(_) => None,
                };
                for variable in parts {
                    let (rules, chains) = probes.entry((*variable, member.clone())).or_default();
                    if rules.last() != Some(&position) {
                        rules.push(position);
                    }
                    for chain in &link.steps {
                        if !chains.contains(chain) {
                            chains.push(*chain);
                        }
                    }
                }
            }
        }
        let mut sets = Vec::new();
        let mut known: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        let mut classes = Vec::new();
        for (members, wanted) in wanted {
            let mut probes = Vec::new();
            for ((variable, member), (positions, mut steps)) in wanted {
                let set = *known.entry(positions).or_insert_with_key(|positions| {
                    sets.push(Set::build(rules, positions));
                    sets.len() - 1
                });
                // longer chains find the results of shorter ones
                steps.sort_unstable();
                let triggers = steps.iter().fold(0, |all, chain| all | chains.triggers(*chain));
                probes.push(Probe { variable, member, chains: steps, triggers, set });
            }
            classes.push(Class { members, probes });
        }
        Prefilter { all, classes, sets }
    }

    /// Adds the rules whose pattern is in the value.
    pub(crate) fn run(&self, set: usize, value: &[u8], found: &mut Bits) {
        let Some(set) = self.sets.get(set) else { return };
        if let Some((patterns, rules)) = &set.patterns
            && patterns.is_match(value)
        {
            for index in patterns.matches(value) {
                if let Some(rule) = rules.get(index) {
                    found.set(*rule);
                }
            }
        }
        if let Some((words, rules)) = &set.words {
            for m in words.find_overlapping_iter(value) {
                if let Some(rule) = rules.get(m.pattern().as_usize()) {
                    found.set(*rule);
                }
            }
        }
    }
}

/// Whether values decide alone: nothing that moves between rules, no count, no negation.
fn is_filterable(rule: &Rule) -> bool {
    let Some(link) = rule.links.first() else { return false };
    let tests = match &link.operator {
        // what takes the empty value takes nearly all: in a set it would only make every value a find
        Some(Operator::Rx(Pattern::Fast(regex))) => !regex.is_match(b""),
        Some(Operator::Words(..)) => true,
        _ => false,
    };
    tests && !link.negated && link.targets.wanted.iter().all(|t| !t.count && t.variable.life() != Life::Moving)
}

impl Set {
    fn build(rules: &[Rule], positions: &[usize]) -> Set {
        let (mut sources, mut of_source) = (Vec::new(), Vec::new());
        let (mut words, mut of_word) = (Vec::<Vec<u8>>::new(), Vec::new());
        for &position in positions {
            match rules.get(position).and_then(|r| r.links.first()).and_then(|l| l.operator.as_ref()) {
                Some(Operator::Rx(Pattern::Fast(regex))) => {
                    sources.push(regex.as_str().to_owned());
                    of_source.push(position);
                }
                Some(Operator::Words(_, list)) => {
                    words.extend(list.iter().cloned());
                    of_word.extend(std::iter::repeat_n(position, list.len()));
                }
                _ => {}
            }
        }
        let patterns = (!sources.is_empty()).then(|| {
            RegexSetBuilder::new(&sources)
                .unicode(false)
                .dot_matches_new_line(true)
                .size_limit(SIZE_LIMIT * sources.len())
                .dfa_size_limit(DFA_SIZE_LIMIT)
                .build()
        });
        let words = (!words.is_empty()).then(|| {
            AhoCorasick::builder()
                .ascii_case_insensitive(true)
                .match_kind(MatchKind::Standard)
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .build(&words)
        });
        // each pattern compiled alone before; what cannot be joined would leave its rules unseen, so they match anything
        let patterns = match patterns {
            Some(Ok(set)) => Some((set, of_source)),
            Some(Err(_)) => RegexSet::new(vec![""; of_source.len()]).ok().map(|set| (set, of_source)),
            None => None,
        };
        Set { patterns, words: words.and_then(Result::ok).map(|w| (w, of_word)) }
    }
}
