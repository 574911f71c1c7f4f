//! Reading the answers of requests that plugins send themselves. The surprise: one body may be longer than what is kept of it;
//! the rest is read and forgotten, so that the connection ends cleanly.
use sluice_http::Response;
use sluice_http::h1::{BodyReader, parse_response};
use sluice_net::Stream;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

/// Largest head of an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;
const PIECE: usize = 16 * 1024;

/// One answer.
#[derive(Debug, Default)]
pub struct Answer {
    pub head: Response,
    pub body: Vec<u8>,
    /// The body was longer than what was to be kept.
    pub cut: bool,
}

/// Reads the answers on one connection, in order.
#[derive(Default)]
pub struct Answers {
    /// Bytes read and not consumed.
    buffered: Vec<u8>,
}

impl Answers {
    /// Reads the next answer. `limit` is between two reads; `keep` is the most body bytes that are kept.
    pub async fn next<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        to_head: bool,
        limit: Duration,
        keep: usize,
    ) -> io::Result<Answer> {
        let mut answer = Answer::default();
        loop {
            match parse_response(&self.buffered, MAX_HEAD, to_head, &mut answer.head) {
                Ok(Some(head)) => {
                    self.buffered.drain(..head);
                    if !answer.head.is_interim() {
                        break;
                    }
                }
                Ok(None) => {
                    if self.fill(stream, limit).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e.to_string())),
            }
        }
        let mut reader = BodyReader::new(answer.head.framing);
        while !reader.is_done() {
            if self.buffered.is_empty() && self.fill(stream, limit).await? == 0 {
                reader.end_of_input().map_err(|_| io::ErrorKind::UnexpectedEof)?;
                break;
            }
            let malformed = |_| io::Error::from(io::ErrorKind::InvalidData);
            if answer.cut {
                let used = reader.scan(&self.buffered).map_err(malformed)?;
                self.buffered.drain(..used);
                continue;
            }
            let used = reader.decode(&self.buffered, &mut answer.body).map_err(malformed)?;
            self.buffered.drain(..used);
            if answer.body.len() > keep {
                answer.body.truncate(keep);
                answer.cut = true;
            }
        }
        Ok(answer)
    }

    async fn fill<S: AsyncRead + Unpin>(&mut self, stream: &mut S, limit: Duration) -> io::Result<usize> {
        self.buffered.reserve(PIECE);
        timeout(limit, stream.read_buf(&mut self.buffered))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Writes all, within `limit`.
pub async fn write_all(stream: &mut Stream, bytes: &[u8], limit: Duration) -> io::Result<()> {
    use tokio::io::AsyncWriteExt;
    let write = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    timeout(limit, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::testing::block_on;

    const LIMIT: Duration = Duration::from_secs(5);

    fn read(wire: &[u8], to_head: &[bool], keep: usize) -> Vec<io::Result<Answer>> {
        block_on(async {
            let (mut stream, mut answers) = (wire, Answers::default());
            let mut all = Vec::new();
            for head in to_head {
                all.push(answers.next(&mut stream, *head, LIMIT, keep).await);
            }
            all
        })
    }

    #[test]
    fn answers_follow_each_other() {
        let wire = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab\
            HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ncde\r\n0\r\n\r\n\
            HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 201 Created\r\nConnection: close\r\n\r\nrest";
        let all = read(wire, &[false, false, true, false, false], 100);
        let seen = |i: usize| all[i].as_ref().map(|a| (a.head.status, a.body.as_slice())).ok();
        assert_eq!(seen(0), Some((200, &b"ab"[..])));
        assert_eq!(seen(1), Some((404, &b"cde"[..])));
        assert_eq!(seen(2), Some((200, &b""[..])));
        assert_eq!(seen(3), Some((201, &b"rest"[..])));
        assert!(all[4].is_err());
    }

    #[test]
    fn what_is_not_kept_is_skipped() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcdHTTP/1.1 204 No Content\r\n\r\n";
        let all = read(wire, &[false, false], 2);
        let first = all[0].as_ref().unwrap();
        assert_eq!((first.body.as_slice(), first.cut), (&b"ab"[..], true));
        assert_eq!(all[1].as_ref().unwrap().head.status, 204);
    }

    #[test]
    fn a_broken_answer_is_an_error() {
        for wire in [&b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab"[..], b"nonsense\r\n\r\n", b"HTTP/1.1 200"] {
            assert!(read(wire, &[false], 100)[0].is_err());
        }
    }
}
