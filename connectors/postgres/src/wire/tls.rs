//! TLS as PostgreSQL's `sslmode` defines it, on rustls with the ring provider.

use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio_rustls::rustls;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{ConnectOptions, TlsMode, WireError};

/// The client configuration that `options` ask for.
pub(super) fn client_config(options: &ConnectOptions) -> Result<ClientConfig, WireError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust = match (options.tls, &options.root_certificate) {
        (TlsMode::Disable | TlsMode::Prefer, _) | (TlsMode::Require, None) => Trust::Anyone,
        // libpq: a root certificate turns `require` into `verify-ca`.
        (TlsMode::Require | TlsMode::VerifyCa, _) => Trust::AnyName(authorities(options, &provider)?),
        (TlsMode::VerifyFull, _) => Trust::Authority(authorities(options, &provider)?),
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(WireError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { trust, provider }));
    let Some((certificate, key)) = &options.client_certificate else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = read_certificates(certificate)?;
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error))?;
    builder
        .with_client_auth_cert(chain, key_der)
        .map_err(|error| unusable(certificate, error))
}

fn authorities(
    options: &ConnectOptions,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, WireError> {
    let mut roots = RootCertStore::empty();
    let place = match &options.root_certificate {
        Some(path) => {
            for certificate in read_certificates(path)? {
                roots.add(certificate).map_err(|error| unusable(path, error))?;
            }
            path.as_path()
        }
        None => {
            // Files of the system's store that do not parse are its own matter; what is left must not be empty.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            Path::new("the system's certificates")
        }
    };
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| unusable(place, error))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, WireError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|error| unusable(path, error))?;
    if certificates.is_empty() {
        Err(unusable(path, "no certificate in it"))
    } else {
        Ok(certificates)
    }
}

fn unusable(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> WireError {
    WireError::Certificate {
        path: path.display().to_string(),
        source: source.into(),
    }
}

/// Whose certificates are accepted.
#[derive(Debug)]
enum Trust {
    Anyone,
    AnyName(Arc<WebPkiServerVerifier>),
    Authority(Arc<WebPkiServerVerifier>),
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |by: &WebPkiServerVerifier| {
            by.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        match &self.trust {
            Trust::Anyone => Ok(ServerCertVerified::assertion()),
            Trust::Authority(by) => verify(by),
            // The name is looked at last, so that all else holds when it alone is wrong.
            Trust::AnyName(by) => match verify(by) {
                Err(rustls::Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )) => Ok(ServerCertVerified::assertion()),
                verdict => verdict,
            },
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The `tls-server-end-point` channel binding of a server certificate (RFC 5929, section 4.1):
/// its hash by the hash function of its own signature, or SHA-256 for the broken ones. `None`
/// where the signature has no such function (Ed25519), for which no binding is defined.
pub(super) fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    match signature_algorithm(certificate)? {
        // sha1WithRSAEncryption, md5WithRSAEncryption, ecdsa-with-SHA1; the SHA-256 ones of RSA, ECDSA.
        RSA_MD5 | RSA_SHA1 | ECDSA_SHA1 | RSA_SHA256 | ECDSA_SHA256 => Some(Sha256::digest(certificate).to_vec()),
        RSA_SHA384 | ECDSA_SHA384 => Some(Sha384::digest(certificate).to_vec()),
        RSA_SHA512 | ECDSA_SHA512 => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}

// Object identifiers in DER: 1.2.840.113549.1.1.x (RSA, RFC 8017) and 1.2.840.10045.4.x (ECDSA, RFC 5758).
const RSA_MD5: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4];
const RSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5];
const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
const RSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12];
const RSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13];
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
const ECDSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];

/// The object identifier in `Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm
/// SEQUENCE { algorithm OBJECT IDENTIFIER, … }, … }` (RFC 5280, section 4.1).
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_IDENTIFIER: u8 = 0x06;
    let (fields, _) = der_value(certificate, SEQUENCE)?;
    let (_, after_body) = der_value(fields, SEQUENCE)?;
    let (algorithm, _) = der_value(after_body, SEQUENCE)?;
    Some(der_value(algorithm, OBJECT_IDENTIFIER)?.0)
}

/// The content of the DER value at the start of `bytes`, and what follows it.
fn der_value(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (digits, rest) = rest
            .split_at_checked(usize::from(length & 0x7f))
            .filter(|(digits, _)| digits.len() <= 4)?;
        (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
    };
    if first == tag {
        rest.split_at_checked(length)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_algorithm_is_found_behind_the_body() {
        let mut body = vec![0x30, 0x82, 0x01, 0x00];
        body.extend([0xaa; 256]);
        let mut inner = body;
        inner.extend([0x30, 0x0a, 0x06, 0x08]);
        inner.extend(ECDSA_SHA384);
        let mut certificate = vec![0x30, 0x82];
        certificate.extend((inner.len() as u16).to_be_bytes());
        certificate.extend(inner);
        assert_eq!(signature_algorithm(&certificate), Some(ECDSA_SHA384));
        assert_eq!(
            server_end_point(&certificate),
            Some(Sha384::digest(&certificate).to_vec())
        );
        assert_eq!(signature_algorithm(&certificate[..20]), None);
    }
}
