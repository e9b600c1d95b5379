//! Which routes of a large virtual host can match a path at all, in their order.

use smallvec::SmallVec;

/// Below this many routes a plain scan is as fast.
pub(super) const WORTH_IT: usize = 12;

/// Routes by the literal that their paths start with. All literals of which a path is an extension lie on one chain of ancestors that starts at
/// the path's predecessor in sorted order, so that one binary search finds them all.
#[derive(Debug)]
pub(super) struct RouteIndex {
    /// Sorted by literal.
    nodes: Box<[Node]>,
    /// Routes without a literal: regular expressions, CONNECT, and those that ignore case.
    rest: Box<[usize]>,
}

#[derive(Debug)]
struct Node {
    literal: Box<[u8]>,
    /// Routes of this literal, ascending.
    routes: Vec<usize>,
    /// The longest other literal that this one extends.
    parent: Option<usize>,
}

impl RouteIndex {
    /// An index of routes in order, each with the literal that its path must start with, if there is one.
    pub fn new<'a>(literals: impl Iterator<Item = Option<&'a [u8]>>) -> RouteIndex {
        let (mut rest, mut pairs) = (Vec::new(), Vec::new());
        for (route, literal) in literals.enumerate() {
            match literal {
                Some(literal) => pairs.push((literal, route)),
                None => rest.push(route),
            }
        }
        pairs.sort_unstable();
        let mut nodes: Vec<Node> = Vec::new();
        for (literal, route) in pairs {
            match nodes.last_mut() {
                Some(last) if &*last.literal == literal => last.routes.push(route),
                _ => {
                    let parent = ancestor(&nodes, nodes.len().checked_sub(1), literal);
                    nodes.push(Node { literal: literal.into(), routes: vec![route], parent });
                }
            }
        }
        RouteIndex { nodes: nodes.into(), rest: rest.into() }
    }

    /// The routes that may match a path, in ascending order.
    pub fn candidates<'a>(&'a self, path: &[u8]) -> Candidates<'a> {
        let mut lists: SmallVec<[&[usize]; 8]> = SmallVec::new();
        lists.push(&self.rest);
        let before = self.nodes.partition_point(|n| &*n.literal <= path).checked_sub(1);
        let mut at = ancestor(&self.nodes, before, path);
        while let Some(node) = at.and_then(|i| self.nodes.get(i)) {
            lists.push(&node.routes);
            at = node.parent;
        }
        Candidates { lists }
    }
}

/// The first of a node and its ancestors that is a prefix of a path; further ancestors then are prefixes too.
fn ancestor(nodes: &[Node], mut at: Option<usize>, path: &[u8]) -> Option<usize> {
    loop {
        let node = nodes.get(at?)?;
        if path.starts_with(&node.literal) {
            return at;
        }
        at = node.parent;
    }
}

/// Merges a few sorted lists. More than eight literals of one path spill to the heap; real tables have two or three.
pub(super) struct Candidates<'a> {
    lists: SmallVec<[&'a [usize]; 8]>,
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let list = self.lists.iter_mut().filter(|l| !l.is_empty()).min_by_key(|l| l.first().copied())?;
        let (first, rest) = list.split_first()?;
        *list = rest;
        Some(*first)
    }
}
