//! The proto resources that are in force, by id. The surprise: who uses one holds a place that is there before the resource is, and
//! that changes with it; nothing that names a proto is built anew for its sake.
use crate::{Definition, ProtoError};
use arc_swap::ArcSwapOption;
use foldhash::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The place of one proto resource.
#[derive(Debug, Default)]
pub struct Proto(ArcSwapOption<Definition>);

impl Proto {
    /// What it says now; `None`: there is no such resource.
    pub fn definition(&self) -> Option<Arc<Definition>> {
        self.0.load_full()
    }

    /// Whether it still says this.
    pub fn says(&self, definition: &Arc<Definition>) -> bool {
        self.0.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, definition))
    }
}

/// All proto resources.
#[derive(Debug, Default)]
pub struct Library(Mutex<HashMap<Box<str>, Arc<Proto>>>);

impl Library {
    fn places(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Proto>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a resource, whether it is there or not.
    pub fn proto(&self, id: &str) -> Arc<Proto> {
        self.places().entry(id.into()).or_default().clone()
    }

    /// Compiles a resource's content; from now on it holds. Content that does not compile leaves what held before.
    pub fn set(&self, id: &str, content: &str) -> Result<(), ProtoError> {
        let definition = Definition::compile(content)?;
        self.proto(id).0.store(Some(Arc::new(definition)));
        Ok(())
    }

    /// A resource is no more.
    pub fn remove(&self, id: &str) {
        let mut places = self.places();
        if let Some(proto) = places.get(id) {
            proto.0.store(None);
        }
        places.retain(|_, proto| Arc::strong_count(proto) > 1 || proto.0.load().is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"syntax = "proto3"; package a; message M {} service S { rpc One (M) returns (M); }"#;

    #[test]
    fn a_place_changes_with_its_resource() {
        let library = Library::default();
        let place = library.proto("1");
        assert!(place.definition().is_none());
        library.set("1", ONE).unwrap();
        let first = place.definition().unwrap();
        assert!(first.method("a.S", "One").is_some() && place.says(&first));
        assert!(library.set("1", "message {").is_err());
        assert!(place.says(&first), "what does not compile changes nothing");
        library.set("1", &ONE.replace("One", "Two")).unwrap();
        assert!(!place.says(&first) && place.definition().unwrap().method("a.S", "Two").is_some());
        library.remove("1");
        assert!(place.definition().is_none());
        drop(place);
        library.remove("2");
        assert!(library.places().is_empty());
    }
}
