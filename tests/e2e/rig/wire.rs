//! HTTP/1.1 by hand, for both sides: what goes over the wire is what the test says.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::within;

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, with what has been read but not looked at.
pub struct Wire {
    stream: Box<dyn Stream>,
    read: Vec<u8>,
}

/// A request or a response.
#[derive(Clone, Debug, Default)]
pub struct Message {
    pub first_line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    /// A response's status.
    pub fn status(&self) -> u16 {
        self.first_line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    /// A request's path.
    pub fn path(&self) -> &str {
        self.first_line.split(' ').nth(1).unwrap_or("")
    }

    /// The value of a header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn parse(head: &str) -> Message {
        let mut lines = head.split("\r\n");
        let first_line = lines.next().unwrap_or("").to_owned();
        let fields = lines.filter_map(|l| l.split_once(':'));
        let headers = fields.map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
        Message { first_line, headers, body: Vec::new() }
    }

    fn is_request(&self) -> bool {
        !self.first_line.starts_with("HTTP/")
    }
}

impl Wire {
    pub fn new(stream: impl Stream + 'static) -> Wire {
        Wire { stream: Box::new(stream), read: Vec::new() }
    }

    pub async fn try_connect(addr: SocketAddr) -> io::Result<Wire> {
        let stream = within("connecting", TcpStream::connect(addr)).await?;
        stream.set_nodelay(true)?;
        Ok(Wire::new(stream))
    }

    pub async fn connect(addr: SocketAddr) -> Wire {
        Wire::try_connect(addr).await.unwrap_or_else(|e| panic!("cannot connect to {addr}: {e}"))
    }

    pub async fn connect_unix(path: &Path) -> Wire {
        Wire::new(UnixStream::connect(path).await.unwrap())
    }

    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("sending", self.try_send(bytes)).await.unwrap();
    }

    /// No more will be sent.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Reads more; false at the end.
    async fn fill(&mut self) -> io::Result<bool> {
        let before = self.read.len();
        self.read.reserve(16384);
        self.stream.read_buf(&mut self.read).await?;
        Ok(self.read.len() > before)
    }

    async fn must_fill(&mut self) -> io::Result<()> {
        if self.fill().await? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Exactly `n` bytes.
    pub async fn bytes(&mut self, n: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < n {
            self.must_fill().await?;
        }
        let rest = self.read.split_off(n);
        Ok(std::mem::replace(&mut self.read, rest))
    }

    /// Exactly these bytes, or the test fails.
    pub async fn expect(&mut self, text: &str) {
        let got = within(&format!("reading {text:?}"), self.bytes(text.len())).await;
        assert_eq!(got.map(|b| String::from_utf8_lossy(&b).into_owned()).map_err(|e| e.kind()), Ok(text.to_owned()));
    }

    async fn through(&mut self, mark: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(mark.len()).position(|w| w == mark) {
                return self.bytes(at + mark.len()).await;
            }
            self.must_fill().await?;
        }
    }

    /// The head of a message.
    pub async fn try_head(&mut self) -> io::Result<Message> {
        let head = self.through(b"\r\n\r\n").await?;
        Ok(Message::parse(String::from_utf8_lossy(&head).trim_end()))
    }

    pub async fn head(&mut self) -> Message {
        within("the head of a message", self.try_head()).await.unwrap()
    }

    /// A whole message; an error where its body is cut short.
    pub async fn try_message(&mut self) -> io::Result<Message> {
        let mut message = self.try_head().await?;
        if message.header("transfer-encoding") == "chunked" {
            loop {
                let size = self.through(b"\r\n").await?;
                let size = usize::from_str_radix(String::from_utf8_lossy(&size).trim_end(), 16).unwrap();
                let chunk = self.bytes(size + 2).await?;
                message.body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    return Ok(message);
                }
            }
        } else if let Ok(length) = message.header("content-length").parse() {
            message.body = self.bytes(length).await?;
        } else if !message.is_request() && message.status() >= 200 && message.status() != 304 {
            while self.fill().await? {}
            message.body = std::mem::take(&mut self.read);
        }
        Ok(message)
    }

    pub async fn message(&mut self) -> Message {
        within("a message", self.try_message()).await.unwrap()
    }

    /// GET, and the answer.
    pub async fn get(&mut self, path: &str) -> Message {
        self.request(path, "").await
    }

    /// GET with header lines, and the answer.
    pub async fn request(&mut self, path: &str, headers: &str) -> Message {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n{headers}\r\n")).await;
        self.message().await
    }

    /// Waits for the peer to close the connection, by FIN or RST, and returns what came before.
    pub async fn closed(&mut self) -> Vec<u8> {
        within("the end of the connection", async { while self.fill().await.unwrap_or(false) {} }).await;
        std::mem::take(&mut self.read)
    }
}
