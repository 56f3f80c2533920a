//! The reference pages say what the code does: tables in `docs/reference` are compared with the tables in the crate.
//!
//! `NAKA_WRITE_DOCS=1 cargo test -p naka-api --test docs` writes them anew.

use naka_api::{Kind, codes, schema};
use std::path::PathBuf;

const BEGIN: &str = "<!-- fields: generated from crates/api, do not edit -->";
const END: &str = "<!-- end of fields -->";

fn path(name: &str) -> PathBuf {
    PathBuf::from(format!(
        "{}/../../docs/reference/{name}.md",
        env!("CARGO_MANIFEST_DIR")
    ))
}

fn write() -> bool {
    std::env::var_os("NAKA_WRITE_DOCS").is_some()
}

#[test]
fn every_code_is_explained_and_every_explained_code_exists() {
    let file = path("findings");
    if write() {
        std::fs::write(&file, codes::page()).unwrap();
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let documented: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next())
        .filter(|word| *word != "code")
        .collect();
    let emitted: Vec<&str> = codes::TABLE.iter().map(|code| code.id).collect();
    assert_eq!(documented, emitted);
    assert_eq!(text, codes::page(), "run with NAKA_WRITE_DOCS=1");
}

#[test]
fn the_field_tables_are_current() {
    for kind in Kind::all() {
        let file = path(&kind.page_name());
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let (head, rest) = text
            .split_once(BEGIN)
            .unwrap_or_else(|| panic!("{kind}: {BEGIN}"));
        let (table, tail) = rest
            .split_once(END)
            .unwrap_or_else(|| panic!("{kind}: {END}"));
        let want = format!("\n{}", schema::page(kind));
        if write() {
            std::fs::write(&file, format!("{head}{BEGIN}{want}{END}{tail}")).unwrap();
        } else {
            assert_eq!(table, want, "{kind}: run with NAKA_WRITE_DOCS=1");
        }
        let names = kind.names();
        assert!(head.contains(&format!("# {kind}")), "{kind}: title");
        for short in names.short {
            assert!(
                head.contains(&format!("`{short}`")),
                "{kind}: short name {short}"
            );
        }
        for version in names.versions {
            assert!(head.contains(version), "{kind}: version {version}");
        }
    }
}
