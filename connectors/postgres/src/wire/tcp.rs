//! How the kernel notices a peer that is gone without a word, by libpq's parameters
//! (PostgreSQL manual, 34.1.2 `keepalives`, `tcp_user_timeout`).

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// When the kernel asks the peer whether it is there, and when it gives it up. `None` leaves it
/// to the system, whose own times are hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpOptions {
    /// Whether it asks at all.
    pub keepalives: bool,
    /// After so long without a word.
    pub idle: Option<Duration>,
    /// Again after so long.
    pub interval: Option<Duration>,
    /// As often as this before the connection is broken.
    pub count: Option<u32>,
    /// The connection is broken when what was sent is not acknowledged for so long.
    pub user_timeout: Option<Duration>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            keepalives: true,
            idle: Some(Duration::from_secs(30)),
            interval: Some(Duration::from_secs(10)),
            count: None,
            user_timeout: Some(Duration::from_secs(90)),
        }
    }
}

impl TcpOptions {
    /// Takes the parameter `name`, if it is one of these. 0 leaves a time to the system.
    ///
    /// # Errors
    /// What was expected of the value.
    pub(super) fn take(&mut self, name: &str, value: &str) -> Option<Result<(), &'static str>> {
        let number: Option<u32> = value.parse().ok();
        let above_zero = number.filter(|number| *number > 0);
        let seconds = above_zero.map(|seconds| Duration::from_secs(seconds.into()));
        match name {
            "keepalives" => self.keepalives = number != Some(0),
            "keepalives_idle" => self.idle = seconds,
            "keepalives_interval" => self.interval = seconds,
            "keepalives_count" => self.count = above_zero,
            "tcp_user_timeout" => self.user_timeout = above_zero.map(|millis| Duration::from_millis(millis.into())),
            _ => return None,
        }
        let expected = if name == "tcp_user_timeout" {
            "a whole number of milliseconds"
        } else {
            "a whole number"
        };
        Some(number.map(|_| ()).ok_or(expected))
    }

    /// Sets a socket up. Without it a first copy or a query would wait for hours for a host
    /// that failed, and nothing else would tell.
    pub(super) fn apply(&self, socket: SockRef<'_>) -> io::Result<()> {
        socket.set_keepalive(self.keepalives)?;
        if self.keepalives {
            let mut keepalive = TcpKeepalive::new();
            if let Some(idle) = self.idle {
                keepalive = keepalive.with_time(idle);
            }
            if let Some(interval) = self.interval {
                keepalive = keepalive.with_interval(interval);
            }
            if let Some(count) = self.count {
                keepalive = keepalive.with_retries(count);
            }
            socket.set_tcp_keepalive(&keepalive)?;
        }
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(self.user_timeout)?;
        Ok(())
    }
}
