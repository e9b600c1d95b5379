//! Memory that is not in use any more goes back to the system.
//!
//! A push of a large mesh needs a multiple of what stays of it: the message, what is read from it, and what is compiled. Much of what is freed then
//! lies between what stays, and glibc gives only the end of its heap back by itself.
//!
//! And what a load gives back and takes again at once is kept: each thread's heap would shrink and grow with every large body.
#![allow(unsafe_code, reason = "glibc's allocator is told by a function of C")]

/// How much free memory a thread's heap may have at its end before it is given back: a few large bodies' worth. glibc's 128 KiB is one.
const KEPT: i32 = 2 << 20;

/// To be called before there are threads.
pub fn prepare() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: It takes two numbers, and no other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
        // Setting one threshold fixes the other at its first value, which would move up as large blocks are freed.
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT);
    }
}

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
