//! `tunnel` of a traffic policy: the destination is a proxy, and connections to it lead on to a target by CONNECT.

use crate::decode::Report;
use crate::networking::read;
use crate::schema::{Field, Now::Yes, PORT, Ty};
use crate::tree::{Node, join};
use naka_types::host::Host;

/// Where connections through a destination lead.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// POST instead of CONNECT.
    pub post: bool,
    /// Host behind the proxy.
    pub host: String,
    /// Port there.
    pub port: u16,
}

pub(super) const FIELDS: Ty = Ty::Object(&[
    Field::new("protocol", Ty::Str, Yes, "CONNECT (default) or POST."),
    Field::new("targetHost", Ty::Str, Yes, "Host behind the proxy.").required(),
    Field::new("targetPort", PORT, Yes, "Port there.").required(),
]);

pub(super) fn build(report: &mut Report, node: &Node, at: &str) -> Option<Tunnel> {
    let post = match node.get("protocol").and_then(Node::text) {
        None | Some("" | "CONNECT") => false,
        Some("POST") => true,
        Some(other) => {
            report.invalid(
                &join(at, "protocol"),
                node,
                format!("{other:?} is no way through a proxy"),
                "write CONNECT or POST".to_owned(),
            );
            return None;
        }
    };
    let host = read::text(node.get("targetHost"))?;
    if Host::parse(&host).is_ok_and(|host| !host.is_wildcard()) {
        return Some(Tunnel {
            post,
            host,
            port: read::port(node.get("targetPort"))?,
        });
    }
    report.invalid(
        &join(at, "targetHost"),
        node,
        format!("{host:?} is no host"),
        "write a DNS name or an IP address".to_owned(),
    );
    None
}
