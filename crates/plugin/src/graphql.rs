//! What routing needs of a GraphQL document: the first operation's kind, name and root fields.
use apollo_parser::Parser;
use apollo_parser::cst::{CstNode, Definition, Selection};

/// Nesting and size bounds of a query from a client.
const MAX_RECURSION: usize = 100;
const MAX_TOKENS: usize = 20_000;

/// The first operation of a document.
#[derive(Debug, PartialEq)]
pub struct Operation {
    /// `query`, `mutation` or `subscription`.
    pub operation: &'static str,
    /// Empty for an anonymous operation.
    pub name: String,
    pub root_fields: Vec<String>,
}

/// Parses a document; `None` where it is not GraphQL or too large.
pub fn parse(text: &str) -> Option<Operation> {
    let tree = Parser::new(text).recursion_limit(MAX_RECURSION).token_limit(MAX_TOKENS).parse();
    if tree.errors().next().is_some() {
        return None;
    }
    tree.document().definitions().find_map(|definition| match definition {
        Definition::OperationDefinition(operation) => {
            let kind = match operation.operation_type() {
                Some(kind) if kind.mutation_token().is_some() => "mutation",
                Some(kind) if kind.subscription_token().is_some() => "subscription",
                _ => "query",
            };
            let fields = operation.selection_set()?.selections().filter_map(|s| match s {
                Selection::Field(field) => field.name().map(|n| n.source_string()),
                _ => None,
            });
            Some(Operation {
                operation: kind,
                name: operation.name().map(|n| n.source_string().trim().to_string()).unwrap_or_default(),
                root_fields: fields.map(|f| f.trim().to_string()).collect(),
            })
        }
        _ => None,
    })
}
