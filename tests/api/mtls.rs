//! TLS, and clients known by their certificates.

use std::{path::Path, sync::Arc};

use coroner::{api::Options, config::TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use tokio_rustls::TlsConnector;

use crate::lab::{Answer, Lab, ask};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.der().clone(), key)
    }

    fn pem(&self) -> String {
        self.0.pem()
    }
}

fn pem_of(certificate: &CertificateDer<'_>) -> String {
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in base64(certificate).as_bytes().chunks(64) {
        out.push_str(std::str::from_utf8(line).unwrap());
        out.push('\n');
    }
    out + "-----END CERTIFICATE-----\n"
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63] as char;
            out.push(if place <= group.len() { digit } else { '=' });
        }
    }
    out
}

async fn lab(directory: &Path, authority: &Authority) -> Lab {
    let (certificate, key) = authority.issue("arbiter-1");
    let write = |name: &str, text: &str| {
        std::fs::write(directory.join(name), text).unwrap();
        directory.join(name)
    };
    let tls = TlsConfig {
        cert: write("server.pem", &pem_of(&certificate)),
        key: write("server.key", &key.serialize_pem()),
        client_ca: Some(write("ca.pem", &authority.pem())),
    };
    Lab::with(Options::default(), |config| config.arbiter.tls = Some(tls)).await
}

async fn ask_as(lab: &Lab, trusts: &Authority, own: Option<(&Authority, &str)>, token: &str) -> Result<Answer, String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusts.0.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let client = match own {
        None => builder.with_no_client_auth(),
        Some((authority, name)) => {
            let (certificate, key) = authority.issue(name);
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    let connector = TlsConnector::from(Arc::new(client));
    let stream = connector
        .connect(ServerName::try_from("arbiter-1").unwrap(), lab.tcp().await)
        .await
        .map_err(|error| error.to_string())?;
    let body = r#"{"cluster":"orders","member":"broker-a","seq":7}"#;
    // With TLS 1.3 a refused client certificate shows only when reading.
    let token = token.to_owned();
    tokio::spawn(async move { ask(stream, "POST", "/v1/heartbeat", &token, body).await })
        .await
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_certificate_is_an_identity_and_a_stranger_s_is_refused() {
    let (directory, authority, stranger) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let lab = lab(directory.path(), &authority).await;
    let code = |answer: Result<Answer, String>| answer.map(|answer| answer.code);
    assert_eq!(code(ask_as(&lab, &authority, Some((&authority, "broker-a")), "").await), Ok(200));
    assert_eq!(code(ask_as(&lab, &authority, Some((&authority, "broker-b")), "").await), Ok(403), "forged");
    assert_eq!(code(ask_as(&lab, &authority, Some((&authority, "grafana")), "").await), Ok(403), "wrong role");
    assert_eq!(code(ask_as(&lab, &authority, Some((&authority, "mallory")), "").await), Ok(401), "unknown name");
    assert_eq!(code(ask_as(&lab, &authority, None, "").await), Ok(401));
    assert_eq!(code(ask_as(&lab, &authority, None, "token-a").await), Ok(200), "a token beside TLS");
    assert!(ask_as(&lab, &authority, Some((&stranger, "broker-a")), "").await.is_err(), "another authority");
    assert!(ask_as(&lab, &stranger, None, "token-a").await.is_err(), "the client checks the server");
}

#[tokio::test]
async fn plain_http_on_the_tls_port_is_closed_and_counted() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let lab = lab(directory.path(), &authority).await;
    let mut io = lab.tcp().await;
    io.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut raw = Vec::new();
    let _ = io.read_to_end(&mut raw).await;
    assert!(!String::from_utf8_lossy(&raw).contains("200 OK"));
    crate::lab::until("the refusal", || lab.metrics.api_refused.with_label_values(&["handshake"]).get() == 1).await;
}

#[tokio::test]
async fn missing_tls_files_are_named() {
    use coroner::api::{StartError, serve};
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let lab = lab(directory.path(), &authority).await;
    std::fs::write(directory.path().join("server.key"), "nonsense").unwrap();
    let receipts = Arc::new(crate::lab::Receipts::default());
    let result = serve(lab.handle.clone(), receipts, Arc::clone(&lab.metrics), std::future::pending()).await;
    let error = result.unwrap_err();
    assert!(matches!(&error, StartError::Tls(text) if text.contains("server.key")), "{error}");
}
