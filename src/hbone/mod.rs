//! The tunnels of HBONE.
