//! Memory that is not in use any more goes back to the system.
//!
//! A push of a large mesh needs a multiple of what stays of it: the message, what is read from it, and what is compiled. Much of what is freed then
//! lies between what stays, and glibc gives only the end of its heap back by itself.
#![allow(unsafe_code, reason = "glibc's allocator is told by a function of C")]

/// Gives whole free pages back, wherever they lie. A few milliseconds for a hundred megabytes, in which other threads go on with memory of their own.
pub fn give_back() {
    let begin = std::time::Instant::now();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: It takes no pointer, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
    tracing::debug!(target: "main", "free memory was given back in {:?}", begin.elapsed());
}
