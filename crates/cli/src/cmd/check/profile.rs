//! `naka check --profile NAME`: a checklist, item by item, as scored findings.
//!
//! A checklist is a file: groups of items, each with the name of a measure or with what people have to do. Whoever has a
//! list of their own writes a file and names it. What is measured is in [`super::measure`]; here is reading, scoring and
//! showing, all of it from values.

use super::measure::{self, Inventory, Measured};
use crate::args::Output;
use crate::exit::{BAD, Exit, Outcome};
use crate::out;
use crate::out::Table;
use naka_api::{Kind, codes};
use naka_types::finding::Finding;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The profiles that come with the program.
const KNOWN: &[(&str, &str)] = &[
    ("zero-trust", include_str!("profiles/zero-trust.yaml")),
    ("production", include_str!("profiles/production.yaml")),
];

/// A checklist.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    about: String,
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    group: String,
    items: Vec<Item>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    item: String,
    /// Name of a measure.
    check: Option<String>,
    /// Kind of an object that there must be.
    kind: Option<String>,
    /// Field that it must have, `spec.http.retries`.
    has: Option<String>,
    /// What people do.
    manual: Option<String>,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    fix: String,
}

/// What became of an item.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    group: String,
    item: String,
    /// `ok`, `warning`, `error`, `manual`.
    state: &'static str,
    seen: String,
    #[serde(skip)]
    finding: Option<Finding>,
}

/// A profile by its name, or of a file.
pub(crate) fn named(name: &str) -> Outcome<Profile> {
    let known = KNOWN.iter().find(|(known, _)| *known == name);
    let text = match known {
        Some((_, text)) => (*text).to_owned(),
        None if name.contains(['/', '.']) => std::fs::read_to_string(name)
            .map_err(|error| Exit::failed(format!("{name}: {error}")))?,
        None => {
            let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
            return Err(Exit::usage(format!(
                "no profile {name}; there are {}, or name a file",
                names.join(", ")
            )));
        }
    };
    parse(name, &text)
}

fn parse(name: &str, text: &str) -> Outcome<Profile> {
    let profile: Profile =
        serde_saphyr::from_str(text).map_err(|error| Exit::usage(format!("{name}: {error}")))?;
    for item in profile.groups.iter().flat_map(|group| &group.items) {
        let kind = item.kind.as_deref().map(Kind::parse);
        let why = match (item.check.as_deref(), kind, &item.manual) {
            _ if item.has.is_some() && kind.is_none() => "has needs kind".to_owned(),
            (Some(check), None, None) if measure::is_known(check) => continue,
            (None, Some(Some(_)), None) | (None, None, Some(_)) => continue,
            (Some(_), None, None) => {
                format!("no such check; there are {}", measure::names().join(", "))
            }
            (None, Some(None), None) => "no such kind".to_owned(),
            _ => "write either check, kind or manual".to_owned(),
        };
        return Err(Exit::usage(format!("{name}: {:?}: {why}", item.item)));
    }
    Ok(profile)
}

/// Each item held against the inventory.
pub(crate) fn held(profile: &Profile, inventory: &Inventory) -> Vec<Line> {
    let items = profile
        .groups
        .iter()
        .flat_map(|group| group.items.iter().map(move |item| (&group.group, item)));
    items
        .map(|(group, item)| line(group, item, inventory))
        .collect()
}

fn line(group: &str, item: &Item, inventory: &Inventory) -> Line {
    let shown = |state, seen: String, finding| Line {
        group: group.to_owned(),
        item: item.item.clone(),
        state,
        seen,
        finding,
    };
    let measured = match (&item.check, &item.kind) {
        (Some(check), _) => measure::of(check, inventory),
        (None, Some(kind)) => {
            measure::having(kind, item.has.as_deref().unwrap_or_default(), inventory)
        }
        (None, None) => {
            let words = item.manual.clone().unwrap_or_default();
            return shown("manual", words, None);
        }
    };
    let seen = words(&measured);
    if measured.fulfilled() {
        return shown("ok", seen, None);
    }
    let (code, state) = if item.required {
        (codes::E970, "error")
    } else {
        (codes::W970, "warning")
    };
    let finding = Finding::new(code.id, format!("{}: {seen}", item.item)).fix(&item.fix);
    shown(
        state,
        seen,
        Some(finding.on(format_args!("profile {group}"))),
    )
}

/// What was seen, with the first that fall short.
fn words(measured: &Measured) -> String {
    const SHOWN: usize = 5;
    if measured.of == 0 {
        return measured.nothing.to_owned();
    }
    let good = measured.of - measured.short.len();
    let mut text = format!("{good} of {}", measured.of);
    if !measured.short.is_empty() {
        let first: Vec<&str> = measured
            .short
            .iter()
            .take(SHOWN)
            .map(String::as_str)
            .collect();
        let more = if measured.short.len() > SHOWN {
            ", …"
        } else {
            ""
        };
        text += &format!("; not {}{more}", first.join(", "));
    }
    text
}

/// Prints it; exit code 1 when a required item is not fulfilled.
pub(crate) fn show(
    name: &str,
    profile: &Profile,
    lines: &[Line],
    output: Option<Output>,
) -> Outcome {
    let count = |state: &str| lines.iter().filter(|line| line.state == state).count();
    let (good, manual) = (count("ok"), count("manual"));
    let of = lines.len() - manual;
    let score = (good * 100).checked_div(of).unwrap_or(100);
    let findings: Vec<&Finding> = lines
        .iter()
        .filter_map(|line| line.finding.as_ref())
        .collect();
    let whole = json!({
        "profile": name, "about": profile.about, "score": score, "fulfilled": good, "of": of, "manual": manual,
        "items": lines, "findings": findings,
    });
    match output {
        Some(Output::Json) => out::json(&whole),
        Some(Output::Yaml) => out::raw(out::yaml(&whole)),
        Some(Output::Wide) | None => {
            let mut table = Table::new(&["GROUP", "ITEM", "STATE", "SEEN"]);
            for line in lines {
                table.row([&line.group, &line.item, line.state, &line.seen]);
            }
            out::raw(table.render());
            for finding in &findings {
                out::line(finding.to_string());
            }
            out::line(format!(
                "{name}: {score} %, {good} of {of} items fulfilled; {manual} are for people"
            ));
        }
    }
    if findings.iter().any(|finding| finding.is_error()) {
        Err(Exit::silent(BAD))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profiles_name_measures_that_exist() {
        for (name, text) in KNOWN {
            let profile = parse(name, text).unwrap_or_else(|e| panic!("{name}: {}", e.message));
            let sizes: Vec<usize> = profile
                .groups
                .iter()
                .map(|group| group.items.len())
                .collect();
            // As long as the lists that they are.
            let known = match *name {
                "zero-trust" => vec![5; 5],
                _ => vec![7, 7, 7, 7, 6, 6, 6, 6, 6, 6, 6, 3],
            };
            assert_eq!(sizes, known, "{name}");
            let checked = profile.groups.iter().flat_map(|group| &group.items);
            for item in checked.filter(|item| item.manual.is_none()) {
                assert!(!item.fix.is_empty(), "{name}: {}", item.item);
            }
        }
    }

    #[test]
    fn a_list_of_ones_own_is_checked_before_it_is_used() {
        for (text, why) in [
            ("{item: a}", "either check, kind or manual"),
            (
                "{item: a, check: strict, manual: b}",
                "either check, kind or manual",
            ),
            ("{item: a, check: mtls}", "no such check"),
            ("{item: a, cheque: strict}", "cheque"),
            ("{item: a, kind: Nonsense}", "no such kind"),
            ("{item: a, manual: b, has: spec}", "has needs kind"),
        ] {
            let text = format!("about: x\ngroups:\n- {{group: g, items: [{text}]}}\n");
            let error = parse("own.yaml", &text).expect_err("refused").message;
            assert!(error.contains(why), "{error}");
        }
        assert!(named("nothing").is_err());
    }
}
