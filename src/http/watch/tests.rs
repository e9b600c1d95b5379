use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frame::Scanner;
use super::stream::PREFACE_LENGTH;
use super::*;
use crate::net::Io;

fn options() -> Http2Options {
    Http2Options {
        hpack_table_size: 4096,
        max_concurrent_streams: 10,
        initial_stream_window: 65_535,
        initial_connection_window: 65_535,
        allow_connect: false,
        max_outbound_frames: 10_000,
        max_outbound_control_frames: 20,
        max_consecutive_empty_frames: 1,
        max_priority_frames_per_stream: 3,
        max_window_updates_per_data_frame: 2,
        stream_error: false,
        keepalive: None,
    }
}

fn frame(kind: u8, flags: u8, stream: u32, length: u32) -> Frame {
    Frame { length, kind, flags, stream, ..Frame::default() }
}

/// A connection that has begun as it should.
fn begun(options: Http2Options) -> Rc<Watch> {
    let watch = Watch::new(&options);
    watch.received(frame(SETTINGS, 0, 0, 0));
    watch
}

fn repeat(watch: &Watch, n: usize, what: Frame) -> Option<&'static str> {
    for _ in 0..n {
        watch.received(what);
    }
    watch.settle();
    watch.error()
}

#[test]
fn finds_frames_however_the_bytes_are_cut() {
    let mut bytes = vec![b'x'; 24];
    bytes.extend_from_slice(b"\0\0\x05\0\x01\0\0\0\x03hello");
    bytes.extend_from_slice(b"\0\0\x04\x03\0\x80\0\0\x07\0\0\0\x01");
    bytes.extend_from_slice(b"\0\0\x0a\x07\0\0\0\0\0\0\0\0\x05\0\0\0\x0bhi");
    bytes.extend_from_slice(b"\0\0\x01\x03\0\0\0\0\x09z");
    let expected = [
        frame(DATA, 1, 3, 5),
        Frame { code: 1, ..frame(RST_STREAM, 0, 7, 4) },
        Frame { code: 11, ..frame(GOAWAY, 0, 0, 10) },
    ];
    for cut in 1..bytes.len() {
        let mut scanner = Scanner::new(PREFACE_LENGTH);
        let mut found = Vec::new();
        for part in bytes.chunks(cut) {
            scanner.feed(part, |f, _| found.push(f));
        }
        assert_eq!(found.len(), 4, "cut at {cut}");
        assert_eq!(found.get(..3), Some(&expected[..]), "cut at {cut}");
    }
}

#[test]
fn empty_frames_in_a_row_are_bounded() {
    let watch = begun(options());
    let empty = frame(DATA, 0, 1, 0);
    watch.received(empty);
    watch.received(frame(DATA, 0, 1, 3));
    assert_eq!(repeat(&watch, 1, empty), None);
    assert_eq!(repeat(&watch, 1, empty), Some(EMPTY_FLOOD));
    // The end of a body is no attack.
    assert_eq!(repeat(&begun(options()), 5, frame(DATA, END_STREAM, 1, 0)), None);
}

#[test]
fn priorities_are_bounded_by_streams() {
    let watch = begun(options());
    watch.received(frame(HEADERS, END_HEADERS, 1, 5));
    let priority = frame(PRIORITY, 0, 1, 5);
    assert_eq!(repeat(&watch, 6, priority), None);
    assert_eq!(repeat(&watch, 1, priority), Some(PRIORITY_FLOOD));
}

#[test]
fn window_updates_are_bounded_by_data_sent() {
    let watch = begun(options());
    watch.sends(frame(DATA, 0, 1, 5));
    let update = frame(WINDOW_UPDATE, 0, 0, 4);
    assert_eq!(repeat(&watch, 9, update), None);
    assert_eq!(repeat(&watch, 1, update), Some(WINDOW_FLOOD));
}

#[test]
fn pings_without_anything_else_are_bounded() {
    let ping = frame(PING, 0, 0, 8);
    let watch = begun(options());
    for _ in 0..10 {
        repeat(&watch, 10, ping);
        watch.sends(frame(DATA, 0, 1, 5));
    }
    assert_eq!(repeat(&watch, 10, frame(PING, ACK, 0, 8)), None);
    assert_eq!(repeat(&watch, 21, ping), Some(CONTROL_FLOOD));
}

#[test]
fn a_refused_message_ends_the_connection_unless_configured_otherwise() {
    let reset = Frame { code: PROTOCOL_ERROR, ..frame(RST_STREAM, 0, 3, 4) };
    let watch = begun(options());
    watch.received(frame(HEADERS, END_HEADERS, 1, 5));
    watch.received(frame(HEADERS, END_HEADERS, 3, 5));
    watch.accepted(1);
    watch.sends(Frame { stream: 1, ..reset });
    assert!(!watch.settle());
    assert_eq!(watch.error(), None, "a stream that was handed over is reset by whoever has it");
    watch.sends(reset);
    assert!(watch.held() && watch.settle());
    assert_eq!(watch.error(), Some(INVALID_HEADER));
    assert_eq!(watch.take_refused(), Some(Refused { details: INVALID_HEADER, protocol: true }));
    assert_eq!((watch.take_refused(), watch.take_unseen()), (None, None));

    let watch = begun(Http2Options { stream_error: true, ..options() });
    watch.received(frame(HEADERS, END_HEADERS, 3, 5));
    watch.sends(reset);
    assert!(watch.settle());
    assert_eq!(watch.error(), None);
    assert_eq!(watch.take_refused(), Some(Refused { details: INVALID_HEADER, protocol: true }));
    assert_eq!(watch.take_refused(), None);
}

#[test]
fn the_codecs_own_answer_is_logged_as_a_limit() {
    let watch = begun(options());
    watch.received(frame(HEADERS, END_HEADERS, 1, 5));
    watch.sends(frame(HEADERS, END_HEADERS, 1, 5));
    assert_eq!(watch.take_refused(), Some(Refused { details: TOO_LARGE, protocol: false }));
}

#[test]
fn settings_come_first() {
    let watch = Watch::new(&options());
    watch.received(frame(HEADERS, END_HEADERS, 1, 5));
    assert_eq!(watch.error(), Some(NO_SETTINGS));
    assert_eq!(watch.take_unseen(), None, "there is no request yet to log");
}

#[test]
fn a_stream_reset_for_its_body_is_left_to_its_owner() {
    let watch = begun(options());
    watch.received(frame(HEADERS, END_HEADERS, 1, 5));
    watch.received(frame(DATA, END_STREAM, 1, 3));
    watch.sends(Frame { code: PROTOCOL_ERROR, ..frame(RST_STREAM, 0, 1, 4) });
    assert!(watch.held());
    watch.accepted(1);
    assert!(!watch.held() && !watch.settle());
    assert_eq!(watch.error(), None);
}

#[test]
fn what_a_goodbye_means_depends_on_what_came_last() {
    let goodbye = |frames: &[Frame], code| {
        let watch = begun(options());
        for f in frames {
            watch.received(*f);
        }
        watch.sends(Frame { code, ..frame(GOAWAY, 0, 0, 8) });
        watch.error()
    };
    let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, 5);
    let ack = frame(SETTINGS, ACK, 0, 0);
    assert_eq!(goodbye(&[head, ack], 1), Some(INVALID_HEADER));
    assert_eq!(goodbye(&[head, head], 1), Some(UNKNOWN_ERROR));
    assert_eq!(goodbye(&[head], ENHANCE_YOUR_CALM), Some(TOO_LARGE));
    let reset = [frame(RST_STREAM, 0, 1, 4); MANY_RESETS as usize];
    assert_eq!(goodbye(&[&reset[..], &[head]].concat(), ENHANCE_YOUR_CALM), Some(CODEC_ERROR));
    assert_eq!(goodbye(&[head, frame(DATA, 0, 1, 5)], 1), Some(CODEC_ERROR));
    assert_eq!(goodbye(&[frame(HEADERS, 0, 1, 5), frame(PING, 0, 0, 8)], 1), Some(CODEC_ERROR));
    assert_eq!(goodbye(&[frame(CONTINUATION, END_HEADERS, 1, 5)], 1), Some(CODEC_ERROR));
    assert_eq!(goodbye(&[head], 0), None);
}

#[test]
fn a_refused_head_is_logged_though_later_streams_are_handed_over() {
    let watch = begun(options());
    watch.received(frame(HEADERS, END_HEADERS | END_STREAM, 1, 5));
    watch.received(frame(HEADERS, END_HEADERS | END_STREAM, 3, 5));
    watch.sends(Frame { code: PROTOCOL_ERROR, ..frame(RST_STREAM, 0, 1, 4) });
    watch.accepted(3);
    assert!(watch.settle());
    assert_eq!(watch.error(), Some(INVALID_HEADER));
    assert_eq!(watch.take_refused(), Some(Refused { details: INVALID_HEADER, protocol: true }));
}

#[tokio::test]
async fn the_last_stream_is_named_when_it_is_time_however_the_bytes_are_cut() {
    // So much fits on the way: the codec's writes, and its question in them, come to pieces.
    for room in [1, 5, 16, 17, 30, 4096] {
        let (client, server) = tokio::io::duplex(room);
        let (mut from_server, mut to_server) = tokio::io::split(client);
        let watch = Watch::new(&options());
        let io = Watched::new(Io::Pipe(server), watch.clone(), None);
        let (named, client_done) = (watch.clone(), Rc::new(tokio::sync::Notify::new()));
        let announced = client_done.clone();
        let serve = async move {
            let mut h2 = h2::server::Builder::new().handshake::<_, Bytes>(io).await.unwrap();
            h2.graceful_shutdown();
            tokio::select! {
                end = h2.accept() => panic!("the connection ended: {:?}", end.is_some()),
                () = announced.notified() => named.name_last_stream(),
            }
            assert!(h2.accept().await.is_none());
        };
        let begin = to_server.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
        let read = async move {
            let (mut scanner, mut frames) = (Scanner::new(0), Vec::new());
            loop {
                let mut bytes = [0; 64];
                let n = from_server.read(&mut bytes).await.unwrap();
                scanner.feed(&bytes[..n], |frame, _| frames.push(frame.kind));
                if n == 0 {
                    return frames;
                }
                if frames.contains(&GOAWAY) {
                    client_done.notify_one();
                }
            }
        };
        let all = async { tokio::join!(serve, begin, read) };
        let ((), begun, frames) = tokio::time::timeout(Duration::from_secs(10), all).await.expect("it ends");
        begun.unwrap();
        let after: Vec<_> = frames.into_iter().filter(|&kind| kind != SETTINGS && kind != WINDOW_UPDATE).collect();
        assert_eq!(after, [GOAWAY, GOAWAY], "room for {room}");
        assert!(watch.is_parting());
    }
}
