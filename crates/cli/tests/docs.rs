//! Documentation that is checked: the contracts name their tests, the table of reasons is the one of the code.
//!
//! `NAKA_WRITE_DOCS=1 cargo test -p naka-cli --test docs` writes the generated page anew.

use naka_types::reason::Reason;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("crates/cli lies two levels deep")
        .to_owned()
}

fn reasons() -> String {
    let mut page = String::from(
        "# Reasons\n\nEvery reply that a proxy makes itself, and every connection it ends itself, carries one of these codes: in the header `x-naka-reason` (removed at gateways), in the access log and as a metric label. `naka explain CODE` prints a row. gRPC callers get HTTP 200 with the gRPC status. Generated from `crates/types/src/reason.rs`.\n\n| code | HTTP | gRPC | flag | meaning and what to do |\n|---|---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let http = match reason.http_status() {
            0 => "-".to_owned(),
            status => status.to_string(),
        };
        let _ = writeln!(
            page,
            "| `{}` | {http} | {} | {} | {} |",
            reason.code(),
            reason.grpc_status(),
            reason.flag(),
            reason.meaning()
        );
    }
    page
}

#[test]
fn the_page_of_reasons_is_the_table_of_the_code() {
    let path = root().join("docs/reference/reasons.md");
    if std::env::var_os("NAKA_WRITE_DOCS").is_some() {
        std::fs::write(&path, reasons()).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        page,
        reasons(),
        "run: NAKA_WRITE_DOCS=1 cargo test -p naka-cli --test docs"
    );
}

fn sources(dir: &Path, found: &mut String) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push_str(&std::fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

/// Names of the tests in a source: functions with a test's attribute, whatever else stands between the two.
fn tests_in(code: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let mut marked = false;
    for line in code.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if marked && let Some((_, rest)) = line.split_once("fn ") {
            found.extend(rest.split('(').next());
            marked = false;
        }
    }
    found
}

/// Rows of the contracts without proof: neither a test that exists nor the word "reserved".
fn unproved(page: &str, known: &BTreeSet<&str>) -> Vec<String> {
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| contract "));
    let mut wrong = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let proof = cells.last().copied().unwrap_or_default();
        let tests: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
        if tests.is_empty() && !proof.contains("reserved") {
            wrong.push(format!("no proof: {row}"));
        }
        for test in tests {
            if !known.contains(test) {
                wrong.push(format!("no test {test}: {row}"));
            }
        }
    }
    wrong
}

#[test]
fn each_line_of_the_contracts_has_a_test_or_is_reserved() {
    let mut code = String::new();
    sources(&root().join("crates"), &mut code);
    let page = std::fs::read_to_string(root().join("docs/reference/contracts.md")).unwrap();
    assert!(page.lines().filter(|line| line.starts_with("| ")).count() > 20);
    let known = tests_in(&code);
    for evidence in ["kubectl_works", "between_sidecars_there_is_only_tls"] {
        assert!(
            known.contains(evidence),
            "the evidence is searched too: {evidence}"
        );
    }
    let wrong = unproved(&page, &known);
    assert!(wrong.is_empty(), "{wrong:#?}");

    let twin = "| contract | held by |\n| x | reserved |\n| x | `a_test` |\n| x | `a_helper` |\n| x | soon |\n";
    let source = "#[tokio::test]\n#[ignore]\nasync fn a_test() {}\nfn a_helper() {}\n";
    assert_eq!(
        unproved(twin, &tests_in(source)).len(),
        2,
        "the check must find what is no test and a missing proof"
    );
}

/// Links between pages lead somewhere.
#[test]
fn links_of_the_documentation_lead_somewhere() {
    let mut pages = vec![
        root().join("README.md"),
        root().join("ARCHITECTURE.md"),
        root().join("CONTRIBUTING.md"),
    ];
    let mut dirs = vec![root().join("docs")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                pages.push(path);
            }
        }
    }
    let mut broken = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty()
                && !target.contains("://")
                && !page.parent().unwrap().join(file).exists()
            {
                broken.push(format!("{} -> {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

/// What a page of troubleshooting lacks: a reason without its entry, an entry without one of its four lines, a
/// command that `naka` does not know, an entry for no reason.
fn lacks(page: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let entries: Vec<(&str, &str)> = page
        .split("\n## `")
        .skip(1)
        .filter_map(|entry| entry.split_once("`\n"))
        .collect();
    for reason in Reason::ALL {
        if !entries.iter().any(|(code, _)| *code == reason.code()) {
            wrong.push(format!("{reason} has no entry"));
        }
    }
    for (code, text) in entries {
        if Reason::parse(code).is_none() {
            wrong.push(format!("{code} is no reason"));
        }
        for line in [
            "- **Seen**: ",
            "- **Cause**: ",
            "- **Look**: `",
            "- **Fix**: ",
        ] {
            if !text.contains(line) {
                wrong.push(format!("{code} has no line {line}"));
            }
        }
        let command = text
            .split("- **Look**: `naka ")
            .nth(1)
            .and_then(|rest| rest.split(['`', ' ']).next());
        if let Some(command) = command {
            let known = std::process::Command::new(env!("CARGO_BIN_EXE_naka"))
                .args([command, "--help"])
                .output()
                .expect("naka starts");
            if !known.status.success() {
                wrong.push(format!("{code}: naka {command} is no command"));
            }
        }
    }
    wrong
}

#[test]
fn every_reason_has_its_entry_in_troubleshooting() {
    let page = std::fs::read_to_string(root().join("docs/tasks/troubleshoot.md")).unwrap();
    assert_eq!(lacks(&page), Vec::<String>::new());
    let twin = page
        .replace("## `no-route`", "## `no-road`")
        .replacen("- **Fix**", "- Fix", 1)
        .replacen("`naka status`", "`naka state`", 1);
    let found = lacks(&twin);
    assert_eq!(found.len(), 4, "{found:#?}");
}
