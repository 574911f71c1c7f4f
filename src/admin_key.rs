//! The keys of the Admin API. The surprise: where config.yaml leaves an admin's key empty, one is made at the first start
//! and kept in the data directory, while APISIX writes it into config.yaml (apisix/core/id.lua).
use anyhow::Context as _;
use sluice_admin::{AdminKey, Role};
use sluice_config::settings::deployment::Admin;
use std::fs::{OpenOptions, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// The generated key's file below the data directory.
pub const FILE: &str = "admin.key";

/// The keys of config.yaml; an empty one of role admin stands for the generated key.
pub fn keys(admin: &Admin, data_dir: &Path) -> anyhow::Result<Vec<AdminKey>> {
    let mut keys = Vec::new();
    for key in &admin.admin_key {
        let role = if key.role == "admin" { Role::Admin } else { Role::Viewer };
        let text = match (key.key.is_empty(), role) {
            (false, _) => key.key.clone(),
            (true, Role::Admin) if admin.admin_key_required => generated(data_dir)?,
            (true, _) => continue,
        };
        keys.push(AdminKey { name: key.name.clone(), key: text, role });
    }
    Ok(keys)
}

/// The key in the data directory, made if there is none.
fn generated(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join(FILE);
    let told = || format!("the Admin API's key in {}", path.display());
    std::fs::create_dir_all(data_dir).with_context(told)?;
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Ok(mut file) => {
            let key = sluice_plugin::env::random_hex_16();
            file.write_all(key.as_bytes()).and_then(|()| file.sync_all()).with_context(told)?;
            tracing::warn!(path = %path.display(), "config.yaml has no admin_key: one was made, it is in this file");
            Ok(key)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let key = std::fs::read_to_string(&path).with_context(told)?.trim().to_owned();
            anyhow::ensure!(!key.is_empty(), "{} is empty: delete it and a key is made anew", path.display());
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).with_context(told)?;
            tracing::info!(path = %path.display(), "the Admin API's key is in this file");
            Ok(key)
        }
        Err(error) => Err(error).with_context(told),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_config::environment::Environment;
    use sluice_config::settings::Settings;

    fn admin(yaml: &str) -> Admin {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, yaml).unwrap();
        Settings::load(&path, &Environment::Process).unwrap().deployment.admin
    }

    #[test]
    fn an_empty_key_is_made_once_and_readable_by_its_owner_alone() {
        let data = tempfile::tempdir().unwrap();
        let made = keys(&admin("deployment: {}"), data.path()).unwrap();
        assert_eq!((made[0].key.len(), made[0].role), (32, Role::Admin));
        let mode = std::fs::metadata(data.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let two =
            "deployment: {admin: {admin_key: [{name: a, key: '', role: admin}, {name: v, key: look, role: viewer}]}}";
        let again = keys(&admin(two), data.path()).unwrap();
        assert_eq!(again[0].key, made[0].key);
        assert_eq!((again[1].key.as_str(), again[1].role), ("look", Role::Viewer));
    }

    #[test]
    fn no_key_is_made_where_none_is_asked_for() {
        let data = tempfile::tempdir().unwrap();
        for yaml in ["deployment: {admin: {admin_key: null}}", "deployment: {admin: {admin_key_required: false}}"] {
            let admin = admin(yaml);
            assert!(!admin.admin_key_required, "{yaml}");
            assert!(keys(&admin, data.path()).unwrap().is_empty(), "{yaml}");
        }
        assert!(!data.path().join(FILE).exists());
    }
}
