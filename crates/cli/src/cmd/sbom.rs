//! `naka version --sbom`: what this program is built of, in CycloneDX, for a scanner that knows today's advisories.
//!
//! It is made of the lock file that the build used (`--locked`), which is inside the program: so it is of this very
//! program and needs neither source nor network. The lock file names what only tests use, too; a scanner that finds
//! nothing in it finds nothing in the program. No time and no serial number: the same program says the same.

use serde_json::{Value, json};

const LOCK: &str = include_str!("../../../../Cargo.lock");

/// The document.
pub(crate) fn document() -> Value {
    of(LOCK)
}

fn of(lock: &str) -> Value {
    let packages: Vec<Package<'_>> = lock
        .split("[[package]]")
        .skip(1)
        .map(Package::read)
        .collect();
    let components: Vec<Value> = packages.iter().map(Package::component).collect();
    let dependencies: Vec<Value> = packages.iter().map(|one| one.depends(&packages)).collect();
    let version = env!("CARGO_PKG_VERSION");
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "naka", "version": version, "bom-ref": "naka"}},
        "components": components,
        "dependencies": dependencies,
    })
}

/// A package of the lock file.
#[derive(Debug, Default)]
struct Package<'a> {
    name: &'a str,
    version: &'a str,
    checksum: Option<&'a str>,
    registry: bool,
    needs: Vec<&'a str>,
}

impl<'a> Package<'a> {
    fn read(text: &'a str) -> Self {
        let mut own = Self::default();
        for line in text.lines() {
            let value = |line: &'a str| line.split('"').nth(1).unwrap_or_default();
            match line.split(" = ").next().unwrap_or_default() {
                "name" => own.name = value(line),
                "version" => own.version = value(line),
                "checksum" => own.checksum = Some(value(line)),
                "source" => own.registry = value(line).starts_with("registry+"),
                _ if line.starts_with(" \"") => own.needs.push(value(line)),
                _ => {}
            }
        }
        own
    }

    fn reference(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }

    fn component(&self) -> Value {
        let reference = self.reference();
        let mut all = json!({"type": "library", "name": self.name, "version": self.version, "bom-ref": reference});
        // What is no registry's is this project's own, and no advisory is about it under that name.
        if self.registry {
            all["purl"] = json!(reference);
        }
        if let Some(checksum) = self.checksum {
            all["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
        }
        all
    }

    /// A need is `name`, or `name version` where there are several.
    fn depends(&self, all: &[Package<'_>]) -> Value {
        let found = self.needs.iter().filter_map(|need| {
            let (name, version) = need.split_once(' ').unwrap_or((need, ""));
            all.iter()
                .find(|one| one.name == name && (version.is_empty() || one.version == version))
        });
        let needs: Vec<String> = found.map(Package::reference).collect();
        json!({"ref": self.reference(), "dependsOn": needs})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_of_the_lock_file_is_there_with_what_it_needs() {
        let whole = document();
        let components = whole["components"].as_array().expect("a list");
        assert_eq!(components.len(), LOCK.matches("[[package]]").count());
        let named = |name: &str| {
            components
                .iter()
                .find(|one| one["name"] == name)
                .expect("a component")
        };
        assert!(
            named("rustls")["purl"]
                .as_str()
                .expect("a purl")
                .starts_with("pkg:cargo/rustls@")
        );
        assert_eq!(
            named("rustls")["hashes"][0]["content"]
                .as_str()
                .map(str::len),
            Some(64)
        );
        assert_eq!(named("naka-cli").get("purl"), None);
        let needs = LOCK.lines().filter(|line| line.starts_with(" \"")).count();
        let told = whole["dependencies"].as_array().expect("a list").iter();
        let told: usize = told
            .map(|one| one["dependsOn"].as_array().map_or(0, Vec::len))
            .sum();
        assert_eq!(told, needs);
    }
}
