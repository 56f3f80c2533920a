//! `naka explain X`: a request, a reason or finding code, or a field path.

use crate::args;
use crate::exit::{Exit, Outcome};
use crate::out;
use naka_types::reason::Reason;

/// Runs `naka explain`.
pub(crate) async fn run(args: &args::Explain, _context: Option<&str>) -> Outcome {
    if let [word] = args.what.as_slice()
        && let Some(reason) = Reason::parse(word)
    {
        explain_reason(reason);
        return Ok(());
    }
    Err(Exit::usage(format!(
        "{:?} is no request, code or field",
        args.what.join(" ")
    )))
}

fn explain_reason(reason: Reason) {
    let status = match reason.http_status() {
        0 => "none".to_owned(),
        status => status.to_string(),
    };
    out::line(format!("{}: {}", reason.code(), reason.meaning()));
    out::line(format!(
        "HTTP status {status}, gRPC status {}, response flag {}",
        reason.grpc_status(),
        reason.flag()
    ));
}
