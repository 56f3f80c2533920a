//! DNS for a captured program: names of the mesh get virtual addresses, everything else is asked of the host's servers.
//!
//! A program keeps using names; what it gets for a name of the mesh is an address of [`crate::vip`], by which the
//! connection's name is known again. Hosts of entries with addresses of their own are answered with those; hosts that are
//! called at whatever address they have are asked for outside like a name that nobody declared. A name of the mesh's own domain that does not exist is answered here (it would
//! mean nothing to anybody else); before the names of the mesh are known nothing is answered, because a wrong answer
//! would be remembered. All of it runs on the main thread.
//!
//! This file decides and writes messages, without a socket; [`serve`] has the sockets, [`forward`] asks the host's
//! servers.

pub(crate) mod forward;
mod serve;

use crate::names::{self, InMesh};
use naka_types::reason::Reason;
use simple_dns::rdata::{A, AAAA, RData};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use std::net::IpAddr;

pub(crate) use serve::{Dns, serve_tcp, serve_udp};

/// How long a program may remember a virtual address. They hardly ever change; a name may stop being the mesh's.
const TTL_S: u32 = 30;

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Decision {
    /// A host of the mesh: virtual addresses.
    Mesh(String),
    /// A name of the mesh's domain that does not exist.
    NoSuchName,
    /// Somebody else's name.
    Elsewhere,
}

/// Decides by the name alone; `search` are the host's search domains, which a resolver may have put behind a name.
fn decide(
    name: &str,
    namespace: &str,
    search: &[String],
    knows: impl Fn(&str) -> bool,
) -> Decision {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let found = |name: &str| match names::in_mesh(name, namespace, &knows) {
        Ok(InMesh::Yes(host)) => Some(host.as_str().to_owned()),
        _ => None,
    };
    if let Some(host) = found(&name) {
        return Decision::Mesh(host);
    }
    let bare = search.iter().find_map(|domain| {
        let bare = name.strip_suffix(domain.as_str())?.strip_suffix('.')?;
        found(bare)
    });
    if let Some(host) = bare {
        return Decision::Mesh(host);
    }
    match names::in_mesh(&name, namespace, &knows) {
        Err(Reason::UnknownHost) if names::is_of_mesh(&name) => Decision::NoSuchName,
        _ => Decision::Elsewhere,
    }
}

/// A question as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    name: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Four,
    Six,
    Other,
}

/// Reads a question. An error is the code to answer with; `None` is not to be answered at all.
fn asked(message: &[u8]) -> Result<Asked, Option<RCODE>> {
    let packet = Packet::parse(message).map_err(|_| {
        // Less than a head, or an answer: answering it could go on for ever.
        (message.len() >= HEAD && message[2] & 0x80 == 0).then_some(RCODE::FormatError)
    })?;
    if packet.has_flags(PacketFlag::RESPONSE) {
        return Err(None);
    }
    let [question] = packet.questions.as_slice() else {
        return Err(Some(RCODE::FormatError));
    };
    Ok(Asked {
        name: question.qname.to_string(),
        kind: match question.qtype {
            QTYPE::TYPE(TYPE::A) => Kind::Four,
            QTYPE::TYPE(TYPE::AAAA) => Kind::Six,
            _ => Kind::Other,
        },
    })
}

const HEAD: usize = 12;

/// The answer with these addresses: those of the asked kind, if any.
fn answer(message: &[u8], kind: Kind, addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let mut reply = reply_to(message)?;
    let name = reply.questions.first()?.qname.clone();
    let data = addresses.iter().filter_map(|ip| match (kind, ip) {
        (Kind::Four, IpAddr::V4(four)) => Some(RData::A(A::from(*four))),
        (Kind::Six, IpAddr::V6(six)) => Some(RData::AAAA(AAAA::from(*six))),
        _ => None,
    });
    let record = |data| ResourceRecord::new(name.clone(), CLASS::IN, TTL_S, data);
    let records: Vec<_> = data.map(record).collect();
    reply.answers.extend(records);
    reply.build_bytes_vec_compressed().ok()
}

/// An answer of this code and nothing else.
fn code(message: &[u8], code: RCODE) -> Option<Vec<u8>> {
    let Some(mut reply) = reply_to(message) else {
        // What cannot be read is not repeated: its number and the code have to do.
        let id = u16::from_be_bytes([*message.first()?, *message.get(1)?]);
        let mut reply = Packet::new_reply(id);
        *reply.rcode_mut() = code;
        return reply.build_bytes_vec().ok();
    };
    *reply.rcode_mut() = code;
    reply.build_bytes_vec_compressed().ok()
}

fn reply_to(message: &[u8]) -> Option<Packet<'_>> {
    let question = Packet::parse(message).ok()?;
    let mut reply = Packet::new_reply(question.id());
    reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
    if question.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    reply.questions = question.questions;
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::{Name, Question};
    use std::net::{Ipv4Addr, Ipv6Addr};

    const KNOWN: [&str; 4] = [
        "payment.shop.svc.cluster.local",
        "cart.shop.svc.cluster.local",
        "ledger.bank.svc.cluster.local",
        "api.example.com",
    ];

    #[test]
    fn names_of_the_mesh_in_every_form_and_nobody_elses() {
        let search = ["corp.example".to_owned(), "lan".to_owned()];
        let mesh = |n: usize| Decision::Mesh(KNOWN[n].to_owned());
        for (name, expect) in [
            ("payment", mesh(0)),
            ("PAYMENT", mesh(0)),
            ("payment.", mesh(0)),
            ("payment.shop", mesh(0)),
            ("payment.shop.svc", mesh(0)),
            ("payment.shop.svc.cluster.local", mesh(0)),
            ("Payment.Shop.svc.cluster.local.", mesh(0)),
            ("payment.corp.example", mesh(0)),
            ("payment.shop.lan", mesh(0)),
            ("payment.shop.svc.cluster.local.lan", mesh(0)),
            ("ledger.bank", mesh(2)),
            ("api.example.com", mesh(3)),
            ("ledger", Decision::Elsewhere),
            ("localhost", Decision::Elsewhere),
            ("example.com", Decision::Elsewhere),
            ("payment.example.com", Decision::Elsewhere),
            ("corp.example", Decision::Elsewhere),
            ("nosuch.corp.example", Decision::Elsewhere),
            ("nosuch.shop.svc.cluster.local", Decision::NoSuchName),
            ("a.b.c.svc.cluster.local", Decision::NoSuchName),
            ("payment.shop.shop.svc.cluster.local", Decision::NoSuchName),
            ("svc.cluster.local", Decision::Elsewhere),
            ("a b", Decision::Elsewhere),
            ("", Decision::Elsewhere),
            ("1.2.3.4", Decision::Elsewhere),
        ] {
            let got = decide(name, "shop", &search, |host| KNOWN.contains(&host));
            assert_eq!(got, expect, "{name}");
        }
    }

    fn question(name: &str, kind: TYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(77);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(Question::new(
            Name::new(name).unwrap(),
            QTYPE::TYPE(kind),
            CLASS::IN.into(),
            false,
        ));
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn answers_have_the_asked_family_only() {
        let four: Ipv4Addr = "240.1.2.3".parse().unwrap();
        let six: Ipv6Addr = "2001:2::5".parse().unwrap();
        let all = [IpAddr::V4(four), IpAddr::V6(six)];
        for (kind, with_six, expect) in [
            (TYPE::A, true, 1),
            (TYPE::AAAA, true, 1),
            (TYPE::AAAA, false, 0),
            (TYPE::SRV, true, 0),
            (TYPE::Unknown(65), true, 0),
        ] {
            let message = question("payment.shop", kind);
            let asked = asked(&message).unwrap();
            assert_eq!(asked.name, "payment.shop");
            let bytes = answer(&message, asked.kind, &all[..usize::from(with_six) + 1]).unwrap();
            let reply = Packet::parse(&bytes).unwrap();
            assert_eq!(reply.id(), 77);
            assert_eq!(reply.rcode(), RCODE::NoError);
            assert!(reply.has_flags(PacketFlag::RESPONSE | PacketFlag::RECURSION_DESIRED));
            assert_eq!(reply.questions.len(), 1);
            assert_eq!(reply.answers.len(), expect, "{kind:?}");
            match reply.answers.first().map(|answer| &answer.rdata) {
                Some(RData::A(a)) => assert_eq!(Ipv4Addr::from(a.address), four),
                Some(RData::AAAA(a)) => assert_eq!(Ipv6Addr::from(a.address), six),
                _ => {}
            }
        }
    }

    #[test]
    fn what_is_no_question_is_refused_or_not_answered() {
        let sound = question("payment", TYPE::A);
        let mut answered = sound.clone();
        answered[2] |= 0x80;
        let mut none = sound.clone();
        none[5] = 0;
        none.truncate(HEAD);
        assert!(matches!(asked(&answered), Err(None)));
        assert!(matches!(asked(&none), Err(Some(RCODE::FormatError))));
        for cut in 0..sound.len() {
            let expect = cut >= HEAD;
            assert_eq!(
                matches!(asked(&sound[..cut]), Err(Some(_))),
                expect,
                "{cut}"
            );
        }
        let reply = code(&sound[..HEAD + 2], RCODE::FormatError).unwrap();
        let reply = Packet::parse(&reply).unwrap();
        assert_eq!((reply.id(), reply.rcode()), (77, RCODE::FormatError));
    }

    #[test]
    fn whatever_arrives_nothing_panics() {
        let mut rng = fastrand::Rng::with_seed(11);
        let sound = question("payment.shop.svc.cluster.local", TYPE::AAAA);
        for _ in 0..50_000 {
            let mut message = sound.clone();
            for _ in 0..rng.usize(1..6) {
                let at = rng.usize(..message.len());
                message[at] = rng.u8(..);
            }
            message.truncate(rng.usize(..=message.len()));
            if let Ok(asked) = asked(&message) {
                decide(&asked.name, "shop", &[], |_| false);
            }
            let _ = code(&message, RCODE::NameError);
            let _ = answer(&message, Kind::Four, &[Ipv4Addr::LOCALHOST.into()]);
        }
    }
}
