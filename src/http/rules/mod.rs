//! What the connection manager does to heads. Pure: no sockets, no waiting.

pub mod forwarded;
pub mod local_reply;
pub mod path;
pub mod request;
pub mod request_id;
pub mod response;
pub mod timeouts;
pub mod xfcc;
