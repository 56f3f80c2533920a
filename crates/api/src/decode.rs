//! From bytes or JSON to objects and findings.
//!
//! A file may hold several documents; each stands for itself. `List` objects are opened. Everything found is reported,
//! not only the first error.

use crate::kind::{self, Kind};
use crate::object::{Meta, Object, Spec};
use crate::schema::Field;
use crate::tree::{self, Data, Node, Place, Problem};
use crate::{codes, core, extensions, limits, mesh, networking, own, security, telemetry};
use naka_types::finding::Finding;
use naka_types::host::DEFAULT_NAMESPACE;
use serde_json::Value;
use std::collections::HashMap;

pub(crate) mod meta;
mod report;

pub(crate) use report::Report;

/// How old spellings are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// A fixed list of them is accepted with a warning.
    #[default]
    Compat,
    /// Each is an error.
    Strict,
}

/// What came out of a text.
#[derive(Debug, Clone, Default)]
pub struct Decoded {
    /// Objects of which something is in force.
    pub objects: Vec<Object>,
    /// Everything found.
    pub findings: Vec<Finding>,
    /// What lints look at, with the places of its fields: objects as compat mode reads them, whatever the mode was,
    /// because old spellings that strict mode refuses do not change what a lint has to say.
    linted: Vec<(Object, Places)>,
}

/// Where the fields of an object stand in its file.
#[derive(Debug, Clone, Default)]
pub struct Places {
    file: String,
    fields: HashMap<String, Place>,
}

impl Places {
    fn of(file: &str, node: &Node) -> Self {
        let mut fields = HashMap::new();
        collect(&mut fields, node, "", node.place);
        Self {
            file: file.to_owned(),
            fields,
        }
    }

    /// File, line and column of a field, or of the nearest field around it.
    fn fill(&self, finding: &mut Finding) {
        let mut field = finding.field.as_str();
        let place = loop {
            match self.fields.get(field) {
                Some(place) => break *place,
                None if field.is_empty() => break Place::default(),
                None => field = field.rfind(['.', '[']).map_or("", |end| &field[..end]),
            }
        };
        finding.file.clone_from(&self.file);
        (finding.line, finding.column) = (place.line, place.column);
    }
}

fn collect(fields: &mut HashMap<String, Place>, node: &Node, path: &str, place: Place) {
    fields.insert(path.to_owned(), place);
    for entry in node.entries() {
        collect(
            fields,
            &entry.value,
            &tree::join(path, &entry.key),
            entry.place,
        );
    }
    for (index, item) in node.items().iter().enumerate() {
        collect(fields, item, &format!("{path}[{index}]"), item.place);
    }
}

impl Decoded {
    /// [`crate::cross_check`] over these objects, with file and line.
    #[must_use]
    pub fn lint(&self) -> Vec<Finding> {
        let objects: Vec<&Object> = self.linted.iter().map(|(object, _)| object).collect();
        let mut findings = crate::cross_check(&objects);
        self.place(&mut findings);
        findings
    }

    /// Gives findings about these objects that name no file (a control plane knows none) their file and line.
    pub fn place(&self, findings: &mut [Finding]) {
        let places: HashMap<String, &Places> = self
            .linted
            .iter()
            .map(|(object, places)| (object.reference().to_string(), places))
            .collect();
        for finding in findings.iter_mut().filter(|f| f.file.is_empty()) {
            if let Some(places) = places.get(&finding.object) {
                places.fill(finding);
            }
        }
    }

    /// Line of each object, in the order of `objects`; compat mode only.
    #[must_use]
    pub fn lines(&self) -> Vec<u32> {
        let line = |places: &Places| places.fields.get("").map_or(0, |place| place.line);
        self.linted.iter().map(|(_, places)| line(places)).collect()
    }

    /// Adds what came out of another file.
    pub fn append(&mut self, mut other: Self) {
        self.objects.append(&mut other.objects);
        self.findings.append(&mut other.findings);
        self.linted.append(&mut other.linted);
    }
}

/// Decodes all documents of a YAML (or JSON) text; objects without namespace go to `default`.
#[must_use]
pub fn decode_yaml(file: &str, bytes: &[u8], mode: Mode) -> Decoded {
    decode_yaml_in(file, bytes, mode, DEFAULT_NAMESPACE)
}

/// As [`decode_yaml`], with the namespace for objects that name none.
#[must_use]
pub fn decode_yaml_in(file: &str, bytes: &[u8], mode: Mode, namespace: &str) -> Decoded {
    let mut out = Decoded::default();
    for document in tree::read(bytes) {
        let Some(root) = document.root else {
            for problem in &document.problems {
                let mut report = Report::new(file, mode);
                report.problem(problem);
                out.findings.append(&mut report.findings);
            }
            continue;
        };
        for (node, problems) in open_list(root, &document.problems) {
            let places = Places::of(file, &node);
            let lenient = (mode == Mode::Strict)
                .then(|| decode_node(file, node.clone(), &problems, Mode::Compat, namespace).0);
            let (object, mut findings) = decode_node(file, node, &problems, mode, namespace);
            let linted = lenient.unwrap_or_else(|| object.clone());
            out.linted.extend(linted.map(|object| (object, places)));
            out.objects.extend(object);
            out.findings.append(&mut findings);
        }
    }
    out
}

/// Decodes one object from JSON; without namespace it goes to `default`.
#[must_use]
pub fn decode_json(value: &Value, mode: Mode) -> (Option<Object>, Vec<Finding>) {
    decode_json_in(value, mode, DEFAULT_NAMESPACE)
}

/// As [`decode_json`], with the namespace for an object that names none.
#[must_use]
pub fn decode_json_in(
    value: &Value,
    mode: Mode,
    namespace: &str,
) -> (Option<Object>, Vec<Finding>) {
    decode_node("", Node::from_json(value), &[], mode, namespace)
}

/// `kind: List` is what `kubectl get -o yaml` prints: its items are objects of their own.
fn open_list(mut root: Node, problems: &[Problem]) -> Vec<(Node, Vec<Problem>)> {
    let is_list =
        root.get("kind").and_then(Node::text) == Some("List") && root.get("items").is_some();
    if !is_list {
        return vec![(root, problems.to_vec())];
    }
    let Some(Data::List(items)) = root.take("items").map(|entry| entry.value.data) else {
        return Vec::new();
    };
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| {
            let prefix = format!("items[{index}].");
            let own = problems
                .iter()
                .filter_map(|problem| match problem {
                    Problem::Duplicate {
                        place,
                        field,
                        first,
                    } => Some(Problem::Duplicate {
                        place: *place,
                        field: field.strip_prefix(&prefix)?.to_owned(),
                        first: *first,
                    }),
                    Problem::Broken { .. } => None,
                })
                .collect();
            (item, own)
        })
        .collect()
}

fn decode_node(
    file: &str,
    mut node: Node,
    problems: &[Problem],
    mode: Mode,
    namespace: &str,
) -> (Option<Object>, Vec<Finding>) {
    let mut report = Report::new(file, mode);
    let Some(kind) = kind_of(&mut report, &node) else {
        return (None, report.findings);
    };
    report.kind = Some(kind);
    for problem in problems {
        report.problem(problem);
    }
    let meta = meta::decode(&mut report, &mut node, kind, namespace);
    node.take("status");
    let raw = if kind == Kind::Secret {
        core::secret::canonical(&node)
    } else {
        node.to_json()
    };
    if kind == Kind::DestinationRule {
        networking::destination_rule::aliases::rewrite(&mut report, &mut node);
    }
    let annotations = node.at(&["metadata", "annotations"]).cloned();
    // Checked by `kind_of` and `meta`; what is left is the kind's own.
    for header in ["apiVersion", "kind", "metadata"] {
        node.take(header);
    }
    crate::schema::walk::object(&mut report, &node, fields_of(kind), "");
    if !kind.in_force() {
        crate::schema::walk::object_not_yet(&mut report, node.place, kind);
    }
    crate::schema::rules::check(&mut report, &node, kind);
    crate::kept::check(&mut report, &node, kind);
    let spec = build(&mut report, &node, kind, (&meta, annotations.as_ref()))
        .and_then(|spec| annotated(&mut report, annotations.as_ref(), spec));
    let spec = match spec {
        Some(Spec::DestinationRule(rule)) if !report.object_sound() => {
            let left = networking::destination_rule::guard::left(&mut report, &node, &rule);
            left.map(|rule| Spec::DestinationRule(Box::new(rule)))
        }
        other => other.filter(|_| report.object_sound()),
    };
    report.finish(&meta);
    let object = spec.map(|spec| Object {
        kind,
        meta,
        spec,
        raw,
    });
    (object, report.findings)
}

/// Field table of a kind: everything below the object but `apiVersion`, `kind`, `metadata`, `status`.
pub(crate) fn fields_of(kind: Kind) -> &'static [Field] {
    match kind {
        Kind::Namespace => core::namespace::fields::OBJECT,
        Kind::Service => core::service::fields::OBJECT,
        Kind::Secret => core::secret::fields::OBJECT,
        Kind::WorkloadEntry => networking::workload_entry::fields::OBJECT,
        Kind::VirtualService => networking::virtual_service::fields::OBJECT,
        Kind::DestinationRule => networking::destination_rule::fields::OBJECT,
        Kind::Gateway => networking::gateway::fields::OBJECT,
        Kind::BackendPolicy => own::backend_policy::fields::OBJECT,
        Kind::TrustModel => own::trust_model::fields::OBJECT,
        Kind::RequestGuard => own::request_guard::fields::OBJECT,
        Kind::Mode => own::mode::fields::OBJECT,
        Kind::CertificatePolicy => own::certificate_policy::fields::OBJECT,
        Kind::PeerAuthentication => security::peer_authentication::fields::OBJECT,
        Kind::LocalRateLimit => limits::local_rate_limit::fields::OBJECT,
        Kind::Rollout => own::rollout::fields::OBJECT,
        Kind::ServiceEntry => networking::service_entry::fields::OBJECT,
        Kind::Sidecar => networking::sidecar::fields::OBJECT,
        Kind::WorkloadGroup => networking::workload_group::fields::OBJECT,
        Kind::EnvoyFilter => networking::envoy_filter::fields::OBJECT,
        Kind::ProxyConfig => networking::proxy_config::fields::OBJECT,
        Kind::WasmPlugin => extensions::wasm_plugin::fields::OBJECT,
        Kind::TrafficExtension => extensions::traffic_extension::fields::OBJECT,
        Kind::AuthorizationPolicy => security::authorization_policy::fields::OBJECT,
        Kind::RequestAuthentication => security::request_authentication::fields::OBJECT,
        Kind::Telemetry => telemetry::fields::OBJECT,
        Kind::ConfigMap => core::config_map::fields::OBJECT,
        Kind::Deployment => core::deployment::fields::OBJECT,
        Kind::PrometheusRule => core::prometheus_rule::fields::OBJECT,
        Kind::Trigger => core::trigger::fields::OBJECT,
        Kind::KnativeService => core::knative_service::fields::OBJECT,
    }
}

fn build(
    report: &mut Report,
    node: &Node,
    kind: Kind,
    (meta, annotations): (&Meta, Option<&Node>),
) -> Option<Spec> {
    let namespace = meta.namespace.as_str();
    let empty = Node::bare(Data::Map(Vec::new()));
    let spec = node.get("spec").unwrap_or(&empty);
    Some(match kind {
        Kind::Namespace => Spec::Namespace,
        Kind::Service => Spec::Service(core::service::build(report, spec)),
        Kind::Secret => Spec::Secret(core::secret::build(report, node)),
        Kind::WorkloadEntry => {
            Spec::WorkloadEntry(networking::workload_entry::build(report, spec)?)
        }
        Kind::VirtualService => {
            Spec::VirtualService(networking::virtual_service::build(report, spec, namespace)?)
        }
        Kind::DestinationRule => Spec::DestinationRule(Box::new(
            networking::destination_rule::build(report, spec, namespace)?,
        )),
        Kind::BackendPolicy => Spec::BackendPolicy(Box::new(own::backend_policy::build(
            report, spec, namespace,
        )?)),
        Kind::Mode => Spec::Mode(Box::new(own::mode::build(report, spec, namespace))),
        Kind::TrustModel => {
            Spec::TrustModel(Box::new(own::trust_model::build(report, spec, namespace)))
        }
        Kind::RequestGuard => Spec::RequestGuard(own::request_guard::build(report, spec)?),
        Kind::CertificatePolicy => {
            Spec::CertificatePolicy(Box::new(own::certificate_policy::build(report, spec)))
        }
        Kind::Gateway => Spec::Gateway(networking::gateway::build(report, spec, namespace)),
        Kind::PeerAuthentication => {
            let built = security::peer_authentication::build(report, spec, annotations);
            Spec::PeerAuthentication(built)
        }
        Kind::AuthorizationPolicy => Spec::AuthorizationPolicy(
            security::authorization_policy::build(report, spec, annotations, namespace),
        ),
        Kind::LocalRateLimit => {
            Spec::LocalRateLimit(limits::local_rate_limit::build(report, spec)?)
        }
        Kind::Rollout => Spec::Rollout(own::rollout::build(report, spec, namespace)?),
        Kind::ServiceEntry => {
            Spec::ServiceEntry(networking::service_entry::build(report, spec, namespace)?)
        }
        Kind::Sidecar => Spec::Sidecar(networking::sidecar::build(report, spec, namespace)),
        Kind::WorkloadGroup
        | Kind::EnvoyFilter
        | Kind::ProxyConfig
        | Kind::WasmPlugin
        | Kind::TrafficExtension => Spec::Kept,
        Kind::RequestAuthentication => {
            Spec::RequestAuthentication(security::request_authentication::build(report, spec))
        }
        Kind::Telemetry => Spec::Kept,
        Kind::ConfigMap if mesh::is_it(namespace, &meta.name) => {
            Spec::MeshConfig(mesh::build(report, node))
        }
        Kind::ConfigMap => Spec::Kept,
        Kind::Deployment => Spec::Kept,
        Kind::PrometheusRule => Spec::Kept,
        Kind::Trigger | Kind::KnativeService => Spec::Kept,
    })
}

/// What annotations add to a spec; `None` when nothing is left of it.
fn annotated(report: &mut Report, annotations: Option<&Node>, mut spec: Spec) -> Option<Spec> {
    if let Spec::DestinationRule(rule) = &mut spec {
        networking::destination_rule::balancer::attach(report, annotations, rule);
        networking::destination_rule::build::pool::attach(report, annotations, rule);
    }
    if let Spec::VirtualService(routes) = &mut spec {
        let any = !routes.http.is_empty();
        networking::virtual_service::conditions::attach(report, annotations, routes);
        // As without conditions: an object without any route would answer 404 to everything.
        if any && routes.http.is_empty() {
            return None;
        }
    }
    Some(spec)
}

fn kind_of(report: &mut Report, node: &Node) -> Option<Kind> {
    let place = node.place;
    if !matches!(node.data, Data::Map(_)) {
        report.error(
            codes::E003,
            "",
            place,
            format!("an object is a map, found {}", node.what()),
            "start with apiVersion, kind, metadata".to_owned(),
        );
        return None;
    }
    let mut word = |field: &str| -> Option<String> {
        match node.get(field) {
            None => {
                report.error(
                    codes::E006,
                    field,
                    place,
                    format!("{field} is required"),
                    format!("add {field}"),
                );
                None
            }
            Some(value) => match value.text() {
                Some(text) => Some(text.to_owned()),
                None => {
                    report.error(
                        codes::E003,
                        field,
                        value.place,
                        format!("wants a text, found {}", value.what()),
                        format!("write {field} as a text"),
                    );
                    None
                }
            },
        }
    };
    let (version, name) = (word("apiVersion"), word("kind"));
    let (version, name) = (version?, name?);
    let at = |field: &str| node.get(field).map_or(place, |value| value.place);
    let Some(kind) = Kind::of_manifest(&name, &version) else {
        let (message, fix) = if kind::known_elsewhere(&name) {
            (
                format!("kind {name} is not supported yet"),
                "leave the object out".to_owned(),
            )
        } else if let Some(near) = kind::nearest(&name) {
            (
                format!("unknown kind {name}; did you mean {near}?"),
                format!("write {near}"),
            )
        } else {
            let all: Vec<&str> = Kind::all().map(Kind::manifest).collect();
            (
                format!("unknown kind {name}"),
                format!("kinds supported: {}", all.join(", ")),
            )
        };
        report.error(codes::E005, "kind", at("kind"), message, fix);
        return None;
    };
    if !kind.reads(&version) {
        let group = version.rsplit_once('/').map_or("", |(group, _)| group);
        // `Service` is a kind of Knative too, `Gateway` one of the Gateway API: say so rather than "bad version".
        let message = if group != kind.names().group {
            format!("kind {name} of {version} is not supported yet")
        } else {
            format!("{name} has no apiVersion {version}")
        };
        report.error(
            codes::E005,
            "apiVersion",
            at("apiVersion"),
            message,
            format!("write apiVersion: {}", kind.api_version()),
        );
        return None;
    }
    Some(kind)
}
