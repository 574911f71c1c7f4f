#[test]
fn dump() {
    let mut all = serde_json::Map::new();
    for kind in crate::Kind::ALL { all.insert(kind.name().replace(' ', "_"), crate::schemas::document(kind).clone()); }
    std::fs::write("/tmp/model-schemas.json", serde_json::Value::Object(all).to_string()).unwrap();
    // every reference schema compiles
    let reference: serde_json::Value = serde_json::from_str(&std::fs::read_to_string("/work/shared/reference/apisix-schema.json").unwrap()).unwrap();
    let mut n = 0;
    for part in ["plugins", "stream_plugins"] {
        for (name, plugin) in reference[part].as_object().unwrap() {
            for key in ["schema", "consumer_schema", "metadata_schema"] {
                if let Some(doc) = plugin.get(key) { n += 1; if let Err(e) = crate::Schema::new(doc.clone()) { println!("{name} {key}: {e}"); } 
                  if key == "schema" { let mut d = doc.clone(); if let Some(p) = d.get_mut("properties").and_then(|p| p.as_object_mut()) { p.remove("_meta"); } d.as_object_mut().unwrap().remove("$comment"); crate::inject_meta(&mut d); if &d != doc { println!("meta differs {name}"); } } }
            }
        }
    }
    println!("compiled {n}");
}
