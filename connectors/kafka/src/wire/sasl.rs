//! Who we are, by SASL (Kafka's documentation, "SASL Authentication Sequence").

use bytes::Bytes;
use kafka_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::StrBytes;
use rsasl::callback::{Context, Request, SessionCallback, SessionData};
use rsasl::config::SASLConfig;
use rsasl::mechname::Mechname;
use rsasl::prelude::{SASLClient, SessionError};
use rsasl::property::{AuthId, Password};

use super::connection::Connection;
use super::fault::WireFault;
use crate::config::Sasl;

/// The exchange whose messages Kafka frames as requests.
const HANDSHAKE: i16 = 1;

/// How often a password may have to be hashed: less is easily guessed from what is sent (RFC 7677, 4), and more would
/// keep a thread busy for as long as whoever answers likes.
const ITERATIONS: std::ops::RangeInclusive<u64> = 4_096..=1_000_000;

struct Credentials(Sasl);

impl SessionCallback for Credentials {
    fn callback(&self, _: &SessionData, _: &Context<'_>, request: &mut Request<'_>) -> Result<(), SessionError> {
        request
            .satisfy::<AuthId>(&self.0.username)?
            .satisfy::<Password>(self.0.password.expose().as_bytes())?;
        Ok(())
    }
}

/// Authenticates a connection. Returns for how many milliseconds that holds, if not for ever.
///
/// # Errors
/// `Refused` with the broker's reason.
pub(super) async fn authenticate(connection: &mut Connection, sasl: &Sasl) -> Result<Option<u64>, WireFault> {
    let name = sasl.mechanism.name();
    let mut handshake = SaslHandshakeRequest::default();
    handshake.mechanism = StrBytes::from_static_str(name);
    let answer = connection
        .call_version(&handshake, HANDSHAKE, connection.timeout)
        .await?;
    if answer.error_code != 0 {
        let known: Vec<&str> = answer.mechanisms.iter().map(|name| &**name).collect();
        return Err(WireFault::Refused(format!(
            "the broker does not know the mechanism {name}, but {}",
            known.join(", ")
        )));
    }
    let config = SASLConfig::builder()
        .with_default_mechanisms()
        .with_callback(Credentials(sasl.clone()))
        .map_err(WireFault::malformed)?;
    let mechanism = Mechname::parse(name.as_bytes()).map_err(WireFault::malformed)?;
    let mut session = SASLClient::new(config)
        .start_suggested_iter([mechanism])
        .map_err(WireFault::malformed)?;
    let mut answered: Option<Bytes> = None;
    let mut holds_for = None;
    loop {
        if let Some(rounds) = answered.as_deref().and_then(iterations)
            && !ITERATIONS.contains(&rounds)
        {
            return Err(WireFault::Refused(format!(
                "the broker wants {rounds} rounds of SCRAM, and not {ITERATIONS:?}"
            )));
        }
        let mut said = Vec::new();
        // What the broker proves is checked here, too.
        let state = session
            .step(answered.as_deref(), &mut said)
            .map_err(|error| WireFault::Refused(format!("the broker's answer proves nothing: {error}")))?;
        if state.has_sent_message() {
            let mut request = SaslAuthenticateRequest::default();
            request.auth_bytes = said.into();
            let answer = connection.call(&request, i16::MAX).await?;
            if answer.error_code != 0 {
                let reason = answer.error_message.as_deref().unwrap_or("it says no reason");
                return Err(WireFault::Refused(format!("the broker refuses the user: {reason}")));
            }
            holds_for = u64::try_from(answer.session_lifetime_ms)
                .ok()
                .filter(|millis| *millis > 0);
            answered = Some(answer.auth_bytes);
        }
        if state.is_finished() {
            return Ok(holds_for);
        }
    }
}

/// What the broker's first message of SCRAM asks for: `r=…,s=…,i=…` (RFC 5802, 7).
fn iterations(message: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(message).ok()?;
    text.split(',').find_map(|part| part.strip_prefix("i="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_often_to_hash_is_read() {
        assert_eq!(iterations(b"r=abc,s=QSXCR+Q6sek8bf92,i=4096"), Some(4_096));
        assert_eq!(iterations(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), None);
    }
}
