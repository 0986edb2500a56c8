//! TLS towards others: whom to trust, and as whom to come.

use std::{path::Path, sync::Arc};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// A client's side of TLS. Without `ca` the system's authorities are trusted; `cert` and `key` belong together. `place`
/// names where in the file the three stand.
///
/// # Errors
/// In words: which file cannot be used, and why.
pub(crate) fn client_config(
    place: &str,
    ca: Option<&str>,
    cert: Option<&str>,
    key: Option<&str>,
) -> Result<Arc<rustls::ClientConfig>, String> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = ca {
        for authority in certificates(path)? {
            roots.add(authority).map_err(|e| format!("{path}: not an authority to trust: {e}"))?;
        }
    } else {
        // Some of the system's may be unusable; without any, the handshake says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS cannot be set up: {e}"))?
        .with_root_certificates(roots);
    let config = match (cert, key) {
        (Some(cert), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|e| format!("{key}: no usable key: {e}"))?;
            builder
                .with_client_auth_cert(certificates(cert)?, private)
                .map_err(|e| format!("{cert} and {key} cannot be used together: {e}"))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(format!("{place}: `cert` and `key` belong together; write both, or neither")),
    };
    Ok(Arc::new(config))
}

/// The certificates of a PEM file; at least one.
///
/// # Errors
/// The file cannot be read, or holds none.
pub(crate) fn certificates(path: impl AsRef<Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.as_ref().display().to_string();
    let list: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| format!("{shown}: no usable certificate: {e}"))?;
    if list.is_empty() { Err(format!("{shown}: there is no certificate in it")) } else { Ok(list) }
}
