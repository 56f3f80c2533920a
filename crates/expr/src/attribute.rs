//! The one table of attributes: name, type, when it is known, what it costs, whom it is believed of, whether it is
//! shown. `docs/reference/expressions.md` is made from it.

use std::fmt;

/// Type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// true or false.
    Bool,
    /// 64-bit whole number.
    Int,
    /// 64-bit floating point number.
    Double,
    /// Text.
    String,
    /// A moment.
    Timestamp,
    /// A length of time.
    Duration,
    /// Map from text to text.
    Map,
    /// Whatever the JSON document holds there.
    Json,
    /// List of any of these.
    List,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Double => "double",
            Self::String => "string",
            Self::Timestamp => "timestamp",
            Self::Duration => "duration",
            Self::Map => "map",
            Self::Json => "json",
            Self::List => "list",
        })
    }
}

/// When an attribute is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// From the connection's beginning.
    Connection,
    /// With the request's head.
    Head,
    /// When the body was read, which delays the request.
    Body,
}

/// Whom an attribute is believed of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The mesh knows it by itself: a certificate, a clock, its own configuration.
    Verified,
    /// The caller says so and could say anything.
    Claimed,
}

/// Whether a value may be shown to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sensitivity {
    /// Shown.
    Plain,
    /// Shown, unless the name in the map is one of secrets (`authorization`, `cookie`, …).
    ByName,
    /// About people; shown only to who asks for one request.
    Personal,
}

/// One attribute.
#[derive(Debug, Clone, Copy)]
pub struct Attribute {
    /// As written.
    pub name: &'static str,
    /// Type.
    pub ty: Type,
    /// When it is known.
    pub phase: Phase,
    /// What one look at it costs.
    pub cost: u32,
    /// Whom it is believed of.
    pub trust: Trust,
    /// Whether it is shown.
    pub sensitivity: Sensitivity,
    /// One line for the reference page.
    pub doc: &'static str,
}

/// Attributes that are a text of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// `request.method`.
    Method,
    /// `request.scheme`.
    Scheme,
    /// `request.host`.
    Host,
    /// `request.path`.
    Path,
    /// `source.workload`.
    SourceWorkload,
    /// `source.namespace`.
    SourceNamespace,
    /// `source.principal`.
    SourcePrincipal,
    /// `source.address`.
    SourceAddress,
    /// `destination.service`.
    DestinationService,
    /// `destination.namespace`.
    DestinationNamespace,
}

const fn row(
    name: &'static str,
    ty: Type,
    phase: Phase,
    cost: u32,
    trust: Trust,
    doc: &'static str,
) -> Attribute {
    Attribute {
        name,
        ty,
        phase,
        cost,
        trust,
        sensitivity: Sensitivity::Plain,
        doc,
    }
}

use Phase::{Body, Connection, Head};
use Trust::{Claimed, Verified};
use Type::{Int, Json, Map, String, Timestamp};

/// All attributes.
pub const TABLE: &[Attribute] = &[
    row(
        "request.method",
        String,
        Head,
        1,
        Claimed,
        "Method, as sent (`GET`).",
    ),
    row(
        "request.scheme",
        String,
        Head,
        1,
        Claimed,
        "`http` or `https`: how the caller's hop came here.",
    ),
    row(
        "request.host",
        String,
        Head,
        1,
        Claimed,
        "Host the caller named, lower case, without port.",
    ),
    row(
        "request.path",
        String,
        Head,
        1,
        Claimed,
        "Path in normal form, without the query.",
    ),
    Attribute {
        sensitivity: Sensitivity::ByName,
        ..row(
            "request.headers",
            Map,
            Head,
            3,
            Claimed,
            "Headers by lower-case name; several values of one name are joined by commas.",
        )
    },
    row(
        "request.query",
        Map,
        Head,
        4,
        Claimed,
        "Query parameters by name, the first of each name, percent-decoded.",
    ),
    row(
        "request.time",
        Timestamp,
        Head,
        2,
        Verified,
        "When the proxy decides, by its own clock.",
    ),
    Attribute {
        sensitivity: Sensitivity::Personal,
        ..row(
            "request.body",
            Json,
            Body,
            100,
            Claimed,
            "Fields of a JSON body of at most 65536 bytes: `request.body.amount`, `request.body.items[0].sku`.",
        )
    },
    row(
        "source.workload",
        String,
        Connection,
        1,
        Verified,
        "Name of the calling workload.",
    ),
    row(
        "source.namespace",
        String,
        Connection,
        1,
        Verified,
        "Its namespace.",
    ),
    row(
        "source.principal",
        String,
        Connection,
        1,
        Verified,
        "Its identity as Istio writes it: `cluster.local/ns/shop/sa/order`.",
    ),
    Attribute {
        sensitivity: Sensitivity::Personal,
        ..row(
            "source.address",
            String,
            Connection,
            2,
            Verified,
            "Address of the other end of the connection, without port.",
        )
    },
    row(
        "destination.service",
        String,
        Head,
        1,
        Verified,
        "Full host of the service that is called: `payment.shop.svc.cluster.local`.",
    ),
    row(
        "destination.namespace",
        String,
        Head,
        1,
        Verified,
        "Its namespace.",
    ),
    row(
        "destination.port",
        Int,
        Head,
        1,
        Verified,
        "Port that is called.",
    ),
];

/// The attribute of that name.
pub(crate) fn of(name: &str) -> Option<&'static Attribute> {
    TABLE.iter().find(|attribute| attribute.name == name)
}

/// The text attribute of that name.
pub(crate) fn text(name: &str) -> Option<Text> {
    Some(match name {
        "request.method" => Text::Method,
        "request.scheme" => Text::Scheme,
        "request.host" => Text::Host,
        "request.path" => Text::Path,
        "source.workload" => Text::SourceWorkload,
        "source.namespace" => Text::SourceNamespace,
        "source.principal" => Text::SourcePrincipal,
        "source.address" => Text::SourceAddress,
        "destination.service" => Text::DestinationService,
        "destination.namespace" => Text::DestinationNamespace,
        _ => return None,
    })
}

/// Whether a header's value is never shown.
#[must_use]
pub fn is_secret_header(name: &str) -> bool {
    [
        "auth", "cookie", "token", "secret", "api-key", "apikey", "password",
    ]
    .iter()
    .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::{Phase, TABLE, Trust};
    use std::fmt::Write as _;

    /// The rows of `docs/reference/expressions.md`.
    #[test]
    fn the_page_has_every_attribute() {
        let mut rows = String::new();
        for row in TABLE {
            let known = match row.phase {
                Phase::Connection => "connection",
                Phase::Head => "head",
                Phase::Body => "body",
            };
            let of = match row.trust {
                Trust::Verified => "mesh",
                Trust::Claimed => "caller",
            };
            let _ = writeln!(
                rows,
                "| `{}` | {} | {known} | {} | {of} | {} |",
                row.name, row.ty, row.cost, row.doc
            );
        }
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/reference/expressions.md"
        );
        let page = std::fs::read_to_string(path).unwrap();
        if std::env::var_os("NAKA_WRITE_DOCS").is_some() && !page.contains(&rows) {
            let (head, rest) = page.split_once("|---|---|---|---|---|---|\n").unwrap();
            let (_, tail) = rest.split_once("\n\n").unwrap();
            let new = format!("{head}|---|---|---|---|---|---|\n{rows}\n{tail}");
            std::fs::write(path, new).unwrap();
            return;
        }
        assert!(
            page.contains(&rows),
            "NAKA_WRITE_DOCS=1 writes them:\n{rows}"
        );
    }
}
