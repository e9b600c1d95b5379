//! The admin thread over a socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use waypost_filters::access_log::Sink;

use super::super::{AdminConfig, StatsConfig, start};
use super::state_with;

#[derive(Debug, Default)]
struct Lines(Mutex<Vec<u8>>);

impl Sink for Lines {
    fn line(&self, write: &mut dyn FnMut(&mut Vec<u8>)) {
        write(&mut self.0.lock().unwrap());
    }
}

fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_thread_of_its_own_answers_until_it_is_told_to_quit() {
    let path = std::env::temp_dir().join(format!("waypost-admin-address-{}", std::process::id()));
    let args = ["--admin-address-path", path.to_str().unwrap()];
    let state = state_with(&args, StatsConfig::compile(None, &[]).unwrap());
    let lines = Arc::new(Lines::default());
    let config = AdminConfig { address: SocketAddr::from(([127, 0, 0, 1], 0)), access_log: vec![lines.clone()] };
    let (thread, address) = start(config, state.clone()).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), address.to_string());
    std::fs::remove_file(&path).unwrap();

    let answer = exchange(address, "GET /ready?x HTTP/1.1\r\nhost: a\r\nuser-agent: t\r\nconnection: close\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let start = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=UTF-8\r\ncache-control: no-cache, max-age=0\r\n\
                 x-content-type-options: nosniff\r\nserver: envoy\r\n";
    assert!(head.starts_with(start), "{head}");
    assert_eq!(body, "LIVE\n");
    let logged = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let (time, rest) = logged.split_once("] ").unwrap();
    assert_eq!(time.len(), "[2026-11-22T16:56:59.392Z".len());
    assert!(
        rest.starts_with("\"GET /ready?x HTTP/1.1\" 200 - 0 5 0 - \"127.0.0.1\" \"t\" \"-\" \"a\" \"-\"\n"),
        "{rest}"
    );

    let head = exchange(address, "HEAD /stats HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    // A form carries parameters too.
    let form = "POST /logging HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\n\
                content-length: 11\r\n\r\nlevel=error";
    assert!(exchange(address, form).contains("  admin: error\n"));
    assert!(exchange(address, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));

    let answer = exchange(address, "POST /quitquitquit HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    assert!(answer.ends_with("\r\n\r\nOK\n"), "{answer}");
    thread.join().unwrap();
}
