//! Why a request goes by one route and not by another, for `waypost explain`.

use std::sync::Arc;

use waypost_filters::stream::HttpStream;

use super::{Route, RouteTable};

/// What [`RouteTable::find`] looked at.
#[derive(Debug)]
pub struct RouteSearch<'a> {
    /// The virtual host, with the domain that matched; none where none did.
    pub virtual_host: Option<(Arc<str>, String)>,
    /// Whether the virtual host wants TLS, which the request has not come over.
    pub wants_tls: bool,
    /// Routes before the one that matched, in order, each with what of it does not hold.
    pub passed: Vec<(&'a Arc<Route>, String)>,
    /// The route, with its place in the virtual host.
    pub found: Option<(usize, &'a Arc<Route>)>,
}

impl RouteTable {
    /// As [`RouteTable::find`], and why. Slower: all routes in front of the one that matches are looked at.
    pub fn explain(&self, stream: &HttpStream, random: u64) -> RouteSearch<'_> {
        let mut search = RouteSearch { virtual_host: None, wants_tls: false, passed: Vec::new(), found: None };
        let Some(entries) = self.entries(&stream.request) else { return search };
        let host = match &self.vhost_header {
            None => stream.request.authority.as_ref(),
            Some(name) => stream.request.headers.get(name),
        };
        let domain = self.hosts.domain(host.map(|h| h.as_bytes()), self.ignore_port).unwrap_or_default();
        search.virtual_host = Some((entries.tls_redirect.virtual_host.name.clone(), domain));
        search.wants_tls = entries.wants_tls(&stream.request);
        // What is done is `find`'s decision; the rest only tells of it.
        let found = self.find(stream, random);
        let path = self.matched_path(&stream.request);
        for (i, route) in entries.routes.iter().enumerate() {
            if found.is_some_and(|f| Arc::ptr_eq(f, route)) {
                search.found = Some((i, route));
                return search;
            }
            if search.wants_tls {
                continue;
            }
            if let Some(why) = route.condition.explain(stream, path, random) {
                search.passed.push((route, why));
            }
        }
        search.found = found.map(|route| (entries.routes.len(), route));
        search
    }
}

impl Route {
    /// What a request must be to go by it, as text.
    pub fn condition(&self) -> String {
        self.condition.to_string()
    }
}
