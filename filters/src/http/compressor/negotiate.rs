//! `accept-encoding`: which of a chain's compressors works, if any does.

/// A compressor that could work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its `content-encoding`.
    pub encoding: &'static str,
    /// `choose_first`: taken where the client likes another one as much.
    pub choose_first: bool,
}

/// What the client's words come to. It is found once for a stream and holds for all of its compressors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing that there is, or nothing that can be read.
    NotValid,
    /// The client wants the body as it is.
    Identity,
    /// The client takes anything: the first compressor.
    Wildcard(&'static str),
    /// The encoding that the client likes best.
    Encoding(&'static str),
}

impl Decision {
    /// The encoding of the compressor that works.
    pub fn encoding(self) -> Option<&'static str> {
        match self {
            Decision::NotValid | Decision::Identity => None,
            Decision::Wildcard(encoding) | Decision::Encoding(encoding) => Some(encoding),
        }
    }
}

/// What the client likes, as far as it counts.
#[derive(Clone, Copy, PartialEq)]
enum Liked {
    Identity,
    Anything,
    Offered(Offer),
}

/// Decides. Where offers have the same encoding, the first of them counts.
pub fn choose(accept: &[u8], mut offers: Vec<Offer>) -> Decision {
    let items = || accept.split(|b| *b == b',').filter(|i| !i.is_empty()).filter_map(item);
    // What is refused by name is not to be had by a wildcard either.
    for (name, _) in items().filter(|(_, q)| *q == 0.0) {
        offers.retain(|o| o.encoding.as_bytes() != name);
    }
    if offers.is_empty() {
        return Decision::NotValid;
    }
    let mut best: Option<(Liked, f32)> = None;
    for (name, q) in items() {
        let offer = offers.iter().find(|o| o.encoding.as_bytes() == name);
        let liked = match (offer, name) {
            (Some(offer), _) => Liked::Offered(*offer),
            (None, b"identity") => Liked::Identity,
            (None, b"*") => Liked::Anything,
            (None, _) => continue,
        };
        let most = best.map_or(0.0, |(_, q)| q);
        if q > most || (q == most && q > 0.0 && offer.is_some_and(|o| o.choose_first)) {
            best = Some((liked, q));
        }
    }
    match (best, offers.first()) {
        (Some((Liked::Offered(offer), _)), _) => Decision::Encoding(offer.encoding),
        (Some((Liked::Identity, _)), _) => Decision::Identity,
        (Some((Liked::Anything, _)), Some(first)) => Decision::Wildcard(first.encoding),
        _ => Decision::NotValid,
    }
}

/// One item: its name, and its `q` where it has one. None where that is no number.
fn item(item: &[u8]) -> Option<(&[u8], f32)> {
    let (name, parameter) = cut(item, b';');
    let Some((key, value)) = parameter.map(|p| cut(p, b'=')) else { return Some((name, 1.0)) };
    let q = match value {
        Some(value) if key.eq_ignore_ascii_case(b"q") => std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()?,
        _ => 1.0,
    };
    Some((name, q))
}

/// What stands before a mark, without the blanks around it, and what stands behind it.
fn cut(text: &[u8], mark: u8) -> (&[u8], Option<&[u8]>) {
    let at = memchr::memchr(mark, text);
    let before = at.and_then(|at| text.get(..at)).unwrap_or(text);
    (before.trim_ascii(), at.and_then(|at| text.get(at + 1..)))
}
