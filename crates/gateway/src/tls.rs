//! Certificates of TLS listeners, read again when their files change.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use config::Protocol;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Session tickets a TLS 1.3 handshake sends; each costs bytes on the wire and a little CPU.
const TLS13_TICKETS: usize = 1;

/// Why a certificate can not be used. Tells nothing of the key but its path.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can not be read or holds no PEM of that kind.
    #[error("{path}: {error}; expected a PEM file with {expected}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        error: String,
        /// What should be in it.
        expected: &'static str,
    },
    /// Certificate and key do not fit each other, or rustls refuses them.
    #[error("certificate {certificate} with its key: {error}; check that both belong together")]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// What rustls says.
        error: rustls::Error,
    },
}

/// A certificate with its key, as it stands in its files now.
#[derive(Debug)]
pub struct Certificate {
    files: config::Tls,
    protocol: Protocol,
    current: ArcSwap<Loaded>,
    /// The fault that was told last: it is looked for every second, and told once.
    told: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ServerConfig>,
    contents: [Vec<u8>; 2],
}

impl Certificate {
    /// Reads the files of a listener that speaks `protocol`.
    ///
    /// # Errors
    /// When a file can not be read, or both do not make a certificate.
    pub fn load(files: config::Tls, protocol: Protocol) -> Result<Self, TlsError> {
        let loaded = load(&files, protocol, read(&files)?)?;
        Ok(Self { files, protocol, current: ArcSwap::from_pointee(loaded), told: Mutex::default() })
    }

    /// Reads the files again. `Ok(true)`: they had changed, and new connections get the new certificate.
    ///
    /// # Errors
    /// As [`Self::load`], once for each fault; the old certificate stays.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let refreshed = self.read_again();
        let fault = refreshed.as_ref().err().map(TlsError::to_string);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if fault.is_some() && *told == fault {
            return Ok(false);
        }
        *told = fault;
        refreshed
    }

    fn read_again(&self) -> Result<bool, TlsError> {
        let contents = read(&self.files)?;
        if contents == self.current.load().contents {
            return Ok(false);
        }
        self.current.store(Arc::new(load(&self.files, self.protocol, contents)?));
        Ok(true)
    }

    /// For the next handshake.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load().config.clone())
    }
}

fn read(files: &config::Tls) -> Result<[Vec<u8>; 2], TlsError> {
    let get = |path: &PathBuf, expected| {
        std::fs::read(path).map_err(|e| TlsError::File { path: path.clone(), error: e.to_string(), expected })
    };
    Ok([get(&files.certificate, "certificates")?, get(&files.key, "a private key")?])
}

fn load(files: &config::Tls, protocol: Protocol, contents: [Vec<u8>; 2]) -> Result<Loaded, TlsError> {
    let bad =
        |path: &PathBuf, error: String, expected| TlsError::File { path: path.clone(), error, expected };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&contents[0])
        .collect::<Result<_, _>>()
        .map_err(|e| bad(&files.certificate, e.to_string(), "certificates"))?;
    if chain.is_empty() {
        return Err(bad(&files.certificate, "no certificate found".into(), "certificates"));
    }
    let key = PrivateKeyDer::from_pem_slice(&contents[1])
        .map_err(|e| bad(&files.key, e.to_string(), "a private key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pair = |error| TlsError::Pair { certificate: files.certificate.clone(), error };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(pair)?;
    // There is no name for AMQP 0-9-1 to agree on: whatever a client offers, nothing is chosen.
    if protocol == Protocol::Http {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
    }
    config.send_tls13_tickets = TLS13_TICKETS;
    Ok(Loaded { config: Arc::new(config), contents })
}
