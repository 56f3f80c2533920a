//! What the shapes find: attacks, and clean traffic that they must leave alone.

use super::{SETS, find, set, strict};
use crate::canonical::{Canonical, Origin};
use crate::model::{Pattern, Sought};
use std::collections::BTreeMap;

/// Requests as lines: `TARGET | NAME: VALUE | …`; a line of the attacks begins with its set.
const CLEAN: &str = include_str!("tests/clean.txt");
const ATTACKS: &str = include_str!("tests/attacks.txt");

fn request(line: &str) -> Canonical {
    let mut parts = line.split(" | ");
    // What no client writes as it is, since every server refuses it.
    let target = parts.next().unwrap().trim();
    let target = target.replace('<', "%3C").replace('>', "%3E");
    let target = match target.split_once('?') {
        Some((path, query)) => format!("{path}?{}", query.replace('"', "%22")),
        None => target,
    };
    let mut request = http::Request::builder().uri(target).header("host", "shop");
    for header in parts {
        let (name, value) = header.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    let (parts, ()) = request
        .body(())
        .unwrap_or_else(|e| panic!("{line}: {e}"))
        .into_parts();
    let origin = Origin::outbound(80);
    Canonical::from_parts(parts, &origin).unwrap_or_else(|e| panic!("{line}: {e:?}"))
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn sought(name: &str) -> Vec<Sought> {
    vec![Sought {
        rule: name.into(),
        pattern: Pattern::search(&set(name).unwrap()).unwrap(),
    }]
}

/// What is taken for an attack and is none: prose with a semicolon before the name of a program and one more word.
fn known(name: &str) -> &'static [&'static str] {
    match name {
        "commandInjection" => &["/search?q=first;+find+them"],
        _ => &[],
    }
}

/// Prints how many clean requests each set takes for attacks; none may be more than what is known.
#[test]
fn clean_traffic() {
    let all: Vec<Canonical> = lines(CLEAN).map(request).collect();
    assert!(all.len() >= 150, "{}", all.len());
    for name in SETS {
        let sought = sought(name);
        let wrong: Vec<&str> = lines(CLEAN)
            .zip(&all)
            .filter(|(_, request)| find(&sought, request).is_some())
            .map(|(line, _)| line)
            .collect();
        println!("{name}: {} of {} clean requests", wrong.len(), all.len());
        assert_eq!(wrong, known(name), "{name}");
    }
    let strict = lines(CLEAN)
        .zip(&all)
        .filter(|(_, request)| strict(request).is_some());
    println!("syntax: {} of {} clean requests", strict.count(), all.len());
}

/// Prints how many attacks each set finds; twin: without it all get through.
#[test]
fn attacks() {
    let mut found: BTreeMap<&str, (usize, Vec<&str>)> = BTreeMap::new();
    for line in lines(ATTACKS) {
        let (name, attack) = line.split_once(' ').unwrap();
        let request = request(attack);
        assert!(find(&[], &request).is_none());
        let (all, missed) = found.entry(name).or_default();
        *all += 1;
        if find(&sought(name), &request).is_none() {
            missed.push(attack);
        }
    }
    for name in SETS {
        let (all, missed) = &found[name];
        println!(
            "{name}: {} of {all} attacks, missed: {missed:#?}",
            all - missed.len()
        );
        assert!(
            *all >= 20 && missed.len() * 10 <= *all,
            "{name}: {missed:#?}"
        );
    }
}

/// Two escapes deep, in a name, in a header: where programs read it.
#[test]
fn an_attack_is_found_wherever_a_program_reads_it() {
    let sql = sought("sqlInjection");
    for (line, hit) in [
        ("/a?q=x'+or+'1'%3D'1", true),
        ("/a?q=x%2527%20or%20%25271%2527%3D%25271", true),
        ("/a?x'+or+'1'%3D'1=q", true),
        ("/a/x'%20or%20'1'='1", true),
        ("/a | x-user: admin'--", true),
        ("/a | cookie: id=1' or '1'='1", true),
        // Parts of a query are not read together.
        ("/a?q=x'&or='1'", false),
        ("/a?q=or", false),
    ] {
        assert_eq!(find(&sql, &request(line)).is_some(), hit, "{line}");
    }
}

#[test]
fn a_strict_reading() {
    for (line, wrong) in [
        ("/a/b.c;v=1/d:e@f!$&'()*+,=~?x=1&y=/?:@ | accept: */*", None),
        ("/%C3%A4?q=%C3%A4", None),
        ("/a\"b", Some("the path has")),
        ("/a{b}", Some("the path has")),
        ("/a|b", Some("the path has")),
        ("/a?q={a:1}", Some("the query has a character")),
        ("/a?a[]=1", Some("the query has a character")),
        ("/a?q=%zz", Some("the query has a broken escape")),
        ("/a?q=%4", Some("the query has a broken escape")),
        ("/a?q=%00", Some("the query has an escaped NUL")),
        ("/a | x_forwarded_for: 1", Some("the name of a header")),
        ("/a | x-name: Zoë", Some("a header has bytes")),
        (
            "/a | user-agent: a | user-agent: b",
            Some("a header that may come once"),
        ),
        ("/a | accept: a | accept: b", None),
    ] {
        let got = strict(&request(line));
        let fits = match (got, wrong) {
            (Some(got), Some(wrong)) => got.starts_with(wrong),
            (got, wrong) => got == wrong,
        };
        assert!(fits, "{line}: {got:?}");
    }
}

/// Expressions are linear: the longest head there may be takes no longer per byte than a short one.
#[test]
fn sets_compile_within_the_caps() {
    for name in SETS {
        let pattern = Pattern::search(&set(name).unwrap()).unwrap();
        let long = "' or (((".repeat(8 * 1024);
        assert!(!pattern.is_found(long.as_bytes()), "{name}");
    }
    assert_eq!(set("nothing"), None);
}
