//! Rules from small values, in full: who changes one line sees it here.

use super::{Exclude, Spec, inbound, iptables, iptables_removal, nft, ours};
use naka_proxy::settings::Port;

fn spec(ipv6: bool) -> Spec {
    let exclude = ["10.0.0.0/8", "fd00::/8", ":5432", "uid:997"];
    Spec {
        ipv6,
        mark: 0x4e61_6b61,
        outbound: 15_001,
        dns: 15_053,
        nameservers: ["127.0.0.53", "fe80::1"]
            .map(|text| text.parse().unwrap())
            .into(),
        inbound: vec![(8080, 15_006)],
        exclude: exclude.map(|text| text.parse().unwrap()).into(),
    }
}

fn bare() -> Spec {
    Spec {
        nameservers: Vec::new(),
        inbound: Vec::new(),
        exclude: Vec::new(),
        ..spec(true)
    }
}

#[test]
fn nft_with_everything() {
    let expected = r#"table inet naka
delete table inet naka
table inet naka {
  chain outbound {
    type nat hook output priority -100; policy accept;
    meta mark 0x4e616b61 accept
    meta skuid { 997 } accept
    ip daddr { 127.0.0.53 } udp dport 53 redirect to :15053
    ip daddr { 127.0.0.53 } tcp dport 53 redirect to :15053
    ip6 daddr { fe80::1 } udp dport 53 redirect to :15053
    ip6 daddr { fe80::1 } tcp dport 53 redirect to :15053
    fib daddr type local accept
    ip daddr { 10.0.0.0/8 } accept
    ip6 daddr { fd00::/8 } accept
    tcp dport { 5432 } accept
    meta l4proto tcp redirect to :15001
  }
  chain inbound {
    type nat hook prerouting priority -100; policy accept;
    iif "lo" accept
    fib daddr type local tcp dport 8080 redirect to :15006
  }
  chain outbound-missed {
    type filter hook output priority 0; policy accept;
    meta mark 0x4e616b61 accept
    meta skuid { 997 } accept
    fib daddr type local accept
    ip daddr { 10.0.0.0/8 } accept
    ip6 daddr { fd00::/8 } accept
    tcp dport { 5432 } accept
    tcp flags & (fin | syn | rst | ack) == syn reject with tcp reset
  }
  chain inbound-missed {
    type filter hook input priority 0; policy accept;
    iif "lo" accept
    tcp dport 8080 tcp flags & (fin | syn | rst | ack) == syn reject with tcp reset
  }
}
"#;
    assert_eq!(nft(&spec(true)), expected);
}

#[test]
fn nft_with_nothing_excluded_takes_everything_but_what_stays_here() {
    let rules = nft(&bare());
    let accepted: Vec<&str> = rules
        .lines()
        .map(str::trim)
        .filter(|line| line.ends_with(" accept"))
        .collect();
    let (mark, local, lo) = (
        "meta mark 0x4e616b61 accept",
        "fib daddr type local accept",
        "iif \"lo\" accept",
    );
    assert_eq!(accepted, [mark, local, lo, mark, local, lo]);
}

#[test]
fn without_ipv6_nothing_speaks_of_it() {
    let rules = nft(&spec(false));
    assert!(rules.starts_with("table ip naka\n"), "{rules}");
    assert!(!rules.contains("ip6") && !rules.contains("inet"), "{rules}");
}

#[test]
fn iptables_with_everything() {
    let expected = "*filter
:NAKA_OUTPUT_MISSED - [0:0]
:NAKA_INPUT_MISSED - [0:0]
-I OUTPUT 1 -p tcp -j NAKA_OUTPUT_MISSED
-A NAKA_OUTPUT_MISSED -m mark --mark 0x4e616b61 -j RETURN
-A NAKA_OUTPUT_MISSED -m owner --uid-owner 997 -j RETURN
-A NAKA_OUTPUT_MISSED -m addrtype --dst-type LOCAL -j RETURN
-A NAKA_OUTPUT_MISSED -d 10.0.0.0/8 -j RETURN
-A NAKA_OUTPUT_MISSED -p tcp --dport 5432 -j RETURN
-A NAKA_OUTPUT_MISSED -p tcp --tcp-flags FIN,SYN,RST,ACK SYN -j REJECT --reject-with tcp-reset
-I INPUT 1 -p tcp -j NAKA_INPUT_MISSED
-A NAKA_INPUT_MISSED -i lo -j RETURN
-A NAKA_INPUT_MISSED -p tcp --tcp-flags FIN,SYN,RST,ACK SYN --dport 8080 -j REJECT --reject-with tcp-reset
COMMIT
*nat
:NAKA_OUTPUT - [0:0]
:NAKA_PREROUTING - [0:0]
-I OUTPUT 1 -p tcp -j NAKA_OUTPUT
-I OUTPUT 1 -p udp --dport 53 -j NAKA_OUTPUT
-A NAKA_OUTPUT -m mark --mark 0x4e616b61 -j RETURN
-A NAKA_OUTPUT -m owner --uid-owner 997 -j RETURN
-A NAKA_OUTPUT -d 127.0.0.53 -p udp --dport 53 -j REDIRECT --to-ports 15053
-A NAKA_OUTPUT -d 127.0.0.53 -p tcp --dport 53 -j REDIRECT --to-ports 15053
-A NAKA_OUTPUT -m addrtype --dst-type LOCAL -j RETURN
-A NAKA_OUTPUT -d 10.0.0.0/8 -j RETURN
-A NAKA_OUTPUT -p tcp --dport 5432 -j RETURN
-A NAKA_OUTPUT -p tcp -j REDIRECT --to-ports 15001
-I PREROUTING 1 -p tcp -j NAKA_PREROUTING
-A NAKA_PREROUTING -i lo -j RETURN
-A NAKA_PREROUTING -m addrtype --dst-type LOCAL -p tcp --dport 8080 -j REDIRECT --to-ports 15006
COMMIT
";
    assert_eq!(iptables(&spec(true), true, ""), expected);
    let six = iptables(&spec(true), false, "");
    assert!(six.contains("-d fd00::/8 -j RETURN") && six.contains("-d fe80::1 -p udp"));
    assert!(!six.contains("10.0.0.0") && !six.contains("127.0.0.53"));
}

/// What `iptables-save` says after the rules of [`bare`] and somebody's own.
const PRESENT: &str = "# Generated
*filter
:INPUT ACCEPT [5:300]
:OUTPUT ACCEPT [0:0]
:NAKA_OUTPUT_MISSED - [0:0]
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A OUTPUT -p tcp -j NAKA_OUTPUT_MISSED
COMMIT
*nat
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:NAKA_OUTPUT - [0:0]
-A OUTPUT -p udp -m udp --dport 53 -j NAKA_OUTPUT
-A OUTPUT -p tcp -j NAKA_OUTPUT
-A OUTPUT -j DOCKER
-A NAKA_OUTPUT -p tcp -j REDIRECT --to-ports 15001
COMMIT
";

#[test]
fn old_jumps_are_replaced_and_others_rules_stay() {
    let again = iptables(&bare(), true, PRESENT);
    for old in [
        "-D OUTPUT -p tcp -j NAKA_OUTPUT_MISSED\n",
        "-D OUTPUT -p udp -m udp --dport 53 -j NAKA_OUTPUT\n",
        "-D OUTPUT -p tcp -j NAKA_OUTPUT\n",
    ] {
        assert_eq!(again.matches(old).count(), 1, "{old}: {again}");
    }
    assert!(
        !again.contains("DOCKER") && !again.contains("--dport 22"),
        "{again}"
    );
    let expected = "*nat
-D OUTPUT -p udp -m udp --dport 53 -j NAKA_OUTPUT
-D OUTPUT -p tcp -j NAKA_OUTPUT
-F NAKA_OUTPUT
-X NAKA_OUTPUT
COMMIT
*filter
-D OUTPUT -p tcp -j NAKA_OUTPUT_MISSED
-F NAKA_OUTPUT_MISSED
-X NAKA_OUTPUT_MISSED
COMMIT
";
    assert_eq!(iptables_removal(PRESENT), expected);
    assert_eq!(ours(PRESENT).len(), 4);
    assert_eq!(iptables_removal(""), "*nat\nCOMMIT\n*filter\nCOMMIT\n");
}

#[test]
fn port_53_left_alone_is_left_alone() {
    let spec = Spec {
        exclude: vec![Exclude::Port(53)],
        ..spec(true)
    };
    for rules in [nft(&spec), iptables(&spec, true, "")] {
        assert!(!rules.contains("15053"), "{rules}");
    }
}

#[test]
fn exclusions_as_people_write_them() {
    for (text, expected) in [
        ("10.0.0.0/8", Exclude::Net("10.0.0.0".parse().unwrap(), 8)),
        ("10.1.2.3", Exclude::Net("10.1.2.3".parse().unwrap(), 32)),
        ("fd00::/8", Exclude::Net("fd00::".parse().unwrap(), 8)),
        ("::1", Exclude::Net("::1".parse().unwrap(), 128)),
        (":5432", Exclude::Port(5432)),
        ("uid:997", Exclude::Uid(997)),
    ] {
        assert_eq!(text.parse(), Ok(expected), "{text}");
    }
    for text in [
        "",
        "10.0.0.0/33",
        "10.0.0/8",
        "::/129",
        ":0",
        ":99999",
        "uid:x",
        "uid:-1",
        "5432",
        "a; flush ruleset",
    ] {
        let wrong = text.parse::<Exclude>().unwrap_err();
        assert!(wrong.contains("uid:997"), "{text}: {wrong}");
    }
}

#[test]
fn each_port_of_the_program_has_its_listener() {
    let ports = [8080, 9090, 9091].map(Port::plain);
    assert_eq!(
        inbound(&ports),
        [(8080, 15_006), (9090, 15_101), (9091, 15_102)]
    );
    assert!(inbound(&[]).is_empty());
}
