//! Reads a replication slot to a place in the log and throws the bytes away: the fastest that any
//! reader of this server can be.
//!
//! It leaves the socket alone for a millisecond after a small read: the walsender sends a message
//! for each row, and a reader that wakes for each of them is what the server then waits for.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

/// After a read of less than this the socket is left alone.
const SMALL_READ: usize = 16 * 1024;
const PAUSE: Duration = Duration::from_millis(1);
/// How often the server hears of us.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// PostgreSQL manual, 55.2.
const PROTOCOL: u32 = 196_608;

/// Drains a slot of pgoutput on a server that trusts us.
#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    port: u16,
    #[arg(long)]
    slot: String,
    #[arg(long)]
    publication: String,
    /// Stop at the first message of this place in the log or later, as `0/1A2B3C`.
    #[arg(long)]
    until: String,
    /// Do not leave the socket alone.
    #[arg(long)]
    eager: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let until = parse_lsn(&arguments.until)?;
    let mut socket = TcpStream::connect(("127.0.0.1", arguments.port))?;
    socket.set_nodelay(true)?;
    let parameters = b"user\0postgres\0database\0postgres\0replication\0database\0\0";
    let length = u32::try_from(8 + parameters.len())?;
    socket.write_all(&[&length.to_be_bytes()[..], &PROTOCOL.to_be_bytes(), parameters].concat())?;
    let mut reader = Frames::default();
    reader.skip_to(&mut socket, b'Z')?;
    let command = format!(
        "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names '{}', binary 'true')\0",
        arguments.slot, arguments.publication
    );
    send(&mut socket, b'Q', command.as_bytes())?;
    reader.skip_to(&mut socket, b'W')?;
    let (mut told, mut bytes, mut reads) = (Instant::now(), 0u64, 0u64);
    loop {
        while let Some((tag, body)) = reader.next() {
            match (tag, body) {
                // XLogData: where it starts, the end of the log, the server's clock, the message.
                (b'd', [b'w', start @ ..]) if lsn_at(start)? >= until => {
                    println!("{{\"bytes\": {bytes}, \"reads\": {reads}}}");
                    return Ok(());
                }
                (b'd', [b'k', keepalive @ ..]) if keepalive.get(16) == Some(&1) => {
                    told = Instant::now();
                    send(&mut socket, b'd', &status())?;
                }
                (b'E', message) => bail!("{}", String::from_utf8_lossy(message)),
                _ => {}
            }
        }
        let read = reader.fill(&mut socket)?;
        (bytes, reads) = (bytes + read as u64, reads + 1);
        if told.elapsed() > STATUS_EVERY {
            told = Instant::now();
            send(&mut socket, b'd', &status())?;
        }
        if read < SMALL_READ && !arguments.eager {
            sleep(PAUSE);
        }
    }
}

/// A standby status update that confirms nothing.
fn status() -> Vec<u8> {
    [&b"r"[..], &[0; 33]].concat()
}

fn send(socket: &mut TcpStream, tag: u8, body: &[u8]) -> Result<()> {
    let length = u32::try_from(body.len() + 4)?;
    socket.write_all(&[&[tag], &length.to_be_bytes()[..], body].concat())?;
    Ok(())
}

fn parse_lsn(text: &str) -> Result<u64> {
    let (high, low) = text.split_once('/').context("a place in the log is `X/Y`")?;
    Ok(u64::from_str_radix(high, 16)? << 32 | u64::from_str_radix(low, 16)?)
}

fn lsn_at(body: &[u8]) -> Result<u64> {
    let bytes = body.get(..8).context("a short message")?;
    Ok(u64::from_be_bytes(bytes.try_into()?))
}

/// The server's messages, each whole.
struct Frames {
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            buffer: vec![0; 1 << 20],
            from: 0,
            to: 0,
        }
    }
}

impl Frames {
    /// Waits for bytes and takes all that are there.
    fn fill(&mut self, socket: &mut TcpStream) -> Result<usize> {
        self.buffer.copy_within(self.from..self.to, 0);
        (self.from, self.to) = (0, self.to - self.from);
        if self.to == self.buffer.len() {
            self.buffer.resize(self.to * 2, 0);
        }
        let read = socket.read(&mut self.buffer[self.to..])?;
        ensure!(read > 0, "the server hung up");
        self.to += read;
        Ok(read)
    }

    /// The tag and body of the next message that is there.
    fn next(&mut self) -> Option<(u8, &[u8])> {
        let there = &self.buffer[self.from..self.to];
        let length = u32::from_be_bytes(there.get(1..5)?.try_into().ok()?) as usize;
        let message = there.get(..=length)?;
        self.from += message.len();
        Some((message[0], &message[5..]))
    }

    fn skip_to(&mut self, socket: &mut TcpStream, wanted: u8) -> Result<()> {
        loop {
            while let Some((tag, body)) = self.next() {
                ensure!(tag != b'E', "{}", String::from_utf8_lossy(body));
                if tag == wanted {
                    return Ok(());
                }
            }
            self.fill(socket)?;
        }
    }
}
