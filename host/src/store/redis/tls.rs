//! The certificates of the options `ca`, `cert` and `key`, read when a store is opened.

use std::fs;
use std::path::Path;

use ::redis::{ClientTlsConfig, TlsCertificates};
use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::url::Certificates;
use crate::store::{StorageError, invalid};

/// Reads and checks the files. Otherwise a fault would appear on first use, without the
/// name of the file.
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
        Error::NoItemsFound => fault("key", key, "it contains no private key without a passphrase"),
        error => fault("key", key, &error.to_string()),
    })?;
    ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, private)
        .map_err(|error| fault("key", key, &format!("it does not match {}: {error}", cert.display())))?;
    Ok(TlsCertificates { client_tls: Some(client), root_cert })
}

fn read_file(option: &str, file: &Path) -> Result<Vec<u8>, StorageError> {
    fs::read(file).map_err(|error| fault(option, file, &error.to_string()))
}

fn certificates(option: &str, file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, StorageError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(fault(option, file, "it contains no certificate")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(fault(option, file, &error.to_string())),
    }
}

/// The error for a file. Only the application that opens the store sees it.
fn fault(option: &str, file: &Path, fault: &str) -> StorageError {
    let message = format!("the option {option:?} of the store's URL: {}: {fault}", file.display());
    invalid(&message)
}
