//! The admin interface: health, metrics and status over HTTP.
//!
//! | path                        | answer |
//! |-----------------------------|--------|
//! | `/health/live`              | 200 while the process serves |
//! | `/health/ready`             | 200 when every pipeline runs and none is being stopped, else 503 |
//! | `/metrics`                  | Prometheus text format |
//! | `/api/v1/pipelines`         | the status of every pipeline, as JSON |
//! | `/api/v1/pipelines/{name}`  | one pipeline, or 404 |
//! | `POST /api/v1/backfills`    | asks a pipeline to copy a table again: JSON of `pipeline`, `table`, `where` |

pub mod client;
mod metrics;

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Path, State};
use axum::http::header::HOST;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use millstream_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::client::BackfillAnswer;
pub use self::metrics::Exposition;
use crate::supervisor::Supervisor;

/// What is asked of `/api/v1/backfills`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackfillRequest {
    /// The pipeline's name.
    pub pipeline: String,
    /// The source's table.
    pub table: String,
    /// Which rows, as a condition of the source's SQL; all of them if absent.
    #[serde(rename = "where", default)]
    pub condition: Option<String>,
}

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
        .route("/api/v1/backfills", post(backfill))
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

/// Only JSON that calls itself so is taken, which no page of a browser can send to another place
/// unasked.
///
/// Nor is a page let in that has its own host's name lead here: the host must be an address.
async fn backfill(State(admin): State<Admin>, headers: HeaderMap, Json(request): Json<BackfillRequest>) -> Response {
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    if host.parse::<SocketAddr>().is_err()
        && host.parse::<IpAddr>().is_err()
        && host.split(':').next() != Some("localhost")
    {
        return (StatusCode::FORBIDDEN, "name the daemon by its address\n").into_response();
    }
    let BackfillRequest {
        pipeline,
        table,
        condition,
    } = request;
    let asked = match admin.supervisor.desks(&pipeline) {
        Some(desks) => desks.ask(table, condition).await,
        None => Err(
            Error::new(ErrorKind::Config, format!("there is no pipeline `{pipeline}`"))
                .hint("`millstream status` lists them"),
        ),
    };
    let (status, answer) = match asked {
        Ok(()) => (
            StatusCode::ACCEPTED,
            BackfillAnswer {
                error: None,
                hint: None,
            },
        ),
        Err(error) => {
            let answer = BackfillAnswer {
                error: Some(error.summary()),
                hint: error.hint_text().map(str::to_owned),
            };
            (StatusCode::CONFLICT, answer)
        }
    };
    (status, Json(answer)).into_response()
}
