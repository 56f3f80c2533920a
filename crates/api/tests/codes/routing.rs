//! Findings on VirtualServices: claims of hosts, delegates, faults, deprecated fields.

use super::Case;
use naka_api::Mode::{Compat, Strict};

pub(super) const CASES: &[Case] = &[
    (
        "W902",
        Compat,
        "%VS  - route: [{destination: {host: a}}]\n    fault: {abort: {http2Error: X, percentage: {value: 1}}}\n",
        "spec.http[0].fault.abort.http2Error",
        8,
        "no effect",
    ),
    (
        "W114",
        Compat,
        "%VS  - route: [{destination: {host: a}}]\n    mirror: {host: b}\n    mirror_percent: 3\n",
        "spec.http[0].mirror_percent",
        9,
        "mirrorPercentage",
    ),
    (
        "E114",
        Strict,
        "%VS  - route: [{destination: {host: a}}]\n    corsPolicy:\n      allowOrigin: [a]\n",
        "spec.http[0].corsPolicy.allowOrigin",
        9,
        "allowOrigins",
    ),
    (
        "L315",
        Compat,
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: shop}\nspec:\n  hosts: [pay.bank.svc]\n  http: [{route: [{destination: {host: pay.bank.svc}}]}]\n",
        "spec.hosts[0]",
        5,
        "belongs to the namespace bank",
    ),
    (
        "L316",
        Compat,
        "%VS  - route: [{destination: {host: a}}]\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: w}\nspec:\n  hosts: [pay]\n  http: [{route: [{destination: {host: b}}]}]\n",
        "spec.hosts[0]",
        13,
        "VirtualService default/v claims",
    ),
    (
        "L317",
        Compat,
        "%VS  - delegate: {name: nobody}\n",
        "spec.http[0].delegate",
        7,
        "VirtualService default/nobody does not exist",
    ),
    (
        "L319",
        Compat,
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  http: [{route: [{destination: {host: a}}]}]\n",
        "spec",
        4,
        "nobody delegates",
    ),
    (
        "L318",
        Compat,
        "%VS  - route: [{destination: {host: a}}]\n    fault: {abort: {httpStatus: 500}}\n",
        "spec.http[0].fault.abort",
        8,
        "no request",
    ),
];
