//! A socket that is not watched before it must be.
//!
//! A socket of Tokio's is watched by the reactor from its beginning to its end: each piece that
//! arrives wakes a thread, whether anybody waits for it or not, and who sends pays for the waking.
//! A walsender sends a piece for each row. So this one is read and written without asking first, is
//! watched only when there is nothing to read or no room to write, and not any more when it is told
//! to [rest](QuietSocket::rest).

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{mem, net};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::poll_proceed;

/// The most that one call reads where the socket is not watched: the room for it is filled with
/// zeroes before.
pub(super) const MOST_AT_ONCE: usize = 64 * 1024;

/// A stream of the standard library, in non-blocking mode.
pub(super) trait Plain: Read + Write + Send + Unpin + Sized + 'static {
    /// The same, watched by the runtime's reactor.
    type Watched: AsyncRead + AsyncWrite + Send + Unpin;

    fn watch(self) -> io::Result<Self::Watched>;
    fn release(watched: Self::Watched) -> io::Result<Self>;
    fn shut_down(&self) -> io::Result<()>;
}

impl Plain for net::TcpStream {
    type Watched = tokio::net::TcpStream;

    fn watch(self) -> io::Result<Self::Watched> {
        tokio::net::TcpStream::from_std(self)
    }

    fn release(watched: Self::Watched) -> io::Result<Self> {
        watched.into_std()
    }

    fn shut_down(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Plain for std::os::unix::net::UnixStream {
    type Watched = tokio::net::UnixStream;

    fn watch(self) -> io::Result<Self::Watched> {
        tokio::net::UnixStream::from_std(self)
    }

    fn release(watched: Self::Watched) -> io::Result<Self> {
        watched.into_std()
    }

    fn shut_down(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// See the module. Of use on a runtime alone.
pub(super) struct QuietSocket<S: Plain>(State<S>);

enum State<S: Plain> {
    Resting(S),
    Watched(S::Watched),
    /// It could not be watched, or released, and is closed.
    Gone,
}

impl<S: Plain> QuietSocket<S> {
    /// Takes a connected socket in non-blocking mode.
    pub(super) fn new(socket: S) -> Self {
        Self(State::Resting(socket))
    }

    /// Has it not watched until it is read or written in vain.
    pub(super) fn rest(&mut self) {
        self.0 = match mem::replace(&mut self.0, State::Gone) {
            State::Watched(watched) => S::release(watched).map_or(State::Gone, State::Resting),
            other => other,
        };
    }

    /// Does `work` while the socket rests. `None` once it is watched, which it is where there was
    /// nothing to be done. A task that always finds something to do has to yield now and then.
    fn poll_work<T>(
        &mut self,
        context: &mut Context<'_>,
        mut work: impl FnMut(&mut S) -> io::Result<T>,
    ) -> Poll<Option<io::Result<T>>> {
        while let State::Resting(socket) = &mut self.0 {
            let budget = ready!(poll_proceed(context));
            match work(socket) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let State::Resting(socket) = mem::replace(&mut self.0, State::Gone) {
                        match socket.watch() {
                            Ok(watched) => self.0 = State::Watched(watched),
                            Err(error) => return Poll::Ready(Some(Err(error))),
                        }
                    }
                }
                done => {
                    budget.made_progress();
                    return Poll::Ready(Some(done));
                }
            }
        }
        Poll::Ready(None)
    }

    fn watched(&mut self) -> io::Result<Pin<&mut S::Watched>> {
        match &mut self.0 {
            State::Watched(watched) => Ok(Pin::new(watched)),
            State::Resting(_) | State::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl<S: Plain> AsyncRead for QuietSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.remaining().min(MOST_AT_ONCE);
        match ready!(self.poll_work(context, |socket| socket.read(buffer.initialize_unfilled_to(room)))) {
            Some(read) => Poll::Ready(read.map(|bytes| buffer.advance(bytes))),
            None => self.watched()?.poll_read(context, buffer),
        }
    }
}

impl<S: Plain> AsyncWrite for QuietSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(self.poll_work(context, |socket| socket.write(bytes))) {
            Some(written) => Poll::Ready(written),
            None => self.watched()?.poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What is written is with the kernel.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            State::Resting(socket) => Poll::Ready(socket.shut_down()),
            State::Watched(watched) => Pin::new(watched).poll_shutdown(context),
            State::Gone => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinSet;
    use tokio::time::timeout;

    use super::*;

    fn pair() -> (QuietSocket<UnixStream>, QuietSocket<UnixStream>) {
        let (one, other) = UnixStream::pair().unwrap();
        for socket in [&one, &other] {
            socket.set_nonblocking(true).unwrap();
        }
        (QuietSocket::new(one), QuietSocket::new(other))
    }

    #[tokio::test]
    async fn what_comes_before_while_and_after_it_rests_is_read() {
        let (mut ours, mut theirs) = pair();
        theirs.write_all(b"early").await.unwrap();
        let mut buffer = [0; 5];
        ours.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"early");
        assert!(matches!(ours.0, State::Resting(_)), "there was something at once");
        for round in 0u8..3 {
            let waiting = timeout(Duration::from_millis(20), ours.read_u8()).await;
            assert!(waiting.is_err(), "nothing was sent");
            assert!(matches!(ours.0, State::Watched(_)));
            let (read, sent) = tokio::join!(timeout(Duration::from_secs(5), ours.read_u8()), async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                theirs.write_u8(round).await
            });
            sent.unwrap();
            assert_eq!(read.unwrap().unwrap(), round);
            ours.rest();
            assert!(matches!(ours.0, State::Resting(_)));
            theirs.write_u8(round).await.unwrap();
            assert_eq!(ours.read_u8().await.unwrap(), round);
        }
        theirs.shutdown().await.unwrap();
        assert_eq!(ours.read(&mut buffer).await.unwrap(), 0);
    }

    /// On one thread: a reader that always finds something leaves others their turn.
    #[tokio::test]
    async fn a_busy_socket_lets_others_run() {
        let (mut ours, mut theirs) = pair();
        theirs.write_all(&[7; 4096]).await.unwrap();
        let mut others = JoinSet::new();
        others.spawn(async {});
        let mut reads = 0;
        while others.try_join_next().is_none() {
            assert_eq!(ours.read_u8().await.unwrap(), 7);
            reads += 1;
        }
        assert!(reads < 1000, "{reads}");
    }

    #[tokio::test]
    async fn more_than_there_is_room_for_is_written_as_it_is_read() {
        let (mut ours, mut theirs) = pair();
        let sent: Vec<u8> = (0..3_000_000u32).map(|number| number as u8).collect();
        let mut found = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(theirs.write_all(&sent), ours.read_exact(&mut found));
        wrote.unwrap();
        read.unwrap();
        assert!(sent == found);
    }
}
