//! WireGuard keys: 32 bytes, written in base64.
//!
//! Secrets have no `Display`, a `Debug` that shows nothing, and are wiped when dropped.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::{Blake2s256, Digest as _};
use boringtun::x25519;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroize as _;

/// Text that is not the base64 form of 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a WireGuard key: expected 32 bytes in base64 (44 characters)")]
pub struct BadKey;

fn decode(text: &str) -> Result<[u8; 32], BadKey> {
    let mut bytes = [0; 33];
    let len = STANDARD
        .decode_slice(text, &mut bytes)
        .map_err(|_| BadKey)?;
    let key = bytes[..len].try_into().map_err(|_| BadKey);
    bytes.zeroize();
    key
}

/// The public half of a Curve25519 key; a peer's identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key's fingerprint: 128 bits of BLAKE2s in 32 hexadecimal digits. Names a session where others can read it, and
    /// leads nobody back to the key.
    pub fn fingerprint(&self) -> String {
        let hash = Blake2s256::digest(self.0);
        hash[..16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    pub(super) fn to_x25519(self) -> x25519::PublicKey {
        x25519::PublicKey::from(self.0)
    }
}

impl FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        decode(text).map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The secret half of a Curve25519 key.
#[derive(Clone)]
pub struct PrivateKey(x25519::StaticSecret);

impl PrivateKey {
    /// The key made of 32 random bytes, clamped as RFC 7748, section 5 asks.
    pub fn from_seed(mut seed: [u8; 32]) -> Self {
        seed[0] &= 248;
        seed[31] = (seed[31] & 127) | 64;
        let key = Self(x25519::StaticSecret::from(seed));
        seed.zeroize();
        key
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519::PublicKey::from(&self.0).to_bytes())
    }

    pub(super) fn as_x25519(&self) -> &x25519::StaticSecret {
        &self.0
    }
}

impl FromStr for PrivateKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        decode(text).map(Self::from_seed)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// A symmetric secret that both ends mix into the handshake.
///
/// It is serialised only inside a `SessionGrant`, which travels in the API server's TLS.
#[derive(Clone)]
pub struct PresharedKey([u8; 32]);

impl PresharedKey {
    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for PresharedKey {
    /// In constant time: no byte decides how long it takes.
    fn eq(&self, other: &Self) -> bool {
        let difference = self
            .0
            .iter()
            .zip(&other.0)
            .fold(0, |sum, (a, b)| sum | (a ^ b));
        difference == 0
    }
}

impl Eq for PresharedKey {}

impl Drop for PresharedKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl FromStr for PresharedKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        decode(text).map(Self)
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

impl Serialize for PresharedKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for PresharedKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_base64() {
        let key = PublicKey::from_bytes([7; 32]);
        assert_eq!(key.to_string().parse(), Ok(key));
    }

    #[test]
    fn a_fingerprint_is_the_keys_own() {
        let of = |byte| PublicKey::from_bytes([byte; 32]).fingerprint();
        assert_eq!(of(7).len(), 32);
        assert!(of(7) == of(7) && of(7) != of(8));
    }

    #[test]
    fn the_public_half_is_as_in_rfc_7748_section_5_2() {
        let private = bytes("0900000000000000000000000000000000000000000000000000000000000000");
        let public = bytes("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079");
        assert_eq!(
            PrivateKey::from_seed(private).public(),
            PublicKey::from_bytes(public)
        );
    }

    fn bytes(hex: &str) -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
    }

    #[test]
    fn what_is_not_32_bytes_of_base64_is_refused() {
        for text in [
            "",
            "x",
            "AAAA",
            &"A".repeat(43),
            &format!("{}=", "A".repeat(44)),
            "ü",
        ] {
            assert_eq!(text.parse::<PublicKey>(), Err(BadKey), "{text}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let secret = PresharedKey::from_bytes([9; 32]);
        assert_eq!(format!("{secret:?}"), "PresharedKey(..)");
        assert_eq!(
            format!("{:?}", PrivateKey::from_seed([9; 32])),
            "PrivateKey(..)"
        );
    }
}
