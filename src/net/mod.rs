//! Sockets and streams of bytes, and the timers that watch over them.

pub mod alarm;
pub mod io;
pub mod pump;
pub mod queue;
pub mod socket;
pub mod tunnel;

pub use alarm::Alarm;
pub use io::Io;
pub use queue::WriteQueue;
pub use tunnel::Tunnel;
