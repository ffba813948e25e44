use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A server that answers each request with its body, and counts them.
fn echo() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut read, mut buffer) = (Vec::new(), [0; 1024]);
            let body = loop {
                let n = stream.read(&mut buffer).unwrap();
                read.extend_from_slice(&buffer[..n]);
                let text = String::from_utf8(read.clone()).unwrap();
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    continue;
                };
                assert!(head.ends_with("Connection: close"), "{head}");
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
                if body.len() == length.map_or(0, |length| length.parse().unwrap()) {
                    break body.to_owned();
                }
            };
            count.fetch_add(1, Ordering::SeqCst);
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .unwrap();
        }
    });
    (address, seen)
}

fn ask(proxy: &FaultProxy, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut answer = String::new();
    let sent = write!(
        stream,
        "{head} HTTP/1.1\r\nConnection: keep-alive\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    // In two pieces, as a client may.
    .and_then(|()| stream.write_all(body.as_bytes()))
    .and_then(|()| stream.read_to_string(&mut answer));
    // A connection that was cut reads as nothing.
    sent.map(|_| answer).unwrap_or_default()
}

#[test]
fn requests_pass_whole() {
    let (upstream, seen) = echo();
    let proxy = FaultProxy::start(upstream).unwrap();
    let body = "x".repeat(100_000);
    assert!(ask(&proxy, "PUT /a", &body).ends_with(&format!("\r\n\r\n{body}")));
    assert!(ask(&proxy, "GET /a", "").starts_with("HTTP/1.1 200"));
    assert_eq!((seen.load(Ordering::SeqCst), proxy.tally().passed), (2, 2));
}

#[test]
fn an_unavailable_server_sees_nothing_and_only_of_the_chosen_kind() {
    let (upstream, seen) = echo();
    let proxy = FaultProxy::start(upstream).unwrap();
    proxy.inject(Which::Writes, Fault::Unavailable, 1);
    proxy.inject(Which::ConditionalCreates, Fault::Unavailable, 1);
    assert!(ask(&proxy, "GET /a", "").starts_with("HTTP/1.1 200"));
    let refused = ask(&proxy, "PUT /a", "body");
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{refused}");
    assert!(ask(&proxy, "PUT /a", "body").starts_with("HTTP/1.1 200"));
    assert!(ask(&proxy, "PUT /a HTTP/1.1\r\nIf-None-Match: *\r\nX:", "").starts_with("HTTP/1.1 503"));
    assert_eq!((seen.load(Ordering::SeqCst), proxy.tally().unavailable), (2, 2));
}

#[test]
fn a_lost_reply_belongs_to_a_request_that_was_carried_out() {
    let (upstream, seen) = echo();
    let proxy = FaultProxy::start(upstream).unwrap();
    proxy.inject(Which::Any, Fault::LostReply, 1);
    assert_eq!(ask(&proxy, "PUT /a", "body"), "");
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    assert!(ask(&proxy, "PUT /a", "body").ends_with("body"));
    proxy.inject(Which::Any, Fault::LostReply, 1);
    proxy.calm();
    assert!(ask(&proxy, "PUT /a", "body").ends_with("body"));
}

#[test]
fn a_false_success_hides_what_the_server_said() {
    let (upstream, seen) = echo();
    let proxy = FaultProxy::start(upstream).unwrap();
    proxy.inject(Which::Writes, Fault::FalseSuccess, 1);
    let answer = ask(&proxy, "PUT /a", "body");
    assert!(
        answer.starts_with("HTTP/1.1 200") && !answer.ends_with("body"),
        "{answer}"
    );
    assert_eq!((seen.load(Ordering::SeqCst), proxy.tally().false_successes), (1, 1));
}

#[test]
fn a_cut_ends_connections_until_it_is_mended() {
    let (upstream, seen) = echo();
    let proxy = FaultProxy::start(upstream).unwrap();
    let mut waiting = TcpStream::connect(proxy.address()).unwrap();
    waiting.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    waiting.write_all(b"GET / HTT").unwrap();
    // Time for the connection to be taken.
    std::thread::sleep(Duration::from_millis(50));
    proxy.cut();
    assert!(waiting.read_to_string(&mut String::new()).map_or(true, |n| n == 0));
    assert_eq!(ask(&proxy, "GET /a", ""), "");
    proxy.mend();
    assert!(ask(&proxy, "GET /a", "").starts_with("HTTP/1.1 200"));
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}
