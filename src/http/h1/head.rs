//! What request and response heads share: finding the end, and the header lines.

use bytes::Bytes;

/// How far a head has been looked through, so that input that comes byte by byte costs linear time.
#[derive(Clone, Debug, Default)]
pub struct ScanState {}

/// How the names of a message were spelled, for `preserve_case`.
#[derive(Clone, Debug, Default)]
pub struct SpelledNames {
    _names: Vec<Bytes>,
}
