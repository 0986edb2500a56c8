//! TLS of the HTTP interface: the server's certificate, and clients by theirs.

use std::sync::Arc;

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use crate::{config::TlsConfig, sys::tls::certificates};

/// The files, read.
#[derive(Clone)]
pub(super) struct Tls(pub(super) TlsAcceptor);

impl Tls {
    /// Reads and checks the files. The error names the file.
    pub(super) fn load(config: &TlsConfig) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match &config.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    // Whoever comes without a certificate may still have a token.
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::from_pem_file(&config.key)
            .map_err(|error| format!("{}: no private key in PEM format ({error})", config.key.display()))?;
        let mut server = builder
            .with_single_cert(certificates(&config.cert)?, key)
            .map_err(|error| format!("{} and {}: {error}", config.cert.display(), config.key.display()))?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(server))))
    }
}

/// The DNS names of a client certificate that the handshake has verified.
pub(super) fn dns_names(chain: Option<&[CertificateDer<'_>]>) -> Arc<[String]> {
    let Some(certificate) = chain.and_then(<[_]>::first) else { return Arc::from([]) };
    match webpki::EndEntityCert::try_from(certificate) {
        Ok(parsed) => parsed.valid_dns_names().map(str::to_owned).collect(),
        Err(_) => Arc::from([]),
    }
}
