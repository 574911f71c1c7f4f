//! Names of variables as scripts write them, resolved once per thread.
use sluice_expr::Variable;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// More names than this are forgotten together; scripts may make names up.
const KEPT: usize = 1024;

thread_local! {
    static NAMES: RefCell<HashMap<Box<str>, Rc<Variable>>> = RefCell::default();
}

/// The variable of this name.
pub(crate) fn variable(name: &str) -> Rc<Variable> {
    NAMES.with_borrow_mut(|names| {
        if let Some(found) = names.get(name) {
            return found.clone();
        }
        if names.len() >= KEPT {
            names.clear();
        }
        let made = Rc::new(Variable::parse(name));
        names.insert(name.into(), made.clone());
        made
    })
}
