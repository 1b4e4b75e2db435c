//! HTTP beside gRPC: metrics and probes.

pub mod metrics;
mod service_metrics;
mod subscription_metrics;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::model::rejection::Rejection;

/// The media type of OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `/metrics`, `/healthz` (the process lives) and `/readyz` (it serves, with a quorum).
pub fn router<Text: Future<Output = String> + Send>(
    metrics: impl Fn() -> Text + Clone + Send + Sync + 'static,
    ready: impl Fn() -> Result<(), Rejection> + Clone + Send + Sync + 'static,
) -> Router {
    Router::new()
        .route(
            "/metrics",
            get(move || {
                let text = metrics();
                async move { ([(header::CONTENT_TYPE, OPEN_METRICS)], text.await) }
            }),
        )
        .route("/healthz", get(async || "alive\n"))
        .route(
            "/readyz",
            get(move || {
                let result = ready();
                async move {
                    match result {
                        Ok(()) => "ready\n".into_response(),
                        Err(rejection) => problem(&rejection),
                    }
                }
            }),
        )
}

/// The answer to a path that there is not, unless gRPC speaks: that has its own.
pub async fn not_found(uri: Uri, headers: HeaderMap) -> Response {
    let grpc = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        let trailers = [("content-type", "application/grpc"), ("grpc-status", "12")];
        return (StatusCode::OK, trailers).into_response();
    }
    let body = serde_json::json!({
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": format!("{} is not served; see /metrics, /healthz, /readyz, or speak gRPC", uri.path()),
        "reason": "PATH_NOT_FOUND",
    });
    problem_body(StatusCode::NOT_FOUND, &body)
}

/// A refusal as `application/problem+json` (RFC 9457).
pub fn problem(rejection: &Rejection) -> Response {
    let status =
        StatusCode::from_u16(rejection.reason.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": rejection.message,
        "reason": rejection.reason.as_str(),
    });
    let mut response = problem_body(status, &body);
    if matches!(status.as_u16(), 429 | 503) {
        let secs = rejection.retry_delay_ms().unwrap_or_default().div_ceil(1000).max(1);
        response.headers_mut().insert(header::RETRY_AFTER, secs.into());
    }
    response
}

fn problem_body(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}
