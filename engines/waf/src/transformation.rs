//! Transformations (`t:lowercase`): how a value is made plain before an operator sees it.
//! What each does: the ModSecurity reference manual (v2.x), section "Transformation functions".

mod decode;
mod digest;
mod normalize;

use decode as d;
use normalize as n;

/// Writes the transformed value and says so; says no, and writes nothing, where the value stays as it is.
pub(crate) type Transform = fn(&[u8], &mut Vec<u8>) -> bool;

#[derive(Clone, Copy)]
pub(crate) struct Transformation {
    pub name: &'static str,
    pub apply: Transform,
}

const fn t(name: &'static str, apply: Transform) -> Transformation {
    Transformation { name, apply }
}

static ALL: &[Transformation] = &[
    t("base64Decode", d::base64),
    t("base64DecodeExt", d::base64_lenient),
    t("base64Encode", d::base64_encode),
    t("cmdLine", n::command_line),
    t("compressWhitespace", n::compress_whitespace),
    t("cssDecode", d::css),
    t("escapeSeqDecode", d::escape_sequences),
    t("hexDecode", d::hex),
    t("hexEncode", d::hex_encode),
    t("htmlEntityDecode", d::html_entities),
    t("jsDecode", d::javascript),
    t("length", n::length),
    t("lowercase", n::lowercase),
    t("md5", digest::md5),
    t("normalisePath", n::path),
    t("normalisePathWin", n::path_windows),
    t("normalizePath", n::path),
    t("normalizePathWin", n::path_windows),
    t("parityEven7bit", n::parity_even),
    t("parityOdd7bit", n::parity_odd),
    t("parityZero7bit", n::parity_zero),
    t("removeComments", n::remove_comments),
    t("removeCommentsChar", n::remove_comment_marks),
    t("removeNulls", n::remove_nulls),
    t("removeWhitespace", n::remove_whitespace),
    t("replaceComments", n::replace_comments),
    t("replaceNulls", n::replace_nulls),
    t("sha1", digest::sha1),
    t("sqlHexDecode", d::sql_hex),
    t("trim", n::trim),
    t("trimLeft", n::trim_left),
    t("trimRight", n::trim_right),
    t("uppercase", n::uppercase),
    t("urlDecode", d::url),
    t("urlDecodeUni", d::url_unicode),
    t("urlEncode", d::url_encode),
    t("utf8toUnicode", d::utf8_to_unicode),
];

impl Transformation {
    pub(crate) fn from_name(name: &str) -> Result<Transformation, String> {
        ALL.iter().copied().find(|t| t.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let near = ALL.iter().map(|t| t.name).filter(|n| {
                let n = n.to_ascii_lowercase();
                let name = name.to_ascii_lowercase();
                n.get(..3) == name.get(..3)
            });
            let near: Vec<&str> = near.collect();
            let hint = if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) };
            format!("unknown transformation t:{name}{hint}")
        })
    }
}

/// A chain of transformations by number: chain 0 has none, every other is one transformation after another chain.
/// Chains that begin alike share their beginning, and so their results.
#[derive(Default)]
pub(crate) struct Chains {
    links: Vec<(ChainId, Transformation)>,
}

pub(crate) type ChainId = u16;
/// The chain of no transformation.
pub(crate) const UNCHANGED: ChainId = 0;

impl Chains {
    pub(crate) fn intern(&mut self, transformations: &[Transformation]) -> ChainId {
        let mut at = UNCHANGED;
        for transformation in transformations {
            let known = self.links.iter().position(|(before, t)| *before == at && t.name == transformation.name);
            let index = known.unwrap_or_else(|| {
                self.links.push((at, *transformation));
                self.links.len() - 1
            });
            at = ChainId::try_from(index + 1).unwrap_or(ChainId::MAX);
        }
        at
    }

    /// The last transformation of a chain and the chain before it.
    pub(crate) fn last(&self, id: ChainId) -> Option<(ChainId, Transformation)> {
        usize::from(id).checked_sub(1).and_then(|i| self.links.get(i)).copied()
    }

    /// All beginnings of a chain from the empty one to itself.
    pub(crate) fn beginnings(&self, id: ChainId) -> Vec<ChainId> {
        let mut all = vec![id];
        let mut at = id;
        while let Some((before, _)) = self.last(at) {
            all.push(before);
            at = before;
        }
        all.reverse();
        all
    }
}

#[cfg(test)]
mod tests;
