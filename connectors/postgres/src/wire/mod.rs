//! A thin client for the PostgreSQL wire protocol, version 3.0: what replication and first
//! copies need and nothing more. Authentication, escaping and the encoding of requests come
//! from `postgres-protocol`; sockets, TLS and framing are here, because how the socket is read
//! decides how fast a walsender can send (ADR 2).

mod auth;
mod connection;
mod error;
mod options;
mod quiet_socket;
mod row;
mod selected;
mod session_attrs;
mod socket;
mod tcp;
mod tls;

pub use connection::{Connection, CopyMessages, CopyOut, ReplicationStream, Session};
pub use error::{ServerError, WireError};
pub use options::{ChannelBindingMode, ConnectOptions, Host, InvalidUrl, TlsMode};
pub use row::Row;
pub use selected::{Parameter, ResultColumn, Selected};
pub use session_attrs::SessionAttrs;
pub(crate) use socket::LOCAL_ROOM;
pub use tcp::TcpOptions;
