//! What the tree itself must keep to: dependency arrows, licences, file headers and sizes. No process of the mesh.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The only arrows between our crates; `*` sees all. Dev-dependencies are free.
const ARROWS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("wire", &[]),
    ("expr", &[]),
    ("api", &["types", "expr"]),
    ("store", &["types", "api"]),
    ("xds", &["types", "wire"]),
    ("identity", &["types", "wire"]),
    ("engine", &["types", "expr"]),
    ("telemetry", &["types", "wire"]),
    (
        "control",
        &[
            "types",
            "expr",
            "api",
            "store",
            "wire",
            "xds",
            "identity",
            "telemetry",
        ],
    ),
    (
        "proxy",
        &[
            "types",
            "wire",
            "xds",
            "identity",
            "expr",
            "engine",
            "telemetry",
        ],
    ),
    ("cli", &["*"]),
    ("testkit", &["*"]),
];

/// Crates that no crate of ours may bring in: a second TLS or crypto stack, or unmaintained.
const BANNED: &[&str] = &[
    "ring",
    "openssl",
    "openssl-sys",
    "native-tls",
    "serde_yaml",
    "serde_yml",
    "rustls-pemfile",
];

/// Licence words that may stand in an SPDX expression. With `OR` one alternative is enough.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "ISC",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "Zlib",
    "Unlicense",
    "0BSD",
    "CC0-1.0",
    "BSL-1.0",
    "MIT-0",
    "Unicode-3.0",
];

const FILE_LINES: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("crates/testkit")
        .to_owned()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Wrong arrows among packages given as `(name, dependencies)`.
fn wrong_arrows(packages: &[(String, Vec<String>)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, dependencies) in packages {
        let Some((_, allowed)) = ARROWS.iter().find(|(n, _)| n == name) else {
            wrong.push(format!("{name} stands in no row of ARROWS"));
            continue;
        };
        let bad = dependencies
            .iter()
            .filter(|d| !allowed.contains(&"*") && !allowed.contains(&d.as_str()));
        wrong.extend(bad.map(|d| format!("{name} must not depend on {d}")));
    }
    wrong
}

#[test]
fn arrows_point_down() {
    let metadata = metadata();
    let ours = array(&metadata["packages"]).iter().filter_map(|p| {
        let name = text(&p["name"]).strip_prefix("naka-")?;
        let normal = array(&p["dependencies"])
            .iter()
            .filter(|d| d["kind"].is_null());
        let inner = normal
            .filter_map(|d| text(&d["name"]).strip_prefix("naka-").map(str::to_owned))
            .collect();
        Some((name.to_owned(), inner))
    });
    let wrong = wrong_arrows(&ours.collect::<Vec<_>>());
    assert!(wrong.is_empty(), "{wrong:#?}");

    let twin = [
        ("engine".to_owned(), vec!["proxy".to_owned()]),
        ("stray".to_owned(), Vec::new()),
    ];
    assert_eq!(
        wrong_arrows(&twin).len(),
        2,
        "the check must find a wrong arrow and an unknown crate"
    );
}

/// Whether an SPDX expression can be met with the licences of the list.
fn permitted(expression: &str) -> bool {
    let word = |w: &str| LICENCES.contains(&w) || w == "Apache-2.0 WITH LLVM-exception";
    let plain = expression.replace(['(', ')'], " ").replace('/', " OR ");
    plain
        .split(" OR ")
        .any(|side| side.split(" AND ").all(|w| word(w.trim())))
}

#[test]
fn every_dependency_is_permitted() {
    // What is really built: the lock file also names packages behind features that nobody switches on.
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--workspace",
            "--locked",
            "-e",
            "normal,build,dev",
            "--prefix",
            "none",
            "--format",
            "{p}|{l}",
        ])
        .current_dir(root())
        .output()
        .expect("cargo tree");
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut wrong = Vec::new();
    for line in listed.lines().collect::<BTreeSet<_>>() {
        let (package, licence) = line
            .trim_end_matches(" (*)")
            .split_once('|')
            .unwrap_or_default();
        let name = package.split(' ').next().unwrap_or_default();
        if BANNED.contains(&name) {
            wrong.push(format!("{name} is banned"));
        }
        if !name.is_empty() && !permitted(licence.trim_end_matches(" (*)")) {
            wrong.push(format!("{package}: licence {licence:?}"));
        }
    }
    assert!(
        listed.lines().count() > 100,
        "the list is read: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(
        !permitted("GPL-3.0-or-later")
            && !permitted("MIT AND MPL-2.0")
            && permitted("GPL-2.0 OR MIT")
    );
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|n| n != "gen" && n != "target") {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// What is wrong with one file.
fn untidy(name: &str, content: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if !content.starts_with("//!") {
        wrong.push(format!("{name} has no header (//!)"));
    }
    let code = content
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default()
        .lines()
        .count();
    if code > FILE_LINES {
        wrong.push(format!(
            "{name} has {code} lines; split it by what it decides (limit {FILE_LINES}, tests aside)"
        ));
    }
    if name.ends_with("/mod.rs") || name.ends_with("/utils.rs") || name.ends_with("/helpers.rs") {
        wrong.push(format!("{name}: name the file by what it holds"));
    }
    if content.contains("#[allow(") || content.contains("#![allow(") {
        wrong.push(format!(
            "{name}: #[expect(lint, reason = \"…\")] instead of allow"
        ));
    }
    wrong
}

#[test]
fn files_are_tidy() {
    let mut files = Vec::new();
    sources(&root().join("crates"), &mut files);
    let seen: BTreeSet<_> = files.iter().collect();
    assert!(seen.len() > 50, "the walk finds the tree");
    let this = Path::new(file!()).file_name();
    let wrong: Vec<String> = files
        .iter()
        .filter(|f| f.file_name() != this)
        .flat_map(|f| {
            untidy(
                &f.strip_prefix(root()).unwrap_or(f).display().to_string(),
                &std::fs::read_to_string(f).unwrap_or_default(),
            )
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(
        untidy("a/utils.rs", "use x;\n#[allow(y)]\n").len(),
        3,
        "the check must find what is untidy"
    );
}
