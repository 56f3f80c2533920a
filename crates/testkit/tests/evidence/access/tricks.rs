//! Paths and hosts in disguise against each form of a policy: a Naka and a stock Envoy under the same objects decide the
//! same, and what gets through has at the program the very target that was judged.
//!
//! Requests are bytes written by the test: clients with manners normalise before they send. Each form stands in an ALLOW
//! and in a DENY policy and is reached by a header of its own, so one set of objects holds for all. Variants are made by
//! a seed: each trick once against each form, then two and three tricks at a time. What a program received is read from
//! its own log. Where Naka refuses what an Envoy lets through, the trick stands in [`STRICTER`] with its reason, nothing
//! may stand there in vain, and the other way round nothing is allowed at all.

use crate::envoy::{self, inbound};
use fastrand::Rng;
use naka_testkit::mesh::{Mesh, SOON};
use naka_testkit::{size, wait::until};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const SEED: u64 = 1921;
/// Who says nothing for so long says nothing.
const QUIET: Duration = Duration::from_secs(2);

/// What a variant begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    method: String,
    path: String,
    host: String,
    /// Header lines about the caller's role.
    role: String,
}

/// A form of a rule, and a request that it is meant for.
struct Form {
    name: &'static str,
    operation: &'static str,
    path: &'static str,
    host: &'static str,
}

const fn form(
    name: &'static str,
    operation: &'static str,
    path: &'static str,
    host: &'static str,
) -> Form {
    Form {
        name,
        operation,
        path,
        host,
    }
}

/// Stands for a condition instead of an operation.
const ROLE: &str = "{key: 'request.headers[x-role]', values: [root]}";
const VAULT: &str = "/secret/vault/key";
const HOST: &str = "shield.example";

const FORMS: &[Form] = &[
    form("exact", "paths: [/secret/vault/key]", VAULT, HOST),
    form("prefix", "paths: ['/secret/*']", VAULT, HOST),
    form("suffix", "paths: ['*/vault/key']", VAULT, HOST),
    form("presence", "paths: ['*']", VAULT, HOST),
    form("segment", "paths: ['/secret/{*}/key']", VAULT, HOST),
    form("rest", "paths: ['/secret/{**}']", VAULT, HOST),
    form("amid", "paths: ['/{**}/key']", VAULT, HOST),
    form("not-exact", "notPaths: [/secret/vault/key]", VAULT, HOST),
    form("not-prefix", "notPaths: ['/secret/*']", VAULT, HOST),
    form("not-suffix", "notPaths: ['*/key']", VAULT, HOST),
    form("not-template", "notPaths: ['/secret/{*}/key']", VAULT, HOST),
    form("host", "hosts: [shield.example]", VAULT, HOST),
    form("hosts", "hosts: ['*.example']", VAULT, HOST),
    form("host-prefix", "hosts: ['shield.*']", VAULT, HOST),
    form(
        "host-port",
        "hosts: ['shield.example:80']",
        VAULT,
        "shield.example:80",
    ),
    form("bracket", "hosts: ['[::1]']", VAULT, "[::1]"),
    form("not-host", "notHosts: [shield.example]", VAULT, HOST),
    form("not-hosts", "notHosts: ['*.example']", VAULT, HOST),
    form("header", ROLE, VAULT, HOST),
    form("method", "methods: [GET]", VAULT, HOST),
    form("methods", "methods: ['G*']", VAULT, HOST),
    form("not-method", "notMethods: [GET]", VAULT, HOST),
    form(
        "both",
        "paths: [/secret/vault/key], hosts: [shield.example], methods: [GET]",
        VAULT,
        HOST,
    ),
];

/// The target names a host, Host another.
const APART: &str = "absolute beside another Host";

/// Dots as escapes, and parameters behind them.
const CLIMBS: &str = "escaped dots with parameters";

/// What is done to a line, at a place that chance chooses where there are several.
type Trick = (&'static str, fn(&mut Rng, &mut Line));

const TRICKS: &[Trick] = &[
    ("plain", |_, _| {}),
    ("other path", |_, l| l.path = "/public/a".to_owned()),
    ("other host", |_, l| l.host = "other.test".to_owned()),
    ("//", |r, l| at_slash(r, l, "//")),
    ("/./", |r, l| at_slash(r, l, "/./")),
    ("/x/../", |r, l| at_slash(r, l, "/x/../")),
    ("/x/%2e%2e/", |r, l| at_slash(r, l, "/x/%2e%2e/")),
    ("/x/.%2E/", |r, l| at_slash(r, l, "/x/.%2E/")),
    ("/%2e/", |r, l| at_slash(r, l, "/%2e/")),
    ("/x%2f..%2f", |r, l| at_slash(r, l, "/x%2f..%2f")),
    ("%2f", |r, l| at_inner_slash(r, l, "%2f")),
    ("%2F", |r, l| at_inner_slash(r, l, "%2F")),
    ("%5c", |r, l| at_inner_slash(r, l, "%5c")),
    ("%5C", |r, l| at_inner_slash(r, l, "%5C")),
    ("backslash", |r, l| at_inner_slash(r, l, "\\")),
    ("backslash dots", |r, l| at_slash(r, l, "/x\\..\\")),
    ("%252f", |r, l| at_inner_slash(r, l, "%252f")),
    ("double dots in vain", |r, l| at_slash(r, l, "/.../")),
    ("above the root", |_, l| {
        l.path = format!("/../..{}", l.path)
    }),
    (";x", |r, l| at_slash(r, l, ";x/")),
    ("/x/..;x/", |r, l| at_slash(r, l, "/x/..;x/")),
    ("/.;x/", |r, l| at_slash(r, l, "/.;x/")),
    ("/x/%2e.;/", |r, l| at_slash(r, l, "/x/%2e.;/")),
    ("/x/..%3bx/", |r, l| at_slash(r, l, "/x/..%3bx/")),
    (";x at the end", |_, l| l.path.push_str(";x")),
    ("%3b", |_, l| l.path.push_str("%3bx")),
    ("%00", |_, l| l.path.push_str("%00")),
    ("%00 amid", |r, l| at_inner_slash(r, l, "%00/")),
    ("case", |r, l| {
        letter(r, l, |c| c.to_ascii_uppercase().to_string())
    }),
    ("escaped letter", |r, l| {
        letter(r, l, |c| format!("%{:02x}", u32::from(c)))
    }),
    ("escaped upper case", |r, l| {
        letter(r, l, |c| {
            format!("%{:02X}", u32::from(c.to_ascii_uppercase()))
        });
    }),
    ("?", |_, l| l.path.push('?')),
    ("?x", |_, l| l.path.push_str("?x=/../../y")),
    ("? before", |_, l| l.path = format!("/public?{}", l.path)),
    ("#", |_, l| l.path.push('#')),
    ("#x", |_, l| l.path.push_str("#x")),
    ("%23", |_, l| l.path.push_str("%23")),
    ("%3f", |_, l| l.path.push_str("%3f")),
    ("%3F amid", |r, l| at_inner_slash(r, l, "%3F/")),
    ("slash at the end", |_, l| l.path.push('/')),
    ("/. at the end", |_, l| l.path.push_str("/.")),
    ("/.. at the end", |_, l| l.path.push_str("/x/..")),
    ("space", |_, l| l.path.push_str("%20")),
    ("overlong", |r, l| at_inner_slash(r, l, "%c0%af")),
    ("broken escape", |_, l| l.path.push_str("%zz")),
    ("half an escape", |_, l| l.path.push_str("%2")),
    ("absolute", |_, l| {
        l.path = format!("http://{}{}", l.host, l.path)
    }),
    ("absolute, upper case", |_, l| {
        l.path = format!("HTTP://{}{}", l.host.to_ascii_uppercase(), l.path);
    }),
    (APART, |_, l| {
        l.path = format!("http://{}{}", l.host, l.path);
        l.host = "other.test".to_owned();
    }),
    ("host upper case", |_, l| {
        l.host = l.host.to_ascii_uppercase()
    }),
    ("host mixed case", |_, l| {
        l.host = l.host.replacen('e', "E", 1)
    }),
    ("trailing dot", |_, l| l.host = dotted(&l.host, ".")),
    ("two trailing dots", |_, l| l.host = dotted(&l.host, "..")),
    ("port", |_, l| l.host = format!("{}:80", portless(&l.host))),
    ("other port", |_, l| {
        l.host = format!("{}:8080", portless(&l.host))
    }),
    ("empty port", |_, l| {
        l.host = format!("{}:", portless(&l.host))
    }),
    ("port with zeros", |_, l| {
        l.host = format!("{}:080", portless(&l.host))
    }),
    ("port too high", |_, l| {
        l.host = format!("{}:65616", portless(&l.host))
    }),
    ("port is a word", |_, l| {
        l.host = format!("{}:http", portless(&l.host))
    }),
    ("user name", |_, l| l.host = format!("u@{}", l.host)),
    ("user name of another host", |_, l| {
        l.host = format!("other.test@{}", l.host)
    }),
    ("host as user name", |_, l| {
        l.host = format!("{}@other.test", portless(&l.host))
    }),
    ("brackets", |_, l| l.host = "[::1]".to_owned()),
    ("brackets and port", |_, l| l.host = "[::1]:80".to_owned()),
    ("long brackets", |_, l| {
        l.host = "[0:0:0:0:0:0:0:1]".to_owned()
    }),
    ("open bracket", |_, l| l.host = "[::1".to_owned()),
    ("text after the bracket", |_, l| {
        l.host = "[::1]x".to_owned()
    }),
    ("escaped host", |_, l| {
        l.host = l.host.replacen('e', "%65", 1)
    }),
    ("space in host", |_, l| l.host = format!("{} x", l.host)),
    ("role twice, root first", |_, l| {
        l.role.push_str("x-role: guest\r\n")
    }),
    ("role twice, root last", |_, l| {
        l.role = format!("x-role: guest\r\n{}", l.role)
    }),
    ("role in one list", |_, l| {
        l.role = "x-role: guest,root\r\n".to_owned()
    }),
    ("role in upper case", |_, l| {
        l.role = "X-ROLE: root\r\n".to_owned()
    }),
    ("role with spaces", |_, l| {
        l.role = "x-role:  root \t\r\n".to_owned()
    }),
    ("role of another case", |_, l| {
        l.role = "x-role: Root\r\n".to_owned()
    }),
    ("role by underscore", |_, l| {
        l.role = "x_role: root\r\n".to_owned()
    }),
    ("no role", |_, l| l.role.clear()),
    ("empty role", |_, l| l.role = "x-role:\r\n".to_owned()),
    ("lower case method", |_, l| {
        l.method = l.method.to_ascii_lowercase()
    }),
    ("mixed case method", |_, l| l.method = "Get".to_owned()),
    ("other method", |_, l| l.method = "DELETE".to_owned()),
    ("longer method", |_, l| l.method.push('S')),
];

/// Tricks that Naka refuses whatever the policy, though an Envoy lets them through, and why.
const STRICTER: &[(&str, &str)] = &[
    (CLIMBS, CLIMB),
    ("user name", NO_NAME),
    ("user name of another host", NO_NAME),
    ("host as user name", NO_NAME),
    ("open bracket", NO_NAME),
    ("text after the bracket", NO_NAME),
    ("escaped host", NO_NAME),
    ("two trailing dots", NO_NAME),
    ("port with zeros", NO_PORT),
    ("port too high", NO_PORT),
    ("port is a word", NO_PORT),
    ("broken escape", ESCAPE),
    ("half an escape", ESCAPE),
    ("role twice, root first", TWICE),
    ("role twice, root last", TWICE),
    (
        APART,
        "who reads the target and who reads Host would differ",
    ),
    (
        "overlong",
        "a second spelling of a slash for programs that decode UTF-8 carelessly",
    ),
];
const CLIMB: &str = "an Envoy looks for parameters before it decodes the dots; a server that strips them would climb";
const TWICE: &str = "to let somebody in every value must fit, to keep somebody out one is enough";
const NO_NAME: &str =
    "a Host is a name or an address; what else is in it two readers read differently";
const NO_PORT: &str = "a port is a number with one spelling";
const ESCAPE: &str = "an escape without two digits is text to some and an error to others";

/// Tricks that an Envoy refuses whatever the policy, or leaves as they are, and what Naka does with them instead.
const JUDGED: &[(&str, &str)] = &[
    (CLIMBS, CLIMB),
    ("#", FRAGMENT),
    ("#x", FRAGMENT),
    (
        "longer method",
        "a method that nobody knows is a method: rules are asked about it",
    ),
];
const FRAGMENT: &str =
    "a fragment is dropped where the head is read; rules and program see the path without it";

/// Whether a segment in lower case is one of dots that were escaped, with parameters.
fn climbs(segment: &str) -> bool {
    let Some((name, _)) = segment.split_once(';') else {
        return false;
    };
    name.contains("%2e") && matches!(&*name.replace("%2e", "."), "." | "..")
}

/// Where a slash of the path is, this.
fn at_slash(rng: &mut Rng, line: &mut Line, with: &str) {
    let places: Vec<usize> = line.path.match_indices('/').map(|(at, _)| at).collect();
    put(rng, line, &places, with);
}

/// The same, never the first: a target begins with a slash.
fn at_inner_slash(rng: &mut Rng, line: &mut Line, with: &str) {
    let inner = line.path.match_indices('/').skip(1);
    let places: Vec<usize> = inner.map(|(at, _)| at).collect();
    put(rng, line, &places, with);
}

fn put(rng: &mut Rng, line: &mut Line, places: &[usize], with: &str) {
    if let Some(at) = rng.choice(places) {
        line.path.replace_range(*at..=*at, with);
    }
}

/// One letter of the path is another text.
fn letter(rng: &mut Rng, line: &mut Line, with: impl Fn(char) -> String) {
    let small = |(at, c): (usize, char)| c.is_ascii_lowercase().then_some(at);
    let places: Vec<usize> = line.path.char_indices().filter_map(small).collect();
    if let Some(at) = rng.choice(&places) {
        let was = char::from(line.path.as_bytes()[*at]);
        line.path.replace_range(*at..=*at, &with(was));
    }
}

fn portless(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

/// Dots behind the name, before its port.
fn dotted(host: &str, dots: &str) -> String {
    let name = portless(host);
    if name.ends_with(']') {
        // An address has no dots behind it.
        return host.to_owned();
    }
    format!("{name}{dots}{}", &host[name.len()..])
}

/// One request.
#[derive(Debug)]
struct Variant {
    form: &'static str,
    action: &'static str,
    tricks: Vec<&'static str>,
    line: Line,
}

/// Each trick once against each form, allowed and denied by turns, and then mixtures.
fn variants(rng: &mut Rng, mixtures: usize) -> Vec<Variant> {
    let mut all: Vec<Variant> = Vec::new();
    let mut add = |rng: &mut Rng, form: &Form, action, tricks: &[Trick]| {
        let mut line = Line {
            method: "GET".to_owned(),
            path: form.path.to_owned(),
            host: form.host.to_owned(),
            role: "x-role: root\r\n".to_owned(),
        };
        for (_, play) in tricks {
            play(rng, &mut line);
        }
        let known =
            |one: &Variant| one.form == form.name && one.action == action && one.line == line;
        if !all.iter().any(known) {
            let mut names: Vec<&str> = tricks.iter().map(|(name, _)| *name).collect();
            let target = line.path.to_ascii_lowercase();
            let named = target.strip_prefix("http://");
            let named = named.and_then(|rest| rest.split('/').next());
            if named.is_some_and(|host| !host.eq_ignore_ascii_case(&line.host)) {
                names.push(APART);
            }
            if target.split('/').any(climbs) {
                names.push(CLIMBS);
            }
            all.push(Variant {
                form: form.name,
                action,
                tricks: names,
                line,
            });
        }
    };
    for form in FORMS {
        for (index, trick) in TRICKS.iter().enumerate() {
            for (turn, action) in ["allow", "deny"].into_iter().enumerate() {
                // By turns, and both where an order of headers might tell.
                if form.name == "header" || (index + form.name.len() + turn) % 2 == 0 {
                    add(rng, form, action, &[*trick]);
                }
            }
        }
    }
    for _ in 0..mixtures {
        let form = rng.choice(FORMS).expect("forms");
        let action = *rng.choice(&["allow", "deny"]).expect("two");
        let count = rng.usize(2..4);
        let tricks = rng.choose_multiple(TRICKS.iter().copied(), count);
        add(rng, form, action, &tricks);
    }
    all
}

/// All forms, each reached by the header that names it; everything else is denied, so that one request tells whether the
/// objects hold.
fn policies() -> String {
    let mut text = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: open, namespace: default}\nspec: {mtls: {mode: PERMISSIVE}}\n".to_owned();
    for action in ["allow", "deny"] {
        let _ = write!(
            text,
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {action}, namespace: default}}\nspec:\n  action: {}\n  rules:\n",
            action.to_uppercase()
        );
        for Form {
            name, operation, ..
        } in FORMS
        {
            let when = format!("{{key: 'request.headers[x-form]', values: [{action}-{name}]}}");
            let _ = match *operation {
                ROLE => writeln!(text, "  - {{when: [{when}, {ROLE}]}}"),
                _ => writeln!(
                    text,
                    "  - {{to: [{{operation: {{{operation}}}}}], when: [{when}]}}"
                ),
            };
        }
        if action == "allow" {
            text += "  - {when: [{key: 'request.headers[x-form]', values: ['deny-*']}]}\n";
        }
    }
    text
}

/// Status of the answer, 0 where none came.
fn ask(address: SocketAddr, line: &Line, more: &str) -> u16 {
    let Line {
        method,
        path,
        host,
        role,
    } = line;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{role}{more}\r\n"
    );
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(QUIET)).expect("a timeout");
    // A refusal may close the connection before all was sent.
    let _ = stream.write_all(request.as_bytes());
    // The first line says it all; an Envoy takes a second to close after it.
    let mut answer = Vec::new();
    let mut more = [0; 1024];
    while !answer.contains(&b'\n') {
        match stream.read(&mut more) {
            Ok(count @ 1..) => answer.extend_from_slice(&more[..count]),
            Ok(0) | Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&answer);
    text.split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}

/// A target with its escapes in upper case: an Envoy leaves them as they were written.
fn upper_escapes(target: &str) -> String {
    let mut left = 0;
    let upper = |c: char| {
        left = if c == '%' { 2 } else { i32::max(left - 1, -1) };
        if left >= 0 { c.to_ascii_uppercase() } else { c }
    };
    target.chars().map(upper).collect()
}

/// For each variant the status and, if it arrived, the target that the program saw.
fn answers(mesh: &Mesh, service: &str, variants: &[Variant]) -> Vec<(u16, Option<String>)> {
    let address = inbound(mesh, service);
    let server = format!("{service}-v1");
    let seen = mesh.logged(&server).len();
    let statuses: Vec<u16> = variants
        .iter()
        .enumerate()
        .map(|(index, one)| {
            let more = format!("x-form: {}-{}\r\nx-row: {index}\r\n", one.action, one.form);
            ask(address, &one.line, &more)
        })
        .collect();
    let mut arrived: BTreeMap<usize, String> = BTreeMap::new();
    for line in mesh.logged(&server).split_off(seen) {
        let headers = line["headers"].as_array().expect("headers");
        let row = headers.iter().find(|pair| pair[0] == "x-row");
        let row = row.and_then(|pair| pair[1].as_str()?.parse().ok());
        let target = upper_escapes(line["path"].as_str().unwrap_or_default());
        arrived.insert(row.expect("a row"), target);
    }
    let with = |(index, status)| (status, arrived.get(&index).cloned());
    statuses.into_iter().enumerate().map(with).collect()
}

fn in_force(mesh: &Mesh, policed: bool) {
    let line = Line {
        method: "GET".to_owned(),
        path: "/probe".to_owned(),
        host: HOST.to_owned(),
        role: String::new(),
    };
    for service in ["payment", "ledger"] {
        until(
            format_args!("policies at {service}: {policed}"),
            SOON,
            || {
                let status = ask(inbound(mesh, service), &line, "");
                (status == if policed { 403 } else { 200 }).then_some(())
            },
        );
    }
}

/// What differs, a line for each.
fn differences(
    variants: &[Variant],
    naka: &[(u16, Option<String>)],
    envoy: &[(u16, Option<String>)],
    excused: &mut BTreeSet<&'static str>,
) -> String {
    let mut wrong = String::new();
    for ((one, ours), theirs) in variants.iter().zip(naka).zip(envoy) {
        if ours.1 == theirs.1 {
            continue;
        }
        let list = if ours.1.is_none() { STRICTER } else { JUDGED };
        let excuse = list.iter().find(|(trick, _)| one.tricks.contains(trick));
        match excuse {
            Some((trick, _)) if ours.1.is_none() || theirs.1.is_none() || *trick == CLIMBS => {
                excused.insert(trick);
            }
            _ => {
                let _ = writeln!(wrong, "{one:?}\n  naka {ours:?}, envoy {theirs:?}");
            }
        }
    }
    wrong
}

/// Hundreds of variants get the same decision of a Naka and of an Envoy, and what arrives arrives alike. The twin:
/// without the policies, what they refused arrives too.
#[test]
fn paths_and_hosts_in_disguise_are_judged_as_an_envoy_judges_them() {
    let mesh = Mesh::up();
    let _payment = mesh.serve("payment", "v1");
    let _ledger = envoy::serve(&mesh, "ledger", "v1");
    let mixtures = size().pick(400, 4000);
    let variants = variants(&mut Rng::with_seed(SEED), mixtures);
    let text = policies();
    mesh.apply("policies.yaml", &text);
    in_force(&mesh, true);
    let mut excused = BTreeSet::new();
    let (naka, envoy) = (
        answers(&mesh, "payment", &variants),
        answers(&mesh, "ledger", &variants),
    );
    let wrong = differences(&variants, &naka, &envoy, &mut excused);
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{wrong}",
        wrong.lines().count() / 2,
        variants.len()
    );
    let idle: Vec<_> = STRICTER
        .iter()
        .chain(JUDGED)
        .filter(|(trick, _)| !excused.contains(trick))
        .collect();
    assert!(
        idle.is_empty(),
        "no difference needs these reasons: {idle:?}"
    );

    let (open, _) = text.split_once("---").expect("the first object");
    for name in ["allow", "deny"] {
        mesh.ok(["delete", "AuthorizationPolicy", name]);
    }
    mesh.apply("open.yaml", open);
    in_force(&mesh, false);
    let unguarded = answers(&mesh, "payment", &variants);
    let arrived = |all: &[(u16, Option<String>)]| all.iter().filter(|one| one.1.is_some()).count();
    let denied = naka.iter().filter(|one| one.0 == 403);
    let (denied, let_in) = (
        denied.count(),
        std::iter::zip(&naka, &unguarded)
            .filter(|(held, open)| held.0 == 403 && open.1.is_some())
            .count(),
    );
    assert_eq!(
        let_in, denied,
        "without the policies everything that they refused arrives"
    );
    println!(
        "{} variants of {} forms by seed {SEED}: {} let through, {denied} refused by a policy, {} by their form; an Envoy does the same but for {} tricks; without policies {} arrive",
        variants.len(),
        FORMS.len(),
        arrived(&naka),
        variants.len() - arrived(&naka) - denied,
        excused.len(),
        arrived(&unguarded),
    );
}
