//! The admin interface: health, metrics and status over HTTP.
//!
//! | path                        | answer |
//! |-----------------------------|--------|
//! | `/health/live`              | 200 while the process serves |
//! | `/health/ready`             | 200 when every pipeline runs and none is being stopped, else 503 |
//! | `/metrics`                  | Prometheus text format |
//! | `/api/v1/pipelines`         | the status of every pipeline, as JSON |
//! | `/api/v1/pipelines/{name}`  | one pipeline, or 404 |

pub mod client;
mod metrics;

use std::net::SocketAddr;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::metrics::Exposition;
use crate::supervisor::Supervisor;

#[derive(Clone)]
struct Admin {
    supervisor: Supervisor,
    exposition: Exposition,
}

/// Serves the admin interface on `listener` until `stop` fires.
///
/// # Errors
/// Those of the listening socket.
pub async fn serve(
    listener: TcpListener,
    supervisor: Supervisor,
    exposition: Exposition,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(ready))
        .route(
            "/metrics",
            get(|State(admin): State<Admin>| async move { admin.exposition.render() }),
        )
        .route("/api/v1/pipelines", get(pipelines))
        .route("/api/v1/pipelines/{name}", get(pipeline))
        .with_state(Admin { supervisor, exposition });
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

/// Binds the admin address.
///
/// # Errors
/// Those of the socket, with the address named.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| std::io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

async fn ready(State(admin): State<Admin>) -> Response {
    if admin.supervisor.ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

async fn pipelines(State(admin): State<Admin>) -> Response {
    Json(admin.supervisor.status()).into_response()
}

async fn pipeline(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    match admin
        .supervisor
        .status()
        .into_iter()
        .find(|status| status.pipeline == name)
    {
        Some(status) => Json(status).into_response(),
        None => (StatusCode::NOT_FOUND, format!("there is no pipeline `{name}`\n")).into_response(),
    }
}
