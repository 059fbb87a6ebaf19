//! Certificates of one's own for TLS, read when a store is opened.

use std::fs;
use std::path::Path;

use ::redis::{ClientTlsConfig, RedisError, TlsCertificates};
use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::address::Certificates;
use crate::store::{StorageError, invalid};

/// Reads the files, and sees to it that they can be used: otherwise it would
/// only show when the store is first used, and not say which file it is. There
/// must be a cryptography provider.
pub(super) fn read(files: &Certificates) -> Result<TlsCertificates, StorageError> {
    let root_cert = files.ca.as_deref().map(|file| read_file("ca", file)).transpose()?;
    let mut roots = RootCertStore::empty();
    if let (Some(file), Some(pem)) = (&files.ca, &root_cert) {
        for certificate in certificates("ca", file, pem)? {
            roots.add(certificate).map_err(|error| fault("ca", file, &error.to_string()))?;
        }
    }
    let Some((cert, key)) = &files.client else { return Ok(TlsCertificates { client_tls: None, root_cert }) };
    let client =
        ClientTlsConfig { client_cert: read_file("cert", cert)?, client_key: read_file("key", key)? };
    let chain = certificates("cert", cert, &client.client_cert)?;
    let private = PrivateKeyDer::from_pem_slice(&client.client_key).map_err(|error| match error {
        Error::NoItemsFound => fault("key", key, "there is no private key in it without a passphrase"),
        error => fault("key", key, &error.to_string()),
    })?;
    ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, private)
        .map_err(|error| fault("key", key, &format!("it does not go with {}: {error}", cert.display())))?;
    Ok(TlsCertificates { client_tls: Some(client), root_cert })
}

fn read_file(option: &str, file: &Path) -> Result<Vec<u8>, StorageError> {
    fs::read(file).map_err(|error| fault(option, file, &error.to_string()))
}

fn certificates(option: &str, file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, StorageError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(fault(option, file, "there is no certificate in it"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(fault(option, file, &error.to_string())),
    }
}

/// Whether the server said that it does not trust this client. That ends the
/// handshake, so nothing was asked of the server.
pub(super) fn refuses_the_client(error: &RedisError) -> bool {
    let said = error.to_string();
    let alert = said.rsplit_once("received fatal alert: ").map(|(_, alert)| alert);
    // TLS 1.2 has no word for a certificate that is missing.
    alert.is_some_and(|alert| {
        ["Certificate", "BadCertificate", "UnsupportedCertificate", "UnknownCA", "HandshakeFailure"]
            .iter()
            .any(|begin| alert.starts_with(begin))
    })
}

/// A fault of what the host was told, which no plugin comes to see.
fn fault(option: &str, file: &Path, fault: &str) -> StorageError {
    invalid(&format!("the option {option:?} of the store's address: {}: {fault}", file.display()))
}
