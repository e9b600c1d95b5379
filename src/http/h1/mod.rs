//! HTTP/1.1, without I/O: heads and bodies in and out of buffers.
