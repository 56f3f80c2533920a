//! Rules as trees: each field asks what it says, and what is not known is settled by the action.

use super::{At, Compiled, Question, Tree, compiled, escaped, of, principal, token};
use crate::compile::View;
use crate::compile::tests::{snapshot, world};
use crate::world::{Domains, Read, World};
use naka_api::security::authorization_policy::Text;
use naka_types::cidr::Cidr;
use naka_types::labels::Labels;

const HTTP: At = At {
    port: 8080,
    http: true,
    labels: true,
    tokens: false,
};
const TOKENS: At = At {
    tokens: true,
    ..HTTP
};
const BYTES: At = At {
    port: 8080,
    http: false,
    labels: true,
    tokens: false,
};
/// An Envoy.
const NO_LABELS: At = At {
    labels: false,
    ..HTTP
};

/// The rules that hold at a place for a workload `app: pay` of `shop`.
fn rules(action: &str, rule: &str, at: At) -> Vec<Compiled> {
    let objects = snapshot(&format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{action: {action}, rules: [{rule}]}}\n"
    ));
    assert_eq!(objects.objects.len(), 1, "{rule}");
    let world = world(&objects, Vec::new());
    let policies = of(&View::new(&world), "shop", &Labels::new(), None);
    let held = if action == "DENY" {
        &policies.deny
    } else {
        &policies.allow
    };
    compiled(held, &Domains::new(&"example.org".into(), &[]), at)
}

fn exact(text: &str) -> Text {
    Text::Exact(text.to_owned())
}

fn like(regex: &str) -> Question {
    Question::IdentityLike(regex.to_owned())
}

fn cidr(text: &str) -> Cidr {
    Cidr::parse(text).unwrap()
}

#[test]
fn every_field_of_a_caller_asks_what_it_says() {
    let here = "spiffe://example.org/ns/shop/sa/cart";
    for (field, values, question) in [
        (
            "principals",
            "[cluster.local/ns/shop/sa/cart]",
            Question::Identity(exact(here)),
        ),
        (
            "principals",
            "[other.org/ns/a/sa/b]",
            Question::Identity(exact("spiffe://other.org/ns/a/sa/b")),
        ),
        ("principals", "['*']", Question::Identified),
        (
            "principals",
            "['*/sa/cart']",
            Question::Identity(Text::Suffix("/sa/cart".to_owned())),
        ),
        (
            "principals",
            "['cluster.local/ns/shop/*']",
            Question::Identity(Text::Prefix("spiffe://example.org/ns/shop/".to_owned())),
        ),
        (
            "namespaces",
            "[shop]",
            like("spiffe://[^/]+/ns/shop/sa/[^/]+"),
        ),
        (
            "namespaces",
            "[sh*]",
            like("spiffe://[^/]+/ns/sh[^/]*/sa/[^/]+"),
        ),
        (
            "namespaces",
            "['*p']",
            like("spiffe://[^/]+/ns/[^/]*p/sa/[^/]+"),
        ),
        (
            "serviceAccounts",
            "[cart]",
            like("spiffe://[^/]+/ns/shop/sa/cart"),
        ),
        (
            "serviceAccounts",
            "[b/c.d]",
            like("spiffe://[^/]+/ns/b/sa/c\\.d"),
        ),
        ("trustDomains", "[a.org]", like("spiffe://a\\.org/.*")),
        (
            "ipBlocks",
            "[10.0.0.0/8]",
            Question::Peer(cidr("10.0.0.0/8")),
        ),
        (
            "remoteIpBlocks",
            "['fd00::/8']",
            Question::Client(cidr("fd00::/8")),
        ),
    ] {
        let asked = Tree::Ask(question);
        let rule = format!("{{from: [{{source: {{{field}: {values}}}}}]}}");
        let found = rules("ALLOW", &rule, HTTP);
        assert_eq!(
            (&found[0].who, &found[0].what),
            (&asked, &Tree::Always),
            "{rule}"
        );
        assert_eq!(found[0].name, "ns[shop]-policy[p]-rule[0]");
        let mut letters = field.chars();
        let first = letters.next().unwrap().to_ascii_uppercase();
        let rule = format!(
            "{{from: [{{source: {{not{first}{}: {values}}}}}]}}",
            letters.as_str()
        );
        let found = rules("ALLOW", &rule, HTTP);
        assert_eq!(found[0].who, Tree::Not(Box::new(asked)), "{rule}");
    }
}

#[test]
fn every_field_of_a_request_asks_what_it_says() {
    for (field, values, question) in [
        ("hosts", "[pay.shop]", Question::Host(exact("pay.shop"))),
        ("methods", "[GET]", Question::Method(exact("GET"))),
        ("paths", "[/a]", Question::Path(exact("/a"))),
        (
            "paths",
            "['/a/{*}']",
            Question::Path(Text::Template("/a/{*}".to_owned())),
        ),
        ("paths", "['*']", Question::Path(Text::Present)),
    ] {
        let asked = Tree::Ask(question);
        let rule = format!("{{to: [{{operation: {{{field}: {values}}}}}]}}");
        let found = rules("ALLOW", &rule, HTTP);
        assert_eq!(
            (&found[0].who, &found[0].what),
            (&Tree::Always, &asked),
            "{rule}"
        );
        let mut letters = field.chars();
        let first = letters.next().unwrap().to_ascii_uppercase();
        let rule = format!(
            "{{to: [{{operation: {{not{first}{}: {values}}}}}]}}",
            letters.as_str()
        );
        let found = rules("ALLOW", &rule, HTTP);
        assert_eq!(found[0].what, Tree::Not(Box::new(asked)), "{rule}");
    }
}

#[test]
fn ports_are_settled_at_once() {
    for (operation, holds) in [
        ("{ports: ['8080']}", true),
        ("{ports: ['80', '8080']}", true),
        ("{ports: ['80']}", false),
        ("{notPorts: ['80']}", true),
        ("{notPorts: ['8080']}", false),
    ] {
        for at in [HTTP, BYTES] {
            let found = rules(
                "ALLOW",
                &format!("{{to: [{{operation: {operation}}}]}}"),
                at,
            );
            assert_eq!(found.len(), usize::from(holds), "{operation}");
            assert!(found.iter().all(|rule| rule.what == Tree::Always));
        }
    }
}

#[test]
fn identities_of_tokens_are_parted_at_the_last_slash() {
    let ask =
        |name: &str, text: Text| Tree::Ask(Question::Claim(vec![name.to_owned()], text, false));
    let exact = |text: &str| Text::Exact(text.to_owned());
    for (value, issuer, subject) in [
        ("*", Text::Present, Text::Present),
        ("https://i/a/s", exact("https://i/a"), exact("s")),
        ("https://i/*", exact("https://i"), Text::Present),
        ("i/s*", exact("i"), Text::Prefix("s".to_owned())),
        ("i*", Text::Prefix("i".to_owned()), Text::Present),
        ("*/s", Text::Present, exact("s")),
        ("*i/s", Text::Suffix("i".to_owned()), exact("s")),
        ("*s", Text::Present, Text::Suffix("s".to_owned())),
    ] {
        let rule = format!("{{from: [{{source: {{requestPrincipals: ['{value}']}}}}]}}");
        let found = rules("ALLOW", &rule, TOKENS);
        let wanted = Tree::All(vec![ask("iss", issuer), ask("sub", subject)]);
        assert_eq!(found[0].who, wanted, "{value}");
    }
    let bare = "{from: [{source: {requestPrincipals: [nobody]}}]}";
    assert!(rules("ALLOW", bare, TOKENS).is_empty(), "{bare}");
}

#[test]
fn what_is_not_known_never_allows_and_always_denies() {
    let unknown_everywhere = [
        "{when: [{key: 'request.auth.claims[a]', values: [b]}]}",
        "{when: [{key: 'connection.sni', notValues: [b]}]}",
        "{from: [{source: {requestPrincipals: ['*']}}]}",
        "{from: [{source: {notRequestPrincipals: ['*']}}]}",
    ];
    let unknown_in_bytes = [
        "{to: [{operation: {paths: [/a]}}]}",
        "{to: [{operation: {notPaths: [/a]}}]}",
        "{to: [{operation: {methods: [GET]}}]}",
        "{to: [{operation: {notHosts: [a]}}]}",
        "{when: [{key: 'request.headers[a]', notValues: [b]}]}",
    ];
    let labels = [
        "{when: [{key: 'source.labels[a]', values: [b]}]}",
        "{when: [{key: 'source.labels[a]', notValues: [b]}]}",
    ];
    for (rule, at) in unknown_everywhere
        .into_iter()
        .flat_map(|rule| [(rule, HTTP), (rule, BYTES)])
        .chain(unknown_in_bytes.map(|rule| (rule, BYTES)))
        .chain(labels.map(|rule| (rule, NO_LABELS)))
    {
        assert!(rules("ALLOW", rule, at).is_empty(), "{rule}");
        let denied = rules("DENY", rule, at);
        assert_eq!(
            (&denied[0].who, &denied[0].what),
            (&Tree::Always, &Tree::Always),
            "{rule}"
        );
    }
    // The twins: where tokens are read, and where requests are seen, these are known.
    for rule in unknown_everywhere
        .into_iter()
        .filter(|rule| rule.contains("equest"))
    {
        assert_eq!(rules("ALLOW", rule, TOKENS).len(), 1, "{rule}");
        assert_ne!(rules("DENY", rule, TOKENS)[0].who, Tree::Always, "{rule}");
    }
    for rule in unknown_in_bytes {
        assert_eq!(rules("ALLOW", rule, HTTP).len(), 1, "{rule}");
        assert_ne!(rules("DENY", rule, HTTP)[0].what, Tree::Always, "{rule}");
    }
    // And where labels are known, they are asked for, of requests and bytes alike.
    let asked = Tree::Ask(Question::Label("a".to_owned(), exact("b")));
    for at in [HTTP, BYTES] {
        for action in ["ALLOW", "DENY"] {
            assert_eq!(rules(action, labels[0], at)[0].who, asked);
            let not = Tree::Not(Box::new(asked.clone()));
            assert_eq!(rules(action, labels[1], at)[0].who, not);
        }
    }
    // One way that is known is enough to allow.
    let either = "{from: [{source: {requestPrincipals: ['*']}}, {source: {namespaces: [a]}}]}";
    let found = rules("ALLOW", either, HTTP);
    assert_eq!(
        found[0].who,
        Tree::Ask(like("spiffe://[^/]+/ns/a/sa/[^/]+"))
    );
}

#[test]
fn policies_are_those_of_the_namespace_and_of_the_root_that_select_the_workload() {
    let policy = |name: &str, namespace: &str, selector: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{selector} rules: [{{}}]}}\n---\n"
        )
    };
    let all = policy("own", "shop", "")
        + &policy("picked", "shop", "selector: {matchLabels: {app: pay}},")
        + &policy("missed", "shop", "selector: {matchLabels: {app: cart}},")
        + &policy("root", "istio-system", "")
        + &policy(
            "root-missed",
            "istio-system",
            "selector: {matchLabels: {app: cart}},",
        )
        + &policy("far", "other", "");
    let objects = snapshot(&all);
    let world = world(&objects, Vec::new());
    let labels: Labels = [("app".to_owned(), "pay".to_owned())].into();
    let found = of(&View::new(&world), "shop", &labels, None);
    let names: Vec<&str> = found.allow.iter().map(|held| held.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "ns[shop]-policy[own]",
            "ns[shop]-policy[picked]",
            "ns[istio-system]-policy[root]"
        ]
    );
}

#[test]
fn texts_are_escaped() {
    assert_eq!(escaped("a-b_c.d+e/f"), "a-b_c\\.d\\+e/f");
}

/// Keys that are fetched stand in the filter as they came; before, there are none that could verify anything, and when
/// they come the listeners that read them are made anew.
#[test]
fn fetched_keys_stand_in_the_filter_and_before_there_are_none() {
    let mut objects = snapshot(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: r, namespace: shop}\nspec: {jwtRules: [{issuer: a, jwksUri: 'https://a.example/keys'}]}\n",
    );
    let before = world(&objects, Vec::new());
    let key = (
        crate::jwks::RECORD.to_owned(),
        "https://a.example/keys".to_owned(),
    );
    let set = serde_json::json!({"keys": ["fetched"]});
    std::sync::Arc::make_mut(&mut objects.records).insert(key, std::sync::Arc::new(set));
    let after = world(&objects, Vec::new());
    let inline = |world: &World, envoy: bool| {
        let policies = of(&View::new(world), "shop", &Labels::new(), None);
        let filter = match envoy {
            true => super::message::tokens(&policies),
            false => super::message::http(&policies, 80, true).into_iter().next(),
        };
        format!(
            "{:?}",
            String::from_utf8_lossy(&naka_wire::pack(&filter.unwrap()).value)
        )
    };
    for envoy in [true, false] {
        let unknown = [token::NONE, token::NO_POINT][usize::from(envoy)];
        let unknown = format!("{unknown:?}");
        assert!(inline(&before, envoy).contains(unknown.trim_matches('"')));
        let fetched = inline(&after, envoy);
        assert!(fetched.contains("fetched") && !fetched.contains(unknown.trim_matches('"')));
    }
    let changed = before.changes(&after);
    assert_eq!(
        changed.into_iter().collect::<Vec<_>>(),
        [Read::Keys("https://a.example/keys".to_owned())]
    );
}

/// As Istio's `ReplaceTrustDomainAliases`.
#[test]
fn a_principal_holds_under_each_name_of_the_trust_domain() {
    let aliases = ["old-td", "new-td", "older.com"].map(str::to_owned);
    let domains = Domains::new(&"new-td".into(), &aliases);
    assert_eq!(
        domains.aliases().collect::<Vec<_>>(),
        ["old-td", "older.com"]
    );
    let exact =
        |domain: &str| Question::Identity(Text::Exact(format!("spiffe://{domain}/ns/a/sa/b")));
    let all = vec![exact("new-td"), exact("old-td"), exact("older.com")];
    let of = |text: &str| principal(&Text::Exact(text.to_owned()), &domains);
    for name in ["new-td", "old-td", "older.com", "cluster.local"] {
        assert_eq!(of(&format!("{name}/ns/a/sa/b")), all, "{name}");
    }
    // Another's name means another, and a name within a name is none.
    assert_eq!(of("other/ns/a/sa/b"), [exact("other")]);
    assert_eq!(of("old-td.evil.com/ns/a/sa/b"), [exact("old-td.evil.com")]);
    let prefix = principal(&Text::Prefix("old-td/ns/a/".to_owned()), &domains);
    assert_eq!(prefix.len(), 3);
    assert!(prefix.contains(&Question::Identity(Text::Prefix(
        "spiffe://new-td/ns/a/".to_owned()
    ))));
    // `*-td/ns/a/sa/b` fits two of them as it is, and the third is added.
    let end = Text::Suffix("-td/ns/a/sa/b".to_owned());
    assert_eq!(
        principal(&end, &domains),
        [Question::Identity(end.clone()), exact("older.com")]
    );
    // The end of a name, and nothing of a trust domain.
    let end = Text::Suffix("/sa/b".to_owned());
    assert_eq!(principal(&end, &domains), [Question::Identity(end.clone())]);
    assert_eq!(principal(&Text::Present, &domains), [Question::Identified]);
    let alone = Domains::new(&"new-td".into(), &[]);
    assert_eq!(
        principal(&Text::Exact("old-td/ns/a/sa/b".to_owned()), &alone),
        [exact("old-td")],
        "no alias"
    );
}
