//! `millstream.yaml`: settings of the daemon itself. All have defaults; the file may be missing.

use std::net::SocketAddr;

use serde::Deserialize;

/// Settings of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DaemonConfig {
    /// The admin interface.
    pub admin: AdminConfig,
}

/// Settings of the admin interface: `/metrics`, `/health`, `/api`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// The address to listen on. Loopback by default, because the interface asks no password.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
        }
    }
}

#[expect(
    clippy::derivable_impls,
    reason = "serde's `default` wants the impl, and a derive would hide that all fields have one"
)]
impl Default for DaemonConfig {
    fn default() -> Self {
        Self {
            admin: AdminConfig::default(),
        }
    }
}
