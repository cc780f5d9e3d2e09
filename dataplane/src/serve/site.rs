//! What is served: the folders, and what answers say besides. Exchanged as a whole when the server reloads.

use super::bell::Bell;
use super::http::Policy;
use super::tree::{Finder, Librarian, Tree, TreeError, TreePlan};
use std::io;
use std::sync::Arc;

/// Paths that a worker keeps in mind.
const PATHS: usize = 65_536;

/// Lookups that a worker may have open.
pub(in crate::serve) const LOOKUPS: usize = 1024;

/// What may be exchanged while the server runs.
#[derive(Debug)]
pub(in crate::serve) struct Site {
    pub(in crate::serve) librarian: Librarian,
    pub(in crate::serve) policy: Arc<Policy>,
}

/// Why there is no site.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The folders.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The kernel has no thread or descriptor left.
    #[error("starting the librarian: {0}")]
    System(#[from] io::Error),
}

impl Site {
    pub(in crate::serve) fn open(tree: TreePlan, policy: Policy) -> Result<Self, SiteError> {
        let tree = Arc::new(Tree::open(tree)?);
        Ok(Self { librarian: Librarian::start(tree)?, policy: Arc::new(policy) })
    }
}

/// A worker's finder over a site.
pub(in crate::serve) fn finder(site: &Site, bell: &Arc<Bell>) -> Finder {
    let desk = site.librarian.desk(LOOKUPS, Arc::clone(bell));
    Finder::new(desk, site.librarian.tree().hosts(), PATHS)
}
