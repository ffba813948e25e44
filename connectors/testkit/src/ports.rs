//! Loopback ports that nothing else uses.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Below Linux's ephemeral range (32768 and up), so that no outgoing connection takes the port
/// of a server that a test has stopped for a moment.
const FIRST: u16 = 18_000;
const COUNT: u16 = 14_000;

/// Processes start at different places, threads of one process take turns.
static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
    AtomicU16::new(u16::try_from(std::process::id().wrapping_mul(37) % u32::from(COUNT)).unwrap_or(0))
});

/// A TCP port on 127.0.0.1 that is free now and that this process gives out once.
///
/// # Panics
/// If no port of the range is free.
pub fn free_port() -> u16 {
    (0..COUNT)
        .map(|_| FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT)
        .find(|port| nobody_listens(*port))
        .expect("one of 14,000 loopback ports is free")
}

/// Found out by connecting. A trial bind would be inherited, until its exec, by a child that
/// another thread forks at that moment, and would so keep the port from its user.
fn nobody_listens(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, Duration::from_secs(1))
        .is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_in_use_is_not_given_out() {
        let held: Vec<_> = (0..20)
            .map(|_| TcpListener::bind(("127.0.0.1", free_port())).unwrap())
            .collect();
        let fresh = free_port();
        assert!(
            held.iter()
                .all(|listener| listener.local_addr().unwrap().port() != fresh)
        );
    }
}
