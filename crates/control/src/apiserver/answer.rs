//! Answers: JSON, and errors as Kubernetes `Status` objects, which kubectl prints in its own words.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use naka_store::Error as StoreError;
use naka_types::finding::Finding;
use naka_types::name::ObjectRef;
use serde_json::{Value, json};

/// Result of a handler.
pub(crate) type Outcome<T = Response> = Result<T, Problem>;

/// An error as the caller sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Problem {
    pub(crate) code: StatusCode,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) details: Value,
}

impl Problem {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
        }
    }

    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn no_path(path: &str) -> Self {
        let text = format!("the server could not find the requested resource: {path}");
        Self::new(StatusCode::NOT_FOUND, "NotFound", text)
    }

    pub(crate) fn no_method(method: &http::Method, path: &str) -> Self {
        let text = format!("{method} is not allowed on {path}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", text)
    }

    pub(crate) fn gone(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            message,
        )
    }

    pub(crate) fn too_large() -> Self {
        let text = "the request body is larger than 8 MiB";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", text)
    }

    pub(crate) fn media_type(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            message,
        )
    }

    /// An object that does not decode: 422 with one cause for each finding.
    pub(crate) fn invalid(object: &str, findings: &[Finding]) -> Self {
        let errors: Vec<&Finding> = findings
            .iter()
            .filter(|finding| finding.is_error())
            .collect();
        let causes: Vec<Value> = errors
            .iter()
            .map(|finding| {
                let text = sentence(finding);
                json!({"reason": finding.code, "field": finding.field, "message": text})
            })
            .collect();
        let texts: Vec<String> = errors
            .iter()
            .map(|finding| match finding.field.as_str() {
                "" => sentence(finding),
                field => format!("{field}: {}", sentence(finding)),
            })
            .collect();
        let message = format!("{object} is invalid: {}", texts.join("; "));
        Self {
            details: json!({"causes": causes}),
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
        }
    }

    /// Adds why.
    pub(crate) fn explained(mut self, why: &str) -> Self {
        self.message = format!("{}: {why}", self.message);
        self
    }

    /// Names the object an error is about.
    pub(crate) fn about(mut self, object: &ObjectRef) -> Self {
        if !self.details.is_object() {
            self.details = json!({});
        }
        self.details["name"] = json!(object.name);
        self.details["kind"] = json!(object.kind);
        self
    }

    /// The Kubernetes object.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

fn sentence(finding: &Finding) -> String {
    if finding.fix.is_empty() {
        finding.message.clone()
    } else {
        format!("{} (fix: {})", finding.message, finding.fix)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        let (code, reason) = match &error {
            StoreError::Conflict { .. } | StoreError::UndoConflict { .. } => {
                (StatusCode::CONFLICT, "Conflict")
            }
            StoreError::AlreadyExists(_) => (StatusCode::CONFLICT, "AlreadyExists"),
            StoreError::Owned { .. } => (StatusCode::FORBIDDEN, "Forbidden"),
            StoreError::NotFound(_) | StoreError::NoSuchRevision(_) => {
                (StatusCode::NOT_FOUND, "NotFound")
            }
            StoreError::Gone { .. } | StoreError::Outlived { .. } => (StatusCode::GONE, "Expired"),
            StoreError::Invalid(_) | StoreError::Seal { .. } | StoreError::NothingToUndo(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "Invalid")
            }
            StoreError::Stopped(_) | StoreError::ReadOnly(_) | StoreError::Locked { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")
            }
            StoreError::Io { .. } | StoreError::NewerFormat { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "InternalError")
            }
        };
        let problem = Self::new(code, reason, text);
        match &error {
            StoreError::Conflict { object, .. }
            | StoreError::Owned { object, .. }
            | StoreError::AlreadyExists(object)
            | StoreError::NotFound(object) => problem.about(object),
            _ => problem,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = json_with(self.code, &self.status());
        if self.code == StatusCode::UNAUTHORIZED {
            let value = HeaderValue::from_static("Bearer realm=\"naka\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

/// A JSON answer.
pub(crate) fn json_with(code: StatusCode, value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = code;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    let never = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, never);
    response
}

/// A JSON answer with 200.
pub(crate) fn ok(value: &Value) -> Response {
    json_with(StatusCode::OK, value)
}
