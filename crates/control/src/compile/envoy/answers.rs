//! The one shape of body of a gateway's own answers, at an Envoy.
//!
//! An Envoy knows why it answers by its response flags; each is given the reason that our own proxies say. What a route
//! answers itself has no flag and stays as it is.

use naka_types::reason::Reason;
use naka_wire::envoy::config::accesslog::v3::{
    AccessLogFilter, ResponseFlagFilter, access_log_filter::FilterSpecifier,
};
use naka_wire::envoy::config::core::v3::{
    SubstitutionFormatString, substitution_format_string::Format,
};
use naka_wire::envoy::extensions::filters::network::http_connection_manager::v3::{
    LocalReplyConfig, ResponseMapper,
};
use naka_wire::values;

/// Reasons by the flag that an Envoy has for them; of several with one flag, what it mostly means.
const FLAGS: [(&str, Reason); 10] = [
    ("NR", Reason::NoRoute),
    ("NC", Reason::UnknownCluster),
    ("UH", Reason::NoHealthyEndpoints),
    ("UF", Reason::ConnectFailed),
    ("UO", Reason::CircuitOpen),
    ("UT", Reason::RequestTimeout),
    ("UC", Reason::UpstreamReset),
    ("UR", Reason::UpstreamReset),
    ("RL", Reason::RateLimited),
    ("DPE", Reason::BadRequest),
];

/// Bodies by flag.
pub(super) fn bodies() -> LocalReplyConfig {
    let one = |(flag, reason): &(&str, Reason)| ResponseMapper {
        filter: Some(AccessLogFilter {
            filter_specifier: Some(FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
                flags: vec![(*flag).to_owned()],
            })),
        }),
        body_format_override: Some(SubstitutionFormatString {
            format: Some(Format::JsonFormat(values::fields([
                ("status", values::string("%RESPONSE_CODE%")),
                ("reason", values::string(reason.code())),
                ("request_id", values::string("%REQ(X-REQUEST-ID)%")),
            ]))),
            ..SubstitutionFormatString::default()
        }),
        ..ResponseMapper::default()
    };
    LocalReplyConfig {
        mappers: FLAGS.iter().map(one).collect(),
        ..LocalReplyConfig::default()
    }
}
