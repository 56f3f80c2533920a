//! Fields of a RequestAuthentication, as in Istio's CRD.

use crate::schema::common::{SELECTOR, TARGET_REF, TARGET_REFS};
use crate::schema::{Field, TEXTS, Ty, yes};

const JWT: &[Field] = &[
    yes("issuer", Ty::Str, "What the claim `iss` must be.").required(),
    yes(
        "audiences",
        TEXTS,
        "Audiences, one of which must be in the claim `aud`.",
    ),
    yes(
        "jwksUri",
        Ty::Str,
        "Where the control plane fetches the keys; until it has some, tokens of the issuer are refused.",
    ),
    yes("jwks_uri", Ty::Str, "The same, old spelling."),
    yes("jwks", Ty::Str, "The keys."),
    yes(
        "presence",
        Ty::Enum(&["OPTIONAL", "REQUIRED"]),
        "REQUIRED: a request without a token of this issuer gets 401, whatever others it has.",
    ),
    yes(
        "fromHeaders",
        Ty::List(&Ty::Object(&[
            yes("name", Ty::Str, "Header.").required(),
            yes("prefix", Ty::Str, "Before the token."),
        ])),
        "Headers with the token.",
    ),
    yes("fromParams", TEXTS, "Query parameters with the token."),
    yes("fromCookies", TEXTS, "Cookies with the token."),
    yes(
        "outputPayloadToHeader",
        Ty::Str,
        "Header that gets the payload.",
    ),
    yes(
        "outputClaimToHeaders",
        Ty::List(&Ty::Object(&[
            yes("header", Ty::Str, "Header.").required(),
            yes("claim", Ty::Str, "Claim.").required(),
        ])),
        "Headers that get a claim.",
    ),
    yes(
        "spaceDelimitedClaims",
        TEXTS,
        "Claims that are lists of words.",
    ),
    yes(
        "forwardOriginalToken",
        Ty::Bool,
        "Keeps the token in the request.",
    ),
    yes(
        "timeout",
        Ty::Duration,
        "Limit for fetching the keys; 5 s unless given.",
    ),
];

const SPEC: &[Field] = &[
    yes(
        "selector",
        SELECTOR,
        "Workloads it holds for; without: all of the namespace.",
    ),
    yes(
        "targetRef",
        TARGET_REF,
        "What it is attached to, old spelling.",
    ),
    yes(
        "targetRefs",
        TARGET_REFS,
        "Gateways of the Gateway API that it is attached to, instead of a selector.",
    ),
    yes("jwtRules", Ty::List(&Ty::Object(JWT)), "Issuers."),
];

/// Below the object itself.
pub(crate) const OBJECT: &[Field] = &[yes("spec", Ty::Object(SPEC), "Rules.")];
