//! Stories of whole connections: two stacks over a link that is made up.

mod link;
mod pair;
