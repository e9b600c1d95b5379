//! A byte stream whose two sides tell each other who they are before the application's first byte.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use waypost_filters::network::metadata_exchange::{MetadataExchange, Taken, take};

use super::Io;

/// A stream of which the peer's message has to be taken, or has been.
pub struct Exchanged {
    /// The stream.
    pub io: Io,
    /// What has been read of it and not been asked for.
    read: BytesMut,
    /// Whether the message may still come.
    expects: bool,
}

/// Says who we are. What the peer says is taken out when somebody reads: it comes with its first data, which may be late or never come, and the
/// other direction does not wait for it.
pub async fn exchange(mut io: Io, filter: &MetadataExchange) -> io::Result<Io> {
    io.write_all(&filter.header).await?;
    io.flush().await?;
    Ok(Io::Exchanged(Box::new(Exchanged { io, read: BytesMut::new(), expects: true })))
}

impl Exchanged {
    /// Reads what is the application's.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.expects {
            let ended = match ready!(self.io.poll_fill(cx, &mut self.read)) {
                Ok(n) => n == 0,
                // TLS that ends without its goodbye; the next read says so once more.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => true,
                Err(e) => return Poll::Ready(Err(e)),
            };
            match take(&mut self.read, ended) {
                Ok(Taken::More) => {}
                // What it says is for telemetry, which is not there yet.
                Ok(Taken::Message(_)) => self.expects = false,
                Err(e) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, e))),
            }
            if ended {
                self.expects = false;
                break;
            }
        }
        if self.read.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.read.len().min(buf.remaining());
        buf.put_slice(self.read.get(..n).unwrap_or_default());
        self.read.advance(n);
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, DuplexStream};

    fn filter() -> MetadataExchange {
        let config =
            waypost_xds::istio::metadata_exchange::MetadataExchange { protocol: "p".into(), ..Default::default() };
        MetadataExchange::compile(config, "node", &serde_json::json!({"NAME": "n"}))
    }

    /// Our end after the exchange, and the peer's, which has read our header.
    async fn pair() -> (Io, DuplexStream, Bytes) {
        let (near, mut far) = tokio::io::duplex(64);
        let filter = filter();
        let mut header = vec![0; filter.header.len()];
        let (io, read) = tokio::join!(exchange(Io::Pipe(near), &filter), far.read_exact(&mut header));
        read.unwrap();
        assert_eq!(header, filter.header);
        (io.unwrap(), far, filter.header)
    }

    async fn all(mut io: Io) -> Vec<u8> {
        let mut out = Vec::new();
        io.read_to_end(&mut out).await.unwrap();
        out
    }

    #[tokio::test]
    async fn the_peers_message_is_not_in_what_is_read() {
        for piece in [1, 7, 4096] {
            let (io, mut far, header) = pair().await;
            let send = async move {
                let stream = [&header[..], &[b'x'; 5000]].concat();
                for piece in stream.chunks(piece) {
                    far.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            assert_eq!(tokio::join!(all(io), send).0, [b'x'; 5000]);
        }
    }

    #[tokio::test]
    async fn a_peer_that_sends_none_is_read_as_it_is_and_a_silent_one_is_written_to() {
        let (mut io, mut far, _) = pair().await;
        io.write_all(b"hello").await.unwrap();
        far.read_exact(&mut [0; 5]).await.unwrap();
        far.write_all(b"x").await.unwrap();
        let mut byte = [0];
        io.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"x", "it does not wait for as much as a header is");
        drop(far);
        assert!(all(io).await.is_empty());
    }

    #[tokio::test]
    async fn a_stream_that_ends_in_its_header_ends() {
        let (io, mut far, header) = pair().await;
        far.write_all(&header[..20]).await.unwrap();
        drop(far);
        assert!(all(io).await.is_empty());
        let (mut io, mut far, _) = pair().await;
        far.write_all(&[0x3d, 0x23, 0x04, 0x67, 1, 0, 0, 0]).await.unwrap();
        let error = io.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
