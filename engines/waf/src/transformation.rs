//! Transformations (`t:lowercase`): how a value is made plain before an operator sees it.
//! What each does: the ModSecurity reference manual (v2.x), section "Transformation functions".

mod decode;
mod digest;
mod kinds;
mod normalize;

use decode as d;
use kinds as k;
pub(crate) use kinds::{Kinds, kinds};
use normalize as n;

/// Writes the transformed value and says so; says no, and writes nothing, where the value stays as it is.
pub(crate) type Transform = fn(&[u8], &mut Vec<u8>) -> bool;

#[derive(Clone, Copy)]
pub(crate) struct Transformation {
    pub name: &'static str,
    pub apply: Transform,
    /// A value that has nothing of these kinds stays as it is.
    pub triggers: Kinds,
}

const fn t(name: &'static str, triggers: Kinds, apply: Transform) -> Transformation {
    Transformation { name, apply, triggers }
}

static ALL: &[Transformation] = &[
    t("base64Decode", k::ANY, d::base64),
    t("base64DecodeExt", k::ANY, d::base64_lenient),
    t("base64Encode", k::ANY, d::base64_encode),
    t("cmdLine", k::QUOTE | k::BACKSLASH | k::SPACE | k::UPPER, n::command_line),
    t("compressWhitespace", k::SPACE, n::compress_whitespace),
    t("cssDecode", k::BACKSLASH, d::css),
    t("escapeSeqDecode", k::BACKSLASH, d::escape_sequences),
    t("hexDecode", k::ANY, d::hex),
    t("hexEncode", k::ANY, d::hex_encode),
    t("htmlEntityDecode", k::AMPERSAND, d::html_entities),
    t("jsDecode", k::BACKSLASH, d::javascript),
    t("length", k::ANY, n::length),
    t("lowercase", k::UPPER, n::lowercase),
    t("md5", k::ANY, digest::md5),
    t("normalisePath", k::SLASH | k::DOT, n::path),
    t("normalisePathWin", k::SLASH | k::DOT | k::BACKSLASH, n::path_windows),
    t("normalizePath", k::SLASH | k::DOT, n::path),
    t("normalizePathWin", k::SLASH | k::DOT | k::BACKSLASH, n::path_windows),
    t("parityEven7bit", k::ANY, n::parity_even),
    t("parityOdd7bit", k::ANY, n::parity_odd),
    t("parityZero7bit", k::HIGH, n::parity_zero),
    t("removeComments", k::STAR | k::DASH | k::HASH, n::remove_comments),
    t("removeCommentsChar", k::STAR | k::DASH | k::HASH, n::remove_comment_marks),
    t("removeNulls", k::NUL, n::remove_nulls),
    t("removeWhitespace", k::SPACE, n::remove_whitespace),
    t("replaceComments", k::STAR, n::replace_comments),
    t("replaceNulls", k::NUL, n::replace_nulls),
    t("sha1", k::ANY, digest::sha1),
    t("sqlHexDecode", k::X, d::sql_hex),
    t("trim", k::SPACE, n::trim),
    t("trimLeft", k::SPACE, n::trim_left),
    t("trimRight", k::SPACE, n::trim_right),
    t("uppercase", k::LOWER, n::uppercase),
    t("urlDecode", k::PERCENT | k::PLUS, d::url),
    t("urlDecodeUni", k::PERCENT | k::PLUS, d::url_unicode),
    t("urlEncode", k::ANY, d::url_encode),
    t("utf8toUnicode", k::HIGH, d::utf8_to_unicode),
];

impl Transformation {
    pub(crate) fn from_name(name: &str) -> Result<Transformation, String> {
        ALL.iter().copied().find(|t| t.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let hint = crate::suggestion::did_you_mean(name, ALL.iter().map(|t| t.name));
            format!("unknown transformation t:{name}{hint}")
        })
    }
}

/// A chain of transformations by number: chain 0 has none, every other is one transformation after another chain.
/// Chains that begin alike share their beginning, and so their results.
#[derive(Default)]
pub(crate) struct Chains {
    links: Vec<Link>,
}

#[derive(Clone, Copy)]
pub(crate) struct Link {
    /// The chain before this transformation.
    pub before: ChainId,
    pub transformation: Transformation,
    /// What starts any transformation of the chain.
    pub triggers: Kinds,
}

pub(crate) type ChainId = u16;
/// The chain of no transformation.
pub(crate) const UNCHANGED: ChainId = 0;

impl Chains {
    pub(crate) fn intern(&mut self, transformations: &[Transformation]) -> ChainId {
        let mut at = UNCHANGED;
        for transformation in transformations {
            let same = |l: &Link| l.before == at && l.transformation.name == transformation.name;
            let index = self.links.iter().position(same).unwrap_or_else(|| {
                let triggers = self.triggers(at) | transformation.triggers;
                self.links.push(Link { before: at, transformation: *transformation, triggers });
                self.links.len() - 1
            });
            at = ChainId::try_from(index + 1).unwrap_or(ChainId::MAX);
        }
        at
    }

    /// The last transformation of a chain and the chain before it.
    pub(crate) fn last(&self, id: ChainId) -> Option<&Link> {
        usize::from(id).checked_sub(1).and_then(|i| self.links.get(i))
    }

    pub(crate) fn triggers(&self, id: ChainId) -> Kinds {
        self.last(id).map_or(0, |link| link.triggers)
    }

    /// All beginnings of a chain from the empty one to itself.
    pub(crate) fn beginnings(&self, id: ChainId) -> Vec<ChainId> {
        let mut all = vec![id];
        let mut at = id;
        while let Some(link) = self.last(at) {
            all.push(link.before);
            at = link.before;
        }
        all.reverse();
        all
    }
}

#[cfg(test)]
mod tests;
