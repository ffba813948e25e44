//! One connection to one broker: requests, and their answers (Kafka's protocol guide).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use millstream_core::Result;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, rustls};

use super::fault::WireFault;
use super::{sasl, tls};
use crate::config::{KafkaConfig, Sasl};

/// An answer beyond this is none: it holds at most a fetch, or one batch where that is larger.
const MOST_ANSWER: usize = 1 << 30;
/// As long as it is not known to be a broker that answers, its answer is no larger than this. An alert of TLS and what
/// a web server says would be, read as a size.
const MOST_GREETING: usize = 1 << 20;

/// The version of the request for versions that every broker has understood since there is one.
const FIRST_QUESTION: i16 = 0;

/// How connections are made.
#[derive(Clone)]
pub struct Connector {
    tls: Option<TlsConnector>,
    sasl: Option<Sasl>,
    timeout: Duration,
}

trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

/// A connection that may be asked.
pub struct Connection {
    stream: Box<dyn Duplex>,
    /// The least and greatest version of each kind of request that the broker knows.
    versions: HashMap<i16, (i16, i16)>,
    asked: i32,
    pub(super) timeout: Duration,
    /// When it must be made anew.
    expires: Option<Instant>,
    /// A request was given up half-way, or failed: its answer would be taken for that of the next.
    broken: bool,
}

impl Connector {
    /// Reads the files that the configuration names. Does not connect.
    ///
    /// # Errors
    /// `Config` if one of them is of no use.
    pub fn new(config: &KafkaConfig) -> Result<Self> {
        let tls = config.security.tls.as_ref().map(tls::client_config).transpose()?;
        Ok(Self {
            tls: tls.map(|config| TlsConnector::from(Arc::new(config))),
            sasl: config.security.sasl.clone(),
            timeout: config.timeout.0,
        })
    }

    /// Connects to `address`, which is `host:port`.
    pub async fn connect(&self, address: &str) -> Result<Connection, WireFault> {
        timeout(self.timeout, self.open(address))
            .await
            .map_err(|_| WireFault::Timeout(self.timeout))?
    }

    async fn open(&self, address: &str) -> Result<Connection, WireFault> {
        let stream = self.reach(address).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Duplex> = match &self.tls {
            None => Box::new(stream),
            Some(tls) => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(host)
                    .map_err(|error| WireFault::Tls(rustls::Error::General(error.to_string())))?;
                // rustls reads 4 KiB at a time; the buffer under it makes that one system call in sixteen.
                let stream = BufReader::with_capacity(64 << 10, stream);
                Box::new(tls.connect(name, stream).await.map_err(of_tls)?)
            }
        };
        let mut connection = Connection {
            stream,
            versions: HashMap::new(),
            asked: 0,
            timeout: self.timeout,
            expires: None,
            broken: false,
        };
        // With TLS 1.3 whoever refuses our certificate says so only now.
        connection.ask_versions().await.map_err(|fault| match fault {
            WireFault::Io(error) => of_tls(error),
            other => other,
        })?;
        if let Some(sasl) = &self.sasl {
            let holds_for = sasl::authenticate(&mut connection, sasl).await?;
            // Before the broker ends it, which looks like any other end of a connection.
            connection.expires = holds_for.map(|millis| Instant::now() + Duration::from_millis(millis / 10 * 8));
        }
        Ok(connection)
    }
}

impl Connector {
    /// Connects to the first address of a name that answers, each of which has its share of the time.
    async fn reach(&self, address: &str) -> Result<TcpStream, WireFault> {
        let addresses: Vec<_> = lookup_host(address).await?.collect();
        let share = self.timeout / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut last = WireFault::malformed("the name has no address");
        for address in addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error.into(),
                Err(_) => last = WireFault::Timeout(share),
            }
        }
        Err(last)
    }
}

/// What rustls says of itself comes inside of an I/O error.
fn of_tls(error: std::io::Error) -> WireFault {
    match error.downcast::<rustls::Error>() {
        Ok(error) => WireFault::Tls(error),
        Err(error) => WireFault::Io(error),
    }
}

impl Connection {
    /// Whether it may be asked again.
    pub fn is_usable(&self) -> bool {
        !self.broken && self.expires.is_none_or(|expires| Instant::now() < expires)
    }

    /// Asks, and waits for the answer: it must begin within the time that a request may take, and then go on
    /// within that time again and again, however large it is.
    ///
    /// Not cancellation safe: dropped half-way, the connection is of no use.
    pub async fn call<R: Request>(&mut self, request: &R, highest: i16) -> Result<R::Response, WireFault> {
        self.call_within(request, highest, self.timeout).await
    }

    /// As [`call`](Self::call), for a request whose answer takes longer by itself.
    pub async fn call_within<R: Request>(
        &mut self,
        request: &R,
        highest: i16,
        within: Duration,
    ) -> Result<R::Response, WireFault> {
        let version = self.version::<R>(highest)?;
        self.call_version(request, version, within).await
    }

    /// The version to speak: the newest that the broker and we know, and no newer than `highest`.
    ///
    /// # Errors
    /// `Malformed` if there is none.
    pub fn version<R: Request>(&self, highest: i16) -> Result<i16, WireFault> {
        let (least, greatest) = self.versions.get(&R::KEY).copied().unwrap_or((0, -1));
        let version = greatest.min(R::VERSIONS.max).min(highest);
        if version < least.max(R::VERSIONS.min) {
            return Err(WireFault::Malformed(format!(
                "the broker has versions {least} to {greatest} of the request {:?}, and none that is known here",
                ApiKey::try_from(R::KEY).ok()
            )));
        }
        Ok(version)
    }

    /// As [`call_within`](Self::call_within), in this version.
    pub(super) async fn call_version<R: Request>(
        &mut self,
        request: &R,
        version: i16,
        within: Duration,
    ) -> Result<R::Response, WireFault> {
        let mut answer = self.ask(request, version, within).await?;
        let answer = R::Response::decode(&mut answer, version).map_err(WireFault::malformed)?;
        self.broken = false;
        Ok(answer)
    }

    /// Asks, and returns the answer behind its header. The connection is of no use before somebody has understood it.
    async fn ask<R: Request>(&mut self, request: &R, version: i16, within: Duration) -> Result<Bytes, WireFault> {
        let number = self.asked;
        self.asked = self.asked.wrapping_add(1);
        let mut header = RequestHeader::default();
        header.request_api_key = R::KEY;
        header.request_api_version = version;
        header.correlation_id = number;
        header.client_id = Some(StrBytes::from_static_str("millstream"));
        let mut asked = BytesMut::new();
        // For the size.
        asked.put_i32(0);
        header
            .encode(&mut asked, R::header_version(version))
            .and_then(|()| request.encode(&mut asked, version))
            .map_err(|error| WireFault::Malformed(format!("a request cannot be made: {error:#}")))?;
        let size = (asked.len() - 4) as u32;
        asked[..4].copy_from_slice(&size.to_be_bytes());

        self.broken = true;
        let mut answer = self.exchange(&asked, within).await?;
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version));
        let header = header.map_err(WireFault::malformed)?;
        if header.correlation_id != number {
            return Err(WireFault::malformed("it belongs to another request"));
        }
        Ok(answer)
    }

    async fn exchange(&mut self, asked: &[u8], within: Duration) -> Result<Bytes, WireFault> {
        let begin = async {
            self.stream.write_all(asked).await?;
            self.stream.flush().await?;
            self.stream.read_u32().await
        };
        let size = timeout(within, begin).await.map_err(|_| WireFault::Timeout(within))?? as usize;
        let most = if self.versions.is_empty() {
            MOST_GREETING
        } else {
            MOST_ANSWER
        };
        if size > most {
            return Err(WireFault::malformed(format!(
                "it begins as if it were of {size} bytes; is that the port of a broker, and without TLS?"
            )));
        }
        let mut answer = BytesMut::with_capacity(size);
        let mut body = (&mut self.stream).take(size as u64);
        while answer.len() < size {
            let read = timeout(self.timeout, body.read_buf(&mut answer)).await;
            if read.map_err(|_| WireFault::Timeout(self.timeout))?? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
        if answer.remaining() < 4 {
            return Err(WireFault::malformed("it is too short"));
        }
        Ok(answer.freeze())
    }

    async fn ask_versions(&mut self) -> Result<(), WireFault> {
        let question = ApiVersionsRequest::default();
        let mut answer = self.ask(&question, FIRST_QUESTION, self.timeout).await?;
        // Read here, because the library makes room for as many as are claimed, and it may be no broker that claims.
        let (Ok(error), Ok(count)) = (answer.try_get_i16(), answer.try_get_i32()) else {
            return Err(WireFault::malformed("it is too short"));
        };
        if error != 0 || count <= 0 || count as usize * 6 != answer.len() {
            return Err(WireFault::malformed("it is not the one of a broker for its versions"));
        }
        while answer.has_remaining() {
            let (kind, least, greatest) = (answer.get_i16(), answer.get_i16(), answer.get_i16());
            self.versions.insert(kind, (least, greatest));
        }
        self.broken = false;
        Ok(())
    }
}
