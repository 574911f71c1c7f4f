//! Bodies of requests as rules see them: arguments, files, texts.

pub(crate) mod json;
pub(crate) mod multipart;
pub(crate) mod urlencoded;
pub(crate) mod xml;

use crate::variable::Variable;

#[derive(Default, Debug)]
pub(crate) struct Body {
    pub arguments: Vec<(Vec<u8>, Vec<u8>)>,
    pub files: Vec<File>,
    /// The part's name, and a line of its head.
    pub part_headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// `/*` and a text, `//@*` and an attribute's value.
    pub xml: Vec<(&'static str, Vec<u8>)>,
    /// There were more arguments than the limit allows.
    pub cut: bool,
    /// Irregularities of a multipart body.
    pub flags: Vec<Variable>,
}

#[derive(Debug)]
pub(crate) struct File {
    /// The form's field.
    pub field: Vec<u8>,
    pub name: Vec<u8>,
    /// Bytes.
    pub size: usize,
}
