//! Authentication (PostgreSQL manual, 55.2.1 and 55.3).

use millstream_core::config::Secret;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;

use super::connection::Connection;
use super::{ChannelBindingMode, ConnectOptions, WireError};

/// Answers the server's requests until it says AuthenticationOk.
pub(super) async fn authenticate(connection: &mut Connection, options: &ConnectOptions) -> Result<(), WireError> {
    loop {
        let body = connection.authentication_request().await?;
        let (kind, rest) = body.split_at_checked(4).ok_or_else(|| malformed("request"))?;
        match u32::from_be_bytes(kind.try_into().map_err(|_| malformed("request"))?) {
            0 if requires_binding(options) && !connection.is_channel_bound() => {
                return Err(WireError::NotBound("the server lets us in without SCRAM"));
            }
            0 => return Ok(()),
            // Whoever asks for it could pass it on.
            3 | 5 if requires_binding(options) => {
                return Err(WireError::NotBound("the server asks for the password in another way"));
            }
            3 => {
                let password = password(options)?;
                connection
                    .send(|out| frontend::password_message(password.expose().as_bytes(), out))
                    .await?;
            }
            5 => {
                let salt = rest.try_into().map_err(|_| malformed("salt"))?;
                let password = password(options)?;
                let hash = md5_hash(options.user.as_bytes(), password.expose().as_bytes(), salt);
                connection
                    .send(|out| frontend::password_message(hash.as_bytes(), out))
                    .await?;
            }
            10 => scram(connection, options, rest).await?,
            other => {
                let message = format!("the server asks for authentication method {other}, which is not supported");
                return Err(WireError::Authentication(message));
            }
        }
    }
}

async fn scram(connection: &mut Connection, options: &ConnectOptions, offered: &[u8]) -> Result<(), WireError> {
    let offers = |mechanism: &str| {
        offered
            .split(|byte| *byte == 0)
            .any(|name| name == mechanism.as_bytes())
    };
    let end_point = connection
        .end_point()
        .filter(|_| options.channel_binding != ChannelBindingMode::Disable);
    if requires_binding(options) && !(end_point.is_some() && offers(SCRAM_SHA_256_PLUS)) {
        return Err(WireError::NotBound(
            "it needs TLS, and a server that offers SCRAM-SHA-256-PLUS",
        ));
    }
    let (mechanism, binding) = match end_point {
        Some(hash) if offers(SCRAM_SHA_256_PLUS) => {
            (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash.to_vec()))
        }
        // "I could bind, you do not offer it": lets the server detect a downgrade on the way.
        Some(_) if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
        None if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        _ => {
            return Err(WireError::Authentication(
                "the server offers no known SASL mechanism".to_owned(),
            ));
        }
    };
    let mut scram = ScramSha256::new(password(options)?.expose().as_bytes(), binding);
    connection
        .send(|out| frontend::sasl_initial_response(mechanism, scram.message(), out))
        .await?;
    let challenge = connection.authentication_request().await?;
    let challenge = challenge
        .strip_prefix(&11u32.to_be_bytes())
        .ok_or_else(|| malformed("SCRAM challenge"))?;
    scram.update(challenge).map_err(|_| malformed("SCRAM challenge"))?;
    connection
        .send(|out| frontend::sasl_response(scram.message(), out))
        .await?;
    let proof = connection.authentication_request().await?;
    let proof = proof
        .strip_prefix(&12u32.to_be_bytes())
        .ok_or_else(|| malformed("SCRAM proof"))?;
    scram
        .finish(proof)
        .map_err(|_| WireError::Authentication("the server could not prove that it knows the password".to_owned()))?;
    if mechanism == SCRAM_SHA_256_PLUS {
        connection.bind_channel();
    }
    Ok(())
}

fn requires_binding(options: &ConnectOptions) -> bool {
    options.channel_binding == ChannelBindingMode::Require
}

fn password(options: &ConnectOptions) -> Result<&Secret, WireError> {
    options
        .password
        .as_ref()
        .ok_or_else(|| WireError::Authentication("the server asks for a password and none is configured".to_owned()))
}

fn malformed(what: &str) -> WireError {
    WireError::Protocol(format!("a malformed {what} during authentication"))
}
