//! Sockets: TCP or Unix, plain or TLS.

use std::io;

use postgres_protocol::message::frontend;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, UnixStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsConnector, rustls};

use super::quiet_socket::{Plain, QuietSocket};
use super::{ConnectOptions, Host, Session, TcpOptions, TlsMode, WireError, tls};

/// Room, in bytes, for what a walsender of this host sends. The kernel would let it grow, and each row would
/// be a packet of its own; where there is little room left, rows wait with the sender and go
/// together. See `run/pauses.rs`. Far away it would limit the rate.
pub(crate) const LOCAL_ROOM: usize = 64 * 1024;
/// The same for a session of SQL, which may copy tables: twice as much as a read that is followed by a pause
/// may find (`wire/connection/copy_out.rs`), so that a server that is faster is not held up by pauses.
pub(super) const LOCAL_COPY_ROOM: usize = 128 * 1024;

/// A byte stream in both directions.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {
    /// Has what arrives wake nobody, until it is read or written again.
    fn rest(&mut self);
}

impl<S: Plain> Duplex for QuietSocket<S> {
    fn rest(&mut self) {
        Self::rest(self);
    }
}

impl Duplex for TlsStream<BufReader<QuietSocket<std::net::TcpStream>>> {
    fn rest(&mut self) {
        self.get_mut().0.get_mut().rest();
    }
}

/// An open socket, after the TLS handshake if there is one.
pub(super) struct Socket {
    pub(super) stream: Box<dyn Duplex>,
    /// Whether TLS protects it.
    pub(super) encrypted: bool,
    /// Whether the peer is this host, by TCP.
    pub(super) local: bool,
    /// The server's `tls-server-end-point`, where TLS is used and the certificate defines one.
    pub(super) end_point: Option<Vec<u8>>,
}

impl Socket {
    /// Opens a socket to one host. The caller sets a time limit.
    pub(super) async fn open(host: &Host, options: &ConnectOptions, session: Session) -> Result<Self, WireError> {
        let unreachable = |source| WireError::Unreachable {
            host: host.to_string(),
            source,
        };
        match host {
            Host::Unix(folder, port) => {
                let path = folder.join(format!(".s.PGSQL.{port}"));
                let stream = UnixStream::connect(path).await.map_err(unreachable)?;
                Ok(Self::plain(QuietSocket::new(stream.into_std()?)))
            }
            Host::Tcp(name, port) => {
                let stream = connect_tcp(name, *port, &options.tcp).await.map_err(unreachable)?;
                let local = is_local(&stream, session)?;
                let stream = QuietSocket::new(stream.into_std()?);
                let socket = match options.tls {
                    TlsMode::Disable => Self::plain(stream),
                    _ => upgrade(stream, name, options).await?,
                };
                Ok(Self { local, ..socket })
            }
        }
    }

    fn plain(stream: impl Duplex + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            encrypted: false,
            local: false,
            end_point: None,
        }
    }
}

/// Whether both ends have the same address. The server is given little room then.
fn is_local(stream: &tokio::net::TcpStream, session: Session) -> io::Result<bool> {
    let local = stream.peer_addr()?.ip() == stream.local_addr()?.ip();
    if local {
        let room = match session {
            Session::Sql => LOCAL_COPY_ROOM,
            Session::Replication => LOCAL_ROOM,
        };
        SockRef::from(stream).set_recv_buffer_size(room)?;
    }
    Ok(local)
}

async fn connect_tcp(name: &str, port: u16, tcp: &TcpOptions) -> io::Result<tokio::net::TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((name, port)).await? {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_nodelay(true)?;
        tcp.apply(SockRef::from(&socket))?;
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Asks for TLS (PostgreSQL manual, 55.2.11).
async fn upgrade(
    mut stream: QuietSocket<std::net::TcpStream>,
    name: &str,
    options: &ConnectOptions,
) -> Result<Socket, WireError> {
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    // One byte and no more: whatever came after it in the clear must not be taken for TLS content.
    match stream.read_u8().await? {
        b'S' => {}
        b'N' if options.tls == TlsMode::Prefer => {
            return Ok(Socket::plain(stream));
        }
        b'N' => return Err(WireError::TlsNotOffered),
        other => {
            return Err(WireError::Protocol(format!(
                "byte {other} in reply to a request for TLS"
            )));
        }
    }
    let connector = TlsConnector::from(std::sync::Arc::new(tls::client_config(options)?));
    let server = ServerName::try_from(name.to_owned())
        .map_err(|error| WireError::Tls(rustls::Error::General(error.to_string())))?;
    // rustls reads 4 KiB at a time; the buffer under it makes that one system call in sixteen.
    let buffered = BufReader::with_capacity(64 * 1024, stream);
    let stream = connector.connect(server, buffered).await.map_err(handshake_error)?;
    let certificates = stream.get_ref().1.peer_certificates();
    let end_point = certificates
        .and_then(|chain| chain.first())
        .and_then(|leaf| tls::server_end_point(leaf));
    Ok(Socket {
        stream: Box::new(stream),
        encrypted: true,
        local: false,
        end_point,
    })
}

fn handshake_error(error: io::Error) -> WireError {
    match error.downcast::<rustls::Error>() {
        Ok(tls) => WireError::Tls(tls),
        Err(other) => WireError::Io(other),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_is_gone_is_noticed_in_the_time_that_the_url_gives() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connect = async |parameters: &str| {
            let options = ConnectOptions::parse(&format!("postgres://a@b/c?{parameters}")).unwrap();
            connect_tcp("127.0.0.1", port, &options.tcp).await.unwrap()
        };
        let seconds = Duration::from_secs;
        let stream = connect("").await;
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), seconds(30));
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(seconds(90)));
        let stream = connect("keepalives_idle=7&keepalives_interval=5&keepalives_count=4&tcp_user_timeout=2500").await;
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_keepalive_time().unwrap(), seconds(7));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), seconds(5));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 4);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_millis(2500)));
        let stream = connect("keepalives=0").await;
        assert!(!SockRef::from(&stream).keepalive().unwrap());
    }

    #[tokio::test]
    async fn a_server_of_this_host_is_given_little_room() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tcp = ConnectOptions::parse("postgres://a@b/c").unwrap().tcp;
        for (session, room) in [(Session::Sql, LOCAL_COPY_ROOM), (Session::Replication, LOCAL_ROOM)] {
            let stream = connect_tcp("127.0.0.1", port, &tcp).await.unwrap();
            SockRef::from(&stream)
                .set_recv_buffer_size(4 * LOCAL_COPY_ROOM)
                .unwrap();
            assert!(is_local(&stream, session).unwrap());
            let found = SockRef::from(&stream).recv_buffer_size().unwrap();
            // Linux doubles what it is told, for its own bookkeeping.
            assert!([room, 2 * room].contains(&found), "{session:?}: {found}");
        }
    }
}
