//! `docs/reference/fields.md` is current, and every proof it names exists.
//!
//! `NAKA_WRITE_DOCS=1 cargo test -p naka-api --test fields` writes the page. The lists of proofs are
//! `cases/proofs-by-case.txt`, which a test of the command line's crate makes and holds against the cases,
//! `cases/proofs-by-test.txt`, kept by hand, and the `twins:` of the cases, each of which `make referee` tries at real
//! proxies: it fails unless the field left out, or with another value, gives another verdict.

use naka_api::Kind;
use naka_api::schema::Now;
use naka_api::schema::flat::{Row, rows};
use naka_api::schema::inventory::{Proofs, page};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn proofs() -> Proofs {
    let list = |name: &str| std::fs::read_to_string(root().join("cases").join(name)).expect(name);
    let lists = [
        twins(&root().join("cases")),
        list("proofs-by-case.txt"),
        list("proofs-by-test.txt"),
    ];
    Proofs::read(&lists.each_ref().map(String::as_str)).expect("kind, path, proof")
}

/// Fields that twins of cases name, as lines of a list.
fn twins(cases: &Path) -> String {
    let mut found = Vec::new();
    for dir in std::fs::read_dir(cases).expect("cases").flatten() {
        for file in std::fs::read_dir(dir.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            let text = std::fs::read_to_string(file.path()).unwrap_or_default();
            let (dir, file) = (dir.file_name(), file.file_name());
            let case = format!("cases/{}/{}", dir.display(), file.display());
            // Old spellings that no CRD has are tried, too, and have no line on the page.
            let named = text.lines().filter_map(twin).filter(|(kind, path)| {
                let rows = Kind::parse(kind).map(rows).unwrap_or_default();
                rows.iter().any(|row| row.path == *path && claims(row))
            });
            found.extend(named.map(|(kind, path)| format!("{kind} {path} {case}\n")));
        }
    }
    // The last of several is taken: the same one on every machine.
    found.sort_unstable();
    found.concat()
}

/// Kind and path of `- {of: Kind/name, path: "…", …}`.
fn twin(line: &str) -> Option<(&str, &str)> {
    let (kind, rest) = line.strip_prefix("- {of: ")?.split_once('/')?;
    let path = rest.split_once("path: \"")?.1.split_once('"')?.0;
    Some((kind, path))
}

#[test]
fn the_page_of_all_fields_is_current() {
    let file = root().join("docs/reference/fields.md");
    let want = page(&proofs());
    if std::env::var_os("NAKA_WRITE_DOCS").is_some() {
        std::fs::write(&file, &want).expect("written");
    }
    let kept = std::fs::read_to_string(&file).expect("the page");
    assert!(kept == want, "stale: run with NAKA_WRITE_DOCS=1");
}

/// Why a proof shows nothing, if so.
fn faulty(kind: &str, path: &str, proof: &str) -> Option<String> {
    let (file, test) = proof
        .split_once('#')
        .map_or((proof, None), |(f, t)| (f, Some(t)));
    let Ok(text) = std::fs::read_to_string(root().join(file)) else {
        return Some(format!("{proof} does not exist"));
    };
    let last = path.rsplit('.').next().unwrap_or(path);
    match test {
        Some(test) if !text.contains(&format!("fn {test}(")) => {
            return Some(format!("{proof}: no such test"));
        }
        None if !text.contains(last) && !text.contains("files:") => {
            return Some(format!("{proof} does not use {last}"));
        }
        _ => {}
    }
    let Some(kind) = Kind::parse(kind) else {
        return Some(format!("no kind {kind}"));
    };
    let claimed = rows(kind)
        .iter()
        .any(|row| row.path.ends_with(path) && claims(row));
    (!claimed).then(|| format!("{kind} {path} is no field that claims to be enforced"))
}

/// Whether the page says that a field does something.
fn claims(row: &Row) -> bool {
    // An old spelling that the CRDs still have is a field like any other.
    let claims = matches!(row.now, Now::Yes | Now::Alias("W111"));
    (claims || row.now.idle().is_some()) && row.named() && !row.block()
}

#[test]
fn every_proof_exists_and_is_for_a_field_that_claims_it() {
    let proofs = proofs();
    let wrong: Vec<String> = proofs
        .all()
        .filter_map(|(kind, path, proof)| faulty(kind, path, proof))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Twins: what must be found faulty is.
    let host = "spec.hosts";
    let case = "cases/action/redirect.yaml";
    assert_eq!(faulty("VirtualService", host, case), None);
    for (kind, path, proof) in [
        ("VirtualService", host, "cases/none.yaml"),
        ("VirtualService", "spec.http[].timeout", case),
        ("VirtualService", host, "crates/api/tests/fields.rs#none"),
        (
            "EnvoyFilter",
            "spec.priority",
            "crates/api/tests/fields.rs#root",
        ),
        ("Nothing", host, case),
    ] {
        assert!(faulty(kind, path, proof).is_some(), "{kind} {path} {proof}");
    }
}

#[test]
fn an_object_of_a_kind_that_is_not_in_force_says_so_however_empty_it_is() {
    for kind in Kind::all().filter(|kind| *kind != Kind::Namespace) {
        let some = rows(kind)
            .iter()
            .any(|row| row.named() && !row.block() && !matches!(row.now, Now::NotYet));
        assert_eq!(kind.in_force(), some, "{kind}");
    }
    let empty = |kind: &str, group: &str| {
        let text =
            format!("apiVersion: {group}\nkind: {kind}\nmetadata: {{name: all}}\nspec: {{}}\n");
        naka_api::decode_yaml("a.yaml", text.as_bytes(), naka_api::Mode::Compat).findings
    };
    let said = empty("Telemetry", "telemetry.istio.io/v1");
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!((said[0].code.as_str(), said[0].line), ("W900", 1));
    let twin = empty("PeerAuthentication", "security.istio.io/v1");
    assert!(twin.is_empty(), "{twin:?}");
}
