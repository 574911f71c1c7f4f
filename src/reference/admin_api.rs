//! The Admin API's page: its paths from the OpenAPI document that the gateway serves.
use serde_json::Value;
use sluice_plugin::Registry;

pub fn page(registry: &Registry) -> String {
    let document = sluice_admin::openapi(registry);
    let mut out = String::from(
        "# Admin API\n\n\
         Below `/apisix/admin` on port 9180. The whole document, with the schemas of all bodies: `GET /apisix/admin/openapi.json`.\n\
         What stands beside APISIX's paths is told in the [guide](../guide/admin-api.md).\n\n\
         | path | method | does | arguments |\n|---|---|---|---|\n",
    );
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let named: Vec<String> = parameters
                .filter(|parameter| parameter["in"] != "path")
                .filter_map(|parameter| parameter["name"].as_str().map(|name| format!("`{name}`")))
                .collect();
            let summary = operation["summary"].as_str().unwrap_or_default().to_owned();
            out.push_str(&format!("| `{path}` | {} | {summary} | {} |\n", method.to_uppercase(), named.join(", ")));
        }
    }
    out.push_str("\n## Arguments\n\n| name | in | means |\n|---|---|---|\n");
    let mut told: Vec<(String, String, String)> = Vec::new();
    let operations = document["paths"]
        .as_object()
        .into_iter()
        .flatten()
        .flat_map(|(_, item)| item.as_object().into_iter().flatten().map(|(_, operation)| operation));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for parameter in operations.flat_map(|operation| operation["parameters"].as_array().into_iter().flatten()) {
        let row = (text(&parameter["name"]), text(&parameter["in"]), text(&parameter["description"]));
        if row.1 != "path" && !told.contains(&row) {
            told.push(row);
        }
    }
    told.sort();
    for (name, place, means) in told {
        out.push_str(&format!("| `{name}` | {place} | {means} |\n"));
    }
    out
}
