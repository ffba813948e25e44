//! Where a server is and how to reach it, read from a connection URL.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use millstream_core::config::Secret;

use super::{SessionAttrs, TcpOptions};

/// How far TLS is asked for, with libpq's meaning of each word (PostgreSQL manual, 34.19).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// If the server offers it; its certificate is not checked.
    Prefer,
    /// Always; its certificate is not checked, unless a root certificate is given.
    Require,
    /// Always; the certificate must come from a trusted authority.
    VerifyCa,
    /// Always; the certificate must also name the host.
    VerifyFull,
}

/// Whether a login is bound to the TLS channel that it goes through (SCRAM-SHA-256-PLUS), so
/// that nobody in between can pass it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBindingMode {
    /// Never.
    Disable,
    /// Where the server offers it.
    Prefer,
    /// Always: any other way of logging in is refused, before a password is sent.
    Require,
}

/// A place where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name or an address, and a port.
    Tcp(String, u16),
    /// The folder of a Unix socket, and the port that names the socket in it.
    Unix(PathBuf, u16),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(folder, port) => write!(f, "{}/.s.PGSQL.{port}", folder.display()),
        }
    }
}

/// Everything that a connection needs to know. Prints without the password.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Tried in this order.
    pub hosts: Vec<Host>,
    /// The role to log in as.
    pub user: String,
    /// Its password, if it has one.
    pub password: Option<Secret>,
    /// The database.
    pub database: String,
    /// How far TLS is asked for.
    pub tls: TlsMode,
    /// A PEM file of trusted authorities; the system's are used if there is none.
    pub root_certificate: Option<PathBuf>,
    /// A PEM file with our own certificate, and one with its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// How long one host may take from the first packet to the end of authentication.
    pub connect_timeout: Duration,
    /// Which of the hosts will do.
    pub session_attrs: SessionAttrs,
    /// Whether the login is bound to the TLS channel.
    pub channel_binding: ChannelBindingMode,
    /// How a peer that is gone is noticed.
    pub tcp: TcpOptions,
}

/// Why a URL is not one. Never holds the URL itself, which may hold a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidUrl {
    /// Another scheme, or none.
    #[error("it must begin with `postgres://` or `postgresql://`")]
    Scheme,
    /// A `%` that is not followed by two hex digits of UTF-8 text.
    #[error("its {0} is not valid percent-encoding; write a literal `%` as `%25`")]
    PercentEncoding(&'static str),
    /// A port that is no number from 1 to 65535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// No role.
    #[error("it names no user: expected `postgres://user@host/database`")]
    NoUser,
    /// An `@` or a second `/` after the host: part of a password, most likely.
    #[error("its user, password or database holds a bare `@`, `/` or `?`; write them as `%40`, `%2F` and `%3F`")]
    Unencoded,
    /// A parameter that this program does not know.
    #[error("its parameter `{0}` is not known")]
    UnknownParameter(String),
    /// A parameter whose name may be part of a password with a `?` in it.
    #[error("one of its parameters is not known; write a `?` in user, password and database as `%3F`")]
    NoParameter,
    /// A value that the parameter cannot take.
    #[error("its parameter `{0}` cannot have that value; expected {1}")]
    InvalidParameter(&'static str, &'static str),
    /// A value of the parameter that is no number.
    #[error("its parameter `{0}` cannot have that value; expected {1}")]
    InvalidNumber(String, &'static str),
}

impl ConnectOptions {
    /// Reads `postgres://user:password@host:port,host2/database?sslmode=verify-full`.
    ///
    /// This is libpq's form (PostgreSQL manual, 34.1.1.2), which allows several hosts, an
    /// empty host and `host=/socket/folder`, none of which a WHATWG URL does. Parameters:
    /// `sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `connect_timeout` (seconds), `host`,
    /// `port`, `user`, `password`, `dbname`, `target_session_attrs`, `channel_binding`,
    /// `keepalives`, `keepalives_idle`, `keepalives_interval`, `keepalives_count` (seconds),
    /// `tcp_user_timeout` (milliseconds); `application_name` is accepted and ignored.
    ///
    /// # Errors
    /// [`InvalidUrl`] says which part is wrong, and never repeats the URL.
    pub fn parse(url: &str) -> Result<Self, InvalidUrl> {
        let after_scheme = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"));
        let rest = after_scheme.ok_or(InvalidUrl::Scheme)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        // A password with a bare `/`, `?` or `@` ends up in these, and must not be shown as a
        // host, a database or a parameter.
        if database.contains(['@', '/']) || query.contains('@') {
            return Err(InvalidUrl::Unencoded);
        }
        let (userinfo, mut hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match userinfo.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (userinfo, None),
        };
        let mut user = decode(user, "user")?;
        let mut password = password.map(|password| decode(password, "password")).transpose()?;
        let mut database = decode(database, "database")?;
        let (mut host_parameter, mut port) = (None, 5432);
        let mut tls = TlsMode::Prefer;
        let (mut root_certificate, mut certificate, mut key) = (None, None, None);
        let mut connect_timeout = Duration::from_secs(10);
        let mut session_attrs = SessionAttrs::Any;
        let mut channel_binding = ChannelBindingMode::Prefer;
        let mut tcp = TcpOptions::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value, "query")?;
            if let Some(taken) = tcp.take(name, &value) {
                taken.map_err(|expected| InvalidUrl::InvalidNumber(name.to_owned(), expected))?;
                continue;
            }
            match name {
                "sslmode" => tls = parse_tls_mode(&value)?,
                "sslrootcert" if value == "system" => root_certificate = None,
                "sslrootcert" => root_certificate = Some(PathBuf::from(value)),
                "sslcert" => certificate = Some(PathBuf::from(value)),
                "sslkey" => key = Some(PathBuf::from(value)),
                "connect_timeout" => {
                    let wrong = InvalidUrl::InvalidParameter("connect_timeout", "a whole number of seconds");
                    let seconds: u32 = value.parse().map_err(|_| wrong)?;
                    // libpq reads 0 as "for ever"; a daemon that hangs for ever helps nobody.
                    connect_timeout = Duration::from_secs(if seconds == 0 { 60 } else { seconds.into() });
                }
                "target_session_attrs" => {
                    session_attrs = SessionAttrs::parse(&value).ok_or(InvalidUrl::InvalidParameter(
                        "target_session_attrs",
                        SessionAttrs::EXPECTED,
                    ))?;
                }
                "channel_binding" => channel_binding = parse_channel_binding(&value)?,
                "host" => host_parameter = Some(value),
                "port" => port = parse_port(&value)?,
                "user" => user = value,
                "password" => password = Some(value),
                "dbname" => database = value,
                "application_name" => {}
                other if is_parameter(other) => return Err(InvalidUrl::UnknownParameter(other.to_owned())),
                _ => return Err(InvalidUrl::NoParameter),
            }
        }
        if user.is_empty() {
            return Err(InvalidUrl::NoUser);
        }
        if database.is_empty() {
            database.clone_from(&user);
        }
        let given = host_parameter.unwrap_or_default();
        if !given.is_empty() {
            hosts = &given;
        }
        let hosts = hosts
            .split(',')
            .map(|host| parse_host(host, port))
            .collect::<Result<_, _>>()?;
        let client_certificate = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                return Err(InvalidUrl::InvalidParameter(
                    "sslcert",
                    "both `sslcert` and `sslkey`, or neither",
                ));
            }
        };
        let password = password.map(Secret::new);
        Ok(Self {
            hosts,
            user,
            password,
            database,
            tls,
            root_certificate,
            client_certificate,
            connect_timeout,
            session_attrs,
            channel_binding,
            tcp,
        })
    }

    /// The hosts in the order in which they are tried, and what each must be.
    pub(super) fn tries(&self) -> Vec<(SessionAttrs, &Host)> {
        let mut tries = Vec::new();
        for wanted in self.session_attrs.passes() {
            tries.extend(self.hosts.iter().map(|host| (wanted, host)));
        }
        tries
    }

    /// `host:port/database`, for errors and logs.
    pub fn place(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(Host::to_string).collect();
        format!("{}/{}", hosts.join(","), self.database)
    }
}

/// Whether libpq could have a parameter of this name.
fn is_parameter(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn parse_tls_mode(value: &str) -> Result<TlsMode, InvalidUrl> {
    match value {
        "disable" => Ok(TlsMode::Disable),
        "allow" | "prefer" => Ok(TlsMode::Prefer),
        "require" => Ok(TlsMode::Require),
        "verify-ca" => Ok(TlsMode::VerifyCa),
        "verify-full" => Ok(TlsMode::VerifyFull),
        _ => Err(InvalidUrl::InvalidParameter(
            "sslmode",
            "one of `disable`, `prefer`, `require`, `verify-ca`, `verify-full`",
        )),
    }
}

fn parse_channel_binding(value: &str) -> Result<ChannelBindingMode, InvalidUrl> {
    match value {
        "disable" => Ok(ChannelBindingMode::Disable),
        "prefer" => Ok(ChannelBindingMode::Prefer),
        "require" => Ok(ChannelBindingMode::Require),
        _ => Err(InvalidUrl::InvalidParameter(
            "channel_binding",
            "one of `disable`, `prefer`, `require`",
        )),
    }
}

fn parse_port(text: &str) -> Result<u16, InvalidUrl> {
    text.parse().ok().filter(|port| *port != 0).ok_or(InvalidUrl::Port)
}

fn parse_host(text: &str, default_port: u16) -> Result<Host, InvalidUrl> {
    let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address, rest.strip_prefix(':')),
        None => text
            .rsplit_once(':')
            .map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let port = port.map_or(Ok(default_port), parse_port)?;
    let name = decode(name, "host")?;
    Ok(match name.as_str() {
        "" => Host::Tcp("localhost".to_owned(), port),
        folder if folder.starts_with('/') => Host::Unix(PathBuf::from(folder), port),
        _ => Host::Tcp(name, port),
    })
}

fn decode(text: &str, part: &'static str) -> Result<String, InvalidUrl> {
    let wrong = || InvalidUrl::PercentEncoding(part);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
            let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                return Err(wrong());
            };
            bytes.push((high * 16 + low) as u8);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_url_is_read() {
        let options = ConnectOptions::parse(
            "postgresql://me:p%40ss+%2F@a:6000,[::1]:6001,b/shop?sslmode=verify-full&sslrootcert=/ca.pem&connect_timeout=3",
        )
        .unwrap();
        assert_eq!(options.user, "me");
        assert_eq!(options.password.as_ref().unwrap().expose(), "p@ss+/");
        assert_eq!(options.database, "shop");
        assert_eq!(options.tls, TlsMode::VerifyFull);
        assert_eq!(options.root_certificate, Some("/ca.pem".into()));
        assert_eq!(options.connect_timeout, Duration::from_secs(3));
        assert_eq!(options.place(), "a:6000,[::1]:6001,b:5432/shop");
        assert!(!format!("{options:?}").contains("p@ss"));
    }

    #[test]
    fn parameters_of_the_session_and_the_socket_are_read() {
        let read = |parameters: &str| ConnectOptions::parse(&format!("postgres://me@a,b/shop?{parameters}"));
        let options = read("target_session_attrs=prefer-standby&channel_binding=require").unwrap();
        assert_eq!(options.session_attrs, SessionAttrs::PreferStandby);
        assert_eq!(options.channel_binding, ChannelBindingMode::Require);
        let system = TcpOptions {
            idle: None,
            user_timeout: None,
            ..TcpOptions::default()
        };
        assert_eq!(read("keepalives_idle=0&tcp_user_timeout=0").unwrap().tcp, system);
        for wrong in [
            "target_session_attrs=master",
            "channel_binding=always",
            "keepalives_count=many",
            "tcp_user_timeout=-1",
        ] {
            let name = wrong.split('=').next().unwrap();
            assert!(read(wrong).unwrap_err().to_string().contains(name), "{wrong}");
        }
    }

    #[test]
    fn a_socket_folder_is_a_host() {
        let by_parameter = ConnectOptions::parse("postgres://me@/db?host=/run/pg&port=6543").unwrap();
        assert_eq!(by_parameter.hosts, [Host::Unix("/run/pg".into(), 6543)]);
        let by_encoding = ConnectOptions::parse("postgres://me@%2Frun%2Fpg:6543").unwrap();
        assert_eq!(by_encoding.hosts, by_parameter.hosts);
        assert_eq!(by_encoding.database, "me");
    }

    #[test]
    fn what_is_wrong_is_named_without_the_password() {
        let error = |url| ConnectOptions::parse(url).unwrap_err();
        assert_eq!(error("mysql://a:secret@b"), InvalidUrl::Scheme);
        assert_eq!(error("postgres://b/db"), InvalidUrl::NoUser);
        assert_eq!(error("postgres://a:secret@b:x/db"), InvalidUrl::Port);
        assert_eq!(
            error("postgres://a:se%zzcret@b/db"),
            InvalidUrl::PercentEncoding("password")
        );
        assert_eq!(
            error("postgres://a@b/db?sslmod=x"),
            InvalidUrl::UnknownParameter("sslmod".into())
        );
        assert!(matches!(
            error("postgres://a@b/db?sslmode=x"),
            InvalidUrl::InvalidParameter("sslmode", _)
        ));
        for url in [
            "postgres://a:hun?ter2@db/x",
            "postgres://a:hun?ter=2@db/x",
            "postgres://a:hun/ter2@db/x",
            "postgres://a:h@hun/ter2@db/x",
            "postgres://a@db/x/hunter2",
        ] {
            assert_eq!(error(url), InvalidUrl::Unencoded, "{url}");
        }
        assert_eq!(error("postgres://a@b/x?hun-ter2"), InvalidUrl::NoParameter);
    }
}
