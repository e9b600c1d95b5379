//! Header maps that go from one message to the next: a map is two allocations, and one of them is of the size that allocators are slow with.

use std::cell::RefCell;

use http::HeaderMap;

/// How many are kept: as many as are in use at one moment of a busy worker.
const SPARES: usize = 64;

/// The largest that is kept, in headers; usual messages have fewer, and a hostile one is not to be remembered.
const CAPACITY: usize = 48;

thread_local! {
    static SPARE: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// An empty map with room for so many headers, if they are not too many to be believed.
pub fn header_map(capacity: usize) -> HeaderMap {
    let capacity = capacity.min(128);
    match SPARE.with_borrow_mut(Vec::pop) {
        Some(map) if map.capacity() >= capacity => map,
        _ => HeaderMap::with_capacity(capacity),
    }
}

/// Keeps a map that is no longer needed.
pub fn keep(mut map: HeaderMap) {
    if (1..=CAPACITY).contains(&map.capacity()) {
        map.clear();
        SPARE.with_borrow_mut(|spares| {
            if spares.len() < SPARES {
                spares.push(map);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::{ACCEPT, HOST};

    use super::*;

    #[test]
    fn a_kept_map_comes_back_empty() {
        let mut map = header_map(10);
        map.insert(HOST, HeaderValue::from_static("a"));
        map.append(ACCEPT, HeaderValue::from_static("b"));
        map.append(ACCEPT, HeaderValue::from_static("c"));
        let room = map.capacity();
        keep(map);
        let again = header_map(1);
        assert_eq!((again.len(), again.capacity()), (0, room));
        assert!(again.get(HOST).is_none());
    }

    #[test]
    fn large_and_unused_maps_are_not_kept() {
        keep(HeaderMap::with_capacity(100));
        keep(HeaderMap::new());
        assert!(SPARE.with_borrow(Vec::is_empty));
        assert!(header_map(1_000_000).capacity() < 1_000);
    }
}
