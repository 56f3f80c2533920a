//! Guards that stop what somebody else lets through, or that look at what nobody has.

use super::say;
use crate::codes;
use crate::object::Object;
use crate::own::request_guard::{Action, RequestGuard, Watch};
use naka_types::finding::Finding;
use naka_types::host::ROOT_NAMESPACE;

pub(super) fn check(
    out: &mut Vec<Finding>,
    object: &Object,
    guard: &RequestGuard,
    all: &[&Object],
) {
    let namespace = &object.meta.namespace;
    let everywhere = namespace == ROOT_NAMESPACE;
    let near = |other: &Object| everywhere || other.meta.namespace == *namespace;
    let crossing = all.iter().find_map(|other| {
        let service = other.virtual_service().filter(|_| near(other))?;
        let asks = service.http.iter().any(|route| route.cors.is_some());
        asks.then(|| other.meta.name.clone())
    });
    let tokens = all.iter().any(|other| {
        other.request_authentication().is_some() && {
            let root = other.meta.namespace == ROOT_NAMESPACE;
            root || near(other)
        }
    });
    for (index, one) in guard.guards.iter().enumerate() {
        let at = format!("spec.guards[{index}]");
        match &one.watch {
            Watch::Methods(allowed) if one.action != Action::Log => {
                let lacks = !allowed.iter().any(|method| method == "OPTIONS");
                if let Some(name) = crossing.as_ref().filter(|_| lacks) {
                    say(
                        out,
                        codes::L390,
                        object,
                        &format!("{at}.methods.allow"),
                        format!(
                            "VirtualService {name} has a corsPolicy, and browsers ask by OPTIONS before they call: that is refused"
                        ),
                        "add OPTIONS to the list".to_owned(),
                    );
                }
            }
            Watch::Tokens(_) if !tokens => say(
                out,
                codes::L391,
                object,
                &format!("{at}.tokens"),
                "no RequestAuthentication here reads any token: nothing is ever found".to_owned(),
                "add a RequestAuthentication with the issuer, or remove the guard".to_owned(),
            ),
            _ => {}
        }
    }
}
