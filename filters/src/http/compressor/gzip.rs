//! gzip (RFC 1952): one stream of deflate, flushed after each piece so that nothing of a slow response waits in it.

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use waypost_xds::envoy::extensions::compression::gzip::compressor::v3 as proto;

use crate::body::BodyEncoder;
use crate::stats::Counter;

/// As zlib writes it: deflate, no name, no time, made on Unix.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];

/// zlib's default level.
const DEFAULT_LEVEL: u32 = 6;

/// Envoy's `chunk_size`.
const DEFAULT_CHUNK: usize = 4096;

/// The library's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gzip {
    level: u32,
    chunk: usize,
}

impl Gzip {
    /// Takes the configuration, and the names of the fields that are set and have no effect.
    pub fn compile(config: proto::Gzip) -> (Gzip, Vec<&'static str>) {
        let proto::Gzip { memory_level, compression_level, compression_strategy, window_bits, chunk_size } = config;
        // There is one window and one strategy here; any decoder reads what they make.
        let ignored = [
            (memory_level.is_some(), "compressor_library.typed_config.memory_level"),
            (compression_strategy != 0, "compressor_library.typed_config.compression_strategy"),
            (window_bits.is_some(), "compressor_library.typed_config.window_bits"),
        ];
        let gzip = Gzip {
            level: u32::try_from(compression_level).ok().filter(|l| *l > 0).unwrap_or(DEFAULT_LEVEL),
            chunk: chunk_size.map_or(DEFAULT_CHUNK, |c| c.value as usize),
        };
        (gzip, ignored.into_iter().filter_map(|(set, field)| set.then_some(field)).collect())
    }

    /// Begins with a body; what goes in and out is counted.
    pub fn encoder(self, bytes_in: Counter, bytes_out: Counter) -> GzipEncoder {
        GzipEncoder {
            compress: Compress::new(Compression::new(self.level), false),
            crc: Crc::new(),
            chunk: self.chunk,
            begun: false,
            bytes_in,
            bytes_out,
        }
    }
}

/// A body that is being compressed.
pub struct GzipEncoder {
    compress: Compress,
    crc: Crc,
    chunk: usize,
    begun: bool,
    bytes_in: Counter,
    bytes_out: Counter,
}

impl GzipEncoder {
    /// Runs the compressor until it has taken all and said all that the flush asks for. Its buffer was full if there may be more.
    fn run(&mut self, mut data: &[u8], flush: FlushCompress, out: &mut Vec<u8>) {
        let mut how = flush;
        loop {
            if out.len() == out.capacity() {
                out.reserve(self.chunk);
            }
            let before = (self.compress.total_in(), out.len());
            let Ok(status) = self.compress.compress_vec(data, out, how) else { return };
            let taken = usize::try_from(self.compress.total_in() - before.0).unwrap_or(data.len());
            data = data.get(taken..).unwrap_or_default();
            let done = match flush {
                FlushCompress::Finish => status == Status::StreamEnd,
                _ => data.is_empty() && out.len() < out.capacity(),
            };
            // Without progress there is none to come.
            if done || (taken == 0 && out.len() == before.1) {
                return;
            }
            if data.is_empty() && flush == FlushCompress::Sync {
                // A flush that ran out of room is gone on with, not asked for anew: that would be another empty block.
                how = FlushCompress::None;
            }
        }
    }
}

impl BodyEncoder for GzipEncoder {
    fn encode(&mut self, data: Bytes, end: bool) -> Bytes {
        self.bytes_in.add(data.len() as u64);
        let mut out = Vec::with_capacity(self.chunk);
        if !self.begun {
            self.begun = true;
            out.extend_from_slice(&HEADER);
        }
        self.crc.update(&data);
        self.run(&data, if end { FlushCompress::Finish } else { FlushCompress::Sync }, &mut out);
        if end {
            out.extend_from_slice(&self.crc.sum().to_le_bytes());
            out.extend_from_slice(&self.crc.amount().to_le_bytes());
        }
        self.bytes_out.add(out.len() as u64);
        out.into()
    }
}
