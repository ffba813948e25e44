//! A broker that wants TLS and a password.

use millstream_testkit::kafka::{MECHANISMS, TestKafka};
use rcgen::{CertificateParams, KeyPair};

use super::*;

const PASSWORD: &str = "correct-horse";

/// The security of a source, and the code of the error that it ends in.
fn attempts(ca: &str) -> Vec<(String, Option<&'static str>)> {
    let secured = |tls: &str, mechanism: &str, password: &str| {
        format!(
            "security: {{tls: {{{tls}}}, sasl: {{mechanism: {mechanism}, username: reader, password: {password}}}}}"
        )
    };
    let trusted = format!("ca: '{ca}'");
    let mut attempts = vec![
        (
            secured("ca: /etc/ssl/certs/ca-certificates.crt", "PLAIN", PASSWORD),
            Some("KF0006"),
        ),
        (secured("verify: false", "PLAIN", PASSWORD), None),
    ];
    for mechanism in MECHANISMS {
        attempts.push((secured(&trusted, mechanism, PASSWORD), None));
        attempts.push((secured(&trusted, mechanism, "wrong-horse"), Some("KF0002")));
    }
    attempts
}

#[test]
fn tls_and_passwords_are_proven_to_the_broker() {
    if Broker::shared().real("TLS and SASL").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let identity = folder.path().join("identity.pem");
    std::fs::write(&identity, key.serialize_pem() + &certificate.pem()).unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, certificate.pem()).unwrap();
    let node = TestKafka::start_secured(identity, "reader", PASSWORD).unwrap();
    let secured = node.secured_brokers().unwrap();
    let clicks = Clicks::on(Arc::new(Broker::Real(node)), "secured", 1);
    let mut sent = Vec::new();
    for (number, (security, code)) in (0..).zip(attempts(ca.to_str().unwrap())) {
        // So that each has something to read that none before it has read.
        sent.extend(clicks.send(&[0], number * 20, number * 20 + 20));
        let pipeline = PIPELINE
            .replace("${KAFKA}", &secured)
            .replace("discover_every:", &format!("{security}\n      discover_every:"));
        clicks.project.write("clicks.yaml", &pipeline);
        let mut daemon = clicks.daemon();
        match code {
            None => {
                clicks.wait_caught_up(&mut daemon, &sent);
                daemon.drain();
                clicks.assert_equal(&sent);
            }
            Some(code) => {
                let error = daemon.wait_halted().last_error.unwrap();
                assert_eq!(error.code.as_deref(), Some(code), "{error:?}");
                assert!(!format!("{error:?}{}", daemon.log()).contains("horse"));
            }
        }
    }
}
