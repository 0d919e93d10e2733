//! Which algorithms we offer, and in which order.

use russh::Preferred;
use russh::keys::{Algorithm, EcdsaCurve, HashAlg};

use super::super::config::{self, Resolved};
use super::super::keys::is_rsa;

/// Algorithms by preference: those that cost little first, then what old or strict hosts still need.
pub(super) fn preferred(resolved: &Resolved, known: &[Algorithm], authority: bool) -> Preferred {
    use russh::{cipher, compression, kex, mac};
    const KEX: &[kex::Name] = &[
        kex::MLKEM768X25519_SHA256,
        kex::CURVE25519,
        kex::CURVE25519_PRE_RFC_8731,
        kex::ECDH_SHA2_NISTP256,
        kex::ECDH_SHA2_NISTP384,
        kex::ECDH_SHA2_NISTP521,
        kex::DH_GEX_SHA256,
        kex::DH_G16_SHA512,
        kex::DH_G18_SHA512,
        kex::DH_G14_SHA256,
    ];
    const ALL_KEX: &[kex::Name] = &[
        kex::MLKEM768X25519_SHA256,
        kex::CURVE25519,
        kex::CURVE25519_PRE_RFC_8731,
        kex::ECDH_SHA2_NISTP256,
        kex::ECDH_SHA2_NISTP384,
        kex::ECDH_SHA2_NISTP521,
        kex::DH_GEX_SHA256,
        kex::DH_G16_SHA512,
        kex::DH_G18_SHA512,
        kex::DH_G14_SHA256,
        kex::DH_G14_SHA1,
        kex::DH_GEX_SHA1,
        kex::DH_G1_SHA1,
    ];
    const CIPHERS: &[cipher::Name] = &[
        cipher::AES_128_GCM,
        cipher::AES_256_GCM,
        cipher::CHACHA20_POLY1305,
        cipher::AES_256_CTR,
        cipher::AES_192_CTR,
        cipher::AES_128_CTR,
    ];
    const MACS: &[mac::Name] =
        &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512];
    const ALL_MACS: &[mac::Name] = &[
        mac::HMAC_SHA256_ETM,
        mac::HMAC_SHA512_ETM,
        mac::HMAC_SHA256,
        mac::HMAC_SHA512,
        mac::HMAC_SHA1_ETM,
        mac::HMAC_SHA1,
    ];
    let mut kex =
        config::choose_algorithms(resolved.kex.as_deref(), KEX, ALL_KEX, |name| name.as_ref().to_owned());
    kex.extend([kex::EXTENSION_SUPPORT_AS_CLIENT, kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT]);
    let key = host_key_algorithms(resolved, known);
    let compression: &[compression::Name] = if resolved.compression {
        &[compression::ZLIB_LEGACY, compression::NONE]
    } else {
        &[compression::NONE]
    };
    Preferred {
        kex: kex.into(),
        host_key_certificates: if authority { key.clone().into() } else { Vec::new().into() },
        key: key.into(),
        cipher: config::choose_algorithms(resolved.ciphers.as_deref(), CIPHERS, CIPHERS, |n| {
            n.as_ref().to_owned()
        })
        .into(),
        mac: config::choose_algorithms(resolved.macs.as_deref(), MACS, ALL_MACS, |n| n.as_ref().to_owned())
            .into(),
        compression: compression.to_vec().into(),
    }
}

/// Types that are listed for the host come first: it may have others, which we would not know.
pub(super) fn host_key_algorithms(resolved: &Resolved, known: &[Algorithm]) -> Vec<Algorithm> {
    let ecdsa = |curve| Algorithm::Ecdsa { curve };
    let rsa = |hash| Algorithm::Rsa { hash };
    let ours = [
        Algorithm::Ed25519,
        ecdsa(EcdsaCurve::NistP256),
        ecdsa(EcdsaCurve::NistP384),
        ecdsa(EcdsaCurve::NistP521),
        rsa(Some(HashAlg::Sha512)),
        rsa(Some(HashAlg::Sha256)),
    ];
    let mut all = ours.to_vec();
    all.push(rsa(None));
    let list = resolved.host_key_algorithms.as_deref();
    let mut chosen = config::choose_algorithms(list, &ours, &all, ToString::to_string);
    if list.is_none() {
        let is_known = |algorithm: &Algorithm| {
            known.iter().any(|known| known == algorithm || (is_rsa(known) && is_rsa(algorithm)))
        };
        chosen.sort_by_key(|algorithm| !is_known(algorithm));
    }
    chosen
}
