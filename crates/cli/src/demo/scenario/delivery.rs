//! Who may do what with a delivery: the manifest that the story was told with, as it stands, and each of its rules tried
//! by workloads that have the right and by workloads that lack it.
//!
//! A row counts only where the called program saw it from whom it should (its sidecar verified the certificate) or did
//! not see it at all, so nothing rests on what a proxy answers.

use super::stage::{Ask, Caller, Stage};
use super::{Claim, Proof};

/// The manifest of the story, then the way in for customers.
pub(super) const MANIFESTS: &str = concat!(
    include_str!("../../../../../cases/seeds/swiggy-delivery-authorization.yaml"),
    "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: delivery}
spec:
  hosts: ['*']
  gateways: [istio-system/demo]
  http:
  - route: [{destination: {host: delivery-service.food-delivery.svc.cluster.local}}]
"
);

/// The called program.
const DELIVERY: &str = "delivery-service-v1";

const fn caller(namespace: &'static str, account: &'static str, label: &'static str) -> Caller {
    Caller {
        namespace,
        account,
        label,
    }
}

const EXECUTIVE: Caller = caller("delivery", "delivery-executive", "");
const SUPPORT: Caller = caller("support", "customer-service", "department=customer-support");
const SALES: Caller = caller("support", "customer-service", "department=sales");
const RESTAURANT: Caller = caller("restaurant", "restaurant-service", "");
const CASHIER: Caller = caller("payment", "payment-service", "");
const IMPOSTOR: Caller = caller("default", "delivery-executive", "");

/// Whether it may, method, what follows `/api/v1/delivery/`, headers.
type Row = (
    bool,
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const DE: &[(&str, &str)] = &[("delivery-executive-id", "DE-7")];
const AGENT: &[(&str, &str)] = &[
    ("support-agent-id", "AGT-7"),
    ("customer-consent", "verified"),
];
const REST: &[(&str, &str)] = &[("restaurant-id", "REST-9")];
const COD: &[(&str, &str)] = &[("payment-method", "COD")];

const CLAIMS: &[(&str, Caller, &[Row])] = &[
    (
        "a delivery executive moves a delivery on, by id, and reads nothing",
        EXECUTIVE,
        &[
            (true, "POST", "d1/status", DE),
            (true, "PUT", "d1/location", DE),
            (false, "GET", "d1/status", DE),
            (false, "POST", "d1/status", &[]),
            (
                false,
                "POST",
                "d1/status",
                &[("delivery-executive-id", "XX-7")],
            ),
            (false, "POST", "d1/x/status", DE),
            (false, "POST", "d1/payment-status", DE),
        ],
    ),
    (
        "customer support reads a delivery with the customer's consent, and changes nothing",
        SUPPORT,
        &[
            (true, "GET", "d1/status", AGENT),
            (true, "GET", "d1/eta", AGENT),
            (false, "POST", "d1/status", AGENT),
            (false, "GET", "d1/eta", &[("support-agent-id", "AGT-7")]),
            (false, "GET", "d1/location", AGENT),
        ],
    ),
    (
        "the same service account in another department reads nothing",
        SALES,
        &[
            (false, "GET", "d1/status", AGENT),
            (false, "GET", "d1/eta", AGENT),
        ],
    ),
    (
        "a restaurant says that the food is ready, and nothing else",
        RESTAURANT,
        &[
            (true, "POST", "d1/food-ready", REST),
            (false, "POST", "d1/status", REST),
            (false, "POST", "d1/food-ready", &[]),
            (false, "GET", "d1/food-ready", REST),
        ],
    ),
    (
        "payment looks after cash on delivery, and no other payment",
        CASHIER,
        &[
            (true, "GET", "d1/payment-status", COD),
            (true, "POST", "d1/payment-status", COD),
            (
                false,
                "GET",
                "d1/payment-status",
                &[("payment-method", "UPI")],
            ),
            (false, "GET", "d1/status", COD),
        ],
    ),
    (
        "an executive's name in another namespace opens nothing",
        IMPOSTOR,
        &[
            (false, "POST", "d1/status", DE),
            (false, "PUT", "d1/location", DE),
        ],
    ),
];

pub(super) fn prove(stage: &Stage) -> Proof<'_> {
    Box::pin(async move {
        let mut claims = Vec::new();
        for (number, (claim, caller, rows)) in CLAIMS.iter().enumerate() {
            claims.push(claimed(stage, number, claim, *caller, rows).await);
        }
        let answer = stage.ask("/api/v1/delivery/d1/eta", AGENT).await;
        let reached = !stage.seen(DELIVERY).iter().all(|(id, _)| !id.is_empty());
        claims.push(Claim::new(
            "a customer from outside reaches no delivery, whatever the headers say",
            answer.status == 403 && !reached,
            format!("status {}, at the program: {reached}", answer.status),
        ));
        claims
    })
}

async fn claimed(stage: &Stage, number: usize, claim: &str, caller: Caller, rows: &[Row]) -> Claim {
    let id = |row: usize| format!("{number}-{row}");
    let asks: Vec<Ask> = rows
        .iter()
        .enumerate()
        .map(|(row, (_, method, path, headers))| Ask {
            id: id(row),
            host: "delivery-service.food-delivery".to_owned(),
            method: (*method).to_owned(),
            path: format!("/api/v1/delivery/{path}"),
            headers: headers
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        })
        .collect();
    let answers = match stage.ask_as(caller, &asks).await {
        Ok(answers) => answers,
        Err(exit) => return Claim::new(claim, false, exit.message),
    };
    let seen = stage.seen(DELIVERY);
    let own = format!(
        "spiffe://cluster.local/ns/{}/sa/{}",
        caller.namespace, caller.account
    );
    let (mut served, mut refused) = (0, 0);
    for (row, (may, ..)) in rows.iter().enumerate() {
        let at = seen.iter().filter(|(served, _)| *served == id(row));
        let peers: Vec<&str> = at.map(|(_, peer)| peer.as_str()).collect();
        match answers.get(&id(row)) {
            Some(200) if *may && peers == [own.as_str()] => served += 1,
            Some(403) if !may && peers.is_empty() => refused += 1,
            _ => {}
        }
    }
    let wanted = rows.iter().filter(|(may, ..)| *may).count();
    Claim::new(
        claim,
        served == wanted && served + refused == rows.len(),
        format!(
            "{served} of {wanted} served to {own}, {refused} of {} refused before the program",
            rows.len() - wanted
        ),
    )
}
